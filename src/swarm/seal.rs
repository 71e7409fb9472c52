//! The sealed transport: what nodes of one run say to each other, kept from everybody else.
//!
//! ```text
//!   hello   nonce 16, random                                   once, first, by either side
//!   record  length 4 | AES-128-GCM of 1 to 65,536 bytes | tag 16   length counts what follows it
//! ```
//!
//! Both sides have the secret of the run, which the head gave them. The keys, one per direction,
//! come from it, both nonces and the torrent: so nothing of another stream, of the other direction
//! or of an earlier time opens here. Records count from 0 in each direction; one that is damaged,
//! missing, doubled or out of order ends the stream. A side has proven that it has the secret with
//! its first record; nothing is handed on before.
//!
//! Inside, the peers speak BitTorrent as ever. The seal does no input or output and draws no
//! random: it owns the two counters and at most one record that is not whole yet.

use bytes::Bytes;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;

/// The bytes of a hello.
pub const HELLO_BYTES: usize = 16;
/// The most bytes that one record carries.
pub const PLAIN_BYTES_MAX: usize = 64 << 10;
/// What a record has besides what it carries: length and tag.
pub const RECORD_OVERHEAD: usize = LENGTH_BYTES + TAG_BYTES;
/// The most records in one direction: 256 TiB, far less than what AES-GCM bears.
pub const RECORDS_MAX: u64 = 1 << 32;

/// The secret that the nodes of a run share.
#[derive(Clone, PartialEq, Eq)]
pub struct SwarmSecret([u8; 32]);

impl SwarmSecret {
    /// Takes 32 bytes that the head drew from its system's generator.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes; they go nowhere but to nodes of the run.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for SwarmSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SwarmSecret(..)")
    }
}

/// One side of a sealed stream.
pub struct Seal {
    is_initiator: bool,
    secret: SwarmSecret,
    info_hash: [u8; 20],
    nonce: [u8; HELLO_BYTES],
    /// Ours and theirs, once their hello is there.
    keys: Option<(Direction, Direction)>,
    /// The beginning of what is not whole yet.
    held: Vec<u8>,
    broken: Option<SealError>,
}

/// Why a stream cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Something was to be sealed before the other side's hello came, or nothing was.
    #[error("There is nothing to seal, or no key yet")]
    Early,
    /// The other side says our own hello.
    #[error("The other side repeats what it hears")]
    Mirrored,
    /// A record of a length that none has.
    #[error("A sealed record of {0} bytes")]
    Length(u32),
    /// A record that the other side did not seal for this place in this stream.
    #[error("A sealed record is not authentic")]
    Forged,
    /// [`RECORDS_MAX`] is reached.
    #[error("The sealed stream has become too long")]
    Exhausted,
}

impl Seal {
    /// The side that connected. The nonce is random and never used again.
    #[must_use]
    pub const fn initiator(
        secret: SwarmSecret,
        info_hash: [u8; 20],
        nonce: [u8; HELLO_BYTES],
    ) -> Self {
        Self::new(true, secret, info_hash, nonce)
    }

    /// The side that accepted. The nonce is random and never used again.
    #[must_use]
    pub const fn responder(
        secret: SwarmSecret,
        info_hash: [u8; 20],
        nonce: [u8; HELLO_BYTES],
    ) -> Self {
        Self::new(false, secret, info_hash, nonce)
    }

    const fn new(
        is_initiator: bool,
        secret: SwarmSecret,
        info_hash: [u8; 20],
        nonce: [u8; HELLO_BYTES],
    ) -> Self {
        Self {
            is_initiator,
            secret,
            info_hash,
            nonce,
            keys: None,
            held: Vec::new(),
            broken: None,
        }
    }

    /// What is to be sent first.
    #[must_use]
    pub fn hello(&self) -> Bytes {
        Bytes::copy_from_slice(&self.nonce)
    }

    /// Whether the other side's hello is there, so that [`Seal::seal`] works.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.keys.is_some()
    }

    /// Whether the other side has shown that it has the secret.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.keys
            .as_ref()
            .is_some_and(|(_, theirs)| theirs.next > 0)
    }

    /// Seals the bytes of all parts, one behind the other, in as few records as they need.
    ///
    /// # Errors
    /// [`SealError::Early`] before [`Seal::is_ready`] or without a byte; [`SealError::Exhausted`].
    pub fn seal(&mut self, parts: &[Bytes]) -> Result<Bytes, SealError> {
        let (ours, _) = self.keys.as_mut().ok_or(SealError::Early)?;
        let plain: usize = parts.iter().map(Bytes::len).sum();
        if plain == 0 {
            return Err(SealError::Early);
        }
        let records = plain.div_ceil(PLAIN_BYTES_MAX);
        let mut out = Vec::with_capacity(plain + records * RECORD_OVERHEAD);
        let mut parts = parts.iter().map(|part| &part[..]);
        let mut part: &[u8] = &[];
        let mut left = plain;
        while left > 0 {
            let len = left.min(PLAIN_BYTES_MAX);
            left -= len;
            let header = header(len);
            out.extend_from_slice(&header);
            let (start, end) = (out.len(), out.len() + len);
            while out.len() < end {
                if part.is_empty() {
                    part = parts.next().unwrap_or_default();
                }
                let (now, later) = part.split_at(part.len().min(end - out.len()));
                out.extend_from_slice(now);
                part = later;
            }
            let tag = ours.seal(header, &mut out[start..])?;
            out.extend_from_slice(&tag);
        }
        Ok(out.into())
    }

    /// Takes the next bytes of the stream and gives what they carry to `sink`, record by record.
    /// Records that lie whole in `input` are decrypted there.
    ///
    /// # Errors
    /// If the stream cannot go on: it is to be closed, and every later call says the same.
    pub fn open(&mut self, input: &mut [u8], mut sink: impl FnMut(&[u8])) -> Result<(), SealError> {
        let result = match self.broken {
            Some(error) => Err(error),
            None => self.take(input, &mut sink),
        };
        self.broken = result.err();
        result
    }

    fn take(
        &mut self,
        mut input: &mut [u8],
        sink: &mut impl FnMut(&[u8]),
    ) -> Result<(), SealError> {
        if self.keys.is_none() {
            input = hold(&mut self.held, input, HELLO_BYTES);
            let Some(&theirs) = self.held.first_chunk() else {
                return Ok(());
            };
            self.held.clear();
            self.keys = Some(self.derive(theirs)?);
        }
        let Some((_, theirs)) = &mut self.keys else {
            return Ok(());
        };
        while !input.is_empty() {
            if self.held.is_empty()
                && let Some(len) = length(input)?
                && len <= input.len()
            {
                let (record, rest) = input.split_at_mut(len);
                sink(theirs.open(record)?);
                input = rest;
                continue;
            }
            // What is not whole, and only that, is copied to where its rest will follow.
            input = hold(&mut self.held, input, LENGTH_BYTES);
            let Some(len) = length(&self.held)? else {
                return Ok(());
            };
            self.held.reserve_exact(len - self.held.len());
            input = hold(&mut self.held, input, len);
            if self.held.len() == len {
                sink(theirs.open(&mut self.held)?);
                self.held.clear();
            }
        }
        Ok(())
    }

    /// The keys of both directions, ours first.
    fn derive(&self, theirs: [u8; HELLO_BYTES]) -> Result<(Direction, Direction), SealError> {
        if theirs == self.nonce {
            return Err(SealError::Mirrored);
        }
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"flashover swarm 1");
        let secret = salt.extract(&self.secret.0);
        let (initiator, responder) = if self.is_initiator {
            (&self.nonce, &theirs)
        } else {
            (&theirs, &self.nonce)
        };
        let direction = |from: &[u8]| {
            let info = [from, initiator, responder, &self.info_hash];
            let mut bytes = [0; 20];
            secret
                .expand(&info, Length(bytes.len()))
                .and_then(|okm| okm.fill(&mut bytes))
                .expect("20 bytes are far less than HKDF can give");
            Direction::new(&bytes)
        };
        let (first, second) = (direction(b"initiator"), direction(b"responder"));
        Ok(if self.is_initiator {
            (first, second)
        } else {
            (second, first)
        })
    }
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal")
            .field("is_initiator", &self.is_initiator)
            .field("is_ready", &self.is_ready())
            .field("is_proven", &self.is_proven())
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// What goes one way.
struct Direction {
    key: LessSafeKey,
    salt: [u8; 4],
    /// The number of the next record.
    next: u64,
}

impl Direction {
    fn new(bytes: &[u8; 20]) -> Self {
        let (key, salt) = bytes.split_at(16);
        let key = UnboundKey::new(&AES_128_GCM, key).expect("16 bytes are a key of AES-128");
        Self {
            key: LessSafeKey::new(key),
            salt: salt.try_into().expect("20 - 16 bytes are 4"),
            next: 0,
        }
    }

    /// The nonce of the next record.
    fn nonce(&self) -> Result<Nonce, SealError> {
        if self.next >= RECORDS_MAX {
            return Err(SealError::Exhausted);
        }
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.salt);
        nonce[4..].copy_from_slice(&self.next.to_be_bytes());
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    fn seal(
        &mut self,
        header: [u8; LENGTH_BYTES],
        body: &mut [u8],
    ) -> Result<[u8; TAG_BYTES], SealError> {
        let (nonce, aad) = (self.nonce()?, Aad::from(header));
        self.next += 1;
        let tag = self.key.seal_in_place_separate_tag(nonce, aad, body);
        let tag = tag.expect("a record is far shorter than what AES-GCM can seal");
        Ok(*tag
            .as_ref()
            .first_chunk()
            .expect("tags of AES-GCM are 16 bytes long"))
    }

    /// Opens a whole record.
    fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<&'a [u8], SealError> {
        let (header, body) = record
            .split_first_chunk_mut::<LENGTH_BYTES>()
            .ok_or(SealError::Forged)?;
        let (nonce, aad) = (self.nonce()?, Aad::from(*header));
        let opened = self.key.open_in_place(nonce, aad, body);
        let plain = opened.map_err(|_| SealError::Forged)?;
        // Counted only now: who forges has proven nothing.
        self.next += 1;
        Ok(plain)
    }
}

fn header(plain: usize) -> [u8; LENGTH_BYTES] {
    let len = u32::try_from(plain + TAG_BYTES).expect("a record is at most 64 KiB and a tag");
    len.to_be_bytes()
}

/// How long the record at the front is, with its length; `None` while that is not there.
fn length(bytes: &[u8]) -> Result<Option<usize>, SealError> {
    let Some(header) = bytes.first_chunk() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*header);
    let sealed = usize::try_from(len).unwrap_or(usize::MAX);
    if !(TAG_BYTES + 1..=TAG_BYTES + PLAIN_BYTES_MAX).contains(&sealed) {
        return Err(SealError::Length(len));
    }
    Ok(Some(LENGTH_BYTES + sealed))
}

/// Moves bytes from the front of `input` until `count` are held; gives the rest.
fn hold<'a>(held: &mut Vec<u8>, input: &'a mut [u8], count: usize) -> &'a mut [u8] {
    let missing = count.saturating_sub(held.len()).min(input.len());
    let (now, rest) = input.split_at_mut(missing);
    held.extend_from_slice(now);
    rest
}

/// The length of derived material.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

const LENGTH_BYTES: usize = 4;
const TAG_BYTES: usize = 16;

#[cfg(test)]
mod tests;
