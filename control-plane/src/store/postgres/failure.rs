//! What went wrong, and whether trying again can mend it.

use deadpool_postgres::TimeoutType;
use tokio_postgres::error::SqlState;

use crate::store::StoreError;

/// What a job on a connection comes to.
pub(super) type Work<T> = Result<T, Failure>;

/// Why a job failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was done for certain, and the same may succeed in a moment: the connection was
    /// lost before the commit, another transaction was in the way, the server has become a
    /// standby.
    Undone(String),
    /// A statement could not be executed; trying again at once would not help.
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let text = describe(&error);
        let Some(database) = error.as_db_error() else {
            // Wrong types of values or a row of another shape are bugs; all else is the way
            // to the server.
            return match is_ours(&error) {
                true => Self::Store(StoreError::Internal(text)),
                false => Self::Undone(text),
            };
        };
        let code = database.code();
        let class = code.code().get(..2).unwrap_or_default();
        let undone = [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
        ];
        if undone.contains(code) || class == "08" {
            return Self::Undone(text);
        }
        // Out of something, a timeout, a lock: not damaged, but not to be had in a moment.
        let busy = [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED];
        if busy.contains(code) || class == "53" {
            return Self::Store(StoreError::Unavailable(text));
        }
        // Wrong password, no such database, no permission, a table that is not there.
        if class == "28" || class == "3D" || class == "3F" || class == "42" {
            return Self::Store(StoreError::Unusable(text));
        }
        Self::Store(StoreError::Internal(text))
    }
}

impl From<deadpool_postgres::PoolError> for Failure {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        match error {
            deadpool_postgres::PoolError::Backend(error) => error.into(),
            // Says nothing about the server: ours are busy.
            deadpool_postgres::PoolError::Timeout(TimeoutType::Wait) => Self::Store(
                StoreError::Unavailable("all connections to PostgreSQL are busy".to_owned()),
            ),
            deadpool_postgres::PoolError::Timeout(what) => {
                Self::Undone(format!("no connection to PostgreSQL in time ({what:?})"))
            }
            other => Self::Undone(other.to_string()),
        }
    }
}

impl Failure {
    /// Something in a table that we never write.
    pub(super) fn damaged(what: &str) -> Self {
        Self::Store(StoreError::Internal(format!("damaged table: {what}")))
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Undone(text) => Self::Unavailable(text),
            Failure::Store(error) => error,
        }
    }
}

fn is_ours(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    ["error serializing", "error deserializing", "unexpected number of rows", "invalid column"]
        .iter()
        .any(|ours| text.starts_with(ours))
}

/// An error without what it was about: details of the server's name values.
pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(database) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", database.message(), database.code().code());
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Whether a text is there already that may be there once only.
pub(super) fn is_taken(failure: &tokio_postgres::Error) -> bool {
    failure.code() == Some(&SqlState::UNIQUE_VIOLATION)
}
