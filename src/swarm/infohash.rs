//! Infohashes: the names of torrents. A v1 torrent is named by the SHA-1 of its info dictionary, a
//! v2 torrent by the SHA-256; a hybrid has both names.
//!
//! Source: BEP 3, BEP 52 "infohash".

use std::fmt;

use super::hash::{Sha1, Sha256};

/// One name of a torrent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InfoHash {
    /// The SHA-1 of the info dictionary.
    V1(Sha1),
    /// The SHA-256 of the info dictionary.
    V2(Sha256),
}

impl InfoHash {
    /// The 20 bytes that handshakes and trackers have place for: all of a v1 name, the first 20
    /// bytes of a v2 name.
    #[must_use]
    pub fn wire(&self) -> [u8; 20] {
        match self {
            Self::V1(hash) => *hash,
            Self::V2(hash) => *hash.first_chunk().expect("32 bytes start with 20"),
        }
    }
}

impl fmt::Display for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: &[u8] = match self {
            Self::V1(hash) => hash,
            Self::V2(hash) => hash,
        };
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for InfoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The names of one torrent; it has at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InfoHashes {
    v1: Option<Sha1>,
    v2: Option<Sha256>,
}

impl InfoHashes {
    /// Builds the names; `None` if both are.
    #[must_use]
    pub fn new(v1: Option<Sha1>, v2: Option<Sha256>) -> Option<Self> {
        (v1.is_some() || v2.is_some()).then_some(Self { v1, v2 })
    }

    /// The v1 name.
    #[must_use]
    pub const fn v1(&self) -> Option<Sha1> {
        self.v1
    }

    /// The v2 name.
    #[must_use]
    pub const fn v2(&self) -> Option<Sha256> {
        self.v2
    }

    /// All names, v1 first.
    pub fn iter(&self) -> impl Iterator<Item = InfoHash> {
        let v1 = self.v1.map(InfoHash::V1);
        v1.into_iter().chain(self.v2.map(InfoHash::V2))
    }

    /// The name under which most peers know the torrent: v1 if it has one.
    #[must_use]
    pub fn first(&self) -> InfoHash {
        self.iter().next().expect("`new` wants one")
    }

    /// Whether a handshake or tracker may call the torrent by these 20 bytes.
    #[must_use]
    pub fn matches(&self, wire: &[u8; 20]) -> bool {
        self.iter().any(|name| name.wire() == *wire)
    }
}
