//! The world: simulated hosts around one switch, driven from a seed.
//!
//! Every host has a machine, sockets, files that outlive its crashes, and a link to the switch. The
//! world drives the machines by the same contract as the engine does, over a virtual clock: the
//! same seed and the same calls give the same run, down to [`World::trace`]. It is built for
//! thousands of receivers: a burst is stored once, one event brings it to one receiver, and nothing
//! is allocated per datagram.
//!
//! ```text
//!   machine -> up link (rate, queue) -> switch -> down link (all conditions) -> machine
//!                 one event per burst ---^           one event per burst and receiver ---^
//! ```
//!
//! Loss and all other harm happens on the way down, where the queue is the receiver's socket
//! buffer: what does not fit is in its `dropped_total`.

mod agenda;
mod bursts;
mod disk;
mod host;
mod link;
mod random;
mod streams;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

pub use disk::{Disk, File, PAGE_BYTES};
pub use host::{HostIndex, Socket};
pub use link::{BAD_TIME_MAX, Bursts, Conditions};
pub use random::Random;

use agenda::{Agenda, Port, What};
use bursts::{Burst, BurstIndex, BurstStore};
use host::{Guest, Host, Lodging, Op};
use link::Fate;
use streams::Streams;

use super::{Channel, Datagrams, DiskKind, Input, Machine, Transmit};
use crate::base::Time;

/// The simulated world; see the module.
pub struct World {
    now: Time,
    random: Random,
    agenda: Agenda,
    /// Counts disk operations.
    disk_ops: u64,
    hosts: Vec<Host>,
    unicast: BTreeMap<SocketAddr, Port>,
    groups: BTreeMap<SocketAddr, Vec<Port>>,
    bursts: BurstStore,
    streams: Streams,
    /// Where machines write what they send.
    outgoing: Vec<u8>,
    /// Where a delivery is put together.
    incoming: Vec<u8>,
    traffic: Traffic,
    trace: u64,
    tap: Option<Tap>,
}

/// Sees every transmit as its machine made it, before the world touches it.
pub type Tap = Box<dyn FnMut(Time, HostIndex, Transmit, &[u8])>;

/// The size of the buffer that machines transmit into: the largest UDP payload.
pub const BURST_BYTES_MAX: usize = 65_507;

/// What became of datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Sent by machines; a multicast counts once.
    pub sent: u64,
    /// Bytes of those.
    pub sent_bytes: u64,
    /// Given to machines.
    pub delivered: u64,
    /// Lost on a link.
    pub lost: u64,
    /// Dropped for want of room in a queue.
    pub overflowed: u64,
    /// Delivered late.
    pub reordered: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Delivered with a wrong bit.
    pub corrupted: u64,
}

impl World {
    /// Makes an empty world.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            now: Time::ZERO,
            random: Random::new(seed),
            agenda: Agenda::default(),
            disk_ops: 0,
            hosts: Vec::new(),
            unicast: BTreeMap::new(),
            groups: BTreeMap::new(),
            bursts: BurstStore::default(),
            streams: Streams::default(),
            outgoing: vec![0; BURST_BYTES_MAX],
            incoming: Vec::with_capacity(BURST_BYTES_MAX),
            traffic: Traffic::default(),
            trace: seed,
            tap: None,
        }
    }

    /// Adds a host, still down; [`World::start`] brings it up.
    ///
    /// # Panics
    /// If one of its local addresses is taken.
    pub fn add_host(&mut self, sockets: Vec<Socket>, files: Vec<File>) -> HostIndex {
        let host = HostIndex(self.hosts.len());
        for (index, socket) in sockets.iter().enumerate() {
            let channel = Channel(u8::try_from(index).expect("a host has few sockets"));
            let port = Port { host, channel };
            let taken = self.unicast.insert(socket.local, port);
            assert!(taken.is_none(), "{} has one owner", socket.local);
            for group in &socket.groups {
                self.groups.entry(*group).or_default().push(port);
            }
        }
        self.hosts.push(Host::new(sockets, files));
        host
    }

    /// Starts a machine on a host that is down; `on_event` gets its events as they come.
    ///
    /// # Panics
    /// If the host is up.
    pub fn start<M>(
        &mut self,
        host: HostIndex,
        machine: M,
        on_event: impl FnMut(Time, M::Event) + 'static,
    ) where
        M: Machine + 'static,
        M::Event: 'static,
    {
        let place = &mut self.hosts[host.0];
        assert!(place.guest.is_none(), "the host is down");
        let on_event = Box::new(on_event);
        place.guest = Some(Box::new(Lodging { machine, on_event }));
        self.serve(host);
    }

    /// Stops a host without warning: the machine is gone; of the writes under way some
    /// are done, some are not, some are torn. Does nothing to a host that is down.
    pub fn crash(&mut self, host: HostIndex) {
        self.reset_streams(host);
        let place = &mut self.hosts[host.0];
        place.guest = None;
        place.incarnation += 1;
        place.timer = Time::NEVER;
        place.dropped_total = 0;
        for mut op in std::mem::take(&mut place.in_flight).into_values() {
            if op.kind == DiskKind::Write {
                op.len = match self.random.below(4) {
                    0 => 0,
                    1 => usize::try_from(self.random.below(op.len as u64 + 1)).unwrap_or(0),
                    _ => op.len,
                };
                drop(place.perform(op, &mut self.random));
            }
        }
    }

    /// Tells a machine something. Does nothing to a host that is down.
    ///
    /// # Panics
    /// If the machine there is no `M`.
    pub fn command<M>(&mut self, host: HostIndex, command: M::Command)
    where
        M: Machine + 'static,
        M::Event: 'static,
    {
        let now = self.now;
        if let Some(lodging) = self.lodging::<M>(host) {
            lodging.machine.handle(Input::Command(command), now);
            self.serve(host);
        }
    }

    /// Lets the world run until nothing is left to do up to `end`, which becomes the present.
    pub fn run_until(&mut self, end: Time) {
        while let Some((at, what)) = self.agenda.pop_until(end) {
            assert!(at >= self.now, "time goes forward");
            self.now = at;
            match what {
                What::Timer { host, incarnation } => self.timer(host, incarnation),
                What::Switch { burst } => self.switch(burst),
                What::Arrive {
                    burst,
                    first,
                    count,
                    to,
                    decided,
                } => {
                    self.arrive(burst, first..first + count, to, decided);
                }
                What::Stream(step) => self.stream_step(*step),
                What::Disk {
                    host,
                    incarnation,
                    op,
                } => self.disk(host, incarnation, op),
            }
        }
        self.now = self.now.max(end);
    }

    /// The present.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// The dice, for the test's own decisions.
    pub const fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// What became of all datagrams so far.
    #[must_use]
    pub const fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// A hash over everything that happened: equal for equal runs.
    #[must_use]
    pub const fn trace(&self) -> u64 {
        self.trace
    }

    /// Whether a machine is running there.
    #[must_use]
    pub fn is_up(&self, host: HostIndex) -> bool {
        self.hosts[host.0].guest.is_some()
    }

    /// The files of a host, up or down.
    pub fn files(&mut self, host: HostIndex) -> &mut [File] {
        &mut self.hosts[host.0].files
    }

    /// Sets the link to a host; datagrams under way keep their fate.
    pub fn set_down_link(&mut self, host: HostIndex, conditions: Conditions) {
        self.hosts[host.0].down.conditions = conditions;
    }

    /// Sets the link from a host: its latency, jitter, rate and queue count, harm does not.
    pub fn set_up_link(&mut self, host: HostIndex, conditions: Conditions) {
        self.hosts[host.0].up.conditions = conditions;
    }

    /// Puts a host on a side; hosts hear only those on the same side. All begin on side 0.
    pub fn set_side(&mut self, host: HostIndex, side: u8) {
        self.hosts[host.0].side = side;
    }

    /// Stops multicast from coming through to a host, or lets it again.
    pub fn filter_multicast(&mut self, host: HostIndex, filtered: bool) {
        self.hosts[host.0].multicast_filtered = filtered;
    }

    /// Shows every transmit to `tap` from now on.
    pub fn set_tap(&mut self, tap: Tap) {
        self.tap = Some(tap);
    }

    /// Puts datagrams on the switch that no host sent; `from` may be anybody's address.
    pub fn inject(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8], segment_size: usize) {
        let burst = self
            .bursts
            .store(Burst::new(from, to, None, segment_size), bytes);
        self.agenda.push(self.now, What::Switch { burst });
    }

    fn note(&mut self, values: [u64; 4]) {
        for value in values {
            self.trace = random::spread(self.trace.wrapping_add(value) ^ 0x9e37_79b9_7f4a_7c15);
        }
    }

    fn lodging<M>(&mut self, host: HostIndex) -> Option<&mut Lodging<M>>
    where
        M: Machine + 'static,
        M::Event: 'static,
    {
        let guest: &mut dyn Any = self.hosts[host.0].guest.as_deref_mut()?;
        Some(
            guest
                .downcast_mut()
                .expect("a machine is asked for by its own type"),
        )
    }

    /// The driver's loop after an input: send, do, wait.
    fn serve(&mut self, host: HostIndex) {
        let Some(mut guest) = self.hosts[host.0].guest.take() else {
            return;
        };
        let mut outgoing = std::mem::take(&mut self.outgoing);
        let mut transmits = 0;
        while let Some(transmit) = guest.poll_transmit(self.now, &mut outgoing) {
            transmits += 1;
            assert!(
                transmits < STEPS_MAX,
                "{host:?} sends without end at {}",
                self.now
            );
            self.send(host, transmit, &outgoing[..transmit.len]);
        }
        self.outgoing = outgoing;
        while let Some(op) = guest.poll_op(self.now) {
            let op = match op {
                Op::Disk(op) => op,
                Op::Stream(op) => {
                    self.stream_op(host, op);
                    continue;
                }
            };
            let place = &mut self.hosts[host.0];
            let delay = place.files[usize::from(op.file.0)].delay(&mut self.random);
            let (incarnation, number) = (place.incarnation, self.disk_ops);
            self.disk_ops += 1;
            place.in_flight.insert(number, op);
            self.agenda.push(
                self.now + delay,
                What::Disk {
                    host,
                    incarnation,
                    op: number,
                },
            );
        }
        self.arm(host, guest.as_ref());
        self.hosts[host.0].guest = Some(guest);
    }

    /// Makes sure that a timer event comes no later than the machine wants.
    fn arm(&mut self, host: HostIndex, guest: &dyn Guest) {
        let Some(at) = guest.poll_timeout() else {
            return;
        };
        let place = &mut self.hosts[host.0];
        let at = at.max(self.now);
        if at < place.timer && at < Time::NEVER {
            place.timer = at;
            let incarnation = place.incarnation;
            self.agenda.push(at, What::Timer { host, incarnation });
        }
    }

    fn timer(&mut self, host: HostIndex, incarnation: u32) {
        let place = &mut self.hosts[host.0];
        if place.incarnation != incarnation || place.timer != self.now {
            return;
        }
        place.timer = Time::NEVER;
        let Some(guest) = place.guest.as_deref_mut() else {
            return;
        };
        if guest.poll_timeout().is_some_and(|at| at <= self.now) {
            guest.timeout(self.now);
        }
        self.serve(host);
        let place = &mut self.hosts[host.0];
        place.spins = if place.timer == self.now {
            place.spins + 1
        } else {
            0
        };
        assert!(place.spins < STEPS_MAX, "{host:?} spins at {}", self.now);
    }

    fn send(&mut self, host: HostIndex, transmit: Transmit, bytes: &[u8]) {
        let Transmit {
            channel,
            to,
            len,
            segment_size,
        } = transmit;
        assert!(
            (1..=len).contains(&segment_size),
            "{transmit:?} has datagrams"
        );
        if let Some(tap) = &mut self.tap {
            tap(self.now, host, transmit, bytes);
        }
        self.traffic.sent += len.div_ceil(segment_size) as u64;
        self.traffic.sent_bytes += len as u64;
        let place = &mut self.hosts[host.0];
        let from = place.sockets[usize::from(channel.0)].local;
        let (out, kept) = place.up.pass(self.now, len, segment_size, &mut self.random);
        self.traffic.overflowed += (len - kept).div_ceil(segment_size) as u64;
        if kept > 0 {
            let burst = Burst::new(from, to, Some(host), segment_size);
            let burst = self.bursts.store(burst, &bytes[..kept]);
            self.agenda.push(out, What::Switch { burst });
        }
    }

    fn switch(&mut self, index: BurstIndex) {
        let to = self.bursts.get(index).to;
        if to.ip().is_multicast() {
            let ports = self
                .groups
                .get_mut(&to)
                .map(std::mem::take)
                .unwrap_or_default();
            for &port in &ports {
                self.forward(index, port, true);
            }
            self.groups.insert(to, ports);
        } else if let Some(&port) = self.unicast.get(&to) {
            self.forward(index, port, false);
        }
        self.bursts.release(index);
    }

    /// Puts a burst on the link down to a host.
    fn forward(&mut self, index: BurstIndex, to: Port, multicast: bool) {
        let burst = self.bursts.get(index);
        let (len, segment_size, sender) = (burst.len(), burst.segment_size, burst.sender);
        let side = sender.map(|sender| self.hosts[sender.0].side);
        let place = &mut self.hosts[to.host.0];
        let cut_off = side.is_some_and(|side| side != place.side)
            || sender == Some(to.host)
            || (multicast && place.multicast_filtered);
        if cut_off || place.guest.is_none() {
            return;
        }
        let (out, kept) = place
            .down
            .pass(self.now, len, segment_size, &mut self.random);
        let count = kept.div_ceil(segment_size);
        let dropped = len.div_ceil(segment_size) - count;
        place.dropped_total += u32::try_from(dropped).expect("a burst has few datagrams");
        self.traffic.overflowed += dropped as u64;
        if count > 0 {
            let count = u16::try_from(count).expect("a burst has few datagrams");
            let first = 0;
            self.bursts.retain(index);
            self.agenda.push(
                out,
                What::Arrive {
                    burst: index,
                    first,
                    count,
                    to,
                    decided: false,
                },
            );
        }
    }

    fn arrive(&mut self, index: BurstIndex, range: std::ops::Range<u16>, to: Port, decided: bool) {
        let mut incoming = std::mem::take(&mut self.incoming);
        incoming.clear();
        if decided || self.hosts[to.host.0].down.is_perfect() {
            incoming.extend_from_slice(self.bursts.get(index).segments(range));
        } else {
            for segment in range {
                self.pass_segment(index, segment, to, &mut incoming);
            }
        }
        if !incoming.is_empty() {
            self.deliver(index, to, &mut incoming);
        }
        self.incoming = incoming;
        self.bursts.release(index);
    }

    /// Lets the link decide about one datagram, and appends it to the delivery if it arrives now.
    fn pass_segment(&mut self, burst: BurstIndex, segment: u16, to: Port, incoming: &mut Vec<u8>) {
        let fate = self.hosts[to.host.0].down.fate(self.now, &mut self.random);
        let bytes = self.bursts.get(burst).segments(segment..segment + 1);
        let again = What::Arrive {
            burst,
            first: segment,
            count: 1,
            to,
            decided: true,
        };
        match fate {
            Fate::Arrives => incoming.extend_from_slice(bytes),
            Fate::Lost => self.traffic.lost += 1,
            Fate::Corrupt => {
                let start = incoming.len();
                let bit = self.random.below(bytes.len() as u64 * 8);
                incoming.extend_from_slice(bytes);
                let byte = usize::try_from(bit / 8).expect("a datagram is short");
                incoming[start + byte] ^= 1 << (bit % 8);
                self.traffic.corrupted += 1;
            }
            Fate::Late(delay) => {
                self.traffic.reordered += 1;
                self.bursts.retain(burst);
                self.agenda.push(self.now + delay, again);
            }
            Fate::Twice(delay) => {
                incoming.extend_from_slice(bytes);
                self.traffic.duplicated += 1;
                self.bursts.retain(burst);
                self.agenda.push(self.now + delay, again);
            }
        }
    }

    fn deliver(&mut self, index: BurstIndex, to: Port, bytes: &mut [u8]) {
        let burst = self.bursts.get(index);
        let (from, segment_size) = (burst.from, burst.segment_size);
        let head = bytes
            .first_chunk()
            .map_or(0, |&head| u64::from_be_bytes(head));
        self.note([
            self.now.as_nanos(),
            to.host.0 as u64,
            bytes.len() as u64,
            head,
        ]);
        let place = &mut self.hosts[to.host.0];
        let Some(guest) = place.guest.as_deref_mut() else {
            return;
        };
        self.traffic.delivered += bytes.len().div_ceil(segment_size) as u64;
        let datagrams = Datagrams {
            channel: to.channel,
            from,
            bytes,
            segment_size,
            dropped_total: place.dropped_total,
        };
        guest.datagrams(datagrams, self.now);
        self.serve(to.host);
    }

    fn disk(&mut self, host: HostIndex, incarnation: u32, number: u64) {
        let place = &mut self.hosts[host.0];
        if place.incarnation != incarnation {
            return;
        }
        let op = place
            .in_flight
            .remove(&number)
            .expect("an operation ends once");
        let (offset, len) = (op.offset, op.len as u64);
        let done = place.perform(op, &mut self.random);
        let guest = place
            .guest
            .as_deref_mut()
            .expect("this incarnation is alive");
        guest.disk_done(done, self.now);
        self.note([self.now.as_nanos(), host.0 as u64, offset, len]);
        self.serve(host);
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "World({} hosts at {})", self.hosts.len(), self.now)
    }
}

/// What a machine may do at one moment; beyond it, it is taken to spin.
const STEPS_MAX: u32 = 100_000;

/// A moment `millis` milliseconds after the world began.
#[must_use]
pub fn at_millis(millis: u64) -> Time {
    Time::ZERO + Duration::from_millis(millis)
}
