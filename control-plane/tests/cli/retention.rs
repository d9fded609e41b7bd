//! Retention through the program: a kill in the middle of hiding addresses, and what people are
//! told.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use ipwarden::privacy::{AddressForm, KeyId};
use ipwarden::record::{Batch, BatchHeader, Record};
use ipwarden_control_plane::api::status::LOG_FILE;
use ipwarden_control_plane::privacy::keys::Keys;
use ipwarden_control_plane::store::sqlite::SqliteLog;
use ipwarden_control_plane::store::{IncomingBatch, LogStore as _, RecordQuery};
use jiff::Timestamp;

use crate::bench::{Bench, record};
use crate::killed::{Served, metric};

/// Records in a batch.
const BATCH: u32 = 10_000;

fn ip(n: u32) -> IpAddr {
    Ipv4Addr::from(0x2000_0000 + n).into()
}

/// A data directory with so many records that are eighty hours old, each of its own address.
async fn prepare(here: &Path, count: u32) {
    let data = here.join(".ipwarden");
    std::fs::create_dir_all(&data).unwrap();
    let log = SqliteLog::open(&data.join(LOG_FILE)).unwrap();
    let then = Timestamp::now() - Duration::from_secs(80 * 3_600);
    let start_us = then.as_microsecond().cast_unsigned();
    for number in 0..count.div_ceil(BATCH) {
        let first = number * BATCH;
        let records: Vec<Record<'_>> = (first..count.min(first + BATCH))
            .map(|n| Record { time_us: start_us + u64::from(n), ip: Some(ip(n)), ..record(b"/a") })
            .collect();
        let header = BatchHeader {
            stream: 7,
            number: u64::from(number) + 1,
            started_us: start_us,
            sent_us: start_us,
            proxy: b"edge-1",
            version: b"0.1.0",
            applied: Default::default(),
            seen: u64::from(count),
            lost: 0,
            skipped: 0,
            key: None,
        };
        let batch = IncomingBatch {
            batch: Batch { header, records },
            received_at: then,
            store_query: false,
            places: Vec::new(),
        };
        log.append(std::slice::from_ref(&batch)).await.unwrap();
    }
}

/// How many records are pseudonyms; every record must be whole and who it was.
async fn looked_through(here: &Path, count: u32) -> u32 {
    let data = here.join(".ipwarden");
    let keys = Keys::open(&data, Duration::from_secs(86_400), Timestamp::now()).unwrap();
    let log = SqliteLog::open(&data.join(LOG_FILE)).unwrap();
    let (mut seen, mut hidden) = (0, 0);
    let mut visit = |found: ipwarden_control_plane::model::StoredRecord| {
        let kept = found.ip.unwrap();
        let real = match found.form {
            AddressForm::Full => kept,
            _ => {
                hidden += 1;
                let key = KeyId::from_hex(found.key.as_deref().unwrap()).unwrap();
                keys.reveal(kept, key).unwrap()
            }
        };
        assert_eq!(real, ip(seen), "record {}", found.id);
        seen += 1;
        ControlFlow::Continue(())
    };
    log.scan(&RecordQuery::default(), &mut visit).await.unwrap();
    assert_eq!(seen, count, "none is lost, none is there twice");
    hidden
}

async fn killed_in_the_middle(count: u32) {
    let here = tempfile::tempdir().unwrap();
    prepare(here.path(), count).await;
    let marker = here.path().join(".ipwarden/retention.running");
    // As a run leaves it that was interrupted: the service goes on with it at once.
    std::fs::write(&marker, b"").unwrap();
    let served = Served::start(here.path());
    let hidden = "ipwarden_retention_rows_total{kind=\"hidden\"}";
    served.until(|text| metric(text, hidden) >= u64::from(count / 4)).await;
    served.kill();
    assert!(marker.exists());
    let before = looked_through(here.path(), count).await;
    assert!((count / 4..count).contains(&before), "{before} of {count} when it was killed");

    let again = tokio::time::Instant::now();
    let served = Served::start(here.path());
    let ended = "ipwarden_retention_last_success_timestamp_seconds";
    served.until(|text| metric(text, ended) > 0).await;
    let took = again.elapsed();
    served.kill();
    assert!(!marker.exists());
    assert_eq!(looked_through(here.path(), count).await, count);
    println!("{before} of {count} were hidden at the kill; the rest took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_hiding_addresses_is_made_up_for() {
    killed_in_the_middle(60_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes without optimisation: the same with a million"]
async fn a_kill_in_the_middle_of_hiding_a_million_addresses_is_made_up_for() {
    killed_in_the_middle(1_000_000).await;
}

#[test]
fn people_are_told_what_retention_would_do_and_does() {
    let bench = Bench::start();
    let told = bench.run(&["retention"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.stdout.contains("replaced by pseudonyms"), "{told:?}");
    let dry = bench.run(&["retention", "run", "--dry-run"]);
    assert!(dry.stdout.contains("Nothing is old enough. Nothing was done."), "{dry:?}");
    let json = bench.run(&["-o", "json", "retention", "run", "--dry-run"]);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["dry_run"], &json["due"]["hide"]), (&true.into(), &0.into()));
    let run = bench.run(&["retention", "run"]);
    assert!(run.stdout.starts_with("Done: 0 addresses hidden"), "{run:?}");
}

#[test]
fn keys_and_subjects_are_handled_from_the_command_line() {
    let bench = Bench::start();
    let keys = bench.run(&["-o", "raw", "keys"]);
    let id = keys.stdout.split('\t').next().unwrap().to_owned();
    let edge = bench.run(&["keys", "export-edge"]);
    assert_eq!(edge.stdout.trim().len(), 64, "{edge:?}");
    assert!(edge.stderr.contains(&id), "{edge:?}");
    let rotated = bench.run(&["keys", "rotate"]);
    assert!(rotated.stdout.starts_with("Made the key "), "{rotated:?}");
    let gone = bench.run(&["keys", "destroy", &id, "--yes"]);
    assert_eq!(gone.stdout, format!("Destroyed the key {id}.\n"));
    let nothing = bench.run(&["reveal", &format!("192.0.2.1@{id}"), "--reason", "a test of ours"]);
    assert_eq!(nothing.code, 1, "{nothing:?}");
    bench.run(&["block", "203.0.113.7"]);
    let told = bench.run(&["subject", "export", "203.0.113.7"]);
    assert!(told.stdout.contains("1 decision about it alone"), "{told:?}");
    let erased = bench.run(&["subject", "erase", "203.0.113.7", "--yes"]);
    assert!(erased.stdout.starts_with("Erased: 0 records"), "{erased:?}");
    assert!(erased.stdout.contains("1 decision"), "{erased:?}");
    let after = bench.run(&["-o", "json", "subject", "export", "203.0.113.7"]);
    let after: serde_json::Value = serde_json::from_str(&after.stdout).unwrap();
    assert_eq!(after["decisions"], serde_json::json!([]));
}
