//! Making a torrent of a file or tree.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::files::{Files, OnDiskKind, show};
use crate::base::event::{Event, Events};
use crate::capture::{Error, Result};
use crate::image::EntryIndex;
use crate::swarm::Metainfo;
use crate::swarm::metainfo::{Draft, DraftFile, Forms, PieceHashes, Plan};

/// How to make a torrent.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// Its name; `None`: that of the file or directory.
    pub name: Option<String>,
    /// The size of the pieces, a power of two from 16 KiB; `None`: by the size of the content.
    pub piece_length: Option<u32>,
    /// Which versions it is of.
    pub forms: Forms,
    /// Whether peers may be found in other ways than by its trackers.
    pub public: bool,
    /// URLs of trackers, each a tier of its own.
    pub trackers: Vec<String>,
    /// URLs of web seeds.
    pub web_seeds: Vec<String>,
    /// What to say of it.
    pub comment: Option<String>,
}

/// Makes the torrent of the file or directory at `path`; works in `threads` threads.
///
/// # Errors
/// If anything cannot be read, changes meanwhile, or cannot be said in a torrent.
pub fn create(
    path: &Path,
    options: &CreateOptions,
    threads: usize,
    events: &Events,
) -> Result<Metainfo> {
    let fail = |source| Error::Torrent {
        path: path.to_owned(),
        source,
    };
    let files = Files::open(path)?;
    let (drafts, indices) = drafts(&files)?;
    let size = drafts.iter().map(|file| file.len).sum();
    let draft = Draft {
        name: name(path, options)?,
        files: drafts,
        piece_length: options.piece_length.unwrap_or_else(|| piece_length(size)),
        forms: options.forms,
        private: !options.public,
        trackers: options
            .trackers
            .iter()
            .map(|url| vec![url.clone()])
            .collect(),
        web_seeds: options.web_seeds.clone(),
        comment: options.comment.clone(),
    };
    let plan = draft.plan().map_err(fail)?;
    let hashes = hash(&plan, &files, &indices, threads, events)?;
    plan.finish(&hashes).map_err(fail)
}

/// What the torrent is to hold, and where each of it is on disk, both by path.
fn drafts(files: &Files) -> Result<(Vec<DraftFile>, Vec<EntryIndex>)> {
    let mut drafts = Vec::new();
    let mut indices = Vec::new();
    for (path, file) in files.iter() {
        let refuse = |why| Error::NotInTorrents {
            path: show(path),
            why,
        };
        let (len, link) = match &file.kind {
            OnDiskKind::File(size) => (*size, None),
            OnDiskKind::Link(Some(target)) => (0, Some(target.clone())),
            OnDiskKind::Link(None) => return Err(refuse("the link leads out of the tree")),
            OnDiskKind::Other(why) => return Err(refuse(why)),
        };
        drafts.push(DraftFile {
            path: path.clone(),
            len,
            executable: file.executable && link.is_none(),
            link,
        });
        indices.push(file.index);
    }
    Ok((drafts, indices))
}

fn name(path: &Path, options: &CreateOptions) -> Result<Vec<u8>> {
    if let Some(name) = &options.name {
        return Ok(name.clone().into_bytes());
    }
    let whole = path.canonicalize().map_err(Error::store("read", path))?;
    let name = path.file_name().or_else(|| whole.file_name());
    Ok(name.map(OsStr::as_bytes).unwrap_or_default().to_vec())
}

/// The smallest size of at least 256 KiB that makes at most 8192 pieces, or else 16 MiB: few enough
/// for small torrents, many enough for all peers to have something to give.
fn piece_length(size: u64) -> u32 {
    let sizes = (18..24).map(|log2| 1u32 << log2);
    let mut fitting = sizes.filter(|&length| size.div_ceil(length.into()) <= 8192);
    fitting.next().unwrap_or(1 << 24)
}

/// Hashes all pieces of a plan.
fn hash(
    plan: &Plan,
    files: &Files,
    indices: &[EntryIndex],
    threads: usize,
    events: &Events,
) -> Result<Vec<PieceHashes>> {
    let layout = plan.layout();
    // The layout has the same files in the same order, and padding between them.
    let real = layout.files().iter().enumerate();
    let real = real.filter(|(_, file)| !file.is_pad()).map(|(at, _)| at);
    let on_disk: Vec<(usize, EntryIndex)> = real.zip(indices.iter().copied()).collect();
    let (next, read) = (AtomicU32::new(0), AtomicU64::new(0));
    let total = layout.content_len();
    let work = || -> Result<Vec<(usize, PieceHashes)>> {
        let (mut hashed, mut buffer) = (Vec::new(), Vec::new());
        while let Some(piece) = layout.piece(next.fetch_add(1, Ordering::Relaxed)) {
            let of = plan.piece(piece);
            let found = on_disk.binary_search_by_key(&of.file, |(at, _)| *at);
            let index = on_disk[found.expect("pieces start in files that are on disk")].1;
            buffer.resize(of.len as usize, 0);
            files.read(index, of.offset, &mut buffer)?;
            let hashes = PieceHashes::of(&buffer, of.padding, of.width_log2, plan.forms());
            hashed.push((piece.as_usize(), hashes));
            let done = read.fetch_add(of.len.into(), Ordering::Relaxed);
            events.raise(Event::Progress {
                bytes_done: done + u64::from(of.len),
                bytes_total: total,
            });
        }
        Ok(hashed)
    };
    let mut hashes = vec![PieceHashes::default(); layout.piece_count() as usize];
    for (piece, hash) in super::in_threads(threads, work)? {
        hashes[piece] = hash;
    }
    Ok(hashes)
}
