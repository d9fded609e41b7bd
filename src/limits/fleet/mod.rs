//! Limits over all proxies (`"scope": "fleet"`).
//!
//! A request never waits for anybody: it takes from the bucket of its own proxy, as ever. What
//! was taken is reported once a second, and what comes back is how much the bucket owes
//! when everybody's consumption is counted; the proxy's own bucket is moved forward to that.
//!
//! ```text
//! worker ─ taken ─► <ns>.fleet.box ─► leader ─ report, 1/s ─► control plane ─► one bucket a key
//!   ▲                                   │                                       (memory, Redis)
//!   └─── buckets in shared data ◄───────┴──── answer: what each bucket owes ◄────────┘
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`account`] | how the consumption of many proxies becomes one bucket, and when a proxy is told nothing |
//! | [`mailbox`] | what workers leave for the one that reports, in shared data |
//! | [`member`] | one worker's part: handing over, reporting, moving buckets forward |
//! | [`reporter`] | when the leading worker reports, what, and what it does with the answer |
//! | [`wire`] | the report and its answer as bytes |
//!
//! # How far off it can be
//!
//! Let *S* be the time from a token that is taken to the answer to the report that names it:
//! [`reporter::INTERVAL_MS`] and two ticks, plus the time of the call. In any span of length
//! *t* a fleet whose requests come through *N* proxies admits at most
//!
//! ```text
//! burst + t × rate  +  (N − 1) × min(load, burst + rate × 2S)       load = a proxy's requests in 2S
//! ```
//!
//! tokens: what one bucket would, and what the others take before they learn ([`excess`]).
//! With one proxy there is nobody to learn of, and the second part is 0: who alone takes from a
//! bucket is told nothing. What was admitted beyond the bucket is owed and holds everybody back
//! afterwards, so the rate is met in the long run. What is owed has a horizon
//! ([`Bucket::of_fleet`]): with no more proxies than [`exact_up_to`] says it is never reached; with
//! more, what they all take at once and is beyond it is forgiven. While reports fail every
//! proxy counts for itself.
//! `tests/fleet_simulation.rs` holds the code to this.
//!
//! Nothing that names a client leaves the proxy: buckets are told apart by a keyed hash. Whoever
//! has the key can try all addresses of IPv4 in minutes: it is a pseudonym, not anonymity.

pub mod account;
pub mod mailbox;
pub mod member;
pub mod reporter;
pub mod wire;

use core::time::Duration;

use hashbrown::HashMap;

use super::Rate;
use super::gcra::{Bucket, Nanos};
use super::table::Place;

/// Where a control plane takes reports.
pub const CONSUMPTION_PATH: &str = "/v1/proxies/consumption";
/// Bytes of the secret that the control planes share.
pub const SECRET_BYTES: usize = 16;
/// Buckets of which a worker remembers between two ticks what was taken; of further ones it
/// is not reported.
pub const MAX_NOTED: usize = 1_024;

/// The key of the hash that names buckets.
pub type Secret = [u8; SECRET_BYTES];

/// What names a bucket to all proxies: a keyed hash of the limit's name and of whom it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketId(pub u128);

/// What was taken from a bucket since it was last reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consumption {
    /// Where the bucket is in this Envoy.
    pub place: Place,
    /// The bucket.
    pub bucket: Bucket,
    /// Tokens as time: times the interval between two. What was given back counts against it.
    pub nanos: i64,
}

/// Consumption by bucket.
pub type Consumed = HashMap<BucketId, Consumption>;

/// Adds to the consumption of a bucket; `false` when there are `most` others already.
pub(crate) fn add(consumed: &mut Consumed, id: BucketId, more: Consumption, most: usize) -> bool {
    if let Some(known) = consumed.get_mut(&id) {
        // The rate may be another now.
        *known = Consumption { nanos: known.nanos.saturating_add(more.nanos), ..more };
        return true;
    }
    if consumed.len() >= most {
        return false;
    }
    consumed.insert(id, more);
    true
}

/// What one worker took from buckets that the fleet shares.
#[derive(Debug, Default)]
pub struct Tally {
    secret: Option<Secret>,
    consumed: Consumed,
    left_out: u64,
}

impl Tally {
    /// The secret, once the control plane has told it. Until then every proxy counts for itself.
    #[must_use]
    pub const fn secret(&self) -> Option<&Secret> {
        self.secret.as_ref()
    }

    /// Takes the secret.
    pub fn learn(&mut self, secret: Secret) {
        if self.secret != Some(secret) {
            self.secret = Some(secret);
            // It is named by another hash.
            self.consumed.clear();
        }
    }

    /// Notes tokens that were taken (or, below 0, given back).
    pub fn note(&mut self, id: BucketId, place: Place, bucket: Bucket, tokens: i64) {
        let interval = i64::try_from(bucket.interval).unwrap_or(i64::MAX);
        let more = Consumption { place, bucket, nanos: interval.saturating_mul(tokens) };
        if tokens != 0 && !add(&mut self.consumed, id, more, MAX_NOTED) {
            self.left_out += 1;
        }
    }

    /// What is noted.
    pub const fn consumed(&mut self) -> &mut Consumed {
        &mut self.consumed
    }

    /// How often there was no room for another bucket, since the last call.
    pub fn take_left_out(&mut self) -> u64 {
        core::mem::take(&mut self.left_out)
    }
}

/// How many tokens more than one bucket would a fleet can admit: see the module's header.
/// `load` is how many tokens the requests of one proxy ask for in `window`, which is twice the
/// time from a token that is taken to the answer to its report.
#[must_use]
pub fn excess(rate: &Rate, proxies: u64, window: Duration, load: u64) -> u64 {
    let interval = u128::from(Bucket::new(rate).interval);
    let refilled = u64::try_from(window.as_nanos().div_ceil(interval)).unwrap_or(u64::MAX);
    let most = u64::from(rate.burst).saturating_add(refilled);
    proxies.saturating_sub(1).saturating_mul(load.min(most))
}

/// Up to how many proxies at once nothing is ever forgiven: what they can take together before
/// they learn of each other still lies within the horizon.
#[must_use]
pub fn exact_up_to(rate: &Rate, window: Duration) -> u64 {
    let bucket = Bucket::new(rate).of_fleet();
    let each = excess(rate, 2, window, u64::MAX).max(1);
    1 + (bucket.horizon - bucket.capacity) / bucket.interval / each
}

/// By how many whole tokens the worst span of time exceeds what one bucket would have admitted;
/// `admitted` are the times of what was, in order. For tests and measurements.
#[must_use]
pub fn beyond(rate: &Rate, admitted: &[Nanos]) -> u64 {
    let bucket = Bucket::new(rate);
    let (interval, capacity) = (i128::from(bucket.interval), i128::from(bucket.capacity));
    // What the span that ends here and exceeds most exceeds by, in time; a span begins anew
    // where the ones before make it no worse.
    let mut running = -capacity;
    let mut last = 0;
    let mut worst = 0;
    for time in admitted {
        let time = i128::from(*time);
        running = (running - (time - last)).max(-capacity) + interval;
        last = time;
        worst = worst.max(running);
    }
    u64::try_from(worst / interval).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(requests: u32, burst: u32) -> Rate {
        Rate { burst, ..Rate::new(requests, Duration::from_secs(60)) }
    }

    #[test]
    fn the_bound_grows_with_proxies_and_with_what_they_are_asked_for() {
        let window = Duration::from_secs(3);
        let of = |proxies, load| excess(&rate(100, 100), proxies, window, load);
        assert_eq!((of(1, u64::MAX), of(4, 0)), (0, 0));
        // Five tokens come back in three seconds.
        assert_eq!((of(2, u64::MAX), of(4, u64::MAX)), (105, 315));
        assert_eq!(of(4, 15), 45);
        assert_eq!(exact_up_to(&rate(100, 100), window), 8);
        assert_eq!(exact_up_to(&rate(100, 1), Duration::from_secs(10)), 3);
    }

    #[test]
    fn what_is_beyond_one_bucket_is_found_in_the_worst_span() {
        const SECOND: Nanos = 1_000_000_000;
        let second = |rate: &Rate, seconds: &[u64]| {
            let times: Vec<Nanos> = seconds.iter().map(|at| at * SECOND).collect();
            beyond(rate, &times)
        };
        // Three at once, and one a second.
        let rate = rate(60, 3);
        assert_eq!(second(&rate, &[5, 5, 5, 6, 7, 8]), 0);
        assert_eq!(second(&rate, &[5, 5, 5, 5, 6, 7]), 1);
        assert_eq!(second(&rate, &[0, 100, 100, 100, 100, 101, 101, 200]), 2);
        assert_eq!(second(&rate, &[]), 0);
    }

    #[test]
    fn a_tally_is_bounded_and_forgets_what_another_secret_named() {
        let bucket = Bucket::new(&rate(60, 60)).of_fleet();
        let place = Place { set: 1, tag: 256 };
        let mut tally = Tally::default();
        tally.learn([1; 16]);
        for n in 0..MAX_NOTED as u128 + 5 {
            tally.note(BucketId(n), place, bucket, 1);
        }
        tally.note(BucketId(0), place, bucket, 2);
        tally.note(BucketId(1), place, bucket, -1);
        tally.note(BucketId(2), place, bucket, 0);
        assert_eq!((tally.consumed().len(), tally.take_left_out()), (MAX_NOTED, 5));
        let nanos = |tally: &mut Tally, n| tally.consumed().get(&BucketId(n)).map(|one| one.nanos);
        assert_eq!(nanos(&mut tally, 0), Some(3_000_000_000));
        assert_eq!(nanos(&mut tally, 1), Some(0));
        assert_eq!(nanos(&mut tally, 2), Some(1_000_000_000));
        tally.learn([1; 16]);
        assert_eq!(tally.consumed().len(), MAX_NOTED);
        tally.learn([2; 16]);
        assert_eq!((tally.consumed().len(), tally.secret()), (0, Some(&[2; 16])));
    }
}
