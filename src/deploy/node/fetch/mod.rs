//! The job that completes a piece store: multicast first, the swarm for what that has passed or
//! does not bring, ranges of the head where neither brings anything.
//!
//! ```text
//!   multicast  Heard ──┐                          ┌──► sink
//!   swarm      Shared ─┼──► have, once a piece ──┼──► the others hear of it
//!   couriers   Brought ┘                          └──► report to the head
//! ```
//!
//! One loop owns all state; threads only bring facts. A piece enters `have` once, from whichever
//! source was first, after it was verified and stored; then the sink hears of it.

mod multicast;
mod ranges;
mod swarm;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};

use super::courier::{Brief, Couriers, Errand};
use super::fallback::{Backoff, Cause, Fallback};
use super::listen::{Leaving, Listening};
use super::sharing::Seeding;
use super::{Deadline, Fact, Sink};
use crate::base::counter::Counters;
use crate::base::event::{Event, Events, Phase, Via};
use crate::base::{Bitmap, PieceIndex, Time};
use crate::deploy::control::{Client, JoinRequest, Report, Shares};
use crate::deploy::error::{Error, Kind, Result};
use crate::deploy::net::NetOptions;
use crate::deploy::path::MTU_EVERYWHERE;
use crate::deploy::store::PieceStore;
use crate::image::Manifest;
use crate::multicast::receiver::Stats;
use swarm::Swarm;

/// Facts that may wait for the loop.
const FACTS_MAX: usize = 1024;
/// How often the loop looks at its clocks.
const TICK: Duration = Duration::from_millis(50);
/// How often progress is shown.
const PROGRESS_PERIOD: Duration = Duration::from_millis(250);
/// How often the head hears of this node.
const REPORT_PERIOD: Duration = Duration::from_secs(2);
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
    /// Every cause for which multicast was not enough, in order.
    pub(super) causes: Vec<String>,
    /// The multicast's end: its last reports go out while the job goes on.
    leaving: Option<Leaving>,
    /// What this node does for others, now that it has all.
    pub(super) seeding: Option<Seeding>,
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
    job.note_silence();
    // The loop drains no facts any more: without a reader no thread is held up.
    drop(facts);
    if let Some(listening) = job.listening.take() {
        job.fetched.leaving = Some(listening.farewell());
    }
    match ended {
        Ok(()) => job.fetched.seeding = job.seed_on(),
        Err(_) => job.leave_swarm(),
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
    /// The head gives byte ranges.
    ranges_offered: bool,
    swarm: Swarm,
    fallback: Fallback,
    cause: Option<Cause>,
    /// What was the matter, and is over: the next report says it.
    told: Option<Cause>,
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
            ranges_offered: true,
            swarm: Swarm::default(),
            fallback: Fallback::new(Time::ZERO),
            cause: None,
            told: None,
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
                Ok(Fact::Shared(told)) => self.shared(told, sink)?,
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
        if via != Via::Swarm {
            self.swarm.note(piece);
        }
        if via != Via::Multicast
            && let Some(listening) = &self.listening
        {
            listening.have(piece);
        }
        sink.ready(piece)
    }

    /// All came before it was clear that multicast did not.
    fn note_silence(&mut self) {
        let is_unheard = self.listening.is_some() && self.fallback.is_unheard(self.now());
        if is_unheard && self.fetched.causes.is_empty() {
            self.fetched.causes.push(Cause::Unheard.to_string());
        }
    }

    fn disk_full(&self) -> Error {
        let path = self.work.store.path().display();
        Error::text(Kind::Storage, format!("No space is left for {path}"))
            .hint("free some space, or choose another disk by --work DIR; what is here is kept")
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
        self.share(now);
        if now >= self.report_at {
            self.report_at = now + REPORT_PERIOD;
            let report = Box::new(self.report());
            // A report that finds no courier is made again in two seconds.
            if self.couriers.send(Errand::Report(report)) {
                self.told = None;
            }
        }
        self.check_deadlines(now)
    }

    fn progress(&self) {
        self.work.events.raise(Event::Progress {
            bytes_done: self.fetched.shares.total(),
            bytes_total: self.work.manifest.geometry.bundle_size(),
        });
    }

    fn report(&self) -> Report {
        let cause = self
            .told
            .as_ref()
            .or(self.cause.as_ref())
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
    /// Remembers a cause, once.
    fn cause(&mut self, cause: &Cause) {
        let text = cause.to_string();
        if !self.causes.contains(&text) {
            self.causes.push(text);
        }
    }

    /// Adds what a later job on the same store fetched.
    pub(super) fn follow(&mut self, later: Self) {
        self.shares.add(Via::Multicast, later.shares.multicast);
        self.shares.add(Via::Swarm, later.shares.swarm);
        self.shares.add(Via::Http, later.shares.http);
        self.seeding = later.seeding;
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
