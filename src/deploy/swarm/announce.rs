//! Announcing to trackers, by HTTP and UDP, as an [`Announcer`] wants it.
//!
//! [`run`] is told how the torrent does, says nothing before that, and tells where peers are. It
//! never blocks its owner: what
//! does not fit in the channel of peers is dropped, for the next answer has them again. When it is
//! told to stop, or its owner is gone, it says goodbye to the tracker that knows of it and ends
//! within [`FAREWELL_DEADLINE`]. One tracker is asked at a time, by IPv4 and IPv6 side by side, and
//! each has a deadline.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::JoinSet;

use super::plain;
use crate::base::Time;
use crate::base::random::Random;
use crate::swarm::tracker::announcer::{Ask, Identity, Progress};
use crate::swarm::tracker::limits::REPLY_BYTES_MAX;
use crate::swarm::tracker::udp::Exchange;
use crate::swarm::tracker::url::Scheme;
use crate::swarm::tracker::{Announcer, Error, Reply, TrackerUrl, http};

/// How long a tracker may take to answer by HTTP.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// How long saying goodbye may take.
pub const FAREWELL_DEADLINE: Duration = Duration::from_secs(3);
/// How much longer than by one family of addresses a tracker may take to answer by the other.
const FAMILY_PATIENCE: Duration = Duration::from_secs(1);
/// The longest answer by UDP: what fits in a datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// What does not change while a torrent is announced.
#[derive(Clone, Debug)]
pub struct Config {
    /// Torrent and client.
    pub identity: Identity,
    /// The trackers, by tier.
    pub tiers: Vec<Vec<TrackerUrl>>,
    /// Random.
    pub seed: u64,
}

/// How the torrent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Bytes sent, fetched and lacking.
    pub progress: Progress,
    /// What has happened.
    pub event: Event,
}

/// What has happened to the torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing; only counts have changed.
    None,
    /// The last piece has just been fetched.
    Completed,
    /// There are too few peers: ask again soon.
    Hungry,
    /// It ends.
    Stopped,
}

/// How soon a tracker is asked again when there are too few peers.
const HUNGRY_WAIT: Duration = Duration::from_secs(5);

/// Announces until it is told to stop; see the module.
pub async fn run(config: Config, mut told: Receiver<Told>, found: Sender<Vec<SocketAddr>>) {
    let mut task = Task::new(config);
    let Some(first) = told.recv().await else {
        return;
    };
    task.hear(Some(first));
    while !task.announcer.has_ended() && !task.is_late() {
        let ask = task.announcer.poll(task.progress, task.now());
        let Some(ask) = ask else {
            if !task.announcer.has_ended() {
                task.wait(&mut told).await;
            }
            continue;
        };
        let tracker = ask.tracker.clone();
        let transaction = task.random.bits();
        match task.ask(ask, transaction, &mut told).await {
            Some(Ok(reply)) => {
                if let Some(warning) = &reply.warning {
                    tracing::info!(%tracker, warning, "A tracker warns");
                }
                task.announcer.answered(&reply, task.now());
                let peers: Vec<_> = reply.peers.into_iter().filter(can_be_peer).collect();
                tracing::debug!(%tracker, peers = peers.len(), "A tracker answers");
                if !peers.is_empty() {
                    // Its owner is behind, or gone: then `told` says so.
                    drop(found.try_send(peers));
                }
            }
            Some(Err(error)) => {
                tracing::info!(%tracker, %error, "A tracker gives no peers");
                task.announcer.failed(task.now());
            }
            None => return,
        }
    }
}

/// Whether something may listen at an address that a tracker gave.
fn can_be_peer(peer: &SocketAddr) -> bool {
    let ip = peer.ip();
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    peer.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
}

struct Task {
    announcer: Announcer,
    random: Random,
    started: Instant,
    progress: Progress,
    /// When to end, whatever a tracker says.
    end_at: Option<tokio::time::Instant>,
}

impl Task {
    fn new(config: Config) -> Self {
        let Config {
            identity,
            tiers,
            seed,
        } = config;
        Self {
            announcer: Announcer::new(identity, &tiers, seed, Time::ZERO),
            random: Random::new(seed ^ 1),
            started: Instant::now(),
            progress: Progress::default(),
            end_at: None,
        }
    }

    fn now(&self) -> Time {
        Time::ZERO + self.started.elapsed()
    }

    fn is_late(&self) -> bool {
        self.end_at
            .is_some_and(|end| tokio::time::Instant::now() >= end)
    }

    /// Waits until the announcer may have something to say.
    async fn wait(&mut self, told: &mut Receiver<Told>) {
        let due = self.announcer.poll_timeout();
        let due = due.map(|due| tokio::time::Instant::now() + due.since(self.now()));
        tokio::select! {
            one = told.recv(), if self.end_at.is_none() => self.hear(one),
            () = sleep_until(due) => {}
            () = sleep_until(self.end_at) => {}
        }
    }

    /// Asks a tracker; hears its owner meanwhile. Nothing if it is too late for an answer.
    async fn ask(
        &mut self,
        ask: Ask,
        transaction: u64,
        told: &mut Receiver<Told>,
    ) -> Option<Result<Reply, Error>> {
        let [a, b, c, d, ..] = transaction.to_be_bytes();
        let mut answer = std::pin::pin!(answer_of(ask, u32::from_be_bytes([a, b, c, d])));
        loop {
            tokio::select! {
                answer = &mut answer => return Some(answer),
                one = told.recv(), if self.end_at.is_none() => self.hear(one),
                () = sleep_until(self.end_at) => return None,
            }
        }
    }

    /// Takes what the owner says; an owner that is gone wants no more.
    fn hear(&mut self, told: Option<Told>) {
        let event = told.map_or(Event::Stopped, |told| told.event);
        self.progress = told.map_or(self.progress, |told| told.progress);
        match event {
            Event::None => {}
            Event::Completed => self.announcer.complete(),
            Event::Hungry => self.announcer.hurry(HUNGRY_WAIT, self.now()),
            Event::Stopped => {
                self.announcer.stop();
                self.end_at = Some(tokio::time::Instant::now() + FAREWELL_DEADLINE);
            }
        }
    }
}

async fn sleep_until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn answer_of(ask: Ask, transaction: u32) -> Result<Reply, Error> {
    let found = tokio::time::timeout(ANSWER_DEADLINE, plain::addresses(&ask.tracker)).await;
    let addresses = found.map_err(|_| Error::Silent)?;
    let addresses = addresses.map_err(|error| unreached(&ask, &error))?;
    at_addresses(&ask, addresses, transaction).await
}

/// Asks a tracker by IPv4 and IPv6 side by side, so that it tells of the peers of both: at the
/// addresses of one family one after the other, until one answers. When one family has its answer,
/// the other is not waited for much longer.
///
/// Source: BEP 7.
async fn at_addresses(
    ask: &Ask,
    addresses: Vec<SocketAddr>,
    transaction: u32,
) -> Result<Reply, Error> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv4);
    let mut families = JoinSet::new();
    for family in [v4, v6].into_iter().filter(|family| !family.is_empty()) {
        families.spawn(by_family(ask.clone(), family, transaction));
    }
    let mut answer = Err(Error::Silent);
    let mut patience = None;
    loop {
        let next = tokio::select! {
            next = families.join_next() => next,
            () = sleep_until(patience) => None,
        };
        let Some(next) = next else {
            return answer;
        };
        // A task that panicked said nothing.
        let next = next.unwrap_or(Err(Error::Silent));
        answer = joined(answer, next);
        if answer.is_ok() && patience.is_none() {
            patience = Some(tokio::time::Instant::now() + FAMILY_PATIENCE);
        }
    }
}

/// What a tracker says by two ways: peers of both, or the one refusal that says more.
fn joined(one: Result<Reply, Error>, other: Result<Reply, Error>) -> Result<Reply, Error> {
    match (one, other) {
        (Ok(mut one), Ok(other)) => {
            for peer in other.peers {
                if !one.peers.contains(&peer) {
                    one.peers.push(peer);
                }
            }
            Ok(one)
        }
        (Ok(reply), Err(_)) | (Err(_), Ok(reply)) => Ok(reply),
        (Err(Error::Silent), Err(error)) | (Err(error), Err(_)) => Err(error),
    }
}

async fn by_family(ask: Ask, addresses: Vec<SocketAddr>, transaction: u32) -> Result<Reply, Error> {
    let mut answer = Err(Error::Silent);
    for address in addresses {
        let next = match ask.tracker.scheme() {
            Scheme::Http => by_http(&ask, address).await,
            Scheme::Udp => by_udp(&ask, address, transaction).await,
        };
        answer = joined(answer, next);
        if answer.is_ok() {
            break;
        }
    }
    answer
}

async fn by_http(ask: &Ask, address: SocketAddr) -> Result<Reply, Error> {
    let answered = tokio::time::timeout(ANSWER_DEADLINE, http_body(ask, address)).await;
    let body = answered.map_err(|_| Error::Silent)?;
    Reply::parse(&body.map_err(|error| unreached(ask, &error))?)
}

async fn http_body(ask: &Ask, address: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let url = &ask.tracker;
    let joint = if url.path().contains('?') { '&' } else { '?' };
    let query = http::query(&ask.announce, ask.tracker_id.as_deref());
    let target = format!("{}{joint}{query}", url.path());
    let mut sender = plain::open_at(address).await?;
    let response = plain::get(&mut sender, url, &target, None).await?;
    let status = response.status();
    let body = plain::collect(response, REPLY_BYTES_MAX).await?;
    // Some trackers refuse with an error's status, and say why.
    let is_answer = status.is_success() || body.starts_with(b"d");
    anyhow::ensure!(is_answer, "The tracker answers {status}");
    Ok(body)
}

fn unreached(ask: &Ask, error: &impl std::fmt::Display) -> Error {
    tracing::debug!(tracker = %ask.tracker, %error, "A tracker is not reached");
    Error::Silent
}

async fn by_udp(ask: &Ask, address: SocketAddr, transaction: u32) -> Result<Reply, Error> {
    let silent = |error: std::io::Error| unreached(ask, &error);
    let any = crate::engine::net::any_address(address.ip(), 0);
    let socket = UdpSocket::bind(any).await.map_err(silent)?;
    // So only the tracker's own datagrams come, and a closed port is heard of.
    socket.connect(address).await.map_err(silent)?;
    let started = Instant::now();
    let now = || Time::ZERO + started.elapsed();
    let announce = ask.announce.clone();
    let mut exchange = Exchange::new(announce, transaction, address.is_ipv6(), Time::ZERO);
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        while let Some(datagram) = exchange.poll_transmit(now())? {
            socket.send(&datagram).await.map_err(silent)?;
        }
        let patience = exchange.poll_timeout().since(now());
        let received = tokio::time::timeout(patience, socket.recv(&mut buffer)).await;
        if let Ok(received) = received {
            let len = received.map_err(silent)?;
            if let Some(reply) = exchange.handle(&buffer[..len], now())? {
                return Ok(reply);
            }
        }
    }
}

#[cfg(test)]
mod tests;
