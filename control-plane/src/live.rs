//! Records as they are stored, for whoever watches.
//!
//! Watching never slows ingest down: a subscriber that falls behind is told how many
//! records it missed, and goes on from there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::broadcast;

use crate::model::StoredRecord;

/// Records that a subscriber may be behind before it misses some.
const CAPACITY: usize = 16_384;

/// The live stream. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Live {
    sender: broadcast::Sender<Arc<StoredRecord>>,
    subscribers: Arc<AtomicUsize>,
    max_subscribers: usize,
}

/// One who watches.
#[derive(Debug)]
pub struct Subscription {
    receiver: broadcast::Receiver<Arc<StoredRecord>>,
    subscribers: Arc<AtomicUsize>,
}

/// What a subscriber sees.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// A record that was stored.
    Record(Arc<StoredRecord>),
    /// So many records were stored that it was too slow for.
    Missed(u64),
}

impl Live {
    /// A stream that nobody watches yet.
    #[must_use]
    pub fn new(max_subscribers: usize) -> Self {
        Self {
            sender: broadcast::Sender::new(CAPACITY),
            subscribers: Arc::default(),
            max_subscribers,
        }
    }

    /// Whether anybody watches: nobody prepares records otherwise.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// How many watch.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Shows a record to everybody.
    pub fn publish(&self, record: StoredRecord) {
        // An error means that the last one has just left.
        let _ = self.sender.send(Arc::new(record));
    }

    /// Starts watching from now on; `None` when too many do.
    #[must_use]
    pub fn subscribe(&self) -> Option<Subscription> {
        let subscribers = Arc::clone(&self.subscribers);
        let taken = subscribers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < self.max_subscribers).then_some(count + 1)
            })
            .is_ok();
        taken.then(|| Subscription { receiver: self.sender.subscribe(), subscribers })
    }
}

impl Subscription {
    /// The next thing to see; `None` when the service is gone.
    pub async fn next(&mut self) -> Option<Seen> {
        match self.receiver.recv().await {
            Ok(record) => Some(Seen::Record(record)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Seen::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
}
