//! The arithmetic of a token bucket, in integers.
//!
//! GCRA (the generic cell rate algorithm of ATM, ITU-T I.371) keeps a bucket in one number:
//! the *theoretical arrival time*, the moment at which the bucket will be full again. What
//! lies between now and then is the bucket's *debt*. A request of cost *c* adds *c* times
//! the interval between two tokens; it is admitted when the debt then is at most the time in
//! which an empty bucket fills.
//!
//! All times are nanoseconds of one clock that never goes back (see [`Bucket::settle`] for
//! what happens where it does).

use super::Rate;

/// Nanoseconds of a clock.
pub type Nanos = u64;

/// A rate in the form that the arithmetic needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// Time between two tokens, at least 1 ns. Rounded up: never more than the rate allows.
    pub interval: Nanos,
    /// Time in which an empty bucket fills: `burst` intervals.
    pub capacity: Nanos,
    /// The most that it can owe: `capacity`, unless others take from it unseen, who may have
    /// taken more than it held.
    pub horizon: Nanos,
}

/// What a bucket of a whole fleet can owe: so many times what one proxy can take from it before
/// it learns of the others, which is its capacity and what flows in meanwhile.
pub const HORIZON_FILLS: u64 = 8;
/// The time in which it learns of them, with some to spare.
pub const LEARNS_WITHIN: Nanos = 3_000_000_000;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Admitted; the arrival time to be stored.
    Admitted {
        /// The bucket's new arrival time.
        arrival: Nanos,
    },
    /// Refused; nothing is to be stored.
    Refused {
        /// The earliest time at which the same request would be admitted.
        until: Nanos,
    },
}

impl Bucket {
    /// The bucket of a rate.
    #[must_use]
    pub fn new(rate: &Rate) -> Self {
        let per = u64::try_from(rate.per.as_nanos()).unwrap_or(u64::MAX);
        let interval = per.div_ceil(u64::from(rate.requests.max(1))).max(1);
        let capacity = interval.saturating_mul(u64::from(rate.burst.max(1)));
        Self { interval, capacity, horizon: capacity }
    }

    /// The same for a bucket that proxies share: what they took together beyond what it held
    /// is owed, too, up to the horizon (see [`HORIZON_FILLS`]).
    #[must_use]
    pub const fn of_fleet(self) -> Self {
        let each = self.capacity.saturating_add(LEARNS_WITHIN);
        Self { horizon: each.saturating_mul(HORIZON_FILLS), ..self }
    }

    /// An arrival time that this bucket can have at `now`.
    ///
    /// A bucket can't owe more than its horizon, which is its capacity unless it is a fleet's.
    /// Where a stored time says otherwise, either the limit was made smaller or the clock went
    /// back: the bucket is as empty as can be then, but no emptier, so nobody waits longer for
    /// it than that takes to fill (whoever sees such a time stores the settled one).
    #[inline]
    #[must_use]
    pub const fn settle(&self, arrival: Nanos, now: Nanos) -> Nanos {
        let latest = now.saturating_add(self.horizon);
        if arrival > latest {
            latest
        } else if arrival < now {
            now
        } else {
            arrival
        }
    }

    /// Takes `cost` tokens at `now` from a bucket that was last left with `arrival`.
    #[inline]
    #[must_use]
    pub const fn take(&self, arrival: Nanos, now: Nanos, cost: u32) -> Outcome {
        let arrival = self.settle(arrival, now);
        let price = self.interval.saturating_mul(cost as u64);
        let next = arrival.saturating_add(price);
        let latest = now.saturating_add(self.capacity);
        // With a cost of 0 an empty bucket still refuses: it asks for one token to be there.
        let needed = if cost == 0 { arrival.saturating_add(self.interval) } else { next };
        if needed <= latest {
            Outcome::Admitted { arrival: next }
        } else {
            Outcome::Refused { until: now.saturating_add(needed - latest) }
        }
    }

    /// Takes `cost` tokens whether they are there or not; the bucket gets no emptier than
    /// empty. For what is known only after the request was admitted.
    #[inline]
    #[must_use]
    pub const fn charge(&self, arrival: Nanos, now: Nanos, cost: u32) -> Nanos {
        let arrival = self.settle(arrival, now);
        let next = arrival.saturating_add(self.interval.saturating_mul(cost as u64));
        let empty = now.saturating_add(self.capacity);
        if next <= empty {
            next
        } else if arrival < empty {
            empty
        } else {
            arrival
        }
    }

    /// Moves the arrival time forward, so that the bucket owes at least `debt`: what others took
    /// from it.
    #[inline]
    #[must_use]
    pub const fn advance(&self, arrival: Nanos, now: Nanos, debt: Nanos) -> Nanos {
        let arrival = self.settle(arrival, now);
        let told = self.settle(now.saturating_add(debt), now);
        if told > arrival { told } else { arrival }
    }

    /// Gives `cost` tokens back; the bucket gets no fuller than full.
    #[inline]
    #[must_use]
    pub const fn refund(&self, arrival: Nanos, now: Nanos, cost: u32) -> Nanos {
        let price = self.interval.saturating_mul(cost as u64);
        self.settle(self.settle(arrival, now).saturating_sub(price), now)
    }

    /// Whole tokens in the bucket.
    #[inline]
    #[must_use]
    pub const fn remaining(&self, arrival: Nanos, now: Nanos) -> u32 {
        let debt = self.settle(arrival, now) - now;
        let tokens = self.capacity.saturating_sub(debt) / self.interval;
        if tokens > u32::MAX as u64 { u32::MAX } else { tokens as u32 }
    }

    /// How long until the bucket holds one token more than now; 0 for a full one.
    #[inline]
    #[must_use]
    pub const fn next_token(&self, arrival: Nanos, now: Nanos) -> Nanos {
        let debt = self.settle(arrival, now) - now;
        if debt == 0 {
            return 0;
        }
        let part = debt % self.interval;
        if part == 0 { self.interval } else { part }
    }
}

/// Whole seconds, rounded up.
#[must_use]
pub const fn seconds_up(nanos: Nanos) -> u32 {
    let seconds = nanos.div_ceil(1_000_000_000);
    if seconds > u32::MAX as u64 { u32::MAX } else { seconds as u32 }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;
    const NOW: Nanos = 1_000 * SECOND;

    fn bucket(requests: u32, seconds: u64, burst: u32) -> Bucket {
        Bucket::new(&Rate { requests, per: Duration::from_secs(seconds), burst })
    }

    /// Requests admitted one after the other at the same moment.
    fn at_once(bucket: &Bucket, mut arrival: Nanos, now: Nanos) -> (u32, Nanos, Nanos) {
        let mut admitted = 0;
        loop {
            match bucket.take(arrival, now, 1) {
                Outcome::Admitted { arrival: next } => (admitted, arrival) = (admitted + 1, next),
                Outcome::Refused { until } => return (admitted, arrival, until),
            }
        }
    }

    #[test]
    fn a_full_bucket_admits_its_burst_and_then_one_each_interval() {
        let bucket = bucket(5, 60, 5);
        let (admitted, arrival, until) = at_once(&bucket, 0, NOW);
        assert_eq!((admitted, until), (5, NOW + 12 * SECOND));
        let early = bucket.take(arrival, until - 1, 1);
        assert_eq!(early, Outcome::Refused { until });
        assert_eq!(at_once(&bucket, arrival, until).0, 1);
        assert_eq!(at_once(&bucket, arrival, NOW + 60 * SECOND).0, 5);
    }

    #[test]
    fn a_burst_of_its_own_is_smaller_or_larger_than_the_rate() {
        assert_eq!(at_once(&bucket(100, 60, 3), 0, NOW).0, 3);
        assert_eq!(at_once(&bucket(1, 60, 30), 0, NOW).0, 30);
    }

    #[test]
    fn a_fleets_bucket_can_owe_more_than_it_holds_and_no_more_than_its_horizon() {
        let fleet = bucket(5, 60, 5).of_fleet();
        let owed = fleet.advance(0, NOW, 90 * SECOND);
        assert_eq!(owed, NOW + 90 * SECOND);
        assert_eq!((fleet.remaining(owed, NOW), fleet.advance(owed, NOW, SECOND)), (0, owed));
        // 90 s are owed, 60 may be: one token more after 30 s and its 12.
        assert_eq!(fleet.take(owed, NOW, 1), Outcome::Refused { until: NOW + 42 * SECOND });
        assert_eq!(fleet.advance(0, NOW, u64::MAX), NOW + 8 * 63 * SECOND);
        // What a response costs beyond what was taken makes it no emptier than empty.
        assert_eq!(fleet.charge(NOW + 59 * SECOND, NOW, 1), NOW + 60 * SECOND);
        assert_eq!(fleet.charge(owed, NOW, 1), owed);
        let alone = bucket(5, 60, 5);
        assert_eq!(alone.advance(0, NOW, 90 * SECOND), NOW + 60 * SECOND);
    }

    #[test]
    fn what_does_not_divide_is_rounded_against_the_client() {
        let seven = bucket(7, 60, 7);
        assert_eq!(seven.interval, 8_571_428_572);
        assert_eq!(bucket(1_000_000, 1, 1).interval, 1_000);
    }

    #[test]
    fn remaining_and_the_next_token_tell_where_a_client_stands() {
        let bucket = bucket(5, 60, 5);
        assert_eq!((bucket.remaining(0, NOW), bucket.next_token(0, NOW)), (5, 0));
        let Outcome::Admitted { arrival } = bucket.take(0, NOW, 1) else { panic!() };
        assert_eq!(bucket.remaining(arrival, NOW), 4);
        assert_eq!(bucket.next_token(arrival, NOW), 12 * SECOND);
        assert_eq!(bucket.next_token(arrival, NOW + 5 * SECOND), 7 * SECOND);
        assert_eq!(bucket.remaining(arrival, NOW + 12 * SECOND), 5);
        assert_eq!(seconds_up(7 * SECOND), 7);
        assert_eq!(seconds_up(7 * SECOND + 1), 8);
    }

    #[test]
    fn a_cost_of_nothing_asks_for_a_token_and_takes_none() {
        let bucket = bucket(5, 60, 5);
        assert_eq!(bucket.take(0, NOW, 0), Outcome::Admitted { arrival: NOW });
        let (_, arrival, until) = at_once(&bucket, 0, NOW);
        assert_eq!(bucket.take(arrival, NOW, 0), Outcome::Refused { until });
    }

    #[test]
    fn a_later_charge_empties_but_does_not_overdraw_and_a_refund_fills_but_does_not_overflow() {
        let bucket = bucket(5, 60, 5);
        let empty = bucket.charge(0, NOW, 9);
        assert_eq!(bucket.remaining(empty, NOW), 0);
        assert_eq!(at_once(&bucket, empty, NOW + 12 * SECOND).0, 1);
        let refunded = bucket.refund(empty, NOW, 2);
        assert_eq!(bucket.remaining(refunded, NOW), 2);
        assert_eq!(bucket.remaining(bucket.refund(refunded, NOW, 100), NOW), 5);
    }

    #[test]
    fn a_clock_set_back_costs_at_most_the_time_an_empty_bucket_takes_to_fill() {
        let bucket = bucket(5, 60, 5);
        let (_, arrival, _) = at_once(&bucket, 0, NOW + 3_600 * SECOND);
        let (admitted, _, until) = at_once(&bucket, arrival, NOW);
        assert_eq!((admitted, until), (0, NOW + 12 * SECOND));
    }

    #[test]
    fn extreme_numbers_saturate_instead_of_wrapping() {
        let slow = bucket(1, 7 * 86_400, Rate::MAX_REQUESTS);
        assert!(matches!(slow.take(u64::MAX, NOW, u32::MAX), Outcome::Admitted { .. }));
        let bucket = bucket(5, 60, 5);
        assert!(matches!(bucket.take(u64::MAX, NOW, u32::MAX), Outcome::Refused { .. }));
        assert_eq!(bucket.remaining(u64::MAX, NOW), 0);
    }

    #[cfg(not(target_family = "wasm"))]
    mod laws {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            /// In no time of length t are more than burst + t / interval tokens spent, and
            /// nothing is refused that this rule would allow.
            #[test]
            fn no_window_holds_more_than_the_rule_allows(
                requests in 1u32..50, seconds in 1u64..100, burst in 1u32..50,
                steps in proptest::collection::vec((0u64..20 * SECOND, 1u32..4), 1..120),
            ) {
                let bucket = bucket(requests, seconds, burst);
                let (mut now, mut arrival) = (NOW, 0);
                let mut spent: Vec<(Nanos, u64)> = Vec::new();
                // The most tokens that any window ending now would hold beyond its rule.
                let fits = |spent: &[(Nanos, u64)], now: Nanos, cost: u64| {
                    let mut sum = cost;
                    spent.iter().rev().all(|&(at, tokens)| {
                        sum += tokens;
                        let window = u128::from(now - at);
                        u128::from(sum) * u128::from(bucket.interval)
                            <= u128::from(bucket.capacity) + window
                    }) && cost * bucket.interval <= bucket.capacity
                };
                for (pause, cost) in steps {
                    now += pause;
                    let allowed = fits(&spent, now, u64::from(cost));
                    match bucket.take(arrival, now, cost) {
                        Outcome::Admitted { arrival: next } => {
                            prop_assert!(allowed);
                            arrival = next;
                            spent.push((now, u64::from(cost)));
                        }
                        Outcome::Refused { until } => {
                            prop_assert!(!allowed);
                            prop_assert!(until > now);
                            if u64::from(cost) * bucket.interval <= bucket.capacity {
                                prop_assert!(!fits(&spent, until - 1, u64::from(cost)));
                                prop_assert!(fits(&spent, until, u64::from(cost)));
                            }
                        }
                    }
                }
            }
        }
    }
}
