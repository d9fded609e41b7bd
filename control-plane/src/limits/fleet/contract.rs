//! What every counter of fleet limits does, wherever its buckets are.

use std::time::Duration;

use ipwarden::limits::fleet::BucketId;
use ipwarden::limits::fleet::account::Taken;
use ipwarden::limits::fleet::wire::{MAX_BUCKETS, Report};

use super::FleetCounter;
use super::memory::MemoryCounter;
use crate::clock::{Clock, ManualClock};

const SECOND: i64 = 1_000_000;
const HORIZON: u64 = 800 * SECOND as u64;

/// A counter under test, and how to let time pass for it.
pub(super) struct Bench<C> {
    counter: C,
    clock: Clock,
    /// `None`: its clock is a real one.
    handle: Option<ManualClock>,
    number: u64,
}

impl<C: FleetCounter> Bench<C> {
    pub(super) fn manual(counter: C) -> Self {
        let (clock, handle) = Clock::manual("2026-11-22T16:00:00Z".parse().unwrap());
        Self { counter, clock, handle: Some(handle), number: 0 }
    }

    /// One that goes by a clock of its own.
    pub(super) fn running(counter: C) -> Self {
        Self { counter, clock: Clock::system(), handle: None, number: 0 }
    }

    async fn pass(&self, time: Duration) {
        match &self.handle {
            Some(handle) => handle.advance(time),
            None => tokio::time::sleep(time).await,
        }
    }

    /// What the Envoy `origin` is told after it took from buckets.
    async fn took(&mut self, origin: u64, taken: &[(u128, i64)]) -> Vec<u64> {
        self.number += 1;
        let report = report(origin, self.number, taken);
        self.count(&report).await
    }

    async fn count(&self, report: &Report) -> Vec<u64> {
        self.counter.count(report, self.clock.now()).await.unwrap()
    }
}

fn report(origin: u64, number: u64, taken: &[(u128, i64)]) -> Report {
    let entry =
        |&(id, cost_us): &(u128, i64)| Taken { id: BucketId(id), cost_us, horizon_us: HORIZON };
    let taken = taken.iter().map(entry).collect();
    Report { origin, worker: 1_000 + origin, number, taken }
}

/// What is owed, between what it was and what it can be a few seconds later.
#[track_caller]
fn owes(found: &[u64], expected: &[i64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let most = u64::try_from(*expected).unwrap();
        let least = most.saturating_sub(20 * SECOND as u64);
        assert!((least..=most).contains(found), "{found} of {most}");
    }
}

/// All of it; buckets are numbered from `first`, so that runs on one store don't meet.
pub(super) async fn all<C: FleetCounter>(mut bench: Bench<C>, first: u128) {
    let [a, b, c, d] = [first, first + 1, first + 2, first + 3];
    bench.counter.check().await.unwrap();

    // Who alone takes from a bucket is told nothing; the next one all, and then both.
    assert_eq!(bench.took(1, &[(a, 100 * SECOND)]).await, [0]);
    assert_eq!(bench.took(1, &[(a, 50 * SECOND), (b, SECOND)]).await, [0, 0]);
    owes(&bench.took(2, &[(a, 30 * SECOND), (c, SECOND)]).await, &[180 * SECOND, 0]);
    owes(&bench.took(1, &[(a, 0)]).await, &[180 * SECOND]);
    // Who only asks takes nothing.
    owes(&bench.took(3, &[(c, 0)]).await, &[SECOND]);
    assert_eq!(bench.took(2, &[(c, SECOND)]).await, [0]);

    // A report that comes again is counted once.
    let again = report(2, 900, &[(a, 100 * SECOND)]);
    owes(&bench.count(&again).await, &[280 * SECOND]);
    owes(&bench.count(&again).await, &[280 * SECOND]);
    // Numbers are a worker's own.
    owes(&bench.count(&report(4, 900, &[(a, 10 * SECOND)])).await, &[290 * SECOND]);

    // What was given back; a bucket is no fuller than full and no emptier than its horizon.
    owes(&bench.took(5, &[(a, -40 * SECOND)]).await, &[250 * SECOND]);
    owes(&bench.took(5, &[(a, i64::MAX)]).await, &[800 * SECOND]);
    assert_eq!(bench.took(5, &[(a, i64::MIN)]).await, [0]);

    // Time fills buckets, and one that was full forgets who took from it.
    bench.took(1, &[(d, SECOND / 2)]).await;
    bench.took(2, &[(d, SECOND / 2)]).await;
    bench.pass(Duration::from_millis(1_100)).await;
    assert_eq!(bench.took(2, &[(d, SECOND)]).await, [0]);

    // Filled by hand.
    bench.took(1, &[(a, 300 * SECOND)]).await;
    owes(&bench.took(2, &[(a, 0)]).await, &[300 * SECOND]);
    bench.counter.reset(&[BucketId(a), BucketId(first + 77)]).await.unwrap();
    assert_eq!(bench.took(2, &[(a, 0)]).await, [0]);

    // As much as a report can hold, in its order; and as little.
    let many: Vec<(u128, i64)> = (0..MAX_BUCKETS as u128)
        .map(|n| (first + 1_000 + n, (n as i64 + 200) * SECOND / 2))
        .collect();
    assert_eq!(bench.took(1, &many).await, vec![0; MAX_BUCKETS]);
    let asks: Vec<(u128, i64)> = many.iter().map(|(id, _)| (*id, 0)).collect();
    let told = bench.took(2, &asks).await;
    assert!(told.is_sorted(), "in the report's order");
    let expected: Vec<i64> = many.iter().map(|(_, cost)| *cost).collect();
    owes(&told, &expected);
    assert_eq!(bench.took(1, &[]).await, [0; 0]);
}

#[tokio::test]
async fn memory_counts_as_the_contract_says() {
    all(Bench::manual(MemoryCounter::default()), 1 << 70).await;
}
