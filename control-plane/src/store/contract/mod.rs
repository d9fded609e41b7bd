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

    /// Whether texts are kept once, apart from the records that use them: then they are deleted
    /// apart from them, and counted. Elsewhere they go with their records.
    const KEEPS_TEXTS_APART: bool = true;

    /// One of so many values is enough for a law, where each asks a server hundreds of times.
    const ONE_OF: u32 = 1;

    /// A place with nothing in it.
    fn fresh() -> impl Future<Output = Self> + Send;

    /// Opens the store there; the one opened before was dropped.
    fn open(&self) -> impl Future<Output = Self::Store> + Send;
}

/// Of a store that needs no server.
pub(crate) const fn always() -> bool {
    true
}

/// Checks a law on many values. To be called on a runtime of several threads.
fn law<F, S, W>(cases: u32, strategy: &S, check: impl Fn(S::Value) -> W)
where
    F: Fixture,
    S: Strategy,
    W: Future<Output = TestCaseResult>,
{
    let cases = cases.div_ceil(F::ONE_OF);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        TestRunner::new(config).run(strategy, |value| runtime.block_on(check(value))).unwrap();
    });
}
