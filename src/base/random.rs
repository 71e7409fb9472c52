//! Pseudo-random numbers from a seed, for backoff and phases; nothing secret.

use std::time::Duration;

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub const fn below(&mut self, bound: u32) -> u32 {
        (((self.bits() >> 32) * bound as u64) >> 32) as u32
    }

    /// A duration from zero up to `max`.
    pub fn up_to(&mut self, max: Duration) -> Duration {
        max.mul_f64(f64::from(self.below(1 << 20)) / f64::from(1 << 20))
    }

    /// `around`, a quarter more or less.
    pub fn about(&mut self, around: Duration) -> Duration {
        around * 3 / 4 + self.up_to(around / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_stay_in_their_bounds_and_spread() {
        let mut random = Random::new(1);
        let around = Duration::from_millis(100);
        let drawn: Vec<_> = (0..1000).map(|_| random.about(around)).collect();
        assert!(drawn.iter().all(|d| (75..=125).contains(&d.as_millis())));
        assert!(drawn.iter().any(|d| d.as_millis() < 80));
        assert!(drawn.iter().any(|d| d.as_millis() > 120));
    }
}
