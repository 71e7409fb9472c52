//! The backend of plain system calls: `ppoll`, `recvmsg`, `sendmsg`, `pread`, `pwrite`.
//!
//! It coalesces like the ring where the kernel can; it enters the kernel once per message, and
//! disk operations hold its thread.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::burst::Burst;
use super::channels::Channels;
use super::{Arrival, Io};
use crate::base::{Blocks, Counter};
use crate::engine::disk;
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::limits::{
    DATAGRAM_BYTES_MAX, RECEIVE_BUFFER_BYTES, RECEIVE_FAILURES_MAX, SEND_PATIENCE, SEND_SLOT_BYTES,
};
use crate::engine::mailbox;
use crate::engine::net::sys::{self, OutMessage, Received};
use crate::engine::pool::Arena;
use crate::machine::{Channel, Datagrams, DiskDone, DiskOp, Transmit};

pub(super) struct Plain {
    channels: Channels,
    files: Vec<File>,
    wake: Option<OwnedFd>,
    /// The staging slot while it is free.
    slot: Option<OutMessage>,
    /// The burst that waits for room in its socket, and until when.
    unsent: Option<(Burst, Instant)>,
    buffer: Box<[u8]>,
    /// Which channels may have something, by index.
    readable: Vec<bool>,
    /// The channel to look at first, so that none starves another.
    cursor: usize,
    receive_failures: u32,
    done: VecDeque<DiskDone>,
}

impl Plain {
    pub(super) fn new(channels: Channels, files: Vec<File>) -> Result<Self> {
        let slot = Arena::new(SEND_SLOT_BYTES, 1)?
            .take()
            .expect("a new arena lends its blocks");
        Ok(Self {
            readable: vec![false; channels.count()],
            channels,
            files,
            wake: None,
            slot: Some(OutMessage::new(slot)),
            unsent: None,
            buffer: vec![0; RECEIVE_BUFFER_BYTES].into_boxed_slice(),
            cursor: 0,
            receive_failures: 0,
            done: VecDeque::new(),
        })
    }

    /// Sends until the burst is done or its socket is full.
    fn push(&mut self, mut burst: Burst, until: Instant) {
        let channel = burst.transmit().channel;
        while !burst.is_done() {
            let gso = self.channels.gso(channel);
            let result = sys::send(self.channels.fd(channel), burst.aim(gso));
            self.channels.entered(Counter::KernelEntriesOut);
            let result = result.map(drop).map_err(|e| errno_of(&e));
            if result == Err(libc::EAGAIN) && Instant::now() < until {
                self.unsent = Some((burst, until));
                return;
            }
            self.channels.sent(&mut burst, result);
        }
        self.slot = Some(burst.into_message());
    }

    /// Receives from the next readable channel that has something.
    fn receive(&mut self) -> Result<Option<(Channel, Received)>> {
        while let Some(index) = self.next_readable() {
            let channel = Channel(u8::try_from(index).expect("the driver has at most 256 sockets"));
            self.channels.entered(Counter::KernelEntriesIn);
            match sys::receive(self.channels.fd(channel), &mut self.buffer) {
                Ok(received) => {
                    self.receive_failures = 0;
                    self.cursor = index + 1;
                    return Ok(Some((channel, received)));
                }
                Err(e) => {
                    self.readable[index] = false;
                    self.judge_failure(e)?;
                }
            }
        }
        Ok(None)
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
        Ok(())
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

    fn wait(&mut self, timeout: Duration) -> Result<()> {
        let timeout = if self.done.is_empty() {
            timeout
        } else {
            Duration::ZERO
        };
        let full = self
            .unsent
            .as_ref()
            .map(|(burst, _)| burst.transmit().channel);
        let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(self.readable.len() + 1);
        for (index, fd) in self.channels.fds().enumerate() {
            let mut flags = PollFlags::IN;
            flags.set(
                PollFlags::OUT,
                full.is_some_and(|c| usize::from(c.0) == index),
            );
            polled.push(PollFd::from_borrowed_fd(fd, flags));
        }
        let wake = self.wake.as_ref().expect("a run has started");
        polled.push(PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN));
        let timespec = Timespec::try_from(timeout).expect("a sleep is short");
        match rustix::event::poll(&mut polled, Some(&timespec)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::os(ErrorKind::Wait, "Cannot wait for sockets", e)),
        }
        let woken = polled.pop().is_some_and(|fd| !fd.revents().is_empty());
        for (readable, fd) in self.readable.iter_mut().zip(&polled) {
            *readable = fd.revents().intersects(PollFlags::IN | PollFlags::ERR);
        }
        drop(polled);
        if woken {
            mailbox::clear(wake.as_fd());
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
        while let Some((channel, received)) = self.receive()? {
            let len = received.len;
            let (segment_size, dropped_total) =
                self.channels.received(channel, len, received.controls);
            let Some(from) = received.from.filter(|_| len > 0) else {
                continue;
            };
            return Ok(Some(Arrival::Datagrams(Datagrams {
                channel,
                from,
                bytes: &mut self.buffer[..len],
                segment_size,
                dropped_total,
            })));
        }
        Ok(None)
    }

    fn finish(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while let Some((burst, until)) = self.unsent.take() {
            let channel = burst.transmit().channel;
            let fd = self.channels.fd(channel);
            let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
            let pause = Timespec::try_from(Duration::from_millis(10)).ok();
            // Whatever it says, the next attempt to send shows how things are.
            let _polled = rustix::event::poll(&mut polled, pause.as_ref());
            self.push(burst, until.min(deadline));
        }
        self.done.clear();
        self.wake = None;
    }

    fn name(&self) -> &'static str {
        "plain"
    }
}

fn errno_of(e: &std::io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}
