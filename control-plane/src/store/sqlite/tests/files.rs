//! Which files are taken, which are refused and with what words.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tempfile::TempDir;

use super::super::{SqliteLog, SqliteState, size_bytes};
use crate::store::contract::log::{header, incoming, record};
use crate::store::{LogStore, RecordQuery, StateStore};

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("state.db")
    }

    /// Opening fails with this text, in which `{}` stands for the path, and leaves the file
    /// as it is.
    #[track_caller]
    fn refused(&self, expected: &str) {
        let before = fs::read(self.path()).unwrap();
        let error = SqliteState::open(&self.path()).unwrap_err().to_string();
        assert_eq!(error, expected.replace("{}", &self.path().display().to_string()));
        assert_eq!(fs::read(self.path()).unwrap(), before);
    }

    fn edit(&self, sql: &str) {
        Connection::open(self.path()).unwrap().execute_batch(sql).unwrap();
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn files_can_be_read_by_their_owner_only() {
    let place = Place::new();
    let state = SqliteState::open(&place.path()).unwrap();
    for name in ["state.db", "state.db-wal", "state.db-shm", "state.db.lock"] {
        assert_eq!(mode(&place.0.path().join(name)), 0o600, "{name}");
    }
    drop(state);
    fs::set_permissions(place.path(), Permissions::from_mode(0o644)).unwrap();
    let _state = SqliteState::open(&place.path()).unwrap();
    assert_eq!(mode(&place.path()), 0o600);
    assert_eq!(mode(&place.0.path().join("state.db-wal")), 0o600);
}

#[test]
fn a_file_in_use_is_refused_until_it_is_closed() {
    let place = Place::new();
    let state = SqliteState::open(&place.path()).unwrap();
    let error = SqliteState::open(&place.path()).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "store can't be used: {} is in use by another process: stop that one, or choose \
             another data directory",
            place.path().display()
        )
    );
    drop(state);
    SqliteState::open(&place.path()).unwrap();
}

#[test]
fn a_file_of_another_kind_is_refused() {
    let place = Place::new();
    fs::write(place.path(), "not a database, but a text that is longer than a header").unwrap();
    place.refused(
        "store can't be used: {} is not the state of an ipwarden, it is no SQLite database: \
         move it away, or choose another data directory",
    );

    let place = Place::new();
    place.edit("CREATE TABLE songs (name TEXT)");
    let foreign = "store can't be used: {} is not the state of an ipwarden, it is another \
         program's SQLite database: move it away, or choose another data directory";
    place.refused(foreign);

    let place = Place::new();
    drop(SqliteLog::open(&place.path()).unwrap());
    place.refused(foreign);
}

#[test]
fn a_file_of_a_later_version_is_refused() {
    let place = Place::new();
    drop(SqliteState::open(&place.path()).unwrap());
    place.edit("PRAGMA user_version = 1000");
    place.refused(
        "store can't be used: {} was written by a later version of ipwarden (schema 1000, this \
         version knows 8): run that version, or choose another data directory",
    );
}

#[test]
fn a_damaged_file_is_refused() {
    let place = Place::new();
    drop(SqliteState::open(&place.path()).unwrap());
    let mut bytes = fs::read(place.path()).unwrap();
    // The second page: the table of one row that holds the revision.
    bytes[4_096..4_200].fill(0xa5);
    fs::write(place.path(), bytes).unwrap();
    let error = SqliteState::open(&place.path()).unwrap_err().to_string();
    let start = format!("store can't be used: {} is damaged (", place.path().display());
    assert!(error.starts_with(&start), "{error}");
    let end = "): restore it from a backup, or move it away to start with an empty one";
    assert!(error.ends_with(end), "{error}");
}

#[test]
fn a_missing_directory_is_named() {
    let place = Place::new();
    let path = place.0.path().join("missing/state.db");
    assert_eq!(
        SqliteState::open(&path).unwrap_err().to_string(),
        format!(
            "store is unavailable: can't open {}: No such file or directory (os error 2)",
            path.display()
        )
    );
}

#[tokio::test]
async fn what_a_crash_during_the_first_start_leaves_is_taken() {
    let place = Place::new();
    fs::write(place.path(), "").unwrap();
    drop(SqliteState::open(&place.path()).unwrap());

    let place = Place::new();
    place.edit("PRAGMA journal_mode = wal; PRAGMA user_version = 0");
    let state = SqliteState::open(&place.path()).unwrap();
    assert_eq!(state.revision().await.unwrap().number, 0);
}

#[tokio::test]
async fn the_size_counts_what_is_not_yet_in_the_file() {
    let place = Place::new();
    assert_eq!(size_bytes(&place.path()), 0);
    let log = SqliteLog::open(&place.path()).unwrap();
    let before = size_bytes(&place.path());
    log.append(&[incoming(header(1, 1), vec![record(); 1_000])]).await.unwrap();
    assert!(size_bytes(&place.path()) > before + 50 * 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_from_before_places_is_taken_and_its_records_have_none() {
    let place = Place::new();
    let log = SqliteLog::open(&place.path()).unwrap();
    log.append(&[incoming(header(1, 1), vec![record()])]).await.unwrap();
    drop(log);
    place.edit(
        "DROP TRIGGER records_updated; DROP TRIGGER records_deleted; DROP TABLE segments; \
         DROP TABLE segment_pieces; DROP TABLE summaries; DROP TABLE summary_pieces; \
         ALTER TABLE records DROP COLUMN country; ALTER TABLE records DROP COLUMN city; \
         ALTER TABLE records DROP COLUMN asn; DROP TABLE rollups; DROP TABLE site_hours; \
         DROP TABLE identity_hours; ALTER TABLE meta DROP COLUMN rolled_up; \
         ALTER TABLE records DROP COLUMN form; ALTER TABLE records DROP COLUMN key; \
         ALTER TABLE records DROP COLUMN opted_out; ALTER TABLE hours DROP COLUMN hidden; \
         ALTER TABLE hours DROP COLUMN admitted; ALTER TABLE hours DROP COLUMN refused; \
         ALTER TABLE hours DROP COLUMN sensitive; ALTER TABLE hours DROP COLUMN every; \
         DROP TABLE arrivals; DROP TABLE country_hours; \
         ALTER TABLE meta DROP COLUMN rollups_hidden; ALTER TABLE meta DROP COLUMN rollups_from; \
         PRAGMA user_version = 1;",
    );
    let log = SqliteLog::open(&place.path()).unwrap();
    log.append(&[incoming(header(1, 2), vec![record()])]).await.unwrap();
    let everything = RecordQuery { limit: 10, ..RecordQuery::default() };
    let found = log.search(&everything).await.unwrap();
    assert_eq!(found.len(), 2);
    // What was stored before there were rollups is in them, too.
    let hour = (record().time_us / 3_600_000_000).cast_signed();
    assert_eq!(log.rollups(hour, 1).await.unwrap().requests, 2);
    assert!(found.iter().all(|record| record.country.is_none() && record.city.is_none()));
}
