//! What a request costs Envoy: with ipwarden's limits, with Envoy's own, with neither.

use std::time::Duration;

use ipwarden_e2e::{Options, System, processor_time, spray};
use serde_json::{Value, json};

/// Requests of one measurement.
const REQUESTS: u64 = 20_000;
const ROUNDS: usize = 9;
/// As many as keep the one worker busy: an idle one pays for waking up with each request.
const CONNECTIONS: u32 = 32;
/// Different clients where all are admitted.
const CLIENTS: u64 = 10_000;

/// One line of the table.
struct Case {
    name: &'static str,
    system: System,
    path: &'static str,
    /// Whether one client is refused, instead of many being admitted.
    flood: bool,
    took: Vec<Duration>,
}

async fn ours(limits: Value, recorded: bool) -> System {
    let mut plugin = super::limited(limits);
    if !recorded && let Some(plugin) = plugin.as_object_mut() {
        plugin.remove("control_plane");
    }
    System::start(Options {
        concurrency: 1,
        plugin: Some(plugin),
        site_routes: super::direct(),
        ..Options::default()
    })
    .await
}

/// A limit that many clients stay under and that one in a flood does not.
fn wide(path: &str) -> Value {
    json!({
        "name": "wide",
        "match": {"path_prefix": path},
        "anonymous": {"requests": 1_000, "per": "1s"},
    })
}

fn narrow() -> Value {
    json!({
        "name": "narrow",
        "match": {"path_prefix": "/login"},
        "anonymous": {"requests": 5, "per": "1m"},
    })
}

/// Envoy's `local_ratelimit` with a bucket for each address.
fn native(tokens: u32, per: &str) -> Value {
    let all = json!({"default_value": {"numerator": 100}});
    json!({
        "name": "envoy.filters.http.local_ratelimit",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "native",
            "token_bucket": {
                "max_tokens": 1_000_000_000, "tokens_per_fill": 1_000_000_000, "fill_interval": "1s",
            },
            "filter_enabled": all,
            "filter_enforced": all,
            "rate_limits": [{"actions": [{"remote_address": {}}]}],
            "max_dynamic_descriptors": 2 * CLIENTS,
            "descriptors": [{
                "entries": [{"key": "remote_address"}],
                "token_bucket": {
                    "max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": per,
                },
            }],
        },
    })
}

async fn theirs(filters: Vec<Value>, logged: bool) -> System {
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
        filters_before: filters,
        site_routes: super::direct(),
        replace,
        ..Options::default()
    })
    .await
}

impl Case {
    const fn new(name: &'static str, system: System, path: &'static str, flood: bool) -> Self {
        Self { name, system, path, flood, took: Vec::new() }
    }

    /// One measurement: the processor time that a request took in Envoy.
    async fn measure(&mut self, counts: bool) {
        let flood = self.flood;
        let client = move |n: u64| {
            let n = if flood { 0 } else { n % CLIENTS };
            format!("198.{}.{}.{}", 18 + n / 65_536, n / 256 % 256, n % 256)
        };
        let pid = self.system.envoy_pid();
        let before = processor_time(pid);
        let sent = spray(self.system.site_port, self.path, CONNECTIONS, REQUESTS, client).await;
        let took = processor_time(pid) - before;
        // What is measured must be what the line says.
        let expected = if self.flood { 429 } else { 200 };
        let answered = sent.get(&expected).copied().unwrap_or(0);
        // The flood's first few are within its limit, and one more every 12 s.
        assert!(answered + 50 > REQUESTS, "{}: {sent:?}", self.name);
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
#[ignore = "takes minutes and prints figures: make bench-limits"]
async fn processor_time_of_a_limited_request() {
    let mut cases = vec![
        Case::new("Envoy alone", theirs(vec![], false).await, "/login", false),
        Case::new("ipwarden, no limits", ours(json!([]), false).await, "/login", false),
        Case::new(
            "ipwarden, no limit matched",
            ours(json!([wide("/x"), narrow()]), false).await,
            "/elsewhere",
            false,
        ),
        Case::new(
            "ipwarden, admitted",
            ours(json!([wide("/login")]), false).await,
            "/login",
            false,
        ),
        Case::new("ipwarden, refused", ours(json!([narrow()]), false).await, "/login", true),
        Case::new(
            "local_ratelimit, admitted",
            theirs(vec![native(1_000, "1s")], false).await,
            "/login",
            false,
        ),
        Case::new(
            "local_ratelimit, refused",
            theirs(vec![native(5, "60s")], false).await,
            "/login",
            true,
        ),
        Case::new(
            "ipwarden, admitted, recorded",
            ours(json!([wide("/login")]), true).await,
            "/login",
            false,
        ),
        Case::new(
            "ipwarden, refused, recorded",
            ours(json!([narrow()]), true).await,
            "/login",
            true,
        ),
        Case::new(
            "local_ratelimit, admitted, JSON log",
            theirs(vec![native(1_000, "1s")], true).await,
            "/login",
            false,
        ),
        Case::new(
            "local_ratelimit, refused, JSON log",
            theirs(vec![native(5, "60s")], true).await,
            "/login",
            true,
        ),
    ];
    for round in 0..=ROUNDS {
        for case in &mut cases {
            // The first round warms everything up.
            case.measure(round > 0).await;
        }
    }
    let alone = cases[0].median();
    println!(
        "processor time of Envoy a request: median (least–most) of {ROUNDS} rounds of {REQUESTS} requests, interleaved; 1 worker, {CONNECTIONS} connections, own load generator"
    );
    for case in &cases {
        let (least, most) = case.extremes();
        println!(
            "{:36} {:6.1} µs ({least:5.1}–{most:5.1})  {:4.2} × Envoy alone, {:+5.1} µs",
            case.name,
            case.median(),
            case.median() / alone,
            case.median() - alone
        );
    }
    for (name, ours, theirs) in [
        ("admitted", 3, 5),
        ("refused", 4, 6),
        ("admitted and logged", 7, 9),
        ("refused and logged", 8, 10),
    ] {
        println!(
            "{name}: ipwarden / local_ratelimit = {:.2}",
            cases[ours].median() / cases[theirs].median()
        );
    }
}
