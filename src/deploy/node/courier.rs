//! Couriers: threads that do the node's slow errands at the head, so that the job never waits.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, TrySendError};

use super::Fact;
use crate::base::PieceIndex;
use crate::deploy::control::{
    Client, JoinReply, JoinRequest, PeersReply, PeersRequest, Refusal, Report,
};
use crate::deploy::error::{Kind, OrKind as _, Result};
use crate::deploy::path::{MTU_EVERYWHERE, mtu_from};
use crate::image::Manifest;
use crate::image::hash::piece_value;

/// Couriers at a time; also the ranges that are fetched at a time.
pub(super) const COURIERS: usize = 2;
/// Errands that may wait.
const ERRANDS_MAX: usize = 8;

/// What a courier is sent for.
#[derive(Debug)]
pub(super) enum Errand {
    /// Fetch a piece, verify and store it.
    Fetch(PieceIndex),
    /// Join the multicast, or hear its new key.
    Join {
        /// Whether large datagrams are known not to come through, whatever else was found.
        only_small: bool,
    },
    /// Hear of peers in the swarm.
    Peers(PeersRequest),
    /// Tell the head how it goes.
    Report(Box<Report>),
}

/// What a courier brings back.
#[derive(Debug)]
pub(super) enum Brought {
    /// A piece is verified and stored.
    Piece(PieceIndex),
    /// The head's bytes of a piece are wrong.
    WrongPiece(PieceIndex),
    /// A piece could not be stored.
    NotStored(PieceIndex, std::io::Error),
    /// A piece was not to be had.
    NoPiece(PieceIndex, Refusal),
    /// The head's peers, or why it tells of none.
    Peers(Result<PeersReply, Refusal>),
    /// The answer to a join.
    Joined(Result<JoinReply, Refusal>),
}

/// What all couriers know.
#[derive(Debug)]
pub(super) struct Brief {
    pub(super) manifest: Arc<Manifest>,
    pub(super) file: Arc<File>,
    pub(super) join: JoinRequest,
    /// The MTU of the interface that multicast comes to.
    pub(super) interface_mtu: u32,
}

/// The couriers; dropping them lets them finish what they do, and end.
#[derive(Debug)]
pub(super) struct Couriers {
    errands: Option<Sender<Errand>>,
    threads: Vec<JoinHandle<()>>,
}

impl Couriers {
    /// Starts the couriers; each gets a client.
    ///
    /// # Errors
    /// If a client or a thread cannot be made.
    pub(super) fn start(
        brief: Brief,
        client: impl Fn() -> Result<Client>,
        facts: &Sender<Fact>,
    ) -> Result<Self> {
        let (sender, errands) = crossbeam::channel::bounded(ERRANDS_MAX);
        let brief = Arc::new(brief);
        let mut couriers = Self {
            errands: Some(sender),
            threads: Vec::new(),
        };
        for index in 0..COURIERS {
            let (client, errands, facts) = (client()?, errands.clone(), facts.clone());
            let brief = Arc::clone(&brief);
            let thread = std::thread::Builder::new()
                .name(format!("courier-{index}"))
                .spawn(move || run(&brief, client, &errands, &facts))
                .or_kind(Kind::Internal)?;
            couriers.threads.push(thread);
        }
        Ok(couriers)
    }

    /// Sends a courier; gives false when too many errands wait.
    pub(super) fn send(&self, errand: Errand) -> bool {
        let sent = self
            .errands
            .as_ref()
            .map(|errands| errands.try_send(errand));
        match sent {
            Some(Ok(())) => true,
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => false,
        }
    }
}

impl Drop for Couriers {
    fn drop(&mut self) {
        // Threads are not joined: one may wait for a dead head until its deadline, and what it
        // would bring is wanted no more.
        drop(self.errands.take());
    }
}

fn run(brief: &Brief, mut client: Client, errands: &Receiver<Errand>, facts: &Sender<Fact>) {
    for errand in errands {
        let brought = match errand {
            Errand::Fetch(piece) => fetch(brief, &mut client, piece),
            Errand::Join { only_small } => join(brief, &mut client, only_small),
            Errand::Peers(request) => {
                let Manifest { name, serial, .. } = &*brief.manifest;
                Brought::Peers(client.peers(name.as_str(), *serial, &request))
            }
            Errand::Report(report) => {
                if let Err(error) = client.report(&report) {
                    tracing::debug!(%error, "A report was not taken");
                }
                continue;
            }
        };
        if facts.send(Fact::Brought(brought)).is_err() {
            return;
        }
    }
}

fn join(brief: &Brief, client: &mut Client, only_small: bool) -> Brought {
    let small = if only_small { MTU_EVERYWHERE } else { u32::MAX };
    let request = JoinRequest {
        mtu: mtu_from(client, brief.interface_mtu.min(small)),
        ..brief.join.clone()
    };
    let manifest = &brief.manifest;
    Brought::Joined(client.join(manifest.name.as_str(), manifest.serial, &request))
}

fn fetch(brief: &Brief, client: &mut Client, piece: PieceIndex) -> Brought {
    let manifest = &brief.manifest;
    let geometry = manifest.geometry;
    let range = geometry.range(piece);
    let bytes = match client.range(manifest.name.as_str(), manifest.serial, range) {
        Ok(bytes) => bytes,
        Err(refusal) => return Brought::NoPiece(piece, refusal),
    };
    if piece_value(geometry, piece, &bytes) != manifest.pieces[piece.as_usize()] {
        return Brought::WrongPiece(piece);
    }
    match brief.file.write_all_at(&bytes, geometry.offset(piece)) {
        Ok(()) => Brought::Piece(piece),
        Err(error) => Brought::NotStored(piece, error),
    }
}
