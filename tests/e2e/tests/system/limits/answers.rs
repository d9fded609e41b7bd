//! What a limited client is told, what it pays, and what is recorded of it.

use std::time::Duration;

use ipwarden_e2e::{Options, System, eventually, now, raw_request};
use serde_json::{Value, json};

use super::{admitted, admitted_of, get, limited, login};

fn status_route(path: &str, status: u16) -> Value {
    json!({
        "match": {"path": path},
        "direct_response": {"status": status, "body": {"inline_string": "answer\n"}},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_is_told_how_long_to_wait() {
    let mut told = login(5, 10);
    told["headers"] = json!(true);
    let mut quiet = login(2, 2);
    quiet["name"] = json!("quiet");
    quiet["match"] = json!({"path_prefix": "/quiet"});
    let mut unavailable = login(1, 1);
    unavailable["name"] = json!("rpc");
    unavailable["match"] = json!({"path_prefix": "/rpc"});
    unavailable["grpc_status"] = json!("unavailable");
    let system = System::start(Options {
        plugin: Some(limited(json!([told, quiet, unavailable]))),
        upstream_routes: vec![json!({
            "match": {"path": "/login/moved"},
            "redirect": {"path_redirect": "/elsewhere"},
        })],
        ..Options::default()
    })
    .await;
    let client = "203.0.113.1";
    let reply = system.request(client, "/login", &[]).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("ratelimit-policy"), Some("\"login\";q=5;w=60"), "{reply:?}");
    assert_eq!(reply.header("ratelimit"), Some("\"login\";r=4;t=12"), "{reply:?}");
    assert_eq!(reply.header("retry-after"), None);
    let moved = system.request(client, "/login/moved", &[]).await;
    assert_eq!(moved.status, 301);
    for header in ["ratelimit-policy", "ratelimit", "retry-after"] {
        assert_eq!(moved.header(header), None, "a redirect carries no {header}");
    }
    assert_eq!(admitted(&system, 9, client, "/login").await, 3, "but it cost a token");

    let json = [("accept", "application/json")];
    let reply = system.request(client, "/login", &json).await;
    assert_eq!(reply.status, 429);
    assert_eq!(reply.header("ratelimit-policy"), Some("\"login\";q=5;w=60"), "{reply:?}");
    let wait: u32 =
        reply.header("retry-after").and_then(|wait| wait.parse().ok()).expect("whole seconds");
    assert!((10..=12).contains(&wait), "{reply:?}");
    assert_eq!(reply.header("ratelimit"), Some(&*format!("\"login\";r=0;t={wait}")), "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let problem: Value = serde_json::from_str(&reply.body).expect("JSON");
    assert_eq!(problem["status"], 429);
    assert!(
        problem["type"].as_str().is_some_and(|kind| kind.ends_with("#quota-exceeded")),
        "{problem}"
    );
    assert_eq!(problem["violated-policies"], json!(["login"]), "{problem}");
    assert!(!reply.body.contains("203.0.113.1"), "{problem}");

    // Admitted responses of a limit that does not say so carry nothing; refused ones do.
    let reply = system.request(client, "/quiet", &[]).await;
    assert_eq!((reply.status, reply.header("ratelimit")), (200, None));
    assert_eq!(admitted(&system, 4, client, "/quiet").await, 1);
    let reply = system.request(client, "/quiet", &[]).await;
    assert!(reply.header("ratelimit").is_some() && reply.header("retry-after").is_some());

    for (target, status) in [("/login", "8"), ("/rpc", "14")] {
        system.request(client, target, &[]).await;
        let reply = system.request(client, target, &[("content-type", "application/grpc")]).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.header("grpc-status"), Some(status), "{reply:?}");
        assert!(reply.body.is_empty(), "{reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_logins_drain_the_bucket_faster() {
    let mut dear = login(10, 10);
    dear["cost"] = json!({"default": 1, "status": {"401": 5, "304": 0, "5xx": 2}});
    let system = System::start(Options {
        plugin: Some(limited(json!([dear]))),
        upstream_routes: vec![
            status_route("/login/wrong", 401),
            status_route("/login/same", 304),
            status_route("/login/broken", 503),
        ],
        ..Options::default()
    })
    .await;
    // One after the other: what a response costs is known when it has ended.
    for (n, (target, status, expected)) in [
        ("/login", 200, 10),
        ("/login/wrong", 401, 2),
        ("/login/same", 304, 15),
        ("/login/broken", 503, 5),
    ]
    .into_iter()
    .enumerate()
    {
        let client = format!("203.0.113.{n}");
        let mut answered = 0;
        for _ in 0..15 {
            match system.request(&client, target, &[]).await.status {
                found if found == status => answered += 1,
                found => assert_eq!(found, 429),
            }
        }
        assert_eq!(answered, expected, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_refuses_nobody_and_records_whom_it_would() {
    let mut shadow = login(5, 10);
    shadow["mode"] = json!("shadow");
    shadow["headers"] = json!(true);
    let system =
        System::start(Options { plugin: Some(limited(json!([shadow]))), ..Options::default() })
            .await;
    let mut replies = Vec::new();
    for _ in 0..8 {
        replies.push(system.request("203.0.113.1", "/login", &[]).await);
    }
    for reply in &replies {
        assert_eq!(reply.status, 200);
        for header in ["ratelimit", "ratelimit-policy", "retry-after"] {
            assert_eq!(reply.header(header), None, "{reply:?}");
        }
    }
    eventually("the records are there", async || system.records("ip=203.0.113.1").await.len() == 8)
        .await;
    let records = system.records("ip=203.0.113.1&verdict=shadow").await;
    assert_eq!(records.len(), 3);
    for record in &records {
        assert_eq!((&record["rule"], &record["status"]), (&json!("login"), &json!(200)));
    }
    assert_eq!(system.records("ip=203.0.113.1&verdict=admitted").await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_flood_is_recorded_with_its_rule_and_summed_up() {
    let system = System::start(Options::default()).await;
    let start = now();
    let mut refused = 0;
    for _ in 0..10 {
        refused += 50 - admitted(&system, 50, "203.0.113.1", "/login").await;
    }
    let seconds = start.elapsed().as_secs() as usize;
    assert_eq!(refused, 495);
    eventually("all are accounted for", async || {
        let records = system.records("ip=203.0.113.1&verdict=limited").await;
        records.iter().filter_map(|record| record["weight"].as_u64()).sum::<u64>() == refused as u64
    })
    .await;
    let records = system.records("ip=203.0.113.1&verdict=limited").await;
    // One as it is and one that sums up, each second on each worker.
    assert!(records.len() <= 4 * (seconds + 2), "{} records of {refused}", records.len());
    for record in &records {
        assert_eq!(record["rule"], "login", "{record}");
        assert_eq!(record["status"], 429, "{record}");
    }
    assert_eq!(system.stat("ipwarden_requests", "limited").await, refused as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_request_is_charged_to_no_limit() {
    let system = System::start(Options::default()).await;
    let client = "203.0.113.1";
    system.decide("block", &[client], json!({})).await;
    system.settles(client, 403).await;
    for _ in 0..10 {
        assert_eq!(system.request(client, "/login", &[]).await.status, 403);
    }
    system.undecide("block", &[client]).await;
    system.settles(client, 200).await;
    assert_eq!(admitted(&system, 12, client, "/login").await, 5);
    // Over its limit and then blocked, it is blocked.
    system.decide("block", &[client], json!({})).await;
    system.settles(client, 403).await;
    assert_eq!(system.request(client, "/login", &[]).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allowed_address_is_limited_all_the_same() {
    let system = System::start(Options::default()).await;
    system.decide("allow", &["203.0.113.1"], json!({})).await;
    system.decide("block", &["203.0.113.0/24"], json!({})).await;
    system.settles("203.0.113.2", 403).await;
    assert_eq!(admitted(&system, 12, "203.0.113.1", "/login").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_flood_does_not_keep_its_client_out_for_longer() {
    let drip = json!([{
        "name": "drip",
        "anonymous": {"requests": 1, "per": "1s", "burst": 2},
    }]);
    let system = System::start(Options { plugin: Some(limited(drip)), ..Options::default() }).await;
    let request = get("203.0.113.1", "/", &[]);
    let start = now();
    let mut total = 0;
    while start.elapsed() < Duration::from_secs(3) {
        total += admitted_of(&system, vec![request.clone(); 20]).await;
    }
    assert!(matches!(total, 4..=5), "{total} in {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_body_is_refused_before_the_body_is_there() {
    let system = System::start(Options::default()).await;
    let client = "203.0.113.1";
    assert_eq!(admitted(&system, 9, client, "/login").await, 5);
    for announced in ["content-length: 100000", "transfer-encoding: chunked"] {
        let request = get(client, "/login", &[]).replace("GET", "POST");
        let request = request.replace("\r\n\r\n", &format!("\r\n{announced}\r\n\r\n"));
        assert_eq!(
            raw_request(system.site_port, request.as_bytes()).await.status,
            429,
            "{announced}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_limits_do_is_counted() {
    let mut shadow = login(2, 2);
    shadow["name"] = json!("in-shadow");
    shadow["match"] = json!({"path": "/shadow"});
    shadow["mode"] = json!("shadow");
    let system = System::start(Options {
        plugin: Some(limited(json!([login(5, 10), shadow]))),
        ..Options::default()
    })
    .await;
    assert_eq!(admitted(&system, 30, "203.0.113.1", "/login").await, 5);
    assert_eq!(admitted(&system, 9, "203.0.113.1", "/shadow").await, 9);
    assert_eq!(admitted(&system, 9, "203.0.113.1", "/elsewhere").await, 9);
    for (limit, result, expected) in [
        ("login", "admitted", 5),
        ("login", "refused", 25),
        ("login", "shadow", 0),
        ("in-shadow", "admitted", 2),
        ("in-shadow", "refused", 0),
        ("in-shadow", "shadow", 7),
    ] {
        let tags = format!("result=\"{result}\",limit=\"{limit}\"");
        eventually(&format!("{tags} is {expected}"), async || {
            system.stat("ipwarden_limit_requests", &tags).await == expected
        })
        .await;
    }
    eventually("the table has room for 500 000 clients and more", async || {
        system.stat("ipwarden_limits_slots", "").await >= 500_000
    })
    .await;
    for name in ["ipwarden_limits_evicted_in_debt", "ipwarden_limits_contended"] {
        assert_eq!(system.stat(name, "").await, 0, "{name}");
    }
    for (verdict, expected) in [("admitted", 16), ("limited", 25), ("shadow", 7)] {
        assert_eq!(system.stat("ipwarden_requests", &format!("\"{verdict}\"")).await, expected);
    }
}
