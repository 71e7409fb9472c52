//! Keys and sealing.
//!
//! A session secret is 32 random bytes, drawn anew at every start of a sender (an *epoch*). From it
//! come one key for what the sender sends and one for each receiver's reports, each with its own
//! salt; the nonce is salt (4 bytes) then the datagram's counter (8 bytes). A counter is never used
//! twice under a key: a sender counts from 0 in its epoch, a receiver draws a new [`NodeId`] for
//! every machine that it starts.

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;

use crate::base::{EpochId, NodeId};

/// The length of a tag, in bytes.
pub const TAG_SIZE: usize = 16;

/// The secret of one epoch of a session.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes 32 bytes that the caller drew from the system's generator.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes; they go nowhere but to enrolled receivers.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Makes the keys of a session.
pub trait Cipher: Send {
    /// A key of this cipher.
    type Key: Key;

    /// Derives the key of what the sender sends.
    fn data_key(&self, secret: &Secret, epoch: EpochId, tsi: u32) -> Self::Key;

    /// Derives the key of one receiver's reports.
    fn report_key(&self, secret: &Secret, epoch: EpochId, tsi: u32, node: NodeId) -> Self::Key;
}

/// Seals and opens datagrams.
pub trait Key: Send {
    /// Encrypts `body` in place and gives the tag over `header` and `body`.
    ///
    /// The caller never passes the same counter twice.
    fn seal(&self, counter: u64, header: &[u8], body: &mut [u8]) -> [u8; TAG_SIZE];

    /// Checks the tag at the end of `sealed` and decrypts in place; gives the body, or `None` if the
    /// datagram is not authentic.
    fn open<'a>(&self, counter: u64, header: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]>;
}

/// AES-128-GCM with keys by HKDF-SHA256: the real cipher.
#[derive(Clone, Copy, Debug, Default)]
pub struct Aes128Gcm;

impl Cipher for Aes128Gcm {
    type Key = GcmKey;

    fn data_key(&self, secret: &Secret, epoch: EpochId, tsi: u32) -> GcmKey {
        derive(secret, epoch, tsi, b"data", &[])
    }

    fn report_key(&self, secret: &Secret, epoch: EpochId, tsi: u32, node: NodeId) -> GcmKey {
        derive(secret, epoch, tsi, b"feedback", &node.0)
    }
}

/// A key of [`Aes128Gcm`].
pub struct GcmKey {
    key: LessSafeKey,
    salt: [u8; 4],
}

impl GcmKey {
    fn nonce(&self, counter: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.salt);
        nonce[4..].copy_from_slice(&counter.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Key for GcmKey {
    fn seal(&self, counter: u64, header: &[u8], body: &mut [u8]) -> [u8; TAG_SIZE] {
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(counter), Aad::from(header), body)
            .expect("a datagram is far shorter than what AES-GCM can seal");
        tag.as_ref()
            .try_into()
            .expect("tags of AES-GCM are 16 bytes long")
    }

    fn open<'a>(&self, counter: u64, header: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let aad = Aad::from(header);
        self.key
            .open_in_place(self.nonce(counter), aad, sealed)
            .ok()
    }
}

fn derive(secret: &Secret, epoch: EpochId, tsi: u32, use_: &[u8], node: &[u8]) -> GcmKey {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"flashover multicast 1");
    let prk = salt.extract(secret.bytes());
    let (epoch, tsi) = (epoch.0.to_be_bytes(), tsi.to_be_bytes());
    let info = [use_, &epoch, &tsi, node];
    let mut bytes = [0; 20];
    prk.expand(&info, Length(bytes.len()))
        .and_then(|okm| okm.fill(&mut bytes))
        .expect("20 bytes are far less than HKDF can give");
    let (key, salt) = bytes.split_at(16);
    let key = UnboundKey::new(&AES_128_GCM, key).expect("16 bytes are a key of AES-128");
    GcmKey {
        key: LessSafeKey::new(key),
        salt: salt.try_into().expect("20 - 16 bytes are 4"),
    }
}

/// The length of derived material.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// No secrecy and a checksum instead of a tag: for the simulator, where cryptography is not what is
/// tested. It still tells apart keys, counters and headers.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainCipher;

/// A key of [`PlainCipher`].
#[derive(Clone, Copy, Debug)]
pub struct PlainKey(u64);

impl Cipher for PlainCipher {
    type Key = PlainKey;

    fn data_key(&self, secret: &Secret, epoch: EpochId, tsi: u32) -> PlainKey {
        let start = u64::from(tsi) << 16 | u64::from(epoch.0);
        PlainKey(checksum(start, secret.bytes()))
    }

    fn report_key(&self, secret: &Secret, epoch: EpochId, tsi: u32, node: NodeId) -> PlainKey {
        PlainKey(checksum(self.data_key(secret, epoch, tsi).0, &node.0))
    }
}

impl Key for PlainKey {
    fn seal(&self, counter: u64, header: &[u8], body: &mut [u8]) -> [u8; TAG_SIZE] {
        let sum = checksum(self.0 ^ counter, header);
        let sum = checksum(sum, &body[..body.len().min(PLAIN_SUMMED_MAX)]);
        let mut tag = [0; TAG_SIZE];
        tag[..8].copy_from_slice(&sum.to_be_bytes());
        tag
    }

    fn open<'a>(&self, counter: u64, header: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (body, tag) = sealed.split_at_mut_checked(sealed.len().checked_sub(TAG_SIZE)?)?;
        (self.seal(counter, header, body) == tag).then_some(body)
    }
}

/// How much of a body [`PlainCipher`] looks at.
const PLAIN_SUMMED_MAX: usize = 64;

/// FNV-1a.
fn checksum(start: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(start ^ 0xcbf2_9ce4_8422_2325, |sum, &byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: Secret = Secret([7; 32]);
    const NODE: NodeId = NodeId([1; 16]);

    fn opens<K: Key>(key: &K, counter: u64, header: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = sealed.to_vec();
        key.open(counter, header, &mut sealed)
            .map(|body| body.to_vec())
    }

    fn opens_only_as_it_was_sealed(cipher: &impl Cipher) {
        let key = cipher.report_key(&SECRET, EpochId(1), 2, NODE);
        let mut sealed = b"body".to_vec();
        let tag = key.seal(5, b"header", &mut sealed);
        sealed.extend_from_slice(&tag);
        let again = cipher.report_key(&SECRET, EpochId(1), 2, NODE);
        assert_eq!(
            opens(&again, 5, b"header", &sealed).as_deref(),
            Some(&b"body"[..])
        );
        assert_eq!(opens(&again, 6, b"header", &sealed), None);
        assert_eq!(opens(&again, 5, b"headeR", &sealed), None);
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(opens(&again, 5, b"header", &damaged), None);
            assert_eq!(opens(&again, 5, b"header", &sealed[..at]), None);
        }
        let others = [
            cipher.data_key(&SECRET, EpochId(1), 2),
            cipher.report_key(&SECRET, EpochId(2), 2, NODE),
            cipher.report_key(&SECRET, EpochId(1), 3, NODE),
            cipher.report_key(&SECRET, EpochId(1), 2, NodeId([2; 16])),
            cipher.report_key(&Secret::new([8; 32]), EpochId(1), 2, NODE),
        ];
        assert!(
            others
                .iter()
                .all(|key| opens(key, 5, b"header", &sealed).is_none())
        );
    }

    #[test]
    fn datagrams_open_only_as_they_were_sealed() {
        opens_only_as_it_was_sealed(&Aes128Gcm);
        opens_only_as_it_was_sealed(&PlainCipher);
    }
}
