//! Sets of bytes, kept as disjoint ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of `u64` offsets, kept as maximal disjoint ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// Start of a range to its end; ranges neither touch nor overlap.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Makes the empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a range; an empty one changes nothing.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &before_end)) = self.ranges.range(..=start).next_back()
            && before_end >= start
        {
            start = before;
            end = end.max(before_end);
        }
        while let Some((&next, &next_end)) = self.ranges.range(start..).next()
            && next <= end
        {
            end = end.max(next_end);
            self.ranges.remove(&next);
        }
        self.ranges.insert(start, end);
    }

    /// Whether every offset of `range` is in the set.
    #[must_use]
    pub fn contains(&self, range: Range<u64>) -> bool {
        range.is_empty()
            || self
                .ranges
                .range(..=range.start)
                .next_back()
                .is_some_and(|(_, &end)| end >= range.end)
    }

    /// How many offsets are in the set.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// The maximal ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }

    /// The parts of `within` that are not in the set, ascending.
    pub fn gaps(&self, within: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let ends = within.end;
        let mut at = within.start;
        let stops = self.iter().chain(std::iter::once(ends..ends));
        stops.filter_map(move |range| {
            let gap = at..range.start.min(ends);
            at = at.max(range.end);
            (!gap.is_empty()).then_some(gap)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_as_a_set_of_offsets(ops in prop::collection::vec((0u64..80, 0u64..12), 0..40)) {
            let mut set = RangeSet::new();
            let mut model = BTreeSet::new();
            for (start, len) in ops {
                set.insert(start..start + len);
                model.extend(start..start + len);
            }
            prop_assert_eq!(set.total(), model.len() as u64);
            prop_assert!(set.iter().flatten().eq(model.iter().copied()));
            let gaps: BTreeSet<u64> = set.gaps(5..70).flatten().collect();
            let expected: BTreeSet<u64> = (5..70).filter(|at| !model.contains(at)).collect();
            prop_assert_eq!(gaps, expected);
            let ranges: Vec<_> = set.iter().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
