//! The data that says where clients are: from npm, and replaced while requests come.

use std::path::PathBuf;
use std::time::Duration;

use ipwarden_e2e::{Load, Options, Reply, System, eventually, now};

use crate::geo::mmdb::{Mmdb, map};

/// The demo, whose filter asks the control plane, with an upstream that answers with what it
/// was told.
async fn demo() -> System {
    let direct =
        r#"direct_response: {status: 200, body: {inline_string: "hello from the upstream\n"}}"#;
    let mut echo = format!("{direct}\n                response_headers_to_add:");
    for name in ["country", "city"] {
        echo.push_str(&format!(
            "\n                - {{header: {{key: x-seen-{name}, value: 'seen:%REQ(x-ipwarden-{name})%'}}}}"
        ));
    }
    let replace = vec![(direct.to_owned(), echo)];
    System::start(Options { replace, concurrency: 1, ..Options::default() }).await
}

/// What the upstream was told, in lower case; empty for nothing.
fn seen(reply: &Reply, name: &str) -> String {
    let value = reply.header(&format!("x-seen-{name}")).unwrap_or_default();
    value.strip_prefix("seen:").unwrap_or(value).to_owned()
}

/// Puts a file in the place of the one before, in one step.
fn install(system: &System, name: &str, content: &[u8]) {
    let directory: PathBuf = system.data_dir().join("geo");
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join("next"), content).expect("the data");
    std::fs::rename(directory.join("next"), directory.join(name)).expect("the data");
}

/// 81.2.0.0/16 is in this city, each /24 a network of its own.
fn city(name: &str) -> Vec<u8> {
    let mut data = Mmdb::new("city ipv4", 4);
    for n in 0..=255 {
        let place = map([("country_code", "GB".into()), ("city", name.into())]);
        data = data.net(&format!("81.2.{n}.0/24"), place);
    }
    data.build()
}

#[tokio::test(flavor = "multi_thread")]
async fn data_is_replaced_under_load_and_garbage_leaves_the_old_data_in_use() {
    let system = demo().await;
    let located = async || {
        let (_, found) = system.api_raw("GET", "/v1/geo/81.2.69.160", None).await;
        found["city"].as_str().unwrap_or_default().to_owned()
    };
    install(&system, "city.mmdb", &city("London"));
    eventually("the data is in use", async || located().await == "London").await;
    let load = Load::start(system.site_port, 10, 500);
    let started = now();
    // A network that nobody has asked about yet, each time.
    let mut network = 0u8;
    let mut places = async |expected: &str, path: &str| {
        network += 1;
        let client = format!("81.2.{network}.7");
        assert_eq!(system.request(&client, path, &[]).await.status, 200);
        eventually("the upstream is told of the new data", async || {
            let reply = system.request(&client, "/next", &[]).await;
            assert_eq!(reply.status, 200);
            seen(&reply, "city") == expected.to_lowercase()
        })
        .await;
        eventually("the record of its first request says the same", async || {
            let records = system.records(&format!("path={path}")).await;
            records.first().is_some_and(|record| record["city"] == expected)
        })
        .await;
    };
    places("London", "/first").await;
    for (n, name) in ["Leeds", "York", "Bath"].into_iter().enumerate() {
        install(&system, "city.mmdb", &city(name));
        let took = eventually("the new data is in use", async || located().await == name).await;
        println!("{name} in use {took:?} after the file was replaced");
        places(name, &format!("/{n}")).await;
    }
    for garbage in [&b"no database at all"[..], &city("Nowhere")[..3_000], b""] {
        install(&system, "city.mmdb", garbage);
        eventually("doctor says so", async || {
            let doctor = system.cli(&["doctor"]).await;
            let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
            text.contains("city.mmdb") && text.contains("the data of 2026-06-05 stays in use")
        })
        .await;
        assert_eq!(located().await, "Bath");
    }
    places("Bath", "/garbage").await;
    let sent = load.stop().await;
    let rate = sent.answered() as f64 / started.elapsed().as_secs_f64();
    println!("meanwhile {sent:?}, {rate:.0} r/s");
    assert_eq!((sent.refused, sent.other, sent.broken), (0, 0, 0));
    assert!(sent.answered() > 1_000, "{sent:?}");
    install(&system, "city.mmdb", &city("Derby"));
    eventually("good data is in use again", async || located().await == "Derby").await;
    eventually("doctor is content", async || {
        let doctor = system.cli(&["doctor"]).await;
        !String::from_utf8_lossy(&doctor.stdout).contains("stays in use")
    })
    .await;
}

/// With what `make run` brings. Without the registry there is nothing to show.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_data_of_npm_the_first_record_has_a_city_and_the_second_request_a_header() {
    let system = demo().await;
    let directory = system.data_dir().join("geo");
    let directory = directory.to_string_lossy();
    let update = ["geo", "update", "--city", "--into", &directory];
    let brought = tokio::time::timeout(Duration::from_secs(240), system.cli(&update)).await;
    match brought {
        Ok(output) if output.status.success() => {}
        other => {
            eprintln!("SKIPPED: the free data can't be brought with npm here: {other:?}");
            return;
        }
    }
    // A build without optimisation takes its time for 134 MB.
    let loaded = async {
        let mut again = tokio::time::interval(Duration::from_millis(500));
        loop {
            again.tick().await;
            let (_, found) = system.api_raw("GET", "/v1/geo/81.2.69.160", None).await;
            if found["country"] == "GB" && found["city"].is_string() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), loaded).await.expect("the data is in use");
    // What has no place, for comparison: connection, route, upstream.
    let mut plain = Duration::MAX;
    for _ in 0..20 {
        let start = now();
        assert_eq!(system.status("10.0.0.7").await, 200);
        plain = plain.min(start.elapsed());
    }
    let start = now();
    let first = system.request("81.2.69.160", "/first", &[]).await;
    let first_took = start.elapsed();
    assert_eq!((first.status, seen(&first, "country").as_str()), (200, ""));
    eventually("the place is known", async || {
        system.stat("ipwarden_geo_lookups", "found").await == 1
    })
    .await;
    let start = now();
    let second = system.request("81.2.69.160", "/second", &[]).await;
    let second_took = start.elapsed();
    assert_eq!(seen(&second, "country"), "gb");
    assert!(!seen(&second, "city").is_empty(), "a city");
    println!(
        "best without a place {plain:?}, first request {first_took:?}, second {second_took:?}"
    );
    assert!(first_took < plain + Duration::from_millis(100), "the first request waited");
    for path in ["/first", "/second"] {
        eventually("the record has a country and a city", async || {
            let records = system.records(&format!("path={path}")).await;
            let record = records.first();
            if let Some(record) = record {
                println!("{path}: {} {} AS{}", record["country"], record["city"], record["asn"]);
            }
            record.is_some_and(|record| {
                record["country"] == "GB"
                    && record["city"].as_str().is_some_and(|city| !city.is_empty())
            })
        })
        .await;
    }
}
