//! Growing old: whole partitions are dropped; what ends within one is deleted by a change of it.

use std::sync::atomic::Ordering;

use ipwarden::privacy::AddressForm;
use jiff::Timestamp;

use super::ClickHouseLog;
use super::mutation::Item;
use super::rollups::{OF_ADDRESS, target_bytes};
use super::rows::{NO_FAMILY, ip_of, octets, read};
use super::schema::PARTITION_HOURS;
use super::stats::refused;
use crate::privacy::Hiding;
use crate::store::aging::{Class, Cutoffs, Due, Room, Step};
use crate::store::view::next_us;
use crate::store::{Result, StoreError};

/// Addresses hidden by one change.
const ADDRESSES: usize = 20_000;
/// Hours of everybody together that are kept.
const KEPT_HOURS: i64 = 400 * 24;
/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// The condition that a record is older than a time: by its request, and at the latest by its
/// arrival.
fn older(before: Timestamp) -> String {
    format!("least(time, received) < {}", next_us(before))
}

/// The condition that a record has an address as it came.
fn bare() -> String {
    format!("form = {} AND family != {NO_FAMILY}", AddressForm::Full as u8)
}

impl ClickHouseLog {
    fn of_class(&self, class: Class) -> String {
        let (sensitive, refused) = (self.is_sensitive(), refused());
        match class {
            Class::All => "1".to_owned(),
            Class::Sensitive => sensitive,
            Class::Refused => format!("NOT ({sensitive}) AND {refused}"),
            Class::Admitted => format!("NOT ({sensitive}) AND NOT ({refused})"),
        }
    }

    pub(super) async fn number(&self, sql: &str) -> Result<u64> {
        let answer = self.http.ask(sql).await?;
        Ok(read(&answer, |row| row.u64())?.first().copied().unwrap_or_default())
    }

    pub(super) async fn hide_records(&self, before: Timestamp, how: &Hiding) -> Result<Step> {
        let due = format!("{} AND {}", bare(), older(before));
        let answer = self
            .http
            .ask(&format!(
                "SELECT ip, count() FROM records WHERE {due} GROUP BY ip ORDER BY ip LIMIT {ADDRESSES}"
            ))
            .await?;
        let items = hidden(&answer, how, |ip| octets(ip).0)?;
        self.hide_items("records", &due, items).await
    }

    pub(super) async fn hide_hours(&self, before: Timestamp, how: &Hiding) -> Result<Step> {
        let until = super::hour_of(before.as_microsecond());
        let due = format!("kind = {OF_ADDRESS} AND hour < {until} AND {}", bare());
        let answer = self
            .http
            .ask(&format!(
                "SELECT ip, uniqExact(hour) FROM hours WHERE {due} GROUP BY ip ORDER BY ip LIMIT {ADDRESSES}"
            ))
            .await?;
        let items = hidden(&answer, how, target_bytes)?;
        let step = self.hide_items("hours", &due, items).await?;
        let seen = format!("hour < {until} AND family != {NO_FAMILY}");
        if self.number(&format!("SELECT count() FROM identities WHERE {seen}")).await? > 0 {
            let nothing = format!("UPDATE ip = '', family = {NO_FAMILY} WHERE {seen}");
            self.change("identities", &nothing).await?;
        }
        Ok(step)
    }

    async fn hide_items(&self, table: &str, due: &str, items: (u64, Vec<Item>)) -> Result<Step> {
        let (done, items) = items;
        let more = items.len() == ADDRESSES;
        let Some((_, _, veil)) = items.first().cloned() else { return Ok(Step::default()) };
        let (form, key) = (veil.form as u8, veil.key_number());
        let also = format!(", form = {form}, key = {key}");
        self.replace(table, "ip", items, &also, due).await?;
        Ok(Step { done, more })
    }

    pub(super) async fn forget_records(&self, class: Class, before: Timestamp) -> Result<Step> {
        let mut done = 0;
        if class == Class::All {
            // Everything in these arrived before.
            let first = next_us(before).div_euclid(PARTITION_HOURS * 3_600_000_000);
            let answer = self
                .http
                .ask(&format!(
                    "SELECT arrival, count() FROM records WHERE arrival < {first} GROUP BY arrival"
                ))
                .await?;
            for (partition, rows) in read(&answer, |row| Ok((row.i32()?, row.u64()?)))? {
                self.drop_partition("records", partition.into()).await?;
                done += rows;
            }
            self.forget_batches(before).await?;
        }
        let due = format!("{} AND {}", self.of_class(class), older(before));
        let count = self.number(&format!("SELECT count() FROM records WHERE {due}")).await?;
        if count > 0 {
            self.change("records", &format!("DELETE WHERE {due}")).await?;
        }
        Ok(Step { done: done + count, more: false })
    }

    async fn drop_partition(&self, table: &str, partition: i64) -> Result<()> {
        let names = self.names();
        let (table, everywhere) = (names.local(table), names.everywhere());
        self.http
            .run(&format!("ALTER TABLE {table}{everywhere} DROP PARTITION {partition}"))
            .await?;
        self.changed().await
    }

    /// Forgets which batches arrived on days that are past; what workers reported that are still
    /// heard of is carried over.
    async fn forget_batches(&self, before: Timestamp) -> Result<()> {
        let first = next_us(before).div_euclid(DAY_US);
        let answer = self
            .http
            .ask(&format!(
                "SELECT DISTINCT toInt32(intDiv(received, {DAY_US})) AS day FROM batches \
                 WHERE received < {} ORDER BY day",
                first * DAY_US
            ))
            .await?;
        for day in read(&answer, |row| row.i32())? {
            let end = (i64::from(day) + 1) * DAY_US;
            // Under a number of its own: again is not twice.
            self.http
                .run(&format!(
                    "INSERT INTO batches (stream, number, first_id, last_id, writer, received, \
                         sent, started, proxy, version, epoch, revision, seen, lost, skipped, stored) \
                     SELECT stream, toUInt64(0), toInt64(-1 - {day}), toInt64(0), any(writer), \
                         toInt64({end}), max(sent), max(started), argMax(proxy, sent), \
                         argMax(version, sent), argMax(epoch, sent), argMax(revision, sent), \
                         max(seen), max(lost), max(skipped), sum(stored) \
                     FROM (SELECT * FROM batches FINAL WHERE received < {end}) \
                     WHERE stream IN (SELECT stream FROM batches WHERE received >= {end}) \
                     GROUP BY stream"
                ))
                .await?;
            self.drop_partition("batches", day.into()).await?;
        }
        Ok(())
    }

    pub(super) async fn forget_from(
        &self,
        class: Class,
        from: i64,
        most: usize,
    ) -> Result<(Step, i64)> {
        // Each step writes parts anew: of a large log it takes a fiftieth.
        let all = self.number("SELECT count() FROM records").await?;
        let most = usize::try_from(all / 50).unwrap_or(most).max(most);
        let answer = self
            .http
            .ask(&format!(
                "SELECT max(id), count() FROM \
                 (SELECT id FROM records WHERE id >= {from} ORDER BY id LIMIT {most})"
            ))
            .await?;
        let window = read(&answer, |row| Ok((row.i64()?, row.u64()?)))?;
        let Some(&(last, seen @ 1..)) = window.first() else {
            return Ok((Step::default(), from));
        };
        let due = format!("id >= {from} AND id <= {last} AND {}", self.of_class(class));
        let done = self.number(&format!("SELECT count() FROM records WHERE {due}")).await?;
        if done > 0 {
            self.change("records", &format!("DELETE WHERE {due}")).await?;
        }
        Ok((Step { done, more: seen as usize == most }, last + 1))
    }

    pub(super) async fn forget_hours(&self, before: Timestamp) -> Result<Step> {
        let until = super::hour_of(before.as_microsecond());
        let due =
            format!("(kind = {OF_ADDRESS} AND hour < {until}) OR hour < {}", until - KEPT_HOURS);
        let rows = self.number(&format!("SELECT count() FROM hours WHERE {due}")).await?;
        if rows > 0 {
            self.change("hours", &format!("DELETE WHERE {due}")).await?;
        }
        let due = format!("hour < {until}");
        let places = self.number(&format!("SELECT count() FROM identities WHERE {due}")).await?;
        if places > 0 {
            self.change("identities", &format!("DELETE WHERE {due}")).await?;
        }
        Ok(Step { done: rows + places, more: false })
    }

    pub(super) async fn count_due(&self, cutoffs: Cutoffs) -> Result<Due> {
        let of = |class: Class, before| format!("{} AND {}", self.of_class(class), older(before));
        let (admitted, refused, sensitive) = (
            of(Class::Admitted, cutoffs.admitted),
            of(Class::Refused, cutoffs.refused),
            of(Class::Sensitive, cutoffs.sensitive),
        );
        let answer = self
            .http
            .ask(&format!(
                "SELECT countIf({admitted}), countIf({refused}), countIf({sensitive}), \
                     countIf({} AND {} AND NOT (({admitted}) OR ({refused}) OR ({sensitive}))) \
                 FROM records",
                bare(),
                older(cutoffs.hide)
            ))
            .await?;
        let counts = read(&answer, |row| Ok((row.u64()?, row.u64()?, row.u64()?, row.u64()?)))?;
        let (admitted, refused, sensitive, hide) = counts.first().copied().unwrap_or_default();
        let last = super::hour_of(cutoffs.last().as_microsecond());
        let until = super::hour_of(cutoffs.hide.as_microsecond());
        let hours = format!(
            "SELECT DISTINCT hour, ip, family, form, key FROM hours WHERE kind = {OF_ADDRESS}"
        );
        let rollups =
            self.number(&format!("SELECT count() FROM ({hours} AND hour < {last})")).await?;
        let hide_rollups = self
            .number(&format!(
                "SELECT count() FROM ({hours} AND hour >= {last} AND hour < {until} AND {})",
                bare()
            ))
            .await?;
        Ok(Due { hide, admitted, refused, sensitive, hide_rollups, rollups })
    }

    /// What the tables take, those parts included that are no longer used.
    pub(super) async fn measure(&self) -> Result<Room> {
        let answer = self
            .http
            .ask(
                "SELECT sum(toUInt64(bytes_on_disk)), sumIf(toUInt64(bytes_on_disk), active) \
                 FROM system.parts WHERE database = currentDatabase()",
            )
            .await?;
        let found = read(&answer, |row| Ok((row.u64()?, row.u64()?)))?;
        let (bytes, used) = found.first().copied().unwrap_or_default();
        Ok(Room { bytes, used })
    }

    /// Whether no change is under way, and the parts as they were before are gone.
    pub(super) async fn is_settled(&self) -> Result<bool> {
        let changes = self
            .number(
                "SELECT count() FROM system.mutations \
                 WHERE database = currentDatabase() AND NOT is_done",
            )
            .await?;
        // Merges leave parts behind all the time; those that matter were there at the last change.
        let changed_at = self.changed_at.load(Ordering::Relaxed);
        let parts = self
            .number(&format!(
                "SELECT count() FROM system.parts WHERE database = currentDatabase() \
                 AND NOT active AND toUInt32(remove_time) <= {changed_at}"
            ))
            .await?;
        Ok(changes == 0 && parts == 0)
    }
}

/// Addresses with counts, and what becomes of each.
fn hidden(
    answer: &[u8],
    how: &Hiding,
    key: impl Fn(std::net::IpAddr) -> [u8; 16],
) -> Result<(u64, Vec<Item>)> {
    let rows = read(answer, |row| Ok((row.bytes()?.to_vec(), row.u64()?)))?;
    let mut done = 0;
    let mut items = Vec::with_capacity(rows.len());
    for (bytes, count) in rows {
        let ip = ip_of(&bytes)
            .ok_or_else(|| StoreError::Internal("an address can't be read".to_owned()))?;
        let kept = how.hide(ip);
        items.push((bytes, key(kept.ip).to_vec(), kept.veil));
        done += count;
    }
    Ok((done, items))
}
