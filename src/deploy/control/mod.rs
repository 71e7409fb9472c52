//! The control channel between a node and its head: HTTP/1.1 over TLS 1.3 with raw public keys,
//! every request behind the join token.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/images` | the table of published bundles, JSON |
//! | `GET /v1/images/NAME/SERIAL/manifest` | the sealed manifest; SERIAL may be `latest` |
//! | `POST /v1/probe` | sends the large datagrams that a [`ProbeRequest`] asks for |
//! | `POST /v1/images/NAME/SERIAL/join` | [`JoinReply`]; starts the multicast if none runs |
//! | `POST /v1/images/NAME/SERIAL/peers` | [`PeersReply`]; takes a [`PeersRequest`] |
//! | `GET /v1/images/NAME/SERIAL/bundle` | the bundle, whole or one `Range` |
//! | `POST /v1/report` | takes a [`Report`] of a node |
//! | `GET /v1/status` | what the head does and knows, JSON |
//! | `GET /metrics` | counters as Prometheus text |
//!
//! `join` and `report` answer 409 if another machine that is alive has the node's id.
//!
//! Names are looked up in a table of open bundles; no request ever becomes a path.

mod client;
pub mod range;
mod server;
mod tls;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::base::event::{Phase, Via};
use crate::base::id::IMAGE_NAME_BYTES_MAX;
use crate::deploy::path::MTU_EVERYWHERE;

pub(crate) use client::{Client, Refusal};
pub(crate) use server::Server;

/// The port of the control channel unless another is asked for.
pub const PORT_DEFAULT: u16 = 7081;
/// The largest body that the head takes.
const REQUEST_BYTES_MAX: usize = 4096;
/// The largest JSON answer that a node takes.
const REPLY_BYTES_MAX: usize = 1 << 20;
/// The length of a node's id, in characters.
pub(crate) const ID_CHARS: usize = 32;
/// The longest host name that is kept, in characters.
pub(crate) const HOST_CHARS_MAX: usize = 64;
/// The longest cause that is kept, in characters.
const CAUSE_CHARS_MAX: usize = 256;

/// One published bundle, as the head lists it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageInfo {
    /// The image's name.
    pub name: String,
    /// The publication.
    pub serial: u64,
    /// BLAKE3 of the bundle, hex.
    pub root: String,
    /// Size of the bundle.
    pub bytes: u64,
}

/// What a node says when it joins.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JoinRequest {
    /// The node's id, 32 hex digits.
    pub(crate) node: String,
    /// Its host name, for people.
    pub(crate) host: String,
    /// The largest IP datagram that is known to reach it from the head, in bytes.
    #[serde(default = "mtu_everywhere")]
    pub(crate) mtu: u32,
}

const fn is_usual() -> bool {
    true
}

const fn mtu_everywhere() -> u32 {
    MTU_EVERYWHERE
}

/// What a node says to be sent large datagrams.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProbeRequest {
    /// The UDP port that they are to be sent to.
    pub(crate) port: u16,
    /// What they begin with, hex.
    pub(crate) nonce: String,
}

/// What it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProbeReply {
    /// The size of each, with the IP header, in bytes; 0 if none was sent.
    pub(crate) mtu: u32,
}

/// What it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JoinReply {
    /// The encoded multicast session with its secret, hex; `None` when the head does not multicast.
    pub(crate) session: Option<String>,
    /// Whether nodes and head exchange pieces in a swarm.
    #[serde(default)]
    pub(crate) swarm: bool,
    /// Whether the head gives byte ranges.
    #[serde(default = "is_usual")]
    pub(crate) ranges: bool,
}

/// What a node of a swarm says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeersRequest {
    /// The node's id, 32 hex digits.
    pub(crate) node: String,
    /// Where it listens for peers, at the address that this request comes from; not 0.
    pub(crate) port: u16,
    /// Pieces that it has, verified.
    pub(crate) pieces_done: u32,
    /// What it does.
    pub(crate) state: Swarming,
}

/// What a node does in a swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Swarming {
    /// It lacks pieces.
    Leeching,
    /// It has all and seeds on.
    Complete,
    /// It ends; nobody need know of it any more.
    Leaving,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeersReply {
    /// Its neighbours, few: who connects to whom is the head's plan. An unspecified address is the
    /// head's own, as the node reaches it.
    pub(crate) peers: Vec<SocketAddr>,
    /// Whether every node that the head knows of has everything: nobody need seed on.
    pub(crate) all_complete: bool,
    /// When the head wants to hear from it again, in seconds.
    pub(crate) interval_s: u64,
    /// What peers of this swarm prove to each other that they are of it, 64 hex digits.
    pub(crate) secret: String,
}

/// What a node tells the head now and then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The node's id, 32 hex digits.
    pub(crate) node: String,
    /// Its host name, for people.
    pub(crate) host: String,
    /// The image it receives.
    pub(crate) image: String,
    /// The serial of it.
    pub(crate) serial: u64,
    /// What it does.
    pub(crate) phase: Phase,
    /// Bytes of the bundle it has, verified.
    pub(crate) bytes_done: u64,
    /// Bytes of the bundle.
    pub(crate) bytes_total: u64,
    /// Where they came from.
    pub(crate) shares: Shares,
    /// Share of the sender's packets that it lost, 0 to 1.
    pub(crate) loss: f64,
    /// Why it does not receive by multicast, or what else is wrong; empty when all is well.
    pub(crate) cause: String,
}

impl Report {
    /// The report with its texts cut and free of control characters.
    pub(crate) fn cleaned(self) -> Self {
        Self {
            node: clean(&self.node, ID_CHARS),
            host: clean(&self.host, HOST_CHARS_MAX),
            cause: clean(&self.cause, CAUSE_CHARS_MAX),
            image: clean(&self.image, IMAGE_NAME_BYTES_MAX),
            ..self
        }
    }
}

/// Where the bytes of a bundle came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// Bytes that an earlier attempt had left.
    pub resume: u64,
    /// Bytes of the multicast.
    pub multicast: u64,
    /// Bytes of the swarm.
    #[serde(default)]
    pub swarm: u64,
    /// Bytes of HTTP ranges.
    pub http: u64,
}

impl Shares {
    /// Adds bytes to a share.
    pub(crate) fn add(&mut self, via: Via, bytes: u64) {
        let share = match via {
            Via::Resume => &mut self.resume,
            Via::Multicast => &mut self.multicast,
            Via::Swarm => &mut self.swarm,
            Via::Http => &mut self.http,
        };
        *share = share.saturating_add(bytes);
    }

    /// All bytes.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.resume
            .saturating_add(self.multicast)
            .saturating_add(self.swarm)
            .saturating_add(self.http)
    }
}

/// Cuts a text at `chars_max` characters and replaces what a terminal could mistake for a command.
pub(crate) fn clean(text: &str, chars_max: usize) -> String {
    let shown = |c: char| if c.is_control() { '?' } else { c };
    text.chars().take(chars_max).map(shown).collect()
}

#[cfg(test)]
mod tests;
