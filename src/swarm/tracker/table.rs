//! The server: which peers each torrent has, bounded, and whether all of them are complete.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::graph::Graph;
use super::limits::{
    ANNOUNCE_INTERVAL, ANNOUNCE_INTERVAL_MIN, NODE_ANNOUNCES_PER_S, NODE_GRACE, NODE_INTERVAL_MIN,
    PEER_LIFETIME, PEERS_MAX, PEERS_PER_ADDRESS_MAX, TORRENTS_MAX,
};
use super::{Announce, Event, Reply, Scraped};
use crate::base::Time;

/// Peers of the torrents that it was told of.
#[derive(Clone, Debug)]
pub struct Tracker {
    seed: [u8; 32],
    torrents: BTreeMap<[u8; 20], Torrent>,
    /// Several names of one torrent, as a hybrid has, share its peers: each name's first.
    names: BTreeMap<[u8; 20], [u8; 20]>,
}

/// The peers of one torrent; those of each family know only each other.
#[derive(Clone, Debug)]
struct Torrent {
    v4: Family,
    v6: Family,
    downloaded: u32,
    pace: Pace,
}

/// How often the peers of a torrent are heard, and how soon the silent are forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// As stock clients can do it.
    #[default]
    Stock,
    /// As our own nodes do it: the more they are, the less often.
    Nodes,
}

impl Pace {
    /// How long one of so many peers is to wait until it announces itself again.
    fn interval(self, peers: usize) -> Duration {
        match self {
            Self::Stock => ANNOUNCE_INTERVAL,
            Self::Nodes => {
                let peers = u32::try_from(peers).unwrap_or(u32::MAX);
                Duration::from_secs((peers / NODE_ANNOUNCES_PER_S).into())
                    .clamp(NODE_INTERVAL_MIN, ANNOUNCE_INTERVAL)
            }
        }
    }

    /// How long a peer that was told an interval may be silent.
    fn lifetime(self, interval: Duration) -> Duration {
        match self {
            Self::Stock => PEER_LIFETIME,
            Self::Nodes => interval * 2 + NODE_GRACE,
        }
    }
}

#[derive(Clone, Debug)]
struct Family {
    peers: BTreeMap<SocketAddr, Peer>,
    /// Until when each peer is known, if it stays silent; who goes next comes first.
    until: std::collections::BTreeSet<(Time, SocketAddr)>,
    at_address: BTreeMap<IpAddr, usize>,
    graph: Graph,
    complete: u32,
    /// Incomplete, and content with it.
    paused: u32,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    id: [u8; 20],
    until: Time,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Incomplete,
    Paused,
    Complete,
}

/// What a peer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Its neighbours with their ids.
    pub peers: Vec<(SocketAddr, [u8; 20])>,
    /// The torrent's counts.
    pub counts: Scraped,
    /// How long it is to wait until it announces itself again.
    pub interval: Duration,
}

/// Why an announcement is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The tracker was not told of the torrent.
    #[error("This tracker does not know the torrent")]
    UnknownTorrent,
    /// Nobody can listen on port 0.
    #[error("A peer must have a port")]
    NoPort,
    /// The torrent, or the peer's address, has as many peers as it may have.
    #[error("The tracker has no room for more peers")]
    Full,
}

impl From<Announced> for Reply {
    fn from(announced: Announced) -> Self {
        Self {
            interval: announced.interval,
            interval_min: Some(ANNOUNCE_INTERVAL_MIN),
            complete: Some(announced.counts.complete),
            incomplete: Some(announced.counts.incomplete),
            peers: announced.peers.into_iter().map(|(peer, _)| peer).collect(),
            ..Self::default()
        }
    }
}

impl Tracker {
    /// A tracker that knows no torrent; `seed` is drawn at its start and decides who knows whom.
    #[must_use]
    pub const fn new(seed: [u8; 32]) -> Self {
        Self {
            seed,
            torrents: BTreeMap::new(),
            names: BTreeMap::new(),
        }
    }

    /// Tells of a torrent by its names as they are on the wire; says whether there is room for it.
    pub fn insert(&mut self, names: &[[u8; 20]], pace: Pace) -> bool {
        let Some(&first) = names.first() else {
            return false;
        };
        if !self.torrents.contains_key(&first) && self.torrents.len() >= TORRENTS_MAX {
            return false;
        }
        let graph = Graph::new(self.seed);
        self.torrents.entry(first).or_insert_with(|| Torrent {
            v4: Family::new(graph.clone()),
            v6: Family::new(graph),
            downloaded: 0,
            pace,
        });
        self.names.extend(names.iter().map(|name| (*name, first)));
        true
    }

    /// Forgets a torrent, by any of its names.
    pub fn remove(&mut self, name: &[u8; 20]) {
        if let Some(first) = self.names.get(name).copied() {
            self.torrents.remove(&first);
            self.names.retain(|_, of| *of != first);
        }
    }

    /// Names of all torrents.
    pub fn names(&self) -> impl Iterator<Item = &[u8; 20]> {
        self.names.keys()
    }

    /// Takes what the peer at `ip` says of itself, and tells it of others.
    ///
    /// # Errors
    /// If the torrent is unknown, or there is no room.
    pub fn announce(
        &mut self,
        ip: IpAddr,
        announce: &Announce,
        now: Time,
    ) -> Result<Announced, Refused> {
        let torrent = self.torrent(&announce.info_hash)?;
        if announce.port == 0 {
            return Err(Refused::NoPort);
        }
        torrent.expire(now);
        let ip = ip.to_canonical();
        let address = SocketAddr::new(ip, announce.port);
        let interval = torrent.pace.interval(torrent.peer_count());
        let until = now + torrent.pace.lifetime(interval);
        let family = match ip {
            IpAddr::V4(_) => &mut torrent.v4,
            IpAddr::V6(_) => &mut torrent.v6,
        };
        let peers = if announce.event == Event::Stopped {
            family.remove(address);
            Vec::new()
        } else {
            let state = State::of(announce);
            let before = family.put(address, announce.peer_id, state, until)?;
            let is_news = before.is_some_and(|before| before != State::Complete);
            if state == State::Complete && is_news {
                torrent.downloaded = torrent.downloaded.saturating_add(1);
            }
            family.neighbours(address, announce.peers_wanted)
        };
        let counts = torrent.counts();
        Ok(Announced {
            peers,
            counts,
            interval,
        })
    }

    /// Counts of a torrent; `None` if it is unknown.
    pub fn scrape(&mut self, name: &[u8; 20], now: Time) -> Option<Scraped> {
        let torrent = self.torrent(name).ok()?;
        torrent.expire(now);
        Some(torrent.counts())
    }

    /// Whether a torrent has peers and all of them have everything: nobody need go on seeding.
    /// `None` if it is unknown.
    pub fn is_all_complete(&mut self, name: &[u8; 20], now: Time) -> Option<bool> {
        let counts = self.scrape(name, now)?;
        Some(counts.complete > 0 && counts.incomplete == 0)
    }

    fn torrent(&mut self, name: &[u8; 20]) -> Result<&mut Torrent, Refused> {
        let first = self.names.get(name);
        let found = first.and_then(|first| self.torrents.get_mut(first));
        found.ok_or(Refused::UnknownTorrent)
    }
}

impl State {
    fn of(announce: &Announce) -> Self {
        if announce.left == 0 {
            Self::Complete
        } else if announce.event == Event::Paused {
            Self::Paused
        } else {
            Self::Incomplete
        }
    }
}

impl Torrent {
    fn peer_count(&self) -> usize {
        self.v4.peers.len() + self.v6.peers.len()
    }

    fn counts(&self) -> Scraped {
        let all = |count: fn(&Family) -> u32| count(&self.v4) + count(&self.v6);
        let complete = all(|family| family.complete);
        let peers = all(|family| u32::try_from(family.peers.len()).unwrap_or(u32::MAX));
        let incomplete = peers - complete;
        Scraped {
            complete,
            incomplete,
            downloaded: self.downloaded,
            downloaders: incomplete - all(|family| family.paused),
        }
    }

    fn expire(&mut self, now: Time) {
        self.v4.expire(now);
        self.v6.expire(now);
    }
}

impl Family {
    const fn new(graph: Graph) -> Self {
        Self {
            peers: BTreeMap::new(),
            until: std::collections::BTreeSet::new(),
            at_address: BTreeMap::new(),
            graph,
            complete: 0,
            paused: 0,
        }
    }

    /// Puts a peer in; gives its state until now.
    fn put(
        &mut self,
        address: SocketAddr,
        id: [u8; 20],
        state: State,
        until: Time,
    ) -> Result<Option<State>, Refused> {
        let before = self.peers.get(&address).copied();
        match before {
            Some(before) => {
                self.until.remove(&(before.until, address));
                self.count(before.state, false);
            }
            None => {
                let here = self.at_address.get(&address.ip()).map_or(0, |here| *here);
                if self.peers.len() >= PEERS_MAX || here >= PEERS_PER_ADDRESS_MAX {
                    return Err(Refused::Full);
                }
                self.at_address.insert(address.ip(), here + 1);
                self.graph.insert(address);
            }
        }
        self.count(state, true);
        self.until.insert((until, address));
        self.peers.insert(address, Peer { id, until, state });
        Ok(before.map(|before| before.state))
    }

    fn remove(&mut self, address: SocketAddr) {
        let Some(peer) = self.peers.remove(&address) else {
            return;
        };
        self.until.remove(&(peer.until, address));
        self.count(peer.state, false);
        self.graph.remove(address);
        if let Some(here) = self.at_address.get_mut(&address.ip()) {
            *here -= 1;
            if *here == 0 {
                self.at_address.remove(&address.ip());
            }
        }
    }

    fn count(&mut self, state: State, comes: bool) {
        let count = match state {
            State::Incomplete => return,
            State::Paused => &mut self.paused,
            State::Complete => &mut self.complete,
        };
        *count = if comes { *count + 1 } else { *count - 1 };
    }

    fn expire(&mut self, now: Time) {
        while let Some(&(until, address)) = self.until.first()
            && now > until
        {
            self.remove(address);
        }
    }

    fn neighbours(&self, of: SocketAddr, wanted: Option<u32>) -> Vec<(SocketAddr, [u8; 20])> {
        let wanted = wanted.map_or(usize::MAX, |wanted| {
            usize::try_from(wanted).unwrap_or(usize::MAX)
        });
        let neighbours = self.graph.neighbours(of).into_iter();
        let with_id = |address| Some((address, self.peers.get(&address)?.id));
        neighbours.filter_map(with_id).take(wanted).collect()
    }
}
