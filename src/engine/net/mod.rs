//! UDP sockets as machines need them: large buffers, coalescing where the kernel has it, and group
//! membership on a chosen interface.
//!
//! What was asked for and not granted (buffer sizes, GSO, GRO, counts of drops) is no failure: it
//! is reported by [`Socket`], and the driver does without.

pub mod interface;
pub(super) mod stream;
pub mod sys;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use socket2::{Domain, Protocol, SockAddr, Type};

use super::error::{Error, ErrorKind, Result};
use super::limits::{SOCKET_RECEIVE_BYTES, SOCKET_SEND_BYTES};

pub use interface::Interface;
pub use stream::Listener;

/// A bound UDP socket and what the kernel granted it.
#[derive(Debug)]
pub struct Socket {
    inner: socket2::Socket,
    local: SocketAddr,
    receive_bytes: usize,
    send_bytes: usize,
    gso: bool,
    gro: bool,
    counts_drops: bool,
}

impl Socket {
    /// Opens a plain UDP socket; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// When the address is not ours or in use.
    pub fn unicast(bind: SocketAddr) -> Result<Self> {
        Self::open(bind, |_| Ok(()))
    }

    /// Opens a socket that sends to groups through `interface`, and receives what is sent to it.
    ///
    /// `ttl` is the number of networks that its multicast may cross, 1 for the own network. What it
    /// sends also comes to members on this machine.
    ///
    /// # Errors
    /// When the address is not ours or in use, or the interface is gone.
    pub fn multicast_sender(bind: SocketAddr, interface: &Interface, ttl: u8) -> Result<Self> {
        Self::open(bind, |socket| {
            if bind.is_ipv4() {
                // An address would do for most interfaces, an index does for those without one.
                sys::set_multicast_interface_v4(socket, interface.index)?;
                // Never in fragments, of which one lost loses all.
                set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE)?;
                socket.set_multicast_ttl_v4(ttl.into())?;
                socket.set_multicast_loop_v4(true)
            } else {
                socket.set_multicast_if_v6(interface.index)?;
                socket.set_multicast_hops_v6(ttl.into())?;
                socket.set_multicast_loop_v6(true)
            }
        })
    }

    /// Opens a socket that receives what is sent to `group` (address and port) on `interface`; from
    /// `source` only, if given (source-specific multicast).
    ///
    /// It is bound to the group, so neither unicast nor another group's datagrams reach it; several
    /// sockets on one machine may receive the same group.
    ///
    /// # Errors
    /// When the group is no multicast address or cannot be joined.
    pub fn multicast_receiver(
        group: SocketAddr,
        source: Option<IpAddr>,
        interface: &Interface,
    ) -> Result<Self> {
        if !group.ip().is_multicast() {
            let context = format!("{} is no multicast address", group.ip());
            return Err(Error::new(ErrorKind::Socket, context));
        }
        let bind = match group {
            SocketAddr::V4(_) => group,
            SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, interface.index).into(),
        };
        Self::open(bind, |socket| {
            // Otherwise the socket would get every group that anybody on this machine has joined.
            if group.is_ipv4() {
                socket.set_multicast_all_v4(false)?;
            } else {
                socket.set_multicast_all_v6(false)?;
            }
            sys::join(socket, group.ip(), source, interface.index)
        })
    }

    /// The address that it is bound to.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// The receive buffer that the kernel granted, in bytes of its own accounting.
    #[must_use]
    pub const fn receive_bytes(&self) -> usize {
        self.receive_bytes
    }

    /// The send buffer that the kernel granted, in bytes of its own accounting.
    #[must_use]
    pub const fn send_bytes(&self) -> usize {
        self.send_bytes
    }

    /// Whether the kernel says how many datagrams it dropped (`SO_RXQ_OVFL`).
    #[must_use]
    pub const fn counts_drops(&self) -> bool {
        self.counts_drops
    }

    /// Whether the kernel takes coalesced sends (`UDP_SEGMENT`).
    #[must_use]
    pub const fn gso(&self) -> bool {
        self.gso
    }

    /// Whether the kernel gives coalesced datagrams (`UDP_GRO`).
    #[must_use]
    pub const fn gro(&self) -> bool {
        self.gro
    }

    /// Receives datagrams one by one from now on, even where the kernel could do better.
    ///
    /// # Errors
    /// When the kernel refuses, which it does not.
    pub(super) fn disable_gro(&mut self) -> Result<()> {
        sys::set_option(&self.inner, libc::SOL_UDP, libc::UDP_GRO, 0)
            .map_err(|e| Error::os(ErrorKind::Socket, "Cannot switch UDP_GRO off", e))?;
        self.gro = false;
        Ok(())
    }

    fn open(
        bind: SocketAddr,
        prepare: impl FnOnce(&socket2::Socket) -> io::Result<()>,
    ) -> Result<Self> {
        Self::try_open(bind, prepare).map_err(|e| {
            let context = format!("Cannot open a UDP socket on {bind}");
            Error::os(ErrorKind::Socket, context, e)
        })
    }

    fn try_open(
        bind: SocketAddr,
        prepare: impl FnOnce(&socket2::Socket) -> io::Result<()>,
    ) -> io::Result<Self> {
        let inner = socket2::Socket::new(
            Domain::for_address(bind),
            Type::DGRAM.cloexec(),
            Some(Protocol::UDP),
        )?;
        if bind.is_ipv6() {
            inner.set_only_v6(true)?;
        }
        if bind.ip().is_multicast() {
            inner.set_reuse_address(true)?;
        }
        inner.bind(&SockAddr::from(bind))?;
        prepare(&inner)?;
        let local = inner
            .local_addr()?
            .as_socket()
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (receive_bytes, send_bytes) = grow_buffers(&inner)?;
        let counts_drops = sys::set_option(&inner, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1).is_ok();
        // A kernel that knows the option takes the cmsg too; 0 leaves plain sends as they are.
        let gso = sys::set_option(&inner, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        let gro = sys::set_option(&inner, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        Ok(Self {
            inner,
            local,
            receive_bytes,
            send_bytes,
            gso,
            gro,
            counts_drops,
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Asks for large buffers, past the system's limit if we may; gives the receive and the
/// send buffer granted.
fn grow_buffers(socket: &socket2::Socket) -> io::Result<(usize, usize)> {
    let forced = |name, bytes: usize| {
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        sys::set_option(socket, libc::SOL_SOCKET, name, bytes)
    };
    if forced(libc::SO_RCVBUFFORCE, SOCKET_RECEIVE_BYTES).is_err() {
        socket.set_recv_buffer_size(SOCKET_RECEIVE_BYTES)?;
    }
    if forced(libc::SO_SNDBUFFORCE, SOCKET_SEND_BYTES).is_err() {
        socket.set_send_buffer_size(SOCKET_SEND_BYTES)?;
    }
    Ok((socket.recv_buffer_size()?, socket.send_buffer_size()?))
}

/// The address that binds to every address of the family of `like`, with `port`.
#[must_use]
pub const fn any_address(like: IpAddr, port: u16) -> SocketAddr {
    match like {
        IpAddr::V4(_) => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
        IpAddr::V6(_) => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
    }
}

#[cfg(test)]
mod tests;
