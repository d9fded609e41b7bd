//! Storing batches: all of a call in one transaction.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rusqlite::{CachedStatement, Transaction, params};

use super::prepared::{Prepared, Row};
use super::rollups::{Countries, Identities, Pending, note_countries, note_identities};
use super::strings::Strings;
use super::{hour_of, streams};
use crate::geo::Country;
use crate::store::sqlite::database::Work;
use crate::store::text::display_bytes;
use crate::store::view::clamped;
use crate::store::{Appended, request_id};

/// What the writer keeps between calls; thrown away when a call fails.
#[derive(Debug, Default)]
pub(super) struct Cache {
    strings: Strings,
    pub(super) rollups: Pending,
}

impl Cache {
    /// Forgets texts that may be gone from the table.
    pub(super) fn forget_strings(&mut self) {
        self.strings = Strings::default();
    }
}

/// Stores what is new of some batches and notes what their senders report.
pub(super) fn append(
    tx: &Transaction<'_>,
    cache: &mut Cache,
    batches: &[Prepared],
    sensitive: &[String],
) -> Work<Vec<Appended>> {
    cache.rollups.load(tx, sensitive)?;
    let first: i64 = tx.query_row("SELECT next_record FROM meta", [], |row| row.get(0))?;
    let mut call = Call {
        tx,
        strings: &mut cache.strings,
        rollups: &mut cache.rollups,
        identities: Identities::default(),
        countries: Countries::default(),
        arrivals: BTreeMap::new(),
        sensitive,
        insert: tx.prepare_cached(INSERT)?,
        hours: BTreeMap::new(),
        next: first,
    };
    let outcomes = batches.iter().map(|batch| call.store(batch)).collect::<Work<Vec<_>>>()?;
    let Call { hours, next, identities, countries, arrivals, rollups, .. } = call;
    if next > first {
        tx.execute("UPDATE meta SET next_record = ?1", [next])?;
        widen_hours(tx, &hours)?;
        note_arrivals(tx, &arrivals)?;
        note_identities(tx, identities)?;
        note_countries(tx, countries)?;
        rollups.taken(tx, next)?;
    }
    Ok(outcomes)
}

const INSERT: &str = "INSERT INTO records (id, time, ip, verdict, decision, rule, weight, method, \
     host, path, query, status, flags, duration_us, bytes_in, bytes_out, user_agent, request_id, \
     proxy, country, city, asn, form, key, opted_out) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, \
     ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)";

/// One call of `append`.
struct Call<'c> {
    tx: &'c Transaction<'c>,
    strings: &'c mut Strings,
    rollups: &'c mut Pending,
    identities: Identities,
    countries: Countries,
    /// Last number of a record that arrived in an hour of our clock.
    arrivals: BTreeMap<i64, i64>,
    sensitive: &'c [String],
    insert: CachedStatement<'c>,
    /// First and last number of a record of each hour.
    hours: BTreeMap<i64, (i64, i64)>,
    /// Number of the next record.
    next: i64,
}

impl Call<'_> {
    fn store(&mut self, batch: &Prepared) -> Work<Appended> {
        let mut stream = streams::load(self.tx, batch.stream)?;
        // A batch of number 0 can't be told from its repetition, so it may carry no records.
        let outcome = if batch.number == 0 {
            Appended::Noted
        } else if !stream.numbers.insert(batch.number) {
            Appended::Duplicate
        } else if batch.rows.is_empty() {
            Appended::Noted
        } else {
            let first_id = self.next;
            for row in &batch.rows {
                self.insert(batch, row)?;
                if !row.opted_out {
                    self.rollups.record(batch, row, self.sensitive);
                    self.identities.add(batch, row);
                    self.countries.add(row);
                }
            }
            let arrived = self.arrivals.entry(hour_of(batch.received_us)).or_default();
            *arrived = self.next - 1;
            Appended::Stored { first_id }
        };
        let stored = match outcome {
            Appended::Stored { .. } => batch.rows.iter().map(|row| i64::from(row.weight)).sum(),
            Appended::Duplicate | Appended::Noted | Appended::Spooled => 0,
        };
        streams::save(self.tx, batch, &stream, stored)?;
        Ok(outcome)
    }

    fn insert(&mut self, batch: &Prepared, row: &Row) -> Work<()> {
        let id = self.next;
        let hour = hour_of(row.time_us);
        let mut intern = |span| self.strings.intern(self.tx, batch.bytes(span), hour);
        let rule = if row.rule.is_empty() { None } else { Some(intern(row.rule)?) };
        let method = intern(row.method)?;
        let host = intern(row.host)?;
        let path = intern(row.path)?;
        let user_agent = intern(row.user_agent)?;
        let proxy = intern(batch.proxy)?;
        let city = if row.city.is_empty() { None } else { Some(intern(row.city)?) };
        let query = (!row.query.is_empty()).then(|| display_bytes(batch.bytes(row.query)));
        let v4;
        let v6;
        let ip: Option<&[u8]> = match row.ip {
            None => None,
            Some(IpAddr::V4(ip)) => {
                v4 = ip.octets();
                Some(&v4)
            }
            Some(IpAddr::V6(ip)) => {
                v6 = ip.octets();
                Some(&v6)
            }
        };
        self.insert.execute(params![
            id,
            row.time_us,
            ip,
            row.verdict,
            (row.decision != 0).then_some(row.decision),
            rule,
            row.weight,
            method,
            host,
            path,
            query,
            row.status,
            row.flags.cast_signed(),
            clamped(row.duration_us),
            clamped(row.bytes_in),
            clamped(row.bytes_out),
            user_agent,
            request_id::to_sql(batch.bytes(row.request_id)),
            proxy,
            row.country.as_ref().map(Country::as_str),
            city,
            row.asn,
            row.veil.form as u8,
            row.veil.key_number(),
            row.opted_out,
        ])?;
        let ids = self.hours.entry(hour).or_insert((id, id));
        ids.1 = id;
        self.next += 1;
        Ok(())
    }
}

fn note_arrivals(tx: &Transaction<'_>, arrivals: &BTreeMap<i64, i64>) -> Work<()> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO arrivals (hour, last_id) VALUES (?1, ?2) \
         ON CONFLICT (hour) DO UPDATE SET last_id = excluded.last_id",
    )?;
    for (hour, last) in arrivals {
        statement.execute([hour, last])?;
    }
    Ok(())
}

fn widen_hours(tx: &Transaction<'_>, hours: &BTreeMap<i64, (i64, i64)>) -> Work<()> {
    // Numbers only grow, so the first stays.
    let mut statement = tx.prepare_cached(
        "INSERT INTO hours (hour, first_id, last_id) VALUES (?1, ?2, ?3) \
         ON CONFLICT (hour) DO UPDATE SET last_id = excluded.last_id",
    )?;
    for (hour, (first, last)) in hours {
        statement.execute((hour, first, last))?;
    }
    Ok(())
}
