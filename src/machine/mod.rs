//! The contract of a protocol machine.
//!
//! A machine is protocol logic alone: inputs come by value with the time at which they came,
//! outputs are polled. It has no sockets, files, clocks, threads or randomness of its own (a seed
//! is passed in). The engine drives machines over the real kernel; [`world`] drives the same
//! machines, a thousand at a time, from a seed.
//!
//! The driver's loop, after every input or timeout:
//!
//! 1. `poll_transmit` until it gives `None` (or the driver's own send budget is spent),
//! 2. `poll_output` until it gives `None`,
//! 3. `poll_timeout`, then wait for the next input until that moment.
//!
//! A machine never blocks and never fails: what goes wrong is an output.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod stream;
pub mod world;

use std::net::SocketAddr;

pub use stream::{Closed, StreamId, StreamInput, StreamOp};

use crate::base::{Block, Time};

/// A protocol machine; see the module for the driver's loop.
pub trait Machine {
    /// What the job can tell the machine while it runs.
    type Command;
    /// What the machine tells the job.
    type Event;

    /// Takes one input.
    fn handle(&mut self, input: Input<'_, Self::Command>, now: Time);

    /// Writes the next datagrams into `buffer` (a whole GSO burst at most) and says where they go.
    ///
    /// Pacing is the machine's: it gives `None` until `poll_timeout` when it must not send yet.
    fn poll_transmit(&mut self, now: Time, buffer: &mut [u8]) -> Option<Transmit>;

    /// Takes the next disk operation or event.
    fn poll_output(&mut self) -> Option<Output<Self::Event>>;

    /// When the machine wants [`Input::Timeout`] at the latest; `None` while it waits for input.
    fn poll_timeout(&self) -> Option<Time>;
}

/// What a driver gives a machine.
#[derive(Debug)]
pub enum Input<'a, Command> {
    /// Datagrams came in.
    Datagrams(Datagrams<'a>),
    /// Something happened to a byte stream. A machine that has none never hears of them.
    Stream(StreamInput<'a>),
    /// A disk operation ended.
    Disk(DiskDone),
    /// The moment of `poll_timeout` has come.
    Timeout,
    /// The job says something.
    Command(Command),
}

/// One or more datagrams of one sender, as the kernel coalesced them (`UDP_GRO`).
#[derive(Debug)]
pub struct Datagrams<'a> {
    /// Which of the machine's sockets they came to.
    pub channel: Channel,
    /// Who sent them.
    pub from: SocketAddr,
    /// The datagrams end to end, every one `segment_size` long but the last, which may be shorter.
    /// The machine may decrypt in place.
    pub bytes: &'a mut [u8],
    /// The size of each datagram, never 0.
    pub segment_size: usize,
    /// How many datagrams the kernel has dropped for want of buffer space on this socket since it
    /// was opened (`SO_RXQ_OVFL`).
    pub dropped_total: u32,
}

impl Datagrams<'_> {
    /// The single datagrams.
    pub fn segments(&mut self) -> impl Iterator<Item = &mut [u8]> {
        assert!(self.segment_size > 0, "the driver gives a segment size");
        self.bytes.chunks_mut(self.segment_size)
    }
}

/// One of a machine's sockets: an index into the list that the job opened for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Channel(pub u8);

/// Datagrams to send, already in the buffer given to `poll_transmit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Which socket sends.
    pub channel: Channel,
    /// To whom.
    pub to: SocketAddr,
    /// Bytes used of the buffer, from its start.
    pub len: usize,
    /// The size of each datagram, the last may be shorter (`UDP_SEGMENT`); equals `len` for one.
    pub segment_size: usize,
}

/// What a machine gives its driver.
#[derive(Debug)]
pub enum Output<Event> {
    /// Do this on disk and tell when it is done.
    Disk(DiskOp),
    /// Do this to a byte stream. Operations on one stream keep their order.
    Stream(StreamOp),
    /// Tell the job.
    Event(Event),
}

/// One of a machine's files: an index into the list that the job opened for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u8);

/// A read or write of one run of bytes; the block travels with it and comes back with the result.
#[derive(Debug)]
pub struct DiskOp {
    /// The machine's own name for this operation.
    pub tag: u64,
    /// Read into the block, or write from it.
    pub kind: DiskKind,
    /// Which file.
    pub file: FileId,
    /// Where in the file.
    pub offset: u64,
    /// How many bytes of the block, from its start.
    pub len: usize,
    /// The memory.
    pub block: Block,
}

/// The direction of a [`DiskOp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    /// Fill the block from the file.
    Read,
    /// Write the block to the file.
    Write,
}

/// The end of a [`DiskOp`]. The driver continued short reads and writes: a success is whole.
#[derive(Debug)]
pub struct DiskDone {
    /// The operation's tag.
    pub tag: u64,
    /// Its direction.
    pub kind: DiskKind,
    /// The memory, handed back.
    pub block: Block,
    /// Whether all bytes were moved.
    pub result: Result<(), DiskError>,
}

/// Why a disk operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// No space is left.
    #[error("No space is left on the device")]
    Full,
    /// The file ended before all bytes were read.
    #[error("The file is shorter than expected")]
    Short,
    /// What was read is not what was written once.
    #[error("The file is damaged")]
    Damaged,
    /// Another failure, with its `errno`.
    #[error("The disk operation failed (errno {0})")]
    Errno(i32),
}
