//! What went wrong with which path.

use std::io;

use rustix::io::Errno;

/// A tree operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("Cannot {action} {}", show(.path))]
pub struct Error {
    kind: ErrorKind,
    action: &'static str,
    path: Box<[u8]>,
    #[source]
    source: io::Error,
}

/// The causes that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The file system is full, or the user's share of it.
    NoSpace,
    /// The file system is read-only.
    ReadOnly,
    /// The process lacks the right.
    Denied,
    /// Something is there already.
    Exists,
    /// It is not there, or no longer, or something else has its place.
    Missing,
    /// The name, or something on the way, would lead out of the tree.
    Escape,
    /// The file system cannot do it.
    NotSupported,
    /// All other causes.
    Other,
}

/// What operations in a tree give.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

impl Error {
    /// Builds the error of an `action` ("create the file") on a path beneath the root.
    pub fn new(
        action: &'static str,
        path: impl Into<Box<[u8]>>,
        source: impl Into<io::Error>,
    ) -> Self {
        let source = source.into();
        Self {
            kind: kind_of(&source),
            action,
            path: path.into(),
            source,
        }
    }

    /// The cause.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The path beneath the root.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        &self.path
    }
}

fn kind_of(source: &io::Error) -> ErrorKind {
    match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => ErrorKind::NoSpace,
        Some(Errno::ROFS) => ErrorKind::ReadOnly,
        Some(Errno::PERM | Errno::ACCESS) => ErrorKind::Denied,
        Some(Errno::EXIST | Errno::NOTEMPTY) => ErrorKind::Exists,
        Some(Errno::NOENT | Errno::NOTDIR) => ErrorKind::Missing,
        Some(Errno::XDEV | Errno::LOOP) => ErrorKind::Escape,
        Some(Errno::OPNOTSUPP | Errno::NOSYS) => ErrorKind::NotSupported,
        None if source.kind() == io::ErrorKind::NotFound => ErrorKind::Missing,
        _ => ErrorKind::Other,
    }
}

/// Writes a path for people: UTF-8 as it is, control characters and other bytes as `\xNN`.
#[must_use]
pub fn show(path: &[u8]) -> String {
    if path.is_empty() {
        return "/".to_owned();
    }
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '\\' {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_on_one_line_whatever_they_hold() {
        assert_eq!(show(b""), "/");
        assert_eq!(show("etc/é".as_bytes()), "etc/é");
        assert_eq!(show(b"a\nb\xff\\"), "a\\nb\\xff\\\\");
    }

    #[test]
    fn causes_are_told_apart() {
        let kind = |errno: Errno| Error::new("write", *b"x", errno).kind();
        assert_eq!(kind(Errno::NOSPC), ErrorKind::NoSpace);
        assert_eq!(kind(Errno::LOOP), ErrorKind::Escape);
        assert_eq!(kind(Errno::IO), ErrorKind::Other);
    }
}
