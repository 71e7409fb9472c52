//! The client: when to announce to which tracker.
//!
//! ```text
//!   poll ─► Ask { tracker, announce } ─► answered ─► waits the tracker's interval
//!                                    └─► failed ──► the next tracker; after the last, backoff
//! ```
//!
//! One announcement is under way at a time. Trackers are tried tier by tier; one that answers comes
//! first in its tier from then on. `Completed` is said once, if this client fetched the last piece
//! itself; `Stopped` is said to the tracker that knows of us, and is the last thing said. The
//! announcer owns its schedule; whoever runs it brings the torrent's counts and the addresses.
//!
//! Source: BEP 3 "trackers", BEP 12.

#[cfg(test)]
mod tests;

use std::time::Duration;

use super::limits::{BACKOFF_MAX, BACKOFF_MIN, INTERVAL_MAX, INTERVAL_MIN, TRACKERS_MAX};
use super::{Announce, Event, Reply, TrackerUrl};
use crate::base::Time;
use crate::base::random::Random;

/// What does not change while a client runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The torrent.
    pub info_hash: [u8; 20],
    /// This client.
    pub peer_id: [u8; 20],
    /// Where it listens.
    pub port: u16,
    /// Random, kept to itself.
    pub key: u32,
}

/// What a client has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes sent.
    pub uploaded: u64,
    /// Bytes fetched.
    pub downloaded: u64,
    /// Bytes lacking.
    pub left: u64,
}

/// An announcement to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// To whom.
    pub tracker: TrackerUrl,
    /// What that tracker wants back.
    pub tracker_id: Option<Vec<u8>>,
    /// What to say.
    pub announce: Announce,
}

/// See the module.
#[derive(Debug)]
pub struct Announcer {
    identity: Identity,
    /// Trackers with the ids they gave, in tiers.
    tiers: Vec<Vec<Known>>,
    /// Which one is asked now or next: tier and place in it.
    at: (usize, usize),
    state: State,
    next_at: Time,
    backoff: Duration,
    /// The one that knows of us.
    home: Option<TrackerUrl>,
    random: Random,
    must_complete: bool,
    must_stop: bool,
    /// What is being said.
    event: Event,
}

#[derive(Clone, Debug)]
struct Known {
    url: TrackerUrl,
    id: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is under way.
    Idle,
    /// An answer is awaited.
    Asking,
    /// All is said.
    Ended,
}

impl Announcer {
    /// An announcer to `tiers` of trackers, shuffled by `seed` as BEP 12 wants. Trackers beyond
    /// [`TRACKERS_MAX`] are left out; without any it is silent.
    #[must_use]
    pub fn new(identity: Identity, tiers: &[Vec<TrackerUrl>], seed: u64, now: Time) -> Self {
        let mut announcer = Self {
            identity,
            tiers: Vec::new(),
            at: (0, 0),
            state: State::Idle,
            next_at: now,
            backoff: BACKOFF_MIN,
            home: None,
            random: Random::new(seed),
            must_complete: false,
            must_stop: false,
            event: Event::None,
        };
        let mut room = TRACKERS_MAX;
        for tier in tiers {
            let known = |url: &TrackerUrl| Known {
                url: url.clone(),
                id: None,
            };
            let mut tier: Vec<Known> = tier.iter().take(room).map(known).collect();
            room -= tier.len();
            for end in (1..tier.len()).rev() {
                let bound = u32::try_from(end + 1).unwrap_or(u32::MAX);
                let other = announcer.random.below(bound) as usize;
                tier.swap(end, other);
            }
            if !tier.is_empty() {
                announcer.tiers.push(tier);
            }
        }
        announcer
    }

    /// The announcement to make now, if there is one; its end is told by [`Announcer::answered`]
    /// or [`Announcer::failed`].
    pub fn poll(&mut self, progress: Progress, now: Time) -> Option<Ask> {
        if self.state != State::Idle {
            return None;
        }
        let is_urgent = self.must_stop || (self.must_complete && self.home.is_some());
        if self.tiers.is_empty() || (self.must_stop && self.home.is_none()) {
            self.state = if self.must_stop {
                State::Ended
            } else {
                State::Idle
            };
            return None;
        }
        if now < self.next_at && !is_urgent {
            return None;
        }
        let known = if self.must_stop {
            let home = |known: &&Known| Some(&known.url) == self.home.as_ref();
            self.tiers.iter().flatten().find(home)?.clone()
        } else {
            self.tiers[self.at.0][self.at.1].clone()
        };
        self.event = if self.must_stop {
            Event::Stopped
        } else if self.home.as_ref() != Some(&known.url) {
            Event::Started
        } else if self.must_complete {
            Event::Completed
        } else {
            Event::None
        };
        self.state = State::Asking;
        Some(Ask {
            tracker: known.url,
            tracker_id: known.id,
            announce: self.announce(progress),
        })
    }

    fn announce(&self, progress: Progress) -> Announce {
        Announce {
            info_hash: self.identity.info_hash,
            peer_id: self.identity.peer_id,
            port: self.identity.port,
            uploaded: progress.uploaded,
            downloaded: progress.downloaded,
            left: progress.left,
            event: self.event,
            peers_wanted: (self.event == Event::Stopped).then_some(0),
            key: self.identity.key,
        }
    }

    /// The tracker has answered.
    pub fn answered(&mut self, reply: &Reply, now: Time) {
        if self.state != State::Asking {
            return;
        }
        if self.event == Event::Stopped {
            self.state = State::Ended;
            return;
        }
        self.state = State::Idle;
        self.backoff = BACKOFF_MIN;
        if self.event == Event::Completed {
            self.must_complete = false;
        }
        let (tier, place) = self.at;
        self.tiers[tier][..=place].rotate_right(1);
        let known = &mut self.tiers[tier][0];
        if reply.tracker_id.is_some() {
            known.id.clone_from(&reply.tracker_id);
        }
        self.home = Some(known.url.clone());
        self.at = (0, 0);
        let interval = reply.interval.max(reply.interval_min.unwrap_or_default());
        let interval = interval.clamp(INTERVAL_MIN, INTERVAL_MAX);
        // A little later, so that clients that started together do not come together for ever.
        self.next_at = now + interval + self.random.up_to(interval / 8);
    }

    /// The tracker has refused, is silent or cannot be reached.
    pub fn failed(&mut self, now: Time) {
        if self.state != State::Asking {
            return;
        }
        self.state = State::Idle;
        if self.event == Event::Stopped {
            // It forgets us by itself.
            self.state = State::Ended;
            return;
        }
        let (tier, place) = self.at;
        if self.home.as_ref() == Some(&self.tiers[tier][place].url) {
            self.home = None;
        }
        let following = if place + 1 < self.tiers[tier].len() {
            Some((tier, place + 1))
        } else {
            (tier + 1 < self.tiers.len()).then_some((tier + 1, 0))
        };
        self.at = following.unwrap_or((0, 0));
        self.next_at = now;
        if following.is_none() {
            let wait = self.backoff;
            self.next_at += self.random.about(wait);
            self.backoff = (wait * 2).min(BACKOFF_MAX);
        }
    }

    /// This client has fetched the last piece: trackers that know of it are told once.
    pub fn complete(&mut self) {
        self.must_complete = !self.must_stop;
    }

    /// This client ends: one more announcement says so, if any tracker knows of it.
    pub fn stop(&mut self) {
        (self.must_stop, self.must_complete) = (true, false);
    }

    /// More peers are wanted: the next announcement comes after `wait` at the latest.
    pub fn hurry(&mut self, wait: Duration, now: Time) {
        self.next_at = self.next_at.min(now + wait);
    }

    /// Whether nothing more will be said.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// When [`Announcer::poll`] may have something; `None` while an answer is awaited or nothing
    /// more will be said.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let is_urgent = self.must_stop || (self.must_complete && self.home.is_some());
        match self.state {
            State::Idle if is_urgent => Some(Time::ZERO),
            State::Idle if !self.tiers.is_empty() => Some(self.next_at),
            State::Idle | State::Asking | State::Ended => None,
        }
    }
}
