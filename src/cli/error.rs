//! How a failure ends the process: a kind that decides the exit code, the chain of causes, a hint.

use std::process::ExitCode;

use crate::{capture, deploy, install};

/// What a command failed with.
#[derive(Debug)]
pub(crate) struct CommandError {
    kind: Kind,
    cause: anyhow::Error,
    hint: Option<String>,
}

/// What went wrong, as far as the exit code tells. The numbers are documented in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(dead_code, reason = "commands that use the others land one by one")]
pub(crate) enum Kind {
    /// A defect of ours.
    Internal = 1,
    /// What was asked for makes no sense.
    Usage = 2,
    /// Some nodes succeeded, others did not.
    Partial = 3,
    /// Data are not what they should be.
    Integrity = 4,
    /// A signature, key or token was refused.
    Trust = 5,
    /// The network, or a time limit.
    Network = 6,
    /// A disk or file.
    Storage = 7,
    /// Something that must be there first is missing.
    Precondition = 8,
    /// Stopped by the user.
    Interrupted = 130,
}

pub(crate) type Result<T = (), E = CommandError> = std::result::Result<T, E>;

impl CommandError {
    /// Builds an error of a kind.
    pub(crate) fn new(kind: Kind, cause: impl Into<anyhow::Error>) -> Self {
        Self {
            kind,
            cause: cause.into(),
            hint: None,
        }
    }

    /// Adds what the user can do next.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Prints what, why and what next, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("flashover: {}", self.cause);
        for cause in self.cause.chain().skip(1) {
            eprintln!("  because: {cause}");
        }
        if let Some(hint) = &self.hint {
            eprintln!("  hint: {hint}");
        }
        ExitCode::from(self.kind as u8)
    }

    /// The same for programs: one JSON object.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let causes: Vec<String> = self.cause.chain().map(ToString::to_string).collect();
        serde_json::json!({
            "v": 1,
            "event": "error",
            "kind": format!("{:?}", self.kind).to_lowercase(),
            "exit_code": self.kind as u8,
            "causes": causes,
            "hint": self.hint,
        })
    }
}

impl From<deploy::Error> for CommandError {
    fn from(error: deploy::Error) -> Self {
        let (kind, cause, hint) = error.into_parts();
        let kind = match kind {
            deploy::Kind::Internal => Kind::Internal,
            deploy::Kind::Usage => Kind::Usage,
            deploy::Kind::Integrity => Kind::Integrity,
            deploy::Kind::Trust => Kind::Trust,
            deploy::Kind::Network => Kind::Network,
            deploy::Kind::Storage => Kind::Storage,
            deploy::Kind::Precondition => Kind::Precondition,
            deploy::Kind::Interrupted => Kind::Interrupted,
        };
        Self { kind, cause, hint }
    }
}

impl From<capture::Error> for CommandError {
    fn from(error: capture::Error) -> Self {
        use capture::Error as E;
        let (kind, hint) = match &error {
            E::NoImage(_) | E::NoBundle(..) => (Kind::Precondition, "see `flashover image list`"),
            E::NoTorrent(..) => (Kind::Precondition, "publish it again"),
            E::Torrent { .. } => (Kind::Integrity, ""),
            E::NotInTorrents { .. } => (
                Kind::Precondition,
                "publish it as an image, which holds everything that a file system does",
            ),
            E::NeverPublished(_) => (Kind::Precondition, "publish it: `flashover image publish`"),
            E::NoKey(_) => (Kind::Precondition, "make one: `flashover key generate`"),
            E::KeyExists(_) => (
                Kind::Precondition,
                "`--force` replaces it; nodes that know the old one must be told the new one",
            ),
            E::Copy(capture::copy::CopyError::Exists(_)) => {
                (Kind::Precondition, "to replace it, say --force")
            }
            E::Ambiguous(_) | E::Locked(_) | E::Unsuitable(_) | E::Unpublishable { .. } => {
                (Kind::Precondition, "")
            }
            E::Changed { .. } => (
                Kind::Integrity,
                "publish again when nobody writes to the image",
            ),
            E::Format { .. } => (Kind::Trust, ""),
            E::Compress(_) => (Kind::Internal, ""),
            E::Read { .. } | E::Store { .. } | E::Tree(_) | E::Copy(_) => (Kind::Storage, ""),
        };
        let error = Self::new(kind, error);
        if hint.is_empty() {
            error
        } else {
            error.hint(hint)
        }
    }
}

impl From<install::Error> for CommandError {
    fn from(error: install::Error) -> Self {
        let kind = match error.kind() {
            install::ErrorKind::Integrity => Kind::Integrity,
            install::ErrorKind::Precondition => Kind::Precondition,
            install::ErrorKind::NoSpace
            | install::ErrorKind::ReadOnly
            | install::ErrorKind::Storage => Kind::Storage,
        };
        use install::Error as E;
        let hint = if matches!(error, E::NotEmpty(_) | E::OtherAttempt(_)) {
            "to remove what is in it first, say --force"
        } else if matches!(error, E::Refused { .. }) {
            "to be warned only, say --lenient"
        } else {
            ""
        };
        let error = Self::new(kind, error);
        if hint.is_empty() {
            error
        } else {
            error.hint(hint)
        }
    }
}

/// Gives an error its kind on the way up.
pub(crate) trait OrKind<T> {
    /// Folds the error into `kind`.
    fn or_kind(self, kind: Kind) -> Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrKind<T> for std::result::Result<T, E> {
    fn or_kind(self, kind: Kind) -> Result<T> {
        self.map_err(|cause| CommandError::new(kind, cause))
    }
}
