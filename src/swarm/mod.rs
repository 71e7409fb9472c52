//! BitTorrent as the world speaks it: its encoding and metainfo, its peer wire and trackers, and
//! the machines that fetch and seed the pieces of one torrent.
//!
//! The room is pure: it turns bytes into values and inputs into outputs. What comes from peers,
//! trackers and torrent files is hostile until it is checked: every length, depth and number has a
//! named bound, nothing panics, and no byte is handed on before its piece is verified.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod addresses;
pub mod bencode;
pub mod cap;
pub mod cut;
pub mod disputes;
pub mod fetches;
pub mod hash;
pub mod hash_tree;
pub mod infohash;
pub mod layer_fetch;
pub mod limits;
pub mod lsd;
pub mod magnet;
pub mod metadata_fetch;
pub mod metainfo;
pub mod peer;
mod percent;
pub mod picker;
pub mod priority;
pub mod scout;
pub mod seal;
pub mod seeding;
pub mod shelf;
pub mod suspects;
pub mod torrent;
pub mod tracker;
pub mod webseed;
pub mod wire;

pub use infohash::{InfoHash, InfoHashes};
pub use magnet::Magnet;
pub use metainfo::{Info, Metainfo};
pub use torrent::Torrent;
