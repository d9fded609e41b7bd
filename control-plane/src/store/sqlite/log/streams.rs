//! What workers report: totals, versions, clocks, and which of their batches arrived.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::numbers::Numbers;
use super::prepared::Prepared;
use crate::model::Revision;
use crate::store::StreamTotals;
use crate::store::sqlite::database::{Failure, Work};
use crate::store::text::display_bytes;
use crate::store::view::{clamped, timestamp_of_us};

/// A worker as far as storing its batches goes.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub numbers: Numbers,
}

/// What is known of a worker; nothing for a new one.
pub(super) fn load(tx: &Transaction<'_>, stream: u64) -> Work<Stream> {
    let mut statement =
        tx.prepare_cached("SELECT watermark, ahead FROM streams WHERE stream = ?1")?;
    let found: Option<(i64, Vec<u8>)> = statement
        .query_row([stream.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((watermark, ahead)) = found else { return Ok(Stream::default()) };
    let numbers = Numbers::decode(watermark.cast_unsigned(), &ahead)
        .map_err(|_| Failure::damaged("a worker's batch numbers can't be read"))?;
    Ok(Stream { numbers })
}

/// Notes what a batch reports, whatever became of its records. Totals only grow, so the
/// larger of two is the later; the rest is taken from the message that was sent last.
pub(super) fn save(
    tx: &Transaction<'_>,
    batch: &Prepared,
    stream: &Stream,
    stored: i64,
) -> Work<()> {
    let sent_us = timestamp_of_us(batch.sent_us).as_microsecond();
    tx.prepare_cached(
        "INSERT INTO streams (stream, proxy, version, started_at, sent_at, last_seen, \
             clock_offset_ms, epoch, revision, seen, lost, skipped, stored, watermark, ahead) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) \
         ON CONFLICT (stream) DO UPDATE SET \
             proxy = iif(excluded.sent_at >= sent_at, excluded.proxy, proxy), \
             version = iif(excluded.sent_at >= sent_at, excluded.version, version), \
             clock_offset_ms = \
                 iif(excluded.sent_at >= sent_at, excluded.clock_offset_ms, clock_offset_ms), \
             epoch = iif(excluded.sent_at >= sent_at, excluded.epoch, epoch), \
             revision = iif(excluded.sent_at >= sent_at, excluded.revision, revision), \
             sent_at = max(sent_at, excluded.sent_at), \
             last_seen = max(last_seen, excluded.last_seen), \
             seen = max(seen, excluded.seen), \
             lost = max(lost, excluded.lost), \
             skipped = max(skipped, excluded.skipped), \
             stored = stored + excluded.stored, \
             watermark = excluded.watermark, \
             ahead = excluded.ahead",
    )?
    .execute(params![
        batch.stream.cast_signed(),
        display_bytes(batch.bytes(batch.proxy)),
        display_bytes(batch.bytes(batch.version)),
        timestamp_of_us(batch.started_us).as_microsecond(),
        sent_us,
        batch.received_us,
        (sent_us - batch.received_us) / 1_000,
        batch.applied.epoch.cast_signed(),
        batch.applied.number.cast_signed(),
        clamped(batch.seen),
        clamped(batch.lost),
        clamped(batch.skipped),
        stored,
        stream.numbers.watermark().cast_signed(),
        stream.numbers.encode_ahead(),
    ])?;
    Ok(())
}

/// All workers, newest heard of first.
pub(super) fn all(tx: &Transaction<'_>) -> Work<Vec<StreamTotals>> {
    let mut statement = tx.prepare_cached(
        "SELECT stream, proxy, version, started_at, last_seen, clock_offset_ms, epoch, revision, \
             seen, lost, skipped, stored \
         FROM streams ORDER BY last_seen DESC, stream",
    )?;
    let mut rows = statement.query([])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(totals(row)?);
    }
    Ok(out)
}

fn totals(row: &Row<'_>) -> Work<StreamTotals> {
    let unsigned = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let time = |column| -> Work<Timestamp> { super::timestamp(row.get(column)?) };
    Ok(StreamTotals {
        stream: unsigned(0)?,
        proxy: row.get(1)?,
        version: row.get(2)?,
        started_at: time(3)?,
        last_seen: time(4)?,
        clock_offset_ms: row.get(5)?,
        applied: Revision { epoch: unsigned(6)?, number: unsigned(7)? },
        seen: unsigned(8)?,
        lost: unsigned(9)?,
        skipped: unsigned(10)?,
        stored: unsigned(11)?,
    })
}
