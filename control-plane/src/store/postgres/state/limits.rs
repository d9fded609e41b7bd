//! The policy: what lies over the proxies' own limits, the latest resets, and decisions by
//! region (kept in [`super::regions`]).

use ipwarden::limits::policy::MAX_RESETS;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::{bounded, decisions, regions, timestamp};
use crate::limits::{Change, Override, Policy, RESET_LIFETIME, Reset, parse_mode};
use crate::model::{Actor, Revision};
use crate::regions::Changed;
use crate::store::postgres::connection::Tx;
use crate::store::postgres::failure::{Failure, Work};

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
pub(super) async fn change(tx: &Tx, change: &Change, actor: &Actor, now: Timestamp) -> Work<Made> {
    decisions::take_turn(tx).await?;
    let now_us = now.as_microsecond();
    let before = match change {
        Change::Set { name, .. } | Change::Mode { name, .. } | Change::Remove { name } => {
            find(tx, name).await?
        }
        Change::Reset { .. } | Change::Regions(_) => None,
    };
    let mut changed = Changed::default();
    match change {
        Change::Set { name, definition } => {
            tx.execute(
                "INSERT INTO limits (name, definition, mode, changed_at, changed_by) \
                 VALUES ($1, $2, NULL, $3, $4) ON CONFLICT (name) DO UPDATE \
                 SET definition = $2, mode = NULL, changed_at = $3, changed_by = $4",
                &[name, definition, &now_us, actor],
            )
            .await?;
        }
        Change::Mode { name, mode } => {
            tx.execute(
                "INSERT INTO limits (name, mode, changed_at, changed_by) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (name) DO UPDATE SET mode = $2, changed_at = $3, changed_by = $4",
                &[name, &mode.as_str(), &now_us, actor],
            )
            .await?;
        }
        Change::Remove { name } => {
            if before.is_none() {
                return Ok(Made::default());
            }
            tx.execute("DELETE FROM limits WHERE name = $1", &[name]).await?;
        }
        Change::Reset { key, limit: name } => {
            let id: i64 = tx
                .one("UPDATE meta SET next_reset = next_reset + 1 RETURNING next_reset - 1", &[])
                .await?
                .try_get(0)?;
            tx.execute(
                "INSERT INTO limit_resets (id, key, name, time) VALUES ($1, $2, $3, $4)",
                &[&id, key, name, &now_us],
            )
            .await?;
            tx.execute(
                "DELETE FROM limit_resets WHERE id NOT IN \
                 (SELECT id FROM limit_resets ORDER BY id DESC LIMIT $1)",
                &[&bounded(MAX_RESETS)],
            )
            .await?;
        }
        Change::Regions(change) => {
            changed = regions::change(tx, change, actor, now).await?;
            if changed.rules.is_empty() {
                return Ok(Made::default());
            }
        }
    }
    let revision = decisions::next_revision(tx).await?;
    tx.execute("UPDATE meta SET limits = revision", &[]).await?;
    decisions::publish(tx, revision, &[], true, now).await?;
    Ok(Made { is_new: true, before, regions: changed })
}

/// Everything that is kept, with the present revision.
pub(super) async fn policy(tx: &Tx, now: Timestamp) -> Work<(Revision, Policy)> {
    let number: i64 = tx.one("SELECT limits FROM meta", &[]).await?.try_get(0)?;
    let rows = tx
        .query(
            "SELECT name, definition, mode, changed_at, changed_by FROM limits ORDER BY name",
            &[],
        )
        .await?;
    let overrides = rows.iter().map(kept).collect::<Work<Vec<_>>>()?;
    let oldest = now.checked_sub(RESET_LIFETIME).unwrap_or(Timestamp::MIN);
    let rows = tx
        .query(
            "SELECT id, key, name, time FROM limit_resets WHERE time > $1 ORDER BY id",
            &[&oldest.as_microsecond()],
        )
        .await?;
    let mut resets = Vec::with_capacity(rows.len());
    for row in rows {
        resets.push(Reset {
            id: row.try_get::<_, i64>(0)?.cast_unsigned(),
            key: row.try_get(1)?,
            limit: row.try_get(2)?,
            time: timestamp(row.try_get(3)?)?,
        });
    }
    let regions = regions::live(tx, now).await?;
    let policy = Policy { number: number.cast_unsigned(), overrides, resets, regions };
    Ok((decisions::revision(tx).await?, policy))
}

async fn find(tx: &Tx, name: &str) -> Work<Option<Override>> {
    let row = tx
        .optional(
            "SELECT name, definition, mode, changed_at, changed_by FROM limits WHERE name = $1",
            &[&name],
        )
        .await?;
    row.as_ref().map(kept).transpose()
}

fn kept(row: &Row) -> Work<Override> {
    let mode = match row.try_get::<_, Option<&str>>(2)? {
        None => None,
        Some(word) => {
            Some(parse_mode(word).ok_or_else(|| Failure::damaged("a limit has an unknown mode"))?)
        }
    };
    Ok(Override {
        name: row.try_get(0)?,
        definition: row.try_get(1)?,
        mode,
        changed_at: timestamp(row.try_get(3)?)?,
        changed_by: row.try_get(4)?,
    })
}
