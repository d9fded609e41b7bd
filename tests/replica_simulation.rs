//! Several workers on one shared-data map, seeded: lost leaders, lost and late answers,
//! corrupt messages, injected compare-and-swap mismatches, damaged shared data.
//!
//! What must hold at every step: a worker that says it stands at revision N decides exactly
//! as the control plane's set did at N. What must hold in the end, once the faults stop:
//! every worker stands at the newest revision.

#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail loudly"
)]

mod support;

use std::collections::HashMap;
use std::net::IpAddr;

use ipwarden::decisions::replica::{Answer, Follower, Outcome, Poll, Refresh, Replicator};
use ipwarden::decisions::{Change, Entry, NEVER, Revision, Tier, wire};
use ipwarden::shared::SharedData;
use ipwarden::shared::testing::MemoryShared;
use support::Random;

const SEEDS: u64 = 300;
const STEPS: u32 = 400;
const ADDRESSES: u64 = 48;
const NAMESPACE: &str = "ipwarden.test";

/// The other side: every state that the set ever had.
struct ControlPlane {
    epoch: u64,
    history: Vec<Vec<Entry>>,
    steps: Vec<Vec<Change>>,
    next_id: u32,
    /// The snapshot that is handed out is older than the present, followed by a delta.
    snapshot_at: usize,
}

impl ControlPlane {
    fn new(epoch: u64) -> Self {
        Self {
            epoch,
            history: vec![Vec::new()],
            steps: vec![Vec::new()],
            next_id: 1,
            snapshot_at: 0,
        }
    }

    fn number(&self) -> u64 {
        self.history.len() as u64 - 1
    }

    fn change(&mut self, random: &mut Random) {
        let mut set = self.history.last().unwrap().clone();
        let mut changes = Vec::new();
        for _ in 0..random.below(4) {
            if !set.is_empty() && random.chance(40) {
                let gone = set.swap_remove(random.below(set.len() as u64) as usize);
                changes.push(Change::Remove { target: gone.target, id: gone.id });
            } else {
                let address = u32::try_from(random.below(ADDRESSES)).unwrap();
                let len = [32, 32, 30, 28][random.below(4) as usize];
                let target = ipnet::IpNet::new(IpAddr::V4(address.into()), len).unwrap().trunc();
                let tier = Tier::from_code(random.below(4) as u8).unwrap();
                let entry = Entry { target, tier, id: self.next_id, expires_at: NEVER };
                self.next_id += 1;
                set.push(entry);
                changes.push(Change::Add(entry));
            }
        }
        self.history.push(set);
        self.steps.push(changes);
    }

    fn encode_snapshot(&self, at: usize) -> Vec<u8> {
        let mut entries = self.history[at].clone();
        entries.sort_by_key(Entry::sort_key);
        // Small frames: larger sets are taken in steps.
        let frame = 1 + (self.epoch as usize + at) % 5;
        let revision = Revision { epoch: self.epoch, number: at as u64 };
        wire::encode_snapshot_in(revision, 0, &entries, frame)
    }

    fn encode_delta(&self, from: usize) -> Vec<u8> {
        let revision = Revision { epoch: self.epoch, number: self.number() };
        wire::encode_delta(from as u64, revision, 0, &self.steps[from + 1..].concat())
    }

    /// `None` is the answer "nothing newer".
    fn answer(&self, after: Option<Revision>) -> Option<Vec<u8>> {
        match after {
            Some(after) if after.epoch == self.epoch && after.number == self.number() => None,
            Some(after) if after.epoch == self.epoch && after.number < self.number() => {
                Some(self.encode_delta(after.number as usize))
            }
            _ => {
                let mut body = self.encode_snapshot(self.snapshot_at);
                if (self.snapshot_at as u64) < self.number() {
                    body.extend(self.encode_delta(self.snapshot_at));
                }
                Some(body)
            }
        }
    }

    fn verdict(&self, number: u64, ip: IpAddr) -> Option<(Tier, u8)> {
        self.history[number as usize]
            .iter()
            .filter(|entry| entry.target.contains(&ip))
            .map(|entry| (entry.tier, entry.target.prefix_len()))
            .min_by_key(|&(tier, len)| (tier, std::cmp::Reverse(len)))
    }
}

/// Limits have tests of their own.
fn no_policy(_: &mut dyn SharedData, _: &[u8], _: u64) -> Option<u64> {
    None
}

struct Worker {
    replicator: Replicator,
    follower: Follower,
    /// Polls sent and not answered: later ones may be answered first, or none.
    polls: Vec<Poll>,
}

impl Worker {
    fn new(random: &mut Random, shared: &mut MemoryShared) -> Self {
        let mut replicator = Replicator::new(NAMESPACE, random.next());
        replicator.initialise(shared).unwrap();
        Self { replicator, follower: Follower::new(NAMESPACE), polls: Vec::new() }
    }

    /// Answers a poll and takes what came, in as many steps as it needs.
    fn take(&mut self, poll: u64, now_ms: u64, shared: &mut MemoryShared, body: &[u8]) -> Outcome {
        let answer = Answer::Message(body);
        let mut outcome = self.replicator.answered(poll, now_ms, shared, answer, &mut no_policy);
        while self.replicator.is_importing() {
            if let Some(end) = self.replicator.advance(now_ms, shared, &mut no_policy) {
                outcome = end;
            }
        }
        outcome
    }
}

struct World {
    seed: u64,
    random: Random,
    shared: MemoryShared,
    /// By epoch: a control plane that lost its state comes back with another one.
    planes: HashMap<u64, ControlPlane>,
    current: u64,
    workers: Vec<Worker>,
    now_ms: u64,
    snapshots: u64,
    /// Of those, taken in steps.
    imported: u64,
    deltas: u64,
    damaged: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut shared = MemoryShared::default();
        shared.fail_every = [0, 7, 3][random.below(3) as usize];
        let count = 1 + random.below(4);
        let workers = (0..count).map(|_| Worker::new(&mut random, &mut shared)).collect();
        let planes = HashMap::from([(1, ControlPlane::new(1))]);
        Self {
            seed,
            random,
            shared,
            planes,
            current: 1,
            workers,
            now_ms: 1_000_000,
            snapshots: 0,
            imported: 0,
            deltas: 0,
            damaged: 0,
        }
    }

    fn tick_all(&mut self, faults: bool) {
        for which in 0..self.workers.len() {
            if faults && self.random.chance(20) {
                continue;
            }
            let worker = &mut self.workers[which];
            let advanced = worker.replicator.advance(self.now_ms, &mut self.shared, &mut no_policy);
            self.imported += u64::from(matches!(advanced, Some(Outcome::Snapshot(_))));
            if let Some(poll) = worker.replicator.tick(self.now_ms, &mut self.shared) {
                worker.polls.push(poll);
            }
            let frames = 1 + self.random.below(3) as u32;
            match worker.follower.refresh(&mut self.shared, frames) {
                Refresh::UpToDate => {}
                Refresh::Damaged => self.damaged += 1,
                Refresh::Applied(_) | Refresh::Loading => self.check(&self.workers[which]),
            }
        }
    }

    fn check(&self, worker: &Worker) {
        let Some(at) = worker.follower.revision() else { return };
        for n in 0..ADDRESSES {
            let ip = IpAddr::V4(u32::try_from(n).unwrap().into());
            let found = worker.follower.table().lookup(ip, 1);
            assert_eq!(
                found.map(|found| (found.tier, found.prefix_len)),
                self.planes[&at.epoch].verdict(at.number, ip),
                "seed {}: {ip} at revision {at:?}",
                self.seed
            );
        }
    }

    fn settled(&self) -> bool {
        let plane = &self.planes[&self.current];
        let newest = Revision { epoch: plane.epoch, number: plane.number() };
        self.workers.iter().all(|worker| worker.follower.revision() == Some(newest))
            && self.workers.iter().filter(|worker| worker.replicator.leads()).count() == 1
    }

    fn answer_one(&mut self, faults: bool) {
        let which = self.random.below(self.workers.len() as u64) as usize;
        let worker = &mut self.workers[which];
        if worker.polls.is_empty() {
            return;
        }
        let poll = worker.polls.remove(self.random.below(worker.polls.len() as u64) as usize);
        if faults && self.random.chance(10) {
            return; // Lost for good: the worker has to give it up by itself.
        }
        let mut body = self.planes[&self.current].answer(poll.after);
        if faults && self.random.chance(10) {
            let fate = self.random.below(4);
            let answer = match fate {
                0 => Answer::Failed,
                1 => Answer::Refused,
                _ => {
                    let body = body.get_or_insert_default();
                    if fate == 2 || body.is_empty() {
                        body.truncate(body.len() / 2);
                    } else {
                        let place = self.random.below(body.len() as u64) as usize;
                        body[place] ^= 1 << self.random.below(8);
                    }
                    Answer::Message(body)
                }
            };
            worker.replicator.answered(
                poll.id,
                self.now_ms,
                &mut self.shared,
                answer,
                &mut no_policy,
            );
            return;
        }
        let answer = body.as_deref().map_or(Answer::Unchanged, Answer::Message);
        let copies = if faults && self.random.chance(10) { 2 } else { 1 };
        for _ in 0..copies {
            let outcome = worker.replicator.answered(
                poll.id,
                self.now_ms,
                &mut self.shared,
                answer,
                &mut no_policy,
            );
            match outcome {
                Outcome::Snapshot(_) => self.snapshots += 1,
                Outcome::Delta(_) => self.deltas += 1,
                Outcome::Bad(error) => panic!("seed {}: {error}", self.seed),
                _ => {}
            }
        }
    }

    fn disturb(&mut self) {
        match self.random.below(100) {
            0..3 => {
                // A worker's VM dies and another takes its place.
                let which = self.random.below(self.workers.len() as u64) as usize;
                self.workers[which] = Worker::new(&mut self.random, &mut self.shared);
            }
            3..5 => {
                let which = self.random.below(self.workers.len() as u64) as usize;
                self.workers[which].replicator.release(&mut self.shared);
            }
            5..7 => {
                let mut keys: Vec<String> = self
                    .shared
                    .keys()
                    .filter(|key| key.contains(".snap.") || key.contains(".log."))
                    .map(str::to_owned)
                    .collect();
                keys.sort();
                if !keys.is_empty() {
                    let key = keys[self.random.below(keys.len() as u64) as usize].clone();
                    let at = self.random.next();
                    self.shared.corrupt(&key, |value| {
                        if !value.is_empty() {
                            let place = (at % value.len() as u64) as usize;
                            value[place] ^= 4;
                        }
                    });
                }
            }
            7..8 => {
                self.current += 1;
                self.planes.insert(self.current, ControlPlane::new(self.current));
            }
            8..9 => self.now_ms += 60_000,
            9..10 => self.now_ms = self.now_ms.saturating_sub(60_000),
            _ => {}
        }
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            self.now_ms += self.random.below(300);
            if self.random.chance(30) {
                let plane = self.planes.get_mut(&self.current).unwrap();
                plane.change(&mut self.random);
                if self.random.chance(10) {
                    plane.snapshot_at = plane.number() as usize;
                }
            }
            self.disturb();
            self.tick_all(true);
            self.answer_one(true);
        }
        // Faults stop; everything must settle.
        self.shared.fail_every = 0;
        for _ in 0..1_500 {
            self.now_ms += 100;
            self.tick_all(false);
            for _ in 0..self.workers.len() {
                self.answer_one(false);
            }
            if self.settled() {
                break;
            }
        }
        assert!(self.settled(), "seed {}: not settled", self.seed);
        for worker in &self.workers {
            self.check(worker);
        }
    }
}

#[test]
fn workers_converge_and_never_decide_by_a_set_that_never_was() {
    let (mut snapshots, mut imported, mut deltas, mut damaged) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        world.run();
        snapshots += world.snapshots;
        imported += world.imported;
        deltas += world.deltas;
        damaged += world.damaged;
    }
    // The simulation is worth something only if it reached these states.
    assert!(
        snapshots > SEEDS && imported > SEEDS / 3 && deltas > 10 * SEEDS && damaged > SEEDS / 2,
        "{snapshots} {imported} {deltas} {damaged}"
    );
}

#[test]
fn a_snapshot_whose_frames_are_not_in_order_is_thrown_away() {
    // Each frame is in order by itself; the second starts where the first did.
    let entry = |n: u32| Entry {
        target: ipnet::IpNet::new(IpAddr::V4(n.into()), 32).unwrap(),
        tier: Tier::Feed,
        id: n + 1,
        expires_at: NEVER,
    };
    let half: Vec<Entry> = (0..wire::FRAME_ENTRIES as u32).map(entry).collect();
    let body =
        wire::encode_snapshot(Revision { epoch: 1, number: 1 }, 0, &[half.clone(), half].concat());
    let mut shared = MemoryShared::default();
    let mut worker = Worker::new(&mut Random(11), &mut shared);
    let poll = worker.replicator.tick(5_000, &mut shared).unwrap();
    let outcome = worker.replicator.answered(
        poll.id,
        5_000,
        &mut shared,
        Answer::Message(&body),
        &mut no_policy,
    );
    assert_eq!(outcome, Outcome::Bad(wire::DecodeError::Unsorted));
    assert_eq!(worker.follower.refresh(&mut shared, u32::MAX), Refresh::UpToDate);
    assert_eq!(worker.follower.revision(), None);
}

#[test]
fn a_lost_leader_is_replaced_within_the_lease_and_its_check() {
    let mut shared = MemoryShared::default();
    let mut random = Random(7);
    let mut first = Worker::new(&mut random, &mut shared).replicator;
    let mut second = Worker::new(&mut random, &mut shared).replicator;
    assert!(first.tick(10_000, &mut shared).is_some());
    assert!(second.tick(10_000, &mut shared).is_none() && !second.leads());
    // The first never ticks again.
    let mut now_ms = 10_000;
    while !second.leads() {
        now_ms += 100;
        let _ = second.tick(now_ms, &mut shared);
        assert!(now_ms <= 14_100, "no takeover");
    }
    assert!(now_ms >= 13_000, "took over a lease that was still valid");
}

#[test]
fn a_released_lease_is_taken_at_the_next_check() {
    let mut shared = MemoryShared::default();
    let mut random = Random(8);
    let mut first = Worker::new(&mut random, &mut shared).replicator;
    let mut second = Worker::new(&mut random, &mut shared).replicator;
    let _ = first.tick(10_000, &mut shared);
    let _ = second.tick(10_000, &mut shared);
    first.release(&mut shared);
    assert!(!first.leads());
    let _ = second.tick(11_000, &mut shared);
    assert!(second.leads());
}

#[test]
fn a_refused_poll_waits_longer_than_a_failed_one_and_never_spins() {
    let mut shared = MemoryShared::default();
    let mut random = Random(9);
    let mut leader = Worker::new(&mut random, &mut shared).replicator;
    for (answer, longest_ms) in [(Answer::Failed, 5_000), (Answer::Refused, 30_000)] {
        let mut pauses = Vec::new();
        let mut now_ms = 1_000_000;
        for _ in 0..12 {
            let asked_ms = now_ms;
            let poll = loop {
                if let Some(poll) = leader.tick(now_ms, &mut shared) {
                    break poll;
                }
                now_ms += 50;
            };
            pauses.push(now_ms - asked_ms);
            leader.answered(poll.id, now_ms, &mut shared, answer, &mut no_policy);
        }
        assert!(pauses[1..].iter().all(|&pause| pause >= 100), "{pauses:?}");
        assert!(
            pauses
                .iter()
                .max()
                .is_some_and(|&most| most <= longest_ms + 50 && most >= longest_ms / 2),
            "{pauses:?}"
        );
    }
}

#[test]
fn a_set_in_shared_data_survives_an_unreadable_message() {
    let mut shared = MemoryShared::default();
    let mut random = Random(10);
    let mut worker = Worker::new(&mut random, &mut shared);
    let mut plane = ControlPlane::new(5);
    for _ in 0..20 {
        plane.change(&mut random);
    }
    plane.snapshot_at = plane.number() as usize;
    let poll = worker.replicator.tick(5_000, &mut shared).unwrap();
    let body = plane.answer(poll.after).unwrap();
    worker.take(poll.id, 5_000, &mut shared, &body);
    assert!(matches!(worker.follower.refresh(&mut shared, u32::MAX), Refresh::Applied(_)));
    let before = worker.follower.revision();
    let mut future = body.clone();
    future[4] = 9;
    for (bad, name) in [
        (&future[..], "Version"),
        (&body[..body.len() - 1], "Malformed"),
        (b"<html>", "NotDecisions"),
    ] {
        let mut now_ms = 100_000;
        let poll = loop {
            now_ms += 1_000;
            if let Some(poll) = worker.replicator.tick(now_ms, &mut shared) {
                break poll;
            }
        };
        let outcome = worker.take(poll.id, now_ms, &mut shared, bad);
        assert!(format!("{outcome:?}").contains(name), "{outcome:?}");
        assert_eq!(worker.follower.refresh(&mut shared, u32::MAX), Refresh::UpToDate);
        assert_eq!(worker.follower.revision(), before);
    }
}
