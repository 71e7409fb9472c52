//! Why bytes are no torrent.

use crate::swarm::bencode;

/// What is wrong with a torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It does not parse.
    #[error("The torrent is not bencoded")]
    Bencode(#[from] bencode::Error),
    /// It is larger than [`super::TORRENT_BYTES_MAX`].
    #[error("The torrent is too large")]
    Size,
    /// It is no dictionary with an `info` dictionary in it.
    #[error("The torrent has no info dictionary")]
    Info,
    /// Its `meta version` is none that is known.
    #[error("The torrent is of an unknown version")]
    Version,
    /// Its `piece length` is missing or out of range; for v2, no power of two of 16 KiB or more.
    #[error("The piece length is missing or not allowed")]
    PieceLength,
    /// It or a file has no name.
    #[error("A name is missing or no text")]
    Name,
    /// A path is no list of texts, or too deep.
    #[error("A path is malformed or too deep")]
    Path,
    /// It has no list or tree of files, or a malformed one.
    #[error("The list of files is missing or malformed")]
    Files,
    /// A length is missing, negative or too large, or all are 0.
    #[error("A length is missing or not allowed")]
    Length,
    /// It has more pieces than [`super::PIECES_MAX`].
    #[error("The torrent has too many pieces")]
    PieceCount,
    /// Its `pieces` are missing, or not as many as its length makes.
    #[error("The piece hashes are missing or not as many as there are pieces")]
    Pieces,
    /// A file of a v2 tree has bytes but no root.
    #[error("A file has no root hash")]
    Root,
    /// A pad file in a v2 tree, which has none.
    #[error("The file tree holds a pad file")]
    Pad,
    /// The v1 and the v2 half describe different files.
    #[error("The v1 and v2 descriptions of the files differ")]
    Mismatch,
    /// A piece layer that is of no file, of another size, or does not hash to its root.
    #[error("A piece layer is wrong")]
    Layer,
    /// More than [`super::RENAMES_MAX`] files had to be renamed.
    #[error("Too many files have the same name")]
    Duplicates,
}
