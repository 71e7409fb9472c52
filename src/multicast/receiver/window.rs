//! The pieces that a receiver is gathering.
//!
//! Each holds one block of memory. When no block is free, pieces that have begun keep theirs and new
//! ones are skipped whole: a slow disk costs whole pieces, which come by again, and never leaves many
//! pieces half done.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::base::{Block, Blocks, PieceIndex};
use crate::fec::{Added, Assembly, Code, Error, Esi, Shape};
use crate::image::Geometry;
use crate::multicast::limits::SETTLE_PACKETS;

/// The pieces begun, in order.
pub(super) struct Window<C: Code> {
    code: C,
    geometry: Geometry,
    symbol_size: u16,
    blocks: Box<dyn Blocks>,
    begun: BTreeMap<u32, Begun<C::Assembly>>,
    /// Pieces that were skipped last, so that each is counted once.
    skipped_last: [Option<PieceIndex>; 8],
    skipped: u32,
}

/// One piece begun.
struct Begun<A> {
    block: Block,
    assembly: A,
    shape: Shape,
    has_repairs: bool,
    /// The counter of its last symbol.
    last: u64,
    /// The counter that, once passed, shows that nothing more of this piece is on its way.
    settles: u64,
    /// Its deficit was reported since it settled.
    is_reported: bool,
}

/// One symbol and where it stood in the sender's stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol<'a> {
    pub(super) esi: Esi,
    pub(super) bytes: &'a [u8],
    pub(super) counter: u64,
    pub(super) remaining: u32,
}

/// What became of a symbol.
#[derive(Debug)]
pub(super) enum Taken {
    /// It was kept.
    Source,
    /// It was kept, and is a repair symbol.
    Repair,
    /// It was there already, or is beyond all need.
    Useless,
    /// No block is free for its piece.
    NoMemory,
    /// It does not fit the shape of its piece.
    Malformed,
}

/// What a piece has come to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// More symbols are needed.
    Unfinished,
    /// The block is whole, and not yet verified; tells whether the decoder was needed.
    Whole {
        block: Block,
        len: usize,
        was_decoded: bool,
    },
    /// The codec failed; the piece starts over.
    Failed,
}

impl<C: Code> Window<C> {
    pub(super) fn new(
        code: C,
        geometry: Geometry,
        symbol_size: u16,
        blocks: Box<dyn Blocks>,
    ) -> Self {
        Self {
            code,
            geometry,
            symbol_size,
            blocks,
            begun: BTreeMap::new(),
            skipped_last: [None; 8],
            skipped: 0,
        }
    }

    /// How many pieces are begun.
    pub(super) fn begun_count(&self) -> usize {
        self.begun.len()
    }

    /// How many pieces were skipped for want of memory.
    pub(super) const fn skipped_count(&self) -> u32 {
        self.skipped
    }

    /// Takes a symbol of a piece that is not complete yet.
    pub(super) fn take(&mut self, piece: PieceIndex, symbol: Symbol<'_>) -> Taken {
        let begun = match self.begun.entry(piece.get()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let Some(shape) = Shape::new(self.geometry.len(piece), self.symbol_size) else {
                    return Taken::Malformed;
                };
                let Some(block) = self.blocks.take() else {
                    self.note_skipped(piece);
                    return Taken::NoMemory;
                };
                entry.insert(Begun {
                    block,
                    assembly: self.code.assembly(piece.get(), shape),
                    shape,
                    has_repairs: false,
                    last: symbol.counter,
                    settles: symbol.counter,
                    is_reported: false,
                })
            }
        };
        begun.last = begun.last.max(symbol.counter);
        let settles = symbol.counter
            + if symbol.remaining == 0 {
                0
            } else {
                SETTLE_PACKETS
            };
        begun.settles = begun.settles.max(settles);
        begun.is_reported = false;
        let is_source = begun.shape.is_source(symbol.esi);
        match begun
            .assembly
            .add(symbol.esi, symbol.bytes, &mut begun.block)
        {
            Ok(Added::New) if is_source => Taken::Source,
            Ok(Added::New) => {
                begun.has_repairs = true;
                Taken::Repair
            }
            Ok(Added::Duplicate) | Err(Error::Surplus(_)) => Taken::Useless,
            Err(_) => Taken::Malformed,
        }
    }

    /// Tries to make a piece whole; it is no longer begun when it is, or when the codec failed.
    pub(super) fn complete(&mut self, piece: PieceIndex) -> Outcome {
        let Some(begun) = self.begun.get_mut(&piece.get()) else {
            return Outcome::Unfinished;
        };
        if begun.assembly.deficit() > 0 {
            return Outcome::Unfinished;
        }
        let completed = begun.assembly.complete(&mut begun.block);
        if completed == Ok(false) {
            return Outcome::Unfinished;
        }
        let begun = self.begun.remove(&piece.get());
        match (completed, begun) {
            (Ok(_), Some(begun)) => Outcome::Whole {
                block: begun.block,
                len: begun.shape.block_size(),
                was_decoded: begun.has_repairs,
            },
            _ => Outcome::Failed,
        }
    }

    /// Drops what was gathered of a piece.
    pub(super) fn forget(&mut self, piece: PieceIndex) {
        self.begun.remove(&piece.get());
    }

    /// How many symbols the piece lacks, if it is begun.
    pub(super) fn deficit(&self, piece: u32) -> Option<u32> {
        let begun = self.begun.get(&piece)?;
        Some(begun.assembly.deficit().max(1))
    }

    /// The first begun piece in `pieces`.
    pub(super) fn next_begun(&self, pieces: std::ops::Range<u32>) -> Option<u32> {
        self.begun.range(pieces).next().map(|(&piece, _)| piece)
    }

    /// Whether a piece has settled with a deficit that no report told yet: all counters below `ack`
    /// were seen or lost, and nothing of any piece was on its way when `quiet` was sent.
    pub(super) fn has_news(&self, ack: u64, quiet: Option<u64>) -> bool {
        self.begun
            .values()
            .any(|begun| !begun.is_reported && begun.has_settled(ack, quiet))
    }

    /// Notes that all deficits were told.
    pub(super) fn note_reported(&mut self, ack: u64, quiet: Option<u64>) {
        for begun in self.begun.values_mut() {
            begun.is_reported |= begun.has_settled(ack, quiet);
        }
    }

    /// Notes that counters start anew: what was on its way will not come.
    pub(super) fn note_new_epoch(&mut self) {
        for begun in self.begun.values_mut() {
            (begun.last, begun.settles, begun.is_reported) = (0, 0, false);
        }
    }

    fn note_skipped(&mut self, piece: PieceIndex) {
        if !self.skipped_last.contains(&Some(piece)) {
            self.skipped_last.rotate_right(1);
            self.skipped_last[0] = Some(piece);
            self.skipped = self.skipped.saturating_add(1);
        }
    }
}

impl<A> Begun<A> {
    fn has_settled(&self, ack: u64, quiet: Option<u64>) -> bool {
        ack > self.settles || quiet.is_some_and(|quiet| quiet >= self.last)
    }
}
