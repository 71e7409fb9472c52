//! A host: an address, sockets, files, its link, and the machine that lives there.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::disk::File;
use super::link::Link;
use crate::base::Time;
use crate::machine::{
    Datagrams, DiskDone, DiskKind, DiskOp, Input, Machine, Output, StreamInput, StreamOp, Transmit,
};

/// A socket of a machine; its position in the list is its channel.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Where unicast for it goes, and what receivers see as its sender.
    pub local: SocketAddr,
    /// The multicast groups, with ports, that it has joined.
    pub groups: Vec<SocketAddr>,
}

/// The position of a host in its world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostIndex(pub usize);

pub(super) struct Host {
    /// The machine; `None` while the host is down.
    pub(super) guest: Option<Box<dyn Guest>>,
    /// Counts the machines that lived here, so that what was meant for an earlier one is dropped.
    pub(super) incarnation: u32,
    pub(super) sockets: Vec<Socket>,
    pub(super) files: Vec<File>,
    pub(super) up: Link,
    pub(super) down: Link,
    /// Hosts on different sides of a partition do not hear each other.
    pub(super) side: u8,
    /// Whether multicast does not come through, as behind a switch that lost the membership.
    pub(super) multicast_filtered: bool,
    /// The next timer event that counts; later wishes wait for it.
    pub(super) timer: Time,
    /// How often in a row the machine wanted a timeout at the same moment.
    pub(super) spins: u32,
    /// Datagrams that had no room in the queue to this host.
    pub(super) dropped_total: u32,
    pub(super) in_flight: BTreeMap<u64, DiskOp>,
}

impl Host {
    pub(super) fn new(sockets: Vec<Socket>, files: Vec<File>) -> Self {
        Self {
            guest: None,
            incarnation: 0,
            sockets,
            files,
            up: Link::default(),
            down: Link::default(),
            side: 0,
            multicast_filtered: false,
            timer: Time::NEVER,
            spins: 0,
            dropped_total: 0,
            in_flight: BTreeMap::new(),
        }
    }

    /// Does the operation on the file.
    pub(super) fn perform(&mut self, op: DiskOp, random: &mut super::Random) -> DiskDone {
        let DiskOp {
            tag,
            kind,
            file,
            offset,
            len,
            mut block,
        } = op;
        let file = self
            .files
            .get_mut(usize::from(file.0))
            .expect("the machine uses its own files");
        let result = file.fault(random).and_then(|()| match kind {
            DiskKind::Read => file.read(offset, &mut block[..len]),
            DiskKind::Write => file.write(offset, &block[..len]),
        });
        DiskDone {
            tag,
            kind,
            block,
            result,
        }
    }
}

/// What a machine wants done.
pub(super) enum Op {
    Disk(DiskOp),
    Stream(StreamOp),
}

/// A machine of any type, for keeping senders and receivers in one list.
pub(super) trait Guest: Any {
    fn datagrams(&mut self, datagrams: Datagrams<'_>, now: Time);
    fn disk_done(&mut self, done: DiskDone, now: Time);
    fn stream(&mut self, input: StreamInput<'_>, now: Time);
    fn timeout(&mut self, now: Time);
    fn poll_transmit(&mut self, now: Time, buffer: &mut [u8]) -> Option<Transmit>;
    /// Takes the next thing to do; events on the way go to who listens.
    fn poll_op(&mut self, now: Time) -> Option<Op>;
    fn poll_timeout(&self) -> Option<Time>;
}

/// A machine, and who listens to it.
pub(super) struct Lodging<M: Machine> {
    pub(super) machine: M,
    pub(super) on_event: Box<dyn FnMut(Time, M::Event)>,
}

impl<M> Guest for Lodging<M>
where
    M: Machine + 'static,
    M::Event: 'static,
{
    fn datagrams(&mut self, datagrams: Datagrams<'_>, now: Time) {
        self.machine.handle(Input::Datagrams(datagrams), now);
    }

    fn disk_done(&mut self, done: DiskDone, now: Time) {
        self.machine.handle(Input::Disk(done), now);
    }

    fn timeout(&mut self, now: Time) {
        self.machine.handle(Input::Timeout, now);
    }

    fn poll_transmit(&mut self, now: Time, buffer: &mut [u8]) -> Option<Transmit> {
        self.machine.poll_transmit(now, buffer)
    }

    fn stream(&mut self, input: StreamInput<'_>, now: Time) {
        self.machine.handle(Input::Stream(input), now);
    }

    fn poll_op(&mut self, now: Time) -> Option<Op> {
        loop {
            match self.machine.poll_output()? {
                Output::Disk(op) => return Some(Op::Disk(op)),
                Output::Stream(op) => return Some(Op::Stream(op)),
                Output::Event(event) => (self.on_event)(now, event),
            }
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.machine.poll_timeout()
    }
}
