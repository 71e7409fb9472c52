//! Targets of what finds peers: trackers by HTTP and UDP, both sides, and local discovery.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use flashover::base::Time;
use flashover::machine::{Channel, Datagrams, Input, Machine};
use flashover::swarm::lsd::{self, Discovery, Search};
use flashover::swarm::tracker::udp::{Exchange, Front, Request, Response};
use flashover::swarm::tracker::{Announce, Event, Pace, Reply, Tracker, http, limits};

/// The torrent that the tracker and the machine know.
const TORRENT: [u8; 20] = *b"aaaaaaaaaaaaaaaaaaaa";

fn tracker() -> Tracker {
    let mut tracker = Tracker::new([1; 32]);
    assert!(tracker.insert(&[TORRENT], Pace::Stock));
    tracker
}

/// Lines: each a query, answered one after the other; then all of it as a reply and as a scrape's.
pub fn http_tracker(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut tracker = tracker();
    for (index, line) in (0..).zip(text.lines()) {
        if let Ok(asked) = http::parse_query(line) {
            let again = http::parse_query(&http::query(&asked.announce, None));
            assert_eq!(again.map(|asked| asked.announce), Ok(asked.announce));
        }
        let ip = Ipv4Addr::from(index % 64).into();
        let now = Time::ZERO + Duration::from_secs(index.into());
        let answer = http::answer(&mut tracker, ip, line, now);
        if let Ok(reply) = Reply::parse(&answer) {
            assert!(reply.peers.len() <= limits::DEGREE_MAX);
        }
        let counts = http::answer_scrape(&mut tracker, line, now);
        let _refused = http::parse_scraped(&counts).is_err();
    }
    if let Ok(reply) = Reply::parse(data) {
        assert!(reply.peers.len() <= limits::REPLY_PEERS_MAX);
        assert!(reply.peers.iter().all(|peer| peer.port() != 0));
    }
    let _refused = http::parse_scraped(data).is_err();
}

/// Runs of length and bytes: each as a request to a tracker and as a response to a client. A run of
/// length 0 is the client's own next request.
pub fn udp_tracker(data: &[u8]) {
    let (front, mut tracker) = (Front::new([2; 32]), tracker());
    let announce = Announce {
        info_hash: TORRENT,
        peer_id: [3; 20],
        port: 9,
        uploaded: 0,
        downloaded: 0,
        left: 5,
        event: Event::Started,
        peers_wanted: None,
        key: 1,
    };
    let mut now = Time::ZERO;
    let mut exchange = Exchange::new(announce, 7, false, now);
    let mut rest = data;
    while let Some((&len, behind)) = rest.split_first() {
        let (run, behind) = behind.split_at(behind.len().min(len.into()));
        rest = behind;
        now += Duration::from_millis(500);
        if let Ok(request) = Request::parse(run) {
            let again = Request::parse(&request.emit());
            assert_eq!(again, Ok(request));
        }
        for is_v6 in [false, true] {
            if let Ok(response) = Response::parse(run, is_v6) {
                let again = Response::parse(&response.emit(), is_v6);
                assert_eq!(again, Ok(response));
            }
        }
        let from = |ip: IpAddr| SocketAddr::new(ip, 6881);
        let stranger = from(Ipv6Addr::LOCALHOST.into());
        if let Some(answer) = front.answer(&mut tracker, stranger, run, now) {
            let bound = run.len().max(20 + 18 * limits::DEGREE_MAX);
            assert!(answer.len() <= bound, "it amplifies nothing");
        }
        let _ended = exchange.handle(run, now).is_err();
        if let (0, Ok(Some(request))) = (len, exchange.poll_transmit(now)) {
            let client = from(Ipv4Addr::LOCALHOST.into());
            if let Some(answer) = front.answer(&mut tracker, client, &request, now) {
                let _ended = exchange.handle(&answer, now).is_err();
            }
        }
    }
}

pub fn lsd(data: &[u8]) {
    if let Some(search) = Search::parse(data) {
        assert_eq!(
            Search::parse(&search.emit()).as_ref(),
            Some(&search).filter(fits)
        );
    }
    let mut machine = Discovery::new(lsd::Config {
        port: 6881,
        groups: vec![(Channel(0), lsd::GROUP_V4)],
        interval: Duration::from_secs(300),
        interval_min: Duration::from_secs(60),
        seed: 1,
    });
    machine.handle(Input::Command(lsd::Command::Seek(TORRENT)), Time::ZERO);
    let mut bytes = data.to_vec();
    let datagrams = Datagrams {
        channel: Channel(0),
        from: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 6771),
        segment_size: bytes.len().max(1),
        bytes: &mut bytes,
        dropped_total: 0,
    };
    machine.handle(Input::Datagrams(datagrams), Time::ZERO);
    while machine.poll_output().is_some() {}
}

/// Whether a datagram is no longer than it may be: what was cut short by its writer may have been.
fn fits(search: &&Search) -> bool {
    search.emit().len() <= lsd::DATAGRAM_BYTES_MAX
}
