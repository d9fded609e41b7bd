//! The doctor against the real service and a stand-in for Envoy's admin interface.

use axum::Router;
use axum::routing::get;

use crate::bench::{Bench, alone, record};

/// An Envoy admin interface that runs the filter at `revision`.
fn envoy(bench: &Bench, revision: u64) -> String {
    let info = r#"{"version":"abc/1.40.0/Clean/RELEASE/BoringSSL","state":"LIVE"}"#;
    let stats = serde_json::json!({"stats": [
        {"name": "wasm.envoy.wasm.runtime.v8.created", "value": 3},
        {"name": "wasm.envoy.wasm.runtime.v8.active", "value": 3},
        {"name": format!("wasmcustom.ipwarden_build_info.version={}", ipwarden::VERSION), "value": 1},
        {"name": "wasmcustom.ipwarden_decisions_revision", "value": revision},
        {"name": "wasmcustom.ipwarden_decisions_synced_seconds", "value": crate::bench::now_us() / 1_000_000},
    ]})
    .to_string();
    let admin = Router::new()
        .route("/server_info", get(move || async move { info }))
        .route("/stats", get(move || async move { stats }));
    let listener = bench.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    bench.runtime.spawn(async move { axum::serve(listener, admin).await });
    url
}

fn check<'a>(report: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {report}"))
}

#[test]
fn a_healthy_system_has_nothing_to_mend() {
    let bench = Bench::start();
    bench.ship(1, &[record(b"/")]);
    let admin = envoy(&bench, bench.revision());
    let ended = bench.run(&["doctor", "--envoy-admin", &admin, "-o", "json"]).expect(0);
    let report = ended.json();
    assert_eq!(report["ok"], true);
    assert_eq!(
        report["data_dir"].as_str().unwrap(),
        bench.data_dir().canonicalize().unwrap().display().to_string()
    );
    for name in
        ["service", "token", "version", "clock", "data_dir", "envoy", "filter", "filter_vms"]
    {
        assert_eq!(check(&report, name)["status"], "ok", "{name}: {report}");
    }
    let human = bench.run(&["doctor", "--envoy-admin", &admin]).expect(0);
    assert!(human.stdout.contains("  ok    service     answers at "), "{human:?}");
}

#[test]
fn an_envoy_that_was_named_and_is_gone_fails_and_is_mended() {
    let bench = Bench::start_with(|config| {
        config.envoy_admin = Some("http://127.0.0.1:1".to_owned());
    });
    let ended = bench.run(&["doctor", "-o", "json"]).expect(1);
    let report = ended.json();
    assert_eq!(report["ok"], false);
    assert_eq!(check(&report, "envoy")["status"], "fail");
    assert!(check(&report, "envoy")["mend"].as_str().unwrap().starts_with("start Envoy"));
    assert_eq!(check(&report, "filter")["status"], "skip");
    // No proxy was heard of: to look at, not a failure.
    assert_eq!(check(&report, "proxies")["status"], "warn");
}

#[test]
fn without_a_service_the_other_checks_still_run() {
    let bench = Bench::start();
    let admin = envoy(&bench, 3);
    let ended = alone(
        bench.dir.path(),
        &["doctor", "--url", "http://127.0.0.1:1", "--envoy-admin", &admin, "-o", "json"],
    )
    .expect(3);
    let report = ended.json();
    assert_eq!(check(&report, "service")["status"], "fail");
    assert_eq!(check(&report, "envoy")["status"], "ok");
    assert_eq!(check(&report, "data_dir")["status"], "ok");
    assert_eq!(ended.stderr, "");
}

#[test]
fn a_wrong_token_is_found_and_mended() {
    let bench = Bench::start();
    let file = bench.file("other.token", "ipw_wrong");
    let ended = bench.run(&["doctor", "--token-file", &file, "-o", "json"]).expect(1);
    let report = ended.json();
    assert_eq!(check(&report, "service")["status"], "ok");
    assert_eq!(check(&report, "token")["status"], "fail");
    let ended = bench.run(&["doctor", "--token-file", ".ipwarden/proxy.token", "-o", "json"]);
    let report = ended.expect(1).json();
    assert!(check(&report, "token")["mend"].as_str().unwrap().contains("role viewer or admin"));
}
