//! The real code, one block at a time: the dense path where it is faster, the `raptorq` crate for
//! the rest.
//!
//! The crate panics on input that it does not like and holds that to be its caller's duty, so it
//! sees only what [`Symbols`] let through, and runs behind a panic boundary all the same.

use std::sync::Arc;

use raptorq::{EncodingPacket, PayloadId, SourceBlockDecoder};

use super::plan::{BLOCK_NUMBER, Plan, Plans, config, guarded, repair_of};
use super::symbols::{Symbols, check_block, check_repairs};
use super::{Added, Assembly, Code, Error, Esi, Kernel, Shape, cost, dense};

/// RaptorQ as RFC 6330 has it: source block number 0, no sub-blocks.
#[derive(Debug)]
pub struct RaptorQ {
    plans: Plans,
    /// What runs the dense path; `None` leaves all to the crate.
    kernel: Option<Kernel>,
}

impl RaptorQ {
    /// Makes the code with the fastest kernel of this processor.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Some(Kernel::best()))
    }

    /// Makes the code with this kernel, or without the dense path: the same bytes at another speed.
    #[must_use]
    pub fn with(kernel: Option<Kernel>) -> Self {
        Self {
            plans: Plans::default(),
            kernel,
        }
    }
}

impl Default for RaptorQ {
    fn default() -> Self {
        Self::new()
    }
}

impl Code for RaptorQ {
    type Assembly = RaptorQAssembly;

    fn repair(
        &mut self,
        _piece: u32,
        shape: Shape,
        block: &[u8],
        esis: &[Esi],
        symbols: &mut [u8],
    ) -> Result<(), Error> {
        check_block(shape, block)?;
        check_repairs(shape, esis, symbols)?;
        let plan = self.plans.get(shape);
        let is_faster = |kernel: &Kernel| cost::encodes_faster(*kernel, shape, esis.len());
        if let Some(kernel) = self.kernel.filter(is_faster) {
            return dense::encode(kernel, &plan, shape, block, esis, symbols);
        }
        let encoder = plan.encoder(shape, block)?;
        let width = usize::from(shape.symbol_size());
        for (&esi, symbol) in esis.iter().zip(symbols.chunks_mut(width)) {
            symbol.copy_from_slice(&repair_of(&encoder, shape.source_symbols(), esi)?);
        }
        Ok(())
    }

    fn assembly(&mut self, _piece: u32, shape: Shape) -> RaptorQAssembly {
        RaptorQAssembly {
            symbols: Symbols::new(shape),
            plan: self.plans.get(shape),
            kernel: self.kernel,
        }
    }
}

/// Gathers symbols and solves for the block once there are enough.
#[derive(Debug)]
pub struct RaptorQAssembly {
    symbols: Symbols,
    plan: Arc<Plan>,
    kernel: Option<Kernel>,
}

impl RaptorQAssembly {
    /// Fills in what is missing; false if the symbols at hand do not determine it.
    fn solve(&self, block: &mut [u8]) -> Result<bool, Error> {
        let shape = self.symbols.shape();
        let missing = self.symbols.missing_indices().count();
        let is_faster = |kernel: &Kernel| cost::solves_faster(*kernel, shape, missing);
        if let Some(kernel) = self.kernel.filter(is_faster) {
            return dense::solve(kernel, &self.plan, &self.symbols, block);
        }
        let Some(whole) = self.decode(block)? else {
            return Ok(false);
        };
        for range in self.symbols.missing() {
            block[range.clone()].copy_from_slice(&whole[range]);
        }
        Ok(true)
    }

    /// Has the crate decode; `None` if the symbols at hand do not determine the block.
    fn decode(&self, block: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let shape = self.symbols.shape();
        let size = usize::from(shape.symbol_size());
        let source = self.symbols.sources().map(|esi| {
            let start = esi.get() as usize * size;
            let mut symbol = block[start..(start + size).min(block.len())].to_vec();
            symbol.resize(size, 0);
            packet(esi, symbol)
        });
        let repair = (self.symbols.repairs()).map(|(esi, symbol)| packet(esi, symbol.to_vec()));
        let block_size = shape.padded_size() as u64;
        guarded(|| {
            let mut decoder = SourceBlockDecoder::new(BLOCK_NUMBER, &config(shape), block_size);
            decoder.decode(source.chain(repair))
        })
    }
}

impl Assembly for RaptorQAssembly {
    fn add(&mut self, esi: Esi, symbol: &[u8], block: &mut [u8]) -> Result<Added, Error> {
        self.symbols.add(esi, symbol, block)
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
        let is_solved = self.solve(block)?;
        if is_solved {
            self.symbols.note_whole();
        } else {
            self.symbols.note_failure();
        }
        Ok(is_solved)
    }
}

fn packet(esi: Esi, symbol: Vec<u8>) -> EncodingPacket {
    EncodingPacket::new(PayloadId::new(BLOCK_NUMBER, esi.get()), symbol)
}
