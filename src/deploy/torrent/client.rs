//! A running torrent: the machine on its thread, its sources of peers, and what is told of it.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::Receiver;

use super::content::Content;
use super::sources::Sources;
use super::web::Web;
use super::{Options, Report, shown_name};
use crate::base::event;
use crate::base::{Bitmap, PieceIndex};
use crate::deploy::error::{Error, Kind, OrKind as _, Result};
use crate::deploy::swarm::member::{Member, Start, Told};
use crate::deploy::swarm::webseed::Ended;
use crate::engine::net::Listener;
use crate::machine::DiskError;
use crate::swarm::Metainfo;
use crate::swarm::cut::Cut;
use crate::swarm::torrent::{Command, Config, Event, Stats, Why};
use crate::swarm::tracker::announcer::Identity;

/// Memory for pieces.
const MEMORY_BYTES: usize = 64 << 20;
/// Events that may wait for the loop.
const EVENTS_MAX: usize = 4096;
/// How often the loop looks at its clocks.
const TICK: Duration = Duration::from_millis(50);
/// How often progress is shown.
const PROGRESS_PERIOD: Duration = Duration::from_millis(250);
/// How long no peer need be connected before web seeds are asked, at the start.
const LONELY_PATIENCE: Duration = Duration::from_secs(2);
/// How long peers may bring nothing before web seeds are asked.
const IDLE_PATIENCE: Duration = Duration::from_secs(4);

pub(super) struct Client {
    torrent: Arc<Metainfo>,
    options: Options,
    have: Bitmap,
    facts: Receiver<Told>,
    /// After the facts: it must not wait for a reader that is gone.
    member: Member,
    sources: Sources,
    web: Option<Web>,
    /// Pieces that the machine is to be told of.
    untold: Vec<PieceIndex>,
    /// When peers last brought anything.
    brought_at: Instant,
    origin: Instant,
    complete_at: Option<Instant>,
    /// The machine has said that all is here.
    is_complete: bool,
    progress_at: Instant,
    stats: Stats,
    bytes_resumed: u64,
    peers_banned: u32,
    backend: &'static str,
}

impl Client {
    /// Starts the machine and looks for peers.
    pub(super) fn start(
        torrent: &Arc<Metainfo>,
        content: &Content,
        have: Bitmap,
        is_first_seed: bool,
        options: &Options,
    ) -> Result<Self> {
        let layout = torrent.info().layout();
        let cut = Cut::new(layout.total_len(), layout.piece_length()).ok_or_else(|| {
            let text = format!("Pieces of {} bytes are too large", layout.piece_length());
            Error::text(Kind::Usage, text)
        })?;
        let listener = Listener::bind(options.listen).or_kind(Kind::Network)?;
        let config = Config {
            have: have.clone(),
            is_first_seed,
            ..config(torrent, cut, options)?
        };
        let peer_id = config.peer_id;
        let (sender, facts) = crossbeam::channel::bounded(EVENTS_MAX);
        let tell = move |told| match sender.send(told) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        let member = match content {
            Content::One(file) => {
                let file = file.try_clone().or_kind(Kind::Storage)?;
                Member::start(start(torrent, config, listener, file, options), tell)?
            }
            Content::Many(files) => {
                let files = Arc::clone(files);
                Member::start_spread(start(torrent, config, listener, files, options), tell)?
            }
        };
        // It has just begun and takes what it is told. Who fetches need not call again when it has
        // everything: who lacks something comes.
        let peers = options.peers.clone();
        member.tell(if have.is_full() {
            Command::Named(peers)
        } else {
            Command::Peers(peers)
        });
        let sources = sources(torrent, peer_id, &member, options)?;
        let missing = bytes_missing(torrent, &have);
        let web = web(torrent, content, &have, options)?;
        Ok(Self {
            bytes_resumed: torrent.info().layout().total_len() - missing,
            torrent: Arc::clone(torrent),
            options: options.clone(),
            have,
            facts,
            member,
            sources,
            web,
            untold: Vec::new(),
            brought_at: Instant::now(),
            origin: Instant::now(),
            complete_at: None,
            is_complete: false,
            progress_at: Instant::now(),
            stats: Stats::default(),
            peers_banned: 0,
            backend: "",
        })
    }

    pub(super) const fn listens_on(&self) -> SocketAddr {
        self.member.listens_on()
    }

    /// Runs until all is here.
    pub(super) fn fetch(&mut self, deadline: Option<Instant>) -> Result {
        while !self.is_complete {
            self.ask_web();
            self.turn()?;
            if deadline.is_some_and(|at| Instant::now() >= at) {
                let missing = self.have.len() - self.have.count();
                let text = format!(
                    "The time is over: {missing} pieces are missing, {} peers are connected",
                    self.stats.peers
                );
                return Err(Error::text(Kind::Network, text)
                    .hint("the same command goes on with what is here"));
            }
        }
        self.complete_at = Some(Instant::now());
        self.progress();
        Ok(())
    }

    /// Lets web seeds bring what peers do not, and tells the machine of that.
    fn ask_web(&mut self) {
        let Some(web) = &mut self.web else {
            return;
        };
        let is_needed = if self.stats.peers == 0 {
            self.origin.elapsed() >= LONELY_PATIENCE
        } else {
            self.brought_at.elapsed() >= IDLE_PATIENCE
        };
        if is_needed {
            web.order(&self.have);
        }
        // What the machine does not hear now it hears at the next turn.
        if !self.untold.is_empty() && self.member.tell(Command::Have(self.untold.clone())) {
            self.untold.clear();
        }
        if let Some(wanted) = web.wanted()
            && self.member.tell(Command::Want(wanted))
        {
            web.told();
        }
    }

    fn web_ended(&mut self, ended: Ended) -> Result {
        if let Some(web) = &mut self.web
            && let Some(piece) = web.take(ended, &self.have)?
        {
            self.have.set(piece.as_usize());
            self.untold.push(piece);
        }
        Ok(())
    }

    /// Seeds until the time is over or the user stops it.
    pub(super) fn seed(&mut self, until: Option<Instant>) -> Result {
        while until.is_none_or(|until| Instant::now() < until) {
            match self.turn() {
                Err(error) if error.kind() == Kind::Interrupted => return Ok(()),
                other => other?,
            }
        }
        Ok(())
    }

    /// Seeds while somebody who is connected lacks anything, no longer than `until`.
    pub(super) fn seed_on(&mut self, until: Instant) -> Result {
        // Whoever was served last is connected; statistics are a second old at most.
        let settled = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < until
            && (self.stats.peers_lacking > 0 || Instant::now() < settled.min(until))
        {
            match self.turn() {
                Err(error) if error.kind() == Kind::Interrupted => return Ok(()),
                other => other?,
            }
        }
        Ok(())
    }

    /// Waits for a fact, and does what is due.
    fn turn(&mut self) -> Result {
        let ended = self.web.as_ref().map(|web| web.ended().clone());
        crossbeam::channel::select! {
            recv(self.facts) -> told => {
                let over = |_| Error::text(Kind::Internal, "The torrent's thread has ended");
                self.learn(told.map_err(over)?)?;
            }
            recv(ended.unwrap_or_else(crossbeam::channel::never)) -> ended => {
                let over = |_| Error::text(Kind::Internal, "The web seeds' thread has ended");
                self.web_ended(ended.map_err(over)?)?;
            }
            default(TICK) => {}
        }
        if self.options.interrupt.get().is_some() {
            return Err(Error::text(Kind::Interrupted, "Stopped")
                .hint("the same command goes on with what is here"));
        }
        if Instant::now() >= self.progress_at {
            self.progress();
            let left = self.left_bytes();
            let stats = Stats {
                bytes_in: self.stats.bytes_in + self.bytes_webseed(),
                ..self.stats
            };
            self.sources.tell(&stats, left, self.is_complete);
        }
        Ok(())
    }

    fn learn(&mut self, told: Told) -> Result {
        match told {
            Told::Backend(name) => self.backend = name,
            Told::Failed(text) => return Err(Error::text(Kind::Internal, text)),
            Told::Event(event) => self.heard(&event)?,
        }
        Ok(())
    }

    fn heard(&mut self, event: &Event) -> Result {
        match *event {
            Event::PieceStored { piece, .. } => {
                self.have.set(piece.as_usize());
                if let Some(web) = &mut self.web {
                    web.cancel(piece);
                }
            }
            Event::PieceWrong { piece, peers } if peers > 1 => self.options.events.warn(format!(
                "{piece} of {peers} peers was wrong: what is wrong of it is fetched again"
            )),
            Event::DiskFailed { piece, error } => return self.disk_failed(piece, error),
            Event::Left {
                peer,
                why: why @ (Why::SentWrong(_) | Why::WrongHashes(_)),
            } => {
                self.peers_banned += 1;
                self.options.events.warn(format!("{peer}: {why}"));
            }
            Event::Left { peer, why } => tracing::debug!(%peer, %why, "A peer left"),
            Event::Connected { peer, name } => {
                let name = String::from_utf8_lossy(&name[..8]).into_owned();
                tracing::debug!(%peer, name, "A peer is connected");
            }
            Event::Complete => self.is_complete = true,
            Event::Stats(stats) => {
                if stats.bytes_in > self.stats.bytes_in {
                    self.brought_at = Instant::now();
                }
                self.stats = stats;
            }
            Event::PieceWrong { .. } | Event::Stopped => {}
        }
        Ok(())
    }

    fn disk_failed(&self, piece: PieceIndex, error: DiskError) -> Result {
        let text = format!("{piece} could not be moved to or from the disk");
        let error = Error::new(Kind::Storage, anyhow::Error::new(error).context(text));
        if error.kind() == Kind::Storage && self.is_complete {
            self.options
                .events
                .warn(format!("{error}: it is not seeded any more"));
            return Ok(());
        }
        Err(error)
    }

    fn bytes_webseed(&self) -> u64 {
        self.web.as_ref().map_or(0, Web::bytes)
    }

    fn left_bytes(&self) -> u64 {
        bytes_missing(&self.torrent, &self.have)
    }

    fn progress(&mut self) {
        self.progress_at = Instant::now() + PROGRESS_PERIOD;
        let total = self.torrent.info().layout().total_len();
        self.options.events.raise(event::Event::Progress {
            bytes_done: total - self.left_bytes(),
            bytes_total: total,
        });
    }

    /// Ends it and says what was done.
    pub(super) fn end(mut self, path: PathBuf) -> Report {
        let ended_at = self.complete_at.unwrap_or_else(Instant::now);
        self.stop();
        Report {
            v: 1,
            name: shown_name(&self.torrent),
            path,
            bytes: self.torrent.info().layout().total_len(),
            seconds: (ended_at - self.origin).as_secs_f64(),
            bytes_resumed: self.bytes_resumed,
            bytes_in: self.stats.bytes_in,
            bytes_wasted: self.stats.bytes_wasted,
            bytes_webseed: self.bytes_webseed(),
            bytes_out: self.stats.bytes_out,
            peers_banned: self.peers_banned,
            backend: self.backend,
        }
    }

    /// Lets the machine say its last numbers and end.
    fn stop(&mut self) {
        self.member.tell(Command::Stop);
        let until = Instant::now() + Duration::from_secs(2);
        while let Ok(told) = self.facts.recv_deadline(until) {
            if let Told::Event(Event::Stats(stats)) = told {
                self.stats = stats;
            }
        }
        self.sources.end();
    }
}

fn bytes_missing(torrent: &Metainfo, have: &Bitmap) -> u64 {
    let layout = torrent.info().layout();
    let piece = |at: usize| PieceIndex::new(u32::try_from(at).unwrap_or(u32::MAX));
    let missing = have.runs(false).flatten();
    missing
        .map(|at| u64::from(layout.piece_len(piece(at))))
        .sum()
}

/// What the machine is given, but for the pieces that are here.
fn config(torrent: &Arc<Metainfo>, cut: Cut, options: &Options) -> Result<Config> {
    let names = torrent.info().names();
    Ok(Config {
        names: names.iter().map(|name| name.wire()).collect(),
        peer_id: super::new_peer_id()?,
        cut,
        have: Bitmap::new(cut.piece_count() as usize),
        is_first_seed: false,
        secret: None,
        nonces: crate::deploy::random()?,
        seed: u64::from_be_bytes(crate::deploy::random()?),
        listen_port: None,
        info: Some(torrent.info().bytes().clone()),
        metainfo: Some(Arc::clone(torrent)),
        is_private: torrent.info().is_private(),
        blocks_max: 0,
        up_max: options.up_max,
        down_max: options.down_max,
    })
}

fn start<F>(
    torrent: &Arc<Metainfo>,
    config: Config,
    listener: Listener,
    file: F,
    options: &Options,
) -> Start<Arc<Metainfo>, F> {
    Start {
        config,
        listener,
        file,
        memory_bytes: MEMORY_BYTES,
        ways: options.ways,
        verify: Arc::clone(torrent),
    }
}

/// Prepares to ask the torrent's web seeds for what is missing.
fn web(
    torrent: &Arc<Metainfo>,
    content: &Content,
    have: &Bitmap,
    options: &Options,
) -> Result<Option<Web>> {
    if have.is_full() || !options.web_seeds {
        return Ok(None);
    }
    let mut urls = torrent.web_seeds();
    urls.extend(options.more_web_seeds.iter().cloned());
    Web::start(torrent, content, urls, options)
}

/// Begins to look for peers: at the torrent's trackers, and on this network.
fn sources(
    torrent: &Metainfo,
    peer_id: [u8; 20],
    member: &Member,
    options: &Options,
) -> Result<Sources> {
    let names = torrent.info().names();
    let key = u32::from_be_bytes(crate::deploy::random()?);
    let identities = names.iter().map(|name| Identity {
        info_hash: name.wire(),
        peer_id,
        port: member.listens_on().port(),
        key,
    });
    let mailbox = member.mailbox().clone();
    let found = move |peers| {
        // At the end nobody listens any more.
        drop(mailbox.send(Command::Peers(peers)));
    };
    let trackers = options.trackers_of(torrent);
    let mut sources = Sources::start(&trackers, identities.collect(), options, found.clone())?;
    if options.lsd.unwrap_or(!torrent.info().is_private()) {
        let names = names.iter().map(|name| name.wire());
        sources.discover(names, member.listens_on(), found);
    }
    Ok(sources)
}
