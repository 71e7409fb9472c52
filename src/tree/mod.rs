//! File trees of this machine: read and created always beneath a root, by directory descriptors.
//!
//! Nothing here ever joins a path and hands it to the kernel: a directory is opened from its
//! parent's descriptor, one name at a time, with symbolic links refused, and everything in it is
//! addressed by (descriptor, name). So trees deeper than `PATH_MAX` work, and neither a link in the
//! tree nor a hostile manifest leads out of it.
//!
//! The room knows what a tree *is* ([`Node`]), how to make one ([`Place`]), and how two of them
//! differ ([`compare`]). It owns one thing: a bounded cache of directory descriptors per tree.
#![forbid(unsafe_code)]

mod compare;
mod content;
mod dirs;
mod error;
mod ranges;
mod recent;
mod scan;
mod write;
mod xattr;

pub use compare::{Change, Difference, Side, compare};
pub use content::{Content, begin_write_back, forget_cache};
pub use dirs::{Directories, Lineage, path_of};
pub use error::{Error, ErrorKind, Result, show};
pub use ranges::data_ranges;
pub use recent::Recent;
pub use scan::{Node, NodeKind, ScanOptions, Tree, first_names};
pub use write::{Aspect, Metadata, Place, Refused, set_metadata};
pub use xattr::Reader as XattrReader;
