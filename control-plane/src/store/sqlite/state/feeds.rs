//! Feeds: what was asked for and what became of it, as texts.

use jiff::Timestamp;
use rusqlite::{Transaction, params};

use super::timestamp;
use crate::store::StoredFeed;
use crate::store::sqlite::database::Work;

/// All feeds by name.
pub(super) fn all(tx: &Transaction<'_>) -> Work<Vec<StoredFeed>> {
    let mut statement =
        tx.prepare_cached("SELECT name, definition, status, created_at FROM feeds ORDER BY name")?;
    let mut rows = statement.query([])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(StoredFeed {
            name: row.get(0)?,
            definition: row.get(1)?,
            status: row.get(2)?,
            created_at: timestamp(row.get(3)?)?,
        });
    }
    Ok(out)
}

/// Stores a feed; says whether it did.
pub(super) fn put(
    tx: &Transaction<'_>,
    name: &str,
    definition: &str,
    replace: bool,
    now: Timestamp,
) -> Work<bool> {
    let conflict = if replace {
        "DO UPDATE SET definition = excluded.definition, status = excluded.status, \
             created_at = excluded.created_at"
    } else {
        "DO NOTHING"
    };
    let changed = tx.execute(
        &format!(
            "INSERT INTO feeds (name, definition, status, created_at) VALUES (?1, ?2, '{{}}', ?3) \
             ON CONFLICT (name) {conflict}"
        ),
        params![name, definition, now.as_microsecond()],
    )?;
    Ok(changed > 0)
}

/// Notes what became of a feed.
pub(super) fn note(
    tx: &Transaction<'_>,
    name: &str,
    created_at: Timestamp,
    status: &str,
) -> Work<()> {
    tx.prepare_cached("UPDATE feeds SET status = ?3 WHERE name = ?1 AND created_at = ?2")?
        .execute(params![name, created_at.as_microsecond(), status])?;
    Ok(())
}

/// Forgets a feed; says whether there was one.
pub(super) fn remove(tx: &Transaction<'_>, name: &str) -> Work<bool> {
    Ok(tx.execute("DELETE FROM feeds WHERE name = ?1", [name])? > 0)
}
