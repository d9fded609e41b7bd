//! What is refused, for other programs: lists, and CrowdSec's bouncers.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Running, ok, problem};

struct Bouncer {
    token: String,
}

impl Bouncer {
    async fn new(running: &Running, name: &str) -> Self {
        let made = running.post("/v1/tokens", json!({"name": name, "role": "bouncer"})).await;
        Self { token: made["secret"].as_str().unwrap().to_owned() }
    }

    async fn get(&self, running: &Running, path: &str) -> Value {
        ok(running.anonymous(Method::GET, path).header("x-api-key", &self.token)).await
    }

    /// `+new` and `-deleted`.
    async fn told(&self, running: &Running, startup: bool) -> Vec<String> {
        let path = format!("/crowdsec/v1/decisions/stream?startup={startup}");
        let told = self.get(running, &path).await;
        let values = |key: &str, sign: &str| -> Vec<String> {
            let list = told[key].as_array().unwrap().iter();
            list.map(|decision| format!("{sign}{}", decision["value"].as_str().unwrap())).collect()
        };
        [values("new", "+"), values("deleted", "-")].concat()
    }
}

async fn block(running: &Running, targets: &[&str], more: Value) {
    let mut body = json!({"targets": targets, "action": "block"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    running.post("/v1/decisions", body).await;
}

#[tokio::test]
async fn a_list_is_sent_once_and_then_only_when_it_changed() {
    let running = Running::start().await;
    let bouncer = Bouncer::new(&running, "nginx").await;
    block(&running, &["203.0.113.0/24"], json!({"for": "1h"})).await;
    block(&running, &["192.0.2.7"], json!({"origin": "feed:drop"})).await;
    let get = async |path: &str, etag: &str| {
        let request = running.anonymous(Method::GET, path).bearer_auth(&bouncer.token);
        let answer = request.header("if-none-match", etag).send().await.unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let (status, etag, age) = (answer.status(), header("etag"), header("cache-control"));
        (status, etag, age, answer.text().await.unwrap())
    };
    let path = "/v1/decisions/export";
    let (status, etag, age, body) = get(path, "\"x\"").await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "203.0.113.0/24\n"));
    assert_eq!(age, "private, max-age=30");
    let (status, same, _, body) = get(path, &format!("\"y\", {etag}")).await;
    assert_eq!((status, &same, body.as_str()), (StatusCode::NOT_MODIFIED, &etag, ""));
    let (_, _, _, all) = get("/v1/decisions/export?feeds=true&format=nginx", "").await;
    let lines: Vec<&str> = all.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines, ["192.0.2.7 1;", "203.0.113.0/24 1;"]);
    running
        .post("/v1/decisions", json!({"targets": ["203.0.113.128/25"], "action": "allow"}))
        .await;
    let (status, _, _, body) = get(path, &etag).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "203.0.113.0/25\n"));
    // Ended: another list without another revision.
    running.clock.advance(Duration::from_secs(3_590));
    assert_eq!(get(path, "").await.2, "private, max-age=10");
    running.clock.advance(Duration::from_secs(10));
    assert_eq!(get(path, &etag).await.3, "");
    problem(running.admin(Method::GET, "/v1/decisions/export?format=xml"), 400).await;
}

#[tokio::test]
async fn a_bouncers_token_reads_what_is_refused_and_nothing_else() {
    let running = Running::start().await;
    let bouncer = Bouncer::new(&running, "edge").await;
    let with_key =
        |method, path: &str| running.anonymous(method, path).header("x-api-key", &bouncer.token);
    problem(with_key(Method::GET, "/v1/decisions"), 401).await;
    let bearer = |path: &str| running.anonymous(Method::GET, path).bearer_auth(&bouncer.token);
    for path in ["/v1/decisions", "/v1/requests", "/v1/audit", "/v1/feeds", "/v1/decisions/stream"]
    {
        problem(bearer(path), 403).await;
    }
    assert_eq!(ok(with_key(Method::GET, "/crowdsec/v1/decisions?ip=192.0.2.1")).await, Value::Null);
    let wrong =
        running.anonymous(Method::GET, "/crowdsec/v1/decisions").header("x-api-key", "ipw_0");
    problem(wrong, 401).await;
    let refused = problem(running.proxy(Method::GET, "/v1/decisions/export"), 403).await;
    assert_eq!(
        refused["detail"],
        "a token of the role proxy may not do this: it needs a token of the role bouncer or admin"
    );
}

#[tokio::test]
async fn a_bouncer_hears_of_blocks_unblocks_allows_and_ends() {
    let running = Running::start().await;
    let bouncer = Bouncer::new(&running, "edge").await;
    block(&running, &["192.0.2.1", "198.51.100.0/24"], json!({"for": "1h"})).await;
    assert_eq!(bouncer.told(&running, true).await, ["+192.0.2.1", "+198.51.100.0/24"]);
    assert_eq!(bouncer.told(&running, false).await, [""; 0]);
    block(&running, &["192.0.2.2"], json!({"for": "2h"})).await;
    let told = bouncer.get(&running, "/crowdsec/v1/decisions/stream").await;
    assert_eq!(
        told,
        json!({"new": [{"id": 3, "origin": "ipwarden", "type": "ban", "scope": "Ip", "value": "192.0.2.2", "duration": "2h0m0s", "scenario": "ipwarden/manual"}], "deleted": []})
    );
    running.delete("/v1/decisions", json!({"targets": ["192.0.2.2"], "action": "block"})).await;
    assert_eq!(bouncer.told(&running, false).await, ["-192.0.2.2"]);
    running.post("/v1/decisions", json!({"targets": ["198.51.100.0/25"], "action": "allow"})).await;
    let told = bouncer.told(&running, false).await;
    assert_eq!(told, ["+198.51.100.128/25", "-198.51.100.0/24"]);
    // Made and unmade between two polls: nothing stays behind.
    block(&running, &["192.0.2.5"], json!({})).await;
    running.delete("/v1/decisions", json!({"targets": ["192.0.2.5"], "action": "block"})).await;
    assert!(!bouncer.told(&running, false).await.contains(&"+192.0.2.5".to_owned()));
    running.clock.advance(Duration::from_secs(3_600));
    let mut told = bouncer.told(&running, false).await;
    told.sort();
    assert_eq!(told, ["-192.0.2.1", "-198.51.100.128/25"]);
    let filtered =
        bouncer.get(&running, "/crowdsec/v1/decisions/stream?startup=true&origins=cscli").await;
    assert_eq!(filtered, json!({"new": [], "deleted": []}));
}

#[tokio::test]
async fn a_bouncer_that_the_service_has_forgotten_is_told_everything_and_what_ended() {
    let running = Running::start().await;
    let bouncer = Bouncer::new(&running, "edge").await;
    block(&running, &["192.0.2.1", "192.0.2.2"], json!({})).await;
    bouncer.told(&running, true).await;
    running.delete("/v1/decisions", json!({"targets": ["192.0.2.2"], "action": "block"})).await;
    let running = running.restart().await;
    assert_eq!(bouncer.told(&running, false).await, ["+192.0.2.1", "-192.0.2.2"]);
    assert_eq!(bouncer.told(&running, false).await, [""; 0]);
}

#[tokio::test]
async fn a_bouncer_may_ask_for_one_address() {
    let running = Running::start().await;
    let bouncer = Bouncer::new(&running, "edge").await;
    block(&running, &["198.51.100.0/24"], json!({})).await;
    let found = bouncer.get(&running, "/crowdsec/v1/decisions?ip=198.51.100.9").await;
    assert_eq!((&found[0]["value"], &found[0]["type"]), (&"198.51.100.0/24".into(), &"ban".into()));
    assert_eq!(bouncer.get(&running, "/crowdsec/v1/decisions?ip=198.51.101.9").await, Value::Null);
    let captcha = "/crowdsec/v1/decisions?ip=198.51.100.9&type=captcha";
    assert_eq!(bouncer.get(&running, captcha).await, Value::Null);
}
