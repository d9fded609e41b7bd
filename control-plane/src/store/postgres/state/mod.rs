//! State in PostgreSQL: decisions, limits, suspects, tokens, audit.
//!
//! Times are kept to the microsecond, as numbers.

mod decisions;
mod feeds;
mod limits;
mod outbox;
mod regions;
mod subjects;
mod suspects;
#[cfg(test)]
mod tests;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Object;
use ipnet::IpNet;
use ipwarden::decisions::Entry;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection::{Access, Connections, Tx};
use super::failure::{Failure, Work};
use super::location::Location;
use super::{news, schema};
use crate::leadership::Leadership;
use crate::limits::{Change, Policy};
use crate::model::{AuditEntry, Decision, NewDecision, Revision, Token};
use crate::notify::{Backlog, Pending, Subscription};
use crate::privacy::Kept;
use crate::store::aging::{AgingState, ErasedState, Step, SubjectState, in_pieces};
use crate::store::view::time_of_us;
use crate::store::{
    Added, AutomaticBlock, BlockHistory, DecisionFilter, LimitsChanged, NewAudit, NewToken, News,
    OriginSet, PassDone, Removal, Removed, Result, RevisionStep, SetChanged, Shared, StateStore,
    StoreError, StoredFeed,
};
use crate::suspects::{Closing, Noted, Sighting, Suspect, SuspectFilter};

/// How long a server that can't be reached is waited for at the start.
const START: Duration = Duration::from_secs(10);
/// Pause between two attempts then.
const START_PAUSE: Duration = Duration::from_millis(500);
/// Tables of at most so many bytes in all are written anew; of larger ones the server reuses the
/// room in its own time.
const REWRITE_BYTES: i64 = 128 << 20;

/// State in one PostgreSQL schema.
pub struct PostgresState {
    connections: Arc<Connections>,
    location: Location,
    /// Whose hours [`StateStore::pass`] means; empty where the log is shared.
    log: String,
    holder: String,
    news: watch::Receiver<News>,
    leadership: Leadership,
    /// Those that listen and ask for the lease; they end with it.
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for PostgresState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresState({})", self.location)
    }
}

impl PostgresState {
    /// Connects, and brings the schema up to date. `log` names the log whose hours the pass is
    /// about: empty where all control planes have the same.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the server refuses us or the schema is of a later version;
    /// [`StoreError::Unavailable`] when it can't be reached within ten seconds.
    pub async fn open(location: Location, log: &str) -> Result<Self> {
        let named = |error| match error {
            StoreError::Unavailable(text) => StoreError::Unavailable(format!("{location}: {text}")),
            StoreError::Unusable(text) => StoreError::Unusable(format!("{location}: {text}")),
            StoreError::Internal(text) => StoreError::Internal(format!("{location}: {text}")),
        };
        let mut connections = Connections::new(&location).map_err(named)?;
        let epoch = prepare(&mut connections).await.map_err(|failure| named(failure.into()))?;
        let random = getrandom::u64()
            .map_err(|error| StoreError::Unavailable(format!("no random numbers: {error}")))?;
        let holder = format!("{random:016x}");
        let connections = Arc::new(connections);
        let (told, news) = watch::channel(News::default());
        let (until, leadership) = Leadership::leased();
        let mut tasks = JoinSet::new();
        tasks.spawn(news::listen(location.clone(), Arc::clone(&connections), epoch, told));
        tasks.spawn(news::lead(Arc::clone(&connections), holder.clone(), until));
        let log = log.to_owned();
        Ok(Self { connections, location, log, holder, news, leadership, tasks: tasks.into() })
    }

    async fn read<T, F>(&self, job: impl Fn(Tx) -> F + Send) -> Result<T>
    where
        F: Future<Output = Work<(Tx, T)>> + Send,
    {
        self.connections.run(Access::Read, job).await
    }

    async fn write<T, F>(&self, job: impl Fn(Tx) -> F + Send) -> Result<T>
    where
        F: Future<Output = Work<(Tx, T)>> + Send,
    {
        self.connections.run(Access::Write, job).await
    }
}

/// Waits for the server, brings the schema up to date; the epoch.
async fn prepare(connections: &mut Connections) -> Work<u64> {
    let deadline = Instant::now() + START;
    let mut client = loop {
        match connections.client().await {
            Ok(client) => break client,
            Err(Failure::Undone(why)) if Instant::now() + START_PAUSE < deadline => {
                tracing::warn!("PostgreSQL can't be reached yet: {why}");
                tokio::time::sleep(START_PAUSE).await;
            }
            Err(failure) => return Err(failure),
        }
    };
    // Revision numbers of two lives must never be taken for each other's, so no clock and no
    // counter will do.
    let drawn = getrandom::u64()
        .map_err(|error| StoreError::Unavailable(format!("no random numbers: {error}")))?;
    schema::migrate(&mut client, drawn).await?;
    let epoch: i64 = client.query_one("SELECT epoch FROM meta", &[]).await?.try_get(0)?;
    if let Ok(row) = client.query_one("SHOW fsync", &[]).await
        && row.try_get::<_, &str>(0).is_ok_and(|fsync| fsync == "off")
    {
        tracing::warn!("PostgreSQL runs with fsync=off: a power cut loses what was acknowledged");
    }
    drop(client);
    connections.probe().await?;
    Ok(epoch.cast_unsigned())
}

/// The channel on which changes are told.
pub(super) fn channel(epoch: u64) -> String {
    format!("ipwarden_{}", epoch.cast_signed())
}

/// Tells all control planes of a change when it is committed.
async fn notify(tx: &Tx, what: &'static str) -> Work<()> {
    tx.one("SELECT pg_notify('ipwarden_' || epoch, $1)::text FROM meta", &[&what]).await?;
    Ok(())
}

#[async_trait]
impl StateStore for PostgresState {
    async fn revision(&self) -> Result<Revision> {
        self.read(|tx| async {
            let revision = decisions::revision(&tx).await?;
            Ok((tx, revision))
        })
        .await
    }

    async fn add_decisions(
        &self,
        new: Vec<NewDecision>,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<Added> {
        let (new, audit) = (&new, &audit);
        self.write(|tx| async move {
            let added = decisions::add(&tx, new, now).await?;
            if !new.is_empty() {
                tokens::note(&tx, audit, now).await?;
            }
            Ok((tx, added))
        })
        .await
    }

    async fn remove_decisions(
        &self,
        which: Removal,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<Removed> {
        let (which, audit) = (&which, &audit);
        self.write(|tx| async move {
            let removed = decisions::remove(&tx, which, now).await?;
            if !removed.decisions.is_empty() {
                tokens::note(&tx, audit, now).await?;
            }
            Ok((tx, removed))
        })
        .await
    }

    async fn replace_origin(
        &self,
        set: OriginSet,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<SetChanged> {
        let (set, audit) = (&set, &audit);
        self.write(|tx| async move {
            let changed = decisions::replace(&tx, set, now).await?;
            if !changed.changes.is_empty() {
                let audit = NewAudit { detail: changed.in_words(), ..audit.clone() };
                tokens::note(&tx, &audit, now).await?;
            }
            Ok((tx, changed))
        })
        .await
    }

    async fn ended_since(
        &self,
        since: Timestamp,
        most: usize,
        now: Timestamp,
    ) -> Result<Vec<IpNet>> {
        self.read(|tx| async move {
            let ended = decisions::ended_since(&tx, since, most, now).await?;
            Ok((tx, ended))
        })
        .await
    }

    async fn feeds(&self) -> Result<Vec<StoredFeed>> {
        self.read(|tx| async move {
            let feeds = feeds::all(&tx).await?;
            Ok((tx, feeds))
        })
        .await
    }

    async fn put_feed(
        &self,
        name: &str,
        definition: String,
        replace: bool,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<bool> {
        let (definition, audit) = (&definition, &audit);
        self.write(|tx| async move {
            let put = feeds::put(&tx, name, definition, replace, now).await?;
            if put {
                tokens::note(&tx, audit, now).await?;
            }
            Ok((tx, put))
        })
        .await
    }

    async fn note_feed(&self, name: &str, created_at: Timestamp, status: String) -> Result<()> {
        let status = &status;
        self.write(|tx| async move {
            feeds::note(&tx, name, created_at, status).await?;
            Ok((tx, ()))
        })
        .await
    }

    async fn remove_feed(&self, name: &str, audit: NewAudit, now: Timestamp) -> Result<bool> {
        let audit = &audit;
        self.write(|tx| async move {
            let removed = feeds::remove(&tx, name).await?;
            if removed {
                tokens::note(&tx, audit, now).await?;
            }
            Ok((tx, removed))
        })
        .await
    }

    async fn decisions(
        &self,
        filter: DecisionFilter,
        now: Timestamp,
    ) -> Result<(Vec<Decision>, u64)> {
        let filter = &filter;
        self.read(|tx| async move {
            let found = decisions::list(&tx, filter, now).await?;
            Ok((tx, found))
        })
        .await
    }

    async fn covering(&self, net: IpNet, now: Timestamp) -> Result<Vec<Decision>> {
        self.read(|tx| async move {
            let found = decisions::covering(&tx, &net, now).await?;
            Ok((tx, found))
        })
        .await
    }

    async fn entries(&self, now: Timestamp) -> Result<(Revision, Vec<Entry>)> {
        self.read(|tx| async move {
            let entries = decisions::entries(&tx, now).await?;
            Ok((tx, entries))
        })
        .await
    }

    async fn sweep_decisions(&self, now: Timestamp, keep: Duration) -> Result<u64> {
        // Nothing can have ended before the calendar begins.
        let Ok(before) = now.checked_sub(keep) else { return Ok(0) };
        let piece = || {
            self.write(|tx| async move {
                let piece = decisions::sweep(&tx, before).await?;
                Ok((tx, piece))
            })
        };
        in_pieces(decisions::SWEEP_ROWS, piece).await
    }

    async fn limits(&self, now: Timestamp) -> Result<(Revision, Policy)> {
        self.read(|tx| async move {
            let policy = limits::policy(&tx, now).await?;
            Ok((tx, policy))
        })
        .await
    }

    async fn change_limits(
        &self,
        change: Change,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<LimitsChanged> {
        let (change, audit) = (&change, &audit);
        self.write(|tx| async move {
            let made = limits::change(&tx, change, &audit.actor, now).await?;
            if made.is_new {
                tokens::note(&tx, audit, now).await?;
            }
            let (revision, policy) = limits::policy(&tx, now).await?;
            let (before, regions) = (made.before, made.regions);
            Ok((tx, LimitsChanged { revision, before, regions, policy }))
        })
        .await
    }

    async fn note_flags(&self, sightings: Vec<Sighting>, now: Timestamp) -> Result<Vec<Noted>> {
        let sightings = &sightings;
        self.write(|tx| async move {
            let noted = suspects::note(&tx, sightings, now).await?;
            Ok((tx, noted))
        })
        .await
    }

    async fn suspects(&self, filter: SuspectFilter) -> Result<(Vec<Suspect>, u64)> {
        let filter = &filter;
        self.read(|tx| async move {
            let found = suspects::list(&tx, filter).await?;
            Ok((tx, found))
        })
        .await
    }

    async fn suspect(&self, id: i64) -> Result<Option<Suspect>> {
        self.read(|tx| async move {
            let found = suspects::get(&tx, id).await?;
            Ok((tx, found))
        })
        .await
    }

    async fn close_suspect(
        &self,
        id: i64,
        closing: Closing,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<Option<Suspect>> {
        let (closing, audit) = (&closing, &audit);
        self.write(|tx| async move {
            let closed = suspects::close(&tx, id, closing, &audit.actor, now).await?;
            if closed.is_some() {
                tokens::note(&tx, audit, now).await?;
            }
            Ok((tx, closed))
        })
        .await
    }

    async fn unjudged(&self, limit: usize) -> Result<Vec<Suspect>> {
        self.read(|tx| async move {
            let found = suspects::unjudged(&tx, limit).await?;
            Ok((tx, found))
        })
        .await
    }

    async fn judged(&self, id: i64, flags: u64, block: Option<AutomaticBlock>) -> Result<()> {
        let block = block.as_ref();
        self.write(|tx| async move {
            suspects::judged(&tx, id, flags, block).await?;
            Ok((tx, ()))
        })
        .await
    }

    async fn automatic_blocks(
        &self,
        target: IpNet,
        target_since: Timestamp,
        all_since: Timestamp,
    ) -> Result<BlockHistory> {
        self.read(|tx| async move {
            let history = suspects::blocks(&tx, &target, target_since, all_since).await?;
            Ok((tx, history))
        })
        .await
    }

    async fn sweep_suspects(
        &self,
        now: Timestamp,
        open_for: Duration,
        closed_for: Duration,
    ) -> Result<u64> {
        let before = |age| now.checked_sub(age).unwrap_or(Timestamp::MIN);
        let (open, closed) = (before(open_for), before(closed_for));
        self.write(|tx| async move {
            let swept = suspects::sweep(&tx, now, open, closed).await?;
            Ok((tx, swept))
        })
        .await
    }

    async fn pass(&self, hour: i64) -> Result<Option<PassDone>> {
        self.read(|tx| async move {
            let done = suspects::pass(&tx, &self.log, hour).await?;
            Ok((tx, done))
        })
        .await
    }

    async fn last_pass(&self) -> Result<Option<PassDone>> {
        self.read(|tx| async move {
            let done = suspects::last_pass(&tx, &self.log).await?;
            Ok((tx, done))
        })
        .await
    }

    async fn finish_pass(
        &self,
        done: PassDone,
        sightings: Vec<Sighting>,
        now: Timestamp,
    ) -> Result<Option<Vec<Noted>>> {
        let (done, sightings) = (&done, &sightings);
        self.write(|tx| async move {
            // Of two at once the second waits for the first, and finds the hour done.
            if !suspects::finish_pass(&tx, &self.log, done).await? {
                return Ok((tx, None));
            }
            let noted = suspects::note(&tx, sightings, now).await?;
            Ok((tx, Some(noted)))
        })
        .await
    }

    async fn subscribe(&self, hooks: Vec<Subscription>) -> Result<()> {
        let hooks = &hooks;
        self.write(|tx| async move {
            outbox::subscribe(&tx, hooks).await?;
            Ok((tx, ()))
        })
        .await
    }

    async fn pending(&self, hook: &str, limit: usize) -> Result<Vec<Pending>> {
        self.read(|tx| async move {
            let pending = outbox::pending(&tx, hook, limit).await?;
            Ok((tx, pending))
        })
        .await
    }

    async fn told(&self, hook: &str, last: i64) -> Result<()> {
        self.write(|tx| async move {
            outbox::told(&tx, hook, last).await?;
            Ok((tx, ()))
        })
        .await
    }

    async fn expire_pending(&self, hook: &str, before: Timestamp) -> Result<u64> {
        self.write(|tx| async move {
            let dropped = outbox::expire(&tx, hook, before).await?;
            Ok((tx, dropped))
        })
        .await
    }

    async fn backlog(&self) -> Result<Vec<Backlog>> {
        self.read(|tx| async move {
            let backlog = outbox::backlog(&tx).await?;
            Ok((tx, backlog))
        })
        .await
    }

    async fn create_token(
        &self,
        token: NewToken,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<Option<Token>> {
        let (token, audit) = (&token, &audit);
        self.write(|tx| async move {
            let created = tokens::create(&tx, token, now).await?;
            if created.is_some() {
                tokens::note(&tx, audit, now).await?;
            }
            Ok((tx, created))
        })
        .await
    }

    async fn tokens(&self) -> Result<Vec<(Token, [u8; 32])>> {
        self.read(|tx| async move {
            let live = tokens::live(&tx).await?;
            Ok((tx, live))
        })
        .await
    }

    async fn revoke_token(&self, name: &str, audit: NewAudit, now: Timestamp) -> Result<bool> {
        let audit = &audit;
        self.write(|tx| async move {
            let revoked = tokens::revoke(&tx, name, now).await?;
            if revoked {
                tokens::note(&tx, audit, now).await?;
            }
            Ok((tx, revoked))
        })
        .await
    }

    async fn touch_tokens(&self, used: Vec<(i64, Timestamp)>) -> Result<()> {
        let used = &used;
        self.write(|tx| async move {
            tokens::touch(&tx, used).await?;
            Ok((tx, ()))
        })
        .await
    }

    async fn audit(&self, entry: NewAudit, now: Timestamp) -> Result<()> {
        let entry = &entry;
        self.write(|tx| async move {
            tokens::note(&tx, entry, now).await?;
            Ok((tx, ()))
        })
        .await
    }

    async fn audit_log(&self, before: Option<i64>, limit: usize) -> Result<Vec<AuditEntry>> {
        self.read(|tx| async move {
            let lines = tokens::notes(&tx, before, limit).await?;
            Ok((tx, lines))
        })
        .await
    }

    async fn steps_after(&self, after: Revision) -> Result<Option<Vec<RevisionStep>>> {
        self.read(|tx| async move {
            let steps = decisions::steps_after(&tx, after).await?;
            Ok((tx, steps))
        })
        .await
    }

    fn shared(&self) -> Option<Shared> {
        let (news, leadership) = (self.news.clone(), self.leadership.clone());
        Some(Shared { news, leadership, location: self.location.to_string() })
    }

    fn problem(&self) -> Option<(String, Duration)> {
        self.connections.health().problem()
    }

    async fn bytes(&self) -> Result<Option<u64>> {
        self.read(|tx| async move {
            let bytes = bytes(&tx).await?;
            Ok((tx, Some(bytes.unsigned_abs())))
        })
        .await
    }

    async fn close(&self) {
        // First who would ask for the lease again.
        self.tasks.lock().await.shutdown().await;
        let released = self.write(|tx| async move {
            news::release(&tx, &self.holder).await?;
            Ok((tx, ()))
        });
        if let Err(error) = released.await {
            tracing::debug!("the lease could not be given back, it runs out: {error}");
        }
    }
}

/// Bytes of all tables and indexes.
async fn bytes(tx: &Tx) -> Work<i64> {
    let sql = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class \
         WHERE relkind = 'r' AND relnamespace = to_regnamespace(quote_ident(current_schema()))";
    Ok(tx.one(sql, &[]).await?.try_get(0)?)
}

#[async_trait]
impl AgingState for PostgresState {
    async fn sweep_audit(&self, now: Timestamp, keep: Duration) -> Result<u64> {
        let Ok(before) = now.checked_sub(keep) else { return Ok(0) };
        let piece = || {
            self.write(|tx| async move {
                let piece = subjects::sweep_audit(&tx, before).await?;
                Ok((tx, piece))
            })
        };
        in_pieces(subjects::SWEEP_LINES, piece).await
    }

    async fn subject(
        &self,
        names: Vec<Kept>,
        audit_before: Option<i64>,
        most: usize,
    ) -> Result<SubjectState> {
        let names = &names;
        self.read(|tx| async move {
            let held = subjects::held(&tx, names, audit_before, most).await?;
            Ok((tx, held))
        })
        .await
    }

    async fn erase(
        &self,
        names: Vec<Kept>,
        with: String,
        keep_suspects: bool,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<ErasedState> {
        let (names, with, audit) = (&names, &with, &audit);
        self.write(|tx| async move {
            let erased = subjects::erase(&tx, names, keep_suspects, now).await?;
            let redacted = subjects::redact(&tx, names, with).await?;
            tokens::note(&tx, audit, now).await?;
            Ok((tx, ErasedState { redacted, ..erased }))
        })
        .await
    }

    /// Small tables are written anew, larger ones are vacuumed. What the server keeps in its
    /// write-ahead log, in standbys and in backups is out of reach.
    async fn rewrite(&self) -> Result<()> {
        let small = self
            .read(|tx| async move {
                let bytes = bytes(&tx).await?;
                Ok((tx, bytes <= REWRITE_BYTES))
            })
            .await?;
        let how = if small { "VACUUM (FULL)" } else { "VACUUM" };
        let vacuumed = async {
            let client = self.connections.client().await?;
            // Not back into the pool: its timeouts are changed.
            let client = Object::take(client);
            client.batch_execute("SET statement_timeout = 0").await?;
            let tables = client
                .query(
                    "SELECT quote_ident(relname) FROM pg_class WHERE relkind = 'r' \
                     AND relnamespace = to_regnamespace(quote_ident(current_schema()))",
                    &[],
                )
                .await?;
            for table in tables {
                let table: &str = table.try_get(0)?;
                client.batch_execute(&format!("{how} {table}")).await?;
            }
            Work::Ok(())
        };
        vacuumed.await.map_err(StoreError::from)
    }

    async fn settle(&self) -> Result<bool> {
        // Its write-ahead log is the server's own.
        Ok(true)
    }

    async fn reclaim(&self) -> Result<Step> {
        // Autovacuum's work.
        Ok(Step::default())
    }
}

/// A time out of a table.
fn timestamp(us: i64) -> Work<Timestamp> {
    time_of_us(us).ok_or_else(|| Failure::damaged("a time is out of range"))
}

/// A count out of a call as the server wants it.
fn bounded(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A text as the server takes it: it knows no NUL.
fn plain(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
