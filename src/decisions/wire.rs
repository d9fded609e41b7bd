//! Snapshot and delta messages.
//!
//! ```text
//! message  = header | frame*
//! header   = "IPWD" | version u8 | kind u8 | 0 u16 | epoch u64 | number u64 | base u64
//!            | created u32 | frames u32 | entries u32 | crc32 u32 of the header before it
//! frame    = "IPWF" | version u8 | kind u8 | 0 u16 | epoch u64 | number u64 | index u32
//!            | count u32 | length u32 | crc32 u32 of the frame header before it and the payload
//!            | payload
//! ```
//!
//! A frame is complete in itself: it names the revision it belongs to and its place in it.
//! Workers read frames one by one from shared data, so a table of a million entries loads
//! in small steps, and a frame of another revision in the same place is noticed.
//!
//! A snapshot's payload holds sorted entries, coded against the one before; a delta's holds
//! changes, each on its own. Every decoder here is bounded: it refuses what is truncated,
//! corrupt, over a bound, unsorted, or of a later version, and uses nothing of it.

use core::fmt;

use ipnet::IpNet;

use super::{Change, DecisionId, Entry, NEVER, Revision, Tier, UnixSeconds};
use crate::address::{first_bits, fold_net, net_from_bits};
use crate::bytes::{Malformed, Reader, put_varint, put_varint128, unzigzag, zigzag};

/// First bytes of a message.
pub const MAGIC: [u8; 4] = *b"IPWD";
/// First bytes of a frame.
pub const FRAME_MAGIC: [u8; 4] = *b"IPWF";
/// Version written, and the only one read so far.
pub const VERSION: u8 = 1;
/// Largest message: Envoy's cap on a callout's response is 32 MiB.
pub const MAX_MESSAGE_BYTES: usize = 32 * 1024 * 1024;
/// Entries in a frame: small enough to be worked off in one tick without a latency spike.
pub const FRAME_ENTRIES: usize = 32_768;
/// Most entries in a message; more could not be indexed by a table (see [`super::table`]).
pub const MAX_ENTRIES: usize = 8 * 1024 * 1024;
/// Content type of a message.
pub const CONTENT_TYPE: &str = "application/vnd.ipwarden.decisions";

/// Length of a message's header.
pub const HEADER_BYTES: usize = 48;
/// Length of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 40;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The whole set.
    Snapshot = 1,
    /// The steps from an earlier revision.
    Delta = 2,
}

/// Why a message or a frame is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// Does not start with the magic bytes.
    NotDecisions,
    /// Written by a version this one does not know.
    Version {
        /// Version found.
        found: u8,
    },
    /// Bytes changed on the way.
    Checksum,
    /// Larger than the bounds of this module.
    TooLarge,
    /// Entries are not in order.
    Unsorted,
    /// Truncated, or a field is out of its bounds.
    Malformed,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDecisions => f.write_str("not a decision message"),
            Self::Version { found } => {
                write!(f, "decision message version {found} is not known here: expected {VERSION}")
            }
            Self::Checksum => {
                f.write_str("decision message is corrupt: its checksum does not match")
            }
            Self::TooLarge => write!(
                f,
                "decision message is too large: at most {MAX_ENTRIES} entries in {MAX_MESSAGE_BYTES} bytes"
            ),
            Self::Unsorted => f.write_str("decision message is not in order"),
            Self::Malformed => f.write_str("decision message is truncated or malformed"),
        }
    }
}

impl core::error::Error for DecodeError {}

impl From<Malformed> for DecodeError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// A message's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the message is.
    pub kind: Kind,
    /// The revision that one has after applying it.
    pub revision: Revision,
    /// The revision number it starts from (delta), 0 for a snapshot.
    pub base: u64,
    /// The control plane's clock when it was made.
    pub created: UnixSeconds,
    /// Frames that follow.
    pub frames: u32,
    /// Entries or changes in all frames.
    pub entries: u32,
}

/// A frame, its checksum verified; its payload is decoded by [`Frame::entries`] or
/// [`Frame::changes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload holds.
    pub kind: Kind,
    /// The revision that the message leads to.
    pub revision: Revision,
    /// Place in the message, from 0.
    pub index: u32,
    /// Entries or changes in the payload.
    pub count: u32,
    payload: &'a [u8],
    /// The frame as it stands, header included.
    pub bytes: &'a [u8],
}

/// Encodes the whole set. `entries` must be sorted by [`Entry::sort_key`].
#[must_use]
pub fn encode_snapshot(revision: Revision, created: UnixSeconds, entries: &[Entry]) -> Vec<u8> {
    encode_snapshot_in(revision, created, entries, FRAME_ENTRIES)
}

/// The same in frames of at most so many entries (and of [`FRAME_ENTRIES`]).
#[must_use]
pub fn encode_snapshot_in(
    revision: Revision,
    created: UnixSeconds,
    entries: &[Entry],
    frame_entries: usize,
) -> Vec<u8> {
    let frames = entries.chunks(frame_entries.clamp(1, FRAME_ENTRIES));
    let header = Header {
        kind: Kind::Snapshot,
        revision,
        base: 0,
        created,
        frames: frames.len() as u32,
        entries: entries.len() as u32,
    };
    let mut out = Vec::with_capacity(HEADER_BYTES + entries.len() * 10);
    put_header(&mut out, &header);
    let mut payload = Vec::new();
    for (index, chunk) in frames.enumerate() {
        payload.clear();
        put_entries(&mut payload, chunk);
        put_frame(&mut out, Kind::Snapshot, revision, index as u32, chunk.len() as u32, &payload);
    }
    out
}

/// Encodes the steps from revision number `base` to `revision`.
#[must_use]
pub fn encode_delta(
    base: u64,
    revision: Revision,
    created: UnixSeconds,
    changes: &[Change],
) -> Vec<u8> {
    // A change of revision without a change for proxies still has a frame: readers of the
    // log move forward by frames.
    let frames = changes.chunks(FRAME_ENTRIES);
    let header = Header {
        kind: Kind::Delta,
        revision,
        base,
        created,
        frames: frames.len().max(1) as u32,
        entries: changes.len() as u32,
    };
    let mut out = Vec::with_capacity(HEADER_BYTES + FRAME_HEADER_BYTES + changes.len() * 16);
    put_header(&mut out, &header);
    let mut payload = Vec::new();
    for (index, chunk) in frames.enumerate() {
        payload.clear();
        for change in chunk {
            put_change(&mut payload, change);
        }
        put_frame(&mut out, Kind::Delta, revision, index as u32, chunk.len() as u32, &payload);
    }
    if changes.is_empty() {
        put_frame(&mut out, Kind::Delta, revision, 0, 0, &[]);
    }
    out
}

/// A message whose header and frames are in order; payloads are not decoded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its header.
    pub header: Header,
    /// Its frames in order, checksums verified.
    pub frames: Vec<Frame<'a>>,
}

/// Reads a message that must fill `bytes`, and verifies every checksum, every frame's place
/// and the totals.
///
/// # Errors
/// A [`DecodeError`]; nothing of a bad message is used.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let (message, rest) = decode_first(bytes)?;
    if rest.is_empty() { Ok(message) } else { Err(DecodeError::Malformed) }
}

/// What the body of an answer holds of decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body<'a> {
    /// A snapshot or a delta.
    pub message: Option<Message<'a>>,
    /// The delta from that snapshot to the present.
    pub then: Option<Message<'a>>,
    /// What follows: a message about limits, or nothing.
    pub rest: &'a [u8],
}

/// Reads the body of an answer: one message, or a snapshot followed by the delta that leads
/// from it to the present (so that a control plane need not encode a snapshot for each
/// revision, and nobody ever sees an older set than before), or none; then whatever does not
/// start as a message of decisions.
///
/// # Errors
/// A [`DecodeError`]; nothing of a bad body is used.
pub fn decode_body(bytes: &[u8]) -> Result<Body<'_>, DecodeError> {
    let mut body = Body { message: None, then: None, rest: bytes };
    if bytes.starts_with(&MAGIC) {
        let (first, rest) = decode_first(bytes)?;
        (body.message, body.rest) = (Some(first), rest);
    }
    if let Some(first) = &body.message {
        (body.then, body.rest) = decode_rest(&first.header, body.rest)?;
    }
    if bytes.is_empty() { Err(DecodeError::NotDecisions) } else { Ok(body) }
}

/// Reads what follows the message of `first` in a body: the delta that leads on from it, if
/// there is one, and what does not start as a message of decisions.
///
/// # Errors
/// A [`DecodeError`]; nothing of a bad body is used.
pub fn decode_rest<'a>(
    first: &Header,
    rest: &'a [u8],
) -> Result<(Option<Message<'a>>, &'a [u8]), DecodeError> {
    if !rest.starts_with(&MAGIC) {
        return Ok((None, rest));
    }
    let (second, rest) = decode_first(rest)?;
    let follows = first.kind == Kind::Snapshot
        && second.header.kind == Kind::Delta
        && second.header.revision.epoch == first.revision.epoch
        && second.header.base == first.revision.number;
    if follows { Ok((Some(second), rest)) } else { Err(DecodeError::Malformed) }
}

fn decode_first(bytes: &[u8]) -> Result<(Message<'_>, &[u8]), DecodeError> {
    let mut steps = Steps::begin(bytes)?;
    let header = steps.header;
    let mut frames =
        Vec::with_capacity((header.frames as usize).min(bytes.len() / FRAME_HEADER_BYTES));
    while let Some(frame) = steps.next(bytes)? {
        frames.push(frame);
    }
    Ok((Message { header, frames }, steps.rest(bytes)))
}

/// Reads a message frame by frame, for those who must not read all of it at once.
#[derive(Debug, Clone)]
pub struct Steps {
    /// The message's header.
    pub header: Header,
    /// Where the next frame starts.
    at: usize,
    next: u32,
    entries: u64,
}

impl Steps {
    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// A [`DecodeError`].
    pub fn begin(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(DecodeError::TooLarge);
        }
        let mut reader = Reader::new(bytes);
        let header = take_header(&mut reader)?;
        if header.kind == Kind::Delta && header.frames == 0 {
            return Err(DecodeError::Malformed);
        }
        if header.entries as usize > MAX_ENTRIES {
            return Err(DecodeError::TooLarge);
        }
        Ok(Self { header, at: bytes.len() - reader.rest().len(), next: 0, entries: 0 })
    }

    /// The next frame of the same bytes, its checksum and place verified; `None` after the
    /// last, when the totals are right.
    ///
    /// # Errors
    /// A [`DecodeError`]; nothing of the message may be used then.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Frame<'a>>, DecodeError> {
        if self.next == self.header.frames {
            let complete = self.entries == u64::from(self.header.entries);
            return if complete { Ok(None) } else { Err(DecodeError::Malformed) };
        }
        let mut reader = Reader::new(self.rest(bytes));
        let frame = take_frame(&mut reader)?;
        let fits = frame.kind == self.header.kind
            && frame.revision == self.header.revision
            && frame.index == self.next;
        if !fits {
            return Err(DecodeError::Malformed);
        }
        self.entries += u64::from(frame.count);
        self.next += 1;
        self.at = bytes.len() - reader.rest().len();
        Ok(Some(frame))
    }

    /// What follows the frames that were read.
    #[must_use]
    pub fn rest<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.at..).unwrap_or_default()
    }
}

/// Reads one frame that must fill `bytes`.
///
/// # Errors
/// A [`DecodeError`].
pub fn decode_frame(bytes: &[u8]) -> Result<Frame<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let frame = take_frame(&mut reader)?;
    if reader.is_empty() { Ok(frame) } else { Err(DecodeError::Malformed) }
}

/// Reads frames that stand one after the other and fill `bytes`.
///
/// # Errors
/// A [`DecodeError`].
pub fn decode_frames(bytes: &[u8]) -> Result<Vec<Frame<'_>>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut frames = Vec::new();
    while !reader.is_empty() {
        frames.push(take_frame(&mut reader)?);
    }
    Ok(frames)
}

impl Frame<'_> {
    /// Decodes a snapshot's frame: hands each entry to `sink` in order.
    ///
    /// # Errors
    /// A [`DecodeError`]; entries handed over before it must be thrown away.
    pub fn entries(&self, mut sink: impl FnMut(Entry)) -> Result<(), DecodeError> {
        if self.kind != Kind::Snapshot || self.count as usize > FRAME_ENTRIES {
            return Err(DecodeError::Malformed);
        }
        let mut reader = Reader::new(self.payload);
        let mut coder = Coder::default();
        for _ in 0..self.count {
            sink(coder.take(&mut reader)?);
        }
        if reader.is_empty() { Ok(()) } else { Err(DecodeError::Malformed) }
    }

    /// Decodes a delta's frame: hands each change to `sink` in order.
    ///
    /// # Errors
    /// A [`DecodeError`]; changes handed over before it must be thrown away.
    pub fn changes(&self, mut sink: impl FnMut(Change)) -> Result<(), DecodeError> {
        if self.kind != Kind::Delta || self.count as usize > FRAME_ENTRIES {
            return Err(DecodeError::Malformed);
        }
        let mut reader = Reader::new(self.payload);
        for _ in 0..self.count {
            sink(take_change(&mut reader)?);
        }
        if reader.is_empty() { Ok(()) } else { Err(DecodeError::Malformed) }
    }
}

fn put_header(out: &mut Vec<u8>, header: &Header) {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, header.kind as u8, 0, 0]);
    out.extend_from_slice(&header.revision.epoch.to_le_bytes());
    out.extend_from_slice(&header.revision.number.to_le_bytes());
    out.extend_from_slice(&header.base.to_le_bytes());
    out.extend_from_slice(&header.created.to_le_bytes());
    out.extend_from_slice(&header.frames.to_le_bytes());
    out.extend_from_slice(&header.entries.to_le_bytes());
    let crc = out.get(start..).map_or(0, crc32fast::hash);
    out.extend_from_slice(&crc.to_le_bytes());
}

fn take_header(reader: &mut Reader<'_>) -> Result<Header, DecodeError> {
    let whole = *reader;
    if reader.array::<4>().map_err(|_| DecodeError::NotDecisions)? != MAGIC {
        return Err(DecodeError::NotDecisions);
    }
    let kind = take_version_and_kind(reader)?;
    let header = Header {
        kind,
        revision: Revision { epoch: reader.u64()?, number: reader.u64()? },
        base: reader.u64()?,
        created: reader.u32()?,
        frames: reader.u32()?,
        entries: reader.u32()?,
    };
    let read = whole.rest().len() - reader.rest().len();
    let covered = whole.rest().get(..read).ok_or(DecodeError::Malformed)?;
    if reader.u32()? != crc32fast::hash(covered) {
        return Err(DecodeError::Checksum);
    }
    Ok(header)
}

/// The version is looked at before the checksum: a later version may place it elsewhere.
fn take_version_and_kind(reader: &mut Reader<'_>) -> Result<Kind, DecodeError> {
    let found = reader.u8()?;
    if found != VERSION {
        return Err(DecodeError::Version { found });
    }
    let kind = match reader.u8()? {
        1 => Kind::Snapshot,
        2 => Kind::Delta,
        _ => return Err(DecodeError::Malformed),
    };
    if reader.u16()? != 0 {
        return Err(DecodeError::Malformed);
    }
    Ok(kind)
}

fn put_frame(
    out: &mut Vec<u8>,
    kind: Kind,
    revision: Revision,
    index: u32,
    count: u32,
    payload: &[u8],
) {
    let start = out.len();
    out.extend_from_slice(&FRAME_MAGIC);
    out.extend_from_slice(&[VERSION, kind as u8, 0, 0]);
    out.extend_from_slice(&revision.epoch.to_le_bytes());
    out.extend_from_slice(&revision.number.to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(out.get(start..).unwrap_or_default());
    hasher.update(payload);
    out.extend_from_slice(&hasher.finalize().to_le_bytes());
    out.extend_from_slice(payload);
}

fn take_frame<'a>(reader: &mut Reader<'a>) -> Result<Frame<'a>, DecodeError> {
    let whole = *reader;
    if reader.array::<4>()? != FRAME_MAGIC {
        return Err(DecodeError::NotDecisions);
    }
    let kind = take_version_and_kind(reader)?;
    let revision = Revision { epoch: reader.u64()?, number: reader.u64()? };
    let index = reader.u32()?;
    let count = reader.u32()?;
    let length = reader.u32()?;
    let covered = whole.rest().get(..FRAME_HEADER_BYTES - 4).ok_or(DecodeError::Malformed)?;
    let crc = reader.u32()?;
    let payload = reader.take(length as usize)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(covered);
    hasher.update(payload);
    if hasher.finalize() != crc {
        return Err(DecodeError::Checksum);
    }
    let bytes =
        whole.rest().get(..FRAME_HEADER_BYTES + payload.len()).ok_or(DecodeError::Malformed)?;
    Ok(Frame { kind, revision, index, count, payload, bytes })
}

// Tag of an entry: tier in the low two bits, then flags.
const TAG_V6: u8 = 1 << 2;
const TAG_SAME_EXPIRY: u8 = 1 << 3;
const TAG_NEXT_ID: u8 = 1 << 4;
const TAG_HOST: u8 = 1 << 5;
const TAG_REMOVE: u8 = 1 << 6;

/// What an entry of a snapshot is coded against: the one before it.
#[derive(Debug, Default)]
struct Coder {
    last: Option<Entry>,
    bits: u128,
    expires_at: UnixSeconds,
    id: DecisionId,
}

impl Coder {
    fn put(&mut self, out: &mut Vec<u8>, entry: &Entry) {
        let is_v6 = matches!(entry.target, IpNet::V6(_));
        let was_v6 = self.last.is_some_and(|last| matches!(last.target, IpNet::V6(_)));
        if is_v6 && !was_v6 {
            self.bits = 0;
        }
        let host = entry.target.prefix_len() == entry.target.max_prefix_len();
        let next_id = entry.id == self.id.wrapping_add(1);
        let same_expiry = entry.expires_at == self.expires_at;
        out.push(
            entry.tier as u8
                | if is_v6 { TAG_V6 } else { 0 }
                | if same_expiry { TAG_SAME_EXPIRY } else { 0 }
                | if next_id { TAG_NEXT_ID } else { 0 }
                | if host { TAG_HOST } else { 0 },
        );
        if !host {
            out.push(entry.target.prefix_len());
        }
        let bits = first_bits(&entry.target);
        put_varint128(out, bits.wrapping_sub(self.bits));
        if !same_expiry {
            put_varint(out, u64::from(entry.expires_at));
        }
        if !next_id {
            put_varint(out, zigzag(i64::from(entry.id) - i64::from(self.id)));
        }
        self.remember(*entry, bits);
    }

    fn take(&mut self, reader: &mut Reader<'_>) -> Result<Entry, DecodeError> {
        let tag = reader.u8()?;
        if tag & !(3 | TAG_V6 | TAG_SAME_EXPIRY | TAG_NEXT_ID | TAG_HOST) != 0 {
            return Err(DecodeError::Malformed);
        }
        let is_v6 = tag & TAG_V6 != 0;
        let was_v6 = self.last.is_some_and(|last| matches!(last.target, IpNet::V6(_)));
        if is_v6 && !was_v6 {
            self.bits = 0;
        }
        let prefix_len = match (tag & TAG_HOST != 0, is_v6) {
            (true, true) => 128,
            (true, false) => 32,
            (false, _) => reader.u8()?,
        };
        let bits = self.bits.checked_add(reader.varint128()?).ok_or(DecodeError::Malformed)?;
        let expires_at =
            if tag & TAG_SAME_EXPIRY != 0 { self.expires_at } else { reader.varint32()? };
        let id = if tag & TAG_NEXT_ID != 0 {
            self.id.wrapping_add(1)
        } else {
            take_id(i64::from(self.id), reader)?
        };
        let entry = Entry {
            target: take_target(!is_v6, bits, prefix_len)?,
            tier: Tier::from_code(tag & 3).ok_or(DecodeError::Malformed)?,
            id,
            expires_at,
        };
        if self.last.is_some_and(|last| last.sort_key() >= entry.sort_key()) {
            return Err(DecodeError::Unsorted);
        }
        self.remember(entry, bits);
        Ok(entry)
    }

    fn remember(&mut self, entry: Entry, bits: u128) {
        self.last = Some(entry);
        self.bits = bits;
        self.expires_at = entry.expires_at;
        self.id = entry.id;
    }
}

fn put_entries(out: &mut Vec<u8>, entries: &[Entry]) {
    let mut coder = Coder::default();
    for entry in entries {
        coder.put(out, entry);
    }
}

fn take_id(previous: i64, reader: &mut Reader<'_>) -> Result<DecisionId, DecodeError> {
    let difference = unzigzag(reader.varint()?);
    previous
        .checked_add(difference)
        .and_then(|id| DecisionId::try_from(id).ok())
        .ok_or(DecodeError::Malformed)
}

/// Only folded, truncated targets are accepted: the table relies on it.
fn take_target(is_v4: bool, bits: u128, prefix_len: u8) -> Result<IpNet, DecodeError> {
    let net = net_from_bits(is_v4, bits, prefix_len).ok_or(DecodeError::Malformed)?;
    if fold_net(net) == net { Ok(net) } else { Err(DecodeError::Malformed) }
}

fn put_change(out: &mut Vec<u8>, change: &Change) {
    let (target, id, tag) = match change {
        Change::Add(entry) => (&entry.target, entry.id, entry.tier as u8),
        Change::Remove { target, id } => (target, *id, TAG_REMOVE),
    };
    let is_v6 = matches!(target, IpNet::V6(_));
    out.push(tag | if is_v6 { TAG_V6 } else { 0 });
    out.push(target.prefix_len());
    put_varint128(out, first_bits(target));
    put_varint(out, u64::from(id));
    if let Change::Add(entry) = change {
        // NEVER is the common case and the largest number: store it as 0, which no entry has.
        let expires_at = if entry.expires_at == NEVER { 0 } else { entry.expires_at };
        put_varint(out, u64::from(expires_at));
    }
}

fn take_change(reader: &mut Reader<'_>) -> Result<Change, DecodeError> {
    let tag = reader.u8()?;
    if tag & !(3 | TAG_V6 | TAG_REMOVE) != 0 {
        return Err(DecodeError::Malformed);
    }
    let prefix_len = reader.u8()?;
    let bits = reader.varint128()?;
    let target = take_target(tag & TAG_V6 == 0, bits, prefix_len)?;
    let id = reader.varint32()?;
    if tag & TAG_REMOVE != 0 {
        return Ok(Change::Remove { target, id });
    }
    let expires_at = match reader.varint32()? {
        0 => NEVER,
        at => at,
    };
    let tier = Tier::from_code(tag & 3).ok_or(DecodeError::Malformed)?;
    Ok(Change::Add(Entry { target, tier, id, expires_at }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REVISION: Revision = Revision { epoch: 0xfeed, number: 12 };

    fn entry(target: &str, tier: Tier, id: DecisionId, expires_at: UnixSeconds) -> Entry {
        Entry { target: crate::address::parse_target(target).unwrap(), tier, id, expires_at }
    }

    fn some_entries() -> Vec<Entry> {
        let mut entries = vec![
            entry("10.0.0.0/8", Tier::Feed, 4, NEVER),
            entry("10.0.0.0/8", Tier::Allow, 9, 1_800_000_000),
            entry("10.1.2.3", Tier::Manual, 5, 1_800_000_000),
            entry("0.0.0.0/0", Tier::Feed, 1, NEVER),
            entry("255.255.255.255", Tier::Detector, u32::MAX, 1),
            entry("::/0", Tier::Feed, 2, NEVER),
            entry("2001:db8::/32", Tier::Manual, 3, NEVER),
            entry("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Tier::Manual, 7, NEVER),
        ];
        entries.sort_by_key(Entry::sort_key);
        entries
    }

    fn snapshot_entries(bytes: &[u8]) -> Result<Vec<Entry>, DecodeError> {
        let mut entries = Vec::new();
        for frame in decode(bytes)?.frames {
            frame.entries(|entry| entries.push(entry))?;
        }
        Ok(entries)
    }

    fn delta_changes(bytes: &[u8]) -> Result<Vec<Change>, DecodeError> {
        let mut changes = Vec::new();
        for frame in decode(bytes)?.frames {
            frame.changes(|change| changes.push(change))?;
        }
        Ok(changes)
    }

    #[test]
    fn a_snapshot_round_trips() {
        let entries = some_entries();
        let bytes = encode_snapshot(REVISION, 77, &entries);
        assert_eq!(snapshot_entries(&bytes).unwrap(), entries);
        let header = decode(&bytes).unwrap().header;
        assert_eq!((header.revision, header.created, header.entries), (REVISION, 77, 8));
        assert_eq!(snapshot_entries(&encode_snapshot(REVISION, 0, &[])), Ok(vec![]));
    }

    #[test]
    fn a_delta_round_trips() {
        let changes: Vec<Change> = some_entries()
            .into_iter()
            .flat_map(|entry| {
                [Change::Remove { target: entry.target, id: entry.id }, Change::Add(entry)]
            })
            .collect();
        let bytes = encode_delta(11, REVISION, 77, &changes);
        assert_eq!(delta_changes(&bytes).unwrap(), changes);
        assert_eq!(decode(&bytes).unwrap().header.base, 11);
    }

    #[test]
    fn a_body_is_one_message_or_a_snapshot_and_the_delta_from_it() {
        let snapshot = encode_snapshot(REVISION, 1, &some_entries());
        let later = Revision { number: 15, ..REVISION };
        let delta = encode_delta(12, later, 1, &[]);
        assert_eq!(decode(&delta).unwrap().frames.len(), 1, "an empty step still has a frame");
        let both = [snapshot.clone(), delta.clone()].concat();
        let body = decode_body(&both).unwrap();
        let revision = |message: Option<Message<'_>>| message.map(|m| m.header.revision);
        assert_eq!((revision(body.message), revision(body.then)), (Some(REVISION), Some(later)));
        assert_eq!(decode_body(&snapshot).unwrap().then, None);
        let followed = [both.clone(), b"IPWLimits".to_vec()].concat();
        assert_eq!(decode_body(&followed).unwrap().rest, b"IPWLimits");
        let alone = decode_body(b"IPWL").unwrap();
        assert_eq!((alone.message, alone.rest), (None, &b"IPWL"[..]));
        assert_eq!(decode_body(b""), Err(DecodeError::NotDecisions));
        for wrong in [
            [delta.clone(), snapshot.clone()].concat(),
            [snapshot.clone(), encode_delta(13, later, 1, &[])].concat(),
            [snapshot.clone(), encode_delta(12, Revision { epoch: 1, number: 15 }, 1, &[])]
                .concat(),
            [snapshot.clone(), snapshot.clone()].concat(),
        ] {
            assert_eq!(decode_body(&wrong), Err(DecodeError::Malformed));
        }
        let third = [both.clone(), delta].concat();
        assert!(!decode_body(&third).unwrap().rest.is_empty(), "no message of ours comes third");
    }

    #[test]
    fn a_large_snapshot_is_cut_into_frames() {
        let entries: Vec<Entry> = (0..FRAME_ENTRIES as u32 * 2 + 1)
            .map(|n| Entry {
                target: net_from_bits(true, u128::from(n * 7), 32).unwrap(),
                tier: Tier::Feed,
                id: n + 1,
                expires_at: NEVER,
            })
            .collect();
        let bytes = encode_snapshot(REVISION, 0, &entries);
        assert_eq!(decode(&bytes).unwrap().frames.len(), 3);
        assert_eq!(snapshot_entries(&bytes).unwrap(), entries);
        // Sorted neighbours cost little.
        assert!(bytes.len() < entries.len() * 4, "{}", bytes.len());
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_refused() {
        for bytes in [
            encode_snapshot(REVISION, 1, &some_entries()),
            encode_delta(3, REVISION, 1, &[Change::Add(some_entries()[0])]),
        ] {
            for len in 0..bytes.len() {
                assert!(decode(&bytes[..len]).is_err(), "{len}");
            }
            for position in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[position] ^= 0x40;
                assert!(decode(&changed).is_err(), "{position}");
            }
            let mut longer = bytes.clone();
            longer.push(0);
            assert_eq!(decode(&longer), Err(DecodeError::Malformed));
        }
    }

    #[test]
    fn a_future_version_and_a_foreign_message_are_named() {
        let mut bytes = encode_snapshot(REVISION, 1, &some_entries());
        bytes[4] = 2;
        assert_eq!(
            decode(&bytes).unwrap_err().to_string(),
            "decision message version 2 is not known here: expected 1"
        );
        assert_eq!(decode(b"<html>"), Err(DecodeError::NotDecisions));
        assert_eq!(decode(&vec![0; MAX_MESSAGE_BYTES + 1]), Err(DecodeError::TooLarge));
    }

    #[test]
    fn entries_out_of_order_or_not_folded_are_refused() {
        let mut entries = some_entries();
        entries.swap(0, 2);
        // The encoder trusts its caller; the decoder trusts nobody.
        assert!(snapshot_entries(&encode_snapshot(REVISION, 1, &entries)).is_err());
        let mapped = Entry {
            target: "::ffff:1.2.3.4/128".parse().unwrap(),
            tier: Tier::Manual,
            id: 1,
            expires_at: NEVER,
        };
        assert_eq!(
            snapshot_entries(&encode_snapshot(REVISION, 1, &[mapped])),
            Err(DecodeError::Malformed)
        );
        let untruncated = Entry { target: "10.0.0.1/8".parse().unwrap(), ..mapped };
        assert_eq!(first_bits(&untruncated.target), 10 << 24, "the encoder truncates");
    }

    #[cfg(not(target_family = "wasm"))]
    pub(crate) mod laws {
        use super::*;
        use proptest::prelude::*;

        pub(crate) fn any_entry() -> impl Strategy<Value = Entry> {
            (any::<bool>(), any::<u128>(), 0u8..=128, 0u8..4, any::<u32>(), any::<u32>()).prop_map(
                |(v4, bits, len, tier, id, expires_at)| {
                    let target = if v4 {
                        IpNet::new(std::net::Ipv4Addr::from(bits as u32).into(), len % 33)
                    } else {
                        IpNet::new(std::net::Ipv6Addr::from(bits).into(), len)
                    };
                    Entry {
                        target: fold_net(target.unwrap().trunc()),
                        tier: Tier::from_code(tier).unwrap(),
                        id,
                        expires_at: expires_at.max(1),
                    }
                },
            )
        }

        proptest! {
            #[test]
            fn any_set_round_trips(mut entries in proptest::collection::vec(any_entry(), 0..200)) {
                entries.sort_by_key(Entry::sort_key);
                entries.dedup_by_key(|entry| entry.sort_key());
                let bytes = encode_snapshot(REVISION, 1, &entries);
                prop_assert_eq!(snapshot_entries(&bytes).unwrap(), entries.clone());
                let changes: Vec<Change> = entries.into_iter().map(Change::Add).collect();
                prop_assert_eq!(delta_changes(&encode_delta(1, REVISION, 1, &changes)).unwrap(), changes);
            }

            #[test]
            fn decoding_anything_never_panics(payload in proptest::collection::vec(any::<u8>(), 0..300), count: u32, delta: bool) {
                let _ = decode(&payload);
                // Behind valid headers, so that the payload's decoder is reached.
                let mut bytes = Vec::new();
                put_frame(&mut bytes, if delta { Kind::Delta } else { Kind::Snapshot }, REVISION, 0, count % 50, &payload);
                let frame = decode_frame(&bytes).unwrap();
                let _ = frame.entries(|_| {});
                let _ = frame.changes(|_| {});
            }
        }
    }
}
