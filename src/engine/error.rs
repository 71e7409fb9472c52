//! What can go wrong while a driver is set up or runs.

use std::fmt;
use std::io;

/// A failure of the engine.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<io::Error>,
}

/// The part of the engine that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No network interface fits.
    Interface,
    /// A socket could not be opened or no longer receives.
    Socket,
    /// Memory could not be had.
    Memory,
    /// The ring could not be set up or entered.
    Ring,
    /// The machine's list of sockets or files is too long.
    Setup,
    /// The thread could not wait or be woken.
    Wait,
}

impl Error {
    pub(super) fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
        }
    }

    pub(super) fn os(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self {
            kind,
            context: context.into(),
            source: Some(source.into()),
        }
    }

    /// The part of the engine that failed.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// The engine's results.
pub type Result<T> = std::result::Result<T, Error>;
