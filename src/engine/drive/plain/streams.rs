//! The TCP streams of plain system calls: one `epoll` set, and calls that do not wait.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags};

use super::super::streams::{Ask, Streams, errno_of};
use crate::base::Counter;
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::limits::{STREAM_BUFFER_BYTES, STREAM_EVENTS_PER_TURN};
use crate::machine::{StreamId, StreamInput, StreamOp};

pub(super) struct PlainStreams {
    streams: Streams,
    /// What is waited for: listeners and sockets.
    set: OwnedFd,
    events: Vec<epoll::Event>,
    /// Slots that may have bytes, or the end.
    readable: VecDeque<usize>,
    /// Whether listeners are in the set.
    listens: bool,
    /// The bytes that came last.
    scratch: Vec<u8>,
}

/// What the loop is to be given.
pub(super) enum Came {
    News(StreamInput<'static>),
    /// So many bytes, in the scratch.
    Bytes(StreamId, usize),
}

impl PlainStreams {
    pub(super) fn new(streams: Streams) -> Result<Self> {
        Ok(Self {
            streams,
            set: epoll::create(CreateFlags::CLOEXEC).map_err(failed)?,
            events: Vec::with_capacity(STREAM_EVENTS_PER_TURN),
            readable: VecDeque::new(),
            listens: false,
            scratch: Vec::new(),
        })
    }

    /// Begins a run.
    pub(super) fn start(&mut self) -> Result<()> {
        self.listen(true)
    }

    /// Takes what the machine wants.
    pub(super) fn begin(&mut self, op: StreamOp) -> Result<()> {
        match self.streams.take(op) {
            None => {}
            Some(Ask::LetGo(slot)) => self.let_go(slot),
            Some(Ask::Connect(slot, to)) => {
                self.watch(slot, EventFlags::OUT)?;
                match rustix::net::connect(self.streams.fd(slot), &to) {
                    Err(Errno::INPROGRESS) => {}
                    result => self.connected(slot, result.map_err(Errno::raw_os_error))?,
                }
            }
        }
        Ok(())
    }

    /// Sends what can be sent, ends what is late, and lets listeners that rested begin again.
    pub(super) fn push(&mut self) -> Result<()> {
        while let Some(slot) = self.streams.late() {
            self.let_go(slot);
        }
        let rests = self.streams.rests();
        self.listen(!rests)?;
        // One that can send more has its turn again.
        for _ in 0..self.streams.ready_count() {
            let Some((slot, gather, _)) = self.streams.gather() else {
                break;
            };
            self.streams.entered(Counter::KernelEntriesOut);
            let result = gather.send(self.streams.fd(slot));
            let result = result.map_err(|e| errno_of(&e));
            if self.streams.sent(slot, &gather, result, false) {
                self.rewatch(slot, EventFlags::IN | EventFlags::OUT)?;
            }
            self.streams.reuse(gather);
        }
        Ok(())
    }

    /// What becomes readable when [`Self::look`] finds something.
    pub(super) fn poll_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }

    /// How long the driver may sleep.
    pub(super) fn patience(&self, most: Duration) -> Duration {
        if self.streams.has_news() || self.streams.ready_count() > 0 || !self.readable.is_empty() {
            return Duration::ZERO;
        }
        self.streams.patience(most)
    }

    /// Looks at what is ready.
    pub(super) fn look(&mut self) -> Result<()> {
        if !self.readable.is_empty() {
            return Ok(());
        }
        self.events.clear();
        self.streams.entered(Counter::KernelEntriesIn);
        let now = rustix::event::Timespec::default();
        let room = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.set, room, Some(&now)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(failed(e)),
        }
        for index in 0..self.events.len() {
            let epoll::Event { data, flags } = self.events[index];
            let name = data.u64();
            match usize::try_from(name & !LISTENER).unwrap_or(usize::MAX) {
                index if name & LISTENER != 0 => self.accept(index)?,
                slot => self.judge(slot, flags)?,
            }
        }
        Ok(())
    }

    fn judge(&mut self, slot: usize, flags: EventFlags) -> Result<()> {
        if !self.streams.is_open(slot) {
            let error = rustix::net::sockopt::socket_error(self.streams.fd(slot));
            let result = error.unwrap_or_else(Err).map_err(Errno::raw_os_error);
            return self.connected(slot, result);
        }
        if flags.contains(EventFlags::OUT) {
            self.rewatch(slot, EventFlags::IN)?;
            self.streams.writable(slot);
        }
        let any = EventFlags::IN | EventFlags::ERR | EventFlags::HUP;
        if flags.intersects(any) {
            self.readable.push_back(slot);
        }
        Ok(())
    }

    fn connected(&mut self, slot: usize, result: std::result::Result<(), i32>) -> Result<()> {
        if self.streams.connected(slot, result) {
            return self.rewatch(slot, EventFlags::IN);
        }
        self.let_go(slot);
        Ok(())
    }

    /// Accepts those who wait, a few at a time.
    fn accept(&mut self, index: usize) -> Result<()> {
        for _ in 0..ACCEPTS_MAX {
            let listener = &self.streams.listeners[index];
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let result = rustix::net::accept_with(listener, flags);
            let is_over = result.is_err();
            let result = result.map_err(Errno::raw_os_error);
            if let Some(slot) = self.streams.accepted(result) {
                self.watch(slot, EventFlags::IN)?;
            }
            if is_over {
                break;
            }
        }
        Ok(())
    }

    /// What the loop is to be given next.
    pub(super) fn next(&mut self) -> Result<Option<Came>> {
        loop {
            if let Some(news) = self.streams.news() {
                return Ok(Some(Came::News(news)));
            }
            let Some(slot) = self.readable.pop_front() else {
                return Ok(None);
            };
            self.scratch.resize(STREAM_BUFFER_BYTES, 0);
            self.streams.entered(Counter::KernelEntriesIn);
            let fd = self.streams.fd(slot);
            let result = rustix::net::recv(fd, self.scratch.as_mut_slice(), RecvFlags::DONTWAIT);
            let result = result.map(|(count, _)| count);
            let result = result.map_err(Errno::raw_os_error);
            let len = *result.as_ref().unwrap_or(&0);
            if let Some(id) = self.streams.received(slot, result) {
                return Ok(Some(Came::Bytes(id, len)));
            }
            if !self.streams.is_open(slot) {
                self.let_go(slot);
            }
        }
    }

    /// Lends the loop what [`Self::next`] gave.
    pub(super) fn lend(&mut self, came: Came) -> StreamInput<'_> {
        match came {
            Came::News(news) => news,
            Came::Bytes(id, len) => StreamInput::Received {
                id,
                bytes: &mut self.scratch[..len],
            },
        }
    }

    /// Ends a run: every stream ends with it.
    pub(super) fn clear(&mut self) {
        self.readable.clear();
        self.streams.clear();
        // Failing, it would only be added to the set again.
        let _in_set = self.listen(false);
    }

    /// Lets go of a stream that has ended; closing its socket takes it out of the set.
    fn let_go(&mut self, slot: usize) {
        self.readable.retain(|&other| other != slot);
        self.streams.free_if_over(slot);
    }

    fn listen(&mut self, listens: bool) -> Result<()> {
        if self.listens == listens {
            return Ok(());
        }
        for (name, listener) in (LISTENER..).zip(&self.streams.listeners) {
            if listens {
                let data = EventData::new_u64(name);
                epoll::add(&self.set, listener, data, EventFlags::IN).map_err(failed)?;
            } else {
                epoll::delete(&self.set, listener).map_err(failed)?;
            }
        }
        self.listens = listens;
        Ok(())
    }

    fn watch(&mut self, slot: usize, flags: EventFlags) -> Result<()> {
        let data = EventData::new_u64(slot as u64);
        epoll::add(&self.set, self.streams.fd(slot), data, flags).map_err(failed)
    }

    fn rewatch(&mut self, slot: usize, flags: EventFlags) -> Result<()> {
        let data = EventData::new_u64(slot as u64);
        epoll::modify(&self.set, self.streams.fd(slot), data, flags).map_err(failed)
    }
}

fn failed(e: Errno) -> Error {
    Error::os(ErrorKind::Wait, "Cannot wait for streams", e)
}

/// Marks the names of listeners in the set.
const LISTENER: u64 = 1 << 63;
/// Connections accepted of one listener at a time.
const ACCEPTS_MAX: usize = 64;
