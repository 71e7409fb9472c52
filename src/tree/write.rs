//! Making things in a tree: each is addressed by its name in an open directory.
//!
//! Metadata come last and in an order that keeps them: the owner (which clears setuid and
//! capabilities), attributes, the mode, access control lists (which the mode would change), and the
//! modification time.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::dirs::{is_plain_name, open_beneath, open_directory, path_of};
use super::scan::{Node, NodeKind, ScanOptions, Tree};
use super::{Error, Result, xattr};
use crate::image::{Entry, Mtime, Owner, Xattr};

/// A name in an open directory.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    directory: BorrowedFd<'a>,
    name: &'a [u8],
}

impl<'a> Place<'a> {
    /// Names something in a directory.
    ///
    /// # Errors
    /// `EXDEV` for a name that could lead elsewhere.
    pub fn new(directory: BorrowedFd<'a>, name: &'a [u8]) -> Result<Self, Errno> {
        if is_plain_name(name) {
            Ok(Self { directory, name })
        } else {
            Err(Errno::XDEV)
        }
    }

    /// Makes a directory that only its owner may enter, until it gets its metadata.
    ///
    /// # Errors
    /// Those of `mkdirat`.
    pub fn make_directory(self) -> Result<(), Errno> {
        rustix::fs::mkdirat(self.directory, self.name, Mode::RWXU)
    }

    /// Opens the directory.
    ///
    /// # Errors
    /// Those of `openat2`; a link is no directory.
    pub fn open_directory(self) -> Result<OwnedFd, Errno> {
        open_directory(self.directory, self.name)
    }

    /// Creates an empty file, to be read and written, that nobody else may open yet.
    ///
    /// # Errors
    /// Those of `openat`; `EEXIST` for anything that is there, a dangling link too.
    pub fn create_file(self) -> Result<File, Errno> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(self.directory, self.name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
    }

    /// Opens a file that this process created, to write on.
    ///
    /// # Errors
    /// Those of `openat2`.
    pub fn open_file(self) -> Result<File, Errno> {
        open_beneath(self.directory, self.name, OFlags::RDWR | OFlags::NONBLOCK).map(File::from)
    }

    /// Opens a regular file to read it; a pipe is not waited for.
    ///
    /// # Errors
    /// Those of `openat2`; `EINVAL` for anything else than a regular file.
    pub fn open_to_read(self) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = open_beneath(self.directory, self.name, flags)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
        if kind == FileType::RegularFile {
            Ok(file.into())
        } else {
            Err(Errno::INVAL)
        }
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// Those of `symlinkat`.
    pub fn make_symlink(self, target: &[u8]) -> Result<(), Errno> {
        rustix::fs::symlinkat(target, self.directory, self.name)
    }

    /// Makes a device, pipe or socket; the numbers are 0 but for devices.
    ///
    /// # Errors
    /// Those of `mknodat`; `EPERM` for devices without the right to make them.
    pub fn make_node(self, kind: FileType, major: u32, minor: u32) -> Result<(), Errno> {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(
            self.directory,
            self.name,
            kind,
            Mode::RUSR | Mode::WUSR,
            device,
        )
    }

    /// Makes this another name of `file`, which is not followed if it is a link.
    ///
    /// # Errors
    /// Those of `linkat`.
    pub fn link_to(self, file: Place<'_>) -> Result<(), Errno> {
        let flags = AtFlags::empty();
        rustix::fs::linkat(file.directory, file.name, self.directory, self.name, flags)
    }

    /// Removes the name: an empty directory, or anything else.
    ///
    /// # Errors
    /// Those of `unlinkat`.
    pub fn remove(self, is_directory: bool) -> Result<(), Errno> {
        let flags = if is_directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        rustix::fs::unlinkat(self.directory, self.name, flags)
    }

    /// Gives a link, device, pipe or socket its metadata; nothing is followed or opened.
    ///
    /// # Errors
    /// If the file system fails; what it refuses is listed.
    pub fn set_metadata(
        self,
        metadata: Metadata<'_>,
        is_link: bool,
    ) -> Result<Vec<Refused>, Errno> {
        let mut refused = Vec::new();
        let (uid, gid) = ids(metadata.owner);
        let owned = rustix::fs::chownat(
            self.directory,
            self.name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        );
        let mode = safe_mode(metadata, note(owned, Aspect::Owner, &mut refused)?);
        for attribute in metadata.xattrs.iter().filter(|xattr| !is_acl(xattr)) {
            let done = xattr::set(self.directory, self.name, attribute);
            note(done, Aspect::of(attribute), &mut refused)?;
        }
        if !is_link {
            note(self.set_mode(mode), Aspect::Mode, &mut refused)?;
        }
        for attribute in metadata.xattrs.iter().filter(|xattr| is_acl(xattr)) {
            let done = xattr::set(self.directory, self.name, attribute);
            note(done, Aspect::of(attribute), &mut refused)?;
        }
        let times = times(metadata.mtime);
        rustix::fs::utimensat(self.directory, self.name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(refused)
    }

    /// Sets the mode through a descriptor that only names the thing, so that no link is followed.
    fn set_mode(self, mode: Mode) -> Result<(), Errno> {
        let named = open_beneath(self.directory, self.name, OFlags::PATH)?;
        rustix::fs::chmod(format!("/proc/self/fd/{}", named.as_raw_fd()), mode)
    }
}

/// Gives an open file or directory its metadata.
///
/// # Errors
/// If the file system fails; what it refuses is listed.
pub fn set_metadata(fd: BorrowedFd<'_>, metadata: Metadata<'_>) -> Result<Vec<Refused>, Errno> {
    let mut refused = Vec::new();
    let (uid, gid) = ids(metadata.owner);
    let owned = rustix::fs::fchown(fd, Some(uid), Some(gid));
    let mode = safe_mode(metadata, note(owned, Aspect::Owner, &mut refused)?);
    let set =
        |xattr: &Xattr| rustix::fs::fsetxattr(fd, &*xattr.name, &xattr.value, XattrFlags::empty());
    for xattr in metadata.xattrs.iter().filter(|xattr| !is_acl(xattr)) {
        note(set(xattr), Aspect::of(xattr), &mut refused)?;
    }
    note(rustix::fs::fchmod(fd, mode), Aspect::Mode, &mut refused)?;
    for xattr in metadata.xattrs.iter().filter(|xattr| is_acl(xattr)) {
        note(set(xattr), Aspect::of(xattr), &mut refused)?;
    }
    rustix::fs::futimens(fd, &times(metadata.mtime))?;
    Ok(refused)
}

/// What is set on a thing after it was made.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    /// Who owns it.
    pub owner: Owner,
    /// At most `0o7777`.
    pub mode: u16,
    /// When its content last changed.
    pub mtime: Mtime,
    /// All its attributes.
    pub xattrs: &'a [Xattr],
}

impl<'a> From<&'a Entry> for Metadata<'a> {
    fn from(entry: &'a Entry) -> Self {
        Self {
            owner: entry.owner,
            mode: entry.mode,
            mtime: entry.mtime,
            xattrs: &entry.xattrs,
        }
    }
}

impl<'a> From<&'a Node> for Metadata<'a> {
    fn from(node: &'a Node) -> Self {
        Self {
            owner: node.owner,
            mode: node.mode,
            mtime: node.mtime,
            xattrs: &node.xattrs,
        }
    }
}

/// Something that the file system or the lack of rights kept from being restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What it is.
    pub aspect: Aspect,
    /// Why, as the kernel says.
    pub errno: Errno,
}

/// One part of what a tree holds beside names and bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// User and group.
    Owner,
    /// Permission bits.
    Mode,
    /// An extended attribute.
    Xattr(Box<[u8]>),
    /// A device.
    Device,
}

impl Aspect {
    fn of(xattr: &Xattr) -> Self {
        Self::Xattr(xattr.name.clone())
    }
}

impl std::fmt::Display for Aspect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Owner => f.write_str("owner"),
            Self::Mode => f.write_str("mode"),
            Self::Xattr(name) => f.write_str(&super::show(name)),
            Self::Device => f.write_str("device"),
        }
    }
}

/// Turns a refusal into a note. Gives whether it was done.
fn note(
    done: Result<(), Errno>,
    aspect: Aspect,
    refused: &mut Vec<Refused>,
) -> Result<bool, Errno> {
    match done {
        Ok(()) => Ok(true),
        Err(errno @ (Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL)) => {
            refused.push(Refused { aspect, errno });
            Ok(false)
        }
        Err(errno) => Err(errno),
    }
}

/// The mode; without setuid and setgid if the file belongs to somebody else than it should.
fn safe_mode(metadata: Metadata<'_>, is_owned: bool) -> Mode {
    let mode = if is_owned {
        metadata.mode
    } else {
        metadata.mode & 0o1777
    };
    Mode::from_raw_mode(mode.into())
}

fn is_acl(xattr: &Xattr) -> bool {
    xattr.name.starts_with(b"system.posix_acl_")
}

fn ids(owner: Owner) -> (Uid, Gid) {
    (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid))
}

fn times(mtime: Mtime) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.secs,
            tv_nsec: mtime.nanos.into(),
        },
    }
}

impl Tree {
    /// Opens a directory in the root as a tree of its own.
    ///
    /// # Errors
    /// If it is not there or no directory.
    pub fn open_beneath(&self, name: &[u8]) -> Result<Self> {
        open_directory(self.directories().root(), name)
            .map(Self::from_root)
            .map_err(|errno| Error::new("open the directory", name, errno))
    }

    /// Removes everything beneath the root, but the paths that `keep` excludes from the scan.
    /// Other file systems are not entered, so one that is mounted here makes this fail.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn clear(&self, keep: &ScanOptions) -> Result {
        let nodes = self.scan(keep)?;
        let directories = self.directories().anew();
        for index in (1..nodes.len()).rev() {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a scan has fewer than 2^32"
            )]
            let index = index as u32;
            let node = &nodes[index as usize];
            let directory = directories.open(&nodes[..], node.parent)?;
            let fail = |errno| Error::new("remove", path_of(&nodes[..], index), errno);
            let place = Place::new(directory.as_fd(), &node.name).map_err(fail)?;
            let is_directory = node.kind == NodeKind::Directory;
            let mut removed = place.remove(is_directory);
            if removed == Err(Errno::ACCESS) {
                rustix::fs::fchmod(&directory, Mode::RWXU).map_err(fail)?;
                removed = place.remove(is_directory);
            }
            removed.map_err(fail)?;
        }
        Ok(())
    }

    /// Removes an attribute of the root itself; fine if it has none of that name.
    ///
    /// # Errors
    /// If the file system fails.
    pub fn remove_root_xattr(&self, name: &[u8]) -> Result {
        match xattr::remove(self.directories().root(), b"", name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(Error::new("remove an attribute of", [], errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_link_in_the_way_is_neither_followed_nor_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("root/link")).unwrap();
        let tree = Tree::open(&dir.path().join("root")).unwrap();
        let link = Place::new(tree.directories().root(), b"link").unwrap();
        assert_eq!(link.create_file().unwrap_err(), Errno::EXIST);
        assert_eq!(link.open_file().unwrap_err(), Errno::LOOP);
        let other = Place::new(tree.directories().root(), b"other").unwrap();
        other.link_to(link).unwrap();
        assert!(
            dir.path().join("root/other").is_symlink(),
            "the link itself got a second name"
        );
        let metadata = Metadata {
            owner: Owner::default(),
            mode: 0o777,
            mtime: Mtime { secs: -5, nanos: 7 },
            xattrs: &[],
        };
        link.set_metadata(metadata, true).unwrap();
        assert_ne!(std::fs::metadata(&victim).unwrap().mtime(), -5);
        assert_eq!(
            dir.path()
                .join("root/link")
                .symlink_metadata()
                .unwrap()
                .mtime_nsec(),
            7
        );
    }

    #[test]
    fn clearing_a_tree_follows_nothing_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::create_dir_all(victim.join("full")).unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::create_dir_all(root.join("kept/x")).unwrap();
        std::os::unix::fs::symlink(&victim, root.join("a/link")).unwrap();
        let tree = Tree::open(&root).unwrap();
        let keep = ScanOptions {
            exclude: vec!["kept".into()],
            ..ScanOptions::default()
        };
        tree.clear(&keep).unwrap();
        assert!(victim.join("full").exists());
        assert!(root.join("kept/x").exists() && !root.join("a").exists());
    }
}
