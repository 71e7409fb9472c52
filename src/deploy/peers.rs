//! Who has which bundle: one tracker's table, for stock clients and for our own nodes.
//!
//! A bundle is in the table under names that are its own alone. Its *swarm secret* makes one for
//! our nodes: who does not have the secret can neither ask by that name nor tell whose it is. The
//! names of its torrent are there only once stock clients are served. A name that no published
//! bundle has is not tracked.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::error::Result;
use super::hub::Published;
use super::swarm::run::name_of;
use crate::base::Time;
use crate::swarm::Metainfo;
use crate::swarm::tracker::udp::Front;
use crate::swarm::tracker::{Announce, Announced, Pace, Refused, Scraped, Tracker, http};

/// See the module. The lock is held for the answer to one announcement.
pub(crate) struct Peers {
    table: Mutex<Table>,
    front: Front,
    /// What swarm secrets are derived from: the same whenever this head runs, so that nodes that
    /// swarm go on when it was started anew.
    master: [u8; 32],
    started: Instant,
    requests: AtomicU64,
}

#[derive(Debug)]
struct Table {
    tracker: Tracker,
    serves_stock: bool,
}

/// A 20-byte name in the table.
type Name = [u8; 20];

impl Peers {
    /// An empty table; `seed` is that of the head's identity.
    ///
    /// # Errors
    /// If the kernel gives no randomness.
    pub(crate) fn new(seed: &[u8; 32]) -> Result<Self> {
        Ok(Self {
            table: Mutex::new(Table {
                tracker: Tracker::new(super::random()?),
                serves_stock: false,
            }),
            front: Front::new(super::random()?),
            master: blake3::derive_key("flashover 1 swarm secrets of a head", seed),
            started: Instant::now(),
            requests: AtomicU64::new(0),
        })
    }

    /// From now on the names of torrents are tracked too.
    pub(crate) fn serve_stock(&self) {
        self.table().serves_stock = true;
    }

    /// Tracks these bundles and no others; gives those that there is no room for.
    pub(crate) fn follow(&self, published: &[Arc<Published>]) -> Vec<Arc<Published>> {
        let mut table = self.table();
        let mut left_out = Vec::new();
        let serves_stock = table.serves_stock;
        let wanted = published
            .iter()
            .map(|one| (one, self.names(one, serves_stock)));
        let wanted: Vec<_> = wanted.collect();
        let kept = wanted.iter().flat_map(|(_, swarms)| swarms.iter());
        let kept: BTreeSet<Name> = kept.flat_map(|(names, _)| names.clone()).collect();
        let gone: Vec<Name> = table.tracker.names().copied().collect();
        for name in gone.iter().filter(|name| !kept.contains(*name)) {
            table.tracker.remove(name);
        }
        for (one, swarms) in wanted {
            let mut has_room = true;
            for (names, pace) in swarms {
                has_room &= table.tracker.insert(&names, pace);
            }
            if !has_room {
                left_out.push(Arc::clone(one));
            }
        }
        left_out
    }

    /// The swarms of a bundle with their names: that of our nodes, then those of stock clients.
    fn names(&self, published: &Published, serves_stock: bool) -> Vec<(Vec<Name>, Pace)> {
        let own = (vec![name_of(&self.secret(published))], Pace::Nodes);
        let torrents = [&published.torrent, &published.torrent_v1]
            .into_iter()
            .flatten();
        let stock = torrents.filter(|_| serves_stock);
        let stock = stock.map(|torrent| (wire_names(torrent), Pace::Stock));
        std::iter::once(own).chain(stock).collect()
    }

    /// The secret of a bundle's swarm, for nodes that were admitted.
    pub(crate) fn secret(&self, published: &Published) -> [u8; 32] {
        let manifest = &published.manifest;
        let mut hasher = blake3::Hasher::new_keyed(&self.master);
        hasher
            .update(b"flashover 1 swarm secret\0")
            .update(&manifest.serial.0.to_be_bytes())
            .update(&manifest.root.0)
            .update(manifest.name.as_str().as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// Answers a stock client's announcement by HTTP.
    pub(crate) fn announce_http(&self, from: IpAddr, query: &str) -> Vec<u8> {
        self.count();
        http::answer(&mut self.table().tracker, from, query, self.now())
    }

    /// Answers a stock client's scrape by HTTP.
    pub(crate) fn scrape_http(&self, query: &str) -> Vec<u8> {
        http::answer_scrape(&mut self.table().tracker, query, self.now())
    }

    /// Answers a datagram of a stock client, or says nothing.
    pub(crate) fn answer_udp(&self, from: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
        self.count();
        let now = self.now();
        self.front
            .answer(&mut self.table().tracker, from, datagram, now)
    }

    /// Answers a node of our own, or this head itself, that has or wants a bundle.
    ///
    /// # Errors
    /// If the bundle is not tracked, or there is no room.
    pub(crate) fn announce_own(
        &self,
        published: &Published,
        from: IpAddr,
        announce: &Announce,
    ) -> Result<Announced, Refused> {
        self.count();
        let info_hash = name_of(&self.secret(published));
        let announce = Announce {
            info_hash,
            ..announce.clone()
        };
        let now = self.now();
        self.table().tracker.announce(from, &announce, now)
    }

    /// Complete and incomplete peers of a bundle: our nodes, and stock clients.
    pub(crate) fn counts(&self, published: &Published) -> [Scraped; 2] {
        let now = self.now();
        let mut table = self.table();
        let mut counts = [Scraped::default(); 2];
        for (names, pace) in self.names(published, true) {
            let first = names.first();
            let found = first.and_then(|name| table.tracker.scrape(name, now));
            let sum = &mut counts[usize::from(pace == Pace::Stock)];
            let found = found.unwrap_or_default();
            sum.complete += found.complete;
            sum.incomplete += found.incomplete;
        }
        counts
    }

    /// Requests that came, by HTTP, UDP and from our nodes.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> Time {
        Time::ZERO + self.started.elapsed()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peers")
    }
}

/// What handshakes and trackers call a torrent: v1, and v2 cut to 20 bytes.
fn wire_names(torrent: &Metainfo) -> Vec<Name> {
    torrent
        .info()
        .names()
        .iter()
        .map(|name| name.wire())
        .collect()
}
