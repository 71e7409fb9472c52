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
//! The codec cannot tell a damaged symbol from a good one: the caller authenticates before and
//! hashes after.
//!
//! Protocol machines are generic over [`Code`]: [`RaptorQ`] is the real one, [`Counted`] a model
//! of it that lets the simulator run thousands of receivers.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod counted;
mod raptorq;
mod shape;
mod symbols;
#[cfg(test)]
mod tests;

pub use counted::Counted;
pub use raptorq::RaptorQ;
pub use shape::{ESI_MAX, Esi, SOURCE_SYMBOLS_MAX, Shape};
pub use symbols::REPAIR_SURPLUS_MAX;

/// A code: makes the encoder and the assembly of each piece.
pub trait Code: Send {
    /// Makes repair symbols of one block.
    type Encoder: Encoder;
    /// Gathers the symbols of one block.
    type Assembly: Assembly;

    /// Prepares `block`, the whole content of `piece`, for making repair symbols.
    ///
    /// # Errors
    /// [`Error::BlockSize`] if `block` is not as long as `shape` says, [`Error::Panicked`].
    fn encoder(&mut self, piece: u32, shape: Shape, block: &[u8]) -> Result<Self::Encoder, Error>;

    /// Starts to gather the symbols of `piece`.
    fn assembly(&mut self, piece: u32, shape: Shape) -> Self::Assembly;
}

/// Makes the repair symbols of one block.
pub trait Encoder: Send {
    /// Writes the repair symbol `esi`, which is K or more, into `symbol`, which is T bytes long.
    ///
    /// # Errors
    /// [`Error::NotRepair`], [`Error::SymbolSize`], [`Error::Panicked`].
    fn repair(&mut self, esi: Esi, symbol: &mut [u8]) -> Result<(), Error>;
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
    /// The symbol is not as long as its shape says.
    #[error("The symbol is {actual} bytes long, its shape says {expected}")]
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
