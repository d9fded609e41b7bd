//! Measures detection: `make bench-pass`, or
//! `cargo run --release --example detect_figures [-- DIRECTORY]`.
//!
//! Fills a store through the code that ingest uses (rollups included) with ten million records
//! of one hour, and passes over that hour. Each figure is taken after its result was checked.
//! The directory should lie on the disk that matters; the files are deleted at the end.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipwarden::decisions::Revision;
use ipwarden::record::{Batch, BatchHeader, Record, Verdict, wire};
use ipwarden_control_plane::clock::Clock;
use ipwarden_control_plane::detect::feed::Feed;
use ipwarden_control_plane::detect::pass::{Settings, rules as pass};
use ipwarden_control_plane::detect::{Detectors, Flag, FlagSink, Observation, Rules};
use ipwarden_control_plane::geo::{Geo, Spot};
use ipwarden_control_plane::ingest::Ingest;
use ipwarden_control_plane::live::Live;
use ipwarden_control_plane::metrics::Metrics;
use ipwarden_control_plane::privacy::{Kept, Veil};
use ipwarden_control_plane::store::sqlite::{SqliteLog, SqliteState};
use ipwarden_control_plane::store::{IncomingBatch, LogStore, PassDone, StateStore};
use ipwarden_control_plane::suspects::Sighting;
use jiff::Timestamp;

const HOUR: i64 = 490_000;
const RECORDS: u64 = 10_000_000;
const ADDRESSES: u64 = 200_000;
const BATCH_RECORDS: u64 = 10_000;
const INGEST_BATCHES: u64 = 1_000;
const INGEST_RECORDS: u64 = 500;

#[tokio::main]
async fn main() {
    let parent = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let files = tempfile::tempdir_in(parent).expect("the directory can be written to");
    observe();
    for round in 0..3 {
        for with in [false, true] {
            ingest(&files.path().join(format!("ingest-{round}-{with}.db")), with).await;
        }
    }
    pass_over(files.path()).await;
}

/// The detectors alone, on one thread.
fn observe() {
    let texts: Vec<Texts> = (0..1_000_000).map(Texts::new).collect();
    let mut detectors = Detectors::new(Rules::default_rules());
    let start = now();
    let mut flags = 0;
    for text in &texts {
        let record = text.record(text.n);
        let seen = Observation::of_record(&record).expect("it has an address");
        flags += detectors.observe(&seen).len();
    }
    told("detectors: 1 000 000 requests", start.elapsed(), 1_000_000);
    println!("{:>44}  {flags} flags, {} MiB", "", detectors.bytes() / 1_048_576);
}

/// Batches as a proxy sends them, through the queue into the store, with detectors or without.
async fn ingest(path: &Path, with: bool) {
    struct Nowhere;
    impl FlagSink for Nowhere {
        fn flag(&self, _: Vec<Flag>) {}
    }
    let bodies: Vec<Bytes> = (0..INGEST_BATCHES)
        .map(|number| {
            let texts: Vec<Texts> =
                (0..INGEST_RECORDS).map(|n| Texts::new(number * INGEST_RECORDS + n)).collect();
            let (mut encoded, mut previous) = (Vec::new(), start_us());
            for text in &texts {
                let record = text.record(text.n);
                wire::put_record(&mut encoded, previous, &record);
                previous = record.time_us;
            }
            wire::encode(&header(number + 1), start_us(), texts.len() as u32, &encoded).into()
        })
        .collect();
    let log: Arc<dyn LogStore> = Arc::new(SqliteLog::open(path).expect("a new file opens"));
    let metrics = Arc::new(Metrics::new());
    let (feed, watcher) =
        Feed::start(None, Arc::new(Nowhere), Clock::system(), Arc::clone(&metrics))
            .expect("the rules are in order");
    let geo = Geo::new(path.with_extension("geo"), Vec::new());
    let (ingest, writer) = Ingest::start(
        Arc::clone(&log),
        Live::new(1),
        geo,
        with.then(|| feed.clone()),
        metrics,
        64 * 1024 * 1024,
        false,
    )
    .expect("a thread starts");
    let start = now();
    let sending = bodies.into_iter().map(|body| {
        let ingest = ingest.clone();
        async move { ingest.submit(body, Timestamp::now()).await.is_ok() }
    });
    let mut taken = 0;
    let mut under_way = futures_util::stream::FuturesUnordered::new();
    for one in sending {
        under_way.push(one);
        if under_way.len() >= 32 {
            taken += u64::from(futures_util::StreamExt::next(&mut under_way).await == Some(true));
        }
    }
    while let Some(fine) = futures_util::StreamExt::next(&mut under_way).await {
        taken += u64::from(fine);
    }
    assert_eq!(taken, INGEST_BATCHES);
    let words = if with { "ingest with detectors" } else { "ingest without detectors" };
    told(words, start.elapsed(), INGEST_BATCHES * INGEST_RECORDS);
    ingest.stop().await;
    writer.finish().await;
    feed.stop();
    watcher.finish().await;
}

/// The hourly pass over ten million records of an hour.
async fn pass_over(directory: &Path) {
    let sensitive = vec!["/admin".to_owned(), "/login".to_owned()];
    let log = SqliteLog::open_with(&directory.join("log.db"), sensitive).expect("a new file opens");
    let state = SqliteState::open(&directory.join("state.db")).expect("a new file opens");
    let start = now();
    for number in 0..RECORDS / BATCH_RECORDS {
        let texts: Vec<Texts> =
            (0..BATCH_RECORDS).map(|n| Texts::new(number * BATCH_RECORDS + n)).collect();
        // Few make many requests, many make few.
        let records = texts.iter().map(|text| text.record(skewed(text.n))).collect();
        store(&log, number + 1, records).await;
    }
    told("store: append with rollups", start.elapsed(), RECORDS);
    // A site that makes so many goes on in the next hour before the pass begins.
    let next = Texts::new(RECORDS);
    let record = Record { time_us: start_us() + 3_600_000_000, ..next.record(0) };
    store(&log, RECORDS / BATCH_RECORDS + 1, vec![record]).await;
    let settings = Settings::default();
    let least = settings.forest_requests.min(settings.hourly_requests + 1);
    for round in 0..3 {
        let before = resident_mib();
        let start = now();
        let rollups = log.rollups(HOUR, least).await.expect("they are read");
        let read = start.elapsed();
        assert_eq!(rollups.requests, RECORDS);
        let (addresses, looked_at) = (rollups.addresses, rollups.rollups.len());
        let targets = pass::compared_targets(&rollups, &settings);
        let hours = pass::compared_hours(HOUR);
        let names = targets
            .iter()
            .map(|target| vec![Kept { ip: target.addr(), veil: Veil::NONE }])
            .collect();
        let past = log.past_hours(hours, names).await.expect("they are read");
        let nowhere = |_| None;
        let flags = pass::flags(HOUR, &rollups, &targets, &past, &settings, &nowhere);
        let judged = start.elapsed();
        let count = flags.len();
        let sightings: Vec<Sighting> =
            flags.into_iter().map(|flag| Sighting { flag, place: Spot::default() }).collect();
        let done = PassDone {
            // The flags of a second round would only add to the suspects of the first.
            hour: HOUR + round,
            finished_at: Timestamp::UNIX_EPOCH,
            addresses,
            requests: RECORDS,
            flagged: count as u64,
        };
        state.finish_pass(done, sightings, Timestamp::UNIX_EPOCH).await.expect("it is noted");
        let all = start.elapsed();
        println!(
            "{:>44}  {all:?}: {addresses} addresses, {looked_at} looked at and read in {read:?}, judged in {:?}, {count} flags noted in {:?}; {} MiB resident, {} MiB more than before, {} MiB at most",
            "pass over 10 000 000 records of an hour",
            judged.saturating_sub(read),
            all.saturating_sub(judged),
            resident_mib(),
            resident_mib().saturating_sub(before),
            peak_mib(),
        );
    }
}

async fn store(log: &SqliteLog, number: u64, records: Vec<Record<'_>>) {
    let incoming = IncomingBatch {
        batch: Batch { header: header(number), records },
        received_at: Timestamp::UNIX_EPOCH,
        store_query: false,
        places: Vec::new(),
    };
    log.append(&[incoming]).await.expect("it is stored");
}

/// The parts of a record that differ from one to the next.
struct Texts {
    n: u64,
    path: String,
    query: String,
    user_agent: String,
}

impl Texts {
    fn new(n: u64) -> Self {
        let a = scatter(n);
        let path = match n % 200 {
            0 => format!("/rare/{n}/of/its/own"),
            1 => "/login".to_owned(),
            2..=40 => format!("/static/app-{}.js", a % 50),
            _ => format!("/shop/item/{}", a % 5_000),
        };
        let query =
            if n.is_multiple_of(3) { format!("page={}&sort=price", a % 30) } else { String::new() };
        let version = 100 + a % 40;
        let user_agent = format!(
            "Mozilla/5.0 (X11; Linux x86_64; rv:{version}.0) Gecko/20100101 Firefox/{version}.0"
        );
        Self { n, path, query, user_agent }
    }

    fn record(&self, address_of: u64) -> Record<'_> {
        Record {
            // Ten million fit into the hour.
            time_us: start_us() + self.n * 359,
            ip: Some(address(address_of % ADDRESSES)),
            form: ipwarden::privacy::AddressForm::Full,
            opted_out: false,
            verdict: Verdict::Admitted,
            weight: 1,
            decision: 0,
            rule: b"",
            method: b"GET",
            host: b"shop.example",
            path: self.path.as_bytes(),
            query: self.query.as_bytes(),
            status: if self.n % 40 == 7 { 404 } else { 200 },
            flags: 0,
            duration_us: 1_000 + self.n % 50_000,
            bytes_in: 400,
            bytes_out: 10_000 + self.n % 5_000,
            user_agent: self.user_agent.as_bytes(),
            request_id: b"",
            country: None,
            city: b"",
            asn: None,
            identity: b"",
        }
    }
}

fn start_us() -> u64 {
    HOUR.cast_unsigned() * 3_600_000_000
}

fn header(number: u64) -> BatchHeader<'static> {
    BatchHeader {
        stream: 1,
        number,
        started_us: start_us(),
        sent_us: start_us(),
        proxy: b"edge-1",
        version: b"0.1.0",
        key: None,
        applied: Revision::default(),
        seen: 0,
        lost: 0,
        skipped: 0,
    }
}

/// Number of an address: a third of all requests come from a hundredth of the addresses.
fn skewed(n: u64) -> u64 {
    let a = scatter(n);
    if a.is_multiple_of(3) { (a >> 8) % (ADDRESSES / 100) } else { (a >> 8) % ADDRESSES }
}

/// A bijection that leaves no order (the finisher of SplitMix64).
fn scatter(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn address(n: u64) -> IpAddr {
    Ipv4Addr::from(0x2000_0000 + n as u32).into()
}

fn resident_mib() -> u64 {
    status_mib("VmRSS:")
}

fn peak_mib() -> u64 {
    status_mib("VmHWM:")
}

/// A size out of what the kernel says of this process.
fn status_mib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(0);
    kib / 1_024
}

fn told(what: &str, took: Duration, count: u64) {
    println!("{what:>44}  {took:?}, {:.0} a second", count as f64 / took.as_secs_f64());
}

#[expect(clippy::disallowed_methods, reason = "this program measures time")]
fn now() -> Instant {
    Instant::now()
}
