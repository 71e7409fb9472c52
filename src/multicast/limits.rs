//! Every bound of this room, by name.

use std::time::Duration;

/// The most bytes of one GSO send: what one UDP datagram can hold.
pub const BURST_BYTES_MAX: usize = 65_507;
/// The most datagrams of one GSO send.
pub const BURST_DATAGRAMS_MAX: usize = 128;
/// The longest report or announcement, in bytes of UDP payload.
pub const REPORT_BYTES_MAX: usize = 1200;
/// The longest host name in a report, in bytes; longer ones are cut.
pub const HOST_BYTES_MAX: usize = 64;
/// The most items (runs and deficits) in one report.
pub const REPORT_ITEMS_MAX: usize = 1024;
/// The most demoted receivers named in one control datagram.
pub const DEMOTED_NAMED_MAX: usize = 32;

/// The most receivers that a sender keeps; reports of others are ignored.
pub const RECEIVERS_MAX: usize = 20_000;
/// How many new pieces are sent at a time, interleaved, so that a lost burst hurts each a little.
pub const INTERLEAVE: usize = 4;
/// How many pieces are sent at a time, new ones and repairs together.
pub const LANES_MAX: usize = 8;
/// How many repairs may be under way when one that can wait is begun.
pub const PATIENT_LANES_MAX: usize = 4;
/// How many pieces are read ahead of the ones being sent.
pub const READ_AHEAD: usize = 8;
/// How many pieces before its position a sender may still have to send.
pub const PIECES_UNDER_WAY_MAX: u32 = 16;
/// How many pieces that were read may wait: where reads are quick, more would only leave the cache
/// before they are sent.
pub const READY_MAX: usize = 2;
/// How many repair symbols of a piece are made at a time.
pub const REPAIRS_AT_ONCE: u32 = 256;
/// Repair symbols sent beyond the largest deficit, since K symbols fail once in 200.
pub const REPAIR_EXTRA: u32 = 2;
/// The range from which the first repair ESI of a session is drawn.
pub const REPAIR_START_RANGE: u32 = 1 << 20;
/// How often a read is tried before its piece is given up.
pub const READ_ATTEMPTS_MAX: u8 = 3;

/// The bytes that a sender may be ahead of what its receivers acknowledge.
pub const WINDOW_BYTES_DEFAULT: u64 = 16 << 20;
/// The smallest window, whatever receive buffers the receivers tell.
pub const WINDOW_BYTES_MIN: u64 = 1 << 20;
/// The lowest rate that the sender adapts itself down to, in bytes per second.
pub const RATE_BYTES_PER_S_MIN: u64 = 1 << 20;
/// How far a paced sender may catch up when its driver was late.
pub const PACE_SLACK: Duration = Duration::from_millis(4);
/// How long one receiver may hold the window in one second before it is left out.
pub const HOLD_MAX: Duration = Duration::from_millis(100);
/// How long the window waits at all for receivers that do not advance.
pub const STALL_MAX: Duration = Duration::from_millis(200);

/// How often a sender looks at its receivers: adapts, drops, demotes.
pub const TICK: Duration = Duration::from_millis(100);
/// How long a sender waits for the receivers that it expects, once the first is there.
pub const AWAIT_MAX: Duration = Duration::from_secs(1);
/// The shortest control interval: a thousand that join at once are answered together.
pub const CONTROL_PROMPT: Duration = Duration::from_millis(1);
/// The control interval while nothing else is sent.
pub const CONTROL_QUIET: Duration = Duration::from_millis(50);
/// The control interval while data flows, and while nobody listens.
pub const CONTROL_BUSY: Duration = Duration::from_millis(250);
/// A receiver is gone when it was silent this long.
pub const RECEIVER_SILENCE_MAX: Duration = Duration::from_secs(3);
/// The shortest interval of reports, and what each receiver adds to it.
pub const REPORT_INTERVAL_MIN: Duration = Duration::from_millis(20);
/// What each receiver adds to the report interval.
pub const REPORT_INTERVAL_PER_RECEIVER: Duration = Duration::from_millis(1);
/// The longest report interval; below a third of [`RECEIVER_SILENCE_MAX`] no receiver seems gone.
pub const REPORT_INTERVAL_MAX: Duration = Duration::from_secs(10);
/// The shortest and the longest backoff of a deficit report.
pub const BACKOFF_MIN: Duration = Duration::from_millis(1);
/// The longest backoff of a deficit report.
pub const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// The longest time for which deficits of a piece are gathered before it is repaired.
pub const GATHER_MAX: Duration = Duration::from_millis(10);
/// The group size up to which receivers acknowledge by volume too.
pub const ACK_BY_VOLUME_RECEIVERS_MAX: usize = 32;
/// How long a receiver is watched before it is demoted.
pub const DEMOTE_AFTER: Duration = Duration::from_secs(2);
/// How long a receiver that was readmitted may make no progress before it is left to other means.
pub const NO_PROGRESS_MAX: Duration = Duration::from_secs(20);
/// How many final control datagrams a stopping sender sends.
pub const FAREWELLS: u32 = 3;

/// A receiver calls the sender silent after this long without an authentic datagram.
pub const SENDER_SILENCE_MAX: Duration = Duration::from_secs(2);
/// The first and the longest pause between reports to a silent sender.
pub const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest pause between reports to a silent sender.
pub const RETRY_MAX: Duration = Duration::from_secs(2);
/// How many final reports there are.
pub const DONE_REPORTS: u32 = 4;
/// The shortest pause between final reports; in a large group it is that group's backoff.
pub const DONE_INTERVAL: Duration = Duration::from_millis(15);
/// How many final reports there are in a group whose backoff is longer than that pause: together
/// they are many enough as it is.
pub const DONE_REPORTS_LARGE: u32 = 2;
/// How many datagrams the sender must be past a piece before its deficit counts as final.
pub const SETTLE_PACKETS: u64 = 384;
/// How often a piece may turn out wrong, or fail to be written, before it is left to other means.
pub const STRIKES_MAX: u8 = 2;
/// How many pieces before the sender's position a report starts.
pub const REPORT_LOOKBACK: u32 = 64;
/// The replay window: how far behind the newest counter a datagram may come.
pub const REPLAY_WINDOW: u64 = 8192;
/// The pause between events about an unknown epoch.
pub const UNKNOWN_EPOCH_INTERVAL: Duration = Duration::from_secs(1);
/// The pause between alarms about somebody who sends in the sender's name.
pub const INSIDER_INTERVAL: Duration = Duration::from_secs(10);
/// The interval of statistics.
pub const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// The interval of announcements.
pub const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(1);
/// The most images in one announcement datagram.
pub const ANNOUNCED_IMAGES_MAX: usize = 64;
/// The most datagrams of one announcement.
pub const ANNOUNCE_PARTS_MAX: usize = 64;
/// The most distinct announcements that a listener remembers.
pub const HEARD_MAX: usize = 256;
