//! Small valid inputs for every target, to start from. After a format has changed:
//! `cargo nextest run --run-ignored only -E 'test(fresh_corpora)'`.

#[path = "discovery.rs"]
mod discovery;

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;

use flashover::base::{EpochId, NodeId, Serial};
use flashover::deploy::token::Fingerprint;
use flashover::fec::Esi;
use flashover::image::frame::{Plan, Planner, packed_size_max, seek_table_size};
use flashover::image::{
    Entry, EntryIndex, EntryKind, Frame, Geometry, Hash, Kind, Manifest, Mtime, Owner, SigningKey,
    Xattr, hash,
};
use flashover::multicast::announce::{AnnouncedImage, Announcement};
use flashover::multicast::wire::control::Control;
use flashover::multicast::wire::lct::{Codepoint, Header};
use flashover::multicast::wire::report::{Item, Lack, Report, ReportHeader};
use flashover::multicast::{Secret, Session};

#[test]
#[ignore = "writes fuzz/corpus, after a format has changed"]
fn fresh_corpora_are_written() {
    for (target, name, bytes) in all() {
        let folder = super::fuzz().join("corpus").join(target);
        fs::create_dir_all(&folder).expect("the folder can be made");
        fs::write(folder.join(name), bytes).expect("the file can be written");
    }
}

#[test]
fn the_corpora_hold_the_seeds() {
    for (target, name, bytes) in all() {
        let path = super::fuzz().join("corpus").join(target).join(name);
        let there = fs::read(&path).unwrap_or_default();
        assert!(
            there == bytes,
            "{} is stale; see tests/fuzz_replay/seeds.rs",
            path.display()
        );
    }
}

fn all() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut seeds = vec![
        ("manifest", "tree", tree().encode()),
        ("manifest", "file", plain_file().encode()),
        ("sealed_manifest", "tree", tree().encode()),
        ("lct", "symbol", symbol(1, 5).to_vec()),
        ("lct", "control", control_header().to_vec()),
        ("control", "quiet", control_body(true)),
        ("control", "busy", control_body(false)),
        ("report", "body", report().emit()),
        ("report", "header", report_header().to_vec()),
        ("announcement", "two", announcement()),
        ("session", "v4", session("239.1.2.3:9000")),
        ("session", "v6", session("[ff15::1]:9000")),
    ];
    let key = SigningKey::from_seed([7; 32]).public_key().to_string();
    let token = Fingerprint::of(&[5; 32]);
    let token = format!("fo1-{token}-{token}");
    seeds.push(("token", "token", token.into_bytes()));
    for (name, word) in [
        ("key", key.as_str()),
        ("name", "debian-12"),
        ("size", "1.5 GiB"),
    ] {
        seeds.push(("words", name, word.into()));
    }
    for (name, word) in [("rate", "2.5Gbit/s"), ("duration", "24h")] {
        seeds.push(("words", name, word.into()));
    }
    for (name, header) in [
        ("part", "bytes=100-199"),
        ("from", "bytes=900-"),
        ("suffix", "bytes=-100"),
    ] {
        seeds.push((
            "range",
            name,
            [&1000u64.to_be_bytes()[..], header.as_bytes()].concat(),
        ));
    }
    seeds.extend(super::swarm_seeds::all());
    seeds.extend(super::peer_seeds::all());
    let mut ops = vec![3, 232, 50];
    ops.extend((5..20).flat_map(|id| [6, 0, 0, id]));
    seeds.push(("fec", "sources", ops.clone()));
    ops.extend((0..8).flat_map(|id| [7, 0, 1, id]));
    seeds.push(("fec", "repaired", ops.clone()));
    ops.splice(3..3, [0, 0, 0, 1, 2, 0, 0, 2, 4, 0, 0, 3]);
    seeds.push(("fec", "wrong", ops));
    let to_receiver = [
        run(1, &[&symbol(1, 0)[..], &[0]].concat()),
        run(9, &[&control_header()[..], &control_body(false)].concat()),
        run(1, &[&symbol(4, 1)[..], &[0]].concat()),
        run(99, &[&control_header()[..], &control_body(true)].concat()),
    ];
    seeds.push(("receiver", "session", to_receiver.concat()));
    let mut done = report();
    done.done = true;
    done.items.clear();
    let of_node = |node: u8, report: &Report| run(20, &[&[node][..], &report.emit()].concat());
    let to_sender = [
        of_node(0, &report()),
        of_node(1, &report()),
        of_node(0, &done),
    ];
    seeds.push(("sender", "two", to_sender.concat()));
    seeds.extend(discovery::all());
    seeds
}

/// One run of the machine targets: length, pause, bytes.
fn run(pause: u8, bytes: &[u8]) -> Vec<u8> {
    let len = u8::try_from(bytes.len()).expect("runs are short");
    [&[len, pause][..], bytes].concat()
}

fn symbol(toi: u32, esi: u32) -> [u8; 32] {
    let header = Header {
        closes_session: false,
        codepoint: Codepoint::RaptorQ,
        remaining: 40,
        tsi: 9,
        toi,
        epoch: EpochId(1),
        counter: 77,
        esi: Esi::new(esi).expect("it is small"),
    };
    header.emit()
}

fn control_header() -> [u8; 32] {
    let header = Header::parse(&symbol(1, 0)).expect("it was made so");
    let esi = Esi::new(0).expect("it is small");
    Header {
        codepoint: Codepoint::Control,
        toi: 0,
        remaining: 0,
        esi,
        ..header
    }
    .emit()
}

fn control_body(quiet: bool) -> Vec<u8> {
    let control = Control {
        quiet,
        position: 2,
        report_interval_ms: 20,
        backoff_ms: 5,
        ack_packets: 300,
        receivers: 3,
        demoted: vec![[3; 8]],
    };
    let mut bytes = vec![0; control.buffer_len()];
    control.emit(&mut bytes);
    bytes
}

fn report() -> Report {
    Report {
        ack: 900,
        expected: 100,
        received: 97,
        pieces_done: 1,
        host: "node7".to_owned(),
        from: 0,
        span: 4,
        items: vec![
            Item {
                gap: 1,
                lack: Lack::Symbols(3),
            },
            Item {
                gap: 0,
                lack: Lack::Whole(2),
            },
        ],
        ..Report::default()
    }
}

fn report_header() -> [u8; 36] {
    ReportHeader {
        tsi: 9,
        epoch: EpochId(1),
        node: NodeId([3; 16]),
        counter: 5,
    }
    .emit()
}

fn announcement() -> Vec<u8> {
    let image = |name: &str| AnnouncedImage {
        name: name.parse().expect("it is a name"),
        serial: Serial(4),
        root: [8; 8],
    };
    let announcement = Announcement {
        part: 0,
        parts: 1,
        head: [1; 32],
        control_port: 7080,
        instance: [2; 16],
        images: vec![image("debian"), image("rocky-9.4")],
    };
    [announcement.encode(), vec![9; 64]].concat()
}

fn session(group: &str) -> Vec<u8> {
    let session = Session {
        tsi: 9,
        epoch: EpochId(0xbeef),
        group: group.parse::<SocketAddr>().expect("it is an address"),
        report_port: 9001,
        geometry: Geometry::new(5_000_000, 20).expect("it is sane"),
        symbol_size: 1408,
    };
    session.encode(&Secret::new([7; 32]))
}

fn entry(parent: u32, name: &[u8], kind: EntryKind) -> Entry {
    Entry {
        parent: EntryIndex(parent),
        name: name.into(),
        kind,
        mode: 0o755,
        owner: Owner {
            uid: 1000,
            gid: 100,
        },
        mtime: Mtime {
            secs: 1_700_000_000,
            nanos: 5,
        },
        xattrs: vec![Xattr {
            name: (*b"user.x").into(),
            value: (*b"y").into(),
        }],
    }
}

fn file(size: u64, data: Option<Box<[std::ops::Range<u64>]>>) -> EntryKind {
    EntryKind::File {
        size,
        hash: Hash([5; 32]),
        data,
    }
}

/// A tree with one of everything.
fn tree() -> Manifest {
    let entries = vec![
        entry(0, b"", EntryKind::Directory),
        entry(0, b"a", EntryKind::Directory),
        entry(1, b"large", file(3 << 20, None)),
        entry(
            1,
            b"sparse",
            file(10_000, Some(vec![4096..8192].into_boxed_slice())),
        ),
        entry(0, b"b", EntryKind::Hardlink { to: EntryIndex(2) }),
        entry(
            0,
            b"c",
            EntryKind::Symlink {
                target: (*b"../x").into(),
            },
        ),
        entry(0, b"d", EntryKind::CharDevice { major: 5, minor: 1 }),
        entry(
            0,
            b"e",
            EntryKind::BlockDevice {
                major: 8,
                minor: 300,
            },
        ),
        entry(0, b"f", EntryKind::Fifo),
        entry(0, b"g", EntryKind::Socket),
    ];
    let mut plans: Vec<Plan> = Vec::new();
    let mut planner = Planner::new(|plan| {
        plans.push(plan);
        Ok::<(), Infallible>(())
    });
    for (index, entry) in (0..).zip(&entries) {
        planner.literal(&[0; 512]).expect("nothing fails");
        if let EntryKind::File { size, data, .. } = &entry.kind {
            let planned = planner.file(EntryIndex(index), *size, data.as_deref());
            planned.expect("nothing fails");
        }
    }
    planner.finish().expect("nothing fails");
    let frames = plans.iter().map(|plan| Frame {
        packed_size: packed_size_max(plan.size),
        content_size: plan.size,
    });
    let frames: Vec<Frame> = frames.collect();
    let packed: u64 = frames
        .iter()
        .map(|frame| u64::from(frame.packed_size))
        .sum();
    let size = packed + seek_table_size(frames.len());
    let extents = (0..)
        .zip(&plans)
        .flat_map(|(at, plan)| plan.extents(at))
        .collect();
    manifest(Kind::Tree, size, frames, entries, extents)
}

fn plain_file() -> Manifest {
    let entries = vec![entry(0, b"", file(200_000, None))];
    manifest(Kind::File, 200_000, Vec::new(), entries, Vec::new())
}

fn manifest(
    kind: Kind,
    bundle_size: u64,
    frames: Vec<Frame>,
    entries: Vec<Entry>,
    extents: Vec<flashover::image::Extent>,
) -> Manifest {
    let geometry = Geometry::new(bundle_size, 16).expect("it is sane");
    let value = |piece: u32| Hash::of(&piece.to_le_bytes());
    let pieces: Vec<Hash> = (0..geometry.piece_count()).map(value).collect();
    Manifest {
        name: "debian".parse().expect("it is a name"),
        serial: Serial(3),
        kind,
        geometry,
        root: hash::merge(&pieces),
        pieces,
        frames,
        entries,
        extents,
    }
}
