//! What is held on an address, and how it is erased.

use std::net::IpAddr;

use ipwarden::address::host_net;
use jiff::Timestamp;
use rusqlite::functions::FunctionFlags;
use rusqlite::{Transaction, params};

use super::{decisions, limit, suspects, tokens};
use crate::privacy::Kept;
use crate::privacy::mention::{mentions, replaced};
use crate::store::aging::{ErasedState, SubjectState, address, targets};
use crate::store::key;
use crate::store::sqlite::database::Work;

/// Lines of the audit log forgotten in one transaction.
pub(super) const SWEEP_LINES: u64 = 10_000;

/// Forgets at most [`SWEEP_LINES`] lines of the audit log older than `before`.
pub(super) fn sweep_audit(tx: &Transaction<'_>, before: Timestamp) -> Work<u64> {
    let swept = tx
        .prepare_cached(
            "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE time < ?1 LIMIT ?2)",
        )?
        .execute(params![before.as_microsecond(), SWEEP_LINES.cast_signed()])?;
    Ok(swept as u64)
}

/// What is held, at most `most` of each kind.
pub(super) fn held(
    tx: &Transaction<'_>,
    names: &[Kept],
    audit_before: Option<i64>,
    most: usize,
) -> Work<SubjectState> {
    let mut held = SubjectState::default();
    for name in names {
        for target in targets(name.ip) {
            held.suspects.extend(suspects::of_target(tx, &target, name.veil, most)?);
        }
    }
    held.suspects.sort_by_key(|suspect| std::cmp::Reverse(suspect.id));
    held.suspects.truncate(most);
    let Some(ip) = address(names) else { return Ok(held) };
    for target in targets(ip) {
        let of_itself = target == host_net(ip);
        held.decisions.extend(
            decisions::all_of_target(tx, &target, most)?
                .into_iter()
                .filter(|found| of_itself || found.origin.is_detector()),
        );
        let blocks: i64 = tx
            .prepare_cached("SELECT count(*) FROM automatic_blocks WHERE target = ?1")?
            .query_row([key::key(&target)], |row| row.get(0))?;
        held.automatic_blocks += blocks.unsigned_abs();
    }
    tell_of(tx, ip, "")?;
    let resets: i64 = tx
        .prepare_cached("SELECT count(*) FROM limit_resets WHERE ipw_mentions(key)")?
        .query_row([], |row| row.get(0))?;
    held.limit_resets = resets.unsigned_abs();
    let mut statement = tx.prepare_cached(
        "SELECT id, time, actor, action, subject, detail FROM audit \
         WHERE id < ?1 AND (ipw_mentions(subject) OR ipw_mentions(detail)) \
         ORDER BY id DESC LIMIT ?2",
    )?;
    let mut rows = statement.query((audit_before.unwrap_or(i64::MAX), limit(most)))?;
    while let Some(row) = rows.next()? {
        held.audit.push(tokens::entry(row)?);
    }
    Ok(held)
}

/// Erases what has columns of its own.
pub(super) fn erase(
    tx: &Transaction<'_>,
    names: &[Kept],
    keep_suspects: bool,
    now: Timestamp,
) -> Work<ErasedState> {
    let mut erased = ErasedState::default();
    let keep = if keep_suspects { " AND status = 'dismissed'" } else { "" };
    for name in names {
        for target in targets(name.ip) {
            erased.suspects += tx.execute(
                &format!("DELETE FROM suspects WHERE target = ?1 AND form = ?2 AND key = ?3{keep}"),
                params![key::key(&target), name.veil.form as u8, name.veil.key_number()],
            )? as u64;
        }
    }
    let Some(ip) = address(names) else { return Ok(erased) };
    for target in targets(ip) {
        erased.decisions += tx.execute(
            "DELETE FROM decisions WHERE target = ?1 AND (removed IS NOT NULL OR expires_at <= ?2)",
            params![key::key(&target), now.as_microsecond()],
        )? as u64;
        erased.automatic_blocks += tx
            .execute("DELETE FROM automatic_blocks WHERE target = ?1", [key::key(&target)])?
            as u64;
    }
    decisions::sweep_texts(tx)?;
    Ok(erased)
}

/// Puts `with` in the place of an address in every text of every table.
///
/// Tables and columns are read off the schema: what another part of the service keeps is
/// looked through without being named here.
pub(super) fn redact(tx: &Transaction<'_>, names: &[Kept], with: &str) -> Work<u64> {
    let Some(ip) = address(names) else { return Ok(0) };
    tell_of(tx, ip, with)?;
    let mut done = tx.execute("DELETE FROM limit_resets WHERE ipw_mentions(key)", [])? as u64;
    let columns: Vec<(String, String)> = tx
        .prepare(
            "SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c \
             WHERE m.type = 'table' AND c.type IN ('TEXT', 'ANY') \
                 AND m.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (table, column) in columns {
        let (table, column) = (quoted(&table), quoted(&column));
        let told = format!("typeof({column}) = 'text' AND ipw_mentions({column})");
        let plain = format!("UPDATE {table} SET {column} = ipw_without({column}) WHERE {told}");
        done += match tx.execute(&plain, []) {
            Ok(changed) => changed as u64,
            // Texts that are there once only: told apart by a number.
            Err(error) if is_taken(&error) => tx.execute(
                &format!(
                    "UPDATE {table} SET {column} = ipw_without({column}) || '#' || rowid \
                     WHERE {told}"
                ),
                [],
            )? as u64,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(done)
}

fn is_taken(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Gives this connection words for an address: `ipw_mentions(text)`, `ipw_without(text)`.
fn tell_of(tx: &Transaction<'_>, ip: IpAddr, with: &str) -> Work<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    tx.create_scalar_function("ipw_mentions", 1, flags, move |given| {
        Ok(given.get_raw(0).as_str().is_ok_and(|text| mentions(text, ip)))
    })?;
    let with = with.to_owned();
    tx.create_scalar_function("ipw_without", 1, flags, move |given| {
        let text = given.get_raw(0).as_str()?;
        Ok(replaced(text, ip, &with).unwrap_or_else(|| text.to_owned()))
    })?;
    Ok(())
}
