//! The binary against stock tools.

mod disk;
mod flute;
mod large;
mod lcrq;
mod swarm;
mod tar;
mod torrent;
mod tracker;
mod tshark;
mod udpcast;
