//! Hashes of a file's tree, asked for by their place in it, with what proves them.
//!
//! ```text
//!   21 hash request   root 32 | base layer 4 | index 4 | length 4 | proof layers 4
//!   22 hashes         the same | `length` hashes of the base layer | uncle hashes, upwards
//!   23 hash reject    the same as 21
//!
//!             top            The hashes asked for are `#`. What is over them is computed; beside
//!           /     \          that the uncles `u` lead to the top. Leaves are layer 0.
//!         .         u
//!       /   \     /   \      proof layers 2: the layer of `u`, and the one below it, which needs
//!      #     #   .     .     no uncle but counts
//! ```
//!
//! A message is any five numbers, for whoever is asked for nonsense has to refuse it as it was
//! asked; [`HashRange::is_sound`] tells. Hashes come as many as their numbers say, or not at all.
//!
//! Source: BEP 52 "hash request", "hashes", "hash reject".

use crate::swarm::hash::{self, Sha256};

/// The bytes of a request.
pub const HASH_RANGE_BYTES: usize = 48;
/// The most hashes of a layer that are asked for at once: leaves of a piece of 128 MiB.
pub const HASHES_MAX: u32 = 8192;
/// The most layers that a tree has: 2^30 blocks, libtorrent's largest file.
pub const LAYERS_MAX: u32 = 30;

/// Which hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashRange {
    /// The root of the file's tree.
    pub root: Sha256,
    /// The layer they are of; 0 are the leaves.
    pub base: u32,
    /// The first, in its layer.
    pub index: u32,
    /// How many.
    pub length: u32,
    /// How many layers above the base layer have a part in the proof.
    pub proof_layers: u32,
}

/// A node of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// The layer it is in.
    pub layer: u32,
    /// Its place in its layer.
    pub index: u32,
    /// Its value.
    pub hash: Sha256,
}

impl HashRange {
    /// Reads a request or a refusal.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let payload: &[u8; HASH_RANGE_BYTES] = payload.try_into().ok()?;
        let (root, numbers) = payload.split_first_chunk()?;
        let [base, index, length, proof_layers] = *numbers.as_chunks().0.first_chunk()?;
        Some(Self {
            root: *root,
            base: u32::from_be_bytes(base),
            index: u32::from_be_bytes(index),
            length: u32::from_be_bytes(length),
            proof_layers: u32::from_be_bytes(proof_layers),
        })
    }

    /// Reads what is asked for, and the hashes; `None` if those are not as many as they should be.
    #[must_use]
    pub fn parse_with_hashes(payload: &[u8]) -> Option<(Self, &[Sha256])> {
        let (range, hashes) = payload.split_at_checked(HASH_RANGE_BYTES)?;
        let range = Self::parse(range).filter(Self::is_sound)?;
        let (hashes, rest) = hashes.as_chunks();
        let is_whole = hashes.len() == range.hash_count() && rest.is_empty();
        is_whole.then_some((range, hashes))
    }

    /// Gives its bytes.
    #[must_use]
    pub fn emit(&self) -> [u8; HASH_RANGE_BYTES] {
        let mut bytes = [0; HASH_RANGE_BYTES];
        bytes[..32].copy_from_slice(&self.root);
        let numbers = [self.base, self.index, self.length, self.proof_layers];
        bytes[32..].copy_from_slice(numbers.map(u32::to_be_bytes).as_flattened());
        bytes
    }

    /// Whether such hashes can be: two or more, beginning where a part of the tree does, in no
    /// higher tree than any is.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        (2..=HASHES_MAX).contains(&self.length)
            && self.index.is_multiple_of(1 << self.width_log2())
            && self.index < 1 << LAYERS_MAX
            && self.base <= LAYERS_MAX
            && self.proof_layers <= LAYERS_MAX
    }

    /// The part of the tree that they are the lowest layer of: how many layers it has below its
    /// own root.
    #[must_use]
    pub fn width_log2(&self) -> u32 {
        hash::width_log2(self.length.min(HASHES_MAX).into())
    }

    /// How many uncles follow the hashes asked for.
    #[must_use]
    pub fn uncle_count(&self) -> u32 {
        (self.proof_layers + 1).saturating_sub(self.width_log2())
    }

    /// How many hashes an answer has.
    #[must_use]
    pub fn hash_count(&self) -> usize {
        (self.length + self.uncle_count()) as usize
    }

    /// The node that hashes lead to, as many as an answer has.
    #[must_use]
    pub fn top(&self, hashes: &[Sha256]) -> Option<Node> {
        if !self.is_sound() || hashes.len() != self.hash_count() {
            return None;
        }
        let (asked, uncles) = hashes.split_at(self.length as usize);
        let width_log2 = self.width_log2();
        let mut node = Node {
            layer: self.base + width_log2,
            index: self.index >> width_log2,
            hash: hash::root(asked, self.base, width_log2),
        };
        for uncle in uncles {
            node.hash = if node.index.is_multiple_of(2) {
                hash::parent(&node.hash, uncle)
            } else {
                hash::parent(uncle, &node.hash)
            };
            (node.layer, node.index) = (node.layer + 1, node.index / 2);
        }
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges() -> impl Strategy<Value = HashRange> {
        let numbers = (0..40u32, 0..5000u32, 0..600u32, 0..40u32);
        (any::<Sha256>(), numbers).prop_map(|(root, (base, index, length, proof_layers))| {
            HashRange {
                root,
                base,
                index,
                length,
                proof_layers,
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(range in ranges(), more in -1..2i64) {
            prop_assert_eq!(HashRange::parse(&range.emit()), Some(range));
            let right = if range.is_sound() { range.hash_count() } else { 3 };
            let count = usize::try_from(i64::try_from(right).unwrap() + more).unwrap();
            let hashes = vec![[7; 32]; count];
            let bytes = [&range.emit()[..], hashes.as_flattened()].concat();
            let read = HashRange::parse_with_hashes(&bytes);
            let is_right = range.is_sound() && more == 0;
            prop_assert_eq!(read, is_right.then_some((range, &hashes[..])));
            prop_assert_eq!(range.top(&hashes).is_some(), is_right);
        }

        #[test]
        fn no_bytes_do_harm(
            numbers: [u32; 4],
            hashes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let [base, index, length, proof_layers] = numbers;
            let range = HashRange { root: [1; 32], base, index, length, proof_layers };
            let bytes = [&range.emit()[..], &hashes].concat();
            let read = HashRange::parse_with_hashes(&bytes);
            prop_assert!(read.is_none_or(|(read, _)| read == range && read.is_sound()));
            prop_assert_eq!(HashRange::parse(&bytes).is_some(), hashes.is_empty());
        }
    }

    #[test]
    fn uncles_count_from_the_layer_over_the_lowest() {
        let uncles = |length, proof_layers| {
            let range = HashRange {
                root: [1; 32],
                base: 2,
                index: 0,
                length,
                proof_layers,
            };
            range.uncle_count()
        };
        assert_eq!([uncles(2, 0), uncles(2, 1), uncles(2, 5)], [0, 1, 5]);
        assert_eq!([uncles(512, 8), uncles(512, 9), uncles(3, 2)], [0, 1, 1]);
    }
}
