//! One worker: a request in, a verdict out; calls to the control plane as values.
//!
//! The engine owns a worker's table, buffer and its share in fetching and shipping. It does
//! no I/O: the adapter gives it the time and shared data, sends the calls that
//! [`Engine::next_call`] returns and brings back their answers.

use core::net::IpAddr;

use crate::config::{Config, OnStart, Records};
use crate::decisions::replica::{Answer as PollAnswer, Follower, Outcome, Refresh, Replicator};
use crate::decisions::{Action, DecisionId, POLL_PATH, Revision, UnixSeconds};
use crate::record::buffer::{Buffer, Policy};
use crate::record::delivery::{self, Answer as ShipAnswer, Delivery, Identity, Shipment};
use crate::record::{Record, Verdict};
use crate::refusal::Refusal;
use crate::shared::SharedData;

/// Frames of a snapshot worked off in one tick: a few milliseconds of the worker's time.
const FRAMES_PER_TICK: u32 = 4;
/// A worker that waits for its first request tries to load this often before it lets the
/// request pass: the head may change while it reads.
const FIRST_LOAD_TRIES: u32 = 3;

/// What is to be done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Pass it on.
    Admit,
    /// A decision refuses it.
    Block(DecisionId),
    /// No decision set has arrived yet and the configuration says to wait for one.
    Unready,
}

impl Judgement {
    /// The word that records and metrics use.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Admit => Verdict::Admitted,
            Self::Block(_) => Verdict::Blocked,
            Self::Unready => Verdict::Unready,
        }
    }

    /// The decision that refuses, 0 for none.
    #[must_use]
    pub const fn decision(self) -> DecisionId {
        match self {
            Self::Block(id) => id,
            Self::Admit | Self::Unready => 0,
        }
    }
}

/// A call to the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// To be named with the answer.
    pub id: CallId,
    /// `GET` or `POST`.
    pub method: &'static str,
    /// Path and query.
    pub path: String,
    /// Content type and body of a `POST`.
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
}

/// One worker.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    follower: Follower,
    replicator: Replicator,
    buffer: Buffer,
    delivery: Delivery,
    /// A request was seen: only then is the table built (Envoy's main thread has a VM too,
    /// and never sees one).
    awake: bool,
    draining: bool,
    id: u64,
}

impl Engine {
    /// A worker that has seen nothing yet.
    #[must_use]
    pub fn new(config: Config, worker: Worker) -> Self {
        let namespace = namespace(&config);
        let identity =
            Identity { stream: worker.id, started_us: worker.started_us, proxy: worker.proxy };
        Self {
            follower: Follower::new(&namespace),
            replicator: Replicator::new(&namespace, worker.id),
            buffer: Buffer::new(policy(&config.records)),
            delivery: Delivery::new(identity),
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
    }

    /// Judges a request by its client address.
    #[inline]
    pub fn judge(
        &mut self,
        shared: &mut dyn SharedData,
        ip: Option<IpAddr>,
        now: UnixSeconds,
    ) -> Judgement {
        if !self.awake {
            self.wake(shared);
        }
        if self.follower.revision().is_none() {
            let waits = self.config.decisions.on_start == OnStart::Closed
                && self.config.control_plane.is_some();
            return if waits { Judgement::Unready } else { Judgement::Admit };
        }
        let found = ip.and_then(|ip| self.follower.table().lookup(ip, now));
        match found {
            Some(found) if found.tier.action() == Action::Block => Judgement::Block(found.id),
            _ => Judgement::Admit,
        }
    }

    /// What the client of a refused request is told; `None` for an admitted one.
    #[must_use]
    pub const fn refusal(&self, judgement: Judgement) -> Option<Refusal<'static>> {
        match judgement {
            Judgement::Admit => None,
            Judgement::Block(id) => Some(Refusal::blocked(self.config.decisions.refuse_status, id)),
            Judgement::Unready => Some(Refusal::unready()),
        }
    }

    /// Adds a refused request to a flood already known. `true`: its details are not needed.
    #[inline]
    pub fn absorb(&mut self, ip: Option<IpAddr>, judgement: Judgement, now_us: u64) -> bool {
        let verdict = judgement.verdict();
        match ip {
            Some(ip) if verdict.is_refusal() => {
                self.buffer.absorb(ip, verdict, judgement.decision(), now_us)
            }
            _ => false,
        }
    }

    /// Records a request. Returns the requests whose records had to be dropped for it.
    pub fn record(&mut self, record: &Record<'_>, now_us: u64) -> u64 {
        let before = self.buffer.totals().lost;
        self.buffer.push(record, now_us);
        self.buffer.shed(self.delivery.outgoing_bytes());
        self.buffer.totals().lost - before
    }

    /// Keeps up: lease, table, buffer. To be called every 100 ms, or every 10 ms while the
    /// last call said that it is loading.
    pub fn tick(&mut self, shared: &mut dyn SharedData, now_us: u64) -> Ticked {
        self.buffer.tick(now_us);
        let mut ticked = Ticked::default();
        if !self.awake {
            return ticked;
        }
        match self.follower.refresh(shared, FRAMES_PER_TICK) {
            Refresh::UpToDate => {}
            Refresh::Loading => ticked.loading = true,
            Refresh::Applied(revision) => ticked.applied = Some(revision),
            Refresh::Damaged => ticked.damaged = true,
        }
        ticked
    }

    /// The next call to send now, if any. Call until `None`.
    pub fn next_call(&mut self, shared: &mut dyn SharedData, now_us: u64) -> Option<Call> {
        self.config.control_plane.as_ref()?;
        if !self.draining
            && let Some(poll) = self.replicator.tick(now_us / 1_000, shared)
        {
            let after = poll.after.map_or_else(String::new, |revision| {
                format!("epoch={}&after={}&", revision.epoch, revision.number)
            });
            let wait = crate::decisions::replica::POLL_WAIT_SECONDS;
            return Some(Call {
                id: CallId::Poll(poll.id),
                method: "GET",
                path: format!("{POLL_PATH}?{after}wait={wait}s"),
                body: None,
                timeout_ms: (wait + 10) * 1_000,
            });
        }
        let applied = self.follower.revision().unwrap_or_default();
        let Shipment { ticket, body } =
            self.delivery.next(now_us, &mut self.buffer, applied, self.draining)?;
        Some(Call {
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
                Event::Polled(self.replicator.answered(
                    id,
                    now_us / 1_000,
                    shared,
                    answer,
                    &mut |_, _, _| None,
                ))
            }
            CallId::Ship(ticket) => {
                let answer = ShipAnswer::from_status(status);
                let lost = self.delivery.answered(ticket, answer, now_us, &mut self.buffer);
                Event::Shipped { answer, lost }
            }
        }
    }

    /// The worker is about to end: gives the lease back and closes every batch, to be sent
    /// by [`Self::next_call`] without waiting for one another.
    pub fn drain(&mut self, shared: &mut dyn SharedData, now_us: u64) {
        self.draining = true;
        self.replicator.release(shared);
        self.buffer.close(now_us);
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
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    if let Some(control_plane) = &config.control_plane {
        let names = [control_plane.cluster.as_bytes(), b"\0", control_plane.authority.as_bytes()];
        // FNV-1a: names of a configuration are not hostile.
        for byte in names.into_iter().flatten() {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("ipwarden.{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::decisions::{Entry, NEVER, Tier, wire};
    use crate::shared::testing::MemoryShared;

    fn engine(json: &str, id: u64) -> Engine {
        let config = config::check(json.as_bytes()).unwrap();
        Engine::new(config, Worker { id, started_us: 1, proxy: "edge-1".to_owned() })
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
        assert_eq!(other.judge(&mut shared, ip("203.0.113.7"), 499), Judgement::Block(1));
        // Enforced locally: nobody needs to say that it ended.
        assert_eq!(other.judge(&mut shared, ip("203.0.113.7"), 500), Judgement::Admit);
        assert_eq!(other.judge(&mut shared, ip("192.0.2.1"), 0), Judgement::Admit);
        assert_eq!(other.judge(&mut shared, None, 0), Judgement::Admit);
    }

    #[test]
    fn a_judgement_costs_no_shared_data_once_the_table_stands() {
        let mut shared = MemoryShared::default();
        let mut worker = engine(CONFIG, 1);
        worker.start(&mut shared);
        feed(&mut worker, &mut shared, 1, &set(1, &[("203.0.113.7", Tier::Manual, NEVER)]));
        worker.judge(&mut shared, ip("203.0.113.7"), 0);
        let (gets, sets) = (shared.gets, shared.sets);
        for _ in 0..1_000 {
            assert_eq!(worker.judge(&mut shared, ip("203.0.113.7"), 0), Judgement::Block(1));
        }
        assert_eq!((shared.gets, shared.sets), (gets, sets));
        // An idle tick costs one read: the head.
        worker.tick(&mut shared, 2);
        assert_eq!((shared.gets, shared.sets), (gets + 1, sets));
    }

    #[test]
    fn closed_on_start_refuses_until_the_first_set_and_an_empty_set_counts() {
        let mut shared = MemoryShared::default();
        let mut worker = engine(CLOSED, 1);
        worker.start(&mut shared);
        let judgement = worker.judge(&mut shared, ip("192.0.2.1"), 0);
        assert_eq!(judgement, Judgement::Unready);
        assert_eq!(worker.refusal(judgement).unwrap().status, 503);
        feed(&mut worker, &mut shared, 1, &set(0, &[]));
        worker.tick(&mut shared, 2);
        assert_eq!(worker.judge(&mut shared, ip("192.0.2.1"), 0), Judgement::Admit);
        assert_eq!(worker.refusal(Judgement::Block(9)).unwrap().status, 451);
    }

    #[test]
    fn instances_with_another_control_plane_do_not_meet() {
        let mut shared = MemoryShared::default();
        let other = r#"{"control_plane": {"cluster": "elsewhere", "token": "t"}}"#;
        let (mut first, mut second) = (engine(CONFIG, 1), engine(other, 2));
        first.start(&mut shared);
        second.start(&mut shared);
        feed(&mut first, &mut shared, 1, &set(1, &[("0.0.0.0/0", Tier::Manual, NEVER)]));
        assert_eq!(second.judge(&mut shared, ip("203.0.113.7"), 0), Judgement::Admit);
        assert!(second.next_call(&mut shared, 2).is_some(), "leads its own set");
    }

    #[test]
    fn without_a_control_plane_nothing_is_sent_and_everything_passes() {
        let mut shared = MemoryShared::default();
        let mut worker = engine("{}", 1);
        worker.start(&mut shared);
        assert_eq!(worker.judge(&mut shared, ip("203.0.113.7"), 0), Judgement::Admit);
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
}
