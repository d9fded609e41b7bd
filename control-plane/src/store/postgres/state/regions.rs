//! Decisions by region. They are few: a change reads all of them, and writes them anew.

use ipwarden::geo::regions::Region;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::{decisions, timestamp};
use crate::limits::parse_mode;
use crate::model::Actor;
use crate::regions::{Change, Changed, Rule, apply};
use crate::store::postgres::connection::Tx;
use crate::store::postgres::failure::{Failure, Work};

/// Makes a change in one's turn; an empty answer where there was nothing to change. What has
/// ended goes.
pub(super) async fn change(
    tx: &Tx,
    change: &Change,
    actor: &Actor,
    now: Timestamp,
) -> Work<Changed> {
    let mut rules = live(tx, now).await?;
    let next_id = match change {
        Change::Add(new) if !new.is_empty() => decisions::take_ids(tx, new.len()).await?,
        Change::Add(_) | Change::Mode { .. } | Change::Remove { .. } => 0,
    };
    let changed = apply(&mut rules, change, actor, now, next_id);
    if changed.rules.is_empty() {
        return Ok(changed);
    }
    tx.execute("DELETE FROM regions", &[]).await?;
    for rule in &rules {
        tx.execute(
            "INSERT INTO regions (id, region, path, mode, reason, created_at, created_by, \
                 expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            &[
                &i64::from(rule.id),
                &rule.region.to_string(),
                &rule.path.as_deref().unwrap_or_default(),
                &rule.mode.as_str(),
                &rule.reason,
                &rule.created_at.as_microsecond(),
                &rule.created_by,
                &rule.expires_at.map(|end| end.as_microsecond()),
            ],
        )
        .await?;
    }
    Ok(changed)
}

/// Those that have not ended, by number.
pub(super) async fn live(tx: &Tx, now: Timestamp) -> Work<Vec<Rule>> {
    let rows = tx
        .query(
            "SELECT id, region, path, mode, reason, created_at, created_by, expires_at \
             FROM regions WHERE expires_at IS NULL OR expires_at > $1 ORDER BY id",
            &[&now.as_microsecond()],
        )
        .await?;
    rows.iter().map(kept).collect()
}

fn kept(row: &Row) -> Work<Rule> {
    let region: &str = row.try_get(1)?;
    let path: String = row.try_get(2)?;
    let mode: &str = row.try_get(3)?;
    Ok(Rule {
        id: decisions::id_of(row, 0)?,
        region: Region::parse(region).map_err(|_| Failure::damaged("a region is none"))?,
        path: (!path.is_empty()).then_some(path),
        mode: parse_mode(mode).ok_or_else(|| Failure::damaged("a region has an unknown mode"))?,
        reason: row.try_get(4)?,
        created_at: timestamp(row.try_get(5)?)?,
        created_by: row.try_get(6)?,
        expires_at: row.try_get::<_, Option<i64>>(7)?.map(timestamp).transpose()?,
    })
}
