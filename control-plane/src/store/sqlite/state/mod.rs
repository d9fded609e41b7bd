//! State in SQLite: decisions, limits, suspects, tokens, audit.
//!
//! Times are kept to the microsecond.

mod decisions;
mod feeds;
mod limits;
mod outbox;
mod regions;
mod subjects;
mod suspects;
mod tokens;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;
use ipwarden::decisions::Entry;
use jiff::Timestamp;
use rusqlite::Transaction;
use rusqlite_migration::M;

use super::database::{Database, Failure, Kind, Work, rewrite, settle};
use super::log::reclaim;
use super::readers::Readers;
use super::writer::Writer;
use crate::limits::{Change, Policy};
use crate::model::{AuditEntry, Decision, NewDecision, Revision, Token};
use crate::notify::{Backlog, Pending, Subscription};
use crate::privacy::Kept;
use crate::store::aging::{AgingState, ErasedState, Step, SubjectState, in_pieces};
use crate::store::view::time_of_us;
use crate::store::{
    Added, AutomaticBlock, BlockHistory, DecisionFilter, LimitsChanged, NewAudit, NewToken,
    OriginSet, PassDone, Removal, Removed, Result, SetChanged, StateStore, StoreError, StoredFeed,
};
use crate::suspects::{Closing, Noted, Sighting, Suspect, SuspectFilter};

/// Pages given back in one transaction: 4 MiB.
const RECLAIM_PAGES: u64 = 1_000;
/// A change of more decisions than this gives the writer's cache back afterwards.
const LARGE_CHANGE: usize = 10_000;

const KIND: Kind = Kind {
    what: "state",
    application_id: 0x6970_7773,
    migrations: &[
        M::up(include_str!("../../../../migrations/state/001_decisions.sql")),
        M::up(include_str!("../../../../migrations/state/002_tokens_audit.sql")),
        M::up(include_str!("../../../../migrations/state/003_limits.sql")),
        M::up(include_str!("../../../../migrations/state/004_suspects.sql")),
        M::up(include_str!("../../../../migrations/state/005_notify.sql")),
        M::up(include_str!("../../../../migrations/state/006_regions.sql")),
        M::up(include_str!("../../../../migrations/state/007_privacy.sql")),
        M::up(include_str!("../../../../migrations/state/008_feeds.sql")),
    ],
    // A list of a million is one transaction; were its pages to leave the cache before the
    // commit, it would take twice as long. Given back afterwards.
    cache_kib: 256 * 1024,
    checkpoint_pages: 1_000,
    check_all: true,
};

/// State in one SQLite file.
#[derive(Debug)]
pub struct SqliteState {
    // Before the writer, so that its connections are closed first and the writer's closing
    // can tidy the file.
    readers: Arc<Readers>,
    writer: Writer<()>,
}

impl SqliteState {
    /// Opens a file, or creates it with a fresh epoch. Blocks for as long as the check of a
    /// large file takes (a second for millions of decisions).
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the file is in use, not ours, damaged or of a later
    /// version; [`StoreError::Unavailable`] when it can't be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let (database, connection, lock) = Database::open(path, &KIND)?;
        // Revision numbers of two lives must never be taken for each other's, so no clock
        // and no counter will do.
        let epoch = getrandom::u64()
            .map_err(|error| StoreError::Unavailable(format!("no random numbers: {error}")))?;
        connection
            .execute(
                "INSERT INTO meta (id, epoch, revision, next_decision) VALUES (1, ?1, 0, 1) \
                 ON CONFLICT DO NOTHING",
                [epoch.cast_signed()],
            )
            .map_err(|error| database.error(error.into()))?;
        let writer = Writer::start("ipwarden-state", connection, lock)?;
        Ok(Self { readers: Readers::new(database), writer })
    }

    async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Transaction<'_>) -> Work<T> + Send + 'static,
    ) -> Result<T> {
        self.writer
            .transact(move |tx, ()| job(tx))
            .await
            .map_err(|failure| self.readers.database().error(failure))
    }

    async fn tidy(&self, changes: usize) {
        if changes > LARGE_CHANGE {
            // The change itself is done; memory not given back now is given back later.
            let _ = self.write(|tx| Ok(tx.execute_batch("PRAGMA shrink_memory")?)).await;
        }
    }
}

#[async_trait]
impl StateStore for SqliteState {
    async fn revision(&self) -> Result<Revision> {
        self.readers.read(decisions::revision).await
    }

    async fn add_decisions(
        &self,
        new: Vec<NewDecision>,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<Added> {
        let added = self
            .write(move |tx| {
                let added = decisions::add(tx, &new, now)?;
                if !new.is_empty() {
                    tokens::note(tx, &audit, now)?;
                }
                Ok(added)
            })
            .await?;
        self.tidy(added.changes.len()).await;
        Ok(added)
    }

    async fn remove_decisions(
        &self,
        which: Removal,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<Removed> {
        let removed = self
            .write(move |tx| {
                let removed = decisions::remove(tx, &which, now)?;
                if !removed.decisions.is_empty() {
                    tokens::note(tx, &audit, now)?;
                }
                Ok(removed)
            })
            .await?;
        self.tidy(removed.changes.len()).await;
        Ok(removed)
    }

    async fn replace_origin(
        &self,
        set: OriginSet,
        mut audit: NewAudit,
        now: Timestamp,
    ) -> Result<SetChanged> {
        let changed = self
            .write(move |tx| {
                let changed = decisions::replace(tx, &set, now)?;
                if !changed.changes.is_empty() {
                    audit.detail = changed.in_words();
                    tokens::note(tx, &audit, now)?;
                }
                Ok(changed)
            })
            .await?;
        self.tidy(changed.changes.len()).await;
        Ok(changed)
    }

    async fn ended_since(
        &self,
        since: Timestamp,
        most: usize,
        now: Timestamp,
    ) -> Result<Vec<IpNet>> {
        self.readers.read(move |tx| decisions::ended_since(tx, since, most, now)).await
    }

    async fn feeds(&self) -> Result<Vec<StoredFeed>> {
        self.readers.read(feeds::all).await
    }

    async fn put_feed(
        &self,
        name: &str,
        definition: String,
        replace: bool,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<bool> {
        let name = name.to_owned();
        self.write(move |tx| {
            let put = feeds::put(tx, &name, &definition, replace, now)?;
            if put {
                tokens::note(tx, &audit, now)?;
            }
            Ok(put)
        })
        .await
    }

    async fn note_feed(&self, name: &str, created_at: Timestamp, status: String) -> Result<()> {
        let name = name.to_owned();
        self.write(move |tx| feeds::note(tx, &name, created_at, &status)).await
    }

    async fn remove_feed(&self, name: &str, audit: NewAudit, now: Timestamp) -> Result<bool> {
        let name = name.to_owned();
        self.write(move |tx| {
            let removed = feeds::remove(tx, &name)?;
            if removed {
                tokens::note(tx, &audit, now)?;
            }
            Ok(removed)
        })
        .await
    }

    async fn decisions(
        &self,
        filter: DecisionFilter,
        now: Timestamp,
    ) -> Result<(Vec<Decision>, u64)> {
        self.readers.read(move |tx| decisions::list(tx, &filter, now)).await
    }

    async fn covering(&self, net: IpNet, now: Timestamp) -> Result<Vec<Decision>> {
        self.readers.read(move |tx| decisions::covering(tx, &net, now)).await
    }

    async fn entries(&self, now: Timestamp) -> Result<(Revision, Vec<Entry>)> {
        self.readers.read(move |tx| decisions::entries(tx, now)).await
    }

    async fn sweep_decisions(&self, now: Timestamp, keep: std::time::Duration) -> Result<u64> {
        // Nothing can have ended before the calendar begins.
        let Ok(before) = now.checked_sub(keep) else { return Ok(0) };
        let piece = || self.write(move |tx| decisions::sweep(tx, before));
        let swept = in_pieces(decisions::SWEEP_ROWS, piece).await?;
        if swept > 0 {
            self.write(decisions::sweep_texts).await?;
            self.tidy(usize::try_from(swept).unwrap_or(usize::MAX)).await;
        }
        Ok(swept)
    }

    async fn limits(&self, now: Timestamp) -> Result<(Revision, Policy)> {
        self.readers.read(move |tx| limits::policy(tx, now)).await
    }

    async fn change_limits(
        &self,
        change: Change,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<LimitsChanged> {
        self.write(move |tx| {
            let made = limits::change(tx, &change, &audit.actor, now)?;
            if made.is_new {
                tokens::note(tx, &audit, now)?;
            }
            let (revision, policy) = limits::policy(tx, now)?;
            Ok(LimitsChanged { revision, before: made.before, regions: made.regions, policy })
        })
        .await
    }

    async fn note_flags(&self, sightings: Vec<Sighting>, now: Timestamp) -> Result<Vec<Noted>> {
        self.write(move |tx| suspects::note(tx, &sightings, now)).await
    }

    async fn suspects(&self, filter: SuspectFilter) -> Result<(Vec<Suspect>, u64)> {
        self.readers.read(move |tx| suspects::list(tx, &filter)).await
    }

    async fn suspect(&self, id: i64) -> Result<Option<Suspect>> {
        self.readers.read(move |tx| suspects::get(tx, id)).await
    }

    async fn close_suspect(
        &self,
        id: i64,
        closing: Closing,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<Option<Suspect>> {
        self.write(move |tx| {
            let closed = suspects::close(tx, id, &closing, &audit.actor, now)?;
            if closed.is_some() {
                tokens::note(tx, &audit, now)?;
            }
            Ok(closed)
        })
        .await
    }

    async fn unjudged(&self, limit: usize) -> Result<Vec<Suspect>> {
        self.readers.read(move |tx| suspects::unjudged(tx, limit)).await
    }

    async fn judged(&self, id: i64, flags: u64, block: Option<AutomaticBlock>) -> Result<()> {
        self.write(move |tx| suspects::judged(tx, id, flags, block.as_ref())).await
    }

    async fn automatic_blocks(
        &self,
        target: IpNet,
        target_since: Timestamp,
        all_since: Timestamp,
    ) -> Result<BlockHistory> {
        self.readers.read(move |tx| suspects::blocks(tx, &target, target_since, all_since)).await
    }

    async fn sweep_suspects(
        &self,
        now: Timestamp,
        open_for: std::time::Duration,
        closed_for: std::time::Duration,
    ) -> Result<u64> {
        let before = |age| now.checked_sub(age).unwrap_or(Timestamp::MIN);
        let (open, closed) = (before(open_for), before(closed_for));
        self.write(move |tx| suspects::sweep(tx, now, open, closed)).await
    }

    async fn pass(&self, hour: i64) -> Result<Option<PassDone>> {
        self.readers.read(move |tx| suspects::pass(tx, hour)).await
    }

    async fn last_pass(&self) -> Result<Option<PassDone>> {
        self.readers.read(suspects::last_pass).await
    }

    async fn finish_pass(
        &self,
        done: PassDone,
        sightings: Vec<Sighting>,
        now: Timestamp,
    ) -> Result<Option<Vec<Noted>>> {
        self.write(move |tx| {
            if !suspects::finish_pass(tx, &done)? {
                return Ok(None);
            }
            suspects::note(tx, &sightings, now).map(Some)
        })
        .await
    }

    async fn subscribe(&self, hooks: Vec<Subscription>) -> Result<()> {
        self.write(move |tx| outbox::subscribe(tx, &hooks)).await
    }

    async fn pending(&self, hook: &str, limit: usize) -> Result<Vec<Pending>> {
        let hook = hook.to_owned();
        self.readers.read(move |tx| outbox::pending(tx, &hook, limit)).await
    }

    async fn told(&self, hook: &str, last: i64) -> Result<()> {
        let hook = hook.to_owned();
        self.write(move |tx| outbox::told(tx, &hook, last)).await
    }

    async fn expire_pending(&self, hook: &str, before: Timestamp) -> Result<u64> {
        let hook = hook.to_owned();
        self.write(move |tx| outbox::expire(tx, &hook, before)).await
    }

    async fn backlog(&self) -> Result<Vec<Backlog>> {
        self.readers.read(outbox::backlog).await
    }

    async fn create_token(
        &self,
        token: NewToken,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<Option<Token>> {
        self.write(move |tx| {
            let created = tokens::create(tx, &token, now)?;
            if created.is_some() {
                tokens::note(tx, &audit, now)?;
            }
            Ok(created)
        })
        .await
    }

    async fn tokens(&self) -> Result<Vec<(Token, [u8; 32])>> {
        self.readers.read(tokens::live).await
    }

    async fn revoke_token(&self, name: &str, audit: NewAudit, now: Timestamp) -> Result<bool> {
        let name = name.to_owned();
        self.write(move |tx| {
            let revoked = tokens::revoke(tx, &name, now)?;
            if revoked {
                tokens::note(tx, &audit, now)?;
            }
            Ok(revoked)
        })
        .await
    }

    async fn touch_tokens(&self, used: Vec<(i64, Timestamp)>) -> Result<()> {
        self.write(move |tx| tokens::touch(tx, &used)).await
    }

    async fn audit(&self, entry: NewAudit, now: Timestamp) -> Result<()> {
        self.write(move |tx| tokens::note(tx, &entry, now)).await
    }

    async fn audit_log(&self, before: Option<i64>, limit: usize) -> Result<Vec<AuditEntry>> {
        self.readers.read(move |tx| tokens::notes(tx, before, limit)).await
    }
}

#[async_trait]
impl AgingState for SqliteState {
    async fn sweep_audit(&self, now: Timestamp, keep: std::time::Duration) -> Result<u64> {
        let Ok(before) = now.checked_sub(keep) else { return Ok(0) };
        let piece = || self.write(move |tx| subjects::sweep_audit(tx, before));
        in_pieces(subjects::SWEEP_LINES, piece).await
    }

    async fn subject(
        &self,
        names: Vec<Kept>,
        audit_before: Option<i64>,
        most: usize,
    ) -> Result<SubjectState> {
        self.readers.read(move |tx| subjects::held(tx, &names, audit_before, most)).await
    }

    async fn erase(
        &self,
        names: Vec<Kept>,
        with: String,
        keep_suspects: bool,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<ErasedState> {
        self.write(move |tx| {
            let erased = subjects::erase(tx, &names, keep_suspects, now)?;
            let redacted = subjects::redact(tx, &names, &with)?;
            tokens::note(tx, &audit, now)?;
            Ok(ErasedState { redacted, ..erased })
        })
        .await
    }

    async fn rewrite(&self) -> Result<()> {
        let rewritten = self.writer.maintain(rewrite).await;
        rewritten.map_err(|failure| self.readers.database().error(failure))
    }

    async fn settle(&self) -> Result<bool> {
        let settled = self.writer.maintain(settle).await;
        settled.map_err(|failure| self.readers.database().error(failure))
    }

    async fn reclaim(&self) -> Result<Step> {
        self.write(|tx| reclaim(tx, RECLAIM_PAGES)).await
    }
}

/// A time out of the file.
fn timestamp(us: i64) -> Work<Timestamp> {
    time_of_us(us).ok_or_else(|| Failure::damaged("a time is out of range"))
}

/// A count out of a call as SQLite wants it.
fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
