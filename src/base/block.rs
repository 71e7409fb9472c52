//! Blocks: the owned memory that payload lives in, and the pool they come from.
//!
//! A machine fills or reads blocks and passes them on by value; it never learns whether the bytes
//! lie in the engine's registered arena or in plain memory. A block returns to its pool when it is
//! dropped, so memory stays bounded by the pool.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Memory that a [`Block`] can own.
///
/// The bytes stay at one address for as long as the value lives, wherever the value itself is moved:
/// the kernel may be given that address.
pub trait BlockMemory: Send {
    /// The bytes; always the same length.
    fn bytes(&self) -> &[u8];
    /// The bytes, to be filled.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// The index of the kernel's registered buffer that holds these bytes, if one does.
    fn registered_index(&self) -> Option<u16> {
        None
    }
}

impl BlockMemory for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// An owned run of bytes of fixed length.
pub struct Block(Box<dyn BlockMemory>);

impl Block {
    /// Wraps memory that knows how to return itself when dropped.
    #[must_use]
    pub fn new(memory: impl BlockMemory + 'static) -> Self {
        Self(Box::new(memory))
    }

    /// The index of the kernel's registered buffer that holds these bytes, if one does.
    #[must_use]
    pub fn registered_index(&self) -> Option<u16> {
        self.0.registered_index()
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Block({} bytes, {:?})",
            self.len(),
            self.registered_index()
        )
    }
}

/// A bounded source of equal blocks.
pub trait Blocks: Send {
    /// Takes a block, or `None` while all are in use. Its content is whatever was there before.
    fn take(&mut self) -> Option<Block>;
    /// The size of every block, in bytes.
    fn block_size(&self) -> usize;
}

/// Blocks of plain memory, at most `count_max` of them at a time; for tests and the simulator.
#[derive(Debug)]
pub struct PlainBlocks {
    block_size: usize,
    in_use: std::sync::Arc<()>,
    count_max: usize,
}

impl PlainBlocks {
    /// Makes a pool of at most `count_max` blocks of `block_size` bytes.
    #[must_use]
    pub fn new(block_size: usize, count_max: usize) -> Self {
        Self {
            block_size,
            in_use: std::sync::Arc::new(()),
            count_max,
        }
    }
}

impl Blocks for PlainBlocks {
    fn take(&mut self) -> Option<Block> {
        if std::sync::Arc::strong_count(&self.in_use) > self.count_max {
            return None;
        }
        let token = std::sync::Arc::clone(&self.in_use);
        Some(Block::new(PlainBlock {
            bytes: vec![0; self.block_size],
            _token: token,
        }))
    }

    fn block_size(&self) -> usize {
        self.block_size
    }
}

struct PlainBlock {
    bytes: Vec<u8>,
    /// Counts this block as in use for as long as it lives.
    _token: std::sync::Arc<()>,
}

impl BlockMemory for PlainBlock {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_lends_no_more_than_it_has_and_takes_back() {
        let mut pool = PlainBlocks::new(16, 2);
        let first = pool.take().unwrap();
        let second = pool.take().unwrap();
        assert!(pool.take().is_none());
        drop(first);
        assert_eq!(pool.take().unwrap().len(), 16);
        drop(second);
    }
}
