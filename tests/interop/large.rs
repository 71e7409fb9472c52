//! A file that is too long for 32 bits and has no holes. Takes its time and 5 GiB of disk, so it
//! runs with the slow tests, in the build directory.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use flashover::base::event::Events;
use flashover::capture::{self, ImageKind, Store};
use flashover::image::{EntryKind, Hash, ImageName};
use flashover::install::{Options, Target, Unpacker};

use crate::nasty;

/// Ends in the middle of a chunk.
const BYTES: u64 = (4 << 30) + (1 << 20) + 65_537;
const BLOCK_BYTES: usize = 64 << 10;

/// Writes blocks that differ by a number at their front; gives the hash of them all.
fn write(path: &Path) -> Hash {
    let mut block = nasty::noise(4096).repeat(BLOCK_BYTES / 4096);
    let mut hasher = blake3::Hasher::new();
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let (mut rest, mut count) = (BYTES, 1u64);
    while rest > 0 {
        block[..8].copy_from_slice(&count.to_le_bytes());
        let now = &block[..rest.min(BLOCK_BYTES as u64) as usize];
        file.write_all(now).unwrap();
        hasher.update(now);
        rest -= now.len() as u64;
        count += 1;
    }
    file.flush().unwrap();
    Hash(*hasher.finalize().as_bytes())
}

#[test]
fn a_dense_file_beyond_32_bits_survives() {
    nasty::require_root();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Store::open(dir.path().join("store"));
    let name: ImageName = "image".parse().unwrap();
    store.generate_key(false).unwrap();
    let tree = store.image_path(&name, ImageKind::Tree);
    std::fs::create_dir_all(&tree).unwrap();
    let expected = write(&tree.join("large"));

    let options = capture::Options::default();
    let published = capture::publish(&store, &name, &options, &Events::ignore()).unwrap();
    let manifest = Arc::new(published.manifest);
    let EntryKind::File { size, hash, data } = &manifest.entries[1].kind else {
        panic!("it is a file");
    };
    assert_eq!((*size, *hash, data), (BYTES, expected, &None));
    assert_eq!(manifest.data_size(), BYTES);
    // It must not find its way into the comparison, nor take room.
    std::fs::remove_file(tree.join("large")).unwrap();

    let ours = dir.path().join("ours");
    let bundle = Arc::new(File::open(&published.bundle).unwrap());
    let target = Target::Directory(ours.clone());
    let unpacker = Unpacker::start(Arc::clone(&manifest), bundle, &target, &Options::default());
    let unpacker = unpacker.unwrap();
    let pieces = manifest.geometry.pieces();
    pieces.for_each(|piece| unpacker.piece_ready(piece));
    let restored = unpacker.finish().unwrap();
    assert_eq!(restored.bytes_verified, BYTES);
    same_as_stock_tools_say(&published.bundle, &ours);
}

/// Compares the bundle, read by stock tools, with what was unpacked.
fn same_as_stock_tools_say(bundle: &Path, tree: &Path) {
    let mut zstd = Command::new("zstd")
        .args(["-q", "-d", "-c"])
        .arg(bundle)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-d", "-C"]).arg(tree);
    let tar = tar.stdin(zstd.stdout.take().unwrap()).output().unwrap();
    assert!(zstd.wait().unwrap().success());
    assert!(tar.status.success(), "{tar:?}");
    assert!(tar.stdout.is_empty(), "{tar:?}");
}
