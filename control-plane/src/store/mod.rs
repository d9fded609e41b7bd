//! Two stores behind two traits.
//!
//! *State* is small and precious: decisions, limits, suspects, tokens, audit, proxies. *Log* is large and
//! passes through: records. Both start on SQLite; each can be outgrown on its own.
//!
//! | module | owns |
//! |---|---|
//! | [`sqlite`] | both stores in SQLite files |
//! | [`postgres`] | state in PostgreSQL, shared by several control planes |
//! | [`clickhouse`] | the log on a ClickHouse server |
//! | [`spool`] | a log that waits in files while its server is away |
//! | [`aging`] | what is asked when things grow old |
//! | [`rollup`] | what an address did in an hour |
//! | [`stats`] | what dashboards ask, and what they are told |
//! | [`view`] | a shipped record as it is stored and shown |
//! | [`text`], [`flags`] | clients' bytes and Envoy's response flags as text |
//!
//! Every implementation passes the same contract suite (`contract`, built for tests). Time
//! comes in as an argument; a store has no clock.

pub mod aging;
pub mod clickhouse;
mod columns;
pub mod flags;
mod key;
pub mod postgres;
mod replacing;
mod request_id;
pub mod rollup;
pub mod spool;
pub mod sqlite;
pub mod stats;
pub mod text;
pub mod view;

#[cfg(test)]
pub(crate) mod contract;

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;
use ipwarden::decisions::{Change, Entry};
use ipwarden::privacy::AddressForm;
use jiff::Timestamp;

use tokio::sync::watch;

use self::rollup::Rollup;
use crate::geo::{Country, Spot};
use crate::leadership::Leadership;
use crate::limits::{Change as LimitChange, Override, Policy};
use crate::model::{
    Action, Actor, AuditEntry, Decision, DecisionId, NewDecision, Origin, Revision, Role,
    StoredRecord, Token,
};
use crate::notify::{Backlog, Pending, Subscription};
use crate::privacy::{Kept, Veil};
use crate::suspects::{Closing, Noted, Sighting, Suspect, SuspectFilter};

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store can't be used now (locked, disk full, connection lost): worth a retry.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
    /// The store is not ours, damaged, or from a later version.
    #[error("store can't be used: {0}")]
    Unusable(String),
    /// A bug or a damaged file.
    #[error("store failed: {0}")]
    Internal(String),
}

impl From<tokio::task::JoinError> for StoreError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Internal(format!("a task ended early: {error}"))
    }
}

/// Result of a store call.
pub type Result<T> = std::result::Result<T, StoreError>;

/// What adding decisions did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Revision after the change.
    pub revision: Revision,
    /// Numbers given, in the order asked.
    pub ids: Vec<DecisionId>,
    /// Numbers of earlier decisions with the same target, action and origin that these
    /// replace.
    pub replaced: Vec<DecisionId>,
    /// The same change for the proxies: removals of the replaced, then additions.
    pub changes: Vec<Change>,
}

/// What removing decisions did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Revision after the change; unchanged when nothing was removed.
    pub revision: Revision,
    /// What was removed.
    pub decisions: Vec<Decision>,
    /// The same change for the proxies.
    pub changes: Vec<Change>,
}

/// Which decisions to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// By number.
    Ids(Vec<DecisionId>),
    /// Live decisions with exactly one of these targets, of this action (and origin).
    Targets {
        /// Exact targets.
        targets: Vec<IpNet>,
        /// Of this action only.
        action: Action,
        /// Of this origin only; any when absent.
        origin: Option<Origin>,
    },
}

/// Which decisions to list: live ones only, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecisionFilter {
    /// Of this origin.
    pub origin: Option<Origin>,
    /// Of this action.
    pub action: Option<Action>,
    /// Whose target lies inside this network (or equals it).
    pub inside: Option<IpNet>,
    /// With a number below this one (for paging).
    pub before: Option<DecisionId>,
    /// At most this many.
    pub limit: usize,
}

/// A decision of a set that replaces another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Folded, truncated network.
    pub target: IpNet,
    /// Why; mostly the same for the whole set.
    pub reason: Arc<str>,
    /// Absolute end.
    pub expires_at: Option<Timestamp>,
}

/// All decisions that an origin is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginSet {
    /// Whose.
    pub origin: Origin,
    /// Block or allow, for all of them.
    pub action: Action,
    /// The set; of equal targets the last counts.
    pub listed: Vec<Listed>,
    /// A live decision stays as it is where its end differs from the wanted one by at most
    /// this: a set that is fetched again and again would change as a whole each time.
    pub slack: std::time::Duration,
}

/// What replacing a set did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetChanged {
    /// Revision after the change; unchanged when nothing differed.
    pub revision: Revision,
    /// Decisions of targets that had none of this origin and action.
    pub added: u64,
    /// Decisions that are gone.
    pub removed: u64,
    /// Decisions that got another end.
    pub renewed: u64,
    /// Decisions that stay as they are.
    pub kept: u64,
    /// The same change for the proxies: removals, then additions.
    pub changes: Vec<Change>,
}

impl SetChanged {
    /// The detail of the audit line.
    #[must_use]
    pub fn in_words(&self) -> String {
        let Self { added, removed, renewed, kept, .. } = self;
        format!("{added} added, {removed} removed, {renewed} renewed, {kept} kept")
    }
}

/// A feed as it is kept: texts that [`crate::feeds`] makes and reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFeed {
    /// Its name.
    pub name: String,
    /// What an admin asked for, as JSON.
    pub definition: String,
    /// What became of it, as JSON.
    pub status: String,
    /// When it was made, or made anew.
    pub created_at: Timestamp,
}

/// What a change of limits did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsChanged {
    /// Revision after the change; unchanged when there was nothing to remove.
    pub revision: Revision,
    /// What was kept under the limit's name before; always `None` for a reset and for regions.
    pub before: Option<Override>,
    /// What became of decisions by region.
    pub regions: crate::regions::Changed,
    /// Everything that is kept now.
    pub policy: Policy,
}

/// A token to be stored: the secret itself never is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// A name for people; unique among tokens that are not revoked.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// SHA-256 of the secret (a random number of 256 bits: no salt or stretching needed).
    pub hash: [u8; 32],
}

/// A block that the policy made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutomaticBlock {
    /// Whom.
    pub target: IpNet,
    /// When.
    pub time: Timestamp,
    /// The decision; the same one is noted once.
    pub decision: DecisionId,
}

/// How much was blocked automatically.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHistory {
    /// Blocks of one target.
    pub of_target: u32,
    /// Blocks of all targets.
    pub all: u32,
}

/// An hour that was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassDone {
    /// Unix time / 3600.
    pub hour: i64,
    /// When.
    pub finished_at: Timestamp,
    /// Addresses that made requests.
    pub addresses: u64,
    /// Requests.
    pub requests: u64,
    /// Flags raised.
    pub flagged: u64,
}

/// One step in the order of revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionStep {
    /// The revision after it.
    pub revision: Revision,
    /// What it changes for the proxies.
    pub changes: Vec<Change>,
    /// Whether it changes limits.
    pub limits: bool,
}

/// What others may have changed through the same store: each number grows with each change of
/// its kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct News {
    /// Decisions and limits.
    pub decisions: u64,
    /// Tokens.
    pub tokens: u64,
    /// Suspects, and what the policy has to decide about them.
    pub suspects: u64,
}

impl News {
    /// The word for [`News::decisions`].
    pub const DECISIONS: &'static str = "decisions";
    /// The word for [`News::tokens`].
    pub const TOKENS: &'static str = "tokens";
    /// The word for [`News::suspects`].
    pub const SUSPECTS: &'static str = "suspects";

    /// Notes a change of the kind that a word names; another word changes nothing.
    pub fn add(&mut self, word: &str) {
        match word {
            Self::DECISIONS => self.decisions += 1,
            Self::TOKENS => self.tokens += 1,
            Self::SUSPECTS => self.suspects += 1,
            _ => {}
        }
    }

    /// Notes that anything may have changed.
    pub const fn all(&mut self) {
        self.decisions += 1;
        self.tokens += 1;
        self.suspects += 1;
    }
}

/// What a store that several control planes share gives each of them.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Told of changes, its own included. A hint: what it misses, a look now and then finds.
    pub news: watch::Receiver<News>,
    /// Who does what must not be done twice.
    pub leadership: Leadership,
    /// Where it is, without secrets.
    pub location: String,
}

impl Shared {
    /// Follows one kind of news, and looks after `at_most` also when nobody tells of any.
    #[must_use]
    pub fn follow(self, kind: fn(&News) -> u64, at_most: std::time::Duration) -> Follower {
        let seen = kind(&self.news.borrow());
        Follower { news: self.news, seen, kind, at_most }
    }
}

/// Waits for one kind of news.
#[derive(Debug)]
pub struct Follower {
    news: watch::Receiver<News>,
    seen: u64,
    kind: fn(&News) -> u64,
    at_most: std::time::Duration,
}

impl Follower {
    /// Resolves when there may be something new: at once where there was since the last time.
    pub async fn next(&mut self) {
        let (kind, seen) = (self.kind, self.seen);
        let told = async {
            let told = self.news.wait_for(|news| kind(news) != seen).await;
            told.ok().map(|news| kind(&news))
        };
        match tokio::time::timeout(self.at_most, told).await {
            Ok(Some(now)) => self.seen = now,
            // Nobody tells any more: what is left is to look.
            Ok(None) => tokio::time::sleep(self.at_most).await,
            Err(_) => {}
        }
    }
}

/// State: decisions, limits, suspects, tokens, audit. Decisions and limits share one revision.
#[async_trait]
pub trait StateStore: Send + Sync {
    /// The present revision of decisions and limits.
    async fn revision(&self) -> Result<Revision>;

    /// Adds decisions in one transaction, one revision: all or nothing. A live decision of
    /// the same target, action and origin is replaced; of equal ones in `new` the last
    /// stays. The audit line is part of the transaction. An empty `new` changes nothing and
    /// leaves no audit line.
    async fn add_decisions(
        &self,
        new: Vec<NewDecision>,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<Added>;

    /// Removes decisions in one transaction, one revision. When nothing matched there is no
    /// new revision and no audit line.
    async fn remove_decisions(
        &self,
        which: Removal,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<Removed>;

    /// Makes a set the live decisions of its origin in one transaction, one revision: what is
    /// not in it is removed, what is there already stays. A reason alone is no difference.
    /// Where nothing differs there is no new revision and no audit line; else the audit
    /// line's detail is [`SetChanged::in_words`].
    async fn replace_origin(
        &self,
        set: OriginSet,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<SetChanged>;

    /// Targets of decisions that were removed or ended after `since`, each once, at most
    /// `most`: some of them may have a live decision again.
    async fn ended_since(
        &self,
        since: Timestamp,
        most: usize,
        now: Timestamp,
    ) -> Result<Vec<IpNet>>;

    /// All feeds by name.
    async fn feeds(&self) -> Result<Vec<StoredFeed>>;

    /// Stores a feed; one of that name is replaced and its status forgotten, if `replace`.
    /// `false`, and nothing changed, when there is one and it is not to be replaced.
    async fn put_feed(
        &self,
        name: &str,
        definition: String,
        replace: bool,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<bool>;

    /// Notes what became of a feed; nothing where it is gone or was made anew after
    /// `created_at`.
    async fn note_feed(&self, name: &str, created_at: Timestamp, status: String) -> Result<()>;

    /// Forgets a feed; its decisions are replaced by none before. `false` when there is none.
    async fn remove_feed(&self, name: &str, audit: NewAudit, now: Timestamp) -> Result<bool>;

    /// Lists live decisions and says how many match without the limit and paging.
    async fn decisions(
        &self,
        filter: DecisionFilter,
        now: Timestamp,
    ) -> Result<(Vec<Decision>, u64)>;

    /// Every live decision whose target contains `net` (equal included), any tier, the
    /// longest prefix first.
    async fn covering(&self, net: IpNet, now: Timestamp) -> Result<Vec<Decision>>;

    /// All live decisions as entries in wire order (see [`Entry::sort_key`]) with the
    /// revision they belong to.
    async fn entries(&self, now: Timestamp) -> Result<(Revision, Vec<Entry>)>;

    /// Forgets decisions that ended before `now - keep`. Does not change the revision:
    /// every proxy enforces an expiry by itself. Returns how many.
    async fn sweep_decisions(&self, now: Timestamp, keep: std::time::Duration) -> Result<u64>;

    /// The changes to limits and the decisions by region that are kept, with the present
    /// revision. Resets older than [`crate::limits::RESET_LIFETIME`] and decisions that have
    /// ended are left out.
    async fn limits(&self, now: Timestamp) -> Result<(Revision, Policy)>;

    /// Makes one change in one transaction, one revision, which becomes the policy's number.
    /// When there was nothing to remove there is no new revision and no audit line, as when
    /// none of the regions named has a rule. Decisions by region are numbered with all others. Resets
    /// get growing numbers, never one twice; the latest [`ipwarden::limits::policy::MAX_RESETS`]
    /// are kept. Who changed a limit is the audit line's actor.
    async fn change_limits(
        &self,
        change: LimitChange,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<LimitsChanged>;

    /// Merges flags into the suspects of their targets in one transaction, as
    /// [`crate::suspects`] says: one open suspect a target; a confirmed one takes what comes
    /// until its quiet time ends; what a dismissed one silences is dropped until then. One
    /// answer for each target.
    async fn note_flags(&self, sightings: Vec<Sighting>, now: Timestamp) -> Result<Vec<Noted>>;

    /// Lists suspects, newest first, and says how many match without the limit and paging.
    async fn suspects(&self, filter: SuspectFilter) -> Result<(Vec<Suspect>, u64)>;

    /// One suspect.
    async fn suspect(&self, id: i64) -> Result<Option<Suspect>>;

    /// Notes a person's judgement; a later one replaces it. `None` when there is no such
    /// suspect, and then no audit line.
    async fn close_suspect(
        &self,
        id: i64,
        closing: Closing,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<Option<Suspect>>;

    /// Open suspects with flags that [`StateStore::judged`] was not told of, oldest first.
    async fn unjudged(&self, limit: usize) -> Result<Vec<Suspect>>;

    /// Notes that the policy has decided about the first `flags` flags of a suspect, and the
    /// block that it made.
    async fn judged(&self, id: i64, flags: u64, block: Option<AutomaticBlock>) -> Result<()>;

    /// How often the policy blocked `target` after `target_since`, and anybody after
    /// `all_since`.
    async fn automatic_blocks(
        &self,
        target: IpNet,
        target_since: Timestamp,
        all_since: Timestamp,
    ) -> Result<BlockHistory>;

    /// Forgets open suspects without news for `open_for`, closed ones `closed_for` after their
    /// judgement and not before their quiet time has ended, blocks of the policy older than
    /// `closed_for`, and open suspects beyond [`crate::suspects::MAX_OPEN`]. Returns how many
    /// suspects.
    async fn sweep_suspects(
        &self,
        now: Timestamp,
        open_for: std::time::Duration,
        closed_for: std::time::Duration,
    ) -> Result<u64>;

    /// What the pass over an hour (Unix time / 3600) found, if it is done.
    async fn pass(&self, hour: i64) -> Result<Option<PassDone>>;

    /// The latest hour that is done.
    async fn last_pass(&self) -> Result<Option<PassDone>>;

    /// Notes an hour as done together with what was found, in one transaction. `None`, and
    /// nothing noted, when it was done before.
    async fn finish_pass(
        &self,
        done: PassDone,
        sightings: Vec<Sighting>,
        now: Timestamp,
    ) -> Result<Option<Vec<Noted>>>;

    /// Makes these the hooks that are told of suspects and blocks. From then on
    /// [`StateStore::note_flags`], [`StateStore::finish_pass`] and [`StateStore::judged`] note
    /// in their transaction what each hook is to be told, at most
    /// [`crate::notify::MAX_WAITING`] for each: of more the oldest are dropped and counted.
    /// What hooks that are no more had still to be told is forgotten.
    async fn subscribe(&self, hooks: Vec<Subscription>) -> Result<()>;

    /// What a hook has still to be told, the oldest first; suspects as they are now, those
    /// that are forgotten left out.
    async fn pending(&self, hook: &str, limit: usize) -> Result<Vec<Pending>>;

    /// Notes that a hook was told everything up to this number.
    async fn told(&self, hook: &str, last: i64) -> Result<()>;

    /// Gives up what a hook was to be told before a time. Returns how much; it is counted.
    async fn expire_pending(&self, hook: &str, before: Timestamp) -> Result<u64>;

    /// How much each hook has still to be told, by name.
    async fn backlog(&self) -> Result<Vec<Backlog>>;

    /// Stores a token. `None` when a live token has that name.
    async fn create_token(
        &self,
        token: NewToken,
        audit: NewAudit,
        now: Timestamp,
    ) -> Result<Option<Token>>;

    /// All live tokens with their hashes.
    async fn tokens(&self) -> Result<Vec<(Token, [u8; 32])>>;

    /// Revokes by name. `false` when there is none.
    async fn revoke_token(&self, name: &str, audit: NewAudit, now: Timestamp) -> Result<bool>;

    /// Notes when tokens were used.
    async fn touch_tokens(&self, used: Vec<(i64, Timestamp)>) -> Result<()>;

    /// Appends to the audit log.
    async fn audit(&self, entry: NewAudit, now: Timestamp) -> Result<()>;

    /// Reads the audit log, newest first, entries with a number below `before`.
    async fn audit_log(&self, before: Option<i64>, limit: usize) -> Result<Vec<AuditEntry>>;

    /// The steps after a revision up to the present one, in order. `None` when not all of them
    /// are known: the whole set must be read.
    async fn steps_after(&self, _after: Revision) -> Result<Option<Vec<RevisionStep>>> {
        Ok(None)
    }

    /// What a store that others use at the same time gives; `None` when nobody else can.
    fn shared(&self) -> Option<Shared> {
        None
    }

    /// Who does what must not be done twice.
    fn leadership(&self) -> Leadership {
        self.shared().map_or_else(Leadership::always, |shared| shared.leadership)
    }

    /// Why the store can't be reached at the moment, and for how long it could not.
    fn problem(&self) -> Option<(String, std::time::Duration)> {
        None
    }

    /// How much room it takes; `None` where its files say so.
    async fn bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Gives up what others wait for. To be called last.
    async fn close(&self) {}
}

/// An audit line to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAudit {
    /// Who.
    pub actor: Actor,
    /// What.
    pub action: &'static str,
    /// On what.
    pub subject: String,
    /// More.
    pub detail: String,
}

/// A batch to be stored: the decoded message with what the control plane adds to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingBatch<'a> {
    /// The batch.
    pub batch: ipwarden::record::Batch<'a>,
    /// When it arrived.
    pub received_at: Timestamp,
    /// Whether queries are stored.
    pub store_query: bool,
    /// Where each record's client is, in their order; those beyond its end are unknown.
    pub places: Vec<Spot>,
}

/// What became of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Its records are stored, with numbers from `first_id` on.
    Stored {
        /// Number of its first record.
        first_id: i64,
    },
    /// A batch of that stream and number was stored before; nothing was stored again.
    Duplicate,
    /// It carried no records; only its totals were noted.
    Noted,
    /// It is on a disk and will be stored, with numbers that are not known yet.
    Spooled,
}

/// What waits in files because the store could not be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spooled {
    /// Batches.
    pub batches: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Batches that the store refused for good, since the start.
    pub refused: u64,
}

/// Which records to find: all conditions must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RecordQuery {
    /// Client address inside this network; without `form` pseudonyms are not looked at.
    pub net: Option<IpNet>,
    /// What the address is.
    pub form: Option<AddressForm>,
    /// Path starts with this (as shown: bytes that are no UTF-8 as `\xNN`).
    pub path_prefix: Option<String>,
    /// Host equals this.
    pub host: Option<String>,
    /// Method equals this.
    pub method: Option<String>,
    /// Status equals this, or lies in this class (`4` for 4xx).
    pub status: Option<StatusFilter>,
    /// One of these verdicts; any when empty.
    pub verdicts: Vec<ipwarden::record::Verdict>,
    /// Client in this country.
    pub country: Option<Country>,
    /// Client in this autonomous system.
    pub asn: Option<u32>,
    /// User agent equals this.
    pub user_agent: Option<String>,
    /// The limit or rule that spoke equals this.
    pub rule: Option<String>,
    /// From this proxy.
    pub proxy: Option<String>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// With a number below this one (for paging).
    pub before: Option<i64>,
    /// At most this many.
    pub limit: usize,
}

/// A condition on the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusFilter {
    /// Exactly.
    Code(u16),
    /// Hundreds: 4 is 400 to 499.
    Class(u16),
}

/// What a worker reported, and what is stored of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamTotals {
    /// Name of the proxy.
    pub proxy: String,
    /// Random number of the worker's life.
    pub stream: u64,
    /// Version of the filter.
    pub version: String,
    /// When the worker started.
    pub started_at: Timestamp,
    /// When it was last heard of.
    pub last_seen: Timestamp,
    /// Its clock minus ours when it was last heard of.
    pub clock_offset_ms: i64,
    /// The decision set that it has applied.
    pub applied: Revision,
    /// Requests that it saw.
    pub seen: u64,
    /// Requests whose record it lost.
    pub lost: u64,
    /// Requests that it left out on purpose.
    pub skipped: u64,
    /// Sum of the weights stored here.
    pub stored: u64,
}

/// What is kept of an hour.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HourRollups {
    /// Addresses that made requests.
    pub addresses: u64,
    /// Their requests.
    pub requests: u64,
    /// The addresses that were asked for, sorted.
    pub rollups: Vec<(IpNet, Rollup)>,
    /// The same of addresses that are not as they came, by what they are.
    pub veiled: Vec<(Veil, Vec<(IpNet, Rollup)>)>,
    /// Verified identities, where records carry them.
    pub identities: Vec<IdentityHour>,
}

/// What an identity did in an hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityHour {
    /// The identity as shown.
    pub identity: String,
    /// Its requests.
    pub requests: u64,
    /// Where from; of many the first ones and the latest.
    pub places: Vec<IdentitySeen>,
}

/// An identity at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IdentitySeen {
    /// The address.
    pub ip: IpAddr,
    /// First request, Unix microseconds.
    pub first_us: i64,
    /// Last request, Unix microseconds.
    pub last_us: i64,
}

/// How much was asked for in an hour that has passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastHour {
    /// Unix time / 3600.
    pub hour: i64,
    /// Requests of everybody.
    pub requests: u64,
    /// Requests of each target that was asked for.
    pub by_target: Vec<u64>,
}

/// Log: records and what each address did in each hour.
#[async_trait]
pub trait LogStore: Send + Sync {
    /// Stores batches in one durable transaction and says what became of each. When it
    /// returns, what it calls stored survives a power cut. The same (stream, number) is
    /// stored once, in whatever order numbers arrive. When it fails, nothing of the call is
    /// stored. Number 0 can't be told from its repetition: records under it are not stored.
    async fn append(&self, batches: &[IncomingBatch<'_>]) -> Result<Vec<Appended>>;

    /// Finds records, newest (highest number) first.
    async fn search(&self, query: &RecordQuery) -> Result<Vec<StoredRecord>>;

    /// Calls `visit` for each record that matches, oldest first, in one pass with bounded
    /// memory, until it breaks. `limit` and `before` of the query are ignored.
    async fn scan(
        &self,
        query: &RecordQuery,
        visit: &mut (dyn for<'r> FnMut(StoredRecord) -> ControlFlow<()> + Send),
    ) -> Result<()>;

    /// Sum of the weights of all records that match (limit and before ignored).
    async fn count(&self, query: &RecordQuery) -> Result<u64>;

    /// What each worker reported, newest heard of first.
    async fn streams(&self) -> Result<Vec<StreamTotals>>;

    /// What is kept of an hour (Unix time / 3600): of addresses with at least `least` requests
    /// or one of a sensitive path. Every record that was stored before the call counts, once.
    async fn rollups(&self, hour: i64, least: u64) -> Result<HourRollups>;

    /// How much everybody and some targets asked for in some hours, each target under all its
    /// names; hours without records, and hours whose addresses are forgotten, are left out.
    async fn past_hours(&self, hours: Vec<i64>, targets: Vec<Vec<Kept>>) -> Result<Vec<PastHour>>;

    /// Counts the records that match; agrees with [`LogStore::count`] over the same slots.
    async fn stats(&self, query: &stats::StatsQuery) -> Result<stats::Stats>;

    /// Does one piece of what makes [`LogStore::stats`] fast; `false` when nothing is left to do.
    /// Answers never depend on it.
    async fn tidy(&self) -> Result<bool>;

    /// Addresses are compared folded; this says whether any record holds `ip`.
    async fn holds(&self, ip: IpAddr) -> Result<bool>;

    /// Whether other control planes have the same log: then one of them does for all what is
    /// done once an hour.
    fn is_shared(&self) -> bool {
        false
    }

    /// Where it is, without secrets.
    fn location(&self) -> String {
        "sqlite".to_owned()
    }

    /// How much room it takes; `None` where its files say so.
    async fn bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// What waits for the store in files; `None` for one that is always there.
    fn spooled(&self) -> Option<Spooled> {
        None
    }

    /// Parts of tables that a change under way has still to write anew.
    fn parts_to_change(&self) -> u64 {
        0
    }
}
