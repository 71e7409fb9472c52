//! What will happen, and when.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::bursts::BurstIndex;
use super::host::HostIndex;
use super::streams::Step;
use crate::base::Time;
use crate::machine::Channel;

/// A socket of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) host: HostIndex,
    pub(super) channel: Channel,
}

/// The events to come; those of one moment happen in the order they were made.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    events: BinaryHeap<Event>,
    sequence: u64,
}

impl Agenda {
    pub(super) fn push(&mut self, at: Time, what: What) {
        self.sequence += 1;
        let sequence = self.sequence;
        self.events.push(Event { at, sequence, what });
    }

    /// Takes the next event if it comes at or before `end`.
    pub(super) fn pop_until(&mut self, end: Time) -> Option<(Time, What)> {
        if self.events.peek()?.at > end {
            return None;
        }
        self.events.pop().map(|event| (event.at, event.what))
    }
}

#[derive(Debug)]
struct Event {
    at: Time,
    sequence: u64,
    what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// The moment that a machine asked for may have come.
    Timer { host: HostIndex, incarnation: u32 },
    /// A burst reaches the switch.
    Switch { burst: BurstIndex },
    /// Segments of a burst reach a host.
    Arrive {
        burst: BurstIndex,
        first: u16,
        count: u16,
        to: Port,
        /// Whether the link has done its harm already.
        decided: bool,
    },
    /// Something happens to a stream.
    Stream(Box<Step>),
    /// A disk operation ends.
    Disk {
        host: HostIndex,
        incarnation: u32,
        op: u64,
    },
}

/// The earliest event is the greatest, as the heap wants it.
impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Event {}
