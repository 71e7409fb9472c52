//! Reading a restored tree back and comparing it with the manifest.
//!
//! Every entry is looked at anew: what it is, its metadata, its content from the disk; and every
//! directory for names that should not be there. Nothing that writing remembered is trusted.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::directory::DirectorySink;
use super::error::DIFFERENCES_MAX;
use super::{Error, Result, leftovers};
use crate::base::event::Event;
use crate::image::{Entry, EntryKind, Hash};
use crate::tree::{
    Change, Content, Difference, Metadata, Node, NodeKind, Side, XattrReader, compare, data_ranges,
    path_of,
};

/// Compares everything but the metadata of the root, which still holds the marker. Gives the bytes
/// that were hashed.
pub(super) fn all_but_root(sink: &DirectorySink) -> Result<u64> {
    let check = Check::new(sink);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..sink.readers)
            .map(|_| scope.spawn(|| check.small_entries()))
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| match worker.join() {
                Ok(done) => done,
                Err(_) => Err(Error::Thread(std::io::Error::other("it died"))),
            })
    })?;
    check.large_files()?;
    let bytes = check.bytes_done.load(Ordering::Relaxed);
    check.outcome().map(|()| bytes)
}

/// Compares the root itself.
pub(super) fn root(sink: &DirectorySink) -> Result {
    let check = Check::new(sink);
    check.entry_metadata(0, &mut XattrReader::default())?;
    check.outcome()
}

/// Removes attributes that the target directory had before, and the image's root has not.
pub(super) fn remove_foreign_root_xattrs(sink: &DirectorySink) -> Result {
    let wanted = &sink.manifest.entries[0].xattrs;
    let found = sink
        .tree
        .look_at(&sink.manifest.entries[..], 0, &mut XattrReader::default())?;
    for xattr in found.iter().flat_map(|node| &node.xattrs) {
        let is_foreign = wanted.iter().all(|other| other.name != xattr.name);
        if is_foreign && *xattr.name != *b"security.selinux" {
            sink.tree.remove_root_xattr(&xattr.name)?;
        }
    }
    Ok(())
}

/// A comparison under way. Shared by its threads.
struct Check<'a> {
    sink: &'a DirectorySink,
    entries: &'a [Entry],
    /// How many entries lie in each directory.
    child_counts: Vec<u32>,
    next: AtomicU32,
    bytes_done: AtomicU64,
    bytes_total: u64,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    differences: Vec<Difference>,
    count: usize,
    large: Vec<u32>,
}

/// Files from this size on are hashed by all threads together.
const LARGE_BYTES: u64 = 32 << 20;
/// How many entries a thread takes at once.
const ENTRIES_AT_ONCE: u32 = 64;

impl<'a> Check<'a> {
    fn new(sink: &'a DirectorySink) -> Self {
        let entries = &sink.manifest.entries[..];
        let mut child_counts = vec![0; entries.len()];
        for entry in &entries[1..] {
            child_counts[entry.parent.as_usize()] += 1;
        }
        Self {
            sink,
            entries,
            child_counts,
            next: AtomicU32::new(0),
            bytes_done: AtomicU64::new(0),
            bytes_total: sink.manifest.logical_size(),
            found: Mutex::default(),
        }
    }

    /// Takes entries until none are left; large files are put aside.
    fn small_entries(&self) -> Result {
        let (mut xattrs, mut buffer) = (XattrReader::default(), Vec::new());
        let count = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        loop {
            let first = self.next.fetch_add(ENTRIES_AT_ONCE, Ordering::Relaxed);
            if first >= count {
                return Ok(());
            }
            for index in first..count.min(first.saturating_add(ENTRIES_AT_ONCE)) {
                if index != 0 && !self.entry_metadata(index, &mut xattrs)? {
                    continue;
                }
                match &self.entries[index as usize].kind {
                    EntryKind::Directory => self.names(index)?,
                    EntryKind::File { size, .. } if *size >= LARGE_BYTES => {
                        self.found().large.push(index);
                    }
                    EntryKind::File { hash, .. } => {
                        self.content(index, *hash, |content| content.hash(&mut buffer))?;
                    }
                    EntryKind::Hardlink { to } => self.link(index, to.0)?,
                    EntryKind::Symlink { .. }
                    | EntryKind::CharDevice { .. }
                    | EntryKind::BlockDevice { .. }
                    | EntryKind::Fifo
                    | EntryKind::Socket => {}
                }
            }
        }
    }

    fn large_files(&self) -> Result {
        let large = std::mem::take(&mut self.found().large);
        let progress = |bytes| self.progress(bytes);
        for index in large {
            if let EntryKind::File { hash, .. } = self.entries[index as usize].kind {
                self.content(index, hash, |content| {
                    content.hash_in_parallel(self.sink.readers, &progress)
                })?;
            }
        }
        Ok(())
    }

    /// Compares kind and metadata. Gives whether it is worth to look further.
    fn entry_metadata(&self, index: u32, xattrs: &mut XattrReader) -> Result<bool> {
        let entry = &self.entries[index as usize];
        let kind = NodeKind::of(self.entries, index);
        let Some(node) = self.sink.tree.look_at(self.entries, index, xattrs)? else {
            let is_device = matches!(
                kind,
                NodeKind::CharDevice { .. } | NodeKind::BlockDevice { .. }
            );
            if !(is_device && self.sink.refusals.excuse(&Change::Removed)) {
                self.report(index, Change::Removed);
            }
            return Ok(false);
        };
        let should = Side {
            kind: &kind,
            metadata: Metadata::from(entry),
        };
        let changes = compare(should, side(&node));
        let is_same_kind = !changes
            .iter()
            .any(|change| matches!(change, Change::Kind | Change::Size(..)));
        for change in changes {
            if !self.sink.refusals.excuse(&change) {
                self.report(index, change);
            }
        }
        Ok(is_same_kind)
    }

    fn content(
        &self,
        index: u32,
        expected: Hash,
        hash: impl FnOnce(&Content<'_>) -> std::io::Result<Hash>,
    ) -> Result {
        let EntryKind::File { size, data, .. } = &self.entries[index as usize].kind else {
            return Ok(());
        };
        let file = self.sink.tree.open_file(self.entries, index)?;
        let fail = |error| self.sink.error("read back", index, error);
        let whole = 0..*size;
        let found;
        let data = match data {
            // Where the disk has data, not where it should have: other bytes may have got in.
            Some(_) => {
                found = data_ranges(&file, *size).map_err(fail)?;
                &found
            }
            None => std::slice::from_ref(&whole),
        };
        let content = Content {
            file: &file,
            size: *size,
            data,
        };
        content.forget_cache();
        if hash(&content).map_err(fail)? != expected {
            self.report(index, Change::Content);
        }
        if *size < LARGE_BYTES {
            self.progress(*size);
        }
        Ok(())
    }

    /// Looks for names that the manifest does not have.
    fn names(&self, index: u32) -> Result {
        let mut names = self.sink.tree.names_in(self.entries, index)?;
        // All that should be there is looked for by name; so equal numbers mean equal names.
        if names.len() == self.child_counts[index as usize] as usize {
            return Ok(());
        }
        let children = self.entries[1..]
            .iter()
            .filter(|entry| entry.parent.0 == index);
        let known: HashSet<&[u8]> = children.map(|entry| &*entry.name).collect();
        names.retain(|name| !known.contains(&**name));
        for name in names
            .iter()
            .filter(|name| index != 0 || !leftovers::is_ours(name))
        {
            let parent = path_of(self.entries, index);
            let path = if index == 0 {
                name.to_vec()
            } else {
                [&parent, &name[..]].join(&b'/')
            };
            self.report_at(path.into(), Change::Added);
        }
        Ok(())
    }

    fn link(&self, index: u32, to: u32) -> Result {
        let identity = |index| self.sink.tree.identity(self.entries, index);
        if identity(index)? != identity(to)? {
            self.report(index, Change::Link);
        }
        Ok(())
    }

    fn report(&self, index: u32, change: Change) {
        self.report_at(path_of(self.entries, index), change);
    }

    fn report_at(&self, path: Box<[u8]>, change: Change) {
        let mut found = self.found();
        found.count += 1;
        if found.differences.len() < DIFFERENCES_MAX {
            found.differences.push(Difference { path, change });
        }
    }

    /// Counts bytes and tells about every 64 MiB.
    fn progress(&self, bytes: u64) {
        let before = self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
        let step = |bytes: u64| bytes >> 26;
        if step(before) != step(before + bytes) {
            self.sink.events.raise(Event::Progress {
                bytes_done: (before + bytes).min(self.bytes_total),
                bytes_total: self.bytes_total,
            });
        }
    }

    fn outcome(self) -> Result {
        let found = self
            .found
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        match found.differences.first() {
            None => Ok(()),
            Some(first) => Err(Error::Differs {
                count: found.count,
                first: first.clone(),
                all: found.differences,
            }),
        }
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn side(node: &Node) -> Side<'_> {
    Side {
        kind: &node.kind,
        metadata: Metadata::from(node),
    }
}
