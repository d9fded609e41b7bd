//! From requests that reach Envoy to suspects, and from suspects to refusals.

use std::time::Duration;

use ipwarden_e2e::{Options, System, eventually};
use serde_json::{Value, json};

/// A site with pages that are missing below `/missing/`.
fn site(settings: &str) -> Options {
    let missing = json!({"match": {"prefix": "/missing/"}, "direct_response": {"status": 404}});
    Options { upstream_routes: vec![missing], settings: settings.to_owned(), ..Options::default() }
}

/// Twelve different pages that are not there, as fast as they are answered.
async fn probe(system: &System, client: &str) {
    for n in 0..12 {
        let reply = system.request(client, &format!("/missing/{n}"), &[]).await;
        assert_eq!(reply.status, 404);
    }
}

/// The suspect of an address, and how long it took to appear.
async fn suspect(system: &System, client: &str) -> (Value, Duration) {
    let mut found = Value::Null;
    let took = eventually("the address is a suspect", async || {
        let page = system.api("GET", &format!("/v1/suspects?target={client}"), None).await;
        found = page["suspects"][0].clone();
        found.is_object()
    })
    .await;
    (found, took)
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_missing_pages_make_a_suspect_within_two_seconds() {
    let system = System::start(site("")).await;
    probe(&system, "203.0.113.7").await;
    let (suspect, took) = suspect(&system, "203.0.113.7").await;
    println!("a suspect after {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(
        (&suspect["status"], &suspect["severity"], &suspect["decision"]),
        (&json!("open"), &json!("high"), &Value::Null),
        "{suspect}"
    );
    let reason = &suspect["reasons"][0];
    assert_eq!((&reason["rule"], &reason["source"]), (&json!("probing"), &json!("streaming")));
    let words = reason["detail"].as_str().unwrap_or_default();
    assert!(words.contains("requests for different pages that do not exist"), "{words}");
    let evidence = reason["evidence"].as_array().expect("evidence");
    assert!(!evidence.is_empty(), "{reason}");
    for request in evidence {
        assert_eq!((&request["method"], &request["status"]), (&json!("GET"), &json!(404)));
        assert!(request["path"].as_str().is_some_and(|path| path.starts_with("/missing/")));
    }
    // By default people decide about that.
    assert_eq!(system.status("203.0.113.7").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_probes_is_refused_a_second_later_where_the_policy_blocks() {
    let system = System::start(site("[detect]\nhigh = \"block\"\n")).await;
    probe(&system, "203.0.113.7").await;
    let (_, took) = suspect(&system, "203.0.113.7").await;
    let refused = system.settles("203.0.113.7", 403).await;
    println!("a suspect after {took:?}, refused {refused:?} later");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(refused < Duration::from_secs(1), "{refused:?}");
    assert_eq!(system.status("203.0.113.8").await, 200, "neighbours are not punished");
    let check = system.api("GET", "/v1/decisions/check?ip=203.0.113.7", None).await;
    assert_eq!(check["decision"]["origin"], "detector:probing", "{check}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pass_finds_a_hundred_and_one_requests_and_a_visit_of_admin() {
    let system = System::start(site("")).await;
    let hour = loop {
        for _ in 0..101 {
            system.request("203.0.113.1", "/", &[]).await;
        }
        system.request("203.0.113.2", "/admin", &[]).await;
        eventually("all are stored", async || {
            system.records("ip=203.0.113.1").await.len() % 101 == 0
                && !system.records("ip=203.0.113.2").await.is_empty()
        })
        .await;
        let mut records = system.records("ip=203.0.113.1").await;
        records.truncate(101);
        records.extend(system.records("ip=203.0.113.2").await.into_iter().take(1));
        let hour = |record: &Value| record["time"].as_str().map(|time| time[..13].to_owned());
        let first = hour(&records[0]).expect("a time");
        // Once a day the hour ends in between.
        if records.iter().all(|record| hour(record).as_ref() == Some(&first)) {
            break first;
        }
    };
    let detected = system.cli(&["detect", "--hour", &hour, "-o", "json"]).await;
    let found: Value = serde_json::from_slice(&detected.stdout).expect("JSON");
    let flags = found["flags"].as_array().expect("flags");
    let flagged = |target: &str, rule: &str, words: &str| {
        flags.iter().any(|flag| {
            flag["target"] == target
                && flag["rule"] == rule
                && flag["detail"].as_str().is_some_and(|detail| detail.starts_with(words))
        })
    };
    assert!(flagged("203.0.113.1", "hourly-volume", "101 requests in the hour"), "{found}");
    assert!(
        flagged("203.0.113.2", "sensitive-path", "visited the sensitive path /admin"),
        "{found}"
    );
    for client in ["203.0.113.1", "203.0.113.2"] {
        let (suspect, _) = suspect(&system, client).await;
        assert_eq!(suspect["status"], "open", "{suspect}");
        assert_eq!(system.status(client).await, 200, "neither is blocked");
    }
}
