//! The databases in use, and what they answer together.
//!
//! Invariant: an answer's network is the intersection of the networks of everything that
//! was consulted for it, so that it holds for every address in it.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ipwarden::address::{fold, host_net, is_global, uniform_net};

use super::database::{Database, Kind};
use super::place::{Located, Place};

/// The databases in use. Never changed: a reload makes another.
#[derive(Debug, Default)]
pub struct Set {
    databases: Vec<Arc<Database>>,
    /// Grows with every reload.
    pub generation: u64,
}

impl Set {
    /// Of databases in order of precedence.
    ///
    /// The first that knows a place gives all of it: a country of one database and a city of
    /// another could contradict each other. The AS number comes from the first that has one.
    #[must_use]
    pub fn new(databases: Vec<Arc<Database>>, generation: u64) -> Self {
        Self { databases, generation }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.databases.is_empty()
    }

    /// Where an address is.
    #[must_use]
    pub fn locate(&self, ip: IpAddr) -> Located {
        let ip = fold(ip);
        let mut network = uniform_net(ip);
        let mut place = Place::default();
        if !is_global(ip) {
            return Located { ip, network, reserved: true, place };
        }
        let (mut placed, mut numbered) = (false, false);
        for database in self.databases.iter().filter(|database| database.serves(ip)) {
            let asks_place = !placed && database.kind != Kind::Asn;
            let asks_asn = !numbered && database.has_asn;
            if !asks_place && !asks_asn {
                continue;
            }
            // A record that can't be decoded was refused when the file was loaded; were one
            // to slip through, the answer would hold for this address only.
            let (found, holds) = database.look_up(ip).unwrap_or_else(|_| (None, host_net(ip)));
            network = narrower(network, holds);
            let Some(found) = found else { continue };
            if asks_place && (found.country.is_some() || found.city.is_some()) {
                place = Place { asn: place.asn, as_org: place.as_org.take(), ..found.clone() };
                placed = true;
            }
            if asks_asn && found.asn.is_some() {
                place.asn = found.asn;
                place.as_org = found.as_org;
                numbered = true;
            }
        }
        Located { ip, network, reserved: false, place }
    }
}

/// The smaller of two networks that both contain an address.
fn narrower(a: IpNet, b: IpNet) -> IpNet {
    if b.prefix_len() > a.prefix_len() { b } else { a }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::geo::mmdb::{Mmdb, map};

    fn set(databases: impl IntoIterator<Item = Mmdb>) -> Set {
        let open = |mmdb: Mmdb| Arc::new(Database::new(mmdb.build()).unwrap());
        Set::new(databases.into_iter().map(open).collect(), 1)
    }

    fn cities() -> Mmdb {
        Mmdb::new("city ipv4", 4)
            .net("81.2.69.0/24", map([("country_code", "GB".into()), ("city", "London".into())]))
            .net("81.2.68.0/24", map([("country_code", "GB".into()), ("city", "".into())]))
    }

    fn countries() -> Mmdb {
        Mmdb::new("country ipvAll", 6)
            .net("81.2.69.128/25", map([("country_code", "IE".into())]))
            .net("81.3.0.0/16", map([("country_code", "FR".into())]))
            .net("2a00:1450::/32", map([("country_code", "IE".into())]))
    }

    fn systems() -> Mmdb {
        Mmdb::new("asn ipv4", 4).net(
            "81.2.69.192/26",
            map([
                ("autonomous_system_number", 20712.into()),
                ("autonomous_system_organization", "Andrews & Arnold Ltd".into()),
            ]),
        )
    }

    fn json(set: &Set, ip: &str) -> serde_json::Value {
        serde_json::to_value(set.locate(ip.parse().unwrap())).unwrap()
    }

    #[test]
    fn a_place_comes_from_one_database_and_the_network_from_all_that_were_asked() {
        let set = set([cities(), countries(), systems()]);
        assert_eq!(
            json(&set, "81.2.69.200"),
            serde_json::json!({
                "ip": "81.2.69.200", "network": "81.2.69.192/26", "country": "GB",
                "city": "London", "asn": 20712, "as_org": "Andrews & Arnold Ltd",
            })
        );
        // Country data contradicts city data here and is not asked; the AS number is.
        assert_eq!(
            json(&set, "81.2.69.130"),
            serde_json::json!({
                "ip": "81.2.69.130", "network": "81.2.69.128/26", "country": "GB", "city": "London",
            })
        );
        assert_eq!(
            json(&set, "81.3.1.1"),
            serde_json::json!({"ip": "81.3.1.1", "network": "81.3.0.0/16", "country": "FR"})
        );
        assert_eq!(
            json(&set, "2a00:1450::8a"),
            serde_json::json!({"ip": "2a00:1450::8a", "network": "2a00:1450::/32", "country": "IE"})
        );
    }

    #[test]
    fn addresses_that_no_client_has_are_not_looked_up() {
        let all =
            Mmdb::new("country ipv4", 4).net("0.0.0.0/1", map([("country_code", "GB".into())]));
        let set = set([all]);
        assert_eq!(
            json(&set, "::ffff:10.1.2.3"),
            serde_json::json!({"ip": "10.1.2.3", "network": "10.0.0.0/8", "reserved": true})
        );
        // An answer for half of all addresses must not be kept for those in it that have none.
        assert_eq!(json(&set, "11.1.2.3")["network"], "11.0.0.0/8");
        assert_eq!(
            Set::default().locate("203.0.113.7".parse().unwrap()).network.to_string(),
            "203.0.113.0/24"
        );
    }

    /// A few networks, some nested, of both families.
    fn networks() -> impl Strategy<Value = Vec<(IpNet, u8)>> {
        let net = (any::<bool>(), 0u32..64, any::<u128>(), 1u8..=128, 0u8..4).prop_map(
            |(is_v4, near, low, len, value)| {
                // Close together, so that they nest.
                let net = if is_v4 {
                    let bits = 0x5102_0000 | (near << 10) | (low as u32 & 0x3ff);
                    IpNet::new(Ipv4Addr::from(bits).into(), 1 + len % 32)
                } else {
                    let bits = 0x2a00_1450u128 << 96 | u128::from(near) << 60 | (low >> 68);
                    IpNet::new(Ipv6Addr::from(bits).into(), len)
                };
                (net.unwrap().trunc(), value)
            },
        );
        proptest::collection::vec(net, 0..12)
    }

    fn database(field: &'static str, networks: &[(IpNet, u8)]) -> Mmdb {
        // One of each, so that the file is recognised.
        let seed = match field {
            "asn" => map([("asn", 1.into())]),
            _ => map([("country_code", "AA".into()), (field, "AA".into())]),
        };
        let empty = Mmdb::new(field, 6).net("1.1.1.1/32", seed);
        networks.iter().fold(empty, |mmdb, (net, value)| {
            let text = format!("A{}", char::from(b'B' + value));
            mmdb.net(
                &net.to_string(),
                match field {
                    "asn" => map([("asn", u32::from(value + 1).into())]),
                    "city" => map([
                        ("country_code", text.as_str().into()),
                        ("city", text.as_str().into()),
                    ]),
                    _ => map([("country_code", text.as_str().into())]),
                },
            )
        })
    }

    proptest! {
        #[test]
        fn an_answer_holds_for_every_address_of_its_network(
            cities in networks(), countries in networks(), systems in networks(),
            pick in any::<prop::sample::Index>(), offset in any::<u128>(), low in any::<[u128; 8]>(),
        ) {
            let all: Vec<IpNet> =
                cities.iter().chain(&countries).chain(&systems).map(|(net, _)| *net).collect();
            prop_assume!(!all.is_empty());
            let set = set([
                database("city", &cities),
                database("country_code", &countries),
                database("asn", &systems),
            ]);
            // At, inside, or just beside a network's border.
            let ip: IpAddr = match all[pick.index(all.len())] {
                IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()).wrapping_add((offset % 600) as u32).wrapping_sub(300)).into(),
                IpNet::V6(net) => Ipv6Addr::from(u128::from(net.network()).wrapping_add(offset >> 60).wrapping_sub(1 << 20)).into(),
            };
            let answer = set.locate(ip);
            prop_assert!(answer.network.contains(&answer.ip), "{:?}", answer);
            for low in low {
                let other: IpAddr = match answer.network {
                    IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()) | (low as u32 & u32::from(net.hostmask()))).into(),
                    IpNet::V6(net) => Ipv6Addr::from(u128::from(net.network()) | (low & u128::from(net.hostmask()))).into(),
                };
                if fold(other).is_ipv4() == answer.ip.is_ipv4() {
                    let same = Located { ip: other, ..answer.clone() };
                    prop_assert_eq!(set.locate(other), same);
                }
            }
        }
    }
}
