//! A few connections that read, each a snapshot at a time.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Transaction};
use tokio::sync::Semaphore;

use super::database::{Database, Failure, Work};
use crate::store::StoreError;

/// Reads at the same time; a further caller waits.
const CONNECTIONS: usize = 8;

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

    /// Runs `job` on a thread for blocking work; all it reads is of one moment.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Transaction<'_>) -> Work<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let readers = Arc::clone(self);
        let stopped = || StoreError::Internal("the reader has stopped".to_owned());
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| stopped())?;
        tokio::task::spawn_blocking(move || {
            // Kept to the end of the work, even if the caller no longer waits for it.
            let _permit = permit;
            readers.on_connection(job).map_err(|failure| readers.database.error(failure))
        })
        .await
        .map_err(|_| stopped())?
    }

    fn on_connection<T>(&self, job: impl FnOnce(&Transaction<'_>) -> Work<T>) -> Work<T> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle().pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.database.reader().map_err(Failure::Store)?,
        };
        let outcome = connection.transaction().map_err(Failure::from).and_then(|tx| job(&tx));
        idle().push(connection);
        outcome
    }
}
