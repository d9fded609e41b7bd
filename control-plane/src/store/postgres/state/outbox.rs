//! What hooks have still to be told of suspects and blocks.
//!
//! Rows are written by the transactions of [`super::suspects`]: what was noted is told, also
//! after a crash, and what was not noted is not told.

use jiff::Timestamp;
use tokio_postgres::Row;

use super::suspects::suspect_at;
use super::{bounded, decisions, timestamp};
use crate::model::DecisionId;
use crate::notify::{Backlog, EventKind, MAX_WAITING, Pending, Subscription};
use crate::store::columns;
use crate::store::postgres::connection::Tx;
use crate::store::postgres::failure::{Failure, Work};
use crate::store::view::clamped;
use crate::suspects::Suspect;

/// Makes these the hooks there are; what others had still to be told is forgotten.
pub(super) async fn subscribe(tx: &Tx, hooks: &[Subscription]) -> Work<()> {
    super::suspects::take_turn(tx).await?;
    for hook in hooks {
        let events = hook.events.iter().fold(0u8, |all, event| all | event.bit());
        tx.execute(
            "INSERT INTO hooks (name, events, min_severity) VALUES ($1, $2, $3) \
             ON CONFLICT (name) DO UPDATE SET events = excluded.events, \
                 min_severity = excluded.min_severity",
            &[&hook.name, &i64::from(events), &(hook.min_severity as i64)],
        )
        .await?;
    }
    let names: Vec<&str> = hooks.iter().map(|hook| hook.name.as_str()).collect();
    tx.execute("DELETE FROM outbox WHERE hook <> ALL ($1)", &[&names]).await?;
    tx.execute("DELETE FROM hooks WHERE name <> ALL ($1)", &[&names]).await?;
    Ok(())
}

/// Something that hooks which listen to it are to be told.
pub(super) struct Event<'a> {
    pub(super) kind: EventKind,
    pub(super) suspect: &'a Suspect,
    pub(super) decision: Option<DecisionId>,
}

/// Notes events, in their order.
pub(super) async fn put(tx: &Tx, events: &[Event<'_>], now: Timestamp) -> Work<()> {
    if events.is_empty() {
        return Ok(());
    }
    let kinds: Vec<i64> = events.iter().map(|event| i64::from(event.kind.bit())).collect();
    let suspects: Vec<i64> = events.iter().map(|event| event.suspect.id).collect();
    let decisions: Vec<Option<i64>> =
        events.iter().map(|event| event.decision.map(i64::from)).collect();
    let severities: Vec<i64> = events.iter().map(|event| event.suspect.severity as i64).collect();
    tx.execute(
        "INSERT INTO outbox (hook, event, time, suspect, decision) \
         SELECT h.name, n.event, $5, n.suspect, n.decision \
         FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) \
             WITH ORDINALITY AS n (event, suspect, decision, severity, place) \
         JOIN hooks h ON h.events & n.event <> 0 AND h.min_severity <= n.severity \
         ORDER BY n.place, h.name",
        &[&kinds, &suspects, &decisions, &severities, &now.as_microsecond()],
    )
    .await?;
    Ok(())
}

/// Keeps the bound: of more than [`MAX_WAITING`] for a hook the oldest are dropped and counted.
pub(super) async fn bound(tx: &Tx) -> Work<()> {
    let over = tx
        .query(
            "SELECT name, (SELECT id FROM outbox WHERE hook = name ORDER BY id DESC \
                 LIMIT 1 OFFSET $1) FROM hooks",
            &[&clamped(MAX_WAITING)],
        )
        .await?;
    for row in over {
        if let Some(last) = row.try_get::<_, Option<i64>>(1)? {
            drop_rows(tx, row.try_get(0)?, "id", last).await?;
        }
    }
    Ok(())
}

/// Drops what was to be told before a time, and counts it.
pub(super) async fn expire(tx: &Tx, hook: &str, before: Timestamp) -> Work<u64> {
    drop_rows(tx, hook, "time", before.as_microsecond()).await
}

async fn drop_rows(tx: &Tx, hook: &str, column: &'static str, last: i64) -> Work<u64> {
    let sql = format!("DELETE FROM outbox WHERE hook = $1 AND {column} <= $2");
    let dropped = tx.execute(&sql, &[&hook, &last]).await?;
    if dropped > 0 {
        tx.execute(
            "UPDATE hooks SET dropped = dropped + $2 WHERE name = $1",
            &[&hook, &clamped(dropped)],
        )
        .await?;
    }
    Ok(dropped)
}

/// What a hook has still to be told, the oldest first. Suspects that are forgotten are left out.
pub(super) async fn pending(tx: &Tx, hook: &str, most: usize) -> Work<Vec<Pending>> {
    let sql = format!(
        "SELECT o.id, o.event, o.time, o.decision, d.expires_at, {} \
         FROM outbox AS o JOIN suspects AS s ON s.id = o.suspect \
         LEFT JOIN decisions AS d ON d.id = o.decision \
         WHERE o.hook = $1 ORDER BY o.id LIMIT $2",
        columns::suspect("s.")
    );
    let rows = tx.query(&sql, &[&hook, &bounded(most)]).await?;
    rows.iter().map(one).collect()
}

fn one(row: &Row) -> Work<Pending> {
    let event = u8::try_from(row.try_get::<_, i64>(1)?).ok();
    let decision = row.try_get::<_, Option<i64>>(3)?;
    Ok(Pending {
        id: row.try_get(0)?,
        event: event
            .and_then(EventKind::from_bit)
            .ok_or_else(|| Failure::damaged("a message is about an unknown event"))?,
        time: timestamp(row.try_get(2)?)?,
        decision: decision.map(|_| decisions::id_of(row, 3)).transpose()?,
        blocked_until: row.try_get::<_, Option<i64>>(4)?.map(timestamp).transpose()?,
        suspect: suspect_at(row, 5)?,
    })
}

/// Forgets what a hook was told, up to a number.
pub(super) async fn told(tx: &Tx, hook: &str, last: i64) -> Work<()> {
    tx.execute("DELETE FROM outbox WHERE hook = $1 AND id <= $2", &[&hook, &last]).await?;
    Ok(())
}

/// How much each hook has still to be told, and what was given up, by name.
pub(super) async fn backlog(tx: &Tx) -> Work<Vec<Backlog>> {
    let rows = tx
        .query(
            "SELECT name, (SELECT count(*) FROM outbox WHERE hook = name), dropped \
             FROM hooks ORDER BY name",
            &[],
        )
        .await?;
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        out.push(Backlog {
            hook: row.try_get(0)?,
            waiting: row.try_get::<_, i64>(1)?.unsigned_abs(),
            dropped: row.try_get::<_, i64>(2)?.unsigned_abs(),
        });
    }
    Ok(out)
}
