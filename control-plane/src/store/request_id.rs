//! Request ids: 16 bytes where they are UUIDs as Envoy writes them, text otherwise.

use rusqlite::types::{ToSqlOutput, Value, ValueRef};

use super::text::display_bytes;

/// Marks 16 bytes as a UUID where only strings are kept: no text that is shown begins with it.
const UUID: u8 = 0;

/// Lengths of the groups of a UUID, in bytes.
const GROUPS: [usize; 5] = [4, 2, 2, 2, 6];

/// What is kept where only strings are: [`UUID`] and 16 bytes, or a text; nothing for none.
pub(super) fn to_bytes(bytes: &[u8]) -> Vec<u8> {
    match parse(bytes) {
        Some(uuid) => std::iter::once(UUID).chain(uuid).collect(),
        None => display_bytes(bytes).into_owned().into_bytes(),
    }
}

/// The id of what [`to_bytes`] made; `None` for anything else.
pub(super) fn from_bytes(stored: &[u8]) -> Option<String> {
    match stored {
        [UUID, uuid @ ..] => Some(format(uuid.try_into().ok()?)),
        text => std::str::from_utf8(text).ok().map(str::to_owned),
    }
}

/// What is stored: a blob of 16 bytes, a text, or NULL for none.
pub(super) fn to_sql(bytes: &[u8]) -> ToSqlOutput<'static> {
    ToSqlOutput::Owned(match parse(bytes) {
        _ if bytes.is_empty() => Value::Null,
        Some(uuid) => Value::Blob(uuid.to_vec()),
        None => Value::Text(display_bytes(bytes).into_owned()),
    })
}

/// The id of what is stored; `None` for something that [`to_sql`] never makes.
pub(super) fn from_sql(stored: ValueRef<'_>) -> Option<String> {
    match stored {
        ValueRef::Null => Some(String::new()),
        ValueRef::Text(text) => std::str::from_utf8(text).ok().map(str::to_owned),
        ValueRef::Blob(uuid) => Some(format(uuid.try_into().ok()?)),
        ValueRef::Integer(_) | ValueRef::Real(_) => None,
    }
}

/// Reads `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` in lower case, so that it is written back
/// as it was.
fn parse(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 36 {
        return None;
    }
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut uuid = [0; 16];
    let mut places = uuid.iter_mut();
    for (group, length) in text.split(|&b| b == b'-').zip(GROUPS) {
        if group.len() != 2 * length {
            return None;
        }
        for pair in group.chunks_exact(2) {
            *places.next()? = digit(pair[0])? << 4 | digit(pair[1])?;
        }
    }
    places.next().is_none().then_some(uuid)
}

fn format(uuid: [u8; 16]) -> String {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let mut out = String::with_capacity(36);
    for (at, byte) in uuid.into_iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn round_trip(id: &str, is_uuid: bool) {
        let ToSqlOutput::Owned(value) = to_sql(id.as_bytes()) else { panic!("{id}") };
        assert_eq!(matches!(value, Value::Blob(_)), is_uuid, "{id}");
        assert_eq!(from_sql((&value).into()).as_deref(), Some(id));
        let bytes = to_bytes(id.as_bytes());
        assert_eq!(bytes.len() == 17, is_uuid, "{id}");
        assert_eq!(from_bytes(&bytes).as_deref(), Some(id));
    }

    #[test]
    fn every_id_comes_back_as_it_was() {
        round_trip("5c3a1f0e-9b2d-4c11-8a7f-0123456789ab", true);
        round_trip("5C3A1F0E-9B2D-4C11-8A7F-0123456789AB", false);
        round_trip("5c3a1f0e9b2d-4c11-8a7f-0123456789ab-", false);
        round_trip("5c3a1f0e-9b2d-4c11-8a7f-0123456789a-", false);
        round_trip("5c3a1f0e-9b2d-4c11-8a7f-0123456789ag", false);
        round_trip("------------------------------------", false);
        round_trip("request 7", false);
        round_trip("", false);
    }
}
