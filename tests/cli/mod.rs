//! The binary, run as a user runs it: help, output, exit codes.

mod faults;
mod help;
pub(crate) mod process;
mod refusals;
mod swarm;
mod torrent;
mod transfer;
mod web;
