//! Processes of a test: each has a deadline, and none outlives its guard.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long any one process of these tests may take.
const DEADLINE: Duration = Duration::from_secs(90);
/// How often a process is looked at.
const STEP: Duration = Duration::from_millis(10);

/// The binary under test, without what the user's environment would add.
pub(crate) fn flashover() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flashover"));
    clean(&mut command);
    command
}

fn clean(command: &mut Command) {
    for name in ["FLASHOVER_STORE", "FLASHOVER_TOKEN", "FLASHOVER_LOG"] {
        command.env_remove(name);
    }
}

/// How a process ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The one JSON document on standard output.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A process that runs; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: File,
    stderr: File,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let temporary = || tempfile::tempfile().expect("a temporary file can be made");
        let (stdout, stderr) = (temporary(), temporary());
        let double = |file: &File| file.try_clone().expect("a descriptor can be doubled");
        let child = command
            .stdin(Stdio::null())
            .stdout(double(&stdout))
            .stderr(double(&stderr))
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            child,
            stdout,
            stderr,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the child was not waited for yet");
    }

    /// What it has said on standard output so far.
    pub(crate) fn said(&self) -> String {
        contents(&self.stdout)
    }

    /// Waits until standard output satisfies `is_enough`.
    pub(crate) fn says(&mut self, is_enough: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            let said = self.said();
            if is_enough(&said) {
                return said;
            }
            let ended = self.child.try_wait().expect("a child can be waited for");
            let late = Instant::now() > until;
            assert!(
                ended.is_none() && !late,
                "{ended:?}, late {late}: {said} {}",
                contents(&self.stderr)
            );
            std::thread::sleep(STEP);
        }
    }

    /// Waits for its success and gives the bytes that it wrote to standard output.
    pub(crate) fn ends_with_bytes(mut self) -> Vec<u8> {
        let code = self.wait();
        assert_eq!(code, Some(0), "{}", contents(&self.stderr));
        bytes(&self.stdout)
    }

    pub(crate) fn ends(mut self) -> Ended {
        let code = self.wait();
        Ended {
            code,
            stdout: contents(&self.stdout),
            stderr: contents(&self.stderr),
        }
    }

    fn wait(&mut self) -> Option<i32> {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status.code();
            }
            assert!(
                Instant::now() < until,
                "not ended: {}",
                contents(&self.stderr)
            );
            std::thread::sleep(STEP);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already where these fail.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn contents(file: &File) -> String {
    String::from_utf8(bytes(file)).expect("the output is text")
}

/// Reads a file by offsets of its own: the process goes on writing where it was.
fn bytes(file: &File) -> Vec<u8> {
    let len = file.metadata().expect("an open file has a size").len();
    let mut bytes = vec![0; usize::try_from(len).expect("the output fits in memory")];
    file.read_exact_at(&mut bytes, 0)
        .expect("output only grows");
    bytes
}

/// Runs a command to its end.
pub(crate) fn run(command: Command) -> Ended {
    Running::start(command).ends()
}

/// A network namespace with a loopback that multicasts; it ends with its guard.
#[derive(Debug)]
pub(crate) struct Network {
    holder: Running,
}

impl Network {
    pub(crate) fn new() -> Self {
        let up = "ip link set lo up mtu 1500 && ip route add 239.0.0.0/8 dev lo \
                  && echo up && exec sleep 600";
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command.args(["--net", "sh", "-c", up]);
        let mut holder = Running::start(command);
        holder.says(|said| said.starts_with("up"));
        Self { holder }
    }

    /// The binary under test, in this network.
    pub(crate) fn flashover(&self, store: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.holder.pid().to_string()]);
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg(env!("CARGO_BIN_EXE_flashover"));
        clean(&mut command);
        command.env("FLASHOVER_STORE", store);
        command
    }
}
