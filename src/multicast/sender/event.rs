//! What the job tells a sender, and what the sender tells the job.

use std::net::SocketAddr;

use crate::base::{NodeId, PieceIndex};
use crate::machine::DiskError;

/// What the job tells a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Sets the administrator's cap, in bytes of datagrams per second; `None` lifts it.
    RateMax(Option<u64>),
    /// Sets who has the cable first, for two seconds: it is said again while it is so.
    Beside(Beside),
    /// Ends the session: a few farewells, then [`Event::Stopped`].
    Stop,
}

/// What else goes by the cable, and what that means for the rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Beside {
    /// Nothing: the rate follows the loss.
    #[default]
    Nothing,
    /// Something is tried: the rate is this, in bytes of datagrams per second, whatever is lost.
    Trial(u64),
    /// Something that brings much more: the rate is the lowest.
    Better,
}

/// What a sender tells the job.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A receiver's first authentic report came, or it came back.
    Joined {
        /// Who.
        node: NodeId,
        /// Its host name.
        host: String,
        /// Where it reports from.
        from: SocketAddr,
        /// Pieces that it had already.
        pieces_done: u32,
    },
    /// A receiver has every piece, verified and stored.
    NodeDone {
        /// Who.
        node: NodeId,
        /// Its host name.
        host: String,
    },
    /// A receiver that was not done is not served any more.
    NodeGone {
        /// Who.
        node: NodeId,
        /// Its host name.
        host: String,
        /// Why.
        cause: Gone,
        /// Pieces that it lacked.
        pieces_missing: u32,
    },
    /// A receiver cannot follow the group: it is served after the others.
    Demoted {
        /// Who.
        node: NodeId,
        /// Its host name.
        host: String,
        /// Why.
        cause: Lag,
    },
    /// The others are done, or it caught up: a demoted receiver is served again.
    Readmitted {
        /// Who.
        node: NodeId,
        /// Its host name.
        host: String,
    },
    /// Authentic reports of a receiver that is being served come from another machine too, and are
    /// refused: two have one id, or somebody replays what the first said.
    Twin {
        /// Who.
        node: NodeId,
        /// The host name of the first.
        host: String,
        /// Where the first reports from.
        from: SocketAddr,
        /// Where the other reports come from.
        twin: SocketAddr,
    },
    /// A piece could not be read and will not be sent.
    ReadFailed {
        /// Which.
        piece: PieceIndex,
        /// Why.
        error: DiskError,
    },
    /// How it goes; twice a second, and when the rate was lowered.
    Progress(Progress),
    /// Nobody lacks anything any more; raised once each time that this becomes so.
    Idle,
    /// The last farewell is sent; the machine does nothing more.
    Stopped,
}

/// Why a receiver is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It said that it leaves.
    Left,
    /// It was silent for too long.
    Silent,
    /// It was served alone, and got no further.
    NoProgress,
}

/// Why a receiver is demoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lag {
    /// It loses far more of the datagrams than the others do.
    Loss,
    /// It completes far fewer of the pieces that come by: its disk or memory is too slow.
    Pieces,
}

/// How a session goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Bytes of datagrams sent since the start.
    pub bytes_sent: u64,
    /// Bytes of datagrams sent per second, lately.
    pub rate_bytes_per_s: u64,
    /// The rate that the sender has set itself below the cap, if it has.
    pub rate_bytes_per_s_adapted: Option<u64>,
    /// Bytes of datagrams per second that nine receivers in ten get, lately.
    pub arrives_bytes_per_s: u64,
    /// Whether loss keeps it slow, as far as that is known already.
    pub is_held_back: bool,
    /// The loss of the median receiver, 0 to 1.
    pub loss_median: f64,
    /// The loss that nine receivers in ten do not exceed, 0 to 1.
    pub loss_quantile: f64,
    /// The piece that new data is at.
    pub position: u32,
    /// Pieces that anybody lacks.
    pub pieces_lacking: u32,
    /// Receivers that were served and heard something of late.
    pub receiving: u32,
    /// Every receiver that is being served, has been demoted, or was done of late.
    pub nodes: Vec<NodeProgress>,
}

/// How one receiver goes.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeProgress {
    /// Who.
    pub node: NodeId,
    /// Its host name.
    pub host: String,
    /// Where it reports from.
    pub from: SocketAddr,
    /// Pieces that it has.
    pub pieces_done: u32,
    /// Pieces that it lacks.
    pub pieces_missing: u32,
    /// Its loss of late, 0 to 1.
    pub loss: f64,
    /// Datagrams that its kernel has dropped.
    pub dropped: u32,
    /// Whether it is demoted.
    pub is_demoted: bool,
}
