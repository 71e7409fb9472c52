//! Making torrents: a [`Draft`] says what is to be in it, its [`Plan`] what has to be hashed, and
//! the hashes make the [`Metainfo`].
//!
//! Every file starts at a piece: pad files fill up the rest. So a piece is of one file, in v1 and
//! v2 alike. The same draft and hashes give the same bytes; no clock, no name of a program.

use super::layout::{File, FileKind, Layout, Path};
use super::{Error, Metainfo, NAME_BYTES_MAX, PIECE_LENGTH_MAX, PIECES_MAX};
use crate::base::PieceIndex;
use crate::swarm::bencode::{self, DictWriter, ListWriter};
use crate::swarm::hash::{self, BLOCK_BYTES, BLOCK_LOG2, Sha1, Sha256};

/// Which versions a torrent is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forms {
    /// Version 1 only.
    V1,
    /// Version 2 only.
    V2,
    /// Both.
    #[default]
    Hybrid,
}

impl Forms {
    /// Whether it is of version 1.
    #[must_use]
    pub const fn v1(self) -> bool {
        matches!(self, Self::V1 | Self::Hybrid)
    }

    /// Whether it is of version 2.
    #[must_use]
    pub const fn v2(self) -> bool {
        matches!(self, Self::V2 | Self::Hybrid)
    }
}

/// What is to be in a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The name of its file or directory.
    pub name: Vec<u8>,
    /// Its files. One with an empty path makes a torrent of that one file, named `name`.
    pub files: Vec<DraftFile>,
    /// The size of the pieces, a power of two from 16 KiB.
    pub piece_length: u32,
    /// Which versions it is of.
    pub forms: Forms,
    /// Whether peers may come from its trackers only.
    pub private: bool,
    /// URLs of trackers, by tier.
    pub trackers: Vec<Vec<String>>,
    /// URLs of web seeds.
    pub web_seeds: Vec<String>,
    /// What to say of it.
    pub comment: Option<String>,
}

/// A file that is to be in a torrent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DraftFile {
    /// Where it goes, without the torrent's name.
    pub path: Path,
    /// How many bytes it has; 0 for links.
    pub len: u64,
    /// Whether it may be executed.
    pub executable: bool,
    /// Where it points, from the torrent's root, if it is a link.
    pub link: Option<Path>,
}

/// A draft whose files have their places.
#[derive(Clone, Debug)]
pub struct Plan {
    draft: Draft,
    layout: Layout,
    is_single: bool,
}

/// What a piece of a plan is made of: bytes of one file, and zeros behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PiecePlan {
    /// Which file, by its place in the layout.
    pub file: usize,
    /// Where its bytes start in the file.
    pub offset: u64,
    /// How many bytes of the file it has.
    pub len: u32,
    /// How many zeros follow.
    pub padding: u32,
    /// How many blocks the tree over it has, as a binary logarithm.
    pub width_log2: u32,
}

/// The hashes of one piece, those of the versions that are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PieceHashes {
    /// The SHA-1 of its bytes and padding.
    pub v1: Option<Sha1>,
    /// The node of its tree.
    pub v2: Option<Sha256>,
}

impl PieceHashes {
    /// Hashes the bytes of a piece, `padding` zeros behind them, with a tree of
    /// `2^width_log2` blocks.
    #[must_use]
    pub fn of(bytes: &[u8], padding: u32, width_log2: u32, forms: Forms) -> Self {
        let v1 = || hash::sha1_padded(bytes, padding.into());
        let v2 = || hash::root(&hash::leaves(bytes), 0, width_log2);
        Self {
            v1: forms.v1().then(v1),
            v2: forms.v2().then(v2),
        }
    }
}

impl Draft {
    /// Gives every file its place, in the order of their paths. A v2 directory of one file becomes
    /// that file.
    ///
    /// # Errors
    /// If a name cannot be said, there are no bytes at all, or too many for pieces of this size.
    pub fn plan(mut self) -> Result<Plan, Error> {
        let length = self.piece_length;
        let fits = length.is_power_of_two() && length as usize >= BLOCK_BYTES;
        if !fits || length > PIECE_LENGTH_MAX {
            return Err(Error::PieceLength);
        }
        if let ([only], Forms::V2) = (&mut self.files[..], self.forms)
            && only.path.len() == 1
        {
            // Version 2 alone cannot tell a directory of one file from that file.
            self.name = only.path.remove(0);
        }
        let is_single = matches!(&self.files[..], [only] if only.path.is_empty());
        if !is_name(&self.name) {
            return Err(Error::Name);
        }
        self.files.sort_by(|one, two| one.path.cmp(&two.path));
        let mut layout = Layout::new(length);
        for file in &self.files {
            let is_said = file.path.iter().all(|element| is_name(element));
            if !is_said || (file.path.is_empty() && !is_single) {
                return Err(Error::Path);
            }
            let kind = file
                .link
                .clone()
                .map_or(FileKind::Regular, FileKind::Symlink);
            layout.push_aligned(File {
                path: file.path.clone(),
                offset: 0,
                len: file.len,
                kind,
                executable: file.executable,
                hidden: false,
                root: None,
            })?;
        }
        if is_single {
            layout.remove_tail_pad();
        }
        let pieces = layout.total_len().div_ceil(length.into());
        if pieces == 0 {
            return Err(Error::Length);
        }
        if pieces > u64::from(PIECES_MAX) {
            return Err(Error::PieceCount);
        }
        Ok(Plan {
            draft: self,
            layout,
            is_single,
        })
    }
}

/// Whether a name comes through reading as it is.
fn is_name(name: &[u8]) -> bool {
    super::layout::safe_name(name).as_deref() == Some(name) && name.len() <= NAME_BYTES_MAX
}

impl Plan {
    /// Where the files lie. Their paths are those of the draft, without the torrent's name.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What has to be hashed for a piece.
    ///
    /// # Panics
    /// If there is no such piece.
    #[must_use]
    pub fn piece(&self, piece: PieceIndex) -> PiecePlan {
        let range = self.layout.piece_range(piece);
        let part = self.layout.parts(range.clone()).next();
        let part = part.expect("pieces lie in the layout, and files at their starts");
        let file = &self.layout.files()[part.file];
        let narrow = |len: u64| u32::try_from(len).expect("at most the piece length");
        let len = part.range.end - part.range.start;
        let blocks = file.len.min(self.draft.piece_length.into());
        PiecePlan {
            file: part.file,
            offset: part.range.start,
            len: narrow(len),
            padding: narrow(range.end - range.start - len),
            width_log2: hash::width_log2(blocks.div_ceil(1 << BLOCK_LOG2)),
        }
    }

    /// Which hashes are wanted.
    #[must_use]
    pub const fn forms(&self) -> Forms {
        self.draft.forms
    }

    /// Makes the torrent of the hashes of all pieces, in order.
    ///
    /// # Errors
    /// If hashes are missing, or the torrent is one that could not be read again.
    pub fn finish(mut self, pieces: &[PieceHashes]) -> Result<Metainfo, Error> {
        if pieces.len() != self.layout.piece_count() as usize {
            return Err(Error::Pieces);
        }
        let mut out = DictWriter::new();
        let mut info = DictWriter::new();
        info.bytes(b"name", &self.draft.name)
            .int(b"piece length", self.draft.piece_length.into());
        if self.draft.private {
            info.int(b"private", 1);
        }
        if self.draft.forms.v2() {
            let layers = self.grow(pieces)?;
            info.int(b"meta version", 2)
                .raw(b"file tree", self.tree().finish());
            out.dict(b"piece layers", layers);
        }
        if self.draft.forms.v1() {
            let hashes: Option<Vec<Sha1>> = pieces.iter().map(|piece| piece.v1).collect();
            let hashes = hashes.ok_or(Error::Pieces)?;
            info.bytes(b"pieces", hashes.as_flattened());
            self.put_files(&mut info);
        }
        out.dict(b"info", info);
        self.put_sources(&mut out);
        Metainfo::parse(&out.finish())
    }

    /// Sets the roots of all files; gives the layers of those with more than one piece.
    fn grow(&mut self, pieces: &[PieceHashes]) -> Result<DictWriter, Error> {
        let piece_length = u64::from(self.draft.piece_length);
        let piece_log2 = hash::width_log2(piece_length >> BLOCK_LOG2);
        let mut layers = DictWriter::new();
        let real = self.layout.files_mut().iter_mut();
        for file in real.filter(|file| !file.is_pad() && file.len > 0) {
            let at = |offset: u64| usize::try_from(offset / piece_length).ok();
            let end = file.offset + file.len.next_multiple_of(piece_length);
            let own = at(file.offset)
                .zip(at(end))
                .map(|(start, end)| &pieces[start..end]);
            let nodes: Option<Vec<Sha256>> = own.into_iter().flatten().map(|p| p.v2).collect();
            let nodes = nodes.ok_or(Error::Pieces)?;
            let root = match nodes[..] {
                [only] => only,
                _ => hash::root(&nodes, piece_log2, hash::width_log2(nodes.len() as u64)),
            };
            if nodes.len() > 1 {
                layers.bytes(&root, nodes.as_flattened());
            }
            file.root = Some(root);
        }
        Ok(layers)
    }

    /// The v2 tree of files.
    fn tree(&self) -> DictWriter {
        let real = self.layout.files().iter().filter(|file| !file.is_pad());
        let described: Vec<(&[Vec<u8>], DictWriter)> = real
            .map(|file| {
                let mut dict = description(file);
                if let Some(root) = &file.root {
                    dict.bytes(b"pieces root", root);
                }
                let mut leaf = DictWriter::new();
                leaf.dict(b"", dict);
                (&file.path[..], leaf)
            })
            .collect();
        if self.is_single {
            let mut tree = DictWriter::new();
            for (_, leaf) in described {
                tree.dict(&self.draft.name, leaf);
            }
            return tree;
        }
        directory(described)
    }

    /// The v1 file or list of files.
    fn put_files(&self, info: &mut DictWriter) {
        if let ([file], true) = (self.layout.files(), self.is_single) {
            info.int(b"length", i64::try_from(file.len).expect("it is bounded"));
            if file.executable {
                info.bytes(b"attr", b"x");
            }
            return;
        }
        let mut list = ListWriter::new();
        for file in self.layout.files() {
            let mut dict = description(file);
            let mut path = ListWriter::new();
            for element in &file.path {
                path.bytes(element);
            }
            dict.list(b"path", path);
            list.dict(dict);
        }
        info.list(b"files", list);
    }

    /// Trackers, web seeds and the comment.
    fn put_sources(&self, out: &mut DictWriter) {
        for (key, value) in tracker_keys(&self.draft.trackers) {
            out.raw(key, value);
        }
        if !self.draft.web_seeds.is_empty() {
            out.list(b"url-list", texts(&self.draft.web_seeds));
        }
        if let Some(comment) = &self.draft.comment {
            out.bytes(b"comment", comment.as_bytes());
        }
    }
}

/// The keys that name trackers, with their written values: `announce`, and `announce-list` if there
/// is more than one.
pub(super) fn tracker_keys(tiers: &[Vec<String>]) -> Vec<(&'static [u8], Vec<u8>)> {
    let mut keys = Vec::new();
    if let Some(first) = tiers.iter().flatten().next() {
        keys.push((&b"announce"[..], bencode::bytes(first.as_bytes())));
    }
    if tiers.iter().flatten().count() > 1 {
        let mut list = ListWriter::new();
        for tier in tiers {
            list.list(texts(tier));
        }
        keys.push((b"announce-list", list.finish()));
    }
    keys
}

pub(super) fn texts(texts: &[String]) -> ListWriter {
    let mut list = ListWriter::new();
    for text in texts {
        list.bytes(text.as_bytes());
    }
    list
}

/// What v1 and v2 say alike of a file.
fn description(file: &File) -> DictWriter {
    let mut dict = DictWriter::new();
    dict.int(b"length", i64::try_from(file.len).expect("it is bounded"));
    match &file.kind {
        FileKind::Pad => {
            dict.bytes(b"attr", b"p");
        }
        FileKind::Symlink(target) => {
            let mut path = ListWriter::new();
            for element in target {
                path.bytes(element);
            }
            dict.bytes(b"attr", b"l").list(b"symlink path", path);
        }
        FileKind::Regular if file.executable => {
            dict.bytes(b"attr", b"x");
        }
        FileKind::Regular => {}
    }
    dict
}

/// The tree of files that are sorted by path.
fn directory(files: Vec<(&[Vec<u8>], DictWriter)>) -> DictWriter {
    let mut tree = DictWriter::new();
    let mut below: Vec<(&[Vec<u8>], DictWriter)> = Vec::new();
    let mut open: Option<&Vec<u8>> = None;
    for (path, leaf) in files {
        let (first, rest) = path
            .split_first()
            .expect("paths of directories are not empty");
        if open.is_some_and(|open| open != first) {
            let name = open.expect("it was just seen");
            tree.dict(name, directory(std::mem::take(&mut below)));
            open = None;
        }
        if rest.is_empty() {
            tree.dict(first, leaf);
        } else {
            open = Some(first);
            below.push((rest, leaf));
        }
    }
    if let Some(name) = open {
        tree.dict(name, directory(below));
    }
    tree
}
