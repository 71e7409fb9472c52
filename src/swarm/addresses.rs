//! Whom to connect to next: known addresses of peers, when each is to be tried, and whom to shun.
//! Of peers that failed as often, those go first that both ends find to suit each other (BEP 40),
//! once it is known under what address others see this node.
//!
//! Invariant: an address is tried by one stream at a time, and less and less often while it fails.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::limits::{ADDRESSES_MAX, BANNED_MAX, RETRY_MAX, RETRY_MIN};
use super::priority::priority;
use crate::base::Time;
use crate::base::random::Random;

/// See the module.
#[derive(Debug)]
pub struct Addresses {
    known: BTreeMap<SocketAddr, Known>,
    banned: BTreeSet<IpAddr>,
    random: Random,
    own: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// A number that makes nodes prefer different peers.
    rank: u64,
    is_in_use: bool,
    /// The user named it.
    is_named: bool,
    failures: u32,
    next_at: Time,
}

/// Which addresses are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// All that are known.
    Anybody,
    /// Those that the user named.
    Named,
}

impl Who {
    const fn has(self, known: &Known) -> bool {
        matches!(self, Self::Anybody) || known.is_named
    }
}

impl Addresses {
    /// Knows nobody.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            known: BTreeMap::new(),
            banned: BTreeSet::new(),
            random: Random::new(seed),
            own: None,
        }
    }

    /// Others see this node at this address; the first to say so is believed.
    pub fn learn_own(&mut self, own: SocketAddr) {
        if self.own.is_some() || own.ip().is_unspecified() {
            return;
        }
        self.own = Some(own);
        for (&address, known) in &mut self.known {
            known.rank = rank(own, address);
        }
    }

    /// Remembers an address, unless it is known, shunned, or there are too many.
    pub fn add(&mut self, address: SocketAddr) {
        let is_full = self.known.len() >= ADDRESSES_MAX;
        if is_full || self.is_banned(address) || address.port() == 0 {
            return;
        }
        let rank = match self.own {
            Some(own) => rank(own, address),
            None => self.random.bits(),
        };
        self.known.entry(address).or_insert(Known {
            rank,
            is_in_use: false,
            is_named: false,
            failures: 0,
            next_at: Time::ZERO,
        });
    }

    /// As [`Addresses::add`], of an address that the user named.
    pub fn add_named(&mut self, address: SocketAddr) {
        self.add(address);
        if let Some(known) = self.known.get_mut(&address) {
            known.is_named = true;
        }
    }

    /// Takes the next to connect to: who failed least first.
    pub fn take(&mut self, who: Who, now: Time) -> Option<SocketAddr> {
        let due = |known: &Known| who.has(known) && !known.is_in_use && now >= known.next_at;
        let due = self.known.iter_mut().filter(|(_, known)| due(known));
        let (&address, known) = due.min_by_key(|(_, known)| (known.failures, known.rank))?;
        known.is_in_use = true;
        Some(address)
    }

    /// When [`Addresses::take`] may have somebody.
    #[must_use]
    pub fn due_at(&self, who: Who) -> Time {
        let all = self.known.values().filter(|known| who.has(known));
        let free = all.filter(|known| !known.is_in_use);
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

/// The place of a peer among its like, the lowest first.
fn rank(own: SocketAddr, peer: SocketAddr) -> u64 {
    u64::from(!priority(own, peer))
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
            assert_eq!(addresses.take(Who::Anybody, now), Some(address(1)));
            assert_eq!(
                (
                    addresses.take(Who::Anybody, now),
                    addresses.due_at(Who::Anybody)
                ),
                (None, Time::NEVER)
            );
            addresses.ended(address(1), false, now);
            assert_eq!(addresses.take(Who::Anybody, now), None);
            waits.push(addresses.due_at(Who::Anybody).since(now));
            now = addresses.due_at(Who::Anybody);
        }
        assert!(waits[5] > 4 * waits[0] && waits[7] <= RETRY_MAX * 5 / 4);
        addresses.take(Who::Anybody, now);
        addresses.ended(address(1), true, now);
        assert!(addresses.due_at(Who::Anybody).since(now) <= RETRY_MIN * 5 / 4);
    }

    #[test]
    fn peers_that_suit_each_other_go_first() {
        let own = address(200);
        let mut addresses = Addresses::new(1);
        (1..20).map(address).for_each(|peer| addresses.add(peer));
        addresses.learn_own(own);
        addresses.learn_own(address(7));
        (20..40).map(address).for_each(|peer| addresses.add(peer));
        let taken: Vec<_> =
            std::iter::from_fn(|| addresses.take(Who::Anybody, Time::ZERO)).collect();
        assert_eq!(taken.len(), 39);
        assert!(taken.is_sorted_by_key(|peer| std::cmp::Reverse(priority(own, *peer))));
    }

    #[test]
    fn who_is_named_is_told_from_the_others() {
        let mut addresses = Addresses::new(1);
        addresses.add(address(1));
        assert_eq!(addresses.due_at(Who::Named), Time::NEVER);
        addresses.add(address(2));
        addresses.add_named(address(2));
        assert_eq!(addresses.take(Who::Named, Time::ZERO), Some(address(2)));
        assert_eq!(addresses.take(Who::Named, Time::ZERO), None);
        assert_eq!(addresses.take(Who::Anybody, Time::ZERO), Some(address(1)));
    }

    #[test]
    fn who_is_banned_is_forgotten_and_not_learned_again() {
        let mut addresses = Addresses::new(1);
        addresses.add(address(1));
        addresses.ban(address(1).ip());
        addresses.add(address(1));
        assert!(addresses.is_banned(address(1)));
        assert_eq!(addresses.take(Who::Anybody, Time::ZERO), None);
    }
}
