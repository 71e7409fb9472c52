//! The machine by itself, with one peer that is spoken for by hand.

use super::*;
use crate::base::block::PlainBlocks;
use crate::machine::{DiskError, StreamInput};
use crate::swarm::limits::BLOCK_BYTES;
use crate::swarm::wire::extension::{
    ExtendedHandshake, Extension, ExtensionIds, HANDSHAKE_ID, emit_dont_have, emit_upload_only,
};
use crate::swarm::wire::{BlockRange, Handshake, Message};

const PIECES: u32 = 4;
const NAME: [u8; 20] = [7; 20];
/// By which numbers the peer wants to hear of extensions.
const DONT_HAVE: u8 = 33;
const UPLOAD_ONLY: u8 = 34;

/// A piece of sevens is right.
struct Sevens;

impl Verify for Sevens {
    fn verify(&self, _: PieceIndex, bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| *byte == 7)
    }
}

struct Lab {
    torrent: Torrent<Sevens>,
    peer: StreamId,
    now: Time,
}

impl Lab {
    /// A torrent that has everything, and a peer that has pieces 0 and 1.
    fn new() -> Self {
        let config = Config {
            names: vec![NAME],
            peer_id: [1; 20],
            cut: Cut::new(u64::from(PIECES * BLOCK_BYTES), BLOCK_BYTES).unwrap(),
            have: Bitmap::full(PIECES as usize),
            is_first_seed: false,
            secret: None,
            nonces: [0; 32],
            seed: 5,
            listen_port: Some(1),
            info: None,
            metainfo: None,
            is_private: false,
            blocks_max: 8,
            up_max: None,
            down_max: None,
        };
        let blocks = Box::new(PlainBlocks::new(BLOCK_BYTES as usize, 8));
        let mut lab = Self {
            torrent: Torrent::new(config, Sevens, blocks),
            peer: StreamId::incoming(0),
            now: Time::from_nanos(1_000_000_000),
        };
        lab.give(Input::Stream(StreamInput::Accepted {
            id: lab.peer,
            from: "192.0.2.9:5000".parse().unwrap(),
        }));
        let hello = Handshake {
            info_hash: NAME,
            peer_id: [2; 20],
            fast: true,
            extended: true,
            upgrade: false,
        };
        lab.hear(&hello.emit());
        lab.says(&Message::Bitfield(&[0xc0]));
        lab
    }

    fn give(&mut self, input: Input<'_, Command>) {
        self.torrent.handle(input, self.now);
    }

    fn hear(&mut self, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        let id = self.peer;
        self.give(Input::Stream(StreamInput::Received {
            id,
            bytes: &mut bytes,
        }));
    }

    fn says(&mut self, message: &Message<'_>) {
        let mut bytes = Vec::new();
        message.emit(&mut bytes);
        self.hear(&bytes);
    }

    /// The peer introduces itself.
    fn introduces(&mut self, upload_only: bool) {
        let mut ids = ExtensionIds::default();
        ids.set(Extension::DontHave, DONT_HAVE);
        ids.set(Extension::UploadOnly, UPLOAD_ONLY);
        let said = ExtendedHandshake {
            ids,
            upload_only,
            ..ExtendedHandshake::default()
        };
        self.says(&Message::Extended(HANDSHAKE_ID, &said.emit()));
    }

    fn outputs(&mut self) -> Vec<Output<Event>> {
        std::iter::from_fn(|| self.torrent.poll_output()).collect()
    }

    /// The statistics that are told within two seconds.
    fn stats(&mut self) -> Stats {
        self.now += STATS_INTERVAL * 2;
        self.give(Input::Timeout);
        let told = |output| match output {
            Output::Event(Event::Stats(stats)) => Some(stats),
            Output::Event(_) | Output::Stream(_) | Output::Disk(_) => None,
        };
        self.outputs().into_iter().find_map(told).unwrap()
    }
}

fn emitted(messages: &[Message<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    messages.iter().for_each(|message| message.emit(&mut bytes));
    bytes
}

#[test]
fn who_only_uploads_lacks_nothing() {
    let mut lab = Lab::new();
    assert_eq!((lab.stats().peers_lacking, lab.torrent.stats.peers), (1, 1));
    lab.introduces(true);
    assert_eq!((lab.stats().peers_lacking, lab.torrent.stats.peers), (0, 1));
    let number = Extension::UploadOnly.our_id();
    lab.says(&Message::Extended(number, &emit_upload_only(false)));
    assert_eq!(lab.stats().peers_lacking, 1);
    lab.says(&Message::Extended(number, &emit_upload_only(true)));
    assert_eq!(lab.stats().peers_lacking, 0);
}

/// Asked for `piece`, whose read then fails: gives all that the peer is told of it.
fn loses(lab: &mut Lab, piece: PieceIndex) -> Vec<u8> {
    let range = BlockRange {
        piece,
        begin: 0,
        len: BLOCK_BYTES,
    };
    lab.says(&Message::Interested);
    lab.says(&Message::Request(range));
    let read = lab.outputs().into_iter().find_map(|output| match output {
        Output::Disk(op) => Some(op),
        Output::Event(_) | Output::Stream(_) => None,
    });
    let op = read.expect("it reads what it was asked for");
    lab.give(Input::Disk(DiskDone {
        tag: op.tag,
        kind: op.kind,
        block: op.block,
        result: Err(DiskError::Errno(5)),
    }));
    let said = lab.outputs().into_iter().filter_map(|output| match output {
        Output::Stream(StreamOp::Send { bytes, .. }) => Some(bytes.to_vec()),
        Output::Stream(_) | Output::Event(_) | Output::Disk(_) => None,
    });
    said.collect::<Vec<_>>().concat()
}

#[test]
fn what_cannot_be_read_is_told_and_wanted_again() {
    let mut lab = Lab::new();
    lab.introduces(false);
    let piece = PieceIndex::new(1);
    let range = BlockRange {
        piece,
        begin: 0,
        len: BLOCK_BYTES,
    };
    let expected = emitted(&[
        Message::Extended(DONT_HAVE, &emit_dont_have(piece)),
        Message::Extended(UPLOAD_ONLY, &emit_upload_only(false)),
        Message::Reject(range),
        Message::Interested,
    ]);
    assert_eq!(loses(&mut lab, piece), expected);
    assert_eq!(lab.stats().pieces_done, PIECES - 1);
    // The peer has it, and is asked for it when it serves.
    lab.says(&Message::Unchoke);
    let asked = lab.outputs().into_iter().any(|output| match output {
        Output::Stream(StreamOp::Send { bytes, .. }) => {
            bytes[..] == emitted(&[Message::Request(range)])
        }
        Output::Stream(_) | Output::Event(_) | Output::Disk(_) => false,
    });
    assert!(asked);
}

#[test]
fn who_knows_no_lost_pieces_is_only_refused() {
    let mut lab = Lab::new();
    let piece = PieceIndex::new(3);
    let range = BlockRange {
        piece,
        begin: 0,
        len: BLOCK_BYTES,
    };
    assert_eq!(loses(&mut lab, piece), emitted(&[Message::Reject(range)]));
    assert!(!lab.torrent.have().get(3));
}
