//! The hashes of BitTorrent: SHA-1 of pieces, SHA-256 of 16 KiB blocks in a tree.
//!
//! ```text
//!                    pieces root                 A leaf is the SHA-256 of one block of a file, the
//!                /                \              last one shorter. Leaves that are missing to a
//!      piece layer: a node per piece             power of two are 32 zero bytes.
//!          /  \                /  \
//!      leaf 0  leaf 1      leaf 2  (zeros)
//! ```
//!
//! Source: BEP 3 "pieces", BEP 52 "pieces root".

use sha1::Digest as _;

/// A SHA-1 hash.
pub type Sha1 = [u8; 20];
/// A SHA-256 hash.
pub type Sha256 = [u8; 32];

/// The binary logarithm of the size of a block.
pub const BLOCK_LOG2: u32 = 14;
/// The size of the blocks that are the leaves of the tree, and the unit of requests: 16 KiB.
pub const BLOCK_BYTES: usize = 1 << BLOCK_LOG2;

/// Hashes bytes.
#[must_use]
pub fn sha1(bytes: &[u8]) -> Sha1 {
    sha1::Sha1::digest(bytes).into()
}

/// Hashes bytes and then `zeros` zero bytes, as a piece that a pad file fills up is hashed.
#[must_use]
pub fn sha1_padded(bytes: &[u8], zeros: u64) -> Sha1 {
    let mut hasher = sha1::Sha1::new_with_prefix(bytes);
    let mut left = zeros;
    while left > 0 {
        let step = usize::try_from(left).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
        hasher.update(&ZEROS[..step]);
        left -= step as u64;
    }
    hasher.finalize().into()
}

/// Hashes bytes; of a block, that is its leaf.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Sha256 {
    sha2::Sha256::digest(bytes).into()
}

/// The leaves of a file or of a part that starts at a block of it.
#[must_use]
pub fn leaves(bytes: &[u8]) -> Vec<Sha256> {
    bytes.chunks(BLOCK_BYTES).map(sha256).collect()
}

/// The node over two nodes.
#[must_use]
pub fn parent(left: &Sha256, right: &Sha256) -> Sha256 {
    let mut hasher = sha2::Sha256::new_with_prefix(left);
    hasher.update(right);
    hasher.finalize().into()
}

/// The node over `2^levels` leaves that are missing.
#[must_use]
pub fn missing(levels: u32) -> Sha256 {
    (0..levels).fold([0; 32], |node, _| parent(&node, &node))
}

/// The root over `2^width_log2` nodes, of which those behind `nodes` are missing; a node is the
/// root over `2^node_log2` leaves. Nodes beyond the width do not count.
#[must_use]
pub fn root(nodes: &[Sha256], node_log2: u32, width_log2: u32) -> Sha256 {
    let mut row = nodes.to_vec();
    let mut absent = missing(node_log2);
    for _ in 0..width_log2 {
        for at in 0..row.len().div_ceil(2) {
            let right = *row.get(2 * at + 1).unwrap_or(&absent);
            row[at] = parent(&row[2 * at], &right);
        }
        row.truncate(row.len().div_ceil(2));
        absent = parent(&absent, &absent);
    }
    row.first().copied().unwrap_or(absent)
}

/// The binary logarithm of the smallest power of two that is at least `count`, which is not 0.
#[must_use]
pub const fn width_log2(count: u64) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, by recursion: a tree over a power of two of leaves.
    fn by_halves(leaves: &[Sha256]) -> Sha256 {
        match leaves {
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len() / 2);
                parent(&by_halves(left), &by_halves(right))
            }
        }
    }

    #[test]
    fn known_hashes() {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(&sha1(b"abc")),
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
        assert_eq!(
            hex(&sha256(b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let whole = [&b"abc"[..], &[0; 40_000]].concat();
        assert_eq!(sha1_padded(b"abc", 40_000), sha1(&whole));
    }

    proptest! {
        #[test]
        fn the_root_is_the_root_of_the_padded_tree(
            leaves in prop::collection::vec(any::<Sha256>(), 1..40),
            piece_log2 in 0u32..4,
        ) {
            let width = width_log2(leaves.len() as u64).max(piece_log2);
            let mut padded = leaves.clone();
            padded.resize(1 << width, [0; 32]);
            prop_assert_eq!(root(&leaves, 0, width), by_halves(&padded));
            let layer: Vec<Sha256> = leaves
                .chunks(1 << piece_log2)
                .map(|piece| root(piece, 0, piece_log2))
                .collect();
            prop_assert_eq!(root(&layer, piece_log2, width - piece_log2), by_halves(&padded));
        }
    }
}
