//! Cast and seed of one bundle leave the head by one cable: whether the seed serves, now.
//!
//! ```text
//!   Alone --something arrives--> Held --loss keeps the cast slow--> Trying --much more--> Both
//!     ^                           ^                                   |                     |
//!     '--nothing arrives          '-------------no gain---------------+---------------------'
//! ```
//!
//! (From `Alone`, once the cast was there before, it goes to `Both` if the seed brings much more.)
//! While the cast reaches anybody, the seed would only take from it: who lacks something has it
//! from other nodes. But where a network lets little pass as multicast (storm control, wireless),
//! both together bring much more; that cannot be known without trying.

use std::time::Duration;

use crate::base::Time;

/// A cast brings something if so much arrives, in bytes per second.
const ARRIVING_MIN: f64 = 16_384.0;
/// Nothing must arrive for this long before the seed serves.
const SILENCE: Duration = Duration::from_secs(2);
/// The first time before the seed is tried beside the cast; it doubles after each that was in vain.
const TRY_AFTER: Duration = Duration::from_secs(3);
/// The longest.
const TRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// How long it is tried.
const TRY_TIME: Duration = Duration::from_secs(2);
/// It is not tried for a cast that will be over sooner than this.
const LEFT_MIN: f64 = 6.0;
/// How much more than by the cast alone must come for both to go on.
const GAIN_MIN: f64 = 1.3;

/// How both do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Bytes per second that the cast brings to the median node.
    pub(crate) cast: f64,
    /// Whether loss keeps the cast slow.
    pub(crate) is_lowered: bool,
    /// Bytes per second that the seed has sent since the last sample.
    pub(crate) seed: f64,
    /// Bytes that nodes lack.
    pub(crate) left: f64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Balance {
    state: State,
    /// When the cast brought something last, if ever.
    heard_at: Option<Time>,
    try_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Alone,
    Held { try_at: Time },
    Trying { until: Time, before: f64 },
    Both { before: f64 },
}

impl Balance {
    /// Begins with the seed alone.
    pub(crate) const fn new() -> Self {
        Self {
            state: State::Alone,
            heard_at: None,
            try_after: TRY_AFTER,
        }
    }

    /// Says whether the seed serves.
    pub(crate) fn decide(&mut self, sample: &Sample, now: Time) -> bool {
        let is_arriving = sample.cast >= ARRIVING_MIN;
        let is_first = self.heard_at.is_none();
        if is_arriving {
            self.heard_at = Some(now);
        }
        let is_silent = self.heard_at.is_none_or(|at| now.since(at) >= SILENCE);
        let both = sample.cast + sample.seed;
        self.state = match self.state {
            State::Alone if is_arriving && !is_first && both >= sample.cast * GAIN_MIN => {
                State::Both {
                    before: sample.cast,
                }
            }
            State::Alone if is_arriving => self.hold(now),
            State::Alone => State::Alone,
            _ if is_silent => {
                self.try_after = TRY_AFTER;
                State::Alone
            }
            State::Held { try_at } => {
                let is_long = sample.left > sample.cast * LEFT_MIN;
                if now >= try_at && sample.is_lowered && is_long {
                    State::Trying {
                        until: now + TRY_TIME,
                        before: sample.cast,
                    }
                } else {
                    self.state
                }
            }
            State::Trying { until, before } if now >= until => {
                if both >= before * GAIN_MIN {
                    State::Both { before }
                } else {
                    self.try_after = (self.try_after * 2).min(TRY_AFTER_MAX);
                    self.hold(now)
                }
            }
            State::Both { before } if both < before * GAIN_MIN => self.hold(now),
            State::Trying { .. } | State::Both { .. } => self.state,
        };
        !matches!(self.state, State::Held { .. })
    }

    fn hold(&self, now: Time) -> State {
        State::Held {
            try_at: now + self.try_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: f64 = 1e6;

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    /// Runs for 30 s on a cable of 25 MB/s that lets `multicast` of it pass as such; gives the
    /// share of the time in which the seed served, and what came in all.
    fn run(multicast: f64, is_lowered: bool) -> (f64, f64) {
        let mut balance = Balance::new();
        let (mut served, mut came, mut serves) = (0.0, 0.0, true);
        for step in 0..300 {
            let cast = if serves {
                multicast.min(25.0 * MB / 2.0)
            } else {
                multicast
            };
            let seed = if serves { 25.0 * MB - cast } else { 0.0 };
            came += (cast + seed) / 10.0;
            served += f64::from(u8::from(serves)) / 300.0;
            let left = 1e12;
            let sample = Sample {
                cast,
                is_lowered,
                seed,
                left,
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
    fn where_little_passes_as_multicast_both_go() {
        let (served, came) = run(2.5 * MB, true);
        assert!(served > 0.85, "{served}");
        assert!(came > 0.85 * 30.0 * 25.0 * MB, "{came}");
    }

    #[test]
    fn a_cast_that_nobody_hears_does_not_hold_the_seed() {
        assert!(run(0.0, false).0 > 0.99);
        let mut balance = Balance::new();
        let sample = |cast| Sample {
            cast,
            is_lowered: false,
            seed: 0.0,
            left: 1e9,
        };
        assert!(!balance.decide(&sample(MB), at(0)));
        assert!(!balance.decide(&sample(0.0), at(1900)));
        assert!(balance.decide(&sample(0.0), at(2000)));
    }
}
