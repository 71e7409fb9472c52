//! The open swarm over real sockets of the loopback interface.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::*;
use crate::base::counter::Counters;
use crate::base::event::Events;
use crate::base::{Serial, Time};
use crate::capture::torrent::{CreateOptions, create};
use crate::deploy::catalog::Catalog;
use crate::deploy::hub::{Gate, Published, Transports};
use crate::deploy::plain;
use crate::deploy::token::Secret;
use crate::swarm::Metainfo;
use crate::swarm::tracker::udp::Exchange;
use crate::swarm::tracker::{self, Announce, Event, Reply, http as protocol};

const BYTES: usize = 300_000;
pub(crate) const FILE: &str = "thing-1.tar.zst";

pub(crate) fn sample() -> Vec<u8> {
    (0..BYTES)
        .map(|at| u8::try_from((at * 17 + at / 251) % 251).unwrap())
        .collect()
}

pub(crate) struct Head {
    pub(crate) open: OpenSwarm,
    pub(crate) hub: Arc<Hub>,
    pub(crate) torrent: Arc<Metainfo>,
}

pub(crate) fn head() -> Head {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    std::fs::write(&path, sample()).unwrap();
    let torrent = create(&path, &CreateOptions::default(), 1, &Events::ignore()).unwrap();
    let torrent = Arc::new(torrent);
    let file = std::fs::File::open(&path).unwrap();
    let manifest = plain::describe(&file, "thing".parse().unwrap(), &Events::ignore()).unwrap();
    let catalog = Catalog::default();
    catalog.insert(Arc::new(Published {
        manifest: Arc::new(manifest),
        sealed: bytes::Bytes::new(),
        bundle: Arc::new(file),
        torrent: Some(Arc::clone(&torrent)),
        torrent_v1: torrent.v1_alone().map(Arc::new),
        is_hashed: true,
    }));
    let gate = Gate::Only(Secret::random().unwrap());
    let counters = Arc::new(Counters::default());
    let hub = Hub::new(
        &[7; 32],
        catalog,
        gate,
        Transports::none(),
        counters,
        Events::ignore(),
    );
    let hub = Arc::new(hub.unwrap());
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let open = OpenSwarm::start(listen, Arc::clone(&hub)).unwrap();
    hub.serve_stock();
    Head { open, hub, torrent }
}

impl Head {
    /// Sends a request as it is written; gives status and body.
    fn ask(&self, request: &str) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(self.open.local()).unwrap();
        let deadline = Some(Duration::from_secs(20));
        stream.set_read_timeout(deadline).unwrap();
        let request = request.replace('\n', "\r\n") + "\r\nConnection: close\r\n\r\n";
        // In one piece: the head may refuse, and close, after the first.
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.expect("an answer has a head");
        let status = std::str::from_utf8(&answer[9..12]).unwrap();
        (status.parse().unwrap(), answer[end + 4..].to_vec())
    }

    fn get(&self, target: &str) -> (u16, Vec<u8>) {
        self.ask(&format!("GET {target} HTTP/1.1\nHost: h:6969"))
    }

    fn announce(&self, name: [u8; 20], port: u16) -> Result<Reply, tracker::Error> {
        let query = protocol::query(&announce(name, port), None);
        let (status, body) = self.get(&format!("/announce?{query}"));
        assert_eq!(status, 200);
        Reply::parse(&body)
    }

    /// Announces by UDP as our own client does.
    fn announce_udp(&self, name: [u8; 20], port: u16) -> Result<Reply, tracker::Error> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect(self.open.local()).unwrap();
        let patience = Some(Duration::from_millis(200));
        socket.set_read_timeout(patience).unwrap();
        let mut exchange = Exchange::new(announce(name, port), 7, false, Time::ZERO);
        let started = std::time::Instant::now();
        loop {
            let now = Time::ZERO + started.elapsed();
            if let Some(datagram) = exchange.poll_transmit(now)? {
                socket.send(&datagram).unwrap();
            }
            let mut buffer = [0; 2048];
            let Ok(len) = socket.recv(&mut buffer) else {
                continue;
            };
            if let Some(reply) = exchange.handle(&buffer[..len], now)? {
                return Ok(reply);
            }
        }
    }

    pub(crate) fn names(&self) -> Vec<[u8; 20]> {
        let names = self.torrent.info().names();
        names.iter().map(|name| name.wire()).collect()
    }
}

fn announce(info_hash: [u8; 20], port: u16) -> Announce {
    Announce {
        info_hash,
        peer_id: [9; 20],
        port,
        uploaded: 0,
        downloaded: 0,
        left: 5,
        event: Event::Started,
        peers_wanted: None,
        key: 3,
    }
}

fn peer(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[test]
fn the_torrent_names_this_head_as_the_client_reached_it() {
    let head = head();
    let read = |request: &str| {
        let (status, body) = head.ask(request);
        assert_eq!(status, 200, "{request}");
        let torrent = Metainfo::parse(&body).unwrap();
        assert_eq!(torrent.info().names(), head.torrent.info().names());
        (torrent.trackers().concat(), torrent.web_seeds())
    };
    let at = |here: &str| {
        let trackers = ["http", "udp"].map(|scheme| format!("{scheme}://{here}/announce"));
        (trackers.to_vec(), vec![format!("http://{here}/{FILE}")])
    };
    let local = head.open.local().to_string();
    for (host, here) in [
        ("head.example:6969", "head.example:6969"),
        ("head", "head:80"),
        ("[::1]:7", "[::1]:7"),
        ("a/../b:1", &local),
        ("user@head:1", &local),
        ("head:x", &local),
    ] {
        let request = format!("GET /thing-1.torrent HTTP/1.1\nHost: {host}");
        assert_eq!(read(&request), at(here), "{host}");
    }
    let absolute = "GET http://proxied:1/thing-1.torrent HTTP/1.1\nHost: other";
    assert_eq!(read(absolute), at("proxied:1"));
    assert_eq!(read("GET /thing-1.torrent HTTP/1.0"), at(&local));
}

#[test]
fn a_web_seed_gives_the_bundle_and_its_parts() {
    let head = head();
    assert_eq!(head.get(&format!("/{FILE}")), (200, sample()));
    let part = |range: &str| {
        let request = format!("GET /{FILE} HTTP/1.1\nHost: h\nRange: bytes={range}");
        head.ask(&request)
    };
    assert_eq!(part("7-200006"), (206, sample()[7..200_007].to_vec()));
    assert_eq!(part("299990-"), (206, sample()[299_990..].to_vec()));
    assert_eq!(part("300000-").0, 416);
    let (status, body) = head.ask(&format!("HEAD /{FILE} HTTP/1.1\nHost: h"));
    assert_eq!((status, body.len()), (200, 0));
}

#[test]
fn what_is_not_published_is_not_there() {
    let head = head();
    for path in [
        "/",
        "/thing",
        "/thing-1",
        "/thing-2.torrent",
        "/thing-01.torrent",
        "/thing-+1.torrent",
        "//thing-1.torrent",
        "/x/thing-1.torrent",
        "/./thing-1.torrent",
        "/thing-1.manifest",
        "/thing-1.v2.torrent",
        "/thing-1.tar.zst/",
        "/../bundles/thing-1.tar.zst",
        "/%2e%2e/thing-1.tar.zst",
        "/announce/",
    ] {
        assert_eq!(head.get(path).0, 404, "{path}");
    }
    assert_eq!(head.ask("POST /announce HTTP/1.1\nHost: h").0, 405);
    let long = "x".repeat(40_000);
    let (status, _) = head.get(&format!("/announce?{long}"));
    assert!(matches!(status, 414 | 431), "{status}");
}

#[test]
fn peers_by_http_and_by_udp_find_each_other_by_either_name() {
    let head = head();
    let [v1, v2] = head.names()[..] else {
        panic!("a hybrid has two names");
    };
    assert_eq!(head.announce(v1, 1).unwrap().peers, []);
    let second = head.announce_udp(v2, 2).unwrap();
    assert_eq!(second.peers, [peer(1)]);
    assert_eq!(head.announce(v2, 1).unwrap().peers, [peer(2)]);
    let name: String = v1.iter().map(|byte| format!("%{byte:02x}")).collect();
    let (_, body) = head.get(&format!("/scrape?info_hash={name}"));
    let scraped = protocol::parse_scraped(&body).unwrap();
    assert_eq!((scraped[0].0, scraped[0].1.incomplete), (v1, 2));
    for unknown in [
        head.announce([7; 20], 1),
        head.announce_udp([7; 20], 1),
        head.announce(v1, 0),
    ] {
        assert!(
            matches!(unknown, Err(tracker::Error::Refused(_))),
            "{unknown:?}"
        );
    }
    assert!(head.hub.metrics().contains("tracker_requests_total"));
}

#[test]
fn old_clients_have_a_torrent_and_a_swarm_of_their_own() {
    let head = head();
    let (status, body) = head.get("/thing-1.v1.torrent");
    assert_eq!(status, 200);
    let torrent = Metainfo::parse(&body).unwrap();
    assert_eq!(torrent.web_seeds(), [format!("http://h:6969/{FILE}")]);
    let names = torrent.info().names();
    assert_eq!(names.v2(), None);
    let name = names.first().wire();
    assert_eq!(head.announce(name, 1).unwrap().peers, []);
    assert_eq!(head.announce(head.names()[0], 2).unwrap().peers, []);
    assert_eq!(head.announce(name, 3).unwrap().peers, [peer(1)]);
    let published = head.hub.find("thing", Some(1)).unwrap();
    let [_, stock] = head.hub.peers().counts(&published);
    assert_eq!(stock.incomplete, 3);
}

#[test]
fn strangers_cannot_ask_for_our_nodes() {
    let head = head();
    let published = head.hub.find("thing", Some(1)).unwrap();
    assert_eq!(published.manifest.serial, Serial(1));
    let own = announce([0; 20], 1);
    let ip = Ipv4Addr::LOCALHOST.into();
    let told = head.hub.peers().announce_own(&published, ip, &own);
    assert_eq!(told.unwrap().counts.incomplete, 1);
    for name in head.names() {
        assert_eq!(head.announce(name, 2).unwrap().peers, []);
    }
    let told = head.hub.peers().announce_own(&published, ip, &own);
    assert_eq!(told.unwrap().peers, []);
    let [nodes, stock] = head.hub.peers().counts(&published);
    assert_eq!((nodes.incomplete, stock.incomplete), (1, 1));
}
