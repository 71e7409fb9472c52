//! The sliding window that lets every counter through once.

use super::limits::REPLAY_WINDOW;

/// Which counters were seen lately.
///
/// Invariant: `bits` covers the [`REPLAY_WINDOW`] counters below `next`; older ones are refused.
#[derive(Clone, Debug)]
pub(crate) struct ReplayWindow {
    bits: Box<[u64]>,
    /// One above the highest counter seen.
    next: u64,
    /// How many counters are covered: a power of two, at least 64.
    size: u64,
}

impl ReplayWindow {
    /// A window for a group's datagrams.
    pub(crate) fn new() -> Self {
        Self::with_size(REPLAY_WINDOW)
    }

    /// A window of `size` counters, a multiple of 64.
    pub(crate) fn with_size(size: u64) -> Self {
        Self {
            bits: vec![0; usize::try_from(size / 64).unwrap_or(1)].into_boxed_slice(),
            next: 0,
            size,
        }
    }

    /// Whether this counter may still come.
    pub(crate) fn is_fresh(&self, counter: u64) -> bool {
        counter >= self.next || (counter + self.size >= self.next && !self.bit(counter))
    }

    /// Notes the counter of an authentic datagram; tells whether it was fresh.
    pub(crate) fn insert(&mut self, counter: u64) -> bool {
        if counter == u64::MAX || !self.is_fresh(counter) {
            return false;
        }
        if counter >= self.next {
            if counter - self.next >= self.size {
                self.bits.fill(0);
            } else {
                (self.next..=counter).for_each(|passed| self.clear(passed));
            }
            self.next = counter + 1;
        }
        let (word, bit) = self.place(counter);
        self.bits[word] |= bit;
        true
    }

    fn bit(&self, counter: u64) -> bool {
        let (word, bit) = self.place(counter);
        self.bits[word] & bit != 0
    }

    fn clear(&mut self, counter: u64) {
        let (word, bit) = self.place(counter);
        self.bits[word] &= !bit;
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "it is below the window's size"
    )]
    const fn place(&self, counter: u64) -> (usize, u64) {
        let at = counter % self.size;
        ((at / 64) as usize, 1 << (at % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_as_a_set_with_a_horizon(counters in prop::collection::vec(0u64..400, 0..300)) {
            let mut window = ReplayWindow::with_size(64);
            let (mut seen, mut next) = (BTreeSet::new(), 0);
            for counter in counters {
                let fresh = counter + 64 >= next && !seen.contains(&counter);
                prop_assert_eq!(window.is_fresh(counter), fresh);
                prop_assert_eq!(window.insert(counter), fresh);
                seen.insert(counter);
                next = next.max(counter + 1);
            }
        }
    }

    #[test]
    fn a_far_jump_forgets_all_and_refuses_the_old() {
        let mut window = ReplayWindow::new();
        assert!(window.insert(0) && window.insert(1 << 40));
        assert!(!window.insert(0) && !window.insert((1 << 40) - REPLAY_WINDOW - 1));
        assert!(window.insert((1 << 40) - REPLAY_WINDOW));
        assert!(!window.insert(u64::MAX));
    }
}
