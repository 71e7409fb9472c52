//! Words that every room shares: ids, units, ranges, bitmaps, byte reading and writing, time,
//! events and counters.
//!
//! Nothing here knows a protocol, a file or a socket. The room imports no other room.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod bitmap;
pub mod block;
pub mod bytes;
pub mod counter;
pub mod event;
pub mod id;
pub mod random;
pub mod ranges;
pub mod time;
pub mod units;

pub use bitmap::Bitmap;
pub use block::{Block, BlockMemory, Blocks};
pub use counter::{Counter, Counters};
pub use id::{EpochId, NodeId, PieceIndex, Serial};
pub use ranges::RangeSet;
pub use time::Time;
