//! Where a torrent's bytes are: in one file, or in files beneath a directory. What is fetched is
//! written beside its place, under a name that ends in `.part`, and gets its own name when all is
//! there; so an attempt that ended early goes on.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, RenameFlags};
use rustix::io::Errno;

use super::look;
use crate::base::Bitmap;
use crate::base::event::Events;
use crate::base::units::format_bytes;
use crate::deploy::error::{Error, Kind, OrKind as _, Result};
use crate::deploy::swarm::files::Files;
use crate::swarm::Metainfo;
use crate::tree::show;

/// See the module.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// One file.
    One(Arc<File>),
    /// A directory of files.
    Many(Arc<Files>),
}

impl Content {
    /// Opens what is seeded.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(super) fn open(torrent: &Arc<Metainfo>, path: &Path) -> Result<Self> {
        if torrent.info().is_multi() {
            return Ok(Self::Many(Arc::new(Files::open(torrent, path)?)));
        }
        let file = File::open(path).or_kind(Kind::Storage)?;
        Ok(Self::One(Arc::new(file)))
    }

    /// Writes bytes of the torrent from `start` on.
    pub(super) fn write_at(&self, bytes: &[u8], start: u64) -> io::Result<()> {
        match self {
            Self::One(file) => file.write_all_at(bytes, start),
            Self::Many(files) => files.write_at(bytes, start),
        }
    }
}

/// What is being fetched, until it has its name.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) content: Content,
    /// The pieces that an earlier attempt left.
    pub(super) have: Bitmap,
    path: PathBuf,
}

impl Part {
    /// Opens what an earlier attempt for `target` left, or makes it.
    ///
    /// # Errors
    /// If it cannot be made, there is no room for what is missing, or it has files that are not the
    /// torrent's.
    pub(super) fn open(torrent: &Arc<Metainfo>, target: &Path, events: &Events) -> Result<Self> {
        let path = PathBuf::from(format!("{}.part", target.display()));
        let was_there = path.exists();
        let content = if torrent.info().is_multi() {
            Content::Many(Arc::new(open_directory(torrent, &path)?))
        } else {
            let opened = open_file(&path, torrent.info().layout().total_len());
            let file = opened.or_kind_with(Kind::Storage, || cannot("write", &path))?;
            Content::One(Arc::new(file))
        };
        let have = if was_there {
            look(torrent, &path, events)?
        } else {
            Bitmap::new(torrent.info().layout().piece_count() as usize)
        };
        check_space(&path, torrent.info().layout().total_len(), &have)?;
        Ok(Self {
            content,
            have,
            path,
        })
    }

    /// Gives what is complete its name; what has it is replaced, if that is allowed.
    ///
    /// # Errors
    /// If it does not reach the disk, or the name is taken.
    pub(super) fn finish(self, target: &Path, may_replace: bool) -> Result {
        match &self.content {
            Content::One(file) => file.sync_all(),
            Content::Many(files) => {
                let about = std::fs::metadata(&self.path);
                let mode = about.or_kind_with(Kind::Storage, || cannot("read", &self.path))?;
                files.finish(Mode::from_raw_mode(mode.mode()))?;
                Ok(())
            }
        }
        .or_kind_with(Kind::Storage, || cannot("complete", &self.path))?;
        let named = match rename(&self.path, target, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) if may_replace => replace(&self.path, target),
            other => other.map_err(io::Error::from),
        };
        named.or_kind_with(Kind::Storage, || cannot("complete", target))
    }
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, flags) {
        // Not all file systems can.
        Err(Errno::INVAL | Errno::NOSYS) if flags == RenameFlags::NOREPLACE => {
            if to.symlink_metadata().is_ok() {
                return Err(Errno::EXIST);
            }
            rustix::fs::rename(from, to)
        }
        other => other,
    }
}

/// Puts one in the place of the other, which is removed: a directory with all that is in it.
fn replace(part: &Path, target: &Path) -> io::Result<()> {
    let is_directory = |path: &Path| path.symlink_metadata().is_ok_and(|about| about.is_dir());
    if !is_directory(part) && !is_directory(target) {
        return std::fs::rename(part, target);
    }
    let remove = |path: &Path| {
        if is_directory(path) {
            std::fs::remove_dir_all(path)
        } else {
            std::fs::remove_file(path)
        }
    };
    match rename(part, target, RenameFlags::EXCHANGE) {
        Ok(()) => remove(part),
        Err(Errno::INVAL | Errno::NOSYS) => {
            remove(target)?;
            std::fs::rename(part, target)
        }
        Err(errno) => Err(errno.into()),
    }
}

fn open_file(path: &Path, len: u64) -> io::Result<File> {
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.set_len(len)?;
    Ok(file)
}

fn open_directory(torrent: &Arc<Metainfo>, path: &Path) -> Result<Files> {
    let made = match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    made.or_kind_with(Kind::Storage, || cannot("make", path))?;
    let files = Files::open(torrent, path)?;
    let stranger = files.stranger(path);
    if let Some(name) = stranger.or_kind_with(Kind::Storage, || cannot("read", path))? {
        let text = format!(
            "{} has {}, which is not of this torrent",
            path.display(),
            show(&name)
        );
        return Err(Error::text(Kind::Precondition, text)
            .hint("it is of an earlier attempt at another torrent: remove it"));
    }
    files.make()
}

fn cannot(what: &str, path: &Path) -> String {
    format!("Cannot {what} {}", path.display())
}

/// Whether what is missing will fit.
fn check_space(part: &Path, total: u64, have: &Bitmap) -> Result {
    let Ok(stat) = rustix::fs::statvfs(part) else {
        return Ok(());
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let share = (have.len() - have.count()) as u64;
    let missing = total / (have.len() as u64).max(1) * share;
    if missing <= free {
        return Ok(());
    }
    let text = format!(
        "{} more are needed for {}, {} are free there",
        format_bytes(missing),
        part.display(),
        format_bytes(free)
    );
    Err(Error::text(Kind::Storage, text).hint("make room, or fetch to another disk"))
}
