//! Who may do what, and what is said to those who may not.

use crate::bench::{Bench, ended};

#[test]
fn a_token_is_made_used_and_revoked() {
    let bench = Bench::start();
    let secret = bench.run(&["token", "create", "ops", "--role", "viewer", "-o", "raw"]).expect(0);
    let secret = secret.stdout.trim().to_owned();
    assert!(secret.starts_with("ipw_"), "{secret}");
    let as_viewer = |arguments: &[&str]| {
        ended(bench.command(arguments).env("IPWARDEN_TOKEN", &secret).output().unwrap())
    };
    as_viewer(&["decisions"]).expect(0);
    let refused = as_viewer(&["block", "203.0.113.7"]).expect(1);
    assert!(
        refused.stderr.starts_with("error: the token from IPWARDEN_TOKEN may not do this: "),
        "{refused:?}"
    );
    assert!(bench.run(&["token"]).expect(0).stdout.contains("ops"));
    assert!(!bench.run(&["token", "list", "-o", "json"]).expect(0).stdout.contains(&secret));
    bench.run(&["token", "revoke", "ops"]).expect(0);
    let refused = as_viewer(&["decisions", "-o", "json"]).expect(1);
    assert_eq!(refused.error()["kind"], "refused");
    let missing = bench.run(&["token", "revoke", "ops"]).expect(1);
    assert_eq!(
        missing.stderr,
        "error: no token is named 'ops': `ipwarden token list` says which there are\n"
    );
}

#[test]
fn without_a_token_the_places_looked_at_are_named() {
    let bench = Bench::start();
    let elsewhere = tempfile::tempdir().unwrap();
    let refused =
        ended(bench.command(&["decisions"]).current_dir(elsewhere.path()).output().unwrap());
    let refused = refused.expect(1);
    assert!(
        refused.stderr.contains(
            "none was found; looked at --token-file, IPWARDEN_TOKEN, .ipwarden/admin.token in "
        ),
        "{refused:?}"
    );
    let named = ended(
        bench
            .command(&["decisions", "--data-dir"])
            .arg(bench.data_dir())
            .current_dir(elsewhere.path())
            .output()
            .unwrap(),
    );
    named.expect(0);
}

#[test]
fn a_container_asks_for_its_health_without_a_token() {
    let bench = Bench::start();
    let elsewhere = tempfile::tempdir().unwrap();
    let ready = bench.command(&["health", "-o", "json"]).current_dir(elsewhere.path()).output();
    let ready = ended(ready.unwrap()).expect(0);
    assert!(ready.stdout.contains("\"ready\":true") || ready.stdout.contains("\"ready\": true"));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    bench.run(&["health", "--url", &url]).expect(3);
}
