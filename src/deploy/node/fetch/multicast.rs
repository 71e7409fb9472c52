//! What the multicast brings, and how it is joined.

use std::time::Duration;

use super::super::Sink;
use super::super::courier::Errand;
use super::super::fallback::Cause;
use super::super::listen::{Heard, Listening, Start};
use super::Job;
use crate::base::event::{Event, Via};
use crate::base::{PieceIndex, Time};
use crate::deploy::control::JoinReply;
use crate::deploy::error::Result;
use crate::deploy::unhex;
use crate::multicast::Session;
use crate::multicast::receiver::Stats;

/// How long a joined session is left alone before it is asked for again.
const REJOIN_PERIOD: Duration = Duration::from_secs(3);
/// How often a silent group is left and joined again at that pace; then at the next.
const REGROUPS_QUICK: u32 = 3;
/// The time between later attempts.
const REGROUP_PERIOD: Duration = Duration::from_secs(30);

impl Job<'_> {
    pub(super) fn heard(&mut self, heard: Heard, sink: &mut dyn Sink) -> Result {
        let now = self.now();
        match heard {
            Heard::Backend(name) => self.fetched.backend = Some(name),
            Heard::Stored(piece) => {
                self.fallback.piece(now);
                self.swarm.multicast_brought(piece, now);
                self.stored(piece, Via::Multicast, sink)?;
            }
            Heard::Poisoned { piece, abandoned } => {
                self.work.events.warn(format!(
                    "{piece} decoded to wrong bytes and was discarded: the file has changed on the \
                     head, or somebody who holds the group key sends false symbols"
                ));
                self.abandon(piece, abandoned);
            }
            Heard::DiskFailed {
                piece,
                error,
                abandoned,
            } => {
                if error == crate::machine::DiskError::Full {
                    return Err(self.disk_full());
                }
                self.work
                    .events
                    .warn(format!("{piece} was not stored: {error}"));
                self.abandon(piece, abandoned);
            }
            Heard::Insider => self.work.events.warn(
                "somebody who holds the group key sends datagrams in the head's name: a node of this \
                 run may be compromised; every piece is verified before it counts",
            ),
            Heard::UnknownEpoch => self.join(now),
            Heard::Silent => {
                self.is_silent = true;
                self.join(now);
            }
            Heard::Closed => {
                // Another session may follow at once, with symbols that suit more nodes.
                self.listening = None;
                self.fallback.closed(now);
                self.join_backoff.succeeded();
                self.join(now);
            }
            Heard::Alive => {
                if self.regroups > 0 {
                    self.renewed(now);
                }
                (self.is_silent, self.regroups) = (false, 0);
                self.fallback.alive();
                self.swarm.multicast_is_heard(now);
            }
            Heard::Demoted => self.fallback.demoted(),
            Heard::Stats(stats) => {
                let before = self.fetched.stats;
                let received = stats.received.saturating_sub(before.received);
                let lost = stats.lost.saturating_sub(before.lost);
                self.fallback.datagrams(received, lost, now);
                self.fetched.stats = stats;
                self.swarm.multicast_is_at(stats.position);
                self.swarm.multicast_lost(received, lost);
                self.work.events.raise(Event::Node {
                    node: self.work.join.host.clone(),
                    pieces_missing: (self.have.len() - self.have.count()) as u64,
                    loss: stats.loss,
                });
            }
            Heard::Failed(why) => self.cannot_listen(why, now),
        }
        Ok(())
    }

    fn abandon(&mut self, piece: PieceIndex, abandoned: bool) {
        if abandoned && !self.have.get(piece.as_usize()) {
            self.abandoned.insert(piece);
        }
    }

    fn cannot_listen(&mut self, why: String, now: Time) {
        self.listening = None;
        self.fallback.down(Cause::CannotListen(why));
        self.join_backoff.failed(now);
    }

    pub(super) fn join(&mut self, now: Time) {
        if !self.joining && self.join_backoff.is_ready(now) {
            let only_small = self.only_small;
            self.joining = self.couriers.send(Errand::Join { only_small });
        }
    }

    pub(super) fn joined(&mut self, reply: &JoinReply, now: Time) {
        self.join_backoff.succeeded();
        self.refusal = None;
        self.join_backoff.pause(now, REJOIN_PERIOD);
        self.swarm.offered(reply.swarm, now);
        self.ranges_offered = reply.ranges;
        let session = reply.session.as_ref().map(|text| {
            let bytes = unhex(text).ok_or("the head's session is no hex")?;
            let decoded = Session::decode(&bytes).map_err(|e| e.to_string())?;
            if decoded.0.geometry == self.work.manifest.geometry {
                Ok(decoded)
            } else {
                Err("the head's session is of another bundle".to_owned())
            }
        });
        let (session, secret) = match session {
            None => {
                self.listening = None;
                return self.fallback.down(Cause::NotOffered);
            }
            Some(Err(why)) => return self.cannot_listen(why, now),
            Some(Ok(decoded)) => decoded,
        };
        let ip = self.work.head.ip();
        if let Some(listening) = &mut self.listening
            && (listening.is(&session, &secret) || listening.rekey(&session, &secret, ip))
            && !self.must_regroup(now)
        {
            return;
        }
        let is_again = self.listening.take().is_some();
        let start = Start {
            session,
            secret,
            head: ip,
            manifest: self.work.manifest,
            store: self.work.store,
            have: self.have.clone(),
            net: self.work.net,
            counters: self.work.counters,
            facts: &self.facts,
        };
        match Listening::start(&start) {
            Ok(listening) => {
                self.listening = Some(listening);
                if !is_again {
                    self.fallback.joined(now);
                }
                self.fetched.stats = Stats::default();
                self.swarm.multicast_begins();
            }
            Err(error) => self.cannot_listen(error.to_string(), now),
        }
    }

    /// The group was joined again, and something comes: that it had to be is told on both sides,
    /// also when it took so little time that nobody else had to help.
    fn renewed(&mut self, now: Time) {
        let cause = Cause::Renewed;
        self.work.events.warn(cause.to_string());
        self.fetched.cause(&cause);
        self.told = Some(cause);
        self.report_at = now;
    }

    /// Whether the group is left and joined again, because nothing comes though the head sends:
    /// that makes the kernel report its membership, which a switch may have forgotten.
    fn must_regroup(&mut self, now: Time) -> bool {
        let is_silent = self.is_silent || self.cause == Some(Cause::Filtered);
        if !is_silent || now < self.regroup_at {
            return false;
        }
        self.regroups += 1;
        let is_quick = self.regroups <= REGROUPS_QUICK;
        self.regroup_at = now
            + if is_quick {
                REJOIN_PERIOD
            } else {
                REGROUP_PERIOD
            };
        self.work.events.note("the group is joined again");
        true
    }
}
