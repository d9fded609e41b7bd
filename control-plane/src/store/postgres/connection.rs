//! Connections: a bounded pool, transactions, and when something is tried again.
//!
//! Until the commit is sent, nothing was done: whatever fails before it is tried again for a
//! moment, also a change. When the connection is lost during the commit, the server is asked
//! what became of it, by the transaction's number; only if it can't be asked in time the caller
//! learns that nobody knows.
//!
//! While the server can't be reached, each caller fails at once instead of waiting for a
//! timeout; whoever listens for news goes on knocking.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use tokio::time::Instant;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, RowStream};

use super::failure::{Failure, Work, is_taken};
use super::location::Location;
use crate::store::{Result, StoreError};

/// Connections of one control plane, beside the one that listens.
const CONNECTIONS: usize = 8;
/// How long something is tried again.
const PATIENCE: Duration = Duration::from_secs(3);
/// First and longest pause in between.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// While the server is known to be away: how often somebody may find out again.
const KNOCK: Duration = Duration::from_millis(500);
/// How long a job may take in all.
const LONGEST: Duration = Duration::from_secs(120);

/// A value of a statement.
pub(super) type Value<'a> = &'a (dyn ToSql + Sync);

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// One snapshot, nothing is changed.
    Read,
    /// Sees what was committed before each statement.
    Write,
}

/// The way to the server.
pub(super) struct Connections {
    pool: Pool,
    /// Whether the server can say what became of a transaction.
    knows_transactions: bool,
    health: Health,
}

impl Connections {
    pub(super) fn new(location: &Location) -> Result<Self> {
        // Whether a connection still works is found out by using it.
        let settings = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager =
            Manager::from_config(location.config().clone(), location.connector()?, settings);
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .wait_timeout(Some(PATIENCE))
            .create_timeout(Some(PATIENCE + Duration::from_secs(1)))
            .recycle_timeout(Some(PATIENCE))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Internal(error.to_string()))?;
        Ok(Self { pool, knows_transactions: false, health: Health::default() })
    }

    /// Finds out whether the server can say what became of a transaction.
    pub(super) async fn probe(&mut self) -> Work<()> {
        let client = self.pool.get().await?;
        let asked = client.query("SELECT txid_status(txid_current())", &[]).await;
        self.knows_transactions = asked.is_ok();
        Ok(())
    }

    pub(super) const fn health(&self) -> &Health {
        &self.health
    }

    /// A connection for work outside of any transaction.
    pub(super) async fn client(&self) -> Work<Object> {
        Ok(self.pool.get().await?)
    }

    /// Runs a job in a transaction of its own, which it gives back to be committed. Run again
    /// when nothing was done and it is worth it.
    pub(super) async fn run<T, F>(&self, access: Access, job: impl Fn(Tx) -> F + Send) -> Result<T>
    where
        F: Future<Output = Work<(Tx, T)>> + Send,
    {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = PAUSES.0;
        loop {
            let attempt = tokio::time::timeout(LONGEST, self.attempt(access, &job)).await;
            let failure = match attempt {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    let text = "a transaction took too long and was given up";
                    return Err(StoreError::Unavailable(text.to_owned()));
                }
            };
            if !matches!(failure, Failure::Undone(_))
                || Instant::now() + pause > deadline
                || self.health.is_away(Instant::now())
            {
                return Err(failure.into());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn attempt<T, F>(&self, access: Access, job: &(impl Fn(Tx) -> F + Send)) -> Work<T>
    where
        F: Future<Output = Work<(Tx, T)>> + Send,
    {
        self.health.may_knock(Instant::now())?;
        let (tx, number) = match self.begin(access).await {
            Ok(begun) => begun,
            Err(failure) => {
                if let Failure::Undone(text) = &failure {
                    self.health.failed(text, Instant::now());
                }
                return Err(failure);
            }
        };
        self.health.answered();
        let (tx, value) = job(tx).await?;
        match tx.commit().await {
            Ok(()) => Ok(value),
            Err(failure @ Failure::Undone(_)) if access == Access::Write => {
                self.became(number, failure).await.map(|()| value)
            }
            Err(failure) => Err(failure),
        }
    }

    async fn begin(&self, access: Access) -> Work<(Tx, Option<i64>)> {
        let tx = Tx { client: Some(self.pool.get().await?) };
        if access == Access::Read {
            tx.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            return Ok((tx, None));
        }
        tx.batch("BEGIN").await?;
        if !self.knows_transactions {
            return Ok((tx, None));
        }
        let number = tx.one("SELECT txid_current()", &[]).await?.try_get(0)?;
        Ok((tx, Some(number)))
    }

    /// What became of a transaction whose commit was not answered.
    async fn became(&self, number: Option<i64>, failure: Failure) -> Work<()> {
        let why = StoreError::from(failure);
        let unknown = || {
            Failure::Store(StoreError::Unavailable(format!(
                "the connection was lost while a change was committed, nobody knows whether it was made: {why}"
            )))
        };
        let Some(number) = number else { return Err(unknown()) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let asked = async {
                let client = self.pool.get().await?;
                let row = client.query_one("SELECT txid_status($1)", &[&number]).await?;
                Work::Ok(row.try_get::<_, Option<String>>(0)?)
            };
            match asked.await.ok().flatten().as_deref() {
                Some("committed") => return Ok(()),
                Some("aborted") => return Err(Failure::Undone(why.to_string())),
                // In progress, too old, or nobody answers.
                _ if Instant::now() > deadline => return Err(unknown()),
                _ => tokio::time::sleep(PAUSES.1).await,
            }
        }
    }
}

/// Whether the server can be reached.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Option<Away>>);

#[derive(Debug, Clone)]
struct Away {
    since: Instant,
    last_try: Instant,
    why: String,
}

impl Health {
    fn away(&self) -> MutexGuard<'_, Option<Away>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it can't be reached, and for how long it has not been.
    pub(super) fn problem(&self) -> Option<(String, Duration)> {
        let away = self.away().clone()?;
        Some((away.why, away.since.elapsed()))
    }

    pub(super) fn answered(&self) {
        if let Some(away) = self.away().take() {
            tracing::info!(seconds = away.since.elapsed().as_secs(), "PostgreSQL answers again");
        }
    }

    pub(super) fn failed(&self, why: &str, now: Instant) {
        let mut away = self.away();
        match &mut *away {
            Some(away) => {
                away.last_try = now;
                why.clone_into(&mut away.why);
            }
            None => {
                tracing::error!(
                    "PostgreSQL can't be reached: changes are refused until it answers, proxies go on with what they have: {why}"
                );
                *away = Some(Away { since: now, last_try: now, why: why.to_owned() });
            }
        }
    }

    /// Whether it has been away for longer than anybody waits.
    fn is_away(&self, now: Instant) -> bool {
        self.away().as_ref().is_some_and(|away| now - away.since > PATIENCE)
    }

    /// Fails at once while it is known to be away and somebody has just tried.
    fn may_knock(&self, now: Instant) -> Work<()> {
        match self.away().as_mut() {
            Some(away) if now - away.since > PATIENCE => {
                if now - away.last_try < KNOCK {
                    return Err(Failure::Store(StoreError::Unavailable(away.why.clone())));
                }
                away.last_try = now;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A transaction that is open. Dropped without a commit its connection is closed, and the
/// server rolls it back.
pub(super) struct Tx {
    client: Option<Object>,
}

impl Tx {
    fn client(&self) -> Work<&Object> {
        self.client.as_ref().ok_or_else(|| {
            Failure::Store(StoreError::Internal("a transaction was used after its end".to_owned()))
        })
    }

    pub(super) async fn batch(&self, sql: &str) -> Work<()> {
        Ok(self.client()?.batch_execute(sql).await?)
    }

    pub(super) async fn query(&self, sql: &str, values: &[Value<'_>]) -> Work<Vec<Row>> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await?;
        Ok(client.query(&statement, values).await?)
    }

    pub(super) async fn optional(&self, sql: &str, values: &[Value<'_>]) -> Work<Option<Row>> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await?;
        Ok(client.query_opt(&statement, values).await?)
    }

    pub(super) async fn one(&self, sql: &str, values: &[Value<'_>]) -> Work<Row> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await?;
        Ok(client.query_one(&statement, values).await?)
    }

    pub(super) async fn execute(&self, sql: &str, values: &[Value<'_>]) -> Work<u64> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await?;
        Ok(client.execute(&statement, values).await?)
    }

    /// As [`Self::execute`]; `None` when a value is there already that may be there once only. The
    /// transaction goes on after a roll back to a savepoint.
    pub(super) async fn execute_or_taken(
        &self,
        sql: &str,
        values: &[Value<'_>],
    ) -> Work<Option<u64>> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await?;
        match client.execute(&statement, values).await {
            Ok(done) => Ok(Some(done)),
            Err(error) if is_taken(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Rows one by one, for what may be large.
    pub(super) async fn stream(&self, sql: &str, values: &[Value<'_>]) -> Work<RowStream> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await?;
        Ok(client.query_raw(&statement, values.iter().copied()).await?)
    }

    async fn commit(mut self) -> Work<()> {
        self.client()?.batch_execute("COMMIT").await?;
        // Its transaction has ended: back into the pool.
        drop(self.client.take());
        Ok(())
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            // Never into the pool with an open transaction.
            drop(Object::take(client));
        }
    }
}
