//! Why a bundle could not be unpacked.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use crate::tree::{self, Difference};

/// What unpacking fails with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The manifest breaks a rule that every decoded manifest keeps.
    #[error("The manifest cannot be trusted")]
    Manifest(#[source] crate::image::Error),
    /// A tree for a device, or the other way round.
    #[error("{0}")]
    WrongTarget(&'static str),
    /// The directory holds something already.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// The directory holds an interrupted attempt to unpack something else.
    #[error("{} holds an interrupted attempt to unpack another bundle", .0.display())]
    OtherAttempt(PathBuf),
    /// The device is mounted, or part of something that is.
    #[error("{} is in use: mounted, or part of a RAID, LVM or the like", .0.display())]
    InUse(PathBuf),
    /// The device is too small.
    #[error("{} has {has} bytes, the image needs {needs}", .path.display())]
    TooSmall {
        /// The device.
        path: PathBuf,
        /// Its size in bytes.
        has: u64,
        /// The image's size in bytes.
        needs: u64,
    },
    /// The target, or the marker in it, cannot be worked with.
    #[error("Cannot {action} {}", .path.display())]
    Target {
        /// What was tried.
        action: &'static str,
        /// The target, or something in it.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something in the tree cannot be worked with.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// The bytes of a frame cannot be read from the source.
    #[error("Cannot read frame {frame} of the bundle")]
    Source {
        /// The frame's index.
        frame: u32,
        /// Why not.
        source: io::Error,
    },
    /// A frame does not unpack to what the manifest says.
    #[error(
        "Frame {frame} of the bundle is damaged (pieces {} to {})",
        .pieces.start, .pieces.end - 1
    )]
    Damaged {
        /// The frame's index.
        frame: u32,
        /// The pieces that hold it.
        pieces: Range<u32>,
        /// What zstd says.
        source: io::Error,
    },
    /// The job was told to finish before all pieces were there, or a worker died.
    #[error("{0} frames of the bundle were not unpacked")]
    Incomplete(usize),
    /// The system refused metadata, and that was not allowed.
    #[error("Cannot restore the {aspect} of {}", tree::show(.path))]
    Refused {
        /// What was refused.
        aspect: tree::Aspect,
        /// Of what.
        path: Box<[u8]>,
        /// Why.
        source: io::Error,
    },
    /// What is in the target is not what the manifest says, although writing it went well.
    #[error("{count} differences were found when reading back, the first: {first}")]
    Differs {
        /// How many.
        count: usize,
        /// The first of them.
        first: Difference,
        /// The first thousand of them.
        all: Vec<Difference>,
    },
    /// A thread could not be started.
    #[error("Cannot start a thread")]
    Thread(#[source] io::Error),
}

/// How many differences an error lists.
pub(super) const DIFFERENCES_MAX: usize = 1000;

/// What unpacking gives.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// The causes that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The target is full.
    NoSpace,
    /// The target is read-only.
    ReadOnly,
    /// The bundle or manifest is not what it should be.
    Integrity,
    /// The target is not fit: in use, not empty, too small, of the wrong kind.
    Precondition,
    /// Any other failure of the disk or the system.
    Storage,
}

impl Error {
    /// The cause, as far as it decides what to do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Manifest(_) | Self::Damaged { .. } | Self::Differs { .. } => ErrorKind::Integrity,
            Self::WrongTarget(_)
            | Self::NotEmpty(_)
            | Self::OtherAttempt(_)
            | Self::InUse(_)
            | Self::TooSmall { .. } => ErrorKind::Precondition,
            Self::Target { source, .. } => storage_kind(source),
            Self::Tree(error) => match error.kind() {
                tree::ErrorKind::NoSpace => ErrorKind::NoSpace,
                tree::ErrorKind::ReadOnly => ErrorKind::ReadOnly,
                tree::ErrorKind::Denied
                | tree::ErrorKind::Exists
                | tree::ErrorKind::Missing
                | tree::ErrorKind::Escape
                | tree::ErrorKind::NotSupported
                | tree::ErrorKind::Other => ErrorKind::Storage,
            },
            Self::Source { .. } | Self::Incomplete(_) | Self::Refused { .. } | Self::Thread(_) => {
                ErrorKind::Storage
            }
        }
    }
}

/// What an error of the target's storage means for the user.
fn storage_kind(error: &io::Error) -> ErrorKind {
    let kind = error.kind();
    if matches!(
        kind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    ) {
        ErrorKind::NoSpace
    } else if kind == io::ErrorKind::ReadOnlyFilesystem {
        ErrorKind::ReadOnly
    } else {
        ErrorKind::Storage
    }
}
