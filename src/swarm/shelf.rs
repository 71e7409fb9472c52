//! Whole pieces in memory, for peers: what was read from disk or has just come.
//!
//! A piece is read once for all who ask for it at about the same time. Its bytes are shared: they
//! go to the kernel from where they lie, and the memory is free when the last send is through.
//!
//! Invariant: at most `pieces_max` pieces are here or on their way from disk.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::base::{Block, PieceIndex};

/// See the module.
#[derive(Debug)]
pub struct Shelf {
    pieces: BTreeMap<PieceIndex, Place>,
    pieces_max: usize,
    /// Counts uses, so that the longest unused is known.
    clock: u64,
}

#[derive(Debug)]
enum Place {
    Reading,
    Here { bytes: Bytes, used: u64 },
}

/// What the shelf says of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its bytes.
    Here(Bytes),
    /// They are being read.
    Soon,
    /// It must be read.
    Absent,
}

impl Shelf {
    /// Starts empty.
    #[must_use]
    pub fn new(pieces_max: usize) -> Self {
        Self {
            pieces: BTreeMap::new(),
            pieces_max: pieces_max.max(1),
            clock: 0,
        }
    }

    /// Looks a piece up.
    pub fn find(&mut self, piece: PieceIndex) -> Found {
        self.clock += 1;
        match self.pieces.get_mut(&piece) {
            Some(Place::Here { bytes, used }) => {
                *used = self.clock;
                Found::Here(bytes.clone())
            }
            Some(Place::Reading) => Found::Soon,
            None => Found::Absent,
        }
    }

    /// Makes room for one more piece, if need be at the cost of the longest unused.
    pub fn make_room(&mut self) -> bool {
        self.has_room() || self.drop_oldest()
    }

    /// Whether one more piece fits without letting go of any.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.pieces.len() < self.pieces_max
    }

    /// Lets go of the longest unused piece; false if none is here.
    pub fn drop_oldest(&mut self) -> bool {
        let here = self
            .pieces
            .iter()
            .filter_map(|(&piece, place)| match place {
                Place::Here { used, .. } => Some((*used, piece)),
                Place::Reading => None,
            });
        let oldest = here.min().map(|(_, piece)| piece);
        oldest.is_some_and(|piece| self.pieces.remove(&piece).is_some())
    }

    /// A piece is being read.
    pub fn begin(&mut self, piece: PieceIndex) {
        self.pieces.insert(piece, Place::Reading);
        assert!(self.pieces.len() <= self.pieces_max, "room was made");
    }

    /// A piece is here: `len` bytes of `memory`. Without room it is not kept.
    pub fn put(&mut self, piece: PieceIndex, memory: Block, len: usize) {
        if !self.pieces.contains_key(&piece) && !self.make_room() {
            return;
        }
        self.clock += 1;
        let place = Place::Here {
            bytes: Bytes::from_owner(Owner(memory)).slice(..len),
            used: self.clock,
        };
        self.pieces.insert(piece, place);
    }

    /// A piece could not be read.
    pub fn forget(&mut self, piece: PieceIndex) {
        self.pieces.remove(&piece);
    }
}

/// Lets a block be shared.
struct Owner(Block);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Blocks;
    use crate::base::block::PlainBlocks;

    #[test]
    fn the_longest_unused_piece_goes_and_memory_comes_back_after_the_last_send() {
        let mut pool = PlainBlocks::new(8, 2);
        let mut shelf = Shelf::new(2);
        let piece = PieceIndex::new;
        shelf.begin(piece(0));
        assert_eq!(shelf.find(piece(0)), Found::Soon);
        shelf.put(piece(0), pool.take().unwrap(), 5);
        shelf.put(piece(1), pool.take().unwrap(), 8);
        let Found::Here(sent) = shelf.find(piece(0)) else {
            panic!("it is here")
        };
        assert_eq!(sent.len(), 5);
        assert!(shelf.make_room());
        assert_eq!(shelf.find(piece(1)), Found::Absent);
        assert!(shelf.drop_oldest() && !shelf.drop_oldest());
        assert!(pool.take().is_some());
        let held = pool.take();
        assert!(held.is_some(), "one block was dropped with its piece");
        drop(sent);
        assert!(pool.take().is_some());
    }
}
