//! Torrents next to libtorrent, the reference of the field: a corpus of sound and hostile ones,
//! made here, has to get the same verdict and the same names from both.

mod corpus;
mod metadata;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use flashover::base::event::Events;
use flashover::capture::torrent::{CreateOptions, Forms, create, save};
use flashover::swarm::{InfoHash, Metainfo};

/// What is said of a torrent: nothing, or its names, the size of its pieces and their number.
type Verdict = Option<(Option<String>, Option<String>, u64, u64)>;

#[test]
fn libtorrent_gives_the_same_verdict_on_every_torrent_of_the_corpus() {
    let corpus = corpus::all();
    assert!(corpus.len() >= 100, "{} torrents", corpus.len());
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in &corpus {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let theirs = libtorrent(dir.path());
    let mut accepted = 0;
    let mut differ = Vec::new();
    let mut excepted = Vec::new();
    for (name, bytes) in &corpus {
        let ours = verdict(bytes);
        accepted += usize::from(ours.is_some());
        if ours == theirs[name] {
            continue;
        }
        let stricter = ours.is_none() && name.starts_with(corpus::EXCEPTION);
        let list = if stricter { &mut excepted } else { &mut differ };
        list.push(format!("{name}: {ours:?}, libtorrent {:?}", theirs[name]));
    }
    println!("{} torrents, {accepted} of them sound", corpus.len());
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    let marked = corpus
        .keys()
        .filter(|name| name.starts_with(corpus::EXCEPTION));
    assert_eq!(excepted.len(), marked.count(), "each is one: {excepted:?}");
    assert!(
        accepted >= 40 && corpus.len() - accepted >= 40,
        "{accepted}"
    );
}

#[test]
fn libtorrent_knows_our_torrents_by_our_names() {
    let tree = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(tree.path().join("d/e")).unwrap();
    std::fs::write(tree.path().join("d/e/large"), vec![3; 900_000]).unwrap();
    std::fs::write(tree.path().join("d/small"), b"small").unwrap();
    std::fs::write(tree.path().join("empty"), b"").unwrap();
    std::os::unix::fs::symlink("d/small", tree.path().join("link")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut ours = BTreeMap::new();
    for (form, forms) in [
        ("v1", Forms::V1),
        ("v2", Forms::V2),
        ("both", Forms::Hybrid),
    ] {
        for (kind, path) in [("tree", ""), ("file", "d/e/large"), ("small", "d/small")] {
            let options = CreateOptions {
                name: Some("name".to_owned()),
                piece_length: Some(1 << 16),
                forms,
                ..CreateOptions::default()
            };
            let path = tree.path().join(path);
            let torrent = create(&path, &options, 2, &Events::ignore()).unwrap();
            let name = format!("{form}-{kind}");
            save(&torrent, &dir.path().join(&name)).unwrap();
            ours.insert(name, verdict(&torrent.emit()));
        }
    }
    assert_eq!(libtorrent(dir.path()), ours);
}

fn verdict(bytes: &[u8]) -> Verdict {
    let torrent = Metainfo::parse(bytes).ok()?;
    let (names, layout) = (torrent.info().names(), torrent.info().layout());
    Some((
        names.v1().map(|hash| InfoHash::V1(hash).to_string()),
        names.v2().map(|hash| InfoHash::V2(hash).to_string()),
        layout.piece_length().into(),
        layout.piece_count().into(),
    ))
}

/// What libtorrent says of the torrents in a folder.
fn libtorrent(dir: &Path) -> BTreeMap<String, Verdict> {
    let output = Command::new(python())
        .args(["-c", SCRIPT])
        .arg(dir)
        .output()
        .expect("python3 is there; tools/test installs it");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "libtorrent is there for Python; tools/test installs it: {stderr}"
    );
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

/// The Python that `tools/test` gave libtorrent, or else the system's.
pub(super) fn python() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let own = target
        .unwrap_or_else(|| package.join("target"))
        .join("python/bin/python3");
    if own.exists() {
        own
    } else {
        PathBuf::from("python3")
    }
}

const SCRIPT: &str = r#"
import json, os, sys
import libtorrent
said = {}
for name in os.listdir(sys.argv[1]):
    with open(os.path.join(sys.argv[1], name), "rb") as file:
        data = file.read()
    try:
        info = libtorrent.load_torrent_buffer(data).ti
        names = info.info_hashes()
        said[name] = [
            str(names.v1) if names.has_v1() else None,
            str(names.v2) if names.has_v2() else None,
            info.piece_length(),
            info.num_pieces(),
        ]
    except RuntimeError:
        said[name] = None
json.dump(said, sys.stdout)
"#;
