//! Every change of decisions and limits goes through here, and from here to the proxies.
//!
//! Owns the order: one change at a time is committed to the store and then published, so
//! the order of revisions is the order of the stream. Memory only ever repeats what the
//! store has committed: after a crash between the two, a restart reads the truth.
//!
//! Where several control planes share the store, each follows what the others committed, step by
//! step ([`Hub::follow`]); what one missed it finds by comparing revisions, and where steps are
//! not kept it reads the whole set.
//!
//! A waiting poll costs a timer and a place in a list of wakers. The message that it is
//! woken for is encoded once and shared.

mod stream;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;
use ipwarden::config::ConfigError;
use ipwarden::decisions::wire::MAX_MESSAGE_BYTES;
use ipwarden::decisions::{Revision, Tier};
use ipwarden::limits::policy::MAX_PAYLOAD_BYTES;
use jiff::Timestamp;
use tokio::sync::watch;

use self::stream::{Answer, Gap, Limits, SMALL_DELTA_BYTES, Stream};
use crate::app::uncancelled;
use crate::clock::Clock;
use crate::limits::{self, Policy};
use crate::model::{NewDecision, tier};
use crate::regions;
use crate::store::{
    self, Added, LimitsChanged, NewAudit, OriginSet, Removal, Removed, SetChanged, StateStore,
    StoreError,
};

/// How often the revision of a shared store is compared, also when nobody tells of a change.
const COMPARE: Duration = Duration::from_secs(3);
/// Largest decision set, encoded: what a proxy reads in one answer, less the limits beside it.
const MAX_SET_BYTES: usize = MAX_MESSAGE_BYTES - 2 * MAX_PAYLOAD_BYTES;

/// How a poll ended. A snapshot or a delta is followed by the limits' message where the
/// proxy has another policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Polled {
    /// The whole set: a snapshot, followed by a delta where it is not the present one.
    Snapshot(Bytes),
    /// The steps since the revision asked for.
    Delta(Bytes),
    /// Nothing newer of the decisions; another policy of limits than the one asked for.
    Limits(Bytes),
    /// Nothing newer until the end of the wait, or the service stops.
    Unchanged,
    /// Too many polls wait already.
    Busy,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No proxy could load the set.
    #[error(
        "the decision set would grow beyond what a proxy can load: at most {} MiB encoded; remove decisions, or join neighbouring addresses to networks",
        MAX_SET_BYTES / 1024 / 1024
    )]
    Full,
    /// More changes to limits than a message takes.
    #[error(
        "all changes to limits together would take {bytes} bytes: expected at most {MAX_PAYLOAD_BYTES}; shorten this one, or remove others"
    )]
    LimitsFull {
        /// Size of the payload with the change.
        bytes: usize,
    },
    /// The proxies would refuse the limits.
    #[error("the proxies would refuse the limits: {}", joined(.0))]
    Limits(Vec<ConfigError>),
}

fn joined(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The decision stream. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

struct Inner {
    store: Arc<dyn StateStore>,
    clock: Clock,
    /// Held from before a commit until after its publication.
    turn: tokio::sync::Mutex<()>,
    stream: Mutex<Stream>,
    signal: watch::Sender<Signal>,
    waiting: AtomicUsize,
    max_waiting: usize,
}

/// What wakes polls.
#[derive(Debug, Clone, Copy, Default)]
struct Signal {
    /// Grows with each change of the stream.
    changes: u64,
    stopping: bool,
}

impl Hub {
    /// Reads the set from the store.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn load(
        store: Arc<dyn StateStore>,
        clock: Clock,
        max_waiting: usize,
    ) -> store::Result<Self> {
        let stream = read(store.as_ref(), &clock).await?;
        Ok(Self(Arc::new(Inner {
            store,
            clock,
            turn: tokio::sync::Mutex::new(()),
            stream: Mutex::new(stream),
            signal: watch::Sender::new(Signal::default()),
            waiting: AtomicUsize::new(0),
            max_waiting,
        })))
    }

    /// The present revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.0.stream().revision()
    }

    /// Polls that wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }

    /// Adds decisions and tells every proxy; [`Added::changes`] has moved on to them and is
    /// empty in the result. Not cancelled with its caller: what is
    /// committed is published.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing was changed.
    pub async fn add(
        &self,
        new: Vec<NewDecision>,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<Added, ChangeError> {
        let inner = Arc::clone(&self.0);
        uncancelled(async move {
            let _turn = inner.turn.lock().await;
            let targets =
                new.iter().map(|new| (new.target, tier(new.action, &new.origin))).collect();
            inner.refuse_what_no_proxy_could_load(targets).await?;
            match inner.store.add_decisions(new, audit, now).await {
                Ok(mut added) => {
                    // A million changes are not worth a copy that nobody reads.
                    let changes = std::mem::take(&mut added.changes);
                    inner.publish(added.revision, changes, None).await;
                    Ok(added)
                }
                Err(error) => Err(inner.resynchronise(error).await.into()),
            }
        })
        .await
    }

    /// Makes a set the decisions of its origin and tells every proxy what differs;
    /// [`SetChanged::changes`] is empty in the result. Not cancelled with its caller.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing was changed.
    pub async fn replace(
        &self,
        set: OriginSet,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<SetChanged, ChangeError> {
        let inner = Arc::clone(&self.0);
        uncancelled(async move {
            let _turn = inner.turn.lock().await;
            // What the origin has already counts twice here: the bound is not tight.
            let of_set = tier(set.action, &set.origin);
            let targets = set.listed.iter().map(|listed| (listed.target, of_set)).collect();
            inner.refuse_what_no_proxy_could_load(targets).await?;
            match inner.store.replace_origin(set, audit, now).await {
                Ok(mut changed) => {
                    let changes = std::mem::take(&mut changed.changes);
                    inner.publish(changed.revision, changes, None).await;
                    Ok(changed)
                }
                Err(error) => Err(inner.resynchronise(error).await.into()),
            }
        })
        .await
    }

    /// Removes decisions and tells every proxy; [`Removed::changes`] is empty in the result. Not cancelled with its caller.
    ///
    /// # Errors
    /// Those of the store; nothing was changed.
    pub async fn remove(
        &self,
        which: Removal,
        audit: NewAudit,
        now: Timestamp,
    ) -> store::Result<Removed> {
        let inner = Arc::clone(&self.0);
        uncancelled(async move {
            let _turn = inner.turn.lock().await;
            match inner.store.remove_decisions(which, audit, now).await {
                Ok(mut removed) => {
                    let changes = std::mem::take(&mut removed.changes);
                    inner.publish(removed.revision, changes, None).await;
                    Ok(removed)
                }
                Err(error) => Err(inner.resynchronise(error).await),
            }
        })
        .await
    }

    /// Changes limits and tells every proxy. What the proxies would refuse is not committed.
    /// Not cancelled with its caller.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing was changed.
    pub async fn change_limits(
        &self,
        change: limits::Change,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<LimitsChanged, ChangeError> {
        let inner = Arc::clone(&self.0);
        uncancelled(async move {
            let _turn = inner.turn.lock().await;
            let (_, policy) = inner.store.limits(now).await?;
            refuse_what_no_proxy_would_take(&policy.after(&change, &audit.actor, now), &change)?;
            match inner.store.change_limits(change, audit, now).await {
                Ok(changed) => {
                    let limits = Limits::new(changed.policy.number, &changed.policy.payload());
                    inner.publish(changed.revision, Vec::new(), Some(limits)).await;
                    Ok(changed)
                }
                Err(error) => Err(inner.resynchronise(error).await.into()),
            }
        })
        .await
    }

    /// What is newer than `after`, or another policy of limits than the one numbered
    /// `limits` (0: none), waiting for it at most `wait`.
    pub async fn poll(&self, after: Option<Revision>, limits: u64, wait: Duration) -> Polled {
        self.poll_in(ipwarden::limits::policy::VERSION, after, limits, wait).await
    }

    /// The same for a proxy that reads this version of limits.
    pub async fn poll_in(
        &self,
        version: u8,
        after: Option<Revision>,
        limits: u64,
        wait: Duration,
    ) -> Polled {
        let inner = &self.0;
        // Subscribed before the first look, so that nothing falls in between.
        let mut signal = inner.signal.subscribe();
        let deadline = tokio::time::Instant::now() + wait;
        let mut place = None;
        loop {
            let (answer, limits) = {
                let mut stream = inner.stream();
                let answer = stream.answer(after, inner.clock.unix_seconds());
                (answer, stream.limits_in(after, limits, version))
            };
            let now = inner.clock.unix_seconds();
            match (answer, limits) {
                (Answer::Snapshot(bytes, None), None) => return Polled::Snapshot(bytes),
                (Answer::Snapshot(bytes, delta), limits) => {
                    let delta = delta.map(|delta| delta.bytes(now)).unwrap_or_default();
                    let limits = limits.unwrap_or_default();
                    return Polled::Snapshot([bytes, delta, limits].concat().into());
                }
                (Answer::Delta(delta), None) => return Polled::Delta(delta.bytes(now)),
                (Answer::Delta(delta), Some(limits)) if version == 1 => {
                    return Polled::Delta([delta.bytes(now), limits].concat().into());
                }
                (Answer::Delta(delta), Some(_)) => {
                    return Polled::Delta(delta.bytes_with_limits(now));
                }
                (Answer::Wait, Some(limits)) => return Polled::Limits(limits),
                (Answer::Wait, None) => {}
            }
            if signal.borrow_and_update().stopping || wait.is_zero() {
                return Polled::Unchanged;
            }
            if place.is_none() {
                place = Place::take(inner);
                if place.is_none() {
                    return Polled::Busy;
                }
            }
            match tokio::time::timeout_at(deadline, signal.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Polled::Unchanged,
            }
        }
    }

    /// Compares memory with the store and follows the store where they differ (somebody
    /// else wrote to it, or it could not be read when it should have been).
    ///
    /// # Errors
    /// Those of the store.
    pub async fn verify(&self) -> store::Result<()> {
        let inner = &self.0;
        let _turn = inner.turn.lock().await;
        if inner.store.revision().await? != inner.stream().revision() {
            inner.catch_up().await?;
        } else {
            // Resets that have grown old are left out from now on.
            let (_, policy) = inner.store.limits(inner.clock.now()).await?;
            inner.stream().renew_limits(Limits::new(policy.number, &policy.payload()));
        }
        Ok(())
    }

    /// Follows what other control planes change in a shared store, until the service stops. Does
    /// nothing where nobody else can.
    pub async fn follow(self) {
        let Some(shared) = self.0.store.shared() else { return };
        let mut news = shared.follow(|news| news.decisions, COMPARE);
        let mut failing = false;
        loop {
            tokio::select! {
                () = news.next() => {}
                () = self.stopping() => return,
            }
            match self.catch_up().await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    tracing::warn!(
                        "what others changed can't be read, proxies go on with what they have: {error}"
                    );
                    failing = true;
                }
                Err(_) => {}
            }
        }
    }

    /// Publishes what others committed since.
    ///
    /// # Errors
    /// Those of the store; what was read is published.
    pub async fn catch_up(&self) -> store::Result<()> {
        // Without the turn: whoever changes something now publishes everything before it.
        if self.0.store.revision().await? == self.revision() {
            return Ok(());
        }
        let _turn = self.0.turn.lock().await;
        self.0.catch_up().await
    }

    /// Answers every waiting poll, and every later one at once.
    pub fn stop(&self) {
        self.0.signal.send_modify(|signal| signal.stopping = true);
    }

    /// Resolves when the service stops.
    pub async fn stopping(&self) {
        let mut signal = self.0.signal.subscribe();
        // An error means that the hub is gone, which is the same.
        let _ = signal.wait_for(|signal| signal.stopping).await;
    }

    /// Whether the service stops.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.signal.borrow().stopping
    }
}

impl Inner {
    fn stream(&self) -> MutexGuard<'_, Stream> {
        // Nothing in `Stream` can be half done when it panics, and a poisoned lock would
        // cut off every proxy.
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        self.signal.send_modify(|signal| signal.changes += 1);
    }

    /// Called with the turn held.
    async fn publish(
        self: &Arc<Self>,
        revision: Revision,
        changes: Vec<ipwarden::decisions::Change>,
        limits: Option<Limits>,
    ) {
        let published = self.stream().publish(revision, changes, limits);
        match published {
            Ok(()) => {
                self.wake();
                self.compact_when_due();
            }
            // Somebody else was first, as may be where the store is shared.
            Err(Gap) => {
                if let Err(error) = self.catch_up().await {
                    tracing::error!("the decision set can't be read: {error}");
                }
            }
        }
    }

    /// Publishes what the store has and memory has not. Called with the turn held.
    async fn catch_up(self: &Arc<Self>) -> store::Result<()> {
        let known = self.stream().revision();
        let present = self.store.revision().await?;
        if present == known {
            return Ok(());
        }
        let Some(steps) = self.store.steps_after(known).await? else {
            if self.store.shared().is_none() {
                tracing::warn!(
                    "the decision set changed behind the service's back: reading it again"
                );
            }
            return self.read_anew().await;
        };
        let limits = match steps.iter().any(|step| step.limits) {
            false => None,
            true => {
                // Perhaps already the policy of a later revision: told early, once.
                let (_, policy) = self.store.limits(self.clock.now()).await?;
                Some(Limits::new(policy.number, &policy.payload()))
            }
        };
        for step in steps {
            let limits = limits.clone().filter(|_| step.limits);
            if self.stream().publish(step.revision, step.changes, limits).is_err() {
                return self.read_anew().await;
            }
        }
        self.wake();
        self.compact_when_due();
        Ok(())
    }

    /// After an error the store may or may not have committed: memory follows the store.
    async fn resynchronise(self: &Arc<Self>, error: StoreError) -> StoreError {
        // Still unavailable: the next publication finds the gap, or whoever compares.
        let _ = self.catch_up().await;
        error
    }

    async fn refuse_what_no_proxy_could_load(
        &self,
        new: Vec<(IpNet, Tier)>,
    ) -> Result<(), ChangeError> {
        let bound = {
            let stream = self.stream();
            stream.size_bound()
                + new.iter().map(|(target, _)| stream::entry_bound(target)).sum::<usize>()
        };
        if bound <= MAX_SET_BYTES {
            return Ok(());
        }
        // The bound is several times the size of sorted neighbours: measure it.
        let work = self.stream().projection();
        let now = self.clock.unix_seconds();
        let measured = tokio::task::spawn_blocking(move || work.size_with(new, now)).await;
        match measured {
            Ok(Ok(size)) if size <= MAX_SET_BYTES => Ok(()),
            Ok(Ok(_)) => Err(ChangeError::Full),
            Ok(Err(error)) => Err(StoreError::Internal(error.to_string()).into()),
            Err(error) => Err(StoreError::from(error).into()),
        }
    }

    async fn reload_in_turn(&self) {
        let _turn = self.turn.lock().await;
        self.reload().await;
    }

    async fn reload(&self) {
        if let Err(error) = self.read_anew().await {
            tracing::error!("the decision set can't be read: {error}");
        }
    }

    async fn read_anew(&self) -> store::Result<()> {
        let stream = read(self.store.as_ref(), &self.clock).await?;
        *self.stream() = stream;
        self.wake();
        Ok(())
    }

    fn compact_when_due(self: &Arc<Self>) {
        let Some(work) = self.stream().compaction() else { return };
        let inner = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let done = work.run(inner.clock.unix_seconds());
            {
                let mut stream = inner.stream();
                match done {
                    Ok((revision, snapshot)) => stream.install(revision, snapshot),
                    Err(error) => {
                        tracing::error!("a snapshot of decisions can't be made: {error}");
                        stream.compaction_failed();
                        let inner = Arc::clone(&inner);
                        tokio::spawn(async move { inner.reload_in_turn().await });
                    }
                }
            }
            inner.wake();
            // More may have come in the meantime.
            inner.compact_when_due();
        });
    }
}

/// A place among the waiting polls.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(inner: &'a Inner) -> Option<Self> {
        let place = Self(&inner.waiting);
        // Counted first and given back when it was one too many: no lock is needed.
        (inner.waiting.fetch_add(1, Ordering::Relaxed) < inner.max_waiting).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Asks the filter's own code, so that no proxy ever gets limits that it refuses.
fn refuse_what_no_proxy_would_take(
    next: &Policy,
    change: &limits::Change,
) -> Result<(), ChangeError> {
    // Less is never refused: it is the way out of whatever should be wrong.
    use limits::Change::{Regions, Remove};
    if matches!(change, Remove { .. } | Regions(regions::Change::Remove { .. })) {
        return Ok(());
    }
    let payload = next.payload();
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(ChangeError::LimitsFull { bytes: payload.len() });
    }
    match ipwarden::config::check_policy(&payload) {
        Ok(_) => Ok(()),
        Err(errors) => Err(ChangeError::Limits(errors)),
    }
}

async fn read(store: &dyn StateStore, clock: &Clock) -> store::Result<Stream> {
    let (revision, entries) = store.entries(clock.now()).await?;
    // Should somebody else write in between, the limits are the newer ones; their revision is
    // found missing by the next publication or comparison.
    let (_, policy) = store.limits(clock.now()).await?;
    let payload = policy.payload();
    if let Err(errors) = ipwarden::config::check_policy(&payload) {
        tracing::error!("the proxies will refuse the stored limits: {}", joined(&errors));
    }
    let limits = Limits::new(policy.number, &payload);
    Ok(Stream::new(revision, &entries, limits, clock.unix_seconds(), SMALL_DELTA_BYTES))
}
