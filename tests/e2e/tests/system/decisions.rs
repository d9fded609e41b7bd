//! Decisions reach every worker, in the right order of precedence, and end by themselves.

use std::time::Duration;

use ipwarden_e2e::{Options, System, eventually, plugin};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_refused_by_every_worker_at_once_and_an_unblock_admits_again() {
    let system = System::start(Options::default()).await;
    system.settles("203.0.113.7", 200).await;
    system.decide("block", &["203.0.113.0/24"], json!({"for": "1h"})).await;
    let took = system.settles("203.0.113.7", 403).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(system.status("203.0.112.255").await, 200);
    assert_eq!(system.status("203.0.114.0").await, 200);
    system.undecide("block", &["203.0.113.0/24"]).await;
    system.settles("203.0.113.7", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allow_wins_over_a_block_and_the_block_comes_back_when_it_ends() {
    let system = System::start(Options::default()).await;
    system.decide("block", &["198.51.100.0/24", "2001:db8::/32"], json!({})).await;
    system.settles("198.51.100.9", 403).await;
    system.decide("allow", &["198.51.100.9"], json!({})).await;
    system.settles("198.51.100.9", 200).await;
    assert_eq!(system.status("198.51.100.10").await, 403);
    // A wide allow over a narrow block.
    system.decide("allow", &["2001::/16"], json!({})).await;
    system.settles("2001:db8::1", 200).await;
    system.undecide("allow", &["2001::/16", "198.51.100.9"]).await;
    system.settles("2001:db8::1", 403).await;
    system.settles("198.51.100.9", 403).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_networks_and_mapped_addresses_are_matched_in_one_form() {
    let system = System::start(Options::default()).await;
    system
        .decide("block", &["2001:db8:1:2::/64", "::ffff:192.0.2.0/120", "2001:db8:9::7"], json!({}))
        .await;
    system.settles("2001:db8:1:2:3:4:5:6", 403).await;
    assert_eq!(system.status("2001:db8:1:3::1").await, 200);
    assert_eq!(system.status("192.0.2.77").await, 403);
    assert_eq!(system.status("::ffff:192.0.2.77").await, 403);
    assert_eq!(system.status("2001:db8:9::7").await, 403);
    assert_eq!(system.status("2001:db8:9::8").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_ends_by_itself_with_the_control_plane_dead() {
    let mut system = System::start(Options::default()).await;
    system.decide("block", &["203.0.113.8"], json!({})).await;
    system.decide("block", &["203.0.113.7"], json!({"for": "3s"})).await;
    // The later of the two: every worker has both.
    system.settles("203.0.113.7", 403).await;
    system.kill_control_plane().await;
    assert_eq!(system.status("203.0.113.8").await, 403);
    system.settles("203.0.113.7", 200).await;
    assert_eq!(system.status("203.0.113.8").await, 403, "a block without an end goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_envoy_and_a_restarted_control_plane_know_the_set_again() {
    let mut system = System::start(Options::default()).await;
    system.decide("block", &["203.0.113.7"], json!({})).await;
    system.settles("203.0.113.7", 403).await;
    system.kill_envoy().await;
    system.start_envoy().await;
    system.settles("203.0.113.7", 403).await;
    system.kill_control_plane().await;
    system.start_control_plane().await;
    system.decide("block", &["203.0.113.8"], json!({})).await;
    system.settles("203.0.113.8", 403).await;
    assert_eq!(system.status("203.0.113.7").await, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_workers_keeps_up() {
    for concurrency in [1, 4] {
        let system = System::start(Options { concurrency, ..Options::default() }).await;
        for n in 0..5 {
            let client = format!("203.0.113.{n}");
            system.decide("block", &[&client], json!({})).await;
            system.settles(&client, 403).await;
        }
        assert_eq!(system.stat("ipwarden_leader_takeovers", "").await, 1, "one leader, never lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_start_refuses_until_the_set_has_come() {
    let mut closed = plugin();
    closed["decisions"] = json!({"on_start": "closed"});
    let system = System::start(Options {
        plugin: Some(closed),
        token: Some("wrong".to_owned()),
        ..Options::default()
    })
    .await;
    let reply = system.request("192.0.2.1", "/", &[]).await;
    assert_eq!((reply.status, reply.header("retry-after").is_some()), (503, true), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_instances_share_an_empty_vm_id_without_meeting() {
    // A second instance before ours, with a control plane that is not there, in the same
    // shared-data namespace (as on Istio, where every plugin has the vm_id ""). Both name the
    // same environment: Envoy 1.36 gives a VM that they share the one of the first.
    let other = r#"          http_filters:
          - name: other
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:
                name: other
                root_id: other
                vm_config:
                  runtime: envoy.wasm.runtime.v8
                  code: {local: {filename: MODULE}}
                  environment_variables: {host_env_keys: [IPWARDEN_TOKEN]}
                configuration:
                  "@type": type.googleapis.com/google.protobuf.StringValue
                  value: '{"control_plane": {"cluster": "nowhere", "token": "x"}}'
          - name: ipwarden"#;
    let module = ipwarden_e2e::root().join("target/wasm32-wasip1/wasm/ipwarden.wasm");
    let other = other.replace("MODULE", &module.to_string_lossy());
    let system = System::start(Options {
        replace: vec![
            ("          http_filters:\n          - name: ipwarden".to_owned(), other),
            ("                  vm_id: ipwarden\n".to_owned(), String::new()),
        ],
        ..Options::default()
    })
    .await;
    system.decide("block", &["203.0.113.7"], json!({})).await;
    system.settles("203.0.113.7", 403).await;
    assert_eq!(system.status("203.0.113.8").await, 200);
    eventually("the other instance reports that it can't reach its cluster", async || {
        system.stat("ipwarden_polls", "failed").await > 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_what_a_client_can_read_and_never_why() {
    let mut with_contact = plugin();
    with_contact["decisions"] = json!({"contact": "https://example.com/unblock?a=1&b=2"});
    let system = System::start(Options { plugin: Some(with_contact), ..Options::default() }).await;
    let added = system
        .api(
            "POST",
            "/v1/decisions",
            Some(json!({"targets": ["203.0.113.7"], "action": "block", "reason": "secret reason"})),
        )
        .await;
    let id = added["decisions"][0]["id"].as_u64().expect("an id");
    system.settles("203.0.113.7", 403).await;
    for (accept, content_type) in [
        ("application/json", "application/problem+json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
        ("text/plain", "text/plain; charset=utf-8"),
        ("*/*", "application/problem+json"),
    ] {
        let reply = system.request("203.0.113.7", "/", &[("accept", accept)]).await;
        assert_eq!(reply.status, 403);
        assert_eq!(reply.header("content-type"), Some(content_type), "{accept}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert!(reply.body.contains(&id.to_string()), "{}", reply.body);
        assert!(reply.body.contains("example.com/unblock"), "{}", reply.body);
        assert!(!reply.body.contains("secret"), "{}", reply.body);
    }
    let grpc = system
        .request(
            "203.0.113.7",
            "/pkg.Service/Call",
            &[("content-type", "application/grpc"), ("te", "trailers")],
        )
        .await;
    assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("7")), "{grpc:?}");
}
