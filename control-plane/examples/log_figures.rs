//! Measures a log: `cargo run --release --example log_figures -- sqlite:FILE RECORDS DAYS`, or
//! `… -- clickhouse://host:port/database RECORDS DAYS`.
//!
//! Fills it with so many records over so many days (0: measures what is there), then asks what
//! the hourly pass and the dashboard ask. Each figure is taken after its result was checked.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipwarden::decisions::Revision;
use ipwarden::record::{Batch, BatchHeader, Record, Verdict};
use ipwarden_control_plane::detect::pass::rules::compared_hours;
use ipwarden_control_plane::geo::{Country, Spot};
use ipwarden_control_plane::privacy::{Kept, Veil};
use ipwarden_control_plane::store::aging::AgingLog;
use ipwarden_control_plane::store::clickhouse::{ClickHouseLog, ClickHouseUrl};
use ipwarden_control_plane::store::sqlite::SqliteLog;
use ipwarden_control_plane::store::stats::{Dimension, StatsQuery};
use ipwarden_control_plane::store::{IncomingBatch, LogStore, RecordQuery};
use jiff::Timestamp;

/// 2025-11-01T00:00:00Z.
const START_US: u64 = 1_761_955_200_000_000;
const DAY_US: u64 = 86_400_000_000;
const ADDRESSES: u64 = 200_000;
const BATCH_RECORDS: u64 = 1_000;
/// Batches in one commit: what ingest does under load.
const COMMIT_BATCHES: u64 = 50;

trait Log: LogStore + AgingLog {}
impl<T: LogStore + AgingLog> Log for T {}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, records, days] = arguments.as_slice() else {
        panic!("expected: sqlite:FILE or clickhouse://…, how many records, over how many days");
    };
    let (records, days) = (number(records), number(days));
    let log: Arc<dyn Log> = if let Some(file) = target.strip_prefix("sqlite:") {
        Arc::new(SqliteLog::open_with(Path::new(file), sensitive()).expect("it opens"))
    } else {
        let url = ClickHouseUrl::parse(target).expect("a URL of a log");
        Arc::new(ClickHouseLog::new(url, sensitive()).expect("a client"))
    };
    if records > 0 {
        fill(&*log, records, days).await;
    }
    let all = log.count(&RecordQuery::default()).await.expect("it counts");
    let room = log.room().await.expect("it is measured");
    println!("{:>44}  {all}, {} bytes each", "records", room.used / all.max(1));
    ask(&*log, days).await;
}

fn number(text: &str) -> u64 {
    text.replace('_', "").parse().expect("a number")
}

fn sensitive() -> Vec<String> {
    vec!["/admin".to_owned(), "/login".to_owned()]
}

async fn fill(log: &dyn Log, records: u64, days: u64) {
    let step = days * DAY_US / records;
    let mut total = Duration::ZERO;
    let mut number = 0;
    while number * BATCH_RECORDS < records {
        let first = number;
        number += COMMIT_BATCHES;
        let texts: Vec<Vec<Texts>> = (first..number)
            .map(|batch| {
                (0..BATCH_RECORDS).map(|n| Texts::new(batch * BATCH_RECORDS + n)).collect()
            })
            .collect();
        let batches: Vec<IncomingBatch<'_>> = (first..number)
            .zip(&texts)
            .map(|(number, texts)| {
                let sent_us = START_US + (number + 1) * BATCH_RECORDS * step;
                IncomingBatch {
                    batch: Batch {
                        header: header(number + 1, sent_us),
                        records: texts.iter().map(|texts| texts.record(step)).collect(),
                    },
                    received_at: at(sent_us),
                    store_query: false,
                    places: texts.iter().map(|texts| place(texts.n)).collect(),
                }
            })
            .collect();
        let before = now();
        log.append(&batches).await.expect("they are stored");
        total += before.elapsed();
    }
    let rate = (number * BATCH_RECORDS) as f64 / total.as_secs_f64();
    println!("{:>44}  {rate:.0} records/s", "append, 50 batches of 1 000 at once");
    timed("tidy", async { while log.tidy().await.expect("it tidies") {} }).await;
}

async fn ask(log: &dyn Log, days: u64) {
    let hour = i64::try_from((START_US + (days - 1) * DAY_US) / 3_600_000_000 + 12).unwrap_or(0);
    for round in ["first", "again"] {
        let what = format!("pass: rollups of an hour, {round}");
        let rollups = timed(&what, log.rollups(hour, 5)).await.expect("they are read");
        assert!(rollups.requests > 0 && !rollups.rollups.is_empty());
        println!("{:>44}  {} addresses, {} requests", "", rollups.addresses, rollups.requests);
        let targets: Vec<Vec<Kept>> = rollups
            .rollups
            .iter()
            .take(1_000)
            .map(|(target, _)| vec![Kept { ip: target.addr(), veil: Veil::NONE }])
            .collect();
        let mut hours = compared_hours(hour);
        hours.push(hour - 24);
        let what = format!("pass: past of 1 000 addresses, {round}");
        timed(&what, log.past_hours(hours, targets)).await.expect("it is read");
    }
    let end = at(START_US + days * DAY_US);
    for (what, hours) in [("hour", 1), ("day", 24), ("everything", 24 * days)] {
        let since = end.checked_sub(Duration::from_secs(hours * 3_600)).expect("a time");
        let filter = RecordQuery { since: Some(since), until: Some(end), ..RecordQuery::default() };
        let overview = StatsQuery {
            filter: filter.clone(),
            step_slots: i64::try_from(hours * 36 / 10).unwrap_or(1).max(1),
            tops: [Dimension::Address, Dimension::Country, Dimension::Path, Dimension::Status]
                .map(|dimension| (dimension, 10))
                .to_vec(),
            compare: false,
        };
        let found = timed(&format!("dashboard: {what}, 4 lists"), log.stats(&overview)).await;
        assert!(found.expect("it counts").total.requests() > 0);
        let one = StatsQuery {
            filter: RecordQuery { net: Some(address(77).into()), ..filter },
            tops: vec![(Dimension::Path, 10)],
            ..overview
        };
        timed(&format!("dashboard: {what}, one address"), log.stats(&one))
            .await
            .expect("it counts");
    }
    let newest = RecordQuery { limit: 100, ..RecordQuery::default() };
    let found = timed("search: the newest 100", log.search(&newest)).await.expect("it searches");
    assert_eq!(found.len(), 100);
    let one = RecordQuery { net: Some(address(77).into()), ..newest.clone() };
    timed("search: 100 of one address", log.search(&one)).await.expect("it searches");
    let rare = RecordQuery { path_prefix: Some("/rare/50/".to_owned()), ..newest };
    timed("search: one rare path", log.search(&rare)).await.expect("it searches");
}

/// The parts of a record that differ from one to the next.
struct Texts {
    n: u64,
    a: u64,
    path: String,
    user_agent: String,
    request_id: String,
}

impl Texts {
    fn new(n: u64) -> Self {
        let a = scatter(n);
        let path = match n % 50 {
            0 => format!("/rare/{n}/of/its/own"),
            1 => "/admin/login".to_owned(),
            _ => format!("/shop/item/{}", a % 5_000),
        };
        let version = a % 2_000;
        let user_agent =
            format!("Mozilla/5.0 (X11; Linux x86_64; rv:{version}.0) Firefox/{version}.0");
        let request_id = format!(
            "{:08x}-{:04x}-4{:03x}-8000-{n:012x}",
            a as u32,
            (a >> 32) as u16,
            (a >> 48) & 0xfff
        );
        Self { n, a, path, user_agent, request_id }
    }

    fn record(&self, step: u64) -> Record<'_> {
        // Some ask much more than others.
        let who = (self.a >> 7) % ADDRESSES;
        let who = if self.a.is_multiple_of(3) { who % 500 } else { who };
        let (verdict, status) = match self.a % 40 {
            0 => (Verdict::Blocked, 403),
            1 => (Verdict::Limited, 429),
            2 | 3 => (Verdict::Admitted, 404),
            _ => (Verdict::Admitted, 200),
        };
        Record {
            time_us: START_US + self.n * step,
            ip: Some(address(who)),
            form: ipwarden::privacy::AddressForm::Full,
            opted_out: false,
            verdict,
            weight: 1,
            decision: 0,
            rule: if verdict == Verdict::Limited { b"login" } else { b"" },
            method: if self.a.is_multiple_of(9) { b"POST" } else { b"GET" },
            host: b"shop.example",
            path: self.path.as_bytes(),
            query: b"page=2",
            status,
            flags: 0,
            duration_us: 1_000 + self.a % 50_000,
            bytes_in: 400,
            bytes_out: 10_000 + self.a % 5_000,
            user_agent: self.user_agent.as_bytes(),
            request_id: self.request_id.as_bytes(),
            country: None,
            city: b"",
            asn: None,
            identity: b"",
        }
    }
}

fn place(n: u64) -> Spot {
    const COUNTRIES: [&str; 8] = ["DE", "FR", "GB", "US", "NL", "PL", "IT", "JP"];
    let a = scatter(n) % 64;
    let country = COUNTRIES.get((a % 8) as usize).and_then(|code| Country::new(code));
    Spot { country, city: None, asn: u32::try_from(64_500 + a).ok() }
}

fn header(number: u64, sent_us: u64) -> BatchHeader<'static> {
    BatchHeader {
        stream: 1,
        number,
        started_us: START_US,
        sent_us,
        proxy: b"edge-1",
        version: b"0.1.0",
        key: None,
        applied: Revision::default(),
        seen: number * BATCH_RECORDS,
        lost: 0,
        skipped: 0,
    }
}

fn address(n: u64) -> IpAddr {
    Ipv4Addr::from(scatter(n) as u32).into()
}

fn at(us: u64) -> Timestamp {
    Timestamp::from_microsecond(us.cast_signed()).expect("a time")
}

/// A bijection that leaves no order (the finisher of SplitMix64).
fn scatter(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

async fn timed<T>(what: &str, work: impl Future<Output = T>) -> T {
    let start = now();
    let value = work.await;
    println!("{what:>44}  {:?}", start.elapsed());
    value
}

#[expect(clippy::disallowed_methods, reason = "this program measures time")]
fn now() -> Instant {
    Instant::now()
}
