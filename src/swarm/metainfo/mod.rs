//! Torrents: what they describe, what proves it, and who may help to fetch it. Versions 1, 2 and
//! both at once (hybrid).
//!
//! A [`Metainfo`] is a view of bytes: it keeps those of the info dictionary, whose hashes are its
//! names, and the values of all keys beside it, also of those that it does not know. So what is
//! written again is what was read, with keys in order.
//!
//! ```text
//!   d  announce, announce-list, comment, url-list, ...
//!      info          d  name, piece length, files | length, pieces, file tree, ...   -> Info
//!      piece layers  d  pieces root -> hash of every piece                           -> proof
//! ```
//!
//! The rules are those of libtorrent, the reference of the field; where they differ,
//! `docs/ERRATA.md` says why.
//!
//! Source: BEP 3, 12, 19, 27, 47, 52.

mod draft;
mod error;
mod info;
mod layout;
mod proof;
#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;

pub use draft::{Draft, DraftFile, Forms, PieceHashes, PiecePlan, Plan};
pub use error::Error;
pub use info::Info;
pub use layout::{File, FileKind, Layout, Part, Path};
pub use proof::{Answer, LAYER_RUN_MAX};

use super::bencode::{self, Dict, DictWriter, Form, Value};
use super::hash::{self, BLOCK_LOG2, Sha256};
use super::hash_tree::HashTree;
use crate::base::PieceIndex;

/// The largest torrent that is read.
pub const TORRENT_BYTES_MAX: usize = 256 << 20;
/// The largest piece. libtorrent's bound.
pub const PIECE_LENGTH_MAX: u32 = ((1 << 15) - 1) << BLOCK_LOG2;
/// The most pieces. libtorrent's bound.
pub const PIECES_MAX: u32 = 1 << 21;
/// The most elements of a path. libtorrent's bound.
pub const DEPTH_MAX: usize = 100;
/// The longest element of a path; what is longer is cut. libtorrent's bound.
pub const NAME_BYTES_MAX: usize = 240;
/// The largest file. libtorrent's bound.
pub const FILE_BYTES_MAX: u64 = ((1 << 30) - 1) << BLOCK_LOG2;
/// The largest torrent content. libtorrent's bound.
pub const TOTAL_BYTES_MAX: u64 = (1 << 48) - 1;
/// How many names are tried for files whose path is taken. libtorrent's bound.
pub const RENAMES_MAX: u32 = 500;

/// A sound torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metainfo {
    info: Info,
    /// Where the file is that has this root.
    roots: BTreeMap<Sha256, usize>,
    /// The hash of every piece of a v2 file that has more than one, and what is over them, by the
    /// file's root.
    layers: BTreeMap<Sha256, HashTree>,
    /// The written values of all keys but `info` and checked `piece layers`.
    others: BTreeMap<Vec<u8>, Bytes>,
}

/// What a hash says of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The bytes are those of the piece.
    Good,
    /// They are not.
    Bad,
    /// The torrent does not say: it is of the other version, or the piece layer is missing.
    Unknown,
}

impl Metainfo {
    /// Reads a torrent. Bytes behind it are ignored.
    ///
    /// # Errors
    /// If it is malformed, breaks a rule of its version, or its piece layers are wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > TORRENT_BYTES_MAX {
            return Err(Error::Size);
        }
        let (value, _) = bencode::parse_front(bytes, Form::AnyOrder)?;
        let dict = value.dict().ok_or(Error::Info)?;
        let info = dict.get(b"info").filter(|info| info.dict().is_some());
        let info = info.ok_or(Error::Info)?;
        let info = Info::parse(Bytes::copy_from_slice(info.span()))?;
        let layers = dict.dict(b"piece layers");
        let layers = layers.filter(|_| info.names().v2().is_some());
        let has_layers = layers.is_some();
        let layers = layers.map(|layers| read_layers(layers, &info));
        let kept = |key: &[u8]| key != b"info" && (key != b"piece layers" || !has_layers);
        let others = dict.iter().filter(|(key, _)| kept(key));
        let others =
            others.map(|(key, value)| (key.to_vec(), Bytes::copy_from_slice(value.span())));
        Ok(Self {
            roots: proof::roots(&info),
            layers: layers.transpose()?.unwrap_or_default(),
            others: others.collect(),
            info,
        })
    }

    /// Builds the torrent of an info dictionary, as it comes with a magnet link: without trackers,
    /// web seeds and piece layers.
    #[must_use]
    pub fn from_info(info: Info) -> Self {
        Self {
            roots: proof::roots(&info),
            info,
            layers: BTreeMap::new(),
            others: BTreeMap::new(),
        }
    }

    /// Writes the torrent, with keys in order. What was read in order is written the same.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut out = DictWriter::new();
        for (key, value) in &self.others {
            out.raw(key, value.to_vec());
        }
        let needs_layers = self.info.names().v2().is_some();
        if needs_layers && !self.others.contains_key(&b"piece layers"[..]) {
            let mut layers = DictWriter::new();
            for (root, layer) in &self.layers {
                layers.bytes(root, layer.nodes().as_flattened());
            }
            out.dict(b"piece layers", layers);
        }
        out.raw(b"info", self.info.bytes().to_vec());
        out.finish()
    }

    /// The same torrent with these trackers and web seeds and no others. Its names stay.
    #[must_use]
    pub fn with_sources(&self, trackers: &[Vec<String>], web_seeds: &[String]) -> Self {
        let mut torrent = self.clone();
        for key in [&b"announce"[..], b"announce-list", b"url-list"] {
            torrent.others.remove(key);
        }
        for (key, value) in draft::tracker_keys(trackers) {
            torrent.others.insert(key.to_vec(), value.into());
        }
        if !web_seeds.is_empty() {
            let list = draft::texts(web_seeds).finish();
            torrent.others.insert(b"url-list".to_vec(), list.into());
        }
        torrent
    }

    /// The v1 part of a hybrid as a torrent of its own, for clients that cannot read hybrids: the
    /// same pieces, another name, another swarm. `None` if this is no hybrid.
    #[must_use]
    pub fn v1_alone(&self) -> Option<Self> {
        let names = self.info.names();
        names.v1().and(names.v2())?;
        let value = bencode::parse(self.info.bytes(), Form::AnyOrder).ok()?;
        let mut info = DictWriter::new();
        for (key, value) in value.dict()?.iter() {
            if key != b"file tree" && key != b"meta version" {
                info.raw(key, value.span().to_vec());
            }
        }
        let mut torrent = Self::from_info(Info::parse(info.finish().into()).ok()?);
        torrent.others.clone_from(&self.others);
        torrent.others.remove(&b"piece layers"[..]);
        Some(torrent)
    }

    /// What is hashed.
    #[must_use]
    pub const fn info(&self) -> &Info {
        &self.info
    }

    /// The trackers, by tier: those of one tier are as good as each other, a later tier is asked
    /// when all before it fail.
    ///
    /// Source: BEP 12.
    #[must_use]
    pub fn trackers(&self) -> Vec<Vec<String>> {
        let url =
            |value: &Value<'_>| Some(value.text()?.trim().to_owned()).filter(|u| !u.is_empty());
        let tiers = self.other(b"announce-list", |value| {
            let tiers = value.list()?.iter().filter_map(Value::list);
            let tiers = tiers.map(|tier| tier.iter().filter_map(url).collect::<Vec<_>>());
            Some(tiers.filter(|tier| !tier.is_empty()).collect::<Vec<_>>())
        });
        let only = || self.other(b"announce", |value| Some(vec![vec![url(value)?]]));
        let tiers = tiers.filter(|tiers| !tiers.is_empty()).or_else(only);
        tiers.unwrap_or_default()
    }

    /// The web seeds, each once.
    ///
    /// Source: BEP 19.
    #[must_use]
    pub fn web_seeds(&self) -> Vec<String> {
        let seeds = self.other(b"url-list", |value| {
            let one = std::slice::from_ref(value);
            let values = value.list().unwrap_or(one).iter();
            let mut seeds: Vec<String> = Vec::new();
            for url in values.filter_map(Value::text).filter(|url| !url.is_empty()) {
                if !seeds.iter().any(|seed| seed == url) {
                    seeds.push(url.to_owned());
                }
            }
            Some(seeds)
        });
        seeds.unwrap_or_default()
    }

    /// What its maker says of it.
    #[must_use]
    pub fn comment(&self) -> Option<String> {
        self.other(b"comment", |value| value.text().map(str::to_owned))
    }

    /// The SHA-256 tree node of a piece and its width in blocks, as the binary logarithm; `None`
    /// for v1 torrents, padding, and pieces whose layer is missing.
    #[must_use]
    pub fn piece_node(&self, piece: PieceIndex) -> Option<(Sha256, u32)> {
        let (file, _) = self.file_of(piece)?;
        let layout = self.info.layout();
        let root = file.root?;
        let piece_length = u64::from(layout.piece_length());
        let blocks = |bytes: u64| bytes.div_ceil(1 << BLOCK_LOG2);
        if file.len <= piece_length {
            return Some((root, hash::width_log2(blocks(file.len))));
        }
        let start = layout.piece_range(piece).start;
        let place = usize::try_from((start - file.offset) / piece_length).ok()?;
        let node = self.layers.get(&root)?.nodes().get(place)?;
        Some((*node, hash::width_log2(blocks(piece_length))))
    }

    /// Says whether `bytes` are the piece, by its SHA-1. Padding is part of a piece.
    #[must_use]
    pub fn check_v1(&self, piece: PieceIndex, bytes: &[u8]) -> Verdict {
        match self.info.piece_sha1(piece) {
            None => Verdict::Unknown,
            Some(hash) => verdict(self.is_whole(piece, bytes) && hash::sha1(bytes) == hash),
        }
    }

    /// Says whether `bytes` are the piece, by its tree node. Padding is part of a piece, if only
    /// as zeros.
    #[must_use]
    pub fn check_v2(&self, piece: PieceIndex, bytes: &[u8]) -> Verdict {
        let Some((node, width_log2)) = self.piece_node(piece) else {
            return Verdict::Unknown;
        };
        let len = self.file_of(piece).map_or(0, |(_, len)| len);
        let Some((content, padding)) = bytes.split_at_checked(len) else {
            return Verdict::Bad;
        };
        let is_padded = padding.iter().all(|&byte| byte == 0);
        let root = hash::root(&hash::leaves(content), 0, width_log2);
        verdict(self.is_whole(piece, bytes) && is_padded && root == node)
    }

    /// Says whether `bytes` are the piece, by the strongest hash that the torrent has.
    #[must_use]
    pub fn check(&self, piece: PieceIndex, bytes: &[u8]) -> Verdict {
        match self.check_v2(piece, bytes) {
            Verdict::Unknown => self.check_v1(piece, bytes),
            known @ (Verdict::Good | Verdict::Bad) => known,
        }
    }

    /// The v2 file that a piece lies in and how many bytes of the piece it has.
    fn file_of(&self, piece: PieceIndex) -> Option<(&File, usize)> {
        let layout = self.info.layout();
        let part = layout.parts(layout.piece_range(piece)).next()?;
        let file = &layout.files()[part.file];
        let len = usize::try_from(part.range.end - part.range.start).ok()?;
        file.root.is_some().then_some((file, len))
    }

    fn is_whole(&self, piece: PieceIndex, bytes: &[u8]) -> bool {
        bytes.len() == self.info.layout().piece_len(piece) as usize
    }

    /// What `read` makes of the value of a key beside the info dictionary.
    fn other<T>(&self, key: &[u8], read: impl FnOnce(&Value<'_>) -> Option<T>) -> Option<T> {
        let bytes = self.others.get(key)?;
        read(&bencode::parse(bytes, Form::AnyOrder).ok()?)
    }
}

impl crate::image::verify::Verify for Metainfo {
    fn verify(&self, piece: PieceIndex, bytes: &[u8]) -> bool {
        self.check(piece, bytes) == Verdict::Good
    }
}

const fn verdict(is_good: bool) -> Verdict {
    if is_good { Verdict::Good } else { Verdict::Bad }
}

/// Reads the piece layers and proves each by its root. Some or all may be missing.
fn read_layers(layers: &Dict<'_>, info: &Info) -> Result<BTreeMap<Sha256, HashTree>, Error> {
    let lens = info.layer_lens();
    let mut read = BTreeMap::new();
    for (key, value) in layers.iter() {
        let root: Sha256 = key.try_into().map_err(|_| Error::Layer)?;
        let (nodes, rest) = value.bytes().ok_or(Error::Layer)?.as_chunks::<32>();
        let len = lens.get(&root).map(|&len| len as usize);
        if len != Some(nodes.len()) || !rest.is_empty() {
            return Err(Error::Layer);
        }
        read.insert(root, info.layer(root, nodes.to_vec())?);
    }
    Ok(read)
}
