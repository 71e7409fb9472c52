//! Head and nodes as processes, on the loopback of a network of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use super::process::{Ended, Network, Running, run};

/// Content of the test image: enough for several pieces.
pub(super) const BYTES: usize = 12_000_000;

pub(super) struct Site {
    pub(super) network: Network,
    pub(super) dir: tempfile::TempDir,
}

impl Site {
    pub(super) fn new() -> Self {
        Self {
            network: Network::new(),
            dir: tempfile::tempdir().expect("a temporary directory can be made"),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.network.flashover(&self.path("store"));
        command.args(arguments);
        command
    }

    pub(super) fn good(&self, arguments: &[&str]) -> Ended {
        let ended = run(self.command(arguments));
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
        ended
    }

    /// Publishes a tree as image `t`, and gives a token.
    pub(super) fn publish(&self) -> String {
        self.make_tree();
        self.publish_tree(&[])
    }

    /// Makes the tree of image `t`.
    pub(super) fn make_tree(&self) {
        let tree = self.path("tree");
        fs::create_dir_all(tree.join("a/b")).expect("there is room");
        fs::write(tree.join("a/b/large"), noise(BYTES)).expect("there is room");
        fs::write(tree.join("small"), "small").expect("there is room");
    }

    /// Publishes the tree by a new store, with more options, and gives a token.
    pub(super) fn publish_tree(&self, more: &[&str]) -> String {
        let tree = self.path("tree");
        self.good(&["key", "generate"]);
        let tree = tree.to_str().expect("the path is text").to_owned();
        self.good(&["image", "import", "t", "--tree", &tree]);
        self.good(&[&["image", "publish", "t"], more].concat());
        self.good(&["token", "create"]).stdout.trim().to_owned()
    }

    pub(super) fn serve(&self, more: &[&str]) -> Running {
        let mut command = self.command(&["serve", "--json"]);
        command.args(more);
        let mut head = Running::start(command);
        head.says(|said| said.ends_with("}\n"));
        head
    }

    pub(super) fn receive(&self, image: &str, token: &str, more: &[&str]) -> Command {
        let into = self.path("into");
        let mut command = self.command(&["receive", image, "--head", "127.0.0.1", "--into"]);
        command.arg(into).args(more).env("FLASHOVER_TOKEN", token);
        command
    }
}

/// Bytes that no compressor shortens.
pub(super) fn noise(count: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count.div_ceil(8))
        .flat_map(|_| next().to_be_bytes())
        .take(count)
        .collect()
}

pub(super) fn same(one: &Path, other: &Path) -> bool {
    let read = |path| fs::read(path).expect("the file is there");
    read(one) == read(other)
}

#[test]
fn an_image_arrives_and_the_receipt_says_how() {
    let site = Site::new();
    let token = site.publish();
    let head = site.serve(&[]);
    let ended = run(site.receive("t", &token, &["--json"]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let receipt = ended.json();
    assert_eq!(receipt["verified"], true);
    assert_eq!(receipt["image"], "t");
    let share = |via: &str| receipt["shares"][via].as_u64().unwrap();
    let total = share("resume") + share("multicast") + share("http");
    assert_eq!(total, receipt["bytes"].as_u64().unwrap());
    assert!(share("multicast") > 0, "{receipt}");
    for name in ["a/b/large", "small"] {
        let (tree, into) = (site.path("tree").join(name), site.path("into").join(name));
        assert!(same(&tree, &into), "{name}");
    }
    assert!(!site.path("into/.flashover").exists());
    head.signal(Signal::TERM);
    assert_eq!(head.ends().code, Some(0));
}

#[test]
fn a_disk_arrives_in_a_file_and_its_holes_stay_holes() {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};
    let site = Site::new();
    let (source, target) = (site.path("source.img"), site.path("target.img"));
    let disk = fs::File::create(&source).unwrap();
    disk.set_len(200 << 20).unwrap();
    disk.write_all_at(&noise(BYTES), 77 << 20).unwrap();
    disk.write_all_at(b"the end", (200 << 20) - 7).unwrap();
    fs::write(&target, noise(3 << 20)).unwrap();
    let token = site.publish();
    let path = source.to_str().unwrap();
    site.good(&["image", "import", "d", "--disk", path]);
    site.good(&["image", "publish", "d"]);
    let _head = site.serve(&[]);
    let mut command = site.command(&["receive", "d", "--head", "127.0.0.1", "--json"]);
    command.arg("--work").arg(site.path("work"));
    command.arg("--to-device").arg(&target);
    command.env("FLASHOVER_TOKEN", &token);
    let ended = run(command);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.json()["verified"], true);
    assert!(same(&source, &target));
    let taken = fs::metadata(&target).unwrap().blocks() * 512;
    assert!(taken < BYTES as u64 + (1 << 20), "{taken}");
}

#[test]
fn what_the_head_refuses_has_its_exit_code() {
    let site = Site::new();
    let token = site.publish();
    let head = site.serve(&[]);
    let ended = run(site.receive("other", &token, &[]));
    assert_eq!(ended.code, Some(8), "{ended:?}");
    let ended = run(site.receive("t@2", &token, &[]));
    assert_eq!(ended.code, Some(8), "{ended:?}");
    let stranger = site.good(&["token", "create", "--offline"]).stdout;
    let ended = run(site.receive("t", stranger.trim(), &[]));
    assert_eq!(ended.code, Some(5), "{ended:?}");
    let secret = &stranger.trim()[31..];
    let ended = run(site.receive("t", &format!("{}{secret}", &token[..31]), &[]));
    assert_eq!(ended.code, Some(5), "{ended:?}");
    let ended = run(site.receive("t", &token, &["--dry-run", "--json"]));
    assert_eq!(ended.json()["serial"], 1, "{ended:?}");
    assert!(!site.path("into").exists());
    head.signal(Signal::INT);
    assert_eq!(head.ends().code, Some(130));
}

#[test]
fn an_absent_head_is_exit_code_6() {
    let site = Site::new();
    let token = site.publish();
    let ended = run(site.receive("t", &token, &["--deadline", "1s"]));
    assert_eq!(ended.code, Some(6), "{ended:?}");
    assert!(ended.stderr.contains("does not answer"), "{ended:?}");
}

#[test]
fn a_head_that_is_killed_and_started_again_finishes_what_it_began() {
    let site = Site::new();
    let token = site.publish();
    let slow = &["--rate-max", "40mbit"];
    let head = site.serve(slow);
    let mut node = Running::start(site.receive("t", &token, &["--json-lines"]));
    node.says(|said| bytes_done(said) > BYTES as u64 / 4);
    head.signal(Signal::KILL);
    drop(head);
    let _head = site.serve(slow);
    let ended = node.ends();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(same(
        &site.path("tree/a/b/large"),
        &site.path("into/a/b/large")
    ));
}

pub(super) fn bytes_done(said: &str) -> u64 {
    let events = said
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let done = events.filter_map(|event: serde_json::Value| event["bytes_done"].as_u64());
    done.max().unwrap_or(0)
}

#[test]
fn files_are_cast_and_caught_by_a_token_made_beforehand() {
    let site = Site::new();
    let (source, caught) = (site.path("source"), site.path("caught"));
    fs::write(&source, noise(BYTES)).unwrap();
    let token = site.good(&["token", "create", "--offline"]).stdout;
    let catch = |file: &Path| {
        let mut command = site.command(&["catch", "-q", "--work"]);
        command.arg(site.dir.path()).arg(file);
        command.env("FLASHOVER_TOKEN", token.trim());
        Running::start(command)
    };
    // The receivers wait for the sender.
    let (file, stream) = (catch(&caught), catch(Path::new("-")));
    let mut command = site.command(&["cast", "-q", "--receivers", "2"]);
    command.arg(&source).env("FLASHOVER_TOKEN", token.trim());
    let sender = Running::start(command);
    let stream = stream.ends_with_bytes();
    assert_eq!(file.ends().code, Some(0));
    assert_eq!(sender.ends().code, Some(0));
    assert!(same(&source, &caught));
    assert!(stream == fs::read(&source).unwrap());
    assert!(!site.path("caught.part").exists());
}
