//! A head and its nodes in a world, with what every scenario checks: stored means stored right, on
//! disk and for good; done means all of it; no (key, counter) pair is used twice.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use flashover::base::block::PlainBlocks;
use flashover::base::{Bitmap, Counters, EpochId, NodeId, PieceIndex, RangeSet, Time};
use flashover::image::Geometry;
use flashover::machine::world::{Conditions, File, HostIndex, Random, Socket, World};
use flashover::multicast::receiver::{self, Receiver, ReceiverConfig};
use flashover::multicast::sender::{self, Sender, SenderConfig};
use flashover::multicast::wire::lct::Header;
use flashover::multicast::wire::report::ReportHeader;
use flashover::multicast::{Secret, Session, limits};

use super::models::{Parts, part};

/// What a scenario chooses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) nodes: usize,
    pub(super) bundle_size: u64,
    pub(super) piece_log2: u8,
    pub(super) symbol_size: u16,
    /// The sender's cap.
    pub(super) rate_bytes_per_s_max: Option<u64>,
    /// Pieces that a node can have in memory.
    pub(super) blocks: usize,
}

pub(super) struct Cluster<P> {
    pub(super) world: World,
    pub(super) plan: Plan,
    pub(super) session: Session,
    pub(super) secret: Secret,
    pub(super) bundle: Arc<[u8]>,
    pub(super) head: HostIndex,
    /// What the head's machines counted.
    pub(super) head_counters: Arc<Counters>,
    pub(super) head_log: Rc<RefCell<Vec<(Time, sender::Event)>>>,
    pub(super) nodes: Vec<Node>,
    pub(super) ledger: Rc<RefCell<Ledger>>,
    parts: PhantomData<P>,
}

/// A node and what its machines said.
pub(super) struct Node {
    pub(super) host: HostIndex,
    pub(super) journal: Rc<RefCell<Journal>>,
    /// What its machines counted.
    pub(super) counters: Arc<Counters>,
    /// How many machines it has had.
    pub(super) starts: u32,
}

/// What the machines of one node said, over all its starts.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Pieces that were reported as stored.
    pub(super) stored: BTreeSet<PieceIndex>,
    pub(super) complete: Option<Time>,
    pub(super) stopped: bool,
    pub(super) poisoned: u32,
    pub(super) abandoned: BTreeSet<PieceIndex>,
    pub(super) disk_failures: u32,
    pub(super) demoted: u32,
    pub(super) silent: u32,
    /// Alarms that somebody sends in the head's name.
    pub(super) insiders: u32,
    pub(super) unknown_epoch: Option<EpochId>,
    pub(super) closed: bool,
}

/// What was sent: by the sender per epoch, by receivers per start.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Counters used, by epoch.
    data: BTreeMap<u16, RangeSet>,
    /// Counters used, by epoch and node id.
    reports: BTreeMap<(u16, [u8; 16]), RangeSet>,
    /// Ids that two machines have: their counters meet.
    copied: BTreeSet<[u8; 16]>,
    /// Symbols sent of each piece, by epoch.
    pub(super) symbols: BTreeMap<(u16, u32), u64>,
    /// The last burst of the sender, as an eavesdropper has it.
    pub(super) last_burst: Vec<u8>,
    pub(super) last_segment_size: usize,
}

pub(super) const GROUP_PORT: u16 = 9000;
pub(super) const REPORT_PORT: u16 = 9001;

pub(super) fn group() -> SocketAddr {
    SocketAddr::from(([239, 1, 2, 3], GROUP_PORT))
}

pub(super) fn head_address(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

pub(super) fn node_address(index: usize, port: u16) -> SocketAddr {
    let [.., high, low] = u32::try_from(index)
        .expect("there are few nodes")
        .to_be_bytes();
    SocketAddr::from(([10, 1, high, low], port))
}

impl<P: Parts> Cluster<P> {
    /// Makes the world, the head's machine running, the nodes still down.
    pub(super) fn new(seed: u64, plan: Plan) -> Self {
        let geometry = Geometry::new(plan.bundle_size, plan.piece_log2).expect("a sane plan");
        let mut world = World::new(seed);
        let bundle = random_bytes(world.random(), plan.bundle_size);
        let session = Session {
            tsi: 7,
            epoch: EpochId(0),
            group: group(),
            report_port: REPORT_PORT,
            geometry,
            symbol_size: plan.symbol_size,
        };
        let socket = |port| Socket {
            local: head_address(port),
            groups: Vec::new(),
        };
        let sockets = vec![socket(GROUP_PORT), socket(REPORT_PORT)];
        let head = world.add_host(sockets, vec![File::holding(Arc::clone(&bundle))]);
        let mut cluster = Self {
            world,
            plan,
            session,
            secret: Secret::new([0; 32]),
            bundle,
            head,
            head_counters: Arc::default(),
            head_log: Rc::default(),
            nodes: Vec::new(),
            ledger: Rc::default(),
            parts: PhantomData,
        };
        cluster.watch();
        cluster.start_head();
        for _ in 0..plan.nodes {
            cluster.add_node();
        }
        cluster
    }

    /// Starts the sender of a new epoch with a new secret.
    pub(super) fn start_head(&mut self) {
        self.session.epoch = EpochId(self.session.epoch.0 + 1);
        let mut secret = [0; 32];
        secret.fill_with(|| self.world.random().bits().to_le_bytes()[0]);
        self.secret = Secret::new(secret);
        let config = SenderConfig {
            session: self.session,
            secret: self.secret.clone(),
            seed: self.world.random().bits(),
            rate_bytes_per_s_max: self.plan.rate_bytes_per_s_max,
            window_bytes: limits::WINDOW_BYTES_DEFAULT,
            position: 0,
            awaited: 0,
        };
        let geometry = self.session.geometry;
        let sender: Sender<P::Code, P::Cipher, P::Verify> = Sender::new(
            config,
            P::code(&self.bundle, geometry),
            P::cipher(),
            P::verify(&self.bundle, geometry),
            Box::new(PlainBlocks::new(geometry.piece_size(), 32)),
            Arc::clone(&self.head_counters),
        );
        let log = Rc::clone(&self.head_log);
        let note = move |at, event| log.borrow_mut().push((at, event));
        self.world.start(self.head, sender, note);
    }

    fn add_node(&mut self) {
        let index = self.nodes.len();
        let socket = |port, groups| Socket {
            local: node_address(index, port),
            groups,
        };
        let sockets = vec![
            socket(GROUP_PORT, vec![group()]),
            socket(REPORT_PORT, Vec::new()),
        ];
        let file = File::expecting(Arc::clone(&self.bundle));
        let host = self.world.add_host(sockets, vec![file]);
        self.nodes.push(Node {
            host,
            journal: Rc::default(),
            counters: Arc::default(),
            starts: 0,
        });
    }

    /// Starts the receiver of a node; it has what its earlier machines stored.
    pub(super) fn start_node(&mut self, index: usize) {
        self.nodes[index].starts += 1;
        let id = self.id(index);
        self.start_with_id(index, id);
    }

    /// Starts the receiver of a node under the id that another one has.
    pub(super) fn start_copy(&mut self, index: usize, of: usize) {
        let id = self.id(of);
        self.ledger.borrow_mut().copied.insert(id.0);
        self.start_with_id(index, id);
    }

    /// The id of a node since its last start.
    pub(super) fn id(&self, index: usize) -> NodeId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(index as u64).to_be_bytes());
        id[8..12].copy_from_slice(&self.nodes[index].starts.to_be_bytes());
        NodeId(id)
    }

    fn start_with_id(&mut self, index: usize, id: NodeId) {
        self.check_disk(index);
        let geometry = self.session.geometry;
        let node = &mut self.nodes[index];
        let mut have = Bitmap::new(geometry.piece_count() as usize);
        for piece in &node.journal.borrow().stored {
            have.set(piece.as_usize());
        }
        let config = ReceiverConfig {
            session: self.session,
            secret: self.secret.clone(),
            reports_to: head_address(REPORT_PORT),
            node: id,
            host: format!("node{index}"),
            seed: self.world.random().bits(),
            receive_buffer_bytes: 0,
            have,
        };
        let receiver: Receiver<P::Code, P::Cipher, P::Verify> = Receiver::new(
            config,
            P::code(&self.bundle, geometry),
            P::cipher(),
            P::verify(&self.bundle, geometry),
            Box::new(PlainBlocks::new(geometry.piece_size(), self.plan.blocks)),
            Arc::clone(&self.nodes[index].counters),
        );
        let journal = Rc::clone(&self.nodes[index].journal);
        journal.borrow_mut().stopped = false;
        let note = move |at, event| journal.borrow_mut().note(at, &event);
        self.world.start(self.nodes[index].host, receiver, note);
    }

    pub(super) fn start_all(&mut self) {
        (0..self.nodes.len()).for_each(|index| self.start_node(index));
    }

    pub(super) fn crash_node(&mut self, index: usize) {
        self.world.crash(self.nodes[index].host);
        self.check_disk(index);
    }

    pub(super) fn command(&mut self, index: usize, command: receiver::Command) {
        let host = self.nodes[index].host;
        self.world
            .command::<Receiver<P::Code, P::Cipher, P::Verify>>(host, command);
    }

    /// Sets the links of every node.
    pub(super) fn set_links(&mut self, conditions: Conditions) {
        for node in &self.nodes {
            self.world.set_down_link(node.host, conditions);
        }
        let latency = conditions.latency;
        self.world.set_down_link(
            self.head,
            Conditions {
                latency,
                ..Conditions::default()
            },
        );
    }

    /// Runs on for a while.
    pub(super) fn run_for(&mut self, duration: Duration) {
        let end = self.world.now() + duration;
        self.world.run_until(end);
    }

    /// Runs until `done` says so, looking every 20 ms; fails at the deadline.
    #[track_caller]
    pub(super) fn run_to(
        &mut self,
        what: &str,
        deadline: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) {
        let end = self.world.now() + deadline;
        while !done(self) {
            assert!(
                self.world.now() < end,
                "{what}: not within {deadline:?}; {}",
                self.status()
            );
            self.run_for(Duration::from_millis(20));
        }
    }

    /// Runs until every node that is up is complete.
    #[track_caller]
    pub(super) fn run_to_completion(&mut self, deadline: Duration) {
        self.run_to("completion", deadline, |cluster| {
            let mut up = cluster
                .nodes
                .iter()
                .filter(|node| cluster.world.is_up(node.host));
            up.all(|node| node.journal.borrow().complete.is_some())
        });
    }

    /// Checks every node: what it stored is right; who is complete has all of the bundle.
    pub(super) fn check(&mut self) {
        for index in 0..self.nodes.len() {
            self.check_disk(index);
            let node = &self.nodes[index];
            let complete = node.journal.borrow().complete.is_some();
            let whole = self.world.files(node.host)[0].equals(&self.bundle);
            assert!(!complete || whole, "node {index} said done and is not");
        }
        for (_, event) in self.head_log.borrow().iter() {
            if let sender::Event::NodeDone { host, .. } = event {
                let index = host
                    .strip_prefix("node")
                    .and_then(|index| index.parse().ok());
                let index: usize = index.expect("that is how nodes are named");
                let complete = self.nodes[index].journal.borrow().complete;
                assert!(
                    complete.is_some(),
                    "the head calls {host} done, and it is not"
                );
            }
        }
    }

    /// Checks that every piece that was reported as stored is on disk.
    fn check_disk(&mut self, index: usize) {
        let geometry = self.session.geometry;
        let node = &self.nodes[index];
        let mut bytes = vec![0; geometry.piece_size()];
        for &piece in &node.journal.borrow().stored {
            let bytes = &mut bytes[..geometry.len(piece)];
            let read = self.world.files(node.host)[0].read(geometry.offset(piece), bytes);
            assert_eq!(read, Ok(()), "node {index}, {piece}");
            assert!(
                bytes == part(&self.bundle, geometry, piece),
                "node {index}, {piece} is wrong"
            );
        }
    }

    /// Symbols that the sender sent in its present epoch.
    pub(super) fn symbols_sent(&self) -> u64 {
        self.ledger.borrow().symbols_of_epoch(self.session.epoch)
    }

    /// How many nodes are complete.
    pub(super) fn complete_count(&self) -> usize {
        let complete = |node: &&Node| node.journal.borrow().complete.is_some();
        self.nodes.iter().filter(complete).count()
    }

    fn status(&self) -> String {
        let missing = self.nodes.iter().enumerate().filter_map(|(index, node)| {
            let journal = node.journal.borrow();
            (journal.complete.is_none()).then(|| {
                let up = if self.world.is_up(node.host) {
                    "up"
                } else {
                    "down"
                };
                format!(
                    "node {index} ({up}): {} stored, {journal:?}",
                    journal.stored.len()
                )
            })
        });
        let missing: Vec<String> = missing.take(5).collect();
        let pieces = self.session.geometry.piece_count();
        let log = self.head_log.borrow();
        let last: Vec<_> = log.iter().rev().take(6).collect();
        format!(
            "{pieces} pieces; {}\nhead, latest first: {last:#?}",
            missing.join("\n")
        )
    }

    /// Reads along with everything that is sent.
    fn watch(&mut self) {
        let ledger = Rc::clone(&self.ledger);
        let head = self.head;
        self.world
            .set_tap(Box::new(move |_, host, transmit, bytes| {
                let mut ledger = ledger.borrow_mut();
                for datagram in bytes.chunks(transmit.segment_size) {
                    if host == head {
                        ledger.note_data(datagram);
                    } else {
                        ledger.note_report(datagram);
                    }
                }
                if host == head {
                    ledger.last_burst.clear();
                    ledger.last_burst.extend_from_slice(bytes);
                    ledger.last_segment_size = transmit.segment_size;
                }
            }));
    }
}

impl Journal {
    fn note(&mut self, at: Time, event: &receiver::Event) {
        use receiver::Event;
        match *event {
            Event::PieceStored { piece, .. } => {
                assert!(self.stored.insert(piece), "{piece} is stored once");
            }
            Event::PiecePoisoned { piece, abandoned } => {
                self.poisoned += 1;
                if abandoned {
                    self.abandoned.insert(piece);
                }
            }
            Event::DiskFailed {
                piece, abandoned, ..
            } => {
                self.disk_failures += 1;
                if abandoned {
                    self.abandoned.insert(piece);
                }
            }
            Event::Complete => self.complete = self.complete.or(Some(at)),
            Event::Silent { .. } => self.silent += 1,
            Event::Insider => self.insiders += 1,
            Event::UnknownEpoch(epoch) => self.unknown_epoch = Some(epoch),
            Event::Demoted => self.demoted += 1,
            Event::Closed => self.closed = true,
            Event::Stopped => self.stopped = true,
            Event::Alive | Event::Stats(_) => {}
        }
    }
}

impl Ledger {
    fn note_data(&mut self, datagram: &[u8]) {
        let header = Header::parse(datagram).expect("the sender sends what parses");
        let counters = self.data.entry(header.epoch.0).or_default();
        use_once(counters, header.counter, "the sender");
        *self
            .symbols
            .entry((header.epoch.0, header.toi))
            .or_default() += 1;
    }

    fn note_report(&mut self, datagram: &[u8]) {
        let header = ReportHeader::parse(datagram).expect("receivers send what parses");
        if self.copied.contains(&header.node.0) {
            return;
        }
        let counters = self
            .reports
            .entry((header.epoch.0, header.node.0))
            .or_default();
        use_once(counters, header.counter, "a receiver");
    }

    /// How many reports all receivers sent.
    pub(super) fn reports_count(&self) -> u64 {
        self.reports.values().map(RangeSet::total).sum()
    }

    /// Symbols that the sender sent in an epoch; control is not counted.
    pub(super) fn symbols_of_epoch(&self, epoch: EpochId) -> u64 {
        let of_epoch = self
            .symbols
            .iter()
            .filter(|((of, toi), _)| *of == epoch.0 && *toi > 0);
        of_epoch.map(|(_, count)| count).sum()
    }
}

fn use_once(counters: &mut RangeSet, counter: u64, who: &str) {
    let range = counter..counter + 1;
    assert!(
        !counters.contains(range.clone()),
        "{who} used counter {counter} twice"
    );
    counters.insert(range);
}

/// Bytes that no code or cipher can guess.
fn random_bytes(random: &mut Random, len: u64) -> Arc<[u8]> {
    (0..len.div_ceil(8))
        .flat_map(|_| random.bits().to_le_bytes())
        .take(usize::try_from(len).expect("test bundles fit in memory"))
        .collect()
}
