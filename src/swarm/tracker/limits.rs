//! The bounds of trackers and their clients: how many, how much, how long.

use std::time::Duration;

/// Rings of the graph that a tracker hands out; see `graph`.
pub const RINGS: usize = 4;
/// The most peers that one peer is told of.
pub const DEGREE_MAX: usize = 2 * RINGS;
/// The most peers of one torrent and address family that a tracker remembers.
pub const PEERS_MAX: usize = 20_000;
/// The most peers of one torrent at one address: tests and containers share one.
pub const PEERS_PER_ADDRESS_MAX: usize = 64;
/// The most torrents that a tracker knows.
pub const TORRENTS_MAX: usize = 4096;
/// How often a peer is to announce itself at most; our own nodes do so more often while they are
/// few.
pub const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(60);
/// How often it may.
pub const ANNOUNCE_INTERVAL_MIN: Duration = Duration::from_secs(5);
/// A stock peer that was not heard for this long has gone. libtorrent announces itself every 5
/// minutes, whatever a tracker says, and may miss one.
pub const PEER_LIFETIME: Duration = Duration::from_secs(630);
/// How often our own nodes announce themselves at least.
pub const NODE_INTERVAL_MIN: Duration = Duration::from_secs(5);
/// The announcements of our own nodes per second that are aimed at, in all.
pub const NODE_ANNOUNCES_PER_S: u32 = 100;
/// A node of our own that was not heard for two intervals and this long has gone.
pub const NODE_GRACE: Duration = Duration::from_secs(20);
/// The most torrents in one scrape by UDP: BEP 15's bound.
pub const SCRAPE_MAX: usize = 74;
/// How long a connection id of the UDP protocol is good at least; at most it is twice that.
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);

/// The most peers that a client takes from one reply.
pub const REPLY_PEERS_MAX: usize = 2000;
/// The largest HTTP reply that a client reads, in bytes.
pub const REPLY_BYTES_MAX: usize = 1 << 20;
/// The longest query that a tracker reads, in bytes.
pub const QUERY_BYTES_MAX: usize = 8192;
/// The longest text of a refusal that a client keeps, in bytes.
pub const REASON_BYTES_MAX: usize = 256;
/// The longest id that a tracker may give its client, in bytes.
pub const TRACKER_ID_BYTES_MAX: usize = 256;
/// The longest URL of a tracker, in bytes.
pub const URL_BYTES_MAX: usize = 2048;
/// The most trackers that a client tries.
pub const TRACKERS_MAX: usize = 64;
/// The shortest wait that a client lets a tracker impose.
pub const INTERVAL_MIN: Duration = Duration::from_secs(5);
/// The longest wait that a client lets a tracker impose.
pub const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// The first wait after every tracker has failed; it doubles.
pub const BACKOFF_MIN: Duration = Duration::from_secs(2);
/// The longest wait after every tracker has failed.
pub const BACKOFF_MAX: Duration = Duration::from_secs(120);
/// How long a UDP request waits for its answer before it is sent again; it doubles. BEP 15 says
/// 15 s, for the internet.
pub const RETRANSMIT_MIN: Duration = Duration::from_secs(1);
/// How often a UDP request is sent at most.
pub const TRANSMITS_MAX: u32 = 5;
