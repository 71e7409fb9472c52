//! Pieces that are being fetched, block by block.
//!
//! ```text
//!   block   Missing ──first bytes──► Filling by a peer ──last──► Here
//!              ▲                        │ the peer is gone, or has it taken back
//!              └────────────────────────┘
//! ```
//!
//! A piece has an owner, the peer that is asked for its blocks; so when a piece turns out wrong it
//! is mostly known who did it. Others help only when nothing else is left to ask them for.
//!
//! Invariants: the bytes of a block are of one peer; a block counts as asked for as often as peers
//! have a request for it waiting.

use std::collections::BTreeMap;

use super::cut::{Cut, block_of};
use super::limits::{BLOCK_BYTES, SECOND_ASK_AFTER};
use super::wire::BlockRange;
use crate::base::{Bitmap, Block, PieceIndex, Time};
use crate::machine::StreamId;

/// See the module.
#[derive(Debug)]
pub struct Fetches {
    cut: Cut,
    pieces: BTreeMap<PieceIndex, Fetch>,
}

/// A piece on its way.
#[derive(Debug)]
struct Fetch {
    memory: Block,
    /// How many bytes of it peers send; behind them are zeros.
    len: u32,
    slots: Vec<Slot>,
    /// Blocks that nobody is asked for.
    free: usize,
    /// Blocks that are not here.
    left: usize,
    owner: Option<StreamId>,
    /// Only the owner is asked: the piece was wrong when several brought it.
    is_alone: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    state: State,
    /// How many peers have a request for it.
    askers: u8,
    asked_at: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Missing,
    Filling { by: StreamId, filled: u32 },
    Here(StreamId),
}

impl Slot {
    const MISSING: Self = Self {
        state: State::Missing,
        askers: 0,
        asked_at: Time::ZERO,
    };

    fn is_free(&self) -> bool {
        self.askers == 0 && self.state == State::Missing
    }

    fn drop_part_of(&mut self, peer: StreamId) {
        if matches!(self.state, State::Filling { by, .. } if by == peer) {
            self.state = State::Missing;
        }
    }
}

/// What became of bytes that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// They are of no use, any more or ever.
    Useless,
    /// They are kept; the block is not whole.
    Part,
    /// They complete a block.
    Block {
        /// How many requests for it wait at peers, that of the sender counted.
        askers: u8,
    },
    /// They complete the piece.
    Piece {
        /// How many requests for the last block wait at peers.
        askers: u8,
    },
}

/// A piece whose blocks are all here, not verified yet.
#[derive(Debug)]
pub struct Whole {
    /// Its bytes, from the start.
    pub memory: Block,
    /// Who sent each block.
    pub sources: Vec<StreamId>,
}

impl Fetches {
    /// Begins with nothing.
    #[must_use]
    pub const fn new(cut: Cut) -> Self {
        Self {
            cut,
            pieces: BTreeMap::new(),
        }
    }

    /// How many pieces are on their way.
    #[must_use]
    pub fn count(&self) -> usize {
        self.pieces.len()
    }

    /// Begins a piece of which peers send `len` bytes, for its owner to bring; with `is_alone`
    /// nobody else is asked.
    pub fn begin(
        &mut self,
        piece: PieceIndex,
        len: u32,
        mut memory: Block,
        owner: StreamId,
        is_alone: bool,
    ) {
        let whole = self.cut.len(piece);
        assert!(
            memory.len() >= whole as usize && (1..=whole).contains(&len),
            "it holds a piece"
        );
        memory[len as usize..whole as usize].fill(0);
        let count = len.div_ceil(BLOCK_BYTES) as usize;
        let fetch = Fetch {
            memory,
            len,
            slots: vec![Slot::MISSING; count],
            free: count,
            left: count,
            owner: Some(owner),
            is_alone,
        };
        let before = self.pieces.insert(piece, fetch);
        assert!(before.is_none(), "a piece is begun once");
    }

    /// Takes up again a piece that was finished, of whose blocks these are right; at least one is
    /// not. Whoever has it may be asked.
    pub fn resume(&mut self, piece: PieceIndex, len: u32, whole: Whole, is_right: &[bool]) {
        let sources = whole.sources.iter().zip(is_right);
        let slot = |(&source, &is_right): (&StreamId, &bool)| match is_right {
            true => Slot {
                state: State::Here(source),
                ..Slot::MISSING
            },
            false => Slot::MISSING,
        };
        let slots: Vec<Slot> = sources.map(slot).collect();
        let left = slots.iter().filter(|slot| slot.is_free()).count();
        assert!(left > 0, "a block of it is wrong");
        let fetch = Fetch {
            memory: whole.memory,
            len,
            slots,
            free: left,
            left,
            owner: None,
            is_alone: false,
        };
        let before = self.pieces.insert(piece, fetch);
        assert!(before.is_none(), "a piece is fetched once at a time");
    }

    /// Takes the next block to ask the owner of a piece for.
    pub fn ask_own(&mut self, peer: StreamId, now: Time) -> Option<BlockRange> {
        self.ask(now, |_, fetch| fetch.owner == Some(peer))
    }

    /// Takes the next block of a piece that has lost its owner; `peer` is the next.
    pub fn ask_left(&mut self, peer: StreamId, theirs: &Bitmap, now: Time) -> Option<BlockRange> {
        let range = self.ask(now, |piece, fetch| {
            fetch.owner.is_none() && theirs.get(piece.as_usize())
        })?;
        if let Some(fetch) = self.pieces.get_mut(&range.piece) {
            fetch.owner = Some(peer);
        }
        Some(range)
    }

    /// Takes the next block that nobody is asked for, of whichever piece.
    pub fn ask_shared(&mut self, theirs: &Bitmap, now: Time) -> Option<BlockRange> {
        self.ask(now, |piece, fetch| {
            !fetch.is_alone && theirs.get(piece.as_usize())
        })
    }

    /// Takes a block that one other peer has been asked for and did not begin to send for long.
    pub fn ask_again(&mut self, peer: StreamId, theirs: &Bitmap, now: Time) -> Option<BlockRange> {
        for (&piece, fetch) in &mut self.pieces {
            if fetch.is_alone || fetch.owner == Some(peer) || !theirs.get(piece.as_usize()) {
                continue;
            }
            let is_late = |slot: &Slot| {
                slot.askers == 1
                    && slot.state == State::Missing
                    && now >= slot.asked_at + SECOND_ASK_AFTER
            };
            // From the end: the other begins at the front.
            if let Some(number) = fetch.slots.iter().rposition(is_late) {
                fetch.slots[number].askers += 1;
                return Some(block_of(piece, fetch.len, number));
            }
        }
        None
    }

    fn ask(&mut self, now: Time, fits: impl Fn(PieceIndex, &Fetch) -> bool) -> Option<BlockRange> {
        let mut pieces = self.pieces.iter_mut();
        let (&piece, fetch) =
            pieces.find(|(piece, fetch)| fetch.free > 0 && fits(**piece, fetch))?;
        let number = fetch.slots.iter().position(Slot::is_free);
        let number = number.expect("free blocks are counted");
        fetch.free -= 1;
        fetch.slots[number].askers = 1;
        fetch.slots[number].asked_at = now;
        Some(block_of(piece, fetch.len, number))
    }

    /// A request waits at a peer no more: it was served, refused, taken back, or the peer is gone.
    pub fn unask(&mut self, peer: StreamId, range: BlockRange) {
        let Some((fetch, slot)) = self.slot(range) else {
            return;
        };
        let place = &mut fetch.slots[slot];
        let was_free = place.is_free();
        place.askers = place.askers.saturating_sub(1);
        place.drop_part_of(peer);
        fetch.free += usize::from(place.is_free() && !was_free);
    }

    /// A peer that was given up before is gone: what it had begun is nobody's.
    pub fn abandon(&mut self, peer: StreamId, range: BlockRange) {
        if let Some((fetch, slot)) = self.slot(range) {
            let place = &mut fetch.slots[slot];
            let was_free = place.is_free();
            place.drop_part_of(peer);
            fetch.free += usize::from(place.is_free() && !was_free);
        }
    }

    /// A peer brings nothing for now: its pieces are anybody's.
    pub fn disown(&mut self, peer: StreamId) {
        for fetch in self.pieces.values_mut() {
            if fetch.owner == Some(peer) {
                fetch.owner = None;
                fetch.is_alone = false;
            }
        }
    }

    /// Takes bytes of a block for which `peer` has a request.
    pub fn take(&mut self, peer: StreamId, part: BlockRange, bytes: &[u8]) -> Taken {
        let Some((fetch, number)) = self.slot(part) else {
            return Taken::Useless;
        };
        let at = part.begin % BLOCK_BYTES;
        let slot = &mut fetch.slots[number];
        if slot.state == State::Missing && at == 0 {
            // A peer that was given up sends after all what nobody else is asked for.
            fetch.free -= usize::from(slot.askers == 0);
            slot.state = State::Filling {
                by: peer,
                filled: 0,
            };
        }
        let State::Filling { by, filled } = &mut slot.state else {
            return Taken::Useless;
        };
        let begin = part.begin as usize;
        let place = fetch.memory.get_mut(begin..begin + bytes.len());
        let (Some(place), true) = (place, *by == peer && *filled == at) else {
            return Taken::Useless;
        };
        place.copy_from_slice(bytes);
        *filled += part.len;
        if at + part.len < block_of(part.piece, fetch.len, number).len {
            return Taken::Part;
        }
        fetch.slots[number].state = State::Here(peer);
        fetch.left -= 1;
        let askers = fetch.slots[number].askers;
        if fetch.left == 0 {
            Taken::Piece { askers }
        } else {
            Taken::Block { askers }
        }
    }

    /// Takes a piece away whose blocks are all here.
    pub fn finish(&mut self, piece: PieceIndex) -> Option<Whole> {
        let is_whole = self.pieces.get(&piece).is_some_and(|fetch| fetch.left == 0);
        let fetch = self.pieces.remove(&piece).filter(|_| is_whole)?;
        let source = |slot: &Slot| match slot.state {
            State::Here(by) => Some(by),
            State::Missing | State::Filling { .. } => None,
        };
        Some(Whole {
            sources: fetch.slots.iter().filter_map(source).collect(),
            memory: fetch.memory,
        })
    }

    /// Drops a piece that came another way; tells whether it was on its way here.
    pub fn forget(&mut self, piece: PieceIndex) -> bool {
        self.pieces.remove(&piece).is_some()
    }

    fn slot(&mut self, range: BlockRange) -> Option<(&mut Fetch, usize)> {
        let number = (range.begin / BLOCK_BYTES) as usize;
        let fetch = self.pieces.get_mut(&range.piece)?;
        let block = block_of(range.piece, fetch.len, number);
        let end = u64::from(range.begin % BLOCK_BYTES) + u64::from(range.len);
        let is_inside = number < fetch.slots.len() && end <= u64::from(block.len);
        is_inside.then_some((fetch, number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Blocks;
    use crate::base::block::PlainBlocks;

    const NOW: Time = Time::from_nanos(1_000_000_000);
    const PIECE: PieceIndex = PieceIndex::new(1);

    fn peer(number: u32) -> StreamId {
        StreamId::outgoing(number)
    }

    /// Two pieces, the second of three blocks and a bit.
    fn fetches() -> Fetches {
        let mut fetches = Fetches::new(Cut::new(65_536 + 50_000, 65_536).unwrap());
        let memory = PlainBlocks::new(65_536, 1).take().unwrap();
        fetches.begin(PIECE, 50_000, memory, peer(0), false);
        fetches
    }

    fn bytes_of(range: BlockRange) -> Vec<u8> {
        let bytes = range.begin..range.begin + range.len;
        bytes.map(|at| at.to_le_bytes()[1]).collect()
    }

    fn bring(fetches: &mut Fetches, from: StreamId, range: BlockRange) -> Taken {
        let taken = fetches.take(from, range, &bytes_of(range));
        fetches.unask(from, range);
        taken
    }

    #[test]
    fn a_piece_is_asked_for_once_and_put_together() {
        let mut fetches = fetches();
        assert_eq!(fetches.ask_own(peer(1), NOW), None);
        let asked: Vec<_> = std::iter::from_fn(|| fetches.ask_own(peer(0), NOW)).collect();
        assert_eq!(asked.len(), 4);
        assert_eq!(asked.iter().map(|range| range.len).sum::<u32>(), 50_000);
        for &range in asked.iter().rev().take(3) {
            assert_eq!(
                bring(&mut fetches, peer(0), range),
                Taken::Block { askers: 1 }
            );
            assert_eq!(bring(&mut fetches, peer(0), range), Taken::Useless);
        }
        assert!(fetches.finish(PieceIndex::new(0)).is_none());
        // The last one in two parts, as a stream brings it.
        let (first, second) = (
            BlockRange { len: 1, ..asked[0] },
            BlockRange {
                begin: 1,
                len: asked[0].len - 1,
                ..asked[0]
            },
        );
        assert_eq!(
            fetches.take(peer(0), second, &bytes_of(second)),
            Taken::Useless
        );
        assert_eq!(fetches.take(peer(0), first, &bytes_of(first)), Taken::Part);
        assert_eq!(
            fetches.take(peer(0), second, &bytes_of(second)),
            Taken::Piece { askers: 1 }
        );
        let whole = fetches.finish(PIECE).unwrap();
        assert_eq!(whole.sources, vec![peer(0); 4]);
        let all = BlockRange {
            piece: PIECE,
            begin: 0,
            len: 50_000,
        };
        assert_eq!(whole.memory[..50_000], bytes_of(all));
    }

    #[test]
    fn what_a_lost_peer_had_goes_to_the_next() {
        let mut fetches = fetches();
        let first = fetches.ask_own(peer(0), NOW).unwrap();
        let part = BlockRange { len: 10, ..first };
        assert_eq!(fetches.take(peer(0), part, &bytes_of(part)), Taken::Part);
        fetches.unask(peer(0), first);
        fetches.disown(peer(0));
        let theirs = Bitmap::full(2);
        assert_eq!(fetches.ask_left(peer(1), &Bitmap::new(2), NOW), None);
        assert_eq!(fetches.ask_left(peer(1), &theirs, NOW), Some(first));
        assert!(
            fetches.ask_own(peer(1), NOW).is_some(),
            "it owns the piece now"
        );
        assert_eq!(
            bring(&mut fetches, peer(1), first),
            Taken::Block { askers: 1 }
        );
    }

    #[test]
    fn what_is_right_of_a_wrong_piece_is_kept() {
        let mut fetches = fetches();
        while let Some(range) = fetches.ask_own(peer(0), NOW) {
            bring(&mut fetches, peer(0), range);
        }
        let whole = fetches.finish(PIECE).unwrap();
        fetches.resume(PIECE, 50_000, whole, &[true, false, true, true]);
        let theirs = Bitmap::full(2);
        assert_eq!(fetches.ask_own(peer(0), NOW), None);
        let range = fetches.ask_left(peer(1), &theirs, NOW).unwrap();
        assert_eq!((range.begin, range.len), (BLOCK_BYTES, BLOCK_BYTES));
        assert_eq!(fetches.ask_left(peer(1), &theirs, NOW), None);
        let taken = fetches.take(peer(1), range, &bytes_of(range));
        assert_eq!(taken, Taken::Piece { askers: 1 });
        let sources = [0, 1, 0, 0].map(peer);
        assert_eq!(fetches.finish(PIECE).unwrap().sources, sources);
    }

    #[test]
    fn padding_is_not_asked_for_and_zero() {
        let mut fetches = Fetches::new(Cut::new(65_536 + 50_000, 65_536).unwrap());
        let mut memory = PlainBlocks::new(65_536, 1).take().unwrap();
        memory.fill(7);
        let first = PieceIndex::new(0);
        fetches.begin(first, 20_000, memory, peer(0), false);
        while let Some(range) = fetches.ask_own(peer(0), NOW) {
            assert!(range.begin + range.len <= 20_000, "{range:?}");
            bring(&mut fetches, peer(0), range);
        }
        let whole = fetches.finish(first).unwrap();
        assert_eq!(whole.sources.len(), 2);
        assert!(whole.memory[20_000..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn late_blocks_are_asked_of_a_second_peer_and_of_no_third() {
        let mut fetches = fetches();
        let theirs = Bitmap::full(2);
        while fetches.ask_own(peer(0), NOW).is_some() {}
        assert_eq!(fetches.ask_again(peer(1), &theirs, NOW), None);
        let late = NOW + SECOND_ASK_AFTER;
        let again = |fetches: &mut Fetches, number| {
            std::iter::from_fn(|| fetches.ask_again(peer(number), &theirs, late)).collect()
        };
        let asked: Vec<_> = again(&mut fetches, 1);
        assert_eq!(asked.len(), 4);
        assert_eq!(again(&mut fetches, 2), []);
        assert_eq!(again(&mut fetches, 0), [], "not of the first");
        assert_eq!(
            bring(&mut fetches, peer(1), asked[0]),
            Taken::Block { askers: 2 }
        );
        assert_eq!(bring(&mut fetches, peer(0), asked[0]), Taken::Useless);
        fetches.unask(peer(0), asked[1]);
        fetches.unask(peer(1), asked[1]);
        assert_eq!(fetches.ask_shared(&theirs, late), Some(asked[1]));
        assert!(fetches.forget(PIECE) && !fetches.forget(PIECE));
    }
}
