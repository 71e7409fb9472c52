//! The runtime of the control plane: a thread with an executor of its own, on `tokio-uring` where
//! this process may have an io_uring, on plain tokio where not.
//!
//! Nothing else in the project knows `tokio-uring`, so that it can be replaced here. It is a tokio
//! current-thread runtime with a ring beside it: sockets and timers are tokio's either way, only
//! bytes of files come through the ring ([`read_ahead`]). Its tasks and files never leave their
//! thread; futures are therefore made on it, by [`Runtime::run`]. A thread keeps to one backend.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, mpsc as threads};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_blocking, spawn_local};
use tokio_uring::buf::BoundedBuf as _;

use super::error::{Error, Kind, OrKind as _, Result};

/// Threads for what blocks, where the backend lets them be limited; elsewhere whoever starts many
/// such jobs limits them by a semaphore.
pub(super) const BLOCKING_MAX: usize = 4;
/// Jobs that wait until their thread takes them.
const JOBS_MAX: usize = 16;
/// Bytes of a file in one chunk.
const CHUNK_BYTES: u64 = 256 << 10;
/// How long a trial of the ring may take.
const TRIAL_DEADLINE: Duration = Duration::from_secs(1);
/// How long jobs that block may go on when plain tokio ends.
const BLOCKING_DEADLINE: Duration = Duration::from_secs(1);

/// What a runtime works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// `tokio-uring`.
    Ring,
    /// Plain tokio.
    Plain,
}

thread_local! {
    static BACKEND: Cell<Backend> = const { Cell::new(Backend::Plain) };
}

type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A control thread; dropping it ends its tasks and waits for the thread.
#[derive(Debug)]
pub struct Runtime {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Runtime {
    /// Starts a thread of this name on the best backend there is.
    ///
    /// # Errors
    /// If the runtime cannot be made or the thread not be started.
    pub fn start(name: &str) -> Result<Self> {
        Self::start_on(best(), name)
    }

    /// Starts a thread on this backend, or on plain tokio if its ring cannot be had any more.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_on(backend: Backend, name: &str) -> Result<Self> {
        let (jobs, waiting) = mpsc::channel(JOBS_MAX);
        let (ready, started) = threads::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || match Executor::new(backend) {
                Ok(executor) => {
                    // Whoever starts the thread waits for this word.
                    ready.send(Ok(())).ok();
                    executor.run(work(waiting));
                }
                Err(error) => {
                    ready.send(Err(error)).ok();
                }
            })
            .or_kind(Kind::Internal)?;
        let started = started
            .recv()
            .map_err(|_| Error::text(Kind::Internal, "A control thread ended at its start"))?;
        started.or_kind(Kind::Internal)?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Starts a task on the thread and does not wait for it.
    ///
    /// # Errors
    /// If the thread has panicked.
    pub fn spawn<F>(&self, task: impl FnOnce() -> F + Send + 'static) -> Result
    where
        F: Future<Output = ()> + 'static,
    {
        let job: Job = Box::new(move || Box::pin(task()));
        let jobs = self.jobs.as_ref();
        match jobs.map(|jobs| jobs.blocking_send(job)) {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) | None => Err(Error::text(Kind::Internal, "A control thread is gone")),
        }
    }

    /// Runs a task on the thread and waits for what it gives.
    ///
    /// # Errors
    /// If the task or the thread has panicked.
    ///
    /// # Panics
    /// On a thread that runs a runtime itself, which would wait for itself.
    pub fn run<T, F>(&self, task: impl FnOnce() -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (sender, done) = threads::sync_channel(1);
        self.spawn(|| async move {
            // The caller waits for it below.
            sender.send(task().await).ok();
        })?;
        done.recv()
            .map_err(|_| Error::text(Kind::Internal, "A control task panicked"))
    }

    /// Lets the thread run as long as the process.
    pub(crate) fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("A control thread had panicked");
        }
    }
}

async fn work(mut jobs: mpsc::Receiver<Job>) {
    while let Some(job) = jobs.recv().await {
        // Tasks are not joined: each tells its own result, and all end with the thread.
        drop(spawn_local(job()));
    }
}

/// A runtime on its thread.
enum Executor {
    Ring(tokio_uring::Runtime),
    Plain(tokio::runtime::Runtime, LocalSet),
}

impl Executor {
    fn new(backend: Backend) -> io::Result<Self> {
        if backend == Backend::Ring {
            match tokio_uring::Runtime::new(&tokio_uring::builder()) {
                Ok(runtime) => return Ok(Self::Ring(runtime)),
                Err(error) => tracing::debug!(%error, "No ring for a control thread"),
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_MAX)
            .build()?;
        Ok(Self::Plain(runtime, LocalSet::new()))
    }

    fn run<T>(self, main: impl Future<Output = T>) -> T {
        match self {
            Self::Ring(runtime) => {
                BACKEND.set(Backend::Ring);
                runtime.block_on(main)
            }
            Self::Plain(runtime, local) => {
                BACKEND.set(Backend::Plain);
                let done = local.block_on(&runtime, main);
                drop(local);
                runtime.shutdown_timeout(BLOCKING_DEADLINE);
                done
            }
        }
    }
}

/// The best backend that this process may have; found out once, by reading through a ring.
#[must_use]
pub fn best() -> Backend {
    static BEST: OnceLock<Backend> = OnceLock::new();
    *BEST.get_or_init(|| {
        // A thread of its own: the caller may be one that runs a runtime.
        let trial = std::thread::spawn(try_ring).join();
        match trial.unwrap_or_else(|_| Err(io::Error::other("the trial panicked"))) {
            Ok(()) => Backend::Ring,
            Err(error) => {
                tracing::debug!(%error, "The control plane works without a ring");
                Backend::Plain
            }
        }
    })
}

/// Sets up a ring and reads a file through it, as some profiles allow the one and not the other.
fn try_ring() -> io::Result<()> {
    // The crate leaks descriptors when its own attempt fails; this one is ours.
    drop(tokio_uring::uring_builder().build(1)?);
    let file = rustix::fs::memfd_create("flashover-trial", rustix::fs::MemfdFlags::CLOEXEC)?;
    let file = File::from(file);
    file.write_all_at(b"ring", 0)?;
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder())?;
    let read = runtime.block_on(async {
        let file = tokio_uring::fs::File::from_std(file);
        tokio::time::timeout(TRIAL_DEADLINE, read_ring(&file, 0, 4)).await
    });
    match read {
        Ok(Ok(bytes)) if bytes == b"ring"[..] => Ok(()),
        Ok(Ok(_)) => Err(io::Error::other("the ring read other bytes")),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            // Its end would wait for the read, which never ends.
            std::mem::forget(runtime);
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

/// Reads a part of a file in chunks, one ahead of the reader; after an error nothing more comes.
/// Dropping the receiver ends it.
///
/// # Panics
/// Outside the tasks of a [`Runtime`].
pub fn read_ahead(file: Arc<File>, part: Range<u64>) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, chunks) = mpsc::channel(1);
    drop(spawn_local(async move {
        let source = match Source::new(file) {
            Ok(source) => source,
            Err(error) => {
                // Whoever reads no more need not hear of it.
                sender.send(Err(error)).await.ok();
                return;
            }
        };
        let mut rest = part;
        // With room in the channel first, two chunks of a part are in memory at most.
        while !rest.is_empty()
            && let Ok(room) = sender.reserve().await
        {
            let len = CHUNK_BYTES.min(rest.end - rest.start);
            let chunk = source.read(rest.start, len).await;
            let failed = chunk.is_err();
            room.send(chunk);
            if failed {
                return;
            }
            rest.start += len;
        }
    }));
    chunks
}

/// A file as the backend of this thread reads it.
enum Source {
    Ring(tokio_uring::fs::File),
    Plain(Arc<File>),
}

impl Source {
    fn new(file: Arc<File>) -> io::Result<Self> {
        Ok(match BACKEND.get() {
            Backend::Ring => Self::Ring(tokio_uring::fs::File::from_std(file.try_clone()?)),
            Backend::Plain => Self::Plain(file),
        })
    }

    async fn read(&self, start: u64, len: u64) -> io::Result<Bytes> {
        match self {
            Self::Ring(file) => read_ring(file, start, len).await,
            Self::Plain(file) => {
                let file = Arc::clone(file);
                spawn_blocking(move || read_plain(&file, start, len)).await?
            }
        }
    }
}

async fn read_ring(file: &tokio_uring::fs::File, start: u64, len: u64) -> io::Result<Bytes> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    let chunk = Vec::with_capacity(len).slice(..len);
    let (done, chunk) = file.read_exact_at(chunk, start).await;
    done.map(|()| chunk.into_inner().into())
}

fn read_plain(file: &File, start: u64, len: u64) -> io::Result<Bytes> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    // Memory that is not zeroed first, which cost a fifth of all this.
    let mut chunk = Vec::with_capacity(len);
    while chunk.len() < len {
        let at = start.saturating_add(chunk.len() as u64);
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut chunk), at) {
            Ok(0) => {
                let end = "failed to fill whole buffer";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, end));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    chunk.truncate(len);
    Ok(chunk.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both where there is a ring; elsewhere the first falls back by itself.
    const BACKENDS: [Backend; 2] = [Backend::Ring, Backend::Plain];

    fn size(bytes: u64) -> usize {
        usize::try_from(bytes).unwrap()
    }

    fn file(len: usize) -> (Arc<File>, Vec<u8>) {
        let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        (Arc::new(file), bytes)
    }

    fn collect(runtime: &Runtime, file: &Arc<File>, part: Range<u64>) -> (Vec<u8>, Option<String>) {
        let file = Arc::clone(file);
        let read = async move || {
            let (mut bytes, mut failed) = (Vec::new(), None);
            let mut chunks = read_ahead(file, part);
            while let Some(chunk) = chunks.recv().await {
                match chunk {
                    Ok(chunk) => bytes.extend_from_slice(&chunk),
                    Err(error) => failed = Some(error.to_string()),
                }
            }
            (bytes, failed)
        };
        runtime.run(read).unwrap()
    }

    #[test]
    fn parts_of_files_come_whole_and_in_order() {
        let (file, bytes) = file(3 * size(CHUNK_BYTES) + 7);
        for backend in BACKENDS {
            let runtime = Runtime::start_on(backend, "test").unwrap();
            for part in [0..0, 5..6, 100..2 * CHUNK_BYTES + 1, 0..bytes.len() as u64] {
                let [start, end] = [part.start, part.end].map(size);
                let (read, failed) = collect(&runtime, &file, part);
                assert_eq!(failed, None);
                assert!(read == bytes[start..end], "{backend:?}: {start}..{end}");
            }
        }
    }

    #[test]
    fn the_end_of_a_file_is_an_error_after_what_was_there() {
        let (file, bytes) = file(2 * size(CHUNK_BYTES));
        for backend in BACKENDS {
            let runtime = Runtime::start_on(backend, "test").unwrap();
            let (read, failed) = collect(&runtime, &file, CHUNK_BYTES..9 * CHUNK_BYTES);
            assert!(read == bytes[size(CHUNK_BYTES)..], "{backend:?}");
            assert_eq!(failed.as_deref(), Some("failed to fill whole buffer"));
        }
    }

    #[test]
    fn whoever_stops_reading_ends_the_reading() {
        let (file, _) = file(4 * size(CHUNK_BYTES));
        for backend in BACKENDS {
            let runtime = Runtime::start_on(backend, "test").unwrap();
            let read = Arc::clone(&file);
            let first = async move || {
                let len = read.metadata().unwrap().len();
                let first = read_ahead(read, 0..len).recv().await;
                first.is_some_and(|chunk| chunk.is_ok())
            };
            assert!(runtime.run(first).unwrap());
            // The thread ends while the reading does.
            drop(runtime);
            assert_eq!(Arc::strong_count(&file), 1);
        }
    }

    #[test]
    fn a_panic_of_a_task_is_told_and_the_thread_goes_on() {
        for backend in BACKENDS {
            let runtime = Runtime::start_on(backend, "test").unwrap();
            let failed: Result = runtime.run(async || panic!("on purpose"));
            assert!(failed.unwrap_err().to_string().contains("panicked"));
            assert_eq!(runtime.run(async || 5).unwrap(), 5);
        }
    }

    #[test]
    fn the_ring_is_used_where_the_kernel_has_one() {
        let ring = try_ring().is_ok();
        assert_eq!(best() == Backend::Ring, ring);
        for backend in BACKENDS {
            let runtime = Runtime::start_on(backend, "test").unwrap();
            let used = runtime.run(async || BACKEND.get()).unwrap();
            assert_eq!(used == Backend::Ring, ring && backend == Backend::Ring);
        }
    }
}
