//! What clients send that no well-behaved client would.

use ipwarden_e2e::{Options, System, eventually, plugin, raw_request};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_forwarded_header_neither_evades_nor_frames() {
    let system = System::start(Options::default()).await;
    system.decide("block", &["203.0.113.7"], json!({})).await;
    system.settles("203.0.113.7", 403).await;
    // One trusted hop: the rightmost entry is the client, whatever stands before it.
    assert_eq!(system.status("192.0.2.1, 203.0.113.7").await, 403);
    assert_eq!(system.status("203.0.113.7, 192.0.2.1").await, 200);
    let two_lines = system.request("192.0.2.1", "/", &[("x-forwarded-for", "203.0.113.7")]).await;
    assert_eq!(two_lines.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn trusted_proxies_are_walked_from_the_right() {
    let mut walking = plugin();
    walking["client_ip"] = json!({"source": "trusted_proxies", "proxies": ["127.0.0.0/8", "10.0.0.0/8"], "header": "x-forwarded-for"});
    let system = System::start(Options {
        plugin: Some(walking),
        // For a loopback peer Envoy would append this machine's own address.
        replace: vec![(
            "xff_num_trusted_hops: 1".to_owned(),
            "xff_num_trusted_hops: 0\n          skip_xff_append: true".to_owned(),
        )],
        ..Options::default()
    })
    .await;
    system.decide("block", &["203.0.113.7"], json!({})).await;
    system.settles("203.0.113.7", 403).await;
    assert_eq!(system.status("203.0.113.7, 10.1.1.1, 10.2.2.2").await, 403);
    assert_eq!(system.status("203.0.113.7, 192.0.2.1, 10.2.2.2").await, 200);
    assert_eq!(system.status("203.0.113.7, junk").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_bytes_neither_trap_the_filter_nor_go_unrecorded() {
    let system = System::start(Options {
        replace: vec![
            (
                "stat_prefix: site\n".to_owned(),
                "stat_prefix: site\n          max_request_headers_kb: 8192\n".to_owned(),
            ),
            (
                "common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}"
                    .to_owned(),
                "common_http_protocol_options: {max_headers_count: 10000}".to_owned(),
            ),
        ],
        ..Options::default()
    })
    .await;
    let head = "host: h\r\nconnection: close\r\nx-forwarded-for: 203.0.113.7\r\n";
    let mut requests: Vec<(&str, Vec<u8>)> = vec![
        (
            "bytes that are no UTF-8",
            [
                b"GET /x HTTP/1.1\r\n",
                head.as_bytes(),
                b"user-agent: \xff\xfe\x80\r\nx-\x7e: \xc3\x28\r\n\r\n",
            ]
            .concat(),
        ),
        (
            "1 MiB of one header",
            format!("GET /x HTTP/1.1\r\n{head}x-large: {}\r\n\r\n", "a".repeat(1 << 20))
                .into_bytes(),
        ),
        (
            "5000 headers",
            format!("GET /x HTTP/1.1\r\n{head}{}\r\n", "x-many: 1\r\n".repeat(5_000)).into_bytes(),
        ),
        (
            "a path of 100 kB",
            format!("GET /{} HTTP/1.1\r\n{head}\r\n", "p".repeat(100_000)).into_bytes(),
        ),
        (
            "a query of 100 kB",
            format!("GET /?{} HTTP/1.1\r\n{head}\r\n", "q".repeat(100_000)).into_bytes(),
        ),
        (
            "a user agent of 100 kB",
            format!("GET /x HTTP/1.1\r\n{head}user-agent: {}\r\n\r\n", "u".repeat(100_000))
                .into_bytes(),
        ),
        (
            "an empty forwarded header",
            b"GET /x HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx-forwarded-for:\r\n\r\n".to_vec(),
        ),
    ];
    requests.push((
        "a method of 10 kB",
        format!("{} /x HTTP/1.1\r\n{head}\r\n", "M".repeat(10_000)).into_bytes(),
    ));
    for (name, request) in &requests {
        let reply = raw_request(system.site_port, request).await;
        assert!(reply.status > 0, "no answer to {name}");
    }
    for garbage in [
        &b"\x00\x01\x02\r\n\r\n"[..],
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\n\x00bad: 1\r\n\r\n",
    ] {
        raw_request(system.site_port, garbage).await;
    }
    assert_eq!(system.status("192.0.2.1").await, 200, "the filter lives");
    let log = system.envoy_log();
    assert!(
        !log.contains("panicked") && !log.contains("Proxy-Wasm") && !log.contains("wasm trap"),
        "{log}"
    );
    let seen = system.stat("ipwarden_requests", "").await;
    assert!(seen > requests.len() as u64, "{seen}");
    eventually("every request is stored", async || {
        let stored: u64 =
            system.records("").await.iter().filter_map(|r| r["weight"].as_u64()).sum();
        stored == seen
    })
    .await;
    let records = system.records("ip=203.0.113.7").await;
    assert!(records.iter().any(|r| r["user_agent"] == "\\xff\\xfe\\x80"), "{records:?}");
    assert!(records.iter().any(|r| r["path"].as_str().is_some_and(|path| path.len() == 2_048)));
    assert!(
        system.records("verdict=unseen").await.len() >= 2,
        "what died before the filter is recorded"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_without_addresses_admits_and_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("site.sock");
    let system = System::start(Options {
        replace: vec![(
            "  - name: upstream\n    address:".to_owned(),
            format!("  - name: piped\n    address: {{pipe: {{path: {}}}}}\n    filter_chains: &none []\n    internal_listener: null\n  - name: upstream\n    address:", socket.display()).replace("    filter_chains: &none []\n    internal_listener: null\n", PIPE_CHAIN),
        )],
        ..Options::default()
    })
    .await;
    let answer = {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::UnixStream::connect(&socket).await.expect("the pipe");
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
            .await
            .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    };
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(system.stat("ipwarden_address_unknown", "").await, 1);
    eventually("the record has no address", async || {
        system.records("").await.iter().any(|record| record["ip"].is_null())
    })
    .await;
}

/// A listener on a pipe with the same filter.
const PIPE_CHAIN: &str = r#"    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: piped
          route_config:
            virtual_hosts:
            - {name: all, domains: ["*"], routes: [{match: {prefix: "/"}, route: {cluster: upstream}}]}
          http_filters:
          - name: ipwarden
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:
                name: piped
                vm_config:
                  vm_id: ipwarden
                  runtime: envoy.wasm.runtime.v8
                  code: {local: {filename: target/wasm32-wasip1/wasm/ipwarden.wasm}}
                  environment_variables: {host_env_keys: [IPWARDEN_TOKEN]}
                configuration:
                  "@type": type.googleapis.com/google.protobuf.StringValue
                  value: '{"control_plane": {"cluster": "ipwarden", "token_env": "IPWARDEN_TOKEN"}}'
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
"#;
