//! Directory descriptors of one tree, opened beneath the root and kept while they are in use.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Error, Recent, Result};

/// How many directory descriptors a tree keeps open.
const DIRECTORIES_OPEN_MAX: usize = 256;

/// A list in which everything but the root, which is first, knows its earlier parent.
pub trait Lineage: Sync {
    /// The index of the directory that holds this one; the root's is itself.
    fn parent(&self, index: u32) -> u32;
    /// Its last path component; empty for the root.
    fn name(&self, index: u32) -> &[u8];
}

impl Lineage for [crate::image::Entry] {
    fn parent(&self, index: u32) -> u32 {
        self[index as usize].parent.0
    }

    fn name(&self, index: u32) -> &[u8] {
        &self[index as usize].name
    }
}

/// The path beneath the root, without a leading slash; empty for the root.
#[must_use]
pub fn path_of(list: &(impl Lineage + ?Sized), index: u32) -> Box<[u8]> {
    let mut names = Vec::new();
    let mut at = index;
    while at != 0 {
        names.push(list.name(at));
        at = list.parent(at);
    }
    names.reverse();
    names.join(&b'/').into_boxed_slice()
}

/// Whether a name stays in the directory that it is used in.
pub(super) fn is_plain_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

/// Opens the directories of one tree, named by their indices in one list. Shared by threads.
#[derive(Debug)]
pub struct Directories {
    root: Arc<OwnedFd>,
    open: Mutex<Recent<Arc<OwnedFd>>>,
}

impl Directories {
    /// Starts from the root's descriptor.
    #[must_use]
    pub fn new(root: OwnedFd) -> Self {
        Self {
            root: Arc::new(root),
            open: Mutex::new(Recent::new(DIRECTORIES_OPEN_MAX)),
        }
    }

    /// The same root, for another list.
    pub(super) fn anew(&self) -> Self {
        Self {
            root: Arc::clone(&self.root),
            open: Mutex::new(Recent::new(DIRECTORIES_OPEN_MAX)),
        }
    }

    /// The root's descriptor.
    #[must_use]
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens the directory at `index`, from the nearest ancestor that is open.
    ///
    /// # Errors
    /// If it is not there, no directory (a symbolic link is none), or may not be opened.
    pub fn open(&self, list: &(impl Lineage + ?Sized), index: u32) -> Result<Arc<OwnedFd>> {
        let mut way = Vec::new();
        let mut at = index;
        let mut directory = loop {
            if at == 0 {
                break Arc::clone(&self.root);
            }
            if let Some(open) = self.recent().get(at) {
                break open;
            }
            way.push(at);
            at = list.parent(at);
        };
        for &step in way.iter().rev() {
            let opened = open_directory(directory.as_fd(), list.name(step))
                .map_err(|errno| Error::new("open the directory", path_of(list, step), errno))?;
            directory = Arc::new(opened);
            self.recent().insert(step, Arc::clone(&directory));
        }
        Ok(directory)
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent<Arc<OwnedFd>>> {
        // The map is whole after every call on it, so a panic elsewhere leaves nothing half done.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a directory by its name in another, never through a link and never out of it.
pub(super) fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Opens something by its name in a directory, never through a link and never out of it.
pub(super) fn open_beneath(
    parent: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    /// Set when the kernel, or a filter before it, does not know `openat2`.
    static OPENAT2_MISSING: AtomicBool = AtomicBool::new(false);
    if !is_plain_name(name) {
        return Err(Errno::XDEV);
    }
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if !OPENAT2_MISSING.load(Ordering::Relaxed) {
        let beneath =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(parent, name, flags, Mode::empty(), beneath) {
            Err(Errno::NOSYS) => OPENAT2_MISSING.store(true, Ordering::Relaxed),
            result => return result,
        }
    }
    // One plain name cannot lead anywhere else, so `O_NOFOLLOW` is as good here.
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;

    fn open(path: &std::path::Path) -> OwnedFd {
        rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        std::fs::create_dir_all(inner.join("real")).unwrap();
        std::os::unix::fs::symlink("/", inner.join("absolute")).unwrap();
        std::os::unix::fs::symlink("real", inner.join("relative")).unwrap();
        let root = open(&inner);
        for bad in [
            "", ".", "..", "../inner", "/", "real/.", "absolute", "relative",
        ] {
            assert!(
                open_directory(root.as_fd(), bad.as_bytes()).is_err(),
                "{bad:?}"
            );
        }
        assert!(open_directory(root.as_fd(), b"real").is_ok());
    }
}
