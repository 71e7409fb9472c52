//! The sender: casts the pieces that anybody lacks, in order, going round, and repairs what was
//! lost.
//!
//! | file | what it owns |
//! |---|---|
//! | `members` | the receivers, and who of them follows |
//! | `demand` | which pieces are to be sent whole, which repaired |
//! | `lanes` | the pieces being read and sent |
//! | `flow` | how far ahead of the receivers the sender is |
//! | `pace` | how fast it sends |
//!
//! Invariants: a counter is used for one datagram only; nobody is waited for longer than the named
//! limits; what no receiver lacks is not sent, nor what is not right.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

mod demand;
mod event;
mod flow;
mod lanes;
mod members;
mod pace;
mod rounds;

pub use event::{Beside, Command, Event, Gone, Lag, NodeProgress, Progress};

use super::GROUP;
use super::keys::{Aes128Gcm, Cipher, Key, Secret, TAG_SIZE};
use super::limits::{
    AWAIT_MAX, BURST_BYTES_MAX, BURST_DATAGRAMS_MAX, CONTROL_BUSY, CONTROL_PROMPT, CONTROL_QUIET,
    FAREWELLS, REPORT_INTERVAL_MIN, TICK,
};
use super::session::Session;
use super::wire::DATA_OVERHEAD;
use super::wire::control::Control;
use super::wire::lct::{Codepoint, HEADER_SIZE, Header};
use super::wire::report::{Report, ReportHeader};
use crate::base::{Bitmap, Blocks, Counter, Counters, NodeId, PieceIndex, Time};
use crate::fec::{Code, Esi, RaptorQ};
use crate::image::verify::{PieceHashes, Verify};
use crate::machine::{DiskDone, DiskError, Input, Machine, Output, Transmit};
use demand::Demand;
use flow::Flow;
use lanes::{Lanes, ReadEnd};
use members::{Members, Refused, Standing};
use pace::Pace;

/// What a sender is given at its start.
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// What is cast, and to whom.
    pub session: Session,
    /// Freshly drawn random bytes, never used before.
    pub secret: Secret,
    /// Where pseudo-randomness starts.
    pub seed: u64,
    /// The administrator's cap, in bytes of datagrams per second.
    pub rate_bytes_per_s_max: Option<u64>,
    /// How far to be ahead of the receivers at most; `limits::WINDOW_BYTES_DEFAULT`.
    pub window_bytes: u64,
    /// The piece that new data begins at: 0, or where an earlier session has come to.
    pub position: u32,
    /// How many receivers are to be there before it begins, if they come soon after the first.
    pub awaited: usize,
}

/// The sender of one session. The bundle is its file 0.
pub struct Sender<C: Code = RaptorQ, X: Cipher = Aes128Gcm, V: Verify = PieceHashes> {
    session: Session,
    secret: Secret,
    verify: V,
    cipher: X,
    key: X::Key,
    /// The number of the next datagram.
    counter: u64,
    window_bytes: u64,
    counters: Arc<Counters>,

    members: Members<X::Key>,
    demand: Demand,
    lanes: Lanes<C>,
    flow: Flow,
    pace: Pace,
    wishes: Wishes,
    /// The loss that nine receivers in ten do not exceed.
    loss: f64,

    phase: Phase,
    awaited: usize,
    /// When it begins to send pieces: not before the first receiver comes.
    begins_at: Time,
    last_control: Time,
    last_data: Time,
    /// A control datagram is due at once.
    control_is_due: bool,
    /// When demand was last looked at.
    looked_at: Time,
    tick_at: Time,
    progress_at: Time,
    outputs: VecDeque<Output<Event>>,
}

/// How receivers are asked to report.
#[derive(Clone, Copy, Debug)]
struct Wishes {
    receivers: u32,
    interval: Duration,
    backoff: Duration,
    gather: Duration,
    ack_packets: u32,
}

/// Where a sender is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing happened yet: the time is not known.
    New,
    /// Somebody lacks something, or nobody came yet.
    Busy,
    /// All who came have all.
    Idle,
    /// So many farewells are left.
    Ending(u32),
    /// Nothing more is done.
    Stopped,
}

impl<C: Code, X: Cipher, V: Verify> Sender<C, X, V> {
    /// Makes a sender; `blocks` are as large as a piece.
    ///
    /// # Panics
    /// If a symbol does not fit the pieces, or a datagram of it does not fit a burst.
    #[must_use]
    pub fn new(
        config: SenderConfig,
        code: C,
        cipher: X,
        verify: V,
        blocks: Box<dyn Blocks>,
        counters: Arc<Counters>,
    ) -> Self {
        let SenderConfig {
            session, secret, ..
        } = config;
        let size = usize::from(session.symbol_size) + DATA_OVERHEAD;
        assert!(session.all_shapes_fit(), "the symbol size fits the pieces");
        assert!(size <= BURST_BYTES_MAX, "a datagram fits a burst");
        assert!(
            blocks.block_size() >= session.geometry.piece_size(),
            "a block holds a piece"
        );
        let mut sender = Self {
            session,
            verify,
            key: cipher.data_key(&secret, session.epoch, session.tsi),
            secret,
            cipher,
            counter: 0,
            window_bytes: config.window_bytes,
            counters,
            members: Members::new(),
            demand: Demand::new(session, config.position),
            lanes: Lanes::new(code, session.geometry, blocks, config.seed),
            flow: Flow::new(0),
            pace: Pace::new(config.rate_bytes_per_s_max),
            wishes: Wishes {
                receivers: 0,
                interval: REPORT_INTERVAL_MIN,
                backoff: Duration::ZERO,
                gather: Duration::ZERO,
                ack_packets: 0,
            },
            loss: 0.0,
            phase: Phase::New,
            awaited: config.awaited,
            begins_at: Time::NEVER,
            last_control: Time::ZERO,
            last_data: Time::ZERO,
            control_is_due: false,
            looked_at: Time::ZERO,
            tick_at: Time::ZERO,
            progress_at: Time::ZERO,
            outputs: VecDeque::new(),
        };
        sender.tune();
        sender
    }

    fn start(&mut self, now: Time) {
        if self.phase == Phase::New {
            self.phase = Phase::Busy;
            (self.last_control, self.last_data) = (now, now);
            self.tick_at = now + TICK;
            self.progress_at = now + PROGRESS_FIRST;
            self.control_is_due = true;
        }
    }

    fn raise(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn count(&self, counter: Counter, by: u64) {
        self.counters.add(counter, by);
    }

    fn datagram_size(&self) -> usize {
        usize::from(self.session.symbol_size) + DATA_OVERHEAD
    }

    fn on_datagram(&mut self, datagram: &mut [u8], from: SocketAddr, now: Time) {
        let Ok(header) = ReportHeader::parse(datagram) else {
            return self.count(Counter::RejectedMalformed, 1);
        };
        let Session { tsi, epoch, .. } = self.session;
        if header.tsi != tsi || header.epoch != epoch {
            return self.count(Counter::RejectedForged, 1);
        }
        let derive = || {
            self.cipher
                .report_key(&self.secret, epoch, tsi, header.node)
        };
        match self.members.open(&header, datagram, from, derive) {
            Ok(report) => {
                self.count(Counter::ReportsIn, 1);
                self.on_report(header.node, &report, from, now);
            }
            Err(Refused::Forged) => self.count(Counter::RejectedForged, 1),
            Err(Refused::Replayed) => self.count(Counter::RejectedReplayed, 1),
            Err(Refused::Twin(is_news)) => {
                self.count(Counter::RejectedTwin, 1);
                if is_news {
                    self.raise_twin(header.node, from);
                }
            }
            Err(Refused::Malformed | Refused::Full) => self.count(Counter::RejectedMalformed, 1),
        }
    }

    fn raise_twin(&mut self, node: NodeId, twin: SocketAddr) {
        if let Some(member) = self.members.get(node) {
            let (host, from) = (member.host.clone(), member.from);
            self.raise(Event::Twin {
                node,
                host,
                from,
                twin,
            });
        }
    }

    fn on_report(&mut self, node: NodeId, report: &Report, from: SocketAddr, now: Time) {
        self.members
            .advance(node, report.ack.min(self.counter), now);
        let Some(member) = self.members.get_mut(node) else {
            return;
        };
        let progressed = report.pieces_done > member.pieces_done;
        member.update(report, from, now);
        if report.done {
            return self.end_service(node, Standing::Done, None, now);
        }
        if report.leaving {
            return self.end_service(node, Standing::Gone, Some(Gone::Left), now);
        }
        match member.standing {
            Standing::Gone => self.welcome(node, now),
            Standing::GivenUp if progressed => self.welcome(node, now),
            Standing::Active | Standing::Demoted => {}
            Standing::Done | Standing::GivenUp => return,
        }
        let Some(member) = self.members.get_mut(node) else {
            return;
        };
        let is_active = member.standing == Standing::Active;
        let wishes = self.wishes;
        let demand = &mut self.demand;
        if !demand.apply(&mut member.wants, report, is_active, now, wishes.gather) {
            return self.count(Counter::RejectedMalformed, 1);
        }
        if member.wants.is_empty() {
            self.members.wait_for(node, false);
        }
        self.flow.wait_again(&mut self.members, node, self.counter);
        if self.phase == Phase::Idle && self.demand.lacking() > 0 {
            self.phase = Phase::Busy;
        }
    }

    /// Starts to serve a receiver.
    fn welcome(&mut self, node: NodeId, now: Time) {
        let piece_count = self.session.geometry.piece_count() as usize;
        let Some(member) = self.members.get_mut(node) else {
            return;
        };
        member.standing = Standing::Active;
        member.wants = Bitmap::new(piece_count);
        member.advanced_at = now;
        member.second_chance = None;
        member.restart_watch(now);
        let event = Event::Joined {
            node,
            host: member.host.clone(),
            from: member.from,
            pieces_done: member.pieces_done,
        };
        self.raise(event);
        self.control_is_due = true;
        self.begins_at = if self.members.iter().count() >= self.awaited {
            now
        } else {
            self.begins_at.min(now + AWAIT_MAX)
        };
    }

    /// Ends the service of a receiver; `cause` says why, if it is not done.
    fn end_service(&mut self, node: NodeId, to: Standing, cause: Option<Gone>, now: Time) {
        let Some(member) = self.members.get_mut(node) else {
            return;
        };
        let was = std::mem::replace(&mut member.standing, to);
        member.last_seen = now.max(member.last_seen);
        let wants = std::mem::take(&mut member.wants);
        if was == Standing::Active {
            self.demand.exclude(&wants);
        }
        let host = member.host.clone();
        self.members.wait_for(node, false);
        let pieces_missing = u32::try_from(wants.count()).unwrap_or(u32::MAX);
        match cause {
            None if was != Standing::Done => self.raise(Event::NodeDone { node, host }),
            Some(cause) if matches!(was, Standing::Active | Standing::Demoted) => {
                self.raise(Event::NodeGone {
                    node,
                    host,
                    cause,
                    pieces_missing,
                });
            }
            _ => {}
        }
        self.tune();
    }

    fn on_disk(&mut self, done: DiskDone) {
        // A piece that rotted on disk, or was changed there, is not sent.
        let check = || {
            let piece = self.lanes.piece_of(done.tag)?;
            let len = self.session.geometry.len(piece);
            self.verify.verify(piece, &done.block[..len]).then_some(())
        };
        let result = done.result.and_then(|()| check().ok_or(DiskError::Damaged));
        let error = result.err();
        match self.lanes.on_read(done.tag, done.block, error.is_none()) {
            Some(ReadEnd::Again(op)) => self.outputs.push_back(Output::Disk(op)),
            Some(ReadEnd::Failed(piece)) => {
                if let Some(error) = error {
                    let piece = PieceIndex::new(piece);
                    self.raise(Event::ReadFailed { piece, error });
                }
            }
            Some(ReadEnd::Ready) | None => {}
        }
    }

    /// Does what is due, and asks for the reads that are needed.
    fn look_around(&mut self, now: Time) {
        if matches!(self.phase, Phase::Ending(_) | Phase::Stopped) {
            return;
        }
        if now >= self.tick_at {
            self.tick_at = now + TICK;
            self.tick(now);
        }
        self.looked_at = now;
        self.control_is_due |= self.lanes.drop_unwanted(&mut self.demand, self.counter);
        while self.begins_at <= now
            && let Some(op) = self.lanes.plan(&mut self.demand, now)
        {
            self.outputs.push_back(Output::Disk(op));
        }
    }

    fn control_at(&self) -> Time {
        if self.control_is_due {
            return self.last_control + CONTROL_PROMPT;
        }
        let busy = self.last_control + CONTROL_BUSY;
        match self.phase {
            Phase::Stopped => Time::NEVER,
            Phase::Ending(_) => self.last_control + REPORT_INTERVAL_MIN,
            Phase::New | Phase::Busy | Phase::Idle if self.wishes.receivers == 0 => busy,
            Phase::New | Phase::Busy | Phase::Idle => {
                busy.min(self.last_control.max(self.last_data) + CONTROL_QUIET)
            }
        }
    }

    fn send_control(&mut self, now: Time, buffer: &mut [u8]) -> Option<Transmit> {
        self.tune();
        let control = self.control();
        let len = HEADER_SIZE + control.buffer_len() + TAG_SIZE;
        let datagram = buffer.get_mut(..len)?;
        let is_ending = matches!(self.phase, Phase::Ending(_));
        control.emit(&mut datagram[HEADER_SIZE..len - TAG_SIZE]);
        let header = Header {
            closes_session: is_ending,
            codepoint: Codepoint::Control,
            remaining: 0,
            tsi: self.session.tsi,
            toi: 0,
            epoch: self.session.epoch,
            counter: self.counter,
            esi: Esi::new(0)?,
        };
        seal(&self.key, &header, datagram);
        self.counter += 1;
        self.control_is_due = false;
        self.last_control = now;
        self.count(Counter::PacketsOut, 1);
        self.pace.note_sent(len, now);
        if let Phase::Ending(left) = self.phase {
            self.phase = Phase::Ending(left.saturating_sub(1));
            if left <= 1 {
                self.phase = Phase::Stopped;
                self.raise(Event::Stopped);
            }
        }
        Some(self.transmit(len, len))
    }

    fn control(&self) -> Control {
        Control {
            quiet: self.lanes.is_quiet(),
            position: self.demand.position(),
            report_interval_ms: millis(self.wishes.interval),
            backoff_ms: millis(self.wishes.backoff),
            ack_packets: self.wishes.ack_packets,
            receivers: self.wishes.receivers,
            demoted: self.demoted_ids(),
        }
    }

    fn send_data(&mut self, now: Time, buffer: &mut [u8]) -> Option<Transmit> {
        let size = self.datagram_size();
        let max = (buffer.len().min(BURST_BYTES_MAX) / size).min(BURST_DATAGRAMS_MAX);
        let max = self.pace.burst_max(size, max);
        if max == 0 || self.lanes.is_quiet() || now < self.pace.next_at() {
            return None;
        }
        let burst = u64::try_from(max).unwrap_or(u64::MAX);
        let members = &mut self.members;
        if !self.flow.may_send(members, self.counter, burst, now) {
            return None;
        }
        let mut sent = [0u64; 2];
        for datagram in buffer.chunks_exact_mut(size).take(max) {
            let Some(is_source) = self.write(datagram) else {
                break;
            };
            sent[usize::from(!is_source)] += 1;
        }
        let count = sent[0] + sent[1];
        self.count(Counter::SentSource, sent[0]);
        self.count(Counter::SentRepair, sent[1]);
        self.control_is_due |= self.lanes.is_quiet();
        self.last_data = now;
        let len = usize::try_from(count).unwrap_or(0) * size;
        self.pace.note_sent(len, now);
        (len > 0).then(|| self.transmit(len, size))
    }

    /// Writes the next data datagram; tells whether its symbol is a source symbol.
    fn write(&mut self, datagram: &mut [u8]) -> Option<bool> {
        let body = HEADER_SIZE..datagram.len() - TAG_SIZE;
        let symbol = &mut datagram[body];
        let written = self.lanes.write(&mut self.demand, self.counter, symbol)?;
        let header = Header {
            closes_session: false,
            codepoint: Codepoint::RaptorQ,
            remaining: written.remaining,
            tsi: self.session.tsi,
            toi: written.piece + 1,
            epoch: self.session.epoch,
            counter: self.counter,
            esi: written.esi,
        };
        seal(&self.key, &header, datagram);
        self.counter += 1;
        Some(written.is_source)
    }

    const fn transmit(&self, len: usize, segment_size: usize) -> Transmit {
        Transmit {
            channel: GROUP,
            to: self.session.group,
            len,
            segment_size,
        }
    }
}

impl<C: Code, X: Cipher, V: Verify> Machine for Sender<C, X, V> {
    type Command = Command;
    type Event = Event;

    fn handle(&mut self, input: Input<'_, Command>, now: Time) {
        self.start(now);
        match input {
            Input::Datagrams(mut datagrams) => {
                let from = datagrams.from;
                for datagram in datagrams.segments() {
                    self.on_datagram(datagram, from, now);
                }
            }
            Input::Disk(done) => self.on_disk(done),
            Input::Timeout | Input::Stream(_) => {}
            Input::Command(Command::RateMax(rate)) => self.pace.set_rate_max(rate),
            Input::Command(Command::Beside(beside)) => self.pace.set_beside(beside, now),
            Input::Command(Command::Stop) => {
                if !matches!(self.phase, Phase::Ending(_) | Phase::Stopped) {
                    self.phase = Phase::Ending(FAREWELLS);
                    self.control_is_due = true;
                }
            }
        }
        self.look_around(now);
    }

    fn poll_transmit(&mut self, now: Time, buffer: &mut [u8]) -> Option<Transmit> {
        self.start(now);
        self.look_around(now);
        if self.phase == Phase::Stopped {
            return None;
        }
        if now >= self.control_at() {
            return self.send_control(now, buffer);
        }
        if matches!(self.phase, Phase::Ending(_)) {
            return None;
        }
        self.send_data(now, buffer)
    }

    fn poll_output(&mut self) -> Option<Output<Event>> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Time> {
        match self.phase {
            Phase::New => return Some(Time::ZERO),
            Phase::Stopped => return None,
            Phase::Ending(_) => return Some(self.control_at()),
            Phase::Busy | Phase::Idle => {}
        }
        let mut at = self.control_at().min(self.tick_at);
        // A repair that was ready when we last looked waits for a lane or a block, not for time.
        let repair_at = self.demand.repair_at();
        if let Some(repair_at) = repair_at.filter(|&ready_at| ready_at > self.looked_at) {
            at = at.min(repair_at);
        }
        if !self.lanes.is_quiet() {
            let closed_until = self.flow.closed_until();
            at = at.min(closed_until.unwrap_or_else(|| self.pace.next_at()));
        }
        Some(at)
    }
}

/// Seals a datagram whose body is in place: writes its header and its tag.
fn seal<K: Key>(key: &K, header: &Header, datagram: &mut [u8]) {
    let (clear, sealed) = datagram.split_at_mut(HEADER_SIZE);
    clear.copy_from_slice(&header.emit());
    let (body, tag) = sealed.split_at_mut(sealed.len() - TAG_SIZE);
    tag.copy_from_slice(&key.seal(header.counter, clear, body));
}

fn millis(duration: Duration) -> u16 {
    u16::try_from(duration.as_millis()).unwrap_or(u16::MAX)
}

/// When the first [`Event::Progress`] comes.
const PROGRESS_FIRST: Duration = Duration::from_millis(200);
/// The interval of [`Event::Progress`].
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
