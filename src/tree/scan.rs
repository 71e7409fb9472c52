//! Reading a tree: everything but the content of the files.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::dirs::{Directories, Lineage, open_beneath, path_of};
use super::xattr;
use super::{Error, Result};
use crate::image::{Mtime, Owner, Xattr};

/// A directory and everything beneath it.
///
/// Calls that take a list and an index keep the directories that they open by index: all such calls
/// on one `Tree` must be given the same list.
#[derive(Debug)]
pub struct Tree {
    directories: Directories,
}

/// What to leave out of a scan. The default leaves out other file systems only.
#[derive(Clone, Debug, Default)]
pub struct ScanOptions {
    /// Whether to enter other file systems that are mounted in the tree.
    pub cross_file_systems: bool,
    /// Paths beneath the root, without a leading slash, that are left out with all beneath them.
    pub exclude: Vec<PathBuf>,
}

/// One thing in a tree, as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The index of the directory it lies in; the root's is itself, 0.
    pub parent: u32,
    /// Its last path component, any bytes; empty for the root.
    pub name: Box<[u8]>,
    /// What it is.
    pub kind: NodeKind,
    /// The permission bits, with setuid, setgid and sticky: at most `0o7777`.
    pub mode: u16,
    /// Who owns it.
    pub owner: Owner,
    /// When its content last changed.
    pub mtime: Mtime,
    /// All its extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
    /// The number of the file system; with `inode`, what two hard links have in common.
    pub device: u64,
    /// The number of the file in its file system.
    pub inode: u64,
    /// How many names the file has, in the tree or outside.
    pub link_count: u64,
    /// Bytes that the file takes in its file system; less than its length if it may have holes.
    pub allocated: u64,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Its target, any bytes.
        target: Box<[u8]>,
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
    /// A socket.
    Socket,
}

impl Lineage for [Node] {
    fn parent(&self, index: u32) -> u32 {
        self[index as usize].parent
    }

    fn name(&self, index: u32) -> &[u8] {
        &self[index as usize].name
    }
}

/// For every node the index of the first node that is the same file; its own if it is the first.
#[must_use]
pub fn first_names(nodes: &[Node]) -> Vec<u32> {
    let mut seen: HashMap<(u64, u64), u32> = HashMap::new();
    (0u32..)
        .zip(nodes)
        .map(|(index, node)| {
            if node.link_count < 2 || node.kind == NodeKind::Directory {
                index
            } else {
                *seen.entry((node.device, node.inode)).or_insert(index)
            }
        })
        .collect()
}

impl Tree {
    /// Opens the tree at `path`; a link there is followed, those beneath never are.
    ///
    /// # Errors
    /// If there is no directory, or it may not be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|errno| Error::new("open", path.as_os_str().as_bytes(), errno))?;
        Ok(Self::from_root(root))
    }

    /// Takes an open directory as the root.
    #[must_use]
    pub fn from_root(root: OwnedFd) -> Self {
        Self {
            directories: Directories::new(root),
        }
    }

    /// The descriptors of its directories.
    #[must_use]
    pub const fn directories(&self) -> &Directories {
        &self.directories
    }

    /// Reads the whole tree, depth first: the root, then after every directory what it holds,
    /// sorted by the bytes of the names. What vanishes meanwhile is left out.
    ///
    /// # Errors
    /// If anything cannot be read, or there are more than 2^32 - 1 nodes.
    pub fn scan(&self, options: &ScanOptions) -> Result<Vec<Node>> {
        Scan::new(self, options)?.run()
    }

    /// Opens a file of the scanned tree for reading, without changing its access time if allowed.
    ///
    /// # Errors
    /// If it is not there any more, no regular file any more, or may not be read.
    pub fn open_file(&self, list: &(impl Lineage + ?Sized), index: u32) -> Result<File> {
        let name = list.name(index);
        let fail = |error: io::Error| Error::new("open", path_of(list, index), error);
        let directory = self.directories.open(list, list.parent(index))?;
        // Whatever replaced the file since must not block us.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = open_beneath(directory.as_fd(), name, flags | OFlags::NOATIME)
            .or_else(|errno| match errno {
                Errno::PERM => open_beneath(directory.as_fd(), name, flags),
                _ => Err(errno),
            })
            .map_err(|errno| fail(errno.into()))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| fail(errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let what = "it is no regular file any more";
            return Err(fail(io::Error::new(io::ErrorKind::NotFound, what)));
        }
        Ok(File::from(file))
    }
}

impl Tree {
    /// Reads what is at the place of one member of a list, its parent's index kept; `None` if there
    /// is nothing. The root's own node is that of a scan.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn look_at(
        &self,
        list: &(impl Lineage + ?Sized),
        index: u32,
        reader: &mut xattr::Reader,
    ) -> Result<Option<Node>> {
        let fail = |errno| Error::new("read", path_of(list, index), errno);
        let (parent, name) = (list.parent(index), list.name(index));
        let found = if index == 0 {
            let root = self.directories.root();
            rustix::fs::fstat(root)
                .and_then(|stat| Ok((stat, NodeKind::Directory, reader.read(root, b"")?)))
        } else {
            describe(self.directories.open(list, parent)?.as_fd(), name, reader)
        };
        match found {
            Ok((stat, kind, xattrs)) => Ok(Some(Node {
                xattrs,
                ..node_of(&stat, parent, name.into(), kind)
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(fail(errno)),
        }
    }

    /// The file system and number of what is at the place of one member of a list: equal for two
    /// names of one file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn identity(&self, list: &(impl Lineage + ?Sized), index: u32) -> Result<(u64, u64)> {
        let directory = self.directories.open(list, list.parent(index))?;
        rustix::fs::statat(&directory, list.name(index), AtFlags::SYMLINK_NOFOLLOW)
            .map(|stat| (stat.st_dev, stat.st_ino))
            .map_err(|errno| Error::new("read", path_of(list, index), errno))
    }

    /// The names in a directory of a list, unsorted.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn names_in(&self, list: &(impl Lineage + ?Sized), index: u32) -> Result<Vec<Box<[u8]>>> {
        let fail = |errno| Error::new("read the directory", path_of(list, index), errno);
        let directory = self.directories.open(list, index)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&*directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.into());
            }
        }
        Ok(names)
    }
}

/// A scan under way.
struct Scan<'a> {
    /// Not the tree's own: those belong to the list of whoever scans.
    tree: Tree,
    options: &'a ScanOptions,
    nodes: Vec<Node>,
    /// What was found but not yet looked at, the next one last: (parent, name).
    pending: Vec<(u32, Box<[u8]>)>,
    root_device: u64,
    xattrs: xattr::Reader,
}

impl<'a> Scan<'a> {
    fn new(tree: &Tree, options: &'a ScanOptions) -> Result<Self> {
        let root = tree.directories.root();
        let fail = |errno| Error::new("read", [], errno);
        let stat = rustix::fs::fstat(root).map_err(fail)?;
        let mut xattrs = xattr::Reader::default();
        let node = Node {
            xattrs: xattrs.read(root, b"").map_err(fail)?,
            ..node_of(&stat, 0, Box::default(), NodeKind::Directory)
        };
        Ok(Self {
            tree: Tree {
                directories: tree.directories.anew(),
            },
            options,
            nodes: vec![node],
            pending: Vec::new(),
            root_device: stat.st_dev,
            xattrs,
        })
    }

    fn run(mut self) -> Result<Vec<Node>> {
        self.list(0)?;
        while let Some((parent, name)) = self.pending.pop() {
            if let Some(directory) = self.look_at(parent, name)? {
                self.list(directory)?;
            }
        }
        Ok(self.nodes)
    }

    /// Adds one node; gives its index if it is a directory to enter.
    fn look_at(&mut self, parent: u32, name: Box<[u8]>) -> Result<Option<u32>> {
        let directory = self.tree.directories.open(&self.nodes[..], parent)?;
        let index = u32::try_from(self.nodes.len())
            .ok()
            .filter(|&index| index < u32::MAX);
        let found = describe(directory.as_fd(), &name, &mut self.xattrs);
        let (stat, kind, xattrs) = match found {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => {
                let path = [&path_of(&self.nodes[..], parent)[..], &name].join(&b'/');
                return Err(Error::new("read", path, errno));
            }
        };
        let index = index.ok_or_else(|| Error::new("count", [], Errno::OVERFLOW))?;
        let enter = kind == NodeKind::Directory;
        let node = node_of(&stat, parent, name, kind);
        self.nodes.push(Node { xattrs, ..node });
        let same = stat.st_dev == self.root_device || self.options.cross_file_systems;
        if enter && !same {
            let path = super::show(&path_of(&self.nodes[..], index));
            tracing::warn!(path, "Another file system is mounted here; it is left out");
        }
        Ok((enter && same).then_some(index))
    }

    /// Notes the names in a directory, so that the first in order is taken next.
    fn list(&mut self, index: u32) -> Result {
        let first = self.pending.len();
        for name in self.tree.names_in(&self.nodes[..], index)? {
            if !self.is_excluded(index, &name) {
                self.pending.push((index, name));
            }
        }
        self.pending[first..].sort_unstable_by(|a, b| b.1.cmp(&a.1));
        Ok(())
    }

    fn is_excluded(&self, parent: u32, name: &[u8]) -> bool {
        self.options.exclude.iter().any(|path| {
            path.file_name().is_some_and(|last| last.as_bytes() == name)
                && path.parent().is_some_and(|above| {
                    above.as_os_str().as_bytes() == &*path_of(&self.nodes[..], parent)
                })
        })
    }
}

fn describe(
    directory: BorrowedFd<'_>,
    name: &[u8],
    xattrs: &mut xattr::Reader,
) -> Result<(Stat, NodeKind, Vec<Xattr>), Errno> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let (major, minor) = (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    );
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => NodeKind::Directory,
        FileType::RegularFile => NodeKind::File {
            size: stat.st_size.cast_unsigned(),
        },
        FileType::Symlink => NodeKind::Symlink {
            target: rustix::fs::readlinkat(directory, name, Vec::new())?
                .into_bytes()
                .into(),
        },
        FileType::CharacterDevice => NodeKind::CharDevice { major, minor },
        FileType::BlockDevice => NodeKind::BlockDevice { major, minor },
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        _ => return Err(Errno::INVAL),
    };
    Ok((stat, kind, xattrs.read(directory, name)?))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "masked to 12 bits; nanoseconds fit"
)]
fn node_of(stat: &Stat, parent: u32, name: Box<[u8]>, kind: NodeKind) -> Node {
    Node {
        parent,
        name,
        kind,
        mode: (stat.st_mode & 0o7777) as u16,
        owner: Owner {
            uid: stat.st_uid,
            gid: stat.st_gid,
        },
        mtime: Mtime {
            secs: stat.st_mtime,
            nanos: stat.st_mtime_nsec as u32,
        },
        xattrs: Vec::new(),
        device: stat.st_dev,
        inode: stat.st_ino,
        link_count: stat.st_nlink,
        allocated: stat.st_blocks.unsigned_abs() * 512,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(nodes: &[Node]) -> Vec<String> {
        (0..u32::try_from(nodes.len()).unwrap())
            .map(|index| super::super::show(&path_of(nodes, index)))
            .collect()
    }

    #[test]
    fn a_scan_goes_depth_first_in_the_order_of_bytes() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["b/z", "b/a/deep", "a", "b-"] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        std::fs::write(dir.path().join("b/file"), "12345").unwrap();
        std::fs::hard_link(dir.path().join("b/file"), dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/nowhere", dir.path().join("b/a/s")).unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        let nodes = tree.scan(&ScanOptions::default()).unwrap();
        let order = [
            "/", "a", "b", "b/a", "b/a/deep", "b/a/s", "b/file", "b/z", "b-", "link",
        ];
        assert_eq!(names(&nodes), order);
        assert_eq!(nodes[6].kind, NodeKind::File { size: 5 });
        assert_eq!(first_names(&nodes), [0, 1, 2, 3, 4, 5, 6, 7, 8, 6]);
        assert_eq!(
            io::read_to_string(tree.open_file(&nodes[..], 9).unwrap()).unwrap(),
            "12345"
        );
        assert!(
            tree.open_file(&nodes[..], 5).is_err(),
            "a symbolic link is no file"
        );

        let options = ScanOptions {
            exclude: vec!["b/a".into(), "link".into()],
            ..ScanOptions::default()
        };
        let nodes = tree.scan(&options).unwrap();
        assert_eq!(names(&nodes), ["/", "a", "b", "b/file", "b/z", "b-"]);
    }

    #[test]
    fn paths_longer_than_the_kernel_takes_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let name = "n".repeat(250);
        let mut at = Tree::open(dir.path()).unwrap();
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(at.directories.root(), &name, Mode::from(0o700)).unwrap();
            let inner = super::super::dirs::open_directory(at.directories.root(), name.as_bytes());
            at = Tree::from_root(inner.unwrap());
        }
        let tree = Tree::open(dir.path()).unwrap();
        let nodes = tree.scan(&ScanOptions::default()).unwrap();
        assert_eq!(nodes.len(), DEPTH + 1);
        let last = u32::try_from(DEPTH).unwrap();
        assert_eq!(path_of(&nodes[..], last).len(), DEPTH * 251 - 1);
    }

    /// More levels than descriptors are kept, and far more than `PATH_MAX` bytes.
    const DEPTH: usize = 300;
}
