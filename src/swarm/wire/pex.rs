//! Peers tell each other of their peers.
//!
//! ```text
//!   d 5:added  addresses of 6 bytes    7:added.f  a byte of flags each   7:dropped   ...
//!     6:added6 addresses of 18 bytes   8:added6.f ...                    8:dropped6  ... e
//! ```
//!
//! Who sends: [`PexSender`], once a minute at most, [`PEX_PEERS_MAX`] each at most. Who hears:
//! [`PexReceiver`], which takes no more than that from a peer. Both are for one connection. What a
//! peer says is hearsay: an address to try, nothing more. A private torrent has no exchange
//! (BEP 27); that is for the caller to see to.
//!
//! Source: BEP 11.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::extension::BadExtension;
use crate::base::Time;
use crate::swarm::bencode::{self, Dict, DictWriter, Form};

/// The longest message that is read, in bytes; the longest that obeys BEP 11 has half.
pub const PEX_BYTES_MAX: usize = 8 << 10;
/// The most peers that a message adds, and the most that it drops; what is beyond is not read.
pub const PEX_PEERS_MAX: usize = 50;
/// How often a message may come.
pub const PEX_INTERVAL: Duration = Duration::from_secs(60);
/// How soon it is looked again whether there is something to tell.
const PEX_LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How much too early it may come, as clocks and networks are not exact.
const PEX_TOLERANCE: Duration = Duration::from_secs(10);
/// How many messages may come at once: one with the handshake, one just behind.
const PEX_AHEAD_MAX: u32 = 2;
/// The most peers that one peer is told of at a time.
const TOLD_MAX: usize = 200;

/// What is said of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PexFlags(pub u8);

impl PexFlags {
    /// It prefers encryption.
    pub const ENCRYPTION: Self = Self(0x01);
    /// It wants nothing any more.
    pub const SEED: Self = Self(0x02);
    /// It speaks uTP.
    pub const UTP: Self = Self(0x04);
    /// It helps others to each other (BEP 55).
    pub const HOLEPUNCH: Self = Self(0x08);
    /// It can be connected to.
    pub const REACHABLE: Self = Self(0x10);

    /// Whether it has all of `flags`.
    #[must_use]
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pex {
    /// Peers that the sender knows now, each once.
    pub added: BTreeMap<SocketAddr, PexFlags>,
    /// Peers that it knows no more.
    pub dropped: BTreeSet<SocketAddr>,
}

impl Pex {
    /// Reads what stands behind the number of `ut_pex`. Addresses that nobody can be connected to
    /// at are passed over.
    ///
    /// # Errors
    /// If it is too long, or a list of addresses is of a length that none has.
    pub fn parse(payload: &[u8]) -> Result<Self, BadExtension> {
        if payload.len() > PEX_BYTES_MAX {
            return Err(BadExtension::TooLong);
        }
        let (value, _) = bencode::parse_front(payload, Form::AnyOrder)?;
        let dict = value.dict().ok_or(BadExtension::Malformed)?;
        let mut pex = Self::default();
        let lists: [(&[u8], &[u8], bool); 2] = [
            (b"added", b"added.f", false),
            (b"added6", b"added6.f", true),
        ];
        for (key, flags, is_v6) in lists {
            let flags = dict.bytes(flags).unwrap_or_default();
            let flags = flags.iter().copied().chain(std::iter::repeat(0));
            for (peer, flags) in addresses(dict, key, is_v6)?.into_iter().zip(flags) {
                if pex.added.len() < PEX_PEERS_MAX && can_be_tried(&peer) {
                    pex.added.entry(peer).or_insert(PexFlags(flags));
                }
            }
        }
        for (key, is_v6) in [(&b"dropped"[..], false), (b"dropped6", true)] {
            for peer in addresses(dict, key, is_v6)? {
                if pex.dropped.len() < PEX_PEERS_MAX && can_be_tried(&peer) {
                    pex.dropped.insert(peer);
                }
            }
        }
        Ok(pex)
    }

    /// Writes the message.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let mut lists: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
        let mut put = |key, bytes: &[u8]| {
            lists.entry(key).or_default().extend_from_slice(bytes);
        };
        for key in [&b"added"[..], b"added.f", b"dropped"] {
            // Some clients want these always.
            put(key, &[]);
        }
        for (peer, flags) in &self.added {
            let is_v6 = peer.is_ipv6();
            put(if is_v6 { b"added6" } else { b"added" }, &compact(peer));
            put(if is_v6 { b"added6.f" } else { b"added.f" }, &[flags.0]);
        }
        for peer in &self.dropped {
            let key: &[u8] = if peer.is_ipv6() {
                b"dropped6"
            } else {
                b"dropped"
            };
            put(key, &compact(peer));
        }
        let mut dict = DictWriter::new();
        for (key, bytes) in lists {
            dict.bytes(key, &bytes);
        }
        dict.finish()
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.dropped.is_empty()
    }
}

/// Whether somebody may listen there; else a peer could make us speak to groups or to nobody.
#[must_use]
pub fn can_be_tried(peer: &SocketAddr) -> bool {
    let is_host = match peer.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    };
    is_host && peer.port() != 0
}

fn addresses(dict: &Dict<'_>, key: &[u8], is_v6: bool) -> Result<Vec<SocketAddr>, BadExtension> {
    let bytes = dict.bytes(key).unwrap_or_default();
    let (v4, v6) = (bytes.as_chunks::<6>(), bytes.as_chunks::<18>());
    if !if is_v6 { v6.1 } else { v4.1 }.is_empty() {
        return Err(BadExtension::Malformed);
    }
    let port = |high, low| u16::from_be_bytes([high, low]);
    if is_v6 {
        let address = |bytes: &[u8; 18]| {
            let (&ip, &[high, low]) = bytes.split_first_chunk::<16>().and_then(|(ip, rest)| {
                let port = rest.first_chunk::<2>()?;
                Some((ip, port))
            })?;
            Some(SocketAddr::new(ip.into(), port(high, low)))
        };
        return Ok(v6.0.iter().filter_map(address).collect());
    }
    let address =
        |&[a, b, c, d, high, low]: &[u8; 6]| SocketAddr::new([a, b, c, d].into(), port(high, low));
    Ok(v4.0.iter().map(address).collect())
}

fn compact(peer: &SocketAddr) -> Vec<u8> {
    let mut bytes = match peer.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    bytes.extend_from_slice(&peer.port().to_be_bytes());
    bytes
}

/// What one peer was told, and when it may be told more.
#[derive(Clone, Debug, Default)]
pub struct PexSender {
    told: BTreeSet<SocketAddr>,
    next_at: Time,
}

impl PexSender {
    /// What to tell now of the peers that there are now, the one told not among them; `None` while
    /// it is too early or nothing has changed.
    pub fn poll(&mut self, current: &BTreeMap<SocketAddr, PexFlags>, now: Time) -> Option<Pex> {
        if now < self.next_at {
            return None;
        }
        let gone = self.told.iter().filter(|peer| !current.contains_key(peer));
        let dropped: BTreeSet<SocketAddr> = gone.take(PEX_PEERS_MAX).copied().collect();
        self.told.retain(|peer| !dropped.contains(peer));
        let room = TOLD_MAX.saturating_sub(self.told.len()).min(PEX_PEERS_MAX);
        let new = current
            .iter()
            .filter(|(peer, _)| can_be_tried(peer) && !self.told.contains(peer));
        let added = new
            .take(room)
            .map(|(peer, flags)| (*peer, *flags))
            .collect();
        let pex = Pex { added, dropped };
        if pex.is_empty() {
            self.next_at = now + PEX_LOOK_INTERVAL;
            return None;
        }
        self.told.extend(pex.added.keys());
        self.next_at = now + PEX_INTERVAL;
        Some(pex)
    }

    /// Before when [`PexSender::poll`] has nothing.
    #[must_use]
    pub const fn next_at(&self) -> Time {
        self.next_at
    }
}

/// How often one peer has told us something.
#[derive(Clone, Copy, Debug, Default)]
pub struct PexReceiver {
    /// When its messages, one a minute, would all have been told.
    paid_until: Time,
}

impl PexReceiver {
    /// Whether a message that comes now is to be read; one that comes too early is passed over.
    pub fn admits(&mut self, now: Time) -> bool {
        let cost = PEX_INTERVAL.saturating_sub(PEX_TOLERANCE);
        let paid = self.paid_until.max(now) + cost;
        let is_early = paid.since(now) > cost * PEX_AHEAD_MAX;
        if !is_early {
            self.paid_until = paid;
        }
        !is_early
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peer(number: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        SocketAddr::from(([10, 0, high, low], 6881))
    }

    fn peers(count: u16) -> BTreeMap<SocketAddr, PexFlags> {
        (0..count).map(|n| (peer(n), PexFlags::SEED)).collect()
    }

    fn seconds(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            added in prop::collection::btree_map(any::<SocketAddr>(), any::<u8>(), 0..50),
            dropped in prop::collection::btree_set(any::<SocketAddr>(), 0..50),
        ) {
            let plain = |peer: SocketAddr| SocketAddr::new(peer.ip(), peer.port());
            let added = added.into_iter().map(|(peer, flags)| (plain(peer), PexFlags(flags)));
            let pex = Pex {
                added: added.filter(|(peer, _)| can_be_tried(peer)).collect(),
                dropped: dropped.into_iter().map(plain).filter(can_be_tried).collect(),
            };
            let bytes = pex.emit();
            prop_assert!(bytes.len() <= PEX_BYTES_MAX / 2);
            prop_assert_eq!(Pex::parse(&bytes), Ok(pex));
        }

        #[test]
        fn everybody_hears_of_everybody(steps in prop::collection::vec(0..120u16, 1..8)) {
            let (mut sender, mut known) = (PexSender::default(), BTreeSet::new());
            let mut now = Time::ZERO;
            let mut hear = |sender: &mut PexSender, current: &_, now: &mut Time| {
                while let Some(pex) = sender.poll(current, *now) {
                    assert!(sender.poll(current, *now).is_none(), "once a minute");
                    assert!(pex.added.len() <= PEX_PEERS_MAX && pex.dropped.len() <= PEX_PEERS_MAX);
                    known.retain(|peer| !pex.dropped.contains(peer));
                    known.extend(pex.added.into_keys());
                    *now += PEX_INTERVAL;
                }
                assert!(sender.next_at() > *now, "it is not looked at all the time");
                *now += PEX_INTERVAL;
                known.clone()
            };
            for count in steps {
                let current = peers(count);
                let known = hear(&mut sender, &current, &mut now);
                prop_assert_eq!(known, current.into_keys().collect::<BTreeSet<_>>());
            }
        }

        #[test]
        fn no_bytes_do_harm(bytes: Vec<u8>) {
            let _refused = Pex::parse(&bytes).is_err();
        }
    }

    #[test]
    fn bytes_are_those_of_the_specification() {
        let pex = Pex {
            added: [
                ("10.0.0.1:258".parse().unwrap(), PexFlags::SEED),
                ("[::1]:3".parse().unwrap(), PexFlags::REACHABLE),
            ]
            .into(),
            dropped: ["10.0.0.2:1".parse().unwrap()].into(),
        };
        let bytes = [
            &b"d5:added6:\x0a\0\0\x01\x01\x027:added.f1:\x026:added618:"[..],
            &[0; 15],
            b"\x01\0\x038:added6.f1:\x107:dropped6:\x0a\0\0\x02\0\x01e",
        ]
        .concat();
        assert_eq!(pex.emit(), bytes);
        assert_eq!(Pex::parse(&bytes), Ok(pex));
    }

    #[test]
    fn what_is_out_of_range_is_refused_or_passed_over() {
        let mut long = DictWriter::new();
        long.bytes(b"added", &[0; 9000]);
        assert_eq!(Pex::parse(&long.finish()), Err(BadExtension::TooLong));
        for (key, len) in [(&b"added"[..], 7), (b"added6", 6), (b"dropped6", 19)] {
            let mut dict = DictWriter::new();
            dict.bytes(key, &vec![1; len]);
            assert_eq!(Pex::parse(&dict.finish()), Err(BadExtension::Malformed));
        }
        let useless = [
            [0, 0, 0, 0, 1, 1],
            [224, 0, 0, 1, 1, 1],
            [10, 0, 0, 1, 0, 0],
        ];
        let mut dict = DictWriter::new();
        dict.bytes(b"added", &useless.concat());
        assert!(Pex::parse(&dict.finish()).unwrap().is_empty());
        let many = Pex {
            added: peers(80),
            dropped: peers(70).into_keys().collect(),
        };
        let read = Pex::parse(&many.emit()).unwrap();
        assert_eq!((read.added.len(), read.dropped.len()), (50, 50));
    }

    #[test]
    fn a_peer_is_heard_once_a_minute() {
        let mut receiver = PexReceiver::default();
        let heard = |receiver: &mut PexReceiver, at| receiver.admits(seconds(at));
        assert!(heard(&mut receiver, 100) && heard(&mut receiver, 100));
        assert!(!heard(&mut receiver, 101));
        for minute in 3..20 {
            assert!(heard(&mut receiver, 60 * minute));
        }
        let flood = (1200..1800).filter(|&at| heard(&mut receiver, at));
        assert_eq!(flood.count(), 2 + 590 / 50);
    }
}
