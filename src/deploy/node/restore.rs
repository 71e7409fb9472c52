//! `receive`: an image becomes a tree or a disk while its pieces arrive, and is read back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::fetch::{Fetched, Work, fetch};
use super::join::{Joined, join};
use super::plain::{Proof, REPAIRS_MAX, changed, receipt};
use super::{Receipt, Received, Sink, Want};
use crate::base::counter::Counters;
use crate::base::event::{Events, Phase};
use crate::base::units::format_bytes;
use crate::base::{Bitmap, PieceIndex};
use crate::deploy::control::{Client, Shares};
use crate::deploy::error::{Error, Kind, OrKind as _, Result};
use crate::deploy::store::PieceStore;
use crate::image::{Kind as BundleKind, Manifest};
use crate::install::{self, Options, Restored, Unpacker};
use crate::tree::Change;

/// Threads that unpack at most: each holds a frame and its content, a few MiB.
const UNPACKERS_MAX: usize = 4;

/// What `receive` needs.
#[derive(Clone, Debug)]
pub struct Receive {
    /// What and from whom.
    pub want: Want,
    /// What becomes the image.
    pub target: Target,
    /// Where the piece store is, if not in its default place.
    pub work: Option<PathBuf>,
    /// Where the bundle is kept after success, if it is.
    pub keep_bundle: Option<PathBuf>,
    /// Whether a target directory that holds something else is emptied first.
    pub replace: bool,
}

/// What becomes the image.
#[derive(Clone, Debug)]
pub enum Target {
    /// A directory.
    Directory(PathBuf),
    /// A block device or a file.
    Device(PathBuf),
}

/// What `receive` would do.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    /// The version of this document.
    pub v: u32,
    /// The image's name.
    pub image: String,
    /// Its publication.
    pub serial: u64,
    /// BLAKE3 of the bundle, hex.
    pub root: String,
    /// Size of the bundle.
    pub bytes: u64,
    /// Bytes of content that would be written, holes left out.
    pub content_bytes: u64,
    /// Entries of the image.
    pub entries: usize,
    /// What would become the image.
    pub target: String,
    /// Where pieces would be kept meanwhile.
    pub work: String,
    /// The head.
    pub head: String,
}

impl Target {
    fn path(&self) -> &PathBuf {
        match self {
            Self::Directory(path) | Self::Device(path) => path,
        }
    }

    fn to_install(&self) -> install::Target {
        match self.clone() {
            Self::Directory(path) => install::Target::Directory(path),
            Self::Device(path) => install::Target::Device(path),
        }
    }
}

impl Receive {
    fn work(&self) -> PathBuf {
        match (&self.work, &self.keep_bundle, &self.target) {
            (Some(work), ..) => work.clone(),
            (None, Some(bundle), _) => folder_of(bundle),
            (None, None, Target::Directory(path)) => path.join(install::MARKER),
            (None, None, Target::Device(_)) => PathBuf::from("/var/tmp/flashover"),
        }
    }

    fn joined(&self) -> Result<Joined> {
        let joined = join(&self.want)?;
        let (fits, hint) = match (joined.manifest.kind, &self.target) {
            (BundleKind::Tree, Target::Directory(_)) | (BundleKind::Disk, Target::Device(_)) => {
                return Ok(joined);
            }
            (BundleKind::Tree, Target::Device(_)) => ("a tree", "give a directory: --into DIR"),
            (BundleKind::Disk, Target::Directory(_)) => {
                ("a disk", "give a device or file: --to-device PATH")
            }
            (BundleKind::File, _) => ("a plain file", "receive it by: flashover catch FILE"),
        };
        let text = format!("{} is {fits}", joined.manifest.name);
        Err(Error::text(Kind::Usage, text).hint(hint))
    }
}

/// The folder that a file lies in.
fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

/// Says what [`receive`] would do, and changes nothing.
///
/// # Errors
/// As [`receive`], up to the first change.
pub fn plan(config: &Receive) -> Result<Planned> {
    let joined = config.joined()?;
    let manifest = &joined.manifest;
    Ok(Planned {
        v: 1,
        image: manifest.name.to_string(),
        serial: manifest.serial.0,
        root: manifest.root.to_string(),
        bytes: manifest.geometry.bundle_size(),
        content_bytes: content_bytes(&joined),
        entries: manifest.entries.len(),
        target: config.target.path().display().to_string(),
        work: config.work().display().to_string(),
        head: joined.head.to_string(),
    })
}

/// Bytes that unpacking writes.
fn content_bytes(joined: &Joined) -> u64 {
    let extents = joined.manifest.extents.iter();
    extents.map(|extent| u64::from(extent.len)).sum()
}

/// Restores an image and proves it.
///
/// # Errors
/// If it cannot be had in time, is not what was signed, or the target cannot hold it.
pub fn receive(config: &Receive) -> Result<Received> {
    let started = Instant::now();
    let mut joined = config.joined()?;
    let ended = restore(config, &mut joined, started);
    if let Err(error) = &ended {
        joined.tell(Phase::Receiving, Shares::default(), 0.0, &error.to_string());
    }
    ended
}

fn restore(config: &Receive, joined: &mut Joined, started: Instant) -> Result<Received> {
    let events = &config.want.events;
    let counters = Arc::new(Counters::default());
    let options = Options {
        threads: threads(),
        replace: config.replace,
        events: events.clone(),
        ..Options::default()
    };
    let store = PieceStore::in_folder(&config.work(), &joined.manifest, &joined.sealed)?;
    check_space(config, joined, &store)?;
    events.phase(Phase::Resuming);
    let mut have = store.resume(&joined.manifest.pieces, events)?;
    let mut repairs = Repairs::default();
    loop {
        let source = Arc::<std::fs::File>::clone(store.file());
        let (manifest, target) = (Arc::clone(&joined.manifest), config.target.to_install());
        let unpacker = match Unpacker::start(manifest, source, &target, &options) {
            Ok(unpacker) => unpacker,
            Err(error) => {
                if let Some(because) = repairs.because {
                    // That it cannot be written again says less than why it should be.
                    return Err(because.into());
                }
                if have.is_empty() {
                    // A target that is refused stays as it was.
                    remove(config, store)?;
                }
                return Err(error.into());
            }
        };
        let attempt = fetch_and_unpack(config, joined, &store, have, &counters, unpacker)?;
        let received = started.elapsed().saturating_sub(attempt.finishing);
        let mut fetched = repairs.add(attempt.fetched);
        match attempt.restored {
            Ok(restored) => {
                complete(config, store)?;
                return Ok(prove(
                    joined, config, fetched, &counters, &restored, started, received,
                ));
            }
            Err(error) => {
                // What is here may not be what it was seeded for.
                drop(fetched.seeding.take());
                have = repairs.begin(error, fetched, &joined.manifest, &store, events)?;
            }
        }
    }
}

/// What one attempt came to.
struct Attempt {
    fetched: Fetched,
    /// What followed the last piece.
    finishing: Duration,
    restored: install::Result<Restored>,
}

/// Completes the store while the unpacker takes from it, and lets that finish.
fn fetch_and_unpack(
    config: &Receive,
    joined: &mut Joined,
    store: &PieceStore,
    have: Bitmap,
    counters: &Arc<Counters>,
    unpacker: Unpacker,
) -> Result<Attempt> {
    let mut sink = Unpacking(unpacker);
    let client = || Client::new(joined.head, &config.want.token);
    let job = Work {
        manifest: &joined.manifest,
        store,
        head: joined.head,
        client: &client,
        join: &joined.request,
        net: &config.want.net,
        deadline: config.want.deadline,
        counters,
        events: &config.want.events,
    };
    let fetched = match fetch(&job, have, &mut sink) {
        Ok(fetched) => fetched,
        // The unpacker knows better what went wrong than the job that it stopped.
        Err(_) if sink.0.has_failed() => Fetched::default(),
        Err(error) => return Err(error),
    };
    let finishing = Instant::now();
    joined.tell(Phase::Unpacking, fetched.shares, fetched.loss(), "");
    let restored = sink.0.finish();
    Ok(Attempt {
        fetched,
        finishing: finishing.elapsed(),
        restored,
    })
}

/// Whether an error looks like a write that the disk lost. Metadata that a file system does not
/// keep would not be kept another time either.
fn is_lost_write(error: &install::Error) -> bool {
    if let install::Error::Differs { all, .. } = error {
        return all.iter().any(|found| found.change == Change::Content);
    }
    matches!(error, install::Error::Damaged { .. })
}

/// Further attempts, when what was restored is not what was signed: a disk lost or misplaced a
/// write. What is wrong in the store is fetched again, and everything is unpacked again.
#[derive(Default)]
struct Repairs {
    count: u32,
    /// Why the last began.
    because: Option<install::Error>,
    fetched: Option<Fetched>,
}

impl Repairs {
    /// All that was fetched so far.
    fn add(&mut self, later: Fetched) -> Fetched {
        match self.fetched.take() {
            Some(mut fetched) if fetched.shares.total() > 0 => {
                fetched.follow(later);
                fetched
            }
            Some(_) | None => later,
        }
    }

    /// Begins another attempt; gives the pieces that are right in the store.
    ///
    /// # Errors
    /// If it was no lost write, or there were enough attempts.
    fn begin(
        &mut self,
        error: install::Error,
        fetched: Fetched,
        manifest: &Manifest,
        store: &PieceStore,
        events: &Events,
    ) -> Result<Bitmap> {
        if !is_lost_write(&error) || self.count == REPAIRS_MAX {
            return Err(error.into());
        }
        self.count += 1;
        events.phase(Phase::Resuming);
        let (have, settled) = store.read_back(&manifest.pieces, events)?;
        let lost = match settled {
            Err(error) => format!("; {}", store.not_taken(&error)),
            Ok(()) if have.is_full() => String::new(),
            Ok(()) => format!("; {}", changed(manifest, &have)),
        };
        events.warn(format!("{error}{lost}; it is unpacked again"));
        self.because = Some(error);
        self.fetched = Some(fetched);
        Ok(have)
    }
}

fn prove(
    joined: &mut Joined,
    config: &Receive,
    mut fetched: Fetched,
    counters: &Counters,
    restored: &Restored,
    started: Instant,
    received: Duration,
) -> Received {
    joined.tell_done(fetched.shares, fetched.loss());
    config.want.events.phase(Phase::Done);
    let proof = Proof {
        started,
        received,
        verifying: restored.verify_time,
    };
    Received {
        seeding: fetched.seeding.take(),
        receipt: Receipt {
            bytes_verified: restored.bytes_verified,
            ..receipt(joined, fetched, counters, &proof)
        },
    }
}

fn threads() -> std::num::NonZeroUsize {
    let count = Options::default().threads.get().min(UNPACKERS_MAX);
    std::num::NonZeroUsize::new(count).unwrap_or(std::num::NonZeroUsize::MIN)
}

/// Refuses a disk that cannot hold the rest of the bundle and, if it is also the target's, the
/// image.
fn check_space(config: &Receive, joined: &Joined, store: &PieceStore) -> Result {
    let is_own = config.work.is_none();
    let extra = match config.target {
        Target::Directory(_) if is_own => content_bytes(joined),
        Target::Directory(_) | Target::Device(_) => 0,
    };
    store.check_space(extra).map_err(|error| {
        let text = format!(
            "The bundle of {} needs room while the image is unpacked",
            format_bytes(joined.manifest.geometry.bundle_size())
        );
        let (kind, cause, hint) = error.into_parts();
        let error = Error::new(kind, cause.context(text));
        hint.into_iter().fold(error, Error::hint)
    })
}

/// Removes the store or keeps the bundle.
fn complete(config: &Receive, store: PieceStore) -> Result {
    let Some(to) = &config.keep_bundle else {
        return remove(config, store);
    };
    store.rename(to).or_kind_with(Kind::Storage, || {
        format!("Cannot keep the bundle as {}", to.display())
    })
}

/// Removes the store, and the folder that was made for it.
fn remove(config: &Receive, store: PieceStore) -> Result {
    store.remove().or_kind(Kind::Storage)?;
    if config.work.is_none() && config.keep_bundle.is_none() {
        // Another bundle's store may be in there, or the unpacker has removed it: both are fine.
        drop(std::fs::remove_dir(config.work()));
    }
    Ok(())
}

/// Unpacks pieces as they come.
struct Unpacking(Unpacker);

impl Sink for Unpacking {
    fn ready(&mut self, piece: PieceIndex) -> Result {
        self.0.piece_ready(piece);
        Ok(())
    }

    fn check(&mut self) -> Result {
        if self.0.has_failed() {
            return Err(Error::text(Kind::Storage, "Unpacking has failed"));
        }
        Ok(())
    }
}

impl From<install::Error> for Error {
    fn from(error: install::Error) -> Self {
        let (kind, hint) = match error.kind() {
            install::ErrorKind::NoSpace => (Kind::Storage, "free some space on the target"),
            install::ErrorKind::ReadOnly => (Kind::Storage, "mount the target for writing"),
            install::ErrorKind::Integrity => (
                Kind::Integrity,
                "the target's disk is failing, or somebody writes to it",
            ),
            install::ErrorKind::Precondition => (
                Kind::Precondition,
                "choose another target, or empty it by --replace",
            ),
            install::ErrorKind::Storage => (Kind::Storage, "look at the kernel's messages: dmesg"),
        };
        Self::new(kind, error).hint(hint)
    }
}
