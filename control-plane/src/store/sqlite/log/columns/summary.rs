//! Summaries: what some successive segments say together, for questions without conditions.
//!
//! A summary of level 1 holds the merged dictionaries of [`FAN`] segments, one of level 2 those of
//! as many summaries, and none holds codes: it tells how often each value occurs, not in which
//! record. A database of months is then answered from a few of them.

use std::collections::BTreeMap;

use ipwarden::bytes::Malformed;
use rusqlite::{Transaction, params};

use super::build::Ids;
use super::segment::{
    COLUMNS, Cell, Entry, SERIES, decode_entries, decode_series, encode_entries, encode_series,
    piece_id,
};
use super::tally::merge;
use crate::store::sqlite::database::{Failure, Work};

/// Nodes in a node of the next level.
pub(super) const FAN: usize = 4;
/// Levels above segments, which are level 0. One of the last holds half a million records: as
/// many different values at most.
pub(super) const LEVELS: i64 = 2;

/// A segment or a summary on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Node {
    level: i64,
    id: i64,
    /// Its records.
    pub(super) ids: Ids,
    /// First and last slot of them.
    pub(super) slots: (i64, i64),
}

/// A summary that was made and is not stored yet.
#[derive(Debug)]
pub(in super::super) struct Built {
    level: i64,
    of: Vec<Node>,
    pieces: Vec<(u8, Vec<u8>)>,
}

impl Node {
    /// Records, deleted ones included.
    pub(super) fn rows(&self) -> usize {
        usize::try_from(self.ids.1 - self.ids.0 + 1).unwrap_or_default()
    }

    /// One of its pieces.
    pub(super) fn read<T>(
        &self,
        tx: &Transaction<'_>,
        number: u8,
        decode: impl FnOnce(&[u8]) -> Result<T, Malformed>,
    ) -> Work<T> {
        let mut pieces = tx.prepare_cached(match self.level {
            0 => "SELECT data FROM segment_pieces WHERE id = ?1",
            _ => "SELECT data FROM summary_pieces WHERE id = ?1",
        })?;
        let mut rows = pieces.query([piece_id(self.id, number)])?;
        let row = rows.next()?.ok_or_else(|| Failure::damaged("a segment lacks a piece"))?;
        let bytes = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
        decode(bytes).map_err(|_| Failure::damaged("a piece of a segment can't be read"))
    }
}

/// All nodes of a level, in the order of their records.
pub(super) fn nodes(tx: &Transaction<'_>, level: i64) -> Work<Vec<Node>> {
    let node = |row: &rusqlite::Row<'_>| {
        Ok(Node {
            level,
            id: row.get(0)?,
            ids: (row.get(1)?, row.get(2)?),
            slots: (row.get(3)?, row.get(4)?),
        })
    };
    let found = if level == 0 {
        tx.prepare_cached(
            "SELECT id, first_id, last_id, first_slot, last_slot FROM segments ORDER BY first_id",
        )?
        .query_map([], node)?
        .collect::<rusqlite::Result<_>>()?
    } else {
        tx.prepare_cached(
            "SELECT id, first_id, last_id, first_slot, last_slot FROM summaries \
             WHERE level = ?1 ORDER BY first_id",
        )?
        .query_map([level], node)?
        .collect::<rusqlite::Result<_>>()?
    };
    Ok(found)
}

/// Makes the first summary that is missing, the lowest level first; `None` when none is.
pub(super) fn build_next(tx: &Transaction<'_>) -> Work<Option<Built>> {
    let mut below = nodes(tx, 0)?;
    for level in 1..=LEVELS {
        let above = nodes(tx, level)?;
        if let Some(of) = first_uncovered(&below, &above) {
            return build(tx, level, of).map(Some);
        }
        below = above;
    }
    Ok(None)
}

/// The first [`FAN`] nodes one behind the other, with no record between them, that no node above
/// holds.
fn first_uncovered(below: &[Node], above: &[Node]) -> Option<Vec<Node>> {
    let mut above = above.iter().peekable();
    let mut run: Vec<Node> = Vec::with_capacity(FAN);
    for node in below {
        while above.next_if(|summary| summary.ids.1 < node.ids.0).is_some() {}
        if above.peek().is_some_and(|summary| summary.ids.0 <= node.ids.0) {
            run.clear();
            continue;
        }
        if run.last().is_some_and(|last| last.ids.1 + 1 != node.ids.0) {
            run.clear();
        }
        run.push(*node);
        if run.len() == FAN {
            return Some(run);
        }
    }
    None
}

fn build(tx: &Transaction<'_>, level: i64, of: Vec<Node>) -> Work<Built> {
    let mut pieces = Vec::with_capacity(COLUMNS + 1);
    for column in (0u8..).take(COLUMNS) {
        let mut all: Vec<Entry> = Vec::new();
        for node in &of {
            all = merge(&all, &node.read(tx, column, decode_entries)?);
        }
        pieces.push((column, encode_entries(&all)));
    }
    let mut cells: BTreeMap<(i64, usize), u64> = BTreeMap::new();
    for node in &of {
        for cell in node.read(tx, SERIES, decode_series)? {
            let sum = cells.entry((cell.slot, cell.verdict)).or_default();
            *sum = sum.saturating_add(cell.requests);
        }
    }
    let series: Vec<Cell> = cells
        .into_iter()
        .map(|((slot, verdict), requests)| Cell { slot, verdict, requests })
        .collect();
    pieces.push((SERIES, encode_series(&series)));
    Ok(Built { level, of, pieces })
}

/// Stores a summary, unless one of what it sums up is gone.
pub(super) fn write(tx: &Transaction<'_>, built: &Built) -> Work<()> {
    let Built { level, of, pieces } = built;
    let now = nodes(tx, level - 1)?;
    let above = nodes(tx, *level)?;
    let (Some(first), Some(last)) = (of.first(), of.last()) else { return Ok(()) };
    // Numbers of nodes are never given twice.
    let is_taken =
        above.iter().any(|summary| summary.ids.0 <= last.ids.1 && first.ids.0 <= summary.ids.1);
    if is_taken || !of.iter().all(|node| now.contains(node)) {
        return Ok(());
    }
    let slots = of.iter().map(|node| node.slots).filter(|(first, last)| first <= last);
    let slots = slots.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or((0, -1));
    tx.prepare_cached(
        "INSERT INTO summaries (level, first_id, last_id, first_slot, last_slot) \
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![level, first.ids.0, last.ids.1, slots.0, slots.1])?;
    let id = tx.last_insert_rowid();
    let mut insert = tx.prepare_cached("INSERT INTO summary_pieces (id, data) VALUES (?1, ?2)")?;
    for (number, data) in pieces {
        insert.execute(params![piece_id(id, *number), data])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(level: i64, first: i64, last: i64) -> Node {
        Node { level, id: first, ids: (first, last), slots: (first, last) }
    }

    #[test]
    fn only_neighbours_without_a_gap_that_no_summary_holds_are_summed_up() {
        let below: Vec<Node> = (0..10).map(|n| node(0, n * 10, n * 10 + 9)).collect();
        let found = |below: &[Node], above: &[Node]| {
            first_uncovered(below, above).map(|of| (of[0].ids.0, of[FAN - 1].ids.1))
        };
        assert_eq!(found(&below, &[]), Some((0, 39)));
        assert_eq!(found(&below, &[node(1, 0, 39)]), Some((40, 79)));
        assert_eq!(found(&below, &[node(1, 0, 39), node(1, 40, 79)]), None);
        assert_eq!(found(&below, &[node(1, 40, 79)]), Some((0, 39)));
        assert_eq!(found(&below, &[node(1, 20, 59)]), Some((60, 99)));
        let with_a_gap: Vec<Node> = below.iter().filter(|node| node.id != 20).copied().collect();
        assert_eq!(found(&with_a_gap, &[]), Some((30, 69)));
        assert_eq!(found(&below[..3], &[]), None);
    }
}
