//! Memory that payload lives in: one mapping, cut into equal page-aligned blocks.
//!
//! ```text
//!   the mapping     | block 0 | block 1 | … | block n-1 |     each starts on a page
//!   free list       indices of the blocks that nobody owns
//! ```
//!
//! Invariant: an index is either in the free list or in exactly one [`Block`]; so the bytes of a
//! block have one owner at a time. The mapping lives until the last handle and the last block are
//! gone. A block's address never changes, which is what lets the kernel write to it.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::error::{Error, ErrorKind, Result};
use crate::base::{Block, BlockMemory, Blocks};

/// The most blocks of an arena: what a ring can register.
pub const BLOCKS_MAX: usize = 1 << 14;

/// A bounded pool of equal blocks in one mapping; clones share it.
#[derive(Clone)]
pub struct Arena(Arc<Mapping>);

impl Arena {
    /// Maps `count` blocks of `block_size` bytes, 1 to [`BLOCKS_MAX`] of them.
    ///
    /// # Errors
    /// When the sizes are out of range or the memory cannot be had.
    pub fn new(block_size: usize, count: usize) -> Result<Self> {
        let page = page_size();
        let stride = block_size.checked_next_multiple_of(page);
        let length = stride.and_then(|stride| stride.checked_mul(count));
        let (Some(stride), Some(length)) = (stride, length) else {
            return Err(Error::new(ErrorKind::Memory, "The arena is too large"));
        };
        let Ok(count) = u16::try_from(count.min(BLOCKS_MAX + 1)) else {
            return Err(Error::new(ErrorKind::Memory, "The arena is too large"));
        };
        if length == 0 || usize::from(count) > BLOCKS_MAX {
            let context = format!("An arena needs 1 to {BLOCKS_MAX} blocks of some size");
            return Err(Error::new(ErrorKind::Memory, context));
        }
        let base = map(length)
            .map_err(|e| Error::os(ErrorKind::Memory, format!("Cannot map {length} bytes"), e))?;
        Ok(Self(Arc::new(Mapping {
            base,
            length,
            stride,
            block_size,
            count,
            free: Mutex::new((0..count).rev().collect()),
        })))
    }

    /// How many blocks the arena has.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::from(self.0.count)
    }

    /// How many blocks are free now.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.0.free().len()
    }

    /// The index of a block, if it comes from this arena.
    #[must_use]
    pub fn index_of(&self, block: &Block) -> Option<u16> {
        let index = block.registered_index()?;
        let expected = self.0.address(index)?;
        std::ptr::eq(block.as_ptr(), expected.as_ptr()).then_some(index)
    }

    /// The address and length of every block, in order of index, as the kernel registers them.
    pub(super) fn regions(&self) -> impl Iterator<Item = libc::iovec> + '_ {
        (0..=u16::MAX)
            .map_while(|index| self.0.address(index))
            .map(|address| libc::iovec {
                iov_base: address.as_ptr().cast(),
                iov_len: self.0.block_size,
            })
    }
}

impl Arena {
    /// The address and length of all blocks as one region.
    pub(super) fn whole(&self) -> libc::iovec {
        libc::iovec {
            iov_base: self.0.base.as_ptr().cast(),
            iov_len: self.0.length,
        }
    }
}

impl Blocks for Arena {
    fn take(&mut self) -> Option<Block> {
        let index = self.0.free().pop()?;
        Some(Block::new(ArenaBlock {
            mapping: Arc::clone(&self.0),
            index,
        }))
    }

    fn block_size(&self) -> usize {
        self.0.block_size
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Arena({} of {} blocks of {} bytes free)",
            self.free_count(),
            self.count(),
            self.0.block_size
        )
    }
}

/// The mapping and who owns its parts.
struct Mapping {
    base: NonNull<u8>,
    length: usize,
    stride: usize,
    block_size: usize,
    count: u16,
    /// The block that came back last is lent first: a cache may still hold it.
    free: Mutex<Vec<u16>>,
}

impl Mapping {
    fn free(&self) -> MutexGuard<'_, Vec<u16>> {
        self.free
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
    }

    /// Where a block starts; `None` past the last block.
    fn address(&self, index: u16) -> Option<NonNull<u8>> {
        if index >= self.count {
            return None;
        }
        // SAFETY: index < count, and `Arena::new` mapped count * stride bytes from `base`.
        Some(unsafe { self.base.add(usize::from(index) * self.stride) })
    }
}

// SAFETY: the mapping is plain memory without ties to a thread; the free list hands each part to
// one owner at a time.
unsafe impl Send for Mapping {}
// SAFETY: shared access reaches only immutable fields and the list under its lock; the bytes are
// reached through `ArenaBlock`, of which there is one per index (kept by the free list).
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `map` made exactly this mapping; every block holds an Arc to it, so none is left.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok(), "the mapping is ours");
    }
}

/// One block that somebody owns.
struct ArenaBlock {
    mapping: Arc<Mapping>,
    index: u16,
}

impl ArenaBlock {
    fn address(&self) -> NonNull<u8> {
        self.mapping
            .address(self.index)
            .expect("an index from the free list is in range")
    }
}

impl BlockMemory for ArenaBlock {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped and initialised (anonymous pages are zero), and this block is
        // its only owner (kept by the free list).
        unsafe { std::slice::from_raw_parts(self.address().as_ptr(), self.mapping.block_size) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.address().as_ptr(), self.mapping.block_size) }
    }

    fn registered_index(&self) -> Option<u16> {
        Some(self.index)
    }
}

impl Drop for ArenaBlock {
    fn drop(&mut self) {
        let mut free = self.mapping.free();
        debug_assert!(!free.contains(&self.index), "an index is lent once");
        free.push(self.index);
    }
}

fn page_size() -> usize {
    // SAFETY: sysconf only reads.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).expect("a system has a page size")
}

/// Maps anonymous memory, in huge pages where the kernel has them: a ring pins the arena page by
/// page when it registers it.
fn map(length: usize) -> rustix::io::Result<NonNull<u8>> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a null hint lets the kernel choose a free range, so no memory in use is replaced.
    let address = unsafe {
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), length, protection, MapFlags::PRIVATE)
    }?;
    // SAFETY: the range is the mapping just made; the advice changes no content. It may be refused.
    let _ = unsafe { rustix::mm::madvise(address, length, Advice::LinuxHugepage) };
    NonNull::new(address.cast()).ok_or(rustix::io::Errno::NOMEM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn lends_each_block_once_and_takes_it_back() {
        let mut arena = Arena::new(5000, 3).unwrap();
        let blocks: Vec<Block> = std::iter::from_fn(|| arena.take()).collect();
        let indices: BTreeSet<_> = blocks.iter().map(|b| arena.index_of(b).unwrap()).collect();
        assert_eq!(indices.len(), 3);
        assert!(arena.take().is_none());
        for block in &blocks {
            assert_eq!(block.len(), 5000);
            assert_eq!(block.as_ptr() as usize % page_size(), 0);
        }
        drop(blocks);
        assert_eq!(arena.free_count(), 3);
    }

    #[test]
    fn blocks_do_not_overlap() {
        let mut arena = Arena::new(4096, 2).unwrap();
        let mut first = arena.take().unwrap();
        let mut second = arena.take().unwrap();
        first.fill(1);
        second.fill(2);
        assert!(first.iter().all(|&byte| byte == 1));
    }

    #[test]
    fn a_block_outlives_its_arena_and_another_arena_does_not_know_it() {
        let mut arena = Arena::new(4096, 1).unwrap();
        let other = Arena::new(4096, 1).unwrap();
        let mut block = arena.take().unwrap();
        assert_eq!(other.index_of(&block), None);
        drop(arena);
        block.fill(7);
        assert_eq!(block[4095], 7);
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        assert!(Arena::new(0, 1).is_err());
        assert!(Arena::new(1, 0).is_err());
        assert!(Arena::new(1, BLOCKS_MAX).is_ok());
        assert!(Arena::new(1, BLOCKS_MAX + 1).is_err());
        assert!(Arena::new(usize::MAX, 2).is_err());
    }

    #[test]
    fn threads_share_the_pool() {
        let arena = Arena::new(64, 8).unwrap();
        std::thread::scope(|scope| {
            for id in 0..4_u8 {
                let mut arena = arena.clone();
                scope.spawn(move || {
                    for _ in 0..1000 {
                        if let Some(mut block) = arena.take() {
                            block.fill(id);
                            assert!(block.iter().all(|&byte| byte == id));
                        }
                    }
                });
            }
        });
        assert_eq!(arena.free_count(), 8);
    }
}
