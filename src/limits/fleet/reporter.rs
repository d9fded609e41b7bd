//! The leading worker's reports: when, what, and what follows from the answers.
//!
//! Owns what was taken and not reported yet, the one report that is under way, and what
//! buckets owe by the last answers. Does no I/O and reads no clock.
//!
//! A report that fails is sent again as it is, so that it is counted once. What could not be
//! reported for [`KEEP_MS`] is forgotten: a bucket would have been refilled meanwhile, and an
//! outage must not be charged to clients when it is over.

use std::collections::VecDeque;

use super::account::Taken;
use super::wire::{Answer, MAX_BUCKETS, Report};
use super::{BucketId, Consumed, Consumption, Secret, add};
use crate::backoff::Backoff;

/// Pause between two reports.
pub const INTERVAL_MS: u64 = 1_000;
/// How long the control plane may take for an answer; to be given to the host with the call.
pub const TIMEOUT_MS: u64 = 3_000;
/// How old what was taken may grow before it is forgotten.
pub const KEEP_MS: u64 = 10_000;
/// Buckets that wait for a report, at most.
pub const MAX_PENDING: usize = 8 * MAX_BUCKETS;
/// A call whose answer never comes is given up after this.
const GIVE_UP_MS: u64 = 2 * TIMEOUT_MS;
/// First and longest pause after a failure, and the longest after one that won't pass soon: a
/// control plane that knows no fleet limits.
const BACKOFF_MS: (u64, u64) = (INTERVAL_MS, 5_000);
const BACKOFF_REFUSED_MS: u64 = 30_000;

/// What a bucket owes by the last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owed {
    /// The bucket.
    pub id: BucketId,
    /// Where it is, and what it was like when it was reported.
    pub consumption: Consumption,
    /// In nanoseconds.
    pub nanos: u64,
}

/// What happened since it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Reports that were answered, and that were not.
    pub taken: u64,
    /// See above.
    pub failed: u64,
    /// Buckets whose consumption was not reported in its second: there were busier ones, or
    /// nobody took the report. They count for this proxy alone.
    pub left_out: u64,
    /// Buckets that were moved forward, because others had taken from them.
    pub advanced: u64,
}

#[derive(Debug)]
struct Outgoing {
    number: u64,
    /// When it was first sent.
    since_ms: u64,
    /// When it was last sent, while nobody has answered.
    called_ms: Option<u64>,
    body: Vec<u8>,
    taken: Vec<(BucketId, Consumption)>,
}

/// See the module.
#[derive(Debug)]
pub struct Reporter {
    worker: u64,
    number: u64,
    pending: Consumed,
    /// Since when the oldest of it waits.
    pending_since_ms: u64,
    wants_secret: bool,
    outgoing: Option<Outgoing>,
    not_before_ms: u64,
    backoff: Backoff,
    owed: VecDeque<Owed>,
    /// For who drives it to add to.
    pub counts: Counts,
}

impl Reporter {
    /// `worker` is the random number of a worker's life.
    #[must_use]
    pub fn new(worker: u64) -> Self {
        Self {
            worker,
            number: 0,
            pending: Consumed::default(),
            pending_since_ms: 0,
            wants_secret: false,
            outgoing: None,
            not_before_ms: 0,
            backoff: Backoff::new(BACKOFF_MS.0, worker),
            owed: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// Whether a report could be sent now.
    #[must_use]
    pub fn is_due(&self, now_ms: u64) -> bool {
        let under_way = self.outgoing.as_ref().and_then(|outgoing| outgoing.called_ms);
        let over = |called_ms| now_ms.checked_sub(called_ms).is_none_or(|ms| ms >= GIVE_UP_MS);
        // A clock set back by more than the longest pause ends the pause.
        let pauses = now_ms < self.not_before_ms
            && self.not_before_ms <= now_ms.saturating_add(BACKOFF_REFUSED_MS);
        under_way.is_none_or(over) && !pauses
    }

    /// Asks for the secret with the next report, whatever there is to report.
    pub const fn ask(&mut self) {
        self.wants_secret = true;
    }

    /// Takes on what was taken from buckets since `since_ms`.
    pub fn take(&mut self, consumed: &mut Consumed, since_ms: u64) {
        if consumed.is_empty() {
            return;
        }
        if self.pending.is_empty() || since_ms < self.pending_since_ms {
            self.pending_since_ms = since_ms;
        }
        for (id, more) in consumed.drain() {
            self.counts.left_out += u64::from(!add(&mut self.pending, id, more, MAX_PENDING));
        }
    }

    /// What was taken and is not reported: for another worker that leads now.
    pub const fn pending(&mut self) -> &mut Consumed {
        &mut self.pending
    }

    /// The next report to send now, if any: its number and body.
    pub fn next(&mut self, now_ms: u64, origin: u64) -> Option<(u64, Vec<u8>)> {
        if !self.is_due(now_ms) {
            return None;
        }
        self.forget(now_ms);
        if let Some(outgoing) = &mut self.outgoing {
            outgoing.called_ms = Some(now_ms);
            self.not_before_ms = now_ms.saturating_add(INTERVAL_MS);
            return Some((outgoing.number, outgoing.body.clone()));
        }
        if self.pending.is_empty() && !self.wants_secret {
            return None;
        }
        let taken = self.busiest();
        self.number += 1;
        let report = Report {
            origin,
            worker: self.worker,
            number: self.number,
            taken: taken.iter().map(|(id, consumption)| entry(*id, consumption)).collect(),
        };
        let body = report.encode();
        self.not_before_ms = now_ms.saturating_add(INTERVAL_MS);
        self.outgoing = Some(Outgoing {
            number: self.number,
            since_ms: now_ms,
            called_ms: Some(now_ms),
            body: body.clone(),
            taken,
        });
        Some((self.number, body))
    }

    /// Takes the answer to the report `number`. Returns the secret that it names, `None` where
    /// the report was not taken.
    pub fn answered(
        &mut self,
        number: u64,
        status: u16,
        body: &[u8],
        now_ms: u64,
    ) -> Option<Secret> {
        let outgoing = self.outgoing.take_if(|outgoing| outgoing.number == number)?;
        let answer = Some(body)
            .filter(|_| status == 200)
            .and_then(|body| Answer::decode(body).ok())
            .filter(|answer| answer.number == number)
            .filter(|answer| answer.owes_us.len() == outgoing.taken.len());
        let Some(answer) = answer else {
            self.failed(outgoing, status, now_ms);
            return None;
        };
        self.backoff.reset();
        self.wants_secret = false;
        self.counts.taken += 1;
        for ((id, consumption), owes_us) in outgoing.taken.into_iter().zip(answer.owes_us) {
            if owes_us > 0 {
                let nanos = owes_us.saturating_mul(1_000);
                self.owed.push_back(Owed { id, consumption, nanos });
            }
        }
        // Those of the report before, if they still wait, are out of date.
        let most = self.owed.len().saturating_sub(2 * MAX_BUCKETS);
        self.owed.drain(..most);
        Some(answer.secret)
    }

    /// The next bucket that is to be moved forward, what it owes with what is not reported yet.
    pub fn next_owed(&mut self) -> Option<Owed> {
        let owed = self.owed.pop_front()?;
        let pending = self.pending.get(&owed.id).map_or(0, |pending| pending.nanos);
        Some(Owed { nanos: owed.nanos.saturating_add_signed(pending), ..owed })
    }

    /// What happened since the last call.
    pub fn take_counts(&mut self) -> Counts {
        core::mem::take(&mut self.counts)
    }

    fn failed(&mut self, outgoing: Outgoing, status: u16, now_ms: u64) {
        self.counts.failed += 1;
        // Another version, or one that knows nothing of this: it will not take the report later.
        let never = matches!(status, 400 | 404 | 405 | 406 | 413 | 415 | 422);
        let longest = if never { BACKOFF_REFUSED_MS } else { BACKOFF_MS.1 };
        self.not_before_ms = now_ms.saturating_add(self.backoff.fail(longest));
        if never {
            self.counts.left_out += outgoing.taken.len() as u64;
        } else {
            self.outgoing = Some(Outgoing { called_ms: None, ..outgoing });
        }
    }

    /// What is too old is left out.
    fn forget(&mut self, now_ms: u64) {
        let is_old = |since_ms| now_ms.checked_sub(since_ms).is_none_or(|ms| ms >= KEEP_MS);
        if let Some(outgoing) = self.outgoing.take_if(|outgoing| is_old(outgoing.since_ms)) {
            self.counts.left_out += outgoing.taken.len() as u64;
        }
        if !self.pending.is_empty() && is_old(self.pending_since_ms) {
            self.counts.left_out += self.pending.len() as u64;
            self.pending.clear();
        }
    }

    /// Takes the buckets of which most of what they hold was taken.
    fn busiest(&mut self) -> Vec<(BucketId, Consumption)> {
        let mut all: Vec<(BucketId, Consumption)> = self.pending.drain().collect();
        if all.len() > MAX_BUCKETS {
            let share = |(_, one): &(BucketId, Consumption)| {
                i128::from(one.nanos) * 65_536 / i128::from(one.bucket.capacity.max(1))
            };
            all.sort_by_key(|one| core::cmp::Reverse(share(one)));
            let rest = all.split_off(MAX_BUCKETS);
            self.counts.left_out += rest.len() as u64;
            // They come with the next one, should they be busy by then.
            self.pending.extend(rest);
        }
        all
    }
}

fn entry(id: BucketId, consumption: &Consumption) -> Taken {
    let nanos = consumption.nanos;
    // Rounded up: never more than the rate allows.
    let up = if nanos > 0 { nanos.saturating_add(999) } else { nanos };
    Taken { id, cost_us: up / 1_000, horizon_us: consumption.bucket.horizon.div_ceil(1_000) }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::limits::Rate;
    use crate::limits::gcra::Bucket;
    use crate::limits::table::Place;

    const T: u64 = 1_000_000;

    fn taken(n: u128, tokens: i64) -> (BucketId, Consumption) {
        let bucket = Bucket::new(&Rate::new(60, Duration::from_secs(60))).of_fleet();
        let nanos = tokens * 1_000_000_000;
        (BucketId(n), Consumption { place: Place { set: n as u64, tag: 256 }, bucket, nanos })
    }

    fn with(all: impl IntoIterator<Item = (BucketId, Consumption)>, at_ms: u64) -> Reporter {
        let mut reporter = Reporter::new(9);
        reporter.take(&mut all.into_iter().collect(), at_ms);
        reporter
    }

    fn answer(number: u64, owes_us: &[u64]) -> Vec<u8> {
        Answer { number, secret: [3; 16], owes_us: owes_us.to_vec() }.encode()
    }

    fn read((number, body): (u64, Vec<u8>)) -> (u64, Vec<(u128, i64)>) {
        let report = Report::decode(&body).unwrap();
        assert_eq!((report.worker, report.origin, report.number), (9, 7, number));
        (number, report.taken.iter().map(|taken| (taken.id.0, taken.cost_us)).collect())
    }

    #[test]
    fn a_report_a_second_and_what_comes_back_is_owed_with_what_was_taken_since() {
        let mut reporter = with([taken(1, 3)], T);
        let first = reporter.next(T, 7).unwrap();
        assert_eq!(read(first), (1, vec![(1, 3_000_000)]));
        reporter.take(&mut Consumed::from_iter([taken(1, 2)]), T + 10);
        assert_eq!(reporter.next(T + 999, 7), None);
        assert_eq!(reporter.answered(1, 200, &answer(1, &[5_000_000]), T + 20), Some([3; 16]));
        let owed = reporter.next_owed().unwrap();
        assert_eq!((owed.id, owed.nanos), (BucketId(1), 7_000_000_000));
        assert_eq!(reporter.next_owed(), None);
        assert_eq!(reporter.next(T + 999, 7), None);
        assert_eq!(read(reporter.next(T + 1_000, 7).unwrap()), (2, vec![(1, 2_000_000)]));
        // Who is told nothing moves nothing.
        assert!(reporter.answered(2, 200, &answer(2, &[0]), T + 1_010).is_some());
        assert_eq!((reporter.next_owed(), reporter.next(T + 5_000, 7)), (None, None));
        assert_eq!(reporter.take_counts(), Counts { taken: 2, ..Counts::default() });
    }

    #[test]
    fn the_secret_is_asked_for_with_an_empty_report() {
        let mut reporter = Reporter::new(9);
        assert_eq!(reporter.next(T, 7), None);
        reporter.ask();
        assert_eq!(read(reporter.next(T, 7).unwrap()), (1, vec![]));
        assert_eq!(reporter.answered(1, 200, &answer(1, &[]), T), Some([3; 16]));
        assert_eq!(reporter.next(T + 2_000, 7), None);
    }

    #[test]
    fn what_fails_comes_again_as_it_was_until_it_is_too_old() {
        let mut reporter = with([taken(1, 3)], T);
        let first = reporter.next(T, 7).unwrap();
        assert_eq!(reporter.answered(1, 503, b"", T), None);
        reporter.take(&mut Consumed::from_iter([taken(1, 1)]), T);
        let (mut now, mut again) = (T, 0);
        while now < T + KEEP_MS {
            if let Some(report) = reporter.next(now, 7) {
                assert_eq!(report, first);
                reporter.answered(1, if again % 2 == 0 { 0 } else { 503 }, b"", now);
                again += 1;
            }
            now += 10;
        }
        assert!((3..=10).contains(&again), "{again}");
        // What was taken meanwhile is as old: nothing is left to report.
        assert_eq!(reporter.next(now + KEEP_MS, 7), None);
        let counts = reporter.take_counts();
        assert_eq!((counts.failed, counts.left_out), (again + 1, 2));
        reporter.take(&mut Consumed::from_iter([taken(2, 1)]), now + 20_000);
        assert_eq!(read(reporter.next(now + 20_000, 7).unwrap()).1, [(2, 1_000_000)]);
    }

    #[test]
    fn who_knows_nothing_of_fleet_limits_is_asked_seldom() {
        let mut reporter = Reporter::new(9);
        let (mut now, mut asked) = (T, 0);
        while now < T + 600_000 {
            reporter.take(&mut Consumed::from_iter([taken(1, 1)]), now);
            if let Some((number, _)) = reporter.next(now, 7) {
                reporter.answered(number, 404, b"", now);
                asked += 1;
            }
            now += 100;
        }
        assert!((20..=50).contains(&asked), "{asked}");
    }

    #[test]
    fn an_answer_that_does_not_fit_is_none() {
        for (status, body) in [
            (200, answer(2, &[1])),
            (200, answer(1, &[1, 2])),
            (200, b"no".to_vec()),
            (204, answer(1, &[1])),
        ] {
            let mut reporter = with([taken(1, 3)], T);
            reporter.next(T, 7).unwrap();
            assert_eq!(reporter.answered(1, status, &body, T), None);
            assert_eq!((reporter.next_owed(), reporter.take_counts().failed), (None, 1));
        }
        let mut reporter = with([taken(1, 3)], T);
        reporter.next(T, 7).unwrap();
        assert_eq!(reporter.answered(5, 200, &answer(5, &[1]), T), None);
        assert_eq!(reporter.take_counts().failed, 0, "an answer to nothing");
    }

    #[test]
    fn the_busiest_buckets_come_first_and_the_sum_is_bounded() {
        let most = MAX_PENDING as u128;
        let mut reporter = Reporter::new(9);
        for n in 0..most + 10 {
            reporter.take(&mut Consumed::from_iter([taken(n, 1)]), T);
        }
        reporter.take(&mut Consumed::from_iter([taken(77, 40)]), T);
        assert_eq!(reporter.take_counts().left_out, 10);
        let (number, first) = read(reporter.next(T, 7).unwrap());
        assert_eq!((first.len(), first[0]), (MAX_BUCKETS, (77, 41_000_000)));
        assert_eq!(reporter.take_counts().left_out, (MAX_PENDING - MAX_BUCKETS) as u64);
        reporter.answered(number, 200, &answer(number, &[0; MAX_BUCKETS]), T);
        let (_, second) = read(reporter.next(T + 1_000, 7).unwrap());
        assert!(second.iter().all(|(id, _)| *id != 77));
    }

    #[test]
    fn a_call_that_is_never_answered_is_given_up_and_a_clock_that_goes_back_ends_a_pause() {
        let mut reporter = with([taken(1, 3)], T);
        let first = reporter.next(T, 7).unwrap();
        assert_eq!(reporter.next(T + GIVE_UP_MS - 1, 7), None);
        assert_eq!(reporter.next(T + GIVE_UP_MS, 7), Some(first));
        reporter.answered(1, 200, &answer(1, &[0]), T + GIVE_UP_MS);
        reporter.take(&mut Consumed::from_iter([taken(1, 1)]), T - 900_000);
        assert!(reporter.next(T - 900_000, 7).is_some());
    }
}
