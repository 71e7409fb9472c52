//! What this kernel and this process can do for the engine, for people to read.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use super::drive::in_full;
use super::limits::{RECEIVE_BUFFERS, SOCKET_RECEIVE_BYTES};
use super::net::Socket;
use super::pool::Arena;
use super::ring::Ring;

/// What was found; each part has a slower substitute where it is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// How the ring works, or why there is none. With it come multishot receives into registered
    /// buffers: a kernel without those has no ring for us.
    pub ring: Result<String, String>,
    /// Whether the ring may register memory, or why not.
    pub registered: Result<(), String>,
    /// Whether sends are coalesced (`UDP_SEGMENT`).
    pub gso: bool,
    /// Whether receives are coalesced (`UDP_GRO`).
    pub gro: bool,
    /// The receive buffer that a socket gets, in bytes of the kernel's own accounting.
    pub receive_bytes: usize,
}

/// Finds out what can be done, by doing it on the loopback; `arena_bytes` is the memory that a job
/// would register.
#[must_use]
pub fn probe(arena_bytes: usize) -> Capabilities {
    let (ring, registered) = probe_ring(arena_bytes);
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let socket = Socket::unicast(any).ok();
    Capabilities {
        ring,
        registered,
        gso: socket.as_ref().is_some_and(Socket::gso),
        gro: socket.as_ref().is_some_and(Socket::gro),
        receive_bytes: socket.as_ref().map_or(0, Socket::receive_bytes),
    }
}

fn probe_ring(arena_bytes: usize) -> (Result<String, String>, Result<(), String>) {
    let arena = match Arena::new(PROBE_BLOCK_BYTES, arena_bytes.div_ceil(PROBE_BLOCK_BYTES)) {
        Ok(arena) => arena,
        Err(e) => return (Err(in_full(&e)), Err("There is no memory".to_owned())),
    };
    match Ring::new(Some(arena)) {
        Ok(ring) => {
            let registered = ring
                .unregistered_because()
                .map_or(Ok(()), |e| Err(format!("{e}; raise RLIMIT_MEMLOCK")));
            (Ok(ring.mode().to_string()), registered)
        }
        Err(e) => (Err(in_full(&e)), Err("There is no ring".to_owned())),
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |has: bool| if has { "yes" } else { "no" };
        match &self.ring {
            Ok(mode) => writeln!(
                f,
                "io_uring            yes ({mode}; {RECEIVE_BUFFERS} multishot receive buffers)"
            )?,
            Err(why) => writeln!(f, "io_uring            no ({why})")?,
        }
        match &self.registered {
            Ok(()) => writeln!(f, "registered memory   yes")?,
            Err(why) => writeln!(f, "registered memory   no ({why})")?,
        }
        writeln!(f, "coalesced sends     {} (GSO)", yes(self.gso))?;
        writeln!(f, "coalesced receives  {} (GRO)", yes(self.gro))?;
        write!(
            f,
            "receive buffer      {} bytes of {SOCKET_RECEIVE_BYTES} wanted",
            self.receive_bytes
        )
    }
}

/// The block size of the memory that is registered to try.
const PROBE_BLOCK_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_it_found_and_what_is_missing() {
        let here = probe(4 << 20);
        assert!(here.to_string().contains("io_uring"), "{here}");
        let poor = Capabilities {
            ring: Err("Operation not permitted".to_owned()),
            registered: Err("There is no ring".to_owned()),
            gso: false,
            gro: false,
            receive_bytes: 425_984,
        };
        assert_eq!(
            poor.to_string(),
            "io_uring            no (Operation not permitted)\n\
             registered memory   no (There is no ring)\n\
             coalesced sends     no (GSO)\n\
             coalesced receives  no (GRO)\n\
             receive buffer      425984 bytes of 33554432 wanted"
        );
    }
}
