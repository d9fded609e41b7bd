//! What is held on an address, and how it is erased.

use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use ipwarden::address::host_net;
use jiff::Timestamp;

use super::{decisions, plain, suspects, tokens};
use crate::model::AuditEntry;
use crate::privacy::Kept;
use crate::privacy::mention::{mentions, replaced};
use crate::store::aging::{ErasedState, SubjectState, address, targets};
use crate::store::key;
use crate::store::postgres::connection::Tx;
use crate::store::postgres::failure::Work;

/// Lines of the audit log forgotten in one transaction.
pub(super) const SWEEP_LINES: u64 = 10_000;

/// Forgets at most [`SWEEP_LINES`] lines of the audit log older than `before`.
pub(super) async fn sweep_audit(tx: &Tx, before: Timestamp) -> Work<u64> {
    tx.execute(
        "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE time < $1 LIMIT $2)",
        &[&before.as_microsecond(), &SWEEP_LINES.cast_signed()],
    )
    .await
}

/// What is held, at most `most` of each kind.
pub(super) async fn held(
    tx: &Tx,
    names: &[Kept],
    audit_before: Option<i64>,
    most: usize,
) -> Work<SubjectState> {
    let mut held = SubjectState::default();
    for name in names {
        for target in targets(name.ip) {
            held.suspects.extend(suspects::of_target(tx, &target, name.veil, most).await?);
        }
    }
    held.suspects.sort_by_key(|suspect| std::cmp::Reverse(suspect.id));
    held.suspects.truncate(most);
    let Some(ip) = address(names) else { return Ok(held) };
    for target in targets(ip) {
        let of_itself = target == host_net(ip);
        held.decisions.extend(
            decisions::all_of_target(tx, &target, most)
                .await?
                .into_iter()
                .filter(|found| of_itself || found.origin.is_detector()),
        );
        let sql = "SELECT count(*) FROM automatic_blocks WHERE target = $1";
        let blocks: i64 = tx.one(sql, &[&key::key(&target)]).await?.try_get(0)?;
        held.automatic_blocks += blocks.unsigned_abs();
    }
    held.limit_resets = resets(tx, ip).await?.len() as u64;
    held.audit = lines(tx, ip, audit_before, most).await?;
    Ok(held)
}

/// Numbers of the resets that are about an address.
async fn resets(tx: &Tx, ip: IpAddr) -> Work<Vec<i64>> {
    let mut found = Vec::new();
    for row in tx.query("SELECT id, key FROM limit_resets", &[]).await? {
        if mentions(row.try_get(1)?, ip) {
            found.push(row.try_get(0)?);
        }
    }
    Ok(found)
}

/// Lines of the audit log that mention an address, newest first.
async fn lines(tx: &Tx, ip: IpAddr, before: Option<i64>, most: usize) -> Work<Vec<AuditEntry>> {
    let rows = tx
        .stream(
            "SELECT id, time, actor, action, subject, detail FROM audit \
             WHERE id < $1 ORDER BY id DESC",
            &[&before.unwrap_or(i64::MAX)],
        )
        .await?;
    let mut rows = std::pin::pin!(rows);
    let mut found = Vec::new();
    while found.len() < most
        && let Some(row) = rows.try_next().await?
    {
        if mentions(row.try_get(4)?, ip) || mentions(row.try_get(5)?, ip) {
            found.push(tokens::entry(&row)?);
        }
    }
    Ok(found)
}

/// Erases what has columns of its own, and the steps that other control planes might have
/// read: they read the whole set instead.
pub(super) async fn erase(
    tx: &Tx,
    names: &[Kept],
    keep_suspects: bool,
    now: Timestamp,
) -> Work<ErasedState> {
    decisions::take_turn(tx).await?;
    suspects::take_turn(tx).await?;
    let mut erased = ErasedState::default();
    for name in names {
        for target in targets(name.ip) {
            erased.suspects += tx
                .execute(
                    "DELETE FROM suspects WHERE target = $1 AND form = $2 AND key = $3 \
                     AND (status = 'dismissed' OR NOT $4)",
                    &[
                        &key::key(&target),
                        &(name.veil.form as i64),
                        &i64::from(name.veil.key_number()),
                        &keep_suspects,
                    ],
                )
                .await?;
        }
    }
    let Some(ip) = address(names) else { return Ok(erased) };
    for target in targets(ip) {
        erased.decisions += tx
            .execute(
                "DELETE FROM decisions \
                 WHERE target = $1 AND (removed IS NOT NULL OR expires_at <= $2)",
                &[&key::key(&target), &now.as_microsecond()],
            )
            .await?;
        erased.automatic_blocks += tx
            .execute("DELETE FROM automatic_blocks WHERE target = $1", &[&key::key(&target)])
            .await?;
    }
    decisions::forget_steps(tx).await?;
    Ok(erased)
}

/// Puts `with` in the place of an address in every text of every table.
///
/// Tables and columns are read off the schema: what another part of the service keeps is
/// looked through without being named here. Each different text is looked at once, here: the
/// server knows no notations of addresses.
pub(super) async fn redact(tx: &Tx, names: &[Kept], with: &str) -> Work<u64> {
    let Some(ip) = address(names) else { return Ok(0) };
    let about = resets(tx, ip).await?;
    let mut done = tx.execute("DELETE FROM limit_resets WHERE id = ANY ($1)", &[&about]).await?;
    let columns = tx
        .query(
            "SELECT c.table_name::text, c.column_name::text FROM information_schema.columns c \
             JOIN information_schema.tables t USING (table_schema, table_name) \
             WHERE c.table_schema = current_schema() AND c.data_type = 'text' \
                 AND t.table_type = 'BASE TABLE'",
            &[],
        )
        .await?;
    for row in columns {
        let (table, column) = (quoted(row.try_get(0)?), quoted(row.try_get(1)?));
        for text in told(tx, &table, &column, ip).await? {
            let Some(clean) = replaced(&text, ip, with) else { continue };
            done += replace(tx, &table, &column, &text, &plain(&clean)).await?;
        }
    }
    Ok(done)
}

/// The texts of a column that mention an address.
async fn told(tx: &Tx, table: &str, column: &str, ip: IpAddr) -> Work<Vec<String>> {
    let sql = format!("SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL");
    let rows = tx.stream(&sql, &[]).await?;
    let mut rows = std::pin::pin!(rows);
    let mut found = Vec::new();
    while let Some(row) = rows.try_next().await? {
        let text: &str = row.try_get(0)?;
        if mentions(text, ip) {
            found.push(text.to_owned());
        }
    }
    Ok(found)
}

async fn replace(tx: &Tx, table: &str, column: &str, text: &str, clean: &str) -> Work<u64> {
    tx.batch("SAVEPOINT redaction").await?;
    let plain = format!("UPDATE {table} SET {column} = $2 WHERE {column} = $1");
    let done = match tx.execute_or_taken(&plain, &[&text, &clean]).await? {
        Some(done) => done,
        // Texts that are there once only: told apart by where the row lies.
        None => {
            tx.batch("ROLLBACK TO SAVEPOINT redaction").await?;
            let apart = format!(
                "UPDATE {table} SET {column} = $2 || '#' || ctid::text WHERE {column} = $1"
            );
            tx.execute(&apart, &[&text, &clean]).await?
        }
    };
    tx.batch("RELEASE SAVEPOINT redaction").await?;
    Ok(done)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
