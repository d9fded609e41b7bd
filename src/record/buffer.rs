//! What is recorded, and how much of it is held.
//!
//! The account that must balance for every worker, at any moment:
//!
//! ```text
//! seen = recorded (weights, shipped or still held) + lost + skipped + waiting for a sample
//! ```
//!
//! Memory is bounded: when the control plane does not take batches, the oldest that was
//! never sent is dropped and counted as lost. A batch that was sent once is kept until it
//! is answered, because the control plane may have stored it.

use core::net::IpAddr;
use std::collections::VecDeque;

use hashbrown::HashMap;

use super::wire::{self, Head, put_record_head, put_record_tail};
use super::{Record, Verdict};
use crate::privacy::KeyId;
use crate::privacy::disguise::Disguise;

/// Addresses whose floods are told apart at one time in one worker.
const MAX_FLOODS: usize = 4_096;
/// An open batch is closed at this size whatever its age.
const MAX_OPEN_BYTES: usize = 1024 * 1024;
/// A flood is summed up in one record per this time.
const FLOOD_WINDOW_US: u64 = 1_000_000;

/// What is recorded and how much is held; checked by [`crate::config`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Records in a batch at most.
    pub max_batch: usize,
    /// Age at which a batch is closed, in microseconds.
    pub max_age_us: u64,
    /// Bytes of records held at most.
    pub buffer_bytes: usize,
    /// Of ordinary records, one in this many is kept (with this weight).
    pub sample: u32,
    /// Path prefixes that are always kept.
    pub sensitive_paths: Vec<Vec<u8>>,
    /// Path prefixes that are not recorded.
    pub skip_paths: Vec<Vec<u8>>,
}

/// Why requests are refused: those of one flood share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause(u64);

impl Cause {
    /// Of a decision's number (0 for none) and a limit's name (empty for none).
    #[must_use]
    pub fn new(decision: u32, rule: &[u8]) -> Self {
        Self(crate::bytes::fnv1a(rule) ^ u64::from(decision))
    }
}

/// Whose requests they are. Known to this worker only: what is written is the address of the
/// record, which may be truncated or a pseudonym.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Requester {
    /// The client's address as it came.
    pub ip: IpAddr,
    /// See [`Record::opted_out`].
    pub opted_out: bool,
}

/// A closed batch, waiting to be shipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The time that the first record is encoded against.
    pub base_us: u64,
    /// Records in it.
    pub count: u32,
    /// Requests that they stand for.
    pub weight: u64,
    /// The encoded records.
    pub records: Vec<u8>,
}

/// Requests of one worker since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Seen in all.
    pub seen: u64,
    /// Whose record was dropped.
    pub lost: u64,
    /// Left out on purpose.
    pub skipped: u64,
}

/// The records of one worker that are not shipped yet.
#[derive(Debug)]
pub struct Buffer {
    policy: Policy,
    disguise: Disguise,
    open: Sealed,
    last_us: u64,
    opened_us: u64,
    sealed: VecDeque<Sealed>,
    sealed_bytes: usize,
    floods: HashMap<(Requester, Verdict), Flood>,
    next_flood_end_us: u64,
    /// Ordinary requests since the last one that was kept.
    unsampled: u32,
    totals: Totals,
}

/// Refused requests of one address after the first of a second.
#[derive(Debug)]
struct Flood {
    since_us: u64,
    cause: Cause,
    /// Of the record that sums it up; the weight grows.
    head: Head,
    /// The encoded fields that all of them share (taken from the first).
    tail: Vec<u8>,
}

impl Buffer {
    /// An empty buffer. What is written into it was disguised before.
    #[must_use]
    pub fn new(policy: Policy, disguise: Disguise) -> Self {
        Self {
            policy,
            disguise,
            open: Sealed::empty(),
            last_us: 0,
            opened_us: 0,
            sealed: VecDeque::new(),
            sealed_bytes: 0,
            floods: HashMap::new(),
            next_flood_end_us: u64::MAX,
            unsampled: 0,
            totals: Totals::default(),
        }
    }

    /// Counts so far.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Bytes of records held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.sealed_bytes + self.open.records.len()
    }

    /// Adds a refused request to a flood that is already known. `true` when that is all
    /// there is to do: the caller need not ask the host for the request's details.
    #[inline]
    pub fn absorb(&mut self, from: Requester, verdict: Verdict, cause: Cause, now_us: u64) -> bool {
        if let Some(flood) = self.floods.get_mut(&(from, verdict))
            && flood.cause == cause
            && now_us.wrapping_sub(flood.since_us) < FLOOD_WINDOW_US
            && flood.head.weight < u32::MAX
        {
            flood.head.weight += 1;
            flood.head.time_us = now_us;
            self.totals.seen += 1;
            return true;
        }
        false
    }

    /// The key of the pseudonyms that are written, if any are.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        self.disguise.key_id()
    }

    /// Takes one request's record, with the client's address as it came.
    pub fn push(&mut self, record: &Record<'_>, now_us: u64) {
        self.totals.seen += 1;
        if starts_with_any(record.path, &self.policy.skip_paths) {
            self.totals.skipped += 1;
            return;
        }
        let mut weight = 1;
        let is_refusal = record.verdict.is_refusal();
        if !is_refusal && self.policy.sample > 1 && self.is_ordinary(record) {
            self.unsampled += 1;
            if self.unsampled < self.policy.sample {
                return;
            }
            weight = self.policy.sample;
            self.unsampled = 0;
        }
        let mut told = self.disguise.apply(record);
        told.weight = weight;
        if is_refusal && let Some(ip) = record.ip {
            self.note_flood(Requester { ip, opted_out: record.opted_out }, &told, now_us);
        }
        self.append(told.time_us, now_us, weight, |out, previous_us| {
            wire::put_record(out, previous_us, &told);
        });
    }

    /// Closes what is due: floods of past seconds, a batch that is old enough. To be called
    /// on each tick.
    pub fn tick(&mut self, now_us: u64) {
        // A clock that was set back must not keep a flood or a batch open for ever.
        let back = now_us.saturating_add(2 * FLOOD_WINDOW_US) < self.next_flood_end_us;
        if now_us >= self.next_flood_end_us || (back && !self.floods.is_empty()) {
            self.close_floods(now_us, false);
        }
        let age_us = now_us.checked_sub(self.opened_us).unwrap_or(self.policy.max_age_us);
        if self.open.count > 0 && age_us >= self.policy.max_age_us {
            self.seal();
        }
    }

    /// Closes everything, to be shipped before the worker ends. What waits for a sample is
    /// counted as skipped.
    pub fn close(&mut self, now_us: u64) {
        self.close_floods(now_us, true);
        self.totals.skipped += u64::from(self.unsampled);
        self.unsampled = 0;
        if self.open.count > 0 {
            self.seal();
        }
    }

    /// Takes the oldest batch for shipping. Its bytes are the caller's to account for.
    pub fn take(&mut self) -> Option<Sealed> {
        let sealed = self.sealed.pop_front()?;
        self.sealed_bytes -= sealed.records.len();
        Some(sealed)
    }

    /// Whether a batch waits to be shipped.
    #[must_use]
    pub fn has_sealed(&self) -> bool {
        !self.sealed.is_empty()
    }

    /// Counts requests whose records were dropped elsewhere (a batch that was refused).
    pub fn count_lost(&mut self, weight: u64) {
        self.totals.lost += weight;
    }

    /// Drops batches, oldest first, until at most the bound minus `reserved` is held.
    pub fn shed(&mut self, reserved: usize) {
        while self.held_bytes() + reserved > self.policy.buffer_bytes {
            match self.take() {
                Some(dropped) => self.totals.lost += dropped.weight,
                None => break,
            }
        }
    }

    fn is_ordinary(&self, record: &Record<'_>) -> bool {
        record.verdict == Verdict::Admitted
            && record.status < 400
            && !starts_with_any(record.path, &self.policy.sensitive_paths)
    }

    /// The first refusal of a second is recorded as it is; what follows is summed up.
    fn note_flood(&mut self, from: Requester, record: &Record<'_>, now_us: u64) {
        if let Some(past) = self.floods.remove(&(from, record.verdict)) {
            self.write_flood(&past, now_us);
        }
        if self.floods.len() >= MAX_FLOODS {
            return;
        }
        let mut tail = Vec::new();
        let shared_by_all = Record {
            query: b"",
            duration_us: 0,
            bytes_in: 0,
            bytes_out: 0,
            request_id: b"",
            identity: b"",
            ..*record
        };
        put_record_tail(&mut tail, &shared_by_all);
        let flood = Flood {
            since_us: now_us,
            cause: Cause::new(record.decision, record.rule),
            head: Head { weight: 0, ..Head::of(record) },
            tail,
        };
        self.floods.insert((from, record.verdict), flood);
        let end_us = now_us.saturating_add(FLOOD_WINDOW_US);
        if self.next_flood_end_us == u64::MAX {
            self.next_flood_end_us = end_us;
        }
    }

    fn close_floods(&mut self, now_us: u64, all: bool) {
        let mut floods = core::mem::take(&mut self.floods);
        let mut next_end_us = u64::MAX;
        floods.retain(|_, flood| {
            let running = now_us.wrapping_sub(flood.since_us) < FLOOD_WINDOW_US;
            if running && !all {
                next_end_us = next_end_us.min(flood.since_us.saturating_add(FLOOD_WINDOW_US));
                return true;
            }
            self.write_flood(flood, now_us);
            false
        });
        self.floods = floods;
        self.next_flood_end_us = next_end_us;
    }

    fn write_flood(&mut self, flood: &Flood, now_us: u64) {
        let head = &flood.head;
        if head.weight == 0 {
            return;
        }
        self.append(head.time_us, now_us, head.weight, |out, previous_us| {
            put_record_head(out, previous_us, head);
            out.extend_from_slice(&flood.tail);
        });
    }

    fn append(
        &mut self,
        time_us: u64,
        now_us: u64,
        weight: u32,
        encode: impl FnOnce(&mut Vec<u8>, u64),
    ) {
        if self.open.count == 0 {
            self.opened_us = now_us;
            self.open.base_us = time_us;
            self.last_us = time_us;
        }
        encode(&mut self.open.records, self.last_us);
        self.last_us = time_us;
        self.open.count += 1;
        self.open.weight += u64::from(weight);
        let full = self.open.count as usize >= self.policy.max_batch.min(wire::MAX_RECORDS)
            || self.open.records.len() >= MAX_OPEN_BYTES.min(self.policy.buffer_bytes / 8);
        if full {
            self.seal();
        }
    }

    fn seal(&mut self) {
        let sealed = core::mem::replace(&mut self.open, Sealed::empty());
        self.sealed_bytes += sealed.records.len();
        self.sealed.push_back(sealed);
    }
}

impl Sealed {
    const fn empty() -> Self {
        Self { base_us: 0, count: 0, weight: 0, records: Vec::new() }
    }
}

fn starts_with_any(path: &[u8], prefixes: &[Vec<u8>]) -> bool {
    prefixes.iter().any(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::AddressForm;
    use crate::privacy::settings::{Address, Settings};
    use crate::record::wire::tests::{header, record};

    fn policy() -> Policy {
        Policy {
            max_batch: 500,
            max_age_us: 1_000_000,
            buffer_bytes: 1 << 20,
            sample: 1,
            sensitive_paths: vec![b"/admin".to_vec()],
            skip_paths: vec![b"/healthz".to_vec()],
        }
    }

    fn by(decision: u32) -> Cause {
        Cause::new(decision, record().rule)
    }

    fn admitted() -> Record<'static> {
        Record { verdict: Verdict::Admitted, status: 200, decision: 0, path: b"/", ..record() }
    }

    fn from(ip: &str) -> Requester {
        Requester { ip: ip.parse().unwrap(), opted_out: false }
    }

    fn drain(buffer: &mut Buffer) -> Vec<(Verdict, u32, Vec<u8>)> {
        let mut records = Vec::new();
        while let Some(sealed) = buffer.take() {
            let bytes = wire::encode(&header(), sealed.base_us, sealed.count, &sealed.records);
            let batch = wire::decode(&bytes).unwrap();
            assert_eq!(
                sealed.weight,
                batch.records.iter().map(|r| u64::from(r.weight)).sum::<u64>()
            );
            records.extend(batch.records.iter().map(|r| (r.verdict, r.weight, r.path.to_vec())));
        }
        records
    }

    fn weight(records: &[(Verdict, u32, Vec<u8>)]) -> u64 {
        records.iter().map(|(_, weight, _)| u64::from(*weight)).sum()
    }

    #[test]
    fn a_batch_closes_by_count_or_by_age() {
        let mut buffer = Buffer::new(Policy { max_batch: 3, ..policy() }, Disguise::default());
        for n in 0..4 {
            buffer.push(&admitted(), 10 + n);
        }
        assert_eq!(buffer.take().map(|sealed| sealed.count), Some(3));
        buffer.tick(1_000_012);
        assert!(!buffer.has_sealed());
        buffer.tick(1_000_013);
        assert_eq!(buffer.take().map(|sealed| sealed.count), Some(1));
    }

    #[test]
    fn a_flood_is_one_record_and_one_sum_a_second() {
        let mut buffer = Buffer::new(policy(), Disguise::default());
        let refused = Record { verdict: Verdict::Blocked, ..record() };
        let from = from("203.0.113.7");
        for n in 0..1_000u64 {
            let now_us = 5_000_000 + n * 2_000;
            if !buffer.absorb(from, Verdict::Blocked, by(refused.decision), now_us) {
                buffer.push(&Record { time_us: now_us, ..refused }, now_us);
            }
        }
        buffer.tick(7_000_000);
        buffer.close(7_000_000);
        let records = drain(&mut buffer);
        assert_eq!(records.iter().map(|r| r.1).collect::<Vec<_>>(), [1, 499, 1, 499]);
        assert_eq!(records[1].2, refused.path, "the sum says what was asked for");
        assert_eq!(buffer.totals(), Totals { seen: 1_000, lost: 0, skipped: 0 });
    }

    #[test]
    fn another_decision_or_address_is_another_flood() {
        let mut buffer = Buffer::new(policy(), Disguise::default());
        buffer.push(&record(), 1_000);
        let same = from("203.0.113.7");
        assert!(!buffer.absorb(same, Verdict::Blocked, by(99), 1_001));
        assert!(!buffer.absorb(from("192.0.2.1"), Verdict::Blocked, by(17), 1_001));
        let opted_out = Requester { opted_out: true, ..same };
        assert!(!buffer.absorb(opted_out, Verdict::Blocked, by(17), 1_001));
        assert!(buffer.absorb(same, Verdict::Blocked, by(17), 1_001));
    }

    #[test]
    fn a_flood_is_told_apart_by_the_address_and_written_under_the_disguised_one() {
        let settings = Settings { address: Address::Truncate, ..Settings::default() };
        let mut buffer = Buffer::new(policy(), Disguise::new(settings));
        let shown = "203.0.113.0".parse().unwrap();
        buffer.push(&record(), 1_000);
        assert!(buffer.absorb(from("203.0.113.7"), Verdict::Blocked, by(17), 2_000));
        assert!(!buffer.absorb(from("203.0.113.0"), Verdict::Blocked, by(17), 2_000));
        assert!(!buffer.absorb(from("203.0.113.8"), Verdict::Blocked, by(17), 2_000));
        buffer.close(3_000);
        let sealed = buffer.take().unwrap();
        let bytes = wire::encode(&header(), sealed.base_us, sealed.count, &sealed.records);
        let batch = wire::decode(&bytes).unwrap();
        assert_eq!(batch.records.len(), 2);
        for found in batch.records {
            assert_eq!((found.ip, found.form), (Some(shown), AddressForm::Truncated));
        }
    }

    #[test]
    fn sampling_keeps_weights_right_and_errors_and_sensitive_paths_whole() {
        let mut buffer = Buffer::new(Policy { sample: 10, ..policy() }, Disguise::default());
        for _ in 0..105 {
            buffer.push(&admitted(), 1);
        }
        for _ in 0..3 {
            buffer.push(&Record { path: b"/admin/users", ..admitted() }, 1);
            buffer.push(&Record { status: 404, ..admitted() }, 1);
        }
        buffer.push(&Record { path: b"/healthz", ..admitted() }, 1);
        buffer.close(2);
        let records = drain(&mut buffer);
        assert_eq!(records.len(), 10 + 6);
        let totals = buffer.totals();
        assert_eq!(totals, Totals { seen: 112, lost: 0, skipped: 1 + 5 });
        assert_eq!(weight(&records) + totals.skipped, totals.seen);
    }

    #[test]
    fn the_oldest_batches_are_dropped_and_counted_when_nobody_takes_them() {
        let mut buffer = Buffer::new(
            Policy { max_batch: 10, buffer_bytes: 64 * 1024, ..policy() },
            Disguise::default(),
        );
        for n in 0..20_000 {
            buffer.push(&Record { time_us: n, ..admitted() }, n);
            buffer.shed(0);
            assert!(buffer.held_bytes() <= 64 * 1024);
        }
        buffer.close(20_000);
        let totals = buffer.totals();
        let records = drain(&mut buffer);
        assert!(totals.lost > 0);
        assert_eq!(weight(&records) + totals.lost, 20_000);
    }

    #[test]
    fn a_clock_set_back_closes_what_is_open() {
        let mut buffer = Buffer::new(policy(), Disguise::default());
        buffer.push(&record(), 9_000_000_000);
        assert!(buffer.absorb(from("203.0.113.7"), Verdict::Blocked, by(17), 9_000_000_001));
        buffer.tick(5_000_000);
        buffer.tick(5_000_001);
        assert_eq!(weight(&drain(&mut buffer)), 2);
    }
}
