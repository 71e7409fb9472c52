//! Why a job ended without success.

/// A failed job: its kind decides the exit code, the chain of causes says what and why.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    cause: anyhow::Error,
    hint: Option<String>,
}

/// What went wrong, as far as callers act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A defect of ours.
    Internal,
    /// What was asked for makes no sense.
    Usage,
    /// Data are not what they should be.
    Integrity,
    /// A signature, key or token was refused.
    Trust,
    /// The network, or a time limit.
    Network,
    /// A disk or file.
    Storage,
    /// Something that must be there first is missing.
    Precondition,
    /// Stopped by the user.
    Interrupted,
}

/// The result of a step of a job.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

impl Error {
    /// Builds an error of a kind.
    pub fn new(kind: Kind, cause: impl Into<anyhow::Error>) -> Self {
        Self {
            kind,
            cause: cause.into(),
            hint: None,
        }
    }

    /// Builds an error from a text: capital first, no full stop.
    pub fn text(kind: Kind, text: impl Into<String>) -> Self {
        Self::new(kind, anyhow::Error::msg(text.into()))
    }

    /// Adds what the user can do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Takes it apart: kind, chain of causes, hint.
    #[must_use]
    pub fn into_parts(self) -> (Kind, anyhow::Error, Option<String>) {
        (self.kind, self.cause, self.hint)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.cause)
    }
}

/// Gives an error its kind on the way up, and says what was being done.
pub(crate) trait OrKind<T> {
    /// Folds the error into `kind`.
    fn or_kind(self, kind: Kind) -> Result<T>;
    /// Folds the error into `kind`, behind a sentence that says what failed.
    fn or_kind_with(self, kind: Kind, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrKind<T> for std::result::Result<T, E> {
    fn or_kind(self, kind: Kind) -> Result<T> {
        self.map_err(|cause| Error::new(kind, cause))
    }

    fn or_kind_with(self, kind: Kind, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::new(kind, cause.into().context(what())))
    }
}
