//! Announcements by broadcast, beside the multicast ones: where a switch forgets or filters groups,
//! a node still finds its head, and says then what is wrong with multicast.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::Sender;
use socket2::{Domain, Socket, Type};

use super::error::{Kind, OrKind as _, Result};
use super::identity;
use super::token::Fingerprint;
use crate::engine::Interface;
use crate::multicast::announce::{ANNOUNCE_PORT, Announcement, Heard};
use crate::multicast::limits::{ANNOUNCE_INTERVAL, REPORT_BYTES_MAX};

/// How soon an ending thread notices.
const STEP: Duration = Duration::from_millis(100);

/// The datagrams of one announcement.
pub(super) type Datagrams = Vec<Vec<u8>>;

/// A thread that ends with its handle.
#[derive(Debug)]
pub(super) struct Beacon {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Beacon {
    /// Starts a thread that takes turns, each of which ends within [`STEP`] or so.
    ///
    /// # Errors
    /// If the thread cannot be had.
    pub(super) fn start(name: &str, mut turn: impl FnMut() + Send + 'static) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || {
            while !stopped.load(Ordering::Relaxed) {
                turn();
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        Ok(Self {
            stop,
            thread: Some(thread.or_kind(Kind::Internal)?),
        })
    }

    /// Sends what is in `datagrams` to everybody on the interface's network, once per interval.
    ///
    /// # Errors
    /// If the socket or the thread cannot be had.
    pub(super) fn send(interface: &Interface, datagrams: Arc<Mutex<Datagrams>>) -> Result<Self> {
        let socket = open(interface, 0).or_kind(Kind::Network)?;
        let everybody = SocketAddr::from((Ipv4Addr::BROADCAST, ANNOUNCE_PORT));
        let steps = ANNOUNCE_INTERVAL.as_millis() / STEP.as_millis();
        let mut step = 0;
        let turn = move || {
            if step == 0 {
                let datagrams = datagrams
                    .lock()
                    .unwrap_or_else(|broken| broken.into_inner());
                for datagram in datagrams.iter() {
                    // Interfaces without broadcast, as the loopback, refuse: multicast is left.
                    drop(socket.send_to(datagram, everybody));
                }
            }
            step = (step + 1) % steps;
            std::thread::sleep(STEP);
        };
        Self::start("beacon", turn)
    }

    /// Hears broadcasts of the head with this fingerprint, and passes them on.
    ///
    /// # Errors
    /// If the socket or the thread cannot be had.
    pub(super) fn hear(
        interface: &Interface,
        fingerprint: Fingerprint,
        heard: Sender<Heard>,
    ) -> Result<Self> {
        let socket = open(interface, ANNOUNCE_PORT).or_kind(Kind::Network)?;
        socket.set_read_timeout(Some(STEP)).or_kind(Kind::Network)?;
        let turn = move || {
            let mut buffer = [0; REPORT_BYTES_MAX];
            let Ok((len, from)) = socket.recv_from(&mut buffer) else {
                return;
            };
            let Ok((announcement, bytes, signature)) = Announcement::parse(&buffer[..len]) else {
                return;
            };
            if Fingerprint::of(&announcement.head) == fingerprint
                && identity::is_signed(&announcement.head, bytes, signature)
            {
                // A full queue means that the search is behind; the head says it again.
                drop(heard.try_send(Heard { from, announcement }));
            }
        };
        Self::start("hear", turn)
    }
}

impl Drop for Beacon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("A beacon's thread had panicked");
        }
    }
}

/// Opens a socket for broadcasts on one interface; several may hear on one machine.
fn open(interface: &Interface, port: u16) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), None)?;
    socket.set_broadcast(true)?;
    socket.set_reuse_address(true)?;
    socket.set_multicast_all_v4(false)?;
    socket.bind_device(Some(interface.name.as_bytes()))?;
    let bind = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    socket.bind(&bind.into())?;
    Ok(socket.into())
}
