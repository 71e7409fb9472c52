//! The manifest: everything a node must know to restore an image, and to know that it did.
//!
//! Metadata (entries) and data (frames, extents) are kept apart: an entry says what a file *is*, an
//! extent says which bytes of which frame go where in it. So deltas work on files, never on offsets
//! of the tar stream, and frames restore in any order.
//!
//! Invariants, which hold for every `Manifest` that was decoded:
//!
//! - entry 0 is the root directory (trees) or the one file (disks and plain files); a parent is a
//!   directory and comes before its children; siblings are sorted by name and unique;
//! - names are 1 to 255 bytes, without `/` and NUL, never `.` or `..`; the root's is empty;
//! - xattrs are sorted by name and unique; a hard link comes after its first name and repeats its
//!   metadata;
//! - extents are sorted by (frame, offset in frame), lie in their frame and in their file's data
//!   ranges, do not overlap, and cover every data byte of every file;
//! - a frame holds at most [`FRAME_CONTENT_BYTES_MAX`] bytes of files, [`FRAME_BYTES_MAX`] in all;
//!   the frames and their seek table are the whole bundle;
//! - there is one chaining value per piece, and together they give `root`.

use std::ops::Range;

use super::{Geometry, Hash, ImageName};
use crate::base::Serial;

/// What kind of thing was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory tree; the bundle is a `.tar.zst`.
    Tree,
    /// A raw disk or partition; the bundle is a `.tar.zst` that holds one sparse file.
    Disk,
    /// A plain file that travels as it is (`flashover cast`): the bundle *is* the file; there are
    /// no frames and no extents, one entry.
    File,
}

/// The description of one bundle. See the module for its invariants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The image's name.
    pub name: ImageName,
    /// The number of this publication.
    pub serial: Serial,
    /// What was published.
    pub kind: Kind,
    /// Size and pieces of the bundle.
    pub geometry: Geometry,
    /// The BLAKE3 hash of the bundle's bytes, what `b3sum` prints.
    pub root: Hash,
    /// The chaining value of every piece: the BLAKE3 subtree at its position in the bundle (not a
    /// root). A bundle of one piece has `root` here.
    pub pieces: Vec<Hash>,
    /// The zstd frames that carry content, in order; they start at offset 0 of the bundle, end to
    /// end.
    pub frames: Vec<Frame>,
    /// What is restored.
    pub entries: Vec<Entry>,
    /// Which bytes of which frame go where.
    pub extents: Vec<Extent>,
}

/// One independent zstd frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes in the bundle.
    pub packed_size: u32,
    /// Bytes when unpacked, content of files and tar headers, at most [`FRAME_BYTES_MAX`].
    pub content_size: u32,
}

/// A run of bytes of a file, inside a frame's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Index of the frame.
    pub frame: u32,
    /// Where the run starts in the frame's content.
    pub frame_offset: u32,
    /// The file.
    pub entry: EntryIndex,
    /// Where the run starts in the file.
    pub file_offset: u64,
    /// Length of the run, not 0.
    pub len: u32,
}

/// The position of an entry in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryIndex(pub u32);

impl EntryIndex {
    /// The index for use with slices.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// One file, directory or other thing in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The directory it lies in; the root's is itself.
    pub parent: EntryIndex,
    /// Its last path component, any bytes but `/` and NUL; empty for the root.
    pub name: Box<[u8]>,
    /// What it is.
    pub kind: EntryKind,
    /// The permission bits, with setuid, setgid and sticky: at most `0o7777`.
    pub mode: u16,
    /// Who owns it.
    pub owner: Owner,
    /// When its content last changed.
    pub mtime: Mtime,
    /// Extended attributes, sorted by name: POSIX ACLs (`system.posix_acl_access`, `..._default`),
    /// capabilities (`security.capability`), SELinux labels and all others, as the kernel gives
    /// them.
    pub xattrs: Vec<Xattr>,
}

/// Numeric user and group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// A modification time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtime {
    /// Seconds since 1970, negative before.
    pub secs: i64,
    /// Nanoseconds, 0 to 999,999,999, added to `secs`.
    pub nanos: u32,
}

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Full name with namespace.
    pub name: Box<[u8]>,
    /// Value as the kernel gives it.
    pub value: Box<[u8]>,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// BLAKE3 of all its bytes, holes read as zeros: what `b3sum` prints.
        hash: Hash,
        /// Where it has data, ascending, not touching; `None` for a file without holes. What is not
        /// data is a hole.
        data: Option<Box<[Range<u64>]>>,
    },
    /// A symbolic link.
    Symlink {
        /// Its target, 1 to 4095 bytes without NUL.
        target: Box<[u8]>,
    },
    /// Another name of an earlier entry, which is neither a directory nor itself a hard link; its
    /// own metadata fields repeat that entry's.
    Hardlink {
        /// The first name of the file.
        to: EntryIndex,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket (tar cannot carry it: stock tools leave it out, nodes restore it).
    Socket,
}

impl Manifest {
    /// The path of an entry below the root, components joined by `/`; empty for the root.
    ///
    /// # Panics
    /// If there is no such entry.
    #[must_use]
    pub fn path_of(&self, index: EntryIndex) -> Vec<u8> {
        path_of(&self.entries, index)
    }

    /// Finds the entry at a path below the root. Takes time with the number of entries.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<EntryIndex> {
        let mut at = EntryIndex(0);
        for component in path.split(|&c| c == b'/').filter(|c| !c.is_empty()) {
            let children = (0u32..).zip(&self.entries).skip(at.as_usize() + 1);
            let mut named =
                children.filter(|(_, child)| child.parent == at && *child.name == *component);
            at = EntryIndex(named.next()?.0);
        }
        Some(at)
    }

    /// Bytes of data in all files, holes not counted.
    #[must_use]
    pub fn data_size(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| entry.kind.data_size())
            .sum()
    }

    /// Length of all files, holes counted.
    #[must_use]
    pub fn logical_size(&self) -> u64 {
        let size = |entry: &Entry| {
            if let EntryKind::File { size, .. } = entry.kind {
                size
            } else {
                0
            }
        };
        self.entries.iter().map(size).fold(0, u64::saturating_add)
    }

    /// Where each frame starts in the bundle, and, as the last value, where the frames end.
    #[must_use]
    pub fn frame_offsets(&self) -> Vec<u64> {
        let mut at = 0;
        let mut offsets = Vec::with_capacity(self.frames.len() + 1);
        offsets.push(at);
        for frame in &self.frames {
            at += u64::from(frame.packed_size);
            offsets.push(at);
        }
        offsets
    }

    /// The extents that a frame restores.
    #[must_use]
    pub fn extents_of(&self, frame: u32) -> &[Extent] {
        let start = self.extents.partition_point(|extent| extent.frame < frame);
        let end = self.extents.partition_point(|extent| extent.frame <= frame);
        &self.extents[start..end]
    }
}

impl EntryKind {
    /// Bytes of data, holes not counted; 0 for all but files.
    #[must_use]
    pub fn data_size(&self) -> u64 {
        let Self::File { size, data, .. } = self else {
            return 0;
        };
        data.as_ref().map_or(*size, |data| {
            data.iter().map(|range| range.end - range.start).sum()
        })
    }
}

/// The path of an entry below the root of its list, components joined by `/`; empty for the root.
///
/// # Panics
/// If there is no such entry.
#[must_use]
pub fn path_of(entries: &[Entry], index: EntryIndex) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    let mut at = index;
    while at.0 != 0 {
        let entry = &entries[at.as_usize()];
        names.push(&entry.name);
        at = entry.parent;
    }
    names.reverse();
    names.join(&b'/')
}

/// The bytes of files in a frame, tar headers not counted.
pub const FRAME_CONTENT_BYTES_MAX: u32 = 1 << 20;
/// All bytes of an unpacked frame.
pub const FRAME_BYTES_MAX: u32 = 2 << 20;
/// The longest name.
pub const NAME_BYTES_MAX: usize = 255;
/// The longest path below the root.
pub const PATH_BYTES_MAX: usize = 1 << 16;
/// The longest target of a symbolic link.
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// The longest name of an extended attribute.
pub const XATTR_NAME_BYTES_MAX: usize = 255;
/// The longest value of an extended attribute.
pub const XATTR_VALUE_BYTES_MAX: usize = 1 << 16;
/// Bytes of extended attributes that hard links repeat from their first names, over a manifest.
pub const REPEATED_XATTR_BYTES_MAX: usize = 64 << 20;
/// The fewest bytes that encode a frame, an entry, an xattr and an extent.
pub(super) const FRAME_BYTES_MIN: usize = 2;
pub(super) const ENTRY_BYTES_MIN: usize = 4;
pub(super) const XATTR_BYTES_MIN: usize = 2;
pub(super) const EXTENT_BYTES_MIN: usize = 5;
