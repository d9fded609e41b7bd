//! When feeds are fetched, what follows from it, and what is remembered.
//!
//! One attempt at a time for each feed, two documents at a time in memory. The publisher is
//! asked with what is known of the document; every quarter of `stale_after` it is fetched as a
//! whole, and what would end soon is renewed: so a decision ends at most `stale_after`, and at
//! least half of it, after its feed was last heard of.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use ipnet::IpNet;
use jiff::Timestamp;
use minisign_verify::Signature;
use reqwest::Url;
use reqwest::header::HeaderValue;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::crowdsec::{self, Change};
use super::definition::{Checked, Definition, Format, Location, publishers_bound};
use super::fetch::{self, Answer, Fetcher, Known, MAX_SIGNATURE_BYTES, Question};
use super::guard::{self, Size, Withheld};
use super::overlap::Allows;
use super::parse::{self, Reading};
use super::status::{LeftOut, Status};
use super::{MAX_BYTES, MAX_FEEDS};
use crate::clock::Clock;
use crate::hex::hex;
use crate::hub::{ChangeError, Hub};
use crate::metrics::Metrics;
use crate::model::{Action, NewDecision, Origin};
use crate::problem::Fault;
use crate::store::{
    DecisionFilter, Listed, NewAudit, OriginSet, Removal, StateStore, StoreError, StoredFeed,
};

/// How often is looked which feeds are due.
const LOOK: Duration = Duration::from_secs(1);
/// Documents that are worked on at once: each may take some hundred MiB.
const AT_ONCE: usize = 2;
/// First pause after a failure, where the feed is fetched less often.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// A CrowdSec is asked for everything it has so often; in between for what changed.
const WHOLE_EVERY: Duration = Duration::from_secs(3_600);
/// CrowdSec says how long a decision lasts, not until when: that differs from poll to poll.
const CROWDSEC_SLACK: Duration = Duration::from_secs(5);
/// Who writes the audit lines.
const ACTOR: &str = "feeds";

/// What feeds are made of.
pub struct Parts {
    /// Where they are kept.
    pub state: Arc<dyn StateStore>,
    /// Where their decisions go.
    pub hub: Hub,
    /// The time.
    pub clock: Clock,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Files and keys.
    pub directory: PathBuf,
    /// What is never to be blocked.
    pub protected: Vec<IpNet>,
    /// Most targets of one feed.
    pub most: usize,
}

/// All feeds. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Feeds(Arc<Inner>);

struct Inner {
    parts: Parts,
    fetcher: Fetcher,
    live: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Live>>>>,
    room: Semaphore,
}

/// What is known of a feed until the service ends. Held for as long as it is worked on.
#[derive(Default)]
struct Live {
    /// When the definition was made that the rest belongs to.
    of: Option<Timestamp>,
    /// When a CrowdSec was last asked for everything.
    whole_at: Option<Timestamp>,
    /// The list that was not taken.
    withheld: Option<Prepared>,
}

/// A feed as it is.
#[derive(Debug, Clone)]
pub struct Feed {
    /// Its name.
    pub name: String,
    /// When it was made, or made anew.
    pub created_at: Timestamp,
    /// What was asked for.
    pub definition: Definition,
    /// What became of it.
    pub status: Status,
}

/// Why a feed could not be worked on.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Decisions could not be changed.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// There is none of that name.
    #[error("there is no feed of that name: `ipwarden feeds` lists them")]
    Missing,
    /// There is one of that name.
    #[error("there is a feed of that name: remove it first, or add it with `replace`")]
    Exists,
    /// There are too many.
    #[error("there are {MAX_FEEDS} feeds, which is the most there can be: remove one")]
    TooMany,
    /// It is not what can be used.
    #[error("the definition has errors")]
    Definition(Vec<Fault>),
    /// Its publisher wants to be left alone.
    #[error("its publisher wants to be asked no more often: try again in {0} s")]
    TooSoon(u32),
    /// Nothing is withheld.
    #[error("no list of this feed is withheld: there is nothing to accept")]
    NothingWithheld,
}

/// How an attempt ended.
enum Done {
    Unchanged,
    Applied,
}

/// Why a feed stays as it is.
enum Failure {
    /// It could not be had.
    Problem(String),
    /// It could, and was not taken.
    Withheld(String),
}

impl From<String> for Failure {
    fn from(problem: String) -> Self {
        Self::Problem(problem)
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Self {
        Self::Problem(match error {
            // What exactly is for the log.
            ChangeError::Store(error) => {
                tracing::warn!("decisions of a feed could not be stored: {error}");
                "its decisions could not be stored: see the service's log".to_owned()
            }
            error => error.to_string(),
        })
    }
}

/// A list that was read and sifted.
struct Prepared {
    targets: Vec<IpNet>,
    size: Size,
    left_out: LeftOut,
    samples: Vec<String>,
    attribution: Option<String>,
    digest: String,
    known: Known,
}

impl Feeds {
    /// Prepares HTTP; nothing is fetched before [`Feeds::keep`].
    ///
    /// # Errors
    /// Why HTTP can't be prepared.
    pub fn new(parts: Parts) -> Result<Self, String> {
        let inner = Inner {
            parts,
            fetcher: Fetcher::new()?,
            live: Mutex::default(),
            room: Semaphore::new(AT_ONCE),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Fetches what is due until the service stops.
    pub async fn keep(self) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut under_way = tokio::task::JoinSet::new();
        let hub = self.0.parts.hub.clone();
        // Of several control planes one fetches.
        let leadership = self.0.parts.state.leadership();
        let mut failing = false;
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = hub.stopping() => break,
            }
            while under_way.try_join_next().is_some() {}
            let feeds = match self.list().await {
                Ok(feeds) => feeds,
                Err(error) => {
                    if !failing {
                        tracing::warn!("feeds can't be read, trying again: {error}");
                    }
                    failing = true;
                    continue;
                }
            };
            failing = false;
            let now = self.0.parts.clock.now();
            for feed in feeds {
                self.show(&feed);
                let due = leadership.leads() && feed.status.next_at.is_none_or(|next| next <= now);
                // One that is being worked on is left alone.
                if due && self.live(&feed.name).try_lock().is_ok() {
                    let feeds = self.clone();
                    under_way.spawn(async move {
                        if let Err(error) = feeds.work(&feed.name, false, true).await {
                            tracing::debug!(feed = feed.name, "not fetched: {error}");
                        }
                    });
                }
            }
        }
        // A change that is under way is finished by the hub; a fetch is given up.
        under_way.shutdown().await;
    }

    /// All feeds by name. One whose definition can't be read (a later version's) is left out.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(&self) -> Result<Vec<Feed>, StoreError> {
        Ok(self.0.parts.state.feeds().await?.into_iter().filter_map(read).collect())
    }

    /// One feed.
    ///
    /// # Errors
    /// [`FeedError::Missing`]; those of the store.
    pub async fn get(&self, name: &str) -> Result<Feed, FeedError> {
        let feeds = self.list().await?;
        feeds.into_iter().find(|feed| feed.name == name).ok_or(FeedError::Missing)
    }

    /// Makes a feed, or makes it anew. It is fetched soon.
    ///
    /// # Errors
    /// [`FeedError`]; nothing was changed.
    pub async fn put(
        &self,
        name: &str,
        definition: &Definition,
        replace: bool,
        actor: &str,
    ) -> Result<Feed, FeedError> {
        definition.check().map_err(FeedError::Definition)?;
        let state = &self.0.parts.state;
        let present = state.feeds().await?;
        let is_new = present.iter().all(|feed| feed.name != name);
        if is_new && present.len() >= MAX_FEEDS {
            return Err(FeedError::TooMany);
        }
        let live = self.live(name);
        let _turn = live.lock().await;
        let text = serde_json::to_string(definition)
            .map_err(|error| StoreError::Internal(error.to_string()))?;
        let audit = NewAudit {
            actor: actor.to_owned(),
            action: "feeds.add",
            subject: name.to_owned(),
            detail: format!("{} from {}", definition.format.as_str(), definition.shown_location()),
        };
        if state.put_feed(name, text, replace, audit, self.0.parts.clock.now()).await? {
            self.get(name).await
        } else {
            Err(FeedError::Exists)
        }
    }

    /// Removes a feed and all its decisions; how many.
    ///
    /// # Errors
    /// [`FeedError`].
    pub async fn remove(&self, name: &str, actor: &str) -> Result<u64, FeedError> {
        let feed = self.get(name).await?;
        let live = self.live(name);
        let _turn = live.lock().await;
        let Parts { state, hub, clock, metrics, .. } = &self.0.parts;
        let audit = |action, detail| NewAudit {
            actor: actor.to_owned(),
            action,
            subject: name.to_owned(),
            detail,
        };
        let nothing = set(name, feed.definition.action, Vec::new(), Duration::ZERO);
        // Its decisions first: were the service to end in between, the feed would still be there.
        let changed =
            hub.replace(nothing, audit("feeds.apply", String::new()), clock.now()).await?;
        let detail = format!("with {} decisions", changed.removed);
        state.remove_feed(name, audit("feeds.remove", detail), clock.now()).await?;
        metrics.feeds.forget(name);
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(changed.removed)
    }

    /// Fetches a feed now; `accept` takes the list that is withheld. What became of it stands
    /// in its status.
    ///
    /// # Errors
    /// [`FeedError`].
    pub async fn refresh(&self, name: &str, accept: bool, actor: &str) -> Result<Feed, FeedError> {
        let audit = NewAudit {
            actor: actor.to_owned(),
            action: if accept { "feeds.accept" } else { "feeds.refresh" },
            subject: name.to_owned(),
            detail: String::new(),
        };
        self.get(name).await?;
        self.0.parts.state.audit(audit, self.0.parts.clock.now()).await?;
        self.work(name, accept, false).await
    }

    fn live(&self, name: &str) -> Arc<tokio::sync::Mutex<Live>> {
        let mut live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(live.entry(name.to_owned()).or_default())
    }

    /// One attempt, and what is remembered of it.
    async fn work(&self, name: &str, accept: bool, scheduled: bool) -> Result<Feed, FeedError> {
        let live = self.live(name);
        let mut live = live.lock().await;
        // Read with the turn held: an attempt that has just ended counts.
        let mut feed = self.get(name).await?;
        let Parts { state, clock, metrics, .. } = &self.0.parts;
        if live.of != Some(feed.created_at) {
            *live = Live { of: Some(feed.created_at), ..Live::default() };
        }
        let now = clock.now();
        let checked = feed.definition.check().map_err(FeedError::Definition)?;
        if scheduled && feed.status.next_at.is_some_and(|next| next > now) {
            return Ok(feed);
        }
        if accept && live.withheld.is_none() {
            return Err(FeedError::NothingWithheld);
        }
        let bound = match &checked.location {
            Location::Http(url) => publishers_bound(url).unwrap_or_default(),
            Location::File(_) => Duration::ZERO,
        };
        if let Some(again) = feed.status.checked_at.map(|at| later(at, bound))
            && again > now
            && !accept
        {
            let seconds = again.duration_since(now).as_secs().max(1);
            return Err(FeedError::TooSoon(u32::try_from(seconds).unwrap_or(u32::MAX)));
        }
        let status = &mut feed.status;
        status.checked_at = Some(now);
        let done = match feed.definition.format {
            Format::Crowdsec => {
                let polled = self.poll(name, &feed.definition, &checked, status, &mut live).await;
                if polled.is_err() {
                    // What changed meanwhile may be lost.
                    live.whole_at = None;
                }
                polled
            }
            _ => self.import(name, &feed.definition, &checked, status, &mut live, accept).await,
        };
        let outcome = settle(status, done, checked.every, bound, clock.now());
        metrics.feeds.attempt(name, outcome);
        match (&status.problem, &status.withheld) {
            (Some(problem), _) if status.failures == 1 => {
                tracing::warn!(
                    feed = name,
                    "could not be fetched, the last good list stays: {problem}"
                );
            }
            (None, Some(why)) => {
                tracing::warn!(
                    feed = name,
                    "the new list is withheld, the last good one stays: {why}; `ipwarden feeds refresh {name} --accept` takes it"
                );
            }
            _ => {}
        }
        let text = serde_json::to_string(status)
            .map_err(|error| StoreError::Internal(error.to_string()))?;
        state.note_feed(name, feed.created_at, text).await?;
        self.show(&feed);
        Ok(feed)
    }

    fn show(&self, feed: &Feed) {
        let Status { size, succeeded_at, withheld, .. } = &feed.status;
        let at = succeeded_at.map(Timestamp::as_second);
        self.0.parts.metrics.feeds.show(&feed.name, size.entries, at, withheld.is_some());
    }

    /// Fetches a document and makes it the feed's set.
    async fn import(
        &self,
        name: &str,
        definition: &Definition,
        checked: &Checked,
        status: &mut Status,
        live: &mut Live,
        accept: bool,
    ) -> Result<Done, Failure> {
        if let Some(prepared) = live.withheld.take_if(|_| accept) {
            return self.apply(name, definition, checked, status, prepared).await;
        }
        // Whatever comes now is newer: nobody may take the older one for it.
        live.withheld = None;
        let now = self.0.parts.clock.now();
        let whole = status.applied_at.is_none_or(|at| later(at, checked.stale_after / 4) <= now)
            || status.withheld.is_some();
        let known =
            Known { etag: status.etag.clone(), last_modified: status.last_modified.clone() };
        let known = (!whole).then_some(&known);
        let _room = self.0.room.acquire().await.map_err(|error| error.to_string())?;
        let (raw, known) = match &checked.location {
            Location::File(name) => (self.file(name.clone(), MAX_BYTES).await?, Known::default()),
            Location::Http(url) => {
                match self.http(url, definition, checked, known, MAX_BYTES).await? {
                    Answer::Unchanged => return Ok(Done::Unchanged),
                    Answer::Document { raw, known } => (raw, known),
                }
            }
        };
        if checked.minisign.is_some() {
            self.verify(&raw, definition, checked).await?;
        }
        let digest = hex(&Sha256::digest(&raw));
        if !whole && status.digest.as_ref() == Some(&digest) {
            (status.etag, status.last_modified) = (known.etag, known.last_modified);
            return Ok(Done::Unchanged);
        }
        let (definition_, most) = (definition.clone(), self.0.parts.most);
        let protected = match definition.action {
            Action::Block => self.0.parts.protected.clone(),
            Action::Allow => Vec::new(),
        };
        let prepared =
            in_background(move || prepare(raw, &definition_, &protected, most, digest, known))
                .await??;
        match guard::compare(Some(status.size), prepared.size) {
            Ok(()) => self.apply(name, definition, checked, status, prepared).await,
            Err(why) => {
                live.withheld = why.can_be_accepted().then_some(prepared);
                Err(Failure::Withheld(why.to_string()))
            }
        }
    }

    async fn http(
        &self,
        url: &Url,
        definition: &Definition,
        checked: &Checked,
        known: Option<&Known>,
        most: usize,
    ) -> Result<Answer, String> {
        let key = match &definition.key_file {
            Some(file) => Some(self.key(file.clone()).await?),
            None => None,
        };
        let question = Question {
            url,
            private_addresses: definition.private_addresses,
            key: key.as_ref().map(|key| (&checked.key_header, key)),
            known,
            most,
        };
        self.0.fetcher.get(&question).await
    }

    async fn file(&self, name: String, most: usize) -> Result<Vec<u8>, String> {
        let directory = self.0.parts.directory.clone();
        in_background(move || fetch::file(&directory, &name, most as u64)).await?
    }

    async fn key(&self, name: String) -> Result<HeaderValue, String> {
        let directory = self.0.parts.directory.clone();
        in_background(move || fetch::key(&directory, &name)).await?
    }

    /// Checks the signature that lies beside a document.
    async fn verify(
        &self,
        raw: &[u8],
        definition: &Definition,
        checked: &Checked,
    ) -> Result<(), String> {
        let Some(key) = &checked.minisign else { return Ok(()) };
        let missing = |why| format!("its signature can't be had: {why}");
        let signature = match &checked.location {
            Location::File(name) => {
                self.file(format!("{name}.minisig"), MAX_SIGNATURE_BYTES).await.map_err(missing)?
            }
            Location::Http(url) => {
                let mut beside = url.clone();
                beside.set_path(&format!("{}.minisig", url.path()));
                let most = MAX_SIGNATURE_BYTES;
                match self.http(&beside, definition, checked, None, most).await.map_err(missing)? {
                    Answer::Document { raw, .. } => raw,
                    Answer::Unchanged => Vec::new(),
                }
            }
        };
        let text = String::from_utf8_lossy(&signature);
        let refused = |error| format!("its signature does not fit the key: {error}");
        let signature = Signature::decode(&text).map_err(refused)?;
        key.verify(raw, &signature, false).map_err(refused)
    }

    async fn apply(
        &self,
        name: &str,
        definition: &Definition,
        checked: &Checked,
        status: &mut Status,
        prepared: Prepared,
    ) -> Result<Done, Failure> {
        let Parts { state, hub, clock, .. } = &self.0.parts;
        let now = clock.now();
        let reason: Arc<str> = Arc::from(format!("listed by the feed {name}"));
        let expires_at = Some(later(now, checked.stale_after));
        let targets = Arc::new(prepared.targets);
        let listed: Vec<Listed> = {
            let targets = Arc::clone(&targets);
            let listed = move || {
                let one = |target: &IpNet| Listed {
                    target: *target,
                    reason: Arc::clone(&reason),
                    expires_at,
                };
                targets.iter().map(one).collect()
            };
            in_background(listed).await?
        };
        let set = set(name, definition.action, listed, checked.stale_after / 4);
        let changed = hub.replace(set, applied(name), now).await?;
        status.overlaps = 0;
        status.overlap_samples = Vec::new();
        if definition.action == Action::Block {
            let allows = Allows::load(state.as_ref(), now).await.map_err(ChangeError::from)?;
            (status.overlaps, status.overlap_samples) =
                in_background(move || allows.overlaps(&targets)).await?;
        }
        status.applied_at = Some(now);
        if changed.added + changed.removed > 0 {
            status.changed_at = Some(now);
        }
        status.size = prepared.size;
        status.left_out = prepared.left_out;
        status.samples = prepared.samples;
        status.attribution = prepared.attribution;
        status.digest = Some(prepared.digest);
        (status.etag, status.last_modified) = (prepared.known.etag, prepared.known.last_modified);
        tracing::info!(feed = name, revision = changed.revision.number, "{}", changed.in_words());
        Ok(Done::Applied)
    }

    /// Asks a CrowdSec for what changed, or for everything.
    async fn poll(
        &self,
        name: &str,
        definition: &Definition,
        checked: &Checked,
        status: &mut Status,
        live: &mut Live,
    ) -> Result<Done, Failure> {
        let Location::Http(base) = &checked.location else {
            return Err(Failure::Problem("a CrowdSec is asked over HTTP".to_owned()));
        };
        let Parts { state, hub, clock, protected, most, .. } = &self.0.parts;
        let now = clock.now();
        let whole = live.whole_at.is_none_or(|at| later(at, WHOLE_EVERY) <= now);
        let url = crowdsec::stream_url(base, whole);
        let answer = self.http(&url, definition, checked, None, MAX_BYTES).await?;
        let Answer::Document { raw, .. } = answer else { return Ok(Done::Unchanged) };
        let now = clock.now();
        let (protected, include_reserved) = (protected.clone(), definition.include_reserved);
        let read = move || crowdsec::read(&raw, include_reserved, &protected, now);
        let Change { new, deleted, left_out, samples } = in_background(read).await??;
        if new.len() > *most {
            return Err(Failure::Problem(format!(
                "it has {} decisions: at most {most} are taken (limits.import_targets)",
                new.len()
            )));
        }
        let mut changes = 0;
        if whole {
            let set = set(name, Action::Block, new, CROWDSEC_SLACK);
            let changed = hub.replace(set, applied(name), now).await?;
            changes += changed.added + changed.removed;
            status.applied_at = Some(now);
            (status.left_out, status.samples) = (left_out, samples);
            live.whole_at = Some(now);
        } else {
            if !deleted.is_empty() {
                let which = Removal::Targets {
                    targets: deleted,
                    action: Action::Block,
                    origin: Some(origin(name)),
                };
                let removed = hub.remove(which, applied(name), now).await;
                changes += removed.map_err(ChangeError::from)?.decisions.len() as u64;
            }
            if !new.is_empty() {
                let new: Vec<NewDecision> =
                    new.into_iter().map(|listed| decision(name, listed)).collect();
                changes += hub.add(new, applied(name), now).await?.ids.len() as u64;
            }
            status.left_out.others += left_out.others;
            status.left_out.reserved += left_out.reserved;
            status.left_out.protected += left_out.protected;
            status.left_out.rejected += left_out.rejected;
        }
        if changes > 0 {
            status.changed_at = Some(now);
        }
        let filter =
            DecisionFilter { origin: Some(origin(name)), limit: 1, ..DecisionFilter::default() };
        let (_, entries) = state.decisions(filter, now).await.map_err(ChangeError::from)?;
        status.size = Size { entries, addresses_v4: 0 };
        Ok(if changes > 0 { Done::Applied } else { Done::Unchanged })
    }
}

/// What an attempt leads to; the word of the metric.
fn settle(
    status: &mut Status,
    done: Result<Done, Failure>,
    every: Duration,
    bound: Duration,
    now: Timestamp,
) -> &'static str {
    let (outcome, pause) = match done {
        Ok(done) => {
            status.succeeded_at = Some(now);
            (status.failures, status.problem, status.withheld) = (0, None, None);
            (if matches!(done, Done::Applied) { "applied" } else { "unchanged" }, every)
        }
        Err(Failure::Withheld(why)) => {
            (status.failures, status.problem, status.withheld) = (0, None, Some(why));
            ("withheld", every)
        }
        Err(Failure::Problem(problem)) => {
            status.failures = status.failures.saturating_add(1);
            status.problem = Some(problem);
            let doubled = 2u32.saturating_pow(status.failures.saturating_sub(1).min(16));
            let pause = every.min(FIRST_PAUSE).saturating_mul(doubled);
            ("failed", pause.min(every.max(FIRST_PAUSE)).max(bound))
        }
    };
    status.next_at = Some(later(now, pause));
    outcome
}

fn prepare(
    raw: Vec<u8>,
    definition: &Definition,
    protected: &[IpNet],
    most: usize,
    digest: String,
    known: Known,
) -> Result<Prepared, Failure> {
    let document = fetch::unpack(raw)?;
    let reading = Reading {
        format: definition.format,
        items: definition.items.as_deref(),
        fields: &definition.fields,
    };
    let parsed = parse::parse(&document, &reading, most)?;
    drop(document);
    let withheld = |why: Withheld| Failure::Withheld(why.to_string());
    let sifted =
        guard::sift(parsed.targets, definition.include_reserved, protected).map_err(withheld)?;
    Ok(Prepared {
        size: Size::of(&sifted.targets),
        targets: sifted.targets,
        left_out: LeftOut {
            rejected: parsed.rejected,
            duplicates: parsed.duplicates,
            reserved: sifted.reserved,
            protected: sifted.protected,
            others: 0,
        },
        samples: parsed.samples,
        attribution: definition.attribution.clone().or(parsed.attribution),
        digest,
        known,
    })
}

fn read(stored: StoredFeed) -> Option<Feed> {
    let read = serde_json::from_str(&stored.definition)
        .and_then(|definition| Ok((definition, serde_json::from_str(&stored.status)?)));
    match read {
        Ok((definition, status)) => {
            Some(Feed { name: stored.name, created_at: stored.created_at, definition, status })
        }
        Err(error) => {
            tracing::error!(
                feed = stored.name,
                "can't be read, was it made by a later version? {error}"
            );
            None
        }
    }
}

fn origin(name: &str) -> Origin {
    Origin::Feed(name.to_owned())
}

fn set(name: &str, action: Action, listed: Vec<Listed>, slack: Duration) -> OriginSet {
    OriginSet { origin: origin(name), action, listed, slack }
}

fn decision(name: &str, listed: Listed) -> NewDecision {
    NewDecision {
        target: listed.target,
        action: Action::Block,
        origin: origin(name),
        reason: listed.reason.to_string(),
        expires_at: listed.expires_at,
    }
}

fn applied(name: &str) -> NewAudit {
    NewAudit {
        actor: ACTOR.to_owned(),
        action: "feeds.apply",
        subject: name.to_owned(),
        detail: String::new(),
    }
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| format!("a task ended early: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_but_never_fall_below_what_the_publisher_asks() {
        let now = Timestamp::UNIX_EPOCH;
        let hour = Duration::from_secs(3_600);
        let pauses = |every, bound, attempts: usize| {
            let mut status = Status::default();
            let failed = |status: &mut Status| {
                let failure = Err(Failure::Problem("down".to_owned()));
                assert_eq!(settle(status, failure, every, bound, now), "failed");
                status.next_at.unwrap().as_second()
            };
            (0..attempts).map(|_| failed(&mut status)).collect::<Vec<_>>()
        };
        assert_eq!(pauses(hour, Duration::ZERO, 8), [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
        assert_eq!(pauses(hour * 6, hour, 2), [3_600, 3_600]);
        assert_eq!(pauses(Duration::from_secs(10), Duration::ZERO, 5), [10, 20, 40, 60, 60]);
    }

    #[test]
    fn a_success_forgets_what_was_wrong_and_a_withheld_list_is_no_success() {
        let (now, hour) = (Timestamp::UNIX_EPOCH, Duration::from_secs(3_600));
        let mut status = Status { failures: 3, problem: Some("x".to_owned()), ..Status::default() };
        let withheld = Err(Failure::Withheld("shrunk".to_owned()));
        assert_eq!(settle(&mut status, withheld, hour, Duration::ZERO, now), "withheld");
        assert_eq!((status.succeeded_at, status.withheld.as_deref()), (None, Some("shrunk")));
        let outcome = settle(&mut status, Ok(Done::Unchanged), hour, Duration::ZERO, now);
        let expected = Status {
            succeeded_at: Some(now),
            next_at: Some(later(now, hour)),
            ..Status::default()
        };
        assert_eq!((outcome, status), ("unchanged", expected));
    }
}
