//! What one core answers as a tracker of 10,000 peers of one torrent, sockets left out.
//!
//! `cargo bench --bench tracker`; the unit is one announcement, from the query or datagram to the
//! answer's bytes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flashover::base::Time;
use flashover::swarm::tracker::udp::{Front, Request, RequestBody, Response, ResponseBody};
use flashover::swarm::tracker::{Announce, Event, Pace, Tracker, http};

const TORRENT: [u8; 20] = [7; 20];
const PEERS: u32 = 10_000;

criterion_group!(
    name = tracker;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = by_http, by_udp
);
criterion_main!(tracker);

fn ip(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number % PEERS).into()
}

fn announce(number: u32) -> Announce {
    Announce {
        info_hash: TORRENT,
        peer_id: [9; 20],
        port: 6881,
        uploaded: 0,
        downloaded: number.into(),
        left: u64::from(number % 3),
        event: Event::None,
        peers_wanted: None,
        key: number,
    }
}

fn full() -> Tracker {
    let mut tracker = Tracker::new([1; 32]);
    assert!(tracker.insert(&[TORRENT], Pace::Stock), "there is room");
    for number in 0..PEERS {
        let announced = tracker.announce(ip(number), &announce(number), Time::ZERO);
        assert!(announced.is_ok(), "{announced:?}");
    }
    tracker
}

fn by_http(c: &mut Criterion) {
    let mut tracker = full();
    let queries: Vec<String> = (0..PEERS)
        .map(|number| http::query(&announce(number), None))
        .collect();
    let mut numbers = (0..PEERS).cycle();
    let mut group = c.benchmark_group("announce");
    group.throughput(Throughput::Elements(1));
    group.bench_function("http", |b| {
        b.iter(|| {
            let number = numbers.next().expect("a cycle does not end");
            let query = &queries[number as usize];
            http::answer(&mut tracker, ip(number), query, Time::ZERO)
        });
    });
    group.finish();
}

fn by_udp(c: &mut Criterion) {
    let mut tracker = full();
    let front = Front::new([2; 32]);
    let from = |number| SocketAddr::new(ip(number), 6881);
    let datagrams: Vec<Vec<u8>> = (0..PEERS)
        .map(|number| {
            let connect = Request {
                transaction: number,
                body: RequestBody::Connect,
            };
            let answer = front.answer(&mut tracker, from(number), &connect.emit(), Time::ZERO);
            let answer = answer.expect("a connect is answered");
            let response = Response::parse(&answer, false).expect("the answer is sound");
            let ResponseBody::Connect(connection) = response.body else {
                panic!("a connect is answered by an id");
            };
            let body = RequestBody::Announce {
                connection,
                announce: announce(number),
            };
            let transaction = number;
            Request { transaction, body }.emit()
        })
        .collect();
    let mut numbers = (0..PEERS).cycle();
    let mut group = c.benchmark_group("announce");
    group.throughput(Throughput::Elements(1));
    group.bench_function("udp", |b| {
        b.iter(|| {
            let number = numbers.next().expect("a cycle does not end");
            let datagram = &datagrams[number as usize];
            let answer = front.answer(&mut tracker, from(number), datagram, Time::ZERO);
            answer.expect("an announcement is answered")
        });
    });
    group.finish();
}
