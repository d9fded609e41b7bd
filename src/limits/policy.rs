//! What the control plane adds to the configuration, and its message: changes to limits, and
//! decisions by region.
//!
//! A policy lies over the plugin's own limits: a limit of the same name takes the place of
//! the configured one, another name adds one, a bare mode changes nothing but the mode.
//! Without a policy, or with an empty one, the plugin's own limits are in force. Decisions by
//! region ([`crate::geo::regions`]) travel here and not with those by address because they are
//! few, and no table is made of them; an absent member is an empty one.
//!
//! ```text
//! message = "IPWL" | version u8 | 0 u8 | 0 u16 | number u64 | length u32
//!           | crc32 u32 of what is before it and of the payload | payload (JSON)
//! payload = {"limits": [<limit as in the configuration> | {"name": …, "mode": …}, …],
//!            "resets": [{"id": 7, "key": "203.0.113.7", "limit": "login"}, …],
//!            "regions": [{"id": 9, "region": "country:FR", "path": "/admin",
//!                         "mode": "shadow", "until": 1767225600}, …]}
//! ```

use core::fmt;

use super::{Limit, Mode};
use crate::bytes::{Malformed, Reader};
use crate::geo::regions;

/// First bytes of a message.
pub const MAGIC: [u8; 4] = *b"IPWL";
/// Newest version read. In version 1 no limit has a `scope`: filters of 0.1 know none.
pub const VERSION: u8 = 2;
/// Media type by which who polls says up to which version it reads; 1 where it says nothing.
pub const CONTENT_TYPE: &str = "application/vnd.ipwarden.limits";
/// Largest payload.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// Most resets that travel with a policy: the latest ones.
pub const MAX_RESETS: usize = 256;

/// Bytes before the payload.
const HEADER_BYTES: usize = 24;

/// A change to one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Override {
    /// A whole limit.
    Whole(Box<Limit>),
    /// Only the mode of a configured one. Without effect where no such limit is configured.
    Mode {
        /// Name of the limit.
        name: String,
        /// Its new mode.
        mode: Mode,
    },
}

/// A bucket that is to be full again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// Grows with each reset of one control plane: a proxy does each once.
    pub id: u64,
    /// Whose: an address or CIDR, `identity:<identity>` or `header:<value>`.
    pub key: String,
    /// In which limit; `None`: in all.
    pub limit: Option<String>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Changes to limits, each name once.
    pub limits: Vec<Override>,
    /// The latest resets, oldest first.
    pub resets: Vec<Reset>,
    /// Decisions by region, at most [`regions::MAX_RULES`].
    pub regions: Vec<regions::Rule>,
}

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// Does not start with the magic bytes.
    NotLimits,
    /// Written by a version this one does not know.
    Version {
        /// Version found.
        found: u8,
    },
    /// Bytes changed on the way.
    Checksum,
    /// Larger than [`MAX_PAYLOAD_BYTES`].
    TooLarge,
    /// Truncated, or a field is out of its bounds.
    Malformed,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLimits => f.write_str("not a limits message"),
            Self::Version { found } => {
                write!(
                    f,
                    "limits message version {found} is not known here: expected 1 to {VERSION}"
                )
            }
            Self::Checksum => f.write_str("limits message is corrupt: its checksum does not match"),
            Self::TooLarge => {
                write!(f, "limits message is too large: at most {MAX_PAYLOAD_BYTES} bytes")
            }
            Self::Malformed => f.write_str("limits message is truncated or malformed"),
        }
    }
}

impl core::error::Error for DecodeError {}

impl From<Malformed> for DecodeError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// A message whose checksum is right; its payload is read by [`crate::config::check_policy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Number of the policy: the revision of its last change, 0 for none ever made.
    pub number: u64,
    /// JSON.
    pub payload: &'a [u8],
}

/// Encodes a policy in version 1.
#[must_use]
pub fn encode(number: u64, payload: &[u8]) -> Vec<u8> {
    encode_in(1, number, payload)
}

/// Encodes a policy in the version that its payload is of.
#[must_use]
pub fn encode_in(version: u8, number: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[version, 0, 0, 0]);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    let crc = checksum(&out, payload);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
    out
}

/// Reads a message that must fill `bytes`.
///
/// # Errors
/// A [`DecodeError`]; nothing of a bad message is used.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    if reader.array::<4>().map_err(|_| DecodeError::NotLimits)? != MAGIC {
        return Err(DecodeError::NotLimits);
    }
    let found = reader.u8()?;
    if !(1..=VERSION).contains(&found) {
        return Err(DecodeError::Version { found });
    }
    if reader.array::<3>()? != [0; 3] {
        return Err(DecodeError::Malformed);
    }
    let number = reader.u64()?;
    let length = reader.u32()? as usize;
    if length > MAX_PAYLOAD_BYTES {
        return Err(DecodeError::TooLarge);
    }
    let covered = bytes.get(..HEADER_BYTES - 4).ok_or(DecodeError::Malformed)?;
    let crc = reader.u32()?;
    let payload = reader.take(length)?;
    if !reader.is_empty() {
        return Err(DecodeError::Malformed);
    }
    if checksum(covered, payload) != crc {
        return Err(DecodeError::Checksum);
    }
    Ok(Message { number, payload })
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_round_trips_and_every_damaged_byte_is_noticed() {
        let message = encode(7, br#"{"limits":[]}"#);
        assert_eq!(decode(&message), Ok(Message { number: 7, payload: br#"{"limits":[]}"# }));
        for at in 0..message.len() {
            let mut damaged = message.clone();
            damaged[at] ^= 0x20;
            assert!(decode(&damaged).is_err(), "byte {at}");
            assert!(decode(&message[..at]).is_err(), "cut at {at}");
        }
        let mut longer = message;
        longer.push(0);
        assert_eq!(decode(&longer), Err(DecodeError::Malformed));
    }

    #[test]
    fn both_versions_are_read() {
        for version in [1, 2] {
            let message = encode_in(version, 7, b"{}");
            assert_eq!(decode(&message), Ok(Message { number: 7, payload: b"{}" }));
        }
        assert_eq!(encode(7, b"{}"), encode_in(1, 7, b"{}"));
    }

    #[test]
    fn a_later_version_and_an_oversized_payload_are_named() {
        let mut later = encode(1, b"{}");
        later[4] = 9;
        assert_eq!(decode(&later), Err(DecodeError::Version { found: 9 }));
        let huge = encode(1, &vec![b' '; MAX_PAYLOAD_BYTES + 1]);
        assert_eq!(
            decode(&huge).unwrap_err().to_string(),
            "limits message is too large: at most 262144 bytes"
        );
    }
}
