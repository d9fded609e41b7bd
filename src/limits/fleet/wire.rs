//! A report of what was taken, and its answer.
//!
//! ```text
//! report = "IPWF" | version u8 | 1 u8 | 0 u16 | origin u64 | worker u64 | number u64 | count u32
//!          | (bucket u128 | cost, µs i64 | horizon, µs u64)* | crc32 u32 of all before it
//! answer = "IPWF" | version u8 | 2 u8 | 0 u16 | number u64 | secret [16] | count u32
//!          | (what the bucket owes, µs u64)*, in the report's order | crc32 u32
//! ```
//!
//! Little-endian. `origin` is one for all workers of an Envoy; (`worker`, `number`) names a report,
//! so that one that comes twice is counted once. A report of no buckets asks for the secret.

use core::fmt;

use super::account::Taken;
use super::{BucketId, SECRET_BYTES, Secret};
use crate::bytes::{Malformed, Reader};

/// Media type of both.
pub const CONTENT_TYPE: &str = "application/vnd.ipwarden.consumption";
/// First bytes of both.
pub const MAGIC: [u8; 4] = *b"IPWF";
/// Version written, and the only one read so far.
pub const VERSION: u8 = 1;
/// Most buckets of one report: the busiest.
pub const MAX_BUCKETS: usize = 1_024;
/// Largest report.
pub const MAX_REPORT_BYTES: usize = 40 + 32 * MAX_BUCKETS;

const REPORT: u8 = 1;
const ANSWER: u8 = 2;

/// What a proxy reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The Envoy.
    pub origin: u64,
    /// The worker's life.
    pub worker: u64,
    /// Number of the report, growing.
    pub number: u64,
    /// Each bucket once.
    pub taken: Vec<Taken>,
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Number of the report.
    pub number: u64,
    /// The key of the hash that names buckets.
    pub secret: Secret,
    /// What each bucket of the report owes, in microseconds.
    pub owes_us: Vec<u64>,
}

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// Does not start with the magic bytes, or is the other message.
    NotThis,
    /// Written by a version this one does not know.
    Version {
        /// Version found.
        found: u8,
    },
    /// More buckets than [`MAX_BUCKETS`].
    TooMany {
        /// How many it says there are.
        found: u32,
    },
    /// Bytes changed on the way.
    Checksum,
    /// Truncated, or longer than it says.
    Malformed,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotThis => f.write_str("not a message about consumption"),
            Self::Version { found } => {
                write!(f, "consumption version {found} is not known here: expected {VERSION}")
            }
            Self::TooMany { found } => {
                write!(f, "consumption of {found} buckets: expected at most {MAX_BUCKETS}")
            }
            Self::Checksum => f.write_str("consumption is corrupt: its checksum does not match"),
            Self::Malformed => f.write_str("consumption is truncated or malformed"),
        }
    }
}

impl core::error::Error for DecodeError {}

impl From<Malformed> for DecodeError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Report {
    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(REPORT, 40 + 32 * self.taken.len());
        for number in [self.origin, self.worker, self.number] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&(self.taken.len() as u32).to_le_bytes());
        for taken in &self.taken {
            out.extend_from_slice(&taken.id.0.to_le_bytes());
            out.extend_from_slice(&taken.cost_us.to_le_bytes());
            out.extend_from_slice(&taken.horizon_us.to_le_bytes());
        }
        end(out)
    }

    /// Reads a message that must fill `bytes`.
    ///
    /// # Errors
    /// A [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = open(bytes, REPORT)?;
        let (origin, worker, number) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let count = count(&mut reader)?;
        let mut taken = Vec::with_capacity(count);
        for _ in 0..count {
            taken.push(Taken {
                id: BucketId(u128::from_le_bytes(reader.array()?)),
                cost_us: i64::from_le_bytes(reader.array()?),
                horizon_us: reader.u64()?,
            });
        }
        close(&reader)?;
        Ok(Self { origin, worker, number, taken })
    }
}

impl Answer {
    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(ANSWER, 40 + 8 * self.owes_us.len());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.secret);
        out.extend_from_slice(&(self.owes_us.len() as u32).to_le_bytes());
        for owes_us in &self.owes_us {
            out.extend_from_slice(&owes_us.to_le_bytes());
        }
        end(out)
    }

    /// Reads a message that must fill `bytes`.
    ///
    /// # Errors
    /// A [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = open(bytes, ANSWER)?;
        let number = reader.u64()?;
        let secret = reader.array::<SECRET_BYTES>()?;
        let count = count(&mut reader)?;
        let mut owes_us = Vec::with_capacity(count);
        for _ in 0..count {
            owes_us.push(reader.u64()?);
        }
        close(&reader)?;
        Ok(Self { number, secret, owes_us })
    }
}

fn begin(kind: u8, bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, kind, 0, 0]);
    out
}

fn end(mut out: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// A reader behind the head; whoever reads on ends with [`close`].
fn open(bytes: &[u8], kind: u8) -> Result<Reader<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    if reader.array::<4>().map_err(|_| DecodeError::NotThis)? != MAGIC {
        return Err(DecodeError::NotThis);
    }
    let found = reader.u8()?;
    if found != VERSION {
        return Err(DecodeError::Version { found });
    }
    if reader.u8()? != kind {
        return Err(DecodeError::NotThis);
    }
    let (covered, crc) = bytes.split_last_chunk::<4>().ok_or(DecodeError::Malformed)?;
    if crc32fast::hash(covered) != u32::from_le_bytes(*crc) {
        return Err(DecodeError::Checksum);
    }
    if reader.u16()? != 0 {
        return Err(DecodeError::Malformed);
    }
    Ok(reader)
}

fn count(reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
    let found = reader.u32()?;
    match usize::try_from(found) {
        Ok(count) if count <= MAX_BUCKETS => Ok(count),
        _ => Err(DecodeError::TooMany { found }),
    }
}

/// Only the checksum, which [`open`] has looked at, may be left.
fn close(reader: &Reader<'_>) -> Result<(), DecodeError> {
    if reader.rest().len() == 4 { Ok(()) } else { Err(DecodeError::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(buckets: u128) -> Report {
        let taken = |n: u128| Taken { id: BucketId(n << 100), cost_us: -7, horizon_us: 9 };
        Report { origin: 1, worker: 2, number: 3, taken: (0..buckets).map(taken).collect() }
    }

    #[test]
    fn messages_round_trip_and_every_damaged_byte_is_noticed() {
        for buckets in [0, 1, MAX_BUCKETS as u128] {
            let report = report(buckets);
            assert_eq!(Report::decode(&report.encode()), Ok(report.clone()));
            assert!(report.encode().len() <= MAX_REPORT_BYTES);
        }
        let answer = Answer { number: 3, secret: [5; 16], owes_us: vec![0, u64::MAX] };
        assert_eq!(Answer::decode(&answer.encode()), Ok(answer.clone()));
        for message in [report(2).encode(), answer.encode()] {
            for at in 0..message.len() {
                let mut damaged = message.clone();
                damaged[at] ^= 0x20;
                let read = (Report::decode(&damaged).is_ok(), Answer::decode(&damaged).is_ok());
                assert_eq!(read, (false, false), "byte {at}");
                let cut = &message[..at];
                assert!(Report::decode(cut).is_err() && Answer::decode(cut).is_err(), "{at}");
            }
        }
        assert_eq!(Report::decode(&answer.encode()), Err(DecodeError::NotThis));
        assert_eq!(Answer::decode(&report(1).encode()), Err(DecodeError::NotThis));
    }

    #[test]
    fn a_later_version_and_too_many_buckets_are_named() {
        let mut later = report(0).encode();
        later[4] = 2;
        assert_eq!(
            Report::decode(&later).unwrap_err().to_string(),
            "consumption version 2 is not known here: expected 1"
        );
        let many = report(MAX_BUCKETS as u128 + 1).encode();
        assert_eq!(
            Report::decode(&many).unwrap_err().to_string(),
            "consumption of 1025 buckets: expected at most 1024"
        );
        let mut longer = report(1).encode();
        longer.truncate(longer.len() - 4);
        longer.push(0);
        assert_eq!(Report::decode(&end(longer)), Err(DecodeError::Malformed));
    }
}
