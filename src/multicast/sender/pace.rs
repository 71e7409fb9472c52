//! How fast: the administrator's cap, and what the sender sets itself when loss stays high.
//!
//! The rate is lowered at most once per round of reports while nine receivers in ten (or all but
//! the worst) see loss above [`LOSS_HIGH`], or drop datagrams or pieces themselves. Behind a
//! bottleneck as much arrives at the lower rate as before: the rate goes down to that. Where less
//! arrives in proportion, the loss is the network's own: it becomes the *baseline*, and the rate
//! goes back to what it was. No network loses more than [`LOSS_OWN_MAX`] by itself: that is always
//! a bottleneck, as a switch that lets little pass as multicast (storm control).
//!
//! ```text
//!   lowered --settles--> mark --counted: bytes sent, and lost of them--> lowered again, or raised
//! ```
//!
//! What is judged is counted from a *mark* on, when what was sent before a lowering has come or is
//! lost: moving averages still know the rate before, and both kinds of loss look alike in them.

use std::time::Duration;

use super::event::Beside;
use crate::base::Time;
use crate::multicast::limits::{PACE_SLACK, RATE_BYTES_PER_S_MIN, TICK};

/// The pace of a sender; bytes are those of datagrams.
#[derive(Debug)]
pub(super) struct Pace {
    rate_max: Option<u64>,
    /// The rate that the sender has set itself.
    adapted: Option<u64>,
    beside: Beside,
    /// It counts until then, unless it is said again.
    beside_until: Time,
    /// When the next burst may go.
    next_at: Time,
    bytes_sent: u64,
    /// `bytes_sent` at the last tick, and what it gave as a moving average.
    bytes_told: u64,
    told_at: Time,
    measured: f64,
    /// Not lowered again before this.
    patience_until: Time,
    /// When counting began, and `bytes_sent` then.
    mark: (Time, u64),
    /// When it begins anew.
    mark_at: Time,
    /// Bytes per second that arrived, as counted last.
    arrives: f64,
    /// How it was before the rate was lowered.
    before: Option<Before>,
    baseline: f64,
    /// The last time the rate was lowered, until it is as high again without loss.
    lowered: Option<Lowered>,
    /// What arrived then, where lowering helped or twice about the same arrived: that is a
    /// bottleneck, no burst. Just below, the rate is raised slowly: it is seldom overrun, and what
    /// goes beside finds room.
    ceiling: f64,
}

/// What receivers tell, as quantiles over them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// The share of datagrams lost, as a moving average.
    pub(super) loss: f64,
    /// The same, counted since the mark.
    pub(super) loss_since_mark: f64,
    /// What they drop themselves.
    pub(super) drop_share: f64,
    /// Some hear nothing: what they get instead comes through the same cables.
    pub(super) is_partial: bool,
}

/// How the lowering began, and how often the rate was lowered since.
#[derive(Clone, Copy, Debug)]
struct Before {
    first: Lowered,
    times: u32,
    /// Hardly anything arrived at the last time.
    is_drowned: bool,
}

/// What was sent when the rate was lowered, and what of it arrived, in bytes a second.
#[derive(Clone, Copy, Debug)]
struct Lowered {
    rate: f64,
    arrives: f64,
}

impl Lowered {
    /// Whether more arrives than if the share that is lost were the same: lowering helped.
    fn is_as_much_as(self, earlier: Self) -> bool {
        self.arrives > 0.5 * earlier.arrives * (1.0 + self.rate / earlier.rate)
    }
}

impl Pace {
    pub(super) const fn new(rate_max: Option<u64>) -> Self {
        Self {
            rate_max,
            adapted: None,
            beside: Beside::Nothing,
            beside_until: Time::ZERO,
            next_at: Time::ZERO,
            bytes_sent: 0,
            bytes_told: 0,
            told_at: Time::ZERO,
            measured: 0.0,
            patience_until: Time::ZERO,
            mark: (Time::ZERO, 0),
            mark_at: Time::NEVER,
            arrives: 0.0,
            before: None,
            baseline: 0.0,
            lowered: None,
            ceiling: 0.0,
        }
    }

    pub(super) const fn set_rate_max(&mut self, rate_max: Option<u64>) {
        self.rate_max = rate_max;
    }

    /// Sets what goes beside for [`BESIDE_TIME`]. After a trial the rate is what it was before, and
    /// what was lost in it does not lower it. Nor does what was lost until then count as the
    /// network's own: the seed had gone beside.
    pub(super) fn set_beside(&mut self, beside: Beside, now: Time) {
        self.beside_until = now + BESIDE_TIME;
        let before = std::mem::replace(&mut self.beside, beside);
        if let (Beside::Trial(rate), Beside::Nothing) = (before, beside) {
            self.adapted = Some(rate.max(RATE_BYTES_PER_S_MIN));
            (self.before, self.baseline) = (None, 0.0);
            self.patience_until = now + TRIAL_FORGOTTEN;
            self.mark_at = now + TRIAL_FORGOTTEN / 2;
        }
    }

    /// Whether receivers' losses are to be counted anew from now on.
    pub(super) const fn marks(&mut self, now: Time) -> bool {
        let is_due = now.as_nanos() >= self.mark_at.as_nanos();
        if is_due {
            self.mark = (now, self.bytes_sent);
            self.mark_at = Time::NEVER;
        }
        is_due
    }

    /// Bytes per second since the mark.
    fn rate_since_mark(&self, now: Time) -> f64 {
        let (at, bytes) = self.mark;
        let elapsed = now.since(at);
        if elapsed < TICK {
            return self.measured;
        }
        as_f64(self.bytes_sent - bytes) / elapsed.as_secs_f64()
    }

    pub(super) const fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    /// Bytes per second, lately.
    pub(super) const fn measured(&self) -> f64 {
        self.measured
    }

    /// The rate that the sender has set itself.
    pub(super) const fn adapted(&self) -> Option<u64> {
        self.adapted
    }

    /// Bytes per second that have arrived of late.
    pub(super) const fn arrives(&self) -> f64 {
        self.arrives
    }

    /// Whether loss keeps the sender slow, as far as that is known: not while it still looks for
    /// its rate, unless next to nothing arrives.
    pub(super) fn is_held_back(&self) -> bool {
        let is_known = |before: Before| before.is_drowned && before.times > 1;
        self.adapted.is_some() && self.before.is_none_or(is_known)
    }

    /// When the next burst may go.
    pub(super) const fn next_at(&self) -> Time {
        self.next_at
    }

    /// How many datagrams of `size` bytes a burst may have, at most `max`.
    pub(super) fn burst_max(&self, size: usize, max: usize) -> usize {
        self.rate().map_or(max, |rate| {
            let bytes = rate / (1000 / BURST_MS_MAX);
            let count = usize::try_from(bytes).unwrap_or(usize::MAX) / size;
            count.clamp(1, max)
        })
    }

    /// Notes a burst.
    pub(super) fn note_sent(&mut self, bytes: usize, now: Time) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes_sent += bytes;
        if let Some(rate) = self.rate() {
            let earliest = now.as_nanos().saturating_sub(nanos(PACE_SLACK));
            let from = self.next_at.max(Time::from_nanos(earliest));
            let took = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
            self.next_at = from + Duration::from_nanos(u64::try_from(took).unwrap_or(u64::MAX));
        } else {
            self.next_at = now;
        }
    }

    /// Measures, and adapts the rate; called every [`TICK`]. `round` is the time that reports of
    /// all receivers need. Gives whether the rate was lowered.
    pub(super) fn tick(&mut self, seen: Seen, round: Duration, now: Time) -> bool {
        let bytes = as_f64(self.bytes_sent - self.bytes_told);
        self.bytes_told = self.bytes_sent;
        let elapsed = now.since(self.told_at).clamp(TICK, TICK * 10);
        self.told_at = now;
        let measured = bytes / elapsed.as_secs_f64();
        // The first is taken as it is: an average that begins at 0 would make an early loss cost
        // far more than a later one.
        let weight = if self.measured > 0.0 { 0.3 } else { 1.0 };
        self.measured += weight * (measured - self.measured);
        let is_counted = now >= self.mark.0 + COUNTED_MIN;
        if is_counted {
            self.arrives = self.rate_since_mark(now) * (1.0 - seen.loss_since_mark);
        }
        // One burst stands out in the average for a moment, or in a count that has just begun.
        let loss = if self.before.is_some() {
            seen.loss_since_mark
        } else {
            seen.loss.min(seen.loss_since_mark)
        };
        let is_lossy = is_counted && loss > self.baseline + LOSS_HIGH;
        let is_high = is_lossy || seen.drop_share > DROP_SHARE_HIGH;
        if now >= self.beside_until {
            self.set_beside(Beside::Nothing, now);
        }
        let patience = (round * 4).max(PATIENCE_MIN);
        let is_beside = self.beside != Beside::Nothing;
        if now >= self.mark.0 + patience && (is_beside || !is_high) {
            self.mark_at = self.mark_at.min(now);
        }
        if is_beside || now < self.patience_until {
            return false;
        }
        if is_high {
            self.patience_until = now + patience;
            self.mark_at = now + round.max(TICK);
            return self.lower(seen, self.rate_since_mark(now));
        }
        self.before = None;
        self.baseline *= 0.999;
        self.raise();
        false
    }

    /// Lowers the rate, or finds that this did not help and gives it back: then `false`.
    fn lower(&mut self, seen: Seen, rate: f64) -> bool {
        let loss = seen.loss_since_mark;
        let rate = rate.max(as_f64(RATE_BYTES_PER_S_MIN));
        let arrives = rate * (1.0 - loss);
        let this = Lowered { rate, arrives };
        let first = Before {
            first: this,
            times: 0,
            is_drowned: false,
        };
        let Before { first, times, .. } = self.before.unwrap_or(first);
        let last = self.lowered.replace(this);
        let is_drowned = loss > LOSS_OWN_MAX;
        // The first may tell too little loss: queues took what came before they were full.
        let is_bottleneck = is_drowned
            || this.is_as_much_as(first)
            || last.is_some_and(|last| times > 0 && this.is_as_much_as(last));
        let is_own = seen.drop_share >= DROP_SHARE_HIGH;
        if times >= 2 && !is_bottleneck && !is_own {
            (self.baseline, self.ceiling) = (loss, 0.0);
            (self.before, self.lowered) = (None, None);
            self.adapted = Some(as_rate(first.rate * 1.5));
            return false;
        }
        let is_found = is_drowned || times > 0 && is_bottleneck && !is_own;
        let is_again = last.is_some_and(|it| (0.9..1.11).contains(&(arrives / it.arrives)));
        let is_known = is_found || is_again;
        self.ceiling = if is_known { arrives } else { 0.0 };
        self.before = Some(Before {
            first,
            times: times + 1,
            is_drowned,
        });
        let lowered = if is_known {
            let share = if seen.is_partial {
                HEADROOM_PARTIAL
            } else {
                HEADROOM
            };
            (arrives * share).max(rate / STEP_MAX)
        } else {
            rate * (1.0 - loss).clamp(0.5, 0.75)
        };
        self.adapted = Some(as_rate(lowered));
        true
    }

    fn raise(&mut self) {
        let rate = self.adapted.map_or(f64::INFINITY, as_f64);
        if self.lowered.is_some_and(|it| rate > it.rate * FORGIVEN) {
            (self.lowered, self.ceiling) = (None, 0.0);
        }
        let Some(adapted) = self.adapted else {
            return;
        };
        let adapted = as_f64(adapted);
        let is_near = adapted > self.ceiling * NEAR && adapted < self.ceiling;
        let step = if is_near { RAISE_NEAR } else { RAISE };
        let raised = as_rate(adapted * step);
        let is_limiting = as_f64(raised) < 4.0 * self.measured.max(as_f64(RATE_BYTES_PER_S_MIN));
        let is_below_cap = self.rate_max.is_none_or(|cap| raised < cap);
        self.adapted = (is_limiting && is_below_cap).then_some(raised);
    }

    fn rate(&self) -> Option<u64> {
        let adapted = match self.beside {
            Beside::Better => Some(RATE_BESIDE_BETTER),
            Beside::Trial(rate) => Some(rate.max(RATE_BESIDE_BETTER)),
            Beside::Nothing => self.adapted,
        };
        match (self.rate_max, adapted) {
            (Some(cap), Some(adapted)) => Some(cap.min(adapted)),
            (cap, adapted) => cap.or(adapted),
        }
    }
}

/// Repair symbols that follow K source symbols at a loss of `loss`: enough for most receivers, and
/// none where nothing is lost.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is at most K"
)]
pub(super) fn proactive(loss: f64, source_symbols: u32) -> u32 {
    if loss < LOSS_NONE {
        return 0;
    }
    let lost = loss.min(0.5) * f64::from(source_symbols);
    (lost + 2.0 * lost.sqrt()).ceil() as u32
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "rates need no 53 bits")]
const fn as_f64(rate: u64) -> f64 {
    rate as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are positive and far below 2^63"
)]
fn as_rate(rate: f64) -> u64 {
    (rate as u64).max(RATE_BYTES_PER_S_MIN)
}

/// The rate in bytes per second beside what brings much more: so much that nobody takes the group
/// for silent.
const RATE_BESIDE_BETTER: u64 = 256 << 10;
/// How long what was said to go beside counts: whoever says it may have ended.
const BESIDE_TIME: Duration = Duration::from_secs(2);
/// Receivers tell of what was lost in a trial for so long after it.
const TRIAL_FORGOTTEN: Duration = Duration::from_secs(1);
/// A paced burst lasts at most so many milliseconds.
const BURST_MS_MAX: u64 = 2;
/// Loss above the baseline at which the rate is lowered.
const LOSS_HIGH: f64 = 0.1;
/// See the module.
const LOSS_OWN_MAX: f64 = 0.75;
/// The rate is divided by this at most in one step: few datagrams of many tell little.
const STEP_MAX: f64 = 4.0;
/// Of what arrives behind a bottleneck so much is sent: a queue that stays full delays what nodes
/// say to each other and to the head.
const HEADROOM: f64 = 0.95;
/// The same while some hear nothing: nodes give them pieces, and take some, through these cables.
const HEADROOM_PARTIAL: f64 = 0.9;
/// A rate so much above the one that was lowered shows that it was no bottleneck.
const FORGIVEN: f64 = 1.1;
/// The rate is multiplied by this in every tick without loss,
const RAISE: f64 = 1.02;
/// and by this just below the ceiling.
const RAISE_NEAR: f64 = 1.0005;
/// What is just below the ceiling.
const NEAR: f64 = 0.85;
/// Loss below which nothing is sent proactively.
const LOSS_NONE: f64 = 0.0005;
/// The share of datagrams or pieces dropped by receivers themselves at which the rate is lowered.
const DROP_SHARE_HIGH: f64 = 0.02;
/// What is counted over less time tells little.
const COUNTED_MIN: Duration = Duration::from_millis(200);
/// The shortest time between two lowerings.
const PATIENCE_MIN: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    fn tick_for(pace: &mut Pace, from: &mut Time, ticks: u32, loss: impl Fn(f64) -> f64) {
        for _ in 0..ticks {
            let rate = pace.rate().map_or(100e6, as_f64).min(100e6);
            pace.note_sent(usize::try_from(as_rate(rate / 10.0)).unwrap(), *from);
            *from += TICK;
            let loss = loss(rate);
            let seen = Seen {
                loss,
                loss_since_mark: loss,
                drop_share: 0.0,
                is_partial: false,
            };
            pace.tick(seen, Duration::from_millis(20), *from);
            pace.marks(*from);
        }
    }

    #[test]
    fn a_bottleneck_is_found_and_loss_that_stays_is_not_one() {
        for bottleneck in [40e6, 10e6] {
            let (mut pace, mut now) = (Pace::new(None), Time::ZERO);
            tick_for(&mut pace, &mut now, 300, |rate| {
                (1.0 - bottleneck / rate).max(0.0)
            });
            let rate = pace.rate().map_or(0.0, as_f64) / bottleneck;
            assert!((0.7..1.3).contains(&rate), "{rate} of {bottleneck}");
        }
        let (mut pace, mut now) = (Pace::new(None), Time::ZERO);
        for loss in [0.2, 0.6] {
            tick_for(&mut pace, &mut now, 60, |_| loss);
            let rate = pace.rate().map_or(100e6, as_f64);
            assert!(
                rate > 90e6,
                "{rate}: a loss of {loss} does not slow for long"
            );
        }
    }

    /// Averages still know the rate before, and are not what is judged.
    #[test]
    fn a_bottleneck_is_found_within_a_second_and_its_queue_gets_room() {
        let cases = [(25e6, false), (10e6, false), (25e6, true), (10e6, true)];
        for (bottleneck, is_partial) in cases {
            let (mut pace, mut now, mut average) = (Pace::new(None), Time::ZERO, 0.0);
            for _ in 0..10 {
                let rate = pace.rate().map_or(100e6, as_f64).min(100e6);
                pace.note_sent(usize::try_from(as_rate(rate / 10.0)).unwrap(), now);
                now += TICK;
                let loss_since_mark = (1.0 - bottleneck / rate).max(0.0);
                average += 0.5 * (loss_since_mark - average);
                let seen = Seen {
                    loss: average,
                    loss_since_mark,
                    drop_share: 0.0,
                    is_partial,
                };
                pace.tick(seen, Duration::from_millis(20), now);
                pace.marks(now);
            }
            let rate = pace.rate().map_or(0.0, as_f64) / bottleneck;
            let fits = if is_partial { 0.85..0.94 } else { 0.94..1.0 };
            assert!(fits.contains(&rate), "{rate} of {bottleneck}");
        }
    }

    /// The first loss that is told is far too low: queues took what was sent before they were full.
    #[test]
    fn a_bottleneck_behind_queues_that_fill_is_no_loss_of_the_network() {
        let (mut pace, mut now) = (Pace::new(None), Time::ZERO);
        let ticks = std::cell::Cell::new(0);
        tick_for(&mut pace, &mut now, 60, |rate| {
            ticks.set(ticks.get() + 1);
            let bottleneck = if ticks.get() < 3 { 45e6 } else { 20e6 };
            (1.0 - bottleneck / rate).max(0.0)
        });
        assert!(pace.baseline < 0.01, "{}", pace.baseline);
        let rate = pace.rate().map_or(100e6, as_f64);
        assert!(rate < 25e6, "{rate}");
    }

    #[test]
    fn a_bottleneck_is_seldom_overrun_and_forgotten_when_it_is_gone() {
        let (mut pace, mut now) = (Pace::new(None), Time::ZERO);
        let overrun = std::cell::Cell::new(0);
        let loss = |rate: f64| {
            let loss = (1.0 - 40e6 / rate).max(0.0);
            overrun.set(overrun.get() + u32::from(loss > 0.05));
            loss
        };
        tick_for(&mut pace, &mut now, 100, loss);
        overrun.set(0);
        tick_for(&mut pace, &mut now, 300, loss);
        assert!(overrun.get() < 30, "{overrun:?} of 300");
        tick_for(&mut pace, &mut now, 120, |_| 0.0);
        let rate = pace.rate().map_or(100e6, as_f64);
        assert!(rate > 80e6, "{rate}");
    }

    #[test]
    fn a_trial_beside_costs_no_rate_and_what_is_better_goes_first() {
        let (mut pace, mut now) = (Pace::new(None), Time::ZERO);
        tick_for(&mut pace, &mut now, 60, |_| 0.4);
        assert!(pace.baseline > 0.3, "{}", pace.baseline);
        pace.set_beside(Beside::Trial(20_000_000), now);
        tick_for(&mut pace, &mut now, 10, |_| 0.5);
        assert_eq!(pace.rate(), Some(20_000_000));
        pace.set_beside(Beside::Nothing, now);
        assert!(pace.baseline < 0.01, "it was the seed's");
        let ends = now + TRIAL_FORGOTTEN;
        while now + TICK < ends {
            tick_for(&mut pace, &mut now, 1, |_| 0.5);
        }
        assert_eq!(pace.rate(), Some(20_000_000), "what was lost in the trial");
        tick_for(&mut pace, &mut now, 2, |_| 0.5);
        assert!(pace.rate() < Some(20_000_000), "what is lost after it");
        pace.set_beside(Beside::Better, now);
        assert_eq!(pace.rate(), Some(RATE_BESIDE_BETTER));
        tick_for(&mut pace, &mut now, 25, |_| 0.0);
        assert!(pace.rate() > Some(10_000_000), "it was not said again");
    }

    #[test]
    fn bursts_keep_the_cap_and_catch_up_a_little() {
        let mut pace = Pace::new(Some(10_000_000));
        assert_eq!(pace.burst_max(1456, 44), 13);
        let start = Time::from_nanos(1_000_000_000);
        pace.note_sent(100_000, start);
        let late = start + Duration::from_millis(6);
        assert_eq!(pace.next_at(), late);
        pace.note_sent(10_000, late + Duration::from_millis(50));
        assert_eq!(pace.next_at(), late + Duration::from_millis(47));
        assert_eq!(Pace::new(None).burst_max(1456, 44), 44);
        assert_eq!(Pace::new(Some(1)).burst_max(1456, 44), 1);
    }

    #[test]
    fn nothing_is_sent_proactively_without_loss() {
        assert_eq!(proactive(0.0, 745), 0);
        assert_eq!(proactive(0.01, 745), 13);
        assert!(proactive(1.0, 745) < 745);
    }
}
