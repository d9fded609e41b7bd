//! A leaky bucket: one rule, one address or group.

use crate::detect::{EVIDENCE_MAX, Evidence};

/// A clock that goes back so far was set; the bucket goes on from there, or it would not leak
/// until the old time comes again.
const CLOCK_SET_US: u64 = 600_000_000;
/// The next flag of the same rule and address comes so much later.
pub const QUIET_US: u64 = 60_000_000;
/// Most addresses that a group remembers.
pub const MEMBERS_MAX: usize = 512;

/// The state of a bucket that is not empty.
#[derive(Debug)]
pub struct Bucket {
    /// Index of the rule.
    pub rule: u16,
    /// It has raised a flag since it was last empty.
    pub is_flagged: bool,
    /// Capacity of the rule.
    pub capacity: u32,
    /// Events in it, at `at_us`.
    pub level: f64,
    /// When it was last touched.
    pub at_us: u64,
    /// When it began to fill.
    pub began_us: u64,
    /// Requests since then.
    pub count: u64,
    /// All that the address had asked for by then, whether it matches or not; wraps.
    pub began_requests: u32,
    /// Requests that no flag counted yet.
    pub pending: u64,
    /// When it last raised a flag, 0 for never.
    pub flagged_us: u64,
    /// Values seen, where the rule counts distinct ones.
    pub seen: Vec<u32>,
    /// Addresses that took part, where the rule counts a group: key, requests not yet flagged.
    pub members: Vec<(u64, u32)>,
    /// A sample.
    pub evidence: Vec<Evidence>,
    leak_us: u64,
}

/// What a value adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poured {
    /// The rule counts distinct values, and this one was there.
    Known,
    /// It fits.
    Fits,
    /// The bucket overflows.
    Over,
}

impl Bucket {
    /// An empty one.
    #[must_use]
    pub const fn new(rule: u16, capacity: u32, leak_us: u64, now_us: u64) -> Self {
        Self {
            rule,
            is_flagged: false,
            capacity,
            level: 0.0,
            at_us: now_us,
            began_us: now_us,
            count: 0,
            began_requests: 0,
            pending: 0,
            flagged_us: 0,
            seen: Vec::new(),
            members: Vec::new(),
            evidence: Vec::new(),
            leak_us,
        }
    }

    /// Lets leak what leaks until `now_us`. Requests come out of order within a second or so:
    /// an earlier time is taken for the present, unless the clock was set.
    pub fn leak(&mut self, now_us: u64) {
        if now_us >= self.at_us {
            let gone = (now_us - self.at_us) as f64 / self.leak_us.max(1) as f64;
            self.level = (self.level - gone).max(0.0);
            self.at_us = now_us;
        } else if self.at_us - now_us > CLOCK_SET_US {
            self.at_us = now_us;
            self.began_us = self.began_us.min(now_us);
            self.flagged_us = self.flagged_us.min(now_us);
        }
    }

    /// Whether it has run empty by `now_us`.
    #[must_use]
    pub fn is_empty_at(&self, now_us: u64) -> bool {
        let gone = now_us.saturating_sub(self.at_us) as f64 / self.leak_us.max(1) as f64;
        self.level <= gone
    }

    /// Pours in `weight` requests, or one distinct value.
    pub fn pour(&mut self, weight: u32, value: Option<u32>) -> Poured {
        self.count += u64::from(weight);
        self.pending += u64::from(weight);
        let amount = match value {
            Some(value) => {
                if self.seen.contains(&value) {
                    return Poured::Known;
                }
                // More than fit are never needed: beyond that it is over anyway.
                let most = self.capacity as usize * 2 + 8;
                if self.seen.len() < most {
                    self.seen.push(value);
                } else if let Some(place) = self.seen.get_mut(value as usize % most) {
                    *place = value;
                }
                1.0
            }
            None => f64::from(weight),
        };
        let capacity = f64::from(self.capacity);
        let over = self.level + amount > capacity;
        // What overflows is gone: a flood of an hour must not take an hour to leak away.
        self.level = (self.level + amount).min(capacity + 1.0);
        if over { Poured::Over } else { Poured::Fits }
    }

    /// Notes that an address of the group took part.
    pub fn note_member(&mut self, key: u64, weight: u32) {
        if let Some((_, count)) = self.members.iter_mut().find(|(member, _)| *member == key) {
            *count = count.saturating_add(weight);
        } else if self.members.len() < MEMBERS_MAX {
            self.members.push((key, weight));
        }
    }

    /// Whether a flag may be raised now, as far as quiet goes.
    #[must_use]
    pub fn may_flag(&self, now_us: u64) -> bool {
        self.flagged_us == 0 || now_us.saturating_sub(self.flagged_us) >= QUIET_US
    }

    /// Keeps a request as evidence once the bucket is half full; what comes last replaces the
    /// oldest of what no flag has carried yet.
    #[must_use]
    pub fn wants_evidence(&self) -> bool {
        self.level * 2.0 >= f64::from(self.capacity)
    }

    /// Adds evidence within its bound.
    pub fn note_evidence(&mut self, evidence: Evidence) {
        if self.evidence.len() >= EVIDENCE_MAX {
            self.evidence.remove(0);
        }
        self.evidence.push(evidence);
    }

    /// How much of it is full: what decides who makes room.
    #[must_use]
    pub fn weight(&self) -> f64 {
        self.level / f64::from(self.capacity.max(1)) + f64::from(u8::from(self.is_flagged))
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        std::mem::size_of::<Self>()
            + self.seen.capacity() * std::mem::size_of::<u32>()
            + self.members.capacity() * std::mem::size_of::<(u64, u32)>()
            + self.evidence.capacity() * std::mem::size_of::<Evidence>()
            + self
                .evidence
                .iter()
                .map(|one| one.method.capacity() + one.path.capacity() + one.matched.capacity())
                .sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn the_event_that_no_longer_fits_is_over() {
        let mut bucket = Bucket::new(0, 2, 10 * SECOND, 0);
        assert_eq!(bucket.pour(1, None), Poured::Fits);
        assert_eq!(bucket.pour(1, None), Poured::Fits);
        assert_eq!(bucket.pour(1, None), Poured::Over);
        bucket.leak(10 * SECOND);
        assert_eq!(bucket.pour(1, None), Poured::Over);
        bucket.leak(30 * SECOND);
        assert_eq!(bucket.pour(1, None), Poured::Fits);
    }

    #[test]
    fn a_value_counts_once() {
        let mut bucket = Bucket::new(0, 3, SECOND, 0);
        assert_eq!(bucket.pour(1, Some(7)), Poured::Fits);
        for _ in 0..100 {
            assert_eq!(bucket.pour(1, Some(7)), Poured::Known);
        }
        assert_eq!(bucket.count, 101);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_stop_the_leak() {
        let mut bucket = Bucket::new(0, 10, SECOND, 10_000 * SECOND);
        bucket.pour(8, None);
        bucket.leak(SECOND);
        bucket.leak(4 * SECOND);
        assert!((bucket.level - 5.0).abs() < 1e-9, "{}", bucket.level);
    }

    proptest! {
        #[test]
        fn the_level_is_what_was_poured_less_what_leaked(
            events in proptest::collection::vec((0_u64..20 * SECOND, 1_u32..5), 1..60),
            capacity in 1_u32..50,
            leak_ms in 1_u64..30_000,
        ) {
            let mut bucket = Bucket::new(0, capacity, leak_ms * 1_000, 0);
            let (mut now, mut level) = (0, 0.0_f64);
            for (gap, weight) in events {
                now += gap;
                bucket.leak(now);
                level = (level - gap as f64 / (leak_ms * 1_000) as f64).max(0.0);
                let over = level + f64::from(weight) > f64::from(capacity);
                level = (level + f64::from(weight)).min(f64::from(capacity) + 1.0);
                prop_assert_eq!(bucket.pour(weight, None) == Poured::Over, over);
                prop_assert!((bucket.level - level).abs() < 1e-6);
            }
        }

        #[test]
        fn any_times_are_safe_and_the_level_stays_in_its_bounds(
            times in proptest::collection::vec(any::<u64>(), 1..60),
        ) {
            let mut bucket = Bucket::new(0, 5, SECOND, times[0]);
            for now in times {
                bucket.leak(now);
                bucket.pour(u32::MAX, Some(now as u32));
                prop_assert!((0.0..=6.0).contains(&bucket.level));
                let _ = bucket.may_flag(now);
            }
        }
    }
}
