//! Pseudonyms of addresses after draft-denis-ipcrypt, by the crate `ipcrypt-rs`.
//!
//! Both schemes are reversible with the key: a pseudonym is still personal data of whom the
//! key leads back to. What the key protects is gone when the key is destroyed.
//!
//! What is refused: a key whose halves are equal (the draft forbids it for `ipcrypt-pfx`). No
//! message and no `Debug` output repeats a key.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr};

use ipcrypt_rs::{Ipcrypt, IpcryptPfx};

use crate::address::fold;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// Why a key is refused. Says nothing of what was found beyond its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// Not 64 characters long.
    Length {
        /// Characters found.
        found: usize,
    },
    /// A character that is no hexadecimal digit.
    NotHex,
    /// The first 16 bytes equal the last 16.
    EqualHalves,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { found } => write!(
                f,
                "found a key of {found} characters: expected 64 hexadecimal digits (32 bytes), \
                 such as `openssl rand -hex 32` prints"
            ),
            Self::NotHex => f.write_str(
                "found a key with a character that is no hexadecimal digit: expected 64 of them \
                 (32 bytes), such as `openssl rand -hex 32` prints",
            ),
            Self::EqualHalves => f.write_str(
                "found a key whose two halves are equal, which protects nothing: make one with \
                 `openssl rand -hex 32`",
            ),
        }
    }
}

impl core::error::Error for KeyError {}

/// A key that was checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY_BYTES]);

impl Key {
    /// Takes a key as bytes.
    ///
    /// # Errors
    /// [`KeyError::EqualHalves`].
    pub fn new(bytes: [u8; KEY_BYTES]) -> Result<Self, KeyError> {
        let (first, second) = bytes.split_at(KEY_BYTES / 2);
        if first == second { Err(KeyError::EqualHalves) } else { Ok(Self(bytes)) }
    }

    /// Reads a key of 64 hexadecimal digits, in either case; space around them is ignored.
    ///
    /// # Errors
    /// A [`KeyError`]; it does not repeat the text.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let text = text.trim().as_bytes();
        if text.len() != 2 * KEY_BYTES {
            return Err(KeyError::Length { found: text.len() });
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(KeyError::NotHex);
        let mut bytes = [0; KEY_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            let mut value = 0;
            for &found in pair {
                value = value << 4 | digit(found)?;
            }
            *byte = value as u8;
        }
        Self::new(bytes)
    }

    /// The bytes; whoever asks for them keeps them secret.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// How pseudonyms are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scheme {
    /// `ipcrypt-pfx`: two addresses that share their first n bits have pseudonyms that share
    /// their first n bits, so that networks can still be counted. The family stays.
    #[default]
    Prefix,
    /// `ipcrypt-deterministic` under the first half of the key: the same address has the same
    /// pseudonym, and nothing else is told, not even the family (it looks like IPv6).
    Deterministic,
}

impl Scheme {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Prefix, Self::Deterministic];

    /// The word used in configurations.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prefix => "pfx",
            Self::Deterministic => "deterministic",
        }
    }
}

/// Names a key and its scheme without betraying the key: the last 32 bits of the pseudonym of
/// the IPv6 address `::`, which no client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 4]);

impl KeyId {
    /// Reads what [`fmt::Display`] writes: eight hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let fits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        fits.then(|| u32::from_str_radix(text, 16).ok()).flatten().map(|id| Self(id.to_be_bytes()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

/// Makes and reads the pseudonyms of one key.
pub struct Pseudonymizer {
    cipher: Cipher,
    scheme: Scheme,
    id: KeyId,
}

enum Cipher {
    Prefix(Box<IpcryptPfx>),
    Deterministic(Box<Ipcrypt>),
}

impl Pseudonymizer {
    /// Pseudonyms that keep prefixes ([`Scheme::Prefix`]).
    ///
    /// # Errors
    /// [`KeyError::EqualHalves`].
    pub fn new(key: &[u8; KEY_BYTES]) -> Result<Self, KeyError> {
        Ok(Self::of(&Key::new(*key)?, Scheme::Prefix))
    }

    /// Pseudonyms of a scheme.
    #[must_use]
    pub fn of(key: &Key, scheme: Scheme) -> Self {
        let cipher = match scheme {
            Scheme::Prefix => Cipher::Prefix(Box::new(IpcryptPfx::new(key.0))),
            Scheme::Deterministic => {
                let mut half = [0; Ipcrypt::KEY_BYTES];
                half.iter_mut().zip(key.0).for_each(|(to, from)| *to = from);
                Cipher::Deterministic(Box::new(Ipcrypt::new(half)))
            }
        };
        let mut this = Self { cipher, scheme, id: KeyId([0; 4]) };
        this.id = this.fingerprint();
        this
    }

    /// The one of a key's schemes whose id this is.
    #[must_use]
    pub fn with_id(key: &Key, id: KeyId) -> Option<Self> {
        Scheme::ALL.into_iter().map(|scheme| Self::of(key, scheme)).find(|made| made.id == id)
    }

    /// The pseudonym of an address, folded first. The same address has the same pseudonym.
    #[must_use]
    pub fn pseudonym(&self, ip: IpAddr) -> IpAddr {
        let ip = fold(ip);
        match &self.cipher {
            Cipher::Prefix(cipher) => cipher.encrypt_ipaddr(ip),
            Cipher::Deterministic(cipher) => cipher.encrypt_ipaddr(ip),
        }
    }

    /// The address of a pseudonym of this key and scheme. Of any other it is an address that
    /// means nothing: compare [`Self::key_id`] first.
    #[must_use]
    pub fn reveal(&self, pseudonym: IpAddr) -> IpAddr {
        fold(match &self.cipher {
            Cipher::Prefix(cipher) => cipher.decrypt_ipaddr(pseudonym),
            Cipher::Deterministic(cipher) => cipher.decrypt_ipaddr(pseudonym),
        })
    }

    /// Names the key and the scheme.
    #[must_use]
    pub const fn key_id(&self) -> KeyId {
        self.id
    }

    /// How pseudonyms are made.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    fn fingerprint(&self) -> KeyId {
        let bits = match self.pseudonym(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) {
            IpAddr::V4(ip) => u32::from(ip),
            IpAddr::V6(ip) => u128::from(ip) as u32,
        };
        KeyId(bits.to_be_bytes())
    }
}

impl fmt::Debug for Pseudonymizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pseudonymizer")
            .field("scheme", &self.scheme)
            .field("key_id", &format_args!("{}", self.id))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// The keys of the draft's vectors.
    const FIRST: &str = "0123456789abcdeffedcba98765432101032547698badcfeefcdab8967452301";
    const SECOND: &str = "2b7e151628aed2a6abf7158809cf4f3ca9f5ba40db214c3798f2e1c23456789a";

    fn made(key: &str, scheme: Scheme) -> Pseudonymizer {
        Pseudonymizer::of(&Key::from_hex(key).unwrap(), scheme)
    }

    #[track_caller]
    fn vector(key: &str, scheme: Scheme, address: &str, expected: &str) {
        let (ip, made) = (address.parse().unwrap(), made(key, scheme));
        assert_eq!(made.pseudonym(ip).to_string(), expected);
        assert_eq!(made.reveal(made.pseudonym(ip)), ip);
    }

    #[test]
    fn the_vectors_of_the_draft_for_prefix_preserving_pseudonyms() {
        for (address, pseudonym) in [
            ("0.0.0.0", "151.82.155.134"),
            ("255.255.255.255", "94.185.169.89"),
            ("192.0.2.1", "100.115.72.131"),
            ("2001:db8::1", "c180:5dd4:2587:3524:30ab:fa65:6ab6:f88"),
        ] {
            vector(FIRST, Scheme::Prefix, address, pseudonym);
        }
        for (address, pseudonym) in [
            ("10.0.0.47", "19.214.210.244"),
            ("10.0.0.129", "19.214.210.80"),
            ("10.0.0.234", "19.214.210.30"),
        ] {
            vector(SECOND, Scheme::Prefix, address, pseudonym);
        }
    }

    #[test]
    fn the_vectors_of_the_draft_for_deterministic_pseudonyms() {
        // Their keys have 16 bytes: the first half of ours.
        for (half, address, pseudonym) in [
            (
                "0123456789abcdeffedcba9876543210",
                "0.0.0.0",
                "bde9:6789:d353:824c:d7c6:f58a:6bd2:26eb",
            ),
            (
                "1032547698badcfeefcdab8967452301",
                "255.255.255.255",
                "aed2:92f6:ea23:58c3:48fd:8b8:74e8:45d8",
            ),
            (
                "2b7e151628aed2a6abf7158809cf4f3c",
                "192.0.2.1",
                "1dbd:c1b9:fff1:7586:7d0b:67b4:e76e:4777",
            ),
        ] {
            let key = format!("{half}{}", "5a".repeat(16));
            vector(&key, Scheme::Deterministic, address, pseudonym);
        }
    }

    #[test]
    fn a_mapped_address_has_the_pseudonym_of_the_ipv4_address() {
        for scheme in Scheme::ALL {
            let made = made(FIRST, scheme);
            let (mapped, plain) =
                ("::ffff:192.0.2.1".parse().unwrap(), "192.0.2.1".parse().unwrap());
            assert_eq!(made.pseudonym(mapped), made.pseudonym(plain));
            assert_eq!(made.reveal(made.pseudonym(mapped)), plain);
        }
    }

    #[test]
    fn bad_keys_are_refused_without_being_repeated() {
        #[track_caller]
        fn refused(key: &str, expected: &str) {
            assert_eq!(Key::from_hex(key).unwrap_err().to_string(), expected);
        }
        refused(
            "abcd",
            "found a key of 4 characters: expected 64 hexadecimal digits (32 bytes), such as \
             `openssl rand -hex 32` prints",
        );
        refused(
            &"+f".repeat(32),
            "found a key with a character that is no hexadecimal digit: expected 64 of them \
             (32 bytes), such as `openssl rand -hex 32` prints",
        );
        refused(
            &"ab".repeat(32),
            "found a key whose two halves are equal, which protects nothing: make one with \
             `openssl rand -hex 32`",
        );
        assert_eq!(Pseudonymizer::new(&[7; 32]).unwrap_err(), KeyError::EqualHalves);
    }

    #[test]
    fn nothing_printed_betrays_a_key() {
        let key = Key::from_hex(FIRST).unwrap();
        assert_eq!(format!("{key:?}"), "Key(…)");
        let printed = format!("{:?}", Pseudonymizer::of(&key, Scheme::Prefix));
        assert_eq!(printed, "Pseudonymizer { scheme: Prefix, key_id: 03050097, .. }");
    }

    #[test]
    fn an_id_names_key_and_scheme() {
        let key = Key::from_hex(FIRST).unwrap();
        for scheme in Scheme::ALL {
            let id = Pseudonymizer::of(&key, scheme).key_id();
            assert_eq!(Pseudonymizer::with_id(&key, id).unwrap().scheme(), scheme);
            assert_eq!(KeyId::from_hex(&id.to_string()), Some(id));
        }
        let other = made(SECOND, Scheme::Prefix).key_id();
        assert!(Pseudonymizer::with_id(&key, other).is_none());
        assert_eq!(KeyId::from_hex("+1234567"), None);
    }

    #[cfg(not(target_family = "wasm"))]
    mod laws {
        use super::*;
        use core::net::Ipv4Addr;
        use proptest::prelude::*;

        fn key() -> impl Strategy<Value = Key> {
            any::<[u8; KEY_BYTES]>().prop_filter_map("halves differ", |key| Key::new(key).ok())
        }

        fn address() -> impl Strategy<Value = IpAddr> {
            prop_oneof![
                any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
                any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
                any::<u32>().prop_map(|bits| IpAddr::V6(Ipv4Addr::from(bits).to_ipv6_mapped())),
            ]
        }

        proptest! {
            #[test]
            fn revealing_inverts(key in key(), ip in address()) {
                for scheme in Scheme::ALL {
                    let made = Pseudonymizer::of(&key, scheme);
                    prop_assert_eq!(made.reveal(made.pseudonym(ip)), fold(ip));
                }
            }

            #[test]
            fn ipv4_prefixes_are_preserved_exactly(key in key(), ip: u32, shared in 0u32..32, rest: u32) {
                let made = Pseudonymizer::of(&key, Scheme::Prefix);
                // Shares exactly `shared` bits: the next one is flipped, what follows is random.
                let flipped = 1u32 << (31 - shared);
                let other = (ip ^ flipped) ^ (rest & (flipped - 1));
                let of = |bits: u32| match made.pseudonym(IpAddr::V4(Ipv4Addr::from(bits))) {
                    IpAddr::V4(ip) => u32::from(ip),
                    IpAddr::V6(_) => panic!("the family stays"),
                };
                prop_assert_eq!((of(ip) ^ of(other)).leading_zeros(), shared);
            }

            #[test]
            fn ipv6_prefixes_are_preserved_exactly(key in key(), ip: u128, shared in 0u32..128, rest: u128) {
                // Outside of ::ffff:0:0/96, which is IPv4.
                let ip = ip | 1 << 127;
                let made = Pseudonymizer::of(&key, Scheme::Prefix);
                let flipped = 1u128 << (127 - shared);
                let other = (ip ^ flipped) ^ (rest & (flipped - 1));
                prop_assume!(other >> 32 != 0xffff);
                let of = |bits: u128| match made.pseudonym(IpAddr::V6(Ipv6Addr::from(bits))) {
                    IpAddr::V6(ip) => u128::from(ip),
                    IpAddr::V4(_) => panic!("the family stays"),
                };
                prop_assert_eq!((of(ip) ^ of(other)).leading_zeros(), shared);
            }
        }
    }
}
