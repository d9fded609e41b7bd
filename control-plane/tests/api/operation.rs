//! Start, tokens, status, metrics, pages.

use std::os::unix::fs::PermissionsExt as _;

use ipwarden_control_plane::clock::Clock;
use ipwarden_control_plane::config::Config;
use ipwarden_control_plane::model::Role;
use ipwarden_control_plane::serve::Service;
use reqwest::Method;
use serde_json::json;

use crate::support::{Running, config, faults, problem};

#[tokio::test]
async fn the_first_start_writes_private_tokens_and_later_ones_keep_them() {
    let running = Running::start().await;
    let read = |running: &Running, file: &str| {
        std::fs::read_to_string(running.directory.path().join(file)).unwrap()
    };
    for file in ["admin.token", "proxy.token"] {
        let mode =
            std::fs::metadata(running.directory.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
        let token = read(&running, file);
        assert!(token.starts_with("ipw_") && token.len() == 4 + 64 + 1, "{file}");
    }
    let before = (read(&running, "admin.token"), read(&running, "proxy.token"));
    let running = running.restart().await;
    assert_eq!((read(&running, "admin.token"), read(&running, "proxy.token")), before);

    // A new state store knows nothing of old tokens.
    running.service.stop().await;
    let directory = running.directory;
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(directory.path().join(format!("state.db{suffix}")));
    }
    let running = Running::start_in(directory, |_| {}).await;
    assert_ne!(read(&running, "admin.token"), before.0);
    running.get("/v1/status").await;
}

#[tokio::test]
async fn a_lost_admin_token_is_made_anew_and_the_old_one_stays() {
    let running = Running::start().await;
    let path = running.directory.path().join("admin.token");
    let old = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let running = running.restart().await;
    assert_ne!(std::fs::read_to_string(&path).unwrap(), old);
    let status = running.anonymous(Method::GET, "/v1/status").bearer_auth(old.trim());
    assert_eq!(status.send().await.unwrap().status(), 200);
    let tokens = running.get("/v1/tokens").await;
    let names: Vec<&str> = tokens["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["admin", "proxy", "admin-2"]);
}

#[tokio::test]
async fn a_second_service_on_the_same_data_is_refused() {
    let running = Running::start().await;
    let second = Service::start(config(running.directory.path()), Clock::system()).await;
    let Err(error) = second else { panic!("two services share a data directory") };
    assert_eq!(
        error.to_string(),
        format!(
            "data directory {} is in use by another ipwarden: stop that one, or choose another with --data-dir",
            running.directory.path().display()
        )
    );
}

#[tokio::test]
async fn the_proxies_token_may_be_one_that_the_operator_drew() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret").join("proxy.token");
    let chosen = || Config {
        data_dir: directory.path().join("data"),
        proxy_token_file: Some(file.clone()),
        ..config(directory.path())
    };
    let secret = format!("ipw_{}", "0123456789abcdef".repeat(4));
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    // Twice: a restart finds it known.
    for _ in 0..2 {
        std::fs::write(&file, format!("{secret}\n")).unwrap();
        let service = Service::start(chosen(), Clock::system()).await.unwrap();
        let identity = service.app().auth.identify(&secret, jiff::Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((identity.name.as_str(), identity.role), ("proxy", Role::Proxy));
        assert!(!directory.path().join("data/proxy.token").exists());
        service.stop().await;
    }
    std::fs::write(&file, "ipw_secret\n").unwrap();
    let Err(error) = Service::start(chosen(), Clock::system()).await else { panic!("is weak") };
    assert_eq!(
        error.to_string(),
        format!(
            "token file {}: expected one line, ipw_ and 64 hexadecimal digits; make one with: printf 'ipw_%s\\n' \"$(openssl rand -hex 32)\"",
            file.display()
        )
    );
    std::fs::remove_file(&file).unwrap();
    let service = Service::start(chosen(), Clock::system()).await.unwrap();
    let drawn = std::fs::read_to_string(&file).unwrap();
    assert!(service.app().auth.identify(drawn.trim(), jiff::Timestamp::UNIX_EPOCH).is_some());
    service.stop().await;
}

#[tokio::test]
async fn a_used_port_is_named() {
    let running = Running::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.listen = running.service.address();
    let Err(error) = Service::start(config, Clock::system()).await else { panic!("listens twice") };
    let expected = format!("can't listen on {}: Address already in use", running.service.address());
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[tokio::test]
async fn tokens_are_made_used_and_revoked() {
    let running = Running::start().await;
    let request = json!({"name": "edge-eu", "role": "viewer"});
    let created = running.post("/v1/tokens", request.clone()).await;
    assert_eq!(
        created["token"],
        json!({"id": created["token"]["id"], "name": "edge-eu", "role": "viewer", "created_at": "2026-11-22T16:00:00Z", "last_used_at": null})
    );
    let secret = created["secret"].as_str().unwrap();
    let status = || running.anonymous(Method::GET, "/v1/status").bearer_auth(secret);
    assert_eq!(status().send().await.unwrap().status(), 200);
    let tokens = running.get("/v1/tokens").await;
    assert_eq!(tokens["tokens"][2]["last_used_at"], "2026-11-22T16:00:00Z");
    assert!(!tokens.to_string().contains(secret));

    let again = running.admin(Method::POST, "/v1/tokens").json(&request);
    assert_eq!(
        problem(again, 409).await["detail"],
        "a token named edge-eu exists: revoke it or take another name"
    );
    let unnamed =
        running.admin(Method::POST, "/v1/tokens").json(&json!({"name": "a b", "role": "proxy"}));
    assert_eq!(
        faults(&problem(unnamed, 422).await),
        ["name: expected 1 to 64 letters, digits, '-', '_' or '.'"]
    );
    let revoke = || running.admin(Method::DELETE, "/v1/tokens/edge-eu");
    assert_eq!(revoke().send().await.unwrap().status(), 204);
    problem(status(), 401).await;
    problem(revoke(), 404).await;
    let audit = running.get("/v1/audit?limit=2").await;
    assert_eq!(audit["entries"][0]["action"], "token.revoke");
    assert_eq!(audit["entries"][1]["action"], "token.create");
    // Revoked for good.
    let secret = secret.to_owned();
    let running = running.restart().await;
    problem(running.anonymous(Method::GET, "/v1/status").bearer_auth(secret), 401).await;
}

#[tokio::test]
async fn the_status_tells_about_the_service() {
    let running = Running::start_with(|config| {
        config.envoy_admin = Some("http://127.0.0.1:9901".to_owned());
    })
    .await;
    let status = running.get("/v1/status").await;
    let directory = std::fs::canonicalize(running.directory.path()).unwrap();
    assert_eq!(status["version"], "0.1.0");
    assert_eq!(status["started_at"], "2026-11-22T16:00:00Z");
    assert_eq!(status["data_dir"], directory.to_str().unwrap());
    assert_eq!(status["envoy_admin"], "http://127.0.0.1:9901");
    for key in ["epoch", "state_bytes", "log_bytes", "disk_free_bytes", "disk_total_bytes"] {
        assert!(status[key].as_u64().is_some_and(|n| n > 0), "{key}: {status}");
    }
    for key in ["revision", "decisions", "records_stored", "ingest_queue", "polls_waiting"] {
        assert_eq!(status[key], 0, "{key}");
    }
}

#[tokio::test]
async fn public_pages_answer_without_a_token() {
    let running = Running::start().await;
    let get = async |path: &str| {
        let response = running.anonymous(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let headers = response.headers().clone();
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
        assert!(
            headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'")
        );
        (headers, response.text().await.unwrap())
    };
    assert_eq!(get("/healthz").await.1, "ok\n");
    assert_eq!(get("/readyz").await.1, "ready\n");
    let (headers, page) = get("/").await;
    assert_eq!(headers["content-type"], "text/html; charset=utf-8");
    // The dashboard, or how to get it: no script in the page itself either way.
    assert!(page.contains("ipwarden") && !page.contains("<script>"));
    running.get("/v1/decisions").await;
    let (headers, text) = get("/metrics").await;
    assert!(headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    for line in [
        "ipwarden_http_requests_total{route=\"/v1/decisions\",status=\"200\"} 1",
        "ipwarden_revision 0",
        "ipwarden_polls_waiting 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} not in\n{text}");
    }
}

#[tokio::test]
async fn unknown_paths_never_become_labels() {
    let running = Running::start().await;
    running.admin(Method::GET, "/v1/203.0.113.7").send().await.unwrap();
    running.admin(Method::DELETE, "/v1/tokens/203.0.113.7").send().await.unwrap();
    let text =
        running.anonymous(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    assert!(
        text.contains("ipwarden_http_requests_total{route=\"none\",status=\"404\"} 1"),
        "{text}"
    );
    assert!(!text.contains("203.0.113"), "{text}");
}
