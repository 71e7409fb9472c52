//! `flashover torrent`, and the torrent that publishing writes.

use std::fs;
use std::path::Path;

use super::process::{Ended, flashover, run};

fn at(dir: &Path, arguments: &[&str]) -> Ended {
    let mut command = flashover();
    command.args(arguments).current_dir(dir);
    command.env("FLASHOVER_STORE", dir.join("store"));
    run(command)
}

fn good(dir: &Path, arguments: &[&str]) -> Ended {
    let ended = at(dir, arguments);
    assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
    ended
}

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("tree/d")).unwrap();
    fs::write(dir.path().join("tree/d/large"), vec![5; 600_000]).unwrap();
    fs::write(dir.path().join("tree/small"), "small").unwrap();
    dir
}

#[test]
fn what_create_writes_is_shown_and_verified() {
    let dir = tree();
    let create = [
        "torrent",
        "create",
        "tree",
        "--piece-size",
        "64k",
        "--tracker",
        "http://head:7080/announce",
        "--tracker",
        "udp://head:7080",
        "--web-seed",
        "http://head/tree/",
        "--comment",
        "a tree",
    ];
    let text = good(dir.path(), &create).stdout;
    assert!(text.contains("wrote    tree.torrent"), "{text}");
    let shown = good(dir.path(), &["torrent", "show", "tree.torrent", "--json"]).json();
    assert_eq!(shown["files"].as_array().unwrap().len(), 2);
    assert_eq!(shown["files"][0]["path"], "tree/d/large");
    assert_eq!(shown["content_bytes"], 600_005);
    assert_eq!(shown["pieces"], 11);
    assert_eq!(shown["private"], true);
    assert_eq!(
        shown["trackers"],
        serde_json::json!([["http://head:7080/announce"], ["udp://head:7080"]])
    );
    let (v1, v2) = (shown["infohash_v1"].as_str(), shown["infohash_v2"].as_str());
    let magnet = good(dir.path(), &["torrent", "magnet", "tree.torrent"]).stdout;
    let start = format!(
        "magnet:?xt=urn:btih:{}&xt=urn:btmh:1220{}&dn=tree&tr=http%3A%2F%2Fhead",
        v1.unwrap(),
        v2.unwrap()
    );
    assert!(magnet.starts_with(&start), "{magnet}");
    good(dir.path(), &["torrent", "verify", "tree.torrent", "tree"]);
    let again = at(dir.path(), &create);
    assert_eq!(again.code, Some(8), "{again:?}");

    let mut large = vec![5; 600_000];
    large[70_000] = 6;
    fs::write(dir.path().join("tree/d/large"), large).unwrap();
    fs::remove_file(dir.path().join("tree/small")).unwrap();
    let verify = ["torrent", "verify", "tree.torrent", "tree", "--json"];
    let bad = at(dir.path(), &verify);
    assert_eq!(bad.code, Some(4), "{bad:?}");
    assert_eq!(bad.json()["bad_pieces"], serde_json::json!([1, 10]));
    assert_eq!(bad.json()["wrong"], serde_json::json!(["small"]));
}

#[test]
fn one_version_alone_and_other_names_are_made() {
    let dir = tree();
    for (flag, has) in [("--v1", (true, false)), ("--v2", (false, true))] {
        let output = format!("x{flag}.torrent");
        let create = [
            "torrent",
            "create",
            "tree/d/large",
            flag,
            "--public",
            "--name",
            "other",
            "-o",
            &output,
            "--json",
        ];
        let made = good(dir.path(), &create).json();
        let is = |key: &str| made[key].is_string();
        assert_eq!((is("infohash_v1"), is("infohash_v2")), has);
        assert_eq!(made["name"], "other");
        assert_eq!(made["private"], false);
        good(dir.path(), &["torrent", "verify", &output, "tree/d/large"]);
    }
}

#[test]
fn what_is_no_torrent_is_refused_by_its_own_code() {
    let dir = tree();
    fs::write(dir.path().join("bad.torrent"), "d4:infoi1ee").unwrap();
    let refused = at(dir.path(), &["torrent", "show", "bad.torrent"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.stderr.contains("no sound torrent"), "{refused:?}");
    let missing = at(dir.path(), &["torrent", "magnet", "none.torrent"]);
    assert_eq!(missing.code, Some(7), "{missing:?}");
    std::os::unix::fs::symlink("/", dir.path().join("tree/out")).unwrap();
    let link = at(dir.path(), &["torrent", "create", "tree"]);
    assert_eq!(link.code, Some(8), "{link:?}");
    let size = at(
        dir.path(),
        &["torrent", "create", "tree", "--piece-size", "3m"],
    );
    assert_eq!(size.code, Some(2), "{size:?}");
}

#[test]
fn a_publication_has_its_torrent_until_it_is_removed() {
    let dir = tree();
    good(dir.path(), &["image", "import", "t", "--tree", "tree"]);
    let published = good(dir.path(), &["image", "publish", "t", "--json"]).json();
    let torrent = dir.path().join("store/bundles/t-1.torrent");
    let bytes = fs::read(&torrent).unwrap();
    let shown = good(dir.path(), &["image", "show", "t", "--json"]).json();
    assert_eq!(shown["publications"][0]["torrent"], published["torrent"]);
    let text = good(dir.path(), &["image", "show", "t"]).stdout;
    let magnet = published["torrent"]["magnet"].as_str().unwrap();
    assert!(text.contains(magnet), "{text}");
    assert!(magnet.contains("&dn=t-1.tar.zst"), "{magnet}");
    let verify = ["torrent", "verify", "store/bundles/t-1.torrent"];
    let bundle = "store/bundles/t-1.tar.zst";
    good(dir.path(), &[&verify[..], &[bundle]].concat());
    assert_eq!(
        good(dir.path(), &["image", "verify", "t", "--json"]).json()["torrent_ok"],
        true
    );

    // What a version before torrents published gets one when it is published again.
    fs::remove_file(&torrent).unwrap();
    assert!(good(dir.path(), &["image", "verify", "t", "--json"]).json()["torrent_ok"].is_null());
    let again = good(dir.path(), &["image", "publish", "t", "--json"]).json();
    assert_eq!(again["unchanged"], true);
    assert_eq!(fs::read(&torrent).unwrap(), bytes);

    let other = ["torrent", "create", "tree/small", "--force", "-o"];
    good(
        dir.path(),
        &[&other[..], &["store/bundles/t-1.torrent"]].concat(),
    );
    let refused = at(dir.path(), &["image", "verify", "t"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    good(dir.path(), &["image", "remove", "t", "--yes"]);
    assert!(!torrent.exists());
}
