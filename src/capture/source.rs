//! What is published, behind one face: the entries of a tree or disk, and the bytes of its files.

use std::fs::File;
use std::io::{self, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use super::{Error, ImageKind, Result};
use crate::image::{Entry, EntryIndex, EntryKind, Hash, Kind, Mtime, Owner};
use crate::tree::{self, Node, NodeKind, Tree};

/// An image that is open for reading.
#[derive(Debug)]
pub(super) enum Source {
    /// A directory tree as it was scanned.
    Tree {
        /// Opens its files.
        tree: Tree,
        /// What is in it; the index of an entry is that of its node.
        nodes: Vec<Node>,
    },
    /// A disk.
    Disk {
        /// The file or device.
        file: File,
        /// Its name, for errors.
        name: String,
        /// Its length.
        size: u64,
        /// When it last changed; `None` for a device, which does not tell.
        mtime: Option<Mtime>,
    },
}

impl Source {
    /// Opens what is at `path`; scans it if it is a tree.
    pub(super) fn open(kind: ImageKind, path: &Path) -> Result<Self> {
        match kind {
            ImageKind::Tree => {
                let tree = Tree::open(path)?;
                let nodes = tree.scan(&tree::ScanOptions::default())?;
                Ok(Self::Tree { tree, nodes })
            }
            ImageKind::Disk => open_disk(path),
        }
    }

    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Tree { .. } => Kind::Tree,
            Self::Disk { .. } => Kind::Disk,
        }
    }

    /// The entries, with neither the hashes nor the holes of files.
    pub(super) fn entries(&self) -> Vec<Entry> {
        match self {
            Self::Tree { nodes, .. } => entries_of(nodes),
            Self::Disk { size, .. } => vec![disk_entry(*size)],
        }
    }

    /// About how many bytes will be read.
    pub(super) fn size_estimate(&self) -> u64 {
        let of_node = |node: &Node| {
            if let NodeKind::File { size } = node.kind {
                size.min(node.allocated)
            } else {
                0
            }
        };
        match self {
            Self::Tree { nodes, .. } => nodes.iter().map(of_node).sum(),
            Self::Disk { size, .. } => *size,
        }
    }

    /// The ranges of a file that have data, on a grid of 4 KiB; `None` for a file without holes.
    ///
    /// A disk is read for this: blocks of zeros are holes wherever they lie.
    pub(super) fn holes_of(
        &self,
        index: EntryIndex,
        size: u64,
    ) -> Result<Option<Box<[Range<u64>]>>> {
        let fail = |error| self.read_error(index, error);
        let ranges = match self {
            Self::Tree { tree, nodes } => {
                if nodes[index.as_usize()].allocated >= size {
                    return Ok(None);
                }
                let file = self.open_file(tree, nodes, index)?;
                tree::data_ranges(&file, size).map_err(fail)?
            }
            Self::Disk { file, mtime, .. } => {
                let ranges = match mtime {
                    Some(_) => tree::data_ranges(file, size).map_err(fail)?,
                    None => std::iter::once(0..size).collect(),
                };
                without_zeros(file, size, &on_grid(&ranges, size)).map_err(fail)?
            }
        };
        let ranges = on_grid(&ranges, size);
        let is_whole = size == 0 || matches!(&ranges[..], [only] if *only == (0..size));
        Ok((!is_whole).then(|| ranges.into()))
    }

    /// Reads ranges of a file end to end into `buffer`, which has their size, and makes sure that
    /// the file is still the one that was scanned.
    pub(super) fn read(
        &self,
        index: EntryIndex,
        ranges: &[Range<u64>],
        buffer: &mut [u8],
    ) -> Result<()> {
        let opened;
        let (file, expected) = match self {
            Self::Tree { tree, nodes } => {
                opened = self.open_file(tree, nodes, index)?;
                let node = &nodes[index.as_usize()];
                let NodeKind::File { size } = node.kind else {
                    return Err(self.changed(index));
                };
                (&opened, Some((size, node.mtime)))
            }
            Self::Disk {
                file, size, mtime, ..
            } => (file, mtime.map(|mtime| (*size, mtime))),
        };
        let mut rest = buffer;
        for range in ranges {
            #[expect(clippy::cast_possible_truncation, reason = "the buffer is as large")]
            let (now, later) = rest.split_at_mut((range.end - range.start) as usize);
            file.read_exact_at(now, range.start).map_err(|error| {
                if error.kind() == io::ErrorKind::UnexpectedEof {
                    self.changed(index)
                } else {
                    self.read_error(index, error)
                }
            })?;
            rest = later;
        }
        let stat = rustix::fs::fstat(file).map_err(|errno| self.read_error(index, errno.into()))?;
        let found = (stat.st_size.cast_unsigned(), mtime_of(&stat));
        if expected.is_some_and(|expected| expected != found) {
            return Err(self.changed(index));
        }
        Ok(())
    }

    /// Opens a file of the tree; one that is gone, or became something else, has changed.
    fn open_file(&self, tree: &Tree, nodes: &[Node], index: EntryIndex) -> Result<File> {
        use tree::ErrorKind as K;
        tree.open_file(nodes, index.0)
            .map_err(|error| match error.kind() {
                K::Missing | K::Escape => self.changed(index),
                K::NoSpace | K::ReadOnly | K::Denied | K::Exists | K::NotSupported | K::Other => {
                    error.into()
                }
            })
    }

    fn changed(&self, index: EntryIndex) -> Error {
        let path = self.show(index);
        Error::Changed { path }
    }

    fn read_error(&self, index: EntryIndex, source: io::Error) -> Error {
        let path = self.show(index);
        Error::Read { path, source }
    }

    fn show(&self, index: EntryIndex) -> String {
        match self {
            Self::Tree { nodes, .. } => tree::show(&tree::path_of(nodes.as_slice(), index.0)),
            Self::Disk { name, .. } => name.clone(),
        }
    }
}

fn open_disk(path: &Path) -> Result<Source> {
    let fail = || Error::store("open", path);
    let mut file = File::open(path).map_err(fail())?;
    let metadata = file.metadata().map_err(fail())?;
    let mtime = metadata.is_file().then(|| Mtime {
        secs: metadata.mtime(),
        nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or_default(),
    });
    let size = match mtime {
        Some(_) => metadata.len(),
        None => io::Seek::seek(&mut file, SeekFrom::End(0)).map_err(fail())?,
    };
    if size == 0 {
        return Err(Error::Unsuitable(
            "A disk image of 0 bytes cannot be published",
        ));
    }
    Ok(Source::Disk {
        file,
        name: path.display().to_string(),
        size,
        mtime,
    })
}

/// A disk has content alone; its other fields are the same for every disk.
fn disk_entry(size: u64) -> Entry {
    Entry {
        parent: EntryIndex(0),
        name: Box::default(),
        kind: file_kind(size),
        mode: 0o600,
        owner: Owner::default(),
        mtime: Mtime::default(),
        xattrs: Vec::new(),
    }
}

fn entries_of(nodes: &[Node]) -> Vec<Entry> {
    let first_names = tree::first_names(nodes);
    (0u32..)
        .zip(nodes)
        .zip(first_names)
        .map(|((index, node), first)| {
            // A hard link repeats what was found at the first name, should it have changed since.
            let metadata = &nodes[first as usize];
            Entry {
                parent: EntryIndex(node.parent),
                name: node.name.clone(),
                kind: if first == index {
                    kind_of(&node.kind)
                } else {
                    EntryKind::Hardlink {
                        to: EntryIndex(first),
                    }
                },
                mode: metadata.mode,
                owner: metadata.owner,
                mtime: metadata.mtime,
                xattrs: metadata.xattrs.clone(),
            }
        })
        .collect()
}

fn kind_of(kind: &NodeKind) -> EntryKind {
    match *kind {
        NodeKind::Directory => EntryKind::Directory,
        NodeKind::File { size } => file_kind(size),
        NodeKind::Symlink { ref target } => EntryKind::Symlink {
            target: target.clone(),
        },
        NodeKind::CharDevice { major, minor } => EntryKind::CharDevice { major, minor },
        NodeKind::BlockDevice { major, minor } => EntryKind::BlockDevice { major, minor },
        NodeKind::Fifo => EntryKind::Fifo,
        NodeKind::Socket => EntryKind::Socket,
    }
}

/// A file that was not read yet: its hash is that of nothing.
fn file_kind(size: u64) -> EntryKind {
    EntryKind::File {
        size,
        hash: Hash::of(b""),
        data: None,
    }
}

/// Widens ranges to whole blocks of [`GRID_BYTES`] and joins those that touch.
fn on_grid(ranges: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    let mut wide: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        let start = range.start / GRID_BYTES * GRID_BYTES;
        let end = range.end.next_multiple_of(GRID_BYTES).min(size);
        match wide.last_mut() {
            Some(last) if last.end >= start => last.end = last.end.max(end),
            _ => wide.push(start..end),
        }
    }
    wide
}

/// Reads the ranges, which lie on the grid, and leaves out the blocks that hold zeros only.
fn without_zeros(file: &File, size: u64, ranges: &[Range<u64>]) -> io::Result<Vec<Range<u64>>> {
    let mut buffer = vec![0; SCAN_BYTES];
    let mut data: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        for start in (range.start..range.end).step_by(SCAN_BYTES) {
            #[expect(clippy::cast_possible_truncation, reason = "at most the buffer's size")]
            let now = &mut buffer[..(range.end - start).min(SCAN_BYTES as u64) as usize];
            file.read_exact_at(now, start)?;
            for (at, block) in (start..).step_by(GRID_STEP).zip(now.chunks(GRID_STEP)) {
                if is_zero(block) {
                    continue;
                }
                let end = (at + block.len() as u64).min(size);
                match data.last_mut() {
                    Some(last) if last.end == at => last.end = end,
                    _ => data.push(at..end),
                }
            }
        }
    }
    Ok(data)
}

/// Whether a block holds zeros only, told at the speed of memory.
fn is_zero(block: &[u8]) -> bool {
    let (words, rest) = block.as_chunks::<64>();
    let or = |sum: u8, byte: &u8| sum | byte;
    words.iter().all(|word| word.iter().fold(0, or) == 0) && rest.iter().fold(0, or) == 0
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "nanoseconds are less than 2^30"
)]
const fn mtime_of(stat: &rustix::fs::Stat) -> Mtime {
    Mtime {
        secs: stat.st_mtime,
        nanos: stat.st_mtime_nsec as u32,
    }
}

/// Holes are kept in units of this: what most file systems and disks can leave out.
const GRID_BYTES: u64 = 4096;
const GRID_STEP: usize = 4096;
/// How much of a disk is read at once to look for zeros.
const SCAN_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]
    #[test]
    fn ranges_widen_to_blocks_and_join() {
        let ranges = [1..2, 4095..4097, 20_000..20_001, 40_000..40_960];
        assert_eq!(
            on_grid(&ranges, 40_970),
            [0..8192, 16_384..20_480, 36_864..40_960]
        );
        assert_eq!(on_grid(&[9000..9001], 9001), [8192..9001]);
    }

    #[expect(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]
    #[test]
    fn zeros_in_a_disk_are_holes() {
        let file = tempfile::tempfile().unwrap();
        let size = 3 * 4096 + 10;
        file.set_len(size).unwrap();
        file.write_all_at(&[1], 5000).unwrap();
        file.write_all_at(&[1], size - 1).unwrap();
        let data = without_zeros(&file, size, &on_grid(&[0..size], size)).unwrap();
        assert_eq!(data, [4096..8192, 12_288..size]);
    }

    #[test]
    fn one_bit_is_not_zero() {
        for at in [0, 63, 64, 99] {
            let mut block = [0; 100];
            assert!(is_zero(&block));
            block[at] = 1;
            assert!(!is_zero(&block));
        }
    }
}
