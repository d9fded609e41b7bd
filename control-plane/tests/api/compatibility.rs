//! Filters of other versions: 0.1.0 as it was frozen, and one of a later version.

use std::path::Path;

use ipwarden::decisions::wire;
use ipwarden::record::wire as records;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::support::{Polled, Running, batch, ok, problem, problem_of};

fn frozen(name: &str) -> Vec<u8> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/wire-0.1.0").join(name);
    std::fs::read(path).unwrap()
}

/// The frozen poll of 0.1.0, with other parameters: the epoch of a test is its own.
fn poll_of_0_1_0(running: &Running, parameters: &str) -> RequestBuilder {
    let head = String::from_utf8(frozen("poll.http")).unwrap();
    let mut lines = head.split("\r\n");
    let target = lines.next().unwrap().split(' ').nth(1).unwrap();
    let (path, _) = target.split_once('?').unwrap();
    let mut request = running.proxy(Method::GET, &format!("{path}?{parameters}"));
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        if !matches!(name, "host" | "authorization") {
            request = request.header(name, value);
        }
    }
    request
}

async fn counted(running: &Running, line: &str) -> bool {
    let text = running.anonymous(Method::GET, "/metrics").send().await.unwrap();
    text.text().await.unwrap().lines().any(|found| found == line)
}

#[tokio::test]
async fn what_a_filter_of_0_1_0_asks_is_answered_in_its_version() {
    let running = Running::start().await;
    running.post("/v1/decisions", json!({"targets": ["203.0.113.0/24"], "action": "block"})).await;
    let response = poll_of_0_1_0(&running, "limits=0&wait=1s").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/vnd.ipwarden.decisions");
    let body = response.bytes().await.unwrap();
    // Magic and version: what 0.1.0 looks at first; the rest is compared byte for byte in
    // tests/wire_compatibility.rs.
    assert_eq!(body[..5], *b"IPWD\x01");
    let message = wire::decode(&body).unwrap();
    assert_eq!(message.header.entries, 1);
    // All its parameters are known.
    let revision = message.header.revision;
    let parameters =
        format!("epoch={}&after={}&limits=0&wait=1ms", revision.epoch, revision.number);
    assert_eq!(poll_of_0_1_0(&running, &parameters).send().await.unwrap().status(), 204);
    let proxies = running.get("/v1/proxies").await;
    assert_eq!(
        (&proxies["proxies"][0]["name"], &proxies["proxies"][0]["version"]),
        (&json!("edge-1"), &json!("0.1.0"))
    );
}

#[tokio::test]
async fn what_a_filter_of_0_1_0_ships_and_reports_is_taken() {
    let running = Running::start().await;
    let shipped: Value = running.ship(frozen("batch.bin")).await.json().await.unwrap();
    assert_eq!(shipped, json!({"stored": 3, "duplicate": false}));
    let found = running.get("/v1/requests?verdict=limited").await;
    let record = &found["records"][0];
    assert_eq!(
        (&record["ip"], &record["form"], &record["weight"], &record["rule"]),
        (&json!("2001:db8:1::"), &json!("truncated"), &json!(7), &json!("login"))
    );
    let found = running.get("/v1/requests?form=pseudonym").await;
    assert_eq!(found["records"][0]["key"], "5ab1c0de");
    let proxies = running.get("/v1/proxies").await;
    let proxy = &proxies["proxies"][0];
    assert_eq!(
        (&proxy["version"], &proxy["requests_seen"], &proxy["requests_stored"]),
        (&json!("0.1.0"), &json!(12), &json!(9))
    );
    let report = running
        .proxy(Method::PUT, "/v1/proxies/limits")
        .header("x-ipwarden-proxy", "edge-1")
        .header("content-type", "application/json")
        .body(frozen("report.json"));
    assert_eq!(report.send().await.unwrap().status(), 204);
    assert_eq!(running.get("/v1/limits").await["limits"][0]["name"], "login");
}

#[tokio::test]
async fn a_later_filter_is_answered_in_the_highest_version_that_both_know() {
    let running = Running::start().await;
    let poll = |accept: &str| {
        running.proxy(Method::GET, "/v1/decisions/stream?wait=1s").header("accept", accept)
    };
    let both = "application/vnd.ipwarden.decisions;version=2, application/vnd.ipwarden.decisions;version=1";
    let body = poll(both).send().await.unwrap().bytes().await.unwrap();
    assert!(matches!(Polled::read(&body), Polled::Snapshot(..)));
    let only_later = "application/vnd.ipwarden.decisions;version=2";
    let refused = problem(poll(only_later), 406).await;
    assert_eq!(
        refused["detail"],
        "none of the accepted versions is spoken here: expected application/vnd.ipwarden.decisions;version=1"
    );
    let line = "ipwarden_stream_answers_total{kind=\"unknown_version\"} 1";
    assert!(counted(&running, line).await);
}

async fn ship_as(running: &Running, content_type: &str, body: Vec<u8>) -> Response {
    let request = running.proxy(Method::POST, "/v1/requests").header("content-type", content_type);
    request.body(body).send().await.unwrap()
}

#[tokio::test]
async fn a_batch_of_a_later_version_is_refused_by_its_version_and_may_come_again() {
    let running = Running::start().await;
    let mut later = batch(1, 1, 2);
    later[4] = 2;
    let refused = problem_of(running.ship(later.clone()).await, 415).await;
    assert_eq!(refused["detail"], "batch version 2 is not known here: expected 1");
    assert!(counted(&running, "ipwarden_ingest_batches_total{kind=\"unknown_version\"} 1").await);
    let second = format!("{};version=2", records::CONTENT_TYPE);
    let refused = problem_of(ship_as(&running, &second, later).await, 415).await;
    assert_eq!(
        refused["detail"],
        "version 2 of application/vnd.ipwarden.records is not known here: expected 1"
    );
    // It was no batch number 1: the same in a version that is known is new.
    let first = format!("{};version=1", records::CONTENT_TYPE);
    let shipped: Value = ship_as(&running, &first, batch(1, 1, 2)).await.json().await.unwrap();
    assert_eq!(shipped, json!({"stored": 2, "duplicate": false}));
}

#[tokio::test]
async fn what_a_later_filter_reports_and_we_do_not_know_is_left_out() {
    let running = Running::start().await;
    let limit = json!({
        "name": "login", "anonymous": {"requests": 5, "per": "1m"}, "of_a_later_version": true,
    });
    let report = running
        .proxy(Method::PUT, "/v1/proxies/limits")
        .header("x-ipwarden-proxy", "edge-1")
        .header("x-ipwarden-version", "0.2.0")
        .json(&json!({"limits": [limit], "news": {"a": 1}}));
    assert_eq!(report.send().await.unwrap().status(), 204);
    let limits = ok(running.admin(Method::GET, "/v1/limits")).await;
    assert_eq!(limits["limits"][0]["name"], "login");
}

/// The limits in the answer to a poll.
async fn limits_of(request: RequestBuilder) -> (u8, Value) {
    let body = request.send().await.unwrap().bytes().await.unwrap();
    let rest = wire::decode_body(&body).unwrap().rest;
    let message = ipwarden::limits::policy::decode(rest).unwrap();
    (rest[4], serde_json::from_slice(message.payload).unwrap())
}

#[tokio::test]
async fn limits_over_the_fleet_count_in_each_proxy_where_a_filter_knows_no_scopes() {
    let running = Running::start().await;
    let mut limit =
        json!({"name": "api", "anonymous": {"requests": 5, "per": "1m"}, "scope": "fleet"});
    let set = running.admin(Method::PUT, "/v1/limits/api").json(&limit);
    assert_eq!(set.send().await.unwrap().status(), 200);
    let newest =
        |path: &str| running.proxy(Method::GET, path).header("accept", ipwarden::decisions::ACCEPT);
    let path = "/v1/decisions/stream?limits=0&wait=1s";
    let (version, told) = limits_of(newest(path)).await;
    assert_eq!((version, &told["limits"]), (2, &json!([limit])));
    limit.as_object_mut().unwrap().remove("scope");
    let (version, told) = limits_of(poll_of_0_1_0(&running, "limits=0&wait=1s")).await;
    assert_eq!((version, &told["limits"]), (1, &json!([limit])));
    // The same beside a delta.
    let body = newest(path).send().await.unwrap().bytes().await.unwrap();
    let at = wire::decode(&body[..body.len() - wire::decode_body(&body).unwrap().rest.len()]);
    let at = at.unwrap().header.revision;
    running.post("/v1/decisions", json!({"targets": ["203.0.113.7"], "action": "block"})).await;
    let parameters = format!("epoch={}&after={}&limits=0&wait=1s", at.epoch, at.number);
    let (version, _) = limits_of(poll_of_0_1_0(&running, &parameters)).await;
    assert_eq!(version, 1);
    let (version, _) = limits_of(newest(&format!("/v1/decisions/stream?{parameters}"))).await;
    assert_eq!(version, 2);
    // Where nothing has a scope everybody is told the same, in version 1.
    let set = running.admin(Method::PUT, "/v1/limits/api").json(&limit);
    assert_eq!(set.send().await.unwrap().status(), 200);
    assert_eq!(limits_of(newest(path)).await.0, 1);
}
