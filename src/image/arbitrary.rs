//! Manifests for tests: made from a list of draws, always valid.
#![expect(
    clippy::cast_possible_truncation,
    clippy::single_range_in_vec_init,
    reason = "draws are cut to size, and lists of ranges are meant"
)]

use std::convert::Infallible;

use proptest::prelude::*;

use super::frame::{Plan, Planner, packed_size_max, seek_table_size};
use super::{
    Entry, EntryIndex, EntryKind, Frame, Geometry, Hash, Kind, Manifest, Mtime, Owner, Xattr, hash,
};
use crate::base::Serial;

/// One draw: which earlier directory, which kind, and numbers to fill the rest with.
type Draw = (prop::sample::Index, u8, u64, i64, Vec<u8>);

/// Any tree manifest that keeps the rules.
pub(crate) fn any_manifest() -> impl Strategy<Value = Manifest> {
    let draw = (
        any::<prop::sample::Index>(),
        0u8..10,
        prop_oneof![0..4096u64, 0..3u64 << 20, any::<u64>()],
        any::<i64>(),
        prop::collection::vec(any::<u8>(), 0..20),
    );
    prop::collection::vec(draw, 0..40).prop_map(|draws| build(&draws))
}

/// A tree with a directory, a file of 3 MiB, a small sparse file, and a hard link.
pub(crate) fn small_manifest() -> Manifest {
    let mut entries = vec![entry(0, b"", EntryKind::Directory)];
    entries.push(entry(0, b"a", EntryKind::Directory));
    entries.push(entry(1, b"large", file(3 << 20, None)));
    let data = Box::from([4096..8192]);
    entries.push(entry(1, b"sparse", file(10_000, Some(data))));
    entries.push(entry(0, b"b", EntryKind::Hardlink { to: EntryIndex(2) }));
    complete(entries)
}

/// Adds frames, extents, pieces and root to entries.
pub(crate) fn complete(entries: Vec<Entry>) -> Manifest {
    let mut plans: Vec<Plan> = Vec::new();
    let mut planner = Planner::new(|plan| {
        plans.push(plan);
        Ok::<(), Infallible>(())
    });
    for (index, entry) in (0..).zip(&entries) {
        planner.literal(&[0; 512]).unwrap();
        if let EntryKind::File { size, data, .. } = &entry.kind {
            let data = data.as_deref();
            planner.file(EntryIndex(index), *size, data).unwrap();
        }
    }
    planner.finish().unwrap();
    let frame = |plan: &Plan| Frame {
        packed_size: packed_size_max(plan.size),
        content_size: plan.size,
    };
    let frames: Vec<Frame> = plans.iter().map(frame).collect();
    let extents = (0..).zip(&plans).flat_map(|(at, plan)| plan.extents(at));
    let packed: u64 = frames.iter().map(|f| u64::from(f.packed_size)).sum();
    let bundle_size = packed + seek_table_size(frames.len());
    let geometry = Geometry::new(bundle_size, 16).unwrap();
    let pieces: Vec<Hash> = (0..geometry.piece_count())
        .map(|piece| Hash::of(&piece.to_le_bytes()))
        .collect();
    Manifest {
        name: "test".parse().unwrap(),
        serial: Serial(3),
        kind: Kind::Tree,
        geometry,
        root: hash::merge(&pieces),
        extents: extents.collect(),
        pieces,
        frames,
        entries,
    }
}

fn build(draws: &[Draw]) -> Manifest {
    let mut entries = vec![entry(0, b"", EntryKind::Directory)];
    for (index, (parent, code, number, secs, bytes)) in (1u32..).zip(draws) {
        let directories: Vec<u32> = (0..index)
            .filter(|&at| matches!(entries[at as usize].kind, EntryKind::Directory))
            .collect();
        let parent = directories[parent.index(directories.len())];
        let name = [format!("{index:04}").as_bytes(), &no_nul(bytes)].concat();
        let mut next = entry(parent, &name, any_kind(*code, *number, bytes));
        next.mode = (number % 0o10000) as u16;
        next.owner.uid = *number as u32;
        next.mtime = Mtime {
            secs: *secs,
            nanos: (number % 1_000_000_000) as u32,
        };
        if number % 3 == 0 {
            next.xattrs = vec![Xattr {
                name: (*b"user.x").into(),
                value: bytes.as_slice().into(),
            }];
        }
        if *code == 9 {
            let is_first = |entry: &Entry| {
                !matches!(
                    entry.kind,
                    EntryKind::Directory | EntryKind::Hardlink { .. }
                )
            };
            let Some(first) = entries.iter().position(is_first) else {
                entries.push(next);
                continue;
            };
            next = Entry {
                parent: next.parent,
                name: next.name,
                kind: EntryKind::Hardlink {
                    to: EntryIndex(first as u32),
                },
                ..entries[first].clone()
            };
        }
        entries.push(next);
    }
    complete(entries)
}

fn any_kind(code: u8, number: u64, bytes: &[u8]) -> EntryKind {
    let small = number % (5 << 20);
    match code {
        0 | 1 => EntryKind::Directory,
        2 => file(small, None),
        3 if small > 0 => file(small, Some(Box::from([]))),
        3 => EntryKind::Socket,
        4 => {
            let size = (number >> 1).max(100_000);
            file(size, Some(Box::from([4096..8192, size - 50_000..size])))
        }
        5 => EntryKind::Symlink {
            target: [b"/", no_nul(bytes).as_slice()].concat().into(),
        },
        6 => EntryKind::CharDevice {
            major: number as u32,
            minor: 1,
        },
        7 => EntryKind::BlockDevice {
            major: 0,
            minor: number as u32,
        },
        _ => EntryKind::Fifo,
    }
}

fn no_nul(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .map(|&c| if matches!(c, 0 | b'/') { b'\n' } else { c })
        .collect()
}

fn file(size: u64, data: Option<Box<[std::ops::Range<u64>]>>) -> EntryKind {
    let hash = if size == 0 {
        Hash::of(b"")
    } else {
        Hash([5; 32])
    };
    EntryKind::File { size, hash, data }
}

fn entry(parent: u32, name: &[u8], kind: EntryKind) -> Entry {
    Entry {
        parent: EntryIndex(parent),
        name: name.into(),
        kind,
        mode: 0o755,
        owner: Owner::default(),
        mtime: Mtime::default(),
        xattrs: Vec::new(),
    }
}
