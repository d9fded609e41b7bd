//! Where clients are, at no cost to their requests.
//!
//! | module | owns |
//! |---|---|
//! | [`place`] | the words: country, place |
//! | [`cache`] | what one worker remembers, by network |
//! | [`common`] | what all workers of one Envoy share: answers, the day's look-ups |
//! | [`provider`] | how a provider is asked, what its answers say |
//! | [`breaker`] | leaving a failing provider alone |
//! | [`localize`] | who is sent to the site of their country |
//! | [`regions`] | decisions by country and autonomous system |
//!
//! A request finds its place in the worker's memory (one search in a map, no host call), else
//! in shared data, and goes on in either case. Where nobody knows, its network is noted, and
//! the adapter sends the look-up at its next tick: one for each network and worker at a time,
//! at most [`MAX_IN_FLIGHT`] together. Until the answer says which network it covers, the /24
//! or /48 around the address stands for it.
//!
//! Private and reserved addresses are never asked for.
//!
//! What this module does not do: no I/O (it says what to send), no clock, and it never makes
//! a request wait: the engine does, where a rule needs the answer and the configuration says
//! so.

pub mod breaker;
pub mod cache;
pub mod common;
pub mod localize;
pub mod place;
pub mod provider;
pub mod regions;

use core::net::IpAddr;
use std::collections::VecDeque;
use std::rc::Rc;

use hashbrown::HashMap;
use ipnet::IpNet;

pub use self::common::CommonCounts;
pub use self::place::{Country, Place};
pub use self::provider::Failure;

use self::breaker::{Breaker, State};
use self::cache::Cache;
use self::common::{Common, Spent};
use crate::address;
use crate::config::{self, Token};
use crate::shared::SharedData;

/// Look-ups of one worker that are on their way at one time.
pub const MAX_IN_FLIGHT: usize = 16;
/// Networks of one worker that wait for an answer, or to be asked about again.
pub const MAX_PENDING: usize = 1_024;
/// A network that could not be asked about is looked at again after this time: another worker
/// may have learnt of it.
const HOLD_MS: u64 = 1_000;
/// A network whose look-up failed is not asked about again for this time.
const FAILED_HOLD_MS: u64 = 5_000;
/// Beyond its time-out, after which an answer is no longer expected.
const GRACE_MS: u64 = 5_000;

/// What is known of an address at the moment of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// Its place.
    Known(Rc<Place>),
    /// No place can be told: it has no address, a private one, or nobody knows.
    Nowhere,
    /// It is being asked.
    Pending,
    /// It can't be asked now: the provider fails, or too much is being asked already.
    Unavailable,
    /// It can't be asked today.
    OverQuota,
}

impl Located {
    /// The place, if it is known.
    #[must_use]
    pub const fn place(&self) -> Option<&Rc<Place>> {
        match self {
            Self::Known(place) => Some(place),
            Self::Nowhere | Self::Pending | Self::Unavailable | Self::OverQuota => None,
        }
    }
}

/// A look-up to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// To be named with the answer.
    pub id: u64,
    /// Path and query. It may hold the token: never to be logged.
    pub path: String,
}

/// How a look-up ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The provider knows the place.
    Found,
    /// It answers, and knows nothing.
    Unknown,
    /// It failed.
    Failed(Failure),
    /// Nobody waits for this answer any more.
    Unexpected,
}

/// What happened since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Requests whose place (or that nothing is known of it) the worker remembered.
    pub hits: u64,
    /// Requests whose place was found in shared data.
    pub shared_hits: u64,
    /// Requests whose place was not known.
    pub misses: u64,
    /// Look-ups sent.
    pub sent: u64,
    /// Networks that could not be noted: too many wait already.
    pub dropped: u64,
    /// Look-ups not sent because the day's quota is used up.
    pub over_quota: u64,
}

/// What there is to show of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gauges {
    /// Networks remembered.
    pub networks: u64,
    /// Look-ups on their way.
    pub in_flight: u64,
    /// 0 closed, 1 half open, 2 open.
    pub breaker: u64,
    /// Look-ups of this day as last counted, by all workers.
    pub spent: u64,
}

/// A network that is not known yet.
#[derive(Debug, Clone, Copy)]
enum Pending {
    /// To be asked about this address of it.
    Queued(IpAddr),
    /// Asked.
    InFlight,
    /// Not to be asked before this time (Unix milliseconds).
    Held { until_ms: u64, over_quota: bool },
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    block: IpNet,
    ip: IpAddr,
    at_ms: u64,
}

/// One worker's part.
#[derive(Debug)]
pub struct Geo {
    settings: config::Geo,
    token: String,
    cache: Cache,
    common: Common,
    breaker: Breaker,
    pending: HashMap<IpNet, Pending>,
    queue: VecDeque<IpNet>,
    sent: HashMap<u64, Sent>,
    next_id: u64,
    counts: Counts,
    spent: u32,
    open: bool,
}

impl Geo {
    /// Knows nothing yet. A token must have been resolved to a [`Token::Literal`]; `seed`
    /// differs between workers.
    #[must_use]
    pub fn new(settings: config::Geo, seed: u64) -> Self {
        let token = match &settings.token {
            Some(Token::Literal(token)) => token.clone(),
            Some(Token::Env(_)) | None => String::new(),
        };
        let account = [settings.cluster.as_str(), settings.authority.as_str()].join("\0");
        let source = format!("{account}\0{:?}", settings.provider);
        Self {
            common: Common::new(source.as_bytes(), account.as_bytes()),
            breaker: Breaker::new(seed),
            settings,
            token,
            cache: Cache::default(),
            pending: HashMap::new(),
            queue: VecDeque::new(),
            sent: HashMap::new(),
            next_id: 0,
            counts: Counts::default(),
            spent: 0,
            open: false,
        }
    }

    /// Its settings.
    #[must_use]
    pub const fn settings(&self) -> &config::Geo {
        &self.settings
    }

    /// Makes shared data ready; to be called before traffic. Where the host refuses, a worker
    /// knows only what it asked for itself, and with a quota asks nothing.
    pub fn open(&mut self, shared: &mut dyn SharedData) {
        self.open = self.common.open(shared).is_ok();
    }

    /// Where an address is, as far as known now; notes what is not. `now_ms` is Unix time.
    #[inline]
    pub fn locate(&mut self, shared: &mut dyn SharedData, ip: IpAddr, now_ms: u64) -> Located {
        let now = seconds(now_ms);
        if let Some(answer) = self.cache.find(ip, now) {
            self.counts.hits += 1;
            return answer.map_or(Located::Nowhere, Located::Known);
        }
        self.locate_unknown(shared, ip, now_ms)
    }

    /// Where an address is, as far as this Envoy knows already; nobody is asked for it.
    pub fn known(&mut self, shared: &mut dyn SharedData, ip: IpAddr, now_ms: u64) -> Located {
        let now = seconds(now_ms);
        let found = self.cache.find(ip, now).or_else(|| {
            let (network, answer, expires_at) =
                self.open.then(|| self.common.find(shared, ip, now)).flatten()?;
            self.cache.insert(network, answer.clone(), expires_at);
            Some(answer)
        });
        match found {
            Some(answer) => answer.map_or(Located::Nowhere, Located::Known),
            None => Located::Unavailable,
        }
    }

    /// Whether look-ups leave the operator's own systems: everyone but a control plane is a
    /// third party.
    #[must_use]
    pub const fn is_third_party(&self) -> bool {
        !matches!(self.settings.provider, provider::Provider::Ipwarden)
    }

    #[cold]
    fn locate_unknown(&mut self, shared: &mut dyn SharedData, ip: IpAddr, now_ms: u64) -> Located {
        let now = seconds(now_ms);
        if !address::is_global(ip) {
            // Remembered like an answer, for as long as the tables of this version hold.
            self.cache.insert(address::uniform_net(ip), None, u32::MAX);
            return Located::Nowhere;
        }
        let block = provider::block(ip);
        match self.pending.get(&block) {
            Some(Pending::Queued(_) | Pending::InFlight) => {
                self.counts.misses += 1;
                return Located::Pending;
            }
            Some(Pending::Held { until_ms, over_quota }) if now_ms < *until_ms => {
                self.counts.misses += 1;
                return if *over_quota { Located::OverQuota } else { Located::Unavailable };
            }
            Some(Pending::Held { .. }) | None => {}
        }
        if self.open
            && let Some((network, answer, expires_at)) = self.common.find(shared, ip, now)
        {
            self.counts.shared_hits += 1;
            self.pending.remove(&block);
            self.cache.insert(network, answer.clone(), expires_at);
            return answer.map_or(Located::Nowhere, Located::Known);
        }
        self.counts.misses += 1;
        self.note(block, ip, now_ms)
    }

    /// Notes a network that is to be asked about.
    fn note(&mut self, block: IpNet, ip: IpAddr, now_ms: u64) -> Located {
        if self.pending.len() >= MAX_PENDING && !self.pending.contains_key(&block) {
            self.counts.dropped += 1;
            return Located::Unavailable;
        }
        if !self.breaker.allows(now_ms) {
            let held = Pending::Held { until_ms: now_ms + HOLD_MS, over_quota: false };
            self.pending.insert(block, held);
            return Located::Unavailable;
        }
        self.pending.insert(block, Pending::Queued(ip));
        self.queue.push_back(block);
        Located::Pending
    }

    /// Whether [`Self::next_lookup`] has something to send now.
    #[must_use]
    pub fn has_work(&self, now_ms: u64) -> bool {
        !self.queue.is_empty() && self.may_send(now_ms)
    }

    fn may_send(&self, now_ms: u64) -> bool {
        // An open breaker lets one probe through.
        let most = if self.breaker.state() == State::Closed { MAX_IN_FLIGHT } else { 1 };
        self.sent.len() < most && self.breaker.allows(now_ms)
    }

    /// The next look-up to send, if any. Call until `None`.
    pub fn next_lookup(&mut self, shared: &mut dyn SharedData, now_ms: u64) -> Option<Lookup> {
        while self.may_send(now_ms) {
            let block = self.queue.pop_front()?;
            let Some(Pending::Queued(ip)) = self.pending.get(&block).copied() else { continue };
            // A wider answer, or another worker's, may have come since.
            let now = seconds(now_ms);
            if self.cache.find(ip, now).is_some() {
                self.pending.remove(&block);
                continue;
            }
            if let Some(quota) = self.settings.quota_per_day {
                match self.common.spend(shared, quota, now) {
                    Spent::Counted(spent) => self.spent = spent,
                    spent => {
                        let over_quota = spent == Spent::Exhausted;
                        if over_quota {
                            // Other workers spent what this one did not.
                            self.spent = quota;
                        }
                        self.counts.over_quota += u64::from(over_quota);
                        let held = Pending::Held { until_ms: now_ms + HOLD_MS, over_quota };
                        self.pending.insert(block, held);
                        continue;
                    }
                }
            }
            self.breaker.sent();
            self.counts.sent += 1;
            self.next_id += 1;
            self.pending.insert(block, Pending::InFlight);
            self.sent.insert(self.next_id, Sent { block, ip, at_ms: now_ms });
            let path = self.settings.provider.path(ip, &self.token);
            return Some(Lookup { id: self.next_id, path });
        }
        None
    }

    /// The value of `authorization`, where the provider wants one.
    #[must_use]
    pub fn authorization(&self) -> Option<String> {
        let sends = self.settings.provider.sends_bearer() && !self.token.is_empty();
        sends.then(|| format!("Bearer {}", self.token))
    }

    /// Takes the answer to a look-up: its status (0 for a reset or a call that could not be
    /// sent) and its body, of which at most [`provider::MAX_ANSWER_BYTES`] plus one byte are
    /// needed.
    pub fn answered(
        &mut self,
        shared: &mut dyn SharedData,
        id: u64,
        status: u16,
        body: &[u8],
        now_ms: u64,
    ) -> Outcome {
        let Some(Sent { block, ip, .. }) = self.sent.remove(&id) else {
            return Outcome::Unexpected;
        };
        match self.settings.provider.read(ip, status, body) {
            Ok((network, answer)) => {
                self.breaker.succeeded();
                self.pending.remove(&block);
                let now = seconds(now_ms);
                let keep = if answer.is_some() {
                    self.settings.cache
                } else {
                    self.settings.negative_cache
                };
                let keep = u32::try_from(keep.as_secs()).unwrap_or(u32::MAX);
                let expires_at = now.saturating_add(keep);
                if self.open {
                    self.common.insert(shared, network, &answer, expires_at, now);
                }
                let outcome = if answer.is_some() { Outcome::Found } else { Outcome::Unknown };
                self.cache.insert(network, answer, expires_at);
                outcome
            }
            Err(failure) => {
                self.breaker.failed(now_ms, failure.is_refusal());
                let until_ms = now_ms + FAILED_HOLD_MS;
                self.pending.insert(block, Pending::Held { until_ms, over_quota: false });
                self.shed_queue(now_ms);
                Outcome::Failed(failure)
            }
        }
    }

    /// With a breaker that opened nothing of what waits is sent: requests to come ask anew.
    fn shed_queue(&mut self, now_ms: u64) {
        if self.breaker.allows(now_ms) {
            return;
        }
        for block in self.queue.drain(..) {
            let held = Pending::Held { until_ms: now_ms + HOLD_MS, over_quota: false };
            self.pending.insert(block, held);
        }
    }

    /// Gives up what was never answered, forgets what was held. To be called now and then;
    /// returns the look-ups that were given up.
    pub fn tick(&mut self, now_ms: u64) -> u64 {
        let patience = u64::try_from(self.settings.timeout.as_millis()).unwrap_or(u64::MAX);
        let patience = patience.saturating_add(GRACE_MS);
        let mut lost = 0;
        let Self { sent, pending, breaker, .. } = self;
        sent.retain(|_, sent| {
            // A clock that was set back counts as none.
            let keep = now_ms.saturating_sub(sent.at_ms) < patience;
            if !keep {
                lost += 1;
                breaker.failed(now_ms, false);
                pending.remove(&sent.block);
            }
            keep
        });
        let longest = now_ms + FAILED_HOLD_MS;
        pending.retain(|_, pending| match pending {
            Pending::Held { until_ms, .. } => now_ms < *until_ms && *until_ms <= longest,
            Pending::Queued(_) | Pending::InFlight => true,
        });
        if lost > 0 {
            self.shed_queue(now_ms);
        }
        lost
    }

    /// Whether an answer for this address is still to be expected.
    #[must_use]
    pub fn awaits(&self, ip: IpAddr) -> bool {
        let pending = self.pending.get(&provider::block(ip));
        matches!(pending, Some(Pending::Queued(_) | Pending::InFlight))
    }

    /// What happened since the last call.
    pub fn take_counts(&mut self) -> (Counts, CommonCounts, (u64, u64)) {
        (
            core::mem::take(&mut self.counts),
            core::mem::take(&mut self.common.counts),
            self.breaker.take_changes(),
        )
    }

    /// What there is to show.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        Gauges {
            networks: self.cache.len() as u64,
            in_flight: self.sent.len() as u64,
            breaker: match self.breaker.state() {
                State::Closed => 0,
                State::HalfOpen => 1,
                State::Open { .. } => 2,
            },
            spent: u64::from(self.spent),
        }
    }
}

fn seconds(now_ms: u64) -> u32 {
    u32::try_from(now_ms / 1_000).unwrap_or(u32::MAX)
}
