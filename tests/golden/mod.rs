//! Every format version ever released still reads, byte for byte.
//!
//! `v1/` was made by this test from the tree below, with `FLASHOVER_GOLDEN=write` in the
//! environment. It stays as it is for ever; a new format gets a folder of its own.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use flashover::base::Serial;
use flashover::base::event::Events;
use flashover::capture::{ImageKind, Options, Store, publish};
use flashover::image::{EntryKind, ImageName, Manifest, PublicKey, SigningKey, sign};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

#[test]
fn version_1_still_opens_and_means_the_same() {
    let sealed = fs::read(golden("golden-1.manifest")).unwrap();
    let manifest = sign::open(&sealed, &public_key()).unwrap();
    let bundle = fs::read(golden("golden-1.tar.zst")).unwrap();
    assert_eq!(manifest.encode(), sealed[..sealed.len() - sign::SEAL_BYTES]);
    assert_eq!(manifest.root.to_string(), blake3::hash(&bundle).to_string());
    assert_eq!(manifest.geometry.bundle_size(), bundle.len() as u64);
    let described: Vec<String> = manifest
        .entries
        .iter()
        .map(|e| describe(&manifest, e))
        .collect();
    insta::assert_snapshot!(described.join("\n"));
}

#[test]
fn publishing_gives_the_bytes_of_version_1() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path());
    let name: ImageName = "golden".parse().unwrap();
    store.prepare().unwrap();
    make_tree(&store.image_path(&name, ImageKind::Tree));
    let keys = store.root().join("keys");
    fs::write(
        keys.join("head.key"),
        SigningKey::from_seed(SEED).to_secret_text(),
    )
    .unwrap();
    fs::write(keys.join("head.pub"), public_key().to_string()).unwrap();
    let options = Options {
        piece_log2: 16,
        ..Options::default()
    };
    let published = publish(&store, &name, &options, &Events::ignore()).unwrap();
    let manifest = store.manifest_path(&name, Serial(1));
    for path in [published.bundle, manifest] {
        let stored = golden(path.file_name().unwrap().to_str().unwrap());
        if std::env::var_os("FLASHOVER_GOLDEN").is_some_and(|word| word == "write") {
            fs::copy(&path, &stored).unwrap();
        }
        let same = fs::read(&path).unwrap() == fs::read(&stored).unwrap();
        assert!(same, "{} is as it was released", stored.display());
    }
}

/// Makes the tree that was published, with everything that shows in the bytes set on purpose. Needs
/// root, because owners do.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("dir/deep")).unwrap();
    fs::write(root.join("dir/small"), b"hello\n").unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    let large: Vec<u8> = (0..(1 << 20) + 5)
        .map(|at: u32| at.to_be_bytes()[2])
        .collect();
    fs::write(root.join("dir/large"), large).unwrap();
    fs::hard_link(root.join("dir/large"), root.join("link")).unwrap();
    symlink("dir/small", root.join("symlink")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    sparse.write_all_at(&[9; 4096], 1 << 20).unwrap();
    let name = b"dir/deep/\xff new\nline";
    let odd = root.join(std::ffi::OsStr::new(
        <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name),
    ));
    fs::write(&odd, b"odd").unwrap();
    rustix::fs::setxattr(&odd, "user.note", b"\0\x01", XattrFlags::empty()).unwrap();
    let fifo = root.join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();

    let mut paths = vec![root.to_owned()];
    let mut at = 0;
    while at < paths.len() {
        if paths[at].symlink_metadata().unwrap().is_dir() {
            let children = fs::read_dir(&paths[at]).unwrap();
            paths.extend(children.map(|child| child.unwrap().path()));
        }
        at += 1;
    }
    // The deepest first, so that nothing changes a directory's time afterwards.
    for path in paths.iter().rev() {
        set_metadata(path);
    }
}

fn set_metadata(path: &Path) {
    let name = path.file_name().unwrap().as_encoded_bytes();
    let (owner, group) = (Uid::from_raw(1000), Gid::from_raw(3_000_000));
    rustix::fs::chownat(
        CWD,
        path,
        Some(owner),
        Some(group),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
    let metadata = path.symlink_metadata().unwrap();
    if !metadata.is_symlink() {
        let mode = match name {
            b"small" => 0o4755,
            b"deep" => 0o1777,
            _ if metadata.is_dir() => 0o755,
            _ => 0o640,
        };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let time = match name {
        b"small" => (-2, 250_000_000),
        b"symlink" => (1_700_000_000, 1),
        _ => (1_600_000_000, 0),
    };
    let time = Timespec {
        tv_sec: time.0,
        tv_nsec: time.1,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    assert_eq!(path.symlink_metadata().unwrap().mtime(), time.tv_sec);
}

fn describe(manifest: &Manifest, entry: &flashover::image::Entry) -> String {
    let index = manifest
        .entries
        .iter()
        .position(|other| std::ptr::eq(other, entry));
    let index = flashover::image::EntryIndex(u32::try_from(index.unwrap()).unwrap());
    let path = manifest.path_of(index);
    let kind = match &entry.kind {
        EntryKind::File { size, hash, data } => {
            format!("file {size} {} {data:?}", &hash.to_string()[..16])
        }
        EntryKind::Directory
        | EntryKind::Symlink { .. }
        | EntryKind::Hardlink { .. }
        | EntryKind::CharDevice { .. }
        | EntryKind::BlockDevice { .. }
        | EntryKind::Fifo
        | EntryKind::Socket => format!("{:?}", entry.kind),
    };
    format!(
        "{:?} {:o} {}:{} {}.{:09} {:?} {kind}",
        String::from_utf8_lossy(&path),
        entry.mode,
        entry.owner.uid,
        entry.owner.gid,
        entry.mtime.secs,
        entry.mtime.nanos,
        entry
            .xattrs
            .iter()
            .map(|x| x.value.clone())
            .collect::<Vec<_>>(),
    )
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/v1")
        .join(name)
}

fn public_key() -> PublicKey {
    SigningKey::from_seed(SEED).public_key()
}

const SEED: [u8; 32] = [42; 32];
