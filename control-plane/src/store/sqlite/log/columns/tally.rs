//! Counting by one dimension over many segments, in bounded memory.

use hashbrown::HashMap;

use super::segment::Entry;

/// Values counted at once. With more, the rarer half is dropped and the answer says so.
const VALUES: usize = 400_000;

/// Requests and refused requests by value.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: HashMap<u128, (u64, u64)>,
    dropped: bool,
}

impl Tally {
    /// Adds what was counted of a value; without requests there is none.
    #[inline]
    pub(super) fn add(&mut self, value: u128, requests: u64, refused: u64) {
        if requests == 0 {
            return;
        }
        if self.counts.len() >= VALUES && !self.counts.contains_key(&value) {
            self.drop_rare();
        }
        let (all, bad) = self.counts.entry(value).or_default();
        *all = all.saturating_add(requests);
        *bad = bad.saturating_add(refused);
    }

    /// Requests of a value.
    pub(super) fn requests(&self, value: u128) -> u64 {
        self.counts.get(&value).map_or(0, |(requests, _)| *requests)
    }

    /// How many values there are.
    pub(super) fn distinct(&self) -> u64 {
        self.counts.len() as u64
    }

    /// Whether rare values were dropped.
    pub(super) fn is_approximate(&self) -> bool {
        self.dropped
    }

    /// The most frequent values; of equally frequent ones the lowest.
    pub(super) fn top(&self, most: usize) -> Vec<Entry> {
        let entry = |(&value, &(requests, refused)): (&u128, &(u64, u64))| Entry {
            value,
            requests,
            refused,
        };
        let mut all: Vec<Entry> = self.counts.iter().map(entry).collect();
        let order = |a: &Entry, b: &Entry| b.requests.cmp(&a.requests).then(a.value.cmp(&b.value));
        if most == 0 {
            return Vec::new();
        }
        if all.len() > most {
            all.select_nth_unstable_by(most - 1, order);
            all.truncate(most);
        }
        all.sort_unstable_by(order);
        all
    }

    /// Keeps the more frequent half.
    fn drop_rare(&mut self) {
        self.dropped = true;
        let mut counts: Vec<u64> = self.counts.values().map(|(requests, _)| *requests).collect();
        let middle = counts.len() / 2;
        let (_, &mut least, _) = counts.select_nth_unstable(middle);
        self.counts.retain(|_, (requests, _)| *requests > least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_come_first_and_of_equals_the_lowest() {
        let mut tally = Tally::default();
        for (value, requests) in [(5, 1), (3, 4), (9, 4), (1, 2), (5, 1)] {
            tally.add(value, requests, 0);
        }
        let values: Vec<u128> = tally.top(3).iter().map(|entry| entry.value).collect();
        assert_eq!(values, [3, 9, 1]);
        assert_eq!((tally.distinct(), tally.requests(5), tally.top(0).len()), (4, 2, 0));
    }

    #[test]
    fn a_flood_of_values_drops_the_rare_ones_says_so_and_keeps_the_frequent_one() {
        let mut tally = Tally::default();
        tally.add(7, 1_000, 1_000);
        for value in 0..2 * VALUES as u128 {
            tally.add(1_000 + value, 1, 0);
        }
        assert!(tally.is_approximate() && tally.distinct() <= VALUES as u64);
        assert_eq!(tally.top(1), [Entry { value: 7, requests: 1_000, refused: 1_000 }]);
    }
}
