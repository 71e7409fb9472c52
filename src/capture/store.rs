//! The store: where a head keeps its images, bundles and keys.
//!
//! ```text
//!   STORE/images/NAME/                     an image that is a tree
//!   STORE/images/NAME.img                  an image that is a disk (or a link to a device)
//!   STORE/bundles/NAME-SERIAL.tar.zst      a publication
//!   STORE/bundles/NAME-SERIAL.torrent      its torrent, version 1 and 2
//!   STORE/bundles/NAME-SERIAL.manifest     its sealed manifest; with it, a publication is there
//!   STORE/keys/head.key, head.pub          the key that signs
//!   STORE/lock                             held by whoever publishes
//! ```
//!
//! Reading changes nothing: a store that is not there is an empty one. What is written appears by
//! rename, whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ring::rand::SecureRandom as _;
use rustix::fs::FlockOperation;

use super::{Error, Result, torrent};
use crate::base::Serial;
use crate::image::{ImageName, Manifest, PublicKey, SigningKey, sign};
use crate::swarm::Metainfo;

/// What the name of a publication's bundle ends in.
pub const BUNDLE_SUFFIX: &str = ".tar.zst";
/// What the name of a publication's torrent ends in.
pub const TORRENT_SUFFIX: &str = ".torrent";

/// A store at a path.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// An image in a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Image {
    /// Its name.
    pub name: ImageName,
    /// What it is.
    pub kind: ImageKind,
    /// Where it is.
    pub path: PathBuf,
}

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageKind {
    /// A directory tree.
    Tree,
    /// A raw disk or partition.
    Disk,
}

/// The right to publish into a store, until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Store {
    /// Names the store at `root`, which need not be there yet.
    #[must_use]
    pub fn open(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the store is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the store's directories; those that are there stay as they are.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn prepare(&self) -> Result<()> {
        for (path, mode) in [
            (self.images_path(), 0o755),
            (self.bundles_path(), 0o755),
            (self.keys_path(), 0o700),
        ] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(&path)
                .map_err(Error::store("make the directory", &path))?;
        }
        Ok(())
    }

    /// All images, sorted by name. What is no image by its name is passed over.
    ///
    /// # Errors
    /// If the directory of images cannot be read.
    pub fn images(&self) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        for (text, path) in list(&self.images_path())? {
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            let (stem, kind) = match text.strip_suffix(DISK_SUFFIX) {
                _ if metadata.is_dir() => (text.as_str(), ImageKind::Tree),
                Some(stem) => (stem, ImageKind::Disk),
                None => continue,
            };
            if let Ok(name) = stem.parse() {
                images.push(Image { name, kind, path });
            }
        }
        images.sort();
        Ok(images)
    }

    /// The image called `name`.
    ///
    /// # Errors
    /// [`Error::NoImage`], or [`Error::Ambiguous`] if there is a tree and a disk of that name.
    pub fn image(&self, name: &ImageName) -> Result<Image> {
        let tree = self.image_path(name, ImageKind::Tree);
        let disk = self.image_path(name, ImageKind::Disk);
        let is_disk = fs::metadata(&disk).is_ok_and(|metadata| !metadata.is_dir());
        let (kind, path) = match (tree.is_dir(), is_disk) {
            (true, true) => return Err(Error::Ambiguous(name.clone())),
            (true, false) => (ImageKind::Tree, tree),
            (false, true) => (ImageKind::Disk, disk),
            (false, false) => return Err(Error::NoImage(name.clone())),
        };
        Ok(Image {
            name: name.clone(),
            kind,
            path,
        })
    }

    /// Where an image of that name and kind is, or would be.
    #[must_use]
    pub fn image_path(&self, name: &ImageName, kind: ImageKind) -> PathBuf {
        let suffix = match kind {
            ImageKind::Tree => "",
            ImageKind::Disk => DISK_SUFFIX,
        };
        self.images_path().join(format!("{name}{suffix}"))
    }

    /// The publications of an image, ascending; the image itself may be gone.
    ///
    /// # Errors
    /// If the directory of bundles cannot be read.
    pub fn bundles(&self, name: &ImageName) -> Result<Vec<Serial>> {
        let all = self.published()?;
        let own = all.into_iter().filter(|(other, _)| other == name);
        Ok(own.map(|(_, serial)| serial).collect())
    }

    /// All publications, sorted by name and serial.
    ///
    /// # Errors
    /// If the directory of bundles cannot be read.
    pub fn published(&self) -> Result<Vec<(ImageName, Serial)>> {
        let mut published = Vec::new();
        for (text, _) in list(&self.bundles_path())? {
            let parts = text
                .strip_suffix(MANIFEST_SUFFIX)
                .and_then(|stem| stem.rsplit_once('-'));
            if let Some((name, serial)) = parts
                && let (Ok(name), Some(serial)) = (name.parse(), parse_serial(serial))
            {
                published.push((name, serial));
            }
        }
        published.sort();
        Ok(published)
    }

    /// The newest publication of an image, if there is one.
    ///
    /// # Errors
    /// If the directory of bundles cannot be read.
    pub fn latest(&self, name: &ImageName) -> Result<Option<Serial>> {
        Ok(self.bundles(name)?.last().copied())
    }

    /// Where the bundle of a publication is.
    #[must_use]
    pub fn bundle_path(&self, name: &ImageName, serial: Serial) -> PathBuf {
        let file = format!("{name}-{serial}{BUNDLE_SUFFIX}");
        self.bundles_path().join(file)
    }

    /// Where the sealed manifest of a publication is.
    #[must_use]
    pub fn manifest_path(&self, name: &ImageName, serial: Serial) -> PathBuf {
        let file = format!("{name}-{serial}{MANIFEST_SUFFIX}");
        self.bundles_path().join(file)
    }

    /// Where the torrent of a publication is; one of a version before torrents has none.
    #[must_use]
    pub fn torrent_path(&self, name: &ImageName, serial: Serial) -> PathBuf {
        let file = format!("{name}-{serial}{TORRENT_SUFFIX}");
        self.bundles_path().join(file)
    }

    /// Reads the torrent of a publication.
    ///
    /// # Errors
    /// [`Error::NoTorrent`], or if it cannot be read or is none.
    pub fn load_torrent(&self, name: &ImageName, serial: Serial) -> Result<Metainfo> {
        let path = self.torrent_path(name, serial);
        if !path.exists() {
            return Err(Error::NoTorrent(name.clone(), serial));
        }
        torrent::load(&path)
    }

    /// Reads the manifest of a publication, checked against the store's public key, and its sealed
    /// bytes.
    ///
    /// # Errors
    /// [`Error::NoBundle`], or if the manifest cannot be read or was not signed with this key.
    pub fn load_manifest(&self, name: &ImageName, serial: Serial) -> Result<(Manifest, Vec<u8>)> {
        let key = self.public_key()?;
        let path = self.manifest_path(name, serial);
        let sealed = fs::read(&path).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                Error::NoBundle(name.clone(), serial)
            } else {
                Error::store("read", &path)(error)
            }
        })?;
        let manifest =
            sign::open(&sealed, &key).map_err(|source| Error::Format { path, source })?;
        Ok((manifest, sealed))
    }

    /// Removes a publication.
    ///
    /// # Errors
    /// If it is there and cannot be removed.
    pub fn remove_bundle(&self, name: &ImageName, serial: Serial) -> Result<()> {
        for path in [
            self.manifest_path(name, serial),
            self.torrent_path(name, serial),
            self.bundle_path(name, serial),
        ] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::store("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The key that signs.
    ///
    /// # Errors
    /// [`Error::NoKey`], or if the key file cannot be read or holds no key.
    pub fn signing_key(&self) -> Result<SigningKey> {
        self.read_key(&self.keys_path().join(SECRET_FILE))
    }

    /// The key that verifies.
    ///
    /// # Errors
    /// [`Error::NoKey`], or if the key file cannot be read or holds no key.
    pub fn public_key(&self) -> Result<PublicKey> {
        self.read_key(&self.keys_path().join(PUBLIC_FILE))
    }

    /// Makes a key from the system's randomness. `force` replaces the one that is there: what it
    /// signed is then not trusted any more.
    ///
    /// # Errors
    /// [`Error::KeyExists`], or if the key files cannot be written.
    pub fn generate_key(&self, force: bool) -> Result<SigningKey> {
        self.prepare()?;
        let secret_path = self.keys_path().join(SECRET_FILE);
        if secret_path.exists() && !force {
            return Err(Error::KeyExists(secret_path));
        }
        let mut seed = [0; sign::KEY_BYTES];
        ring::rand::SystemRandom::new()
            .fill(&mut seed)
            .map_err(|_| io::Error::other("the system gives no randomness"))
            .map_err(Error::store("make", &secret_path))?;
        let key = SigningKey::from_seed(seed);
        let public_text = format!("{}\n", key.public_key());
        write_whole(&secret_path, 0o600, key.to_secret_text().as_bytes())?;
        let public_path = self.keys_path().join(PUBLIC_FILE);
        write_whole(&public_path, 0o644, public_text.as_bytes())?;
        Ok(key)
    }

    /// Takes the right to publish; nobody else has it until the lock is dropped.
    ///
    /// # Errors
    /// [`Error::Locked`] if somebody has it.
    pub fn lock(&self) -> Result<Lock> {
        self.prepare()?;
        let path = self.root.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::store("open", &path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked(self.root.clone())),
            Err(errno) => Err(Error::store("lock", &path)(errno.into())),
        }
    }

    /// Where a bundle is written before it has its name.
    pub(super) fn temporary_path(&self) -> PathBuf {
        self.bundles_path().join(TEMPORARY_FILE)
    }

    fn images_path(&self) -> PathBuf {
        self.root.join("images")
    }

    fn bundles_path(&self) -> PathBuf {
        self.root.join("bundles")
    }

    fn keys_path(&self) -> PathBuf {
        self.root.join("keys")
    }

    fn read_key<K: std::str::FromStr<Err = crate::image::Error>>(&self, path: &Path) -> Result<K> {
        let text = fs::read_to_string(path).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                Error::NoKey(self.keys_path())
            } else {
                Error::store("read", path)(error)
            }
        })?;
        text.parse().map_err(|source| Error::Format {
            path: path.to_owned(),
            source,
        })
    }
}

/// Writes a file so that it is there whole or not at all, also after a crash.
pub(super) fn write_whole(path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_directory_of(path)
    };
    write().map_err(|error| {
        // The write's own error is the one to tell.
        drop(fs::remove_file(&temporary));
        Error::store("write", path)(error)
    })
}

/// Makes a rename in the directory of `path` last.
pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        None => Ok(()),
        // A bare name lies here.
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
    }
}

/// The names and paths in a directory; none if it is not there.
fn list(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::store("read", directory)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::store("read", directory))?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

/// Reads a serial as it is written in file names: no sign, no leading zero.
fn parse_serial(text: &str) -> Option<Serial> {
    let serial = Serial(text.parse().ok()?);
    (serial.to_string() == text).then_some(serial)
}

const DISK_SUFFIX: &str = ".img";
const MANIFEST_SUFFIX: &str = ".manifest";
const TEMPORARY_FILE: &str = ".publishing";
const SECRET_FILE: &str = "head.key";
const PUBLIC_FILE: &str = "head.pub";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("store"));
        (directory, store)
    }

    fn name(text: &str) -> ImageName {
        text.parse().unwrap()
    }

    #[test]
    fn a_store_that_is_not_there_is_empty() {
        let (_directory, store) = store();
        assert_eq!(store.images().unwrap(), []);
        assert_eq!(store.latest(&name("x")).unwrap(), None);
        assert!(matches!(store.image(&name("x")), Err(Error::NoImage(_))));
        assert!(matches!(store.public_key(), Err(Error::NoKey(_))));
        assert!(!store.root().exists());
    }

    #[test]
    fn images_and_bundles_are_found_by_name() {
        let (_directory, store) = store();
        store.prepare().unwrap();
        fs::create_dir(store.image_path(&name("b"), ImageKind::Tree)).unwrap();
        fs::write(store.image_path(&name("a"), ImageKind::Disk), b"").unwrap();
        fs::write(store.root().join("images/stray"), b"").unwrap();
        let found: Vec<_> = store
            .images()
            .unwrap()
            .into_iter()
            .map(|i| i.name)
            .collect();
        assert_eq!(found, [name("a"), name("b")]);
        assert_eq!(store.image(&name("a")).unwrap().kind, ImageKind::Disk);
        fs::write(store.image_path(&name("b"), ImageKind::Disk), b"").unwrap();
        assert!(matches!(store.image(&name("b")), Err(Error::Ambiguous(_))));
        for (of, serial) in [("b", 2), ("b", 10), ("b-2", 7)] {
            fs::write(store.manifest_path(&name(of), Serial(serial)), b"").unwrap();
        }
        fs::write(store.root().join("bundles/b-03.manifest"), b"").unwrap();
        assert_eq!(store.bundles(&name("b")).unwrap(), [Serial(2), Serial(10)]);
        assert_eq!(store.latest(&name("b-2")).unwrap(), Some(Serial(7)));
    }

    #[test]
    fn a_key_is_made_once_and_kept_secret() {
        let (_directory, store) = store();
        let key = store.generate_key(false).unwrap();
        assert_eq!(store.public_key().unwrap(), key.public_key());
        assert_eq!(store.signing_key().unwrap().public_key(), key.public_key());
        let secret = fs::metadata(store.root().join("keys/head.key")).unwrap();
        assert_eq!(secret.permissions().mode() & 0o7777, 0o600);
        assert!(matches!(
            store.generate_key(false),
            Err(Error::KeyExists(_))
        ));
        assert_ne!(
            store.generate_key(true).unwrap().public_key(),
            key.public_key()
        );
    }

    #[test]
    fn only_one_may_publish() {
        let (_directory, store) = store();
        let lock = store.lock().unwrap();
        assert!(matches!(store.lock(), Err(Error::Locked(_))));
        drop(lock);
        store.lock().unwrap();
    }
}
