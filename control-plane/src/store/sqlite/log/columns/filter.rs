//! Conditions on the values of columns.

use std::ops::RangeInclusive;

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;
use ipwarden::address::fold_net;
use ipwarden::privacy::AddressForm;
use rusqlite::{Transaction, params};

use super::build::{address_of, country_value};
use super::pseudonym;
use super::segment::{Column, V4};
use crate::store::RecordQuery;
use crate::store::sqlite::database::Work;
use crate::store::sqlite::log::plan::after_all_with;
use crate::store::sqlite::log::strings;

/// Texts with a prefix that are looked up beforehand; with more each text is looked at once.
const PREFIX_TEXTS: i64 = 50_000;

/// What the values of a column must meet.
#[derive(Debug, Clone)]
pub(super) enum Test {
    /// One of a few.
    Among(Vec<u128>),
    /// One of many.
    Set(HashSet<u128>),
    /// Between two.
    Range(RangeInclusive<u128>),
    /// An IPv6 address between two: no IPv4 address, and not the lack of one.
    V6(RangeInclusive<u128>),
    /// A pseudonym in a network.
    Pseudonym(IpNet),
    /// A text that begins so.
    Prefix {
        /// How.
        prefix: String,
        /// What is known of texts.
        known: HashMap<u128, bool>,
    },
}

impl Test {
    /// Whether a value meets it.
    pub(super) fn meets(&mut self, tx: &Transaction<'_>, value: u128) -> Work<bool> {
        Ok(match self {
            Self::Among(values) => values.contains(&value),
            Self::Set(values) => values.contains(&value),
            Self::Range(range) => range.contains(&value),
            Self::V6(range) => value != 0 && value >> 32 != V4 >> 32 && range.contains(&value),
            Self::Pseudonym(net) => pseudonym::lies_in(*net, value),
            Self::Prefix { prefix, known } => {
                if let Some(meets) = known.get(&value) {
                    return Ok(*meets);
                }
                let id = i64::try_from(value).unwrap_or_default();
                let text: String = tx
                    .prepare_cached("SELECT text FROM strings WHERE id = ?1")?
                    .query_row([id], |row| row.get(0))?;
                let meets = text.starts_with(prefix.as_str());
                known.insert(value, meets);
                meets
            }
        })
    }
}

/// All conditions but those on time; `None` when nothing can meet them.
pub(super) fn tests(
    tx: &Transaction<'_>,
    query: &RecordQuery,
) -> Work<Option<Vec<(Column, Test)>>> {
    let mut out = Vec::new();
    if let Some(net) = query.net {
        out.push(match query.form {
            Some(AddressForm::Pseudonym) => (Column::Pseudonym, Test::Pseudonym(net)),
            _ => (Column::Address, addresses(fold_net(net.trunc()))),
        });
    }
    if let Some(form) = query.form {
        out.push((Column::Form, Test::Among(vec![(form as u8).into()])));
    }
    let texts = [
        (Column::Host, &query.host),
        (Column::Method, &query.method),
        (Column::Proxy, &query.proxy),
        (Column::UserAgent, &query.user_agent),
        (Column::Rule, &query.rule),
    ];
    for (column, text) in texts {
        if let Some(text) = text {
            let Some(id) = strings::find(tx, text)? else { return Ok(None) };
            out.push((column, Test::Among(vec![id.unsigned_abs().into()])));
        }
    }
    if let Some(status) = query.status {
        let (first, last) = status.range();
        out.push((Column::Status, Test::Range(first.into()..=last.into())));
    }
    if let Some(country) = query.country {
        out.push((Column::Country, Test::Among(vec![country_value(country.as_str().as_bytes())])));
    }
    if let Some(asn) = query.asn {
        out.push((Column::Asn, Test::Among(vec![asn.into()])));
    }
    if !query.verdicts.is_empty() {
        let codes = query.verdicts.iter().map(|&verdict| u128::from(verdict as u8)).collect();
        out.push((Column::Verdict, Test::Among(codes)));
    }
    if let Some(prefix) = query.path_prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
        let Some(test) = of_prefix(tx, prefix)? else { return Ok(None) };
        out.push((Column::Path, test));
    }
    Ok(Some(out))
}

fn of_prefix(tx: &Transaction<'_>, prefix: &str) -> Work<Option<Test>> {
    let end = after_all_with(prefix);
    let mut statement = tx.prepare_cached(
        "SELECT id FROM strings WHERE text >= ?1 AND (?2 IS NULL OR text < ?2) LIMIT ?3",
    )?;
    let mut rows = statement.query(params![prefix, end, PREFIX_TEXTS + 1])?;
    let mut ids = HashSet::new();
    while let Some(row) = rows.next()? {
        ids.insert(u128::from(row.get::<_, i64>(0)?.unsigned_abs()));
    }
    Ok(match ids.len() as i64 {
        0 => None,
        1..=PREFIX_TEXTS => Some(Test::Set(ids)),
        _ => Some(Test::Prefix { prefix: prefix.to_owned(), known: HashMap::new() }),
    })
}

fn addresses(net: IpNet) -> Test {
    let range = address_of(net.network())..=address_of(net.broadcast());
    if net.addr().is_ipv4() { Test::Range(range) } else { Test::V6(range) }
}
