//! The UDP tracker protocol: datagrams, the server's front and the client's exchange.
//!
//! ```text
//!   client                                     tracker
//!   magic 8 | action 4 | transaction 4  ──►
//!                                       ◄──  action 4 | transaction 4 | connection id 8
//!   connection id 8 | action 4 | transaction 4 | ...  ──►
//!                                       ◄──  action 4 | transaction 4 | ...
//! ```
//!
//! The server keeps no state per client: a connection id is a keyed hash of the client's address
//! and the minute. Whoever cannot read what comes to the address it claims to have gets a datagram
//! no longer than its own, and nothing else; so the tracker amplifies nothing.
//!
//! Source: BEP 15; BEP 41 options behind an announcement are allowed and not read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::limits::{
    CONNECTION_LIFETIME, REPLY_PEERS_MAX, RETRANSMIT_MIN, SCRAPE_MAX, TRANSMITS_MAX,
};
use super::{Announce, Error, Event, Reply, Scraped, Tracker};
use crate::base::Time;
use crate::base::bytes::{BadBytes, Reader, Writer};

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Comes back in the answer.
    pub transaction: u32,
    /// What it wants.
    pub body: RequestBody,
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// A connection id.
    Connect,
    /// To be known, and to know others.
    Announce {
        /// What the tracker gave.
        connection: u64,
        /// Who it is.
        announce: Announce,
    },
    /// Counts of up to [`SCRAPE_MAX`] torrents.
    Scrape {
        /// What the tracker gave.
        connection: u64,
        /// The torrents.
        info_hashes: Vec<[u8; 20]>,
    },
}

/// What a tracker answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// From the request.
    pub transaction: u32,
    /// The answer.
    pub body: ResponseBody,
}

/// A tracker's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    /// A connection id.
    Connect(u64),
    /// Who is there: `interval`, counts and `peers` of the reply are used.
    Announce(Reply),
    /// Counts in the order of the request; `downloaders` is not said.
    Scrape(Vec<Scraped>),
    /// A refusal.
    Error(Vec<u8>),
}

const MAGIC: u64 = 0x0417_2710_1980;
const CONNECT: u32 = 0;
const ANNOUNCE: u32 = 1;
const SCRAPE: u32 = 2;
const ERROR: u32 = 3;
/// `num_want` of a client that leaves it to the tracker.
const ANY: u32 = u32::MAX;

impl Request {
    /// Reads a datagram.
    ///
    /// # Errors
    /// If it is cut, or no request.
    pub fn parse(datagram: &[u8]) -> Result<Self, BadBytes> {
        let mut reader = Reader::new(datagram);
        let (connection, action, transaction) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let body = match action {
            CONNECT if connection == MAGIC => RequestBody::Connect,
            ANNOUNCE => RequestBody::Announce {
                connection,
                announce: parse_announce(&mut reader)?,
            },
            SCRAPE => {
                let (info_hashes, rest) = reader.rest().as_chunks::<20>();
                if !rest.is_empty() || !(1..=SCRAPE_MAX).contains(&info_hashes.len()) {
                    return Err(BadBytes::Value);
                }
                RequestBody::Scrape {
                    connection,
                    info_hashes: info_hashes.to_vec(),
                }
            }
            _ => return Err(BadBytes::Value),
        };
        Ok(Self { transaction, body })
    }

    /// Writes the datagram.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        match &self.body {
            RequestBody::Connect => {
                writer.u64(MAGIC).u32(CONNECT).u32(self.transaction);
            }
            RequestBody::Announce {
                connection,
                announce,
            } => {
                writer.u64(*connection).u32(ANNOUNCE).u32(self.transaction);
                emit_announce(announce, &mut writer);
            }
            RequestBody::Scrape {
                connection,
                info_hashes,
            } => {
                writer.u64(*connection).u32(SCRAPE).u32(self.transaction);
                info_hashes.iter().for_each(|hash| {
                    writer.put(hash);
                });
            }
        }
        writer.finish()
    }
}

fn parse_announce(reader: &mut Reader<'_>) -> Result<Announce, BadBytes> {
    let (info_hash, peer_id) = (reader.array()?, reader.array()?);
    let (downloaded, left, uploaded) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let event = match reader.u32()? {
        0 => Event::None,
        1 => Event::Completed,
        2 => Event::Started,
        3 => Event::Stopped,
        4 => Event::Paused,
        _ => return Err(BadBytes::Value),
    };
    // The address that it claims to have is not believed.
    let _address = reader.u32()?;
    let (key, wanted, port) = (reader.u32()?, reader.u32()?, reader.u16()?);
    Ok(Announce {
        info_hash,
        peer_id,
        port,
        uploaded,
        downloaded,
        left,
        event,
        peers_wanted: (wanted != ANY).then_some(wanted),
        key,
    })
}

fn emit_announce(announce: &Announce, writer: &mut Writer) {
    let event = match announce.event {
        Event::None => 0,
        Event::Completed => 1,
        Event::Started => 2,
        Event::Stopped => 3,
        Event::Paused => 4,
    };
    writer
        .put(&announce.info_hash)
        .put(&announce.peer_id)
        .u64(announce.downloaded)
        .u64(announce.left)
        .u64(announce.uploaded)
        .u32(event)
        .u32(0)
        .u32(announce.key)
        .u32(announce.peers_wanted.unwrap_or(ANY))
        .u16(announce.port);
}

impl Response {
    /// Reads a datagram; `is_v6` says which family's addresses an announcement is answered with.
    ///
    /// # Errors
    /// If it is cut, or no response. Peers beyond [`REPLY_PEERS_MAX`] are left out.
    pub fn parse(datagram: &[u8], is_v6: bool) -> Result<Self, BadBytes> {
        let mut reader = Reader::new(datagram);
        let (action, transaction) = (reader.u32()?, reader.u32()?);
        let body = match action {
            CONNECT => ResponseBody::Connect(reader.u64()?),
            ANNOUNCE => {
                let interval = Duration::from_secs(reader.u32()?.into());
                let (incomplete, complete) = (reader.u32()?, reader.u32()?);
                ResponseBody::Announce(Reply {
                    interval,
                    complete: Some(complete),
                    incomplete: Some(incomplete),
                    peers: parse_peers(reader.rest(), is_v6).ok_or(BadBytes::Value)?,
                    ..Reply::default()
                })
            }
            SCRAPE => {
                let (counts, rest) = reader.rest().as_chunks::<12>();
                if !rest.is_empty() || counts.len() > SCRAPE_MAX {
                    return Err(BadBytes::Value);
                }
                let scraped = counts.iter().map(|count| parse_scraped(count));
                ResponseBody::Scrape(scraped.collect::<Result<_, _>>()?)
            }
            ERROR => ResponseBody::Error(reader.rest().to_vec()),
            _ => return Err(BadBytes::Value),
        };
        Ok(Self { transaction, body })
    }

    /// Writes the datagram.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        let mut start = |action| {
            writer.u32(action).u32(self.transaction);
        };
        match &self.body {
            ResponseBody::Connect(connection) => {
                start(CONNECT);
                writer.u64(*connection);
            }
            ResponseBody::Announce(reply) => {
                start(ANNOUNCE);
                let seconds = u32::try_from(reply.interval.as_secs()).unwrap_or(u32::MAX);
                writer
                    .u32(seconds)
                    .u32(reply.incomplete.unwrap_or(0))
                    .u32(reply.complete.unwrap_or(0))
                    .put(&emit_peers(&reply.peers));
            }
            ResponseBody::Scrape(counts) => {
                start(SCRAPE);
                for count in counts {
                    writer
                        .u32(count.complete)
                        .u32(count.downloaded)
                        .u32(count.incomplete);
                }
            }
            ResponseBody::Error(text) => {
                start(ERROR);
                writer.put(text);
            }
        }
        writer.finish()
    }
}

fn parse_scraped(bytes: &[u8]) -> Result<Scraped, BadBytes> {
    let mut reader = Reader::new(bytes);
    Ok(Scraped {
        complete: reader.u32()?,
        downloaded: reader.u32()?,
        incomplete: reader.u32()?,
        downloaders: 0,
    })
}

/// Compact peers: an address and a port each, 6 or 18 bytes; those with port 0 are left out.
///
/// Source: BEP 23, BEP 7 and 15 for IPv6.
pub(super) fn parse_peers(bytes: &[u8], is_v6: bool) -> Option<Vec<SocketAddr>> {
    let read = |bytes: &[u8]| {
        let (address, port) = bytes.split_last_chunk::<2>()?;
        let ip = match (<[u8; 4]>::try_from(address), <[u8; 16]>::try_from(address)) {
            (Ok(v4), _) => IpAddr::V4(Ipv4Addr::from(v4)),
            (_, Ok(v6)) => IpAddr::V6(Ipv6Addr::from(v6)),
            (Err(_), Err(_)) => return None,
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
    };
    let chunks = bytes.chunks_exact(if is_v6 { 18 } else { 6 });
    if !chunks.remainder().is_empty() {
        return None;
    }
    let peers = chunks.filter_map(read).filter(|peer| peer.port() != 0);
    Some(peers.take(REPLY_PEERS_MAX).collect())
}

/// Writes what [`parse_peers`] reads.
pub(super) fn emit_peers(peers: &[SocketAddr]) -> Vec<u8> {
    let mut writer = Writer::new();
    for peer in peers {
        match peer.ip() {
            IpAddr::V4(ip) => writer.put(&ip.octets()),
            IpAddr::V6(ip) => writer.put(&ip.octets()),
        };
        writer.u16(peer.port());
    }
    writer.finish()
}

/// The server's front: who may speak to the [`Tracker`] by UDP.
#[derive(Clone, Debug)]
pub struct Front {
    secret: [u8; 32],
}

impl Front {
    /// A front whose connection ids are keyed by `secret`, drawn at the tracker's start.
    #[must_use]
    pub const fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// Answers one datagram, or says nothing.
    pub fn answer(
        &self,
        tracker: &mut Tracker,
        from: SocketAddr,
        datagram: &[u8],
        now: Time,
    ) -> Option<Vec<u8>> {
        let request = Request::parse(datagram).ok()?;
        let body = match request.body {
            RequestBody::Connect => ResponseBody::Connect(self.id(from.ip(), minute(now))),
            RequestBody::Announce {
                connection,
                announce,
            } => {
                self.admits(connection, from.ip(), now).then_some(())?;
                match tracker.announce(from.ip(), &announce, now) {
                    Ok(announced) => ResponseBody::Announce(announced.into()),
                    Err(refused) => ResponseBody::Error(refused.to_string().into_bytes()),
                }
            }
            RequestBody::Scrape {
                connection,
                info_hashes,
            } => {
                self.admits(connection, from.ip(), now).then_some(())?;
                let scraped = |hash| tracker.scrape(hash, now).unwrap_or_default();
                ResponseBody::Scrape(info_hashes.iter().map(scraped).collect())
            }
        };
        let response = Response {
            transaction: request.transaction,
            body,
        };
        Some(response.emit())
    }

    fn admits(&self, connection: u64, ip: IpAddr, now: Time) -> bool {
        let minute = minute(now);
        let before = minute.checked_sub(1);
        std::iter::once(minute)
            .chain(before)
            .any(|minute| self.id(ip, minute) == connection)
    }

    fn id(&self, ip: IpAddr, minute: u64) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(&minute.to_be_bytes());
        match ip {
            IpAddr::V4(ip) => hasher.update(&ip.octets()),
            IpAddr::V6(ip) => hasher.update(&ip.octets()),
        };
        let mut id = [0; 8];
        hasher.finalize_xof().fill(&mut id);
        u64::from_be_bytes(id)
    }
}

fn minute(now: Time) -> u64 {
    now.since(Time::ZERO).as_secs() / CONNECTION_LIFETIME.as_secs()
}

/// The client's side of one announcement: connects, announces, sends again what is not answered.
#[derive(Debug)]
pub struct Exchange {
    announce: Announce,
    is_v6: bool,
    transaction: u32,
    connection: Option<u64>,
    transmits: u32,
    transmit_at: Time,
}

impl Exchange {
    /// Starts at `now`; `transaction` is random, and `is_v6` says how the tracker is reached.
    #[must_use]
    pub const fn new(announce: Announce, transaction: u32, is_v6: bool, now: Time) -> Self {
        Self {
            announce,
            is_v6,
            transaction,
            connection: None,
            transmits: 0,
            transmit_at: now,
        }
    }

    /// The datagram to send now, if it is time.
    ///
    /// # Errors
    /// [`Error::Silent`] once nothing was answered for so long that it is given up.
    pub fn poll_transmit(&mut self, now: Time) -> Result<Option<Vec<u8>>, Error> {
        if now < self.transmit_at {
            return Ok(None);
        }
        if self.transmits == TRANSMITS_MAX {
            return Err(Error::Silent);
        }
        self.transmit_at = now + RETRANSMIT_MIN * (1 << self.transmits);
        self.transmits += 1;
        let body = match self.connection {
            None => RequestBody::Connect,
            Some(connection) => RequestBody::Announce {
                connection,
                announce: self.announce.clone(),
            },
        };
        let request = Request {
            transaction: self.transaction,
            body,
        };
        Ok(Some(request.emit()))
    }

    /// When [`Exchange::poll_transmit`] has something new to say.
    #[must_use]
    pub const fn poll_timeout(&self) -> Time {
        self.transmit_at
    }

    /// Takes a datagram of the tracker; gives its answer, once it is there.
    ///
    /// # Errors
    /// [`Error::Refused`] if it refuses. What is no answer to this exchange is passed over.
    pub fn handle(&mut self, datagram: &[u8], now: Time) -> Result<Option<Reply>, Error> {
        let Ok(response) = Response::parse(datagram, self.is_v6) else {
            return Ok(None);
        };
        if response.transaction != self.transaction {
            return Ok(None);
        }
        match (response.body, self.connection) {
            (ResponseBody::Connect(connection), None) => {
                self.connection = Some(connection);
                // Another number, so that a late answer to the first cannot be taken for the next.
                self.transaction = self.transaction.wrapping_add(1);
                (self.transmits, self.transmit_at) = (0, now);
                Ok(None)
            }
            (ResponseBody::Announce(reply), Some(_)) => Ok(Some(reply)),
            (ResponseBody::Error(text), _) => Err(Error::Refused(super::words(&text))),
            (ResponseBody::Connect(_) | ResponseBody::Announce(_) | ResponseBody::Scrape(_), _) => {
                Ok(None)
            }
        }
    }
}
