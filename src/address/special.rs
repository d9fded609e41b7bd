//! Special-purpose addresses: those that no client on the Internet can have, so that nobody
//! has to be asked where they are.
//!
//! The tables follow the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890,
//! RFC 8190), column "Globally Reachable". What the registries leave open (`N/A`: 6to4,
//! Teredo) is not global: such an address names a tunnel, not a place. Multicast (RFC 5771,
//! RFC 4291) can't be a source. Of IPv6, only 2000::/3 is given out to anybody.

use core::net::IpAddr;
#[cfg(all(test, not(target_family = "wasm")))]
use core::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{fold, net_from_bits};

/// A block as its first address, its length, and whether it is globally reachable.
type Block<T> = (T, u8, bool);

const fn v4(a: u8, b: u8, c: u8, d: u8) -> u32 {
    u32::from_be_bytes([a, b, c, d])
}

/// IPv4; what no block covers is global. Where blocks nest, the longest counts.
const V4: &[Block<u32>] = &[
    (v4(0, 0, 0, 0), 8, false),
    (v4(10, 0, 0, 0), 8, false),
    (v4(100, 64, 0, 0), 10, false),
    (v4(127, 0, 0, 0), 8, false),
    (v4(169, 254, 0, 0), 16, false),
    (v4(172, 16, 0, 0), 12, false),
    (v4(192, 0, 0, 0), 24, false),
    // Port Control Protocol and TURN anycast.
    (v4(192, 0, 0, 9), 32, true),
    (v4(192, 0, 0, 10), 32, true),
    (v4(192, 0, 2, 0), 24, false),
    // 6to4 relay anycast, deprecated.
    (v4(192, 88, 99, 0), 24, false),
    (v4(192, 168, 0, 0), 16, false),
    (v4(198, 18, 0, 0), 15, false),
    (v4(198, 51, 100, 0), 24, false),
    (v4(203, 0, 113, 0), 24, false),
    // Multicast, and 240.0.0.0/4 with the broadcast address.
    (v4(224, 0, 0, 0), 3, false),
];

const fn v6(first: [u16; 4]) -> u128 {
    let [a, b, c, d] = first;
    ((a as u128) << 112) | ((b as u128) << 96) | ((c as u128) << 80) | ((d as u128) << 64)
}

/// IPv6; the first entry covers everything.
const V6: &[Block<u128>] = &[
    (0, 0, false),
    // NAT64's well-known prefix.
    (v6([0x64, 0xff9b, 0, 0]), 96, true),
    (v6([0x2000, 0, 0, 0]), 3, true),
    // IETF protocol assignments, and the exceptions in them.
    (v6([0x2001, 0, 0, 0]), 23, false),
    (v6([0x2001, 1, 0, 0]) | 1, 128, true),
    (v6([0x2001, 1, 0, 0]) | 2, 127, true),
    (v6([0x2001, 3, 0, 0]), 32, true),
    (v6([0x2001, 4, 0x112, 0]), 48, true),
    (v6([0x2001, 0x20, 0, 0]), 27, true),
    (v6([0x2001, 0xdb8, 0, 0]), 32, false),
    (v6([0x2002, 0, 0, 0]), 16, false),
    (v6([0x3fff, 0, 0, 0]), 20, false),
];

/// Whether an address can belong to somebody on the Internet: not private, not reserved, not
/// for documentation, not multicast. An IPv4-mapped address is judged as the IPv4 address.
#[must_use]
pub fn is_global(ip: IpAddr) -> bool {
    match fold(ip) {
        IpAddr::V4(ip) => covering(V4, u128::from(u32::from(ip)), 32).is_none_or(|(_, yes)| yes),
        IpAddr::V6(ip) => covering(V6, u128::from(ip), 128).is_some_and(|(_, yes)| yes),
    }
}

/// A network around an address in which [`is_global`] is the same for every address: as
/// large as the tables' blocks allow.
///
/// Whoever keeps an answer by network keeps it for at most this one.
#[must_use]
pub fn uniform_net(ip: IpAddr) -> IpNet {
    let ip = fold(ip);
    let is_v4 = ip.is_ipv4();
    let (bits, len) = match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), uniform_len(V4, u32::from(ip).into(), 32)),
        IpAddr::V6(ip) => (u128::from(ip), uniform_len(V6, ip.into(), 128)),
    };
    let width: u8 = if is_v4 { 32 } else { 128 };
    let host_bits = width - len;
    let first = if host_bits >= 128 { 0 } else { (bits >> host_bits) << host_bits };
    net_from_bits(is_v4, first, len).unwrap_or(IpNet::from(ip))
}

/// The longest block around an address: its length and what it says.
fn covering<T: Copy + Into<u128>>(table: &[Block<T>], bits: u128, width: u8) -> Option<(u8, bool)> {
    table
        .iter()
        .filter(|(first, len, _)| common(bits, (*first).into(), width) >= *len)
        .map(|&(_, len, global)| (len, global))
        .max_by_key(|&(len, _)| len)
}

/// The shortest prefix of an address that holds no block of another kind.
fn uniform_len<T: Copy + Into<u128>>(table: &[Block<T>], bits: u128, width: u8) -> u8 {
    let (own, kind) = covering(table, bits, width).unwrap_or((0, true));
    let beside = table
        .iter()
        .map(|&(first, len, global)| (common(bits, first.into(), width), len, global))
        .filter(|&(common, len, global)| global != kind && common < len)
        .map(|(common, _, _)| common + 1);
    beside.max().unwrap_or(0).max(own)
}

/// How many leading bits two numbers of a width share.
fn common(a: u128, b: u128, width: u8) -> u8 {
    let differing = u32::from(width).saturating_sub(128 - (a ^ b).leading_zeros());
    u8::try_from(differing).unwrap_or(width)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(not(target_family = "wasm"))]
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_registries_are_followed() {
        for reserved in [
            "0.0.0.0",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.7",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:1::4",
            "2001:db8::1",
            "2002:5102:4560::1",
            "3fff:fff::1",
            "5f00::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_global(ip(reserved)), "{reserved}");
        }
        for global in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.0.9",
            "192.0.0.10",
            "192.0.1.0",
            "192.31.196.1",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:81.2.69.160",
            "64:ff9b::102:304",
            "2001:1::1",
            "2001:1::3",
            "2001:3::1",
            "2001:4:112::1",
            "2001:2f:ffff::1",
            "2001:3f:ffff::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2620:4f:8000::1",
            "2a00:1450::1",
            "3fff:1000::1",
        ] {
            assert!(is_global(ip(global)), "{global}");
        }
    }

    #[test]
    fn a_kept_answer_covers_as_much_as_it_may() {
        for (address, network) in [
            ("10.1.2.3", "10.0.0.0/8"),
            ("203.0.113.7", "203.0.113.0/24"),
            ("255.255.255.255", "224.0.0.0/3"),
            ("192.0.0.9", "192.0.0.9/32"),
            ("192.0.0.8", "192.0.0.8/32"),
            ("8.8.8.8", "8.0.0.0/7"),
            ("81.2.69.160", "64.0.0.0/3"),
            ("fe80::1", "8000::/1"),
            ("2001:db8::1", "2001:db8::/32"),
            ("2a00::1", "2800::/5"),
            ("::ffff:10.1.2.3", "10.0.0.0/8"),
        ] {
            assert_eq!(uniform_net(ip(address)).to_string(), network, "{address}");
        }
    }

    #[cfg(not(target_family = "wasm"))]
    proptest! {
        #[test]
        fn a_network_says_the_same_of_all_its_addresses(
            seed in any::<u128>(), near in 0usize..64, low in any::<u128>(), is_v4: bool,
        ) {
            // Half of the addresses near a block's border, where mistakes would be.
            let ip: IpAddr = if is_v4 {
                let bits = V4.get(near).map_or(seed as u32, |&(first, _, _)| {
                    first.wrapping_add((seed % 5) as u32).wrapping_sub(2)
                });
                Ipv4Addr::from(bits).into()
            } else {
                let bits = V6.get(near).map_or(seed, |&(first, _, _)| {
                    first.wrapping_add(seed % 5).wrapping_sub(2)
                });
                Ipv6Addr::from(bits).into()
            };
            let net = uniform_net(ip);
            prop_assert!(net.contains(&fold(ip)));
            let other: IpAddr = match net {
                IpNet::V4(net) => {
                    Ipv4Addr::from(u32::from(net.network()) | (low as u32 & u32::from(net.hostmask()))).into()
                }
                IpNet::V6(net) => {
                    Ipv6Addr::from(u128::from(net.network()) | (low & u128::from(net.hostmask()))).into()
                }
            };
            // An IPv6 network around ::ffff:0:0/96 also holds addresses that are folded.
            if net.contains(&fold(other)) {
                prop_assert_eq!(is_global(other), is_global(ip), "{} in {}", other, net);
            }
        }
    }
}
