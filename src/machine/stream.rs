//! Byte streams (TCP) of a machine: what it asks of them, and what it hears.
//!
//! ```text
//!   outgoing   Connect ──► Connected ─┬─► Received, Sent ... ──► Closed
//!                      └► Closed      │
//!   incoming           Accepted ──────┘
//! ```
//!
//! Invariants: an id names one stream for the whole run and is never used again; after `Closed`
//! nothing more is heard of it; after a machine's own `Close` nothing but its `Closed` is.

use std::net::SocketAddr;

use bytes::Bytes;

/// One stream of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

impl StreamId {
    /// The `number`-th stream that the machine opens; it counts them itself, from 0.
    #[must_use]
    pub const fn outgoing(number: u32) -> Self {
        Self(number as u64)
    }

    /// The `number`-th stream that the driver accepts; it counts them, from 0.
    #[must_use]
    pub const fn incoming(number: u32) -> Self {
        Self(1 << 32 | number as u64)
    }

    /// Whether the other side opened it.
    #[must_use]
    pub const fn is_incoming(self) -> bool {
        self.0 >> 32 != 0
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.is_incoming() { "in" } else { "out" };
        write!(f, "{kind}-{}", self.0 & 0xffff_ffff)
    }
}

/// What a machine wants of its streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamOp {
    /// Open a stream.
    Connect {
        /// Its name from now on: an outgoing one that was never used.
        id: StreamId,
        /// To whom.
        to: SocketAddr,
    },
    /// Send these bytes after all that were given before. They are shared, not copied: the driver
    /// gathers what waits into few large sends, and lets go of a part when the kernel has it.
    Send {
        /// On which stream; on one that has ended it is dropped.
        id: StreamId,
        /// At least one byte.
        bytes: Bytes,
    },
    /// Let go of the stream, with whatever waits to be sent; `Closed` follows.
    Close {
        /// Which.
        id: StreamId,
    },
}

/// What a machine hears of its streams.
#[derive(Debug)]
pub enum StreamInput<'a> {
    /// Somebody connected to the machine's listener.
    Accepted {
        /// Its name from now on.
        id: StreamId,
        /// Who.
        from: SocketAddr,
    },
    /// A stream that the machine asked for is open.
    Connected {
        /// Which.
        id: StreamId,
    },
    /// The next bytes came, at least one. The machine may decrypt in place.
    Received {
        /// On which stream.
        id: StreamId,
        /// The bytes, valid during this call.
        bytes: &'a mut [u8],
    },
    /// The kernel took more of what was to be sent.
    Sent {
        /// On which stream.
        id: StreamId,
        /// How many bytes more.
        count: usize,
    },
    /// The stream has ended.
    Closed {
        /// Which.
        id: StreamId,
        /// Why.
        why: Closed,
    },
}

impl StreamInput<'_> {
    /// Of which stream it tells.
    #[must_use]
    pub const fn id(&self) -> StreamId {
        match self {
            Self::Accepted { id, .. }
            | Self::Connected { id }
            | Self::Received { id, .. }
            | Self::Sent { id, .. }
            | Self::Closed { id, .. } => *id,
        }
    }
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The machine asked for it.
    #[error("We ended the connection")]
    ByUs,
    /// The other side sent its last byte.
    #[error("The other side ended the connection")]
    ByPeer,
    /// Nobody listens there.
    #[error("The connection was refused")]
    Refused,
    /// No answer came in time.
    #[error("The connection timed out")]
    TimedOut,
    /// The driver has as many streams as it may have.
    #[error("Too many connections are open")]
    TooMany,
    /// Another failure, with its `errno`.
    #[error("The connection failed (errno {0})")]
    Errno(i32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_the_two_directions_are_apart() {
        for number in [0, 7, u32::MAX] {
            let (out, incoming) = (StreamId::outgoing(number), StreamId::incoming(number));
            assert!(!out.is_incoming() && incoming.is_incoming());
            assert_ne!(out, incoming);
        }
        assert_eq!(StreamId::incoming(3).to_string(), "in-3");
        assert_eq!(StreamId::outgoing(u32::MAX).to_string(), "out-4294967295");
    }
}
