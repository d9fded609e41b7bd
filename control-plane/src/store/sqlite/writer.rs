//! The one connection that writes, on its own thread.
//!
//! Jobs wait in a bounded queue and run one after the other, each in its own transaction:
//! what a job says is done is on the disk before its caller hears of it. A job that fails or
//! panics leaves nothing behind, not even in the cache that jobs share.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::database::{Failure, Work};
use crate::store::StoreError;

/// Jobs that may wait; a further caller waits for a place.
const QUEUE_JOBS: usize = 64;

type Job<C> = Box<dyn FnOnce(&mut Connection, &mut C) + Send>;

/// A thread with a connection and a cache of type `C`, which is only ever as good as the
/// transactions that were committed: it starts anew with `C::default()` after a failure.
#[derive(Debug)]
pub(super) struct Writer<C> {
    /// `None` only while dropping.
    jobs: Option<mpsc::Sender<Job<C>>>,
    thread: Option<JoinHandle<()>>,
}

impl<C: Default + Send + 'static> Writer<C> {
    /// Starts the thread. It holds `lock` until the connection is closed.
    pub(super) fn start(
        name: &str,
        mut connection: Connection,
        lock: File,
    ) -> Result<Self, StoreError> {
        let (jobs, mut queue) = mpsc::channel::<Job<C>>(QUEUE_JOBS);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let mut cache = C::default();
                while let Some(job) = queue.blocking_recv() {
                    job(&mut connection, &mut cache);
                }
                // Closing moves the write-ahead log into the file; if that fails, the next
                // start does it.
                drop(connection);
                drop(lock);
            })
            .map_err(|error| StoreError::Unavailable(format!("can't start a thread: {error}")))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `job` in a transaction of its own; commits when it returns a value. Once the job
    /// is in the queue it runs, even if the caller no longer waits.
    pub(super) async fn transact<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Transaction<'_>, &mut C) -> Work<T> + Send + 'static,
    ) -> Work<T> {
        let (reply, answer) = oneshot::channel();
        let job: Job<C> = Box::new(move |connection, cache| {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                let transaction =
                    connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let value = job(&transaction, cache)?;
                transaction.commit()?;
                Ok(value)
            }))
            // The panic itself was reported where it happened.
            .unwrap_or_else(|_| Err(internal("a job of the writer panicked")));
            if outcome.is_err() {
                *cache = C::default();
            }
            // The caller may have gone.
            let _ = reply.send(outcome);
        });
        let stopped = || internal("the writer has stopped");
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(job).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl<C: Send + 'static> Writer<C> {
    /// Runs `job` on the connection itself, outside of any transaction: for what SQLite does
    /// not do inside of one. It must leave the tables as they are.
    pub(super) async fn maintain<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Work<T> + Send + 'static,
    ) -> Work<T> {
        let (reply, answer) = oneshot::channel();
        let job: Job<C> = Box::new(move |connection, _| {
            let outcome = catch_unwind(AssertUnwindSafe(|| job(connection)))
                .unwrap_or_else(|_| Err(internal("a job of the writer panicked")));
            // The caller may have gone.
            let _ = reply.send(outcome);
        });
        let stopped = || internal("the writer has stopped");
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(job).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl<C> Drop for Writer<C> {
    /// Waits for the jobs in the queue: after this the file can be opened again.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // It catches its jobs' panics and has none of its own.
            let _ = thread.join();
        }
    }
}

fn internal(what: &str) -> Failure {
    Failure::Store(StoreError::Internal(what.to_owned()))
}
