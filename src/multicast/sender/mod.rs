//! The sender: casts the pieces that anybody lacks, in order, going round, and repairs what was lost.

use std::marker::PhantomData;
use std::sync::Arc;

mod event;

pub use event::{Command, Event, Gone, Lag, NodeProgress, Progress};

use super::keys::{Aes128Gcm, Cipher, Secret};
use super::session::Session;
use crate::base::{Blocks, Counters, Time};
use crate::fec::{Code, RaptorQ};
use crate::machine::{Input, Machine, Output, Transmit};

/// What a sender is given at its start.
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// What is cast, and to whom.
    pub session: Session,
    /// Freshly drawn random bytes, never used before.
    pub secret: Secret,
    /// Where pseudo-randomness starts.
    pub seed: u64,
    /// The administrator's cap, in bytes of datagrams per second.
    pub rate_bytes_per_s_max: Option<u64>,
    /// How far to be ahead of the receivers at most; `limits::WINDOW_BYTES_DEFAULT`.
    pub window_bytes: u64,
}

/// The sender of one session. The bundle is its file 0.
pub struct Sender<C: Code = RaptorQ, X: Cipher = Aes128Gcm> {
    _todo: PhantomData<(C, X)>,
}

impl<C: Code, X: Cipher> Sender<C, X> {
    /// Makes a sender; `blocks` are as large as a piece.
    #[must_use]
    pub fn new(
        config: SenderConfig,
        code: C,
        cipher: X,
        blocks: Box<dyn Blocks>,
        counters: Arc<Counters>,
    ) -> Self {
        drop((config, code, cipher, blocks, counters));
        Self { _todo: PhantomData }
    }
}

impl<C: Code, X: Cipher> Machine for Sender<C, X> {
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
