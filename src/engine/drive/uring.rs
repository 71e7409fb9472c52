//! The backend of the ring: standing receives, batches of sends and disk operations, one entry into
//! the kernel per turn.

mod streams;

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::burst::Burst;
use super::channels::Channels;
use super::streams::Streams;
use super::{Arrival, Io};
use crate::base::{Blocks, Counter};
use crate::engine::disk::{self, Place, Run, Step};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::limits::{
    DATAGRAM_BYTES_MAX, DISK_IN_FLIGHT_MAX, RECEIVE_FAILURES_MAX, SEND_SLOTS, ZERO_COPIES_MAX,
};
use crate::engine::mailbox;
use crate::engine::net::sys::OutMessage;
use crate::engine::pool::Arena;
use crate::engine::ring::{Buffer, Completion, Ring, StreamBuffer};
use crate::engine::ways::Way;
use crate::machine::{
    Channel, Datagrams, DiskDone, DiskOp, StreamId, StreamInput, StreamOp, Transmit,
};

pub(super) struct Uring {
    ring: Ring,
    channels: Channels,
    files: Vec<Place>,
    wake: Option<OwnedFd>,
    /// Where staging slots come from.
    staging: Arena,
    /// Free staging slots.
    slots: Vec<OutMessage>,
    /// Bursts for the next entry, in order.
    outbox: VecDeque<Burst>,
    /// The kernel has a part of a burst whose rest waits; others wait too, to keep the order.
    in_parts: bool,
    /// How many bursts the kernel has.
    sends_in_flight: usize,
    /// Sockets without a standing order to receive.
    deaf: Vec<Channel>,
    /// Whether the order to be woken is to be given.
    wake_due: bool,
    /// Disk operations that the kernel does not have yet.
    waiting: VecDeque<Run>,
    /// How many it has.
    disk_in_flight: usize,
    /// Those that ended without it.
    done: VecDeque<DiskDone>,
    streams: Streams,
    /// Slots of streams without an order to receive.
    deaf_streams: Vec<usize>,
    /// Listeners without an order to accept.
    idle_listeners: Vec<usize>,
    /// Bytes of a stream that were taken without the ring.
    scratch: Vec<u8>,
    /// The buffer whose bytes the loop was given last.
    lent: Option<Lent>,
    /// Whether something is sent with the next entry.
    sent: bool,
    /// Whether something was received with the last entry.
    received: bool,
    /// How often the kernel was entered for the last wait.
    entries: u64,
    receive_failures: u32,
}

/// A buffer whose bytes the loop looks at.
enum Lent {
    Message(Buffer),
    Stream(StreamBuffer),
}

/// Bytes that came in.
enum Came {
    Message(Channel, Buffer, usize),
    Stream(StreamId, StreamBuffer, usize),
    /// So many of a stream, in the scratch.
    Scratch(StreamId, usize),
}

impl Uring {
    pub(super) fn new(ring: Ring, channels: Channels, streams: Streams, files: Vec<File>) -> Self {
        Self {
            staging: ring.staging().clone(),
            ring,
            channels,
            files: files.into_iter().map(Place::new).collect(),
            wake: None,
            slots: Vec::with_capacity(SEND_SLOTS),
            outbox: VecDeque::with_capacity(SEND_SLOTS),
            in_parts: false,
            sends_in_flight: 0,
            deaf: Vec::new(),
            wake_due: false,
            waiting: VecDeque::new(),
            disk_in_flight: 0,
            done: VecDeque::new(),
            streams,
            deaf_streams: Vec::new(),
            idle_listeners: Vec::new(),
            scratch: Vec::new(),
            lent: None,
            sent: false,
            received: false,
            entries: 0,
            receive_failures: 0,
        }
    }

    /// Hands the kernel everything that is ready for it.
    fn push_all(&mut self) -> Result<()> {
        if self.wake_due {
            let wake = self.wake.as_ref().expect("a run has started");
            self.ring.wake(wake.as_fd())?;
            self.wake_due = false;
        }
        while let Some(channel) = self.deaf.pop() {
            self.ring.receive(self.channels.fd(channel), channel)?;
        }
        self.push_streams()?;
        self.push_transfers()
    }

    fn push_transfers(&mut self) -> Result<()> {
        while !self.in_parts
            && let Some(mut burst) = self.outbox.pop_front()
        {
            let channel = burst.transmit().channel;
            let most = if self.sends_in_flight < ZERO_COPIES_MAX {
                Way::ZeroCopy
            } else {
                Way::Coalesced
            };
            self.channels.aim(&mut burst, most);
            self.in_parts = burst.has_more();
            self.sends_in_flight += 1;
            self.sent = true;
            self.ring.send(self.channels.fd(channel), burst)?;
        }
        while self.disk_in_flight < DISK_IN_FLIGHT_MAX {
            let Some(mut run) = self.waiting.pop_front() else {
                break;
            };
            let place = &self.files[usize::from(run.op.file.0)];
            self.disk_in_flight += 1;
            let fd = place.route(&mut run);
            self.ring.disk(fd, run)?;
        }
        Ok(())
    }

    fn disk_step(&mut self, step: Step) {
        match step {
            Step::Again(run) => self.waiting.push_back(run),
            Step::Done(done) => self.done.push_back(done),
        }
    }

    /// Takes completions until one has bytes that came in, or the machine is to be told something.
    fn take(&mut self) -> Result<Option<Came>> {
        while let Some(completion) = self.ring.complete() {
            match completion {
                Completion::Sent(mut burst, verdict) => {
                    self.sends_in_flight -= 1;
                    let in_parts = burst.has_more();
                    self.in_parts &= !in_parts;
                    self.channels.sent(&mut burst, &verdict);
                    if burst.is_done() {
                        self.slots.push(burst.into_message());
                    } else if in_parts {
                        self.outbox.push_front(burst);
                    } else {
                        self.outbox.push_back(burst);
                    }
                }
                Completion::Disk(run, result) => {
                    self.disk_in_flight -= 1;
                    self.disk_step(run.advance(result));
                    // The loop wants results in the order of their ends.
                    if !self.done.is_empty() {
                        return Ok(None);
                    }
                }
                Completion::Received {
                    channel,
                    result,
                    more,
                } => {
                    if !more {
                        self.deaf.push(channel);
                    }
                    match result {
                        Ok((buffer, len)) => {
                            self.receive_failures = 0;
                            return Ok(Some(Came::Message(channel, buffer, len)));
                        }
                        Err(errno) => self.judge_failure(errno)?,
                    }
                }
                Completion::Stream(done) => {
                    let came = self.take_stream(done)?;
                    // The loop wants to hear of everything in its order.
                    if came.is_some() || self.streams.has_news() {
                        return Ok(came);
                    }
                }
                Completion::Woken => {
                    let wake = self.wake.as_ref().expect("a run has started");
                    mailbox::clear(wake.as_fd());
                    self.wake_due = true;
                }
            }
        }
        Ok(None)
    }

    /// Running out of buffers is usual under load, and the order is given again.
    fn judge_failure(&mut self, errno: i32) -> Result<()> {
        if matches!(errno, libc::ENOBUFS | libc::EAGAIN | libc::EINTR) {
            return Ok(());
        }
        self.receive_failures += 1;
        if self.receive_failures > RECEIVE_FAILURES_MAX {
            let e = std::io::Error::from_raw_os_error(errno);
            return Err(Error::os(ErrorKind::Socket, "A socket keeps failing", e));
        }
        Ok(())
    }

    fn recycle(&mut self) {
        match self.lent.take() {
            None => {}
            Some(Lent::Message(buffer)) => self.ring.recycle(buffer),
            Some(Lent::Stream(buffer)) => self.ring.recycle_stream(buffer),
        }
    }

    /// Lends the loop a message that is not empty.
    fn lend_message(&mut self, channel: Channel, buffer: Buffer, len: usize) -> Arrival<'_> {
        let Lent::Message(buffer) = self.lent.insert(Lent::Message(buffer)) else {
            unreachable!("it was inserted in this line")
        };
        let message = self.ring.message(buffer, len);
        let message = message.expect("the caller has read it");
        let (segment_size, dropped_total) =
            self.channels
                .received(channel, message.bytes.len(), message.controls);
        Arrival::Datagrams(Datagrams {
            channel,
            from: message.from,
            bytes: message.bytes,
            segment_size,
            dropped_total,
        })
    }

    /// Takes what has happened and tells nobody.
    fn discard(&mut self) {
        while let Ok(came) = self.take() {
            match came {
                Some(Came::Message(_, buffer, _)) => self.ring.recycle(buffer),
                Some(Came::Stream(_, buffer, _)) => self.ring.recycle_stream(buffer),
                Some(Came::Scratch(..)) => {}
                None if self.done.is_empty() && !self.streams.has_news() => break,
                None => {}
            }
            self.done.clear();
            while self.streams.news().is_some() {}
        }
    }

    fn transfers_are_over(&self) -> bool {
        let waiting = self.outbox.len() + self.waiting.len();
        self.sends_in_flight + self.disk_in_flight + waiting == 0
    }
}

impl Io for Uring {
    fn start(&mut self, wake: BorrowedFd<'_>) -> Result<()> {
        let failed = |e| Error::os(ErrorKind::Wait, "Cannot duplicate a descriptor", e);
        self.wake = Some(wake.try_clone_to_owned().map_err(failed)?);
        self.wake_due = true;
        self.deaf = self.channels.all().collect();
        self.idle_listeners = (0..self.streams.listeners.len()).collect();
        let free = std::iter::from_fn(|| self.staging.take());
        self.slots.extend(free.map(OutMessage::new));
        Ok(())
    }

    fn slot(&mut self) -> Option<&mut [u8]> {
        let slot = self.slots.last_mut()?.slot_mut();
        Some(&mut slot[..DATAGRAM_BYTES_MAX])
    }

    fn send(&mut self, transmit: Transmit) {
        let message = self.slots.pop().expect("the loop got the slot just now");
        self.outbox.push_back(Burst::new(message, transmit));
    }

    fn disk(&mut self, op: DiskOp) {
        let place = &self.files[usize::from(op.file.0)];
        if place.in_memory {
            self.done.push_back(disk::perform(&place.file, op));
        } else {
            self.disk_step(Run::start(op));
        }
    }

    fn stream(&mut self, op: StreamOp) -> Result<()> {
        self.begin_stream(op)
    }

    fn wait(&mut self, timeout: Duration) -> Result<()> {
        self.recycle();
        if std::mem::take(&mut self.received) {
            self.channels
                .entered(Counter::KernelEntriesIn, self.entries);
        }
        let before = self.ring.entries();
        self.push_all()?;
        let timeout = if self.done.is_empty() && !self.streams.has_news() {
            self.streams.patience(timeout)
        } else {
            Duration::ZERO
        };
        self.ring.enter(timeout)?;
        self.entries = self.ring.entries() - before;
        if std::mem::take(&mut self.sent) {
            self.channels
                .entered(Counter::KernelEntriesOut, self.entries);
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Arrival<'_>>> {
        self.recycle();
        loop {
            if let Some(done) = self.done.pop_front() {
                return Ok(Some(Arrival::Disk(done)));
            }
            if let Some(news) = self.streams.news() {
                return Ok(Some(Arrival::Stream(news)));
            }
            match self.take()? {
                Some(Came::Message(channel, buffer, len)) => {
                    self.received = true;
                    let is_empty = self
                        .ring
                        .message(&buffer, len)
                        .is_none_or(|message| message.bytes.is_empty());
                    if !is_empty {
                        return Ok(Some(self.lend_message(channel, buffer, len)));
                    }
                    self.channels.received(channel, 0, Default::default());
                    self.ring.recycle(buffer);
                }
                Some(Came::Stream(id, buffer, len)) => {
                    self.received = true;
                    let Lent::Stream(buffer) = self.lent.insert(Lent::Stream(buffer)) else {
                        unreachable!("it was inserted in this line")
                    };
                    let bytes = self.ring.stream_bytes(buffer, len);
                    let input = StreamInput::Received { id, bytes };
                    return Ok(Some(Arrival::Stream(input)));
                }
                Some(Came::Scratch(id, len)) => {
                    let bytes = &mut self.scratch[..len];
                    let input = StreamInput::Received { id, bytes };
                    return Ok(Some(Arrival::Stream(input)));
                }
                None if self.done.is_empty() && !self.streams.has_news() => return Ok(None),
                None => {}
            }
        }
    }

    fn finish(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        self.recycle();
        self.waiting.clear();
        // Sends and disk operations on their way may end; errors end the waiting, and the ring's
        // own end takes care of what is left.
        while self.push_transfers().is_ok() && !self.transfers_are_over() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.ring.enter(left).is_err() {
                break;
            }
            self.discard();
        }
        if self.ring.quiesce(patience) {
            (self.sends_in_flight, self.disk_in_flight) = (0, 0);
        }
        self.streams.clear();
        self.deaf_streams.clear();
        self.outbox.clear();
        self.wake = None;
    }

    fn channels(&self) -> &Channels {
        &self.channels
    }
}
