//! Swarms of stock BitTorrent clients and ours: as seeders and as leechers, with each way to find
//! peers, judged by what is on disk in the end. Each pair has a torrent of its own, so nobody can
//! help it. The small set runs every time, the rest by `tools/test --all`.

mod control;
mod faulty;
mod ours;
mod pairs;
mod peers;
