//! The host's header block, read in place, and what a record needs of it.
//!
//! ```text
//! count u32 | (name length u32, value length u32) * count | (name 0 value 0) * count
//! ```

use crate::bytes::{Reader, put_varint};
use crate::limits::matching::HeaderSource;
use crate::privacy::settings::Choices;
use crate::record::bounds;

/// Most pairs that are looked at: Envoy itself accepts no more than 1024.
const MAX_PAIRS: u32 = 1_024;

/// Iterates over the pairs of a serialised map; stops at the first that is malformed.
#[derive(Debug, Clone)]
pub(super) struct Headers<'a> {
    lengths: Reader<'a>,
    values: Reader<'a>,
    left: u32,
}

impl<'a> Headers<'a> {
    pub(super) fn new(block: &'a [u8]) -> Self {
        let mut lengths = Reader::new(block);
        let count = lengths.u32().unwrap_or(0);
        let mut values = lengths;
        let left = match values.take(count as usize * 8) {
            Ok(_) => count.min(MAX_PAIRS),
            Err(_) => 0,
        };
        Self { lengths, values, left }
    }

    /// Bytes of all names and values: what Envoy's `request.total_size` says of a request
    /// without a body.
    pub(super) fn bytes(&self) -> u64 {
        self.clone().map(|(name, value)| (name.len() + value.len()) as u64).sum()
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let name_len = self.lengths.u32().ok()? as usize;
        let value_len = self.lengths.u32().ok()? as usize;
        let name = self.values.take(name_len).ok()?;
        self.values.u8().ok()?;
        let value = self.values.take(value_len).ok()?;
        self.values.u8().ok()?;
        Some((name, value))
    }
}

impl HeaderSource for Headers<'_> {
    fn each(&self, name: &[u8], visit: &mut dyn FnMut(&[u8])) {
        for (_, value) in self.clone().filter(|(found, _)| *found == name) {
            visit(value);
        }
    }
}

/// What headers of ours begin with; what a client sends under such a name is removed.
pub(super) const OURS: &[u8] = b"x-ipwarden-";

/// Serialises pairs for the host.
pub(super) fn serialise(pairs: &[(&str, String)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&(pairs.len() as u32).to_le_bytes());
    for (name, value) in pairs {
        out.extend_from_slice(&(name.len() as u32).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    }
    for (name, value) in pairs {
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.extend_from_slice(value.as_bytes());
        out.push(0);
    }
    out
}

/// What a record says of a request's headers, copied once and kept (bounded) until the
/// request ends: by then other filters may have rewritten them.
#[derive(Debug, Default)]
pub(super) struct Facts {
    packed: Vec<u8>,
}

/// The packed fields, in this order.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fields<'a> {
    pub(super) method: &'a [u8],
    pub(super) host: &'a [u8],
    pub(super) path: &'a [u8],
    pub(super) query: &'a [u8],
    pub(super) user_agent: &'a [u8],
    pub(super) request_id: &'a [u8],
    /// The client opted out in a way that is respected. Not packed: known at the request.
    pub(super) opted_out: bool,
}

impl<'a> Fields<'a> {
    /// Picks the fields from a header block.
    pub(super) fn pick(headers: Headers<'a>, choices: &Choices) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers {
            match name {
                b":method" => fields.method = value,
                b":authority" => fields.host = value,
                b":path" => (fields.path, fields.query) = split_query(value),
                b"user-agent" => fields.user_agent = value,
                b"x-request-id" => fields.request_id = value,
                b"sec-gpc" | b"dnt" | b"cookie" => {
                    fields.opted_out |= choices.opts_out(name, value);
                }
                _ => {}
            }
        }
        fields
    }
}

impl Facts {
    pub(super) fn pack(fields: &Fields<'_>) -> Self {
        let bounded = [
            (fields.method, bounds::METHOD_BYTES),
            (fields.host, bounds::HOST_BYTES),
            (fields.path, bounds::PATH_BYTES),
            (fields.query, bounds::QUERY_BYTES),
            (fields.user_agent, bounds::USER_AGENT_BYTES),
            (fields.request_id, bounds::REQUEST_ID_BYTES),
        ]
        .map(|(value, max)| value.get(..max).unwrap_or(value));
        let mut packed =
            Vec::with_capacity(bounded.iter().map(|value| value.len() + 2).sum::<usize>());
        for value in bounded {
            put_varint(&mut packed, value.len() as u64);
            packed.extend_from_slice(value);
        }
        Self { packed }
    }

    pub(super) fn fields(&self) -> Fields<'_> {
        let mut reader = Reader::new(&self.packed);
        let mut next = || reader.bytes(usize::MAX).unwrap_or_default();
        Fields {
            method: next(),
            host: next(),
            path: next(),
            query: next(),
            user_agent: next(),
            request_id: next(),
            opted_out: false,
        }
    }
}

fn split_query(target: &[u8]) -> (&[u8], &[u8]) {
    match target.iter().position(|&byte| byte == b'?') {
        Some(at) => {
            let (path, query) = target.split_at_checked(at).unwrap_or((target, b""));
            (path, query.get(1..).unwrap_or_default())
        }
        None => (target, b""),
    }
}
