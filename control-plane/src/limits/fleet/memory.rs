//! The fleet's buckets in the memory of one control plane: enough where there is one.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use hashbrown::HashMap;
use ipwarden::limits::fleet::BucketId;
use ipwarden::limits::fleet::account::{Account, Taken};
use ipwarden::limits::fleet::wire::Report;
use jiff::Timestamp;

use super::{CounterError, FleetCounter};

/// Buckets in debt at one time: about 60 bytes each.
pub const MAX_BUCKETS: usize = 1_000_000;
/// Workers whose last report is remembered.
const MAX_WORKERS: usize = 100_000;
/// How long it is: a report is not sent again after ten seconds.
const REMEMBERED_US: u64 = 60_000_000;
/// How often what has become full is thrown away, unless there is no room.
const SWEEP_US: u64 = 10_000_000;

/// See the module.
#[derive(Default)]
pub struct MemoryCounter(Mutex<Accounts>);

#[derive(Default)]
struct Accounts {
    buckets: HashMap<BucketId, Account>,
    /// Number and time of each worker's last report.
    reports: HashMap<u64, (u64, u64)>,
    swept_us: u64,
}

impl MemoryCounter {
    fn accounts(&self) -> std::sync::MutexGuard<'_, Accounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accounts {
    fn sweep(&mut self, now_us: u64) {
        self.swept_us = now_us;
        self.buckets.retain(|_, account| account.arrival_us > now_us);
        self.reports.retain(|_, (_, at_us)| now_us.abs_diff(*at_us) < REMEMBERED_US);
    }

    /// Whether the report is a new one; notes it.
    fn is_new(&mut self, report: &Report, now_us: u64) -> bool {
        match self.reports.get_mut(&report.worker) {
            Some((number, _)) if report.number <= *number => false,
            Some(known) => {
                *known = (report.number, now_us);
                true
            }
            None => {
                // One that comes twice is counted twice where nobody can remember it: held
                // back for once rather than not counted at all.
                if self.reports.len() < MAX_WORKERS {
                    self.reports.insert(report.worker, (report.number, now_us));
                }
                true
            }
        }
    }
}

#[async_trait]
impl FleetCounter for MemoryCounter {
    async fn count(&self, report: &Report, now: Timestamp) -> Result<Vec<u64>, CounterError> {
        let now_us = u64::try_from(now.as_microsecond()).unwrap_or(0);
        let mut accounts = self.accounts();
        let full = accounts.buckets.len() + report.taken.len() > MAX_BUCKETS;
        if full || now_us.abs_diff(accounts.swept_us) >= SWEEP_US {
            accounts.sweep(now_us);
        }
        if accounts.buckets.len() + report.taken.len() > MAX_BUCKETS {
            return Err(CounterError::Full);
        }
        let is_new = accounts.is_new(report, now_us);
        let mut owes = Vec::with_capacity(report.taken.len());
        for taken in &report.taken {
            let taken = if is_new { *taken } else { Taken { cost_us: 0, ..*taken } };
            let known = accounts.buckets.get(&taken.id).copied();
            let (account, owed) = Account::count(known, report.origin, &taken, now_us);
            if account.arrival_us > now_us {
                accounts.buckets.insert(taken.id, account);
            } else {
                accounts.buckets.remove(&taken.id);
            }
            owes.push(owed);
        }
        Ok(owes)
    }

    async fn reset(&self, buckets: &[BucketId]) -> Result<(), CounterError> {
        let mut accounts = self.accounts();
        for id in buckets {
            accounts.buckets.remove(id);
        }
        Ok(())
    }

    async fn check(&self) -> Result<(), CounterError> {
        Ok(())
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}

impl fmt::Debug for MemoryCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryCounter({})", self.accounts().buckets.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn buckets_that_are_full_again_take_no_memory_and_the_rest_has_a_bound() {
        let counter = MemoryCounter::default();
        let report = |worker: u64, first: usize, count: usize| Report {
            origin: worker,
            worker,
            number: 1,
            taken: (first..first + count)
                .map(|n| Taken { id: BucketId(n as u128), cost_us: 5_000_000, horizon_us: 1 << 40 })
                .collect(),
        };
        let now = |seconds: i64| Timestamp::from_second(1_767_225_600 + seconds).unwrap();
        counter.count(&report(1, 0, MAX_BUCKETS), now(0)).await.unwrap();
        let more = report(2, MAX_BUCKETS, 1);
        assert_eq!(counter.count(&more, now(4)).await, Err(CounterError::Full));
        assert_eq!(counter.count(&more, now(5)).await, Ok(vec![0]));
        assert_eq!(counter.accounts().buckets.len(), 1);
        let late = report(3, 0, 0);
        counter.count(&late, now(100)).await.unwrap();
        let accounts = counter.accounts();
        assert_eq!((accounts.buckets.len(), accounts.reports.len()), (0, 1));
    }
}
