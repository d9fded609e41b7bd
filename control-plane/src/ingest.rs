//! Batches on their way into the log store.
//!
//! Owns the promise that a batch is acknowledged only after its durable commit. One thread
//! takes everything that waits (bounded) and commits it as one transaction, so the slower
//! the disk, the larger the groups. On the way each record learns where its client is: no
//! stored record lacks what the databases knew. What does not fit into the queue is refused: the filter
//! keeps it and comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use ipwarden::privacy::AddressForm;
use ipwarden::record::Record;
use ipwarden::record::wire::{self, DecodeError};
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::detect::feed::Feed;
use crate::geo::{Geo, Places, Spot};
use crate::live::Live;
use crate::metrics::Metrics;
use crate::store::view::stored_records;
use crate::store::{Appended, IncomingBatch, LogStore, StoreError};

/// Most batches that wait.
const QUEUE_BATCHES: usize = 8_192;
/// Most batches in one commit.
const COMMIT_BATCHES: usize = 512;
/// A commit takes no further batch beyond this many bytes.
const COMMIT_BYTES: usize = 16 * 1024 * 1024;

/// A batch that was taken care of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Records that were stored now.
    pub stored: u64,
    /// It had been stored before.
    pub duplicate: bool,
}

/// Why a batch was not.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// It can't be read: sending it again will not help.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// Too much waits already.
    #[error("too many batches wait for the store")]
    QueueFull,
    /// The store did not take it.
    #[error(transparent)]
    Store(StoreError),
    /// The service stops.
    #[error("the service stops")]
    Stopping,
}

/// The way in. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Ingest {
    queue: mpsc::Sender<Message>,
    queued_bytes: Arc<AtomicUsize>,
    max_bytes: usize,
    metrics: Arc<Metrics>,
}

/// The thread that writes, until [`Ingest::stop`].
#[derive(Debug)]
pub struct Writer(std::thread::JoinHandle<()>);

#[derive(Debug)]
enum Message {
    Batch(Job),
    /// What is queued is still stored, nothing more is taken.
    Stop,
}

#[derive(Debug)]
struct Job {
    bytes: Bytes,
    received_at: Timestamp,
    /// Whether detectors are to see it.
    observed: bool,
    answer: Answer,
    /// Counts the bytes as waiting for as long as it lives.
    place: Place,
}

#[derive(Debug)]
struct Place {
    queued_bytes: Arc<AtomicUsize>,
    bytes: usize,
    metrics: Arc<Metrics>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queued_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.metrics.queue.dec();
    }
}

impl Ingest {
    /// Starts the writer. Must be called inside a Tokio runtime, which outlives the writer.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        store: Arc<dyn LogStore>,
        live: Live,
        geo: Geo,
        feed: Option<Feed>,
        metrics: Arc<Metrics>,
        max_bytes: usize,
        store_query: bool,
    ) -> std::io::Result<(Self, Writer)> {
        let (queue, jobs) = mpsc::channel(QUEUE_BATCHES);
        let places = Places::new(geo);
        let mut commit =
            Commit { store, live, places, feed, metrics: Arc::clone(&metrics), store_query };
        let runtime = Handle::current();
        // A thread of its own: decoding and handing over to the store take a whole core
        // under load, which must not be one of those that answer polls.
        let thread = std::thread::Builder::new()
            .name("ingest".to_owned())
            .spawn(move || commit.run(&runtime, jobs))?;
        let ingest = Self { queue, queued_bytes: Arc::default(), max_bytes, metrics };
        Ok((ingest, Writer(thread)))
    }

    /// Takes a batch and answers when it is durable.
    ///
    /// # Errors
    /// [`IngestError`]; nothing of the batch was stored, except perhaps after
    /// [`IngestError::Store`], where sending it again is safe.
    pub async fn submit(
        &self,
        bytes: Bytes,
        received_at: Timestamp,
    ) -> Result<Accepted, IngestError> {
        self.take(bytes, received_at, true).await
    }

    /// The same for what was recorded elsewhere before: detectors do not see it.
    ///
    /// # Errors
    /// Those of [`Self::submit`].
    pub async fn submit_past(
        &self,
        bytes: Bytes,
        received_at: Timestamp,
    ) -> Result<Accepted, IngestError> {
        self.take(bytes, received_at, false).await
    }

    async fn take(
        &self,
        bytes: Bytes,
        received_at: Timestamp,
        observed: bool,
    ) -> Result<Accepted, IngestError> {
        let size = bytes.len();
        let place = Place {
            queued_bytes: Arc::clone(&self.queued_bytes),
            bytes: size,
            metrics: Arc::clone(&self.metrics),
        };
        self.metrics.queue.inc();
        let before = self.queued_bytes.fetch_add(size, Ordering::Relaxed);
        if before + size > self.max_bytes {
            drop(place);
            self.metrics.batch("refused");
            return Err(IngestError::QueueFull);
        }
        let (answer, answered) = oneshot::channel();
        let job = Job { bytes, received_at, observed, answer: Answer(answer), place };
        match self.queue.try_send(Message::Batch(job)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.metrics.batch("refused");
                return Err(IngestError::QueueFull);
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(IngestError::Stopping),
        }
        self.metrics.batch_bytes.inc_by(size as u64);
        answered.await.unwrap_or(Err(IngestError::Stopping))
    }

    /// Takes no more; what was accepted is still stored.
    pub async fn stop(&self) {
        // An error means that it has stopped already.
        let _ = self.queue.send(Message::Stop).await;
    }

    /// Batches that wait for the store.
    #[must_use]
    pub fn queued(&self) -> usize {
        usize::try_from(self.metrics.queue.get()).unwrap_or(0)
    }
}

impl Writer {
    /// Waits until everything that was accepted is stored, after [`Ingest::stop`].
    pub async fn finish(self) {
        // An error would mean that the thread panicked, which has been reported by then.
        let _ = tokio::task::spawn_blocking(move || self.0.join()).await;
    }
}

struct Commit {
    store: Arc<dyn LogStore>,
    live: Live,
    places: Places,
    /// Where stored batches go next; none in tests.
    feed: Option<Feed>,
    metrics: Arc<Metrics>,
    store_query: bool,
}

impl Commit {
    fn run(&mut self, runtime: &Handle, mut queue: mpsc::Receiver<Message>) {
        while let Some(message) = queue.blocking_recv() {
            let Message::Batch(first) = message else {
                queue.close();
                continue;
            };
            let mut bytes = first.bytes.len();
            let mut group = vec![first];
            while group.len() < COMMIT_BATCHES && bytes < COMMIT_BYTES {
                match queue.try_recv() {
                    Ok(Message::Batch(next)) => {
                        bytes += next.bytes.len();
                        group.push(next);
                    }
                    Ok(Message::Stop) => queue.close(),
                    Err(_) => break,
                }
            }
            self.commit(runtime, group);
        }
    }

    fn commit(&mut self, runtime: &Handle, group: Vec<Job>) {
        self.places.refresh();
        let started = tokio::time::Instant::now();
        let (bodies, answers): (Vec<_>, Vec<_>) = group
            .into_iter()
            .map(|job| ((job.bytes, job.received_at), (job.answer, job.place, job.observed)))
            .unzip();
        let mut batches = Vec::with_capacity(bodies.len());
        let mut waiting = Vec::with_capacity(bodies.len());
        for ((bytes, received_at), (answer, place, observed)) in bodies.iter().zip(answers) {
            match wire::decode(bytes) {
                Ok(batch) => {
                    let received_at = *received_at;
                    let places = self.places_of(&batch.records);
                    batches.push(IncomingBatch {
                        batch,
                        received_at,
                        store_query: self.store_query,
                        places,
                    });
                    waiting.push((answer, place, observed, bytes));
                }
                Err(error) => {
                    let kind = match error {
                        DecodeError::Version { .. } => "unknown_version",
                        _ => "undecodable",
                    };
                    self.metrics.batch(kind);
                    answer.send(Err(error.into()));
                }
            }
        }
        if batches.is_empty() {
            return;
        }
        let outcomes = match self.append(runtime, &batches) {
            // One batch that the store chokes on must not take its neighbours with it.
            Err(StoreError::Internal(_)) if batches.len() > 1 => batches
                .iter()
                .flat_map(|batch| flatten(self.append(runtime, std::slice::from_ref(batch)), 1))
                .collect(),
            outcome => flatten(outcome, batches.len()),
        };
        let mut failure = None;
        for ((outcome, waiting), batch) in outcomes.into_iter().zip(waiting).zip(&mut batches) {
            let (answer, place, observed, bytes) = waiting;
            if let Err(error) = &outcome {
                self.metrics.batch("failed");
                failure.get_or_insert_with(|| error.to_string());
            }
            let is_new = matches!(outcome, Ok(Accepted { stored: 1.., .. }));
            // Whoever has the answer may send the next batch: there is room for it.
            drop(place);
            answer.send(outcome);
            // After the answer: detection never makes a proxy wait.
            if let (true, Some(feed)) = (is_new && observed, &self.feed) {
                let places = std::mem::take(&mut batch.places);
                feed.offer(Bytes::clone(bytes), places, batch.received_at);
            }
        }
        // Once for all of them: a store that is down must not flood the log.
        if let Some(error) = failure {
            tracing::error!("batches were not stored: {error}");
        }
        self.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
    }

    /// Where the clients of some records are: what the proxy knew when it judged the request,
    /// completed by what the databases know.
    fn places_of(&mut self, records: &[Record<'_>]) -> Vec<Spot> {
        let told = |record: &Record<'_>| record.country.is_some() || record.asn.is_some();
        if !self.places.knows_anything() && !records.iter().any(told) {
            return Vec::new();
        }
        let spot = |record: &Record<'_>| {
            // A pseudonym is nowhere; a cut address is where its network is.
            let ip = record.ip.filter(|_| record.form != AddressForm::Pseudonym);
            let known = ip.map_or_else(Spot::default, |ip| self.places.spot(ip));
            known.over(record)
        };
        records.iter().map(spot).collect()
    }

    fn append(
        &self,
        runtime: &Handle,
        batches: &[IncomingBatch<'_>],
    ) -> Result<Vec<Accepted>, StoreError> {
        let appended = runtime.block_on(self.store.append(batches))?;
        if appended.len() != batches.len() {
            return Err(StoreError::Internal("not every batch was answered for".to_owned()));
        }
        let pairs = batches.iter().zip(appended);
        Ok(pairs.map(|(batch, appended)| self.stored(batch, appended)).collect())
    }

    fn stored(&self, batch: &IncomingBatch<'_>, appended: Appended) -> Accepted {
        match appended {
            Appended::Stored { first_id } => {
                let stored = batch.batch.records.len() as u64;
                self.metrics.batch("stored");
                self.metrics.records.inc_by(stored);
                if self.live.is_watched() {
                    stored_records(batch, first_id).for_each(|record| self.live.publish(record));
                }
                Accepted { stored, duplicate: false }
            }
            Appended::Duplicate => {
                self.metrics.batch("duplicate");
                Accepted { stored: 0, duplicate: true }
            }
            Appended::Noted => {
                self.metrics.batch("noted");
                Accepted { stored: 0, duplicate: false }
            }
            // Who watches sees records that have numbers.
            Appended::Spooled => {
                let stored = batch.batch.records.len() as u64;
                self.metrics.batch("spooled");
                self.metrics.records.inc_by(stored);
                Accepted { stored, duplicate: false }
            }
        }
    }
}

/// One outcome for each of `count` batches.
fn flatten(
    outcome: Result<Vec<Accepted>, StoreError>,
    count: usize,
) -> Vec<Result<Accepted, IngestError>> {
    match outcome {
        Ok(accepted) => accepted.into_iter().map(Ok).collect(),
        Err(error) => (0..count).map(|_| Err(IngestError::Store(same(&error)))).collect(),
    }
}

fn same(error: &StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(why) => StoreError::Unavailable(why.clone()),
        StoreError::Unusable(why) => StoreError::Unusable(why.clone()),
        StoreError::Internal(why) => StoreError::Internal(why.clone()),
    }
}

/// Where the outcome of a batch goes.
#[derive(Debug)]
struct Answer(oneshot::Sender<Result<Accepted, IngestError>>);

impl Answer {
    fn send(self, outcome: Result<Accepted, IngestError>) {
        // An error means that whoever asked has gone away; the batch is stored all the same
        // and will be recognised when it comes again.
        let _ = self.0.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::ops::ControlFlow;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use ipwarden::record::{BatchHeader, Record, Verdict};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::live::Seen;
    use crate::model::StoredRecord;
    use crate::store::{self, RecordQuery, StreamTotals};

    type Refusal = dyn Fn(&[IncomingBatch<'_>]) -> Option<StoreError> + Send + Sync;

    /// A store that appends one group for each permit, and refuses what it is told to.
    struct Gated {
        gate: Semaphore,
        refuse: Box<Refusal>,
        /// Numbers of the batches of each append.
        groups: Mutex<Vec<Vec<u64>>>,
    }

    impl Gated {
        fn open(
            refuse: impl Fn(&[IncomingBatch<'_>]) -> Option<StoreError> + Send + Sync + 'static,
        ) -> Arc<Self> {
            let gate = Semaphore::new(Semaphore::MAX_PERMITS);
            Arc::new(Self { gate, refuse: Box::new(refuse), groups: Mutex::default() })
        }

        fn closed() -> Arc<Self> {
            let gate = Semaphore::new(0);
            Arc::new(Self { gate, refuse: Box::new(|_| None), groups: Mutex::default() })
        }
    }

    #[async_trait]
    impl LogStore for Gated {
        async fn append(&self, batches: &[IncomingBatch<'_>]) -> store::Result<Vec<Appended>> {
            self.gate.acquire().await.unwrap().forget();
            let numbers = batches.iter().map(|batch| batch.batch.header.number).collect();
            self.groups.lock().unwrap().push(numbers);
            match (self.refuse)(batches) {
                Some(error) => Err(error),
                None => Ok(vec![Appended::Stored { first_id: 1 }; batches.len()]),
            }
        }

        async fn search(&self, _: &RecordQuery) -> store::Result<Vec<StoredRecord>> {
            unreachable!("ingest only appends")
        }

        async fn scan(
            &self,
            _: &RecordQuery,
            _: &mut (dyn for<'r> FnMut(StoredRecord) -> ControlFlow<()> + Send),
        ) -> store::Result<()> {
            unreachable!("ingest only appends")
        }

        async fn count(&self, _: &RecordQuery) -> store::Result<u64> {
            unreachable!("ingest only appends")
        }

        async fn streams(&self) -> store::Result<Vec<StreamTotals>> {
            unreachable!("ingest only appends")
        }

        async fn rollups(&self, _: i64, _: u64) -> store::Result<store::HourRollups> {
            unreachable!("ingest only appends")
        }

        async fn past_hours(
            &self,
            _: Vec<i64>,
            _: Vec<Vec<crate::privacy::Kept>>,
        ) -> store::Result<Vec<store::PastHour>> {
            unreachable!("ingest only appends")
        }

        async fn stats(&self, _: &store::stats::StatsQuery) -> store::Result<store::stats::Stats> {
            unreachable!("ingest only appends")
        }

        async fn tidy(&self) -> store::Result<bool> {
            unreachable!("ingest only appends")
        }

        async fn holds(&self, _: IpAddr) -> store::Result<bool> {
            unreachable!("ingest only appends")
        }
    }

    fn start(store: Arc<Gated>, max_bytes: usize) -> (Ingest, Writer, Live) {
        let live = Live::new(1);
        let geo = Geo::new("/nonexistent".into(), Vec::new());
        let (ingest, writer) = Ingest::start(
            store,
            live.clone(),
            geo,
            None,
            Arc::new(Metrics::new()),
            max_bytes,
            false,
        )
        .unwrap();
        (ingest, writer, live)
    }

    /// A batch of one record.
    fn batch(number: u64) -> Bytes {
        let header = BatchHeader {
            stream: 1,
            number,
            started_us: 0,
            sent_us: 0,
            proxy: b"edge",
            version: b"0.1.0",
            key: None,
            applied: Default::default(),
            seen: 1,
            lost: 0,
            skipped: 0,
        };
        let record = Record {
            time_us: 1,
            ip: None,
            form: ipwarden::privacy::AddressForm::Full,
            opted_out: false,
            verdict: Verdict::Admitted,
            weight: 1,
            decision: 0,
            rule: b"",
            method: b"GET",
            host: b"",
            path: b"/",
            query: b"",
            status: 200,
            flags: 0,
            duration_us: 0,
            bytes_in: 0,
            bytes_out: 0,
            user_agent: b"",
            request_id: b"",
            country: None,
            city: b"",
            asn: None,
            identity: b"",
        };
        let mut records = Vec::new();
        wire::put_record(&mut records, 1, &record);
        wire::encode(&header, 1, 1, &records).into()
    }

    fn submitting(
        ingest: &Ingest,
        number: u64,
    ) -> tokio::task::JoinHandle<Result<Accepted, IngestError>> {
        let ingest = ingest.clone();
        tokio::spawn(async move { submit(&ingest, batch(number)).await })
    }

    async fn submit(ingest: &Ingest, bytes: Bytes) -> Result<Accepted, IngestError> {
        ingest.submit(bytes, Timestamp::UNIX_EPOCH).await
    }

    #[tokio::test]
    async fn nothing_is_acknowledged_before_its_commit_and_what_waits_is_committed_together() {
        let store = Gated::closed();
        let (ingest, writer, _) = start(Arc::clone(&store), 1 << 20);
        let submits: Vec<_> = (1..=5).map(|number| submitting(&ingest, number)).collect();
        while ingest.queued() < 5 {
            tokio::task::yield_now().await;
        }
        assert!(submits.iter().all(|submit| !submit.is_finished()));
        store.gate.add_permits(2);
        for submit in submits {
            assert_eq!(submit.await.unwrap().unwrap(), Accepted { stored: 1, duplicate: false });
        }
        let groups = store.groups.lock().unwrap().clone();
        assert!(groups.len() <= 2, "what waited during a commit is one commit: {groups:?}");
        assert_eq!(groups.concat(), [1, 2, 3, 4, 5]);
        ingest.stop().await;
        writer.finish().await;
    }

    #[tokio::test]
    async fn what_does_not_fit_into_the_queue_is_refused_and_the_rest_is_stored() {
        let store = Gated::closed();
        let size = batch(1).len();
        let (ingest, writer, _) = start(Arc::clone(&store), 2 * size);
        let first = submitting(&ingest, 1);
        let second = submitting(&ingest, 2);
        while ingest.queued() < 2 {
            tokio::task::yield_now().await;
        }
        let refused = submit(&ingest, batch(3)).await.unwrap_err();
        assert_eq!(refused.to_string(), "too many batches wait for the store");
        assert_eq!(ingest.queued(), 2, "a refused batch leaves nothing behind");
        store.gate.add_permits(3);
        assert!(first.await.unwrap().is_ok() && second.await.unwrap().is_ok());
        assert!(submit(&ingest, batch(3)).await.is_ok(), "there is room again");
        ingest.stop().await;
        writer.finish().await;
    }

    #[tokio::test]
    async fn stopping_stores_what_was_accepted_and_takes_no_more() {
        let store = Gated::closed();
        let (ingest, writer, _) = start(Arc::clone(&store), 1 << 20);
        let accepted = submitting(&ingest, 1);
        while ingest.queued() < 1 {
            tokio::task::yield_now().await;
        }
        ingest.stop().await;
        store.gate.add_permits(1);
        writer.finish().await;
        assert!(accepted.await.unwrap().is_ok());
        assert!(matches!(submit(&ingest, batch(2)).await, Err(IngestError::Stopping)));
    }

    #[tokio::test]
    async fn a_batch_that_the_store_chokes_on_fails_alone() {
        let store = Gated::open(|batches| {
            let poisoned = batches.iter().any(|batch| batch.batch.header.number == 2);
            poisoned.then(|| StoreError::Internal("choked".to_owned()))
        });
        let (ingest, writer, _) = start(store, 1 << 20);
        let submits = (1..=3).map(|number| submit(&ingest, batch(number)));
        let outcomes = futures_util::future::join_all(submits).await;
        assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
        assert!(matches!(outcomes[1], Err(IngestError::Store(StoreError::Internal(_)))));
        ingest.stop().await;
        writer.finish().await;
    }

    #[tokio::test]
    async fn an_unreadable_batch_fails_alone_and_an_unavailable_store_fails_all() {
        let store = Gated::open(|_| Some(StoreError::Unavailable("disk full".to_owned())));
        let (ingest, writer, _) = start(Arc::clone(&store), 1 << 20);
        let (bad, good) =
            tokio::join!(submit(&ingest, Bytes::from_static(b"x")), submit(&ingest, batch(1)));
        assert!(matches!(bad, Err(IngestError::Undecodable(DecodeError::NotABatch))));
        assert!(matches!(good, Err(IngestError::Store(StoreError::Unavailable(_)))));
        assert_eq!(*store.groups.lock().unwrap(), [[1]]);
        ingest.stop().await;
        writer.finish().await;
    }

    #[tokio::test]
    async fn watchers_see_what_is_stored() {
        let (ingest, writer, live) = start(Gated::open(|_| None), 1 << 20);
        submit(&ingest, batch(1)).await.unwrap();
        let mut subscription = live.subscribe().unwrap();
        submit(&ingest, batch(2)).await.unwrap();
        let Some(Seen::Record(record)) = subscription.next().await else { panic!("no record") };
        assert_eq!((record.id, record.path.as_str()), (1, "/"));
        ingest.stop().await;
        writer.finish().await;
    }
}
