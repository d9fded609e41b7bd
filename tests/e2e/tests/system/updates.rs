//! Changes while requests come in: another configuration, another module, another Envoy. None
//! of them costs a request, a decision or a record.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ipwarden_e2e::{
    Load, Options, System, Upstream, eventually, now, plugin, program, raw_request,
};
use serde_json::{Value, json};

/// The module as another build of the same sources would be: other bytes, so that Envoy takes
/// it for another one. A custom section is what a version or a build id goes into.
fn another_build(directory: &Path, name: &str) -> PathBuf {
    let module = program("E2E_MODULE", "target/wasm32-wasip1/wasm/ipwarden.wasm");
    let mut bytes = std::fs::read(module).expect("the module");
    let name_bytes = name.as_bytes();
    bytes.extend([0, u8::try_from(name_bytes.len() + 1).unwrap(), name_bytes.len() as u8]);
    bytes.extend(name_bytes);
    let path = directory.join(format!("{name}.wasm"));
    std::fs::write(&path, bytes).expect("another module");
    path
}

/// A configuration that refused clients can tell from others.
fn with_contact(contact: &str) -> Value {
    let mut plugin = plugin();
    plugin["decisions"] = json!({"contact": contact});
    plugin
}

/// Waits until every worker refuses with this contact.
async fn in_force(system: &System, contact: &str) {
    let mut since = 0;
    eventually(contact, async || {
        let reply = system.request("198.18.1.1", "/probe", &[]).await;
        // A busy machine may reach the end of the drain before it has read the request.
        assert!(matches!(reply.status, 403 | 0), "a decision was forgotten: {reply:?}");
        since = if reply.body.contains(contact) { since + 1 } else { 0 };
        since >= 20
    })
    .await;
}

/// Sum of the weights of all stored records.
async fn stored(system: &System) -> u64 {
    let mut weights = 0;
    let mut before = String::new();
    loop {
        let page = system.api("GET", &format!("/v1/requests?limit=10000{before}"), None).await;
        for record in page["records"].as_array().expect("records") {
            weights += record["weight"].as_u64().expect("a weight");
        }
        match page["next"].as_i64() {
            Some(next) => before = format!("&before={next}"),
            None => return weights,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_module_and_envoy_are_replaced_under_load() {
    const RATE: u32 = 500;
    let directory = tempfile::tempdir().expect("a directory");
    // Not a listener of the same Envoy: that one would drain, too.
    let upstream = Upstream::start().await;
    let mut system = System::start(Options {
        upstream: Some(upstream.port),
        plugin: Some(with_contact("https://a.example/first")),
        dynamic: true,
        ..Options::default()
    })
    .await;
    system.decide("block", &["198.18.1.0/24"], json!({})).await;
    system.settles("198.18.1.1", 403).await;

    let load = Load::start(system.site_port, 8, RATE);
    in_force(&system, "https://a.example/first").await;
    let start = now();
    system.reconfigure(with_contact("https://a.example/second"));
    in_force(&system, "https://a.example/second").await;
    let configured = start.elapsed();

    system.options_mut().module = Some(another_build(directory.path(), "second-build"));
    let start = now();
    system.reconfigure(with_contact("https://a.example/third"));
    in_force(&system, "https://a.example/third").await;
    let replaced = start.elapsed();
    // What the old one holds open must be over, too.
    let start = now();
    eventually("two seconds of the new module", async || start.elapsed() > Duration::from_secs(2))
        .await;
    let sent = load.stop().await;
    println!("configuration in force after {configured:?}, module after {replaced:?}: {sent:?}");
    assert_eq!((sent.other, sent.slipped), (0, 0), "{sent:?}");
    // Envoy ends a drain by closing what is still open, here after a second (--drain-time-s). A
    // machine that is busy with other tests may not have told a connection by then: at most
    // once for each connection and update, and before any byte of an answer.
    assert_eq!(sent.broken, sent.closed + sent.unaccepted, "none in the middle: {sent:?}");
    assert!(sent.broken <= 16, "{sent:?}");
    assert!(sent.refused > 20 && sent.admitted > 1_000, "{sent:?}");
    let seen = system.stat("ipwarden_requests", "").await;
    eventually("every request is stored, once", async || stored(&system).await == seen).await;

    // Envoy itself: drained, ended, started anew.
    let load = Load::start(system.site_port, 8, RATE);
    in_force(&system, "https://a.example/third").await;
    system.drain_envoy().await;
    let sent = load.stop().await;
    println!("while Envoy drained: {sent:?}");
    assert_eq!((sent.other, sent.slipped), (0, 0), "{sent:?}");
    let explained = sent.unconnected + sent.unaccepted + sent.closed;
    assert_eq!(sent.broken, explained, "only new connections are refused: {sent:?}");
    let seen = system.stat("ipwarden_requests", "").await;
    eventually("every request before the drain is stored", async || stored(&system).await == seen)
        .await;
    system.kill_envoy().await;
    system.start_envoy().await;
    system.settles("198.18.1.1", 403).await;
    assert_eq!(system.status("203.0.113.7").await, 200);
    let again = system.stat("ipwarden_requests", "").await;
    eventually("and those of the new Envoy", async || stored(&system).await == seen + again).await;
    println!("{} requests, each recorded once", seen + again);
}

/// The new process shares nothing with the old one: it answers 503 (`on_start: closed`) until
/// it has decisions of its own, so that nobody slips through.
#[tokio::test(flavor = "multi_thread")]
async fn envoy_is_restarted_hot_under_load() {
    const RATE: u32 = 500;
    let mut configuration = plugin();
    configuration["decisions"] = json!({"on_start": "closed"});
    let upstream = Upstream::start().await;
    let mut system = System::start(Options {
        upstream: Some(upstream.port),
        plugin: Some(configuration),
        hot_restart: true,
        ..Options::default()
    })
    .await;
    system.decide("block", &["198.18.1.0/24"], json!({})).await;
    system.settles("198.18.1.1", 403).await;
    let seen = system.stat("ipwarden_requests", "").await;
    eventually("what came before is stored", async || stored(&system).await == seen).await;

    let load = Load::start(system.site_port, 8, RATE);
    eventually("the load is under way", async || stored(&system).await > seen + 200).await;
    // A blocked client that comes with a new connection each time, to whichever Envoy accepts.
    let site = system.site_port;
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let probes = tokio::spawn(async move {
        let probe =
            b"GET /probe HTTP/1.1\r\nhost: site.example\r\nx-forwarded-for: 198.18.1.1\r\n\r\n";
        let (mut refused, mut unready) = (0, 0);
        while !*stopped.borrow_and_update() {
            match raw_request(site, probe).await.status {
                403 => refused += 1,
                503 => unready += 1,
                other => panic!("a blocked client got {other}"),
            }
            // At most a thousand a second.
            let _ = tokio::time::timeout(Duration::from_millis(1), stopped.changed()).await;
        }
        (refused, unready)
    });
    let live = system.restart_envoy_hot().await;
    let start = now();
    eventually("two seconds of the new Envoy alone", async || {
        start.elapsed() > Duration::from_secs(2)
    })
    .await;
    let sent = load.stop().await;
    stop.send_replace(true);
    let (refused, unready) = probes.await.expect("no probe slipped through");
    println!(
        "the new Envoy was live after {live:?}: {sent:?}; of new connections of a blocked client {refused} got 403, {unready} got 503"
    );
    assert_eq!((sent.slipped, sent.unconnected), (0, 0), "{sent:?}");
    assert!(refused > 500 && unready <= 200, "{refused} and {unready}");
    assert_eq!(sent.broken, sent.closed, "only idle connections were closed: {sent:?}");
    assert!(sent.closed <= 8, "at most once for each connection: {sent:?}");
    // Until the first poll is answered: each connection asks once in 16 ms.
    assert!(sent.other <= 200, "{sent:?}");
    assert!(sent.refused > 20 && sent.admitted > 1_000, "{sent:?}");
    let expected = seen + sent.answered() + refused + unready;
    eventually("every answered request is stored, once", async || {
        stored(&system).await == expected
    })
    .await;
}

/// Two routes, two configurations of the filter, one control plane; one of the two switched
/// off for a third route.
#[tokio::test(flavor = "multi_thread")]
async fn several_instances_in_one_envoy_keep_to_their_own_configuration() {
    let instance = |name: &str, plugin: Value| {
        json!({
            "name": name,
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
                "config": {
                    "name": name,
                    "root_id": "ipwarden",
                    "vm_config": {
                        "vm_id": "ipwarden",
                        "runtime": "envoy.wasm.runtime.v8",
                        "code": {"local": {"filename": program("E2E_MODULE", "target/wasm32-wasip1/wasm/ipwarden.wasm")}},
                        "environment_variables": {"host_env_keys": ["IPWARDEN_TOKEN"]},
                    },
                    "configuration": {
                        "@type": "type.googleapis.com/google.protobuf.StringValue",
                        "value": plugin.to_string(),
                    },
                },
            },
        })
    };
    let mut own = plugin();
    own["proxy"] = json!("edge-1-strict");
    own["decisions"] = json!({"refuse_status": 451});
    own["limits"] = json!([{"name": "once", "match": {"path_prefix": "/once"}, "anonymous": {"requests": 1, "per": "1h"}}]);
    let off = json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true});
    let system = System::start(Options {
        filters_before: vec![instance("ipwarden-strict", own)],
        site_routes: vec![json!({
            "match": {"prefix": "/plain"},
            "route": {"cluster": "upstream"},
            "typed_per_filter_config": {"ipwarden-strict": off},
        })],
        ..Options::default()
    })
    .await;
    system.decide("block", &["203.0.113.8"], json!({})).await;
    eventually("both instances refuse", async || {
        system.request("203.0.113.8", "/", &[]).await.status == 451
            && system.request("203.0.113.8", "/plain", &[]).await.status == 403
    })
    .await;
    assert_eq!(system.request("203.0.113.7", "/once", &[]).await.status, 200);
    assert_eq!(system.request("203.0.113.7", "/once", &[]).await.status, 429);
    assert_eq!(system.request("203.0.113.7", "/plain", &[]).await.status, 200);
    eventually("each records under its own name", async || {
        let found = system.records("ip=203.0.113.7&path=/once").await;
        found.iter().any(|record| record["proxy"] == "edge-1-strict")
            && found.iter().any(|record| record["proxy"] == "edge-1")
    })
    .await;
}
