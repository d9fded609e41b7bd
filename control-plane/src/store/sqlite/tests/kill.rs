//! A process killed in the middle of writing: what it acknowledged is there, nothing is
//! there twice, and nothing is half there.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use ipwarden::decisions::Change;
use jiff::Timestamp;

use super::super::{SqliteLog, SqliteState};
use crate::model::{Action, NewDecision, Origin};
use crate::store::contract::log::{header, incoming, record};
use crate::store::{
    Appended, DecisionFilter, IncomingBatch, LogStore, NewAudit, RecordQuery, StateStore,
};

/// Where the writing process finds the directory.
const DIRECTORY: &str = "IPWARDEN_TEST_KILL_DIRECTORY";
/// Starts a line that says how far it is.
const ACKNOWLEDGED: &str = "acknowledged ";
/// Records in a batch.
const RECORDS: usize = 50;

fn batch(number: u64) -> IncomingBatch<'static> {
    incoming(header(7, number), vec![record(); RECORDS])
}

fn decision(number: u64) -> NewDecision {
    let host = std::net::Ipv4Addr::from(0x0a00_0000 + u32::try_from(number).unwrap());
    NewDecision {
        target: ipnet::IpNet::from(std::net::IpAddr::from(host)),
        action: Action::Block,
        origin: Origin::Manual,
        reason: format!("the {number}th"),
        expires_at: None,
    }
}

fn audit() -> NewAudit {
    NewAudit {
        actor: "tester".to_owned(),
        action: "decisions.add",
        subject: String::new(),
        detail: String::new(),
    }
}

fn open(directory: &Path) -> (SqliteState, SqliteLog) {
    let state = SqliteState::open(&directory.join("state.db")).unwrap();
    let log = SqliteLog::open(&directory.join("log.db")).unwrap();
    (state, log)
}

/// Not a test: what the test below starts, and kills.
#[tokio::test]
#[ignore = "writes until it is killed; started by the test of killing"]
#[expect(clippy::disallowed_methods, reason = "how a process tells its child what to do")]
async fn writes_until_it_is_killed() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let (state, log) = open(Path::new(&directory));
    let mut out = std::io::stdout();
    for number in 1.. {
        log.append(&[batch(number)]).await.unwrap();
        state.add_decisions(vec![decision(number)], audit(), Timestamp::UNIX_EPOCH).await.unwrap();
        writeln!(out, "\n{ACKNOWLEDGED}{number}").unwrap();
        out.flush().unwrap();
    }
}

/// Starts a writer, kills it once it has acknowledged so many, and says how many it had
/// acknowledged by then.
fn write_and_kill(directory: &Path, enough: u64) -> u64 {
    let name = format!("{}::writes_until_it_is_killed", module_path!().split_once("::").unwrap().1);
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut last = 0;
    for line in BufReader::new(writer.stdout.take().unwrap()).lines() {
        if let Some(number) = line.unwrap().strip_prefix(ACKNOWLEDGED) {
            last = number.parse().unwrap();
            if last == enough {
                // SIGKILL; what it writes before that arrives is still read.
                writer.kill().unwrap();
            }
        }
    }
    assert!(!writer.wait().unwrap().success());
    assert!(last >= enough, "the writer ended after {last}");
    last
}

#[tokio::test]
async fn what_was_acknowledged_outlives_a_kill_and_nothing_is_there_twice() {
    for enough in [1, 20, 75] {
        let directory = tempfile::tempdir().unwrap();
        let acknowledged = write_and_kill(directory.path(), enough);
        let (state, log) = open(directory.path());

        let all = RecordQuery { limit: usize::MAX, ..RecordQuery::default() };
        let records = log.search(&all).await.unwrap().len() as u64;
        assert_eq!(records % RECORDS as u64, 0, "a batch is there as a whole or not at all");
        let batches = records / RECORDS as u64;
        assert!((acknowledged..=acknowledged + 1).contains(&batches), "{batches}, {acknowledged}");
        assert_eq!(log.streams().await.unwrap()[0].stored, records);
        let hour = (record().time_us / 3_600_000_000).cast_signed();
        let rolled_up = log.rollups(hour, 1).await.unwrap().requests;
        assert_eq!(rolled_up, records, "every record is in the rollups, once");
        // The proxy can't know which arrived and sends all of them again.
        let again: Vec<_> = (1..=batches + 1).map(batch).collect();
        let outcomes = log.append(&again).await.unwrap();
        let (new, old) = outcomes.split_last().unwrap();
        assert!(old.iter().all(|outcome| *outcome == Appended::Duplicate));
        assert!(matches!(new, Appended::Stored { .. }), "{new:?}");
        assert_eq!(log.count(&all).await.unwrap(), records + RECORDS as u64);

        let revision = state.revision().await.unwrap();
        let decided = revision.number;
        assert!((acknowledged..=acknowledged + 1).contains(&decided), "{decided}, {acknowledged}");
        let filter = DecisionFilter { limit: usize::MAX, ..DecisionFilter::default() };
        let (live, total) = state.decisions(filter, Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!(total, decided);
        for (number, found) in (1..=decided).rev().zip(&live) {
            assert_eq!(found.target, decision(number).target);
            assert_eq!(u64::from(found.id), number);
        }
        assert_eq!(state.audit_log(None, usize::MAX).await.unwrap().len() as u64, decided);
        let next = vec![decision(decided + 1)];
        let added = state.add_decisions(next, audit(), Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!((added.revision.epoch, added.revision.number), (revision.epoch, decided + 1));
        assert!(matches!(added.changes[..], [Change::Add(entry)] if entry.id == added.ids[0]));
    }
}
