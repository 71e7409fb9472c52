//! Where files lie in a torrent, and how it is cut into pieces.
//!
//! ```text
//!   pieces  |0         |1         |2         |3         |
//!   files   |a              |pad  |b     |pad|c|
//! ```
//!
//! The space of a torrent is its files, one behind the other. v2 files start at pieces; pad files
//! see to it.
//!
//! The paths are safe to create beneath a root: no empty element, no `.` and `..`, no separator,
//! no zero byte, no two files of one path, no file where another has a directory.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Error;
use crate::base::PieceIndex;
use crate::swarm::hash::Sha256;

/// The elements of a path, from the torrent's root.
pub type Path = Vec<Vec<u8>>;

/// A file of a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where it goes; starts with the torrent's name. Pad files have one too, but are not written.
    pub path: Path,
    /// Where it starts in the torrent.
    pub offset: u64,
    /// How many bytes it has; 0 for links.
    pub len: u64,
    /// What it is.
    pub kind: FileKind,
    /// Whether it may be executed.
    pub executable: bool,
    /// Whether it is to be hidden.
    pub hidden: bool,
    /// The root of its tree, for v2 files that have bytes.
    pub root: Option<Sha256>,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Bytes.
    Regular,
    /// Zeros that fill up a piece; never on disk.
    Pad,
    /// A link to another path of the torrent, without the torrent's name.
    Symlink(Path),
}

impl File {
    /// Whether it is padding.
    #[must_use]
    pub fn is_pad(&self) -> bool {
        self.kind == FileKind::Pad
    }

    /// The bytes of it in the torrent.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len
    }
}

/// The files of a torrent and its pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    files: Vec<File>,
    piece_length: u32,
    total_len: u64,
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which file, by its place in the torrent.
    pub file: usize,
    /// The bytes, as a range of the file.
    pub range: Range<u64>,
}

impl Layout {
    /// Starts without files.
    pub(super) const fn new(piece_length: u32) -> Self {
        Self {
            files: Vec::new(),
            piece_length,
            total_len: 0,
        }
    }

    /// Appends a file; sets its offset.
    pub(super) fn push(&mut self, mut file: File) -> Result<(), Error> {
        file.offset = self.total_len;
        let total = self.total_len.checked_add(file.len);
        let total = total.filter(|_| file.len <= super::FILE_BYTES_MAX);
        let total = total.filter(|&total| total <= super::TOTAL_BYTES_MAX);
        self.total_len = total.ok_or(Error::Length)?;
        self.files.push(file);
        Ok(())
    }

    /// Appends a file, and the pad file that fills up its last piece.
    pub(super) fn push_aligned(&mut self, file: File) -> Result<(), Error> {
        self.push(file)?;
        let length = u64::from(self.piece_length);
        let pad = self.total_len.next_multiple_of(length) - self.total_len;
        if pad > 0 {
            self.push(pad_file(pad))?;
        }
        Ok(())
    }

    /// Removes the padding behind the last file that has bytes.
    pub(super) fn remove_tail_pad(&mut self) {
        let Some(last) = self.files.iter().rposition(|file| file.len > 0) else {
            return;
        };
        if self.files[last].is_pad() {
            let pad = self.files.remove(last);
            self.total_len -= pad.len;
            for file in &mut self.files[last..] {
                file.offset = self.total_len;
            }
        }
    }

    /// The files, in order.
    #[must_use]
    pub fn files(&self) -> &[File] {
        &self.files
    }

    pub(super) fn files_mut(&mut self) -> &mut [File] {
        &mut self.files
    }

    /// The size of every piece but the last, in bytes.
    #[must_use]
    pub const fn piece_length(&self) -> u32 {
        self.piece_length
    }

    /// The size of the torrent, padding included, in bytes.
    #[must_use]
    pub const fn total_len(&self) -> u64 {
        self.total_len
    }

    /// How many bytes the files have on disk.
    #[must_use]
    pub fn content_len(&self) -> u64 {
        let real = self.files.iter().filter(|file| !file.is_pad());
        real.map(|file| file.len).sum()
    }

    /// How many pieces there are.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "parsing bounds it")]
    pub const fn piece_count(&self) -> u32 {
        self.total_len.div_ceil(self.piece_length as u64) as u32
    }

    /// The piece at `index`, if there is one.
    #[must_use]
    pub fn piece(&self, index: u32) -> Option<PieceIndex> {
        (index < self.piece_count()).then_some(PieceIndex::new(index))
    }

    /// All pieces, in order.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = PieceIndex> + use<> {
        (0..self.piece_count()).map(PieceIndex::new)
    }

    /// The bytes of a piece, as a range of the torrent.
    #[must_use]
    pub fn piece_range(&self, piece: PieceIndex) -> Range<u64> {
        let length = u64::from(self.piece_length);
        let start = u64::from(piece.get()) * length;
        start.min(self.total_len)..(start + length).min(self.total_len)
    }

    /// The size of this piece; the last one may be short.
    #[must_use]
    pub fn piece_len(&self, piece: PieceIndex) -> u32 {
        let range = self.piece_range(piece);
        u32::try_from(range.end - range.start).expect("at most the piece length")
    }

    /// The files that a range of the torrent lies in, in order, padding included.
    pub fn parts(&self, range: Range<u64>) -> impl Iterator<Item = Part> {
        let first = self
            .files
            .partition_point(|file| file.offset + file.len <= range.start);
        let files = self.files.iter().enumerate().skip(first);
        let end = range.end;
        files
            .take_while(move |(_, file)| file.offset < end)
            .filter_map(move |(index, file)| {
                let start = range.start.max(file.offset);
                let end = range.end.min(file.offset + file.len);
                (start < end).then(|| Part {
                    file: index,
                    range: start - file.offset..end - file.offset,
                })
            })
    }

    /// Gives another name to every file whose path another file or a directory has.
    pub(super) fn make_unique(&mut self) -> Result<(), Error> {
        let mut taken = BTreeSet::new();
        for file in &self.files {
            for depth in 1..file.path.len() {
                if !taken.contains(&file.path[..depth]) {
                    taken.insert(file.path[..depth].to_vec());
                }
            }
        }
        let mut tries_left = super::RENAMES_MAX;
        for file in self.files.iter_mut().filter(|file| !file.is_pad()) {
            let original = file.path.last().cloned().unwrap_or_default();
            let mut counter = 0u32;
            while taken.contains(&file.path) {
                tries_left = tries_left.checked_sub(1).ok_or(Error::Duplicates)?;
                counter += 1;
                if let Some(name) = file.path.last_mut() {
                    *name = numbered(&original, counter);
                }
            }
            taken.insert(file.path.clone());
        }
        Ok(())
    }
}

/// Padding of `len` bytes, named as its field names it.
pub(super) fn pad_file(len: u64) -> File {
    File {
        path: vec![b".pad".to_vec(), len.to_string().into_bytes()],
        offset: 0,
        len,
        kind: FileKind::Pad,
        executable: false,
        hidden: false,
        root: None,
    }
}

/// `name.ext` becomes `name.1.ext`.
fn numbered(name: &[u8], counter: u32) -> Vec<u8> {
    let dot = name.iter().rposition(|&byte| byte == b'.');
    let (stem, extension) = name.split_at(dot.filter(|&at| at > 0).unwrap_or(name.len()));
    [stem, format!(".{counter}").as_bytes(), extension].concat()
}

/// Makes an element of a path safe: separators go, zero bytes become `_`, what is too long for a
/// file system is cut. `None` if nothing but dots is left that would lead elsewhere.
pub(super) fn safe_name(raw: &[u8]) -> Option<Vec<u8>> {
    let kept = raw.iter().copied().filter(|&byte| byte != b'/');
    let mut name: Vec<u8> = kept.map(|b| if b == 0 { b'_' } else { b }).collect();
    if name.len() > super::NAME_BYTES_MAX {
        let mut end = super::NAME_BYTES_MAX;
        while end > 0 && name[end] & 0xc0 == 0x80 {
            end -= 1;
        }
        name.truncate(end);
    }
    (!matches!(&name[..], b"" | b"." | b"..")).then_some(name)
}

/// As [`safe_name`], but an element that would be lost becomes `_`.
pub(super) fn safe_element(raw: &[u8]) -> Vec<u8> {
    safe_name(raw).unwrap_or_else(|| b"_".to_vec())
}
