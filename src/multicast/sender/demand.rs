//! What is wanted: which pieces anybody lacks, which are to be sent whole, which to be repaired.
//!
//! Invariant: a report changes what is to be sent of a piece only if its receiver had seen the last
//! datagram of that piece (or a later one); older reports are stale for that piece. While a piece
//! is being sent every report is.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use crate::base::{Bitmap, Time};
use crate::fec::Shape;
use crate::multicast::session::Session;
use crate::multicast::wire::report::{Lack, Report};

/// What is wanted.
pub(super) struct Demand {
    session: Session,
    /// How many active receivers lack each piece.
    lack_counts: Vec<u32>,
    /// How many pieces anybody lacks.
    lacking: u32,
    /// Pieces to be sent whole.
    whole: Bitmap,
    /// The largest deficit of each piece to be repaired.
    deficits: BTreeMap<u32, u32>,
    /// The pieces of `deficits`, and from when on each may be repaired; oldest first.
    queue: VecDeque<(Time, u32)>,
    /// The counter after the last datagram of each piece; 0 if it was never sent.
    sent_until: Vec<u64>,
    /// Where the next piece to be sent whole is looked for.
    cursor: u32,
}

/// `sent_until` of a piece that is being sent.
const BEING_SENT: u64 = u64::MAX;

impl Demand {
    pub(super) fn new(session: Session) -> Self {
        let count = session.geometry.piece_count() as usize;
        Self {
            session,
            lack_counts: vec![0; count],
            lacking: 0,
            whole: Bitmap::new(count),
            deficits: BTreeMap::new(),
            queue: VecDeque::new(),
            sent_until: vec![0; count],
            cursor: 0,
        }
    }

    /// How many pieces active receivers lack.
    pub(super) const fn lacking(&self) -> u32 {
        self.lacking
    }

    /// The piece after the last one that was taken to be sent whole.
    pub(super) const fn position(&self) -> u32 {
        self.cursor
    }

    /// Takes what a report says about pieces into `wants`, its receiver's; `is_active` says whether
    /// that receiver is served. Deficits are gathered for `gather` before they are acted on.
    ///
    /// Gives false if the report speaks of pieces that do not exist.
    pub(super) fn apply(
        &mut self,
        wants: &mut Bitmap,
        report: &Report,
        is_active: bool,
        now: Time,
        gather: Duration,
    ) -> bool {
        let count = self.session.geometry.piece_count();
        if report.from >= count || report.span > count {
            return false;
        }
        let circle = |start: u32, len: u32| {
            let (start, len) = (u64::from(report.from) + u64::from(start), u64::from(len));
            let (end, count) = (start + len, u64::from(count));
            let low = start.min(count)..end.min(count);
            let high = start.max(count) - count..end.max(count) - count;
            [low, high].map(|range| narrow(range.start)..narrow(range.end))
        };
        let mut at = 0;
        for item in &report.items {
            for range in circle(at, item.gap) {
                self.note_complete(wants, range, is_active);
            }
            at += item.gap;
            for range in circle(at, item.lack.piece_count()) {
                self.note_lack(wants, range.clone(), is_active);
                if is_active {
                    self.want(range, item.lack, report.ack, now + gather);
                }
            }
            at += item.lack.piece_count();
        }
        for range in circle(at, report.span.saturating_sub(at)) {
            self.note_complete(wants, range, is_active);
        }
        true
    }

    /// Counts everything in `wants` for a receiver that is served from now on.
    pub(super) fn include(&mut self, wants: &Bitmap) {
        wants.iter().for_each(|piece| self.add_lack(piece));
    }

    /// No longer counts what is in `wants`, of a receiver that is not served any more.
    pub(super) fn exclude(&mut self, wants: &Bitmap) {
        wants.iter().for_each(|piece| self.remove_lack(piece));
    }

    /// Whether any active receiver lacks the piece.
    pub(super) fn is_lacked(&self, piece: u32) -> bool {
        self.lack_counts[piece as usize] > 0
    }

    /// Takes the next piece to be sent whole: it counts as being sent from now on.
    pub(super) fn take_whole(&mut self) -> Option<u32> {
        loop {
            let next = self.whole.next(self.cursor as usize, true);
            let piece = next.or_else(|| self.whole.next(0, true))?;
            self.whole.clear(piece);
            if self.lack_counts[piece] > 0 {
                self.sent_until[piece] = BEING_SENT;
                let piece = narrow(piece as u64);
                self.cursor = piece + 1;
                return Some(piece);
            }
        }
    }

    /// The next piece that may be repaired.
    pub(super) fn next_repair(&mut self, now: Time) -> Option<u32> {
        while let Some(&(ready_at, piece)) = self.queue.front()
            && ready_at <= now
        {
            if self.deficits.contains_key(&piece) && self.lack_counts[piece as usize] > 0 {
                return Some(piece);
            }
            self.queue.pop_front();
            self.deficits.remove(&piece);
        }
        None
    }

    /// Takes the piece that [`Demand::next_repair`] gave: it counts as being sent from now on.
    /// Gives its largest deficit.
    pub(super) fn take_repair(&mut self, piece: u32) -> u32 {
        self.queue.pop_front();
        self.sent_until[piece as usize] = BEING_SENT;
        self.deficits.remove(&piece).unwrap_or(0)
    }

    /// When the next repair may be taken.
    pub(super) fn repair_at(&self) -> Option<Time> {
        self.queue.front().map(|&(ready_at, _)| ready_at)
    }

    /// Ends the sending of a piece; `counter` is the next datagram's.
    pub(super) fn note_sent(&mut self, piece: u32, counter: u64) {
        self.sent_until[piece as usize] = counter;
    }

    /// The shape of a piece's code.
    pub(super) fn shape(&self, piece: u32) -> Option<Shape> {
        self.session.shape(self.session.geometry.piece(piece)?)
    }

    fn want(&mut self, range: Range<u32>, lack: Lack, ack: u64, ready_at: Time) {
        if range.is_empty() {
            return;
        }
        if let Lack::Symbols(deficit) = lack
            && self.is_repaired(range.start, deficit)
        {
            return self.want_repair(range, deficit, ack, ready_at);
        }
        let end = range.end as usize;
        let mut at = range.start as usize;
        while let Some(piece) = self.whole.next(at, false).filter(|&piece| piece < end) {
            at = piece + 1;
            if self.sent_until[piece] <= ack {
                self.whole.set(piece);
                let piece = narrow(piece as u64);
                let queued = self.deficits.get(&piece);
                if queued.is_some_and(|&deficit| !self.is_repaired(piece, deficit)) {
                    self.deficits.remove(&piece);
                }
            }
        }
    }

    fn want_repair(&mut self, pieces: Range<u32>, deficit: u32, ack: u64, ready_at: Time) {
        for piece in pieces {
            if self.sent_until[piece as usize] <= ack {
                let largest = self.deficits.entry(piece).or_insert_with(|| {
                    self.queue.push_back((ready_at, piece));
                    0
                });
                *largest = deficit.max(*largest);
            }
        }
    }

    /// Whether a deficit is repaired: not if it is so large that the piece is sent whole again, and
    /// if the piece is sent whole for others anyway, only if it is small. Who lacks little does not
    /// wait for the pass that sends the piece to who lacks all.
    fn is_repaired(&self, piece: u32, deficit: u32) -> bool {
        let share = if self.whole.get(piece as usize) {
            16
        } else {
            2
        };
        let shape = self.shape(piece);
        shape.is_some_and(|shape| deficit <= shape.source_symbols() / share)
    }

    fn note_lack(&mut self, wants: &mut Bitmap, range: Range<u32>, is_active: bool) {
        let end = range.end as usize;
        let mut at = range.start as usize;
        while let Some(piece) = wants.next(at, false).filter(|&piece| piece < end) {
            wants.set(piece);
            if is_active {
                self.add_lack(piece);
            }
            at = piece + 1;
        }
    }

    fn note_complete(&mut self, wants: &mut Bitmap, range: Range<u32>, is_active: bool) {
        let end = range.end as usize;
        let mut at = range.start as usize;
        while let Some(piece) = wants.next(at, true).filter(|&piece| piece < end) {
            wants.clear(piece);
            if is_active {
                self.remove_lack(piece);
            }
            at = piece + 1;
        }
    }

    fn add_lack(&mut self, piece: usize) {
        self.lack_counts[piece] += 1;
        self.lacking += u32::from(self.lack_counts[piece] == 1);
    }

    fn remove_lack(&mut self, piece: usize) {
        self.lack_counts[piece] -= 1;
        self.lacking -= u32::from(self.lack_counts[piece] == 0);
    }
}

/// A piece index that was widened for arithmetic.
fn narrow(piece: u64) -> u32 {
    u32::try_from(piece).expect("piece indices are below 2^32")
}
