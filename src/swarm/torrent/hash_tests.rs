//! Hashes given to peers and taken from peers, that are spoken for by hand.

use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::base::block::PlainBlocks;
use crate::machine::StreamInput;
use crate::swarm::limits::{BLOCK_BYTES, LEAF_ORDERS_MAX, LEAVES_INTERVAL, LEAVES_PATIENCE};
use crate::swarm::metainfo::tests::{draft, file, made};
use crate::swarm::metainfo::{Draft, Forms};
use crate::swarm::wire::hashes::HashRange;
use crate::swarm::wire::{BlockRange, HANDSHAKE_BYTES, Handshake, Message, block_header};

const PIECE_BYTES: u32 = 4 * BLOCK_BYTES;
const FIRST: PieceIndex = PieceIndex::new(0);

/// A torrent of two and a bit pieces, and what it says to its peers.
struct Lab {
    torrent: Torrent<Arc<Metainfo>>,
    metainfo: Arc<Metainfo>,
    pieces: Vec<Vec<u8>>,
    now: Time,
    said: BTreeMap<StreamId, Vec<u8>>,
    events: Vec<Event>,
}

impl Lab {
    fn new(forms: Forms, has_all: bool) -> Self {
        let (metainfo, pieces) = made(Draft {
            piece_length: PIECE_BYTES,
            ..draft(vec![file(&[], u64::from(2 * PIECE_BYTES) + 5)], forms)
        });
        let metainfo = Arc::new(metainfo);
        let config = Config {
            names: metainfo.info().names().iter().map(|it| it.wire()).collect(),
            peer_id: [1; 20],
            cut: Cut::new(u64::from(2 * PIECE_BYTES) + 5, PIECE_BYTES).unwrap(),
            have: if has_all {
                Bitmap::full(3)
            } else {
                Bitmap::new(3)
            },
            is_first_seed: false,
            secret: None,
            nonces: [0; 32],
            seed: 5,
            listen_port: None,
            info: None,
            metainfo: Some(Arc::clone(&metainfo)),
            is_private: false,
            blocks_max: 16,
            up_max: None,
            down_max: None,
        };
        let blocks = Box::new(PlainBlocks::new(PIECE_BYTES as usize, 16));
        Self {
            torrent: Torrent::new(config, Arc::clone(&metainfo), blocks),
            metainfo,
            pieces,
            now: Time::from_nanos(1_000_000_000),
            said: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// A peer comes, says which torrent it wants, and that it has everything.
    fn join(&mut self, number: u32, name: [u8; 20], upgrade: bool) -> StreamId {
        let id = StreamId::incoming(number);
        let [.., last] = number.to_be_bytes();
        let from = SocketAddr::from(([10, 0, 0, last], 5000));
        self.give(Input::Stream(StreamInput::Accepted { id, from }));
        let hello = Handshake {
            info_hash: name,
            peer_id: [last + 10; 20],
            fast: true,
            extended: false,
            upgrade,
        };
        self.hear(id, &hello.emit());
        self.says(id, &Message::HaveAll);
        id
    }

    fn v2_name(&self) -> [u8; 20] {
        self.torrent.v2_name().unwrap()
    }

    /// A peer that has everything and serves.
    fn join_v2(&mut self, number: u32) -> StreamId {
        let id = self.join(number, self.v2_name(), false);
        self.says(id, &Message::Unchoke);
        id
    }

    fn give(&mut self, input: Input<'_, Command>) {
        self.torrent.handle(input, self.now);
        while let Some(output) = self.torrent.poll_output() {
            match output {
                Output::Stream(StreamOp::Send { id, bytes }) => {
                    self.said.entry(id).or_default().extend_from_slice(&bytes);
                }
                Output::Stream(_) => {}
                Output::Event(event) => self.events.push(event),
                Output::Disk(mut op) => {
                    let place = usize::try_from(op.tag).unwrap();
                    let piece = &self.pieces[place];
                    match op.kind {
                        DiskKind::Read => op.block[..piece.len()].copy_from_slice(piece),
                        DiskKind::Write => assert!(op.block[..op.len] == piece[..]),
                    }
                    let done = DiskDone {
                        tag: op.tag,
                        kind: op.kind,
                        block: op.block,
                        result: Ok(()),
                    };
                    self.torrent.handle(Input::Disk(done), self.now);
                }
            }
        }
    }

    fn hear(&mut self, id: StreamId, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        let bytes = &mut bytes[..];
        self.give(Input::Stream(StreamInput::Received { id, bytes }));
    }

    fn says(&mut self, id: StreamId, message: &Message<'_>) {
        let mut bytes = Vec::new();
        message.emit(&mut bytes);
        self.hear(id, &bytes);
    }

    /// A peer sends a block, its first byte changed if it is wrong.
    fn brings(&mut self, id: StreamId, range: BlockRange, is_wrong: bool) {
        let begin = range.begin as usize;
        let bytes = &self.pieces[range.piece.as_usize()][begin..begin + range.len as usize];
        let mut bytes = bytes.to_vec();
        bytes[0] ^= u8::from(is_wrong);
        self.hear(id, &[&block_header(range)[..], &bytes].concat());
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += TICK;
            self.give(Input::Timeout);
        }
    }

    /// What a peer was told since the last time, without its handshake.
    fn told(&mut self, id: StreamId) -> Vec<Vec<u8>> {
        let mut bytes = self.said.remove(&id).unwrap_or_default();
        if bytes.starts_with(b"\x13") {
            bytes.drain(..HANDSHAKE_BYTES);
        }
        let (mut rest, mut bodies) = (&bytes[..], Vec::new());
        while let Some((len, after)) = rest.split_first_chunk() {
            let (body, after) = after.split_at(u32::from_be_bytes(*len) as usize);
            bodies.push(body.to_vec());
            rest = after;
        }
        bodies
    }

    /// The hashes that a peer is asked for.
    fn hashes_asked(&mut self, id: StreamId) -> Vec<HashRange> {
        let told = self.told(id);
        let asked = told.iter().filter_map(|body| {
            let Some(Message::HashRequest(range)) = Message::parse(body) else {
                return None;
            };
            Some(range)
        });
        asked.collect()
    }

    /// The blocks of a piece that a peer is asked for.
    fn blocks_asked(&mut self, id: StreamId, piece: PieceIndex) -> Vec<BlockRange> {
        let told = self.told(id);
        let asked = told.iter().filter_map(|body| {
            let Some(Message::Request(range)) = Message::parse(body) else {
                return None;
            };
            Some(range)
        });
        asked.filter(|range| range.piece == piece).collect()
    }

    /// What peers were called.
    fn left(&self) -> Vec<(u8, Why)> {
        let left = self.events.iter().filter_map(|event| {
            let Event::Left { peer, why } = event else {
                return None;
            };
            let std::net::IpAddr::V4(ip) = peer.ip() else {
                return None;
            };
            Some((ip.octets()[3], *why))
        });
        left.collect()
    }

    fn leaf_range(&self, piece: PieceIndex) -> HashRange {
        self.metainfo.leaf_range(piece).unwrap()
    }

    fn leaves(&self, piece: PieceIndex) -> Vec<[u8; 32]> {
        let bytes = &self.pieces[piece.as_usize()];
        let range = self.leaf_range(piece);
        self.metainfo.leaf_hashes(&range, piece, bytes).unwrap()
    }

    fn is_stored(&self, piece: PieceIndex) -> bool {
        let stored =
            |event: &Event| matches!(event, Event::PieceStored { piece: it, .. } if *it == piece);
        self.events.iter().any(stored)
    }
}

#[test]
fn layers_and_leaves_are_given_and_nonsense_is_refused() {
    let mut lab = Lab::new(Forms::V2, true);
    // Who has everything too would be left.
    let id = StreamId::incoming(0);
    let from = SocketAddr::from(([10, 0, 0, 1], 5000));
    lab.give(Input::Stream(StreamInput::Accepted { id, from }));
    let hello = Handshake {
        info_hash: lab.v2_name(),
        peer_id: [2; 20],
        fast: true,
        extended: false,
        upgrade: false,
    };
    lab.hear(id, &hello.emit());
    lab.told(id);
    let [layer] = lab.metainfo.info().layer_ranges()[..] else {
        panic!("one file, few pieces");
    };
    lab.says(id, &Message::HashRequest(layer));
    let told = lab.told(id);
    let Some(Message::Hashes(range, hashes)) = Message::parse(&told[0]) else {
        panic!("{told:?}");
    };
    assert_eq!(
        (range, range.top(hashes).unwrap().hash),
        (layer, layer.root)
    );
    // Leaves come later, one piece at a time.
    let leaves = lab.leaf_range(PieceIndex::new(1));
    for _ in 0..LEAF_ORDERS_MAX + 3 {
        lab.says(id, &Message::HashRequest(leaves));
    }
    let nonsense = HashRange { base: 9, ..layer };
    lab.says(id, &Message::HashRequest(nonsense));
    let (mut given, mut refused) = (0, 0);
    let mut count = |told: &[Vec<u8>], lab: &Lab| {
        for body in told {
            match Message::parse(body) {
                Some(Message::Hashes(range, hashes)) if range == leaves => {
                    assert_eq!(hashes, lab.leaves(PieceIndex::new(1)));
                    given += 1;
                }
                Some(Message::HashReject(range)) if [leaves, nonsense].contains(&range) => {
                    refused += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        (given, refused)
    };
    let told = lab.told(id);
    // The first is made at once and takes no place.
    assert_eq!(count(&told, &lab), (1, 3));
    lab.wait(LEAVES_INTERVAL * 2);
    let told = lab.told(id);
    let (given, _) = count(&told, &lab);
    assert!((2..=3).contains(&given), "{given}");
    lab.wait(LEAVES_INTERVAL * 6);
    let told = lab.told(id);
    assert_eq!(count(&told, &lab), (5, 3));
}

#[test]
fn a_hybrid_goes_over_to_the_new_name_where_both_know_it() {
    let mut lab = Lab::new(Forms::Hybrid, false);
    let names = lab.metainfo.info().names();
    let (v1, v2) = (names.first().wire(), lab.v2_name());
    for (number, name, upgrade, answer) in [
        (0, v1, false, v1),
        (1, v1, true, v2),
        (2, v2, false, v2),
        (3, v2, true, v2),
    ] {
        let id = lab.join(number, name, upgrade);
        let reply = lab.said[&id].first_chunk().unwrap();
        let reply = Handshake::parse(reply).unwrap();
        assert_eq!((reply.info_hash, reply.upgrade), (answer, true), "{number}");
        assert_eq!(lab.torrent.peers[&id].is_v2, answer == v2);
    }
    // And when we call.
    lab.give(Input::Command(Command::Peers(vec![
        "10.0.0.9:1".parse().unwrap(),
    ])));
    let id = StreamId::outgoing(0);
    lab.give(Input::Stream(StreamInput::Connected { id }));
    let said = Handshake::parse(lab.said[&id].first_chunk().unwrap()).unwrap();
    assert_eq!((said.info_hash, said.upgrade), (v1, true));
    let answer = Handshake {
        info_hash: v2,
        peer_id: [77; 20],
        fast: true,
        extended: false,
        upgrade: true,
    };
    lab.hear(id, &answer.emit());
    assert!(lab.torrent.peers[&id].is_v2);
}

/// Peer 0 brings two blocks of the first piece, of which one is wrong, and peer 1 the others.
fn wrong_piece(lab: &mut Lab) -> (StreamId, StreamId) {
    let (first, second) = (lab.join_v2(0), lab.join_v2(1));
    let all = BTreeMap::from([first, second].map(|id| {
        let told = lab.told(id);
        (id, told.len())
    }));
    assert!(all.values().all(|&count| count > 0), "both are asked");
    let blocks: Vec<BlockRange> = (0..4).map(|n| lab.torrent.cut.block(FIRST, n)).collect();
    let owner = lab.torrent.peers[&first].asked.contains(&blocks[0]);
    let (owner, other) = if owner {
        (first, second)
    } else {
        (second, first)
    };
    lab.brings(owner, blocks[0], false);
    lab.brings(owner, blocks[1], true);
    // It serves no more: the other is asked for the rest.
    lab.says(owner, &Message::Choke);
    for range in [blocks[2], blocks[3]] {
        lab.says(owner, &Message::Reject(range));
    }
    // The other brings what it has before it.
    for _ in 0..16 {
        let asked: Vec<BlockRange> = lab.torrent.peers[&other].asked.iter().copied().collect();
        let wanted = asked.into_iter().find(|range| range.piece != FIRST);
        let Some(range) = wanted else { break };
        lab.brings(other, range, false);
    }
    lab.told(other);
    (owner, other)
}

fn finish_wrong(lab: &mut Lab, other: StreamId) {
    for number in [2, 3] {
        let range = lab.torrent.cut.block(FIRST, number);
        assert!(
            lab.torrent.peers[&other].asked.contains(&range),
            "{range:?}"
        );
        lab.brings(other, range, false);
    }
}

fn number_of(id: StreamId) -> u8 {
    u8::from(id == StreamId::incoming(1))
}

#[test]
fn leaves_tell_who_sent_the_wrong_block_and_the_others_stay() {
    for forms in [Forms::V2, Forms::Hybrid] {
        let mut lab = Lab::new(forms, false);
        let (owner, other) = wrong_piece(&mut lab);
        let third = lab.join_v2(2);
        lab.told(third);
        finish_wrong(&mut lab, other);
        let range = lab.leaf_range(FIRST);
        assert_eq!(lab.hashes_asked(third), [range], "who had no part is asked");
        assert_eq!(
            (lab.hashes_asked(owner), lab.hashes_asked(other)),
            (vec![], vec![])
        );
        let leaves = lab.leaves(FIRST);
        lab.says(third, &Message::Hashes(range, &leaves));
        assert_eq!(lab.left(), [(number_of(owner), Why::SentWrong(FIRST))]);
        let block = lab.torrent.cut.block(FIRST, 1);
        let asked = [other, third]
            .map(|id| lab.blocks_asked(id, FIRST))
            .concat();
        assert_eq!(asked, [block], "only the wrong one is asked for again");
        let by = [other, third]
            .into_iter()
            .find(|id| lab.torrent.peers[id].asked.contains(&block));
        lab.brings(by.unwrap(), block, false);
        assert!(lab.is_stored(FIRST));
        assert_eq!(lab.left().len(), 1);
    }
}

#[test]
fn who_gives_wrong_leaves_is_banned_and_another_is_asked() {
    let mut lab = Lab::new(Forms::V2, false);
    let (owner, other) = wrong_piece(&mut lab);
    let third = lab.join_v2(2);
    finish_wrong(&mut lab, other);
    let (range, mut leaves) = (lab.leaf_range(FIRST), lab.leaves(FIRST));
    assert_eq!(lab.hashes_asked(third), [range]);
    leaves[2][0] ^= 1;
    lab.says(third, &Message::Hashes(range, &leaves));
    assert_eq!(lab.left(), [(2, Why::WrongHashes(FIRST))]);
    lab.wait(TICK);
    // Nobody else is left but those who sent it.
    let asked = [owner, other].map(|id| lab.hashes_asked(id));
    assert_eq!(asked.concat(), [range]);
    let by = if asked[0].is_empty() { other } else { owner };
    leaves[2][0] ^= 1;
    lab.says(by, &Message::Hashes(range, &leaves));
    assert_eq!(
        lab.left().last(),
        Some(&(number_of(owner), Why::SentWrong(FIRST)))
    );
    // What was not asked for says nothing.
    lab.says(other, &Message::Hashes(range, &[[0; 32]; 4]));
    assert_eq!(lab.left().len(), 2);
}

#[test]
fn without_leaves_one_peer_alone_is_asked_again() {
    let mut lab = Lab::new(Forms::V2, false);
    let (owner, other) = wrong_piece(&mut lab);
    finish_wrong(&mut lab, other);
    let range = lab.leaf_range(FIRST);
    let (refusing, silent) = if lab.hashes_asked(owner).is_empty() {
        (other, owner)
    } else {
        (owner, other)
    };
    lab.says(refusing, &Message::HashReject(range));
    assert_eq!(lab.hashes_asked(silent), [range]);
    assert_eq!(
        (lab.torrent.disputes.count(), lab.torrent.alone.len()),
        (1, 0)
    );
    lab.wait(LEAVES_PATIENCE + TICK);
    assert_eq!(
        (lab.torrent.disputes.count(), lab.torrent.alone.len()),
        (0, 1)
    );
    assert!(lab.torrent.suspects.has(FIRST));
    for number in 0..4 {
        let block = lab.torrent.cut.block(FIRST, number);
        lab.brings(other, block, false);
    }
    assert!(lab.is_stored(FIRST));
    assert_eq!(lab.left(), [(number_of(owner), Why::SentWrong(FIRST))]);
}
