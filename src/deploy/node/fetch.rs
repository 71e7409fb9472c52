//! The job that completes a piece store: multicast first, ranges where it brings nothing.
//!
//! One loop owns all state; threads only bring facts. A piece enters `have` once, from whichever
//! source was first, after it was verified and stored; then the sink hears of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};

use super::courier::{Brief, Brought, COURIERS, Couriers, Errand};
use super::fallback::{Backoff, Cause, Fallback};
use super::listen::{Heard, Leaving, Listening, Start};
use super::{Deadline, Fact, Sink};
use crate::base::counter::Counters;
use crate::base::event::{Event, Events, Phase, Via};
use crate::base::{Bitmap, PieceIndex, Time};
use crate::deploy::control::{Client, JoinReply, JoinRequest, Refusal, Report, Shares};
use crate::deploy::error::{Error, Kind, Result};
use crate::deploy::net::NetOptions;
use crate::deploy::path::MTU_EVERYWHERE;
use crate::deploy::store::PieceStore;
use crate::deploy::unhex;
use crate::image::Manifest;
use crate::multicast::Session;
use crate::multicast::receiver::Stats;

/// Facts that may wait for the loop.
const FACTS_MAX: usize = 1024;
/// How often the loop looks at its clocks.
const TICK: Duration = Duration::from_millis(50);
/// How often progress is shown.
const PROGRESS_PERIOD: Duration = Duration::from_millis(250);
/// How often the head hears of this node.
const REPORT_PERIOD: Duration = Duration::from_secs(2);
/// How long a joined session is left alone before it is asked for again.
const REJOIN_PERIOD: Duration = Duration::from_secs(3);
/// How often a silent group is left and joined again at that pace; then at the next.
const REGROUPS_QUICK: u32 = 3;
/// The time between later attempts.
const REGROUP_PERIOD: Duration = Duration::from_secs(30);
/// How often the head may send wrong bytes of one piece.
const WRONG_MAX: u8 = 3;
/// Nothing new from anywhere for this long ends the job.
const STALL_MAX: Duration = Duration::from_secs(300);

/// What the job works on.
pub(super) struct Work<'a> {
    pub(super) manifest: &'a Arc<Manifest>,
    pub(super) store: &'a PieceStore,
    pub(super) head: SocketAddr,
    pub(super) client: &'a dyn Fn() -> Result<Client>,
    pub(super) join: &'a JoinRequest,
    pub(super) net: &'a NetOptions,
    pub(super) deadline: Deadline,
    pub(super) counters: &'a Arc<Counters>,
    pub(super) events: &'a Events,
}

impl Work<'_> {
    /// The MTU of the interface that multicast comes to.
    fn interface_mtu(&self) -> u32 {
        let interface = self.net.interface_towards(self.head.ip());
        // Without an interface the job tells why when it comes to listening.
        interface.map_or(MTU_EVERYWHERE, |interface| interface.mtu)
    }
}

/// How it went.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    pub(super) shares: Shares,
    pub(super) stats: Stats,
    pub(super) backend: Option<&'static str>,
    /// Every cause for which ranges were fetched, in order.
    pub(super) causes: Vec<String>,
    /// The multicast's end: its last reports go out while the job goes on.
    leaving: Option<Leaving>,
}

/// Completes the store; `have` is what an earlier attempt left, verified.
///
/// # Errors
/// If the deadline passes or nothing comes for minutes, the disk fails, or the head's bundle is
/// damaged.
pub(super) fn fetch(work: &Work<'_>, have: Bitmap, sink: &mut dyn Sink) -> Result<Fetched> {
    let (sender, facts) = crossbeam::channel::bounded(FACTS_MAX);
    let brief = Brief {
        manifest: Arc::clone(work.manifest),
        file: Arc::clone(work.store.file()),
        join: work.join.clone(),
        interface_mtu: work.interface_mtu(),
    };
    let couriers = Couriers::start(brief, work.client, &sender)?;
    let mut job = Job::new(work, have, couriers, sender);
    for piece in job.have.iter() {
        sink.ready(PieceIndex::new(u32::try_from(piece).unwrap_or(u32::MAX)))?;
    }
    work.events.phase(Phase::Receiving);
    let ended = job.run(&facts, sink);
    job.progress();
    if let Some(listening) = job.listening.take() {
        // The loop drains no facts any more: without a reader the thread is never held up.
        drop(facts);
        job.fetched.leaving = Some(listening.farewell());
    }
    ended.map(|()| job.fetched)
}

struct Job<'a> {
    work: &'a Work<'a>,
    origin: Instant,
    have: Bitmap,
    /// Pieces that couriers are fetching.
    fetching: BTreeSet<PieceIndex>,
    /// Pieces that the receiver gave up: ranges bring them, whatever multicast does.
    abandoned: BTreeSet<PieceIndex>,
    wrong: BTreeMap<PieceIndex, u8>,
    couriers: Couriers,
    facts: Sender<Fact>,
    listening: Option<Listening>,
    joining: bool,
    join_backoff: Backoff,
    /// Large datagrams have turned out not to come through.
    only_small: bool,
    /// Nothing is heard from the sender.
    is_silent: bool,
    /// How often the silent group was joined again, and when it may be next.
    regroups: u32,
    regroup_at: Time,
    range_backoff: Backoff,
    fallback: Fallback,
    cause: Option<Cause>,
    /// Why the head did not help when it was asked last.
    refusal: Option<String>,
    piece_at: Time,
    progress_at: Time,
    report_at: Time,
    fetched: Fetched,
}

impl<'a> Job<'a> {
    fn new(work: &'a Work<'a>, have: Bitmap, couriers: Couriers, facts: Sender<Fact>) -> Self {
        let mut fetched = Fetched::default();
        let geometry = work.manifest.geometry;
        let here = geometry.pieces().filter(|piece| have.get(piece.as_usize()));
        let bytes = here.map(|piece| geometry.len(piece) as u64).sum();
        fetched.shares.add(Via::Resume, bytes);
        Self {
            work,
            origin: Instant::now(),
            have,
            fetching: BTreeSet::new(),
            abandoned: BTreeSet::new(),
            wrong: BTreeMap::new(),
            couriers,
            facts,
            listening: None,
            joining: false,
            join_backoff: Backoff::new(),
            only_small: false,
            is_silent: false,
            regroups: 0,
            regroup_at: Time::ZERO,
            range_backoff: Backoff::new(),
            fallback: Fallback::new(Time::ZERO),
            cause: None,
            refusal: None,
            piece_at: Time::ZERO,
            progress_at: Time::ZERO,
            report_at: Time::ZERO,
            fetched,
        }
    }

    fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }

    fn run(&mut self, facts: &Receiver<Fact>, sink: &mut dyn Sink) -> Result {
        while !self.have.is_full() {
            match facts.recv_timeout(TICK) {
                Ok(Fact::Heard(heard)) => self.heard(heard, sink)?,
                Ok(Fact::Brought(brought)) => self.brought(brought, sink)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            self.tick(sink)?;
        }
        Ok(())
    }

    /// A piece is verified and stored.
    fn stored(&mut self, piece: PieceIndex, via: Via, sink: &mut dyn Sink) -> Result {
        if !self.have.set(piece.as_usize()) {
            return Ok(());
        }
        self.piece_at = self.now();
        self.abandoned.remove(&piece);
        let bytes = self.work.manifest.geometry.len(piece) as u64;
        self.fetched.shares.add(via, bytes);
        sink.ready(piece)
    }

    fn heard(&mut self, heard: Heard, sink: &mut dyn Sink) -> Result {
        let now = self.now();
        match heard {
            Heard::Backend(name) => self.fetched.backend = Some(name),
            Heard::Stored(piece) => {
                self.fallback.piece(now);
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
            Heard::Alive => (self.is_silent, self.regroups) = (false, 0),
            Heard::Demoted => self.fallback.demoted(),
            Heard::Stats(stats) => {
                let before = self.fetched.stats;
                let received = stats.received.saturating_sub(before.received);
                let lost = stats.lost.saturating_sub(before.lost);
                self.fallback.datagrams(received, lost, now);
                self.fetched.stats = stats;
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

    fn disk_full(&self) -> Error {
        let path = self.work.store.path().display();
        Error::text(Kind::Storage, format!("No space is left for {path}"))
            .hint("free some space, or choose another disk by --work DIR; what is here is kept")
    }

    fn cannot_listen(&mut self, why: String, now: Time) {
        self.listening = None;
        self.fallback.down(Cause::CannotListen(why));
        self.join_backoff.failed(now);
    }

    fn brought(&mut self, brought: Brought, sink: &mut dyn Sink) -> Result {
        let now = self.now();
        match brought {
            Brought::Piece(piece) => {
                self.range_backoff.succeeded();
                self.refusal = None;
                self.fetching.remove(&piece);
                if let Some(listening) = &self.listening {
                    listening.have(piece);
                }
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

    fn join(&mut self, now: Time) {
        if !self.joining && self.join_backoff.is_ready(now) {
            let only_small = self.only_small;
            self.joining = self.couriers.send(Errand::Join { only_small });
        }
    }

    fn joined(&mut self, reply: &JoinReply, now: Time) {
        self.join_backoff.succeeded();
        self.refusal = None;
        self.join_backoff.pause(now, REJOIN_PERIOD);
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
            }
            Err(error) => self.cannot_listen(error.to_string(), now),
        }
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

    fn tick(&mut self, sink: &mut dyn Sink) -> Result {
        let now = self.now();
        if now >= self.progress_at {
            sink.check()?;
            self.progress();
            self.progress_at = now + PROGRESS_PERIOD;
        }
        if self.listening.is_none() {
            self.join(now);
        }
        self.help(now);
        if now >= self.report_at {
            self.report_at = now + REPORT_PERIOD;
            let report = Box::new(self.report());
            // A report that finds no courier is made again in two seconds.
            let _taken = self.couriers.send(Errand::Report(report));
        }
        self.check_deadlines(now)
    }

    /// Sends couriers for ranges, if multicast needs help.
    fn help(&mut self, now: Time) {
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
                    self.work
                        .events
                        .warn(format!("{text}: byte ranges of the head are fetched"));
                    if !self.fetched.causes.contains(&text) {
                        self.fetched.causes.push(text);
                    }
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
        while self.fetching.len() < COURIERS && self.range_backoff.is_ready(now) {
            let Some(piece) = self.next_range() else {
                return;
            };
            if !self.couriers.send(Errand::Fetch(piece)) {
                return;
            }
            self.fetching.insert(piece);
        }
    }

    /// The piece to fetch as a range: one that multicast gave up; or, while it brings nothing, the
    /// last that is missing, which it would bring last too.
    fn next_range(&self) -> Option<PieceIndex> {
        let free = |piece: &PieceIndex| !self.fetching.contains(piece);
        if let Some(&piece) = self.abandoned.iter().find(|piece| free(piece)) {
            return Some(piece);
        }
        self.cause.as_ref()?;
        let index = |piece: usize| u32::try_from(piece).ok().map(PieceIndex::new);
        let is_missing = |piece: &PieceIndex| !self.have.get(piece.as_usize()) && free(piece);
        if self.listening.is_none() {
            let first = self.have.runs(false).flatten();
            return first.filter_map(index).find(is_missing);
        }
        let count = self.have.len();
        (0..count).rev().filter_map(index).find(is_missing)
    }

    fn progress(&self) {
        self.work.events.raise(Event::Progress {
            bytes_done: self.fetched.shares.total(),
            bytes_total: self.work.manifest.geometry.bundle_size(),
        });
    }

    fn report(&self) -> Report {
        let cause = self
            .cause
            .as_ref()
            .map_or_else(String::new, Cause::to_string);
        Report {
            node: self.work.join.node.clone(),
            host: self.work.join.host.clone(),
            image: self.work.manifest.name.to_string(),
            serial: self.work.manifest.serial.0,
            phase: Phase::Receiving,
            bytes_done: self.fetched.shares.total(),
            bytes_total: self.work.manifest.geometry.bundle_size(),
            shares: self.fetched.shares,
            loss: self.fetched.loss(),
            cause,
        }
    }

    /// Why no source brings what is missing, as far as that is known.
    fn sources(&self) -> String {
        let multicast = self.cause.as_ref().map(|cause| format!(": {cause}"));
        let head = self.refusal.as_ref();
        let head = head.map(|why| format!("; the head {}: {why}", self.work.head));
        [multicast, head].into_iter().flatten().collect()
    }

    fn check_deadlines(&self, now: Time) -> Result {
        let geometry = self.work.manifest.geometry;
        let left = geometry.piece_count() as usize - self.have.count();
        let kept = "what is here is kept: the same command goes on";
        if self.work.deadline.is_over() {
            let sources = self.sources();
            let text = format!("The deadline has passed, {left} pieces are missing{sources}");
            return Err(Error::text(Kind::Network, text).hint(kept));
        }
        if now.since(self.piece_at) > STALL_MAX {
            let text = format!(
                "Nothing has come for {} s, {left} pieces are missing{}",
                STALL_MAX.as_secs(),
                self.sources()
            );
            return Err(Error::text(Kind::Network, text).hint(kept));
        }
        Ok(())
    }
}

impl Fetched {
    /// Adds what a later job on the same store fetched.
    pub(super) fn follow(&mut self, later: Self) {
        self.shares.add(Via::Multicast, later.shares.multicast);
        self.shares.add(Via::Http, later.shares.http);
        self.causes.extend(later.causes);
        self.backend = later.backend.or(self.backend);
    }

    /// The share of the sender's datagrams that were lost, 0 to 1.
    pub(super) fn loss(&self) -> f64 {
        let all = self.stats.received + self.stats.lost;
        #[expect(clippy::cast_precision_loss, reason = "a share, shown with few digits")]
        let share = self.stats.lost as f64 / all.max(1) as f64;
        share
    }
}
