//! The node: finds a head, joins, completes its piece store, and turns it into what was asked for.
//! `receive` restores images, `catch` receives plain files.

mod courier;
mod fallback;
mod fetch;
mod join;
mod listen;
mod plain;
mod restore;
mod sharing;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::control::Shares;
use super::error::Result;
use super::net::NetOptions;
use super::token::Token;
use crate::base::event::Events;
use crate::base::id::ImageName;
use crate::base::{PieceIndex, Serial};
use crate::image::PublicKey;
use sharing::Seeding;

pub use plain::{Catch, catch};
pub use restore::{Planned, Receive, Target, plan, receive};

/// What is wanted, from whom, and how.
#[derive(Clone, Debug)]
pub struct Want {
    /// The image.
    pub name: ImageName,
    /// Its publication; `None` the newest.
    pub serial: Option<Serial>,
    /// What binds this node and its head to each other.
    pub token: Token,
    /// The head's control channel; `None` listens to announcements.
    pub head: Option<SocketAddr>,
    /// The key that signed the manifest, if it is not the head's own.
    pub key: Option<PublicKey>,
    /// How the network is used.
    pub net: NetOptions,
    /// When all must be done.
    pub deadline: Deadline,
    /// Where events go.
    pub events: Events,
}

/// When something must be done, if ever.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// `patience` from now on; `None` never.
    #[must_use]
    pub fn after(patience: Option<Duration>) -> Self {
        Self(patience.and_then(|patience| Instant::now().checked_add(patience)))
    }

    fn is_over(self) -> bool {
        self.0.is_some_and(|at| Instant::now() >= at)
    }

    /// What is left, at most `most` of it.
    fn left(self, most: Duration) -> Duration {
        let left = self
            .0
            .map(|at| at.saturating_duration_since(Instant::now()));
        left.map_or(most, |left| left.min(most))
    }
}

/// The proof of what a node did.
#[derive(Clone, Debug, Serialize)]
pub struct Receipt {
    /// The version of this document.
    pub v: u32,
    /// The image's name.
    pub image: String,
    /// Its publication.
    pub serial: u64,
    /// BLAKE3 of the bundle, hex.
    pub root: String,
    /// Size of the bundle.
    pub bytes: u64,
    /// Bytes of content that were read back from the target and found right.
    pub bytes_verified: u64,
    /// From the start to the end.
    pub seconds: f64,
    /// From the first wish to the last piece.
    pub seconds_receiving: f64,
    /// What the read-back took.
    pub seconds_verifying: f64,
    /// Where the bytes came from.
    pub shares: Shares,
    /// Share of the sender's datagrams that were lost, 0 to 1.
    pub loss: f64,
    /// Pieces that were completed by the decoder.
    pub pieces_repaired: u64,
    /// Pieces that were discarded because they were wrong.
    pub pieces_poisoned: u64,
    /// How the kernel was asked: `ring` or `plain`; `None` without multicast.
    pub backend: Option<&'static str>,
    /// Why multicast was not enough, if it was not.
    pub causes: Vec<String>,
    /// That what is on this node was read back and is what the manifest says. Never false: without
    /// proof there is no receipt.
    pub verified: bool,
    /// The node's host name.
    pub node: String,
    /// Every counter of the job, by its metric's name.
    pub counters: BTreeMap<&'static str, u64>,
}

/// What a job came to: its proof, and what this node still does for others.
#[derive(Debug)]
pub struct Received {
    /// The proof.
    pub receipt: Receipt,
    seeding: Option<Seeding>,
}

impl Received {
    /// Seeds on while others need it, for `patience` at most.
    pub fn seed_on(self, patience: Duration) {
        if let Some(seeding) = self.seeding {
            seeding.finish(patience);
        }
    }
}

/// What hears of pieces as they come, each once, in any order.
trait Sink {
    /// A piece is verified and stored.
    fn ready(&mut self, piece: PieceIndex) -> Result;
    /// Whether it still makes sense to go on.
    fn check(&mut self) -> Result;
}

/// What threads tell the job.
#[derive(Debug)]
enum Fact {
    /// The multicast thread.
    Heard(listen::Heard),
    /// A courier.
    Brought(courier::Brought),
    /// The torrent's thread.
    Shared(super::swarm::member::Told),
}
