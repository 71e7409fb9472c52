//! Which piece to ask a peer for next: the rarest that it has, and among equals one that the other
//! nodes probably do not ask for.
//!
//! Ties are broken by a rank that is a hash of the own node and the piece. So a thousand nodes that
//! see the same pieces equally rare spread over them, without a word between them.
//!
//! Invariant: `wanted` holds every piece that is wanted and not being fetched, `lacking` every one
//! that is not here.
//!
//! Source: BEP 3 "piece downloading strategy"; rarest first.

use crate::base::random::Random;
use crate::base::{Bitmap, PieceIndex};

/// See the module.
#[derive(Debug)]
pub struct Picker {
    pieces: Vec<Piece>,
    wanted: Bitmap,
    lacking: Bitmap,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    /// How many connected peers have it.
    availability: u32,
    rank: u32,
    /// Whether it is to be fetched, while it is not here.
    is_wished: bool,
    state: State,
}

/// Where a piece is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be fetched.
    Wanted,
    /// Some peer is asked for it.
    Fetching,
    /// Something else is about to bring it: not to be fetched now.
    Unwanted,
    /// Verified and stored.
    Here,
}

impl Picker {
    /// Starts with what is here already; `node` makes the ranks of this node its own.
    #[must_use]
    pub fn new(have: &Bitmap, node: u64) -> Self {
        let mut picker = Self {
            pieces: Vec::with_capacity(have.len()),
            wanted: Bitmap::new(have.len()),
            lacking: Bitmap::new(have.len()),
        };
        for index in 0..have.len() {
            let mut dice = Random::new(node ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let state = if have.get(index) {
                State::Here
            } else {
                State::Wanted
            };
            picker.pieces.push(Piece {
                availability: 0,
                rank: dice.below(u32::MAX),
                is_wished: true,
                state,
            });
            picker.enter(index);
        }
        picker
    }

    /// A peer has this piece, which it did not have before.
    pub fn add_holder(&mut self, piece: PieceIndex) {
        self.change(piece, |piece| {
            piece.availability = piece.availability.saturating_add(1);
        });
    }

    /// A peer that had this piece is gone.
    pub fn remove_holder(&mut self, piece: PieceIndex) {
        self.change(piece, |piece| {
            piece.availability = piece.availability.saturating_sub(1);
        });
    }

    /// How many connected peers have a piece.
    #[must_use]
    pub fn availability(&self, piece: PieceIndex) -> u32 {
        self.pieces
            .get(piece.as_usize())
            .map_or(0, |piece| piece.availability)
    }

    /// Takes the next piece to ask a peer for that has `theirs`; `None` if it has none that is
    /// wanted.
    pub fn pick(&mut self, theirs: &Bitmap) -> Option<PieceIndex> {
        let place = |index: &usize| (self.pieces[*index].availability, self.pieces[*index].rank);
        let index = self.wanted.common(theirs).min_by_key(place)?;
        let piece = PieceIndex::new(u32::try_from(index).unwrap_or(u32::MAX));
        self.change(piece, |piece| piece.state = State::Fetching);
        Some(piece)
    }

    /// Whether a peer that has `theirs` has anything that is not here.
    #[must_use]
    pub fn is_interesting(&self, theirs: &Bitmap) -> bool {
        self.lacking.common(theirs).next().is_some()
    }

    /// Whether any piece is wanted that nobody is asked for.
    #[must_use]
    pub const fn has_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// A piece that was being fetched is not any more, and is not here.
    pub fn give_back(&mut self, piece: PieceIndex) {
        self.change(piece, |piece| {
            piece.state = match piece.state {
                State::Fetching if piece.is_wished => State::Wanted,
                State::Fetching => State::Unwanted,
                other @ (State::Wanted | State::Unwanted | State::Here) => other,
            };
        });
    }

    /// A piece is here, from wherever.
    pub fn have(&mut self, piece: PieceIndex) {
        self.change(piece, |piece| piece.state = State::Here);
    }

    /// A piece that was here is not any more.
    pub fn lose(&mut self, piece: PieceIndex) {
        self.change(piece, |piece| {
            piece.state = match piece.state {
                State::Here if piece.is_wished => State::Wanted,
                State::Here => State::Unwanted,
                other @ (State::Wanted | State::Unwanted | State::Fetching) => other,
            };
        });
    }

    /// Whether a piece may be fetched; what is being fetched stays so.
    pub fn want(&mut self, piece: PieceIndex, is_wanted: bool) {
        self.change(piece, |piece| {
            piece.is_wished = is_wanted;
            piece.state = match (piece.state, is_wanted) {
                (State::Wanted, false) => State::Unwanted,
                (State::Unwanted, true) => State::Wanted,
                (other, _) => other,
            };
        });
    }

    fn change(&mut self, piece: PieceIndex, change: impl FnOnce(&mut Piece)) {
        if let Some(place) = self.pieces.get_mut(piece.as_usize()) {
            change(place);
            self.enter(piece.as_usize());
        }
    }

    fn enter(&mut self, index: usize) {
        let put = |set: &mut Bitmap, is_in: bool| {
            if is_in {
                set.set(index)
            } else {
                set.clear(index)
            };
        };
        let state = self.pieces[index].state;
        put(&mut self.wanted, state == State::Wanted);
        put(&mut self.lacking, state != State::Here);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn piece(index: u32) -> PieceIndex {
        PieceIndex::new(index)
    }

    fn bits(len: usize, set: impl IntoIterator<Item = usize>) -> Bitmap {
        let mut bits = Bitmap::new(len);
        for index in set {
            bits.set(index);
        }
        bits
    }

    #[test]
    fn the_rarest_that_the_peer_has_comes_first_and_once() {
        let mut picker = Picker::new(&bits(4, [3]), 7);
        for (index, holders) in [(0, 3), (1, 1), (2, 2), (3, 1)] {
            (0..holders).for_each(|_| picker.add_holder(piece(index)));
        }
        assert_eq!(picker.pick(&bits(4, [0, 2, 3])), Some(piece(2)));
        assert_eq!(picker.pick(&Bitmap::full(4)), Some(piece(1)));
        assert_eq!(picker.pick(&Bitmap::full(4)), Some(piece(0)));
        assert_eq!(picker.pick(&Bitmap::full(4)), None);
        picker.give_back(piece(1));
        assert_eq!(picker.pick(&Bitmap::full(4)), Some(piece(1)));
    }

    #[test]
    fn what_another_source_is_about_to_bring_waits() {
        let mut picker = Picker::new(&Bitmap::new(2), 7);
        picker.want(piece(0), false);
        assert_eq!(picker.pick(&Bitmap::full(2)), Some(piece(1)));
        assert_eq!(picker.pick(&Bitmap::full(2)), None);
        assert!(picker.is_interesting(&bits(2, [0])), "it is not here yet");
        picker.want(piece(0), true);
        picker.want(piece(1), false);
        picker.give_back(piece(1));
        assert_eq!(picker.pick(&Bitmap::full(2)), Some(piece(0)));
        assert_eq!(picker.pick(&Bitmap::full(2)), None, "the other waits now");
        picker.have(piece(0));
        assert!(!picker.is_interesting(&bits(2, [0])));
    }

    #[test]
    fn what_is_lost_is_wanted_again_if_it_is_wished() {
        let mut picker = Picker::new(&Bitmap::full(2), 7);
        picker.want(piece(1), false);
        picker.lose(piece(0));
        picker.lose(piece(1));
        assert!(picker.is_interesting(&bits(2, [1])));
        assert_eq!(picker.pick(&Bitmap::full(2)), Some(piece(0)));
        picker.lose(piece(0));
        assert_eq!(picker.pick(&Bitmap::full(2)), None, "it is being fetched");
        picker.want(piece(1), true);
        assert_eq!(picker.pick(&Bitmap::full(2)), Some(piece(1)));
    }

    #[test]
    fn nodes_begin_at_different_pieces() {
        let first = |node: u64| {
            let mut picker = Picker::new(&Bitmap::new(1000), node);
            picker.pick(&Bitmap::full(1000))
        };
        let firsts: BTreeSet<_> = (0..20).map(first).collect();
        assert!(firsts.len() > 15, "{firsts:?}");
    }

    proptest! {
        /// Against the definition: the least of (availability, rank) among the wanted that it has.
        #[test]
        fn picks_are_those_of_a_search(
            ops in prop::collection::vec((0_u8..8, 0_u32..12), 0..200),
            theirs in prop::collection::vec(any::<bool>(), 12),
        ) {
            let mut picker = Picker::new(&Bitmap::new(12), 3);
            let theirs = bits(12, (0..12).filter(|&index| theirs[index]));
            for (op, index) in ops {
                let at = piece(index);
                match op {
                    0 => picker.add_holder(at),
                    1 => picker.remove_holder(at),
                    2 => picker.have(at),
                    3 => picker.want(at, false),
                    4 => picker.want(at, true),
                    5 => picker.give_back(at),
                    6 => picker.lose(at),
                    _ => {
                        let all = (0..12_u32).map(|index| (picker.pieces[index as usize], index));
                        let can = all.filter(|(piece, index)| {
                            piece.state == State::Wanted && theirs.get(*index as usize)
                        });
                        let least = can.min_by_key(|(piece, _)| (piece.availability, piece.rank));
                        let expected = least.map(|(_, index)| PieceIndex::new(index));
                        prop_assert_eq!(picker.pick(&theirs), expected);
                    }
                }
            }
        }
    }
}
