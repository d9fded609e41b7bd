//! Limits: exact across workers, by verified identity, in memory that does not grow, changed
//! from the control plane.
//!
//! Every client here has an address of its own (and so a bucket of its own); a burst of
//! connections reaches all workers.

mod answers;
mod calls;
mod exact;
mod fleet;
mod identity;
mod live;
mod matching;

use ipwarden_e2e::{System, burst, plugin};
use serde_json::{Value, json};

/// The demo's plugin with these limits.
fn limited(limits: Value) -> Value {
    let mut plugin = plugin();
    plugin["limits"] = limits;
    plugin
}

/// A GET request as text.
fn get(client: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let mut text = format!(
        "GET {target} HTTP/1.1\r\nhost: site.example\r\nconnection: close\r\nx-forwarded-for: {client}\r\n"
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text
}

/// The header of a bearer token.
fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// How many of these requests, fired at once, are admitted. All others must be refused by a
/// limit.
async fn admitted_of(system: &System, requests: Vec<String>) -> usize {
    let replies = burst(system.site_port, requests).await;
    for reply in &replies {
        assert!(matches!(reply.status, 200 | 429), "{reply:?}");
    }
    replies.iter().filter(|reply| reply.status == 200).count()
}

/// How many of `count` GET requests by this client, fired at once, are admitted.
async fn admitted(system: &System, count: usize, client: &str, target: &str) -> usize {
    admitted_of(system, vec![get(client, target, &[]); count]).await
}

/// The same for requests that carry a bearer token.
async fn admitted_with(system: &System, count: usize, client: &str, token: &str) -> usize {
    let request = get(client, "/login", &[("authorization", &bearer(token))]);
    admitted_of(system, vec![request; count]).await
}

/// A limit on `/login` with these rates a minute.
fn login(anonymous: u32, authenticated: u32) -> Value {
    json!({
        "name": "login",
        "match": {"path_prefix": "/login"},
        "anonymous": {"requests": anonymous, "per": "1m"},
        "authenticated": {"requests": authenticated, "per": "1m"},
    })
}

/// Answers of the site without an upstream: where what is measured is the filters.
fn direct() -> Vec<Value> {
    vec![json!({
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "hello\n"}},
    })]
}
