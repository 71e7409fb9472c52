//! An IGMP querier (RFC 3376): asks once a minute which groups are wanted on a network, so that a
//! switch with IGMP snooping goes on forwarding them where no router asks.
//!
//! A network has one querier, that with the lowest address (section 6.6.2): while a lower one asks,
//! this one is silent.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::beacon::Beacon;
use super::error::{Error, Kind, Result};
use crate::base::Time;
use crate::base::event::Events;
use crate::engine::Interface;
use crate::engine::net::interface::Family;

/// The time between two queries. Source: RFC 3376 s8.2, where the default is 125 s.
const QUERY_INTERVAL: Duration = Duration::from_secs(60);
/// The time between the first queries. Source: RFC 3376 s8.6.
const STARTUP_INTERVAL: Duration = Duration::from_secs(15);
/// How many queries come at that pace, and how many may be lost. Source: RFC 3376 s8.1, s8.7.
const ROBUSTNESS: u8 = 2;
/// Within what time hosts answer, in tenths of a second. Source: RFC 3376 s4.1.1.
const RESPONSE_TENTHS: u8 = 50;
/// Without a query of the other querier for this long, it is gone. Source: RFC 3376 s8.5.
const OTHER_PRESENT: Duration = Duration::from_millis(122_500);
/// How long the thread waits for packets between two looks at its clock.
const STEP: Duration = Duration::from_millis(100);

/// Source: RFC 3376 s4.1.12.
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// The protocol number of IGMP. Source: IANA.
const IGMP: u8 = 2;
/// Source: RFC 3376 s4.
const MEMBERSHIP_QUERY: u8 = 0x11;
/// An IP header with the Router Alert option. Source: RFC 791 s3.1, RFC 2113 s2.1.
const IP_HEADER_SIZE: usize = 24;
/// A query without sources. Source: RFC 3376 s4.1.
const QUERY_SIZE: usize = 12;
/// More than any query that counts here.
const PACKET_BYTES_MAX: usize = 2048;

/// Asks on one interface's network, as long as it lives.
#[derive(Debug)]
pub(super) struct Querier {
    _thread: Beacon,
}

impl Querier {
    /// Starts to ask.
    ///
    /// # Errors
    /// If the interface has no IPv4 address, or no raw socket can be had.
    pub(super) fn start(interface: &Interface, events: Events) -> Result<Self> {
        let Some(IpAddr::V4(own)) = interface.address(Family::V4) else {
            let text = format!("{interface} has no IPv4 address to ask from");
            return Err(Error::text(Kind::Precondition, text));
        };
        let mut socket = open(interface).map_err(|error| {
            let error = anyhow::Error::new(error).context("An IGMP querier needs a raw socket");
            Error::new(Kind::Precondition, error).hint("be root, or leave out --igmp-querier")
        })?;
        let begun = Instant::now();
        let mut election = Election::new(own);
        let turn = move || {
            let now = Time::ZERO + begun.elapsed();
            if election.is_due(now) {
                // It fails while the link is down; the next one may get through.
                drop(socket.send_to(&query(own), &SocketAddrV4::new(ALL_HOSTS, 0).into()));
            }
            let mut packet = [0; PACKET_BYTES_MAX];
            if let Ok(len) = socket.read(&mut packet)
                && let Some(from) = querier_of(&packet[..len])
                && election.hear(from, now)
            {
                events.note(format!(
                    "{from} asks for IGMP memberships, so this head does not"
                ));
            }
        };
        let thread = Beacon::start("querier", turn)?;
        Ok(Self { _thread: thread })
    }
}

fn open(interface: &Interface) -> std::io::Result<Socket> {
    let protocol = Protocol::from(i32::from(IGMP));
    let socket = Socket::new(Domain::IPV4, Type::RAW.cloexec(), Some(protocol))?;
    socket.bind_device(Some(interface.name.as_bytes()))?;
    socket.set_header_included_v4(true)?;
    socket.set_multicast_loop_v4(false)?;
    socket.set_read_timeout(Some(STEP))?;
    Ok(socket)
}

/// Who asks, and when next.
#[derive(Debug)]
struct Election {
    own: Ipv4Addr,
    next_at: Time,
    /// Queries left at the pace of the start.
    startup: u8,
    /// The other querier, and until when it counts as present.
    other: Option<(Ipv4Addr, Time)>,
}

impl Election {
    const fn new(own: Ipv4Addr) -> Self {
        Self {
            own,
            next_at: Time::ZERO,
            startup: ROBUSTNESS,
            other: None,
        }
    }

    /// Whether a query is to be sent now; then the next one is planned.
    fn is_due(&mut self, now: Time) -> bool {
        if self.other.is_some_and(|(_, until)| now < until) {
            return false;
        }
        self.other = None;
        if now < self.next_at {
            return false;
        }
        let is_startup = self.startup > 0;
        self.startup = self.startup.saturating_sub(1);
        let pause = if is_startup {
            STARTUP_INTERVAL
        } else {
            QUERY_INTERVAL
        };
        self.next_at = now + pause;
        true
    }

    /// Notes somebody's query; tells whether that made this querier silent.
    fn hear(&mut self, from: Ipv4Addr, now: Time) -> bool {
        // A switch that asks for its own sake has no address, and is no querier: RFC 4541 s2.1.1.
        if from.is_unspecified() || from >= self.own {
            return false;
        }
        let is_news = self.other.is_none();
        self.other = Some((from, now + OTHER_PRESENT));
        is_news
    }
}

/// A general query with its IP header, of which the kernel fills in length and checksum.
fn query(own: Ipv4Addr) -> [u8; IP_HEADER_SIZE + QUERY_SIZE] {
    let mut packet = [0; IP_HEADER_SIZE + QUERY_SIZE];
    let (header, body) = packet.split_at_mut(IP_HEADER_SIZE);
    // Version 4, six words; internetwork control; one hop.
    (header[0], header[1], header[8], header[9]) = (0x46, 0xc0, 1, IGMP);
    header[12..16].copy_from_slice(&own.octets());
    header[16..20].copy_from_slice(&ALL_HOSTS.octets());
    header[20..24].copy_from_slice(&[148, 4, 0, 0]);
    (body[0], body[1]) = (MEMBERSHIP_QUERY, RESPONSE_TENTHS);
    body[8] = ROBUSTNESS;
    body[9] = u8::try_from(QUERY_INTERVAL.as_secs()).expect("an interval below 128 s is itself");
    let sum = checksum(body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Who sent this IP packet, if it is a sound IGMP query.
fn querier_of(packet: &[u8]) -> Option<Ipv4Addr> {
    let header_size = usize::from(packet.first()? & 0x0f) * 4;
    let (header, body) = packet.split_at_checked(header_size)?;
    let from: [u8; 4] = header.get(12..16)?.try_into().ok()?;
    let is_query = header[9] == IGMP && body.first() == Some(&MEMBERSHIP_QUERY);
    (is_query && body.len() >= 8 && checksum(body) == 0).then(|| from.into())
}

/// The Internet checksum (RFC 1071) of a message; 0 for one that holds its own.
fn checksum(message: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u32 = message.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("the carries were folded in")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
    const LOWER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 6);

    fn at(seconds: u64) -> Time {
        Time::ZERO + Duration::from_secs(seconds)
    }

    /// The seconds in which an election asks, of so many.
    fn asked(election: &mut Election, seconds: std::ops::Range<u64>) -> Vec<u64> {
        seconds
            .filter(|&second| election.is_due(at(second)))
            .collect()
    }

    #[test]
    fn asks_twice_at_the_start_and_then_once_a_minute() {
        assert_eq!(asked(&mut Election::new(OWN), 0..200), [0, 15, 30, 90, 150]);
    }

    #[test]
    fn is_silent_while_a_lower_address_asks_and_takes_over_when_it_is_gone() {
        let mut election = Election::new(OWN);
        assert_eq!(asked(&mut election, 0..5), [0]);
        assert!(election.hear(LOWER, at(5)), "that is news");
        assert!(!election.hear(LOWER, at(65)), "that is not");
        assert_eq!(asked(&mut election, 6..187), [] as [u64; 0]);
        assert_eq!(asked(&mut election, 187..190), [188]);
    }

    #[test]
    fn higher_addresses_itself_and_switches_without_one_change_nothing() {
        let mut election = Election::new(OWN);
        for other in [Ipv4Addr::new(192, 0, 2, 8), OWN, Ipv4Addr::UNSPECIFIED] {
            assert!(!election.hear(other, at(1)), "{other}");
        }
        assert_eq!(asked(&mut election, 2..3), [2]);
    }

    #[test]
    fn a_query_is_one_and_a_damaged_one_is_none() {
        let mut packet = query(OWN);
        assert_eq!(querier_of(&packet), Some(OWN));
        for at in [9, IP_HEADER_SIZE, IP_HEADER_SIZE + 8] {
            packet[at] ^= 1;
            assert_eq!(querier_of(&packet), None, "byte {at}");
            packet[at] ^= 1;
        }
        assert_eq!(querier_of(&packet[..IP_HEADER_SIZE + 7]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = querier_of(&bytes);
        }
    }
}
