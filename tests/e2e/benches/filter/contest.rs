//! Who is measured doing what, and in interleaved rounds how much of the processor it takes.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use ipwarden_e2e::{
    Answers, Options, Shape, System, eventually, plugin, processor_time, resident_kib, spray_timed,
};
use serde_json::{Value, json};

use crate::mmdb::{Mmdb, map};
use crate::native;

/// Different clients that are admitted, and different ones that are refused.
pub(crate) const CLIENTS: u64 = 50_000;
/// As many as keep one worker busy: an idle one pays for waking up with each request.
const CONNECTIONS: u32 = 32;
/// Of each request, beside what the load generator needs.
const HEADERS: &str = "user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\naccept: text/html,application/xhtml+xml\r\naccept-encoding: gzip, deflate, br\r\naccept-language: en\r\n";

/// What requests are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Case {
    /// 50 000 clients in 196 known networks, each far from its limit.
    Admitted,
    /// 50 000 clients that are on the list.
    Blocked,
    /// One client that is on the list.
    BlockedFlood,
    /// One client far over its limit.
    LimitedFlood,
    /// Each request from a network that was never seen.
    GeoStorm,
}

impl Case {
    pub(crate) const ALL: [Self; 5] =
        [Self::Admitted, Self::Blocked, Self::BlockedFlood, Self::LimitedFlood, Self::GeoStorm];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Blocked => "blocked",
            Self::BlockedFlood => "blocked-flood",
            Self::LimitedFlood => "limited-flood",
            Self::GeoStorm => "geo-storm",
        }
    }

    const fn requests(self) -> u64 {
        match self {
            // 65 536 networks must do for all rounds.
            Self::GeoStorm => 4_000,
            _ => 20_000,
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::LimitedFlood => "/login",
            _ => "/page",
        }
    }

    const fn status(self) -> u16 {
        match self {
            Self::Admitted | Self::GeoStorm => 200,
            Self::Blocked | Self::BlockedFlood => 403,
            Self::LimitedFlood => 429,
        }
    }

    fn client(self) -> impl Fn(u64) -> String + Send + Sync + 'static {
        // Each storm takes up where the one before it, of whomever, ended.
        static STORM: AtomicU64 = AtomicU64::new(0);
        let first = if self == Self::GeoStorm {
            STORM.fetch_add(self.requests(), Ordering::Relaxed)
        } else {
            0
        };
        move |n| match self {
            Self::Admitted => {
                let n = n % CLIENTS;
                format!("81.2.{}.{}", n / 256, n % 256)
            }
            Self::Blocked => listed(u32::try_from(n % CLIENTS).unwrap_or(0)).to_string(),
            Self::BlockedFlood => listed(7).to_string(),
            Self::LimitedFlood => "81.2.250.1".to_owned(),
            Self::GeoStorm => {
                let n = (first + n) % 65_536;
                format!("82.{}.{}.9", n / 256, n % 256)
            }
        }
    }
}

/// The n-th address of the list: spread over the whole space as real lists are, outside of
/// where the other cases' clients are.
pub(crate) fn listed(n: u32) -> Ipv4Addr {
    let address = n.wrapping_mul(2_654_435_761) | 1;
    let octet = address >> 24;
    Ipv4Addr::from(if octet == 81 || octet == 82 { address ^ (64 << 24) } else { address })
}

/// Databases in MaxMind's layout, which Envoy's filter reads, too.
fn write_data(directory: &Path) {
    let mut cities = Mmdb::new("GeoLite2-City", 6);
    let mut operators = Mmdb::new("GeoLite2-ASN", 6);
    let known = (0..=255u32).map(|n| (format!("81.2.{n}.0/24"), n));
    let storm = (0..65_536u32).map(|n| (format!("82.{}.{}.0/24", n / 256, n % 256), n % 300));
    for (net, n) in known.chain(storm) {
        let names = map([("en", format!("City {n}").as_str().into())]);
        let country = map([("iso_code", "GB".into())]);
        let place = map([("country", country), ("city", map([("names", names)]))]);
        cities = cities.net(&net, place);
        let number = ("autonomous_system_number", (64_512 + n).into());
        let operator = map([number, ("autonomous_system_organization", "Example".into())]);
        operators = operators.net(&net, operator);
    }
    std::fs::create_dir_all(directory).expect("a directory");
    std::fs::write(directory.join("city.mmdb"), cities.build()).expect("the data");
    std::fs::write(directory.join("asn.mmdb"), operators.build()).expect("the data");
}

/// Made once: the same data for all.
pub(crate) struct Data {
    directory: tempfile::TempDir,
}

impl Data {
    pub(crate) fn make() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        write_data(directory.path());
        let empty = wat::parse_str(native::EMPTY_MODULE).expect("a module");
        std::fs::write(directory.path().join("empty.wasm"), empty).expect("the module");
        for (number, (_, module)) in native::crossings().into_iter().enumerate() {
            let module = wat::parse_str(module).expect("a module");
            let file = directory.path().join(format!("crossing-{number}.wasm"));
            std::fs::write(file, module).expect("the module");
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }
}

/// The site answers by itself, as cheaply as can be; what its filters told is in `/seen`.
fn routes() -> Vec<Value> {
    let answer = json!({"status": 200, "body": {"inline_string": "hello\n"}});
    let seen = |name: &str| json!({"header": {"key": format!("x-seen-{name}"), "value": format!("seen:%REQ(x-ipwarden-{name})%")}});
    let told: Vec<Value> = ["country", "city", "asn"].map(seen).to_vec();
    vec![
        json!({"match": {"path": "/seen"}, "direct_response": answer, "response_headers_to_add": told}),
        json!({"match": {"prefix": "/"}, "direct_response": answer}),
    ]
}

/// How ipwarden is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) workers: u32,
    pub(crate) decisions: u32,
    /// Another build of the module.
    pub(crate) module: Option<&'a Path>,
    /// A section of the configuration that is left out.
    pub(crate) without: Option<&'a str>,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { workers: 1, decisions: 100_000, module: None, without: None }
    }
}

impl Setup<'_> {
    fn plugin(&self) -> Value {
        let mut config = plugin();
        config["geo"] =
            json!({"cluster": "ipwarden", "provider": "ipwarden", "token_env": "IPWARDEN_TOKEN"});
        let limit = |name: &str, path: &str, requests: u32, per: &str| {
            let rate = json!({"requests": requests, "per": per});
            json!({"name": name, "match": {"path_prefix": path}, "anonymous": rate})
        };
        config["limits"] =
            json!([limit("wide", "/page", 1_000, "1s"), limit("narrow", "/login", 5, "1m")]);
        config["limits_table"] = json!({"keys": 2 * CLIENTS});
        match self.without {
            // Without the section there are limits by default.
            Some("limits") => config["limits"] = json!([]),
            Some(section) => {
                config.as_object_mut().map(|config| config.remove(section));
            }
            None => {}
        }
        config
    }
}

/// One of those that are measured.
pub(crate) struct Contestant {
    pub(crate) name: String,
    pub(crate) system: System,
    cases: Vec<Case>,
    /// The n-th of a case was measured in round n.
    pub(crate) samples: Vec<(Case, Sample)>,
    told: bool,
    /// Whether it is ipwarden.
    pub(crate) is_ours: bool,
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Processor time of Envoy a request, in microseconds.
    pub(crate) cpu_us: f64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: u32,
    pub(crate) p99_us: u32,
    pub(crate) resident_kib: u64,
}

impl Contestant {
    /// Envoy with these filters in the place of ours.
    pub(crate) async fn native(
        name: &str,
        workers: u32,
        filters: Vec<Value>,
        logged: bool,
        cases: &[Case],
    ) -> Self {
        let told = filters.iter().any(|filter| filter["name"] == "envoy.filters.http.geoip");
        let system = System::start(Options {
            concurrency: workers,
            bare: true,
            filters_before: filters,
            site_routes: routes(),
            replace: logged.then(native::json_log).into_iter().collect(),
            ..Options::default()
        })
        .await;
        Self {
            name: name.to_owned(),
            system,
            cases: cases.to_vec(),
            samples: Vec::new(),
            told,
            is_ours: false,
        }
    }

    /// All of Envoy's own filters; those for a narrow limit have no wide one.
    pub(crate) async fn all_native(name: &str, workers: u32, data: &Data, cases: &[Case]) -> Self {
        let limited = cases == [Case::LimitedFlood];
        let (tokens, per) = if limited { (5, "60s") } else { (1_000, "1s") };
        // Who is denied need not be looked up.
        let filters = vec![
            native::rbac((0..100_000).map(listed)),
            native::geoip(data.directory.path()),
            native::local_ratelimit(tokens, per, CLIENTS),
        ];
        Self::native(name, workers, filters, true, cases).await
    }

    pub(crate) async fn empty(name: &str, data: &Data, cases: &[Case]) -> Self {
        let filter = native::empty_filter(&data.path("empty.wasm"));
        Self::native(name, 1, vec![filter], false, cases).await
    }

    /// One of [`native::crossings`].
    pub(crate) async fn crossing(number: usize, name: &str, data: &Data) -> Self {
        let filter = native::empty_filter(&data.path(&format!("crossing-{number}.wasm")));
        let name = format!("wasm, {name}");
        Self::native(&name, 1, vec![filter], false, &[Case::Admitted]).await
    }

    /// ipwarden with everything on, but for what the setup says.
    pub(crate) async fn ours(name: &str, setup: Setup<'_>, data: &Data, cases: &[Case]) -> Self {
        let system = System::start(Options {
            concurrency: setup.workers,
            plugin: Some(setup.plugin()),
            module: setup.module.map(Path::to_path_buf),
            site_routes: routes(),
            ..Options::default()
        })
        .await;
        let places = system.data_dir().join("geo");
        std::fs::create_dir_all(&places).expect("a directory");
        for file in ["city.mmdb", "asn.mmdb"] {
            std::fs::copy(data.path(file), places.join(file)).expect("the data");
        }
        eventually("the control plane has the data", async || {
            system.api_raw("GET", "/v1/geo/81.2.1.1", None).await.1["asn"] == 64_513
        })
        .await;
        if setup.without != Some("control_plane") {
            let list = system.data_dir().join("list.txt");
            let mut lines = String::new();
            for n in 0..setup.decisions {
                let _ = writeln!(lines, "{}", listed(n));
            }
            std::fs::write(&list, lines).expect("the list");
            let from = list.to_string_lossy();
            let blocked = system.cli(&["block", "--from", &from, "--reason", "bench"]).await;
            assert!(blocked.status.success(), "{}", String::from_utf8_lossy(&blocked.stderr));
            system.settles(&listed(setup.decisions - 1).to_string(), 403).await;
        }
        Self {
            name: name.to_owned(),
            system,
            cases: cases.to_vec(),
            samples: Vec::new(),
            told: setup.without != Some("geo"),
            is_ours: true,
        }
    }

    pub(crate) fn does(&self, case: Case) -> bool {
        self.cases.contains(&case)
    }

    /// Waits until it tells where clients are, as all must that claim to do the same job.
    pub(crate) async fn warm(&self) {
        if !self.told {
            return;
        }
        eventually("the upstream is told", async || {
            // All are asked about before the first answer is waited for.
            let mut all_told = true;
            for n in 0..CLIENTS.div_ceil(256) {
                let reply = self.system.request(&format!("81.2.{n}.9"), "/seen", &[]).await;
                all_told &= reply.header("x-seen-country").unwrap_or_default() == "seen:gb"
                    && reply.header("x-seen-city") == Some(&format!("seen:city {n}"))
                    && reply.header("x-seen-asn") == Some(&format!("seen:{}", 64_512 + n));
            }
            all_told
        })
        .await;
    }

    /// One measurement; the first of all only warms up.
    pub(crate) async fn measure(&mut self, case: Case, counts: bool) {
        let shape = Shape {
            path: case.path().to_owned(),
            headers: HEADERS,
            connections: CONNECTIONS,
            requests: case.requests(),
        };
        let pid = self.system.envoy_pid();
        let before = processor_time(pid);
        let answers = spray_timed(self.system.site_port, &shape, case.client()).await;
        let took = processor_time(pid) - before;
        self.check(case, &answers);
        if !counts {
            return;
        }
        let requests = case.requests();
        let at = |percent: usize| {
            let index = answers.took_us.len().saturating_sub(1) * percent / 100;
            answers.took_us.get(index).copied().unwrap_or(0)
        };
        let sample = Sample {
            cpu_us: took.as_secs_f64() * 1e6 / requests as f64,
            per_second: requests as f64 / answers.elapsed.as_secs_f64(),
            p50_us: at(50),
            p99_us: at(99),
            resident_kib: resident_kib(pid),
        };
        self.samples.push((case, sample));
    }

    /// What is measured must be what the line says.
    fn check(&self, case: Case, answers: &Answers) {
        let refuses = !matches!(case, Case::Admitted | Case::GeoStorm);
        let plain = !self.told && refuses;
        let expected = if plain { 200 } else { case.status() };
        let answered = answers.statuses.get(&expected).copied().unwrap_or(0);
        // A flood's first few are within its limit, and one more every 12 s.
        let slack = if case == Case::LimitedFlood { 50 } else { 0 };
        assert!(
            answered + slack >= case.requests(),
            "{}, {}: {:?}",
            self.name,
            case.name(),
            answers.statuses
        );
    }

    pub(crate) fn of(&self, case: Case) -> Vec<Sample> {
        self.samples.iter().filter(|(of, _)| *of == case).map(|(_, sample)| *sample).collect()
    }
}
