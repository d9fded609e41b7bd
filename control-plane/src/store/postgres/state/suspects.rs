//! Suspects, the blocks that the policy made, and the hours that were passed over.
//!
//! How flags merge is [`crate::suspects`]'; here they are found and kept, in statements over
//! lists. Whoever notes flags or blocks is alone with suspects until its transaction ends.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use ipnet::IpNet;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::outbox::{self, Event};
use super::{News, bounded, decisions, notify, plain, timestamp};
use crate::detect::{Flag, Severity};
use crate::model::Actor;
use crate::notify::EventKind;
use crate::privacy::Veil;
use crate::store::columns::{self, SELECT_SUSPECT as SELECT};
use crate::store::postgres::conditions::Conditions;
use crate::store::postgres::connection::Tx;
use crate::store::postgres::failure::{Failure, Work};
use crate::store::view::clamped;
use crate::store::{AutomaticBlock, BlockHistory, PassDone, key};
use crate::suspects::{
    Closing, MAX_OPEN, Merged, Noted, Reason, Sighting, Status, Suspect, SuspectFilter,
};

/// Targets in one statement.
const CHUNK: usize = 1_000;

/// Whom flags are about: a target and what it is.
type Whom = (Vec<u8>, Veil);

/// Until the end of the transaction nobody else notes flags, blocks or messages.
pub(super) async fn take_turn(tx: &Tx) -> Work<()> {
    tx.one("SELECT name FROM locks WHERE name = 'suspects' FOR UPDATE", &[]).await?;
    Ok(())
}

/// Merges flags into suspects, target by target, each target's in their order.
pub(super) async fn note(tx: &Tx, sightings: &[Sighting], now: Timestamp) -> Work<Vec<Noted>> {
    take_turn(tx).await?;
    let mut targets: BTreeMap<Whom, Vec<&Sighting>> = BTreeMap::new();
    for sighting in sightings {
        let Flag { target, veil, .. } = &sighting.flag;
        targets.entry((key::key(target), *veil)).or_default().push(sighting);
    }
    let targets: Vec<(Whom, Vec<&Sighting>)> = targets.into_iter().collect();
    let mut noted = Vec::with_capacity(targets.len());
    for chunk in targets.chunks(CHUNK) {
        noted.extend(note_chunk(tx, chunk, now).await?);
    }
    outbox::bound(tx).await?;
    if !noted.is_empty() {
        notify(tx, News::SUSPECTS).await?;
    }
    Ok(noted)
}

async fn note_chunk(tx: &Tx, chunk: &[(Whom, Vec<&Sighting>)], now: Timestamp) -> Work<Vec<Noted>> {
    let mut known = known(tx, chunk, now).await?;
    let mut merged: Vec<Merged> = chunk
        .iter()
        .map(|(whom, sightings)| Merged::of(known.remove(whom).unwrap_or_default(), sightings))
        .collect();
    let count = merged.iter().filter(|merged| merged.opened).count();
    let rows = tx
        .query(
            "SELECT nextval(pg_get_serial_sequence('suspects', 'id')) FROM generate_series(1, $1::bigint)",
            &[&clamped(count as u64)],
        )
        .await?;
    let mut ids = Vec::with_capacity(rows.len());
    for row in rows {
        ids.push(row.try_get::<_, i64>(0)?);
    }
    ids.sort_unstable();
    let opened = merged.iter_mut().filter(|merged| merged.opened);
    for (suspect, id) in opened.filter_map(|merged| merged.suspect.as_mut()).zip(ids) {
        suspect.id = id;
    }
    write(tx, merged.iter().filter(|merged| merged.opened), true, now).await?;
    write(tx, merged.iter().filter(|merged| !merged.opened), false, now).await?;
    let events: Vec<Event<'_>> = merged
        .iter()
        .filter_map(|merged| {
            let (kind, suspect) = (merged.event()?, merged.suspect.as_ref()?);
            Some(Event { kind, suspect, decision: None })
        })
        .collect();
    outbox::put(tx, &events, now).await?;
    Ok(merged.into_iter().map(Merged::noted).collect())
}

/// What is known of some targets, for each the newest first: open ones, and judged ones whose
/// quiet time lasts.
async fn known(
    tx: &Tx,
    chunk: &[(Whom, Vec<&Sighting>)],
    now: Timestamp,
) -> Work<HashMap<Whom, Vec<Suspect>>> {
    let targets: Vec<&[u8]> = chunk.iter().map(|((target, _), _)| target.as_slice()).collect();
    let forms: Vec<i64> = chunk.iter().map(|((_, veil), _)| veil.form as i64).collect();
    let keys: Vec<i64> = chunk.iter().map(|((_, veil), _)| veil.key_number().into()).collect();
    let sql = format!(
        "SELECT {} FROM suspects s \
         JOIN unnest($1::bytea[], $2::bigint[], $3::bigint[]) AS n (target, form, key) \
         ON s.target = n.target AND s.form = n.form AND s.key = n.key \
         WHERE s.status = 'open' OR s.quiet_until > $4 ORDER BY s.id DESC",
        columns::suspect("s.")
    );
    let mut known: HashMap<Whom, Vec<Suspect>> = HashMap::new();
    for row in tx.query(&sql, &[&targets, &forms, &keys, &now.as_microsecond()]).await? {
        let found = suspect_at(&row, 0)?;
        known.entry((key::key(&found.target), found.veil())).or_default().push(found);
    }
    Ok(known)
}

/// Writes suspects, new ones or ones that are there.
async fn write<'m>(
    tx: &Tx,
    merged: impl Iterator<Item = &'m Merged> + Send,
    new: bool,
    now: Timestamp,
) -> Work<()> {
    let found: Vec<&Suspect> = merged.filter_map(|merged| merged.suspect.as_ref()).collect();
    if found.is_empty() {
        return Ok(());
    }
    let of = |field: fn(&Suspect) -> i64| -> Vec<i64> {
        found.iter().map(|suspect| field(suspect)).collect()
    };
    let targets: Vec<Vec<u8>> = found.iter().map(|suspect| key::key(&suspect.target)).collect();
    let ids = of(|suspect| suspect.id);
    let severities = of(|suspect| suspect.severity as i64);
    let scores: Vec<f64> = found.iter().map(|suspect| suspect.score).collect();
    let first = of(|suspect| suspect.first_seen.as_microsecond());
    let last = of(|suspect| suspect.last_seen.as_microsecond());
    let countries: Vec<Option<&str>> =
        found.iter().map(|suspect| suspect.country.as_deref()).collect();
    let cities: Vec<Option<String>> =
        found.iter().map(|suspect| suspect.city.as_deref().map(plain)).collect();
    let systems: Vec<Option<i64>> =
        found.iter().map(|suspect| suspect.asn.map(i64::from)).collect();
    let reasons =
        found.iter().map(|suspect| json(&suspect.reasons)).collect::<Work<Vec<String>>>()?;
    let flags = of(|suspect| clamped(suspect.flags));
    let forms = of(|suspect| suspect.veil().form as i64);
    let keys = of(|suspect| suspect.veil().key_number().into());
    let rows = "unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::double precision[], \
         $5::bigint[], $6::bigint[], $7::text[], $8::text[], $9::bigint[], $10::text[], \
         $11::bigint[], $12::bigint[], $13::bigint[]) \
         AS n (id, target, severity, score, first_seen, last_seen, country, city, asn, reasons, \
         flags, form, key)";
    let sql = match new {
        true => format!(
            "INSERT INTO suspects (id, target, status, severity, score, first_seen, last_seen, \
                 noted_at, country, city, asn, reasons, flags, form, key) \
             SELECT id, target, 'open', severity, score, first_seen, last_seen, $14::bigint, \
                 country, city, asn, reasons, flags, form, key FROM {rows}"
        ),
        false => format!(
            "UPDATE suspects s SET severity = n.severity, score = n.score, \
                 first_seen = n.first_seen, last_seen = n.last_seen, noted_at = $14::bigint, \
                 country = n.country, city = n.city, asn = n.asn, reasons = n.reasons, \
                 flags = n.flags FROM {rows} WHERE s.id = n.id"
        ),
    };
    tx.execute(
        &sql,
        &[
            &ids,
            &targets,
            &severities,
            &scores,
            &first,
            &last,
            &countries,
            &cities,
            &systems,
            &reasons,
            &flags,
            &forms,
            &keys,
            &now.as_microsecond(),
        ],
    )
    .await?;
    Ok(())
}

/// Lists suspects, the newest number first, and counts all that match.
pub(super) async fn list(tx: &Tx, filter: &SuspectFilter) -> Work<(Vec<Suspect>, u64)> {
    let mut conditions = Conditions::new("TRUE");
    if let Some(status) = filter.status {
        conditions.and("status = ?", [Box::new(status.as_str().to_owned())]);
    }
    if let Some(net) = &filter.target {
        let (first, last) = key::inside(net);
        let covering: Vec<Vec<u8>> = key::covering(net).collect();
        conditions.and(
            "(target BETWEEN ? AND ? OR target = ANY (?))",
            [Box::new(first), Box::new(last), Box::new(covering)],
        );
        // A pseudonym is no address: it lies in no network.
        conditions.and("form < 2", []);
    }
    let sql = format!("SELECT count(*) FROM suspects WHERE {}", conditions.sql());
    let total: i64 = tx.one(&sql, &conditions.values()).await?.try_get(0)?;
    if let Some(before) = filter.before {
        conditions.and("id < ?", [Box::new(before)]);
    }
    conditions.then(" ORDER BY id DESC LIMIT ?", [Box::new(bounded(filter.limit))]);
    let sql = format!("{SELECT} WHERE {}", conditions.sql());
    let rows = tx.query(&sql, &conditions.values()).await?;
    let found = rows.iter().map(suspect).collect::<Work<_>>()?;
    Ok((found, total.cast_unsigned()))
}

/// One suspect.
pub(super) async fn get(tx: &Tx, id: i64) -> Work<Option<Suspect>> {
    let row = tx.optional(&format!("{SELECT} WHERE id = $1"), &[&id]).await?;
    row.as_ref().map(suspect).transpose()
}

/// All suspects of exactly a target that is kept so, newest first.
pub(super) async fn of_target(
    tx: &Tx,
    target: &IpNet,
    veil: Veil,
    most: usize,
) -> Work<Vec<Suspect>> {
    let sql =
        format!("{SELECT} WHERE target = $1 AND form = $2 AND key = $3 ORDER BY id DESC LIMIT $4");
    let (form, number) = (veil.form as i64, i64::from(veil.key_number()));
    let rows = tx.query(&sql, &[&key::key(target), &form, &number, &bounded(most)]).await?;
    rows.iter().map(suspect).collect()
}

/// Open suspects with flags of which the policy has not decided, the oldest first.
pub(super) async fn unjudged(tx: &Tx, most: usize) -> Work<Vec<Suspect>> {
    let sql = format!("{SELECT} WHERE judged < flags AND status = 'open' ORDER BY id LIMIT $1");
    let rows = tx.query(&sql, &[&bounded(most)]).await?;
    rows.iter().map(suspect).collect()
}

/// Notes that the policy has decided of so many flags, and the block that it made.
pub(super) async fn judged(
    tx: &Tx,
    id: i64,
    flags: u64,
    block: Option<&AutomaticBlock>,
) -> Work<()> {
    take_turn(tx).await?;
    tx.execute(
        "UPDATE suspects SET judged = greatest(judged, $2), decision = coalesce($3, decision) \
         WHERE id = $1",
        &[&id, &clamped(flags), &block.map(|block| i64::from(block.decision))],
    )
    .await?;
    let Some(block) = block else { return Ok(()) };
    let new = tx
        .execute(
            "INSERT INTO automatic_blocks (target, time, decision) VALUES ($1, $2, $3) \
             ON CONFLICT (decision) DO NOTHING",
            &[&key::key(&block.target), &block.time.as_microsecond(), &i64::from(block.decision)],
        )
        .await?;
    if new == 1
        && let Some(suspect) = get(tx, id).await?
    {
        let kind = EventKind::Blocked;
        let event = Event { kind, suspect: &suspect, decision: Some(block.decision) };
        outbox::put(tx, &[event], block.time).await?;
        outbox::bound(tx).await?;
    }
    Ok(())
}

/// How often a target was blocked since a time, and how many blocks there were since another.
pub(super) async fn blocks(
    tx: &Tx,
    target: &IpNet,
    target_since: Timestamp,
    all_since: Timestamp,
) -> Work<BlockHistory> {
    let of_target: i64 = tx
        .one(
            "SELECT count(*) FROM automatic_blocks WHERE target = $1 AND time > $2",
            &[&key::key(target), &target_since.as_microsecond()],
        )
        .await?
        .try_get(0)?;
    let all: i64 = tx
        .one(
            "SELECT count(*) FROM automatic_blocks WHERE time > $1",
            &[&all_since.as_microsecond()],
        )
        .await?
        .try_get(0)?;
    let count = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(BlockHistory { of_target: count(of_target), all: count(all) })
}

/// Closes a suspect, or opens it again, whatever it was before. `None` when there is none.
pub(super) async fn close(
    tx: &Tx,
    id: i64,
    closing: &Closing,
    actor: &Actor,
    now: Timestamp,
) -> Work<Option<Suspect>> {
    take_turn(tx).await?;
    if closing.status == Status::Open {
        tx.execute(
            "UPDATE suspects SET status = 'open', decision = NULL, closed_at = NULL, \
                 closed_by = NULL, quiet_until = NULL, judged = flags WHERE id = $1",
            &[&id],
        )
        .await?;
        return get(tx, id).await;
    }
    tx.execute(
        "UPDATE suspects SET status = $2, decision = coalesce($3, decision), closed_at = $4, \
             closed_by = $5, quiet_until = $6, judged = flags \
         WHERE id = $1",
        &[
            &id,
            &closing.status.as_str(),
            &closing.decision.map(i64::from),
            &now.as_microsecond(),
            actor,
            &closing.quiet_until.as_microsecond(),
        ],
    )
    .await?;
    get(tx, id).await
}

/// Forgets open suspects without news since `open_before`, closed ones that are past both
/// their quiet time and `closed_before`, open ones beyond [`MAX_OPEN`] (those of the least
/// score), and blocks before `closed_before`. Returns how many suspects.
pub(super) async fn sweep(
    tx: &Tx,
    now: Timestamp,
    open_before: Timestamp,
    closed_before: Timestamp,
) -> Work<u64> {
    take_turn(tx).await?;
    let mut swept = tx
        .execute(
            "DELETE FROM suspects WHERE status = 'open' AND noted_at < $1",
            &[&open_before.as_microsecond()],
        )
        .await?;
    swept += tx
        .execute(
            "DELETE FROM suspects WHERE status <> 'open' AND quiet_until < $1 AND closed_at < $2",
            &[&now.as_microsecond(), &closed_before.as_microsecond()],
        )
        .await?;
    let open: i64 =
        tx.one("SELECT count(*) FROM suspects WHERE status = 'open'", &[]).await?.try_get(0)?;
    let excess = open.saturating_sub(clamped(MAX_OPEN));
    if excess > 0 {
        swept += tx
            .execute(
                "DELETE FROM suspects WHERE id IN (SELECT id FROM suspects \
                 WHERE status = 'open' ORDER BY score, noted_at LIMIT $1)",
                &[&excess],
            )
            .await?;
    }
    if swept > 0 {
        tx.execute(
            "DELETE FROM outbox o WHERE NOT EXISTS \
             (SELECT FROM suspects s WHERE s.id = o.suspect)",
            &[],
        )
        .await?;
    }
    tx.execute("DELETE FROM automatic_blocks WHERE time < $1", &[&closed_before.as_microsecond()])
        .await?;
    Ok(swept)
}

/// When an hour (Unix time / 3600) of a log was passed over, and what was found.
pub(super) async fn pass(tx: &Tx, log: &str, hour: i64) -> Work<Option<PassDone>> {
    let row = tx
        .optional(
            "SELECT hour, finished_at, addresses, requests, flagged FROM passes \
             WHERE log = $1 AND hour = $2",
            &[&log, &hour],
        )
        .await?;
    row.as_ref().map(pass_done).transpose()
}

/// The latest hour of a log that was passed over.
pub(super) async fn last_pass(tx: &Tx, log: &str) -> Work<Option<PassDone>> {
    let row = tx
        .optional(
            "SELECT hour, finished_at, addresses, requests, flagged FROM passes \
             WHERE log = $1 ORDER BY hour DESC LIMIT 1",
            &[&log],
        )
        .await?;
    row.as_ref().map(pass_done).transpose()
}

/// Notes an hour as done; `false` when it was done before.
pub(super) async fn finish_pass(tx: &Tx, log: &str, done: &PassDone) -> Work<bool> {
    let written = tx
        .execute(
            "INSERT INTO passes (log, hour, finished_at, addresses, requests, flagged) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            &[
                &log,
                &done.hour,
                &done.finished_at.as_microsecond(),
                &clamped(done.addresses),
                &clamped(done.requests),
                &clamped(done.flagged),
            ],
        )
        .await?;
    Ok(written == 1)
}

fn pass_done(row: &Row) -> Work<PassDone> {
    let count = |column| row.try_get::<_, i64>(column).map(i64::unsigned_abs);
    Ok(PassDone {
        hour: row.try_get(0)?,
        finished_at: timestamp(row.try_get(1)?)?,
        addresses: count(2)?,
        requests: count(3)?,
        flagged: count(4)?,
    })
}

/// A row of [`SELECT`].
fn suspect(row: &Row) -> Work<Suspect> {
    suspect_at(row, 0)
}

/// A suspect whose columns begin at number `at` of the row.
pub(super) fn suspect_at(row: &Row, at: usize) -> Work<Suspect> {
    let target: &[u8] = row.try_get(at + 1)?;
    let reasons: &str = row.try_get(at + 10)?;
    let status: &str = row.try_get(at + 2)?;
    let severity = usize::try_from(row.try_get::<_, i64>(at + 3)?).ok();
    let form = u8::try_from(row.try_get::<_, i64>(at + 15)?).ok();
    let number = u32::try_from(row.try_get::<_, i64>(at + 16)?).ok();
    let veil = form
        .zip(number)
        .and_then(|(form, number)| Veil::of_numbers(form, number))
        .ok_or_else(|| Failure::damaged("a suspect's address has an unknown form"))?;
    let system = row.try_get::<_, Option<i64>>(at + 9)?;
    let decision = row.try_get::<_, Option<i64>>(at + 12)?;
    Ok(Suspect {
        id: row.try_get(at)?,
        target: key::target(target)
            .ok_or_else(|| Failure::damaged("a suspect has no valid target"))?,
        form: veil.form,
        key: veil.key.map(|key| key.to_string()),
        status: Status::from_word(status)
            .ok_or_else(|| Failure::damaged("a suspect has an unknown status"))?,
        severity: severity
            .and_then(|severity| Severity::ALL.get(severity))
            .copied()
            .ok_or_else(|| Failure::damaged("a suspect has an unknown severity"))?,
        score: row.try_get(at + 4)?,
        first_seen: timestamp(row.try_get(at + 5)?)?,
        last_seen: timestamp(row.try_get(at + 6)?)?,
        country: row.try_get(at + 7)?,
        city: row.try_get(at + 8)?,
        asn: system
            .map(u32::try_from)
            .transpose()
            .map_err(|_| Failure::damaged("a suspect's system is out of range"))?,
        reasons: serde_json::from_str::<Vec<Reason>>(reasons)
            .map_err(|_| Failure::damaged("a suspect's reasons can't be read"))?,
        flags: row.try_get::<_, i64>(at + 11)?.unsigned_abs(),
        decision: decision.map(|_| decisions::id_of(row, at + 12)).transpose()?,
        closed_at: row.try_get::<_, Option<i64>>(at + 13)?.map(timestamp).transpose()?,
        closed_by: row.try_get(at + 14)?,
    })
}

fn json(reasons: &[Reason]) -> Work<String> {
    serde_json::to_string(reasons).map_err(|_| Failure::damaged("reasons can't be written"))
}
