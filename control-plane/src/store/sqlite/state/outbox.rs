//! What hooks have still to be told of suspects and blocks.
//!
//! Rows are written by the transactions of [`super::suspects`]: what was noted is told, also
//! after a crash, and what was not noted is not told.

use jiff::Timestamp;
use rusqlite::{Row, Transaction, params};

use super::suspects::suspect_at;
use super::{limit, timestamp};
use crate::model::DecisionId;
use crate::notify::{Backlog, EventKind, MAX_WAITING, Pending, Subscription};
use crate::store::columns;
use crate::store::sqlite::database::{Failure, Work};
use crate::store::view::clamped;
use crate::suspects::Suspect;

/// Makes these the hooks there are; what others had still to be told is forgotten.
pub(super) fn subscribe(tx: &Transaction<'_>, hooks: &[Subscription]) -> Work<()> {
    for hook in hooks {
        let events = hook.events.iter().fold(0u8, |all, event| all | event.bit());
        tx.execute(
            "INSERT INTO hooks (name, events, min_severity) VALUES (?1, ?2, ?3) \
             ON CONFLICT (name) DO UPDATE SET events = excluded.events, \
                 min_severity = excluded.min_severity",
            params![hook.name, events, hook.min_severity as u8],
        )?;
    }
    let kept = backlog(tx)?;
    for gone in kept.iter().filter(|kept| hooks.iter().all(|hook| hook.name != kept.hook)) {
        tx.execute("DELETE FROM hooks WHERE name = ?1", [&gone.hook])?;
        tx.execute("DELETE FROM outbox WHERE hook = ?1", [&gone.hook])?;
    }
    Ok(())
}

/// Notes that hooks which listen to this are to be told.
pub(super) fn put(
    tx: &Transaction<'_>,
    event: EventKind,
    suspect: &Suspect,
    decision: Option<DecisionId>,
    now: Timestamp,
) -> Work<()> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO outbox (hook, event, time, suspect, decision) \
         SELECT name, ?1, ?2, ?3, ?4 FROM hooks WHERE events & ?1 <> 0 AND min_severity <= ?5",
    )?;
    statement.execute(params![
        event.bit(),
        now.as_microsecond(),
        suspect.id,
        decision,
        suspect.severity as u8,
    ])?;
    Ok(())
}

/// Keeps the bound: of more than [`MAX_WAITING`] for a hook the oldest are dropped and counted.
pub(super) fn bound(tx: &Transaction<'_>) -> Work<()> {
    let mut over = tx.prepare_cached(
        "SELECT name, (SELECT id FROM outbox WHERE hook = name ORDER BY id DESC \
             LIMIT 1 OFFSET ?1) FROM hooks",
    )?;
    let found: Vec<(String, Option<i64>)> = over
        .query_map([clamped(MAX_WAITING)], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (hook, last) in found {
        if let Some(last) = last {
            drop_rows(tx, &hook, "id", last)?;
        }
    }
    Ok(())
}

/// Drops what was to be told before a time, and counts it.
pub(super) fn expire(tx: &Transaction<'_>, hook: &str, before: Timestamp) -> Work<u64> {
    drop_rows(tx, hook, "time", before.as_microsecond())
}

fn drop_rows(tx: &Transaction<'_>, hook: &str, column: &str, last: i64) -> Work<u64> {
    let dropped = tx
        .prepare_cached(&format!("DELETE FROM outbox WHERE hook = ?1 AND {column} <= ?2"))?
        .execute(params![hook, last])?;
    if dropped > 0 {
        tx.execute(
            "UPDATE hooks SET dropped = dropped + ?2 WHERE name = ?1",
            params![hook, limit(dropped)],
        )?;
    }
    Ok(dropped as u64)
}

/// What a hook has still to be told, the oldest first. Suspects that are forgotten are left out.
pub(super) fn pending(tx: &Transaction<'_>, hook: &str, most: usize) -> Work<Vec<Pending>> {
    let sql = format!(
        "SELECT o.id, o.event, o.time, o.decision, d.expires_at, {} \
         FROM outbox AS o JOIN suspects AS s ON s.id = o.suspect \
         LEFT JOIN decisions AS d ON d.id = o.decision \
         WHERE o.hook = ?1 ORDER BY o.id LIMIT ?2",
        columns::suspect("s.")
    );
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(params![hook, limit(most)])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(one(row)?);
    }
    Ok(out)
}

fn one(row: &Row<'_>) -> Work<Pending> {
    Ok(Pending {
        id: row.get(0)?,
        event: EventKind::from_bit(row.get(1)?)
            .ok_or_else(|| Failure::damaged("a message is about an unknown event"))?,
        time: timestamp(row.get(2)?)?,
        decision: row.get(3)?,
        blocked_until: row.get::<_, Option<i64>>(4)?.map(timestamp).transpose()?,
        suspect: suspect_at(row, 5)?,
    })
}

/// Forgets what a hook was told, up to a number.
pub(super) fn told(tx: &Transaction<'_>, hook: &str, last: i64) -> Work<()> {
    tx.prepare_cached("DELETE FROM outbox WHERE hook = ?1 AND id <= ?2")?
        .execute(params![hook, last])?;
    Ok(())
}

/// How much each hook has still to be told, and what was given up, by name.
pub(super) fn backlog(tx: &Transaction<'_>) -> Work<Vec<Backlog>> {
    let mut statement = tx.prepare_cached(
        "SELECT name, (SELECT count(*) FROM outbox WHERE hook = name), dropped \
         FROM hooks ORDER BY name",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Backlog {
            hook: row.get(0)?,
            waiting: row.get::<_, i64>(1)?.unsigned_abs(),
            dropped: row.get::<_, i64>(2)?.unsigned_abs(),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
