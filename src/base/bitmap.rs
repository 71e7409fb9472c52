//! A fixed-length set of small integers.

/// A set of indices below a fixed length, one bit each, with its count kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    len: usize,
    count: usize,
}

impl Bitmap {
    /// Makes the empty set of indices below `len`.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self {
            words: vec![0; len.div_ceil(64)],
            len,
            count: 0,
        }
    }

    /// Makes the full set of indices below `len`.
    #[must_use]
    pub fn full(len: usize) -> Self {
        let mut map = Self {
            words: vec![u64::MAX; len.div_ceil(64)],
            len,
            count: len,
        };
        if !len.is_multiple_of(64)
            && let Some(last) = map.words.last_mut()
        {
            *last = (1 << (len % 64)) - 1;
        }
        map
    }

    /// The bound of the indices, not their count.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no index is in the set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether every index is in the set.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.count == self.len
    }

    /// How many indices are in the set.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Whether `index` is in the set; false beyond the length.
    #[must_use]
    pub fn get(&self, index: usize) -> bool {
        index < self.len && self.words[index / 64] >> (index % 64) & 1 == 1
    }

    /// Adds `index`; tells whether it was new.
    ///
    /// # Panics
    /// If `index` is not below the length.
    pub fn set(&mut self, index: usize) -> bool {
        assert!(index < self.len, "index {index} is not below {}", self.len);
        let bit = 1 << (index % 64);
        let word = &mut self.words[index / 64];
        let new = *word & bit == 0;
        *word |= bit;
        self.count += usize::from(new);
        new
    }

    /// Removes `index`; tells whether it was there.
    ///
    /// # Panics
    /// If `index` is not below the length.
    pub fn clear(&mut self, index: usize) -> bool {
        assert!(index < self.len, "index {index} is not below {}", self.len);
        let bit = 1 << (index % 64);
        let word = &mut self.words[index / 64];
        let there = *word & bit != 0;
        *word &= !bit;
        self.count -= usize::from(there);
        there
    }

    /// Removes every index.
    pub fn clear_all(&mut self) {
        self.words.fill(0);
        self.count = 0;
    }

    /// The first index at or after `from` whose membership is `value`.
    #[must_use]
    pub fn next(&self, from: usize, value: bool) -> Option<usize> {
        let mut at = from;
        while at < self.len {
            let word = self.words[at / 64];
            let word = if value { word } else { !word } >> (at % 64);
            if word != 0 {
                let found = at + word.trailing_zeros() as usize;
                return (found < self.len).then_some(found);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }

    /// The indices in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(self.next(0, true), |&index| self.next(index + 1, true))
    }

    /// The indices that are in this set and in `other`, ascending; the lengths may differ.
    pub fn common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = usize> + 'a {
        let words = self.words.iter().zip(&other.words).enumerate();
        words.flat_map(|(at, (one, two))| {
            let first = Some(one & two).filter(|&word| word != 0);
            let words = std::iter::successors(first, |word| {
                Some(word & (word - 1)).filter(|&word| word != 0)
            });
            words.map(move |word| at * 64 + word.trailing_zeros() as usize)
        })
    }

    /// The maximal runs `start..end` of indices whose membership is `value`, ascending.
    pub fn runs(&self, value: bool) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let run_from = move |from: usize| {
            let start = self.next(from, value)?;
            Some(start..self.next(start, !value).unwrap_or(self.len))
        };
        std::iter::successors(run_from(0), move |run| run_from(run.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_as_a_set(
            len in 1usize..300,
            ops in prop::collection::vec((any::<bool>(), 0usize..300), 0..200),
        ) {
            let mut map = Bitmap::new(len);
            let mut model = BTreeSet::new();
            for (add, index) in ops.into_iter().map(|(add, index)| (add, index % len)) {
                let (changed, expected) =
                    if add {
                        (map.set(index), model.insert(index))
                    } else {
                        (map.clear(index), model.remove(&index))
                    };
                prop_assert_eq!(changed, expected);
            }
            prop_assert_eq!(map.count(), model.len());
            prop_assert!(map.iter().eq(model.iter().copied()));
            let from_runs: Vec<usize> = map.runs(true).flatten().collect();
            prop_assert!(from_runs.iter().eq(model.iter()));
            let missing: Vec<usize> = map.runs(false).flatten().collect();
            prop_assert_eq!(missing.len() + model.len(), len);
        }
    }

    proptest! {
        #[test]
        fn what_is_common_is_in_both(
            one in prop::collection::vec(any::<bool>(), 0..200),
            two in prop::collection::vec(any::<bool>(), 0..200),
        ) {
            let set = |bits: &[bool]| {
                let mut map = Bitmap::new(bits.len());
                (0..bits.len()).filter(|&at| bits[at]).for_each(|at| {
                    map.set(at);
                });
                map
            };
            let both = (0..one.len().min(two.len())).filter(|&at| one[at] && two[at]);
            prop_assert!(set(&one).common(&set(&two)).eq(both));
        }
    }

    #[test]
    fn full_has_every_index() {
        for len in [0, 1, 63, 64, 65, 128] {
            let map = Bitmap::full(len);
            assert!(map.is_full());
            assert_eq!(map.iter().count(), len);
            assert_eq!(map.next(0, false), None);
        }
    }
}
