//! What each address did in each hour: computed by the server out of records, once, and kept
//! beside them.
//!
//! Rows of `hours` say up to which number of a control plane's records they count, and those of
//! one step are one part: there together or not at all. A record counts once because it is
//! behind that number once. What others have not rolled up yet is counted as it is asked for.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use ipnet::IpNet;
use ipwarden::address::fold;

use super::ClickHouseLog;
use super::append::{SECOND_BITS, State, numbers, written_after};
use super::rows::{NO_FAMILY, Read, Row, literal, octets, read};
use super::schema::{HOURS, columns};
use super::search::timestamp;
use super::stats::refused;
use crate::detect::target_of;
use crate::privacy::{Kept, Veil};
use crate::store::aging::{CountryHour, SubjectHour};
use crate::store::rollup::{
    AGENT_BITS, HOUR_US, METHODS, PATH_BITS, PIECES, Rollup, SENSITIVE_BYTES, STATIC, put_place,
};
use crate::store::{HourRollups, IdentityHour, IdentitySeen, PastHour, Result, StoreError};

/// Records are rolled up when they are so old, in seconds, or when somebody asks.
const ROLL_UP_SECONDS: i64 = 600;
/// Records that one statement rolls up, about: what it holds in the server's memory grows with
/// them. A longer backlog takes several.
pub(super) const ROLL_UP_RECORDS: u64 = 2_000_000;
/// Batches that are looked at for that.
const ROLL_UP_BATCHES: usize = 20_000;
/// Requests of an address in an hour whose gaps are looked at: the first ones.
const GAPS: usize = 2_000;

/// Rows of addresses.
pub(super) const OF_ADDRESS: u8 = 0;
/// Rows of countries.
const OF_COUNTRY: u8 = 1;
/// Rows of everybody.
pub(super) const OF_ALL: u8 = 2;

/// The fields of a rollup, out of rows of addresses.
const SUMS: &str = "sum(requests) AS r, sum(sensitive) AS s, \
     anyIf(sensitive_path, sensitive_path != ''), sum(client_errors), sum(server_errors), \
     sum(statics), sum(bytes), sum(depth), min(first_time), max(last_time), sumForEach(pieces), \
     sum(gaps), sum(gap_ms), sum(gap_squares), groupBitOr(methods), groupUniqArrayArray(paths), \
     groupUniqArrayArray(agents)";

/// A row of [`SUMS`].
fn rollup(row: &mut Row<'_>) -> Read<Rollup> {
    let mut rollup = Rollup::default();
    (rollup.requests, rollup.sensitive) = (row.u64()?, row.u64()?);
    rollup.sensitive_path = row.bytes()?.to_vec();
    (rollup.client_errors, rollup.server_errors) = (row.u64()?, row.u64()?);
    (rollup.statics, rollup.bytes, rollup.depth) = (row.u64()?, row.u64()?, row.u64()?);
    (rollup.first_us, rollup.last_us) = (row.i64()?, row.i64()?);
    let pieces = row.list(|row| row.u64())?;
    for (piece, found) in rollup.pieces.iter_mut().zip(pieces) {
        *piece = u32::try_from(found).unwrap_or(u32::MAX);
    }
    (rollup.gaps, rollup.gap_ms, rollup.gap_squares) = (row.u64()?, row.u64()?, row.f64()?);
    let methods = row.u64()?;
    let paths = row.list(|row| row.u16())?;
    let agents = row.list(|row| row.u16())?;
    rollup.set_distinct(methods, &paths, &agents);
    Ok(rollup)
}

/// The target that an address is counted by, as bytes.
pub(super) fn target_bytes(ip: std::net::IpAddr) -> [u8; 16] {
    octets(target_of(fold(ip)).network()).0
}

/// The condition that a row is of one of some addresses: a set, however many they are.
fn of_names<'k>(names: impl IntoIterator<Item = &'k Kept>) -> String {
    let all: Vec<String> = names
        .into_iter()
        .map(|Kept { ip, veil }| {
            let (form, key) = (veil.form as u8, veil.key_number());
            format!("({}, {form}, {key})", literal(&target_bytes(*ip)))
        })
        .collect();
    if all.is_empty() { "0".to_owned() } else { format!("(ip, form, key) IN ({})", all.join(", ")) }
}

impl ClickHouseLog {
    /// The condition that a request is of a sensitive path.
    pub(super) fn is_sensitive(&self) -> String {
        if self.sensitive.is_empty() {
            return "0".to_owned();
        }
        let any: Vec<String> = self.sensitive.iter().map(|path| regex::escape(path)).collect();
        let pattern = format!("^(?i:{})(?:[/?.;]|$)", any.join("|"));
        format!("match(path, {})", literal(pattern.as_bytes()))
    }

    /// Rows of `hours` made of records, in the order of its columns.
    fn made_of(&self, records: &str, day: i64, writer: u8, upto: i64, kinds: &[u8]) -> String {
        let weight = "toUInt64(greatest(weight, toUInt32(1)))";
        let mark =
            format!("toInt32({day}) AS day, toUInt8({writer}) AS writer, toInt64({upto}) AS upto");
        let sensitive = self.is_sensitive();
        let endings: Vec<String> =
            STATIC.iter().map(|ending| regex::escape(&String::from_utf8_lossy(ending))).collect();
        let is_static =
            format!("match(path, {})", literal(format!("(?i:{})$", endings.join("|")).as_bytes()));
        let methods: Vec<String> = METHODS.iter().map(|method| literal(method)).collect();
        // The place in the list, the last bit for others.
        let method = format!(
            "bitShiftLeft(toUInt64(1), (indexOf([{}], toString(method)) + {}) % {})",
            methods.join(", "),
            METHODS.len(),
            METHODS.len() + 1
        );
        let piece_us = HOUR_US / PIECES as i64;
        let pieces: Vec<String> = (0..PIECES)
            .map(|piece| format!("sumIf({weight}, intDiv(time % {HOUR_US}, {piece_us}) = {piece})"))
            .collect();
        let by_address = format!(
            "SELECT toUInt8({OF_ADDRESS}) AS kind, hour, {mark}, target, family, form, key, \
                 '' AS country, requests, toUInt64(0) AS refused, toUInt64(0) AS addresses, \
                 sensitive, sensitive_path, client_errors, server_errors, statics, bytes, depth, \
                 first_time, last_time, pieces, toUInt64(length(times) - 1) AS gaps, \
                 toUInt64(arraySum(steps)) AS gap_ms, \
                 toFloat64(arraySum(arrayMap(x -> (x / 1000) * (x / 1000), steps))) AS gap_squares, \
                 methods, paths, agents \
             FROM (SELECT *, arraySort(sample) AS times, \
                     arrayMap(x -> intDiv(x, 1000), arrayDifference(arraySort(sample))) AS steps \
                 FROM (SELECT hour, \
                     if(family = 6, concat(substring(ip, 1, 8), {}), ip) AS target, \
                     family, form, key, sum({weight}) AS requests, \
                     sumIf({weight}, {sensitive}) AS sensitive, \
                     substring(anyIf(toString(path), {sensitive}), 1, {SENSITIVE_BYTES}) AS sensitive_path, \
                     sumIf({weight}, status >= 400 AND status < 500) AS client_errors, \
                     sumIf({weight}, status >= 500) AS server_errors, \
                     sumIf({weight}, {is_static}) AS statics, \
                     sum(toUInt64(bytes_out)) AS bytes, \
                     sum({weight} * toUInt64(length(path) - length(replaceAll(toString(path), '/', '')))) AS depth, \
                     min(time) AS first_time, max(time) AS last_time, \
                     [{}] AS pieces, groupArray({GAPS})(time) AS sample, \
                     groupBitOr({method}) AS methods, \
                     groupUniqArray(toUInt16(cityHash64(toString(path)) % {PATH_BITS})) AS paths, \
                     groupUniqArray(toUInt16(cityHash64(toString(user_agent)) % {AGENT_BITS})) AS agents \
                 FROM records WHERE {records} AND opted_out = 0 AND family != {NO_FAMILY} \
                 GROUP BY hour, target, family, form, key))",
            literal(&[0; 8]),
            pieces.join(", ")
        );
        let nothing = "toUInt64(0), '', toUInt64(0), toUInt64(0), toUInt64(0), toUInt64(0), \
             toUInt64(0), toInt64(0), toInt64(0), emptyArrayUInt64(), toUInt64(0), toUInt64(0), \
             toFloat64(0), toUInt64(0), emptyArrayUInt16(), emptyArrayUInt16()";
        let nobody = "'', toUInt8(0), toUInt8(0), toUInt32(0)";
        let by_country = format!(
            "SELECT toUInt8({OF_COUNTRY}), hour, {mark}, {nobody}, toString(country), \
                 sum({weight}), sumIf({weight}, {}), toUInt64(0), {nothing} \
             FROM records WHERE {records} AND opted_out = 0 GROUP BY hour, country",
            refused()
        );
        // Also where there is nothing to count: this row says up to where all of them do.
        let of_all = format!(
            "SELECT toUInt8({OF_ALL}), hour, {mark}, {nobody}, '', \
                 sumIf({weight}, opted_out = 0 AND family != {NO_FAMILY}), toUInt64(0), \
                 uniqIf(if(family = 6, substring(ip, 1, 8), ip), form, key, \
                     opted_out = 0 AND family != {NO_FAMILY}), {nothing} \
             FROM records WHERE {records} GROUP BY hour"
        );
        let all = [(OF_ADDRESS, by_address), (OF_COUNTRY, by_country), (OF_ALL, of_all)];
        let chosen: Vec<String> =
            all.into_iter().filter(|(kind, _)| kinds.contains(kind)).map(|(_, sql)| sql).collect();
        chosen.join(" UNION ALL ")
    }

    /// Up to which number records are rolled up, by who wrote them, and the last numbers there
    /// are.
    async fn progress(&self) -> Result<BTreeMap<u8, (i64, i64)>> {
        let answer = self
            .http
            .ask(&format!(
                "SELECT writer, max(upto) FROM hours WHERE kind = {OF_ALL} GROUP BY writer"
            ))
            .await?;
        let rolled: HashMap<u8, i64> =
            read(&answer, |row| Ok((row.u8()?, row.i64()?)))?.into_iter().collect();
        let answer = self
            .http
            .ask("SELECT writer, max(last_id) FROM batches WHERE last_id > 0 GROUP BY writer")
            .await?;
        let last = read(&answer, |row| Ok((row.u8()?, row.i64()?)))?;
        let all = last.into_iter().map(|(writer, last)| {
            (writer, (rolled.get(&writer).copied().unwrap_or_default(), last))
        });
        Ok(all.collect())
    }

    /// Rolls up what this control plane has stored, and what others left.
    pub(super) async fn roll_up(&self, state: &mut State) -> Result<()> {
        if let Some(id) = state.rolling.clone() {
            self.wait_for_none(&id).await?;
            state.rolling = None;
            state.rolled_up = None;
        }
        let me = self.http.url().writer;
        let last = state.last.unwrap_or_default();
        if state.rolled_up.is_some_and(|done| done >= last) {
            return Ok(());
        }
        // Others do it themselves, unless they are gone.
        let second = (state.latest / 1_000_000 - 1_577_836_800 - 2 * ROLL_UP_SECONDS).max(0);
        for (writer, (done, last)) in self.progress().await? {
            let last = if writer == me { last } else { last.min(second << SECOND_BITS) };
            let mut done = done;
            while done < last {
                let upto = self.step(writer, done, last).await?;
                self.roll_up_to(state, writer, done, upto).await?;
                done = upto;
            }
        }
        state.rolled_up = Some(last);
        Ok(())
    }

    /// Up to where the next statement rolls up what lies between two numbers.
    async fn step(&self, writer: u8, done: i64, last: i64) -> Result<i64> {
        let answer = self
            .http
            .ask(&format!(
                "SELECT last_id, stored FROM batches WHERE writer = {writer} AND last_id > {done} \
                 AND last_id <= {last} ORDER BY last_id LIMIT {ROLL_UP_BATCHES}"
            ))
            .await?;
        let batches = read(&answer, |row| Ok((row.i64()?, row.u64()?)))?;
        let mut records = 0u64;
        for (upto, stored) in &batches {
            records = records.saturating_add(*stored);
            if records >= self.roll_up_records {
                return Ok(*upto);
            }
        }
        let is_all = batches.len() < ROLL_UP_BATCHES;
        Ok(batches.last().filter(|_| !is_all).map_or(last, |(upto, _)| *upto))
    }

    async fn roll_up_to(&self, state: &mut State, writer: u8, done: i64, last: i64) -> Result<()> {
        let records = format!("{} AND {}", written_after(done, writer), numbers(done, last));
        let day = (last >> SECOND_BITS).div_euclid(86_400);
        let kinds = [OF_ADDRESS, OF_COUNTRY, OF_ALL];
        let made = self.made_of(&records, day, writer, last, &kinds);
        let sql = format!("INSERT INTO hours ({}) {made}", columns(HOURS));
        let id = self.statement(state);
        state.rolling = Some(id.clone());
        self.http.insert_found(&sql, &id, self.server().await?).await?;
        state.rolling = None;
        Ok(())
    }

    /// Rolls up when there is enough of it.
    pub(super) async fn roll_up_many(&self, state: &mut State) -> Result<()> {
        let (Some(last), Some(done)) = (state.last, state.rolled_up) else {
            // Not before the first batch; from then on it is known how far it is.
            if state.last.is_some() {
                return self.roll_up(state).await;
            }
            return Ok(());
        };
        if last - done >= ROLL_UP_SECONDS << SECOND_BITS {
            self.roll_up(state).await
        } else {
            Ok(())
        }
    }

    /// Rows of a kind and of some hours: those that are kept, and those of records that nobody
    /// has rolled up yet. Of the former only those that meet `also`.
    async fn rows(&self, kind: u8, hours: &str, also: &str) -> Result<String> {
        self.rolled_up().await?;
        let behind: Vec<String> = self
            .progress()
            .await?
            .into_iter()
            .filter(|(_, (done, last))| last > done)
            .map(|(writer, (done, _))| format!("({})", written_after(done, writer)))
            .collect();
        let kept = format!("SELECT * FROM hours WHERE kind = {kind} AND {hours} AND {also}");
        if behind.is_empty() {
            return Ok(format!("({kept})"));
        }
        let records = format!("({}) AND {hours}", behind.join(" OR "));
        Ok(format!("({kept} UNION ALL {})", self.made_of(&records, 0, 0, 0, &[kind])))
    }

    pub(super) async fn rollups_of(&self, hour: i64, least: u64) -> Result<HourRollups> {
        let rows = self.rows(OF_ADDRESS, &format!("hour = {hour}"), "1").await?;
        let all = self.rows(OF_ALL, &format!("hour = {hour}"), "1").await?;
        let answer = self
            .http
            .ask(&format!(
                "SELECT form, key, ip, family, {SUMS} FROM {rows} GROUP BY form, key, ip, family \
                 HAVING r >= {least} OR s > 0"
            ))
            .await?;
        let mut found = HourRollups::default();
        let mut veiled: BTreeMap<Veil, Vec<(IpNet, Rollup)>> = BTreeMap::new();
        let rollups = read(&answer, |row| {
            let veil = veil(row)?;
            Ok((veil, row.ip()?, rollup(row)?))
        })?;
        for (veil, ip, rollup) in rollups {
            let Some(ip) = ip else { continue };
            let list =
                if veil.is_none() { &mut found.rollups } else { veiled.entry(veil).or_default() };
            list.push((target_of(ip), rollup));
        }
        found.rollups.sort_unstable_by_key(|(target, _)| *target);
        for (veil, mut list) in veiled {
            list.sort_unstable_by_key(|(target, _)| *target);
            found.veiled.push((veil, list));
        }
        let answer =
            self.http.ask(&format!("SELECT sum(requests), max(addresses) FROM {all}")).await?;
        let sums = read(&answer, |row| Ok((row.u64()?, row.u64()?)))?;
        let (requests, least) = sums.first().copied().unwrap_or_default();
        let answer = self
            .http
            .ask(&format!(
                "SELECT count() FROM (SELECT ip FROM {rows} GROUP BY form, key, ip, family)"
            ))
            .await?;
        let addresses = read(&answer, |row| row.u64())?.first().copied().unwrap_or_default();
        // When its addresses are forgotten, what was counted at once is what is known.
        (found.requests, found.addresses) = (requests, addresses.max(least));
        found.identities = self.identities_of(hour).await?;
        Ok(found)
    }

    async fn identities_of(&self, hour: i64) -> Result<Vec<IdentityHour>> {
        let answer = self
            .http
            .ask(&format!(
                "SELECT identity, sum(requests), ip, family, min(time) AS first, max(last_time) \
                 FROM (SELECT * FROM identities FINAL WHERE hour = {hour}) \
                 GROUP BY identity, ip, family ORDER BY identity, first"
            ))
            .await?;
        let rows =
            read(&answer, |row| Ok((row.text()?, row.u64()?, row.ip()?, row.i64()?, row.i64()?)))?;
        let mut out: Vec<IdentityHour> = Vec::new();
        for (identity, requests, ip, first_us, last_us) in rows {
            if out.last().is_none_or(|last| last.identity != identity) {
                out.push(IdentityHour { identity, requests: 0, places: Vec::new() });
            }
            let Some(last) = out.last_mut() else { continue };
            last.requests = last.requests.saturating_add(requests);
            if let Some(ip) = ip {
                put_place(&mut last.places, IdentitySeen { ip, first_us, last_us });
            }
        }
        Ok(out)
    }

    pub(super) async fn past(&self, hours: &[i64], targets: &[Vec<Kept>]) -> Result<Vec<PastHour>> {
        if hours.is_empty() {
            return Ok(Vec::new());
        }
        let list = hours.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let of_hours = format!("hour IN ({list})");
        let all = self.rows(OF_ALL, &of_hours, "1").await?;
        let rows = self.rows(OF_ADDRESS, &of_hours, "1").await?;
        let answer =
            self.http.ask(&format!("SELECT hour, sum(requests) FROM {all} GROUP BY hour")).await?;
        let sums: HashMap<i32, u64> =
            read(&answer, |row| Ok((row.i32()?, row.u64()?)))?.into_iter().collect();
        let answer = self.http.ask(&format!("SELECT hour FROM {rows} GROUP BY hour")).await?;
        let known = read(&answer, |row| row.i32())?;
        let names: Vec<&Kept> = targets.iter().flatten().collect();
        let mut counts: HashMap<(i32, u8, u32, Vec<u8>), u64> = HashMap::new();
        // A statement has its bounds.
        for names in names.chunks(2_000) {
            let of = of_names(names.iter().copied());
            let answer = self
                .http
                .ask(&format!(
                    "SELECT hour, form, key, ip, sum(requests) FROM {rows} WHERE {of} \
                     GROUP BY hour, form, key, ip"
                ))
                .await?;
            let rows = read(&answer, |row| {
                Ok(((row.i32()?, row.u8()?, row.u32()?, row.bytes()?.to_vec()), row.u64()?))
            })?;
            counts.extend(rows);
        }
        let mut out = Vec::new();
        for &hour in hours {
            let at = i32::try_from(hour).unwrap_or(i32::MAX);
            // Without addresses they are forgotten.
            let Some(requests) = sums.get(&at).filter(|_| known.contains(&at)) else { continue };
            let of_name = |Kept { ip, veil }: &Kept| {
                let key = (at, veil.form as u8, veil.key_number(), target_bytes(*ip).to_vec());
                counts.get(&key).copied().unwrap_or_default()
            };
            let by_target = targets.iter().map(|names| names.iter().map(of_name).sum()).collect();
            out.push(PastHour { hour, requests: *requests, by_target });
        }
        Ok(out)
    }

    pub(super) async fn hours_of(&self, names: &[Kept], most: usize) -> Result<Vec<SubjectHour>> {
        let of = of_names(names);
        let rows = self.rows(OF_ADDRESS, "1", &of).await?;
        let answer = self
            .http
            .ask(&format!(
                "SELECT hour, {SUMS} FROM {rows} WHERE {of} GROUP BY hour, form, key ORDER BY hour \
                 LIMIT {most}"
            ))
            .await?;
        read(&answer, |row| {
            let hour = i64::from(row.i32()?);
            let rollup = rollup(row)?;
            Ok(SubjectHour {
                hour: timestamp(hour * HOUR_US)?,
                requests: rollup.requests,
                sensitive: rollup.sensitive,
                client_errors: rollup.client_errors,
                server_errors: rollup.server_errors,
                bytes: rollup.bytes,
                paths: rollup.paths(),
            })
        })
    }

    pub(super) async fn countries(&self, first: i64, last: i64) -> Result<Vec<CountryHour>> {
        let rows =
            self.rows(OF_COUNTRY, &format!("hour >= {first} AND hour <= {last}"), "1").await?;
        let answer = self
            .http
            .ask(&format!(
                "SELECT hour, country, sum(requests) AS r, sum(refused) FROM {rows} \
                 GROUP BY hour, country ORDER BY hour, r DESC, country"
            ))
            .await?;
        read(&answer, |row| {
            Ok(CountryHour {
                hour: row.i32()?.into(),
                country: Some(row.text()?).filter(|country| !country.is_empty()),
                requests: row.u64()?,
                refused: row.u64()?,
            })
        })
    }
}

/// What an address is.
pub(super) fn veil(row: &mut Row<'_>) -> Read<Veil> {
    Veil::of_numbers(row.u8()?, row.u32()?)
        .ok_or_else(|| StoreError::Internal("an address has an unknown form".to_owned()))
}
