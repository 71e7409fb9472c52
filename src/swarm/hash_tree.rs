//! The nodes of a tree of hashes, from one of its layers up: of a file from its piece layer, of a
//! piece from its leaves.
//!
//! ```text
//!   row 2          root            Nodes over nothing but missing leaves are not kept: they are
//!   row 1       n        n         the same in all trees.
//!   row 0     n    n   n   (-)     layer `base`
//! ```
//!
//! Invariant: every node kept is the parent of the two below it.
//!
//! Source: BEP 52 "pieces root", "piece layers".

use super::hash::{self, Sha256, missing, parent};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashTree {
    base: u32,
    rows: Vec<Vec<Sha256>>,
}

impl HashTree {
    /// Builds the tree over `2^width_log2` nodes of the layer `base`, of which those behind `nodes`
    /// are missing.
    ///
    /// # Panics
    /// If there is no node, or more than the width.
    #[must_use]
    pub fn new(nodes: Vec<Sha256>, base: u32, width_log2: u32) -> Self {
        assert!(
            !nodes.is_empty() && hash::width_log2(nodes.len() as u64) <= width_log2,
            "the nodes fit in the tree"
        );
        let mut absent = missing(base);
        let mut rows = vec![nodes];
        for level in 0..width_log2 as usize {
            let above = rows[level]
                .chunks(2)
                .map(|pair| parent(&pair[0], pair.get(1).unwrap_or(&absent)));
            let above = above.collect();
            rows.push(above);
            absent = parent(&absent, &absent);
        }
        Self { base, rows }
    }

    /// The nodes that it was built from.
    #[must_use]
    pub fn nodes(&self) -> &[Sha256] {
        &self.rows[0]
    }

    /// The one over all.
    #[must_use]
    pub fn root(&self) -> Sha256 {
        self.rows[self.rows.len() - 1][0]
    }

    /// The lowest layer of it.
    #[must_use]
    pub const fn base(&self) -> u32 {
        self.base
    }

    /// The layer of its root.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.base + u32::try_from(self.rows.len() - 1).unwrap_or(u32::MAX)
    }

    /// `count` nodes of a layer, the missing ones too; `None` if the tree has no such layer or it
    /// ends before them.
    #[must_use]
    pub fn run(&self, layer: u32, first: u32, count: u32) -> Option<Vec<Sha256>> {
        let level = layer.checked_sub(self.base)? as usize;
        let row = self.rows.get(level)?;
        let width = 1_u64 << (self.rows.len() - 1 - level);
        if u64::from(first) + u64::from(count) > width {
            return None;
        }
        let (first, count) = (first as usize, count as usize);
        let end = row.len().min(first + count);
        let mut run = Vec::with_capacity(count);
        run.extend_from_slice(row.get(first..end).unwrap_or_default());
        if run.len() < count {
            run.resize(count, missing(layer));
        }
        Some(run)
    }

    /// One node of a layer.
    #[must_use]
    pub fn node(&self, layer: u32, index: u32) -> Option<Sha256> {
        self.run(layer, index, 1)?.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_node_is_that_of_the_padded_tree(
            nodes in prop::collection::vec(any::<Sha256>(), 1..20),
            base in 0..3u32,
            wider in 0..2u32,
        ) {
            let width_log2 = hash::width_log2(nodes.len() as u64) + wider;
            let tree = HashTree::new(nodes.clone(), base, width_log2);
            prop_assert_eq!(tree.root(), hash::root(&nodes, base, width_log2));
            prop_assert_eq!(tree.height(), base + width_log2);
            let mut row = nodes;
            row.resize(1 << width_log2, missing(base));
            for layer in base..=tree.height() {
                let count = u32::try_from(row.len()).unwrap();
                prop_assert_eq!(tree.run(layer, 0, count), Some(row.clone()));
                prop_assert_eq!(tree.node(layer, count - 1), row.last().copied());
                prop_assert_eq!(tree.node(layer, count), None);
                row = row.chunks(2).map(|two| parent(&two[0], two.last().unwrap())).collect();
            }
            prop_assert_eq!(tree.node(tree.height() + 1, 0), None);
        }
    }
}
