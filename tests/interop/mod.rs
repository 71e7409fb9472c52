//! The binary against stock tools.

mod disk;
mod large;
mod lcrq;
mod tar;
mod udpcast;
