//! Accepting connections without letting one machine have them all: how many there are is bounded
//! in all and per address, and a peer that stops reading is cut off by the kernel.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::error::{Kind, OrKind as _, Result};
use super::path::MTU_EVERYWHERE;

/// Connections at a time, in all.
const CONNECTIONS_MAX: usize = 1024;
/// Connections at a time from one address.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 32;
/// How long sent bytes may stay unacknowledged.
const UNREAD_DEADLINE: Duration = Duration::from_secs(30);
/// The longest TCP segment: one of large frames may never arrive where a switch on the way does not
/// take them, and nobody would hear of it.
const SEGMENT_BYTES_MAX: u32 = MTU_EVERYWHERE - 40;
/// How long the loop rests after `accept` failed, as when no descriptor is left.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Listens, for [`accept_loop`].
///
/// # Errors
/// If the address cannot be had.
pub(super) fn listen(address: SocketAddr) -> Result<std::net::TcpListener> {
    std::net::TcpListener::bind(address)
        .and_then(|listener| {
            socket2::SockRef::from(&listener).set_tcp_mss(SEGMENT_BYTES_MAX)?;
            listener.set_nonblocking(true).map(|()| listener)
        })
        .or_kind_with(Kind::Network, || format!("Cannot listen on {address}"))
}

/// Accepts until its runtime ends; each connection is a task of its own, on the same thread.
pub(super) async fn accept_loop<F>(
    listener: std::net::TcpListener,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = anyhow::Result<()>> + 'static,
{
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        tracing::error!("A listening socket cannot be polled");
        return;
    };
    let all = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let guests = Arc::new(Guests::default());
    loop {
        let Ok(permit) = Arc::clone(&all).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "A connection could not be accepted");
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let Some(guest) = Guests::enter(&guests, peer.ip()) else {
            tracing::warn!(%peer, "Too many connections from one address");
            continue;
        };
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%peer, %error, "A connection has ended already");
            continue;
        }
        let served = serve(stream, peer);
        tokio::task::spawn_local(async move {
            if let Err(error) = served.await {
                tracing::debug!(%peer, %error, "A connection ended early");
            }
            drop((permit, guest));
        });
    }
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNREAD_DEADLINE))
}

/// How many connections each address has.
#[derive(Debug, Default)]
struct Guests(Mutex<BTreeMap<IpAddr, usize>>);

/// One connection of an address; counts until it is dropped.
struct Guest {
    guests: Arc<Guests>,
    address: IpAddr,
}

impl Guests {
    fn enter(guests: &Arc<Self>, address: IpAddr) -> Option<Guest> {
        let mut table = guests.0.lock().unwrap_or_else(|broken| broken.into_inner());
        let count = table.entry(address).or_default();
        if *count >= CONNECTIONS_PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Guest {
            guests: Arc::clone(guests),
            address,
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut table = self
            .guests
            .0
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        if let Some(count) = table.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                table.remove(&self.address);
            }
        }
    }
}
