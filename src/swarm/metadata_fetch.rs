//! Fetches the info dictionary of a torrent from peers, for who has its names alone.
//!
//! ```text
//!   parts of one size, from all who claim it ──► the hash is right ──► Complete
//!        ▲                                  └──► it is wrong: from now on, all parts of one peer
//!        └── of one peer, then the next ◄───────── who fails alone is Bad, and left out
//! ```
//!
//! Invariants: what is handed on has the hashes of all names; a peer is called bad only for what it
//! did itself; every attempt that fails with one peer takes that peer out, so an honest peer that
//! answers is reached in the end. Memory grows with what came, not with what a peer claims. The
//! machine owns who was asked for what; the caller sends the requests.
//!
//! Source: BEP 9.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::hash::{sha1, sha256};
use super::infohash::InfoHashes;
use super::metainfo::{self, Info};
use super::wire::metadata::{METADATA_BYTES_MAX, MetadataMessage, part_count};
use crate::base::Time;
use crate::machine::StreamId;

/// The most peers that are asked; others are not taken in.
pub const PEERS_MAX: usize = 256;
/// How many parts one peer is asked for at a time.
pub const REQUESTS_MAX: usize = 4;
/// How long a part is waited for.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a peer is left alone that refused or said nothing; doubles each time.
pub const REST_MIN: Duration = Duration::from_secs(2);
/// The longest that a peer is left alone.
pub const REST_MAX: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct MetadataFetch {
    names: InfoHashes,
    peers: BTreeMap<StreamId, Peer>,
    attempt: Option<Attempt>,
    /// Parts of several peers made no whole: one gave wrong bytes, and all are asked alone.
    is_one_by_one: bool,
    is_over: bool,
    polled_at: Time,
}

#[derive(Debug)]
struct Peer {
    /// How long it says the info dictionary is.
    size: u32,
    /// What it was asked for, and when that is overdue.
    asked: BTreeMap<u32, Time>,
    rests_until: Time,
    /// How long it rests the next time.
    rest: Duration,
}

/// One go at the whole.
#[derive(Debug)]
struct Attempt {
    size: u32,
    /// The one that is asked; `None` for all that claim the size.
    only: Option<StreamId>,
    /// Parts that are neither there nor asked for.
    wanted: BTreeSet<u32>,
    parts: BTreeMap<u32, Vec<u8>>,
    /// Whose parts they are.
    givers: BTreeSet<StreamId>,
}

/// What came of a message.
#[derive(Debug)]
pub enum Heard {
    /// Nothing to tell.
    Nothing,
    /// The peer lied; it is not asked again.
    Bad,
    /// The info dictionary is there, and the fetch is over.
    Complete(Box<Info>),
    /// It is there and is no sound one, so that nobody has a better one; the fetch is over.
    Useless(metainfo::Error),
}

impl MetadataFetch {
    /// A fetch that knows no peer yet.
    #[must_use]
    pub const fn new(names: InfoHashes) -> Self {
        Self {
            names,
            peers: BTreeMap::new(),
            attempt: None,
            is_one_by_one: false,
            is_over: false,
            polled_at: Time::ZERO,
        }
    }

    /// Takes in a peer that has an info dictionary of `size` bytes, as its handshake says. A peer
    /// that is known stays as it is.
    pub fn add_peer(&mut self, peer: StreamId, size: u32) {
        let is_sane = (1..=METADATA_BYTES_MAX).contains(&size);
        if !is_sane || self.peers.len() >= PEERS_MAX {
            return;
        }
        self.peers.entry(peer).or_insert(Peer {
            size,
            asked: BTreeMap::new(),
            rests_until: Time::ZERO,
            rest: REST_MIN,
        });
    }

    /// Forgets a peer that has gone.
    pub fn remove_peer(&mut self, peer: StreamId) {
        if let Some(gone) = self.peers.remove(&peer)
            && let Some(attempt) = &mut self.attempt
        {
            attempt.wanted.extend(gone.asked.into_keys());
        }
    }

    /// Gives the next request: whom to ask for which part. It counts as sent.
    pub fn poll_request(&mut self, now: Time) -> Option<(StreamId, u32)> {
        self.polled_at = now;
        if self.is_over {
            return None;
        }
        self.expire(now);
        if !self.goes_on(now) {
            self.begin(now)?;
        }
        let attempt = self.attempt.as_mut()?;
        let free = self.peers.iter_mut().filter(|(id, peer)| {
            attempt.takes(**id, peer) && peer.is_awake(now) && peer.asked.len() < REQUESTS_MAX
        });
        let (&id, peer) = free.min_by_key(|(_, peer)| peer.asked.len())?;
        let part = attempt.wanted.pop_first()?;
        peer.asked.insert(part, now + PATIENCE);
        Some((id, part))
    }

    /// Takes what a peer says of metadata; requests are not for the fetch and pass unheard.
    pub fn handle(&mut self, from: StreamId, message: &MetadataMessage<'_>, now: Time) -> Heard {
        let Some(peer) = self.peers.get_mut(&from).filter(|_| !self.is_over) else {
            return Heard::Nothing;
        };
        match *message {
            MetadataMessage::Request(_) | MetadataMessage::Unknown => Heard::Nothing,
            MetadataMessage::Reject(part) => {
                if peer.asked.remove(&part).is_some() {
                    peer.rest(now);
                    if let Some(attempt) = &mut self.attempt {
                        attempt.wanted.insert(part);
                    }
                }
                Heard::Nothing
            }
            MetadataMessage::Data {
                part,
                total_size,
                bytes,
            } => {
                if total_size != peer.size {
                    self.remove_peer(from);
                    return Heard::Bad;
                }
                let Some(attempt) = &mut self.attempt else {
                    return Heard::Nothing;
                };
                // Only what was asked for is taken; what is overdue has been asked of another.
                if peer.asked.remove(&part).is_none() {
                    return Heard::Nothing;
                }
                peer.rest = REST_MIN;
                attempt.parts.insert(part, bytes.to_vec());
                attempt.givers.insert(from);
                if attempt.parts.len() < part_count(attempt.size) as usize {
                    return Heard::Nothing;
                }
                self.judge(from)
            }
        }
    }

    /// When [`MetadataFetch::poll_request`] may have something although nothing was heard.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.is_over {
            return None;
        }
        let overdue = self.peers.values().flat_map(|peer| peer.asked.values());
        let rested = self.peers.values().map(|peer| &peer.rests_until);
        let rested = rested.filter(|&&at| at > self.polled_at);
        overdue.chain(rested).min().copied()
    }

    /// Bytes that are there of the whole that is fetched now, and how long that is said to be.
    #[must_use]
    pub fn progress(&self) -> Option<(u32, u32)> {
        let attempt = self.attempt.as_ref()?;
        let bytes = attempt.parts.values().map(Vec::len).sum::<usize>();
        Some((u32::try_from(bytes).unwrap_or(u32::MAX), attempt.size))
    }

    /// Gives up on parts that are overdue; their peers rest.
    fn expire(&mut self, now: Time) {
        for peer in self.peers.values_mut() {
            let count = peer.asked.len();
            peer.asked.retain(|part, overdue_at| {
                let is_overdue = *overdue_at <= now;
                if let Some(attempt) = self.attempt.as_mut().filter(|_| is_overdue) {
                    attempt.wanted.insert(*part);
                }
                !is_overdue
            });
            if peer.asked.len() < count {
                peer.rest(now);
            }
        }
    }

    /// Whether somebody is there from whom the attempt can get what it lacks.
    fn goes_on(&self, now: Time) -> bool {
        let Some(attempt) = &self.attempt else {
            return false;
        };
        let helps = |peer: &Peer| peer.is_awake(now) || !peer.asked.is_empty();
        let mut takes = self.peers.iter().filter(|(id, p)| attempt.takes(**id, p));
        takes.any(|(_, peer)| helps(peer))
    }

    /// Begins anew with whoever is awake; if all rest, what there is stays.
    fn begin(&mut self, now: Time) -> Option<()> {
        let awake = self.peers.iter().filter(|(_, peer)| peer.is_awake(now));
        let (only, size) = if self.is_one_by_one {
            let (&id, peer) = awake.min_by_key(|(_, peer)| peer.rest)?;
            (Some(id), peer.size)
        } else {
            let mut claims: BTreeMap<u32, usize> = BTreeMap::new();
            awake.for_each(|(_, peer)| *claims.entry(peer.size).or_default() += 1);
            let most = claims.into_iter().rev().max_by_key(|&(_, count)| count);
            (None, most?.0)
        };
        for peer in self.peers.values_mut() {
            peer.asked.clear();
        }
        self.attempt = Some(Attempt {
            size,
            only,
            wanted: (0..part_count(size)).collect(),
            parts: BTreeMap::new(),
            givers: BTreeSet::new(),
        });
        Some(())
    }

    /// All parts are there: whether they are the info dictionary. `last` gave the last one.
    fn judge(&mut self, last: StreamId) -> Heard {
        let Some(attempt) = self.attempt.take() else {
            return Heard::Nothing;
        };
        let mut whole = Vec::with_capacity(attempt.size as usize);
        for part in attempt.parts.into_values() {
            whole.extend_from_slice(&part);
        }
        let v1 = self.names.v1().is_none_or(|name| sha1(&whole) == name);
        if v1 && self.names.v2().is_none_or(|name| sha256(&whole) == name) {
            self.is_over = true;
            return match Info::parse(whole.into()) {
                Ok(info) => Heard::Complete(Box::new(info)),
                Err(error) => Heard::Useless(error),
            };
        }
        if attempt.givers.len() > 1 {
            self.is_one_by_one = true;
            return Heard::Nothing;
        }
        self.remove_peer(last);
        Heard::Bad
    }
}

impl Peer {
    fn is_awake(&self, now: Time) -> bool {
        self.rests_until <= now
    }

    fn rest(&mut self, now: Time) {
        self.rests_until = now + self.rest;
        self.rest = (self.rest * 2).min(REST_MAX);
    }
}

impl Attempt {
    /// Whether parts of this peer are of use.
    fn takes(&self, id: StreamId, peer: &Peer) -> bool {
        peer.size == self.size && self.only.is_none_or(|only| only == id)
    }
}

#[cfg(test)]
mod tests;
