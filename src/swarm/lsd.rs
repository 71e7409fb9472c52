//! Local service discovery: peers of one network find each other by multicast, without a tracker.
//!
//! ```text
//!   BT-SEARCH * HTTP/1.1 ⏎ Host: 239.192.152.143:6771 ⏎ Port: 6881 ⏎
//!   Infohash: 0123...cdef ⏎ cookie: 1a2b ⏎ ⏎ ⏎
//! ```
//!
//! A [`Discovery`] announces the torrents that it was told of, each at its own pace, and tells of
//! peers that announce the same. Whoever hears a new peer announces soon itself, so that the new
//! one need not wait. What it says is in the clear: runs with a secret use a name that is derived
//! from the secret, see [`veiled_name`], and a private torrent is announced only if its owner says
//! so. The machine owns its schedule and remembers a bounded number of peers.
//!
//! Source: BEP 14.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::base::Time;
use crate::base::random::Random;
use crate::machine::{Channel, Input, Machine, Output, Transmit};

/// The group of IPv4.
pub const GROUP_V4: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 192, 152, 143)), PORT);
/// The group of IPv6.
pub const GROUP_V6: SocketAddr = SocketAddr::new(
    IpAddr::V6(Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0xefc0, 0x988f)),
    PORT,
);
/// The port of both groups.
const PORT: u16 = 6771;
/// The longest datagram that is read or written, in bytes.
pub const DATAGRAM_BYTES_MAX: usize = 1400;
/// The most torrents that are announced, and that one datagram may name.
pub const TORRENTS_MAX: usize = 64;
/// The longest cookie that is read, in bytes.
pub const COOKIE_BYTES_MAX: usize = 128;
/// The most peers that are remembered, so that each is told once in a while only.
pub const HEARD_MAX: usize = 4096;
/// A peer that is heard again within this time is not told again.
pub const RETELL_INTERVAL: Duration = Duration::from_secs(30);
/// The longest wait before a newly heard peer hears us.
pub const WELCOME_DELAY: Duration = Duration::from_secs(1);

/// One datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// The group that it was sent to.
    pub host: SocketAddr,
    /// Where the peer listens, not 0.
    pub port: u16,
    /// The torrents, at least one.
    pub info_hashes: Vec<[u8; 20]>,
    /// By which a peer knows its own datagrams.
    pub cookie: Option<String>,
}

impl Search {
    /// Reads a datagram. Header names may be in any case; unknown ones are passed over.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        if datagram.len() > DATAGRAM_BYTES_MAX {
            return None;
        }
        let text = std::str::from_utf8(datagram).ok()?;
        let mut lines = text.split("\r\n");
        if lines.next()? != START {
            return None;
        }
        let (mut host, mut port, mut cookie, mut info_hashes) = (None, None, None, Vec::new());
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "host" => host = Some(value.parse().ok()?),
                "port" => port = Some(value.parse().ok()?),
                "cookie" if value.len() <= COOKIE_BYTES_MAX => cookie = Some(value.to_owned()),
                "infohash" if info_hashes.len() < TORRENTS_MAX => {
                    info_hashes.push(parse_name(value)?);
                }
                _ => {}
            }
        }
        let port = port.filter(|port| *port != 0)?;
        (!info_hashes.is_empty()).then_some(Self {
            host: host?,
            port,
            info_hashes,
            cookie,
        })
    }

    /// Writes the datagram.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        use std::fmt::Write as _;
        let mut text = format!("{START}\r\nHost: {}\r\nPort: {}\r\n", self.host, self.port);
        let mut put = |parts: std::fmt::Arguments<'_>| {
            text.write_fmt(parts)
                .expect("a string takes all that is written to it");
        };
        for name in &self.info_hashes {
            put(format_args!("Infohash: "));
            name.iter().for_each(|byte| put(format_args!("{byte:02x}")));
            put(format_args!("\r\n"));
        }
        if let Some(cookie) = &self.cookie {
            put(format_args!("cookie: {cookie}\r\n"));
        }
        text.push_str("\r\n\r\n");
        text.into_bytes()
    }
}

fn parse_name(text: &str) -> Option<[u8; 20]> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != 20 || !rest.is_empty() {
        return None;
    }
    let mut name = [0; 20];
    for (byte, &[high, low]) in name.iter_mut().zip(pairs) {
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(name)
}

const START: &str = "BT-SEARCH * HTTP/1.1";

/// The name under which a torrent of a run with a secret is announced: who does not have the secret
/// cannot tell which torrent it is.
#[must_use]
pub fn veiled_name(secret: &[u8; 32], info_hash: &[u8; 20]) -> [u8; 20] {
    let mut hasher = blake3::Hasher::new_derive_key("flashover 2026 swarm discovery name");
    hasher.update(secret).update(info_hash);
    let mut name = [0; 20];
    hasher.finalize_xof().fill(&mut name);
    name
}

/// How a machine announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where this peer listens, not 0.
    pub port: u16,
    /// The groups, each with the socket that sends to it and hears it.
    pub groups: Vec<(Channel, SocketAddr)>,
    /// The time between announcements of a torrent; BEP 14 says 5 minutes.
    pub interval: Duration,
    /// The least time between them, whatever is heard; BEP 14 says 1 minute.
    pub interval_min: Duration,
    /// Random.
    pub seed: u64,
}

/// What the job says to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Announce this torrent, the first time at once, and tell of its peers.
    Seek([u8; 20]),
    /// Leave it.
    Forget([u8; 20]),
}

/// A peer was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The torrent that it has or wants.
    pub info_hash: [u8; 20],
    /// Where it listens.
    pub peer: SocketAddr,
}

/// See the module.
#[derive(Debug)]
pub struct Discovery {
    config: Config,
    cookie: String,
    sought: BTreeMap<[u8; 20], Sought>,
    /// What is being sent: torrents and the next group of each.
    sending: VecDeque<([u8; 20], usize)>,
    heard: BTreeMap<Sighting, Heard>,
    outputs: VecDeque<Found>,
    random: Random,
}

/// A torrent and a peer of it.
type Sighting = ([u8; 20], SocketAddr);

/// When it was told, and the cookie: who begins anew has another, and has heard nobody.
#[derive(Debug)]
struct Heard {
    told_at: Time,
    cookie: Option<String>,
}

impl Heard {
    fn is_old(&self, now: Time) -> bool {
        now.since(self.told_at) >= RETELL_INTERVAL
    }
}

#[derive(Clone, Copy, Debug)]
struct Sought {
    /// The last announcement.
    said_at: Option<Time>,
    next_at: Time,
}

impl Discovery {
    /// A machine that announces nothing yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let mut random = Random::new(config.seed);
        Self {
            cookie: format!("{:016x}", random.bits()),
            config,
            sought: BTreeMap::new(),
            sending: VecDeque::new(),
            heard: BTreeMap::new(),
            outputs: VecDeque::new(),
            random,
        }
    }

    fn hear(&mut self, from: SocketAddr, datagram: &[u8], now: Time) {
        let Some(search) = Search::parse(datagram) else {
            return;
        };
        if search.cookie.as_ref() == Some(&self.cookie) {
            return;
        }
        let peer = SocketAddr::new(from.ip().to_canonical(), search.port);
        for info_hash in search.info_hashes {
            let is_sought = self.sought.contains_key(&info_hash);
            if is_sought && self.is_news((info_hash, peer), search.cookie.as_ref(), now) {
                self.outputs.push_back(Found { info_hash, peer });
                self.welcome(info_hash, now);
            }
        }
    }

    fn is_news(&mut self, found: Sighting, cookie: Option<&String>, now: Time) -> bool {
        if self.outputs.len() >= HEARD_MAX {
            return false;
        }
        if self.heard.len() >= HEARD_MAX && !self.heard.contains_key(&found) {
            self.heard.retain(|_, heard| !heard.is_old(now));
            if self.heard.len() >= HEARD_MAX {
                return false;
            }
        }
        let before = self.heard.get(&found);
        let is_news =
            before.is_none_or(|heard| heard.is_old(now) || heard.cookie.as_ref() != cookie);
        if is_news {
            let cookie = cookie.cloned();
            let told_at = now;
            self.heard.insert(found, Heard { told_at, cookie });
        }
        is_news
    }

    /// Announces soon, so that the peer that was just heard hears us.
    fn welcome(&mut self, info_hash: [u8; 20], now: Time) {
        let soon = now + self.random.up_to(WELCOME_DELAY);
        if let Some(sought) = self.sought.get_mut(&info_hash) {
            let allowed = sought
                .said_at
                .map_or(now, |said| said + self.config.interval_min);
            sought.next_at = sought.next_at.min(soon.max(allowed));
        }
    }

    fn start_due(&mut self, now: Time) {
        for (name, sought) in &mut self.sought {
            if now >= sought.next_at {
                sought.said_at = Some(now);
                sought.next_at = now + self.random.about(self.config.interval);
                self.sending.push_back((*name, 0));
            }
        }
    }
}

impl Machine for Discovery {
    type Command = Command;
    type Event = Found;

    fn handle(&mut self, input: Input<'_, Command>, now: Time) {
        match input {
            Input::Datagrams(mut datagrams) => {
                let from = datagrams.from;
                for datagram in datagrams.segments() {
                    self.hear(from, datagram, now);
                }
            }
            Input::Command(Command::Seek(name)) => {
                if self.sought.len() < TORRENTS_MAX {
                    let sought = Sought {
                        said_at: None,
                        next_at: now,
                    };
                    self.sought.entry(name).or_insert(sought);
                }
            }
            Input::Command(Command::Forget(name)) => {
                self.sought.remove(&name);
                self.sending.retain(|(other, _)| *other != name);
            }
            Input::Stream(_) | Input::Disk(_) | Input::Timeout => {}
        }
    }

    fn poll_transmit(&mut self, now: Time, buffer: &mut [u8]) -> Option<Transmit> {
        if self.sending.is_empty() {
            self.start_due(now);
        }
        loop {
            let (name, group) = self.sending.front_mut()?;
            let Some(&(channel, to)) = self.config.groups.get(*group) else {
                self.sending.pop_front();
                continue;
            };
            let search = Search {
                host: to,
                port: self.config.port,
                info_hashes: vec![*name],
                cookie: Some(self.cookie.clone()),
            };
            let datagram = search.emit();
            let len = datagram.len();
            buffer.get_mut(..len)?.copy_from_slice(&datagram);
            *group += 1;
            return Some(Transmit {
                channel,
                to,
                len,
                segment_size: len,
            });
        }
    }

    fn poll_output(&mut self) -> Option<Output<Found>> {
        self.outputs.pop_front().map(Output::Event)
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.sought.values().map(|sought| sought.next_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Datagrams;
    use proptest::prelude::*;

    const NAME: [u8; 20] = [0xa5; 20];

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    fn machine(seed: u64) -> Discovery {
        let mut machine = Discovery::new(Config {
            port: 6881,
            groups: vec![(Channel(0), GROUP_V4), (Channel(1), GROUP_V6)],
            interval: Duration::from_secs(300),
            interval_min: Duration::from_secs(60),
            seed,
        });
        machine.handle(Input::Command(Command::Seek(NAME)), at(0));
        machine
    }

    fn said(machine: &mut Discovery, now: Time) -> Vec<Vec<u8>> {
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        let mut all = Vec::new();
        while let Some(transmit) = machine.poll_transmit(now, &mut buffer) {
            all.push(buffer[..transmit.len].to_vec());
        }
        all
    }

    fn hear(machine: &mut Discovery, datagram: &[u8], now: Time) -> Vec<Found> {
        let mut bytes = datagram.to_vec();
        let datagrams = Datagrams {
            channel: Channel(0),
            from: "10.0.0.9:6771".parse().unwrap(),
            segment_size: bytes.len(),
            bytes: &mut bytes,
            dropped_total: 0,
        };
        machine.handle(Input::Datagrams(datagrams), now);
        let found = |output| match output {
            Output::Event(found) => found,
            Output::Disk(_) | Output::Stream(_) => panic!("it has no disk and no streams"),
        };
        std::iter::from_fn(|| machine.poll_output())
            .map(found)
            .collect()
    }

    proptest! {
        #[test]
        fn datagrams_round_trip(
            port in 1u16..,
            info_hashes in prop::collection::vec(any::<[u8; 20]>(), 1..20),
            cookie in prop::option::of("[a-z0-9]{1,20}"),
            is_v6: bool,
        ) {
            let host = if is_v6 { GROUP_V6 } else { GROUP_V4 };
            let search = Search { host, port, info_hashes, cookie };
            prop_assert_eq!(Search::parse(&search.emit()), Some(search));
        }
    }

    #[test]
    fn two_machines_find_each_other_and_nobody_finds_itself() {
        let (mut one, mut other) = (machine(1), machine(2));
        let first = said(&mut one, at(0));
        assert_eq!(first.len(), 2, "to both groups");
        assert!(hear(&mut one, &first[0], at(1)).is_empty(), "its own");
        let peer = "10.0.0.9:6881".parse().unwrap();
        let found = Found {
            info_hash: NAME,
            peer,
        };
        assert_eq!(hear(&mut other, &first[0], at(1)), [found]);
        assert!(hear(&mut other, &first[1], at(2)).is_empty(), "told once");
        let later = at(2) + RETELL_INTERVAL;
        assert_eq!(
            hear(&mut other, &first[0], later),
            [found],
            "and once in a while"
        );
    }

    #[test]
    fn a_newcomer_is_welcomed_but_not_more_often_than_is_allowed() {
        let (mut one, mut newcomer) = (machine(1), machine(2));
        assert_eq!(said(&mut one, at(0)).len(), 2);
        assert!(said(&mut one, at(100_000)).is_empty());
        let hello = said(&mut newcomer, at(100_000));
        assert_eq!(hear(&mut one, &hello[0], at(100_000)).len(), 1);
        assert_eq!(said(&mut one, at(101_000)).len(), 2);
        let again = at(101_000) + RETELL_INTERVAL;
        assert_eq!(hear(&mut one, &hello[0], again).len(), 1);
        assert!(
            said(&mut one, again + WELCOME_DELAY).is_empty(),
            "60 s have not passed"
        );
        assert_eq!(said(&mut one, at(162_000)).len(), 2);
    }

    #[test]
    fn who_begins_anew_is_welcomed_though_it_was_heard_just_now() {
        let mut one = machine(1);
        said(&mut one, at(0));
        let mut newcomers = [machine(2), machine(3)];
        let [first, again] = newcomers
            .each_mut()
            .map(|other| said(other, at(0)).remove(0));
        assert_eq!(hear(&mut one, &first, at(1)).len(), 1);
        assert_eq!(hear(&mut one, &first, at(20_000)), [], "known");
        assert_eq!(said(&mut one, at(61_000)).len(), 2);
        assert!(said(&mut one, at(121_000)).is_empty());
        assert_eq!(hear(&mut one, &again, at(121_000)).len(), 1);
        assert_eq!(said(&mut one, at(122_100)).len(), 2);
    }

    #[test]
    fn announcements_come_at_their_interval_until_forgotten() {
        let mut machine = machine(3);
        assert_eq!(said(&mut machine, at(0)).len(), 2);
        let next = machine.poll_timeout().unwrap();
        assert!((225..=375).contains(&next.since(at(0)).as_secs()));
        assert_eq!(said(&mut machine, next).len(), 2);
        machine.handle(Input::Command(Command::Forget(NAME)), next);
        assert_eq!(machine.poll_timeout(), None);
        let search = Search {
            host: GROUP_V4,
            port: 1,
            info_hashes: vec![NAME],
            cookie: None,
        };
        assert!(hear(&mut machine, &search.emit(), next).is_empty());
    }

    #[test]
    fn a_flood_of_peers_is_bounded() {
        let mut machine = machine(4);
        for port in 1..=5000 {
            let search = Search {
                host: GROUP_V4,
                port,
                info_hashes: vec![NAME],
                cookie: None,
            };
            let told = hear(&mut machine, &search.emit(), at(1)).len();
            assert_eq!(told, usize::from(usize::from(port) <= HEARD_MAX));
        }
        assert_eq!(machine.heard.len(), HEARD_MAX);
    }

    #[test]
    fn what_is_no_search_is_passed_over() {
        let good = "BT-SEARCH * HTTP/1.1\r\nHOST: 239.192.152.143:6771\r\nport: 6881\r\nX: y\r\n\
                    INFOHASH: a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5A5\r\n\r\n";
        assert_eq!(Search::parse(good.as_bytes()).unwrap().info_hashes, [NAME]);
        for (from, to) in [
            ("BT-SEARCH", "M-SEARCH"),
            ("6881", "0"),
            ("port", "p"),
            ("a5a5\r", "a5\r"),
            ("INFOHASH", "hash"),
            ("239.192.152.143:6771", "x"),
            ("X: y", "X"),
        ] {
            let bad = good
                .replace(from, to)
                .replace("A5\r\n", if from == "a5a5\r" { "\r\n" } else { "A5\r\n" });
            assert_eq!(Search::parse(bad.as_bytes()), None, "{to}");
        }
        assert_ne!(veiled_name(&[1; 32], &NAME), veiled_name(&[2; 32], &NAME));
    }
}
