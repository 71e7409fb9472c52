//! A tree that holds everything that is hard to copy, and a comparer that names every difference.
//!
//! Both stand on system calls alone, not on the rooms that they test. They need root, as devices,
//! foreign owners and trusted attributes do: without it the tests fail and say so.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};

/// Fails with a clear text unless the test runs as root.
pub fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes devices and foreign owners: run it as root"
    );
}

/// The length of the nasty tree's sparse file.
pub const SPARSE_BYTES: u64 = 10 << 30;

/// Makes the nasty tree at `root`, which must not exist.
pub fn make(root: &Path) {
    require_root();
    fs::create_dir(root).unwrap();
    make_files(root);
    make_special(root);
    make_names(root);
    make_deep(root);
    set_attributes(root);
    set_owners_and_modes(root);
    set_times(root);
}

fn make_files(root: &Path) {
    for directory in ["bin", "data", "data/empty", "data/links", "boot"] {
        fs::create_dir(root.join(directory)).unwrap();
    }
    fs::write(root.join("bin/setuid"), "#!/bin/sh\n").unwrap();
    fs::write(root.join("bin/capable"), "capable").unwrap();
    fs::write(root.join("boot/vmlinuz"), noise(3_000_001)).unwrap();
    fs::write(root.join("data/nothing"), "").unwrap();
    fs::write(root.join("data/one"), "1").unwrap();
    fs::write(root.join("data/mebibyte"), noise(1 << 20)).unwrap();
    fs::write(root.join("data/chunks"), noise((5 << 20) + 12345)).unwrap();
    for index in 0..40 {
        let size = index * index * 97;
        fs::write(root.join(format!("data/small-{index}")), noise(size)).unwrap();
    }
    fs::hard_link(root.join("data/chunks"), root.join("data/links/chunks")).unwrap();
    fs::hard_link(root.join("data/chunks"), root.join("bin/chunks")).unwrap();
    fs::hard_link(root.join("data/nothing"), root.join("data/links/nothing")).unwrap();
    let sparse = File::create(root.join("data/sparse")).unwrap();
    sparse.set_len(SPARSE_BYTES).unwrap();
    sparse.write_all_at(&noise(70_000), 1 << 30).unwrap();
    sparse
        .write_all_at(b"near the end", SPARSE_BYTES - 5000)
        .unwrap();
    File::create(root.join("data/hole"))
        .unwrap()
        .set_len(5 << 20)
        .unwrap();
    // Data to the end, a hole at the start.
    let tail = File::create(root.join("data/tail")).unwrap();
    tail.write_all_at(&noise(4096), 1 << 20).unwrap();
}

fn make_special(root: &Path) {
    for (name, kind, major, minor) in [
        ("null", FileType::CharacterDevice, 1, 3),
        ("far", FileType::BlockDevice, 259, 70_000),
        ("pipe", FileType::Fifo, 0, 0),
    ] {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, root.join(name), kind, Mode::RUSR, device).unwrap();
    }
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
    for (name, target) in [
        ("link", "data/one"),
        ("dangling", "../../no/where"),
        ("up", ".."),
    ] {
        std::os::unix::fs::symlink(target, root.join(name)).unwrap();
    }
    std::os::unix::fs::symlink("t".repeat(4000), root.join("long-link")).unwrap();
    fs::hard_link(root.join("link"), root.join("data/links/link")).unwrap();
    fs::hard_link(root.join("null"), root.join("data/links/null")).unwrap();
}

fn make_names(root: &Path) {
    let names: [&[u8]; 10] = [
        b"new\nline",
        b"\xff\xfe not utf-8",
        b" space ",
        b"-rf",
        b"quote\"'`$",
        "grüße 世界".as_bytes(),
        b"back\\slash\\n",
        b"\x01\x7f",
        b"...",
        &[b'n'; 255],
    ];
    let directory = root.join("names");
    fs::create_dir(&directory).unwrap();
    for name in names {
        let name = std::ffi::OsStr::from_bytes(name);
        fs::write(directory.join(name), name.as_bytes()).unwrap();
    }
}

/// Directories in each other until a path beneath the root has 4090 bytes; longer than the kernel
/// takes as soon as anything comes before it.
fn make_deep(root: &Path) {
    let mut at = open(root);
    let mut len = 0;
    while len + 201 < 4090 {
        let name = "d".repeat(200);
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = open_in(&at, name.as_bytes());
        len += 201;
    }
    let name = "f".repeat(4090 - len);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let file = rustix::fs::openat(&at, name, flags, Mode::RUSR).unwrap();
    File::from(file).write_all_at(b"deep", 0).unwrap();
}

fn set_attributes(root: &Path) {
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(path), name, value, XattrFlags::empty()).unwrap();
    };
    set("data/one", "user.empty", b"");
    set("data/one", "user.binary", &[0, 1, 0, 255, b'\n', b'=']);
    set("data/one", "user.name=with equals", b"x");
    set("data/one", "trusted.large", &noise(3000));
    set("data", "user.directory", b"yes");
    set("link", "trusted.on-link", b"link");
    set("null", "trusted.on-device", b"device");
    set("bin/capable", "security.capability", &CAPABILITY);
    set("data/one", "system.posix_acl_access", &acl(4));
    set("data/empty", "system.posix_acl_default", &acl(7));
    set("data/links", "system.posix_acl_default", &acl(5));
    set("data/links", "system.posix_acl_access", &acl(6));
    set(".", "user.root", b"root");
}

fn set_owners_and_modes(root: &Path) {
    for (path, uid, gid, mode) in [
        ("bin/setuid", 0, 4242, 0o6755),
        ("data/chunks", 1234, 5678, 0o600),
        ("data/small-3", 4_000_000_000, 4_000_000_001, 0o000),
        ("data/small-4", 1000, 1000, 0o444),
        ("data/empty", 7, 7, 0o3770),
        ("names", 0, 100, 0o2555),
        ("null", 0, 6, 0o666),
        ("pipe", 33, 33, 0o620),
        ("socket", 33, 0, 0o777),
        (".", 5, 6, 0o1751),
    ] {
        let path = root.join(path);
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(CWD, &path, Some(uid), Some(gid), AtFlags::empty()).unwrap();
        rustix::fs::chmod(&path, Mode::from_raw_mode(mode)).unwrap();
    }
    let (uid, gid) = (Uid::from_raw(99), Gid::from_raw(98));
    let link = root.join("link");
    rustix::fs::chownat(CWD, link, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    // The owner's change took it away.
    let capable = root.join("bin/capable");
    let name = "security.capability";
    rustix::fs::setxattr(capable, name, &CAPABILITY, XattrFlags::empty()).unwrap();
}

/// Sets a different time on everything, from below.
fn set_times(root: &Path) {
    let mut count = 0;
    set_times_in(&open(root), &mut count);
    let times = times(-1, 1);
    rustix::fs::utimensat(CWD, root, &times, AtFlags::empty()).unwrap();
}

fn set_times_in(directory: &OwnedFd, count: &mut i64) {
    for name in names_in(directory) {
        let stat = rustix::fs::statat(directory, &name[..], AtFlags::SYMLINK_NOFOLLOW).unwrap();
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            set_times_in(&open_in(directory, &name), count);
        }
        *count += 1;
        let seconds = if *count % 3 == 0 {
            -*count * 86_400
        } else {
            *count * 10_000_000
        };
        let times = times(seconds, *count * 1_000_003 % 1_000_000_000);
        rustix::fs::utimensat(directory, &name[..], &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

fn times(tv_sec: i64, tv_nsec: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec { tv_sec, tv_nsec },
    }
}

/// `cap_net_bind_service=ep`, as `setcap` writes it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// An access control list with an entry for user 1000.
fn acl(permissions: u16) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (0x01u16, 7u16, NOBODY),
        (0x02, permissions, 1000),
        (0x04, 5, NOBODY),
        (0x08, permissions, 2000),
        (0x10, 7, NOBODY),
        (0x20, 0, NOBODY),
    ] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Bytes that do not compress, the same on every call.
pub fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// Everything about a tree that must survive, by path.
#[derive(Debug)]
pub struct Picture(BTreeMap<Vec<u8>, BTreeMap<String, String>>);

impl Picture {
    /// Looks at the tree at `root`.
    pub fn of(root: &Path) -> Self {
        let mut picture = Self(BTreeMap::new());
        let directory = open(root);
        let stat = rustix::fs::fstat(&directory).unwrap();
        let facts = facts(&directory, b".", &stat);
        picture.0.insert(Vec::new(), facts);
        picture.add(&directory, &[], &mut BTreeMap::new());
        picture
    }

    /// The same without sockets, which tar does not carry.
    pub fn without_sockets(mut self) -> Self {
        self.0.retain(|_, facts| facts["kind"] != "Socket");
        self
    }

    /// Every difference from this to `other`, one per line.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let empty = BTreeMap::new();
        let mut lines = Vec::new();
        let paths: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        for path in paths {
            let (ours, theirs) = (
                self.0.get(path).unwrap_or(&empty),
                other.0.get(path).unwrap_or(&empty),
            );
            let names: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
            for name in names
                .into_iter()
                .filter(|name| ours.get(*name) != theirs.get(*name))
            {
                let path = path[..path.len().min(60)].escape_ascii();
                let (was, is) = (ours.get(name), theirs.get(name));
                lines.push(format!("{path}: {name}: {was:?} -> {is:?}"));
            }
        }
        lines
    }

    fn add(&mut self, directory: &OwnedFd, path: &[u8], links: &mut BTreeMap<u64, Vec<u8>>) {
        for name in names_in(directory) {
            let stat = rustix::fs::statat(directory, &name[..], AtFlags::SYMLINK_NOFOLLOW).unwrap();
            let path = [path, b"/", &name].concat();
            let mut facts = facts(directory, &name, &stat);
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if stat.st_nlink > 1 && !is_directory {
                let first = links.entry(stat.st_ino).or_insert_with(|| path.clone());
                facts.insert("first name".into(), first.escape_ascii().to_string());
            }
            self.0.insert(path.clone(), facts);
            if is_directory {
                self.add(&open_in(directory, &name), &path, links);
            }
        }
    }
}

fn facts(directory: &OwnedFd, name: &[u8], stat: &Stat) -> BTreeMap<String, String> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mut facts = BTreeMap::new();
    let mut note = |name: &str, value: String| facts.insert(name.to_owned(), value);
    note("kind", format!("{kind:?}"));
    note("mode", format!("{:o}", stat.st_mode & 0o7777));
    note("owner", format!("{}:{}", stat.st_uid, stat.st_gid));
    note(
        "mtime",
        format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec),
    );
    match kind {
        FileType::RegularFile => {
            note("size", stat.st_size.to_string());
            let is_sparse = stat.st_blocks * 512 < stat.st_size / 2;
            note("sparse", is_sparse.to_string());
            note(
                "content",
                content(directory, name, stat.st_size.cast_unsigned()),
            );
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(directory, name, Vec::new()).unwrap();
            note("target", target.to_bytes().escape_ascii().to_string());
        }
        FileType::CharacterDevice | FileType::BlockDevice => {
            note("device", format!("{:x}", stat.st_rdev));
        }
        _ => {}
    }
    for (name, value) in xattrs(directory, name) {
        note(&name, value);
    }
    facts
}

/// A hash of all bytes that are not zero, with their places.
fn content(directory: &OwnedFd, name: &[u8], size: u64) -> String {
    let file = rustix::fs::openat(directory, name, OFlags::RDONLY, Mode::empty()).unwrap();
    let file = File::from(file);
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; 64 << 10];
    let mut at = 0;
    while at < size {
        let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) else {
            break;
        };
        at = start - start % block.len() as u64;
        let count = file.read_at(&mut block, at).unwrap();
        for (index, part) in block[..count].chunks(512).enumerate() {
            if part.iter().any(|&byte| byte != 0) {
                hasher
                    .update(&(at + index as u64 * 512).to_le_bytes())
                    .update(part);
            }
        }
        at += block.len() as u64;
    }
    hasher.finalize().to_string()
}

fn xattrs(directory: &OwnedFd, name: &[u8]) -> BTreeMap<String, String> {
    let path = format!("/proc/self/fd/{}/", directory.as_raw_fd());
    let path = [path.as_bytes(), name].concat();
    let mut list = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(&path[..], &mut list[..]).unwrap();
    let names = list[..len]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let len = rustix::fs::lgetxattr(&path[..], name, &mut value[..]).unwrap();
            let value = value[..len].escape_ascii().to_string();
            (String::from_utf8_lossy(name).into_owned(), value)
        })
        .collect()
}

fn names_in(directory: &OwnedFd) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = Dir::read_from(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_bytes().to_vec())
        .filter(|name| name != b"." && name != b"..")
        .collect();
    names.sort();
    names
}

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

fn open_in(directory: impl AsFd, name: &[u8]) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    rustix::fs::openat(directory, name, flags, Mode::empty()).unwrap()
}

#[test]
fn the_comparer_sees_what_was_changed() {
    require_root();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("nasty");
    make(&root);
    let before = Picture::of(&root);
    assert_eq!(before.differences(&Picture::of(&root)), [""; 0]);
    rustix::fs::removexattr(root.join("data/one"), "user.empty").unwrap();
    fs::set_permissions(
        root.join("data/small-4"),
        std::os::unix::fs::PermissionsExt::from_mode(0),
    )
    .unwrap();
    let found = before.differences(&Picture::of(&root));
    let places: Vec<&str> = found
        .iter()
        .filter_map(|line| line.split(": ").next())
        .collect();
    assert_eq!(places, ["/data/one", "/data/small-4"]);
}
