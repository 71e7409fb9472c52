//! The nasty tree through import, publish and unpack, and the same bundle through zstd and GNU tar.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::damage::unpack::{publish, tree_at};
use crate::nasty::{self, Picture};

#[test]
fn everything_survives_our_own_way_and_the_stock_tools() {
    nasty::require_root();
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("nasty");
    nasty::make(&tree);
    let picture = Picture::of(&tree);
    let published = publish(dir, &tree_at(&tree));
    let image = published.dir.path().join("store/images/image");
    assert_eq!(picture.differences(&Picture::of(&image)), [""; 0], "import");

    let ours = published.dir.path().join("ours");
    let restored = published.unpack_into(&ours).unwrap();
    assert_eq!(restored.entries, published.manifest.entries.len() as u64);
    assert_eq!(picture.differences(&Picture::of(&ours)), [""; 0], "unpack");

    let stock = published.dir.path().join("stock");
    std::fs::create_dir(&stock).unwrap();
    unpack_with_stock_tools(&published.bundle, &stock);
    let picture = picture.without_sockets();
    assert_eq!(
        picture.differences(&Picture::of(&stock)),
        [""; 0],
        "stock tools"
    );
}

pub fn unpack_with_stock_tools(bundle: &Path, to: &Path) {
    let mut zstd = Command::new("zstd")
        .args(["-q", "-d", "-c"])
        .arg(bundle)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let tar = Command::new("tar")
        .args([
            "-x",
            "-p",
            "--numeric-owner",
            "--acls",
            "--xattrs",
            "--xattrs-include=*",
        ])
        .arg("-C")
        .arg(to)
        .stdin(zstd.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(
        tar.status.success(),
        "{}",
        String::from_utf8_lossy(&tar.stderr)
    );
    assert!(zstd.wait().unwrap().success());
}
