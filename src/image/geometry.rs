//! How a bundle is cut into pieces.

use std::ops::Range;

use crate::base::PieceIndex;

/// The size of a bundle and of its pieces; the only maker of piece indices that are in range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    bundle_size: u64,
    piece_log2: u8,
}

/// The default piece: 1 MiB.
pub const PIECE_LOG2_DEFAULT: u8 = 20;
/// The smallest piece: 64 KiB.
pub const PIECE_LOG2_MIN: u8 = 16;
/// The largest piece: 16 MiB.
pub const PIECE_LOG2_MAX: u8 = 24;

impl Geometry {
    /// Builds the geometry of a bundle of `bundle_size` bytes in pieces of `2^piece_log2` bytes.
    ///
    /// Gives `None` for a piece size out of range, an empty bundle, or more than `u32::MAX - 1`
    /// pieces (a piece's TOI is its index + 1).
    #[must_use]
    pub fn new(bundle_size: u64, piece_log2: u8) -> Option<Self> {
        let fits = (PIECE_LOG2_MIN..=PIECE_LOG2_MAX).contains(&piece_log2)
            && bundle_size > 0
            && bundle_size.div_ceil(1 << piece_log2) < u64::from(u32::MAX);
        fits.then_some(Self {
            bundle_size,
            piece_log2,
        })
    }

    /// The size of the bundle, in bytes.
    #[must_use]
    pub const fn bundle_size(self) -> u64 {
        self.bundle_size
    }

    /// The size of every piece but the last, in bytes.
    #[must_use]
    pub const fn piece_size(self) -> usize {
        1 << self.piece_log2
    }

    /// The binary logarithm of the piece size.
    #[must_use]
    pub const fn piece_log2(self) -> u8 {
        self.piece_log2
    }

    /// How many pieces there are.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "`new` checked it")]
    pub const fn piece_count(self) -> u32 {
        self.bundle_size.div_ceil(1 << self.piece_log2) as u32
    }

    /// The piece at `index`, if there is one.
    #[must_use]
    pub fn piece(self, index: u32) -> Option<PieceIndex> {
        (index < self.piece_count()).then_some(PieceIndex::new(index))
    }

    /// All pieces, in order.
    pub fn pieces(self) -> impl ExactSizeIterator<Item = PieceIndex> {
        (0..self.piece_count()).map(PieceIndex::new)
    }

    /// Where the piece starts in the bundle.
    #[must_use]
    pub const fn offset(self, piece: PieceIndex) -> u64 {
        (piece.get() as u64) << self.piece_log2
    }

    /// The bytes of the piece, as a range of the bundle.
    #[must_use]
    pub fn range(self, piece: PieceIndex) -> Range<u64> {
        let start = self.offset(piece);
        start..(start + self.piece_size() as u64).min(self.bundle_size)
    }

    /// The size of this piece; the last one may be short.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "at most the piece size")]
    pub fn len(self, piece: PieceIndex) -> usize {
        let range = self.range(piece);
        (range.end - range.start) as usize
    }

    /// The pieces that hold any byte of `range`, which must not be empty and must lie in the
    /// bundle.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the range lies in the bundle"
    )]
    pub fn covering(self, range: Range<u64>) -> Range<u32> {
        assert!(
            range.start < range.end && range.end <= self.bundle_size,
            "{range:?} in the bundle"
        );
        (range.start >> self.piece_log2) as u32..((range.end - 1) >> self.piece_log2) as u32 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_cover_the_bundle_without_gap_or_overlap(
            size in 1u64..1 << 22,
            log2 in 16u8..=20,
        ) {
            let geometry = Geometry::new(size, log2).unwrap();
            let mut at = 0;
            for piece in geometry.pieces() {
                let range = geometry.range(piece);
                prop_assert_eq!(range.start, at);
                prop_assert_eq!(range.end - range.start, geometry.len(piece) as u64);
                prop_assert_eq!(geometry.covering(range.clone()), piece.get()..piece.get() + 1);
                at = range.end;
            }
            prop_assert_eq!(at, size);
            prop_assert_eq!(geometry.piece(geometry.piece_count()), None);
        }
    }

    #[test]
    fn impossible_geometries_are_not_built() {
        assert_eq!(Geometry::new(0, 20), None);
        assert_eq!(Geometry::new(1, 15), None);
        assert_eq!(Geometry::new(1, 25), None);
        assert_eq!(Geometry::new(u64::MAX, 24), None);
        assert!(Geometry::new(u64::from(u32::MAX) << 16, 16).is_none());
    }
}
