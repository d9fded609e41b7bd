//! What each kind of request asks of its host, everything on: exact, because each call is paid
//! for by every request. Whoever changes a number here says why in docs/performance.md.

use std::time::Duration;

use ipwarden::decisions::{Entry, NEVER, Revision, Tier, wire};
use ipwarden_e2e::{Judged, Process, Vm};
use serde_json::json;

/// 2026-01-01.
const START: Duration = Duration::from_secs(1_767_225_600);

/// A worker with decisions, places, limits and records, that has seen a request.
fn worker(process: &Process) -> Vm {
    let limit = |name: &str, path: &str, requests: u32, per: &str| {
        json!({
            "name": name,
            "match": {"path_prefix": path},
            "anonymous": {"requests": requests, "per": per},
        })
    };
    let config = json!({
        "control_plane": {"cluster": "ipwarden", "token": "t"},
        "geo": {"cluster": "ipwarden", "provider": "ipwarden"},
        "limits": [limit("wide", "/page", 1_000, "1s"), limit("narrow", "/login", 1, "1h")],
        "limits_table": {"keys": 1_000},
    });
    let mut worker = Vm::start(process, &config);
    worker.send_calls();
    worker.tick();
    let blocked = Entry {
        target: "203.0.113.0/24".parse().expect("a network"),
        tier: Tier::Manual,
        id: 9,
        expires_at: NEVER,
    };
    let set = wire::encode_snapshot(Revision { epoch: 1, number: 1 }, 0, &[blocked]);
    assert!(worker.answer("/v1/decisions/stream", &set));
    worker.request("81.2.69.160", "/");
    worker.tick();
    let place = br#"{"network": "81.2.69.0/24", "country": "GB", "city": "London", "asn": 64512}"#;
    assert!(worker.answer("/v1/geo/", place));
    worker
}

fn calls(judged: &Judged) -> Vec<(&str, u64)> {
    judged.calls.iter().map(|(name, count)| (name.as_str(), *count)).collect()
}

#[test]
fn an_admitted_request_asks_for_this_and_nothing_else() {
    let process = Process::new(START);
    let mut worker = worker(&process);
    worker.request("81.2.69.160", "/page");
    let judged = worker.request("81.2.69.160", "/page");
    assert_eq!(judged.status, 200);
    assert_eq!(
        calls(&judged),
        [
            // The limit's clock.
            ("clock_time_get", 1),
            // Country, city, number of the network.
            ("proxy_add_header_map_value", 3),
            // When it came and when it ended.
            ("proxy_get_current_time_nanoseconds", 2),
            ("proxy_get_header_map_pairs", 1),
            // The client's address; the route's word about limits; how it ended.
            ("proxy_get_property", 5),
            ("proxy_get_shared_data", 1),
            ("proxy_increment_metric", 1),
            // For what the host hands over: each a call back into the VM.
            ("proxy_on_memory_allocate", 6),
            ("proxy_set_shared_data", 1),
        ]
    );
}

#[test]
fn a_request_under_no_limit_asks_for_this_and_nothing_else() {
    let process = Process::new(START);
    let mut worker = worker(&process);
    let judged = worker.request("81.2.69.160", "/elsewhere");
    assert_eq!(judged.status, 200);
    assert_eq!(
        calls(&judged),
        [
            ("proxy_add_header_map_value", 3),
            ("proxy_get_current_time_nanoseconds", 2),
            ("proxy_get_header_map_pairs", 1),
            // The client's address; status, flags and the size of the answer.
            ("proxy_get_property", 4),
            ("proxy_increment_metric", 1),
            ("proxy_on_memory_allocate", 5),
        ]
    );
}

#[test]
fn a_blocked_request_is_asked_for_its_details_once_a_second_only() {
    let process = Process::new(START);
    let mut worker = worker(&process);
    let expected = |with_details: bool| {
        let details = if with_details { 3 } else { 0 };
        [
            ("proxy_get_current_time_nanoseconds", 2),
            ("proxy_get_header_map_pairs", 1),
            ("proxy_get_property", 1 + details),
            ("proxy_increment_metric", 1),
            ("proxy_on_memory_allocate", 2 + details),
            ("proxy_send_local_response", 1),
        ]
    };
    let first = worker.request("203.0.113.7", "/page");
    assert_eq!(first.status, 403);
    assert_eq!(calls(&first), expected(true));
    let next = worker.request("203.0.113.7", "/page");
    assert_eq!(next.status, 403);
    assert_eq!(calls(&next), expected(false));
}

#[test]
fn a_flood_over_its_limit_asks_for_this_and_nothing_else() {
    let process = Process::new(START);
    let mut worker = worker(&process);
    for _ in 0..3 {
        worker.request("81.2.69.160", "/login");
    }
    let judged = worker.request("81.2.69.160", "/login");
    assert_eq!(judged.status, 429);
    assert_eq!(
        calls(&judged),
        [
            ("clock_time_get", 1),
            ("proxy_get_current_time_nanoseconds", 2),
            ("proxy_get_header_map_pairs", 1),
            ("proxy_get_property", 2),
            ("proxy_increment_metric", 1),
            ("proxy_on_memory_allocate", 2),
            ("proxy_send_local_response", 1),
        ]
    );
}

/// In the interpreter's own units, which grow with what is carried out and are the same each
/// time. The ceilings lie a tenth above what was counted.
#[test]
fn the_work_inside_the_module_stays_below_what_it_was() {
    let process = Process::new(START);
    let mut worker = worker(&process);
    let mut work = |client: &str, path: &str| {
        // What is done once is done.
        for _ in 0..3 {
            worker.request(client, path);
        }
        let judged = worker.request(client, path);
        (judged.status, judged.work.values().sum::<u64>())
    };
    for (client, path, status, most) in [
        ("81.2.69.160", "/page", 200, 88_000),
        ("81.2.69.160", "/elsewhere", 200, 49_500),
        ("203.0.113.7", "/page", 403, 35_700),
        ("81.2.69.160", "/login", 429, 83_300),
    ] {
        let (answered, took) = work(client, path);
        assert_eq!(answered, status, "{path}");
        assert!(took <= most, "{client} {path}: {took} units, {most} at most");
    }
}
