//! An image becomes a bundle and its signed manifest: read once, packed by all cores.
//!
//! Equal images give equal bytes. A publication is there when its manifest is; the bundle was
//! renamed into place before, and its torrent written, so that whoever sees the manifest finds
//! both. When the new
//! bundle is equal to the latest one, that one stays the latest.

use std::num::NonZero;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::pack::{Packed, pack};
use super::source::Source;
use super::store::write_whole;
use super::writer::{BundleWriter, Temporary};
use super::{Error, Image, Result, Store};
use crate::base::Serial;
use crate::base::event::Events;
use crate::image::geometry::PIECE_LOG2_DEFAULT;
use crate::image::{Entry, EntryKind, Geometry, ImageName, Kind, Manifest, sign};
use crate::swarm::metainfo::{Draft, DraftFile, Forms, Metainfo, PieceHashes};

/// How to publish.
#[derive(Clone, Debug)]
pub struct Options {
    /// The zstd level, 1 to 22.
    pub level: i32,
    /// The binary logarithm of the piece size, 16 to 24.
    pub piece_log2: u8,
    /// Whether to make a new publication even if it is equal to the latest.
    pub force: bool,
    /// How many threads compress; `None`: one per core.
    pub workers: Option<NonZero<usize>>,
    /// Whether peers of the torrent may be found in other ways than by its trackers.
    pub public: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            level: 3,
            piece_log2: PIECE_LOG2_DEFAULT,
            force: false,
            workers: None,
            public: false,
        }
    }
}

/// What publishing gave.
#[derive(Clone, Debug)]
pub struct Published {
    /// The manifest.
    pub manifest: Manifest,
    /// Where the bundle is.
    pub bundle: PathBuf,
    /// Size of the sealed manifest, in bytes.
    pub manifest_size: u64,
    /// The torrent of the bundle.
    pub torrent: Metainfo,
    /// Whether nothing was published, because the latest publication is equal.
    pub unchanged: bool,
}

/// What would be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The number that the publication would have.
    pub serial: Serial,
    /// What the image is.
    pub kind: Kind,
    /// Entries: files, directories and all else.
    pub entries: u64,
    /// Entries that are regular files, further hard links not counted.
    pub files: u64,
    /// About how many bytes would be read.
    pub bytes: u64,
}

/// Looks at an image without publishing it.
///
/// # Errors
/// If there is no such image, or it cannot be read.
pub fn survey(store: &Store, name: &ImageName) -> Result<Survey> {
    let image = store.image(name)?;
    let source = Source::open(image.kind, &image.path)?;
    let entries = source.entries();
    let is_file = |entry: &&Entry| matches!(entry.kind, EntryKind::File { .. });
    Ok(Survey {
        serial: next_serial(store, name)?,
        kind: source.kind(),
        entries: entries.len() as u64,
        files: entries.iter().filter(is_file).count() as u64,
        bytes: source.size_estimate(),
    })
}

/// Publishes an image with the store's key.
///
/// # Errors
/// If there is no such image or no key, somebody else publishes, the image cannot be read or
/// changes meanwhile, or the bundle cannot be written. Nothing is left behind then.
pub fn publish(
    store: &Store,
    name: &ImageName,
    options: &Options,
    events: &Events,
) -> Result<Published> {
    let image = store.image(name)?;
    let key = store.signing_key()?;
    let _lock = store.lock()?;
    let serial = next_serial(store, name)?;
    let built = build(&image, serial, options, store.temporary_path(), events)?;
    if !options.force
        && let Some(old) = equal_publication(store, &built, options)?
    {
        return Ok(old);
    }
    let torrent = torrent_of(store, &built, serial, options)?;
    let Built {
        manifest,
        temporary,
        ..
    } = built;
    let sealed = sign::seal(&manifest, &key);
    let bundle = store.bundle_path(name, serial);
    let named = temporary.rename(&bundle)?;
    let torrent_path = store.torrent_path(name, serial);
    write_whole(&torrent_path, 0o644, &torrent.emit())?;
    let torrent_file = Temporary::at(torrent_path);
    write_whole(&store.manifest_path(name, serial), 0o644, &sealed)?;
    torrent_file.keep();
    named.keep();
    Ok(Published {
        manifest,
        bundle,
        manifest_size: sealed.len() as u64,
        torrent,
        unchanged: false,
    })
}

/// A bundle that has no name yet.
struct Built {
    manifest: Manifest,
    torrent_pieces: Vec<PieceHashes>,
    temporary: Temporary,
}

/// Packs an image into a temporary file and describes it.
fn build(
    image: &Image,
    serial: Serial,
    options: &Options,
    path: PathBuf,
    events: &Events,
) -> Result<Built> {
    let source = Source::open(image.kind, &image.path)?;
    let workers = options
        .workers
        .or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, NonZero::get);
    let writer = BundleWriter::create(path, 1 << options.piece_log2, workers)?;
    let disk_name = format!("{}.img", image.name);
    let Packed {
        written,
        entries,
        extents,
    } = pack(
        &source,
        disk_name.as_bytes(),
        writer,
        (workers, options.level),
        events,
    )?;
    let geometry = Geometry::new(written.size, options.piece_log2).ok_or(Error::Unsuitable(
        "The bundle has more pieces than can be numbered; use larger pieces",
    ))?;
    let manifest = Manifest {
        name: image.name.clone(),
        serial,
        kind: source.kind(),
        geometry,
        root: written.root,
        pieces: written.pieces,
        frames: written.frames,
        entries,
        extents,
    };
    manifest.check().map_err(|source| Error::Unpublishable {
        name: image.name.clone(),
        source,
    })?;
    Ok(Built {
        manifest,
        torrent_pieces: written.torrent_pieces,
        temporary: written.temporary,
    })
}

/// The torrent of a bundle that is, or will be, publication `serial`.
fn torrent_of(store: &Store, built: &Built, serial: Serial, options: &Options) -> Result<Metainfo> {
    let bundle = store.bundle_path(&built.manifest.name, serial);
    let geometry = built.manifest.geometry;
    let draft = Draft {
        name: bundle.file_name().unwrap_or_default().as_bytes().to_vec(),
        files: vec![DraftFile {
            len: geometry.bundle_size(),
            ..DraftFile::default()
        }],
        piece_length: 1 << geometry.piece_log2(),
        forms: Forms::Hybrid,
        private: !options.public,
        trackers: Vec::new(),
        web_seeds: Vec::new(),
        comment: None,
    };
    let torrent = draft
        .plan()
        .and_then(|plan| plan.finish(&built.torrent_pieces));
    torrent.map_err(|source| Error::Torrent {
        path: bundle,
        source,
    })
}

fn next_serial(store: &Store, name: &ImageName) -> Result<Serial> {
    let latest = store.latest(name)?.unwrap_or(Serial(0));
    Ok(Serial(latest.0 + 1))
}

/// The latest publication, if it describes the same bundle and is sound. Its torrent is written
/// again if it is another: it may be of a version before torrents, or be public now.
fn equal_publication(store: &Store, built: &Built, options: &Options) -> Result<Option<Published>> {
    let name = &built.manifest.name;
    let Some(latest) = store.latest(name)? else {
        return Ok(None);
    };
    let Ok((old, sealed)) = store.load_manifest(name, latest) else {
        return Ok(None);
    };
    let bundle = store.bundle_path(name, latest);
    let size = std::fs::metadata(&bundle).map_or(0, |about| about.len());
    let renumbered = Manifest {
        serial: latest,
        ..built.manifest.clone()
    };
    if old != renumbered || size != old.geometry.bundle_size() {
        return Ok(None);
    }
    let torrent = torrent_of(store, built, latest, options)?;
    if !store
        .load_torrent(name, latest)
        .is_ok_and(|old| old == torrent)
    {
        write_whole(&store.torrent_path(name, latest), 0o644, &torrent.emit())?;
    }
    Ok(Some(Published {
        manifest: old,
        bundle,
        manifest_size: sealed.len() as u64,
        torrent,
        unchanged: true,
    }))
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "sizes in tests are small")]
mod tests;
