//! Places in a real Envoy: who is asked and how often, who is told, and that no request pays
//! for a provider that fails.

use std::time::Duration;

use ipwarden_e2e::{Behaviour, Options, Places, Process, System, Vm, eventually, now, plugin};
use serde_json::{Value, json};

const LONDON: &str =
    r#"{"ip":"81.2.69.160","network":"81.2.69.160/27","country":"GB","city":"London","asn":20712}"#;
const ORLEANS: &str = r#"{"country":"FR","city":"Orléans","org":"AS3215 Orange"}"#;
const BROWSER: (&str, &str) = ("user-agent", "Mozilla/5.0 Firefox/140.0");

/// A system whose filter asks `places`; the upstream answers with what it was told.
async fn system(places: &Places, geo: Value, more: Value) -> System {
    let mut config = plugin();
    config["geo"] = geo;
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
    let direct =
        r#"direct_response: {status: 200, body: {inline_string: "hello from the upstream\n"}}"#;
    let mut echo = format!("{direct}\n                response_headers_to_add:");
    for name in ["country", "city", "asn", "anything"] {
        echo.push_str(&format!(
            "\n                - {{header: {{key: x-seen-{name}, value: 'seen:%REQ(x-ipwarden-{name})%'}}}}"
        ));
    }
    System::start(Options {
        plugin: Some(config),
        replace: vec![places.cluster(), (direct.to_owned(), echo)],
        ..Options::default()
    })
    .await
}

fn control_plane_like() -> Value {
    json!({"cluster": "geo", "provider": "ipwarden"})
}

fn ipinfo() -> Value {
    json!({"cluster": "geo", "provider": "ipinfo", "token": "secret&1"})
}

/// What the upstream saw of the three headers, in lower case; empty for none.
fn seen(reply: &ipwarden_e2e::Reply) -> [String; 3] {
    ["country", "city", "asn"].map(|name| {
        let value = reply.header(&format!("x-seen-{name}")).unwrap_or_default();
        value.strip_prefix("seen:").unwrap_or(value).to_owned()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_is_not_delayed_and_the_next_carries_its_place() {
    let slow = Behaviour::Slow(Duration::from_millis(700), LONDON.to_owned());
    let places = Places::start(slow, None).await;
    let system = system(&places, control_plane_like(), json!({})).await;
    let start = now();
    let first = system.request("81.2.69.161", "/first", &[]).await;
    let took = start.elapsed();
    assert_eq!((first.status, seen(&first)), (200, ["", "", ""].map(str::to_owned)));
    assert!(took < Duration::from_millis(500), "the request waited: {took:?}");
    eventually("every worker tells the upstream", async || {
        for _ in 0..20 {
            if seen(&system.request("81.2.69.170", "/next", &[]).await)[0] != "gb" {
                return false;
            }
        }
        true
    })
    .await;
    let told = system.request("81.2.69.161", "/told", &[]).await;
    assert_eq!(seen(&told), ["gb", "london", "20712"]);
    println!("first request with a look-up of 700 ms under way: {took:?}");
    assert!(places.last().starts_with("GET /v1/geo/81.2.69.1"), "{}", places.last());
    assert!(places.last().contains("authorization: Bearer "), "{}", places.last());
    assert!(places.asked() <= 2, "once for each worker at most: {}", places.asked());
    eventually("the record says where", async || {
        let records = system.records("path=/told").await;
        records.first().is_some_and(|record| {
            record["country"] == "GB" && record["city"] == "London" && record["asn"] == 20_712
        })
    })
    .await;
    // A private address is nobody's to be asked about.
    let asked = places.asked();
    for _ in 0..5 {
        assert_eq!(system.status("10.1.2.3").await, 200);
    }
    assert_eq!(places.asked(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_of_its_place_is_not_passed_on() {
    let places = Places::start(Behaviour::Answer(LONDON.to_owned()), None).await;
    let system = system(&places, control_plane_like(), json!({})).await;
    let lies =
        [("X-Ipwarden-Country", "XX"), ("x-ipwarden-anything", "1"), ("x-ipwarden-country", "YY")];
    for client in ["10.0.0.9", "81.2.69.161"] {
        let reply = system.request(client, "/", &lies).await;
        assert_eq!(reply.header("x-seen-anything"), Some("seen:"), "{client}");
        assert_ne!(seen(&reply)[0], "xx");
        assert_ne!(seen(&reply)[0], "yy");
    }
    eventually("the place is known", async || {
        seen(&system.request("81.2.69.161", "/", &lies).await)[0] == "gb"
    })
    .await;
    assert!(system.stat("ipwarden_headers_removed", "").await >= 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_fails_in_any_way_costs_no_request_and_is_asked_again_later() {
    let places = Places::start(Behaviour::Hangs, None).await;
    let geo = json!({"cluster": "geo", "provider": "ipinfo", "timeout": "500ms"});
    let system = system(&places, geo, json!({})).await;
    let troubles = [
        Behaviour::Hangs,
        Behaviour::Slow(Duration::from_secs(5), ORLEANS.to_owned()),
        Behaviour::Status(500),
        Behaviour::Garbage,
        Behaviour::Huge(30 << 20),
        Behaviour::Redirect,
    ];
    let mut network = 0u8;
    for (n, trouble) in troubles.into_iter().enumerate() {
        println!("{trouble:?}");
        places.behave(trouble);
        let failed = system.stat("ipwarden_geo_lookups", "failed").await;
        let opened = system.stat("ipwarden_geo_breaker_changes", "opened").await;
        let mut slowest = Duration::ZERO;
        eventually("the breaker opens", async || {
            network = network.wrapping_add(1);
            let start = now();
            assert_eq!(system.status(&format!("8.{n}.{network}.8")).await, 200);
            slowest = slowest.max(start.elapsed());
            system.stat("ipwarden_geo_breaker_changes", "opened").await > opened
        })
        .await;
        assert!(system.stat("ipwarden_geo_lookups", "failed").await > failed);
        println!("slowest request meanwhile: {slowest:?}");
        assert!(slowest < Duration::from_millis(450), "a request waited: {slowest:?}");
        let closed = system.stat("ipwarden_geo_breaker_changes", "closed").await;
        let opened = system.stat("ipwarden_geo_breaker_changes", "opened").await;
        places.behave(Behaviour::Answer(ORLEANS.to_owned()));
        eventually("every breaker that opened closes", async || {
            network = network.wrapping_add(1);
            assert_eq!(system.status(&format!("9.{n}.{network}.8")).await, 200);
            system.stat("ipwarden_geo_breaker_changes", "closed").await >= opened
        })
        .await;
        assert!(system.stat("ipwarden_geo_breaker_changes", "closed").await > closed);
    }
    let log = system.envoy_log();
    assert!(!log.contains("Wasm VM failed") && !log.contains("panicked"), "{log}");
    assert!(log.contains("the provider of places answers with a redirect (302)"), "{log}");
    assert!(!log.contains("8.0.1.8"), "no client's address in our log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_provider_is_shown_its_token_and_asked_no_more_than_the_quota_allows() {
    let places = Places::start(Behaviour::Answer(ORLEANS.to_owned()), Some("secret%261")).await;
    let mut geo = ipinfo();
    geo["quota_per_day"] = json!(5);
    let system = system(&places, geo, json!({})).await;
    for n in 0..60 {
        assert_eq!(system.status(&format!("9.9.{n}.9")).await, 200);
    }
    eventually("the quota is used up", async || {
        system.stat("ipwarden_geo_lookups", "over_quota").await > 0
    })
    .await;
    for n in 60..80 {
        assert_eq!(system.status(&format!("9.9.{n}.9")).await, 200);
    }
    eventually("a record says why it has no place", async || {
        assert_eq!(system.status("9.9.200.9").await, 200);
        let records = system.records("ip=9.9.200.9").await;
        records
            .iter()
            .any(|record| record["flags"].as_str().is_some_and(|flags| flags.contains("GEO_QUOTA")))
    })
    .await;
    assert_eq!(places.asked(), 5);
    assert_eq!(system.stat("ipwarden_geo_lookups", "sent").await, 5);
    eventually("the gauge says so", async || {
        system.stat("ipwarden_geo_lookups_today", "").await == 5
    })
    .await;
    assert_eq!(system.stat("ipwarden_geo_lookups", "found").await, 5, "the token was right");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_french_address_is_sent_to_the_french_site_unless_it_wants_to_stay() {
    let places = Places::start(Behaviour::Answer(ORLEANS.to_owned()), Some("secret%261")).await;
    let rules = json!({"localize": [{
        "countries": ["FR", "BE"], "match": {"path": "/"}, "redirect": "https://fr.example.com/",
    }]});
    let mut geo = ipinfo();
    geo["wait_ms"] = json!(1_500);
    let system = system(&places, geo, rules).await;
    // It waits for the answer: the rule needs it.
    let first = system.request("90.1.2.3", "/", &[BROWSER]).await;
    assert_eq!((first.status, first.header("location")), (302, Some("https://fr.example.com/")));
    assert_eq!(first.header("vary"), Some("accept-language, cookie, referer, user-agent"));
    let bot = ("user-agent", "Mozilla/5.0 (compatible; Googlebot/2.1)");
    for headers in [
        &[BROWSER, ("cookie", "a=b; ipwarden_stay=1")][..],
        &[bot][..],
        &[BROWSER, ("referer", "https://fr.example.com/")][..],
    ] {
        assert_eq!(system.request("90.1.2.3", "/", headers).await.status, 200, "{headers:?}");
    }
    assert_eq!(system.request("90.1.2.3", "/?stay=1", &[BROWSER]).await.status, 200);
    assert_eq!(system.request("90.1.2.3", "/other", &[BROWSER]).await.status, 200);
    eventually("a record says redirected", async || {
        let records = system.records("verdict=redirected").await;
        records.first().is_some_and(|record| {
            record["rule"] == "localize-0" && record["country"] == "FR" && record["status"] == 302
        })
    })
    .await;
    // A provider that is slow makes it wait as long as it may, and no longer.
    places.behave(Behaviour::Slow(Duration::from_millis(1_900), ORLEANS.to_owned()));
    let start = now();
    let slow = system.request("91.1.2.3", "/", &[BROWSER]).await;
    let waited = start.elapsed();
    assert_eq!(slow.status, 200, "nobody knew where it came from");
    println!("a request waited for its place: {waited:?} of 1.5 s");
    assert!((1_400..1_900).contains(&waited.as_millis()), "{waited:?}");
    let start = now();
    assert_eq!(system.request("92.1.2.3", "/other", &[BROWSER]).await.status, 200);
    assert!(start.elapsed() < Duration::from_millis(500), "no rule is about it");
    assert!(system.stat("ipwarden_geo_waits", "answered").await >= 1);
    assert_eq!(system.stat("ipwarden_geo_waits", "timed_out").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_for_a_country_is_for_nobody_else() {
    let places = Places::start(Behaviour::Answer(ORLEANS.to_owned()), Some("secret%261")).await;
    let limits = json!({"limits": [{
        "name": "french", "match": {"countries": ["FR"]},
        "anonymous": {"requests": 3, "per": "1h"},
    }]});
    let system = system(&places, ipinfo(), limits).await;
    eventually("the French one is limited", async || system.status("90.1.2.3").await == 429).await;
    for _ in 0..10 {
        assert_eq!(system.status("10.0.0.7").await, 200);
    }
}

/// The built module in a host that counts its calls. Nobody answers there: what is compared is
/// a request whose place the worker remembers (that a private address has none) with the same
/// request where nobody is asked at all.
#[test]
fn a_remembered_place_costs_no_host_call() {
    let start = Duration::from_secs(1_767_225_600);
    let calls = |config: Value| {
        let mut worker = Vm::start(&Process::new(start), &config);
        worker.request("10.0.0.1", "/");
        let judged = worker.request("10.0.0.2", "/");
        assert_eq!(judged.status, 200);
        judged.calls
    };
    let without = calls(json!({"limits": []}));
    let with = calls(json!({"limits": [], "geo": {"cluster": "geo", "provider": "ipinfo"}}));
    assert_eq!(with, without);
    println!("host calls of a request whose place is remembered: {with:?}");
}

#[path = "../../../../control-plane/tests/fixtures/mmdb.rs"]
#[allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "written for other tests")]
pub(crate) mod mmdb;

#[tokio::test(flavor = "multi_thread")]
async fn with_the_control_plane_as_the_provider_both_records_have_the_place() {
    let direct =
        r#"direct_response: {status: 200, body: {inline_string: "hello from the upstream\n"}}"#;
    let echo = format!(
        "{direct}\n                response_headers_to_add:\n                - {{header: {{key: \
         x-seen-country, value: 'seen:%REQ(x-ipwarden-country)%'}}}}"
    );
    let replace = vec![(direct.to_owned(), echo)];
    // The demo's own configuration asks the control plane.
    let system = System::start(Options { replace, concurrency: 1, ..Options::default() }).await;
    let london = mmdb::map([("country_code", "GB".into()), ("city", "London".into())]);
    let data = mmdb::Mmdb::new("city ipv4", 4).net("81.2.69.160/27", london).build();
    let directory = system.data_dir().join("geo");
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join("next"), data).expect("the data");
    std::fs::rename(directory.join("next"), directory.join("city.mmdb")).expect("the data");
    eventually("the control plane has the data", async || {
        system.api_raw("GET", "/v1/geo/81.2.69.160", None).await.1["country"] == "GB"
    })
    .await;
    let start = now();
    assert_eq!(seen(&system.request("81.2.69.160", "/first", &[]).await)[0], "");
    let first = start.elapsed();
    let learnt = eventually("the place is known", async || {
        system.stat("ipwarden_geo_lookups", "found").await == 1
    })
    .await;
    assert_eq!(seen(&system.request("81.2.69.161", "/second", &[]).await)[0], "gb");
    println!("first request {first:?}, place known (as the metrics tell) {learnt:?} after it");
    for path in ["/first", "/second"] {
        eventually("both records have the place", async || {
            let records = system.records(&format!("path={path}")).await;
            records
                .first()
                .is_some_and(|record| record["country"] == "GB" && record["city"] == "London")
        })
        .await;
    }
}

/// `ipwarden` beside the system; its output.
async fn command(system: &System, arguments: &[&str]) -> std::process::Output {
    let output = system.cli(arguments).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn a_country_is_refused_at_its_path_within_seconds_and_on_the_whole_site_only_in_shadow() {
    let places = Places::start(Behaviour::Answer(LONDON.to_owned()), None).await;
    let system = system(&places, control_plane_like(), json!({"limits": []})).await;
    // Of an address that nobody has asked about yet nothing is known: it passes.
    eventually("every worker knows the place", async || {
        for _ in 0..20 {
            if seen(&system.request("81.2.69.161", "/", &[]).await)[0] != "gb" {
                return false;
            }
        }
        true
    })
    .await;
    command(&system, &["block", "country:GB", "--path", "/admin", "--for", "1h"]).await;
    let start = now();
    let status = async |client: &str, path: &str| system.request(client, path, &[]).await.status;
    eventually("every worker refuses", async || {
        for _ in 0..20 {
            if status("81.2.69.161", "/admin/users").await != 403 {
                return false;
            }
        }
        true
    })
    .await;
    let took = start.elapsed();
    println!("refused by all workers {took:?} after the command");
    assert!(took < Duration::from_secs(3), "{took:?}");
    for path in ["/", "/administrator", "/login"] {
        assert_eq!(status("81.2.69.161", path).await, 200, "{path}");
    }
    for client in ["10.0.0.7", "81.2.70.1"] {
        assert_eq!(status(client, "/admin").await, 200, "{client}");
    }
    // The same refusal as any block's, with the number of the decision.
    let reply = system.request("81.2.69.161", "/admin", &[("accept", "application/json")]).await;
    assert_eq!(reply.status, 403);
    eventually("the record names it", async || {
        let records = system.records("verdict=blocked").await;
        records.first().is_some_and(|record| {
            record["rule"] == "country:GB" && record["decision"] == 1 && record["country"] == "GB"
        })
    })
    .await;
    // An allow wins.
    command(&system, &["allow", "81.2.69.161"]).await;
    eventually("the allow is in force", async || status("81.2.69.161", "/admin").await == 200)
        .await;
    assert_eq!(status("81.2.69.162", "/admin").await, 403);

    // The whole site: in shadow first.
    command(&system, &["block", "country:GB", "--yes-whole-region"]).await;
    eventually("the records show whom it would refuse", async || {
        assert_eq!(status("81.2.69.163", "/shadowed").await, 200);
        let records = system.records("path=/shadowed&verdict=shadow").await;
        records.first().is_some_and(|record| {
            record["rule"] == "country:GB" && record["decision"] == 3 && record["status"] == 200
        })
    })
    .await;
    command(&system, &["block", "country:GB", "--yes-whole-region", "--enforce"]).await;
    eventually("it is switched on", async || status("81.2.69.163", "/").await == 403).await;
    command(&system, &["unblock", "country:GB"]).await;
    eventually("it is gone", async || status("81.2.69.163", "/").await == 200).await;
    eventually("the metrics tell", async || {
        system.stat("ipwarden_region_requests", "refused").await >= 20
            && system.stat("ipwarden_region_requests", "shadow").await >= 1
    })
    .await;
}

/// A worker of the built module that has got this policy, and knows that 81.2.69.160/27 is in
/// London.
fn worker_in_london(policy: &str) -> Vm {
    let config = json!({
        "limits": [], "geo": {"cluster": "geo", "provider": "ipinfo"},
        "control_plane": {"cluster": "ipwarden", "token": "t"},
    });
    let mut worker = Vm::start(&Process::new(Duration::from_secs(1_767_225_600)), &config);
    worker.send_calls();
    worker.request("10.0.0.1", "/");
    worker.request("81.2.69.160", "/");
    worker.tick();
    let revision = ipwarden::decisions::Revision { epoch: 1, number: 1 };
    let mut set = ipwarden::decisions::wire::encode_snapshot(revision, 0, &[]);
    set.extend(ipwarden::limits::policy::encode(1, policy.as_bytes()));
    assert!(worker.answer("/v1/decisions/stream", &set), "it polls");
    worker.tick();
    let answer = r#"{"country":"GB","city":"London","org":"AS20712 Andrews"}"#;
    assert!(worker.answer("/81.2.69.160", answer.as_bytes()), "it asks");
    worker.tick();
    worker
}

/// The built module in a host that counts its calls.
#[test]
fn a_decision_by_region_costs_no_host_call() {
    let regions = r#"{"regions": [{"id": 1, "region": "country:FR", "path": "/admin"},
        {"id": 2, "region": "country:GB", "path": "/closed"},
        {"id": 3, "region": "asn:20712", "mode": "shadow"}]}"#;
    let (mut without, mut with) = (worker_in_london("{}"), worker_in_london(regions));
    let mut calls = Vec::new();
    for client in ["10.0.0.1", "81.2.69.161"] {
        let (plain, judged) = (without.request(client, "/a"), with.request(client, "/a"));
        assert_eq!((judged.status, &judged.calls), (200, &plain.calls), "{client}");
        calls.push(plain.calls);
    }
    // What a known place costs: the three headers.
    let mut told = calls[0].clone();
    told.insert("proxy_add_header_map_value".to_owned(), 3);
    assert_eq!(calls[1], told);
    assert_eq!(with.request("81.2.69.161", "/closed/x").status, 403);
    assert_eq!(without.request("81.2.69.161", "/closed/x").status, 200);
}
