//! Head and nodes over real kernel sockets, in network namespaces. Serial.

mod attack;
mod faults;
mod fleet;
pub(crate) mod lab;
mod mtu;
mod proof;
mod snooping;
mod transfer;
