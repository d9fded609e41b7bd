//! What dashboards count: one statement for totals and series, one for each list.

use std::net::IpAddr;

use futures_util::future::try_join_all;
use ipnet::IpNet;
use ipwarden::address::fold_net;
use ipwarden::privacy::{AddressForm, KeyId};
use ipwarden::record::Verdict;

use super::ClickHouseLog;
use super::append::NO_ASN;
use super::client::MAX_GROUPS;
use super::rows::{NO_FAMILY, ip_of, read};
use super::search::Conditions;
use crate::store::stats::{
    Dimension, MAX_BUCKETS, MAX_TOP, SLOT_SECONDS, Stats, StatsQuery, Top, TopRow, Totals,
    VERDICTS, countable,
};
use crate::store::{Result, StoreError};

/// Microseconds of a slot.
const SLOT_US: i64 = SLOT_SECONDS * 1_000_000;

/// A span up to which it pays to ask first which partitions it is in.
const NARROW_SECONDS: i64 = 2 * 86_400;

/// What a dimension is counted by, and which records have it.
fn expression(dimension: Dimension) -> (String, String) {
    let all = "1".to_owned();
    let is_pseudonym = AddressForm::Pseudonym as u8;
    let address = format!("family != {NO_FAMILY} AND form != {is_pseudonym}");
    let pseudonym = format!("family != {NO_FAMILY} AND form = {is_pseudonym}");
    match dimension {
        Dimension::Address => ("ip".to_owned(), address),
        // 15 bytes of a mapped /24, 6 of a /48: told apart by their length.
        Dimension::Network => {
            ("if(family = 4, substring(ip, 1, 15), substring(ip, 1, 6))".to_owned(), address)
        }
        // The key's number, a space, then as above; of IPv6 8 bytes.
        Dimension::Pseudonym => {
            let part = "if(family = 4, ip, substring(ip, 1, 8))";
            (format!("concat(toString(key), ' ', {part})"), pseudonym)
        }
        Dimension::PseudonymNetwork => {
            let part = "if(family = 4, substring(ip, 1, 15), substring(ip, 1, 6))";
            (format!("concat(toString(key), ' ', {part})"), pseudonym)
        }
        Dimension::Asn => ("toString(asn)".to_owned(), format!("asn != {NO_ASN}")),
        Dimension::Country => ("toString(country)".to_owned(), all),
        Dimension::Path => ("toString(path)".to_owned(), all),
        Dimension::Host => ("toString(host)".to_owned(), all),
        Dimension::Method => ("toString(method)".to_owned(), all),
        Dimension::Status => ("toString(status)".to_owned(), all),
        Dimension::UserAgent => ("toString(user_agent)".to_owned(), all),
        Dimension::Rule => ("toString(rule)".to_owned(), "rule != ''".to_owned()),
        Dimension::Verdict => ("toString(verdict)".to_owned(), all),
        Dimension::Proxy => ("toString(proxy)".to_owned(), all),
    }
}

/// A value as it is shown; `None` for what no insert wrote.
fn shown(dimension: Dimension, value: &[u8]) -> Option<String> {
    Some(match dimension {
        Dimension::Address => ip_of(value)?.to_string(),
        Dimension::Network => network_of(value)?.to_string(),
        Dimension::Pseudonym | Dimension::PseudonymNetwork => {
            let space = value.iter().position(|byte| *byte == b' ')?;
            let (key, part) = value.split_at_checked(space)?;
            let key: u32 = std::str::from_utf8(key).ok()?.parse().ok()?;
            let net = network_of(part.get(1..)?)?;
            let name = match net.prefix_len() {
                32 => net.addr().to_string(),
                _ => net.to_string(),
            };
            match key {
                0 => name,
                key => format!("{name}@{}", KeyId(key.to_be_bytes())),
            }
        }
        Dimension::Verdict => {
            let code = std::str::from_utf8(value).ok()?.parse().ok()?;
            Verdict::from_code(code)?.as_str().to_owned()
        }
        _ => String::from_utf8(value.to_vec()).ok()?,
    })
}

/// The first bytes of an address as what they stand for: 16 and 15 of a mapped IPv4 address, 8
/// and 6 of an IPv6 one.
fn network_of(bytes: &[u8]) -> Option<IpNet> {
    let mut octets = [0; 16];
    octets.get_mut(..bytes.len())?.copy_from_slice(bytes);
    let (ip, bits) = match bytes.len() {
        16 => (ip_of(&octets)?, 32),
        15 => (ip_of(&octets)?, 24),
        8 => (IpAddr::from(octets), 64),
        _ => (IpAddr::from(octets), 48),
    };
    IpNet::new(ip, bits).ok()
}

/// The condition that a request was refused.
pub(super) fn refused() -> String {
    let codes: Vec<String> = Verdict::ALL
        .into_iter()
        .filter(|verdict| verdict.is_refusal())
        .map(|verdict| (verdict as u8).to_string())
        .collect();
    format!("verdict IN ({})", codes.join(", "))
}

impl ClickHouseLog {
    pub(super) async fn answer(&self, query: &StatsQuery) -> Result<Stats> {
        let (first, end) = query.slots().unwrap_or((0, 0));
        let span = end - first;
        let step = match query.step_slots {
            1.. => query.step_slots.max(span.div_euclid(MAX_BUCKETS) + 1),
            _ => 0,
        };
        let buckets = if step > 0 { (span + step - 1).div_euclid(step) } else { 0 };
        let none = || vec![Totals::default(); usize::try_from(buckets).unwrap_or_default()];
        let mut stats = Stats {
            first_slot: first,
            end_slot: end,
            total: Totals::default(),
            before: query.compare.then(Totals::default),
            series: none(),
            series_before: if query.compare { none() } else { Vec::new() },
            tops: vec![Top::default(); query.tops.len()],
        };
        if span <= 0 {
            return Ok(stats);
        }
        let begin = if query.compare { first - span } else { first };
        let mut filter = query.filter.clone();
        if filter.form == Some(AddressForm::Pseudonym) {
            filter.net = filter.net.map(|net| countable(fold_net(net)));
        }
        let mut conditions = Conditions::of(&filter, false);
        conditions.and("opted_out = 0").span(Some(begin * SLOT_US), Some(end * SLOT_US));
        if (end - begin) * SLOT_SECONDS <= NARROW_SECONDS {
            // Every statement looks into every partition that it does not know to be of other
            // hours, and proxies' clocks may be wrong: so the partitions are asked for.
            let partitions = self.partitions(begin * SLOT_US, end * SLOT_US).await?;
            if partitions.is_empty() {
                return Ok(stats);
            }
            conditions.and(format!("arrival IN ({})", partitions.join(", ")));
        }
        self.series(&mut stats, &conditions, step).await?;
        let now = format!("time >= {}", first * SLOT_US);
        let tops = query.tops.iter().map(|(dimension, most)| {
            self.top(*dimension, (*most).min(MAX_TOP), &conditions, &now, query.compare)
        });
        stats.tops = try_join_all(tops).await?;
        Ok(stats)
    }

    /// The partitions that hold records of a span of time.
    async fn partitions(&self, begin_us: i64, end_us: i64) -> Result<Vec<String>> {
        let mut conditions = Conditions::default();
        conditions.span(Some(begin_us), Some(end_us));
        let sql = format!("SELECT DISTINCT arrival FROM records WHERE {}", conditions.sql());
        read(&self.http.ask(&sql).await?, |row| Ok(row.i32()?.to_string()))
    }

    /// Totals and buckets of both spans.
    async fn series(&self, stats: &mut Stats, conditions: &Conditions, step: i64) -> Result<()> {
        let (first, end) = (stats.first_slot, stats.end_slot);
        let span = end - first;
        let slot = format!("intDiv(time, {SLOT_US})");
        let bucket = match step {
            0 => "toInt64(0)".to_owned(),
            _ => format!("toInt64(intDiv({slot} - if(past, {}, {first}), {step}))", first - span),
        };
        let answer = self
            .http
            .ask(&format!(
                "SELECT toUInt8(time < {}) AS past, {bucket} AS bucket, verdict, \
                     sum(toUInt64(weight)) AS requests \
                 FROM records WHERE {} GROUP BY past, bucket, verdict",
                first * SLOT_US,
                conditions.sql()
            ))
            .await?;
        let rows = read(&answer, |row| Ok((row.u8()? != 0, row.i64()?, row.u8()?, row.u64()?)))?;
        for (past, bucket, verdict, requests) in rows {
            let verdict = usize::from(verdict);
            if verdict >= VERDICTS {
                return Err(StoreError::Internal("a record has an unknown verdict".to_owned()));
            }
            let (total, series) = match (past, &mut stats.before) {
                (true, Some(before)) => (before, &mut stats.series_before),
                _ => (&mut stats.total, &mut stats.series),
            };
            let bucket = usize::try_from(bucket).ok().and_then(|bucket| series.get_mut(bucket));
            for totals in std::iter::once(total).chain(bucket) {
                if let Some(count) = totals.verdicts.get_mut(verdict) {
                    *count = count.saturating_add(requests);
                }
            }
        }
        Ok(())
    }

    /// One list.
    async fn top(
        &self,
        dimension: Dimension,
        most: usize,
        conditions: &Conditions,
        now: &str,
        compare: bool,
    ) -> Result<Top> {
        let (value, has) = expression(dimension);
        let mut all = conditions.clone();
        all.and(has);
        let counted = format!(
            "SELECT {value} AS value, sumIf(toUInt64(weight), {now}) AS requests, \
                 sumIf(toUInt64(weight), {now} AND {}) AS refused_requests, \
                 sumIf(toUInt64(weight), NOT ({now})) AS before_requests, countIf({now}) AS here \
             FROM records WHERE {} GROUP BY value HAVING here > 0",
            refused(),
            all.sql()
        );
        let rows = self
            .http
            .ask_groups(&format!(
                "SELECT value, requests, refused_requests, before_requests FROM ({counted}) \
                 ORDER BY requests DESC, value LIMIT {most}"
            ))
            .await?;
        let mut here = all.clone();
        here.and(now);
        let distinct = self
            .http
            .ask(&format!("SELECT uniq({value}) FROM records WHERE {}", here.sql()))
            .await?;
        let distinct = read(&distinct, |row| row.u64())?.first().copied().unwrap_or_default();
        let rows = read(&rows, |row| {
            let value = row.bytes()?.to_vec();
            Ok((value, row.u64()?, row.u64()?, row.u64()?))
        })?;
        let rows = rows
            .into_iter()
            .map(|(value, requests, refused, before)| {
                let key = shown(dimension, &value).ok_or_else(|| {
                    StoreError::Internal("a record has a value that can't be read".to_owned())
                })?;
                Ok(TopRow { key, requests, refused, before: compare.then_some(before) })
            })
            .collect::<Result<_>>()?;
        Ok(Top { rows, distinct, approximate: distinct > MAX_GROUPS })
    }
}
