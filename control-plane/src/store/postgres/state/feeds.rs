//! Feeds: what was asked for and what became of it, as texts.

use jiff::Timestamp;

use super::{plain, timestamp};
use crate::store::StoredFeed;
use crate::store::postgres::connection::Tx;
use crate::store::postgres::failure::Work;

/// All feeds by name.
pub(super) async fn all(tx: &Tx) -> Work<Vec<StoredFeed>> {
    let sql = "SELECT name, definition, status, created_at FROM feeds ORDER BY name";
    let rows = tx.query(sql, &[]).await?;
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        out.push(StoredFeed {
            name: row.try_get(0)?,
            definition: row.try_get(1)?,
            status: row.try_get(2)?,
            created_at: timestamp(row.try_get(3)?)?,
        });
    }
    Ok(out)
}

/// Stores a feed; says whether it did.
pub(super) async fn put(
    tx: &Tx,
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
    let sql = format!(
        "INSERT INTO feeds (name, definition, status, created_at) VALUES ($1, $2, '{{}}', $3) \
         ON CONFLICT (name) {conflict}"
    );
    Ok(tx.execute(&sql, &[&name, &definition, &now.as_microsecond()]).await? > 0)
}

/// Notes what became of a feed.
pub(super) async fn note(tx: &Tx, name: &str, created_at: Timestamp, status: &str) -> Work<()> {
    tx.execute(
        "UPDATE feeds SET status = $3 WHERE name = $1 AND created_at = $2",
        &[&name, &created_at.as_microsecond(), &plain(status)],
    )
    .await?;
    Ok(())
}

/// Forgets a feed; says whether there was one.
pub(super) async fn remove(tx: &Tx, name: &str) -> Work<bool> {
    Ok(tx.execute("DELETE FROM feeds WHERE name = $1", &[&name]).await? > 0)
}
