//! One sender and a few receivers in a room with one wire: virtual time, loss from a seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::block::PlainBlocks;
use crate::base::random::Random;
use crate::base::{Bitmap, Block, Counter, Counters, EpochId, NodeId, Time};
use crate::fec::RaptorQ;
use crate::image::Geometry;
use crate::image::hash::piece_value;
use crate::machine::{
    Channel, Datagrams, DiskDone, DiskError, DiskKind, DiskOp, Input, Machine, Output,
};
use crate::multicast::wire::lct::Header;
use crate::multicast::wire::report::ReportHeader;
use crate::multicast::{
    Aes128Gcm, GROUP, PieceHashes, REPORTS, Receiver, ReceiverConfig, Secret, Sender, SenderConfig,
    Session, limits, receiver, sender,
};

pub(super) struct Room {
    pub(super) now: Time,
    pub(super) bundle: Arc<Vec<u8>>,
    pub(super) session: Session,
    pub(super) sender: Sender,
    pub(super) sender_counters: Arc<Counters>,
    pub(super) sender_events: Vec<sender::Event>,
    pub(super) nodes: Vec<Node>,
    /// Bytes per second of the wire.
    pub(super) wire: u64,
    wire_free_at: Time,
    /// The share of all datagrams lost on their way, both ways.
    pub(super) loss: f64,
    random: Random,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    arrivals: BTreeMap<u64, Arrival>,
    next_id: u64,
    /// When each machine is woken next.
    wakes: BTreeMap<Option<usize>, Time>,
    /// Every (key, counter) that was used.
    nonces: BTreeSet<(u16, [u8; 16], u64)>,
    /// Every piece of which data was sent, with its count of datagrams, by epoch.
    pub(super) sent: BTreeMap<(u16, u32), u32>,
    /// A copy of every datagram that the sender sent, if wanted.
    pub(super) tape: Option<Vec<Vec<u8>>>,
    /// A copy of every report that came.
    pub(super) reports: Vec<Vec<u8>>,
}

pub(super) struct Node {
    pub(super) machine: Receiver,
    pub(super) counters: Arc<Counters>,
    pub(super) disk: Vec<u8>,
    pub(super) events: Vec<receiver::Event>,
    pub(super) is_alive: bool,
    /// Extra loss of this node's link.
    pub(super) loss: f64,
    pub(super) disk_delay: Duration,
    /// So many writes fail.
    pub(super) failing_writes: u32,
    pub(super) complete_at: Option<Time>,
    pub(super) writes: u32,
}

enum Arrival {
    Group(usize, Vec<u8>, usize),
    Report(Vec<u8>),
    Disk(Option<usize>, DiskDone),
    Wake(Option<usize>),
}

pub(super) const PIECE_LOG2: u8 = 18;

impl Room {
    pub(super) fn new(size: usize, piece_log2: u8, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let words = std::iter::repeat_with(|| random.bits().to_le_bytes());
        let bundle: Vec<u8> = words.flatten().take(size).collect();
        let session = Session {
            tsi: 77,
            epoch: EpochId(1),
            group: "239.1.2.3:9000".parse().unwrap(),
            report_port: 9001,
            geometry: Geometry::new(size as u64, piece_log2).unwrap(),
            symbol_size: 1408,
        };
        let counters = Arc::new(Counters::default());
        let mut room = Self {
            now: Time::from_nanos(1_000_000),
            sender: new_sender(session, &bundle, seed, 0, Arc::clone(&counters)),
            bundle: Arc::new(bundle),
            session,
            sender_counters: counters,
            sender_events: Vec::new(),
            nodes: Vec::new(),
            wire: 125_000_000,
            wire_free_at: Time::ZERO,
            loss: 0.0,
            random,
            queue: BinaryHeap::new(),
            arrivals: BTreeMap::new(),
            next_id: 0,
            wakes: BTreeMap::new(),
            nonces: BTreeSet::new(),
            sent: BTreeMap::new(),
            tape: None,
            reports: Vec::new(),
        };
        room.schedule(room.now, Arrival::Wake(None));
        room
    }

    pub(super) fn secret(epoch: EpochId) -> Secret {
        Secret::new([epoch.0.to_be_bytes()[1]; 32])
    }

    /// Starts the head anew, as after a kill: a new epoch, nothing remembered.
    pub(super) fn restart_sender(&mut self) {
        self.session.epoch.0 += 1;
        let counters = Arc::clone(&self.sender_counters);
        self.sender = new_sender(self.session, &self.bundle, 5, 0, counters);
        self.schedule(self.now, Arrival::Wake(None));
    }

    /// A head that has not begun waits for so many receivers.
    pub(super) fn await_receivers(&mut self, count: usize) {
        let counters = Arc::clone(&self.sender_counters);
        self.sender = new_sender(self.session, &self.bundle, 5, count, counters);
    }

    pub(super) fn cap(&mut self, rate: u64) {
        self.command_sender(sender::Command::RateMax(Some(rate)));
    }

    pub(super) fn command_sender(&mut self, command: sender::Command) {
        self.sender.handle(Input::Command(command), self.now);
        self.drive_sender();
    }

    pub(super) fn command(&mut self, node: usize, command: receiver::Command) {
        let now = self.now;
        self.nodes[node]
            .machine
            .handle(Input::Command(command), now);
        self.drive_node(node);
    }

    /// A receiver joins now.
    pub(super) fn join(&mut self, have: &[u32], blocks: usize) -> usize {
        let index = self.nodes.len();
        let geometry = self.session.geometry;
        let mut map = Bitmap::new(geometry.piece_count() as usize);
        let mut disk = vec![0; self.bundle.len()];
        for &piece in have {
            map.set(piece as usize);
            let range = usize_range(geometry.range(geometry.piece(piece).unwrap()));
            disk[range.clone()].copy_from_slice(&self.bundle[range]);
        }
        let mut id = [0; 16];
        id[0] = u8::try_from(index + 1).unwrap();
        let counters = Arc::new(Counters::default());
        let machine = Receiver::new(
            ReceiverConfig {
                session: self.session,
                secret: Self::secret(self.session.epoch),
                reports_to: head(),
                node: NodeId(id),
                host: format!("node{index}"),
                seed: index as u64,
                receive_buffer_bytes: 8 << 20,
                have: map,
            },
            RaptorQ::default(),
            Aes128Gcm,
            piece_hashes(&self.bundle, geometry),
            Box::new(PlainBlocks::new(geometry.piece_size(), blocks)),
            Arc::clone(&counters),
        );
        self.nodes.push(Node {
            machine,
            counters,
            disk,
            events: Vec::new(),
            is_alive: true,
            loss: 0.0,
            disk_delay: Duration::from_micros(200),
            failing_writes: 0,
            complete_at: None,
            writes: 0,
        });
        self.schedule(self.now, Arrival::Wake(Some(index)));
        index
    }

    /// A datagram comes to a node, from nowhere.
    pub(super) fn inject(&mut self, node: usize, datagram: Vec<u8>) {
        let len = datagram.len();
        self.schedule(self.now, Arrival::Group(node, datagram, len));
    }

    pub(super) fn inject_report(&mut self, datagram: Vec<u8>) {
        self.schedule(self.now, Arrival::Report(datagram));
    }

    /// Runs until `stop` says so; fails after `limit` of virtual time.
    pub(super) fn run_until(&mut self, limit: Duration, stop: impl Fn(&Self) -> bool) {
        let deadline = self.now + limit;
        let mut steps_now = 0;
        while !stop(self) {
            let Some(Reverse((at, id))) = self.queue.pop() else {
                panic!("nothing will ever happen any more at {}", self.now);
            };
            assert!(at <= deadline, "not within {limit:?}: {}", self.describe());
            steps_now = if at > self.now { 0 } else { steps_now + 1 };
            assert!(
                steps_now < 100_000,
                "time stands still: {}",
                self.describe()
            );
            self.now = self.now.max(at);
            let arrival = self.arrivals.remove(&id).unwrap();
            self.arrive(arrival);
        }
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.schedule(end, Arrival::Wake(None));
        self.run_until(time, |room| room.now >= end);
    }

    /// Runs until all living nodes have ended, and checks their disks.
    pub(super) fn run_to_end(&mut self, limit: Duration) {
        self.run_until(limit, |room| {
            room.nodes
                .iter()
                .all(|node| !node.is_alive || node.complete_at.is_some())
        });
        for node in self.nodes.iter().filter(|node| node.is_alive) {
            assert!(node.disk == *self.bundle, "every byte is right");
        }
    }

    /// Datagrams of data sent in all epochs.
    pub(super) fn data_sent(&self) -> u64 {
        self.sender_counters.get(Counter::SentSource)
            + self.sender_counters.get(Counter::SentRepair)
    }

    pub(super) fn source_symbols(&self) -> u64 {
        let geometry = self.session.geometry;
        geometry
            .pieces()
            .map(|piece| geometry.len(piece).div_ceil(1408) as u64)
            .sum()
    }

    pub(super) fn has_sender_event(&self, fits: impl Fn(&sender::Event) -> bool) -> bool {
        self.sender_events.iter().any(fits)
    }

    fn describe(&self) -> String {
        let node = |node: &Node| format!("{} pieces", node.machine.have().count());
        let nodes: Vec<_> = self.nodes.iter().map(node).collect();
        let last = self.sender_events.last();
        format!(
            "at {}, nodes {nodes:?}, sent {}, last event {last:?}",
            self.now,
            self.data_sent()
        )
    }

    fn schedule(&mut self, at: Time, arrival: Arrival) {
        let id = self.next_id;
        self.next_id += 1;
        self.queue.push(Reverse((at.max(self.now), id)));
        self.arrivals.insert(id, arrival);
    }

    /// Wakes a machine at `at`, unless it is woken earlier anyway.
    fn wake(&mut self, who: Option<usize>, at: Time) {
        let planned = self
            .wakes
            .get(&who)
            .is_some_and(|&wake| wake > self.now && wake <= at);
        if !planned {
            self.wakes.insert(who, at);
            self.schedule(at, Arrival::Wake(who));
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        let now = self.now;
        match arrival {
            Arrival::Group(index, mut bytes, segment_size) => {
                if self.nodes[index].is_alive {
                    let datagrams = incoming(GROUP, &mut bytes, segment_size);
                    self.nodes[index]
                        .machine
                        .handle(Input::Datagrams(datagrams), now);
                    self.drive_node(index);
                }
            }
            Arrival::Report(mut bytes) => {
                let len = bytes.len();
                let datagrams = incoming(REPORTS, &mut bytes, len);
                self.sender.handle(Input::Datagrams(datagrams), now);
                self.drive_sender();
            }
            Arrival::Disk(None, done) => {
                self.sender.handle(Input::Disk(done), now);
                self.drive_sender();
            }
            Arrival::Disk(Some(index), done) => {
                if self.nodes[index].is_alive {
                    self.nodes[index].machine.handle(Input::Disk(done), now);
                    self.drive_node(index);
                }
            }
            Arrival::Wake(None) => {
                if self.sender.poll_timeout().is_some_and(|at| at <= now) {
                    self.sender.handle(Input::Timeout, now);
                }
                self.drive_sender();
            }
            Arrival::Wake(Some(index)) => {
                if !self.nodes[index].is_alive {
                    return;
                }
                let machine = &mut self.nodes[index].machine;
                if machine.poll_timeout().is_some_and(|at| at <= now) {
                    machine.handle(Input::Timeout, now);
                }
                self.drive_node(index);
            }
        }
    }

    fn drive_sender(&mut self) {
        let mut buffer = vec![0; limits::BURST_BYTES_MAX];
        let mut not_before = self.now;
        loop {
            if self.wire_free_at > self.now + Duration::from_millis(1) {
                not_before = self.wire_free_at;
                break;
            }
            let Some(sent) = self.sender.poll_transmit(self.now, &mut buffer) else {
                break;
            };
            assert_eq!((sent.channel, sent.to), (GROUP, self.session.group));
            assert!(sent.len > 0 && sent.len <= limits::BURST_BYTES_MAX);
            self.cast(&buffer[..sent.len], sent.segment_size);
        }
        while let Some(output) = self.sender.poll_output() {
            match output {
                Output::Stream(_) => unreachable!("no streams here"),
                Output::Disk(op) => {
                    let done = self.read(op);
                    self.schedule(
                        self.now + Duration::from_micros(300),
                        Arrival::Disk(None, done),
                    );
                }
                Output::Event(event) => self.sender_events.push(event),
            }
        }
        if let Some(at) = self.sender.poll_timeout() {
            self.wake(None, at.max(not_before));
        }
    }

    fn cast(&mut self, bytes: &[u8], segment_size: usize) {
        for datagram in bytes.chunks(segment_size) {
            let header = Header::parse(datagram).unwrap();
            let nonce = (header.epoch.0, [0; 16], header.counter);
            assert!(self.nonces.insert(nonce), "{header:?} uses a nonce again");
            if header.toi > 0 {
                *self
                    .sent
                    .entry((header.epoch.0, header.toi - 1))
                    .or_default() += 1;
            }
            if let Some(tape) = &mut self.tape {
                tape.push(datagram.to_vec());
            }
        }
        let took = Duration::from_nanos(bytes.len() as u64 * 1_000_000_000 / self.wire);
        self.wire_free_at = self.wire_free_at.max(self.now) + took;
        for index in 0..self.nodes.len() {
            let loss = 1.0 - (1.0 - self.loss) * (1.0 - self.nodes[index].loss);
            let mut survivors = Vec::with_capacity(bytes.len());
            for datagram in bytes.chunks(segment_size) {
                if !self.is_lost(loss) {
                    survivors.extend_from_slice(datagram);
                }
            }
            if !survivors.is_empty() {
                let at = self.wire_free_at + Duration::from_micros(50);
                self.schedule(at, Arrival::Group(index, survivors, segment_size));
            }
        }
    }

    fn drive_node(&mut self, index: usize) {
        let mut buffer = vec![0; 2048];
        while let Some(sent) = self.nodes[index]
            .machine
            .poll_transmit(self.now, &mut buffer)
        {
            assert_eq!((sent.channel, sent.to), (REPORTS, head()));
            assert!(sent.len <= limits::REPORT_BYTES_MAX);
            let report = buffer[..sent.len].to_vec();
            let header = ReportHeader::parse(&report).unwrap();
            let nonce = (header.epoch.0, header.node.0, header.counter);
            assert!(self.nonces.insert(nonce), "{header:?} uses a nonce again");
            if !self.is_lost(self.loss.max(self.nodes[index].loss)) {
                self.reports.push(report.clone());
                self.schedule(
                    self.now + Duration::from_micros(60),
                    Arrival::Report(report),
                );
            }
        }
        while let Some(output) = self.nodes[index].machine.poll_output() {
            match output {
                Output::Stream(_) => unreachable!("no streams here"),
                Output::Disk(op) => {
                    let done = self.write(index, op);
                    let at = self.now + self.nodes[index].disk_delay;
                    self.schedule(at, Arrival::Disk(Some(index), done));
                }
                Output::Event(event) => {
                    let node = &mut self.nodes[index];
                    if matches!(event, receiver::Event::Complete) {
                        node.complete_at = Some(self.now);
                    }
                    if !matches!(event, receiver::Event::PieceStored { .. }) {
                        node.events.push(event);
                    }
                }
            }
        }
        if let Some(at) = self.nodes[index].machine.poll_timeout() {
            self.wake(Some(index), at);
        }
    }

    fn read(&self, mut op: DiskOp) -> DiskDone {
        assert_eq!(op.kind, DiskKind::Read);
        let start = usize::try_from(op.offset).unwrap();
        op.block[..op.len].copy_from_slice(&self.bundle[start..start + op.len]);
        done(op.tag, op.kind, op.block, Ok(()))
    }

    fn write(&mut self, index: usize, op: DiskOp) -> DiskDone {
        assert_eq!(op.kind, DiskKind::Write);
        let node = &mut self.nodes[index];
        if node.failing_writes > 0 {
            node.failing_writes -= 1;
            return done(op.tag, op.kind, op.block, Err(DiskError::Errno(5)));
        }
        let start = usize::try_from(op.offset).unwrap();
        let bytes = &op.block[..op.len];
        assert!(
            bytes == &self.bundle[start..start + op.len],
            "no wrong byte is written"
        );
        node.disk[start..start + op.len].copy_from_slice(bytes);
        node.writes += 1;
        done(op.tag, op.kind, op.block, Ok(()))
    }

    fn is_lost(&mut self, loss: f64) -> bool {
        f64::from(self.random.below(1 << 30)) < loss * f64::from(1 << 30)
    }
}

fn piece_hashes(bundle: &[u8], geometry: Geometry) -> PieceHashes {
    let value = |piece| piece_value(geometry, piece, &bundle[usize_range(geometry.range(piece))]);
    PieceHashes::new(geometry, geometry.pieces().map(value).collect()).unwrap()
}

fn new_sender(
    session: Session,
    bundle: &[u8],
    seed: u64,
    awaited: usize,
    counters: Arc<Counters>,
) -> Sender {
    Sender::new(
        SenderConfig {
            session,
            secret: Room::secret(session.epoch),
            seed,
            rate_bytes_per_s_max: None,
            window_bytes: limits::WINDOW_BYTES_DEFAULT,
            position: 0,
            awaited,
        },
        RaptorQ::default(),
        Aes128Gcm,
        piece_hashes(bundle, session.geometry),
        Box::new(PlainBlocks::new(session.geometry.piece_size(), 20)),
        counters,
    )
}

pub(super) fn head() -> SocketAddr {
    "10.0.0.1:9001".parse().unwrap()
}

fn incoming(channel: Channel, bytes: &mut [u8], segment_size: usize) -> Datagrams<'_> {
    let from = "10.0.0.9:4000".parse().unwrap();
    Datagrams {
        channel,
        from,
        bytes,
        segment_size,
        dropped_total: 0,
    }
}

fn done(tag: u64, kind: DiskKind, block: Block, result: Result<(), DiskError>) -> DiskDone {
    DiskDone {
        tag,
        kind,
        block,
        result,
    }
}

fn usize_range(range: std::ops::Range<u64>) -> std::ops::Range<usize> {
    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
}
