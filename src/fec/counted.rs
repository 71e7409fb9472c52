//! A model of the code for the simulator: it counts symbols instead of solving for them.
//!
//! Repair symbols carry only a mark that names them; a block with enough symbols is completed from
//! the bundle itself, which all parties of a simulation share. It fails as often as RFC 6330 says
//! the real one does, and a damaged repair symbol spoils the block, as it does in the real one.

use std::sync::Arc;

use super::symbols::{Symbols, check_block, check_repairs};
use super::{Added, Assembly, Code, Error, Esi, Shape};

/// The model; clones share the bundle.
#[derive(Clone, Debug)]
pub struct Counted {
    bundle: Arc<[u8]>,
    piece_size: usize,
    seed: u64,
}

impl Counted {
    /// Makes the model of a bundle in pieces of `piece_size` bytes.
    ///
    /// `seed` decides which sets of symbols are the unlucky ones.
    #[must_use]
    pub fn new(bundle: Arc<[u8]>, piece_size: usize, seed: u64) -> Self {
        Self {
            bundle,
            piece_size,
            seed,
        }
    }
}

impl Code for Counted {
    type Assembly = CountedAssembly;

    /// Makes marks instead of repair symbols.
    fn repair(
        &mut self,
        piece: u32,
        shape: Shape,
        block: &[u8],
        esis: &[Esi],
        symbols: &mut [u8],
    ) -> Result<(), Error> {
        check_block(shape, block)?;
        check_repairs(shape, esis, symbols)?;
        symbols.fill(0);
        let width = usize::from(shape.symbol_size());
        for (&esi, symbol) in esis.iter().zip(symbols.chunks_mut(width)) {
            let mark = mark(piece, esi);
            let len = mark.len().min(width);
            symbol[..len].copy_from_slice(&mark[..len]);
        }
        Ok(())
    }

    fn assembly(&mut self, piece: u32, shape: Shape) -> CountedAssembly {
        CountedAssembly {
            code: self.clone(),
            piece,
            symbols: Symbols::new(shape),
            luck: mix(self.seed ^ u64::from(piece)),
            spoiled: false,
        }
    }
}

/// Counts symbols.
#[derive(Debug)]
pub struct CountedAssembly {
    code: Counted,
    piece: u32,
    symbols: Symbols,
    /// A hash of the set of symbols that are here.
    luck: u64,
    /// Whether a repair symbol was damaged.
    spoiled: bool,
}

impl Assembly for CountedAssembly {
    fn add(&mut self, esi: Esi, symbol: &[u8], block: &mut [u8]) -> Result<Added, Error> {
        let added = self.symbols.add(esi, symbol, block)?;
        if added == Added::New {
            self.luck ^= mix(u64::from(esi.get()));
            if !self.symbols.shape().is_source(esi) {
                let mark = mark(self.piece, esi);
                let len = mark.len().min(symbol.len());
                self.spoiled |= mark[..len] != symbol[..len];
            }
        }
        Ok(added)
    }

    fn deficit(&self) -> u32 {
        self.symbols.deficit()
    }

    fn complete(&mut self, block: &mut [u8]) -> Result<bool, Error> {
        let block = self.symbols.block(block)?;
        if self.symbols.is_whole() {
            return Ok(true);
        }
        if self.symbols.deficit() > 0 {
            return Ok(false);
        }
        let surplus = self.symbols.count() - self.symbols.shape().source_symbols();
        if mix(self.luck) < failure_threshold(surplus) {
            self.symbols.note_failure();
            return Ok(false);
        }
        let start = self.piece as usize * self.code.piece_size;
        for range in self.symbols.missing() {
            let whole = self.code.bundle.get(start + range.start..start + range.end);
            block[range].copy_from_slice(whole.ok_or(Error::Panicked)?);
        }
        if self.spoiled
            && let Some(byte) = block.first_mut()
        {
            *byte ^= 0x55;
        }
        self.symbols.note_whole();
        Ok(true)
    }
}

/// The chance to fail, as a share of `u64::MAX`: 0.5 % without surplus, 256 times less for each
/// symbol of it.
const fn failure_threshold(surplus: u32) -> u64 {
    let shift = if surplus < 8 { surplus * 8 } else { 63 };
    (u64::MAX / 200) >> shift
}

fn mark(piece: u32, esi: Esi) -> [u8; 8] {
    mix(u64::from(piece) << 32 | u64::from(esi.get())).to_be_bytes()
}

/// Spreads a number over all 64 bits (the finalizer of `splitmix64`).
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
