//! One connection to a peer: what each side has said, asked for and sent.
//!
//! ```text
//!   Opening ──connected──► Greeting ──their handshake──► Ready ──► closed
//!                             ▲
//!   accepted ─────────────────┘
//! ```
//!
//! It is the book-keeping of one stream; what to ask for and what to show is the torrent's.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};

use super::limits::{ASKED_MAX, ASKED_MIN, BLOCK_BYTES, ROUND_TRIP_MS};
use super::seal::Seal;
use super::wire::extension::ExtensionIds;
use super::wire::framer::Framer;
use super::wire::hashes::HashRange;
use super::wire::metadata::MetadataServer;
use super::wire::pex::{PexReceiver, PexSender};
use super::wire::{BlockRange, Message, block_header};
use crate::base::{Bitmap, PieceIndex, Time};
use crate::machine::StreamId;

/// See the module.
pub struct Peer {
    pub(super) address: SocketAddr,
    pub(super) phase: Phase,
    pub(super) framer: Framer,
    /// What it calls itself.
    pub(super) name: [u8; 20],
    pub(super) knows_fast: bool,
    /// Both go by the v2 name, so that hashes may be asked for (BEP 52).
    pub(super) is_v2: bool,
    /// Its numbers of extensions.
    pub(super) ids: ExtensionIds,
    /// Where it listens, if it said so.
    pub(super) listen_port: Option<u16>,
    pub(super) metadata: MetadataServer,
    pub(super) pex_in: PexReceiver,
    pub(super) pex_out: PexSender,
    /// The pieces it says it has.
    pub(super) theirs: Bitmap,
    /// It wants nothing, whatever it lacks.
    pub(super) is_upload_only: bool,
    pub(super) since: Time,
    pub(super) heard_at: Time,
    pub(super) said_at: Time,

    /// It does not serve us.
    pub(super) chokes_us: bool,
    /// We told it that it has what we want.
    pub(super) is_wanted: bool,
    /// What it was asked for and has not sent, in order.
    pub(super) asked: VecDeque<BlockRange>,
    /// Requests that it keeps.
    pub(super) asked_max: usize,
    /// What it was asked for and did not send in time: others are asked for that too.
    pub(super) late: VecDeque<BlockRange>,
    /// When it last sent something of that, or was asked after it had nothing to do.
    pub(super) brought_at: Time,
    /// It does not send what it was asked for.
    pub(super) is_snubbed: bool,
    pub(super) down: Rate,

    /// We do not serve it.
    pub(super) is_choked: bool,
    /// It told us that we have what it wants.
    pub(super) wants_us: bool,
    /// What it asked for and is not given to the kernel's queue yet.
    pub(super) orders: VecDeque<BlockRange>,
    /// Leaves of pieces that it asked for.
    pub(super) leaf_orders: VecDeque<(PieceIndex, HashRange)>,
    /// When a piece may be hashed for it again.
    pub(super) leaves_at: Time,
    /// What it was shown, while pieces are shown one by one; otherwise everything is.
    pub(super) shown: Option<Bitmap>,
    /// When it was last given, or showed, anything new.
    pub(super) moved_at: Time,
    /// Bytes given to the driver, and taken by the kernel.
    given: u64,
    gone: u64,
    /// The blocks among what was given, each with where it ends.
    marks: VecDeque<(u64, BlockRange)>,
    pub(super) up: Rate,

    /// What seals the stream between nodes of a run.
    pub(super) seal: Option<Box<Seal>>,
    /// What was given sealed and is not gone: bytes on the wire, and how many they carry.
    sealed: VecDeque<(usize, usize)>,
    /// Messages that wait to be given to the driver.
    out: BytesMut,
    outbox: VecDeque<Bytes>,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is being opened by us.
    Opening,
    /// It is open; the other side's handshake is waited for.
    Greeting,
    /// Both have said who they are.
    Ready,
}

impl Peer {
    pub(super) fn new(address: SocketAddr, phase: Phase, pieces: u32, now: Time) -> Self {
        Self {
            address,
            phase,
            framer: Framer::default(),
            name: [0; 20],
            knows_fast: false,
            is_v2: false,
            ids: ExtensionIds::default(),
            listen_port: None,
            metadata: MetadataServer::default(),
            pex_in: PexReceiver::default(),
            pex_out: PexSender::default(),
            asked_max: ASKED_MAX,
            theirs: Bitmap::new(pieces as usize),
            is_upload_only: false,
            since: now,
            heard_at: now,
            said_at: now,
            chokes_us: true,
            is_wanted: false,
            asked: VecDeque::new(),
            late: VecDeque::new(),
            brought_at: now,
            is_snubbed: false,
            down: Rate::default(),
            is_choked: true,
            wants_us: false,
            orders: VecDeque::new(),
            leaf_orders: VecDeque::new(),
            leaves_at: now,
            shown: None,
            moved_at: now,
            given: 0,
            gone: 0,
            marks: VecDeque::new(),
            up: Rate::default(),
            seal: None,
            sealed: VecDeque::new(),
            out: BytesMut::new(),
            outbox: VecDeque::new(),
        }
    }

    /// Whether both sides have said who they are.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    pub(super) fn say(&mut self, message: &Message<'_>) {
        let mut bytes = Vec::with_capacity(32);
        message.emit(&mut bytes);
        self.out.put_slice(&bytes);
    }

    pub(super) fn say_raw(&mut self, bytes: &[u8]) {
        self.out.put_slice(bytes);
    }

    /// Sends a block that it asked for.
    pub(super) fn give(&mut self, range: BlockRange, bytes: Bytes) {
        self.out.put_slice(&block_header(range));
        self.close_message_run();
        let len = bytes.len() as u64;
        self.outbox.push_back(bytes);
        self.given += len;
        self.marks.push_back((self.given, range));
        self.up.note(len);
    }

    /// Takes what is to be given to the driver, in order; nothing before it can be sealed.
    pub(super) fn next_out(&mut self, now: Time) -> Option<Bytes> {
        self.close_message_run();
        if let Some(seal) = &mut self.seal {
            if self.outbox.is_empty() || !seal.is_ready() {
                return None;
            }
            let parts: Vec<Bytes> = self.outbox.drain(..).collect();
            let carried = parts.iter().map(Bytes::len).sum();
            let record = seal.seal(&parts).ok()?;
            self.sealed.push_back((record.len(), carried));
            self.said_at = now;
            return Some(record);
        }
        let bytes = self.outbox.pop_front()?;
        self.said_at = now;
        Some(bytes)
    }

    fn close_message_run(&mut self) {
        if !self.out.is_empty() {
            let run = self.out.split().freeze();
            self.given += run.len() as u64;
            self.outbox.push_back(run);
        }
    }

    /// Bytes that the kernel has not taken yet.
    pub(super) const fn ahead_bytes(&self) -> u64 {
        self.given - self.gone
    }

    /// Bytes that wait here: those, and messages that are not given yet.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.ahead_bytes() + self.out.len() as u64
    }

    /// Says the hello of a sealed stream.
    pub(super) fn hello(&mut self) -> Option<Bytes> {
        let hello = self.seal.as_ref()?.hello();
        self.sealed.push_back((hello.len(), 0));
        Some(hello)
    }

    /// The kernel took more; gives the blocks that it has whole now.
    pub(super) fn sent(&mut self, count: usize) -> impl Iterator<Item = BlockRange> + use<> {
        self.gone += self.carried_by(count) as u64;
        assert!(self.gone <= self.given, "the kernel takes what it is given");
        let whole = self.marks.iter().take_while(|(end, _)| *end <= self.gone);
        let whole = whole.count();
        let blocks: Vec<_> = self.marks.drain(..whole).map(|(_, range)| range).collect();
        blocks.into_iter()
    }

    /// How many bytes of ours are gone whole with `count` more on the wire.
    fn carried_by(&mut self, count: usize) -> usize {
        if self.seal.is_none() {
            return count;
        }
        let (mut left, mut carried) = (count, 0);
        while let Some((on_wire, plain)) = self.sealed.front_mut() {
            if *on_wire > left {
                *on_wire -= left;
                break;
            }
            left -= *on_wire;
            carried += *plain;
            self.sealed.pop_front();
        }
        carried
    }

    /// How many requests should wait at it: twice what it sends in a round trip.
    pub(super) fn asked_target(&self) -> usize {
        if self.is_snubbed {
            return 1;
        }
        let bytes = self.down.per_second().saturating_mul(2 * ROUND_TRIP_MS) / 1000;
        let blocks = usize::try_from(bytes / u64::from(BLOCK_BYTES)).unwrap_or(ASKED_MAX);
        let first = if self.down.is_unknown() {
            ASKED_FIRST
        } else {
            ASKED_MIN
        };
        let asked_max = self.asked_max.clamp(1, ASKED_MAX);
        blocks.clamp(first.min(asked_max), asked_max)
    }

    /// Where others can connect to it, as far as is known.
    pub(super) fn listens_at(&self, id: StreamId) -> Option<SocketAddr> {
        if id.is_incoming() {
            let port = self.listen_port?;
            return Some(SocketAddr::new(self.address.ip(), port));
        }
        Some(self.address)
    }
}

/// Requests at a peer of unknown speed.
const ASKED_FIRST: usize = 16;

/// Bytes per second, as of late.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    total: u64,
    at_tick: u64,
    per_second: u64,
}

impl Rate {
    pub(super) const fn note(&mut self, bytes: u64) {
        self.total += bytes;
    }

    /// A tick of `millis` has passed: fast rates are believed at once, slow ones by and by.
    pub(super) fn tick(&mut self, millis: u64) {
        let latest = (self.total - self.at_tick) * 1000 / millis.max(1);
        self.at_tick = self.total;
        self.per_second = latest.max((self.per_second * 7 + latest) / 8);
    }

    /// The rate.
    #[must_use]
    pub const fn per_second(&self) -> u64 {
        self.per_second
    }

    /// All bytes so far.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    const fn is_unknown(&self) -> bool {
        self.total == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_sent_when_the_kernel_has_its_last_byte() {
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        let mut peer = Peer::new(address, Phase::Ready, 4, Time::ZERO);
        let range = BlockRange {
            piece: PieceIndex::new(1),
            begin: 0,
            len: 100,
        };
        peer.say(&Message::Unchoke);
        peer.give(range, Bytes::from(vec![7; 100]));
        peer.say(&Message::Have(PieceIndex::new(2)));
        let out: Vec<Bytes> = std::iter::from_fn(|| peer.next_out(Time::ZERO)).collect();
        assert_eq!(out.iter().map(Bytes::len).collect::<Vec<_>>(), [18, 100, 9]);
        assert_eq!(peer.ahead_bytes(), 127);
        assert_eq!(peer.sent(117).count(), 0);
        assert_eq!(peer.sent(1).collect::<Vec<_>>(), [range]);
        assert_eq!(peer.sent(9).count(), 0);
        assert_eq!(peer.ahead_bytes(), 0);
    }

    #[test]
    fn requests_follow_the_rate() {
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        let mut peer = Peer::new(address, Phase::Ready, 4, Time::ZERO);
        assert_eq!(peer.asked_target(), ASKED_FIRST);
        peer.down.note(1);
        peer.down.tick(100);
        assert_eq!(peer.asked_target(), ASKED_MIN);
        peer.down.note(10 << 20);
        peer.down.tick(100);
        assert_eq!(peer.down.per_second(), 100 << 20);
        assert_eq!(peer.asked_target(), ASKED_MAX);
        peer.is_snubbed = true;
        assert_eq!(peer.asked_target(), 1);
    }
}
