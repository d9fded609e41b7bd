//! The contract over real servers: Debian's 18.16, and today's engine (chdb) behind a small HTTP
//! face of its own. Each is started once for all tests, on loopback, with data of its own, and
//! ends with this process. Where one is missing its tests say so and pass.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use ipwarden::record::Record;

use super::rows::read;
use super::*;
use crate::store::contract::Fixture;
use crate::store::contract::log::{header, incoming, log_contract, record};
use crate::store::{LogStore, StoreError};

/// A server that ends when this process does: its standard input is a pipe from here.
struct Running {
    port: u16,
    _guard: Child,
}

fn guarded(script: &str, arguments: &[&Path]) -> Option<Running> {
    let mut guard = Command::new("bash")
        .arg("-c")
        .arg(script)
        .arg("guard")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .ok()?;
    let mut line = String::new();
    BufReader::new(guard.stdout.take()?).read_line(&mut line).ok()?;
    let port = line.trim().parse().ok()?;
    Some(Running { port, _guard: guard })
}

fn skip(what: &str) {
    // Past the harness, which keeps what tests print.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

/// Where the server keeps everything; the guard removes it.
fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("ipwarden-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Debian's `clickhouse-server`.
fn debian() -> Option<&'static Running> {
    static SERVER: OnceLock<Option<Running>> = OnceLock::new();
    SERVER
        .get_or_init(|| {
            let found = Command::new("sh")
                .args(["-c", "PATH=$PATH:/usr/sbin command -v clickhouse-server"])
                .output();
            if !found.is_ok_and(|found| found.status.success()) {
                skip("no clickhouse-server: apt-get install clickhouse-server");
                return None;
            }
            let directory = directory("clickhouse");
            let script = include_str!("../../../tests/clickhouse/server.sh");
            Some(guarded(script, &[&directory]).expect("clickhouse-server starts"))
        })
        .as_ref()
}

/// Today's engine out of `.tools/chdb`.
fn chdb() -> Option<&'static Running> {
    static SERVER: OnceLock<Option<Running>> = OnceLock::new();
    SERVER
        .get_or_init(|| {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            let python = root.join("../.tools/chdb/bin/python");
            if !python.exists() {
                skip("no chdb: .ci/tools chdb installs it (900 MB)");
                return None;
            }
            let directory = directory("chdb");
            let script = "\"$1\" \"$2\" \"$3\"; rm -rf \"$3\"";
            let face = root.join("tests/clickhouse/chdb_http.py");
            Some(guarded(script, &[&python, &face, &directory]).expect("chdb starts"))
        })
        .as_ref()
}

/// A database of its own on a server; `None` where there is no server.
struct Database {
    url: Option<ClickHouseUrl>,
}

impl Database {
    async fn on(server: Option<&'static Running>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Some(server) = server else { return Self { url: None } };
        let at = |database: &str| {
            let text = format!("clickhouse://127.0.0.1:{}/{database}", server.port);
            ClickHouseUrl::parse(&text).unwrap()
        };
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let http = Http::new(at("default")).unwrap();
        http.run(&format!("CREATE DATABASE {name}")).await.unwrap();
        Self { url: Some(at(&name)) }
    }

    fn log(&self) -> ClickHouseLog {
        let url = self.url.clone().expect("the test was skipped");
        let log = ClickHouseLog::new(url, vec!["/admin".to_owned()]).unwrap();
        ClickHouseLog { pace: std::time::Duration::ZERO, ..log }
    }
}

macro_rules! on_server {
    ($module:ident, $server:ident) => {
        mod $module {
            use super::*;

            struct Here(Database);

            impl Fixture for Here {
                type Store = ClickHouseLog;
                const KEEPS_TEXTS_APART: bool = false;
                const ONE_OF: u32 = 4;

                async fn fresh() -> Self {
                    Self(Database::on($server()).await)
                }

                async fn open(&self) -> ClickHouseLog {
                    self.0.log()
                }
            }

            fn is_there() -> bool {
                $server().is_some()
            }

            log_contract!(Here, is_there);

            #[tokio::test(flavor = "multi_thread")]
            async fn an_insert_without_an_answer_is_found_and_not_made_again() {
                if is_there() {
                    super::an_insert_without_an_answer_is_found(Database::on($server()).await)
                        .await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn control_planes_that_share_a_log_share_no_number_and_no_batch() {
                if is_there() {
                    super::control_planes_share(Database::on($server()).await).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_long_backlog_is_rolled_up_in_pieces() {
                if is_there() {
                    super::a_backlog_in_pieces(Database::on($server()).await).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn batches_of_past_days_are_forgotten_and_what_was_counted_stays() {
                if is_there() {
                    super::batches_are_forgotten(Database::on($server()).await).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn no_statement_that_the_server_keeps_names_an_address() {
                if is_there() {
                    super::no_address_is_kept(Database::on($server()).await).await;
                }
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn tables_of_a_later_version_are_left_alone() {
                if is_there() {
                    super::later_tables(Database::on($server()).await).await;
                }
            }
        }
    };
}

on_server!(on_18_16, debian);
on_server!(on_today, chdb);

async fn an_insert_without_an_answer_is_found(database: Database) {
    let log = database.log();
    log.append(&[incoming(header(1, 1), vec![record(); 3])]).await.unwrap();
    // As after a crash between the records and the note of their batch.
    log.http.run("TRUNCATE TABLE batches").await.unwrap();
    drop(log);
    let log = database.log();
    let again = [incoming(header(1, 1), vec![record(); 3]), incoming(header(1, 2), vec![record()])];
    let outcomes = log.append(&again).await.unwrap();
    assert_eq!(outcomes[0], Appended::Duplicate);
    assert!(matches!(outcomes[1], Appended::Stored { .. }));
    assert_eq!(log.count(&RecordQuery::default()).await.unwrap(), 4);
    assert_eq!(log.streams().await.unwrap()[0].stored, 4);
    assert_eq!(
        log.rollups(crate::store::clickhouse::hour_of(TIME_US), 1).await.unwrap().requests,
        4
    );
}

const TIME_US: i64 = 1_763_827_200_000_000;

async fn control_planes_share(database: Database) {
    let first = database.log();
    let url = ClickHouseUrl { writer: 1, ..database.url.clone().unwrap() };
    let second = ClickHouseLog::new(url, Vec::new()).unwrap();
    for number in 1..=4 {
        let batch = incoming(header(1, number), vec![record(); 2]);
        let (here, there) = if number % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let stored = here.append(std::slice::from_ref(&batch)).await.unwrap();
        assert!(matches!(stored[0], Appended::Stored { .. }));
        let again = there.append(std::slice::from_ref(&batch)).await.unwrap();
        assert_eq!(again[0], Appended::Duplicate);
    }
    let query = RecordQuery { limit: 100, ..RecordQuery::default() };
    let mut ids: Vec<i64> =
        first.search(&query).await.unwrap().iter().map(|record| record.id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 8);
    // What the other has not rolled up counts all the same, and once.
    let hour = crate::store::clickhouse::hour_of(TIME_US);
    for log in [&first, &second, &first] {
        assert_eq!(log.rollups(hour, 1).await.unwrap().requests, 8);
        let kept = vec![Kept { ip: record().ip.unwrap(), veil: Veil::NONE }];
        let past = log.past_hours(vec![hour], vec![kept]).await.unwrap();
        assert_eq!((past[0].requests, past[0].by_target[0]), (8, 8));
    }
}

async fn a_backlog_in_pieces(database: Database) {
    let log = ClickHouseLog { roll_up_records: 5, ..database.log() };
    for number in 1..=7 {
        log.append(&[incoming(header(1, number), vec![record(); 2])]).await.unwrap();
    }
    let hour = crate::store::clickhouse::hour_of(TIME_US);
    assert_eq!(log.rollups(hour, 1).await.unwrap().requests, 14);
    // Three batches, three more, and the last.
    assert_eq!(log.number("SELECT uniqExact(upto) FROM hours WHERE kind = 2").await.unwrap(), 3);
    log.append(&[incoming(header(1, 8), vec![record()])]).await.unwrap();
    let found = log.rollups(hour, 1).await.unwrap();
    assert_eq!((found.requests, found.rollups.len()), (15, 1));
    assert_eq!(found.rollups[0].1.requests, 15);
}

async fn batches_are_forgotten(database: Database) {
    let log = database.log();
    let day = 86_400_000_000;
    let at = |days: i64| Timestamp::from_microsecond(TIME_US + days * day).unwrap();
    for (number, days) in [(1, 0), (2, 1), (3, 40)] {
        let time_us = at(days).as_microsecond().cast_unsigned();
        let batch = incoming(header(1, number), vec![Record { time_us, ..record() }; 2]);
        log.append(&[IncomingBatch { received_at: at(days), ..batch }]).await.unwrap();
    }
    let gone = incoming(header(2, 1), vec![record()]);
    log.append(&[IncomingBatch { received_at: at(0), ..gone }]).await.unwrap();
    for _ in 0..2 {
        log.forget(Class::All, at(30), 100).await.unwrap();
        let streams = log.streams().await.unwrap();
        assert_eq!(streams.len(), 1, "a worker that is gone is forgotten");
        assert_eq!((streams[0].stored, streams[0].last_seen), (6, at(40)));
        assert_eq!(log.count(&RecordQuery::default()).await.unwrap(), 2);
    }
    let partitions =
        log.http.ask("SELECT DISTINCT arrival FROM records ORDER BY arrival").await.unwrap();
    assert_eq!(read(&partitions, |row| row.i32()).unwrap().len(), 1);
}

async fn no_address_is_kept(database: Database) {
    let log = database.log();
    log.append(&[incoming(header(1, 1), vec![record(); 3])]).await.unwrap();
    let hiding = Hiding::Truncate { v4_bits: 24, v6_bits: 48 };
    let later = Timestamp::from_microsecond(TIME_US + 7_200_000_000).unwrap();
    assert_eq!(log.hide(later, &hiding, 9).await.unwrap().done, 3);
    assert_eq!(log.hide_rollups(later, &hiding, 9).await.unwrap().done, 1);
    let durable = log.server().await.unwrap().is_durable();
    let kept = "SELECT count() FROM system.mutations WHERE database = currentDatabase() \
                AND (match(lower(command), 'cb0071|203.0.113|xcb.x00.x71') \
                    OR position(command, unhex('cb0071')) > 0)";
    let mut left = 1;
    for _ in 0..600 {
        left = log.number(kept).await.unwrap();
        // An old server forgets what is finished after a while.
        if left == 0 || durable {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(left, 0);
    assert_eq!(log.number("SELECT count() FROM jobs").await.unwrap(), 0);
}

async fn later_tables(database: Database) {
    database.log().prepare().await.unwrap();
    let log = database.log();
    log.http.run("INSERT INTO ipwarden_schema SELECT toUInt32(99)").await.unwrap();
    let error = log.prepare().await.unwrap_err();
    let expected = format!(
        "store can't be used: {} has tables of version 99, this ipwarden knows 1: use the ipwarden that wrote them, or a later one",
        log.http.url()
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = ClickHouseUrl::parse(&format!("clickhouse://u:secret@127.0.0.1:{port}/x")).unwrap();
    let log = ClickHouseLog::new(url, Vec::new()).unwrap();
    let error = log.append(&[incoming(header(1, 1), vec![record()])]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    let said = error.to_string();
    assert!(said.starts_with(&format!("store is unavailable: clickhouse://127.0.0.1:{port}/x: ")));
    assert!(!said.contains("secret"));
}
