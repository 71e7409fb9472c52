//! The bundle under way: frames come in any order and are written in theirs, hashed as they go.
//!
//! Owns the temporary file, and removes it unless the bundle is given its name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crossbeam::channel::Receiver;

use super::cutter::{Cutter, PieceDone, PieceJob};
use super::store::sync_directory_of;
use super::{Error, Result};
use crate::image::hash::{CHUNK_BYTES, PartsHasher, merge};
use crate::image::{Entry, EntryKind, Frame, Hash, frame};
use crate::swarm::metainfo::PieceHashes;

/// A bundle that is being written.
#[derive(Debug)]
pub(super) struct BundleWriter {
    path: PathBuf,
    file: File,
    hasher: PartsHasher,
    cutter: Cutter,
    frames: Vec<Frame>,
    /// Frames that came before their turn, by index. Bounded by the buffers of the pipeline.
    early: BTreeMap<u32, (Frame, Vec<u8>)>,
}

impl BundleWriter {
    /// Starts a bundle in pieces of `piece_size` bytes; `workers` will help to hash them.
    pub(super) fn create(path: PathBuf, piece_size: u32, workers: usize) -> Result<Self> {
        let file = File::create(&path).map_err(Error::store("write", &path))?;
        Ok(Self {
            path,
            file,
            hasher: PartsHasher::new(piece_size.into()),
            cutter: Cutter::new(piece_size as usize, workers),
            frames: Vec::new(),
            early: BTreeMap::new(),
        })
    }

    /// Where workers find pieces to hash.
    pub(super) fn piece_jobs(&self) -> Receiver<PieceJob> {
        self.cutter.jobs()
    }

    /// Takes a piece that a worker hashed.
    pub(super) fn put_piece(&mut self, piece: PieceDone) {
        self.cutter.put(piece);
    }

    /// Takes a frame, writes what is in turn, and hands every written buffer to `recycle`.
    pub(super) fn put(
        &mut self,
        index: u32,
        frame: Frame,
        packed: Vec<u8>,
        mut recycle: impl FnMut(Vec<u8>),
    ) -> Result<()> {
        self.early.insert(index, (frame, packed));
        while let Some(next) = self.early.first_entry()
            && *next.key() as usize == self.frames.len()
        {
            let (frame, packed) = next.remove();
            self.write(&packed)?;
            self.frames.push(frame);
            recycle(packed);
        }
        Ok(())
    }

    /// Appends the seek table and makes the file last.
    pub(super) fn finish(mut self) -> Result<Written> {
        assert!(self.early.is_empty(), "every frame came");
        let table = frame::seek_table(&self.frames);
        self.write(&table)?;
        self.file
            .sync_all()
            .map_err(Error::store("write", &self.path))?;
        let hasher = std::mem::replace(&mut self.hasher, PartsHasher::new(CHUNK_BYTES));
        let cutter = std::mem::replace(&mut self.cutter, Cutter::new(0, 0));
        let size = hasher.size();
        let (root, pieces) = hasher.finish();
        Ok(Written {
            size,
            root,
            pieces,
            torrent_pieces: cutter.finish(),
            frames: std::mem::take(&mut self.frames),
            temporary: Temporary(std::mem::take(&mut self.path)),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.cutter.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(Error::store("write", &self.path))
    }
}

impl Drop for BundleWriter {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            drop(Temporary(std::mem::take(&mut self.path)));
        }
    }
}

/// A bundle that is complete but has no name yet.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) size: u64,
    pub(super) root: Hash,
    pub(super) pieces: Vec<Hash>,
    pub(super) torrent_pieces: Vec<PieceHashes>,
    pub(super) frames: Vec<Frame>,
    pub(super) temporary: Temporary,
}

/// A file that is removed when dropped.
#[derive(Debug)]
pub(super) struct Temporary(PathBuf);

impl Temporary {
    /// Takes a file that is there.
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Gives the file its name, and still removes it unless it is kept.
    pub(super) fn rename(mut self, to: &Path) -> Result<Self> {
        fs::rename(&self.0, to).map_err(Error::store("write", to))?;
        to.clone_into(&mut self.0);
        sync_directory_of(to).map_err(Error::store("write", to))?;
        Ok(self)
    }

    /// Leaves the file where it is.
    pub(super) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // What remains is overwritten by the next publication.
            drop(fs::remove_file(&self.0));
        }
    }
}

/// The value of one chunk of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkHash {
    pub(super) entry: u32,
    pub(super) offset: u64,
    pub(super) value: Hash,
}

/// The hashes of files, from chunks in any order.
#[derive(Debug, Default)]
pub(super) struct FileHashes {
    values: BTreeMap<u32, Vec<(u64, Hash)>>,
    whole: Vec<(u32, Hash)>,
}

impl FileHashes {
    /// Takes the value of a chunk of a file of `file_size` bytes.
    pub(super) fn put(&mut self, file_size: u64, chunk: ChunkHash) {
        if file_size <= CHUNK_BYTES {
            self.whole.push((chunk.entry, chunk.value));
        } else {
            let values = self.values.entry(chunk.entry).or_default();
            values.push((chunk.offset, chunk.value));
        }
    }

    /// Sets the hash of every file that has bytes.
    pub(super) fn fill(self, entries: &mut [Entry]) {
        let merged = self.values.into_iter().map(|(entry, mut values)| {
            values.sort_unstable_by_key(|(offset, _)| *offset);
            let values: Vec<Hash> = values.into_iter().map(|(_, value)| value).collect();
            (entry, merge(&values))
        });
        for (index, value) in self.whole.into_iter().chain(merged) {
            if let EntryKind::File { hash, .. } = &mut entries[index as usize].kind {
                *hash = value;
            }
        }
    }
}
