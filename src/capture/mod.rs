//! A tree or disk becomes an image, an image becomes a bundle.
//!
//! The room owns the store ([`Store`]): where images, bundles and keys are kept, and who may
//! publish.
#![forbid(unsafe_code)]

pub mod copy;
pub mod diff;
mod error;
pub mod import;
mod pack;
pub mod publish;
mod source;
mod store;
pub mod verify;
mod writer;

pub use error::{Error, Result};
pub use publish::{Options, Published, Survey, publish, survey};
pub use store::{Image, ImageKind, Lock, Store};
