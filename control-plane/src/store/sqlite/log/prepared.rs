//! A batch on its way to the writer: the same fields, owned.
//!
//! A decoded batch borrows from the message it came in, and the writer lives on another
//! thread: the bytes go over in one piece, so that a record costs no allocation.

use std::net::IpAddr;

use ipwarden::decisions::Revision;
use ipwarden::record::Record;

use crate::geo::{Country, Spot};
use crate::privacy::Veil;
use crate::store::IncomingBatch;
use crate::store::view::timestamp_of_us;

/// An [`IncomingBatch`] that owns its bytes.
#[derive(Debug)]
pub(super) struct Prepared {
    pub stream: u64,
    pub number: u64,
    pub started_us: u64,
    pub sent_us: u64,
    pub received_us: i64,
    pub applied: Revision,
    pub seen: u64,
    pub lost: u64,
    pub skipped: u64,
    pub proxy: Span,
    pub version: Span,
    pub rows: Vec<Row>,
    bytes: Vec<u8>,
}

/// Where a field lies in the bytes of its batch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    pub(super) fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// A record whose texts lie elsewhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub time_us: i64,
    pub ip: Option<IpAddr>,
    pub veil: Veil,
    pub opted_out: bool,
    pub verdict: u8,
    pub weight: u32,
    pub decision: u32,
    pub rule: Span,
    pub method: Span,
    pub host: Span,
    pub path: Span,
    pub query: Span,
    pub status: u16,
    pub flags: u64,
    pub duration_us: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub user_agent: Span,
    pub request_id: Span,
    pub country: Option<Country>,
    pub city: Span,
    pub asn: Option<u32>,
    pub identity: Span,
}

impl Prepared {
    /// Copies a batch.
    pub(super) fn new(incoming: &IncomingBatch<'_>) -> Self {
        let header = &incoming.batch.header;
        let mut arena = Arena(Vec::new());
        let mut prepared = Self {
            stream: header.stream,
            number: header.number,
            started_us: header.started_us,
            sent_us: header.sent_us,
            received_us: incoming.received_at.as_microsecond(),
            applied: header.applied,
            seen: header.seen,
            lost: header.lost,
            skipped: header.skipped,
            proxy: arena.put(header.proxy),
            version: arena.put(header.version),
            rows: Vec::with_capacity(incoming.batch.records.len()),
            bytes: Vec::new(),
        };
        let unknown = Spot::default();
        let places = incoming.places.iter().chain(std::iter::repeat(&unknown));
        for (record, place) in incoming.batch.records.iter().zip(places) {
            let veil = Veil::of(record.form, header.key);
            prepared.rows.push(arena.row(record, veil, place, incoming.store_query));
        }
        prepared.bytes = arena.0;
        prepared
    }

    /// The bytes of a field.
    pub(super) fn bytes(&self, span: Span) -> &[u8] {
        let start = span.start as usize;
        self.bytes.get(start..start + span.len as usize).unwrap_or_default()
    }
}

struct Arena(Vec<u8>);

impl Arena {
    fn put(&mut self, bytes: &[u8]) -> Span {
        // A message is at most 8 MiB, so these fit; what would not is left out.
        let (Ok(start), Ok(len)) = (u32::try_from(self.0.len()), u32::try_from(bytes.len())) else {
            return Span::default();
        };
        self.0.extend_from_slice(bytes);
        Span { start, len }
    }

    fn row(&mut self, record: &Record<'_>, veil: Veil, place: &Spot, store_query: bool) -> Row {
        Row {
            time_us: timestamp_of_us(record.time_us).as_microsecond(),
            ip: record.ip,
            veil,
            opted_out: record.opted_out,
            verdict: record.verdict as u8,
            weight: record.weight,
            decision: record.decision,
            rule: self.put(record.rule),
            method: self.put(record.method),
            host: self.put(record.host),
            path: self.put(record.path),
            query: if store_query { self.put(record.query) } else { Span::default() },
            status: record.status,
            flags: record.flags,
            duration_us: record.duration_us,
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            user_agent: self.put(record.user_agent),
            request_id: self.put(record.request_id),
            country: place.country,
            city: self.put(place.city.as_deref().unwrap_or_default().as_bytes()),
            asn: place.asn,
            identity: self.put(record.identity),
        }
    }
}
