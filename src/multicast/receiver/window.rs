//! The pieces that a receiver is gathering.
//!
//! Each holds one block of memory. When no block is free, pieces that have begun keep theirs and
//! new ones are skipped whole: a slow disk costs whole pieces, which come by again, and never
//! leaves many pieces half done. Only a piece of which much was lost gives its block to a new one.

use std::collections::BTreeMap;

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
    /// The pieces that were skipped last: what has begun to be skipped goes on to be skipped until
    /// it comes by again.
    skipped_last: [Option<Skipped>; 8],
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

/// A piece skipped, and its last symbol that was.
#[derive(Clone, Copy, Debug)]
struct Skipped {
    piece: PieceIndex,
    esi: Esi,
    counter: u64,
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
    NoMemory {
        /// The piece comes by for the first time, or anew, and is skipped from here on.
        is_new_pass: bool,
    },
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
        if let Some(begun) = self.begun.get_mut(&piece.get()) {
            return begun.take(symbol);
        }
        match self.begin(piece, symbol) {
            Ok(mut begun) => {
                let taken = begun.take(symbol);
                self.begun.insert(piece.get(), begun);
                taken
            }
            Err(taken) => taken,
        }
    }

    fn begin(
        &mut self,
        piece: PieceIndex,
        symbol: Symbol<'_>,
    ) -> Result<Begun<C::Assembly>, Taken> {
        let shape = Shape::new(self.geometry.len(piece), self.symbol_size);
        let shape = shape.ok_or(Taken::Malformed)?;
        let mut skipped = self.skipped_last.iter().flatten();
        let skipped = skipped.find(|skipped| skipped.piece == piece);
        if skipped.is_some_and(|skipped| skipped.goes_on_with(symbol)) {
            return Err(self.skip(piece, symbol));
        }
        let block = self
            .blocks
            .take()
            .or_else(|| self.take_from_worst(symbol.counter));
        let Some(block) = block else {
            return Err(self.skip(piece, symbol));
        };
        Ok(Begun {
            block,
            assembly: self.code.assembly(piece.get(), shape),
            shape,
            has_repairs: false,
            last: symbol.counter,
            settles: symbol.counter,
            is_reported: false,
        })
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
        self.skipped_last = [None; 8];
        for begun in self.begun.values_mut() {
            (begun.last, begun.settles, begun.is_reported) = (0, 0, false);
        }
    }

    /// The block of the piece that lacks most, if that is much and it may have to wait for long.
    fn take_from_worst(&mut self, counter: u64) -> Option<Block> {
        let settled = self
            .begun
            .iter()
            .filter(|(_, begun)| begun.has_settled(counter, None));
        let (&piece, worst) = settled.max_by_key(|(_, begun)| begun.assembly.deficit())?;
        if worst.assembly.deficit() <= worst.shape.source_symbols() / WORST_SHARE {
            return None;
        }
        self.begun.remove(&piece).map(|begun| begun.block)
    }

    /// Notes that a symbol of a piece is skipped.
    fn skip(&mut self, piece: PieceIndex, symbol: Symbol<'_>) -> Taken {
        let latest = Skipped {
            piece,
            esi: symbol.esi,
            counter: symbol.counter,
        };
        let mut skipped = self.skipped_last.iter_mut().flatten();
        let is_new_pass = if let Some(skipped) = skipped.find(|skipped| skipped.piece == piece) {
            !std::mem::replace(skipped, latest).goes_on_with(symbol)
        } else {
            self.skipped_last.rotate_right(1);
            self.skipped_last[0] = Some(latest);
            true
        };
        self.skipped += u32::from(is_new_pass);
        Taken::NoMemory { is_new_pass }
    }
}

impl Skipped {
    /// Whether the symbol is of the same pass over the piece: soon after, and further on in it.
    fn goes_on_with(&self, symbol: Symbol<'_>) -> bool {
        symbol.counter <= self.counter + SETTLE_PACKETS && symbol.esi > self.esi
    }
}

impl<A: Assembly> Begun<A> {
    fn take(&mut self, symbol: Symbol<'_>) -> Taken {
        let is_last = symbol.remaining == 0;
        let settles = symbol.counter + if is_last { 0 } else { SETTLE_PACKETS };
        self.settles = self.settles.max(settles);
        self.last = self.last.max(symbol.counter);
        self.is_reported = false;
        let is_source = self.shape.is_source(symbol.esi);
        let added = self.assembly.add(symbol.esi, symbol.bytes, &mut self.block);
        match added {
            Ok(Added::New) if is_source => Taken::Source,
            Ok(Added::New) => {
                self.has_repairs = true;
                Taken::Repair
            }
            Ok(Added::Duplicate) | Err(Error::Surplus(_)) => Taken::Useless,
            Err(_) => Taken::Malformed,
        }
    }

    fn has_settled(&self, ack: u64, quiet: Option<u64>) -> bool {
        ack > self.settles || quiet.is_some_and(|quiet| quiet >= self.last)
    }
}

/// A piece that lacks more than one in so many of its symbols gives up its block if one is needed.
const WORST_SHARE: u32 = 4;
