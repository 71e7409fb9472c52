//! Whose directory is it? Only one that is empty, or that an attempt of ours was interrupted in, is
//! unpacked into; anything else needs the word of the user.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::io::Errno;

use super::{Error, Result};
use crate::image::Hash;
use crate::tree::{Node, Place, ScanOptions, Tree};

/// The directory in the target's root that marks an unfinished attempt. In it, `bundle` holds the
/// root hash of the bundle; a receiver may keep its pieces there too. It goes when all is verified.
pub const MARKER: &str = ".flashover";
/// The file in the marker.
const BUNDLE: &[u8] = b"bundle";
/// What a new ext4 has in its root.
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// The names in a target's root that the image need not have.
pub(super) fn is_ours(name: &[u8]) -> bool {
    name == MARKER.as_bytes() || name == LOST_AND_FOUND
}

/// Opens the directory, or makes it, and marks it. `replace` allows to empty it.
pub(super) fn claim(path: &Path, root: Hash, replace: bool) -> Result<Tree> {
    match std::fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(source) => {
            return Err(Error::Target {
                action: "make the directory",
                path: path.to_owned(),
                source,
            });
        }
    }
    let tree = Tree::open(path)?;
    let names = tree.names_in(NOTHING, 0)?;
    let is_occupied = !names.iter().all(|name| is_ours(name));
    let marked = marked_hash(&tree).map_err(|source| marker_error(path, source))?;
    let is_same = marked.as_deref() == Some(root.to_string().as_bytes());
    if is_occupied && replace {
        tree.clear(&ours())?;
    } else if is_occupied && marked.is_none() {
        return Err(Error::NotEmpty(path.to_owned()));
    } else if is_occupied && !is_same {
        return Err(Error::OtherAttempt(path.to_owned()));
    }
    if !is_same {
        mark(&tree, root).map_err(|source| marker_error(path, source))?;
    }
    Ok(tree)
}

/// Removes the marker and what is in it.
pub(super) fn unmark(tree: &Tree) -> Result {
    let root = tree.directories().root();
    let marker = tree.open_beneath(MARKER.as_bytes())?;
    marker.clear(&ScanOptions::default())?;
    Place::new(root, MARKER.as_bytes())
        .and_then(|place| place.remove(true))
        .map_err(|errno| crate::tree::Error::new("remove", MARKER.as_bytes(), errno).into())
}

fn mark(tree: &Tree, root: Hash) -> std::io::Result<()> {
    let place = Place::new(tree.directories().root(), MARKER.as_bytes())?;
    match place.make_directory() {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let marker = place.open_directory()?;
    let bundle = Place::new(marker.as_fd(), BUNDLE)?;
    match bundle.remove(false) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut file = bundle.create_file()?;
    file.write_all(root.to_string().as_bytes())?;
    file.sync_all()
}

/// The hash in the marker; `None` if there is no whole marker.
fn marked_hash(tree: &Tree) -> std::io::Result<Option<Vec<u8>>> {
    let place = Place::new(tree.directories().root(), MARKER.as_bytes())?;
    let marker = match place.open_directory() {
        Ok(marker) => marker,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let file = match Place::new(marker.as_fd(), BUNDLE)?.open_file() {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut hash = Vec::new();
    file.take(HASH_TEXT_BYTES_MAX).read_to_end(&mut hash)?;
    Ok(Some(hash))
}

fn marker_error(path: &Path, source: std::io::Error) -> Error {
    Error::Target {
        action: "use the marker",
        path: path.join(MARKER),
        source,
    }
}

fn ours() -> ScanOptions {
    ScanOptions {
        exclude: vec![MARKER.into(), "lost+found".into()],
        ..ScanOptions::default()
    }
}

const HASH_TEXT_BYTES_MAX: u64 = 64;
/// A list for calls that look at the root only.
const NOTHING: &[Node] = &[];
