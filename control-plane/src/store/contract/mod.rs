//! What every store must do, as tests that any store can run.
//!
//! A store's own tests give a [`Fixture`] and call [`state_contract!`] or
//! [`log_contract!`]; each behaviour becomes a test of its own there.

pub(crate) mod log;
pub(crate) mod state;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};

/// A place where a store keeps its data; gone when it is dropped.
pub(crate) trait Fixture: Sized + Send + Sync {
    /// The store.
    type Store: Send + Sync;

    /// A place with nothing in it.
    fn fresh() -> impl Future<Output = Self> + Send;

    /// Opens the store there; the one opened before was dropped.
    fn open(&self) -> impl Future<Output = Self::Store> + Send;
}

/// Checks a law on many values. To be called on a runtime of several threads.
fn law<S, W>(cases: u32, strategy: &S, check: impl Fn(S::Value) -> W)
where
    S: Strategy,
    W: Future<Output = TestCaseResult>,
{
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        TestRunner::new(config).run(strategy, |value| runtime.block_on(check(value))).unwrap();
    });
}
