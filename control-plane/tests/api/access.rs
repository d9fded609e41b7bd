//! Who may do what: every route, every role.

use reqwest::Method;
use serde_json::{Value, json};

use ipwarden_control_plane::model::Role;
use ipwarden_control_plane::router::{Access, TABLE};

use crate::support::{Running, problem};

/// What a request without a body or parameters gets when it is let in.
fn let_in(method: &Method, path: &str) -> u16 {
    match (method.as_str(), path) {
        ("POST", "/v1/requests" | "/v1/import/requests") => 415,
        ("POST" | "DELETE", "/v1/decisions") | ("POST", "/v1/decisions/import" | "/v1/tokens") => {
            400
        }
        ("GET", "/v1/decisions/check") | ("POST", "/v1/geo") => 400,
        ("PUT" | "PATCH", "/v1/limits/{name}") => 400,
        ("POST", "/v1/import/suspects") => 400,
        ("POST" | "PATCH" | "DELETE", "/v1/regions") => 400,
        ("POST", "/v1/limits/reset") | ("PUT", "/v1/proxies/limits") => 400,
        ("POST", "/v1/proxies/consumption") => 415,
        ("DELETE", "/v1/tokens/{name}" | "/v1/limits/{name}") => 404,
        ("PUT", "/v1/feeds/{name}") => 400,
        (_, path) if path.starts_with("/v1/feeds/{name}") => 404,
        ("POST", "/privacy/opt-out") => 400,
        // No proxy has reported.
        ("GET", "/.well-known/gpc.json") => 404,
        (_, path) if path.starts_with("/v1/suspects/{id}") => 404,
        ("POST", "/v1/session") => 403,
        ("DELETE", "/v1/session") => 204,
        ("POST", "/v1/retention/run") => 202,
        ("POST", "/v1/keys/rotate") => 201,
        ("DELETE", "/v1/keys/{id}") | ("POST", "/v1/pseudonyms/reveal") => 400,
        ("GET", "/{page}" | "/assets/{file}") => 404,
        _ => 200,
    }
}

fn may(access: Access, role: Option<Role>) -> Result<(), u16> {
    match (access, role) {
        (Access::Public, _) | (_, Some(Role::Admin)) => Ok(()),
        (_, None) => Err(401),
        (Access::AnyRole, Some(_)) => Ok(()),
        (Access::Proxy, Some(Role::Proxy))
        | (Access::Read, Some(Role::Viewer))
        | (Access::Decisions, Some(Role::Bouncer)) => Ok(()),
        _ => Err(403),
    }
}

#[tokio::test]
async fn every_route_asks_every_role() {
    let running = Running::start().await;
    let viewer = running.post("/v1/tokens", json!({"name": "viewer", "role": "viewer"})).await;
    let viewer = viewer["secret"].as_str().unwrap().to_owned();
    let bouncer = running.post("/v1/tokens", json!({"name": "bouncer", "role": "bouncer"})).await;
    let bouncer = bouncer["secret"].as_str().unwrap().to_owned();
    for (method, path, access, _) in TABLE {
        let method = Method::from_bytes(method.as_str().as_bytes()).unwrap();
        let url = path.replace("{name}", "nobody").replace("{ip}", "10.0.0.1").replace("{id}", "7");
        for role in [None].into_iter().chain(Role::ALL.map(Some)) {
            let request = match role {
                None => running.anonymous(method.clone(), &url),
                Some(Role::Proxy) => running.proxy(method.clone(), &url),
                Some(Role::Viewer) => running.anonymous(method.clone(), &url).bearer_auth(&viewer),
                Some(Role::Bouncer) => {
                    running.anonymous(method.clone(), &url).bearer_auth(&bouncer)
                }
                Some(Role::Admin) => running.admin(method.clone(), &url),
            };
            let status = request.send().await.unwrap().status().as_u16();
            let expected =
                may(*access, role).map_or_else(|refused| refused, |()| let_in(&method, path));
            assert_eq!(status, expected, "{method} {path} as {role:?}");
        }
    }
}

#[tokio::test]
async fn the_table_says_what_is_promised() {
    let row = |method: &str, path: &str| {
        TABLE.iter().find(|row| row.0.as_str() == method && row.1 == path).unwrap().2
    };
    assert_eq!(row("GET", "/v1/decisions/stream"), Access::Proxy);
    assert_eq!(row("POST", "/v1/requests"), Access::Proxy);
    assert_eq!(row("PUT", "/v1/proxies/limits"), Access::Proxy);
    assert_eq!(row("GET", "/v1/tokens"), Access::Admin);
    assert_eq!(row("PUT", "/v1/limits/{name}"), Access::Admin);
    for (method, path, access, _) in TABLE {
        let is_login = (method.as_str(), *path) == ("POST", "/v1/session");
        let asks = path.starts_with("/v1/") || path.starts_with("/crowdsec/");
        assert_eq!(*access == Access::Public, !asks || is_login, "{path}");
        let reads = method.as_str() == "GET";
        assert!(
            reads || !matches!(access, Access::Read | Access::Decisions),
            "{method} {path} changes something"
        );
    }
}

#[tokio::test]
async fn every_route_is_documented_and_nothing_else_is() {
    let running = Running::start().await;
    let document: Value =
        running.anonymous(Method::GET, "/openapi.json").send().await.unwrap().json().await.unwrap();
    let mut documented: Vec<(String, String)> = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            documented.push((method.to_uppercase(), path.clone()));
            let place = format!("{method} {path}");
            assert!(operation["summary"].is_string(), "{place}");
            assert!(operation["description"].as_str().unwrap().contains("Needs "), "{place}");
            assert!(!operation["responses"].as_object().unwrap().is_empty(), "{place}");
        }
    }
    documented.sort();
    let mut table: Vec<(String, String)> =
        TABLE.iter().map(|row| (row.0.to_string(), row.1.to_owned())).collect();
    table.sort();
    assert_eq!(documented, table);
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
}

#[tokio::test]
async fn refusals_are_explained() {
    let running = Running::start().await;
    let response = running.anonymous(Method::GET, "/v1/status").send().await.unwrap();
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    let refused = problem(running.anonymous(Method::GET, "/v1/status"), 401).await;
    assert_eq!(refused["detail"], "no token: send 'authorization: Bearer ipw_…'");
    for secret in ["ipw_0", "", "admin", &"ipw_0".repeat(1_000)] {
        let refused =
            problem(running.anonymous(Method::GET, "/v1/status").bearer_auth(secret), 401).await;
        assert_eq!(
            refused["detail"],
            "the token is not known: it was revoked, or belongs to another service"
        );
    }
    let refused = problem(running.proxy(Method::GET, "/v1/status"), 403).await;
    assert_eq!(
        refused["detail"],
        "a token of the role proxy may not do this: it needs a token of the role viewer or admin"
    );
    let response = running.admin(Method::PATCH, "/v1/decisions").send().await.unwrap();
    assert_eq!(response.headers()["allow"], "GET, POST, DELETE");
    let refused = problem(running.admin(Method::PATCH, "/v1/decisions"), 405).await;
    assert_eq!(refused["detail"], "this path doesn't take this method: expected GET, POST, DELETE");
    let refused = problem(running.admin(Method::GET, "/v2"), 404).await;
    assert_eq!(refused["detail"], "there is nothing at this path: see /openapi.json");
}
