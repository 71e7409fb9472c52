//! What the head's threads share: the table of published bundles, who may ask, which multicasts
//! run, and what the nodes said.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::casts::{CastStatus, Casts};
use super::catalog::{Catalog, FileKind};
use super::claims::{Claims, Taken};
use super::control::{
    HOST_CHARS_MAX, ID_CHARS, ImageInfo, JoinReply, JoinRequest, PeersReply, PeersRequest,
    ProbeRequest, Report, Swarming, clean,
};
use super::error::{Error, Kind, OrKind as _, Result};
use super::peers::Peers;
use super::seeds::Seeds;
use super::token::{Secret, Tokens};
use crate::base::Serial;
use crate::base::counter::Counters;
use crate::base::event::{Event, Events, Phase};
use crate::image::Manifest;
use crate::monitor;
use crate::multicast::PieceHashes;
use crate::swarm::Metainfo;
use crate::swarm::tracker::{Announce, Event as Heard, Refused};

/// The most nodes that are remembered; the one silent the longest makes room.
const NODES_MAX: usize = 20_000;
/// How long what a node has said of multicast is believed.
const CONTENT_PATIENCE: Duration = Duration::from_secs(10);
/// How long the swarm stays together for a node that lacks bytes and says nothing more.
const AWAITED_PATIENCE: Duration = Duration::from_secs(30);

/// One bundle, open for as long as it is in the table.
#[derive(Debug)]
pub(crate) struct Published {
    /// What is in it.
    pub(crate) manifest: Arc<Manifest>,
    /// The signed manifest as it travels.
    pub(crate) sealed: bytes::Bytes,
    /// The bundle, open for reading.
    pub(crate) bundle: Arc<File>,
    /// Its torrent; one of a version before torrents has none, and neither has a plain file.
    pub(crate) torrent: Option<Arc<Metainfo>>,
    /// The v1 part of its torrent, for clients that cannot read hybrids.
    pub(crate) torrent_v1: Option<Arc<Metainfo>>,
    /// Whether this process has hashed the bundle itself, a moment ago: it is not hashed again.
    pub(crate) is_hashed: bool,
}

impl Published {
    /// How pieces are judged when they have been read; `None` takes them as they are.
    ///
    /// # Errors
    /// If the manifest does not have one hash for each.
    pub(crate) fn verify(&self) -> Result<Option<PieceHashes>> {
        if self.is_hashed {
            return Ok(None);
        }
        let Manifest {
            geometry, pieces, ..
        } = &*self.manifest;
        let verify = PieceHashes::new(*geometry, pieces.clone());
        let lacks = || Error::text(Kind::Integrity, "The manifest lacks hashes of pieces");
        verify.ok_or_else(lacks).map(Some)
    }
}

/// Who may ask.
#[derive(Debug)]
pub(crate) enum Gate {
    /// Whoever shows a token of a store.
    Tokens(Tokens),
    /// Whoever shows this one.
    Only(Secret),
}

/// See the module. Every lock is held for a few instructions only.
#[derive(Debug)]
pub(crate) struct Hub {
    catalog: Catalog,
    gate: Gate,
    casts: Casts,
    seeds: Seeds,
    offers_swarm: bool,
    offers_ranges: bool,
    peers: Peers,
    nodes: Mutex<BTreeMap<String, Node>>,
    claims: Mutex<Claims>,
    counters: Arc<Counters>,
    events: Events,
    started: Instant,
    http_bytes: AtomicU64,
    http_ranges: AtomicU64,
}

/// By what nodes may have pieces.
#[derive(Debug)]
pub(crate) struct Transports {
    pub(crate) casts: Casts,
    pub(crate) seeds: Seeds,
    /// Whether nodes are told of each other.
    pub(crate) swarm: bool,
    /// Whether byte ranges are given.
    pub(crate) ranges: bool,
}

#[cfg(test)]
impl Transports {
    /// Byte ranges, and nodes that know each other, with no seed.
    pub(crate) fn none() -> Self {
        Self {
            casts: Casts::new(None, Arc::default(), Events::ignore()),
            seeds: Seeds::new(None, Events::ignore()),
            swarm: true,
            ranges: true,
        }
    }
}

/// What the head knows of a node.
#[derive(Debug)]
struct Node {
    report: Report,
    heard: Instant,
}

/// A node, as `GET /v1/status` shows it.
#[derive(Debug, Serialize)]
struct NodeStatus<'a> {
    #[serde(flatten)]
    report: &'a Report,
    /// Seconds since it was heard.
    age_s: f64,
    /// Where it is, while it is at work.
    address: Option<IpAddr>,
    /// Another machine that came with the same id, and was refused.
    rival: Option<IpAddr>,
}

impl Hub {
    /// A head with the identity of `seed`.
    ///
    /// # Errors
    /// If the kernel gives no randomness.
    pub(crate) fn new(
        seed: &[u8; 32],
        catalog: Catalog,
        gate: Gate,
        ways: Transports,
        counters: Arc<Counters>,
        events: Events,
    ) -> Result<Self> {
        let hub = Self {
            catalog,
            gate,
            casts: ways.casts,
            seeds: ways.seeds,
            offers_swarm: ways.swarm,
            offers_ranges: ways.ranges,
            peers: Peers::new(seed)?,
            nodes: Mutex::default(),
            claims: Mutex::new(Claims::new(NODES_MAX)),
            counters,
            events,
            started: Instant::now(),
            http_bytes: AtomicU64::new(0),
            http_ranges: AtomicU64::new(0),
        };
        hub.follow();
        Ok(hub)
    }

    /// Who has which bundle.
    pub(crate) const fn peers(&self) -> &Peers {
        &self.peers
    }

    /// From now on stock BitTorrent clients are told of each other.
    pub(crate) fn serve_stock(&self) {
        self.peers.serve_stock();
        self.follow();
    }

    /// Tracks the bundles of the table.
    fn follow(&self) {
        for left_out in self.peers.follow(&self.catalog.all()) {
            let Manifest { name, serial, .. } = &*left_out.manifest;
            self.events.warn(format!(
                "Peers of {name}@{serial} are not told of each other: there are too many bundles"
            ));
        }
    }

    /// Whether a secret opens the gate.
    pub(crate) fn admits(&self, secret: &Secret) -> bool {
        match &self.gate {
            Gate::Only(only) => only.hash() == secret.hash(),
            Gate::Tokens(tokens) => tokens.admits(secret).unwrap_or_else(|error| {
                tracing::error!(%error, "Tokens cannot be read: nobody is admitted");
                false
            }),
        }
    }

    /// The table of bundles.
    pub(crate) fn images(&self) -> Vec<ImageInfo> {
        self.catalog.list()
    }

    /// A bundle by name and serial; the newest without a serial.
    pub(crate) fn find(&self, name: &str, serial: Option<u64>) -> Option<Arc<Published>> {
        self.catalog.find(name, serial.map(Serial))
    }

    /// A bundle by the name of its file or torrent.
    pub(crate) fn find_file(&self, file: &str) -> Option<(Arc<Published>, FileKind)> {
        self.catalog.find_file(file)
    }

    /// Looks for new publications; tells whether the table has changed.
    pub(crate) fn rescan(&self) -> bool {
        let has_changed = self.catalog.rescan(&self.events).unwrap_or_else(|error| {
            tracing::warn!(%error, "The store cannot be listed");
            false
        });
        if has_changed {
            self.follow();
        }
        has_changed
    }

    /// Lets a node join the multicast of a bundle, which starts if it does not run.
    ///
    /// # Errors
    /// If the multicast cannot start.
    pub(crate) fn join(
        &self,
        published: &Arc<Published>,
        request: &JoinRequest,
    ) -> Result<JoinReply> {
        tracing::info!(node = request.node, host = request.host, "A node joins");
        let session = self.casts.join(published, request)?;
        Ok(JoinReply {
            session: session.map(|bytes| super::hex(&bytes)),
            swarm: self.offers_swarm,
            ranges: self.offers_ranges,
        })
    }

    /// A node comes with its id, under the name `host`.
    ///
    /// # Errors
    /// If another machine that is alive has it: the first goes on, and both are told of.
    pub(crate) fn claim(&self, id: &str, host: &str, from: IpAddr) -> Result<(), Taken> {
        let id = clean(id, ID_CHARS);
        let claimed = self.claims().claim(&id, from, Instant::now());
        if let Err(taken) = claimed
            && taken.is_news
        {
            let (from, owner) = (from.to_canonical(), taken.owner);
            let host = clean(host, HOST_CHARS_MAX);
            self.events.warn(format!(
                "{host} at {from} has the node id of {owner} and is refused while that one is \
                 heard: are they copies of one running machine?"
            ));
        }
        claimed
    }

    /// Whether byte ranges are given.
    pub(crate) const fn offers_ranges(&self) -> bool {
        self.offers_ranges
    }

    /// Whether nodes and this head exchange pieces in a swarm.
    pub(crate) const fn offers_swarm(&self) -> bool {
        self.offers_swarm
    }

    /// Seeds a bundle to the nodes of its swarm, if this head does; it is a peer like others.
    ///
    /// # Errors
    /// If the seed cannot start, or there is no room.
    pub(crate) fn seed(&self, published: &Published) -> Result {
        let manifest = &published.manifest;
        let pulse = self.casts.pulse(manifest.name.as_str(), manifest.serial.0);
        let secret = self.peers.secret(published);
        let Some(port) = self.seeds.port(published, secret, pulse.is_some())? else {
            return Ok(());
        };
        let announce = announce("head", port, 0, Heard::None);
        let own = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        self.peers
            .announce_own(published, own, &announce)
            .or_kind(Kind::Internal)?;
        Ok(())
    }

    /// Ends what nobody needs any more, and shares the cable between the rest.
    pub(crate) fn tidy_up(&self) {
        self.seeds.tidy_up();
        let pulse = |name: &str, serial| {
            let pulse = self.casts.pulse(name, serial)?;
            self.is_content(name, serial).then_some(pulse)
        };
        let beside = |name: &str, serial, beside| self.casts.beside(name, serial, beside);
        self.seeds.balance(pulse, beside);
    }

    /// Whether multicast serves any node of a bundle well, by what nodes say.
    fn is_content(&self, name: &str, serial: u64) -> bool {
        let nodes = self.nodes();
        let mut of_it = nodes
            .values()
            .filter(|node| node.heard.elapsed() < CONTENT_PATIENCE)
            .map(|node| &node.report)
            .filter(|report| report.image == name && report.serial == serial)
            .filter(|report| report.phase == Phase::Receiving)
            .peekable();
        // Who has joined a moment ago has said nothing yet.
        of_it.peek().is_none() || of_it.any(|report| report.cause.is_empty())
    }

    /// Takes what a node says of itself in the swarm of a bundle, and tells it of others.
    ///
    /// # Errors
    /// If it has no port, or there is no room.
    pub(crate) fn swarm(
        &self,
        published: &Published,
        from: IpAddr,
        request: &PeersRequest,
    ) -> Result<PeersReply, Refused> {
        let geometry = published.manifest.geometry;
        let lacks = u64::from(geometry.piece_count().saturating_sub(request.pieces_done));
        let (left, event) = match request.state {
            // Who says that it lacks something does, whatever it counts.
            Swarming::Leeching => (lacks.max(1) * geometry.piece_size() as u64, Heard::None),
            Swarming::Complete => (0, Heard::None),
            Swarming::Leaving => (0, Heard::Stopped),
        };
        let announce = announce(&request.node, request.port, left, event);
        let announced = self.peers.announce_own(published, from, &announce)?;
        let peers = announced.peers.into_iter().map(|(peer, _)| peer);
        Ok(PeersReply {
            peers: peers.collect(),
            all_complete: announced.counts.incomplete == 0 && !self.is_awaited(published),
            interval_s: announced.interval.as_secs(),
            secret: super::hex(&self.peers.secret(published)),
        })
    }

    /// Whether a node has said lately that it lacks bytes of a bundle: it may come to the swarm for
    /// them.
    fn is_awaited(&self, published: &Published) -> bool {
        let manifest = &published.manifest;
        let lacks = |node: &Node| {
            let report = &node.report;
            report.image == manifest.name.as_str()
                && report.serial == manifest.serial.0
                && report.bytes_done < report.bytes_total
                && node.heard.elapsed() < AWAITED_PATIENCE
        };
        self.nodes().values().any(lacks)
    }

    /// Sends a node the large datagrams that it asks for; gives their MTU, 0 for none.
    ///
    /// # Errors
    /// If they cannot be sent.
    pub(crate) fn probe(&self, node: IpAddr, request: &ProbeRequest) -> std::io::Result<u32> {
        self.casts.probe(node, request)
    }

    /// Remembers what a node said.
    pub(crate) fn take_report(&self, report: Report) {
        let report = report.cleaned();
        if report.phase == Phase::Done {
            self.claims().release(&report.node);
        }
        self.events.raise(Event::Node {
            node: report.host.clone(),
            pieces_missing: self.pieces_missing(&report),
            loss: report.loss,
        });
        let mut nodes = self.nodes();
        if let Some(before) = nodes.get(&report.node)
            && before.report.cause != report.cause
            && !report.cause.is_empty()
        {
            self.events
                .warn(format!("{}: {}", report.host, report.cause));
        }
        if nodes.len() >= NODES_MAX && !nodes.contains_key(&report.node) {
            let oldest = nodes.iter().min_by_key(|(_, node)| node.heard);
            if let Some(id) = oldest.map(|(id, _)| id.clone()) {
                nodes.remove(&id);
            }
        }
        let heard = Instant::now();
        nodes.insert(report.node.clone(), Node { report, heard });
    }

    fn pieces_missing(&self, report: &Report) -> u64 {
        let piece_size = self
            .find(&report.image, Some(report.serial))
            .map_or(1, |published| published.manifest.geometry.piece_size());
        report
            .bytes_total
            .saturating_sub(report.bytes_done)
            .div_ceil(piece_size as u64)
    }

    /// How many nodes said that they are done.
    pub(crate) fn nodes_done(&self) -> usize {
        let nodes = self.nodes();
        let done = |node: &&Node| node.report.phase == Phase::Done;
        nodes.values().filter(done).count()
    }

    /// Counts a byte range that is being sent.
    pub(crate) fn served_range(&self, bytes: u64) {
        self.http_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.http_ranges.fetch_add(1, Ordering::Relaxed);
    }

    /// What the head's jobs counted.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// All that the head knows, as one document.
    pub(crate) fn status(&self) -> serde_json::Value {
        let nodes = self.nodes();
        let claims = self.claims();
        let nodes: Vec<NodeStatus<'_>> = nodes
            .values()
            .map(|node| {
                let claim = claims.of(&node.report.node);
                NodeStatus {
                    report: &node.report,
                    age_s: node.heard.elapsed().as_secs_f64(),
                    address: claim.map(|(owner, _)| owner),
                    rival: claim.and_then(|(_, rival)| rival),
                }
            })
            .collect();
        drop(claims);
        let casts: Vec<CastStatus> = self.casts.status();
        let swarm = |published: &Arc<Published>| {
            let [nodes, stock] = self.peers.counts(published);
            serde_json::json!({
                "image": published.manifest.name.as_str(),
                "serial": published.manifest.serial.0,
                "nodes_complete": nodes.complete,
                "nodes_incomplete": nodes.incomplete,
                "stock_complete": stock.complete,
                "stock_incomplete": stock.incomplete,
                "seed": self.seeds.status(published),
            })
        };
        let swarms: Vec<_> = self.catalog.all().iter().map(swarm).collect();
        let counters: BTreeMap<&str, u64> = self.counters.iter().collect();
        serde_json::json!({
            "v": 1,
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": self.started.elapsed().as_secs_f64(),
            "images": self.images(),
            "sessions": casts,
            "nodes": nodes,
            "swarms": swarms,
            "http": {
                "ranges": self.http_ranges.load(Ordering::Relaxed),
                "bytes": self.http_bytes.load(Ordering::Relaxed),
            },
            "counters": counters,
        })
    }

    /// Counters and gauges as Prometheus text.
    pub(crate) fn metrics(&self) -> String {
        #[expect(clippy::cast_precision_loss, reason = "Prometheus values are doubles")]
        let sample = |name, help, kind, value: usize| monitor::Sample {
            name,
            help,
            kind,
            value: value as f64,
        };
        let load = |counter: &AtomicU64| {
            usize::try_from(counter.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
        };
        let nodes = self.nodes().len();
        let sessions = self.casts.status().len();
        let samples = [
            sample(
                "http_bytes_out_total",
                "Bytes of ranges sent",
                "counter",
                load(&self.http_bytes),
            ),
            sample(
                "http_ranges_total",
                "Byte ranges sent",
                "counter",
                load(&self.http_ranges),
            ),
            sample("nodes", "Nodes that reported", "gauge", nodes),
            sample(
                "nodes_done",
                "Nodes that are done",
                "gauge",
                self.nodes_done(),
            ),
            sample(
                "tracker_requests_total",
                "Announcements and scrapes of peers",
                "counter",
                usize::try_from(self.peers.requests()).unwrap_or(usize::MAX),
            ),
            sample("sessions", "Multicasts that run", "gauge", sessions),
        ];
        monitor::prometheus(&self.counters, &samples)
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Node>> {
        self.nodes
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
    }
}

/// What is said of a node in the table of peers.
fn announce(node: &str, port: u16, left: u64, event: Heard) -> Announce {
    let mut peer_id = [0; 20];
    blake3::Hasher::new()
        .update(node.as_bytes())
        .finalize_xof()
        .fill(&mut peer_id);
    Announce {
        info_hash: [0; 20],
        peer_id,
        port,
        uploaded: 0,
        downloaded: 0,
        left,
        event,
        peers_wanted: None,
        key: 0,
    }
}
