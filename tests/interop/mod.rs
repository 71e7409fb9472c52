//! The binary against stock tools.

mod udpcast;
