//! The backend of plain system calls: `ppoll`, `recvmmsg`, `sendmsg`, `pread`, `pwrite` and the
//! like.
//!
//! It coalesces like the ring where the kernel can; it enters the kernel once per burst, and disk
//! operations hold its thread.

mod streams;

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use libc::{POLLERR, POLLIN, POLLOUT};

use self::streams::PlainStreams;
use super::burst::{Burst, Verdict};
use super::channels::Channels;
use super::streams::{Streams, errno_of};
use super::{Arrival, Io};
use crate::base::{Blocks, Counter};
use crate::engine::disk;
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::limits::{
    DATAGRAM_BYTES_MAX, RECEIVE_BATCH, RECEIVE_FAILURES_MAX, SEND_PATIENCE, SEND_SLOT_BYTES,
};
use crate::engine::mailbox;
use crate::engine::net::sys::{self, InMessages, OutMessage};
use crate::engine::pool::Arena;
use crate::engine::ways::Way;
use crate::machine::{Channel, Datagrams, DiskDone, DiskOp, StreamOp, Transmit};

pub(super) struct Plain {
    channels: Channels,
    streams: PlainStreams,
    files: Vec<File>,
    wake: Option<OwnedFd>,
    /// The staging slot while it is free.
    slot: Option<OutMessage>,
    /// The burst that waits for room in its socket, and until when.
    unsent: Option<(Burst, Instant)>,
    /// Messages that came last.
    inbox: InMessages,
    /// Whose they are, and which of them the loop has not had yet.
    inbox_left: (Channel, Range<usize>),
    /// What is waited for: every channel by index, then streams, then the wake-up.
    polled: Vec<libc::pollfd>,
    /// Which channels may have something, by index.
    readable: Vec<bool>,
    /// The channel to look at first, so that none starves another.
    cursor: usize,
    receive_failures: u32,
    /// Whether a stream had its turn before the channels.
    streams_first: bool,
    done: VecDeque<DiskDone>,
}

impl Plain {
    /// Takes the sockets and files; `batched` allows several messages per entry into the kernel.
    pub(super) fn new(
        channels: Channels,
        streams: Streams,
        files: Vec<File>,
        batched: bool,
    ) -> Result<Self> {
        let slot = Arena::new(SEND_SLOT_BYTES, 1)?
            .take()
            .expect("a new arena lends its blocks");
        Ok(Self {
            readable: vec![false; channels.count()],
            polled: Vec::with_capacity(channels.count() + 2),
            channels,
            streams: PlainStreams::new(streams)?,
            files,
            wake: None,
            slot: Some(OutMessage::new(slot)),
            unsent: None,
            inbox: InMessages::new(if batched { RECEIVE_BATCH } else { 1 }),
            inbox_left: (Channel(0), 0..0),
            cursor: 0,
            receive_failures: 0,
            streams_first: false,
            done: VecDeque::new(),
        })
    }

    /// Sends until the burst is done or its socket is full.
    fn push(&mut self, mut burst: Burst, until: Instant) {
        let channel = burst.transmit().channel;
        while !burst.is_done() {
            let result = self
                .channels
                .aim(&mut burst, Way::Coalesced)
                .send(self.channels.fd(channel));
            self.channels.entered(Counter::KernelEntriesOut, 1);
            let mut verdict = Verdict::default();
            match result.map_err(|e| errno_of(&e)) {
                Ok(taken) => verdict.taken = taken,
                Err(libc::EAGAIN) if Instant::now() < until => {
                    self.unsent = Some((burst, until));
                    return;
                }
                // It is about the first message; those behind it were not looked at.
                Err(errno) => verdict.add(Err(errno)),
            }
            self.channels.sent(&mut burst, &verdict);
        }
        self.slot = Some(burst.into_message());
    }

    /// The next message: of those that came already, or of the next readable channel.
    fn receive(&mut self) -> Result<Option<(Channel, usize)>> {
        loop {
            let (channel, left) = &mut self.inbox_left;
            if let Some(index) = left.next() {
                return Ok(Some((*channel, index)));
            }
            let Some(index) = self.next_readable() else {
                return Ok(None);
            };
            let channel = Channel(u8::try_from(index).expect("the driver has at most 256 sockets"));
            self.channels.entered(Counter::KernelEntriesIn, 1);
            match self.inbox.receive(self.channels.fd(channel)) {
                Ok(count) => {
                    self.receive_failures = 0;
                    self.cursor = index + 1;
                    self.inbox_left = (channel, 0..count);
                    // Room that is left says that no more is there.
                    self.readable[index] = count == self.inbox.room();
                }
                Err(e) => {
                    self.readable[index] = false;
                    self.judge_failure(e)?;
                }
            }
        }
    }

    fn next_readable(&self) -> Option<usize> {
        let count = self.readable.len();
        (0..count)
            .map(|step| (self.cursor + step) % count)
            .find(|&index| self.readable[index])
    }

    fn judge_failure(&mut self, e: std::io::Error) -> Result<()> {
        if matches!(errno_of(&e), libc::EAGAIN | libc::EINTR) {
            return Ok(());
        }
        self.receive_failures += 1;
        if self.receive_failures > RECEIVE_FAILURES_MAX {
            return Err(Error::os(ErrorKind::Socket, "A socket keeps failing", e));
        }
        Ok(())
    }
}

impl Io for Plain {
    fn start(&mut self, wake: BorrowedFd<'_>) -> Result<()> {
        let failed = |e| Error::os(ErrorKind::Wait, "Cannot duplicate a descriptor", e);
        self.wake = Some(wake.try_clone_to_owned().map_err(failed)?);
        self.streams.start()
    }

    fn slot(&mut self) -> Option<&mut [u8]> {
        let slot = self.slot.as_mut()?.slot_mut();
        Some(&mut slot[..DATAGRAM_BYTES_MAX])
    }

    fn send(&mut self, transmit: Transmit) {
        let message = self.slot.take().expect("the driver got the slot just now");
        self.push(
            Burst::new(message, transmit),
            Instant::now() + SEND_PATIENCE,
        );
    }

    fn disk(&mut self, op: DiskOp) {
        let file = &self.files[usize::from(op.file.0)];
        self.done.push_back(disk::perform(file, op));
    }

    fn stream(&mut self, op: StreamOp) -> Result<()> {
        self.streams.begin(op)
    }

    fn wait(&mut self, timeout: Duration) -> Result<()> {
        self.streams.push()?;
        let (_, left) = &self.inbox_left;
        let timeout = if self.done.is_empty() && left.is_empty() {
            self.streams.patience(timeout)
        } else {
            Duration::ZERO
        };
        let full = self
            .unsent
            .as_ref()
            .map(|(burst, _)| burst.transmit().channel);
        let wake = self.wake.as_ref().expect("a run has started");
        self.polled.clear();
        for channel in self.channels.all() {
            let out = if full == Some(channel) { POLLOUT } else { 0 };
            let fd = self.channels.fd(channel);
            self.polled.push(sys::polled(fd.as_raw_fd(), POLLIN | out));
        }
        self.polled
            .push(sys::polled(self.streams.poll_fd().as_raw_fd(), POLLIN));
        self.polled.push(sys::polled(wake.as_raw_fd(), POLLIN));
        match sys::poll(&mut self.polled, timeout) {
            Ok(()) => {}
            Err(e) if errno_of(&e) == libc::EINTR => {}
            Err(e) => return Err(Error::os(ErrorKind::Wait, "Cannot wait for sockets", e)),
        }
        if self.polled.pop().is_some_and(|fd| fd.revents != 0) {
            mailbox::clear(wake.as_fd());
        }
        if self.polled.pop().is_some_and(|fd| fd.revents != 0) {
            self.streams.look()?;
        }
        for (readable, fd) in self.readable.iter_mut().zip(&self.polled) {
            *readable = fd.revents & (POLLIN | POLLERR) != 0;
        }
        if self.readable.contains(&true) {
            self.channels.entered(Counter::KernelEntriesIn, 1);
        }
        if let Some((burst, until)) = self.unsent.take() {
            self.push(burst, until);
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Arrival<'_>>> {
        if let Some(done) = self.done.pop_front() {
            return Ok(Some(Arrival::Disk(done)));
        }
        // In turns, so that neither starves the other.
        self.streams_first = !self.streams_first;
        if self.streams_first
            && let Some(came) = self.streams.next()?
        {
            return Ok(Some(Arrival::Stream(self.streams.lend(came))));
        }
        while let Some((channel, index)) = self.receive()? {
            let (bytes, from, controls) = self.inbox.get(index);
            let (segment_size, dropped_total) =
                self.channels.received(channel, bytes.len(), controls);
            let Some(from) = from.filter(|_| !bytes.is_empty()) else {
                continue;
            };
            // Borrowed anew, since a message that goes on in the loop cannot be given away.
            let (bytes, ..) = self.inbox.get(index);
            return Ok(Some(Arrival::Datagrams(Datagrams {
                channel,
                from,
                bytes,
                segment_size,
                dropped_total,
            })));
        }
        let came = self.streams.next()?;
        Ok(came.map(|came| Arrival::Stream(self.streams.lend(came))))
    }

    fn finish(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while let Some((burst, until)) = self.unsent.take() {
            let fd = self.channels.fd(burst.transmit().channel);
            let mut polled = [sys::polled(fd.as_raw_fd(), POLLOUT)];
            // Whatever it says, the next attempt to send shows how things are.
            let _polled = sys::poll(&mut polled, Duration::from_millis(10));
            self.push(burst, until.min(deadline));
        }
        self.done.clear();
        self.streams.clear();
        self.wake = None;
    }

    fn channels(&self) -> &Channels {
        &self.channels
    }
}
