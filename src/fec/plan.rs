//! What depends on K alone and costs more than a block: made when first needed, then shared by all
//! blocks of that K.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use raptorq::{ObjectTransmissionInformation, SourceBlockEncoder, SourceBlockEncodingPlan};

use super::{Error, Esi, Shape};

/// Up to which K a repair symbol is had as a sum over the source symbols: a row of factors takes K
/// steps to make, and the table behind the rows 2 K² bytes: 8 MiB.
pub(super) const ROWS_MAX: u32 = 2048;

/// The plans that were used, by K.
#[derive(Debug, Default)]
pub(super) struct Plans {
    plans: BTreeMap<u16, Arc<Plan>>,
}

/// How many plans are kept. A bundle has two kinds of block: full, and the last.
const PLANS_MAX: usize = 4;

impl Plans {
    /// The plan for blocks of this shape; cheap, since it is empty until it is used.
    pub(super) fn get(&mut self, shape: Shape) -> Arc<Plan> {
        let count = u16::try_from(shape.source_symbols())
            .expect("a shape has at most 56,403 source symbols");
        if !self.plans.contains_key(&count) && self.plans.len() >= PLANS_MAX {
            self.plans.clear();
        }
        let plan = self.plans.entry(count);
        Arc::clone(plan.or_insert_with(|| Arc::new(Plan::new(count))))
    }
}

/// How blocks of K source symbols are encoded.
#[derive(Debug)]
pub(super) struct Plan {
    count: u16,
    steps: OnceLock<SourceBlockEncodingPlan>,
    identity: OnceLock<SourceBlockEncoder>,
    /// The rows that were used. Pieces have repair symbols of the same few ids as a rule.
    rows: Mutex<BTreeMap<Esi, Arc<[u8]>>>,
}

/// How many rows of a plan are kept, each K bytes.
const ROWS_KEPT_MAX: usize = 256;

impl Plan {
    const fn new(count: u16) -> Self {
        Self {
            count,
            steps: OnceLock::new(),
            identity: OnceLock::new(),
            rows: Mutex::new(BTreeMap::new()),
        }
    }

    /// Solves for the intermediate symbols of a block, from which any repair symbol is had fast.
    pub(super) fn encoder(&self, shape: Shape, block: &[u8]) -> Result<SourceBlockEncoder, Error> {
        let mut padded = Vec::with_capacity(shape.padded_size());
        padded.extend_from_slice(block);
        padded.resize(shape.padded_size(), 0);
        guarded(|| {
            let steps = self
                .steps
                .get_or_init(|| SourceBlockEncodingPlan::generate(self.count));
            SourceBlockEncoder::with_encoding_plan(BLOCK_NUMBER, &config(shape), &padded, steps)
        })
    }

    /// The rows of repair symbols: for each the K factors whose products with the source symbols
    /// add up to it.
    pub(super) fn rows(&self, esis: &[Esi]) -> Result<Vec<Arc<[u8]>>, Error> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        esis.iter()
            .map(|&esi| {
                if let Some(row) = rows.get(&esi) {
                    return Ok(Arc::clone(row));
                }
                let row: Arc<[u8]> = self.row(esi)?.into();
                if rows.len() >= ROWS_KEPT_MAX {
                    rows.clear();
                }
                rows.insert(esi, Arc::clone(&row));
                Ok(row)
            })
            .collect()
    }

    /// A row is the repair symbol of the block whose source symbols are the rows of the identity
    /// matrix.
    fn row(&self, esi: Esi) -> Result<Vec<u8>, Error> {
        let identity = match self.identity.get() {
            Some(identity) => identity,
            None => {
                let identity = self.encode_identity()?;
                self.identity.get_or_init(|| identity)
            }
        };
        repair_of(identity, u32::from(self.count), esi)
    }

    fn encode_identity(&self) -> Result<SourceBlockEncoder, Error> {
        let count = usize::from(self.count);
        let mut identity = vec![0; count * count];
        for diagonal in identity.iter_mut().step_by(count + 1) {
            *diagonal = 1;
        }
        let shape = Shape::new(identity.len(), self.count).ok_or(Error::Panicked)?;
        self.encoder(shape, &identity)
    }
}

/// Has a repair symbol made by the encoder of a block of `count` source symbols.
pub(super) fn repair_of(
    encoder: &SourceBlockEncoder,
    count: u32,
    esi: Esi,
) -> Result<Vec<u8>, Error> {
    let packets = guarded(|| encoder.repair_packets(esi.get() - count, 1))?;
    let packet = packets.into_iter().next().ok_or(Error::Panicked)?;
    Ok(packet.split().1)
}

/// Every piece is an object of its own, of one source block.
pub(super) const BLOCK_NUMBER: u8 = 0;

/// What the crate wants to know of a block: no sub-blocks, and so an alignment of no effect.
pub(super) fn config(shape: Shape) -> ObjectTransmissionInformation {
    let symbol_size = shape.symbol_size();
    let alignment = [8, 4, 2, 1]
        .into_iter()
        .find(|&alignment| symbol_size.is_multiple_of(u16::from(alignment)))
        .expect("1 divides every symbol size");
    ObjectTransmissionInformation::new(shape.padded_size() as u64, symbol_size, 1, 1, alignment)
}

/// The panic boundary. What the codec had in hand is dropped with the panic, so nothing half-made
/// is seen afterwards.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Error::Panicked)
}
