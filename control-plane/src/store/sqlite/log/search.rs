//! Finding records.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;

use ipwarden::address::host_net;
use ipwarden::record::Verdict;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{OptionalExtension as _, Row, Transaction, params_from_iter};

use super::plan::Plan;
use super::strings::Texts;
use super::timestamp;
use crate::model::StoredRecord;
use crate::privacy::Veil;
use crate::store::sqlite::database::{Failure, Work};
use crate::store::view::milliseconds;
use crate::store::{RecordQuery, flags, request_id};

/// Records handed to the visitor of a scan at once.
const PIECE_RECORDS: usize = 1_000;

/// The newest matches, at most `limit`.
pub(super) fn newest(tx: &Transaction<'_>, query: &RecordQuery) -> Work<Vec<StoredRecord>> {
    let Some(plan) = Plan::new(tx, query)? else { return Ok(vec![]) };
    let mut texts = Texts::default();
    let mut out = Vec::new();
    for step in plan.steps().rev() {
        let left = query.limit - out.len();
        if left == 0 {
            break;
        }
        let sql = format!("{FIELDS} {} ORDER BY r.id DESC LIMIT ?", step.sql);
        let limit = Value::Integer(i64::try_from(left).unwrap_or(i64::MAX));
        let mut statement = tx.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(step.values.iter().chain([&limit])))?;
        while let Some(row) = rows.next()? {
            out.push(record(tx, &mut texts, row)?);
        }
    }
    Ok(out)
}

/// Hands all matches over in pieces, oldest first, until told to stop.
pub(super) fn oldest(
    tx: &Transaction<'_>,
    query: &RecordQuery,
    take: &mut dyn FnMut(Vec<StoredRecord>) -> ControlFlow<()>,
) -> Work<()> {
    let query = RecordQuery { before: None, ..query.clone() };
    let Some(plan) = Plan::new(tx, &query)? else { return Ok(()) };
    let mut texts = Texts::default();
    let mut piece = Vec::new();
    for step in plan.steps() {
        let mut statement = tx.prepare_cached(&format!("{FIELDS} {} ORDER BY r.id", step.sql))?;
        let mut rows = statement.query(params_from_iter(&step.values))?;
        while let Some(row) = rows.next()? {
            piece.push(record(tx, &mut texts, row)?);
            if piece.len() == PIECE_RECORDS && take(std::mem::take(&mut piece)).is_break() {
                return Ok(());
            }
        }
    }
    if !piece.is_empty() {
        // Nothing follows that could be stopped.
        let _ = take(piece);
    }
    Ok(())
}

/// The sum of the weights of all matches.
pub(super) fn count(tx: &Transaction<'_>, query: &RecordQuery) -> Work<u64> {
    let query = RecordQuery { before: None, ..query.clone() };
    let Some(plan) = Plan::new(tx, &query)? else { return Ok(0) };
    let mut total = 0;
    for step in plan.steps() {
        let sum: i64 = tx
            .prepare_cached(&format!("SELECT coalesce(sum(r.weight), 0) {}", step.sql))?
            .query_row(params_from_iter(&step.values), |row| row.get(0))?;
        total += sum.cast_unsigned();
    }
    Ok(total)
}

/// Whether any record holds an address.
pub(super) fn holds(tx: &Transaction<'_>, ip: IpAddr) -> Work<bool> {
    let query = RecordQuery { net: Some(host_net(ip)), ..RecordQuery::default() };
    let Some(plan) = Plan::new(tx, &query)? else { return Ok(false) };
    for step in plan.steps().rev() {
        let found = tx
            .prepare_cached(&format!("SELECT 1 {} LIMIT 1", step.sql))?
            .query_row(params_from_iter(&step.values), |_| Ok(()))
            .optional()?;
        if found.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

const FIELDS: &str = "SELECT r.id, r.time, r.ip, r.verdict, r.decision, r.rule, r.weight, \
     r.method, r.host, r.path, r.query, r.status, r.flags, r.duration_us, r.bytes_in, \
     r.bytes_out, r.user_agent, r.request_id, r.proxy, r.country, r.city, r.asn, r.form, r.key";

/// A row of [`FIELDS`].
fn record(tx: &Transaction<'_>, texts: &mut Texts, row: &Row<'_>) -> Work<StoredRecord> {
    let mut text = |column| texts.get(tx, row.get(column)?);
    let rule = match row.get_ref(5)? {
        ValueRef::Null => None,
        _ => Some(text(5)?),
    };
    let city = match row.get_ref(20)? {
        ValueRef::Null => None,
        _ => Some(text(20)?),
    };
    let unsigned = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let veil = Veil::of_numbers(row.get(22)?, row.get(23)?)
        .ok_or_else(|| Failure::damaged("a record's address has an unknown form"))?;
    Ok(StoredRecord {
        id: row.get(0)?,
        time: timestamp(row.get(1)?)?,
        ip: address(row.get_ref(2)?)?,
        form: veil.form,
        key: veil.key.map(|key| key.to_string()),
        verdict: Verdict::from_code(row.get(3)?)
            .ok_or_else(|| Failure::damaged("a record has an unknown verdict"))?
            .as_str()
            .to_owned(),
        decision: row.get(4)?,
        rule,
        weight: row.get(6)?,
        method: text(7)?,
        host: text(8)?,
        path: text(9)?,
        query: row.get(10)?,
        status: row.get(11)?,
        flags: flags::short_names(unsigned(12)?),
        duration_ms: milliseconds(row.get(13)?),
        bytes_in: unsigned(14)?,
        bytes_out: unsigned(15)?,
        user_agent: text(16)?,
        request_id: request_id::from_sql(row.get_ref(17)?)
            .ok_or_else(|| Failure::damaged("a record has no valid request id"))?,
        country: row.get(19)?,
        city,
        asn: row.get(21)?,
        proxy: text(18)?,
    })
}

fn address(stored: ValueRef<'_>) -> Work<Option<IpAddr>> {
    let damaged = || Failure::damaged("a record has no valid address");
    match stored {
        ValueRef::Null => Ok(None),
        ValueRef::Blob(octets) => {
            let v4 = <[u8; 4]>::try_from(octets).map(|octets| Ipv4Addr::from(octets).into());
            let v6 = <[u8; 16]>::try_from(octets).map(|octets| Ipv6Addr::from(octets).into());
            v4.or(v6).map(Some).map_err(|_| damaged())
        }
        _ => Err(damaged()),
    }
}
