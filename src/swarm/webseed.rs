//! Web seeds: pieces of a torrent from plain HTTP servers, by byte ranges.
//!
//! [`WebSeeds`] says which piece to fetch from which server with which requests, and hears how it
//! went. A server that is busy is left alone for a while; one that does not have the file, or gave
//! wrong bytes, is not asked again. Peers fetch scattered pieces, so a web seed fills the longest
//! gap from its front: its requests follow one another in the file. Who runs it does the HTTP and
//! verifies the pieces; the state here is the servers' alone.
//!
//! Source: BEP 19 (GetRight style).

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use super::Info;
use super::percent;
use crate::base::random::Random;
use crate::base::{Bitmap, PieceIndex, Time};

/// The most servers that are asked.
pub const SEEDS_MAX: usize = 16;
/// The longest URL, in bytes.
pub const URL_BYTES_MAX: usize = 2048;
/// Requests to one server at a time.
pub const FETCHES_PER_SEED_MAX: usize = 2;
/// The first pause after a failure; it doubles.
pub const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A piece to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// From which server.
    pub seed: SeedIndex,
    /// Which piece.
    pub piece: PieceIndex,
    /// The size of the piece, in bytes; what no request covers is zeros.
    pub len: usize,
    /// What to ask for, in order.
    pub requests: Vec<Request>,
}

/// One byte range of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The file.
    pub url: String,
    /// The bytes of the file, not empty.
    pub range: Range<u64>,
    /// Where they go in the piece.
    pub at: usize,
}

/// A server, by its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeedIndex(usize);

/// How a fetch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The piece is verified.
    Verified,
    /// The server cannot be reached, is busy, or stopped in the middle.
    Unavailable,
    /// The server does not have it, or does not do ranges.
    Unsuitable,
    /// All came, and is not the piece.
    Corrupt,
    /// It is wanted no more.
    Cancelled,
}

/// See the module.
#[derive(Debug)]
pub struct WebSeeds {
    seeds: Vec<Seed>,
    /// Pieces being fetched.
    fetching: BTreeSet<PieceIndex>,
    random: Random,
}

#[derive(Debug)]
struct Seed {
    url: String,
    fetches: usize,
    ready_at: Time,
    pause: Duration,
    /// Never asked again.
    is_banned: bool,
}

impl WebSeeds {
    /// Takes the servers of a torrent: `http://` URLs, each once, at most [`SEEDS_MAX`].
    #[must_use]
    pub fn new(urls: impl IntoIterator<Item = String>, seed: u64, now: Time) -> Self {
        let mut seen = BTreeSet::new();
        let fits = |url: &String| {
            let is_plain = url.bytes().all(|byte| byte.is_ascii_graphic());
            url.len() <= URL_BYTES_MAX && is_plain && url.starts_with("http://")
        };
        let urls = urls.into_iter().filter(fits);
        let urls = urls.filter(|url| seen.insert(url.clone())).take(SEEDS_MAX);
        let seed_of = |url| Seed {
            url,
            fetches: 0,
            ready_at: now,
            pause: PAUSE_MIN,
            is_banned: false,
        };
        Self {
            seeds: urls.map(seed_of).collect(),
            fetching: BTreeSet::new(),
            random: Random::new(seed),
        }
    }

    /// Whether any server may still be asked.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.seeds.iter().any(|seed| !seed.is_banned)
    }

    /// The URL of a server.
    #[must_use]
    pub fn url(&self, seed: SeedIndex) -> &str {
        &self.seeds[seed.0].url
    }

    /// The next piece to fetch, if a server is free: `have` are the pieces that nobody need fetch,
    /// being there or on their way from peers. [`WebSeeds::ended`] tells its end.
    pub fn poll(&mut self, info: &Info, have: &Bitmap, now: Time) -> Option<Fetch> {
        let is_free = |seed: &&Seed| {
            !seed.is_banned && seed.fetches < FETCHES_PER_SEED_MAX && now >= seed.ready_at
        };
        let free = || self.seeds.iter().filter(is_free);
        let least = free().map(|seed| seed.fetches).min()?;
        let seed = self
            .seeds
            .iter()
            .position(|seed| is_free(&seed) && seed.fetches == least)?;
        let piece = self.front_of_longest_gap(have)?;
        let layout = info.layout();
        let range = layout.piece_range(piece);
        let mut at = 0;
        let mut requests = Vec::new();
        for part in layout.parts(range) {
            let file = &layout.files()[part.file];
            let len = usize::try_from(part.range.end - part.range.start).ok()?;
            if !file.is_pad() {
                requests.push(Request {
                    url: file_url(&self.seeds[seed].url, info, &file.path),
                    range: part.range,
                    at,
                });
            }
            at += len;
        }
        self.seeds[seed].fetches += 1;
        self.fetching.insert(piece);
        Some(Fetch {
            seed: SeedIndex(seed),
            piece,
            len: at,
            requests,
        })
    }

    /// A fetch has ended.
    pub fn ended(&mut self, seed: SeedIndex, piece: PieceIndex, outcome: Outcome, now: Time) {
        self.fetching.remove(&piece);
        let seed = &mut self.seeds[seed.0];
        seed.fetches = seed.fetches.saturating_sub(1);
        match outcome {
            Outcome::Verified => seed.pause = PAUSE_MIN,
            Outcome::Unavailable => {
                seed.ready_at = now + self.random.about(seed.pause);
                seed.pause = (seed.pause * 2).min(PAUSE_MAX);
            }
            Outcome::Unsuitable | Outcome::Corrupt => seed.is_banned = true,
            Outcome::Cancelled => {}
        }
    }

    /// When a server that is left alone may be asked again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let waiting = self.seeds.iter().filter(|seed| !seed.is_banned);
        waiting.map(|seed| seed.ready_at).min()
    }

    /// The first piece of the longest run of pieces that are neither there nor being fetched.
    fn front_of_longest_gap(&self, have: &Bitmap) -> Option<PieceIndex> {
        let (mut best, mut best_len) = (None, 0);
        for run in have.runs(false) {
            let mut start = run.start;
            let index = |at: usize| u32::try_from(at).ok().map(PieceIndex::new);
            let taken = run
                .clone()
                .filter(|at| index(*at).is_some_and(|piece| self.fetching.contains(&piece)));
            for end in taken.chain([run.end]) {
                if end - start > best_len {
                    (best, best_len) = (index(start), end - start);
                }
                start = end + 1;
            }
        }
        best
    }
}

/// The URL of a file: a server's URL that ends in `/`, or that is of a torrent of many files, is
/// the folder that the torrent lies in.
fn file_url(base: &str, info: &Info, path: &[Vec<u8>]) -> String {
    let slash = if base.ends_with('/') { "" } else { "/" };
    if !info.is_multi() && !slash.is_empty() {
        return base.to_owned();
    }
    let names: Vec<String> = path.iter().map(|name| percent::encode(name)).collect();
    format!("{base}{slash}{}", names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::bencode::{DictWriter, ListWriter};

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    /// Four pieces of 16 KiB: one file, or three of which the second is padding.
    fn info(is_multi: bool) -> Info {
        let mut dict = DictWriter::new();
        dict.bytes(b"name", b"a b")
            .int(b"piece length", 16384)
            .bytes(b"pieces", &[0; 80]);
        if is_multi {
            let mut files = ListWriter::new();
            for (name, len, attr) in [("x/1", 20000, ""), ("pad", 12768, "p"), ("y", 32768, "")] {
                let (mut file, mut path) = (DictWriter::new(), ListWriter::new());
                name.split('/').for_each(|part| {
                    path.bytes(part.as_bytes());
                });
                file.int(b"length", len).list(b"path", path);
                if !attr.is_empty() {
                    file.bytes(b"attr", attr.as_bytes());
                }
                files.dict(file);
            }
            dict.list(b"files", files);
        } else {
            dict.int(b"length", 65536);
        }
        Info::parse(dict.finish().into()).unwrap()
    }

    fn seeds(urls: &[&str]) -> WebSeeds {
        WebSeeds::new(urls.iter().map(|url| (*url).to_owned()), 1, at(0))
    }

    #[test]
    fn requests_name_the_file_as_the_server_does() {
        let (single, multi) = (info(false), info(true));
        let have = Bitmap::new(4);
        let first = |url: &str, info: &Info| {
            seeds(&[url])
                .poll(info, &have, at(0))
                .unwrap()
                .requests
                .remove(0)
        };
        assert_eq!(first("http://h/f.iso", &single).url, "http://h/f.iso");
        assert_eq!(first("http://h/d/", &single).url, "http://h/d/a%20b");
        assert_eq!(first("http://h/d", &multi).url, "http://h/d/a%20b/x/1");
        assert_eq!(first("http://h/", &multi).range, 0..16384);
    }

    #[test]
    fn a_piece_over_a_seam_is_asked_for_file_by_file_and_padding_not_at_all() {
        let multi = info(true);
        let mut have = Bitmap::new(4);
        [0, 2, 3].into_iter().for_each(|piece| {
            have.set(piece);
        });
        let fetch = seeds(&["http://h/"]).poll(&multi, &have, at(0)).unwrap();
        assert_eq!((fetch.piece, fetch.len), (PieceIndex::new(1), 16384));
        let [request] = &fetch.requests[..] else {
            panic!("{fetch:?}");
        };
        assert_eq!((request.range.clone(), request.at), (16384..20000, 0));
    }

    #[test]
    fn the_longest_gap_is_filled_from_its_front() {
        let single = info(false);
        let mut seeds = seeds(&["http://h/f", "http://i/f", "http://i/f", "ftp://j/f"]);
        assert_eq!(seeds.seeds.len(), 2);
        let mut have = Bitmap::new(4);
        have.set(1);
        let mut next = || {
            seeds
                .poll(&single, &have, at(0))
                .map(|f| (f.seed.0, f.piece.get()))
        };
        let asked: Vec<_> = std::iter::from_fn(&mut next).collect();
        assert_eq!(asked, [(0, 2), (1, 0), (0, 3)]);
    }

    #[test]
    fn failures_pause_a_server_and_wrong_bytes_end_it() {
        let single = info(false);
        let mut seeds = seeds(&["http://h/f"]);
        let have = Bitmap::new(4);
        let mut now = at(0);
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            let fetch = seeds.poll(&single, &have, now).unwrap();
            seeds.ended(fetch.seed, fetch.piece, Outcome::Unavailable, now);
            assert_eq!(seeds.poll(&single, &have, now), None);
            let ready = seeds.poll_timeout().unwrap();
            let wait = ready.since(now).as_secs_f64();
            assert!(
                (0.75..1.25).contains(&(wait / f64::from(pause))),
                "{wait} s, not {pause}"
            );
            now = ready;
        }
        let fetch = seeds.poll(&single, &have, now).unwrap();
        seeds.ended(fetch.seed, fetch.piece, Outcome::Verified, now);
        let fetch = seeds.poll(&single, &have, now).unwrap();
        seeds.ended(fetch.seed, fetch.piece, Outcome::Corrupt, now);
        assert!(!seeds.is_usable());
        assert_eq!(
            (seeds.poll(&single, &have, now), seeds.poll_timeout()),
            (None, None)
        );
    }
}
