//! What is distributed, as bytes: the manifest with its entries and frame table, piece geometry,
//! the hash tree, the signature, and the tar and seekable-zstd framing of a bundle.
//!
//! The room touches no file: it turns values into bytes and back. `docs/FORMAT.md` has the layouts.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

#[cfg(test)]
pub(crate) mod arbitrary;
mod check;
mod codec;
mod error;
pub mod frame;
pub mod geometry;
pub mod hash;
pub mod manifest;
pub mod sign;
pub mod tar;
pub mod verify;

pub use crate::base::id::ImageName;
pub use error::Error;
pub use geometry::Geometry;
pub use manifest::{
    Entry, EntryIndex, EntryKind, Extent, Frame, Kind, Manifest, Mtime, Owner, Xattr,
};
pub use sign::{PublicKey, SigningKey};

/// A BLAKE3 hash or chaining value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Hashes bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
