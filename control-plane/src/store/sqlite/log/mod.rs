//! The log in SQLite: records and what workers report.
//!
//! | module | owns |
//! |---|---|
//! | [`prepared`] | a batch on its way to the writer |
//! | [`append`] | storing batches |
//! | [`aging`] | what becomes of it: hidden, deleted, room given back |
//! | [`erase`] | everything of one address |
//! | [`strings`] | interned texts |
//! | [`numbers`], [`streams`] | which batches arrived, what their senders report |
//! | [`rollups`] | what each address did in each hour |
//! | [`columns`] | what dashboards count |
//! | [`plan`], [`search`] | finding records |

mod aging;
mod append;
mod columns;
mod erase;
mod numbers;
mod plan;
mod prepared;
mod rollups;
mod search;
mod streams;
mod strings;

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use hashbrown::HashSet;
use jiff::Timestamp;
use rusqlite::Transaction;
use rusqlite_migration::M;
use tokio::sync::{Semaphore, mpsc};

use super::database::{Database, Failure, Kind, Work, beside, rewrite, settle};
use super::readers::Readers;
use super::writer::Writer;
use crate::model::StoredRecord;
use crate::privacy::{Hiding, Kept, Veil};
use crate::store::aging::{
    AgingLog, Class, CountryHour, Cutoffs, Due, Erased, Room, Step, SubjectHour,
};
use crate::store::stats::{Stats, StatsQuery};
use crate::store::view::time_of_us;
use crate::store::{
    Appended, HourRollups, IncomingBatch, LogStore, PastHour, RecordQuery, Result, StreamTotals,
};
pub(super) use aging::reclaim;
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
        M::up(include_str!("../../../../migrations/log/005_privacy.sql")),
        M::up(include_str!("../../../../migrations/log/006_pseudonyms.sql")),
        M::up(include_str!("../../../../migrations/log/007_summaries.sql")),
        M::up(include_str!("../../../../migrations/log/008_narrow_index.sql")),
    ],
    cache_kib: 64 * 1024,
    checkpoint_pages: 4_000,
    check_all: false,
};

/// Questions of dashboards answered at once.
const QUESTIONS: usize = 4;
/// Texts deleted in one transaction.
const TEXTS_PIECE: usize = 5_000;
/// Records erased in one transaction.
const ERASE_PIECE: usize = 2_000;
/// Pages given back in one transaction: 4 MiB.
const RECLAIM_PAGES: u64 = 1_000;
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
    path: PathBuf,
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
            path: path.to_owned(),
            segment_rows: columns::ROWS,
        })
    }

    /// Work on the writer's connection after all that was counted in memory is in the table.
    async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Transaction<'_>, &mut Cache, &[String]) -> Work<T> + Send + 'static,
    ) -> Result<T> {
        let sensitive = Arc::clone(&self.sensitive);
        self.writer
            .transact(move |tx, cache| {
                cache.rollups.load(tx, &sensitive)?;
                cache.rollups.flush(tx)?;
                job(tx, cache, &sensitive)
            })
            .await
            .map_err(|failure| self.readers.database().error(failure))
    }

    async fn delete_texts(&self, unused: Vec<i64>, next: i64) -> Result<u64> {
        let mut done = 0;
        for piece in unused.chunks(TEXTS_PIECE) {
            let piece = piece.to_vec();
            done += self
                .write(move |tx, cache, _| aging::forget_texts(tx, cache, &piece, next))
                .await?;
        }
        Ok(done)
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
        self.write(|_, _, _| Ok(())).await?;
        self.readers.read(move |tx| rollups::of_hour(tx, hour, least)).await
    }

    async fn past_hours(&self, hours: Vec<i64>, targets: Vec<Vec<Kept>>) -> Result<Vec<PastHour>> {
        self.readers.read(move |tx| rollups::past(tx, &hours, &targets)).await
    }

    async fn stats(&self, query: &StatsQuery) -> Result<Stats> {
        let query = query.clone();
        // Questions of dashboards never take all connections.
        let _turn = self.questions.acquire().await;
        self.readers.read_with_help(move |tx, helpers| columns::answer(tx, &query, helpers)).await
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

#[async_trait]
impl AgingLog for SqliteLog {
    async fn country_hours(&self, first: i64, last: i64) -> Result<Vec<CountryHour>> {
        self.readers.read(move |tx| rollups::countries(tx, first, last)).await
    }

    async fn hide(&self, before: Timestamp, how: &Hiding, most: usize) -> Result<Step> {
        let how = how.clone();
        self.write(move |tx, _, _| aging::hide(tx, before, &how, most)).await
    }

    async fn forget(&self, class: Class, before: Timestamp, most: usize) -> Result<Step> {
        self.write(move |tx, _, sensitive| aging::forget(tx, class, before, sensitive, most)).await
    }

    async fn forget_oldest(&self, class: Class, from: i64, most: usize) -> Result<(Step, i64)> {
        self.write(move |tx, _, sensitive| aging::forget_oldest(tx, class, from, sensitive, most))
            .await
    }

    async fn hide_rollups(&self, before: Timestamp, how: &Hiding, most: usize) -> Result<Step> {
        let how = how.clone();
        self.write(move |tx, _, _| aging::hide_rollups(tx, before, &how, most)).await
    }

    async fn forget_rollups(&self, before: Timestamp, most: usize) -> Result<Step> {
        self.write(move |tx, _, _| aging::forget_rollups(tx, before, most)).await
    }

    async fn forget_texts(&self, before: Timestamp) -> Result<u64> {
        let (unused, next) =
            self.readers.read(move |tx| aging::unused_texts(tx, Some(before), None)).await?;
        self.delete_texts(unused, next).await
    }

    async fn due(&self, cutoffs: Cutoffs) -> Result<Due> {
        let sensitive = Arc::clone(&self.sensitive);
        self.write(|_, _, _| Ok(())).await?;
        self.readers.read(move |tx| aging::due(tx, &cutoffs, &sensitive)).await
    }

    async fn room(&self) -> Result<Room> {
        let wal = std::fs::metadata(beside(&self.path, "-wal")).map_or(0, |found| found.len());
        self.readers.read(move |tx| aging::room(tx, wal)).await
    }

    async fn reclaim(&self) -> Result<Step> {
        self.write(|tx, _, _| aging::reclaim(tx, RECLAIM_PAGES)).await
    }

    async fn rewrite(&self) -> Result<()> {
        let rewritten = self.writer.maintain(rewrite).await;
        rewritten.map_err(|failure| self.readers.database().error(failure))
    }

    async fn settle(&self) -> Result<bool> {
        let settled = self.writer.maintain(settle).await;
        settled.map_err(|failure| self.readers.database().error(failure))
    }

    async fn held(&self, names: Vec<Kept>) -> Result<Vec<(Veil, u64)>> {
        self.readers.read(move |tx| erase::held(tx, &names)).await
    }

    async fn subject_hours(&self, names: Vec<Kept>, most: usize) -> Result<Vec<SubjectHour>> {
        self.write(|_, _, _| Ok(())).await?;
        self.readers.read(move |tx| rollups::of_subject(tx, &names, most)).await
    }

    async fn erase(&self, names: Vec<Kept>, with: String) -> Result<Erased> {
        let names: Arc<[Kept]> = names.into();
        let mut erased = Erased::default();
        let mut texts = HashSet::new();
        loop {
            let names = Arc::clone(&names);
            let (step, more) = self
                .write(move |tx, _, _| {
                    let mut texts = HashSet::new();
                    let step = erase::records(tx, &names, ERASE_PIECE, &mut texts)?;
                    Ok((step, texts))
                })
                .await?;
            texts.extend(more);
            erased.records += step.done;
            if !step.more {
                break;
            }
        }
        let all = Arc::clone(&names);
        erased.rollups = self.write(move |tx, _, _| erase::rollups(tx, &all)).await?;
        let (unused, next) =
            self.readers.read(move |tx| aging::unused_texts(tx, None, Some(texts))).await?;
        erased.texts = self.delete_texts(unused, next).await?;
        let Some(Kept { ip, .. }) = names.iter().copied().find(|name| name.veil.is_none()) else {
            return Ok(erased);
        };
        let (texts, records) = self.readers.read(move |tx| erase::mentioning(tx, ip)).await?;
        let longest = texts.len().max(records.len()).max(1);
        for at in (0..longest).step_by(ERASE_PIECE) {
            let piece = |all: &[i64]| {
                let end = (at + ERASE_PIECE).min(all.len());
                all.get(at.min(end)..end).unwrap_or_default().to_vec()
            };
            let (texts, records, with) = (piece(&texts), piece(&records), with.clone());
            erased.redacted += self
                .write(move |tx, cache, _| erase::redact(tx, cache, ip, &with, &texts, &records))
                .await?;
        }
        Ok(erased)
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
