//! What another system knew before: stored, not judged, and once.

use ipwarden::record::wire;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Running, batch, faults, ok, problem, until};

#[tokio::test]
async fn past_records_are_stored_once_and_no_detector_sees_them() {
    let running = Running::start().await;
    let send = |path| {
        let request = running.admin(Method::POST, path).header("content-type", wire::CONTENT_TYPE);
        ok(request.body(batch(1, 1, 4)))
    };
    assert_eq!(send("/v1/import/requests").await, json!({"stored": 4, "duplicate": false}));
    assert_eq!(send("/v1/import/requests").await, json!({"stored": 0, "duplicate": true}));
    assert_eq!(running.get("/v1/requests").await["records"].as_array().unwrap().len(), 4);
    // What comes the other way is seen, after it.
    let shipped: Value = running.ship(batch(2, 1, 3)).await.json().await.unwrap();
    assert_eq!(shipped["stored"], 3);
    let metrics = &running.service.app().metrics;
    until(|| metrics.detect.observed.get() >= 3).await;
    assert_eq!(metrics.detect.observed.get(), 3);
    let audit = running.get("/v1/audit").await;
    let line = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .find(|line| line["action"] == "requests.import")
        .unwrap();
    assert_eq!(
        (&line["subject"], &line["detail"]),
        (&json!("edge-1"), &json!("batch 1 of 4 records"))
    );
}

#[tokio::test]
async fn suspects_of_another_system_are_for_review_and_noted_once() {
    // Even where everything would be blocked.
    let running = Running::start_with(|config| {
        config.detect.policy.responses =
            [ipwarden_control_plane::detect::policy::Response::Block; 4];
    })
    .await;
    let body = json!({"source": "ip_tracking", "suspects": [
        {"ip": "203.0.113.7", "reason": "more than 100 requests an hour", "seen_at": "2026-11-21T08:00:00Z"},
        {"ip": "2001:db8:1:2:3::4", "reason": "sensitive path"},
    ]});
    let mut dry = body.clone();
    dry["dry_run"] = json!(true);
    let told = json!({"added": 2, "known": 0, "dismissed": 0});
    assert_eq!(running.post("/v1/import/suspects", dry).await, told);
    assert_eq!(running.get("/v1/suspects").await["total"], 0);
    assert_eq!(running.post("/v1/import/suspects", body.clone()).await, told);
    let again = running.post("/v1/import/suspects", body.clone()).await;
    assert_eq!(again, json!({"added": 0, "known": 2, "dismissed": 0}));
    let suspects = running.get("/v1/suspects").await;
    assert_eq!(suspects["total"], 2);
    let first = &running.get("/v1/suspects?target=203.0.113.7").await["suspects"][0];
    let reason = &first["reasons"][0];
    assert_eq!((&first["status"], &first["severity"]), (&json!("open"), &json!("medium")));
    assert_eq!((&reason["rule"], &reason["count"]), (&json!("imported"), &json!(1)));
    assert_eq!(reason["detail"], "ip_tracking: more than 100 requests an hour");
    assert_eq!(reason["last_seen"], "2026-11-21T08:00:00Z");
    assert_eq!(running.get("/v1/suspects?target=2001:db8:1:2::/64").await["total"], 1);
    assert_eq!(running.get("/v1/decisions").await["total"], 0, "nobody is blocked for it");
    // A false alarm stays one.
    let id = first["id"].as_i64().unwrap();
    running.post(&format!("/v1/suspects/{id}/dismiss"), json!({})).await;
    let mut other = body;
    other["suspects"] = json!([{"ip": "203.0.113.7", "reason": "again"}]);
    let told = running.post("/v1/import/suspects", other).await;
    assert_eq!(told, json!({"added": 0, "known": 0, "dismissed": 1}));
}

#[tokio::test]
async fn what_is_wrong_with_imported_suspects_is_named_and_nothing_is_noted() {
    let running = Running::start().await;
    let body = json!({"source": " ", "suspects": [
        {"ip": "203.0.113.7", "reason": ""},
        {"ip": "203.0.113.0/24", "reason": ""},
        {"ip": "nobody", "reason": ""},
    ]});
    let refused =
        problem(running.admin(Method::POST, "/v1/import/suspects").json(&body), 422).await;
    assert_eq!(
        faults(&refused),
        [
            "source: expected 1 to 64 bytes",
            "suspects[1].ip: a network: expected one address such as 203.0.113.7",
            "suspects[2].ip: 'nobody' is not an IP address: expected one such as 192.0.2.7 or 2001:db8::1, or a CIDR such as 192.0.2.0/24",
        ]
    );
    assert_eq!(running.get("/v1/suspects").await["total"], 0);
}
