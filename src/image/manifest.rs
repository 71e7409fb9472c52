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
//! - extents are sorted by (frame, offset in frame), lie in their frame and in their file's data
//!   ranges, do not overlap, and cover every data byte of every file;
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
    /// A plain file that travels as it is (`flashover cast`): the bundle *is* the file; there are no
    /// frames and no extents, one entry.
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
    /// The zstd frames that carry content, in order; they start at offset 0 of the bundle, end to end.
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
    /// Bytes of content, at most [`FRAME_CONTENT_BYTES_MAX`] + tar headers.
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
    /// capabilities (`security.capability`), SELinux labels and all others, as the kernel gives them.
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
    /// Another name of an earlier entry, which is neither a directory nor itself a hard link; its own
    /// metadata fields repeat that entry's.
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

/// The content bytes of a frame, tar headers not counted.
pub const FRAME_CONTENT_BYTES_MAX: u32 = 1 << 20;
