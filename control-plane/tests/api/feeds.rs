//! Feeds: fetched from a real server, applied, guarded, ended.

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use ipwarden::decisions::Change;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Polled, Running, faults, ok, problem};

/// A publisher whose list a test changes.
#[derive(Clone, Default)]
struct Publisher(Arc<Mutex<Page>>);

#[derive(Default)]
struct Page {
    body: Vec<u8>,
    etag: Option<&'static str>,
    signature: &'static str,
    redirect: Option<String>,
    status: Option<StatusCode>,
    /// Path, `if-none-match` and `x-api-key` of each request.
    asked: Vec<[String; 3]>,
}

impl Publisher {
    async fn start(body: &str) -> (Self, String) {
        let publisher = Self::default();
        publisher.says(body);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(publisher.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (publisher, url)
    }

    fn says(&self, body: &str) {
        self.with(|page| page.body = body.as_bytes().to_vec());
    }

    fn with<T>(&self, change: impl FnOnce(&mut Page) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    fn asked(&self) -> Vec<[String; 3]> {
        self.with(|page| std::mem::take(&mut page.asked))
    }
}

async fn answer(State(publisher): State<Publisher>, uri: Uri, headers: HeaderMap) -> Response {
    publisher.with(|page| {
        let text = |name: &str| {
            headers.get(name).map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
        };
        page.asked.push([uri.path().to_owned(), text("if-none-match"), text("x-api-key")]);
        if let Some(status) = page.status {
            return status.into_response();
        }
        if uri.path().ends_with(".minisig") {
            return page.signature.into_response();
        }
        if let Some(to) = page.redirect.clone().filter(|_| uri.path() == "/old") {
            return (StatusCode::FOUND, [(header::LOCATION, to)]).into_response();
        }
        match page.etag {
            Some(etag) if text("if-none-match") == etag => StatusCode::NOT_MODIFIED.into_response(),
            Some(etag) => ([(header::ETAG, etag)], Bytes::from(page.body.clone())).into_response(),
            None => Bytes::from(page.body.clone()).into_response(),
        }
    })
}

async fn add(running: &Running, name: &str, definition: Value) -> Value {
    ok(running.admin(Method::PUT, &format!("/v1/feeds/{name}")).json(&definition)).await
}

async fn refresh(running: &Running, name: &str) -> Value {
    ok(running.admin(Method::POST, &format!("/v1/feeds/{name}/refresh"))).await
}

async fn targets(running: &Running, name: &str) -> Vec<String> {
    let page = running.get(&format!("/v1/decisions?limit=1000&origin=feed:{name}")).await;
    let mut targets: Vec<String> = page["decisions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|decision| decision["target"].as_str().unwrap().to_owned())
        .collect();
    targets.sort();
    targets
}

fn local(url: &str) -> Value {
    json!({"location": url, "private_addresses": true, "include_reserved": true})
}

fn with(mut definition: Value, more: Value) -> Value {
    definition.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    definition
}

#[tokio::test]
async fn a_feed_is_fetched_applied_and_asked_again_with_what_is_known() {
    let (publisher, url) =
        Publisher::start("# (c) The Publisher\n192.0.2.1\n192.0.2.2\n198.51.100.0/24\n").await;
    publisher.with(|page| page.etag = Some("\"one\""));
    let running = Running::start().await;
    let made = add(&running, "drop", local(&url)).await;
    assert_eq!(
        (&made["state"], &made["every"], &made["stale_after"]),
        (&"new".into(), &"1h".into(), &"7d".into())
    );
    let fetched = refresh(&running, "drop").await;
    assert_eq!((&fetched["state"], &fetched["entries"]), (&"ok".into(), &3.into()));
    assert_eq!(fetched["attribution"], "(c) The Publisher");
    assert_eq!(fetched["next_at"], "2026-11-22T17:00:00Z");
    assert_eq!(targets(&running, "drop").await, ["192.0.2.1", "192.0.2.2", "198.51.100.0/24"]);
    let decision = &running.get("/v1/decisions/check?ip=198.51.100.9").await["decision"];
    assert_eq!(decision["reason"], "listed by the feed drop");
    assert_eq!(decision["expires_at"], "2026-11-29T16:00:00Z");
    let before = running.poll(None, "0s").await.revision();
    let [first, rest @ ..] = &publisher.asked()[..] else { panic!("nobody asked") };
    assert_eq!(first, &["/", "", ""]);
    assert!(rest.iter().all(|asked| asked[1] == "\"one\""), "{rest:?}");

    // Nothing new: asked with what is known, and no revision.
    assert_eq!(refresh(&running, "drop").await["state"], "ok");
    assert!(publisher.asked().iter().all(|asked| asked[1] == "\"one\""));
    assert_eq!(running.poll(Some(before), "0s").await, Polled::Nothing);

    // One gone, one new: only that travels, in one revision.
    publisher.says("192.0.2.1\n192.0.2.3\n198.51.100.0/24\n");
    publisher.with(|page| page.etag = Some("\"two\""));
    refresh(&running, "drop").await;
    let Polled::Delta(base, revision, changes) = running.poll(Some(before), "0s").await else {
        panic!("no delta")
    };
    assert_eq!((base, revision.number), (before.number, before.number + 1));
    let shown: Vec<String> = changes
        .iter()
        .map(|change| match change {
            Change::Remove { target, .. } => format!("-{target}"),
            Change::Add(entry) => format!("+{}", entry.target),
        })
        .collect();
    assert_eq!(shown, ["-192.0.2.2/32", "+192.0.2.3/32"]);
    let audit = running.get("/v1/audit?limit=20").await;
    let line =
        audit["entries"].as_array().unwrap().iter().find(|line| line["action"] == "feeds.apply");
    assert_eq!(line.unwrap()["detail"], "1 added, 1 removed, 0 renewed, 2 kept");
    running.service.stop().await;
}

#[tokio::test]
async fn a_feed_survives_a_restart_and_goes_with_its_decisions() {
    let (publisher, url) = Publisher::start("192.0.2.1\n").await;
    publisher.with(|page| page.etag = Some("\"one\""));
    let running = Running::start().await;
    add(&running, "drop", local(&url)).await;
    refresh(&running, "drop").await;
    let running = running.restart().await;
    publisher.asked();
    assert_eq!(running.get("/v1/feeds").await["feeds"][0]["entries"], 1);
    refresh(&running, "drop").await;
    assert_eq!(publisher.asked()[0][1], "\"one\"", "what was known is known");
    let again = problem(running.admin(Method::PUT, "/v1/feeds/drop").json(&local(&url)), 409).await;
    assert_eq!(
        again["detail"],
        "there is a feed of that name: remove it first, or add it with `replace`"
    );
    ok(running.admin(Method::PUT, "/v1/feeds/drop?replace=true").json(&local(&url))).await;
    assert_eq!(targets(&running, "drop").await, ["192.0.2.1"], "until the new one is fetched");
    assert_eq!(
        ok(running.admin(Method::DELETE, "/v1/feeds/drop")).await,
        json!({"name": "drop", "decisions": 1})
    );
    assert_eq!(targets(&running, "drop").await, [""; 0]);
    problem(running.admin(Method::GET, "/v1/feeds/drop"), 404).await;
    let metrics =
        running.anonymous(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    assert!(!metrics.contains("feed=\"drop\""), "a feed that is gone leaves no series");
}

#[tokio::test]
async fn a_sharp_change_is_withheld_until_a_person_takes_it() {
    let list = |count: u32| -> String {
        (0..count).map(|n| format!("198.51.{}.{}\n", n / 256, n % 256)).collect()
    };
    let (publisher, url) = Publisher::start(&list(500)).await;
    let running = Running::start().await;
    add(&running, "drop", local(&url)).await;
    assert_eq!(refresh(&running, "drop").await["entries"], 500);
    publisher.says(&list(100));
    let shrunk = refresh(&running, "drop").await;
    assert_eq!((&shrunk["state"], &shrunk["entries"]), (&"withheld".into(), &500.into()));
    assert_eq!(shrunk["withheld"], "it has 100 entries, the last good one has 500: less than half");
    let held = running.get("/v1/decisions?origin=feed:drop&limit=1").await;
    assert_eq!(held["total"], 500, "the last good one stays");
    let metrics =
        running.anonymous(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("ipwarden_feed_withheld{feed=\"drop\"} 1"), "{metrics}");
    let path = "/v1/feeds/drop/refresh?accept=true";
    let accepted = ok(running.admin(Method::POST, path)).await;
    assert_eq!((&accepted["state"], &accepted["entries"]), (&"ok".into(), &100.into()));
    assert_eq!(running.get("/v1/decisions?origin=feed:drop&limit=1").await["total"], 100);
    let nothing = problem(running.admin(Method::POST, path), 409).await;
    assert_eq!(nothing["detail"], "no list of this feed is withheld: there is nothing to accept");
    publisher.says("");
    assert_eq!(refresh(&running, "drop").await["withheld"], "nothing is left of it");
    publisher.says("8.8.8.8\n0.0.0.0/1\n");
    assert_eq!(
        refresh(&running, "drop").await["withheld"],
        "it holds 0.0.0.0/1: a network wider than /8 (IPv6: /16) is taken from no list"
    );
    problem(running.admin(Method::POST, path), 409).await;
}

#[tokio::test]
async fn private_own_and_allowed_networks_are_spared_and_told() {
    let list = "10.0.0.0/8\n127.0.0.1\n8.8.8.8\n9.9.9.9\n1.1.0.0/16\n1.2.3.4\n";
    let (_publisher, url) = Publisher::start(list).await;
    let running = Running::start_with(|config| {
        config.detect.policy.never_block = vec!["9.9.9.0/24".parse().unwrap()];
    })
    .await;
    running
        .post("/v1/decisions", json!({"targets": ["1.1.1.1", "1.2.3.0/24"], "action": "allow"}))
        .await;
    add(&running, "drop", json!({"location": url, "private_addresses": true})).await;
    let fetched = refresh(&running, "drop").await;
    assert_eq!(targets(&running, "drop").await, ["1.1.0.0/16", "1.2.3.4", "8.8.8.8"]);
    assert_eq!(
        fetched["left_out"],
        json!({"rejected": 0, "duplicates": 0, "reserved": 2, "protected": 1, "others": 0})
    );
    assert_eq!(fetched["overlaps"], 2);
    assert_eq!(
        fetched["overlap_samples"],
        json!([{"entry": "1.2.3.4", "allow": "1.2.3.0/24"}, {"entry": "1.1.0.0/16", "allow": "1.1.1.1"}])
    );
    assert_eq!(running.get("/v1/decisions/check?ip=1.1.1.1").await["verdict"], "allowed");
}

#[tokio::test]
async fn a_feed_that_is_not_heard_of_any_more_blocks_nobody() {
    let (publisher, url) = Publisher::start("192.0.2.1\n").await;
    publisher.with(|page| page.etag = Some("\"one\""));
    let running = Running::start().await;
    add(&running, "drop", local(&url)).await;
    refresh(&running, "drop").await;
    let ends = async |running: &Running| {
        running.get("/v1/decisions?origin=feed:drop").await["decisions"][0]["expires_at"].clone()
    };
    assert_eq!(ends(&running).await, "2026-11-29T16:00:00Z");
    // Heard of again and again: renewed before it ends, but not with every fetch.
    let day = Duration::from_secs(86_400);
    running.clock.advance(day);
    refresh(&running, "drop").await;
    assert_eq!(ends(&running).await, "2026-11-29T16:00:00Z");
    running.clock.advance(day);
    refresh(&running, "drop").await;
    assert_eq!(ends(&running).await, "2026-12-01T16:00:00Z");
    publisher.with(|page| page.status = Some(StatusCode::BAD_GATEWAY));
    let failed = refresh(&running, "drop").await;
    assert_eq!(
        (&failed["state"], &failed["problem"]),
        (&"failing".into(), &"it answers 502 Bad Gateway".into())
    );
    assert_eq!(targets(&running, "drop").await, ["192.0.2.1"], "a failure alone ends nothing");
    running.clock.advance(day * 7);
    assert_eq!(targets(&running, "drop").await, [""; 0]);
    assert_eq!(running.get("/v1/feeds/drop").await["state"], "stale");
}

#[tokio::test]
async fn what_is_fetched_is_bounded_and_stays_where_it_may() {
    let (publisher, url) = Publisher::start("192.0.2.1\n").await;
    let running = Running::start_with(|config| config.limits.import_targets = 2).await;
    let request = running.admin(Method::PUT, "/v1/feeds/x").json(&json!({"location": url}));
    assert_eq!(
        faults(&problem(request, 422).await),
        [
            "location: 127.0.0.1 is a private or reserved address: a feed may be fetched from one only if it is added with private_addresses"
        ]
    );
    let old = format!("{url}/old");
    add(&running, "moved", local(&old)).await;
    publisher.with(|page| page.redirect = Some("/new".to_owned()));
    assert_eq!(refresh(&running, "moved").await["entries"], 1);
    publisher.with(|page| page.redirect = Some("/old".to_owned()));
    publisher.asked();
    assert_eq!(refresh(&running, "moved").await["problem"], "it redirects more than 5 times");
    assert_eq!(publisher.asked().iter().filter(|asked| asked[0] == "/old").count() % 6, 0);
    publisher.with(|page| page.redirect = Some("ftp://127.0.0.1/".to_owned()));
    assert_eq!(
        refresh(&running, "moved").await["problem"],
        "it redirects to something that is no HTTP"
    );
    publisher.says("192.0.2.1\n192.0.2.2\n192.0.2.3\n");
    add(&running, "large", local(&url)).await;
    assert_eq!(
        refresh(&running, "large").await["problem"],
        "more than 2 targets (limits.import_targets)"
    );
    publisher.says("<html>nothing here</html>");
    assert_eq!(
        refresh(&running, "large").await["problem"],
        "it is HTML or XML, not a list: is the location right?"
    );
}

#[tokio::test]
async fn files_keys_and_packed_documents_are_read_from_the_feeds_directory() {
    let (publisher, url) = Publisher::start(r#"{"prefixes":[{"v4":"192.0.2.0/24"}]}"#).await;
    let running = Running::start().await;
    let home = running.directory.path().join("feeds");
    std::fs::create_dir(&home).unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(b"when,ip\n1,192.0.2.7\n2,192.0.2.8\n").unwrap();
    std::fs::write(home.join("list.csv.gz"), packed.finish().unwrap()).unwrap();
    let file = json!({"location": "file:list.csv.gz", "format": "csv", "fields": ["ip"], "include_reserved": true});
    add(&running, "file", file).await;
    assert_eq!(refresh(&running, "file").await["entries"], 2);
    std::fs::write(home.join("publisher.key"), "secret\n").unwrap();
    let keyed = json!({"format": "json", "items": "/prefixes", "fields": ["v4"], "key_file": "publisher.key"});
    add(&running, "keyed", with(local(&format!("{url}/x?list=7")), keyed)).await;
    let fetched = refresh(&running, "keyed").await;
    assert_eq!(
        (&fetched["entries"], &fetched["location"]),
        (&1.into(), &format!("{url}/x?…").into())
    );
    assert_eq!(publisher.asked()[0], ["/x", "", "secret"]);
    let missing = json!({"location": "file:nothing.txt"});
    add(&running, "missing", missing).await;
    let failed = refresh(&running, "missing").await;
    assert!(
        failed["problem"]
            .as_str()
            .unwrap()
            .ends_with("nothing.txt: No such file or directory (os error 2)"),
        "{failed}"
    );
}

/// Made with minisign 0.11 and a key that was thrown away.
const SIGNED: &str = "192.0.2.1\n192.0.2.2\n198.51.100.0/24\n";
const KEY: &str = "RWQDTWlm9FeCbUllLz2mHYyBcKSdzIc1yilfjeTc276E9rFwK3oLxw/d";
const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUQDTWlm9FeCbW6k1OWEBy/6AhxcwARTypTTmunuZbTK36lh7dLTuJl7A08Gj9WP46l70oLkCQ1yHkzPjEWOStxByXsk69ppSAI=
trusted comment: timestamp:1795952075\tfile:signed.txt\thashed
YXwKbGaz+NMSdHz9jdV1RmQmi6zfBtkOGZYdnU6/wsi6qKL1Y3hUpWKimDXTLmQIMFeXW/+E3RYA2XwyCx6NCg==
";

#[tokio::test]
async fn a_signed_feed_is_taken_with_its_signature_only() {
    let (publisher, url) = Publisher::start(SIGNED).await;
    publisher.with(|page| page.signature = SIGNATURE);
    let running = Running::start().await;
    let signed = with(local(&format!("{url}/list.txt")), json!({"minisign_key": KEY}));
    add(&running, "signed", signed).await;
    let fetched = refresh(&running, "signed").await;
    assert_eq!((&fetched["entries"], &fetched["signed"]), (&3.into(), &true.into()));
    assert_eq!(publisher.asked()[1][0], "/list.txt.minisig");
    publisher.says(&format!("{SIGNED}203.0.113.7\n"));
    let forged = refresh(&running, "signed").await;
    let problem = forged["problem"].as_str().unwrap();
    assert!(problem.starts_with("its signature does not fit the key"), "{problem}");
    assert_eq!(targets(&running, "signed").await.len(), 3);
    publisher.with(|page| page.signature = "");
    assert_eq!(refresh(&running, "signed").await["state"], "failing");
}

#[tokio::test]
async fn what_is_due_is_fetched_by_itself() {
    let (publisher, url) = Publisher::start("192.0.2.1\n").await;
    let running = Running::start().await;
    add(&running, "drop", local(&url)).await;
    // Made, so due at once; then once an hour.
    let fetched = async |what: &str| {
        let wait = async {
            while publisher.asked().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect(what);
    };
    fetched("never fetched").await;
    let settled = async {
        while running.get("/v1/feeds/drop").await["succeeded_at"].is_null() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), settled).await.expect("never noted");
    publisher.asked();
    running.clock.advance(Duration::from_secs(3_600));
    fetched("not fetched after an hour").await;
    running.service.stop().await;
}

#[tokio::test]
async fn a_crowdsec_is_asked_for_everything_and_then_for_changes() {
    let ban = |value: &str, duration: &str| json!({"id": 1, "origin": "cscli", "type": "ban", "scope": if value.contains('/') { "Range" } else { "Ip" }, "value": value, "duration": duration, "scenario": "manual"});
    let says = |new: Value, deleted: Value| json!({"new": new, "deleted": deleted}).to_string();
    let all = says(
        json!([ban("192.0.2.1", "3h59m58.5s"), ban("198.51.100.0/24", "1h0m0s")]),
        Value::Null,
    );
    let (publisher, url) = Publisher::start(&all).await;
    let running = Running::start().await;
    std::fs::create_dir(running.directory.path().join("feeds")).unwrap();
    std::fs::write(running.directory.path().join("feeds/cs.key"), "k").unwrap();
    let definition =
        with(local(&url), json!({"format": "crowdsec", "key_file": "cs.key", "every": "30d"}));
    add(&running, "cs", definition).await;
    assert_eq!(refresh(&running, "cs").await["entries"], 2);
    assert_eq!(targets(&running, "cs").await, ["192.0.2.1", "198.51.100.0/24"]);
    let decision = &running.get("/v1/decisions/check?ip=192.0.2.1").await["decision"];
    assert_eq!(
        (&decision["expires_at"], &decision["reason"]),
        (&"2026-11-22T19:59:58.5Z".into(), &"CrowdSec: manual".into())
    );
    publisher.says(&says(json!([ban("192.0.2.9", "4h")]), json!([ban("192.0.2.1", "-1s")])));
    let changed = refresh(&running, "cs").await;
    assert_eq!(changed["entries"], 2);
    assert_eq!(targets(&running, "cs").await, ["192.0.2.9", "198.51.100.0/24"]);
    let asked = publisher.asked();
    assert_eq!(asked[0], ["/v1/decisions/stream", "", "k"]);
    // A block of somebody else's is none of its business.
    running.post("/v1/decisions", json!({"targets": ["192.0.2.9"], "action": "block"})).await;
    publisher.says(&says(Value::Null, json!([ban("192.0.2.9", "-1s")])));
    refresh(&running, "cs").await;
    assert_eq!(targets(&running, "cs").await, ["198.51.100.0/24"]);
    assert_eq!(running.get("/v1/decisions/check?ip=192.0.2.9").await["verdict"], "blocked");
    running.clock.advance(Duration::from_secs(3_600));
    publisher.says(&says(Value::Null, Value::Null));
    assert_eq!(refresh(&running, "cs").await["entries"], 0, "each has an end of its own");
}
