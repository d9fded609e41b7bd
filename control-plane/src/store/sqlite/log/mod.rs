//! The log in SQLite: records and what workers report.
//!
//! | module | owns |
//! |---|---|
//! | [`prepared`] | a batch on its way to the writer |
//! | [`append`] | storing batches |
//! | [`strings`] | interned texts |
//! | [`request_id`] | request ids in few bytes |
//! | [`numbers`], [`streams`] | which batches arrived, what their senders report |
//! | [`rollups`] | what each address did in each hour |
//! | [`columns`] | what dashboards count |
//! | [`plan`], [`search`] | finding records |

mod append;
mod columns;
mod numbers;
mod plan;
mod prepared;
mod request_id;
mod rollups;
mod search;
mod streams;
mod strings;

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;
use jiff::Timestamp;
use rusqlite_migration::M;
use tokio::sync::{Semaphore, mpsc};

use super::database::{Database, Failure, Kind, Work};
use super::readers::Readers;
use super::writer::Writer;
use crate::model::StoredRecord;
use crate::store::stats::{Stats, StatsQuery};
use crate::store::view::time_of_us;
use crate::store::{
    Appended, HourRollups, IncomingBatch, LogStore, PastHour, RecordQuery, Result, StreamTotals,
};
use append::Cache;
use prepared::Prepared;

const KIND: Kind = Kind {
    what: "log",
    application_id: 0x6970_776c,
    migrations: &[
        M::up(include_str!("../../../../migrations/log/001_records.sql")),
        M::up(include_str!("../../../../migrations/log/002_geo.sql")),
        M::up(include_str!("../../../../migrations/log/003_rollups.sql")),
        M::up(include_str!("../../../../migrations/log/004_columns.sql")),
    ],
    cache_kib: 64 * 1024,
    checkpoint_pages: 4_000,
    check_all: false,
};

/// Questions of dashboards answered at once.
const QUESTIONS: usize = 4;
/// Pieces of a scan that may wait for its visitor.
const SCAN_PIECES: usize = 4;

/// A log in one SQLite file.
#[derive(Debug)]
pub struct SqliteLog {
    // Before the writer, so that its connections are closed first and the writer's closing
    // can tidy the file.
    readers: Arc<Readers>,
    writer: Writer<Cache>,
    /// Paths whose visits are counted.
    sensitive: Arc<[String]>,
    /// Records in a segment of columns.
    segment_rows: usize,
    /// Held while a dashboard's question is answered.
    questions: Semaphore,
}

impl SqliteLog {
    /// Opens a file, or creates it.
    ///
    /// # Errors
    /// [`crate::store::StoreError::Unusable`] when the file is in use, not ours, damaged or
    /// of a later version; [`crate::store::StoreError::Unavailable`] when it can't be opened.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, Vec::new())
    }

    /// Opens a file, or creates it; rollups count requests of the paths in `sensitive` and
    /// below.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn open_with(path: &Path, sensitive: Vec<String>) -> Result<Self> {
        let (database, connection, lock) = Database::open(path, &KIND)?;
        let writer = Writer::start("ipwarden-log", connection, lock)?;
        Ok(Self {
            readers: Readers::new(database),
            writer,
            sensitive: sensitive.into(),
            questions: Semaphore::new(QUESTIONS),
            segment_rows: columns::ROWS,
        })
    }
}

#[async_trait]
impl LogStore for SqliteLog {
    async fn append(&self, batches: &[IncomingBatch<'_>]) -> Result<Vec<Appended>> {
        let sensitive = Arc::clone(&self.sensitive);
        let prepared: Vec<Prepared> = batches.iter().map(Prepared::new).collect();
        self.writer
            .transact(move |tx, cache| append::append(tx, cache, &prepared, &sensitive))
            .await
            .map_err(|failure| self.readers.database().error(failure))
    }

    async fn search(&self, query: &RecordQuery) -> Result<Vec<StoredRecord>> {
        let query = query.clone();
        self.readers.read(move |tx| search::newest(tx, &query)).await
    }

    async fn scan(
        &self,
        query: &RecordQuery,
        visit: &mut (dyn for<'r> FnMut(StoredRecord) -> ControlFlow<()> + Send),
    ) -> Result<()> {
        let query = query.clone();
        let (pieces, mut arriving) = mpsc::channel::<Vec<StoredRecord>>(SCAN_PIECES);
        let read = self.readers.read(move |tx| {
            search::oldest(tx, &query, &mut |piece| match pieces.blocking_send(piece) {
                Ok(()) => ControlFlow::Continue(()),
                // The visitor has seen enough.
                Err(_) => ControlFlow::Break(()),
            })
        });
        let consume = async move {
            while let Some(piece) = arriving.recv().await {
                for record in piece {
                    if visit(record).is_break() {
                        return;
                    }
                }
            }
        };
        let (outcome, ()) = tokio::join!(read, consume);
        outcome
    }

    async fn count(&self, query: &RecordQuery) -> Result<u64> {
        let query = query.clone();
        self.readers.read(move |tx| search::count(tx, &query)).await
    }

    async fn streams(&self) -> Result<Vec<StreamTotals>> {
        self.readers.read(streams::all).await
    }

    async fn rollups(&self, hour: i64, least: u64) -> Result<HourRollups> {
        // What is in memory first.
        let sensitive = Arc::clone(&self.sensitive);
        self.writer
            .transact(move |tx, cache| {
                cache.rollups.load(tx, &sensitive)?;
                cache.rollups.flush(tx)
            })
            .await
            .map_err(|failure| self.readers.database().error(failure))?;
        self.readers.read(move |tx| rollups::of_hour(tx, hour, least)).await
    }

    async fn past_hours(&self, hours: Vec<i64>, targets: Vec<IpNet>) -> Result<Vec<PastHour>> {
        self.readers.read(move |tx| rollups::past(tx, &hours, &targets)).await
    }

    async fn stats(&self, query: &StatsQuery) -> Result<Stats> {
        let query = query.clone();
        // Questions of dashboards never take all connections.
        let _turn = self.questions.acquire().await;
        self.readers.read(move |tx| columns::answer(tx, &query)).await
    }

    async fn tidy(&self) -> Result<bool> {
        // Made beside the writer, which only stores it.
        let rows = self.segment_rows;
        let built = self.readers.read(move |tx| columns::build_next(tx, rows)).await?;
        let Some(built) = built else { return Ok(false) };
        self.writer
            .transact(move |tx, _| columns::write(tx, &built))
            .await
            .map_err(|failure| self.readers.database().error(failure))?;
        Ok(true)
    }

    async fn holds(&self, ip: IpAddr) -> Result<bool> {
        self.readers.read(move |tx| search::holds(tx, ip)).await
    }
}

/// The hour that a time in microseconds belongs to, since 1970.
fn hour_of(us: i64) -> i64 {
    us.div_euclid(3_600_000_000)
}

/// A time out of the file.
fn timestamp(us: i64) -> Work<Timestamp> {
    time_of_us(us).ok_or_else(|| Failure::damaged("a time is out of range"))
}

#[cfg(test)]
mod tests;
