//! Head and nodes over real kernel sockets, in network namespaces. Serial.

pub(crate) mod lab;
mod proof;
