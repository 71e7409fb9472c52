//! Which peers to prefer where no tracker says so: a number for each pair of addresses that both
//! ends of it find alike, and that is as good as random otherwise.
//!
//! Everybody keeping the peers of highest priority makes a graph of bounded degree without a
//! coordinator, in which a newcomer finds its place at once: it ranks high with some.
//!
//! ```text
//!   CRC-32C( lower address, masked | higher address, masked )      or of both ports, 2 bytes each,
//!                                                                  if the addresses are the same
//!   mask  as many bytes as are the same and one more, at least 2 (IPv4) or 6 (IPv6), as they are;
//!         of each byte behind them every second bit
//! ```
//!
//! Source: BEP 40.

use std::net::{IpAddr, SocketAddr};

/// The priority of a connection between two addresses: the higher the better, and the same in
/// whatever order they are given. Of different families it is 0.
#[must_use]
pub fn priority(one: SocketAddr, other: SocketAddr) -> u32 {
    match (one.ip(), other.ip()) {
        (a, b) if a == b => {
            let mut ports = [one.port(), other.port()];
            ports.sort_unstable();
            crc32c(ports.map(u16::to_be_bytes).as_flattened())
        }
        (IpAddr::V4(a), IpAddr::V4(b)) => of_addresses(&a.octets(), &b.octets(), 2),
        (IpAddr::V6(a), IpAddr::V6(b)) => of_addresses(&a.octets(), &b.octets(), 6),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
    }
}

/// Puts the peers of highest priority first; `ours` is the address that they see us under.
pub fn sort(ours: SocketAddr, peers: &mut [SocketAddr]) {
    peers.sort_by_key(|&peer| (std::cmp::Reverse(priority(ours, peer)), peer));
}

fn of_addresses<const N: usize>(a: &[u8; N], b: &[u8; N], plain_min: usize) -> u32 {
    let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let plain = plain_min.max(common + 1);
    let masked = |address: &[u8; N]| {
        let mut masked = *address;
        masked.iter_mut().skip(plain).for_each(|byte| *byte &= 0x55);
        masked
    };
    let mut pair = [masked(a), masked(b)];
    pair.sort_unstable();
    crc32c(pair.as_flattened())
}

/// The checksum of RFC 3720, bit by bit: addresses are short.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let polynomial = if crc & 1 == 0 { 0 } else { 0x82f6_3b78 };
            crc = crc >> 1 ^ polynomial;
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn between(one: &str, other: &str) -> u32 {
        let address = |text: &str| SocketAddr::new(text.parse().unwrap(), 0x0102);
        priority(address(one), address(other))
    }

    #[test]
    fn the_vectors_of_the_specification() {
        assert_eq!(between("123.213.32.10", "98.76.54.32"), 0xec2d_7224);
        assert_eq!(between("123.213.32.10", "123.213.32.234"), 0x9956_8189);
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn masks_follow_what_is_the_same() {
        let crc = |text: &str| {
            let digits = text.as_bytes().as_chunks::<2>().0.iter();
            let byte = |pair: &[u8; 2]| {
                u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()
            };
            crc32c(&digits.map(byte).collect::<Vec<_>>())
        };
        assert_eq!(between("10.1.2.255", "10.1.3.255"), crc("0a0102550a010355"));
        assert_eq!(
            between("ff::ff", "2001:db8::ff"),
            crc("00ff000000000000000000000000005520010db8000000000000000000000055")
        );
        assert_eq!(
            between("fd00:0:0:ff00::1", "fd00:0:0:ffff::2"),
            crc("fd0000000000ff000000000000000001fd0000000000ffff0000000000000000")
        );
        assert_eq!(
            between("fd00::fe", "fd00::ff"),
            crc("fd0000000000000000000000000000fefd0000000000000000000000000000ff")
        );
        assert_eq!(between("10.0.0.1", "fd00::1"), 0);
        assert_eq!(between("10.0.0.1", "10.0.0.1"), crc("01020102"));
    }

    proptest! {
        #[test]
        fn both_ends_find_the_same(one: SocketAddr, other: SocketAddr) {
            prop_assert_eq!(priority(one, other), priority(other, one));
        }
    }

    /// Everybody connects to the few that it prefers: all are reached, and nobody by too many.
    #[test]
    fn the_preferred_make_a_connected_graph() {
        for network in 0..8u8 {
            let hosts: Vec<SocketAddr> = (0..200u8)
                .map(|host| SocketAddr::from(([10, network, host % 3, host], 6881)))
                .collect();
            let mut links = BTreeSet::new();
            for &host in &hosts {
                let mut others: Vec<_> = hosts.iter().copied().filter(|h| *h != host).collect();
                sort(host, &mut others);
                for &other in &others[..6] {
                    links.extend([(host, other), (other, host)]);
                }
            }
            let (mut reached, mut next) = (BTreeSet::new(), vec![hosts[0]]);
            while let Some(host) = next.pop() {
                if reached.insert(host) {
                    next.extend(
                        hosts
                            .iter()
                            .filter(|other| links.contains(&(host, **other))),
                    );
                }
            }
            assert_eq!(reached.len(), hosts.len(), "10.{network} is connected");
            let degree = |host: &SocketAddr| links.iter().filter(|(from, _)| from == host).count();
            assert!(hosts.iter().map(degree).max() <= Some(24));
        }
    }
}
