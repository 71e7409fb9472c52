//! Who has only a magnet link asks its peers for the info dictionary first, and then for the piece
//! layers of a v2 torrent.
//!
//! ```text
//!   Info ──it has the names of the link──► Layers ──all lead to their roots──► Over
//!                                  └── the torrent needs none ──────────────────┘
//! ```
//!
//! The scout connects to peers, says hello and nothing else, and asks those that have the
//! dictionary for its parts. A torrent that has v1 hashes too can do without the layers: they are
//! asked of whoever is connected and speaks v2, and not waited for long. Then the scout's work is
//! done; a [`super::Torrent`] does the rest.
//!
//! Source: BEP 9, 10, 52.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;

use super::addresses::{Addresses, Who};
use super::hash::Sha256;
use super::infohash::{InfoHash, InfoHashes};
use super::layer_fetch::{self, LayerFetch};
use super::limits::{DIALLED_MAX, GREETING_PATIENCE, LAYERS_PATIENCE, TICK};
use super::metadata_fetch::{Heard, MetadataFetch};
use super::metainfo::{self, Info, Metainfo};
use super::wire::extension::{ExtendedHandshake, Extension, ExtensionIds, HANDSHAKE_ID};
use super::wire::framer::{Frame, Framer};
use super::wire::hashes::HashRange;
use super::wire::metadata::MetadataMessage;
use super::wire::{Handshake, Message};
use crate::base::{PieceIndex, Time};
use crate::machine::{Input, Machine, Output, StreamId, StreamInput, StreamOp, Transmit};

/// See the module.
#[derive(Debug)]
pub struct Scout {
    names: InfoHashes,
    peer_id: [u8; 20],
    stage: Stage,
    peers: BTreeMap<StreamId, Guide>,
    addresses: Addresses,
    dialled: u32,
    tick_at: Time,
    outputs: VecDeque<Output<Event>>,
}

/// What is looked for.
#[derive(Debug)]
enum Stage {
    /// The info dictionary.
    Info(MetadataFetch),
    /// The piece layers; the torrent does without when that moment comes, if there is one.
    Layers(Box<Info>, LayerFetch, Option<Time>),
    /// Nothing any more.
    Over,
}

/// A peer that may have the dictionary.
#[derive(Debug)]
struct Guide {
    address: SocketAddr,
    framer: Framer,
    ids: ExtensionIds,
    /// It has what is looked for, or may have.
    is_known: bool,
    /// Both go by the v2 name.
    is_v2: bool,
    since: Time,
}

/// What the job can say.
#[derive(Clone, Debug)]
pub enum Command {
    /// Peers are there.
    Peers(Vec<SocketAddr>),
}

/// What the job hears.
#[derive(Debug)]
pub enum Event {
    /// The torrent is there, without trackers and web seeds.
    Found(Box<Metainfo>),
    /// The info dictionary is there, and describes no torrent that can be fetched.
    Useless(metainfo::Error),
    /// A peer sent hashes that do not belong to the torrent, and is shunned.
    WrongHashes(SocketAddr),
}

impl Scout {
    /// Makes a scout for a torrent of these names.
    #[must_use]
    pub const fn new(names: InfoHashes, peer_id: [u8; 20], seed: u64) -> Self {
        Self {
            stage: Stage::Info(MetadataFetch::new(names)),
            names,
            peer_id,
            peers: BTreeMap::new(),
            addresses: Addresses::new(seed),
            dialled: 0,
            tick_at: Time::ZERO,
            outputs: VecDeque::new(),
        }
    }

    fn on_stream(&mut self, input: StreamInput<'_>, now: Time) {
        match input {
            StreamInput::Accepted { id, .. } => self.close(id),
            StreamInput::Connected { id } => {
                let handshake = Handshake {
                    info_hash: self.names.first().wire(),
                    peer_id: self.peer_id,
                    fast: true,
                    extended: true,
                    upgrade: self.names.v1().is_some() && self.names.v2().is_some(),
                };
                self.send(id, handshake.emit().to_vec());
            }
            StreamInput::Received { id, bytes } => self.received(id, bytes, now),
            StreamInput::Sent { .. } => {}
            StreamInput::Closed { id, .. } => self.gone(id, now),
        }
    }

    fn received(&mut self, id: StreamId, mut bytes: &[u8], now: Time) {
        let Some(guide) = self.peers.get_mut(&id) else {
            return;
        };
        let mut framer = std::mem::take(&mut guide.framer);
        loop {
            match framer.next(&mut bytes) {
                Ok(Some(frame)) => {
                    if !self.on_frame(id, &frame, now) {
                        return self.leave(id, now);
                    }
                }
                Ok(None) => break,
                Err(_) => return self.leave(id, now),
            }
        }
        if let Some(guide) = self.peers.get_mut(&id) {
            guide.framer = framer;
        }
    }

    /// Takes a part of what a peer says; false if it is of no use.
    fn on_frame(&mut self, id: StreamId, frame: &Frame<'_>, now: Time) -> bool {
        match *frame {
            Frame::Handshake(ref theirs) => {
                if !self.names.matches(&theirs.info_hash) || !theirs.extended {
                    return false;
                }
                let hello = ExtendedHandshake {
                    ids: ExtensionIds::ours(&[Extension::Metadata]),
                    ..ExtendedHandshake::default()
                };
                self.greeted(id, theirs.info_hash);
                self.say(id, &Message::HaveNone);
                self.say(id, &Message::Extended(HANDSHAKE_ID, &hello.emit()));
                true
            }
            Frame::Message(Message::Extended(HANDSHAKE_ID, payload)) => {
                let Ok(said) = ExtendedHandshake::parse(payload) else {
                    return false;
                };
                let Some(guide) = self.peers.get_mut(&id) else {
                    return true;
                };
                guide.ids.update(&said.ids);
                if let Some(size) = said.metadata_size
                    && guide.ids.get(Extension::Metadata).is_some()
                {
                    guide.is_known = true;
                    if let Stage::Info(fetch) = &mut self.stage {
                        fetch.add_peer(id, size);
                    }
                }
                true
            }
            Frame::Message(Message::Extended(number, payload)) => {
                Extension::of_our_id(number) != Some(Extension::Metadata)
                    || self.on_metadata(id, payload, now)
            }
            Frame::Message(Message::Hashes(range, hashes)) => self.on_hashes(id, range, hashes),
            Frame::Message(Message::HashReject(range)) => {
                if let Stage::Layers(_, fetch, _) = &mut self.stage {
                    fetch.handle_reject(id, &range, now);
                }
                true
            }
            Frame::Message(_) | Frame::Block { .. } => true,
        }
    }

    /// A peer goes by this name: the v2 name means that it may be asked for hashes.
    fn greeted(&mut self, id: StreamId, name: [u8; 20]) {
        let v2 = self.names.v2().map(|v2| InfoHash::V2(v2).wire());
        if let Some(guide) = self.peers.get_mut(&id)
            && v2 == Some(name)
        {
            guide.is_v2 = true;
            if let Stage::Layers(_, fetch, _) = &mut self.stage {
                guide.is_known = true;
                fetch.add_peer(id);
            }
        }
    }

    fn on_metadata(&mut self, id: StreamId, payload: &[u8], now: Time) -> bool {
        let Ok(message) = MetadataMessage::parse(payload) else {
            return false;
        };
        let Stage::Info(fetch) = &mut self.stage else {
            return true;
        };
        match fetch.handle(id, &message, now) {
            Heard::Nothing => true,
            Heard::Bad => false,
            Heard::Complete(info) => {
                self.look_for_layers(info, now);
                true
            }
            Heard::Useless(error) => {
                self.end(Event::Useless(error));
                true
            }
        }
    }

    /// The info dictionary is here: what it lacks is asked for.
    fn look_for_layers(&mut self, info: Box<Info>, now: Time) {
        let Some(mut fetch) = LayerFetch::new(&info) else {
            return self.end(Event::Found(Box::new(Metainfo::from_info(*info))));
        };
        for (&id, guide) in &mut self.peers {
            guide.is_known = guide.is_v2;
            if guide.is_v2 {
                fetch.add_peer(id);
            }
        }
        let can_do_without = info.piece_sha1(PieceIndex::new(0)).is_some();
        let until = can_do_without.then_some(now + LAYERS_PATIENCE);
        self.stage = Stage::Layers(info, fetch, until);
    }

    fn on_hashes(&mut self, id: StreamId, range: HashRange, hashes: &[Sha256]) -> bool {
        let Stage::Layers(info, fetch, _) = &mut self.stage else {
            return true;
        };
        match fetch.handle(id, &range, hashes) {
            layer_fetch::Heard::Nothing => true,
            layer_fetch::Heard::Bad => {
                if let Some(guide) = self.peers.get(&id) {
                    self.addresses.ban(guide.address.ip());
                    let event = Event::WrongHashes(guide.address);
                    self.outputs.push_back(Output::Event(event));
                }
                false
            }
            layer_fetch::Heard::Complete(layers) => {
                let torrent = Metainfo::with_layers((**info).clone(), layers);
                self.end(match torrent {
                    Ok(torrent) => Event::Found(Box::new(torrent)),
                    Err(error) => Event::Useless(error),
                });
                true
            }
        }
    }

    /// Goes on without piece layers, where that can be, when nobody can give them soon.
    fn do_without(&mut self, now: Time) {
        if let Stage::Layers(info, fetch, Some(until)) = &self.stage
            && (now >= *until || !fetch.has_peers())
        {
            let torrent = Metainfo::from_info((**info).clone());
            self.end(Event::Found(Box::new(torrent)));
        }
    }

    fn end(&mut self, event: Event) {
        self.stage = Stage::Over;
        let ids: Vec<StreamId> = self.peers.keys().copied().collect();
        ids.into_iter().for_each(|id| self.close(id));
        self.outputs.push_back(Output::Event(event));
    }

    fn turn(&mut self, now: Time) {
        self.do_without(now);
        if matches!(self.stage, Stage::Over) {
            return;
        }
        while self.peers.len() < DIALLED_MAX
            && let Some(to) = self.addresses.take(Who::Anybody, now)
        {
            let id = StreamId::outgoing(self.dialled);
            self.dialled += 1;
            let guide = Guide {
                address: to,
                framer: Framer::default(),
                ids: ExtensionIds::default(),
                is_known: false,
                is_v2: false,
                since: now,
            };
            self.peers.insert(id, guide);
            let op = StreamOp::Connect { id, to };
            self.outputs.push_back(Output::Stream(op));
        }
        if now >= self.tick_at {
            self.tick_at = now + TICK;
            // Who has nothing makes room for another.
            let late = |guide: &Guide| !guide.is_known && now >= guide.since + GREETING_PATIENCE;
            let late = self.peers.iter().filter(|(_, guide)| late(guide));
            let late: Vec<StreamId> = late.map(|(&id, _)| id).collect();
            late.into_iter().for_each(|id| self.leave(id, now));
        }
        while let Some((id, bytes)) = self.next_request(now) {
            self.send(id, bytes);
        }
    }

    /// The next request, and whom it is for.
    fn next_request(&mut self, now: Time) -> Option<(StreamId, Vec<u8>)> {
        let mut bytes = Vec::new();
        let id = match &mut self.stage {
            Stage::Info(fetch) => {
                let (id, part) = fetch.poll_request(now)?;
                // Who is asked has said its number.
                let number = self.peers.get(&id)?.ids.get(Extension::Metadata)?;
                let request = MetadataMessage::Request(part).emit();
                Message::Extended(number, &request).emit(&mut bytes);
                id
            }
            Stage::Layers(_, fetch, _) => {
                let (id, range) = fetch.poll_request(now)?;
                Message::HashRequest(range).emit(&mut bytes);
                id
            }
            Stage::Over => return None,
        };
        Some((id, bytes))
    }

    fn say(&mut self, id: StreamId, message: &Message<'_>) {
        let mut bytes = Vec::new();
        message.emit(&mut bytes);
        self.send(id, bytes);
    }

    fn send(&mut self, id: StreamId, bytes: Vec<u8>) {
        let bytes = Bytes::from(bytes);
        let op = StreamOp::Send { id, bytes };
        self.outputs.push_back(Output::Stream(op));
    }

    fn leave(&mut self, id: StreamId, now: Time) {
        self.close(id);
        self.gone(id, now);
    }

    fn close(&mut self, id: StreamId) {
        self.outputs
            .push_back(Output::Stream(StreamOp::Close { id }));
    }

    fn gone(&mut self, id: StreamId, now: Time) {
        match &mut self.stage {
            Stage::Info(fetch) => fetch.remove_peer(id),
            Stage::Layers(_, fetch, _) => fetch.remove_peer(id),
            Stage::Over => {}
        }
        if let Some(guide) = self.peers.remove(&id) {
            self.addresses.ended(guide.address, false, now);
        }
    }
}

impl Machine for Scout {
    type Command = Command;
    type Event = Event;

    fn handle(&mut self, input: Input<'_, Command>, now: Time) {
        match input {
            Input::Stream(input) => self.on_stream(input, now),
            Input::Command(Command::Peers(peers)) => {
                for peer in peers {
                    self.addresses.add(peer);
                }
            }
            Input::Timeout | Input::Datagrams(_) | Input::Disk(_) => {}
        }
        self.turn(now);
    }

    fn poll_transmit(&mut self, _now: Time, _buffer: &mut [u8]) -> Option<Transmit> {
        None
    }

    fn poll_output(&mut self) -> Option<Output<Event>> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Time> {
        let fetch_at = match &self.stage {
            Stage::Info(fetch) => fetch.poll_timeout(),
            Stage::Layers(_, fetch, until) => {
                let times = [fetch.poll_timeout(), *until];
                times.into_iter().flatten().min()
            }
            Stage::Over => return None,
        };
        let tick_at = Some(self.tick_at).filter(|_| !self.peers.is_empty());
        let dial_at = Some(self.addresses.due_at(Who::Anybody));
        let dial_at = dial_at.filter(|_| self.peers.len() < DIALLED_MAX);
        let times = [tick_at, dial_at, fetch_at];
        let at = times.into_iter().flatten().min();
        at.filter(|&at| at != Time::NEVER)
    }
}
