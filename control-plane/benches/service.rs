//! The service under load, through sockets, on durable SQLite files.
//!
//! `cargo bench -p ipwarden-control-plane --bench service`
//!
//! Every figure is printed only after the outcome was checked: all records are stored, every
//! poll got the change.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipwarden::record::{BatchHeader, Record, Verdict, wire};
use ipwarden_control_plane::clock::Clock;
use ipwarden_control_plane::config::Config;
use ipwarden_control_plane::hub::Polled;
use ipwarden_control_plane::serve::Service;
use ipwarden_control_plane::store::RecordQuery;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

#[path = "../tests/fixtures/mmdb.rs"]
mod mmdb;

use mmdb::{Mmdb, map};

/// How often ingest is measured, each time without and with geolocation data.
const ROUNDS: usize = 3;
const BATCH_RECORDS: u32 = 500;
const BATCHES: u64 = 2_000;
/// Workers of proxies that ship at the same time.
const SENDERS: u64 = 32;
/// Clients, from 81.0.0.0 on.
const CLIENTS: u32 = 50_000;
const FIRST_CLIENT: u32 = 0x5100_0000;
const WAITING: usize = 10_000;
const CHANGES: u32 = 200;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // In turns, so that what else this machine does meets both alike.
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            without.push(ingest(false).await);
            with.push(ingest(true).await);
        }
        report(&without, &with);
        fan_out().await;
    });
}

struct Running {
    service: Service,
    url: String,
    admin: String,
    proxy: String,
    _directory: tempfile::TempDir,
}

impl Running {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(directory: tempfile::TempDir) -> Self {
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            data_dir: directory.path().to_owned(),
            ..Config::default()
        };
        let service = Service::start(config, Clock::system()).await.unwrap();
        let token = |file| std::fs::read_to_string(directory.path().join(file)).unwrap();
        Self {
            url: format!("http://{}", service.address()),
            admin: token("admin.token").trim().to_owned(),
            proxy: token("proxy.token").trim().to_owned(),
            service,
            _directory: directory,
        }
    }
}

/// What one measurement of ingest found.
struct Ingested {
    records_per_second: f64,
    records_per_cpu_second: f64,
    bytes_per_record: u64,
}

/// Cities of every /24 of the clients of [`batch`], and AS numbers of every /20.
fn geography(directory: &Path) {
    let directory = directory.join("geo");
    std::fs::create_dir(&directory).unwrap();
    let mut cities = Mmdb::new("city ipv4", 4);
    let mut systems = Mmdb::new("asn ipv4", 4);
    for n in 0..CLIENTS.div_ceil(256) {
        let first = std::net::Ipv4Addr::from(FIRST_CLIENT + n * 256);
        let city = map([
            ("country_code", ["GB", "FR", "DE", "US"][n as usize % 4].into()),
            ("state1", "Region".into()),
            ("city", format!("City {}", n % 100).as_str().into()),
            ("latitude", f64::from(n).into()),
            ("longitude", f64::from(n).into()),
        ]);
        cities = cities.net(&format!("{first}/24"), city);
        if n % 16 == 0 {
            let system = map([("autonomous_system_number", (64_496 + n).into())]);
            systems = systems.net(&format!("{first}/20"), system);
        }
    }
    std::fs::write(directory.join("city.mmdb"), cities.build()).unwrap();
    std::fs::write(directory.join("asn.mmdb"), systems.build()).unwrap();
}

/// Records a second from `SENDERS` workers, each acknowledged after its durable commit; with
/// the place of each client, or without.
async fn ingest(with_places: bool) -> Ingested {
    let directory = tempfile::tempdir().unwrap();
    if with_places {
        geography(directory.path());
    }
    let running = Running::start_in(directory).await;
    let url = format!("{}/v1/requests", running.url);
    let batches: Vec<Vec<Vec<u8>>> = (0..SENDERS)
        .map(|stream| (1..=BATCHES / SENDERS).map(|number| batch(stream, number)).collect())
        .collect();
    let bytes: usize = batches.iter().flatten().map(Vec::len).sum();
    let sent: u64 = batches.iter().map(|batches| batches.len() as u64).sum();
    let mut senders = JoinSet::new();
    let busy = cpu_seconds();
    let started = Instant::now();
    for batches in batches {
        let (client, url, token) = (Client::new(), url.clone(), running.proxy.clone());
        senders.spawn(async move {
            for batch in batches {
                let request = client
                    .post(&url)
                    .bearer_auth(&token)
                    .header("content-type", wire::CONTENT_TYPE)
                    .body(batch);
                let answer: Value = request.send().await.unwrap().json().await.unwrap();
                assert_eq!(answer["stored"], BATCH_RECORDS);
            }
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender.unwrap();
    }
    let took = started.elapsed().as_secs_f64();
    let busy = cpu_seconds() - busy;
    let records = sent * u64::from(BATCH_RECORDS);
    let streams = running.service.app().log.streams().await.unwrap();
    assert_eq!(streams.iter().map(|stream| stream.stored).sum::<u64>(), records);
    let stored = RecordQuery { limit: 1_000, ..RecordQuery::default() };
    let stored = running.service.app().log.search(&stored).await.unwrap();
    assert!(stored.iter().all(|record| record.city.is_some() == with_places));
    running.service.stop().await;
    Ingested {
        records_per_second: records as f64 / took,
        records_per_cpu_second: records as f64 / busy,
        bytes_per_record: bytes as u64 / records,
    }
}

/// The medians, and how they compare.
fn report(without: &[Ingested], with: &[Ingested]) {
    let median = |of: &[Ingested], figure: fn(&Ingested) -> f64| {
        let mut figures: Vec<f64> = of.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    for (what, of) in [("", without), (" with city and AS number of each client", with)] {
        println!(
            "ingest: {:.0} records/s durable over HTTP, {:.0} per CPU second with the senders, {} bytes a record on the wire{what}",
            median(of, |one| one.records_per_second),
            median(of, |one| one.records_per_cpu_second),
            of[0].bytes_per_record,
        );
    }
    let ratio = |figure| median(with, figure) / median(without, figure);
    println!(
        "ingest: places leave {:.2} of the records a second, {:.2} of those a CPU second",
        ratio(|one| one.records_per_second),
        ratio(|one| one.records_per_cpu_second),
    );
}

/// From the request that blocks an address to the answer of the last of `WAITING` polls.
async fn fan_out() {
    let running = Running::start().await;
    let hub = running.service.app().hub.clone();
    let client = Client::new();
    let url = format!("{}/v1/decisions", running.url);
    let mut times = Vec::new();
    for n in 0..CHANGES {
        let at = hub.revision();
        let mut polls = JoinSet::new();
        for _ in 0..WAITING {
            let hub = hub.clone();
            polls.spawn(async move { hub.poll(Some(at), 0, Duration::from_secs(55)).await });
        }
        while hub.waiting() < WAITING {
            tokio::task::yield_now().await;
        }
        let target = std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string();
        let request = client.post(&url).bearer_auth(&running.admin);
        let request = request.json(&json!({"targets": [target], "action": "block"}));
        let started = Instant::now();
        let (answer, ()) = tokio::join!(request.send(), async {
            while let Some(polled) = polls.join_next().await {
                assert!(matches!(polled.unwrap(), Polled::Delta(_)));
            }
            times.push(started.elapsed());
        });
        assert!(answer.unwrap().status().is_success());
    }
    times.sort_unstable();
    let at = |share: f64| times[(share * (times.len() - 1) as f64) as usize];
    println!(
        "stream: {WAITING} waiting polls all answered after a block: p50 {:?}, p99 {:?}",
        at(0.5),
        at(0.99)
    );
    let app = Arc::clone(running.service.app());
    running.service.stop().await;
    assert_eq!(app.hub.waiting(), 0);
}

/// A batch as a busy site makes it: many clients, some hundred paths.
fn batch(stream: u64, number: u64) -> Vec<u8> {
    let base_us = 1_700_000_000_000_000 + number * 1_000_000;
    let header = BatchHeader {
        stream: stream + 1,
        number,
        started_us: 1_700_000_000_000_000,
        sent_us: base_us + 1_000_000,
        proxy: b"edge-1",
        version: b"0.1.0",
        key: None,
        applied: Default::default(),
        seen: number * u64::from(BATCH_RECORDS),
        lost: 0,
        skipped: 0,
    };
    let mut records = Vec::new();
    let mut previous = base_us;
    for n in 0..BATCH_RECORDS {
        let client =
            (stream as u32 * 7_919 + number as u32 * 104_729 + n).wrapping_mul(2_654_435_761);
        let path = format!("/articles/{}", client % 400);
        let request_id = format!("{client:08x}-{n:04x}-4a3b-8c1d-{number:012x}");
        let record = Record {
            time_us: previous + 2_000,
            ip: Some(std::net::Ipv4Addr::from(client % CLIENTS + FIRST_CLIENT).into()),
            form: ipwarden::privacy::AddressForm::Full,
            opted_out: false,
            verdict: if client.is_multiple_of(50) { Verdict::Blocked } else { Verdict::Admitted },
            weight: 1,
            decision: 0,
            rule: b"",
            method: b"GET",
            host: b"www.example.com",
            path: path.as_bytes(),
            query: b"",
            status: if client.is_multiple_of(50) { 403 } else { 200 },
            flags: 0,
            duration_us: 12_000 + u64::from(client % 9_000),
            bytes_in: 420,
            bytes_out: 12_000 + u64::from(client % 30_000),
            user_agent: b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
            request_id: request_id.as_bytes(),
            country: None,
            city: b"",
            asn: None,
            identity: b"",
        };
        wire::put_record(&mut records, previous, &record);
        previous = record.time_us;
    }
    wire::encode(&header, base_us, BATCH_RECORDS, &records)
}

/// User and system time of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name in parentheses may hold spaces; times are the 12th and 13th field after it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}
