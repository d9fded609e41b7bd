//! What ingest remembers of places: bounded, by network, for one thread.
//!
//! Without it every record costs one look-up in each database, each a walk through memory
//! that is in no cache of the processor.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use ipnet::IpNet;
use ipwarden::address::fold;

use super::Geo;
use super::place::Spot;
use super::set::Set;

/// Entries in one generation; two are kept.
const GENERATION_ENTRIES: usize = 64 * 1024;
/// What is remembered at once where an answer covers it all.
const V4_BLOCK: u8 = 24;
const V6_BLOCK: u8 = 48;

/// Places by network. When a generation is full it becomes the old one and the one before
/// it is dropped: what is used stays.
#[derive(Debug)]
pub struct Places {
    geo: Geo,
    set: Arc<Set>,
    young: HashMap<IpNet, Spot>,
    old: HashMap<IpNet, Spot>,
}

impl Places {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new(geo: Geo) -> Self {
        let set = geo.current();
        Self { geo, set, young: HashMap::new(), old: HashMap::new() }
    }

    /// Takes note of databases that were loaded since. Called once for each commit, so that
    /// a record costs no lock.
    pub fn refresh(&mut self) {
        let present = self.geo.current();
        if present.generation != self.set.generation {
            self.set = present;
            self.young.clear();
            self.old.clear();
        }
    }

    /// Whether anything can be said of anybody.
    #[must_use]
    pub fn knows_anything(&self) -> bool {
        !self.set.is_empty()
    }

    /// What a record keeps of where an address is.
    pub fn spot(&mut self, ip: IpAddr) -> Spot {
        let ip = fold(ip);
        let (block, host) = match ip {
            IpAddr::V4(_) => (V4_BLOCK, 32),
            IpAddr::V6(_) => (V6_BLOCK, 128),
        };
        // Both lengths fit their family.
        let (Ok(block), Ok(host)) = (IpNet::new(ip, block), IpNet::new(ip, host)) else {
            return Spot::default();
        };
        let block = block.trunc();
        for key in [block, host] {
            if let Some(spot) = self.young.get(&key) {
                return spot.clone();
            }
            if let Some(spot) = self.old.remove(&key) {
                self.remember(key, spot.clone());
                return spot;
            }
        }
        let located = self.set.locate(ip);
        let key = if located.network.contains(&block) { block } else { host };
        let spot = Spot::from(&located.place);
        self.remember(key, spot.clone());
        spot
    }

    fn remember(&mut self, key: IpNet, spot: Spot) {
        if self.young.len() >= GENERATION_ENTRIES {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, spot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geo::mmdb::{Mmdb, map};

    fn country(net: &str, code: &str) -> Vec<u8> {
        Mmdb::new("country ipv4", 4).net(net, map([("country_code", code.into())])).build()
    }

    fn code(places: &mut Places, ip: &str) -> Option<String> {
        places.spot(ip.parse().unwrap()).country.map(|country| country.to_string())
    }

    #[test]
    fn what_is_remembered_is_what_the_databases_say() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("country.mmdb");
        std::fs::write(&file, country("81.2.69.160/27", "GB")).unwrap();
        let geo = Geo::new(directory.path().to_owned(), Vec::new());
        geo.refresh("2026-11-22T16:00:00Z".parse().unwrap());
        let mut places = Places::new(geo.clone());
        for _ in 0..2 {
            // The same block, different answers.
            assert_eq!(code(&mut places, "81.2.69.161").as_deref(), Some("GB"));
            assert_eq!(code(&mut places, "::ffff:81.2.69.161").as_deref(), Some("GB"));
            assert_eq!(code(&mut places, "81.2.69.1"), None);
            assert_eq!(code(&mut places, "10.0.0.1"), None);
            assert_eq!(code(&mut places, "2a00::1"), None);
        }
        assert_eq!(places.young.len(), 4, "10.0.0.0/24 and 2a00::/48 are one entry each");

        std::fs::write(&file, country("81.2.69.0/24", "FR")).unwrap();
        geo.refresh("2026-11-22T16:00:01Z".parse().unwrap());
        assert_eq!(code(&mut places, "81.2.69.161").as_deref(), Some("GB"));
        places.refresh();
        assert_eq!(code(&mut places, "81.2.69.161").as_deref(), Some("FR"));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_used_stays() {
        let geo = Geo::new("/nonexistent".into(), Vec::new());
        let mut places = Places::new(geo);
        let hot: IpAddr = "1.1.1.1".parse().unwrap();
        for n in 0..3 * GENERATION_ENTRIES as u32 {
            places.spot(std::net::Ipv4Addr::from(0x0200_0000 + n * 256).into());
            if n.is_multiple_of(1_000) {
                places.spot(hot);
            }
        }
        assert!(places.young.len() + places.old.len() <= 2 * GENERATION_ENTRIES);
        let block: IpNet = "1.1.1.0/24".parse().unwrap();
        assert!(places.young.contains_key(&block) || places.old.contains_key(&block));
    }
}
