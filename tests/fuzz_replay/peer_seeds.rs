//! Seeds of the targets of what peers say.

use flashover::base::PieceIndex;
use flashover::swarm::wire::extension::{ExtendedHandshake, Extension, ExtensionIds};
use flashover::swarm::wire::hashes::HashRange;
use flashover::swarm::wire::metadata::MetadataMessage;
use flashover::swarm::wire::pex::{Pex, PexFlags};
use flashover::swarm::wire::{BlockRange, Handshake, Message, block_header};

/// The info dictionary that the target looks for.
const INFO: &[u8] = b"d6:lengthi5e4:name1:x12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaae";

pub(super) fn all() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    vec![
        ("peer_wire", "messages", [vec![5], messages()].concat()),
        ("peer_wire", "blocks", [vec![11], blocks()].concat()),
        ("peer_wire", "twice", [vec![68], hello(), hello()].concat()),
        ("extended_handshake", "full", extended().emit()),
        ("extended_handshake", "off", b"d1:md6:ut_pexi0eee".to_vec()),
        ("extended_handshake", "dont_have", vec![0, 0, 0, 9]),
        ("extended_handshake", "upload_only", vec![1]),
        ("ut_metadata", "request", MetadataMessage::Request(0).emit()),
        ("ut_metadata", "reject", MetadataMessage::Reject(3).emit()),
        ("ut_metadata", "data", data(INFO).emit()),
        ("ut_metadata", "fetched", heard(&[(0, 0, data(INFO))])),
        ("ut_metadata", "lies", lies()),
        ("ut_pex", "both", pex().emit()),
        (
            "seal",
            "short",
            [&[3, 0][..], &[0, 0, 0, 17], &[5; 20]].concat(),
        ),
        ("seal", "long", [&[200, 255][..], &[0, 1, 0, 16]].concat()),
    ]
}

fn hello() -> Vec<u8> {
    let handshake = Handshake {
        info_hash: [1; 20],
        peer_id: [2; 20],
        fast: true,
        extended: false,
        upgrade: true,
    };
    handshake.emit().to_vec()
}

fn range(len: u32) -> BlockRange {
    BlockRange {
        piece: PieceIndex::new(3),
        begin: 16_384,
        len,
    }
}

fn hashes(length: u32) -> HashRange {
    HashRange {
        root: [4; 32],
        base: 3,
        index: 4,
        length,
        proof_layers: 2,
    }
}

fn messages() -> Vec<u8> {
    let (piece, mut out) = (PieceIndex::new(7), Vec::new());
    for message in [
        Message::Extended(0, &extended().emit()),
        Message::Bitfield(&[0xf0, 1]),
        Message::HaveAll,
        Message::HaveNone,
        Message::Interested,
        Message::NotInterested,
        Message::Choke,
        Message::Unchoke,
        Message::Have(piece),
        Message::Suggest(piece),
        Message::AllowedFast(piece),
        Message::Request(range(16_384)),
        Message::Cancel(range(16_384)),
        Message::Reject(range(16_384)),
        Message::Port(6881),
        Message::KeepAlive,
        Message::HashRequest(hashes(512)),
        Message::Hashes(hashes(2), &[[5; 32]; 4]),
        Message::HashReject(hashes(7)),
        Message::Unknown(99),
    ] {
        message.emit(&mut out);
    }
    out
}

fn blocks() -> Vec<u8> {
    let mut out = Vec::new();
    for len in [40, 0, 7] {
        out.extend_from_slice(&block_header(range(len)));
        out.resize(out.len() + len as usize, 9);
        Message::KeepAlive.emit(&mut out);
    }
    out
}

fn extended() -> ExtendedHandshake {
    ExtendedHandshake {
        ids: ExtensionIds::ours(&Extension::ALL),
        metadata_size: Some(31_235),
        upload_only: true,
        listen_port: Some(6881),
        request_queue: Some(250),
        version: Some("Flashover".to_owned()),
        your_ip: Some([10, 0, 0, 1].into()),
    }
}

fn data(bytes: &[u8]) -> MetadataMessage<'_> {
    MetadataMessage::Data {
        part: 0,
        total_size: u32::try_from(bytes.len()).expect("it is short"),
        bytes,
    }
}

/// Messages of peers, each with the pause before it in tenths of a second.
fn heard(messages: &[(u8, u8, MetadataMessage<'_>)]) -> Vec<u8> {
    let run = |(peer, pause, message): &(u8, u8, MetadataMessage<'_>)| {
        let bytes = message.emit();
        let len = u8::try_from(bytes.len()).expect("runs are short");
        [&[len, *peer, *pause][..], &bytes].concat()
    };
    messages.iter().flat_map(run).collect()
}

fn lies() -> Vec<u8> {
    let wrong = [b'x'; 75];
    assert_eq!(wrong.len(), INFO.len());
    heard(&[
        (0, 0, MetadataMessage::Reject(0)),
        (1, 30, data(&wrong)),
        (2, 0, data(b"wrong")),
        (0, 255, MetadataMessage::Unknown),
        (0, 255, data(INFO)),
    ])
}

fn pex() -> Pex {
    let peer = |text: &str| text.parse().expect("it is an address");
    Pex {
        added: [
            (peer("10.0.0.1:6881"), PexFlags::SEED),
            (peer("[fd00::1]:6882"), PexFlags::REACHABLE),
        ]
        .into(),
        dropped: [peer("10.0.0.2:6881"), peer("[fd00::2]:1")].into(),
    }
}
