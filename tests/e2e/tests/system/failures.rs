//! What happens when a part is missing, wrong or killed: the site answers, the account balances.

use std::time::Duration;

use ipwarden_e2e::{Load, Options, System, eventually, now, plugin};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_killed_under_load_costs_no_request_and_no_record_goes_missing_silently() {
    let mut system = System::start(Options::default()).await;
    system.decide("block", &["198.18.1.0/24"], json!({})).await;
    system.settles("198.18.1.1", 403).await;
    let load = Load::start(system.site_port, 8, 2_000);
    eventually("the load is being stored", async || {
        system.proxy().await["requests_stored"].as_u64() > Some(500)
    })
    .await;
    system.kill_control_plane().await;
    let dead_since = now();
    eventually("ten seconds without a control plane", async || {
        dead_since.elapsed() > Duration::from_secs(10)
    })
    .await;
    system.start_control_plane().await;
    eventually("batches are taken again", async || {
        system.proxy().await["requests_seen"].as_u64() > Some(20_000)
    })
    .await;
    let sent = load.stop().await;
    assert_eq!((sent.other, sent.broken), (0, 0), "the site answered all along: {sent:?}");
    assert!(sent.refused > 100 && sent.admitted > 10_000, "{sent:?}");
    // Requests of this test besides the load are in the filter's own count.
    let seen = system.stat("ipwarden_requests", "").await;
    assert!(seen >= sent.answered());
    eventually("sent = stored + lost", async || {
        let proxy = system.proxy().await;
        let count = |field: &str| proxy[field].as_u64().unwrap_or(0);
        count("requests_seen") == seen && count("requests_stored") + count("requests_lost") == seen
    })
    .await;
    let proxy = system.proxy().await;
    // Stored once: what the records themselves say, not the counter beside them.
    let mut weights = 0;
    let mut ids = std::collections::HashSet::new();
    let mut before = String::new();
    loop {
        let page = system.api("GET", &format!("/v1/requests?limit=10000{before}"), None).await;
        for record in page["records"].as_array().expect("records") {
            weights += record["weight"].as_u64().expect("a weight");
            assert!(ids.insert(record["id"].as_i64()));
        }
        match page["next"].as_i64() {
            Some(next) => before = format!("&before={next}"),
            None => break,
        }
    }
    println!(
        "{sent:?}; the filter saw {seen}, stored {weights} in {} records, lost {}",
        ids.len(),
        proxy["requests_lost"]
    );
    assert_eq!(Some(weights), proxy["requests_stored"].as_u64());
    assert_eq!(proxy["requests_lost"], 0, "ten seconds fit into the buffer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_buffer_loses_the_oldest_records_and_says_how_many() {
    let mut small = plugin();
    small["records"] = json!({"buffer_bytes": 65536, "max_batch": 50});
    let mut system = System::start(Options { plugin: Some(small), ..Options::default() }).await;
    system.kill_control_plane().await;
    let load = Load::start(system.site_port, 8, 2_000);
    eventually("records are being lost", async || {
        system.stat("ipwarden_records_lost", "").await > 1_000
    })
    .await;
    system.start_control_plane().await;
    let sent = load.stop().await;
    assert_eq!((sent.other, sent.broken), (0, 0), "{sent:?}");
    let seen = system.stat("ipwarden_requests", "").await;
    eventually("sent = stored + lost", async || {
        let proxy = system.proxy().await;
        let count = |field: &str| proxy[field].as_u64().unwrap_or(0);
        count("requests_seen") == seen && count("requests_stored") + count("requests_lost") == seen
    })
    .await;
    assert_eq!(
        system.proxy().await["requests_lost"],
        system.stat("ipwarden_records_lost", "").await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_leaves_the_site_up_and_is_said_once() {
    let system =
        System::start(Options { token: Some("ipw_wrong".to_owned()), ..Options::default() }).await;
    assert_eq!(system.status("203.0.113.7").await, 200);
    eventually("the refusal is counted", async || {
        system.stat("ipwarden_polls", "refused").await >= 2
    })
    .await;
    let log = system.envoy_log();
    assert_eq!(
        log.matches("the control plane refuses us with 401: check control_plane.token").count(),
        1,
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_configuration_names_every_error_and_envoy_does_not_start() {
    let broken = json!({
        "control_plane": {"cluster": "ipwarden", "token_env": "IPWARDEN_TOKEN"},
        "decisions": {"refuse_status": 200},
        "records": {"max_batch": 0},
        "recods": {},
    });
    let mut system =
        System::start(Options { plugin: Some(broken), envoy_starts: false, ..Options::default() })
            .await;
    eventually("Envoy ends", async || system.envoy_has_ended()).await;
    let log = system.envoy_log();
    for place in ["decisions.refuse_status", "records.max_batch", "recods", "3 errors"] {
        assert!(log.contains(place), "{place} is not named in: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_environment_variable_is_named() {
    let mut elsewhere = plugin();
    elsewhere["control_plane"]["token_env"] = json!("NOT_PASSED_TO_THE_VM");
    let mut system = System::start(Options {
        plugin: Some(elsewhere),
        envoy_starts: false,
        ..Options::default()
    })
    .await;
    eventually("Envoy ends", async || system.envoy_has_ended()).await;
    let log = system.envoy_log();
    assert!(log.contains("the VM has no environment variable NOT_PASSED_TO_THE_VM"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_cluster_leaves_the_site_up() {
    let mut lost = plugin();
    lost["control_plane"]["cluster"] = json!("nowhere");
    let system = System::start(Options {
        plugin: Some(lost),
        token: Some("unused".to_owned()),
        ..Options::default()
    })
    .await;
    assert_eq!(system.status("203.0.113.7").await, 200);
    eventually("the failure is counted", async || {
        system.stat("ipwarden_polls", "failed").await >= 2
    })
    .await;
    assert_eq!(system.status("203.0.113.7").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_without_any_configuration_admits_and_asks_nobody() {
    let with = std::fs::read_to_string(ipwarden_e2e::root().join("envoy/envoy.yaml"))
        .expect("the bootstrap");
    let start = with.find("                configuration:\n").expect("the configuration");
    let end = start + with[start..].find("          - name:").expect("the next filter");
    let system = System::start(Options {
        replace: vec![(with[start..end].to_owned(), String::new())],
        token: Some("unused".to_owned()),
        ..Options::default()
    })
    .await;
    assert_eq!(system.status("203.0.113.7").await, 200);
    assert_eq!(system.stat("ipwarden_requests", "admitted").await, 1);
    assert_eq!(system.stat("ipwarden_polls", "").await, 0);
}
