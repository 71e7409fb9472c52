//! Torrents of any file or tree: made, and proven against what is on disk, by all cores.

mod create;
mod files;
mod verify;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

pub use create::{CreateOptions, create};
pub use verify::{Proof, verify};

// What the signatures here use of the `swarm` room, for `cli`, which may not reach beneath.
pub use crate::swarm::metainfo::{FileKind, Forms, TORRENT_BYTES_MAX};
pub use crate::swarm::{InfoHash, InfoHashes, Magnet, Metainfo};

use super::{Error, Result};

/// Reads the torrent at `path`.
///
/// # Errors
/// If it cannot be read, is too large, or is no sound torrent.
pub fn load(path: &Path) -> Result<Metainfo> {
    let mut bytes = Vec::new();
    // One byte more than allowed is enough for the parser to refuse it.
    let limit = TORRENT_BYTES_MAX as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(Error::store("read", path))?;
    Metainfo::parse(&bytes).map_err(|source| Error::Torrent {
        path: path.to_owned(),
        source,
    })
}

/// Writes a torrent to `path`, whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn save(torrent: &Metainfo, path: &Path) -> Result<()> {
    super::store::write_whole(path, 0o644, &torrent.emit())
}

/// Lets `threads` threads do `work` each, and joins what they give.
fn in_threads<T: Send>(threads: usize, work: impl Fn() -> Result<Vec<T>> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(&work)).collect();
        let mut all = Vec::new();
        let mut failed = None;
        for worker in workers {
            match worker.join().expect("workers do not panic") {
                Ok(some) => all.extend(some),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(all), Err)
    })
}

#[cfg(test)]
mod tests;
