//! The symbols of one block that have come: source symbols as a set (their bytes are in the block),
//! repair symbols with their bytes.
//!
//! This is where everything that comes from outside is checked; the codecs behind it get nothing
//! that was not.

use std::collections::BTreeMap;

use super::{Added, Error, Esi, Shape};
use crate::base::Bitmap;

/// How many symbols beyond K are kept at most; two already fail only once in 10 million blocks.
pub const REPAIR_SURPLUS_MAX: u32 = 32;

/// What has come of one block.
#[derive(Debug)]
pub(super) struct Symbols {
    shape: Shape,
    /// Source symbols in the block; full when the block is whole.
    source: Bitmap,
    /// Repair symbols and their places in `repair_bytes`, in symbols.
    repair: BTreeMap<Esi, usize>,
    repair_bytes: Vec<u8>,
    /// How many symbols are needed: K, and one more after each attempt that failed.
    needed: u32,
}

impl Symbols {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            shape,
            source: Bitmap::new(shape.source_symbols() as usize),
            repair: BTreeMap::new(),
            repair_bytes: Vec::new(),
            needed: shape.source_symbols(),
        }
    }

    pub(super) const fn shape(&self) -> Shape {
        self.shape
    }

    /// How many symbols are here.
    pub(super) fn count(&self) -> u32 {
        let count = self.source.count() + self.repair.len();
        u32::try_from(count).expect("K and the surplus are bounded far below u32::MAX")
    }

    pub(super) fn is_whole(&self) -> bool {
        self.source.is_full()
    }

    pub(super) fn deficit(&self) -> u32 {
        if self.is_whole() {
            0
        } else {
            self.needed.saturating_sub(self.count())
        }
    }

    /// Takes a symbol; see [`super::Assembly::add`].
    pub(super) fn add(
        &mut self,
        esi: Esi,
        symbol: &[u8],
        block: &mut [u8],
    ) -> Result<Added, Error> {
        check_symbol(self.shape, symbol)?;
        let block = self.block(block)?;
        if self.is_whole() {
            return Ok(Added::Duplicate);
        }
        match self.shape.source_range(esi) {
            Some(range) => {
                if self.source.get(esi.get() as usize) {
                    return Ok(Added::Duplicate);
                }
                let len = range.len();
                block[range].copy_from_slice(&symbol[..len]);
                self.source.set(esi.get() as usize);
                if self.is_whole() {
                    self.release();
                }
                Ok(Added::New)
            }
            None => self.add_repair(esi, symbol),
        }
    }

    fn add_repair(&mut self, esi: Esi, symbol: &[u8]) -> Result<Added, Error> {
        if self.repair.contains_key(&esi) {
            return Ok(Added::Duplicate);
        }
        let count = self.count();
        if count >= self.shape.source_symbols() + REPAIR_SURPLUS_MAX {
            return Err(Error::Surplus(count));
        }
        self.repair.insert(esi, self.repair.len());
        self.repair_bytes.extend_from_slice(symbol);
        Ok(Added::New)
    }

    /// The part of the caller's memory that is the block.
    pub(super) fn block<'a>(&self, block: &'a mut [u8]) -> Result<&'a mut [u8], Error> {
        let (expected, actual) = (self.shape.block_size(), block.len());
        block
            .get_mut(..expected)
            .ok_or(Error::BlockSize { expected, actual })
    }

    /// The source symbols that are here, ascending.
    pub(super) fn sources(&self) -> impl Iterator<Item = Esi> + '_ {
        self.source.iter().filter_map(|index| {
            let index = u32::try_from(index).ok()?;
            Esi::new(index)
        })
    }

    /// The maximal runs of bytes of the block that are missing, ascending.
    pub(super) fn missing(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let size = usize::from(self.shape.symbol_size());
        let end = self.shape.block_size();
        let bytes = move |run: std::ops::Range<usize>| run.start * size..(run.end * size).min(end);
        self.source.runs(false).map(bytes)
    }

    /// The source symbols that are missing, ascending.
    pub(super) fn missing_indices(&self) -> impl Iterator<Item = usize> + '_ {
        self.source.runs(false).flatten()
    }

    /// The repair symbols that are here, ascending, with their bytes.
    pub(super) fn repairs(&self) -> impl Iterator<Item = (Esi, &[u8])> + '_ {
        let size = usize::from(self.shape.symbol_size());
        let bytes = move |slot: usize| &self.repair_bytes[slot * size..(slot + 1) * size];
        self.repair
            .iter()
            .map(move |(&esi, &slot)| (esi, bytes(slot)))
    }

    /// Notes that the symbols here do not give the block: one more is needed.
    pub(super) fn note_failure(&mut self) {
        self.needed = self.count() + 1;
    }

    /// Notes that the block is whole; the repair symbols are let go.
    pub(super) fn note_whole(&mut self) {
        self.source = Bitmap::full(self.source.len());
        self.release();
    }

    fn release(&mut self) {
        self.repair = BTreeMap::new();
        self.repair_bytes = Vec::new();
    }
}

/// Checks the length of a symbol.
pub(super) fn check_symbol(shape: Shape, symbol: &[u8]) -> Result<(), Error> {
    let (expected, actual) = (usize::from(shape.symbol_size()), symbol.len());
    if actual == expected {
        Ok(())
    } else {
        Err(Error::SymbolSize { expected, actual })
    }
}

/// Checks what repair symbols are asked for, and the room for them.
pub(super) fn check_repairs(shape: Shape, esis: &[Esi], symbols: &[u8]) -> Result<(), Error> {
    if let Some(&esi) = esis.iter().find(|esi| shape.is_source(**esi)) {
        return Err(Error::NotRepair(esi));
    }
    let expected = esis.len() * usize::from(shape.symbol_size());
    let actual = symbols.len();
    if actual == expected {
        Ok(())
    } else {
        Err(Error::SymbolSize { expected, actual })
    }
}

/// Checks the length of a block that is to be encoded.
pub(super) fn check_block(shape: Shape, block: &[u8]) -> Result<(), Error> {
    let (expected, actual) = (shape.block_size(), block.len());
    if actual == expected {
        Ok(())
    } else {
        Err(Error::BlockSize { expected, actual })
    }
}
