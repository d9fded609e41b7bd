//! Limits: what is in force, changes to it, and what the proxies are told.

use std::time::Duration;

use ipwarden::decisions::{Revision, wire};
use ipwarden::limits::policy;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Running, faults, ok, problem};

/// A limit as the configuration writes it.
fn login() -> Value {
    json!({
        "name": "login", "match": {"path_prefix": ["/login", "/admin"]},
        "anonymous": {"requests": 5, "per": "1m"}, "authenticated": {"requests": 10, "per": "1m"},
    })
}

/// A proxy that follows the stream.
struct Edge<'a> {
    running: &'a Running,
    name: &'static str,
    at: Option<Revision>,
    number: u64,
    /// The last policy that it got.
    policy: Option<Value>,
}

impl<'a> Edge<'a> {
    /// Reports its limits and polls once.
    async fn connect(running: &'a Running, name: &'static str, limits: Value) -> Self {
        let mut edge = Self { running, name, at: None, number: 0, policy: None };
        edge.report(limits).await;
        edge.poll("0s").await;
        edge
    }

    async fn report(&self, limits: Value) {
        let request = self
            .running
            .proxy(Method::PUT, "/v1/proxies/limits")
            .header("x-ipwarden-proxy", self.name)
            .header("x-ipwarden-instance", "1f")
            .json(&json!({ "limits": limits }));
        assert_eq!(request.send().await.unwrap().status(), StatusCode::NO_CONTENT);
    }

    /// Whether there was anything.
    async fn poll(&mut self, wait: &str) -> bool {
        let mut path = format!("/v1/decisions/stream?wait={wait}&limits={}", self.number);
        if let Some(at) = self.at {
            path.push_str(&format!("&epoch={}&after={}", at.epoch, at.number));
        }
        let request = self.running.proxy(Method::GET, &path).header("x-ipwarden-proxy", self.name);
        let response = request.send().await.unwrap();
        if response.status() == StatusCode::NO_CONTENT {
            return false;
        }
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], wire::CONTENT_TYPE);
        let body = response.bytes().await.unwrap();
        let body = wire::decode_body(&body).unwrap();
        if let Some(last) = body.then.or(body.message) {
            self.at = Some(last.header.revision);
        }
        if !body.rest.is_empty() {
            let message = policy::decode(body.rest).unwrap();
            ipwarden::config::check_policy(message.payload).unwrap();
            self.number = message.number;
            self.policy = Some(serde_json::from_slice(message.payload).unwrap());
        }
        true
    }
}

async fn put(running: &Running, name: &str, limit: Value) -> Value {
    ok(running.admin(Method::PUT, &format!("/v1/limits/{name}")).json(&limit)).await
}

async fn set_mode(running: &Running, name: &str, mode: &str) -> Value {
    let request = running.admin(Method::PATCH, &format!("/v1/limits/{name}"));
    ok(request.json(&json!({ "mode": mode }))).await
}

#[tokio::test]
async fn without_any_change_the_configured_limits_are_in_force() {
    let running = Running::start().await;
    assert_eq!(
        running.get("/v1/limits").await,
        json!({"revision": 0, "number": 0, "limits": [], "resets": []})
    );
    let edge = Edge::connect(&running, "edge-1", json!([login()])).await;
    assert_eq!((edge.number, edge.policy), (0, None));
    assert_eq!(
        running.get("/v1/limits").await["limits"],
        json!([{
            "name": "login", "mode": "enforce", "source": "configuration", "overridden": false,
            "limit": login(), "configured": [], "proxies": ["edge-1"],
            "changed_at": null, "changed_by": null,
        }])
    );
    // Gone with its proxy.
    running.clock.advance(Duration::from_secs(301));
    assert_eq!(running.get("/v1/limits").await["limits"], json!([]));
}

#[tokio::test]
async fn a_limit_is_set_changed_and_taken_back_and_every_proxy_is_told() {
    let running = Running::start().await;
    let mut edge = Edge::connect(&running, "edge-1", json!([login()])).await;
    let mut other = Edge::connect(&running, "edge-2", json!([])).await;

    // The name may be left out, defaults are.
    let limit = json!({"anonymous": {"requests": 3, "per": "60s"}, "key": "ip", "mode": "enforce"});
    let stored = json!({"name": "login", "anonymous": {"requests": 3, "per": "1m"}});
    assert_eq!(
        put(&running, "login", limit).await,
        json!({"revision": 1, "limit": stored, "replaced": false, "proxies": 2})
    );
    assert!(edge.poll("30s").await);
    assert_eq!((edge.number, edge.at.unwrap().number), (1, 1));
    assert_eq!(edge.policy.clone().unwrap(), json!({"limits": [stored], "resets": []}));
    assert!(!edge.poll("0s").await);

    let shadow = json!({"revision": 2, "name": "login", "mode": "shadow", "proxies": 2});
    assert_eq!(set_mode(&running, "login", "shadow").await, shadow);
    assert!(edge.poll("30s").await);
    assert_eq!(edge.policy.clone().unwrap()["limits"][0]["mode"], "shadow");
    let row = running.get("/v1/limits").await["limits"][0].clone();
    assert_eq!(
        row,
        json!({
            "name": "login", "mode": "shadow", "source": "control-plane", "overridden": true,
            "limit": {"name": "login", "anonymous": {"requests": 3, "per": "1m"}, "mode": "shadow"},
            "configured": [{"limit": login(), "proxies": ["edge-1"]}],
            "proxies": ["edge-1", "edge-2"],
            "changed_at": "2026-11-22T16:00:00Z", "changed_by": "admin",
        })
    );

    let removed = ok(running.admin(Method::DELETE, "/v1/limits/login")).await;
    assert_eq!(removed, json!({"revision": 3, "name": "login", "proxies": 1}));
    for edge in [&mut edge, &mut other] {
        assert!(edge.poll("30s").await);
        assert_eq!(edge.policy.clone().unwrap(), json!({"limits": [], "resets": []}));
        assert_eq!(edge.number, 3);
    }
    assert_eq!(running.get("/v1/limits").await["limits"][0]["source"], "configuration");

    let audit = running.get("/v1/audit?limit=3").await;
    let lines: Vec<String> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap().to_owned();
            format!("{} {} {} {}", text("actor"), text("action"), text("subject"), text("detail"))
        })
        .collect();
    assert_eq!(
        lines,
        [
            "admin limits.remove login ".to_owned(),
            "admin limits.mode login shadow".to_owned(),
            format!("admin limits.set login {stored}"),
        ]
    );
}

#[tokio::test]
async fn only_the_mode_of_a_configured_limit_is_changed() {
    let running = Running::start().await;
    let mut edge = Edge::connect(&running, "edge-1", json!([login()])).await;
    let changed = json!({"revision": 1, "name": "login", "mode": "shadow", "proxies": 1});
    assert_eq!(set_mode(&running, "login", "shadow").await, changed);
    assert!(edge.poll("30s").await);
    let wire = json!({"limits": [{"name": "login", "mode": "shadow"}], "resets": []});
    assert_eq!(edge.policy.clone().unwrap(), wire);
    let row = running.get("/v1/limits").await["limits"][0].clone();
    assert_eq!((&row["mode"], &row["source"]), (&json!("shadow"), &json!("configuration")));
    assert_eq!((&row["overridden"], &row["limit"]["mode"]), (&json!(true), &json!("shadow")));
    // It stays, whatever the proxies configure.
    edge.report(json!([])).await;
    let row = running.get("/v1/limits").await["limits"][0].clone();
    assert_eq!((&row["name"], &row["limit"]), (&json!("login"), &Value::Null));
}

#[tokio::test]
async fn changes_survive_a_restart_and_proxies_report_again() {
    let running = Running::start().await;
    put(&running, "login", login()).await;
    let reset = json!({"key": "::ffff:203.0.113.7", "limit": "login"});
    assert_eq!(
        running.post("/v1/limits/reset", reset).await,
        json!({"revision": 2, "id": 1, "key": "203.0.113.7", "limit": "login", "proxies": 0})
    );
    let before = running.get("/v1/limits").await;
    assert_eq!(
        before["resets"],
        json!([{"id": 1, "key": "203.0.113.7", "limit": "login", "time": "2026-11-22T16:00:00Z"}])
    );
    let running = running.restart().await;
    assert_eq!(running.get("/v1/limits").await, before);
    let edge = Edge::connect(&running, "edge-1", json!([login()])).await;
    assert_eq!(edge.number, 2);
    assert_eq!(
        edge.policy.clone().unwrap(),
        json!({
            "limits": [login()],
            "resets": [{"id": 1, "key": "203.0.113.7", "limit": "login"}],
        })
    );
    assert_eq!(running.get("/v1/limits").await["limits"][0]["overridden"], true);
}

#[tokio::test]
async fn a_limit_that_is_none_is_refused_with_every_error_in_its_place() {
    let running = Running::start().await;
    let refused = async |name: &str, body: &str, status| {
        let request = running.admin(Method::PUT, &format!("/v1/limits/{name}"));
        problem(request.body(body.to_owned()), status).await
    };
    let bad = refused("login", r#"{"key": "ipp", "mode": "off", "anonymos": 5}"#, 422).await;
    assert_eq!(bad["detail"], "nothing was changed: the request has errors");
    let places: Vec<&str> = bad["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["place"].as_str().unwrap())
        .collect();
    for place in ["key", "mode", "anonymos", "anonymous"] {
        assert!(places.contains(&place), "{place} in {bad}");
    }
    let twice = r#"{"anonymous": "unlimited", "anonymous": {"requests": 5, "per": "1m"}}"#;
    assert_eq!(
        faults(&refused("login", twice, 422).await),
        ["anonymous: given more than once: keep one of them"]
    );
    let other = r#"{"name": "api", "anonymous": "unlimited"}"#;
    assert_eq!(
        faults(&refused("login", other, 422).await),
        ["name: found 'api': expected 'login', or no name"]
    );
    assert_eq!(
        faults(&refused("login", "[]", 400).await),
        ["body: expected a limit as a JSON object"]
    );
    assert_eq!(
        faults(&refused("Log%20in", "{}", 400).await),
        ["name: no name of a limit: expected 1 to 64 lower-case letters, digits, '-' or '_'"]
    );
    assert_eq!(running.get("/v1/limits").await["revision"], 0);
}

#[tokio::test]
async fn more_limits_than_a_proxy_takes_are_refused() {
    let running = Running::start().await;
    for n in 0..64 {
        put(&running, &format!("l{n}"), json!({"anonymous": "unlimited"})).await;
    }
    let one_more =
        running.admin(Method::PUT, "/v1/limits/l64").json(&json!({"anonymous": "unlimited"}));
    assert_eq!(
        faults(&problem(one_more, 422).await),
        ["limits: found 65 items: expected at most 64"]
    );
    // Less is always possible.
    ok(running.admin(Method::DELETE, "/v1/limits/l0")).await;
    put(&running, "l64", json!({"anonymous": "unlimited"})).await;

    // What a proxy has of its own counts there.
    ok(running.admin(Method::DELETE, "/v1/limits/l64")).await;
    let _edge = Edge::connect(&running, "edge-1", json!([login()])).await;
    let one_more =
        running.admin(Method::PUT, "/v1/limits/l64").json(&json!({"anonymous": "unlimited"}));
    assert_eq!(
        faults(&problem(one_more, 422).await),
        [
            "name: 65 limits would be in force on edge-1: expected at most 64; remove others, there or here"
        ]
    );
    put(&running, "login", login()).await;
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_answered_with_known_ones() {
    let running = Running::start().await;
    let shadow = |name: &str| {
        running.admin(Method::PATCH, &format!("/v1/limits/{name}")).json(&json!({"mode": "shadow"}))
    };
    assert_eq!(
        problem(shadow("logn"), 404).await["detail"],
        "no limit is named logn: no limit is set here, and no connected proxy has reported one"
    );
    put(&running, "api", json!({"anonymous": "unlimited"})).await;
    let _edge = Edge::connect(&running, "edge-1", json!([login()])).await;
    assert_eq!(
        problem(shadow("logn"), 404).await["detail"],
        "no limit is named logn: known are api, login"
    );
    let reset = json!({"key": "203.0.113.7", "limit": "logn"});
    assert_eq!(
        problem(running.admin(Method::POST, "/v1/limits/reset").json(&reset), 404).await["detail"],
        "no limit is named logn: known are api, login"
    );
    assert_eq!(
        problem(running.admin(Method::DELETE, "/v1/limits/login"), 404).await["detail"],
        "nothing to remove: the limit login is as the proxies configure it; it goes when it leaves their configuration"
    );
    assert_eq!(
        problem(running.admin(Method::DELETE, "/v1/limits/logn"), 404).await["detail"],
        "nothing to remove: no limit named logn is changed here; changed here: api"
    );
    let off = running.admin(Method::PATCH, "/v1/limits/api").json(&json!({"mode": "off"}));
    let off = problem(off, 400).await;
    assert!(faults(&off)[0].contains("expected `enforce` or `shadow`"), "{off}");
    assert_eq!(running.get("/v1/limits").await["revision"], 1);
}

#[tokio::test]
async fn a_key_that_is_none_is_told_what_is_expected() {
    let running = Running::start().await;
    let reset = |body: Value| running.admin(Method::POST, "/v1/limits/reset").json(&body);
    let refused = problem(reset(json!({"key": "alice", "limit": "a b"})), 422).await;
    assert_eq!(
        faults(&refused),
        [
            "key: 'alice' is not an IP address: expected one such as 192.0.2.7 or 2001:db8::1, or a CIDR such as 192.0.2.0/24; a key is an address, a CIDR, identity:<identity> or header:<value>, such as 203.0.113.7, 2001:db8::/64 or identity:alice",
            "limit: no name of a limit: expected 1 to 64 lower-case letters, digits, '-' or '_'",
        ]
    );
    for (key, id) in [("identity:alice", 1), ("header:a b", 2), ("2001:DB8::/64", 3)] {
        assert_eq!(ok(reset(json!({ "key": key }))).await["id"], id);
    }
}

#[tokio::test]
async fn a_report_that_is_none_is_refused() {
    let running = Running::start().await;
    let report = |body: String| {
        running
            .proxy(Method::PUT, "/v1/proxies/limits")
            .header("x-ipwarden-proxy", "edge-1")
            .body(body)
    };
    let nameless = running.proxy(Method::PUT, "/v1/proxies/limits").json(&json!({"limits": []}));
    assert_eq!(problem(nameless, 400).await["errors"][0]["place"], "x-ipwarden-proxy");
    let unnamed = json!({"limits": [login(), {"name": "A"}, 7]}).to_string();
    assert_eq!(
        faults(&problem(report(unnamed), 422).await),
        [
            "limits[1].name: expected 1 to 64 lower-case letters, digits, '-' or '_'",
            "limits[2].name: expected 1 to 64 lower-case letters, digits, '-' or '_'",
        ]
    );
    let many = json!({"limits": vec![login(); 65]}).to_string();
    assert_eq!(
        faults(&problem(report(many), 422).await),
        ["limits: found 65: expected at most 64"]
    );
    problem(report(" ".repeat(256 * 1024 + 1)), 413).await;
    problem(report("{".to_owned()), 400).await;
    // What a later filter says of a limit is shown, not refused.
    let later = json!({"limits": [{"name": "login", "later": true}], "more": 1}).to_string();
    assert_eq!(report(later).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(running.get("/v1/limits").await["limits"][0]["limit"]["later"], true);
}
