//! Rollups beside the records: in memory until there are enough of them, then merged into the
//! table together with the number of the record up to which they count.
//!
//! A rollup is a function of stored records, so that a crash loses nothing: what was in memory
//! is read again from the records behind that number. Each batch counts once because its
//! records are stored once.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hashbrown::HashMap;
use ipnet::IpNet;
use ipwarden::record::Verdict;
use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::hour_of;
use super::prepared::{Prepared, Row};
use crate::geo::Country;
use crate::privacy::{Kept, Veil};
use crate::store::aging::{CountryHour, SubjectHour};
use crate::store::rollup::{Rollup, Seen, is_sensitive, key_of, put_place, target_of_key};
use crate::store::sqlite::database::{Failure, Work};
use crate::store::text::display_bytes;
use crate::store::view::clamped;
use crate::store::{HourRollups, IdentityHour, IdentitySeen, PastHour};

/// Addresses and hours in memory; then they are merged into the table.
const PENDING: usize = 128 * 1024;
/// Records in memory; a start after a crash reads so many at most.
const PENDING_RECORDS: i64 = 1_000_000;
/// Hours of single addresses that are kept at most, where no retention is shorter: the eight
/// weeks that the pass compares with, and one more.
const KEPT_HOURS: i64 = 9 * 7 * 24;
/// Hours of everybody together that are kept.
const KEPT_SITE_HOURS: i64 = 400 * 24;

/// Hour, form and key of the address, its bytes and how many they are.
type Key = (i64, Veil, [u8; 8], usize);

/// What is not in the table yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    by_address: HashMap<Key, Rollup>,
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
            if self.by_address.len() >= PENDING {
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
        let (key, length) = key_of(ip);
        let rollup = self.by_address.entry((hour_of(seen.time_us), veil, key, length)).or_default();
        rollup.add(seen, is_sensitive(sensitive, seen.path));
    }

    /// Notes that all records below `next` were taken, and moves them into the table when they
    /// are many.
    pub(super) fn taken(&mut self, tx: &Transaction<'_>, next: i64) -> Work<()> {
        if let Some((first, end)) = &mut self.range {
            *end = next;
            if self.by_address.len() >= PENDING || next - *first >= PENDING_RECORDS {
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
        let mut pending: Vec<(Key, Rollup)> = self.by_address.drain().collect();
        // In the order of the table: neighbours share pages.
        pending.sort_unstable_by_key(|(key, _)| *key);
        let mut site: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        let mut first_hour = i64::MAX;
        for ((hour, veil, key, length), more) in pending {
            let address = key.get(..length).unwrap_or_default();
            first_hour = first_hour.min(hour);
            let (addresses, requests) = site.entry(hour).or_default();
            *requests = requests.saturating_add(clamped(more.requests));
            *addresses += i64::from(merge(tx, hour, veil, address, more)?);
        }
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

/// Adds to what is kept of an address's hour; says whether it is the first.
pub(super) fn merge(
    tx: &Transaction<'_>,
    hour: i64,
    veil: Veil,
    address: &[u8],
    more: Rollup,
) -> Work<bool> {
    let (form, key) = (veil.form as u8, veil.key_number());
    let kept: Option<Vec<u8>> = tx
        .prepare_cached(
            "SELECT state FROM rollups WHERE hour = ?1 AND form = ?2 AND key = ?3 AND address = ?4",
        )?
        .query_row(params![hour, form, key, address], |row| row.get(0))
        .optional()?;
    let is_first = kept.is_none();
    let rollup = match kept {
        None => more,
        Some(bytes) => {
            let mut rollup = decode(&bytes)?;
            rollup.merge(&more);
            rollup
        }
    };
    tx.prepare_cached(
        "INSERT OR REPLACE INTO rollups (hour, form, key, address, requests, sensitive, state) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        hour,
        form,
        key,
        address,
        clamped(rollup.requests),
        clamped(rollup.sensitive),
        rollup.encode(),
    ])?;
    Ok(is_first)
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
