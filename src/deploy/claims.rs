//! Whose a node's id is: the address that came with it first has it as long as it is heard.
//!
//! Every attempt of a node draws an id of its own. One that comes from two addresses was copied: a
//! machine that was cloned while it ran, say. Two that share one id would overwrite what the head
//! knows of each other, so the second is refused, and both are told of.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Who is not heard for so long has lost its id to whoever comes with it.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// See the module. Time is given, never taken.
#[derive(Debug)]
pub(crate) struct Claims {
    by_id: BTreeMap<String, Claim>,
    count_max: usize,
}

/// An id that is in use.
#[derive(Clone, Copy, Debug)]
struct Claim {
    owner: IpAddr,
    heard: Instant,
    /// The last other address that came with it.
    rival: Option<IpAddr>,
}

/// An id that another machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Who has it.
    pub(crate) owner: IpAddr,
    /// Whether this address comes with it for the first time.
    pub(crate) is_news: bool,
}

impl Claims {
    /// Remembers at most so many ids; the one silent the longest makes room.
    pub(crate) const fn new(count_max: usize) -> Self {
        Self {
            by_id: BTreeMap::new(),
            count_max,
        }
    }

    /// A node comes with its id.
    ///
    /// # Errors
    /// If another address has it and was heard lately.
    pub(crate) fn claim(&mut self, id: &str, from: IpAddr, now: Instant) -> Result<(), Taken> {
        let from = from.to_canonical();
        if let Some(claim) = self.by_id.get_mut(id) {
            let is_heard = now.saturating_duration_since(claim.heard) < SILENCE_MAX;
            if claim.owner != from && is_heard {
                let is_news = claim.rival.replace(from) != Some(from);
                let owner = claim.owner;
                return Err(Taken { owner, is_news });
            }
            (claim.owner, claim.heard) = (from, now);
            return Ok(());
        }
        if self.by_id.len() >= self.count_max {
            let oldest = self.by_id.iter().min_by_key(|(_, claim)| claim.heard);
            if let Some(id) = oldest.map(|(id, _)| id.clone()) {
                self.by_id.remove(&id);
            }
        }
        let claim = Claim {
            owner: from,
            heard: now,
            rival: None,
        };
        self.by_id.insert(id.to_owned(), claim);
        Ok(())
    }

    /// A node is done with its id.
    pub(crate) fn release(&mut self, id: &str) {
        self.by_id.remove(id);
    }

    /// Who has an id, and who else came with it.
    pub(crate) fn of(&self, id: &str) -> Option<(IpAddr, Option<IpAddr>)> {
        self.by_id.get(id).map(|claim| (claim.owner, claim.rival))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn the_first_keeps_its_id_while_it_is_heard() {
        let (mut claims, start) = (Claims::new(9), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let taken = |owner, is_news| Err(Taken { owner, is_news });
        assert_eq!(claims.claim("a", ONE, at(0)), Ok(()));
        assert_eq!(claims.claim("a", TWO, at(1)), taken(ONE, true));
        assert_eq!(claims.claim("a", TWO, at(2)), taken(ONE, false));
        assert_eq!(claims.claim("b", TWO, at(2)), Ok(()));
        assert_eq!(claims.of("a"), Some((ONE, Some(TWO))));
        // What a refused one says does not keep the first alive.
        assert_eq!(claims.claim("a", ONE, at(5)), Ok(()));
        assert_eq!(claims.claim("a", TWO, at(14)), taken(ONE, false));
        assert_eq!(claims.claim("a", TWO, at(15)), Ok(()));
        assert_eq!(claims.claim("a", ONE, at(16)), taken(TWO, true));
        claims.release("a");
        assert_eq!(claims.claim("a", ONE, at(16)), Ok(()));
    }

    #[test]
    fn one_address_in_two_notations_is_one() {
        let (mut claims, now) = (Claims::new(9), Instant::now());
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(claims.claim("a", ONE, now), Ok(()));
        assert_eq!(claims.claim("a", mapped, now), Ok(()));
    }

    #[test]
    fn ids_are_bounded_and_the_longest_silent_makes_room() {
        let (mut claims, start) = (Claims::new(2), Instant::now());
        for (second, id) in (0..).zip(["a", "b", "c"]) {
            let now = start + Duration::from_secs(second);
            claims.claim(id, ONE, now).unwrap();
        }
        assert!(claims.of("a").is_none() && claims.of("b").is_some());
    }
}
