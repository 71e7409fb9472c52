//! What the job tells a receiver, and what the receiver tells the job.

use std::net::SocketAddr;

use crate::base::{Block, EpochId, PieceIndex, Time};
use crate::machine::DiskError;

use crate::multicast::keys::Secret;

/// What the job tells a receiver.
#[derive(Clone, Debug)]
pub enum Command {
    /// A piece came another way and is verified and stored.
    Have(PieceIndex),
    /// The sender's new start: its epoch and secret, and where it takes reports now.
    Key {
        /// The epoch.
        epoch: EpochId,
        /// The secret.
        secret: Secret,
        /// Where reports go.
        reports_to: SocketAddr,
    },
    /// Ends: a farewell report, then [`Event::Stopped`].
    Stop,
}

/// What a receiver tells the job.
#[derive(Debug)]
pub enum Event {
    /// A piece is verified and written; its bytes are at the front of `block`, which goes back to
    /// its pool when it is dropped.
    PieceStored {
        /// Which.
        piece: PieceIndex,
        /// Its bytes, `len` of them.
        block: Block,
        /// How long the piece is.
        len: usize,
    },
    /// A piece decoded to wrong bytes and was discarded.
    PiecePoisoned {
        /// Which.
        piece: PieceIndex,
        /// It went wrong too often: the receiver does not ask for it any more.
        abandoned: bool,
    },
    /// A verified piece could not be written; it is missing again.
    DiskFailed {
        /// Which.
        piece: PieceIndex,
        /// Why.
        error: DiskError,
        /// It failed too often: the receiver does not ask for it any more.
        abandoned: bool,
    },
    /// Every piece is here, verified and written.
    Complete,
    /// No authentic datagram has come for a while.
    Silent {
        /// Since when.
        since: Time,
    },
    /// The sender is heard: for the first time, or again.
    Alive,
    /// Datagrams of this session came under a key that the receiver does not have: the sender may
    /// have started anew.
    UnknownEpoch(EpochId),
    /// A second content came under a number that had one, and both are authentic: somebody who
    /// holds the group's key sends in the sender's name.
    Insider,
    /// The sender does not wait for this receiver any more; raised once each time.
    Demoted,
    /// The sender ended the session.
    Closed,
    /// How it goes; once per second.
    Stats(Stats),
    /// All reports are sent; the machine does nothing more.
    Stopped,
}

/// How a receiver goes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Authentic datagrams since the start.
    pub received: u64,
    /// Datagrams that the sender numbered and that did not come, since the start.
    pub lost: u64,
    /// The share of the last second's datagrams that was lost, 0 to 1.
    pub loss: f64,
    /// Datagrams that the own kernel dropped, since the start.
    pub dropped: u32,
    /// Pieces complete.
    pub pieces_done: u32,
    /// Pieces begun.
    pub pieces_begun: u32,
    /// The piece that the sender's new data is at.
    pub position: u32,
    /// How many receivers the sender serves.
    pub receivers: u32,
}
