//! A cap on bytes per second.

use std::time::Duration;

use crate::base::Time;

/// Lets bytes pass at a rate, and a fifth of a second's worth at once.
#[derive(Debug)]
pub struct Cap {
    bytes_per_second: Option<u64>,
    level: u64,
    filled_at: Time,
}

impl Cap {
    /// `None` lets everything pass.
    #[must_use]
    pub const fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second,
            level: 0,
            filled_at: Time::ZERO,
        }
    }

    /// Lets `bytes` pass, or says when they may.
    ///
    /// # Errors
    /// The moment to ask again.
    pub fn pass(&mut self, bytes: u32, now: Time) -> Result<(), Time> {
        let Some(rate) = self.bytes_per_second.map(|rate| rate.max(1)) else {
            return Ok(());
        };
        let bytes = u64::from(bytes);
        let since = now.since(self.filled_at).min(Duration::from_secs(1));
        let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let gained = u64::try_from(u128::from(nanos) * u128::from(rate) / 1_000_000_000);
        let gained = gained.unwrap_or(u64::MAX);
        if gained > 0 {
            self.level = (self.level.saturating_add(gained)).min((rate / 5).max(bytes));
            self.filled_at = now;
        }
        if let Some(left) = self.level.checked_sub(bytes) {
            self.level = left;
            return Ok(());
        }
        let missing = u128::from(bytes - self.level) * 1_000_000_000 / u128::from(rate);
        let wait = u64::try_from(missing).unwrap_or(u64::MAX);
        Err(now + Duration::from_nanos(wait.saturating_add(1000)))
    }

    /// What passed was not sent after all.
    pub fn give_back(&mut self, bytes: u32) {
        self.level = self.level.saturating_add(u64::from(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_may_pass_again() {
        let (mut cap, now) = (Cap::new(Some(1000)), Time::from_nanos(1_000_000_000));
        for _ in 0..1000 {
            assert_eq!(cap.pass(150, now), Ok(()));
            cap.give_back(150);
        }
    }

    #[test]
    fn bytes_pass_at_the_rate_whatever_their_portions() {
        for portion in [1000_u32, 16_384, 400_000] {
            let mut cap = Cap::new(Some(1_000_000));
            let (mut now, mut passed) = (Time::ZERO, 0_u64);
            while now < Time::ZERO + Duration::from_secs(10) {
                match cap.pass(portion, now) {
                    Ok(()) => passed += u64::from(portion),
                    Err(at) => {
                        assert!(at > now);
                        now = at;
                    }
                }
            }
            assert!(
                (9_000_000..=10_700_000).contains(&passed),
                "{portion}: {passed}"
            );
        }
        assert_eq!(Cap::new(None).pass(u32::MAX, Time::ZERO), Ok(()));
    }
}
