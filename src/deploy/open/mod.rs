//! The open swarm: published bundles for stock BitTorrent clients, by a tracker (HTTP and UDP on
//! one port), torrents, and the bundles themselves as web seeds.
//!
//! | request | answer |
//! |---|---|
//! | `GET /announce?...`, `GET /scrape?...` | the tracker's, see [`crate::swarm::tracker::http`] |
//! | `GET /NAME-SERIAL.torrent` | the torrent, with this head as tracker and web seed |
//! | `GET /NAME-SERIAL.v1.torrent` | without version 2, for clients that cannot read hybrids |
//! | `GET /NAME-SERIAL.tar.zst` | the bundle, whole or one `Range` |
//! | UDP, same port | the tracker's, see [`crate::swarm::tracker::udp`] |
//!
//! Nothing here is sealed or asks who is there: it is off unless the administrator wants it. Names
//! are looked up in the table of published bundles; no request ever becomes a path. The thread and
//! its limits are its own, so that no stranger takes the control channel's share.

mod http;
#[cfg(test)]
pub(crate) mod tests;
mod udp;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use super::accept;
use super::error::{Kind, OrKind as _, Result};
use super::hub::Hub;
use super::runtime::Runtime;

/// The port of the tracker unless another is asked for: what trackers use elsewhere.
pub const PORT_DEFAULT: u16 = 6969;
/// How often a free port is looked for that is free for TCP and UDP.
const PORTS_TRIED_MAX: usize = 16;

/// The running open swarm; dropping it ends it.
#[derive(Debug)]
pub(crate) struct OpenSwarm {
    local: SocketAddr,
    /// Held for its end, which is that of all connections.
    _runtime: Runtime,
}

impl OpenSwarm {
    /// Listens on `listen`, TCP and UDP, and serves what `hub` has. Port 0 takes a free one.
    ///
    /// # Errors
    /// If the address cannot be had, or the thread not be started.
    pub(crate) fn start(listen: SocketAddr, hub: Arc<Hub>) -> Result<Self> {
        let (listener, socket) = bind(listen)?;
        let local = listener.local_addr().or_kind(Kind::Network)?;
        let runtime = Runtime::start("open-swarm")?;
        let tracker = Arc::clone(&hub);
        runtime.spawn(move || udp::serve(socket, tracker))?;
        let shop = Arc::new(http::Shop::new(hub));
        runtime.spawn(move || {
            accept::accept_loop(listener, move |stream, peer| {
                http::serve(stream, peer.ip(), Arc::clone(&shop))
            })
        })?;
        Ok(Self {
            local,
            _runtime: runtime,
        })
    }

    /// Where it listens.
    pub(crate) const fn local(&self) -> SocketAddr {
        self.local
    }
}

fn bind(listen: SocketAddr) -> Result<(std::net::TcpListener, UdpSocket)> {
    let both = || {
        let listener = accept::listen(listen)?;
        let local = listener.local_addr().or_kind(Kind::Network)?;
        let socket = UdpSocket::bind(local)
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .or_kind_with(Kind::Network, || format!("Cannot listen on {local} (UDP)"))?;
        Ok((listener, socket))
    };
    let mut bound = both();
    for _ in 1..PORTS_TRIED_MAX {
        if bound.is_ok() || listen.port() != 0 {
            break;
        }
        bound = both();
    }
    bound
}
