//! Why bytes are not what they claim to be.

use crate::base::bytes::BadBytes;

/// What the `image` room fails with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes do not start like a manifest.
    #[error("This is no flashover manifest")]
    NoManifest,
    /// A version that this program does not know.
    #[error("Manifest format {0} is not known to this version of flashover")]
    Version(u8),
    /// The bytes end early or hold a number or length out of range.
    #[error("The manifest does not parse")]
    Bytes(#[from] BadBytes),
    /// The parts parse but contradict each other.
    #[error("The manifest breaks a rule: {0}")]
    Rule(&'static str),
    /// The manifest was signed by somebody else.
    #[error("The manifest was signed with key {found}, expected was {expected}")]
    OtherKey {
        /// Fingerprint of the key that signed.
        found: String,
        /// Fingerprint of the key that should have signed.
        expected: String,
    },
    /// The signature does not fit the bytes.
    #[error("The manifest's signature does not fit its content")]
    Signature,
    /// A text that is no key.
    #[error("This is no flashover key file")]
    Key,
}
