//! The node side: a bundle becomes a tree or a disk, and is proven to have become it.
//!
//! ```text
//!   piece_ready(i) --> Queue: frames whose pieces are all here --> N workers:
//!       read packed frame -> zstd -> write its extents -> metadata of finished files
//!   finish() --> hard links, directories' metadata, sync --> read everything back --> Restored
//! ```
//!
//! The signed manifest alone drives it; tar headers in the frames are never looked at. Frames come
//! in any order. Invariants: nothing outside the target is touched; a file gets its metadata after
//! its last byte, a directory after all that is in it; nothing is called restored that was not read
//! back from the target and found to be what the manifest says.
//!
//! A target directory that an attempt was interrupted in is known by its marker, [`MARKER`]; the
//! next attempt writes everything again, from the pieces that were kept.
#![forbid(unsafe_code)]

mod device;
mod directory;
mod error;
mod leftovers;
mod plan;
mod queue;
mod refusals;
mod verify;
mod worker;

#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::base::PieceIndex;
use crate::base::event::{Events, Phase};
use crate::image::Manifest;

pub use error::{Error, ErrorKind, Result};
pub use leftovers::MARKER;
pub use refusals::Refusal;

use device::DeviceSink;
use directory::DirectorySink;
use queue::Queue;
use worker::Shared;

/// Where the bytes of the bundle are read from, by several threads.
pub trait BundleSource: Send + Sync {
    /// Fills the buffer with the bytes at `offset`, all of which lie in pieces that are ready.
    ///
    /// # Errors
    /// If they cannot be read.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()>;
}

impl BundleSource for std::fs::File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }
}

/// What becomes the image.
#[derive(Clone, Debug)]
pub enum Target {
    /// A directory, for trees: it is empty, or does not exist, or holds an interrupted attempt.
    Directory(PathBuf),
    /// A block device that is not in use, or a plain file, for disks: its content is replaced.
    Device(PathBuf),
}

/// How to unpack.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many threads unpack; as many as there are processors by default.
    pub threads: NonZeroUsize,
    /// Whether a target directory that holds something else is emptied first.
    pub replace: bool,
    /// Whether metadata that the system refuses to set make the job fail. By default they do for
    /// root, who should be able to set all; for others they become warnings.
    pub strict: bool,
    /// Where phases, progress and warnings go.
    pub events: Events,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            replace: false,
            strict: rustix::process::geteuid().is_root(),
            events: Events::ignore(),
        }
    }
}

/// What was restored, and proven to be there.
#[derive(Clone, Debug)]
pub struct Restored {
    /// How many entries of the manifest are there.
    pub entries: u64,
    /// Bytes of data written; holes do not count.
    pub bytes_written: u64,
    /// Bytes of content read back and hashed, with holes.
    pub bytes_verified: u64,
    /// From the start to the last write and sync.
    pub unpack_time: Duration,
    /// What the read-back took.
    pub verify_time: Duration,
    /// Metadata that the system refused to set. Empty if `strict`.
    pub refusals: Vec<Refusal>,
}

/// Unpacks a bundle while its pieces arrive. Dropping it stops the work.
pub struct Unpacker {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    events: Events,
    started: Instant,
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker")
            .field("workers", &self.workers.len())
            .finish_non_exhaustive()
    }
}

impl Unpacker {
    /// Prepares the target (for trees, makes all directories) and starts the workers.
    ///
    /// # Errors
    /// If the manifest breaks its rules or does not fit the target, or the target is in use, holds
    /// something, is too small, or cannot be written.
    pub fn start(
        manifest: Arc<Manifest>,
        source: Arc<dyn BundleSource>,
        target: &Target,
        options: &Options,
    ) -> Result<Self> {
        let started = Instant::now();
        let plan = plan::Plan::new(&manifest)?;
        let sink: Box<dyn Sink> = match target {
            Target::Directory(path) => {
                Box::new(DirectorySink::start(Arc::clone(&manifest), path, options)?)
            }
            Target::Device(path) => Box::new(DeviceSink::start(&manifest, path, options)?),
        };
        let queue = Queue::new(&plan, sink.loose_count());
        let shared = Arc::new(Shared {
            manifest,
            plan,
            source,
            sink,
            queue,
            bytes_written: AtomicU64::new(0),
        });
        let mut unpacker = Self {
            shared,
            workers: Vec::new(),
            events: options.events.clone(),
            started,
        };
        for index in 0..options.threads.get().min(THREADS_MAX) {
            let shared = Arc::clone(&unpacker.shared);
            let worker = std::thread::Builder::new()
                .name(format!("unpack-{index}"))
                .spawn(move || worker::run(&shared))
                .map_err(Error::Thread)?;
            unpacker.workers.push(worker);
        }
        Ok(unpacker)
    }

    /// Tells that a piece is in the source, whole and verified. Cheap, never blocks for long, and
    /// may be called from any thread, also more than once for a piece.
    pub fn piece_ready(&self, piece: PieceIndex) {
        self.shared.queue.piece_ready(&self.shared.plan, piece);
    }

    /// Bytes of data written so far, of [`Unpacker::bytes_total`].
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.shared.bytes_written.load(Ordering::Relaxed)
    }

    /// Bytes of data that will be written; holes do not count.
    #[must_use]
    pub fn bytes_total(&self) -> u64 {
        self.shared.plan.data_bytes
    }

    /// Whether the work has stopped with an error, which [`Unpacker::finish`] gives.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shared.queue.has_failed()
    }

    /// Waits for the last frame, completes the target, and reads all of it back.
    ///
    /// All pieces must be ready or become so from another thread.
    ///
    /// # Errors
    /// The first error of the work, or a list of what the read-back found to differ.
    pub fn finish(mut self) -> Result<Restored> {
        self.events.phase(Phase::Unpacking);
        self.shared.queue.close();
        for worker in self.workers.drain(..) {
            // A panicking worker has recorded its end by leaving frames undone.
            drop(worker.join());
        }
        self.shared.queue.outcome()?;
        self.shared.sink.complete()?;
        let unpack_time = self.started.elapsed();
        self.events.phase(Phase::Verifying);
        let verified = self.shared.sink.verify()?;
        let refusals = self.shared.sink.seal()?;
        for refusal in &refusals {
            self.events.warn(refusal.to_string());
        }
        Ok(Restored {
            entries: self.shared.manifest.entries.len() as u64,
            bytes_written: self.bytes_written(),
            bytes_verified: verified,
            unpack_time,
            verify_time: self.started.elapsed().saturating_sub(unpack_time),
            refusals,
        })
    }
}

impl Drop for Unpacker {
    fn drop(&mut self) {
        if !self.workers.is_empty() {
            self.shared.queue.abandon();
        }
        for worker in self.workers.drain(..) {
            drop(worker.join());
        }
    }
}

/// More threads than this bring nothing: the disk and its file system are the limit.
const THREADS_MAX: usize = 16;
/// Fewer threads than this leave a disk idle that is read back, file by file: they mostly wait.
const READERS_MIN: usize = 8;

/// How many threads read back.
fn readers(options: &Options) -> usize {
    options.threads.get().clamp(READERS_MIN, THREADS_MAX)
}

/// What a bundle is unpacked into. The calls come in the order of the methods; those of the first
/// two from many threads.
trait Sink: Send + Sync {
    /// Writes the extents of a frame from its content, which has the size that the manifest says.
    fn write_frame(&self, frame: u32, content: &[u8]) -> Result;
    /// How many steps of work there are that wait for no frame.
    fn loose_count(&self) -> usize;
    /// Does one of those steps.
    fn do_loose(&self, index: usize) -> Result;
    /// Does what had to wait for all frames, and brings everything to the disk.
    fn complete(&self) -> Result;
    /// Reads everything back. Gives the bytes of content that were compared.
    fn verify(&self) -> Result<u64>;
    /// Removes the traces of the work. Gives what could not be restored.
    fn seal(&self) -> Result<Vec<Refusal>>;
}
