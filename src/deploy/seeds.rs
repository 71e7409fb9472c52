//! The head in the swarms of its runs: a seed for each bundle that nodes swarm for, from the first
//! of them on until none has been heard for a while.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::balance::{Balance, Sample};
use super::casts::Pulse;
use super::error::{Error, Kind, OrKind as _, Result};
use super::hub::Published;
use super::net::NetOptions;
use super::swarm::member::{Member, Start, Told};
use super::swarm::run::RunSwarm;
use crate::base::event::Events;
use crate::base::{Bitmap, Time};
use crate::image::verify::PieceHashes;
use crate::multicast::sender::Beside;
use crate::swarm::torrent::{Command, Config, Event, Stats};

/// Seeds at a time.
const SEEDS_MAX: usize = 16;
/// Memory for the pieces of one.
const MEMORY_BYTES: usize = 64 << 20;
/// How long a seed stays after a node was heard last.
const LINGER: Duration = Duration::from_secs(300);

/// How the head seeds.
#[derive(Clone, Debug)]
pub(crate) struct SeedConfig {
    /// The address to listen on.
    pub(crate) listen: IpAddr,
    /// How the network is used.
    pub(crate) net: NetOptions,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Seeds {
    config: Option<SeedConfig>,
    running: Mutex<BTreeMap<(String, u64), Seed>>,
    started: Instant,
    events: Events,
}

#[derive(Debug)]
struct Seed {
    member: Member,
    heard: Instant,
    stats: Arc<Mutex<Stats>>,
    balance: Balance,
    serves: bool,
    piece_size: usize,
}

/// A seed, as `GET /v1/status` shows it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct SeedStatus {
    /// Nodes that are connected.
    nodes: usize,
    /// Bytes of pieces that they were sent.
    bytes_out: u64,
}

impl Seeds {
    /// Seeds as `config` says; `None` never does.
    pub(crate) fn new(config: Option<SeedConfig>, events: Events) -> Self {
        Self {
            config,
            running: Mutex::new(BTreeMap::new()),
            started: Instant::now(),
            events,
        }
    }

    /// The port of a bundle's seed, which starts if it does not run, beside a cast or alone; `None`
    /// if this head does not seed, or seeds too much already.
    ///
    /// # Errors
    /// If it cannot start.
    pub(crate) fn port(
        &self,
        published: &Published,
        secret: [u8; 32],
        is_cast: bool,
    ) -> Result<Option<u16>> {
        let Some(config) = &self.config else {
            return Ok(None);
        };
        let manifest = &published.manifest;
        let key = (manifest.name.to_string(), manifest.serial.0);
        let mut running = self.running();
        running.retain(|_, seed| !seed.member.is_over());
        if let Some(seed) = running.get_mut(&key) {
            seed.heard = Instant::now();
            return Ok(Some(seed.member.listens_on().port()));
        }
        let Some(swarm) = RunSwarm::new(manifest, secret) else {
            return Ok(None);
        };
        if running.len() >= SEEDS_MAX {
            return Ok(None);
        }
        let balance = if is_cast {
            Balance::beside_cast(self.now())
        } else {
            Balance::alone()
        };
        let seed = self.start(config, published, &swarm, balance)?;
        let port = seed.member.listens_on().port();
        running.insert(key, seed);
        Ok(Some(port))
    }

    fn start(
        &self,
        config: &SeedConfig,
        published: &Published,
        swarm: &RunSwarm,
        balance: Balance,
    ) -> Result<Seed> {
        let manifest = &published.manifest;
        let verify = PieceHashes::new(manifest.geometry, manifest.pieces.clone());
        let have = Bitmap::full(manifest.pieces.len());
        let start = Start {
            config: Config {
                up_max: config.net.rate_bytes_per_s_max,
                ..swarm.config(have, true)?
            },
            listener: config.net.listen_for_peers(config.listen)?,
            file: published.bundle.try_clone().or_kind(Kind::Storage)?,
            memory_bytes: MEMORY_BYTES,
            ways: config.net.ways,
            verify: verify.ok_or_else(|| {
                Error::text(Kind::Integrity, "The manifest lacks hashes of pieces")
            })?,
        };
        let stats = Arc::new(Mutex::new(Stats::default()));
        let (shared, events) = (Arc::clone(&stats), self.events.clone());
        let image = manifest.name.to_string();
        let member = Member::start(start, move |told| {
            tell(told, &image, &shared, &events);
            ControlFlow::Continue(())
        })?;
        let serves = balance.serves() || !member.tell(Command::Serve(false));
        Ok(Seed {
            member,
            heard: Instant::now(),
            stats,
            balance,
            serves,
            piece_size: manifest.geometry.piece_size(),
        })
    }

    /// Lets seeds serve or not, as the casts beside them do that serve anybody well.
    pub(crate) fn balance(
        &self,
        pulse: impl Fn(&str, u64) -> Option<Pulse>,
        tell_cast: impl Fn(&str, u64, Beside),
    ) {
        let now = self.now();
        for ((name, serial), seed) in self.running().iter_mut() {
            if !seed.member.is_over() {
                seed.balance(pulse(name, *serial), now);
                tell_cast(name, *serial, seed.balance.beside());
            }
        }
    }

    fn now(&self) -> Time {
        Time::ZERO + self.started.elapsed()
    }

    /// Ends seeds of which no node has been heard for long.
    pub(crate) fn tidy_up(&self) {
        let is_left = |seed: &Seed| seed.heard.elapsed() > LINGER;
        let ended: Vec<Seed> = {
            let mut running = self.running();
            let left = running.iter().filter(|(_, seed)| is_left(seed));
            let left: Vec<_> = left.map(|(key, _)| key.clone()).collect();
            left.iter().filter_map(|key| running.remove(key)).collect()
        };
        // Their ends are waited for without the lock.
        drop(ended);
    }

    /// How the seed of a bundle does.
    pub(crate) fn status(&self, published: &Published) -> SeedStatus {
        let manifest = &published.manifest;
        let key = (manifest.name.to_string(), manifest.serial.0);
        let running = self.running();
        let stats = running.get(&key).map(|seed| *lock(&seed.stats));
        let stats = stats.unwrap_or_default();
        SeedStatus {
            nodes: stats.peers,
            bytes_out: stats.bytes_out,
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<(String, u64), Seed>> {
        lock(&self.running)
    }
}

impl Seed {
    fn balance(&mut self, pulse: Option<Pulse>, now: Time) {
        let pulse = pulse.unwrap_or_default();
        let sent = lock(&self.stats).bytes_out;
        #[expect(clippy::cast_precision_loss, reason = "rates need no 53 bits")]
        let (sent, piece) = (sent as f64, self.piece_size as f64);
        let sample = Sample {
            cast: pulse.arriving,
            is_lowered: pulse.is_lowered,
            sent,
            left: f64::from(pulse.pieces_lacking) * piece,
        };
        let serves = self.balance.decide(&sample, now);
        tracing::debug!(?sample, serves, "Cast and seed");
        if serves != self.serves && self.member.tell(Command::Serve(serves)) {
            self.serves = serves;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|broken| broken.into_inner())
}

fn tell(told: Told, image: &str, stats: &Mutex<Stats>, events: &Events) {
    match told {
        Told::Event(Event::Stats(new)) => *lock(stats) = new,
        Told::Event(Event::DiskFailed { piece, error }) => events.warn(format!(
            "{piece} of {image} cannot be read and is not seeded: {error}; see `flashover image \
             verify`"
        )),
        Told::Event(Event::Left { peer, why }) if why.is_harm() => {
            events.warn(format!("The swarm of {image}: {peer}: {why}"));
        }
        Told::Event(Event::Left { peer, why }) => {
            tracing::debug!(%peer, %why, image, "A node left the swarm");
        }
        Told::Event(_) | Told::Backend(_) => {}
        Told::Failed(why) => events.warn(format!("The seed of {image} has ended: {why}")),
    }
}
