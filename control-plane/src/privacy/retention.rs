//! The hourly run: addresses are hidden after `raw_for`, records are deleted after their
//! retention, the log stays below its cap, old keys are destroyed, and nothing of it is left in
//! free pages or write-ahead logs.
//!
//! A run is made of small steps, each a transaction: batches wait for one step at most, and a
//! run that was killed goes on at the next start, which a marker file asks for. One run at a
//! time.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use utoipa::ToSchema;

use super::Hiding;
use super::keys::{Keys, KeysError};
use crate::clock::Clock;
use crate::config::{AfterRaw, Privacy};
use crate::hub::Hub;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::store::aging::{AgingLog, AgingState, Class, Cutoffs, Due};
use crate::store::{NewAudit, StateStore, StoreError};

/// Records looked at in one transaction.
pub const STEP_RECORDS: usize = 4_000;
/// From one run to the next.
const EVERY: Duration = Duration::from_secs(3_600);
/// From the start of the service to its first run, where none was interrupted.
const FIRST: Duration = Duration::from_secs(60);
/// How often it is looked whether a run is due, and whether the log is beyond its cap.
const LOOK: Duration = Duration::from_secs(10);
/// Tries to empty a write-ahead log while readers are in the way.
const SETTLE_TRIES: u32 = 60;
/// Pause between them.
const SETTLE_PAUSE: Duration = Duration::from_millis(500);
/// The hourly run writes a log of at most so many bytes anew, which takes a second; of a larger
/// one copies may stay in unused parts of pages until they are used again, or until an erasure,
/// which writes it anew whatever it takes.
const REWRITE_BYTES: u64 = 128 << 20;
/// A log beyond its cap is cut to this many hundredths of it.
const CAP_PERCENT: u64 = 95;
/// The file that says that a run is under way.
const MARKER: &str = "retention.running";

/// Why a run did not end.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// A store could not.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys could not.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// There is no key to make pseudonyms with.
    #[error("there is no key to make pseudonyms with")]
    NoKey,
    /// The marker could not be written.
    #[error("can't write {path}: {error}")]
    Marker {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The service stops; the next start goes on.
    #[error("the service stops: the run goes on at the next start")]
    Stopping,
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it ended.
    #[schema(value_type = String, format = DateTime)]
    pub finished_at: Timestamp,
    /// Records whose address was hidden.
    pub hidden: u64,
    /// Hourly counts of single addresses that were hidden.
    pub hidden_rollups: u64,
    /// Records of admitted requests that were deleted for their age.
    pub admitted: u64,
    /// Records of refused requests.
    pub refused: u64,
    /// Records of sensitive paths.
    pub sensitive: u64,
    /// Records deleted with the longest retention, whatever their class.
    pub all: u64,
    /// Hourly counts of single addresses that were deleted.
    pub rollups: u64,
    /// Texts that nothing used any more.
    pub texts: u64,
    /// Lines of the audit log.
    pub audit: u64,
    /// Records that had to go for `max_store`, before their time.
    pub capped: u64,
    /// Keys that were destroyed.
    pub keys: u64,
    /// Bytes given back to the system.
    pub reclaimed_bytes: u64,
    /// Size of the log's files afterwards.
    pub log_bytes: u64,
    /// Whether write-ahead logs could be emptied; if not, the next run does it.
    pub settled: bool,
    /// Why it did not end; absent when it did.
    pub error: Option<String>,
}

/// A run under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Running {
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// What it does now, in a word or two.
    pub phase: String,
    /// Rows done.
    pub done: u64,
    /// Rows that there were to do; absent when nobody counted them.
    pub total: Option<u64>,
}

/// The settings in force, and what became of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RetentionStatus {
    /// Seconds that addresses are kept as they came.
    pub raw_for_s: u64,
    /// What they become then: `pseudonym` or `truncate`.
    pub address: String,
    /// Seconds that records of admitted requests are kept.
    pub admitted_s: u64,
    /// Seconds that records of refused requests are kept.
    pub refused_s: u64,
    /// Seconds that records of sensitive paths are kept.
    pub sensitive_s: u64,
    /// Seconds that judged suspects are kept.
    pub suspects_s: u64,
    /// Seconds that lines of the audit log are kept.
    pub audit_s: u64,
    /// Most bytes of the log.
    pub max_store: Option<u64>,
    /// The run under way.
    pub running: Option<Running>,
    /// The last run since the service started.
    pub last: Option<Run>,
}

/// Runs retention. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Retention(Arc<Inner>);

struct Inner {
    log: Arc<dyn AgingLog>,
    aging: Arc<dyn AgingState>,
    state: Arc<dyn StateStore>,
    /// Of several control planes one sweeps what they share.
    leadership: Leadership,
    log_is_shared: bool,
    keys: Keys,
    clock: Clock,
    metrics: Arc<Metrics>,
    hub: Hub,
    settings: Privacy,
    marker: PathBuf,
    /// One run at a time; an erasure takes its turn, too.
    turn: tokio::sync::Mutex<()>,
    wake: Notify,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    asked: bool,
    running: Option<Running>,
    last: Option<Run>,
    next: Option<Timestamp>,
}

/// The parts that [`Retention`] is made of.
pub struct Parts {
    /// The log.
    pub log: Arc<dyn AgingLog>,
    /// Whether other control planes have the same log.
    pub log_is_shared: bool,
    /// The state, as far as it grows old.
    pub aging: Arc<dyn AgingState>,
    /// The state.
    pub state: Arc<dyn StateStore>,
    /// Keys of pseudonyms.
    pub keys: Keys,
    /// The time.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Says when the service stops.
    pub hub: Hub,
    /// What is configured.
    pub settings: Privacy,
    /// Where the marker goes.
    pub data_dir: PathBuf,
}

impl Retention {
    /// Puts its parts together; nothing runs yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let leadership = parts.state.leadership();
        let Parts {
            log,
            log_is_shared,
            aging,
            state,
            keys,
            clock,
            metrics,
            hub,
            settings,
            data_dir,
        } = parts;
        Self(Arc::new(Inner {
            log,
            aging,
            state,
            leadership,
            log_is_shared,
            keys,
            clock,
            metrics,
            hub,
            settings,
            marker: data_dir.join(MARKER),
            turn: tokio::sync::Mutex::default(),
            wake: Notify::new(),
            progress: Mutex::default(),
        }))
    }

    /// Runs once an hour, at once where a run was interrupted, and whenever it is asked for,
    /// until the service stops.
    pub async fn keep(self) {
        let inner = &self.0;
        let now = inner.clock.now();
        let first = if inner.marker.exists() { now } else { after(now, FIRST) };
        inner.progress().next = Some(first);
        loop {
            let (now, asked, due) = {
                let mut progress = inner.progress();
                let now = inner.clock.now();
                let asked = std::mem::take(&mut progress.asked);
                let due = asked || progress.next.is_none_or(|next| next <= now);
                if due {
                    progress.next = Some(after(now, EVERY));
                }
                (now, asked, due)
            };
            if due {
                if let Err(error) = self.run(now, asked).await {
                    tracing::warn!("retention did not end: {error}");
                }
            } else if inner.is_beyond_cap().await {
                let _turn = inner.turn.lock().await;
                let mut run = Run::default();
                if let Err(error) = inner.cap(&mut run).await {
                    tracing::warn!("the log could not be cut to privacy.max_store: {error}");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = inner.wake.notified() => {}
                () = inner.hub.stopping() => return,
            }
        }
    }

    /// Asks for a run now.
    pub fn ask(&self) {
        self.0.progress().asked = true;
        // Seen at once by whoever looks.
        self.0.wake.notify_one();
    }

    /// Whether a run was asked for that has not begun, or is under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let progress = self.0.progress();
        progress.asked || progress.running.is_some()
    }

    /// The settings in force, the run under way, and the last one.
    #[must_use]
    pub fn status(&self) -> RetentionStatus {
        let settings = &self.0.settings;
        let progress = self.0.progress();
        RetentionStatus {
            raw_for_s: settings.raw_for.as_secs(),
            address: settings.address.as_str().to_owned(),
            admitted_s: settings.admitted().as_secs(),
            refused_s: settings.refused().as_secs(),
            sensitive_s: settings.sensitive().as_secs(),
            suspects_s: settings.retention_suspects.as_secs(),
            audit_s: settings.retention_audit.as_secs(),
            max_store: settings.max_store,
            running: progress.running.clone(),
            last: progress.last.clone(),
        }
    }

    /// What a run would do now.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn due(&self) -> Result<Due, StoreError> {
        self.0.log.due(self.0.cutoffs(self.0.clock.now())).await
    }

    /// Runs once. With `counted`, it is counted first what there is to do, for who watches.
    ///
    /// # Errors
    /// [`RetentionError`]; what was done stays done, and the next run goes on.
    pub async fn run(&self, now: Timestamp, counted: bool) -> Result<Run, RetentionError> {
        let inner = &self.0;
        let _turn = inner.turn.lock().await;
        let total = match counted {
            true => {
                let due = inner.log.due(inner.cutoffs(now)).await?;
                let records = due.hide + due.admitted + due.refused + due.sensitive;
                Some(records + due.hide_rollups + due.rollups)
            }
            false => None,
        };
        inner.progress().running =
            Some(Running { started_at: now, phase: String::new(), done: 0, total });
        inner.metrics.retention.running.set(1);
        let mut run = Run { started_at: now, ..Run::default() };
        let outcome = inner.all(now, &mut run).await;
        run.finished_at = inner.clock.now();
        run.error = outcome.as_ref().err().map(ToString::to_string);
        inner.metrics.retention.running.set(0);
        if outcome.is_ok() {
            inner.metrics.retention.last_success.set(now.as_second());
        }
        {
            let mut progress = inner.progress();
            progress.running = None;
            progress.last = Some(run.clone());
        }
        outcome?;
        let records = run.admitted + run.refused + run.sensitive + run.all;
        if run.hidden + records + run.capped + run.keys > 0 {
            tracing::info!(
                hidden = run.hidden,
                deleted = records,
                capped = run.capped,
                keys = run.keys,
                "retention done"
            );
        }
        Ok(run)
    }

    /// Held while somebody is erased.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.turn.lock().await
    }

    /// Gives back room and leaves nothing of what was deleted beside the tables. `false` when
    /// readers were in the way all the time.
    ///
    /// # Errors
    /// Those of the stores.
    pub(super) async fn clean(&self) -> Result<bool, RetentionError> {
        let mut run = Run::default();
        self.0.clean(&mut run, u64::MAX).await?;
        Ok(run.settled)
    }
}

impl Inner {
    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cutoffs(&self, now: Timestamp) -> Cutoffs {
        let settings = &self.settings;
        Cutoffs {
            hide: before(now, settings.raw_for),
            admitted: before(now, settings.admitted()),
            refused: before(now, settings.refused()),
            sensitive: before(now, settings.sensitive()),
        }
    }

    fn hiding(&self) -> Result<Hiding, RetentionError> {
        match self.settings.address {
            AfterRaw::Pseudonym => {
                self.keys.current().map(Hiding::Pseudonym).ok_or(RetentionError::NoKey)
            }
            AfterRaw::Truncate => Ok(Hiding::Truncate {
                v4_bits: self.settings.v4_bits,
                v6_bits: self.settings.v6_bits,
            }),
        }
    }

    async fn all(&self, now: Timestamp, run: &mut Run) -> Result<(), RetentionError> {
        self.mark()?;
        if !self.log_is_shared || self.leadership.leads() {
            self.log_grows_old(now, run).await?;
        }
        if self.leadership.leads() {
            self.phase("deleting old audit lines");
            run.audit = self.aging.sweep_audit(now, self.settings.retention_audit).await?;
            self.did("audit", run.audit)?;
        }
        for key in self.keys.destroy_old(now)? {
            run.keys += 1;
            tracing::warn!(
                key = key.id,
                "a key was destroyed: its pseudonyms can't be read any more"
            );
            let audit = NewAudit {
                actor: "retention".to_owned(),
                action: "key.destroy",
                subject: format!("key {}", key.id),
                detail: "older than privacy.old_keys_for".to_owned(),
            };
            self.state.audit(audit, now).await?;
        }
        // A run that changed nothing left nothing behind.
        let changed = run.hidden + run.hidden_rollups + run.rollups + run.audit + run.capped;
        let changed = changed + run.admitted + run.refused + run.sensitive + run.all;
        self.clean(run, if changed > 0 { REWRITE_BYTES } else { 0 }).await?;
        // The run is at its end; a marker that stays would only ask for one more.
        let _ = std::fs::remove_file(&self.marker);
        Ok(())
    }

    /// Hides and deletes what the log holds of old records.
    async fn log_grows_old(&self, now: Timestamp, run: &mut Run) -> Result<(), RetentionError> {
        let cutoffs = self.cutoffs(now);
        let longest = cutoffs.last();
        // What is deleted need not be hidden first.
        let classes = [
            (Class::Admitted, cutoffs.admitted),
            (Class::Refused, cutoffs.refused),
            (Class::Sensitive, cutoffs.sensitive),
        ];
        let shorter = classes.into_iter().filter(|(_, cutoff)| *cutoff > longest);
        for (class, cutoff) in std::iter::once((Class::All, longest)).chain(shorter) {
            self.phase("deleting old records");
            loop {
                let step = self.log.forget(class, cutoff, STEP_RECORDS).await?;
                let count = match class {
                    Class::Admitted => &mut run.admitted,
                    Class::Refused => &mut run.refused,
                    Class::Sensitive => &mut run.sensitive,
                    Class::All => &mut run.all,
                };
                *count += step.done;
                self.did(class.as_str(), step.done)?;
                if !step.more {
                    break;
                }
            }
        }
        let hiding = self.hiding()?;
        self.phase("hiding addresses");
        loop {
            let step = self.log.hide(cutoffs.hide, &hiding, STEP_RECORDS).await?;
            run.hidden += step.done;
            self.did("hidden", step.done)?;
            if !step.more {
                break;
            }
        }
        self.phase("deleting hourly counts of addresses");
        loop {
            let step = self.log.forget_rollups(longest, STEP_RECORDS).await?;
            run.rollups += step.done;
            self.did("rollups", step.done)?;
            if !step.more {
                break;
            }
        }
        self.phase("hiding addresses of hourly counts");
        loop {
            let step = self.log.hide_rollups(cutoffs.hide, &hiding, STEP_RECORDS).await?;
            run.hidden_rollups += step.done;
            self.did("hidden_rollups", step.done)?;
            if !step.more {
                break;
            }
        }
        self.cap(run).await?;
        self.phase("deleting unused texts");
        run.texts = self.log.forget_texts(cutoffs.first()).await?;
        self.did("texts", run.texts)
    }

    /// Room is given back, and write-ahead logs are emptied; files of at most `most` bytes are
    /// written anew.
    async fn clean(&self, run: &mut Run, most: u64) -> Result<(), RetentionError> {
        self.phase("giving room back");
        let before = self.log.room().await?.bytes;
        loop {
            let step = self.log.reclaim().await?;
            self.did("pages", 0)?;
            if !step.more {
                break;
            }
        }
        while self.aging.reclaim().await?.more {}
        if most > 0 {
            self.phase("writing files anew");
            // After an erasure by whoever made it.
            if most == u64::MAX || self.leadership.leads() {
                self.aging.rewrite().await?;
            }
            if self.log.room().await?.bytes <= most {
                self.log.rewrite().await?;
            }
        }
        self.phase("emptying write-ahead logs");
        let (mut log, mut state) = (false, false);
        for _ in 0..SETTLE_TRIES {
            log = log || self.log.settle().await?;
            state = state || self.aging.settle().await?;
            if log && state {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(SETTLE_PAUSE) => {}
                () = self.hub.stopping() => return Err(RetentionError::Stopping),
            }
        }
        run.settled = log && state;
        if !run.settled {
            tracing::warn!(
                "write-ahead logs could not be emptied, readers are in the way: what was deleted is in them until the next run"
            );
        }
        run.log_bytes = self.log.room().await?.bytes;
        run.reclaimed_bytes += before.saturating_sub(run.log_bytes);
        Ok(())
    }

    async fn is_beyond_cap(&self) -> bool {
        let Some(most) = self.settings.max_store else { return false };
        // An error shows up where the store is used.
        self.log.room().await.is_ok_and(|room| room.used > most)
    }

    /// Deletes the oldest records until the log fits under its cap: admitted ones first.
    async fn cap(&self, run: &mut Run) -> Result<(), RetentionError> {
        let Some(most) = self.settings.max_store else { return Ok(()) };
        if self.log.room().await?.used <= most {
            return Ok(());
        }
        let goal = most / 100 * CAP_PERCENT;
        self.phase("cutting the log to its cap");
        let before = run.capped;
        for class in [Class::Admitted, Class::Refused, Class::Sensitive] {
            let mut from = 0;
            loop {
                if self.log.room().await?.used <= goal {
                    break;
                }
                let (step, next) = self.log.forget_oldest(class, from, STEP_RECORDS).await?;
                from = next;
                run.capped += step.done;
                self.metrics.retention.rows("capped", step.done);
                self.did("capped", 0)?;
                if !step.more {
                    break;
                }
                // The write-ahead log counts, too: it must not grow by what is deleted.
                self.log.settle().await?;
            }
        }
        let capped = run.capped - before;
        tracing::error!(
            records = capped,
            "the log was beyond privacy.max_store ({most} bytes): its oldest records were deleted before their time, admitted ones first; raise max_store, or shorten a retention"
        );
        Ok(())
    }

    fn mark(&self) -> Result<(), RetentionError> {
        std::fs::write(&self.marker, b"")
            .map_err(|error| RetentionError::Marker { path: self.marker.clone(), error })
    }

    fn phase(&self, phase: &str) {
        if let Some(running) = &mut self.progress().running {
            phase.clone_into(&mut running.phase);
        }
    }

    /// Notes progress; ends the run when the service stops.
    fn did(&self, what: &'static str, rows: u64) -> Result<(), RetentionError> {
        self.metrics.retention.rows(what, rows);
        if let Some(running) = &mut self.progress().running {
            running.done += rows;
        }
        if self.hub.is_stopping() { Err(RetentionError::Stopping) } else { Ok(()) }
    }
}

fn before(now: Timestamp, age: Duration) -> Timestamp {
    now.checked_sub(age).unwrap_or(Timestamp::MIN)
}

fn after(now: Timestamp, time: Duration) -> Timestamp {
    now.checked_add(time).unwrap_or(Timestamp::MAX)
}
