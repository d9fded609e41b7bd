//! The log on a ClickHouse server, over its HTTP interface.
//!
//! | module | owns |
//! |---|---|
//! | `url` | where it is |
//! | `client`, `rows` | statements and answers |
//! | `schema` | the tables, by what the server can do |
//! | `append` | storing batches, each once; numbers of records |
//! | `search` | finding records |
//! | `stats` | what dashboards count |
//! | `rollups` | what each address did in each hour |
//! | `aging`, `erase` | what becomes of it: hidden, deleted, forgotten |
//! | `mutation` | changes of what is stored, which ClickHouse makes in the background |
//!
//! Nothing that a client sent is ever part of a statement: texts go in as hexadecimal numbers,
//! addresses that a change is about through a table.

mod aging;
mod append;
mod client;
mod erase;
mod mutation;
mod rollups;
mod rows;
mod schema;
mod search;
mod stats;
#[cfg(test)]
mod tests;
mod url;

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::{Mutex, OnceCell, Semaphore};

use self::append::State;
use self::client::Http;
use self::schema::{Names, Server};
pub(crate) use self::url::decoded;
pub use self::url::{ClickHouseUrl, EXPECTED};
use crate::model::StoredRecord;
use crate::privacy::{Hiding, Kept, Veil};
use crate::store::aging::{
    AgingLog, Class, CountryHour, Cutoffs, Due, Erased, Room, Step, SubjectHour,
};
use crate::store::stats::{Stats, StatsQuery};
use crate::store::{
    Appended, HourRollups, IncomingBatch, LogStore, PastHour, RecordQuery, Result, StreamTotals,
};

/// Questions of dashboards answered at once.
const QUESTIONS: usize = 4;
/// From the beginning of an insert to that of the next.
const PACE: Duration = Duration::from_millis(250);

/// A log on a ClickHouse server.
#[derive(Debug)]
pub struct ClickHouseLog {
    http: Http,
    /// Paths whose visits are counted.
    sensitive: Vec<String>,
    /// Known once the tables are there.
    server: OnceCell<Server>,
    /// Names this process's inserts.
    instance: String,
    /// From the beginning of an insert to that of the next.
    pace: Duration,
    /// Records that one statement rolls up.
    roll_up_records: u64,
    /// Held while something is stored or changed.
    state: Mutex<State>,
    /// Held while a dashboard's question is answered.
    questions: Semaphore,
    /// Parts that a change under way has still to write.
    parts_to_change: AtomicU64,
    /// When the last change was done, by the server's clock: Unix seconds.
    changed_at: AtomicI64,
}

impl ClickHouseLog {
    /// A log at a URL; nothing is asked yet. Rollups count requests of the paths in `sensitive`
    /// and below.
    ///
    /// # Errors
    /// When there can be no HTTP client, or the system gives no random numbers.
    pub fn new(url: ClickHouseUrl, sensitive: Vec<String>) -> Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| {
            crate::store::StoreError::Internal(format!("no random numbers: {error}"))
        })?;
        Ok(Self {
            http: Http::new(url)?,
            sensitive,
            server: OnceCell::new(),
            instance: format!("{:016x}", u64::from_le_bytes(random)),
            pace: PACE,
            roll_up_records: rollups::ROLL_UP_RECORDS,
            state: Mutex::default(),
            questions: Semaphore::new(QUESTIONS),
            parts_to_change: AtomicU64::new(0),
            changed_at: AtomicI64::new(0),
        })
    }

    /// Makes the tables where they are missing.
    ///
    /// # Errors
    /// [`crate::store::StoreError::Unavailable`] when the server can't be reached;
    /// [`crate::store::StoreError::Unusable`] when it refuses us or has tables of a later version.
    pub async fn prepare(&self) -> Result<()> {
        let server = self.server().await?;
        if !server.is_durable() {
            tracing::warn!(
                "{}: this version of ClickHouse does not wait for the disk when it stores: a power cut may take the last records; use 20.10 or later",
                self.http.url()
            );
        }
        Ok(())
    }

    async fn server(&self) -> Result<Server> {
        self.server.get_or_try_init(|| schema::prepare(&self.http)).await.copied()
    }

    /// What is stored is rolled up: records may change now.
    async fn rolled_up(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        self.settle_doubts(&mut state).await?;
        self.roll_up(&mut state).await
    }

    fn names(&self) -> Names<'_> {
        Names::new(self.http.url().cluster.as_deref())
    }
}

#[async_trait]
impl LogStore for ClickHouseLog {
    async fn append(&self, batches: &[IncomingBatch<'_>]) -> Result<Vec<Appended>> {
        let mut state = self.state.lock().await;
        self.append_all(&mut state, batches).await
    }

    async fn search(&self, query: &RecordQuery) -> Result<Vec<StoredRecord>> {
        self.server().await?;
        self.newest(query).await
    }

    async fn scan(
        &self,
        query: &RecordQuery,
        visit: &mut (dyn for<'r> FnMut(StoredRecord) -> ControlFlow<()> + Send),
    ) -> Result<()> {
        self.server().await?;
        self.oldest(query, visit).await
    }

    async fn count(&self, query: &RecordQuery) -> Result<u64> {
        self.server().await?;
        self.sum_of_weights(query).await
    }

    async fn streams(&self) -> Result<Vec<StreamTotals>> {
        self.server().await?;
        self.all_streams().await
    }

    async fn rollups(&self, hour: i64, least: u64) -> Result<HourRollups> {
        self.server().await?;
        self.rollups_of(hour, least).await
    }

    async fn past_hours(&self, hours: Vec<i64>, targets: Vec<Vec<Kept>>) -> Result<Vec<PastHour>> {
        self.server().await?;
        self.past(&hours, &targets).await
    }

    async fn stats(&self, query: &StatsQuery) -> Result<Stats> {
        self.server().await?;
        // Questions of dashboards never take the whole server.
        let _turn = self.questions.acquire().await;
        self.answer(query).await
    }

    async fn tidy(&self) -> Result<bool> {
        self.server().await?;
        let mut state = self.state.lock().await;
        self.roll_up_many(&mut state).await?;
        Ok(false)
    }

    async fn holds(&self, ip: IpAddr) -> Result<bool> {
        self.server().await?;
        self.holds_address(ip).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn location(&self) -> String {
        self.http.url().to_string()
    }

    async fn bytes(&self) -> Result<Option<u64>> {
        Ok(Some(self.room().await?.bytes))
    }

    fn parts_to_change(&self) -> u64 {
        self.parts_to_change.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl AgingLog for ClickHouseLog {
    async fn country_hours(&self, first: i64, last: i64) -> Result<Vec<CountryHour>> {
        self.server().await?;
        self.countries(first, last).await
    }

    async fn hide(&self, before: Timestamp, how: &Hiding, _most: usize) -> Result<Step> {
        self.rolled_up().await?;
        self.hide_records(before, how).await
    }

    async fn forget(&self, class: Class, before: Timestamp, _most: usize) -> Result<Step> {
        self.rolled_up().await?;
        self.forget_records(class, before).await
    }

    async fn forget_oldest(&self, class: Class, from: i64, most: usize) -> Result<(Step, i64)> {
        self.rolled_up().await?;
        self.forget_from(class, from, most).await
    }

    async fn hide_rollups(&self, before: Timestamp, how: &Hiding, _most: usize) -> Result<Step> {
        self.rolled_up().await?;
        self.hide_hours(before, how).await
    }

    async fn forget_rollups(&self, before: Timestamp, _most: usize) -> Result<Step> {
        self.rolled_up().await?;
        self.forget_hours(before).await
    }

    async fn forget_texts(&self, _before: Timestamp) -> Result<u64> {
        // Texts are kept with their records, and go with them.
        Ok(0)
    }

    async fn due(&self, cutoffs: Cutoffs) -> Result<Due> {
        self.rolled_up().await?;
        self.count_due(cutoffs).await
    }

    async fn room(&self) -> Result<Room> {
        self.server().await?;
        self.measure().await
    }

    async fn reclaim(&self) -> Result<Step> {
        // Deleted rows take no room: their parts are written anew.
        Ok(Step::default())
    }

    async fn rewrite(&self) -> Result<()> {
        Ok(())
    }

    async fn settle(&self) -> Result<bool> {
        self.server().await?;
        self.is_settled().await
    }

    async fn held(&self, names: Vec<Kept>) -> Result<Vec<(Veil, u64)>> {
        self.server().await?;
        self.count_held(&names).await
    }

    async fn subject_hours(&self, names: Vec<Kept>, most: usize) -> Result<Vec<SubjectHour>> {
        self.server().await?;
        self.hours_of(&names, most).await
    }

    async fn erase(&self, names: Vec<Kept>, with: String) -> Result<Erased> {
        self.rolled_up().await?;
        self.erase_all(&names, &with).await
    }
}

/// The hour that a time in microseconds belongs to, since 1970.
fn hour_of(us: i64) -> i64 {
    us.div_euclid(3_600_000_000)
}
