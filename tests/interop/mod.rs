//! The binary against stock tools.

mod disk;
mod large;
mod tar;
mod udpcast;
