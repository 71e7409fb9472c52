//! A tree, restored into a directory.
//!
//! A file whose data lie in one frame is created, written, given its metadata and closed in one go.
//! A file of several frames is created by the first that comes, kept open in a bounded window, and
//! given its metadata by the last. What no frame carries (empty files, links, devices) is made when
//! a worker has nothing better to do.
//!
//! Boot files come last: the metadata of what lies in `boot` and `efi`, and with them their names'
//! right to be used, are set when all else is complete. An interrupted attempt does not look
//! bootable.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::plan::{bytes_of, first_extents};
use super::refusals::Refusals;
use super::{Options, Refusal, Result, Sink, leftovers, verify};
use crate::base::Bitmap;
use crate::base::event::Events;
use crate::image::{Entry, EntryKind, Extent, Kind, Manifest};
use crate::tree::{self, Aspect, Metadata, Place, Recent, Refused, Tree, path_of};

/// A directory that becomes the image.
pub(super) struct DirectorySink {
    pub(super) manifest: Arc<Manifest>,
    pub(super) tree: Tree,
    pub(super) refusals: Refusals,
    pub(super) events: Events,
    pub(super) readers: usize,
    first_extents: Vec<u32>,
    /// How many extents each entry still waits for.
    pending: Vec<AtomicU32>,
    /// Entries whose data do not lie together in one frame.
    spanning: Bitmap,
    /// Entries that no frame carries.
    loose: Vec<u32>,
    window: Mutex<Window>,
}

/// Files of several frames.
struct Window {
    open: Recent<Arc<File>>,
    /// Which were created by this attempt and are not complete.
    created: HashSet<u32>,
}

/// How many files of several frames stay open.
const FILES_OPEN_MAX: usize = 256;

impl DirectorySink {
    /// Claims the directory and makes all directories in it.
    pub(super) fn start(manifest: Arc<Manifest>, path: &Path, options: &Options) -> Result<Self> {
        if manifest.kind != Kind::Tree {
            return Err(super::Error::WrongTarget(
                "The image is no tree; it needs a device or file",
            ));
        }
        let is_marker =
            |entry: &Entry| entry.parent.0 == 0 && *entry.name == *leftovers::MARKER.as_bytes();
        if manifest.entries.iter().any(is_marker) {
            return Err(super::Error::WrongTarget(
                "The image holds .flashover, which is reserved",
            ));
        }
        let tree = leftovers::claim(path, manifest.root, options.replace)?;
        // Nothing made in the directory may inherit from it what its metadata do not say.
        tree.remove_root_xattr(b"system.posix_acl_default")?;
        let pending: Vec<AtomicU32> = manifest.entries.iter().map(|_| AtomicU32::new(0)).collect();
        for extent in &manifest.extents {
            pending[extent.entry.as_usize()].fetch_add(1, Ordering::Relaxed);
        }
        let is_loose = |&index: &u32| match manifest.entries[index as usize].kind {
            EntryKind::Directory | EntryKind::Hardlink { .. } => false,
            EntryKind::File { .. } => pending[index as usize].load(Ordering::Relaxed) == 0,
            EntryKind::Symlink { .. }
            | EntryKind::CharDevice { .. }
            | EntryKind::BlockDevice { .. }
            | EntryKind::Fifo
            | EntryKind::Socket => true,
        };
        let sink = Self {
            tree,
            spanning: spanning(&manifest),
            refusals: Refusals::new(options.strict),
            events: options.events.clone(),
            readers: super::readers(options),
            first_extents: first_extents(&manifest),
            loose: indices(&manifest.entries).filter(is_loose).collect(),
            pending,
            window: Mutex::new(Window {
                open: Recent::new(FILES_OPEN_MAX),
                created: HashSet::new(),
            }),
            manifest,
        };
        sink.make_directories()?;
        Ok(sink)
    }

    fn entry(&self, index: u32) -> &Entry {
        &self.manifest.entries[index as usize]
    }

    pub(super) fn error(
        &self,
        action: &'static str,
        index: u32,
        errno: impl Into<std::io::Error>,
    ) -> super::Error {
        tree::Error::new(action, path_of(&self.manifest.entries[..], index), errno).into()
    }

    /// Does something at the place of an entry.
    fn at<T>(
        &self,
        index: u32,
        action: &'static str,
        work: impl FnOnce(Place<'_>) -> Result<T, Errno>,
    ) -> Result<T> {
        let entry = self.entry(index);
        let entries = &self.manifest.entries[..];
        let directory = self.tree.directories().open(entries, entry.parent.0)?;
        Place::new(directory.as_fd(), &entry.name)
            .and_then(work)
            .map_err(|errno| self.error(action, index, errno))
    }

    fn make_directories(&self) -> Result {
        let is_directory = |&index: &u32| self.entry(index).kind == EntryKind::Directory;
        for index in indices(&self.manifest.entries).skip(1).filter(is_directory) {
            self.at(index, "make the directory", |place| {
                match place.make_directory() {
                    // An interrupted attempt made it, and may have given it its final mode.
                    Err(Errno::EXIST) => {
                        let directory = place.open_directory()?;
                        rustix::fs::fchmod(directory, rustix::fs::Mode::RWXU)
                    }
                    made => made,
                }
            })?;
        }
        Ok(())
    }

    /// Makes something new, in place of what an interrupted attempt may have left.
    fn make<T>(
        &self,
        index: u32,
        action: &'static str,
        work: impl Fn(Place<'_>) -> Result<T, Errno>,
    ) -> Result<T> {
        self.at(index, action, |place| match work(place) {
            Err(Errno::EXIST) => {
                place.remove(false)?;
                work(place)
            }
            made => made,
        })
    }

    fn create(&self, index: u32) -> Result<File> {
        let file = self.make(index, "create", |place| place.create_file())?;
        if let EntryKind::File {
            size,
            data: Some(_),
            ..
        } = self.entry(index).kind
        {
            file.set_len(size)
                .map_err(|error| self.error("size", index, error))?;
        }
        Ok(file)
    }

    /// Opens a file of several frames; the first time, creates it.
    fn open_in_window(&self, index: u32) -> Result<Arc<File>> {
        let mut window = self.window();
        if let Some(file) = window.open.get(index) {
            return Ok(file);
        }
        let file = if window.created.insert(index) {
            self.create(index)?
        } else {
            self.at(index, "open", |place| place.open_file())?
        };
        let file = Arc::new(file);
        window.open.insert(index, Arc::clone(&file));
        Ok(file)
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes neighbouring extents of one file.
    fn write_extents(&self, extents: &[Extent], content: &[u8]) -> Result {
        let index = extents[0].entry.0;
        let write = |file: &File| {
            extents.iter().try_for_each(|extent| {
                file.write_all_at(bytes_of(*extent, content), extent.file_offset)
                    .map_err(|error| self.error("write", index, error))
            })
        };
        if !self.spanning.get(index as usize) {
            let file = self.create(index)?;
            write(&file)?;
            return self.finish_file(index, file.as_fd());
        }
        let file = self.open_in_window(index)?;
        write(&file)?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "counted by u32 in the manifest"
        )]
        let count = extents.len() as u32;
        // The thread that writes the last extent sees the writes of all others before it goes on.
        if self.pending[index as usize].fetch_sub(count, Ordering::AcqRel) == count {
            let mut window = self.window();
            window.open.remove(index);
            window.created.remove(&index);
            drop(window);
            self.finish_file(index, file.as_fd())?;
        }
        Ok(())
    }

    fn finish_file(&self, index: u32, file: BorrowedFd<'_>) -> Result {
        if self.is_boot(index) {
            return Ok(());
        }
        self.set_metadata(index, file)
    }

    fn set_metadata(&self, index: u32, fd: BorrowedFd<'_>) -> Result {
        let refused = tree::set_metadata(fd, Metadata::from(self.entry(index)))
            .map_err(|errno| self.error("set the metadata of", index, errno))?;
        self.refuse(index, refused)
    }

    fn refuse(&self, index: u32, refused: Vec<Refused>) -> Result {
        self.refusals
            .take(refused, || path_of(&self.manifest.entries[..], index))
    }

    /// Whether the entry lies in a directory that machines boot from.
    fn is_boot(&self, index: u32) -> bool {
        let mut at = index;
        while self.entry(at).parent.0 != 0 {
            at = self.entry(at).parent.0;
        }
        matches!(&*self.entry(at).name, b"boot" | b"efi" | b"EFI")
    }

    fn make_node(&self, index: u32, kind: FileType, major: u32, minor: u32) -> Result {
        match self.make(index, "make", |place| place.make_node(kind, major, minor)) {
            Err(super::Error::Tree(error))
                if error.kind() == tree::ErrorKind::Denied && is_device(kind) =>
            {
                let refused = Refused {
                    aspect: Aspect::Device,
                    errno: Errno::PERM,
                };
                self.refuse(index, vec![refused])
            }
            Err(error) => Err(error),
            Ok(()) => self.set_metadata_of_name(index, false),
        }
    }

    fn set_metadata_of_name(&self, index: u32, is_link: bool) -> Result {
        let metadata = Metadata::from(self.entry(index));
        let set = |place: Place<'_>| place.set_metadata(metadata, is_link);
        let refused = self.at(index, "set the metadata of", set)?;
        self.refuse(index, refused)
    }

    fn link(&self, index: u32, to: u32) -> Result {
        let is_refused = self.refusals.excuse(&tree::Change::Removed)
            && matches!(
                self.entry(to).kind,
                EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. }
            );
        if is_refused {
            return Ok(());
        }
        let entries = &self.manifest.entries[..];
        let first = self.entry(to);
        let directory = self.tree.directories().open(entries, first.parent.0)?;
        let first = Place::new(directory.as_fd(), &first.name)
            .map_err(|errno| self.error("link to", to, errno))?;
        self.make(index, "link", |place| place.link_to(first))
    }

    fn finish_boot_files(&self) -> Result {
        let is_late = |&index: &u32| {
            let is_file = matches!(self.entry(index).kind, EntryKind::File { .. });
            is_file && self.is_boot(index)
        };
        for index in indices(&self.manifest.entries).filter(is_late) {
            let file = self.at(index, "open", |place| place.open_file())?;
            self.set_metadata(index, file.as_fd())?;
        }
        Ok(())
    }

    fn finish_directories(&self) -> Result {
        let is_directory = |&index: &u32| self.entry(index).kind == EntryKind::Directory;
        for index in indices(&self.manifest.entries)
            .skip(1)
            .rev()
            .filter(is_directory)
        {
            let directory = self
                .tree
                .directories()
                .open(&self.manifest.entries[..], index)?;
            self.set_metadata(index, directory.as_fd())?;
        }
        Ok(())
    }
}

impl Sink for DirectorySink {
    fn write_frame(&self, frame: u32, content: &[u8]) -> Result {
        let firsts = &self.first_extents[frame as usize..][..2];
        let extents = &self.manifest.extents[firsts[0] as usize..firsts[1] as usize];
        extents
            .chunk_by(|a, b| a.entry == b.entry)
            .try_for_each(|extents| self.write_extents(extents, content))
    }

    fn loose_count(&self) -> usize {
        self.loose.len()
    }

    fn do_loose(&self, index: usize) -> Result {
        let index = self.loose[index];
        match &self.entry(index).kind {
            EntryKind::File { .. } => {
                let file = self.create(index)?;
                self.finish_file(index, file.as_fd())
            }
            EntryKind::Symlink { target } => {
                self.make(index, "make the link", |place| place.make_symlink(target))?;
                self.set_metadata_of_name(index, true)
            }
            &EntryKind::CharDevice { major, minor } => {
                self.make_node(index, FileType::CharacterDevice, major, minor)
            }
            &EntryKind::BlockDevice { major, minor } => {
                self.make_node(index, FileType::BlockDevice, major, minor)
            }
            EntryKind::Fifo => self.make_node(index, FileType::Fifo, 0, 0),
            EntryKind::Socket => self.make_node(index, FileType::Socket, 0, 0),
            EntryKind::Directory | EntryKind::Hardlink { .. } => Ok(()),
        }
    }

    fn complete(&self) -> Result {
        for (index, entry) in (0u32..).zip(&self.manifest.entries) {
            if let EntryKind::Hardlink { to } = entry.kind {
                self.link(index, to.0)?;
            }
        }
        self.finish_boot_files()?;
        self.finish_directories()?;
        rustix::fs::syncfs(self.tree.directories().root())
            .map_err(|errno| self.error("sync", 0, errno))
    }

    fn verify(&self) -> Result<u64> {
        verify::all_but_root(self)
    }

    fn seal(&self) -> Result<Vec<Refusal>> {
        leftovers::unmark(&self.tree)?;
        let root = self.tree.directories().root();
        verify::remove_foreign_root_xattrs(self)?;
        self.set_metadata(0, root)?;
        rustix::fs::fsync(root).map_err(|errno| self.error("sync", 0, errno))?;
        verify::root(self)?;
        Ok(self.refusals.list())
    }
}

/// Finds the entries whose extents are not neighbours in one frame.
fn spanning(manifest: &Manifest) -> Bitmap {
    let mut seen = Bitmap::new(manifest.entries.len());
    let mut spanning = Bitmap::new(manifest.entries.len());
    let together = |a: &Extent, b: &Extent| (a.frame, a.entry) == (b.frame, b.entry);
    for extents in manifest.extents.chunk_by(together) {
        let entry = extents[0].entry.as_usize();
        if !seen.set(entry) {
            spanning.set(entry);
        }
    }
    spanning
}

fn indices(entries: &[Entry]) -> std::ops::Range<u32> {
    0..u32::try_from(entries.len()).unwrap_or(u32::MAX)
}

const fn is_device(kind: FileType) -> bool {
    matches!(kind, FileType::CharacterDevice | FileType::BlockDevice)
}
