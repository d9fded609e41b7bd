//! Counting by one dimension over many segments, in bounded memory.
//!
//! What segments say comes sorted by value, so counts are merged like the runs of a merge sort:
//! one after the other through memory, which is several times faster than a table of hashes.

use super::segment::Entry;

/// Values counted at once. With more, the rarer half is dropped and the answer says so.
const VALUES: usize = 400_000;

/// Requests and refused requests by value, in the making.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Each sorted by value, and each less than half as long as the one before.
    runs: Vec<Vec<Entry>>,
    dropped: bool,
}

impl Tally {
    /// Adds what was counted somewhere: sorted by value, each value once.
    pub(super) fn add(&mut self, run: Vec<Entry>) {
        debug_assert!(run.is_sorted_by(|a, b| a.value < b.value));
        if run.is_empty() {
            return;
        }
        self.push(run);
        self.merge_while(|before, last| before.len() < 2 * last.len());
    }

    /// Takes all that another one counted.
    pub(super) fn absorb(&mut self, other: Self) {
        self.dropped |= other.dropped;
        other.runs.into_iter().for_each(|run| self.add(run));
    }

    /// All that was counted.
    pub(super) fn end(mut self) -> Counted {
        self.merge_while(|_, _| true);
        Counted { entries: self.runs.pop().unwrap_or_default(), is_approximate: self.dropped }
    }

    /// Merges the last two runs as long as they should be one.
    fn merge_while(&mut self, should: impl Fn(&[Entry], &[Entry]) -> bool) {
        while let [.., before, last] = self.runs.as_slice()
            && should(before, last)
        {
            let merged = merge(before, last);
            self.runs.truncate(self.runs.len() - 2);
            self.push(merged);
        }
    }

    fn push(&mut self, mut run: Vec<Entry>) {
        if run.len() > VALUES {
            self.dropped = true;
            drop_rare(&mut run);
        }
        self.runs.push(run);
    }
}

/// Requests and refused requests by value.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// Sorted by value.
    entries: Vec<Entry>,
    is_approximate: bool,
}

impl Counted {
    /// Requests of a value.
    pub(super) fn requests(&self, value: u128) -> u64 {
        let found = self.entries.binary_search_by_key(&value, |entry| entry.value).ok();
        found.and_then(|at| self.entries.get(at)).map_or(0, |entry| entry.requests)
    }

    /// How many values there are.
    pub(super) fn distinct(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Whether rare values were dropped.
    pub(super) fn is_approximate(&self) -> bool {
        self.is_approximate
    }

    /// The most frequent values; of equally frequent ones the lowest.
    pub(super) fn top(&self, most: usize) -> Vec<Entry> {
        let order = |a: &Entry, b: &Entry| b.requests.cmp(&a.requests).then(a.value.cmp(&b.value));
        if most == 0 {
            return Vec::new();
        }
        let mut all = self.entries.clone();
        if all.len() > most {
            all.select_nth_unstable_by(most - 1, order);
            all.truncate(most);
        }
        all.sort_unstable_by(order);
        all
    }
}

/// Two lists that are sorted by value as one.
pub(super) fn merge(mut a: &[Entry], mut b: &[Entry]) -> Vec<Entry> {
    let mut out = Vec::with_capacity(a.len() + b.len());
    while let ([first_a, rest_a @ ..], [first_b, rest_b @ ..]) = (a, b) {
        if first_a.value < first_b.value {
            out.push(*first_a);
            a = rest_a;
        } else if first_b.value < first_a.value {
            out.push(*first_b);
            b = rest_b;
        } else {
            out.push(first_a.and(first_b));
            (a, b) = (rest_a, rest_b);
        }
    }
    out.extend_from_slice(a);
    out.extend_from_slice(b);
    out
}

/// Keeps the more frequent half.
fn drop_rare(entries: &mut Vec<Entry>) {
    let mut counts: Vec<u64> = entries.iter().map(|entry| entry.requests).collect();
    let middle = counts.len() / 2;
    let (_, &mut least, _) = counts.select_nth_unstable(middle);
    entries.retain(|entry| entry.requests > least);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    fn run(counts: &[(u128, u64)]) -> Vec<Entry> {
        counts.iter().map(|&(value, requests)| Entry { value, requests, refused: 0 }).collect()
    }

    #[test]
    fn the_most_frequent_come_first_and_of_equals_the_lowest() {
        let mut tally = Tally::default();
        tally.add(run(&[(1, 2), (3, 4), (5, 1), (9, 4)]));
        tally.add(run(&[(5, 1)]));
        let counted = tally.end();
        let values: Vec<u128> = counted.top(3).iter().map(|entry| entry.value).collect();
        assert_eq!(values, [3, 9, 1]);
        assert_eq!((counted.distinct(), counted.requests(5), counted.top(0).len()), (4, 2, 0));
    }

    #[test]
    fn a_flood_of_values_drops_the_rare_ones_says_so_and_keeps_the_frequent_one() {
        let mut tally = Tally::default();
        tally.add(run(&[(7, 1_000)]));
        for piece in 0..20u128 {
            let first = 1_000 + piece * VALUES as u128 / 10;
            let flood: Vec<_> =
                (first..first + VALUES as u128 / 10).map(|value| (value, 1)).collect();
            tally.add(run(&flood));
        }
        let counted = tally.end();
        assert!(counted.is_approximate() && counted.distinct() <= VALUES as u64);
        assert_eq!(counted.top(1), run(&[(7, 1_000)]));
    }

    #[test]
    fn one_run_of_too_many_values_is_bounded_as_well() {
        let mut tally = Tally::default();
        let mut many: Vec<_> = (0..=VALUES as u128).map(|value| (value, 1)).collect();
        many[3].1 = 9;
        tally.add(run(&many));
        let counted = tally.end();
        assert!(counted.is_approximate());
        assert_eq!(counted.entries, run(&[(3, 9)]));
    }

    proptest! {
        #[test]
        fn runs_count_as_one_table_would(
            runs in proptest::collection::vec(proptest::collection::btree_map(0u128..50, 1u64..9, 0..20), 0..12),
        ) {
            let mut tally = Tally::default();
            let mut table: BTreeMap<u128, u64> = BTreeMap::new();
            for counts in &runs {
                let counts: Vec<(u128, u64)> = counts.iter().map(|(&value, &n)| (value, n)).collect();
                counts.iter().for_each(|(value, n)| *table.entry(*value).or_default() += n);
                tally.add(run(&counts));
            }
            let counted = tally.end();
            let table: Vec<(u128, u64)> = table.into_iter().collect();
            prop_assert_eq!(counted.entries, run(&table));
            prop_assert!(!counted.is_approximate);
        }
    }
}
