//! What feeds the streaming detectors in the running system: batches after their durable commit.
//!
//! Owns a thread and a bounded queue. A batch that does not fit is counted and not looked at:
//! detection never slows ingest. The operator's rule file is looked at every few seconds; a
//! file that is not in order changes nothing, is logged once and stays visible as a metric.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use ipwarden::record::wire;
use jiff::Timestamp;

use super::rules::{Rules, RulesError};
use super::streaming::Limits;
use super::{Detectors, Flag, FlagSink, Observation};
use crate::clock::Clock;
use crate::geo::Spot;
use crate::metrics::Metrics;
use crate::privacy::{Kept, Veil};

/// Most batches that wait.
const QUEUE_BATCHES: usize = 1_024;
/// Most bytes of batches that wait.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// Kinds of addresses that are not as they came, at one time: cut ones and pseudonyms of some
/// keys.
const VEILS: usize = 4;
/// Bounds of the state for each of them.
const VEILED: Limits = Limits { addresses: 1 << 17, groups: 1 << 12, bucket_bytes: 16 << 20 };
/// How often the rule file is looked at, and how long the thread sleeps without work.
const LOOK: Duration = Duration::from_secs(2);

/// The way in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Feed {
    queue: SyncSender<Item>,
    waiting: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    in_force: InForce,
}

/// The rules in force, for whoever else goes by them. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct InForce(Arc<RwLock<(Rules, Option<String>)>>);

impl InForce {
    /// These.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self(Arc::new(RwLock::new((rules, None))))
    }

    /// The rules.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.0.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Why the rule file as it is now can't be used; the rules before it stay in force then.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    fn set(&self, rules: Option<Rules>, problem: Option<String>) {
        let mut now = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(rules) = rules {
            now.0 = rules;
        }
        now.1 = problem;
    }
}

#[derive(Debug)]
enum Item {
    Batch(Work),
    /// Who was erased, and whom to tell when it is done.
    Forget(Vec<Kept>, SyncSender<()>),
    Stop,
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
        let in_force = InForce::new(rules.clone());
        let (queue, work) = sync_channel(QUEUE_BATCHES);
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut thread = Thread {
            detectors: Detectors::new(rules),
            veiled: Vec::new(),
            file,
            seen,
            sink,
            clock,
            metrics: Arc::clone(&metrics),
            waiting: Arc::clone(&waiting),
            in_force: in_force.clone(),
        };
        let handle = std::thread::Builder::new()
            .name("detect".to_owned())
            .spawn(move || thread.run(&work))?;
        Ok((Self { queue, waiting, metrics, in_force }, Watcher(handle)))
    }

    /// The rules in force.
    #[must_use]
    pub fn in_force(&self) -> &InForce {
        &self.in_force
    }

    /// Offers a stored batch with the places of its records (none, or one for each).
    pub fn offer(&self, bytes: Bytes, places: Vec<Spot>, received_at: Timestamp) {
        let size = bytes.len();
        let before = self.waiting.fetch_add(size, Ordering::Relaxed);
        let refused = before + size > QUEUE_BYTES
            || matches!(
                self.queue.try_send(Item::Batch(Work { bytes, places, received_at })),
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
        let _ = self.queue.send(Item::Stop);
    }

    /// Forgets an address under all its names; when this returns, no flag comes of what it did
    /// before. Blocks while the queue is full.
    pub fn forget(&self, names: Vec<Kept>) {
        let (done, wait) = sync_channel(1);
        // An error means that it has stopped already, and with it what it remembered.
        if self.queue.send(Item::Forget(names, done)).is_ok() {
            let _ = wait.recv();
        }
    }
}

struct Thread {
    detectors: Detectors,
    /// For addresses that are not as they came, the latest used last: a pseudonym must not be
    /// counted with an address that happens to look the same.
    veiled: Vec<(Veil, Detectors)>,
    file: Option<PathBuf>,
    seen: Option<(SystemTime, u64)>,
    sink: Arc<dyn FlagSink>,
    clock: Clock,
    metrics: Arc<Metrics>,
    waiting: Arc<AtomicUsize>,
    in_force: InForce,
}

impl Thread {
    fn run(&mut self, work: &Receiver<Item>) {
        let mut looked = tokio::time::Instant::now();
        loop {
            match work.recv_timeout(LOOK) {
                Ok(Item::Batch(work)) => {
                    self.metrics.detect.queue.dec();
                    self.waiting.fetch_sub(work.bytes.len(), Ordering::Relaxed);
                    self.look_at(&work);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.metrics.detect.lag_seconds.set(0.0);
                }
                Ok(Item::Forget(names, done)) => {
                    self.forget(&names);
                    // Whoever asked may have gone.
                    let _ = done.send(());
                }
                Ok(Item::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
            if looked.elapsed() >= LOOK {
                looked = tokio::time::Instant::now();
                self.look_at_rules();
            }
        }
        let mut rest = self.detectors.flush();
        for (veil, mut detectors) in std::mem::take(&mut self.veiled) {
            rest.extend(named(veil, detectors.flush()));
        }
        if !rest.is_empty() {
            self.sink.flag(rest);
        }
    }

    fn forget(&mut self, names: &[Kept]) {
        for Kept { ip, veil } in names {
            if veil.is_none() {
                self.detectors.forget(*ip);
            }
            for (_, detectors) in self.veiled.iter_mut().filter(|(known, _)| known == veil) {
                detectors.forget(*ip);
            }
        }
    }

    /// Looks at one request with those who see addresses of its kind.
    fn observe(&mut self, veil: Veil, seen: &Observation<'_>, flags: &mut Vec<Flag>) {
        if veil.is_none() {
            flags.extend(self.detectors.observe(seen));
            return;
        }
        let at = match self.veiled.iter().position(|(known, _)| *known == veil) {
            Some(at) => at,
            None => {
                if self.veiled.len() >= VEILS {
                    let (gone, mut detectors) = self.veiled.remove(0);
                    flags.extend(named(gone, detectors.flush()));
                }
                let rules = self.detectors.rules().clone();
                self.veiled.push((veil, Detectors::with_limits(rules, VEILED).veiled(veil)));
                self.veiled.len() - 1
            }
        };
        self.veiled.get_mut(at..).into_iter().for_each(|rest| rest.rotate_left(1));
        if let Some((_, detectors)) = self.veiled.last_mut() {
            flags.extend(named(veil, detectors.observe(seen)));
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
            let veil = Veil::of(record.form, batch.header.key);
            self.observe(veil, &seen, &mut flags);
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
                self.in_force.set(Some(rules.clone()), None);
                let mut flags = Vec::new();
                for (veil, detectors) in &mut self.veiled {
                    flags.extend(named(*veil, detectors.replace_rules(rules.clone())));
                }
                flags.extend(self.detectors.replace_rules(rules));
                if !flags.is_empty() {
                    self.sink.flag(flags);
                }
            }
            Err(error) => {
                self.metrics.detect.rules_problem.set(1);
                self.in_force.set(None, Some(error.to_string()));
                tracing::error!("the old rules stay in force: {error}");
            }
        }
    }
}

/// Flags that say what their addresses are.
fn named(veil: Veil, flags: Vec<Flag>) -> impl Iterator<Item = Flag> {
    flags.into_iter().map(move |flag| Flag { veil, ..flag })
}

fn stamp(path: &PathBuf) -> Option<(SystemTime, u64)> {
    let data = std::fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len()))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};

    use ipwarden::record::{Record, Verdict};

    use super::*;
    use crate::detect::Flag;
    use crate::metrics::Kind;
    use crate::store::contract::log::{header, record};

    /// Hands flags to the test.
    struct Told(Mutex<Sender<Vec<Flag>>>);

    impl FlagSink for Told {
        fn flag(&self, flags: Vec<Flag>) {
            let _ = self.0.lock().unwrap().send(flags);
        }
    }

    fn start(
        file: Option<PathBuf>,
        sink: impl FlagSink + 'static,
    ) -> (Feed, Watcher, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        let (feed, watcher) =
            Feed::start(file, Arc::new(sink), Clock::system(), Arc::clone(&metrics)).unwrap();
        (feed, watcher, metrics)
    }

    /// A batch of requests of one client, at the same moment.
    fn batch(paths: &[&str], status: u16) -> Bytes {
        let mut encoded = Vec::new();
        let base = record().time_us;
        for path in paths {
            let path = path.as_bytes();
            let verdict = Verdict::Admitted;
            wire::put_record(&mut encoded, base, &Record { path, status, verdict, ..record() });
        }
        wire::encode(&header(7, 1), base, paths.len() as u32, &encoded).into()
    }

    #[test]
    fn what_was_offered_before_the_end_is_flagged_in_the_end() {
        let (told, flags) = channel();
        let (feed, watcher, metrics) = start(None, Told(Mutex::new(told)));
        let paths: Vec<String> = (0..17).map(|n| format!("/missing/{n}")).collect();
        for path in &paths {
            feed.offer(batch(&[path], 404), Vec::new(), Timestamp::now());
        }
        feed.stop();
        watcher.0.join().unwrap();
        let flags: Vec<Flag> = flags.try_iter().flatten().collect();
        let probing = flags.iter().filter(|flag| flag.rule == "probing");
        assert_eq!(probing.map(|flag| flag.count).sum::<u64>(), 17);
        assert_eq!(metrics.detect.batches.get_or_create(&Kind("observed")).get(), 17);
        assert_eq!(metrics.detect.observed.get(), 17);
        // Nobody looks any more: offered in vain, and counted.
        feed.offer(batch(&["/"], 200), Vec::new(), Timestamp::now());
        assert_eq!(metrics.detect.batches.get_or_create(&Kind("dropped")).get(), 1);
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted_and_nobody_waits() {
        /// Says that it was reached, and waits until the test lets it go on.
        struct Slow(Mutex<(Sender<()>, Receiver<()>)>);
        impl FlagSink for Slow {
            fn flag(&self, _: Vec<Flag>) {
                let both = self.0.lock().unwrap();
                let _ = both.0.send(());
                let _ = both.1.recv();
            }
        }
        let (reached, is_reached) = channel();
        let (go, goes) = channel();
        let (feed, watcher, metrics) = start(None, Slow(Mutex::new((reached, goes))));
        let attack = batch(&["/x/${jndi:ldap://a}"], 404);
        feed.offer(attack, Vec::new(), Timestamp::now());
        is_reached.recv().unwrap();
        let small = batch(&["/"], 200);
        for _ in 0..QUEUE_BATCHES + 5 {
            feed.offer(small.clone(), Vec::new(), Timestamp::now());
        }
        let dropped =
            |metrics: &Metrics| metrics.detect.batches.get_or_create(&Kind("dropped")).get();
        assert_eq!(dropped(&metrics), 5);
        assert_eq!(metrics.detect.queue.get(), QUEUE_BATCHES as i64);
        drop(go);
        feed.stop();
        watcher.0.join().unwrap();
        assert_eq!(metrics.detect.queue.get(), 0);
        assert_eq!(metrics.detect.observed.get(), QUEUE_BATCHES as u64 + 1);
    }

    #[test]
    fn a_batch_that_is_larger_than_all_room_is_dropped() {
        let (told, _flags) = channel();
        let (feed, watcher, metrics) = start(None, Told(Mutex::new(told)));
        feed.offer(vec![0; QUEUE_BYTES + 1].into(), Vec::new(), Timestamp::now());
        assert_eq!(metrics.detect.batches.get_or_create(&Kind("dropped")).get(), 1);
        assert_eq!(feed.waiting.load(Ordering::Relaxed), 0);
        feed.stop();
        watcher.0.join().unwrap();
    }

    #[test]
    fn a_rule_file_that_is_not_in_order_is_told_at_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rules.toml");
        std::fs::write(&file, "[adjust.probing]\nseverity = \"awful\"\n").unwrap();
        let (told, _flags) = channel();
        let sink = Arc::new(Told(Mutex::new(told)));
        let started = Feed::start(Some(file), sink, Clock::system(), Arc::new(Metrics::new()));
        let error = started.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("line 2: ") && error.contains("severity"), "{error}");
    }
}
