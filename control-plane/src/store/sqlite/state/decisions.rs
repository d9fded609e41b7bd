//! Decisions: one set, one revision number, every past state of a decision until it is
//! swept.
//!
//! A decision is *live* while it is neither removed nor past its end. At most one live
//! decision has a given target, tier and origin; since an origin's tier follows from the
//! action, that is the same as target, action and origin.

use std::rc::Rc;

use hashbrown::HashMap;
use ipnet::IpNet;
use ipwarden::decisions::{Change, Entry, Tier};
use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{OptionalExtension as _, Row, Transaction, params, params_from_iter};

use super::{limit, timestamp};
use crate::model::{Action, Decision, DecisionId, NewDecision, Origin, Revision, tier};
use crate::store::key;
use crate::store::replacing::Present;
use crate::store::sqlite::conditions::Conditions;
use crate::store::sqlite::database::{Failure, Work};
use crate::store::view::wire_expiry;
use crate::store::{Added, DecisionFilter, OriginSet, Removal, Removed, SetChanged, StoreError};

/// Decisions forgotten in one transaction.
pub(super) const SWEEP_ROWS: u64 = 20_000;

/// The last number a decision can have.
const LAST_ID: DecisionId = DecisionId::MAX - 1;

/// The present revision.
pub(super) fn revision(tx: &Transaction<'_>) -> Work<Revision> {
    let mut statement = tx.prepare_cached("SELECT epoch, revision FROM meta")?;
    let (epoch, number): (i64, i64) =
        statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Revision { epoch: epoch.cast_unsigned(), number: number.cast_unsigned() })
}

/// Adds decisions as one revision; none for an empty list.
pub(super) fn add(tx: &Transaction<'_>, new: &[NewDecision], now: Timestamp) -> Work<Added> {
    if new.is_empty() {
        let revision = revision(tx)?;
        return Ok(Added { revision, ids: vec![], replaced: vec![], changes: vec![] });
    }
    let revision = next_revision(tx)?;
    let first_id = take_ids(tx, new.len())?;
    let number = revision.number.cast_signed();
    let now_us = now.as_microsecond();
    let mut texts = Texts::default();
    let mut replaced = Vec::new();
    let mut removals = Vec::new();
    let mut additions: Vec<Option<Change>> = Vec::with_capacity(new.len());
    let mut find = tx.prepare_cached(
        "SELECT id, expires_at FROM decisions INDEXED BY decisions_live \
         WHERE target = ?1 AND tier = ?2 AND origin = ?3 AND removed IS NULL",
    )?;
    let mut retire = prepare_retire(tx)?;
    let mut insert = tx.prepare_cached(INSERT)?;
    for (decision, id) in new.iter().zip(first_id..) {
        let tier = tier(decision.action, &decision.origin);
        let target = key::key(&decision.target);
        let origin = texts.id(tx, &String::from(decision.origin.clone()))?;
        let reason = texts.id(tx, &decision.reason)?;
        let expires_us = decision.expires_at.map(|end| end.as_microsecond());
        let earlier: Option<(DecisionId, Option<i64>)> = find
            .query_row(params![target, tier as u8, origin], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((earlier, earlier_end)) = earlier {
            retire.execute(params![earlier, number, now_us])?;
            // One that has ended makes room without being replaced: it no longer applied.
            if earlier_end.is_none_or(|end| now_us < end) {
                replaced.push(earlier);
                // The same target twice in one call: the first never reaches a proxy.
                match earlier.checked_sub(first_id).and_then(|at| additions.get_mut(at as usize)) {
                    Some(addition) => *addition = None,
                    None => {
                        removals.push(Change::Remove { target: decision.target, id: earlier });
                    }
                }
            }
        }
        insert
            .execute(params![id, target, tier as u8, origin, reason, now_us, expires_us, number])?;
        additions.push(Some(Change::Add(Entry {
            target: decision.target,
            tier,
            id,
            expires_at: wire_expiry(decision.expires_at),
        })));
    }
    let ids = (first_id..).take(new.len()).collect();
    removals.extend(additions.into_iter().flatten());
    Ok(Added { revision, ids, replaced, changes: removals })
}

/// Makes a set the live decisions of its origin as one revision; none where nothing differs.
pub(super) fn replace(tx: &Transaction<'_>, set: &OriginSet, now: Timestamp) -> Work<SetChanged> {
    let now_us = now.as_microsecond();
    let tier = tier(set.action, &set.origin);
    let origin = String::from(set.origin.clone());
    let replacing = present(tx, &origin, tier, now_us)?.replaced_by(set);
    let mut changed = SetChanged {
        revision: revision(tx)?,
        added: replacing.added(),
        removed: replacing.removed(),
        renewed: replacing.renewed,
        kept: replacing.kept,
        changes: Vec::with_capacity(replacing.gone.len() + replacing.wanted.len()),
    };
    if replacing.is_nothing() {
        return Ok(changed);
    }
    changed.revision = next_revision(tx)?;
    let number = changed.revision.number.cast_signed();
    let mut retire = prepare_retire(tx)?;
    for id in replacing.ended {
        retire.execute(params![id, number, now_us])?;
    }
    for (target, id) in replacing.gone {
        retire.execute(params![id, number, now_us])?;
        changed.changes.push(Change::Remove { target, id });
    }
    let mut texts = Texts::default();
    let origin = texts.id(tx, &origin)?;
    let mut insert = tx.prepare_cached(INSERT)?;
    let wanted = replacing.wanted;
    for (listed, id) in wanted.iter().zip(take_ids(tx, wanted.len())?..) {
        let reason = texts.id(tx, &listed.reason)?;
        let target = key::key(&listed.target);
        let end = listed.expires_at.map(|end| end.as_microsecond());
        insert.execute(params![id, target, tier as u8, origin, reason, now_us, end, number])?;
        changed.changes.push(Change::Add(Entry {
            target: listed.target,
            tier,
            id,
            expires_at: wire_expiry(listed.expires_at),
        }));
    }
    Ok(changed)
}

/// What an origin has.
fn present(tx: &Transaction<'_>, origin: &str, of_set: Tier, now_us: i64) -> Work<Present> {
    let mut present = Present::default();
    let Some(origin) = Texts::find(tx, origin)? else { return Ok(present) };
    // Nothing but the index is read: an index of its own would cost each import more.
    let mut statement = tx.prepare_cached(
        "SELECT id, target, tier, expires_at FROM decisions INDEXED BY decisions_live \
         WHERE removed IS NULL AND origin = ?1",
    )?;
    let mut rows = statement.query([origin])?;
    while let Some(row) = rows.next()? {
        let tier = Tier::from_code(row.get(2)?)
            .ok_or_else(|| Failure::damaged("a decision has an unknown tier"))?;
        let which = (row.get(0)?, target(row, 1)?, tier);
        present.note(which, row.get(3)?, of_set, now_us);
    }
    Ok(present)
}

/// Targets of decisions that were removed or ended after a time, each once.
pub(super) fn ended_since(
    tx: &Transaction<'_>,
    since: Timestamp,
    most: usize,
    now: Timestamp,
) -> Work<Vec<IpNet>> {
    let mut statement = tx.prepare_cached(
        "SELECT DISTINCT target FROM decisions \
         WHERE removed_at > ?1 OR (removed IS NULL AND expires_at > ?1 AND expires_at <= ?2) \
         LIMIT ?3",
    )?;
    let mut rows =
        statement.query(params![since.as_microsecond(), now.as_microsecond(), limit(most)])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(target(row, 0)?);
    }
    Ok(out)
}

/// Removes live decisions as one revision; none when nothing matches.
pub(super) fn remove(tx: &Transaction<'_>, which: &Removal, now: Timestamp) -> Work<Removed> {
    let now_us = now.as_microsecond();
    let mut found = Vec::new();
    match which {
        Removal::Ids(ids) => {
            let mut statement =
                tx.prepare_cached(&format!("{SELECT} WHERE d.id = ?1 AND {LIVE}"))?;
            for id in ids {
                let mut rows = statement.query(params![id, now_us])?;
                while let Some(row) = rows.next()? {
                    found.push(decision(row)?);
                }
            }
        }
        Removal::Targets { targets, action, origin } => {
            let mut conditions = Conditions::new("d.target = ?1");
            conditions.and(LIVE, []);
            conditions.and(of_action(*action), []);
            if origin.is_some() {
                conditions.and("o.text = ?3", []);
            }
            let origin = origin.clone().map(String::from);
            let mut statement =
                tx.prepare_cached(&format!("{SELECT} WHERE {}", conditions.sql()))?;
            for target in targets {
                let key = key::key(target);
                let mut rows = match &origin {
                    Some(origin) => statement.query(params![key, now_us, origin])?,
                    None => statement.query(params![key, now_us])?,
                };
                while let Some(row) = rows.next()? {
                    found.push(decision(row)?);
                }
            }
        }
    }
    // The same number or target may have been named twice.
    found.sort_by_key(|decision| decision.id);
    found.dedup_by_key(|decision| decision.id);
    if found.is_empty() {
        return Ok(Removed { revision: revision(tx)?, decisions: found, changes: vec![] });
    }
    let revision = next_revision(tx)?;
    let mut retire = prepare_retire(tx)?;
    for decision in &found {
        retire.execute(params![decision.id, revision.number.cast_signed(), now_us])?;
    }
    let changes = found
        .iter()
        .map(|decision| Change::Remove { target: decision.target, id: decision.id })
        .collect();
    Ok(Removed { revision, decisions: found, changes })
}

/// Lists live decisions, newest first, and counts all that match.
pub(super) fn list(
    tx: &Transaction<'_>,
    filter: &DecisionFilter,
    now: Timestamp,
) -> Work<(Vec<Decision>, u64)> {
    let now_us = now.as_microsecond();
    let mut conditions = Conditions::new("d.removed IS NULL");
    conditions.and("(d.expires_at IS NULL OR d.expires_at > ?)", [Value::Integer(now_us)]);
    if let Some(origin) = &filter.origin {
        let Some(origin) = Texts::find(tx, &String::from(origin.clone()))? else {
            return Ok((vec![], 0));
        };
        conditions.and("d.origin = ?", [Value::Integer(origin)]);
    }
    if let Some(action) = filter.action {
        conditions.and(of_action(action), []);
    }
    if let Some(net) = &filter.inside {
        let (first, last) = key::inside(net);
        conditions.and("d.target BETWEEN ? AND ?", [Value::Blob(first), Value::Blob(last)]);
    }
    let total: i64 = tx
        .prepare_cached(&format!(
            "SELECT count(*) FROM decisions d INDEXED BY decisions_live WHERE {}",
            conditions.sql()
        ))?
        .query_row(params_from_iter(conditions.values()), |row| row.get(0))?;
    if let Some(before) = filter.before {
        conditions.and("d.id < ?", [Value::Integer(before.into())]);
    }
    // Inside a network the index finds the few; otherwise the newest come first without
    // sorting.
    let path = if filter.inside.is_some() { "INDEXED BY decisions_live" } else { "NOT INDEXED" };
    let mut statement = tx.prepare_cached(&format!(
        "{SELECT_FIELDS} FROM decisions d {path} {JOIN_TEXTS} WHERE {} ORDER BY d.id DESC LIMIT ?",
        conditions.sql()
    ))?;
    let limit = Value::Integer(limit(filter.limit));
    let mut rows = statement.query(params_from_iter(conditions.values().chain([&limit])))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(decision(row)?);
    }
    Ok((out, total.cast_unsigned()))
}

/// Live decisions whose target contains a network, the one with the longest prefix first.
pub(super) fn covering(tx: &Transaction<'_>, net: &IpNet, now: Timestamp) -> Work<Vec<Decision>> {
    let ancestors: Vec<Value> = key::covering(net).map(Value::Blob).collect();
    let mut statement = tx.prepare_cached(&format!(
        "{SELECT} WHERE d.target IN rarray(?1) AND {LIVE} ORDER BY d.target DESC, d.tier, d.id"
    ))?;
    let mut rows = statement.query(params![Rc::new(ancestors), now.as_microsecond()])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(decision(row)?);
    }
    Ok(out)
}

/// All live decisions in wire order, with the revision.
pub(super) fn entries(tx: &Transaction<'_>, now: Timestamp) -> Work<(Revision, Vec<Entry>)> {
    let revision = revision(tx)?;
    // Nothing but the index is read.
    let mut statement = tx.prepare_cached(
        "SELECT target, tier, id, expires_at FROM decisions INDEXED BY decisions_live \
         WHERE removed IS NULL AND (expires_at IS NULL OR expires_at > ?1) ORDER BY target, tier",
    )?;
    let mut rows = statement.query([now.as_microsecond()])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(Entry {
            target: target(row, 0)?,
            tier: Tier::from_code(row.get(1)?)
                .ok_or_else(|| Failure::damaged("a decision has an unknown tier"))?,
            id: row.get(2)?,
            expires_at: wire_expiry(row.get::<_, Option<i64>>(3)?.map(timestamp).transpose()?),
        });
    }
    // In order already, but for several of one target and tier.
    out.sort_by_key(Entry::sort_key);
    Ok((revision, out))
}

/// Forgets at most [`SWEEP_ROWS`] decisions that ended before a time. Returns how many.
pub(super) fn sweep(tx: &Transaction<'_>, before: Timestamp) -> Work<u64> {
    let swept = tx
        .prepare_cached(
            "DELETE FROM decisions WHERE id IN (SELECT id FROM decisions \
             WHERE coalesce(min(removed_at, expires_at), removed_at, expires_at) < ?1 LIMIT ?2)",
        )?
        .execute(params![before.as_microsecond(), SWEEP_ROWS.cast_signed()])?;
    Ok(swept as u64)
}

/// Forgets reasons and origins that no decision has any more.
pub(super) fn sweep_texts(tx: &Transaction<'_>) -> Work<()> {
    tx.execute(
        "DELETE FROM texts WHERE id NOT IN \
         (SELECT origin FROM decisions UNION SELECT reason FROM decisions)",
        [],
    )?;
    Ok(())
}

/// Decisions with exactly a target, live or ended, newest first.
pub(super) fn all_of_target(
    tx: &Transaction<'_>,
    target: &IpNet,
    most: usize,
) -> Work<Vec<Decision>> {
    let sql = format!("{SELECT} WHERE d.target = ?1 ORDER BY d.id DESC LIMIT ?2");
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(params![key::key(target), super::limit(most)])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(decision(row)?);
    }
    Ok(out)
}

const INSERT: &str = "INSERT INTO decisions \
     (id, target, tier, origin, reason, created_at, expires_at, added) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
const SELECT_FIELDS: &str =
    "SELECT d.id, d.target, d.tier, o.text, r.text, d.created_at, d.expires_at";
const JOIN_TEXTS: &str = "JOIN texts o ON o.id = d.origin JOIN texts r ON r.id = d.reason";
const SELECT: &str = "SELECT d.id, d.target, d.tier, o.text, r.text, d.created_at, d.expires_at \
     FROM decisions d JOIN texts o ON o.id = d.origin JOIN texts r ON r.id = d.reason";
/// With the time as the second value.
const LIVE: &str = "d.removed IS NULL AND (d.expires_at IS NULL OR d.expires_at > ?2)";

fn of_action(action: Action) -> &'static str {
    match action {
        Action::Allow => "d.tier = 0",
        Action::Block => "d.tier > 0",
    }
}

fn prepare_retire<'t>(tx: &'t Transaction<'_>) -> Work<rusqlite::CachedStatement<'t>> {
    Ok(tx.prepare_cached("UPDATE decisions SET removed = ?2, removed_at = ?3 WHERE id = ?1")?)
}

/// Takes the next revision.
pub(super) fn next_revision(tx: &Transaction<'_>) -> Work<Revision> {
    tx.execute("UPDATE meta SET revision = revision + 1", [])?;
    revision(tx)
}

/// Takes the next numbers in a row; the first of them.
pub(super) fn take_ids(tx: &Transaction<'_>, count: usize) -> Work<DecisionId> {
    let first: i64 = tx.query_row("SELECT next_decision FROM meta", [], |row| row.get(0))?;
    let used_up = || {
        Failure::Store(StoreError::Unusable(format!(
            "decision numbers are used up: {} were given, {} are the most there can be; \
             start with an empty state file",
            first - 1,
            LAST_ID
        )))
    };
    let next = i64::try_from(count).ok().and_then(|count| first.checked_add(count));
    let next = next.filter(|next| *next - 1 <= i64::from(LAST_ID)).ok_or_else(used_up)?;
    tx.execute("UPDATE meta SET next_decision = ?1", [next])?;
    DecisionId::try_from(first).map_err(|_| used_up())
}

fn target(row: &Row<'_>, column: usize) -> Work<IpNet> {
    let bytes = row.get_ref(column)?.as_blob().map_err(rusqlite::Error::from)?;
    key::target(bytes).ok_or_else(|| Failure::damaged("a decision has no valid target"))
}

/// A row of [`SELECT_FIELDS`].
fn decision(row: &Row<'_>) -> Work<Decision> {
    let origin: String = row.get(3)?;
    Ok(Decision {
        id: row.get(0)?,
        target: target(row, 1)?,
        action: if row.get::<_, u8>(2)? == Tier::Allow as u8 {
            Action::Allow
        } else {
            Action::Block
        },
        origin: origin
            .parse::<Origin>()
            .map_err(|_| Failure::damaged("a decision has no valid origin"))?,
        reason: row.get(4)?,
        created_at: timestamp(row.get(5)?)?,
        expires_at: row.get::<_, Option<i64>>(6)?.map(timestamp).transpose()?,
    })
}

/// Numbers of texts, looked up once a call.
#[derive(Default)]
struct Texts {
    ids: HashMap<String, i64>,
}

impl Texts {
    fn id(&mut self, tx: &Transaction<'_>, text: &str) -> Work<i64> {
        if let Some(id) = self.ids.get(text) {
            return Ok(*id);
        }
        let id = match Self::find(tx, text)? {
            Some(id) => id,
            None => tx.prepare_cached("INSERT INTO texts (text) VALUES (?1)")?.insert([text])?,
        };
        self.ids.insert(text.to_owned(), id);
        Ok(id)
    }

    fn find(tx: &Transaction<'_>, text: &str) -> Work<Option<i64>> {
        let mut statement = tx.prepare_cached("SELECT id FROM texts WHERE text = ?1")?;
        Ok(statement.query_row([text], |row| row.get(0)).optional()?)
    }
}
