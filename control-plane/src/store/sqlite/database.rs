//! Opening a file: whose it is, its schema, its settings; what went wrong.
//!
//! A file that is not ours, is damaged, is in use, or was written by a later version is
//! refused before anything in it is changed.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use rusqlite_migration::{M, Migrations};

use crate::store::StoreError;

/// What a job on a connection comes to.
pub(super) type Work<T> = Result<T, Failure>;

/// Why a job on a connection failed, before the file is named.
#[derive(Debug)]
pub(super) enum Failure {
    /// SQLite says so.
    Sqlite(rusqlite::Error),
    /// We say so.
    Store(StoreError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    /// Something in the file that we never write.
    pub(super) fn damaged(what: &str) -> Self {
        Self::Store(StoreError::Internal(format!("damaged file: {what}")))
    }
}

/// What kind of file is expected.
#[derive(Debug)]
pub(super) struct Kind {
    /// Word for messages: state, log.
    pub what: &'static str,
    /// Number in the file's header that says it is ours.
    pub application_id: i32,
    /// Its schema, step by step.
    pub migrations: &'static [M<'static>],
    /// Page cache of the writing connection.
    pub cache_kib: u32,
    /// Size of the write-ahead log at which it is moved into the file.
    pub checkpoint_pages: u32,
    /// Whether the whole file is checked when it is opened. Only for small files.
    pub check_all: bool,
}

/// A file that was found fit to use.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    kind: &'static Kind,
}

/// How long a connection waits for another's lock before it gives up.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// The write-ahead log is cut to this when it has been moved into the file.
const WAL_LIMIT_BYTES: u32 = 64 * 1024 * 1024;
/// `auto_vacuum` on demand.
const INCREMENTAL: i64 = 2;
/// How long a writer waits for readers before the write-ahead log is emptied later.
const SETTLE_TIMEOUT: std::time::Duration = std::time::Duration::from_millis(200);
/// Prepared statements kept by a connection.
const STATEMENTS: usize = 64;

impl Database {
    /// Opens or creates a file and brings its schema up to date. Returns the connection to
    /// write with, and the lock that keeps other processes away as long as it lives.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] names the file and how to mend it;
    /// [`StoreError::Unavailable`] when it can't be opened now.
    pub(super) fn open(
        path: &Path,
        kind: &'static Kind,
    ) -> Result<(Self, Connection, File), StoreError> {
        let database = Self { path: path.to_owned(), kind };
        let lock = database.lock()?;
        open_private(path).map_err(|error| database.cannot_open(&error))?;
        let mut connection = database.connect(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        database.check(&connection)?;
        // Ours, so from here on it may be changed. SQLite gives the files that it makes
        // beside this one the same mode; two of them may be there already.
        for path in [path.to_owned(), beside(path, "-wal"), beside(path, "-shm")] {
            make_private(&path).map_err(|error| database.cannot_open(&error))?;
        }
        database.prepare_to_write(&connection).map_err(|error| database.error(error.into()))?;
        database.migrate(&mut connection)?;
        Ok((database, connection, lock))
    }

    /// One more connection, which can't write.
    pub(super) fn reader(&self) -> Result<Connection, StoreError> {
        self.connect(OpenFlags::SQLITE_OPEN_READ_ONLY)
    }

    /// Names the file in a failure.
    pub(super) fn error(&self, failure: Failure) -> StoreError {
        let error = match failure {
            Failure::Store(StoreError::Internal(what)) => {
                return StoreError::Internal(format!("{}: {what}", self.path.display()));
            }
            Failure::Store(error) => return error,
            Failure::Sqlite(error) => error,
        };
        let path = self.path.display();
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => self.not_ours("it is no SQLite database"),
            Some(ErrorCode::DatabaseCorrupt) => self.damaged(&error.to_string()),
            Some(
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::OutOfMemory,
            ) => StoreError::Unavailable(format!("{path}: {error}")),
            _ => StoreError::Internal(format!("{path}: {error}")),
        }
    }

    fn lock(&self) -> Result<File, StoreError> {
        let file =
            open_private(&beside(&self.path, ".lock")).map_err(|error| self.cannot_open(&error))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(StoreError::Unusable(format!(
                "{} is in use by another process: stop that one, or choose another data directory",
                self.path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(self.cannot_open(&error)),
        }
    }

    fn connect(&self, mode: OpenFlags) -> Result<Connection, StoreError> {
        let flags = mode | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let open = || {
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.set_prepared_statement_cache_capacity(STATEMENTS);
            // A crafted file must not make SQLite run anything.
            connection.pragma_update(None, "trusted_schema", false)?;
            rusqlite::vtab::array::load_module(&connection)?;
            Ok(connection)
        };
        open().map_err(|error: rusqlite::Error| self.error(error.into()))
    }

    fn prepare_to_write(&self, connection: &Connection) -> rusqlite::Result<()> {
        // What is deleted is overwritten, and pages that nothing needs can be given back.
        connection.pragma_update(None, "secure_delete", true)?;
        let vacuum: i64 = connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
        if vacuum != INCREMENTAL {
            connection.pragma_update(None, "auto_vacuum", INCREMENTAL)?;
            // Of a file that has tables this changes nothing until it is written anew.
            connection.execute_batch("VACUUM")?;
        }
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "journal_size_limit", WAL_LIMIT_BYTES)?;
        connection.pragma_update(None, "wal_autocheckpoint", self.kind.checkpoint_pages)?;
        connection.pragma_update(None, "cache_size", -i64::from(self.kind.cache_kib))
    }

    fn check(&self, connection: &Connection) -> Result<(), StoreError> {
        let number = |name: &str| {
            connection
                .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
                .map_err(|error| self.error(error.into()))
        };
        let schema = number("user_version")?;
        let application_id = number("application_id")?;
        let tables: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(|error| self.error(error.into()))?;
        // New, or what a crash during the first start left behind.
        if tables == 0 && schema == 0 && application_id == 0 {
            return Ok(());
        }
        if application_id != i64::from(self.kind.application_id) {
            return Err(self.not_ours("it is another program's SQLite database"));
        }
        let known = self.kind.migrations.len();
        if usize::try_from(schema).map_or(true, |schema| schema > known) {
            return Err(StoreError::Unusable(format!(
                "{} was written by a later version of ipwarden (schema {schema}, this version \
                 knows {known}): run that version, or choose another data directory",
                self.path.display()
            )));
        }
        if self.kind.check_all {
            let verdict: String = connection
                .pragma_query_value(None, "quick_check", |row| row.get(0))
                .map_err(|error| self.error(error.into()))?;
            if verdict != "ok" {
                return Err(self.damaged(verdict.lines().next().unwrap_or_default()));
            }
        }
        Ok(())
    }

    fn migrate(&self, connection: &mut Connection) -> Result<(), StoreError> {
        Migrations::from_slice(self.kind.migrations).to_latest(connection).map_err(|error| {
            match error {
                rusqlite_migration::Error::RusqliteError { err, .. } => self.error(err.into()),
                other => StoreError::Internal(format!("{}: {other}", self.path.display())),
            }
        })
    }

    fn not_ours(&self, why: &str) -> StoreError {
        StoreError::Unusable(format!(
            "{} is not the {} of an ipwarden, {why}: move it away, or choose another data directory",
            self.path.display(),
            self.kind.what
        ))
    }

    fn damaged(&self, how: &str) -> StoreError {
        StoreError::Unusable(format!(
            "{} is damaged ({how}): restore it from a backup, or move it away to start with an \
             empty one",
            self.path.display()
        ))
    }

    fn cannot_open(&self, error: &std::io::Error) -> StoreError {
        StoreError::Unavailable(format!("can't open {}: {error}", self.path.display()))
    }
}

/// Writes the file anew. `secure_delete` overwrites what is deleted, but a page that was split
/// keeps copies of what moved to its neighbour in the part that it does not use.
pub(super) fn rewrite(connection: &mut Connection) -> Work<()> {
    Ok(connection.execute_batch("VACUUM")?)
}

/// Moves the write-ahead log into the file and empties it, so that nothing of the past is left
/// in it. `false` when readers are in the way: try again.
pub(super) fn settle(connection: &mut Connection) -> Work<bool> {
    connection.busy_timeout(SETTLE_TIMEOUT)?;
    let busy: rusqlite::Result<i64> =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
    connection.busy_timeout(BUSY_TIMEOUT)?;
    match busy {
        Ok(busy) => Ok(busy == 0),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The path of a file that belongs to this one.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens a file, or creates it so that only its owner can read it.
fn open_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Takes away what others may do with a file, if there is one.
fn make_private(path: &Path) -> std::io::Result<()> {
    match std::fs::metadata(path) {
        Ok(found) if found.permissions().mode() & 0o077 == 0 => Ok(()),
        Ok(_) => std::fs::set_permissions(path, Permissions::from_mode(0o600)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
