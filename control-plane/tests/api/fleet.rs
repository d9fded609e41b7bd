//! Limits over the fleet, as proxies report to them.

use std::time::Duration;

use ipwarden::limits::fleet::BucketId;
use ipwarden::limits::fleet::account::Taken;
use ipwarden::limits::fleet::wire::{self, Answer, Report};
use ipwarden::limits::limiter::fleet_buckets;
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::support::{Running, problem};

fn report(origin: u64, number: u64, taken: &[(u128, i64)]) -> Report {
    let entry =
        |&(id, cost_us): &(u128, i64)| Taken { id: BucketId(id), cost_us, horizon_us: 480_000_000 };
    Report { origin, worker: origin, number, taken: taken.iter().map(entry).collect() }
}

fn send(running: &Running, body: Vec<u8>) -> RequestBuilder {
    running
        .proxy(Method::POST, "/v1/proxies/consumption")
        .header("content-type", wire::CONTENT_TYPE)
        .header("x-ipwarden-proxy", "edge-1")
        .body(body)
}

async fn answered(running: &Running, report: &Report) -> Answer {
    let response = send(running, report.encode()).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], wire::CONTENT_TYPE);
    let answer = Answer::decode(&response.bytes().await.unwrap()).unwrap();
    assert_eq!(answer.number, report.number);
    answer
}

#[tokio::test]
async fn what_proxies_took_is_summed_and_told_to_the_others() {
    let running = Running::start().await;
    let first = answered(&running, &report(1, 1, &[(7, 3_000_000), (8, 1)])).await;
    assert_eq!(first.owes_us, [0, 0]);
    let second = answered(&running, &report(2, 1, &[(7, 2_000_000)])).await;
    assert_eq!((second.owes_us.as_slice(), second.secret), (&[5_000_000][..], first.secret));
    running.clock.advance(Duration::from_secs(1));
    // The same once more is counted once.
    assert_eq!(answered(&running, &report(2, 1, &[(7, 2_000_000)])).await.owes_us, [4_000_000]);
    assert_eq!(answered(&running, &report(1, 2, &[])).await.owes_us, [0; 0]);
    let text = running.anonymous(Method::GET, "/metrics").send().await.unwrap();
    let text = text.text().await.unwrap();
    for line in [
        "ipwarden_fleet_reports_total{kind=\"counted\"} 4",
        "ipwarden_fleet_keys_total 4",
        "ipwarden_fleet_store_up 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    // The secret outlives a restart: proxies know their buckets again.
    let running = running.restart().await;
    assert_eq!(answered(&running, &report(1, 1, &[])).await.secret, first.secret);
}

#[tokio::test]
async fn what_is_no_report_is_refused() {
    let running = Running::start().await;
    let good = report(1, 1, &[]).encode();
    let plain = running.proxy(Method::POST, "/v1/proxies/consumption").body(good.clone());
    problem(plain, 415).await;
    let mut later = good.clone();
    later[4] = 2;
    let refused = problem(send(&running, later), 415).await;
    assert_eq!(refused["detail"], "consumption version 2 is not known here: expected 1");
    let refused = problem(send(&running, good[..9].to_vec()), 400).await;
    assert_eq!(refused["detail"], "consumption is corrupt: its checksum does not match");
    problem(send(&running, vec![0; wire::MAX_REPORT_BYTES + 1]), 413).await;
    let nobody = running.anonymous(Method::POST, "/v1/proxies/consumption").body(good);
    problem(nobody, 401).await;
}

#[tokio::test]
async fn a_reset_fills_the_fleets_bucket_too() {
    let running = Running::start().await;
    let limit = json!({
        "name": "login", "scope": "fleet", "anonymous": {"requests": 5, "per": "1m"},
    });
    let set = running.admin(Method::PUT, "/v1/limits/login").json(&limit);
    assert_eq!(set.send().await.unwrap().status(), 200);
    let secret = answered(&running, &report(1, 1, &[])).await.secret;
    let checked = ipwarden::config::check_limit(limit.to_string().as_bytes()).unwrap();
    let bucket = |key: &str| fleet_buckets(&checked, &secret, key)[0].0;
    let both = [(bucket("203.0.113.7"), 60_000_000), (bucket("203.0.113.8"), 60_000_000)];
    answered(&running, &report(1, 2, &both)).await;
    running.post("/v1/limits/reset", json!({"key": "203.0.113.7", "limit": "login"})).await;
    let asks = both.map(|(id, _)| (id, 0));
    assert_eq!(answered(&running, &report(2, 1, &asks)).await.owes_us, [0, 60_000_000]);
}
