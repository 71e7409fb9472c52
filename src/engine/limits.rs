//! The limits of the engine: every queue, batch and retry has its number here.

use std::time::Duration;

/// Bytes of one staging slot: one send, coalesced or not.
pub const SEND_SLOT_BYTES: usize = 64 * 1024;
/// Staging slots of a driver, which is also how many sends may be in flight.
pub const SEND_SLOTS: usize = 16;
/// The shortest burst that is sent from where it is: for less, a copy costs less.
pub const ZERO_COPY_BYTES_MIN: usize = 16 * 1024;
/// Slots that sends without a copy may hold at a time. A card may keep them until something else is
/// sent, which the other slots are for.
pub const ZERO_COPIES_MAX: usize = SEND_SLOTS * 3 / 4;
/// Sends in a row that the kernel copied after all, after which a socket asks for copies.
pub const COPIES_MAX: u32 = 8;
/// The longest UDP payload, and so the most that one coalesced send can carry.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;
/// The most datagrams that the kernel takes in one coalesced send.
pub const SEGMENTS_MAX: usize = 128;
/// Bytes of one receive buffer: the longest payload, its address, ancillary data and header.
pub const RECEIVE_BUFFER_BYTES: usize = 68 * 1024;
/// Receive buffers that a ring gives to the kernel; a power of two.
pub const RECEIVE_BUFFERS: u16 = 64;
/// Messages that a plain system call may receive at a time.
pub const RECEIVE_BATCH: usize = 16;
/// What a socket asks for as its receive buffer.
pub const SOCKET_RECEIVE_BYTES: usize = 32 << 20;
/// What a socket asks for as its send buffer.
pub const SOCKET_SEND_BYTES: usize = 4 << 20;

/// Streams of one driver; who connects to it beyond that is turned away.
pub const STREAMS_MAX: usize = 8192;
/// Connections that the kernel keeps until they are accepted.
pub const STREAM_BACKLOG: i32 = 1024;
/// The longest TCP segment, either way. One of large frames may never arrive where a switch on the
/// way does not take them, and nobody would hear of it.
pub const STREAM_SEGMENT_BYTES_MAX: u32 = 1460;
/// Fewer bytes than this at a time are messages, whose sender may wait for our word that they came.
pub const STREAM_MESSAGE_BYTES: usize = 1024;
/// The most bytes that one send of a stream gathers.
pub const STREAM_BATCH_BYTES: usize = 1 << 20;
/// The most parts that one send of a stream gathers; the kernel takes 1024.
pub const STREAM_BATCH_PARTS: usize = 256;
/// Bytes that the kernel takes of a stream before the network can carry them.
pub const STREAM_UNSENT_BYTES: usize = 512 * 1024;
/// Bytes of one receive buffer for streams.
pub const STREAM_BUFFER_BYTES: usize = 64 * 1024;
/// Receive buffers for streams that a ring gives to the kernel; a power of two.
pub const STREAM_BUFFERS: u16 = 64;
/// The shortest send of a stream that is worth being made without a copy.
pub const STREAM_ZERO_COPY_BYTES_MIN: usize = 32 * 1024;
/// Sends without a copy of one stream that the kernel may still read from; the next one is copied.
pub const STREAM_ZERO_COPIES_MAX: u32 = 16;
/// Readiness that is asked for at a time, of plain streams.
pub const STREAM_EVENTS_PER_TURN: usize = 64;

/// Sockets of one driver, and files of one driver: what a `Channel` or `FileId` can name.
pub const CHANNELS_MAX: usize = 256;
/// Entries of a ring's submission queue; its completion queue has four times as many.
pub const RING_ENTRIES: u32 = 256;
/// Disk operations that the kernel has at a time; more wait in the driver.
pub const DISK_IN_FLIGHT_MAX: usize = 64;
/// How often a disk operation is tried again after `EINTR` or `EAGAIN`.
pub const DISK_RETRIES_MAX: u32 = 16;
/// Failures to receive in a row, with nothing received between, that end a driver.
pub const RECEIVE_FAILURES_MAX: u32 = 64;

/// Bursts sent per turn of the driver, before it looks at what came in.
pub const SENDS_PER_TURN: usize = SEND_SLOTS;
/// Inputs handled per turn, before deadlines and commands are looked at.
pub const INPUTS_PER_TURN: usize = 64;
/// Commands handled per turn.
pub const COMMANDS_PER_TURN: usize = 16;
/// Outputs taken from the machine per turn.
pub const OUTPUTS_PER_TURN: usize = 1024;
/// Commands that may wait for the driver.
pub const COMMANDS_WAITING_MAX: usize = 1024;

/// How long a stream may take to open: the first attempt to connect, and two more.
pub const STREAM_CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long sent bytes of a stream may stay unacknowledged.
pub const STREAM_PATIENCE: Duration = Duration::from_secs(30);
/// How long a listener rests when a connection cannot be accepted, as when no descriptor is left.
pub const STREAM_ACCEPT_REST: Duration = Duration::from_millis(100);
/// How long a plain send waits for room in the socket before its datagrams count as lost.
pub const SEND_PATIENCE: Duration = Duration::from_secs(1);
/// How long the end of a run waits for what the kernel still does.
pub const FINISH_PATIENCE: Duration = Duration::from_secs(5);
/// The longest sleep of a driver, so that a lost wake-up cannot hold it for ever.
pub const SLEEP_MAX: Duration = Duration::from_secs(1);
/// How long a driver whose staging slots are all on their way sleeps at least, unless something
/// happens: its machine may want to send at once, and cannot.
pub const BLOCKED_SLEEP_MIN: Duration = Duration::from_millis(1);
/// How much later than asked the kernel may wake a driver, to save wake-ups.
pub const TIMER_SLACK_NANOS: u64 = 1_000;
