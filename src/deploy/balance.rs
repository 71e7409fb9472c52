//! Cast and seed of one bundle leave the head by one cable: which of them has it first, now.
//!
//! ```text
//!   Waiting -something arrives-> Held -loss keeps the cast slow-> Trying -much more-> Leading
//!      |                         ^  ^                               |                    |
//!      '-nothing-> Alone --------'  '------------no gain------------+--------------------'
//! ```
//!
//! A silence leads back to `Alone` from everywhere, at once when the cast has served all that it
//! reaches. Where both begin at once the seed waits a moment: beside it the cast would find too low
//! a rate. While the cast reaches anybody well, the seed would only take from it: who lacks
//! something has it from other nodes. But where a network lets little pass as multicast (storm
//! control, wireless), the seed brings much more: it leads, and the cast goes at its lowest rate.
//! That cannot be known without trying. Meanwhile the cast goes on with what has arrived of it, and
//! does not give way: so the seed has the rest of the cable, next to nothing if the cast fills it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::base::Time;
use crate::multicast::sender::Beside;

/// A cast brings something if so much arrives, in bytes per second.
const ARRIVING_MIN: f64 = 16_384.0;
/// How long a seed waits for the first of a cast that begins.
const FIRST: Duration = Duration::from_millis(300);
/// Nothing must arrive any more for this long before the seed serves.
const SILENCE: Duration = Duration::from_secs(2);
/// The time between a trial in vain and the next; it doubles after each.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// The longest.
const TRY_AGAIN_MAX: Duration = Duration::from_secs(60);
/// How long it is tried: nodes know of heavy loss after half a second.
const TRY_TIME: Duration = Duration::from_millis(1500);
/// What the seed brings is counted over this time at least: it tells of it twice a second, and a
/// busy machine less evenly.
const RATE_TIME: Duration = Duration::from_millis(1000);
/// It is not tried for a cast that will be over sooner than this.
const LEFT_MIN: f64 = 6.0;
/// The seed leads if it brings so many times as much as the cast alone did.
const GAIN_MIN: f64 = 2.0;

/// How both do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Bytes per second that the cast brings to nine nodes in ten of those that hear it.
    pub(crate) cast: f64,
    /// Whether loss keeps the cast slow.
    pub(crate) is_lowered: bool,
    /// Bytes that the seed has sent so far.
    pub(crate) sent: f64,
    /// Bytes that nodes lack which the cast reaches; 0 if there is none.
    pub(crate) left: f64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Balance {
    state: State,
    /// When the cast brought something last, if ever.
    heard_at: Option<Time>,
    try_again: Duration,
    /// What the seed had sent at the last looks, of which the second is younger than
    /// [`RATE_TIME`].
    sent: VecDeque<(Time, f64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Waiting { until: Time },
    Alone,
    Held { try_at: Time },
    Trying { until: Time, before: f64 },
    Leading { before: f64 },
}

impl Balance {
    /// Begins beside a cast.
    pub(crate) fn beside_cast(now: Time) -> Self {
        let until = now + FIRST;
        Self::new(State::Waiting { until })
    }

    /// Begins with the seed alone.
    pub(crate) const fn alone() -> Self {
        Self::new(State::Alone)
    }

    const fn new(state: State) -> Self {
        Self {
            state,
            heard_at: None,
            try_again: TRY_AGAIN,
            sent: VecDeque::new(),
        }
    }

    /// Bytes per second that the seed sends of late.
    fn seed_rate(&mut self, sent: f64, now: Time) -> f64 {
        self.sent.push_back((now, sent));
        while let Some((second, _)) = self.sent.get(1)
            && now.since(*second) >= RATE_TIME
        {
            self.sent.pop_front();
        }
        let (at, before) = self.sent.front().copied().unwrap_or((now, sent));
        (sent - before) / now.since(at).as_secs_f64().max(0.001)
    }

    /// Says whether the seed serves.
    pub(crate) fn decide(&mut self, sample: &Sample, now: Time) -> bool {
        let seed = self.seed_rate(sample.sent, now);
        let is_arriving = sample.cast >= ARRIVING_MIN;
        if is_arriving {
            self.heard_at = Some(now);
        }
        let is_silent = self.heard_at.is_none_or(|at| now.since(at) >= SILENCE);
        let is_long = sample.left > sample.cast * LEFT_MIN;
        let is_worth_trying = sample.is_lowered && is_long;
        let trying = State::Trying {
            until: now + TRY_TIME,
            before: sample.cast,
        };
        self.state = match self.state {
            State::Waiting { .. } | State::Alone if is_arriving && is_worth_trying => trying,
            State::Waiting { .. } | State::Alone if is_arriving => State::Held { try_at: now },
            State::Waiting { until } if now < until => self.state,
            State::Waiting { .. } | State::Alone => State::Alone,
            State::Leading { before } if seed >= before * GAIN_MIN => self.state,
            _ if is_silent || sample.left <= 0.0 => {
                self.try_again = TRY_AGAIN;
                State::Alone
            }
            State::Held { try_at } if now >= try_at && is_worth_trying => trying,
            State::Held { .. } => self.state,
            State::Trying { until, .. } if now < until => self.state,
            State::Trying { before, .. } if seed >= before * GAIN_MIN => State::Leading { before },
            State::Trying { .. } | State::Leading { .. } => {
                let try_at = now + self.try_again;
                self.try_again = (self.try_again * 2).min(TRY_AGAIN_MAX);
                State::Held { try_at }
            }
        };
        self.serves()
    }

    /// Whether the seed serves.
    pub(crate) const fn serves(&self) -> bool {
        !matches!(self.state, State::Waiting { .. } | State::Held { .. })
    }

    /// What the seed means for the cast.
    pub(crate) fn beside(&self) -> Beside {
        match self.state {
            State::Waiting { .. } | State::Alone | State::Held { .. } => Beside::Nothing,
            State::Trying { before, .. } => Beside::Trial(as_rate(before)),
            State::Leading { .. } => Beside::Better,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are positive and far below 2^63"
)]
const fn as_rate(rate: f64) -> u64 {
    rate as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: f64 = 1e6;

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    /// Runs for 30 s on a cable of 25 MB/s that lets `multicast` of it pass as such; gives the
    /// share of the time in which the seed served, and what came in all. What the seed has sent is
    /// told less often than is looked.
    fn run(multicast: f64, is_lowered: bool) -> (f64, f64) {
        let mut balance = Balance::alone();
        let (mut served, mut came, mut serves) = (0.0, 0.0, true);
        let (mut sent, mut told) = (0.0, 0.0);
        for step in 0..300 {
            let cast = match balance.beside() {
                Beside::Nothing | Beside::Trial(_) => multicast,
                Beside::Better => multicast.min(MB),
            };
            let seed = if serves { 25.0 * MB - cast } else { 0.0 };
            sent += seed / 10.0;
            came += (cast + seed) / 10.0;
            served += f64::from(u8::from(serves)) / 300.0;
            if step % 6 == 0 {
                told = sent;
            }
            let sample = Sample {
                cast,
                is_lowered,
                sent: told,
                left: 1e12,
            };
            serves = balance.decide(&sample, at(step * 100));
        }
        (served, came)
    }

    #[test]
    fn a_seed_leaves_the_cable_to_a_cast_that_fills_it() {
        assert!(run(25.0 * MB, true).0 < 0.25, "tried now and then");
        assert!(run(10.0 * MB, false).0 < 0.02, "a cap is no reason to try");
    }

    #[test]
    fn where_little_passes_as_multicast_the_seed_leads() {
        let (served, came) = run(2.5 * MB, true);
        assert!(served > 0.85, "{served}");
        assert!(came > 0.85 * 30.0 * 25.0 * MB, "{came}");
    }

    #[test]
    fn a_cast_that_nobody_hears_does_not_hold_the_seed() {
        assert!(run(0.0, false).0 > 0.99);
        let mut balance = Balance::alone();
        let sample = |cast| Sample {
            cast,
            is_lowered: false,
            sent: 0.0,
            left: 1e9,
        };
        assert!(!balance.decide(&sample(MB), at(0)));
        assert!(!balance.decide(&sample(0.0), at(1900)));
        assert!(balance.decide(&sample(0.0), at(2000)));
        assert!(!balance.decide(&sample(MB), at(2200)));
        let nobody = Sample {
            left: 0.0,
            ..sample(0.0)
        };
        assert!(balance.decide(&nobody, at(2400)), "nobody is served");
    }

    #[test]
    fn a_seed_waits_a_moment_for_a_cast_that_begins() {
        let sample = |cast| Sample {
            cast,
            is_lowered: false,
            sent: 0.0,
            left: 1e9,
        };
        for arrives in [0.0, MB] {
            let mut balance = Balance::beside_cast(at(0));
            assert!(!balance.serves());
            assert!(!balance.decide(&sample(0.0), at(200)));
            assert_eq!(balance.decide(&sample(arrives), at(400)), arrives < 1.0);
        }
    }
}
