//! The policy: what lies over the proxies' own limits, the latest resets, and
//! decisions by region (kept in [`super::regions`]).

use ipwarden::limits::policy::MAX_RESETS;
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, Transaction};

use super::{decisions, limit, regions, timestamp};
use crate::limits::{Change, Override, Policy, RESET_LIFETIME, Reset, parse_mode};
use crate::model::{Actor, Revision};
use crate::regions::Changed;
use crate::store::sqlite::database::{Failure, Work};

/// What a change did.
#[derive(Default)]
pub(super) struct Made {
    /// Whether there is a new revision.
    pub(super) is_new: bool,
    /// What was kept under the name before.
    pub(super) before: Option<Override>,
    /// What became of decisions by region.
    pub(super) regions: Changed,
}

/// Makes a change as one revision; none for the removal of what is not there.
pub(super) fn change(
    tx: &Transaction<'_>,
    change: &Change,
    actor: &Actor,
    now: Timestamp,
) -> Work<Made> {
    let now_us = now.as_microsecond();
    let before = match change {
        Change::Set { name, .. } | Change::Mode { name, .. } | Change::Remove { name } => {
            find(tx, name)?
        }
        Change::Reset { .. } | Change::Regions(_) => None,
    };
    let mut changed = Changed::default();
    match change {
        Change::Set { name, definition } => {
            tx.execute(
                "INSERT OR REPLACE INTO limits (name, definition, mode, changed_at, changed_by) \
                 VALUES (?1, ?2, NULL, ?3, ?4)",
                (name, definition, now_us, actor),
            )?;
        }
        Change::Mode { name, mode } => {
            tx.execute(
                "INSERT INTO limits (name, mode, changed_at, changed_by) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (name) DO UPDATE SET mode = ?2, changed_at = ?3, changed_by = ?4",
                (name, mode.as_str(), now_us, actor),
            )?;
        }
        Change::Remove { name } => {
            if before.is_none() {
                return Ok(Made::default());
            }
            tx.execute("DELETE FROM limits WHERE name = ?1", [name])?;
        }
        Change::Reset { key, limit: name } => {
            tx.execute(
                "INSERT INTO limit_resets (key, name, time) VALUES (?1, ?2, ?3)",
                (key, name, now_us),
            )?;
            tx.execute(
                "DELETE FROM limit_resets WHERE id NOT IN \
                 (SELECT id FROM limit_resets ORDER BY id DESC LIMIT ?1)",
                [limit(MAX_RESETS)],
            )?;
        }
        Change::Regions(change) => {
            changed = regions::change(tx, change, actor, now)?;
            if changed.rules.is_empty() {
                return Ok(Made::default());
            }
        }
    }
    decisions::next_revision(tx)?;
    tx.execute("UPDATE meta SET limits = revision", [])?;
    Ok(Made { is_new: true, before, regions: changed })
}

/// Everything that is kept, with the present revision.
pub(super) fn policy(tx: &Transaction<'_>, now: Timestamp) -> Work<(Revision, Policy)> {
    let number: i64 =
        tx.prepare_cached("SELECT limits FROM meta")?.query_row([], |row| row.get(0))?;
    let mut overrides = Vec::new();
    let mut statement = tx.prepare_cached(
        "SELECT name, definition, mode, changed_at, changed_by FROM limits ORDER BY name",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        overrides.push(kept(row)?);
    }
    let oldest = now.checked_sub(RESET_LIFETIME).unwrap_or(Timestamp::MIN);
    let mut resets = Vec::new();
    let mut statement = tx.prepare_cached(
        "SELECT id, key, name, time FROM limit_resets WHERE time > ?1 ORDER BY id",
    )?;
    let mut rows = statement.query([oldest.as_microsecond()])?;
    while let Some(row) = rows.next()? {
        resets.push(Reset {
            id: row.get::<_, i64>(0)?.cast_unsigned(),
            key: row.get(1)?,
            limit: row.get(2)?,
            time: timestamp(row.get(3)?)?,
        });
    }
    let regions = regions::live(tx, now)?;
    let policy = Policy { number: number.cast_unsigned(), overrides, resets, regions };
    Ok((decisions::revision(tx)?, policy))
}

fn find(tx: &Transaction<'_>, name: &str) -> Work<Option<Override>> {
    let mut statement = tx.prepare_cached(
        "SELECT name, definition, mode, changed_at, changed_by FROM limits WHERE name = ?1",
    )?;
    statement.query_row([name], |row| Ok(kept(row))).optional()?.transpose()
}

fn kept(row: &Row<'_>) -> Work<Override> {
    let mode = match row.get::<_, Option<String>>(2)? {
        None => None,
        Some(word) => {
            Some(parse_mode(&word).ok_or_else(|| Failure::damaged("a limit has an unknown mode"))?)
        }
    };
    Ok(Override {
        name: row.get(0)?,
        definition: row.get(1)?,
        mode,
        changed_at: timestamp(row.get(3)?)?,
        changed_by: row.get(4)?,
    })
}
