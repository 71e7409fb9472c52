//! Operations on TCP streams: accept, connect, receive, send.
//!
//! Received bytes lie in a group of buffers that all streams share, from the moment the first one
//! is received from; so memory does not grow with the number of streams. A kernel without such
//! groups is asked to say when bytes are there, and the driver takes them.

use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};

use io_uring::types::CancelBuilder;
use io_uring::{Submitter, cqueue, opcode};

use super::flights::Flight;
use super::registered::{COPIED, REPORT_USAGE};
use super::shelf::Shelf;
use super::{Completion, Ring, raw, result};
use crate::base::{Block, Blocks};
use crate::engine::error::Result;
use crate::engine::limits::{STREAM_BUFFER_BYTES, STREAM_BUFFERS};
use crate::engine::net::sys::{Gather, NAME_BYTES, encode_address};
use crate::engine::pool::Arena;
use crate::machine::StreamId;

type OsResult<T> = std::result::Result<T, i32>;

/// An operation on a stream that the kernel has, with the memory that it may touch. A slot is the
/// driver's name of a socket.
pub(in crate::engine) enum StreamFlight {
    Accept(Listening),
    /// The address is kept for the kernel to read.
    Connect(
        usize,
        #[expect(dead_code, reason = "only the kernel reads it")] Box<Name>,
    ),
    /// The order to receive, served from the stream buffers.
    Receive(usize),
    /// The order to say when bytes are there; it touches no memory.
    Poll(usize),
    Send {
        slot: usize,
        /// Whose slot it was when the send began: the kernel may read on after the slot's end.
        id: StreamId,
        gather: Box<Gather>,
        /// The kernel has said how it went, and reads on.
        is_said: bool,
        zero_copy: bool,
    },
}

type Name = [u8; NAME_BYTES];

/// Which listener of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Listening(pub(in crate::engine) usize);

/// What the kernel says about an operation on a stream.
pub(in crate::engine) enum StreamDone {
    /// Somebody connected, or the attempt failed.
    Accepted {
        listening: Listening,
        result: OsResult<OwnedFd>,
        /// Whether the order holds on; otherwise it is to be given again.
        more: bool,
    },
    /// A `connect` has ended.
    Connected(usize, OsResult<()>),
    /// Bytes came, or none is the end.
    Received {
        slot: usize,
        result: OsResult<Option<(StreamBuffer, usize)>>,
        /// Whether the order holds on; otherwise it is to be given again.
        more: bool,
    },
    /// Bytes are there to be taken, or the end.
    Readable(usize),
    /// How a send went; it was to be made without a copy, or not. Its gather comes with this if the
    /// kernel reads it no longer, otherwise with [`Self::Read`].
    Sent {
        slot: usize,
        result: OsResult<usize>,
        zero_copy: bool,
        /// How much of the gather is to be put back is for the driver to say.
        gather: SentGather,
    },
    /// The kernel reads no longer what it was to send without a copy.
    Read {
        slot: usize,
        id: StreamId,
        copied: bool,
        gather: Box<Gather>,
    },
}

/// The gather of a send whose result is known.
pub(in crate::engine) enum SentGather {
    /// It is over.
    Back(Box<Gather>),
    /// The kernel still reads it, in this flight.
    Kept(u64),
}

/// A buffer that holds bytes of a stream.
#[derive(Debug)]
pub(in crate::engine) struct StreamBuffer(u16);

/// The buffers that all streams of a ring receive into.
///
/// Invariant: as for datagrams, a buffer is the kernel's or named by one [`StreamBuffer`].
pub(super) struct StreamBuffers {
    shelf: Shelf,
    blocks: Vec<Block>,
    ours: Vec<bool>,
}

impl StreamBuffers {
    fn register(submitter: &Submitter<'_>) -> Result<Self> {
        let mut arena = Arena::new(STREAM_BUFFER_BYTES, usize::from(STREAM_BUFFERS))?;
        let mut buffers = Self {
            shelf: Shelf::register(submitter, GROUP, STREAM_BUFFERS)?,
            blocks: std::iter::from_fn(|| arena.take()).collect(),
            ours: vec![true; usize::from(STREAM_BUFFERS)],
        };
        for id in 0..STREAM_BUFFERS {
            buffers.give(id);
        }
        Ok(buffers)
    }

    fn taken(&mut self, id: u16) -> StreamBuffer {
        let ours = &mut self.ours[usize::from(id)];
        assert!(!*ours, "the kernel fills only what it was given");
        *ours = true;
        StreamBuffer(id)
    }

    fn give(&mut self, id: u16) {
        let ours = &mut self.ours[usize::from(id)];
        assert!(*ours, "a buffer is given once");
        *ours = false;
        self.shelf.put(&mut self.blocks[usize::from(id)], id);
    }

    /// Keeps the memory for ever: the kernel may still write to it.
    pub(super) fn park(&mut self) {
        std::mem::forget(std::mem::take(&mut self.blocks));
        self.shelf.park();
    }
}

impl Ring {
    /// Gives the order to accept connections, which stands where the kernel has that.
    pub(in crate::engine) fn accept(
        &mut self,
        fd: BorrowedFd<'_>,
        listening: Listening,
    ) -> Result<()> {
        let entry = if self.orders_stand() {
            opcode::AcceptMulti::new(raw(fd))
                .flags(libc::SOCK_CLOEXEC)
                .build()
        } else {
            let (name, len) = (std::ptr::null_mut(), std::ptr::null_mut());
            opcode::Accept::new(raw(fd), name, len)
                .flags(libc::SOCK_CLOEXEC)
                .build()
        };
        self.launch(Flight::Stream(StreamFlight::Accept(listening)), |_, _| {
            entry
        })
    }

    /// Begins to connect.
    pub(in crate::engine) fn connect(
        &mut self,
        fd: BorrowedFd<'_>,
        slot: usize,
        to: std::net::SocketAddr,
    ) -> Result<()> {
        let (name, len) = encode_address(to);
        let name = Box::new(name);
        let address = name.as_ptr().cast();
        self.launch(Flight::Stream(StreamFlight::Connect(slot, name)), |_, _| {
            opcode::Connect::new(raw(fd), address, len).build()
        })
    }

    /// Gives the order to receive on a stream: a standing one, or to say when there is something.
    pub(in crate::engine) fn receive_stream(
        &mut self,
        fd: BorrowedFd<'_>,
        slot: usize,
    ) -> Result<()> {
        if !self.orders_stand() {
            let readable = u32::from(libc::POLLIN.cast_unsigned());
            let entry = opcode::PollAdd::new(raw(fd), readable).build();
            return self.launch(Flight::Stream(StreamFlight::Poll(slot)), |_, _| entry);
        }
        if self.stream_buffers.is_none() {
            self.stream_buffers = Some(StreamBuffers::register(&self.uring.submitter())?);
        }
        let entry = opcode::RecvMulti::new(raw(fd), GROUP).build();
        self.launch(Flight::Stream(StreamFlight::Receive(slot)), |_, _| entry)
    }

    /// Sends on a stream.
    pub(in crate::engine) fn send_stream(
        &mut self,
        fd: BorrowedFd<'_>,
        (slot, id): (usize, StreamId),
        gather: Box<Gather>,
        zero_copy: bool,
    ) -> Result<()> {
        let header = gather.header();
        let flight = StreamFlight::Send {
            slot,
            id,
            gather,
            is_said: false,
            zero_copy,
        };
        self.launch(Flight::Stream(flight), |_, _| {
            if zero_copy {
                opcode::SendMsgZc::new(raw(fd), header)
                    .ioprio(REPORT_USAGE)
                    .build()
            } else {
                opcode::SendMsg::new(raw(fd), header).build()
            }
        })
    }

    /// Cancels every operation on a socket.
    pub(in crate::engine) fn cancel(&mut self, fd: BorrowedFd<'_>) -> Result<()> {
        let all = CancelBuilder::fd(raw(fd)).all();
        let entry = opcode::AsyncCancel2::new(all).build();
        self.launch(Flight::Cancel, |_, _| entry)
    }

    /// The bytes that came into a buffer.
    pub(in crate::engine) fn stream_bytes(
        &mut self,
        buffer: &StreamBuffer,
        len: usize,
    ) -> &mut [u8] {
        let buffers = self.stream_buffers.as_mut().expect("a buffer came from it");
        &mut buffers.blocks[usize::from(buffer.0)][..len]
    }

    /// Gives a buffer back to the kernel.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "whoever gives a buffer has it no more"
    )]
    pub(in crate::engine) fn recycle_stream(&mut self, buffer: StreamBuffer) {
        if let Some(buffers) = &mut self.stream_buffers {
            buffers.give(buffer.0);
        }
    }

    /// Puts back what the kernel did not take of a gather that it still reads.
    pub(in crate::engine) fn kept(&mut self, flight: u64) -> &Gather {
        let Flight::Stream(StreamFlight::Send { gather, .. }) = self.flights.get_mut(flight) else {
            unreachable!("only sends keep a gather")
        };
        gather
    }

    /// Takes what the kernel says about an operation on a stream.
    pub(super) fn judge_stream(&mut self, index: u64, entry: &cqueue::Entry) -> Option<Completion> {
        let more = cqueue::more(entry.flags());
        let Flight::Stream(flight) = self.flights.get_mut(index) else {
            unreachable!("the caller has seen that it is a stream's")
        };
        let done = match flight {
            StreamFlight::Accept(listening) => StreamDone::Accepted {
                listening: *listening,
                // SAFETY: the kernel gives a new descriptor with each success, to us alone.
                result: result(entry).map(|_| unsafe { OwnedFd::from_raw_fd(entry.result()) }),
                more,
            },
            StreamFlight::Connect(slot, _) => {
                StreamDone::Connected(*slot, result(entry).map(|_| ()))
            }
            StreamFlight::Poll(slot) => StreamDone::Readable(*slot),
            StreamFlight::Receive(slot) => {
                let slot = *slot;
                let result = self.received_stream(entry);
                StreamDone::Received { slot, result, more }
            }
            StreamFlight::Send { .. } => return Some(Completion::Stream(self.sent(index, entry))),
        };
        if !more {
            self.flights.remove(index);
        }
        Some(Completion::Stream(done))
    }

    fn received_stream(
        &mut self,
        entry: &cqueue::Entry,
    ) -> OsResult<Option<(StreamBuffer, usize)>> {
        let buffer = cqueue::buffer_select(entry.flags()).map(|id| {
            let buffers = self.stream_buffers.as_mut();
            buffers.expect("a receive was given").taken(id)
        });
        match (result(entry), buffer) {
            (Ok(len), Some(buffer)) if len > 0 => Ok(Some((buffer, len))),
            (result, buffer) => {
                if let Some(buffer) = buffer {
                    self.recycle_stream(buffer);
                }
                result.map(|_| None)
            }
        }
    }

    /// Takes how a send went, or that the kernel reads it no longer.
    fn sent(&mut self, index: u64, entry: &cqueue::Entry) -> StreamDone {
        let more = cqueue::more(entry.flags());
        let Flight::Stream(StreamFlight::Send {
            slot,
            is_said,
            zero_copy,
            ..
        }) = self.flights.get_mut(index)
        else {
            unreachable!("the caller has seen that it is a send")
        };
        let (slot, zero_copy, was_said) = (*slot, *zero_copy, *is_said);
        if more {
            *is_said = true;
            return StreamDone::Sent {
                slot,
                result: result(entry),
                zero_copy,
                gather: SentGather::Kept(index),
            };
        }
        let Flight::Stream(StreamFlight::Send { gather, id, .. }) = self.flights.remove(index)
        else {
            unreachable!("it was a send above")
        };
        if was_said {
            let copied = entry.result().cast_unsigned() & COPIED != 0;
            return StreamDone::Read {
                slot,
                id,
                copied,
                gather,
            };
        }
        StreamDone::Sent {
            slot,
            result: result(entry),
            zero_copy,
            gather: SentGather::Back(gather),
        }
    }
}

/// The id of the group of buffers for streams.
const GROUP: u16 = 1;
