//! Storing batches: each once, whatever breaks on the way.
//!
//! A record carries the number of its batch, and the records of a batch are one part of one
//! partition: they are there together or not at all. `batches` is written after them and says
//! what is there; after a start, and after an insert without an answer, what it lacks is looked
//! for among the records behind its last number.
//!
//! Numbers of records: seconds since 2020, three bits of the control plane that wrote them, and
//! a counter. They follow arrival, never repeat, and fit into what JavaScript calls an integer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hashbrown::HashSet;
use ipwarden::record::Record;
use tokio::time::{Instant, sleep_until};

use super::ClickHouseLog;
use super::rows::{NO_FAMILY, Writer, octets, read};
use super::schema::{BATCHES, IDENTITIES, PARTITION_HOURS, RECORDS, columns};
use crate::geo::{Country, Spot};
use crate::privacy::Veil;
use crate::store::text::display_bytes;
use crate::store::view::{clamped, timestamp_of_us};
use crate::store::{Appended, IncomingBatch, Result, StoreError, request_id};

/// Bits of the counter in a number.
const COUNTER_BITS: u32 = 20;
/// Bits of the counter and the writer.
pub(super) const SECOND_BITS: u32 = COUNTER_BITS + 3;
/// Unix seconds of the first number.
const EPOCH: i64 = 1_577_836_800;
/// Seconds in a partition of records.
const PARTITION_SECONDS: i64 = PARTITION_HOURS * 3_600;

/// The writer's part of a number, as an expression.
const WRITER_OF_ID: &str = "toUInt8(bitAnd(bitShiftRight(id, 20), 7))";

/// An identity at an address in an hour.
type Visit<'a> = (i64, &'a [u8], IpAddr);

/// What the writer knows; one call at a time.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The last number that was given; unknown until the tables were looked at.
    pub last: Option<i64>,
    /// Up to which number this control plane's records are rolled up; unknown until the table
    /// was looked at.
    pub rolled_up: Option<i64>,
    /// The rolling up whose answer was lost, by name.
    pub rolling: Option<String>,
    /// The insert whose answer was lost, by name.
    doubt: Option<String>,
    /// Names inserts.
    serial: u64,
    /// Latest arrival, in microseconds.
    pub latest: i64,
    /// When the last insert began.
    inserted: Option<Instant>,
}

/// The partition of the record with a number. Never before that of its arrival, and a span of
/// numbers is a span of partitions: a search for numbers opens no others.
fn partition_of(id: i64) -> i64 {
    ((id >> SECOND_BITS) + EPOCH).div_euclid(PARTITION_SECONDS)
}

/// The condition that a record has one of these numbers.
pub(super) fn numbers(first: i64, last: i64) -> String {
    let (opens, ends) = (partition_of(first), partition_of(last));
    format!("arrival >= {opens} AND arrival <= {ends} AND id >= {first} AND id <= {last}")
}

/// The condition that a record has a number above this one, and this writer.
pub(super) fn written_after(id: i64, writer: u8) -> String {
    let opens = partition_of(id);
    format!("arrival >= {opens} AND id > {id} AND {WRITER_OF_ID} = {writer}")
}

/// The number after `last` for a batch of `count` records that arrived at `received_us`.
fn next_id(last: i64, writer: u8, received_us: i64, count: usize) -> i64 {
    let at = |second: i64| second << SECOND_BITS | i64::from(writer) << COUNTER_BITS;
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let now = received_us.div_euclid(1_000_000).saturating_sub(EPOCH).clamp(0, (1 << 30) - 1);
    let second = last >> SECOND_BITS;
    let next = last + 1;
    // In the same second, as long as the counter has room.
    let room = (at(second) + (1 << COUNTER_BITS)).saturating_sub(next);
    if last > 0 && second >= now && room >= count {
        next
    } else {
        at(now.max(second + i64::from(last > 0 && second >= now)))
    }
}

/// The batches of a worker that are stored, as pairs.
pub(super) type Known = HashSet<(u64, u64)>;

impl ClickHouseLog {
    pub(super) async fn append_all(
        &self,
        state: &mut State,
        batches: &[IncomingBatch<'_>],
    ) -> Result<Vec<Appended>> {
        // Each insert is a part, which has to be merged with others: rather fewer and larger ones.
        // What comes meanwhile is in the next one.
        if let Some(inserted) = state.inserted {
            sleep_until(inserted + self.pace).await;
        }
        state.inserted = Some(Instant::now());
        self.settle_doubts(state).await?;
        let mut known = self.known(batches).await?;
        let mut last = state.last.unwrap_or_default();
        let writer = self.http.url().writer;
        let mut rows = Rows::default();
        let mut outcomes = Vec::with_capacity(batches.len());
        for incoming in batches {
            let header = &incoming.batch.header;
            let count = incoming.batch.records.len();
            let received_us = incoming.received_at.as_microsecond();
            state.latest = state.latest.max(received_us);
            let outcome = if header.number == 0 {
                Appended::Noted
            } else if !known.insert((header.stream, header.number)) {
                Appended::Duplicate
            } else if count == 0 {
                Appended::Noted
            } else {
                let first_id = next_id(last, writer, received_us, count);
                last = first_id + clamped(count as u64) - 1;
                Appended::Stored { first_id }
            };
            rows.put(incoming, outcome, writer);
            outcomes.push(outcome);
        }
        // Before the records, under the numbers of their batches: again is not twice.
        if !rows.identities.0.is_empty() {
            let into = format!("identities ({})", columns(IDENTITIES));
            self.http.insert(&into, rows.identities.0, None).await?;
        }
        if !rows.records.0.is_empty() {
            let id = self.statement(state);
            // Numbers are not given again, whatever becomes of it.
            state.last = Some(last);
            state.doubt = Some(id.clone());
            let into = format!("records ({})", columns(RECORDS));
            self.http.insert(&into, rows.records.0, Some(&id)).await?;
        }
        let into = format!("batches ({})", columns(BATCHES));
        self.http.insert(&into, rows.batches.0, None).await?;
        state.doubt = None;
        Ok(outcomes)
    }

    /// Looks what became of the last insert, where that is not known.
    pub(super) async fn settle_doubts(&self, state: &mut State) -> Result<()> {
        self.server().await?;
        if let (Some(_), None) = (state.last, &state.doubt) {
            return Ok(());
        }
        if let Some(id) = &state.doubt {
            self.wait_for_none(id).await?;
        }
        let writer = self.http.url().writer;
        let known = self
            .http
            .ask_soon(&format!(
                "SELECT max(last_id), max(received) FROM batches WHERE writer = {writer}"
            ))
            .await?;
        let known = read(&known, |row| Ok((row.i64()?, row.i64()?)))?;
        let (known, latest) = known.first().copied().unwrap_or_default();
        let behind = self
            .http
            .ask_soon(&format!(
                "SELECT max(id) FROM records WHERE {}",
                written_after(known, writer)
            ))
            .await?;
        let behind = read(&behind, |row| row.i64())?.first().copied().unwrap_or_default();
        if behind > known {
            let columns = "stream, number, first_id, last_id, writer, received, proxy, stored";
            self.http
                .run(&format!(
                    "INSERT INTO batches ({columns}) \
                     SELECT stream, number, min(id), max(id), {writer}, any(received), any(proxy), \
                         sum(toUInt64(weight)) \
                     FROM records WHERE {} GROUP BY stream, number",
                    written_after(known, writer)
                ))
                .await?;
        }
        state.latest = state.latest.max(latest);
        state.last = Some(state.last.unwrap_or_default().max(known).max(behind));
        state.doubt = None;
        Ok(())
    }

    /// Refuses while a statement whose answer was lost is at work still.
    pub(super) async fn wait_for_none(&self, id: &str) -> Result<()> {
        let sql = format!("SELECT count() FROM system.processes WHERE query_id = '{id}'");
        let running = read(&self.http.ask_soon(&sql).await?, |row| row.u64())?;
        if running.iter().any(|count| *count > 0) {
            return Err(StoreError::Unavailable(format!(
                "{}: a statement without an answer is still at work",
                self.http.url()
            )));
        }
        Ok(())
    }

    /// A name for a statement.
    pub(super) fn statement(&self, state: &mut State) -> String {
        state.serial += 1;
        format!("ipwarden-{}-{}", self.instance, state.serial)
    }

    /// Which of some batches are stored.
    async fn known(&self, batches: &[IncomingBatch<'_>]) -> Result<Known> {
        let asked: HashSet<(u64, u64)> = batches
            .iter()
            .map(|incoming| (incoming.batch.header.stream, incoming.batch.header.number))
            .filter(|(_, number)| *number != 0)
            .collect();
        if asked.is_empty() {
            return Ok(Known::new());
        }
        let list: Vec<String> = asked
            .iter()
            .map(|(stream, number)| format!("(toUInt64({stream}), toUInt64({number}))"))
            .collect();
        let answer = self
            .http
            .ask_soon(&format!(
                "SELECT stream, number FROM batches WHERE (stream, number) IN ({})",
                list.join(", ")
            ))
            .await?;
        Ok(read(&answer, |row| Ok((row.u64()?, row.u64()?)))?.into_iter().collect())
    }
}

/// Rows of one call.
#[derive(Debug, Default)]
struct Rows {
    records: Writer,
    batches: Writer,
    identities: Writer,
}

impl Rows {
    fn put(&mut self, incoming: &IncomingBatch<'_>, outcome: Appended, writer: u8) {
        let header = &incoming.batch.header;
        let received_us = incoming.received_at.as_microsecond();
        let mut stored = 0u64;
        let (mut first, mut last) = (0, 0);
        if let Appended::Stored { first_id } = outcome {
            let unknown = Spot::default();
            let places = incoming.places.iter().chain(std::iter::repeat(&unknown));
            let proxy = display_bytes(header.proxy);
            (first, last) = (first_id, first_id - 1);
            for (record, place) in incoming.batch.records.iter().zip(places) {
                last += 1;
                stored += u64::from(record.weight);
                self.record(incoming, record, place, last, &proxy);
            }
            self.identities(incoming);
        }
        // What a repetition reports counts all the same, like a report without records.
        let number = if outcome == Appended::Duplicate { 0 } else { header.number };
        let sent_us = timestamp_of_us(header.sent_us).as_microsecond();
        self.batches
            .u64(header.stream)
            .u64(number)
            .i64(first)
            .i64(last)
            .u8(writer)
            .i64(received_us)
            .i64(sent_us)
            .i64(timestamp_of_us(header.started_us).as_microsecond())
            .bytes(display_bytes(header.proxy).as_bytes())
            .bytes(display_bytes(header.version).as_bytes())
            .u64(header.applied.epoch)
            .u64(header.applied.number)
            .i64(clamped(header.seen))
            .i64(clamped(header.lost))
            .i64(clamped(header.skipped))
            .u64(stored);
    }

    fn record(
        &mut self,
        incoming: &IncomingBatch<'_>,
        record: &Record<'_>,
        place: &Spot,
        id: i64,
        proxy: &str,
    ) {
        let header = &incoming.batch.header;
        let received_us = incoming.received_at.as_microsecond();
        let time_us = timestamp_of_us(record.time_us).as_microsecond();
        let veil = Veil::of(record.form, header.key);
        let (ip, family) = record.ip.map_or(([0; 16], NO_FAMILY), octets);
        let query = if incoming.store_query { record.query } else { b"" };
        let text = |bytes| display_bytes(bytes).into_owned().into_bytes();
        self.records
            .i32(i32_of(partition_of(id)))
            .i32(i32_of(super::hour_of(time_us)))
            .i64(id)
            .u64(header.stream)
            .u64(header.number)
            .i64(received_us)
            .i64(time_us)
            .bytes(&ip)
            .u8(family)
            .u8(veil.form as u8)
            .u32(veil.key_number())
            .u8(record.opted_out.into())
            .u8(record.verdict as u8)
            .u32(record.weight)
            .u32(record.decision)
            .bytes(&text(record.rule))
            .bytes(&text(record.method))
            .bytes(&text(record.host))
            .bytes(&text(record.path))
            .bytes(&text(query))
            .u16(record.status)
            .u64(record.flags)
            .i64(clamped(record.duration_us))
            .i64(clamped(record.bytes_in))
            .i64(clamped(record.bytes_out))
            .bytes(&text(record.user_agent))
            .bytes(&request_id::to_bytes(record.request_id))
            .bytes(proxy.as_bytes())
            .bytes(place.country.as_ref().map_or("", Country::as_str).as_bytes())
            .bytes(place.city.as_deref().unwrap_or_default().as_bytes())
            .i64(place.asn.map_or(NO_ASN, i64::from));
    }

    /// Where identities were seen in a batch, each place once.
    fn identities(&mut self, incoming: &IncomingBatch<'_>) {
        let header = &incoming.batch.header;
        let mut seen = BTreeMap::<Visit<'_>, (u64, i64, i64)>::new();
        for record in &incoming.batch.records {
            let (false, false, Some(ip)) =
                (record.identity.is_empty(), record.opted_out, record.ip)
            else {
                continue;
            };
            let time_us = timestamp_of_us(record.time_us).as_microsecond();
            let place = seen
                .entry((super::hour_of(time_us), record.identity, ip))
                .or_insert((0, time_us, time_us));
            place.0 = place.0.saturating_add(record.weight.into());
            place.1 = place.1.min(time_us);
            place.2 = place.2.max(time_us);
        }
        for (n, ((hour, identity, ip), (requests, first, last))) in (0u32..).zip(seen) {
            let (ip, family) = octets(ip);
            self.identities
                .i32(i32_of(hour))
                .u64(header.stream)
                .u64(header.number)
                .u32(n)
                .bytes(display_bytes(identity).as_bytes())
                .u64(requests)
                .bytes(&ip)
                .u8(family)
                .i64(first)
                .i64(last);
        }
    }
}

/// The number of no autonomous system.
pub(super) const NO_ASN: i64 = -1;

/// Partitions and hours: times of the wire end with the year 9999, so these fit.
fn i32_of(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_763_827_200_000_000;

    #[test]
    fn numbers_follow_arrival_and_never_repeat() {
        let first = next_id(0, 0, NOW, 10);
        assert_eq!(next_id(first + 9, 0, NOW, 10), first + 10);
        // A clock that goes back does not take numbers back.
        assert_eq!(next_id(first + 9, 0, NOW - 5_000_000, 10), first + 10);
        let later = next_id(first + 9, 0, NOW + 1_000_000, 10);
        assert_eq!(later, first + (1 << SECOND_BITS));
        // No room in this second: the next one.
        let full = first + (1 << COUNTER_BITS) - 5;
        assert_eq!(next_id(full, 0, NOW, 10), later);
        assert_eq!(next_id(full, 0, NOW, 4), full + 1);
        // Exact in JavaScript, for thirty years.
        assert!(next_id(0, 7, NOW + 28 * 365 * 86_400_000_000, 1) < 1 << 53);
    }

    #[test]
    fn writers_never_share_a_number() {
        let ranges: Vec<i64> = (0..8).map(|writer| next_id(0, writer, NOW, 1)).collect();
        assert!(ranges.windows(2).all(|pair| pair[1] - pair[0] == 1 << COUNTER_BITS));
        assert_eq!(next_id(0, 3, 0, 1), 3 << COUNTER_BITS);
    }
}
