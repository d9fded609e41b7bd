//! What the module asks of its host for one request, and what a clock that is set does to its
//! buckets: the built module in a host whose clocks are the test's.

use std::time::Duration;

use ipwarden::decisions::{Revision, wire};
use ipwarden::limits::fleet::wire::Answer;
use ipwarden_e2e::{Calls, Judged, Process, Vm};
use serde_json::json;

/// 2026-01-01.
const START: Duration = Duration::from_secs(1_767_225_600);
const HOUR: Duration = Duration::from_secs(3_600);

fn minute(requests: u32) -> serde_json::Value {
    json!({"requests": requests, "per": "1m"})
}

/// A worker with a limit of 5 a minute on `/login`. There is no control plane: what its
/// records cost is not counted here.
fn worker(process: &Process) -> Vm {
    Vm::start(
        process,
        &json!({
            "limits": [{
                "name": "login",
                "match": {"path_prefix": "/login"},
                "anonymous": minute(5),
            }],
            // The interpreter makes each set's key, too.
            "limits_table": {"keys": 1_000},
        }),
    )
}

fn count(calls: &Calls, name: &str) -> u64 {
    calls.get(name).copied().unwrap_or(0)
}

/// Reads and writes of shared data.
fn shared(judged: &Judged) -> (u64, u64) {
    let of = |name| count(&judged.calls, name);
    (of("proxy_get_shared_data"), of("proxy_set_shared_data"))
}

#[test]
fn a_request_in_a_limit_costs_one_read_and_one_swap_and_in_a_flood_none() {
    let process = Process::new(START);
    let mut worker = worker(&process);
    // The first request loads what a worker needs once.
    worker.request("203.0.113.99", "/login");

    let elsewhere = worker.request("203.0.113.1", "/elsewhere");
    assert_eq!((elsewhere.status, shared(&elsewhere)), (200, (0, 0)), "{:?}", elsewhere.calls);
    let mut admitted = Vec::new();
    for _ in 0..5 {
        admitted.push(worker.request("203.0.113.1", "/login"));
    }
    for judged in &admitted {
        assert_eq!((judged.status, shared(judged)), (200, (1, 1)), "{:?}", judged.calls);
    }
    // The first refusal learns of it, those after it know.
    let first = worker.request("203.0.113.1", "/login");
    assert_eq!((first.status, shared(&first)), (429, (1, 0)), "{:?}", first.calls);
    let flood = worker.request("203.0.113.1", "/login");
    assert_eq!((flood.status, shared(&flood)), (429, (0, 0)), "{:?}", flood.calls);

    for (what, judged) in [
        ("no limit matched", &elsewhere),
        ("matched and admitted", &admitted[4]),
        ("refused at first", &first),
        ("refused in a flood", &flood),
    ] {
        let total: u64 = judged.calls.values().sum();
        println!("host calls, {what}: {total} {:?}", judged.calls);
        assert!(total <= 16, "{what}: {:?}", judged.calls);
    }
}

#[test]
fn a_limit_over_the_fleet_costs_a_request_no_call_more_and_holds_when_others_took() {
    let process = Process::new(START);
    let limit = |name: &str, scope: &str| {
        let path = format!("/{name}");
        json!({"name": name, "match": {"path": path}, "scope": scope, "anonymous": minute(5)})
    };
    let mut worker = Vm::start(
        &process,
        &json!({
            "control_plane": {"cluster": "ipwarden", "token": "t"},
            "limits": [limit("own", "proxy"), limit("all", "fleet")],
            "limits_table": {"keys": 1_000},
        }),
    );
    worker.send_calls();
    worker.tick();
    let set = wire::encode_snapshot(Revision { epoch: 1, number: 1 }, 0, &[]);
    assert!(worker.answer("/v1/decisions/stream", &set));
    let answer = |number, owes_us: &[u64]| {
        Answer { number, secret: [7; 16], owes_us: owes_us.to_vec() }.encode()
    };
    assert!(worker.answer("/v1/proxies/consumption", &answer(1, &[])));
    worker.tick();
    // The first requests load what a worker needs once, and fill the sets of both buckets: the
    // host hands over one that is there in memory of its own.
    for path in ["/own", "/all"] {
        worker.request("203.0.113.1", path);
    }
    let own = worker.request("203.0.113.1", "/own");
    let all = worker.request("203.0.113.1", "/all");
    assert_eq!((all.status, &all.calls), (200, &own.calls));

    process.pass(Duration::from_secs(1));
    worker.tick();
    assert!(worker.answer("/v1/proxies/consumption", &answer(2, &[60_000_000])), "a report");
    assert_eq!(worker.request("203.0.113.1", "/all").status, 200, "until the next tick");
    worker.tick();
    assert_eq!(worker.request("203.0.113.1", "/all").status, 429);
    assert_eq!(worker.request("203.0.113.2", "/all").status, 200);
    assert_eq!(worker.request("203.0.113.1", "/own").status, 200);
}

#[test]
fn workers_of_one_process_share_their_buckets() {
    let process = Process::new(START);
    let mut workers = [worker(&process), worker(&process), worker(&process)];
    let statuses: Vec<u16> =
        (0..30).map(|n| workers[n % 3].request("203.0.113.1", "/login").status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 5, "{statuses:?}");
    process.pass(Duration::from_secs(12));
    let statuses: Vec<u16> =
        (0..30).map(|n| workers[n % 3].request("203.0.113.1", "/login").status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
}

fn admitted(worker: &mut Vm, client: &str) -> usize {
    (0..20).filter(|_| worker.request(client, "/login").status == 200).count()
}

#[test]
fn a_wall_clock_that_is_set_neither_locks_out_nor_opens_the_gate() {
    for (what, step) in
        [("forward", Process::step_forward as fn(&Process, Duration)), ("back", Process::step_back)]
    {
        let process = Process::new(START);
        let mut worker = worker(&process);
        assert_eq!(admitted(&mut worker, "203.0.113.1"), 5);
        step(&process, HOUR);
        worker.tick();
        assert_eq!(admitted(&mut worker, "203.0.113.1"), 0, "{what}: the gate stays shut");
        assert_eq!(admitted(&mut worker, "203.0.113.2"), 5, "{what}: for a new client as ever");
        process.pass(Duration::from_secs(12));
        worker.tick();
        assert_eq!(admitted(&mut worker, "203.0.113.1"), 1, "{what}: nobody waits longer");
        process.pass(Duration::from_secs(60));
        worker.tick();
        assert_eq!(admitted(&mut worker, "203.0.113.1"), 5, "{what}: and all is as it was");
    }
}

#[test]
fn with_a_wall_clock_alone_a_step_costs_one_bucket_at_most() {
    let process = Process::without_monotonic_clock(START);
    let mut worker = worker(&process);
    assert_eq!(admitted(&mut worker, "203.0.113.1"), 5);
    // An hour later by the only clock there is: the bucket is full, and no fuller than that.
    process.step_forward(HOUR);
    worker.tick();
    assert_eq!(admitted(&mut worker, "203.0.113.1"), 5);
    // An hour earlier: nobody waits for it longer than an empty bucket takes to fill.
    process.step_back(HOUR);
    worker.tick();
    assert_eq!(admitted(&mut worker, "203.0.113.1"), 0);
    assert_eq!(admitted(&mut worker, "203.0.113.2"), 5, "a new client as ever");
    process.pass(Duration::from_secs(12));
    assert_eq!(admitted(&mut worker, "203.0.113.1"), 1);
    process.pass(Duration::from_secs(60));
    assert_eq!(admitted(&mut worker, "203.0.113.1"), 5);
}

#[test]
fn retry_after_is_exact_to_the_nanosecond() {
    let process = Process::new(START);
    let mut worker = worker(&process);
    assert_eq!(admitted(&mut worker, "203.0.113.1"), 5);
    process.pass(Duration::from_secs(2));
    let refused = worker.request("203.0.113.1", "/login");
    let header = |name: &str| {
        let found = refused.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.clone())
    };
    assert_eq!(header("retry-after").as_deref(), Some("10"), "{refused:?}");
    assert_eq!(header("ratelimit").as_deref(), Some("\"login\";r=0;t=10"), "{refused:?}");
    process.pass(Duration::from_secs(10) - Duration::from_nanos(1));
    assert_eq!(worker.request("203.0.113.1", "/login").status, 429);
    process.pass(Duration::from_nanos(1));
    assert_eq!(worker.request("203.0.113.1", "/login").status, 200);
    assert_eq!(worker.request("203.0.113.1", "/login").status, 429);
}
