//! Changes of what is stored. ClickHouse makes them in the background, part by part; one that
//! has begun goes on whatever becomes of us.
//!
//! Servers keep the text of changes. So a text names no address: what a change is about is in a
//! table that is emptied afterwards.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::ClickHouseLog;
use super::rows::{Writer, literal, read};
use crate::privacy::Veil;
use crate::store::{Result, StoreError};

/// A change is waited for so long; then it goes on by itself.
const PATIENCE: Duration = Duration::from_secs(900);
/// From one look at it to the next: at first, and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// How often a part may fail before a change is given up on.
const FAILURES: u32 = 20;

/// What a change is about: what is there, what comes in its place, what that is.
pub(super) type Item = (Vec<u8>, Vec<u8>, Veil);

impl ClickHouseLog {
    /// Puts what the next change is about into its table. One change at a time.
    pub(super) async fn job(&self, items: Vec<Item>) -> Result<()> {
        self.wait_for_changes().await?;
        self.end_job().await?;
        let mut rows = Writer::default();
        for (a, b, veil) in items {
            rows.u64(0).bytes(&a).bytes(&b).u8(veil.form as u8).u32(veil.key_number());
        }
        self.http.insert("jobs (job, a, b, form, key)", rows.0, None).await
    }

    /// Puts other values into a column, in rows that meet a condition; says nothing of them in
    /// its text where the server can do with that.
    pub(super) async fn replace(
        &self,
        table: &str,
        column: &str,
        items: Vec<Item>,
        also: &str,
        condition: &str,
    ) -> Result<()> {
        let list = |side: fn(&Item) -> &[u8]| {
            let all: Vec<String> = items.iter().map(|item| literal(side(item))).collect();
            format!("[{}]", all.join(", "))
        };
        let from_table = |side: &str| {
            format!("(SELECT groupArray({side}) FROM (SELECT a, b FROM jobs ORDER BY a))")
        };
        let (from, to) = match self.server().await?.reads_in_changes() {
            true => (from_table("a"), from_table("b")),
            false => (list(|item| &item.0), list(|item| &item.1)),
        };
        self.job(items).await?;
        let value = format!("transform(toString({column}), {from}, {to}, toString({column}))");
        let which = format!("{column} IN (SELECT a FROM jobs)");
        let what = format!("UPDATE {column} = {value}{also} WHERE {condition} AND {which}");
        self.change(table, &what).await?;
        if !self.server().await?.reads_in_changes() {
            // Of finished ones the last is kept: nothing comes after it.
            self.change(table, "DELETE WHERE 0").await?;
        }
        self.end_job().await
    }

    /// Nothing is left of what the last change was about.
    pub(super) async fn end_job(&self) -> Result<()> {
        let names = self.names();
        let sql = format!("TRUNCATE TABLE {}{}", names.local("jobs"), names.everywhere());
        self.http.run(&sql).await
    }

    /// Changes a table, and waits until that is done.
    pub(super) async fn change(&self, table: &str, what: &str) -> Result<()> {
        self.wait_for_changes().await?;
        let names = self.names();
        let (table, everywhere) = (names.local(table), names.everywhere());
        self.http.run(&format!("ALTER TABLE {table}{everywhere} {what}")).await?;
        self.wait_for_changes().await?;
        self.changed().await
    }

    /// Notes that what there was before is to go from the disk, too.
    pub(super) async fn changed(&self) -> Result<()> {
        let now = self.http.ask("SELECT toInt64(toUInt32(now()))").await?;
        let now = read(&now, |row| row.i64())?.first().copied().unwrap_or_default();
        self.changed_at.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until no change is under way.
    pub(super) async fn wait_for_changes(&self) -> Result<()> {
        let begun = Instant::now();
        let mut pause = LOOK.0;
        let mut failed = 0;
        let server = self.server().await?;
        let why = if server.is_durable() { "any(latest_fail_reason)" } else { "''" };
        let sql = format!(
            "SELECT count(), sum(toInt64(parts_to_do)), {why} FROM system.mutations \
             WHERE database = currentDatabase() AND NOT is_done"
        );
        loop {
            let found = self.http.ask(&sql).await?;
            let found = read(&found, |row| Ok((row.u64()?, row.i64()?, row.text()?)))?;
            let (count, parts, why) = found.into_iter().next().unwrap_or_default();
            self.parts_to_change.store(parts.unsigned_abs(), Ordering::Relaxed);
            if count == 0 {
                return Ok(());
            }
            failed = if why.is_empty() { 0 } else { failed + 1 };
            if failed > FAILURES {
                let why: String = why.chars().take(200).collect();
                return Err(StoreError::Internal(format!(
                    "{}: a change of the tables fails, look at system.mutations: {why}",
                    self.http.url()
                )));
            }
            if begun.elapsed() > PATIENCE {
                return Err(StoreError::Unavailable(format!(
                    "{}: a change of the tables takes long, {parts} parts are left: it goes on by itself",
                    self.http.url()
                )));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
        }
    }
}
