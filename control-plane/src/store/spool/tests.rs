use std::sync::Mutex as StdMutex;

use ipwarden::record::Record;

use super::*;
use crate::geo::{Country, Spot};
use crate::store::contract::log::{header, incoming, record};
use crate::store::sqlite::SqliteLog;

/// A store that can be reached, or not.
struct Wire {
    store: SqliteLog,
    cut: StdMutex<Option<fn() -> StoreError>>,
    /// Numbers of batches, in the order of their arrival.
    arrived: StdMutex<Vec<u64>>,
}

impl Wire {
    fn cut(&self, why: Option<fn() -> StoreError>) {
        *self.cut.lock().unwrap() = why;
    }
}

fn down() -> StoreError {
    StoreError::Unavailable("as told".to_owned())
}

#[async_trait]
impl LogStore for Wire {
    async fn append(&self, batches: &[IncomingBatch<'_>]) -> Result<Vec<Appended>> {
        if let Some(why) = *self.cut.lock().unwrap() {
            return Err(why());
        }
        if batches.iter().any(|incoming| incoming.batch.header.number == 666) {
            return Err(StoreError::Internal("choked".to_owned()));
        }
        let numbers = batches.iter().map(|incoming| incoming.batch.header.number);
        self.arrived.lock().unwrap().extend(numbers);
        self.store.append(batches).await
    }

    async fn search(&self, query: &RecordQuery) -> Result<Vec<StoredRecord>> {
        self.store.search(query).await
    }

    async fn scan(
        &self,
        query: &RecordQuery,
        visit: &mut (dyn for<'r> FnMut(StoredRecord) -> ControlFlow<()> + Send),
    ) -> Result<()> {
        self.store.scan(query, visit).await
    }

    async fn count(&self, query: &RecordQuery) -> Result<u64> {
        self.store.count(query).await
    }

    async fn streams(&self) -> Result<Vec<StreamTotals>> {
        self.store.streams().await
    }

    async fn rollups(&self, hour: i64, least: u64) -> Result<HourRollups> {
        self.store.rollups(hour, least).await
    }

    async fn past_hours(&self, hours: Vec<i64>, targets: Vec<Vec<Kept>>) -> Result<Vec<PastHour>> {
        self.store.past_hours(hours, targets).await
    }

    async fn stats(&self, query: &StatsQuery) -> Result<Stats> {
        self.store.stats(query).await
    }

    async fn tidy(&self) -> Result<bool> {
        self.store.tidy().await
    }

    async fn holds(&self, ip: IpAddr) -> Result<bool> {
        self.store.holds(ip).await
    }
}

const MOST: u64 = 1 << 20;

async fn open(directory: &Path, most: u64) -> SpoolingLog<Wire> {
    let store = SqliteLog::open(&directory.join("log.db")).unwrap();
    let wire = Wire { store, cut: StdMutex::default(), arrived: StdMutex::default() };
    SpoolingLog::open(wire, &directory.join("spool"), most).await.unwrap()
}

async fn append(log: &SpoolingLog<Wire>, number: u64) -> Appended {
    let batch = incoming(header(7, number), vec![record(); 2]);
    log.append(&[batch]).await.unwrap()[0]
}

async fn drain(log: &SpoolingLog<Wire>) {
    while log.tidy().await.unwrap() {}
}

#[tokio::test]
async fn what_comes_while_the_store_is_away_is_stored_in_order_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), MOST).await;
    assert!(matches!(append(&log, 1).await, Appended::Stored { .. }));
    log.store().cut(Some(down));
    assert_eq!(append(&log, 2).await, Appended::Spooled);
    assert_eq!(append(&log, 2).await, Appended::Duplicate, "it waits already");
    // Of an answer that was lost: the store has it.
    assert_eq!(append(&log, 1).await, Appended::Spooled);
    assert!(!log.tidy().await.unwrap());
    log.store().cut(None);
    // The store is there again, but others wait: behind them.
    assert_eq!(append(&log, 3).await, Appended::Spooled);
    assert_eq!(log.spooled().unwrap().batches, 3);
    drain(&log).await;
    assert!(matches!(append(&log, 4).await, Appended::Stored { .. }));
    assert_eq!(*log.store().arrived.lock().unwrap(), [1, 2, 1, 3, 4]);
    assert_eq!(log.count(&RecordQuery::default()).await.unwrap(), 8);
    assert_eq!(log.spooled().unwrap(), Spooled::default());
    let left = std::fs::read_dir(directory.path().join("spool")).unwrap().count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn what_waits_survives_a_crash_in_the_middle_of_a_write() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), MOST).await;
    log.store().cut(Some(down));
    let wild = Record { path: b"/a\xff", city: b"", ..record() };
    let place = Spot { country: Country::new("FR"), city: Some("Lyon".into()), asn: Some(7) };
    let batch = IncomingBatch {
        places: vec![place],
        store_query: true,
        ..incoming(header(7, 1), vec![wild])
    };
    assert_eq!(log.append(&[batch]).await.unwrap(), [Appended::Spooled]);
    assert_eq!(append(&log, 2).await, Appended::Spooled);
    drop(log);
    let file = directory.path().join("spool/0000000000.spool");
    let whole = std::fs::read(&file).unwrap();
    let torn = [whole.as_slice(), &whole[..whole.len() / 3]].concat();
    std::fs::write(&file, torn).unwrap();
    let log = open(directory.path(), MOST).await;
    assert_eq!(log.spooled().unwrap().bytes, whole.len() as u64);
    assert_eq!(append(&log, 2).await, Appended::Duplicate);
    assert_eq!(append(&log, 3).await, Appended::Spooled);
    drain(&log).await;
    assert_eq!(*log.store().arrived.lock().unwrap(), [1, 2, 3]);
    let query = RecordQuery { limit: 9, country: Country::new("FR"), ..RecordQuery::default() };
    let found = log.search(&query).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].path.as_str(), found[0].query.as_deref()), (r"/a\xff", Some("page=1")));
    assert_eq!((found[0].city.as_deref(), found[0].asn), (Some("Lyon"), Some(7)));
}

#[tokio::test]
async fn a_full_spool_refuses_and_keeps_what_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), 600).await;
    log.store().cut(Some(down));
    assert_eq!(append(&log, 1).await, Appended::Spooled);
    let more = incoming(header(7, 2), vec![record(); 9]);
    let error = log.append(&[more]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "store is unavailable: the log can't be reached and the spool is full (600 bytes, log_spool): batches are refused until it is there again"
    );
    log.store().cut(None);
    drain(&log).await;
    assert_eq!(*log.store().arrived.lock().unwrap(), [1]);
}

#[tokio::test]
async fn a_batch_that_the_store_chokes_on_is_put_aside_and_others_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), MOST).await;
    log.store().cut(Some(down));
    for number in [1, 666, 2] {
        append(&log, number).await;
    }
    log.store().cut(None);
    drain(&log).await;
    assert_eq!(*log.store().arrived.lock().unwrap(), [1, 2]);
    assert_eq!(log.spooled().unwrap(), Spooled { refused: 1, ..Spooled::default() });
    assert!(directory.path().join("spool/0000000000000007-666.refused").exists());
}

#[tokio::test]
async fn what_a_store_refuses_for_good_is_not_spooled() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), MOST).await;
    log.store().cut(Some(|| StoreError::Internal("no".to_owned())));
    let error = log.append(&[incoming(header(7, 1), vec![record()])]).await.unwrap_err();
    assert!(matches!(error, StoreError::Internal(_)));
    assert_eq!(log.spooled().unwrap().batches, 0);
}

#[tokio::test]
async fn nobody_is_told_of_an_hour_while_its_records_wait() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path(), MOST).await;
    log.store().cut(Some(down));
    append(&log, 1).await;
    assert!(matches!(log.rollups(1, 1).await, Err(StoreError::Unavailable(_))));
}
