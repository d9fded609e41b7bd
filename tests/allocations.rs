//! What a request allocates in the pure part of a worker that is warmed up: exact, so that
//! nobody adds to it without noticing. Host calls are counted in the built module
//! (`tests/e2e`, `host_calls`), where the host's own allocations in the module come on top.

#![expect(clippy::expect_used, reason = "a test may fail loudly")]

use allocation_counter::measure;
use ipwarden::config;
use ipwarden::decisions::{Entry, NEVER, Revision, Tier, wire};
use ipwarden::engine::{CallId, Engine, Judgement, Turn, Worker};
use ipwarden::limits::fleet::wire::Answer;
use ipwarden::limits::limiter::Client;
use ipwarden::limits::matching::{Attributes, HeaderSource, Request};
use ipwarden::privacy::AddressForm;
use ipwarden::record::{Record, Verdict};
use ipwarden::shared::testing::MemoryShared;

const NOW_S: u32 = 1_767_225_600;
const NOW_US: u64 = NOW_S as u64 * 1_000_000;
const NOW_NS: u64 = NOW_US * 1_000;

/// Everything on.
const CONFIG: &str = r#"{
    "control_plane": {"cluster": "ipwarden", "token": "t"},
    "geo": {"cluster": "ipwarden", "provider": "ipwarden"},
    "limits": [
        {"name": "wide", "match": {"path_prefix": "/page"}, "anonymous": {"requests": 1000, "per": "1s"}},
        {"name": "fleet", "match": {"path_prefix": "/shared"}, "scope": "fleet", "anonymous": {"requests": 1000, "per": "1s"}},
        {"name": "narrow", "match": {"path_prefix": "/login"}, "anonymous": {"requests": 1, "per": "1h"}}
    ]
}"#;

struct Nothing;

impl HeaderSource for Nothing {
    fn each(&self, _: &[u8], _: &mut dyn FnMut(&[u8])) {}
}

impl Attributes for Nothing {
    fn attribute(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

fn worker(shared: &mut MemoryShared) -> Engine {
    let config = config::check(CONFIG.as_bytes()).expect("a valid configuration");
    let worker = Worker { id: 1, started_us: NOW_US, proxy: "edge-1".to_owned(), secret: [7; 16] };
    let mut engine = Engine::new(config, worker);
    engine.start(shared);
    let poll = engine.next_call(shared, NOW_US).expect("a poll");
    let entry = Entry {
        target: "203.0.113.0/24".parse().expect("a network"),
        tier: Tier::Manual,
        id: 9,
        expires_at: NEVER,
    };
    let set = wire::encode_snapshot(Revision { epoch: 1, number: 1 }, NOW_S, &[entry]);
    engine.answered(poll.id, 200, &set, shared, NOW_US);
    // The control plane tells how the fleet names its buckets.
    engine.tick(shared, NOW_US, &mut || NOW_NS);
    let mut calls = std::iter::from_fn(|| engine.next_call(shared, NOW_US));
    let report = calls.find(|call| matches!(call.id, CallId::Consumption(_))).expect("a report");
    let answer = Answer { number: 1, secret: [7; 16], owes_us: Vec::new() };
    engine.answered(report.id, 200, &answer.encode(), shared, NOW_US);
    engine.tick(shared, NOW_US + 1, &mut || NOW_NS);
    engine
}

fn judge(engine: &mut Engine, shared: &mut MemoryShared, ip: &str, path: &str) -> Judgement {
    let client = Client { ip: ip.parse().ok(), peer: None, opted_out: false };
    let request = Request::new(b"GET", b"site.example", path.as_bytes(), &Nothing, &Nothing);
    engine.judge(shared, client, &request, NOW_S, &mut || NOW_NS, Turn::First)
}

fn learn(engine: &mut Engine, shared: &mut MemoryShared) {
    while let Some(call) = engine.next_call(shared, NOW_US + 1) {
        if matches!(call.id, CallId::Geo(_)) {
            let answer = br#"{"network": "81.2.69.0/24", "country": "GB", "city": "London"}"#;
            engine.answered(call.id, 200, answer, shared, NOW_US + 1);
        }
    }
}

fn record(ip: &str, verdict: Verdict) -> Record<'static> {
    Record {
        time_us: NOW_US,
        ip: ip.parse().ok(),
        form: AddressForm::Full,
        opted_out: false,
        verdict,
        weight: 1,
        decision: 0,
        rule: b"",
        method: b"GET",
        host: b"site.example",
        path: b"/page",
        query: b"",
        status: 200,
        flags: 0,
        duration_us: 1,
        bytes_in: 100,
        bytes_out: 200,
        user_agent: b"test",
        request_id: b"9f6b1c1e-6f3a-4c0e-8a5e-0d6f6f0f6f6f",
        country: None,
        city: b"London",
        asn: None,
        identity: b"",
    }
}

/// Allocations of one call after some that warm up.
fn allocations(mut call: impl FnMut()) -> u64 {
    for _ in 0..64 {
        call();
    }
    measure(call).count_total
}

#[test]
fn an_admitted_request_allocates_nothing_unless_a_limit_writes_shared_data() {
    let mut shared = MemoryShared::default();
    let mut engine = worker(&mut shared);
    judge(&mut engine, &mut shared, "81.2.69.160", "/");
    learn(&mut engine, &mut shared);
    let plain = allocations(|| {
        let judgement = judge(&mut engine, &mut shared, "81.2.69.160", "/");
        assert!(matches!(judgement, Judgement::Admit));
    });
    assert_eq!(plain, 0, "no limit matches");
    // What is left is this test's own shared data, which copies what is written.
    let limited = allocations(|| {
        let judgement = judge(&mut engine, &mut shared, "81.2.69.160", "/page");
        assert!(matches!(judgement, Judgement::Admit));
    });
    assert_eq!(limited, SHARED_DATA_ALLOCATIONS, "a limit admits");
    let shared_with_others = allocations(|| {
        let judgement = judge(&mut engine, &mut shared, "81.2.69.160", "/shared");
        assert!(matches!(judgement, Judgement::Admit));
    });
    assert_eq!(shared_with_others, SHARED_DATA_ALLOCATIONS, "one over the fleet admits");
}

/// Of [`MemoryShared`], for one write: a copy of the key and one of the value.
const SHARED_DATA_ALLOCATIONS: u64 = 2;

#[test]
fn a_blocked_request_allocates_nothing_to_be_judged() {
    let mut shared = MemoryShared::default();
    let mut engine = worker(&mut shared);
    let blocked = allocations(|| {
        let judgement = judge(&mut engine, &mut shared, "203.0.113.7", "/page");
        assert_eq!(judgement.decision(), 9);
    });
    assert_eq!(blocked, 0);
}

#[test]
fn a_flood_allocates_only_what_the_refused_client_is_told() {
    let mut shared = MemoryShared::default();
    let mut engine = worker(&mut shared);
    judge(&mut engine, &mut shared, "81.2.69.160", "/login");
    learn(&mut engine, &mut shared);
    let refused = allocations(|| {
        let judgement = judge(&mut engine, &mut shared, "81.2.69.160", "/login");
        assert_eq!(judgement.verdict(), Verdict::Limited);
    });
    // The ruling and where the client stands.
    assert_eq!(refused, 2);
}

#[test]
fn records_allocate_for_their_batch_alone() {
    let mut shared = MemoryShared::default();
    let mut engine = worker(&mut shared);
    // Batches grow by doubling: 400 records, a batch's worth, in a few steps.
    let admitted = record("81.2.69.160", Verdict::Admitted);
    let whole = measure(|| {
        for n in 0..400 {
            engine.record(&admitted, NOW_US + n);
        }
    });
    assert!(whole.count_total <= 16, "{whole:?}");
    // What a flood adds to is known.
    let blocked = Record { decision: 9, ..record("203.0.113.7", Verdict::Blocked) };
    engine.record(&blocked, NOW_US);
    let client = Client { ip: blocked.ip, peer: None, opted_out: false };
    let absorbed = allocations(|| {
        assert!(engine.absorb(client, &Judgement::Block(9), NOW_US + 1));
    });
    assert_eq!(absorbed, 0);
}
