//! One `Transmit` on its way: whole where the kernel coalesces, else datagram by datagram.

use crate::engine::net::sys::OutMessage;
use crate::machine::Transmit;

/// A staging slot with datagrams, and how much of it has gone out.
pub(crate) struct Burst {
    message: OutMessage,
    transmit: Transmit,
    /// Bytes sent or given up.
    done: usize,
    /// The kernel has refused it whole, so it goes out datagram by datagram.
    split: bool,
}

impl Burst {
    /// Takes a filled slot.
    pub(super) fn new(message: OutMessage, transmit: Transmit) -> Self {
        Self {
            message,
            transmit,
            done: 0,
            split: false,
        }
    }

    pub(super) fn transmit(&self) -> &Transmit {
        &self.transmit
    }

    pub(super) fn is_split(&self) -> bool {
        self.split
    }

    pub(super) fn is_done(&self) -> bool {
        self.done == self.transmit.len
    }

    /// Points the message at what goes out next; `gso` says whether the socket coalesces.
    pub(crate) fn aim(&mut self, gso: bool) -> &OutMessage {
        let part = self.done..self.done + self.part_len(gso);
        let segment_size = u16::try_from(self.transmit.segment_size)
            .ok()
            .filter(|_| part.len() > self.transmit.segment_size);
        self.message.aim(part, self.transmit.to, segment_size);
        &self.message
    }

    /// The message as it was aimed last.
    pub(crate) fn message(&self) -> &OutMessage {
        &self.message
    }

    /// Bytes that go out next.
    pub(super) fn part_len(&self, gso: bool) -> usize {
        let rest = self.transmit.len - self.done;
        if gso && !self.split {
            rest
        } else {
            rest.min(self.transmit.segment_size)
        }
    }

    /// Counts a part as gone.
    pub(super) fn advance(&mut self, part_len: usize) {
        self.done += part_len;
        assert!(self.done <= self.transmit.len, "a part is within the burst");
    }

    /// Sends what is left datagram by datagram from now on.
    pub(super) fn split(&mut self) {
        self.split = true;
    }

    /// Gives the slot back.
    pub(super) fn into_message(self) -> OutMessage {
        self.message
    }
}
