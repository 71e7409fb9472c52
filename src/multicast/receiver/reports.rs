//! What a receiver has seen of the sender's stream, and when and how it reports.

use std::time::Duration;

use super::window::Window;
use crate::base::random::Random;
use crate::base::{Bitmap, Time};
use crate::fec::Code;
use crate::multicast::keys::TAG_SIZE;
use crate::multicast::limits::{
    DONE_INTERVAL, DONE_REPORTS, DONE_REPORTS_LARGE, REPORT_BYTES_MAX, REPORT_INTERVAL_MIN,
    REPORT_ITEMS_MAX, REPORT_LOOKBACK, RETRY_MAX, RETRY_MIN, SENDER_SILENCE_MAX,
};
use crate::multicast::wire::control::Control;
use crate::multicast::wire::report::{Item, Lack, REPORT_HEADER_SIZE, Report, item_len};

/// What was seen of the sender's stream in this epoch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// The highest counter plus 1; 0 for none.
    pub(super) ack: u64,
    /// The counter of the last control datagram that said that nothing is on its way.
    pub(super) quiet: Option<u64>,
    /// `ack` at the last report, or the first counter heard.
    ack_told: u64,
    /// Datagrams since the last report.
    received: u32,
}

impl Seen {
    /// Notes an authentic datagram.
    pub(super) fn note(&mut self, counter: u64) {
        if self.ack == 0 {
            self.ack_told = counter;
        }
        self.ack = self.ack.max(counter + 1);
        self.received = self.received.saturating_add(1);
    }

    /// How many datagrams came since the last report.
    pub(super) const fn received(&self) -> u32 {
        self.received
    }

    /// Ends the interval: how many datagrams were expected in it, and how many came.
    pub(super) fn end_interval(&mut self) -> (u32, u32) {
        let expected = u32::try_from(self.ack - self.ack_told).unwrap_or(u32::MAX);
        let received = self.received;
        (self.ack_told, self.received) = (self.ack, 0);
        (expected.max(received), received)
    }
}

/// When to report.
#[derive(Debug)]
pub(super) struct Schedule {
    random: Random,
    /// The sender's wishes.
    interval: Duration,
    backoff: Duration,
    ack_packets: u32,
    /// The next report of the regular ones.
    regular_at: Time,
    /// A report of news, if one is waiting for its moment.
    news_at: Option<Time>,
    /// The pause to the next report while the sender is silent.
    retry: Duration,
}

impl Schedule {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            interval: REPORT_INTERVAL_MIN,
            backoff: Duration::ZERO,
            ack_packets: 0,
            regular_at: Time::NEVER,
            news_at: None,
            retry: RETRY_MIN,
        }
    }

    /// Starts: the first report comes within the shortest interval.
    pub(super) fn start(&mut self, now: Time) {
        self.regular_at = now + self.random.up_to(REPORT_INTERVAL_MIN / 4);
    }

    /// Takes the sender's wishes.
    pub(super) fn follow(&mut self, control: &Control) {
        self.interval = Duration::from_millis(u64::from(control.report_interval_ms))
            .clamp(REPORT_INTERVAL_MIN, SENDER_SILENCE_MAX);
        self.backoff = Duration::from_millis(u64::from(control.backoff_ms)).min(SENDER_SILENCE_MAX);
        self.ack_packets = control.ack_packets;
    }

    /// Deficits became final that no report told: one is due after a random wait.
    pub(super) fn expect_news(&mut self, now: Time) {
        if self.news_at.is_none() {
            self.news_at = Some(now + self.random.up_to(self.backoff));
        }
    }

    /// The news are no news any more.
    pub(super) fn cancel_news(&mut self) {
        self.news_at = None;
    }

    /// When the next report is due.
    pub(super) fn due_at(&self, received: u32) -> Time {
        let by_volume = self.ack_packets > 0 && received >= self.ack_packets;
        if by_volume {
            return Time::ZERO;
        }
        self.regular_at.min(self.news_at.unwrap_or(Time::NEVER))
    }

    /// When the next regular report is due.
    pub(super) const fn regular_at(&self) -> Time {
        self.regular_at
    }

    /// Plans the report after the one sent now; pauses grow while the sender is not heard.
    pub(super) fn note_sent(&mut self, now: Time, was_heard: bool) {
        self.retry = if was_heard {
            RETRY_MIN
        } else {
            (self.retry * 2).min(RETRY_MAX)
        };
        let pause = if was_heard {
            self.interval
        } else {
            self.interval.max(self.retry)
        };
        self.regular_at = now + self.random.about(pause);
        self.news_at = None;
    }

    /// Plans the first of the final reports; gives how many there are to be.
    pub(super) fn say_goodbye(&mut self, now: Time) -> u32 {
        self.regular_at = now + self.random.up_to(self.goodbye_spread());
        if self.backoff > DONE_INTERVAL {
            DONE_REPORTS_LARGE
        } else {
            DONE_REPORTS
        }
    }

    /// Plans the next of them.
    pub(super) fn repeat_goodbye(&mut self, now: Time) {
        self.regular_at = now + self.goodbye_spread().max(DONE_INTERVAL);
    }

    /// Over what time a large group spreads its goodbyes: all of it may be complete at once.
    fn goodbye_spread(&self) -> Duration {
        if self.backoff > DONE_INTERVAL {
            self.backoff
        } else {
            Duration::ZERO
        }
    }
}

/// Fills span and items of a report: what is not `closed`, beginning a little before `position` and
/// going round, as far as one datagram carries. A report that was cut is continued by the next one.
#[derive(Debug, Default)]
pub(super) struct Lister {
    /// Where the last report was cut.
    continue_from: Option<u32>,
}

impl Lister {
    pub(super) fn list<C: Code>(
        &mut self,
        report: &mut Report,
        closed: &Bitmap,
        window: &Window<C>,
        position: u32,
    ) {
        let count = u32::try_from(closed.len()).unwrap_or(u32::MAX);
        let usual = (position % count + count - REPORT_LOOKBACK % count) % count;
        report.from = self.continue_from.take().unwrap_or(usual);
        let room = REPORT_BYTES_MAX - REPORT_HEADER_SIZE - TAG_SIZE - report.buffer_len();
        let mut items = Items {
            report,
            room,
            end: 0,
            is_cut: false,
        };
        let from = items.report.from;
        items.walk(closed, window, from..count, 0);
        items.walk(closed, window, 0..from, count - from);
        if items.is_cut {
            let end = items.end;
            self.continue_from = Some((from + end) % count);
            report.span = end;
        } else {
            report.span = count;
        }
    }
}

/// The items being written.
struct Items<'a> {
    report: &'a mut Report,
    /// Bytes left.
    room: usize,
    /// Where the last item ended, in pieces after `from`.
    end: u32,
    is_cut: bool,
}

impl Items<'_> {
    /// Adds what is not closed in `pieces`; `shift` is how far after `from` these begin.
    fn walk<C: Code>(
        &mut self,
        closed: &Bitmap,
        window: &Window<C>,
        pieces: std::ops::Range<u32>,
        shift: u32,
    ) {
        let find = |from: u32, is_closed| {
            let found = closed
                .next(from as usize, is_closed)
                .unwrap_or(closed.len());
            u32::try_from(found).map_or(pieces.end, |found| found.min(pieces.end))
        };
        let mut at = find(pieces.start, false);
        while at < pieces.end && !self.is_cut {
            let lack = if let Some(deficit) = window.deficit(at) {
                Lack::Symbols(deficit)
            } else {
                let end = find(at, true);
                let end = window.next_begun(at..end).unwrap_or(end);
                Lack::Whole(end - at)
            };
            self.push(at - pieces.start + shift, lack);
            at = find(at + lack.piece_count(), false);
        }
    }

    fn push(&mut self, at: u32, lack: Lack) {
        let item = Item {
            gap: at - self.end,
            lack,
        };
        let len = item_len(item);
        if len > self.room || self.report.items.len() == REPORT_ITEMS_MAX {
            self.is_cut = true;
            return;
        }
        self.room -= len;
        self.report.items.push(item);
        self.end = at + lack.piece_count();
    }
}
