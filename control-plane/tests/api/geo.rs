//! Where addresses are: look-ups, their limits, data that changes while the service runs.

use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::mmdb::{Mmdb, map};
use crate::support::{Running, START, batch_of, faults, ok, problem};

fn london() -> Vec<u8> {
    city("London")
}

fn city(name: &str) -> Vec<u8> {
    Mmdb::new("city ipv4", 4)
        .net(
            "81.2.69.160/27",
            map([
                ("country_code", "GB".into()),
                ("state1", "England".into()),
                ("city", name.into()),
                ("latitude", 51.5142.into()),
                ("longitude", (-0.0931).into()),
                ("timezone", "Europe/London".into()),
            ]),
        )
        .build()
}

fn country(code: &str) -> Vec<u8> {
    Mmdb::new("country ipvAll", 6)
        .net("81.2.0.0/16", map([("country_code", code.into())]))
        .net("2a02:c7f::/32", map([("country_code", "GB".into())]))
        .build()
}

fn asn() -> Vec<u8> {
    let system = map([
        ("autonomous_system_number", 20712.into()),
        ("autonomous_system_organization", "Andrews & Arnold Ltd".into()),
    ]);
    Mmdb::new("GeoLite2-ASN", 4).net("81.2.69.0/24", system).build()
}

fn install(data: &Path, name: &str, content: &[u8]) {
    let directory = data.join("geo");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(".draft"), content).unwrap();
    std::fs::rename(directory.join(".draft"), directory.join(name)).unwrap();
}

async fn with_data() -> Running {
    let directory = tempfile::tempdir().unwrap();
    install(directory.path(), "dbip-city-ipv4.mmdb", &london());
    install(directory.path(), "country.mmdb", &country("FR"));
    install(directory.path(), "asn.mmdb", &asn());
    Running::start_in(directory, |_| {}).await
}

/// As the service does it by itself every few seconds.
fn look(running: &Running) {
    let app = running.service.app();
    app.metrics.geo_refreshed(&app.geo.refresh(app.clock.now()));
}

#[tokio::test]
async fn an_answer_says_place_operator_and_how_far_it_holds() {
    let running = with_data().await;
    let response = running.proxy(Method::GET, "/v1/geo/81.2.69.160").send().await.unwrap();
    assert_eq!(response.headers()["cache-control"], "private, max-age=86400");
    let london: Value = response.json().await.unwrap();
    assert_eq!(
        london,
        json!({
            "ip": "81.2.69.160", "network": "81.2.69.160/27",
            "country": "GB", "region": "England", "city": "London",
            "latitude": 51.5142, "longitude": -0.0931, "timezone": "Europe/London",
            "asn": 20712, "as_org": "Andrews & Arnold Ltd",
        })
    );
    assert_eq!(
        running.get("/v1/geo/81.2.1.1").await,
        json!({"ip": "81.2.1.1", "network": "81.2.0.0/18", "country": "FR"})
    );
    assert_eq!(
        running.get("/v1/geo/2a02:c7f::1").await,
        json!({"ip": "2a02:c7f::1", "network": "2a02:c7f::/32", "country": "GB"})
    );
    assert_eq!(running.get("/v1/geo/::ffff:81.2.69.160").await, london);
}

#[tokio::test]
async fn what_has_no_place_and_what_is_not_known_are_told_apart() {
    let running = with_data().await;
    let response = running.proxy(Method::GET, "/v1/geo/10.1.2.3").send().await.unwrap();
    assert_eq!(response.headers()["cache-control"], "private, max-age=86400");
    let reserved: Value = response.json().await.unwrap();
    assert_eq!(reserved, json!({"ip": "10.1.2.3", "network": "10.0.0.0/8", "reserved": true}));
    let response = running.proxy(Method::GET, "/v1/geo/200.0.0.1").send().await.unwrap();
    assert_eq!(response.headers()["cache-control"], "private, max-age=3600");
    let unknown: Value = response.json().await.unwrap();
    assert_eq!(unknown, json!({"ip": "200.0.0.1", "network": "200.0.0.0/7"}));
    let metrics =
        running.anonymous(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    for line in [
        "ipwarden_geo_lookups_total{kind=\"reserved\"} 1",
        "ipwarden_geo_lookups_total{kind=\"unknown\"} 1",
        "ipwarden_geo_files_total{kind=\"loaded\"} 3",
        "ipwarden_geo_databases 3",
        "ipwarden_geo_problems 0",
        "ipwarden_geo_built_timestamp_seconds{kind=\"city\"} 1780664400",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} not in\n{metrics}");
    }
}

#[tokio::test]
async fn many_addresses_are_answered_in_order() {
    let running = with_data().await;
    let asked = json!({"ips": ["10.0.0.1", "81.2.69.160", "200.0.0.1", "81.2.69.160"]});
    let answer = ok(running.proxy(Method::POST, "/v1/geo").json(&asked)).await;
    let cities: Vec<&Value> =
        answer["results"].as_array().unwrap().iter().map(|located| &located["city"]).collect();
    let london = json!("London");
    assert_eq!(cities, [&Value::Null, &london, &Value::Null, &london]);

    let thousand: Vec<String> =
        (0..1_000).map(|n| format!("81.2.{}.{}", n / 256, n % 256)).collect();
    let answer = running.post("/v1/geo", json!({"ips": thousand})).await;
    assert_eq!(answer["results"].as_array().unwrap().len(), 1_000);
    let more = running.admin(Method::POST, "/v1/geo").json(&json!({"ips": vec!["1.1.1.1"; 1_001]}));
    assert_eq!(problem(more, 422).await["detail"], "1001 addresses: at most 1000 at once");
}

#[tokio::test]
async fn what_is_no_address_is_refused_without_repeating_it() {
    let running = with_data().await;
    for path in [
        "/v1/geo/81.2.69",
        "/v1/geo/81.2.69.160:80",
        "/v1/geo/example.com",
        "/v1/geo/81.2.69.160%0a1",
    ] {
        let refused = problem(running.proxy(Method::GET, path), 400).await;
        assert_eq!(
            faults(&refused),
            ["ip: expected an IP address such as 192.0.2.7 or 2001:db8::1"],
            "{path}"
        );
    }
    let asked = json!({"ips": ["81.2.69.160", "x", "81.2.69.160", "1.2.3"]});
    let refused = problem(running.proxy(Method::POST, "/v1/geo").json(&asked), 422).await;
    assert_eq!(
        faults(&refused),
        [
            "ips[1]: expected an IP address such as 192.0.2.7 or 2001:db8::1",
            "ips[3]: expected an IP address such as 192.0.2.7 or 2001:db8::1",
        ]
    );
    problem(running.proxy(Method::GET, "/v1/geo/1.1.1.1?x=1"), 400).await;
}

#[tokio::test]
async fn without_data_proxies_are_told_to_come_back() {
    let running = Running::start().await;
    let response = running.proxy(Method::GET, "/v1/geo/81.2.69.160").send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "60");
    let refused: Value = response.json().await.unwrap();
    assert_eq!(
        refused["detail"],
        "there is no geolocation data: `ipwarden geo update` brings some"
    );
    assert_eq!(running.get("/v1/geo/10.0.0.1").await["reserved"], true);
    assert_eq!(running.get("/v1/geo").await["databases"], json!([]));
    // Nothing else depends on it.
    assert_eq!(running.ship(batch_of(1, 1, &["81.2.69.160"])).await.status(), 200);
    assert_eq!(running.get("/v1/requests").await["records"][0]["country"], Value::Null);
}

#[tokio::test]
async fn data_is_replaced_while_the_service_runs_and_garbage_is_not() {
    let running = with_data().await;
    let data = running.directory.path();
    install(data, "dbip-city-ipv4.mmdb", b"<html>");
    look(&running);
    assert_eq!(running.get("/v1/geo/81.2.69.160").await["city"], "London");
    running.clock.advance(Duration::from_secs(60));
    let listed = running.get("/v1/geo").await;
    assert_eq!(listed, running.get("/v1/status").await["geo"]);
    let broken = &listed["databases"][0];
    assert_eq!(broken["file"], "dbip-city-ipv4.mmdb");
    let said = broken["problem"].as_str().unwrap();
    assert!(said.starts_with("is not a whole MMDB file ("), "{said}");
    assert_eq!(broken["problem_since"], START);
    let in_use = &broken["data"];
    assert_eq!(
        (&in_use["kind"], &in_use["built_at"], &in_use["loaded_at"]),
        (&json!("city"), &json!("2026-06-05T13:00:00Z"), &json!(START))
    );
    assert_eq!(in_use["attribution"]["text"], "IP Geolocation by DB-IP");
    assert_eq!(in_use["age_seconds"], 14_698_860);
    let metrics =
        running.anonymous(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("\nipwarden_geo_problems 1\n"), "{metrics}");

    std::fs::remove_file(data.join("geo/dbip-city-ipv4.mmdb")).unwrap();
    install(data, "country.mmdb", &country("IE"));
    look(&running);
    assert_eq!(running.get("/v1/geo/81.2.69.160").await["country"], "IE");
    assert_eq!(running.get("/v1/geo").await["databases"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn records_learn_where_their_client_is() {
    let running = with_data().await;
    let live = running.admin(Method::GET, "/v1/requests/live?country=gb").send().await.unwrap();
    let clients = ["81.2.69.160", "81.2.1.1", "10.0.0.1", "2a02:c7f::1", "::ffff:81.2.69.161"];
    assert_eq!(running.ship(batch_of(1, 1, &clients)).await.status(), 200);
    let records = running.get("/v1/requests").await["records"].clone();
    let places: Vec<Value> = records
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|record| json!([record["country"], record["city"], record["asn"]]))
        .collect();
    assert_eq!(
        places,
        [
            json!(["GB", "London", 20712]),
            json!(["FR", null, null]),
            json!([null, null, null]),
            json!(["GB", null, null]),
            json!(["GB", "London", 20712]),
        ]
    );
    let british = running.get("/v1/requests?country=gb").await;
    assert_eq!(british["records"].as_array().unwrap().len(), 3);
    assert_eq!(running.get("/v1/requests?country=DE").await["records"], json!([]));
    let refused = problem(running.admin(Method::GET, "/v1/requests?country=France"), 400).await;
    assert_eq!(
        faults(&refused),
        ["country: expected a country's code of two letters such as FR, found 'France'"]
    );
    // The live stream shows the same.
    use futures_util::StreamExt as _;
    let mut chunks = live.bytes_stream();
    let mut text = String::new();
    while text.matches("event: record").count() < 3 {
        text.push_str(std::str::from_utf8(&chunks.next().await.unwrap().unwrap()).unwrap());
    }
    assert!(text.contains("\"country\":\"GB\",\"city\":\"London\",\"asn\":20712"), "{text}");

    // Later data counts for later records.
    install(running.directory.path(), "dbip-city-ipv4.mmdb", &city("Londinium"));
    look(&running);
    running.ship(batch_of(1, 2, &["81.2.69.160"])).await;
    assert_eq!(running.get("/v1/requests?limit=1").await["records"][0]["city"], "Londinium");
}
