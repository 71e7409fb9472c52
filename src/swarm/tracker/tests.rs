//! Tables, codecs and schedules together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;

use super::http::{self, Asked};
use super::limits::{
    ANNOUNCE_INTERVAL, DEGREE_MAX, NODE_GRACE, NODE_INTERVAL_MIN, PEER_LIFETIME,
    PEERS_PER_ADDRESS_MAX, TRANSMITS_MAX,
};
use super::udp::{Exchange, Front, Request, RequestBody, Response, ResponseBody};
use super::{Announce, Error, Event, Pace, Refused, Reply, Scraped, Tracker};
use crate::base::Time;

const TORRENT: [u8; 20] = [7; 20];

fn at(seconds: u64) -> Time {
    Time::ZERO + Duration::from_secs(seconds)
}

fn v4(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

fn announce(event: Event, left: u64) -> Announce {
    Announce {
        info_hash: TORRENT,
        peer_id: [9; 20],
        port: 6881,
        uploaded: 0,
        downloaded: 0,
        left,
        event,
        peers_wanted: None,
        key: 3,
    }
}

fn tracker() -> Tracker {
    let mut tracker = Tracker::new([1; 32]);
    assert!(tracker.insert(&[TORRENT, [8; 20]], Pace::Stock));
    tracker
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::None),
        Just(Event::Completed),
        Just(Event::Started),
        Just(Event::Stopped),
        Just(Event::Paused),
    ]
}

fn any_announce() -> impl Strategy<Value = Announce> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>());
    let wanted = prop::option::of(0..u32::MAX);
    let ids = (any::<[u8; 20]>(), any::<[u8; 20]>(), any::<u16>());
    (ids, numbers, any_event(), wanted).prop_map(|(ids, numbers, event, peers_wanted)| {
        let ((info_hash, peer_id, port), (uploaded, downloaded, left, key)) = (ids, numbers);
        Announce {
            info_hash,
            peer_id,
            port,
            uploaded,
            downloaded,
            left,
            event,
            peers_wanted,
            key,
        }
    })
}

fn any_peers(is_v6: bool) -> impl Strategy<Value = Vec<SocketAddr>> {
    let peer = (any::<u128>(), 1u16..).prop_map(move |(bits, port)| {
        let ip = if is_v6 {
            IpAddr::V6(Ipv6Addr::from(bits))
        } else {
            IpAddr::V4(Ipv4Addr::from(
                bits.to_be_bytes().last_chunk().copied().unwrap(),
            ))
        };
        SocketAddr::new(ip, port)
    });
    prop::collection::vec(peer, 0..20)
}

proptest! {
    #[test]
    fn udp_requests_round_trip(
        transaction: u32,
        connection: u64,
        announce in any_announce(),
        info_hashes in prop::collection::vec(any::<[u8; 20]>(), 1..75),
        kind in 0..3,
    ) {
        let body = match kind {
            0 => RequestBody::Connect,
            1 => RequestBody::Announce { connection, announce },
            _ => RequestBody::Scrape { connection, info_hashes },
        };
        let request = Request { transaction, body };
        prop_assert_eq!(Request::parse(&request.emit()), Ok(request));
    }

    #[test]
    fn udp_responses_round_trip(
        transaction: u32,
        (is_v6, peers) in any::<bool>().prop_flat_map(|v6| (Just(v6), any_peers(v6))),
        numbers: (u32, u32, u32),
    ) {
        let reply = Reply {
            interval: Duration::from_secs(numbers.0.into()),
            complete: Some(numbers.1),
            incomplete: Some(numbers.2),
            peers,
            ..Reply::default()
        };
        let response = Response { transaction, body: ResponseBody::Announce(reply) };
        prop_assert_eq!(Response::parse(&response.emit(), is_v6), Ok(response));
    }

    #[test]
    fn queries_round_trip(announce in any_announce(), id in prop::option::of(any::<[u8; 5]>())) {
        let query = http::query(&announce, id.as_ref().map(|id| &id[..]));
        let asked = Asked { announce, verbose: false, without_ids: false };
        prop_assert_eq!(http::parse_query(&query), Ok(asked));
    }

    #[test]
    fn counts_are_those_of_the_peers_that_are_there(
        steps in prop::collection::vec((0u32..6, any_event(), 0u64..2, 0u64..200), 1..60),
    ) {
        let mut tracker = tracker();
        let mut model = std::collections::BTreeMap::new();
        let mut now = 0;
        for (peer, event, left, pause) in steps {
            now += pause;
            tracker.announce(v4(peer), &announce(event, left), at(now)).unwrap();
            if event == Event::Stopped {
                model.remove(&peer);
            } else {
                model.insert(peer, (now, left));
            }
            model.retain(|_, (heard, _)| now - *heard <= PEER_LIFETIME.as_secs());
            let counts = tracker.scrape(&TORRENT, at(now)).unwrap();
            let complete = model.values().filter(|(_, left)| *left == 0).count();
            prop_assert_eq!(counts.complete as usize, complete);
            prop_assert_eq!(counts.incomplete as usize, model.len() - complete);
            prop_assert!(counts.downloaders <= counts.incomplete);
        }
    }
}

#[test]
fn peers_hear_of_their_neighbours_and_of_nobody_else() {
    let mut tracker = tracker();
    for peer in 0..100 {
        tracker
            .announce(v4(peer), &announce(Event::Started, 5), at(0))
            .unwrap();
    }
    let told = tracker
        .announce(v4(5), &announce(Event::None, 5), at(1))
        .unwrap();
    assert!((4..=DEGREE_MAX).contains(&told.peers.len()));
    assert!(told.peers.iter().all(|(peer, _)| peer.ip() != v4(5)));
    let few = Announce {
        peers_wanted: Some(2),
        ..announce(Event::None, 5)
    };
    assert_eq!(tracker.announce(v4(5), &few, at(1)).unwrap().peers.len(), 2);
    let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let alone = tracker
        .announce(v6, &announce(Event::Started, 5), at(1))
        .unwrap();
    assert_eq!((alone.peers.len(), alone.counts.incomplete), (0, 101));
}

#[test]
fn the_barrier_opens_when_all_are_complete_and_closes_when_one_joins() {
    let mut tracker = tracker();
    assert_eq!(tracker.is_all_complete(&TORRENT, at(0)), Some(false));
    tracker
        .announce(v4(1), &announce(Event::Started, 0), at(0))
        .unwrap();
    tracker
        .announce(v4(2), &announce(Event::Started, 5), at(0))
        .unwrap();
    assert_eq!(tracker.is_all_complete(&TORRENT, at(1)), Some(false));
    let done = tracker
        .announce(v4(2), &announce(Event::Completed, 0), at(2))
        .unwrap();
    let counts = Scraped {
        complete: 2,
        downloaded: 1,
        ..Scraped::default()
    };
    assert_eq!(done.counts, counts);
    assert_eq!(
        tracker.is_all_complete(&[8; 20], at(3)),
        Some(true),
        "by its other name"
    );
    tracker
        .announce(v4(3), &announce(Event::Started, 5), at(4))
        .unwrap();
    assert_eq!(tracker.is_all_complete(&TORRENT, at(4)), Some(false));
    let later = at(5) + PEER_LIFETIME;
    assert_eq!(
        tracker.is_all_complete(&TORRENT, later),
        Some(false),
        "all have gone"
    );
    tracker.remove(&[8; 20]);
    assert_eq!(tracker.is_all_complete(&TORRENT, later), None);
}

#[test]
fn our_own_nodes_are_heard_the_less_often_the_more_they_are() {
    let mut tracker = Tracker::new([1; 32]);
    assert!(tracker.insert(&[TORRENT], Pace::Nodes));
    let mut announce_all = |count: u32, now| {
        let last = (0..count).map(|peer| {
            let told = tracker.announce(v4(peer), &announce(Event::None, 5), now);
            told.unwrap().interval
        });
        last.last().unwrap()
    };
    assert_eq!(announce_all(10, at(0)), NODE_INTERVAL_MIN);
    assert_eq!(announce_all(3000, at(1)), Duration::from_secs(29));
    assert_eq!(announce_all(10_000, at(2)), ANNOUNCE_INTERVAL);
    // Who was told to come again soon has gone soon, who was not has not.
    let mut counts = |now| tracker.scrape(&TORRENT, at(now)).unwrap().incomplete;
    assert_eq!(counts(2 + 2 * 30 + 20), 10_000);
    assert_eq!(counts(2 + 2 * 30 + 21), 6900);
    assert_eq!(counts(2 + 2 * 60 + 20), 4000);
    assert_eq!(counts(2 + 2 * 60 + 21), 0);
}

#[test]
fn a_node_that_is_silent_has_gone_after_two_intervals_and_a_while() {
    let mut tracker = Tracker::new([1; 32]);
    assert!(tracker.insert(&[TORRENT], Pace::Nodes));
    let told = tracker.announce(v4(1), &announce(Event::Started, 5), at(0));
    let patience = (told.unwrap().interval * 2 + NODE_GRACE).as_secs();
    let mut counts = |now| tracker.scrape(&TORRENT, at(now)).unwrap().incomplete;
    assert_eq!((counts(patience), counts(patience + 1)), (1, 0));
}

#[test]
fn a_paused_peer_is_incomplete_and_no_downloader() {
    let mut tracker = tracker();
    let told = tracker
        .announce(v4(1), &announce(Event::Paused, 5), at(0))
        .unwrap();
    assert_eq!((told.counts.incomplete, told.counts.downloaders), (1, 0));
}

#[test]
fn unknown_torrents_ports_and_crowds_are_refused() {
    let mut tracker = tracker();
    let unknown = Announce {
        info_hash: [0; 20],
        ..announce(Event::None, 0)
    };
    assert_eq!(
        tracker.announce(v4(1), &unknown, at(0)),
        Err(Refused::UnknownTorrent)
    );
    let no_port = Announce {
        port: 0,
        ..announce(Event::None, 0)
    };
    assert_eq!(
        tracker.announce(v4(1), &no_port, at(0)),
        Err(Refused::NoPort)
    );
    let count = u16::try_from(PEERS_PER_ADDRESS_MAX).unwrap();
    let from = |port| Announce {
        port,
        ..announce(Event::None, 0)
    };
    for port in 1..=count {
        tracker.announce(v4(1), &from(port), at(0)).unwrap();
    }
    assert_eq!(
        tracker.announce(v4(1), &from(count + 1), at(0)),
        Err(Refused::Full)
    );
    tracker.announce(v4(1), &from(1), at(1)).unwrap();
    tracker.announce(v4(2), &from(1), at(1)).unwrap();
    let stopped = Announce {
        event: Event::Stopped,
        ..from(2)
    };
    tracker.announce(v4(1), &stopped, at(2)).unwrap();
    tracker.announce(v4(1), &from(count + 1), at(2)).unwrap();
}

fn run(front: &Front, tracker: &mut Tracker, exchange: &mut Exchange, from: IpAddr) -> Reply {
    let from = SocketAddr::new(from, 5000);
    for _ in 0..4 {
        let request = exchange
            .poll_transmit(at(0))
            .unwrap()
            .expect("it speaks at once");
        let answer = front
            .answer(tracker, from, &request, at(0))
            .expect("it is answered");
        if let Some(reply) = exchange.handle(&answer, at(0)).unwrap() {
            return reply;
        }
    }
    panic!("no reply");
}

#[test]
fn a_client_announces_by_udp_over_both_families() {
    let (front, mut tracker) = (Front::new([2; 32]), tracker());
    for first in [v4(1), Ipv6Addr::LOCALHOST.into()] {
        tracker
            .announce(first, &announce(Event::Started, 0), at(0))
            .unwrap();
        let is_v6 = first.is_ipv6();
        let other: IpAddr = if is_v6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            v4(2)
        };
        let mut exchange = Exchange::new(announce(Event::Started, 5), 77, is_v6, at(0));
        let reply = run(&front, &mut tracker, &mut exchange, other);
        assert_eq!(reply.peers, [SocketAddr::new(first, 6881)]);
        assert_eq!(reply.interval, ANNOUNCE_INTERVAL);
    }
}

#[test]
fn who_does_not_hear_its_connection_id_gets_nothing() {
    let (front, mut tracker) = (Front::new([2; 32]), tracker());
    let other = tracker.clone();
    let ask = |connection, from, now| {
        let body = RequestBody::Announce {
            connection,
            announce: announce(Event::None, 0),
        };
        let datagram = Request {
            transaction: 1,
            body,
        }
        .emit();
        front.answer(
            &mut other.clone(),
            SocketAddr::new(from, 1),
            &datagram,
            at(now),
        )
    };
    let connect = Request {
        transaction: 1,
        body: RequestBody::Connect,
    }
    .emit();
    let answer = front
        .answer(&mut tracker, SocketAddr::new(v4(1), 1), &connect, at(59))
        .unwrap();
    assert!(answer.len() <= connect.len(), "it amplifies nothing");
    let Ok(Response {
        body: ResponseBody::Connect(id),
        ..
    }) = Response::parse(&answer, false)
    else {
        panic!("no connection id");
    };
    assert!(ask(id, v4(1), 59).is_some() && ask(id, v4(1), 119).is_some());
    assert_eq!(ask(id, v4(2), 59), None, "another address");
    assert_eq!(ask(id, v4(1), 120), None, "too old");
    assert_eq!(ask(id ^ 1, v4(1), 59), None, "invented");
    assert_eq!(ask(0x0417_2710_1980, v4(1), 59), None, "the magic");
    let scrape = RequestBody::Scrape {
        connection: id,
        info_hashes: vec![TORRENT, [0; 20]],
    };
    let scrape = Request {
        transaction: 4,
        body: scrape,
    }
    .emit();
    assert_eq!(
        front.answer(&mut tracker, SocketAddr::new(v4(2), 1), &scrape, at(59)),
        None
    );
    let told = front
        .answer(&mut tracker, SocketAddr::new(v4(1), 1), &scrape, at(59))
        .unwrap();
    let counts = ResponseBody::Scrape(vec![Scraped::default(); 2]);
    assert_eq!(
        Response::parse(&told, false),
        Ok(Response {
            transaction: 4,
            body: counts
        })
    );
}

#[test]
fn an_exchange_sends_again_and_gives_up() {
    let mut exchange = Exchange::new(announce(Event::None, 0), 7, false, at(0));
    let mut now = at(0);
    for _ in 0..TRANSMITS_MAX {
        assert!(exchange.poll_transmit(now).unwrap().is_some());
        assert_eq!(exchange.poll_transmit(now), Ok(None));
        now = exchange.poll_timeout();
    }
    assert_eq!(now, at(31));
    assert_eq!(exchange.poll_transmit(now), Err(Error::Silent));
}

#[test]
fn an_exchange_passes_over_what_is_not_its_answer() {
    let mut exchange = Exchange::new(announce(Event::None, 0), 7, false, at(0));
    let say = |transaction, body| Response { transaction, body }.emit();
    let early = say(7, ResponseBody::Announce(Reply::default()));
    assert_eq!(exchange.handle(&early, at(0)), Ok(None));
    assert_eq!(
        exchange.handle(&say(8, ResponseBody::Connect(1)), at(0)),
        Ok(None)
    );
    assert_eq!(exchange.handle(b"x", at(0)), Ok(None));
    assert_eq!(
        exchange.handle(&say(7, ResponseBody::Connect(1)), at(0)),
        Ok(None)
    );
    assert_eq!(
        exchange.handle(&early, at(0)),
        Ok(None),
        "the number has changed"
    );
    let refusal = say(8, ResponseBody::Error(b"go\x1b away".to_vec()));
    let refused = Error::Refused("go? away".to_owned());
    assert_eq!(exchange.handle(&refusal, at(0)), Err(refused));
}

#[test]
fn http_answers_are_read_back() {
    let mut tracker = tracker();
    let ask = |tracker: &mut Tracker, ip, tail: &str| {
        let query = http::query(&announce(Event::Started, 5), None);
        http::answer(tracker, ip, &format!("{query}{tail}"), at(0))
    };
    let seen = tracker
        .announce(v4(1), &announce(Event::None, 0), at(0))
        .unwrap();
    assert!(seen.peers.is_empty());
    let compact = Reply::parse(&ask(&mut tracker, v4(2), "")).unwrap();
    let first = [SocketAddr::new(v4(1), 6881)];
    assert_eq!(
        (&compact.peers[..], compact.interval),
        (&first[..], ANNOUNCE_INTERVAL)
    );
    assert_eq!((compact.complete, compact.incomplete), (Some(1), Some(1)));
    let verbose = http::query(&announce(Event::None, 5), None).replace("compact=1", "compact=0");
    let body = http::answer(&mut tracker, v4(2), &verbose, at(0));
    assert!(body.windows(7).any(|window| window == b"peer id"));
    assert_eq!(Reply::parse(&body).unwrap().peers, first);
    let body = http::answer(
        &mut tracker,
        v4(2),
        &format!("no_peer_id=1&{verbose}"),
        at(0),
    );
    assert!(!body.windows(7).any(|window| window == b"peer id"));
    let v6: IpAddr = Ipv6Addr::LOCALHOST.into();
    ask(&mut tracker, v6, "");
    let told = Reply::parse(&ask(&mut tracker, Ipv6Addr::UNSPECIFIED.into(), "")).unwrap();
    assert_eq!(told.peers, [SocketAddr::new(v6, 6881)]);
    let query = format!("info_hash={}", "%07".repeat(20));
    let scraped = http::parse_scraped(&http::answer_scrape(&mut tracker, &query, at(0))).unwrap();
    assert_eq!(scraped[0].0, TORRENT);
    assert_eq!((scraped[0].1.complete, scraped[0].1.downloaders), (1, 3));
}

#[test]
fn http_refusals_say_what_is_wrong() {
    let mut tracker = tracker();
    let refused = |tracker: &mut Tracker, query: &str| match Reply::parse(&http::answer(
        tracker,
        v4(1),
        query,
        at(0),
    )) {
        Err(Error::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    let good = http::query(&announce(Event::None, 5), None);
    let without = |key: &str| {
        let kept = good.split('&').filter(|pair| !pair.starts_with(key));
        kept.collect::<Vec<_>>().join("&")
    };
    for key in ["info_hash", "peer_id", "port", "left"] {
        let why = refused(&mut tracker, &without(key));
        assert!(why.starts_with(key), "{why}");
    }
    assert!(refused(&mut tracker, &format!("{good}&event=lost")).starts_with("event"));
    let unknown = Announce {
        info_hash: [0; 20],
        ..announce(Event::None, 5)
    };
    let why = refused(&mut tracker, &http::query(&unknown, None));
    assert_eq!(why, Refused::UnknownTorrent.to_string());
}

#[test]
fn malformed_http_answers_are_named() {
    for body in [
        &b""[..],
        b"i1e",
        b"de",
        b"d8:intervali-1ee",
        b"d8:intervali1e5:peers5:12345e",
        b"d8:intervali1e5:peersi1ee",
        b"d8:intervali1e6:peers617:12345678901234567e",
    ] {
        assert_eq!(Reply::parse(body), Err(Error::Malformed), "{body:?}");
    }
    let odd = b"d8:intervali9e5:peersld2:ip9:not an ip4:porti1eed2:ip7:1.2.3.44:porti9eeee";
    assert_eq!(
        Reply::parse(odd).unwrap().peers,
        ["1.2.3.4:9".parse().unwrap()]
    );
}
