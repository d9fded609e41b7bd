//! Exactly as many as the rule says, exactly when it says, and no more because of others.

use std::time::Duration;

use ipwarden_e2e::{Options, System, now, processor_time, resident_kib, spray};
use serde_json::json;

use super::{admitted, direct, get, limited};

/// The limit that is in force without any configuration.
const LOGIN: u32 = 5;
const ROUNDS: u32 = 20;

async fn two_hundred_at_once(concurrency: u32) {
    let system = System::start(Options { concurrency, ..Options::default() }).await;
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        rounds.push(admitted(&system, 200, &format!("198.51.100.{round}"), "/login").await);
    }
    assert_eq!(rounds, vec![LOGIN as usize; ROUNDS as usize]);
    let workers = system.connections_by_worker().await;
    assert_eq!(workers.len(), concurrency as usize, "{workers:?}");
    // Otherwise the rounds prove nothing about workers that race.
    let fair = u64::from(200 * ROUNDS / concurrency);
    assert!(workers.iter().all(|connections| *connections > fair / 2), "{workers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_at_once_exactly_5_are_admitted_by_two_workers() {
    two_hundred_at_once(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_at_once_exactly_5_are_admitted_by_four_workers() {
    two_hundred_at_once(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_request_is_admitted_when_retry_after_says_and_not_a_second_before() {
    // A token every two seconds.
    let short = json!([{
        "name": "short",
        "match": {"path": "/short"},
        "anonymous": {"requests": 5, "per": "10s"},
    }]);
    let system =
        System::start(Options { plugin: Some(limited(short)), ..Options::default() }).await;
    for client in ["203.0.113.7", "203.0.113.8", "2001:db8::1"] {
        assert_eq!(admitted(&system, 20, client, "/short").await, 5);
        let refused_at = now();
        let refused = system.request(client, "/short", &[]).await;
        assert_eq!(refused.status, 429);
        let retry_after = refused.header("retry-after").and_then(|seconds| seconds.parse().ok());
        let retry_after = Duration::from_secs(retry_after.expect("whole seconds"));
        assert!(retry_after > Duration::from_secs(1), "{retry_after:?}: too late to see it");
        let mut probes = Vec::new();
        // All the time up to a second before, and then exactly when it said.
        while refused_at.elapsed() < retry_after - Duration::from_secs(1) {
            probes.push(system.request(client, "/short", &[]).await.status);
        }
        assert!(probes.iter().all(|status| *status == 429), "{probes:?}");
        tokio::time::sleep_until(refused_at + retry_after).await;
        assert_eq!(admitted(&system, 10, client, "/short").await, 1, "{retry_after:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_back_one_by_one_to_the_moment() {
    // Burst apart from rate: two at once, one more every 500 ms.
    let drip = json!([{
        "name": "drip",
        "match": {"path": "/drip"},
        "anonymous": {"requests": 2, "per": "1s", "burst": 3},
    }]);
    let system = System::start(Options { plugin: Some(limited(drip)), ..Options::default() }).await;
    let start = now();
    let mut admitted_at = Vec::new();
    while start.elapsed() < Duration::from_secs(4) {
        if system.request("203.0.113.7", "/drip", &[]).await.status == 200 {
            admitted_at.push(start.elapsed());
        }
    }
    // In 4 s: 3 saved up and 8 more at most; the polling is far finer than half a second.
    assert!(matches!(admitted_at.len(), 10..=11), "{admitted_at:?}");
    for (n, at) in admitted_at.iter().enumerate().skip(3) {
        let earliest = Duration::from_millis(500) * (n as u32 - 2);
        // Counted from the first admission, which came a little after `start`.
        assert!(*at >= earliest, "number {n} at {at:?}, before {earliest:?}: {admitted_at:?}");
        assert!(
            *at < earliest + Duration::from_millis(400),
            "number {n} at {at:?}, long after {earliest:?}: {admitted_at:?}"
        );
    }
}

/// The n-th of many /64 networks, never the attacker's.
fn network(n: u64) -> String {
    format!("2001:db9:{:x}:{:x}::{:x}", n >> 16, n & 0xFFFF, n % 7 + 1)
}

const ATTACKER: &str = "2001:db8::bad";

/// What a spray of networks did while one client stayed over its limit.
struct Siege {
    took: Duration,
    attacker_admitted: u32,
    attacker_refused: u32,
    sprayed_admitted: u64,
    kib_before: u64,
    kib_after: u64,
    envoy: Duration,
}

async fn besiege(system: &System, warm_up: u64, networks: u64) -> Siege {
    // Until everything that only the first requests need is there: pages of the table, of the
    // record buffers, connections.
    let first = spray(system.site_port, "/spray", 16, warm_up, network).await;
    assert_eq!(first.get(&200), Some(&warm_up), "{first:?}");
    let pid = system.envoy_pid();
    let (kib_before, envoy_before, start) = (resident_kib(pid), processor_time(pid), now());
    let port = system.site_port;
    let spraying = tokio::spawn(async move {
        spray(port, "/spray", 16, networks, move |n| network(warm_up + n)).await
    });
    let (mut attacker_admitted, mut attacker_refused) = (0, 0);
    while !spraying.is_finished() {
        match system.request(ATTACKER, "/spray", &[]).await.status {
            200 => attacker_admitted += 1,
            429 => attacker_refused += 1,
            status => panic!("status {status}"),
        }
    }
    let took = start.elapsed();
    let sprayed = spraying.await.expect("the spray");
    assert_eq!(sprayed.values().sum::<u64>(), networks);
    Siege {
        took,
        attacker_admitted,
        attacker_refused,
        sprayed_admitted: sprayed.get(&200).copied().unwrap_or(0),
        kib_before,
        kib_after: resident_kib(pid),
        envoy: processor_time(pid) - envoy_before,
    }
}

/// How many requests a client may have made in this time: 5 saved up, and one more each
/// `token`.
fn allowed(time: Duration, token: Duration) -> u32 {
    5 + (time.as_secs_f64() / token.as_secs_f64()) as u32 + 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spray_of_networks_neither_frees_an_attacker_nor_grows_the_table() {
    let mut plugin = limited(json!([{
        "name": "spray",
        "match": {"path": "/spray"},
        "anonymous": {"requests": 5, "per": "10s"},
    }]));
    plugin["limits_table"] = json!({"keys": 100_000});
    plugin["records"] = json!({"buffer_bytes": 65_536});
    let system = System::start(Options { plugin: Some(plugin), ..Options::default() }).await;
    let siege = besiege(&system, 5_000, 20_000).await;
    assert_eq!(siege.sprayed_admitted, 20_000, "every network has a bucket of its own");
    assert!(siege.attacker_admitted >= 5);
    let allowed = allowed(siege.took, Duration::from_secs(2));
    assert!(siege.attacker_admitted <= allowed, "{:?}", siege.took);
    assert!(siege.attacker_refused > 0);
    assert_eq!(system.stat("ipwarden_limits_evicted_in_debt", "").await, 0);
    let grown = siege.kib_after.saturating_sub(siege.kib_before);
    // 100 000 keys in at most 64 bytes each, and as much again for everything else.
    assert!(grown < 13_000, "{grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and prints figures: make bench-spray"]
async fn two_million_networks() {
    const NETWORKS: u64 = 2_000_000;
    let plugin = limited(json!([{
        "name": "spray",
        "match": {"path": "/spray"},
        "anonymous": {"requests": 5, "per": "1m"},
    }]));
    let options = Options { plugin: Some(plugin), site_routes: direct(), ..Options::default() };
    let system = System::start(options).await;
    let kib_idle = resident_kib(system.envoy_pid());
    let siege = besiege(&system, 50_000, NETWORKS).await;
    let allowed = allowed(siege.took, Duration::from_secs(12));
    let lost = system.stat("ipwarden_limits_evicted_in_debt", "").await;
    println!("{NETWORKS} networks in {:?}, table of 500 000 keys, 2 workers", siege.took);
    println!(
        "Envoy resident: {kib_idle} KiB before the first request, {} KiB after 50 000 networks, {} KiB after all; {:.1} µs of processor a request",
        siege.kib_before,
        siege.kib_after,
        siege.envoy.as_secs_f64() * 1e6
            / (NETWORKS + u64::from(siege.attacker_admitted + siege.attacker_refused)) as f64,
    );
    println!(
        "sprayed and admitted: {}; attacker (5 a minute): {} admitted of {} (at most {allowed} allowed)",
        siege.sprayed_admitted,
        siege.attacker_admitted,
        siege.attacker_admitted + siege.attacker_refused
    );
    println!("entries in debt that were evicted: {lost}");
    assert!(siege.attacker_admitted <= allowed);
    assert_eq!(lost, 0);
    // 500 000 keys in at most 32 MiB.
    assert!(siege.kib_after.saturating_sub(siege.kib_before) < 32 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_with_a_control_plane_that_was_never_there() {
    // It refuses this token for as long as the test lasts.
    let system =
        System::start(Options { token: Some("wrong".to_owned()), ..Options::default() }).await;
    assert_eq!(admitted(&system, 50, "203.0.113.7", "/login").await, 5);
    let mut system = system;
    system.kill_envoy().await;
    system.kill_control_plane().await;
    system.start_envoy().await;
    assert_eq!(admitted(&system, 50, "203.0.113.7", "/login").await, 5);
    let refused = super::burst(system.site_port, vec![get("203.0.113.7", "/admin/x", &[])]).await;
    assert_eq!(refused[0].status, 429, "one limit for both prefixes");
}
