//! Disk operations as a whole: short reads and writes are continued until all bytes are moved.
//!
//! Both backends share [`Run`]: it says what to do next and judges what came of it. The ring reads
//! past the page cache (`O_DIRECT`) what is not there anyway: a bundle that is served once through
//! neither is copied nor drives out what others need.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt as _};

use super::limits::DISK_RETRIES_MAX;
use super::pool::Arena;
use super::ring::cached_pages;
use crate::base::Blocks as _;
use crate::machine::{DiskDone, DiskError, DiskKind, DiskOp};

/// A file, and whether to ask the kernel to move its bytes at once.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) file: File,
    /// It lives in memory (an initrd's piece store, say): nothing is waited for, and a ring would
    /// only hand the copying to another thread, whose core's cache has none of the bytes.
    pub(super) in_memory: bool,
    /// The same file past the page cache, if its file system can read so.
    direct: Option<File>,
}

impl Place {
    pub(super) fn new(file: File) -> Self {
        let in_memory = is_in_memory(&file);
        Self {
            direct: if in_memory { None } else { open_direct(&file) },
            in_memory,
            file,
        }
    }

    /// Whether it can be read past the page cache.
    #[cfg(test)]
    pub(super) const fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Where the next step of an operation finds its bytes.
    pub(super) fn route(&self, run: &mut Run) -> BorrowedFd<'_> {
        let past = self.direct.as_ref().filter(|_| self.goes_past(run));
        run.past_cache = past.is_some();
        past.unwrap_or(&self.file).as_fd()
    }

    /// Whether what is left is to be read, aligned for it, and wholly absent from the page cache.
    fn goes_past(&self, run: &Run) -> bool {
        let rest = run.rest();
        let len = rest.len() as u64;
        let places = [rest.start as u64, run.offset(), len];
        run.op.kind == DiskKind::Read
            && run.may_go_past
            && run.op.block.registered_index().is_some()
            && places.iter().all(|at| at.is_multiple_of(ALIGNMENT))
            && matches!(cached_pages(self.file.as_fd(), run.offset(), len), Ok(0))
    }
}

/// Opens a file once more, to be read past the page cache, and tries that.
fn open_direct(file: &File) -> Option<File> {
    cached_pages(file.as_fd(), 0, ALIGNMENT).ok()?;
    let direct = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .ok()?;
    let len = usize::try_from(ALIGNMENT).ok()?;
    let mut page = Arena::new(len, 1).ok()?.take()?;
    direct.read_at(&mut page[..len], 0).ok()?;
    Some(direct)
}

/// What memory, places and lengths of reads past the page cache are multiples of.
const ALIGNMENT: u64 = 4096;

/// Whether a file lives in memory and nowhere else.
pub(super) fn is_in_memory(file: &File) -> bool {
    let system = rustix::fs::fstatfs(file).map_or(0, |system| system.f_type);
    [TMPFS_MAGIC, RAMFS_MAGIC].contains(&system)
}

/// What `statfs` calls file systems in memory. Source: linux/magic.h.
const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// A disk operation on its way.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) op: DiskOp,
    done: usize,
    retries: u32,
    /// The kernel has not refused yet to read it past the page cache.
    may_go_past: bool,
    /// The step that is on its way goes past the page cache.
    past_cache: bool,
}

/// What follows a step of a [`Run`].
pub(super) enum Step {
    /// Bytes are left to move.
    Again(Run),
    /// It ended.
    Done(DiskDone),
}

impl Run {
    /// Starts an operation; one without bytes ends at once.
    pub(super) fn start(op: DiskOp) -> Step {
        assert!(op.len <= op.block.len(), "a machine stays in its block");
        let run = Self {
            op,
            done: 0,
            retries: 0,
            may_go_past: true,
            past_cache: false,
        };
        run.judge()
    }

    /// The bytes of the block that are left to move.
    pub(super) fn rest(&self) -> std::ops::Range<usize> {
        self.done..self.op.len
    }

    /// Where in the file they go or come from.
    pub(super) fn offset(&self) -> u64 {
        // A file offset past 2^63 fails in the kernel, so saturation cannot hit a valid place.
        self.op.offset.saturating_add(self.done as u64)
    }

    /// Takes the result of moving some of the rest: bytes, or an `errno`.
    pub(super) fn advance(mut self, result: Result<usize, i32>) -> Step {
        match result {
            Ok(0) => {
                let error = match self.op.kind {
                    DiskKind::Read => DiskError::Short,
                    DiskKind::Write => DiskError::Errno(libc::EIO),
                };
                Step::Done(self.end(Err(error)))
            }
            Ok(count) => {
                self.done += count;
                assert!(self.done <= self.op.len, "no more is moved than was asked");
                self.judge()
            }
            Err(libc::EINTR | libc::EAGAIN) if self.retries < DISK_RETRIES_MAX => {
                self.retries += 1;
                Step::Again(self)
            }
            Err(libc::EINVAL | libc::EOPNOTSUPP) if self.past_cache => {
                self.may_go_past = false;
                Step::Again(self)
            }
            Err(errno) => Step::Done(self.end(Err(disk_error(errno)))),
        }
    }

    fn judge(self) -> Step {
        if self.done == self.op.len {
            Step::Done(self.end(Ok(())))
        } else {
            Step::Again(self)
        }
    }

    fn end(self, result: Result<(), DiskError>) -> DiskDone {
        DiskDone {
            tag: self.op.tag,
            kind: self.op.kind,
            block: self.op.block,
            result,
        }
    }
}

/// Does an operation with plain system calls, on this thread.
pub(super) fn perform(file: &File, op: DiskOp) -> DiskDone {
    let mut step = Run::start(op);
    loop {
        match step {
            Step::Done(done) => return done,
            Step::Again(mut run) => {
                let (rest, offset) = (run.rest(), run.offset());
                let result = match run.op.kind {
                    DiskKind::Read => file.read_at(&mut run.op.block[rest], offset),
                    DiskKind::Write => file.write_at(&run.op.block[rest], offset),
                };
                step = run.advance(result.map_err(|e| e.raw_os_error().unwrap_or(libc::EIO)));
            }
        }
    }
}

/// Sorts an `errno` into what a machine can act on.
fn disk_error(errno: i32) -> DiskError {
    match errno {
        libc::ENOSPC | libc::EDQUOT => DiskError::Full,
        other => DiskError::Errno(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Block;
    use crate::machine::FileId;

    fn op(kind: DiskKind, len: usize) -> DiskOp {
        DiskOp {
            tag: 7,
            kind,
            file: FileId(0),
            offset: 100,
            len,
            block: Block::new(vec![0_u8; 64]),
        }
    }

    fn again(step: Step) -> Run {
        match step {
            Step::Again(run) => run,
            Step::Done(done) => panic!("ended: {done:?}"),
        }
    }

    fn done(step: Step) -> Result<(), DiskError> {
        match step {
            Step::Again(run) => panic!("goes on: {run:?}"),
            Step::Done(done) => done.result,
        }
    }

    #[test]
    fn a_short_move_is_continued_where_it_stopped() {
        let run = again(Run::start(op(DiskKind::Write, 10)));
        assert_eq!((run.rest(), run.offset()), (0..10, 100));
        let run = again(run.advance(Ok(4)));
        assert_eq!((run.rest(), run.offset()), (4..10, 104));
        assert_eq!(done(run.advance(Ok(6))), Ok(()));
        assert_eq!(done(Run::start(op(DiskKind::Read, 0))), Ok(()));
    }

    #[test]
    fn the_end_of_the_file_and_errors_are_told_apart() {
        let end = |kind, result| done(again(Run::start(op(kind, 10))).advance(result));
        assert_eq!(end(DiskKind::Read, Ok(0)), Err(DiskError::Short));
        assert_eq!(
            end(DiskKind::Write, Ok(0)),
            Err(DiskError::Errno(libc::EIO))
        );
        assert_eq!(
            end(DiskKind::Write, Err(libc::ENOSPC)),
            Err(DiskError::Full)
        );
        assert_eq!(
            end(DiskKind::Write, Err(libc::EDQUOT)),
            Err(DiskError::Full)
        );
        let errno = Err(DiskError::Errno(libc::EBADF));
        assert_eq!(end(DiskKind::Read, Err(libc::EBADF)), errno);
    }

    #[test]
    fn a_read_past_the_cache_that_is_refused_goes_through_it() {
        let mut run = again(Run::start(op(DiskKind::Read, 10)));
        run.past_cache = true;
        let mut run = again(run.advance(Err(libc::EINVAL)));
        assert!(!run.may_go_past);
        run.past_cache = false;
        let errno = Err(DiskError::Errno(libc::EINVAL));
        assert_eq!(done(run.advance(Err(libc::EINVAL))), errno);
    }

    #[test]
    fn interruptions_are_retried_so_often_and_no_more() {
        let mut run = again(Run::start(op(DiskKind::Read, 10)));
        for _ in 0..DISK_RETRIES_MAX {
            run = again(run.advance(Err(libc::EINTR)));
        }
        let errno = Err(DiskError::Errno(libc::EINTR));
        assert_eq!(done(run.advance(Err(libc::EINTR))), errno);
    }
}
