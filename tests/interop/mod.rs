//! The binary against stock tools.

mod lcrq;
mod tar;
mod udpcast;
