//! A log behind a spool: while the store can't be reached, batches go to files, which are stored
//! in order when it is there again.
//!
//! What was acknowledged is on a disk, here or there. As long as anything waits, all that comes
//! waits behind it, so that the order stays. The files have a bound; beyond it batches are
//! refused, and proxies keep them. A batch that is in the files and in the store, because an
//! answer was lost, is told by its number: the store has it once.

mod files;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;

use self::files::{Files, Put, encode};
use super::aging::{AgingLog, Class, CountryHour, Cutoffs, Due, Erased, Room, Step, SubjectHour};
use super::stats::{Stats, StatsQuery};
use super::{
    Appended, HourRollups, IncomingBatch, LogStore, PastHour, RecordQuery, Result, Spooled,
    StoreError, StreamTotals,
};
use crate::model::StoredRecord;
use crate::privacy::{Hiding, Kept, Veil};

/// Bytes stored at once when the store is there again.
const DRAIN_BYTES: u64 = 4 << 20;

/// A log behind a spool.
#[derive(Debug)]
pub struct SpoolingLog<L> {
    store: L,
    files: Arc<Mutex<Files>>,
    /// Held by who appends: batches keep their order.
    turn: tokio::sync::Mutex<()>,
    count: AtomicU64,
    bytes: AtomicU64,
    most: u64,
    refused: AtomicU64,
    /// Whether it was said that the store can't be reached.
    said: AtomicBool,
}

impl<L: LogStore> SpoolingLog<L> {
    /// Puts a spool of at most `most` bytes before a store; what is in the directory waits.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the directory can't be used.
    pub async fn open(store: L, directory: &Path, most: u64) -> Result<Self> {
        let path = directory.to_owned();
        let files = tokio::task::spawn_blocking(move || {
            Files::open(&path, most).map_err(|error| failed(&path, &error))
        });
        let files = files.await??;
        let log = Self {
            store,
            turn: tokio::sync::Mutex::default(),
            count: AtomicU64::new(files.count()),
            bytes: AtomicU64::new(files.bytes()),
            files: Arc::new(Mutex::new(files)),
            most,
            refused: AtomicU64::new(0),
            said: AtomicBool::new(false),
        };
        Ok(log)
    }

    /// The store behind it.
    pub const fn store(&self) -> &L {
        &self.store
    }

    fn waits(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Does something with the files on a thread that may block.
    async fn with_files<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Files) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let files = Arc::clone(&self.files);
        let done = tokio::task::spawn_blocking(move || {
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            let done = work(&mut files);
            (done, files.count(), files.bytes())
        });
        let (done, count, bytes) = done.await?;
        self.bytes.store(bytes, Ordering::Release);
        self.count.store(count, Ordering::Release);
        done.map_err(|error| StoreError::Unavailable(format!("the spool: {error}")))
    }

    /// Puts batches behind those that wait.
    async fn put(&self, batches: &[IncomingBatch<'_>]) -> Result<Vec<Appended>> {
        let mut outcomes = Vec::with_capacity(batches.len());
        let (mut frames, mut names) = (Vec::new(), Vec::new());
        {
            let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            for incoming in batches {
                let header = &incoming.batch.header;
                let name = (header.stream, header.number);
                // A report alone is not kept: the next one says the same and more.
                let outcome = if header.number == 0 {
                    Appended::Noted
                } else if files.holds(name) || names.contains(&name) {
                    Appended::Duplicate
                } else {
                    frames.extend(encode(incoming).map_err(StoreError::Internal)?);
                    names.push(name);
                    if incoming.batch.records.is_empty() {
                        Appended::Noted
                    } else {
                        Appended::Spooled
                    }
                };
                outcomes.push(outcome);
            }
        }
        match self.with_files(move |files| files.put(&frames, &names)).await? {
            Put::Done => Ok(outcomes),
            Put::Full => Err(StoreError::Unavailable(format!(
                "the log can't be reached and the spool is full ({} bytes, log_spool): batches are refused until it is there again",
                self.most
            ))),
        }
    }

    /// Stores the oldest that waits; `false` when nothing does, or the store can't.
    async fn drain(&self) -> Result<bool> {
        let frames = self.with_files(|files| files.front(DRAIN_BYTES)).await?;
        let batches: Vec<IncomingBatch<'_>> =
            frames.iter().filter_map(files::Frame::batch).collect();
        match self.store.append(&batches).await {
            Ok(_) => {}
            Err(StoreError::Internal(_)) => {
                // One that the store chokes on must not keep the others.
                for frame in &frames {
                    let Some(batch) = frame.batch() else { continue };
                    match self.store.append(&[batch]).await {
                        Ok(_) => {}
                        Err(StoreError::Internal(why)) => {
                            self.refused.fetch_add(1, Ordering::Relaxed);
                            let path = self
                                .files
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .set_aside(frame)
                                .map_err(|error| StoreError::Unavailable(error.to_string()))?;
                            tracing::error!(
                                "a batch that was acknowledged can't be stored and lies in {}: {why}",
                                path.display()
                            );
                        }
                        Err(_) => return Ok(false),
                    }
                }
            }
            Err(error) => {
                if !self.said.swap(true, Ordering::Relaxed) {
                    tracing::warn!("batches wait in the spool: {error}");
                }
                return Ok(false);
            }
        }
        let stored = frames.len();
        drop(batches);
        self.with_files(move |files| files.stored(&frames)).await?;
        if !self.waits() && self.said.swap(false, Ordering::Relaxed) {
            tracing::info!("the log is there again: everything that waited is stored");
        }
        Ok(stored > 0)
    }
}

fn failed(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("the spool {}: {error}", path.display()))
}

#[async_trait]
impl<L: LogStore> LogStore for SpoolingLog<L> {
    async fn append(&self, batches: &[IncomingBatch<'_>]) -> Result<Vec<Appended>> {
        let _turn = self.turn.lock().await;
        if self.waits() {
            return self.put(batches).await;
        }
        match self.store.append(batches).await {
            Err(StoreError::Unavailable(why)) => {
                if !self.said.swap(true, Ordering::Relaxed) {
                    tracing::warn!("the log can't be reached, batches go to the spool: {why}");
                }
                self.put(batches).await
            }
            outcome => outcome,
        }
    }

    async fn search(&self, query: &RecordQuery) -> Result<Vec<StoredRecord>> {
        self.store.search(query).await
    }

    async fn scan(
        &self,
        query: &RecordQuery,
        visit: &mut (dyn for<'r> FnMut(StoredRecord) -> ControlFlow<()> + Send),
    ) -> Result<()> {
        self.store.scan(query, visit).await
    }

    async fn count(&self, query: &RecordQuery) -> Result<u64> {
        self.store.count(query).await
    }

    async fn streams(&self) -> Result<Vec<StreamTotals>> {
        self.store.streams().await
    }

    async fn rollups(&self, hour: i64, least: u64) -> Result<HourRollups> {
        // An hour is looked at once: with all of its records, or later.
        self.nothing_waits()?;
        self.store.rollups(hour, least).await
    }

    async fn past_hours(&self, hours: Vec<i64>, targets: Vec<Vec<Kept>>) -> Result<Vec<PastHour>> {
        self.store.past_hours(hours, targets).await
    }

    async fn stats(&self, query: &StatsQuery) -> Result<Stats> {
        self.store.stats(query).await
    }

    async fn tidy(&self) -> Result<bool> {
        if self.waits() { self.drain().await } else { self.store.tidy().await }
    }

    async fn holds(&self, ip: IpAddr) -> Result<bool> {
        self.store.holds(ip).await
    }

    async fn bytes(&self) -> Result<Option<u64>> {
        self.store.bytes().await
    }

    fn location(&self) -> String {
        self.store.location()
    }

    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    fn parts_to_change(&self) -> u64 {
        self.store.parts_to_change()
    }

    fn spooled(&self) -> Option<Spooled> {
        Some(Spooled {
            batches: self.count.load(Ordering::Acquire),
            bytes: self.bytes.load(Ordering::Acquire),
            refused: self.refused.load(Ordering::Relaxed),
        })
    }
}

impl<L: LogStore> SpoolingLog<L> {
    fn nothing_waits(&self) -> Result<()> {
        if self.waits() {
            return Err(StoreError::Unavailable(
                "records wait in the spool: try again when they are stored".to_owned(),
            ));
        }
        Ok(())
    }
}

#[async_trait]
impl<L: LogStore + AgingLog> AgingLog for SpoolingLog<L> {
    async fn country_hours(&self, first: i64, last: i64) -> Result<Vec<CountryHour>> {
        self.store.country_hours(first, last).await
    }

    async fn hide(&self, before: Timestamp, how: &Hiding, most: usize) -> Result<Step> {
        self.store.hide(before, how, most).await
    }

    async fn forget(&self, class: Class, before: Timestamp, most: usize) -> Result<Step> {
        self.store.forget(class, before, most).await
    }

    async fn forget_oldest(&self, class: Class, from: i64, most: usize) -> Result<(Step, i64)> {
        self.store.forget_oldest(class, from, most).await
    }

    async fn hide_rollups(&self, before: Timestamp, how: &Hiding, most: usize) -> Result<Step> {
        self.store.hide_rollups(before, how, most).await
    }

    async fn forget_rollups(&self, before: Timestamp, most: usize) -> Result<Step> {
        self.store.forget_rollups(before, most).await
    }

    async fn forget_texts(&self, before: Timestamp) -> Result<u64> {
        self.store.forget_texts(before).await
    }

    async fn due(&self, cutoffs: Cutoffs) -> Result<Due> {
        self.store.due(cutoffs).await
    }

    async fn room(&self) -> Result<Room> {
        self.store.room().await
    }

    async fn reclaim(&self) -> Result<Step> {
        self.store.reclaim().await
    }

    async fn rewrite(&self) -> Result<()> {
        self.store.rewrite().await
    }

    async fn settle(&self) -> Result<bool> {
        self.store.settle().await
    }

    async fn held(&self, names: Vec<Kept>) -> Result<Vec<(Veil, u64)>> {
        self.store.held(names).await
    }

    async fn subject_hours(&self, names: Vec<Kept>, most: usize) -> Result<Vec<SubjectHour>> {
        self.store.subject_hours(names, most).await
    }

    async fn erase(&self, names: Vec<Kept>, with: String) -> Result<Erased> {
        // What waits may be about it, too.
        self.nothing_waits()?;
        self.store.erase(names, with).await
    }
}
