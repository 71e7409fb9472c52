//! A plain file as a bundle: `cast` sends it as it is, described by a manifest of one entry.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::error::{Error, Kind, OrKind as _, Result};
use super::store;
use crate::base::Serial;
use crate::base::event::Events;
use crate::image::geometry::{PIECE_LOG2_DEFAULT, PIECE_LOG2_MAX};
use crate::image::hash::merge;
use crate::image::{
    Entry, EntryIndex, EntryKind, Geometry, ImageName, Kind as BundleKind, Manifest, Mtime, Owner,
};

/// Pieces are made larger from this count on, so that a manifest stays small: 64 GiB of 1 MiB.
const PIECES_COMFORTABLE: u64 = 1 << 16;
/// Bytes copied at a time from a pipe.
const SPOOL_STEP: usize = 1 << 20;

/// Hashes an open file by all cores and describes it. The serial is always 1.
///
/// # Errors
/// If the file is empty or cannot be read.
pub(crate) fn describe(file: &File, name: ImageName, events: &Events) -> Result<Manifest> {
    let metadata = file.metadata().or_kind(Kind::Storage)?;
    let size = size_of(file).or_kind(Kind::Storage)?;
    let mut log2 = PIECE_LOG2_DEFAULT;
    while log2 < PIECE_LOG2_MAX && size >> log2 > PIECES_COMFORTABLE {
        log2 += 1;
    }
    let geometry = Geometry::new(size, log2)
        .ok_or_else(|| Error::text(Kind::Usage, "An empty file cannot be cast"))?;
    let pieces = store::hash_pieces(file, geometry, events).or_kind(Kind::Storage)?;
    let root = merge(&pieces);
    let entry = Entry {
        parent: EntryIndex(0),
        name: Box::default(),
        kind: EntryKind::File {
            size,
            hash: root,
            data: None,
        },
        mode: u16::try_from(metadata.mode() & 0o777).unwrap_or(0o600),
        owner: Owner::default(),
        mtime: Mtime::default(),
        xattrs: Vec::new(),
    };
    Ok(Manifest {
        name,
        serial: Serial(1),
        kind: BundleKind::File,
        geometry,
        root,
        pieces,
        frames: Vec::new(),
        entries: vec![entry],
        extents: Vec::new(),
    })
}

/// The size of a file or block device.
fn size_of(file: &File) -> io::Result<u64> {
    rustix::fs::seek(file, rustix::fs::SeekFrom::End(0)).map_err(io::Error::from)
}

/// Opens what is to be cast; `-` is standard input, copied to a file without a name in `work`.
///
/// # Errors
/// If it cannot be read, or is no file or block device.
pub(crate) fn open(path: &Path, work: &Path) -> Result<File> {
    if path == Path::new("-") {
        return spool(io::stdin().lock(), work).or_kind_with(Kind::Storage, || {
            format!("Cannot copy standard input to {}", work.display())
        });
    }
    let file = File::open(path)
        .or_kind_with(Kind::Storage, || format!("Cannot open {}", path.display()))?;
    let kind = file.metadata().or_kind(Kind::Storage)?.file_type();
    let fits = {
        use std::os::unix::fs::FileTypeExt as _;
        kind.is_file() || kind.is_block_device()
    };
    if fits {
        Ok(file)
    } else {
        let text = format!("{} is neither a file nor a block device", path.display());
        Err(Error::text(Kind::Usage, text)
            .hint("a tree travels as an image: flashover image import"))
    }
}

fn spool(mut from: impl Read, work: &Path) -> io::Result<File> {
    let flags =
        rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let mut file = File::from(rustix::fs::open(work, flags, mode)?);
    let mut step = vec![0; SPOOL_STEP];
    loop {
        match from.read(&mut step) {
            Ok(0) => return Ok(file),
            Ok(len) => file.write_all(&step[..len])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Hash;

    #[test]
    fn what_comes_from_a_pipe_is_described_as_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = vec![5; 3_000_000];
        let file = spool(&bytes[..], dir.path()).unwrap();
        let manifest = describe(&file, "x".parse().unwrap(), &Events::ignore()).unwrap();
        assert_eq!(manifest.root, Hash::of(&bytes));
        assert_eq!(manifest.geometry.piece_count(), 3);
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_not_cast() {
        let file = tempfile::tempfile().unwrap();
        let error = describe(&file, "x".parse().unwrap(), &Events::ignore()).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
    }
}
