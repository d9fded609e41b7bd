//! The way from flags to suspects, and from suspects to blocks.
//!
//! [`Suspects`] takes flags into a bounded queue and gives them to one task, the [`Judge`],
//! which merges them into the store, lets the policy decide at once, and blocks through the
//! hub, so that every proxy learns of it. What the policy has still to decide is marked in
//! the store: after a crash it is decided at the next start, and a block is made once.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use ipwarden::address::display_target;
use ipwarden::privacy::{AddressForm, KeyId};
use jiff::Timestamp;
use tokio::sync::{MutexGuard, Notify, mpsc, watch};

use super::words;
use super::{Closing, Noted, Sighting, Status, Suspect, SuspectFilter};
use crate::clock::Clock;
use crate::config::Detect;
use crate::detect::names::Names;
use crate::detect::policy::{self, Action as Response, leading};
use crate::detect::{Flag, FlagSink, Severity, Source, target_of};
use crate::geo::{Geo, Places, Spot};
use crate::hub::{ChangeError, Hub};
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::model::{Action, Actor, Decision, NewDecision, Origin};
use crate::privacy::Veil;
use crate::privacy::keys::Keys;
use crate::store::{self, AutomaticBlock, Follower, NewAudit, Removal, StateStore};

/// Flags that may wait; more are dropped and counted.
const QUEUE_FLAGS: usize = 16_384;
/// Messages that may wait: one holds at least one flag.
const QUEUE_MESSAGES: usize = QUEUE_FLAGS;
/// Flags noted in one transaction.
const NOTE_FLAGS: usize = 1_024;
/// Suspects judged between two looks at the queue.
const JUDGE_SUSPECTS: usize = 256;
/// Pause before the store is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often the leader looks at suspects that others noted, also when nobody tells of them.
const LOOK: Duration = Duration::from_secs(5);
/// How often it is tried for the same flags.
const TRIES: u32 = 30;
/// The brake counts blocks of so long.
const BRAKE_WINDOW: Duration = Duration::from_secs(3_600);
/// Who blocks, in the audit log.
const ACTOR: &str = "policy";

/// Suspects: where flags go, and where people judge them. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Suspects(Arc<Inner>);

struct Inner {
    queue: mpsc::Sender<Vec<Flag>>,
    queued: AtomicUsize,
    wake: Notify,
    /// True once nobody raises flags any more.
    ended: watch::Sender<bool>,
    state: Arc<dyn StateStore>,
    /// Of several control planes one judges what all of them note.
    leadership: Leadership,
    hub: Hub,
    clock: Clock,
    metrics: Arc<Metrics>,
    keys: Keys,
    settings: Detect,
    brake: Mutex<Brake>,
    /// Held while something is decided about suspects: the policy must not block whom a
    /// person dismisses at the same moment.
    turn: tokio::sync::Mutex<()>,
}

/// Why a suspect could not be judged as asked.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The decision could not be made.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Nobody knows which of its network's addresses it was.
    #[error(
        "this suspect is known by a cut address only: name the network to block whole, such as 203.0.113.0/24 (`network`, or --network on the command line)"
    )]
    Cut,
    /// Another network was named.
    #[error(
        "the cut address {cut} does not lie in {network}: name the network that it was cut from"
    )]
    Elsewhere {
        /// What was named.
        network: IpNet,
        /// What is known.
        cut: IpAddr,
    },
    /// A network was named for somebody whose address is known.
    #[error("this suspect is no cut address: leave the network away, or block it by itself")]
    NotCut,
    /// The proxy did not say which key it used.
    #[error("this suspect is a pseudonym of a key that its proxy did not name: it can't be read")]
    NoKeyNamed,
    /// The key is not here any more, or never was.
    #[error(
        "this suspect is a pseudonym of the key {key}, which is not here: it was destroyed, or belongs to a proxy that was configured with a key of its own (ipwarden keys list)"
    )]
    KeyGone {
        /// Which.
        key: KeyId,
    },
}

impl From<store::StoreError> for JudgeError {
    fn from(error: store::StoreError) -> Self {
        Self::Change(error.into())
    }
}

/// What another system said of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hearsay {
    /// Of whom.
    pub ip: IpAddr,
    /// What, in words; at most [`DETAIL_BYTES`](crate::detect::DETAIL_BYTES).
    pub detail: String,
    /// When it was noticed.
    pub seen_at: Timestamp,
}

impl Hearsay {
    fn flag(&self) -> Flag {
        Flag {
            time_us: u64::try_from(self.seen_at.as_microsecond()).unwrap_or(0),
            target: target_of(ipwarden::address::fold(self.ip)),
            veil: Veil::NONE,
            rule: policy::IMPORTED_RULE.to_owned(),
            severity: Severity::Medium,
            detail: self.detail.clone(),
            count: 1,
            evidence: Vec::new(),
            // It came of looking back, as the pass does.
            source: Source::Hourly,
            score: Severity::Medium.weight(),
            features: Vec::new(),
        }
    }
}

/// What became of it: addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heard {
    /// A suspect is new, or has a reason more.
    pub added: u64,
    /// A suspect says the same already.
    pub known: u64,
    /// A person said before that the like is a false alarm.
    pub dismissed: u64,
}

/// The task that merges and judges.
pub struct Judge {
    suspects: Suspects,
    flags: mpsc::Receiver<Vec<Flag>>,
    geo: Geo,
    names: Option<Names>,
}

/// The limit of automatic blocks, as it acts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Brake {
    /// When it began to act; absent while it does not.
    pub since: Option<Timestamp>,
    /// When it acted last.
    pub last: Option<Timestamp>,
    /// Blocks that it withheld since it began.
    pub withheld: u64,
}

/// A suspect that a person judged, and what was done about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// As it is now.
    pub suspect: Suspect,
    /// Number of the decision set afterwards.
    pub revision: u64,
    /// The decision that was made.
    pub decision: Option<Decision>,
    /// Blocks that were taken back.
    pub unblocked: Vec<Decision>,
}

/// What became of taking a judgement back.
#[derive(Debug, Clone, PartialEq)]
pub enum Reopened {
    /// The suspect as it is now, and the decisions that were removed.
    Done(Box<Judged>),
    /// There is no such suspect.
    Missing,
    /// Another suspect of the same target is open, by this number.
    Superseded(i64),
}

impl Suspects {
    /// Nothing is done with flags until the judge runs.
    #[must_use]
    pub fn new(
        state: Arc<dyn StateStore>,
        hub: Hub,
        geo: Geo,
        clock: Clock,
        metrics: Arc<Metrics>,
        keys: Keys,
        settings: Detect,
    ) -> (Self, Judge) {
        let (queue, flags) = mpsc::channel(QUEUE_MESSAGES);
        let suspects = Self(Arc::new(Inner {
            queue,
            queued: AtomicUsize::new(0),
            wake: Notify::new(),
            ended: watch::Sender::new(false),
            leadership: state.leadership(),
            state,
            hub,
            clock,
            metrics,
            keys,
            settings,
            brake: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }));
        (suspects.clone(), Judge { suspects, flags, geo, names: None })
    }

    /// The brake, if it acted in the last hour.
    #[must_use]
    pub fn brake(&self, now: Timestamp) -> Option<Brake> {
        let brake = *self.0.brake.lock().unwrap_or_else(PoisonError::into_inner);
        let acts = brake.last.is_some_and(|last| recent(last, now));
        acts.then_some(brake)
    }

    /// Has the judge look at suspects that somebody else noted.
    pub fn look(&self) {
        self.0.wake.notify_one();
    }

    /// Ends the judge once it has noted what waits. To be called when those who raise flags
    /// have ended: flags that come later are lost.
    pub fn stop(&self) {
        self.0.ended.send_replace(true);
    }

    /// A person agrees: the target is blocked, for `lifetime` or as long as the policy would
    /// block it next. Of a pseudonym the address behind it is blocked, and the audit log says
    /// who learned it; of a cut address the `network` that the person names. `None` when there
    /// is no such suspect.
    ///
    /// # Errors
    /// [`JudgeError`]; nothing was changed, or the block was made and the suspect is as
    /// before: confirming again replaces the block.
    pub async fn confirm(
        &self,
        id: i64,
        lifetime: Option<Duration>,
        network: Option<IpNet>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Option<Judged>, JudgeError> {
        let inner = &self.0;
        let _turn = self.turn().await;
        let Some(suspect) = inner.state.suspect(id).await? else { return Ok(None) };
        let target = inner.behind(&suspect, network)?;
        if suspect.form == AddressForm::Pseudonym {
            let audit = NewAudit {
                actor: actor.clone(),
                action: "pseudonym.reveal",
                subject: words::subject(&suspect),
                detail: "to confirm it".to_owned(),
            };
            inner.state.audit(audit, now).await?;
        }
        let lifetime = match lifetime {
            Some(lifetime) => lifetime,
            None => {
                let earlier = inner.earlier_blocks(&target, now).await?;
                inner.settings.policy.next_block(earlier)
            }
        };
        let decision =
            inner.block(&suspect, target, lifetime, actor.clone(), "decisions.add", now).await?;
        let closing = Closing {
            status: Status::Confirmed,
            decision: Some(decision.id),
            quiet_until: decision.expires_at.unwrap_or(Timestamp::MAX),
        };
        let audit = NewAudit {
            actor,
            action: "suspects.confirm",
            subject: words::subject(&suspect),
            detail: format!("decision {}: {}", decision.id, words::reasons(&suspect)),
        };
        let Some(suspect) = inner.state.close_suspect(id, closing, audit, now).await? else {
            return Ok(None);
        };
        let revision = inner.hub.revision().number;
        Ok(Some(Judged { suspect, revision, decision: Some(decision), unblocked: Vec::new() }))
    }

    /// A person disagrees: what detectors blocked is taken back, the same rules are not heard
    /// for a while, and the target is allowed for `allow`, where given. `None` when there is no
    /// such suspect.
    ///
    /// # Errors
    /// [`JudgeError`]; doing it again does what is missing.
    pub async fn dismiss(
        &self,
        id: i64,
        allow: Option<Duration>,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Option<Judged>, JudgeError> {
        let inner = &self.0;
        let _turn = self.turn().await;
        let Some(suspect) = inner.state.suspect(id).await? else { return Ok(None) };
        // What was blocked for it: the address behind a pseudonym, where its key is still here.
        // Of a cut address nothing was, but a network that a person named.
        let target = match inner.behind(&suspect, None) {
            Ok(target) => Some(target),
            Err(error) if allow.is_some() => return Err(error),
            Err(_) => None,
        };
        let line = |action, detail| NewAudit {
            actor: actor.clone(),
            action,
            subject: target.as_ref().map_or_else(|| words::subject(&suspect), display_target),
            detail,
        };
        let of_detectors =
            |decision: &Decision| Some(decision.target) == target && decision.origin.is_detector();
        let covering = match target {
            Some(target) => inner.state.covering(target, now).await?,
            None => Vec::new(),
        };
        let ids: Vec<_> =
            covering.iter().filter(|found| of_detectors(found)).map(|found| found.id).collect();
        let unblocked = if ids.is_empty() {
            Vec::new()
        } else {
            let audit = line("decisions.remove", format!("suspect {id} dismissed"));
            inner.hub.remove(Removal::Ids(ids), audit, now).await?.decisions
        };
        let decision = match allow {
            None => None,
            Some(lifetime) => {
                let reason = format!("suspect {id} dismissed");
                let new = NewDecision {
                    target: target.unwrap_or(suspect.target),
                    action: Action::Allow,
                    origin: Origin::Manual,
                    reason: reason.clone(),
                    expires_at: end(now, lifetime),
                };
                let audit = line("decisions.add", format!("allow: {reason}"));
                Some(inner.add(new, audit, now).await?)
            }
        };
        let closing = Closing {
            status: Status::Dismissed,
            decision: decision.as_ref().map(|decision| decision.id),
            quiet_until: end(now, inner.settings.dismissed_for).unwrap_or(Timestamp::MAX),
        };
        let audit = NewAudit {
            actor: actor.clone(),
            action: "suspects.dismiss",
            subject: words::subject(&suspect),
            detail: words::reasons(&suspect),
        };
        let Some(suspect) = inner.state.close_suspect(id, closing, audit, now).await? else {
            return Ok(None);
        };
        let revision = inner.hub.revision().number;
        Ok(Some(Judged { suspect, revision, decision, unblocked }))
    }

    /// A person takes a judgement back: the decision that was made with it is removed, and the
    /// suspect is open again. The policy does not judge its flags a second time.
    ///
    /// # Errors
    /// [`ChangeError`]; doing it again does what is missing.
    pub async fn reopen(
        &self,
        id: i64,
        actor: Actor,
        now: Timestamp,
    ) -> Result<Reopened, ChangeError> {
        let inner = &self.0;
        let _turn = self.turn().await;
        let Some(suspect) = inner.state.suspect(id).await? else { return Ok(Reopened::Missing) };
        let open = SuspectFilter {
            status: Some(Status::Open),
            target: Some(suspect.target),
            before: None,
            limit: JUDGE_SUSPECTS,
        };
        let (others, _) = inner.state.suspects(open).await?;
        let same = |other: &&Suspect| other.target == suspect.target && other.id != id;
        if let Some(other) = others.iter().find(same) {
            return Ok(Reopened::Superseded(other.id));
        }
        let removed = match suspect.decision.filter(|_| suspect.status != Status::Open) {
            None => Vec::new(),
            Some(decision) => {
                let audit = NewAudit {
                    actor: actor.clone(),
                    action: "decisions.remove",
                    subject: display_target(&suspect.target),
                    detail: format!("suspect {id} reopened"),
                };
                inner.hub.remove(Removal::Ids(vec![decision]), audit, now).await?.decisions
            }
        };
        let closing = Closing { status: Status::Open, decision: None, quiet_until: now };
        let audit = NewAudit {
            actor,
            action: "suspects.reopen",
            subject: words::subject(&suspect),
            detail: format!("was {}", suspect.status.as_str()),
        };
        let Some(suspect) = inner.state.close_suspect(id, closing, audit, now).await? else {
            return Ok(Reopened::Missing);
        };
        let revision = inner.hub.revision().number;
        let judged = Judged { suspect, revision, decision: None, unblocked: removed };
        Ok(Reopened::Done(Box::new(judged)))
    }

    /// Notes what another system said of addresses, for review; what is known already is not
    /// noted twice. A dry run only says how much that is; whom a person dismissed it counts as
    /// added.
    ///
    /// # Errors
    /// Those of the store; some of it may be noted then, and doing it again does the rest.
    pub async fn hear(
        &self,
        said: Vec<Hearsay>,
        geo: &Geo,
        dry_run: bool,
        now: Timestamp,
    ) -> store::Result<Heard> {
        let inner = &self.0;
        let _turn = self.turn().await;
        let mut places = Places::new(geo.clone());
        places.refresh();
        let mut heard = Heard::default();
        let mut new = Vec::new();
        for hearsay in said {
            let flag = hearsay.flag();
            let filter = SuspectFilter {
                status: None,
                target: Some(flag.target),
                before: None,
                limit: JUDGE_SUSPECTS,
            };
            let (suspects, _) = inner.state.suspects(filter).await?;
            let knows = |suspect: &Suspect| {
                suspect.target == flag.target
                    && suspect.reasons.iter().any(|reason| {
                        reason.rule == policy::IMPORTED_RULE && reason.detail == flag.detail
                    })
            };
            if suspects.iter().any(knows) {
                heard.known += 1;
            } else {
                new.push(sighting(flag, &mut places));
            }
        }
        if dry_run {
            heard.added = new.len() as u64;
            return Ok(heard);
        }
        while !new.is_empty() {
            let rest = new.split_off(new.len().min(NOTE_FLAGS));
            let count = new.len();
            let noted = inner.state.note_flags(new, now).await?;
            inner.metrics.noted(count, &noted);
            for noted in noted {
                match noted {
                    Noted::Suspect { .. } => heard.added += 1,
                    Noted::Dismissed { .. } => heard.dismissed += 1,
                }
            }
            new = rest;
        }
        self.look();
        Ok(heard)
    }

    async fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.turn.lock().await
    }
}

impl FlagSink for Suspects {
    /// Never blocks: what finds no place in the queue is dropped and counted.
    fn flag(&self, mut flags: Vec<Flag>) {
        let inner = &self.0;
        let before = flags.len();
        flags
            .retain(|flag| inner.settings.policy.response(flag.severity) != policy::Response::None);
        inner.metrics.flags("ignored", before - flags.len());
        let count = flags.len();
        if count == 0 {
            return;
        }
        let waiting = inner.queued.fetch_add(count, Ordering::Relaxed);
        if waiting + count > QUEUE_FLAGS || inner.queue.try_send(flags).is_err() {
            inner.queued.fetch_sub(count, Ordering::Relaxed);
            inner.metrics.flags("dropped", count);
        }
    }
}

impl Judge {
    /// With somebody who knows crawlers by their names.
    #[must_use]
    pub fn with_names(mut self, names: Option<Names>) -> Self {
        self.names = names;
        self
    }

    /// Runs until [`Suspects::stop`]; what waits then is still noted.
    pub async fn run(mut self) {
        let suspects = self.suspects.clone();
        let mut places = Places::new(self.geo.clone());
        // What was noted before a crash and not decided.
        self.judge_all().await;
        let ended = suspects.0.ended();
        tokio::pin!(ended);
        let shared = suspects.0.state.shared();
        let mut news = shared.map(|shared| shared.follow(|news| news.suspects, LOOK));
        let mut messages = Vec::new();
        loop {
            tokio::select! {
                biased;
                _ = self.flags.recv_many(&mut messages, NOTE_FLAGS) => {}
                () = suspects.0.wake.notified() => {}
                () = noted_elsewhere(&mut news) => {}
                () = &mut ended => break,
            }
            self.note(&mut messages, &mut places).await;
            self.judge_all().await;
        }
        while let Ok(message) = self.flags.try_recv() {
            messages.push(message);
        }
        self.note(&mut messages, &mut places).await;
        self.judge_all().await;
    }

    /// Merges what was taken off the queue into suspects.
    async fn note(&mut self, messages: &mut Vec<Vec<Flag>>, places: &mut Places) {
        let inner = &self.suspects.0;
        let mut flags: Vec<Flag> = messages.drain(..).flatten().collect();
        inner.queued.fetch_sub(flags.len(), Ordering::Relaxed);
        if let Some(names) = &self.names {
            names.spare(&mut flags).await;
        }
        places.refresh();
        while !flags.is_empty() {
            let rest = flags.split_off(flags.len().min(NOTE_FLAGS));
            let sightings = flags.into_iter().map(|flag| sighting(flag, places)).collect();
            inner.note(sightings).await;
            flags = rest;
        }
    }

    /// Lets the policy decide about everything that it has not decided about.
    async fn judge_all(&self) {
        let inner = &self.suspects.0;
        loop {
            if !inner.leadership.leads() {
                return;
            }
            let _turn = self.suspects.turn().await;
            let waiting = match inner.state.unjudged(JUDGE_SUSPECTS).await {
                Ok(waiting) => waiting,
                Err(error) => {
                    tracing::warn!("suspects can't be read, they are judged later: {error}");
                    return;
                }
            };
            if waiting.is_empty() {
                return;
            }
            for suspect in &waiting {
                if !inner.leadership.leads() {
                    return;
                }
                if let Err(error) = inner.judge(suspect).await {
                    // With the next flag, or at the next start.
                    tracing::warn!(suspect = suspect.id, "a suspect could not be judged: {error}");
                    return;
                }
            }
        }
    }
}

/// Resolves when another control plane may have noted something.
async fn noted_elsewhere(news: &mut Option<Follower>) {
    match news {
        Some(news) => news.next().await,
        None => std::future::pending().await,
    }
}

/// A flag with where its address is.
pub(crate) fn sighting(flag: Flag, places: &mut Places) -> Sighting {
    // A pseudonym is nowhere.
    let place = match flag.veil.form {
        AddressForm::Pseudonym => Spot::default(),
        AddressForm::Full | AddressForm::Truncated => places.spot(flag.target.addr()),
    };
    Sighting { flag, place }
}

impl Inner {
    /// Waits until nobody raises flags any more.
    async fn ended(&self) {
        // The sender lives as long as `self`.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Notes flags, trying again for a while when the store can't.
    async fn note(&self, sightings: Vec<Sighting>) {
        let count = sightings.len();
        for attempt in 1..=TRIES {
            match self.state.note_flags(sightings.clone(), self.clock.now()).await {
                Ok(noted) => return self.metrics.noted(count, &noted),
                Err(error) if attempt == TRIES => {
                    tracing::error!(flags = count, "flags were lost: {error}");
                }
                Err(error) => {
                    tracing::warn!(flags = count, "flags can't be noted, trying again: {error}");
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => {}
                        () = self.ended() => break,
                    }
                }
            }
        }
        self.metrics.flags("dropped", count);
    }

    /// Lets the policy decide about one suspect.
    async fn judge(&self, suspect: &Suspect) -> Result<(), ChangeError> {
        let now = self.clock.now();
        let response = policy::action(&self.settings.policy, &suspect.grounds(), 0);
        let blocks = matches!(response, Response::Block(_));
        // A person may have judged it at another control plane, whose turn is not ours.
        let block = if blocks && self.judged_elsewhere(suspect.id).await?.is_none() {
            self.block_or_not(suspect, now).await?
        } else {
            None
        };
        if let Some(made) = &block
            && self.judged_elsewhere(suspect.id).await? == Some(Status::Dismissed)
        {
            // At the same moment: the person is right.
            let audit = NewAudit {
                actor: ACTOR.to_owned(),
                action: "decisions.remove",
                subject: words::subject(suspect),
                detail: format!("suspect {} dismissed", suspect.id),
            };
            self.hub.remove(Removal::Ids(vec![made.decision]), audit, now).await?;
        }
        Ok(self.state.judged(suspect.id, suspect.flags, block).await?)
    }

    /// What a person made of a suspect of a shared store; `None` while it is open.
    async fn judged_elsewhere(&self, id: i64) -> store::Result<Option<Status>> {
        if self.state.shared().is_none() {
            return Ok(None);
        }
        let status = self.state.suspect(id).await?.map(|suspect| suspect.status);
        Ok(status.filter(|status| *status != Status::Open))
    }

    async fn block_or_not(
        &self,
        suspect: &Suspect,
        now: Timestamp,
    ) -> Result<Option<AutomaticBlock>, ChangeError> {
        let target = suspect.target;
        if suspect.form != AddressForm::Full {
            // Whose address it is only a person finds out, and for a reason.
            self.metrics.automatic_block("veiled");
            return Ok(None);
        }
        if self.settings.policy.protection(&target).is_some() {
            self.metrics.automatic_block("protected");
            return Ok(None);
        }
        let covering = self.state.covering(target, now).await?;
        if covering.iter().any(|found| found.action == Action::Allow) {
            self.metrics.automatic_block("allowed");
            return Ok(None);
        }
        if let Some(found) = covering.first() {
            // Made before a crash, perhaps, and not noted yet; noting it again does nothing.
            let ours = found.target == target && matches!(found.origin, Origin::Detector(_));
            let block = AutomaticBlock { target, time: found.created_at, decision: found.id };
            return Ok((ours && suspect.decision.is_none()).then_some(block));
        }
        let hour_ago = now.checked_sub(BRAKE_WINDOW).unwrap_or(Timestamp::MIN);
        let history = self.state.automatic_blocks(target, Timestamp::MIN, hour_ago).await?;
        let most = self.settings.policy.blocks_an_hour;
        if history.all >= most {
            self.brake(most, now);
            return Ok(None);
        }
        let lifetime = self.settings.policy.next_block(history.of_target);
        let decision =
            self.block(suspect, target, lifetime, ACTOR.to_owned(), "decisions.add", now).await?;
        self.metrics.automatic_block("made");
        tracing::info!(
            suspect = suspect.id,
            decision = decision.id,
            seconds = lifetime.as_secs(),
            "the policy blocked a suspect"
        );
        Ok(Some(AutomaticBlock { target, time: now, decision: decision.id }))
    }

    /// Counts a block that is not made, and says so loudly, but once an hour.
    fn brake(&self, most: u32, now: Timestamp) {
        self.metrics.automatic_block("withheld");
        let mut brake = self.brake.lock().unwrap_or_else(PoisonError::into_inner);
        if !brake.last.is_some_and(|last| recent(last, now)) {
            *brake = Brake { since: Some(now), ..Brake::default() };
        }
        if brake.withheld == 0 {
            tracing::error!(
                "the brake acts: {most} addresses were blocked automatically within an hour, no more are until that is past; look at `ipwarden suspects`, and raise detect.blocks_an_hour if all of them are right"
            );
        }
        brake.last = Some(now);
        brake.withheld += 1;
    }

    /// Whom a decision about a suspect means.
    fn behind(&self, suspect: &Suspect, network: Option<IpNet>) -> Result<IpNet, JudgeError> {
        let veil = suspect.veil();
        match (veil.form, network) {
            (AddressForm::Truncated, Some(network)) => {
                if network.contains(&suspect.target.addr()) {
                    Ok(network.trunc())
                } else {
                    Err(JudgeError::Elsewhere { network, cut: suspect.target.addr() })
                }
            }
            (AddressForm::Truncated, None) => Err(JudgeError::Cut),
            (_, Some(_)) => Err(JudgeError::NotCut),
            (AddressForm::Full, None) => Ok(suspect.target),
            (AddressForm::Pseudonym, None) => {
                let key = veil.key.ok_or(JudgeError::NoKeyNamed)?;
                let address = self.keys.reveal(suspect.target.addr(), key);
                address.map(target_of).ok_or(JudgeError::KeyGone { key })
            }
        }
    }

    async fn earlier_blocks(&self, target: &IpNet, now: Timestamp) -> store::Result<u32> {
        Ok(self.state.automatic_blocks(*target, Timestamp::MIN, now).await?.of_target)
    }

    /// Blocks a suspect in the name of its leading rule.
    async fn block(
        &self,
        suspect: &Suspect,
        target: IpNet,
        lifetime: Duration,
        actor: Actor,
        action: &'static str,
        now: Timestamp,
    ) -> Result<Decision, ChangeError> {
        let grounds = suspect.grounds();
        let rule = leading(&grounds).map_or("unknown", |ground| ground.rule);
        let reason = words::reasons(suspect);
        let new = NewDecision {
            target,
            action: Action::Block,
            origin: Origin::Detector(rule.to_owned()),
            reason: reason.clone(),
            expires_at: end(now, lifetime),
        };
        let audit = NewAudit {
            actor,
            action,
            subject: display_target(&target),
            detail: format!("block by {} (suspect {}): {reason}", new.origin, suspect.id),
        };
        self.add(new, audit, now).await
    }

    async fn add(
        &self,
        new: NewDecision,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<Decision, ChangeError> {
        let added = self.hub.add(vec![new.clone()], audit, now).await?;
        let missing = || store::StoreError::Internal("a decision has no number".to_owned());
        Ok(Decision {
            id: *added.ids.first().ok_or_else(missing)?,
            target: new.target,
            action: new.action,
            origin: new.origin,
            reason: new.reason,
            created_at: now,
            expires_at: new.expires_at,
        })
    }
}

fn end(now: Timestamp, lifetime: Duration) -> Option<Timestamp> {
    now.checked_add(lifetime).ok()
}

fn recent(time: Timestamp, now: Timestamp) -> bool {
    now.duration_since(time).unsigned_abs() <= BRAKE_WINDOW
}

/// How many suspects and flags came of a call.
pub(crate) fn tally(noted: &[Noted]) -> (usize, usize) {
    let opened =
        noted.iter().filter(|noted| matches!(noted, Noted::Suspect { opened: true, .. })).count();
    let dismissed = noted
        .iter()
        .map(|noted| match noted {
            Noted::Dismissed { flags } => usize::try_from(*flags).unwrap_or(usize::MAX),
            Noted::Suspect { .. } => 0,
        })
        .sum();
    (opened, dismissed)
}
