//! The lab for tests: a test's body runs as root of a sandbox in which `tools/lab` has made a head
//! and nodes. The sandbox owns every process, network and file in it, so a test that fails, hangs
//! or is killed leaves nothing behind.
#![expect(
    clippy::print_stdout,
    reason = "the harness shows it where a test fails"
)]

use std::ffi::OsStr;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The head's address.
pub(crate) const HEAD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// What a test may take in all before it is killed.
const TEST_DEADLINE: Duration = Duration::from_secs(240);
/// Set inside the sandbox, where the body runs.
const INSIDE: &str = "FLASHOVER_TEST_IN_LAB";
/// Proof that the body ran to its end: no wrong filter can turn a test into nothing.
const DONE: &str = "the body of the test ran to its end";

/// The network that a test asks for. Everything else it changes while it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) nodes: usize,
    pub(crate) loss_percent: f64,
}

impl Setup {
    /// So many nodes, and nothing is lost.
    pub(crate) fn nodes(nodes: usize) -> Self {
        Self {
            nodes,
            loss_percent: 0.0,
        }
    }
}

/// Runs `body` in a lab: the test's own binary is started again inside the sandbox.
///
/// # Panics
/// If the body fails, or does not end before the deadline.
pub(crate) fn in_lab<F: FnOnce(&Lab)>(setup: Setup, body: F) {
    if std::env::var_os(INSIDE).is_some() {
        body(&Lab);
        println!("{DONE}");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let log = folder.path().join("log");
    let file = append_to(&log);
    let child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/lab"))
        .arg("run")
        .args(["--nodes", &setup.nodes.to_string()])
        .args(["--loss", &setup.loss_percent.to_string()])
        .arg("--")
        .arg(std::env::current_exe().expect("a test knows its own binary"))
        .args([
            "--exact",
            test_name::<F>(),
            "--nocapture",
            "--include-ignored",
        ])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a descriptor can be doubled"))
        .stderr(file)
        .spawn()
        .expect("tools/lab starts");
    let ended = Process::of("tools/lab", child).end_within(TEST_DEADLINE);
    let said =
        String::from_utf8_lossy(&std::fs::read(&log).expect("the log is there")).into_owned();
    println!("{said}");
    assert!(ended.is_some(), "the test did not end before its deadline");
    assert!(
        ended.is_some_and(|status| status.success()),
        "the test failed in the lab, see above"
    );
    assert!(
        said.contains(DONE),
        "the body did not run in the lab, see above"
    );
}

/// The path of the test that wrote the closure `F`, as the harness knows it.
fn test_name<F>() -> &'static str {
    let path = std::any::type_name::<F>();
    let path = path.strip_suffix("::{{closure}}").unwrap_or(path);
    path.split_once("::").map_or(path, |(_crate, rest)| rest)
}

/// The running lab, from inside.
#[derive(Debug)]
pub(crate) struct Lab;

impl Lab {
    /// A directory in memory that ends with the lab.
    pub(crate) fn scratch(&self) -> PathBuf {
        PathBuf::from(std::env::var_os("LAB_SCRATCH").expect("tools/lab names its scratch"))
    }

    /// Runs a line of shell with the functions of `tools/lab.sh`, and gives what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub(crate) fn shell(&self, line: &str) -> String {
        let output = Command::new("bash")
            .args(["-c", line])
            .output()
            .expect("bash starts");
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Makes a command that will run on `node`, under the node's host name.
    pub(crate) fn command(&self, node: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{node}"))
            .args([
                "--",
                "unshare",
                "--uts",
                "--",
                "sh",
                "-c",
                "hostname \"$0\"; exec \"$@\"",
                node,
            ])
            .arg(program);
        command
    }

    /// Starts `command` with its output in `log`.
    pub(crate) fn spawn(&self, name: &str, mut command: Command, log: &Path) -> Process {
        let file = append_to(log);
        let child = command
            .stdin(Stdio::null())
            .stderr(file.try_clone().expect("a descriptor can be doubled"))
            .stdout(file)
            .spawn()
            .expect("the command starts");
        Process::of(name, child)
    }

    /// Runs `work` in a thread that is in the network of `node`.
    pub(crate) fn within<T: Send>(&self, node: &str, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let network = File::open(format!("/run/netns/{node}")).expect("the node is there");
                move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root of the sandbox may enter its networks");
                work()
            });
            thread
                .join()
                .expect("the work in the node's network succeeds")
        })
    }
}

/// A process of a test: killed when dropped, never waited for without a deadline.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
}

impl Process {
    fn of(name: &str, child: Child) -> Self {
        Self {
            name: name.to_owned(),
            child,
        }
    }

    /// Waits for the end; `None` and a kill if it does not come in time.
    pub(crate) fn end_within(mut self, limit: Duration) -> Option<ExitStatus> {
        let child = &mut self.child;
        let ended = until(limit, || {
            child.try_wait().expect("an own child can be waited for")
        });
        if ended.is_none() {
            println!("{} did not end within {limit:?}", self.name);
        }
        ended
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("an own child can be waited for")
            .is_none()
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("an own child can be killed");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.runs() {
            let _gone = self.child.kill();
        }
        let _reaped = self.child.wait();
    }
}

/// Asks again and again until there is an answer; `None` at the limit.
pub(crate) fn until<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if started.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes that no codec can make smaller, the same for the same seed.
pub(crate) fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn append_to(log: &Path) -> File {
    let options = File::options().append(true).create(true).open(log);
    options.expect("the log can be made")
}
