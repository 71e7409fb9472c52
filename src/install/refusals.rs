//! Metadata that the system would not set: an error, or a list that ends in the report.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Error, Result};
use crate::tree::{Aspect, Change, Refused, show};

/// One kind of metadata that the system refused to set, and on how many files.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What.
    pub aspect: Aspect,
    /// On how many entries.
    pub count: u64,
    /// The first of them.
    pub first: Box<[u8]>,
    /// What the system said about it.
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, others) = (show(&self.first), self.count - 1);
        write!(f, "The {} of {first} was not restored", self.aspect)?;
        if others > 0 {
            write!(f, ", nor that of {others} others")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Collects refusals of one job; by kind, so their number stays small.
#[derive(Debug)]
pub(super) struct Refusals {
    strict: bool,
    seen: Mutex<BTreeMap<Aspect, Refusal>>,
}

impl Refusals {
    pub(super) fn new(strict: bool) -> Self {
        Self {
            strict,
            seen: Mutex::new(BTreeMap::new()),
        }
    }

    /// Takes what was refused on one entry; its path is asked for only if needed.
    pub(super) fn take(&self, refused: Vec<Refused>, path: impl Fn() -> Box<[u8]>) -> Result {
        for Refused { aspect, errno } in refused {
            if self.strict {
                return Err(Error::Refused {
                    aspect,
                    path: path(),
                    source: errno.into(),
                });
            }
            let mut seen = self.seen();
            let refusal = seen.entry(aspect.clone()).or_insert_with(|| Refusal {
                aspect,
                count: 0,
                first: path(),
                reason: std::io::Error::from(errno).to_string(),
            });
            refusal.count += 1;
        }
        Ok(())
    }

    /// Whether a difference is only what was refused and reported.
    pub(super) fn excuse(&self, change: &Change) -> bool {
        let seen = self.seen();
        match change {
            // Without its owner a file does not get setuid and setgid.
            Change::Mode(was, is) => {
                seen.contains_key(&Aspect::Mode)
                    || seen.contains_key(&Aspect::Owner) && was & 0o1777 == is & 0o1777
            }
            Change::Owner(..) => seen.contains_key(&Aspect::Owner),
            Change::Xattr(name) => seen.contains_key(&Aspect::Xattr(name.clone())),
            Change::Removed => seen.contains_key(&Aspect::Device),
            Change::Added
            | Change::Kind
            | Change::Mtime(..)
            | Change::Target
            | Change::Device
            | Change::Size(..)
            | Change::Content
            | Change::Link => false,
        }
    }

    pub(super) fn list(&self) -> Vec<Refusal> {
        self.seen().values().cloned().collect()
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<Aspect, Refusal>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
