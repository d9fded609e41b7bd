//! What one worker remembers of places: bounded, by the network that an answer covers.
//!
//! Invariant: the networks of one generation are disjoint, so that the longest prefix that
//! covers an address is the entry at or before it: one search in a sorted map, no allocation.
//! Providers answer with disjoint networks; where their data changed, the newer answer takes
//! the place of every older one that it overlaps.
//!
//! Two generations: when the young one is full it becomes the old one and the one before is
//! dropped. What is looked up moves to the young one, so what is used stays.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::rc::Rc;

use ipnet::IpNet;

use super::Place;

/// Networks of one generation, of each family; two generations are kept.
pub const GENERATION_NETWORKS: usize = 16 * 1024;

/// Unix time in seconds.
type Seconds = u32;

/// An answer: the place, or that nothing is known of it.
pub type Answer = Option<Rc<Place>>;

#[derive(Debug, Clone)]
struct Entry<A> {
    last: A,
    expires_at: Seconds,
    answer: Answer,
}

/// The networks of one family in one generation, by their first address.
#[derive(Debug)]
struct Generation<A>(BTreeMap<A, Entry<A>>);

impl<A: Ord + Copy> Generation<A> {
    fn find(&self, address: A, now: Seconds) -> Option<(A, &Entry<A>)> {
        let (first, entry) = self.0.range(..=address).next_back()?;
        (address <= entry.last && now < entry.expires_at).then_some((*first, entry))
    }

    /// Adds a network in the place of all that it overlaps.
    fn insert(&mut self, first: A, entry: Entry<A>) {
        // Disjoint networks overlap another in one piece: from the last that starts in it back.
        while let Some((&start, found)) = self.0.range(..=entry.last).next_back() {
            if found.last < first {
                break;
            }
            self.0.remove(&start);
        }
        self.0.insert(first, entry);
    }
}

#[derive(Debug)]
struct Family<A> {
    young: Generation<A>,
    old: Generation<A>,
}

impl<A: Ord + Copy> Family<A> {
    const fn new() -> Self {
        Self { young: Generation(BTreeMap::new()), old: Generation(BTreeMap::new()) }
    }

    fn find(&mut self, address: A, now: Seconds) -> Option<Answer> {
        if let Some((_, entry)) = self.young.find(address, now) {
            return Some(entry.answer.clone());
        }
        let (first, _) = self.old.find(address, now)?;
        let entry = self.old.0.remove(&first)?;
        let answer = entry.answer.clone();
        self.insert(first, entry);
        Some(answer)
    }

    fn insert(&mut self, first: A, entry: Entry<A>) {
        if self.young.0.len() >= GENERATION_NETWORKS {
            self.old = core::mem::replace(&mut self.young, Generation(BTreeMap::new()));
        }
        self.young.insert(first, entry);
    }

    fn len(&self) -> usize {
        self.young.0.len() + self.old.0.len()
    }
}

/// The places that one worker remembers.
#[derive(Debug)]
pub struct Cache {
    v4: Family<u32>,
    v6: Family<u128>,
}

impl Default for Cache {
    fn default() -> Self {
        Self { v4: Family::new(), v6: Family::new() }
    }
}

impl Cache {
    /// The answer that covers an address; `None` where none does, or it has expired.
    #[inline]
    pub fn find(&mut self, ip: IpAddr, now: Seconds) -> Option<Answer> {
        match ip {
            IpAddr::V4(ip) => self.v4.find(u32::from(ip), now),
            IpAddr::V6(ip) => self.v6.find(u128::from(ip), now),
        }
    }

    /// Remembers an answer for a network.
    pub fn insert(&mut self, network: IpNet, answer: Answer, expires_at: Seconds) {
        match network {
            IpNet::V4(net) => {
                let last = u32::from(net.broadcast());
                self.v4.insert(u32::from(net.network()), Entry { last, expires_at, answer });
            }
            IpNet::V6(net) => {
                let last = u128::from(net.broadcast());
                self.v6.insert(u128::from(net.network()), Entry { last, expires_at, answer });
            }
        }
    }

    /// Networks remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geo::Country;

    fn place(code: &str) -> Answer {
        Some(Rc::new(Place::new(Country::new(code), "", None).unwrap()))
    }

    fn code(cache: &mut Cache, ip: &str, now: Seconds) -> Option<String> {
        let answer = cache.find(ip.parse().unwrap(), now)?;
        Some(answer.map_or_else(String::new, |place| place.country().unwrap().to_string()))
    }

    fn insert(cache: &mut Cache, net: &str, answer: Answer, expires_at: Seconds) {
        cache.insert(net.parse().unwrap(), answer, expires_at);
    }

    #[test]
    fn an_answer_holds_for_its_whole_network_until_it_expires() {
        let mut cache = Cache::default();
        insert(&mut cache, "81.2.69.160/27", place("GB"), 100);
        insert(&mut cache, "2a00::/20", None, 50);
        insert(&mut cache, "0.0.0.0/32", place("FR"), 100);
        insert(&mut cache, "255.255.255.255/32", place("DE"), 100);
        for (ip, found) in [
            ("81.2.69.159", None),
            ("81.2.69.160", Some("GB")),
            ("81.2.69.191", Some("GB")),
            ("81.2.69.192", None),
            ("2a00:0fff:ffff::1", Some("")),
            ("2a00:1000::1", None),
            ("0.0.0.0", Some("FR")),
            ("0.0.0.1", None),
            ("255.255.255.255", Some("DE")),
        ] {
            assert_eq!(code(&mut cache, ip, 49).as_deref(), found, "{ip}");
        }
        assert_eq!(code(&mut cache, "2a00::1", 50), None);
        assert_eq!(code(&mut cache, "81.2.69.160", 100), None);
    }

    #[test]
    fn a_newer_answer_takes_the_place_of_those_that_it_overlaps() {
        let mut cache = Cache::default();
        for net in ["10.0.0.0/26", "10.0.0.64/26", "10.0.0.128/25", "10.0.1.0/24"] {
            insert(&mut cache, net, place("GB"), 100);
        }
        insert(&mut cache, "10.0.0.0/24", place("FR"), 100);
        assert_eq!(cache.len(), 2);
        assert_eq!(code(&mut cache, "10.0.0.200", 0).as_deref(), Some("FR"));
        insert(&mut cache, "10.0.0.4/32", place("DE"), 100);
        assert_eq!(code(&mut cache, "10.0.0.4", 0).as_deref(), Some("DE"));
        assert_eq!(code(&mut cache, "10.0.0.5", 0), None, "to be asked again");
        assert_eq!(code(&mut cache, "10.0.1.5", 0).as_deref(), Some("GB"));
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let mut cache = Cache::default();
        insert(&mut cache, "1.1.1.0/24", place("AU"), u32::MAX);
        for n in 0..5 * GENERATION_NETWORKS as u32 {
            let net = format!("{}/24", core::net::Ipv4Addr::from(0x0200_0000 + n * 256));
            insert(&mut cache, &net, None, u32::MAX);
            if n % 1_000 == 0 {
                assert_eq!(code(&mut cache, "1.1.1.1", 0).as_deref(), Some("AU"), "{n}");
            }
        }
        assert!(cache.len() <= 2 * GENERATION_NETWORKS, "{}", cache.len());
    }

    #[cfg(not(target_family = "wasm"))]
    mod laws {
        use super::*;
        use core::net::Ipv4Addr;
        use ipnet::Ipv4Net;
        use proptest::prelude::*;

        proptest! {
            /// The newest answer that covers the address and was not overlapped since.
            #[test]
            fn it_agrees_with_a_list(
                steps in proptest::collection::vec((0u32..4_096, 20u8..=32, 1u32..100, 0u32..100, 0u32..4_096), 1..80),
            ) {
                let mut cache = Cache::default();
                let mut model: Vec<(Ipv4Net, u32, u32)> = Vec::new();
                for (n, (bits, len, expires_at, now, asked)) in steps.into_iter().enumerate() {
                    let net = Ipv4Net::new(Ipv4Addr::from(bits << 4), len).unwrap().trunc();
                    let asn = n as u32 + 1;
                    cache.insert(net.into(), Place::new(None, "", Some(asn)).map(Rc::new), expires_at);
                    model.retain(|(known, _, _)| !known.contains(&net) && !net.contains(known));
                    model.push((net, expires_at, asn));
                    let ip = Ipv4Addr::from(asked << 4);
                    let expected = model.iter().find(|(known, until, _)| known.contains(&ip) && now < *until);
                    let found = cache.find(ip.into(), now).flatten().and_then(|place| place.asn());
                    prop_assert_eq!(found, expected.map(|(_, _, asn)| *asn));
                }
            }
        }
    }
}
