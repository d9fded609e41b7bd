//! What works, or fails, without a service.

use crate::bench::{Bench, alone};

/// Nobody listens on the port of a closed listener.
fn deserted() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn without_a_service_the_exit_code_is_3_and_the_message_says_how_to_start_it() {
    let dir = tempfile::tempdir().unwrap();
    let url = deserted();
    for command in [
        &["decisions"][..],
        &["requests"],
        &["requests", "--follow"],
        &["proxies"],
        &["audit"],
        &["token"],
        &["check", "203.0.113.7"],
        &["block", "203.0.113.7"],
        &["unblock", "203.0.113.7"],
        &["limits"],
        &["limits", "shadow", "login"],
        &["limits", "reset", "203.0.113.7"],
    ] {
        let arguments: Vec<&str> = ["--url", &url].iter().chain(command).copied().collect();
        let ended = alone(dir.path(), &arguments).expect(3);
        assert_eq!(ended.stdout, "", "{command:?}");
        assert_eq!(
            ended.stderr,
            format!(
                "error: can't reach the ipwarden service at {url}: connection refused (nobody listens there)\n  \
                 start it with `ipwarden serve`, or name another with --url or IPWARDEN_URL; `ipwarden doctor` says more\n"
            ),
            "{command:?}"
        );
    }
    let error = alone(dir.path(), &["-o", "json", "--url", &url, "proxies"]).expect(3).error();
    assert_eq!(error["kind"], "unreachable");
    assert_eq!(error["exit_code"], 3);
}

#[test]
fn a_bad_target_is_usage_and_nothing_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let url = deserted();
    let ended = alone(dir.path(), &["--url", &url, "block", "10.0.0.0/33", "192.0.2.1", "x"]);
    let ended = ended.expect(2);
    assert_eq!(
        ended.stderr,
        "error: 2 targets are not valid; nothing was sent\n  \
         10.0.0.0/33: prefix length '/33' is out of range: expected /0 to /32\n  \
         x: 'x' is not an IP address: expected one such as 192.0.2.7 or 2001:db8::1, or a CIDR such as 192.0.2.0/24\n"
    );
    let error = alone(dir.path(), &["block", "10.0.0.0/33", "-o", "json"]).expect(2).error();
    assert_eq!(error["kind"], "input");
    assert_eq!(error["errors"][0]["place"], "10.0.0.0/33");
}

#[test]
fn a_slip_on_the_command_line_is_usage_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let ended = alone(dir.path(), &["blok"]).expect(2);
    assert!(ended.stderr.contains("unrecognized subcommand 'blok'"), "{}", ended.stderr);
    let error = alone(dir.path(), &["blok", "-o", "json"]).expect(2).error();
    assert_eq!(error["kind"], "usage");
    for bad in [
        &["block"][..],
        &["block", "192.0.2.1", "--for", "5 hours"],
        &["block", "192.0.2.1", "--for", "1h", "--until", "2030-01-01T00:00:00Z"],
        &["block", "192.0.2.1", "--until", "2020-01-01T00:00:00Z"],
        &["block", "--from", "missing.txt"],
        &["check", "203.0.113.0/24"],
        &["decisions", "--origin", "me"],
        &["requests", "--status", "9"],
        &["requests", "--since", "yesterday"],
        &["proxies", "--url", "localhost:8088"],
        &["proxies", "--token-file", "missing"],
        &["explain-ip", "--peer", "nobody"],
        &["serve", "--listen", "here"],
    ] {
        let ended = alone(dir.path(), bad).expect(2);
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{bad:?}: {ended:?}");
    }
    alone(dir.path(), &["--help"]).expect(0);
    assert_eq!(
        alone(dir.path(), &["--version"]).expect(0).stdout,
        format!("ipwarden {}\n", ipwarden::VERSION)
    );
}

#[test]
fn a_configuration_with_three_errors_names_each_place() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("edge.json"),
        r#"{"client_ip": {"source": "guess"}, "records": {"max_batch": 0}, "colour": 1}"#,
    )
    .unwrap();
    let ended = alone(dir.path(), &["check-config", "edge.json"]).expect(1);
    assert!(ended.stderr.starts_with("error: edge.json has 3 errors\n"), "{}", ended.stderr);
    for place in ["client_ip.source: ", "records.max_batch: ", "colour: "] {
        assert!(ended.stderr.contains(place), "{place}: {}", ended.stderr);
    }
    let ended = alone(dir.path(), &["-o", "json", "check-config", "edge.json"]).expect(1);
    let document = ended.json();
    assert_eq!(document["valid"], false);
    assert_eq!(document["errors"].as_array().unwrap().len(), 3);
    assert_eq!(ended.error()["kind"], "invalid");
    alone(dir.path(), &["check-config", "missing.json"]).expect(2);
}

#[test]
fn the_service_configuration_is_checked_too() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ipwarden.toml"), "listen = \"here\"\ncolour = 1\n").unwrap();
    let ended = alone(dir.path(), &["check-config", "ipwarden.toml"]).expect(1);
    assert!(ended.stderr.starts_with("error: ipwarden.toml has 2 errors\n"), "{}", ended.stderr);
    // The same file stops the service.
    let ended = alone(dir.path(), &["serve"]).expect(1);
    assert!(
        ended
            .stderr
            .starts_with("error: the service does not start: 2 errors in its configuration\n"),
        "{}",
        ended.stderr
    );
    std::fs::write(dir.path().join("ipwarden.toml"), "listen = \"127.0.0.1:0\"\n").unwrap();
    let ended = alone(dir.path(), &["-o", "json", "check-config", "ipwarden.toml"]).expect(0);
    assert_eq!(ended.json()["kind"], "service");
}

#[test]
fn the_walk_to_the_client_address_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let walk = [
        "explain-ip",
        "--peer",
        "10.0.0.2:4711",
        "--xff",
        "1.2.3.4, 203.0.113.7, 10.0.0.9",
        "--trusted-proxy",
        "10.0.0.0/8",
    ];
    let ended = alone(dir.path(), &walk).expect(0);
    assert_eq!(
        ended.stdout,
        "source: x-forwarded-for behind trusted proxies\n\
         step  looked at               text         address      finding\n   \
            1  peer                                 10.0.0.2     a trusted peer: its header counts\n   \
            2  entry 1 from the right  10.0.0.9     10.0.0.9     a trusted proxy: skipped\n   \
            3  entry 2 from the right  203.0.113.7  203.0.113.7  not a trusted proxy: this is the client\n\
         client: 203.0.113.7\n"
    );
    let arguments: Vec<&str> = walk.iter().chain(&["-o", "json"]).copied().collect();
    let document = alone(dir.path(), &arguments).expect(0).json();
    assert_eq!(document["client"], "203.0.113.7");
    assert_eq!(document["steps"][2]["finding"], "entry_client");
    let arguments: Vec<&str> = walk.iter().chain(&["-o", "raw"]).copied().collect();
    assert_eq!(alone(dir.path(), &arguments).expect(0).stdout, "203.0.113.7\n");
}

#[test]
fn what_is_not_read_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let ended =
        alone(dir.path(), &["explain-ip", "--peer", "10.0.0.2", "--xff", "203.0.113.7"]).expect(0);
    assert!(ended.stdout.ends_with("client: 10.0.0.2\n"), "{}", ended.stdout);
    assert!(ended.stderr.starts_with("warning: x-forwarded-for is not read: "), "{}", ended.stderr);
    std::fs::write(
        dir.path().join("edge.json"),
        r#"{"client_ip": {"source": "trusted_proxies", "proxies": ["10.0.0.0/8"]}}"#,
    )
    .unwrap();
    let arguments = [
        "explain-ip",
        "--peer",
        "10.0.0.2",
        "--xff",
        "203.0.113.7",
        "--config",
        "edge.json",
        "-o",
        "raw",
    ];
    assert_eq!(alone(dir.path(), &arguments).expect(0).stdout, "203.0.113.7\n");
}

#[test]
fn somebody_else_on_the_port_is_not_mistaken_for_the_service() {
    let bench = Bench::start();
    let page = axum::Router::new().fallback(|| async { axum::response::Html("<h1>hello</h1>") });
    let listener = bench.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    bench.runtime.spawn(async move { axum::serve(listener, page).await });
    let ended = bench.run(&["--url", &url, "decisions"]).expect(3);
    assert!(ended.stderr.contains("it may not be ipwarden"), "{}", ended.stderr);
}
