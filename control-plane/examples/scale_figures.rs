//! Plays a large fleet against the service in a process of its own, and prints what it costs:
//! `cargo run --release --example scale_figures -- target/release/ipwarden [PROXIES [DECISIONS]]`.
//!
//! Each proxy is a connection that polls for decisions as the filter does, and applies what it
//! gets by its revision. Measured: the import of a feed, memory of the service, its processor
//! time at rest, the time until every proxy has a new decision, and the records that it stores in
//! a second meanwhile. The generator and the service share the machine: times are upper bounds.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipwarden::decisions::{Revision, wire};
use ipwarden::privacy::AddressForm;
use ipwarden::record::{BatchHeader, Record, Verdict, wire as records};
use reqwest::Method;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// New decisions that are timed.
const ROUNDS: usize = 20;
/// How long the service is watched at rest: longer than a poll waits.
const REST: Duration = Duration::from_secs(60);
/// How long records are shipped.
const SHIPPING: Duration = Duration::from_secs(20);
/// Connections that ship, and records in each batch: what 500 a second and proxy would fill.
const SHIPPERS: u64 = 8;
const BATCH: u32 = 500;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let binary = PathBuf::from(arguments.next().ok_or("the first word is the ipwarden binary")?);
    let proxies: usize = arguments.next().as_deref().unwrap_or("10000").parse()?;
    let decisions: u32 = arguments.next().as_deref().unwrap_or("1000000").parse()?;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let directory = tempfile::tempdir()?;
    let service = Service::start(&binary, directory.path()).await?;
    println!("service of {} KiB resident, nothing in it", service.resident()?);
    feed(&service, directory.path(), decisions).await?;
    let before = service.resident()?;
    let fleet = Fleet::start(&service, proxies).await?;
    let each = (service.resident()? - before) as f64 / proxies as f64;
    println!("{proxies} proxies wait: {} KiB resident, {each:.1} KiB each", service.resident()?);
    at_rest(&service).await?;
    rounds(&service, &fleet).await?;
    ship(&service, &fleet).await?;
    println!("peak {} KiB resident", service.status("VmHWM:")?);
    Ok(())
}

struct Service {
    child: Child,
    http: reqwest::Client,
    url: String,
    address: String,
    admin: String,
    proxy: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        // Nothing can be done where it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Service {
    async fn start(binary: &Path, directory: &Path) -> Result<Self> {
        let held = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = held.local_addr()?.to_string();
        drop(held);
        let data = directory.join("data");
        let child = Command::new(std::fs::canonicalize(binary)?)
            .args(["serve", "--listen", &address, "--log-level", "warn", "--data-dir"])
            .arg(&data)
            .current_dir(directory)
            .stdin(Stdio::null())
            .spawn()?;
        let http =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(660)).build()?;
        let url = format!("http://{address}");
        let mut service =
            Self { child, http, url, address, admin: String::new(), proxy: String::new() };
        let ready = format!("{}/readyz", service.url);
        while !service
            .http
            .get(&ready)
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            if let Some(ended) = service.child.try_wait()? {
                return Err(format!("the service ended: {ended}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let token =
            |name| std::fs::read_to_string(data.join(name)).map(|text| text.trim().to_owned());
        (service.admin, service.proxy) = (token("admin.token")?, token("proxy.token")?);
        Ok(service)
    }

    async fn api(&self, method: Method, path: &str, body: Value) -> Result<Value> {
        let request = self.http.request(method, format!("{}{path}", self.url));
        let answer = request.bearer_auth(&self.admin).json(&body).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        if status.is_success() { Ok(serde_json::from_str(&text)?) } else { Err(text.into()) }
    }

    /// A line of `/proc/PID/status` in KiB.
    fn status(&self, name: &str) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
        Ok(line.split_whitespace().next().ok_or("no number")?.parse()?)
    }

    fn resident(&self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// Processor time so far.
    fn processor(&self) -> Result<Duration> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let after_name = text.rsplit_once(')').ok_or("no name")?.1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let tick = |at: usize| -> Result<u64> { Ok(fields.get(at).ok_or("no field")?.parse()?) };
        let ticks = (tick(11)? + tick(12)?) as f64;
        Ok(Duration::from_secs_f64(ticks / rustix::param::clock_ticks_per_second() as f64))
    }
}

/// Imports a feed from a file, then again with one entry in a hundred changed.
async fn feed(service: &Service, directory: &Path, decisions: u32) -> Result<()> {
    if decisions == 0 {
        return Ok(());
    }
    let home = directory.join("data/feeds");
    std::fs::create_dir_all(&home)?;
    let write = |changed: u32| {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(decisions as usize * 16);
        for n in 0..decisions {
            // Spread over what is public, each address once.
            let shift = if n % 100 == 0 { changed } else { 0 };
            let address = std::net::Ipv4Addr::from(0x0B00_0000 + n.wrapping_mul(97) + shift);
            let _ = writeln!(text, "{address}");
        }
        std::fs::write(home.join("list.txt"), text)
    };
    write(0)?;
    let definition = json!({"location": "file:list.txt", "every": "30d", "include_reserved": true});
    service.api(Method::PUT, "/v1/feeds/large", definition).await?;
    for (what, changed) in [("a new feed", 0), ("one entry in a hundred changed", 50)] {
        write(changed)?;
        let (started, busy) = (Instant::now(), service.processor()?);
        let fetched = service.api(Method::POST, "/v1/feeds/large/refresh", json!({})).await?;
        println!(
            "{what}: {} decisions in force after {:.2} s ({:.2} s of processor time), {} KiB resident, peak {} KiB; {}",
            fetched["entries"],
            started.elapsed().as_secs_f64(),
            (service.processor()? - busy).as_secs_f64(),
            service.resident()?,
            service.status("VmHWM:")?,
            fetched["problem"]
        );
    }
    Ok(())
}

/// All proxies; each says when it has a revision.
struct Fleet {
    told: tokio::sync::Mutex<mpsc::UnboundedReceiver<(u64, Instant)>>,
    size: usize,
    bytes: Arc<AtomicU64>,
}

impl Fleet {
    async fn start(service: &Service, size: usize) -> Result<Self> {
        let (tell, told) = mpsc::unbounded_channel();
        let bytes = Arc::new(AtomicU64::new(0));
        // The whole set once, for the revision; that each gets it is measured by others.
        let answer = service
            .http
            .get(format!("{}/v1/decisions/stream?wait=0s", service.url))
            .bearer_auth(&service.proxy)
            .send()
            .await?;
        let snapshot = answer.bytes().await?;
        println!("a snapshot has {} bytes", snapshot.len());
        let at = revision(&snapshot)?;
        for n in 0..size {
            let (address, token) = (service.address.clone(), service.proxy.clone());
            let (tell, bytes) = (tell.clone(), Arc::clone(&bytes));
            tokio::spawn(async move {
                if let Err(error) = proxy(n, &address, &token, at, &tell, &bytes).await {
                    eprintln!("proxy {n}: {error}");
                }
            });
            // As a fleet comes: a few hundred a second, not all in one burst.
            if n % 50 == 49 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let fleet = Self { told: tokio::sync::Mutex::new(told), size, bytes };
        fleet.waits(service).await?;
        Ok(fleet)
    }

    /// Waits until every proxy waits.
    async fn waits(&self, service: &Service) -> Result<()> {
        let wanted = format!("ipwarden_polls_waiting {}", self.size);
        loop {
            let answer = service.http.get(format!("{}/metrics", service.url)).send().await?;
            if answer.text().await?.lines().any(|line| line == wanted) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// When each proxy had a revision, after `start`, sorted.
    async fn has(&self, revision: u64, start: Instant) -> Vec<Duration> {
        let mut told = self.told.lock().await;
        let mut times = Vec::with_capacity(self.size);
        while times.len() < self.size {
            match told.recv().await {
                Some((number, at)) if number == revision => times.push(at.duration_since(start)),
                Some(_) => {}
                None => break,
            }
        }
        times.sort_unstable();
        times
    }
}

/// Where an answer leads to: limits and the like may follow the decisions.
fn revision(body: &[u8]) -> Result<Revision> {
    let body = wire::decode_body(body).map_err(|error| format!("{error:?}"))?;
    Ok(body.then.or(body.message).ok_or("no decisions")?.header.revision)
}

async fn proxy(
    n: usize,
    address: &str,
    token: &str,
    mut at: Revision,
    tell: &mpsc::UnboundedSender<(u64, Instant)>,
    bytes: &AtomicU64,
) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(1024);
    loop {
        let request = format!(
            "GET /v1/decisions/stream?epoch={}&after={}&wait=50s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nx-ipwarden-proxy: sim-{n}\r\nx-ipwarden-version: 0.1.0\r\nx-ipwarden-instance: {n:x}\r\n\r\n",
            at.epoch, at.number
        );
        stream.write_all(request.as_bytes()).await?;
        buffer.clear();
        let body = loop {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err("the service closed the connection".into());
            }
            let Some(head) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
                continue;
            };
            let text = std::str::from_utf8(&buffer[..head])?;
            if text.starts_with("HTTP/1.1 204") {
                break None;
            }
            if !text.starts_with("HTTP/1.1 200") {
                return Err(text.lines().next().unwrap_or_default().to_owned().into());
            }
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.ok_or("no length")?.parse()?;
            if buffer.len() >= head + 4 + length {
                break Some(head + 4..head + 4 + length);
            }
        };
        let Some(body) = body else { continue };
        bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        at = revision(&buffer[body])?;
        tell.send((at.number, Instant::now()))?;
    }
}

async fn at_rest(service: &Service) -> Result<()> {
    let busy = service.processor()?;
    tokio::time::sleep(REST).await;
    let share = (service.processor()? - busy).as_secs_f64() / REST.as_secs_f64();
    println!("at rest: {:.2} % of a core over {} s", share * 100.0, REST.as_secs());
    Ok(())
}

/// New decisions, one after another.
async fn rounds(service: &Service, fleet: &Fleet) -> Result<()> {
    let (mut halves, mut lasts) = (Vec::new(), Vec::new());
    let (busy, sent) = (service.processor()?, fleet.bytes.load(Ordering::Relaxed));
    for round in 0..ROUNDS {
        let start = Instant::now();
        let body = json!({"targets": [format!("198.51.100.{round}")], "action": "block"});
        let made = service.api(Method::POST, "/v1/decisions", body).await?;
        let times = fleet.has(made["revision"].as_u64().ok_or("no revision")?, start).await;
        halves.push(*times.get(times.len() / 2).ok_or("nobody")?);
        lasts.push(*times.last().ok_or("nobody")?);
        fleet.waits(service).await?;
    }
    halves.sort_unstable();
    lasts.sort_unstable();
    let busy = (service.processor()? - busy).as_secs_f64() / ROUNDS as f64;
    let sent = (fleet.bytes.load(Ordering::Relaxed) - sent) / (ROUNDS * fleet.size) as u64;
    println!(
        "a new decision: half of the proxies have it after {:?}, all of them after {:?} (worst of {ROUNDS}: {:?}); {:.3} s of processor time and {sent} bytes a proxy each time",
        halves[ROUNDS / 2],
        lasts[ROUNDS / 2],
        lasts[ROUNDS - 1],
        busy
    );
    Ok(())
}

/// Ships records as fast as they are taken, and makes a decision in the middle of it.
async fn ship(service: &Service, fleet: &Fleet) -> Result<()> {
    let stored = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + SHIPPING;
    let mut shippers = tokio::task::JoinSet::new();
    let busy = service.processor()?;
    for stream in 1..=SHIPPERS {
        let (http, url) = (service.http.clone(), format!("{}/v1/requests", service.url));
        let (token, stored) = (service.proxy.clone(), Arc::clone(&stored));
        shippers.spawn(async move {
            for number in 1.. {
                if Instant::now() >= end {
                    break;
                }
                let request = http
                    .post(&url)
                    .bearer_auth(&token)
                    .header("content-type", records::CONTENT_TYPE)
                    .body(batch(stream, number));
                let answer = request.send().await?;
                if answer.status().is_success() {
                    stored.fetch_add(u64::from(BATCH), Ordering::Relaxed);
                }
            }
            Ok::<_, reqwest::Error>(())
        });
    }
    tokio::time::sleep(SHIPPING / 2).await;
    let start = Instant::now();
    let body = json!({"targets": ["203.0.113.77"], "action": "block"});
    let made = service.api(Method::POST, "/v1/decisions", body).await?;
    let times = fleet.has(made["revision"].as_u64().ok_or("no revision")?, start).await;
    while let Some(shipper) = shippers.join_next().await {
        shipper??;
    }
    let rate = stored.load(Ordering::Relaxed) as f64 / SHIPPING.as_secs_f64();
    let busy = (service.processor()? - busy).as_secs_f64() / SHIPPING.as_secs_f64();
    println!(
        "{rate:.0} records a second stored for {} s at {:.0} % of a core; a decision meanwhile: all proxies after {:?}",
        SHIPPING.as_secs(),
        busy * 100.0,
        times.last().ok_or("nobody")?
    );
    Ok(())
}

fn batch(stream: u64, number: u64) -> Vec<u8> {
    let now = jiff::Timestamp::now().as_microsecond().unsigned_abs();
    let header = BatchHeader {
        stream,
        number,
        started_us: now,
        sent_us: now,
        proxy: b"sim",
        version: b"0.1.0",
        key: None,
        applied: Revision::default(),
        seen: number * u64::from(BATCH),
        lost: 0,
        skipped: 0,
    };
    let mut encoded = Vec::with_capacity(64 * 1024);
    for n in 0..BATCH {
        // Some thousand clients and a hundred pages.
        let client = (number as u32).wrapping_mul(31).wrapping_add(n * 7) % 20_000;
        let path = format!("/page/{}", n % 100);
        let record = Record {
            time_us: now,
            ip: Some(std::net::Ipv4Addr::from(0x0808_0000 + client).into()),
            form: AddressForm::Full,
            opted_out: false,
            verdict: Verdict::Admitted,
            weight: 1,
            decision: 0,
            rule: b"",
            method: b"GET",
            host: b"shop.example",
            path: path.as_bytes(),
            query: b"",
            status: 200,
            flags: 0,
            duration_us: 1_500,
            bytes_in: 100,
            bytes_out: 2_000,
            user_agent: b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
            request_id: b"0f0e0d0c-0b0a-4908-8706-050403020100",
            country: None,
            city: b"",
            asn: None,
            identity: b"",
        };
        records::put_record(&mut encoded, now, &record);
    }
    records::encode(&header, now, BATCH, &encoded)
}
