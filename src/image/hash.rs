//! BLAKE3 by subtrees: the parts of a bundle or file are hashed apart, in any order, by any worker,
//! and merged to the hash that `b3sum` prints for the whole.
//!
//! ```text
//!             root                 A part is 2^k bytes at a multiple of 2^k, the last is short.
//!           /      \               Its value is the chaining value of that subtree: it depends on
//!        *           \             where the part lies. The value of an only part is the root.
//!      /   \          |
//!   part 0  part 1  part 2
//! ```
//!
//! Zeros cost as much as other bytes, because BLAKE3 numbers its 1 KiB chunks: a subtree of zeros
//! has another value at every position. They are at least never read.

use blake3::hazmat::{HasherExt as _, Mode, left_subtree_len, merge_subtrees_non_root};

use super::{Geometry, Hash};
use crate::base::PieceIndex;

/// The parts in which the content of files is hashed: 1 MiB, at multiples of 1 MiB of the file.
pub const CHUNK_BYTES: u64 = 1 << 20;

/// Hashes one part of a whole.
#[derive(Clone, Debug)]
pub struct PartHasher {
    hasher: blake3::Hasher,
    is_whole: bool,
}

impl PartHasher {
    /// Starts the part that begins at `offset` of a whole of `whole_size` bytes.
    ///
    /// `part_size` is the size of all parts but the last, a power of two and at least 1024;
    /// `offset` is a multiple of it.
    #[must_use]
    pub fn new(whole_size: u64, part_size: u64, offset: u64) -> Self {
        assert!(
            part_size.is_power_of_two()
                && part_size >= blake3::CHUNK_LEN as u64
                && offset.is_multiple_of(part_size),
            "parts are subtrees"
        );
        let mut hasher = blake3::Hasher::new();
        let is_whole = whole_size <= part_size;
        if !is_whole {
            hasher.set_input_offset(offset);
        }
        Self { hasher, is_whole }
    }

    /// Takes the next bytes; together at most the part's size.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.hasher.update(bytes);
        self
    }

    /// Takes `count` zeros.
    pub fn zeros(&mut self, mut count: u64) -> &mut Self {
        while count > 0 {
            let step = count.min(ZEROS.len() as u64);
            #[expect(
                clippy::cast_possible_truncation,
                reason = "at most the constant's size"
            )]
            self.hasher.update(&ZEROS[..step as usize]);
            count -= step;
        }
        self
    }

    /// The value of the part.
    #[must_use]
    pub fn finish(&self) -> Hash {
        if self.is_whole {
            Hash(*self.hasher.finalize().as_bytes())
        } else {
            Hash(self.hasher.finalize_non_root())
        }
    }
}

/// Hashes the chunk of a file of `file_size` bytes that starts at `offset`, a multiple of
/// [`CHUNK_BYTES`].
#[must_use]
pub fn chunk_value(file_size: u64, offset: u64, bytes: &[u8]) -> Hash {
    PartHasher::new(file_size, CHUNK_BYTES, offset)
        .update(bytes)
        .finish()
}

/// Hashes a piece of a bundle.
#[must_use]
pub fn piece_value(geometry: Geometry, piece: PieceIndex, bytes: &[u8]) -> Hash {
    piece_hasher(geometry, piece).update(bytes).finish()
}

/// Hashes a piece of a bundle that comes in steps.
#[must_use]
pub fn piece_hasher(geometry: Geometry, piece: PieceIndex) -> PartHasher {
    let part_size = geometry.piece_size() as u64;
    PartHasher::new(geometry.bundle_size(), part_size, geometry.offset(piece))
}

/// Hashes a whole that comes in order and whose size shows only at its end: gives the value of
/// every part and the root.
#[derive(Clone, Debug)]
pub struct PartsHasher {
    part_size: u64,
    size: u64,
    hasher: blake3::Hasher,
    values: Vec<Hash>,
}

impl PartsHasher {
    /// Starts with nothing. `part_size` is a power of two and at least 1024.
    #[must_use]
    pub fn new(part_size: u64) -> Self {
        assert!(
            part_size.is_power_of_two() && part_size >= blake3::CHUNK_LEN as u64,
            "parts are subtrees"
        );
        Self {
            part_size,
            size: 0,
            hasher: blake3::Hasher::new(),
            values: Vec::new(),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let filled = self.size % self.part_size;
            if filled == 0 && self.size > 0 {
                self.values.push(Hash(self.hasher.finalize_non_root()));
                self.hasher = blake3::Hasher::new();
                self.hasher.set_input_offset(self.size);
            }
            let room = usize::try_from(self.part_size - filled).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.hasher.update(now);
            self.size += now.len() as u64;
            bytes = later;
        }
    }

    /// How many bytes were taken.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root, and the value of every part.
    #[must_use]
    pub fn finish(mut self) -> (Hash, Vec<Hash>) {
        if self.values.is_empty() {
            let root = Hash(*self.hasher.finalize().as_bytes());
            return (root, vec![root]);
        }
        self.values.push(Hash(self.hasher.finalize_non_root()));
        (merge(&self.values), self.values)
    }
}

/// Merges the values of all parts of a whole, in order, to the hash of the whole.
///
/// The parts are of one size, a power of two, but the last; no parts give the hash of nothing.
#[must_use]
pub fn merge(values: &[Hash]) -> Hash {
    match values {
        [] => Hash::of(b""),
        [only] => *only,
        _ => {
            let (left, right) = split(values);
            let root = blake3::hazmat::merge_subtrees_root(
                &subtree(left).0,
                &subtree(right).0,
                Mode::Hash,
            );
            Hash(*root.as_bytes())
        }
    }
}

fn subtree(values: &[Hash]) -> Hash {
    if let [only] = values {
        return *only;
    }
    let (left, right) = split(values);
    Hash(merge_subtrees_non_root(
        &subtree(left).0,
        &subtree(right).0,
        Mode::Hash,
    ))
}

/// Splits two or more parts as BLAKE3 splits its chunks: the left side is the largest power of two
/// that leaves something for the right.
fn split(values: &[Hash]) -> (&[Hash], &[Hash]) {
    let chunk = blake3::CHUNK_LEN as u64;
    let left = left_subtree_len(values.len() as u64 * chunk) / chunk;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "less than the slice's length"
    )]
    values.split_at(left as usize)
}

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "sample bytes are cut to size"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(size: usize) -> Vec<u8> {
        (0..size).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    fn in_parts(bytes: &[u8], part_size: usize) -> Hash {
        let value = |(index, part): (usize, &[u8])| {
            PartHasher::new(
                bytes.len() as u64,
                part_size as u64,
                (index * part_size) as u64,
            )
            .update(part)
            .finish()
        };
        let values: Vec<Hash> = bytes.chunks(part_size).enumerate().map(value).collect();
        merge(&values)
    }

    #[test]
    fn parts_merge_to_the_hash_of_the_whole_around_every_boundary() {
        const PART: usize = 4096;
        for parts in 0..=9 {
            for delta in [-1025i64, -1024, -1, 0, 1, 1023, 1024, 2048] {
                let Ok(size) = usize::try_from(parts * PART as i64 + delta) else {
                    continue;
                };
                let bytes = sample(size);
                assert_eq!(in_parts(&bytes, PART), Hash::of(&bytes), "{size} bytes");
            }
        }
    }

    #[test]
    fn a_changed_or_moved_piece_has_another_value() {
        let bytes = vec![7; 3 << 16];
        let geometry = Geometry::new(bytes.len() as u64, 16).unwrap();
        let values: Vec<Hash> = geometry
            .pieces()
            .map(|piece| piece_value(geometry, piece, &bytes[..1 << 16]))
            .collect();
        assert_eq!(merge(&values), Hash::of(&bytes));
        assert_ne!(values[0], values[1]);
        let mut other = bytes[..1 << 16].to_vec();
        other[9] ^= 1;
        let piece = geometry.piece(1).unwrap();
        assert_ne!(piece_value(geometry, piece, &other), values[1]);
    }

    proptest! {
        #[test]
        fn any_size_in_any_parts(size in 0usize..200_000, log2 in 10u32..=16) {
            let bytes = sample(size);
            prop_assert_eq!(in_parts(&bytes, 1 << log2), Hash::of(&bytes));
        }

        #[test]
        fn in_order_or_apart_is_the_same(size in 1usize..300_000, steps in 1usize..100_000) {
            let bytes = sample(size);
            let mut hasher = PartsHasher::new(1 << 16);
            bytes.chunks(steps).for_each(|step| hasher.update(step));
            let (root, values) = hasher.finish();
            prop_assert_eq!(root, Hash::of(&bytes));
            let geometry = Geometry::new(size as u64, 16).unwrap();
            prop_assert_eq!(values.len(), geometry.piece_count() as usize);
            for (piece, part) in geometry.pieces().zip(bytes.chunks(1 << 16)) {
                prop_assert_eq!(piece_value(geometry, piece, part), values[piece.as_usize()]);
            }
        }

        #[test]
        fn zeros_hash_as_zeros(before in 0usize..3000, zeros in 0usize..200_000) {
            let mut bytes = sample(before);
            let mut hasher = PartHasher::new((before + zeros) as u64, CHUNK_BYTES, 0);
            hasher.update(&bytes).zeros(zeros as u64);
            bytes.resize(before + zeros, 0);
            prop_assert_eq!(hasher.finish(), Hash::of(&bytes));
        }
    }
}
