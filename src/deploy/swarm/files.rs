//! The files of a torrent beneath a directory, as the one run of bytes that its pieces are cut of.
//!
//! ```text
//!   pieces  |0         |1         |2         |3         |
//!   files   |a              |pad  |b     |pad|c|           pads read as zeros, and are not written
//! ```
//!
//! Every name is opened beneath the directory and through no link. Files are opened when they are
//! needed; a bounded number stays open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::deploy::error::{Kind, OrKind as _, Result};
use crate::swarm::Metainfo;
use crate::swarm::metainfo::{self, FileKind};
use crate::tree::{Directories, Lineage, Place, Recent, show};

/// How many files stay open.
const OPEN_MAX: usize = 256;

/// See the module.
#[derive(Debug)]
pub(crate) struct Files {
    torrent: Arc<Metainfo>,
    directories: Directories,
    lineage: Folders,
    /// The directory of each file, by its place in the torrent.
    folders: Vec<u32>,
    open: Mutex<Recent<Arc<File>>>,
    is_written: bool,
}

impl Files {
    /// Opens the files of a torrent of many, to read them; `root` is the torrent's directory.
    ///
    /// # Errors
    /// If it is no directory.
    pub(crate) fn open(torrent: &Arc<Metainfo>, root: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(root, flags, Mode::empty())
            .or_kind_with(Kind::Storage, || format!("Cannot open {}", root.display()))?;
        let mut lineage = Folders::default();
        let files = torrent.info().layout().files().iter();
        let folders = files.map(|file| {
            let path = below_root(&file.path);
            let above = path.split_last().filter(|_| !file.is_pad());
            above.map_or(0, |(_, above)| lineage.index_of(above))
        });
        Ok(Self {
            folders: folders.collect(),
            torrent: Arc::clone(torrent),
            directories: Directories::new(opened),
            lineage,
            open: Mutex::new(Recent::new(OPEN_MAX)),
            is_written: false,
        })
    }

    /// Makes every directory and regular file of the torrent that is not there yet, each as long as
    /// it is to be, for its owner alone. They are there to be written then.
    ///
    /// # Errors
    /// If one cannot be made, or something else than a file or directory has its place.
    pub(crate) fn make(mut self) -> Result<Self> {
        self.is_written = true;
        for folder in 1..self.lineage.names.len() {
            let at = u32::try_from(folder).or_kind(Kind::Internal)?;
            let above = self.lineage.parent(at);
            let parent = self.directories.open(&self.lineage, above);
            let parent = parent.or_kind(Kind::Storage)?;
            let made = Place::new(parent.as_fd(), self.lineage.name(at))
                .and_then(Place::make_directory)
                .or_else(|errno| {
                    if errno == Errno::EXIST {
                        Ok(())
                    } else {
                        Err(errno)
                    }
                });
            made.or_kind_with(Kind::Storage, || {
                format!("Cannot make the directory {}", show(self.lineage.name(at)))
            })?;
        }
        for (at, file) in self.each(|kind| *kind == FileKind::Regular) {
            let (parent, name) = self.place(at).or_kind(Kind::Storage)?;
            let place = Place::new(parent.as_fd(), name);
            let made = place.and_then(|place| match place.create_file() {
                Err(Errno::EXIST) => place.open_file(),
                other => other,
            });
            let sized = made.map_err(io::Error::from).and_then(|made| {
                if !made.metadata()?.is_file() {
                    return Err(Errno::EXIST.into());
                }
                made.set_len(file.len)
            });
            sized.or_kind_with(Kind::Storage, || cannot("make", file))?;
        }
        Ok(self)
    }

    /// Makes the links of the torrent and gives all files and directories the permissions that
    /// others may have: those of `mode` as to reading, writing and entering directories.
    ///
    /// # Errors
    /// If something cannot be made, or does not reach the disk.
    pub(crate) fn finish(&self, mode: Mode) -> Result {
        for (at, file) in self.each(|kind| *kind != FileKind::Pad) {
            let (parent, name) = self.place(at).or_kind(Kind::Storage)?;
            let finished = match &file.kind {
                FileKind::Symlink(target) => make_link(&parent, name, &file.path, target),
                FileKind::Regular | FileKind::Pad => {
                    let mode = mode & (Mode::RWXU | Mode::RWXG | Mode::RWXO);
                    let enter = Mode::XUSR | Mode::XGRP | Mode::XOTH;
                    let mode = if file.executable { mode } else { mode & !enter };
                    self.file(at)
                        .and_then(|file| Ok(rustix::fs::fchmod(&file, mode)?))
                }
            };
            finished.or_kind_with(Kind::Storage, || cannot("complete", file))?;
        }
        for folder in (0..self.lineage.names.len()).rev() {
            let at = u32::try_from(folder).or_kind(Kind::Internal)?;
            let folder = self.directories.open(&self.lineage, at);
            rustix::fs::fchmod(folder.or_kind(Kind::Storage)?, mode).or_kind(Kind::Storage)?;
        }
        let root = self.directories.root();
        rustix::fs::syncfs(root).or_kind_with(Kind::Storage, || "The files cannot be synced".into())
    }

    /// Fills `bytes` from `start` on.
    pub(crate) fn read_at(&self, mut bytes: &mut [u8], start: u64) -> io::Result<()> {
        for (at, range) in self.parts(start, bytes.len()) {
            let (now, later) = bytes.split_at_mut(len_of(&range));
            bytes = later;
            if self.torrent.info().layout().files()[at].is_pad() {
                now.fill(0);
            } else {
                self.file(at)?.read_exact_at(now, range.start)?;
            }
        }
        Ok(())
    }

    /// Writes `bytes` from `start` on; those of padding go nowhere.
    pub(crate) fn write_at(&self, mut bytes: &[u8], start: u64) -> io::Result<()> {
        for (at, range) in self.parts(start, bytes.len()) {
            let (now, later) = bytes.split_at(len_of(&range));
            bytes = later;
            if !self.torrent.info().layout().files()[at].is_pad() {
                self.file(at)?.write_all_at(now, range.start)?;
            }
        }
        Ok(())
    }

    /// Names beneath `root`, without it, that are no file or directory of the torrent; the first.
    ///
    /// # Errors
    /// If a directory cannot be read.
    pub(crate) fn stranger(&self, root: &Path) -> io::Result<Option<Vec<u8>>> {
        let files = self.each(|kind| *kind != FileKind::Pad);
        let known: BTreeSet<Vec<u8>> = files
            .map(|(_, file)| below_root(&file.path).join(&b'/'))
            .collect();
        let folders: BTreeSet<Vec<u8>> = self.lineage.paths.keys().map(|p| p.join(&b'/')).collect();
        let mut waiting = vec![Vec::new()];
        while let Some(folder) = waiting.pop() {
            let path = root.join(std::ffi::OsStr::from_bytes(&folder));
            for entry in std::fs::read_dir(path)? {
                let entry = entry?;
                let mut name = folder.clone();
                if !name.is_empty() {
                    name.push(b'/');
                }
                name.extend_from_slice(entry.file_name().as_bytes());
                if entry.file_type()?.is_dir() && folders.contains(&name) {
                    waiting.push(name);
                } else if entry.file_type()?.is_dir() || !known.contains(&name) {
                    return Ok(Some(name));
                }
            }
        }
        Ok(None)
    }

    /// The files of a range of the torrent, with the ranges of them.
    fn parts(&self, start: u64, len: usize) -> impl Iterator<Item = (usize, Range<u64>)> {
        let layout = self.torrent.info().layout();
        let end = start.saturating_add(len as u64);
        assert!(end <= layout.total_len(), "pieces lie in their torrent");
        layout.parts(start..end).map(|part| (part.file, part.range))
    }

    /// The files of some kinds, with their places in the torrent.
    fn each(
        &self,
        is_it: impl Fn(&FileKind) -> bool,
    ) -> impl Iterator<Item = (usize, &metainfo::File)> {
        let files = self.torrent.info().layout().files().iter().enumerate();
        files.filter(move |(_, file)| is_it(&file.kind))
    }

    /// Where a file is.
    fn place(&self, at: usize) -> io::Result<(Arc<OwnedFd>, &[u8])> {
        let parent = self.directories.open(&self.lineage, self.folders[at]);
        let name = self.torrent.info().layout().files()[at].path.last();
        Ok((
            parent.map_err(io::Error::other)?,
            name.map_or(&[], Vec::as_slice),
        ))
    }

    fn file(&self, at: usize) -> io::Result<Arc<File>> {
        let key = u32::try_from(at).map_err(io::Error::other)?;
        // The map is whole after every call on it.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(key) {
            return Ok(file);
        }
        let (parent, name) = self.place(at)?;
        let place = Place::new(parent.as_fd(), name)?;
        let file = Arc::new(if self.is_written {
            place.open_file()?
        } else {
            place.open_to_read()?
        });
        open.insert(key, Arc::clone(&file));
        Ok(file)
    }
}

/// The directories of a torrent: the root first, each behind the one that holds it.
#[derive(Debug)]
struct Folders {
    parents: Vec<u32>,
    names: Vec<Vec<u8>>,
    paths: BTreeMap<metainfo::Path, u32>,
}

impl Default for Folders {
    fn default() -> Self {
        Self {
            parents: vec![0],
            names: vec![Vec::new()],
            paths: BTreeMap::from([(Vec::new(), 0)]),
        }
    }
}

impl Folders {
    fn index_of(&mut self, path: &[Vec<u8>]) -> u32 {
        let mut parent = 0;
        for depth in 1..=path.len() {
            if let Some(&known) = self.paths.get(&path[..depth]) {
                parent = known;
                continue;
            }
            let index = u32::try_from(self.names.len()).expect("a torrent has fewer files");
            self.parents.push(parent);
            self.names.push(path[depth - 1].clone());
            self.paths.insert(path[..depth].to_vec(), index);
            parent = index;
        }
        parent
    }
}

impl Lineage for Folders {
    fn parent(&self, index: u32) -> u32 {
        self.parents[index as usize]
    }

    fn name(&self, index: u32) -> &[u8] {
        &self.names[index as usize]
    }
}

/// A path without the torrent's name.
fn below_root(path: &[Vec<u8>]) -> &[Vec<u8>] {
    path.get(1..).unwrap_or_default()
}

/// Makes the link at `path` to `target`, both from the root: it leads up and down again, over
/// directories that are no links themselves.
fn make_link(
    parent: &OwnedFd,
    name: &[u8],
    path: &[Vec<u8>],
    target: &[Vec<u8>],
) -> io::Result<()> {
    let depth = below_root(path).len().saturating_sub(1);
    let up = std::iter::repeat_n(&b".."[..], depth);
    let way: Vec<&[u8]> = up.chain(target.iter().map(Vec::as_slice)).collect();
    let place = Place::new(parent.as_fd(), name)?;
    let about = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    if about.is_ok_and(|about| FileType::from_raw_mode(about.st_mode) == FileType::Symlink) {
        // Of an earlier attempt.
        place.remove(false)?;
    }
    Ok(place.make_symlink(&way.join(&b'/'))?)
}

fn cannot(what: &str, file: &metainfo::File) -> String {
    format!("Cannot {what} {}", show(&file.path.join(&b'/')))
}

fn len_of(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("it is within a piece")
}

#[cfg(test)]
mod tests;
