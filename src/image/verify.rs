//! The last word on a piece: its hash.

use super::hash::piece_value;
use super::{Geometry, Hash};
use crate::base::PieceIndex;

/// Says whether the bytes of a piece are right.
pub trait Verify: Send {
    /// Whether `bytes` are the content of `piece`.
    fn verify(&self, piece: PieceIndex, bytes: &[u8]) -> bool;
}

impl<V: Verify> Verify for Option<V> {
    /// Without a judge everything is right.
    fn verify(&self, piece: PieceIndex, bytes: &[u8]) -> bool {
        self.as_ref().is_none_or(|judge| judge.verify(piece, bytes))
    }
}

impl<V: Verify + Sync> Verify for std::sync::Arc<V> {
    fn verify(&self, piece: PieceIndex, bytes: &[u8]) -> bool {
        self.as_ref().verify(piece, bytes)
    }
}

/// The real one: BLAKE3 against the chaining values of a manifest.
#[derive(Clone, Debug)]
pub struct PieceHashes {
    geometry: Geometry,
    hashes: Vec<Hash>,
}

impl PieceHashes {
    /// Takes the chaining value of every piece, in order; gives `None` if their count is wrong.
    #[must_use]
    pub fn new(geometry: Geometry, hashes: Vec<Hash>) -> Option<Self> {
        (hashes.len() == geometry.piece_count() as usize).then_some(Self { geometry, hashes })
    }
}

impl Verify for PieceHashes {
    fn verify(&self, piece: PieceIndex, bytes: &[u8]) -> bool {
        let expected = self.hashes.get(piece.as_usize());
        bytes.len() == self.geometry.len(piece)
            && expected == Some(&piece_value(self.geometry, piece, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_verify_at_their_own_place_only() {
        let bytes: Vec<u8> = (0..150_000u32).flat_map(|i| i.to_le_bytes()).collect();
        let geometry = Geometry::new(bytes.len() as u64, 16).unwrap();
        let part = |piece| {
            let range = geometry.range(piece);
            &bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
        };
        let hashes = geometry
            .pieces()
            .map(|piece| piece_value(geometry, piece, part(piece)));
        let hashes = PieceHashes::new(geometry, hashes.collect()).unwrap();
        for piece in geometry.pieces() {
            assert!(hashes.verify(piece, part(piece)));
            let mut wrong = part(piece).to_vec();
            wrong[7] ^= 1;
            assert!(!hashes.verify(piece, &wrong));
        }
        let (first, second) = (PieceIndex::new(0), PieceIndex::new(1));
        assert!(!hashes.verify(first, part(second)));
        assert!(!hashes.verify(first, &part(first)[1..]));
        assert!(PieceHashes::new(geometry, Vec::new()).is_none());
    }
}
