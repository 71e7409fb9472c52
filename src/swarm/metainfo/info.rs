//! The info dictionary: what a torrent is, and what its names are the hashes of.
//!
//! It is kept as the bytes it came as; what is read from it is only a view of those.

use std::ops::Range;

use bytes::Bytes;

use super::layout::{self, File, FileKind, Layout, Path};
use super::{DEPTH_MAX, Error, PIECE_LENGTH_MAX, PIECES_MAX};
use crate::base::PieceIndex;
use crate::swarm::bencode::{self, Dict, Form, Value};
use crate::swarm::hash::{BLOCK_BYTES, Sha1, sha1, sha256};
use crate::swarm::infohash::InfoHashes;

/// A sound info dictionary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    bytes: Bytes,
    names: InfoHashes,
    name: Vec<u8>,
    layout: Layout,
    /// Where the v1 piece hashes are in `bytes`.
    pieces: Option<Range<usize>>,
    is_multi: bool,
    is_private: bool,
}

impl Info {
    /// Reads an info dictionary, as it is found in a torrent or as peers send it.
    ///
    /// # Errors
    /// If it is malformed or breaks a rule of BEP 3, 47 or 52.
    pub fn parse(bytes: Bytes) -> Result<Self, Error> {
        let value = bencode::parse(&bytes, Form::AnyOrder)?;
        let dict = value.dict().ok_or(Error::Info)?;
        let is_v2 = is_v2(dict, &bytes)?;
        let piece_length = piece_length(dict, is_v2)?;
        let tree = dict.dict(b"file tree");
        if tree.is_some() != is_v2 {
            return Err(if is_v2 { Error::Files } else { Error::Version });
        }
        let (list, length) = (dict.list(b"files"), dict.get(b"length"));
        let is_v1 = !is_v2 || list.is_some() || length.is_some();
        let names = InfoHashes::new(is_v1.then(|| sha1(&bytes)), is_v2.then(|| sha256(&bytes)))
            .expect("it is v1 or v2");
        let name = dict.bytes(b"name.utf-8").or_else(|| dict.bytes(b"name"));
        let raw_name = name.ok_or(Error::Name)?;
        let name = match raw_name {
            b"" => b"_".to_vec(),
            raw => layout::safe_name(raw).unwrap_or_else(|| names.first().to_string().into()),
        };
        let v2 = tree
            .map(|tree| from_tree(tree, &name, piece_length, list.is_some()))
            .transpose()?;
        let v1 = match list {
            Some(files) => Some(from_list(files, &name, piece_length)?),
            None if is_v1 => Some(single(dict, raw_name, piece_length)?),
            None => None,
        };
        let mut layout = match (v1, v2) {
            (Some(v1), Some(v2)) => joined(v1, v2)?,
            (Some(layout), None) | (None, Some(layout)) => layout,
            (None, None) => return Err(Error::Files),
        };
        layout.make_unique()?;
        let pieces = pieces(dict, &layout, is_v2)?;
        let pieces = pieces.map(|hashes| span_in(&bytes, hashes));
        let is_multi = list.is_some() || !is_single_tree(tree);
        let is_private = dict.int(b"private").is_some_and(|flag| flag != 0);
        Ok(Self {
            names,
            name,
            layout,
            pieces,
            is_multi,
            is_private,
            bytes,
        })
    }

    /// The bytes whose hashes are its names; what `ut_metadata` transfers.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its names.
    #[must_use]
    pub const fn names(&self) -> InfoHashes {
        self.names
    }

    /// The name of its file or directory, safe to create.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Its files and pieces.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether it is a directory of files; else it is one file.
    #[must_use]
    pub const fn is_multi(&self) -> bool {
        self.is_multi
    }

    /// Whether peers may come from its trackers only.
    ///
    /// Source: BEP 27.
    #[must_use]
    pub const fn is_private(&self) -> bool {
        self.is_private
    }

    /// The SHA-1 of a piece, if the torrent has them and the piece.
    #[must_use]
    pub fn piece_sha1(&self, piece: PieceIndex) -> Option<Sha1> {
        let hashes = &self.bytes[self.pieces.clone()?];
        hashes.as_chunks().0.get(piece.as_usize()).copied()
    }
}

/// Whether the dictionary is of version 2. Those have to be canonical throughout.
fn is_v2(dict: &Dict<'_>, bytes: &[u8]) -> Result<bool, Error> {
    let version = dict.int(b"meta version").unwrap_or(0);
    if version > 0 {
        bencode::parse(bytes, Form::Canonical)?;
    }
    match version {
        ..2 => Ok(false),
        2 => Ok(true),
        3.. => Err(Error::Version),
    }
}

fn piece_length(dict: &Dict<'_>, is_v2: bool) -> Result<u32, Error> {
    let length = dict.int(b"piece length");
    let length = length.and_then(|length| u32::try_from(length).ok());
    let length = length.filter(|length| (1..=PIECE_LENGTH_MAX).contains(length));
    let fits_v2 = |length: &u32| length.is_power_of_two() && *length as usize >= BLOCK_BYTES;
    length
        .filter(|length| !is_v2 || fits_v2(length))
        .ok_or(Error::PieceLength)
}

/// The v1 piece hashes. A hybrid may lack them: then its v2 hashes say all.
fn pieces<'a>(dict: &Dict<'a>, layout: &Layout, is_v2: bool) -> Result<Option<&'a [u8]>, Error> {
    let count = layout.total_len().div_ceil(layout.piece_length().into());
    if count > u64::from(PIECES_MAX) {
        return Err(Error::PieceCount);
    }
    let hashes = dict.bytes(b"pieces");
    match hashes {
        Some(hashes) if hashes.len() as u64 != count * 20 => Err(Error::Pieces),
        None if !is_v2 => Err(Error::Pieces),
        Some(_) | None if count == 0 => Err(Error::Length),
        Some(_) | None => Ok(hashes),
    }
}

/// The place of a part of `whole` in it.
fn span_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

/// What `attr`, `length` and `symlink path` say, v1 and v2 alike.
fn file(dict: &Dict<'_>, path: Path) -> Result<File, Error> {
    let attributes = dict.bytes(b"attr").unwrap_or_default();
    let has = |letter: u8| attributes.contains(&letter);
    let link = dict.list(b"symlink path").filter(|_| has(b'l'));
    let target = link.map(link_target).transpose()?;
    let len = if has(b'l') {
        0
    } else {
        let len = dict.int(b"length").and_then(|len| u64::try_from(len).ok());
        len.ok_or(Error::Length)?
    };
    let kind = match target {
        Some(target) if !target.is_empty() => FileKind::Symlink(target),
        Some(_) | None if has(b'p') => FileKind::Pad,
        Some(_) | None => FileKind::Regular,
    };
    Ok(File {
        path,
        offset: 0,
        len,
        kind,
        executable: has(b'x'),
        hidden: has(b'h'),
        root: None,
    })
}

/// Where a link points, from the torrent's root. `.` and `..` are not allowed there and count for
/// nothing.
fn link_target(elements: &[Value<'_>]) -> Result<Path, Error> {
    let raw = raw_path(elements)?;
    let real = raw
        .iter()
        .filter(|raw| !matches!(raw, [b'.'] | [b'.', b'.']));
    Ok(real.map(|raw| layout::safe_element(raw)).collect())
}

fn raw_path<'a>(elements: &[Value<'a>]) -> Result<Vec<&'a [u8]>, Error> {
    if elements.len() > DEPTH_MAX {
        return Err(Error::Path);
    }
    let raw = elements
        .iter()
        .map(|value| value.bytes().ok_or(Error::Path));
    raw.collect()
}

/// The file of a v1 torrent that is one file.
fn single(dict: &Dict<'_>, raw_name: &[u8], piece_length: u32) -> Result<Layout, Error> {
    let name = layout::safe_name(raw_name).ok_or(Error::Name)?;
    let mut layout = Layout::new(piece_length);
    layout.push(file(dict, vec![name])?)?;
    Ok(layout)
}

/// The files of a v1 torrent that is a directory.
fn from_list(files: &[Value<'_>], name: &[u8], piece_length: u32) -> Result<Layout, Error> {
    let mut layout = Layout::new(piece_length);
    for value in files {
        let dict = value.dict().ok_or(Error::Files)?;
        let elements = dict.list(b"path.utf-8").or_else(|| dict.list(b"path"));
        let elements = elements.unwrap_or_default();
        let mut path = vec![name.to_vec()];
        let raw = raw_path(elements)?;
        path.extend(raw.into_iter().map(layout::safe_element));
        let mut file = file(dict, path)?;
        if elements.is_empty() {
            if file.kind != FileKind::Pad {
                return Err(Error::Name);
            }
            file = layout::pad_file(file.len);
        }
        let padding = b"_____padding_file_";
        let is_padding = |element: &Vec<u8>| element.windows(padding.len()).any(|w| w == padding);
        if file.path.iter().any(is_padding) {
            file.kind = FileKind::Pad;
        }
        layout.push(file)?;
    }
    if layout.files().is_empty() {
        return Err(Error::Files);
    }
    Ok(layout)
}

/// Whether a tree is that of a torrent of one file.
fn is_single_tree(tree: Option<&Dict<'_>>) -> bool {
    let Some(tree) = tree else {
        return true;
    };
    tree.len() == 1 && tree.iter().all(|(_, value)| leaf(value).is_some())
}

/// The description of a file in a v2 tree, if this is a file and no directory.
fn leaf<'a, 'v>(value: &'v Value<'a>) -> Option<&'v Value<'a>> {
    let dict = value.dict().filter(|dict| dict.len() == 1)?;
    dict.get(b"")
}

/// The files of a v2 torrent, each but the only one filled up to whole pieces.
fn from_tree(
    tree: &Dict<'_>,
    name: &[u8],
    piece_length: u32,
    has_list: bool,
) -> Result<Layout, Error> {
    let mut layout = Layout::new(piece_length);
    let is_single = !has_list && is_single_tree(Some(tree));
    let mut path = if is_single {
        Vec::new()
    } else {
        vec![name.to_vec()]
    };
    walk(tree, &mut path, DEPTH_MAX, &mut layout)?;
    if layout.files().is_empty() {
        return Err(Error::Files);
    }
    if is_single {
        layout.remove_tail_pad();
    }
    Ok(layout)
}

fn walk(
    tree: &Dict<'_>,
    path: &mut Path,
    depth_left: usize,
    layout: &mut Layout,
) -> Result<(), Error> {
    let depth_left = depth_left.checked_sub(1).ok_or(Error::Path)?;
    for (name, value) in tree.iter() {
        let below = value.dict().ok_or(Error::Files)?;
        if name.is_empty() {
            return Err(Error::Files);
        }
        path.push(layout::safe_element(name));
        match leaf(value) {
            Some(leaf) => layout.push_aligned(tree_file(leaf, path.clone())?)?,
            None => walk(below, path, depth_left, layout)?,
        }
        path.pop();
    }
    Ok(())
}

fn tree_file(leaf: &Value<'_>, path: Path) -> Result<File, Error> {
    let dict = leaf.dict().ok_or(Error::Files)?;
    let mut file = file(dict, path)?;
    let attributes = dict.bytes(b"attr").unwrap_or_default();
    if attributes.contains(&b'p') {
        return Err(Error::Pad);
    }
    if file.len > 0 {
        let root = dict
            .bytes(b"pieces root")
            .and_then(|root| root.try_into().ok());
        let root = root.filter(|root: &[u8; 32]| *root != [0; 32]);
        file.root = Some(root.ok_or(Error::Root)?);
    }
    Ok(file)
}

/// Makes one layout of the two halves of a hybrid, which have to tell of the same files.
fn joined(mut v1: Layout, mut v2: Layout) -> Result<Layout, Error> {
    // Both ways are in use: padding behind the last file, and none.
    if v2.files().len() == v1.files().len() + 1 {
        v2.remove_tail_pad();
    }
    if v1.files().len() != v2.files().len() || v1.total_len() != v2.total_len() {
        return Err(Error::Mismatch);
    }
    for (one, two) in v1.files_mut().iter_mut().zip(v2.files()) {
        let counts = |file: &File| !file.is_pad() && file.len > 0;
        let agree = match (counts(one), counts(two)) {
            (false, false) => true,
            (true, true) => one.range() == two.range() && one.path == two.path,
            (true, false) | (false, true) => false,
        };
        let links = (&one.kind, &two.kind);
        let links_agree = match links {
            (FileKind::Symlink(one), FileKind::Symlink(two)) => one == two,
            _ => true,
        };
        if !agree || !links_agree {
            return Err(Error::Mismatch);
        }
        one.root = two.root;
    }
    Ok(v1)
}
