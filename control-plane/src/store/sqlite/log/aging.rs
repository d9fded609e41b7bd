//! Growing old: addresses are hidden, records and rollups are deleted, room is given back.
//!
//! Numbers follow arrival, and each hour knows between which numbers its records lie. For each
//! kind of work an hour notes up to which number it was looked at, in the transaction that does
//! the work: a run that was killed goes on where it was, and a late record is still found.
//! A step looks at a bounded number of records, so that batches wait for one step at most.

use hashbrown::{HashMap, HashSet};
use jiff::Timestamp;
use rusqlite::{CachedStatement, OptionalExtension as _, Transaction, params};

use super::append::Cache;
use super::hour_of;
use super::rollups::{decode_state, ip_of};
use crate::privacy::Hiding;
use crate::store::aging::{Class, Cutoffs, Due, Room, Step};
use crate::store::rollup::{is_sensitive, key_of, target_of_key};
use crate::store::sqlite::database::{Failure, Work};
use crate::store::view::clamped;
use ipwarden::record::Verdict;

/// One record on its way out.
struct Aged {
    id: i64,
    ip: Option<Vec<u8>>,
    form: u8,
    verdict: u8,
    path: i64,
}

/// The column of `hours` in which a kind of work notes how far it is.
fn column(class: Class) -> &'static str {
    match class {
        Class::Admitted => "admitted",
        Class::Refused => "refused",
        Class::Sensitive => "sensitive",
        Class::All => "every",
    }
}

/// Hides addresses of records older than `before`: looks at about `most`.
pub(super) fn hide(
    tx: &Transaction<'_>,
    before: Timestamp,
    how: &Hiding,
    most: usize,
) -> Work<Step> {
    let mut update =
        tx.prepare_cached("UPDATE records SET ip = ?2, form = ?3, key = ?4 WHERE id = ?1")?;
    walk(tx, "hidden", before, most, &mut |aged| {
        let Some(ip) = aged.ip.as_deref().filter(|_| aged.form == 0).and_then(ip_of) else {
            return Ok(false);
        };
        let kept = how.hide(ip);
        let octets = octets(kept.ip);
        update.execute(params![aged.id, octets, kept.veil.form as u8, kept.veil.key_number()])?;
        Ok(true)
    })
}

/// Deletes records of a class older than `before`: looks at about `most`.
pub(super) fn forget(
    tx: &Transaction<'_>,
    class: Class,
    before: Timestamp,
    sensitive: &[String],
    most: usize,
) -> Work<Step> {
    let mut delete = tx.prepare_cached("DELETE FROM records WHERE id = ?1")?;
    let mut classes = Classes::new(tx, sensitive)?;
    let step = walk(tx, column(class), before, most, &mut |aged| {
        if class != Class::All && classes.of(aged.verdict, aged.path)? != class {
            return Ok(false);
        }
        delete.execute([aged.id])?;
        Ok(true)
    })?;
    if !step.more {
        forget_hours(tx, class, before)?;
    }
    Ok(step)
}

/// Deletes the oldest records of a class, whatever their age, from a number on. Returns the
/// number to go on from.
pub(super) fn forget_oldest(
    tx: &Transaction<'_>,
    class: Class,
    from: i64,
    sensitive: &[String],
    most: usize,
) -> Work<(Step, i64)> {
    let mut delete = tx.prepare_cached("DELETE FROM records WHERE id = ?1")?;
    let mut classes = Classes::new(tx, sensitive)?;
    let mut select = tx.prepare_cached(
        "SELECT id, verdict, path FROM records WHERE id >= ?1 ORDER BY id LIMIT ?2",
    )?;
    let rows: Vec<(i64, u8, i64)> = select
        .query_map(params![from, clamped(most as u64)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut step = Step { done: 0, more: rows.len() == most };
    let mut next = from;
    for (id, verdict, path) in rows {
        next = id + 1;
        if class == Class::All || classes.of(verdict, path)? == class {
            delete.execute([id])?;
            step.done += 1;
        }
    }
    forget_empty_hours(tx)?;
    Ok((step, next))
}

/// Goes on with one kind of work, hour by hour.
fn walk(
    tx: &Transaction<'_>,
    column: &'static str,
    before: Timestamp,
    most: usize,
    work: &mut dyn FnMut(&Aged) -> Work<bool>,
) -> Work<Step> {
    let before_us = before.as_microsecond();
    let cutoff_hour = hour_of(before_us);
    // What arrived in earlier hours of our own clock is old whatever its time says.
    let arrived: i64 = tx
        .prepare_cached("SELECT coalesce(max(last_id), 0) FROM arrivals WHERE hour < ?1")?
        .query_row([cutoff_hour], |row| row.get(0))?;
    let next: i64 = tx.query_row("SELECT next_record FROM meta", [], |row| row.get(0))?;
    let mut find = tx.prepare_cached(&format!(
        "SELECT hour, max(first_id, {column}), last_id FROM hours \
         WHERE {column} <= last_id AND (hour <= ?1 OR first_id <= ?2) ORDER BY hour"
    ))?;
    let hours: Vec<(i64, i64, i64)> = find
        .query_map([cutoff_hour, arrived], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut note = tx.prepare_cached(&format!("UPDATE hours SET {column} = ?2 WHERE hour = ?1"))?;
    let mut select = tx.prepare_cached(
        "SELECT id, time, ip, form, verdict, path FROM records WHERE id BETWEEN ?1 AND ?2 \
         ORDER BY id LIMIT ?3",
    )?;
    let mut step = Step::default();
    let mut left = most;
    for (hour, mut mark, last) in hours {
        // Of an hour that is wholly past every record is old; of another one only some.
        let past = hour < cutoff_hour;
        let last = if hour > cutoff_hour { last.min(arrived) } else { last };
        loop {
            let rows = window(&mut select, mark, last, left)?;
            let through = rows.len() < left;
            let (mut progress, mut young) = (mark, false);
            for (time, aged) in &rows {
                let mine = hour_of(*time) == hour;
                if mine && (past || *time < before_us || aged.id <= arrived) {
                    step.done += u64::from(work(aged)?);
                } else if mine {
                    young = true;
                }
                if !young {
                    progress = aged.id + 1;
                }
            }
            if through && !young {
                progress = if past { next } else { last + 1 };
            }
            if progress <= mark {
                break;
            }
            note.execute([hour, progress])?;
            // Only what gets on is charged: a step that says there is more got on.
            left = left.saturating_sub(rows.len());
            if left == 0 {
                step.more = true;
                return Ok(step);
            }
            if through {
                break;
            }
            mark = progress;
        }
    }
    Ok(step)
}

fn window(
    select: &mut CachedStatement<'_>,
    first: i64,
    last: i64,
    most: usize,
) -> Work<Vec<(i64, Aged)>> {
    let rows = select.query_map(params![first, last, clamped(most as u64)], |row| {
        let aged = Aged {
            id: row.get(0)?,
            ip: row.get(2)?,
            form: row.get(3)?,
            verdict: row.get(4)?,
            path: row.get(5)?,
        };
        Ok((row.get(1)?, aged))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Which class records are of, path by path.
struct Classes<'t> {
    paths: CachedStatement<'t>,
    known: HashMap<i64, bool>,
    sensitive: &'t [String],
}

impl<'t> Classes<'t> {
    fn new(tx: &'t Transaction<'_>, sensitive: &'t [String]) -> Work<Self> {
        let paths = tx.prepare_cached("SELECT text FROM strings WHERE id = ?1")?;
        Ok(Self { paths, known: HashMap::new(), sensitive })
    }

    fn of(&mut self, verdict: u8, path: i64) -> Work<Class> {
        if !self.sensitive.is_empty() && self.is_sensitive(path)? {
            return Ok(Class::Sensitive);
        }
        let refused = Verdict::from_code(verdict).is_some_and(Verdict::is_refusal);
        Ok(if refused { Class::Refused } else { Class::Admitted })
    }

    fn is_sensitive(&mut self, path: i64) -> Work<bool> {
        if let Some(known) = self.known.get(&path) {
            return Ok(*known);
        }
        let text: Option<String> = self.paths.query_row([path], |row| row.get(0)).optional()?;
        let found = text.is_some_and(|text| is_sensitive(self.sensitive, text.as_bytes()));
        self.known.insert(path, found);
        Ok(found)
    }
}

/// Forgets what is known of hours without records.
fn forget_hours(tx: &Transaction<'_>, class: Class, before: Timestamp) -> Work<()> {
    if class == Class::All {
        tx.prepare_cached("DELETE FROM hours WHERE hour < ?1 AND every > last_id")?
            .execute([hour_of(before.as_microsecond())])?;
    }
    forget_empty_hours(tx)
}

/// Forgets hours whose records all have numbers below those that are left.
pub(super) fn forget_empty_hours(tx: &Transaction<'_>) -> Work<()> {
    let first = "coalesce((SELECT min(id) FROM records), (SELECT next_record FROM meta))";
    for table in ["hours", "arrivals"] {
        tx.prepare_cached(&format!("DELETE FROM {table} WHERE last_id < {first}"))?.execute([])?;
    }
    Ok(())
}

/// Hides the addresses of rollups of hours that ended before `before`, and where identities
/// were; looks at about `most`.
pub(super) fn hide_rollups(
    tx: &Transaction<'_>,
    before: Timestamp,
    how: &Hiding,
    most: usize,
) -> Work<Step> {
    let until = hour_of(before.as_microsecond());
    let from: i64 = tx.query_row("SELECT rollups_hidden FROM meta", [], |row| row.get(0))?;
    if from >= until {
        return Ok(Step::default());
    }
    type Full = (i64, Vec<u8>, Vec<u8>);
    let rows: Vec<Full> = tx
        .prepare_cached(
            "SELECT hour, address, state FROM rollups \
             WHERE hour >= ?1 AND hour < ?2 AND form = 0 ORDER BY hour LIMIT ?3",
        )?
        .query_map(params![from, until, clamped(most as u64)], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut delete = tx.prepare_cached(
        "DELETE FROM rollups WHERE hour = ?1 AND form = 0 AND key = 0 AND address = ?2",
    )?;
    let mut table = super::rollups::Table::new(tx)?;
    let more = rows.len() == most;
    let mut last = until;
    for (hour, address, state) in &rows {
        let target = target_of_key(address)
            .ok_or_else(|| Failure::damaged("a rollup's address can't be read"))?;
        let kept = how.hide(target.addr());
        let (key, length) = key_of(kept.ip);
        let address_then = key.get(..length).unwrap_or_default();
        table.merge(*hour, kept.veil, address_then, decode_state(state)?)?;
        delete.execute(params![hour, address])?;
        last = *hour;
    }
    tx.prepare_cached(
        "UPDATE identity_hours SET places = '[]' WHERE hour < ?1 AND places <> '[]'",
    )?
    .execute([if more { last } else { until }])?;
    tx.prepare_cached("UPDATE meta SET rollups_hidden = ?1")?.execute([if more {
        last
    } else {
        until
    }])?;
    Ok(Step { done: rows.len() as u64, more })
}

/// Deletes rollups of single addresses and identities of hours that ended before `before`.
pub(super) fn forget_rollups(tx: &Transaction<'_>, before: Timestamp, most: usize) -> Work<Step> {
    let until = hour_of(before.as_microsecond());
    let mut done = 0;
    for table in ["rollups", "identity_hours"] {
        let (key, columns) = match table {
            "rollups" => ("(hour, form, key, address)", "hour, form, key, address"),
            _ => ("(hour, identity)", "hour, identity"),
        };
        done += tx
            .prepare_cached(&format!(
                "DELETE FROM {table} WHERE {key} IN \
                 (SELECT {columns} FROM {table} WHERE hour < ?1 LIMIT ?2)"
            ))?
            .execute(params![until, clamped(most as u64)])?;
    }
    tx.prepare_cached("UPDATE meta SET rollups_from = max(rollups_from, ?1)")?.execute([until])?;
    Ok(Step { done: done as u64, more: done >= most })
}

/// What a run would do now.
pub(super) fn due(tx: &Transaction<'_>, cutoffs: &Cutoffs, sensitive: &[String]) -> Work<Due> {
    let mut due = Due::default();
    let oldest = cutoffs.hide.max(cutoffs.first());
    let last: Option<i64> = tx
        .prepare_cached("SELECT max(last_id) FROM hours WHERE hour <= ?1")?
        .query_row([hour_of(oldest.as_microsecond())], |row| row.get(0))?;
    let arrived = |before: Timestamp| -> Work<i64> {
        Ok(tx
            .prepare_cached("SELECT coalesce(max(last_id), 0) FROM arrivals WHERE hour < ?1")?
            .query_row([hour_of(before.as_microsecond())], |row| row.get(0))?)
    };
    let last = last.unwrap_or(0).max(arrived(oldest)?);
    let marks = [cutoffs.hide, cutoffs.admitted, cutoffs.refused, cutoffs.sensitive];
    let marks = marks
        .into_iter()
        .map(|before| Ok((before.as_microsecond(), arrived(before)?)))
        .collect::<Work<Vec<_>>>()?;
    let is_due = |which: usize, id: i64, time: i64| {
        marks.get(which).is_some_and(|(before, arrived)| time < *before || id <= *arrived)
    };
    let mut classes = Classes::new(tx, sensitive)?;
    let mut statement = tx.prepare_cached(
        "SELECT id, time, form, verdict, path, ip IS NULL FROM records WHERE id <= ?1",
    )?;
    let mut rows = statement.query([last])?;
    while let Some(row) = rows.next()? {
        let (id, time): (i64, i64) = (row.get(0)?, row.get(1)?);
        let (count, which) = match classes.of(row.get(3)?, row.get(4)?)? {
            Class::Refused => (&mut due.refused, 2),
            Class::Sensitive => (&mut due.sensitive, 3),
            Class::Admitted | Class::All => (&mut due.admitted, 1),
        };
        if is_due(which, id, time) {
            *count += 1;
        } else if row.get::<_, u8>(2)? == 0 && !row.get::<_, bool>(5)? && is_due(0, id, time) {
            due.hide += 1;
        }
    }
    let count = |sql: &str, until: Timestamp| -> Work<u64> {
        let found: i64 = tx
            .prepare_cached(sql)?
            .query_row([hour_of(until.as_microsecond())], |row| row.get(0))?;
        Ok(found.unsigned_abs())
    };
    due.rollups = count("SELECT count(*) FROM rollups WHERE hour < ?1", cutoffs.last())?;
    due.hide_rollups =
        count("SELECT count(*) FROM rollups WHERE hour < ?1 AND form = 0", cutoffs.hide)?
            .saturating_sub(count(
                "SELECT count(*) FROM rollups WHERE hour < ?1 AND form = 0",
                cutoffs.last().min(cutoffs.hide),
            )?);
    Ok(due)
}

/// Texts that no record uses and that none younger than `before` can use, at most a million;
/// `None` as `before` means that all of `ids` are asked for. With the number of the next record
/// at that moment.
pub(super) fn unused_texts(
    tx: &Transaction<'_>,
    before: Option<Timestamp>,
    ids: Option<HashSet<i64>>,
) -> Work<(Vec<i64>, i64)> {
    const MOST: i64 = 1_000_000;
    let next: i64 = tx.query_row("SELECT next_record FROM meta", [], |row| row.get(0))?;
    let (mut unused, last) = match (before, ids) {
        (Some(before), _) => {
            let hour = hour_of(before.as_microsecond());
            let mut statement =
                tx.prepare_cached("SELECT id FROM strings WHERE last_hour < ?1 LIMIT ?2")?;
            let found = statement
                .query_map([hour, MOST], |row| row.get(0))?
                .collect::<rusqlite::Result<HashSet<i64>>>()?;
            let last: Option<i64> = tx
                .prepare_cached("SELECT max(last_id) FROM hours WHERE hour < ?1")?
                .query_row([hour], |row| row.get(0))?;
            (found, last.unwrap_or(0))
        }
        (None, ids) => (ids.unwrap_or_default(), i64::MAX),
    };
    if !unused.is_empty() {
        let mut statement = tx.prepare_cached(&format!("{USES} WHERE id <= ?1"))?;
        let mut rows = statement.query([last])?;
        while let Some(row) = rows.next()? {
            if unused.is_empty() {
                break;
            }
            strike(row, &mut unused)?;
        }
    }
    Ok((unused.into_iter().collect(), next))
}

/// Deletes texts that were unused before record `next`, but for those used since.
pub(super) fn forget_texts(
    tx: &Transaction<'_>,
    cache: &mut Cache,
    unused: &[i64],
    next: i64,
) -> Work<u64> {
    let mut unused: HashSet<i64> = unused.iter().copied().collect();
    {
        let mut statement = tx.prepare_cached(&format!("{USES} WHERE id >= ?1"))?;
        let mut rows = statement.query([next])?;
        while let Some(row) = rows.next()? {
            strike(row, &mut unused)?;
        }
    }
    let mut delete = tx.prepare_cached("DELETE FROM strings WHERE id = ?1")?;
    for id in &unused {
        delete.execute([id])?;
    }
    // It may know some of them.
    cache.forget_strings();
    Ok(unused.len() as u64)
}

/// The texts that records use.
pub(super) const USES: &str =
    "SELECT method, host, path, user_agent, proxy, rule, city FROM records";

/// Takes what a row of [`USES`] uses out of a set.
pub(super) fn strike(row: &rusqlite::Row<'_>, unused: &mut HashSet<i64>) -> Work<()> {
    for column in 0..7 {
        if let Some(id) = row.get::<_, Option<i64>>(column)? {
            unused.remove(&id);
        }
    }
    Ok(())
}

/// How much room the file takes. The write-ahead log counts as used.
pub(super) fn room(tx: &Transaction<'_>, wal_bytes: u64) -> Work<Room> {
    let number = |name: &str| -> Work<u64> {
        Ok(tx.pragma_query_value(None, name, |row| row.get::<_, i64>(0))?.unsigned_abs())
    };
    let (pages, free, size) =
        (number("page_count")?, number("freelist_count")?, number("page_size")?);
    Ok(Room { bytes: pages * size + wal_bytes, used: (pages - free.min(pages)) * size + wal_bytes })
}

/// Gives unused pages back to the file system, at most `most`; a twentieth stays for what
/// comes next.
pub(in crate::store::sqlite) fn reclaim(tx: &Transaction<'_>, most: u64) -> Work<Step> {
    let number = |name: &str| -> Work<u64> {
        Ok(tx.pragma_query_value(None, name, |row| row.get::<_, i64>(0))?.unsigned_abs())
    };
    let (pages, free) = (number("page_count")?, number("freelist_count")?);
    let excess = free.saturating_sub(pages / 20);
    if excess == 0 {
        return Ok(Step::default());
    }
    tx.execute_batch(&format!("PRAGMA incremental_vacuum({})", excess.min(most)))?;
    let left = number("freelist_count")?;
    // A file that was made without this gives nothing back: no reason to ask for ever.
    Ok(Step { done: free - left.min(free), more: left < free && excess > most })
}

/// The bytes of an address as records keep them.
pub(super) fn octets(ip: std::net::IpAddr) -> Vec<u8> {
    match ip {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
