//! Decisions by country and autonomous system: what may be made, and what the proxies are told.

use std::time::Duration;

use ipwarden::decisions::wire;
use ipwarden::geo::regions::MAX_RULES;
use ipwarden::limits::policy;
use reqwest::Method;
use serde_json::{Value, json};

use crate::mmdb::{Mmdb, map};
use crate::support::{Running, faults, ok, problem};

/// What a proxy without anything is told.
async fn policy_of(running: &Running) -> Value {
    let request = running.proxy(Method::GET, "/v1/decisions/stream?wait=0s&limits=0");
    let body = request.send().await.unwrap().bytes().await.unwrap();
    let body = wire::decode_body(&body).unwrap();
    let message = policy::decode(body.rest).unwrap();
    ipwarden::config::check_policy(message.payload).unwrap();
    serde_json::from_slice(message.payload).unwrap()
}

async fn refused(running: &Running, method: Method, body: Value) -> Vec<String> {
    faults(&problem(running.admin(method, "/v1/regions").json(&body), 422).await)
}

#[tokio::test]
async fn a_region_is_refused_at_a_path_told_to_the_proxies_and_taken_back() {
    let running = Running::start().await;
    assert_eq!(running.get("/v1/regions").await, json!({"revision": 0, "regions": []}));
    let made = running
        .post(
            "/v1/regions",
            json!({"targets": ["country:fr", "asn:AS64496", "country:FR"], "path": "/admin/", "for": "4h", "reason": "scans"}),
        )
        .await;
    let rule = |id: u32, target: &str| {
        json!({
            "id": id, "target": target, "path": "/admin", "mode": "enforce", "reason": "scans",
            "created_at": "2026-11-22T16:00:00Z", "created_by": "admin",
            "expires_at": "2026-11-22T20:00:00Z",
        })
    };
    let both = json!([rule(1, "country:FR"), rule(2, "asn:64496")]);
    assert_eq!(
        made,
        json!({"revision": 1, "regions": both, "replaced": [], "missing": [], "warnings": [], "proxies": 0})
    );
    assert_eq!(running.get("/v1/regions").await, json!({"revision": 1, "regions": both}));
    assert_eq!(
        policy_of(&running).await["regions"],
        json!([
            {"id": 1, "region": "country:FR", "path": "/admin", "until": 1_795_377_600},
            {"id": 2, "region": "asn:64496", "path": "/admin", "until": 1_795_377_600},
        ])
    );
    let gone = json!({"targets": ["country:FR", "country:BE"], "path": "/admin"});
    let gone = running.delete("/v1/regions", gone).await;
    assert_eq!((&gone["regions"], &gone["missing"]), (&json!([both[0]]), &json!(["country:BE"])));
    // What has ended is gone by itself, and from the policy too.
    running.clock.advance(Duration::from_secs(4 * 3_600));
    assert_eq!(running.get("/v1/regions").await["regions"], json!([]));
    running.service.app().hub.verify().await.unwrap();
    assert_eq!(policy_of(&running).await.get("regions"), None);
    let audit = running.get("/v1/audit?limit=2").await;
    let line = |n: usize, name: &str| audit["entries"][n][name].as_str().unwrap().to_owned();
    assert_eq!([line(0, "action"), line(0, "detail")], ["regions.unblock", "path /admin"]);
    assert_eq!([line(1, "action"), line(1, "subject")], ["regions.block", "country:FR, asn:64496"]);
    assert_eq!(line(1, "detail"), "path /admin, enforce, block until 2026-11-22T20:00:00Z: scans");
}

#[tokio::test]
async fn a_whole_site_must_be_meant_starts_in_shadow_and_is_switched_on() {
    let running = Running::start().await;
    let found = refused(&running, Method::POST, json!({"targets": ["country:FR"]})).await;
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("path: missing: name a path such as /admin, or say \"whole_site\""),
        "{found:?}"
    );
    let whole = json!({"targets": ["country:FR"], "whole_site": true});
    let mut at_once = whole.clone();
    at_once["mode"] = "enforce".into();
    let found = refused(&running, Method::POST, at_once.clone()).await;
    assert!(
        found[0].starts_with(
            "mode: country:FR has no rule for the whole site yet: one starts in shadow"
        ),
        "{found:?}"
    );
    let made = running.post("/v1/regions", whole.clone()).await;
    assert_eq!(made["regions"][0]["mode"], "shadow");
    assert!(made["warnings"][0].as_str().unwrap().contains("unlawful"), "{made}");
    assert_eq!(
        policy_of(&running).await["regions"],
        json!([{"id": 1, "region": "country:FR", "mode": "shadow"}])
    );
    // Switched on, it keeps everything else, and its mode when it is made again.
    let on = json!({"targets": ["country:FR"], "mode": "enforce"});
    assert!(refused(&running, Method::PATCH, on.clone()).await[0].starts_with("path: missing"));
    let on = running.admin(Method::PATCH, "/v1/regions").json(&at_once);
    let on = ok(on).await;
    assert_eq!(
        (&on["regions"][0]["id"], &on["regions"][0]["mode"]),
        (&json!(1), &json!("enforce"))
    );
    let again = running.post("/v1/regions", whole).await;
    assert_eq!(
        (&again["regions"][0]["mode"], &again["replaced"]),
        (&json!("enforce"), &json!([1]))
    );
    // Back needs nobody's word.
    let back = json!({"targets": ["country:FR"], "mode": "shadow"});
    let back = ok(running.admin(Method::PATCH, "/v1/regions").json(&back)).await;
    assert_eq!(back["regions"][0]["mode"], "shadow");
    let nobody = json!({"targets": ["country:BE"], "mode": "shadow"});
    let nobody = ok(running.admin(Method::PATCH, "/v1/regions").json(&nobody)).await;
    assert_eq!((&nobody["regions"], &nobody["missing"]), (&json!([]), &json!(["country:BE"])));
}

#[tokio::test]
async fn what_can_t_be_a_rule_is_refused_with_all_reasons() {
    let running = Running::start().await;
    assert_eq!(
        refused(
            &running,
            Method::POST,
            json!({"targets": ["country:UK", "country:XX", "203.0.113.7"], "path": "admin", "for": "0s"}),
        )
        .await,
        [
            "targets[1]: 'country:XX' is not a country: expected its code of two letters, such as country:FR",
            "targets[2]: '203.0.113.7' is not a region: expected country:FR or asn:64496",
            "targets: no country has the code UK (ISO 3166-1): the rule would be for nobody; did you mean country:GB?",
            "path: not a path: expected one that starts with /, without a query, such as /admin",
            "for: expected at least one second; leave it out for a decision without an end",
        ]
    );
    let both = json!({"targets": ["country:FR"], "path": "/a", "whole_site": true});
    assert_eq!(
        refused(&running, Method::POST, both).await,
        ["whole_site: given together with path: give one of them"]
    );
    assert_eq!(
        refused(&running, Method::DELETE, json!({"targets": [], "path": "/"})).await,
        [
            "targets: empty: expected at least one",
            "path: '/' is the whole site: leave the path out to mean that",
        ]
    );
    for first in (1..=MAX_RULES).step_by(64) {
        let targets: Vec<String> = (first..first + 64).map(|n| format!("asn:{n}")).collect();
        running.post("/v1/regions", json!({"targets": targets, "path": "/a"})).await;
    }
    assert_eq!(
        refused(&running, Method::POST, json!({"targets": ["asn:9999"], "path": "/a"})).await,
        ["targets: 257 rules would be in force: expected at most 256; remove others first"]
    );
    running.post("/v1/regions", json!({"targets": ["asn:1"], "path": "/a"})).await;
}

#[tokio::test]
async fn a_check_names_the_regions_that_an_address_is_in_and_an_allow_wins() {
    let directory = tempfile::tempdir().unwrap();
    let geo = directory.path().join("geo");
    std::fs::create_dir_all(&geo).unwrap();
    let gb = map([("country_code", "GB".into())]);
    let data = Mmdb::new("country ipvAll", 6).net("81.2.0.0/16", gb).build();
    std::fs::write(geo.join("country.mmdb"), data).unwrap();
    let running = Running::start_in(directory, |_| {}).await;
    let block = json!({"targets": ["country:GB", "country:FR"], "path": "/admin"});
    running.post("/v1/regions", block).await;
    let whole = json!({"targets": ["country:GB"], "whole_site": true});
    running.post("/v1/regions", whole.clone()).await;
    let check = async |path: &str| {
        let checked = running.get(&format!("/v1/decisions/check?ip=81.2.69.160{path}")).await;
        let regions: Vec<(u64, bool)> = checked["regions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (one["rule"]["id"].as_u64().unwrap(), one["applies"] == true))
            .collect();
        (checked["verdict"].as_str().unwrap().to_owned(), regions)
    };
    assert_eq!(check("").await, ("none".to_owned(), vec![(1, false), (3, true)]));
    let blocked = ("blocked".to_owned(), vec![(1, true), (3, true)]);
    assert_eq!(check("&path=/admin/users").await, blocked);
    assert_eq!(check("&path=/x/../admin%3Fq").await, blocked);
    assert_eq!(check("&path=/administrator").await.0, "none");
    let mut on = whole;
    on["mode"] = "enforce".into();
    ok(running.admin(Method::PATCH, "/v1/regions").json(&on)).await;
    assert_eq!(check("").await.0, "blocked");
    running.post("/v1/decisions", json!({"targets": ["81.2.69.160"], "action": "allow"})).await;
    assert_eq!(check("&path=/admin").await.0, "allowed");
    let other = running.get("/v1/decisions/check?ip=192.0.2.1&path=/admin").await;
    assert_eq!((&other["verdict"], &other["regions"]), (&json!("none"), &json!([])));
    let bad =
        problem(running.admin(Method::GET, "/v1/decisions/check?ip=81.2.69.160&path=admin"), 400);
    assert_eq!(faults(&bad.await), ["path: expected a path that starts with /"]);
}
