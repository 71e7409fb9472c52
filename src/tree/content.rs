//! Reading content back and hashing it, by chunks that any thread may take.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::Advice;

use crate::image::Hash;
use crate::image::hash::{CHUNK_BYTES, PartHasher, merge};

/// A file or device, and where in it there are data; what is not data is taken for zeros unread.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// What is read.
    pub file: &'a File,
    /// How many bytes of it.
    pub size: u64,
    /// Its data ranges: ascending, apart, within the size.
    pub data: &'a [Range<u64>],
}

impl Content<'_> {
    /// Hashes everything in this thread, with a buffer that is used again for every file.
    ///
    /// # Errors
    /// If it cannot be read, or ends early.
    pub fn hash(&self, buffer: &mut Vec<u8>) -> io::Result<Hash> {
        let mut values = Vec::new();
        for chunk in 0..self.chunk_count() {
            values.push(self.chunk_value(chunk, buffer)?);
        }
        Ok(merge(&values))
    }

    /// Hashes everything in `threads` threads; each calls `progress` with the bytes that it did.
    ///
    /// # Errors
    /// If it cannot be read, or ends early.
    pub fn hash_in_parallel(
        &self,
        threads: usize,
        progress: &(impl Fn(u64) + Sync),
    ) -> io::Result<Hash> {
        let next = AtomicU64::new(0);
        let work = || -> io::Result<Vec<(u64, Hash)>> {
            let (mut values, mut buffer) = (Vec::new(), Vec::new());
            loop {
                let first = next.fetch_add(CHUNKS_AT_ONCE, Ordering::Relaxed);
                let chunks = first..(first + CHUNKS_AT_ONCE).min(self.chunk_count());
                if chunks.is_empty() {
                    return Ok(values);
                }
                for chunk in chunks {
                    values.push((chunk, self.chunk_value(chunk, &mut buffer)?));
                    progress(CHUNK_BYTES.min(self.size - chunk * CHUNK_BYTES));
                }
            }
        };
        let mut values = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let mut values = Vec::new();
            for worker in workers {
                let part = worker
                    .join()
                    .map_err(|_| io::Error::other("a thread died"))?;
                values.extend(part?);
            }
            io::Result::Ok(values)
        })?;
        values.sort_unstable_by_key(|&(chunk, _)| chunk);
        Ok(merge(
            &values
                .into_iter()
                .map(|(_, value)| value)
                .collect::<Vec<_>>(),
        ))
    }

    /// Makes the next reads come from the disk, as [`forget_cache`] does.
    pub fn forget_cache(&self) {
        forget_cache(self.file);
    }

    const fn chunk_count(&self) -> u64 {
        self.size.div_ceil(CHUNK_BYTES)
    }

    fn chunk_value(&self, chunk: u64, buffer: &mut Vec<u8>) -> io::Result<Hash> {
        let start = chunk * CHUNK_BYTES;
        let end = (start + CHUNK_BYTES).min(self.size);
        let mut hasher = PartHasher::new(self.size, CHUNK_BYTES, start);
        let mut at = start;
        let first = self.data.partition_point(|range| range.end <= start);
        for range in self.data[first..]
            .iter()
            .take_while(|range| range.start < end)
        {
            let (from, to) = (range.start.max(start), range.end.min(end));
            hasher.zeros(from - at);
            #[expect(clippy::cast_possible_truncation, reason = "at most a chunk")]
            buffer.resize((to - from) as usize, 0);
            self.file.read_exact_at(buffer, from)?;
            hasher.update(buffer);
            at = to;
        }
        Ok(hasher.zeros(end - at).finish())
    }
}

/// Makes the next reads of a file come from the disk, as far as the kernel lets us: what was not
/// written back yet stays in memory.
pub fn forget_cache(file: &File) {
    // Only advice: where it is not taken, the cache answers.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
}

/// Has the disk begin to write `len` bytes of a file from `offset` on, without waiting for them: else
/// the kernel keeps them in memory for half a minute, and the sync at the end takes the longer.
/// What is on the disk already leaves the cache.
pub fn begin_write_back(file: &File, offset: u64, len: u64) {
    // Only advice: where it is not taken, the sync brings all to the disk.
    let _ = rustix::fs::fadvise(file, offset, NonZeroU64::new(len), Advice::DontNeed);
}

/// Long enough runs for the disk to read ahead.
const CHUNKS_AT_ONCE: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_hash_as_zeros_in_any_number_of_threads() {
        let file = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; (20 << 20) + 77];
        let data = [
            5..9,
            (1 << 20) - 3..(3 << 20) + 1,
            (20 << 20)..(20 << 20) + 77,
        ];
        for range in &data {
            #[expect(clippy::cast_possible_truncation, reason = "64-bit test")]
            bytes[range.start as usize..range.end as usize].fill(7);
        }
        file.write_all_at(&bytes, 0).unwrap();
        let content = Content {
            file: &file,
            size: bytes.len() as u64,
            data: &data,
        };
        assert_eq!(content.hash(&mut Vec::new()).unwrap(), Hash::of(&bytes));
        let done = AtomicU64::new(0);
        let progress = |bytes| {
            done.fetch_add(bytes, Ordering::Relaxed);
        };
        assert_eq!(
            content.hash_in_parallel(3, &progress).unwrap(),
            Hash::of(&bytes)
        );
        assert_eq!(done.into_inner(), content.size);
        let empty = Content {
            size: 0,
            data: &[],
            ..content
        };
        assert_eq!(empty.hash_in_parallel(2, &|_| {}).unwrap(), Hash::of(b""));
    }
}
