//! The table of published bundles: names and serials to open files. A request is answered from the
//! table alone; what is not in it does not exist. A bundle that was removed from its store leaves
//! the table at the next look, and its file when the last answer has been given.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::control::ImageInfo;
use super::error::{Kind, OrKind as _, Result};
use super::hub::Published;
use crate::base::Serial;
use crate::base::event::Events;
use crate::base::id::ImageName;
use crate::capture::{self, BUNDLE_SUFFIX, Store, TORRENT_SUFFIX};
use crate::swarm::Metainfo;

/// How often a head looks for new publications.
pub(crate) const RESCAN_PERIOD: Duration = Duration::from_secs(1);

type Key = (ImageName, Serial);

/// A file of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// `NAME-SERIAL.tar.zst`
    Bundle,
    /// `NAME-SERIAL.torrent`
    Torrent,
    /// `NAME-SERIAL.v1.torrent`, which is in no store
    TorrentV1,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    table: Mutex<BTreeMap<Key, Arc<Published>>>,
    store: Option<Store>,
    /// Publications that could not be opened; each is told once.
    refused: Mutex<BTreeSet<Key>>,
}

impl Catalog {
    /// Opens everything that is published in a store.
    ///
    /// # Errors
    /// If the store cannot be listed.
    pub(crate) fn of_store(store: Store, events: &Events) -> Result<Self> {
        let catalog = Self {
            store: Some(store),
            ..Self::default()
        };
        catalog.rescan(events)?;
        Ok(catalog)
    }

    /// Looks for what was published or removed since; tells whether the table has changed.
    ///
    /// # Errors
    /// If the store cannot be listed.
    pub(crate) fn rescan(&self, events: &Events) -> Result<bool> {
        let Some(store) = &self.store else {
            return Ok(false);
        };
        let published: BTreeSet<Key> = store
            .published()
            .or_kind(Kind::Storage)?
            .into_iter()
            .collect();
        let before: BTreeSet<Key> = self.table().keys().cloned().collect();
        let mut has_changed = false;
        for gone in before.difference(&published) {
            has_changed |= self.table().remove(gone).is_some();
        }
        for new in published.difference(&before) {
            match open(store, new, events) {
                Ok(opened) => {
                    self.insert(Arc::new(opened));
                    has_changed = true;
                }
                Err(error) => self.refuse(new, &error, events),
            }
        }
        Ok(has_changed)
    }

    fn refuse(&self, key: &Key, error: &super::Error, events: &Events) {
        let mut refused = self
            .refused
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        if refused.insert(key.clone()) {
            events.warn(format!("{}@{} is not served: {error}", key.0, key.1));
        }
    }

    /// Puts a bundle into the table.
    pub(crate) fn insert(&self, published: Arc<Published>) {
        let manifest = &published.manifest;
        let key = (manifest.name.clone(), manifest.serial);
        self.table().insert(key, published);
    }

    /// All bundles, by name and serial.
    pub(crate) fn list(&self) -> Vec<ImageInfo> {
        let info = |published: &Arc<Published>| ImageInfo {
            name: published.manifest.name.to_string(),
            serial: published.manifest.serial.0,
            root: published.manifest.root.to_string(),
            bytes: published.manifest.geometry.bundle_size(),
        };
        self.table().values().map(info).collect()
    }

    /// A bundle by name and serial; the newest without a serial.
    pub(crate) fn find(&self, name: &str, serial: Option<Serial>) -> Option<Arc<Published>> {
        let name: ImageName = name.parse().ok()?;
        let (first, last) = serial.map_or((Serial(0), Serial(u64::MAX)), |one| (one, one));
        let table = self.table();
        let found = table
            .range((name.clone(), first)..=(name, last))
            .next_back();
        found.map(|(_, found)| Arc::clone(found))
    }

    /// The bundle that a file is of, by the file's name as it is in the store.
    pub(crate) fn find_file(&self, file: &str) -> Option<(Arc<Published>, FileKind)> {
        let (stem, kind) = match file.strip_suffix(TORRENT_SUFFIX) {
            Some(stem) => match stem.strip_suffix(".v1") {
                Some(stem) => (stem, FileKind::TorrentV1),
                None => (stem, FileKind::Torrent),
            },
            None => (file.strip_suffix(BUNDLE_SUFFIX)?, FileKind::Bundle),
        };
        let (name, serial) = stem.rsplit_once('-')?;
        let number = serial.parse().ok().map(Serial)?;
        // One file has one name: no `+1`, no `007`.
        let is_plain = number.to_string() == serial;
        let found = self.find(name, Some(number)).filter(|_| is_plain)?;
        Some((found, kind))
    }

    /// All bundles.
    pub(crate) fn all(&self) -> Vec<Arc<Published>> {
        self.table().values().cloned().collect()
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<Published>>> {
        self.table
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
    }
}

fn open(store: &Store, (name, serial): &Key, events: &Events) -> Result<Published> {
    let (manifest, sealed) = store
        .load_manifest(name, *serial)
        .or_kind(Kind::Integrity)?;
    let path = store.bundle_path(name, *serial);
    let bundle = File::open(&path)
        .or_kind_with(Kind::Storage, || format!("Cannot open {}", path.display()))?;
    let size = bundle.metadata().or_kind(Kind::Storage)?.len();
    if size != manifest.geometry.bundle_size() {
        let text = format!("{} does not have the size that was signed", path.display());
        return Err(super::Error::text(Kind::Integrity, text));
    }
    let torrent = match store.load_torrent(name, *serial) {
        Ok(torrent) if is_of(&torrent, size, &path) => Some(Arc::new(torrent)),
        Ok(_) => {
            events.warn(format!("The torrent of {name}@{serial} is of another file"));
            None
        }
        Err(capture::Error::NoTorrent(..)) => None,
        Err(error) => {
            events.warn(format!(
                "The torrent of {name}@{serial} is not used: {error}"
            ));
            None
        }
    };
    Ok(Published {
        manifest: Arc::new(manifest),
        sealed: sealed.into(),
        bundle: Arc::new(bundle),
        torrent_v1: torrent
            .as_ref()
            .and_then(|torrent| torrent.v1_alone())
            .map(Arc::new),
        torrent,
        is_hashed: false,
    })
}

/// Whether a torrent is of one file with this size and name.
fn is_of(torrent: &Metainfo, size: u64, path: &Path) -> bool {
    let info = torrent.info();
    let name = path.file_name().map(std::ffi::OsStr::as_encoded_bytes);
    !info.is_multi() && info.layout().content_len() == size && Some(info.name()) == name
}
