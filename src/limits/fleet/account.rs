//! One bucket of the whole fleet, in one timestamp.
//!
//! The same arithmetic as a proxy's bucket ([`crate::limits::gcra`]), in microseconds of whoever
//! keeps it: consumption moves the arrival time forward, and what is asked for is how far it is
//! ahead. So nobody has to remember what each proxy was told, an answer that is lost or comes
//! twice does no harm, and a bucket that is full again needs no storage. Counting at the time
//! of the report, not of the request, can only hold back: by the delay of the report, at most.

use super::BucketId;

/// Longest horizon that is believed: ten years. It keeps times exact in a double, too.
pub const MAX_HORIZON_US: u64 = 3_660 * 86_400_000_000;

/// What a proxy says it took from a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The bucket.
    pub id: BucketId,
    /// Tokens as time, in microseconds; below 0 where more was given back than taken.
    pub cost_us: i64,
    /// The most that the bucket can owe, in microseconds.
    pub horizon_us: u64,
}

/// What is kept of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// When it will be full again, microseconds of the keeper's clock.
    pub arrival_us: u64,
    /// The only Envoy that took from it since it was full; `None`: several did.
    pub sole: Option<u64>,
}

impl Account {
    /// What becomes of an account when the Envoy `origin` took from it at `now_us`; the account
    /// and what the bucket owes as far as `origin` does not know it: nothing where nobody else
    /// took from it.
    #[must_use]
    pub fn count(known: Option<Self>, origin: u64, taken: &Taken, now_us: u64) -> (Self, u64) {
        let known = known.filter(|known| known.arrival_us > now_us);
        let arrival_us = known.map_or(now_us, |known| known.arrival_us);
        let latest = now_us.saturating_add(taken.horizon_us.min(MAX_HORIZON_US));
        let next = arrival_us.saturating_add_signed(taken.cost_us).clamp(now_us, latest);
        let sole = match known {
            None => Some(origin),
            Some(Self { sole: Some(sole), .. }) if sole == origin || taken.cost_us == 0 => {
                Some(sole)
            }
            Some(_) => None,
        };
        let owes = if sole == Some(origin) { 0 } else { next - now_us };
        (Self { arrival_us: next, sole }, owes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000;

    fn taken(cost_us: i64) -> Taken {
        Taken { id: BucketId(1), cost_us, horizon_us: 8_000 }
    }

    #[test]
    fn who_is_alone_is_told_nothing_and_everybody_else_all() {
        let (account, owes) = Account::count(None, 1, &taken(300), NOW);
        assert_eq!((account.arrival_us, account.sole, owes), (NOW + 300, Some(1), 0));
        let (account, owes) = Account::count(Some(account), 1, &taken(200), NOW + 100);
        assert_eq!((account.arrival_us, owes), (NOW + 500, 0));
        // Who only asks is told, and is nobody who took from it.
        assert_eq!(Account::count(Some(account), 2, &taken(0), NOW + 100), (account, 400));
        let (account, owes) = Account::count(Some(account), 2, &taken(100), NOW + 100);
        assert_eq!((account.sole, owes), (None, 500));
        assert_eq!(Account::count(Some(account), 1, &taken(0), NOW + 200).1, 400);
        // Full again: all begins anew.
        let (account, owes) = Account::count(Some(account), 2, &taken(50), NOW + 600);
        assert_eq!((account, owes), (Account { arrival_us: NOW + 650, sole: Some(2) }, 0));
    }

    #[test]
    fn a_bucket_owes_no_more_than_its_horizon_and_no_less_than_nothing() {
        let both = Some(Account { arrival_us: NOW + 100, sole: None });
        assert_eq!(Account::count(both, 1, &taken(i64::MAX), NOW).1, 8_000);
        assert_eq!(Account::count(both, 1, &taken(i64::MIN), NOW).1, 0);
        // A clock that was set back by a year.
        let ahead = Some(Account { arrival_us: NOW + (1 << 50), sole: None });
        assert_eq!(Account::count(ahead, 1, &taken(1), NOW).1, 8_000);
        let greedy = Taken { horizon_us: u64::MAX, ..taken(i64::MAX) };
        assert_eq!(Account::count(both, 1, &greedy, NOW).1, MAX_HORIZON_US);
    }
}
