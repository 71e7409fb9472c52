//! `seed` and `fetch`: one torrent, as any BitTorrent client has it, on the engine.
//!
//! ```text
//!   trackers, --peer ──addresses──► Torrent (its own thread, over the engine) ──► file
//! ```
//!
//! What is fetched lies in `NAME.part` until all of it is proven; a later `fetch` goes on with it.
//! The bytes travel in clear, as BitTorrent's do.

mod client;
mod magnet;
mod sources;
mod web;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::descriptors;
use super::error::{Error, Kind, OrKind as _, Result};
use super::interrupt::Interrupt;
use super::net::Ways;
use crate::base::Bitmap;
use crate::base::event::{Events, Phase};
use crate::base::units::format_bytes;
use crate::capture::torrent;
use crate::swarm::{Magnet, Metainfo};
use client::Client;

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
    /// private. By a magnet link alone only if it is said.
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
    /// Its content; by default the file of its name beside it.
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
    /// What a link names; peers have the description.
    Magnet(Box<Magnet>),
}

/// What `fetch` needs.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// What.
    pub source: Source,
    /// The file to write, or the directory to put it into.
    pub into: PathBuf,
    /// Whether a file of this name is replaced.
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
    /// The content's file.
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
    let torrent = torrent::load(&config.torrent).or_kind(Kind::Usage)?;
    need_one_file(&torrent)?;
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
    let file = File::open(&path).or_kind(Kind::Storage)?;
    let mut client = Client::start(&torrent, &file, have, true, &config.options)?;
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
    need_one_file(&torrent)?;
    let target = target(&config.into, &torrent)?;
    if target.exists() && !config.replace {
        let text = format!("{} exists", target.display());
        return Err(Error::text(Kind::Precondition, text).hint("replace it by --replace"));
    }
    let part = PathBuf::from(format!("{}.part", target.display()));
    let events = &config.options.events;
    events.phase(Phase::Resuming);
    let (file, have) = open_part(&torrent, &part, events)?;
    events.phase(Phase::Receiving);
    let mut client = Client::start(&torrent, &file, have, false, &options)?;
    client.fetch(deadline)?;
    file.sync_all().or_kind_with(Kind::Storage, || {
        format!("Cannot complete {}", part.display())
    })?;
    std::fs::rename(&part, &target).or_kind_with(Kind::Storage, || {
        format!("Cannot complete {}", target.display())
    })?;
    events.phase(Phase::Done);
    client.seed_on(Instant::now() + config.seed_time)?;
    Ok(client.end(target))
}

fn need_one_file(torrent: &Metainfo) -> Result {
    if torrent.info().is_multi() || torrent.info().layout().files().len() != 1 {
        let count = torrent.info().layout().files().len();
        let text = format!("The torrent has {count} files, or a directory");
        return Err(Error::text(Kind::Usage, text)
            .hint("this version seeds and fetches torrents of one file, as those of bundles are"));
    }
    Ok(())
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

/// The content's file name: one element, safe to create.
fn file_name(torrent: &Metainfo) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    let file = torrent.info().layout().files().first();
    let name = file.and_then(|file| file.path.last());
    let name = name.ok_or_else(|| Error::text(Kind::Usage, "The torrent names no file"))?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(name.clone())))
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

/// Which pieces of a file are right.
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

/// Opens what an earlier attempt left, or makes it, as long as the content will be.
fn open_part(torrent: &Metainfo, part: &Path, events: &Events) -> Result<(File, Bitmap)> {
    let total = torrent.info().layout().total_len();
    let was_there = part.exists();
    let open = || -> std::io::Result<File> {
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(part)?;
        file.set_len(total)?;
        Ok(file)
    };
    let file = open().or_kind_with(Kind::Storage, || format!("Cannot write {}", part.display()))?;
    let have = if was_there {
        look(torrent, part, events)?
    } else {
        Bitmap::new(torrent.info().layout().piece_count() as usize)
    };
    check_space(&file, part, total, &have)?;
    Ok((file, have))
}

/// Whether what is missing will fit.
fn check_space(file: &File, part: &Path, total: u64, have: &Bitmap) -> Result {
    let Ok(stat) = rustix::fs::fstatvfs(file) else {
        return Ok(());
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let share = (have.len() - have.count()) as u64;
    let missing = total / (have.len() as u64).max(1) * share;
    if missing <= free {
        return Ok(());
    }
    let text = format!(
        "{} more are needed for {}, {} are free there",
        format_bytes(missing),
        part.display(),
        format_bytes(free)
    );
    Err(Error::text(Kind::Storage, text).hint("make room, or fetch to another disk"))
}
