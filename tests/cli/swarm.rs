//! `flashover seed` and `fetch`, as a user runs them.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::process::{Running, flashover, run};
use super::web::{WebServer, saying};

fn at(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = flashover();
    command.args(arguments).current_dir(dir);
    command
}

/// A directory with a file of a few pieces and its torrent.
fn content() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..9_000_000_u32)
        .map(|at| (at / 977 + at % 251) as u8)
        .collect();
    fs::write(dir.path().join("data"), bytes).unwrap();
    let create = at(
        dir.path(),
        &["torrent", "create", "data", "--piece-size", "256k"],
    );
    assert_eq!(run(create).code, Some(0));
    dir
}

/// A seed, and where it listens.
fn seed(dir: &Path, more: &[&str]) -> (Running, String) {
    let arguments = [
        "seed",
        "data.torrent",
        "--listen",
        "127.0.0.1:0",
        "--json-lines",
    ];
    let mut seed = Running::start(at(dir, &[&arguments, more].concat()));
    let said = seed.says(|said| said.contains("Seeding"));
    let mut address = said
        .split_whitespace()
        .filter_map(|word| word.trim_end_matches(['"', '}']).parse::<SocketAddr>().ok());
    let address = address
        .next_back()
        .expect("it says where it listens")
        .to_string();
    (seed, address)
}

fn fetch(dir: &Path, peer: &str, more: &[&str]) -> Command {
    let arguments = ["fetch", "data.torrent", "--into", "got", "--peer", peer];
    let rest = ["--listen", "127.0.0.1:0", "--seed-time", "0s", "--json"];
    at(dir, &[&arguments[..], &rest, more].concat())
}

#[test]
fn what_is_seeded_is_fetched_and_proven() {
    let dir = content();
    let (seed, address) = seed(dir.path(), &[]);
    let ended = run(fetch(dir.path(), &address, &[]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report = ended.json();
    assert_eq!(report["bytes"], 9_000_000);
    assert_eq!(report["bytes_in"], 9_000_000);
    assert_eq!(report["bytes_wasted"], 0);
    let path = |name| dir.path().join(name);
    assert_eq!(
        fs::read(path("got")).unwrap(),
        fs::read(path("data")).unwrap()
    );
    assert!(!path("got.part").exists());
    let again = run(fetch(dir.path(), &address, &[]));
    assert_eq!(again.code, Some(8), "a file that is there stays: {again:?}");
    seed.signal(Signal::TERM);
    let ended = seed.ends();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("\"bytes_out\":9000000"), "{ended:?}");
}

/// kill -9 at half: what was proven is not fetched again.
#[test]
fn a_killed_fetch_goes_on() {
    let dir = content();
    let (_seed, address) = seed(dir.path(), &["--up-max", "40mbit"]);
    let mut first = Running::start(at(
        dir.path(),
        &[
            "fetch",
            "data.torrent",
            "--into",
            "got",
            "--peer",
            &address,
            "--listen",
            "127.0.0.1:0",
            "--json-lines",
        ],
    ));
    first.says(|said| {
        said.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .any(|event: serde_json::Value| event["bytes_done"].as_u64() > Some(3_000_000))
    });
    first.signal(Signal::KILL);
    drop(first);
    let ended = run(fetch(dir.path(), &address, &[]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report = ended.json();
    let (resumed, fetched) = (&report["bytes_resumed"], &report["bytes_in"]);
    let sum = resumed.as_u64().unwrap() + fetched.as_u64().unwrap();
    assert_eq!(sum, 9_000_000, "{report}");
    assert!(resumed.as_u64() > Some(2_900_000), "{report}");
}

#[test]
fn damaged_content_is_not_seeded() {
    let dir = content();
    let path = dir.path().join("data");
    let mut bytes = fs::read(&path).unwrap();
    bytes[5_000_000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let ended = run(at(
        dir.path(),
        &["seed", "data.torrent", "--listen", "127.0.0.1:0"],
    ));
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stderr.contains("1 of 35 pieces"), "{ended:?}");
}

/// Nobody is there: it says so in time, and keeps what it has.
#[test]
fn a_fetch_without_peers_gives_up_in_time() {
    let dir = content();
    let ended = run(fetch(dir.path(), "127.0.0.1:9", &["--deadline", "1s"]));
    assert_eq!(ended.code, Some(6), "{ended:?}");
    assert!(ended.stderr.contains("35 pieces are missing"), "{ended:?}");
    assert!(dir.path().join("got.part").exists());
}

#[test]
fn a_magnet_link_is_enough() {
    let dir = content();
    let (_seed, address) = seed(dir.path(), &[]);
    let link = run(at(dir.path(), &["torrent", "magnet", "data.torrent"])).stdout;
    let ended = run(at(
        dir.path(),
        &[
            "fetch",
            link.trim(),
            "--into",
            "got",
            "--peer",
            &address,
            "--listen",
            "127.0.0.1:0",
            "--seed-time",
            "0s",
            "--deadline",
            "30s",
        ],
    ));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let path = |name| dir.path().join(name);
    assert_eq!(
        fs::read(path("got")).unwrap(),
        fs::read(path("data")).unwrap()
    );
    let nobody = run(at(
        dir.path(),
        &[
            "fetch",
            link.trim(),
            "--into",
            "other",
            "--peer",
            "127.0.0.1:9",
            "--deadline",
            "1s",
        ],
    ));
    assert_eq!(nobody.code, Some(6), "{nobody:?}");
}

/// The v2 name alone is enough too, for one file and for a directory of several.
#[test]
fn a_magnet_link_of_version_2_is_enough() {
    for forms in [&["--v2"][..], &[]] {
        let (dir, _seed, address) = tree(forms);
        let link = run(at(dir.path(), &["torrent", "magnet", "data.torrent"])).stdout;
        let topic = link
            .split(['?', '&'])
            .find(|part| part.contains("urn:btmh:"));
        let link = format!("magnet:?{}", topic.unwrap().trim());
        let arguments = ["fetch", &link, "--into", "got", "--peer", &address];
        let rest = ["--listen", "127.0.0.1:0", "--seed-time", "0s"];
        let rest = [&rest[..], &["--deadline", "30s"]].concat();
        let ended = run(at(dir.path(), &[&arguments[..], &rest].concat()));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let path = |name| dir.path().join(name);
        assert_eq!(listing(&path("got")), listing(&path("data")), "{forms:?}");
    }
}

#[test]
fn a_torrent_is_fetched_from_a_web_server() {
    let dir = content();
    let (_seed, address) = seed(dir.path(), &[]);
    let torrent = fs::read(dir.path().join("data.torrent")).unwrap();
    let ok = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        torrent.len()
    );
    let cut = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\nd8:",
        torrent.len()
    );
    let moved = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\n\r\n";
    for (answer, code, word) in [
        ([ok.as_bytes(), &torrent].concat(), 0, ""),
        (cut.into_bytes(), 6, "cannot be fetched"),
        (moved.into(), 6, "redirects are not followed"),
        (b"HTTP/1.1 404 No\r\n\r\n".to_vec(), 6, "404"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nle".to_vec(),
            2,
            "no sound torrent",
        ),
    ] {
        let url = format!("http://{}/data.torrent", saying(answer));
        let arguments = ["fetch", &url, "--into", "got", "--peer", &address];
        let rest = ["--listen", "127.0.0.1:0", "--seed-time", "0s"];
        let rest = [&rest[..], &["--deadline", "30s"]].concat();
        let ended = run(at(dir.path(), &[&arguments[..], &rest].concat()));
        assert_eq!(ended.code, Some(code), "{word}: {ended:?}");
        assert!(ended.stderr.contains(word), "{word}: {ended:?}");
    }
    let path = |name| dir.path().join(name);
    assert_eq!(
        fs::read(path("got")).unwrap(),
        fs::read(path("data")).unwrap()
    );
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let late = ["fetch", &url, "--into", "other", "--deadline", "1s"];
    let ended = run(at(dir.path(), &late));
    assert_eq!(ended.code, Some(6), "{ended:?}");
    assert!(ended.stderr.contains("in time"), "{ended:?}");
    let ended = run(at(dir.path(), &["fetch", "https://h/x", "--into", "other"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
}

/// A seed calls a peer that is named, which knows nobody.
#[test]
fn a_seed_calls_whom_the_user_names() {
    let dir = content();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().to_string();
    drop(free);
    let (_seed, _) = seed(dir.path(), &["--peer", &port]);
    let arguments = ["fetch", "data.torrent", "--into", "got", "--listen", &port];
    let rest = ["--seed-time", "0s", "--deadline", "60s", "--json"];
    let ended = run(at(dir.path(), &[&arguments[..], &rest].concat()));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.json()["bytes_in"], 9_000_000);
}

/// Without any peer everything comes from the torrent's web seed.
#[test]
fn a_web_seed_is_enough() {
    let dir = content();
    let server = WebServer::start(fs::read(dir.path().join("data")).unwrap());
    let url = server.url();
    fs::remove_file(dir.path().join("data.torrent")).unwrap();
    let create = at(
        dir.path(),
        &[
            "torrent",
            "create",
            "data",
            "--piece-size",
            "256k",
            "--web-seed",
            &url,
        ],
    );
    assert_eq!(run(create).code, Some(0));
    let refused = run(fetch_alone(
        dir.path(),
        &["--no-web-seeds", "--deadline", "3s"],
    ));
    assert_eq!(
        (refused.code, server.requests()),
        (Some(6), 0),
        "{refused:?}"
    );
    let ended = run(fetch_alone(dir.path(), &[]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let report = ended.json();
    assert_eq!(report["bytes_webseed"], 9_000_000);
    assert_eq!(report["bytes_in"], 0);
    assert_eq!(server.requests(), 35, "each piece is asked for once");
    let path = |name| dir.path().join(name);
    assert_eq!(
        fs::read(path("got")).unwrap(),
        fs::read(path("data")).unwrap()
    );
}

#[test]
fn a_web_seed_with_wrong_bytes_is_dropped() {
    let dir = content();
    let bytes = fs::read(dir.path().join("data")).unwrap();
    let mut wrong = bytes.clone();
    wrong
        .iter_mut()
        .step_by(200_000)
        .for_each(|byte| *byte ^= 1);
    let (right, wrong) = (WebServer::start(bytes), WebServer::start(wrong));
    let (right_url, wrong_url) = (right.url(), wrong.url());
    let alone = run(fetch_alone(
        dir.path(),
        &["--web-seed", &wrong_url, "--deadline", "4s"],
    ));
    assert_eq!(alone.code, Some(6), "{alone:?}");
    assert!(alone.stderr.contains("35 pieces are missing"), "{alone:?}");
    let both = ["--web-seed", &wrong_url, "--web-seed", &right_url];
    let ended = run(fetch_alone(dir.path(), &both));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.json()["bytes_webseed"], 9_000_000);
    for ended in [&alone, &ended] {
        let warns = format!("{wrong_url}: ");
        assert!(ended.stderr.contains(&warns), "{ended:?}");
        assert!(!ended.stderr.contains(&right_url), "{ended:?}");
    }
    assert!(wrong.requests() <= 4, "two fetches each time, no more");
    assert_eq!(
        fs::read(dir.path().join("got")).unwrap(),
        fs::read(dir.path().join("data")).unwrap()
    );
}

/// Web servers are spared while a peer brings what is wanted.
#[test]
fn peers_come_before_web_seeds() {
    let dir = content();
    let server = WebServer::start(fs::read(dir.path().join("data")).unwrap());
    let (_seed, address) = seed(dir.path(), &["--up-max", "25mbit"]);
    let ended = run(fetch(dir.path(), &address, &["--web-seed", &server.url()]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.json()["seconds"].as_f64() > Some(2.5), "{ended:?}");
    assert_eq!(ended.json()["bytes_in"], 9_000_000);
    assert_eq!(server.requests(), 0);
}

/// A peer that sends next to nothing holds nobody up.
#[test]
fn web_seeds_come_in_for_peers_that_bring_nothing() {
    let dir = content();
    let server = WebServer::start(fs::read(dir.path().join("data")).unwrap());
    let (_seed, address) = seed(dir.path(), &["--up-max", "1kbit"]);
    let ended = run(fetch(dir.path(), &address, &["--web-seed", &server.url()]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let by_web = ended.json()["bytes_webseed"].as_u64();
    assert!(by_web >= Some(8_000_000), "{ended:?}");
    assert_eq!(
        fs::read(dir.path().join("got")).unwrap(),
        fs::read(dir.path().join("data")).unwrap()
    );
}

/// `fetch` without any peer.
fn fetch_alone(dir: &Path, more: &[&str]) -> Command {
    let arguments = ["fetch", "data.torrent", "--into", "got", "--json"];
    let rest = ["--listen", "127.0.0.1:0", "--seed-time", "0s"];
    at(dir, &[&arguments[..], &rest, more].concat())
}

/// A directory and its torrent, and a seed of it.
fn tree(create: &[&str]) -> (tempfile::TempDir, Running, String) {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir_all(data.join("a/b")).unwrap();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 977) as u8).collect();
    fs::write(data.join("a/large"), &bytes).unwrap();
    fs::write(data.join("a/b/small"), "hello").unwrap();
    fs::write(data.join("a/empty"), "").unwrap();
    fs::write(data.join("run"), &bytes[..100_001]).unwrap();
    fs::set_permissions(data.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../../run", data.join("a/b/link")).unwrap();
    let arguments = ["torrent", "create", "data", "--piece-size", "64k"];
    let made = run(at(dir.path(), &[&arguments, create].concat()));
    assert_eq!(made.code, Some(0), "{made:?}");
    let (seed, address) = seed(dir.path(), &[]);
    (dir, seed, address)
}

/// All that is beneath a path: names, kinds, permissions and contents.
fn listing(root: &Path) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut lines = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let about = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(root).unwrap().display();
        let mode = about.permissions().mode();
        if about.is_dir() {
            lines.push(format!("{name} {mode:o}"));
            waiting.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if about.is_symlink() {
            lines.push(format!(
                "{name} -> {}",
                fs::read_link(&path).unwrap().display()
            ));
        } else {
            let hash = blake3::hash(&fs::read(&path).unwrap());
            lines.push(format!("{name} {mode:o} {hash}"));
        }
    }
    lines.sort();
    lines
}

#[test]
fn a_directory_is_seeded_and_fetched() {
    for forms in [&["--v1"][..], &["--v2"], &[]] {
        let (dir, _seed, address) = tree(forms);
        let ended = run(fetch(dir.path(), &address, &[]));
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let path = |name| dir.path().join(name);
        assert_eq!(listing(&path("got")), listing(&path("data")), "{forms:?}");
        assert!(!path("got.part").exists());
    }
}

#[test]
fn a_directory_that_is_there_is_replaced_only_when_asked() {
    let (dir, _seed, address) = tree(&[]);
    let path = |name| dir.path().join(name);
    fs::create_dir_all(path("into/data/a")).unwrap();
    fs::write(path("into/data/a/mine"), "mine").unwrap();
    let into = |more: &[&str]| {
        let arguments = [
            "fetch",
            "data.torrent",
            "--into",
            "into",
            "--peer",
            &address,
        ];
        let rest = ["--listen", "127.0.0.1:0", "--seed-time", "0s", "--json"];
        run(at(dir.path(), &[&arguments[..], &rest, more].concat()))
    };
    assert_eq!(into(&[]).code, Some(8));
    assert_eq!(fs::read(path("into/data/a/mine")).unwrap(), b"mine");
    let ended = into(&["--replace"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(listing(&path("into/data")), listing(&path("data")));
    assert_eq!(fs::read_dir(path("into")).unwrap().count(), 1);
}

/// What an attempt left is used, and what is of something else is not taken over.
#[test]
fn a_fetch_of_a_directory_goes_on() {
    let (dir, _seed, address) = tree(&[]);
    let part = dir.path().join("got.part");
    fs::create_dir_all(part.join("a")).unwrap();
    let large = fs::read(dir.path().join("data/a/large")).unwrap();
    fs::write(part.join("a/large"), &large[..1_500_000]).unwrap();
    fs::write(part.join("a/other"), "").unwrap();
    let refused = run(fetch(dir.path(), &address, &[]));
    assert_eq!(refused.code, Some(8), "{refused:?}");
    assert!(refused.stderr.contains("a/other"), "{refused:?}");
    fs::remove_file(part.join("a/other")).unwrap();
    let ended = run(fetch(dir.path(), &address, &[]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let resumed = ended.json()["bytes_resumed"].as_u64();
    assert!(resumed >= Some(1_400_000), "{ended:?}");
    let got = listing(&dir.path().join("got"));
    assert_eq!(got, listing(&dir.path().join("data")));
}
