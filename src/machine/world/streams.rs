//! Byte streams between simulated hosts: in order, whole, as fast as both hosts' links allow.
//!
//! ```text
//!   machine --Send--> up link, in segments --> down link --> Received
//!                        └─► Sent, when a segment has left the host
//! ```
//!
//! Loss does not show in a stream, as TCP repairs it; delay and rate do. A host that crashes or is
//! cut off resets its streams: the other side hears of it when it would next hear anything.

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
    connections: Vec<Connection>,
    /// How many streams each host has accepted.
    accepted: BTreeMap<HostIndex, u32>,
    /// Open ends by host and the host's name for them.
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
    is_open: bool,
    /// What waits to go out.
    queue: VecDeque<Bytes>,
    /// A segment is on the up link: the next follows when it is through.
    is_sending: bool,
}

/// Something that happens to a stream.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// The other side is reached: it accepts or nobody listens.
    Arrive {
        from: HostIndex,
        incarnation: u32,
        id: StreamId,
        to: SocketAddr,
    },
    /// The answer is back.
    Connected { end: EndIndex },
    /// Nobody answered.
    Refused {
        host: HostIndex,
        incarnation: u32,
        id: StreamId,
        why: Closed,
    },
    /// A segment has left its host.
    Left { end: EndIndex, count: usize },
    /// A segment reaches the other side.
    Bytes { to: EndIndex, bytes: Bytes },
    /// The other side is gone.
    Closed { end: EndIndex, why: Closed },
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
/// Headers of Ethernet, IP and TCP by the bytes they carry at an MTU of 1500.
const HEADER_SHARE: f64 = 78.0 / 1448.0;
/// How long a connect that nobody answers takes.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);

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
            StreamOp::Connect { id, to } => {
                assert!(!id.is_incoming(), "a machine opens outgoing streams");
                let incarnation = self.hosts[host.0].incarnation;
                let at = self.now + self.hosts[host.0].up.conditions.latency;
                self.push_step(
                    at,
                    Step::Arrive {
                        from: host,
                        incarnation,
                        id,
                        to,
                    },
                );
            }
            StreamOp::Send { id, bytes } => {
                assert!(!bytes.is_empty(), "a send has bytes");
                if let Some(end) = self.end_of(host, id) {
                    self.end_mut(end).queue.push_back(bytes);
                    self.pump(end);
                }
            }
            StreamOp::Close { id } => {
                if let Some(end) = self.end_of(host, id) {
                    self.end_mut(end).is_open = false;
                    self.push_step(
                        self.now,
                        Step::Closed {
                            end,
                            why: Closed::ByUs,
                        },
                    );
                    self.tell_other(end, Closed::ByPeer);
                }
            }
        }
    }

    /// What becomes of the streams of a host that crashes.
    pub(super) fn reset_streams(&mut self, host: HostIndex) {
        for index in 0..self.streams.connections.len() {
            for side in 0..2 {
                let end = EndIndex {
                    connection: index,
                    side,
                };
                if self.end(end).host == host && self.end(end).is_open {
                    self.end_mut(end).is_open = false;
                    self.tell_other(end, Closed::Errno(libc::ECONNRESET));
                }
            }
        }
    }

    pub(super) fn stream_step(&mut self, step: Step) {
        match step {
            Step::Arrive {
                from,
                incarnation,
                id,
                to,
            } => self.accept(from, incarnation, id, to),
            Step::Refused {
                host,
                incarnation,
                id,
                why,
            } => {
                if self.hosts[host.0].incarnation == incarnation {
                    self.tell(host, StreamInput::Closed { id, why });
                }
            }
            Step::Connected { end } => {
                let End { host, id, .. } = *self.end(end);
                if self.is_alive(end) {
                    self.tell(host, StreamInput::Connected { id });
                }
            }
            Step::Left { end, count } => {
                self.end_mut(end).is_sending = false;
                let End { host, id, .. } = *self.end(end);
                if self.is_alive(end) {
                    self.tell(host, StreamInput::Sent { id, count });
                    self.pump(end);
                }
            }
            Step::Bytes { to, bytes } => {
                let End { host, id, .. } = *self.end(to);
                if self.is_alive(to) {
                    let mut bytes = bytes.to_vec();
                    self.note([self.now.as_nanos(), host.0 as u64, bytes.len() as u64, 1]);
                    self.tell(
                        host,
                        StreamInput::Received {
                            id,
                            bytes: &mut bytes,
                        },
                    );
                }
            }
            Step::Closed { end, why } => {
                let was_open = std::mem::take(&mut self.end_mut(end).is_open);
                let End {
                    host,
                    incarnation,
                    id,
                    ..
                } = *self.end(end);
                self.end_mut(end).queue.clear();
                let is_same = self.hosts[host.0].incarnation == incarnation;
                if is_same && (was_open || why == Closed::ByUs) {
                    self.tell(host, StreamInput::Closed { id, why });
                }
            }
        }
    }

    fn accept(&mut self, from: HostIndex, incarnation: u32, id: StreamId, to: SocketAddr) {
        let back = self.now + self.hosts[from.0].down.conditions.latency;
        let listener = self.streams.listeners.get(&to).copied();
        let reached = listener.filter(|&host| self.hosts[host.0].side == self.hosts[from.0].side);
        let Some(host) = reached.filter(|&host| self.hosts[host.0].guest.is_some()) else {
            let (at, why) = match reached {
                Some(_) => (back, Closed::Refused),
                None => (self.now + CONNECT_PATIENCE, Closed::TimedOut),
            };
            return self.push_step(
                at,
                Step::Refused {
                    host: from,
                    incarnation,
                    id,
                    why,
                },
            );
        };
        let number = self.streams.accepted.entry(host).or_default();
        let accepted = StreamId::incoming(*number);
        *number += 1;
        let end = |host: HostIndex, incarnation, id| End {
            host,
            incarnation,
            id,
            is_open: true,
            queue: VecDeque::new(),
            is_sending: false,
        };
        let theirs = end(host, self.hosts[host.0].incarnation, accepted);
        let connection = self.streams.connections.len();
        self.streams.connections.push(Connection {
            ends: [end(from, incarnation, id), theirs],
        });
        for (side, key) in [(0, (from, id)), (1, (host, accepted))] {
            self.streams
                .by_id
                .insert(key, EndIndex { connection, side });
        }
        self.push_step(
            back,
            Step::Connected {
                end: EndIndex {
                    connection,
                    side: 0,
                },
            },
        );
        let from = self.hosts[from.0].sockets[0].local;
        self.tell(host, StreamInput::Accepted { id: accepted, from });
    }

    /// Puts the next segment of an end on its host's link, unless one is there.
    fn pump(&mut self, end: EndIndex) {
        if self.end(end).is_sending || !self.end(end).is_open {
            return;
        }
        let Some(mut bytes) = self.end_mut(end).queue.pop_front() else {
            return;
        };
        let segment = bytes.split_to(bytes.len().min(SEGMENT_BYTES_MAX));
        if !bytes.is_empty() {
            self.end_mut(end).queue.push_front(bytes);
        }
        self.end_mut(end).is_sending = true;
        let (host, other) = (self.end(end).host, self.end(end.other()).host);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a segment is short"
        )]
        let on_wire = segment.len() + (segment.len() as f64 * HEADER_SHARE) as usize;
        let left = self.hosts[host.0].up.carry(self.now, on_wire);
        let count = segment.len();
        self.push_step(left, Step::Left { end, count });
        let is_apart = self.hosts[host.0].side != self.hosts[other.0].side;
        if !is_apart {
            let arrives = self.hosts[other.0].down.carry(left, on_wire);
            self.push_step(
                arrives,
                Step::Bytes {
                    to: end.other(),
                    bytes: segment,
                },
            );
        }
    }

    /// Tells the other side that this one is gone, after what is on its way.
    fn tell_other(&mut self, end: EndIndex, why: Closed) {
        let other = self.end(end.other()).host;
        if self.hosts[other.0].side == self.hosts[self.end(end).host.0].side {
            let at = self.hosts[other.0].down.carry(self.now, 0);
            self.push_step(
                at,
                Step::Closed {
                    end: end.other(),
                    why,
                },
            );
        }
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
