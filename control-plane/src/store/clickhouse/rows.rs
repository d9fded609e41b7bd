//! RowBinary, ClickHouse's own format for rows: written for inserts, read from answers.

use std::net::IpAddr;

use ipwarden::address::fold;
use ipwarden::bytes::{Malformed, Reader, put_varint};

use crate::store::StoreError;

/// Rows on their way into a table.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

macro_rules! numbers {
    ($($name:ident)*) => {
        impl Writer {
            $(pub(super) fn $name(&mut self, value: $name) -> &mut Self {
                self.0.extend_from_slice(&value.to_le_bytes());
                self
            })*
        }
        impl Row<'_> {
            $(pub(super) fn $name(&mut self) -> Read<$name> {
                self.0.array().map($name::from_le_bytes).map_err(damaged)
            })*
        }
    };
}

numbers! { u8 u16 u32 u64 i32 i64 }

impl Writer {
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        put_varint(&mut self.0, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }
}

/// Result of reading an answer.
pub(super) type Read<T> = Result<T, StoreError>;

/// A row of an answer, field by field.
pub(super) struct Row<'a>(Reader<'a>);

impl<'a> Row<'a> {
    pub(super) fn bytes(&mut self) -> Read<&'a [u8]> {
        let length = self.0.varint().map_err(damaged)?;
        let length = usize::try_from(length).map_err(|_| damaged(Malformed))?;
        self.0.take(length).map_err(damaged)
    }

    pub(super) fn f64(&mut self) -> Read<f64> {
        self.u64().map(f64::from_bits)
    }

    pub(super) fn text(&mut self) -> Read<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| damaged(Malformed))
    }

    /// An array, element by element.
    pub(super) fn list<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Read<T>,
    ) -> Read<Vec<T>> {
        let length = self.0.varint().map_err(damaged)?;
        (0..length).map(|_| element(self)).collect()
    }

    /// An address: 16 bytes and its family.
    pub(super) fn ip(&mut self) -> Read<Option<IpAddr>> {
        let bytes = self.bytes()?;
        match self.u8()? {
            NO_FAMILY => Ok(None),
            _ => ip_of(bytes).map(Some).ok_or_else(|| damaged(Malformed)),
        }
    }
}

/// Reads all rows of an answer.
pub(super) fn read<T>(answer: &[u8], mut row: impl FnMut(&mut Row<'_>) -> Read<T>) -> Read<Vec<T>> {
    let mut reader = Row(Reader::new(answer));
    let mut out = Vec::new();
    while !reader.0.is_empty() {
        out.push(row(&mut reader)?);
    }
    Ok(out)
}

fn damaged(_: Malformed) -> StoreError {
    StoreError::Internal("ClickHouse answered with rows that can't be read".to_owned())
}

/// Family of a record without an address.
pub(super) const NO_FAMILY: u8 = 0;

/// The bytes of an address, IPv4 mapped, and its family.
pub(super) fn octets(ip: IpAddr) -> ([u8; 16], u8) {
    match fold(ip) {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped().octets(), 4),
        IpAddr::V6(ip) => (ip.octets(), 6),
    }
}

/// The address of 16 bytes.
pub(super) fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    Some(fold(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)))
}

/// Bytes as an expression: no character of them is ever part of a statement.
pub(super) fn literal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(bytes.len() * 4 + 2);
    out.push('\'');
    for byte in bytes {
        // Writing to a string can't fail.
        let _ = write!(out, "\\x{byte:02x}");
    }
    out.push('\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_were_written() {
        let mut writer = Writer::default();
        writer.i64(-7).bytes(b"a'\\\0").u16(65_535).u64(0.5f64.to_bits());
        writer.i64(8).bytes(&[1; 300]).u16(0).u64(0);
        let rows =
            read(&writer.0, |row| Ok((row.i64()?, row.bytes()?.to_vec(), row.u16()?, row.f64()?)));
        let rows = rows.unwrap();
        assert_eq!(rows[0], (-7, b"a'\\\0".to_vec(), 65_535, 0.5));
        assert_eq!((rows[1].0, rows[1].1.len()), (8, 300));
        let error = read(&writer.0[..9], |row| Ok((row.i64()?, row.text()?))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "store failed: ClickHouse answered with rows that can't be read"
        );
    }

    #[test]
    fn nothing_of_a_literal_is_part_of_the_statement() {
        assert_eq!(literal(b"a')\\\xff"), r"'\x61\x27\x29\x5c\xff'");
        assert_eq!(literal(b""), "''");
    }

    #[test]
    fn addresses_of_both_families_are_16_bytes() {
        for text in ["203.0.113.7", "2001:db8::7"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(ip_of(&octets(ip).0), Some(ip));
        }
        assert_eq!(octets("::ffff:203.0.113.7".parse().unwrap()).1, 4);
        assert_eq!(ip_of(b"abc"), None);
    }
}
