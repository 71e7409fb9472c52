//! Stock FLUTE, from the `flute` crate, on either end of our datagrams (see tools/interop-flute).
//!
//! What FLUTE has no word for is left out or put in on the way: our tag behind the symbol, and the
//! EXT_AUTH of a datagram that comes to us. Everything else is as its sender made it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use flashover::base::block::PlainBlocks;
use flashover::base::{Bitmap, Counter, Counters, EpochId, NodeId, PieceIndex, Time};
use flashover::fec::RaptorQ;
use flashover::image::Geometry;
use flashover::image::hash::piece_value;
use flashover::machine::{Datagrams, DiskDone, Input, Machine, Output};
use flashover::multicast::keys::{Cipher, Key, TAG_SIZE};
use flashover::multicast::wire::lct::Header;
use flashover::multicast::{
    Aes128Gcm, GROUP, PieceHashes, Receiver, ReceiverConfig, Secret, Session,
};

use crate::netns::lab::noise;
use crate::sim::clear::{self, Cast};

#[test]
fn a_stock_flute_receiver_takes_pieces_from_our_sender() {
    let cast = clear::cast();
    let lossy = without_some_source(&cast);
    let untagged: Vec<Vec<u8>> = lossy
        .iter()
        .map(|datagram| datagram[..datagram.len() - TAG_SIZE].to_vec())
        .collect();
    let (pieces, refused) = flute_receive(&cast, &untagged);
    let geometry = cast.session.geometry;
    for piece in geometry.pieces() {
        let range = geometry.range(piece);
        let range = range.start as usize..range.end as usize;
        let got = pieces.get(&(piece.get() + 1)).map(Vec::as_slice);
        assert!(got == Some(&cast.bundle[range]), "{piece}");
    }
    // A control datagram has the TOI of an FDT and is none.
    let control = |datagram: &&Vec<u8>| header(datagram).toi == 0;
    let open = |datagram: &&Vec<u8>| !header(datagram).closes_session;
    let expected = lossy.iter().filter(control).filter(open).count();
    assert_eq!(refused, expected);
}

/// The twin: a FLUTE receiver takes a tag for a part of the symbol, and the symbol for too long.
#[test]
fn a_stock_flute_receiver_takes_no_tagged_symbols() {
    let cast = clear::cast();
    let (pieces, _refused) = flute_receive(&cast, &cast.datagrams);
    assert!(pieces.is_empty());
}

#[test]
fn our_receiver_takes_pieces_from_a_stock_flute_sender() {
    let (session, pieces) = far_pieces();
    let sent = flute_send(&session, &pieces);
    let (symbols, fdt): (Vec<_>, Vec<_>) = sent
        .iter()
        .partition(|datagram| datagram[3] == CODEPOINT_RAPTORQ);
    assert!(!fdt.is_empty());
    let lossy = symbols.iter().enumerate().filter(|(i, _)| i % 9 != 3);
    let sealed = (1..).zip(lossy);
    let sealed = sealed.map(|(counter, (_, datagram))| seal(&session, counter, datagram));
    let incoming: Vec<Vec<u8>> = sealed.chain(fdt.into_iter().cloned()).collect();
    let (stored, counters) = receive(&session, &pieces, &incoming);
    assert!(stored == pieces, "every piece came, and is right");
    assert!(counters.get(Counter::SymbolsRepair) > 0);
    // The FDT, and what closes an object: our profile has neither.
    let strange = incoming
        .iter()
        .filter(|bytes| Header::parse(bytes).is_err());
    let strange = strange.count() as u64;
    assert!(strange > 0 && strange < 10);
    assert_eq!(counters.get(Counter::RejectedMalformed), strange);
}

/// The twin: what nobody sealed is refused.
#[test]
fn our_receiver_takes_nothing_from_a_stock_flute_sender_directly() {
    let (session, pieces) = far_pieces();
    let sent = flute_send(&session, &pieces);
    let (stored, counters) = receive(&session, &pieces, &sent);
    assert!(stored.is_empty());
    assert_eq!(counters.get(Counter::RejectedMalformed), sent.len() as u64);
}

/// The cast, but of each piece so many source symbols are left out as repair symbols came, less 2.
fn without_some_source(cast: &Cast) -> Vec<Vec<u8>> {
    let source_symbols = |header: &Header| {
        let piece = PieceIndex::new(header.toi - 1);
        let shape = cast.session.shape(piece);
        shape.expect("it was cast").source_symbols()
    };
    let is_data = |datagram: &&Vec<u8>| header(datagram).toi > 0;
    let mut spare: BTreeMap<u32, usize> = BTreeMap::new();
    for header in cast
        .datagrams
        .iter()
        .filter(is_data)
        .map(|datagram| header(datagram))
    {
        let is_repair = header.esi.get() >= source_symbols(&header);
        *spare.entry(header.toi).or_default() += usize::from(is_repair);
    }
    for spare in spare.values_mut() {
        *spare = spare.saturating_sub(2);
    }
    assert!(spare.values().any(|&spare| spare > 2), "{spare:?}");
    let mut lossy = cast.datagrams.clone();
    lossy.retain(|datagram| {
        let header = header(datagram);
        match spare.get_mut(&header.toi) {
            Some(left) if *left > 0 && header.esi.get() < source_symbols(&header) => {
                *left -= 1;
                false
            }
            _ => true,
        }
    });
    lossy
}

fn header(datagram: &[u8]) -> Header {
    Header::parse(datagram).expect("our sender sends what parses")
}

/// A session of which all but the last pieces are here, and those pieces by index. FLUTE writes the
/// TOI in the 4 bytes that ours always has where it is above 65,535.
fn far_pieces() -> (Session, BTreeMap<u32, Vec<u8>>) {
    let sizes = [1 << 16, 1 << 16, 10_000];
    let first = 0x0001_0000;
    let size = (u64::from(first) << 16) + sizes.iter().sum::<usize>() as u64;
    let session = Session {
        tsi: 0x0001_0007,
        epoch: EpochId(1),
        group: "239.1.2.3:7080".parse().unwrap(),
        report_port: 7081,
        geometry: Geometry::new(size, 16).unwrap(),
        symbol_size: 1408,
    };
    let pieces = (first..).zip(sizes);
    let pieces = pieces.map(|(index, size)| (index, noise(u64::from(index), size)));
    (session, pieces.collect())
}

/// Makes one of our datagrams from one of FLUTE: EXT_AUTH behind the LCT header, the symbol sealed.
fn seal(session: &Session, counter: u64, datagram: &[u8]) -> Vec<u8> {
    let (lct, payload) = datagram.split_at(16);
    let (payload_id, symbol) = payload.split_at(4);
    let mut header = lct.to_vec();
    assert_eq!(header[2], 4, "the words of a header without extensions");
    header[2] += 3;
    header.extend([1, 3]);
    header.extend(session.epoch.0.to_be_bytes());
    header.extend(counter.to_be_bytes());
    header.extend(payload_id);
    let mut body = symbol.to_vec();
    let key = Aes128Gcm.data_key(&SECRET, session.epoch, session.tsi);
    let tag = key.seal(counter, &header, &mut body);
    [header.as_slice(), &body, &tag].concat()
}

/// What our receiver stores of `datagrams`, by index, when it lacks `pieces` alone.
fn receive(
    session: &Session,
    pieces: &BTreeMap<u32, Vec<u8>>,
    datagrams: &[Vec<u8>],
) -> (BTreeMap<u32, Vec<u8>>, Arc<Counters>) {
    let geometry = session.geometry;
    let mut have = Bitmap::new(geometry.piece_count() as usize);
    let mut hashes = Vec::new();
    for piece in geometry.pieces() {
        // The hash of what is here already is never asked for.
        let bytes = pieces.get(&piece.get()).map_or(&[0][..], Vec::as_slice);
        hashes.push(piece_value(geometry, piece, bytes));
        if !pieces.contains_key(&piece.get()) {
            have.set(piece.as_usize());
        }
    }
    let counters = Arc::new(Counters::default());
    let mut receiver = Receiver::new(
        ReceiverConfig {
            session: *session,
            secret: SECRET,
            reports_to: "192.0.2.1:7081".parse().unwrap(),
            node: NodeId([1; 16]),
            host: "node1".to_owned(),
            seed: 1,
            receive_buffer_bytes: 0,
            have,
        },
        RaptorQ::new(),
        Aes128Gcm,
        PieceHashes::new(geometry, hashes).expect("there is one hash per piece"),
        Box::new(PlainBlocks::new(geometry.piece_size(), 4)),
        Arc::clone(&counters),
    );
    let mut stored = BTreeMap::new();
    let mut now = Time::ZERO;
    for datagram in datagrams {
        now += Duration::from_micros(10);
        let mut bytes = datagram.clone();
        let datagrams = Datagrams {
            channel: GROUP,
            from: "192.0.2.1:9000".parse().unwrap(),
            segment_size: bytes.len(),
            bytes: &mut bytes,
            dropped_total: 0,
        };
        receiver.handle(Input::Datagrams(datagrams), now);
        while let Some(output) = receiver.poll_output() {
            let Output::Disk(op) = output else { continue };
            let piece = (op.offset / geometry.piece_size() as u64) as u32;
            stored.insert(piece, op.block[..op.len].to_vec());
            let done = DiskDone {
                tag: op.tag,
                kind: op.kind,
                block: op.block,
                result: Ok(()),
            };
            receiver.handle(Input::Disk(done), now);
        }
    }
    (stored, counters)
}

/// The objects that FLUTE's receiver completes of `datagrams`, by TOI, and how many it refuses.
fn flute_receive(cast: &Cast, datagrams: &[Vec<u8>]) -> (BTreeMap<u32, Vec<u8>>, usize) {
    let folder = tempfile::tempdir().unwrap();
    let session = &cast.session;
    let sizes = session.geometry.pieces();
    let sizes = sizes.map(|piece| session.geometry.len(piece).to_string());
    let mut command = Command::new(tool());
    command.arg("receive").arg(folder.path());
    command.args([session.tsi.to_string(), session.symbol_size.to_string()]);
    command.args(sizes);
    let mut input = Vec::new();
    for datagram in datagrams {
        input.extend((datagram.len() as u16).to_be_bytes());
        input.extend(datagram);
    }
    let said = run(command, input);
    let said = String::from_utf8(said).unwrap();
    let refused = said.trim().rsplit_once("refused ").map(|(_, count)| count);
    let refused = refused.and_then(|count| count.parse().ok()).expect(&said);
    let objects = std::fs::read_dir(folder.path()).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let toi = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        (toi, std::fs::read(path).unwrap())
    });
    (objects.collect(), refused)
}

/// All datagrams of FLUTE's sender for `pieces`, whose TOI is their index + 1.
fn flute_send(session: &Session, pieces: &BTreeMap<u32, Vec<u8>>) -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let first = pieces.keys().next().unwrap();
    let mut command = Command::new(tool());
    let numbers = [session.tsi, first + 1, session.symbol_size.into(), 8];
    command
        .arg("send")
        .args(numbers.map(|number| number.to_string()));
    for (index, bytes) in pieces {
        let path = folder.path().join(index.to_string());
        std::fs::write(&path, bytes).unwrap();
        command.arg(path);
    }
    let mut rest = run(command, Vec::new());
    let mut datagrams = Vec::new();
    while !rest.is_empty() {
        let len = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
        let tail = rest.split_off(2 + len);
        datagrams.push(rest[2..].to_vec());
        rest = tail;
    }
    datagrams
}

fn run(mut command: Command, input: Vec<u8>) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the tool was just built");
    let mut stdin = child.stdin.take().expect("it is a pipe");
    let feed = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    feed.join().unwrap().unwrap();
    output.stdout
}

/// Builds the tool, beside what cargo built for us, and gives its path.
fn tool() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop-flute");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/interop-flute/Cargo.toml");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target)
        .output()
        .expect("cargo built this test");
    assert!(built.status.success(), "{built:?}");
    target.join("debug/interop-flute")
}

const SECRET: Secret = Secret::new([7; 32]);
const CODEPOINT_RAPTORQ: u8 = 6;
