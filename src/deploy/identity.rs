//! The head's identity: one ed25519 key that seals manifests, ends TLS, and signs announcements.

use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};

use super::error::{Error, Kind, Result};
use super::token::Fingerprint;
use crate::capture::{self, Store};
use crate::image::{PublicKey, SigningKey};

/// What is signed for an announcement starts with these bytes, so that the signature fits nothing
/// else: a manifest's signature is over a hash, and TLS signs under 64 spaces.
const ANNOUNCEMENT_CONTEXT: &[u8] = b"flashover announcement 1\0";

/// See the module.
pub(crate) struct Identity {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl Identity {
    /// Takes the seed of the key.
    ///
    /// # Errors
    /// If the seed makes no key, which does not happen.
    pub(crate) fn from_seed(seed: [u8; 32]) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
            .map_err(|_| Error::text(Kind::Internal, "The seed makes no ed25519 key"))?;
        let public = SigningKey::from_seed(seed).public_key();
        Ok(Self { seed, pair, public })
    }

    /// Takes the key that signs a store's manifests.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub(crate) fn of_store(store: &Store) -> Result<Self> {
        let key = store.signing_key().map_err(|error| {
            let kind = match error {
                capture::Error::NoKey(_) => Kind::Precondition,
                capture::Error::Format { .. } => Kind::Trust,
                _ => Kind::Storage,
            };
            Error::new(kind, error).hint("make one: flashover key generate")
        })?;
        Self::from_seed(*key.seed())
    }

    /// Draws a key that lasts as long as the process.
    ///
    /// # Errors
    /// If the kernel gives no randomness.
    pub(crate) fn ephemeral() -> Result<Self> {
        Self::from_seed(super::random()?)
    }

    /// The seed, for TLS.
    pub(crate) const fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public half.
    pub(crate) const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// What tokens call it.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.public.as_bytes())
    }

    /// The key as the sealer of manifests wants it.
    pub(crate) fn signing_key(&self) -> SigningKey {
        SigningKey::from_seed(self.seed)
    }

    /// Signs the bytes of an announcement.
    pub(crate) fn sign_announcement(&self, bytes: &[u8]) -> Vec<u8> {
        let message = [ANNOUNCEMENT_CONTEXT, bytes].concat();
        self.pair.sign(&message).as_ref().to_vec()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.fingerprint())
    }
}

/// Whether `signature` is that of the head with this public key over an announcement.
pub(crate) fn is_signed(public: &[u8; 32], bytes: &[u8], signature: &[u8]) -> bool {
    let message = [ANNOUNCEMENT_CONTEXT, bytes].concat();
    UnparsedPublicKey::new(&ED25519, public)
        .verify(&message, signature)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_signed_by_its_head_alone() {
        let head = Identity::ephemeral().unwrap();
        let other = Identity::ephemeral().unwrap();
        let signature = head.sign_announcement(b"images");
        assert!(is_signed(head.public().as_bytes(), b"images", &signature));
        assert!(!is_signed(head.public().as_bytes(), b"image5", &signature));
        assert!(!is_signed(other.public().as_bytes(), b"images", &signature));
    }
}
