//! Batches in, records out.

use std::time::Duration;

use futures_util::StreamExt as _;
use ipwarden::record::wire;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Running, batch, faults, ok, problem, problem_of, until};

#[tokio::test]
async fn a_batch_is_stored_once_and_found() {
    let running = Running::start().await;
    let shipped: Value = running.ship(batch(1, 1, 4)).await.json().await.unwrap();
    assert_eq!(shipped, json!({"stored": 4, "duplicate": false}));
    let again: Value = running.ship(batch(1, 1, 4)).await.json().await.unwrap();
    assert_eq!(again, json!({"stored": 0, "duplicate": true}));

    let page = running
        .get("/v1/requests?ip=203.0.113.0/24&verdict=blocked&status=4xx&path=/page/1/&limit=1")
        .await;
    let record = &page["records"][0];
    assert_eq!(record["path"], "/page/1/3");
    assert_eq!(
        (&record["ip"], &record["status"], &record["verdict"]),
        (&json!("203.0.113.7"), &json!(403), &json!("blocked"))
    );
    assert_eq!((&record["query"], &record["proxy"]), (&Value::Null, &json!("edge-1")));
    assert_eq!(record["time"], "2026-11-22T16:00:00Z");
    let next = page["next"].as_i64().unwrap();
    let page = running.get(&format!("/v1/requests?verdict=blocked&limit=1&before={next}")).await;
    assert_eq!((&page["records"][0]["path"], &page["next"]), (&json!("/page/1/1"), &Value::Null));
    assert_eq!(running.get("/v1/requests?since=1h&until=1s").await["records"], json!([]));
    assert_eq!(running.get("/v1/status").await["records_stored"], 4);
}

#[tokio::test]
async fn the_query_is_stored_only_when_asked_for() {
    let running = Running::start_with(|config| config.store_query = true).await;
    running.ship(batch(1, 1, 1)).await;
    assert_eq!(running.get("/v1/requests").await["records"][0]["query"], "secret=1");
}

#[tokio::test]
async fn an_acknowledged_batch_survives_a_restart() {
    let running = Running::start().await;
    assert_eq!(running.ship(batch(1, 1, 3)).await.status(), 200);
    let running = running.restart().await;
    assert_eq!(running.get("/v1/requests").await["records"].as_array().unwrap().len(), 3);
    let again: Value = running.ship(batch(1, 1, 3)).await.json().await.unwrap();
    assert_eq!(again["duplicate"], true);
}

#[tokio::test]
async fn what_can_not_be_read_is_refused_for_good() {
    let running = Running::start().await;
    let mut corrupt = batch(1, 1, 2);
    *corrupt.last_mut().unwrap() ^= 1;
    let refused = problem_of(running.ship(corrupt).await, 400).await;
    assert_eq!(refused["detail"], "batch is corrupt: its checksum does not match");
    let refused = problem_of(running.ship(b"{}".to_vec()).await, 400).await;
    assert_eq!(refused["detail"], "not a batch of records: expected it to start with IPWR");
    let refused = problem_of(running.ship(vec![0; wire::MAX_BATCH_BYTES + 1]).await, 413).await;
    assert_eq!(refused["detail"], "the body is too large: at most 8388608 bytes");
    let request = running.proxy(Method::POST, "/v1/requests").json(&json!({}));
    let refused = problem(request, 415).await;
    assert_eq!(refused["detail"], "expected content type application/vnd.ipwarden.records");
    assert_eq!(running.get("/v1/requests").await["records"], json!([]));
}

#[tokio::test]
async fn a_batch_without_a_length_is_bounded_too() {
    let running = Running::start().await;
    let chunks = futures_util::stream::iter(
        (0..10).map(|_| Ok::<_, std::io::Error>(vec![0u8; 1024 * 1024])),
    );
    let request = running
        .proxy(Method::POST, "/v1/requests")
        .header("content-type", wire::CONTENT_TYPE)
        .body(reqwest::Body::wrap_stream(chunks));
    problem(request, 413).await;
}

#[tokio::test]
async fn many_batches_at_once_are_all_stored() {
    let running = Running::start().await;
    let ship = |stream| running.ship(batch(stream, 1, 10));
    let answers = futures_util::future::join_all((1..=100).map(ship)).await;
    assert!(answers.iter().all(|answer| answer.status() == 200));
    assert_eq!(running.get("/v1/status").await["records_stored"], 1_000);
}

#[tokio::test]
async fn bad_searches_are_explained() {
    let running = Running::start().await;
    let path = "/v1/requests?ip=300.1.1.1&status=abc&verdict=banned&since=yesterday&limit=10001";
    assert_eq!(
        faults(&problem(running.admin(Method::GET, path), 400).await),
        [
            "ip: '300.1.1.1' is not an IP address: expected one such as 192.0.2.7 or 2001:db8::1, or a CIDR such as 192.0.2.0/24",
            "status: expected a status such as 404, or a class such as 4xx, found 'abc'",
            "verdict: expected some of admitted, blocked, limited, shadow, unready, redirected, unseen, with commas between them, found 'banned'",
            "since: expected RFC 3339 such as 2026-11-22T16:00:00Z, or how long ago such as 1h, found 'yesterday'",
            "limit: expected a number from 1 to 10000, found '10001'",
        ]
    );
}

#[tokio::test]
async fn the_live_stream_shows_what_is_stored_and_ends_with_the_service() {
    let running = Running::start().await;
    let response =
        running.admin(Method::GET, "/v1/requests/live?verdict=blocked").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    running.ship(batch(1, 1, 2)).await;
    let mut chunks = response.bytes_stream();
    let mut text = String::new();
    while !text.contains("\n\n") {
        text.push_str(std::str::from_utf8(&chunks.next().await.unwrap().unwrap()).unwrap());
    }
    let data = text.strip_prefix("event: record\ndata: ").expect(&text);
    let record: Value = serde_json::from_str(data.trim_end()).unwrap();
    assert_eq!(record, running.get("/v1/requests?verdict=blocked").await["records"][0]);
    let stop = running.service.stop();
    let end = async { while chunks.next().await.is_some_and(|chunk| chunk.is_ok()) {} };
    tokio::time::timeout(Duration::from_secs(5), futures_util::future::join(stop, end))
        .await
        .expect("the stream ends");
}

#[tokio::test]
async fn watchers_beyond_the_limit_are_told_to_come_back() {
    let running = Running::start_with(|config| config.limits.live = 1).await;
    let first = running.admin(Method::GET, "/v1/requests/live").send().await.unwrap();
    let second = running.admin(Method::GET, "/v1/requests/live");
    problem(second, 503).await;
    drop(first);
    until(|| running.service.app().live.subscribers() == 0).await;
}

#[tokio::test]
async fn every_look_at_addresses_is_in_the_audit_log() {
    let running = Running::start().await;
    running.get("/v1/requests?ip=203.0.113.7").await;
    running.get("/v1/requests").await;
    let audit = running.get("/v1/audit?limit=2").await;
    let seen: Vec<(&Value, &Value, &Value)> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (&entry["actor"], &entry["action"], &entry["subject"]))
        .collect();
    let (admin, search) = (&json!("admin"), &json!("requests.search"));
    assert_eq!(
        seen,
        [(admin, search, &json!("everything")), (admin, search, &json!("ip=203.0.113.7"))]
    );
    assert!(audit["next"].is_i64());
}

#[tokio::test]
async fn the_fleet_shows_reports_and_polls() {
    let running = Running::start().await;
    running.ship(batch(1, 1, 4)).await;
    running.poll(None, "0s").await;
    let proxies = ok(running.admin(Method::GET, "/v1/proxies")).await;
    assert_eq!(
        proxies,
        json!({"revision": 0, "proxies": [{
            "name": "edge-1",
            "version": "0.1.0",
            "last_seen": "2026-11-22T16:00:00Z",
            "revision": 0,
            "revision_lag": 0,
            "requests_seen": 4,
            "requests_stored": 4,
            "requests_lost": 0,
            "requests_skipped": 0,
            "clock_offset_ms": 0,
            "workers": 1,
        }]})
    );
}
