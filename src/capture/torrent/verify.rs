//! Proving what is on disk by a torrent.

use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::files::{Files, OnDiskKind, show};
use crate::base::PieceIndex;
use crate::base::event::{Event, Events};
use crate::capture::{Error, Result};
use crate::image::EntryIndex;
use crate::swarm::Metainfo;
use crate::swarm::metainfo::{File, FileKind, Verdict};

/// What a comparison of a torrent with what is on disk gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// How many pieces there are.
    pub pieces: u32,
    /// Pieces that are not what a hash of the torrent says.
    pub bad: Vec<PieceIndex>,
    /// Pieces that the torrent has no hash of.
    pub unknown: u32,
    /// Paths that are missing, or are not of the kind, size, or permission that the torrent says.
    pub wrong: Vec<String>,
}

impl Proof {
    /// Whether all is proven.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.bad.is_empty() && self.unknown == 0 && self.wrong.is_empty()
    }
}

/// Compares the file or directory at `path` with a torrent, by every hash that it has; works in
/// `threads` threads. What the torrent does not name is passed over.
///
/// # Errors
/// If anything is there and cannot be read.
pub fn verify(torrent: &Metainfo, path: &Path, threads: usize, events: &Events) -> Result<Proof> {
    let layout = torrent.info().layout();
    let files = Files::open(path)?;
    let mut wrong = Vec::new();
    // Where the content of each file of the torrent is on disk, if it is.
    let mut on_disk: Vec<Option<EntryIndex>> = Vec::new();
    let above = usize::from(torrent.info().is_multi());
    for file in layout.files() {
        let path = if files.is_single() && layout.files().len() == 1 {
            &[]
        } else {
            &file.path[above.min(file.path.len())..]
        };
        let (index, fits) = look(&files, file, path);
        if !fits {
            wrong.push(show(path));
        }
        on_disk.push(index);
    }
    let (next, read) = (AtomicU32::new(0), AtomicU64::new(0));
    let work = || -> Result<Vec<(PieceIndex, Verdict)>> {
        let (mut verdicts, mut buffer) = (Vec::new(), Vec::new());
        while let Some(piece) = layout.piece(next.fetch_add(1, Ordering::Relaxed)) {
            let verdict = check(torrent, piece, &files, &on_disk, &mut buffer)?;
            if verdict != Verdict::Good {
                verdicts.push((piece, verdict));
            }
            let len = u64::from(layout.piece_len(piece));
            events.raise(Event::Progress {
                bytes_done: read.fetch_add(len, Ordering::Relaxed) + len,
                bytes_total: layout.total_len(),
            });
        }
        Ok(verdicts)
    };
    let mut proof = Proof {
        pieces: layout.piece_count(),
        wrong,
        ..Proof::default()
    };
    for (piece, verdict) in super::in_threads(threads, work)? {
        match verdict {
            Verdict::Good => {}
            Verdict::Bad => proof.bad.push(piece),
            Verdict::Unknown => proof.unknown += 1,
        }
    }
    proof.bad.sort_unstable();
    Ok(proof)
}

/// Finds a file of the torrent on disk: where its content is, and whether all about it fits.
fn look(files: &Files, file: &File, path: &[Vec<u8>]) -> (Option<EntryIndex>, bool) {
    if file.is_pad() {
        return (None, true);
    }
    let Some(found) = files.get(path) else {
        return (None, false);
    };
    match (&file.kind, &found.kind) {
        (FileKind::Regular, OnDiskKind::File(size)) if *size == file.len => {
            (Some(found.index), found.executable || !file.executable)
        }
        (FileKind::Symlink(target), OnDiskKind::Link(found)) => {
            (None, found.as_ref() == Some(target))
        }
        _ => (None, false),
    }
}

/// Reads a piece and asks both versions.
fn check(
    torrent: &Metainfo,
    piece: PieceIndex,
    files: &Files,
    on_disk: &[Option<EntryIndex>],
    buffer: &mut Vec<u8>,
) -> Result<Verdict> {
    let layout = torrent.info().layout();
    buffer.clear();
    buffer.resize(layout.piece_len(piece) as usize, 0);
    let mut rest = buffer.as_mut_slice();
    for part in layout.parts(layout.piece_range(piece)) {
        #[expect(clippy::cast_possible_truncation, reason = "at most a piece")]
        let len = (part.range.end - part.range.start) as usize;
        let (now, later) = rest.split_at_mut(len);
        rest = later;
        if layout.files()[part.file].is_pad() {
            continue;
        }
        let Some(index) = on_disk[part.file] else {
            return Ok(Verdict::Bad);
        };
        match files.read(index, part.range.start, now) {
            // It was cut or written to since it was looked at.
            Err(Error::Changed { .. }) => return Ok(Verdict::Bad),
            read => read?,
        }
    }
    let (v1, v2) = (
        torrent.check_v1(piece, buffer),
        torrent.check_v2(piece, buffer),
    );
    Ok(match (v1, v2) {
        (Verdict::Bad, _) | (_, Verdict::Bad) => Verdict::Bad,
        (Verdict::Unknown, Verdict::Unknown) => Verdict::Unknown,
        (Verdict::Good, _) | (_, Verdict::Good) => Verdict::Good,
    })
}
