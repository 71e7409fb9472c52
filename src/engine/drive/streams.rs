//! The TCP streams of a driver, and what both backends do alike with them.
//!
//! ```text
//!   slot   Connecting ──► Open ──► Ended ──► free, when the kernel has no operation of it
//! ```
//!
//! Invariant: a slot's socket lives until the kernel has no operation on it; a machine hears
//! `Closed` of a stream once, as the last.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::base::{Counter, Counters};
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::limits::{
    COPIES_MAX, STREAM_ACCEPT_REST, STREAM_CONNECT_PATIENCE, STREAM_MESSAGE_BYTES,
    STREAM_ZERO_COPIES_MAX, STREAM_ZERO_COPY_BYTES_MIN, STREAMS_MAX,
};
use crate::engine::net::stream::{acknowledge, closed_by, dialler, tune};
use crate::engine::net::{Listener, sys::Gather};
use crate::machine::{Closed, StreamId, StreamInput, StreamOp};

type OsResult<T> = std::result::Result<T, i32>;

pub(super) struct Streams {
    pub(super) listeners: Vec<Listener>,
    slots: Vec<Option<Stream>>,
    free: Vec<usize>,
    /// The slots of streams that the machine knows.
    ids: BTreeMap<StreamId, usize>,
    /// How many were accepted so far.
    accepted: u32,
    /// What the machine has not heard yet.
    news: VecDeque<StreamInput<'static>>,
    /// Slots with something to send and no send on its way, each once.
    ready: VecDeque<usize>,
    /// Until when each stream that is being opened has time, the oldest first.
    opening: VecDeque<(Instant, StreamId)>,
    /// Until when the listeners rest.
    rest: Option<Instant>,
    /// Empty gathers, to be used again.
    #[expect(clippy::vec_box, reason = "the kernel is given their addresses")]
    spare: Vec<Box<Gather>>,
    options: Options,
    counters: Arc<Counters>,
}

/// How a backend uses its streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// Whether operations wait in the kernel, rather than fail with `EAGAIN`.
    pub(super) waits: bool,
    /// Whether the kernel may be asked not to copy.
    pub(super) zero_copy: bool,
}

struct Stream {
    id: StreamId,
    fd: OwnedFd,
    state: State,
    queue: VecDeque<Bytes>,
    sending: Sending,
    /// How many operations on the socket the kernel has.
    held: u32,
    zero_copy: bool,
    /// How many of the last sends were copied though they need not have been.
    copies: u32,
    /// Sends that the kernel may still read from.
    unread: u32,
    /// Why sending failed; what the other side sent before is still received.
    failed: Option<i32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its `connect` is on its way.
    Connecting,
    /// Bytes go both ways.
    Open,
    /// The machine knows, or will be told, that it has ended.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Idle,
    /// In the list of those that are ready.
    Listed,
    /// The kernel has a send, or is asked to say when it takes more.
    Busy,
}

/// What a backend is to do about an operation of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Begin to connect the slot's socket.
    Connect(usize, SocketAddr),
    /// Let go of the slot, which has ended: take back what the kernel has of it.
    LetGo(usize),
}

impl Streams {
    pub(super) fn new(
        listeners: Vec<Listener>,
        options: Options,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        for listener in &listeners {
            let failed = |e| Error::os(ErrorKind::Socket, "Cannot set a listener up", e);
            listener.set_waits(options.waits).map_err(failed)?;
        }
        Ok(Self {
            listeners,
            slots: Vec::new(),
            free: Vec::new(),
            ids: BTreeMap::new(),
            accepted: 0,
            news: VecDeque::new(),
            ready: VecDeque::new(),
            opening: VecDeque::new(),
            rest: None,
            spare: Vec::new(),
            options,
            counters,
        })
    }

    /// Takes what the machine wants; gives what the backend is to do.
    pub(super) fn take(&mut self, op: StreamOp) -> Option<Ask> {
        match op {
            StreamOp::Connect { id, to } => self.connect(id, to),
            StreamOp::Send { id, bytes } => {
                assert!(!bytes.is_empty(), "a machine sends at least one byte");
                let slot = *self.ids.get(&id)?;
                let stream = self.stream(slot);
                if stream.failed.is_none() {
                    stream.queue.push_back(bytes);
                    self.list(slot);
                }
                None
            }
            StreamOp::Close { id } => {
                let slot = *self.ids.get(&id)?;
                self.news.retain(|news| news.id() != id);
                self.end(slot, Closed::ByUs);
                Some(Ask::LetGo(slot))
            }
        }
    }

    fn connect(&mut self, id: StreamId, to: SocketAddr) -> Option<Ask> {
        assert!(!id.is_incoming(), "a machine names what it opens itself");
        assert!(!self.ids.contains_key(&id), "a name is used once");
        let opened = if self.ids.len() < STREAMS_MAX {
            dialler(to, self.options.waits).map_err(|e| closed_by(errno_of(&e)))
        } else {
            Err(Closed::TooMany)
        };
        match opened {
            Ok(fd) => {
                let slot = self.insert(id, fd, State::Connecting);
                let until = Instant::now() + STREAM_CONNECT_PATIENCE;
                self.opening.push_back((until, id));
                Some(Ask::Connect(slot, to))
            }
            Err(why) => {
                if why == Closed::TooMany {
                    self.counters.add(Counter::StreamsRefused, 1);
                }
                self.news.push_back(StreamInput::Closed { id, why });
                None
            }
        }
    }

    /// Takes the end of a `connect`; tells whether the stream is open now.
    pub(super) fn connected(&mut self, slot: usize, result: OsResult<()>) -> bool {
        let stream = self.stream(slot);
        if stream.state != State::Connecting {
            return false;
        }
        match result {
            Ok(()) => {
                stream.state = State::Open;
                let id = stream.id;
                self.counters.add(Counter::StreamsOpened, 1);
                self.news.push_back(StreamInput::Connected { id });
                self.list(slot);
                true
            }
            Err(errno) => {
                self.end(slot, closed_by(errno));
                false
            }
        }
    }

    /// Takes a connection that was accepted, and gives its slot; or the failure to accept one,
    /// after which the listeners rest.
    pub(super) fn accepted(&mut self, result: OsResult<OwnedFd>) -> Option<usize> {
        let fd = match result {
            Ok(fd) => fd,
            Err(errno) => {
                self.judge_accept(errno);
                return None;
            }
        };
        let from = rustix::net::getpeername(&fd).ok();
        let from = from
            .flatten()
            .and_then(|name| SocketAddr::try_from(name).ok());
        // Gone already, or one too many: it sees the end at once, and may ask somebody else.
        let from = from?;
        if self.ids.len() >= STREAMS_MAX {
            self.counters.add(Counter::StreamsRefused, 1);
            return None;
        }
        tune(&fd);
        let id = StreamId::incoming(self.accepted);
        self.accepted = self.accepted.checked_add(1)?;
        let slot = self.insert(id, fd, State::Open);
        self.counters.add(Counter::StreamsOpened, 1);
        self.news.push_back(StreamInput::Accepted { id, from });
        Some(slot)
    }

    fn judge_accept(&mut self, errno: i32) {
        let is_out = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM].contains(&errno);
        if is_out {
            tracing::warn!(errno, "connections cannot be accepted");
            self.counters.add(Counter::StreamsRefused, 1);
        }
        // Everything else is about a connection that is gone already; the kernel's next may be too.
        let passing = [
            libc::EAGAIN,
            libc::EINTR,
            libc::ECONNABORTED,
            libc::ECANCELED,
        ];
        if !passing.contains(&errno) {
            self.rest = Some(Instant::now() + STREAM_ACCEPT_REST);
        }
    }

    /// Whether the listeners rest.
    pub(super) fn rests(&mut self) -> bool {
        self.rest = self.rest.filter(|&until| Instant::now() < until);
        self.rest.is_some()
    }

    /// How long the driver may sleep, which is willing to sleep for `most`.
    pub(super) fn patience(&self, most: Duration) -> Duration {
        let opening = self.opening.front().map(|(until, _)| *until);
        let deadline = opening.into_iter().chain(self.rest).min();
        deadline.map_or(most, |deadline| {
            most.min(deadline.saturating_duration_since(Instant::now()))
        })
    }

    /// Ends a stream that has not opened in time, and gives its slot, to be let go of.
    pub(super) fn late(&mut self) -> Option<usize> {
        loop {
            let (until, id) = *self.opening.front()?;
            let slot = self.ids.get(&id).copied();
            let slot = slot.filter(|&slot| self.stream(slot).state == State::Connecting);
            if slot.is_some() && Instant::now() < until {
                return None;
            }
            self.opening.pop_front();
            if let Some(slot) = slot {
                self.end(slot, Closed::TimedOut);
                return Some(slot);
            }
        }
    }

    /// How many slots can send, at the most.
    pub(super) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// The next slot that can send, with what it sends; [`Self::sent`] is told what came of it.
    pub(super) fn gather(&mut self) -> Option<(usize, Box<Gather>, bool)> {
        loop {
            let slot = self.ready.pop_front()?;
            let stream = self.stream(slot);
            if stream.state != State::Open {
                continue;
            }
            stream.sending = Sending::Busy;
            let mut gather = self.spare.pop().unwrap_or_else(Gather::new);
            let stream = self.stream(slot);
            gather.fill(&mut stream.queue);
            let zero_copy = stream.zero_copy
                && stream.unread < STREAM_ZERO_COPIES_MAX
                && gather.byte_count() >= STREAM_ZERO_COPY_BYTES_MIN;
            self.counters.add(Counter::StreamSends, 1);
            return Some((slot, gather, zero_copy));
        }
    }

    /// Takes what the kernel says about a send; tells whether the stream has to wait until the
    /// socket takes more.
    pub(super) fn sent(
        &mut self,
        slot: usize,
        gather: &Gather,
        result: OsResult<usize>,
        zero_copy: bool,
    ) -> bool {
        let waits = self.options.waits;
        let stream = self.stream(slot);
        if stream.state == State::Ended {
            return false;
        }
        let count = *result.as_ref().unwrap_or(&0);
        gather.put_back(count, &mut stream.queue);
        stream.sending = Sending::Idle;
        match result {
            Ok(_) => {
                let id = stream.id;
                self.counters.add(Counter::StreamBytesOut, count as u64);
                self.news.push_back(StreamInput::Sent { id, count });
            }
            // Memory to pin, or to note what is pinned, is short.
            Err(libc::ENOMEM | libc::ENOBUFS | libc::EINVAL | libc::EOPNOTSUPP) if zero_copy => {
                stream.zero_copy = false;
            }
            Err(libc::EAGAIN) if !waits => {
                stream.sending = Sending::Busy;
                return true;
            }
            Err(libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => {}
            Err(errno) => {
                // The receiving end hears of it too, after what came before.
                stream.failed = Some(errno);
                stream.sending = Sending::Busy;
                stream.queue.clear();
                return false;
            }
        }
        self.list(slot);
        false
    }

    /// Takes note that the socket takes more bytes again.
    pub(super) fn writable(&mut self, slot: usize) {
        let stream = self.stream(slot);
        if stream.failed.is_none() {
            stream.sending = Sending::Idle;
            self.list(slot);
        }
    }

    /// Takes note that the kernel was asked not to copy.
    pub(super) fn asked_for_no_copy(&mut self, slot: usize) {
        self.stream(slot).unread += 1;
        self.counters.add(Counter::StreamZeroCopies, 1);
    }

    /// Takes note that the kernel reads a send no longer, and whether it had to copy it.
    pub(super) fn read(&mut self, slot: usize, id: StreamId, copied: bool) {
        self.counters
            .add(Counter::StreamZeroCopiesCopied, copied.into());
        let stream = self.slots[slot].as_mut();
        // The slot may be another's by now.
        let Some(stream) = stream.filter(|stream| stream.id == id) else {
            return;
        };
        stream.unread -= 1;
        stream.copies = if copied { stream.copies + 1 } else { 0 };
        if stream.zero_copy && stream.copies == COPIES_MAX {
            // To hear of each copy costs more than to ask for it.
            stream.zero_copy = false;
            tracing::debug!(%id, "this route copies what is sent");
        }
    }

    /// Takes the gather of a send back.
    pub(super) fn reuse(&mut self, mut gather: Box<Gather>) {
        gather.clear();
        if self.spare.len() < SPARE_MAX {
            self.spare.push(gather);
        }
    }

    /// Takes the result of a receive: the name of the stream if there are bytes for the machine;
    /// otherwise the stream has ended, or is to be received from again.
    pub(super) fn received(&mut self, slot: usize, result: OsResult<usize>) -> Option<StreamId> {
        let stream = self.stream(slot);
        if stream.state != State::Open {
            return None;
        }
        let (id, failed) = (stream.id, stream.failed);
        match result {
            Ok(0) => self.end(slot, failed.map_or(Closed::ByPeer, closed_by)),
            Ok(count) => {
                if count < STREAM_MESSAGE_BYTES && stream.sending == Sending::Idle {
                    acknowledge(&stream.fd);
                }
                self.counters.add(Counter::StreamBytesIn, count as u64);
                self.counters.add(Counter::StreamReceives, 1);
                return Some(id);
            }
            Err(libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM) => {}
            Err(errno) => self.end(slot, closed_by(failed.unwrap_or(errno))),
        }
        None
    }

    /// Ends a stream, of which the machine is told nothing more than that.
    fn end(&mut self, slot: usize, why: Closed) {
        let stream = self.stream(slot);
        assert!(stream.state != State::Ended, "a stream ends once");
        let was_open = stream.state == State::Open;
        stream.state = State::Ended;
        stream.queue.clear();
        let id = stream.id;
        self.ids.remove(&id);
        self.news.push_back(StreamInput::Closed { id, why });
        self.counters
            .add(Counter::StreamsClosed, u64::from(was_open));
    }

    /// Whether the stream in a slot carries bytes.
    pub(super) fn is_open(&mut self, slot: usize) -> bool {
        self.stream(slot).state == State::Open
    }

    /// How many operations on the slot's socket the kernel has.
    pub(super) fn held(&mut self, slot: usize) -> u32 {
        self.stream(slot).held
    }

    /// Takes note of an operation on the slot's socket that the kernel was given.
    pub(super) fn hold(&mut self, slot: usize) {
        self.stream(slot).held += 1;
    }

    /// Takes note that one of them has ended.
    pub(super) fn let_go(&mut self, slot: usize) {
        let stream = self.stream(slot);
        stream.held = stream
            .held
            .checked_sub(1)
            .expect("what was given has ended");
        self.free_if_over(slot);
    }

    /// Frees the slot and closes its socket, if it has ended and the kernel has nothing of it.
    pub(super) fn free_if_over(&mut self, slot: usize) {
        let stream = self.stream(slot);
        if stream.state == State::Ended && stream.held == 0 {
            let listed = stream.sending == Sending::Listed;
            self.slots[slot] = None;
            self.free.push(slot);
            if listed {
                self.ready.retain(|&other| other != slot);
            }
        }
    }

    /// Whether the machine is to be told something.
    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// What the machine is to be told next.
    pub(super) fn news(&mut self) -> Option<StreamInput<'static>> {
        self.news.pop_front()
    }

    pub(super) fn fd(&self, slot: usize) -> BorrowedFd<'_> {
        let stream = self.slots[slot].as_ref().expect("a slot in use");
        stream.fd.as_fd()
    }

    pub(super) fn id(&mut self, slot: usize) -> StreamId {
        self.stream(slot).id
    }

    /// Counts entries into the kernel.
    pub(super) fn entered(&self, counter: Counter) {
        self.counters.add(counter, 1);
    }

    /// Ends every stream and closes its socket; the machine is not told.
    pub(super) fn clear(&mut self) {
        let open = self.slots.iter().flatten();
        let open = open.filter(|stream| stream.state == State::Open).count();
        self.counters.add(Counter::StreamsClosed, open as u64);
        self.slots.clear();
        self.free.clear();
        self.ids.clear();
        self.news.clear();
        self.ready.clear();
        self.opening.clear();
    }

    fn insert(&mut self, id: StreamId, fd: OwnedFd, state: State) -> usize {
        let stream = Stream {
            id,
            fd,
            state,
            queue: VecDeque::new(),
            sending: Sending::Idle,
            held: 0,
            zero_copy: self.options.zero_copy,
            copies: 0,
            unread: 0,
            failed: None,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(stream);
        self.ids.insert(id, slot);
        slot
    }

    /// Puts a slot into the list of those that can send, if it is and can.
    fn list(&mut self, slot: usize) {
        let stream = self.stream(slot);
        let can = stream.state == State::Open && stream.failed.is_none();
        if can && stream.sending == Sending::Idle && !stream.queue.is_empty() {
            stream.sending = Sending::Listed;
            self.ready.push_back(slot);
        }
    }

    fn stream(&mut self, slot: usize) -> &mut Stream {
        self.slots[slot].as_mut().expect("a slot in use")
    }
}

pub(super) fn errno_of(e: &std::io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}

/// Empty gathers that are kept.
const SPARE_MAX: usize = 64;
