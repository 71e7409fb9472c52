//! What a torrent is given, and what it tells.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::{Bitmap, PieceIndex};
use crate::machine::{Closed, DiskError};
use crate::swarm::Metainfo;
use crate::swarm::cut::Cut;
use crate::swarm::seal::{SealError, SwarmSecret};
use crate::swarm::wire::framer::BadFrame;

/// What a torrent is given at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its names, 20 bytes each: we go by the first, and answer to all.
    pub names: Vec<[u8; 20]>,
    /// What we call ourselves; freshly drawn.
    pub peer_id: [u8; 20],
    /// How it is cut.
    pub cut: Cut,
    /// The pieces that are here already, verified: as long as the torrent has pieces.
    pub have: Bitmap,
    /// Whether everybody waits for this seed: it shows its pieces one by one then, so that each is
    /// sent once (see [`crate::swarm::seeding`]).
    pub is_first_seed: bool,
    /// What seals all streams, between nodes of a run; without it they are BitTorrent in clear.
    pub secret: Option<SwarmSecret>,
    /// Freshly drawn from the system's generator for each torrent: where the nonces of sealed
    /// streams come from.
    pub nonces: [u8; 32],
    /// Where pseudo-randomness starts.
    pub seed: u64,
    /// Where we listen, for peers to tell others.
    pub listen_port: Option<u16>,
    /// The info dictionary, for peers that have only a magnet link.
    pub info: Option<Bytes>,
    /// What peers are told of the hashes of a v2 torrent, and what tells wrong blocks (BEP 52).
    pub metainfo: Option<Arc<Metainfo>>,
    /// Whether peers are told of by the tracker alone.
    pub is_private: bool,
    /// How many blocks the torrent may use.
    pub blocks_max: usize,
    /// Bytes per second that peers are sent at most.
    pub up_max: Option<u64>,
    /// Bytes per second that peers are asked for at most.
    pub down_max: Option<u64>,
}

/// What the job can say.
#[derive(Clone, Debug)]
pub enum Command {
    /// Peers are there.
    Peers(Vec<SocketAddr>),
    /// Peers are there that the user named: they are gone to even if nothing is lacking here.
    Named(Vec<SocketAddr>),
    /// Pieces were verified and stored by other means. Peers hear of them within a [`TICK`].
    ///
    /// [`TICK`]: crate::swarm::limits::TICK
    Have(Vec<PieceIndex>),
    /// The pieces that are to be fetched from peers now, of those that are not here: at first all.
    Want(Bitmap),
    /// Whether peers are served: without, all are choked, and nothing more is shown to them one
    /// by one. At first they are.
    Serve(bool),
    /// End all connections.
    Stop,
}

/// What the job hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A piece was verified and stored.
    PieceStored {
        /// Which.
        piece: PieceIndex,
        /// Who sent most of it.
        from: SocketAddr,
    },
    /// A piece was wrong. It is fetched again.
    PieceWrong {
        /// Which.
        piece: PieceIndex,
        /// How many peers had part in it; of one alone it is certain, and it is banned. Of several
        /// the hashes of the blocks tell it, where the torrent is v2 and a peer gives them.
        peers: usize,
    },
    /// The disk failed. What could not be read is fetched again, and this told to peers (BEP 54);
    /// what could not be written is fetched again when that is wanted.
    DiskFailed {
        /// At which piece.
        piece: PieceIndex,
        /// How.
        error: DiskError,
    },
    /// A peer is there.
    Connected {
        /// Who.
        peer: SocketAddr,
        /// What it calls itself.
        name: [u8; 20],
    },
    /// A peer that was there is gone, or one could not be reached.
    Left {
        /// Who.
        peer: SocketAddr,
        /// Why.
        why: Why,
    },
    /// Every piece is here.
    Complete,
    /// How it goes, about once a second while anything does.
    Stats(Stats),
    /// After [`Command::Stop`]: every connection has ended.
    Stopped,
}

/// Why a peer is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The connection ended.
    Closed(Closed),
    /// It does not keep to the protocol.
    Frame(BadFrame),
    /// A message makes no sense, as the text says.
    Senseless(&'static str),
    /// It has another torrent, or its handshake did not come.
    NotOurs,
    /// Its stream is not sealed by the secret of the run.
    NotSealed(SealError),
    /// It is this node itself, or connected already.
    Twice,
    /// Neither has what the other lacks.
    BothComplete,
    /// It said nothing for too long.
    Silent,
    /// It did not send what it was asked for.
    BrokePromise,
    /// It sent wrong bytes: it is banned.
    SentWrong(PieceIndex),
    /// It sent hashes that do not lead to those of the torrent: it is banned.
    WrongHashes(PieceIndex),
    /// There are too many peers.
    TooMany,
}

impl Why {
    /// Whether the peer meant harm, or is broken: somebody should know.
    #[must_use]
    pub const fn is_harm(&self) -> bool {
        matches!(
            self,
            Self::SentWrong(_) | Self::WrongHashes(_) | Self::NotSealed(_)
        )
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(closed) => closed.fmt(f),
            Self::Frame(bad) => bad.fmt(f),
            Self::Senseless(what) => f.write_str(what),
            Self::NotOurs => f.write_str("It did not name this torrent"),
            Self::NotSealed(error) => error.fmt(f),
            Self::Twice => f.write_str("It is this node, or connected already"),
            Self::BothComplete => f.write_str("It lacks nothing, and nothing is lacking here"),
            Self::Silent => f.write_str("It said nothing for too long"),
            Self::BrokePromise => f.write_str("It did not send what it was asked for"),
            Self::SentWrong(piece) => write!(f, "It sent wrong bytes of {piece} and is banned"),
            Self::WrongHashes(piece) => {
                write!(f, "It sent wrong hashes of {piece} and is banned")
            }
            Self::TooMany => f.write_str("Too many peers are connected"),
        }
    }
}

/// How it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Pieces here.
    pub pieces_done: u32,
    /// Peers that have said who they are.
    pub peers: usize,
    /// Of those, peers that lack pieces and want them (BEP 21).
    pub peers_lacking: usize,
    /// Bytes of blocks that came, useful or not.
    pub bytes_in: u64,
    /// Of those, bytes that were of no use.
    pub bytes_wasted: u64,
    /// Bytes of blocks that were sent.
    pub bytes_out: u64,
}
