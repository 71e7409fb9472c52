//! The binary against stock tools.

mod tar;
mod udpcast;
