//! The buffers that the kernel fills with what comes in, and the ring through which it gets them.
//!
//! ```text
//!   buffer   | header 16 | address 28 | ancillary data 48 | datagrams end to end … |
//! ```
//!
//! Invariant: a buffer is either the kernel's (its entry is in the ring) or named by exactly one
//! [`Buffer`]; only the owner of that reads it. `taken` and `give` keep it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{Submitter, opcode, squeue};

use crate::base::{Block, Blocks};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::limits::{RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS};
use crate::engine::net::sys::{CONTROL_BYTES, Controls, NAME_BYTES, decode_address};
use crate::engine::pool::Arena;

pub(super) struct ReceiveBuffers {
    blocks: Vec<Block>,
    /// The ring's entries: `RECEIVE_BUFFERS` of them from the start of this block. The kernel reads
    /// it, and both sides use the tail that overlays the first entry.
    entries: Block,
    /// What a receive looks like: room for an address and ancillary data.
    shape: Box<libc::msghdr>,
    tail: u16,
    /// Which buffers are ours at the moment.
    ours: Vec<bool>,
}

/// A buffer that holds a message.
#[derive(Debug)]
pub(in crate::engine) struct Buffer(u16);

/// A message that came in.
pub(in crate::engine) struct Message<'a> {
    pub(in crate::engine) from: SocketAddr,
    pub(in crate::engine) controls: Controls,
    pub(in crate::engine) bytes: &'a mut [u8],
}

impl ReceiveBuffers {
    /// Makes the buffers and hands all of them to the kernel.
    pub(super) fn register(submitter: &Submitter<'_>) -> Result<Self> {
        const { assert!(RECEIVE_BUFFERS.is_power_of_two()) };
        let mut arena = Arena::new(RECEIVE_BUFFER_BYTES, usize::from(RECEIVE_BUFFERS))?;
        let entries_bytes = usize::from(RECEIVE_BUFFERS) * size_of::<BufRingEntry>();
        let entries = Arena::new(entries_bytes, 1)?
            .take()
            .expect("a new arena lends its blocks");
        // SAFETY: all-zero bytes are a valid msghdr (null pointers, zero lengths).
        let mut shape: libc::msghdr = unsafe { std::mem::zeroed() };
        shape.msg_namelen = u32::try_from(NAME_BYTES).expect("an address is short");
        shape.msg_controllen = CONTROL_BYTES;
        let mut buffers = Self {
            blocks: std::iter::from_fn(|| arena.take()).collect(),
            entries,
            shape: Box::new(shape),
            tail: 0,
            ours: vec![true; usize::from(RECEIVE_BUFFERS)],
        };
        let address = buffers.entries.as_ptr() as u64;
        // SAFETY: the block is page-aligned, has room for every entry, and is freed after the ring
        // (`Ring` drops its io_uring first) or never (`park`).
        unsafe { submitter.register_buf_ring_with_flags(address, RECEIVE_BUFFERS, GROUP, 0) }
            .map_err(|e| Error::os(ErrorKind::Ring, "Cannot register receive buffers", e))?;
        for id in 0..RECEIVE_BUFFERS {
            buffers.give(Buffer(id));
        }
        Ok(buffers)
    }

    /// The standing order to receive on `fd` into these buffers.
    pub(super) fn receive_entry(&self, fd: Fd) -> squeue::Entry {
        opcode::RecvMsgMulti::new(fd, &raw const *self.shape, GROUP).build()
    }

    /// Takes a buffer that the kernel has filled.
    pub(super) fn taken(&mut self, id: u16) -> Buffer {
        let ours = &mut self.ours[usize::from(id)];
        assert!(!*ours, "the kernel fills only what it was given");
        *ours = true;
        Buffer(id)
    }

    /// Gives a buffer to the kernel.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "whoever gives a buffer has it no more"
    )]
    pub(super) fn give(&mut self, buffer: Buffer) {
        let Buffer(id) = buffer;
        let ours = &mut self.ours[usize::from(id)];
        assert!(*ours, "a buffer is given once");
        *ours = false;
        let block = &mut self.blocks[usize::from(id)];
        let (address, len) = (block.as_mut_ptr() as u64, RECEIVE_BUFFER_BYTES);
        let base: *mut BufRingEntry = self.entries.as_mut_ptr().cast();
        let at = usize::from(self.tail % RECEIVE_BUFFERS);
        // SAFETY: at < RECEIVE_BUFFERS, and the block has room for that many entries.
        let slot = unsafe { base.add(at) };
        // SAFETY: the slot is in the block, aligned, initialised (zeroed memory), and the kernel
        // reads it only after the tail below has passed it.
        let entry = unsafe { &mut *slot };
        entry.set_addr(address);
        entry.set_len(u32::try_from(len).expect("a receive buffer is small"));
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `base` is the first entry of a registered ring, as this asks for.
        let tail = unsafe { BufRingEntry::tail(base) };
        // SAFETY: the tail lies in our block, aligned for u16, and is only touched atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Reads the message of `len` bytes, headers included, in a buffer of ours.
    pub(super) fn message(&mut self, buffer: &Buffer, len: usize) -> Option<Message<'_>> {
        let block = &mut self.blocks[usize::from(buffer.0)];
        let (header, rest) = block.get_mut(..len)?.split_at_mut_checked(HEADER_BYTES)?;
        let field = |at: usize| {
            let bytes = header[at..at + 4].try_into();
            u32::from_ne_bytes(bytes.expect("four bytes are four bytes")) as usize
        };
        let (name_len, control_len, payload_len) = (field(0), field(4), field(8));
        let flags = field(12);
        let (name, rest) = rest.split_at_mut_checked(NAME_BYTES)?;
        let (control, payload) = rest.split_at_mut_checked(CONTROL_BYTES)?;
        let truncated = usize::try_from(libc::MSG_TRUNC).expect("a flag is positive");
        if flags & truncated != 0 {
            return None;
        }
        Some(Message {
            from: decode_address(&name[..name_len.min(NAME_BYTES)])?,
            controls: Controls::parse(&control[..control_len.min(CONTROL_BYTES)]),
            bytes: payload.get_mut(..payload_len)?,
        })
    }

    /// Keeps the memory for ever: the kernel may still write to it.
    pub(super) fn park(&mut self) {
        std::mem::forget(std::mem::take(&mut self.blocks));
        let entries = std::mem::replace(&mut self.entries, Block::new(Vec::new()));
        std::mem::forget(entries);
    }
}

/// The id of the one group of buffers.
const GROUP: u16 = 0;
/// `struct io_uring_recvmsg_out`: four u32, lengths of address, ancillary data, payload, and flags.
const HEADER_BYTES: usize = 16;
