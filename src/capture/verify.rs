//! Reading a bundle again and comparing every piece with the signed manifest.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Error, Result};
use crate::base::PieceIndex;
use crate::image::{Manifest, hash};

/// Finds the pieces of the bundle at `path` that are not what the manifest says; of a bundle that
/// is too short, those that are missing too. Works in `threads` threads.
///
/// # Errors
/// If the bundle cannot be opened or read.
pub fn bad_pieces(path: &Path, manifest: &Manifest, threads: usize) -> Result<Vec<PieceIndex>> {
    let file = File::open(path).map_err(Error::store("open", path))?;
    let size = file.metadata().map_err(Error::store("read", path))?.len();
    let next = AtomicU32::new(0);
    let work = || -> std::io::Result<Vec<PieceIndex>> {
        let (mut bad, mut buffer) = (Vec::new(), Vec::new());
        while let Some(piece) = manifest
            .geometry
            .piece(next.fetch_add(1, Ordering::Relaxed))
        {
            let range = manifest.geometry.range(piece);
            buffer.resize(manifest.geometry.len(piece), 0);
            let is_there = range.end <= size;
            if is_there {
                file.read_exact_at(&mut buffer, range.start)?;
            }
            let is_right = is_there
                && hash::piece_value(manifest.geometry, piece, &buffer)
                    == manifest.pieces[piece.as_usize()];
            if !is_right {
                bad.push(piece);
            }
        }
        Ok(bad)
    };
    let mut bad = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let mut bad = Vec::new();
        for worker in workers {
            let died = |_| Err(std::io::Error::other("a thread died"));
            bad.extend(worker.join().unwrap_or_else(died)?);
        }
        Ok(bad)
    })
    .map_err(Error::store("read", path))?;
    bad.sort_unstable();
    Ok(bad)
}
