//! Bundles made in memory, unpacked in every order, hurt in every way.

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::base::Serial;
use crate::image::frame::{Part, Plan, Planner, seek_table};
use crate::image::{Entry, EntryIndex, EntryKind, Frame, Geometry, Hash, Kind, Mtime, Owner, hash};

/// A bundle in memory.
struct Sample {
    manifest: Arc<Manifest>,
    bundle: Vec<u8>,
}

impl BundleSource for Vec<u8> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&self[offset..][..buffer.len()]);
        Ok(())
    }
}

/// Bytes that zstd cannot shrink, different for every file.
fn byte_at(entry: u32, offset: u64) -> u8 {
    let mixed = (offset ^ u64::from(entry) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
        .to_be_bytes()[0]
}

fn content(entry: u32, size: u64, data: Option<&[std::ops::Range<u64>]>) -> Vec<u8> {
    let is_data = |at: &u64| data.is_none_or(|data| data.iter().any(|range| range.contains(at)));
    (0..size)
        .map(|at| if is_data(&at) { byte_at(entry, at) } else { 0 })
        .collect()
}

fn entry(parent: u32, name: &[u8], kind: EntryKind) -> Entry {
    Entry {
        parent: EntryIndex(parent),
        name: name.into(),
        mode: if kind == EntryKind::Directory {
            0o755
        } else {
            0o640
        },
        kind,
        owner: Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        },
        mtime: Mtime {
            secs: -77,
            nanos: 123_456_789,
        },
        xattrs: Vec::new(),
    }
}

fn file(size: u64, data: Option<Box<[std::ops::Range<u64>]>>) -> EntryKind {
    EntryKind::File {
        size,
        hash: Hash::of(b""),
        data,
    }
}

/// Fills in the hashes and packs everything.
fn pack(kind: Kind, mut entries: Vec<Entry>) -> Sample {
    let mut plans: Vec<Plan> = Vec::new();
    let mut planner = Planner::new(|plan| {
        plans.push(plan);
        Ok::<(), Infallible>(())
    });
    for (index, entry) in (0u32..).zip(&mut entries) {
        planner.literal(&[0; 512]).unwrap();
        if let EntryKind::File { size, hash, data } = &mut entry.kind {
            *hash = Hash::of(&content(index, *size, data.as_deref()));
            planner
                .file(EntryIndex(index), *size, data.as_deref())
                .unwrap();
        }
    }
    planner.finish().unwrap();
    let (mut bundle, mut frames, mut extents) = (Vec::new(), Vec::new(), Vec::new());
    for (at, plan) in (0u32..).zip(&plans) {
        let mut bytes = Vec::new();
        for part in &plan.parts {
            match part {
                Part::Literal { len } => bytes.resize(bytes.len() + *len as usize, 0),
                Part::Content(part) => {
                    let all = part.ranges().iter().cloned().flatten();
                    bytes.extend(all.map(|offset| byte_at(part.entry.0, offset)));
                }
            }
        }
        let packed = zstd::bulk::compress(&bytes, 1).unwrap();
        frames.push(Frame {
            packed_size: u32::try_from(packed.len()).unwrap(),
            content_size: plan.size,
        });
        bundle.extend(packed);
        extents.extend(plan.extents(at));
    }
    bundle.extend(seek_table(&frames));
    let geometry = Geometry::new(bundle.len() as u64, 16).unwrap();
    let piece = |piece: PieceIndex| {
        let range = geometry.range(piece);
        let at = usize::try_from(range.start).unwrap();
        hash::piece_value(geometry, piece, &bundle[at..][..geometry.len(piece)])
    };
    let pieces: Vec<Hash> = geometry.pieces().map(piece).collect();
    let manifest = Manifest {
        name: "sample".parse().unwrap(),
        serial: Serial(1),
        kind,
        geometry,
        root: hash::merge(&pieces),
        pieces,
        frames,
        entries,
        extents,
    };
    assert_eq!(manifest.check(), Ok(()));
    Sample {
        manifest: Arc::new(manifest),
        bundle,
    }
}

fn tree() -> Vec<Entry> {
    let mut entries = vec![entry(0, b"", EntryKind::Directory)];
    entries.push(entry(0, b"boot", EntryKind::Directory));
    entries.push(entry(1, b"vmlinuz", file(70_000, None)));
    entries.push(entry(0, b"d", EntryKind::Directory));
    for index in 0..30u8 {
        entries.push(entry(
            3,
            &[b'f', b'0' + index],
            file(u64::from(index) * 3000, None),
        ));
    }
    entries.push(entry(0, b"large", file((2 << 20) + 100, None)));
    let holes = Box::new([1 << 20..(2 << 20) + 5, 5 << 20..(5 << 20) + 4096]);
    entries.push(entry(0, b"sparse", file(7 << 20, Some(holes))));
    entries.push(entry(
        0,
        b"symlink",
        EntryKind::Symlink {
            target: (*b"/etc").into(),
        },
    ));
    entries.push(entry(0, b"t", EntryKind::Directory));
    entries.push(entry(
        37,
        b"again",
        EntryKind::Hardlink { to: EntryIndex(34) },
    ));
    entries.push(entry(37, b"pipe", EntryKind::Fifo));
    entries
}

impl Sample {
    fn start(&self, target: &Path, options: &Options) -> Result<Unpacker> {
        let target = match self.manifest.kind {
            Kind::Tree => Target::Directory(target.to_owned()),
            Kind::Disk | Kind::File => Target::Device(target.to_owned()),
        };
        let source = Arc::new(self.bundle.clone());
        Unpacker::start(Arc::clone(&self.manifest), source, &target, options)
    }

    fn unpack(&self, target: &Path, options: &Options) -> Result<Restored> {
        let unpacker = self.start(target, options)?;
        self.manifest
            .geometry
            .pieces()
            .for_each(|piece| unpacker.piece_ready(piece));
        unpacker.finish()
    }

    /// Compares all contents, without the help of what is tested.
    fn assert_restored(&self, target: &Path) {
        for (index, entry) in (0u32..).zip(&self.manifest.entries) {
            let EntryKind::File { size, data, .. } = &entry.kind else {
                continue;
            };
            let path = self.manifest.path_of(EntryIndex(index));
            let path = target.join(String::from_utf8(path).unwrap());
            let about = fs::metadata(&path).unwrap();
            let is_right = fs::read(&path).unwrap() == content(index, *size, data.as_deref());
            assert!(is_right, "{}", path.display());
            assert_eq!((about.mtime(), about.mtime_nsec()), (-77, 123_456_789));
            if data.is_some() {
                assert!(about.blocks() * 512 < *size / 2, "holes stay holes");
            }
        }
        let about = fs::metadata(target.join("t/again")).unwrap();
        assert_eq!(
            about.ino(),
            fs::metadata(target.join("large")).unwrap().ino()
        );
        assert_eq!(fs::metadata(target).unwrap().mtime(), -77);
        assert!(!target.join(MARKER).exists());
    }
}

fn threads(count: usize) -> Options {
    Options {
        threads: NonZeroUsize::new(count).unwrap(),
        ..Options::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn pieces_in_any_order_give_the_same_tree(seed: u64, count in 1usize..4) {
        let sample = pack(Kind::Tree, tree());
        let mut pieces: Vec<PieceIndex> = sample.manifest.geometry.pieces().collect();
        pieces.sort_by_key(|piece| (u64::from(piece.get()) ^ seed).wrapping_mul(seed | 1));
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("root");
        let unpacker = sample.start(&target, &threads(count)).unwrap();
        for &piece in &pieces {
            unpacker.piece_ready(piece);
            unpacker.piece_ready(piece);
        }
        let restored = unpacker.finish().unwrap();
        prop_assert_eq!(restored.bytes_written, sample.manifest.data_size());
        prop_assert_eq!(restored.bytes_verified, sample.manifest.logical_size());
        sample.assert_restored(&target);
    }

    #[test]
    fn a_damaged_bundle_is_never_restored(at: prop::sample::Index, bit in 0u8..8) {
        let mut sample = pack(Kind::Tree, tree());
        let frames: u64 = *sample.manifest.frame_offsets().last().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = at.index(usize::try_from(frames).unwrap());
        sample.bundle[at] ^= 1 << bit;
        match sample.unpack(&dir.path().join("root"), &threads(2)) {
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Integrity),
            // A byte that no file uses: a tar header, or one of zstd's own.
            Ok(_) => sample.assert_restored(&dir.path().join("root")),
        }
    }
}

#[test]
fn an_interrupted_attempt_is_taken_up_by_the_same_bundle_only() {
    let sample = pack(Kind::Tree, tree());
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("root");
    let unpacker = sample.start(&target, &threads(2)).unwrap();
    for piece in sample.manifest.geometry.pieces().skip(3) {
        unpacker.piece_ready(piece);
    }
    let error = unpacker.finish().unwrap_err();
    assert!(matches!(error, Error::Incomplete(_)), "{error}");
    assert!(target.join(MARKER).exists());

    let mut other = tree();
    other.pop();
    let other = pack(Kind::Tree, other);
    let error = other.unpack(&target, &threads(1)).unwrap_err();
    assert!(matches!(error, Error::OtherAttempt(_)), "{error}");
    sample.unpack(&target, &threads(2)).unwrap();
    sample.assert_restored(&target);
    let replace = Options {
        replace: true,
        ..threads(2)
    };
    other.unpack(&target, &replace).unwrap();
    assert!(
        !target.join("t/pipe").exists(),
        "what the image has not is gone"
    );
}

#[test]
fn a_directory_with_something_in_it_is_left_alone() {
    let sample = pack(Kind::Tree, tree());
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine"), "mine").unwrap();
    let error = sample.unpack(dir.path(), &threads(1)).unwrap_err();
    assert!(matches!(error, Error::NotEmpty(_)), "{error}");
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn links_planted_in_the_target_lead_nowhere() {
    let sample = pack(Kind::Tree, tree());
    for plant in ["d", "boot", "large", "d/f5"] {
        let dir = tempfile::tempdir().unwrap();
        let (target, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "precious").unwrap();
        drop(sample.start(&target, &threads(1)).unwrap());
        let place = target.join(plant);
        drop(fs::remove_dir_all(&place).or_else(|_| fs::remove_file(&place)));
        let to = if plant == "large" {
            outside.join("precious")
        } else {
            outside.clone()
        };
        std::os::unix::fs::symlink(to, &place).unwrap();
        // A link where a file goes is replaced; one where a directory goes ends the job.
        let is_file = plant.contains('l') || plant.contains('/');
        assert_eq!(
            sample.unpack(&target, &threads(2)).is_ok(),
            is_file,
            "{plant}"
        );
        assert_eq!(
            fs::read_to_string(outside.join("precious")).unwrap(),
            "precious"
        );
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{plant}");
    }
}

#[test]
fn a_hostile_manifest_is_refused_before_anything_is_made() {
    type Change = fn(&mut Manifest);
    let changes: [Change; 7] = [
        |manifest| manifest.entries[1].name = (*b"..").into(),
        |manifest| manifest.entries[2].name = (*b"../x").into(),
        |manifest| manifest.entries[2].name = (*b"").into(),
        |manifest| manifest.entries[4].parent = EntryIndex(36),
        |manifest| manifest.entries[38].kind = EntryKind::Hardlink { to: EntryIndex(3) },
        |manifest| manifest.extents[0].file_offset = u64::MAX - 1,
        |manifest| manifest.extents[0].frame_offset = u32::MAX,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut sample = pack(Kind::Tree, tree());
        change(Arc::get_mut(&mut sample.manifest).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("root");
        let error = sample.start(&target, &threads(1)).unwrap_err();
        assert!(matches!(error, Error::Manifest(_)), "{index}: {error}");
        assert!(!target.exists());
    }
    let mut entries = tree();
    entries.insert(1, entry(0, MARKER.as_bytes(), EntryKind::Fifo));
    entries.truncate(2);
    let dir = tempfile::tempdir().unwrap();
    let error = pack(Kind::Tree, entries)
        .start(&dir.path().join("root"), &threads(1))
        .unwrap_err();
    assert!(matches!(error, Error::WrongTarget(_)), "{error}");
}

#[test]
fn what_changes_behind_our_back_is_found() {
    let sample = pack(Kind::Tree, tree());
    type Change = fn(&Path);
    let cases: [(&str, Change); 5] = [
        ("d/f9: content", |root| {
            let path = root.join("d/f9");
            let mtime = fs::metadata(&path).unwrap().modified().unwrap();
            let mut bytes = fs::read(&path).unwrap();
            bytes[5] ^= 1;
            fs::write(&path, bytes).unwrap();
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_modified(mtime)
                .unwrap();
        }),
        ("t/more: added", |root| {
            let t = root.join("t");
            let mtime = fs::metadata(&t).unwrap().modified().unwrap();
            fs::write(t.join("more"), "").unwrap();
            fs::File::open(t).unwrap().set_modified(mtime).unwrap();
        }),
        ("symlink: removed", |root| {
            fs::remove_file(root.join("symlink")).unwrap();
        }),
        ("t/pipe: mode 0640 -> 0600", |root| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            fs::set_permissions(root.join("t/pipe"), mode).unwrap();
        }),
        ("t/again: link", |root| {
            let (t, path) = (root.join("t"), root.join("t/again"));
            let mtime = fs::metadata(&t).unwrap().modified().unwrap();
            let copy = t.join("copy");
            fs::copy(&path, &copy).unwrap();
            let of_file = fs::metadata(&path).unwrap().modified().unwrap();
            fs::File::options()
                .write(true)
                .open(&copy)
                .unwrap()
                .set_modified(of_file)
                .unwrap();
            fs::rename(copy, path).unwrap();
            fs::File::open(t).unwrap().set_modified(mtime).unwrap();
        }),
    ];
    for (expected, change) in cases {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("root");
        let sink = complete_sink(&sample, &target);
        change(&target);
        let error = sink.verify().unwrap_err();
        let Error::Differs { all, .. } = &error else {
            panic!("{error}")
        };
        let found: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(found, [expected]);
    }
}

/// A tree that is unpacked but not yet verified.
fn complete_sink(sample: &Sample, target: &Path) -> DirectorySink {
    let manifest = Arc::clone(&sample.manifest);
    let sink = DirectorySink::start(manifest, target, &threads(2)).unwrap();
    for (frame, range) in (0u32..).zip(sample.manifest.frame_offsets().windows(2)) {
        let range = usize::try_from(range[0]).unwrap()..usize::try_from(range[1]).unwrap();
        let content = zstd::bulk::decompress(&sample.bundle[range], 2 << 20).unwrap();
        sink.write_frame(frame, &content).unwrap();
    }
    (0..sink.loose_count()).for_each(|step| sink.do_loose(step).unwrap());
    sink.complete().unwrap();
    sink
}

#[test]
fn a_disk_becomes_a_sparse_file_and_replaces_what_was_there() {
    let holes = Box::new([0..4096, 3 << 20..(4 << 20) + 512]);
    let sample = pack(
        Kind::Disk,
        vec![entry(0, b"", file(40 << 20, Some(holes.clone())))],
    );
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("disk");
    fs::write(&target, [7; 100_000]).unwrap();
    let restored = sample.unpack(&target, &threads(2)).unwrap();
    assert_eq!(restored.bytes_verified, 40 << 20);
    let is_right = fs::read(&target).unwrap() == content(0, 40 << 20, Some(&holes[..]));
    assert!(is_right);
    assert!(fs::metadata(&target).unwrap().blocks() < 8 << 11);
    let error = sample
        .start(Path::new("/dev/null"), &threads(1))
        .unwrap_err();
    assert!(matches!(error, Error::WrongTarget(_)), "{error}");
}

#[test]
fn trees_do_not_go_to_devices_nor_disks_to_directories() {
    let tree = pack(Kind::Tree, tree());
    let disk = pack(Kind::Disk, vec![entry(0, b"", file(5000, None))]);
    let dir = tempfile::tempdir().unwrap();
    for (sample, target) in [
        (&tree, Target::Device(dir.path().join("x"))),
        (&disk, Target::Directory(dir.path().join("x"))),
    ] {
        let source = Arc::new(sample.bundle.clone());
        let manifest = Arc::clone(&sample.manifest);
        let error = Unpacker::start(manifest, source, &target, &threads(1)).unwrap_err();
        assert!(matches!(error, Error::WrongTarget(_)), "{error}");
        assert!(!dir.path().join("x").exists());
    }
}
