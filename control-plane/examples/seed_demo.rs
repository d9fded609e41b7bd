//! Fills a data directory with synthetic records, through the real store, and measures how long
//! each view of the dashboard takes on them:
//! `cargo run --release --example seed_demo -- DIRECTORY [RECORDS [DAYS]]`. With `--suspects` as
//! a fourth word it makes some suspects instead of measuring.
//!
//! What it makes looks like a shop's traffic: days and nights, a few large countries, crawlers,
//! scanners that are blocked, greedy clients that are limited. Addresses of more than three days
//! are pseudonyms, as retention would have made them. The same numbers give the same records, but
//! for the hour they end in and the key of the pseudonyms. Refuses a directory that holds a log.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipwarden::decisions::Revision;
use ipwarden::privacy::{AddressForm, Pseudonymizer};
use ipwarden::record::{Batch, BatchHeader, Record, Verdict};
use ipwarden_control_plane::clock::Clock;
use ipwarden_control_plane::config::Config;
use ipwarden_control_plane::detect::{Evidence, Flag, Severity, Source};
use ipwarden_control_plane::geo::{Country, Spot};
use ipwarden_control_plane::privacy::Veil;
use ipwarden_control_plane::privacy::keys::Keys;
use ipwarden_control_plane::serve::Service;
use ipwarden_control_plane::store::sqlite::{SqliteLog, SqliteState, size_bytes};
use ipwarden_control_plane::store::{IncomingBatch, LogStore, StateStore as _};
use ipwarden_control_plane::suspects::Sighting;
use jiff::Timestamp;

const BATCH_RECORDS: u64 = 10_000;
/// `privacy.raw_for`, if nothing else is configured.
const RAW_FOR_US: i64 = 72 * 3_600 * 1_000_000;
/// Runs of each question; the middle one counts.
const RUNS: usize = 7;
/// Country, autonomous system, share of the traffic in a thousand.
const PLACES: [(&str, u32, u64); 28] = [
    ("DE", 3320, 180),
    ("FR", 3215, 150),
    ("GB", 20712, 110),
    ("US", 7018, 140),
    ("NL", 1136, 50),
    ("ES", 3352, 45),
    ("IT", 3269, 45),
    ("PL", 5617, 35),
    ("SE", 3301, 22),
    ("BE", 5432, 22),
    ("CH", 3303, 22),
    ("AT", 8447, 20),
    ("CA", 577, 22),
    ("BR", 28573, 22),
    ("IN", 24560, 22),
    ("JP", 2516, 14),
    ("CN", 4134, 16),
    ("RU", 12389, 14),
    ("AU", 1221, 10),
    ("UA", 6849, 7),
    ("TR", 9121, 7),
    ("ZA", 3741, 5),
    ("MX", 8151, 5),
    ("SG", 9506, 5),
    ("NO", 2119, 4),
    ("DK", 3292, 3),
    ("FI", 1759, 2),
    ("AR", 7303, 1),
];
const PAGES: [&str; 12] = [
    "/",
    "/products",
    "/search",
    "/cart",
    "/checkout",
    "/login",
    "/api/v1/items",
    "/static/app.js",
    "/static/app.css",
    "/images/hero.webp",
    "/favicon.ico",
    "/account",
];
const PROBES: [&str; 7] = [
    "/.env",
    "/wp-login.php",
    "/.git/config",
    "/phpmyadmin/",
    "/admin",
    "/xmlrpc.php",
    "/cgi-bin/luci",
];
const AGENTS: [&str; 8] = [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/141.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/18.6 Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    "curl/8.15.0",
    "python-requests/2.32.5",
];

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().expect("DIRECTORY [RECORDS [DAYS]]"));
    let mut number = |default: u64| {
        arguments.next().map_or(default, |text| text.replace('_', "").parse().expect("a number"))
    };
    let (records, days) = (number(10_000_000), number(7));
    std::fs::create_dir_all(&directory).expect("the directory can be made");
    let file = directory.join("log.db");
    assert!(!file.exists(), "{} exists: give another directory", file.display());
    let now = Clock::system().now();
    let keys = Keys::open(&directory, Duration::ZERO, now).expect("a key for pseudonyms");
    let mut hidden = Hidden {
        before_us: (now.as_microsecond() - RAW_FOR_US).unsigned_abs(),
        key: keys.current().expect("there is a current key"),
        known: HashMap::new(),
    };
    seed(&file, records, days, now, &mut hidden).await;
    let config = Config {
        listen: "127.0.0.1:0".parse().expect("an address"),
        data_dir: directory.clone(),
        ..Config::default()
    };
    if arguments.next().as_deref() == Some("--suspects") {
        suspects(&directory, now).await;
        return;
    }
    let service = Service::start(config, Clock::system()).await.expect("the service starts");
    measure(&service, &directory, days).await;
    service.stop().await;
}

async fn seed(file: &Path, records: u64, days: u64, now: Timestamp, hidden: &mut Hidden) {
    let log = SqliteLog::open(file).expect("a new log");
    let started = started();
    let span = days * 86_400 * 1_000_000;
    let end = now.as_microsecond().unsigned_abs();
    let mut written = 0;
    while written < records {
        let count = BATCH_RECORDS.min(records - written);
        let mut all: Vec<Seeded> =
            (written..written + count).map(|n| Seeded::new(n, records, end - span, span)).collect();
        all.iter_mut().for_each(|seeded| hidden.hide(seeded));
        let header = BatchHeader {
            stream: 1,
            number: written / BATCH_RECORDS + 1,
            started_us: end - span,
            sent_us: end,
            proxy: b"edge-1",
            version: b"0.1.0",
            applied: Revision::default(),
            seen: written + count,
            lost: 0,
            skipped: 0,
            key: Some(hidden.key.key_id()),
        };
        let places = all.iter().map(|seeded| seeded.place.clone()).collect();
        let batch = Batch { header, records: all.iter().map(Seeded::record).collect() };
        let batch = IncomingBatch { batch, received_at: now, store_query: false, places };
        log.append(&[batch]).await.expect("it is stored");
        written += count;
    }
    let took = started.elapsed();
    println!("{records} records stored in {took:.1?}, {} MiB", size_bytes(file) >> 20);
    let started = self::started();
    while log.tidy().await.expect("it is tidied") {}
    println!("tidied in {:.1?}, {} MiB", started.elapsed(), size_bytes(file) >> 20);
}

/// Whom the detectors would flag.
async fn suspects(directory: &Path, now: Timestamp) {
    let state = SqliteState::open(&directory.join("state.db")).expect("a state");
    let flag = |target: &str, rule: &str, severity, source, detail: &str, score, ago: i64| {
        let time_us = (now.as_microsecond() - ago * 60_000_000).unsigned_abs();
        Flag {
            target: target.parse().expect("a target"),
            veil: Veil::NONE,
            rule: rule.to_owned(),
            severity,
            source,
            detail: detail.to_owned(),
            time_us,
            count: 40 + ago.unsigned_abs() * 3,
            score,
            evidence: PROBES
                .iter()
                .take(if source == Source::Hourly { 0 } else { 6 })
                .zip(0u64..)
                .map(|(path, at)| Evidence {
                    time_us: time_us - (6 - at) * 700_000,
                    method: "GET".to_owned(),
                    path: (*path).to_owned(),
                    status: 404,
                    matched: path.trim_start_matches('/').to_owned(),
                })
                .collect(),
            features: if rule == "forest" {
                [
                    ("distinct_paths", 3.41),
                    ("error_share", 2.87),
                    ("peak_5m", 1.92),
                    ("gap_variance", 1.18),
                    ("user_agents", 0.74),
                    ("night_share", 0.31),
                ]
                .map(|(name, value)| (name.to_owned(), value))
                .to_vec()
            } else {
                Vec::new()
            },
        }
    };
    let flags = [
        flag(
            "45.155.0.3/32",
            "sensitive-files",
            Severity::High,
            Source::Streaming,
            "7 names of files that nobody links to within 5 s",
            0.92,
            4,
        ),
        flag(
            "45.155.0.3/32",
            "forest",
            Severity::Medium,
            Source::Hourly,
            "behaves unlike the others of its hour",
            0.71,
            4,
        ),
        flag(
            "45.155.1.11/32",
            "probing",
            Severity::High,
            Source::Streaming,
            "12 paths that are not there within 10 s",
            0.88,
            9,
        ),
        flag(
            "80.16.2.7/32",
            "login-guessing",
            Severity::High,
            Source::Streaming,
            "9 refused logins within 40 s",
            0.83,
            17,
        ),
        flag(
            "2a02:8101:7:1::/64",
            "crawling",
            Severity::Low,
            Source::Streaming,
            "64 pages within 20 s",
            0.44,
            26,
        ),
        flag(
            "80.32.9.4/32",
            "hourly-volume",
            Severity::Medium,
            Source::Hourly,
            "1,240 requests in an hour, 31 times its usual",
            0.62,
            55,
        ),
        flag(
            "80.48.1.200/32",
            "switching-user-agents",
            Severity::Low,
            Source::Streaming,
            "12 user agents within 8 s",
            0.39,
            70,
        ),
    ];
    let place = |flag: Flag| Sighting {
        place: Spot {
            country: Country::new(if flag.target.to_string().starts_with("45.") {
                "NL"
            } else {
                "DE"
            }),
            city: None,
            asn: Some(206_728),
        },
        flag,
    };
    state.note_flags(flags.into_iter().map(place).collect(), now).await.expect("noted");
}

async fn measure(service: &Service, directory: &Path, days: u64) {
    let token = std::fs::read_to_string(directory.join("admin.token")).expect("a token");
    let client = reqwest::Client::new();
    let address = service.address();
    println!("\n{:<58} {:>8} {:>8} {:>12}", "view", "middle", "worst", "requests");
    for (name, path) in [
        ("overview, 1 h", "/v1/stats/overview?since=1h&limit=8".to_owned()),
        (
            "overview, 24 h, compared",
            "/v1/stats/overview?since=24h&limit=8&compare=true".to_owned(),
        ),
        ("overview, everything", format!("/v1/stats/overview?since={days}d&limit=8")),
        (
            "overview, everything, one country",
            format!("/v1/stats/overview?since={days}d&limit=8&country=FR"),
        ),
        (
            "overview, everything, one country and refused",
            format!("/v1/stats/overview?since={days}d&limit=8&country=DE&verdict=blocked,limited"),
        ),
        (
            "overview, everything, one path",
            format!("/v1/stats/overview?since={days}d&limit=8&path=/login"),
        ),
        (
            "overview, everything, one AS",
            format!("/v1/stats/overview?since={days}d&limit=8&asn=3215"),
        ),
        ("series, everything", format!("/v1/stats/series?since={days}d")),
        ("map, everything", format!("/v1/stats/map?since={days}d")),
        (
            "address page",
            format!(
                "/v1/stats/overview?since={days}d&ip=45.155.0.7&by=path,host,method,status,user_agent,rule"
            ),
        ),
        (
            "network page, /16",
            format!(
                "/v1/stats/overview?since={days}d&ip=45.155.0.0/16&by=path,host,method,status,user_agent,rule,address"
            ),
        ),
        (
            "limits page",
            format!(
                "/v1/stats/overview?since={days}d&verdict=limited,shadow&by=rule,address,network,path"
            ),
        ),
        ("records, newest 100", "/v1/requests?limit=100&since=24h".to_owned()),
        ("records of an address", format!("/v1/requests?limit=100&since={days}d&ip=45.155.0.7")),
        ("suspects", "/v1/suspects?status=open&limit=200".to_owned()),
        ("decisions", "/v1/decisions?limit=100".to_owned()),
        ("fleet", "/v1/proxies".to_owned()),
        ("status", "/v1/status".to_owned()),
    ] {
        let mut times = Vec::new();
        let mut requests = String::new();
        for _ in 0..RUNS {
            let started = started();
            let answer = client
                .get(format!("http://{address}{path}"))
                .bearer_auth(token.trim())
                .send()
                .await
                .expect("an answer");
            assert!(answer.status().is_success(), "{path}: {}", answer.status());
            let body: serde_json::Value = answer.json().await.expect("JSON");
            times.push(started.elapsed());
            requests =
                body["total"]["requests"].as_u64().map(|n| n.to_string()).unwrap_or_default();
        }
        times.sort_unstable();
        let ms = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1_000.0);
        let (middle, worst) = (times[RUNS / 2], times[RUNS - 1]);
        println!("{name:<58} {:>8} {:>8} {requests:>12}", ms(middle), ms(worst));
    }
}

#[expect(clippy::disallowed_methods, reason = "measuring")]
fn started() -> Instant {
    Instant::now()
}

/// What hides addresses that are too old to be kept.
struct Hidden {
    before_us: u64,
    key: Arc<Pseudonymizer>,
    known: HashMap<IpAddr, IpAddr>,
}

impl Hidden {
    fn hide(&mut self, seeded: &mut Seeded) {
        if seeded.time_us < self.before_us {
            let ip = seeded.ip;
            seeded.ip = *self.known.entry(ip).or_insert_with(|| self.key.pseudonym(ip));
            seeded.form = AddressForm::Pseudonym;
        }
    }
}

/// A record that owns what it is made of.
struct Seeded {
    time_us: u64,
    ip: IpAddr,
    form: AddressForm,
    verdict: Verdict,
    rule: &'static str,
    host: &'static str,
    path: String,
    agent: &'static str,
    status: u16,
    place: Spot,
}

impl Seeded {
    /// Record number `n` of `all`.
    fn new(n: u64, all: u64, first_us: u64, span_us: u64) -> Self {
        let mut dice = Dice(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d);
        // Denser by day than by night, all the same in order.
        let share = n as f64 / all as f64;
        let days = span_us as f64 / 86_400e6;
        let wave = (share * days * std::f64::consts::TAU).sin() / (days * std::f64::consts::TAU);
        let time_us = first_us + ((share + 0.55 * wave) * span_us as f64).max(0.0) as u64;
        let is_scan = dice.under(1_000) < 38;
        let (code, asn, index) = place(&mut dice);
        let ip: IpAddr = if is_scan {
            Ipv4Addr::new(45, 155, dice.skewed(6) as u8, dice.skewed(60) as u8).into()
        } else if dice.under(10) < 2 {
            let host = dice.skewed(4_000);
            Ipv6Addr::new(0x2a02, 0x8100 + index as u16, host as u16, 1, 0, 0, 0, host as u16)
                .into()
        } else {
            let host = dice.skewed(40_000) as u32;
            Ipv4Addr::from_bits(0x5000_0000 + ((index as u32) << 20) + host).into()
        };
        let (code, asn) = if is_scan { ("NL", 206_728) } else { (code, asn) };
        let path = if is_scan {
            PROBES[dice.under(PROBES.len() as u64) as usize].to_owned()
        } else {
            match dice.under(10) {
                0..=3 => format!("/products/{}", dice.skewed(6_000)),
                _ => PAGES[dice.skewed(PAGES.len() as u64) as usize].to_owned(),
            }
        };
        let chance = dice.under(1_000);
        let (verdict, rule, status) = match (is_scan, chance) {
            (true, 0..=780) => (Verdict::Blocked, "", 403),
            (true, _) => (Verdict::Admitted, "", 404),
            (false, 0..=14) => (Verdict::Limited, "login", 429),
            (false, 15..=24) => (Verdict::Limited, "api", 429),
            (false, 25..=39) => (Verdict::Shadow, "search", 200),
            (false, 40..=54) => (Verdict::Admitted, "", 404),
            (false, 55..=95) => (Verdict::Admitted, "", 304),
            (false, 96..=125) => (Verdict::Admitted, "", 302),
            (false, 126..=129) => (Verdict::Admitted, "", 502),
            (false, _) => (Verdict::Admitted, "", 200),
        };
        Self {
            time_us,
            ip,
            form: AddressForm::Full,
            verdict,
            rule,
            host: ["shop.example", "www.shop.example", "api.shop.example"][dice.skewed(3) as usize],
            path,
            agent: if is_scan { AGENTS[7] } else { AGENTS[dice.skewed(8) as usize] },
            status,
            place: Spot { country: Country::new(code), city: None, asn: Some(asn) },
        }
    }

    fn record(&self) -> Record<'_> {
        Record {
            time_us: self.time_us,
            ip: Some(self.ip),
            verdict: self.verdict,
            weight: 1,
            rule: self.rule.as_bytes(),
            form: self.form,
            opted_out: false,
            decision: 0,
            query: b"",
            flags: 0,
            request_id: b"",
            country: None,
            city: b"",
            asn: None,
            identity: b"",
            method: if self.path == "/login" { b"POST" } else { b"GET" },
            host: self.host.as_bytes(),
            path: self.path.as_bytes(),
            status: self.status,
            duration_us: 1_800 + self.time_us % 9_000,
            bytes_in: 420,
            bytes_out: 900 + self.time_us % 30_000,
            user_agent: self.agent.as_bytes(),
        }
    }
}

fn place(dice: &mut Dice) -> (&'static str, u32, usize) {
    let mut left = dice.under(PLACES.iter().map(|(_, _, share)| share).sum());
    for (index, (code, asn, share)) in PLACES.into_iter().enumerate() {
        if left < share {
            return (code, asn, index);
        }
        left -= share;
    }
    ("DE", 3320, 0)
}

/// SplitMix64: the same numbers every time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn under(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    /// Small numbers far more often than large ones.
    fn skewed(&mut self, most: u64) -> u64 {
        let share = self.next() as f64 / u64::MAX as f64;
        ((share * share * share) * most as f64) as u64 % most
    }
}
