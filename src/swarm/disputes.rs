//! Wrong pieces whose wrong blocks are looked for: a peer is asked for the hash of every block.
//!
//! ```text
//!   wrong ──► Seeking ──ask──► Asked ──leaves that lead to the piece──► settled: some blocks stay
//!                ▲               │ refused, silent or gone
//!                └───────────────┘
//!             nobody is left to ask ──► given up: as if there were no leaves
//! ```
//!
//! Invariants: of one piece one peer is asked at a time, no peer twice, and no more than
//! [`DISPUTE_PEERS_MAX`]. The machine owns the bytes of the pieces and who is asked; the torrent
//! asks, proves, and bounds how many pieces are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::fetches::Whole;
use super::limits::{DISPUTE_PEERS_MAX, LEAVES_PATIENCE};
use crate::base::{PieceIndex, Time};
use crate::machine::StreamId;

/// See the module.
#[derive(Debug, Default)]
pub struct Disputes {
    pieces: BTreeMap<PieceIndex, Dispute>,
}

/// A piece that did not verify.
#[derive(Debug)]
pub struct Wrong {
    /// Its bytes, and the streams that they came by.
    pub whole: Whole,
    /// Who sent each block.
    pub sources: Vec<SocketAddr>,
}

#[derive(Debug)]
struct Dispute {
    wrong: Wrong,
    state: State,
    tried: BTreeSet<StreamId>,
}

/// Where a dispute is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Somebody is to be asked.
    Seeking,
    /// This peer is asked, and has until then.
    Asked(StreamId, Time),
}

/// What is told of a piece does not fit where its dispute is, or there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The piece is not in such a state")]
pub struct Misplaced;

impl Disputes {
    /// How many pieces are kept.
    #[must_use]
    pub fn count(&self) -> usize {
        self.pieces.len()
    }

    /// Keeps a piece.
    pub fn begin(&mut self, piece: PieceIndex, wrong: Wrong) {
        let dispute = Dispute {
            wrong,
            state: State::Seeking,
            tried: BTreeSet::new(),
        };
        let before = self.pieces.insert(piece, dispute);
        assert!(before.is_none(), "a piece is fetched once at a time");
    }

    /// The pieces for which somebody is to be asked.
    #[must_use]
    pub fn seeking(&self) -> Vec<PieceIndex> {
        let seeking = self
            .pieces
            .iter()
            .filter(|(_, it)| it.state == State::Seeking);
        seeking.map(|(&piece, _)| piece).collect()
    }

    /// Whether a peer may still be asked about a piece.
    #[must_use]
    pub fn may_ask(&self, piece: PieceIndex, peer: StreamId) -> bool {
        self.pieces
            .get(&piece)
            .is_some_and(|it| it.tried.len() < DISPUTE_PEERS_MAX && !it.tried.contains(&peer))
    }

    /// Who sent the blocks of a piece.
    #[must_use]
    pub fn sources(&self, piece: PieceIndex) -> &[SocketAddr] {
        let dispute = self.pieces.get(&piece);
        dispute.map_or(&[], |dispute| &dispute.wrong.sources)
    }

    /// A peer is asked now.
    ///
    /// # Errors
    /// If another is, or this one was.
    pub fn ask(&mut self, piece: PieceIndex, peer: StreamId, now: Time) -> Result<(), Misplaced> {
        let is_free = self.may_ask(piece, peer);
        let dispute = self.pieces.get_mut(&piece).ok_or(Misplaced)?;
        if dispute.state != State::Seeking || !is_free {
            return Err(Misplaced);
        }
        dispute.tried.insert(peer);
        dispute.state = State::Asked(peer, now + LEAVES_PATIENCE);
        Ok(())
    }

    /// Whether a peer is asked about a piece just now.
    #[must_use]
    pub fn is_asked(&self, piece: PieceIndex, peer: StreamId) -> bool {
        let state = self.pieces.get(&piece).map(|dispute| dispute.state);
        matches!(state, Some(State::Asked(asked, _)) if asked == peer)
    }

    /// The pieces about which a peer is asked just now.
    #[must_use]
    pub fn asked_of(&self, peer: StreamId) -> Vec<PieceIndex> {
        let pieces = self.pieces.keys().copied();
        pieces.filter(|&piece| self.is_asked(piece, peer)).collect()
    }

    /// The peer that is asked refuses, or sent what leads elsewhere.
    ///
    /// # Errors
    /// If it is not asked.
    pub fn refused(&mut self, piece: PieceIndex, peer: StreamId) -> Result<(), Misplaced> {
        if !self.is_asked(piece, peer) {
            return Err(Misplaced);
        }
        let dispute = self.pieces.get_mut(&piece).ok_or(Misplaced)?;
        dispute.state = State::Seeking;
        Ok(())
    }

    /// A peer is gone.
    pub fn gone(&mut self, peer: StreamId) {
        for piece in self.asked_of(peer) {
            self.refused(piece, peer).expect("it was just asked");
        }
    }

    /// Whoever is overdue is waited for no more.
    pub fn expire(&mut self, now: Time) {
        for dispute in self.pieces.values_mut() {
            if matches!(dispute.state, State::Asked(_, until) if now >= until) {
                dispute.state = State::Seeking;
            }
        }
    }

    /// The peer that was asked has told which blocks are wrong: gives the piece.
    ///
    /// # Errors
    /// If it is not asked.
    pub fn settle(&mut self, piece: PieceIndex, peer: StreamId) -> Result<Wrong, Misplaced> {
        if !self.is_asked(piece, peer) {
            return Err(Misplaced);
        }
        self.take(piece)
    }

    /// Nobody is left to ask: gives the piece.
    ///
    /// # Errors
    /// If somebody is asked.
    pub fn give_up(&mut self, piece: PieceIndex) -> Result<Wrong, Misplaced> {
        let state = self.pieces.get(&piece).map(|dispute| dispute.state);
        if state != Some(State::Seeking) {
            return Err(Misplaced);
        }
        self.take(piece)
    }

    /// Drops a piece that came another way.
    pub fn forget(&mut self, piece: PieceIndex) {
        self.pieces.remove(&piece);
    }

    fn take(&mut self, piece: PieceIndex) -> Result<Wrong, Misplaced> {
        let dispute = self.pieces.remove(&piece).ok_or(Misplaced)?;
        Ok(dispute.wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Blocks as _;
    use crate::base::block::PlainBlocks;

    const PIECE: PieceIndex = PieceIndex::new(3);
    const NOW: Time = Time::from_nanos(1_000_000_000);

    fn peer(number: u32) -> StreamId {
        StreamId::outgoing(number)
    }

    fn seeking() -> Disputes {
        let mut disputes = Disputes::default();
        let whole = Whole {
            memory: PlainBlocks::new(64, 1).take().unwrap(),
            sources: vec![peer(7)],
        };
        let sources = vec![SocketAddr::from(([10, 0, 0, 7], 1))];
        disputes.begin(PIECE, Wrong { whole, sources });
        disputes
    }

    fn asked() -> Disputes {
        let mut disputes = seeking();
        disputes.ask(PIECE, peer(0), NOW).unwrap();
        disputes
    }

    fn last_asked() -> Disputes {
        let mut disputes = seeking();
        for number in [1, 2, 0] {
            disputes.ask(PIECE, peer(number), NOW).unwrap();
            if number != 0 {
                disputes.refused(PIECE, peer(number)).unwrap();
            }
        }
        disputes
    }

    fn shown(disputes: &Disputes) -> &'static str {
        let Some(dispute) = disputes.pieces.get(&PIECE) else {
            return "none";
        };
        match (dispute.state, disputes.may_ask(PIECE, peer(9))) {
            (State::Seeking, true) => "seeking",
            (State::Seeking, false) => "seeking, all tried",
            (State::Asked(..), _) => "asked",
        }
    }

    #[test]
    fn every_word_in_every_state_has_its_place() {
        type Word = (&'static str, fn(&mut Disputes) -> Result<(), Misplaced>);
        type Made = (&'static str, fn() -> Disputes);
        let words: [Word; 9] = [
            ("ask peer 0", |it| it.ask(PIECE, peer(0), NOW)),
            ("ask peer 4", |it| it.ask(PIECE, peer(4), NOW)),
            ("peer 0 refuses", |it| it.refused(PIECE, peer(0))),
            ("peer 4 refuses", |it| it.refused(PIECE, peer(4))),
            ("peer 0 is gone", |it| {
                it.gone(peer(0));
                Ok(())
            }),
            ("time passes", |it| {
                it.expire(NOW + LEAVES_PATIENCE);
                Ok(())
            }),
            ("peer 0 answers", |it| it.settle(PIECE, peer(0)).map(drop)),
            ("peer 4 answers", |it| it.settle(PIECE, peer(4)).map(drop)),
            ("give up", |it| it.give_up(PIECE).map(drop)),
        ];
        let states: [Made; 4] = [
            ("none", Disputes::default),
            ("seeking", seeking),
            ("asked peer 0", asked),
            ("asked peer 0 last", last_asked),
        ];
        let mut table = String::new();
        for (state, made) in states {
            for (word, say) in &words {
                let mut disputes = made();
                let before = shown(&disputes);
                let after = match say(&mut disputes) {
                    Ok(()) => shown(&disputes),
                    Err(Misplaced) => {
                        assert_eq!(shown(&disputes), before, "an error changes nothing");
                        "error"
                    }
                };
                table += &format!("{state:18} {word:15} -> {after}\n");
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn overdue_peers_are_not_asked_again() {
        let mut disputes = asked();
        disputes.expire(NOW);
        assert_eq!(
            (disputes.asked_of(peer(0)), disputes.seeking()),
            (vec![PIECE], vec![])
        );
        disputes.expire(NOW + LEAVES_PATIENCE);
        assert_eq!(
            (disputes.asked_of(peer(0)), disputes.seeking()),
            (vec![], vec![PIECE])
        );
        assert!(!disputes.may_ask(PIECE, peer(0)) && disputes.may_ask(PIECE, peer(1)));
        assert_eq!((disputes.count(), disputes.sources(PIECE).len()), (1, 1));
        disputes.forget(PIECE);
        assert_eq!(disputes.count(), 0);
    }
}
