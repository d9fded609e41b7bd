//! Which batches of a worker have arrived: each is stored once, in whatever order and
//! however often it comes.
//!
//! Kept are a watermark, up to which all have arrived, and the ranges that arrived beyond
//! it. A gap stays open when the filter gave a batch up, so the ranges are bounded: past
//! the bound the lowest gap is closed, and what belongs into it would count as a duplicate.
//! A filter has a handful of batches under way; a gap [`MAX_RANGES`] gaps old is a batch
//! that was lost and counted.

use std::collections::BTreeMap;

use ipwarden::bytes::{Malformed, Reader, put_varint};

/// Most ranges kept beyond the watermark.
pub(super) const MAX_RANGES: usize = 1_024;

/// The numbers of the batches that have arrived; numbers begin with 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// All up to this have arrived.
    watermark: u64,
    /// First to last, apart from each other and from the watermark.
    ahead: BTreeMap<u64, u64>,
}

impl Numbers {
    /// Notes a number. `false` when it was there before (as 0 always is).
    pub(super) fn insert(&mut self, number: u64) -> bool {
        if number <= self.watermark {
            return false;
        }
        let below = self.ahead.range(..=number).next_back().map(|(&first, &last)| (first, last));
        if below.is_some_and(|(_, last)| number <= last) {
            return false;
        }
        let mut range = (number, number);
        if let Some((first, last)) = below
            && last + 1 == number
        {
            range.0 = first;
        }
        if let Some(next) = number.checked_add(1)
            && let Some(last) = self.ahead.remove(&next)
        {
            range.1 = last;
        }
        self.ahead.insert(range.0, range.1);
        self.settle();
        true
    }

    /// Moves the watermark over what it touches, and over a gap when there are too many.
    fn settle(&mut self) {
        while let Some(lowest) = self.ahead.first_entry() {
            let touches = *lowest.key() == self.watermark + 1;
            if touches || self.ahead.len() > MAX_RANGES {
                let Some((_, last)) = self.ahead.pop_first() else { return };
                self.watermark = last;
            } else {
                return;
            }
        }
    }

    /// All up to this have arrived.
    pub(super) fn watermark(&self) -> u64 {
        self.watermark
    }

    /// The ranges beyond the watermark, as distances from each to the next.
    pub(super) fn encode_ahead(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut end = self.watermark;
        for (first, last) in &self.ahead {
            put_varint(&mut out, first - end);
            put_varint(&mut out, last - first);
            end = *last;
        }
        out
    }

    /// The inverse of [`Numbers::watermark`] and [`Numbers::encode_ahead`].
    pub(super) fn decode(watermark: u64, ahead: &[u8]) -> Result<Self, Malformed> {
        let mut numbers = Self { watermark, ahead: BTreeMap::new() };
        let mut reader = Reader::new(ahead);
        let mut end = watermark;
        while !reader.is_empty() {
            let first = end.checked_add(reader.varint()?).ok_or(Malformed)?;
            let last = first.checked_add(reader.varint()?).ok_or(Malformed)?;
            numbers.ahead.insert(first, last);
            end = last;
        }
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn in_order_only_the_watermark_is_kept() {
        let mut numbers = Numbers::default();
        assert!((1..=1_000).all(|number| numbers.insert(number)));
        assert_eq!(numbers, Numbers { watermark: 1_000, ahead: BTreeMap::new() });
        assert!(!numbers.insert(0));
    }

    #[test]
    fn too_many_gaps_close_the_lowest() {
        let mut numbers = Numbers::default();
        for number in 1..=MAX_RANGES as u64 + 1 {
            assert!(numbers.insert(2 * number));
        }
        assert_eq!(numbers.watermark(), 2);
        assert!(!numbers.insert(1));
        assert!(numbers.insert(3));
    }

    #[test]
    fn the_largest_number_is_one_like_others() {
        let mut numbers = Numbers::default();
        assert!(numbers.insert(u64::MAX));
        assert!(!numbers.insert(u64::MAX));
        assert!(numbers.insert(u64::MAX - 1));
        assert_eq!(Numbers::decode(0, &numbers.encode_ahead()), Ok(numbers));
    }

    proptest! {
        #[test]
        fn each_number_is_new_once(arrivals in proptest::collection::vec(1u64..60, 0..200)) {
            let mut numbers = Numbers::default();
            let mut model = BTreeSet::new();
            for number in arrivals {
                prop_assert_eq!(numbers.insert(number), model.insert(number));
                let kept = Numbers::decode(numbers.watermark(), &numbers.encode_ahead());
                prop_assert_eq!(kept.as_ref(), Ok(&numbers));
                prop_assert!(!model.contains(&(numbers.watermark() + 1)));
            }
        }

        #[test]
        fn decoding_anything_never_panics(watermark: u64, bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Numbers::decode(watermark, &bytes);
        }
    }
}
