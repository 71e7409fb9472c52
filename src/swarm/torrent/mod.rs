//! One torrent: the machine that fetches its pieces from peers and seeds them.
//!
//! ```text
//!   peers ──blocks──► fetches ──whole──► verified ──disk──► have ──► shown to peers
//!   peers ◄──blocks── shelf ◄────────────disk───────────────┘
//! ```
//!
//! Invariants: no byte reaches the disk before its piece is verified, and none leaves that does not
//! verify when it is read; what waits for one peer is bounded; one peer that does nothing, too
//! little or harm costs the others nothing but what it was asked for.
//!
//! Source: BEP 3, 6, 9, 10, 11, 21, 52, 54.

mod download;
mod event;
mod extensions;
mod hashes;
mod peers;
mod upload;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

pub use event::{Command, Config, Event, Stats, Why};

use super::addresses::Addresses;
use super::cap::Cap;
use super::cut::Cut;
use super::disputes::Disputes;
use super::fetches::Fetches;
use super::limits::{STATS_INTERVAL, TICK};
use super::metainfo::Metainfo;
use super::peer::Peer;
use super::picker::Picker;
use super::seal::SwarmSecret;
use super::seeding::Partition;
use super::shelf::Shelf;
use super::suspects::Suspects;
use crate::base::random::Random;
use crate::base::{Bitmap, Blocks, PieceIndex, Time};
use crate::image::verify::Verify;
use crate::machine::{
    DiskDone, DiskKind, FileId, Input, Machine, Output, StreamId, StreamOp, Transmit,
};

/// See the module. The bytes of the torrent are its file 0.
pub struct Torrent<V: Verify> {
    names: Vec<[u8; 20]>,
    peer_id: [u8; 20],
    secret: Option<SwarmSecret>,
    nonces: [u8; 32],
    /// What came sealed, opened; kept for its memory.
    opened: Vec<u8>,
    listen_port: Option<u16>,
    info: Option<Bytes>,
    metainfo: Option<Arc<Metainfo>>,
    is_private: bool,
    cut: Cut,
    verify: V,
    blocks: Box<dyn Blocks>,
    have: Bitmap,
    /// Pieces that are verified and being written.
    writing: BTreeMap<PieceIndex, StreamId>,
    picker: Picker,
    fetches: Fetches,
    fetches_max: usize,
    suspects: Suspects,
    disputes: Disputes,
    /// Pieces that one peer alone is to bring.
    alone: BTreeSet<PieceIndex>,
    shelf: Shelf,
    partition: Option<Partition>,
    /// Peers are served.
    serves: bool,

    peers: BTreeMap<StreamId, Peer>,
    addresses: Addresses,
    dialled: u32,
    /// Peers for which something may be to do.
    dirty: BTreeSet<StreamId>,
    /// Peers that could not be served for want of memory.
    waiting: BTreeSet<StreamId>,
    up_cap: Cap,
    down_cap: Cap,
    /// When a cap lets more pass.
    cap_at: Time,

    phase: Phase,
    tick_at: Time,
    stats: Stats,
    stats_at: Time,
    stats_told: Stats,
    outputs: VecDeque<Output<Event>>,
}

/// Where a torrent is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The time is not known yet.
    New,
    /// It fetches and seeds.
    Running,
    /// Connections are being ended.
    Ending,
    /// Nothing more is done.
    Stopped,
}

impl<V: Verify> Torrent<V> {
    /// Makes a torrent; `blocks` are as large as a piece.
    ///
    /// # Panics
    /// If `have` is not as long as the torrent has pieces, a block does not hold a piece, or there
    /// is no name.
    #[must_use]
    pub fn new(config: Config, verify: V, blocks: Box<dyn Blocks>) -> Self {
        let cut = config.cut;
        let count = cut.piece_count();
        assert_eq!(config.have.len(), count as usize, "one bit per piece");
        assert!(!config.names.is_empty(), "a torrent has a name");
        assert!(
            blocks.block_size() >= cut.len(PieceIndex::new(0)) as usize,
            "a block holds a piece"
        );
        let mut random = Random::new(config.seed);
        let is_first = config.is_first_seed && config.have.is_full();
        // Half of the memory is for what comes, half for what goes: neither stops the other.
        let fetches_max = (config.blocks_max / 2).max(1);
        Self {
            picker: Picker::new(&config.have, random.bits()),
            fetches: Fetches::new(cut),
            fetches_max,
            suspects: Suspects::default(),
            disputes: Disputes::default(),
            alone: BTreeSet::new(),
            shelf: Shelf::new(config.blocks_max.saturating_sub(fetches_max)),
            partition: is_first
                .then(|| Partition::new(count, cut.len(PieceIndex::new(0)) as usize)),
            serves: true,
            names: config.names,
            peer_id: config.peer_id,
            secret: config.secret,
            nonces: config.nonces,
            opened: Vec::new(),
            listen_port: config.listen_port,
            info: config.info,
            metainfo: config.metainfo,
            is_private: config.is_private,
            cut,
            verify,
            blocks,
            writing: BTreeMap::new(),
            peers: BTreeMap::new(),
            addresses: Addresses::new(random.bits()),
            dialled: 0,
            dirty: BTreeSet::new(),
            waiting: BTreeSet::new(),
            up_cap: Cap::new(config.up_max),
            down_cap: Cap::new(config.down_max),
            cap_at: Time::NEVER,
            phase: Phase::New,
            tick_at: Time::ZERO,
            stats: Stats {
                pieces_done: u32::try_from(config.have.count()).unwrap_or(u32::MAX),
                ..Stats::default()
            },
            stats_at: Time::ZERO,
            stats_told: Stats::default(),
            have: config.have,
            outputs: VecDeque::new(),
        }
    }

    /// The pieces that are stored.
    #[must_use]
    pub const fn have(&self) -> &Bitmap {
        &self.have
    }

    fn is_complete(&self) -> bool {
        self.have.is_full()
    }

    fn raise(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn start(&mut self, now: Time) {
        if self.phase == Phase::New {
            self.phase = Phase::Running;
            self.tick_at = now + TICK;
            self.stats_at = now + STATS_INTERVAL;
            if self.is_complete() {
                self.raise(Event::Complete);
            }
        }
    }

    fn on_command(&mut self, command: Command, now: Time) {
        match command {
            Command::Peers(peers) => {
                peers.into_iter().for_each(|it| self.addresses.add(it));
            }
            Command::Named(peers) => {
                peers
                    .into_iter()
                    .for_each(|it| self.addresses.add_named(it));
            }
            Command::Have(pieces) => {
                for piece in pieces {
                    if piece.get() < self.cut.piece_count() {
                        self.drop_fetch(piece);
                        self.stored(piece, now);
                    }
                }
            }
            Command::Want(wanted) => {
                for piece in (0..self.cut.piece_count()).map(PieceIndex::new) {
                    let is_wanted = piece.as_usize() < wanted.len() && wanted.get(piece.as_usize());
                    self.picker.want(piece, is_wanted);
                }
                self.all_dirty();
            }
            Command::Serve(serves) => self.set_serving(serves, now),
            Command::Stop => self.stop(),
        }
    }

    fn on_disk(&mut self, done: DiskDone, now: Time) {
        let Ok(piece) = u32::try_from(done.tag).map(PieceIndex::new) else {
            return;
        };
        match done.kind {
            DiskKind::Read => self.read(piece, done),
            DiskKind::Write => self.written(piece, done, now),
        }
        self.dirty.append(&mut self.waiting);
    }

    /// A piece is here, from wherever: everybody hears of it.
    fn stored(&mut self, piece: PieceIndex, now: Time) {
        if !self.have.set(piece.as_usize()) {
            return;
        }
        self.picker.have(piece);
        self.alone.remove(&piece);
        self.stats.pieces_done = u32::try_from(self.have.count()).unwrap_or(u32::MAX);
        self.show_all_peers(piece);
        if self.is_complete() {
            self.raise(Event::Complete);
            self.stats_at = now;
        }
    }

    fn all_dirty(&mut self) {
        self.dirty.extend(self.peers.keys());
    }

    /// Does whatever can be done now.
    fn turn(&mut self, now: Time) {
        if self.phase != Phase::Running {
            return;
        }
        if now >= self.tick_at {
            self.tick(now);
        }
        if now >= self.cap_at {
            self.cap_at = Time::NEVER;
            self.all_dirty();
        }
        self.reveal(now);
        self.dial(now);
        while let Some(id) = self.dirty.pop_first() {
            self.ask(id, now);
            self.serve_leaves(id, now);
            self.serve(id, now);
            self.flush(id, now);
        }
        if now >= self.stats_at {
            self.stats_at = now + STATS_INTERVAL;
            self.count_peers();
            if self.stats != self.stats_told {
                self.stats_told = self.stats;
                self.raise(Event::Stats(self.stats));
            }
        }
    }

    fn count_peers(&mut self) {
        let ready = self.peers.values().filter(|peer| peer.is_ready());
        let lacks = |peer: &&Peer| !peer.theirs.is_full() && !peer.is_upload_only;
        let lacking = ready.clone().filter(lacks);
        (self.stats.peers, self.stats.peers_lacking) = (ready.count(), lacking.count());
    }

    fn tick(&mut self, now: Time) {
        let millis = TICK + now.since(self.tick_at);
        self.tick_at = now + TICK;
        let millis = u64::try_from(millis.as_millis()).unwrap_or(u64::MAX);
        for peer in self.peers.values_mut() {
            peer.down.tick(millis);
            peer.up.tick(millis);
        }
        self.check_peers(now);
        self.seek_leaves(now);
        self.exchange_peers(now);
    }

    /// Gives the driver what waits for a peer.
    fn flush(&mut self, id: StreamId, now: Time) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        while let Some(bytes) = peer.next_out(now) {
            let op = StreamOp::Send { id, bytes };
            self.outputs.push_back(Output::Stream(op));
        }
    }

    fn disk_op(
        &self,
        piece: PieceIndex,
        kind: DiskKind,
        block: crate::base::Block,
    ) -> Output<Event> {
        Output::Disk(crate::machine::DiskOp {
            tag: u64::from(piece.get()),
            kind,
            file: FileId(0),
            offset: self.cut.offset(piece),
            len: self.cut.len(piece) as usize,
            block,
        })
    }
}

impl<V: Verify> Machine for Torrent<V> {
    type Command = Command;
    type Event = Event;

    fn handle(&mut self, input: Input<'_, Command>, now: Time) {
        self.start(now);
        match input {
            Input::Stream(input) => self.on_stream(input, now),
            Input::Disk(done) => self.on_disk(done, now),
            Input::Command(command) => self.on_command(command, now),
            Input::Timeout | Input::Datagrams(_) => {}
        }
        self.turn(now);
    }

    fn poll_transmit(&mut self, now: Time, _buffer: &mut [u8]) -> Option<Transmit> {
        self.start(now);
        None
    }

    fn poll_output(&mut self) -> Option<Output<Event>> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Time> {
        match self.phase {
            Phase::New => Some(Time::ZERO),
            Phase::Ending | Phase::Stopped => None,
            Phase::Running => {
                let spread_at = self.partition.as_ref().and_then(Partition::patience_ends);
                let tick_at = if self.peers.is_empty() {
                    Time::NEVER
                } else {
                    self.tick_at
                };
                let stats_at = Some(self.stats_at).filter(|_| self.stats != self.stats_told);
                let at = tick_at.min(self.cap_at).min(self.dial_at());
                let at = at.min(spread_at.unwrap_or(Time::NEVER));
                Some(at.min(stats_at.unwrap_or(Time::NEVER))).filter(|&at| at != Time::NEVER)
            }
        }
    }
}

#[cfg(test)]
mod hash_tests;
#[cfg(test)]
mod tests;
