//! Who sent the wrong block of a piece that several peers brought.
//!
//! The blocks of a wrong piece are remembered by their hashes. When the piece is right at last,
//! fetched from one peer alone, whoever sent a block that differs is the culprit.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::hash::{BLOCK_BYTES, Sha1, sha1};
use super::limits::SUSPECTS_MAX;
use crate::base::PieceIndex;

/// See the module.
#[derive(Debug, Default)]
pub struct Suspects {
    pieces: BTreeMap<PieceIndex, Vec<(SocketAddr, Sha1)>>,
}

impl Suspects {
    /// Remembers a wrong piece and who sent each of its blocks.
    pub fn note(&mut self, piece: PieceIndex, bytes: &[u8], sources: &[SocketAddr]) {
        if self.pieces.len() < SUSPECTS_MAX {
            let blocks = sources.iter().zip(bytes.chunks(BLOCK_BYTES));
            let blocks = blocks.map(|(&source, block)| (source, sha1(block)));
            self.pieces.insert(piece, blocks.collect());
        }
    }

    /// Whether the culprit of a piece is looked for.
    #[must_use]
    pub fn has(&self, piece: PieceIndex) -> bool {
        self.pieces.contains_key(&piece)
    }

    /// Names the culprits, now that the right bytes of a piece are here.
    pub fn convict(&mut self, piece: PieceIndex, bytes: &[u8]) -> Vec<SocketAddr> {
        let blocks = self.pieces.remove(&piece).unwrap_or_default();
        let blocks = blocks.into_iter().zip(bytes.chunks(BLOCK_BYTES));
        let wrong = blocks.filter(|((_, hash), block)| *hash != sha1(block));
        let mut culprits: Vec<_> = wrong.map(|((source, _), _)| source).collect();
        culprits.sort_unstable();
        culprits.dedup();
        culprits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sent_other_bytes_is_named() {
        let peer = |last: u8| SocketAddr::from(([10, 0, 0, last], 1));
        let right = vec![7_u8; 3 * BLOCK_BYTES + 5];
        let mut wrong = right.clone();
        wrong[2 * BLOCK_BYTES] = 8;
        let mut suspects = Suspects::default();
        let piece = PieceIndex::new(3);
        suspects.note(piece, &wrong, &[peer(1), peer(2), peer(3), peer(1)]);
        assert!(suspects.has(piece));
        assert_eq!(suspects.convict(piece, &right), [peer(3)]);
        assert_eq!(suspects.convict(piece, &right), []);
    }
}
