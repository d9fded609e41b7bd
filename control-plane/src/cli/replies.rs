//! What the service answers, as the command line reads it and prints it with `-o json`.
//!
//! Fields that another version leaves out have defaults, and what this version does not know
//! is skipped: an answer is not refused for its age.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::geo::{Databases, Located};
use crate::limits::view::LimitInForce;
use crate::model::{AuditEntry, Decision, DecisionId, Proxy, StoredRecord, Token};
use crate::privacy::keys::KeyInfo;
use crate::privacy::retention::RetentionStatus;
use crate::regions::Rule;
use crate::store::aging::Due;
use crate::suspects::Suspect;

/// A page of decisions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Decisions {
    /// Number of the decision set.
    pub revision: u64,
    /// How many match without paging.
    pub total: u64,
    /// Newest first.
    pub decisions: Vec<Decision>,
    /// Where the next page starts.
    pub next: Option<DecisionId>,
    /// Decisions by region, where no condition leaves them out; asked for separately.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<Rule>,
}

/// Decisions by region.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Regions {
    /// Number of decisions and limits.
    pub revision: u64,
    /// By number.
    pub regions: Vec<Rule>,
}

/// What a change of decisions by region did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegionsChanged {
    /// Number of decisions and limits afterwards.
    pub revision: u64,
    /// The rules as they are now, or those that are gone.
    pub regions: Vec<Rule>,
    /// Numbers of those that new ones replace.
    #[serde(default)]
    pub replaced: Vec<DecisionId>,
    /// Regions that have no rule there.
    #[serde(default)]
    pub missing: Vec<String>,
    /// What to think of.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Connected proxies.
    #[serde(default)]
    pub proxies: u64,
}

/// A decision that has no effect.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Warning {
    /// The new target.
    pub target: String,
    /// Why, in words.
    pub message: String,
    /// The decision that makes it so.
    pub decision: Decision,
}

/// What adding did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Added {
    /// Number of the decision set afterwards.
    pub revision: u64,
    /// In the order asked.
    pub decisions: Vec<Decision>,
    /// Earlier decisions that these replace.
    #[serde(default)]
    pub replaced: Vec<DecisionId>,
    /// What has no effect.
    #[serde(default)]
    pub warnings: Vec<Warning>,
}

/// What an import did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Imported {
    /// Number of the decision set afterwards.
    pub revision: u64,
    /// How many were added.
    pub added: u64,
    /// How many earlier ones were replaced.
    pub replaced: u64,
    /// How many lines named a target again.
    pub duplicates: u64,
    /// The first that have no effect.
    #[serde(default)]
    pub warnings: Vec<Warning>,
    /// How many have no effect.
    #[serde(default)]
    pub warnings_total: u64,
}

/// What became of a batch of past records.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shipped {
    /// Records that were stored.
    pub stored: u64,
    /// Whether the batch had been stored before.
    pub duplicate: bool,
}

/// What became of another system's suspects.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SuspectsImported {
    /// New, or with a reason more.
    pub added: u64,
    /// Known already.
    pub known: u64,
    /// Called a false alarm before.
    #[serde(default)]
    pub dismissed: u64,
}

/// What removing did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Removed {
    /// Number of the decision set afterwards.
    pub revision: u64,
    /// What is gone.
    pub removed: Vec<Decision>,
    /// Targets without such a decision.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// What applies to an address.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Checked {
    /// The address, folded.
    pub ip: String,
    /// `blocked`, `allowed` or `none`.
    pub verdict: String,
    /// The decision that applies.
    pub decision: Option<Decision>,
    /// Those that it hides.
    #[serde(default)]
    pub hidden: Vec<Hidden>,
    /// Decisions by region that are about it.
    #[serde(default)]
    pub regions: Vec<RegionChecked>,
    /// Number of the decision set.
    pub revision: u64,
}

/// A decision by region that is about an address.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegionChecked {
    /// The rule.
    pub rule: Rule,
    /// Whether it applies to the path asked about.
    pub applies: bool,
}

/// A decision that another one hides.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hidden {
    /// The hidden one.
    pub decision: Decision,
    /// Why, in words.
    pub why: String,
}

/// The limits in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Limits {
    /// Number of decisions and limits.
    pub revision: u64,
    /// Revision of the last change to limits; 0: never changed.
    pub number: u64,
    /// By name.
    pub limits: Vec<LimitInForce>,
    /// Resets of the last 7 days, oldest first.
    #[serde(default)]
    pub resets: Vec<LimitReset>,
}

/// A bucket that was filled again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LimitReset {
    /// Running number.
    pub id: u64,
    /// Whose bucket.
    pub key: String,
    /// In which limit; absent for all.
    pub limit: Option<String>,
    /// When.
    pub time: jiff::Timestamp,
}

/// A limit that was set.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LimitSet {
    /// Number of decisions and limits afterwards.
    pub revision: u64,
    /// The limit as it is in force.
    pub limit: serde_json::Value,
    /// Whether one of that name was set before.
    #[serde(default)]
    pub replaced: bool,
    /// Connected proxies that get it.
    #[serde(default)]
    pub proxies: u64,
}

/// A limit in another mode.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LimitMode {
    /// Number of decisions and limits afterwards.
    pub revision: u64,
    /// Name of the limit.
    pub name: String,
    /// `enforce` or `shadow`.
    pub mode: String,
    /// Connected proxies that have the limit.
    #[serde(default)]
    pub proxies: u64,
}

/// A change that was taken away.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LimitRemoved {
    /// Number of decisions and limits afterwards.
    pub revision: u64,
    /// Name of the limit.
    pub name: String,
    /// Connected proxies on which the configured one is in force again.
    #[serde(default)]
    pub proxies: u64,
}

/// A bucket that is filled again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResetMade {
    /// Number of decisions and limits afterwards.
    pub revision: u64,
    /// Running number of the reset.
    pub id: u64,
    /// The key in its one form.
    pub key: String,
    /// In which limit; absent for all.
    pub limit: Option<String>,
    /// Connected proxies that do it.
    #[serde(default)]
    pub proxies: u64,
}

/// All hooks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hooks {
    /// In the order of the configuration.
    pub hooks: Vec<Hook>,
}

/// Somebody who is told of suspects and blocks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// webhook or slack.
    pub kind: String,
    /// Scheme, host and port of its URL.
    pub to: String,
    /// Events that wait.
    pub waiting: u64,
    /// Events that it was never told.
    #[serde(default)]
    pub dropped: u64,
    /// When a message was taken last.
    pub sent_at: Option<Timestamp>,
    /// Attempts that failed since then.
    #[serde(default)]
    pub failures: u32,
    /// When the first of them failed.
    pub failing_since: Option<Timestamp>,
    /// Why the last of them did.
    pub problem: Option<String>,
}

/// What became of tests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HookTests {
    /// Of each hook.
    pub results: Vec<HookTest>,
}

/// What became of the test of one hook.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HookTest {
    /// Its name.
    pub hook: String,
    /// Whether the message was taken.
    pub ok: bool,
    /// The status that the receiver answered.
    pub status: Option<u16>,
    /// Why it was not taken.
    pub problem: Option<String>,
}

/// A page of suspects.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SuspectsPage {
    /// How many match without paging.
    pub total: u64,
    /// Newest first.
    pub suspects: Vec<Suspect>,
    /// Where the next page starts.
    pub next: Option<i64>,
}

/// A suspect that was judged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JudgedSuspect {
    /// As it is now.
    pub suspect: Suspect,
    /// Number of the decision set afterwards.
    pub revision: u64,
    /// The block or the allow that was made.
    pub decision: Option<Decision>,
    /// Blocks that were taken back.
    #[serde(default)]
    pub unblocked: Vec<Decision>,
    /// What has no effect.
    #[serde(default)]
    pub warnings: Vec<Warning>,
}

/// What a pass found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Detected {
    /// When the hour begins.
    pub hour: String,
    /// Whether it was over.
    pub complete: bool,
    /// Whether nothing was noted on request.
    pub dry_run: bool,
    /// Whether it had been done before.
    pub already_done: bool,
    /// Addresses that made requests.
    pub addresses: u64,
    /// Their requests.
    pub requests: u64,
    /// What was found.
    pub flags: Vec<DetectedFlag>,
}

/// A flag.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DetectedFlag {
    /// The address.
    pub target: String,
    /// Name of the rule.
    pub rule: String,
    /// How bad.
    pub severity: String,
    /// In words.
    pub detail: String,
    /// Requests behind it.
    pub count: u64,
    /// How sure, 0 to 1.
    pub score: f64,
}

/// A page of records.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Records {
    /// Newest first.
    pub records: Vec<StoredRecord>,
    /// Where the next page starts.
    pub next: Option<i64>,
}

/// Where addresses are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AllLocated {
    /// In the order asked.
    pub results: Vec<Located>,
}

/// The fleet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Proxies {
    /// Number of the decision set.
    pub revision: u64,
    /// Every Envoy heard of.
    pub proxies: Vec<Proxy>,
}

/// A page of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Audit {
    /// Newest first.
    pub entries: Vec<AuditEntry>,
    /// Where the next page starts.
    pub next: Option<i64>,
}

/// All live tokens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tokens {
    /// Without their secrets.
    pub tokens: Vec<Token>,
}

/// A new token.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewToken {
    /// As it is listed.
    pub token: Token,
    /// The secret: shown now and never again.
    pub secret: String,
}

/// The service about itself. Fields that a later service leaves out are absent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its clock.
    pub now: jiff::Timestamp,
    /// Number of the decision set.
    pub revision: u64,
    /// How many decisions are live.
    #[serde(default)]
    pub decisions: u64,
    /// Where it keeps its data.
    pub data_dir: String,
    /// Free bytes on the disk of the data directory.
    pub disk_free_bytes: Option<u64>,
    /// Size of that disk.
    pub disk_total_bytes: Option<u64>,
    /// Records stored.
    #[serde(default)]
    pub records_stored: u64,
    /// Batches that wait to be stored.
    #[serde(default)]
    pub ingest_queue: u64,
    /// Geolocation data.
    #[serde(default)]
    pub geo: Option<Databases>,
    /// Suspects that nobody has judged.
    #[serde(default)]
    pub suspects_open: u64,
    /// Automatic blocks that the brake withheld; absent where it did not act lately.
    #[serde(default)]
    pub blocks_withheld: Option<u64>,
    /// Detection rules in force.
    #[serde(default)]
    pub rules: u64,
    /// Why the rule file as it is now can't be used; the rules before it stay in force.
    #[serde(default)]
    pub rules_problem: Option<String>,
    /// Why the last run of retention did not end.
    #[serde(default)]
    pub retention_error: Option<String>,
    /// Records that it deleted before their time.
    #[serde(default)]
    pub retention_capped: u64,
    /// Admin interface of the Envoy beside it, where it is configured.
    pub envoy_admin: Option<String>,
}

/// `POST /v1/retention/run`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RetentionAnswer {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The moment that ages count from.
    pub now: Timestamp,
    /// What it would do; of a dry run only.
    pub due: Option<Due>,
    /// The settings, the run under way and the last one.
    pub status: RetentionStatus,
}

/// `GET /v1/keys`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyList {
    /// The current one first.
    pub keys: Vec<KeyInfo>,
}

/// `POST /v1/pseudonyms/reveal`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Revealed {
    /// The pseudonym.
    pub pseudonym: IpAddr,
    /// The id of its key.
    pub key: String,
    /// The address.
    pub ip: IpAddr,
}
