//! The sockets of a driver, and what both backends do alike with results: counting, and falling
//! back when the kernel or a network card does not coalesce after all.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::burst::Burst;
use crate::base::{Counter, Counters};
use crate::engine::limits::SOCKET_RECEIVE_BYTES;
use crate::engine::net::Socket;
use crate::engine::net::sys::Controls;
use crate::machine::Channel;

pub(super) struct Channels {
    list: Vec<State>,
    counters: Arc<Counters>,
}

struct State {
    socket: Socket,
    dropped_total: u32,
    /// A failed send was logged; more of them are only counted.
    warned: bool,
}

impl Channels {
    pub(super) fn new(sockets: Vec<Socket>, counters: Arc<Counters>) -> Self {
        let list = sockets
            .into_iter()
            .map(|socket| State {
                socket,
                dropped_total: 0,
                warned: false,
            })
            .collect();
        Self { list, counters }
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

    /// What the kernel did not grant, in words.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for Channel(index) in self.all() {
            let socket = &self.state(Channel(index)).socket;
            let (local, granted) = (socket.local(), socket.receive_bytes());
            if !socket.gso() {
                notes.push(format!(
                    "The kernel does not coalesce sends (GSO) on {local}"
                ));
            }
            if !socket.gro() {
                notes.push(format!(
                    "The kernel does not coalesce receives (GRO) on {local}"
                ));
            }
            if granted < SOCKET_RECEIVE_BYTES {
                notes.push(format!(
                    "The receive buffer on {local} is {granted} bytes of {SOCKET_RECEIVE_BYTES} \
                     wanted; raise net.core.rmem_max or run with CAP_NET_ADMIN"
                ));
            }
        }
        notes
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.list.iter().map(|state| state.socket.as_fd())
    }

    pub(super) fn gso(&self, channel: Channel) -> bool {
        self.state(channel).socket.gso()
    }

    /// Counts an entry into the kernel for sending or receiving.
    pub(super) fn entered(&self, counter: Counter) {
        self.counters.add(counter, 1);
    }

    /// Takes the result of sending a burst's next part; the burst has more to send unless done.
    pub(super) fn sent(&mut self, burst: &mut Burst, result: Result<(), i32>) {
        let channel = burst.transmit().channel;
        let state = &mut self.list[usize::from(channel.0)];
        let segment_size = burst.transmit().segment_size;
        let part_len = burst.part_len(state.socket.gso());
        let packets = part_len.div_ceil(segment_size) as u64;
        match result {
            Ok(()) => {
                if burst.is_split() && state.socket.gso() {
                    // Whole it was refused, in parts it is taken: coalescing is what failed.
                    tracing::warn!(channel = channel.0, "the kernel refuses GSO, switched off");
                    state.socket.disable_gso();
                }
                self.counters.add(Counter::PacketsOut, packets);
                self.counters.add(Counter::BytesOut, part_len as u64);
                burst.advance(part_len);
            }
            Err(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP)
                if part_len > segment_size =>
            {
                burst.split();
            }
            Err(libc::EINTR) => {}
            Err(errno) => {
                if !state.warned {
                    state.warned = true;
                    tracing::warn!(channel = channel.0, errno, "datagrams cannot be sent");
                }
                self.counters.add(Counter::PacketsUnsent, packets);
                burst.advance(part_len);
            }
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
