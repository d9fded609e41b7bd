//! Every request is recorded once, with what a person needs to know of it.

use ipwarden_e2e::{Options, System, eventually, plugin};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_record_says_who_asked_for_what_and_what_became_of_it() {
    let system = System::start(Options::default()).await;
    let id = system.decide("block", &["203.0.113.8"], json!({})).await;
    assert!(id > 0);
    system.settles("203.0.113.8", 403).await;
    system.request("203.0.113.7", "/cart/items?secret=1", &[("user-agent", "probe/1.0")]).await;
    eventually("both are stored", async || {
        !system.records("ip=203.0.113.7").await.is_empty()
            && !system.records("ip=203.0.113.8&verdict=blocked").await.is_empty()
    })
    .await;
    let record = &system.records("ip=203.0.113.7").await[0];
    for (field, expected) in [
        ("ip", json!("203.0.113.7")),
        ("method", json!("GET")),
        ("host", json!("site.example")),
        ("path", json!("/cart/items")),
        ("query", json!(null)),
        ("status", json!(200)),
        ("verdict", json!("admitted")),
        ("user_agent", json!("probe/1.0")),
        ("proxy", json!("edge-1")),
        ("weight", json!(1)),
    ] {
        assert_eq!(record[field], expected, "{field}");
    }
    assert!(record["duration_ms"].as_f64().is_some_and(|ms| ms > 0.0 && ms < 5_000.0), "{record}");
    assert!(
        record["bytes_in"].as_u64() > Some(50) && record["bytes_out"].as_u64() > Some(50),
        "{record}"
    );
    assert_eq!(record["request_id"].as_str().map(str::len), Some(36), "{record}");
    let refused = &system.records("ip=203.0.113.8&verdict=blocked").await[0];
    assert_eq!(
        (&refused["status"], refused["decision"].is_u64()),
        (&json!(403), true),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_flood_is_summed_up_and_counted_right() {
    let system = System::start(Options::default()).await;
    system.decide("block", &["203.0.113.8"], json!({})).await;
    system.settles("203.0.113.8", 403).await;
    for _ in 0..500 {
        system.status("203.0.113.8").await;
    }
    let refused = system.stat("ipwarden_requests", "blocked").await;
    assert!(refused >= 500);
    eventually("all are accounted for", async || {
        let records = system.records("ip=203.0.113.8&verdict=blocked").await;
        records.iter().filter_map(|record| record["weight"].as_u64()).sum::<u64>() == refused
    })
    .await;
    let records = system.records("ip=203.0.113.8&verdict=blocked").await;
    assert!(records.len() < 100, "{} records for {refused} requests", records.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn sampling_and_skipping_keep_the_account_right() {
    let mut sampled = plugin();
    sampled["records"] =
        json!({"sample": 10, "skip_paths": ["/healthz"], "sensitive_paths": ["/admin"]});
    let system =
        System::start(Options { concurrency: 1, plugin: Some(sampled), ..Options::default() })
            .await;
    for _ in 0..100 {
        system.request("203.0.113.7", "/", &[]).await;
        system.request("203.0.113.7", "/healthz", &[]).await;
    }
    for _ in 0..7 {
        system.request("203.0.113.7", "/admin/users", &[]).await;
    }
    eventually("the account balances", async || {
        let proxy = system.proxy().await;
        proxy["requests_seen"] == 207
            && proxy["requests_skipped"] == 100
            && proxy["requests_stored"] == 107
    })
    .await;
    let records = system.records("ip=203.0.113.7").await;
    let ordinary: Vec<_> = records.iter().filter(|record| record["path"] == "/").collect();
    assert_eq!(ordinary.len(), 10);
    assert!(ordinary.iter().all(|record| record["weight"] == 10));
    assert_eq!(records.iter().filter(|record| record["path"] == "/admin/users").count(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_configuration_ships_what_the_old_one_held_and_forgets_no_decision() {
    let mut patient = plugin();
    patient["records"] = json!({"max_age": "1m"});
    let mut system =
        System::start(Options { plugin: Some(patient), dynamic: true, ..Options::default() }).await;
    system.decide("block", &["203.0.113.8"], json!({})).await;
    system.settles("203.0.113.8", 403).await;
    for _ in 0..30 {
        system.request("203.0.113.7", "/held", &[]).await;
    }
    let held = system.records("path=/held").await.len();
    assert_eq!(held, 0, "a minute has not passed");
    let mut changed = plugin();
    changed["decisions"] = json!({"refuse_status": 451});
    system.reconfigure(changed);
    system.settles("203.0.113.8", 451).await;
    eventually("the old workers shipped what they held", async || {
        system.records("path=/held").await.len() == 30
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_configuration_keeps_the_old_one() {
    let mut system = System::start(Options { dynamic: true, ..Options::default() }).await;
    system.decide("block", &["203.0.113.8"], json!({})).await;
    system.settles("203.0.113.8", 403).await;
    system.reconfigure(json!({"decisions": {"on_start": "sometimes"}}));
    eventually("the error is named", async || system.envoy_log().contains("decisions.on_start"))
        .await;
    system.settles("203.0.113.8", 403).await;
    assert_eq!(system.status("203.0.113.7").await, 200);
}
