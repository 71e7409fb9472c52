//! Who has only a magnet link asks its peers for the info dictionary first.
//!
//! The scout connects to peers, says hello and nothing else, and asks those that have the
//! dictionary for its parts. When it is there, and has the names of the link, the scout's work is
//! done; a [`super::Torrent`] does the rest.
//!
//! Source: BEP 9, 10.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;

use super::addresses::Addresses;
use super::infohash::InfoHashes;
use super::limits::{DIALLED_MAX, GREETING_PATIENCE, TICK};
use super::metadata_fetch::{Heard, MetadataFetch};
use super::metainfo;
use super::wire::extension::{ExtendedHandshake, Extension, ExtensionIds, HANDSHAKE_ID};
use super::wire::framer::{Frame, Framer};
use super::wire::metadata::MetadataMessage;
use super::wire::{Handshake, Message};
use crate::base::Time;
use crate::machine::{Input, Machine, Output, StreamId, StreamInput, StreamOp, Transmit};
use crate::swarm::Info;

/// See the module.
#[derive(Debug)]
pub struct Scout {
    names: InfoHashes,
    peer_id: [u8; 20],
    fetch: MetadataFetch,
    peers: BTreeMap<StreamId, Guide>,
    addresses: Addresses,
    dialled: u32,
    is_over: bool,
    tick_at: Time,
    outputs: VecDeque<Output<Event>>,
}

/// A peer that may have the dictionary.
#[derive(Debug)]
struct Guide {
    address: SocketAddr,
    framer: Framer,
    ids: ExtensionIds,
    is_known: bool,
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
    /// The info dictionary is there.
    Found(Box<Info>),
    /// It is there, and describes no torrent that can be fetched.
    Useless(metainfo::Error),
}

impl Scout {
    /// Makes a scout for a torrent of these names.
    #[must_use]
    pub const fn new(names: InfoHashes, peer_id: [u8; 20], seed: u64) -> Self {
        Self {
            fetch: MetadataFetch::new(names),
            names,
            peer_id,
            peers: BTreeMap::new(),
            addresses: Addresses::new(seed),
            dialled: 0,
            is_over: false,
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
                    self.fetch.add_peer(id, size);
                }
                true
            }
            Frame::Message(Message::Extended(number, payload)) => {
                Extension::of_our_id(number) != Some(Extension::Metadata)
                    || self.on_metadata(id, payload, now)
            }
            Frame::Message(_) | Frame::Block { .. } => true,
        }
    }

    fn on_metadata(&mut self, id: StreamId, payload: &[u8], now: Time) -> bool {
        let Ok(message) = MetadataMessage::parse(payload) else {
            return false;
        };
        match self.fetch.handle(id, &message, now) {
            Heard::Nothing => true,
            Heard::Bad => false,
            Heard::Complete(info) => {
                self.end(Event::Found(info));
                true
            }
            Heard::Useless(error) => {
                self.end(Event::Useless(error));
                true
            }
        }
    }

    fn end(&mut self, event: Event) {
        self.is_over = true;
        let ids: Vec<StreamId> = self.peers.keys().copied().collect();
        ids.into_iter().for_each(|id| self.close(id));
        self.outputs.push_back(Output::Event(event));
    }

    fn turn(&mut self, now: Time) {
        if self.is_over {
            return;
        }
        while self.peers.len() < DIALLED_MAX
            && let Some(to) = self.addresses.take(now)
        {
            let id = StreamId::outgoing(self.dialled);
            self.dialled += 1;
            let guide = Guide {
                address: to,
                framer: Framer::default(),
                ids: ExtensionIds::default(),
                is_known: false,
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
        while let Some((id, part)) = self.fetch.poll_request(now) {
            let number = self
                .peers
                .get(&id)
                .and_then(|guide| guide.ids.get(Extension::Metadata));
            if let Some(number) = number {
                let request = MetadataMessage::Request(part).emit();
                self.say(id, &Message::Extended(number, &request));
            }
        }
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
        self.fetch.remove_peer(id);
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
        if self.is_over {
            return None;
        }
        let tick_at = Some(self.tick_at).filter(|_| !self.peers.is_empty());
        let dial_at = Some(self.addresses.due_at()).filter(|_| self.peers.len() < DIALLED_MAX);
        let times = [tick_at, dial_at, self.fetch.poll_timeout()];
        let at = times.into_iter().flatten().min();
        at.filter(|&at| at != Time::NEVER)
    }
}
