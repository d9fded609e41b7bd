//! The spool's files: frames in order, read from the front, written at the end.
//!
//! A frame is a length, a checksum and a batch. Frames are in files of [`SEGMENT_BYTES`], which
//! are deleted when all of their batches are stored elsewhere. A file is read from its start
//! again after a crash: whoever stores batches knows those that it has.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use hashbrown::HashSet;
use ipwarden::record::wire::{self, MAX_BATCH_BYTES};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::geo::{Country, Spot};
use crate::store::IncomingBatch;

/// A file takes no more frames beyond this size.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Length and checksum.
const HEAD_BYTES: usize = 8;
/// Longest frame: a batch, and a place for each of its records.
const MAX_FRAME: usize = 4 * MAX_BATCH_BYTES;
const ENDING: &str = "spool";

/// What the message of a batch does not say.
#[derive(Debug, Serialize, Deserialize)]
struct Aside {
    received_us: i64,
    store_query: bool,
    places: Vec<(Option<Country>, Option<String>, Option<u32>)>,
}

/// A batch as it lies in a file.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    aside: Aside,
    /// Stream and number.
    pub name: (u64, u64),
    /// Length with its head.
    size: u64,
}

/// The bytes of a frame.
pub(super) fn encode(incoming: &IncomingBatch<'_>) -> Result<Vec<u8>, String> {
    let batch = &incoming.batch;
    let places = incoming
        .places
        .iter()
        .map(|spot| (spot.country, spot.city.as_deref().map(str::to_owned), spot.asn))
        .collect();
    let received_us = incoming.received_at.as_microsecond();
    let aside = Aside { received_us, store_query: incoming.store_query, places };
    let aside = serde_json::to_vec(&aside).map_err(|error| error.to_string())?;
    let base = batch.records.first().map_or(0, |record| record.time_us);
    let (mut records, mut previous) = (Vec::new(), base);
    for record in &batch.records {
        wire::put_record(&mut records, previous, record);
        previous = record.time_us;
    }
    let count = u32::try_from(batch.records.len()).map_err(|error| error.to_string())?;
    let message = wire::encode(&batch.header, base, count, &records);
    let aside_length = u32::try_from(aside.len()).map_err(|error| error.to_string())?;
    let mut frame = vec![0; HEAD_BYTES];
    frame.extend_from_slice(&aside_length.to_le_bytes());
    frame.extend_from_slice(&aside);
    frame.extend_from_slice(&message);
    let body = frame.get(HEAD_BYTES..).unwrap_or_default();
    if body.len() > MAX_FRAME {
        return Err(format!("a batch of {} bytes is too large", body.len()));
    }
    let head = [body.len() as u32, checksum(body)].map(u32::to_le_bytes).concat();
    if let Some(place) = frame.get_mut(..HEAD_BYTES) {
        place.copy_from_slice(&head);
    }
    Ok(frame)
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

impl Frame {
    fn decode(body: Vec<u8>) -> Option<Self> {
        let size = (body.len() + HEAD_BYTES) as u64;
        let length = u32::from_le_bytes(*body.first_chunk::<4>()?) as usize;
        let aside = serde_json::from_slice(body.get(4..4 + length)?).ok()?;
        let bytes = body.get(4 + length..)?.to_vec();
        let header = wire::decode(&bytes).ok()?.header;
        let name = (header.stream, header.number);
        Some(Self { bytes, aside, name, size })
    }

    /// The batch.
    pub(super) fn batch(&self) -> Option<IncomingBatch<'_>> {
        let places = self.aside.places.iter().map(|(country, city, asn)| Spot {
            country: *country,
            city: city.as_deref().map(Into::into),
            asn: *asn,
        });
        Some(IncomingBatch {
            batch: wire::decode(&self.bytes).ok()?,
            received_at: Timestamp::from_microsecond(self.aside.received_us).ok()?,
            store_query: self.aside.store_query,
            places: places.collect(),
        })
    }
}

/// One file.
#[derive(Debug)]
struct Segment {
    path: PathBuf,
    bytes: u64,
    /// Where the frames begin that are not stored yet.
    done: u64,
}

/// All files.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    /// The oldest first.
    segments: VecDeque<Segment>,
    /// The last one, while it is written.
    open: Option<File>,
    next: u64,
    /// What waits.
    names: HashSet<(u64, u64)>,
    /// Bytes that may be used.
    most: u64,
}

/// What [`Files::put`] did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// It is on the disk.
    Done,
    /// There is no room for it; nothing was written.
    Full,
}

impl Files {
    /// Opens the spool, or makes it. What an interrupted write left at the end of the last file
    /// is cut off: it was never acknowledged.
    pub(super) fn open(directory: &Path, most: u64) -> std::io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            if let (Some(number), true) =
                (number, path.extension().is_some_and(|ext| ext == ENDING))
            {
                found.insert(number, path);
            }
        }
        let next = found.keys().next_back().map_or(0, |last| last + 1);
        let mut files = Self {
            directory: directory.to_owned(),
            segments: VecDeque::new(),
            open: None,
            next,
            names: HashSet::new(),
            most,
        };
        for path in found.into_values() {
            let mut reader = FrameReader::open(&path, 0)?;
            while let Some(frame) = reader.next()? {
                files.names.insert(frame.name);
            }
            let (bytes, end) = (std::fs::metadata(&path)?.len(), reader.at);
            if end < bytes {
                tracing::warn!(
                    bytes = bytes - end,
                    "the end of {} can't be read and is cut off: a write was interrupted",
                    path.display()
                );
                OpenOptions::new().write(true).open(&path)?.set_len(end)?;
            }
            files.segments.push_back(Segment { path, bytes: end, done: 0 });
        }
        files.drop_done()?;
        Ok(files)
    }

    /// Batches that wait.
    pub(super) fn count(&self) -> u64 {
        self.names.len() as u64
    }

    /// Bytes of the files.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Whether a batch waits.
    pub(super) fn holds(&self, name: (u64, u64)) -> bool {
        self.names.contains(&name)
    }

    /// Writes frames at the end; when it returns they survive a power cut.
    pub(super) fn put(&mut self, frames: &[u8], names: &[(u64, u64)]) -> std::io::Result<Put> {
        if names.is_empty() {
            return Ok(Put::Done);
        }
        if self.bytes() + frames.len() as u64 > self.most {
            return Ok(Put::Full);
        }
        if self.open.is_none()
            || self.segments.back().is_none_or(|last| last.bytes >= SEGMENT_BYTES)
        {
            let path = self.directory.join(format!("{:010}.{ENDING}", self.next));
            let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
            File::open(&self.directory)?.sync_all()?;
            self.next += 1;
            self.open = Some(file);
            self.segments.push_back(Segment { path, bytes: 0, done: 0 });
        }
        let (Some(file), Some(segment)) = (&mut self.open, self.segments.back_mut()) else {
            return Ok(Put::Full);
        };
        let written = file.write_all(frames).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // Half of it may be there: cut off, and a new file next time.
            let _ = file.set_len(segment.bytes);
            self.open = None;
            return Err(error);
        }
        segment.bytes += frames.len() as u64;
        self.names.extend(names);
        Ok(Put::Done)
    }

    /// The oldest frames, at most so many bytes, but one at least.
    pub(super) fn front(&self, most: u64) -> std::io::Result<Vec<Frame>> {
        let Some(segment) = self.segments.front() else { return Ok(Vec::new()) };
        let mut reader = FrameReader::open(&segment.path, segment.done)?;
        let mut frames = Vec::new();
        let mut bytes = 0;
        while bytes < most && reader.at < segment.bytes {
            let Some(frame) = reader.next()? else { break };
            bytes += frame.size;
            frames.push(frame);
        }
        if frames.is_empty() && segment.done < segment.bytes {
            return Err(std::io::Error::other(format!(
                "{} is damaged at byte {}: move it away, what is in it from there on is lost",
                segment.path.display(),
                segment.done
            )));
        }
        Ok(frames)
    }

    /// Forgets frames that [`Self::front`] gave: they are stored elsewhere.
    pub(super) fn stored(&mut self, frames: &[Frame]) -> std::io::Result<()> {
        for frame in frames {
            self.names.remove(&frame.name);
        }
        if let Some(segment) = self.segments.front_mut() {
            segment.done += frames.iter().map(|frame| frame.size).sum::<u64>();
        }
        self.drop_done()
    }

    fn drop_done(&mut self) -> std::io::Result<()> {
        while let Some(first) = self.segments.front() {
            if first.done < first.bytes {
                break;
            }
            std::fs::remove_file(&first.path)?;
            self.segments.pop_front();
            if self.segments.is_empty() {
                self.open = None;
            }
        }
        Ok(())
    }

    /// Puts what no store takes aside, where a person can look at it.
    pub(super) fn set_aside(&self, frame: &Frame) -> std::io::Result<PathBuf> {
        let path = self.directory.join(format!("{:016x}-{}.refused", frame.name.0, frame.name.1));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(&frame.bytes)?;
        file.sync_all()?;
        Ok(path)
    }
}

/// Reads frames one after the other.
struct FrameReader {
    file: std::io::BufReader<File>,
    /// Where the next one begins.
    at: u64,
}

impl FrameReader {
    fn open(path: &Path, at: u64) -> std::io::Result<Self> {
        use std::io::{Seek as _, SeekFrom};
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(at))?;
        Ok(Self { file: std::io::BufReader::new(file), at })
    }

    /// The next frame; `None` at the end, and at anything that is no whole frame.
    fn next(&mut self) -> std::io::Result<Option<Frame>> {
        let mut head = [0; HEAD_BYTES];
        if !filled(self.file.read_exact(&mut head))? {
            return Ok(None);
        }
        let [a, b, c, d, rest @ ..] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > MAX_FRAME {
            return Ok(None);
        }
        let mut body = vec![0; length];
        if !filled(self.file.read_exact(&mut body))? || checksum(&body) != u32::from_le_bytes(rest)
        {
            return Ok(None);
        }
        let Some(frame) = Frame::decode(body) else { return Ok(None) };
        self.at += frame.size;
        Ok(Some(frame))
    }
}

fn filled(read: std::io::Result<()>) -> std::io::Result<bool> {
    match read {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
