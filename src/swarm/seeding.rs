//! How a seed that everybody waits for gives each piece away once: the *paced partition*.
//!
//! A seed whose peers see all its pieces sends many of them several times, since peers choose
//! without knowing of each other; only the seed sees all requests. So it reveals each piece (by
//! `have`) to one peer only, and to every peer few at a time: the next when one of them was sent.
//! Unlike BEP 16 it does not wait until the piece was seen at another peer. Plain BEP 3 peers then
//! ask for what they know of, and get the rest from each other.
//!
//! ```text
//!   Hidden --reveal--> Given to a peer --all of it sent--> Sent --seen at another--> Spread
//!      ▲                   │ the peer is gone                │ nothing happens for long
//!      └───────────────────┴─────────────────────────────────┘
//! ```
//!
//! Invariant: a peer holds at most a window of pieces that were revealed to it and not sent whole.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::base::{PieceIndex, Time};
use crate::machine::StreamId;

/// Pieces that a peer knows of and was not sent yet, its window, at most;
const WINDOW: usize = 3;
/// more if they are so small that they are fewer bytes: a peer takes a while to ask.
const WINDOW_BYTES: usize = 128 << 10;
/// Pieces that a peer was sent and that nobody else has, by its window: with more it gets no new
/// ones, unless all peers have as many, or it takes them much faster than any. So a peer that
/// cannot pass pieces on soon holds few that others wait for.
const LONE_WINDOWS: usize = 2;
/// How many times as long as a peer's last piece all others are being sent theirs when it counts as
/// much faster than they.
const OUTRUNS: u32 = 4;
/// Nobody is called slow before this time.
const SLOW_MIN: Duration = Duration::from_millis(20);
/// How long a piece that was sent may stay with its one holder before it is revealed to another, at
/// least and at most; between, [`SPREADS`] times as long as pieces take as of late.
pub const SPREAD_PATIENCE_MIN: Duration = Duration::from_secs(1);
/// See there.
pub const SPREAD_PATIENCE: Duration = Duration::from_secs(5);
/// See there.
const SPREADS: u32 = 8;

/// See the module.
#[derive(Debug)]
pub struct Partition {
    window: usize,
    states: Vec<State>,
    /// Pieces that nobody knows of, in the order in which they are revealed: the last first. A
    /// multicast beside begins with the first, and both meet.
    hidden: VecDeque<PieceIndex>,
    peers: BTreeMap<StreamId, Peer>,
    /// Pieces that are sent and were seen at no other peer, with the time.
    lone: BTreeMap<PieceIndex, Time>,
    /// Who has pieces that are revealed again because they did not spread.
    holders: BTreeMap<PieceIndex, StreamId>,
    spread_count: usize,
    /// How long pieces take from their one holder to another, as of late.
    spread_time: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Hidden,
    Given(StreamId),
    Sent(StreamId),
    Spread,
}

#[derive(Debug, Default)]
struct Peer {
    /// What was revealed to it and is not sent.
    window: BTreeSet<PieceIndex>,
    /// How many pieces it was sent that were seen nowhere else.
    lone: usize,
    /// Since when the first of its window is being sent.
    since: Time,
    /// How long its last piece took.
    service: Option<Duration>,
}

impl Partition {
    /// Starts with `count` pieces of so many bytes that nobody knows of.
    #[must_use]
    pub fn new(count: u32, piece_size: usize) -> Self {
        Self {
            window: WINDOW.max(WINDOW_BYTES / piece_size),
            states: vec![State::Hidden; count as usize],
            hidden: (0..count).rev().map(PieceIndex::new).collect(),
            peers: BTreeMap::new(),
            lone: BTreeMap::new(),
            holders: BTreeMap::new(),
            spread_count: 0,
            spread_time: None,
        }
    }

    /// A peer that lacks pieces came.
    pub fn join(&mut self, peer: StreamId) {
        self.peers.entry(peer).or_default();
    }

    /// A peer is gone, or needs nothing more: what only it knew of is hidden again.
    pub fn leave(&mut self, peer: StreamId) {
        self.peers.remove(&peer);
        self.holders.retain(|_, holder| *holder != peer);
        let of_peer = |state: &State| [State::Given(peer), State::Sent(peer)].contains(state);
        let lost = self
            .states
            .iter()
            .enumerate()
            .filter(|(_, state)| of_peer(state));
        let index = |index: usize| PieceIndex::new(u32::try_from(index).unwrap_or(u32::MAX));
        let lost: Vec<PieceIndex> = lost.map(|(at, _)| index(at)).collect();
        for &piece in lost.iter().rev() {
            self.hide(piece);
        }
    }

    /// All who had a piece are gone.
    pub fn lost(&mut self, piece: PieceIndex) {
        if self.states.get(piece.as_usize()) == Some(&State::Spread) {
            self.spread_count -= 1;
            self.hide(piece);
        }
    }

    /// All of a piece was sent to a peer.
    pub fn sent(&mut self, peer: StreamId, piece: PieceIndex, now: Time) {
        if let Some(place) = self.peers.get_mut(&peer)
            && place.window.remove(&piece)
        {
            place.service = Some(now.since(place.since));
            place.since = now;
        }
        if let Some(state) = self.states.get_mut(piece.as_usize())
            && *state == State::Given(peer)
        {
            *state = State::Sent(peer);
            self.lone.insert(piece, now);
            if let Some(place) = self.peers.get_mut(&peer) {
                place.lone += 1;
            }
        }
    }

    /// A peer says that it has a piece.
    pub fn seen(&mut self, peer: StreamId, piece: PieceIndex, now: Time) {
        if let Some(place) = self.peers.get_mut(&peer) {
            place.window.remove(&piece);
        }
        let Some(state) = self.states.get_mut(piece.as_usize()) else {
            return;
        };
        let is_elsewhere = match *state {
            State::Hidden => true,
            State::Given(holder) | State::Sent(holder) => holder != peer,
            State::Spread => false,
        };
        if is_elsewhere {
            if *state == State::Hidden {
                self.hidden.retain(|&hidden| hidden != piece);
            }
            let before = std::mem::replace(state, State::Spread);
            if let Some(since) = self.lone.remove(&piece) {
                let took = now.since(since);
                let mean = self.spread_time.unwrap_or(took);
                self.spread_time = Some((mean * 7 + took) / 8);
            }
            self.spread_count += 1;
            self.is_not_lone(before);
        }
    }

    /// Takes the next piece to reveal, and to whom: the peer with the emptiest window first.
    pub fn reveal(&mut self, now: Time) -> Option<(StreamId, PieceIndex)> {
        let patience = self.patience();
        let late = self
            .lone
            .iter()
            .find(|&(_, &since)| now >= since + patience);
        if self.peers.len() > 1
            && let Some((&piece, _)) = late
        {
            if let State::Sent(holder) = self.states[piece.as_usize()] {
                self.holders.insert(piece, holder);
            }
            self.hide(piece);
        }
        let Some(&piece) = self.hidden.front() else {
            return self.reveal_again(now);
        };
        let holder = self.holders.get(&piece).copied();
        let lone_max = LONE_WINDOWS * self.window;
        let all_stuck = self.peers.values().all(|peer| peer.lone >= lone_max);
        let others = self.peers.iter().filter(|(peer, _)| Some(**peer) != holder);
        let with_room = others.filter(|(id, peer)| {
            let is_open = all_stuck || peer.lone < lone_max;
            peer.window.len() < self.window && (is_open || self.outruns_all(**id, now))
        });
        let (&to, _) = with_room.min_by_key(|(_, peer)| (peer.window.len(), peer.lone))?;
        self.hidden.pop_front();
        self.give(to, piece, now);
        Some((to, piece))
    }

    /// With nothing left to give away: a fast peer that has nothing to do gets what waits for slow
    /// ones, what was revealed last first.
    fn reveal_again(&mut self, now: Time) -> Option<(StreamId, PieceIndex)> {
        let idle = |(_, peer): &(&StreamId, &Peer)| peer.window.is_empty();
        let mut idle = self.peers.iter().filter(idle).map(|(&id, _)| id);
        let to = idle.find(|&id| self.outruns_all(id, now))?;
        let waits = |(piece, state): (usize, &State)| match state {
            State::Given(slow) if *slow != to => u32::try_from(piece).ok(),
            State::Hidden | State::Given(_) | State::Sent(_) | State::Spread => None,
        };
        let mut waiting = self.states.iter().enumerate().filter_map(waits);
        let piece = waiting.next().map(PieceIndex::new)?;
        self.give(to, piece, now);
        Some((to, piece))
    }

    fn give(&mut self, to: StreamId, piece: PieceIndex, now: Time) {
        self.states[piece.as_usize()] = State::Given(to);
        if let Some(place) = self.peers.get_mut(&to) {
            if place.window.is_empty() {
                place.since = now;
            }
            place.window.insert(piece);
        }
    }

    /// Whether a peer takes pieces much faster than every other that is being sent some, which are
    /// some: it costs them nothing then. Where the seed's own link is what is slow, all take about
    /// as long.
    fn outruns_all(&self, peer: StreamId, now: Time) -> bool {
        let Some(service) = self.peers.get(&peer).and_then(|place| place.service) else {
            return false;
        };
        let slow = (service * OUTRUNS).max(SLOW_MIN);
        let mut served = self
            .peers
            .iter()
            .filter(|(id, place)| **id != peer && !place.window.is_empty())
            .peekable();
        served.peek().is_some() && served.all(|(_, place)| now >= place.since + slow)
    }

    fn patience(&self) -> Duration {
        let time = self
            .spread_time
            .map_or(SPREAD_PATIENCE, |time| time * SPREADS);
        time.clamp(SPREAD_PATIENCE_MIN, SPREAD_PATIENCE)
    }

    /// When [`Partition::reveal`] may have something because time has passed.
    #[must_use]
    pub fn patience_ends(&self) -> Option<Time> {
        let since = self.lone.values().min()?;
        (self.peers.len() > 1).then_some(*since + self.patience())
    }

    /// Whether every piece was given away and none is waited for: from now on the seed is as any
    /// other peer that has everything.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let is_away = |state: &State| matches!(state, State::Sent(_) | State::Spread);
        self.states.iter().all(is_away)
    }

    /// How many pieces were seen at more than the peer that they were given to.
    #[must_use]
    pub const fn spread_count(&self) -> usize {
        self.spread_count
    }

    fn is_not_lone(&mut self, before: State) {
        if let State::Sent(holder) = before
            && let Some(place) = self.peers.get_mut(&holder)
        {
            place.lone -= 1;
        }
    }

    fn hide(&mut self, piece: PieceIndex) {
        self.lone.remove(&piece);
        let before = std::mem::replace(&mut self.states[piece.as_usize()], State::Hidden);
        self.is_not_lone(before);
        self.hidden.push_front(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_nanos(1_000_000_000);
    const LARGE: usize = 1 << 20;

    fn peer(number: u32) -> StreamId {
        StreamId::incoming(number)
    }

    fn all(partition: &mut Partition, now: Time) -> Vec<(StreamId, PieceIndex)> {
        std::iter::from_fn(|| partition.reveal(now)).collect()
    }

    #[test]
    fn every_piece_goes_to_one_peer_within_its_window() {
        let mut partition = Partition::new(20, LARGE);
        (0..3).for_each(|number| partition.join(peer(number)));
        let mut given = BTreeMap::new();
        let mut turns = 0;
        loop {
            let revealed = all(&mut partition, NOW);
            if revealed.is_empty() {
                break;
            }
            for (to, piece) in revealed {
                assert_eq!(given.insert(piece, to), None, "{piece} is given once");
                let window = partition.peers[&to].window.len();
                assert!(window <= partition.window);
            }
            let peers = partition.peers.iter();
            let sent = peers.filter_map(|(&to, peer)| Some((to, *peer.window.first()?)));
            let sent: Vec<_> = sent.collect();
            assert!(!partition.is_over());
            for (to, piece) in sent {
                partition.sent(to, piece, NOW);
            }
            turns += 1;
            assert!(turns < 50);
        }
        assert_eq!(given.len(), 20);
        for (piece, to) in given {
            partition.sent(to, piece, NOW);
        }
        assert!(partition.is_over());
    }

    #[test]
    fn a_window_of_small_pieces_is_as_many_bytes() {
        let shown = |piece_size| {
            let mut partition = Partition::new(100, piece_size);
            partition.join(peer(0));
            all(&mut partition, NOW).len()
        };
        assert_eq!(
            [LARGE, 256 << 10, 64 << 10, 16 << 10].map(shown),
            [3, 3, 3, 8]
        );
    }

    #[test]
    fn what_a_lost_peer_alone_knew_is_given_to_another() {
        let mut partition = Partition::new(2, LARGE);
        partition.join(peer(0));
        assert_eq!(all(&mut partition, NOW).len(), 2);
        partition.sent(peer(0), PieceIndex::new(0), NOW);
        partition.join(peer(1));
        assert_eq!(all(&mut partition, NOW), []);
        partition.leave(peer(0));
        let again = all(&mut partition, NOW);
        assert_eq!(again.len(), 2, "sent or not, nobody has it now");
        assert!(again.iter().all(|(to, _)| *to == peer(1)));
    }

    #[test]
    fn what_all_who_had_it_took_with_them_is_given_to_another() {
        let mut partition = Partition::new(1, LARGE);
        (0..3).for_each(|number| partition.join(peer(number)));
        let (first, piece) = all(&mut partition, NOW)[0];
        let others = (0..3).map(peer).filter(|&id| id != first);
        let [second, third]: [StreamId; 2] = others.collect::<Vec<_>>().try_into().unwrap();
        partition.sent(first, piece, NOW);
        partition.lost(piece);
        assert_eq!(all(&mut partition, NOW), [], "its one holder is there");
        partition.seen(second, piece, NOW);
        assert!(partition.is_over());
        partition.leave(first);
        partition.leave(second);
        assert_eq!(all(&mut partition, NOW), [], "somebody else may have it");
        partition.lost(piece);
        assert_eq!(all(&mut partition, NOW), [(third, piece)]);
        assert_eq!(partition.spread_count(), 0);
    }

    #[test]
    fn a_holder_that_does_not_pass_on_is_not_waited_for() {
        let mut partition = Partition::new(2, LARGE);
        (0..2).for_each(|number| partition.join(peer(number)));
        let revealed = all(&mut partition, NOW);
        for &(to, piece) in &revealed {
            partition.sent(to, piece, NOW);
        }
        let (other, piece) = (revealed[1].0, revealed[0].1);
        partition.seen(other, piece, NOW);
        assert_eq!(partition.spread_count(), 1);
        assert_eq!(all(&mut partition, NOW), []);
        // It spread at once, so that little is expected of the other.
        let late = NOW + SPREAD_PATIENCE_MIN;
        assert_eq!(partition.patience_ends(), Some(late));
        let again = all(&mut partition, late);
        assert_eq!(again.len(), 1);
        let (holder, lone) = revealed[1];
        assert_eq!(again[0].1, lone, "only the one that did not spread");
        assert_ne!(again[0].0, holder, "to another than who has it");
    }
}
