//! Peers come and go: connections, handshakes, and what each side says it has.

use std::net::SocketAddr;

use super::{Event, Phase, Torrent, Why};
use crate::base::{Bitmap, PieceIndex, Time};
use crate::image::verify::Verify;
use crate::machine::{Output, StreamId, StreamInput, StreamOp};
use crate::swarm::addresses::Who;
use crate::swarm::hash::sha256;
use crate::swarm::limits::{
    ASKED_PATIENCE, DIALLED_MAX, GREETING_PATIENCE, KEEP_ALIVE, NAMED_MAX, PEERS_MAX, SILENCE_MAX,
    SNUB_PATIENCE, STARVED_PATIENCE,
};
use crate::swarm::peer::{Peer, Phase as PeerPhase};
use crate::swarm::seal::Seal;
use crate::swarm::wire::framer::Frame;
use crate::swarm::wire::{Handshake, Message};

impl<V: Verify> Torrent<V> {
    pub(super) fn on_stream(&mut self, input: StreamInput<'_>, now: Time) {
        match input {
            StreamInput::Accepted { id, from } => self.accepted(id, from, now),
            StreamInput::Connected { id } => self.connected(id, now),
            StreamInput::Received { id, bytes } => self.received(id, bytes, now),
            StreamInput::Sent { id, count } => self.sent(id, count, now),
            StreamInput::Closed { id, why } => self.closed(id, Why::Closed(why), now),
        }
    }

    /// Opens connections while too few peers are there.
    pub(super) fn dial(&mut self, now: Time) {
        while let Some(who) = self.wants_more_peers()
            && let Some(to) = self.addresses.take(who, now)
        {
            if self.has_peer_at(to) {
                self.addresses.rest(to, now);
                continue;
            }
            let id = StreamId::outgoing(self.dialled);
            self.dialled += 1;
            let peer = Peer::new(to, PeerPhase::Opening, self.cut.piece_count(), now);
            self.peers.insert(id, peer);
            self.seal(id);
            let op = StreamOp::Connect { id, to };
            self.outputs.push_back(Output::Stream(op));
        }
    }

    /// Whether a peer that listens there is connected, whoever began.
    fn has_peer_at(&self, address: SocketAddr) -> bool {
        let listens_there = |(id, peer): (&StreamId, &Peer)| {
            peer.is_ready() && peer.listens_at(*id) == Some(address)
        };
        self.peers.iter().any(listens_there)
    }

    pub(super) fn dial_at(&self) -> Time {
        let who = self.wants_more_peers();
        who.map_or(Time::NEVER, |who| self.addresses.due_at(who))
    }

    /// Who lacks nothing waits for others to come, and goes only to those whom the user named: else
    /// both would call, and the end of one of two connections hides what was shown by it.
    fn wants_more_peers(&self) -> Option<Who> {
        let dialled = self.peers.keys().filter(|id| !id.is_incoming());
        let (who, dialled_max) = if self.is_complete() {
            (Who::Named, NAMED_MAX)
        } else {
            (Who::Anybody, DIALLED_MAX)
        };
        let has_place = dialled.count() < dialled_max && self.peers.len() < PEERS_MAX;
        has_place.then_some(who)
    }

    fn accepted(&mut self, id: StreamId, from: SocketAddr, now: Time) {
        let peer = Peer::new(from, PeerPhase::Greeting, self.cut.piece_count(), now);
        self.peers.insert(id, peer);
        self.seal(id);
        self.say_hello(id);
        if self.addresses.is_banned(from) || self.phase != Phase::Running {
            self.leave(id, Why::NotOurs, now);
        } else if self.peers.len() > PEERS_MAX {
            self.leave(id, Why::TooMany, now);
        }
    }

    fn connected(&mut self, id: StreamId, now: Time) {
        let handshake = self.handshake(self.names[0]);
        if let Some(peer) = self.peers.get_mut(&id) {
            (peer.phase, peer.since) = (PeerPhase::Greeting, now);
            peer.say_raw(&handshake);
            self.say_hello(id);
            self.flush(id, now);
        }
    }

    fn handshake(&self, info_hash: [u8; 20]) -> Vec<u8> {
        let handshake = Handshake {
            info_hash,
            peer_id: self.peer_id,
            fast: true,
            extended: true,
            upgrade: self.v2_name().is_some_and(|name| name != self.names[0]),
        };
        handshake.emit().to_vec()
    }

    /// Seals a new stream, if this is a run with a secret.
    fn seal(&mut self, id: StreamId) {
        let (Some(secret), Some(peer)) = (&self.secret, self.peers.get_mut(&id)) else {
            return;
        };
        let mut once = sha256(&[&self.nonces[..], id.to_string().as_bytes()].concat());
        let nonce = *once.first_chunk().expect("a hash is longer than a nonce");
        once.fill(0);
        let (secret, name) = (secret.clone(), self.names[0]);
        peer.seal = Some(Box::new(if id.is_incoming() {
            Seal::responder(secret, name, nonce)
        } else {
            Seal::initiator(secret, name, nonce)
        }));
    }

    fn say_hello(&mut self, id: StreamId) {
        let hello = self.peers.get_mut(&id).and_then(Peer::hello);
        if let Some(bytes) = hello {
            let op = StreamOp::Send { id, bytes };
            self.outputs.push_back(Output::Stream(op));
        }
    }

    fn received(&mut self, id: StreamId, bytes: &mut [u8], now: Time) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(mut seal) = peer.seal.take() else {
            return self.understood(id, bytes, now);
        };
        let mut opened = std::mem::take(&mut self.opened);
        let result = seal.open(bytes, |plain| opened.extend_from_slice(plain));
        peer.seal = Some(seal);
        match result {
            Ok(()) => self.understood(id, &opened, now),
            Err(error) => self.leave(id, Why::NotSealed(error), now),
        }
        opened.clear();
        self.opened = opened;
    }

    fn understood(&mut self, id: StreamId, mut bytes: &[u8], now: Time) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.heard_at = now;
        let mut framer = std::mem::take(&mut peer.framer);
        let ended = loop {
            match framer.next(&mut bytes) {
                Ok(Some(frame)) => {
                    if let Err(why) = self.on_frame(id, &frame, now) {
                        break Err(why);
                    }
                }
                Ok(None) => break Ok(()),
                Err(bad) => break Err(Why::Frame(bad)),
            }
        };
        match ended {
            Ok(()) => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.framer = framer;
                    self.dirty.insert(id);
                }
            }
            Err(why @ Why::WrongHashes(_)) => {
                let address = self.peers.get(&id).map(|peer| peer.address);
                address.into_iter().for_each(|it| self.ban(it, why, now));
            }
            Err(why) => self.leave(id, why, now),
        }
    }

    fn on_frame(&mut self, id: StreamId, frame: &Frame<'_>, now: Time) -> Result<(), Why> {
        match *frame {
            Frame::Handshake(ref handshake) => self.greeted(id, handshake, now),
            Frame::Message(message) => self.on_message(id, message, now),
            Frame::Block {
                range,
                bytes,
                is_last,
            } => {
                self.on_block(id, range, bytes, is_last, now);
                Ok(())
            }
        }
    }

    fn greeted(&mut self, id: StreamId, theirs: &Handshake, now: Time) -> Result<(), Why> {
        if !self.names.contains(&theirs.info_hash) {
            return Err(Why::NotOurs);
        }
        let is_known = |(other, peer): (&StreamId, &Peer)| {
            *other != id && peer.is_ready() && peer.name == theirs.peer_id
        };
        let twin = self.peers.iter().find(|&place| is_known(place));
        let twin = twin.map(|(&id, _)| id);
        if theirs.peer_id == self.peer_id {
            return Err(Why::Twice);
        }
        if let Some(twin) = twin {
            // Of two connections both sides keep the one that the same side began.
            let ours_stays = self.peer_id < theirs.peer_id;
            if id.is_incoming() == ours_stays || id.is_incoming() == twin.is_incoming() {
                return Err(Why::Twice);
            }
            self.leave(twin, Why::Twice, now);
        }
        let v2_name = self.v2_name();
        let name = if id.is_incoming() && theirs.upgrade {
            v2_name.unwrap_or(theirs.info_hash)
        } else {
            theirs.info_hash
        };
        let reply = id.is_incoming().then(|| self.handshake(name));
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        if let Some(reply) = reply {
            peer.say_raw(&reply);
        }
        peer.phase = PeerPhase::Ready;
        peer.name = theirs.peer_id;
        peer.knows_fast = theirs.fast;
        peer.is_v2 = v2_name == Some(name);
        (peer.moved_at, peer.brought_at) = (now, now);
        let (address, name) = (peer.address, peer.name);
        self.show_what_is_here(id);
        if theirs.extended {
            self.introduce(id);
        }
        self.raise(Event::Connected {
            peer: address,
            name,
        });
        Ok(())
    }

    fn on_message(&mut self, id: StreamId, message: Message<'_>, now: Time) -> Result<(), Why> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        match message {
            Message::Choke => {
                peer.chokes_us = true;
                if !peer.knows_fast {
                    self.take_back(id);
                }
            }
            Message::Unchoke => {
                peer.chokes_us = false;
                peer.brought_at = now;
            }
            Message::Interested => {
                peer.wants_us = true;
                // Nobody is left to wait: who wants something is served.
                if self.serves && std::mem::take(&mut peer.is_choked) {
                    peer.say(&Message::Unchoke);
                }
            }
            Message::NotInterested => peer.wants_us = false,
            Message::Have(piece) => self.peer_has(id, piece, now)?,
            Message::Bitfield(bits) => self.peer_has_all_of(id, &self.read_bits(bits)?, now)?,
            Message::HaveAll => {
                let all = Bitmap::full(self.cut.piece_count() as usize);
                self.peer_has_all_of(id, &all, now)?;
            }
            Message::Request(range) => self.on_request(id, range)?,
            Message::Cancel(range) => peer.orders.retain(|order| *order != range),
            Message::Reject(range) => self.on_reject(id, range),
            Message::Extended(number, payload) => self.on_extended(id, number, payload, now)?,
            Message::HashRequest(range) => self.on_hash_request(id, range),
            Message::Hashes(range, hashes) => self.on_hashes(id, range, hashes, now)?,
            Message::HashReject(range) => self.on_hash_reject(id, range, now),
            Message::KeepAlive
            | Message::HaveNone
            | Message::Port(_)
            | Message::Suggest(_)
            | Message::AllowedFast(_)
            | Message::Unknown(_) => {}
        }
        Ok(())
    }

    fn read_bits(&self, bits: &[u8]) -> Result<Bitmap, Why> {
        let count = self.cut.piece_count() as usize;
        let mut map = Bitmap::new(count);
        let set = |index: usize| {
            bits.get(index / 8)
                .is_some_and(|b| b >> (7 - index % 8) & 1 == 1)
        };
        let spare = (count..bits.len() * 8).any(set);
        if bits.len() != count.div_ceil(8) || spare {
            return Err(Why::Senseless("It sent a bitfield of a wrong length"));
        }
        (0..count).filter(|&index| set(index)).for_each(|index| {
            map.set(index);
        });
        Ok(map)
    }

    fn peer_has_all_of(&mut self, id: StreamId, pieces: &Bitmap, now: Time) -> Result<(), Why> {
        for index in pieces.iter() {
            let piece = PieceIndex::new(u32::try_from(index).unwrap_or(u32::MAX));
            self.peer_has(id, piece, now)?;
        }
        Ok(())
    }

    fn peer_has(&mut self, id: StreamId, piece: PieceIndex, now: Time) -> Result<(), Why> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        if piece.get() >= self.cut.piece_count() {
            return Err(Why::Senseless("It has a piece that does not exist"));
        }
        if !peer.theirs.set(piece.as_usize()) {
            return Ok(());
        }
        peer.moved_at = now;
        let is_full = peer.theirs.is_full();
        self.picker.add_holder(piece);
        if let Some(partition) = &mut self.partition {
            partition.seen(id, piece, now);
            if is_full {
                partition.leave(id);
            }
        }
        if !self.have.get(piece.as_usize()) {
            self.want_of(id);
        }
        if is_full && self.is_complete() {
            return Err(Why::BothComplete);
        }
        Ok(())
    }

    /// Tells a peer that it has what is lacking here.
    pub(super) fn want_of(&mut self, id: StreamId) {
        if let Some(peer) = self.peers.get_mut(&id)
            && !std::mem::replace(&mut peer.is_wanted, true)
        {
            peer.say(&Message::Interested);
        }
    }

    /// Looks after every peer: who is late, silent, useless or starved.
    pub(super) fn check_peers(&mut self, now: Time) {
        let ids: Vec<StreamId> = self.peers.keys().copied().collect();
        for id in ids {
            if let Err(why) = self.check_peer(id, now) {
                self.leave(id, why, now);
            }
        }
    }

    fn check_peer(&mut self, id: StreamId, now: Time) -> Result<(), Why> {
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        if !peer.is_ready() {
            let is_late =
                peer.phase == PeerPhase::Greeting && now >= peer.since + GREETING_PATIENCE;
            return if is_late { Err(Why::NotOurs) } else { Ok(()) };
        }
        if now >= peer.heard_at + SILENCE_MAX {
            return Err(Why::Silent);
        }
        if now >= peer.said_at + KEEP_ALIVE {
            peer.say(&Message::KeepAlive);
        }
        if !self.picker.is_interesting(&peer.theirs) && std::mem::take(&mut peer.is_wanted) {
            peer.say(&Message::NotInterested);
        }
        let is_starved = peer.shown.is_some() && now >= peer.moved_at + STARVED_PATIENCE;
        if !peer.asked.is_empty() || !peer.late.is_empty() {
            if now >= peer.brought_at + ASKED_PATIENCE {
                return Err(Why::BrokePromise);
            }
            if now >= peer.brought_at + SNUB_PATIENCE && !peer.is_snubbed {
                peer.is_snubbed = true;
                self.give_to_others(id);
            }
        }
        if is_starved && self.serves {
            self.show_the_rest(id);
        }
        self.dirty.insert(id);
        Ok(())
    }

    /// Shuns whoever sent wrong bytes or hashes.
    pub(super) fn ban(&mut self, peer: SocketAddr, why: Why, now: Time) {
        self.addresses.ban(peer.ip());
        let of_host = self
            .peers
            .iter()
            .filter(|(_, other)| other.address.ip() == peer.ip());
        let ids: Vec<StreamId> = of_host.map(|(&id, _)| id).collect();
        for id in ids {
            self.leave(id, why, now);
        }
    }

    /// Ends a connection.
    pub(super) fn leave(&mut self, id: StreamId, why: Why, now: Time) {
        if self.peers.contains_key(&id) {
            self.outputs
                .push_back(Output::Stream(StreamOp::Close { id }));
            self.closed(id, why, now);
        }
    }

    fn closed(&mut self, id: StreamId, why: Why, now: Time) {
        let Some(peer) = self.peers.remove(&id) else {
            return self.note_end();
        };
        for &range in &peer.asked {
            self.fetches.unask(id, range);
        }
        for &range in &peer.late {
            self.fetches.abandon(id, range);
        }
        self.fetches.disown(id);
        self.disputes.gone(id);
        for index in peer.theirs.iter() {
            let piece = PieceIndex::new(u32::try_from(index).unwrap_or(u32::MAX));
            self.picker.remove_holder(piece);
        }
        if let Some(partition) = &mut self.partition {
            partition.leave(id);
        }
        self.show_again(&peer.theirs);
        self.waiting.remove(&id);
        self.dirty.remove(&id);
        if !id.is_incoming() {
            let is_no_failure = matches!(why, Why::Twice | Why::BothComplete);
            if is_no_failure || self.has_peer_at(peer.address) {
                self.addresses.rest(peer.address, now);
            } else {
                self.addresses
                    .ended(peer.address, peer.down.total() > 0, now);
            }
        }
        self.raise(Event::Left {
            peer: peer.address,
            why,
        });
        // Without peers nothing else would make it look again.
        self.count_peers();
        // What it was asked for is to be had from others.
        self.all_dirty();
        self.note_end();
    }

    pub(super) fn stop(&mut self) {
        if matches!(self.phase, Phase::New | Phase::Running) {
            self.phase = Phase::Ending;
            self.count_peers();
            self.raise(Event::Stats(self.stats));
            let ids: Vec<StreamId> = self.peers.keys().copied().collect();
            for id in ids {
                self.outputs
                    .push_back(Output::Stream(StreamOp::Close { id }));
            }
            self.note_end();
        }
    }

    fn note_end(&mut self) {
        if self.phase == Phase::Ending && self.peers.is_empty() {
            self.phase = Phase::Stopped;
            self.raise(Event::Stopped);
        }
    }
}
