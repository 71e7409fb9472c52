//! The node's end of the swarm: a torrent beside the multicast, on the same piece store; and what
//! it does for others when all is here.

use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};

use super::Fact;
use crate::base::{Bitmap, PieceIndex};
use crate::deploy::control::{Client, PeersReply, PeersRequest, Swarming};
use crate::deploy::error::{Error, Kind, OrKind as _, Result};
use crate::deploy::net::NetOptions;
use crate::deploy::store::PieceStore;
use crate::deploy::swarm::lsd::{self, LocalDiscovery};
use crate::deploy::swarm::member::{Member, Start, Told};
use crate::deploy::swarm::run::RunSwarm;
use crate::deploy::unhex;
use crate::engine::net::Listener;
use crate::image::Manifest;
use crate::image::verify::PieceHashes;
use crate::swarm::torrent::{Command, Event, Stats};

/// Memory for pieces.
const MEMORY_BYTES: usize = 16 << 20;
/// The shortest time between two requests for peers, whatever the head says.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The time between two words to peers that the head does not tell of.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(10);
/// Half of the first pause between the last questions to a head of few nodes.
const LAST_PAUSE_MIN: Duration = Duration::from_millis(50);
/// The interval that a head of few nodes asks for.
const INTERVAL_SMALL: Duration = Duration::from_secs(5);
/// The time between two attempts at a head that does not answer.
const ABSENT_PAUSE: Duration = Duration::from_secs(5);
/// How often a node that seeds on looks whether it need.
const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// How long who was served last may take to say what it lacks.
const SETTLE: Duration = Duration::from_millis(1500);

/// A node in the swarm of a run.
#[derive(Debug)]
pub(super) struct Sharing {
    swarm: RunSwarm,
    head: IpAddr,
    member: Member,
    discovery: Option<LocalDiscovery>,
    stats: Arc<Mutex<Option<Stats>>>,
}

/// What a node joins the swarm with.
pub(super) struct Join<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) store: &'a PieceStore,
    pub(super) have: Bitmap,
    pub(super) head: IpAddr,
    pub(super) net: &'a NetOptions,
    pub(super) facts: &'a Sender<Fact>,
}

impl Sharing {
    /// Joins the swarm that the head told of. What happens there is told until the job has ended.
    ///
    /// # Errors
    /// If the head's answer makes no sense, or memory or a thread cannot be had.
    pub(super) fn start(join: Join<'_>, listener: Listener, reply: &PeersReply) -> Result<Self> {
        let senseless = || Error::text(Kind::Network, "The head's swarm makes no sense");
        let secret = unhex(&reply.secret).and_then(|secret| secret.try_into().ok());
        let swarm = secret.and_then(|secret| RunSwarm::new(join.manifest, secret));
        let swarm = swarm.ok_or_else(senseless)?;
        let verify = PieceHashes::new(join.manifest.geometry, join.manifest.pieces.clone());
        let start = Start {
            config: swarm.config(join.have, false)?,
            listener,
            file: join.store.file().try_clone().or_kind(Kind::Storage)?,
            memory_bytes: MEMORY_BYTES,
            ways: join.net.ways,
            verify: verify.ok_or_else(senseless)?,
        };
        let stats = Arc::new(Mutex::new(None));
        let (shared, facts) = (Arc::clone(&stats), join.facts.clone());
        let member = Member::start(start, move |told| {
            if let Told::Event(Event::Stats(new)) = &told {
                *shared.lock().unwrap_or_else(|broken| broken.into_inner()) = Some(*new);
            }
            // The job may have ended: what is here is seeded on.
            drop(facts.send(Fact::Shared(told)));
            ControlFlow::Continue(())
        })?;
        let sharing = Self {
            swarm,
            head: join.head,
            member,
            discovery: None,
            stats,
        };
        sharing.meet(reply);
        Ok(sharing)
    }

    /// Where peers connect.
    pub(super) const fn port(&self) -> u16 {
        self.member.listens_on().port()
    }

    /// Hears of the peers that the head tells of.
    pub(super) fn meet(&self, reply: &PeersReply) {
        let at_head = |peer: &SocketAddr| {
            let ip = peer.ip();
            let ip = if ip.is_unspecified() { self.head } else { ip };
            SocketAddr::new(ip, peer.port())
        };
        let peers = reply.peers.iter().map(at_head).collect();
        // What is not heard now is told again with the next answer.
        self.member.tell(Command::Peers(peers));
    }

    /// Says that pieces came another way; false if it was not heard.
    pub(super) fn have(&self, pieces: Vec<PieceIndex>) -> bool {
        self.member.tell(Command::Have(pieces))
    }

    /// Says what is to be fetched; false if it was not heard.
    pub(super) fn want(&self, wanted: Bitmap) -> bool {
        self.member.tell(Command::Want(wanted))
    }

    /// How it goes, once it was told.
    pub(super) fn stats(&self) -> Option<Stats> {
        *self
            .stats
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
    }

    /// Whether a peer that is connected lacks pieces; while it `is_early`, whether one may.
    fn is_lacked(&self, is_early: bool) -> bool {
        let stats = self.stats();
        stats.map_or(is_early, |stats| {
            stats.peers_lacking > 0 || (is_early && stats.peers > 0)
        })
    }

    /// Looks for peers without the head, from now on.
    pub(super) fn discover(&mut self, net: &NetOptions) {
        if self.discovery.is_some() {
            return;
        }
        let started = net.interface_towards(self.head).and_then(|interface| {
            let options = lsd::Options {
                port: self.port(),
                interval: DISCOVERY_INTERVAL,
                interval_min: INTERVAL_MIN,
                seed: u64::from_be_bytes(crate::deploy::random()?),
            };
            let mailbox = self.member.mailbox().clone();
            LocalDiscovery::start(&[interface], &options, move |found| {
                // A torrent that has ended needs no peers.
                drop(mailbox.send(Command::Peers(vec![found.peer])));
            })
        });
        match started {
            Ok(discovery) => {
                discovery.seek(self.swarm.veiled_name());
                self.discovery = Some(discovery);
            }
            Err(error) => tracing::debug!(%error, "Peers are not looked for without the head"),
        }
    }

    /// Seeds on in the background; `node` is this node's id.
    ///
    /// # Errors
    /// If a thread cannot be had.
    pub(super) fn seed(self, client: Client, place: Place) -> Result<Seeding> {
        let (sender, until) = crossbeam::channel::bounded(1);
        let thread = std::thread::Builder::new()
            .name("seeding".to_owned())
            .spawn(move || seed_on(self, client, &place, &until))
            .or_kind(Kind::Internal)?;
        Ok(Seeding {
            until: Some(sender),
            thread: Some(thread),
        })
    }
}

/// Which node shares which bundle.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) node: String,
    pub(super) manifest: Arc<Manifest>,
    pub(super) net: NetOptions,
}

impl Place {
    /// What the head is told.
    pub(super) fn request(&self, port: u16, pieces_done: usize, state: Swarming) -> PeersRequest {
        PeersRequest {
            node: self.node.clone(),
            port,
            pieces_done: u32::try_from(pieces_done).unwrap_or(u32::MAX),
            state,
        }
    }
}

/// A node that has all and seeds; dropping it ends that.
#[derive(Debug)]
pub(super) struct Seeding {
    until: Option<Sender<Instant>>,
    thread: Option<JoinHandle<()>>,
}

impl Seeding {
    /// Seeds on while the head knows of nodes that lack pieces, or without it while a peer does,
    /// for `patience` at most.
    pub(super) fn finish(mut self, patience: Duration) {
        if let Some(until) = self.until.take() {
            // A thread that has ended needs no word.
            let _sent = until.send(Instant::now() + patience);
        }
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("The seeding thread had panicked");
        }
    }
}

impl Drop for Seeding {
    fn drop(&mut self) {
        drop(self.until.take());
        self.join();
    }
}

/// What the head says of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    /// All have everything.
    Complete,
    /// Some lack pieces, or may.
    Lacking,
    /// It does not answer.
    Unknown,
}

fn seed_on(mut sharing: Sharing, mut client: Client, place: &Place, until: &Receiver<Instant>) {
    let Manifest { name, serial, .. } = &*place.manifest;
    let count = place.manifest.pieces.len();
    let ask = |client: &mut Client, state, port| {
        client.peers(name.as_str(), *serial, &place.request(port, count, state))
    };
    let mut ask_at = Instant::now();
    let mut others = Others::Unknown;
    let mut last_pause = LAST_PAUSE_MIN;
    let mut end: Option<(Instant, Instant)> = None;
    loop {
        if Instant::now() >= ask_at {
            let answer = ask(&mut client, Swarming::Complete, sharing.port());
            let pause = match answer {
                Ok(reply) => {
                    let is_over = reply.all_complete;
                    others = if is_over {
                        Others::Complete
                    } else {
                        Others::Lacking
                    };
                    let usual = Duration::from_secs(reply.interval_s);
                    if end.is_none() {
                        usual
                    } else {
                        // Few nodes are mostly complete at about the same time.
                        last_pause = (last_pause * 2).min(usual / 5);
                        if usual > INTERVAL_SMALL {
                            usual / 5
                        } else {
                            last_pause
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "The head does not hear that this node seeds");
                    others = Others::Unknown;
                    sharing.discover(&place.net);
                    ABSENT_PAUSE
                }
            };
            ask_at = Instant::now() + pause;
        }
        let Some((until, settled)) = end else {
            match until.recv_timeout(LOOK_PERIOD) {
                Ok(until) => {
                    ask_at = Instant::now();
                    end = Some((until, ask_at + SETTLE));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            continue;
        };
        let now = Instant::now();
        let is_needed = match others {
            Others::Complete => false,
            Others::Lacking => true,
            Others::Unknown => sharing.is_lacked(now < settled),
        };
        if !is_needed || now >= until {
            break;
        }
        std::thread::sleep(LAST_PAUSE_MIN);
    }
    // The head may be gone; then nobody need know.
    drop(ask(&mut client, Swarming::Leaving, sharing.port()));
}
