//! One function per parser and per machine that takes bytes from outside: any input, no panic, and
//! what is read is written back the same.
//!
//! `tools/fuzz TARGET` looks for new inputs with libFuzzer; `tests/fuzz_replay` replays the
//! committed ones, and mutations of them, on every run. So this file is compiled in both places.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flashover::base::block::PlainBlocks;
use flashover::base::{Bitmap, Counters, EpochId, NodeId, PieceIndex, Time, units};
use flashover::deploy::control::range::{self, Asked};
use flashover::deploy::token::Token;
use flashover::fec::{Assembly, Code, Esi, RaptorQ, Shape};
use flashover::image::{Geometry, ImageName, Manifest, PublicKey, sign};
use flashover::machine::{Channel, Datagrams, Input, Machine, Output};
use flashover::multicast::Verify;
use flashover::multicast::announce::Announcement;
use flashover::multicast::keys::{Cipher, Key};
use flashover::multicast::wire::control::Control;
use flashover::multicast::wire::lct::{HEADER_SIZE, Header};
use flashover::multicast::wire::report::{REPORT_HEADER_SIZE, Report, ReportHeader};
use flashover::multicast::{GROUP, PlainCipher, REPORTS, Secret, Session};
use flashover::multicast::{receiver, sender};
use flashover::swarm::bencode::{self, DictWriter, Form, Item, ListWriter, Value};
use flashover::swarm::magnet::MAGNET_BYTES_MAX;
use flashover::swarm::{Magnet, Metainfo};

#[path = "discovery.rs"]
pub mod discovery;
#[path = "peers.rs"]
pub mod peers;

/// A target: its name, which is also its corpus folder, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const ALL: &[Target] = &[
    ("manifest", manifest),
    ("sealed_manifest", sealed_manifest),
    ("lct", lct),
    ("control", control),
    ("report", report),
    ("announcement", announcement),
    ("session", session),
    ("fec", fec),
    ("token", token),
    ("words", words),
    ("range", range_header),
    ("bencode", bencode),
    ("metainfo", metainfo),
    ("magnet", magnet),
    ("receiver", receive),
    ("sender", send),
    ("http_tracker", discovery::http_tracker),
    ("udp_tracker", discovery::udp_tracker),
    ("lsd", discovery::lsd),
    ("peer_wire", peers::peer_wire),
    ("extended_handshake", peers::extended_handshake),
    ("ut_metadata", peers::ut_metadata),
    ("ut_pex", peers::ut_pex),
    ("seal", peers::seal),
];

pub fn manifest(data: &[u8]) {
    if let Ok(manifest) = Manifest::decode(data) {
        assert_eq!(manifest.encode(), data);
    }
}

pub fn sealed_manifest(data: &[u8]) {
    let key = sign::SigningKey::from_seed([7; 32]);
    assert!(
        sign::open(data, &key.public_key()).is_err(),
        "nobody can sign without the key"
    );
    if let Ok(manifest) = Manifest::decode(data) {
        let sealed = sign::seal(&manifest, &key);
        assert_eq!(sign::open(&sealed, &key.public_key()), Ok(manifest));
    }
}

pub fn lct(data: &[u8]) {
    if let Ok(header) = Header::parse(data) {
        assert_eq!(header.emit(), data[..HEADER_SIZE]);
    }
}

pub fn control(data: &[u8]) {
    if let Ok(control) = Control::parse(data) {
        let mut bytes = vec![0; control.buffer_len()];
        control.emit(&mut bytes);
        assert_eq!(bytes, data);
    }
}

pub fn report(data: &[u8]) {
    if let Ok(report) = Report::parse(data) {
        assert_eq!(report.emit(), data);
    }
    if let Ok(header) = ReportHeader::parse(data) {
        assert_eq!(header.emit(), data[..REPORT_HEADER_SIZE]);
    }
}

pub fn announcement(data: &[u8]) {
    if let Ok((announcement, signed, signature)) = Announcement::parse(data) {
        assert_eq!(announcement.encode(), signed);
        assert_eq!(signed.len() + signature.len(), data.len());
    }
}

pub fn session(data: &[u8]) {
    if let Ok((session, secret)) = Session::decode(data) {
        assert_eq!(session.encode(&secret), data);
    }
}

/// A shape, then symbols: ids near K or anywhere, right or wrong lengths, right or wrong bytes.
pub fn fec(data: &[u8]) {
    let Some((&[size_high, size_low, symbol_size], ops)) = data.split_first_chunk() else {
        return;
    };
    let block_size = usize::from(u16::from_be_bytes([size_high, size_low])) % 4096;
    let Some(shape) = Shape::new(block_size, symbol_size.into()) else {
        return;
    };
    let block: Vec<u8> = (0..block_size).map(|at| at.to_le_bytes()[0]).collect();
    let mut code = RaptorQ::new();
    let mut assembly = code.assembly(0, shape);
    let mut out = vec![0; block_size];
    let mut honest = true;
    for op in ops.chunks_exact(4) {
        let [kind, high, middle, low] = op.try_into().expect("chunks of 4");
        let id = u32::from_be_bytes([0, high, middle, low]);
        let id = if kind & 1 == 0 {
            id % (2 * shape.source_symbols())
        } else {
            id
        };
        let esi = Esi::new(id).expect("24 bits");
        let mut symbol = vec![0; usize::from(symbol_size)];
        match shape.source_range(esi) {
            Some(range) => symbol[..range.len()].copy_from_slice(&block[range]),
            None => code
                .repair(0, shape, &block, &[esi], &mut symbol)
                .expect("it is a repair symbol"),
        }
        match kind >> 1 & 0x0f {
            0 => symbol.truncate(usize::from(low) % (symbol.len() + 1)),
            1 => symbol.push(low),
            2 => {
                symbol[0] ^= 1;
                honest = false;
            }
            _ => {}
        }
        // A refusal is an answer, too.
        let _refused = assembly.add(esi, &symbol, &mut out).is_err();
        if assembly.deficit() == 0 && assembly.complete(&mut out).expect("no panic") {
            assert!(!honest || out == block, "honest symbols give the block");
            return;
        }
    }
}

pub fn token(data: &[u8]) {
    if let Some(token) = text(data).and_then(|text| text.parse::<Token>().ok()) {
        let written = token.to_string();
        let again: Token = written.parse().expect("what is written is read");
        assert_eq!(again.to_string(), written);
    }
}

/// What people write: names, keys, sizes, rates, durations.
pub fn words(data: &[u8]) {
    let Some(text) = text(data) else {
        return;
    };
    if let Ok(name) = text.parse::<ImageName>() {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    if let Ok(bytes) = units::parse_bytes(text) {
        assert!(!units::format_bytes(bytes).is_empty());
    }
    if let Ok(duration) = units::parse_duration(text) {
        assert!(!units::format_duration(duration).is_empty());
    }
    // A refusal is an answer, too.
    let _refused = units::parse_rate(text).is_err();
}

/// What a node asks the head for: the size of a file, then a `Range` header.
pub fn range_header(data: &[u8]) {
    let Some((&size, header)) = data.split_first_chunk() else {
        return;
    };
    let size = u64::from_be_bytes(size);
    let Some(header) = text(header) else {
        return;
    };
    if let Asked::Part(part) = range::parse(Some(header), size) {
        assert!(part.start < part.end && part.end <= size);
        let written = format!("bytes={}-{}", part.start, part.end - 1);
        assert_eq!(range::parse(Some(&written), size), Asked::Part(part));
    }
}

/// Any text; what is canonical is written back the same.
pub fn bencode(data: &[u8]) {
    let canonical = bencode::parse(data, Form::Canonical);
    if let Ok(value) = &canonical {
        assert_eq!(rewritten(value), data);
    }
    if let Ok((value, rest)) = bencode::parse_front(data, Form::AnyOrder) {
        assert_eq!(value.span().len() + rest.len(), data.len());
        let sorted = rewritten(&value);
        let again = bencode::parse(&sorted, Form::Canonical).expect("it was written so");
        assert_eq!(rewritten(&again), sorted);
        assert!(canonical.is_err() || sorted == data);
    }
}

fn rewritten(value: &Value<'_>) -> Vec<u8> {
    match value.item() {
        Item::Int(int) => bencode::int(*int),
        Item::Bytes(bytes) => bencode::bytes(bytes),
        Item::List(values) => {
            let mut list = ListWriter::new();
            for value in values {
                list.raw(&rewritten(value));
            }
            list.finish()
        }
        Item::Dict(values) => {
            let mut dict = DictWriter::new();
            for (key, value) in values.iter() {
                dict.raw(key, rewritten(value));
            }
            dict.finish()
        }
    }
}

/// A torrent from anybody: paths that are safe, pieces that cover it, and the same when written.
pub fn metainfo(data: &[u8]) {
    let Ok(torrent) = Metainfo::parse(data) else {
        return;
    };
    let written = torrent.emit();
    assert_eq!(Metainfo::parse(&written).as_ref(), Ok(&torrent));
    let layout = torrent.info().layout();
    let mut seen = std::collections::BTreeSet::new();
    for file in layout.files().iter().filter(|file| !file.is_pad()) {
        let is_safe = |name: &Vec<u8>| {
            !matches!(&name[..], b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
        };
        assert!(!file.path.is_empty() && file.path.iter().all(is_safe));
        assert!(seen.insert(&file.path), "no two files have one path");
    }
    for path in &seen {
        for depth in 1..path.len() {
            assert!(
                !seen.contains(&path[..depth].to_vec()),
                "no file is a directory"
            );
        }
    }
    let pieces: Vec<PieceIndex> = layout.pieces().take(4).collect();
    for piece in pieces {
        let range = layout.piece_range(piece);
        let parts = layout.parts(range.clone());
        let len: u64 = parts.map(|part| part.range.end - part.range.start).sum();
        assert_eq!(len, range.end - range.start);
        // A refusal is an answer, too.
        let _verdict = torrent.check(piece, &data[..data.len().min(64)]);
    }
    let magnet = Magnet::of(&torrent);
    let read: Magnet = magnet.to_string().parse().expect("what is written is read");
    assert_eq!(read.names, magnet.names);
}

pub fn magnet(data: &[u8]) {
    if let Some(magnet) = text(data).and_then(|text| text.parse::<Magnet>().ok()) {
        let written = magnet.to_string();
        if written.len() <= MAGNET_BYTES_MAX {
            assert_eq!(written.parse(), Ok(magnet));
        }
    }
}

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

const SECRET: Secret = Secret::new([7; 32]);
const EPOCH: EpochId = EpochId(1);
const NODE: NodeId = NodeId([3; 16]);

fn small_session() -> Session {
    Session {
        tsi: 9,
        epoch: EPOCH,
        group: SocketAddr::from(([239, 0, 0, 1], 9000)),
        report_port: 9001,
        geometry: Geometry::new(200_000, 16).expect("it is sane"),
        symbol_size: 1408,
    }
}

/// Everything is right, or nothing.
struct Say(bool);

impl Verify for Say {
    fn verify(&self, _: PieceIndex, _: &[u8]) -> bool {
        self.0
    }
}

/// What a member of the group can do to a receiver: datagrams that open, with any content.
pub fn receive(data: &[u8]) {
    let config = receiver::ReceiverConfig {
        session: small_session(),
        secret: SECRET,
        reports_to: SocketAddr::from(([10, 0, 0, 1], 9001)),
        node: NODE,
        host: "fuzzed".to_owned(),
        seed: 1,
        receive_buffer_bytes: 0,
        have: Bitmap::new(4),
    };
    let believes = data.first().is_some_and(|first| first & 1 == 0);
    let blocks = Box::new(PlainBlocks::new(1 << 16, 2));
    let (code, counters) = (RaptorQ::new(), Arc::new(Counters::default()));
    let machine =
        receiver::Receiver::new(config, code, PlainCipher, Say(believes), blocks, counters);
    let key = PlainCipher.data_key(&SECRET, EPOCH, 9);
    drive(machine, data, |counter, body| {
        let mut header = Header::parse(body).ok()?;
        header.tsi = 9;
        header.epoch = EPOCH;
        header.counter = counter;
        let symbol = header.toi > 0 && body.len() > HEADER_SIZE && body[HEADER_SIZE] & 1 == 0;
        let len = if symbol {
            1408
        } else {
            body.len() - HEADER_SIZE
        };
        let mut sealed = body[HEADER_SIZE..].to_vec();
        sealed.resize(len, 0);
        let tag = key.seal(counter, &header.emit(), &mut sealed);
        Some((GROUP, [&header.emit()[..], &sealed, &tag].concat()))
    });
}

/// What a member of the group can do to a sender: reports that open, with any content.
pub fn send(data: &[u8]) {
    let config = sender::SenderConfig {
        session: small_session(),
        secret: SECRET,
        seed: 1,
        rate_bytes_per_s_max: None,
        window_bytes: 1 << 20,
        position: 0,
        awaited: 0,
    };
    let blocks = Box::new(PlainBlocks::new(1 << 16, 4));
    let (code, counters) = (RaptorQ::new(), Arc::new(Counters::default()));
    let machine = sender::Sender::new(config, code, PlainCipher, Say(true), blocks, counters);
    drive(machine, data, |counter, body| {
        let (&node, body) = body.split_first()?;
        let node = NodeId([node % 4; 16]);
        let header = ReportHeader {
            tsi: 9,
            epoch: EPOCH,
            node,
            counter,
        };
        let key = PlainCipher.report_key(&SECRET, EPOCH, 9, node);
        let mut sealed = body.to_vec();
        let tag = key.seal(counter, &header.emit(), &mut sealed);
        Some((REPORTS, [&header.emit()[..], &sealed, &tag].concat()))
    });
}

/// Gives a machine the runs of `data` (length byte, pause byte, bytes) as `forge` makes datagrams
/// of them, does its disk operations, and lets time pass.
fn drive<M: Machine>(
    mut machine: M,
    data: &[u8],
    forge: impl Fn(u64, &[u8]) -> Option<(Channel, Vec<u8>)>,
) {
    let from = SocketAddr::from(([10, 0, 0, 2], 9001));
    let mut now = Time::ZERO;
    let mut rest = data;
    let mut counter = 0;
    let mut buffer = vec![0; 65_507];
    while let Some((&[len, pause], behind)) = rest.split_first_chunk() {
        let (run, behind) = behind.split_at(usize::from(len).min(behind.len()));
        rest = behind;
        counter += 1;
        if let Some((channel, mut bytes)) = forge(counter, run) {
            let segment_size = bytes.len();
            let bytes = &mut bytes[..];
            let datagrams = Datagrams {
                channel,
                from,
                bytes,
                segment_size,
                dropped_total: 0,
            };
            machine.handle(Input::Datagrams(datagrams), now);
        }
        now += Duration::from_millis(u64::from(pause) * u64::from(pause) / 8);
        machine.handle(Input::Timeout, now);
        for _ in 0..64 {
            if machine.poll_transmit(now, &mut buffer).is_none() {
                break;
            }
        }
        for _ in 0..256 {
            match machine.poll_output() {
                Some(Output::Disk(op)) => {
                    let (tag, kind, block) = (op.tag, op.kind, op.block);
                    let done = flashover::machine::DiskDone {
                        tag,
                        kind,
                        block,
                        result: Ok(()),
                    };
                    machine.handle(Input::Disk(done), now);
                }
                Some(Output::Event(_) | Output::Stream(_)) => {}
                None => break,
            }
        }
    }
}
