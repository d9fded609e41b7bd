//! The service with its log on ClickHouse, which is killed meanwhile: nothing that was
//! acknowledged is missing afterwards, and nothing is there twice.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use ipwarden::record::{BatchHeader, wire};
use ipwarden_control_plane::model::StoredRecord;
use ipwarden_control_plane::store::clickhouse::{ClickHouseLog, ClickHouseUrl};
use ipwarden_control_plane::store::{LogStore as _, RecordQuery};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use crate::bench::record;
use crate::killed::{Served, metric};

const RECORDS: u64 = 100;

/// Debian's server; ends, and keeps its data, when this is dropped.
struct Server {
    guard: Child,
    input: Option<ChildStdin>,
    port: u16,
}

impl Server {
    /// `None` where there is none, loudly.
    fn start(directory: &Path, port: Option<u16>) -> Option<Self> {
        let found = Command::new("sh")
            .args(["-c", "PATH=$PATH:/usr/sbin command -v clickhouse-server"])
            .output();
        if !found.is_ok_and(|found| found.status.success()) {
            eprintln!("SKIPPED: no clickhouse-server: apt-get install clickhouse-server");
            return None;
        }
        let mut guard = Command::new("bash")
            .args(["-c", include_str!("../clickhouse/server.sh"), "guard"])
            .arg(directory)
            .args(port.map(|port| port.to_string()))
            .env("KEEP", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(guard.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let input = guard.stdin.take();
        let port = line.trim().parse().expect("clickhouse-server starts");
        Some(Self { guard, input, port })
    }

    /// SIGKILL.
    fn kill(mut self) {
        drop(self.input.take());
        self.guard.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.guard.wait();
    }
}

fn batch(number: u64) -> Vec<u8> {
    let header = BatchHeader {
        stream: 7,
        number,
        started_us: 1,
        sent_us: number,
        proxy: b"edge-1",
        version: b"0.1.0",
        key: None,
        applied: Default::default(),
        seen: number * RECORDS,
        lost: 0,
        skipped: 0,
    };
    let mut encoded = Vec::new();
    let path = format!("/page/{number}");
    let mut previous = 1;
    for _ in 0..RECORDS {
        let record = record(path.as_bytes());
        wire::put_record(&mut encoded, previous, &record);
        previous = record.time_us;
    }
    wire::encode(&header, 1, RECORDS as u32, &encoded)
}

/// What a run was like.
#[derive(Debug, Default)]
struct Told {
    acknowledged: u64,
    repeated: u64,
    refused: u64,
    slowest: Duration,
    most_waiting: u64,
    drained_after: Duration,
}

/// Ships so many batches a second; the server is killed after `before`, and is back after `away`.
async fn outage(rate: u64, before: Duration, away: Duration, after: Duration) -> Option<Told> {
    let here = tempfile::tempdir().unwrap();
    let data = tempfile::tempdir().unwrap();
    let mut server = Some(Server::start(data.path(), None)?);
    let port = server.as_ref().map(|server| server.port)?;
    let url = format!("clickhouse://127.0.0.1:{port}/default");
    std::fs::write(here.path().join("ipwarden.toml"), format!("log = \"{url}\"\n")).unwrap();
    let served = Served::start(here.path());
    let token = std::fs::read_to_string(here.path().join(".ipwarden/proxy.token")).unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let shipper = Shipper {
        client: client.clone(),
        url: format!("{}/v1/requests", served.url),
        token: token.trim().to_owned(),
    };
    let mut told = Told::default();
    let mut under_way = JoinSet::new();
    let mut tick = interval(Duration::from_secs(1) / u32::try_from(rate).unwrap());
    let begun = Instant::now();
    let mut number = 0;
    let mut gone = false;
    while begun.elapsed() < before + away + after {
        tick.tick().await;
        number += 1;
        under_way.spawn(shipper.clone().ship(number));
        if number % 7 == 0 {
            // Again without need, as a proxy does that lost an answer.
            under_way.spawn(shipper.clone().ship(number - number / 2));
            told.repeated += 1;
        }
        if !gone && begun.elapsed() >= before {
            gone = true;
            // Its waiting must not hold up what is shipped.
            if let Some(server) = server.take() {
                tokio::task::spawn_blocking(|| server.kill()).await.unwrap();
            }
        }
        if gone && server.is_none() && begun.elapsed() >= before + away {
            let text = metrics(&client, &served).await;
            told.most_waiting = metric(&text, "ipwarden_log_spool_batches");
            assert_eq!(metric(&text, "ipwarden_log_store_up"), 0);
            let directory = data.path().to_owned();
            server = tokio::task::spawn_blocking(move || Server::start(&directory, Some(port)))
                .await
                .unwrap();
        }
    }
    while let Some(shipped) = under_way.join_next().await {
        let (refused, slowest) = shipped.unwrap();
        told.refused += refused;
        told.slowest = told.slowest.max(slowest);
    }
    told.acknowledged = number;
    let back = Instant::now();
    served.until(|text| metric(text, "ipwarden_log_spool_batches") == 0).await;
    told.drained_after = back.elapsed();
    let log = ClickHouseLog::new(ClickHouseUrl::parse(&url).unwrap(), Vec::new()).unwrap();
    let mut stored = BTreeMap::new();
    let mut visit = |record: StoredRecord| {
        *stored.entry(record.path).or_insert(0) += 1;
        ControlFlow::Continue(())
    };
    log.scan(&RecordQuery::default(), &mut visit).await.unwrap();
    let shipped: BTreeMap<String, u64> =
        (1..=number).map(|number| (format!("/page/{number}"), RECORDS)).collect();
    assert_eq!(stored, shipped, "{told:?}");
    served.kill();
    Some(told)
}

/// Ships batches, each until it is acknowledged.
#[derive(Clone)]
struct Shipper {
    client: reqwest::Client,
    url: String,
    token: String,
}

impl Shipper {
    /// How often it was refused, and how long the longest answer took.
    async fn ship(self, number: u64) -> (u64, Duration) {
        let (mut refused, mut slowest) = (0, Duration::ZERO);
        loop {
            let sent = Instant::now();
            let request = self
                .client
                .post(&self.url)
                .bearer_auth(&self.token)
                .header("content-type", wire::CONTENT_TYPE)
                .body(batch(number));
            let status = request.send().await.unwrap().status();
            slowest = slowest.max(sent.elapsed());
            if status.is_success() {
                return (refused, slowest);
            }
            refused += 1;
        }
    }
}

async fn metrics(client: &reqwest::Client, served: &Served) -> String {
    client.get(format!("{}/metrics", served.url)).send().await.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_while_clickhouse_is_killed() {
    let second = Duration::from_secs(1);
    let Some(told) = outage(20, second, 3 * second, 2 * second).await else { return };
    assert!(told.most_waiting > 0, "{told:?}");
    assert_eq!(told.refused, 0, "{told:?}");
}

/// The figures: 2 000 records a second, 60 seconds without the server.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes 90 seconds: make bench-log-outage"]
async fn sixty_seconds_without_clickhouse() {
    let second = Duration::from_secs(1);
    let Some(told) = outage(20, 10 * second, 60 * second, 10 * second).await else { return };
    println!("{told:?}");
    assert_eq!(told.refused, 0, "{told:?}");
}
