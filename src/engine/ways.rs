//! The ways to ask the kernel, and which of them a driver may use.
//!
//! Every combination works and passes the same tests; they differ in entries into the kernel.
//!
//! | send | ring | plain |
//! |---|---|---|
//! | `zc` | SENDMSG_ZC per burst, from registered staging slots | - |
//! | `gso` | SENDMSG per burst, all of a turn in one entry | `sendmsg` per burst |
//! | `sendmmsg` | SENDMSG per datagram, all of a turn in few entries | `sendmmsg` per burst |
//! | `send` | SENDMSG per datagram, one in an entry | `sendmsg` per datagram |
//!
//! | receive | ring | plain |
//! |---|---|---|
//! | `gro` | standing RECVMSG into registered buffers, coalesced | `recvmmsg`, coalesced |
//! | `recvmmsg` | standing RECVMSG into registered buffers | `recvmmsg` |
//! | `recv` | RECVMSG per datagram, given anew each time | `recvmsg` per datagram |
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

/// What a driver may use at the most; it uses the best of it that works here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways {
    /// Who moves bytes.
    pub backend: Backend,
    /// How datagrams are sent.
    pub send: Way,
    /// How datagrams are received.
    pub receive: Way,
}

/// How a driver asks the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The ring where it works, else plain system calls.
    #[default]
    Auto,
    /// io_uring, or fail.
    Ring,
    /// Plain system calls.
    Plain,
}

/// How datagrams cross the kernel's border, from the slowest way to the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// One by one.
    Single,
    /// Several in one entry into the kernel, each a message of its own.
    Batched,
    /// Several as one message (GSO, GRO).
    Coalesced,
    /// The same, and the card reads them where they are; only for sends.
    ZeroCopy,
}

impl Ways {
    /// Everything that the kernel has.
    pub const BEST: Self = Self {
        backend: Backend::Auto,
        send: Way::ZeroCopy,
        receive: Way::Coalesced,
    };

    /// Plain system calls, for machines that move little.
    pub const PLAIN: Self = Self {
        backend: Backend::Plain,
        ..Self::BEST
    };
}

impl Default for Ways {
    fn default() -> Self {
        Self::BEST
    }
}

impl Way {
    /// The next slower way.
    #[must_use]
    pub const fn slower(self) -> Self {
        match self {
            Self::ZeroCopy => Self::Coalesced,
            Self::Coalesced => Self::Batched,
            Self::Batched | Self::Single => Self::Single,
        }
    }

    /// How sends of this kind are called.
    #[must_use]
    pub const fn send_name(self) -> &'static str {
        match self {
            Self::Single => "send",
            Self::Batched => "sendmmsg",
            Self::Coalesced => "gso",
            Self::ZeroCopy => "zc",
        }
    }

    /// How receives of this kind are called.
    #[must_use]
    pub const fn receive_name(self) -> &'static str {
        match self {
            Self::Single => "recv",
            Self::Batched => "recvmmsg",
            Self::Coalesced | Self::ZeroCopy => "gro",
        }
    }
}

impl fmt::Display for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backend = match self.backend {
            Backend::Auto => "auto",
            Backend::Ring => "ring",
            Backend::Plain => "plain",
        };
        let (send, receive) = (self.send.send_name(), self.receive.receive_name());
        write!(f, "{backend},{send},{receive}")
    }
}

/// The words are no ways.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is none of auto, ring, plain; zc, gso, sendmmsg, send; gro, recvmmsg, recv, with commas \
     between"
)]
pub struct UnknownWay(String);

impl FromStr for Ways {
    type Err = UnknownWay;

    /// Reads words with commas between; where none of a kind is named, the best is allowed.
    fn from_str(text: &str) -> Result<Self, UnknownWay> {
        let mut ways = Self::BEST;
        for word in text.split(',') {
            match word.trim() {
                "auto" => ways.backend = Backend::Auto,
                "ring" => ways.backend = Backend::Ring,
                "plain" => ways.backend = Backend::Plain,
                "zc" => ways.send = Way::ZeroCopy,
                "gso" => ways.send = Way::Coalesced,
                "sendmmsg" => ways.send = Way::Batched,
                "send" => ways.send = Way::Single,
                "gro" => ways.receive = Way::Coalesced,
                "recvmmsg" => ways.receive = Way::Batched,
                "recv" => ways.receive = Way::Single,
                other => return Err(UnknownWay(other.to_owned())),
            }
        }
        Ok(ways)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_is_read_back_from_its_words() {
        for backend in [Backend::Auto, Backend::Ring, Backend::Plain] {
            for send in [Way::Single, Way::Batched, Way::Coalesced, Way::ZeroCopy] {
                for receive in [Way::Single, Way::Batched, Way::Coalesced] {
                    let ways = Ways {
                        backend,
                        send,
                        receive,
                    };
                    assert_eq!(ways.to_string().parse(), Ok(ways));
                }
            }
        }
    }

    #[test]
    fn what_is_not_named_is_free_and_what_is_unknown_is_refused() {
        assert_eq!("plain".parse(), Ok(Ways::PLAIN));
        let slow: Ways = "recv, send".parse().unwrap();
        assert_eq!(slow.to_string(), "auto,send,recv");
        for text in ["", "fast", "gso,", "gso;gro"] {
            assert!(text.parse::<Ways>().is_err(), "{text:?}");
        }
    }
}
