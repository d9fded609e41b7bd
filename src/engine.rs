//! One worker: a request in, a verdict out; calls to the control plane as values.
//!
//! The engine owns a worker's table, buffer and its share in fetching and shipping. It does
//! no I/O: the adapter gives it the time and shared data, sends the calls that
//! [`Engine::next_call`] returns and brings back their answers.

use core::net::IpAddr;
use core::time::Duration;

use serde_json::json;

use crate::config::{self, Config, OnStart, Records};
use crate::decisions::replica::{
    Answer as PollAnswer, Follower, Outcome, Refresh, Replicator, TakePolicy,
};
use crate::decisions::{Action, DecisionId, POLL_PATH, Revision, UnixSeconds};
use crate::geo::regions::{self, Hit};
use crate::geo::{self, Geo, Located, localize};
use crate::limits::fleet::member::Member;
use crate::limits::fleet::reporter::{self, Counts as FleetCounts};
use crate::limits::fleet::{self, wire as fleet_wire};
use crate::limits::gcra::Nanos;
use crate::limits::limiter::{Client, Limiter, Outcome as LimitOutcome, RuleCounts, Ruling};
use crate::limits::matching::Request;
use crate::limits::table::{Counts as TableCounts, Fill};
use crate::limits::{GrpcStatus, Mode, Standing};
use crate::privacy::{self, disguise::Disguise};
use crate::record::buffer::{Buffer, Cause, Policy, Requester};
use crate::record::delivery::{self, Answer as ShipAnswer, Delivery, Identity, Shipment};
use crate::record::handover::{Counts as HandoverCounts, Handover};
use crate::record::{Record, Verdict};
use crate::refusal::{Replies, Reply, Response, ratelimit_headers};
use crate::shared::SharedData;

/// Frames of a snapshot that a tick makes part of a table, while requests wait.
const FRAMES_PER_TICK: u32 = 1;
/// A worker that waits for its first request tries to load this often before it lets the
/// request pass: the head may change while it reads.
const FIRST_LOAD_TRIES: u32 = 3;

/// How long the control plane may take for the report of limits.
const REPORT_TIMEOUT_MS: u64 = 10_000;
/// How often the table of buckets is sampled.
const FILL_EVERY_US: u64 = 10_000_000;

/// What is to be done with a request.
#[derive(Debug)]
pub enum Judgement {
    /// Pass it on.
    Admit,
    /// A decision refuses it.
    Block(DecisionId),
    /// No decision set has arrived yet and the configuration says to wait for one.
    Unready,
    /// Limits applied, and what they said is of some account: refused, would be refused, or
    /// to be looked at again with the response.
    Limit(Box<Ruling>),
    /// A decision by region refuses it, or in shadow mode would.
    Region(Box<Regional>),
    /// To be sent to the site of its country, or in shadow mode would be.
    Redirect(Box<Redirect>),
    /// A rule needs to know where the client is, which is being asked: the request may wait
    /// until the answer comes, [`Engine::wait_us`] at most, and is then judged again
    /// ([`Turn::Waited`]).
    Wait,
}

/// A request that a localisation rule is for.
#[derive(Debug)]
pub struct Redirect {
    rule: String,
    location: String,
    is_shadow: bool,
    /// What limits said before.
    ruling: Option<Box<Ruling>>,
}

/// Whether a request may still wait for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It has not waited yet.
    First,
    /// It has waited: it is judged by what is known now.
    Waited,
}

/// A request that a decision by region is for.
#[derive(Debug)]
pub struct Regional {
    hit: Hit,
    /// What limits said of one that is not refused.
    ruling: Option<Box<Ruling>>,
}

impl Judgement {
    /// The word that records and metrics use.
    #[must_use]
    pub const fn verdict(&self) -> Verdict {
        match self {
            Self::Admit => Verdict::Admitted,
            Self::Block(_) => Verdict::Blocked,
            Self::Unready => Verdict::Unready,
            Self::Limit(ruling) => match ruling.outcome {
                LimitOutcome::Admitted => Verdict::Admitted,
                LimitOutcome::Shadow => Verdict::Shadow,
                LimitOutcome::Refused => Verdict::Limited,
            },
            Self::Region(regional) => match regional.hit.mode {
                Mode::Enforce => Verdict::Blocked,
                Mode::Shadow => Verdict::Shadow,
            },
            Self::Redirect(redirect) if redirect.is_shadow => Verdict::Shadow,
            Self::Redirect(_) => Verdict::Redirected,
            // Of one that ended while it waited.
            Self::Wait => Verdict::Unseen,
        }
    }

    /// The decision that refuses or in shadow mode would, 0 for none.
    #[must_use]
    pub const fn decision(&self) -> DecisionId {
        match self {
            Self::Block(id) => *id,
            Self::Region(regional) => regional.hit.id,
            Self::Admit | Self::Unready | Self::Limit(_) | Self::Redirect(_) | Self::Wait => 0,
        }
    }

    /// The limit, region or redirect that refuses or in shadow mode would, empty for none.
    #[must_use]
    pub fn rule(&self) -> &[u8] {
        match self {
            Self::Limit(ruling) => ruling.limit().map_or(b"", |limit| limit.name.as_bytes()),
            Self::Region(regional) => regional.hit.name.as_bytes(),
            Self::Redirect(redirect) => redirect.rule.as_bytes(),
            Self::Admit | Self::Block(_) | Self::Unready | Self::Wait => b"",
        }
    }

    /// Whether the request ends here, with what [`Engine::reply`] says.
    #[must_use]
    pub fn replies(&self) -> bool {
        let verdict = self.verdict();
        verdict.is_refusal() || verdict == Verdict::Redirected
    }

    /// Whether [`Engine::responded`] has something to do.
    #[must_use]
    pub fn awaits_response(&self) -> bool {
        let ruling = match self {
            Self::Limit(ruling) => Some(ruling),
            Self::Region(regional) => regional.ruling.as_ref(),
            Self::Redirect(redirect) => redirect.ruling.as_ref(),
            Self::Admit | Self::Block(_) | Self::Unready | Self::Wait => None,
        };
        ruling.is_some_and(|ruling| {
            ruling.outcome != LimitOutcome::Refused
                && (ruling.awaits_status() || ruling.standings().next().is_some())
        })
    }
}

/// Whom a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum To {
    /// The control plane.
    ControlPlane,
    /// Who knows where addresses are.
    Geo,
}

/// A call to the control plane or to a provider of places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Where it goes.
    pub to: To,
    /// To be named with the answer.
    pub id: CallId,
    /// `GET`, `POST` or `PUT`.
    pub method: &'static str,
    /// Path and query.
    pub path: String,
    /// Content type and body, where there is one.
    pub body: Option<(&'static str, Vec<u8>)>,
    /// How long to wait for the answer, in milliseconds.
    pub timeout_ms: u64,
}

/// Which call an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallId {
    /// A poll for decisions.
    Poll(u64),
    /// A batch of records.
    Ship(u64),
    /// The plugin's own limits.
    Report,
    /// What was taken from buckets that the fleet shares.
    Consumption(u64),
    /// A look-up of where an address is.
    Geo(u64),
}

/// What an answer led to; for metrics and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A poll ended.
    Polled(Outcome),
    /// A shipment ended.
    Shipped {
        /// How.
        answer: ShipAnswer,
        /// Requests whose records were lost by it.
        lost: u64,
    },
    /// The plugin's own limits were reported, or not.
    Reported {
        /// Whether the control plane took them.
        taken: bool,
    },
    /// A report of consumption ended.
    Counted {
        /// Whether the control plane took it.
        taken: bool,
    },
    /// A look-up ended.
    Located(geo::Outcome),
}

/// What a tick did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ticked {
    /// Call again soon: a new set is being loaded.
    pub loading: bool,
    /// The revision that was applied, if any.
    pub applied: Option<Revision>,
    /// Shared data was damaged; the leader was asked to mend it.
    pub damaged: bool,
    /// A policy of the control plane came into force.
    pub policy: bool,
    /// A poll that brought a large snapshot is over: the snapshot was taken in steps.
    pub polled: Option<Outcome>,
    /// How full the table of buckets is, now and then.
    pub fill: Option<Fill>,
    /// Look-ups that were given up because no answer ever came.
    pub lookups_lost: u64,
}

/// Messages for the control plane that a worker at its end left to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// Left in shared data.
    pub messages: u64,
    /// For which there was no place.
    pub refused: u64,
}

/// Random numbers and names that only the adapter can know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Random, different in every worker of every Envoy.
    pub id: u64,
    /// When it started, Unix microseconds.
    pub started_us: u64,
    /// Name of the proxy.
    pub proxy: String,
    /// Random; becomes the secret of this Envoy's limits if there is none yet.
    pub secret: [u8; 16],
}

/// One worker.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    follower: Follower,
    replicator: Replicator,
    limiter: Limiter,
    member: Member,
    geo: Option<Geo>,
    regions: regions::Rules,
    replies: Replies,
    buffer: Buffer,
    delivery: Delivery,
    handover: Handover,
    report: Report,
    next_fill_us: u64,
    /// A request was seen: only then is the table built (Envoy's main thread has a VM too,
    /// and never sees one).
    awake: bool,
    draining: bool,
    id: u64,
}

/// Where the report of the plugin's own limits stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Report {
    /// The lease under which it was last sent.
    term: u64,
    in_flight: bool,
    /// The control plane answered the last poll.
    reachable: bool,
}

impl Engine {
    /// A worker that has seen nothing yet.
    #[must_use]
    pub fn new(config: Config, worker: Worker) -> Self {
        let namespace = namespace(&config);
        let disguise = Disguise::new(config.privacy.clone());
        let buffer = Buffer::new(policy(&config.records), disguise);
        let identity = Identity {
            stream: worker.id,
            started_us: worker.started_us,
            proxy: worker.proxy,
            key: buffer.key_id(),
        };
        Self {
            follower: Follower::new(&namespace),
            replicator: Replicator::new(&namespace, worker.id),
            limiter: Limiter::new(
                config.limits.clone(),
                config.identity.clone(),
                config.limits_table,
                &namespace,
                worker.secret,
            ),
            member: Member::new(&namespace, worker.id),
            geo: config.geo.clone().map(|settings| Geo::new(settings, worker.id)),
            regions: regions::Rules::default(),
            replies: Replies::new(config.decisions.refuse_status, config.decisions.contact.clone()),
            report: Report::default(),
            next_fill_us: 0,
            buffer,
            delivery: Delivery::new(identity),
            handover: Handover::new(&namespace),
            id: worker.id,
            config,
            awake: false,
            draining: false,
        }
    }

    /// The configuration in force.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The random number of this worker.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The name of its proxy.
    #[must_use]
    pub fn proxy(&self) -> &str {
        self.delivery.proxy()
    }

    /// Prepares shared data; to be called once, before traffic.
    pub fn start(&mut self, shared: &mut dyn SharedData) {
        // Where the host refuses now, whoever leads first makes the keys.
        let _ = self.replicator.initialise(shared);
        let _ = self.handover.open(shared);
        self.limiter.open(shared);
        if self.config.control_plane.is_some() {
            self.member.open(shared);
        }
        if let Some(geo) = &mut self.geo {
            geo.open(shared);
        }
    }

    /// Judges a request: decisions first, then, for those that pass, decisions by region
    /// (unless an allow covers the address), limits, localisation. `now` is Unix time; `clock` is asked only when a limit applies and should
    /// never go back. What is known of the client's place is in the request afterwards.
    #[inline]
    pub fn judge(
        &mut self,
        shared: &mut dyn SharedData,
        client: Client,
        request: &Request<'_>,
        now: UnixSeconds,
        clock: &mut dyn FnMut() -> Nanos,
        turn: Turn,
    ) -> Judgement {
        if !self.awake {
            self.wake(shared);
        }
        if self.follower.revision().is_none() {
            let waits = self.config.decisions.on_start == OnStart::Closed
                && self.config.control_plane.is_some();
            if waits {
                return Judgement::Unready;
            }
        }
        let found = client.ip.and_then(|ip| self.follower.table().lookup(ip, now));
        if let Some(found) = found
            && found.tier.action() == Action::Block
        {
            return Judgement::Block(found.id);
        }
        if let (Some(geo), Some(ip)) = (&mut self.geo, client.ip) {
            let now_ms = u64::from(now) * 1_000;
            // Rules go on with what is known already; no third party hears of this client.
            let located = if client.opted_out && geo.is_third_party() {
                geo.known(shared, ip, now_ms)
            } else {
                geo.locate(shared, ip, now_ms)
            };
            let may_wait = turn == Turn::First && !self.wait().is_zero();
            let is_allowed = found.is_some();
            let waits = may_wait
                && located == Located::Pending
                && self.needs_place(request, now, is_allowed);
            request.set_located(located);
            if waits {
                return Judgement::Wait;
            }
        }
        let mut region = None;
        if !self.regions.is_empty() && found.is_none() {
            region = self.regions.judge(client.ip, request, now);
            if let Some(hit) = region.take_if(|hit| hit.mode == Mode::Enforce) {
                return Judgement::Region(Box::new(Regional { hit, ruling: None }));
            }
        }
        let ruling = self.limiter.judge(shared, client, request, clock);
        if !self.config.localize.is_empty()
            && ruling.as_ref().is_none_or(|ruling| ruling.outcome != LimitOutcome::Refused)
        {
            let place = request.place().filter(|_| !self.withholds_place(client));
            let place = place.map(|place| &**place);
            if let Some((rule, location)) =
                localize::redirect(&self.config.localize, request, place)
            {
                let is_shadow = rule.mode == Mode::Shadow;
                let rule = rule.name.clone();
                return Judgement::Redirect(Box::new(Redirect {
                    rule,
                    location,
                    is_shadow,
                    ruling,
                }));
            }
        }
        match (region, ruling) {
            (None, None) => Judgement::Admit,
            (None, Some(ruling)) => Judgement::Limit(ruling),
            (Some(_), Some(ruling)) if ruling.outcome == LimitOutcome::Refused => {
                Judgement::Limit(ruling)
            }
            (Some(hit), ruling) => Judgement::Region(Box::new(Regional { hit, ruling })),
        }
    }

    /// Whether a rule would judge the request by a place that is not known yet.
    fn needs_place(&self, request: &Request<'_>, now: UnixSeconds, is_allowed: bool) -> bool {
        self.limiter.awaits_place(request)
            || localize::needs_place(&self.config.localize, request)
            || (!is_allowed && self.regions.needs_place(request, now))
    }

    /// What a third party said of a place may refuse a client that opted out, and nothing else.
    fn withholds_place(&self, client: Client) -> bool {
        client.opted_out && self.geo.as_ref().is_some_and(Geo::is_third_party)
    }

    /// What the upstream and the record may be told of where a client is; `None` where nobody
    /// was to be asked.
    #[must_use]
    pub fn tellable(&self, client: Client, request: &Request<'_>) -> Option<Located> {
        request.located().filter(|_| !self.withholds_place(client)).cloned()
    }

    /// How long a request may wait ([`Judgement::Wait`]), in microseconds.
    #[must_use]
    pub fn wait_us(&self) -> u64 {
        u64::try_from(self.wait().as_micros()).unwrap_or(u64::MAX)
    }

    fn wait(&self) -> Duration {
        self.config.geo.as_ref().map_or(Duration::ZERO, |geo| geo.wait)
    }

    /// Whether a request that waits has something to wait for.
    #[must_use]
    pub fn awaits_place(&self, ip: IpAddr) -> bool {
        self.geo.as_ref().is_some_and(|geo| geo.awaits(ip))
    }

    /// Whether a look-up could be sent now: [`Self::next_call`] need not wait for its tick.
    #[must_use]
    pub fn has_lookups(&self, now_us: u64) -> bool {
        !self.draining && self.geo.as_ref().is_some_and(|geo| geo.has_work(now_us / 1_000))
    }

    /// Places in this worker, if somebody knows them.
    pub const fn geo(&mut self) -> Option<&mut Geo> {
        self.geo.as_mut()
    }

    /// Takes the status of a response that [`Judgement::awaits_response`]; returns the headers
    /// that it is to carry. A redirect carries none: the limit may not be the one of where it
    /// leads.
    pub fn responded(
        &mut self,
        shared: &mut dyn SharedData,
        judgement: &mut Judgement,
        status: u16,
        now: Nanos,
    ) -> Option<[(&'static str, String); 2]> {
        let ruling = match judgement {
            Judgement::Limit(ruling) => ruling,
            Judgement::Region(regional) => regional.ruling.as_mut()?,
            Judgement::Redirect(redirect) => redirect.ruling.as_mut()?,
            Judgement::Admit | Judgement::Block(_) | Judgement::Unready | Judgement::Wait => {
                return None;
            }
        };
        self.limiter.answered(shared, ruling, status, now);
        if (300..400).contains(&status) {
            return None;
        }
        let standings: Vec<Standing<'_>> = ruling.standings().collect();
        (!standings.is_empty()).then(|| ratelimit_headers(&standings))
    }

    /// What the client of a request that is refused or redirected is told, for these `accept`
    /// and `content-type` headers; `None` for one that goes on.
    pub fn reply(
        &mut self,
        judgement: &Judgement,
        accept: &[u8],
        content_type: &[u8],
    ) -> Option<Reply<'_>> {
        let replies = &mut self.replies;
        Some(match judgement {
            Judgement::Admit | Judgement::Wait => return None,
            Judgement::Redirect(redirect) if redirect.is_shadow => return None,
            Judgement::Redirect(redirect) => replies.other(Response {
                status: 302,
                headers: vec![
                    ("location", redirect.location.clone()),
                    ("vary", localize::VARY.to_owned()),
                    ("cache-control", "private, no-store".to_owned()),
                ],
                body: Vec::new(),
                grpc_status: None,
            }),
            Judgement::Region(regional) if regional.hit.mode == Mode::Shadow => return None,
            Judgement::Block(_) | Judgement::Region(_) => {
                replies.blocked(judgement.decision(), accept, content_type)
            }
            Judgement::Unready => replies.unready(accept, content_type),
            Judgement::Limit(ruling) if ruling.outcome != LimitOutcome::Refused => return None,
            Judgement::Limit(ruling) => {
                let standings: Vec<Standing<'_>> = ruling.standings().collect();
                let grpc = ruling.limit().map(|limit| limit.grpc_status);
                let grpc = grpc.unwrap_or(GrpcStatus::ResourceExhausted);
                replies.limited(&standings, grpc, accept, content_type)
            }
        })
    }

    /// Adds a refused request to a flood already known. `true`: its details are not needed.
    #[inline]
    pub fn absorb(&mut self, client: Client, judgement: &Judgement, now_us: u64) -> bool {
        let verdict = judgement.verdict();
        match client.ip {
            Some(ip) if verdict.is_refusal() => {
                let cause = Cause::new(judgement.decision(), judgement.rule());
                let from = Requester { ip, opted_out: client.opted_out };
                self.buffer.absorb(from, verdict, cause, now_us)
            }
            _ => false,
        }
    }

    /// Records a request, with the client's address as it came: what is written is disguised
    /// as the configuration says. Returns the requests whose records had to be dropped for it.
    pub fn record(&mut self, record: &Record<'_>, now_us: u64) -> u64 {
        let before = self.buffer.totals().lost;
        self.buffer.push(record, now_us);
        self.buffer.shed(self.delivery.outgoing_bytes());
        self.buffer.totals().lost - before
    }

    /// Keeps up: lease, table, buffer. To be called every 100 ms, or every 10 ms while the
    /// last call said that it is loading.
    pub fn tick(
        &mut self,
        shared: &mut dyn SharedData,
        now_us: u64,
        clock: &mut dyn FnMut() -> Nanos,
    ) -> Ticked {
        self.buffer.tick(now_us);
        if self.config.control_plane.is_some()
            && !self.draining
            && self.delivery.may_inherit()
            && let Some(messages) = self.handover.take(shared)
        {
            self.delivery.inherit(messages);
        }
        let mut ticked = Ticked::default();
        if self.replicator.is_importing() {
            ticked.polled =
                self.polled(|replicator, take| replicator.advance(now_us / 1_000, shared, take));
            ticked.loading = self.replicator.is_importing();
        }
        if self.config.control_plane.is_some() && !self.draining {
            // Before anything else: the worker that leads need not have seen a request.
            let leads = self.replicator.leads();
            self.member.tick(shared, &mut self.limiter, leads, now_us / 1_000, clock);
        }
        if !self.awake {
            return ticked;
        }
        match self.follower.refresh(shared, FRAMES_PER_TICK) {
            Refresh::UpToDate => {}
            Refresh::Loading => ticked.loading = true,
            Refresh::Applied(revision) => ticked.applied = Some(revision),
            Refresh::Damaged => ticked.damaged = true,
        }
        ticked.policy = self.take_policy(shared);
        if let Some(geo) = &mut self.geo {
            ticked.lookups_lost = geo.tick(now_us / 1_000);
        }
        // A clock that was set back must not keep us from looking.
        if now_us >= self.next_fill_us || self.next_fill_us > now_us + 2 * FILL_EVERY_US {
            self.next_fill_us = now_us + FILL_EVERY_US;
            ticked.fill = self.limiter.fill(shared, clock());
        }
        ticked
    }

    /// What each limit did since the last call; limits that did nothing are left out.
    pub fn take_limit_counts(&mut self) -> impl Iterator<Item = (&str, RuleCounts)> {
        self.limiter.take_counts()
    }

    /// What became of reports of consumption since the last call.
    pub fn take_fleet_counts(&mut self) -> FleetCounts {
        self.member.take_counts(&mut self.limiter)
    }

    /// What decisions by region did since the last call.
    pub fn take_region_counts(&mut self) -> regions::Counts {
        self.regions.take_counts()
    }

    /// Whether there are decisions by region, but nobody who knows where clients are.
    #[must_use]
    pub const fn regions_are_idle(&self) -> bool {
        !self.regions.is_empty() && self.geo.is_none()
    }

    /// What happened in the table of buckets since the last call.
    pub fn take_table_counts(&mut self) -> TableCounts {
        self.limiter.take_table_counts()
    }

    /// Puts a policy into force that came with the last refresh.
    fn take_policy(&mut self, shared: &mut dyn SharedData) -> bool {
        let Some(payload) = self.follower.take_policy() else { return false };
        // The leader checked it before it wrote it.
        let Ok(policy) = config::check_policy(&payload) else { return false };
        self.limiter.apply(&policy);
        self.limiter.open(shared);
        self.regions.replace(&policy.regions);
        true
    }

    /// The next call to send now, if any. Call until `None`.
    pub fn next_call(&mut self, shared: &mut dyn SharedData, now_us: u64) -> Option<Call> {
        if let Some(lookup) = self.next_lookup(shared, now_us) {
            return Some(lookup);
        }
        self.config.control_plane.as_ref()?;
        if !self.draining
            && let Some(poll) = self.replicator.tick(now_us / 1_000, shared)
        {
            let after = poll.after.map_or_else(String::new, |revision| {
                format!("epoch={}&after={}&", revision.epoch, revision.number)
            });
            let wait = crate::decisions::replica::POLL_WAIT_SECONDS;
            let limits = poll.policy;
            return Some(Call {
                to: To::ControlPlane,
                id: CallId::Poll(poll.id),
                method: "GET",
                path: format!("{POLL_PATH}?{after}limits={limits}&wait={wait}s"),
                body: None,
                timeout_ms: (wait + 10) * 1_000,
            });
        }
        if let Some(report) = self.next_report() {
            return Some(report);
        }
        if let Some(consumption) = self.next_consumption(shared, now_us) {
            return Some(consumption);
        }
        let applied = self.follower.revision().unwrap_or_default();
        let Shipment { ticket, body } =
            self.delivery.next(now_us, &mut self.buffer, applied, self.draining)?;
        Some(Call {
            to: To::ControlPlane,
            id: CallId::Ship(ticket),
            method: "POST",
            path: crate::record::SHIP_PATH.to_owned(),
            body: Some((crate::record::wire::CONTENT_TYPE, body)),
            timeout_ms: delivery::TIMEOUT_MS,
        })
    }

    /// Takes the answer to a call: its status (0 for a reset or a call that could not be
    /// sent) and its body.
    pub fn answered(
        &mut self,
        id: CallId,
        status: u16,
        body: &[u8],
        shared: &mut dyn SharedData,
        now_us: u64,
    ) -> Event {
        match id {
            CallId::Poll(id) => {
                let answer = match status {
                    200 => PollAnswer::Message(body),
                    204 => PollAnswer::Unchanged,
                    400..=499 if status != 408 && status != 429 => PollAnswer::Refused,
                    _ => PollAnswer::Failed,
                };
                let now_ms = now_us / 1_000;
                let outcome = self.polled(|replicator, take| {
                    Some(replicator.answered(id, now_ms, shared, answer, take))
                });
                let outcome = outcome.unwrap_or(Outcome::Unexpected);
                Event::Polled(outcome)
            }
            CallId::Ship(ticket) => {
                let answer = ShipAnswer::from_status(status);
                let lost = self.delivery.answered(ticket, answer, now_us, &mut self.buffer);
                Event::Shipped { answer, lost }
            }
            CallId::Report => {
                let taken = (200..300).contains(&status);
                self.report.in_flight = false;
                if !taken {
                    // Tried again after the next poll.
                    (self.report.reachable, self.report.term) = (false, 0);
                }
                Event::Reported { taken }
            }
            CallId::Consumption(number) => {
                let now_ms = now_us / 1_000;
                let taken = self.member.answered(shared, number, status, body, now_ms);
                Event::Counted { taken }
            }
            CallId::Geo(id) => {
                let Some(geo) = &mut self.geo else {
                    return Event::Located(geo::Outcome::Unexpected);
                };
                Event::Located(geo.answered(shared, id, status, body, now_us / 1_000))
            }
        }
    }

    /// Lets the replicator take what a poll brought, and notes whether the control plane is
    /// there.
    fn polled(
        &mut self,
        take: impl FnOnce(&mut Replicator, TakePolicy<'_>) -> Option<Outcome>,
    ) -> Option<Outcome> {
        let limiter = &mut self.limiter;
        let mut take_policy = |shared: &mut dyn SharedData, payload: &[u8], done: u64| {
            let policy = config::check_policy(payload).ok()?;
            limiter.apply(&policy);
            Some(limiter.reset(shared, &policy.resets, done))
        };
        let outcome = take(&mut self.replicator, &mut take_policy)?;
        self.report.reachable = matches!(
            outcome,
            Outcome::Snapshot(_) | Outcome::Delta(_) | Outcome::Importing | Outcome::Unchanged
        );
        // It may have forgotten what it was told.
        if !self.report.reachable {
            self.report.term = 0;
        }
        Some(outcome)
    }

    fn next_lookup(&mut self, shared: &mut dyn SharedData, now_us: u64) -> Option<Call> {
        let geo = self.geo.as_mut().filter(|_| !self.draining)?;
        let lookup = geo.next_lookup(shared, now_us / 1_000)?;
        Some(Call {
            to: To::Geo,
            id: CallId::Geo(lookup.id),
            method: "GET",
            path: lookup.path,
            body: None,
            timeout_ms: u64::try_from(geo.settings().timeout.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// The leader tells the control plane which limits the plugin has of its own and what it
    /// keeps to itself, once in each term and after each time that the control plane was away.
    fn next_report(&mut self) -> Option<Call> {
        let (leads, term) = self.leads();
        let due = leads && self.report.reachable && self.report.term != term;
        if !due || self.report.in_flight || self.draining {
            return None;
        }
        self.report = Report { term, in_flight: true, ..self.report };
        let limits: Vec<_> = self.limiter.own().iter().map(|limit| limit.to_json()).collect();
        let privacy = privacy::report::of(&self.config, self.buffer.key_id());
        let body = json!({ "limits": limits, "privacy": privacy });
        Some(Call {
            to: To::ControlPlane,
            id: CallId::Report,
            method: "PUT",
            path: crate::limits::REPORT_PATH.to_owned(),
            body: Some(("application/json", body.to_string().into_bytes())),
            timeout_ms: REPORT_TIMEOUT_MS,
        })
    }

    /// The leader reports for all workers.
    fn next_consumption(&mut self, shared: &mut dyn SharedData, now_us: u64) -> Option<Call> {
        if !self.replicator.leads() || self.draining {
            return None;
        }
        let (number, body) = self.member.next(shared, &mut self.limiter, now_us / 1_000)?;
        Some(Call {
            to: To::ControlPlane,
            id: CallId::Consumption(number),
            method: "POST",
            path: fleet::CONSUMPTION_PATH.to_owned(),
            body: Some((fleet_wire::CONTENT_TYPE, body)),
            timeout_ms: reporter::TIMEOUT_MS,
        })
    }

    /// How many policies arrived at this worker that could not be used.
    #[must_use]
    pub const fn policies_refused(&self) -> u64 {
        self.replicator.policies_refused()
    }

    /// The worker is about to end: gives the lease back, closes every batch and leaves all of
    /// them to the other workers. They are to be sent by [`Self::next_call`], too, without
    /// waiting for one another: there may be no other worker, and what arrives twice is stored
    /// once.
    pub fn drain(&mut self, shared: &mut dyn SharedData, now_us: u64) -> Left {
        self.draining = true;
        self.replicator.release(shared);
        self.buffer.close(now_us);
        if self.config.control_plane.is_none() {
            return Left::default();
        }
        self.member.leave(shared, &mut self.limiter, now_us / 1_000);
        let applied = self.follower.revision().unwrap_or_default();
        let messages = self.delivery.leave(now_us, &mut self.buffer, applied);
        if messages.is_empty() {
            return Left::default();
        }
        let count = messages.len() as u64;
        if self.handover.leave(shared, &messages) {
            Left { messages: count, refused: 0 }
        } else {
            Left { messages: 0, refused: count }
        }
    }

    /// What was taken of workers that ended since the last call.
    pub fn take_handover_counts(&mut self) -> HandoverCounts {
        self.handover.take_counts()
    }

    /// Whether everything recorded was taken by the control plane.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.delivery.is_idle() && !self.buffer.has_sealed()
    }

    /// The revision in force here.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.follower.revision()
    }

    /// Entries in the table.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.follower.table().len()
    }

    /// Bytes of records held, sent ones included.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buffer.held_bytes() + self.delivery.outgoing_bytes()
    }

    /// Whether this worker fetches decisions for its Envoy, and how often it took that over.
    #[must_use]
    pub const fn leads(&self) -> (bool, u64) {
        (self.replicator.leads(), self.replicator.takeovers())
    }

    /// The first request of this worker: what is in shared data has to be in force for it.
    #[cold]
    fn wake(&mut self, shared: &mut dyn SharedData) {
        self.awake = true;
        for _ in 0..FIRST_LOAD_TRIES {
            if self.follower.refresh(shared, u32::MAX) != Refresh::Loading {
                break;
            }
        }
        self.take_policy(shared);
    }
}

fn policy(records: &Records) -> Policy {
    let bytes = |paths: &[String]| paths.iter().map(|path| path.clone().into_bytes()).collect();
    Policy {
        max_batch: records.max_batch as usize,
        max_age_us: u64::try_from(records.max_age.as_micros()).unwrap_or(u64::MAX),
        buffer_bytes: records.buffer_bytes,
        sample: records.sample,
        sensitive_paths: bytes(&records.sensitive_paths),
        skip_paths: bytes(&records.skip_paths),
    }
}

/// Plugin instances with the same control plane share one set; others don't meet.
fn namespace(config: &Config) -> String {
    let names = config.control_plane.as_ref().map(|control_plane| {
        [control_plane.cluster.as_str(), control_plane.authority.as_str()].join("\0")
    });
    let hash = crate::bytes::fnv1a(names.unwrap_or_default().as_bytes());
    format!("ipwarden.{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::decisions::{Entry, NEVER, Tier, wire};
    use crate::limits::matching::testing::{Lines, Properties};
    use crate::limits::policy;
    use crate::shared::testing::MemoryShared;

    fn engine(json: &str, id: u64) -> Engine {
        let config = config::check(json.as_bytes()).unwrap();
        let secret = [id as u8; 16];
        Engine::new(config, Worker { id, started_us: 1, proxy: "edge-1".to_owned(), secret })
    }

    /// Judges a request for `path` at a second of Unix time; the monotonic clock stands still.
    fn judge(
        engine: &mut Engine,
        shared: &mut MemoryShared,
        ip: Option<IpAddr>,
        path: &str,
        now: UnixSeconds,
    ) -> Judgement {
        let (lines, properties) = (Lines(&[]), Properties::new(&[]));
        let request = Request::new(b"GET", b"site.example", path.as_bytes(), &lines, &properties);
        engine.judge(
            shared,
            Client { ip, peer: ip, opted_out: false },
            &request,
            now,
            &mut || 1_000_000_000_000,
            Turn::First,
        )
    }

    fn tick(engine: &mut Engine, shared: &mut MemoryShared, now_us: u64) -> Ticked {
        engine.tick(shared, now_us, &mut || 1_000_000_000_000)
    }

    const CONFIG: &str = r#"{"control_plane": {"cluster": "ipwarden", "token": "t"}}"#;
    const CLOSED: &str = r#"{"control_plane": {"cluster": "ipwarden", "token": "t"}, "decisions": {"on_start": "closed", "refuse_status": 451}}"#;

    fn set(number: u64, targets: &[(&str, Tier, UnixSeconds)]) -> Vec<u8> {
        let mut entries: Vec<Entry> = targets
            .iter()
            .zip(1..)
            .map(|(&(target, tier, expires_at), id)| Entry {
                target: crate::address::parse_target(target).unwrap(),
                tier,
                id,
                expires_at,
            })
            .collect();
        entries.sort_by_key(Entry::sort_key);
        wire::encode_snapshot(Revision { epoch: 3, number }, 0, &entries)
    }

    fn feed(engine: &mut Engine, shared: &mut MemoryShared, now_us: u64, body: &[u8]) {
        let call = engine.next_call(shared, now_us).expect("leads and polls");
        engine.answered(call.id, 200, body, shared, now_us);
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_first_request_of_a_worker_is_judged_by_what_another_worker_fetched() {
        let mut shared = MemoryShared::default();
        let (mut leader, mut other) = (engine(CONFIG, 1), engine(CONFIG, 2));
        leader.start(&mut shared);
        other.start(&mut shared);
        feed(&mut leader, &mut shared, 1, &set(1, &[("203.0.113.0/24", Tier::Manual, 500)]));
        assert_eq!(judge(&mut other, &mut shared, ip("203.0.113.7"), "/", 499).decision(), 1);
        // Enforced locally: nobody needs to say that it ended.
        assert!(matches!(
            judge(&mut other, &mut shared, ip("203.0.113.7"), "/", 500),
            Judgement::Admit
        ));
        assert!(matches!(
            judge(&mut other, &mut shared, ip("192.0.2.1"), "/", 0),
            Judgement::Admit
        ));
        assert!(matches!(judge(&mut other, &mut shared, None, "/", 0), Judgement::Admit));
    }

    #[test]
    fn a_judgement_costs_no_shared_data_once_the_table_stands() {
        let mut shared = MemoryShared::default();
        let mut worker = engine(CONFIG, 1);
        worker.start(&mut shared);
        feed(&mut worker, &mut shared, 1, &set(1, &[("203.0.113.7", Tier::Manual, NEVER)]));
        judge(&mut worker, &mut shared, ip("203.0.113.7"), "/", 0);
        let (gets, sets) = (shared.gets, shared.sets);
        for _ in 0..1_000 {
            assert_eq!(judge(&mut worker, &mut shared, ip("203.0.113.7"), "/", 0).decision(), 1);
        }
        assert_eq!((shared.gets, shared.sets), (gets, sets));
        // An idle tick costs two reads: the head, and whether a worker that ended left records.
        // (The first one looks at the table of buckets.)
        tick(&mut worker, &mut shared, 1);
        let (gets, sets) = (shared.gets, shared.sets);
        tick(&mut worker, &mut shared, 2);
        assert_eq!((shared.gets, shared.sets), (gets + 2, sets));
    }

    #[test]
    fn closed_on_start_refuses_until_the_first_set_and_an_empty_set_counts() {
        let mut shared = MemoryShared::default();
        let mut worker = engine(CLOSED, 1);
        worker.start(&mut shared);
        let judgement = judge(&mut worker, &mut shared, ip("192.0.2.1"), "/", 0);
        assert_eq!(judgement.verdict(), Verdict::Unready);
        assert_eq!(worker.reply(&judgement, b"", b"").unwrap().status, 503);
        feed(&mut worker, &mut shared, 1, &set(0, &[]));
        tick(&mut worker, &mut shared, 2);
        assert!(matches!(
            judge(&mut worker, &mut shared, ip("192.0.2.1"), "/", 0),
            Judgement::Admit
        ));
        assert_eq!(worker.reply(&Judgement::Block(9), b"", b"").unwrap().status, 451);
    }

    #[test]
    fn instances_with_another_control_plane_do_not_meet() {
        let mut shared = MemoryShared::default();
        let other = r#"{"control_plane": {"cluster": "elsewhere", "token": "t"}}"#;
        let (mut first, mut second) = (engine(CONFIG, 1), engine(other, 2));
        first.start(&mut shared);
        second.start(&mut shared);
        feed(&mut first, &mut shared, 1, &set(1, &[("0.0.0.0/0", Tier::Manual, NEVER)]));
        assert!(matches!(
            judge(&mut second, &mut shared, ip("203.0.113.7"), "/", 0),
            Judgement::Admit
        ));
        assert!(second.next_call(&mut shared, 2).is_some(), "leads its own set");
    }

    #[test]
    fn without_a_control_plane_nothing_is_sent_and_everything_passes() {
        let mut shared = MemoryShared::default();
        let mut worker = engine("{}", 1);
        worker.start(&mut shared);
        assert!(matches!(
            judge(&mut worker, &mut shared, ip("203.0.113.7"), "/", 0),
            Judgement::Admit
        ));
        assert_eq!(worker.next_call(&mut shared, 1), None);
    }

    #[test]
    fn draining_ships_what_is_held_and_gives_the_lease_back() {
        let mut shared = MemoryShared::default();
        let (mut worker, mut next) = (engine(CONFIG, 1), engine(CONFIG, 2));
        worker.start(&mut shared);
        next.start(&mut shared);
        let _poll = worker.next_call(&mut shared, 1).unwrap();
        worker.record(&crate::record::wire::tests::record(), 5);
        assert_eq!(worker.next_call(&mut shared, 6), None, "too young to be shipped");
        worker.drain(&mut shared, 7);
        let ship = worker.next_call(&mut shared, 7).unwrap();
        assert_eq!(ship.path, "/v1/requests");
        assert!(!worker.is_drained());
        worker.answered(ship.id, 200, b"", &mut shared, 8);
        assert!(worker.is_drained());
        assert!(next.next_call(&mut shared, 9).is_some(), "the lease is free at once");
    }

    /// The records of the batches that a worker sends now, and the seen of the last message.
    fn shipped(worker: &mut Engine, shared: &mut MemoryShared, now_us: u64) -> (Vec<u64>, u64) {
        let (mut numbers, mut seen) = (Vec::new(), 0);
        while let Some(call) = worker.next_call(shared, now_us) {
            if call.path == "/v1/requests" {
                let body = call.body.unwrap().1;
                let batch = crate::record::wire::decode(&body).unwrap();
                numbers.extend(batch.records.iter().map(|_| batch.header.stream));
                seen = batch.header.seen;
                worker.answered(call.id, 200, b"", shared, now_us);
            }
        }
        (numbers, seen)
    }

    #[test]
    fn what_a_worker_could_not_ship_another_ships_even_one_that_sees_no_requests() {
        let mut shared = MemoryShared::default();
        let (mut old, mut heir) = (engine(CONFIG, 1), engine(CONFIG, 2));
        old.start(&mut shared);
        old.record(&crate::record::wire::tests::record(), 5);
        old.tick(&mut shared, 2_000_000, &mut || 1);
        // On its way when the VM ends: nobody learns whether it arrived.
        let sent = core::iter::from_fn(|| old.next_call(&mut shared, 2_000_000)).count();
        assert_eq!(sent, 2, "a poll and a batch");
        old.record(&crate::record::wire::tests::record(), 2_000_001);
        let left = old.drain(&mut shared, 2_000_002);
        assert_eq!(left, Left { messages: 2, refused: 0 });
        drop(old);
        heir.start(&mut shared);
        tick(&mut heir, &mut shared, 2_100_000);
        assert_eq!(shipped(&mut heir, &mut shared, 2_100_000), (vec![1, 1], 2));
        let taken = heir.take_handover_counts();
        assert_eq!((taken.taken, taken.damaged), (2, 0));
        tick(&mut heir, &mut shared, 2_200_000);
        assert_eq!(shipped(&mut heir, &mut shared, 2_200_000), (vec![], 0));
    }

    #[test]
    fn a_worker_that_ends_with_nothing_but_new_totals_leaves_those() {
        let mut shared = MemoryShared::default();
        let json = r#"{"control_plane": {"cluster": "ipwarden", "token": "t"}, "records": {"skip_paths": ["/a"]}}"#;
        let (mut old, mut heir) = (engine(json, 1), engine(CONFIG, 2));
        old.start(&mut shared);
        heir.start(&mut shared);
        old.record(&crate::record::wire::tests::record(), 5);
        assert_eq!(old.drain(&mut shared, 6).messages, 1);
        tick(&mut heir, &mut shared, 7);
        assert_eq!(shipped(&mut heir, &mut shared, 7), (vec![], 1));
        // One that saw nothing leaves nothing.
        assert_eq!(engine(json, 3).drain(&mut shared, 8), Left::default());
    }

    #[test]
    fn an_heir_that_ends_leaves_its_inheritance_and_one_that_gets_no_answer_takes_no_more() {
        let mut shared = MemoryShared::default();
        let mut heir = engine(CONFIG, 9);
        heir.start(&mut shared);
        for id in 1..=2 {
            let mut old = engine(CONFIG, id);
            old.record(&crate::record::wire::tests::record(), 5);
            assert_eq!(old.drain(&mut shared, 6).messages, 1);
        }
        tick(&mut heir, &mut shared, 10);
        let call = core::iter::from_fn(|| heir.next_call(&mut shared, 10)).last().unwrap();
        heir.answered(call.id, 503, b"", &mut shared, 11);
        tick(&mut heir, &mut shared, 12);
        assert_eq!(heir.take_handover_counts().taken, 1);
        assert_eq!(heir.drain(&mut shared, 13), Left { messages: 1, refused: 0 });
        let mut last = engine(CONFIG, 10);
        last.start(&mut shared);
        let mut streams = Vec::new();
        for now_us in [20, 21, 22] {
            tick(&mut last, &mut shared, now_us);
            streams.extend(shipped(&mut last, &mut shared, now_us).0);
        }
        streams.sort_unstable();
        assert_eq!(streams, [1, 2]);
    }

    fn policy(number: u64, payload: &str) -> Vec<u8> {
        policy::encode(number, payload.as_bytes())
    }

    #[test]
    fn a_policy_from_the_stream_is_in_force_in_every_worker_and_named_in_the_next_poll() {
        let mut shared = MemoryShared::default();
        let (mut leader, mut other) = (engine(CONFIG, 1), engine(CONFIG, 2));
        leader.start(&mut shared);
        let client = ip("203.0.113.7");
        judge(&mut other, &mut shared, client, "/", 0);
        let limit = r#"{"limits": [{"name": "login", "anonymous": {"requests": 1, "per": "1m"}}], "resets": []}"#;
        let body = [set(1, &[]), policy(9, limit)].concat();
        feed(&mut leader, &mut shared, 1, &body);
        assert!(tick(&mut other, &mut shared, 2).policy);
        let verdicts = [0, 1].map(|_| judge(&mut other, &mut shared, client, "/x", 0).verdict());
        assert_eq!(verdicts, [Verdict::Admitted, Verdict::Limited]);
        let poll = leader.next_call(&mut shared, 3).unwrap();
        assert_eq!(poll.path, "/v1/decisions/stream?epoch=3&after=1&limits=9&wait=30s");
        // One that can't be used changes nothing, and is not asked for again.
        leader.answered(poll.id, 200, &policy(10, r#"{"limits": 7}"#), &mut shared, 4);
        assert_eq!(leader.policies_refused(), 1);
        assert!(!tick(&mut other, &mut shared, 5).policy);
        let poll = leader.next_call(&mut shared, 6).unwrap();
        assert_eq!(leader.next_call(&mut shared, 6).unwrap().id, CallId::Report);
        assert!(poll.path.contains("limits=10&"), "{}", poll.path);
        // A reset is done by the leader, before anybody sees the policy.
        let reset = r#"{"limits": [{"name": "login", "anonymous": {"requests": 1, "per": "1m"}}], "resets": [{"id": 3, "key": "203.0.113.7"}]}"#;
        leader.answered(poll.id, 200, &policy(11, reset), &mut shared, 7);
        assert!(tick(&mut other, &mut shared, 8).policy);
        let verdicts = [0, 1].map(|_| judge(&mut other, &mut shared, client, "/x", 0).verdict());
        assert_eq!(verdicts, [Verdict::Admitted, Verdict::Limited]);
    }

    /// A client in France according to what the engine remembers.
    const FRENCH: &str = r#"{"control_plane": {"cluster": "ipwarden", "token": "t"}, "limits": [],
        "geo": {"wait_ms": 500}, "localize": []}"#;

    fn learn(engine: &mut Engine, shared: &mut MemoryShared, ip: &str) {
        assert!(matches!(judge(engine, shared, ip.parse().ok(), "/other", 0), Judgement::Admit));
        let call = core::iter::from_fn(|| engine.next_call(shared, 1))
            .find(|call| call.to == To::Geo)
            .unwrap();
        let answer = br#"{"ip":"81.2.69.160","network":"81.2.69.0/24","country":"FR"}"#;
        engine.answered(call.id, 200, answer, shared, 1);
    }

    #[test]
    fn a_region_is_refused_at_its_path_unless_an_allow_covers_the_address() {
        let mut shared = MemoryShared::default();
        let mut worker = engine(FRENCH, 1);
        worker.start(&mut shared);
        let regions = r#"{"regions": [{"id": 9, "region": "country:FR", "path": "/admin", "until": 400},
            {"id": 10, "region": "country:FR", "mode": "shadow"}]}"#;
        let allow = [("81.2.69.9", Tier::Allow, NEVER)];
        let body = [set(1, &allow), policy(9, regions)].concat();
        feed(&mut worker, &mut shared, 1, &body);
        tick(&mut worker, &mut shared, 2);
        // Nobody knows yet: it waits, for that path only, and once.
        let first = judge(&mut worker, &mut shared, ip("81.2.69.160"), "/admin", 0);
        assert!(matches!(first, Judgement::Wait));
        learn(&mut worker, &mut shared, "81.2.69.160");
        let refused = judge(&mut worker, &mut shared, ip("81.2.69.160"), "/admin/users", 0);
        assert_eq!(
            (refused.verdict(), refused.decision(), refused.rule()),
            (Verdict::Blocked, 9, &b"country:FR"[..])
        );
        let reply = worker.reply(&refused, b"", b"").unwrap();
        let told = (reply.status, reply.headers.to_vec(), reply.body.to_vec());
        let reply = worker.reply(&Judgement::Block(9), b"", b"").unwrap();
        assert_eq!(told, (reply.status, reply.headers.to_vec(), reply.body.to_vec()));
        let shadow = judge(&mut worker, &mut shared, ip("81.2.69.160"), "/", 0);
        assert_eq!((shadow.verdict(), shadow.decision()), (Verdict::Shadow, 10));
        assert!(worker.reply(&shadow, b"", b"").is_none() && !shadow.awaits_response());
        // An allow wins; elsewhere is elsewhere; an end needs no word of anybody.
        for (address, path, now) in [("81.2.69.9", "/admin", 0), ("10.0.0.1", "/admin", 0)] {
            assert!(matches!(
                judge(&mut worker, &mut shared, ip(address), path, now),
                Judgement::Admit
            ));
        }
        let ended = judge(&mut worker, &mut shared, ip("81.2.69.160"), "/admin", 400);
        assert_eq!(ended.verdict(), Verdict::Shadow);
        let counts = worker.take_region_counts();
        assert_eq!((counts.refused, counts.shadow, counts.unknown), (1, 2, 1));
        // A policy without them takes them away.
        let poll = worker.next_call(&mut shared, 3).unwrap();
        worker.answered(poll.id, 200, &policy(10, "{}"), &mut shared, 4);
        tick(&mut worker, &mut shared, 5);
        let after = judge(&mut worker, &mut shared, ip("81.2.69.160"), "/admin", 0);
        assert!(matches!(after, Judgement::Admit));
    }

    #[test]
    fn the_leader_reports_the_limits_of_its_configuration_once_and_again_after_a_failed_poll() {
        let mut shared = MemoryShared::default();
        let mut leader = engine(CONFIG, 1);
        leader.start(&mut shared);
        feed(&mut leader, &mut shared, 1, &set(1, &[]));
        let mut reports = Vec::new();
        let mut next = |leader: &mut Engine, now_us, status| {
            let call = leader.next_call(&mut shared, now_us).unwrap();
            if call.id == CallId::Report {
                reports.push(call.body.clone().unwrap().1);
            }
            leader.answered(call.id, status, b"", &mut shared, now_us);
            call.id
        };
        let second = 1_000_000;
        assert!(matches!(next(&mut leader, 2, 204), CallId::Poll(_)));
        assert_eq!(next(&mut leader, 3, 204), CallId::Report);
        assert!(matches!(next(&mut leader, 2 * second, 503), CallId::Poll(_)));
        assert!(matches!(next(&mut leader, 9 * second, 204), CallId::Poll(_)));
        assert_eq!(next(&mut leader, 9 * second + 1, 204), CallId::Report);
        assert_eq!(reports[0], reports[1]);
        let body: serde_json::Value = serde_json::from_slice(&reports[0]).unwrap();
        assert_eq!(body["limits"][0]["name"], "login");
    }

    #[test]
    fn a_wall_clock_that_steps_by_an_hour_changes_nothing_for_limits() {
        let mut shared = MemoryShared::default();
        let mut worker = engine("{}", 1);
        worker.start(&mut shared);
        let client = ip("203.0.113.7");
        // `now` is Unix time; the limiter's own clock stands still in these tests.
        for (now, admitted) in [(10_000, 5), (6_400, 0), (13_600, 0)] {
            let verdicts = (0..9).map(|_| judge(&mut worker, &mut shared, client, "/login", now));
            let found = verdicts.filter(|one| one.verdict() == Verdict::Admitted).count();
            assert_eq!(found, admitted, "at {now}");
        }
    }

    #[test]
    fn a_blocked_request_is_charged_to_no_limit() {
        let mut shared = MemoryShared::default();
        let mut worker = engine(CONFIG, 1);
        worker.start(&mut shared);
        feed(&mut worker, &mut shared, 1, &set(1, &[("203.0.113.7", Tier::Manual, 500)]));
        for _ in 0..50 {
            let judgement = judge(&mut worker, &mut shared, ip("203.0.113.7"), "/login", 0);
            assert_eq!(judgement.verdict(), Verdict::Blocked);
        }
        let judgement = judge(&mut worker, &mut shared, ip("203.0.113.7"), "/login", 500);
        assert_eq!(judgement.verdict(), Verdict::Admitted);
    }

    #[test]
    fn a_limited_request_is_told_so_and_a_redirect_carries_no_headers() {
        let json = r#"{"limits": [{"name": "api", "headers": true, "anonymous": {"requests": 1, "per": "1m"}}]}"#;
        let mut shared = MemoryShared::default();
        let mut worker = engine(json, 1);
        worker.start(&mut shared);
        let mut first = judge(&mut worker, &mut shared, ip("203.0.113.7"), "/", 0);
        assert!(first.awaits_response());
        assert_eq!(worker.responded(&mut shared, &mut first, 302, 0), None);
        let headers = worker.responded(&mut shared, &mut first, 200, 0).unwrap();
        assert_eq!(headers.each_ref().map(|(name, _)| *name), ["ratelimit-policy", "ratelimit"]);
        let second = judge(&mut worker, &mut shared, ip("203.0.113.7"), "/", 0);
        let response = worker.reply(&second, b"", b"").unwrap();
        assert_eq!((response.status, second.rule()), (429, &b"api"[..]));
        let retry = response.headers.iter().find(|(name, _)| *name == "retry-after").unwrap();
        assert_eq!(retry.1, "60");
    }

    #[test]
    fn a_third_party_never_hears_of_who_opted_out_and_what_it_said_before_only_refuses() {
        const LONDON: &[u8] = br#"{"country": "GB", "city": "London"}"#;
        let json = |provider| {
            format!(
                r#"{{"geo": {{"cluster": "geo", "provider": "{provider}"}},
                    "limits": [{{"name": "abroad", "match": {{"countries": ["GB"]}},
                                "anonymous": {{"requests": 1, "per": "1h"}}}}]}}"#
            )
        };
        let client = |opted_out| Client { ip: ip("81.2.69.161"), peer: None, opted_out };
        let mut shared = MemoryShared::default();
        let mut judge = |engine: &mut Engine, opted_out: bool| {
            let (lines, properties) = (Lines(&[]), Properties::new(&[]));
            let request = Request::new(b"GET", b"site.example", b"/", &lines, &properties);
            let client = client(opted_out);
            let clock = &mut || 1_000_000_000_000;
            let judgement = engine.judge(&mut shared, client, &request, 1, clock, Turn::First);
            let told = engine.tellable(client, &request);
            let asked = engine.next_call(&mut shared, 1_000_000).map(|call| call.id);
            if let Some(id) = asked {
                engine.answered(id, 200, LONDON, &mut shared, 1_000_000);
            }
            (judgement.verdict(), told.is_some_and(|told| told.place().is_some()), asked.is_some())
        };
        let mut third = engine(&json("ipinfo"), 1);
        assert_eq!(judge(&mut third, true), (Verdict::Admitted, false, false));
        assert_eq!(judge(&mut third, false), (Verdict::Admitted, false, true));
        // Somebody else's look-up answered: the limit holds for all of that network.
        assert_eq!(judge(&mut third, true), (Verdict::Admitted, false, false));
        assert_eq!(judge(&mut third, true), (Verdict::Limited, false, false));
        // The operator's own control plane is no third party.
        let mut own = engine(&json("ipwarden"), 2);
        assert_eq!(judge(&mut own, true), (Verdict::Admitted, false, true));
        assert!(judge(&mut own, true).1);
    }
}
