//! Tokens and the audit log.

use jiff::Timestamp;
use tokio_postgres::Row;

use super::{News, bounded, notify, plain, timestamp};
use crate::model::{AuditEntry, Role, Token};
use crate::store::postgres::connection::Tx;
use crate::store::postgres::failure::{Failure, Work};
use crate::store::{NewAudit, NewToken};

/// Stores a token; `None` when a live one has that name, or that secret.
pub(super) async fn create(tx: &Tx, new: &NewToken, now: Timestamp) -> Work<Option<Token>> {
    let row = tx
        .optional(
            "INSERT INTO tokens (name, role, hash, created_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT DO NOTHING RETURNING id",
            &[&new.name, &new.role.as_str(), &new.hash.as_slice(), &now.as_microsecond()],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    notify(tx, News::TOKENS).await?;
    Ok(Some(Token {
        id: row.try_get(0)?,
        name: new.name.clone(),
        role: new.role,
        created_at: timestamp(now.as_microsecond())?,
        last_used_at: None,
    }))
}

/// All live tokens in the order of their making.
pub(super) async fn live(tx: &Tx) -> Work<Vec<(Token, [u8; 32])>> {
    let rows = tx
        .query(
            "SELECT id, name, role, created_at, last_used_at, hash FROM tokens \
             WHERE revoked_at IS NULL ORDER BY id",
            &[],
        )
        .await?;
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let role: &str = row.try_get(2)?;
        let role = Role::ALL
            .into_iter()
            .find(|known| known.as_str() == role)
            .ok_or_else(|| Failure::damaged("a token has an unknown role"))?;
        let token = Token {
            id: row.try_get(0)?,
            name: row.try_get(1)?,
            role,
            created_at: timestamp(row.try_get(3)?)?,
            last_used_at: row.try_get::<_, Option<i64>>(4)?.map(timestamp).transpose()?,
        };
        let hash = row.try_get::<_, &[u8]>(5)?.try_into();
        out.push((token, hash.map_err(|_| Failure::damaged("a token has no hash"))?));
    }
    Ok(out)
}

/// Revokes by name; says whether there was one.
pub(super) async fn revoke(tx: &Tx, name: &str, now: Timestamp) -> Work<bool> {
    let changed = tx
        .execute(
            "UPDATE tokens SET revoked_at = $2 WHERE name = $1 AND revoked_at IS NULL",
            &[&name, &now.as_microsecond()],
        )
        .await?;
    if changed > 0 {
        notify(tx, News::TOKENS).await?;
    }
    Ok(changed > 0)
}

/// Notes uses; a later one is never overwritten by an earlier one.
pub(super) async fn touch(tx: &Tx, used: &[(i64, Timestamp)]) -> Work<()> {
    // In the order of their numbers, so that two control planes don't wait for each other.
    let mut used = used.to_vec();
    used.sort_unstable();
    for (id, at) in used {
        tx.execute(
            "UPDATE tokens SET last_used_at = $2 \
             WHERE id = $1 AND coalesce(last_used_at, $2) <= $2",
            &[&id, &at.as_microsecond()],
        )
        .await?;
    }
    Ok(())
}

/// Appends an audit line.
pub(super) async fn note(tx: &Tx, entry: &NewAudit, now: Timestamp) -> Work<()> {
    tx.execute(
        "INSERT INTO audit (time, actor, action, subject, detail) VALUES ($1, $2, $3, $4, $5)",
        &[
            &now.as_microsecond(),
            &plain(&entry.actor),
            &entry.action,
            &plain(&entry.subject),
            &plain(&entry.detail),
        ],
    )
    .await?;
    Ok(())
}

/// Reads audit lines, newest first.
pub(super) async fn notes(tx: &Tx, before: Option<i64>, count: usize) -> Work<Vec<AuditEntry>> {
    let rows = tx
        .query(
            "SELECT id, time, actor, action, subject, detail FROM audit \
             WHERE id < $1 ORDER BY id DESC LIMIT $2",
            &[&before.unwrap_or(i64::MAX), &bounded(count)],
        )
        .await?;
    rows.iter().map(entry).collect()
}

/// A line as it is read here.
pub(super) fn entry(row: &Row) -> Work<AuditEntry> {
    Ok(AuditEntry {
        id: row.try_get(0)?,
        time: timestamp(row.try_get(1)?)?,
        actor: row.try_get(2)?,
        action: row.try_get(3)?,
        subject: row.try_get(4)?,
        detail: row.try_get(5)?,
    })
}
