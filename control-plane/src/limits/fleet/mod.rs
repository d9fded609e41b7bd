//! Limits over the fleet: what proxies report is summed into one bucket a key.
//!
//! Owns where those buckets are ([`FleetCounter`]), whether they can be reached, and the secret
//! that names them. What a bucket is, and how far off a limit can be, is said in
//! [`ipwarden::limits::fleet`]; nothing here ever sees whom a bucket is for.
//!
//! | module | owns |
//! |---|---|
//! | [`memory`] | buckets of one control plane's own proxies |
//! | [`redis`] | the same in Redis or Valkey, for several control planes |
//! | [`url`] | where that is |
//! | [`secret`] | the key of the hash that names buckets: a file |

pub mod memory;
pub mod redis;
pub mod secret;
pub mod url;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod redis_tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use ipwarden::limits::fleet::wire::{Answer, Report};
use ipwarden::limits::fleet::{BucketId, Secret};
use ipwarden::limits::limiter::fleet_buckets;
use jiff::Timestamp;
use serde_json::Value;

use crate::metrics::{Kind, Metrics};

/// Why consumption could not be counted. Proxies count for themselves then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CounterError {
    /// It can't be reached, or does not answer.
    #[error("the store of fleet limits can't be reached: {0}")]
    Unavailable(String),
    /// It holds buckets of control planes with another secret: they would never meet ours.
    #[error(
        "other control planes use this store of fleet limits with another key: give all of them the same limits.fleet_key_file"
    )]
    OtherSecret,
    /// There are as many buckets as there may be.
    #[error("too many buckets of fleet limits are in use")]
    Full,
}

/// One bucket a key, wherever it is kept.
#[async_trait]
pub trait FleetCounter: Send + Sync + fmt::Debug {
    /// Counts what a proxy took, once however often the report comes; what each bucket owes
    /// afterwards, in microseconds and in the report's order: 0 where nobody but this Envoy took
    /// from it.
    ///
    /// # Errors
    /// [`CounterError`]; how much was counted is not known.
    async fn count(&self, report: &Report, now: Timestamp) -> Result<Vec<u64>, CounterError>;

    /// Fills buckets.
    ///
    /// # Errors
    /// [`CounterError`].
    async fn reset(&self, buckets: &[BucketId]) -> Result<(), CounterError>;

    /// Whether it can be used.
    ///
    /// # Errors
    /// [`CounterError`].
    async fn check(&self) -> Result<(), CounterError>;

    /// Where it is, without secrets.
    fn location(&self) -> String;
}

/// Limits over the fleet, as the service uses them.
#[derive(Debug, Clone)]
pub struct FleetLimits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    counter: Box<dyn FleetCounter>,
    secret: Secret,
    metrics: Arc<Metrics>,
    problem: Mutex<Option<CounterError>>,
}

impl FleetLimits {
    /// Buckets in `counter`, named with `secret`.
    #[must_use]
    pub fn new(counter: Box<dyn FleetCounter>, secret: Secret, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Inner { counter, secret, metrics, problem: Mutex::default() }))
    }

    /// Counts what a proxy took.
    ///
    /// # Errors
    /// [`CounterError`].
    pub async fn count(&self, report: &Report, now: Timestamp) -> Result<Answer, CounterError> {
        let counted = self.0.counter.count(report, now).await;
        self.note(counted.as_ref().err());
        let kind = if counted.is_ok() { "counted" } else { "failed" };
        self.0.metrics.fleet_reports.get_or_create(&Kind(kind)).inc();
        let owes_us = counted?;
        self.0.metrics.fleet_keys.inc_by(owes_us.len() as u64);
        Ok(Answer { number: report.number, secret: self.0.secret, owes_us })
    }

    /// Fills what belongs to `key` in these limits, as their JSON says what they are. Buckets of
    /// limits that don't count over the fleet are left alone.
    ///
    /// # Errors
    /// [`CounterError`].
    pub async fn reset(
        &self,
        limits: impl Iterator<Item = Value>,
        key: &str,
    ) -> Result<(), CounterError> {
        let mut buckets = Vec::new();
        for limit in limits {
            // What the filter of this version does not read, it does not count by.
            if let Ok(limit) = ipwarden::config::check_limit(limit.to_string().as_bytes()) {
                buckets.extend(fleet_buckets(&limit, &self.0.secret, key));
            }
        }
        buckets.sort_unstable();
        buckets.dedup();
        if buckets.is_empty() {
            return Ok(());
        }
        let done = self.0.counter.reset(&buckets).await;
        self.note(done.as_ref().err());
        done
    }

    /// Looks whether the buckets can be reached.
    pub async fn check(&self) {
        let checked = self.0.counter.check().await;
        self.note(checked.as_ref().err());
    }

    /// Why fleet limits are not counted at the moment; `None`: they are.
    #[must_use]
    pub fn problem(&self) -> Option<CounterError> {
        self.0.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the buckets are.
    #[must_use]
    pub fn location(&self) -> String {
        self.0.counter.location()
    }

    /// Notes how an attempt ended; a change is logged once.
    fn note(&self, error: Option<&CounterError>) {
        let mut problem = self.0.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if problem.as_ref() == error {
            return;
        }
        match error {
            Some(error) => {
                tracing::warn!("limits over the fleet: {error}; each proxy counts for itself");
            }
            None => tracing::info!("limits over the fleet are counted again"),
        }
        *problem = error.cloned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Flaky(Mutex<(bool, Vec<BucketId>)>);

    #[async_trait]
    impl FleetCounter for Arc<Flaky> {
        async fn count(&self, report: &Report, _: Timestamp) -> Result<Vec<u64>, CounterError> {
            self.check().await.map(|()| vec![7; report.taken.len()])
        }

        async fn reset(&self, buckets: &[BucketId]) -> Result<(), CounterError> {
            self.0.lock().unwrap().1 = buckets.to_vec();
            Ok(())
        }

        async fn check(&self) -> Result<(), CounterError> {
            match self.0.lock().unwrap().0 {
                true => Ok(()),
                false => Err(CounterError::Unavailable("gone".to_owned())),
            }
        }

        fn location(&self) -> String {
            "test".to_owned()
        }
    }

    fn limits() -> (Arc<Flaky>, FleetLimits) {
        let flaky = Arc::new(Flaky::default());
        let limits = FleetLimits::new(Box::new(Arc::clone(&flaky)), [1; 16], Arc::default());
        (flaky, limits)
    }

    #[tokio::test]
    async fn what_is_wrong_is_known_until_it_is_over() {
        let (flaky, limits) = limits();
        let report = Report { origin: 1, worker: 1, number: 3, taken: Vec::new() };
        let now = Timestamp::UNIX_EPOCH;
        assert!(limits.count(&report, now).await.is_err());
        assert_eq!(
            limits.problem().unwrap().to_string(),
            "the store of fleet limits can't be reached: gone"
        );
        flaky.0.lock().unwrap().0 = true;
        let answer = limits.count(&report, now).await.unwrap();
        assert_eq!((answer.number, answer.secret, limits.problem()), (3, [1; 16], None));
    }

    #[tokio::test]
    async fn a_reset_fills_what_belongs_to_the_key_in_fleet_limits_alone() {
        let (flaky, limits) = limits();
        let limit = |scope: &str| {
            serde_json::json!({
                "name": "login", "scope": scope, "anonymous": {"requests": 5, "per": "1m"},
            })
        };
        limits.reset([limit("proxy")].into_iter(), "203.0.113.7").await.unwrap();
        assert_eq!(flaky.0.lock().unwrap().1, []);
        let both = [limit("fleet"), limit("fleet"), serde_json::json!({"name": "later"})];
        limits.reset(both.into_iter(), "203.0.113.7").await.unwrap();
        // Anonymous, authenticated, and the ceiling; each once.
        assert_eq!(flaky.0.lock().unwrap().1.len(), 3);
    }
}
