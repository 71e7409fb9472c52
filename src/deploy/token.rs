//! Join tokens: one text that binds head and node to each other.
//!
//! ```text
//! fo1-<fingerprint, 26 characters>-<secret, 26 characters>
//!      first 16 bytes of BLAKE3(head's ed25519 public key)    16 random bytes
//! ```
//!
//! Both parts are base32 (RFC 4648 s6, lower case, without padding). The node pins the head by the
//! fingerprint, and proves itself by sending the secret inside TLS. The head keeps a BLAKE3 of the
//! secret only, one file per token, owned by [`Tokens`].
//!
//! A *rooted* token (for `cast`) also is the head's identity: its secret seeds the head's key, so
//! both sides can be started from the token alone, in any order. Who holds a rooted token can pose
//! as the head; that suits one administrator's two shells, not a cluster.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use ring::signature::KeyPair as _;
use serde::{Deserialize, Serialize};

use super::error::{Error, Kind, OrKind as _, Result};

/// Bytes of a fingerprint and of a secret.
const PART_BYTES: usize = 16;
/// Characters of either in a token.
const PART_CHARS: usize = 26;
/// What every token starts with; the digit is the version of the format.
const PREFIX: &str = "fo1";
/// The largest token file.
const FILE_BYTES_MAX: u64 = 4096;
/// The most tokens that a store may hold.
const TOKENS_MAX: usize = 10_000;

/// The short name of a head's public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; PART_BYTES]);

impl Fingerprint {
    /// Names an ed25519 public key.
    #[must_use]
    pub fn of(public_key: &[u8; 32]) -> Self {
        let hash = blake3::hash(public_key);
        let mut bytes = [0; PART_BYTES];
        bytes.copy_from_slice(&hash.as_bytes()[..PART_BYTES]);
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(self.0))
    }
}

/// What a node shows the head.
#[derive(Clone, Copy)]
pub struct Secret([u8; PART_BYTES]);

impl Secret {
    /// Draws a new one.
    ///
    /// # Errors
    /// If the kernel gives no randomness.
    pub fn random() -> Result<Self> {
        super::random().map(Self)
    }

    /// Reads the text form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        unbase32(text).map(Self)
    }

    /// What the head keeps of it.
    #[must_use]
    pub fn hash(&self) -> blake3::Hash {
        blake3::Hasher::new_derive_key("flashover 1 token secret at rest")
            .update(&self.0)
            .finalize()
    }

    /// The ed25519 seed of the head whose identity hangs on a rooted token.
    #[must_use]
    pub fn head_seed(&self) -> [u8; 32] {
        blake3::derive_key("flashover 1 token secret to head key", &self.0)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A join token. See the module.
#[derive(Clone, Copy, Debug)]
pub struct Token {
    /// Which head the node accepts.
    pub head: Fingerprint,
    /// What the node shows it.
    pub secret: Secret,
}

impl Token {
    /// Makes a rooted token; see the module for whom it suits.
    ///
    /// # Errors
    /// If the kernel gives no randomness.
    pub fn rooted() -> Result<Self> {
        let secret = Secret::random()?;
        let head = Fingerprint::of(&public_key_of(&secret.head_seed())?);
        Ok(Self { head, secret })
    }

    /// The seed of the head's key, if this is a rooted token.
    ///
    /// # Errors
    /// If the seed makes no key, which does not happen.
    pub fn head_seed(&self) -> Result<Option<[u8; 32]>> {
        let seed = self.secret.head_seed();
        let rooted = Fingerprint::of(&public_key_of(&seed)?) == self.head;
        Ok(rooted.then_some(seed))
    }
}

/// The public key that belongs to an ed25519 seed.
fn public_key_of(seed: &[u8; 32]) -> Result<[u8; 32]> {
    let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(seed)
        .map_err(|_| Error::text(Kind::Internal, "The seed makes no ed25519 key"))?;
    let mut key = [0; 32];
    key.copy_from_slice(pair.public_key().as_ref());
    Ok(key)
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}-{}-{}", self.head, self.secret)
    }
}

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> std::result::Result<Self, BadToken> {
        let mut parts = text.trim().split('-');
        let (Some(PREFIX), Some(head), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BadToken);
        };
        Ok(Self {
            head: Fingerprint(unbase32(head).ok_or(BadToken)?),
            secret: Secret::parse(secret).ok_or(BadToken)?,
        })
    }
}

/// A text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "A token reads fo1-, 26 characters, -, 26 characters, as `flashover token create` prints it"
)]
pub struct BadToken;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Writes 128 bits as 26 characters of 5 bits, the last with 2 zero bits behind.
fn base32(bytes: [u8; PART_BYTES]) -> String {
    let number = u128::from_be_bytes(bytes);
    let digit = |index: usize| match index {
        25 => (number & 0b111) << 2,
        _ => number >> (123 - 5 * index) & 0b1_1111,
    };
    (0..PART_CHARS)
        .map(|index| char::from(ALPHABET[usize::try_from(digit(index)).unwrap_or(0)]))
        .collect()
}

/// Reads what [`base32`] writes, and nothing else.
fn unbase32(text: &str) -> Option<[u8; PART_BYTES]> {
    if text.len() != PART_CHARS {
        return None;
    }
    let mut number = 0u128;
    for (index, byte) in text.bytes().enumerate() {
        let digit = ALPHABET.iter().position(|&symbol| symbol == byte)? as u128;
        number = match index {
            25 if digit & 0b11 == 0 => number << 3 | digit >> 2,
            25 => return None,
            _ => number << 5 | digit,
        };
    }
    Some(number.to_be_bytes())
}

/// What the head keeps of a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The short name of the token, for `token revoke`.
    pub id: String,
    /// BLAKE3 of the secret, in hex.
    pub hash: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// When it ends, in seconds since 1970; `None` never.
    pub expires: Option<u64>,
}

impl Record {
    /// Whether its time is over.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.expires.is_some_and(|end| end <= now_secs())
    }
}

/// The folder of tokens in a store: one file per token, readable by its owner only.
#[derive(Clone, Debug)]
pub struct Tokens {
    dir: PathBuf,
}

impl Tokens {
    /// Names the folder; it is made with the first token.
    #[must_use]
    pub fn at(store: &Path) -> Self {
        Self {
            dir: store.join("tokens"),
        }
    }

    /// Makes a token for nodes of the head with `head`'s key, valid for `ttl` (`None`: until revoked).
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn create(&self, head: Fingerprint, ttl: Option<Duration>) -> Result<(Token, Record)> {
        let secret = Secret::random()?;
        let hash = secret.hash().to_hex();
        let created = now_secs();
        let record = Record {
            id: hash[..8].to_owned(),
            hash: hash.to_string(),
            created,
            expires: ttl.map(|ttl| created.saturating_add(ttl.as_secs())),
        };
        let text = serde_json::to_vec_pretty(&record).or_kind(Kind::Internal)?;
        self.write(&record.id, &text)
            .or_kind_with(Kind::Storage, || {
                format!("Cannot write a token to {}", self.dir.display())
            })?;
        Ok((Token { head, secret }, record))
    }

    fn write(&self, id: &str, text: &[u8]) -> std::io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.dir)?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path(id))?;
        file.write_all(text)?;
        file.sync_all()
    }

    /// All tokens, oldest first, expired ones too.
    ///
    /// # Errors
    /// If the folder cannot be read. Files that hold no token are left out.
    pub fn list(&self) -> Result<Vec<Record>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::new(Kind::Storage, error)),
        };
        let mut records: Vec<Record> = entries
            .take(TOKENS_MAX)
            .filter_map(|entry| read_record(&entry.ok()?.path()))
            .collect();
        records.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(records)
    }

    /// Removes a token; tells whether there was one.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn revoke(&self, id: &str) -> Result<bool> {
        if id.len() != 8 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(false);
        }
        match fs::remove_file(self.path(id)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::new(Kind::Storage, error)),
        }
    }

    /// Whether `secret` belongs to a token that has not ended.
    ///
    /// The comparison takes the same time wherever the hashes differ.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn admits(&self, secret: &Secret) -> Result<bool> {
        let shown = secret.hash();
        let admits = |record: &Record| {
            let known = blake3::Hash::from_hex(&record.hash).is_ok_and(|hash| hash == shown);
            known && !record.has_ended()
        };
        Ok(self.list()?.iter().filter(|record| admits(record)).count() > 0)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

fn read_record(path: &Path) -> Option<Record> {
    let size = fs::metadata(path).ok()?.len();
    if size > FILE_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn now_secs() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;

    proptest! {
        #[test]
        fn the_text_form_round_trips(head: [u8; 16], secret: [u8; 16]) {
            let token = Token { head: Fingerprint(head), secret: Secret(secret) };
            let text = token.to_string();
            prop_assert_eq!(text.len(), 57);
            let read: Token = text.parse().unwrap();
            prop_assert_eq!(read.head, token.head);
            prop_assert_eq!(read.secret.0, secret);
        }

        #[test]
        fn every_text_that_reads_is_the_one_form(text in "fo1-[a-z2-7]{26}-[a-z2-7]{26}") {
            if let Ok(token) = text.parse::<Token>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }

    #[test]
    fn other_texts_are_no_tokens() {
        let good = Token::rooted().unwrap().to_string();
        assert!(good.parse::<Token>().is_ok());
        for bad in [
            String::new(),
            "fo2".to_owned() + &good[3..],
            good[..56].to_owned(),
            good.clone() + "a",
            good.clone() + "-a",
            good.to_uppercase(),
        ] {
            assert_eq!(bad.parse::<Token>().err(), Some(BadToken), "{bad}");
        }
    }

    #[test]
    fn a_rooted_token_gives_the_key_that_it_names_and_others_do_not() {
        let rooted = Token::rooted().unwrap();
        let seed = rooted.head_seed().unwrap().unwrap();
        assert_eq!(Fingerprint::of(&public_key_of(&seed).unwrap()), rooted.head);
        let other = Token {
            head: Fingerprint::of(&[7; 32]),
            ..rooted
        };
        assert!(other.head_seed().unwrap().is_none());
    }

    #[test]
    fn tokens_admit_until_they_end_or_are_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::at(dir.path());
        let head = Fingerprint::of(&[1; 32]);
        let (token, record) = tokens.create(head, None).unwrap();
        let (ended, _) = tokens.create(head, Some(Duration::ZERO)).unwrap();
        assert!(tokens.admits(&token.secret).unwrap());
        assert!(!tokens.admits(&ended.secret).unwrap());
        assert!(!tokens.admits(&Secret([0; 16])).unwrap());
        assert!(tokens.revoke(&record.id).unwrap());
        assert!(!tokens.revoke(&record.id).unwrap());
        assert!(!tokens.revoke("../../x").unwrap());
        assert!(!tokens.admits(&token.secret).unwrap());
    }

    #[test]
    fn the_secret_is_not_on_disk_and_the_file_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::at(dir.path());
        let (token, record) = tokens.create(Fingerprint::of(&[1; 32]), None).unwrap();
        let path = tokens.path(&record.id);
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&token.secret.to_string()));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
