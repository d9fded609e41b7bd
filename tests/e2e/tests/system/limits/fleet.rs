//! Limits over the fleet: several real Envoys, one bucket.

use std::path::Path;
use std::time::Duration;

use ipwarden::limits::Rate;
use ipwarden::limits::fleet::{beyond, excess};
use ipwarden_e2e::{Options, Redis, System, eventually, now, plugin};
use serde_json::{Value, json};

use super::admitted;

/// A plugin of its own name with one limit over the fleet, so slow that no token comes back
/// while a test runs.
fn edge(name: &str, requests: u32) -> Value {
    let mut plugin = plugin();
    plugin["proxy"] = json!(name);
    plugin["limits"] = json!([{
        "name": "login",
        "match": {"path_prefix": "/login"},
        "scope": "fleet",
        "anonymous": {"requests": requests, "per": "7d"},
    }]);
    plugin
}

fn options(name: &str, requests: u32) -> Options {
    Options { plugin: Some(edge(name, requests)), ..Options::default() }
}

/// A busy machine may keep the first reports waiting.
const TRIES: u32 = 15;
/// Requests that an Envoy may admit before it knows, one a report. It is told of others by the
/// answer to a report of its own, which may have gone just before theirs; so the next one counts.
const UNKNOWING: usize = 5;

/// What one Envoy took another one counts: its client is refused there, too, long before it has
/// taken what the other bucket holds. Every try is a client of its own, because the first ones
/// may come before all workers know how the fleet names buckets.
async fn counts_together(first: &System, second: &System, clients: &mut u32, when: &str) -> String {
    for _ in 0..TRIES {
        *clients += 1;
        let client = format!("198.18.{}.{}", *clients / 200, *clients % 200 + 1);
        assert_eq!(admitted(first, 12, &client, "/login").await, 10);
        for _ in 0..=UNKNOWING {
            let before = second.stat("ipwarden_fleet_reports", "taken").await;
            if admitted(second, 1, &client, "/login").await == 0 {
                return client;
            }
            let told = eventually("a report is answered", async || {
                second.stat("ipwarden_fleet_reports", "taken").await > before
            });
            let _ = tokio::time::timeout(Duration::from_secs(4), told).await;
        }
    }
    panic!("{when}: what one Envoy took is not counted on the other");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_over_the_fleet_counts_what_other_envoys_took() {
    let mut first = System::start(options("edge-1", 10)).await;
    let second = first.join(options("edge-2", 10)).await;
    let mut clients = 0;
    let client = counts_together(&first, &second, &mut clients, "at first").await;
    // Somebody else is not held back.
    assert_eq!(admitted(&second, 12, "203.0.113.9", "/login").await, 10);
    let status = first.api("GET", "/v1/status", None).await;
    assert_eq!(
        (&status["fleet_store"], &status["fleet_problem"]),
        (&json!("memory"), &json!(null))
    );

    // A reset is one of the whole fleet.
    let reset = json!({"key": client, "limit": "login"});
    first.api("POST", "/v1/limits/reset", Some(reset)).await;
    // A worker that has not heard of it yet still refuses from memory; of itself the bucket
    // takes days to fill.
    let mut again = 0;
    eventually("its bucket is full again", async || {
        again += admitted(&second, 4, &client, "/login").await;
        again >= 8
    })
    .await;

    // Without a control plane each Envoy counts for itself, and nothing waits.
    first.kill_control_plane().await;
    assert_eq!(admitted(&first, 12, "203.0.113.20", "/login").await, 10);
    assert_eq!(admitted(&second, 12, "203.0.113.20", "/login").await, 10);
    eventually("reports fail", async || second.stat("ipwarden_fleet_reports", "failed").await > 0)
        .await;
    first.start_control_plane().await;
    counts_together(&first, &second, &mut clients, "with the control plane back").await;
}

/// `ipwarden.toml` of a control plane that shares buckets in Redis.
fn settings(redis: &Redis, key: &Path) -> String {
    format!(
        "[limits]\nstore = \"redis://127.0.0.1:{}\"\nfleet_key_file = \"{}\"\n",
        redis.port,
        key.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn control_planes_share_a_limit_in_redis_and_go_on_without_it() {
    let Some(redis) = Redis::start(None) else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let key = directory.path().join("fleet.key");
    let with = |name| Options { settings: settings(&redis, &key), ..options(name, 10) };
    let first = System::start(with("edge-1")).await;
    let second = System::start(with("edge-2")).await;
    let mut clients = 0;
    counts_together(&first, &second, &mut clients, "at first").await;

    let port = redis.port;
    drop(redis);
    let is_up = async |up: &str| {
        let metrics = first.service_metrics().await;
        metrics.lines().any(|line| line == format!("ipwarden_fleet_store_up {up}"))
    };
    eventually("its absence is noticed", async || is_up("0").await).await;
    // Each Envoy counts for itself, nothing waits, and the service is ready.
    let start = now();
    assert_eq!(admitted(&first, 12, "203.0.113.20", "/login").await, 10);
    assert_eq!(admitted(&second, 12, "203.0.113.20", "/login").await, 10);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let (ready, _) = first.api_raw("GET", "/readyz", None).await;
    let status = first.api("GET", "/v1/status", None).await;
    assert_eq!((ready, &status["fleet_store"]), (200, &json!(format!("redis://127.0.0.1:{port}"))));
    assert!(status["fleet_problem"].is_string(), "{status}");

    let _redis = Redis::start(Some(port)).expect("it was there");
    eventually("its return is noticed", async || is_up("1").await).await;
    counts_together(&first, &second, &mut clients, "with Redis back").await;
}

/// How a load spreads over Envoys: requests a second at each.
struct Spread {
    name: &'static str,
    rates: [u64; 4],
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "figures, in four minutes: make bench-fleet-limit"]
async fn a_hundred_a_minute_over_four_envoys() {
    let rate = Rate::new(100, Duration::from_secs(60));
    let Some(redis) = Redis::start(None) else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let key = directory.path().join("fleet.key");
    let with = |name: &str| {
        let mut plugin = edge(name, 100);
        plugin["limits"][0]["anonymous"] = json!({"requests": 100, "per": "1m"});
        let settings = settings(&redis, &key);
        Options { plugin: Some(plugin), settings, concurrency: 1, ..Options::default() }
    };
    // Two control planes, two Envoys each.
    let one = System::start(with("edge-1")).await;
    let two = System::start(with("edge-2")).await;
    let three = one.join(with("edge-3")).await;
    let four = two.join(with("edge-4")).await;
    let envoys = [&one, &two, &three, &four];
    for envoy in envoys {
        eventually("it knows how the fleet names buckets", async || {
            envoy.stat("ipwarden_fleet_synced_seconds", "").await > 0
                || envoy.stat("ipwarden_fleet_reports", "taken").await > 0
        })
        .await;
    }
    let seconds = 75;
    println!(
        "100 a minute for a client, two control planes on one Redis, two Envoys each, {seconds} s:"
    );
    for (number, spread) in [
        Spread { name: "even, 20 requests/s", rates: [5; 4] },
        Spread { name: "all on one, 20 requests/s", rates: [20, 0, 0, 0] },
        Spread { name: "even, 400 requests/s", rates: [100; 4] },
    ]
    .into_iter()
    .enumerate()
    {
        let client = format!("203.0.113.{}", number + 50);
        let start = now();
        let load = async |envoy: &System, per_second: u64| {
            let mut admitted = Vec::new();
            if per_second == 0 {
                return admitted;
            }
            let mut due = tokio::time::interval(Duration::from_micros(1_000_000 / per_second));
            while start.elapsed() < Duration::from_secs(seconds) {
                due.tick().await;
                if envoy.request(&client, "/login", &[]).await.status == 200 {
                    admitted.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
                }
            }
            admitted
        };
        let [a, b, c, d] = spread.rates;
        let (a, b, c, d) =
            tokio::join!(load(&one, a), load(&two, b), load(&three, c), load(&four, d));
        let each = [a.len(), b.len(), c.len(), d.len()];
        let mut all: Vec<u64> = [a, b, c, d].concat();
        all.sort_unstable();
        let busy = spread.rates.iter().filter(|rate| **rate > 0).count() as u64;
        // A report a second, ticks, and the call: 1.5 s, twice.
        let window = Duration::from_secs(3);
        let asked = spread.rates.iter().max().map_or(0, |rate| rate * 3);
        let bound = excess(&rate, busy, window, asked);
        let worst = beyond(&rate, &all);
        println!(
            "{}: {} admitted {each:?}; one bucket admits {}; worst span {worst} beyond, {bound} stated",
            spread.name,
            all.len(),
            100 + 100 * seconds / 60,
        );
        assert!(worst <= bound, "{worst} > {bound}");
    }
}
