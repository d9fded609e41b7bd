//! The hourly pass over what was shipped.

use std::time::Duration;

use ipwarden::record::{BatchHeader, Record, Verdict, wire};
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Running, START, faults, ok, problem};

/// Ships so many requests of a client, one a second from the start on.
async fn ship(running: &Running, number: u64, client: &str, paths: &[&str]) {
    let start = START.parse::<Timestamp>().unwrap().as_microsecond().cast_unsigned();
    let header = BatchHeader {
        stream: 7,
        number,
        started_us: start,
        sent_us: start,
        proxy: b"edge-1",
        version: b"0.1.0",
        applied: Default::default(),
        seen: 0,
        lost: 0,
        skipped: 0,
    };
    let mut records = Vec::new();
    let mut previous = start;
    for (second, path) in (0u64..).zip(paths) {
        let record = Record {
            time_us: start + second * 1_000_000,
            ip: Some(client.parse().unwrap()),
            verdict: Verdict::Admitted,
            weight: 1,
            decision: 0,
            rule: b"",
            method: b"GET",
            host: b"shop.example",
            path: path.as_bytes(),
            query: b"",
            status: 200,
            flags: 0,
            duration_us: 1_000,
            bytes_in: 100,
            bytes_out: 200,
            user_agent: b"curl/8",
            request_id: b"",
            country: None,
            city: b"",
            asn: None,
            identity: b"",
        };
        wire::put_record(&mut records, previous, &record);
        previous = record.time_us;
    }
    let batch = wire::encode(&header, start, paths.len() as u32, &records);
    assert_eq!(running.ship(batch).await.status(), 200);
}

async fn with_traffic() -> Running {
    let running = Running::start().await;
    ship(&running, 1, "203.0.113.1", &["/page"; 101]).await;
    ship(&running, 2, "203.0.113.2", &["/page"; 100]).await;
    ship(&running, 3, "203.0.113.3", &["/", "/admin/users"]).await;
    running
}

fn found(answer: &Value) -> Vec<String> {
    let flags = answer["flags"].as_array().unwrap();
    flags
        .iter()
        .map(|flag| {
            format!("{}: {}", flag["target"].as_str().unwrap(), flag["detail"].as_str().unwrap())
        })
        .collect()
}

const EXPECTED: [&str; 2] = [
    "203.0.113.1: 101 requests in the hour from 2026-11-22T16:00Z, more than 100",
    "203.0.113.3: visited the sensitive path /admin/users",
];

#[tokio::test]
async fn more_than_a_hundred_requests_and_a_visit_of_admin_are_found_once() {
    let running = with_traffic().await;
    running.clock.advance(Duration::from_secs(3_700));
    let dry = running.post("/v1/detect", json!({"hour": "2026-11-22T16", "dry_run": true})).await;
    assert_eq!(found(&dry), EXPECTED);
    assert_eq!((&dry["addresses"], &dry["requests"]), (&json!(3), &json!(203)));
    assert_eq!(running.get("/v1/suspects").await["total"], 0);

    let first = running.post("/v1/detect", json!({})).await;
    assert_eq!(found(&first), EXPECTED);
    assert_eq!((&first["complete"], &first["already_done"]), (&json!(true), &json!(false)));
    let suspects = running.get("/v1/suspects").await;
    assert_eq!(suspects["total"], 2);
    assert_eq!(suspects["suspects"][0]["reasons"][0]["source"], "hourly");

    let again = running.post("/v1/detect", json!({"hour": "2026-11-22T16"})).await;
    assert_eq!((&again["already_done"], found(&again).len()), (&json!(true), 0));
    let running = running.restart().await;
    running.clock.advance(Duration::from_secs(3_700));
    let again = running.post("/v1/detect", json!({"hour": "2026-11-22T16"})).await;
    assert_eq!(again["already_done"], true);
    let suspects = running.get("/v1/suspects").await;
    assert_eq!((&suspects["total"], &suspects["suspects"][0]["flags"]), (&json!(2), &json!(1)));
}

#[tokio::test]
async fn an_hour_that_is_not_over_is_looked_at_and_done_again() {
    let running = with_traffic().await;
    for _ in 0..2 {
        let answer = running.post("/v1/detect", json!({"hour": "2026-11-22T16"})).await;
        assert_eq!((&answer["complete"], found(&answer).len()), (&json!(false), 2));
    }
    let suspects = running.get("/v1/suspects?target=203.0.113.1").await;
    assert_eq!(suspects["suspects"][0]["reasons"][0]["count"], 101, "counted once");
}

#[tokio::test]
async fn missed_hours_are_caught_up_with() {
    let running = with_traffic().await;
    let pass = running.service.app().pass.clone();
    pass.catch_up().await.unwrap();
    running.clock.advance(Duration::from_secs(5 * 3_600));
    pass.catch_up().await.unwrap();
    pass.catch_up().await.unwrap();
    let suspects = running.get("/v1/suspects").await;
    assert_eq!((&suspects["total"], &suspects["suspects"][0]["flags"]), (&json!(2), &json!(1)));
}

#[tokio::test]
async fn what_is_no_hour_or_has_not_begun_is_refused() {
    let running = Running::start().await;
    for (hour, message) in [
        ("16", "hour: expected an hour in UTC such as 2026-11-22T16"),
        ("2026-11-22T18", "hour: is in the future: expected an hour that has begun"),
    ] {
        let request = running.admin(Method::POST, "/v1/detect").json(&json!({"hour": hour}));
        assert_eq!(faults(&problem(request, 422).await), [message]);
    }
    problem(running.proxy(Method::POST, "/v1/detect"), 403).await;
    ok(running.admin(Method::POST, "/v1/detect")).await;
}
