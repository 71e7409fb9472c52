//! Pieces over the seams of files, and what must not be opened.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::swarm::bencode::{DictWriter, ListWriter};
use crate::swarm::metainfo::Info;

/// Four pieces of 16 KiB: `x/1`, padding, an empty file, `y` and a link to it in `x`.
fn torrent() -> Arc<Metainfo> {
    let mut dict = DictWriter::new();
    dict.bytes(b"name", b"all")
        .int(b"piece length", 16384)
        .bytes(b"pieces", &[0; 80]);
    let mut files = ListWriter::new();
    for (name, len, attr) in [
        ("x/1", 20_000, "x"),
        (".pad/12768", 12_768, "p"),
        ("x/empty", 0, ""),
        ("y", 32_768, ""),
        ("x/link", 0, "l"),
    ] {
        let (mut file, mut path) = (DictWriter::new(), ListWriter::new());
        name.split('/').for_each(|part| {
            path.bytes(part.as_bytes());
        });
        file.int(b"length", len).list(b"path", path);
        if !attr.is_empty() {
            file.bytes(b"attr", attr.as_bytes());
        }
        if attr == "l" {
            let mut target = ListWriter::new();
            target.bytes(b"y");
            file.list(b"symlink path", target);
        }
        files.dict(file);
    }
    dict.list(b"files", files);
    let info = Info::parse(dict.finish().into()).unwrap();
    Arc::new(Metainfo::from_info(info))
}

#[test]
fn what_is_written_over_seams_is_read_again_and_is_in_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("all");
    fs::create_dir(&root).unwrap();
    let files = Files::open(&torrent(), &root).unwrap().make().unwrap();
    let bytes: Vec<u8> = (0..65_536_u32).map(|at| (at % 251) as u8 + 1).collect();
    for (at, piece) in bytes.chunks(10_000).enumerate() {
        files.write_at(piece, at as u64 * 10_000).unwrap();
    }
    files.finish(Mode::from_raw_mode(0o750)).unwrap();
    let (one, y) = (&bytes[..20_000], &bytes[32_768..]);
    assert_eq!(fs::read(root.join("x/1")).unwrap(), one);
    assert_eq!(fs::read(root.join("y")).unwrap(), y);
    assert_eq!(fs::read(root.join("x/link")).unwrap(), y);
    assert_eq!(
        fs::read_link(root.join("x/link")).unwrap(),
        Path::new("../y")
    );
    assert_eq!(fs::read(root.join("x/empty")).unwrap(), b"");
    assert!(!root.join(".pad").exists());
    let mode = |name: &str| fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o7777;
    let modes = ["x/1", "y", "x", ""].map(mode);
    assert_eq!(modes, [0o750, 0o640, 0o750, 0o750]);
    files.finish(Mode::from_raw_mode(0o750)).unwrap();

    let mut expected = bytes;
    expected[20_000..32_768].fill(0);
    let read = Files::open(&torrent(), &root).unwrap();
    for (at, piece) in expected.chunks(7_777).enumerate() {
        let mut got = vec![9; piece.len()];
        read.read_at(&mut got, at as u64 * 7_777).unwrap();
        assert_eq!(got, piece);
    }
    assert_eq!(read.stranger(&root).unwrap(), None);
    fs::write(root.join("x/z"), "").unwrap();
    assert_eq!(read.stranger(&root).unwrap(), Some(b"x/z".to_vec()));
}

#[test]
fn nothing_is_written_through_links() {
    let dir = tempfile::tempdir().unwrap();
    let (root, other) = (dir.path().join("all"), dir.path().join("other"));
    fs::create_dir_all(&root).unwrap();
    fs::create_dir_all(&other).unwrap();
    symlink(&other, root.join("x")).unwrap();
    assert!(Files::open(&torrent(), &root).unwrap().make().is_err());
    assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
    fs::remove_file(root.join("x")).unwrap();
    fs::write(other.join("file"), "mine").unwrap();
    symlink(other.join("file"), root.join("y")).unwrap();
    assert!(Files::open(&torrent(), &root).unwrap().make().is_err());
    assert_eq!(fs::read(other.join("file")).unwrap(), b"mine");
}

#[test]
fn a_file_that_is_too_short_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("x")).unwrap();
    fs::write(dir.path().join("x/1"), vec![1; 19_999]).unwrap();
    let files = Files::open(&torrent(), dir.path()).unwrap();
    let mut bytes = vec![0; 20_000];
    let error = files.read_at(&mut bytes, 0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    files.read_at(&mut bytes[..19_999], 0).unwrap();
    assert!(files.read_at(&mut bytes, 40_000).is_err(), "y is missing");
}
