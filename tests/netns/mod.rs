//! Head and nodes over real kernel sockets, in network namespaces. Serial.

mod attack;
pub(crate) mod discovery;
mod faults;
pub(crate) mod fleet;
pub(crate) mod lab;
mod mtu;
mod proof;
mod snooping;
mod swarm;
mod transfer;
