//! The receiver: fills its piece map from what comes by, and tells the sender what it lacks.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;

mod event;

pub use event::{Command, Event, Stats};

use super::keys::{Aes128Gcm, Cipher, Secret};
use super::session::Session;
use super::verify::{PieceHashes, Verify};
use crate::base::{Bitmap, Blocks, Counters, NodeId, Time};
use crate::fec::{Code, RaptorQ};
use crate::machine::{Input, Machine, Output, Transmit};

/// What a receiver is given at its start.
#[derive(Clone, Debug)]
pub struct ReceiverConfig {
    /// What is cast.
    pub session: Session,
    /// The secret of the session's epoch.
    pub secret: Secret,
    /// Where reports go: the head's address and the session's report port.
    pub reports_to: SocketAddr,
    /// This machine's id: 16 bytes freshly drawn for each receiver, never used before.
    pub node: NodeId,
    /// The host name for people.
    pub host: String,
    /// Where pseudo-randomness starts.
    pub seed: u64,
    /// The size of the group socket's receive buffer, in bytes; 0 if unknown.
    pub receive_buffer_bytes: u64,
    /// The pieces that are here already, verified: as long as the bundle has pieces.
    pub have: Bitmap,
}

/// The receiver of one session. The bundle is its file 0.
pub struct Receiver<C: Code = RaptorQ, X: Cipher = Aes128Gcm, V: Verify = PieceHashes> {
    _todo: PhantomData<(C, X, V)>,
}

impl<C: Code, X: Cipher, V: Verify> Receiver<C, X, V> {
    /// Makes a receiver; `blocks` are as large as a piece.
    #[must_use]
    pub fn new(
        config: ReceiverConfig,
        code: C,
        cipher: X,
        verify: V,
        blocks: Box<dyn Blocks>,
        counters: Arc<Counters>,
    ) -> Self {
        drop((config, code, cipher, verify, blocks, counters));
        Self { _todo: PhantomData }
    }
}

impl<C: Code, X: Cipher, V: Verify> Machine for Receiver<C, X, V> {
    type Command = Command;
    type Event = Event;

    fn handle(&mut self, _input: Input<'_, Command>, _now: Time) {}

    fn poll_transmit(&mut self, _now: Time, _buffer: &mut [u8]) -> Option<Transmit> {
        None
    }

    fn poll_output(&mut self) -> Option<Output<Event>> {
        None
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}
