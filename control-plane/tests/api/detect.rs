//! The hourly pass over what was shipped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipwarden::record::{BatchHeader, Record, Verdict, wire};
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Running, START, faults, ok, problem, until};

/// A request as a proxy reports it.
#[derive(Debug, Clone, Copy)]
struct Asked<'a> {
    client: &'a str,
    /// After the start.
    second: u64,
    method: &'a str,
    path: &'a str,
    status: u16,
    agent: &'a str,
}

impl<'a> Asked<'a> {
    fn get(client: &'a str, second: u64, path: &'a str, status: u16) -> Self {
        Self { client, second, method: "GET", path, status, agent: "curl/8" }
    }
}

/// Ships requests in one batch.
async fn ship_all(running: &Running, number: u64, asked: &[Asked<'_>]) {
    let start = START.parse::<Timestamp>().unwrap().as_microsecond().cast_unsigned();
    let header = BatchHeader {
        stream: 7,
        number,
        started_us: start,
        sent_us: start,
        proxy: b"edge-1",
        version: b"0.1.0",
        key: None,
        applied: Default::default(),
        seen: 0,
        lost: 0,
        skipped: 0,
    };
    let mut records = Vec::new();
    let mut previous = start;
    for asked in asked {
        let record = Record {
            time_us: start + asked.second * 1_000_000,
            ip: Some(asked.client.parse().unwrap()),
            form: ipwarden::privacy::AddressForm::Full,
            opted_out: false,
            verdict: Verdict::Admitted,
            weight: 1,
            decision: 0,
            rule: b"",
            method: asked.method.as_bytes(),
            host: b"shop.example",
            path: asked.path.as_bytes(),
            query: b"",
            status: asked.status,
            flags: 0,
            duration_us: 1_000,
            bytes_in: 100,
            bytes_out: 200,
            user_agent: asked.agent.as_bytes(),
            request_id: b"",
            country: None,
            city: b"",
            asn: None,
            identity: b"",
        };
        wire::put_record(&mut records, previous, &record);
        previous = record.time_us;
    }
    let batch = wire::encode(&header, start, asked.len() as u32, &records);
    assert_eq!(running.ship(batch).await.status(), 200);
}

/// Ships so many requests of a client, one a second from the start on.
async fn ship(running: &Running, number: u64, client: &str, paths: &[&str]) {
    let asked: Vec<Asked<'_>> =
        (0..).zip(paths).map(|(second, path)| Asked::get(client, second, path, 200)).collect();
    ship_all(running, number, &asked).await;
}

/// Waits until the detectors have looked at so many requests.
async fn observed(running: &Running, requests: u64) {
    let metrics = Arc::clone(&running.service.app().metrics);
    until(|| metrics.detect.observed.get() >= requests).await;
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

#[tokio::test]
async fn what_detectors_hold_back_is_noted_when_the_service_stops() {
    let running = Running::start().await;
    let paths: Vec<String> = (0..17).map(|n| format!("/missing/{n}")).collect();
    let asked: Vec<Asked<'_>> =
        paths.iter().map(|path| Asked::get("203.0.113.7", 0, path, 404)).collect();
    ship_all(&running, 1, &asked).await;
    let running = running.restart().await;
    let suspects = running.get("/v1/suspects").await;
    // The eleventh page flags; those after it are counted with the next flag, or at the end.
    assert_eq!(suspects["suspects"][0]["reasons"][0]["count"], 17, "{suspects}");
}

/// An hour of five clients that mean no harm.
fn harmless() -> Vec<(u64, String, &'static str, String, u16, String)> {
    let mut asked = Vec::new();
    // An office behind one address: 40 programs, 600 requests, the odd missing page or icon.
    for n in 0..600 {
        let (method, path, status) = match n % 100 {
            3 | 57 => ("GET", format!("/missing/{n}"), 404),
            11..=15 => ("GET", format!("/img/{n}.png"), 404),
            31 => ("POST", "/login".to_owned(), 401),
            _ => ("GET", format!("/page/{}", n * 7 % 300), 200),
        };
        let agent = format!("Mozilla/5.0 (Windows NT 10.0) Chrome/{}.0", 100 + n * 7 % 40);
        asked.push((n * 6, "198.51.100.1".to_owned(), method, path, status, agent));
    }
    for n in 0..120 {
        let agent = "kube-probe/1.31".to_owned();
        asked.push((n * 30, "198.51.100.2".to_owned(), "GET", "/healthz".to_owned(), 200, agent));
    }
    // A crawler of a published network, and not a shy one.
    for n in 0..1_200 {
        let status = if n % 10 == 0 { 404 } else { 200 };
        let agent = "Mozilla/5.0 (compatible; Googlebot/2.1)".to_owned();
        asked.push((n * 3, "66.249.66.1".to_owned(), "GET", format!("/p/{n}"), status, agent));
    }
    for n in 0..900 {
        let (path, agent) = (format!("/api/v1/orders/{n}"), "orders-client/3.2".to_owned());
        asked.push((n * 4, "198.51.100.4".to_owned(), "GET", path, 200, agent));
    }
    for n in 0..20 {
        let agent = "Mozilla/5.0 (X11; Linux x86_64) Firefox/145.0".to_owned();
        asked.push((n * 60, "198.51.100.5".to_owned(), "GET", "/old/page".to_owned(), 404, agent));
    }
    asked.sort();
    asked
}

#[tokio::test]
async fn of_five_harmless_clients_none_is_blocked() {
    let running = Running::start().await;
    let asked = harmless();
    let asked: Vec<Asked<'_>> = asked
        .iter()
        .map(|(second, client, method, path, status, agent)| Asked {
            client,
            second: *second,
            method,
            path,
            status: *status,
            agent,
        })
        .collect();
    for (number, batch) in (1..).zip(asked.chunks(500)) {
        ship_all(&running, number, batch).await;
    }
    observed(&running, asked.len() as u64).await;
    running.clock.advance(Duration::from_secs(3_700));
    running.post("/v1/detect", json!({})).await;
    let page = running.get("/v1/suspects").await;
    let listed: BTreeMap<&str, Vec<&str>> = page["suspects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|suspect| {
            let reasons = suspect["reasons"].as_array().unwrap();
            let rules = reasons.iter().map(|reason| reason["rule"].as_str().unwrap());
            (suspect["target"].as_str().unwrap(), rules.collect())
        })
        .collect();
    // For review, all of severity low: more than a hundred requests in an hour (which is the
    // original rule), and the office for its visits of /login. Not the crawler: it comes from a
    // network that its owner publishes. Not the bookmark.
    let expected = BTreeMap::from([
        ("198.51.100.1", vec!["hourly-volume", "sensitive-path"]),
        ("198.51.100.2", vec!["hourly-volume"]),
        ("198.51.100.4", vec!["hourly-volume"]),
    ]);
    assert_eq!(listed, expected);
    for suspect in page["suspects"].as_array().unwrap() {
        assert_eq!((&suspect["severity"], &suspect["decision"]), (&json!("low"), &Value::Null));
    }
    assert_eq!(running.get("/v1/decisions").await["total"], 0);
}

#[tokio::test]
async fn a_rule_file_with_errors_is_told_with_line_and_field_and_the_old_rules_stay() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.toml");
    let rule = "[[rule]]\nname = \"tea\"\ndescription = \"Asks for tea.\"\nsays = \"asks for tea\"\nseverity = \"high\"\ncapacity = 0\nleak = \"1m\"\n[[rule.match]]\n[rule.match.path]\nexact = [\"/tea\"]\n";
    std::fs::write(&file, rule).unwrap();
    let rules = file.clone();
    let running = Running::start_with(|config| config.detect.rules = Some(rules)).await;
    let count = running.get("/v1/status").await["rules"].as_u64().unwrap();

    std::fs::write(&file, rule.replace("severity = \"high\"", "severity = \"awful\"")).unwrap();
    let status = rules_are(&running, |status| !status["rules_problem"].is_null()).await;
    let problem = status["rules_problem"].as_str().unwrap();
    assert!(problem.contains("line 5: rule tea: severity: expected "), "{problem}");
    assert_eq!(status["rules"], count);
    ship_all(&running, 1, &[Asked::get("203.0.113.7", 0, "/tea", 200)]).await;
    observed(&running, 1).await;
    let suspects = loop {
        let found = running.get("/v1/suspects").await;
        if found["total"] == 1 {
            break found;
        }
    };
    assert_eq!(suspects["suspects"][0]["reasons"][0]["rule"], "tea");

    // Longer than before: the file system's clock may be too coarse to tell.
    std::fs::write(&file, format!("# mended\n{rule}")).unwrap();
    rules_are(&running, |status| status["rules_problem"].is_null()).await;
}

/// Waits until the status says so of the rules.
async fn rules_are(running: &Running, holds: impl Fn(&Value) -> bool) -> Value {
    let wait = async {
        loop {
            let status = running.get("/v1/status").await;
            if holds(&status) {
                return status;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it never came")
}
