//! A few connections that read, each a snapshot at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, InterruptHandle, Transaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::database::{Database, Failure, Work};
use crate::store::StoreError;

/// Reads at the same time; a further caller waits.
const CONNECTIONS: usize = 8;

/// Connections that are never lent to help a read: others may come.
const KEPT_FREE: usize = 3;
/// Threads that work on one read.
const THREADS: usize = 4;

/// Connections are opened when first needed and kept.
#[derive(Debug)]
pub(super) struct Readers {
    database: Database,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(database: Database) -> Arc<Self> {
        Arc::new(Self {
            database,
            idle: Mutex::new(Vec::new()),
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
        })
    }

    /// The file, for naming it in errors.
    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// Runs `job` on a thread for blocking work; all it reads is of one moment. When the
    /// caller stops waiting, the statement that runs is ended, and the job with it.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Transaction<'_>) -> Work<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let readers = Arc::clone(self);
        let stopped = || StoreError::Internal("the reader has stopped".to_owned());
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| stopped())?;
        let caller = Caller::default();
        let running = Arc::clone(&caller.running);
        tokio::task::spawn_blocking(move || {
            // Kept to the end of the work, even if the caller no longer waits for it.
            let _permit = permit;
            readers.on_connection(&running, job).map_err(|failure| readers.database.error(failure))
        })
        .await
        .map_err(|_| stopped())?
    }

    /// As [`Self::read`], for much work that can be split: others may help.
    pub(super) async fn read_with_help<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Transaction<'_>, &Helpers) -> Work<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let helpers = Helpers(Some(Arc::clone(self)));
        self.read(move |tx| job(tx, &helpers)).await
    }

    /// Permits for threads that help, as many as can be spared.
    fn spared(&self) -> Vec<OwnedSemaphorePermit> {
        let most = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS) - 1;
        let mut permits = Vec::new();
        while permits.len() < most && self.permits.available_permits() > KEPT_FREE {
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { break };
            permits.push(permit);
        }
        permits
    }

    fn on_connection<T>(
        &self,
        running: &Mutex<Option<InterruptHandle>>,
        job: impl FnOnce(&Transaction<'_>) -> Work<T>,
    ) -> Work<T> {
        let kept = locked(&self.idle).pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.database.reader().map_err(Failure::Store)?,
        };
        *locked(running) = Some(connection.get_interrupt_handle());
        let outcome = connection.transaction().map_err(Failure::from).and_then(|tx| job(&tx));
        // The connection's next job is somebody else's.
        *locked(running) = None;
        locked(&self.idle).push(connection);
        outcome
    }
}

/// Threads that help a read, each with a connection of its own.
pub(super) struct Helpers(Option<Arc<Readers>>);

impl Helpers {
    /// Nobody helps.
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Does `mine` here and meanwhile `theirs` by each helper. What helpers read is of a moment
    /// of their own.
    pub(super) fn beside<M, T: Send>(
        &self,
        mine: impl FnOnce() -> M,
        theirs: impl Fn(&Transaction<'_>) -> Work<T> + Sync,
    ) -> (M, Vec<Work<T>>) {
        let Some(readers) = &self.0 else { return (mine(), Vec::new()) };
        let (permits, theirs) = (readers.spared(), &theirs);
        std::thread::scope(|scope| {
            let helpers: Vec<_> = permits
                .iter()
                .map(|_| {
                    let begun = std::thread::Builder::new().name("ipwarden-read".to_owned());
                    begun.spawn_scoped(scope, move || {
                        readers.on_connection(&Mutex::default(), theirs)
                    })
                })
                .collect();
            let mine = mine();
            let ended = |helper: std::thread::ScopedJoinHandle<'_, Work<T>>| {
                helper.join().unwrap_or_else(|_| {
                    Err(StoreError::Internal("a helper panicked".to_owned()).into())
                })
            };
            // Without a thread there is no help.
            (mine, helpers.into_iter().flatten().map(ended).collect())
        })
    }
}

/// Held by who waits for a job.
#[derive(Default)]
struct Caller {
    /// While the job runs.
    running: Arc<Mutex<Option<InterruptHandle>>>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Some(job) = locked(&self.running).as_ref() {
            job.interrupt();
        }
    }
}

/// What is behind these locks is whole at any time, even if a thread panicked there.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::database::Kind;

    const KIND: Kind = Kind {
        what: "test",
        application_id: 7,
        migrations: &[rusqlite_migration::M::up("PRAGMA application_id = 7")],
        cache_kib: 1_024,
        checkpoint_pages: 1_000,
        check_all: false,
    };

    #[tokio::test]
    async fn a_read_that_nobody_waits_for_ends() {
        let directory = tempfile::tempdir().unwrap();
        let opened = Database::open(&directory.path().join("test.db"), &KIND).unwrap();
        let (database, _writer, _lock) = opened;
        let readers = Readers::new(database);
        // As many endless reads as there are connections.
        for _ in 0..CONNECTIONS {
            let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
            let endless = readers.read(move |tx| {
                let mut statement = tx.prepare(
                    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                     SELECT i FROM n",
                )?;
                let mut rows = statement.query([])?;
                while rows.next()?.is_some() {
                    let _ = begun.send(());
                }
                Ok(())
            });
            tokio::select! {
                outcome = endless => panic!("{outcome:?}"),
                begun = has_begun.recv() => assert_eq!(begun, Some(())),
            }
        }
        let answer =
            readers.read(|tx| Ok(tx.query_row("SELECT 7", [], |row| row.get::<_, i64>(0))?));
        assert_eq!(answer.await.unwrap(), 7);
    }
}
