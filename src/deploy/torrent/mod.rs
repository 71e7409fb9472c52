//! `seed` and `fetch`: one torrent, as any BitTorrent client has it, on the engine.
//!
//! ```text
//!   trackers, --peer ──addresses──► Torrent (its own thread, over the engine) ──► file
//! ```
//!
//! What is fetched lies in `NAME.part` until all of it is proven; a later `fetch` goes on with it.
//! The bytes travel in clear, as BitTorrent's do.

mod client;
mod content;
mod magnet;
mod remote;
mod sources;
mod web;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::descriptors;
use super::error::{Error, Kind, OrKind as _, Result};
use super::interrupt::Interrupt;
use super::net::Ways;
use crate::base::Bitmap;
use crate::base::event::{Events, Phase};
use crate::capture::torrent;
use crate::swarm::tracker::TrackerUrl;
use crate::swarm::{Magnet, Metainfo};
use client::Client;
use content::{Content, Part};

/// What both jobs are given.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where peers may connect.
    pub listen: SocketAddr,
    /// Peers that are known already.
    pub peers: Vec<SocketAddr>,
    /// Whether trackers are asked.
    pub trackers: bool,
    /// Trackers besides those of the torrent.
    pub more_trackers: Vec<String>,
    /// Whether peers are looked for on this network (BEP 14); by default if the torrent is not
    /// private, or, of a magnet link alone, if it has no tracker.
    pub lsd: Option<bool>,
    /// Whether web seeds are asked, for what peers do not bring.
    pub web_seeds: bool,
    /// Web seeds besides those of the torrent.
    pub more_web_seeds: Vec<String>,
    /// Bytes per second that peers are sent at most.
    pub up_max: Option<u64>,
    /// Bytes per second that are fetched at most, from peers and from web seeds each.
    pub down_max: Option<u64>,
    /// How the kernel is asked.
    pub ways: Ways,
    /// What is told meanwhile.
    pub events: Events,
    /// The user's wish to stop.
    pub interrupt: Interrupt,
}

impl Options {
    /// All trackers to ask: those of the torrent in their tiers, then the others.
    fn trackers_of(&self, torrent: &Metainfo) -> Vec<Vec<String>> {
        let more = self.more_trackers.iter().map(|url| vec![url.clone()]);
        torrent.trackers().into_iter().chain(more).collect()
    }
}

/// What `seed` needs.
#[derive(Clone, Debug)]
pub struct Seed {
    /// The torrent.
    pub torrent: PathBuf,
    /// Its content; by default the file or directory of its name beside it.
    pub path: Option<PathBuf>,
    /// How long to seed; for ever by default.
    pub seed_time: Option<Duration>,
    /// See there.
    pub options: Options,
}

/// What is to be fetched.
#[derive(Clone, Debug)]
pub enum Source {
    /// What a torrent describes.
    File(PathBuf),
    /// What a torrent describes that a web server has.
    Url(Box<TrackerUrl>),
    /// What a link names; peers have the description.
    Magnet(Box<Magnet>),
}

/// What `fetch` needs.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// What.
    pub source: Source,
    /// The file or directory to write, or a directory that is there, to put it into.
    pub into: PathBuf,
    /// Whether a file or directory of this name is replaced, with all that is in it.
    pub replace: bool,
    /// How long to seed on at most, while peers lack anything.
    pub seed_time: Duration,
    /// How long all may take.
    pub deadline: Option<Duration>,
    /// See there.
    pub options: Options,
}

/// What was done.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The version of this report.
    pub v: u32,
    /// The name in the torrent.
    pub name: String,
    /// The content's file or directory.
    pub path: PathBuf,
    /// Bytes of the content.
    pub bytes: u64,
    /// Seconds from the start until all was here, or until the end of seeding.
    pub seconds: f64,
    /// Bytes that were here before.
    pub bytes_resumed: u64,
    /// Bytes of blocks that came from peers.
    pub bytes_in: u64,
    /// Of those, bytes of no use.
    pub bytes_wasted: u64,
    /// Bytes of pieces that came from web seeds.
    pub bytes_webseed: u64,
    /// Bytes of blocks that peers were sent.
    pub bytes_out: u64,
    /// Peers that were banned for wrong bytes.
    pub peers_banned: u32,
    /// How the kernel was asked.
    pub backend: &'static str,
}

/// Seeds a torrent whose content is here.
///
/// # Errors
/// If the content is not what the torrent says, or nobody can connect.
pub fn seed(config: &Seed) -> Result<Report> {
    descriptors::raise_limit();
    let torrent = Arc::new(torrent::load(&config.torrent).or_kind(Kind::Usage)?);
    let path = match &config.path {
        Some(path) => path.clone(),
        None => beside(&config.torrent, &torrent)?,
    };
    let events = &config.options.events;
    events.phase(Phase::Resuming);
    let have = look(&torrent, &path, events)?;
    if !have.is_full() {
        let missing = have.len() - have.count();
        let text = format!(
            "{missing} of {} pieces in {} are not what the torrent says",
            have.len(),
            path.display()
        );
        return Err(Error::text(Kind::Integrity, text)
            .hint("fetch it anew: flashover fetch TORRENT --into PATH --replace"));
    }
    let content = Content::open(&torrent, &path)?;
    let mut client = Client::start(&torrent, &content, have, true, &config.options)?;
    events.note(format!(
        "Seeding {} on {}",
        shown_name(&torrent),
        client.listens_on()
    ));
    let until = config.seed_time.map(|time| Instant::now() + time);
    client.seed(until)?;
    Ok(client.end(path))
}

/// Fetches a torrent's content, and seeds on for a while.
///
/// # Errors
/// If it does not come in time, cannot be written, or the file exists.
pub fn fetch(config: &Fetch) -> Result<Report> {
    descriptors::raise_limit();
    let deadline = config.deadline.map(|time| Instant::now() + time);
    let mut options = config.options.clone();
    let torrent = match &config.source {
        Source::File(path) => torrent::load(path).or_kind(Kind::Usage)?,
        Source::Url(url) => remote::load(url, &options, deadline)?,
        Source::Magnet(link) => {
            options.peers = magnet::peers(link, &options);
            options.more_trackers.extend(link.trackers.iter().cloned());
            options
                .more_web_seeds
                .extend(link.web_seeds.iter().cloned());
            let (torrent, peers) = magnet::find(link, &options, deadline)?;
            options.peers.extend(peers);
            torrent
        }
    };
    let torrent = Arc::new(torrent);
    let target = target(&config.into, &torrent)?;
    if target.symlink_metadata().is_ok() && !config.replace {
        let text = format!("{} exists", target.display());
        return Err(Error::text(Kind::Precondition, text).hint("replace it by --replace"));
    }
    let events = &config.options.events;
    events.phase(Phase::Resuming);
    let part = Part::open(&torrent, &target, events)?;
    events.phase(Phase::Receiving);
    let have = part.have.clone();
    let mut client = Client::start(&torrent, &part.content, have, false, &options)?;
    client.fetch(deadline)?;
    part.finish(&target, config.replace)?;
    events.phase(Phase::Done);
    client.seed_on(Instant::now() + config.seed_time)?;
    Ok(client.end(target))
}

/// Draws what this client calls itself, once per run.
fn new_peer_id() -> Result<[u8; 20]> {
    let mut peer_id = *b"-FO0100-000000000000";
    peer_id[8..].copy_from_slice(&super::random::<12>()?);
    Ok(peer_id)
}

/// The name in a torrent, for people.
fn shown_name(torrent: &Metainfo) -> String {
    String::from_utf8_lossy(torrent.info().name()).into_owned()
}

/// The name of the content's file or directory: one element, safe to create.
fn file_name(torrent: &Metainfo) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    let first = torrent.info().layout().files().first();
    let name = if torrent.info().is_multi() {
        Some(torrent.info().name().to_vec())
    } else {
        first.and_then(|file| file.path.last()).cloned()
    };
    let name = name.ok_or_else(|| Error::text(Kind::Usage, "The torrent names no file"))?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(name)))
}

fn beside(torrent_path: &Path, torrent: &Metainfo) -> Result<PathBuf> {
    let folder = torrent_path.parent().unwrap_or(Path::new(""));
    Ok(folder.join(file_name(torrent)?))
}

fn target(into: &Path, torrent: &Metainfo) -> Result<PathBuf> {
    Ok(if into.is_dir() {
        into.join(file_name(torrent)?)
    } else {
        into.to_owned()
    })
}

/// Which pieces of a file, or of the files of a directory, are right.
fn look(torrent: &Metainfo, path: &Path, events: &Events) -> Result<Bitmap> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let proof = torrent::verify(torrent, path, threads, events).or_kind(Kind::Storage)?;
    if proof.unknown > 0 {
        let text = format!("The torrent has no hash of {} pieces", proof.unknown);
        return Err(Error::text(Kind::Usage, text));
    }
    let mut have = Bitmap::full(proof.pieces as usize);
    for piece in proof.bad {
        have.clear(piece.as_usize());
    }
    Ok(have)
}
