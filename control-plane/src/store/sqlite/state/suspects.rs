//! Suspects, the blocks that the policy made, and the hours that were passed over.
//!
//! How flags merge is [`crate::suspects`]'; here they are found and kept.

use std::collections::BTreeMap;

use ipnet::IpNet;
use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{OptionalExtension as _, Row, Transaction, params, params_from_iter};

use super::{limit, outbox, timestamp};
use crate::detect::{Flag, Severity};
use crate::model::{Actor, DecisionId};
use crate::notify::EventKind;
use crate::privacy::Veil;
use crate::store::columns::SELECT_SUSPECT as SELECT;
use crate::store::key;
use crate::store::sqlite::conditions::Conditions;
use crate::store::sqlite::database::{Failure, Work};
use crate::store::view::clamped;
use crate::store::{AutomaticBlock, BlockHistory, PassDone};
use crate::suspects::{
    Closing, MAX_OPEN, Merged, Noted, Reason, Sighting, Status, Suspect, SuspectFilter,
};

/// Merges flags into suspects, target by target, each target's in their order.
pub(super) fn note(
    tx: &Transaction<'_>,
    sightings: &[Sighting],
    now: Timestamp,
) -> Work<Vec<Noted>> {
    let mut targets: BTreeMap<(Vec<u8>, Veil), Vec<&Sighting>> = BTreeMap::new();
    for sighting in sightings {
        let Flag { target, veil, .. } = &sighting.flag;
        targets.entry((key::key(target), *veil)).or_default().push(sighting);
    }
    let note = |((target, veil), flags): ((Vec<u8>, Veil), Vec<&Sighting>)| {
        note_target(tx, &target, veil, &flags, now)
    };
    let noted: Work<Vec<Noted>> = targets.into_iter().map(note).collect();
    outbox::bound(tx)?;
    noted
}

fn note_target(
    tx: &Transaction<'_>,
    target: &[u8],
    veil: Veil,
    sightings: &[&Sighting],
    now: Timestamp,
) -> Work<Noted> {
    // The newest first.
    let sql = format!(
        "{SELECT} WHERE target = ?1 AND form = ?3 AND key = ?4 \
         AND (status = 'open' OR quiet_until > ?2) ORDER BY id DESC"
    );
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(params![
        target,
        now.as_microsecond(),
        veil.form as u8,
        veil.key_number()
    ])?;
    let mut known = Vec::new();
    while let Some(row) = rows.next()? {
        known.push(suspect(row)?);
    }
    let mut merged = Merged::of(known, sightings);
    if let Some(suspect) = &mut merged.suspect {
        if merged.opened {
            suspect.id = insert(tx, target, suspect, now)?;
        } else {
            update(tx, suspect, now)?;
        }
    }
    if let (Some(event), Some(suspect)) = (merged.event(), &merged.suspect) {
        outbox::put(tx, event, suspect, None, now)?;
    }
    Ok(merged.noted())
}

fn insert(tx: &Transaction<'_>, target: &[u8], suspect: &Suspect, now: Timestamp) -> Work<i64> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO suspects (target, status, severity, score, first_seen, last_seen, \
             noted_at, country, city, asn, reasons, flags, form, key) \
         VALUES (?1, 'open', ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    Ok(statement.insert(params![
        target,
        suspect.severity as u8,
        suspect.score,
        suspect.first_seen.as_microsecond(),
        suspect.last_seen.as_microsecond(),
        now.as_microsecond(),
        suspect.country,
        suspect.city,
        suspect.asn,
        json(&suspect.reasons)?,
        clamped(suspect.flags),
        suspect.veil().form as u8,
        suspect.veil().key_number(),
    ])?)
}

fn update(tx: &Transaction<'_>, suspect: &Suspect, now: Timestamp) -> Work<()> {
    let mut statement = tx.prepare_cached(
        "UPDATE suspects SET severity = ?2, score = ?3, first_seen = ?4, last_seen = ?5, \
             noted_at = ?6, country = ?7, city = ?8, asn = ?9, reasons = ?10, flags = ?11 \
         WHERE id = ?1",
    )?;
    statement.execute(params![
        suspect.id,
        suspect.severity as u8,
        suspect.score,
        suspect.first_seen.as_microsecond(),
        suspect.last_seen.as_microsecond(),
        now.as_microsecond(),
        suspect.country,
        suspect.city,
        suspect.asn,
        json(&suspect.reasons)?,
        clamped(suspect.flags),
    ])?;
    Ok(())
}

/// Lists suspects, the newest number first, and counts all that match.
pub(super) fn list(tx: &Transaction<'_>, filter: &SuspectFilter) -> Work<(Vec<Suspect>, u64)> {
    let mut conditions = Conditions::new("TRUE");
    if let Some(status) = filter.status {
        conditions.and("status = ?", [Value::Text(status.as_str().to_owned())]);
    }
    if let Some(net) = &filter.target {
        let (first, last) = key::inside(net);
        let mut covering: Vec<Value> = key::covering(net).map(Value::Blob).collect();
        let places = vec!["?"; covering.len()].join(",");
        covering.splice(0..0, [Value::Blob(first), Value::Blob(last)]);
        // Two searches of the index: an OR of them is more than SQLite's planner can take.
        let either = format!(
            "id IN (SELECT id FROM suspects WHERE target BETWEEN ? AND ? \
             UNION SELECT id FROM suspects WHERE target IN ({places}))"
        );
        conditions.and(&either, covering);
        // A pseudonym is no address: it lies in no network.
        conditions.and("form < 2", []);
    }
    let total: i64 = tx
        .prepare_cached(&format!("SELECT count(*) FROM suspects WHERE {}", conditions.sql()))?
        .query_row(params_from_iter(conditions.values()), |row| row.get(0))?;
    if let Some(before) = filter.before {
        conditions.and("id < ?", [Value::Integer(before)]);
    }
    let sql = format!("{SELECT} WHERE {} ORDER BY id DESC LIMIT ?", conditions.sql());
    let most = Value::Integer(limit(filter.limit));
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(conditions.values().chain([&most])))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(suspect(row)?);
    }
    Ok((out, total.cast_unsigned()))
}

/// One suspect.
pub(super) fn get(tx: &Transaction<'_>, id: i64) -> Work<Option<Suspect>> {
    let mut statement = tx.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?;
    statement.query_row([id], |row| Ok(suspect(row))).optional()?.transpose()
}

/// All suspects of exactly a target that is kept so, newest first.
pub(super) fn of_target(
    tx: &Transaction<'_>,
    target: &IpNet,
    veil: Veil,
    most: usize,
) -> Work<Vec<Suspect>> {
    let sql =
        format!("{SELECT} WHERE target = ?1 AND form = ?2 AND key = ?3 ORDER BY id DESC LIMIT ?4");
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(params![
        key::key(target),
        veil.form as u8,
        veil.key_number(),
        limit(most)
    ])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(suspect(row)?);
    }
    Ok(out)
}

/// Open suspects with flags of which the policy has not decided, the oldest first.
pub(super) fn unjudged(tx: &Transaction<'_>, most: usize) -> Work<Vec<Suspect>> {
    let sql = format!("{SELECT} WHERE judged < flags AND status = 'open' ORDER BY id LIMIT ?1");
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query([limit(most)])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(suspect(row)?);
    }
    Ok(out)
}

/// Notes that the policy has decided of so many flags, and the block that it made.
pub(super) fn judged(
    tx: &Transaction<'_>,
    id: i64,
    flags: u64,
    block: Option<&AutomaticBlock>,
) -> Work<()> {
    tx.execute(
        "UPDATE suspects SET judged = max(judged, ?2), decision = coalesce(?3, decision) \
         WHERE id = ?1",
        params![id, clamped(flags), block.map(|block| block.decision)],
    )?;
    if let Some(block) = block {
        let new = tx.execute(
            "INSERT INTO automatic_blocks (target, time, decision) VALUES (?1, ?2, ?3) \
             ON CONFLICT (decision) DO NOTHING",
            params![key::key(&block.target), block.time.as_microsecond(), block.decision],
        )?;
        if new == 1
            && let Some(suspect) = get(tx, id)?
        {
            outbox::put(tx, EventKind::Blocked, &suspect, Some(block.decision), block.time)?;
            outbox::bound(tx)?;
        }
    }
    Ok(())
}

/// How often a target was blocked since a time, and how many blocks there were since another.
pub(super) fn blocks(
    tx: &Transaction<'_>,
    target: &IpNet,
    target_since: Timestamp,
    all_since: Timestamp,
) -> Work<BlockHistory> {
    let of_target: i64 = tx
        .prepare_cached("SELECT count(*) FROM automatic_blocks WHERE target = ?1 AND time > ?2")?
        .query_row(params![key::key(target), target_since.as_microsecond()], |row| row.get(0))?;
    let all: i64 = tx
        .prepare_cached("SELECT count(*) FROM automatic_blocks WHERE time > ?1")?
        .query_row([all_since.as_microsecond()], |row| row.get(0))?;
    let count = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(BlockHistory { of_target: count(of_target), all: count(all) })
}

/// Closes a suspect, or opens it again, whatever it was before. `None` when there is none.
pub(super) fn close(
    tx: &Transaction<'_>,
    id: i64,
    closing: &Closing,
    actor: &Actor,
    now: Timestamp,
) -> Work<Option<Suspect>> {
    if closing.status == Status::Open {
        tx.execute(
            "UPDATE suspects SET status = 'open', decision = NULL, closed_at = NULL, \
                 closed_by = NULL, quiet_until = NULL, judged = flags WHERE id = ?1",
            [id],
        )?;
        return get(tx, id);
    }
    tx.execute(
        "UPDATE suspects SET status = ?2, decision = coalesce(?3, decision), closed_at = ?4, \
             closed_by = ?5, quiet_until = ?6, judged = flags \
         WHERE id = ?1",
        params![
            id,
            closing.status.as_str(),
            closing.decision,
            now.as_microsecond(),
            actor,
            closing.quiet_until.as_microsecond(),
        ],
    )?;
    get(tx, id)
}

/// Forgets open suspects without news since `open_before`, closed ones that are past both
/// their quiet time and `closed_before`, open ones beyond [`MAX_OPEN`] (those of the least
/// score), and blocks before `closed_before`. Returns how many suspects.
pub(super) fn sweep(
    tx: &Transaction<'_>,
    now: Timestamp,
    open_before: Timestamp,
    closed_before: Timestamp,
) -> Work<u64> {
    let mut swept = tx.execute(
        "DELETE FROM suspects WHERE status = 'open' AND noted_at < ?1",
        [open_before.as_microsecond()],
    )?;
    swept += tx.execute(
        "DELETE FROM suspects WHERE status <> 'open' AND quiet_until < ?1 AND closed_at < ?2",
        [now.as_microsecond(), closed_before.as_microsecond()],
    )?;
    let open: i64 =
        tx.query_row("SELECT count(*) FROM suspects WHERE status = 'open'", [], |row| row.get(0))?;
    let excess = open.saturating_sub(clamped(MAX_OPEN));
    if excess > 0 {
        swept += tx.execute(
            "DELETE FROM suspects WHERE id IN (SELECT id FROM suspects WHERE status = 'open' \
             ORDER BY score, noted_at LIMIT ?1)",
            [excess],
        )?;
    }
    if swept > 0 {
        tx.execute("DELETE FROM outbox WHERE suspect NOT IN (SELECT id FROM suspects)", [])?;
    }
    tx.execute("DELETE FROM automatic_blocks WHERE time < ?1", [closed_before.as_microsecond()])?;
    Ok(swept as u64)
}

/// When an hour (Unix time / 3600) was passed over, and what was found.
pub(super) fn pass(tx: &Transaction<'_>, hour: i64) -> Work<Option<PassDone>> {
    let mut statement = tx.prepare_cached(
        "SELECT hour, finished_at, addresses, requests, flagged FROM passes WHERE hour = ?1",
    )?;
    statement.query_row([hour], |row| Ok(pass_done(row))).optional()?.transpose()
}

/// The latest hour that was passed over.
pub(super) fn last_pass(tx: &Transaction<'_>) -> Work<Option<PassDone>> {
    let mut statement = tx.prepare_cached(
        "SELECT hour, finished_at, addresses, requests, flagged FROM passes \
         ORDER BY hour DESC LIMIT 1",
    )?;
    statement.query_row([], |row| Ok(pass_done(row))).optional()?.transpose()
}

/// Notes an hour as done; `false` when it was done before.
pub(super) fn finish_pass(tx: &Transaction<'_>, done: &PassDone) -> Work<bool> {
    let written = tx.execute(
        "INSERT INTO passes (hour, finished_at, addresses, requests, flagged) \
         VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (hour) DO NOTHING",
        params![
            done.hour,
            done.finished_at.as_microsecond(),
            clamped(done.addresses),
            clamped(done.requests),
            clamped(done.flagged),
        ],
    )?;
    Ok(written == 1)
}

fn pass_done(row: &Row<'_>) -> Work<PassDone> {
    let count = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
    Ok(PassDone {
        hour: row.get(0)?,
        finished_at: timestamp(row.get(1)?)?,
        addresses: count(2)?,
        requests: count(3)?,
        flagged: count(4)?,
    })
}

/// A row of [`SELECT`].
fn suspect(row: &Row<'_>) -> Work<Suspect> {
    suspect_at(row, 0)
}

/// A suspect whose columns begin at number `at` of the row.
pub(super) fn suspect_at(row: &Row<'_>, at: usize) -> Work<Suspect> {
    let target = row.get_ref(at + 1)?.as_blob().map_err(rusqlite::Error::from)?;
    let reasons: String = row.get(at + 10)?;
    let status: String = row.get(at + 2)?;
    let severity: u8 = row.get(at + 3)?;
    let veil = Veil::of_numbers(row.get(at + 15)?, row.get(at + 16)?)
        .ok_or_else(|| Failure::damaged("a suspect's address has an unknown form"))?;
    Ok(Suspect {
        id: row.get(at)?,
        target: key::target(target)
            .ok_or_else(|| Failure::damaged("a suspect has no valid target"))?,
        form: veil.form,
        key: veil.key.map(|key| key.to_string()),
        status: Status::from_word(&status)
            .ok_or_else(|| Failure::damaged("a suspect has an unknown status"))?,
        severity: Severity::ALL
            .get(usize::from(severity))
            .copied()
            .ok_or_else(|| Failure::damaged("a suspect has an unknown severity"))?,
        score: row.get(at + 4)?,
        first_seen: timestamp(row.get(at + 5)?)?,
        last_seen: timestamp(row.get(at + 6)?)?,
        country: row.get(at + 7)?,
        city: row.get(at + 8)?,
        asn: row.get(at + 9)?,
        reasons: serde_json::from_str::<Vec<Reason>>(&reasons)
            .map_err(|_| Failure::damaged("a suspect's reasons can't be read"))?,
        flags: row.get::<_, i64>(at + 11)?.unsigned_abs(),
        decision: row.get::<_, Option<DecisionId>>(at + 12)?,
        closed_at: row.get::<_, Option<i64>>(at + 13)?.map(timestamp).transpose()?,
        closed_by: row.get(at + 14)?,
    })
}

fn json(reasons: &[Reason]) -> Work<String> {
    serde_json::to_string(reasons).map_err(|_| Failure::damaged("reasons can't be written"))
}
