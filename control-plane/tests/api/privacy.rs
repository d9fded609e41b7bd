//! What visitors are told, and how they opt out.

use reqwest::redirect::Policy;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::{Running, ok, problem};

fn told(more: Value) -> Value {
    let mut told = json!({
        "address": "full", "ipv4_prefix": 24, "ipv6_prefix": 48, "user_agent": "full",
        "query": "keep", "identity": false, "respect_gpc": true, "respect_dnt": false,
        "opt_out_cookie": "ipwarden_optout",
    });
    if let (Some(told), Value::Object(more)) = (told.as_object_mut(), more) {
        told.extend(more);
    }
    told
}

/// A proxy reports its settings.
async fn report(running: &Running, proxy: &str, privacy: Value) {
    let response = running
        .proxy(Method::PUT, "/v1/proxies/limits")
        .header("x-ipwarden-proxy", proxy)
        .json(&json!({"limits": [], "privacy": privacy}))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 204, "{:?}", response.text().await);
}

async fn page(running: &Running, path: &str) -> (Response, String) {
    let response = running.anonymous(Method::GET, path).send().await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    let again = running.anonymous(Method::GET, path).send().await.unwrap();
    (response, again.text().await.unwrap())
}

#[tokio::test]
async fn the_page_says_what_is_configured_and_changes_with_it() {
    let running = Running::start().await;
    let (response, before) = page(&running, "/privacy").await;
    assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
    let policy = response.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(before.contains("3 days") && before.contains("No proxy has told"), "{before}");

    report(&running, "edge-1", told(json!({"address": "truncate", "ipv4_prefix": 16}))).await;
    let (_, after) = page(&running, "/privacy").await;
    assert!(after.contains("the first 16 bits of IPv4"), "{after}");
    assert!(!after.contains("edge-1"), "a proxy's name is nobody's business");
    report(
        &running,
        "edge-2",
        told(json!({"geo": {"provider": "ipinfo", "authority": "ipinfo.io"}})),
    )
    .await;
    let (_, both) = page(&running, "/privacy").await;
    assert!(both.contains("Our servers differ") && both.contains("ipinfo.io"), "{both}");

    let first = ok(running.anonymous(Method::GET, "/privacy.json")).await;
    assert_eq!(first["edges"].as_array().unwrap().len(), 2);
    assert!(!first.to_string().contains("edge-"), "{first}");
    // Another configuration of the service, the same proxies.
    running.service.stop().await;
    let running = Running::start_in(running.directory, |config| {
        config.privacy.raw_for = std::time::Duration::from_secs(86_400);
        config.privacy.operator = Some("Example & Sons".to_owned());
        config.privacy.contact = Some("privacy@example.com".to_owned());
    })
    .await;
    let (_, changed) = page(&running, "/privacy").await;
    assert!(changed.contains("1 day, ") && changed.contains("Example &amp; Sons"), "{changed}");
    assert!(changed.contains("href=\"mailto:privacy@example.com\""), "{changed}");
    let second = ok(running.anonymous(Method::GET, "/privacy.json")).await;
    assert_ne!(first["version"], second["version"]);
    let (response, text) = page(&running, "/privacy/template").await;
    assert_eq!(response.headers()["content-type"], "text/markdown; charset=utf-8");
    assert!(text.contains("Example & Sons") && text.contains("1 day"), "{text}");
    let (response, _) = page(&running, "/privacy/style.css").await;
    assert_eq!(response.headers()["content-type"], "text/css; charset=utf-8");
}

#[tokio::test]
async fn a_text_keeps_its_version_and_date_while_it_stays_the_same() {
    let running = Running::start().await;
    report(&running, "edge-1", told(json!({}))).await;
    let first = ok(running.anonymous(Method::GET, "/privacy.json")).await;
    assert_eq!(first["published"], "2026-11-22T16:00:00Z");
    running.clock.advance(std::time::Duration::from_secs(60));
    // A second proxy with the same settings is no news.
    report(&running, "edge-2", told(json!({}))).await;
    assert_eq!(ok(running.anonymous(Method::GET, "/privacy.json")).await, first);
    let running = running.restart().await;
    running.clock.advance(std::time::Duration::from_secs(7_200));
    report(&running, "edge-2", told(json!({}))).await;
    assert_eq!(ok(running.anonymous(Method::GET, "/privacy.json")).await, first);
    report(&running, "edge-2", told(json!({"query": "drop"}))).await;
    let changed = ok(running.anonymous(Method::GET, "/privacy.json")).await;
    assert_eq!(changed["published"], "2026-11-22T18:00:00Z");
}

#[tokio::test]
async fn gpc_is_promised_where_every_proxy_respects_it() {
    let running = Running::start().await;
    let path = "/.well-known/gpc.json";
    let unknown = problem(running.anonymous(Method::GET, path), 404).await;
    assert_eq!(unknown["detail"], "no connected proxy has told its settings yet");
    report(&running, "edge-1", told(json!({}))).await;
    let response = running.anonymous(Method::GET, path).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    let said: Value = response.json().await.unwrap();
    assert_eq!(said, json!({"gpc": true, "lastUpdate": "2026-11-22"}));
    report(&running, "edge-2", told(json!({"respect_gpc": false}))).await;
    assert_eq!(ok(running.anonymous(Method::GET, path)).await["gpc"], false);
    // A proxy that says nothing of its privacy promises nothing.
    report(&running, "edge-2", json!({})).await;
    assert_eq!(ok(running.anonymous(Method::GET, path)).await["gpc"], false);
}

#[tokio::test]
async fn a_visitor_opts_out_and_in_again_without_a_script() {
    let running = Running::start().await;
    report(&running, "edge-1", told(json!({}))).await;
    let client = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
    let url = format!("http://{}/privacy/opt-out", running.service.address());
    let choose = |choice: &str, site: &str, proto: &str| {
        client
            .post(&url)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("sec-fetch-site", site)
            .header("x-forwarded-proto", proto)
            .body(format!("choice={choice}"))
    };
    let show = |header: &str, value: &str| client.get(&url).header(header, value);

    let page = show("cookie", "a=b").send().await.unwrap().text().await.unwrap();
    assert!(page.contains("You have not opted out.") && page.contains("method=\"post\""), "{page}");
    let out = choose("out", "same-origin", "https").send().await.unwrap();
    assert_eq!((out.status().as_u16(), &out.headers()["location"]), (303, &url_path()));
    assert_eq!(
        out.headers()["set-cookie"],
        "ipwarden_optout=1; Path=/; Max-Age=31536000; SameSite=Lax; HttpOnly; Secure"
    );
    let page = show("cookie", "ipwarden_optout=1").send().await.unwrap().text().await.unwrap();
    assert!(page.contains("You have opted out in this browser."), "{page}");
    let page = show("sec-gpc", "1").send().await.unwrap().text().await.unwrap();
    assert!(page.contains("Global Privacy Control: you have opted out"), "{page}");
    let back = choose("in", "same-origin", "http").send().await.unwrap();
    assert_eq!(
        back.headers()["set-cookie"],
        "ipwarden_optout=0; Path=/; Max-Age=0; SameSite=Lax; HttpOnly"
    );
    problem(choose("out", "cross-site", "https"), 403).await;
    problem(choose("maybe", "same-origin", "https"), 400).await;
    problem(choose(&"x".repeat(10_000), "same-origin", "https"), 400).await;
    // Two proxies with cookies of their own: both are set.
    report(&running, "edge-2", told(json!({"opt_out_cookie": "other"}))).await;
    let out = choose("out", "none", "https").send().await.unwrap();
    assert_eq!(out.headers().get_all("set-cookie").iter().count(), 2);
}

fn url_path() -> reqwest::header::HeaderValue {
    reqwest::header::HeaderValue::from_static("/privacy/opt-out")
}

#[tokio::test]
async fn there_is_no_opt_out_where_no_proxy_reads_it() {
    let running = Running::start().await;
    let url = "/privacy/opt-out";
    let (_, text) = page(&running, url).await;
    assert!(text.contains("This site reads no cookie for that."), "{text}");
    problem(running.anonymous(Method::POST, url).body("choice=out"), 404).await;
}
