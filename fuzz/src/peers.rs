//! Targets of what peers say: the wire, its extensions, the machine that collects metadata, and
//! the sealed transport.

use std::time::Duration;

use bytes::Bytes;
use flashover::base::{PieceIndex, Time};
use flashover::machine::StreamId;
use flashover::swarm::InfoHashes;
use flashover::swarm::hash::sha1;
use flashover::swarm::metadata_fetch::{Heard, MetadataFetch};
use flashover::swarm::seal::{Seal, SealError, SwarmSecret};
use flashover::swarm::wire::extension::{self, EXTENDED_BYTES_MAX, ExtendedHandshake, Extension};
use flashover::swarm::wire::framer::{Frame, Framer};
use flashover::swarm::wire::hashes::LAYERS_MAX;
use flashover::swarm::wire::metadata::{MetadataMessage, MetadataServer};
use flashover::swarm::wire::pex::{PEX_BYTES_MAX, PEX_PEERS_MAX, Pex, can_be_tried};
use flashover::swarm::wire::{BLOCK_BYTES_MAX, HANDSHAKE_BYTES, Handshake, Message};

/// The size of runs, then a stream behind a handshake that is right: every part of it, whether it
/// comes in runs or at once.
pub fn peer_wire(data: &[u8]) {
    let Some((&size, stream)) = data.split_first() else {
        return;
    };
    if let Some(bytes) = stream.first_chunk::<HANDSHAKE_BYTES>()
        && let Some(handshake) = Handshake::parse(bytes)
    {
        assert_eq!(Handshake::parse(&handshake.emit()), Some(handshake));
    }
    let hello = Handshake {
        info_hash: [1; 20],
        peer_id: [2; 20],
        fast: true,
        extended: true,
        upgrade: false,
    };
    let stream = [&hello.emit()[..], stream].concat();
    let in_runs = parts(&stream, usize::from(size).max(1));
    assert_eq!(in_runs, parts(&stream, stream.len()));
}

/// All parts of a stream as text, runs of one block put together; and how it ends.
fn parts(stream: &[u8], size: usize) -> (Vec<String>, bool) {
    let (mut framer, mut seen) = (Framer::default(), Vec::new());
    let (mut block, mut written) = (Vec::new(), Vec::new());
    for mut run in stream.chunks(size) {
        loop {
            let frame = match framer.next(&mut run) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    seen.push(error.to_string());
                    return (seen, false);
                }
            };
            match frame {
                Frame::Block {
                    range,
                    bytes,
                    is_last,
                } => {
                    assert_eq!(range.len as usize, bytes.len());
                    block.extend_from_slice(bytes);
                    assert!(block.len() <= BLOCK_BYTES_MAX as usize);
                    if is_last {
                        seen.push(format!("{} {block:?}", range.piece));
                        block.clear();
                    }
                }
                Frame::Message(message) => {
                    if let Message::Hashes(range, hashes) = message {
                        let top = range
                            .top(hashes)
                            .expect("they are as many as they should be");
                        assert!(top.layer <= 2 * LAYERS_MAX + 1);
                    }
                    message.emit(&mut written);
                    let again = Message::parse(&written[4..]).expect("what is written is read");
                    assert!(again == message || matches!(message, Message::Unknown(_)));
                    written.clear();
                    seen.push(format!("{message:?}"));
                }
                Frame::Handshake(handshake) => seen.push(format!("{handshake:?}")),
            }
        }
    }
    seen.push(format!("{block:?}"));
    (seen, true)
}

pub fn extended_handshake(data: &[u8]) {
    if let Ok(handshake) = ExtendedHandshake::parse(data) {
        let written = handshake.emit();
        assert!(written.len() <= EXTENDED_BYTES_MAX);
        assert_eq!(ExtendedHandshake::parse(&written).as_ref(), Ok(&handshake));
        let mut ids = handshake.ids;
        ids.update(&handshake.ids);
        assert_eq!(ids, handshake.ids);
        for extension in Extension::ALL {
            assert_ne!(ids.get(extension), Some(extension::HANDSHAKE_ID));
        }
    }
    if let Ok(piece) = extension::parse_dont_have(data) {
        assert_eq!(extension::emit_dont_have(piece), data);
        assert_eq!(piece, PieceIndex::new(piece.get()));
    }
    if let Ok(flag) = extension::parse_upload_only(data) {
        let written = extension::emit_upload_only(flag);
        assert_eq!(extension::parse_upload_only(&written), Ok(flag));
    }
}

/// The info dictionary that [`ut_metadata`]'s fetch looks for.
const INFO: &[u8] = b"d6:lengthi5e4:name1:x12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaae";

/// All of it as a message. Then runs of length, peer, pause and bytes: each a message to a fetch
/// that has asked three peers, and one of them is honest in the end.
pub fn ut_metadata(data: &[u8]) {
    let mut server = MetadataServer::default();
    let info = Bytes::from_static(INFO);
    if let Ok(message) = MetadataMessage::parse(data) {
        let written = message.emit();
        assert_eq!(MetadataMessage::parse(&written), Ok(message));
        if let MetadataMessage::Request(part) = message {
            let answer = server.answer(Some(&info), part);
            let sent = [answer.head, answer.part.to_vec()].concat();
            assert!(MetadataMessage::parse(&sent).is_ok());
        }
    }
    let names = InfoHashes::new(Some(sha1(INFO)), None).expect("there is one");
    let mut fetch = MetadataFetch::new(names);
    let mut now = Time::ZERO;
    let size = u32::try_from(INFO.len()).expect("it is short");
    fetch.add_peer(stream(0), size);
    fetch.add_peer(stream(1), size);
    fetch.add_peer(stream(2), 5);
    let mut rest = data;
    while let Some((&[len, peer, pause], behind)) = rest.split_first_chunk() {
        let (run, behind) = behind.split_at(behind.len().min(len.into()));
        rest = behind;
        now += Duration::from_millis(u64::from(pause) * 100);
        while fetch.poll_request(now).is_some() {}
        assert!(fetch.poll_timeout().is_none_or(|at| at > now));
        let Ok(message) = MetadataMessage::parse(run) else {
            continue;
        };
        match fetch.handle(stream(peer % 4), &message, now) {
            Heard::Nothing | Heard::Bad => {}
            Heard::Complete(info) => return assert_eq!(info.bytes(), INFO),
            Heard::Useless(error) => panic!("{error}"),
        }
    }
    honest_peer_ends(fetch, now, size);
}

/// Whatever was heard, a peer that is honest brings the fetch to its end.
fn honest_peer_ends(mut fetch: MetadataFetch, mut now: Time, size: u32) {
    fetch.add_peer(stream(9), size);
    let message = MetadataMessage::Data {
        part: 0,
        total_size: size,
        bytes: INFO,
    };
    for _ in 0..64 {
        while let Some((peer, _)) = fetch.poll_request(now) {
            if peer == stream(9)
                && let Heard::Complete(_) = fetch.handle(peer, &message, now)
            {
                return;
            }
        }
        now = fetch.poll_timeout().expect("it is not over");
    }
    panic!("the honest peer is not asked");
}

fn stream(number: u8) -> StreamId {
    StreamId::outgoing(number.into())
}

pub fn ut_pex(data: &[u8]) {
    let Ok(pex) = Pex::parse(data) else {
        return;
    };
    assert!(pex.added.len() <= PEX_PEERS_MAX && pex.dropped.len() <= PEX_PEERS_MAX);
    assert!(pex.added.keys().chain(&pex.dropped).all(can_be_tried));
    let written = pex.emit();
    assert!(written.len() <= PEX_BYTES_MAX);
    assert_eq!(Pex::parse(&written), Ok(pex));
}

/// The size of runs, how long a record is, and a stream: a hello and a record that are right, then
/// anything. The record opens, nothing else does, whether the stream comes in runs or at once.
pub fn seal(data: &[u8]) {
    let Some((&[size, len], rest)) = data.split_first_chunk() else {
        return;
    };
    let mut other = Seal::initiator(SwarmSecret::new([7; 32]), [3; 20], [1; 16]);
    let mut hello = fresh().hello().to_vec();
    let ready = other.open(&mut hello, |_| panic!("a hello carries nothing"));
    assert_eq!(ready, Ok(()));
    let plain = Bytes::from(vec![len; usize::from(len) + 1]);
    let sealed = other
        .seal(std::slice::from_ref(&plain))
        .expect("it is ready");
    let stream = [&other.hello()[..], &sealed, rest].concat();
    let in_runs = opened(&stream, usize::from(size) + 1);
    assert_eq!(in_runs, opened(&stream, stream.len()));
    assert_eq!(in_runs.0, [plain], "nobody can forge a record");
}

fn fresh() -> Seal {
    Seal::responder(SwarmSecret::new([7; 32]), [3; 20], [2; 16])
}

fn opened(stream: &[u8], size: usize) -> (Vec<Vec<u8>>, Result<(), SealError>) {
    let (mut seal, mut records) = (fresh(), Vec::new());
    let mut stream = stream.to_vec();
    let runs = stream.chunks_mut(size);
    let results: Vec<_> = runs
        .map(|run| seal.open(run, |plain| records.push(plain.to_vec())))
        .collect();
    assert!(
        results.is_sorted_by_key(|result| result.is_err()),
        "it stays shut"
    );
    (records, results.last().copied().unwrap_or(Ok(())))
}
