//! What is wanted: which pieces anybody lacks, which are to be sent whole, which to be repaired.
//!
//! Invariant: a report changes what is to be sent of a piece only if its receiver had seen the last
//! datagram of that piece (or a later one); older reports are stale for that piece. While a piece
//! is being sent every report is.
//!
//! Order: repairs of what most could lack, then whole pieces for the first time, then the large
//! repairs that a minority needs, then pieces that are sent whole again.

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
    /// How many of `whole` were never sent in this epoch.
    fresh: u32,
    /// Repairs that come first.
    urgent: Repairs,
    /// Large repairs of few, which come when nothing else is to be sent.
    patient: Repairs,
    /// The share of a piece that most receivers lack at most.
    share_usual: f64,
    /// The counter after the last datagram of each piece; 0 if it was never sent.
    sent_until: Vec<u64>,
    /// Where the next piece to be sent whole is looked for.
    cursor: u32,
}

/// Whether a repair comes before whole pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    Urgent,
    Patient,
}

/// Pieces to be repaired.
#[derive(Default)]
struct Repairs {
    /// The largest deficit of each.
    deficits: BTreeMap<u32, u32>,
    /// The pieces of `deficits`, and from when on each may be repaired; oldest first. Pieces that
    /// are no longer in `deficits` are left here until they come to the front.
    queue: VecDeque<(Time, u32)>,
}

/// `sent_until` of a piece that is being sent.
const BEING_SENT: u64 = u64::MAX;

impl Demand {
    pub(super) fn new(session: Session, position: u32) -> Self {
        let count = session.geometry.piece_count() as usize;
        Self {
            session,
            lack_counts: vec![0; count],
            lacking: 0,
            whole: Bitmap::new(count),
            fresh: 0,
            urgent: Repairs::default(),
            patient: Repairs::default(),
            share_usual: SHARE_USUAL_MIN,
            sent_until: vec![0; count],
            cursor: position,
        }
    }

    /// Takes the loss that most receivers do not exceed.
    pub(super) fn set_loss(&mut self, loss: f64) {
        self.share_usual = (2.0 * loss).max(SHARE_USUAL_MIN);
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
            let is_lacked = self.lack_counts[piece] > 0;
            if is_lacked {
                self.note_being_sent(piece);
            }
            self.fresh -= u32::from(self.sent_until[piece] == 0);
            self.whole.clear(piece);
            if is_lacked {
                let piece = narrow(piece as u64);
                self.cursor = piece + 1;
                return Some(piece);
            }
        }
    }

    /// Whether pieces wait to be sent whole.
    pub(super) fn has_whole(&self) -> bool {
        self.whole.next(0, true).is_some()
    }

    /// Whether the next whole piece comes before the next patient repair.
    pub(super) fn is_whole_next(&mut self, now: Time) -> bool {
        self.fresh > 0 || self.next_repair(Urgency::Patient, now).is_none()
    }

    fn note_being_sent(&mut self, piece: usize) {
        let was_fresh = self.sent_until[piece] == 0 && self.whole.get(piece);
        self.fresh -= u32::from(was_fresh);
        self.sent_until[piece] = BEING_SENT;
    }

    /// The next piece that may be repaired.
    pub(super) fn next_repair(&mut self, urgency: Urgency, now: Time) -> Option<u32> {
        let repairs = match urgency {
            Urgency::Urgent => &mut self.urgent,
            Urgency::Patient => &mut self.patient,
        };
        repairs.next(now, &self.lack_counts)
    }

    /// Takes the piece that [`Demand::next_repair`] gave: it counts as being sent from now on.
    /// Gives its largest deficit.
    pub(super) fn take_repair(&mut self, urgency: Urgency, piece: u32) -> u32 {
        self.note_being_sent(piece as usize);
        match urgency {
            Urgency::Urgent => self.urgent.take(piece),
            Urgency::Patient => self.patient.take(piece),
        }
    }

    /// Whether anything is to be sent.
    pub(super) fn wants_any(&self) -> bool {
        self.repair_at().is_some() || self.has_whole()
    }

    /// Wants a few symbols of pieces that a receiver lacks.
    pub(super) fn nudge(&mut self, wants: &Bitmap, now: Time) {
        for piece in wants.iter().take(NUDGED_MAX) {
            self.urgent.add(narrow(piece as u64), 1, now);
        }
    }

    /// When the next repair may be taken.
    pub(super) fn repair_at(&self) -> Option<Time> {
        let both = [self.urgent.next_at(), self.patient.next_at()];
        both.into_iter().flatten().min()
    }

    /// Ends the sending of a piece; `counter` is the next datagram's.
    pub(super) fn note_sent(&mut self, piece: u32, counter: u64) {
        // Nothing is numbered 0 but the first control datagram.
        let counter = counter.max(1);
        self.sent_until[piece as usize] = counter;
    }

    /// The shape of a piece's code.
    pub(super) fn shape(&self, piece: u32) -> Option<Shape> {
        self.session.shape(self.session.geometry.piece(piece)?)
    }

    fn want(&mut self, range: Range<u32>, lack: Lack, ack: u64, ready_at: Time) {
        match lack {
            Lack::Symbols(deficit) => {
                for piece in range {
                    if self.sent_until[piece as usize] <= ack {
                        self.want_repair(piece, deficit, ready_at);
                    }
                }
            }
            Lack::Whole(_) => self.want_whole(range, ack),
        }
    }

    fn want_whole(&mut self, range: Range<u32>, ack: u64) {
        let end = range.end as usize;
        let mut at = range.start as usize;
        while let Some(piece) = self.whole.next(at, false).filter(|&piece| piece < end) {
            at = piece + 1;
            if self.sent_until[piece] <= ack {
                self.whole.set(piece);
                self.fresh += u32::from(self.sent_until[piece] == 0);
                self.patient.take(narrow(piece as u64));
            }
        }
    }

    /// Who lacks little of a piece does not wait for the pass that sends it whole to who lacks all;
    /// and who lacks much does not keep the others waiting.
    fn want_repair(&mut self, piece: u32, deficit: u32, ready_at: Time) {
        let is_sent_whole = self.whole.get(piece as usize);
        let share = if is_sent_whole {
            SHARE_SMALL
        } else {
            self.share_usual
        };
        if self.is_within(piece, deficit, share) {
            self.urgent.add(piece, deficit, ready_at);
        } else if !is_sent_whole {
            self.patient.add(piece, deficit, ready_at);
        }
    }

    /// Whether a deficit is at most this share of a piece.
    fn is_within(&self, piece: u32, deficit: u32, share: f64) -> bool {
        let whole = |shape: Shape| f64::from(shape.source_symbols());
        self.shape(piece)
            .is_some_and(|shape| f64::from(deficit) <= share * whole(shape))
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

impl Repairs {
    fn add(&mut self, piece: u32, deficit: u32, ready_at: Time) {
        let largest = self.deficits.entry(piece).or_insert_with(|| {
            self.queue.push_back((ready_at, piece));
            0
        });
        *largest = deficit.max(*largest);
    }

    /// The next piece that is ready and still lacked.
    fn next(&mut self, now: Time, lack_counts: &[u32]) -> Option<u32> {
        while let Some(&(ready_at, piece)) = self.queue.front()
            && ready_at <= now
        {
            if self.deficits.contains_key(&piece) && lack_counts[piece as usize] > 0 {
                return Some(piece);
            }
            self.queue.pop_front();
            self.deficits.remove(&piece);
        }
        None
    }

    fn next_at(&self) -> Option<Time> {
        self.queue.front().map(|&(ready_at, _)| ready_at)
    }

    fn take(&mut self, piece: u32) -> u32 {
        self.deficits.remove(&piece).unwrap_or(0)
    }
}

/// A piece index that was widened for arithmetic.
fn narrow(piece: u64) -> u32 {
    u32::try_from(piece).expect("piece indices are below 2^32")
}

/// For how many pieces a receiver is nudged.
const NUDGED_MAX: usize = 64;
/// A deficit of at most this share of a piece is repaired even if the piece is sent whole anyway.
const SHARE_SMALL: f64 = 1.0 / 16.0;
/// A deficit of at most this share is repaired at once, however little others lack.
const SHARE_USUAL_MIN: f64 = 0.25;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::EpochId;
    use crate::image::Geometry;
    use crate::multicast::wire::report::Item;

    /// What was told while the piece was being sent counts for nothing, and is then lost: nothing
    /// is wanted until the receiver is nudged.
    #[test]
    fn what_is_lacked_without_a_wish_is_nudged() {
        let session = Session {
            tsi: 1,
            epoch: EpochId(1),
            group: ([239, 1, 2, 3], 9000).into(),
            report_port: 9001,
            geometry: Geometry::new(4 << 16, 16).unwrap(),
            symbol_size: 88,
        };
        let (mut demand, mut wants) = (Demand::new(session, 0), Bitmap::new(4));
        let lacks_piece_2 = |lack, ack| Report {
            ack,
            span: 4,
            items: vec![Item { gap: 2, lack }],
            ..Report::default()
        };
        let report = lacks_piece_2(Lack::Whole(1), 0);
        assert!(demand.apply(&mut wants, &report, true, Time::ZERO, Duration::ZERO));
        assert_eq!(demand.take_whole(), Some(2));
        let report = lacks_piece_2(Lack::Symbols(3), 700);
        assert!(demand.apply(&mut wants, &report, true, Time::ZERO, Duration::ZERO));
        demand.note_sent(2, 745);
        assert!(!demand.wants_any());
        demand.nudge(&wants, Time::ZERO);
        assert_eq!(demand.next_repair(Urgency::Urgent, Time::ZERO), Some(2));
        assert_eq!(demand.take_repair(Urgency::Urgent, 2), 1);
        assert_eq!(demand.next_repair(Urgency::Urgent, Time::ZERO), None);
        assert!(!demand.wants_any());
    }
}
