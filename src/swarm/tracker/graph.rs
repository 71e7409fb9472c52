//! Who knows whom: a pseudo-random graph of bounded degree.
//!
//! Every peer has a place on each of [`RINGS`] rings, drawn from its address and a seed; its
//! neighbours are the two beside it on each. So the graph is connected (one ring suffices),
//! symmetric, the same whatever the order in which peers came, and of degree [`DEGREE_MAX`] at
//! most; where two rings have the same neighbours it is less. Who comes or goes changes the
//! neighbours of those beside it alone.
//!
//! Source: Law and Siu, "Distributed construction of random expander networks" (2003), for the
//! union of random cycles; Kraken's tracker for the idea.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::limits::{DEGREE_MAX, RINGS};

/// Places on the rings. The owner keeps what else is known of a peer.
#[derive(Clone, Debug)]
pub struct Graph {
    seed: [u8; 32],
    rings: [BTreeSet<(u64, SocketAddr)>; RINGS],
}

impl Graph {
    /// An empty graph; `seed` says where peers lie.
    #[must_use]
    pub const fn new(seed: [u8; 32]) -> Self {
        Self {
            seed,
            rings: [const { BTreeSet::new() }; RINGS],
        }
    }

    /// Puts a peer on the rings; one that is there stays.
    pub fn insert(&mut self, peer: SocketAddr) {
        let places = self.places(peer);
        for (ring, place) in self.rings.iter_mut().zip(places) {
            ring.insert((place, peer));
        }
    }

    /// Takes a peer off the rings.
    pub fn remove(&mut self, peer: SocketAddr) {
        let places = self.places(peer);
        for (ring, place) in self.rings.iter_mut().zip(places) {
            ring.remove(&(place, peer));
        }
    }

    /// How many peers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rings[0].len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The neighbours of a peer, each once, in the order of the rings; all others while there are
    /// at most [`DEGREE_MAX`] of them. The peer need not be on the rings.
    #[must_use]
    pub fn neighbours(&self, peer: SocketAddr) -> Vec<SocketAddr> {
        let mut found = Vec::with_capacity(DEGREE_MAX);
        let mut add = |other: SocketAddr| {
            if other != peer && !found.contains(&other) {
                found.push(other);
            }
        };
        if self.len() <= DEGREE_MAX + 1 {
            self.rings[0].iter().for_each(|(_, other)| add(*other));
            // A peer that is not on the rings may have found one too many.
            found.truncate(DEGREE_MAX);
            return found;
        }
        for (ring, place) in self.rings.iter().zip(self.places(peer)) {
            let key = (place, peer);
            let after = (std::ops::Bound::Excluded(key), std::ops::Bound::Unbounded);
            let next = ring.range(after).next().or_else(|| ring.iter().next());
            let before = ring.range(..key).next_back();
            let previous = before.or_else(|| ring.iter().next_back());
            for (_, other) in next.into_iter().chain(previous) {
                add(*other);
            }
        }
        found
    }

    fn places(&self, peer: SocketAddr) -> [u64; RINGS] {
        let mut hasher = blake3::Hasher::new_keyed(&self.seed);
        match peer.ip() {
            std::net::IpAddr::V4(ip) => hasher.update(&ip.octets()),
            std::net::IpAddr::V6(ip) => hasher.update(&ip.octets()),
        };
        hasher.update(&peer.port().to_be_bytes());
        let mut bytes = [0; 8 * RINGS];
        hasher.finalize_xof().fill(&mut bytes);
        let (words, _) = bytes.as_chunks::<8>();
        std::array::from_fn(|ring| u64::from_be_bytes(words[ring]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peer(number: u32) -> SocketAddr {
        SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 + number).into(), 6881)
    }

    fn graph(seed: u8, peers: impl IntoIterator<Item = u32>) -> Graph {
        let mut graph = Graph::new([seed; 32]);
        peers
            .into_iter()
            .for_each(|number| graph.insert(peer(number)));
        graph
    }

    fn reached(graph: &Graph, from: SocketAddr) -> usize {
        let mut seen = BTreeSet::from([from]);
        let mut open = vec![from];
        while let Some(one) = open.pop() {
            open.extend(
                graph
                    .neighbours(one)
                    .into_iter()
                    .filter(|next| seen.insert(*next)),
            );
        }
        seen.len()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_is_connected_symmetric_and_of_bounded_degree(
            seed: u8,
            come in prop::collection::btree_set(0u32..400, 2..200),
            go in prop::collection::btree_set(0u32..400, 0..200),
        ) {
            let mut graph = graph(seed, come.iter().copied());
            go.iter().for_each(|number| graph.remove(peer(*number)));
            let left: Vec<_> = come.difference(&go).map(|number| peer(*number)).collect();
            prop_assert_eq!(graph.len(), left.len());
            for &one in &left {
                let neighbours = graph.neighbours(one);
                prop_assert!(neighbours.len() <= DEGREE_MAX);
                prop_assert!(!neighbours.contains(&one));
                prop_assert!(neighbours.len() >= (left.len() - 1).min(2));
                for other in neighbours {
                    prop_assert!(graph.neighbours(other).contains(&one), "{one} and {other}");
                }
            }
            if let Some(&first) = left.first() {
                prop_assert_eq!(reached(&graph, first), left.len());
            }
        }

        #[test]
        fn the_order_of_coming_makes_no_difference(
            seed: u8,
            come in prop::collection::vec(0u32..100, 1..60),
        ) {
            let one = graph(seed, come.iter().copied());
            let other = graph(seed, come.iter().rev().copied());
            for number in come {
                prop_assert_eq!(one.neighbours(peer(number)), other.neighbours(peer(number)));
            }
        }
    }

    #[test]
    fn a_thousand_peers_have_nearly_all_neighbours_they_can_have() {
        let graph = graph(1, 0..1000);
        let degrees: Vec<usize> = (0..1000).map(|n| graph.neighbours(peer(n)).len()).collect();
        assert!(
            degrees
                .iter()
                .all(|degree| (4..=DEGREE_MAX).contains(degree))
        );
        let sum: usize = degrees.iter().sum();
        assert!(sum > 7_900, "{sum} of 8000");
    }

    #[test]
    fn who_comes_changes_the_neighbours_of_few() {
        let before = graph(1, 0..1000);
        let after = graph(1, 0..1001);
        let changed = |n: &u32| before.neighbours(peer(*n)) != after.neighbours(peer(*n));
        let count = (0..1000).filter(changed).count();
        assert!(count <= DEGREE_MAX, "{count} have other neighbours");
    }

    #[test]
    fn a_few_peers_know_each_other_all() {
        let few = u32::try_from(DEGREE_MAX).unwrap() + 1;
        let graph = graph(1, 0..few);
        assert!((0..few).all(|n| graph.neighbours(peer(n)).len() == DEGREE_MAX));
    }
}
