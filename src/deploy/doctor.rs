//! What this machine has, and what of it is used: the answers to "why is it slow" and "why does it
//! not work" before they are asked.

use std::path::Path;

use serde::Serialize;

use super::runtime::{self, Backend};
use super::token::Tokens;
use crate::base::units::format_bytes;
use crate::capture::Store;
use crate::engine::net::interface::Family;
use crate::engine::{Capabilities, Interface, SocketFound, Ways, probe};

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// Whether it is as it should be.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What can be done about it.
    pub hint: Option<String>,
}

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Good,
    /// It works, but less well than it could, or only for some commands.
    Note,
    /// Something does not work.
    Broken,
}

impl Finding {
    fn new(subject: &'static str, level: Level, text: impl Into<String>) -> Self {
        Self {
            subject,
            level,
            text: text.into(),
            hint: None,
        }
    }

    fn hint(mut self, hint: &str) -> Self {
        self.hint = Some(hint.to_owned());
        self
    }
}

/// A receive buffer below this loses packets when the node is busy for a moment.
const RECEIVE_BYTES_GOOD: usize = 8 << 20;

/// Memory that is registered to try: the least that a job would.
const ARENA_BYTES: usize = 16 << 20;

/// Looks at kernel, sockets, interfaces, and the store at `store`. Nothing is changed or sent.
#[must_use]
pub fn examine(store: &Path) -> Vec<Finding> {
    let mut findings = vec![kernel()];
    match probe(Ways::BEST, ARENA_BYTES) {
        Ok(found) => findings.extend([used(&found, Ways::BEST), receive_buffer(&found.socket)]),
        Err(error) => findings.push(Finding::new("engine", Level::Broken, error.to_string())),
    }
    findings.extend(interfaces());
    findings.push(default_interface());
    findings.extend(store_and_key(store));
    findings
}

/// Looks at all that the engine uses, and at what a job that may use `ways` gets. Nothing is sent.
#[must_use]
pub fn examine_engine(ways: Ways) -> Vec<Finding> {
    let mut findings = vec![kernel()];
    let found = match probe(ways, ARENA_BYTES) {
        Ok(found) => found,
        Err(error) => {
            findings.push(Finding::new("engine", Level::Broken, error.to_string()));
            return findings;
        }
    };
    findings.extend(ring(&found));
    let socket = &found.socket;
    findings.extend([
        grant(
            "gso",
            socket.gso,
            "several datagrams are sent as one (UDP_SEGMENT)",
        ),
        grant(
            "sendmmsg",
            socket.sendmmsg,
            "several messages are sent in one call",
        ),
        grant(
            "gro",
            socket.gro,
            "several datagrams are received as one (UDP_GRO)",
        ),
        grant(
            "recvmmsg",
            socket.recvmmsg,
            "several messages are received in one call",
        ),
        grant(
            "drops",
            socket.counts_drops,
            "the kernel counts its own drops (SO_RXQ_OVFL)",
        ),
        receive_buffer(socket),
        send_buffer(socket),
        used(&found, ways),
        control(),
    ]);
    findings
}

fn kernel() -> Finding {
    let name = rustix::system::uname();
    let (release, machine) = (
        name.release().to_string_lossy(),
        name.machine().to_string_lossy(),
    );
    Finding::new("kernel", Level::Good, format!("Linux {release}, {machine}"))
}

/// What a job uses that may use `most`, and why no more.
fn used(found: &Capabilities, most: Ways) -> Finding {
    let ways = match &found.used {
        Ok(ways) => ways,
        Err(why) => return Finding::new("engine", Level::Broken, why),
    };
    if found.because.is_empty() {
        let why = if most == Ways::BEST {
            "all that the engine can use is there"
        } else {
            "as it was asked to"
        };
        return Finding::new("engine", Level::Good, format!("uses {ways}: {why}"));
    }
    let because = found.because.join("; ");
    Finding::new("engine", Level::Note, format!("uses {ways}: {because}"))
}

/// What the control plane runs on, which has nothing to do with the ways of jobs.
fn control() -> Finding {
    match runtime::best() {
        Backend::Ring => Finding::new(
            "control",
            Level::Good,
            "tokio-uring: files that are served by HTTP are read through a ring",
        ),
        Backend::Plain => Finding::new(
            "control",
            Level::Note,
            "plain tokio: files that are served by HTTP are read by a few threads",
        ),
    }
}

fn ring(found: &Capabilities) -> Vec<Finding> {
    let ring = match &found.ring {
        Ok(ring) => ring,
        Err(why) => {
            let text = format!("no: {why}");
            let hint = "see sysctl kernel.io_uring_disabled, or the container's profile";
            return vec![Finding::new("io_uring", Level::Note, text).hint(hint)];
        }
    };
    let receives = if ring.standing_receives {
        "one order receives many messages"
    } else {
        "an order receives one message"
    };
    let features = ring.features.join(" ");
    let text = format!("yes: {}, {receives}; {features}", ring.mode);
    let memory = match &ring.registered {
        Ok(()) => {
            let size = format_bytes(ARENA_BYTES as u64);
            Finding::new(
                "memory",
                Level::Good,
                format!("yes: {size} registered to try"),
            )
        }
        Err(why) => Finding::new("memory", Level::Note, format!("no: not registered, {why}"))
            .hint("raise RLIMIT_MEMLOCK, or run as root"),
    };
    vec![Finding::new("io_uring", Level::Good, text), memory]
}

fn grant(subject: &'static str, has: bool, what: &str) -> Finding {
    let (level, word) = if has {
        (Level::Good, "yes")
    } else {
        (Level::Note, "no")
    };
    Finding::new(subject, level, format!("{word}: {what}"))
}

fn receive_buffer(socket: &SocketFound) -> Finding {
    let text = buffer("receive", socket.receive_bytes, "rmem_max");
    if socket.receive_bytes >= RECEIVE_BYTES_GOOD {
        return Finding::new("buffer", Level::Good, text);
    }
    Finding::new("buffer", Level::Note, text)
        .hint("run as root, or raise it: sysctl -w net.core.rmem_max=33554432")
}

fn send_buffer(socket: &SocketFound) -> Finding {
    let text = buffer("send", socket.send_bytes, "wmem_max");
    Finding::new("buffer", Level::Good, text)
}

/// A buffer as it was granted, and what others than root would get.
fn buffer(which: &str, bytes: usize, limit: &str) -> String {
    let granted = format_bytes(bytes as u64);
    let limited = std::fs::read_to_string(format!("/proc/sys/net/core/{limit}"))
        .ok()
        .and_then(|text| text.trim().parse().ok());
    match limited.map(format_bytes) {
        Some(limited) => format!("{which} buffer of {granted}; net.core.{limit} is {limited}"),
        None => format!("{which} buffer of {granted}"),
    }
}

fn interfaces() -> Vec<Finding> {
    let describe = |interface: &Interface| {
        let addresses: Vec<String> = interface
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        let state = match (interface.up, interface.multicast) {
            (false, _) => "down",
            (true, false) => "no multicast",
            (true, true) => "up, multicast",
        };
        let text = format!(
            "{}: {state}, MTU {}, {}",
            interface.name,
            interface.mtu,
            addresses.join(" ")
        );
        Finding::new("interface", Level::Good, text)
    };
    match Interface::all() {
        Ok(all) => all.iter().map(describe).collect(),
        Err(error) => vec![Finding::new("interface", Level::Broken, error.to_string())],
    }
}

fn default_interface() -> Finding {
    match Interface::pick_default(Family::V4) {
        Ok(interface) => Finding::new("multicast", Level::Good, format!("uses {interface}")),
        Err(error) => Finding::new("multicast", Level::Note, error.to_string())
            .hint("name the interface: --interface NAME"),
    }
}

fn store_and_key(path: &Path) -> Vec<Finding> {
    let store = Store::open(path);
    let shown = path.display();
    let published = match store.published() {
        Ok(published) if published.is_empty() => Finding::new(
            "store",
            Level::Note,
            format!("{shown}: nothing is published"),
        )
        .hint("a head needs it: flashover image publish NAME"),
        Ok(published) => {
            let text = format!("{shown}: {} publications", published.len());
            Finding::new("store", Level::Good, text)
        }
        Err(error) => Finding::new("store", Level::Broken, error.to_string()),
    };
    let key = match store.public_key() {
        Ok(key) => Finding::new("key", Level::Good, key.fingerprint()),
        Err(error) => Finding::new("key", Level::Note, error.to_string())
            .hint("a head needs one: flashover key generate"),
    };
    let tokens = match Tokens::at(path).list() {
        Ok(list) => {
            let valid = list.iter().filter(|record| !record.has_ended()).count();
            Finding::new("tokens", Level::Good, format!("{valid} valid"))
        }
        Err(error) => Finding::new("tokens", Level::Broken, error.to_string()),
    };
    vec![published, key, tokens]
}
