//! Add, list, check, remove, import.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Running, faults, ok, problem};

#[tokio::test]
async fn a_decision_is_added_listed_checked_and_removed() {
    let running = Running::start().await;
    let added = running
        .post("/v1/decisions", json!({"targets": ["203.0.113.0/24"], "action": "block", "reason": "scraping", "for": "1h"}))
        .await;
    let decision = json!({
        "id": added["decisions"][0]["id"],
        "target": "203.0.113.0/24",
        "action": "block",
        "origin": "manual",
        "reason": "scraping",
        "created_at": "2026-11-22T16:00:00Z",
        "expires_at": "2026-11-22T17:00:00Z",
    });
    assert_eq!(
        added,
        json!({"revision": 1, "decisions": [decision], "replaced": [], "warnings": []})
    );
    assert_eq!(
        running.get("/v1/decisions").await,
        json!({"revision": 1, "total": 1, "decisions": [decision], "next": null})
    );
    assert_eq!(
        running.get("/v1/decisions/check?ip=::ffff:203.0.113.7").await,
        json!({"ip": "203.0.113.7", "verdict": "blocked", "decision": decision, "hidden": [], "regions": [], "revision": 1})
    );
    let request = json!({"targets": ["203.0.113.0/24", "192.0.2.1"], "action": "block"});
    assert_eq!(
        running.delete("/v1/decisions", request).await,
        json!({"revision": 2, "removed": [decision], "missing": ["192.0.2.1"]})
    );
    assert_eq!(running.get("/v1/decisions/check?ip=203.0.113.7").await["verdict"], "none");
    running.service.stop().await;
}

#[tokio::test]
async fn a_decision_ends_by_the_clock() {
    let running = Running::start().await;
    running
        .post("/v1/decisions", json!({"targets": ["192.0.2.1"], "action": "block", "for": "1h"}))
        .await;
    running.clock.advance(Duration::from_secs(3_600));
    assert_eq!(running.get("/v1/decisions").await["total"], 0);
    assert_eq!(running.get("/v1/decisions/check?ip=192.0.2.1").await["verdict"], "none");
}

#[tokio::test]
async fn the_same_target_is_replaced_and_a_repeat_counts_once() {
    let running = Running::start().await;
    let block = |lifetime: &str| json!({"targets": ["192.0.2.1", "::ffff:192.0.2.1"], "action": "block", "for": lifetime});
    let first = running.post("/v1/decisions", block("1h")).await;
    assert_eq!(first["decisions"].as_array().unwrap().len(), 1);
    let second = running.post("/v1/decisions", block("2h")).await;
    assert_eq!(second["replaced"], json!([first["decisions"][0]["id"]]));
    assert_eq!(running.get("/v1/decisions").await["total"], 1);
}

#[tokio::test]
async fn an_allow_over_a_block_is_named() {
    let running = Running::start().await;
    let allow = running
        .post(
            "/v1/decisions",
            json!({"targets": ["203.0.113.0/24"], "action": "allow", "for": "1h"}),
        )
        .await;
    assert_eq!(allow["warnings"], json!([]));
    let id = &allow["decisions"][0]["id"];
    let message = format!(
        "blocking 203.0.113.7 has no effect: decision {id} allows 203.0.113.0/24 until 2026-11-22T17:00:00Z; remove that allow to make the block work"
    );
    let warning =
        json!({"target": "203.0.113.7", "message": message, "decision": allow["decisions"][0]});
    let block = json!({"targets": ["203.0.113.7", "198.51.100.1"], "action": "block"});
    assert_eq!(running.post("/v1/decisions", block).await["warnings"], json!([warning]));

    let checked = running.get("/v1/decisions/check?ip=203.0.113.7").await;
    assert_eq!(checked["verdict"], "allowed");
    let why = format!("hidden by decision {id}: an allow wins over every block");
    assert_eq!(checked["hidden"][0]["why"], why.as_str());

    let imported =
        import(&running, "action=block", "203.0.113.8\n203.0.113.9\n192.0.2.0/24\n").await;
    assert_eq!(imported["warnings_total"], 2);
    assert_eq!(imported["warnings"][0]["target"], "203.0.113.8");
}

#[tokio::test]
async fn bad_requests_name_every_place_and_change_nothing() {
    let running = Running::start().await;
    let refused = |body: Value, status| {
        let request = running.admin(Method::POST, "/v1/decisions").json(&body);
        async move { faults(&problem(request, status).await) }
    };
    assert_eq!(
        refused(json!({"targets": ["10.0.0.0/33", "10.0.0.1", "10.0.0.1/8"], "action": "block", "for": "1h", "expires_at": "2026-11-22T15:00:00Z"}), 422).await,
        [
            "targets[0]: prefix length '/33' is out of range: expected /0 to /32",
            "targets[2]: '10.0.0.1/8' has bits set beyond its prefix: write 10.0.0.0/8 for the network or 10.0.0.1 for the single address",
            "for: given together with expires_at: give one of them",
        ]
    );
    assert_eq!(
        refused(json!({"targets": ["10.0.0.1"], "action": "block", "expires_at": "2026-11-22T15:00:00Z"}), 422).await,
        ["expires_at: 2026-11-22T15:00:00Z is in the past: the service's clock says 2026-11-22T16:00:00Z"]
    );
    assert_eq!(
        refused(json!({"targets": [], "action": "block"}), 422).await,
        ["targets: empty: expected at least one"]
    );
    assert_eq!(
        refused(json!({"targets": vec!["10.0.0.1"; 1001], "action": "block"}), 422).await,
        [
            "targets: expected at most 1000, found 1001: send more requests, or POST /v1/decisions/import for a list"
        ]
    );
    assert_eq!(
        refused(json!({"targets": ["10.0.0.1"], "action": "block", "fro": "1h"}), 400).await,
        [
            "body: unknown field `fro`, expected one of `targets`, `action`, `reason`, `for`, `expires_at`, `origin` at line 1 column 23"
        ]
    );
    assert_eq!(
        refused(json!({"targets": ["10.0.0.1"], "action": "ban"}), 400).await,
        ["body: unknown variant `ban`, expected `block` or `allow` at line 1 column 15"]
    );
    let request =
        running.admin(Method::DELETE, "/v1/decisions").json(&json!({"targets": ["10.0.0.1"]}));
    assert_eq!(
        faults(&problem(request, 422).await),
        ["body: expected either targets with an action, or ids"]
    );
    let request = running.admin(Method::GET, "/v1/decisions?origin=me&limit=0&page=2");
    assert_eq!(
        faults(&problem(request, 400).await),
        [
            "origin: 'me' is not an origin: expected manual, feed:<name> or detector:<rule>",
            "limit: expected a number from 1 to 1000, found '0'",
            "page: not a parameter here: expected origin, action, inside, before, limit",
        ]
    );
    let request = running.admin(Method::GET, "/v1/decisions/check?ip=203.0.113.0/24");
    assert_eq!(
        faults(&problem(request, 400).await),
        ["ip: expected an IP address such as 192.0.2.7 or 2001:db8::1, found '203.0.113.0/24'"]
    );
    let large = vec![b' '; 1024 * 1024 + 1];
    let request = running.admin(Method::POST, "/v1/decisions").body(large);
    let detail = &problem(request, 413).await["detail"];
    assert_eq!(detail, "the body is too large: at most 1048576 bytes");
    let status = running.get("/v1/status").await;
    assert_eq!((&status["revision"], &status["decisions"]), (&json!(0), &json!(0)));
}

#[tokio::test]
async fn pages_follow_each_other() {
    let running = Running::start().await;
    let targets: Vec<String> = (0..7).map(|n| format!("192.0.2.{n}")).collect();
    running.post("/v1/decisions", json!({"targets": targets, "action": "block"})).await;
    let mut seen = Vec::new();
    let mut path = "/v1/decisions?limit=3&inside=192.0.2.0/24".to_owned();
    loop {
        let page = running.get(&path).await;
        assert_eq!(page["total"], 7);
        seen.extend(page["decisions"].as_array().unwrap().iter().map(|d| d["target"].clone()));
        let Some(next) = page["next"].as_u64() else { break };
        path = format!("/v1/decisions?limit=3&inside=192.0.2.0/24&before={next}");
    }
    let newest_first: Vec<Value> = targets.iter().rev().map(|target| json!(target)).collect();
    assert_eq!(seen, newest_first);
}

#[tokio::test]
async fn a_list_is_imported_whole_or_not_at_all() {
    let running = Running::start().await;
    let imported = import(
        &running,
        "action=block&reason=list&for=1h",
        "# mine\n203.0.113.7\n\n203.0.113.7\n2001:db8::/32 # v6\n",
    )
    .await;
    assert_eq!(
        imported,
        json!({"revision": 1, "added": 2, "replaced": 0, "duplicates": 1, "warnings": [], "warnings_total": 0})
    );
    let again = import(&running, "action=block", "203.0.113.7").await;
    assert_eq!((&again["added"], &again["replaced"]), (&json!(1), &json!(1)));

    let request = running
        .admin(Method::POST, "/v1/decisions/import?action=block")
        .body(b"192.0.2.1\n10.0.0.0/33\n\n\xff\nexample.com\n".to_vec());
    let refused = problem(request, 422).await;
    assert_eq!(
        faults(&refused),
        [
            "line 2: prefix length '/33' is out of range: expected /0 to /32",
            "line 4: not UTF-8: expected an IP address or a CIDR",
            "line 5: 'example.com' is not an IP address: expected one such as 192.0.2.7 or 2001:db8::1, or a CIDR such as 192.0.2.0/24",
        ]
    );
    let request =
        running.admin(Method::POST, "/v1/decisions/import?action=block").body("x\n".repeat(150));
    let refused = problem(request, 422).await;
    assert_eq!((faults(&refused).len(), &refused["errors_total"]), (100, &json!(150)));
    let request = running.admin(Method::POST, "/v1/decisions/import?reason=x").body("192.0.2.1");
    assert_eq!(faults(&problem(request, 400).await), ["action: missing: give block or allow"]);
    let request =
        running.admin(Method::POST, "/v1/decisions/import?action=block").body("# nothing");
    assert_eq!(faults(&problem(request, 422).await), ["body: empty: expected at least one target"]);
    assert_eq!(running.get("/v1/status").await["revision"], 2);
}

#[tokio::test]
async fn an_import_beyond_its_bounds_is_refused() {
    let running = Running::start_with(|config| {
        config.limits.import_targets = 2;
        config.limits.import_bytes = 1_024;
    })
    .await;
    let send =
        |body: String| running.admin(Method::POST, "/v1/decisions/import?action=block").body(body);
    assert_eq!(
        faults(&problem(send("10.0.0.1\n10.0.0.2\n10.0.0.3".into()), 422).await),
        ["body: more than 2 targets: split the list"]
    );
    let refused = problem(send("#".repeat(1_025)), 413).await;
    assert_eq!(refused["detail"], "the body is too large: at most 1024 bytes");
}

async fn import(running: &Running, query: &str, list: &str) -> Value {
    let path = format!("/v1/decisions/import?{query}");
    ok(running
        .admin(Method::POST, &path)
        .header("content-type", "text/plain")
        .body(list.to_owned()))
    .await
}
