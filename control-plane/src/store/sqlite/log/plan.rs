//! From a query to what SQLite is asked.
//!
//! Numbers follow arrival, so a time span narrows the numbers to look at (table `hours`);
//! an address or network is found through the index, segment by segment (see the schema);
//! texts are turned into their numbers first, so that a text that no record ever used ends
//! the search before it begins.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use ipwarden::address::fold_net;
use rusqlite::types::Value;
use rusqlite::{Transaction, params};

use super::{hour_of, strings};
use crate::store::RecordQuery;
use crate::store::sqlite::conditions::Conditions;
use crate::store::sqlite::database::Work;
use crate::store::view::next_us;

/// Records in a segment of the index over addresses, as a power of two (see the schema).
pub(super) const SEGMENT_BITS: u32 = 15;
/// Up to so many texts that begin with a prefix are looked up beforehand; with more, each
/// record's path is looked at.
const PREFIX_TEXTS: i64 = 10_000;

/// How to find the records of a query.
#[derive(Debug)]
pub(super) struct Plan {
    /// Numbers among which all matches lie.
    pub ids: RangeInclusive<i64>,
    /// Whether to go segment by segment through the index over addresses.
    pub by_address: bool,
    /// What else a record must meet. Of records named `r`.
    conditions: Conditions,
}

/// One question to SQLite.
#[derive(Debug)]
pub(super) struct Step {
    /// From FROM to the end of WHERE.
    pub sql: String,
    /// The values of its `?`.
    pub values: Vec<Value>,
}

impl Plan {
    /// Makes a plan; `None` when nothing can match.
    pub(super) fn new(tx: &Transaction<'_>, query: &RecordQuery) -> Work<Option<Self>> {
        let Some(ids) = id_range(tx, query)? else { return Ok(None) };
        let mut conditions = Conditions::new("TRUE");
        if let Some(net) = query.net {
            of_network(&mut conditions, fold_net(net.trunc()));
        }
        match query.form {
            Some(form) => conditions.and("r.form = ?", [Value::Integer(form as i64)]),
            // A pseudonym is no address: it lies in no network.
            None if query.net.is_some() => conditions.and("r.form < 2", []),
            None => {}
        }
        let texts = [
            ("r.host = ?", &query.host),
            ("r.method = ?", &query.method),
            ("r.proxy = ?", &query.proxy),
            ("r.user_agent = ?", &query.user_agent),
            ("r.rule = ?", &query.rule),
        ];
        for (sql, text) in texts {
            if let Some(text) = text {
                let Some(id) = strings::find(tx, text)? else { return Ok(None) };
                conditions.and(sql, [Value::Integer(id)]);
            }
        }
        if let Some(status) = query.status {
            let (first, last) = status.range();
            conditions.and("r.status BETWEEN ? AND ?", [first, last].map(Value::from));
        }
        if let Some(country) = query.country {
            conditions.and("r.country = ?", [Value::Text(country.to_string())]);
        }
        if let Some(asn) = query.asn {
            conditions.and("r.asn = ?", [Value::Integer(asn.into())]);
        }
        if !query.verdicts.is_empty() {
            let codes: Vec<String> =
                query.verdicts.iter().map(|&verdict| (verdict as u8).to_string()).collect();
            conditions.and(&format!("r.verdict IN ({})", codes.join(",")), []);
        }
        if let Some(since) = query.since {
            conditions.and("r.time >= ?", [Value::Integer(next_us(since))]);
        }
        if let Some(until) = query.until {
            conditions.and("r.time < ?", [Value::Integer(next_us(until))]);
        }
        if let Some(prefix) = query.path_prefix.as_deref().filter(|prefix| !prefix.is_empty())
            && !path_begins(tx, &mut conditions, prefix)?
        {
            return Ok(None);
        }
        Ok(Some(Self { ids, by_address: query.net.is_some(), conditions }))
    }

    /// The steps, those with the lowest numbers first: one, or one a segment.
    pub(super) fn steps(&self) -> impl DoubleEndedIterator<Item = Step> + '_ {
        let (first, last) = (*self.ids.start(), *self.ids.end());
        let segments =
            if self.by_address { first >> SEGMENT_BITS..=last >> SEGMENT_BITS } else { 0..=0 };
        segments.map(move |segment| {
            let mut conditions = self.conditions.clone();
            let source = if self.by_address {
                conditions.and("(r.id >> 15) = ?", [Value::Integer(segment)]);
                "INDEXED BY records_ip"
            } else {
                "NOT INDEXED"
            };
            conditions.and("r.id BETWEEN ? AND ?", [first, last].map(Value::Integer));
            Step {
                sql: format!("FROM records r {source} WHERE {}", conditions.sql()),
                values: conditions.values().cloned().collect(),
            }
        })
    }
}

/// Bounds of the numbers of all matches; `None` when there can be none.
fn id_range(tx: &Transaction<'_>, query: &RecordQuery) -> Work<Option<RangeInclusive<i64>>> {
    let (first, last): (Option<i64>, Option<i64>) = tx
        .prepare_cached("SELECT (SELECT min(id) FROM records), (SELECT max(id) FROM records)")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(mut first), Some(mut last)) = (first, last) else { return Ok(None) };
    if let Some(before) = query.before {
        last = last.min(before.saturating_sub(1));
    }
    if let Some(since) = query.since {
        let hour = hour_of(since.as_microsecond());
        let lowest: Option<i64> = tx
            .prepare_cached("SELECT min(first_id) FROM hours WHERE hour >= ?1")?
            .query_row([hour], |row| row.get(0))?;
        let Some(lowest) = lowest else { return Ok(None) };
        first = first.max(lowest);
    }
    if let Some(until) = query.until {
        let hour = hour_of(until.as_microsecond());
        let highest: Option<i64> = tx
            .prepare_cached("SELECT max(last_id) FROM hours WHERE hour <= ?1")?
            .query_row([hour], |row| row.get(0))?;
        let Some(highest) = highest else { return Ok(None) };
        last = last.min(highest);
    }
    Ok((first <= last).then_some(first..=last))
}

/// Addresses of both families share a column: as bytes, an IPv6 address can lie between
/// two of IPv4, so the length is a condition too.
fn of_network(conditions: &mut Conditions, net: IpNet) {
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => Value::Blob(ip.octets().to_vec()),
        IpAddr::V6(ip) => Value::Blob(ip.octets().to_vec()),
    };
    if net.prefix_len() == net.max_prefix_len() {
        conditions.and("r.ip = ?", [bytes(net.addr())]);
    } else {
        let length = net.max_prefix_len() / 8;
        conditions.and("r.ip BETWEEN ? AND ?", [net.network(), net.broadcast()].map(bytes));
        conditions.and(&format!("length(r.ip) = {length}"), []);
    }
}

/// Adds the condition on the path; `false` when no text begins so.
fn path_begins(tx: &Transaction<'_>, conditions: &mut Conditions, prefix: &str) -> Work<bool> {
    // Texts are compared byte by byte: those with the prefix are one range.
    let end = after_all_with(prefix);
    let end = end.map_or(Value::Null, Value::Text);
    let range = "text >= ?1 AND (?2 IS NULL OR text < ?2)";
    let found: i64 = tx
        .prepare_cached(&format!(
            "SELECT count(*) FROM (SELECT 1 FROM strings WHERE {range} LIMIT ?3)"
        ))?
        .query_row(params![prefix, end, PREFIX_TEXTS + 1], |row| row.get(0))?;
    let values = [Value::Text(prefix.to_owned()), end.clone(), end];
    let range = "text >= ? AND (? IS NULL OR text < ?)";
    if found > PREFIX_TEXTS {
        conditions.and(&format!("(SELECT {range} FROM strings WHERE id = r.path)"), values);
    } else {
        conditions.and(&format!("r.path IN (SELECT id FROM strings WHERE {range})"), values);
    }
    Ok(found > 0)
}

/// The least text that sorts after every text with a prefix; `None` when there is none.
pub(super) fn after_all_with(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        // The next character; surrogates are none.
        let next =
            if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            end.push(next);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_prefix_is_a_range_of_texts(
            prefix in "[a\u{d7ff}\u{10ffff}]{1,3}",
            text in "[ab\u{d7ff}\u{e000}\u{10ffff}]{0,5}",
        ) {
            let end = after_all_with(&prefix);
            let inside = text >= prefix && end.is_none_or(|end| text < end);
            prop_assert_eq!(inside, text.starts_with(&prefix));
        }
    }
}
