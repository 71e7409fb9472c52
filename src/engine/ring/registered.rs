//! The memory that the kernel knows by index, so that it need not look up and pin its pages for
//! each operation.
//!
//! ```text
//!   index   | 0: all staging slots | 1: block 0 | 2: block 1 | … |     or without the slots
//! ```
//!
//! The slots are for sends without a copy: the card reads them where they are. The kernel answers
//! such a send twice: how it went, and later that it no longer reads the slot.

use std::io;

use io_uring::types::Fd;
use io_uring::{Submitter, opcode, squeue};

use crate::base::Block;
use crate::engine::error::Result;
use crate::engine::limits::{SEND_SLOT_BYTES, SEND_SLOTS};
use crate::engine::pool::Arena;

pub(super) struct Registered {
    /// Where staging slots come from, registered or not.
    pub(super) staging: Arena,
    /// Whether they are.
    pub(super) has_staging: bool,
    /// The arena, if its blocks are.
    arena: Option<Arena>,
    /// Why it is not, if it was given.
    pub(super) refused_because: Option<io::Error>,
}

impl Registered {
    /// Makes staging slots; nothing is registered yet.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            staging: Arena::new(SEND_SLOT_BYTES, SEND_SLOTS)?,
            has_staging: false,
            arena: None,
            refused_because: None,
        })
    }

    /// Registers the arena, if there is one, and the staging slots, if wanted and if that does not
    /// keep the arena out.
    pub(super) fn register(
        &mut self,
        submitter: &Submitter<'_>,
        arena: Option<Arena>,
        with_staging: bool,
    ) {
        for has_staging in [with_staging, false] {
            let slots = has_staging.then(|| self.staging.whole());
            let blocks = arena.iter().flat_map(Arena::regions);
            let regions: Vec<libc::iovec> = slots.into_iter().chain(blocks).collect();
            if regions.is_empty() {
                return;
            }
            // SAFETY: the regions are mappings of arenas that are kept here, and so for longer than
            // the ring has them registered (`Ring` drops its io_uring first) or for ever (`park`).
            match unsafe { submitter.register_buffers(&regions) } {
                Ok(()) => {
                    (self.has_staging, self.arena) = (has_staging, arena);
                    self.refused_because = None;
                    return;
                }
                Err(e) => self.refused_because = arena.is_some().then_some(e),
            }
        }
    }

    /// The index of a block, if it is registered.
    pub(super) fn index_of(&self, block: &Block) -> Option<u16> {
        let index = self.arena.as_ref()?.index_of(block)?;
        Some(index + u16::from(self.has_staging))
    }

    /// Keeps the memory for ever: the kernel may still use it.
    pub(super) fn park(&mut self) {
        std::mem::forget(self.arena.take());
        std::mem::forget(self.staging.clone());
    }
}

/// Sends a message from a staging slot.
pub(super) fn send_entry(fd: Fd, header: *const libc::msghdr, is_zero_copy: bool) -> squeue::Entry {
    if !is_zero_copy {
        return opcode::SendMsg::new(fd, header).build();
    }
    // The index is 0 where none is set, which is that of the slots.
    opcode::SendMsgZc::new(fd, header)
        .ioprio(FIXED_BUFFER | REPORT_USAGE)
        .build()
}

/// `IORING_RECVSEND_FIXED_BUF`: the message lies in registered memory.
const FIXED_BUFFER: u16 = 1 << 2;
/// `IORING_SEND_ZC_REPORT_USAGE`: the kernel is to tell whether it had to copy.
pub(super) const REPORT_USAGE: u16 = 1 << 3;
/// `IORING_NOTIF_USAGE_ZC_COPIED`: it had to.
pub(super) const COPIED: u32 = 1 << 31;
