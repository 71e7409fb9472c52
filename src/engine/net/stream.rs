//! TCP sockets as machines need them: listeners, and the options of every connection.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Type};

use super::sys;
use crate::engine::error::{Error, ErrorKind, Result};
use crate::engine::limits::{
    STREAM_BACKLOG, STREAM_PATIENCE, STREAM_SEGMENT_BYTES_MAX, STREAM_UNSENT_BYTES,
};
use crate::machine::Closed;

/// A TCP socket that others connect to.
pub struct Listener {
    inner: socket2::Socket,
    local: SocketAddr,
}

impl Listener {
    /// Listens on an address; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// When the address is not ours or in use.
    pub fn bind(address: SocketAddr) -> Result<Self> {
        Self::try_bind(address).map_err(|e| {
            let context = format!("Cannot listen on {address}");
            Error::os(ErrorKind::Socket, context, e)
        })
    }

    fn try_bind(address: SocketAddr) -> io::Result<Self> {
        let inner = open(address)?;
        if address.is_ipv6() {
            inner.set_only_v6(true)?;
        }
        // Connections of a run before may still be waited out.
        inner.set_reuse_address(true)?;
        inner.bind(&SockAddr::from(address))?;
        inner.listen(STREAM_BACKLOG)?;
        let local = inner
            .local_addr()?
            .as_socket()
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { inner, local })
    }

    /// The address that it is bound to.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// Whether an accept or receive waits: a ring's must, a plain one must not.
    pub(in crate::engine) fn set_waits(&self, waits: bool) -> io::Result<()> {
        self.inner.set_nonblocking(!waits)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener({})", self.local)
    }
}

/// Opens a socket to connect to `to` with.
pub(in crate::engine) fn dialler(to: SocketAddr, waits: bool) -> io::Result<OwnedFd> {
    let inner = open(to)?;
    inner.set_nonblocking(!waits)?;
    tune(&inner);
    Ok(inner.into())
}

/// Sets the options of a connection. What the kernel refuses only makes it slower.
///
/// The kernel takes few bytes that it cannot send yet: what waits in the machine can still be
/// chosen otherwise, and its count of sent bytes says what is on the network.
pub(in crate::engine) fn tune(fd: impl AsFd) {
    let millis = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
    let unsent = i32::try_from(STREAM_UNSENT_BYTES).unwrap_or(i32::MAX);
    for (name, value) in [
        (libc::TCP_NODELAY, 1),
        (libc::TCP_NOTSENT_LOWAT, unsent),
        (libc::TCP_USER_TIMEOUT, millis(STREAM_PATIENCE)),
    ] {
        let _slower = sys::set_option(&fd, libc::SOL_TCP, name, value);
    }
}

/// Says now that what came is here, instead of with what is sent next, or after 40 ms: peers that
/// gather small messages (Nagle, as libtorrent) send nothing until then.
pub(in crate::engine) fn acknowledge(fd: impl AsFd) {
    let _later = sys::set_option(&fd, libc::SOL_TCP, libc::TCP_QUICKACK, 1);
}

/// What an `errno` of a connection says about its end.
pub(in crate::engine) fn closed_by(errno: i32) -> Closed {
    match errno {
        libc::ECONNREFUSED => Closed::Refused,
        libc::ETIMEDOUT => Closed::TimedOut,
        libc::EMFILE | libc::ENFILE => Closed::TooMany,
        other => Closed::Errno(other),
    }
}

fn open(like: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(
        Domain::for_address(like),
        Type::STREAM.cloexec(),
        Some(Protocol::TCP),
    )?;
    // Before there is a connection: both ends agree on it when they meet. On this machine alone
    // there is no switch, and short segments would cost three times as much.
    if !like.ip().is_loopback() {
        socket.set_tcp_mss(STREAM_SEGMENT_BYTES_MAX)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    fn segment(of: &socket2::Socket) -> u32 {
        of.tcp_mss().unwrap()
    }

    /// The loopback alone would take segments of 64 KiB.
    #[test]
    fn segments_fit_everywhere_whoever_connects() {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let listener = Listener::bind(any).unwrap();
        let port = listener.local().port();
        let theirs = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let (ours, _) = listener.inner.accept().unwrap();
        assert!(segment(&ours) <= STREAM_SEGMENT_BYTES_MAX);
        assert!(segment(&theirs.into()) <= STREAM_SEGMENT_BYTES_MAX);

        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 1));
        let ours = dialler(elsewhere, true).unwrap();
        assert_eq!(segment(&ours.into()), STREAM_SEGMENT_BYTES_MAX);
    }

    #[test]
    fn segments_are_long_on_the_loopback() {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(here).unwrap();
        let to = listener.local_addr().unwrap();
        let ours = socket2::Socket::from(dialler(to, true).unwrap());
        ours.connect(&to.into()).unwrap();
        assert!(segment(&ours) > STREAM_SEGMENT_BYTES_MAX);
    }
}
