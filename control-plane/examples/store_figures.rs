//! Measures the SQLite stores: `cargo run --release --example store_figures [-- DIRECTORY]`.
//!
//! Each figure is taken after its result was checked. The directory should lie on the disk
//! that matters; the files are deleted at the end.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use ipwarden::decisions::Revision;
use ipwarden::record::{Batch, BatchHeader, Record, Verdict};
use ipwarden_control_plane::model::{Action, NewDecision, Origin};
use ipwarden_control_plane::store::sqlite::{SqliteLog, SqliteState, size_bytes};
use ipwarden_control_plane::store::{
    Appended, DecisionFilter, IncomingBatch, LogStore, NewAudit, RecordQuery, Removal, StateStore,
};
use jiff::Timestamp;

const DECISIONS: u32 = 1_000_000;
const BATCHES: u64 = 200;
const BATCH_RECORDS: u64 = 10_000;

#[tokio::main]
async fn main() {
    let parent = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let files = tempfile::tempdir_in(parent).expect("the directory can be written to");
    let directory = files.path();
    state(&directory.join("state.db")).await;
    log(&directory.join("log.db"), "20 000 addresses", |n| scatter(n % 20_000)).await;
    log(&directory.join("log-wide.db"), "every address once", scatter).await;
}

async fn state(path: &Path) {
    let state = SqliteState::open(path).expect("a new file opens");
    let now = Timestamp::UNIX_EPOCH;
    let new: Vec<NewDecision> = (0..DECISIONS)
        .map(|n| NewDecision {
            target: IpNet::from(address(scatter(n.into()))),
            action: Action::Block,
            origin: Origin::Feed("figures".to_owned()),
            reason: "measured".to_owned(),
            expires_at: None,
        })
        .collect();
    let added =
        timed("state: add 1 000 000 decisions", state.add_decisions(new.clone(), audit(), now))
            .await
            .expect("they are added");
    assert_eq!(added.ids.len(), new.len());
    let (_, entries) =
        timed("state: read them as entries", state.entries(now)).await.expect("they are read");
    assert_eq!(entries.len(), new.len() - added.replaced.len());
    let covering = timed("state: what covers one", state.covering(new[7].target, now)).await;
    assert_eq!(covering.expect("it is found").len(), 1);
    let filter = DecisionFilter { limit: 100, ..DecisionFilter::default() };
    let listed = timed("state: list 100 and count all", state.decisions(filter, now)).await;
    assert_eq!(listed.expect("they are listed").0.len(), 100);
    let again = timed("state: replace all of them", state.add_decisions(new.clone(), audit(), now));
    assert_eq!(again.await.expect("they are replaced").replaced.len(), new.len());
    println!("{:>44}  {} MB", "state: file", size_bytes(path) / 1_000_000);
    drop(state);
    let open = timed("state: open", async { SqliteState::open(path) });
    let state = open.await.expect("it opens");
    let targets = new.iter().map(|decision| decision.target).collect();
    let all = Removal::Targets { targets, action: Action::Block, origin: None };
    let removed = timed("state: remove all by target", state.remove_decisions(all, audit(), now));
    assert_eq!(removed.await.expect("they are removed").decisions.len(), entries.len());
    let later = now + Duration::from_secs(1);
    let swept = timed("state: forget them", state.sweep_decisions(later, Duration::ZERO));
    assert!(swept.await.expect("they are forgotten") >= u64::from(DECISIONS));
}

async fn log(path: &Path, what: &str, address_of: impl Fn(u64) -> u64) {
    println!("log with {what}:");
    let log = SqliteLog::open(path).expect("a new file opens");
    let mut total = Duration::ZERO;
    let mut longest = Duration::ZERO;
    for number in 1..=BATCHES {
        let texts: Vec<Texts> =
            (0..BATCH_RECORDS).map(|n| Texts::new(number * BATCH_RECORDS + n)).collect();
        let records = texts.iter().map(|texts| texts.record(&address_of)).collect();
        let incoming = IncomingBatch {
            batch: Batch { header: header(number), records },
            received_at: Timestamp::UNIX_EPOCH,
            store_query: false,
            places: Vec::new(),
        };
        let before = now();
        let outcome = log.append(std::slice::from_ref(&incoming)).await.expect("it is stored");
        total += before.elapsed();
        longest = longest.max(before.elapsed());
        assert!(matches!(outcome[..], [Appended::Stored { .. }]));
    }
    let stored = BATCHES * BATCH_RECORDS;
    let rate = stored as f64 / total.as_secs_f64();
    println!("{:>44}  {rate:.0} records/s, longest {longest:?}", "log: append batches of 10 000");

    let everything = RecordQuery { limit: 100, ..RecordQuery::default() };
    let counted = timed("log: count all", log.count(&everything)).await.expect("it counts");
    assert_eq!(counted, stored);
    let ip = address(address_of(stored / 2));
    let one = RecordQuery { net: Some(IpNet::from(ip)), ..everything.clone() };
    let found = timed("log: 100 of one address", log.search(&one)).await.expect("it is found");
    assert!(found.iter().all(|record| record.ip == Some(ip)) && !found.is_empty());
    let net = IpNet::new(ip, 16).expect("a prefix length").trunc();
    let of_net = RecordQuery { net: Some(net), ..everything.clone() };
    let found = timed("log: 100 of a /16", log.search(&of_net)).await.expect("it is found");
    assert!(!found.is_empty());
    let rare = RecordQuery { path_prefix: Some("/rare/1000".to_owned()), ..everything.clone() };
    let found = timed("log: rare path", log.search(&rare)).await.expect("it is found");
    assert!(!found.is_empty());
    let common = RecordQuery { path_prefix: Some("/".to_owned()), ..everything.clone() };
    let found = timed("log: common path", log.search(&common)).await.expect("it is found");
    assert_eq!(found.len(), 100);
    let mut seen = 0u64;
    let mut visit = |_| {
        seen += 1;
        std::ops::ControlFlow::Continue(())
    };
    timed("log: scan all", log.scan(&everything, &mut visit)).await.expect("it is read");
    assert_eq!(seen, stored);
    // Closing moves the write-ahead log into the file.
    drop(log);
    println!("{:>44}  {} bytes", "log: a record takes", size_bytes(path) / stored);
}

/// The parts of a record that differ from one to the next.
struct Texts {
    n: u64,
    path: String,
    user_agent: String,
    request_id: String,
}

impl Texts {
    fn new(n: u64) -> Self {
        let a = scatter(n);
        let path = if n.is_multiple_of(50) {
            format!("/rare/{n}/of/its/own")
        } else {
            format!("/shop/item/{}", a % 5_000)
        };
        let user_agent =
            format!("Mozilla/5.0 (X11; Linux x86_64; rv:{0}.0) Firefox/{0}.0", a % 2_000);
        let request_id = format!(
            "{:08x}-{:04x}-4{:03x}-8000-{n:012x}",
            a as u32,
            (a >> 32) as u16,
            (a >> 48) & 0xfff
        );
        Self { n, path, user_agent, request_id }
    }

    fn record(&self, address_of: impl Fn(u64) -> u64) -> Record<'_> {
        Record {
            time_us: 1_700_000_000_000_000 + self.n * 10,
            ip: Some(address(address_of(self.n))),
            form: ipwarden::privacy::AddressForm::Full,
            opted_out: false,
            verdict: Verdict::Admitted,
            weight: 1,
            decision: 0,
            rule: b"",
            method: b"GET",
            host: b"shop.example",
            path: self.path.as_bytes(),
            query: b"page=2",
            status: 200,
            flags: 0,
            duration_us: 1_000 + self.n % 50_000,
            bytes_in: 400,
            bytes_out: 10_000 + self.n % 5_000,
            user_agent: self.user_agent.as_bytes(),
            request_id: self.request_id.as_bytes(),
            country: None,
            city: b"",
            asn: None,
            identity: b"",
        }
    }
}

fn header(number: u64) -> BatchHeader<'static> {
    BatchHeader {
        stream: 1,
        number,
        started_us: 0,
        sent_us: 0,
        proxy: b"edge-1",
        version: b"0.1.0",
        key: None,
        applied: Revision::default(),
        seen: number * BATCH_RECORDS,
        lost: 0,
        skipped: 0,
    }
}

fn audit() -> NewAudit {
    NewAudit {
        actor: "figures".to_owned(),
        action: "decisions.add",
        subject: String::new(),
        detail: String::new(),
    }
}

/// A bijection that leaves no order (the finisher of SplitMix64).
fn scatter(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn address(n: u64) -> IpAddr {
    Ipv4Addr::from(n as u32).into()
}

async fn timed<T>(what: &str, work: impl Future<Output = T>) -> T {
    let start = now();
    let value = work.await;
    println!("{what:>44}  {:?}", start.elapsed());
    value
}

#[expect(clippy::disallowed_methods, reason = "this program measures time")]
fn now() -> Instant {
    Instant::now()
}
