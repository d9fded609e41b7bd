use super::*;
use crate::store::contract::Fixture;
use crate::store::contract::log::{header, incoming, log_contract, record};
use crate::store::stats::{Dimension, slot_of, slot_start};
use ipwarden::record::Record;
use rusqlite::Connection;

struct Files(tempfile::TempDir);

impl Files {
    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("log.db")
    }
}

impl Fixture for Files {
    type Store = SqliteLog;

    async fn fresh() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn open(&self) -> SqliteLog {
        SqliteLog::open(&self.path()).unwrap()
    }
}

log_contract!(Files);

/// The same in segments of a few records.
mod small_segments {
    use super::*;

    struct Small(Files);

    impl Fixture for Small {
        type Store = SqliteLog;

        async fn fresh() -> Self {
            Self(Files::fresh().await)
        }

        async fn open(&self) -> SqliteLog {
            SqliteLog { segment_rows: 2, ..self.0.open().await }
        }
    }

    log_contract!(Small, crate::store::contract::always; answers_count_what_matches,);
}

#[tokio::test]
async fn a_segment_is_dropped_with_what_it_counted_when_a_record_changes() {
    let fixture = Files::fresh().await;
    let log = SqliteLog { segment_rows: 4, ..fixture.open().await };
    log.append(&[incoming(header(1, 1), vec![record(); 14])]).await.unwrap();
    while log.tidy().await.unwrap() {}
    let segments = || {
        let file = Connection::open(fixture.path()).unwrap();
        let count = |table| {
            file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
        };
        (count("segments"), count("segment_pieces"))
    };
    let pieces = 31;
    assert_eq!(segments(), (3i64, 3 * pieces), "the newest two wait");
    let edit = |sql: &str| Connection::open(fixture.path()).unwrap().execute_batch(sql).unwrap();
    edit("UPDATE records SET ip = x'01020304' WHERE id = 5");
    edit("DELETE FROM records WHERE id = 12");
    assert_eq!(segments(), (1, pieces), "nothing of what changed is left");
    let query = StatsQuery {
        filter: RecordQuery {
            since: Some("2025-01-01T00:00:00Z".parse().unwrap()),
            until: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            ..RecordQuery::default()
        },
        tops: vec![(Dimension::Address, 9)],
        ..StatsQuery::default()
    };
    for _ in 0..2 {
        let found = log.stats(&query).await.unwrap();
        let rows: Vec<_> =
            found.tops[0].rows.iter().map(|row| (row.key.as_str(), row.requests)).collect();
        assert_eq!(rows, [("203.0.113.7", 12), ("1.2.3.4", 1)]);
        while log.tidy().await.unwrap() {}
        assert_eq!(segments().0, 3);
    }
}

#[tokio::test]
async fn records_that_are_not_counted_are_not_read_again_for_ever() {
    let fixture = Files::fresh().await;
    drop(fixture.open().await);
    let mut file = Connection::open(fixture.path()).unwrap();
    let tx = file.transaction().unwrap();
    let mut pending = rollups::Pending::default();
    pending.load(&tx, &[]).unwrap();
    let rolled_up =
        || -> i64 { tx.query_row("SELECT rolled_up FROM meta", [], |row| row.get(0)).unwrap() };
    let enough = 1 + rollups::PENDING as i64;
    for (next, expected) in [(enough - 1, 1), (enough, enough), (enough + 9, enough)] {
        pending.taken(&tx, next).unwrap();
        assert_eq!(rolled_up(), expected);
    }
}

/// Both ends of a span of slots, everything counted by address and network, with what was before.
fn unconditional(first: i64, span: i64) -> StatsQuery {
    let base = slot_of(record().time_us.cast_signed());
    StatsQuery {
        filter: RecordQuery {
            since: Some(slot_start(base + first)),
            until: Some(slot_start(base + first + span)),
            ..RecordQuery::default()
        },
        step_slots: 3,
        compare: true,
        tops: [Dimension::Address, Dimension::Network, Dimension::Path, Dimension::Verdict]
            .map(|dimension| (dimension, 9))
            .to_vec(),
    }
}

#[tokio::test]
async fn summaries_answer_as_the_records_do_and_go_with_a_record_that_changes() {
    const RECORDS: u64 = 85;
    let paths: Vec<String> = (0..RECORDS).map(|n| format!("/{}", n % 7)).collect();
    let records: Vec<Record<'_>> = (0u8..)
        .zip(&paths)
        .map(|(n, path)| Record {
            // One in a slot, now and then one out of turn.
            time_us: record().time_us + 10_000_000 * u64::from(n ^ u8::from(n % 9 == 4)),
            ip: Some([192, 0, n % 3, n % 11].into()),
            path: path.as_bytes(),
            ..record()
        })
        .collect();
    let (fixture, other) = (Files::fresh().await, Files::fresh().await);
    let log = SqliteLog { segment_rows: 2, ..fixture.open().await };
    let bare = other.open().await;
    for log in [&log, &bare] {
        log.append(&[incoming(header(1, 1), records.clone())]).await.unwrap();
    }
    while log.tidy().await.unwrap() {}
    let count = |what: &str| -> i64 {
        let file = Connection::open(fixture.path()).unwrap();
        file.query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0)).unwrap()
    };
    let levels = || [1, 2].map(|level| count(&format!("summaries WHERE level = {level}")));
    let check = async || {
        for first in [-5, 0, 3, 16, 31, 40] {
            for span in [1, 8, 29, 50, 90] {
                let query = unconditional(first, span);
                let found = log.stats(&query).await.unwrap();
                assert_eq!(found, bare.stats(&query).await.unwrap(), "{first} {span}");
            }
        }
    };
    assert_eq!((count("segments"), levels()), (42, [10, 2]));
    assert_eq!(count("summary_pieces"), 12 * 16);
    check().await;
    for path in [fixture.path(), other.path()] {
        let file = Connection::open(path).unwrap();
        file.execute_batch("UPDATE records SET ip = x'01020304' WHERE id = 20").unwrap();
        file.execute_batch("DELETE FROM records WHERE id = 21").unwrap();
    }
    assert_eq!((count("segments"), levels()), (40, [9, 1]), "nothing of what changed is left");
    assert_eq!(count("summary_pieces"), 10 * 16);
    check().await;
    while log.tidy().await.unwrap() {}
    assert_eq!(levels(), [10, 2]);
    check().await;
}

#[tokio::test]
async fn a_call_that_fails_half_way_leaves_nothing_behind() {
    let fixture = Files::fresh().await;
    drop(fixture.open().await);
    let edit = |sql: &str| Connection::open(fixture.path()).unwrap().execute_batch(sql).unwrap();
    edit(
        "CREATE TRIGGER fails BEFORE INSERT ON records WHEN NEW.status = 599 \
         BEGIN SELECT raise(ABORT, 'as told'); END",
    );
    let log = fixture.open().await;
    let good = incoming(header(1, 1), vec![record()]);
    let fresh_texts = Record { path: b"/only/here", user_agent: b"seen once", ..record() };
    let bad = incoming(header(1, 2), vec![fresh_texts, Record { status: 599, ..record() }]);
    log.append(&[good]).await.unwrap();
    let after_good = incoming(header(1, 3), vec![fresh_texts]);
    let error = log.append(&[after_good.clone(), bad]).await.unwrap_err();
    assert_eq!(error.to_string(), format!("store failed: {}: as told", fixture.path().display()));
    assert_eq!(log.count(&RecordQuery::default()).await.unwrap(), 1);
    assert_eq!(log.streams().await.unwrap()[0].stored, 1);
    // The texts of the failed call are gone from the file: the cache must not name them.
    let outcome = log.append(&[after_good]).await.unwrap();
    assert_eq!(outcome, [Appended::Stored { first_id: 2 }]);
    let query = RecordQuery { limit: 1, ..RecordQuery::default() };
    let found = log.search(&query).await.unwrap();
    assert_eq!(found[0].path, "/only/here");
    assert_eq!(found[0].user_agent, "seen once");
}

#[tokio::test]
async fn searches_cross_the_segments_of_the_index() {
    let fixture = Files::fresh().await;
    drop(fixture.open().await);
    let boundary = 1 << plan::SEGMENT_BITS;
    Connection::open(fixture.path())
        .unwrap()
        .execute("UPDATE meta SET next_record = ?1", [boundary - 5])
        .unwrap();
    let log = fixture.open().await;
    let other = Record { ip: Some("198.51.100.9".parse().unwrap()), ..record() };
    log.append(&[incoming(header(1, 1), [record(), other].repeat(5))]).await.unwrap();
    let query = |net: &str| RecordQuery {
        net: Some(net.parse().unwrap()),
        limit: 4,
        ..RecordQuery::default()
    };
    for net in ["203.0.113.7/32", "203.0.0.0/16"] {
        let found = log.search(&query(net)).await.unwrap();
        let ids: Vec<i64> = found.iter().map(|record| record.id - boundary).collect();
        assert_eq!(ids, [3, 1, -1, -3]);
        assert_eq!(log.count(&query(net)).await.unwrap(), 5);
        let mut ids = Vec::new();
        let mut visit = |record: StoredRecord| {
            ids.push(record.id - boundary);
            ControlFlow::Continue(())
        };
        log.scan(&query(net), &mut visit).await.unwrap();
        assert_eq!(ids, [-5, -3, -1, 1, 3]);
    }
}

#[tokio::test]
async fn addresses_are_found_by_searching_the_index() {
    let fixture = Files::fresh().await;
    let log = fixture.open().await;
    log.append(&[incoming(header(1, 1), vec![record()])]).await.unwrap();
    let plan = async |net: &str| {
        let query = RecordQuery { net: Some(net.parse().unwrap()), ..RecordQuery::default() };
        log.readers
            .read(move |tx| {
                let plan = plan::Plan::new(tx, &query)?.expect("a record may match");
                let step = plan.steps().next().expect("there is a segment");
                let sql =
                    format!("EXPLAIN QUERY PLAN SELECT r.time {} ORDER BY r.id DESC", step.sql);
                let mut statement = tx.prepare(&sql)?;
                let lines = statement
                    .query_map(rusqlite::params_from_iter(&step.values), |row| row.get(3))?
                    .collect::<rusqlite::Result<Vec<String>>>()?;
                Ok(lines.join("; "))
            })
            .await
            .unwrap()
    };
    assert_eq!(
        plan("203.0.113.7/32").await,
        "SEARCH r USING INDEX records_ip (<expr>=? AND ip=? AND rowid>? AND rowid<?)"
    );
    assert_eq!(
        plan("2001:db8::/32").await,
        "SEARCH r USING INDEX records_ip (<expr>=? AND ip>? AND ip<?); \
         USE TEMP B-TREE FOR ORDER BY"
    );
}

#[tokio::test]
async fn many_texts_with_a_prefix_are_looked_at_record_by_record() {
    let fixture = Files::fresh().await;
    let log = fixture.open().await;
    let paths: Vec<String> = (0..10_500).map(|n| format!("/many/{n}")).collect();
    for (number, paths) in (1..).zip(paths.chunks(1_000)) {
        let records =
            paths.iter().map(|path| Record { path: path.as_bytes(), ..record() }).collect();
        log.append(&[incoming(header(1, number), records)]).await.unwrap();
    }
    let other = Record { path: b"/other", ..record() };
    log.append(&[incoming(header(1, 99), vec![other])]).await.unwrap();
    let of = |prefix: &str| RecordQuery {
        path_prefix: Some(prefix.to_owned()),
        ..RecordQuery::default()
    };
    assert_eq!(log.count(&of("/many/")).await.unwrap(), 10_500);
    assert_eq!(log.count(&of("/many/10")).await.unwrap(), 1 + 10 + 100 + 500);
    assert_eq!(log.count(&of("/none")).await.unwrap(), 0);
}
