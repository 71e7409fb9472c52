//! The buffers that the kernel fills with what comes in, and how it gets them: through a ring that
//! it takes from by itself, or each named by the one order to receive that fills it.
//!
//! ```text
//!   buffer   | header 16 | address 28 | ancillary data 48 | datagrams end to end … |
//! ```
//!
//! Invariant: a buffer is free (its entry is in the ring, or it is in the list), or named by
//! exactly one [`Buffer`]; only the owner of that reads it. `taken`, `order` and `give` keep it.

use std::net::SocketAddr;

use io_uring::types::Fd;
use io_uring::{Submitter, opcode, squeue};

use super::shelf::Shelf;
use crate::base::{Block, Blocks};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::limits::{RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS};
use crate::engine::net::sys::{CONTROL_BYTES, Controls, NAME_BYTES, decode_address};
use crate::engine::pool::Arena;

pub(super) struct ReceiveBuffers {
    blocks: Vec<Block>,
    /// Which buffers are not free at the moment.
    ours: Vec<bool>,
    supply: Supply,
}

/// How free buffers come to the kernel.
enum Supply {
    /// Through a ring, for standing orders.
    Ring {
        shelf: Shelf,
        /// What a receive looks like: room for an address and ancillary data.
        shape: Box<libc::msghdr>,
    },
    /// Each by an order of its own.
    Orders {
        free: Vec<u16>,
        /// The header of the order for each buffer, which the kernel reads and writes.
        headers: Box<[OrderHeader]>,
    },
}

struct OrderHeader {
    header: libc::msghdr,
    range: libc::iovec,
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
        let mut shape = empty_header();
        shape.msg_namelen = u32::try_from(NAME_BYTES).expect("an address is short");
        shape.msg_controllen = CONTROL_BYTES;
        let supply = Supply::Ring {
            shelf: Shelf::register(submitter, GROUP, RECEIVE_BUFFERS)?,
            shape: Box::new(shape),
        };
        let mut buffers = Self::new(RECEIVE_BUFFERS, supply)?;
        for id in 0..RECEIVE_BUFFERS {
            buffers.give(Buffer(id));
        }
        Ok(buffers)
    }

    /// Makes buffers for orders that name theirs: one for each of the sockets, and one for the
    /// message that is being looked at.
    pub(super) fn named(sockets: usize) -> Result<Self> {
        let too_many = |_| Error::new(ErrorKind::Setup, "There are too many sockets");
        let count = u16::try_from(sockets + 1).map_err(too_many)?;
        let header = || OrderHeader {
            header: empty_header(),
            range: libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            },
        };
        let supply = Supply::Orders {
            free: Vec::with_capacity(usize::from(count)),
            headers: (0..count).map(|_| header()).collect(),
        };
        let mut buffers = Self::new(count, supply)?;
        for id in 0..count {
            buffers.give(Buffer(id));
        }
        Ok(buffers)
    }

    /// Makes buffers that are not free yet.
    fn new(count: u16, supply: Supply) -> Result<Self> {
        let mut arena = Arena::new(RECEIVE_BUFFER_BYTES, usize::from(count))?;
        Ok(Self {
            blocks: std::iter::from_fn(|| arena.take()).collect(),
            ours: vec![true; usize::from(count)],
            supply,
        })
    }

    /// Whether the kernel takes free buffers by itself.
    pub(super) fn are_registered(&self) -> bool {
        matches!(self.supply, Supply::Ring { .. })
    }

    /// The order to receive on `fd`: a standing one, or one for the buffer that comes with it.
    pub(super) fn order(&mut self, fd: Fd) -> (squeue::Entry, Option<Buffer>) {
        let (free, headers) = match &mut self.supply {
            Supply::Ring { shape, .. } => {
                let entry = opcode::RecvMsgMulti::new(fd, &raw const **shape, GROUP).build();
                return (entry, None);
            }
            Supply::Orders { free, headers } => (free, headers),
        };
        let id = free.pop().expect("there is a buffer for every socket");
        self.ours[usize::from(id)] = true;
        let (beside, payload) = self.blocks[usize::from(id)].split_at_mut(PAYLOAD_AT);
        let (name, control) = beside[HEADER_BYTES..].split_at_mut(NAME_BYTES);
        let OrderHeader { header, range } = &mut headers[usize::from(id)];
        range.iov_base = payload.as_mut_ptr().cast();
        range.iov_len = payload.len();
        header.msg_name = name.as_mut_ptr().cast();
        header.msg_namelen = u32::try_from(NAME_BYTES).expect("an address is short");
        header.msg_iov = &raw mut *range;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_BYTES;
        header.msg_flags = 0;
        let entry = opcode::RecvMsg::new(fd, &raw mut *header).build();
        (entry, Some(Buffer(id)))
    }

    /// Completes the buffer of an order of its own, so that it looks as one of a standing order;
    /// `payload_len` bytes came. Gives the length of all.
    pub(super) fn complete(&mut self, buffer: &Buffer, payload_len: usize) -> usize {
        let Supply::Orders { headers, .. } = &self.supply else {
            unreachable!("registered buffers are complete")
        };
        let header = &headers[usize::from(buffer.0)].header;
        let short = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let fields = [
            header.msg_namelen,
            short(header.msg_controllen),
            short(payload_len),
            header.msg_flags.cast_unsigned(),
        ];
        let head = &mut self.blocks[usize::from(buffer.0)][..HEADER_BYTES];
        for (bytes, field) in head.chunks_mut(4).zip(fields) {
            bytes.copy_from_slice(&field.to_ne_bytes());
        }
        PAYLOAD_AT + payload_len
    }

    /// Takes a buffer that the kernel has filled.
    pub(super) fn taken(&mut self, id: u16) -> Buffer {
        let ours = &mut self.ours[usize::from(id)];
        assert!(!*ours, "the kernel fills only what it was given");
        *ours = true;
        Buffer(id)
    }

    /// Frees a buffer.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "whoever gives a buffer has it no more"
    )]
    pub(super) fn give(&mut self, buffer: Buffer) {
        let Buffer(id) = buffer;
        let ours = &mut self.ours[usize::from(id)];
        assert!(*ours, "a buffer is given once");
        *ours = false;
        match &mut self.supply {
            Supply::Ring { shelf, .. } => shelf.put(&mut self.blocks[usize::from(id)], id),
            Supply::Orders { free, .. } => free.push(id),
        }
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
        let none = Supply::Orders {
            free: Vec::new(),
            headers: Box::default(),
        };
        std::mem::forget(std::mem::replace(&mut self.supply, none));
    }
}

fn empty_header() -> libc::msghdr {
    // SAFETY: all-zero bytes are a valid msghdr (null pointers, zero lengths).
    unsafe { std::mem::zeroed() }
}

/// The id of the one group of buffers.
const GROUP: u16 = 0;
/// `struct io_uring_recvmsg_out`: four u32, lengths of address, ancillary data, payload, and flags.
const HEADER_BYTES: usize = 16;
/// Where datagrams begin in a buffer.
const PAYLOAD_AT: usize = HEADER_BYTES + NAME_BYTES + CONTROL_BYTES;
