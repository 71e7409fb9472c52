//! Joins image, transports, engine and monitor into running jobs: a head that serves, a node that
//! receives, and their small forms for plain files, cast and catch.
//!
//! ```text
//!   head   catalog -- hub -- control server (TLS)         node   control client -- courier
//!                      |                                         piece store -- unpacker
//!                    casts -- Sender machines                    Receiver machine
//!                    announcer                                   finder
//! ```
//!
//! The room knows every other but `cli`; it prints nothing and ends no process. What a job tells
//! goes to [`crate::base::event::Events`], how it ended is its result.
#![forbid(unsafe_code)]

pub mod control;
pub mod doctor;
pub mod error;
pub mod head;
pub mod interrupt;
pub mod net;
pub mod node;
pub mod open;
pub mod runtime;
pub mod swarm;
pub mod token;
pub mod torrent;

mod accept;
mod announce;
mod balance;
mod beacon;
mod casts;
mod catalog;
mod claims;
mod descriptors;
mod hub;
mod identity;
mod offer;
mod path;
mod peers;
mod plain;
mod querier;
mod seeds;
mod store;

use ring::rand::SecureRandom as _;

pub use error::{Error, Kind, Result};
pub use interrupt::Interrupt;
pub use offer::Offer;

/// Draws random bytes.
fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::text(Kind::Internal, "The kernel gave no randomness"))?;
    Ok(bytes)
}

/// Writes bytes as lower-case hex.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all that is written to it");
        text
    })
}

/// Reads what [`hex`] writes.
fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).ok();
    (0..text.len()).step_by(2).map(byte).collect()
}
