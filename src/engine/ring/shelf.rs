//! The ring through which the kernel takes free buffers by itself: a group of them.
//!
//! Invariant: the kernel reads an entry only once the tail has passed it.

use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::base::{Block, Blocks};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::pool::Arena;

pub(super) struct Shelf {
    /// The entries, from the start of this block. The kernel reads it, and both sides use the tail
    /// that overlays the first entry.
    entries: Block,
    /// A power of two.
    count: u16,
    tail: u16,
}

impl Shelf {
    /// Registers an empty shelf with room for `count` buffers, a power of two, as `group`.
    pub(super) fn register(submitter: &Submitter<'_>, group: u16, count: u16) -> Result<Self> {
        assert!(count.is_power_of_two(), "the kernel counts with a mask");
        let entries_bytes = usize::from(count) * size_of::<BufRingEntry>();
        let entries = Arena::new(entries_bytes, 1)?
            .take()
            .expect("a new arena lends its blocks");
        let address = entries.as_ptr() as u64;
        // SAFETY: the block is page-aligned, has room for every entry, and is freed after the ring
        // (`Ring` drops its io_uring first) or never (`park`).
        unsafe { submitter.register_buf_ring_with_flags(address, count, group, 0) }
            .map_err(|e| Error::os(ErrorKind::Ring, "Cannot register receive buffers", e))?;
        let tail = 0;
        Ok(Self {
            entries,
            count,
            tail,
        })
    }

    /// Hands a buffer to the kernel under a number; the caller leaves it alone until the kernel
    /// names that number.
    pub(super) fn put(&mut self, block: &mut Block, id: u16) {
        let base: *mut BufRingEntry = self.entries.as_mut_ptr().cast();
        let at = usize::from(self.tail % self.count);
        // SAFETY: at < count, and the block has room for that many entries.
        let slot = unsafe { base.add(at) };
        // SAFETY: the slot is in the block, aligned, initialised (zeroed memory), and the kernel
        // reads it only after the tail below has passed it.
        let entry = unsafe { &mut *slot };
        entry.set_addr(block.as_mut_ptr() as u64);
        entry.set_len(u32::try_from(block.len()).expect("a receive buffer is small"));
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `base` is the first entry of a registered ring, as this asks for.
        let shared = unsafe { BufRingEntry::tail(base) };
        // SAFETY: the tail lies in our block, aligned for u16, and is only touched atomically.
        let shared = unsafe { AtomicU16::from_ptr(shared.cast_mut()) };
        shared.store(self.tail, Ordering::Release);
    }

    /// Keeps the entries for ever: the kernel may still read them.
    pub(super) fn park(&mut self) {
        let none = Block::new(Vec::new());
        std::mem::forget(std::mem::replace(&mut self.entries, none));
    }
}
