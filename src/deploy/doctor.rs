//! What this machine has, and what of it is used: the answers to "why is it slow" and "why does it
//! not work" before they are asked.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::token::Tokens;
use crate::base::counter::Counters;
use crate::base::units::format_bytes;
use crate::capture::Store;
use crate::engine::net::interface::Family;
use crate::engine::{Backend, Driver, Interface, Setup, Socket};

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

/// Looks at kernel, sockets, interfaces, and the store at `store`. Nothing is changed or sent.
#[must_use]
pub fn examine(store: &Path) -> Vec<Finding> {
    let mut findings = vec![kernel(), ring()];
    findings.extend(socket());
    findings.extend(interfaces());
    findings.push(default_interface());
    findings.extend(store_and_key(store));
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

fn ring() -> Finding {
    let setup = || Setup {
        sockets: Vec::new(),
        files: Vec::new(),
        arena: None,
        backend: Backend::Ring,
        counters: Arc::new(Counters::default()),
    };
    match Driver::new(setup()) {
        Ok(driver) => Finding::new(
            "engine",
            Level::Good,
            format!("uses io_uring ({})", driver.backend()),
        ),
        Err(error) => {
            let text = format!("io_uring does not work here, plain system calls are used: {error}");
            Finding::new("engine", Level::Note, text)
                .hint("see sysctl kernel.io_uring_disabled, or the container's profile")
        }
    }
}

fn socket() -> Vec<Finding> {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let socket = match Socket::unicast(any) {
        Ok(socket) => socket,
        Err(error) => return vec![Finding::new("socket", Level::Broken, error.to_string())],
    };
    let yes_no = |yes| if yes { "yes" } else { "no" };
    let coalescing = Finding::new(
        "coalescing",
        if socket.gso() && socket.gro() {
            Level::Good
        } else {
            Level::Note
        },
        format!(
            "UDP_SEGMENT {}, UDP_GRO {}",
            yes_no(socket.gso()),
            yes_no(socket.gro())
        ),
    );
    let bytes = socket.receive_bytes();
    let buffer = format!("receive buffer of {}", format_bytes(bytes as u64));
    let buffer = if bytes >= RECEIVE_BYTES_GOOD {
        Finding::new("buffer", Level::Good, buffer)
    } else {
        Finding::new("buffer", Level::Note, buffer)
            .hint("run as root, or raise it: sysctl -w net.core.rmem_max=33554432")
    };
    vec![coalescing, buffer]
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
