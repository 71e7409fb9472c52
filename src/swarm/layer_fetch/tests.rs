//! Honest, silent, refusing and lying peers, and what the fetch makes of them.

use proptest::prelude::*;

use super::*;
use crate::swarm::Metainfo;
use crate::swarm::metainfo::tests::{draft, file, made};
use crate::swarm::metainfo::{Answer, Draft, Forms};

const NOW: Time = Time::from_nanos(1_000_000_000);

/// A directory of files of so many blocks, which are pieces.
fn torrent(sizes: &[u64]) -> Metainfo {
    let files = sizes.iter().enumerate();
    let files = files.map(|(number, &blocks)| file(&[&format!("{number:02}")], blocks << 14));
    let draft = Draft {
        piece_length: 1 << 14,
        ..draft(files.collect(), Forms::V2)
    };
    made(draft).0
}

fn peer(number: u32) -> StreamId {
    StreamId::outgoing(number)
}

fn fetch(torrent: &Metainfo, peers: u32) -> LayerFetch {
    let mut fetch = LayerFetch::new(torrent.info()).unwrap();
    (0..peers).for_each(|number| fetch.add_peer(peer(number)));
    fetch
}

fn hashes(torrent: &Metainfo, range: &HashRange) -> Vec<Sha256> {
    match torrent.answer(range) {
        Some(Answer::Hashes(hashes)) => hashes,
        other => panic!("{range:?}: {other:?}"),
    }
}

fn is_right(torrent: &Metainfo, layers: Layers) -> bool {
    Metainfo::with_layers(torrent.info().clone(), layers).is_ok_and(|it| {
        let both = [&it, torrent].map(Metainfo::emit);
        both[0].len() <= both[1].len()
            && it
                .info()
                .layer_ranges()
                .iter()
                .all(|range| it.answer(range) == torrent.answer(range))
    })
}

/// What a peer does with each request that it gets.
#[derive(Clone, Copy, Debug)]
enum Habit {
    Honest,
    Silent,
    Refuses,
    Lies,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the others do, one honest peer is enough, and only liars are called bad.
    #[test]
    fn one_honest_peer_is_enough(
        sizes in prop::collection::vec(1..700u64, 1..4),
        habits in prop::collection::vec(0..4usize, 0..5),
        honest_at in 0..5usize,
    ) {
        prop_assume!(sizes.iter().any(|&blocks| blocks > 1));
        let torrent = torrent(&sizes);
        let mut habits: Vec<Habit> = habits
            .into_iter()
            .map(|habit| [Habit::Honest, Habit::Silent, Habit::Refuses, Habit::Lies][habit])
            .collect();
        habits.insert(honest_at.min(habits.len()), Habit::Honest);
        let mut fetch = fetch(&torrent, u32::try_from(habits.len()).unwrap());
        let (mut now, mut found) = (NOW, None);
        for _ in 0..10_000 {
            let Some((id, range)) = fetch.poll_request(now) else {
                now = fetch.poll_timeout().expect("somebody is waited for").max(now);
                continue;
            };
            let number = (0..).find(|&number| peer(number) == id).unwrap();
            let habit = habits[number as usize];
            let mut sent = hashes(&torrent, &range);
            match habit {
                Habit::Silent => continue,
                Habit::Refuses => {
                    fetch.handle_reject(id, &range, now);
                    continue;
                }
                Habit::Lies => sent[1][0] ^= 1,
                Habit::Honest => {}
            }
            match fetch.handle(id, &range, &sent) {
                Heard::Bad => prop_assert!(matches!(habit, Habit::Lies)),
                Heard::Nothing => prop_assert!(matches!(habit, Habit::Honest)),
                Heard::Complete(layers) => {
                    found = Some(layers);
                    break;
                }
            }
        }
        prop_assert!(is_right(&torrent, found.expect("it comes to an end")));
    }
}

#[test]
fn requests_are_spread_and_bounded() {
    let torrent = torrent(&[6000]);
    let mut fetch = fetch(&torrent, 2);
    let asked: Vec<_> = std::iter::from_fn(|| fetch.poll_request(NOW)).collect();
    assert_eq!(asked.len(), 2 * REQUESTS_MAX);
    let of_first = asked.iter().filter(|(id, _)| *id == peer(0)).count();
    assert_eq!(of_first, REQUESTS_MAX);
    assert_eq!(fetch.poll_timeout(), Some(NOW + PATIENCE));
    // What nobody was asked for, and what another was asked for, is nothing.
    let (id, range) = asked[0];
    let other = if id == peer(0) { peer(1) } else { peer(0) };
    let sent = hashes(&torrent, &range);
    assert_eq!(fetch.handle(other, &range, &sent), Heard::Nothing);
    assert_eq!(fetch.handle(peer(9), &range, &sent), Heard::Nothing);
    assert!(fetch.parts.is_empty());
    assert_eq!(fetch.handle(id, &range, &sent), Heard::Nothing);
    assert_eq!(fetch.parts.len(), 1);
    fetch.remove_peer(id);
    assert!(fetch.has_peers());
    fetch.remove_peer(other);
    assert!(!fetch.has_peers() && fetch.poll_timeout().is_none());
    assert_eq!(fetch.wanted.len(), 11);
}

#[test]
fn torrents_of_small_files_need_nothing() {
    assert!(LayerFetch::new(torrent(&[1, 1]).info()).is_none());
}
