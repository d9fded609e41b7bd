//! Finding records.
//!
//! A page is found in two steps: numbers first, then the records with these. Numbers follow
//! arrival, so that a search looks at windows of time that grow from one end, and ends as soon
//! as the page is full.

use std::net::IpAddr;
use std::ops::ControlFlow;

use ipnet::IpNet;
use ipwarden::address::{fold_net, host_net};
use ipwarden::privacy::AddressForm;
use ipwarden::record::Verdict;
use jiff::Timestamp;

use super::ClickHouseLog;
use super::append::{NO_ASN, SECOND_BITS, numbers};
use super::rows::{Read, Row, literal, read};
use crate::model::{Revision, StoredRecord};
use crate::privacy::Veil;
use crate::store::view::{milliseconds, next_us, time_of_us};
use crate::store::{RecordQuery, Result, StoreError, StreamTotals, flags, request_id};

/// Records fetched at once.
const PAGE: usize = 10_000;
/// Numbers of the first window: ten minutes of arrival.
const WINDOW: i64 = 600 << SECOND_BITS;

/// Conditions, all of which must hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions(Vec<String>);

impl Conditions {
    pub(super) fn and(&mut self, condition: impl Into<String>) -> &mut Self {
        self.0.push(condition.into());
        self
    }

    /// As the condition of a statement.
    pub(super) fn sql(&self) -> String {
        if self.0.is_empty() { "1".to_owned() } else { self.0.join(" AND ") }
    }

    /// What a question asks for, but for `before` and `limit`; its span only with `span`.
    pub(super) fn of(query: &RecordQuery, span: bool) -> Self {
        let mut all = Self::default();
        if let Some(net) = query.net {
            all.and(of_network(net));
        }
        match query.form {
            Some(form) => {
                all.and(format!("form = {}", form as u8));
            }
            None if query.net.is_some() => {
                all.and(format!("form != {}", AddressForm::Pseudonym as u8));
            }
            None => {}
        }
        let texts = [
            ("host", &query.host),
            ("method", &query.method),
            ("proxy", &query.proxy),
            ("user_agent", &query.user_agent),
        ];
        for (column, text) in texts {
            if let Some(text) = text {
                all.and(format!("{column} = {}", literal(text.as_bytes())));
            }
        }
        if let Some(rule) = &query.rule {
            all.and(format!("rule = {} AND rule != ''", literal(rule.as_bytes())));
        }
        if let Some(prefix) = query.path_prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            all.and(format!("startsWith(path, {})", literal(prefix.as_bytes())));
        }
        if let Some(status) = query.status {
            let (first, last) = status.range();
            all.and(format!("status >= {first} AND status <= {last}"));
        }
        if let Some(country) = query.country {
            all.and(format!("country = {}", literal(country.as_str().as_bytes())));
        }
        if let Some(asn) = query.asn {
            all.and(format!("asn = {asn}"));
        }
        if !query.verdicts.is_empty() {
            let codes: Vec<String> =
                query.verdicts.iter().map(|&verdict| (verdict as u8).to_string()).collect();
            all.and(format!("verdict IN ({})", codes.join(", ")));
        }
        if span {
            all.span(query.since.map(next_us), query.until.map(next_us));
        }
        all
    }

    /// From a time on and before another, in microseconds.
    pub(super) fn span(&mut self, since: Option<i64>, until: Option<i64>) -> &mut Self {
        // The hour leads the order of the table, so that most of it is never read.
        if let Some(since) = since {
            self.and(format!("hour >= {} AND time >= {since}", super::hour_of(since)));
        }
        if let Some(until) = until {
            self.and(format!("hour <= {} AND time < {until}", super::hour_of(until)));
        }
        self
    }
}

/// The condition that an address lies in a network.
pub(super) fn of_network(net: IpNet) -> String {
    let net = fold_net(net).trunc();
    // Not folded: the ends of an IPv6 network may look like mapped addresses.
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let (first, last) = (bytes(net.network()), bytes(net.broadcast()));
    let family = if net.addr().is_ipv4() { 4 } else { 6 };
    if first == last {
        format!("ip = {} AND family = {family}", literal(&first))
    } else {
        format!("ip >= {} AND ip <= {} AND family = {family}", literal(&first), literal(&last))
    }
}

const FIELDS: &str = "id, time, ip, family, form, key, verdict, decision, rule, weight, method, \
     host, path, query, status, flags, duration, bytes_in, bytes_out, user_agent, request_id, \
     proxy, country, city, asn";

fn record(row: &mut Row<'_>) -> Read<StoredRecord> {
    let damaged = |what| StoreError::Internal(format!("a record has an unknown {what}"));
    let some = |text: String| (!text.is_empty()).then_some(text);
    let (id, time, ip) = (row.i64()?, row.i64()?, row.ip()?);
    let veil = Veil::of_numbers(row.u8()?, row.u32()?).ok_or_else(|| damaged("form"))?;
    let verdict = Verdict::from_code(row.u8()?).ok_or_else(|| damaged("verdict"))?;
    Ok(StoredRecord {
        id,
        time: timestamp(time)?,
        ip,
        form: veil.form,
        key: veil.key.map(|key| key.to_string()),
        verdict: verdict.as_str().to_owned(),
        decision: Some(row.u32()?).filter(|decision| *decision != 0),
        rule: some(row.text()?),
        weight: row.u32()?,
        method: row.text()?,
        host: row.text()?,
        path: row.text()?,
        query: some(row.text()?),
        status: row.u16()?,
        flags: flags::short_names(row.u64()?),
        duration_ms: milliseconds(row.i64()?),
        bytes_in: row.i64()?.unsigned_abs(),
        bytes_out: row.i64()?.unsigned_abs(),
        user_agent: row.text()?,
        request_id: request_id::from_bytes(row.bytes()?).ok_or_else(|| damaged("request id"))?,
        proxy: row.text()?,
        country: some(row.text()?),
        city: some(row.text()?),
        asn: Some(row.i64()?).filter(|asn| *asn != NO_ASN).and_then(|asn| u32::try_from(asn).ok()),
    })
}

/// A time out of a table.
pub(super) fn timestamp(us: i64) -> Read<Timestamp> {
    time_of_us(us).ok_or_else(|| StoreError::Internal("a time is out of range".to_owned()))
}

impl ClickHouseLog {
    /// The first and the last number that there may be.
    async fn bounds(&self) -> Result<Option<(i64, i64)>> {
        // Small beside the records; those whose batches are not noted are behind it.
        let answer = self
            .http
            .ask("SELECT min(first_id), max(last_id), count() FROM batches WHERE first_id > 0")
            .await?;
        let found = read(&answer, |row| Ok((row.i64()?, row.i64()?, row.u64()?)))?;
        Ok(found.first().filter(|found| found.2 > 0).map(|found| (found.0, found.1)))
    }

    /// Records with numbers in a window that match, at most [`PAGE`].
    async fn window(
        &self,
        conditions: &Conditions,
        (first, last): (i64, i64),
        newest: bool,
        most: usize,
    ) -> Result<Vec<StoredRecord>> {
        let order = if newest { "DESC" } else { "ASC" };
        let mut all = conditions.clone();
        all.and(numbers(first, last));
        let answer = self
            .http
            .ask(&format!(
                "SELECT min(id), max(id), count() FROM (SELECT id FROM records WHERE {} \
                 ORDER BY id {order} LIMIT {most})",
                all.sql()
            ))
            .await?;
        let found = read(&answer, |row| Ok((row.i64()?, row.i64()?, row.u64()?)))?;
        let Some(&(first, last, 1..)) = found.first() else { return Ok(Vec::new()) };
        let mut all = conditions.clone();
        all.and(numbers(first, last));
        let answer = self
            .http
            .ask(&format!("SELECT {FIELDS} FROM records WHERE {} ORDER BY id {order}", all.sql()))
            .await?;
        read(&answer, record)
    }

    pub(super) async fn newest(&self, query: &RecordQuery) -> Result<Vec<StoredRecord>> {
        let conditions = Conditions::of(query, true);
        let Some((lowest, mut last)) = self.bounds().await? else { return Ok(Vec::new()) };
        if let Some(before) = query.before {
            last = last.min(before.saturating_sub(1));
        }
        let mut out: Vec<StoredRecord> = Vec::new();
        let mut width = WINDOW;
        while out.len() < query.limit && last >= lowest {
            let first = last.saturating_sub(width).max(lowest);
            let most = (query.limit - out.len()).min(PAGE);
            let found = self.window(&conditions, (first, last), true, most).await?;
            if found.len() < most {
                last = first - 1;
                width = width.saturating_mul(4);
            } else {
                last = found.last().map_or(first, |record| record.id) - 1;
            }
            out.extend(found);
        }
        Ok(out)
    }

    pub(super) async fn oldest(
        &self,
        query: &RecordQuery,
        visit: &mut (dyn for<'r> FnMut(StoredRecord) -> ControlFlow<()> + Send),
    ) -> Result<()> {
        let conditions = Conditions::of(query, true);
        let Some((mut first, highest)) = self.bounds().await? else { return Ok(()) };
        let mut width = WINDOW;
        while first <= highest {
            let last = first.saturating_add(width).min(highest);
            let found = self.window(&conditions, (first, last), false, PAGE).await?;
            if found.len() < PAGE {
                first = last + 1;
                width = width.saturating_mul(4);
            } else {
                first = found.last().map_or(last, |record| record.id) + 1;
            }
            for record in found {
                if visit(record).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub(super) async fn sum_of_weights(&self, query: &RecordQuery) -> Result<u64> {
        let conditions = Conditions::of(query, true).sql();
        let answer = self
            .http
            .ask(&format!("SELECT sum(toUInt64(weight)) FROM records WHERE {conditions}"))
            .await?;
        Ok(read(&answer, |row| row.u64())?.first().copied().unwrap_or_default())
    }

    pub(super) async fn holds_address(&self, ip: IpAddr) -> Result<bool> {
        let query = RecordQuery { net: Some(host_net(ip)), ..RecordQuery::default() };
        let conditions = Conditions::of(&query, true).sql();
        let sql = format!("SELECT toUInt8(1) FROM records WHERE {conditions} LIMIT 1");
        Ok(!self.http.ask(&sql).await?.is_empty())
    }

    /// All workers, newest heard of first.
    pub(super) async fn all_streams(&self) -> Result<Vec<StreamTotals>> {
        // The row of a batch may be there twice until parts are merged.
        let answer = self
            .http
            .ask(
                "SELECT stream, argMax(proxy, sent) AS p, argMax(version, sent) AS v, \
                     max(started) AS s, max(received) AS heard, \
                     intDiv(argMax(sent, sent) - argMax(received, sent), 1000) AS offset, \
                     argMax(epoch, sent) AS e, argMax(revision, sent) AS r, max(seen) AS a, \
                     max(lost) AS l, max(skipped) AS k, sum(stored) AS w \
                 FROM batches FINAL GROUP BY stream ORDER BY heard DESC, stream",
            )
            .await?;
        read(&answer, |row| {
            Ok(StreamTotals {
                stream: row.u64()?,
                proxy: row.text()?,
                version: row.text()?,
                started_at: timestamp(row.i64()?)?,
                last_seen: timestamp(row.i64()?)?,
                clock_offset_ms: row.i64()?,
                applied: Revision { epoch: row.u64()?, number: row.u64()? },
                seen: row.i64()?.unsigned_abs(),
                lost: row.i64()?.unsigned_abs(),
                skipped: row.i64()?.unsigned_abs(),
                stored: row.u64()?,
            })
        })
    }
}
