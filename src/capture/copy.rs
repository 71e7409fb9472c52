//! Copying trees and disks of this machine with everything in them: the work under `import` and
//! `image copy`.
//!
//! A copy is made under another name and renamed when it is complete and on the disk, so a name in
//! the store never stands for half an image.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::tree::{
    self, Metadata, Node, NodeKind, Place, Refused, ScanOptions, Tree, data_ranges, first_names,
    path_of,
};

/// What copying fails with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The target exists.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// A path given by the user cannot be worked with.
    #[error("Cannot {action} {}", .path.display())]
    Path {
        /// What was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something in one of the trees cannot be read or made.
    #[error(transparent)]
    Tree(#[from] tree::Error),
}

/// What a copy came to.
#[derive(Clone, Debug, Default)]
pub struct Copied {
    /// How many things: directories, files, links and so on.
    pub entries: u64,
    /// Bytes of data; holes do not count.
    pub bytes: u64,
    /// Files that changed while they were read: their copy may be of two minds.
    pub changed: Vec<Box<[u8]>>,
    /// Metadata that the system refused to set, the first of each kind: (what, where).
    pub refused: Vec<(Refused, Box<[u8]>)>,
}

/// Copies the tree at `from` to the new directory `to`; an old `to` is replaced if `replace` says
/// so.
///
/// # Errors
/// If `to` exists, or anything cannot be read or written.
pub fn copy_tree(
    from: &Path,
    to: &Path,
    options: &ScanOptions,
    replace: bool,
) -> Result<Copied, CopyError> {
    make(to, replace, |temporary| {
        std::fs::create_dir(temporary).map_err(|error| at("make", temporary, error))?;
        let mut copy = TreeCopy::new(from, temporary, options)?;
        copy.run()?;
        Ok(copy.copied)
    })
}

/// Copies the disk, partition or file at `from` to the new file `to`, sparsely: holes of a file,
/// and zeros of a device, become holes.
///
/// # Errors
/// If `to` exists, or anything cannot be read or written.
pub fn copy_disk(from: &Path, to: &Path, replace: bool) -> Result<Copied, CopyError> {
    make(to, replace, |temporary| copy_disk_to(from, temporary))
}

fn copy_disk_to(from: &Path, to: &Path) -> Result<Copied, CopyError> {
    let source = File::open(from).map_err(|error| at("open", from, error))?;
    let about = source.metadata().map_err(|error| at("read", from, error))?;
    let target = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(to)
        .map_err(|error| at("make", to, error))?;
    let fail = |error| at("copy", from, error);
    let bytes = if about.is_file() {
        copy_content(&source, &target, about.len()).map_err(fail)?
    } else if about.file_type().is_block_device() {
        copy_device(&source, &target).map_err(fail)?
    } else {
        let what = io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is neither a file nor a disk",
        );
        return Err(at("import", from, what));
    };
    target.sync_all().map_err(|error| at("sync", to, error))?;
    Ok(Copied {
        entries: 1,
        bytes,
        ..Copied::default()
    })
}

/// Removes a tree or file, whatever depth it has.
///
/// # Errors
/// If something in it cannot be removed.
pub fn remove(path: &Path) -> Result<(), CopyError> {
    let about = std::fs::symlink_metadata(path).map_err(|error| at("remove", path, error))?;
    if about.is_dir() {
        Tree::open(path)?.clear(&ScanOptions::default())?;
        std::fs::remove_dir(path).map_err(|error| at("remove", path, error))
    } else {
        std::fs::remove_file(path).map_err(|error| at("remove", path, error))
    }
}

/// A copy of a tree under way.
struct TreeCopy {
    source: Tree,
    nodes: Vec<Node>,
    target: Tree,
    copied: Copied,
}

impl TreeCopy {
    fn new(from: &Path, to: &Path, options: &ScanOptions) -> Result<Self, CopyError> {
        let source = Tree::open(from)?;
        let target = Tree::open(to)?;
        // The store may give what is made in it more than the source has.
        target.remove_root_xattr(b"system.posix_acl_default")?;
        Ok(Self {
            nodes: source.scan(options)?,
            source,
            target,
            copied: Copied::default(),
        })
    }

    fn run(&mut self) -> Result<(), CopyError> {
        let firsts = first_names(&self.nodes);
        for (index, &first) in (0u32..).zip(&firsts).skip(1) {
            if first == index {
                self.copy_node(index)?;
            } else {
                self.link(index, first)?;
            }
        }
        for index in (0..firsts.len()).rev() {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a scan has fewer than 2^32"
            )]
            let index = index as u32;
            if self.node(index).kind == NodeKind::Directory {
                let directory = self.target.directories().open(&self.nodes[..], index)?;
                let set = tree::set_metadata(directory.as_fd(), self.node(index).into());
                self.note(index, set)?;
            }
        }
        self.copied.entries = firsts.len() as u64;
        rustix::fs::syncfs(self.target.directories().root())
            .map_err(|errno| tree::Error::new("sync", [], errno).into())
    }

    fn node(&self, index: u32) -> &Node {
        &self.nodes[index as usize]
    }

    fn error(&self, action: &'static str, index: u32, source: impl Into<io::Error>) -> CopyError {
        tree::Error::new(action, path_of(&self.nodes[..], index), source).into()
    }

    fn copy_node(&mut self, index: u32) -> Result<(), CopyError> {
        let directory = self
            .target
            .directories()
            .open(&self.nodes[..], self.node(index).parent)?;
        let node = self.node(index);
        let fail = |errno: Errno| self.error("make", index, errno);
        let place = Place::new(directory.as_fd(), &node.name).map_err(fail)?;
        let special = match node.kind {
            NodeKind::Directory => return place.make_directory().map_err(fail),
            NodeKind::File { size } => {
                let file = place.create_file().map_err(fail)?;
                return self.copy_file(index, size, &file);
            }
            NodeKind::Symlink { ref target } => {
                place.make_symlink(target).map_err(fail)?;
                let set = place.set_metadata(Metadata::from(node), true);
                return self.note(index, set);
            }
            NodeKind::CharDevice { major, minor } => (FileType::CharacterDevice, major, minor),
            NodeKind::BlockDevice { major, minor } => (FileType::BlockDevice, major, minor),
            NodeKind::Fifo => (FileType::Fifo, 0, 0),
            NodeKind::Socket => (FileType::Socket, 0, 0),
        };
        place
            .make_node(special.0, special.1, special.2)
            .map_err(fail)?;
        let set = place.set_metadata(Metadata::from(node), false);
        self.note(index, set)
    }

    fn copy_file(&mut self, index: u32, size: u64, target: &File) -> Result<(), CopyError> {
        let source = self.source.open_file(&self.nodes[..], index)?;
        let bytes = copy_content(&source, target, size)
            .map_err(|error| self.error("copy", index, error))?;
        let after = rustix::fs::fstat(&source).map_err(|errno| self.error("read", index, errno))?;
        let mtime = self.node(index).mtime;
        let is_same = after.st_size.cast_unsigned() == size
            && (after.st_mtime, after.st_mtime_nsec) == (mtime.secs, mtime.nanos.into());
        if !is_same {
            self.copied.changed.push(path_of(&self.nodes[..], index));
        }
        self.copied.bytes += bytes;
        let set = tree::set_metadata(target.as_fd(), self.node(index).into());
        self.note(index, set)
    }

    fn link(&self, index: u32, first: u32) -> Result<(), CopyError> {
        let (node, first) = (self.node(index), self.node(first));
        let directories = self.target.directories();
        let directory = directories.open(&self.nodes[..], node.parent)?;
        let other = directories.open(&self.nodes[..], first.parent)?;
        let fail = |errno: Errno| self.error("link", index, errno);
        let place = Place::new(directory.as_fd(), &node.name).map_err(fail)?;
        let first = Place::new(other.as_fd(), &first.name).map_err(fail)?;
        place.link_to(first).map_err(fail)
    }

    /// Keeps the first refusal of each kind.
    fn note(&mut self, index: u32, set: Result<Vec<Refused>, Errno>) -> Result<(), CopyError> {
        let refused = set.map_err(|errno| self.error("set the metadata of", index, errno))?;
        for one in refused {
            let is_new = self
                .copied
                .refused
                .iter()
                .all(|(other, _)| other.aspect != one.aspect);
            if is_new {
                self.copied
                    .refused
                    .push((one, path_of(&self.nodes[..], index)));
            }
        }
        Ok(())
    }
}

/// Copies a file's data, by reference where the file system can; gives how many bytes of data.
fn copy_content(source: &File, target: &File, size: u64) -> io::Result<u64> {
    let ranges = data_ranges(source, size)?;
    let bytes = ranges.iter().map(|range| range.end - range.start).sum();
    if size > 0 && rustix::fs::ioctl_ficlone(target, source).is_ok() {
        // The source may have grown since it was measured.
        target.set_len(size)?;
        return Ok(bytes);
    }
    target.set_len(size)?;
    for range in ranges {
        copy_range(source, target, range)?;
    }
    Ok(bytes)
}

fn copy_range(source: &File, target: &File, range: Range<u64>) -> io::Result<()> {
    let (mut from, mut to) = (range.start, range.start);
    while from < range.end {
        let step = (range.end - from).min(COPY_STEP_BYTES) as usize;
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), step) {
            // Cut by somebody while we read: what is gone reads as zeros, and is reported.
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
                return copy_by_hand(source, target, from..range.end);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &File, target: &File, range: Range<u64>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut at = range.start;
    while at < range.end {
        #[expect(clippy::cast_possible_truncation, reason = "at most the buffer")]
        let step = (range.end - at).min(BUFFER_BYTES as u64) as usize;
        let count = source.read_at(&mut buffer[..step], at)?;
        if count == 0 {
            return Ok(());
        }
        target.write_all_at(&buffer[..count], at)?;
        at += count as u64;
    }
    Ok(())
}

/// Copies a device; runs of zeros become holes.
fn copy_device(source: &File, target: &File) -> io::Result<u64> {
    let size = rustix::fs::seek(source, rustix::fs::SeekFrom::End(0))?;
    target.set_len(size)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut at, mut bytes) = (0, 0);
    while at < size {
        #[expect(clippy::cast_possible_truncation, reason = "at most the buffer")]
        let step = (size - at).min(BUFFER_BYTES as u64) as usize;
        source.read_exact_at(&mut buffer[..step], at)?;
        for (block, offset) in buffer[..step].chunks(ZERO_BLOCK_BYTES).zip(0u64..) {
            if block.iter().any(|&byte| byte != 0) {
                target.write_all_at(block, at + offset * ZERO_BLOCK_BYTES as u64)?;
                bytes += block.len() as u64;
            }
        }
        at += step as u64;
    }
    Ok(bytes)
}

/// Makes `to` under another name first; if `work` fails nothing of it stays.
fn make(
    to: &Path,
    replace: bool,
    work: impl FnOnce(&Path) -> Result<Copied, CopyError>,
) -> Result<Copied, CopyError> {
    let temporary = claim(to, replace)?;
    let made = work(&temporary).and_then(|copied| {
        put_in_place(&temporary, to, replace)?;
        Ok(copied)
    });
    if made.is_err() {
        // The first error is the one to tell.
        drop(remove(&temporary));
    }
    made
}

/// Checks that `to` may be made; gives the name to make it under, free of an earlier attempt.
fn claim(to: &Path, replace: bool) -> Result<PathBuf, CopyError> {
    if !replace && to.symlink_metadata().is_ok() {
        return Err(CopyError::Exists(to.to_owned()));
    }
    let mut name = std::ffi::OsString::from(".new-");
    name.push(to.file_name().unwrap_or_default());
    let temporary = to.with_file_name(name);
    if temporary.symlink_metadata().is_ok() {
        remove(&temporary)?;
    }
    Ok(temporary)
}

fn put_in_place(temporary: &Path, to: &Path, replace: bool) -> Result<(), CopyError> {
    use rustix::fs::CWD;
    let fail = |errno: Errno| at("rename", temporary, errno.into());
    match rustix::fs::renameat_with(CWD, temporary, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::EXIST) if replace => {
            rustix::fs::renameat_with(CWD, temporary, CWD, to, RenameFlags::EXCHANGE)
                .map_err(fail)?;
            remove(temporary)?;
        }
        Err(Errno::EXIST) => return Err(CopyError::Exists(to.to_owned())),
        Err(errno) => return Err(fail(errno)),
    }
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
        .and_then(rustix::fs::fsync)
        .map_err(|errno| at("sync", parent, errno.into()))
}

fn at(action: &'static str, path: &Path, source: io::Error) -> CopyError {
    CopyError::Path {
        action,
        path: path.to_owned(),
        source,
    }
}

const COPY_STEP_BYTES: u64 = 1 << 30;
const BUFFER_BYTES: usize = 1 << 20;
/// A run of zeros of this size on a device becomes a hole.
const ZERO_BLOCK_BYTES: usize = 64 << 10;
