//! Magnet links: the names of a torrent and where to ask for it, as one line of text.
//!
//! ```text
//!   magnet:?xt=urn:btih:40 hex digits or 32 of base 32      v1 name
//!          &xt=urn:btmh:1220 and 64 hex digits              v2 name, as a multihash
//!          &dn=name &tr=tracker &ws=web seed &x.pe=host:port
//! ```
//!
//! Source: BEP 9 "magnet URI format", BEP 52 "magnet links", BEP 19.

use std::fmt;
use std::str::FromStr;

use super::infohash::InfoHashes;
use super::{Metainfo, hash, percent};

/// The longest link that is read, in bytes.
pub const MAGNET_BYTES_MAX: usize = 64 << 10;

/// A magnet link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Magnet {
    /// The torrent's names.
    pub names: InfoHashes,
    /// What to call it until its metadata are there.
    pub name: Option<String>,
    /// URLs of trackers.
    pub trackers: Vec<String>,
    /// URLs of web seeds.
    pub web_seeds: Vec<String>,
    /// Peers.
    pub peers: Vec<Host>,
}

/// A host and its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// The port, not 0.
    pub port: u16,
}

/// Why a text is no magnet link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It does not start like one, or is longer than [`MAGNET_BYTES_MAX`].
    #[error("This is no magnet link")]
    Scheme,
    /// A `%` without two hex digits, or text that is not UTF-8.
    #[error("The magnet link is badly encoded")]
    Encoding,
    /// An infohash of another length or alphabet.
    #[error("The magnet link has a malformed infohash")]
    Hash,
    /// Two infohashes of one version.
    #[error("The magnet link names two torrents")]
    Two,
    /// No infohash.
    #[error("The magnet link has no infohash")]
    NoHash,
}

impl Magnet {
    /// Builds the link of a torrent.
    #[must_use]
    pub fn of(torrent: &Metainfo) -> Self {
        let name = String::from_utf8_lossy(torrent.info().name());
        Self {
            names: torrent.info().names(),
            name: Some(name.into_owned()),
            trackers: torrent.trackers().concat(),
            web_seeds: torrent.web_seeds(),
            peers: Vec::new(),
        }
    }
}

impl FromStr for Magnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let scheme = text
            .get(..8)
            .filter(|head| head.eq_ignore_ascii_case("magnet:?"));
        if scheme.is_none() || text.len() > MAGNET_BYTES_MAX {
            return Err(Error::Scheme);
        }
        let (mut v1, mut v2) = (None, None);
        let (mut name, mut trackers, mut web_seeds) = (None, Vec::new(), Vec::new());
        let mut peers = Vec::new();
        for pair in text[8..].split('&') {
            let Some((key, value)) = pair.split_once('=') else {
                continue;
            };
            let value = decoded(value)?;
            // Keys may be numbered: `xt.1`, `tr.2`.
            let (key, number) = key.split_once('.').unwrap_or((key, ""));
            let is_numbered = number.bytes().all(|byte| byte.is_ascii_digit());
            match key.to_ascii_lowercase().as_str() {
                "xt" if is_numbered => topic(&value, &mut v1, &mut v2)?,
                "dn" if is_numbered => name = name.or(Some(value)),
                "tr" if is_numbered => push_new(&mut trackers, value),
                "ws" if is_numbered => push_new(&mut web_seeds, value),
                "x" if number == "pe" => peers.extend(value.parse::<Host>()),
                _ => {}
            }
        }
        Ok(Self {
            names: InfoHashes::new(v1, v2).ok_or(Error::NoHash)?,
            name,
            trackers,
            web_seeds,
            peers,
        })
    }
}

impl fmt::Display for Magnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("magnet:?")?;
        for (index, name) in self.names.iter().enumerate() {
            let start = if index == 0 { "" } else { "&" };
            match name {
                super::InfoHash::V1(_) => write!(f, "{start}xt=urn:btih:{name}")?,
                super::InfoHash::V2(_) => write!(f, "{start}xt=urn:btmh:1220{name}")?,
            }
        }
        let name = self.name.iter().map(|name| ("dn", name));
        let trackers = self.trackers.iter().map(|url| ("tr", url));
        let seeds = self.web_seeds.iter().map(|url| ("ws", url));
        for (key, value) in name.chain(trackers).chain(seeds) {
            write!(f, "&{key}={}", percent::encode(value.as_bytes()))?;
        }
        for peer in &self.peers {
            write!(f, "&x.pe={peer}")?;
        }
        Ok(())
    }
}

impl FromStr for Host {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (host, port) = text.rsplit_once(':').ok_or(Error::Encoding)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let allowed = |byte: u8| match bare {
            Some(_) => byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'),
            None => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'),
        };
        let host = bare.unwrap_or(host);
        let port = port.parse().ok().filter(|&port| port != 0);
        if host.is_empty() || !host.bytes().all(allowed) {
            return Err(Error::Encoding);
        }
        Ok(Self {
            host: host.to_owned(),
            port: port.ok_or(Error::Encoding)?,
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Takes an exact topic, if it is the name of a torrent.
fn topic(
    value: &str,
    v1: &mut Option<hash::Sha1>,
    v2: &mut Option<hash::Sha256>,
) -> Result<(), Error> {
    let urn = |prefix: &str| {
        let head = value.get(..prefix.len())?;
        head.eq_ignore_ascii_case(prefix)
            .then(|| &value[prefix.len()..])
    };
    if let Some(digits) = urn("urn:btih:") {
        let hash = match digits.len() {
            40 => unhex(digits),
            32 => unbase32(digits),
            _ => None,
        };
        return keep(v1, hash.ok_or(Error::Hash)?);
    }
    if let Some(digits) = urn("urn:btmh:") {
        // A multihash: 0x12 is SHA-256, 0x20 its length.
        let hash = digits.strip_prefix("1220").and_then(unhex);
        return keep(v2, hash.ok_or(Error::Hash)?);
    }
    Ok(())
}

fn keep<T: PartialEq>(place: &mut Option<T>, hash: T) -> Result<(), Error> {
    if place.as_ref().is_some_and(|old| *old != hash) {
        return Err(Error::Two);
    }
    *place = Some(hash);
    Ok(())
}

fn push_new(list: &mut Vec<String>, value: String) {
    if !value.is_empty() && !list.contains(&value) {
        list.push(value);
    }
}

fn unhex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let digits = digits.as_bytes();
    let mut out = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks(2)) {
        let nibble = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(nibble(pair[0])? * 16 + nibble(pair[1])?).ok()?;
    }
    Some(out)
}

/// Reads 32 digits of RFC 4648 base 32: 160 bits.
fn unbase32(digits: &str) -> Option<hash::Sha1> {
    let mut out = [0; 20];
    for (bytes, group) in out.chunks_mut(5).zip(digits.as_bytes().chunks(8)) {
        let mut bits = 0u64;
        for digit in group {
            let value = match digit.to_ascii_uppercase() {
                letter @ b'A'..=b'Z' => letter - b'A',
                digit @ b'2'..=b'7' => digit - b'2' + 26,
                _ => return None,
            };
            bits = bits << 5 | u64::from(value);
        }
        bytes.copy_from_slice(&bits.to_be_bytes()[3..]);
    }
    Some(out)
}

/// Undoes percent-encoding of a text.
fn decoded(text: &str) -> Result<String, Error> {
    let bytes = percent::decode(text.as_bytes()).ok_or(Error::Encoding)?;
    String::from_utf8(bytes).map_err(|_| Error::Encoding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V1: &str = "c12fe1c06bba254a9dc9f519b335aa7c1367a88a";
    const V1_BASE32: &str = "YEX6DQDLXISUVHOJ6UM3GNNKPQJWPKEK";
    const V2: &str = "caf1e1c30e81cb361b9ee167c4aa64228a7fa4fa9f6105232b28ad099f3a302e";

    #[test]
    fn everything_that_a_link_says_is_read() {
        let text = format!(
            "magnet:?xt=urn:btih:{V1}&xt=urn:btmh:1220{V2}&dn=a%20b+c&tr=http%3A%2F%2Ft%2Fannounce\
             &tr.1=udp://u:1&ws=http://w/&x.pe=10.0.0.1:6881&x.pe=[fd00::1]:7&x.pe=host:0&so=0&y"
        );
        let magnet: Magnet = text.parse().unwrap();
        let names: Vec<String> = magnet.names.iter().map(|name| name.to_string()).collect();
        assert_eq!(names, [V1, V2]);
        assert_eq!(magnet.name.as_deref(), Some("a b c"));
        assert_eq!(magnet.trackers, ["http://t/announce", "udp://u:1"]);
        assert_eq!(magnet.web_seeds, ["http://w/"]);
        let peers: Vec<String> = magnet.peers.iter().map(Host::to_string).collect();
        assert_eq!(peers, ["10.0.0.1:6881", "[fd00::1]:7"]);
        assert_eq!(
            magnet.to_string(),
            format!(
                "magnet:?xt=urn:btih:{V1}&xt=urn:btmh:1220{V2}&dn=a%20b%20c\
                 &tr=http%3A%2F%2Ft%2Fannounce&tr=udp%3A%2F%2Fu%3A1&ws=http%3A%2F%2Fw%2F\
                 &x.pe=10.0.0.1:6881&x.pe=[fd00::1]:7"
            )
        );
    }

    #[test]
    fn both_alphabets_name_the_same_torrent() {
        let hex: Magnet = format!("magnet:?xt=urn:btih:{V1}").parse().unwrap();
        for text in [
            format!("magnet:?xt=urn:btih:{V1_BASE32}"),
            format!("MAGNET:?XT=URN:BTIH:{}", V1.to_uppercase()),
            format!("magnet:?dn=&xt=urn:btih:{}", V1_BASE32.to_lowercase()),
        ] {
            assert_eq!(text.parse::<Magnet>().unwrap().names, hex.names, "{text}");
        }
    }

    #[test]
    fn what_is_no_link_is_named() {
        let other = V1.replace('c', "d");
        for (text, error) in [
            (String::new(), Error::Scheme),
            ("http://x".to_owned(), Error::Scheme),
            ("magnet:?".to_owned(), Error::NoHash),
            ("magnet:?dn=x".to_owned(), Error::NoHash),
            ("magnet:?xt=urn:sha1:x".to_owned(), Error::NoHash),
            ("magnet:?xt=urn:btih:".to_owned(), Error::Hash),
            (format!("magnet:?xt=urn:btih:{}", &V1[1..]), Error::Hash),
            (format!("magnet:?xt=urn:btih:g{}", &V1[1..]), Error::Hash),
            (
                format!("magnet:?xt=urn:btih:1{}", &V1_BASE32[1..]),
                Error::Hash,
            ),
            (format!("magnet:?xt=urn:btmh:1320{V2}"), Error::Hash),
            (format!("magnet:?xt=urn:btmh:1220{}", &V2[2..]), Error::Hash),
            (
                format!("magnet:?xt=urn:btih:{V1}&xt=urn:btih:{other}"),
                Error::Two,
            ),
            (format!("magnet:?xt=urn:btih:{V1}&dn=%4"), Error::Encoding),
            (format!("magnet:?xt=urn:btih:{V1}&dn=%ff"), Error::Encoding),
            (
                format!("magnet:?xt=urn:btih:{V1}&{}", "x".repeat(1 << 16)),
                Error::Scheme,
            ),
        ] {
            assert_eq!(text.parse::<Magnet>().map(drop), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            v1: Option<[u8; 20]>,
            v2: [u8; 32],
            name: Option<String>,
            urls in prop::collection::btree_set(".{1,12}", 0..4),
        ) {
            let magnet = Magnet {
                names: InfoHashes::new(v1, Some(v2)).unwrap(),
                name,
                trackers: urls.iter().cloned().collect(),
                web_seeds: urls.into_iter().rev().collect(),
                peers: vec!["a.b:1".parse().unwrap(), "[::1]:65535".parse().unwrap()],
            };
            prop_assert_eq!(magnet.to_string().parse(), Ok(magnet));
        }

        #[test]
        fn no_text_does_harm(text in "magnet:\\?(xt=urn:btih:[0-9a-f]{40}&)?.{0,40}") {
            if let Ok(magnet) = text.parse::<Magnet>() {
                prop_assert_eq!(magnet.to_string().parse(), Ok(magnet));
            }
        }
    }
}
