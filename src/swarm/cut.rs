//! How the bytes of a torrent are cut: into pieces, and those into blocks.
//!
//! ```text
//!   pieces  |0         |1         |2      |      all as long, but the last
//!   blocks  |0 |1 |2 |3|0 |1 |2 |3|0 |1 |2|      16 KiB, but a piece's last
//! ```

use super::limits::{BLOCK_BYTES, PIECE_BYTES_MAX};
use super::metainfo::PIECES_MAX;
use super::wire::{BLOCK_BYTES_MAX, BlockRange};
use crate::base::PieceIndex;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    total_bytes: u64,
    piece_bytes: u32,
}

impl Cut {
    /// Cuts `total_bytes` into pieces of `piece_bytes`; `None` if there is nothing to cut, or the
    /// pieces are too many or too large.
    #[must_use]
    pub fn new(total_bytes: u64, piece_bytes: u32) -> Option<Self> {
        let fits = (1..=PIECE_BYTES_MAX).contains(&piece_bytes);
        let count = total_bytes.checked_div(u64::from(piece_bytes))?;
        (fits && total_bytes > 0 && count < u64::from(PIECES_MAX)).then_some(Self {
            total_bytes,
            piece_bytes,
        })
    }

    /// The bytes of all pieces.
    #[must_use]
    pub const fn total_bytes(self) -> u64 {
        self.total_bytes
    }

    /// The bytes of a piece other than the last.
    #[must_use]
    pub const fn piece_bytes(self) -> u32 {
        self.piece_bytes
    }

    /// How many pieces there are.
    #[must_use]
    pub fn piece_count(self) -> u32 {
        let count = self.total_bytes.div_ceil(u64::from(self.piece_bytes));
        u32::try_from(count).expect("`new` bounds the pieces")
    }

    /// Where a piece begins.
    #[must_use]
    pub const fn offset(self, piece: PieceIndex) -> u64 {
        piece.get() as u64 * self.piece_bytes as u64
    }

    /// The bytes of a piece; 0 for one that does not exist.
    #[must_use]
    pub fn len(self, piece: PieceIndex) -> u32 {
        let left = self.total_bytes.saturating_sub(self.offset(piece));
        u32::try_from(left).map_or(self.piece_bytes, |left| left.min(self.piece_bytes))
    }

    /// How many blocks a piece has.
    #[must_use]
    pub fn block_count(self, piece: PieceIndex) -> usize {
        self.len(piece).div_ceil(BLOCK_BYTES) as usize
    }

    /// A block of a piece, by its number.
    #[must_use]
    pub fn block(self, piece: PieceIndex, number: usize) -> BlockRange {
        block_of(piece, self.len(piece), number)
    }

    /// Whether a range that somebody asks for lies in a piece, and is no longer than may be asked.
    #[must_use]
    pub fn holds(self, range: BlockRange) -> bool {
        let end = u64::from(range.begin) + u64::from(range.len);
        (1..=BLOCK_BYTES_MAX).contains(&range.len) && end <= u64::from(self.len(range.piece))
    }
}

/// A block, by its number, of a piece of which `len` bytes are sent.
#[must_use]
pub fn block_of(piece: PieceIndex, len: u32, number: usize) -> BlockRange {
    let begin = u32::try_from(number).map_or(u32::MAX, |n| n.saturating_mul(BLOCK_BYTES));
    let left = len.saturating_sub(begin);
    BlockRange {
        piece,
        begin,
        len: left.min(BLOCK_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_cover_pieces_and_pieces_everything(
            total in 1_u64..5_000_000,
            piece in 1_u32..300_000,
        ) {
            let cut = Cut::new(total, piece).unwrap();
            let mut at = 0;
            for index in (0..cut.piece_count()).map(PieceIndex::new) {
                prop_assert_eq!(cut.offset(index), at);
                for number in 0..cut.block_count(index) {
                    let block = cut.block(index, number);
                    prop_assert!(cut.holds(block));
                    prop_assert_eq!(cut.offset(index) + u64::from(block.begin), at);
                    at += u64::from(block.len);
                }
            }
            prop_assert_eq!(at, total);
            let beyond = PieceIndex::new(cut.piece_count());
            prop_assert_eq!((cut.len(beyond), cut.block_count(beyond)), (0, 0));
        }
    }

    #[test]
    fn what_does_not_lie_in_a_piece_is_not_held() {
        let cut = Cut::new(100_000, 65_536).unwrap();
        let range = |piece, begin, len| BlockRange {
            piece: PieceIndex::new(piece),
            begin,
            len,
        };
        assert!(cut.holds(range(1, 0, 34_464)) && !cut.holds(range(1, 0, 34_465)));
        assert!(!cut.holds(range(0, 0, 0)) && !cut.holds(range(2, 0, 1)));
        assert!(!cut.holds(range(0, u32::MAX, u32::MAX)));
        assert_eq!(Cut::new(0, 1), None);
        assert_eq!(Cut::new(1, 0), None);
        assert_eq!(Cut::new(1, PIECE_BYTES_MAX + 1), None);
        assert_eq!(Cut::new(1 << 40, 1), None);
    }
}
