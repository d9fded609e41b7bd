//! What a known place costs Envoy: with ipwarden, with Envoy's own geoip filter on the same
//! data, with neither.

use std::path::Path;
use std::time::Duration;

use ipwarden_e2e::{Options, System, eventually, plugin, processor_time, spray};
use serde_json::{Value, json};

use crate::geo::mmdb::{Mmdb, map};

/// Requests of one measurement.
const REQUESTS: u64 = 20_000;
const ROUNDS: usize = 9;
/// As many as keep the one worker busy: an idle one pays for waking up with each request.
const CONNECTIONS: u32 = 32;
/// Clients in 40 networks.
const CLIENTS: u64 = 10_000;

/// One line of the table.
struct Case {
    name: &'static str,
    system: System,
    took: Vec<Duration>,
}

fn client(n: u64) -> String {
    let n = n % CLIENTS;
    format!("81.2.{}.{}", n / 256, n % 256)
}

/// Databases in MaxMind's layout, which both read: 81.2.0.0/16 by /24.
fn write_data(directory: &Path) {
    let mut cities = Mmdb::new("GeoLite2-City", 6);
    let mut operators = Mmdb::new("GeoLite2-ASN", 6);
    for n in 0..=255u32 {
        let net = format!("81.2.{n}.0/24");
        let names = map([("en", format!("City {n}").as_str().into())]);
        let place =
            map([("country", map([("iso_code", "GB".into())])), ("city", map([("names", names)]))]);
        let operator = map([
            ("autonomous_system_number", (64_512 + n).into()),
            ("autonomous_system_organization", "Example".into()),
        ]);
        cities = cities.net(&net, place);
        operators = operators.net(&net, operator);
    }
    std::fs::create_dir_all(directory).expect("a directory");
    std::fs::write(directory.join("city.mmdb"), cities.build()).expect("the data");
    std::fs::write(directory.join("asn.mmdb"), operators.build()).expect("the data");
}

/// `/` costs as little as can be; `/seen` answers with what the filters told.
fn routes() -> Vec<Value> {
    let answer = json!({"status": 200, "body": {"inline_string": "hello\n"}});
    let seen = |name: &str| json!({"header": {"key": format!("x-seen-{name}"), "value": format!("seen:%REQ(x-ipwarden-{name})%")}});
    let told: Vec<Value> = ["country", "city", "asn"].map(seen).to_vec();
    vec![
        json!({"match": {"path": "/seen"}, "direct_response": answer, "response_headers_to_add": told}),
        json!({"match": {"prefix": "/"}, "direct_response": answer}),
    ]
}

async fn ours(geo: Option<Value>, records: bool) -> System {
    let mut config = plugin();
    config["limits"] = json!([]);
    if !records && let Some(config) = config.as_object_mut() {
        config.remove("control_plane");
    }
    if let Some(geo) = geo {
        config["geo"] = geo;
    }
    let system = System::start(Options {
        concurrency: 1,
        plugin: Some(config),
        site_routes: routes(),
        ..Options::default()
    })
    .await;
    write_data(&system.data_dir().join("geo"));
    eventually("the control plane has the data", async || {
        system.api_raw("GET", "/v1/geo/81.2.1.1", None).await.1["asn"] == 64_513
    })
    .await;
    system
}

/// The control plane's own data, asked once for each network.
fn geo(headers: bool) -> Value {
    let mut geo =
        json!({"cluster": "ipwarden", "provider": "ipwarden", "token_env": "IPWARDEN_TOKEN"});
    if !headers {
        geo["headers"] = json!({"country": false, "city": false, "asn": false});
    }
    geo
}

/// Envoy's filter with the same headers and files.
async fn theirs(data: Option<&Path>, logged: bool) -> System {
    let file = |data: &Path, name: &str| data.join(name).to_string_lossy().into_owned();
    let geoip = data.map(|data| {
        json!({
            "name": "envoy.filters.http.geoip",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.geoip.v3.Geoip",
                "provider": {
                    "name": "envoy.geoip_providers.maxmind",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.geoip_providers.maxmind.v3.MaxMindConfig",
                        "city_db_path": file(data, "city.mmdb"),
                        "asn_db_path": file(data, "asn.mmdb"),
                        "common_provider_config": {"geo_headers_to_add": {
                            "country": "x-ipwarden-country", "city": "x-ipwarden-city",
                            "asn": "x-ipwarden-asn",
                        }},
                    },
                },
            },
        })
    });
    let mut replace = Vec::new();
    if logged {
        let log = json!([{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": "/dev/null",
                "log_format": {"json_format": {
                    "time": "%START_TIME%", "ip": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                    "method": "%REQ(:METHOD)%", "host": "%REQ(:AUTHORITY)%", "path": "%REQ(:PATH)%",
                    "status": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%",
                    "duration": "%DURATION%", "in": "%BYTES_RECEIVED%", "out": "%BYTES_SENT%",
                    "agent": "%REQ(USER-AGENT)%", "id": "%REQ(X-REQUEST-ID)%",
                    "country": "%REQ(X-IPWARDEN-COUNTRY)%", "city": "%REQ(X-IPWARDEN-CITY)%",
                    "asn": "%REQ(X-IPWARDEN-ASN)%",
                }},
            },
        }]);
        replace.push((
            "stat_prefix: site\n".to_owned(),
            format!("stat_prefix: site\n          access_log: {log}\n"),
        ));
    }
    System::start(Options {
        concurrency: 1,
        bare: true,
        filters_before: geoip.into_iter().collect(),
        site_routes: routes(),
        replace,
        ..Options::default()
    })
    .await
}

impl Case {
    const fn new(name: &'static str, system: System) -> Self {
        Self { name, system, took: Vec::new() }
    }

    /// Whether the filters tell the place; every network is known once they do.
    async fn tells(&self) -> bool {
        for n in 0..CLIENTS.div_ceil(256) {
            let reply = self.system.request(&format!("81.2.{n}.9"), "/seen", &[]).await;
            let told = reply.header("x-seen-country").unwrap_or_default() == "seen:gb"
                && reply.header("x-seen-city") == Some(&format!("seen:city {n}"))
                && reply.header("x-seen-asn") == Some(&format!("seen:{}", 64_512 + n));
            if !told {
                return false;
            }
        }
        true
    }

    /// One measurement: the processor time that a request took in Envoy.
    async fn measure(&mut self, counts: bool) {
        let pid = self.system.envoy_pid();
        let before = processor_time(pid);
        let sent = spray(self.system.site_port, "/", CONNECTIONS, REQUESTS, client).await;
        let took = processor_time(pid) - before;
        assert_eq!(sent.get(&200), Some(&REQUESTS), "{}: {sent:?}", self.name);
        if counts {
            self.took.push(took / u32::try_from(REQUESTS).unwrap_or(u32::MAX));
        }
    }

    /// Median of all rounds, in µs.
    fn median(&self) -> f64 {
        let mut took = self.took.clone();
        took.sort();
        took[took.len() / 2].as_secs_f64() * 1e6
    }

    fn extremes(&self) -> (f64, f64) {
        let micros = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e6);
        (micros(self.took.iter().min()), micros(self.took.iter().max()))
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and prints figures: make bench-geo"]
async fn a_known_place_beside_envoys_own_filter() {
    let data = tempfile::tempdir().expect("a directory");
    write_data(data.path());
    let mut cases = vec![
        Case::new("Envoy alone", theirs(None, false).await),
        Case::new("ipwarden, nobody asked", ours(None, false).await),
        Case::new("ipwarden, place known, not told", ours(Some(geo(false)), false).await),
        Case::new("ipwarden, place known and told", ours(Some(geo(true)), false).await),
        Case::new("geoip", theirs(Some(data.path()), false).await),
        Case::new("ipwarden, known, told, recorded", ours(Some(geo(true)), true).await),
        Case::new("geoip, JSON log", theirs(Some(data.path()), true).await),
    ];
    for case in &cases[3..] {
        eventually("the upstream is told", async || case.tells().await).await;
    }
    let quiet = &cases[2].system;
    eventually("all places are known", async || {
        for n in 0..CLIENTS.div_ceil(256) {
            assert_eq!(quiet.status(&format!("81.2.{n}.9")).await, 200);
        }
        quiet.stat("ipwarden_geo_lookups", "found").await >= CLIENTS.div_ceil(256)
    })
    .await;
    for round in 0..=ROUNDS {
        for case in &mut cases {
            // The first round warms everything up.
            case.measure(round > 0).await;
        }
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "processor time of Envoy a request: median (least–most) of {ROUNDS} rounds of {REQUESTS} requests, interleaved; 1 worker, {CONNECTIONS} connections, own load generator; load of the machine {}",
        load.trim()
    );
    let alone = cases[0].median();
    for case in &cases {
        let (least, most) = case.extremes();
        println!(
            "{:34} {:6.1} µs ({least:5.1}–{most:5.1})  {:4.2} × Envoy alone, {:+5.1} µs",
            case.name,
            case.median(),
            case.median() / alone,
            case.median() - alone
        );
    }
    let between = |one: usize, other: usize| cases[one].median() - cases[other].median();
    println!("a cache hit: {:+.2} µs", between(2, 1));
    println!("three headers, and the route chosen again: {:+.2} µs", between(3, 2));
    println!("place known and told: {:+.2} µs, geoip {:+.2} µs", between(3, 1), between(4, 0));
    println!("ipwarden / geoip = {:.2}", cases[3].median() / cases[4].median());
    println!(
        "recorded: ipwarden / geoip with a JSON log = {:.2}",
        cases[5].median() / cases[6].median()
    );
}
