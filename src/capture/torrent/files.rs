//! A file or tree on disk as a torrent sees it: regular files and links by their paths.

use std::collections::BTreeMap;
use std::path::Path;

use crate::capture::source::Source;
use crate::capture::{Error, ImageKind, Result};
use crate::image::EntryIndex;
use crate::swarm::metainfo;
use crate::tree::{self, NodeKind};

/// What is at a path on disk.
#[derive(Debug)]
pub(super) struct Files {
    source: Source,
    /// By paths from the root; a single file has the empty one. Directories are left out.
    by_path: BTreeMap<metainfo::Path, OnDisk>,
}

/// A file on disk.
#[derive(Clone, Debug)]
pub(super) struct OnDisk {
    pub(super) index: EntryIndex,
    pub(super) kind: OnDiskKind,
    pub(super) executable: bool,
}

/// What it is.
#[derive(Clone, Debug)]
pub(super) enum OnDiskKind {
    /// A regular file of this size.
    File(u64),
    /// A link; where it points, from the root, if that is not outside.
    Link(Option<metainfo::Path>),
    /// Something that a torrent cannot say.
    Other(&'static str),
}

impl Files {
    /// Opens the file or directory at `path`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let about = std::fs::metadata(path).map_err(Error::store("read", path))?;
        let kind = if about.is_dir() {
            ImageKind::Tree
        } else {
            ImageKind::Disk
        };
        let source = Source::open(kind, path)?;
        let mut by_path = BTreeMap::new();
        match &source {
            Source::Disk { size, .. } => {
                use std::os::unix::fs::PermissionsExt as _;
                let only = OnDisk {
                    index: EntryIndex(0),
                    kind: OnDiskKind::File(*size),
                    executable: about.is_file() && about.permissions().mode() & 0o111 != 0,
                };
                by_path.insert(Vec::new(), only);
            }
            Source::Tree { nodes, .. } => {
                for (index, node) in (0u32..).zip(nodes).skip(1) {
                    let path = elements(&tree::path_of(nodes.as_slice(), index));
                    let kind = match &node.kind {
                        NodeKind::Directory => continue,
                        NodeKind::File { size } => OnDiskKind::File(*size),
                        NodeKind::Symlink { target } => {
                            let above = &path[..path.len() - 1];
                            OnDiskKind::Link(resolved(above, target))
                        }
                        NodeKind::CharDevice { .. } | NodeKind::BlockDevice { .. } => {
                            OnDiskKind::Other("it is a device")
                        }
                        NodeKind::Fifo => OnDiskKind::Other("it is a named pipe"),
                        NodeKind::Socket => OnDiskKind::Other("it is a socket"),
                    };
                    let file = OnDisk {
                        index: EntryIndex(index),
                        kind,
                        executable: node.mode & 0o111 != 0,
                    };
                    by_path.insert(path, file);
                }
            }
        }
        Ok(Self { source, by_path })
    }

    /// Whether it is one file.
    pub(super) fn is_single(&self) -> bool {
        matches!(self.source, Source::Disk { .. })
    }

    /// All files and links, by path.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&metainfo::Path, &OnDisk)> {
        self.by_path.iter()
    }

    /// What is at a path from the root.
    pub(super) fn get(&self, path: &[Vec<u8>]) -> Option<&OnDisk> {
        self.by_path.get(path)
    }

    /// Reads `buffer.len()` bytes of a file from `offset` on.
    pub(super) fn read(&self, index: EntryIndex, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let range = offset..offset + buffer.len() as u64;
        self.source
            .read(index, std::slice::from_ref(&range), buffer)
    }
}

/// A path for people.
pub(super) fn show(path: &[Vec<u8>]) -> String {
    tree::show(&path.join(&b'/'))
}

fn elements(path: &[u8]) -> metainfo::Path {
    path.split(|&byte| byte == b'/')
        .map(<[u8]>::to_vec)
        .collect()
}

/// Where a link in the directory `above` points, from the root; `None` if outside of it.
fn resolved(above: &[Vec<u8>], target: &[u8]) -> Option<metainfo::Path> {
    if target.starts_with(b"/") {
        return None;
    }
    let mut path = above.to_vec();
    for element in target.split(|&byte| byte == b'/') {
        match element {
            b"" | b"." => {}
            b".." => drop(path.pop()?),
            name => path.push(name.to_vec()),
        }
    }
    (!path.is_empty()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_resolved_within_the_root_only() {
        let above = elements(b"a/b");
        for (target, path) in [
            (&b"c"[..], Some(&b"a/b/c"[..])),
            (b"../c/./d", Some(b"a/c/d")),
            (b"../../c", Some(b"c")),
            (b"../..", None),
            (b"../../../c", None),
            (b"/a/b", None),
        ] {
            assert_eq!(resolved(&above, target), path.map(elements));
        }
    }
}
