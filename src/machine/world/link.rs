//! The link between a host and the switch: rate, queue, delay, and what happens to datagrams on it.

use std::time::Duration;

use super::random::Random;
use crate::base::Time;

/// How one direction of a link behaves. The default is a perfect wire.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions {
    /// How long every datagram is under way.
    pub latency: Duration,
    /// How much longer at most; order is kept.
    pub jitter: Duration,
    /// Bytes per second; 0 for a wire without limit.
    pub rate: u64,
    /// Bytes that wait at most where there is a rate; what does not fit is dropped.
    pub queue_bytes_max: usize,
    /// The chance of a datagram to be lost, 0 to 1.
    pub loss: f64,
    /// Loss that comes in bursts, besides `loss`.
    pub bursts: Option<Bursts>,
    /// The chance of a datagram to come up to 4 ms late, behind others.
    pub reorder: f64,
    /// The chance of a datagram to come twice.
    pub duplicate: f64,
    /// The chance of a datagram to have a bit flipped.
    pub corrupt: f64,
}

/// Burst loss after Gilbert and Elliott: a link is good, or bad for a while.
#[derive(Clone, Copy, Debug)]
pub struct Bursts {
    /// The chance of a good link to turn bad, per datagram.
    pub start: f64,
    /// How many datagrams a bad time lasts in the mean, at least 1; where few are sent it ends
    /// after [`BAD_TIME_MAX`], as a full queue drains whether or not somebody sends.
    pub length_mean: f64,
    /// The chance of a datagram to be lost in a bad time.
    pub loss: f64,
}

/// The longest bad time of a link.
pub const BAD_TIME_MAX: Duration = Duration::from_millis(20);
/// How late a reordered or doubled datagram comes at most.
const LATE_NANOS_MAX: u64 = 4_000_000;

/// One direction of a link.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) conditions: Conditions,
    /// When all that waits will have gone out.
    free_at: Time,
    /// When the last datagrams come out; later ones do not overtake them.
    last_out: Time,
    /// Since when it is in a bad time.
    bad_since: Option<Time>,
}

/// What the link does to a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Arrives,
    Lost,
    /// It comes this much later instead.
    Late(Duration),
    /// It arrives, and comes this much later again.
    Twice(Duration),
    Corrupt,
}

impl Link {
    /// Puts a burst of `len` bytes into the queue; gives when it comes out at the far end, and how
    /// many of its bytes, in whole segments, had room.
    pub(super) fn pass(
        &mut self,
        now: Time,
        len: usize,
        segment_size: usize,
        random: &mut Random,
    ) -> (Time, usize) {
        let conditions = &self.conditions;
        let mut kept = len;
        let mut out = now;
        if conditions.rate > 0 {
            let backlog = self.free_at.since(now).as_nanos() * u128::from(conditions.rate);
            let backlog = usize::try_from(backlog / NANOS).unwrap_or(usize::MAX);
            let room = conditions.queue_bytes_max.saturating_sub(backlog);
            if room < len {
                kept = room / segment_size * segment_size;
            }
            let nanos = kept as u128 * NANOS / u128::from(conditions.rate);
            let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
            self.free_at = self.free_at.max(now) + Duration::from_nanos(nanos);
            out = self.free_at;
        }
        let jitter = u64::try_from(conditions.jitter.as_nanos()).unwrap_or(u64::MAX);
        if jitter > 0 {
            out += Duration::from_nanos(random.below(jitter));
        }
        self.last_out = (out + conditions.latency).max(self.last_out);
        (self.last_out, kept)
    }

    /// Puts bytes of a stream behind all that waits; gives when they are on the wire, and when they
    /// come out at the far end. A stream waits for room, so nothing is dropped.
    pub(super) fn carry(&mut self, now: Time, len: usize) -> (Time, Time) {
        let conditions = &self.conditions;
        let mut sent = now;
        if conditions.rate > 0 {
            let nanos = len as u128 * NANOS / u128::from(conditions.rate);
            let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
            self.free_at = self.free_at.max(now) + Duration::from_nanos(nanos);
            sent = self.free_at;
        }
        self.last_out = (sent + conditions.latency).max(self.last_out);
        (sent, self.last_out)
    }

    /// Whether every datagram arrives as it is, so that no dice are needed.
    pub(super) fn is_perfect(&self) -> bool {
        let c = &self.conditions;
        let chances = [c.loss, c.reorder, c.duplicate, c.corrupt];
        c.bursts.is_none() && chances.iter().all(|&chance| chance <= 0.0)
    }

    /// Decides about one datagram.
    pub(super) fn fate(&mut self, now: Time, random: &mut Random) -> Fate {
        let conditions = self.conditions;
        if let Some(bursts) = conditions.bursts {
            self.bad_since = match self.bad_since.filter(|&since| now < since + BAD_TIME_MAX) {
                Some(since) => (!random.chance(1.0 / bursts.length_mean)).then_some(since),
                None => random.chance(bursts.start).then_some(now),
            };
            if self.bad_since.is_some() && random.chance(bursts.loss) {
                return Fate::Lost;
            }
        }
        let late = |random: &mut Random| Duration::from_nanos(random.below(LATE_NANOS_MAX));
        if random.chance(conditions.loss) {
            Fate::Lost
        } else if random.chance(conditions.reorder) {
            Fate::Late(late(random))
        } else if random.chance(conditions.duplicate) {
            Fate::Twice(late(random))
        } else if random.chance(conditions.corrupt) {
            Fate::Corrupt
        } else {
            Fate::Arrives
        }
    }
}

const NANOS: u128 = 1_000_000_000;
