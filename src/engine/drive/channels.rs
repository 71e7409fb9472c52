//! The sockets of a driver, and what both backends do alike with results: counting, and falling
//! back when the kernel or a network card does not coalesce after all.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::burst::{Burst, Verdict};
use crate::base::{Counter, Counters};
use crate::engine::error::Result;
use crate::engine::limits::{COPIES_MAX, SOCKET_RECEIVE_BYTES};
use crate::engine::net::Socket;
use crate::engine::net::sys::{self, Controls, OutMessage};
use crate::engine::ways::{Way, Ways};
use crate::machine::Channel;

pub(super) struct Channels {
    list: Vec<State>,
    counters: Arc<Counters>,
}

struct State {
    socket: Socket,
    send: Way,
    receive: Way,
    dropped_total: u32,
    /// How many of the last sends were copied though they need not have been.
    copies: u32,
    /// A failed send was logged; more of them are only counted.
    warned: bool,
}

/// Whether a backend can hand over several messages in one entry into the kernel, and without a
/// copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Batches {
    pub(in crate::engine) send: bool,
    pub(in crate::engine) receive: bool,
    pub(in crate::engine) zero_copy: bool,
}

impl Batches {
    /// Several both ways.
    pub(super) const BOTH: Self = Self {
        send: true,
        receive: true,
        zero_copy: false,
    };

    /// Asks whether plain system calls can.
    pub(in crate::engine) fn probe(socket: &Socket) -> Self {
        let (send, receive) = sys::batches(socket.as_fd());
        Self {
            send,
            receive,
            ..Self::BOTH
        }
    }
}

impl Channels {
    /// Takes the sockets, to be used in the fastest ways that `most` allows and that work.
    pub(super) fn new(
        sockets: Vec<Socket>,
        most: Ways,
        batches: Batches,
        counters: Arc<Counters>,
    ) -> Result<Self> {
        let zero_copy = batches.zero_copy;
        let best = |most: Way, coalesces: bool, batches: bool| match most {
            Way::ZeroCopy if coalesces && zero_copy => Way::ZeroCopy,
            Way::ZeroCopy | Way::Coalesced if coalesces => Way::Coalesced,
            Way::ZeroCopy | Way::Coalesced | Way::Batched if batches => Way::Batched,
            Way::ZeroCopy | Way::Coalesced | Way::Batched | Way::Single => Way::Single,
        };
        let mut list = Vec::with_capacity(sockets.len());
        for mut socket in sockets {
            if most.receive < Way::Coalesced && socket.gro() {
                socket.disable_gro()?;
            }
            list.push(State {
                send: best(most.send, socket.gso(), batches.send),
                receive: best(most.receive, socket.gro(), batches.receive),
                socket,
                dropped_total: 0,
                copies: 0,
                warned: false,
            });
        }
        Ok(Self { list, counters })
    }

    pub(super) fn count(&self) -> usize {
        self.list.len()
    }

    /// Every channel.
    pub(super) fn all(&self) -> impl Iterator<Item = Channel> + use<> {
        (0..=u8::MAX).take(self.list.len()).map(Channel)
    }

    pub(super) fn fd(&self, channel: Channel) -> BorrowedFd<'_> {
        self.state(channel).socket.as_fd()
    }

    /// The slowest ways among the channels.
    pub(super) fn ways(&self) -> (Way, Way) {
        let slowest = |way: fn(&State) -> Way| self.list.iter().map(way).min();
        let send = slowest(|state| state.send).unwrap_or(Way::Coalesced);
        let receive = slowest(|state| state.receive).unwrap_or(Way::Coalesced);
        (send, receive)
    }

    /// What `most` allows and the kernel did not grant, in words.
    pub(super) fn notes(&self, most: Ways) -> Vec<String> {
        let mut notes = Vec::new();
        for state in &self.list {
            let local = state.socket.local();
            // That nothing is sent without a copy is usual.
            if state.send < most.send.min(Way::Coalesced) {
                notes.push(format!(
                    "The kernel does not take {} on {local}, {} is used",
                    most.send.send_name(),
                    state.send.send_name()
                ));
            }
            if state.receive < most.receive {
                notes.push(format!(
                    "The kernel does not give {} on {local}, {} is used",
                    most.receive.receive_name(),
                    state.receive.receive_name()
                ));
            }
            let granted = state.socket.receive_bytes();
            if granted < SOCKET_RECEIVE_BYTES {
                notes.push(format!(
                    "The receive buffer on {local} is {granted} bytes of {SOCKET_RECEIVE_BYTES} \
                     wanted; raise net.core.rmem_max or run with CAP_NET_ADMIN"
                ));
            }
        }
        notes
    }

    /// Points a burst at what goes out next on its channel, in the given way at most.
    pub(super) fn aim<'a>(&self, burst: &'a mut Burst, most: Way) -> &'a mut OutMessage {
        burst.aim(self.state(burst.transmit().channel).send.min(most))
    }

    /// Counts entries into the kernel for sending or receiving.
    pub(super) fn entered(&self, counter: Counter, count: u64) {
        self.counters.add(counter, count);
    }

    /// Takes what the kernel says about a burst's part; the burst has more to send unless done.
    pub(super) fn sent(&mut self, burst: &mut Burst, verdict: &Verdict) {
        let channel = burst.transmit().channel;
        let state = &mut self.list[usize::from(channel.0)];
        let interrupted = verdict.taken == 0 && verdict.errno == libc::EINTR;
        if interrupted || burst.slow_down(verdict) {
            return;
        }
        if verdict.taken > 0 && burst.way() < state.send {
            // Refused in a faster way, it is taken in this one: the way is what failed.
            state.send = burst.way();
            let way = state.send.send_name();
            tracing::warn!(channel = channel.0, way, "the kernel refuses faster sends");
            self.counters.add(Counter::SendFallbacks, 1);
        }
        if burst.is_zero_copy() {
            state.copies = if verdict.copied { state.copies + 1 } else { 0 };
            if state.copies == COPIES_MAX {
                // To hear of each copy costs more than to ask for it.
                state.send = Way::Coalesced;
                tracing::debug!(channel = channel.0, "this route copies what is sent");
            }
        }
        let judged = burst.advance(verdict);
        self.counters
            .add(Counter::PacketsOut, judged.packets as u64);
        self.counters.add(Counter::BytesOut, judged.bytes as u64);
        if judged.unsent > 0 {
            if !state.warned {
                state.warned = true;
                let errno = verdict.errno;
                tracing::warn!(channel = channel.0, errno, "datagrams cannot be sent");
            }
            self.counters
                .add(Counter::PacketsUnsent, judged.unsent as u64);
        }
    }

    /// Counts a received message of `len` bytes; gives the size of its datagrams and the total of
    /// dropped ones.
    pub(super) fn received(
        &mut self,
        channel: Channel,
        len: usize,
        controls: Controls,
    ) -> (usize, u32) {
        let state = &mut self.list[usize::from(channel.0)];
        let segment_size = controls.segment_size.unwrap_or(len).max(1);
        let packets = len.div_ceil(segment_size).max(1) as u64;
        self.counters.add(Counter::PacketsIn, packets);
        self.counters.add(Counter::BytesIn, len as u64);
        if let Some(total) = controls.dropped_total {
            let more = total.wrapping_sub(state.dropped_total);
            self.counters.add(Counter::DroppedByKernel, more.into());
            state.dropped_total = total;
        }
        (segment_size, state.dropped_total)
    }

    fn state(&self, channel: Channel) -> &State {
        self.list
            .get(usize::from(channel.0))
            .expect("the driver has checked the machine's channel")
    }
}
