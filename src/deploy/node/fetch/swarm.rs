//! What the swarm brings, and what is wished of it.
//!
//! While multicast flows, the swarm brings what that has passed and this node missed, which comes
//! by multicast last, if at all; and what multicast will not bring for long, as far as other nodes
//! have that or the head shares it out. Without multicast it brings everything.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::super::Sink;
use super::super::courier::Errand;
use super::super::sharing::{Join, Place, Seeding, Sharing};
use super::Job;
use crate::base::event::Via;
use crate::base::{Bitmap, PieceIndex, Time};
use crate::deploy::control::{PeersReply, Refusal, Swarming};
use crate::deploy::error::Result;
use crate::deploy::swarm::member::Told;
use crate::engine::net::{Listener, any_address};
use crate::machine::DiskError;
use crate::multicast::limits::INTERLEAVE;
use crate::swarm::torrent::Event;

/// How often the swarm hears what is wished of it.
const WISH_PERIOD: Duration = Duration::from_millis(50);
/// Who has no peer asks for some after this long; then after twice as long, up to what the head
/// says.
const ALONE_PAUSE: Duration = Duration::from_secs(1);
/// The time between two attempts to hear of peers from a head that does not answer.
const ABSENT_PAUSE: Duration = Duration::from_secs(5);
/// What multicast has passed for this long it will not repair soon.
const REPAIR_PATIENCE: Duration = Duration::from_secs(1);
/// The time over which the rates of multicast and swarm are compared.
const RATE_WINDOW: Duration = Duration::from_secs(3);
/// What multicast brings only after so many times as long may come from others.
const FAR_WINDOWS: u32 = 3;
/// The swarm outruns multicast if of late it brought at least so many pieces,
const OUTRUN_MIN: usize = 8;
/// and so many times as many.
const OUTRUN_TIMES: usize = 4;
/// Pieces that may be under way beside the newest that came.
const INTERLEAVED: u32 = 8;
const _: () = assert!(INTERLEAVED as usize >= 2 * INTERLEAVE);
/// The swarm is expected to bring something within this time.
const SWARM_PATIENCE: Duration = Duration::from_secs(2);

/// What the job knows of the swarm.
#[derive(Default)]
pub(super) struct Swarm {
    /// Where peers will connect, until the swarm is joined.
    listener: Option<Listener>,
    sharing: Option<Sharing>,
    /// The head has one.
    is_offered: bool,
    is_asking: bool,
    ask_at: Time,
    alone_pause: Duration,
    /// What came by other means, and the swarm has not heard of.
    untold: Vec<PieceIndex>,
    wish: Option<Wish>,
    wish_at: Time,
    passed: Passed,
    bytes_in: u64,
    /// When it brought something last, or was first expected to.
    moved_at: Time,
}

/// Which pieces multicast has passed: it sends them in order, a few at a time, and what is lost of
/// them soon after; then it goes round.
#[derive(Debug, Default)]
struct Passed {
    /// The piece before which all has passed.
    before: u32,
    /// The newest pieces that came, each newer than the one before, with the time.
    news: VecDeque<(Time, u32)>,
    newest: u32,
    position: u32,
    /// When pieces came by multicast of late, and when the first of it was heard.
    came: VecDeque<Time>,
    began: Option<Time>,
    /// Whether that is enough to go by.
    is_known: bool,
    /// When pieces came by the swarm of late, and how many did in the best such time.
    came_by_swarm: VecDeque<Time>,
    most_by_swarm: usize,
}

impl Passed {
    /// The piece from which on multicast brings nothing for long, if that is known.
    fn far(&mut self, now: Time) -> Option<u32> {
        for came in [&mut self.came, &mut self.came_by_swarm] {
            while came.front().is_some_and(|&at| now.since(at) >= RATE_WINDOW) {
                came.pop_front();
            }
        }
        self.is_known |= self.began.is_some_and(|at| now.since(at) >= RATE_WINDOW);
        let by_multicast = self.came.len();
        if !self.is_known {
            return None;
        }
        self.most_by_swarm = self.most_by_swarm.max(self.came_by_swarm.len());
        let ahead = if self.most_by_swarm > 2 * by_multicast {
            // So much more can come by the swarm that all may.
            0
        } else {
            u32::try_from(by_multicast).unwrap_or(u32::MAX) * FAR_WINDOWS
        };
        let far = self
            .newest
            .saturating_add(ahead)
            .saturating_add(INTERLEAVED);
        // Not with every piece another.
        Some(far.next_multiple_of(INTERLEAVED))
    }

    /// Whether the swarm brings so much more that multicast is not waited for; what is counted is
    /// kept by [`Passed::far`].
    fn is_outrun(&self) -> bool {
        self.is_known && self.came_by_swarm.len() >= OUTRUN_MIN.max(OUTRUN_TIMES * self.came.len())
    }

    fn sender_is_at(&mut self, position: u32) {
        if position < self.position {
            // It goes round.
            self.news.clear();
            self.newest = position;
            self.before = self.before.min(position);
        }
        self.position = position;
    }

    fn brought(&mut self, piece: PieceIndex, now: Time) {
        self.came.push_back(now);
        if piece.get() > self.newest {
            self.newest = piece.get();
            self.news.push_back((now, self.newest));
        }
    }

    /// Of what multicast has passed, others have all: that says nothing of what is to come.
    fn swarm_brought(&mut self, piece: PieceIndex, now: Time) {
        if piece.get() > self.newest {
            self.came_by_swarm.push_back(now);
        }
    }

    /// The piece before which all has passed, and was not repaired since.
    fn before(&mut self, now: Time) -> u32 {
        while let Some((at, piece)) = self.news.front().copied()
            && now.since(at) >= REPAIR_PATIENCE
        {
            self.before = piece.saturating_sub(INTERLEAVED);
            self.news.pop_front();
        }
        self.before
    }
}

/// What is wished of the swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    /// All pieces before this one,
    before: u32,
    /// those from this one on,
    from: u32,
    /// and these,
    too: BTreeSet<PieceIndex>,
    /// but not these.
    not: BTreeSet<PieceIndex>,
}

impl Wish {
    fn pieces(&self, count: u32) -> Bitmap {
        let mut pieces = Bitmap::new(count as usize);
        let wished = (0..self.before.min(count)).chain(self.from.max(self.before)..count);
        let wished = wished.map(PieceIndex::new);
        for piece in wished.chain(self.too.iter().copied()) {
            if !self.not.contains(&piece) {
                pieces.set(piece.as_usize());
            }
        }
        pieces
    }
}

impl Swarm {
    /// The head does or does not have one.
    pub(super) fn offered(&mut self, is_offered: bool, now: Time) {
        if is_offered && !self.is_offered {
            (self.ask_at, self.alone_pause) = (now, ALONE_PAUSE);
        }
        self.is_offered = is_offered;
    }

    /// A piece came by other means.
    pub(super) fn note(&mut self, piece: PieceIndex) {
        if self.sharing.is_some() {
            self.untold.push(piece);
        }
    }

    /// Where multicast is now, of which this node hears once a second.
    pub(super) fn multicast_is_at(&mut self, position: u32) {
        self.passed.sender_is_at(position);
    }

    /// So many datagrams came in the last second, and so many were lost: where many are, it is
    /// clear at once that multicast brings little.
    pub(super) const fn multicast_lost(&mut self, received: u64, lost: u64) {
        self.passed.is_known |= lost > received / 2;
    }

    /// The first of a multicast was heard, or the first after a silence.
    pub(super) fn multicast_is_heard(&mut self, now: Time) {
        self.passed.began.get_or_insert(now);
    }

    /// Multicast has brought a piece.
    pub(super) fn multicast_brought(&mut self, piece: PieceIndex, now: Time) {
        self.passed.brought(piece, now);
    }

    /// A multicast begins: nothing of it has passed.
    pub(super) fn multicast_begins(&mut self) {
        self.passed = Passed::default();
    }

    /// Whether it brings pieces, or can be expected to any moment.
    pub(super) fn brings(&self, now: Time) -> bool {
        self.sharing.is_some() && now.since(self.moved_at) < SWARM_PATIENCE
    }

    /// Whether there is one, and this node can be in it.
    pub(super) const fn is_offered(&self) -> bool {
        self.is_offered
    }

    /// Whether this node has joined it.
    pub(super) const fn is_joined(&self) -> bool {
        self.sharing.is_some()
    }

    fn tell_untold(&mut self) {
        let Some(sharing) = &self.sharing else {
            return;
        };
        if !self.untold.is_empty() && sharing.have(self.untold.clone()) {
            self.untold.clear();
        }
    }
}

impl Job<'_> {
    /// Does what is due.
    pub(super) fn share(&mut self, now: Time) {
        if !self.swarm.is_offered && self.swarm.sharing.is_none() {
            return;
        }
        if !self.swarm.is_asking && now >= self.swarm.ask_at {
            self.ask_for_peers(now);
        }
        if now >= self.swarm.wish_at {
            self.swarm.wish_at = now + WISH_PERIOD;
            self.swarm.tell_untold();
            self.wish(now);
        }
    }

    fn place(&self) -> Place {
        Place {
            node: self.work.join.node.clone(),
            manifest: self.work.manifest.clone(),
            net: self.work.net.clone(),
        }
    }

    fn ask_for_peers(&mut self, now: Time) {
        let Some(port) = self.swarm_port() else {
            self.swarm.is_offered = false;
            return;
        };
        let request = self
            .place()
            .request(port, self.have.count(), Swarming::Leeching);
        self.swarm.is_asking = self.couriers.send(Errand::Peers(request));
        self.swarm.ask_at = now + ALONE_PAUSE;
    }

    /// Where peers connect, or will.
    fn swarm_port(&mut self) -> Option<u16> {
        if let Some(sharing) = &self.swarm.sharing {
            return Some(sharing.port());
        }
        if self.swarm.listener.is_none() {
            let any = any_address(self.work.head.ip(), 0).ip();
            match self.work.net.listen_for_peers(any) {
                Ok(listener) => self.swarm.listener = Some(listener),
                Err(error) => self.work.events.warn(error.to_string()),
            }
        }
        self.swarm.listener.as_ref().map(|at| at.local().port())
    }

    /// The head has told of peers, or not.
    pub(super) fn told_of_peers(&mut self, reply: Result<PeersReply, Refusal>, now: Time) {
        self.swarm.is_asking = false;
        match reply {
            Ok(reply) => {
                self.join_swarm(&reply, now);
                let usual = Duration::from_secs(reply.interval_s).max(ALONE_PAUSE);
                let sharing = self.swarm.sharing.as_ref();
                let stats = sharing.and_then(Sharing::stats);
                let is_alone = stats.is_none_or(|stats| stats.peers == 0);
                let pause = if is_alone {
                    self.swarm.alone_pause.min(usual)
                } else {
                    usual
                };
                self.swarm.alone_pause = pause * 2;
                self.swarm.ask_at = now + pause;
            }
            Err(Refusal::NotFound(why)) => {
                tracing::debug!(why, "The head has no swarm");
                self.swarm.is_offered = false;
            }
            Err(refusal) => {
                tracing::debug!(%refusal, "The head does not tell of peers");
                self.swarm.ask_at = now + ABSENT_PAUSE;
                if let Some(sharing) = &mut self.swarm.sharing {
                    sharing.discover(self.work.net);
                }
            }
        }
    }

    fn join_swarm(&mut self, reply: &PeersReply, now: Time) {
        if let Some(sharing) = &self.swarm.sharing {
            return sharing.meet(reply);
        }
        let Some(listener) = self.swarm.listener.take() else {
            return;
        };
        let join = Join {
            manifest: self.work.manifest,
            store: self.work.store,
            have: self.have.clone(),
            head: self.work.head.ip(),
            net: self.work.net,
            facts: &self.facts,
        };
        match Sharing::start(join, listener, reply) {
            Ok(sharing) => {
                self.swarm.sharing = Some(sharing);
                self.swarm.moved_at = now;
                self.wish(now);
            }
            Err(error) => self.swarm_failed(&error.to_string()),
        }
    }

    fn swarm_failed(&mut self, why: &str) {
        (self.swarm.sharing, self.swarm.is_offered) = (None, false);
        let text = format!("This node is not in the swarm of the others: {why}");
        self.work.events.warn(text);
    }

    /// Tells the swarm what is wished of it, if that has changed.
    fn wish(&mut self, now: Time) {
        let count = self.work.manifest.geometry.piece_count();
        let passed = self.swarm.passed.before(now);
        let far = self.swarm.passed.far(now).unwrap_or(count);
        let is_hopeful = self.cause.is_none()
            && (self.listening.is_some() || self.joining)
            && !self.swarm.passed.is_outrun()
            && !self.fallback.is_unheard(now);
        let wish = Wish {
            before: if is_hopeful { passed } else { count },
            from: far,
            too: self.abandoned.clone(),
            not: self.fetching.clone(),
        };
        let Some(sharing) = &self.swarm.sharing else {
            return;
        };
        let before = self.swarm.wish.as_ref();
        if before == Some(&wish) {
            return;
        }
        if before.is_none_or(|before| before.before < wish.before) {
            self.swarm.moved_at = now;
        }
        tracing::debug!(?wish, is_hopeful, "What is wished of the swarm");
        if sharing.want(wish.pieces(count)) {
            self.swarm.wish = Some(wish);
        }
    }

    pub(super) fn shared(&mut self, told: Told, sink: &mut dyn Sink) -> Result {
        let now = self.now();
        match told {
            Told::Backend(name) => {
                self.fetched.backend.get_or_insert(name);
            }
            Told::Failed(why) => self.swarm_failed(&why),
            Told::Event(Event::PieceStored { piece, .. }) => {
                self.swarm.moved_at = now;
                self.swarm.passed.swarm_brought(piece, now);
                return self.stored(piece, Via::Swarm, sink);
            }
            Told::Event(Event::Stats(stats)) => {
                if stats.bytes_in > self.swarm.bytes_in {
                    self.swarm.bytes_in = stats.bytes_in;
                    self.swarm.moved_at = now;
                }
            }
            Told::Event(Event::DiskFailed { piece, error }) => {
                if error == DiskError::Full {
                    return Err(self.disk_full());
                }
                let text = format!("{piece} could not be moved to or from the disk: {error}");
                self.work.events.warn(text);
            }
            Told::Event(Event::Left { peer, why }) if why.is_harm() => {
                self.work.events.warn(format!("{peer}: {why}"));
            }
            Told::Event(Event::Left { peer, why }) => {
                tracing::debug!(%peer, %why, "A peer left");
            }
            Told::Event(Event::Connected { peer, .. }) => tracing::debug!(%peer, "A peer came"),
            Told::Event(Event::PieceWrong { .. } | Event::Complete | Event::Stopped) => {}
        }
        Ok(())
    }

    /// All is here: gives what it may seed on by.
    pub(super) fn seed_on(&mut self) -> Option<Seeding> {
        self.swarm.tell_untold();
        let sharing = self.swarm.sharing.take()?;
        let seeding = (self.work.client)().and_then(|client| sharing.seed(client, self.place()));
        seeding
            .inspect_err(|error| tracing::debug!(%error, "This node does not seed on"))
            .ok()
    }

    /// The job ends without all pieces.
    pub(super) fn leave_swarm(&mut self) {
        drop(self.swarm.sharing.take());
    }
}
