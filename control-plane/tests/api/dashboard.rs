//! The dashboard's side of the API: statistics, logins, what viewers see.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::support::{Running, START, batch_of, faults, ok, problem};

const CLIENTS: [&str; 4] = ["203.0.113.7", "203.0.113.9", "2001:db8:1:2::7", "198.51.100.1"];

async fn with_records() -> Running {
    let running = Running::start().await;
    running.ship(batch_of(1, 1, &CLIENTS)).await;
    running.clock.advance(std::time::Duration::from_secs(30));
    running
}

async fn viewer(running: &Running) -> String {
    let made = running.post("/v1/tokens", json!({"name": "guest", "role": "viewer"})).await;
    made["secret"].as_str().unwrap().to_owned()
}

async fn login(running: &Running, token: &str) -> String {
    let response = running
        .anonymous(Method::POST, "/v1/session")
        .header("x-ipwarden-dashboard", "1")
        .json(&json!({"token": token}))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
    cookie.split(';').next().unwrap().to_owned()
}

fn admin_secret(running: &Running) -> String {
    std::fs::read_to_string(running.directory.path().join("admin.token")).unwrap().trim().into()
}

#[tokio::test]
async fn an_overview_counts_what_was_stored() {
    let running = with_records().await;
    let overview = running.get("/v1/stats/overview?since=10m&compare=true&by=address,path").await;
    assert_eq!(overview["total"]["requests"], 4);
    assert_eq!(overview["total"]["refused"], 2);
    assert_eq!(overview["total"]["verdicts"], json!({"admitted": 2, "blocked": 2}));
    assert_eq!(overview["before"]["requests"], 0);
    let blocked = overview["series"]["verdicts"]["blocked"].as_array().unwrap();
    assert_eq!(blocked.iter().filter_map(Value::as_u64).sum::<u64>(), 2);
    assert_eq!(overview["series"]["step_seconds"], 10);
    assert_eq!(overview["tops"]["address"]["distinct"], 4);
    assert_eq!(overview["tops"]["country"]["rows"][0]["key"], "");
    let one = running.get("/v1/stats/tops?ip=203.0.113.0/24&by=address&verdict=blocked").await;
    let rows = &one["tops"]["address"]["rows"];
    assert_eq!(rows, &json!([{"key": "203.0.113.9", "requests": 1, "refused": 1}]));
    assert!(one.get("series").is_none());
}

#[tokio::test]
async fn questions_that_can_not_be_answered_say_why() {
    let running = Running::start().await;
    let bad = "/v1/stats/overview?since=1h&until=2h&step=1s&by=colour&compare=maybe&limit=0";
    let refused = problem(running.admin(Method::GET, bad), 400).await;
    assert_eq!(
        faults(&refused),
        [
            "since: expected a moment before until",
            "compare: expected true or false, found 'maybe'",
            "step: expected a duration from 10s to 52w that makes at most 2000 buckets such as 5m, found '1s'",
            "by: expected some of address, network, pseudonym, pseudonym_network, asn, country, path, host, method, status, user_agent, rule, verdict, proxy, with commas between them, found 'colour'",
            "limit: expected a number from 1 to 1000, found '0'",
        ]
    );
    problem(running.proxy(Method::GET, "/v1/stats/map"), 403).await;
}

#[tokio::test]
async fn who_looks_at_addresses_is_noted_once_an_hour() {
    let running = with_records().await;
    let looks = async || {
        let audit = running.get("/v1/audit").await;
        let entries = audit["entries"].as_array().unwrap().clone();
        entries.iter().filter(|entry| entry["action"] == "stats.addresses").count()
    };
    for _ in 0..3 {
        running.get("/v1/stats/tops?by=address").await;
    }
    running.get("/v1/stats/map").await;
    assert_eq!(looks().await, 1);
    running.clock.advance(std::time::Duration::from_secs(3_600));
    running.get("/v1/stats/tops?by=address").await;
    assert_eq!(looks().await, 2);
}

#[tokio::test]
async fn a_session_does_what_its_token_may_until_it_is_closed() {
    let running = Running::start().await;
    let cookie = login(&running, &admin_secret(&running)).await;
    let with = |request: RequestBuilder| request.header("cookie", &cookie);
    let who = ok(with(running.anonymous(Method::GET, "/v1/session"))).await;
    assert_eq!((&who["role"], &who["addresses_masked"]), (&json!("admin"), &json!(false)));
    assert_eq!(who["expires_at"], "2026-11-23T04:00:00Z");
    let block = |request: RequestBuilder| {
        with(request).json(&json!({"targets": ["203.0.113.7"], "action": "block"}))
    };
    let post = || running.anonymous(Method::POST, "/v1/decisions");
    let refused = problem(block(post()), 403).await;
    assert_eq!(
        refused["detail"],
        "a session may change something only with the header x-ipwarden-dashboard"
    );
    let proof = |request: RequestBuilder| block(request).header("x-ipwarden-dashboard", "1");
    problem(proof(post()).header("origin", "https://evil.example"), 403).await;
    problem(proof(post()).header("sec-fetch-site", "cross-site"), 403).await;
    assert!(proof(post()).send().await.unwrap().status().is_success());
    let out = with(running.anonymous(Method::DELETE, "/v1/session"))
        .header("x-ipwarden-dashboard", "1")
        .send()
        .await
        .unwrap();
    assert_eq!(out.status(), 204);
    assert!(out.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    problem(with(running.anonymous(Method::GET, "/v1/session")), 401).await;
    let audit = running.get("/v1/audit").await;
    assert_eq!(audit["entries"][1]["action"], "session.open");
}

#[tokio::test]
async fn a_session_ends_with_its_time_and_with_its_token() {
    let running = Running::start().await;
    let guest = viewer(&running).await;
    let cookie = login(&running, &guest).await;
    let ask = || running.anonymous(Method::GET, "/v1/session").header("cookie", cookie.as_str());
    ok(ask()).await;
    let revoked = running.admin(Method::DELETE, "/v1/tokens/guest").send().await.unwrap();
    assert_eq!(revoked.status(), 204);
    let refused = problem(ask(), 401).await;
    assert_eq!(refused["detail"], "the session has ended: its token was revoked");
    let cookie = login(&running, &admin_secret(&running)).await;
    running.clock.advance(std::time::Duration::from_secs(12 * 3_600));
    problem(running.anonymous(Method::GET, "/v1/session").header("cookie", cookie), 401).await;
}

#[tokio::test]
async fn failed_logins_are_slowed_down_and_proxies_stay_out() {
    let running = Running::start().await;
    let attempt = |token: &str| {
        running
            .anonymous(Method::POST, "/v1/session")
            .header("x-ipwarden-dashboard", "1")
            .json(&json!({"token": token}))
    };
    for _ in 0..10 {
        problem(attempt("ipw_0"), 401).await;
    }
    let refused = attempt(&admin_secret(&running)).send().await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["retry-after"]),
        (429, &"30".parse().unwrap())
    );
    running.clock.advance(std::time::Duration::from_secs(30));
    let proxy = std::fs::read_to_string(running.directory.path().join("proxy.token")).unwrap();
    problem(attempt(proxy.trim()), 403).await;
}

#[tokio::test]
async fn a_viewer_sees_networks_everywhere_and_changes_nothing() {
    let running = with_records().await;
    let block = json!({"targets": ["203.0.113.7", "2001:db8:1:2::7"], "action": "block"});
    running.post("/v1/decisions", block.clone()).await;
    let guest = viewer(&running).await;
    let ask = |path: &str| running.anonymous(Method::GET, path).bearer_auth(&guest);
    for path in [
        "/v1/requests?since=1h",
        "/v1/requests?ip=203.0.113.7",
        "/v1/decisions",
        "/v1/decisions/check?ip=203.0.113.7",
        "/v1/audit",
        "/v1/stats/overview",
        "/v1/geo/203.0.113.7",
    ] {
        let response = ask(path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let text = response.text().await.unwrap();
        for address in ["203.0.113.7", "203.0.113.9", "2001:db8:1:2"] {
            assert!(!text.contains(address), "{path}: {text}");
        }
        serde_json::from_str::<Value>(&text).unwrap();
    }
    // A narrower question than what is seen is a wider one.
    let found = ok(ask("/v1/requests?ip=203.0.113.7")).await;
    let ips: Vec<_> =
        found["records"].as_array().unwrap().iter().map(|record| record["ip"].clone()).collect();
    assert_eq!(ips, [json!("203.0.113.0"), json!("203.0.113.0")]);
    for inside in ["203.0.113.7", "203.0.113.9"] {
        let found = ok(ask(&format!("/v1/decisions?inside={inside}"))).await;
        assert_eq!(found["decisions"][0]["target"], "203.0.113.0", "{inside}");
    }
    let tops = ok(ask("/v1/stats/tops?by=address")).await;
    assert_eq!(tops["tops"]["network"]["rows"][0]["key"], "203.0.113.0/24");
    assert!(tops["tops"].get("address").is_none());
    let cookie = login(&running, &guest).await;
    let act = running.anonymous(Method::POST, "/v1/decisions").header("cookie", cookie);
    problem(act.header("x-ipwarden-dashboard", "1").json(&block), 403).await;
}

#[tokio::test]
async fn viewers_see_addresses_where_that_is_configured() {
    let running = Running::start_with(|config| config.dashboard.viewers_see_addresses = true).await;
    running.ship(batch_of(1, 1, &CLIENTS)).await;
    let guest = viewer(&running).await;
    let found = ok(running.anonymous(Method::GET, "/v1/requests").bearer_auth(&guest)).await;
    assert_eq!(found["records"][3]["ip"], "203.0.113.7");
    assert_eq!(found["records"][3]["time"], START);
}

#[tokio::test]
async fn pages_are_served_under_a_strict_policy() {
    let running = Running::start().await;
    for path in ["/", "/suspects", "/settings"] {
        let response = running.anonymous(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        let page = response.text().await.unwrap();
        assert!(page.contains("ipwarden"));
        assert!(
            !page.contains("<script>") && !page.contains("<style") && !page.contains(" style=")
        );
    }
    problem(running.anonymous(Method::GET, "/nothing"), 404).await;
    problem(running.anonymous(Method::GET, "/assets/nothing.js"), 404).await;
}
