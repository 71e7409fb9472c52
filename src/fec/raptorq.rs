//! The real code: the `raptorq` crate, one block at a time.
//!
//! The crate panics on input that it does not like and holds that to be its caller's duty, so it
//! sees only what [`Symbols`] let through, and runs behind a panic boundary all the same.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use raptorq::{
    EncodingPacket, ObjectTransmissionInformation, PayloadId, SourceBlockDecoder,
    SourceBlockEncoder, SourceBlockEncodingPlan,
};

use super::symbols::{Symbols, check_block, check_repair};
use super::{Added, Assembly, Code, Encoder, Error, Esi, Shape};

/// RaptorQ as RFC 6330 has it: source block number 0, no sub-blocks.
///
/// Owns the encoding plans, which depend on K alone and cost more than a block.
#[derive(Debug, Default)]
pub struct RaptorQ {
    plans: BTreeMap<u16, SourceBlockEncodingPlan>,
}

/// How many plans are kept. A bundle has two kinds of block: full, and the last.
const PLANS_MAX: usize = 4;

impl RaptorQ {
    /// Makes the code, without plans yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn plan(&mut self, shape: Shape) -> Result<&SourceBlockEncodingPlan, Error> {
        let count = u16::try_from(shape.source_symbols())
            .expect("a shape has at most 56,403 source symbols");
        if !self.plans.contains_key(&count) {
            if self.plans.len() >= PLANS_MAX {
                self.plans.clear();
            }
            let plan = guarded(|| SourceBlockEncodingPlan::generate(count))?;
            self.plans.insert(count, plan);
        }
        Ok(&self.plans[&count])
    }
}

impl Code for RaptorQ {
    type Encoder = RaptorQEncoder;
    type Assembly = RaptorQAssembly;

    fn encoder(
        &mut self,
        _piece: u32,
        shape: Shape,
        block: &[u8],
    ) -> Result<RaptorQEncoder, Error> {
        check_block(shape, block)?;
        let mut padded = Vec::with_capacity(shape.padded_size());
        padded.extend_from_slice(block);
        padded.resize(shape.padded_size(), 0);
        let plan = self.plan(shape)?;
        let encoder = guarded(|| {
            SourceBlockEncoder::with_encoding_plan(BLOCK_NUMBER, &config(shape), &padded, plan)
        })?;
        Ok(RaptorQEncoder { shape, encoder })
    }

    fn assembly(&mut self, _piece: u32, shape: Shape) -> RaptorQAssembly {
        RaptorQAssembly {
            symbols: Symbols::new(shape),
        }
    }
}

/// Makes repair symbols; holds the block twice, as source and as intermediate symbols.
#[derive(Debug)]
pub struct RaptorQEncoder {
    shape: Shape,
    encoder: SourceBlockEncoder,
}

impl Encoder for RaptorQEncoder {
    fn repair(&mut self, esi: Esi, symbol: &mut [u8]) -> Result<(), Error> {
        check_repair(self.shape, esi, symbol)?;
        let index = esi.get() - self.shape.source_symbols();
        let packets = guarded(|| self.encoder.repair_packets(index, 1))?;
        let packet = packets.first().ok_or(Error::Panicked)?;
        symbol.copy_from_slice(packet.data());
        Ok(())
    }
}

/// Gathers symbols and hands them to the decoder once there are enough.
#[derive(Debug)]
pub struct RaptorQAssembly {
    symbols: Symbols,
}

impl RaptorQAssembly {
    /// Solves for the block; `None` if the symbols at hand do not determine it.
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
        let Some(whole) = self.decode(block)? else {
            self.symbols.note_failure();
            return Ok(false);
        };
        for range in self.symbols.missing() {
            block[range.clone()].copy_from_slice(&whole[range]);
        }
        self.symbols.note_whole();
        Ok(true)
    }
}

/// Every piece is an object of its own, of one source block.
const BLOCK_NUMBER: u8 = 0;

fn config(shape: Shape) -> ObjectTransmissionInformation {
    let symbol_size = shape.symbol_size();
    let alignment = [8, 4, 2, 1]
        .into_iter()
        .find(|&alignment| symbol_size.is_multiple_of(u16::from(alignment)))
        .expect("1 divides every symbol size");
    ObjectTransmissionInformation::new(shape.padded_size() as u64, symbol_size, 1, 1, alignment)
}

fn packet(esi: Esi, symbol: Vec<u8>) -> EncodingPacket {
    EncodingPacket::new(PayloadId::new(BLOCK_NUMBER, esi.get()), symbol)
}

/// The panic boundary. What the codec had in hand is dropped with the panic, so nothing half-made
/// is seen afterwards.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Error::Panicked)
}
