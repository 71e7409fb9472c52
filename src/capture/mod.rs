//! A tree or disk becomes an image, an image becomes a bundle.
//!
//! The room owns the store ([`Store`]): where images, bundles and keys are kept, and who may
//! publish.
#![forbid(unsafe_code)]

pub mod copy;
mod cutter;
pub mod diff;
mod error;
pub mod import;
mod pack;
pub mod publish;
mod source;
mod store;
pub mod torrent;
pub mod verify;
mod writer;

pub use error::{Error, Result};
pub use publish::{Options, Published, Survey, publish, survey};
pub use store::{BUNDLE_SUFFIX, Image, ImageKind, Lock, Store, TORRENT_SUFFIX};

// What the signatures here use of the `tree` room, for `cli`, which may not reach beneath.
pub use crate::tree::{Change, ScanOptions, show};
