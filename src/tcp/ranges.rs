//! Sets of byte ranges.

use std::{collections::VecDeque, ops::Range};

/// A set of stream offsets, kept as sorted ranges that neither overlap nor touch.
///
/// Finding a range is a binary search; changing the set moves at most half of the ranges, 16 bytes
/// each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeSet {
    ranges: VecDeque<Range<u64>>,
    covered: u64,
}

impl RangeSet {
    /// An empty set, which holds no memory.
    #[cfg(test)]
    pub(crate) const fn new() -> Self {
        Self {
            ranges: VecDeque::new(),
            covered: 0,
        }
    }

    /// Adds `range`, tells `on_new` in ascending order each part of it that was not in the set
    /// before, and returns the range of the set that it is part of now.
    ///
    /// An empty range changes nothing.
    pub(crate) fn insert(
        &mut self,
        range: Range<u64>,
        mut on_new: impl FnMut(Range<u64>),
    ) -> Range<u64> {
        if range.start >= range.end {
            return range;
        }
        let first = self.ranges.partition_point(|r| r.end < range.start);
        let mut merged = range.clone();
        let mut new_from = range.start;
        let mut past = first;
        while let Some(r) = self.ranges.get(past).filter(|r| r.start <= range.end) {
            if new_from < r.start {
                self.covered += r.start - new_from;
                on_new(new_from..r.start);
            }
            new_from = new_from.max(r.end);
            merged.start = merged.start.min(r.start);
            merged.end = merged.end.max(r.end);
            past += 1;
        }
        if new_from < range.end {
            self.covered += range.end - new_from;
            on_new(new_from..range.end);
        }
        if first == past {
            self.ranges.insert(first, merged.clone());
        } else {
            self.ranges[first] = merged.clone();
            self.ranges.drain(first + 1..past);
            self.shrink();
        }
        merged
    }

    /// The range of the set in which `offset` lies.
    pub(crate) fn get(&self, offset: u64) -> Option<Range<u64>> {
        let at = self.ranges.partition_point(|r| r.end <= offset);
        self.ranges.get(at).filter(|r| r.start <= offset).cloned()
    }

    /// Whether `offset` is in the set.
    #[cfg(test)]
    pub(crate) fn contains(&self, offset: u64) -> bool {
        self.get(offset).is_some()
    }

    /// Removes all offsets below `offset`.
    pub(crate) fn remove_before(&mut self, offset: u64) {
        while let Some(first) = self.ranges.front_mut().filter(|r| r.start < offset) {
            let cut = offset.min(first.end);
            self.covered -= cut - first.start;
            first.start = cut;
            if first.start < first.end {
                break;
            }
            self.ranges.pop_front();
        }
        self.shrink();
    }

    /// Removes `offset` and all offsets above it.
    pub(crate) fn remove_from(&mut self, offset: u64) {
        while let Some(last) = self.ranges.back_mut().filter(|r| r.end > offset) {
            let cut = offset.max(last.start);
            self.covered -= last.end - cut;
            last.end = cut;
            if last.start < last.end {
                break;
            }
            self.ranges.pop_back();
        }
        self.shrink();
    }

    /// Gives memory back when most of it is unused.
    fn shrink(&mut self) {
        if self.ranges.len() < self.ranges.capacity() / 4 {
            self.ranges.shrink_to(self.ranges.len() * 2);
        }
    }

    /// The lowest range.
    pub(crate) fn first(&self) -> Option<Range<u64>> {
        self.ranges.front().cloned()
    }

    /// The highest range.
    pub(crate) fn last(&self) -> Option<Range<u64>> {
        self.ranges.back().cloned()
    }

    /// The ranges in ascending order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        self.ranges.iter().cloned()
    }

    /// How many ranges there are.
    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether nothing is in the set.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many offsets are in the set.
    pub(crate) const fn covered(&self) -> u64 {
        self.covered
    }

    /// Bytes of memory held beside the set itself.
    pub(crate) fn memory(&self) -> usize {
        self.ranges.capacity() * size_of::<Range<u64>>()
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn set(ranges: &[Range<u64>]) -> RangeSet {
        let mut set = RangeSet::new();
        for range in ranges {
            set.insert(range.clone(), |_| ());
        }
        set
    }

    #[test]
    fn an_insertion_reports_what_is_new_and_merges_what_touches() {
        let mut set = set(&[10..20, 30..40, 50..60]);
        let mut new = Vec::new();
        assert_eq!(set.insert(15..50, |range| new.push(range)), 10..60);
        assert_eq!(new, [20..30, 40..50]);
        assert_eq!((set.len(), set.first()), (1, Some(10..60)));
        assert_eq!(set.covered(), 50);
        assert_eq!(set.insert(60..61, |_| ()), 10..61);
        assert_eq!(set.insert(12..13, |_| panic!("nothing is new")), 10..61);
        assert_eq!(set.insert(7..7, |_| panic!("nothing is new")), 7..7);
        assert_eq!(set.len(), 1);
    }

    #[test]
    fn offsets_are_found_only_inside_of_ranges() {
        let set = set(&[10..20, 30..40]);
        assert_eq!(set.get(9), None);
        assert_eq!(set.get(10), Some(10..20));
        assert_eq!(set.get(19), Some(10..20));
        assert_eq!(set.get(20), None);
        assert!(set.contains(39) && !set.contains(40));
        assert_eq!((set.first(), set.last()), (Some(10..20), Some(30..40)));
    }

    #[test]
    fn the_ends_of_the_number_line_are_ordinary_offsets() {
        let mut set = set(&[0..1, u64::MAX - 1..u64::MAX]);
        assert_eq!(set.covered(), 2);
        set.insert(0..u64::MAX, |_| ());
        assert_eq!((set.len(), set.covered()), (1, u64::MAX));
        set.remove_before(u64::MAX);
        assert!(set.is_empty() && set.covered() == 0);
    }

    #[test]
    fn any_sequence_of_operations_agrees_with_a_bitmap() {
        const SPACE: u64 = 200;
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut set = RangeSet::new();
            let mut bits = [false; SPACE as usize];
            for _ in 0..300 {
                let start = rng.random_range(0..SPACE);
                let end = rng.random_range(start..(start + 20).min(SPACE));
                match rng.random_range(0..20) {
                    0 => {
                        set.remove_before(start);
                        bits[..start as usize].fill(false);
                    }
                    1 => {
                        set.remove_from(start);
                        bits[start as usize..].fill(false);
                    }
                    _ => {
                        let mut last = None;
                        set.insert(start..end, |new| {
                            assert!(new.start < new.end && last.is_none_or(|l| l < new.start));
                            last = Some(new.end);
                            for offset in new {
                                assert!(!bits[offset as usize], "seed {seed}: told twice");
                                bits[offset as usize] = true;
                            }
                        });
                        assert!(bits[start as usize..end as usize].iter().all(|bit| *bit));
                    }
                }
                let of_bits = (0..SPACE).filter(|offset| bits[*offset as usize]);
                assert!(of_bits.eq(set.iter().flatten()), "seed {seed}");
                let gaps = set.iter().zip(set.iter().skip(1));
                assert!(gaps.into_iter().all(|(a, b)| a.end < b.start));
                assert_eq!(set.covered(), set.iter().map(|r| r.end - r.start).sum());
                assert_eq!(set.contains(start), bits[start as usize]);
            }
        }
    }
}
