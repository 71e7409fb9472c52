//! How large datagrams can be on the way from a head to a node: tried, not believed.
//!
//! What two interfaces take says nothing about the switches between them, and of a multicast
//! datagram that was too large nobody hears. So a node whose interface takes large frames asks its
//! head for some, and tells when it joins whether they came. They are sent as the multicast is:
//! never in fragments.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};

use super::control::Client;
use super::error::{Kind, OrKind as _, Result};
use super::{hex, random, unhex};

/// The largest MTU that every network has; larger frames get lost where one cable or switch on the
/// way does not take them, without a word.
pub(crate) const MTU_EVERYWHERE: u32 = 1500;
/// The MTU of networks for large frames, by custom.
pub(crate) const MTU_LARGE: u32 = 9000;
/// The smallest MTU that a whole group follows. Source: RFC 8200 s5.
pub(crate) const MTU_LEAST: u32 = 1280;
/// IPv4 and UDP headers.
pub(crate) const IP_UDP_BYTES: u32 = 28;

/// Datagrams that are sent to try.
const PROBES: usize = 3;
/// How long they are waited for.
const PATIENCE: Duration = Duration::from_millis(200);
/// What a node recognises its own by, in bytes.
pub(crate) const NONCE_BYTES: usize = 16;

/// Finds the largest MTU towards a node, whose interface has the MTU `interface_mtu`: an IP
/// datagram of that size comes through.
pub(crate) fn mtu_from(client: &mut Client, interface_mtu: u32) -> u32 {
    if interface_mtu <= MTU_EVERYWHERE {
        return interface_mtu;
    }
    match try_large(client) {
        Ok(mtu) => mtu,
        Err(error) => {
            tracing::debug!(%error, "Large datagrams could not be tried");
            MTU_EVERYWHERE
        }
    }
}

fn try_large(client: &mut Client) -> Result<u32> {
    let bind = crate::engine::net::any_address(client.head().ip(), 0);
    let socket = UdpSocket::bind(bind).or_kind(Kind::Network)?;
    let nonce: [u8; NONCE_BYTES] = random()?;
    let port = socket.local_addr().or_kind(Kind::Network)?.port();
    let sent_mtu = client.probe(port, hex(&nonce))?;
    let until = Instant::now() + PATIENCE;
    let mut datagram = vec![0; MTU_LARGE as usize];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || sent_mtu <= MTU_EVERYWHERE {
            return Ok(MTU_EVERYWHERE);
        }
        socket.set_read_timeout(Some(left)).or_kind(Kind::Network)?;
        // A timeout ends the loop at its head.
        let len = socket.recv(&mut datagram).unwrap_or(0);
        let is_whole = u32::try_from(len).is_ok_and(|len| len + IP_UDP_BYTES == sent_mtu);
        if is_whole && datagram.starts_with(&nonce) {
            return Ok(sent_mtu);
        }
    }
}

/// Sends a node what it asked for, as large as the interface takes; gives the MTU that this tries,
/// or 0 where there is nothing to try.
///
/// # Errors
/// If the nonce is none, or nothing can be sent.
pub(crate) fn send_probes(
    interface_mtu: u32,
    node: IpAddr,
    port: u16,
    nonce: &str,
) -> io::Result<u32> {
    let nonce = unhex(nonce).filter(|nonce| nonce.len() == NONCE_BYTES);
    let mut datagram = nonce.ok_or(io::ErrorKind::InvalidInput)?;
    let mtu = interface_mtu.min(MTU_LARGE);
    if mtu <= MTU_EVERYWHERE || !node.is_ipv4() {
        return Ok(0);
    }
    datagram.resize((mtu - IP_UDP_BYTES) as usize, 0);
    let socket = UdpSocket::bind(crate::engine::net::any_address(node, 0))?;
    set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
    for _ in 0..PROBES {
        socket.send_to(&datagram, SocketAddr::new(node, port))?;
    }
    Ok(mtu)
}
