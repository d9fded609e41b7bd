//! What a record may say of the person behind it.
//!
//! | module | owns |
//! |---|---|
//! | here | [`AddressForm`], truncation |
//! | [`settings`] | what a proxy is configured to tell, which ways to opt out it respects |
//! | [`disguise`] | their application to a record, before it is written down |
//! | [`pseudonym`] | keys and reversible pseudonyms (ipcrypt) |
//! | [`agent`] | user agents reduced to families |
//! | [`report`] | what a proxy says of its settings |
//!
//! Invariant: what is not an address as the client has it says so. An address travels with its
//! [`AddressForm`]; nothing may block, locate or compare a pseudonym as if it were an address.
//!
//! What this module does not do: it makes no keys, keeps none beyond its own values, and
//! claims no anonymity. Who has the key can read a pseudonym; a truncated address still names a
//! network.

pub mod agent;
pub mod disguise;
pub mod pseudonym;
pub mod report;
pub mod settings;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use pseudonym::{Key, KeyError, KeyId, Pseudonymizer, Scheme};

use crate::address::fold;

/// What an address of a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum AddressForm {
    /// The client's address.
    #[default]
    Full = 0,
    /// The first address of the client's network: the rest was cut off and is gone.
    Truncated = 1,
    /// A pseudonym that the key (see [`KeyId`]) turns back into the address.
    Pseudonym = 2,
}

impl AddressForm {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 3] = [Self::Full, Self::Truncated, Self::Pseudonym];

    /// The form of a wire code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The word used in the API and the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Truncated => "truncated",
            Self::Pseudonym => "pseudonym",
        }
    }

    /// The form of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.as_str() == word)
    }
}

/// Keeps the first `v4_bits` of an IPv4 address and the first `v6_bits` of an IPv6 address;
/// the rest becomes zero. More bits than the family has keep everything. An IPv4-mapped address
/// is folded first and counts as IPv4.
#[must_use]
pub fn truncate(ip: IpAddr, v4_bits: u8, v6_bits: u8) -> IpAddr {
    match fold(ip) {
        IpAddr::V4(ip) => {
            let dropped = 32u32.saturating_sub(u32::from(v4_bits));
            let mask = u32::MAX.checked_shl(dropped).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(ip) & mask))
        }
        IpAddr::V6(ip) => {
            let dropped = 128u32.saturating_sub(u32::from(v6_bits));
            let mask = u128::MAX.checked_shl(dropped).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(ip) & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[track_caller]
    fn truncated(ip: &str, bits: (u8, u8), expected: &str) {
        let ip: IpAddr = ip.parse().unwrap();
        assert_eq!(truncate(ip, bits.0, bits.1).to_string(), expected);
    }

    #[test]
    fn truncation_keeps_the_network_only() {
        truncated("203.0.113.7", (24, 48), "203.0.113.0");
        truncated("203.0.113.7", (16, 48), "203.0.0.0");
        truncated("203.0.113.7", (20, 48), "203.0.112.0");
        truncated("2001:db8:1:2:3:4:5:6", (24, 48), "2001:db8:1::");
        truncated("2001:db8:ffff::1", (24, 33), "2001:db8:8000::");
        truncated("::ffff:203.0.113.7", (24, 48), "203.0.113.0");
    }

    #[test]
    fn no_bits_keep_nothing_and_too_many_keep_all() {
        truncated("203.0.113.7", (0, 0), "0.0.0.0");
        truncated("2001:db8::1", (0, 0), "::");
        truncated("203.0.113.7", (32, 128), "203.0.113.7");
        truncated("203.0.113.7", (255, 255), "203.0.113.7");
        truncated("2001:db8::1", (255, 255), "2001:db8::1");
    }

    #[test]
    fn words_and_codes_name_the_same_forms() {
        for form in AddressForm::ALL {
            assert_eq!(AddressForm::from_code(form as u8), Some(form));
            assert_eq!(AddressForm::from_word(form.as_str()), Some(form));
        }
        assert_eq!(AddressForm::from_code(3), None);
        assert_eq!(AddressForm::from_word("raw"), None);
    }
}
