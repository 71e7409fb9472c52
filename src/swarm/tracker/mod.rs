//! Trackers: who has a torrent, by the two protocols that the world speaks, server and client.
//!
//! ```text
//!   client   Announcer -- says when to ask whom ---+-- http::query / http::Reply
//!                                                  +-- udp::Exchange
//!   server   Tracker   -- who is there, who knows whom --- http::answer, udp::Front
//! ```
//!
//! The server's [`Tracker`] knows the torrents that it was told of and no others. It does not hand
//! out random peers but the neighbours in a [`graph`] of bounded degree, so that a swarm is
//! connected and nobody has more than a few peers. It owns all state; addresses come from the
//! caller, who saw them, and never from a request.
//!
//! Source: BEP 3 "trackers", 7, 12, 15, 21, 23, 48.

pub mod announcer;
pub mod graph;
pub mod http;
pub mod limits;
pub mod table;
pub mod udp;
pub mod url;

#[cfg(test)]
mod tests;

pub use announcer::Announcer;
pub use table::{Announced, Pace, Refused, Tracker};
pub use url::TrackerUrl;

use std::net::SocketAddr;
use std::time::Duration;

/// What a peer says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// The torrent, see [`crate::swarm::InfoHash::wire`].
    pub info_hash: [u8; 20],
    /// The peer's id.
    pub peer_id: [u8; 20],
    /// Where it listens, at the address that the announcement comes from; not 0.
    pub port: u16,
    /// Bytes that it has sent since it started.
    pub uploaded: u64,
    /// Bytes that it has fetched since it started.
    pub downloaded: u64,
    /// Bytes that it lacks.
    pub left: u64,
    /// Why it announces itself.
    pub event: Event,
    /// How many peers it wants; `None` leaves it to the tracker.
    pub peers_wanted: Option<u32>,
    /// What proves that it is the same peer when its address changes.
    pub key: u32,
}

/// Why a peer announces itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Event {
    /// It is time.
    #[default]
    None,
    /// It has just become complete.
    Completed,
    /// It has just started.
    Started,
    /// It leaves.
    Stopped,
    /// It has all that it wants, which is not all. Source: BEP 21.
    Paused,
}

/// What a tracker answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// When it wants to hear from the peer again.
    pub interval: Duration,
    /// How soon it may hear from it.
    pub interval_min: Option<Duration>,
    /// Peers that have everything.
    pub complete: Option<u32>,
    /// Peers that do not.
    pub incomplete: Option<u32>,
    /// What the client is to give back the next time.
    pub tracker_id: Option<Vec<u8>>,
    /// Something for people to read.
    pub warning: Option<String>,
    /// Other peers.
    pub peers: Vec<SocketAddr>,
}

/// What a tracker says of one torrent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scraped {
    /// Peers that have everything.
    pub complete: u32,
    /// Peers that do not.
    pub incomplete: u32,
    /// How many peers have become complete.
    pub downloaded: u32,
    /// Of the incomplete, those that want more. Source: BEP 21.
    pub downloaders: u32,
}

/// Why an announcement brought nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The tracker refuses, in its words.
    #[error("The tracker refuses: {0}")]
    Refused(String),
    /// What it says is no answer.
    #[error("The tracker's answer is malformed")]
    Malformed,
    /// It says nothing.
    #[error("The tracker does not answer")]
    Silent,
}

impl From<crate::base::bytes::BadBytes> for Error {
    fn from(_: crate::base::bytes::BadBytes) -> Self {
        Self::Malformed
    }
}

/// A tracker's words, cut and without what a terminal could mistake for a command.
fn words(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(limits::REASON_BYTES_MAX)];
    let text = String::from_utf8_lossy(shown);
    let shown = |c: char| if c.is_control() { '?' } else { c };
    text.chars().map(shown).collect()
}
