//! Byte streams between simulated hosts: in order, whole, as fast as both hosts' links allow.
//!
//! ```text
//!   machine --Send--> up link, in segments --> switch --> down link --> Received
//!                        └─► Sent, when a segment has left the host
//! ```
//!
//! Streams behave as TCP does to who uses it. Loss does not show, delay and rate do; the streams of
//! a host share its links. A stream has [`WINDOW_BYTES`] under way at most, so that a slow receiver
//! holds its senders up. Hosts that are apart do not hear each other: what is said meanwhile
//! arrives when they are together again, or, after [`SILENCE_MAX`], the stream of who spoke times
//! out. A host that crashes resets its streams, and whoever speaks on a stream that the other side
//! has no more hears the same.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::World;
use super::agenda::What;
use super::host::HostIndex;
use crate::base::Time;
use crate::machine::{Closed, StreamId, StreamInput, StreamOp};

/// All streams of a world, and who listens where.
#[derive(Debug, Default)]
pub(super) struct Streams {
    listeners: BTreeMap<SocketAddr, HostIndex>,
    /// What each stream that has not reached the other side yet will send.
    opening: BTreeMap<(HostIndex, StreamId), VecDeque<Bytes>>,
    connections: Vec<Connection>,
    /// How many streams each host has accepted.
    accepted: BTreeMap<HostIndex, u32>,
    /// Ends by host and the host's name for them.
    by_id: BTreeMap<(HostIndex, StreamId), EndIndex>,
}

#[derive(Debug)]
struct Connection {
    ends: [End; 2],
}

/// One side of a connection.
#[derive(Debug)]
struct End {
    host: HostIndex,
    incarnation: u32,
    id: StreamId,
    /// The machine knows that the stream is open: it may send.
    is_connected: bool,
    /// The machine has not been told that it has ended.
    is_open: bool,
    /// What waits to go out.
    queue: VecDeque<Bytes>,
    /// A segment is on the up link: the next follows when it is through.
    is_sending: bool,
    /// Bytes of segments that have not arrived.
    under_way: usize,
    /// What found the other side cut off, in order, and since when.
    stalled: VecDeque<Crossing>,
    stalled_since: Time,
}

impl End {
    fn new(host: HostIndex, incarnation: u32, id: StreamId, queue: VecDeque<Bytes>) -> Self {
        Self {
            host,
            incarnation,
            id,
            is_connected: id.is_incoming(),
            is_open: true,
            queue,
            is_sending: false,
            under_way: 0,
            stalled: VecDeque::new(),
            stalled_since: Time::ZERO,
        }
    }
}

/// Something that happens to a stream.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A request to connect comes to the switch.
    Arrive { dial: Dial, to: SocketAddr },
    /// The request is at the listener.
    Accept { dial: Dial, listener: HostIndex },
    /// The answer is back.
    Connected { end: EndIndex },
    /// A stream ends before there was one.
    Failed { dial: Dial, why: Closed },
    /// A segment has left its host; it is at the switch at `out`.
    Left {
        end: EndIndex,
        bytes: Bytes,
        out: Time,
    },
    /// Something of this end is at the switch.
    Cross { from: EndIndex, what: Crossing },
    /// A segment reaches the other side.
    Bytes { to: EndIndex, bytes: Bytes },
    /// An end hears that the stream is over.
    Closed { end: EndIndex, why: Closed },
    /// An end tries again to say what has found no way.
    Retry { end: EndIndex },
}

/// Who connects, and until when it waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial {
    host: HostIndex,
    incarnation: u32,
    id: StreamId,
    until: Time,
}

/// What goes from one end to the other.
#[derive(Clone, Debug)]
pub(super) enum Crossing {
    /// The stream is accepted.
    Connected,
    /// A segment.
    Bytes(Bytes),
    /// The stream is over.
    End(Closed),
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndIndex {
    connection: usize,
    side: usize,
}

impl EndIndex {
    const fn other(self) -> Self {
        Self {
            side: 1 - self.side,
            ..self
        }
    }
}

/// The most bytes that go over a link at a time, so that streams share it.
const SEGMENT_BYTES_MAX: usize = 32 << 10;
/// The most bytes of a stream that are under way: enough for 2 Gbit/s at a delay of 1 ms.
const WINDOW_BYTES: usize = 256 << 10;
/// Headers of Ethernet, IP and TCP by the bytes they carry at an MTU of 1500.
const HEADER_SHARE: f64 = 78.0 / 1448.0;
/// How long a connect that nobody answers takes.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long what is said may find no way before the stream times out.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How often a connect is tried.
const CONNECT_RETRY: Duration = Duration::from_secs(1);
/// How often it is tried to go on.
const RETRY: Duration = Duration::from_millis(200);
/// The first port that hosts connect from.
const DIAL_PORT: u16 = 49_152;

impl World {
    /// Lets the machine of a host accept streams at `address`, also after a crash.
    ///
    /// # Panics
    /// If the address is taken.
    pub fn listen(&mut self, host: HostIndex, address: SocketAddr) {
        let taken = self.streams.listeners.insert(address, host);
        assert!(taken.is_none(), "{address} has one owner");
    }

    /// Does what a machine wants of its streams.
    pub(super) fn stream_op(&mut self, host: HostIndex, op: StreamOp) {
        match op {
            StreamOp::Connect { id, to } => self.dial(host, id, to),
            StreamOp::Send { id, bytes } => {
                assert!(!bytes.is_empty(), "a send has bytes");
                if let Some(queue) = self.streams.opening.get_mut(&(host, id)) {
                    queue.push_back(bytes);
                } else if let Some(end) = self.end_of(host, id) {
                    self.end_mut(end).queue.push_back(bytes);
                    self.pump(end);
                }
            }
            StreamOp::Close { id } => {
                if self.streams.opening.remove(&(host, id)).is_some() {
                    let dial = self.dial_of(host, id);
                    let why = Closed::ByUs;
                    self.push_step(self.now, Step::Failed { dial, why });
                } else if let Some(end) = self.end_of(host, id) {
                    let why = Closed::ByUs;
                    self.let_go(end);
                    self.push_step(self.now, Step::Closed { end, why });
                    self.say(end, Crossing::End(Closed::ByPeer));
                }
            }
        }
    }

    /// What becomes of the streams of a host that crashes.
    pub(super) fn reset_streams(&mut self, host: HostIndex) {
        self.streams.opening.retain(|(of, _), _| *of != host);
        for connection in 0..self.streams.connections.len() {
            for side in 0..2 {
                let end = EndIndex { connection, side };
                if self.end(end).host != host {
                    continue;
                }
                // Its kernel is silent from now on, and repeats nothing.
                self.end_mut(end).stalled.clear();
                if self.end(end).is_open {
                    self.let_go(end);
                    if !self.is_apart(end) {
                        self.say(end, Crossing::End(Closed::Errno(libc::ECONNRESET)));
                    }
                }
            }
        }
    }

    pub(super) fn stream_step(&mut self, step: Step) {
        match step {
            Step::Arrive { dial, to } => self.find_listener(dial, to),
            Step::Accept { dial, listener } => self.accept(dial, listener),
            Step::Failed { dial, why } => self.failed(dial, why),
            Step::Connected { end } => {
                if self.is_alive(end) {
                    self.end_mut(end).is_connected = true;
                    let End { host, id, .. } = *self.end(end);
                    self.tell(host, StreamInput::Connected { id });
                    self.pump(end);
                }
            }
            Step::Left { end, bytes, out } => {
                self.end_mut(end).is_sending = false;
                let End { host, id, .. } = *self.end(end);
                let count = bytes.len();
                let what = Crossing::Bytes(bytes);
                if out > self.now {
                    self.push_step(out, Step::Cross { from: end, what });
                } else {
                    self.cross(end, what);
                }
                if self.is_alive(end) {
                    self.tell(host, StreamInput::Sent { id, count });
                    self.pump(end);
                }
            }
            Step::Cross { from, what } => self.cross(from, what),
            Step::Bytes { to, bytes } => self.receive(to, &bytes),
            Step::Closed { end, why } => {
                let was_open = self.is_alive(end);
                let End {
                    host,
                    incarnation,
                    id,
                    ..
                } = *self.end(end);
                self.let_go(end);
                let is_same = self.hosts[host.0].incarnation == incarnation;
                if was_open || (is_same && why == Closed::ByUs) {
                    self.tell(host, StreamInput::Closed { id, why });
                }
            }
            Step::Retry { end } => self.retry(end),
        }
    }

    fn dial(&mut self, host: HostIndex, id: StreamId, to: SocketAddr) {
        assert!(!id.is_incoming(), "a machine opens outgoing streams");
        let fresh = self.streams.opening.insert((host, id), VecDeque::new());
        assert!(fresh.is_none(), "a name is used once");
        let dial = self.dial_of(host, id);
        let (_, out) = self.hosts[host.0].up.carry(self.now, 0);
        self.push_step(out, Step::Arrive { dial, to });
    }

    fn dial_of(&self, host: HostIndex, id: StreamId) -> Dial {
        Dial {
            host,
            incarnation: self.hosts[host.0].incarnation,
            id,
            until: self.now + CONNECT_PATIENCE,
        }
    }

    /// Whether the machine still waits for an answer.
    fn is_opening(&self, dial: Dial) -> bool {
        let is_same = self.hosts[dial.host.0].incarnation == dial.incarnation;
        is_same && self.streams.opening.contains_key(&(dial.host, dial.id))
    }

    fn find_listener(&mut self, dial: Dial, to: SocketAddr) {
        if !self.is_opening(dial) {
            return;
        }
        let side = self.hosts[dial.host.0].side;
        let listener = self.streams.listeners.get(&to).copied();
        let has_ip = |host: &super::Host| host.sockets.iter().any(|s| s.local.ip() == to.ip());
        let listens = listener.map(|host| &self.hosts[host.0]);
        let mut hosts = listens
            .into_iter()
            .chain(self.hosts.iter().filter(|h| has_ip(h)));
        let is_there = hosts.any(|host| host.side == side);
        let again = self.now + CONNECT_RETRY;
        if let Some(listener) = listener.filter(|host| self.hosts[host.0].side == side) {
            let (_, at) = self.hosts[listener.0].down.carry(self.now, 0);
            self.push_step(at, Step::Accept { dial, listener });
        } else if is_there {
            self.refuse(dial);
        } else if again < dial.until {
            self.push_step(again, Step::Arrive { dial, to });
        } else {
            let why = Closed::TimedOut;
            self.push_step(dial.until, Step::Failed { dial, why });
        }
    }

    fn refuse(&mut self, dial: Dial) {
        let (_, at) = self.hosts[dial.host.0].down.carry(self.now, 0);
        let why = Closed::Refused;
        self.push_step(at, Step::Failed { dial, why });
    }

    /// Tells who connects that nothing comes of it, unless it has given up itself.
    fn failed(&mut self, dial: Dial, why: Closed) {
        let Dial { host, id, .. } = dial;
        if self.hosts[host.0].incarnation != dial.incarnation {
            return;
        }
        let was_opening = self.streams.opening.remove(&(host, id)).is_some();
        if was_opening || why == Closed::ByUs {
            self.tell(host, StreamInput::Closed { id, why });
        }
    }

    fn accept(&mut self, dial: Dial, listener: HostIndex) {
        if !self.is_opening(dial) {
            return;
        }
        if self.hosts[listener.0].guest.is_none() {
            return self.refuse(dial);
        }
        let opening = self.streams.opening.remove(&(dial.host, dial.id));
        let number = self.streams.accepted.entry(listener).or_default();
        let accepted = StreamId::incoming(*number);
        *number += 1;
        let ours = End::new(
            dial.host,
            dial.incarnation,
            dial.id,
            opening.unwrap_or_default(),
        );
        let incarnation = self.hosts[listener.0].incarnation;
        let theirs = End::new(listener, incarnation, accepted, VecDeque::new());
        let connection = self.streams.connections.len();
        self.streams.connections.push(Connection {
            ends: [ours, theirs],
        });
        let end = |side| EndIndex { connection, side };
        self.streams.by_id.insert((dial.host, dial.id), end(0));
        self.streams.by_id.insert((listener, accepted), end(1));
        self.say(end(1), Crossing::Connected);
        // As a kernel does: from a port of its own, not from one that the host listens on.
        let port = DIAL_PORT + u16::try_from(connection % 16_384).unwrap_or(0);
        let sockets = &self.hosts[dial.host.0].sockets;
        let ip = sockets
            .first()
            .expect("a host that connects has an address")
            .local
            .ip();
        let from = SocketAddr::new(ip, port);
        self.tell(listener, StreamInput::Accepted { id: accepted, from });
    }

    /// Puts the next segment of an end on its host's link, unless one is there or the window is
    /// full.
    fn pump(&mut self, index: EndIndex) {
        let end = self.end_mut(index);
        let may_send = end.is_open && end.is_connected && !end.is_sending;
        if !may_send || end.under_way >= WINDOW_BYTES {
            return;
        }
        let Some(mut bytes) = end.queue.pop_front() else {
            return;
        };
        let segment = bytes.split_to(bytes.len().min(SEGMENT_BYTES_MAX));
        if !bytes.is_empty() {
            end.queue.push_front(bytes);
        }
        end.is_sending = true;
        end.under_way += segment.len();
        let host = end.host;
        let (sent, out) = self.hosts[host.0]
            .up
            .carry(self.now, on_wire(segment.len()));
        let step = Step::Left {
            end: index,
            bytes: segment,
            out,
        };
        self.push_step(sent, step);
    }

    /// Tells the other side something that takes no room, after what is on its way.
    fn say(&mut self, from: EndIndex, what: Crossing) {
        let host = self.end(from).host;
        let (_, out) = self.hosts[host.0].up.carry(self.now, 0);
        self.push_step(out, Step::Cross { from, what });
    }

    /// Brings something over the switch to the down link of the other side, or keeps it.
    fn cross(&mut self, from: EndIndex, what: Crossing) {
        if self.is_apart(from) || !self.end(from).stalled.is_empty() {
            let now = self.now;
            let end = self.end_mut(from);
            if end.stalled.is_empty() {
                end.stalled_since = now;
                self.push_step(now + RETRY, Step::Retry { end: from });
            }
            self.end_mut(from).stalled.push_back(what);
            return;
        }
        let to = from.other();
        let host = self.end(to).host;
        let down = &mut self.hosts[host.0].down;
        match what {
            Crossing::Connected => {
                let (_, at) = down.carry(self.now, 0);
                self.push_step(at, Step::Connected { end: to });
            }
            Crossing::Bytes(bytes) => {
                let (_, at) = down.carry(self.now, on_wire(bytes.len()));
                self.push_step(at, Step::Bytes { to, bytes });
            }
            Crossing::End(why) => {
                let (_, at) = down.carry(self.now, 0);
                self.push_step(at, Step::Closed { end: to, why });
            }
        }
    }

    fn retry(&mut self, end: EndIndex) {
        let since = self.end(end).stalled_since;
        if !self.is_apart(end) {
            for what in std::mem::take(&mut self.end_mut(end).stalled) {
                self.cross(end, what);
            }
        } else if self.now.since(since) < SILENCE_MAX {
            self.push_step(self.now + RETRY, Step::Retry { end });
        } else {
            self.end_mut(end).stalled.clear();
            let why = Closed::TimedOut;
            self.stream_step(Step::Closed { end, why });
        }
    }

    /// Gives a segment to the machine at its end; that it has arrived makes room for the next.
    fn receive(&mut self, to: EndIndex, segment: &Bytes) {
        let sender = to.other();
        self.end_mut(sender).under_way -= segment.len();
        if self.is_alive(to) {
            let End { host, id, .. } = *self.end(to);
            let bytes = &mut segment.to_vec();
            self.note([self.now.as_nanos(), host.0 as u64, bytes.len() as u64, 1]);
            self.tell(host, StreamInput::Received { id, bytes });
        } else if self.end(sender).is_open {
            self.say(to, Crossing::End(Closed::Errno(libc::ECONNRESET)));
        }
        self.pump(sender);
    }

    /// The machine at this end is done with the stream; what has not left is dropped.
    fn let_go(&mut self, end: EndIndex) {
        let end = self.end_mut(end);
        end.is_open = false;
        end.queue.clear();
    }

    fn tell(&mut self, host: HostIndex, input: StreamInput<'_>) {
        if let Some(guest) = self.hosts[host.0].guest.as_deref_mut() {
            guest.stream(input, self.now);
            self.serve(host);
        }
    }

    fn push_step(&mut self, at: Time, step: Step) {
        self.agenda
            .push(at.max(self.now), What::Stream(Box::new(step)));
    }

    /// Whether the hosts of a connection do not hear each other.
    fn is_apart(&self, end: EndIndex) -> bool {
        let side = |end| self.hosts[self.end(end).host.0].side;
        side(end) != side(end.other())
    }

    fn is_alive(&self, end: EndIndex) -> bool {
        let end = self.end(end);
        end.is_open && self.hosts[end.host.0].incarnation == end.incarnation
    }

    fn end_of(&self, host: HostIndex, id: StreamId) -> Option<EndIndex> {
        let end = *self.streams.by_id.get(&(host, id))?;
        self.is_alive(end).then_some(end)
    }

    fn end(&self, index: EndIndex) -> &End {
        &self.streams.connections[index.connection].ends[index.side]
    }

    fn end_mut(&mut self, index: EndIndex) -> &mut End {
        &mut self.streams.connections[index.connection].ends[index.side]
    }
}

/// What a segment takes of a link.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a segment is short"
)]
fn on_wire(len: usize) -> usize {
    len + (len as f64 * HEADER_SHARE) as usize
}

#[cfg(test)]
mod tests;
