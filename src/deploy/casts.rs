//! The multicasts of a head: one sender machine per wanted bundle, each on a thread of its own. A
//! cast starts with the first node that joins and ends when nobody has wanted anything for a while.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::control::{JoinRequest, ProbeRequest};
use super::error::{Kind, OrKind as _, Result};
use super::hub::Published;
use super::net::NetOptions;
use super::path;
use crate::base::counter::Counters;
use crate::base::event::Events;
use crate::base::{EpochId, NodeId};
use crate::engine::{Arena, Driver, Interface, Mailbox, Setup, Socket, mailbox};
use crate::fec::RaptorQ;
use crate::multicast::limits::{PIECES_UNDER_WAY_MAX, WINDOW_BYTES_DEFAULT};
use crate::multicast::sender::{Beside, Command, Event};
use crate::multicast::{Aes128Gcm, Secret, Sender, SenderConfig, Session};

/// Bundles that are cast at a time; further ones go by HTTP.
const CASTS_MAX: usize = 16;
/// How long a cast goes on when nobody wants anything.
const LINGER: Duration = Duration::from_secs(60);
/// How long the end of a cast is waited for.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of the bundle that a sender keeps in memory.
const ARENA_BYTES: usize = 24 << 20;
/// The fewest blocks that a sender works with.
const BLOCKS_MIN: usize = 20;
/// Ports that are tried for reports, from the preferred one on.
const REPORT_PORTS_TRIED: u16 = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Casts {
    config: Option<CastConfig>,
    running: Mutex<BTreeMap<(String, u64), Cast>>,
    counters: Arc<Counters>,
    events: Events,
}

/// How to cast.
#[derive(Clone, Debug)]
pub(crate) struct CastConfig {
    /// Where it goes out.
    pub(crate) interface: Interface,
    /// How.
    pub(crate) net: NetOptions,
    /// The head's public key: sessions of two heads never share an id.
    pub(crate) head: [u8; 32],
    /// The UDP port that takes reports, if it is free.
    pub(crate) report_port: u16,
    /// How many receivers a cast that begins an image waits for, a little.
    pub(crate) awaited: usize,
}

/// One cast that runs, or has ended and was not cleared away.
#[derive(Debug)]
struct Cast {
    encoded: Vec<u8>,
    symbol_size: u16,
    mailbox: Mailbox<Command>,
    shared: Arc<Mutex<Shared>>,
    thread: JoinHandle<()>,
}

/// What a cast's thread shares with the head.
#[derive(Debug)]
struct Shared {
    status: CastStatus,
    /// When somebody last joined or lacked something.
    wanted: Instant,
    /// Whether it is about to end, so that nobody may join it any more.
    ending: bool,
    pulse: Pulse,
}

/// How a cast does, for who shares the cable with it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pulse {
    /// Bytes per second that reach nine in ten of those that hear it; 0 if none hears anything.
    pub(crate) arriving: f64,
    /// Loss keeps its rate low, as far as that is known already.
    pub(crate) is_lowered: bool,
    /// Pieces that nodes lack.
    pub(crate) pieces_lacking: u32,
}

/// A cast, as `GET /v1/status` shows it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct CastStatus {
    image: String,
    serial: u64,
    group: String,
    backend: &'static str,
    bytes_sent: u64,
    rate_bytes_per_s: u64,
    rate_bytes_per_s_adapted: Option<u64>,
    loss_median: f64,
    symbol_size: u16,
    position: u32,
    pieces_lacking: u32,
    nodes: Vec<CastNode>,
}

/// A receiver of a cast.
#[derive(Clone, Debug, Serialize)]
struct CastNode {
    host: String,
    from: String,
    pieces_done: u32,
    pieces_missing: u32,
    loss: f64,
    dropped: u32,
    demoted: bool,
}

impl Casts {
    /// Casts as `config` says; `None` never does.
    pub(crate) fn new(config: Option<CastConfig>, counters: Arc<Counters>, events: Events) -> Self {
        Self {
            config,
            running: Mutex::default(),
            counters,
            events,
        }
    }

    /// Gives the encoded session of a bundle, which starts if it does not run; `None` if this head
    /// does not cast, or casts too much already.
    ///
    /// Symbols are as large as every node that has joined can take. Who can take less than the
    /// others ends the session, and all go on in another with what they have.
    ///
    /// # Errors
    /// If the cast cannot start.
    pub(crate) fn join(
        &self,
        published: &Arc<Published>,
        request: &JoinRequest,
    ) -> Result<Option<Vec<u8>>> {
        let Some(config) = &self.config else {
            return Ok(None);
        };
        let manifest = &published.manifest;
        let key = (manifest.name.to_string(), manifest.serial.0);
        let mut running = self.running();
        running.retain(|_, cast| !cast.thread.is_finished());
        let symbol_size = config.net.symbol_size(&config.interface, request.mtu)?;
        let mut position = 0;
        if let Some(cast) = running.get(&key) {
            if cast.admits(symbol_size) {
                return Ok(Some(cast.encoded.clone()));
            }
            if cast.symbol_size > symbol_size {
                // Pieces that are being read or sent are at no node yet.
                position = lock(&cast.shared)
                    .status
                    .position
                    .saturating_sub(PIECES_UNDER_WAY_MAX);
                self.events.note(format!(
                    "{} goes on in datagrams of {symbol_size} bytes: {} takes no larger ones",
                    key.0, request.host
                ));
            }
            running.remove(&key);
        }
        if running.len() >= CASTS_MAX {
            self.events.warn(format!(
                "More than {CASTS_MAX} images are wanted at a time; {} goes by HTTP",
                key.0
            ));
            return Ok(None);
        }
        let cast = Cast::start(
            config,
            published,
            symbol_size,
            position,
            &self.counters,
            &self.events,
        )?;
        let encoded = cast.encoded.clone();
        running.insert(key, cast);
        Ok(Some(encoded))
    }

    /// Sends a node the large datagrams that it asks for; gives their MTU, 0 for none.
    ///
    /// # Errors
    /// If they cannot be sent.
    pub(crate) fn probe(&self, node: IpAddr, request: &ProbeRequest) -> std::io::Result<u32> {
        let Some(config) = &self.config else {
            return Ok(0);
        };
        path::send_probes(config.interface.mtu, node, request.port, &request.nonce)
    }

    /// How the cast of a bundle does, if there is one.
    pub(crate) fn pulse(&self, name: &str, serial: u64) -> Option<Pulse> {
        let running = self.running();
        let cast = running.get(&(name.to_owned(), serial))?;
        (!cast.thread.is_finished()).then(|| lock(&cast.shared).pulse)
    }

    /// Tells the cast of a bundle what goes beside it.
    pub(crate) fn beside(&self, name: &str, serial: u64, beside: Beside) {
        if let Some(cast) = self.running().get(&(name.to_owned(), serial)) {
            // A thread that is gone has no rate.
            drop(cast.mailbox.send(Command::Beside(beside)));
        }
    }

    /// What runs.
    pub(crate) fn status(&self) -> Vec<CastStatus> {
        let running = self.running();
        let casts = running.values().filter(|cast| !cast.thread.is_finished());
        casts
            .map(|cast| lock(&cast.shared).status.clone())
            .collect()
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<(String, u64), Cast>> {
        lock(&self.running)
    }
}

impl Drop for Casts {
    fn drop(&mut self) {
        let running = std::mem::take(&mut *self.running());
        for cast in running.values() {
            // A thread that is gone already needs no command.
            drop(cast.mailbox.send(Command::Stop));
        }
        let until = Instant::now() + FAREWELL_PATIENCE;
        for cast in running.into_values() {
            while !cast.thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            cast.mailbox.stop();
            if cast.thread.join().is_err() {
                tracing::error!("A casting thread had panicked");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|broken| broken.into_inner())
}

impl Cast {
    /// Whether a node that can take symbols of this size may join; if it only cannot take those of
    /// this cast, the cast ends.
    fn admits(&self, symbol_size: u16) -> bool {
        let mut shared = lock(&self.shared);
        if shared.ending {
            return false;
        }
        shared.wanted = Instant::now();
        shared.ending = self.symbol_size > symbol_size;
        if shared.ending {
            // A thread that is gone already needs no command.
            drop(self.mailbox.send(Command::Stop));
        }
        !shared.ending
    }

    fn start(
        config: &CastConfig,
        published: &Arc<Published>,
        symbol_size: u16,
        position: u32,
        counters: &Arc<Counters>,
        events: &Events,
    ) -> Result<Self> {
        let manifest = &published.manifest;
        let socket = open_socket(config)?;
        let tsi = tsi_of(config, published);
        let session = Session {
            tsi,
            epoch: EpochId(u16::from_be_bytes(super::random()?)),
            group: config.net.group(tsi),
            report_port: socket.local().port(),
            geometry: manifest.geometry,
            symbol_size,
        };
        let secret = Secret::new(super::random()?);
        let sender = SenderConfig {
            session,
            secret: secret.clone(),
            seed: u64::from_be_bytes(super::random()?),
            rate_bytes_per_s_max: config.net.rate_bytes_per_s_max,
            window_bytes: WINDOW_BYTES_DEFAULT,
            position,
            // Later casts are for who was late or is left.
            awaited: if position == 0 { config.awaited } else { 0 },
        };
        let status = CastStatus {
            image: manifest.name.to_string(),
            serial: manifest.serial.0,
            group: session.group.to_string(),
            symbol_size,
            position,
            ..CastStatus::default()
        };
        let shared = Arc::new(Mutex::new(Shared {
            status,
            wanted: Instant::now(),
            ending: false,
            pulse: Pulse::default(),
        }));
        let (mailbox, commands) = mailbox().or_kind(Kind::Internal)?;
        let run = Run {
            sender,
            socket,
            published: Arc::clone(published),
            net: config.net.clone(),
            shared: Arc::clone(&shared),
            mailbox: mailbox.clone(),
            counters: Arc::clone(counters),
            events: events.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("cast".to_owned())
            .spawn(move || run.run(&commands))
            .or_kind(Kind::Internal)?;
        Ok(Self {
            encoded: session.encode(&secret),
            symbol_size,
            mailbox,
            shared,
            thread,
        })
    }
}

/// The id of a session follows from what is cast and by whom; so a node notices at once when the
/// head was started anew: the same session has an unknown epoch.
fn tsi_of(config: &CastConfig, published: &Published) -> u32 {
    let mut hasher = blake3::Hasher::new_derive_key("flashover 1 multicast session id");
    hasher
        .update(&config.head)
        .update(&published.manifest.serial.0.to_be_bytes())
        .update(published.manifest.name.as_str().as_bytes());
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// Opens the socket that sends to the group and takes reports.
fn open_socket(config: &CastConfig) -> Result<Socket> {
    let preferred = config.report_port;
    let ports = (0..REPORT_PORTS_TRIED).map(|step| preferred.saturating_add(step));
    let open = |port| {
        let bind = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        Socket::multicast_sender(bind, &config.interface, config.net.ttl)
    };
    let mut last = open(preferred);
    for port in ports.skip(1).chain([0]) {
        if last.is_ok() {
            break;
        }
        last = open(port);
    }
    last.or_kind_with(Kind::Network, || {
        format!("Cannot cast on {}", config.interface)
    })
}

/// What a cast's thread owns.
struct Run {
    sender: SenderConfig,
    socket: Socket,
    published: Arc<Published>,
    net: NetOptions,
    shared: Arc<Mutex<Shared>>,
    mailbox: Mailbox<Command>,
    counters: Arc<Counters>,
    events: Events,
}

impl Run {
    fn run(self, commands: &crate::engine::Commands<Command>) {
        let image = self.published.manifest.name.to_string();
        let events = self.events.clone();
        if let Err(error) = self.drive(commands) {
            events.warn(format!("The multicast of {image} ended: {error}"));
        }
    }

    fn drive(self, commands: &crate::engine::Commands<Command>) -> Result {
        let piece_size = self.published.manifest.geometry.piece_size();
        let count = (ARENA_BYTES / piece_size).max(BLOCKS_MIN);
        let arena = Arena::new(piece_size, count).or_kind(Kind::Internal)?;
        let bundle = self.published.bundle.try_clone().or_kind(Kind::Storage)?;
        let setup = Setup {
            sockets: vec![self.socket],
            listeners: Vec::new(),
            files: vec![bundle],
            arena: Some(arena.clone()),
            ways: self.net.ways,
            counters: Arc::clone(&self.counters),
        };
        let mut driver = Driver::new(setup).or_kind(Kind::Internal)?;
        lock(&self.shared).status.backend = driver.backend();
        let verify = self.published.verify()?;
        let mut machine = Sender::new(
            self.sender,
            RaptorQ::default(),
            Aes128Gcm,
            verify,
            Box::new(arena),
            self.counters,
        );
        let teller = Teller {
            shared: self.shared,
            mailbox: self.mailbox,
            events: self.events,
        };
        let ended = driver.run(&mut machine, commands, |event| teller.tell(event));
        lock(&teller.shared).ending = true;
        ended.or_kind(Kind::Network)
    }
}

/// Turns what a sender says into status, warnings, and the end when nobody wants it any more.
struct Teller {
    shared: Arc<Mutex<Shared>>,
    mailbox: Mailbox<Command>,
    events: Events,
}

impl Teller {
    fn tell(&self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Joined {
                node, host, from, ..
            } => {
                self.note(&host, node, &format!("receives, from {from}"));
            }
            Event::NodeDone { node, host } => self.note(&host, node, "has every piece"),
            Event::NodeGone {
                node,
                host,
                cause,
                pieces_missing,
            } => self.warn(
                &host,
                node,
                &format!("is gone ({cause:?}), it lacked {pieces_missing} pieces"),
            ),
            Event::Demoted { node, host, cause } => {
                self.warn(
                    &host,
                    node,
                    &format!("cannot follow ({cause:?}) and is served last"),
                );
            }
            Event::Twin {
                node,
                host,
                from,
                twin,
            } => {
                let what = format!(
                    "receives at {}, and reports in its name come from {} too, which are refused",
                    from.ip(),
                    twin.ip()
                );
                self.warn(&host, node, &what);
            }
            Event::Readmitted { node, host } => self.note(&host, node, "is served again"),
            Event::ReadFailed { piece, error } => {
                let text = format!(
                    "{piece} cannot be read and is not sent: {error}; see `flashover image verify`"
                );
                self.events.warn(text);
            }
            Event::Progress(progress) => self.progress(progress),
            Event::Idle => {}
            Event::Stopped => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    fn note(&self, host: &str, node: NodeId, what: &str) {
        self.events.note(format!("{host} ({node}) {what}"));
    }

    fn warn(&self, host: &str, node: NodeId, what: &str) {
        self.events.warn(format!("{host} ({node}) {what}"));
    }

    fn progress(&self, progress: crate::multicast::sender::Progress) {
        tracing::debug!(
            rate = progress.rate_bytes_per_s,
            adapted = progress.rate_bytes_per_s_adapted,
            loss = progress.loss_quantile,
            receiving = progress.receiving,
            lacking = progress.pieces_lacking,
            "A cast"
        );
        let mut shared = lock(&self.shared);
        if progress.pieces_lacking > 0 {
            shared.wanted = Instant::now();
        } else if shared.wanted.elapsed() > LINGER && !shared.ending {
            shared.ending = true;
            // If the queue is full, the next second tries again.
            shared.ending = self.mailbox.send(Command::Stop).is_ok();
        }
        #[expect(clippy::cast_precision_loss, reason = "rates need no 53 bits")]
        let arriving = progress.arrives_bytes_per_s as f64;
        shared.pulse = Pulse {
            arriving: if progress.receiving > 0 {
                arriving
            } else {
                0.0
            },
            is_lowered: progress.is_held_back,
            pieces_lacking: progress.pieces_lacking,
        };
        let status = &mut shared.status;
        status.bytes_sent = progress.bytes_sent;
        status.rate_bytes_per_s = progress.rate_bytes_per_s;
        status.rate_bytes_per_s_adapted = progress.rate_bytes_per_s_adapted;
        status.loss_median = progress.loss_median;
        status.position = progress.position;
        status.pieces_lacking = progress.pieces_lacking;
        let node = |node: crate::multicast::sender::NodeProgress| CastNode {
            host: node.host,
            from: node.from.to_string(),
            pieces_done: node.pieces_done,
            pieces_missing: node.pieces_missing,
            loss: node.loss,
            dropped: node.dropped,
            demoted: node.is_demoted,
        };
        status.nodes = progress.nodes.into_iter().map(node).collect();
    }
}
