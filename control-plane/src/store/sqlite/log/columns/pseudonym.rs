//! Pseudonyms as numbers, so that they can be counted as addresses are.
//!
//! From the left: the id of the key, 32 bits; the family; of IPv4 the pseudonym, of IPv6 its first
//! 64 bits. Pseudonyms of two keys are never taken for each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use ipwarden::address::fold_net;
use ipwarden::privacy::KeyId;

use super::segment::V4;
use crate::store::stats::countable;

const FAMILY_4: u128 = 1;
const FAMILY_6: u128 = 2;

/// The number of an address under a key; the address as columns hold it.
pub(super) fn value(address: u128, key: u32) -> u128 {
    let (family, part) = if address >> 32 == V4 >> 32 {
        (FAMILY_4, address & u128::from(u32::MAX))
    } else {
        (FAMILY_6, address >> 64)
    };
    u128::from(key) << 96 | family << 64 | part
}

/// The number of its /24, or /48.
pub(super) fn network(value: u128) -> u128 {
    if is_v4(value) { value >> 8 << 8 } else { value >> 16 << 16 }
}

/// As it is shown: with the length of its prefix unless it is a whole address, and with the id of
/// its key where there is one.
pub(super) fn shown(value: u128, is_network: bool) -> String {
    let (ip, whole, cut): (IpAddr, u8, u8) = if is_v4(value) {
        (Ipv4Addr::from_bits(value as u32).into(), 32, 24)
    } else {
        (Ipv6Addr::from_bits((value & u128::from(u64::MAX)) << 64).into(), 64, 48)
    };
    let length = if is_network { cut } else { whole };
    let name = if length == 32 { ip.to_string() } else { format!("{ip}/{length}") };
    match (value >> 96) as u32 {
        0 => name,
        key => format!("{name}@{}", KeyId(key.to_be_bytes())),
    }
}

/// Whether a pseudonym lies in a network of pseudonyms, whatever its key.
pub(super) fn lies_in(net: IpNet, found: u128) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits() >> 64,
    };
    let net = countable(fold_net(net));
    let part = found & u128::from(u64::MAX);
    found != 0
        && is_v4(found) == net.addr().is_ipv4()
        && (bits(net.network())..=bits(net.broadcast())).contains(&part)
}

fn is_v4(value: u128) -> bool {
    value >> 64 & 0xff == FAMILY_4
}

#[cfg(test)]
mod tests {
    use super::super::build::address_of;
    use super::*;

    fn of(ip: &str, key: u32) -> u128 {
        value(address_of(ip.parse().unwrap()), key)
    }

    #[test]
    fn a_pseudonym_is_shown_with_its_key_and_an_ipv6_one_by_its_first_half() {
        let v4 = of("100.115.72.131", 0x5ab1_c0de);
        let v6 = of("2001:db8:1:2:3::7", 0x0000_00ff);
        assert_eq!(shown(v4, false), "100.115.72.131@5ab1c0de");
        assert_eq!(shown(network(v4), true), "100.115.72.0/24@5ab1c0de");
        assert_eq!(shown(v6, false), "2001:db8:1:2::/64@000000ff");
        assert_eq!(shown(network(v6), true), "2001:db8:1::/48@000000ff");
        assert_eq!(shown(of("0.0.0.0", 0), false), "0.0.0.0");
    }

    #[test]
    fn pseudonyms_of_two_keys_and_of_two_families_are_never_the_same() {
        assert_ne!(of("1.2.3.4", 1), of("1.2.3.4", 2));
        assert_ne!(of("1.2.3.4", 1), of("::102:304:0:0:0:0", 1));
        assert_ne!(of("::", 0), 0, "the lack of one is another number");
    }

    #[test]
    fn a_network_holds_pseudonyms_of_its_own_family_only() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let v4 = of("100.115.72.131", 7);
        let v6 = of("2001:db8:1:2:3::7", 7);
        assert!(lies_in(net("100.115.72.0/24"), v4) && !lies_in(net("100.115.73.0/24"), v4));
        assert!(lies_in(net("::ffff:100.115.72.131/128"), v4));
        assert!(lies_in(net("2001:db8:1:2:3::7/128"), v6) && lies_in(net("2001:db8::/32"), v6));
        assert!(!lies_in(net("2001:db8:1:3::/64"), v6));
        assert!(!lies_in(net("0.0.0.0/0"), v6) && !lies_in(net("::/0"), v4));
        assert!(!lies_in(net("0.0.0.0/0"), 0) && !lies_in(net("::/0"), 0));
    }
}
