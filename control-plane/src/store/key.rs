//! Targets as bytes that sort.
//!
//! A key is the family (4 or 6), the first address and the prefix length. As byte strings,
//! keys sort in the order of the wire format: IPv4 before IPv6, then by first address, then
//! a network before what it contains. Everything inside a network is one range of keys.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use ipwarden::address::fold_net;

/// The key of a target.
pub(in crate::store) fn key(target: &IpNet) -> Vec<u8> {
    encode(target.network(), target.prefix_len())
}

/// The target of a key; `None` for bytes that are no key.
pub(in crate::store) fn target(key: &[u8]) -> Option<IpNet> {
    let (prefix, rest) = key.split_last()?;
    let ip = match rest.split_first()? {
        (4, octets) => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?)),
        (6, octets) => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)),
        _ => return None,
    };
    IpNet::new(ip, *prefix).ok()
}

/// First and last key of what lies inside a network, itself included. A wider network that
/// begins at the same address sorts before the first; one that begins further on and
/// reaches in does not exist, networks being nested or apart.
pub(in crate::store) fn inside(net: &IpNet) -> (Vec<u8>, Vec<u8>) {
    let net = fold_net(net.trunc());
    (key(&net), encode(net.broadcast(), u8::MAX))
}

/// The keys of all networks that contain a network, itself included: at most 33 or 129.
pub(in crate::store) fn covering(net: &IpNet) -> impl Iterator<Item = Vec<u8>> {
    let net = fold_net(net.trunc());
    (0..=net.prefix_len())
        .filter_map(move |len| IpNet::new(net.addr(), len).ok())
        .map(|net| key(&net.trunc()))
}

fn encode(ip: IpAddr, prefix: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(18);
    match ip {
        IpAddr::V4(v4) => {
            out.push(4);
            out.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            out.push(6);
            out.extend_from_slice(&v6.octets());
        }
    }
    out.push(prefix);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipwarden::decisions::{Entry, NEVER, Tier};
    use proptest::prelude::*;

    fn any_net() -> impl Strategy<Value = IpNet> {
        // Few bits, so that nets nest, touch and coincide.
        let v4 = (0u8..=32, 0u32..64, 0u32..4).prop_map(|(len, low, high)| {
            IpNet::new(IpAddr::from(Ipv4Addr::from(high << 30 | low)), len).unwrap().trunc()
        });
        let v6 = (0u8..=128, 0u128..64, 0u128..4).prop_map(|(len, low, high)| {
            IpNet::new(IpAddr::from(Ipv6Addr::from(high << 126 | low)), len).unwrap().trunc()
        });
        prop_oneof![v4, v6].prop_map(fold_net)
    }

    fn wire_order(target: IpNet) -> (bool, u128, u8, u8, u32) {
        Entry { target, tier: Tier::Allow, id: 1, expires_at: NEVER }.sort_key()
    }

    proptest! {
        #[test]
        fn keys_round_trip_and_sort_as_the_wire_does(a in any_net(), b in any_net()) {
            prop_assert_eq!(target(&key(&a)), Some(a));
            prop_assert_eq!(key(&a).cmp(&key(&b)), wire_order(a).cmp(&wire_order(b)));
        }

        #[test]
        fn ranges_and_ancestors_are_containment(outer in any_net(), inner in any_net()) {
            let contained = outer.contains(&inner);
            let (first, last) = inside(&outer);
            prop_assert_eq!((first..=last).contains(&key(&inner)), contained);
            prop_assert_eq!(covering(&inner).any(|found| found == key(&outer)), contained);
        }
    }
}
