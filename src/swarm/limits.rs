//! The bounds of peers and of what is kept for them: how many, how much, how long.

use std::time::Duration;

/// The unit in which pieces are asked for (BEP 3): every client serves it.
pub const BLOCK_BYTES: u32 = 16 << 10;
/// The most bytes of a piece that this client fetches or seeds.
pub const PIECE_BYTES_MAX: u32 = 64 << 20;
/// How many peers a client goes to by itself.
pub const DIALLED_MAX: usize = 8;
/// How many peers that the user named a client goes to when it lacks nothing.
pub const NAMED_MAX: usize = 64;
/// How many peers it has at a time, whoever began.
pub const PEERS_MAX: usize = 200;
/// How many addresses of peers it remembers.
pub const ADDRESSES_MAX: usize = 4096;
/// How many addresses it shuns.
pub const BANNED_MAX: usize = 1024;

/// Requests that one peer may have waiting here; more are refused, and we say so (`reqq`).
pub const ORDERS_MAX: usize = 512;
/// Requests that wait at one peer at most.
pub const ASKED_MAX: usize = 256;
/// Requests that wait at one peer at least, while it has what is wanted.
pub const ASKED_MIN: usize = 16;
/// A round trip to a busy peer, in milliseconds; requests that wait at it should last for two.
pub const ROUND_TRIP_MS: u64 = 100;
/// Bytes that are on the way to one peer at most; the rest waits where it can be taken back.
pub const AHEAD_BYTES_MAX: u64 = 1 << 20;
/// Pieces that are read from disk for one peer ahead of their turn.
pub const READ_AHEAD: usize = 2;

/// The time between two looks at clocks and rates.
pub const TICK: Duration = Duration::from_millis(100);
/// A peer that sends nothing of what it was asked for this long is asked for no more, and what it
/// was asked for goes to others.
pub const SNUB_PATIENCE: Duration = Duration::from_secs(4);
/// A peer that sends nothing of what it was asked for this long is left.
pub const ASKED_PATIENCE: Duration = Duration::from_secs(40);
/// How long a peer has for its handshake.
pub const GREETING_PATIENCE: Duration = Duration::from_secs(10);
/// A peer that says nothing at all for this long is gone (BEP 3 has two minutes).
pub const SILENCE_MAX: Duration = Duration::from_secs(150);
/// How often a peer hears that we live.
pub const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// A block may be asked of a second peer, at the end, when the first had it for this long.
pub const SECOND_ASK_AFTER: Duration = Duration::from_millis(500);
/// The time before a peer that could not be reached is tried again; it doubles up to the next.
pub const RETRY_MIN: Duration = Duration::from_secs(1);
/// The longest time between two attempts.
pub const RETRY_MAX: Duration = Duration::from_secs(60);
/// Pieces of several peers that turned out wrong and whose culprit is looked for.
pub const SUSPECTS_MAX: usize = 16;
/// How often progress is told.
pub const STATS_INTERVAL: Duration = Duration::from_millis(500);
/// How long somebody may lack pieces and get none before a seed shows it more.
pub const STARVED_PATIENCE: Duration = Duration::from_secs(5);

/// Requests for leaves that one peer may have waiting here; more are refused.
pub const LEAF_ORDERS_MAX: usize = 4;
/// The least time between two pieces that are hashed for one peer.
pub const LEAVES_INTERVAL: Duration = Duration::from_millis(250);
/// Wrong pieces that are kept while the hashes of their blocks are asked for.
pub const DISPUTES_MAX: usize = 8;
/// How many peers are asked for the leaves of one wrong piece.
pub const DISPUTE_PEERS_MAX: usize = 3;
/// How long a peer has to send leaves, or to refuse.
pub const LEAVES_PATIENCE: Duration = Duration::from_secs(4);
/// How long piece layers are asked for where a torrent can do without them.
pub const LAYERS_PATIENCE: Duration = Duration::from_secs(3);
