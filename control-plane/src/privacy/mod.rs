//! What the people behind addresses are owed: pseudonyms, retention, access, erasure.
//!
//! | module | owns |
//! |---|---|
//! | here | what a kept address is ([`Veil`], [`Kept`]), and how one is hidden ([`Hiding`]) |
//! | [`keys`] | the keys of pseudonyms on the disk: made, replaced, destroyed |
//! | [`mention`] | addresses in texts: found and taken out |
//! | [`retention`] | the hourly run: what is hidden and forgotten when |
//! | [`subjects`] | everything that is held on an address: told, erased |
//!
//! Invariant: an address that is not as it came carries its [`Veil`] wherever it goes; whoever
//! blocks or locates one asks for the address behind it first, or refuses.

pub mod keys;
pub mod mention;
pub mod retention;
pub mod subjects;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use ipwarden::address::fold;
use ipwarden::privacy::{AddressForm, KeyId, Pseudonymizer, truncate};

/// What an address is: as it came, cut, or a pseudonym of some key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Veil {
    /// As it came, cut, or a pseudonym.
    pub form: AddressForm,
    /// The key of a pseudonym, where the proxy named it.
    pub key: Option<KeyId>,
}

impl Veil {
    /// An address as it came.
    pub const NONE: Self = Self { form: AddressForm::Full, key: None };
    /// An address that was cut.
    pub const TRUNCATED: Self = Self { form: AddressForm::Truncated, key: None };

    /// A pseudonym of a key.
    #[must_use]
    pub const fn pseudonym(key: KeyId) -> Self {
        Self { form: AddressForm::Pseudonym, key: Some(key) }
    }

    /// Of a record of a batch: the key counts for pseudonyms only.
    #[must_use]
    pub fn of(form: AddressForm, key: Option<KeyId>) -> Self {
        Self { form, key: key.filter(|_| form == AddressForm::Pseudonym) }
    }

    /// Whether the address is as it came.
    #[must_use]
    pub fn is_none(self) -> bool {
        self.form == AddressForm::Full
    }

    /// The number under which stores keep the key; 0 for none.
    #[must_use]
    pub fn key_number(self) -> u32 {
        self.key.map_or(0, |key| u32::from_be_bytes(key.0))
    }

    /// The inverse of [`Self::key_number`] and the form's code; `None` for what is neither.
    #[must_use]
    pub fn of_numbers(form: u8, key: u32) -> Option<Self> {
        let key = (key != 0).then(|| KeyId(key.to_be_bytes()));
        Some(Self { form: AddressForm::from_code(form)?, key })
    }
}

/// An address, or the /64 of one, as a store holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kept {
    /// The bits as they are kept.
    pub ip: IpAddr,
    /// What they mean.
    pub veil: Veil,
}

/// How an address is hidden. Cheap to clone.
#[derive(Clone)]
pub enum Hiding {
    /// Replaced by its pseudonym.
    Pseudonym(Arc<Pseudonymizer>),
    /// Cut to its network.
    Truncate {
        /// Bits that IPv4 keeps.
        v4_bits: u8,
        /// Bits that IPv6 keeps.
        v6_bits: u8,
    },
}

impl Hiding {
    /// What an address becomes.
    #[must_use]
    pub fn hide(&self, ip: IpAddr) -> Kept {
        match self {
            Self::Pseudonym(key) => {
                Kept { ip: key.pseudonym(ip), veil: Veil::pseudonym(key.key_id()) }
            }
            Self::Truncate { v4_bits, v6_bits } => {
                Kept { ip: truncate(ip, *v4_bits, *v6_bits), veil: Veil::TRUNCATED }
            }
        }
    }
}

impl fmt::Debug for Hiding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pseudonym(key) => write!(f, "Pseudonym({})", key.key_id()),
            Self::Truncate { v4_bits, v6_bits } => write!(f, "Truncate(/{v4_bits}, /{v6_bits})"),
        }
    }
}

/// The network that a cut address stands for, as far as its zeros tell: whole bytes of it.
#[must_use]
pub fn network_of_cut(ip: IpAddr, v4_bits: u8, v6_bits: u8) -> IpNet {
    let ip = fold(ip);
    let bits = if ip.is_ipv4() { v4_bits } else { v6_bits };
    IpNet::new(ip, bits).map_or_else(|_| IpNet::from(ip), |net| net.trunc())
}

/// Forms as words in JSON.
pub(crate) mod form_word {
    use ipwarden::privacy::AddressForm;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub(crate) fn serialize<S: Serializer>(form: &AddressForm, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(form.as_str())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<AddressForm, D::Error> {
        let word = std::borrow::Cow::<'de, str>::deserialize(from)?;
        AddressForm::from_word(&word)
            .ok_or_else(|| D::Error::custom("expected full, truncated or pseudonym"))
    }
}

/// Whether an address is as it came: what JSON leaves out.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
pub(crate) fn is_full(form: &AddressForm) -> bool {
    *form == AddressForm::Full
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_veil_round_trips_through_the_numbers_of_a_store() {
        let veils = [Veil::NONE, Veil::TRUNCATED, Veil::pseudonym(KeyId([0xab, 0, 1, 2]))];
        for veil in veils {
            assert_eq!(Veil::of_numbers(veil.form as u8, veil.key_number()), Some(veil));
        }
        assert_eq!(Veil::of_numbers(3, 0), None);
        // A batch may name a key and carry a record that is no pseudonym.
        assert_eq!(Veil::of(AddressForm::Truncated, Some(KeyId([1; 4]))), Veil::TRUNCATED);
    }

    #[test]
    fn what_is_hidden_says_how() {
        let ip = "203.0.113.7".parse().unwrap();
        let cut = Hiding::Truncate { v4_bits: 24, v6_bits: 48 }.hide(ip);
        assert_eq!((cut.ip.to_string().as_str(), cut.veil), ("203.0.113.0", Veil::TRUNCATED));
        assert_eq!(network_of_cut(cut.ip, 24, 48).to_string(), "203.0.113.0/24");
        let mut key = [7; 32];
        key[0] = 1;
        let key = Arc::new(Pseudonymizer::new(&key).unwrap());
        let hidden = Hiding::Pseudonym(Arc::clone(&key)).hide(ip);
        assert_eq!(hidden.veil, Veil::pseudonym(key.key_id()));
        assert_eq!(key.reveal(hidden.ip), ip);
    }
}
