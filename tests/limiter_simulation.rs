//! The limiter under every interleaving: many workers, few buckets, one table in shared data.
//!
//! A step of a worker is a read or a write of shared data; which worker takes the next step
//! is drawn, so is the time that passes. Every run is named by its seed. What is compared:
//!
//! - the rule itself: no span of time holds more admitted tokens than burst + time * rate;
//! - a model that keeps tokens, not arrival times, and sees the operations one after the
//!   other in the order in which they took effect: it must agree on every admission *and*
//!   on every refusal, so a limiter that refuses everybody fails, too.

#![expect(
    clippy::indexing_slicing,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail loudly"
)]

mod support;

use std::collections::HashMap;
use std::time::Duration;

use ipwarden::limits::Rate;
use ipwarden::limits::gcra::{Bucket, Nanos};
use ipwarden::limits::table::{Attempt, Counts, Done, Next, Operation, Place, Table};
use ipwarden::shared::SharedData;
use ipwarden::shared::testing::MemoryShared;
use support::Random;

const SECOND: Nanos = 1_000_000_000;

/// A bucket of tokens, refilled evenly. A token is `interval` units of level.
#[derive(Debug, Default, Clone)]
struct Model {
    level: Option<i128>,
    last: Nanos,
    admitted: Vec<(Nanos, u64)>,
}

impl Model {
    fn level(&self, bucket: &Bucket, now: Nanos) -> i128 {
        let capacity = i128::from(bucket.capacity);
        let Some(level) = self.level else { return capacity };
        // A worker that read the clock before the last one to win sees an older level.
        (level + i128::from(now) - i128::from(self.last)).clamp(0, capacity)
    }

    fn would_admit(&self, bucket: &Bucket, now: Nanos, cost: u32) -> bool {
        self.level(bucket, now) >= i128::from(bucket.interval) * i128::from(cost.max(1))
    }

    fn change(&mut self, bucket: &Bucket, now: Nanos, tokens: i128) {
        if tokens == 0 {
            return;
        }
        let level = self.level(bucket, now) + tokens * i128::from(bucket.interval);
        self.level = Some(level.clamp(0, i128::from(bucket.capacity)));
        self.last = now;
    }
}

/// What is to be written, and the number that it was read with.
type Write = (Vec<u8>, Option<u32>);

/// One worker in the middle of something.
enum Worker {
    Idle,
    Reads(Job),
    Writes(Job, Write),
}

#[derive(Clone, Copy)]
struct Job {
    key: usize,
    cost: u32,
    now: Nanos,
    attempt: Attempt,
}

struct Outcome {
    admitted: u64,
    refused: u64,
    counts: Counts,
}

fn run(seed: u64) -> Outcome {
    let mut random = Random(seed);
    let workers = 1 + random.below(8) as usize;
    let keys = 1 + random.below(4) as usize;
    let bucket = Bucket::new(&Rate {
        requests: 1 + random.below(12) as u32,
        per: Duration::from_secs(1 + random.below(60)),
        burst: 3 + random.below(10) as u32,
    });
    let mut shared = MemoryShared::default();
    let mut table = Table::new(7);
    table.open(&mut shared, [seed as u8; 16]).expect("memory does not fail");
    let places: Vec<Place> = (0..keys)
        .map(|key| {
            let mut hasher = table.hasher().expect("open");
            hasher.part(&(key as u64).to_le_bytes());
            hasher.finish()
        })
        .collect();
    let mut states: Vec<Worker> = (0..workers).map(|_| Worker::Idle).collect();
    let mut models = vec![Model::default(); keys];
    let mut counts = Counts::default();
    let mut now = 1_000 * SECOND;
    let (mut admitted, mut refused) = (0, 0);
    let steps = 400;
    for step in 0.. {
        let closing = step >= steps;
        if closing && states.iter().all(|state| matches!(state, Worker::Idle)) {
            break;
        }
        // Mostly all at once, now and then a pause; nobody takes a second for a request.
        if random.below(6) == 0 {
            now += random.below(bucket.interval * 2);
            let begun = states.iter().filter_map(|state| match state {
                Worker::Idle => None,
                Worker::Reads(job) | Worker::Writes(job, _) => Some(job.now),
            });
            now = begun.map(|begun| begun + SECOND - 1).fold(now, Nanos::min);
        }
        let worker = random.below(workers as u64) as usize;
        let state = std::mem::replace(&mut states[worker], Worker::Idle);
        states[worker] = match state {
            Worker::Idle if closing => Worker::Idle,
            Worker::Idle => {
                let key = random.below(keys as u64) as usize;
                let cost = random.below(4) as u32;
                let attempt = Attempt::new(places[key], bucket, Operation::Take(cost), now);
                Worker::Reads(Job { key, cost, now, attempt })
            }
            Worker::Reads(mut job) => {
                let mut value = Vec::new();
                let found = shared.get(&table.set_key(&job.attempt), &mut value);
                match job.attempt.read(found, &mut value, &mut counts) {
                    Next::Write(cas) => Worker::Writes(job, (value, cas)),
                    // Decided by what was read, at the moment of the read.
                    Next::Done(Done::Refused(until)) => {
                        let model = &models[job.key];
                        assert!(!model.would_admit(&bucket, job.now, job.cost), "seed {seed}");
                        assert!(!model.would_admit(&bucket, until - 1, job.cost), "seed {seed}");
                        // Who read the clock before the last winner may be told a time that is
                        // early by as much as that lies back.
                        let stale = model.last.saturating_sub(job.now);
                        assert!(model.would_admit(&bucket, until + stale, job.cost), "seed {seed}");
                        refused += 1;
                        Worker::Idle
                    }
                    // A cost of nothing changes nothing.
                    Next::Done(Done::Stored(_)) => {
                        assert_eq!(job.cost, 0, "seed {seed}");
                        assert!(models[job.key].would_admit(&bucket, job.now, 0), "seed {seed}");
                        Worker::Idle
                    }
                    Next::Done(other) => panic!("seed {seed}: {other:?}"),
                }
            }
            Worker::Writes(mut job, (value, cas)) => {
                let key = table.set_key(&job.attempt);
                match job.attempt.written(shared.set(&key, &value, cas), &mut counts) {
                    None => Worker::Reads(job),
                    Some(Done::Stored(_)) => {
                        let model = &mut models[job.key];
                        assert!(model.would_admit(&bucket, job.now, job.cost), "seed {seed}");
                        model.change(&bucket, job.now, -i128::from(job.cost));
                        model.admitted.push((job.now, u64::from(job.cost)));
                        admitted += u64::from(job.cost);
                        Worker::Idle
                    }
                    Some(other) => panic!("seed {seed}: {other:?}"),
                }
            }
        };
    }
    for model in &mut models {
        assert_no_window_holds_too_much(&bucket, &mut model.admitted, seed);
    }
    Outcome { admitted, refused, counts }
}

/// The rule as it is documented, checked over every span of time between two admissions.
fn assert_no_window_holds_too_much(bucket: &Bucket, admitted: &mut [(Nanos, u64)], seed: u64) {
    admitted.sort_unstable();
    for (first, &(from, _)) in admitted.iter().enumerate() {
        let mut sum = 0;
        for &(to, tokens) in &admitted[first..] {
            sum += tokens;
            let allowed = u128::from(bucket.capacity) + u128::from(to - from);
            assert!(u128::from(sum) * u128::from(bucket.interval) <= allowed, "seed {seed}");
        }
    }
}

#[test]
fn no_interleaving_admits_more_or_refuses_more_than_the_rule() {
    let (mut admitted, mut refused, mut retries) = (0, 0, 0);
    for seed in 0..10_000 {
        let outcome = run(seed);
        admitted += outcome.admitted;
        refused += outcome.refused;
        retries += outcome.counts.retries;
        assert_eq!(outcome.counts.evicted_in_debt, 0, "seed {seed}");
    }
    // The runs were about something.
    assert!(
        admitted > 50_000 && refused > 50_000 && retries > 50_000,
        "{admitted} {refused} {retries}"
    );
}

#[test]
fn of_any_number_at_once_exactly_the_burst_is_admitted() {
    for seed in 0..1_000 {
        let mut random = Random(seed);
        let burst = 1 + random.below(20) as u32;
        let bucket = Bucket::new(&Rate::new(burst, Duration::from_secs(60)));
        let mut shared = MemoryShared::default();
        let mut table = Table::new(7);
        table.open(&mut shared, [3; 16]).expect("memory does not fail");
        let place = table.hasher().expect("open").finish();
        let mut counts = Counts::default();
        let attempt = Attempt::new(place, bucket, Operation::Take(1), SECOND);
        let key = table.set_key(&attempt);
        // 200 requests, each at its own step; at most 16 workers are in the middle of one.
        let mut waiting = 200;
        let mut running: Vec<(Attempt, Option<Write>)> = Vec::new();
        let mut done: HashMap<bool, u32> = HashMap::new();
        while waiting > 0 || !running.is_empty() {
            while waiting > 0 && running.len() < 16 {
                running.push((attempt, None));
                waiting -= 1;
            }
            let at = random.below(running.len() as u64) as usize;
            let (attempt, write) = &mut running[at];
            let ended = match write.take() {
                None => {
                    let mut value = Vec::new();
                    let found = shared.get(&key, &mut value);
                    match attempt.read(found, &mut value, &mut counts) {
                        Next::Write(cas) => {
                            *write = Some((value, cas));
                            None
                        }
                        Next::Done(ended) => Some(ended),
                    }
                }
                Some((value, cas)) => attempt.written(shared.set(&key, &value, cas), &mut counts),
            };
            if let Some(ended) = ended {
                running.swap_remove(at);
                *done.entry(matches!(ended, Done::Stored(_))).or_default() += 1;
                assert_ne!(ended, Done::Contended, "seed {seed}");
            }
        }
        assert_eq!(done.get(&true), Some(&burst), "seed {seed}");
        assert_eq!(done.get(&false), Some(&(200 - burst)), "seed {seed}");
    }
}
