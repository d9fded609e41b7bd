//! Figures for the record, measured end to end: a million decisions, the time from a block
//! to its refusal, the pure parts inside Envoy's V8. Run with the release build:
//! `make bench-million`, `make bench-block`, `make bench-vm`.

use std::fmt::Write as _;
use std::time::Duration;

use ipwarden_e2e::{Load, Options, System, eventually, now, resident_kib};

const MILLION: u32 = 1_000_000;

/// Latencies of requests one after the other on one connection: p50, p99, slowest.
async fn latencies(system: &System, requests: usize) -> (Duration, Duration, Duration) {
    let mut took = Vec::with_capacity(requests);
    for _ in 0..requests {
        let start = now();
        assert_eq!(system.status("203.0.113.7").await, 200);
        took.push(start.elapsed());
    }
    took.sort();
    (took[requests / 2], took[requests * 99 / 100], took[requests - 1])
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and prints figures: make bench-million"]
async fn a_million_addresses_from_a_file() {
    let system = System::start(Options::default()).await;
    let list = system.data_dir().join("million.txt");
    let mut lines = String::new();
    for n in 0..MILLION {
        // Spread over the whole space, as real lists are; 203.0.113.7 is not among them.
        let address = n.wrapping_mul(2_654_435_761) | 1;
        let address = if address >> 8 == 0xCB_00_71 { 1 } else { address };
        let _ = writeln!(lines, "{}", std::net::Ipv4Addr::from(address));
    }
    std::fs::write(&list, lines).expect("the list");
    let pid = system.envoy_pid();
    system.settles("203.0.113.7", 200).await;
    let before = latencies(&system, 2_000).await;
    let kib_before = resident_kib(pid);

    let load = Load::start(system.site_port, 4, 500);
    let start = now();
    let path = list.to_string_lossy();
    let blocked = system.cli(&["block", "--from", &path, "--reason", "a million"]).await;
    let accepted = start.elapsed();
    assert_eq!(blocked.status.code(), Some(0), "{}", String::from_utf8_lossy(&blocked.stderr));
    eventually("every worker has it", async || {
        system.stat("ipwarden_decisions_entries", "").await >= u64::from(MILLION) / 2
    })
    .await;
    system.settles("0.0.0.1", 403).await;
    let enforced = start.elapsed();
    let during = load.stop().await;
    assert_eq!((during.other, during.broken), (0, 0), "{during:?}");
    let after = latencies(&system, 2_000).await;
    let kib_after = resident_kib(pid);

    let start = now();
    system.decide("block", &["203.0.113.99"], serde_json::json!({})).await;
    let one_more = system.settles("203.0.113.99", 403).await;
    println!(
        "block --from of {MILLION} lines: {accepted:?} until accepted, {enforced:?} until refused by every worker"
    );
    println!("one more block: {one_more:?} (all twenty probes {:?})", start.elapsed());
    println!(
        "Envoy resident: {kib_before} KiB before, {kib_after} KiB after (2 workers, both slots of shared data)"
    );
    println!(
        "latency of an admitted request (new connection), p50 p99 max: before {before:?}, after {after:?}"
    );
    println!("slowest of 500 requests/s while it was loaded: {:?}", during.slowest);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and prints figures: make bench-block"]
async fn from_a_block_to_its_refusal_by_every_worker() {
    const TRIES: u32 = 1_000;
    let system = System::start(Options::default()).await;
    let mut took = Vec::new();
    for n in 0..TRIES {
        let client = format!("100.64.{}.{}", n / 250, n % 250);
        let start = now();
        system.decide("block", &[&client], serde_json::json!({})).await;
        let accepted = start.elapsed();
        took.push(accepted + system.settles(&client, 403).await);
    }
    took.sort();
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    println!(
        "block → refused by every worker, {TRIES} tries: p50 {:?}, p90 {:?}, p99 {:?}, max {:?}",
        at(50),
        at(90),
        at(99),
        at(100)
    );
}

/// What a module with the feature `figures` logs when it is configured.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs another build of the module and prints figures: make bench-vm"]
async fn the_pure_parts_inside_v8() {
    let start = now();
    let mut system = System::start(Options { envoy_starts: false, ..Options::default() }).await;
    eventually("the figures are logged", async || {
        assert!(!system.envoy_has_ended(), "{}", system.envoy_log());
        system.envoy_log().contains("a record encoded")
    })
    .await;
    println!("after {:?}:", start.elapsed());
    for line in system.envoy_log().lines().filter(|line| line.contains("figure: ")) {
        assert!(!line.contains("not as it must be"), "{line}");
        println!("{}", line.split_once("figure: ").map_or(line, |(_, figure)| figure));
    }
}
