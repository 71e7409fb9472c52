//! The multicast sender, receiver and announcement machines, their wire format, and the policy of
//! pacing and repair.
//!
//! One [`sender`] casts the pieces of one bundle to a group; any number of [`receiver`]s join at
//! any moment, fill their piece maps, and tell what they lack. The sender serves the union of what
//! is lacking, in order, and goes round; it never waits for anybody longer than a named bound.
//!
//! ```text
//!   sender   --- data: LCT/ALC datagrams, one TOI per piece, TOI 0 = control --->   group
//!   receiver --- report: what it has seen, what it lacks (unicast) ------------->   sender
//! ```
//!
//! Invariants: no datagram is looked into before it is authenticated; no (key, nonce) pair is used
//! twice; no piece is stored before its hash is verified; memory is bounded by the pool of blocks
//! and the named limits in [`limits`]; every wait ends. The wire format is in [`wire`].
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod announce;
pub mod keys;
pub mod limits;
pub mod receiver;
mod replay;
pub mod sender;
pub mod session;
#[cfg(test)]
mod tests;
pub mod wire;

pub use crate::image::verify::{PieceHashes, Verify};
pub use keys::{Aes128Gcm, Cipher, Key, PlainCipher, Secret};
pub use receiver::{Receiver, ReceiverConfig};
pub use sender::{Sender, SenderConfig};
pub use session::Session;

use crate::machine::Channel;

/// The socket of the group: senders send there, receivers listen there.
pub const GROUP: Channel = Channel(0);
/// The socket of reports: receivers send from it, senders take reports on it (or on any other).
pub const REPORTS: Channel = Channel(1);
