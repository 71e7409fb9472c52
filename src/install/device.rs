//! A disk or partition, restored onto a device or into a sparse file.
//!
//! Holes of the image become zeros without being written: a plain file is cut to nothing and grown
//! again; on a device the ranges are discarded in the way that guarantees zeros, or written as
//! zeros where the device cannot do it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::plan::bytes_of;
use super::{Error, Options, Refusal, Result, Sink};
use crate::base::event::{Event, Events};
use crate::image::{EntryKind, Extent, Hash, Kind, Manifest};
use crate::tree::{self, Change, Content, Difference};

/// A device or plain file that becomes the image.
pub(super) struct DeviceSink {
    file: File,
    path: PathBuf,
    is_device: bool,
    size: u64,
    hash: Hash,
    /// The holes, in steps of at most [`HOLE_STEP_BYTES`].
    holes: Vec<Range<u64>>,
    /// Per frame the position of its first extent.
    first_extents: Vec<u32>,
    extents: Vec<Extent>,
    readers: usize,
    events: Events,
}

/// One step of clearing.
const HOLE_STEP_BYTES: u64 = 1 << 30;
/// How many bytes of zeros are written at once.
const ZEROS_BYTES: usize = 1 << 20;

impl DeviceSink {
    /// Opens the target; refuses it before the first write if it does not fit.
    pub(super) fn start(manifest: &Manifest, path: &Path, options: &Options) -> Result<Self> {
        let not_a_disk = Err(Error::WrongTarget(
            "The image is no disk; it needs a directory",
        ));
        let (Kind::Disk, EntryKind::File { size, hash, data }) =
            (manifest.kind, &manifest.entries[0].kind)
        else {
            return not_a_disk;
        };
        let (file, is_device) = open(path)?;
        if is_device {
            let has = rustix::fs::seek(&file, SeekFrom::End(0))
                .map_err(|errno| target_error("measure", path, errno))?;
            if has < *size {
                let path = path.to_owned();
                return Err(Error::TooSmall {
                    path,
                    has,
                    needs: *size,
                });
            }
        } else {
            let sized = file.set_len(0).and_then(|()| file.set_len(*size));
            sized.map_err(|error| target_error("size", path, error))?;
        }
        let data: Vec<Range<u64>> = match data {
            Some(data) => data.to_vec(),
            None => std::iter::once(0..*size).collect(),
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            is_device,
            size: *size,
            hash: *hash,
            holes: if is_device {
                holes(&data, *size)
            } else {
                Vec::new()
            },
            first_extents: super::plan::first_extents(manifest),
            extents: manifest.extents.clone(),
            readers: super::readers(options),
            events: options.events.clone(),
        })
    }

    fn error(&self, action: &'static str, source: impl Into<io::Error>) -> Error {
        target_error(action, &self.path, source)
    }

    fn clear(&self, hole: Range<u64>) -> io::Result<()> {
        let len = hole.end - hole.start;
        for flags in [
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        ] {
            match rustix::fs::fallocate(&self.file, flags, hole.start, len) {
                Ok(()) => return Ok(()),
                // Not known, or not for ranges that are cut within the device's blocks.
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NODEV) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let zeros = vec![0; ZEROS_BYTES];
        let mut at = hole.start;
        while at < hole.end {
            let step = (hole.end - at).min(ZEROS_BYTES as u64);
            #[expect(clippy::cast_possible_truncation, reason = "at most the buffer's size")]
            self.file.write_all_at(&zeros[..step as usize], at)?;
            at += step;
        }
        Ok(())
    }
}

impl Sink for DeviceSink {
    fn write_frame(&self, frame: u32, content: &[u8]) -> Result {
        let firsts = &self.first_extents[frame as usize..][..2];
        for extent in &self.extents[firsts[0] as usize..firsts[1] as usize] {
            self.file
                .write_all_at(bytes_of(*extent, content), extent.file_offset)
                .map_err(|error| self.error("write", error))?;
            tree::begin_write_back(&self.file, extent.file_offset, u64::from(extent.len));
        }
        Ok(())
    }

    fn loose_count(&self) -> usize {
        self.holes.len()
    }

    fn do_loose(&self, index: usize) -> Result {
        self.clear(self.holes[index].clone())
            .map_err(|error| self.error("clear", error))
    }

    fn complete(&self) -> Result {
        self.file
            .sync_all()
            .map_err(|error| self.error("sync", error))
    }

    fn verify(&self) -> Result<u64> {
        let found;
        // A device is read in full, holes too; a file says itself where it has data.
        let whole = std::iter::once(0..self.size).collect::<Vec<_>>();
        let data = if self.is_device {
            &whole
        } else {
            found = crate::tree::data_ranges(&self.file, self.size)
                .map_err(|error| self.error("read back", error))?;
            &found
        };
        let content = Content {
            file: &self.file,
            size: self.size,
            data,
        };
        content.forget_cache();
        let done = std::sync::atomic::AtomicU64::new(0);
        let progress = |bytes| {
            let before = done.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
            if before >> 26 != (before + bytes) >> 26 {
                self.events.raise(Event::Progress {
                    bytes_done: (before + bytes).min(self.size),
                    bytes_total: self.size,
                });
            }
        };
        let hash = content
            .hash_in_parallel(self.readers, &progress)
            .map_err(|error| self.error("read back", error))?;
        if hash == self.hash {
            return Ok(self.size);
        }
        let first = Difference {
            path: Box::default(),
            change: Change::Content,
        };
        let all = vec![first.clone()];
        Err(Error::Differs {
            count: 1,
            first,
            all,
        })
    }

    fn seal(&self) -> Result<Vec<Refusal>> {
        Ok(Vec::new())
    }
}

/// Opens a device that nobody else uses, or a plain file, which is made if it is not there.
fn open(path: &Path) -> Result<(File, bool)> {
    let is_device = match std::fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_block_device() => true,
        Ok(metadata) if metadata.is_file() => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(target_error("open", path, error)),
        Ok(_) => {
            return Err(Error::WrongTarget(
                "The target is neither a block device nor a file",
            ));
        }
    };
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    // On a device, `O_EXCL` asks the kernel whether it is mounted or part of something bigger.
    let more = if is_device {
        OFlags::EXCL
    } else {
        OFlags::CREATE
    };
    match rustix::fs::open(path, flags | more, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => Ok((File::from(fd), is_device)),
        Err(Errno::BUSY) => Err(Error::InUse(path.to_owned())),
        Err(errno) => Err(target_error("open", path, errno)),
    }
}

/// What is not data, in steps.
fn holes(data: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    let mut holes = Vec::new();
    let mut at = 0;
    for range in data.iter().cloned().chain(std::iter::once(size..size)) {
        while at < range.start {
            let end = range.start.min(at + HOLE_STEP_BYTES);
            holes.push(at..end);
            at = end;
        }
        at = range.end;
    }
    holes
}

fn target_error(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Error {
    Error::Target {
        action,
        path: path.to_owned(),
        source: source.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_what_is_left_of_data() {
        assert_eq!(holes(&[], 10), vec![0..10]);
        assert_eq!(holes(&[0..4, 6..8], 10), [4..6, 8..10]);
        assert_eq!(holes(&[0..10, 10..10], 10), []);
        assert_eq!(holes(&[], HOLE_STEP_BYTES + 1).len(), 2);
    }
}
