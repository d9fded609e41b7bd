//! A segment: what successive records say, column by column, and its pieces as bytes.
//!
//! Pure. A column is a dictionary (sorted values with what was counted of them) and one code a
//! record, of no, one or two bytes. Most questions are answered by dictionaries alone; codes are
//! read where a condition cuts through a segment.

use hashbrown::HashMap;
use ipwarden::bytes::{Malformed, Reader, put_varint, put_varint128};
use ipwarden::record::Verdict;

use crate::store::stats::VERDICTS;

/// Records in a full segment: codes fit into two bytes.
pub(in super::super) const ROWS: usize = 32 * 1024;

/// IPv4 as IPv4-mapped IPv6 begins so.
pub(super) const V4: u128 = 0xffff << 32;

/// What a segment has a column of. The number is kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Column {
    /// Slot of the start.
    Slot = 0,
    /// Code of the verdict.
    Verdict = 1,
    /// Status.
    Status = 2,
    /// Id of a text, here and below.
    Method = 3,
    Host = 4,
    Proxy = 5,
    /// 0 for none.
    Rule = 6,
    /// Two letters as a number; 0 for none.
    Country = 7,
    /// 0 for none.
    Asn = 8,
    Path = 9,
    UserAgent = 10,
    /// IPv4 as IPv4-mapped; 0 for none.
    Address = 11,
    /// How many requests the record stands for.
    Weight = 12,
    /// See [`super::pseudonym`]; 0 for none.
    Pseudonym = 13,
    /// What the address is.
    Form = 14,
}

/// How many columns there are.
pub(super) const COLUMNS: usize = 15;
/// Number of the piece that holds requests by slot and verdict; codes of column n are piece
/// `CODES + n`, dictionaries piece n.
pub(super) const SERIES: u8 = 15;
/// See [`SERIES`].
pub(super) const CODES: u8 = 16;

/// The number of a piece among those of all segments, or of all summaries.
pub(super) fn piece_id(of: i64, number: u8) -> i64 {
    of * 32 + i64::from(number)
}

/// One record: a value of each column, in their order.
pub(super) type Row = [u128; COLUMNS];

/// One value of a dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// The value.
    pub(super) value: u128,
    /// Requests.
    pub(super) requests: u64,
    /// Those of them that were refused.
    pub(super) refused: u64,
}

impl Entry {
    /// Both together, of the same value.
    pub(super) fn and(&self, other: &Self) -> Self {
        Self {
            value: self.value,
            requests: self.requests.saturating_add(other.requests),
            refused: self.refused.saturating_add(other.refused),
        }
    }
}

/// The code of each record in a dictionary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Codes {
    /// There is one value.
    One,
    /// Up to 256 values.
    Bytes(Vec<u8>),
    /// More.
    Words(Vec<u16>),
}

impl Codes {
    /// The code of a record.
    #[cfg(test)]
    pub(super) fn get(&self, row: usize) -> usize {
        let mut found = 0;
        self.each(&[row as u32], |_, code| found = code);
        found
    }

    /// The place in `records` and the code of each of them.
    #[inline]
    pub(super) fn each(&self, records: &[u32], mut take: impl FnMut(usize, usize)) {
        let at = |row: &u32| *row as usize;
        match self {
            Self::One => (0..records.len()).for_each(|place| take(place, 0)),
            Self::Bytes(codes) => records.iter().enumerate().for_each(|(place, row)| {
                take(place, codes.get(at(row)).copied().unwrap_or_default().into());
            }),
            Self::Words(codes) => records.iter().enumerate().for_each(|(place, row)| {
                take(place, codes.get(at(row)).copied().unwrap_or_default().into());
            }),
        }
    }

    /// Of `rows` records those whose code meets a condition.
    pub(super) fn chosen(&self, rows: usize, meets: &[bool]) -> Vec<u32> {
        let met = |code: usize| meets.get(code).copied().unwrap_or_default();
        let all = 0..u32::try_from(rows).unwrap_or(u32::MAX);
        match self {
            Self::One => all.filter(|_| met(0)).collect(),
            Self::Bytes(codes) => all
                .zip(codes)
                .filter(|(_, code)| met((**code).into()))
                .map(|(row, _)| row)
                .collect(),
            Self::Words(codes) => all
                .zip(codes)
                .filter(|(_, code)| met((**code).into()))
                .map(|(row, _)| row)
                .collect(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::One => vec![0],
            Self::Bytes(codes) => std::iter::once(1).chain(codes.iter().copied()).collect(),
            Self::Words(codes) => {
                let mut out = Vec::with_capacity(1 + codes.len() * 2);
                out.push(2);
                codes.iter().for_each(|code| out.extend_from_slice(&code.to_le_bytes()));
                out
            }
        }
    }

    /// The inverse of what a piece was made of.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (&width, rest) = bytes.split_first().ok_or(Malformed)?;
        match width {
            0 => Ok(Self::One),
            1 => Ok(Self::Bytes(rest.to_vec())),
            2 => {
                let (pairs, odd) = rest.as_chunks::<2>();
                if !odd.is_empty() {
                    return Err(Malformed);
                }
                Ok(Self::Words(pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect()))
            }
            _ => Err(Malformed),
        }
    }
}

/// Requests of one slot and verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) slot: i64,
    pub(super) verdict: usize,
    pub(super) requests: u64,
}

/// A whole segment in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) rows: usize,
    pub(super) first_slot: i64,
    pub(super) last_slot: i64,
    pub(super) columns: Vec<(Vec<Entry>, Codes)>,
    pub(super) series: Vec<Cell>,
}

impl Segment {
    /// Sorts records into columns; `rows` holds at most [`ROWS`].
    pub(super) fn build(rows: &[Row]) -> Self {
        let refused_codes: Vec<u128> = Verdict::ALL
            .into_iter()
            .filter(|verdict| verdict.is_refusal())
            .map(|verdict| u128::from(verdict as u8))
            .collect();
        let weight = |row: &Row| u64::try_from(at(row, Column::Weight)).unwrap_or(u64::MAX);
        let refused = |row: &Row| refused_codes.contains(&at(row, Column::Verdict));
        let columns = (0..COLUMNS)
            .map(|column| {
                let values = rows.iter().map(|row| row.get(column).copied().unwrap_or_default());
                let weights = rows.iter().map(|row| (weight(row), refused(row)));
                column_of(values, weights)
            })
            .collect();
        let mut cells: HashMap<(i64, usize), u64> = HashMap::new();
        for row in rows {
            let verdict = usize::try_from(at(row, Column::Verdict)).unwrap_or_default();
            let sum = cells.entry((slot(row), verdict.min(VERDICTS - 1))).or_default();
            *sum = sum.saturating_add(weight(row));
        }
        let mut series: Vec<Cell> = cells
            .into_iter()
            .map(|((slot, verdict), requests)| Cell { slot, verdict, requests })
            .collect();
        series.sort_unstable_by_key(|cell| (cell.slot, cell.verdict));
        Self {
            rows: rows.len(),
            first_slot: series.first().map_or(0, |cell| cell.slot),
            last_slot: series.last().map_or(-1, |cell| cell.slot),
            columns,
            series,
        }
    }

    /// Its pieces with their numbers.
    pub(super) fn pieces(&self) -> Vec<(u8, Vec<u8>)> {
        let mut out = vec![(SERIES, encode_series(&self.series))];
        for (number, (entries, codes)) in (0u8..).zip(&self.columns) {
            out.push((number, encode_entries(entries)));
            out.push((CODES + number, codes.encode()));
        }
        out
    }
}

fn at(row: &Row, column: Column) -> u128 {
    row.get(column as usize).copied().unwrap_or_default()
}

fn slot(row: &Row) -> i64 {
    i64::try_from(at(row, Column::Slot)).unwrap_or(i64::MAX)
}

fn column_of(
    values: impl Iterator<Item = u128> + Clone,
    weights: impl Iterator<Item = (u64, bool)>,
) -> (Vec<Entry>, Codes) {
    let mut counts: HashMap<u128, (u64, u64)> = HashMap::new();
    for (value, (weight, refused)) in values.clone().zip(weights) {
        let (all, bad) = counts.entry(value).or_default();
        *all = all.saturating_add(weight);
        if refused {
            *bad = bad.saturating_add(weight);
        }
    }
    let mut entries: Vec<Entry> = counts
        .into_iter()
        .map(|(value, (requests, refused))| Entry { value, requests, refused })
        .collect();
    entries.sort_unstable_by_key(|entry| entry.value);
    let places: HashMap<u128, usize> =
        entries.iter().enumerate().map(|(code, entry)| (entry.value, code)).collect();
    let code = |value: u128| places.get(&value).copied().unwrap_or_default();
    let codes = match entries.len() {
        0 | 1 => Codes::One,
        2..=256 => Codes::Bytes(values.map(|value| code(value) as u8).collect()),
        _ => Codes::Words(values.map(|value| code(value) as u16).collect()),
    };
    (entries, codes)
}

pub(super) fn encode_entries(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * 6 + 4);
    put_varint(&mut out, entries.len() as u64);
    let mut last = 0;
    for entry in entries {
        put_varint128(&mut out, entry.value - last);
        last = entry.value;
        put_varint(&mut out, entry.requests);
        put_varint(&mut out, entry.refused);
    }
    out
}

/// The dictionary of a piece; an entry is at least three bytes.
pub(super) fn decode_entries(bytes: &[u8]) -> Result<Vec<Entry>, Malformed> {
    let mut reader = Reader::new(bytes);
    let count = usize::try_from(reader.varint()?).map_err(|_| Malformed)?;
    if count > bytes.len() / 3 {
        return Err(Malformed);
    }
    let mut out = Vec::with_capacity(count);
    let mut value = 0u128;
    for _ in 0..count {
        value = value.checked_add(reader.varint128()?).ok_or(Malformed)?;
        out.push(Entry { value, requests: reader.varint()?, refused: reader.varint()? });
    }
    Ok(out)
}

pub(super) fn encode_series(series: &[Cell]) -> Vec<u8> {
    let mut out = Vec::with_capacity(series.len() * 4 + 4);
    put_varint(&mut out, series.len() as u64);
    let mut last = 0;
    for cell in series {
        // Slots are since 1970 and sorted.
        put_varint(&mut out, (cell.slot - last).cast_unsigned());
        last = cell.slot;
        out.push(cell.verdict as u8);
        put_varint(&mut out, cell.requests);
    }
    out
}

/// Requests by slot and verdict, out of their piece.
pub(super) fn decode_series(bytes: &[u8]) -> Result<Vec<Cell>, Malformed> {
    let mut reader = Reader::new(bytes);
    let count = usize::try_from(reader.varint()?).map_err(|_| Malformed)?;
    if count > bytes.len() / 3 {
        return Err(Malformed);
    }
    let mut out = Vec::with_capacity(count);
    let mut slot = 0i64;
    for _ in 0..count {
        slot = slot.checked_add_unsigned(reader.varint()?).ok_or(Malformed)?;
        let &[verdict] = reader.take(1)? else { return Err(Malformed) };
        let verdict = usize::from(verdict);
        if verdict >= VERDICTS {
            return Err(Malformed);
        }
        out.push(Cell { slot, verdict, requests: reader.varint()? });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row() -> impl Strategy<Value = Row> {
        (0u128..4, 0u128..7, any::<u128>(), 1u128..9, 0u128..600).prop_map(
            |(slot, verdict, address, weight, path)| {
                let mut row = [0; COLUMNS];
                row[Column::Slot as usize] = 176_000_000 + slot;
                row[Column::Verdict as usize] = verdict;
                row[Column::Address as usize] = address;
                row[Column::Weight as usize] = weight;
                row[Column::Path as usize] = path;
                row
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn columns_hold_what_the_records_say(rows in proptest::collection::vec(row(), 0..700)) {
            let segment = Segment::build(&rows);
            let pieces = segment.pieces();
            let piece = |number: u8| &pieces.iter().find(|(n, _)| *n == number).unwrap().1;
            prop_assert_eq!(decode_series(piece(SERIES)).unwrap(), segment.series.clone());
            for column in 0..COLUMNS {
                let entries = decode_entries(piece(column as u8)).unwrap();
                let codes = Codes::decode(piece(CODES + column as u8)).unwrap();
                prop_assert_eq!(&entries, &segment.columns[column].0);
                for (at, row) in rows.iter().enumerate() {
                    prop_assert_eq!(entries[codes.get(at)].value, row[column]);
                }
                let all: u64 = entries.iter().map(|entry| entry.requests).sum();
                let weights: u128 = rows.iter().map(|row| row[Column::Weight as usize]).sum();
                prop_assert_eq!(u128::from(all), weights);
            }
        }

        #[test]
        fn bytes_that_are_no_piece_are_refused_not_trusted(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_entries(&bytes);
            let _ = decode_series(&bytes);
            let _ = Codes::decode(&bytes);
        }
    }
}
