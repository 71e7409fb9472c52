//! Forward error correction: RaptorQ (RFC 6330) behind validation.
//!
//! One piece is one source block, cut into K *source symbols* of T bytes; any K symbols, source or
//! repair, give the block back (with a chance of 1 in 200 that one more is needed). Everything that
//! could upset the codec is checked here first: lengths, symbol ids, duplicates, the bounds of K;
//! and a panic in the codec ends as [`Error::Panicked`], not as the end of the process.
//!
//! Invariants: a source symbol is written straight to its place in the caller's block, never beyond
//! the block; the memory for repair symbols of one block is bounded by
//! (K + [`REPAIR_SURPLUS_MAX`]) × T bytes; a block that arrives complete never touches the decoder.
//! [`RaptorQ`] has two ways to the same bytes: the *dense path*, sums over the source symbols made
//! with vector instructions, for the few symbols that are asked for or missing as a rule, and the
//! `raptorq` crate for many. The codec cannot tell a damaged symbol from a good one: the caller
//! authenticates before and hashes after.
//!
//! Protocol machines are generic over [`Code`]: [`RaptorQ`] is the real one, [`Counted`] a model
//! of it that lets the simulator run thousands of receivers.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod cost;
mod counted;
mod dense;
mod gf256;
mod plan;
mod product;
mod raptorq;
mod shape;
mod simd;
mod symbols;
#[cfg(test)]
mod tests;

pub use counted::Counted;
pub use raptorq::RaptorQ;
pub use shape::{ESI_MAX, Esi, SOURCE_SYMBOLS_MAX, Shape};
pub use simd::Kernel;
pub use symbols::REPAIR_SURPLUS_MAX;

/// A code: makes the repair symbols and the assembly of each piece.
pub trait Code: Send {
    /// Gathers the symbols of one block.
    type Assembly: Assembly;

    /// Makes the repair symbols `esis` of `block`, the whole content of `piece`, and writes them
    /// one after the other into `symbols`, which has T bytes for each.
    ///
    /// All that are wanted at about the same time are best asked for in one call: what a call
    /// learns of the block is not kept.
    ///
    /// # Errors
    /// [`Error::BlockSize`] if `block` is not as long as `shape` says, [`Error::SymbolSize`],
    /// [`Error::NotRepair`], [`Error::Panicked`].
    fn repair(
        &mut self,
        piece: u32,
        shape: Shape,
        block: &[u8],
        esis: &[Esi],
        symbols: &mut [u8],
    ) -> Result<(), Error>;

    /// Starts to gather the symbols of `piece`.
    fn assembly(&mut self, piece: u32, shape: Shape) -> Self::Assembly;
}

/// Gathers the symbols of one block until it is whole.
///
/// `block` is the memory where the block grows: the same memory on every call, at least as long as
/// the block, not touched by others in between.
pub trait Assembly: Send {
    /// Takes one symbol of T bytes.
    ///
    /// The padding of a cut last source symbol is not looked at.
    ///
    /// # Errors
    /// [`Error::SymbolSize`], [`Error::BlockSize`]; [`Error::Surplus`] when far more repair symbols
    /// came than are needed. The assembly is unchanged then.
    fn add(&mut self, esi: Esi, symbol: &[u8], block: &mut [u8]) -> Result<Added, Error>;

    /// How many more symbols are needed; 0 says that [`Assembly::complete`] is worth a try.
    fn deficit(&self) -> u32;

    /// Makes the block whole from what is there. Gives false while one more symbol is needed; the
    /// deficit is then at least 1.
    ///
    /// # Errors
    /// [`Error::BlockSize`], [`Error::Panicked`].
    fn complete(&mut self, block: &mut [u8]) -> Result<bool, Error>;
}

/// What became of a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It brings the block nearer.
    New,
    /// This symbol, or the whole block, was there before.
    Duplicate,
}

/// Why the code refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The block is not as long as its shape says.
    #[error("The block is {actual} bytes long, its shape says {expected}")]
    BlockSize {
        /// Bytes of the shape.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// The symbol, or the room for several, is not as long as the shape says.
    #[error("Symbols of {actual} bytes, the shape says {expected}")]
    SymbolSize {
        /// Bytes of the shape.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// A source symbol was asked of the encoder; the caller has those in its block.
    #[error("{0} is a source symbol")]
    NotRepair(Esi),
    /// More repair symbols came than any block needs.
    #[error("The block holds {0} symbols already, more than any block needs")]
    Surplus(u32),
    /// The codec panicked; this block is lost, the process is not.
    #[error("The codec panicked")]
    Panicked,
}
