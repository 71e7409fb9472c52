//! Whom to connect to next: known addresses of peers, when each is to be tried, and whom to shun.
//!
//! Invariant: an address is tried by one stream at a time, and less and less often while it fails.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::limits::{ADDRESSES_MAX, BANNED_MAX, RETRY_MAX, RETRY_MIN};
use crate::base::Time;
use crate::base::random::Random;

/// See the module.
#[derive(Debug)]
pub struct Addresses {
    known: BTreeMap<SocketAddr, Known>,
    banned: BTreeSet<IpAddr>,
    random: Random,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// A number that makes nodes prefer different peers.
    rank: u64,
    is_in_use: bool,
    failures: u32,
    next_at: Time,
}

impl Addresses {
    /// Knows nobody.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            known: BTreeMap::new(),
            banned: BTreeSet::new(),
            random: Random::new(seed),
        }
    }

    /// Remembers an address, unless it is known, shunned, or there are too many.
    pub fn add(&mut self, address: SocketAddr) {
        let is_full = self.known.len() >= ADDRESSES_MAX;
        if is_full || self.is_banned(address) || address.port() == 0 {
            return;
        }
        let rank = self.random.bits();
        self.known.entry(address).or_insert(Known {
            rank,
            is_in_use: false,
            failures: 0,
            next_at: Time::ZERO,
        });
    }

    /// Takes the next to connect to: who failed least first.
    pub fn take(&mut self, now: Time) -> Option<SocketAddr> {
        let due = |known: &Known| !known.is_in_use && now >= known.next_at;
        let due = self.known.iter_mut().filter(|(_, known)| due(known));
        let (&address, known) = due.min_by_key(|(_, known)| (known.failures, known.rank))?;
        known.is_in_use = true;
        Some(address)
    }

    /// When [`Addresses::take`] may have somebody.
    #[must_use]
    pub fn due_at(&self) -> Time {
        let free = self.known.values().filter(|known| !known.is_in_use);
        free.map(|known| known.next_at).min().unwrap_or(Time::NEVER)
    }

    /// The stream to an address has ended; it was of use, or not.
    pub fn ended(&mut self, address: SocketAddr, was_useful: bool, now: Time) {
        if let Some(known) = self.known.get_mut(&address) {
            known.is_in_use = false;
            known.failures = if was_useful { 0 } else { known.failures + 1 };
            let doubled = RETRY_MIN.saturating_mul(1 << known.failures.min(16));
            let wait = doubled.min(RETRY_MAX);
            known.next_at = now + self.random.about(wait);
        }
    }

    /// An address that is not to be tried for a long time: it is this node itself, or a peer that
    /// is connected already.
    pub fn rest(&mut self, address: SocketAddr, now: Time) {
        if let Some(known) = self.known.get_mut(&address) {
            known.is_in_use = false;
            known.next_at = now + LONG_REST;
        }
    }

    /// Shuns a host from now on.
    pub fn ban(&mut self, host: IpAddr) {
        if self.banned.len() < BANNED_MAX {
            self.banned.insert(host);
        }
        self.known.retain(|address, _| address.ip() != host);
    }

    /// Whether a host is shunned.
    #[must_use]
    pub fn is_banned(&self, address: SocketAddr) -> bool {
        self.banned.contains(&address.ip())
    }
}

const LONG_REST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 6881))
    }

    #[test]
    fn addresses_are_tried_by_one_stream_and_less_often_while_they_fail() {
        let mut addresses = Addresses::new(1);
        addresses.add(address(1));
        addresses.add(SocketAddr::from(([10, 0, 0, 9], 0)));
        let mut now = Time::ZERO;
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert_eq!(addresses.take(now), Some(address(1)));
            assert_eq!(
                (addresses.take(now), addresses.due_at()),
                (None, Time::NEVER)
            );
            addresses.ended(address(1), false, now);
            assert_eq!(addresses.take(now), None);
            waits.push(addresses.due_at().since(now));
            now = addresses.due_at();
        }
        assert!(waits[5] > 4 * waits[0] && waits[7] <= RETRY_MAX * 5 / 4);
        addresses.take(now);
        addresses.ended(address(1), true, now);
        assert!(addresses.due_at().since(now) <= RETRY_MIN * 5 / 4);
    }

    #[test]
    fn who_is_banned_is_forgotten_and_not_learned_again() {
        let mut addresses = Addresses::new(1);
        addresses.add(address(1));
        addresses.ban(address(1).ip());
        addresses.add(address(1));
        assert!(addresses.is_banned(address(1)));
        assert_eq!(addresses.take(Time::ZERO), None);
    }
}
