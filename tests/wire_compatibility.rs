//! What a filter of version 0.1.0 sends and understands, frozen as bytes.
//!
//! The control plane speaks with filters one minor version older and newer. So what it writes in
//! version 1 is byte for byte what 0.1.0 reads, and what 0.1.0 sends is read as it was meant.

#![expect(clippy::expect_used, reason = "a test may fail loudly")]

use std::path::{Path, PathBuf};

use ipwarden::address::parse_target;
use ipwarden::config;
use ipwarden::decisions::{self, Change, Entry, NEVER, Revision, Tier, wire as decision_wire};
use ipwarden::engine::{CallId, Engine, Event, Worker};
use ipwarden::limits::policy;
use ipwarden::privacy::{AddressForm, KeyId};
use ipwarden::record::{Batch, BatchHeader, Record, Verdict, wire};
use ipwarden::shared::testing::MemoryShared;

const REVISION: Revision = Revision { epoch: 0x0123_4567_89ab_cdef, number: 8 };
const CREATED: u32 = 1_795_795_200;
const POLICY: &str = r#"{"limits":[{"name":"login","match":{"path_prefix":["/login"]},"key":"ip","anonymous":{"requests":5,"per":"1m"}},{"name":"api","mode":"shadow"}],"resets":[{"id":7,"key":"203.0.113.7","limit":"login"}],"regions":[{"id":9,"region":"country:FR","path":"/admin","mode":"shadow","until":1796000000}]}"#;

fn frozen(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wire-0.1.0").join(name);
    std::fs::read(path).expect("a fixture")
}

fn header() -> BatchHeader<'static> {
    BatchHeader {
        stream: 0xfeed_beef_0000_0001,
        number: 3,
        started_us: 1_795_795_200_000_000,
        sent_us: 1_795_795_261_500_000,
        proxy: b"edge-1",
        version: b"0.1.0",
        key: Some(KeyId([0x5a, 0xb1, 0xc0, 0xde])),
        applied: REVISION,
        seen: 12,
        lost: 2,
        skipped: 1,
    }
}

fn records() -> Vec<Record<'static>> {
    let first = Record {
        time_us: 1_795_795_260_000_000,
        ip: Some("203.0.113.7".parse().expect("an address")),
        form: AddressForm::Full,
        opted_out: false,
        verdict: Verdict::Admitted,
        weight: 1,
        decision: 0,
        rule: b"",
        method: b"GET",
        host: b"shop.example",
        path: b"/caf\xc3\xa9/\xff",
        query: b"q=1",
        status: 200,
        flags: 0,
        duration_us: 1_250,
        bytes_in: 310,
        bytes_out: 5_120,
        user_agent: b"curl/8",
        request_id: b"0b0d3c2e-7a1c-4a8e-9d53-0a5b1c2d3e4f",
        country: Some(*b"GB"),
        city: b"London",
        asn: Some(20_712),
        identity: b"alice",
    };
    let second = Record {
        time_us: 1_795_795_259_999_000,
        ip: Some("2001:db8:1::".parse().expect("an address")),
        form: AddressForm::Truncated,
        opted_out: true,
        verdict: Verdict::Limited,
        weight: 7,
        rule: b"login",
        method: b"POST",
        path: b"/login",
        query: b"",
        status: 429,
        flags: 1 << 40,
        country: None,
        city: b"",
        asn: None,
        identity: b"",
        ..first
    };
    let third = Record {
        time_us: 1_795_795_261_000_000,
        ip: Some("100.115.72.131".parse().expect("an address")),
        form: AddressForm::Pseudonym,
        opted_out: false,
        verdict: Verdict::Blocked,
        weight: 1,
        decision: 4_000_000,
        rule: b"",
        status: 403,
        ..first
    };
    vec![first, second, third]
}

fn batch() -> Vec<u8> {
    let records = records();
    let base_us = records.first().map_or(0, |record| record.time_us);
    let (mut encoded, mut previous_us) = (Vec::new(), base_us);
    for record in &records {
        wire::put_record(&mut encoded, previous_us, record);
        previous_us = record.time_us;
    }
    wire::encode(&header(), base_us, 3, &encoded)
}

fn entries() -> Vec<Entry> {
    let entry = |target: &str, tier, id, expires_at| Entry {
        target: parse_target(target).expect("a target"),
        tier,
        id,
        expires_at,
    };
    let mut entries = vec![
        entry("0.0.0.0/0", Tier::Feed, 1, NEVER),
        entry("203.0.113.0/24", Tier::Manual, 2, 1_796_000_000),
        entry("203.0.113.7", Tier::Allow, 3, NEVER),
        entry("2001:db8::/32", Tier::Detector, 4, 1_795_800_000),
        entry("2001:db8::1", Tier::Manual, 5, NEVER),
    ];
    entries.sort_by_key(Entry::sort_key);
    entries
}

fn changes() -> Vec<Change> {
    let target = parse_target("203.0.113.0/24").expect("a target");
    let added = Entry {
        target: parse_target("198.51.100.0/25").expect("a target"),
        tier: Tier::Manual,
        id: 6,
        expires_at: 1_795_900_000,
    };
    vec![Change::Remove { target, id: 2 }, Change::Add(added)]
}

fn engine() -> Engine {
    let json = br#"{"control_plane": {"cluster": "ipwarden", "token": "t"}}"#;
    let config = config::check(json).expect("a configuration");
    let worker = Worker { id: 0xa1, started_us: 1, proxy: "edge-1".to_owned(), secret: [7; 16] };
    Engine::new(config, worker)
}

/// What a leader that follows the stream reports of itself.
fn report() -> Vec<u8> {
    let mut shared = MemoryShared::default();
    let mut engine = engine();
    engine.start(&mut shared);
    let poll = engine.next_call(&mut shared, 1).expect("a poll");
    let set = decision_wire::encode_snapshot(REVISION, CREATED, &entries());
    engine.answered(poll.id, 200, &set, &mut shared, 2);
    let mut calls = std::iter::from_fn(|| engine.next_call(&mut shared, 3));
    let report = calls.find(|call| call.id == CallId::Report).expect("a report");
    report.body.expect("a body").1
}

fn delta() -> Vec<u8> {
    decision_wire::encode_delta(7, REVISION, CREATED, &changes())
}

#[test]
#[ignore = "writes target/wire-fixtures: how the frozen files were made"]
fn make_the_fixtures() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/wire-fixtures");
    std::fs::create_dir_all(&directory).expect("a directory");
    for (name, bytes) in [
        ("batch.bin", batch()),
        ("report.json", report()),
        ("snapshot.bin", decision_wire::encode_snapshot(REVISION, CREATED, &entries())),
        ("delta.bin", delta()),
        ("policy.bin", policy::encode(3, POLICY.as_bytes())),
    ] {
        std::fs::write(directory.join(name), bytes).expect("a fixture");
    }
}

#[test]
fn a_batch_of_0_1_0_is_read_as_it_was_meant() {
    let bytes = frozen("batch.bin");
    assert_eq!(wire::decode(&bytes), Ok(Batch { header: header(), records: records() }));
}

#[test]
fn what_is_written_in_version_1_is_what_0_1_0_reads() {
    let snapshot = decision_wire::encode_snapshot(REVISION, CREATED, &entries());
    assert_eq!(snapshot, frozen("snapshot.bin"));
    assert_eq!(delta(), frozen("delta.bin"));
    assert_eq!(policy::encode(3, POLICY.as_bytes()), frozen("policy.bin"));
}

#[test]
fn messages_of_0_1_0_are_read_as_they_were_meant() {
    let snapshot = frozen("snapshot.bin");
    let message = decision_wire::decode(&snapshot).expect("a snapshot");
    let mut found = Vec::new();
    for frame in &message.frames {
        frame.entries(|entry| found.push(entry)).expect("entries");
    }
    assert_eq!((message.header.revision, message.header.created), (REVISION, CREATED));
    assert_eq!(found, entries());
    let delta = frozen("delta.bin");
    let message = decision_wire::decode(&delta).expect("a delta");
    let mut found = Vec::new();
    for frame in &message.frames {
        frame.changes(|change| found.push(change)).expect("changes");
    }
    assert_eq!((message.header.base, found), (7, changes()));
    let policy = frozen("policy.bin");
    let policy = policy::decode(&policy).expect("a policy");
    assert_eq!((policy.number, policy.payload), (3, POLICY.as_bytes()));
    assert!(config::check_policy(policy.payload).is_ok(), "every member is still known");
}

/// A message of a later version, its checksums right for whoever knows how.
fn later(mut message: Vec<u8>) -> Vec<u8> {
    if let Some(version) = message.get_mut(4) {
        *version = 2;
    }
    message
}

#[test]
fn a_message_of_a_later_version_is_refused_by_its_version_and_changes_nothing() {
    assert_eq!(
        wire::decode(&later(batch())).map_err(|error| error.to_string()),
        Err("batch version 2 is not known here: expected 1".to_owned())
    );
    let mut shared = MemoryShared::default();
    let mut engine = engine();
    engine.start(&mut shared);
    let poll = engine.next_call(&mut shared, 1).expect("a poll");
    let set = decision_wire::encode_snapshot(REVISION, CREATED, &entries());
    engine.answered(poll.id, 200, &set, &mut shared, 2);
    let before = shared.bytes();
    let poll = std::iter::from_fn(|| engine.next_call(&mut shared, 3))
        .find(|call| matches!(call.id, CallId::Poll(_)))
        .expect("the next poll");
    let Event::Polled(outcome) = engine.answered(poll.id, 200, &later(delta()), &mut shared, 4)
    else {
        panic!("not a poll")
    };
    let decisions::replica::Outcome::Bad(error) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.to_string(), "decision message version 2 is not known here: expected 1");
    assert_eq!(shared.bytes(), before, "the set before stays");
}
