//! Tokens and the audit log.

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Row, Transaction};

use super::{limit, timestamp};
use crate::model::{AuditEntry, Role, Token};
use crate::store::sqlite::database::{Failure, Work};
use crate::store::{NewAudit, NewToken};

/// Stores a token; `None` when a live one has that name.
pub(super) fn create(tx: &Transaction<'_>, new: &NewToken, now: Timestamp) -> Work<Option<Token>> {
    let id = tx
        .query_row(
            "INSERT INTO tokens (name, role, hash, created_at) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT DO NOTHING RETURNING id",
            (&new.name, new.role.as_str(), new.hash, now.as_microsecond()),
            |row| row.get(0),
        )
        .optional()?;
    let Some(id) = id else { return Ok(None) };
    Ok(Some(Token {
        id,
        name: new.name.clone(),
        role: new.role,
        created_at: timestamp(now.as_microsecond())?,
        last_used_at: None,
    }))
}

/// All live tokens in the order of their making.
pub(super) fn live(tx: &Transaction<'_>) -> Work<Vec<(Token, [u8; 32])>> {
    let mut statement = tx.prepare_cached(
        "SELECT id, name, role, created_at, last_used_at, hash FROM tokens \
         WHERE revoked_at IS NULL ORDER BY id",
    )?;
    let mut rows = statement.query([])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        let role: String = row.get(2)?;
        let role = Role::ALL
            .into_iter()
            .find(|known| known.as_str() == role)
            .ok_or_else(|| Failure::damaged("a token has an unknown role"))?;
        let token = Token {
            id: row.get(0)?,
            name: row.get(1)?,
            role,
            created_at: timestamp(row.get(3)?)?,
            last_used_at: row.get::<_, Option<i64>>(4)?.map(timestamp).transpose()?,
        };
        out.push((token, row.get(5)?));
    }
    Ok(out)
}

/// Revokes by name; says whether there was one.
pub(super) fn revoke(tx: &Transaction<'_>, name: &str, now: Timestamp) -> Work<bool> {
    let changed = tx.execute(
        "UPDATE tokens SET revoked_at = ?2 WHERE name = ?1 AND revoked_at IS NULL",
        (name, now.as_microsecond()),
    )?;
    Ok(changed > 0)
}

/// Notes uses; a later one is never overwritten by an earlier one.
pub(super) fn touch(tx: &Transaction<'_>, used: &[(i64, Timestamp)]) -> Work<()> {
    let mut statement = tx.prepare_cached(
        "UPDATE tokens SET last_used_at = ?2 WHERE id = ?1 AND coalesce(last_used_at, ?2) <= ?2",
    )?;
    for (id, at) in used {
        statement.execute((id, at.as_microsecond()))?;
    }
    Ok(())
}

/// Appends an audit line.
pub(super) fn note(tx: &Transaction<'_>, entry: &NewAudit, now: Timestamp) -> Work<()> {
    tx.prepare_cached(
        "INSERT INTO audit (time, actor, action, subject, detail) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((
        now.as_microsecond(),
        &entry.actor,
        entry.action,
        &entry.subject,
        &entry.detail,
    ))?;
    Ok(())
}

/// Reads audit lines, newest first.
pub(super) fn notes(
    tx: &Transaction<'_>,
    before: Option<i64>,
    count: usize,
) -> Work<Vec<AuditEntry>> {
    let mut statement = tx.prepare_cached(
        "SELECT id, time, actor, action, subject, detail FROM audit \
         WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
    )?;
    let mut rows = statement.query((before.unwrap_or(i64::MAX), limit(count)))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(entry(row)?);
    }
    Ok(out)
}

/// A line as it is read here.
pub(super) fn entry(row: &Row<'_>) -> Work<AuditEntry> {
    Ok(AuditEntry {
        id: row.get(0)?,
        time: timestamp(row.get(1)?)?,
        actor: row.get(2)?,
        action: row.get(3)?,
        subject: row.get(4)?,
        detail: row.get(5)?,
    })
}
