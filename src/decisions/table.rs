//! The compiled look-up table of one worker.
//!
//! CIDRs either contain one another or are disjoint. Sorted by first address and length,
//! every target that covers an address is therefore the entry found by binary search or
//! one of its *parents* (the smallest earlier entry that contains it). A look-up finds that
//! entry and walks up its parents, deepest first, keeping the best tier: precedence and
//! expiry are decided at the moment of the request, so an allow that ends uncovers the
//! block below it without any message from the control plane.
//!
//! An entry costs 16 bytes for IPv4 (where it starts, and three more `u32`), 20 for IPv6 up to /64, 28 for
//! longer prefixes, plus a first-level index of 256 KiB once there are enough IPv4 entries.
//!
//! Changes do not touch the base: an addition goes to a small level beside it, a removal
//! marks the entry as ended. Three levels keep every change cheap:
//!
//! | level | size | rebuilt |
//! |---|---|---|
//! | base | up to [`wire::MAX_ENTRIES`](super::wire::MAX_ENTRIES) | with the next snapshot |
//! | middle | tens of thousands | when recent overflows |
//! | recent | [`RECENT_ENTRIES`] | with each change |

use core::net::IpAddr;

use ipnet::IpNet;

use super::{Change, DecisionId, Entry, NEVER, Tier, UnixSeconds};
use crate::address::first_bits;

/// Most entries in the recent level.
pub const RECENT_ENTRIES: usize = 1_024;

/// What a look-up found: the decision that wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// Its precedence; [`Tier::Allow`] lets the request pass.
    pub tier: Tier,
    /// Length of its target's prefix (an IPv4 target's in IPv4 terms).
    pub prefix_len: u8,
    /// Its number.
    pub id: DecisionId,
}

/// Entries do not come in the order of [`Entry::sort_key`], or there are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotBuildable;

/// Which decision applies to an address, for a million entries and more.
#[derive(Debug, Default)]
pub struct Table {
    base: Level,
    middle: Small,
    recent: Small,
}

impl Table {
    /// The decision that applies to `ip` at `now`, if any. `ip` must be folded.
    #[inline]
    #[must_use]
    pub fn lookup(&self, ip: IpAddr, now: UnixSeconds) -> Option<Match> {
        let mut best = None;
        self.base.lookup(ip, now, &mut best);
        if !self.middle.entries.is_empty() {
            self.middle.level.lookup(ip, now, &mut best);
        }
        if !self.recent.entries.is_empty() {
            self.recent.level.lookup(ip, now, &mut best);
        }
        best
    }

    /// Applies one revision's changes.
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            let (target, id) = match change {
                Change::Add(entry) => (&entry.target, entry.id),
                Change::Remove { target, id } => (target, *id),
            };
            self.base.end(target, id);
            self.middle.end(target, id);
            self.recent.entries.retain(|entry| entry.id != id || entry.target != *target);
            if let Change::Add(entry) = change {
                self.recent.entries.push(*entry);
            }
            if self.recent.entries.len() >= RECENT_ENTRIES {
                self.overflow();
            }
        }
        self.recent.rebuild();
    }

    /// Entries held, ended ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.base.len() + self.middle.entries.len() + self.recent.entries.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the base level per entry and in all: what a worker pays.
    #[must_use]
    pub fn base_bytes(&self) -> usize {
        self.base.bytes()
    }

    fn overflow(&mut self) {
        self.middle.entries.append(&mut self.recent.entries);
        self.middle.rebuild();
        self.recent.rebuild();
    }
}

/// Builds a table from sorted entries, in as many steps as the caller likes.
#[derive(Debug)]
pub struct Builder {
    level: Level,
    last: Option<Entry>,
    expected: usize,
}

impl Builder {
    /// `expected` entries will come; a hint that saves copying.
    #[must_use]
    pub fn new(expected: usize) -> Self {
        Self {
            level: Level::default(),
            last: None,
            expected: expected.min(super::wire::MAX_ENTRIES),
        }
    }

    /// Adds the next entry.
    ///
    /// # Errors
    /// [`NotBuildable`] when it is not after the one before; the builder is useless then.
    pub fn push(&mut self, entry: &Entry) -> Result<(), NotBuildable> {
        if self.last.is_some_and(|last| last.sort_key() >= entry.sort_key())
            || self.level.len() >= super::wire::MAX_ENTRIES
        {
            return Err(NotBuildable);
        }
        self.level.reserve_for(entry, self.expected);
        self.level.push(entry);
        self.last = Some(*entry);
        Ok(())
    }

    /// The finished table.
    #[must_use]
    pub fn finish(mut self) -> Table {
        self.level.index();
        Table { base: self.level, ..Table::default() }
    }
}

/// A level that is rebuilt as a whole from a list.
#[derive(Debug, Default)]
struct Small {
    entries: Vec<Entry>,
    level: Level,
}

impl Small {
    fn rebuild(&mut self) {
        self.entries.sort_unstable_by_key(Entry::sort_key);
        self.level = Level::default();
        for entry in &self.entries {
            self.level.push(entry);
        }
        self.level.index();
    }

    fn end(&mut self, target: &IpNet, id: DecisionId) {
        if self.level.end(target, id) {
            // Taken out of the list too, or the next rebuild would bring it back.
            for entry in &mut self.entries {
                if entry.id == id && entry.target == *target {
                    entry.expires_at = 0;
                }
            }
            self.entries.retain(|entry| entry.expires_at != 0);
        }
    }
}

/// Sorted columns for each width of address.
#[derive(Debug, Default)]
struct Level {
    v4: Column<u32>,
    /// IPv6 up to /64: the upper half of the address is enough.
    v6: Column<u64>,
    /// IPv6 beyond /64.
    v6_long: Column<u128>,
}

impl Level {
    #[inline]
    fn lookup(&self, ip: IpAddr, now: UnixSeconds, best: &mut Option<Match>) {
        match ip {
            IpAddr::V4(v4) => self.v4.lookup(u32::from(v4), now, best),
            IpAddr::V6(v6) => {
                let bits = u128::from(v6);
                self.v6_long.lookup(bits, now, best);
                self.v6.lookup((bits >> 64) as u64, now, best);
            }
        }
    }

    fn push(&mut self, entry: &Entry) {
        let bits = first_bits(&entry.target);
        match entry.target {
            IpNet::V4(net) => self.v4.push(bits as u32, net.prefix_len(), entry),
            IpNet::V6(net) if net.prefix_len() <= 64 => {
                self.v6.push((bits >> 64) as u64, net.prefix_len(), entry);
            }
            IpNet::V6(net) => self.v6_long.push(bits, net.prefix_len(), entry),
        }
    }

    /// IPv4 comes first in the order, so what is left when IPv6 begins is known.
    fn reserve_for(&mut self, entry: &Entry, expected: usize) {
        let left = expected.saturating_sub(self.len());
        match entry.target {
            IpNet::V4(_) if self.v4.starts.is_empty() => self.v4.reserve(left),
            IpNet::V6(net) if net.prefix_len() <= 64 && self.v6.starts.is_empty() => {
                self.v6.reserve(left);
            }
            _ => {}
        }
    }

    /// Marks an entry as ended. Whether there was one.
    fn end(&mut self, target: &IpNet, id: DecisionId) -> bool {
        let bits = first_bits(target);
        let len = target.prefix_len();
        match target {
            IpNet::V4(_) => self.v4.end(bits as u32, len, id),
            IpNet::V6(_) if len <= 64 => self.v6.end((bits >> 64) as u64, len, id),
            IpNet::V6(_) => self.v6_long.end(bits, len, id),
        }
    }

    fn index(&mut self) {
        self.v4.index();
    }

    fn len(&self) -> usize {
        self.v4.starts.len() + self.v6.starts.len() + self.v6_long.starts.len()
    }

    fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes() + self.v6_long.bytes()
    }
}

/// Address bits of one width.
trait Bits: Copy + Ord + core::ops::BitXor<Output = Self> {
    const WIDTH: u32;
    /// What is subtracted from a prefix length so that it fits 7 bits: the columns of
    /// `u128` hold only prefixes beyond /64.
    const LEN_OFFSET: u8;
    /// Whether the first `len` bits of both are equal.
    fn same_prefix(self, other: Self, len: u32) -> bool;
    /// The first 16 bits.
    fn head(self) -> usize;
}

macro_rules! bits {
    ($($type:ty: $offset:literal),*) => {$(
        impl Bits for $type {
            const WIDTH: u32 = <$type>::BITS;
            const LEN_OFFSET: u8 = $offset;

            #[inline]
            fn same_prefix(self, other: Self, len: u32) -> bool {
                // A shift by the full width is what checked_shr refuses: len 0 covers all.
                (self ^ other).checked_shr(Self::WIDTH - len).is_none_or(|rest| rest == 0)
            }

            #[inline]
            fn head(self) -> usize {
                (self >> (Self::WIDTH - 16)) as usize
            }
        }
    )*};
}
bits!(u32: 0, u64: 0, u128: 64);

/// An entry's other fields in 32 bits: parent (23), prefix length (7), tier (2).
#[derive(Debug, Clone, Copy)]
struct Meta(u32);

/// Everything of an entry but where it starts.
#[derive(Debug, Clone, Copy)]
struct Rest {
    meta: Meta,
    expires: UnixSeconds,
    id: DecisionId,
}

/// "No parent". The last entry can be nobody's parent, so this index is never needed.
const NO_PARENT: u32 = (1 << 23) - 1;

const _: () = assert!(super::wire::MAX_ENTRIES <= NO_PARENT as usize + 1);

impl Meta {
    fn new<B: Bits>(parent: u32, prefix_len: u8, tier: Tier) -> Self {
        let prefix_len = u32::from(prefix_len.saturating_sub(B::LEN_OFFSET));
        Self((parent << 9) | (prefix_len << 2) | tier as u32)
    }

    const fn parent(self) -> u32 {
        self.0 >> 9
    }

    #[inline]
    const fn prefix_len<B: Bits>(self) -> u8 {
        ((self.0 >> 2) as u8 & 0x7f) + B::LEN_OFFSET
    }

    const fn tier(self) -> Tier {
        match self.0 & 3 {
            0 => Tier::Allow,
            1 => Tier::Manual,
            2 => Tier::Detector,
            _ => Tier::Feed,
        }
    }
}

/// From this many entries on, a first-level index by the first 16 bits pays.
const INDEX_FROM: usize = 4_096;
const INDEX_SLOTS: usize = 1 << 16;

/// Entries of one width in columns, sorted by start, length, tier.
#[derive(Debug)]
struct Column<B> {
    starts: Vec<B>,
    /// Beside one another: a look-up that gets this far needs all of them, and each place in
    /// a large set is a cache miss.
    rests: Vec<Rest>,
    /// For each first 16 bits, how many entries start below them. Empty when not worth it.
    first: Vec<u32>,
    /// While building: entries that may still contain the next one.
    open: Vec<u32>,
}

impl<B> Default for Column<B> {
    fn default() -> Self {
        Self { starts: Vec::new(), rests: Vec::new(), first: Vec::new(), open: Vec::new() }
    }
}

impl<B: Bits> Column<B> {
    fn reserve(&mut self, entries: usize) {
        self.starts.reserve_exact(entries);
        self.rests.reserve_exact(entries);
    }

    fn push(&mut self, start: B, prefix_len: u8, entry: &Entry) {
        let index = self.starts.len() as u32;
        while let Some(&candidate) = self.open.last() {
            let contains =
                match (self.starts.get(candidate as usize), self.rests.get(candidate as usize)) {
                    (Some(&above), Some(Rest { meta, .. })) => {
                        meta.prefix_len::<B>() <= prefix_len
                            && above.same_prefix(start, u32::from(meta.prefix_len::<B>()))
                    }
                    _ => false,
                };
            if contains {
                break;
            }
            self.open.pop();
        }
        let parent = self.open.last().copied().unwrap_or(NO_PARENT);
        self.starts.push(start);
        let meta = Meta::new::<B>(parent, prefix_len, entry.tier);
        self.rests.push(Rest { meta, expires: entry.expires_at, id: entry.id });
        self.open.push(index);
    }

    fn index(&mut self) {
        self.open = Vec::new();
        if self.starts.len() < INDEX_FROM {
            return;
        }
        let mut first = Vec::with_capacity(INDEX_SLOTS + 1);
        let mut below = 0u32;
        let mut starts = self.starts.iter().peekable();
        for slot in 0..INDEX_SLOTS {
            while starts.next_if(|start| start.head() < slot).is_some() {
                below += 1;
            }
            first.push(below);
        }
        first.push(self.starts.len() as u32);
        self.first = first;
    }

    /// How many entries start at or below `bits`.
    #[inline]
    fn upper_bound(&self, bits: B) -> usize {
        let head = bits.head();
        if let (Some(&low), Some(&high)) = (self.first.get(head), self.first.get(head + 1))
            && let Some(bucket) = self.starts.get(low as usize..high as usize)
        {
            return low as usize + bucket.partition_point(|start| *start <= bits);
        }
        self.starts.partition_point(|start| *start <= bits)
    }

    #[inline]
    fn lookup(&self, bits: B, now: UnixSeconds, best: &mut Option<Match>) {
        let mut index = match self.upper_bound(bits).checked_sub(1) {
            Some(index) => index,
            None => return,
        };
        loop {
            let (Some(&start), Some(&Rest { meta, expires, id })) =
                (self.starts.get(index), self.rests.get(index))
            else {
                return;
            };
            let prefix_len = meta.prefix_len::<B>();
            if start.same_prefix(bits, u32::from(prefix_len)) {
                let tier = meta.tier();
                // Deepest first: an equal tier further up has a shorter prefix and loses.
                // Between levels the prefix has to be compared.
                let better = best.is_none_or(|best| {
                    tier < best.tier || (tier == best.tier && prefix_len > best.prefix_len)
                });
                if better && (expires == NEVER || now < expires) {
                    *best = Some(Match { tier, prefix_len, id });
                }
            }
            if meta.parent() == NO_PARENT {
                return;
            }
            index = meta.parent() as usize;
        }
    }

    fn end(&mut self, start: B, prefix_len: u8, id: DecisionId) -> bool {
        let mut index = self.upper_bound(start);
        while let Some(below) = index.checked_sub(1) {
            index = below;
            if self.starts.get(index) != Some(&start) {
                break;
            }
            if let Some(rest) = self.rests.get_mut(index)
                && rest.id == id
                && rest.meta.prefix_len::<B>() == prefix_len
            {
                rest.expires = 0;
                return true;
            }
        }
        false
    }

    fn bytes(&self) -> usize {
        self.starts.len() * (size_of::<B>() + size_of::<Rest>()) + self.first.len() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::parse_target;

    fn entry(target: &str, tier: Tier, id: DecisionId, expires_at: UnixSeconds) -> Entry {
        Entry { target: parse_target(target).unwrap(), tier, id, expires_at }
    }

    fn table(entries: &[Entry]) -> Table {
        let mut entries = entries.to_vec();
        entries.sort_by_key(Entry::sort_key);
        let mut builder = Builder::new(entries.len());
        for entry in &entries {
            builder.push(entry).unwrap();
        }
        builder.finish()
    }

    #[track_caller]
    fn wins(table: &Table, ip: &str, now: UnixSeconds, expected: Option<DecisionId>) {
        assert_eq!(table.lookup(ip.parse().unwrap(), now).map(|found| found.id), expected);
    }

    #[test]
    fn allow_wins_over_manual_over_detector_over_feed() {
        let table = table(&[
            entry("10.0.0.0/8", Tier::Allow, 1, 100),
            entry("10.1.0.0/16", Tier::Manual, 2, 200),
            entry("10.1.1.0/24", Tier::Detector, 3, 300),
            entry("10.1.1.1", Tier::Feed, 4, NEVER),
        ]);
        // As each ends, the next one comes up: no message needed.
        wins(&table, "10.1.1.1", 99, Some(1));
        wins(&table, "10.1.1.1", 100, Some(2));
        wins(&table, "10.1.1.1", 200, Some(3));
        wins(&table, "10.1.1.1", 300, Some(4));
        wins(&table, "10.1.1.2", 300, None);
        wins(&table, "10.2.0.0", 99, Some(1));
        wins(&table, "11.0.0.0", 0, None);
        wins(&table, "9.255.255.255", 0, None);
    }

    #[test]
    fn inside_a_tier_the_longest_prefix_wins() {
        let table = table(&[
            entry("0.0.0.0/0", Tier::Manual, 1, NEVER),
            entry("192.0.2.0/24", Tier::Manual, 2, NEVER),
            entry("192.0.2.128/25", Tier::Manual, 3, 50),
            entry("::/0", Tier::Manual, 4, NEVER),
            entry("2001:db8::/32", Tier::Manual, 5, NEVER),
            entry("2001:db8::/64", Tier::Manual, 6, NEVER),
            entry("2001:db8::1", Tier::Manual, 7, NEVER),
        ]);
        wins(&table, "192.0.2.200", 0, Some(3));
        wins(&table, "192.0.2.200", 50, Some(2));
        wins(&table, "192.0.2.1", 0, Some(2));
        wins(&table, "255.255.255.255", 0, Some(1));
        wins(&table, "2001:db8::1", 0, Some(7));
        wins(&table, "2001:db8::2", 0, Some(6));
        wins(&table, "2001:db8:0:1::", 0, Some(5));
        wins(&table, "ffff::", 0, Some(4));
    }

    #[test]
    fn changes_add_replace_and_remove() {
        let mut table = table(&[entry("10.0.0.0/8", Tier::Feed, 1, NEVER)]);
        table.apply(&[Change::Add(entry("10.0.0.1", Tier::Allow, 2, NEVER))]);
        wins(&table, "10.0.0.1", 0, Some(2));
        table.apply(&[
            Change::Remove { target: parse_target("10.0.0.1").unwrap(), id: 2 },
            Change::Remove { target: parse_target("10.0.0.0/8").unwrap(), id: 1 },
        ]);
        wins(&table, "10.0.0.1", 0, None);
        // Another decision on the same target is not touched by a removal.
        table.apply(&[
            Change::Add(entry("10.0.0.1", Tier::Manual, 3, NEVER)),
            Change::Add(entry("10.0.0.1", Tier::Manual, 4, NEVER)),
            Change::Remove { target: parse_target("10.0.0.1").unwrap(), id: 3 },
        ]);
        wins(&table, "10.0.0.1", 0, Some(4));
    }

    #[test]
    fn unsorted_entries_are_refused() {
        let mut builder = Builder::new(2);
        builder.push(&entry("10.0.0.2", Tier::Feed, 1, NEVER)).unwrap();
        assert_eq!(builder.push(&entry("10.0.0.1", Tier::Feed, 2, NEVER)), Err(NotBuildable));
        assert_eq!(builder.push(&entry("10.0.0.2", Tier::Feed, 1, NEVER)), Err(NotBuildable));
    }

    #[test]
    fn a_large_table_costs_at_most_17_bytes_an_ipv4_entry() {
        let mut builder = Builder::new(100_000);
        for n in 0..100_000u32 {
            let target = crate::address::net_from_bits(true, u128::from(n * 31), 32).unwrap();
            builder.push(&Entry { target, tier: Tier::Feed, id: n, expires_at: NEVER }).unwrap();
        }
        let table = builder.finish();
        wins(&table, "0.0.0.31", 0, Some(1));
        wins(&table, "0.0.0.32", 0, None);
        assert_eq!(table.base_bytes(), 100_000 * 16 + (INDEX_SLOTS + 1) * 4);
    }

    #[cfg(not(target_family = "wasm"))]
    mod laws {
        use super::*;
        use proptest::prelude::*;

        /// Few distinct addresses, so that targets nest, collide and repeat.
        fn crowded_entry() -> impl Strategy<Value = Entry> {
            (any::<bool>(), 0u8..16, 0u8..8, 0u8..=128, 0u8..4, 1u32..400, 1u32..60).prop_map(
                |(v4, high, low, len, tier, id, expires_at)| {
                    let bits = (u128::from(high) << 124) | u128::from(low);
                    let target = if v4 {
                        let bits = (u32::from(high) << 28) | u32::from(low);
                        IpNet::new(std::net::Ipv4Addr::from(bits).into(), len % 33)
                    } else {
                        IpNet::new(std::net::Ipv6Addr::from(bits).into(), len)
                    };
                    Entry {
                        target: crate::address::fold_net(target.unwrap().trunc()),
                        tier: Tier::from_code(tier).unwrap(),
                        id,
                        expires_at: if expires_at > 50 { NEVER } else { expires_at },
                    }
                },
            )
        }

        fn any_probe() -> impl Strategy<Value = IpAddr> {
            (any::<bool>(), 0u8..16, 0u8..9).prop_map(|(v4, high, low)| {
                if v4 {
                    IpAddr::V4(((u32::from(high) << 28) | u32::from(low)).into())
                } else {
                    IpAddr::V6(((u128::from(high) << 124) | u128::from(low)).into())
                }
            })
        }

        /// The rule in its plainest form.
        fn brute_force(entries: &[Entry], ip: IpAddr, now: UnixSeconds) -> Option<(Tier, u8)> {
            entries
                .iter()
                .filter(|entry| entry.is_live(now) && entry.target.contains(&ip))
                .map(|entry| (entry.tier, entry.target.prefix_len()))
                .min_by_key(|&(tier, len)| (tier, core::cmp::Reverse(len)))
        }

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(512))]
            #[test]
            fn the_table_agrees_with_brute_force(
                base in proptest::collection::vec(crowded_entry(), 0..120),
                steps in proptest::collection::vec((crowded_entry(), any::<bool>(), any::<prop::sample::Index>()), 0..60),
                probes in proptest::collection::vec((any_probe(), 0u32..60), 30),
            ) {
                let mut model: Vec<Entry> = Vec::new();
                for (position, entry) in base.into_iter().enumerate() {
                    model.push(Entry { id: 1_000 + position as u32, ..entry });
                }
                let mut table = table(&model);
                let mut changes = Vec::new();
                for (entry, remove, which) in steps {
                    let change = if remove && !model.is_empty() {
                        let gone = model.swap_remove(which.index(model.len()));
                        Change::Remove { target: gone.target, id: gone.id }
                    } else {
                        model.retain(|old| old.id != entry.id || old.target != entry.target);
                        model.push(entry);
                        Change::Add(entry)
                    };
                    changes.push(change);
                    if changes.len() == 7 {
                        table.apply(&changes);
                        changes.clear();
                    }
                }
                table.apply(&changes);
                for (ip, now) in probes {
                    let found = table.lookup(ip, now);
                    prop_assert_eq!(found.map(|found| (found.tier, found.prefix_len)), brute_force(&model, ip, now));
                    if let Some(found) = found {
                        prop_assert!(model.iter().any(|entry| entry.id == found.id && entry.tier == found.tier));
                    }
                }
            }
        }

        #[test]
        fn thousands_of_changes_overflow_into_the_middle_level_and_stay_right() {
            let mut table = Table::default();
            let add = |n: u32| {
                let target = crate::address::net_from_bits(true, u128::from(n), 32).unwrap();
                Entry { target, tier: Tier::Manual, id: n, expires_at: NEVER }
            };
            for n in 1..=3 * RECENT_ENTRIES as u32 {
                table.apply(&[Change::Add(add(n))]);
            }
            for n in (1..=3 * RECENT_ENTRIES as u32).step_by(2) {
                table.apply(&[Change::Remove { target: add(n).target, id: n }]);
            }
            for n in 1..=3 * RECENT_ENTRIES as u32 {
                let expected = (n % 2 == 0).then_some(n);
                assert_eq!(table.lookup(IpAddr::V4(n.into()), 0).map(|found| found.id), expected);
            }
        }
    }
}
