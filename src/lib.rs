//! Flashover images whole Linux clusters at once.
//!
//! This page is the map. A room is a folder; its `mod.rs` says what it is for; the table in
//! `tests/tidy.rs` says who may import whom, and a test holds the source to it.
//!
//! ```text
//!   L7  cli        one file per command; the only room that prints, reads env, exits
//!   L6  deploy     joins image, transports, engine and monitor into running jobs
//!   L5  capture    tree or disk -> image -> bundle     install   bundle -> tree or disk
//!       uyok       boot package                        monitor   sinks of events
//!   L4  engine     how bytes move: ring, pool, net,    tree      file trees of this machine,
//!                  disk, drive                                   always beneath a root
//!   L3  multicast  swarm  rsync  netboot               the protocol machines (sans-IO)
//!   L2  image      fec    delta                        formats and codes: bytes only
//!   L1  machine    the contract of a protocol machine, and the world that simulates them
//!   L0  base       ids, units, ranges, bitmaps, bytes, time, events, counters
//! ```
//!
//! What travels is one immutable file, the *bundle*, cut into *pieces*. A piece is at once a
//! RaptorQ source block, a BitTorrent piece, a BLAKE3 subtree, an HTTP range, and the unit of
//! resume, repair and progress; so every transport fills the same piece map.

pub mod base;
pub mod capture;
pub mod cli;
pub mod deploy;
pub mod engine;
pub mod fec;
pub mod image;
pub mod install;
pub mod machine;
pub mod monitor;
pub mod multicast;
pub mod swarm;
pub mod tree;
