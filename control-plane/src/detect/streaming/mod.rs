//! The streaming detectors: every request once, bounded state per address, flags as they fall.
//!
//! Three kinds of state, all bounded: buckets of rules per address (they exist while they are
//! not empty), buckets per network or autonomous system, and a slow memory per address that
//! adds odd requests up over a day. See [`Limits`] for the bounds and [`Figures`] for how full
//! they are. Time is the observations' own.
//!
//! **The slow memory.** A rule's `memory` is what a matching request adds to the points of its
//! address; a point leaks away every half an hour. The same path counts once. What an address
//! merely misses (an error status) weighs less the more ordinary requests it makes: an office
//! of forty people misses something every few minutes, a scanner finds next to nothing.
//!
//! **Groups.** A rule that counts by network flags the addresses that took part often enough,
//! never their neighbours.

pub mod bucket;
#[cfg(test)]
mod tests;
mod words;

use std::hash::Hasher as _;
use std::net::IpAddr;

use self::bucket::{Bucket, Poured};
use super::rules::matcher::{Match, Scratch};
use super::rules::{Distinct, GroupBy, Rule, Rules};
use super::table::{Slot, Table, address_key, asn_key, key_address, network_key};
use super::{Flag, Observation, Source, target_of};
use crate::privacy::Veil;

/// Name under which the slow memory flags.
pub const SLOW_RULE: &str = "slow-probing";
/// So many ordinary requests halve what a missed page adds to the slow memory.
const ORDINARY_PER_MISS: f32 = 8.0;
/// The slow memory flags again after so many seconds.
const SLOW_QUIET_S: u32 = 3_600;
/// Sets looked at for what has leaked away, for each observation.
const SWEEP_SETS: usize = 1;

/// Bounds of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Addresses remembered (rounded up to a power of two), at most 64 bytes each.
    pub addresses: usize,
    /// Networks and autonomous systems remembered.
    pub groups: usize,
    /// Bytes of all buckets.
    pub bucket_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { addresses: 1 << 19, groups: 1 << 14, bucket_bytes: 64 << 20 }
    }
}

/// How full the state is, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Requests observed.
    pub observed: u64,
    /// Flags raised.
    pub flags: u64,
    /// Flags not raised because the address is known (a crawler).
    pub spared: u64,
    /// Addresses remembered.
    pub addresses: usize,
    /// Addresses forgotten to make room.
    pub evicted: u64,
    /// Bytes of all buckets.
    pub bucket_bytes: usize,
    /// Buckets given up to stay within their bytes.
    pub given_up: u64,
}

/// The detectors.
pub struct Detectors {
    rules: Rules,
    limits: Limits,
    addresses: Table,
    groups: Table,
    scratch: Scratch,
    /// What the addresses are that it is shown.
    veil: Veil,
    cursor: usize,
    bucket_bytes: usize,
    latest_us: u64,
    figures: Figures,
}

impl std::fmt::Debug for Detectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Detectors").field("figures", &self.figures()).finish_non_exhaustive()
    }
}

impl Detectors {
    /// With the usual bounds.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self::with_limits(rules, Limits::default())
    }

    /// With other bounds.
    #[must_use]
    pub fn with_limits(rules: Rules, limits: Limits) -> Self {
        Self {
            rules,
            limits,
            addresses: Table::new(limits.addresses),
            groups: Table::new(limits.groups),
            scratch: Scratch::default(),
            veil: Veil::NONE,
            cursor: 0,
            bucket_bytes: 0,
            latest_us: 0,
            figures: Figures::default(),
        }
    }

    /// For addresses that are not as they came: none of them is known as a crawler's. Whoever
    /// takes the flags says in them what the addresses are.
    #[must_use]
    pub fn veiled(mut self, veil: Veil) -> Self {
        self.veil = veil;
        self
    }

    /// Puts other rules in force. Buckets of the old ones are emptied (their numbers mean
    /// other rules now); the slow memory stays.
    pub fn replace_rules(&mut self, rules: Rules) -> Vec<Flag> {
        let flags = self.flush();
        self.rules = rules;
        self.scratch = Scratch::default();
        flags
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// How full the state is.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            addresses: self.addresses.len(),
            evicted: self.addresses.evicted() + self.groups.evicted(),
            bucket_bytes: self.bucket_bytes,
            ..self.figures
        }
    }

    /// Bytes of all state.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.addresses.bytes() + self.groups.bytes() + self.bucket_bytes
    }

    /// Looks at one request; what it gives away.
    pub fn observe(&mut self, seen: &Observation<'_>) -> Vec<Flag> {
        let mut flags = Vec::new();
        self.figures.observed += 1;
        self.latest_us = seen.time_us;
        let rules = self.rules.clone();
        let mut scratch = std::mem::take(&mut self.scratch);
        rules.matcher().run(seen, &mut scratch);
        let key = address_key(seen.ip);
        let rule_of = |found: &Match| rules.list().get(found.rule);
        let odd = scratch.matches().iter().filter_map(rule_of).map(|rule| (rule.memory, rule));
        let odd = odd.max_by(|(a, _), (b, _)| a.total_cmp(b));
        self.remember(key, odd, seen, &mut flags);
        for found in scratch.matches() {
            let Some(rule) = rule_of(found) else { continue };
            let group = match rule.group_by {
                GroupBy::Address => Some(key),
                GroupBy::Network => Some(network_key(seen.ip)),
                GroupBy::Asn => seen.asn.map(asn_key),
            };
            if let Some(group) = group {
                self.pour(group, key, rule, found, seen, &scratch, &mut flags);
            }
        }
        self.scratch = scratch;
        for _ in 0..SWEEP_SETS {
            self.sweep(&rules, &mut flags);
        }
        self.make_room(&rules, &mut flags);
        self.spare(seen.ip, &rules, &mut flags);
        self.figures.flags += flags.len() as u64;
        flags
    }

    /// Forgets an address: it was erased.
    pub fn forget(&mut self, ip: IpAddr) {
        let key = address_key(ip);
        if let Some(slot) = self.addresses.find(key) {
            self.bucket_bytes -= slot.bucket_bytes();
            slot.clear();
        }
        for index in 0..self.groups.sets() {
            for slot in self.groups.set(index) {
                for bucket in slot.buckets.iter_mut().flat_map(|all| all.iter_mut()) {
                    bucket.members.retain(|(member, _)| *member != key);
                }
            }
        }
    }

    /// Gives what no flag counted yet, and empties all buckets: the end of a log.
    pub fn flush(&mut self) -> Vec<Flag> {
        let rules = self.rules.clone();
        let mut flags = Vec::new();
        let now_us = self.latest_us;
        for (table, is_group) in [(&mut self.addresses, false), (&mut self.groups, true)] {
            for index in 0..table.sets() {
                for slot in table.set(index) {
                    self.bucket_bytes -= slot.bucket_bytes();
                    for mut bucket in slot.buckets.take().map(|all| *all).unwrap_or_default() {
                        rest(&rules, slot.key, &mut bucket, is_group, &mut flags);
                    }
                    if !is_group && slot.flagged_s > 0 && slot.pending > 0 {
                        flags.push(words::slow(&rules, slot, now_us));
                        slot.pending = 0;
                    }
                }
            }
        }
        flags.retain(|flag| !rules.knows(flag.target.addr()));
        self.figures.flags += flags.len() as u64;
        flags
    }

    #[expect(clippy::too_many_arguments, reason = "what is poured, where, and where to")]
    fn pour(
        &mut self,
        key: u64,
        member: u64,
        rule: &Rule,
        found: &Match,
        seen: &Observation<'_>,
        scratch: &Scratch,
        flags: &mut Vec<Flag>,
    ) {
        let is_group = rule.group_by != GroupBy::Address;
        let table = if is_group { &mut self.groups } else { &mut self.addresses };
        let (slot, evicted) = table.slot(key);
        if let Some(mut evicted) = evicted {
            self.bucket_bytes -= evicted.bucket_bytes();
            for mut bucket in evicted.buckets.take().map(|all| *all).unwrap_or_default() {
                rest(&self.rules, evicted.key, &mut bucket, is_group, flags);
            }
        }
        if is_group {
            slot.at_s = slot.at_s.max(seconds(seen.time_us));
        }
        let before = slot.bucket_bytes();
        let number = u16::try_from(found.rule).unwrap_or(u16::MAX);
        let weight = seen.weight.max(1);
        // This request is among them.
        let requests = slot.requests;
        let fresh = || {
            let mut bucket = Bucket::new(number, rule.capacity, rule.leak_us, seen.time_us);
            bucket.began_requests = requests.wrapping_sub(weight);
            bucket
        };
        let buckets = slot.buckets.get_or_insert_default();
        let at = match buckets.iter().position(|bucket| bucket.rule == number) {
            Some(at) => at,
            None => {
                buckets.push(fresh());
                buckets.len() - 1
            }
        };
        let bucket = &mut buckets[at];
        bucket.leak(seen.time_us);
        if bucket.level <= 0.0 && bucket.count > 0 {
            // It ran empty in between: what comes is a new story.
            rest(&self.rules, key, bucket, is_group, flags);
            *bucket = fresh();
        }
        let poured = bucket.pour(weight, rule.distinct.map(|distinct| value(distinct, seen)));
        if is_group {
            bucket.note_member(member, weight);
        }
        if poured != Poured::Known && bucket.wants_evidence() {
            bucket.note_evidence(words::evidence(seen, scratch.fragment(found)));
        }
        let is_over = poured == Poured::Over || (bucket.is_flagged && poured == Poured::Known);
        let spread = !is_group || bucket.members.len() >= rule.spread as usize;
        let meanwhile = f64::from(requests.wrapping_sub(bucket.began_requests));
        let is_most = bucket.count as f64 >= f64::from(rule.portion) * meanwhile;
        if is_over && spread && is_most && bucket.may_flag(seen.time_us) {
            raise(&self.rules, key, bucket, is_group, flags);
        }
        let after = slot.bucket_bytes();
        self.bucket_bytes = self.bucket_bytes + after - before;
    }

    /// The slow memory.
    fn remember(
        &mut self,
        key: u64,
        odd: Option<(f32, &Rule)>,
        seen: &Observation<'_>,
        flags: &mut Vec<Flag>,
    ) {
        let now_s = seconds(seen.time_us);
        let memory = self.rules.memory();
        let (slot, evicted) = self.addresses.slot(key);
        if let Some(mut evicted) = evicted {
            self.bucket_bytes -= evicted.bucket_bytes();
            for mut bucket in evicted.buckets.take().map(|all| *all).unwrap_or_default() {
                rest(&self.rules, evicted.key, &mut bucket, false, flags);
            }
        }
        slot.age(now_s, memory.leak_s);
        slot.requests = slot.requests.wrapping_add(seen.weight.max(1));
        let Some((points, rule)) = odd.filter(|(points, _)| *points > 0.0) else {
            if (200..400).contains(&seen.status) {
                slot.ordinary = (slot.ordinary + seen.weight.max(1) as f32).min(1e6);
            }
            return;
        };
        if slot.points <= 0.0 {
            slot.first_s = now_s;
            slot.odd = 0;
            slot.seen = [0; 4];
        }
        let mut value = value(Distinct::Path, seen);
        if rule.distinct.is_none() {
            // A login that fails is odd each time, on whatever path.
            value = value.wrapping_add(slot.odd.wrapping_mul(0x9E37_79B9));
        }
        let (word, bit) = ((value >> 5 & 3) as usize, 1_u32 << (value & 31));
        let is_new = slot.seen[word] & bit == 0 || rule.distinct.is_none();
        slot.seen[word] |= bit;
        slot.odd = slot.odd.saturating_add(1);
        slot.pending = slot.pending.saturating_add(1);
        if !is_new {
            return;
        }
        let ease = if rule.distinct.is_some() && rule.capacity > 0 {
            1.0 + slot.ordinary / ORDINARY_PER_MISS
        } else {
            1.0
        };
        slot.points = (slot.points + points / ease).min(memory.capacity * 4.0);
        let is_quiet = slot.flagged_s > 0 && now_s.saturating_sub(slot.flagged_s) < SLOW_QUIET_S;
        if slot.points > memory.capacity && !is_quiet {
            flags.push(words::slow(&self.rules, slot, seen.time_us));
            slot.flagged_s = now_s;
            slot.pending = 0;
            // Its filter fills up: what comes after a flag is counted afresh.
            slot.seen = [0; 4];
        }
    }

    /// Forgets what has leaked away in the next set.
    fn sweep(&mut self, rules: &Rules, flags: &mut Vec<Flag>) {
        self.cursor = self.cursor.wrapping_add(1);
        let now_us = self.latest_us;
        let now_s = seconds(now_us);
        let leak_s = rules.memory().leak_s;
        for (table, is_group) in [(&mut self.addresses, false), (&mut self.groups, true)] {
            let mut blank = false;
            for slot in table.set(self.cursor) {
                let empty = |bucket: &Bucket| bucket.is_empty_at(now_us);
                if slot.buckets.as_ref().is_some_and(|buckets| buckets.iter().any(empty)) {
                    let before = slot.bucket_bytes();
                    if let Some(mut buckets) = slot.buckets.take() {
                        for bucket in buckets.iter_mut().filter(|bucket| empty(bucket)) {
                            rest(rules, slot.key, bucket, is_group, flags);
                        }
                        buckets.retain(|bucket| !empty(bucket));
                        if !buckets.is_empty() {
                            buckets.shrink_to_fit();
                            slot.buckets = Some(buckets);
                        }
                    }
                    self.bucket_bytes = self.bucket_bytes + slot.bucket_bytes() - before;
                }
                blank |= slot.is_blank(now_s, leak_s);
            }
            if blank {
                table.tidy(self.cursor, now_s, leak_s);
            }
        }
    }

    /// Gives up the emptiest buckets until all fit into their bytes.
    fn make_room(&mut self, rules: &Rules, flags: &mut Vec<Flag>) {
        while self.bucket_bytes > self.limits.bucket_bytes {
            self.cursor = self.cursor.wrapping_add(1);
            for (table, is_group) in [(&mut self.addresses, false), (&mut self.groups, true)] {
                let weight = |slot: &Slot| {
                    slot.buckets.as_ref().map(|all| all.iter().map(Bucket::weight).sum::<f64>())
                };
                let least = table
                    .set(self.cursor)
                    .iter_mut()
                    .filter_map(|slot| Some((weight(slot)?, slot)))
                    .min_by(|(a, _), (b, _)| a.total_cmp(b));
                if let Some((_, slot)) = least {
                    self.bucket_bytes -= slot.bucket_bytes();
                    for mut bucket in slot.buckets.take().map(|all| *all).unwrap_or_default() {
                        self.figures.given_up += 1;
                        rest(rules, slot.key, &mut bucket, is_group, flags);
                    }
                }
            }
        }
    }

    /// Takes back the flags of those who are known.
    fn spare(&mut self, ip: IpAddr, rules: &Rules, flags: &mut Vec<Flag>) {
        // A pseudonym may look like a crawler's address by chance.
        if flags.is_empty() || rules.known().is_empty() || !self.veil.is_none() {
            return;
        }
        let before = flags.len();
        let target = target_of(ip);
        flags.retain(|flag| {
            !rules.knows(if flag.target == target { ip } else { flag.target.addr() })
        });
        self.figures.spared += (before - flags.len()) as u64;
    }
}

/// Raises the flags of a bucket that overflows.
fn raise(rules: &Rules, key: u64, bucket: &mut Bucket, is_group: bool, flags: &mut Vec<Flag>) {
    let Some(rule) = rules.list().get(usize::from(bucket.rule)) else { return };
    let detail = words::detail(rule, bucket);
    let flag = |key: u64, count: u64| Flag {
        time_us: bucket.at_us,
        target: target_of(key_address(key)),
        veil: Veil::NONE,
        rule: rule.name.clone(),
        severity: rule.severity,
        detail: detail.clone(),
        count,
        evidence: bucket.evidence.clone(),
        source: Source::Streaming,
        score: rule.severity.weight(),
        features: Vec::new(),
    };
    if is_group {
        let took_part = |count: u32| count >= rule.share;
        for (member, count) in &bucket.members {
            if took_part(*count) {
                flags.push(flag(*member, u64::from(*count)));
            }
        }
        for (_, count) in &mut bucket.members {
            if took_part(*count) {
                *count = 0;
            }
        }
    } else {
        flags.push(flag(key, bucket.pending));
    }
    bucket.pending = 0;
    bucket.is_flagged = true;
    bucket.flagged_us = bucket.at_us;
    bucket.evidence = Vec::new();
}

/// What a bucket that goes had not yet told.
fn rest(rules: &Rules, key: u64, bucket: &mut Bucket, is_group: bool, flags: &mut Vec<Flag>) {
    if bucket.is_flagged && bucket.pending > 0 {
        raise(rules, key, bucket, is_group, flags);
    }
}

/// What a rule counts once.
fn value(distinct: Distinct, seen: &Observation<'_>) -> u32 {
    let mut hash = std::hash::DefaultHasher::new();
    match distinct {
        Distinct::Path => hash.write(seen.path),
        Distinct::PathStatus => {
            hash.write(seen.path);
            hash.write_u16(seen.status);
        }
        Distinct::Query => {
            hash.write(seen.path);
            hash.write_u8(b'?');
            hash.write(seen.query);
        }
        Distinct::QueryAlone => hash.write(seen.query),
        Distinct::UserAgent => hash.write(seen.user_agent),
        Distinct::Address => hash.write_u64(address_key(seen.ip)),
    }
    if let Some(raw) = seen.raw {
        hash.write(raw);
    }
    (hash.finish() >> 16) as u32
}

fn seconds(time_us: u64) -> u32 {
    u32::try_from(time_us / 1_000_000).unwrap_or(u32::MAX)
}
