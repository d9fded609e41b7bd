//! Privacy in a real Envoy: who opts out is protected and refused as everybody else, and told
//! to nobody; addresses take their form before they leave.

use std::net::IpAddr;

use ipwarden::privacy::{Key, Pseudonymizer, Scheme};
use ipwarden_e2e::{Behaviour, Calls, Options, Places, Process, System, Vm, eventually, plugin};
use serde_json::{Value, json};

const ORLEANS: &str = r#"{"country":"FR","city":"Orléans","org":"AS3215 Orange"}"#;
const KEY: &str = "0123456789abcdeffedcba98765432101032547698badcfeefcdab8967452301";
const AGENT: (&str, &str) =
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0");
const GPC: (&str, &str) = ("sec-gpc", "1");

/// A system with this plugin configuration over the demo's; the upstream answers with what it
/// was told of the client's wish.
async fn system(places: Option<&Places>, more: Value) -> System {
    let mut config = plugin();
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
    let direct =
        r#"direct_response: {status: 200, body: {inline_string: "hello from the upstream\n"}}"#;
    let mut echo = format!("{direct}\n                response_headers_to_add:");
    for name in ["sec-gpc", "dnt", "cookie", "x-ipwarden-country"] {
        echo.push_str(&format!(
            "\n                - {{header: {{key: x-seen-{name}, value: 'seen:%REQ({name})%'}}}}"
        ));
    }
    let mut replace = vec![(direct.to_owned(), echo)];
    replace.extend(places.map(Places::cluster));
    System::start(Options { plugin: Some(config), replace, ..Options::default() }).await
}

/// Gives the VM one more environment variable.
fn variable(name: &str, value: &str) -> (String, String) {
    let before = "environment_variables: {host_env_keys: [IPWARDEN_TOKEN]}";
    let after = format!(
        "environment_variables: {{host_env_keys: [IPWARDEN_TOKEN], key_values: {{{name}: \"{value}\"}}}}"
    );
    (before.to_owned(), after)
}

/// The one record of a path, once it is there.
async fn record(system: &System, path: &str) -> Value {
    let query = format!("path={path}");
    eventually("the record is stored", async || !system.records(&query).await.is_empty()).await;
    let mut records = system.records(&query).await;
    assert_eq!(records.len(), 1, "{records:?}");
    records.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opts_out_is_asked_about_nowhere_and_recorded_without_what_leads_back() {
    let places = Places::start(Behaviour::Answer(ORLEANS.to_owned()), None).await;
    let system = system(
        Some(&places),
        json!({
            "geo": {"cluster": "geo", "provider": "ipinfo"},
            "privacy": {"respect_dnt": true},
        }),
    )
    .await;
    let cookie = ("cookie", "theme=dark; ipwarden_optout=1");
    for (n, (path, choice)) in
        [("/gpc", GPC), ("/dnt", ("dnt", "1")), ("/cookie", cookie)].into_iter().enumerate()
    {
        let client = format!("8.8.{n}.77");
        let reply = system.request(&client, path, &[AGENT, choice]).await;
        assert_eq!(reply.status, 200);
        let seen = format!("seen:{}", choice.1);
        assert_eq!(reply.header(&format!("x-seen-{}", choice.0)), Some(seen.as_str()), "{path}");
        let record = record(&system, path).await;
        assert_eq!(record["ip"], format!("8.8.{n}.0"), "{record}");
        for field in ["user_agent", "city", "request_id"] {
            let is_empty = record[field].as_str().unwrap_or_default().is_empty();
            assert!(is_empty, "{field}: {record}");
        }
        assert!(system.records(&format!("ip={client}")).await.is_empty());
    }
    // IPv6 as well, and a second line counts as much as the first.
    let lines = [("sec-gpc", "0"), GPC];
    assert_eq!(system.request("2001:4860:4860:1:2:3:4:5", "/two", &lines).await.status, 200);
    assert_eq!(record(&system, "/two").await["ip"], "2001:4860:4860::");
    assert_eq!(places.asked(), 0, "{}", places.last());

    // Whoever does not opt out is looked up, by the same workers.
    for (client, path, header) in
        [("9.9.9.77", "/zero", ("sec-gpc", "0")), ("9.9.8.77", "/many", ("sec-gpc", "1, 1"))]
    {
        system.request(client, path, &[AGENT, header]).await;
        let record = record(&system, path).await;
        assert_eq!((&record["ip"], &record["user_agent"]), (&json!(client), &json!(AGENT.1)));
    }
    eventually("both were asked about", async || places.asked() == 2).await;
    println!("look-ups for 4 requests that opted out: 0; for 2 that did not: {}", places.asked());
    let log = system.envoy_log();
    assert!(!log.contains("8.8.0.77") && !log.contains("panicked"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opts_out_is_blocked_and_limited_as_everybody_else() {
    let system = system(
        None,
        json!({"limits": [{
            "name": "login", "match": {"path_prefix": "/login"},
            "anonymous": {"requests": 3, "per": "1h"},
        }]}),
    )
    .await;
    let id = system.decide("block", &["203.0.113.8"], json!({})).await;
    system.settles("203.0.113.8", 403).await;
    let blocked = system.request("203.0.113.8", "/blocked", &[GPC, AGENT]).await;
    assert_eq!(blocked.status, 403);
    // The neighbour in the same /24 is not meant: enforcement sees the address as it came.
    assert_eq!(system.request("203.0.113.9", "/neighbour", &[GPC]).await.status, 200);
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(system.request("198.51.100.7", "/login", &[GPC]).await.status);
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    assert_eq!(system.request("198.51.100.8", "/login", &[GPC]).await.status, 200);

    let record = record(&system, "/blocked").await;
    assert_eq!((&record["ip"], &record["decision"]), (&json!("203.0.113.0"), &json!(id)));
    assert_eq!(record["user_agent"], "", "{record}");
    eventually("the refused are recorded by their network", async || {
        let records = system.records("path=/login&verdict=limited").await;
        records.iter().filter_map(|record| record["weight"].as_u64()).sum::<u64>() == 2
            && records.iter().all(|record| record["ip"] == "198.51.100.0")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncation_and_reduction_happen_before_a_record_leaves() {
    let system = system(
        None,
        json!({"privacy": {
            "address": "truncate", "ipv4_prefix": 16, "ipv6_prefix": 32,
            "user_agent": "family", "query": "drop",
        }}),
    )
    .await;
    for (client, path, agent, expected) in [
        ("203.0.113.7", "/v4", AGENT.1, json!(["203.0.0.0", "Firefox"])),
        ("2001:db8:1:2::7", "/v6", "sqlmap/1.8#stable", json!(["2001:db8::", "sqlmap"])),
        ("192.0.2.1", "/other", "alice@example.com", json!(["192.0.0.0", "other"])),
    ] {
        system.request(client, &format!("{path}?email=alice"), &[("user-agent", agent)]).await;
        let record = record(&system, path).await;
        assert_eq!(json!([record["ip"], record["user_agent"]]), expected);
        assert_eq!(record["query"], Value::Null);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pseudonyms_are_made_with_the_key_of_the_vm_and_keep_networks_together() {
    let mut config = plugin();
    config["privacy"] = json!({"address": "pseudonym"});
    let system = System::start(Options {
        plugin: Some(config),
        replace: vec![variable("IPWARDEN_PRIVACY_KEY", KEY)],
        ..Options::default()
    })
    .await;
    let made = Pseudonymizer::of(&Key::from_hex(KEY).unwrap(), Scheme::Prefix);
    let pseudonym = |ip: &str| made.pseudonym(ip.parse().unwrap()).to_string();
    for (client, path) in [
        ("192.0.2.1", "/one"),
        ("192.0.2.200", "/two"),
        ("2001:db8::1", "/six"),
        ("192.0.2.1", "/again"),
    ] {
        assert_eq!(system.request(client, path, &[]).await.status, 200);
        assert_eq!(record(&system, path).await["ip"], pseudonym(client), "{path}");
    }
    // The draft's vector, seen from outside.
    assert_eq!(record(&system, "/one").await["ip"], "100.115.72.131");
    let shown: IpAddr = record(&system, "/two").await["ip"].as_str().unwrap().parse().unwrap();
    assert!(shown.to_string().starts_with("100.115.72."), "{shown}");
    // Decisions are about the address that the client has.
    system.decide("block", &["192.0.2.1"], json!({})).await;
    system.settles("192.0.2.1", 403).await;
    assert_eq!(system.status("100.115.72.131").await, 200);
    let log = system.envoy_log();
    assert!(!log.contains(KEY) && !log.contains("192.0.2.1"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_missing_or_bad_refuses_the_configuration_without_repeating_it() {
    for (key, expected) in [
        (None, "privacy.key_env: the VM has no environment variable IPWARDEN_PRIVACY_KEY"),
        (Some("ab".repeat(32)), "privacy.key_env: in the environment variable K: found a key"),
    ] {
        let mut config = plugin();
        config["privacy"] = json!({"address": "pseudonym"});
        let mut replace = Vec::new();
        if let Some(key) = &key {
            config["privacy"]["key_env"] = json!("K");
            replace.push(variable("K", key));
        }
        let system = System::start(Options {
            plugin: Some(config),
            replace,
            envoy_starts: false,
            ..Options::default()
        })
        .await;
        eventually("the error is named", async || system.envoy_log().contains(expected)).await;
        assert!(key.is_none_or(|key| !system.envoy_log().contains(&key)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_reads_what_is_in_force_and_opts_out_through_the_site() {
    let system = system(None, json!({"privacy": {"ipv4_prefix": 16}})).await;
    let client = "203.0.113.7";
    eventually("the proxy's settings are on the page", async || {
        let page = system.request(client, "/privacy", &[]).await;
        page.body.contains("the first 16 bits of IPv4")
    })
    .await;
    let gpc = system.request(client, "/.well-known/gpc.json", &[]).await;
    assert_eq!(serde_json::from_str::<Value>(&gpc.body).unwrap()["gpc"], true, "{gpc:?}");
    let page = system.request(client, "/privacy/opt-out", &[("sec-gpc", "1")]).await;
    assert!(page.body.contains("Global Privacy Control: you have opted out"), "{page:?}");
    // Nothing else of the service is reached through the site.
    for path in ["/v1/status", "/metrics", "/privacy/../v1/status", "/privacy%2f..%2fv1/status"] {
        let reply = system.request(client, path, &[]).await;
        assert!(!reply.body.contains("token") && !reply.body.contains("ipwarden_"), "{reply:?}");
    }
}

fn total(calls: &Calls) -> u64 {
    calls.values().sum()
}

#[test]
fn no_setting_of_privacy_costs_a_host_call() {
    let process = Process::new(std::time::Duration::from_secs(1_767_225_600));
    let cost = |privacy: Value| {
        let config = json!({
            "limits": [], "privacy": privacy,
            "control_plane": {"cluster": "ipwarden", "token": "t"},
        });
        let mut worker = Vm::start(&process, &config);
        worker.request("203.0.113.99", "/");
        worker.request("203.0.113.1", "/").calls
    };
    let plain = cost(json!({"respect_gpc": false, "opt_out_cookie": false}));
    println!("host calls of a request, recorded: {} {plain:?}", total(&plain));
    for privacy in [
        json!({}),
        json!({"respect_dnt": true, "query": "drop", "user_agent": "family"}),
        json!({"address": "truncate", "user_agent": "none"}),
        json!({"address": "pseudonym", "key": KEY}),
        json!({"address": "pseudonym", "key": KEY, "scheme": "deterministic"}),
    ] {
        assert_eq!(cost(privacy.clone()), plain, "{privacy}");
    }
}
