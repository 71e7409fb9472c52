//! Why an image could not be made, published or read.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::Serial;
use crate::image::{self, ImageName};
use crate::swarm::metainfo;
use crate::tree;

/// A result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the `capture` room fails with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such image.
    #[error("There is no image {0}")]
    NoImage(ImageName),
    /// There is a tree and a disk of that name.
    #[error("Image {0} is there twice, as a tree and as a disk")]
    Ambiguous(ImageName),
    /// The image has no such publication.
    #[error("Image {0} has no publication {1}")]
    NoBundle(ImageName, Serial),
    /// The publication is of a version before torrents.
    #[error("Publication {1} of image {0} has no torrent")]
    NoTorrent(ImageName, Serial),
    /// The image was never published.
    #[error("Image {0} was never published")]
    NeverPublished(ImageName),
    /// There is no key yet.
    #[error("There is no signing key in {}", .0.display())]
    NoKey(PathBuf),
    /// There is a key already.
    #[error("There is a signing key in {} already", .0.display())]
    KeyExists(PathBuf),
    /// Another process publishes into the same store.
    #[error("Another flashover publishes into {} right now", .0.display())]
    Locked(PathBuf),
    /// A file was written to, cut or replaced while it was read.
    #[error("{path} changed while it was read")]
    Changed {
        /// Its path in the image.
        path: String,
    },
    /// Content could not be read.
    #[error("Cannot read {path}")]
    Read {
        /// Its path in the image.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The image holds nothing that can be published.
    #[error("{0}")]
    Unsuitable(&'static str),
    /// The image holds something that no manifest can say.
    #[error("Image {name} cannot be published")]
    Unpublishable {
        /// The image.
        name: ImageName,
        /// The rule that it breaks.
        #[source]
        source: image::Error,
    },
    /// The compressor failed.
    #[error("Cannot compress")]
    Compress(#[source] io::Error),
    /// Something in the store could not be used.
    #[error("Cannot {action} {}", path.display())]
    Store {
        /// What was tried, as `read` or `write`.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A manifest or key is not what it should be.
    #[error("{} is not valid", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: image::Error,
    },
    /// A torrent is not what it should be, or cannot be made.
    #[error("{} is no sound torrent", path.display())]
    Torrent {
        /// The torrent, or what it was to be made of.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: metainfo::Error,
    },
    /// A file that a torrent cannot say.
    #[error("A torrent cannot hold {path}: {why}")]
    NotInTorrents {
        /// Its path in the tree.
        path: String,
        /// What it is.
        why: &'static str,
    },
    /// The tree could not be read.
    #[error("Cannot read the image's tree")]
    Tree(#[from] tree::Error),
    /// An image could not be copied or removed.
    #[error(transparent)]
    Copy(#[from] super::copy::CopyError),
}

impl Error {
    /// Gives an I/O error in the store its place.
    pub(crate) fn store(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Store {
            action,
            path,
            source,
        }
    }
}
