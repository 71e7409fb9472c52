//! What couriers bring, and when they are sent for byte ranges.

use super::super::Sink;
use super::super::courier::{Brought, COURIERS, Errand};
use super::super::fallback::Cause;
use super::Job;
use crate::base::event::Via;
use crate::base::{PieceIndex, Time};
use crate::deploy::control::Refusal;
use crate::deploy::error::{Error, Kind, Result};

/// How often the head may send wrong bytes of one piece.
const WRONG_MAX: u8 = 3;

impl Job<'_> {
    pub(super) fn brought(&mut self, brought: Brought, sink: &mut dyn Sink) -> Result {
        let now = self.now();
        match brought {
            Brought::Piece(piece) => {
                self.range_backoff.succeeded();
                self.refusal = None;
                self.fetching.remove(&piece);
                self.stored(piece, Via::Http, sink)
            }
            Brought::WrongPiece(piece) => {
                self.fetching.remove(&piece);
                self.range_backoff.failed(now);
                let count = self.wrong.entry(piece).or_default();
                *count += 1;
                if *count < WRONG_MAX {
                    return Ok(());
                }
                let text = format!("The head's {piece} is not what its manifest says");
                Err(Error::text(Kind::Integrity, text)
                    .hint("on the head: flashover image verify NAME"))
            }
            Brought::NotStored(piece, error) => {
                self.fetching.remove(&piece);
                if error.kind() == std::io::ErrorKind::StorageFull {
                    return Err(self.disk_full());
                }
                Err(Error::new(Kind::Storage, error))
            }
            Brought::NoPiece(piece, refusal) => {
                self.fetching.remove(&piece);
                self.range_backoff.failed(now);
                self.refused(refusal, now)
            }
            Brought::Peers(reply) => {
                self.told_of_peers(reply, now);
                Ok(())
            }
            Brought::Joined(reply) => {
                self.joining = false;
                match reply {
                    Ok(reply) => self.joined(&reply, now),
                    Err(refusal) => {
                        self.join_backoff.failed(now);
                        if let (None, Refusal::IdTaken(why)) = (&self.listening, &refusal) {
                            self.fallback.down(Cause::IdTaken(why.clone()));
                        }
                        self.refused(refusal, now)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// What the head refuses for good ends the job, unless multicast goes on without it.
    fn refused(&mut self, refusal: Refusal, now: Time) -> Result {
        self.refusal = Some(refusal.to_string());
        if refusal.is_passing() || (self.listening.is_some() && self.fallback.flows(now)) {
            tracing::debug!(%refusal, "The head did not help");
            return Ok(());
        }
        Err(refusal.into())
    }

    /// Sends couriers for ranges, if multicast needs help.
    pub(super) fn help(&mut self, now: Time) {
        // Before the first answer to a join nothing is known about multicast.
        let cause = if self.joining && self.listening.is_none() && self.cause.is_none() {
            None
        } else {
            self.fallback.cause(now)
        };
        if cause != self.cause {
            match &cause {
                Some(cause) => {
                    let text = cause.to_string();
                    let instead = match (self.swarm.is_joined(), self.swarm.is_offered()) {
                        (true, _) => "other nodes bring what is missing",
                        (false, true) => "other nodes are asked for what is missing",
                        (false, false) => "byte ranges of the head are fetched",
                    };
                    self.work.events.warn(format!("{text}: {instead}"));
                    self.fetched.cause(cause);
                }
                None => self.work.events.note("multicast brings pieces again"),
            }
            self.cause = cause;
            self.report_at = now;
        }
        self.only_small |= self.cause == Some(Cause::TooLarge);
        if let Some(Cause::Silent | Cause::Filtered | Cause::TooLarge) = self.cause {
            self.join(now);
        }
        let is_ready = self.ranges_offered && self.range_backoff.is_ready(now);
        while is_ready && self.fetching.len() < COURIERS {
            let Some(piece) = self.next_range(now) else {
                return;
            };
            if !self.couriers.send(Errand::Fetch(piece)) {
                return;
            }
            self.fetching.insert(piece);
        }
    }

    /// The piece to fetch as a range: one that multicast gave up; or, while neither that nor the
    /// swarm brings anything, the last that is missing, which multicast would bring last too.
    fn next_range(&self, now: Time) -> Option<PieceIndex> {
        let free = |piece: &PieceIndex| !self.fetching.contains(piece);
        if let Some(&piece) = self.abandoned.iter().find(|piece| free(piece)) {
            return Some(piece);
        }
        if self.cause.is_none() || self.swarm.brings(now) {
            return None;
        }
        let index = |piece: usize| u32::try_from(piece).ok().map(PieceIndex::new);
        let is_missing = |piece: &PieceIndex| !self.have.get(piece.as_usize()) && free(piece);
        if self.listening.is_none() {
            let first = self.have.runs(false).flatten();
            return first.filter_map(index).find(is_missing);
        }
        let count = self.have.len();
        (0..count).rev().filter_map(index).find(is_missing)
    }
}
