//! The node's piece store: one sparse file that becomes the bundle, beside its sealed manifest.
//!
//! There is no journal. What an earlier attempt left is hashed again, and what is right counts; so
//! nothing can disagree with the disk, whenever the process was killed. The store owns its file (an
//! exclusive lock says so to other processes) and removes it when the job succeeded.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fs::{FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::error::{Error, Kind, OrKind as _, Result};
use crate::base::event::{Event, Events};
use crate::base::units::format_bytes;
use crate::base::{Bitmap, PieceIndex};
use crate::image::hash::piece_hasher;
use crate::image::{Geometry, Hash, Manifest};
use crate::tree::forget_cache;

/// Threads that hash at most.
const HASHERS_MAX: usize = 16;
/// Bytes that are read and hashed at a time.
const HASH_STEP: usize = 64 << 10;

/// The pieces of one bundle on this node's disk.
#[derive(Debug)]
pub(crate) struct PieceStore {
    file: Arc<File>,
    path: PathBuf,
    sealed_path: Option<PathBuf>,
    geometry: Geometry,
}

impl PieceStore {
    /// Opens or makes the store of a bundle in the folder `work`: `NAME-SERIAL.part` and
    /// `NAME-SERIAL.manifest`.
    ///
    /// # Errors
    /// If the folder cannot be written, another process has the store, or the disk is too small.
    pub(crate) fn in_folder(work: &Path, manifest: &Manifest, sealed: &[u8]) -> Result<Self> {
        make_folder(work)
            .or_kind_with(Kind::Storage, || format!("Cannot make {}", work.display()))?;
        let stem = format!("{}-{}", manifest.name, manifest.serial);
        let sealed_path = work.join(format!("{stem}.manifest"));
        let mut store = Self::at(&work.join(format!("{stem}.part")), manifest.geometry)?;
        write_whole(&sealed_path, sealed).or_kind_with(Kind::Storage, || {
            format!("Cannot write {}", sealed_path.display())
        })?;
        store.sealed_path = Some(sealed_path);
        Ok(store)
    }

    /// Opens or makes a store that is the file `path` alone.
    ///
    /// # Errors
    /// As [`PieceStore::in_folder`].
    pub(crate) fn at(path: &Path, geometry: Geometry) -> Result<Self> {
        let open = |path: &Path| {
            fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)
        };
        let file =
            open(path).or_kind_with(Kind::Storage, || format!("Cannot open {}", path.display()))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            let text = format!("Another process works on {}", path.display());
            Error::text(Kind::Precondition, text)
        })?;
        let size = geometry.bundle_size();
        file.set_len(size)
            .or_kind_with(Kind::Storage, || format!("Cannot size {}", path.display()))?;
        Ok(Self {
            file: Arc::new(file),
            path: path.to_owned(),
            sealed_path: None,
            geometry,
        })
    }

    /// Makes a store without a name in the folder `work`: it is gone when it is dropped.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub(crate) fn unnamed(work: &Path, geometry: Geometry) -> Result<Self> {
        let open = || -> io::Result<File> {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            let file = File::from(rustix::fs::open(work, flags, Mode::RUSR | Mode::WUSR)?);
            file.set_len(geometry.bundle_size())?;
            Ok(file)
        };
        let file = open().or_kind_with(Kind::Storage, || {
            format!("Cannot make a temporary file in {}", work.display())
        })?;
        Ok(Self {
            file: Arc::new(file),
            path: work.to_owned(),
            sealed_path: None,
            geometry,
        })
    }

    /// The open file.
    pub(crate) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// What lies where in it.
    pub(crate) const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses a disk that cannot take the rest of the bundle and `extra` bytes more.
    ///
    /// # Errors
    /// [`Kind::Storage`] with both numbers.
    pub(crate) fn check_space(&self, extra: u64) -> Result {
        let there = self.file.metadata().or_kind(Kind::Storage)?.blocks() * 512;
        let missing = self.geometry.bundle_size().saturating_sub(there);
        let disk = rustix::fs::fstatvfs(&*self.file).or_kind(Kind::Storage)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let needed = missing.saturating_add(extra);
        if free >= needed {
            return Ok(());
        }
        let text = format!(
            "{} needs {} more, its disk has {} free",
            self.path.display(),
            format_bytes(needed),
            format_bytes(free)
        );
        Err(Error::text(Kind::Storage, text)
            .hint("free some space, or choose another disk by --work DIR"))
    }

    /// Brings everything to the disk, and has what is read next come from there.
    ///
    /// After a failed sync the kernel calls the pages clean all the same: they are still in memory,
    /// perhaps nowhere else, and the next sync would succeed. So nothing in memory counts from then
    /// on, and what the disk lost is found by hashing.
    ///
    /// # Errors
    /// If the disk did not take everything: what is missing must be found and written again.
    pub(crate) fn settle(&self) -> io::Result<()> {
        let synced = self.file.sync_data();
        forget_cache(&self.file);
        synced
    }

    /// Finds the pieces that are here and right on the disk itself, by all cores.
    ///
    /// `values` are the manifest's piece values. A piece that is a hole counts as missing.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn resume(&self, values: &[Hash], events: &Events) -> Result<Bitmap> {
        if let Err(error) = self.settle() {
            events.warn(format!("{}; what it lost is found", self.not_taken(&error)));
        }
        let candidates = self.with_data().or_kind(Kind::Storage)?;
        self.check(&candidates, values, events)
    }

    /// Hashes every piece on the disk itself, holes too, and finds those that are right. The second
    /// part says whether the disk took everything: if not, nothing is proven, however right it is.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn read_back(
        &self,
        values: &[Hash],
        events: &Events,
    ) -> Result<(Bitmap, io::Result<()>)> {
        let settled = self.settle();
        let all: Vec<PieceIndex> = self.geometry.pieces().collect();
        Ok((self.check(&all, values, events)?, settled))
    }

    /// Says that the disk did not take everything.
    pub(crate) fn not_taken(&self, error: &io::Error) -> String {
        let path = self.path.display();
        format!("The disk of {path} did not take all that was written: {error}")
    }

    fn check(&self, candidates: &[PieceIndex], values: &[Hash], events: &Events) -> Result<Bitmap> {
        let geometry = self.geometry;
        let total = candidates
            .iter()
            .map(|&piece| geometry.len(piece) as u64)
            .sum();
        let done = AtomicU64::new(0);
        let check = |piece: PieceIndex, buffer: &mut Vec<u8>| -> io::Result<bool> {
            let value = value_on_disk(&self.file, geometry, piece, buffer)?;
            let len = geometry.len(piece) as u64;
            events.raise(Event::Progress {
                bytes_done: done.fetch_add(len, Ordering::Relaxed) + len,
                bytes_total: total,
            });
            Ok(value == values[piece.as_usize()])
        };
        let found = on_all_cores(candidates, check).or_kind(Kind::Storage)?;
        let mut have = Bitmap::new(values.len());
        for piece in found {
            have.set(piece.as_usize());
        }
        Ok(have)
    }

    /// The pieces that have any data on disk, ascending.
    fn with_data(&self) -> io::Result<Vec<PieceIndex>> {
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < self.geometry.bundle_size() {
            let start = match rustix::fs::seek(&*self.file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            let end = rustix::fs::seek(&*self.file, SeekFrom::Hole(start))?;
            let end = end.min(self.geometry.bundle_size());
            if end <= start {
                break;
            }
            let covering = self.geometry.covering(start..end);
            let next = pieces.last().map_or(0, |last: &PieceIndex| last.get() + 1);
            pieces.extend((covering.start.max(next)..covering.end).map(PieceIndex::new));
            at = end;
        }
        Ok(pieces)
    }

    /// Removes the store: the job succeeded. The unpacker may have removed it already, with the
    /// target's marker.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub(crate) fn remove(self) -> io::Result<()> {
        remove_if_there(&self.path)?;
        self.remove_sealed()
    }

    /// Gives the whole bundle the name `to`, durably: the job succeeded.
    ///
    /// # Errors
    /// If the file system refuses; `to` is on the same one, or the bundle is copied.
    pub(crate) fn rename(self, to: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        match fs::rename(&self.path, to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                fs::copy(&self.path, to)?;
                File::open(to)?.sync_all()?;
                fs::remove_file(&self.path)?;
            }
            other => other?,
        }
        if let Some(folder) = to.parent() {
            let folder = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            };
            File::open(folder)?.sync_all()?;
        }
        self.remove_sealed()
    }

    fn remove_sealed(&self) -> io::Result<()> {
        self.sealed_path.as_deref().map_or(Ok(()), remove_if_there)
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn make_folder(work: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(work)
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(&new, path)
}

/// Runs `check` over all pieces by all cores and gives those for which it was true.
fn on_all_cores(
    pieces: &[PieceIndex],
    check: impl Fn(PieceIndex, &mut Vec<u8>) -> io::Result<bool> + Sync,
) -> io::Result<Vec<PieceIndex>> {
    let next = AtomicU32::new(0);
    let work = || -> io::Result<Vec<PieceIndex>> {
        let (mut buffer, mut right) = (Vec::new(), Vec::new());
        while let Some(&piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            if check(piece, &mut buffer)? {
                right.push(piece);
            }
        }
        Ok(right)
    };
    let count = hashers().min(pieces.len());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for worker in workers {
            let part = worker
                .join()
                .map_err(|_| io::Error::other("A hashing thread panicked"))?;
            all.extend(part?);
        }
        Ok(all)
    })
}

/// Hashes a piece where it is on disk, in steps that a core's cache holds.
fn value_on_disk(
    file: &File,
    geometry: Geometry,
    piece: PieceIndex,
    buffer: &mut Vec<u8>,
) -> io::Result<Hash> {
    buffer.resize(HASH_STEP, 0);
    let mut hasher = piece_hasher(geometry, piece);
    let (start, len) = (geometry.offset(piece), geometry.len(piece));
    for at in (0..len).step_by(HASH_STEP) {
        let step = &mut buffer[..HASH_STEP.min(len - at)];
        file.read_exact_at(step, start + at as u64)?;
        hasher.update(step);
    }
    Ok(hasher.finish())
}

/// How many threads hash.
pub(crate) fn hashers() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(HASHERS_MAX))
}

/// Hashes every piece of an open file, by all cores, in order of the pieces.
///
/// # Errors
/// If the file cannot be read or is shorter than its geometry.
pub(crate) fn hash_pieces(
    file: &File,
    geometry: Geometry,
    events: &Events,
) -> io::Result<Vec<Hash>> {
    let pieces: Vec<PieceIndex> = geometry.pieces().collect();
    let values: Vec<std::sync::OnceLock<Hash>> =
        pieces.iter().map(|_| std::sync::OnceLock::new()).collect();
    let done = AtomicU64::new(0);
    on_all_cores(&pieces, |piece, buffer| {
        let value = value_on_disk(file, geometry, piece, buffer)?;
        values[piece.as_usize()].get_or_init(|| value);
        let len = geometry.len(piece) as u64;
        events.raise(Event::Progress {
            bytes_done: done.fetch_add(len, Ordering::Relaxed) + len,
            bytes_total: geometry.bundle_size(),
        });
        Ok(true)
    })?;
    let missing = || io::Error::other("A piece was not hashed");
    values
        .into_iter()
        .map(|value| value.into_inner().ok_or_else(missing))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::hash::merge;

    const LOG2: u8 = 16;

    fn sample(size: usize) -> Vec<u8> {
        (0..size)
            .map(|at| u8::try_from((at * 7 + at / 251) % 251).unwrap())
            .collect()
    }

    fn values_of(bytes: &[u8]) -> (Geometry, Vec<Hash>) {
        let geometry = Geometry::new(bytes.len() as u64, LOG2).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let values = hash_pieces(&file, geometry, &Events::ignore()).unwrap();
        (geometry, values)
    }

    #[test]
    fn pieces_hash_to_the_hash_of_the_whole() {
        let bytes = sample((5 << LOG2) + 77);
        assert_eq!(merge(&values_of(&bytes).1), Hash::of(&bytes));
    }

    #[test]
    fn resume_counts_what_is_right_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.part");
        let bytes = sample((6 << LOG2) + 5);
        let (geometry, values) = values_of(&bytes);
        let resume = || {
            let store = PieceStore::at(&path, geometry).unwrap();
            let have = store.resume(&values, &Events::ignore()).unwrap();
            (store, have.iter().collect::<Vec<_>>())
        };
        let (store, have) = resume();
        assert!(have.is_empty());
        for index in [1, 4, 6] {
            let piece = geometry.piece(index).unwrap();
            let range = geometry.range(piece);
            let part = &bytes[usize::try_from(range.start).unwrap()..][..geometry.len(piece)];
            store.file().write_all_at(part, range.start).unwrap();
        }
        drop(store);
        let (store, have) = resume();
        assert_eq!(have, [1, 4, 6]);
        store.file().write_all_at(b"torn", (4 << LOG2) + 9).unwrap();
        drop(store);
        assert_eq!(resume().1, [1, 6]);
    }

    #[test]
    fn a_store_has_one_owner_and_goes_with_success() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.part");
        let geometry = Geometry::new(10, LOG2).unwrap();
        let store = PieceStore::at(&path, geometry).unwrap();
        let second = PieceStore::at(&path, geometry).unwrap_err();
        assert_eq!(second.kind(), Kind::Precondition);
        let done = dir.path().join("x");
        store.rename(&done).unwrap();
        assert!(done.exists() && !path.exists());
        PieceStore::at(&path, geometry).unwrap().remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_bundle_larger_than_the_disk_is_refused_before_a_byte_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.part");
        let store = PieceStore::at(&path, Geometry::new(1 << 16, LOG2).unwrap()).unwrap();
        store.check_space(0).unwrap();
        assert_eq!(
            store.check_space(u64::MAX).unwrap_err().kind(),
            Kind::Storage
        );
    }
}
