//! Swarms of the real torrent machine: how close they come to the bound, and what faults cost.

mod named;
mod v2;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flashover::base::block::PlainBlocks;
use flashover::base::{Bitmap, PieceIndex, Time};
use flashover::image::verify::Verify;
use flashover::machine::world::{Conditions, File, HostIndex, Socket, World};
use flashover::swarm::cut::Cut;
use flashover::swarm::hash::{sha1, sha256};
use flashover::swarm::scout::{self, Scout};
use flashover::swarm::seal::SwarmSecret;
use flashover::swarm::torrent::{Command, Config, Event, Torrent, Why};
use flashover::swarm::tracker::graph::Graph;
use flashover::swarm::{InfoHashes, Metainfo};

/// 50 Mbit/s.
const RATE: u64 = 6_250_000;
const LATENCY: Duration = Duration::from_micros(200);
const BLOCKS: usize = 64;

/// An info dictionary; its hashes are of no use here.
fn info(cut: Cut) -> Bytes {
    let (total, piece) = (cut.total_bytes(), cut.piece_bytes());
    let hashes = 20 * cut.piece_count() as usize;
    let head = format!("d6:lengthi{total}e4:name4:test12:piece lengthi{piece}e6:pieces{hashes}:");
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + hashes, b'h');
    bytes.push(b'e');
    bytes.into()
}

/// Right is what the original has.
#[derive(Clone)]
struct Original {
    bytes: Arc<[u8]>,
    cut: Cut,
}

impl Verify for Original {
    fn verify(&self, piece: PieceIndex, bytes: &[u8]) -> bool {
        let offset = usize::try_from(self.cut.offset(piece)).expect("it is small");
        self.bytes[offset..].starts_with(bytes) && bytes.len() == self.cut.len(piece) as usize
    }
}

/// What was heard of a node.
#[derive(Debug, Default)]
struct Heard {
    complete: Option<Time>,
    bytes_out: u64,
    bytes_in: u64,
    bytes_wasted: u64,
    wrong: usize,
    left: Vec<(SocketAddr, Why)>,
}

struct Swarm {
    world: World,
    original: Original,
    /// The seed is the first.
    hosts: Vec<HostIndex>,
    heard: Vec<Rc<RefCell<Heard>>>,
    graph: Graph,
    started: u64,
    /// What seals the streams of nodes that are started.
    secret: Option<SwarmSecret>,
    /// The torrent, if it is one of version 2.
    metainfo: Option<Arc<Metainfo>>,
}

fn address(number: usize) -> SocketAddr {
    let [.., high, low] = u32::try_from(number).expect("it is small").to_be_bytes();
    SocketAddr::from(([10, 1, high, low], 6881))
}

impl Swarm {
    fn new(seed: u64, pieces: u32, piece_bytes: u32) -> Self {
        let total = u64::from(pieces) * u64::from(piece_bytes) - 1000;
        let bytes: Vec<u8> = (0..total).map(|at| (at / 977 + at % 251) as u8).collect();
        let cut = Cut::new(total, piece_bytes).expect("it can be cut");
        Self {
            world: World::new(seed),
            original: Original {
                bytes: bytes.into(),
                cut,
            },
            hosts: Vec::new(),
            heard: Vec::new(),
            graph: Graph::new([3; 32]),
            started: seed << 20,
            secret: None,
            metainfo: None,
        }
    }

    /// Adds a host with an empty file, or the whole.
    fn add(&mut self, is_seed: bool) -> usize {
        let number = self.hosts.len();
        let local = address(number);
        let socket = Socket {
            local,
            groups: Vec::new(),
        };
        let bytes = Arc::clone(&self.original.bytes);
        let file = if is_seed {
            File::holding(bytes)
        } else {
            File::expecting(bytes)
        };
        let host = self.world.add_host(vec![socket], vec![file]);
        self.set_rate(host, RATE);
        self.world.listen(host, local);
        self.hosts.push(host);
        self.heard.push(Rc::default());
        self.graph.insert(local);
        number
    }

    fn set_rate(&mut self, host: HostIndex, rate: u64) {
        let conditions = Conditions {
            rate,
            latency: LATENCY,
            queue_bytes_max: 1 << 30,
            ..Conditions::default()
        };
        self.world.set_up_link(host, conditions);
        let down = Conditions {
            rate: 4 * RATE,
            ..conditions
        };
        self.world.set_down_link(host, down);
    }

    fn start(&mut self, number: usize, have: Bitmap, is_first_seed: bool) {
        self.start_alone(number, have, is_first_seed);
        let mut peers = self.graph.neighbours(address(number));
        peers.push(address(0));
        peers.retain(|peer| *peer != address(number));
        self.command(number, Command::Peers(peers));
    }

    /// Starts a node that knows nobody.
    fn start_alone(&mut self, number: usize, have: Bitmap, is_first_seed: bool) {
        self.started += 1;
        let mut peer_id = [0; 20];
        peer_id[..8].copy_from_slice(&self.started.to_be_bytes());
        let config = Config {
            names: vec![self.name()],
            peer_id,
            cut: self.original.cut,
            have,
            is_first_seed,
            secret: self.secret.clone(),
            nonces: sha256(&self.started.to_be_bytes()),
            seed: self.started,
            listen_port: Some(6881),
            info: Some(self.info()),
            metainfo: self.metainfo.clone(),
            is_private: false,
            blocks_max: BLOCKS,
            up_max: None,
            down_max: None,
        };
        let piece_bytes = self.original.cut.piece_bytes() as usize;
        let blocks = Box::new(PlainBlocks::new(piece_bytes, BLOCKS));
        let torrent = Torrent::new(config, self.original.clone(), blocks);
        let heard = Rc::clone(&self.heard[number]);
        self.world
            .start(self.hosts[number], torrent, move |now, event| {
                let mut heard = heard.borrow_mut();
                match event {
                    Event::Complete => heard.complete = Some(now),
                    Event::Stats(stats) => {
                        heard.bytes_out = stats.bytes_out;
                        heard.bytes_in = stats.bytes_in;
                        heard.bytes_wasted = stats.bytes_wasted;
                    }
                    Event::PieceWrong { .. } => heard.wrong += 1,
                    Event::Left { peer, why } => heard.left.push((peer, why)),
                    Event::PieceStored { .. }
                    | Event::DiskFailed { .. }
                    | Event::Connected { .. }
                    | Event::Stopped => {}
                }
            });
    }

    /// Starts a node that claims to have everything, and has it wrong in one byte of each piece.
    fn start_liar(&mut self, number: usize) {
        let cut = self.original.cut;
        let mut bytes = self.original.bytes.to_vec();
        for piece in 0..cut.piece_count() {
            let at = usize::try_from(cut.offset(PieceIndex::new(piece))).expect("it is small");
            bytes[at + 40_000] ^= 1;
        }
        let wrong = Original {
            bytes: bytes.into(),
            cut,
        };
        self.world.files(self.hosts[number])[0] = File::holding(Arc::clone(&wrong.bytes));
        let right = std::mem::replace(&mut self.original, wrong);
        self.start(number, self.all(), false);
        self.original = right;
    }

    fn name(&self) -> [u8; 20] {
        let metainfo = self.metainfo.as_ref();
        let name = metainfo.map(|it| it.info().names().first().wire());
        name.unwrap_or_else(|| sha1(&info(self.original.cut)))
    }

    fn info(&self) -> Bytes {
        let metainfo = self.metainfo.as_ref();
        metainfo.map_or_else(|| info(self.original.cut), |it| it.info().bytes().clone())
    }

    fn command(&mut self, number: usize, command: Command) {
        self.world
            .command::<Torrent<Original>>(self.hosts[number], command);
    }

    fn none(&self) -> Bitmap {
        Bitmap::new(self.original.cut.piece_count() as usize)
    }

    fn all(&self) -> Bitmap {
        Bitmap::full(self.original.cut.piece_count() as usize)
    }

    /// A seed and `nodes` empty nodes, all started.
    fn begin(seed: u64, nodes: usize, pieces: u32, piece_bytes: u32) -> Self {
        let mut swarm = Self::new(seed, pieces, piece_bytes);
        for number in 0..=nodes {
            swarm.add(number == 0);
        }
        swarm.start(0, swarm.all(), true);
        for number in 1..=nodes {
            swarm.start(number, swarm.none(), false);
        }
        swarm
    }

    fn run_for(&mut self, share: f64) {
        let now = self.world.now();
        self.world.run_until(now + self.bound().mul_f64(share));
    }

    /// F/u: the time that the seed needs to send everything once.
    fn bound(&self) -> Duration {
        Duration::from_secs_f64(self.original.cut.total_bytes() as f64 / RATE as f64)
    }

    fn is_complete(&self, number: usize) -> bool {
        self.heard[number].borrow().complete.is_some()
    }

    /// Runs until all of `nodes` are complete, and gives the last one's time over the bound.
    fn finish(&mut self, nodes: impl Iterator<Item = usize> + Clone, ratio_max: f64) -> f64 {
        let end = Time::ZERO + self.bound().mul_f64(ratio_max);
        while !nodes.clone().all(|number| self.is_complete(number)) {
            assert!(self.world.now() < end, "{}", self.told());
            self.run_for(0.02);
        }
        for number in nodes.clone() {
            let bytes = Arc::clone(&self.original.bytes);
            let file = &self.world.files(self.hosts[number])[0];
            assert!(
                file.equals(&bytes),
                "node {number} has the original's bytes"
            );
        }
        let last = nodes
            .filter_map(|number| self.heard[number].borrow().complete)
            .max();
        last.map_or(0.0, |last| {
            last.since(Time::ZERO).as_secs_f64() / self.bound().as_secs_f64()
        })
    }

    fn told(&self) -> String {
        let nodes = self.heard.iter().enumerate();
        let tell = |(number, heard): (usize, &Rc<RefCell<Heard>>)| {
            let heard = heard.borrow();
            format!(
                "{number}: {:?} in {} out {} wasted {} wrong {} left {:?}",
                heard.complete,
                heard.bytes_in,
                heard.bytes_out,
                heard.bytes_wasted,
                heard.wrong,
                heard.left.iter().take(4).collect::<Vec<_>>()
            )
        };
        nodes.take(40).map(tell).collect::<Vec<_>>().join("\n")
    }

    /// What the seed sent, in copies.
    fn seeder_copies(&mut self) -> f64 {
        // The last statistics come within a second.
        let now = self.world.now();
        self.world.run_until(now + Duration::from_secs(2));
        self.heard[0].borrow().bytes_out as f64 / self.original.cut.total_bytes() as f64
    }
}

#[test]
fn a_swarm_is_as_fast_as_its_seed_can_send_once() {
    for nodes in [1, 4, 8] {
        let mut swarm = Swarm::begin(1, nodes, 512, 1 << 16);
        let ratio = swarm.finish(1..=nodes, 3.0);
        let copies = swarm.seeder_copies();
        assert!(ratio <= 1.13 && copies <= 1.05, "{nodes}: {ratio} {copies}");
    }
}

/// The optimum is 1 + log2(nodes) / pieces, times 1.05 for headers.
#[test]
fn many_nodes_take_little_longer_than_few() {
    let mut table = String::from("nodes      R  seeder copies\n");
    for nodes in [4, 16, 64, 256] {
        let mut swarm = Swarm::begin(1, nodes, 64, 1 << 17);
        let ratio = swarm.finish(1..=nodes, 3.0);
        let copies = swarm.seeder_copies();
        table += &format!("{nodes:5}  {ratio:5.2}  {copies:13.2}\n");
    }
    insta::assert_snapshot!(table);
}

/// A thousand nodes, of which fifty are lost on the way: all others finish.
#[test]
fn a_thousand_nodes_lose_fifty() {
    let mut swarm = Swarm::begin(1, 1000, 32, 1 << 16);
    for number in (1..=1000).step_by(20) {
        swarm.run_for(0.02);
        swarm.world.crash(swarm.hosts[number]);
    }
    let left = (1..=1000).filter(|number| number % 20 != 1);
    let ratio = swarm.finish(left, 6.0);
    assert!(ratio <= 4.0, "{ratio}");
}

/// A quarter of the nodes dies when half is done: the others do not wait for them.
#[test]
fn lost_peers_cost_the_others_little() {
    super::seeds("swarm::lost_peers", 4, |seed| {
        let mut swarm = Swarm::begin(seed, 16, 256, 1 << 16);
        swarm.run_for(0.5);
        for number in 1..=4 {
            swarm.world.crash(swarm.hosts[number]);
        }
        let ratio = swarm.finish(5..=16, 3.0);
        assert!(ratio <= 1.3, "{ratio}\n{}", swarm.told());
    });
}

/// The seed dies at half and comes again with all pieces: nothing that went out is lost.
#[test]
fn a_seed_that_restarts_goes_on() {
    super::seeds("swarm::seed_restarts", 4, |seed| {
        let mut swarm = Swarm::begin(seed, 8, 256, 1 << 16);
        swarm.run_for(0.5);
        swarm.world.crash(swarm.hosts[0]);
        swarm.run_for(0.1);
        swarm.start(0, swarm.all(), true);
        let ratio = swarm.finish(1..=8, 3.0);
        assert!(ratio <= 1.6, "{ratio}\n{}", swarm.told());
    });
}

/// After the seed has sent everything once it may go: the nodes finish among themselves.
#[test]
fn without_the_seed_the_nodes_finish_among_themselves() {
    let mut swarm = Swarm::begin(1, 8, 256, 1 << 16);
    while !(1..=8).any(|number| swarm.is_complete(number)) {
        swarm.run_for(0.005);
        assert!(swarm.world.now() < Time::ZERO + swarm.bound() * 3);
    }
    swarm.world.crash(swarm.hosts[0]);
    let ratio = swarm.finish(1..=8, 3.0);
    assert!(ratio <= 1.3, "{ratio}\n{}", swarm.told());
}

/// One node sends at a tenth of the rate: the others do not wait for what only it was given.
#[test]
fn a_slow_uplink_does_not_hold_the_others_up() {
    super::seeds("swarm::slow_uplink", 4, |seed| {
        let mut swarm = Swarm::begin(seed, 8, 512, 1 << 16);
        swarm.set_rate(swarm.hosts[3], RATE / 10);
        let others = (1..=8).filter(|&number| number != 3);
        let ratio = swarm.finish(others, 4.0);
        assert!(ratio <= 2.0, "{ratio}\n{}", swarm.told());
    });
}

/// Whoever comes when half is done takes the time of whoever came at once.
#[test]
fn a_late_node_is_no_slower() {
    let mut swarm = Swarm::new(1, 256, 1 << 16);
    for number in 0..=8 {
        swarm.add(number == 0);
    }
    swarm.start(0, swarm.all(), true);
    for number in 1..=7 {
        swarm.start(number, swarm.none(), false);
    }
    swarm.run_for(0.5);
    swarm.start(8, swarm.none(), false);
    let ratio = swarm.finish(1..=8, 3.0) - 0.5;
    assert!(ratio <= 1.3, "{ratio}\n{}", swarm.told());
}

/// A member that sends wrong bytes is found and banned, and everybody has the right ones.
#[test]
fn a_peer_with_wrong_bytes_is_banned() {
    super::seeds("swarm::wrong_bytes", 4, |seed| {
        let mut swarm = Swarm::new(seed, 128, 1 << 16);
        for number in 0..=8 {
            swarm.add(number == 0);
        }
        swarm.start(0, swarm.all(), false);
        swarm.start_liar(8);
        for number in 1..=7 {
            swarm.start(number, swarm.none(), false);
        }
        swarm.finish(1..=7, 6.0);
        let liar = address(8);
        let bans = |heard: &Rc<RefCell<Heard>>| {
            let heard = heard.borrow();
            heard
                .left
                .iter()
                .any(|(peer, why)| peer.ip() == liar.ip() && matches!(why, Why::SentWrong(_)))
        };
        assert!(swarm.heard[1..=7].iter().any(bans), "{}", swarm.told());
        let honest = |heard: &Rc<RefCell<Heard>>| {
            let heard = heard.borrow();
            heard
                .left
                .iter()
                .all(|(peer, why)| peer.ip() == liar.ip() || !matches!(why, Why::SentWrong(_)))
        };
        assert!(
            swarm.heard.iter().all(honest),
            "nobody else is: {}",
            swarm.told()
        );
    });
}

/// What a seed cannot read any more it fetches again from others, and gives then.
#[test]
fn a_seed_with_a_damaged_disk_mends_it() {
    let mut swarm = Swarm::new(1, 64, 1 << 16);
    for number in 0..=2 {
        swarm.add(number == 0);
    }
    let mut bytes = swarm.original.bytes.to_vec();
    for piece in [3, 40] {
        bytes[piece * (1 << 16) + 77] ^= 1;
    }
    let damaged = File::holding(bytes.into());
    swarm.world.files(swarm.hosts[1])[0] = damaged;
    swarm.start_alone(0, swarm.all(), false);
    swarm.start_alone(1, swarm.all(), false);
    swarm.start_alone(2, swarm.none(), false);
    swarm.command(1, Command::Peers(vec![address(0)]));
    swarm.command(2, Command::Peers(vec![address(1)]));
    swarm.finish(1..=2, 6.0);
    let heard = swarm.heard[1].borrow();
    assert_eq!(heard.bytes_in, 2 << 16, "{}", swarm.told());
}

/// Who knows the seed alone hears of the others from it.
#[test]
fn peers_tell_each_other_of_peers() {
    let mut swarm = Swarm::new(1, 256, 1 << 16);
    for number in 0..=6 {
        swarm.add(number == 0);
    }
    swarm.start(0, swarm.all(), true);
    for number in 1..=6 {
        swarm.start_alone(number, swarm.none(), false);
        swarm.command(number, Command::Peers(vec![address(0)]));
        swarm.run_for(0.01);
    }
    let ratio = swarm.finish(1..=6, 8.0);
    let copies = swarm.seeder_copies();
    assert!(copies < 4.0, "R {ratio}, {copies} copies\n{}", swarm.told());
}

/// Who has only the name of a torrent gets its description from peers.
#[test]
fn a_scout_brings_the_description() {
    let mut swarm = Swarm::begin(1, 2, 256, 1 << 16);
    let number = swarm.add(false);
    let names = InfoHashes::new(Some(sha1(&info(swarm.original.cut))), None).expect("there is one");
    let found = Rc::new(RefCell::new(None));
    let tell = Rc::clone(&found);
    let scout = Scout::new(names, [9; 20], 5);
    let host = swarm.hosts[number];
    swarm.world.start(host, scout, move |_, event| {
        tell.replace(Some(matches!(event, scout::Event::Found(_))));
    });
    let peers = scout::Command::Peers(vec![address(5), address(0), address(1)]);
    swarm.world.command::<Scout>(host, peers);
    swarm.run_for(0.5);
    assert_eq!(*found.borrow(), Some(true));
}

/// Nodes of a run understand each other; whoever has no secret, or another, gets nothing.
#[test]
fn a_sealed_swarm_is_closed_to_others() {
    let mut swarm = Swarm::new(1, 256, 1 << 16);
    for number in 0..=6 {
        swarm.add(number == 0);
    }
    swarm.secret = Some(SwarmSecret::new([5; 32]));
    swarm.start(0, swarm.all(), true);
    for number in 1..=4 {
        swarm.start(number, swarm.none(), false);
    }
    swarm.secret = Some(SwarmSecret::new([6; 32]));
    swarm.start(5, swarm.none(), false);
    swarm.secret = None;
    swarm.start(6, swarm.none(), false);
    let ratio = swarm.finish(1..=4, 3.0);
    assert!(ratio < 1.2, "{ratio}\n{}", swarm.told());
    swarm.run_for(1.0);
    for number in [5, 6] {
        let heard = swarm.heard[number].borrow();
        assert_eq!((heard.bytes_in, heard.complete), (0, None), "node {number}");
    }
}
