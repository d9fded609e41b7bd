//! What feeds the streaming detectors in the running system: batches after their durable commit.
//!
//! Owns a thread and a bounded queue. A batch that does not fit is counted and not looked at:
//! detection never slows ingest. The operator's rule file is looked at every few seconds; a
//! file that is not in order changes nothing, is logged once and stays visible as a metric.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use ipwarden::record::wire;
use jiff::Timestamp;

use super::rules::{Rules, RulesError};
use super::{Detectors, FlagSink, Observation};
use crate::clock::Clock;
use crate::geo::Spot;
use crate::metrics::Metrics;

/// Most batches that wait.
const QUEUE_BATCHES: usize = 1_024;
/// Most bytes of batches that wait.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// How often the rule file is looked at, and how long the thread sleeps without work.
const LOOK: Duration = Duration::from_secs(2);

/// The way in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Feed {
    queue: SyncSender<Option<Work>>,
    waiting: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Work {
    bytes: Bytes,
    places: Vec<Spot>,
    received_at: Timestamp,
}

/// The thread, until [`Feed::stop`].
#[derive(Debug)]
pub struct Watcher(std::thread::JoinHandle<()>);

impl Watcher {
    /// Waits until everything that was offered is looked at, after [`Feed::stop`].
    pub async fn finish(self) {
        // An error would mean that the thread panicked, which has been reported by then.
        let _ = tokio::task::spawn_blocking(move || self.0.join()).await;
    }
}

/// Why detection does not start.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The operator's rules can't be used.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The system gives no thread.
    #[error("the system refuses a thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl Feed {
    /// Starts the thread with the rules of `file`, or those that ipwarden brings.
    ///
    /// # Errors
    /// [`FeedError`].
    pub fn start(
        file: Option<PathBuf>,
        sink: Arc<dyn FlagSink>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Watcher), FeedError> {
        // Looked at before it is read: what changes in between is read again.
        let seen = file.as_ref().and_then(stamp);
        let rules = match &file {
            Some(path) => Rules::read(path)?,
            None => Rules::default_rules(),
        };
        metrics.detect.rules.set(rules.list().len() as u64);
        let (queue, work) = sync_channel(QUEUE_BATCHES);
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut thread = Thread {
            detectors: Detectors::new(rules),
            file,
            seen,
            sink,
            clock,
            metrics: Arc::clone(&metrics),
            waiting: Arc::clone(&waiting),
        };
        let handle = std::thread::Builder::new()
            .name("detect".to_owned())
            .spawn(move || thread.run(&work))?;
        Ok((Self { queue, waiting, metrics }, Watcher(handle)))
    }

    /// Offers a stored batch with the places of its records (none, or one for each).
    pub fn offer(&self, bytes: Bytes, places: Vec<Spot>, received_at: Timestamp) {
        let size = bytes.len();
        let before = self.waiting.fetch_add(size, Ordering::Relaxed);
        let refused = before + size > QUEUE_BYTES
            || matches!(
                self.queue.try_send(Some(Work { bytes, places, received_at })),
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
            );
        if refused {
            self.waiting.fetch_sub(size, Ordering::Relaxed);
            self.metrics.detect_batch("dropped");
        } else {
            self.metrics.detect.queue.inc();
        }
    }

    /// Takes no more; what waits is still looked at. Blocks while the queue is full.
    pub fn stop(&self) {
        // An error means that it has stopped already.
        let _ = self.queue.send(None);
    }
}

struct Thread {
    detectors: Detectors,
    file: Option<PathBuf>,
    seen: Option<(SystemTime, u64)>,
    sink: Arc<dyn FlagSink>,
    clock: Clock,
    metrics: Arc<Metrics>,
    waiting: Arc<AtomicUsize>,
}

impl Thread {
    fn run(&mut self, work: &Receiver<Option<Work>>) {
        let mut looked = tokio::time::Instant::now();
        loop {
            match work.recv_timeout(LOOK) {
                Ok(Some(work)) => {
                    self.metrics.detect.queue.dec();
                    self.waiting.fetch_sub(work.bytes.len(), Ordering::Relaxed);
                    self.look_at(&work);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.metrics.detect.lag_seconds.set(0.0);
                }
                Ok(None) | Err(RecvTimeoutError::Disconnected) => break,
            }
            if looked.elapsed() >= LOOK {
                looked = tokio::time::Instant::now();
                self.look_at_rules();
            }
        }
        let rest = self.detectors.flush();
        if !rest.is_empty() {
            self.sink.flag(rest);
        }
    }

    fn look_at(&mut self, work: &Work) {
        // It was decoded before it was stored.
        let Ok(batch) = wire::decode(&work.bytes) else { return };
        let mut flags = Vec::new();
        for (at, record) in batch.records.iter().enumerate() {
            let Some(mut seen) = Observation::of_record(record) else { continue };
            if let Some(asn) = work.places.get(at).and_then(|place| place.asn) {
                seen.asn = Some(asn);
            }
            flags.extend(self.detectors.observe(&seen));
        }
        if !flags.is_empty() {
            self.sink.flag(flags);
        }
        let metrics = &self.metrics.detect;
        self.metrics.detect_batch("observed");
        let lag = self.clock.now().duration_since(work.received_at).as_secs_f64();
        metrics.lag_seconds.set(lag.max(0.0));
        let figures = self.detectors.figures();
        metrics.observed.set(figures.observed);
        metrics.addresses.set(figures.addresses as u64);
        metrics.bucket_bytes.set(figures.bucket_bytes as u64);
        metrics.forgotten.set(figures.evicted + figures.given_up);
        metrics.spared.set(figures.spared);
    }

    fn look_at_rules(&mut self) {
        let Some(path) = &self.file else { return };
        let now = stamp(path);
        if now == self.seen {
            return;
        }
        self.seen = now;
        match Rules::read(path) {
            Ok(rules) => {
                tracing::info!(
                    "{} rules in force, read from {}",
                    rules.list().len(),
                    path.display()
                );
                self.metrics.detect.rules.set(rules.list().len() as u64);
                self.metrics.detect.rules_problem.set(0);
                let flags = self.detectors.replace_rules(rules);
                if !flags.is_empty() {
                    self.sink.flag(flags);
                }
            }
            Err(error) => {
                self.metrics.detect.rules_problem.set(1);
                tracing::error!("the old rules stay in force: {error}");
            }
        }
    }
}

fn stamp(path: &PathBuf) -> Option<(SystemTime, u64)> {
    let data = std::fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len()))
}
