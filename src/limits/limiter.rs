//! One request through matching, identity, keys and buckets.
//!
//! A worker's limiter holds the limits in force (the plugin's own, changed by the control
//! plane's policy), the shared table of buckets, and a small memory of keys that were just
//! refused: a client in a flood is refused from that memory, and shared data is asked again
//! about it once a second.
//!
//! A request that falls under one limit costs one read and one compare-and-swap; one that
//! falls under none costs no host call at all.
//!
//! What this module does not do: it answers nobody and records nothing; it says what became
//! of a request, and the engine goes on from there.

mod plan;

use core::net::IpAddr;
use std::borrow::Cow;
use std::rc::Rc;

use hashbrown::HashMap;

use super::fleet::{BucketId, Consumption, Secret, Tally};
use super::gcra::{Bucket, Nanos, seconds_up};
use super::identity::Source;
use super::matching::{Request, Specificity, normalise};
use super::policy::{Override, Policy, Reset};
use super::table::{Attempt, Counts, Done, Fill, Operation, Place, Table};
use super::{Apply, Limit, MAX_APPLIED, MAX_LIMITS, Mode, Rate, Scope, Standing, table};
use crate::config::{LimitsTable, OnContention};
use crate::shared::SharedData;

pub use self::plan::Rule;
use self::plan::{Hashers, Planned};

/// Refused keys that a worker remembers.
const MAX_REMEMBERED: usize = 4_096;
/// After this time a remembered refusal is looked up again: tokens may have been given back.
const RECHECK: Nanos = 1_000_000_000;
/// What a client is told to wait for when workers got into each other's way.
const CONTENDED_WAIT: Nanos = 1_000_000_000;
/// The route metadata that names limits, and the word for none of them.
const ROUTE_LIMITS: &[u8] = b"xds\0route_metadata\0filter_metadata\0ipwarden\0limits";
const NO_LIMIT: &[u8] = b"none";
/// For an operation to which the rate is of no account.
const ANY_BUCKET: Bucket = Bucket { interval: 1, capacity: 1, horizon: 1 };
/// Sets of the table that one sample looks at.
const SAMPLED_SETS: u64 = 64;

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// The client's address; `None` where it has none (a pipe, an internal listener): it is
    /// not limited by address then.
    pub ip: Option<IpAddr>,
    /// Envoy's address of the peer, which decides whether a header is trusted.
    pub peer: Option<IpAddr>,
    /// The client opted out of being followed; limits hold all the same.
    pub opted_out: bool,
}

/// What the limits said of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every limit that applied admits it.
    Admitted,
    /// So does every one that is enforced; one in shadow mode would refuse it.
    Shadow,
    /// Refused.
    Refused,
}

/// What became of a request that limits applied to, as far as somebody has to know later.
#[derive(Debug)]
pub struct Ruling {
    /// What the limits said.
    pub outcome: Outcome,
    /// The limit that refuses it, or in shadow mode would; `None` where all admit it.
    rule: Option<Rc<Rule>>,
    standings: Vec<(Rc<Rule>, Rate, u32, u32)>,
    charges: Vec<Charge>,
}

/// A bucket whose price depends on the response.
#[derive(Debug)]
struct Charge {
    rule: Rc<Rule>,
    place: Place,
    bucket: Bucket,
    id: Option<BucketId>,
}

impl Ruling {
    /// The limit that refused it or would have.
    #[must_use]
    pub fn limit(&self) -> Option<&Limit> {
        self.rule.as_deref().map(Rule::limit)
    }

    /// Where the client stands: of a refused request in the limit that refused it, of an
    /// admitted one in those that say so in headers.
    pub fn standings(&self) -> impl Iterator<Item = Standing<'_>> {
        self.standings.iter().map(|(rule, rate, remaining, reset_seconds)| Standing {
            name: &rule.limit().name,
            rate: *rate,
            remaining: *remaining,
            reset_seconds: *reset_seconds,
            violated: self.outcome == Outcome::Refused,
        })
    }

    /// Whether the status of the response changes what the request costs.
    #[must_use]
    pub const fn awaits_status(&self) -> bool {
        !self.charges.is_empty()
    }
}

/// Requests of one limit since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleCounts {
    /// Admitted.
    pub admitted: u64,
    /// Refused.
    pub refused: u64,
    /// Admitted although it would have refused them, were it enforced.
    pub shadow: u64,
}

/// The limits in force in one worker.
#[derive(Debug)]
pub struct Limiter {
    own: Vec<Limit>,
    sources: Vec<Source>,
    on_contention: OnContention,
    namespace: String,
    rules: Vec<Rc<Rule>>,
    counts: Vec<RuleCounts>,
    /// Some limit applies where a route names it: routes have to be asked.
    asks_routes: bool,
    /// Some limit counts over the fleet.
    counts_fleet: bool,
    tally: Tally,
    table: Table,
    random: [u8; 16],
    remembered: HashMap<Place, Remembered>,
    purged: Nanos,
    plan: Vec<Planned>,
}

/// A key that was refused a moment ago.
#[derive(Debug, Clone, Copy)]
struct Remembered {
    since: Nanos,
    until: Nanos,
}

impl Remembered {
    /// Whether it still tells something. What was noted in the future was noted before the
    /// clock went back.
    fn holds(&self, now: Nanos) -> bool {
        (self.since..self.since.saturating_add(RECHECK)).contains(&now) && now < self.until
    }
}

impl Limiter {
    /// The plugin's own limits. `namespace` keeps buckets of instances with different control
    /// planes apart; `random` becomes the table's secret where there is none yet.
    #[must_use]
    pub fn new(
        own: Vec<Limit>,
        sources: Vec<Source>,
        table: LimitsTable,
        namespace: &str,
        random: [u8; 16],
    ) -> Self {
        let mut limiter = Self {
            own,
            sources,
            on_contention: table.on_contention,
            namespace: namespace.to_owned(),
            rules: Vec::new(),
            counts: Vec::new(),
            asks_routes: false,
            counts_fleet: false,
            tally: Tally::default(),
            table: Table::new(table::bits_for(table.keys)),
            random,
            remembered: HashMap::new(),
            purged: 0,
            plan: Vec::new(),
        };
        limiter.apply(&Policy::default());
        limiter
    }

    /// The limits in force.
    pub fn limits(&self) -> impl Iterator<Item = &Limit> {
        self.rules.iter().map(|rule| rule.limit())
    }

    /// The plugin's own limits.
    #[must_use]
    pub fn own(&self) -> &[Limit] {
        &self.own
    }

    /// Puts a policy over the plugin's own limits. Buckets stay as they are: they belong to
    /// a limit's name and a key, not to a rate.
    pub fn apply(&mut self, policy: &Policy) {
        let mut limits = self.own.clone();
        for change in &policy.limits {
            let name = match change {
                Override::Whole(limit) => &limit.name,
                Override::Mode { name, .. } => name,
            };
            let known = limits.iter_mut().find(|limit| limit.name == *name);
            match (change, known) {
                (Override::Whole(limit), Some(known)) => known.clone_from(limit),
                (Override::Whole(limit), None) => limits.push((**limit).clone()),
                (Override::Mode { mode, .. }, Some(known)) => known.mode = *mode,
                (Override::Mode { .. }, None) => {}
            }
        }
        limits.truncate(MAX_LIMITS);
        self.counts_fleet = limits.iter().any(|limit| limit.scope == Scope::Fleet);
        self.asks_routes = limits.iter().any(|limit| limit.apply == Apply::Route);
        // Requests that nobody has asked about yet were counted under the limit's name.
        let counted = |limit: &Limit| {
            let mut known = self.rules.iter().zip(&self.counts);
            let counts = known.find(|(rule, _)| rule.limit().name == limit.name);
            counts.map_or_else(RuleCounts::default, |(_, counts)| *counts)
        };
        self.counts = limits.iter().map(counted).collect();
        self.rules = limits.into_iter().map(|limit| Rc::new(Rule::new(limit))).collect();
        // Whoever was refused may be admitted now.
        self.remembered.clear();
    }

    /// Makes the table ready if any limit needs it. To be called before traffic, and again
    /// whenever limits changed; cheap when all is done. A host that refuses is asked again
    /// with the first request.
    pub fn open(&mut self, shared: &mut dyn SharedData) {
        if !self.rules.is_empty() && !self.table.is_open() {
            // A table that stays closed limits nobody, and is counted.
            let _ = self.table.open(shared, self.random);
        }
    }

    /// Fills the buckets of those resets that come after number `done`; the number of the
    /// last reset.
    pub fn reset(&mut self, shared: &mut dyn SharedData, resets: &[Reset], done: u64) -> u64 {
        self.open(shared);
        let mut last = done;
        for reset in resets.iter().filter(|reset| reset.id > done) {
            last = last.max(reset.id);
            let named = |rule: &&Rc<Rule>| {
                reset.limit.as_deref().is_none_or(|name| name == rule.limit().name)
            };
            for rule in self.rules.iter().filter(named) {
                let Some(hashers) = self.hashers() else { break };
                let places = plan::places_of(rule, &hashers, &reset.key, &self.sources);
                for place in places {
                    // The time is of no account: the entry is set to owe nothing.
                    let attempt = Attempt::new(place, ANY_BUCKET, Operation::Reset, 0);
                    self.table.run(shared, attempt);
                }
            }
        }
        self.remembered.clear();
        last
    }

    /// Whether some limit in force would apply to the request but for a place that is not
    /// known yet.
    #[must_use]
    pub fn awaits_place(&self, request: &Request<'_>) -> bool {
        if !self.rules.iter().any(|rule| rule.limit().matches.needs_place()) {
            return false;
        }
        let any = |request: &Request<'_>| {
            self.rules.iter().any(|rule| rule.limit().matches.awaits_place(request))
        };
        any(request)
            || match normalise(request.path) {
                Cow::Owned(path) => any(&request.with_path(&path)),
                Cow::Borrowed(_) => false,
            }
    }

    /// Judges a request, its path as it was sent. `clock` is asked only when a limit applies.
    /// `None`: admitted, and nobody has to know more.
    pub fn judge(
        &mut self,
        shared: &mut dyn SharedData,
        client: Client,
        request: &Request<'_>,
        clock: &mut dyn FnMut() -> Nanos,
    ) -> Option<Box<Ruling>> {
        if self.rules.is_empty() {
            return None;
        }
        let mut applied = Applied::default();
        self.find_applied(request, &mut applied);
        // Envoy may have routed by the path as it was sent, the server may understand another:
        // what either falls under applies.
        if let Cow::Owned(path) = normalise(request.path) {
            self.find_applied(&request.with_path(&path), &mut applied);
        }
        if applied.is_empty() {
            return None;
        }
        if !self.table.is_open() {
            self.open(shared);
        }
        let mut plan = core::mem::take(&mut self.plan);
        plan.clear();
        if let Some(hashers) = self.hashers() {
            let mut who = plan::Who::new(&self.sources, client, request);
            for mode in [Mode::Enforce, Mode::Shadow] {
                for index in applied.iter() {
                    if let Some(rule) = self.rules.get(index)
                        && rule.limit().mode == mode
                    {
                        rule.plan(index, &hashers, &mut who, &mut plan);
                    }
                }
            }
        }
        let ruling = if plan.is_empty() { None } else { self.rule(shared, &mut plan, clock()) };
        self.plan = plan;
        ruling
    }

    /// Charges what the status of the response says beyond what was charged already, or gives
    /// it back; once.
    pub fn answered(
        &mut self,
        shared: &mut dyn SharedData,
        ruling: &mut Ruling,
        status: u16,
        now: Nanos,
    ) {
        for Charge { rule, place, bucket, id } in ruling.charges.drain(..) {
            let cost = &rule.limit().cost;
            let (taken, due) = (cost.default, cost.of(status));
            if let Some(id) = id {
                self.tally.note(id, place, bucket, i64::from(due) - i64::from(taken));
            }
            let operation = match due.cmp(&taken) {
                core::cmp::Ordering::Greater => Operation::Charge(due - taken),
                core::cmp::Ordering::Less => Operation::Refund(taken - due),
                core::cmp::Ordering::Equal => continue,
            };
            self.remembered.remove(&place);
            self.table.run(shared, Attempt::new(place, bucket, operation, now));
        }
    }

    /// Whether some limit in force counts over the fleet.
    #[must_use]
    pub const fn counts_fleet(&self) -> bool {
        self.counts_fleet
    }

    /// What this worker took from buckets of the fleet.
    pub const fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// A number for this Envoy that all its workers know and nobody else; `None` while the
    /// host refuses.
    pub fn origin(&mut self, shared: &mut dyn SharedData) -> Option<u64> {
        if !self.table.is_open() {
            // Also where no limit is in force in this worker: it reports for others.
            self.table.open(shared, self.random).ok()?;
        }
        let mut hasher = self.table.hasher()?;
        hasher.part(b"origin");
        Some(hasher.digest() as u64)
    }

    /// Moves a bucket forward: it owes at least `debt`.
    pub fn advance(
        &mut self,
        shared: &mut dyn SharedData,
        of: &Consumption,
        debt: Nanos,
        now: Nanos,
    ) {
        let attempt = Attempt::new(of.place, of.bucket, Operation::Advance(debt), now);
        self.table.run(shared, attempt);
    }

    fn hashers(&self) -> Option<Hashers<'_>> {
        Some(Hashers {
            place: self.table.hasher()?,
            namespace: &self.namespace,
            secret: self.tally.secret().copied().filter(|_| self.counts_fleet),
        })
    }

    /// What each limit did since the last call; limits that did nothing are left out.
    pub fn take_counts(&mut self) -> impl Iterator<Item = (&str, RuleCounts)> {
        self.rules.iter().zip(&mut self.counts).filter_map(|(rule, counts)| {
            let counts = core::mem::take(counts);
            (counts != RuleCounts::default()).then(|| (rule.limit().name.as_str(), counts))
        })
    }

    /// What happened in the table since the last call.
    pub fn take_table_counts(&mut self) -> Counts {
        self.table.take_counts()
    }

    /// How full the table is, estimated from a few sets, others each time; `None` while it is
    /// not in use.
    pub fn fill(&mut self, shared: &mut dyn SharedData, now: Nanos) -> Option<Fill> {
        self.table.is_open().then(|| self.table.sample(shared, SAMPLED_SETS, now))
    }

    /// Adds the limits that apply, by their numbers.
    fn find_applied(&self, request: &Request<'_>, applied: &mut Applied) {
        let mut closest: Option<(Specificity, usize)> = None;
        for (index, rule) in self.rules.iter().enumerate() {
            let limit = rule.limit();
            if limit.apply == Apply::Route {
                continue;
            }
            let Some(specificity) = limit.matches.matches(request) else { continue };
            if limit.apply == Apply::All {
                applied.add(index);
            } else if closest.is_none_or(|(best, _)| specificity > best) {
                closest = Some((specificity, index));
            }
        }
        // The route is asked only where it can change something: that is a call of the host.
        let mut asked: Option<Vec<u8>> = None;
        if self.asks_routes || closest.is_some() {
            asked = request.attributes.attribute(ROUTE_LIMITS).filter(|names| !names.is_empty());
        }
        let is_named = |name: &str| {
            asked.as_deref().is_some_and(|names| {
                names.split(|byte| *byte == b',').any(|one| one.trim_ascii() == name.as_bytes())
            })
        };
        // A route that names limits takes the place of the choice by specificity, also when
        // it says that none shall apply; but not when it only names what does not exist: a
        // slip must not open the gate.
        let by_route = asked.as_deref().is_some_and(|names| names.trim_ascii() == NO_LIMIT)
            || self.rules.iter().any(|rule| is_named(&rule.limit().name));
        if !by_route {
            if let Some((_, index)) = closest {
                applied.add(index);
            }
            return;
        }
        for (index, rule) in self.rules.iter().enumerate() {
            let limit = rule.limit();
            if is_named(&limit.name) && limit.matches.matches(request).is_some() {
                applied.add(index);
            }
        }
    }

    /// Judges by a plan, in which enforced limits come first.
    fn rule(
        &mut self,
        shared: &mut dyn SharedData,
        plan: &mut [Planned],
        now: Nanos,
    ) -> Option<Box<Ruling>> {
        let count = plan.iter().take_while(|planned| planned.mode == Mode::Enforce).count();
        let (enforced, shadow) = plan.split_at_mut_checked(count)?;
        if let Some((planned, until)) = self.take_all(shared, enforced, now) {
            return Some(self.refuse(&planned, until, now));
        }
        for planned in enforced.iter().filter(|planned| !planned.is_ceiling) {
            self.count(planned.rule, |counts| counts.admitted += 1);
        }
        let mut would_refuse = None;
        for buckets in shadow.chunk_by_mut(|one, next| one.rule == next.rule) {
            let Some(rule) = buckets.first().map(|planned| planned.rule) else { continue };
            if self.take_all(shared, buckets, now).is_some() {
                self.count(rule, |counts| counts.shadow += 1);
                would_refuse.get_or_insert(rule);
            } else {
                self.count(rule, |counts| counts.admitted += 1);
            }
        }
        if would_refuse.is_none() && !plan.iter().any(|planned| planned.keeps) {
            return None;
        }
        let rule_of = |rule: usize| self.rules.get(rule).map(Rc::clone);
        let mut ruling = Box::new(Ruling {
            outcome: if would_refuse.is_some() { Outcome::Shadow } else { Outcome::Admitted },
            rule: would_refuse.and_then(rule_of),
            standings: Vec::new(),
            charges: Vec::new(),
        });
        for planned in plan {
            let (Some(rule), Some(arrival)) = (rule_of(planned.rule), planned.taken) else {
                continue;
            };
            let limit = rule.limit();
            if !limit.cost.status.is_empty() {
                let Planned { place, bucket, id, .. } = *planned;
                ruling.charges.push(Charge { rule: Rc::clone(&rule), place, bucket, id });
            }
            if limit.headers && limit.mode == Mode::Enforce {
                let remaining = planned.bucket.remaining(arrival, now);
                let reset = seconds_up(planned.bucket.next_token(arrival, now));
                let standing = (rule, planned.rate, remaining, reset);
                // Of a bucket and the ceiling above it the one that ends first.
                match ruling.standings.last_mut() {
                    Some(last) if Rc::ptr_eq(&last.0, &standing.0) => {
                        if remaining < last.2 {
                            *last = standing;
                        }
                    }
                    _ => ruling.standings.push(standing),
                }
            }
        }
        Some(ruling)
    }

    /// Takes tokens from every bucket, or from none: then the one that refuses, and until when.
    fn take_all(
        &mut self,
        shared: &mut dyn SharedData,
        buckets: &mut [Planned],
        now: Nanos,
    ) -> Option<(Planned, Nanos)> {
        let known =
            |planned: &Planned| Some((*planned, self.remembered_until(planned.place, now)?));
        if let Some(refused) = buckets.iter().find_map(known) {
            return Some(refused);
        }
        let mut refused = None;
        for planned in &mut *buckets {
            match self.take(shared, planned, now) {
                Taken::Admitted(arrival) => planned.taken = Some(arrival),
                Taken::Unlimited => {}
                Taken::Refused(until) => {
                    refused = Some((*planned, until));
                    break;
                }
            }
        }
        if refused.is_none() {
            for planned in &*buckets {
                // What could not be counted here is not counted elsewhere.
                if let (Some(id), Some(_)) = (planned.id, planned.taken) {
                    self.tally.note(id, planned.place, planned.bucket, i64::from(planned.cost));
                }
            }
        } else {
            for planned in buckets {
                if planned.taken.take().is_some() {
                    let back = Operation::Refund(planned.cost);
                    let attempt = Attempt::new(planned.place, planned.bucket, back, now);
                    self.table.run(shared, attempt);
                }
            }
        }
        refused
    }

    fn take(&mut self, shared: &mut dyn SharedData, planned: &Planned, now: Nanos) -> Taken {
        let attempt =
            Attempt::new(planned.place, planned.bucket, Operation::Take(planned.cost), now);
        match self.table.run(shared, attempt) {
            Done::Stored(arrival) => Taken::Admitted(arrival),
            Done::Refused(until) => {
                self.remember(planned.place, until, now);
                Taken::Refused(until)
            }
            Done::Contended if self.on_contention == OnContention::Refuse => {
                Taken::Refused(now.saturating_add(CONTENDED_WAIT))
            }
            Done::Contended | Done::HostError => Taken::Unlimited,
        }
    }

    fn refuse(&mut self, planned: &Planned, until: Nanos, now: Nanos) -> Box<Ruling> {
        self.count(planned.rule, |counts| counts.refused += 1);
        let rule = self.rules.get(planned.rule).map(Rc::clone);
        let reset = seconds_up(until.saturating_sub(now)).max(1);
        // What is left is less than the request costs; of the usual cost 1 that is nothing.
        let standing = rule.iter().map(|rule| (Rc::clone(rule), planned.rate, 0, reset));
        Box::new(Ruling {
            outcome: Outcome::Refused,
            standings: standing.collect(),
            charges: Vec::new(),
            rule,
        })
    }

    fn count(&mut self, rule: usize, change: impl FnOnce(&mut RuleCounts)) {
        if let Some(counts) = self.counts.get_mut(rule) {
            change(counts);
        }
    }

    fn remembered_until(&self, place: Place, now: Nanos) -> Option<Nanos> {
        let remembered = self.remembered.get(&place)?;
        remembered.holds(now).then_some(remembered.until)
    }

    fn remember(&mut self, place: Place, until: Nanos, now: Nanos) {
        if self.remembered.len() >= MAX_REMEMBERED {
            // At most once a second: a spray of refused keys must not make each request pay
            // for the whole memory.
            if now.abs_diff(self.purged) < RECHECK {
                return;
            }
            self.purged = now;
            self.remembered.retain(|_, kept| kept.holds(now));
            if self.remembered.len() >= MAX_REMEMBERED {
                return;
            }
        }
        self.remembered.insert(place, Remembered { since: now, until });
    }
}

/// What the fleet calls the buckets of a limit that belong to `key`, as a reset names it. An
/// identity may come from any of the sources that a configuration can have. Empty for a limit
/// that does not count over the fleet.
#[must_use]
pub fn fleet_buckets(limit: &Limit, secret: &Secret, key: &str) -> Vec<BucketId> {
    match limit.scope {
        Scope::Proxy => Vec::new(),
        Scope::Fleet => plan::ids_of(limit, secret, key, crate::config::MAX_IDENTITY_SOURCES),
    }
}

/// The limits that apply to a request. There is room for what a configuration and a policy can
/// have for all requests, and for the closest match of two spellings of a path.
#[derive(Debug, Default)]
struct Applied([Option<usize>; 2 * MAX_APPLIED + 2]);

impl Applied {
    /// Adds one, once.
    fn add(&mut self, index: usize) {
        let place = self.0.iter_mut().find(|place| place.is_none_or(|known| known == index));
        if let Some(place) = place {
            *place = Some(index);
        }
    }

    const fn is_empty(&self) -> bool {
        matches!(self.0, [None, ..])
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().copied().flatten()
    }
}

/// What became of one bucket.
enum Taken {
    Admitted(Nanos),
    /// Nothing was taken, and the request passes all the same.
    Unlimited,
    Refused(Nanos),
}

#[cfg(test)]
mod tests;
