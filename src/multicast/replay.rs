//! The sliding window that lets every counter through once.

use super::limits::REPLAY_WINDOW;

/// Which counters were seen lately.
///
/// Invariant: `bits` covers the [`REPLAY_WINDOW`] counters below `next`; older ones are refused.
#[derive(Clone, Debug)]
pub(crate) struct ReplayWindow {
    bits: Box<[u64]>,
    /// The tag of what came under each of these counters; empty if tags are not kept.
    tags: Box<[Tag]>,
    /// One above the highest counter seen.
    next: u64,
    /// How many counters are covered: a power of two, at least 64.
    size: u64,
}

/// What tells two datagrams under one counter apart: the end of the seal over header and content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tag([u8; 4]);

impl Tag {
    /// The tag of a sealed datagram.
    pub(crate) fn of(datagram: &[u8]) -> Self {
        Self(datagram.last_chunk().copied().unwrap_or_default())
    }
}

/// What a window says of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fresh {
    /// Nothing authentic came under it.
    Yes,
    /// The same came already, or it is too old to tell.
    No,
    /// Something else came already.
    Other,
}

impl ReplayWindow {
    /// A window for a group's datagrams, with their tags.
    pub(crate) fn tagged() -> Self {
        let size = usize::try_from(REPLAY_WINDOW).unwrap_or(0);
        Self {
            tags: vec![Tag::default(); size].into_boxed_slice(),
            ..Self::with_size(REPLAY_WINDOW)
        }
    }

    /// A window of `size` counters, a multiple of 64.
    pub(crate) fn with_size(size: u64) -> Self {
        Self {
            bits: vec![0; usize::try_from(size / 64).unwrap_or(1)].into_boxed_slice(),
            tags: Box::default(),
            next: 0,
            size,
        }
    }

    /// Whether this counter may still come.
    pub(crate) fn is_fresh(&self, counter: u64) -> bool {
        counter >= self.next
            || (counter.saturating_add(self.size) >= self.next && !self.bit(counter))
    }

    /// As [`Self::is_fresh`], and tells a repetition from another content.
    pub(crate) fn judge(&self, counter: u64, tag: Tag) -> Fresh {
        if self.is_fresh(counter) {
            return Fresh::Yes;
        }
        let is_covered = counter < self.next && counter.saturating_add(self.size) >= self.next;
        let place = usize::try_from(counter % self.size).unwrap_or(0);
        match self.tags.get(place) {
            Some(known) if is_covered && *known != tag => Fresh::Other,
            Some(_) | None => Fresh::No,
        }
    }

    /// As [`Self::insert`], and keeps the tag.
    pub(crate) fn insert_tagged(&mut self, counter: u64, tag: Tag) {
        if self.insert(counter) {
            let place = usize::try_from(counter % self.size).unwrap_or(0);
            if let Some(kept) = self.tags.get_mut(place) {
                *kept = tag;
            }
        }
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
        let mut window = ReplayWindow::tagged();
        assert!(window.insert(0) && window.insert(1 << 40));
        assert!(!window.insert(0) && !window.insert((1 << 40) - REPLAY_WINDOW));
        assert!(window.insert((1 << 40) - REPLAY_WINDOW + 1));
        assert!(!window.insert(u64::MAX));
        assert!(window.insert(u64::MAX - 1) && window.insert(u64::MAX - 9));
        assert!(!window.insert(u64::MAX - 9));
    }

    #[test]
    fn another_content_under_a_counter_is_told_from_a_repetition() {
        let mut window = ReplayWindow::tagged();
        let [one, two] = [*b"...one", *b"...two"].map(|bytes| Tag::of(&bytes));
        window.insert_tagged(5, one);
        assert_eq!(window.judge(5, one), Fresh::No);
        assert_eq!(window.judge(5, two), Fresh::Other);
        assert_eq!(window.judge(4, two), Fresh::Yes);
        // What was seen first stays.
        window.insert_tagged(5, two);
        assert_eq!(window.judge(5, one), Fresh::No);
        window.insert_tagged(5 + REPLAY_WINDOW, two);
        assert_eq!(window.judge(5 + REPLAY_WINDOW, one), Fresh::Other);
        window.insert_tagged(6 + REPLAY_WINDOW, two);
        // It is out of the window: too old to tell.
        assert_eq!(window.judge(5, two), Fresh::No);
    }
}
