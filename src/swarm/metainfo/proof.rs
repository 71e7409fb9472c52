//! Where the hashes of pieces and blocks are in the trees of their files, and what they prove.
//!
//! ```text
//!             pieces root                     height
//!            /           \
//!        piece          piece                 layer `piece_log2`, kept with the torrent
//!        /   \          /   \
//!     leaf   leaf    leaf   leaf              layer 0, made of the bytes of a piece
//! ```
//!
//! Source: BEP 52 "pieces root", "piece layers", "hash request".

use std::collections::{BTreeMap, BTreeSet};

use super::{Error, File, Info, Metainfo};
use crate::base::PieceIndex;
use crate::swarm::hash::{self, BLOCK_BYTES, BLOCK_LOG2, Sha256, width_log2};
use crate::swarm::hash_tree::HashTree;
use crate::swarm::wire::hashes::HashRange;

/// How many hashes of a piece layer are asked for at once (BEP 52: no more than 512).
pub const LAYER_RUN_MAX: u32 = 512;

/// What answers a hash request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These hashes, uncles and all.
    Hashes(Vec<Sha256>),
    /// Leaves of this piece: its bytes are needed, see [`Metainfo::leaf_hashes`].
    Leaves(PieceIndex),
}

/// The tree of a file.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// The file's first piece.
    first: u32,
    /// How many pieces the file has.
    pieces: u32,
    /// The layer of whole pieces.
    piece_log2: u32,
    /// The layer of the root.
    height: u32,
}

impl Shape {
    fn of(file: &File, piece_length: u32) -> Self {
        let piece_length = u64::from(piece_length);
        let number = |count: u64| u32::try_from(count).expect("parsing bounds the pieces");
        Self {
            first: number(file.offset / piece_length),
            pieces: number(file.len.div_ceil(piece_length)),
            piece_log2: piece_length.trailing_zeros() - BLOCK_LOG2,
            height: width_log2(file.len.div_ceil(1 << BLOCK_LOG2)),
        }
    }

    /// The layer of a piece: of the only one of a file, that of the root.
    fn piece_layer(self) -> u32 {
        self.piece_log2.min(self.height)
    }

    /// Whether the tree has what is asked for, and a layer for every proof.
    fn holds(self, range: &HashRange) -> bool {
        let levels = self.height.checked_sub(range.base);
        let levels = levels.filter(|&levels| range.proof_layers < levels);
        range.is_sound()
            && levels.is_some_and(|levels| {
                u64::from(range.index) + (1 << range.width_log2()) <= 1 << levels
            })
    }
}

impl Info {
    /// What to ask peers for to get all piece layers: for each file of more than one piece, once
    /// for each root.
    #[must_use]
    pub fn layer_ranges(&self) -> Vec<HashRange> {
        let (mut ranges, mut seen) = (Vec::new(), BTreeSet::new());
        let layout = self.layout();
        for file in layout.files() {
            let Some(root) = file.root.filter(|&root| seen.insert(root)) else {
                continue;
            };
            let shape = Shape::of(file, layout.piece_length());
            if shape.pieces < 2 {
                continue;
            }
            for index in (0..shape.pieces).step_by(LAYER_RUN_MAX as usize) {
                let left = (shape.pieces - index).next_power_of_two();
                ranges.push(HashRange {
                    root,
                    base: shape.piece_log2,
                    index,
                    length: left.clamp(2, LAYER_RUN_MAX),
                    proof_layers: shape.height - shape.piece_log2 - 1,
                });
            }
        }
        ranges
    }

    /// How many hashes each piece layer has, by the file's root.
    #[must_use]
    pub fn layer_lens(&self) -> BTreeMap<Sha256, u32> {
        let layout = self.layout();
        let lens = layout.files().iter().filter_map(|file| {
            let root = file.root?;
            let pieces = Shape::of(file, layout.piece_length()).pieces;
            (pieces > 1).then_some((root, pieces))
        });
        lens.collect()
    }

    /// Makes the tree of a piece layer, if it has the root.
    pub(super) fn layer(&self, root: Sha256, nodes: Vec<Sha256>) -> Result<HashTree, Error> {
        if nodes.is_empty() || nodes.len() > super::PIECES_MAX as usize {
            return Err(Error::Layer);
        }
        let piece_log2 = self.layout().piece_length().trailing_zeros() - BLOCK_LOG2;
        let width_log2 = width_log2(nodes.len() as u64);
        let tree = HashTree::new(nodes, piece_log2, width_log2);
        Some(tree)
            .filter(|tree| tree.root() == root)
            .ok_or(Error::Layer)
    }
}

impl Metainfo {
    /// Builds the torrent of an info dictionary and its piece layers.
    ///
    /// # Errors
    /// [`Error::Layer`] if a layer is of no file, is of another length, or has another root.
    pub fn with_layers(info: Info, layers: BTreeMap<Sha256, Vec<Sha256>>) -> Result<Self, Error> {
        let lens = info.layer_lens();
        let mut trees = BTreeMap::new();
        for (root, nodes) in layers {
            let is_whole = lens.get(&root).map(|&len| len as usize) == Some(nodes.len());
            let tree = info.layer(root, nodes);
            trees.insert(
                root,
                tree.and_then(|tree| is_whole.then_some(tree).ok_or(Error::Layer))?,
            );
        }
        let mut torrent = Self::from_info(info);
        torrent.layers = trees;
        Ok(torrent)
    }

    /// Looks for what a peer asks for; `None` if it is to be refused: no file has the root, its
    /// tree has no such nodes, its layer is not here, or the leaves are of several pieces.
    #[must_use]
    pub fn answer(&self, range: &HashRange) -> Option<Answer> {
        let shape = self.shape_of(range.root)?;
        if !shape.holds(range) {
            return None;
        }
        if range.base >= shape.piece_log2 {
            let tree = self.layers.get(&range.root)?;
            let mut hashes = tree.run(range.base, range.index, range.length)?;
            hashes.extend(uncles(range, |layer, index| tree.node(layer, index))?);
            return Some(Answer::Hashes(hashes));
        }
        let piece = range.index >> shape.piece_log2;
        let is_inside = range.width_log2() <= shape.piece_log2 && piece < shape.pieces;
        let is_answered = range.base == 0 && is_inside;
        is_answered.then(|| Answer::Leaves(PieceIndex::new(shape.first + piece)))
    }

    /// Answers a request for leaves of a piece, of its bytes; see [`Metainfo::answer`].
    #[must_use]
    pub fn leaf_hashes(
        &self,
        range: &HashRange,
        piece: PieceIndex,
        bytes: &[u8],
    ) -> Option<Vec<Sha256>> {
        let shape = self.shape_of(range.root)?;
        let place = piece.get().checked_sub(shape.first)?;
        let leaves = hash::leaves(bytes.get(..self.content_len(piece))?);
        if leaves.is_empty() || !shape.holds(range) || range.base != 0 {
            return None;
        }
        let below = HashTree::new(leaves, 0, shape.piece_layer());
        let first = |layer: u32| place << (shape.piece_layer() - layer);
        let mut hashes = below.run(0, range.index.checked_sub(first(0))?, range.length)?;
        let node = |layer: u32, index: u32| {
            if layer < shape.piece_layer() {
                below.node(layer, index.checked_sub(first(layer))?)
            } else {
                self.layers.get(&range.root)?.node(layer, index)
            }
        };
        hashes.extend(uncles(range, node)?);
        Some(hashes)
    }

    /// What to ask for to get all leaves of a piece; `None` if it is one block, or it is not known
    /// what they have to lead to.
    #[must_use]
    pub fn leaf_range(&self, piece: PieceIndex) -> Option<HashRange> {
        let (_, layer) = self.piece_node(piece).filter(|&(_, layer)| layer > 0)?;
        let (file, _) = self.file_of(piece)?;
        let shape = Shape::of(file, self.info.layout().piece_length());
        Some(HashRange {
            root: file.root?,
            base: 0,
            index: (piece.get() - shape.first) << shape.piece_log2,
            length: 1 << layer,
            proof_layers: layer - 1,
        })
    }

    /// Takes the leaves of a piece, as they came for [`Metainfo::leaf_range`]; `None` if they do
    /// not lead to what the torrent says of the piece.
    #[must_use]
    pub fn proven_leaves(&self, piece: PieceIndex, hashes: &[Sha256]) -> Option<Vec<Sha256>> {
        let (node, _) = self.piece_node(piece)?;
        let top = self.leaf_range(piece)?.top(hashes)?;
        (top.hash == node).then(|| hashes.to_vec())
    }

    /// Says of each block of a piece whether its bytes are right, by the leaves of the piece.
    /// Padding has to be zeros.
    #[must_use]
    pub fn check_blocks(&self, piece: PieceIndex, bytes: &[u8], leaves: &[Sha256]) -> Vec<bool> {
        let content = self.content_len(piece);
        let blocks = bytes.chunks(BLOCK_BYTES).enumerate();
        let is_right = |(number, block): (usize, &[u8])| {
            let len = content.saturating_sub(number * BLOCK_BYTES);
            let (content, padding) = block.split_at(len.min(block.len()));
            let leaf = leaves.get(number);
            let is_content = content.is_empty() || leaf == Some(&hash::sha256(content));
            is_content && padding.iter().all(|&byte| byte == 0)
        };
        blocks.map(is_right).collect()
    }

    /// How many bytes of a piece peers send: without a v1 part a piece ends with its file, and the
    /// rest is zeros that nobody asks for.
    #[must_use]
    pub fn sent_len(&self, piece: PieceIndex) -> u32 {
        let whole = self.info.layout().piece_len(piece);
        if self.info.names().v1().is_some() {
            return whole;
        }
        let content = u32::try_from(self.content_len(piece)).unwrap_or(whole);
        if content == 0 { whole } else { content }
    }

    /// The bytes of a piece that are of its v2 file; 0 for a torrent without such.
    fn content_len(&self, piece: PieceIndex) -> usize {
        self.file_of(piece).map_or(0, |(_, len)| len)
    }

    /// The tree of the first file with this root.
    fn shape_of(&self, root: Sha256) -> Option<Shape> {
        let layout = self.info.layout();
        let file = &layout.files()[*self.roots.get(&root)?];
        Some(Shape::of(file, layout.piece_length()))
    }
}

/// By its root, the first file that has it.
pub(super) fn roots(info: &Info) -> BTreeMap<Sha256, usize> {
    let files = info.layout().files().iter().enumerate();
    let mut roots = BTreeMap::new();
    for (index, file) in files {
        if let Some(root) = file.root {
            roots.entry(root).or_insert(index);
        }
    }
    roots
}

/// The uncles that follow the hashes of a range, upwards.
fn uncles(range: &HashRange, node: impl Fn(u32, u32) -> Option<Sha256>) -> Option<Vec<Sha256>> {
    let width_log2 = range.width_log2();
    let (layer, index) = (range.base + width_log2, range.index >> width_log2);
    let uncle = |level: u32| node(layer + level, (index >> level) ^ 1);
    (0..range.uncle_count()).map(uncle).collect()
}

#[cfg(test)]
mod tests;
