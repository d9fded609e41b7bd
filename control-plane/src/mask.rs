//! What viewers see of addresses: their network.
//!
//! Applied to the bytes of every answer to a viewer, whatever made them, so that no handler can
//! forget it: each IPv4 address becomes its /24's first address, each IPv6 address its /48's.
//! The text stays an address, so that every reader of the API understands it.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::IpNet;
use regex::bytes::{Captures, Regex};

/// Bits of an IPv4 address that viewers see.
pub const V4_BITS: u8 = 24;
/// Bits of an IPv6 address that viewers see.
pub const V6_BITS: u8 = 48;

/// Anything that may be an address, with the length of a prefix where there is one. What merely
/// looks like one (a version number, a time of day) is looked at again.
#[expect(clippy::unwrap_used, reason = "a constant; the tests below use it")]
static ADDRESS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?-u)([0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,8}(?:(?:\.[0-9]{1,3}){3})?",
        r"|[0-9]{1,3}(?:\.[0-9]{1,3}){3})(?:(/[0-9]{1,3})([0-9A-Fa-f.:]*))?"
    ))
    .unwrap()
});

/// An address as viewers see it.
#[must_use]
pub fn address(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() >> 8 << 8).into(),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(v4) => Ipv4Addr::from_bits(v4.to_bits() >> 8 << 8).into(),
            None => Ipv6Addr::from_bits(ip.to_bits() >> 80 << 80).into(),
        },
    }
}

/// A network as viewers see it, and may search by: never narrower than they see.
#[must_use]
pub fn network(net: IpNet) -> IpNet {
    let bits = if net.addr().is_ipv4() { V4_BITS } else { V6_BITS };
    let masked = IpNet::new(net.addr(), net.prefix_len().min(bits)).unwrap_or(net);
    masked.trunc()
}

/// A text with every address in it masked.
#[must_use]
pub fn text(bytes: &[u8]) -> Cow<'_, [u8]> {
    ADDRESS.replace_all(bytes, |found: &Captures<'_>| {
        let part = |n| found.get(n).and_then(|part| std::str::from_utf8(part.as_bytes()).ok());
        let (whole, spelled, length) = (part(0), part(1).unwrap_or_default(), part(2));
        // What follows a slash can be the length of a prefix, or the next address.
        let rest = found.get(2).and_then(|length| {
            let rest = bytes.get(length.start() + 1..found.get(0)?.end())?;
            masked(std::str::from_utf8(rest).ok()?, None)
        });
        match rest {
            Some(rest) => {
                let spelled = masked(spelled, None).unwrap_or_else(|| spelled.to_owned());
                format!("{spelled}/{rest}")
            }
            None => match masked(spelled, length) {
                Some(masked) => format!("{masked}{}", part(3).unwrap_or_default()),
                None => whole.unwrap_or_default().to_owned(),
            },
        }
        .into_bytes()
    })
}

/// What stands for an address, or for the first and longest part of a text that is one: what
/// comes before or after it can look as if it belonged to it.
fn masked(spelled: &str, length: Option<&str>) -> Option<String> {
    let is_sign = |byte: u8| matches!(byte, b'.' | b':');
    let signs = || spelled.bytes().enumerate().filter(|(_, byte)| is_sign(*byte));
    let starts = std::iter::once(0).chain(signs().map(|(at, _)| at + 1));
    for start in starts {
        let ends = signs().map(|(at, _)| at).chain(std::iter::once(spelled.len()));
        for end in ends.collect::<Vec<_>>().into_iter().rev() {
            let Some(Ok(ip)) = spelled.get(start..end).map(str::parse::<IpAddr>) else { continue };
            let (before, after) = (spelled.get(..start)?, spelled.get(end..)?);
            if after.is_empty() {
                return Some(format!("{before}{}", with_length(ip, length)));
            }
            let after = masked(after, None).unwrap_or_else(|| after.to_owned());
            return Some(format!("{before}{}{after}{}", address(ip), length.unwrap_or_default()));
        }
    }
    None
}

fn with_length(ip: IpAddr, length: Option<&str>) -> String {
    let bits = length.and_then(|length| length.get(1..)?.parse::<u8>().ok());
    match bits.and_then(|bits| IpNet::new(ip, bits).ok()) {
        Some(net) => network(net).to_string(),
        None => format!("{}{}", address(ip), length.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> String {
        String::from_utf8(super::text(text.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn addresses_become_their_networks_and_the_rest_stays() {
        for (before, after) in [
            (r#"{"ip":"203.0.113.7","n":1.5}"#, r#"{"ip":"203.0.113.0","n":1.5}"#),
            ("203.0.113.7/32 and 203.0.113.128/25", "203.0.113.0/24 and 203.0.113.0/24"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("2001:db8:1:2::7", "2001:db8:1::"),
            ("2001:db8:1:2::/64", "2001:db8:1::/48"),
            ("::ffff:203.0.113.7", "203.0.113.0"),
            ("at 2026-11-22T16:00:00Z", "at 2026-11-22T16:00:00Z"),
            ("Chrome/126.0.6478.127", "Chrome/126.0.6478.127"),
            ("1.2.3.4.5.6.7.8", "1.2.3.0.5.6.7.0"),
            (r"\b203.0.113.7\n", r"\b203.0.113.0\n"),
            ("std::net 12:30", "std::net 12:30"),
            ("::/203.0.113.7", "::/203.0.113.0"),
            ("203.0.113.7/198.51.100.7/2001:db8:1:2::7", "203.0.113.0/198.51.100.0/2001:db8:1::"),
            ("in 203.0.113.7/32.", "in 203.0.113.0/24."),
        ] {
            assert_eq!(shown(before), after, "{before}");
        }
    }

    proptest! {
        #[test]
        fn no_address_gets_through(ip: IpAddr, before in "[ \"/=,a-z:]{0,3}", after in "[ \",x]{0,2}") {
            let ip = ipwarden::address::fold(ip);
            let spelled = ip.to_string();
            let text = format!("{before}{spelled}{after}");
            prop_assume!(address(ip) != ip);
            let shown = shown(&text);
            prop_assert!(!shown.contains(&spelled), "{} -> {}", text, shown);
        }

        #[test]
        fn masking_twice_changes_nothing(ip: IpAddr) {
            let once = shown(&ip.to_string());
            prop_assert_eq!(shown(&once), once);
        }
    }
}
