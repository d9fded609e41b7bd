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

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: i64) -> StoredRecord {
        StoredRecord {
            id,
            time: jiff::Timestamp::UNIX_EPOCH,
            ip: None,
            form: ipwarden::privacy::AddressForm::Full,
            key: None,
            method: String::new(),
            host: String::new(),
            path: String::new(),
            query: None,
            status: 200,
            verdict: "admitted".to_owned(),
            decision: None,
            rule: None,
            weight: 1,
            duration_ms: 0.0,
            bytes_in: 0,
            bytes_out: 0,
            flags: None,
            user_agent: String::new(),
            request_id: String::new(),
            country: None,
            city: None,
            asn: None,
            proxy: String::new(),
        }
    }

    #[tokio::test]
    async fn a_slow_watcher_is_told_what_it_missed_and_goes_on() {
        let live = Live::new(2);
        let mut slow = live.subscribe().unwrap();
        let beyond = 5;
        for id in 0..(CAPACITY + beyond) as i64 {
            live.publish(record(id));
        }
        assert_eq!(slow.next().await, Some(Seen::Missed(beyond as u64)));
        let Some(Seen::Record(next)) = slow.next().await else { panic!("expected a record") };
        assert_eq!(next.id, beyond as i64);
    }

    #[test]
    fn places_are_limited_and_given_back() {
        let live = Live::new(1);
        assert!(!live.is_watched());
        let first = live.subscribe().unwrap();
        assert!(live.is_watched());
        assert!(live.subscribe().is_none());
        drop(first);
        assert_eq!(live.subscribers(), 0);
        assert!(live.subscribe().is_some());
    }
}
