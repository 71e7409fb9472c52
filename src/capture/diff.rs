//! What changed from one image to another: trees, disks and published bundles, in any pairing.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;

use crate::image::{EntryKind, Hash, Kind, Manifest, Mtime, Owner};
use crate::tree::{
    self, Change, Content, Difference, Metadata, Node, NodeKind, ScanOptions, Side, Tree, compare,
    data_ranges, first_names, path_of,
};

/// What lies in an image, and how to learn what is in its files.
#[derive(Debug)]
pub struct Listing {
    nodes: Vec<Node>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Tree(Tree),
    Disk(File),
    /// The hash of every file, by index.
    Published(Vec<Option<Hash>>),
}

impl Listing {
    /// Lists the tree at `path`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_tree(path: &Path) -> tree::Result<Self> {
        let tree = Tree::open(path)?;
        Ok(Self {
            nodes: tree.scan(&ScanOptions::default())?,
            source: Source::Tree(tree),
        })
    }

    /// Lists the disk image at `path`: one file, without metadata of its own.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_disk(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            nodes: vec![disk_node(size)],
            source: Source::Disk(file),
        })
    }

    /// Lists what was published.
    #[must_use]
    pub fn of_manifest(manifest: &Manifest) -> Self {
        let entries = &manifest.entries[..];
        let mut link_counts = vec![1; entries.len()];
        for entry in entries {
            if let EntryKind::Hardlink { to } = entry.kind {
                link_counts[to.as_usize()] += 1;
            }
        }
        let node = |(index, entry): (u32, &crate::image::Entry)| {
            let first = if let EntryKind::Hardlink { to } = entry.kind {
                to.0
            } else {
                index
            };
            Node {
                parent: entry.parent.0,
                name: entry.name.clone(),
                kind: NodeKind::of(entries, index),
                mode: entry.mode,
                owner: entry.owner,
                mtime: entry.mtime,
                xattrs: entry.xattrs.clone(),
                device: 0,
                inode: first.into(),
                link_count: link_counts[first as usize],
                allocated: 0,
            }
        };
        let hash = |entry: &crate::image::Entry| {
            let first = if let EntryKind::Hardlink { to } = entry.kind {
                &entries[to.as_usize()].kind
            } else {
                &entry.kind
            };
            if let EntryKind::File { hash, .. } = *first {
                Some(hash)
            } else {
                None
            }
        };
        let nodes = match (manifest.kind, &entries[0].kind) {
            (Kind::Disk | Kind::File, EntryKind::File { size, .. }) => vec![disk_node(*size)],
            _ => (0u32..).zip(entries).map(node).collect(),
        };
        Self {
            nodes,
            source: Source::Published(entries.iter().map(hash).collect()),
        }
    }

    /// Whether this is a tree and not a disk.
    #[must_use]
    pub fn is_tree(&self) -> bool {
        self.nodes[0].kind == NodeKind::Directory
    }

    fn hash(&self, index: u32, buffer: &mut Vec<u8>) -> tree::Result<Option<Hash>> {
        let NodeKind::File { size } = self.nodes[index as usize].kind else {
            return Ok(None);
        };
        let opened;
        let file = match &self.source {
            Source::Published(hashes) => return Ok(hashes[index as usize]),
            Source::Disk(file) => file,
            Source::Tree(tree) => {
                opened = tree.open_file(&self.nodes[..], index)?;
                &opened
            }
        };
        let hash = |data: Vec<_>| {
            let data = &data[..];
            Content { file, size, data }.hash(buffer)
        };
        data_ranges(file, size)
            .and_then(hash)
            .map(Some)
            .map_err(|error| tree::Error::new("read", path_of(&self.nodes[..], index), error))
    }

    fn side(&self, index: u32) -> Side<'_> {
        let node = &self.nodes[index as usize];
        Side {
            kind: &node.kind,
            metadata: Metadata::from(node),
        }
    }
}

/// Lists all differences from `before` to `after`, sorted by path.
///
/// # Errors
/// If a file's content cannot be read.
pub fn diff(before: &Listing, after: &Listing) -> tree::Result<Vec<Difference>> {
    let mut differences = Vec::new();
    let mut buffers = (Vec::new(), Vec::new());
    let pairs = pair(before, after);
    let (firsts_before, firsts_after) = (first_names(&before.nodes), first_names(&after.nodes));
    let mut is_paired = vec![false; after.nodes.len()];
    for (index, &other) in (0u32..).zip(&pairs) {
        let mut report = |change| {
            let path = path_of(&before.nodes[..], index);
            differences.push(Difference { path, change });
        };
        let Some(other) = other else {
            report(Change::Removed);
            continue;
        };
        is_paired[other as usize] = true;
        let changes = compare(before.side(index), after.side(other));
        let may_be_equal = !changes
            .iter()
            .any(|change| matches!(change, Change::Kind | Change::Size(..)));
        changes.into_iter().for_each(&mut report);
        if may_be_equal
            && before.hash(index, &mut buffers.0)? != after.hash(other, &mut buffers.1)?
        {
            report(Change::Content);
        }
        let first = pairs[firsts_before[index as usize] as usize];
        if first != Some(firsts_after[other as usize]) {
            report(Change::Link);
        }
    }
    for (index, _) in (0u32..).zip(&is_paired).filter(|(_, paired)| !**paired) {
        let path = path_of(&after.nodes[..], index);
        differences.push(Difference {
            path,
            change: Change::Added,
        });
    }
    differences.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(differences)
}

/// Finds for every node of `before` the one of `after` that has the same path.
fn pair(before: &Listing, after: &Listing) -> Vec<Option<u32>> {
    let by_name: HashMap<(u32, &[u8]), u32> = (0u32..)
        .zip(&after.nodes)
        .skip(1)
        .map(|(index, node)| ((node.parent, &*node.name), index))
        .collect();
    let mut pairs: Vec<Option<u32>> = vec![Some(0)];
    for node in &before.nodes[1..] {
        let parent = pairs[node.parent as usize];
        pairs.push(parent.and_then(|parent| by_name.get(&(parent, &*node.name)).copied()));
    }
    pairs
}

fn disk_node(size: u64) -> Node {
    Node {
        parent: 0,
        name: Box::default(),
        kind: NodeKind::File { size },
        mode: 0,
        owner: Owner::default(),
        mtime: Mtime::default(),
        xattrs: Vec::new(),
        device: 0,
        inode: 0,
        link_count: 1,
        allocated: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn changes(before: &Path, after: &Path) -> Vec<String> {
        let (before, after) = (Listing::of_tree(before), Listing::of_tree(after));
        let found = diff(&before.unwrap(), &after.unwrap()).unwrap();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_copy_differs_in_nothing_until_it_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir_all(a.join("d/e")).unwrap();
        for name in ["d/one", "d/two", "gone"] {
            fs::write(a.join(name), name).unwrap();
        }
        fs::hard_link(a.join("d/one"), a.join("link")).unwrap();
        std::os::unix::fs::symlink("x", a.join("s")).unwrap();
        crate::capture::copy::copy_tree(&a, &b, &ScanOptions::default(), false).unwrap();
        assert_eq!(changes(&a, &b), [""; 0]);

        let mtime = fs::metadata(b.join("d/two")).unwrap().modified().unwrap();
        fs::write(b.join("d/two"), "TWO!!!").unwrap();
        File::open(b.join("d/two"))
            .unwrap()
            .set_modified(mtime)
            .unwrap();
        fs::remove_file(b.join("gone")).unwrap();
        fs::write(b.join("new"), "").unwrap();
        let root = fs::metadata(&a).unwrap().modified().unwrap();
        File::open(&b).unwrap().set_modified(root).unwrap();
        assert_eq!(
            changes(&a, &b),
            ["d/two: size 5 -> 6", "gone: removed", "new: added"]
        );
    }
}
