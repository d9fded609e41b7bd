//! A question over all segments.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use ipwarden::record::Verdict;
use rusqlite::{Transaction, params};

use super::build::{gaps, of_records};
use super::filter::{Test, tests};
use super::pseudonym;
use super::segment::{
    CODES, COLUMNS, Cell, Codes, Column, Entry, ROWS, SERIES, Segment, V4, decode_entries,
    decode_series,
};
use super::tally::Tally;
use crate::store::sqlite::database::{Failure, Work};
use crate::store::stats::{
    Dimension, MAX_BUCKETS, MAX_TOP, Stats, StatsQuery, Top, TopRow, Totals, VERDICTS,
};

/// Answers a question. Without both ends of its span, or for an empty one, nothing is counted.
pub(in super::super) fn answer(tx: &Transaction<'_>, query: &StatsQuery) -> Work<Stats> {
    let (first, end) = query.slots().unwrap_or((0, 0));
    let span = end - first;
    let step = if query.step_slots > 0 {
        query.step_slots.max(span.div_euclid(MAX_BUCKETS) + 1)
    } else {
        0
    };
    let mut now = Sums::new(first, end, step, query);
    let mut before = query.compare.then(|| Sums::new(first - span, first, step, query));
    if span > 0
        && let Some(mut conditions) = tests(tx, &query.filter)?
    {
        let begin = before.as_ref().map_or(first, |before| before.first);
        for_each_segment(tx, (begin, end), &mut |source| {
            now.take(tx, source, &mut conditions)?;
            match &mut before {
                Some(before) => before.take(tx, source, &mut conditions),
                None => Ok(()),
            }
        })?;
    }
    let tops = now
        .tallies
        .iter()
        .enumerate()
        .zip(&query.tops)
        .map(|((at, (dimension, tally)), (_, most))| {
            let past = before.as_ref().and_then(|before| before.tallies.get(at));
            top(tx, *dimension, tally, past.map(|(_, tally)| tally), *most)
        })
        .collect::<Work<_>>()?;
    Ok(Stats {
        first_slot: first,
        end_slot: end,
        total: now.total,
        before: before.as_ref().map(|before| before.total),
        series: now.series,
        series_before: before.map(|before| before.series).unwrap_or_default(),
        tops,
    })
}

/// Where the columns of a segment come from.
enum Source<'s> {
    /// Made of records just now.
    Memory(&'s Segment),
    /// Pieces on the disk.
    Stored { tx: &'s Transaction<'s>, id: i64, rows: usize, slots: (i64, i64) },
}

impl Source<'_> {
    fn slots(&self) -> (i64, i64) {
        match self {
            Self::Memory(segment) => (segment.first_slot, segment.last_slot),
            Self::Stored { slots, .. } => *slots,
        }
    }

    fn rows(&self) -> usize {
        match self {
            Self::Memory(segment) => segment.rows,
            Self::Stored { rows, .. } => *rows,
        }
    }

    fn entries(&mut self, column: Column) -> Work<Cow<'_, [Entry]>> {
        match self {
            Self::Memory(segment) => Ok(segment
                .columns
                .get(column as usize)
                .map(|(entries, _)| entries)
                .map_or(Cow::Owned(Vec::new()), |entries| Cow::Borrowed(entries.as_slice()))),
            Self::Stored { tx, id, .. } => {
                read(tx, *id, column as u8, decode_entries).map(Cow::Owned)
            }
        }
    }

    fn codes(&mut self, column: Column) -> Work<Cow<'_, Codes>> {
        match self {
            Self::Memory(segment) => Ok(segment
                .columns
                .get(column as usize)
                .map_or(Cow::Owned(Codes::One), |(_, codes)| Cow::Borrowed(codes))),
            Self::Stored { tx, id, .. } => {
                read(tx, *id, CODES + column as u8, Codes::decode).map(Cow::Owned)
            }
        }
    }

    fn series(&mut self) -> Work<Cow<'_, [Cell]>> {
        match self {
            Self::Memory(segment) => Ok(Cow::Borrowed(&segment.series)),
            Self::Stored { tx, id, .. } => read(tx, *id, SERIES, decode_series).map(Cow::Owned),
        }
    }
}

fn read<T>(
    tx: &Transaction<'_>,
    segment: i64,
    number: u8,
    decode: impl FnOnce(&[u8]) -> Result<T, ipwarden::bytes::Malformed>,
) -> Work<T> {
    let mut pieces = tx.prepare_cached("SELECT data FROM segment_pieces WHERE id = ?1")?;
    let mut rows = pieces.query([segment * 32 + i64::from(number)])?;
    let row = rows.next()?.ok_or_else(|| Failure::damaged("a segment lacks a piece"))?;
    let bytes = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
    decode(bytes).map_err(|_| Failure::damaged("a piece of a segment can't be read"))
}

fn for_each_segment(
    tx: &Transaction<'_>,
    (first, end): (i64, i64),
    take: &mut dyn FnMut(&mut Source<'_>) -> Work<()>,
) -> Work<()> {
    let mut statement = tx.prepare_cached(
        "SELECT id, last_id - first_id + 1, first_slot, last_slot FROM segments \
         WHERE last_slot >= ?1 AND first_slot < ?2",
    )?;
    let mut rows = statement.query(params![first, end])?;
    while let Some(row) = rows.next()? {
        let mut source = Source::Stored {
            id: row.get(0)?,
            rows: row.get::<_, i64>(1)?.unsigned_abs() as usize,
            slots: (row.get(2)?, row.get(3)?),
            tx,
        };
        take(&mut source)?;
    }
    for (begin, last) in gaps(tx)? {
        let mut at = begin;
        while at <= last {
            let piece_end = last.min(at + ROWS as i64 - 1);
            let segment = of_records(tx, (at, piece_end))?;
            take(&mut Source::Memory(&segment))?;
            at = piece_end + 1;
        }
    }
    Ok(())
}

/// What is counted in one span.
struct Sums {
    first: i64,
    end: i64,
    step: i64,
    total: Totals,
    series: Vec<Totals>,
    tallies: Vec<(Dimension, Tally)>,
}

impl Sums {
    fn new(first: i64, end: i64, step: i64, query: &StatsQuery) -> Self {
        let buckets = if step > 0 { (end - first + step - 1).div_euclid(step) } else { 0 };
        let buckets = usize::try_from(buckets).unwrap_or_default();
        Self {
            first,
            end,
            step,
            total: Totals::default(),
            series: vec![Totals::default(); buckets],
            tallies: query.tops.iter().map(|(by, _)| (*by, Tally::default())).collect(),
        }
    }

    /// Counts what a segment holds of the span.
    fn take(
        &mut self,
        tx: &Transaction<'_>,
        source: &mut Source<'_>,
        conditions: &mut [(Column, Test)],
    ) -> Work<()> {
        let (first_slot, last_slot) = source.slots();
        if last_slot < self.first || first_slot >= self.end || source.rows() == 0 {
            return Ok(());
        }
        let mut mask: Option<Vec<bool>> = None;
        if first_slot < self.first || last_slot >= self.end {
            let inside = self.first.cast_unsigned().into()..self.end.cast_unsigned().into();
            let meets: Vec<bool> = source
                .entries(Column::Slot)?
                .iter()
                .map(|entry| inside.contains(&entry.value))
                .collect();
            if !narrow(&mut mask, source, Column::Slot, &meets)? {
                return Ok(());
            }
        }
        for (column, test) in conditions {
            let values: Vec<u128> =
                source.entries(*column)?.iter().map(|entry| entry.value).collect();
            let meets = values
                .into_iter()
                .map(|value| test.meets(tx, value))
                .collect::<Work<Vec<bool>>>()?;
            if !narrow(&mut mask, source, *column, &meets)? {
                return Ok(());
            }
        }
        match mask {
            None => self.take_all(source),
            Some(mask) => self.take_some(source, &mask),
        }
    }

    /// A segment that belongs to the span as a whole: its dictionaries say everything.
    fn take_all(&mut self, source: &mut Source<'_>) -> Work<()> {
        for cell in source.series()?.iter() {
            self.put(cell.slot, cell.verdict, cell.requests);
        }
        for column in self.columns() {
            let entries = source.entries(column)?;
            for (dimension, tally) in self.tallies_of(column) {
                for entry in entries.iter() {
                    add(*dimension, tally, entry.value, entry.requests, entry.refused);
                }
            }
        }
        Ok(())
    }

    /// Some records of a segment.
    fn take_some(&mut self, source: &mut Source<'_>, mask: &[bool]) -> Work<()> {
        let chosen: Vec<usize> =
            mask.iter().enumerate().filter(|(_, chosen)| **chosen).map(|(at, _)| at).collect();
        let weights = per_record(source, Column::Weight, &chosen)?;
        let verdicts = per_record(source, Column::Verdict, &chosen)?;
        let slots = per_record(source, Column::Slot, &chosen)?;
        let records: Vec<(u64, bool)> = weights
            .iter()
            .zip(&verdicts)
            .map(|(&weight, &verdict)| {
                let verdict = u8::try_from(verdict).ok().and_then(Verdict::from_code);
                let weight = u64::try_from(weight).unwrap_or(u64::MAX);
                (weight, verdict.is_some_and(Verdict::is_refusal))
            })
            .collect();
        for ((&slot, &verdict), (weight, _)) in slots.iter().zip(&verdicts).zip(&records) {
            let slot = i64::try_from(slot).unwrap_or(i64::MAX);
            self.put(slot, usize::try_from(verdict).unwrap_or(VERDICTS), *weight);
        }
        for column in self.columns() {
            let entries = source.entries(column)?.into_owned();
            let mut sums = vec![(0u64, 0u64); entries.len()];
            let codes = source.codes(column)?;
            for (&at, (weight, refused)) in chosen.iter().zip(&records) {
                if let Some((all, bad)) = sums.get_mut(codes.get(at)) {
                    *all = all.saturating_add(*weight);
                    *bad = bad.saturating_add(if *refused { *weight } else { 0 });
                }
            }
            for (dimension, tally) in self.tallies_of(column) {
                for (entry, (requests, refused)) in entries.iter().zip(&sums) {
                    if *requests > 0 {
                        add(*dimension, tally, entry.value, *requests, *refused);
                    }
                }
            }
        }
        Ok(())
    }

    /// The columns that top lists count, each once: addresses and networks share one.
    fn columns(&self) -> Vec<Column> {
        let mut columns: Vec<Column> = Vec::new();
        for (dimension, _) in &self.tallies {
            let column = column_of(*dimension);
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        columns
    }

    fn tallies_of(&mut self, column: Column) -> impl Iterator<Item = &mut (Dimension, Tally)> {
        self.tallies.iter_mut().filter(move |(dimension, _)| column_of(*dimension) == column)
    }

    fn put(&mut self, slot: i64, verdict: usize, requests: u64) {
        let sum = |totals: &mut Totals| {
            if let Some(count) = totals.verdicts.get_mut(verdict) {
                *count = count.saturating_add(requests);
            }
        };
        sum(&mut self.total);
        if self.step > 0 {
            let bucket = usize::try_from((slot - self.first).div_euclid(self.step)).ok();
            if let Some(bucket) = bucket.and_then(|bucket| self.series.get_mut(bucket)) {
                sum(bucket);
            }
        }
    }
}

/// The value of a column in each of some records.
fn per_record(source: &mut Source<'_>, column: Column, records: &[usize]) -> Work<Vec<u128>> {
    let values: Vec<u128> = source.entries(column)?.iter().map(|entry| entry.value).collect();
    let codes = source.codes(column)?;
    Ok(records.iter().map(|&at| values.get(codes.get(at)).copied().unwrap_or_default()).collect())
}

/// Keeps the records whose value meets a condition; `false` when none is left.
fn narrow(
    mask: &mut Option<Vec<bool>>,
    source: &mut Source<'_>,
    column: Column,
    meets: &[bool],
) -> Work<bool> {
    if meets.iter().all(|meets| *meets) {
        return Ok(true);
    }
    if !meets.contains(&true) {
        return Ok(false);
    }
    let rows = source.rows();
    let codes = source.codes(column)?;
    let met = |at: usize| meets.get(codes.get(at)).copied().unwrap_or_default();
    match mask {
        None => *mask = Some((0..rows).map(met).collect()),
        Some(mask) => mask.iter_mut().enumerate().for_each(|(at, chosen)| *chosen &= met(at)),
    }
    Ok(mask.as_ref().is_some_and(|mask| mask.contains(&true)))
}

const fn column_of(dimension: Dimension) -> Column {
    match dimension {
        Dimension::Address | Dimension::Network => Column::Address,
        Dimension::Pseudonym | Dimension::PseudonymNetwork => Column::Pseudonym,
        Dimension::Asn => Column::Asn,
        Dimension::Country => Column::Country,
        Dimension::Path => Column::Path,
        Dimension::Host => Column::Host,
        Dimension::Method => Column::Method,
        Dimension::Status => Column::Status,
        Dimension::UserAgent => Column::UserAgent,
        Dimension::Rule => Column::Rule,
        Dimension::Verdict => Column::Verdict,
        Dimension::Proxy => Column::Proxy,
    }
}

fn add(dimension: Dimension, tally: &mut Tally, value: u128, requests: u64, refused: u64) {
    let value = match dimension {
        // 0 is no address, no rule, no autonomous system: nobody to name.
        Dimension::Address
        | Dimension::Network
        | Dimension::Pseudonym
        | Dimension::PseudonymNetwork
        | Dimension::Rule
        | Dimension::Asn
            if value == 0 =>
        {
            return;
        }
        // /24 of what is mapped, /48 of the rest.
        Dimension::Network if value >> 32 == V4 >> 32 => value >> 8 << 8,
        Dimension::Network => value >> 80 << 80,
        Dimension::PseudonymNetwork => pseudonym::network(value),
        _ => value,
    };
    tally.add(value, requests, refused);
}

fn top(
    tx: &Transaction<'_>,
    dimension: Dimension,
    tally: &Tally,
    past: Option<&Tally>,
    most: usize,
) -> Work<Top> {
    let rows = tally
        .top(most.min(MAX_TOP))
        .into_iter()
        .map(|entry| {
            Ok(TopRow {
                key: key(tx, dimension, entry.value)?,
                requests: entry.requests,
                refused: entry.refused,
                before: past.map(|past| past.requests(entry.value)),
            })
        })
        .collect::<Work<_>>()?;
    Ok(Top { rows, distinct: tally.distinct(), approximate: tally.is_approximate() })
}

/// A value as it is shown.
fn key(tx: &Transaction<'_>, dimension: Dimension, value: u128) -> Work<String> {
    let address = || -> IpAddr {
        let v6 = Ipv6Addr::from_bits(value);
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
    };
    Ok(match dimension {
        Dimension::Address => address().to_string(),
        Dimension::Network => {
            let ip = address();
            let prefix = if ip.is_ipv4() { 24 } else { 48 };
            IpNet::new(ip, prefix).map(|net| net.to_string()).unwrap_or_default()
        }
        Dimension::Pseudonym => pseudonym::shown(value, false),
        Dimension::PseudonymNetwork => pseudonym::shown(value, true),
        Dimension::Asn | Dimension::Status => value.to_string(),
        Dimension::Country => match u16::try_from(value) {
            Ok(0) | Err(_) => String::new(),
            Ok(code) => code.to_be_bytes().map(char::from).iter().collect(),
        },
        Dimension::Verdict => u8::try_from(value)
            .ok()
            .and_then(Verdict::from_code)
            .map(|verdict| verdict.as_str().to_owned())
            .unwrap_or_default(),
        Dimension::Path
        | Dimension::Host
        | Dimension::Method
        | Dimension::UserAgent
        | Dimension::Rule
        | Dimension::Proxy => {
            let id = i64::try_from(value).unwrap_or_default();
            tx.prepare_cached("SELECT text FROM strings WHERE id = ?1")?
                .query_row([id], |row| row.get(0))?
        }
    })
}

#[expect(dead_code, reason = "says at compile time that every column fits its piece")]
const FITS: () = assert!(COLUMNS < CODES as usize && SERIES as usize >= COLUMNS);
