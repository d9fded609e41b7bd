//! Limits changed from the control plane, and what stays when it or the configuration goes.

use std::time::Duration;

use ipwarden_e2e::{Options, System, eventually, now};
use serde_json::{Value, json};

use super::{admitted, limited, login};

/// A fresh client each time it is asked.
struct Clients(u32);

impl Clients {
    fn next(&mut self) -> String {
        self.0 += 1;
        format!("198.18.{}.{}", self.0 / 200, self.0 % 200 + 1)
    }
}

/// Waits until fresh clients are admitted `expected` times of twelve, twice in a row; how long
/// it took.
async fn settles_at(system: &System, clients: &mut Clients, expected: usize) -> Duration {
    eventually(&format!("a fresh client is admitted {expected} times"), async || {
        admitted(system, 12, &clients.next(), "/login").await == expected
            && admitted(system, 12, &clients.next(), "/login").await == expected
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_changed_within_a_second_and_the_buckets_stay() {
    let system = System::start(Options::default()).await;
    let mut clients = Clients(0);
    assert_eq!(settles_at(&system, &mut clients, 5).await.as_secs(), 0);
    assert_eq!(admitted(&system, 2, "203.0.113.1", "/login").await, 2);
    assert_eq!(admitted(&system, 9, "203.0.113.2", "/login").await, 5);

    let changed = system.api("PUT", "/v1/limits/login", Some(login(10, 10))).await;
    assert!(changed["revision"].is_u64(), "{changed}");
    let took = settles_at(&system, &mut clients, 10).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    // Two of five were used: neither forgotten nor more than they were.
    let left = admitted(&system, 12, "203.0.113.1", "/login").await;
    assert!((6..=8).contains(&left), "{left} left");
    let left = admitted(&system, 12, "203.0.113.2", "/login").await;
    assert!(left <= 5, "{left} left of a bucket that was empty");

    system.api("PUT", "/v1/limits/login", Some(login(3, 3))).await;
    settles_at(&system, &mut clients, 3).await;
    system.api("PATCH", "/v1/limits/login", Some(json!({"mode": "shadow"}))).await;
    settles_at(&system, &mut clients, 12).await;
    system.api("PATCH", "/v1/limits/login", Some(json!({"mode": "enforce"}))).await;
    settles_at(&system, &mut clients, 3).await;

    // A new limit, and the configured one back.
    let mut search = login(1, 1);
    search["name"] = json!("search");
    search["match"] = json!({"path_prefix": "/search"});
    system.api("PUT", "/v1/limits/search", Some(search)).await;
    system.api("DELETE", "/v1/limits/login", None).await;
    settles_at(&system, &mut clients, 5).await;
    assert_eq!(admitted(&system, 9, &clients.next(), "/search").await, 1);

    let list = system.api("GET", "/v1/limits", None).await;
    let of = |name: &str| -> Value {
        let limits = list["limits"].as_array().expect("a list");
        limits.iter().find(|limit| limit["name"] == name).cloned().unwrap_or(Value::Null)
    };
    assert_eq!(
        (&of("login")["source"], &of("login")["overridden"], &of("login")["proxies"]),
        (&json!("configuration"), &json!(false), &json!(["edge-1"])),
        "{list}"
    );
    assert_eq!(of("search")["source"], "control-plane", "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_gives_a_fresh_bucket_to_that_client_alone() {
    let system = System::start(Options::default()).await;
    for client in ["203.0.113.1", "203.0.113.2", "2001:db8:1:2::1"] {
        assert_eq!(admitted(&system, 12, client, "/login").await, 5);
    }
    let reset = json!({"key": "203.0.113.1", "limit": "login"});
    system.api("POST", "/v1/limits/reset", Some(reset)).await;
    let mut fresh = 0;
    let took = eventually("it is admitted again", async || {
        fresh += admitted(&system, 1, "203.0.113.1", "/login").await;
        fresh > 0
    })
    .await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    fresh += admitted(&system, 12, "203.0.113.1", "/login").await;
    assert_eq!(fresh, 5, "a full bucket, once");
    assert_eq!(admitted(&system, 12, "203.0.113.2", "/login").await, 0);
    // Any address of the network, in every limit.
    system.api("POST", "/v1/limits/reset", Some(json!({"key": "2001:db8:1:2::99"}))).await;
    eventually("its network is admitted again", async || {
        admitted(&system, 1, "2001:db8:1:2::1", "/login").await == 1
    })
    .await;
    assert_eq!(admitted(&system, 12, "203.0.113.1", "/login").await, 0, "each reset once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_policy_stays_when_the_control_plane_dies() {
    let mut system = System::start(Options::default()).await;
    let mut clients = Clients(0);
    system.api("PUT", "/v1/limits/login", Some(login(2, 2))).await;
    settles_at(&system, &mut clients, 2).await;
    // A worker that was kept from its tick may have seen none of those.
    settles_at(&system, &mut clients, 2).await;
    assert_eq!(admitted(&system, 9, "203.0.113.1", "/login").await, 2);
    system.kill_control_plane().await;
    let start = now();
    while start.elapsed() < Duration::from_secs(2) {
        assert_eq!(admitted(&system, 9, &clients.next(), "/login").await, 2);
    }
    system.start_control_plane().await;
    // It is stored there, and changed from there again.
    settles_at(&system, &mut clients, 2).await;
    assert_eq!(admitted(&system, 9, "203.0.113.1", "/login").await, 0, "not a reset");
    system.api("PUT", "/v1/limits/login", Some(login(4, 4))).await;
    settles_at(&system, &mut clients, 4).await;
    // An Envoy that starts afterwards gets it, too.
    system.kill_envoy().await;
    system.start_envoy().await;
    settles_at(&system, &mut clients, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_configuration_keeps_the_buckets_and_the_policy() {
    let mut system = System::start(Options {
        plugin: Some(limited(json!([login(3, 3)]))),
        dynamic: true,
        ..Options::default()
    })
    .await;
    let mut clients = Clients(0);
    let mut other = login(6, 6);
    other["name"] = json!("other");
    other["match"] = json!({"path_prefix": "/other"});
    system.api("PUT", "/v1/limits/other", Some(other)).await;
    eventually("the policy is there", async || {
        admitted(&system, 9, &clients.next(), "/other").await == 6
    })
    .await;
    assert_eq!(admitted(&system, 9, "203.0.113.1", "/login").await, 3);
    system.reconfigure(limited(json!([login(4, 4)])));
    settles_at(&system, &mut clients, 4).await;
    let left = admitted(&system, 9, "203.0.113.1", "/login").await;
    assert!(left <= 1, "{left} more after its three of four");
    assert_eq!(admitted(&system, 9, &clients.next(), "/other").await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_changes_limits() {
    let system = System::start(Options::default()).await;
    let mut clients = Clients(0);
    let run = async |arguments: &[&str]| {
        let done = system.cli(arguments).await;
        let text = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(0), "{arguments:?}: {text}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let set = ["limits", "set", "login", "--match-prefix", "/login", "--anonymous", "7/1h"];
    run(&set).await;
    settles_at(&system, &mut clients, 7).await;
    run(&["limits", "shadow", "login"]).await;
    settles_at(&system, &mut clients, 12).await;
    run(&["limits", "enforce", "login"]).await;
    settles_at(&system, &mut clients, 7).await;
    assert_eq!(admitted(&system, 12, "203.0.113.1", "/login").await, 7);
    run(&["limits", "reset", "203.0.113.1"]).await;
    eventually("it is admitted again", async || {
        admitted(&system, 1, "203.0.113.1", "/login").await == 1
    })
    .await;
    run(&["limits", "remove", "login", "--yes"]).await;
    settles_at(&system, &mut clients, 5).await;
    let list: Value = serde_json::from_str(&run(&["-o", "json", "limits"]).await).expect("JSON");
    assert!(list.to_string().contains("login"), "{list}");
}
