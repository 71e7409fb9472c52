//! Torrents of trees on disk: what is made is proven, what was changed is named.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use super::*;
use crate::base::event::Events;

fn tree() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("tree");
    fs::create_dir_all(root.join("d/e")).unwrap();
    fs::write(root.join("d/large"), vec![7; 700_000]).unwrap();
    fs::write(root.join("d/e/small"), b"hello").unwrap();
    fs::write(root.join("d/empty"), b"").unwrap();
    fs::write(root.join("a\\x2d é b"), b"odd name").unwrap();
    fs::write(root.join("run"), vec![8; 300_000]).unwrap();
    fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../run", root.join("d/link")).unwrap();
    (directory, root)
}

fn made(path: &Path, options: &CreateOptions) -> Metainfo {
    create(path, options, 2, &Events::ignore()).unwrap()
}

fn proven(torrent: &Metainfo, path: &Path) -> Proof {
    verify(torrent, path, 2, &Events::ignore()).unwrap()
}

#[test]
fn a_tree_is_made_and_proven_in_every_form() {
    let (_directory, root) = tree();
    for forms in [Forms::V1, Forms::V2, Forms::Hybrid] {
        let options = CreateOptions {
            forms,
            piece_length: Some(1 << 16),
            ..CreateOptions::default()
        };
        let torrent = made(&root, &options);
        assert_eq!(torrent, made(&root, &options), "no clock, no chance");
        assert!(torrent.info().is_private());
        assert_eq!(torrent.info().name(), b"tree");
        assert_eq!(torrent.info().layout().content_len(), 1_000_013);
        let path = root.parent().unwrap().join("t.torrent");
        save(&torrent, &path).unwrap();
        assert_eq!(load(&path).unwrap(), torrent);
        let proof = proven(&torrent, &root);
        assert!(proof.is_whole(), "{proof:?}");
        assert_eq!(proof.pieces, 1 + 1 + 11 + 5);
    }
}

#[test]
fn what_was_changed_is_named() {
    let (_directory, root) = tree();
    let options = CreateOptions {
        piece_length: Some(1 << 16),
        ..CreateOptions::default()
    };
    let torrent = made(&root, &options);
    let mut large = vec![7; 700_000];
    large[200_000] = 8;
    fs::write(root.join("d/large"), &large).unwrap();
    let proof = proven(&torrent, &root);
    assert_eq!(proof.bad.iter().map(|p| p.get()).collect::<Vec<_>>(), [5]);
    assert_eq!(proof.wrong, Vec::<String>::new());
    fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(root.join("d/link")).unwrap();
    symlink("../d", root.join("d/link")).unwrap();
    fs::remove_file(root.join("d/e/small")).unwrap();
    fs::write(root.join("d/empty"), b"1").unwrap();
    let proof = proven(&torrent, &root);
    assert_eq!(proof.wrong, ["d/e/small", "d/empty", "d/link", "run"]);
    assert_eq!(proof.bad.len(), 2);
    assert!(!proof.is_whole());
}

#[test]
fn a_file_is_made_and_proven_alone() {
    let (_directory, root) = tree();
    let torrent = made(&root.join("run"), &CreateOptions::default());
    assert_eq!(torrent.info().name(), b"run");
    assert!(!torrent.info().is_multi());
    assert!(proven(&torrent, &root.join("run")).is_whole());
    assert!(proven(&torrent, &root).is_whole(), "the directory it is in");
    let proof = proven(&torrent, &root.join("d/large"));
    assert_eq!(proof.wrong.len(), 1);
    assert_eq!(proof.bad.len(), 2);
}

#[test]
fn what_a_torrent_cannot_say_is_named() {
    let refused = |root: &Path| {
        let error = create(root, &CreateOptions::default(), 1, &Events::ignore()).unwrap_err();
        error.to_string()
    };
    let (_directory, root) = tree();
    symlink("/etc/passwd", root.join("d/out")).unwrap();
    assert!(refused(&root).contains("d/out: the link leads out"));
    fs::remove_file(root.join("d/out")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("sock")).unwrap();
    assert!(refused(&root).contains("sock: it is a socket"));
    let empty = root.join("d/e");
    fs::remove_file(empty.join("small")).unwrap();
    assert!(refused(&empty).contains("no sound torrent"));
}
