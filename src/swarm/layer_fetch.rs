//! Fetches the piece layers of a torrent from peers, for who has its info dictionary alone.
//!
//! ```text
//!   ranges of 512 hashes ──asked of all, a few at a time──► they lead to the root ──► kept
//!          ▲    refused, overdue, gone: to another              └──► the peer is Bad, and left out
//!          └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariants: every range is proven by itself up to the root of its file, which the info
//! dictionary has; so who gives a wrong one did it alone. Memory grows with what is proven. The
//! machine owns who was asked for what; the caller sends the requests.
//!
//! Source: BEP 52 "piece layers", "hash request".

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::hash::Sha256;
use super::metainfo::Info;
use super::wire::hashes::HashRange;
use crate::base::Time;
use crate::machine::StreamId;

/// The most peers that are asked; others are not taken in.
pub const PEERS_MAX: usize = 256;
/// How many ranges one peer is asked for at a time.
pub const REQUESTS_MAX: usize = 4;
/// How long a range is waited for.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a peer is left alone that refused or said nothing; doubles each time.
pub const REST_MIN: Duration = Duration::from_secs(1);
/// The longest that a peer is left alone.
pub const REST_MAX: Duration = Duration::from_secs(60);

/// The hashes of piece layers, by the roots of their files.
pub type Layers = BTreeMap<Sha256, Vec<Sha256>>;

/// See the module.
#[derive(Debug)]
pub struct LayerFetch {
    ranges: Vec<HashRange>,
    lens: BTreeMap<Sha256, u32>,
    /// Ranges that are neither here nor asked for, by their number.
    wanted: VecDeque<usize>,
    /// By range.
    parts: BTreeMap<usize, Vec<Sha256>>,
    peers: BTreeMap<StreamId, Peer>,
    polled_at: Time,
}

#[derive(Debug)]
struct Peer {
    /// What it was asked for, and when that is overdue.
    asked: BTreeMap<usize, Time>,
    rests_until: Time,
    /// How long it rests the next time.
    rest: Duration,
}

/// What came of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing to tell.
    Nothing,
    /// The peer sent hashes that lead elsewhere; it is not asked again.
    Bad,
    /// All piece layers are here, and the fetch is over.
    Complete(Layers),
}

impl LayerFetch {
    /// A fetch that knows no peer yet; `None` if the torrent needs no piece layer.
    #[must_use]
    pub fn new(info: &Info) -> Option<Self> {
        let ranges = info.layer_ranges();
        let fetch = Self {
            lens: info.layer_lens(),
            wanted: (0..ranges.len()).collect(),
            ranges,
            parts: BTreeMap::new(),
            peers: BTreeMap::new(),
            polled_at: Time::ZERO,
        };
        (!fetch.ranges.is_empty()).then_some(fetch)
    }

    /// Takes in a peer with which hashes can be talked of. One that is known stays as it is.
    pub fn add_peer(&mut self, peer: StreamId) {
        if self.peers.len() < PEERS_MAX {
            self.peers.entry(peer).or_insert(Peer {
                asked: BTreeMap::new(),
                rests_until: Time::ZERO,
                rest: REST_MIN,
            });
        }
    }

    /// Forgets a peer that has gone.
    pub fn remove_peer(&mut self, peer: StreamId) {
        if let Some(gone) = self.peers.remove(&peer) {
            self.wanted.extend(gone.asked.into_keys());
        }
    }

    /// Whether anybody can be asked, now or later.
    #[must_use]
    pub fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// Gives the next request: whom to ask for what. It counts as sent.
    pub fn poll_request(&mut self, now: Time) -> Option<(StreamId, HashRange)> {
        self.polled_at = now;
        self.expire(now);
        let free = self
            .peers
            .iter_mut()
            .filter(|(_, peer)| peer.rests_until <= now && peer.asked.len() < REQUESTS_MAX);
        let (&id, peer) = free.min_by_key(|(_, peer)| (peer.asked.len(), peer.rest))?;
        let number = self.wanted.pop_front()?;
        peer.asked.insert(number, now + PATIENCE);
        Some((id, self.ranges[number]))
    }

    /// Takes hashes. What was not asked for, or too long ago, says nothing.
    pub fn handle(&mut self, from: StreamId, range: &HashRange, hashes: &[Sha256]) -> Heard {
        let Some(number) = self.asked_for(from, range) else {
            return Heard::Nothing;
        };
        let is_right = range.top(hashes).is_some_and(|top| top.hash == range.root);
        if !is_right {
            self.remove_peer(from);
            return Heard::Bad;
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.asked.remove(&number);
            peer.rest = REST_MIN;
        }
        let left = self.lens[&range.root].saturating_sub(range.index);
        let len = left.min(range.length) as usize;
        self.parts.insert(number, hashes[..len].to_vec());
        if self.parts.len() < self.ranges.len() {
            return Heard::Nothing;
        }
        let mut layers = Layers::new();
        for (number, part) in std::mem::take(&mut self.parts) {
            layers
                .entry(self.ranges[number].root)
                .or_default()
                .extend(part);
        }
        Heard::Complete(layers)
    }

    /// A peer will not send what it was asked for.
    pub fn handle_reject(&mut self, from: StreamId, range: &HashRange, now: Time) {
        let Some(number) = self.asked_for(from, range) else {
            return;
        };
        self.wanted.push_back(number);
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.asked.remove(&number);
            peer.rest(now);
        }
    }

    /// When [`LayerFetch::poll_request`] may have something although nothing was heard.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let overdue = self.peers.values().flat_map(|peer| peer.asked.values());
        let rested = self.peers.values().map(|peer| &peer.rests_until);
        let rested = rested.filter(|&&at| at > self.polled_at);
        overdue.chain(rested).min().copied()
    }

    /// Gives up on what is overdue; their peers rest.
    fn expire(&mut self, now: Time) {
        for peer in self.peers.values_mut() {
            let count = peer.asked.len();
            peer.asked.retain(|&number, overdue_at| {
                let is_overdue = *overdue_at <= now;
                if is_overdue {
                    self.wanted.push_back(number);
                }
                !is_overdue
            });
            if peer.asked.len() < count {
                peer.rest(now);
            }
        }
    }

    fn asked_for(&self, peer: StreamId, range: &HashRange) -> Option<usize> {
        let mut asked = self.peers.get(&peer)?.asked.keys().copied();
        asked.find(|&number| self.ranges[number] == *range)
    }
}

impl Peer {
    fn rest(&mut self, now: Time) {
        self.rests_until = now + self.rest;
        self.rest = (self.rest * 2).min(REST_MAX);
    }
}

#[cfg(test)]
mod tests;
