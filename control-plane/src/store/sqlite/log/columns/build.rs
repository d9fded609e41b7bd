//! Which records have no segment yet, and making one.

use std::net::IpAddr;

use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::pseudonym;
use super::segment::{COLUMNS, Column, ROWS, Row, Segment, piece_id};
use crate::store::sqlite::database::{Failure, Work};
use crate::store::stats::slot_of;

/// Numbers of records, both ends included.
pub(super) type Ids = (i64, i64);

/// A segment that was made and is not stored yet.
#[derive(Debug)]
pub(in super::super) struct Built {
    ids: Ids,
    /// Of the records that it was made of: nothing may have changed when it is stored.
    records: i64,
    segment: Segment,
}

/// Makes the segment of the first records that have none; `None` when there is nothing to do.
/// The newest records wait until they fill one.
pub(super) fn build_next(tx: &Transaction<'_>, most: usize) -> Work<Option<Built>> {
    let next: i64 = tx.query_row("SELECT next_record FROM meta", [], |row| row.get(0))?;
    let most = most.min(ROWS) as i64;
    let Some((first, last)) = gaps(tx)?.first().copied() else { return Ok(None) };
    let is_tail = last + 1 == next;
    let last = last.min(first + most - 1);
    if is_tail && last - first + 1 < most {
        return Ok(None);
    }
    let rows = rows(tx, (first, last))?;
    let segment = Segment::build(&rows);
    Ok(Some(Built { ids: (first, last), records: rows.len() as i64, segment }))
}

/// Stores a segment, unless its records changed since it was made.
pub(super) fn write(tx: &Transaction<'_>, built: &Built) -> Work<()> {
    let Built { ids: (first, last), records, segment } = built;
    let taken: Option<i64> = tx
        .prepare_cached("SELECT id FROM segments WHERE first_id <= ?2 AND last_id >= ?1 LIMIT 1")?
        .query_row([first, last], |row| row.get(0))
        .optional()?;
    let now: i64 = tx
        .prepare_cached("SELECT count(*) FROM records WHERE id BETWEEN ?1 AND ?2")?
        .query_row([first, last], |row| row.get(0))?;
    if taken.is_some() || now != *records {
        return Ok(());
    }
    tx.prepare_cached(
        "INSERT INTO segments (first_id, last_id, first_slot, last_slot) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![first, last, segment.first_slot, segment.last_slot])?;
    let id = tx.last_insert_rowid();
    let mut insert = tx.prepare_cached("INSERT INTO segment_pieces (id, data) VALUES (?1, ?2)")?;
    for (number, data) in segment.pieces() {
        insert.execute(params![piece_id(id, number), data])?;
    }
    Ok(())
}

/// Records that no segment holds, in pieces without a segment between them.
pub(super) fn gaps(tx: &Transaction<'_>) -> Work<Vec<Ids>> {
    let (first, last): (Option<i64>, Option<i64>) = tx
        .prepare_cached("SELECT (SELECT min(id) FROM records), (SELECT max(id) FROM records)")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(first), Some(last)) = (first, last) else { return Ok(Vec::new()) };
    let mut at = first;
    let mut statement = tx.prepare_cached(
        "SELECT first_id, last_id FROM segments WHERE last_id >= ?1 AND first_id <= ?2 \
         ORDER BY first_id",
    )?;
    let mut rows = statement.query([at, last])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        let (begins, ends): Ids = (row.get(0)?, row.get(1)?);
        if begins > at {
            out.push((at, begins - 1));
        }
        at = at.max(ends + 1);
    }
    if at <= last {
        out.push((at, last));
    }
    Ok(out)
}

/// The segment of records that have none.
pub(super) fn of_records(tx: &Transaction<'_>, ids: Ids) -> Work<Segment> {
    Ok(Segment::build(&rows(tx, ids)?))
}

fn rows(tx: &Transaction<'_>, (first, last): Ids) -> Work<Vec<Row>> {
    // A pseudonym is no address: it is in no list of them, and no question for one finds it. It
    // has a column of its own.
    // Who opted out is not counted: such a record stands for no requests.
    let mut statement = tx.prepare_cached(
        "SELECT time, verdict, status, method, host, proxy, rule, country, asn, path, \
         user_agent, CASE form WHEN 2 THEN NULL ELSE ip END, \
         CASE opted_out WHEN 0 THEN weight ELSE 0 END, \
         CASE form WHEN 2 THEN ip END, form, key \
         FROM records NOT INDEXED WHERE id BETWEEN ?1 AND ?2",
    )?;
    let mut found = statement.query([first, last])?;
    let mut out = Vec::new();
    while let Some(row) = found.next()? {
        let mut values = [0; COLUMNS];
        for (column, value) in values.iter_mut().enumerate() {
            *value = match row.get_ref(column)? {
                ValueRef::Null => 0,
                ValueRef::Integer(number) => u128::from(number.cast_unsigned()),
                ValueRef::Text(text) => country_value(text),
                ValueRef::Blob(octets) => address_value(octets)
                    .ok_or_else(|| Failure::damaged("a record has no valid address"))?,
                ValueRef::Real(_) => return Err(Failure::damaged("a record holds a fraction")),
            };
        }
        let hidden = &mut values[Column::Pseudonym as usize];
        if *hidden != 0 {
            *hidden = pseudonym::value(*hidden, row.get(COLUMNS)?);
        }
        let time = i64::try_from(values[Column::Slot as usize]).unwrap_or_default();
        values[Column::Slot as usize] = u128::from(slot_of(time).max(0).cast_unsigned());
        out.push(values);
    }
    Ok(out)
}

/// A country as a number.
pub(super) fn country_value(code: &[u8]) -> u128 {
    match *code {
        [a, b] => u128::from(u16::from_be_bytes([a, b])),
        _ => 0,
    }
}

/// An address as a number; both families apart.
pub(super) fn address_of(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn address_value(octets: &[u8]) -> Option<u128> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Some(address_of(IpAddr::from(v4)));
    }
    <[u8; 16]>::try_from(octets).ok().map(|v6| address_of(IpAddr::from(v6)))
}
