//! The receiver: fills its piece map from what comes by, and tells the sender what it lacks.
//!
//! Invariants: a datagram changes nothing before it is authenticated; a piece is `stored` only
//! after its hash was verified and its write succeeded; the memory for pieces is the pool's.
//!
//! The life of a piece: missing -> begun (holds a block) -> whole -> verified -> writing -> stored.
//! A wrong hash or a failed write leads back to missing, and after [`STRIKES_MAX`] of them to
//! abandoned: the job gets it by other means and says so with [`Command::Have`].

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

mod alarm;
mod event;
mod reports;
mod window;

pub use event::{Command, Event, Stats};

use super::keys::{Aes128Gcm, Cipher, Key, Secret};
use super::limits::{SENDER_SILENCE_MAX, STATS_INTERVAL, STRIKES_MAX};
use super::replay::{ReplayWindow, Tag};
use super::session::Session;
use super::wire::control::Control;
use super::wire::lct::{Codepoint, HEADER_SIZE, Header};
use super::wire::report::{Report, ReportHeader, clean_host};
use super::{GROUP, REPORTS};
use crate::base::{Bitmap, Block, Blocks, Counter, Counters, EpochId, NodeId, PieceIndex, Time};
use crate::fec::{Code, RaptorQ};
use crate::image::verify::{PieceHashes, Verify};
use crate::machine::{DiskDone, DiskKind, DiskOp, FileId, Input, Machine, Output, Transmit};
use alarm::Alarms;
use reports::{Lister, Schedule, Seen};
use window::{Outcome, Symbol, Taken, Window};

/// What a receiver is given at its start.
#[derive(Clone, Debug)]
pub struct ReceiverConfig {
    /// What is cast.
    pub session: Session,
    /// The secret of the session's epoch.
    pub secret: Secret,
    /// Where reports go: the head's address and the session's report port.
    pub reports_to: SocketAddr,
    /// This machine's id: 16 bytes freshly drawn for each receiver, never used before.
    pub node: NodeId,
    /// The host name for people.
    pub host: String,
    /// Where pseudo-randomness starts.
    pub seed: u64,
    /// The size of the group socket's receive buffer, in bytes; 0 if unknown.
    pub receive_buffer_bytes: u64,
    /// The pieces that are here already, verified: as long as the bundle has pieces.
    pub have: Bitmap,
}

/// The receiver of one session. The bundle is its file 0.
pub struct Receiver<C: Code = RaptorQ, X: Cipher = Aes128Gcm, V: Verify = PieceHashes> {
    session: Session,
    node: NodeId,
    host: String,
    buffer_kib: u32,
    reports_to: SocketAddr,
    counters: Arc<Counters>,
    verify: V,
    cipher: X,

    epoch: EpochId,
    data_key: X::Key,
    report_key: X::Key,
    /// The number of the next report; never set back, whatever the key.
    report_counter: u64,
    replay: ReplayWindow,

    /// Pieces stored.
    have: Bitmap,
    /// Pieces not asked for: stored, being written, or abandoned.
    closed: Bitmap,
    window: Window<C>,
    /// How often a piece went wrong.
    strikes: BTreeMap<u32, u8>,

    seen: Seen,
    schedule: Schedule,
    lister: Lister,
    control: Control,
    is_demoted: bool,
    phase: Phase,
    /// When the machine learned the time.
    started: Option<Time>,
    heard_at: Time,
    /// Whether anything was heard since the last report.
    was_heard: bool,
    is_silent: bool,
    alarms: Alarms,
    stats: Stats,
    stats_at: Time,
    /// `received` and `lost` when the last statistics were raised.
    stats_told: (u64, u64),
    outputs: VecDeque<Output<Event>>,
}

/// Where a receiver is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Pieces are missing.
    Running,
    /// Final reports are being sent, so many are left.
    Ending { left: u32, leaving: bool },
    /// Nothing more is done.
    Stopped,
}

impl<C: Code, X: Cipher, V: Verify> Receiver<C, X, V> {
    /// Makes a receiver; `blocks` are as large as a piece.
    ///
    /// # Panics
    /// If `have` is not as long as the bundle has pieces, or a symbol does not fit the pieces.
    #[must_use]
    pub fn new(
        config: ReceiverConfig,
        code: C,
        cipher: X,
        verify: V,
        blocks: Box<dyn Blocks>,
        counters: Arc<Counters>,
    ) -> Self {
        let ReceiverConfig {
            session,
            secret,
            have,
            node,
            ..
        } = config;
        let geometry = session.geometry;
        assert_eq!(
            have.len(),
            geometry.piece_count() as usize,
            "one bit per piece"
        );
        assert!(session.all_shapes_fit(), "the symbol size fits the pieces");
        assert!(
            blocks.block_size() >= geometry.piece_size(),
            "a block holds a piece"
        );
        let (epoch, tsi) = (session.epoch, session.tsi);
        Self {
            session,
            node,
            host: clean_host(&config.host),
            buffer_kib: u32::try_from(config.receive_buffer_bytes / 1024).unwrap_or(u32::MAX),
            reports_to: config.reports_to,
            counters,
            verify,
            epoch,
            data_key: cipher.data_key(&secret, epoch, tsi),
            report_key: cipher.report_key(&secret, epoch, tsi, node),
            cipher,
            report_counter: 0,
            replay: ReplayWindow::tagged(),
            closed: have.clone(),
            have,
            window: Window::new(code, geometry, session.symbol_size, blocks),
            strikes: BTreeMap::new(),
            seen: Seen::default(),
            schedule: Schedule::new(config.seed),
            lister: Lister::default(),
            control: Control::default(),
            is_demoted: false,
            phase: Phase::Running,
            started: None,
            heard_at: Time::ZERO,
            was_heard: false,
            is_silent: false,
            alarms: Alarms::new(),
            stats: Stats::default(),
            stats_at: Time::NEVER,
            stats_told: (0, 0),
            outputs: VecDeque::new(),
        }
    }

    /// The pieces that are stored.
    #[must_use]
    pub const fn have(&self) -> &Bitmap {
        &self.have
    }

    fn start(&mut self, now: Time) {
        if self.started.is_none() {
            self.started = Some(now);
            self.heard_at = now;
            // Soon: by the first it is judged whether multicast is worth waiting for.
            self.stats_at = now + STATS_INTERVAL / 2;
            self.schedule.start(now);
            self.end_if_complete(now);
        }
    }

    fn raise(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn count(&self, counter: Counter) {
        self.counters.add(counter, 1);
    }

    fn on_datagram(&mut self, datagram: &mut [u8], now: Time) {
        let Ok(header) = Header::parse(datagram) else {
            return self.count(Counter::RejectedMalformed);
        };
        if header.tsi != self.session.tsi {
            return;
        }
        if header.epoch != self.epoch {
            self.count(Counter::RejectedForged);
            return self.on_unknown_epoch(header.epoch, now);
        }
        let tag = Tag::of(datagram);
        if !self.is_fresh(&header, datagram, now) {
            return;
        }
        let (clear, sealed) = datagram.split_at_mut(HEADER_SIZE);
        let Some(body) = self.data_key.open(header.counter, clear, sealed) else {
            return self.count(Counter::RejectedForged);
        };
        self.replay.insert_tagged(header.counter, tag);
        self.seen.note(header.counter);
        self.stats.received += 1;
        self.note_heard(now);
        match header.codepoint {
            Codepoint::RaptorQ => self.on_symbol(&header, body),
            Codepoint::Control => self.on_control(&header, body),
        }
    }

    fn note_heard(&mut self, now: Time) {
        let is_news = self.is_silent || self.stats.received == 1;
        (self.heard_at, self.was_heard, self.is_silent) = (now, true, false);
        if is_news {
            self.raise(Event::Alive);
        }
    }

    fn on_control(&mut self, header: &Header, body: &[u8]) {
        let Ok(control) = Control::parse(body) else {
            return self.count(Counter::RejectedMalformed);
        };
        if control.quiet {
            self.seen.quiet = self.seen.quiet.max(Some(header.counter));
        }
        self.schedule.follow(&control);
        let is_demoted = control.names(self.node);
        if is_demoted && !self.is_demoted {
            self.raise(Event::Demoted);
        }
        self.is_demoted = is_demoted;
        self.stats.receivers = control.receivers;
        self.stats.position = control.position;
        self.control = control;
        if header.closes_session && self.phase == Phase::Running {
            self.raise(Event::Closed);
        }
    }

    fn on_symbol(&mut self, header: &Header, body: &[u8]) {
        let piece = header.toi.checked_sub(1);
        let Some(piece) = piece.and_then(|piece| self.session.geometry.piece(piece)) else {
            return self.count(Counter::RejectedMalformed);
        };
        if self.closed.get(piece.as_usize()) {
            return self.count(Counter::SymbolsUseless);
        }
        let symbol = Symbol {
            esi: header.esi,
            bytes: body,
            counter: header.counter,
            remaining: header.remaining,
        };
        match self.window.take(piece, symbol) {
            Taken::Source => self.count(Counter::SymbolsSource),
            Taken::Repair => self.count(Counter::SymbolsRepair),
            Taken::Useless => return self.count(Counter::SymbolsUseless),
            Taken::NoMemory { is_new_pass } => {
                let pieces = u64::from(is_new_pass);
                self.counters.add(Counter::PiecesSkipped, pieces);
                return self.count(Counter::SymbolsWithoutMemory);
            }
            Taken::Malformed => return self.count(Counter::RejectedMalformed),
        }
        match self.window.complete(piece) {
            Outcome::Unfinished => {}
            Outcome::Failed => self.strike_poisoned(piece),
            Outcome::Whole {
                block,
                len,
                was_decoded,
            } => {
                if was_decoded {
                    self.count(Counter::PiecesDecoded);
                }
                self.on_whole(piece, block, len);
            }
        }
    }

    fn on_whole(&mut self, piece: PieceIndex, block: Block, len: usize) {
        if !self.verify.verify(piece, &block[..len]) {
            return self.strike_poisoned(piece);
        }
        self.count(Counter::PiecesVerified);
        self.closed.set(piece.as_usize());
        self.outputs.push_back(Output::Disk(DiskOp {
            tag: u64::from(piece.get()),
            kind: DiskKind::Write,
            file: FileId(0),
            offset: self.session.geometry.offset(piece),
            len,
            block,
        }));
    }

    fn strike_poisoned(&mut self, piece: PieceIndex) {
        self.count(Counter::PiecesPoisoned);
        self.window.forget(piece);
        let abandoned = self.strike(piece);
        self.raise(Event::PiecePoisoned { piece, abandoned });
    }

    /// Notes that a piece went wrong; tells whether it is abandoned now.
    fn strike(&mut self, piece: PieceIndex) -> bool {
        let strikes = self.strikes.entry(piece.get()).or_default();
        *strikes += 1;
        let abandoned = *strikes >= STRIKES_MAX;
        if abandoned {
            self.closed.set(piece.as_usize());
        }
        abandoned
    }

    fn on_disk(&mut self, done: DiskDone, now: Time) {
        let piece = u32::try_from(done.tag).ok();
        let Some(piece) = piece.and_then(|piece| self.session.geometry.piece(piece)) else {
            return;
        };
        if self.have.get(piece.as_usize()) {
            return;
        }
        match done.result {
            Ok(()) => {
                self.have.set(piece.as_usize());
                let (block, len) = (done.block, self.session.geometry.len(piece));
                self.raise(Event::PieceStored { piece, block, len });
                self.end_if_complete(now);
            }
            Err(error) => {
                self.closed.clear(piece.as_usize());
                let abandoned = self.strike(piece);
                self.raise(Event::DiskFailed {
                    piece,
                    error,
                    abandoned,
                });
            }
        }
    }

    fn on_command(&mut self, command: Command, now: Time) {
        match command {
            Command::Have(piece) => {
                if piece.as_usize() < self.have.len() {
                    self.window.forget(piece);
                    self.have.set(piece.as_usize());
                    self.closed.set(piece.as_usize());
                    self.end_if_complete(now);
                }
            }
            Command::Key {
                epoch,
                secret,
                reports_to,
            } => {
                self.reports_to = reports_to;
                if epoch != self.epoch {
                    self.change_epoch(epoch, &secret, now);
                }
            }
            Command::Stop => {
                if self.phase == Phase::Running {
                    self.phase = Phase::Ending {
                        left: self.schedule.say_goodbye(now),
                        leaving: true,
                    };
                }
            }
        }
    }

    fn change_epoch(&mut self, epoch: EpochId, secret: &Secret, now: Time) {
        let tsi = self.session.tsi;
        self.epoch = epoch;
        self.data_key = self.cipher.data_key(secret, epoch, tsi);
        self.report_key = self.cipher.report_key(secret, epoch, tsi, self.node);
        self.replay = ReplayWindow::tagged();
        self.seen = Seen::default();
        self.window.note_new_epoch();
        self.is_demoted = false;
        self.schedule.start(now);
    }

    fn end_if_complete(&mut self, now: Time) {
        if self.phase == Phase::Running && self.have.is_full() {
            self.raise(Event::Complete);
            self.phase = Phase::Ending {
                left: self.schedule.say_goodbye(now),
                leaving: false,
            };
        }
    }

    /// What is due whenever something happened.
    fn look_around(&mut self, now: Time) {
        if self.phase != Phase::Running {
            return;
        }
        if self.window.has_news(self.seen.ack, self.seen.quiet) {
            self.schedule.expect_news(now);
        } else {
            self.schedule.cancel_news();
        }
        if !self.is_silent && now >= self.heard_at + SENDER_SILENCE_MAX {
            self.is_silent = true;
            self.raise(Event::Silent {
                since: self.heard_at,
            });
        }
        if now >= self.stats_at {
            self.raise_stats(now);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    fn raise_stats(&mut self, now: Time) {
        self.stats_at = now + STATS_INTERVAL;
        let (received, lost) = (
            self.stats.received - self.stats_told.0,
            self.stats.lost - self.stats_told.1,
        );
        self.stats_told = (self.stats.received, self.stats.lost);
        self.stats.loss = lost as f64 / (received + lost).max(1) as f64;
        self.stats.pieces_done = u32::try_from(self.have.count()).unwrap_or(u32::MAX);
        self.stats.pieces_begun = u32::try_from(self.window.begun_count()).unwrap_or(u32::MAX);
        self.raise(Event::Stats(self.stats));
    }

    fn report_due_at(&self) -> Time {
        match self.phase {
            Phase::Running => self.schedule.due_at(self.seen.received()),
            Phase::Ending { .. } => self.schedule.regular_at(),
            Phase::Stopped => Time::NEVER,
        }
    }

    fn next_report(&mut self) -> Report {
        let (expected, received) = self.seen.end_interval();
        let lost = u64::from(expected - received);
        self.stats.lost += lost;
        self.counters.add(Counter::PacketsLost, lost);
        let mut report = Report {
            done: self.have.is_full(),
            leaving: matches!(self.phase, Phase::Ending { leaving: true, .. }),
            ack: self.seen.ack,
            expected,
            received,
            dropped: self.stats.dropped,
            pieces_done: u32::try_from(self.have.count()).unwrap_or(u32::MAX),
            pieces_skipped: self.window.skipped_count(),
            buffer_kib: self.buffer_kib,
            host: self.host.clone(),
            ..Report::default()
        };
        let position = self.control.position;
        self.lister
            .list(&mut report, &self.closed, &self.window, position);
        report
    }

    /// Seals a report into `buffer`; gives its length, or `None` if the buffer is too small.
    fn seal(&mut self, report: &Report, buffer: &mut [u8]) -> Option<usize> {
        let header = ReportHeader {
            tsi: self.session.tsi,
            epoch: self.epoch,
            node: self.node,
            counter: self.report_counter,
        };
        let (header, mut body) = (header.emit(), report.emit());
        let tag = self
            .report_key
            .seal(self.report_counter, &header, &mut body);
        self.report_counter += 1;
        let len = header.len() + body.len() + tag.len();
        let (clear, sealed) = buffer.get_mut(..len)?.split_at_mut(header.len());
        clear.copy_from_slice(&header);
        let (encrypted, end) = sealed.split_at_mut(body.len());
        encrypted.copy_from_slice(&body);
        end.copy_from_slice(&tag);
        Some(len)
    }

    fn note_report_sent(&mut self, now: Time) {
        self.count(Counter::ReportsOut);
        self.window.note_reported(self.seen.ack, self.seen.quiet);
        self.schedule.note_sent(now, self.was_heard);
        self.was_heard = false;
        if let Phase::Ending { left, leaving } = self.phase {
            if left <= 1 {
                self.phase = Phase::Stopped;
                self.raise(Event::Stopped);
            } else {
                self.phase = Phase::Ending {
                    left: left - 1,
                    leaving,
                };
                self.schedule.repeat_goodbye(now);
            }
        }
    }
}

impl<C: Code, X: Cipher, V: Verify> Machine for Receiver<C, X, V> {
    type Command = Command;
    type Event = Event;

    fn handle(&mut self, input: Input<'_, Command>, now: Time) {
        self.start(now);
        match input {
            Input::Datagrams(mut datagrams) => {
                if datagrams.channel == GROUP {
                    self.stats.dropped = datagrams.dropped_total;
                    for datagram in datagrams.segments() {
                        self.on_datagram(datagram, now);
                    }
                }
            }
            Input::Disk(done) => self.on_disk(done, now),
            Input::Timeout | Input::Stream(_) => {}
            Input::Command(command) => self.on_command(command, now),
        }
        self.look_around(now);
    }

    fn poll_transmit(&mut self, now: Time, buffer: &mut [u8]) -> Option<Transmit> {
        self.start(now);
        let due_at = self.report_due_at();
        if now < due_at {
            return None;
        }
        let report = self.next_report();
        let len = self.seal(&report, buffer)?;
        self.note_report_sent(now);
        Some(Transmit {
            channel: REPORTS,
            to: self.reports_to,
            len,
            segment_size: len,
        })
    }

    fn poll_output(&mut self) -> Option<Output<Event>> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Time> {
        if self.started.is_none() {
            return Some(Time::ZERO);
        }
        let report_at = self.report_due_at();
        match self.phase {
            Phase::Stopped => None,
            Phase::Ending { .. } => Some(report_at),
            Phase::Running => {
                let silent_at = if self.is_silent {
                    Time::NEVER
                } else {
                    self.heard_at + SENDER_SILENCE_MAX
                };
                Some(report_at.min(silent_at).min(self.stats_at))
            }
        }
    }
}
