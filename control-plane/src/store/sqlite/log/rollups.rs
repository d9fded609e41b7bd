//! Rollups beside the records: in memory until there are enough of them, then merged into the
//! table together with the number of the record up to which they count.
//!
//! A rollup is a function of stored records, so that a crash loses nothing: what was in memory
//! is read again from the records behind that number. Each batch counts once because its
//! records are stored once.

use std::collections::BTreeMap;
use std::net::IpAddr;

use indexmap::IndexSet;
use ipnet::IpNet;
use ipwarden::record::Verdict;
use jiff::Timestamp;
use rusqlite::{CachedStatement, OptionalExtension as _, Transaction, params};

use super::hour_of;
use super::prepared::{Prepared, Row};
use crate::geo::Country;
use crate::privacy::{Kept, Veil};
use crate::store::aging::{CountryHour, SubjectHour};
use crate::store::rollup::{
    Rollup, SENSITIVE_BYTES, Seen, Visit, key_of, put_place, sensitive_prefix, target_of_key,
};
use crate::store::sqlite::database::{Failure, Work};
use crate::store::text::display_bytes;
use crate::store::view::clamped;
use crate::store::{HourRollups, IdentityHour, IdentitySeen, PastHour};

/// Records, of which each may leave a request of 64 bytes in memory; then they are merged into the
/// table. A start after a crash reads so many at most.
pub(super) const PENDING: usize = 512 * 1024;
/// Requests in memory that are merged when an hour ends, so that the pass over it need not.
const TURN: usize = 16 * 1024;
/// Different sensitive paths that are kept by name in memory; of more their prefix is named.
const SENSITIVE_PATHS: usize = 1_024;
/// Hours of single addresses that are kept at most, where no retention is shorter: the eight
/// weeks that the pass compares with, and one more.
const KEPT_HOURS: i64 = 9 * 7 * 24;
/// Hours of everybody together that are kept.
const KEPT_SITE_HOURS: i64 = 400 * 24;

/// One request that is not in the table yet.
#[derive(Debug)]
struct Waiting {
    hour: i64,
    veil: Veil,
    /// Key of the address, and how many of its bytes count.
    address: [u8; 8],
    length: u8,
    /// Place of its path among those that are sensitive.
    sensitive: Option<u16>,
    visit: Visit,
}

impl Waiting {
    /// Whose rollup of which hour it belongs to: the order of the table.
    fn place(&self) -> (i64, Veil, [u8; 8], u8) {
        (self.hour, self.veil, self.address, self.length)
    }
}

/// What is not in the table yet.
///
/// A list and no map: to add to it costs nothing that grows with the number of addresses, and
/// what belongs together is brought together once, when all of it goes into the table.
#[derive(Debug, Default)]
pub(super) struct Pending {
    visits: Vec<Waiting>,
    sensitive_paths: IndexSet<Box<[u8]>>,
    /// Latest hour of any request so far, and whether it was another one before.
    newest: Option<i64>,
    has_turned: bool,
    /// First record that is not in the table, and first that is in neither. Unknown until the
    /// table was looked at.
    range: Option<(i64, i64)>,
}

impl Pending {
    /// Reads what a crash, a failed call or an earlier version left out.
    pub(super) fn load(&mut self, tx: &Transaction<'_>, sensitive: &[String]) -> Work<()> {
        if self.range.is_some() {
            return Ok(());
        }
        let (done, next): (i64, i64) =
            tx.query_row("SELECT rolled_up, next_record FROM meta", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        self.range = Some((done, done));
        let mut statement = tx.prepare_cached(
            "SELECT r.id, r.time, r.ip, r.weight, r.status, r.bytes_out, m.text, p.text, u.text, \
                 r.form, r.key, r.opted_out \
             FROM records r JOIN strings m ON m.id = r.method JOIN strings p ON p.id = r.path \
             JOIN strings u ON u.id = r.user_agent WHERE r.id >= ?1 AND r.id < ?2 ORDER BY r.id",
        )?;
        let mut rows = statement.query([done, next])?;
        while let Some(row) = rows.next()? {
            let text = |column| -> Work<String> { Ok(row.get(column)?) };
            let (method, path, user_agent) = (text(6)?, text(7)?, text(8)?);
            let seen = Seen {
                time_us: row.get(1)?,
                weight: row.get(3)?,
                method: method.as_bytes(),
                path: path.as_bytes(),
                user_agent: user_agent.as_bytes(),
                status: row.get(4)?,
                bytes_out: row.get::<_, i64>(5)?.unsigned_abs(),
            };
            let ip: Option<Vec<u8>> = row.get(2)?;
            let ip = ip.as_deref().and_then(ip_of);
            let veil =
                Veil::of_numbers(row.get(9)?, row.get(10)?).ok_or_else(|| damaged("form"))?;
            if !row.get::<_, bool>(11)? {
                self.add(ip, veil, &seen, sensitive);
            }
            self.range = Some((done, row.get::<_, i64>(0)? + 1));
            if self.visits.len() >= PENDING {
                self.flush(tx)?;
            }
        }
        Ok(())
    }

    /// Takes a record that is stored in this transaction.
    pub(super) fn record(&mut self, batch: &Prepared, row: &Row, sensitive: &[String]) {
        let seen = Seen {
            time_us: row.time_us,
            weight: row.weight,
            method: batch.bytes(row.method),
            path: batch.bytes(row.path),
            user_agent: batch.bytes(row.user_agent),
            status: row.status,
            bytes_out: row.bytes_out,
        };
        self.add(row.ip, row.veil, &seen, sensitive);
    }

    fn add(&mut self, ip: Option<IpAddr>, veil: Veil, seen: &Seen<'_>, sensitive: &[String]) {
        let Some(ip) = ip else { return };
        let (address, length) = key_of(ip);
        let hour = hour_of(seen.time_us);
        let prefix = sensitive_prefix(sensitive, seen.path);
        self.has_turned |= self.newest.is_some_and(|newest| newest < hour);
        self.newest = self.newest.max(Some(hour));
        let sensitive = prefix.and_then(|prefix| self.sensitive_path(seen.path, prefix));
        let visit = Visit::of(seen, prefix.is_some());
        self.visits.push(Waiting { hour, veil, address, length: length as u8, sensitive, visit });
    }

    /// The place of a sensitive path among those in memory.
    fn sensitive_path(&mut self, path: &[u8], prefix: &str) -> Option<u16> {
        let path = path.get(..SENSITIVE_BYTES).unwrap_or(path);
        let has_room = self.sensitive_paths.len() < SENSITIVE_PATHS;
        let known = self.sensitive_paths.get_index_of(path);
        let place = known.unwrap_or_else(|| {
            // The prefixes are ours, and few.
            let name = if has_room { path } else { prefix.as_bytes() };
            self.sensitive_paths.insert_full(name.into()).0
        });
        u16::try_from(place).ok()
    }

    /// Notes that all records below `next` were taken, and moves them into the table when they
    /// are many, or an hour has ended.
    pub(super) fn taken(&mut self, tx: &Transaction<'_>, next: i64) -> Work<()> {
        if let Some((first, end)) = &mut self.range {
            *end = next;
            // Also records that are not counted: they are read again after a crash.
            let are_many = next - *first >= PENDING as i64;
            let has_ended = std::mem::take(&mut self.has_turned) && self.visits.len() >= TURN;
            if has_ended || are_many {
                self.flush(tx)?;
            }
        }
        Ok(())
    }

    /// Moves everything into the table.
    pub(super) fn flush(&mut self, tx: &Transaction<'_>) -> Work<()> {
        let Some((first, end)) = self.range else { return Ok(()) };
        if first == end {
            return Ok(());
        }
        // In the order of the table, where neighbours share pages, and of time.
        self.visits.sort_unstable_by_key(|waiting| (waiting.place(), waiting.visit.time_us));
        let mut site: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        let mut first_hour = i64::MAX;
        let mut table = Table::new(tx)?;
        for of_one in self.visits.chunk_by(|a, b| a.place() == b.place()) {
            let Some(&Waiting { hour, veil, address, length, .. }) = of_one.first() else {
                continue;
            };
            let mut more = Rollup::default();
            for waiting in of_one {
                more.take(&waiting.visit);
                let path = waiting.sensitive.map(usize::from);
                if let Some(path) = path.and_then(|place| self.sensitive_paths.get_index(place)) {
                    more.name_sensitive(path);
                }
            }
            let address = address.get(..length.into()).unwrap_or_default();
            first_hour = first_hour.min(hour);
            let (addresses, requests) = site.entry(hour).or_default();
            *requests = requests.saturating_add(clamped(more.requests));
            *addresses += i64::from(table.merge(hour, veil, address, more)?);
        }
        self.visits.clear();
        self.sensitive_paths.clear();
        // What comes late is hidden late, but it is.
        tx.prepare_cached("UPDATE meta SET rollups_hidden = min(rollups_hidden, ?1)")?
            .execute([first_hour])?;
        let mut widen = tx.prepare_cached(
            "INSERT INTO site_hours (hour, addresses, requests) VALUES (?1, ?2, ?3) \
             ON CONFLICT (hour) DO UPDATE SET addresses = addresses + excluded.addresses, \
                 requests = requests + excluded.requests",
        )?;
        for (hour, (addresses, requests)) in &site {
            widen.execute((hour, addresses, requests))?;
        }
        tx.execute("UPDATE meta SET rolled_up = ?1", [end])?;
        forget_old(tx)?;
        self.range = Some((end, end));
        Ok(())
    }
}

/// The table of rollups, with what is asked of it for each of many.
pub(super) struct Table<'t> {
    find: CachedStatement<'t>,
    insert: CachedStatement<'t>,
    update: CachedStatement<'t>,
}

impl<'t> Table<'t> {
    pub(super) fn new(tx: &'t Transaction<'_>) -> Work<Self> {
        Ok(Self {
            find: tx.prepare_cached(
                "SELECT state FROM rollups \
                 WHERE hour = ?1 AND form = ?2 AND key = ?3 AND address = ?4",
            )?,
            insert: tx.prepare_cached(
                "INSERT INTO rollups (hour, form, key, address, requests, sensitive, state) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?,
            update: tx.prepare_cached(
                "UPDATE rollups SET requests = ?5, sensitive = ?6, state = ?7 \
                 WHERE hour = ?1 AND form = ?2 AND key = ?3 AND address = ?4",
            )?,
        })
    }

    /// Adds to what is kept of an address's hour; says whether it is the first.
    pub(super) fn merge(
        &mut self,
        hour: i64,
        veil: Veil,
        address: &[u8],
        more: Rollup,
    ) -> Work<bool> {
        let (form, key) = (veil.form as u8, veil.key_number());
        let kept = {
            let mut rows = self.find.query(params![hour, form, key, address])?;
            match rows.next()? {
                None => None,
                Some(row) => {
                    Some(decode(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?)
                }
            }
        };
        let is_first = kept.is_none();
        let (write, rollup) = match kept {
            None => (&mut self.insert, more),
            Some(mut rollup) => {
                rollup.merge(&more);
                (&mut self.update, rollup)
            }
        };
        let counts = (clamped(rollup.requests), clamped(rollup.sensitive));
        write.execute(params![hour, form, key, address, counts.0, counts.1, rollup.encode()])?;
        Ok(is_first)
    }
}

/// Requests by hour and country, and how many of them were refused.
#[derive(Debug, Default)]
pub(super) struct Countries(BTreeMap<(i64, Option<Country>), (i64, i64)>);

impl Countries {
    /// Takes a record.
    pub(super) fn add(&mut self, row: &Row) {
        let counts = self.0.entry((hour_of(row.time_us), row.country)).or_default();
        let weight = i64::from(row.weight.max(1));
        counts.0 = counts.0.saturating_add(weight);
        if Verdict::from_code(row.verdict).is_some_and(Verdict::is_refusal) {
            counts.1 = counts.1.saturating_add(weight);
        }
    }
}

/// Counts requests by country; these stay when records are gone.
pub(super) fn note_countries(tx: &Transaction<'_>, seen: Countries) -> Work<()> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO country_hours (hour, country, requests, refused) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (hour, country) DO UPDATE SET requests = requests + excluded.requests, \
             refused = refused + excluded.refused",
    )?;
    for ((hour, country), (requests, refused)) in seen.0 {
        let country = country.as_ref().map_or("", Country::as_str);
        statement.execute(params![hour, country, requests, refused])?;
    }
    Ok(())
}

/// Requests by country of the hours from `first` to `last`.
pub(super) fn countries(tx: &Transaction<'_>, first: i64, last: i64) -> Work<Vec<CountryHour>> {
    let mut statement = tx.prepare_cached(
        "SELECT hour, country, requests, refused FROM country_hours \
         WHERE hour BETWEEN ?1 AND ?2 ORDER BY hour, requests DESC, country",
    )?;
    let rows = statement.query_map([first, last], |row| {
        let country: String = row.get(1)?;
        Ok(CountryHour {
            hour: row.get(0)?,
            country: (!country.is_empty()).then_some(country),
            requests: row.get::<_, i64>(2)?.unsigned_abs(),
            refused: row.get::<_, i64>(3)?.unsigned_abs(),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Counts what identities did in some batches.
pub(super) fn note_identities(tx: &Transaction<'_>, seen: Identities) -> Work<()> {
    if seen.0.is_empty() {
        return Ok(());
    }
    let mut find = tx.prepare_cached(
        "SELECT requests, places FROM identity_hours WHERE hour = ?1 AND identity = ?2",
    )?;
    let mut write = tx.prepare_cached(
        "INSERT OR REPLACE INTO identity_hours (hour, identity, requests, places) \
         VALUES (?1, ?2, ?3, ?4)",
    )?;
    for ((hour, identity), (requests, places)) in seen.0 {
        let kept: Option<(i64, String)> = find
            .query_row(params![hour, identity], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let (before, mut all) = match kept {
            None => (0, Vec::new()),
            Some((before, json)) => (before, identity_places(&json)?),
        };
        places.into_iter().for_each(|place| put_place(&mut all, place));
        let json = serde_json::to_string(&all)
            .map_err(|_| Failure::damaged("an identity's places can't be written"))?;
        write.execute(params![hour, identity, before.saturating_add(requests), json])?;
    }
    Ok(())
}

/// What identities did in the batches of one call.
#[derive(Debug, Default)]
pub(super) struct Identities(BTreeMap<(i64, String), (i64, Vec<IdentitySeen>)>);

impl Identities {
    /// Takes a record that carries an identity.
    pub(super) fn add(&mut self, batch: &Prepared, row: &Row) {
        let (false, Some(ip)) = (row.identity.is_empty(), row.ip) else { return };
        let identity = display_bytes(batch.bytes(row.identity)).into_owned();
        let (requests, places) = self.0.entry((hour_of(row.time_us), identity)).or_default();
        *requests = requests.saturating_add(row.weight.into());
        put_place(places, IdentitySeen { ip, first_us: row.time_us, last_us: row.time_us });
    }
}

/// All that the pass needs of an hour: addresses with at least `least` requests, or with one
/// of a sensitive path.
pub(super) fn of_hour(tx: &Transaction<'_>, hour: i64, least: u64) -> Work<HourRollups> {
    let site: Option<(i64, i64)> = tx
        .query_row("SELECT addresses, requests FROM site_hours WHERE hour = ?1", [hour], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let (addresses, requests) = site.unwrap_or_default();
    let mut found = HourRollups {
        addresses: addresses.unsigned_abs(),
        requests: requests.unsigned_abs(),
        ..HourRollups::default()
    };
    let mut statement = tx.prepare_cached(
        "SELECT address, state, form, key FROM rollups \
         WHERE hour = ?1 AND (requests >= ?2 OR sensitive > 0)",
    )?;
    let mut rows = statement.query(params![hour, clamped(least)])?;
    let mut veiled: BTreeMap<Veil, Vec<(IpNet, Rollup)>> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let veil = Veil::of_numbers(row.get(2)?, row.get(3)?).ok_or_else(|| damaged("form"))?;
        let key = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
        let state = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
        let target = target_of_key(key).ok_or_else(|| damaged("address"))?;
        let list =
            if veil.is_none() { &mut found.rollups } else { veiled.entry(veil).or_default() };
        list.push((target, decode(state)?));
    }
    // The table's order is that of bytes, in which both families mix.
    found.rollups.sort_unstable_by_key(|(target, _)| *target);
    for (veil, mut list) in veiled {
        list.sort_unstable_by_key(|(target, _)| *target);
        found.veiled.push((veil, list));
    }
    let mut statement =
        tx.prepare_cached("SELECT identity, requests, places FROM identity_hours WHERE hour = ?1")?;
    let mut rows = statement.query([hour])?;
    while let Some(row) = rows.next()? {
        found.identities.push(IdentityHour {
            identity: row.get(0)?,
            requests: row.get::<_, i64>(1)?.unsigned_abs(),
            places: identity_places(&row.get::<_, String>(2)?)?,
        });
    }
    Ok(found)
}

/// What was asked for of some hours; hours without any record, or whose addresses are
/// forgotten, are left out. A target is counted under all its names.
pub(super) fn past(
    tx: &Transaction<'_>,
    hours: &[i64],
    targets: &[Vec<Kept>],
) -> Work<Vec<PastHour>> {
    let from: i64 = tx.query_row("SELECT rollups_from FROM meta", [], |row| row.get(0))?;
    let mut site = tx.prepare_cached("SELECT requests FROM site_hours WHERE hour = ?1")?;
    let mut of_address = tx.prepare_cached(
        "SELECT requests FROM rollups WHERE hour = ?1 AND form = ?2 AND key = ?3 AND address = ?4",
    )?;
    let mut out = Vec::new();
    for &hour in hours.iter().filter(|hour| **hour >= from) {
        let requests: Option<i64> = site.query_row([hour], |row| row.get(0)).optional()?;
        let Some(requests) = requests else { continue };
        let mut by_target = Vec::with_capacity(targets.len());
        for names in targets {
            let mut sum = 0u64;
            for Kept { ip, veil } in names {
                let (key, length) = key_of(*ip);
                let address = key.get(..length).unwrap_or_default();
                let (form, key) = (veil.form as u8, veil.key_number());
                let found: Option<i64> = of_address
                    .query_row(params![hour, form, key, address], |row| row.get(0))
                    .optional()?;
                sum = sum.saturating_add(found.unwrap_or_default().unsigned_abs());
            }
            by_target.push(sum);
        }
        out.push(PastHour { hour, requests: requests.unsigned_abs(), by_target });
    }
    Ok(out)
}

/// What is kept of the hours of an address, the oldest first, at most `most`.
pub(super) fn of_subject(
    tx: &Transaction<'_>,
    names: &[Kept],
    most: usize,
) -> Work<Vec<SubjectHour>> {
    let first: Option<i64> = tx.query_row("SELECT min(hour) FROM rollups", [], |row| row.get(0))?;
    let last: Option<i64> = tx.query_row("SELECT max(hour) FROM rollups", [], |row| row.get(0))?;
    let (Some(first), Some(last)) = (first, last) else { return Ok(Vec::new()) };
    // The keys that occur; under the others nothing can be found.
    let mut statement = tx.prepare_cached(
        "SELECT state FROM rollups WHERE hour = ?1 AND form = ?2 AND key = ?3 AND address = ?4",
    )?;
    let mut hours = tx
        .prepare_cached("SELECT hour FROM site_hours WHERE hour BETWEEN ?1 AND ?2 ORDER BY hour")?;
    let hours: Vec<i64> =
        hours.query_map([first, last], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut out = Vec::new();
    for hour in hours {
        for Kept { ip, veil } in names {
            let (key, length) = key_of(*ip);
            let address = key.get(..length).unwrap_or_default();
            let found: Option<Vec<u8>> = statement
                .query_row(params![hour, veil.form as u8, veil.key_number(), address], |row| {
                    row.get(0)
                })
                .optional()?;
            let Some(state) = found else { continue };
            let rollup = decode(&state)?;
            out.push(SubjectHour {
                hour: Timestamp::from_second(hour.saturating_mul(3_600)).unwrap_or_default(),
                requests: rollup.requests,
                sensitive: rollup.sensitive,
                client_errors: rollup.client_errors,
                server_errors: rollup.server_errors,
                bytes: rollup.bytes,
                paths: rollup.paths(),
            });
            if out.len() >= most {
                return Ok(out);
            }
        }
    }
    Ok(out)
}

/// Hours older than any comparison: counted from the newest, so that a wrong clock of one
/// proxy deletes nothing that another one still adds to.
fn forget_old(tx: &Transaction<'_>) -> Work<()> {
    let before = "(SELECT max(hour) FROM hours) - ?1";
    let tables = [
        ("rollups", KEPT_HOURS),
        ("identity_hours", KEPT_HOURS),
        ("site_hours", KEPT_SITE_HOURS),
        ("country_hours", KEPT_SITE_HOURS),
    ];
    for (table, kept) in tables {
        tx.prepare_cached(&format!("DELETE FROM {table} WHERE hour < {before}"))?
            .execute([kept])?;
    }
    tx.prepare_cached(&format!(
        "UPDATE meta SET rollups_from = max(rollups_from, coalesce({before}, 0))"
    ))?
    .execute([KEPT_HOURS])?;
    Ok(())
}

pub(super) fn identity_places(json: &str) -> Work<Vec<IdentitySeen>> {
    serde_json::from_str(json).map_err(|_| damaged("identity"))
}

/// A rollup out of the table.
pub(super) fn decode_state(bytes: &[u8]) -> Work<Rollup> {
    decode(bytes)
}

fn decode(bytes: &[u8]) -> Work<Rollup> {
    Rollup::decode(bytes).map_err(|_| damaged("state"))
}

fn damaged(what: &str) -> Failure {
    Failure::damaged(&format!("a rollup's {what} can't be read"))
}

/// An address out of a record.
pub(super) fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}
