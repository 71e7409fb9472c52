//! Unpacking when the bundle, the target or the time is against it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use flashover::base::PieceIndex;
use flashover::base::event::Events;
use flashover::capture::import::{Origin, import};
use flashover::capture::{self, Store};
use flashover::image::{ImageName, Manifest};
use flashover::install::{self, Error, ErrorKind, Options, Target, Unpacker};
use flashover::tree::ScanOptions;

use crate::nasty;

/// A store with one published image.
pub struct Published {
    pub dir: tempfile::TempDir,
    pub manifest: Arc<Manifest>,
    pub bundle: std::path::PathBuf,
}

/// Imports and publishes.
pub fn publish(dir: tempfile::TempDir, origin: &Origin) -> Published {
    let store = Store::open(dir.path().join("store"));
    let name: ImageName = "image".parse().unwrap();
    let copied = import(&store, &name, origin, false).unwrap();
    assert!(
        copied.changed.is_empty() && copied.refused.is_empty(),
        "{copied:?}"
    );
    store.generate_key(false).unwrap();
    let options = capture::Options::default();
    let published = capture::publish(&store, &name, &options, &Events::ignore()).unwrap();
    Published {
        dir,
        manifest: Arc::new(published.manifest),
        bundle: published.bundle,
    }
}

pub fn tree_at(path: &Path) -> Origin {
    Origin::Tree {
        path: path.to_owned(),
        options: ScanOptions::default(),
    }
}

impl Published {
    pub fn unpack(&self, target: &Target, options: &Options) -> install::Result<install::Restored> {
        let bundle = Arc::new(std::fs::File::open(&self.bundle).unwrap());
        let unpacker = Unpacker::start(Arc::clone(&self.manifest), bundle, target, options)?;
        self.manifest
            .geometry
            .pieces()
            .for_each(|piece| unpacker.piece_ready(piece));
        unpacker.finish()
    }

    pub fn unpack_into(&self, path: &Path) -> install::Result<install::Restored> {
        self.unpack(&Target::Directory(path.to_owned()), &Options::default())
    }
}

fn files(count: usize, size: usize) -> Published {
    nasty::require_root();
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    for index in 0..count {
        std::fs::write(tree.join(format!("file-{index}")), nasty::noise(size)).unwrap();
    }
    publish(dir, &tree_at(&tree))
}

pub fn run(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command} {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// A mounted file system, unmounted when dropped.
pub struct Mount<'a>(&'a Path);

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

pub fn mount_tmpfs<'a>(at: &'a Path, options: &str) -> Mount<'a> {
    std::fs::create_dir_all(at).unwrap();
    run(
        "mount",
        &["-t", "tmpfs", "-o", options, "tmpfs", at.to_str().unwrap()],
    );
    Mount(at)
}

#[test]
fn a_full_target_is_named() {
    let published = files(20, 1 << 20);
    let at = published.dir.path().join("small");
    let mount = mount_tmpfs(&at, "size=8m");
    let error = published.unpack_into(&at.join("root")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.to_string().starts_with("Cannot "), "{error}");
    drop(mount);
    let mount = mount_tmpfs(&at, "size=64m");
    published.unpack_into(&at.join("root")).unwrap();
    drop(mount);
}

#[test]
fn a_read_only_target_is_named() {
    let published = files(1, 10);
    let at = published.dir.path().join("fixed");
    let mount = mount_tmpfs(&at, "ro");
    let error = published.unpack_into(&at.join("root")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
    drop(mount);
}

#[test]
fn every_damaged_place_of_a_bundle_is_found() {
    use std::os::unix::fs::FileExt as _;
    let published = files(30, 100_000);
    let frames = *published.manifest.frame_offsets().last().unwrap();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&published.bundle)
        .unwrap();
    for step in 0..8 {
        let at = frames * step / 8 + 10;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        let threads = 2;
        let bad = capture::verify::bad_pieces(&published.bundle, &published.manifest, threads);
        let piece = at >> published.manifest.geometry.piece_log2();
        let expected = [PieceIndex::new(u32::try_from(piece).unwrap())];
        assert_eq!(bad.unwrap(), expected);
        let target = published.dir.path().join(format!("root-{step}"));
        if let Err(error) = published.unpack_into(&target) {
            assert_eq!(error.kind(), ErrorKind::Integrity, "byte {at}: {error}");
        } else {
            // The byte belongs to a tar header, which no file is made of.
            let tree = nasty::Picture::of(&published.dir.path().join("tree"));
            assert_eq!(
                tree.differences(&nasty::Picture::of(&target)),
                [""; 0],
                "byte {at}"
            );
        }
        file.write_all_at(&byte, at).unwrap();
    }
    file.set_len(frames / 2).unwrap();
    let error = published
        .unpack_into(&published.dir.path().join("cut"))
        .unwrap_err();
    assert!(matches!(error, Error::Source { .. }), "{error}");
}

#[test]
fn a_device_in_use_or_too_small_is_left_as_it_is() {
    nasty::require_root();
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::write(&disk, nasty::noise(3 << 20)).unwrap();
    let file = std::fs::File::options().write(true).open(&disk).unwrap();
    file.set_len(40 << 20).unwrap();
    let published = publish(dir, &Origin::Disk { path: disk.clone() });

    let device = Loop::new(&published.dir.path().join("small"), 20 << 20);
    let target = Target::Device(device.0.clone().into());
    let before = std::fs::read(&device.0).unwrap();
    let error = published.unpack(&target, &Options::default()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooSmall {
                has: 0x140_0000,
                needs: 0x280_0000,
                ..
            }
        ),
        "{error}"
    );
    assert!(before == std::fs::read(&device.0).unwrap());
    drop(device);

    let device = Loop::new(&published.dir.path().join("large"), 50 << 20);
    let target = Target::Device(device.0.clone().into());
    run("mkfs.ext4", &["-q", &device.0]);
    let at = published.dir.path().join("mounted");
    std::fs::create_dir(&at).unwrap();
    run("mount", &[&device.0, at.to_str().unwrap()]);
    let mount = Mount(&at);
    let error = published.unpack(&target, &Options::default()).unwrap_err();
    assert!(matches!(error, Error::InUse(_)), "{error}");
    drop(mount);
    published.unpack(&target, &Options::default()).unwrap();
    let restored = std::fs::read(&device.0).unwrap();
    assert!(restored[..40 << 20] == std::fs::read(&disk).unwrap());
}

/// A loop device over a new file full of ones.
pub struct Loop(pub String);

impl Loop {
    pub fn new(file: &Path, size: usize) -> Self {
        std::fs::write(file, vec![0xff; size]).unwrap();
        let shown = run("losetup", &["--find", "--show", file.to_str().unwrap()]);
        Self(shown.trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}
