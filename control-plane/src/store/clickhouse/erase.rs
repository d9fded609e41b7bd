//! Erasing an address: its records and hours, where identities were seen, and what others' texts
//! say of it.

use std::net::IpAddr;

use super::ClickHouseLog;
use super::mutation::Item;
use super::rollups::{OF_ADDRESS, target_bytes};
use super::rows::{NO_FAMILY, literal, octets, read};
use crate::privacy::mention::replaced;
use crate::privacy::{Kept, Veil};
use crate::store::Result;
use crate::store::aging::Erased;

/// Texts looked at, and changed, at once.
const TEXTS: usize = 20_000;
/// Texts of clients.
const COLUMNS: [(&str, &str); 11] = [
    ("records", "path"),
    ("records", "host"),
    ("records", "user_agent"),
    ("records", "query"),
    ("records", "request_id"),
    ("records", "method"),
    ("records", "rule"),
    ("records", "city"),
    ("records", "proxy"),
    ("hours", "sensitive_path"),
    ("identities", "identity"),
];

fn is_named(Kept { ip, veil }: &Kept) -> String {
    let (form, key) = (veil.form as u8, veil.key_number());
    format!("(ip = {} AND form = {form} AND key = {key})", literal(&octets(*ip).0))
}

/// Texts that may mention an address: with its digits and dots, or with what addresses in any
/// other notation can't be without.
fn may_mention(column: &str, ip: IpAddr) -> String {
    let written = regex::escape(&ip.to_string());
    let pattern = format!("{written}|(?i:%2e|%3a)|:[0-9a-fA-F.]*:");
    format!("match({column}, {})", literal(pattern.as_bytes()))
}

impl ClickHouseLog {
    pub(super) async fn count_held(&self, names: &[Kept]) -> Result<Vec<(Veil, u64)>> {
        let mut out = Vec::new();
        for name in names {
            let sql = format!("SELECT count() FROM records WHERE {}", is_named(name));
            let count = self.number(&sql).await?;
            if count > 0 {
                out.push((name.veil, count));
            }
        }
        Ok(out)
    }

    pub(super) async fn erase_all(&self, names: &[Kept], with: &str) -> Result<Erased> {
        let mut erased = Erased::default();
        let held = self.count_held(names).await?;
        erased.records = held.iter().map(|(_, count)| *count).sum();
        let items = names
            .iter()
            .map(|Kept { ip, veil }| (octets(*ip).0.to_vec(), target_bytes(*ip).to_vec(), *veil));
        self.job(items.collect()).await?;
        if erased.records > 0 {
            self.change(
                "records",
                "DELETE WHERE (ip, form, key) IN (SELECT a, form, key FROM jobs)",
            )
            .await?;
        }
        let of_hours = "(ip, form, key) IN (SELECT b, form, key FROM jobs)";
        let of_hours = format!("kind = {OF_ADDRESS} AND {of_hours}");
        erased.rollups =
            self.number(&format!("SELECT count() FROM hours WHERE {of_hours}")).await?;
        if erased.rollups > 0 {
            self.change("hours", &format!("DELETE WHERE {of_hours}")).await?;
        }
        let places = format!("family != {NO_FAMILY} AND ip IN (SELECT a FROM jobs)");
        let seen = self.number(&format!("SELECT count() FROM identities WHERE {places}")).await?;
        if seen > 0 {
            let nothing = format!("UPDATE ip = '', family = {NO_FAMILY} WHERE {places}");
            self.change("identities", &nothing).await?;
            erased.rollups += seen;
        }
        self.end_job().await?;
        let bare = names.iter().find(|name| name.veil.is_none());
        if let Some(Kept { ip, .. }) = bare {
            for (table, column) in COLUMNS {
                erased.redacted += self.redact(table, column, *ip, with).await?;
            }
        }
        Ok(erased)
    }

    /// Takes an address out of the texts of a column; says how many mentioned it.
    async fn redact(&self, table: &str, column: &str, ip: IpAddr, with: &str) -> Result<u64> {
        let mut after: Vec<u8> = Vec::new();
        let mut done = 0;
        loop {
            let answer = self
                .http
                .ask(&format!(
                    "SELECT DISTINCT toString({column}) AS text FROM {table} \
                     WHERE {} AND toString({column}) > {} \
                         AND NOT startsWith(toString({column}), unhex('00')) \
                     ORDER BY text LIMIT {TEXTS}",
                    may_mention(column, ip),
                    literal(&after)
                ))
                .await?;
            let texts = read(&answer, |row| Ok(row.bytes()?.to_vec()))?;
            let full = texts.len() == TEXTS;
            let items: Vec<Item> = texts
                .iter()
                .filter_map(|text| {
                    let said = String::from_utf8_lossy(text);
                    let rest = replaced(&said, ip, with)?;
                    Some((text.clone(), rest.into_bytes(), Veil::NONE))
                })
                .collect();
            if !items.is_empty() {
                done += items.len() as u64;
                self.replace(table, column, items, "", "1").await?;
            }
            match texts.into_iter().next_back() {
                Some(last) if full => after = last,
                _ => return Ok(done),
            }
        }
    }
}
