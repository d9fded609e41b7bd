//! Erasing an address: its records, its rollups, where identities were seen, and what others'
//! texts say of it.

use std::net::IpAddr;

use hashbrown::HashSet;
use ipwarden::address::fold;
use rusqlite::types::Value;
use rusqlite::{Transaction, params};

use super::aging::{forget_empty_hours, octets};
use super::append::Cache;
use super::plan::SEGMENT_BITS;
use super::rollups::identity_places;
use crate::privacy::mention::{mentions, replaced};
use crate::privacy::{Kept, Veil};
use crate::store::aging::Step;
use crate::store::rollup::key_of;
use crate::store::sqlite::database::{Failure, Work};

/// Deletes records of an address under all its names, at most `most`; notes the texts that they
/// used.
pub(super) fn records(
    tx: &Transaction<'_>,
    names: &[Kept],
    most: usize,
    texts: &mut HashSet<i64>,
) -> Work<Step> {
    let bounds: (Option<i64>, Option<i64>) = tx
        .prepare_cached("SELECT (SELECT min(id) FROM records), (SELECT max(id) FROM records)")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(first), Some(last)) = bounds else { return Ok(Step::default()) };
    let mut find = tx.prepare_cached(
        "SELECT id, method, host, path, user_agent, proxy, rule, city \
         FROM records INDEXED BY records_ip \
         WHERE (id >> 15) = ?1 AND ip = ?2 AND form = ?3 AND key = ?4 LIMIT ?5",
    )?;
    let mut delete = tx.prepare_cached("DELETE FROM records WHERE id = ?1")?;
    let mut done = 0;
    for segment in first >> SEGMENT_BITS..=last >> SEGMENT_BITS {
        for Kept { ip, veil } in names {
            let left = most - done;
            let mut ids = Vec::new();
            let left = i64::try_from(left).unwrap_or(i64::MAX);
            let octets = octets(*ip);
            let mut rows =
                find.query(params![segment, octets, veil.form as u8, veil.key_number(), left])?;
            while let Some(row) = rows.next()? {
                ids.push(row.get::<_, i64>(0)?);
                for column in 1..8 {
                    texts.extend(row.get::<_, Option<i64>>(column)?);
                }
            }
            for id in &ids {
                delete.execute([id])?;
            }
            done += ids.len();
            if done >= most {
                return Ok(Step { done: done as u64, more: true });
            }
        }
    }
    forget_empty_hours(tx)?;
    Ok(Step { done: done as u64, more: false })
}

/// Deletes the hours of an address, and its stays from those of identities.
pub(super) fn rollups(tx: &Transaction<'_>, names: &[Kept]) -> Work<u64> {
    let mut done = 0;
    // Few hours, each searched by its key.
    let mut delete = tx.prepare_cached(
        "DELETE FROM rollups WHERE form = ?1 AND key = ?2 AND address = ?3 \
         AND hour BETWEEN (SELECT min(hour) FROM rollups) AND (SELECT max(hour) FROM rollups)",
    )?;
    for Kept { ip, veil } in names {
        let (key, length) = key_of(*ip);
        let address = key.get(..length).unwrap_or_default();
        done += delete.execute(params![veil.form as u8, veil.key_number(), address])? as u64;
    }
    let mut select = tx
        .prepare_cached("SELECT hour, identity, places FROM identity_hours WHERE places <> '[]'")?;
    let rows: Vec<(i64, String, String)> = select
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut update = tx.prepare_cached(
        "UPDATE identity_hours SET places = ?3 WHERE hour = ?1 AND identity = ?2",
    )?;
    let subject = |ip: IpAddr| names.iter().any(|name| name.ip == fold(ip));
    for (hour, identity, json) in rows {
        let mut places = identity_places(&json)?;
        let before = places.len();
        places.retain(|place| !subject(place.ip));
        if places.len() < before {
            let json = serde_json::to_string(&places)
                .map_err(|_| Failure::damaged("an identity's places can't be written"))?;
            update.execute(params![hour, identity, json])?;
            done += 1;
        }
    }
    Ok(done)
}

/// Interned texts, and numbers of records whose own texts, mention an address.
pub(super) fn mentioning(tx: &Transaction<'_>, ip: IpAddr) -> Work<(Vec<i64>, Vec<i64>)> {
    let mut texts = Vec::new();
    let mut statement = tx.prepare_cached("SELECT id, text FROM strings")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text = row.get_ref(1)?.as_str().unwrap_or_default();
        if mentions(text, ip) {
            texts.push(row.get(0)?);
        }
    }
    let mut records = Vec::new();
    let mut statement = tx.prepare_cached(
        "SELECT id, query, request_id FROM records \
         WHERE query IS NOT NULL OR typeof(request_id) = 'text'",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let told = |column| -> Work<bool> {
            Ok(row.get_ref(column)?.as_str().is_ok_and(|text| mentions(text, ip)))
        };
        if told(1)? || told(2)? {
            records.push(row.get(0)?);
        }
    }
    Ok((texts, records))
}

/// Takes an address out of some interned texts and records: `with` comes in its place.
pub(super) fn redact(
    tx: &Transaction<'_>,
    cache: &mut Cache,
    ip: IpAddr,
    with: &str,
    texts: &[i64],
    records: &[i64],
) -> Work<u64> {
    let mut done = 0;
    for id in texts {
        let text: String = tx
            .prepare_cached("SELECT text FROM strings WHERE id = ?1")?
            .query_row([id], |row| row.get(0))?;
        let Some(mut text) = replaced(&text, ip, with) else { continue };
        // What is left may be another text already: both stay, told apart by a number.
        let taken = |text: &str| -> Work<bool> {
            Ok(tx
                .prepare_cached("SELECT count(*) FROM strings WHERE text = ?1")?
                .query_row([text], |row| row.get::<_, i64>(0))?
                > 0)
        };
        if taken(&text)? {
            text = format!("{text}#{id}");
        }
        done += tx
            .prepare_cached("UPDATE strings SET text = ?2 WHERE id = ?1")?
            .execute(params![id, text])? as u64;
    }
    for id in records {
        let (query, request_id): (Value, Value) = tx
            .prepare_cached("SELECT query, request_id FROM records WHERE id = ?1")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let without = |value: Value| match value {
            Value::Text(text) => Value::Text(replaced(&text, ip, with).unwrap_or(text)),
            other => other,
        };
        done += tx
            .prepare_cached("UPDATE records SET query = ?2, request_id = ?3 WHERE id = ?1")?
            .execute(params![id, without(query), without(request_id)])? as u64;
    }
    if !texts.is_empty() {
        cache.forget_strings();
    }
    // Sensitive paths of rollups, and identities that are addresses themselves.
    let identities: Vec<(i64, String)> = tx
        .prepare_cached("SELECT hour, identity FROM identity_hours")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (hour, identity) in identities {
        if let Some(text) = replaced(&identity, ip, with) {
            done += tx
                .prepare_cached(
                    "UPDATE OR REPLACE identity_hours SET identity = ?3 \
                     WHERE hour = ?1 AND identity = ?2",
                )?
                .execute(params![hour, identity, text])? as u64;
        }
    }
    Ok(done)
}

/// How many records there are of an address, by what it is in them.
pub(super) fn held(tx: &Transaction<'_>, names: &[Kept]) -> Work<Vec<(Veil, u64)>> {
    let bounds: (Option<i64>, Option<i64>) = tx
        .prepare_cached("SELECT (SELECT min(id) FROM records), (SELECT max(id) FROM records)")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(first), Some(last)) = bounds else { return Ok(Vec::new()) };
    let mut count = tx.prepare_cached(
        "SELECT count(*) FROM records INDEXED BY records_ip \
         WHERE (id >> 15) = ?1 AND ip = ?2 AND form = ?3 AND key = ?4",
    )?;
    let mut out = Vec::new();
    for Kept { ip, veil } in names {
        let octets = octets(*ip);
        let mut sum = 0;
        for segment in first >> SEGMENT_BITS..=last >> SEGMENT_BITS {
            let found: i64 = count
                .query_row(params![segment, octets, veil.form as u8, veil.key_number()], |row| {
                    row.get(0)
                })?;
            sum += found.unsigned_abs();
        }
        if sum > 0 {
            out.push((*veil, sum));
        }
    }
    Ok(out)
}
