//! Decisions: one set, one revision number, every past state of a decision until it is swept.
//!
//! The same as in SQLite (see there for what *live* means), in statements over lists: a list
//! of a million takes a few hundred of them, not millions.

use futures_util::TryStreamExt as _;
use hashbrown::HashMap;
use ipnet::IpNet;
use ipwarden::decisions::{Change, Entry, Tier, wire};
use jiff::Timestamp;
use tokio_postgres::Row;

use super::{bounded, timestamp};
use crate::model::{Action, Decision, DecisionId, NewDecision, Origin, Revision, tier};
use crate::store::postgres::conditions::Conditions;
use crate::store::postgres::connection::Tx;
use crate::store::postgres::failure::{Failure, Work};
use crate::store::replacing::Present;
use crate::store::view::wire_expiry;
use crate::store::{
    Added, DecisionFilter, OriginSet, Removal, Removed, RevisionStep, SetChanged, StoreError, key,
};

/// Decisions forgotten in one transaction.
pub(super) const SWEEP_ROWS: u64 = 20_000;
/// Decisions in one statement.
const CHUNK: usize = 10_000;
/// Revisions that are kept for other control planes.
const KEPT_STEPS: i64 = 1_024;
/// Largest step that is kept; of a larger one others read the whole set.
const STEP_BYTES: usize = 256 * 1024;
/// The last number a decision can have.
const LAST_ID: DecisionId = DecisionId::MAX - 1;

/// What `meta` says, as far as revisions go.
pub(super) async fn revision(tx: &Tx) -> Work<Revision> {
    let row = tx.one("SELECT epoch, revision FROM meta", &[]).await?;
    revision_of(&row)
}

fn revision_of(row: &Row) -> Work<Revision> {
    let (epoch, number): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    Ok(Revision { epoch: epoch.cast_unsigned(), number: number.cast_unsigned() })
}

/// Takes the turn: until the end of the transaction nobody else changes decisions or limits,
/// and what was committed before is seen.
pub(super) async fn take_turn(tx: &Tx) -> Work<()> {
    tx.one("SELECT id FROM meta FOR UPDATE", &[]).await?;
    Ok(())
}

/// Takes the next revision.
pub(super) async fn next_revision(tx: &Tx) -> Work<Revision> {
    let sql = "UPDATE meta SET revision = revision + 1 RETURNING epoch, revision";
    revision_of(&tx.one(sql, &[]).await?)
}

/// Keeps a step for other control planes, and tells them of it when it is committed.
pub(super) async fn publish(
    tx: &Tx,
    revision: Revision,
    changes: &[Change],
    limits: bool,
    now: Timestamp,
) -> Work<()> {
    let created = u32::try_from(now.as_second().max(0)).unwrap_or(u32::MAX);
    let delta = (changes.len() <= STEP_BYTES)
        .then(|| wire::encode_delta(revision.number - 1, revision, created, changes))
        .filter(|delta| delta.len() <= STEP_BYTES);
    let number = revision.number.cast_signed();
    tx.execute(
        "INSERT INTO changes (revision, limits, delta) VALUES ($1, $2, $3)",
        &[&number, &limits, &delta],
    )
    .await?;
    tx.execute("DELETE FROM changes WHERE revision <= $1", &[&(number - KEPT_STEPS)]).await?;
    super::notify(tx, super::News::DECISIONS).await
}

/// The steps after a revision, if all of them are kept.
pub(super) async fn steps_after(tx: &Tx, after: Revision) -> Work<Option<Vec<RevisionStep>>> {
    let present = revision(tx).await?;
    if present.epoch != after.epoch || present.number < after.number {
        return Ok(None);
    }
    let rows = tx
        .query(
            "SELECT revision, limits, delta FROM changes WHERE revision > $1 ORDER BY revision",
            &[&after.number.cast_signed()],
        )
        .await?;
    if rows.len() as u64 != present.number - after.number {
        return Ok(None);
    }
    let mut steps = Vec::with_capacity(rows.len());
    for row in rows {
        let number: i64 = row.try_get(0)?;
        let Some(delta) = row.try_get::<_, Option<&[u8]>>(2)? else { return Ok(None) };
        let mut changes = Vec::new();
        let damaged = |_| Failure::damaged("a step of decisions can't be read");
        for frame in wire::decode(delta).map_err(damaged)?.frames {
            frame.changes(|change| changes.push(change)).map_err(damaged)?;
        }
        let revision = Revision { number: number.cast_unsigned(), ..present };
        steps.push(RevisionStep { revision, changes, limits: row.try_get(1)? });
    }
    Ok(Some(steps))
}

/// Forgets the steps: others read the whole set.
pub(super) async fn forget_steps(tx: &Tx) -> Work<()> {
    tx.execute("DELETE FROM changes", &[]).await?;
    Ok(())
}

/// A decision to be written.
struct Fresh<'a> {
    id: DecisionId,
    target: Vec<u8>,
    tier: Tier,
    origin: &'a str,
    reason: &'a str,
    expires_at: Option<Timestamp>,
    /// Replaced by a later one of the same call.
    is_retired: bool,
}

/// Adds decisions as one revision; none for an empty list.
pub(super) async fn add(tx: &Tx, new: &[NewDecision], now: Timestamp) -> Work<Added> {
    if new.is_empty() {
        let revision = revision(tx).await?;
        return Ok(Added { revision, ids: vec![], replaced: vec![], changes: vec![] });
    }
    take_turn(tx).await?;
    let revision = next_revision(tx).await?;
    let first_id = take_ids(tx, new.len()).await?;
    let origins: Vec<String> =
        new.iter().map(|decision| String::from(decision.origin.clone())).collect();
    let mut fresh: Vec<Fresh<'_>> = (first_id..)
        .zip(new.iter().zip(&origins))
        .map(|(id, (new, origin))| Fresh {
            id,
            target: key::key(&new.target),
            tier: tier(new.action, &new.origin),
            origin,
            reason: &new.reason,
            expires_at: new.expires_at,
            is_retired: false,
        })
        .collect();
    let mut earlier = HashMap::with_capacity(fresh.len());
    for chunk in fresh.chunks(CHUNK) {
        let sql = "SELECT d.target, d.tier, d.origin, d.id, d.expires_at FROM decisions d \
             JOIN unnest($1::bytea[], $2::bigint[], $3::text[]) AS n (target, tier, origin) \
             ON d.target = n.target AND d.tier = n.tier AND d.origin = n.origin \
             WHERE d.removed IS NULL";
        let targets: Vec<&[u8]> = chunk.iter().map(|fresh| fresh.target.as_slice()).collect();
        let tiers: Vec<i64> = chunk.iter().map(|fresh| fresh.tier as i64).collect();
        let origins: Vec<&str> = chunk.iter().map(|fresh| fresh.origin).collect();
        for row in tx.query(sql, &[&targets, &tiers, &origins]).await? {
            let of: (Vec<u8>, i64, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            earlier.insert(of, (id_of(&row, 3)?, row.try_get::<_, Option<i64>>(4)?));
        }
    }
    let now_us = now.as_microsecond();
    let (mut replaced, mut removals, mut retired) = (Vec::new(), Vec::new(), Vec::new());
    for at in 0..fresh.len() {
        let Some(decision) = fresh.get(at) else { break };
        let of = (decision.target.clone(), decision.tier as i64, decision.origin.to_owned());
        let end = decision.expires_at.map(|end| end.as_microsecond());
        let Some((id, earlier_end)) = earlier.insert(of, (decision.id, end)) else { continue };
        // One that has ended makes room without being replaced: it no longer applied.
        let applied = earlier_end.is_none_or(|end| now_us < end);
        if applied {
            replaced.push(id);
        }
        // The same target twice in one call: the first never reaches a proxy.
        match id.checked_sub(first_id).and_then(|before| fresh.get_mut(before as usize)) {
            Some(before) => before.is_retired = true,
            None => {
                retired.push(i64::from(id));
                if applied && let Some(decision) = new.get(at) {
                    removals.push(Change::Remove { target: decision.target, id });
                }
            }
        }
    }
    let number = revision.number.cast_signed();
    retire(tx, &retired, number, now_us).await?;
    for chunk in fresh.chunks(CHUNK) {
        insert(tx, chunk, number, now_us).await?;
    }
    let additions = fresh.iter().zip(new).filter(|(fresh, _)| !fresh.is_retired);
    let additions = additions.map(|(fresh, new)| {
        Change::Add(Entry {
            target: new.target,
            tier: fresh.tier,
            id: fresh.id,
            expires_at: wire_expiry(fresh.expires_at),
        })
    });
    removals.extend(additions);
    publish(tx, revision, &removals, false, now).await?;
    let ids = (first_id..).take(new.len()).collect();
    Ok(Added { revision, ids, replaced, changes: removals })
}

async fn insert(tx: &Tx, chunk: &[Fresh<'_>], number: i64, now_us: i64) -> Work<()> {
    let ids: Vec<i64> = chunk.iter().map(|fresh| i64::from(fresh.id)).collect();
    let targets: Vec<&[u8]> = chunk.iter().map(|fresh| fresh.target.as_slice()).collect();
    let tiers: Vec<i64> = chunk.iter().map(|fresh| fresh.tier as i64).collect();
    let origins: Vec<&str> = chunk.iter().map(|fresh| fresh.origin).collect();
    let reasons: Vec<&str> = chunk.iter().map(|fresh| fresh.reason).collect();
    let ends: Vec<Option<i64>> =
        chunk.iter().map(|fresh| fresh.expires_at.map(|end| end.as_microsecond())).collect();
    let retired: Vec<bool> = chunk.iter().map(|fresh| fresh.is_retired).collect();
    tx.execute(
        "INSERT INTO decisions (id, target, tier, origin, reason, created_at, expires_at, added, \
             removed, removed_at) \
         SELECT id, target, tier, origin, reason, $8::bigint, expires_at, $9::bigint, \
             CASE WHEN retired THEN $9::bigint END, CASE WHEN retired THEN $8::bigint END \
         FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::text[], $5::text[], \
             $6::bigint[], $7::boolean[]) AS n (id, target, tier, origin, reason, expires_at, retired)",
        &[&ids, &targets, &tiers, &origins, &reasons, &ends, &retired, &now_us, &number],
    )
    .await?;
    Ok(())
}

async fn retire(tx: &Tx, ids: &[i64], number: i64, now_us: i64) -> Work<()> {
    for chunk in ids.chunks(CHUNK) {
        tx.execute(
            "UPDATE decisions SET removed = $2, removed_at = $3 WHERE id = ANY ($1)",
            &[&chunk, &number, &now_us],
        )
        .await?;
    }
    Ok(())
}

/// Makes a set the live decisions of its origin as one revision; none where nothing differs.
pub(super) async fn replace(tx: &Tx, set: &OriginSet, now: Timestamp) -> Work<SetChanged> {
    take_turn(tx).await?;
    let now_us = now.as_microsecond();
    let tier = tier(set.action, &set.origin);
    let origin = String::from(set.origin.clone());
    let replacing = present(tx, &origin, tier, now_us).await?.replaced_by(set);
    let mut changed = SetChanged {
        revision: revision(tx).await?,
        added: replacing.added(),
        removed: replacing.removed(),
        renewed: replacing.renewed,
        kept: replacing.kept,
        changes: Vec::with_capacity(replacing.gone.len() + replacing.wanted.len()),
    };
    if replacing.is_nothing() {
        return Ok(changed);
    }
    changed.revision = next_revision(tx).await?;
    let number = changed.revision.number.cast_signed();
    let gone = replacing.gone.iter().map(|(_, id)| *id);
    let retired: Vec<i64> = replacing.ended.iter().copied().chain(gone).map(i64::from).collect();
    retire(tx, &retired, number, now_us).await?;
    let removals = replacing.gone.iter().map(|(target, id)| (*target, *id));
    changed.changes.extend(removals.map(|(target, id)| Change::Remove { target, id }));
    let first_id = take_ids(tx, replacing.wanted.len()).await?;
    let fresh: Vec<Fresh<'_>> = (first_id..)
        .zip(&replacing.wanted)
        .map(|(id, listed)| Fresh {
            id,
            target: key::key(&listed.target),
            tier,
            origin: &origin,
            reason: &listed.reason,
            expires_at: listed.expires_at,
            is_retired: false,
        })
        .collect();
    for chunk in fresh.chunks(CHUNK) {
        insert(tx, chunk, number, now_us).await?;
    }
    let added = fresh.iter().zip(&replacing.wanted).map(|(fresh, listed)| {
        Change::Add(Entry {
            target: listed.target,
            tier,
            id: fresh.id,
            expires_at: wire_expiry(listed.expires_at),
        })
    });
    changed.changes.extend(added);
    publish(tx, changed.revision, &changed.changes, false, now).await?;
    Ok(changed)
}

/// What an origin has. Nothing but an index is read.
async fn present(tx: &Tx, origin: &str, of_set: Tier, now_us: i64) -> Work<Present> {
    let rows = tx
        .stream(
            "SELECT target, tier, id, expires_at FROM decisions \
             WHERE removed IS NULL AND origin = $1",
            &[&origin],
        )
        .await?;
    let mut rows = std::pin::pin!(rows);
    let mut present = Present::default();
    while let Some(row) = rows.try_next().await? {
        let which = (id_of(&row, 2)?, target(&row, 0)?, tier_of(&row, 1)?);
        present.note(which, row.try_get(3)?, of_set, now_us);
    }
    Ok(present)
}

/// Targets of decisions that were removed or ended after a time, each once.
pub(super) async fn ended_since(
    tx: &Tx,
    since: Timestamp,
    most: usize,
    now: Timestamp,
) -> Work<Vec<IpNet>> {
    let rows = tx
        .query(
            "SELECT DISTINCT target FROM decisions WHERE removed_at > $1 \
             OR (removed IS NULL AND expires_at > $1 AND expires_at <= $2) LIMIT $3",
            &[&since.as_microsecond(), &now.as_microsecond(), &bounded(most)],
        )
        .await?;
    rows.iter().map(|row| target(row, 0)).collect()
}

/// Removes live decisions as one revision; none when nothing matches.
pub(super) async fn remove(tx: &Tx, which: &Removal, now: Timestamp) -> Work<Removed> {
    take_turn(tx).await?;
    let now_us = now.as_microsecond();
    let mut found = Vec::new();
    match which {
        Removal::Ids(ids) => {
            let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
            for chunk in ids.chunks(CHUNK) {
                let sql = format!("{SELECT} WHERE id = ANY ($1) AND {LIVE}");
                for row in tx.query(&sql, &[&chunk, &now_us]).await? {
                    found.push(decision(&row)?);
                }
            }
        }
        Removal::Targets { targets, action, origin } => {
            let keys: Vec<Vec<u8>> = targets.iter().map(key::key).collect();
            let origin = origin.clone().map(String::from);
            let sql = format!(
                "{SELECT} WHERE target = ANY ($1) AND {LIVE} AND {} \
                 AND ($3::text IS NULL OR origin = $3)",
                of_action(*action)
            );
            for chunk in keys.chunks(CHUNK) {
                for row in tx.query(&sql, &[&chunk, &now_us, &origin]).await? {
                    found.push(decision(&row)?);
                }
            }
        }
    }
    // The same number or target may have been named twice.
    found.sort_by_key(|decision| decision.id);
    found.dedup_by_key(|decision| decision.id);
    if found.is_empty() {
        return Ok(Removed { revision: revision(tx).await?, decisions: found, changes: vec![] });
    }
    let revision = next_revision(tx).await?;
    let ids: Vec<i64> = found.iter().map(|decision| i64::from(decision.id)).collect();
    retire(tx, &ids, revision.number.cast_signed(), now_us).await?;
    let changes: Vec<Change> = found
        .iter()
        .map(|decision| Change::Remove { target: decision.target, id: decision.id })
        .collect();
    publish(tx, revision, &changes, false, now).await?;
    Ok(Removed { revision, decisions: found, changes })
}

/// Lists live decisions, newest first, and counts all that match.
pub(super) async fn list(
    tx: &Tx,
    filter: &DecisionFilter,
    now: Timestamp,
) -> Work<(Vec<Decision>, u64)> {
    let mut conditions = Conditions::new("removed IS NULL");
    conditions.and("(expires_at IS NULL OR expires_at > ?)", [Box::new(now.as_microsecond())]);
    if let Some(origin) = &filter.origin {
        conditions.and("origin = ?", [Box::new(String::from(origin.clone()))]);
    }
    if let Some(action) = filter.action {
        conditions.and(of_action(action), []);
    }
    if let Some(net) = &filter.inside {
        let (first, last) = key::inside(net);
        conditions.and("target BETWEEN ? AND ?", [Box::new(first), Box::new(last)]);
    }
    let sql = format!("SELECT count(*) FROM decisions WHERE {}", conditions.sql());
    let total: i64 = tx.one(&sql, &conditions.values()).await?.try_get(0)?;
    if let Some(before) = filter.before {
        conditions.and("id < ?", [Box::new(i64::from(before))]);
    }
    conditions.then(" ORDER BY id DESC LIMIT ?", [Box::new(bounded(filter.limit))]);
    let sql = format!("{SELECT} WHERE {}", conditions.sql());
    let mut out = Vec::new();
    for row in tx.query(&sql, &conditions.values()).await? {
        out.push(decision(&row)?);
    }
    Ok((out, total.cast_unsigned()))
}

/// Live decisions whose target contains a network, the one with the longest prefix first.
pub(super) async fn covering(tx: &Tx, net: &IpNet, now: Timestamp) -> Work<Vec<Decision>> {
    let ancestors: Vec<Vec<u8>> = key::covering(net).collect();
    let sql = format!("{SELECT} WHERE target = ANY ($1) AND {LIVE} ORDER BY target DESC, tier, id");
    let rows = tx.query(&sql, &[&ancestors, &now.as_microsecond()]).await?;
    rows.iter().map(decision).collect()
}

/// All live decisions in wire order, with the revision.
pub(super) async fn entries(tx: &Tx, now: Timestamp) -> Work<(Revision, Vec<Entry>)> {
    let revision = revision(tx).await?;
    let rows = tx
        .stream(
            "SELECT target, tier, id, expires_at FROM decisions \
             WHERE removed IS NULL AND (expires_at IS NULL OR expires_at > $1) \
             ORDER BY target, tier",
            &[&now.as_microsecond()],
        )
        .await?;
    let mut rows = std::pin::pin!(rows);
    let mut out = Vec::new();
    while let Some(row) = rows.try_next().await? {
        out.push(Entry {
            target: target(&row, 0)?,
            tier: tier_of(&row, 1)?,
            id: id_of(&row, 2)?,
            expires_at: wire_expiry(row.try_get::<_, Option<i64>>(3)?.map(timestamp).transpose()?),
        });
    }
    // In order already, but for several of one target and tier.
    out.sort_by_key(Entry::sort_key);
    Ok((revision, out))
}

/// Forgets at most [`SWEEP_ROWS`] decisions that ended before a time. Returns how many.
pub(super) async fn sweep(tx: &Tx, before: Timestamp) -> Work<u64> {
    tx.execute(
        "DELETE FROM decisions WHERE id IN (SELECT id FROM decisions \
         WHERE LEAST(removed_at, expires_at) < $1 LIMIT $2)",
        &[&before.as_microsecond(), &SWEEP_ROWS.cast_signed()],
    )
    .await
}

/// Decisions with exactly a target, live or ended, newest first.
pub(super) async fn all_of_target(tx: &Tx, target: &IpNet, most: usize) -> Work<Vec<Decision>> {
    let sql = format!("{SELECT} WHERE target = $1 ORDER BY id DESC LIMIT $2");
    let rows = tx.query(&sql, &[&key::key(target), &bounded(most)]).await?;
    rows.iter().map(decision).collect()
}

const SELECT: &str =
    "SELECT id, target, tier, origin, reason, created_at, expires_at FROM decisions";
/// With the time as the second value.
const LIVE: &str = "removed IS NULL AND (expires_at IS NULL OR expires_at > $2)";

const fn of_action(action: Action) -> &'static str {
    match action {
        Action::Allow => "tier = 0",
        Action::Block => "tier > 0",
    }
}

/// Takes the next numbers in a row; the first of them. To be called in one's turn.
pub(super) async fn take_ids(tx: &Tx, count: usize) -> Work<DecisionId> {
    let first: i64 = tx.one("SELECT next_decision FROM meta", &[]).await?.try_get(0)?;
    let used_up = || {
        Failure::Store(StoreError::Unusable(format!(
            "decision numbers are used up: {} were given, {} are the most there can be; \
             start with an empty database",
            first - 1,
            LAST_ID
        )))
    };
    let next = i64::try_from(count).ok().and_then(|count| first.checked_add(count));
    let next = next.filter(|next| *next - 1 <= i64::from(LAST_ID)).ok_or_else(used_up)?;
    tx.execute("UPDATE meta SET next_decision = $1", &[&next]).await?;
    DecisionId::try_from(first).map_err(|_| used_up())
}

fn target(row: &Row, column: usize) -> Work<IpNet> {
    let bytes: &[u8] = row.try_get(column)?;
    key::target(bytes).ok_or_else(|| Failure::damaged("a decision has no valid target"))
}

fn tier_of(row: &Row, column: usize) -> Work<Tier> {
    let code = u8::try_from(row.try_get::<_, i64>(column)?).ok();
    code.and_then(Tier::from_code).ok_or_else(|| Failure::damaged("a decision has an unknown tier"))
}

/// A decision's number.
pub(super) fn id_of(row: &Row, column: usize) -> Work<DecisionId> {
    DecisionId::try_from(row.try_get::<_, i64>(column)?)
        .map_err(|_| Failure::damaged("a decision's number is out of range"))
}

/// A row of [`SELECT`].
fn decision(row: &Row) -> Work<Decision> {
    let origin: &str = row.try_get(3)?;
    Ok(Decision {
        id: id_of(row, 0)?,
        target: target(row, 1)?,
        action: if tier_of(row, 2)? == Tier::Allow { Action::Allow } else { Action::Block },
        origin: origin
            .parse::<Origin>()
            .map_err(|_| Failure::damaged("a decision has no valid origin"))?,
        reason: row.try_get(4)?,
        created_at: timestamp(row.try_get(5)?)?,
        expires_at: row.try_get::<_, Option<i64>>(6)?.map(timestamp).transpose()?,
    })
}
