//! Addresses and targets: parsing, folding, canonical form.
//!
//! Invariant: an address or network that left this module is *folded*: an IPv4-mapped
//! IPv6 address (`::ffff:a.b.c.d`, RFC 4291 §2.5.5.2) is the IPv4 address, and a network
//! inside `::ffff:0:0/96` is the IPv4 network. Matching, limiting and storing see one
//! form only.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

mod special;

pub use special::{is_global, uniform_net};

/// The longest text that can name a target: a full IPv6 address with a prefix length.
/// Longer input is refused before it is parsed.
pub const MAX_TARGET_TEXT_BYTES: usize = 64;

/// Folds an IPv4-mapped IPv6 address to IPv4; every other address is returned as it is.
#[must_use]
pub const fn fold(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => ip,
        },
    }
}

/// Folds a network inside `::ffff:0:0/96` to the IPv4 network (`/96+n` becomes `/n`).
#[must_use]
pub fn fold_net(net: IpNet) -> IpNet {
    if let IpNet::V6(v6) = net
        && let Some(len) = v6.prefix_len().checked_sub(96)
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Ok(folded) = Ipv4Net::new(v4, len)
    {
        return IpNet::V4(folded);
    }
    net
}

/// The network of exactly one address.
#[must_use]
pub fn host_net(ip: IpAddr) -> IpNet {
    IpNet::from(fold(ip))
}

/// Reads `ip:port` (`[v6]:port` for IPv6) as Envoy's `source.address` gives it, or a bare
/// address. `None` for anything else: pipes and internal listeners have no address.
#[must_use]
pub fn parse_peer(text: &[u8]) -> Option<IpAddr> {
    let text = core::str::from_utf8(text).ok()?;
    text.parse::<SocketAddr>()
        .map(|peer| peer.ip())
        .or_else(|_| text.parse::<IpAddr>())
        .ok()
        .map(fold)
}

/// Why a text is not a target. The message says what is wrong and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetError {
    /// Nothing there.
    Empty,
    /// Longer than [`MAX_TARGET_TEXT_BYTES`].
    TooLong {
        /// Length of the input in bytes.
        bytes: usize,
    },
    /// The part before the slash is no IP address.
    NotAnAddress {
        /// What was found.
        found: String,
    },
    /// The prefix length is no number, or too large for the family.
    PrefixLength {
        /// What was found after the slash.
        found: String,
        /// 32 or 128.
        max: u8,
    },
    /// The address has bits set beyond the prefix: `10.0.0.1/24`.
    HostBits {
        /// The input.
        found: String,
        /// The network that contains it.
        network: IpNet,
        /// The single address.
        host: IpAddr,
    },
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(
                f,
                "empty target: expected an IP address or a CIDR such as 192.0.2.7 or 2001:db8::/32"
            ),
            Self::TooLong { bytes } => {
                write!(
                    f,
                    "target of {bytes} bytes is longer than any address: expected an IP address or a CIDR"
                )
            }
            Self::NotAnAddress { found } => {
                write!(
                    f,
                    "'{found}' is not an IP address: expected one such as 192.0.2.7 or 2001:db8::1, or a CIDR such as 192.0.2.0/24"
                )
            }
            Self::PrefixLength { found, max } => {
                write!(f, "prefix length '/{found}' is out of range: expected /0 to /{max}")
            }
            Self::HostBits { found, network, host } => {
                write!(
                    f,
                    "'{found}' has bits set beyond its prefix: write {network} for the network or {host} for the single address"
                )
            }
        }
    }
}

impl core::error::Error for TargetError {}

/// Reads an address or a CIDR as a target.
///
/// A bare address becomes `/32` or `/128`; IPv4-mapped forms are folded. Host bits must be
/// zero: `10.0.0.1/8` is far more often a slip than an intention.
///
/// # Errors
/// A [`TargetError`] whose message names the mend.
pub fn parse_target(text: &str) -> Result<IpNet, TargetError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(TargetError::Empty);
    }
    if text.len() > MAX_TARGET_TEXT_BYTES {
        return Err(TargetError::TooLong { bytes: text.len() });
    }
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let ip: IpAddr =
        address.parse().map_err(|_| TargetError::NotAnAddress { found: printable(address) })?;
    let max = if ip.is_ipv4() { 32 } else { 128 };
    let Some(prefix) = prefix else { return Ok(host_net(ip)) };
    let bad_prefix = || TargetError::PrefixLength { found: printable(prefix), max };
    if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad_prefix());
    }
    let len: u8 = prefix.parse().map_err(|_| bad_prefix())?;
    let net = IpNet::new(ip, len).map_err(|_| bad_prefix())?;
    if net.trunc() != net {
        return Err(TargetError::HostBits {
            found: printable(text),
            network: fold_net(net.trunc()),
            host: fold(ip),
        });
    }
    Ok(fold_net(net))
}

/// A target as people write it: a bare address for a single host, a CIDR otherwise.
#[must_use]
pub fn display_target(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// First address of a network as a number in its family's width.
#[must_use]
pub fn first_bits(net: &IpNet) -> u128 {
    match net {
        IpNet::V4(v4) => u128::from(u32::from(v4.network())),
        IpNet::V6(v6) => u128::from(v6.network()),
    }
}

/// The inverse of [`first_bits`]: `None` when the length or the bits do not fit the family.
#[must_use]
pub fn net_from_bits(is_v4: bool, bits: u128, prefix_len: u8) -> Option<IpNet> {
    let net = if is_v4 {
        IpNet::V4(Ipv4Net::new(Ipv4Addr::from(u32::try_from(bits).ok()?), prefix_len).ok()?)
    } else {
        IpNet::V6(Ipv6Net::new(Ipv6Addr::from(bits), prefix_len).ok()?)
    };
    (net.trunc() == net).then_some(net)
}

/// Control bytes never reach a terminal or a log, and an error message stays short.
fn printable(text: &str) -> String {
    text.chars().take(MAX_TARGET_TEXT_BYTES).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn target(text: &str, expected: &str) {
        assert_eq!(parse_target(text).expect(text).to_string(), expected);
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        assert_eq!(parse_target(text).expect_err(text).to_string(), expected);
    }

    #[test]
    fn targets_are_read_and_folded() {
        target("203.0.113.7", "203.0.113.7/32");
        target(" 203.0.113.0/24\n", "203.0.113.0/24");
        target("::/0", "::/0");
        target("2001:DB8::/32", "2001:db8::/32");
        target("::ffff:203.0.113.7", "203.0.113.7/32");
        target("::ffff:203.0.113.0/120", "203.0.113.0/24");
        target("::ffff:0:0/96", "0.0.0.0/0");
        target("::ffff:0:0/95".trim_end_matches("/95"), "0.0.0.0/32");
    }

    #[test]
    fn bad_targets_say_how_to_mend_them() {
        refused("10.0.0.0/33", "prefix length '/33' is out of range: expected /0 to /32");
        refused("10.0.0.0/+8", "prefix length '/+8' is out of range: expected /0 to /32");
        refused("2001:db8::/129", "prefix length '/129' is out of range: expected /0 to /128");
        refused(
            "10.0.0.1/8",
            "'10.0.0.1/8' has bits set beyond its prefix: write 10.0.0.0/8 for the network or 10.0.0.1 for the single address",
        );
        refused(
            "evil\u{1b}[31m",
            "'evil\\u{1b}[31m' is not an IP address: expected one such as 192.0.2.7 or 2001:db8::1, or a CIDR such as 192.0.2.0/24",
        );
        refused(
            "",
            "empty target: expected an IP address or a CIDR such as 192.0.2.7 or 2001:db8::/32",
        );
        assert_eq!(parse_target(&"1".repeat(65)).unwrap_err(), TargetError::TooLong { bytes: 65 });
    }

    #[test]
    fn peers_are_socket_addresses_or_nothing() {
        assert_eq!(parse_peer(b"192.0.2.1:4711"), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(parse_peer(b"[2001:db8::1]:80"), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(parse_peer(b"[::ffff:192.0.2.1]:80"), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(parse_peer(b"2001:db8::1"), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(parse_peer(b"/var/run/envoy.sock"), None);
        assert_eq!(parse_peer(b"envoy://internal_client_address/"), None);
        assert_eq!(parse_peer(b"\xff\xfe"), None);
        assert_eq!(parse_peer(b""), None);
    }
}
