//! Who says so: ed25519 keys, and manifests sealed with them.
//!
//! ```text
//!   sealed manifest:  canonical manifest | key id (8) | signature (64)
//! ```
//!
//! What is signed is the BLAKE3 hash of the manifest's bytes in a derivation context of its own, so
//! that a signature for anything else never fits a manifest. The signature is checked before a
//! single byte of the manifest is parsed.

use std::fmt;
use std::str::FromStr;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use super::{Error, Manifest};

/// The private half; it signs.
pub struct SigningKey {
    seed: [u8; KEY_BYTES],
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// Makes the key of a seed of 32 random bytes.
    #[must_use]
    pub fn from_seed(seed: [u8; KEY_BYTES]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
            .expect("every 32 bytes are the seed of an ed25519 key");
        Self { seed, pair }
    }

    /// The key's public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        let bytes = self.pair.public_key().as_ref();
        PublicKey(
            bytes
                .try_into()
                .expect("an ed25519 public key has 32 bytes"),
        )
    }

    /// The seed, for protocols that sign with the same key. It is the secret itself.
    #[must_use]
    pub const fn seed(&self) -> &[u8; KEY_BYTES] {
        &self.seed
    }

    /// The text of a key file: one line. It is a secret: write it with mode 0600.
    #[must_use]
    pub fn to_secret_text(&self) -> String {
        format!("{SECRET_PREFIX}{}\n", Hex(&self.seed))
    }
}

impl FromStr for SigningKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse_key(text, SECRET_PREFIX).map(Self::from_seed)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public_key().fingerprint())
    }
}

/// The public half of a key; it verifies. Its text is one word, `flashover-public-key-1:` and 64
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// Wraps the 32 bytes of an ed25519 public key.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// A short form of the key for people to compare, as `1a2b-3c4d-5e6f-7081`.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(self.id())
    }

    /// The first bytes of the key's BLAKE3 hash.
    fn id(&self) -> [u8; KEY_ID_BYTES] {
        let hash = blake3::hash(&self.0);
        *hash
            .as_bytes()
            .first_chunk()
            .expect("a hash is longer than a key id")
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse_key(text, PUBLIC_PREFIX).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", Hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

/// Encodes a manifest and signs it.
#[must_use]
pub fn seal(manifest: &Manifest, key: &SigningKey) -> Vec<u8> {
    let mut bytes = manifest.encode();
    let signature = key.pair.sign(&digest(&bytes));
    bytes.extend_from_slice(&key.public_key().id());
    bytes.extend_from_slice(signature.as_ref());
    bytes
}

/// Checks who signed a sealed manifest, then decodes it.
///
/// # Errors
/// [`Error::OtherKey`] or [`Error::Signature`] if `key` did not sign these bytes, else what
/// [`Manifest::decode`] finds.
pub fn open(sealed: &[u8], key: &PublicKey) -> Result<Manifest, Error> {
    let (rest, signature) = sealed
        .split_last_chunk::<SIGNATURE_BYTES>()
        .ok_or(Error::NoManifest)?;
    let (manifest, id) = rest
        .split_last_chunk::<KEY_ID_BYTES>()
        .ok_or(Error::NoManifest)?;
    if *id != key.id() {
        return Err(Error::OtherKey {
            found: fingerprint(*id),
            expected: key.fingerprint(),
        });
    }
    UnparsedPublicKey::new(&ED25519, key.as_bytes())
        .verify(&digest(manifest), signature)
        .map_err(|_| Error::Signature)?;
    Manifest::decode(manifest)
}

/// What is signed in place of the manifest.
fn digest(manifest: &[u8]) -> [u8; 32] {
    blake3::derive_key(SIGNATURE_CONTEXT, manifest)
}

fn fingerprint(id: [u8; KEY_ID_BYTES]) -> String {
    let groups: Vec<String> = id.chunks(2).map(|two| Hex(two).to_string()).collect();
    groups.join("-")
}

fn parse_key(text: &str, prefix: &str) -> Result<[u8; KEY_BYTES], Error> {
    let digits = text.trim_end().strip_prefix(prefix).ok_or(Error::Key)?;
    if digits.len() != 2 * KEY_BYTES || !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err(Error::Key);
    }
    let mut bytes = [0; KEY_BYTES];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| Error::Key)?;
    }
    Ok(bytes)
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Size of either half of a key, in bytes.
pub const KEY_BYTES: usize = 32;
const KEY_ID_BYTES: usize = 8;
const SIGNATURE_BYTES: usize = 64;
/// What sealing adds to a manifest, in bytes.
pub const SEAL_BYTES: usize = KEY_ID_BYTES + SIGNATURE_BYTES;
const SECRET_PREFIX: &str = "flashover-secret-key-1:";
const PUBLIC_PREFIX: &str = "flashover-public-key-1:";
const SIGNATURE_CONTEXT: &str = "flashover 2026-01 manifest signature 1";

#[cfg(test)]
mod tests {
    use super::super::arbitrary::small_manifest;
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_its_key_only() {
        let key = SigningKey::from_seed([7; 32]);
        let manifest = small_manifest();
        let sealed = seal(&manifest, &key);
        assert_eq!(open(&sealed, &key.public_key()), Ok(manifest));
        let other = SigningKey::from_seed([8; 32]).public_key();
        assert!(matches!(open(&sealed, &other), Err(Error::OtherKey { .. })));
    }

    #[test]
    fn a_change_of_any_byte_is_noticed() {
        let key = SigningKey::from_seed([7; 32]);
        let sealed = seal(&small_manifest(), &key);
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            let error = open(&forged, &key.public_key()).unwrap_err();
            assert!(
                matches!(error, Error::Signature | Error::OtherKey { .. }),
                "byte {at}: {error}"
            );
            assert!(open(&sealed[..at], &key.public_key()).is_err());
        }
    }

    #[test]
    fn keys_are_texts() {
        let key = SigningKey::from_seed([1; 32]);
        let again: SigningKey = key.to_secret_text().parse().unwrap();
        assert_eq!(again.public_key(), key.public_key());
        let public: PublicKey = key.public_key().to_string().parse().unwrap();
        assert_eq!(public, key.public_key());
        assert_eq!(public.fingerprint().len(), 19);
        assert!(!format!("{key:?}").contains("0101"));
        for bad in [
            "",
            "flashover-public-key-1:",
            "flashover-public-key-1:zz",
            "x",
        ] {
            assert_eq!(bad.parse::<PublicKey>(), Err(Error::Key), "{bad:?}");
        }
    }
}
