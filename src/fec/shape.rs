//! The shape of a block, and symbol ids: values out of range cannot be built.

use std::fmt;

/// How a block is cut into symbols: K = ceil(block size / T).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    block_size: usize,
    symbol_size: u16,
    source_symbols: u32,
}

/// The most source symbols of a block. Source: RFC 6330 s5.1.2, K'_max.
pub const SOURCE_SYMBOLS_MAX: u32 = 56_403;

impl Shape {
    /// Builds the shape of a block of `block_size` bytes in symbols of `symbol_size` bytes.
    ///
    /// Gives `None` for an empty block, empty symbols, or more than [`SOURCE_SYMBOLS_MAX`] symbols.
    #[must_use]
    pub fn new(block_size: usize, symbol_size: u16) -> Option<Self> {
        if block_size == 0 || symbol_size == 0 {
            return None;
        }
        let count = block_size.div_ceil(usize::from(symbol_size));
        let source_symbols = u32::try_from(count).ok()?;
        (source_symbols <= SOURCE_SYMBOLS_MAX).then_some(Self {
            block_size,
            symbol_size,
            source_symbols,
        })
    }

    /// The size of the block, in bytes; no multiple of the symbol size as a rule.
    #[must_use]
    pub const fn block_size(self) -> usize {
        self.block_size
    }

    /// T, the size of a symbol, in bytes.
    #[must_use]
    pub const fn symbol_size(self) -> u16 {
        self.symbol_size
    }

    /// K, the count of source symbols.
    #[must_use]
    pub const fn source_symbols(self) -> u32 {
        self.source_symbols
    }

    /// Whether `esi` names a source symbol.
    #[must_use]
    pub const fn is_source(self, esi: Esi) -> bool {
        esi.get() < self.source_symbols
    }

    /// Which bytes of the block the source symbol holds; the last one may be cut.
    ///
    /// Gives `None` for a repair symbol.
    #[must_use]
    pub fn source_range(self, esi: Esi) -> Option<std::ops::Range<usize>> {
        let size = usize::from(self.symbol_size);
        let start = esi.get() as usize * size;
        self.is_source(esi)
            .then(|| start..(start + size).min(self.block_size))
    }

    /// The size of the block with its last symbol filled up, in bytes.
    #[must_use]
    pub(super) const fn padded_size(self) -> usize {
        self.source_symbols as usize * self.symbol_size as usize
    }
}

/// An encoding symbol id: below K a source symbol, from K on a repair symbol. 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Esi(u32);

/// The largest encoding symbol id. Source: RFC 6330 s3.2.
pub const ESI_MAX: u32 = (1 << 24) - 1;

impl Esi {
    /// Builds the id; gives `None` beyond 24 bits.
    #[must_use]
    pub const fn new(esi: u32) -> Option<Self> {
        if esi <= ESI_MAX {
            Some(Self(esi))
        } else {
            None
        }
    }

    /// The id as the number on the wire.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Esi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "symbol {}", self.0)
    }
}
