//! What is remembered of addresses, in bounded memory.
//!
//! A set-associative table: an address belongs to one set of at most [`WAYS`] slots, and when its
//! set is full, the least suspicious of them makes room. So a flood of new addresses pushes out
//! one another and those who did nothing, never a slow attacker with a long memory. A slot
//! with nothing but the slow memory is at most [`SLOT_BYTES`].

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;

use super::streaming::bucket::Bucket;

/// Slots of a set.
pub const WAYS: usize = 16;
/// Largest size of a slot in bytes, without buckets.
pub const SLOT_BYTES: usize = 64;

/// Ordinary requests count half after so many seconds.
const ORDINARY_HALF_S: f32 = 4.0 * 3_600.0;
/// An address with nothing odd is forgotten after so many seconds.
const IDLE_S: u32 = 3_600;
/// A clock that goes back further was set.
const CLOCK_SET_S: u32 = 600;

/// What is remembered of one address or group.
#[derive(Debug)]
pub struct Slot {
    /// Who; see [`address_key`].
    pub key: u64,
    /// Which odd requests were counted in the slow memory: a Bloom filter of one hash.
    pub seen: [u32; 4],
    /// The buckets that are not empty.
    pub buckets: Option<Box<Vec<Bucket>>>,
    /// Points of the slow memory.
    pub points: f32,
    /// Ordinary requests lately, halved every few hours.
    pub ordinary: f32,
    /// Last request, Unix seconds.
    pub at_s: u32,
    /// First odd request of the slow memory, Unix seconds.
    pub first_s: u32,
    /// Odd requests since then.
    pub odd: u32,
    /// Odd requests that no flag counted.
    pub pending: u32,
    /// Last flag of the slow memory, Unix seconds, 0 for none.
    pub flagged_s: u32,
    /// All requests, whatever they were; wraps.
    pub requests: u32,
}

const _: () = assert!(std::mem::size_of::<Slot>() <= SLOT_BYTES, "a slot has its bound");

impl Slot {
    fn new(key: u64) -> Self {
        Self {
            key,
            seen: [0; 4],
            buckets: None,
            points: 0.0,
            ordinary: 0.0,
            at_s: 0,
            first_s: 0,
            odd: 0,
            pending: 0,
            flagged_s: 0,
            requests: 0,
        }
    }

    /// Forgets everything but whose it is.
    pub fn clear(&mut self) {
        *self = Self::new(self.key);
    }

    /// The more, the longer it is kept.
    fn suspicion(&self) -> f64 {
        let buckets = self
            .buckets
            .as_ref()
            .map_or(0.0, |buckets| buckets.iter().map(Bucket::weight).sum::<f64>());
        f64::from(self.points) + buckets
    }

    /// Lets the slow memory leak until `now_s`. An earlier time is the present, unless the
    /// clock was set back.
    pub fn age(&mut self, now_s: u32, leak_s: u32) {
        if self.at_s > 0 && now_s > self.at_s {
            let gone = (now_s - self.at_s) as f32;
            self.ordinary *= (-gone / ORDINARY_HALF_S).exp2();
            self.points = (self.points - gone / leak_s.max(1) as f32).max(0.0);
        }
        if now_s > self.at_s || self.at_s - now_s > CLOCK_SET_S {
            self.at_s = now_s;
            self.first_s = self.first_s.min(now_s);
            self.flagged_s = self.flagged_s.min(now_s);
        }
    }

    /// Whether nothing of it matters any more.
    #[must_use]
    pub fn is_blank(&self, now_s: u32, leak_s: u32) -> bool {
        let gone = now_s.saturating_sub(self.at_s);
        self.buckets.is_none() && gone > IDLE_S && self.points <= gone as f32 / leak_s.max(1) as f32
    }

    /// Bytes that its buckets take.
    #[must_use]
    pub fn bucket_bytes(&self) -> usize {
        self.buckets.as_ref().map_or(0, |buckets| {
            std::mem::size_of::<Vec<Bucket>>()
                + (buckets.capacity() - buckets.len()) * std::mem::size_of::<Bucket>()
                + buckets.iter().map(Bucket::bytes).sum::<usize>()
        })
    }
}

/// The table.
#[derive(Debug)]
pub struct Table {
    sets: Vec<Vec<Slot>>,
    hasher: RandomState,
    len: usize,
    evicted: u64,
}

impl Table {
    /// A table for about so many addresses; memory is taken as they come.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let sets = (slots / WAYS).max(1).next_power_of_two();
        let mut table = Vec::new();
        table.resize_with(sets, Vec::new);
        Self { sets: table, hasher: RandomState::new(), len: 0, evicted: 0 }
    }

    /// The slot of a key, made if it is new; and the one that had to make room.
    pub fn slot(&mut self, key: u64) -> (&mut Slot, Option<Slot>) {
        // Keyed: nobody can choose addresses that fall into one set.
        let hash = self.hasher.hash_one(key);
        let index = usize::try_from(hash).unwrap_or(0) & (self.sets.len() - 1);
        let set = &mut self.sets[index];
        if let Some(at) = set.iter().position(|slot| slot.key == key) {
            return (&mut set[at], None);
        }
        if set.len() < WAYS {
            self.len += 1;
            set.push(Slot::new(key));
            let last = set.len() - 1;
            return (&mut set[last], None);
        }
        let mut least = 0;
        let mut rank = (f64::MAX, u32::MAX);
        for (at, slot) in set.iter().enumerate() {
            let found = (slot.suspicion(), slot.at_s);
            if found < rank {
                (least, rank) = (at, found);
            }
        }
        self.evicted += 1;
        let old = std::mem::replace(&mut set[least], Slot::new(key));
        (&mut set[least], Some(old))
    }

    /// The slot of a key that is there.
    pub fn find(&mut self, key: u64) -> Option<&mut Slot> {
        let hash = self.hasher.hash_one(key);
        let index = usize::try_from(hash).unwrap_or(0) & (self.sets.len() - 1);
        self.sets[index].iter_mut().find(|slot| slot.key == key)
    }

    /// Number of sets.
    #[must_use]
    pub fn sets(&self) -> usize {
        self.sets.len()
    }

    /// The slots of a set.
    pub fn set(&mut self, index: usize) -> &mut [Slot] {
        let last = self.sets.len() - 1;
        &mut self.sets[index & last]
    }

    /// Forgets the blank slots of a set.
    pub fn tidy(&mut self, index: usize, now_s: u32, leak_s: u32) {
        let last = self.sets.len() - 1;
        let set = &mut self.sets[index & last];
        let before = set.len();
        set.retain(|slot| !slot.is_blank(now_s, leak_s));
        self.len -= before - set.len();
    }

    /// Slots in use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Slots that made room for others.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Bytes of the table without buckets.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.sets.len() * std::mem::size_of::<Vec<Slot>>()
            + self.sets.iter().map(Vec::capacity).sum::<usize>() * std::mem::size_of::<Slot>()
    }
}

/// An IPv4 address, or the /64 of an IPv6 address. IPv4 lies where no IPv6 client can: multicast.
#[must_use]
pub fn address_key(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => 0xFFFF_FFFF_0000_0000 | u64::from(u32::from(ip)),
        IpAddr::V6(ip) => (u128::from(ip) >> 64) as u64,
    }
}

/// The way back: the address, or the first of the /64.
#[must_use]
pub fn key_address(key: u64) -> IpAddr {
    if key >> 32 == 0xFFFF_FFFF {
        IpAddr::V4(((key & 0xFFFF_FFFF) as u32).into())
    } else {
        IpAddr::V6((u128::from(key) << 64).into())
    }
}

/// The /24 or /48 of an address.
#[must_use]
pub fn network_key(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(_) => address_key(ip) & !0xFF,
        IpAddr::V6(_) => address_key(ip) & !0xFFFF,
    }
}

/// An autonomous system.
#[must_use]
pub const fn asn_key(asn: u32) -> u64 {
    0xFFFF_FFFE_0000_0000 | asn as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_both_ways() {
        for (ip, back) in [
            ("192.0.2.1", "192.0.2.1"),
            ("0.0.0.0", "0.0.0.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            assert_eq!(key_address(address_key(ip.parse().unwrap())).to_string(), back);
        }
    }

    #[test]
    fn the_least_suspicious_makes_room() {
        let mut table = Table::new(WAYS);
        table.slot(7).0.points = 5.0;
        for key in 1_000..5_000 {
            table.slot(key);
        }
        assert_eq!(table.len(), WAYS);
        assert!((table.find(7).unwrap().points - 5.0).abs() < 1e-6);
        assert!(table.bytes() <= WAYS * SLOT_BYTES + 64);
    }
}
