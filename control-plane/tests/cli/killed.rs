//! The service killed in the middle of the hourly pass, and of what follows from it.

use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use ipwarden::record::{Batch, BatchHeader};
use ipwarden_control_plane::api::status::{LOG_FILE, STATE_FILE};
use ipwarden_control_plane::detect::pass::run::last_complete;
use ipwarden_control_plane::store::sqlite::{SqliteLog, SqliteState};
use ipwarden_control_plane::store::{
    DecisionFilter, IncomingBatch, LogStore as _, PassDone, StateStore,
};
use ipwarden_control_plane::suspects::SuspectFilter;
use jiff::Timestamp;

use crate::bench::{program, record};

/// Addresses that visited /admin in the hour: each is flagged once and blocked once.
const ADDRESSES: u32 = 1_500;
/// Blocks whom the pass flags.
const SETTINGS: &str = "[detect]\nlow = \"block\"\nblocks_an_hour = 1_000_000\n";

/// A running `ipwarden serve`.
pub(crate) struct Served {
    child: Child,
    pub(crate) url: String,
}

impl Served {
    pub(crate) fn start(here: &Path) -> Self {
        let mut child = program(here, &["serve", "--listen", "127.0.0.1:0"]).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| {
                let rest = line.split_once("listening on http://")?.1;
                let end = rest.find(|c| !matches!(c, '0'..='9' | '.' | ':'));
                Some(format!("http://{}", &rest[..end.unwrap_or(rest.len())]))
            })
            .expect("it listens");
        // What it says later must not fill the pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { child, url }
    }

    /// Waits until the metrics say so.
    pub(crate) async fn until(&self, holds: impl Fn(&str) -> bool) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let wait = async {
            loop {
                let answer = client.get(format!("{}/metrics", self.url)).send().await.unwrap();
                if holds(&answer.text().await.unwrap()) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it never held");
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        assert!(!self.child.wait().unwrap().success());
    }
}

/// The value of a metric, 0 when it is not there.
pub(crate) fn metric(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

pub(crate) fn state(here: &Path) -> SqliteState {
    SqliteState::open(&here.join(".ipwarden").join(STATE_FILE)).unwrap()
}

/// A data directory with an hour that is over and was not passed over, in which so many
/// addresses visited /admin.
pub(crate) async fn prepare(here: &Path, addresses: u32, settings: &str) -> i64 {
    let hour = fill(here, addresses, settings).await;
    state(here).finish_pass(done(hour - 1), Vec::new(), Timestamp::now()).await.unwrap();
    hour
}

/// That an hour was passed over: the next one is caught up with even if another ends meanwhile.
pub(crate) fn done(hour: i64) -> PassDone {
    PassDone { hour, finished_at: Timestamp::now(), addresses: 0, requests: 0, flagged: 0 }
}

/// The log and the settings of such a directory.
pub(crate) async fn fill(here: &Path, addresses: u32, settings: &str) -> i64 {
    let hour = last_complete(Timestamp::now());
    std::fs::write(here.join("ipwarden.toml"), settings).unwrap();
    std::fs::create_dir_all(here.join(".ipwarden")).unwrap();
    let log = SqliteLog::open_with(
        &here.join(".ipwarden").join(LOG_FILE),
        vec!["/admin".to_owned(), "/login".to_owned()],
    )
    .unwrap();
    let start_us = hour.cast_unsigned() * 3_600_000_000;
    let records = (0..addresses).map(|n| {
        let mut visit = record(b"/admin");
        visit.time_us = start_us + u64::from(n);
        visit.ip = Some(Ipv4Addr::from(0x2000_0000 + n).into());
        visit
    });
    let header = BatchHeader {
        stream: 7,
        number: 1,
        started_us: start_us,
        sent_us: start_us,
        proxy: b"edge-1",
        version: b"0.1.0",
        applied: Default::default(),
        seen: u64::from(addresses),
        lost: 0,
        skipped: 0,
        key: None,
    };
    let batch = IncomingBatch {
        batch: Batch { header, records: records.collect() },
        received_at: Timestamp::now(),
        store_query: false,
        places: Vec::new(),
    };
    log.append(&[batch]).await.unwrap();
    hour
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_is_killed_is_made_once_and_nobody_is_a_suspect_or_blocked_twice() {
    let (dir, hour) = loop {
        let dir = tempfile::tempdir().unwrap();
        let hour = prepare(dir.path(), ADDRESSES, SETTINGS).await;
        let served = Served::start(dir.path());
        served
            .until(|text| {
                metric(text, "ipwarden_detect_pass_running") == 1
                    || metric(text, "ipwarden_suspects_open") > 0
            })
            .await;
        served.kill();
        let state = state(dir.path());
        if state.pass(hour).await.unwrap().is_none() {
            let (_, suspects) = state.suspects(SuspectFilter::default()).await.unwrap();
            assert_eq!(suspects, 0, "a pass that is not done has left nothing");
            break (dir, hour);
        }
        // It was done before the signal came: again.
    };

    // Once more, while what it found is judged.
    let served = Served::start(dir.path());
    let made = "ipwarden_automatic_blocks_total{kind=\"made\"}";
    served.until(|text| metric(text, made) >= 3).await;
    served.kill();
    {
        let state = state(dir.path());
        assert_eq!(state.pass(hour).await.unwrap().unwrap().flagged, u64::from(ADDRESSES));
        let filter = DecisionFilter { limit: 1, ..DecisionFilter::default() };
        let (_, blocked) = state.decisions(filter, Timestamp::now()).await.unwrap();
        assert!((3..u64::from(ADDRESSES)).contains(&blocked), "{blocked} blocks by then");
    }

    let served = Served::start(dir.path());
    served.until(|text| metric(text, "ipwarden_decisions") >= u64::from(ADDRESSES)).await;
    served.kill();
    each_was_found_and_blocked_once(&state(dir.path()), ADDRESSES).await;
}

/// As many suspects as addresses, each flagged once and blocked once.
pub(crate) async fn each_was_found_and_blocked_once(state: &dyn StateStore, addresses: u32) {
    let filter = SuspectFilter { limit: usize::MAX, ..SuspectFilter::default() };
    let (suspects, total) = state.suspects(filter).await.unwrap();
    assert_eq!(total, u64::from(addresses));
    let targets: std::collections::BTreeSet<_> = suspects.iter().map(|one| one.target).collect();
    assert_eq!(targets.len(), suspects.len(), "nobody is a suspect twice");
    for suspect in &suspects {
        let flags: Vec<_> = suspect.reasons.iter().map(|reason| reason.count).collect();
        assert_eq!((suspect.flags, flags), (1, vec![1]), "{:?}", suspect.target);
    }
    let filter = DecisionFilter { limit: usize::MAX, ..DecisionFilter::default() };
    let (blocks, _) = state.decisions(filter, Timestamp::now()).await.unwrap();
    let blocked: std::collections::BTreeSet<_> = blocks.iter().map(|block| block.target).collect();
    assert_eq!((blocks.len(), blocked), (suspects.len(), targets), "each is blocked once");
}
