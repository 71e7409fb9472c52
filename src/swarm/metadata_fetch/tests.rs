use std::collections::VecDeque;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::swarm::wire::metadata::{MetadataServer, PART_BYTES};

/// The info dictionary of one file with `pieces` pieces.
fn info(pieces: usize) -> Bytes {
    let hashes = [7; 20].repeat(pieces);
    let mut info = crate::swarm::bencode::DictWriter::new();
    info.int(b"length", 16_384 * i64::try_from(pieces).unwrap());
    info.int(b"piece length", 16_384).bytes(b"name", b"x");
    info.bytes(b"pieces", &hashes);
    info.finish().into()
}

fn names(info: &[u8]) -> InfoHashes {
    InfoHashes::new(Some(sha1(info)), None).unwrap()
}

/// How a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Honest,
    /// Refuses this many requests before it serves.
    Busy(u8),
    Silent,
    /// Gives wrong bytes in its even parts.
    Liar,
    /// Claims another size.
    Boaster,
    /// Claims the right size, and says another with its parts.
    Confused,
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Honest),
        (1..6u8).prop_map(Kind::Busy),
        Just(Kind::Silent),
        Just(Kind::Liar),
        Just(Kind::Boaster),
        Just(Kind::Confused),
    ]
}

struct Swarm {
    info: Bytes,
    fetch: MetadataFetch,
    peers: Vec<(Kind, MetadataServer)>,
    /// Answers under way: when, whose, what.
    answers: VecDeque<(Time, usize, Vec<u8>)>,
    now: Time,
    bad: Vec<Kind>,
    requests: usize,
}

fn stream(peer: usize) -> StreamId {
    StreamId::outgoing(u32::try_from(peer).unwrap())
}

impl Swarm {
    fn new(info: Bytes, kinds: &[Kind]) -> Self {
        let mut fetch = MetadataFetch::new(names(&info));
        let size = u32::try_from(info.len()).unwrap();
        for (peer, kind) in kinds.iter().enumerate() {
            let boast = if *kind == Kind::Boaster { 1 } else { 0 };
            fetch.add_peer(stream(peer), size + boast);
        }
        Self {
            info,
            fetch,
            peers: kinds
                .iter()
                .map(|&k| (k, MetadataServer::default()))
                .collect(),
            answers: VecDeque::new(),
            now: Time::ZERO,
            bad: Vec::new(),
            requests: 0,
        }
    }

    fn ask(&mut self) {
        while let Some((id, part)) = self.fetch.poll_request(self.now) {
            self.requests += 1;
            let peer = (0..self.peers.len())
                .find(|&peer| stream(peer) == id)
                .unwrap();
            let (kind, server) = &mut self.peers[peer];
            let is_busy = matches!(kind, Kind::Busy(1..));
            let answer = server.answer(Some(&self.info).filter(|_| !is_busy), part);
            let mut bytes = [answer.head, answer.part.to_vec()].concat();
            match kind {
                Kind::Honest => {}
                Kind::Busy(left) => *left = left.saturating_sub(1),
                Kind::Silent => continue,
                Kind::Liar if part % 2 == 0 => *bytes.last_mut().unwrap() ^= 1,
                Kind::Liar => {}
                Kind::Boaster => {
                    let size = u32::try_from(self.info.len()).unwrap() + 1;
                    let start = (part * PART_BYTES) as usize;
                    let whole = [&self.info[..], b"x"].concat();
                    let end = whole.len().min(start + PART_BYTES as usize);
                    let (total_size, bytes_) = (size, &whole[start..end]);
                    bytes = MetadataMessage::Data {
                        part,
                        total_size,
                        bytes: bytes_,
                    }
                    .emit();
                }
                Kind::Confused => {
                    let total_size = part * PART_BYTES + 1;
                    bytes = MetadataMessage::Data {
                        part,
                        total_size,
                        bytes: b"x",
                    }
                    .emit();
                }
            }
            let delay = Duration::from_millis(10 + 37 * u64::try_from(peer).unwrap());
            self.answers.push_back((self.now + delay, peer, bytes));
        }
    }

    /// Lets time pass until the fetch is over, or for an hour.
    fn run(&mut self) -> Option<Box<Info>> {
        let end = Time::ZERO + Duration::from_secs(3600);
        loop {
            self.ask();
            let answer = self.answers.iter().map(|(at, ..)| *at).min();
            let wakes = self.fetch.poll_timeout();
            let next = answer
                .into_iter()
                .chain(wakes)
                .min()
                .filter(|&at| at < end)?;
            assert!(next >= self.now, "time goes forward");
            self.now = next.max(self.now + Duration::from_nanos(1));
            while let Some(at) = self.answers.iter().position(|(at, ..)| *at <= self.now) {
                let (_, peer, bytes) = self.answers.remove(at).unwrap();
                let message = MetadataMessage::parse(&bytes).unwrap();
                match self.fetch.handle(stream(peer), &message, self.now) {
                    Heard::Nothing => {}
                    Heard::Bad => self.bad.push(self.peers[peer].0),
                    Heard::Complete(info) => return Some(info),
                    Heard::Useless(error) => panic!("{error}"),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_honest_peer_is_enough(
        kinds in prop::collection::vec(kinds(), 0..8),
        place in 0..8usize,
        pieces in 1..6000usize,
    ) {
        let mut kinds = kinds;
        kinds.insert(place.min(kinds.len()), Kind::Honest);
        let mut swarm = Swarm::new(info(pieces), &kinds);
        let found = swarm.run().map(|info| info.bytes().clone());
        prop_assert_eq!(found.as_ref(), Some(&swarm.info), "{:?} at {}", kinds, swarm.now);
        let is_false = |kind: &Kind| !matches!(kind, Kind::Liar | Kind::Boaster | Kind::Confused);
        prop_assert!(!swarm.bad.iter().any(is_false), "{:?}", swarm.bad);
        prop_assert!(swarm.fetch.poll_request(swarm.now).is_none());
        prop_assert!(swarm.fetch.poll_timeout().is_none());
    }
}

#[test]
fn honest_peers_share_the_work_and_each_part_is_asked_for_once() {
    let mut swarm = Swarm::new(info(20_000), &[Kind::Honest; 3]);
    assert!(swarm.run().is_some());
    assert_eq!(swarm.requests, swarm.info.len().div_ceil(16_384));
    assert!(swarm.now < Time::ZERO + Duration::from_secs(2));
}

#[test]
fn without_an_honest_peer_there_is_nothing() {
    for kind in [Kind::Liar, Kind::Boaster, Kind::Confused] {
        let mut swarm = Swarm::new(info(5000), &[kind; 4]);
        assert!(swarm.run().is_none());
        assert_eq!(swarm.bad, [kind; 4]);
    }
    let mut silent = Swarm::new(info(5000), &[Kind::Silent; 4]);
    assert!(silent.run().is_none());
    assert!(silent.bad.is_empty());
    assert!(silent.requests < 2000, "{}", silent.requests);
}

#[test]
fn both_names_must_fit() {
    let info = info(1);
    let message = MetadataMessage::Data {
        part: 0,
        total_size: u32::try_from(info.len()).unwrap(),
        bytes: &info,
    };
    for (v1, v2, fits) in [
        (Some(sha1(&info)), Some(sha256(&info)), true),
        (None, Some(sha256(&info)), true),
        (Some(sha1(&info)), Some([0; 32]), false),
        (Some([0; 20]), Some(sha256(&info)), false),
    ] {
        let mut fetch = MetadataFetch::new(InfoHashes::new(v1, v2).unwrap());
        fetch.add_peer(stream(0), u32::try_from(info.len()).unwrap());
        assert_eq!(fetch.poll_request(Time::ZERO), Some((stream(0), 0)));
        let heard = fetch.handle(stream(0), &message, Time::ZERO);
        assert_eq!(matches!(heard, Heard::Complete(_)), fits);
        assert_eq!(matches!(heard, Heard::Bad), !fits);
    }
}

#[test]
fn what_is_no_info_dictionary_ends_the_fetch() {
    let bytes = b"d1:ai1ee";
    let mut fetch = MetadataFetch::new(names(bytes));
    fetch.add_peer(stream(0), 8);
    assert!(fetch.poll_request(Time::ZERO).is_some());
    let message = MetadataMessage::Data {
        part: 0,
        total_size: 8,
        bytes,
    };
    let heard = fetch.handle(stream(0), &message, Time::ZERO);
    assert!(matches!(heard, Heard::Useless(_)));
    assert_eq!(fetch.poll_request(Time::ZERO), None);
}

#[test]
fn what_was_not_asked_for_is_not_taken() {
    let info = info(1);
    let size = u32::try_from(info.len()).unwrap();
    let mut fetch = MetadataFetch::new(names(&info));
    fetch.add_peer(stream(0), size);
    fetch.add_peer(stream(1), size);
    fetch.add_peer(stream(2), 0);
    fetch.add_peer(stream(3), METADATA_BYTES_MAX + 1);
    assert_eq!(fetch.poll_request(Time::ZERO), Some((stream(0), 0)));
    let message = MetadataMessage::Data {
        part: 0,
        total_size: size,
        bytes: &info,
    };
    for other in 1..4 {
        let heard = fetch.handle(stream(other), &message, Time::ZERO);
        assert!(matches!(heard, Heard::Nothing));
    }
    fetch.remove_peer(stream(0));
    assert_eq!(fetch.poll_request(Time::ZERO), Some((stream(1), 0)));
    let heard = fetch.handle(stream(1), &message, Time::ZERO);
    assert!(matches!(heard, Heard::Complete(_)));
}
