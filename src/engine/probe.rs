//! What this kernel and this process can do for the engine, and what a driver makes of it, for
//! people to read.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::drive::{Batches, Driver, Setup, in_full};
use super::error::Result;
use super::net::Socket;
use super::pool::Arena;
use super::ring::{Orders, Ring};
use super::ways::Ways;
use crate::base::Counters;

/// What was found; each part has a slower substitute where it is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The io_uring, or why there is none.
    pub ring: std::result::Result<RingFound, String>,
    /// What a socket was granted.
    pub socket: SocketFound,
    /// What a driver uses, or why it cannot work.
    pub used: std::result::Result<Ways, String>,
    /// Why it uses no more, a sentence each.
    pub because: Vec<String>,
}

/// An io_uring that could be set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingFound {
    /// How completions are run.
    pub mode: String,
    /// Whether one order receives many messages, into registered buffers.
    pub standing_receives: bool,
    /// What this kernel's ring has besides that we have a use for.
    pub features: Vec<&'static str>,
    /// Whether the ring may register memory, or why not.
    pub registered: std::result::Result<(), String>,
}

/// What a UDP socket was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketFound {
    /// Coalesced sends (`UDP_SEGMENT`).
    pub gso: bool,
    /// Coalesced receives (`UDP_GRO`).
    pub gro: bool,
    /// Several messages per call.
    pub sendmmsg: bool,
    /// Several messages per call.
    pub recvmmsg: bool,
    /// Counts of dropped datagrams (`SO_RXQ_OVFL`).
    pub counts_drops: bool,
    /// The receive buffer, in bytes of the kernel's own accounting.
    pub receive_bytes: usize,
    /// The send buffer, likewise.
    pub send_bytes: usize,
}

/// Finds out what can be done, by doing it on the loopback, and what a driver that may use `ways`
/// makes of it; `arena_bytes` is the memory that a job would register. Nothing is sent.
///
/// # Errors
/// When there is neither memory nor a socket to try with.
pub fn probe(ways: Ways, arena_bytes: usize) -> Result<Capabilities> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let socket = Socket::unicast(any)?;
    let arena = Arena::new(PROBE_BLOCK_BYTES, arena_bytes.div_ceil(PROBE_BLOCK_BYTES))?;
    let batches = Batches::probe(&socket);
    let found = SocketFound {
        gso: socket.gso(),
        gro: socket.gro(),
        sendmmsg: batches.send,
        recvmmsg: batches.receive,
        counts_drops: socket.counts_drops(),
        receive_bytes: socket.receive_bytes(),
        send_bytes: socket.send_bytes(),
    };
    let orders = Orders {
        standing: true,
        sockets: 1,
        zero_copy: true,
    };
    let ring = Ring::new(Some(arena.clone()), orders).map_err(|e| in_full(&e));
    let ring = ring.map(|ring| RingFound {
        mode: ring.mode().to_string(),
        standing_receives: ring.orders_stand(),
        features: ring.features(),
        registered: ring
            .unregistered_because()
            .map_or(Ok(()), |e| Err(e.to_string())),
    });
    let driver = Driver::new(Setup {
        sockets: vec![socket],
        listeners: Vec::new(),
        files: Vec::new(),
        arena: Some(arena),
        ways,
        counters: Arc::new(Counters::default()),
    });
    let (used, because) = match driver {
        Ok(driver) => (Ok(driver.ways()), driver.notes().to_vec()),
        Err(e) => (Err(in_full(&e)), Vec::new()),
    };
    Ok(Capabilities {
        ring,
        socket: found,
        used,
        because,
    })
}

/// The block size of the memory that is registered to try.
const PROBE_BLOCK_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::net::sys::refuse::without;

    #[test]
    fn says_what_is_there_and_what_is_used() {
        let here = probe(Ways::BEST, 4 << 20).unwrap();
        assert!(here.ring.unwrap().standing_receives);
        assert!(here.socket.sendmmsg && here.socket.recvmmsg);
        assert_eq!(here.used.unwrap().to_string(), "ring,zc,gro");
        let slow = probe("plain,send,recv".parse().unwrap(), 4 << 20).unwrap();
        assert_eq!(slow.used.unwrap().to_string(), "plain,send,recv");
    }

    #[test]
    fn says_what_is_missing_and_why() {
        for errno in [libc::EPERM, libc::ENOSYS] {
            let here = without(libc::SYS_io_uring_setup, errno, || {
                probe(Ways::BEST, 1 << 20).unwrap()
            });
            let why = here.ring.unwrap_err();
            assert!(why.contains("Cannot set up an io_uring"), "{why}");
            assert_eq!(here.used.unwrap().to_string(), "plain,gso,gro");
            assert!(here.because[0].contains("plain system calls"));
            let forced = "ring".parse().unwrap();
            let here = without(libc::SYS_io_uring_setup, errno, || {
                probe(forced, 1 << 20).unwrap()
            });
            assert!(here.used.is_err());
        }
        let here = without(libc::SYS_sendmmsg, libc::EPERM, || {
            probe("plain,sendmmsg".parse().unwrap(), 1 << 20).unwrap()
        });
        assert!(!here.socket.sendmmsg && here.socket.recvmmsg);
        assert_eq!(here.used.unwrap().to_string(), "plain,send,gro");
        let here = without(libc::SYS_recvmmsg, libc::ENOSYS, || {
            probe("plain,recvmmsg".parse().unwrap(), 1 << 20).unwrap()
        });
        assert_eq!(here.used.unwrap().to_string(), "plain,gso,recv");
    }
}
