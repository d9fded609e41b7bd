//! The batch format.
//!
//! ```text
//! magic "IPWR" | version u8 | crc32 u32 of all that follows | header | count varint | records
//! ```
//!
//! The first byte of a record says what became of the request, what its address is and whether
//! the client opted out:
//!
//! ```text
//! bits 0-3  verdict
//! bits 4-6  0: no address; otherwise 1 + 2 * form (full, truncated, pseudonym) + (1 for IPv6)
//! bit 7     opted out
//! ```
//!
//! Integers are little-endian or LEB128. Every field is bounded (see [`super::bounds`]); a
//! decoder refuses a message that is truncated, corrupt, of another version, over a bound,
//! or followed by anything.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Batch, BatchHeader, Record, Verdict, bounds};
use crate::bytes::{Malformed, Reader, put_bytes, put_varint, unzigzag, zigzag};
use crate::decisions::Revision;
use crate::privacy::{AddressForm, KeyId};

/// First bytes of a batch.
pub const MAGIC: [u8; 4] = *b"IPWR";
/// Version written, and the only one read so far.
pub const VERSION: u8 = 1;
/// Most records in one batch.
pub const MAX_RECORDS: usize = 10_000;
/// Largest batch in bytes.
pub const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Content type of a batch.
pub const CONTENT_TYPE: &str = "application/vnd.ipwarden.records";

/// Why a batch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// Does not start with [`MAGIC`].
    NotABatch,
    /// Written by a version this one does not know.
    Version {
        /// Version found.
        found: u8,
    },
    /// Bytes changed on the way.
    Checksum,
    /// Larger than [`MAX_BATCH_BYTES`] or more than [`MAX_RECORDS`].
    TooLarge,
    /// Truncated, or a field is out of its bounds.
    Malformed,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotABatch => {
                f.write_str("not a batch of records: expected it to start with IPWR")
            }
            Self::Version { found } => {
                write!(f, "batch version {found} is not known here: expected {VERSION}")
            }
            Self::Checksum => f.write_str("batch is corrupt: its checksum does not match"),
            Self::TooLarge => write!(
                f,
                "batch is too large: at most {MAX_RECORDS} records in {MAX_BATCH_BYTES} bytes"
            ),
            Self::Malformed => f.write_str("batch is truncated or malformed"),
        }
    }
}

impl core::error::Error for DecodeError {}

impl From<Malformed> for DecodeError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// A country's code.
const COUNTRY_BYTES: usize = 2;
/// The id of a key; a batch without pseudonyms has none.
const KEY_ID_BYTES: usize = 4;
/// Bit of a record's first byte: the client opted out.
const OPTED_OUT: u8 = 1 << 7;

/// Bytes before the checksummed part.
const PREFIX_BYTES: usize = 9;

/// Writes a batch whose records were encoded before by [`put_record`].
///
/// `base_us` is the time that the first of `records` was encoded against.
#[must_use]
pub fn encode(header: &BatchHeader<'_>, base_us: u64, count: u32, records: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.len() + 256);
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&header.stream.to_le_bytes());
    put_varint(&mut out, header.number);
    out.extend_from_slice(&header.started_us.to_le_bytes());
    out.extend_from_slice(&header.sent_us.to_le_bytes());
    put_bytes(&mut out, header.proxy, bounds::PROXY_BYTES);
    put_bytes(&mut out, header.version, bounds::RULE_BYTES);
    put_bytes(&mut out, header.key.as_ref().map_or(&[][..], |key| &key.0), KEY_ID_BYTES);
    out.extend_from_slice(&header.applied.epoch.to_le_bytes());
    put_varint(&mut out, header.applied.number);
    put_varint(&mut out, header.seen);
    put_varint(&mut out, header.lost);
    put_varint(&mut out, header.skipped);
    out.extend_from_slice(&base_us.to_le_bytes());
    put_varint(&mut out, u64::from(count));
    out.extend_from_slice(records);
    let crc = out.get(PREFIX_BYTES..).map_or(0, crc32fast::hash);
    if let Some(place) = out.get_mut(5..PREFIX_BYTES) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
    out
}

/// The first part of a record: what differs between the requests of a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// See [`Record::time_us`].
    pub time_us: u64,
    /// See [`Record::ip`].
    pub ip: Option<IpAddr>,
    /// See [`Record::form`].
    pub form: AddressForm,
    /// See [`Record::opted_out`].
    pub opted_out: bool,
    /// See [`Record::verdict`].
    pub verdict: Verdict,
    /// See [`Record::weight`].
    pub weight: u32,
    /// See [`Record::decision`].
    pub decision: u32,
}

impl Head {
    /// The head of a record.
    #[must_use]
    pub const fn of(record: &Record<'_>) -> Self {
        Self {
            time_us: record.time_us,
            ip: record.ip,
            form: record.form,
            opted_out: record.opted_out,
            verdict: record.verdict,
            weight: record.weight,
            decision: record.decision,
        }
    }
}

/// Appends one record to the records of a batch. `previous_us` is the time of the record
/// before it (the batch's base time for the first).
pub fn put_record(out: &mut Vec<u8>, previous_us: u64, record: &Record<'_>) {
    put_record_head(out, previous_us, &Head::of(record));
    put_record_tail(out, record);
}

/// Appends the first part of a record.
pub fn put_record_head(out: &mut Vec<u8>, previous_us: u64, head: &Head) {
    let address = match head.ip {
        None => 0,
        Some(IpAddr::V4(_)) => 1 + 2 * (head.form as u8),
        Some(IpAddr::V6(_)) => 2 + 2 * (head.form as u8),
    };
    let opted_out = if head.opted_out { OPTED_OUT } else { 0 };
    out.push((head.verdict as u8) | (address << 4) | opted_out);
    match head.ip {
        None => {}
        Some(IpAddr::V4(ip)) => out.extend_from_slice(&ip.octets()),
        Some(IpAddr::V6(ip)) => out.extend_from_slice(&ip.octets()),
    }
    put_varint(out, zigzag(head.time_us.wrapping_sub(previous_us) as i64));
    put_varint(out, u64::from(head.weight));
    put_varint(out, u64::from(head.decision));
}

/// The rest of a record: what it says about the request.
pub fn put_record_tail(out: &mut Vec<u8>, record: &Record<'_>) {
    put_bytes(out, record.rule, bounds::RULE_BYTES);
    put_bytes(out, record.method, bounds::METHOD_BYTES);
    put_bytes(out, record.host, bounds::HOST_BYTES);
    put_bytes(out, record.path, bounds::PATH_BYTES);
    put_bytes(out, record.query, bounds::QUERY_BYTES);
    put_varint(out, u64::from(record.status));
    put_varint(out, record.flags);
    put_varint(out, record.duration_us);
    put_varint(out, record.bytes_in);
    put_varint(out, record.bytes_out);
    put_bytes(out, record.user_agent, bounds::USER_AGENT_BYTES);
    put_bytes(out, record.request_id, bounds::REQUEST_ID_BYTES);
    put_bytes(out, record.country.as_ref().map_or(&[][..], |code| code), COUNTRY_BYTES);
    put_bytes(out, record.city, bounds::CITY_BYTES);
    // AS 0 is nobody's (RFC 7607).
    put_varint(out, u64::from(record.asn.unwrap_or(0)));
    put_bytes(out, record.identity, bounds::IDENTITY_BYTES);
}

/// Reads a batch.
///
/// # Errors
/// A [`DecodeError`]; nothing of a bad batch is used.
pub fn decode(bytes: &[u8]) -> Result<Batch<'_>, DecodeError> {
    if bytes.len() > MAX_BATCH_BYTES {
        return Err(DecodeError::TooLarge);
    }
    let mut reader = Reader::new(bytes);
    if reader.array::<4>().map_err(|_| DecodeError::NotABatch)? != MAGIC {
        return Err(DecodeError::NotABatch);
    }
    let found = reader.u8()?;
    if found != VERSION {
        return Err(DecodeError::Version { found });
    }
    let crc = reader.u32()?;
    if crc32fast::hash(reader.rest()) != crc {
        return Err(DecodeError::Checksum);
    }
    let header = BatchHeader {
        stream: reader.u64()?,
        number: reader.varint()?,
        started_us: reader.u64()?,
        sent_us: reader.u64()?,
        proxy: reader.bytes(bounds::PROXY_BYTES)?,
        version: reader.bytes(bounds::RULE_BYTES)?,
        key: take_key(&mut reader)?,
        applied: Revision { epoch: reader.u64()?, number: reader.varint()? },
        seen: reader.varint()?,
        lost: reader.varint()?,
        skipped: reader.varint()?,
    };
    let mut time_us = reader.u64()?;
    let count = usize::try_from(reader.varint()?).map_err(|_| DecodeError::TooLarge)?;
    if count > MAX_RECORDS {
        return Err(DecodeError::TooLarge);
    }
    // Number 0 is a report: its records could not be told from a repetition.
    if header.number == 0 && count > 0 {
        return Err(DecodeError::Malformed);
    }
    // A record takes at least this many bytes: a count can't make us allocate more than
    // the message justifies.
    const MIN_RECORD_BYTES: usize = 20;
    let mut records = Vec::with_capacity(count.min(bytes.len() / MIN_RECORD_BYTES + 1));
    for _ in 0..count {
        let record = take_record(&mut reader, time_us)?;
        time_us = record.time_us;
        records.push(record);
    }
    if !reader.is_empty() {
        return Err(DecodeError::Malformed);
    }
    Ok(Batch { header, records })
}

fn take_record<'a>(reader: &mut Reader<'a>, previous_us: u64) -> Result<Record<'a>, DecodeError> {
    let tag = reader.u8()?;
    let verdict = Verdict::from_code(tag & 0x0f).ok_or(DecodeError::Malformed)?;
    let address = (tag & !OPTED_OUT) >> 4;
    let (ip, form) = match address.checked_sub(1) {
        None => (None, AddressForm::Full),
        Some(code) => {
            let form = AddressForm::from_code(code / 2).ok_or(DecodeError::Malformed)?;
            let ip = if code % 2 == 0 {
                IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?))
            } else {
                IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?))
            };
            (Some(crate::address::fold(ip)), form)
        }
    };
    let time_us = previous_us.wrapping_add(unzigzag(reader.varint()?) as u64);
    Ok(Record {
        time_us,
        ip,
        form,
        opted_out: tag & OPTED_OUT != 0,
        verdict,
        weight: reader.varint32()?,
        decision: reader.varint32()?,
        rule: reader.bytes(bounds::RULE_BYTES)?,
        method: reader.bytes(bounds::METHOD_BYTES)?,
        host: reader.bytes(bounds::HOST_BYTES)?,
        path: reader.bytes(bounds::PATH_BYTES)?,
        query: reader.bytes(bounds::QUERY_BYTES)?,
        status: u16::try_from(reader.varint()?).map_err(|_| DecodeError::Malformed)?,
        flags: reader.varint()?,
        duration_us: reader.varint()?,
        bytes_in: reader.varint()?,
        bytes_out: reader.varint()?,
        user_agent: reader.bytes(bounds::USER_AGENT_BYTES)?,
        request_id: reader.bytes(bounds::REQUEST_ID_BYTES)?,
        country: take_country(reader)?,
        city: reader.bytes(bounds::CITY_BYTES)?,
        asn: Some(reader.varint32()?).filter(|asn| *asn != 0),
        identity: reader.bytes(bounds::IDENTITY_BYTES)?,
    })
}

/// Four bytes, or nothing.
fn take_key(reader: &mut Reader<'_>) -> Result<Option<KeyId>, DecodeError> {
    match reader.bytes(KEY_ID_BYTES)? {
        [] => Ok(None),
        &[a, b, c, d] => Ok(Some(KeyId([a, b, c, d]))),
        _ => Err(DecodeError::Malformed),
    }
}

/// Two capital letters, or nothing.
fn take_country(reader: &mut Reader<'_>) -> Result<Option<[u8; COUNTRY_BYTES]>, DecodeError> {
    match reader.bytes(COUNTRY_BYTES)? {
        [] => Ok(None),
        &[first, second] if first.is_ascii_uppercase() && second.is_ascii_uppercase() => {
            Ok(Some([first, second]))
        }
        _ => Err(DecodeError::Malformed),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn header() -> BatchHeader<'static> {
        BatchHeader {
            stream: 0x1234_5678_9abc_def0,
            number: 7,
            started_us: 1_700_000_000_000_000,
            sent_us: 1_700_000_001_000_000,
            proxy: b"edge-1",
            version: b"0.1.0",
            key: Some(KeyId([1, 2, 3, 4])),
            applied: Revision { epoch: 42, number: 99 },
            seen: 10,
            lost: 1,
            skipped: 2,
        }
    }

    pub(crate) fn record() -> Record<'static> {
        Record {
            time_us: 1_700_000_000_500_000,
            ip: Some("203.0.113.7".parse().unwrap()),
            form: AddressForm::Full,
            opted_out: false,
            verdict: Verdict::Blocked,
            weight: 3,
            decision: 17,
            rule: b"",
            method: b"GET",
            host: b"shop.example",
            path: b"/a\xff",
            query: b"q=1",
            status: 403,
            flags: 1 << 40,
            duration_us: 250,
            bytes_in: 300,
            bytes_out: 900,
            user_agent: b"curl/8",
            request_id: b"5c3a",
            country: Some(*b"GB"),
            city: b"London",
            asn: Some(20712),
            identity: b"alice",
        }
    }

    pub(crate) fn encoded() -> Vec<u8> {
        let record = record();
        let mut records = Vec::new();
        put_record(&mut records, record.time_us, &record);
        put_record(&mut records, record.time_us, &Record { ip: None, time_us: 1, ..record });
        encode(&header(), record.time_us, 2, &records)
    }

    #[test]
    fn a_batch_round_trips() {
        let bytes = encoded();
        let batch = decode(&bytes).unwrap();
        assert_eq!(batch.header, header());
        assert_eq!(batch.records, [record(), Record { ip: None, time_us: 1, ..record() }]);
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_refused() {
        let bytes = encoded();
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "{len}");
        }
        for position in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 0x10;
            assert!(decode(&changed).is_err(), "{position}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(decode(&longer), Err(DecodeError::Checksum));
    }

    #[test]
    fn the_form_of_an_address_and_the_opt_out_travel_with_it() {
        let ips = [None, Some("203.0.113.0"), Some("2001:db8::")];
        for ip in ips.map(|ip| ip.map(|ip| ip.parse().unwrap())) {
            for form in AddressForm::ALL {
                for opted_out in [false, true] {
                    let sent = Record { ip, form, opted_out, ..record() };
                    let mut records = Vec::new();
                    put_record(&mut records, sent.time_us, &sent);
                    let bytes = encode(&header(), sent.time_us, 1, &records);
                    let form = if ip.is_some() { form } else { AddressForm::Full };
                    assert_eq!(decode(&bytes).unwrap().records, [Record { form, ..sent }]);
                }
            }
        }
        let keyless = BatchHeader { key: None, ..header() };
        assert_eq!(decode(&encode(&keyless, 0, 0, &[])).unwrap().header, keyless);
    }

    #[test]
    fn a_future_version_is_named() {
        let mut bytes = encoded();
        bytes[4] = 9;
        assert_eq!(
            decode(&bytes).unwrap_err().to_string(),
            "batch version 9 is not known here: expected 1"
        );
        assert_eq!(decode(b"{\"a\":1}"), Err(DecodeError::NotABatch));
    }

    #[test]
    fn a_report_carries_no_records() {
        let record = record();
        let mut records = Vec::new();
        put_record(&mut records, record.time_us, &record);
        let report = BatchHeader { number: 0, ..header() };
        assert_eq!(decode(&encode(&report, 1, 1, &records)), Err(DecodeError::Malformed));
        assert!(decode(&encode(&report, 1, 0, &[])).is_ok());
    }

    #[test]
    fn long_fields_are_cut_not_refused() {
        let long = vec![b'a'; 100_000];
        let mut records = Vec::new();
        let record = Record { path: &long, user_agent: &long, host: &long, ..record() };
        put_record(&mut records, record.time_us, &record);
        let bytes = encode(&header(), record.time_us, 1, &records);
        let batch = decode(&bytes).unwrap();
        assert_eq!(batch.records[0].path.len(), bounds::PATH_BYTES);
        assert_eq!(batch.records[0].user_agent.len(), bounds::USER_AGENT_BYTES);
    }

    #[cfg(not(target_family = "wasm"))]
    mod laws {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn decoding_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
                let _ = decode(&bytes);
                // The same behind a valid prefix, so that the fields are reached.
                let mut message = MAGIC.to_vec();
                message.push(VERSION);
                message.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
                message.extend_from_slice(&bytes);
                let _ = decode(&message);
            }

            #[test]
            fn any_record_round_trips(
                time_us: u64, v6: u128, mapped: bool, verdict in 0u8..7, weight: u32, decision: u32,
                path in proptest::collection::vec(any::<u8>(), 0..64),
                status: u16, flags: u64, duration_us: u64, bytes_in: u64, bytes_out: u64,
                country in proptest::option::of(proptest::array::uniform2(b'A'..=b'Z')),
                city in proptest::collection::vec(any::<u8>(), 0..bounds::CITY_BYTES),
                asn in proptest::option::of(1..=u32::MAX),
                form in proptest::sample::select(&AddressForm::ALL[..]), opted_out: bool,
                key in proptest::option::of(any::<[u8; 4]>()),
            ) {
                let ip = if mapped { IpAddr::V4(Ipv4Addr::from(v6 as u32)) } else { IpAddr::V6(Ipv6Addr::from(v6 | 1 << 127)) };
                let record = Record {
                    time_us, ip: Some(ip), verdict: Verdict::from_code(verdict).unwrap(), weight, decision,
                    path: &path, status, flags, duration_us, bytes_in, bytes_out, country, city: &city,
                    asn, form, opted_out, ..record()
                };
                let header = BatchHeader { key: key.map(KeyId), ..header() };
                let mut records = Vec::new();
                put_record(&mut records, 5, &record);
                let bytes = encode(&header, 5, 1, &records);
                let batch = decode(&bytes).unwrap();
                prop_assert_eq!(batch.header, header);
                prop_assert_eq!(batch.records[0], record);
            }
        }
    }
}
