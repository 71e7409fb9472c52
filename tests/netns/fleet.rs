//! A head that serves one image in the lab, and the nodes that receive it: what the tests of
//! transfers have in common. What the nodes got is compared by stock tools (`tools/picture`).

use std::cell::RefCell;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::lab::{Lab, Process, noise, until};

pub(crate) const FLASHOVER: &str = env!("CARGO_BIN_EXE_flashover");
/// Where the head casts in tests, and where it takes reports.
pub(crate) const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 7, 7);
pub(crate) const GROUP_PORT: u16 = 7080;
pub(crate) const REPORT_PORT: u16 = 7081;
/// What any single wait of a test may take.
const WAIT: Duration = Duration::from_secs(120);
/// What the image holds that cannot be compressed: the least that has to travel.
pub(crate) const CONTENT_BYTES: u64 = 24 << 20;

/// A head that serves the image `test`.
pub(crate) struct Fleet<'lab> {
    lab: &'lab Lab,
    token: String,
    source: PathBuf,
    options: Vec<String>,
    head: RefCell<Option<Process>>,
}

impl<'lab> Fleet<'lab> {
    /// Makes the image, publishes it, and serves it at most at `rate` (as in `50mbit`).
    pub(crate) fn serve(lab: &'lab Lab, rate: Option<&str>) -> Self {
        let rate = rate.map(|rate| ["--rate-max", rate]);
        Self::serve_with(lab, rate.as_ref().map_or(&[], |rate| rate.as_slice()))
    }

    /// The same without a swarm: what multicast does not bring, byte ranges do.
    pub(crate) fn serve_no_swarm(lab: &'lab Lab, rate: Option<&str>) -> Self {
        let mut options = vec!["--via", "multicast,http"];
        options.extend(rate.into_iter().flat_map(|rate| ["--rate-max", rate]));
        Self::serve_with(lab, &options)
    }

    /// The same with any options of `serve`.
    pub(crate) fn serve_with(lab: &'lab Lab, options: &[&str]) -> Self {
        let scratch = lab.scratch();
        let (source, store) = (scratch.join("source"), scratch.join("store"));
        make_tree(&source);
        let flashover = || {
            let mut command = Command::new(FLASHOVER);
            command.arg("--store").arg(&store);
            command
        };
        said(flashover().args(["key", "generate"]));
        said(
            flashover()
                .args(["image", "import", "test", "--tree"])
                .arg(&source),
        );
        said(flashover().args(["image", "publish", "test"]));
        let token = said(flashover().args(["token", "create", "--json"]));
        let token: Value = serde_json::from_str(&token).expect("--json gives JSON");
        let token = token["token"]
            .as_str()
            .expect("the token is a text")
            .to_owned();
        let fleet = Self {
            lab,
            token,
            source,
            options: options.iter().map(|&option| option.to_owned()).collect(),
            head: RefCell::new(None),
        };
        fleet.start_head();
        fleet
    }

    /// Starts the head, at first or anew.
    pub(crate) fn start_head(&self) {
        let scratch = self.lab.scratch();
        let mut command = self.lab.command("head", FLASHOVER);
        command
            .arg("--store")
            .arg(scratch.join("store"))
            .args(["serve", "--interface", "eth0"]);
        command.args(["--group", &GROUP.to_string()]);
        command.args(&self.options);
        let head = self.lab.spawn("head", command, &scratch.join("head.log"));
        self.head.replace(Some(head));
    }

    /// Kills the head as a power cut would.
    pub(crate) fn kill_head(&self) {
        let head = self.head.take().expect("the head runs");
        head.kill();
    }

    /// Starts `receive` on a node.
    pub(crate) fn receive(&self, node: &str) -> Receiver<'_> {
        self.receive_with(node, &self.lab.scratch().join(node), &[])
    }

    /// Starts `receive` on a node, into `target`, with more options.
    pub(crate) fn receive_with(&self, node: &str, target: &Path, more: &[&str]) -> Receiver<'_> {
        let log = self.lab.scratch().join(format!("{node}.log"));
        let mut command = self.lab.command(node, FLASHOVER);
        command.args(["receive", "test", "--into"]).arg(target);
        command.args([
            "--token",
            &self.token,
            "--interface",
            "eth0",
            "--json-lines",
        ]);
        if !more.contains(&"--seed-time") {
            command.args(["--seed-time", "3s"]);
        }
        command.args(more);
        let read = fs::read(&log).map_or(0, |old| old.len());
        let process = self.lab.spawn(node, command, &log);
        let (node, target) = (node.to_owned(), target.to_owned());
        Receiver {
            fleet: self,
            node,
            target,
            log,
            read,
            process,
        }
    }

    /// What the head has said so far.
    pub(crate) fn head_log(&self) -> String {
        fs::read_to_string(self.lab.scratch().join("head.log")).unwrap_or_default()
    }
}

/// One attempt of a node.
pub(crate) struct Receiver<'fleet> {
    fleet: &'fleet Fleet<'fleet>,
    node: String,
    target: PathBuf,
    log: PathBuf,
    /// Where this attempt's part of the log begins.
    read: usize,
    process: Process,
}

impl Receiver<'_> {
    /// Waits until it has that share of the image's bytes.
    pub(crate) fn reaches(&mut self, share: f64) {
        let reached = until(WAIT, || {
            assert!(
                self.process.runs(),
                "{} ended too early: {}",
                self.node,
                self.said()
            );
            (self.share() >= share).then_some(())
        });
        assert!(
            reached.is_some(),
            "{} did not reach {share}: {}",
            self.node,
            self.said()
        );
    }

    /// Waits until it has all and has proven it; it may seed on.
    pub(crate) fn proves(&mut self) {
        let proven = until(WAIT, || {
            self.said().contains("\"event\":\"receipt\"").then_some(())
        });
        assert!(proven.is_some(), "{}: {}", self.node, self.said());
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(self) {
        self.process.kill();
    }

    /// Waits for its success, compares its tree with the source, and gives the receipt.
    pub(crate) fn succeeds(self) -> Receipt {
        let (fleet, node, target) = (self.fleet, self.node.clone(), self.target.clone());
        let (code, said) = self.ends();
        assert_eq!(code, Some(0), "{node}: {said}\nhead: {}", fleet.head_log());
        let differences = Command::new("bash")
            .args([
                "-c",
                "diff <(\"$0\"/tools/picture \"$1\") <(\"$0\"/tools/picture \"$2\")",
            ])
            .arg(env!("CARGO_MANIFEST_DIR"))
            .args([&fleet.source, &target])
            .output()
            .expect("bash starts");
        assert!(
            differences.status.success(),
            "{node} differs: {differences:?}"
        );
        let receipt = events(&said).find(|event| !event["shares"].is_null());
        Receipt {
            said,
            json: receipt.expect("success prints a receipt"),
        }
    }

    /// Waits for its end, whatever it is; gives exit code and output.
    pub(crate) fn ends(self) -> (Option<i32>, String) {
        let (node, log, read) = (self.node, self.log, self.read);
        let ended = self.process.end_within(WAIT);
        let said = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()[read..]).into_owned();
        assert!(ended.is_some(), "{node} did not end: {said}");
        (ended.and_then(|status| status.code()), said)
    }

    fn said(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[self.read..]).into_owned()
    }

    fn share(&self) -> f64 {
        let mut receiving = false;
        let mut share = 0.0;
        for event in events(&self.said()) {
            match event["event"].as_str() {
                Some("phase") => receiving = event["phase"] == "receiving",
                Some("progress") if receiving => {
                    let number = |key: &str| event[key].as_f64().expect("progress is in numbers");
                    share = number("bytes_done") / number("bytes_total");
                }
                _ => (),
            }
        }
        share
    }
}

/// What a receiver proved.
pub(crate) struct Receipt {
    /// All that it printed.
    pub(crate) said: String,
    json: Value,
}

impl Receipt {
    /// Whether it warned of that.
    pub(crate) fn warns_of(&self, what: &str) -> bool {
        events(&self.said).any(|event| {
            let text = event["text"].as_str().unwrap_or_default();
            event["event"] == "warning" && text.to_lowercase().contains(what)
        })
    }

    /// A counter of the job.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let value = self.json["counters"][name].as_u64();
        value.expect("a receipt has all counters")
    }

    /// Why multicast was not enough.
    pub(crate) fn causes(&self) -> String {
        self.json["causes"].to_string()
    }

    /// Bytes of the bundle that came that way.
    pub(crate) fn bytes_by(&self, via: &str) -> u64 {
        self.json["shares"][via]
            .as_u64()
            .expect("a receipt has all shares")
    }
}

fn events(said: &str) -> impl Iterator<Item = Value> + '_ {
    said.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
}

/// Runs it to its end, which must be success, and gives its output.
fn said(command: &mut Command) -> String {
    let output = command.output().expect("flashover starts");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("output is text")
}

/// A small tree of everything that trees are made of.
fn make_tree(root: &Path) {
    let file = |name: &str, content: &[u8]| {
        fs::write(root.join(name), content).expect("the scratch has room");
    };
    fs::create_dir_all(root.join("usr/empty")).expect("the scratch has room");
    fs::create_dir_all(root.join("etc")).expect("the scratch has room");
    file("usr/large", &noise(1, 16 << 20));
    for number in 0..128 {
        file(
            &format!("usr/small{number}"),
            &noise(100 + number, 64 << 10),
        );
    }
    file(
        "etc/text",
        "All work and no play makes Jack a dull boy\n"
            .repeat(1000)
            .as_bytes(),
    );
    file("etc/nothing", b"");
    file("etc/secret", b"secret");
    let mode = fs::Permissions::from_mode(0o4710);
    fs::set_permissions(root.join("etc/secret"), mode).expect("the file is ours");
    fs::hard_link(root.join("etc/text"), root.join("usr/text")).expect("the file is there");
    symlink("../etc/text", root.join("usr/link")).expect("the name is free");
    let sparse = fs::File::create(root.join("usr/sparse")).expect("the scratch has room");
    sparse.set_len(64 << 20).expect("holes need no room");
}
