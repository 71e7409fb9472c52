//! What makes one thing in a tree differ from another, content left aside.

use std::fmt;

use super::write::Metadata;
use super::{NodeKind, show};
use crate::image::{Entry, EntryKind, Mtime, Owner};

/// A path at which two trees differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path beneath the roots.
    pub path: Box<[u8]>,
    /// How they differ there.
    pub change: Change,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", show(&self.path), self.change)
    }
}

/// One way in which what is there differs from what should be, or from what was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is not there.
    Removed,
    /// It is there, but should not be.
    Added,
    /// Another kind of thing.
    Kind,
    /// Other permissions.
    Mode(u16, u16),
    /// Another user or group.
    Owner(Owner, Owner),
    /// Another time of modification.
    Mtime(Mtime, Mtime),
    /// An extended attribute that is missing, new, or has another value.
    Xattr(Box<[u8]>),
    /// A symbolic link to somewhere else.
    Target,
    /// Another device.
    Device,
    /// A file of another length.
    Size(u64, u64),
    /// A file with other bytes.
    Content,
    /// Other names belong to the same file.
    Link,
}

impl Change {
    /// The change in one word, for programs.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Added => "added",
            Self::Kind => "kind",
            Self::Mode(..) => "mode",
            Self::Owner(..) => "owner",
            Self::Mtime(..) => "mtime",
            Self::Xattr(_) => "xattr",
            Self::Target => "target",
            Self::Device => "device",
            Self::Size(..) => "size",
            Self::Content => "content",
            Self::Link => "link",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mode(was, is) => write!(f, "mode {was:04o} -> {is:04o}"),
            Self::Owner(was, is) => {
                write!(f, "owner {}:{} -> {}:{}", was.uid, was.gid, is.uid, is.gid)
            }
            Self::Mtime(was, is) => write!(
                f,
                "mtime {}.{:09} -> {}.{:09}",
                was.secs, was.nanos, is.secs, is.nanos
            ),
            Self::Xattr(name) => write!(f, "xattr {}", show(name)),
            Self::Size(was, is) => write!(f, "size {was} -> {is}"),
            Self::Removed
            | Self::Added
            | Self::Kind
            | Self::Target
            | Self::Device
            | Self::Content
            | Self::Link => f.write_str(self.word()),
        }
    }
}

/// One side of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// What it is.
    pub kind: &'a NodeKind,
    /// What was set on it.
    pub metadata: Metadata<'a>,
}

/// Lists all changes from `was` to `is`; for another kind, that alone.
///
/// The mode of links is no concern, the kernel ignores it. A security label that only `is` has was
/// given by this machine's policy and does not count.
#[must_use]
pub fn compare(was: Side<'_>, is: Side<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    match compare_kinds(was.kind, is.kind) {
        Some(Change::Kind) => return vec![Change::Kind],
        change => changes.extend(change),
    }
    let (before, after) = (was.metadata, is.metadata);
    if before.mode != after.mode && !matches!(was.kind, NodeKind::Symlink { .. }) {
        changes.push(Change::Mode(before.mode, after.mode));
    }
    if before.owner != after.owner {
        changes.push(Change::Owner(before.owner, after.owner));
    }
    if before.mtime != after.mtime {
        changes.push(Change::Mtime(before.mtime, after.mtime));
    }
    if before.xattrs != after.xattrs {
        compare_xattrs(before, after, &mut changes);
    }
    changes
}

fn compare_kinds(was: &NodeKind, is: &NodeKind) -> Option<Change> {
    let change = match (was, is) {
        (NodeKind::File { size: was }, NodeKind::File { size: is }) => Change::Size(*was, *is),
        (NodeKind::Symlink { .. }, NodeKind::Symlink { .. }) => Change::Target,
        (NodeKind::CharDevice { .. }, NodeKind::CharDevice { .. })
        | (NodeKind::BlockDevice { .. }, NodeKind::BlockDevice { .. }) => Change::Device,
        _ => Change::Kind,
    };
    (was != is).then_some(change)
}

fn compare_xattrs(before: Metadata<'_>, after: Metadata<'_>, changes: &mut Vec<Change>) {
    for xattr in before
        .xattrs
        .iter()
        .filter(|xattr| !after.xattrs.contains(xattr))
    {
        changes.push(Change::Xattr(xattr.name.clone()));
    }
    for xattr in after.xattrs {
        let is_new = before.xattrs.iter().all(|other| other.name != xattr.name);
        if is_new && *xattr.name != *b"security.selinux" {
            changes.push(Change::Xattr(xattr.name.clone()));
        }
    }
}

impl NodeKind {
    /// What an entry of a manifest is, as a scan would find it.
    #[must_use]
    pub fn of(entries: &[Entry], index: u32) -> Self {
        match &entries[index as usize].kind {
            EntryKind::Directory => Self::Directory,
            EntryKind::File { size, .. } => Self::File { size: *size },
            EntryKind::Symlink { target } => Self::Symlink {
                target: target.clone(),
            },
            EntryKind::CharDevice { major, minor } => Self::CharDevice {
                major: *major,
                minor: *minor,
            },
            EntryKind::BlockDevice { major, minor } => Self::BlockDevice {
                major: *major,
                minor: *minor,
            },
            EntryKind::Fifo => Self::Fifo,
            EntryKind::Socket => Self::Socket,
            // No link leads to a link, so this ends at once.
            EntryKind::Hardlink { to } => Self::of(entries, to.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Xattr;

    fn metadata(mode: u16, xattrs: &[Xattr]) -> Metadata<'_> {
        Metadata {
            owner: Owner::default(),
            mode,
            mtime: Mtime::default(),
            xattrs,
        }
    }

    #[test]
    fn every_changed_part_is_named() {
        let xattr = |name: &[u8], value: &[u8]| Xattr {
            name: name.into(),
            value: value.into(),
        };
        let before = [xattr(b"user.a", b"1"), xattr(b"user.b", b"1")];
        let after = [xattr(b"security.selinux", b"x"), xattr(b"user.b", b"2")];
        let (long, short) = (NodeKind::File { size: 9 }, NodeKind::File { size: 1 });
        let was = Side {
            kind: &long,
            metadata: metadata(0o644, &before),
        };
        let is = Side {
            kind: &short,
            metadata: metadata(0o600, &after),
        };
        let words: Vec<String> = compare(was, is).iter().map(ToString::to_string).collect();
        let expected = [
            "size 9 -> 1",
            "mode 0644 -> 0600",
            "xattr user.a",
            "xattr user.b",
        ];
        assert_eq!(words, expected);
        assert_eq!(compare(was, was), []);
        let fifo = Side {
            kind: &NodeKind::Fifo,
            ..is
        };
        assert_eq!(compare(was, fifo), [Change::Kind]);
    }
}
