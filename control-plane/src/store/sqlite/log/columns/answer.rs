//! A question over all segments.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

use ipnet::IpNet;
use ipwarden::record::Verdict;
use rusqlite::Transaction;

use super::build::{gaps, of_records};
use super::filter::{Test, tests};
use super::pseudonym;
use super::segment::{
    CODES, COLUMNS, Cell, Codes, Column, Entry, ROWS, SERIES, Segment, V4, decode_entries,
    decode_series,
};
use super::summary::{self, Node};
use super::tally::{Counted, Tally};
use crate::store::sqlite::database::Work;
use crate::store::sqlite::readers::Helpers;
use crate::store::stats::{
    Dimension, MAX_BUCKETS, MAX_TOP, Stats, StatsQuery, Top, TopRow, Totals, VERDICTS,
};

/// Fewer nodes than this are counted by one thread.
const FEW_NODES: usize = 8;

/// Answers a question, with the help of others where there is much to count. Without both ends
/// of its span, or for an empty one, nothing is counted.
pub(in super::super) fn answer(
    tx: &Transaction<'_>,
    query: &StatsQuery,
    helpers: &Helpers,
) -> Work<Stats> {
    let (first, end) = query.slots().unwrap_or((0, 0));
    let conditions = if first < end { tests(tx, &query.filter)? } else { None };
    let count = match conditions {
        None => Count::new(query, (first, end), Vec::new()),
        Some(conditions) => count(tx, query, (first, end), &conditions, helpers)?,
    };
    let Count { now, before, .. } = count;
    let total = now.total;
    let total_before = before.as_ref().map(|before| before.total);
    let (series, tallies) = now.end();
    let (series_before, tallies_before) = before.map(Sums::end).unwrap_or_default();
    let mut past = tallies_before.into_iter();
    let tops = tallies
        .into_iter()
        .zip(&query.tops)
        .map(|(counted, (dimension, most))| top(tx, *dimension, &counted, past.next(), *most))
        .collect::<Work<_>>()?;
    Ok(Stats {
        first_slot: first,
        end_slot: end,
        total,
        before: total_before,
        series,
        series_before,
        tops,
    })
}

/// Counts everything that meets some conditions.
fn count(
    tx: &Transaction<'_>,
    query: &StatsQuery,
    span: (i64, i64),
    conditions: &[(Column, Test)],
    helpers: &Helpers,
) -> Work<Count> {
    let mut mine = Count::new(query, span, conditions.to_vec());
    let spans: Vec<(i64, i64)> =
        mine.before.iter().chain([&mine.now]).map(|sums| (sums.first, sums.end)).collect();
    // Without a condition the counts of summaries say everything.
    let level = if conditions.is_empty() { summary::LEVELS } else { 0 };
    let nodes = nodes_of(tx, &spans, level)?;
    // Nodes never change, so it does not matter that others read at another moment: what they
    // find is the same, or they find that it is gone.
    let next = AtomicUsize::new(0);
    let take_nodes = |tx: &Transaction<'_>, count: &mut Count| -> Work<()> {
        while let Some(&node) = nodes.get(next.fetch_add(1, Ordering::Relaxed)) {
            count.take(tx, &mut Source::Stored { tx, node })?;
        }
        Ok(())
    };
    let mut by_me = || {
        let outcome = take_nodes(tx, &mut mine).and_then(|()| take_gaps(tx, &mut mine));
        if outcome.is_err() {
            next.store(nodes.len(), Ordering::Relaxed);
        }
        outcome
    };
    if nodes.len() < FEW_NODES {
        by_me()?;
        return Ok(mine);
    }
    let (outcome, others) = helpers.beside(&mut by_me, |tx| {
        let mut count = Count::new(query, span, conditions.to_vec());
        take_nodes(tx, &mut count).map(|()| count)
    });
    outcome?;
    if others.iter().any(Result::is_err) {
        // It changed under their hands: once more, alone.
        return self::count(tx, query, span, conditions, &Helpers::none());
    }
    others.into_iter().flatten().for_each(|other| mine.absorb(other));
    Ok(mine)
}

/// What one thread counts: a span and, where that was asked for, the one before it.
struct Count {
    now: Sums,
    before: Option<Sums>,
    conditions: Vec<(Column, Test)>,
}

impl Count {
    fn new(query: &StatsQuery, (first, end): (i64, i64), conditions: Vec<(Column, Test)>) -> Self {
        let span = end - first;
        let step = if query.step_slots > 0 {
            query.step_slots.max(span.div_euclid(MAX_BUCKETS) + 1)
        } else {
            0
        };
        Self {
            now: Sums::new(first, end, step, query),
            before: query.compare.then(|| Sums::new(first - span, first, step, query)),
            conditions,
        }
    }

    fn take(&mut self, tx: &Transaction<'_>, source: &mut Source<'_>) -> Work<()> {
        self.now.take(tx, source, &mut self.conditions)?;
        match &mut self.before {
            Some(before) => before.take(tx, source, &mut self.conditions),
            None => Ok(()),
        }
    }

    /// Takes what another thread counted of the same question.
    fn absorb(&mut self, other: Self) {
        self.now.absorb(other.now);
        if let (Some(before), Some(other)) = (&mut self.before, other.before) {
            before.absorb(other);
        }
    }
}

/// Where the columns of a segment come from.
enum Source<'s> {
    /// Made of records just now.
    Memory(&'s Segment),
    /// Pieces on the disk.
    Stored { tx: &'s Transaction<'s>, node: Node },
}

impl Source<'_> {
    fn slots(&self) -> (i64, i64) {
        match self {
            Self::Memory(segment) => (segment.first_slot, segment.last_slot),
            Self::Stored { node, .. } => node.slots,
        }
    }

    fn rows(&self) -> usize {
        match self {
            Self::Memory(segment) => segment.rows,
            Self::Stored { node, .. } => node.rows(),
        }
    }

    fn entries(&mut self, column: Column) -> Work<Cow<'_, [Entry]>> {
        match self {
            Self::Memory(segment) => Ok(segment
                .columns
                .get(column as usize)
                .map(|(entries, _)| entries)
                .map_or(Cow::Owned(Vec::new()), |entries| Cow::Borrowed(entries.as_slice()))),
            Self::Stored { tx, node } => {
                node.read(tx, column as u8, decode_entries).map(Cow::Owned)
            }
        }
    }

    fn codes(&mut self, column: Column) -> Work<Cow<'_, Codes>> {
        match self {
            Self::Memory(segment) => Ok(segment
                .columns
                .get(column as usize)
                .map_or(Cow::Owned(Codes::One), |(_, codes)| Cow::Borrowed(codes))),
            Self::Stored { tx, node } => {
                node.read(tx, CODES + column as u8, Codes::decode).map(Cow::Owned)
            }
        }
    }

    fn series(&mut self) -> Work<Cow<'_, [Cell]>> {
        match self {
            Self::Memory(segment) => Ok(Cow::Borrowed(&segment.series)),
            Self::Stored { tx, node } => node.read(tx, SERIES, decode_series).map(Cow::Owned),
        }
    }
}

/// What holds records of the spans, each record once: summaries up to a level where they lie in
/// one span as a whole, and the segments of the rest.
fn nodes_of(tx: &Transaction<'_>, spans: &[(i64, i64)], level: i64) -> Work<Vec<Node>> {
    let mut out: Vec<Node> = Vec::new();
    for level in (0..=level).rev() {
        let above = out.len();
        for node in summary::nodes(tx, level)? {
            let overlaps = |&(first, end): &(i64, i64)| node.slots.1 >= first && node.slots.0 < end;
            let holds = |&(first, end): &(i64, i64)| node.slots.0 >= first && node.slots.1 < end;
            let covers = |of: &Node| of.ids.0 <= node.ids.0 && node.ids.1 <= of.ids.1;
            let is_covered = out.iter().take(above).any(covers);
            let is_whole = level == 0 || spans.iter().any(holds);
            if !is_covered && is_whole && spans.iter().any(overlaps) {
                out.push(node);
            }
        }
    }
    Ok(out)
}

/// Counts the records that have no segment.
fn take_gaps(tx: &Transaction<'_>, count: &mut Count) -> Work<()> {
    for (begin, last) in gaps(tx)? {
        let mut at = begin;
        while at <= last {
            let piece_end = last.min(at + ROWS as i64 - 1);
            let segment = of_records(tx, (at, piece_end))?;
            count.take(tx, &mut Source::Memory(&segment))?;
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
        let mut chosen: Option<Vec<u32>> = None;
        if first_slot < self.first || last_slot >= self.end {
            let inside = self.first.cast_unsigned().into()..self.end.cast_unsigned().into();
            let meets: Vec<bool> = source
                .entries(Column::Slot)?
                .iter()
                .map(|entry| inside.contains(&entry.value))
                .collect();
            if !narrow(&mut chosen, source, Column::Slot, &meets)? {
                return Ok(());
            }
        }
        for (column, test) in conditions {
            let meets = source
                .entries(*column)?
                .iter()
                .map(|entry| test.meets(tx, entry.value))
                .collect::<Work<Vec<bool>>>()?;
            if !narrow(&mut chosen, source, *column, &meets)? {
                return Ok(());
            }
        }
        match chosen {
            None => self.take_all(source),
            Some(chosen) => self.take_some(source, &chosen),
        }
    }

    /// A segment that belongs to the span as a whole: its dictionaries say everything.
    fn take_all(&mut self, source: &mut Source<'_>) -> Work<()> {
        for cell in source.series()?.iter() {
            self.put(cell.slot, cell.verdict, cell.requests);
        }
        for column in self.columns() {
            let entries = source.entries(column)?.into_owned();
            self.add(column, entries);
        }
        Ok(())
    }

    /// Some records of a segment.
    fn take_some(&mut self, source: &mut Source<'_>, chosen: &[u32]) -> Work<()> {
        let weights = per_record(source, Column::Weight, chosen)?;
        let verdicts = per_record(source, Column::Verdict, chosen)?;
        let slots = per_record(source, Column::Slot, chosen)?;
        let records: Vec<(u64, bool)> = weights
            .iter()
            .zip(&verdicts)
            .map(|(&weight, &verdict)| {
                let verdict = u8::try_from(verdict).ok().and_then(Verdict::from_code);
                (weight, verdict.is_some_and(Verdict::is_refusal))
            })
            .collect();
        for ((&slot, &verdict), (weight, _)) in slots.iter().zip(&verdicts).zip(&records) {
            let slot = i64::try_from(slot).unwrap_or(i64::MAX);
            self.put(slot, usize::try_from(verdict).unwrap_or(VERDICTS), *weight);
        }
        for column in self.columns() {
            let mut entries = source.entries(column)?.into_owned();
            entries.iter_mut().for_each(|entry| (entry.requests, entry.refused) = (0, 0));
            source.codes(column)?.each(chosen, |place, code| {
                if let (Some(entry), Some((weight, is_refused))) =
                    (entries.get_mut(code), records.get(place))
                {
                    entry.requests = entry.requests.saturating_add(*weight);
                    entry.refused =
                        entry.refused.saturating_add(if *is_refused { *weight } else { 0 });
                }
            });
            entries.retain(|entry| entry.requests > 0);
            self.add(column, entries);
        }
        Ok(())
    }

    /// Adds what was counted of a column to all that count it.
    fn add(&mut self, column: Column, entries: Vec<Entry>) {
        let mut tallies: Vec<_> = self.tallies_of(column).collect();
        let last = tallies.pop();
        for (dimension, tally) in tallies {
            tally.add(run(*dimension, entries.clone()));
        }
        if let Some((dimension, tally)) = last {
            tally.add(run(*dimension, entries));
        }
    }

    /// Takes what another thread counted of the same span.
    fn absorb(&mut self, other: Self) {
        self.total.add(&other.total);
        self.series.iter_mut().zip(&other.series).for_each(|(sum, more)| sum.add(more));
        for ((_, tally), (_, more)) in self.tallies.iter_mut().zip(other.tallies) {
            tally.absorb(more);
        }
    }

    /// Its series and what was counted, in the order of the dimensions.
    fn end(self) -> (Vec<Totals>, Vec<Counted>) {
        (self.series, self.tallies.into_iter().map(|(_, tally)| tally.end()).collect())
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
fn per_record(source: &mut Source<'_>, column: Column, records: &[u32]) -> Work<Vec<u64>> {
    let narrow = |entry: &Entry| u64::try_from(entry.value).unwrap_or(u64::MAX);
    let values: Vec<u64> = source.entries(column)?.iter().map(narrow).collect();
    let mut out = Vec::with_capacity(records.len());
    source.codes(column)?.each(records, |_, code| {
        out.push(values.get(code).copied().unwrap_or_default());
    });
    Ok(out)
}

/// Keeps the records whose value meets a condition; `false` when none is left.
fn narrow(
    chosen: &mut Option<Vec<u32>>,
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
    let left = match chosen.take() {
        None => codes.chosen(rows, meets),
        Some(before) => {
            let mut left = Vec::with_capacity(before.len());
            codes.each(&before, |place, code| {
                if meets.get(code).copied().unwrap_or_default() {
                    left.extend(before.get(place));
                }
            });
            left
        }
    };
    let is_any = !left.is_empty();
    *chosen = Some(left);
    Ok(is_any)
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

/// What a dictionary says of a dimension, sorted by value.
fn run(dimension: Dimension, mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.retain_mut(|entry| {
        let value = counted_as(dimension, entry.value);
        entry.value = value.unwrap_or_default();
        entry.requests > 0 && value.is_some()
    });
    // Networks are in the order of their addresses, but for IPv6 around where IPv4 is mapped to.
    if !entries.is_sorted_by_key(|entry| entry.value) {
        entries.sort_unstable_by_key(|entry| entry.value);
    }
    entries.dedup_by(|next, kept| {
        let is_same = next.value == kept.value;
        if is_same {
            *kept = kept.and(next);
        }
        is_same
    });
    entries
}

/// What a value counts for; `None` for nothing.
fn counted_as(dimension: Dimension, value: u128) -> Option<u128> {
    match dimension {
        // 0 is no address, no rule, no autonomous system: nobody to name.
        Dimension::Address
        | Dimension::Network
        | Dimension::Pseudonym
        | Dimension::PseudonymNetwork
        | Dimension::Rule
        | Dimension::Asn
            if value == 0 =>
        {
            None
        }
        // /24 of what is mapped, /48 of the rest.
        Dimension::Network if value >> 32 == V4 >> 32 => Some(value >> 8 << 8),
        Dimension::Network => Some(value >> 80 << 80),
        Dimension::PseudonymNetwork => Some(pseudonym::network(value)),
        _ => Some(value),
    }
}

fn top(
    tx: &Transaction<'_>,
    dimension: Dimension,
    counted: &Counted,
    past: Option<Counted>,
    most: usize,
) -> Work<Top> {
    let rows = counted
        .top(most.min(MAX_TOP))
        .into_iter()
        .map(|entry| {
            Ok(TopRow {
                key: key(tx, dimension, entry.value)?,
                requests: entry.requests,
                refused: entry.refused,
                before: past.as_ref().map(|past| past.requests(entry.value)),
            })
        })
        .collect::<Work<_>>()?;
    Ok(Top { rows, distinct: counted.distinct(), approximate: counted.is_approximate() })
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
