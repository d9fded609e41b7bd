//! The contract over real servers: one alone, a cluster of three, one behind a sentinel. Where
//! none is installed the tests say so and pass.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use ipwarden::limits::fleet::BucketId;
use ipwarden::limits::fleet::account::Taken;
use ipwarden::limits::fleet::wire::Report;
use jiff::Timestamp;
use tokio::time::Instant;

use super::contract::{Bench, all};
use super::redis::RedisCounter;
use super::url::FleetUrl;
use super::{CounterError, FleetCounter as _};

/// Servers that end when this is dropped.
struct Servers {
    guard: Child,
    input: Option<ChildStdin>,
    port: u16,
    /// Removed by the guard, which keeps it until then.
    _directory: tempfile::TempDir,
}

impl Servers {
    /// `None` where there are none, loudly.
    fn start(kind: &str, port: Option<u16>) -> Option<Self> {
        let found = Command::new("sh")
            .args(["-c", "command -v redis-server || command -v valkey-server"])
            .output();
        if !found.is_ok_and(|found| found.status.success()) {
            // Past the harness, which keeps what tests print.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: no redis-server: apt-get install redis-server"
            );
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let mut guard = Command::new("bash")
            .args(["-c", include_str!("../../../tests/redis/server.sh"), "guard"])
            .arg(directory.path())
            .arg(kind)
            .args(port.map(|port| port.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(guard.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().expect("redis-server starts");
        let input = guard.stdin.take();
        Some(Self { guard, input, port, _directory: directory })
    }

    fn counter(&self, more: &str) -> RedisCounter {
        self.counter_with([1; 16], more)
    }

    fn counter_with(&self, secret: [u8; 16], more: &str) -> RedisCounter {
        let url = FleetUrl::parse(&format!("redis://127.0.0.1:{}{more}", self.port)).unwrap();
        RedisCounter::new(url, &secret).unwrap()
    }
}

impl Drop for Servers {
    /// SIGKILL.
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.guard.wait();
    }
}

fn report(origin: u64, cost_us: i64) -> Report {
    let taken = vec![Taken { id: BucketId(5), cost_us, horizon_us: 1 << 40 }];
    Report { origin, worker: origin, number: cost_us.unsigned_abs(), taken }
}

#[tokio::test]
async fn redis_counts_as_the_contract_says() {
    let Some(servers) = Servers::start("single", None) else { return };
    all(Bench::running(servers.counter("/3")), 1 << 70).await;
}

#[tokio::test]
async fn a_cluster_counts_as_the_contract_says() {
    let Some(servers) = Servers::start("cluster", None) else { return };
    all(Bench::running(servers.counter("?cluster=true")), 1 << 70).await;
}

#[tokio::test]
async fn what_sentinels_name_counts_as_the_contract_says() {
    let Some(servers) = Servers::start("sentinel", None) else { return };
    all(Bench::running(servers.counter("?sentinel=main")), 1 << 70).await;
}

#[tokio::test]
async fn two_control_planes_share_buckets_and_keep_only_hashes_that_expire() {
    let Some(servers) = Servers::start("single", None) else { return };
    let (one, other) = (servers.counter(""), servers.counter(""));
    let now = Timestamp::UNIX_EPOCH;
    assert_eq!(one.count(&report(1, 60_000_000), now).await, Ok(vec![0]));
    let owed = other.count(&report(2, 30_000_000), now).await.unwrap();
    assert!((70_000_000..=90_000_000).contains(&owed[0]), "{owed:?}");
    // The same report through the other one.
    let again = one.count(&report(2, 30_000_000), now).await.unwrap();
    assert!((70_000_000..=owed[0]).contains(&again[0]), "{again:?}");
    let cli = |arguments: &[&str]| {
        let mut command = Command::new("redis-cli");
        let done = command.args(["-p", &servers.port.to_string()]).args(arguments).output();
        String::from_utf8(done.unwrap().stdout).unwrap()
    };
    let mut keys: Vec<String> = cli(&["keys", "*"]).lines().map(str::to_owned).collect();
    keys.sort();
    let expected = [
        "ipwarden:fleet:00000000000000000000000000000005",
        "ipwarden:fleet:key",
        "ipwarden:fleet:report:0000000000000001:60000000",
        "ipwarden:fleet:report:0000000000000002:30000000",
    ];
    assert_eq!(keys, expected);
    let left: u64 = cli(&["pttl", expected[0]]).trim().parse().unwrap();
    assert!((60_000..=90_000).contains(&left), "it goes when the bucket is full: {left}");
    // One with another secret would count beside everybody.
    let stranger = servers.counter_with([2; 16], "");
    assert_eq!(stranger.check().await, Err(CounterError::OtherSecret));
    assert_eq!(
        stranger.count(&report(3, 1), now).await.unwrap_err().to_string(),
        "other control planes use this store of fleet limits with another key: give all of them the same limits.fleet_key_file"
    );
}

#[tokio::test]
async fn a_server_that_is_killed_keeps_nobody_waiting_and_is_used_again_when_it_is_back() {
    let Some(servers) = Servers::start("single", None) else { return };
    let counter = servers.counter("");
    let now = Timestamp::UNIX_EPOCH;
    counter.count(&report(1, 60_000_000), now).await.unwrap();
    let port = servers.port;
    drop(servers);
    // The connection breaks; the next attempts find nobody, and between them nobody is asked.
    for _ in 0..50 {
        let start = Instant::now();
        let counted = counter.count(&report(1, 1), now).await;
        assert!(matches!(counted, Err(CounterError::Unavailable(_))), "{counted:?}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
    let _servers = Servers::start("single", Some(port)).unwrap();
    let start = Instant::now();
    while counter.check().await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(20), "it is not used again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // In memory alone: what it held is gone, which forgives.
    assert_eq!(counter.count(&report(2, 1), now).await, Ok(vec![0]));
}
