//! Decisions by region. They are few: a change reads all of them, and writes them anew.

use ipwarden::geo::regions::Region;
use jiff::Timestamp;
use rusqlite::{Row, Transaction};

use super::{decisions, timestamp};
use crate::limits::parse_mode;
use crate::model::Actor;
use crate::regions::{Change, Changed, Rule, apply};
use crate::store::sqlite::database::{Failure, Work};

/// Makes a change; an empty answer where there was nothing to change. What has ended goes.
pub(super) fn change(
    tx: &Transaction<'_>,
    change: &Change,
    actor: &Actor,
    now: Timestamp,
) -> Work<Changed> {
    let mut rules = live(tx, now)?;
    let next_id = match change {
        Change::Add(new) if !new.is_empty() => decisions::take_ids(tx, new.len())?,
        Change::Add(_) | Change::Mode { .. } | Change::Remove { .. } => 0,
    };
    let changed = apply(&mut rules, change, actor, now, next_id);
    if changed.rules.is_empty() {
        return Ok(changed);
    }
    tx.execute("DELETE FROM regions", [])?;
    let mut insert = tx.prepare_cached(
        "INSERT INTO regions (id, region, path, mode, reason, created_at, created_by, expires_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    for rule in &rules {
        insert.execute((
            rule.id,
            rule.region.to_string(),
            rule.path.as_deref().unwrap_or_default(),
            rule.mode.as_str(),
            &rule.reason,
            rule.created_at.as_microsecond(),
            &rule.created_by,
            rule.expires_at.map(|end| end.as_microsecond()),
        ))?;
    }
    Ok(changed)
}

/// Those that have not ended, by number.
pub(super) fn live(tx: &Transaction<'_>, now: Timestamp) -> Work<Vec<Rule>> {
    let mut statement = tx.prepare_cached(
        "SELECT id, region, path, mode, reason, created_at, created_by, expires_at FROM regions \
         WHERE expires_at IS NULL OR expires_at > ?1 ORDER BY id",
    )?;
    let mut rows = statement.query([now.as_microsecond()])?;
    let mut rules = Vec::new();
    while let Some(row) = rows.next()? {
        rules.push(kept(row)?);
    }
    Ok(rules)
}

fn kept(row: &Row<'_>) -> Work<Rule> {
    let region: String = row.get(1)?;
    let path: String = row.get(2)?;
    let mode: String = row.get(3)?;
    Ok(Rule {
        id: row.get(0)?,
        region: Region::parse(&region).map_err(|_| Failure::damaged("a region is none"))?,
        path: (!path.is_empty()).then_some(path),
        mode: parse_mode(&mode).ok_or_else(|| Failure::damaged("a region has an unknown mode"))?,
        reason: row.get(4)?,
        created_at: timestamp(row.get(5)?)?,
        created_by: row.get(6)?,
        expires_at: row.get::<_, Option<i64>>(7)?.map(timestamp).transpose()?,
    })
}
