//! The control channel over real sockets of the loopback interface.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::base::counter::Counters;
use crate::base::event::{Event, Events};
use crate::base::{PieceIndex, Serial};
use crate::deploy::catalog::Catalog;
use crate::deploy::hub::{Gate, Hub, Published, Transports};
use crate::deploy::plain;
use crate::deploy::token::{Fingerprint, Secret, Token};
use crate::image::sign;

const BYTES: usize = 300_000;

fn sample() -> Vec<u8> {
    (0..BYTES)
        .map(|at| u8::try_from((at * 13 + at / 251) % 251).unwrap())
        .collect()
}

struct Head {
    server: Server,
    token: Token,
    hub: Arc<Hub>,
}

fn head() -> Head {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    start(Token::rooted().unwrap(), listen, Events::ignore())
}

/// The same head, started anew.
fn head_again(head: &Head) -> Head {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    start(head.token, listen, Events::ignore())
}

/// A head that listens there, and what it warns of.
fn head_with_warnings(listen: SocketAddr) -> (Head, Arc<Mutex<Vec<String>>>) {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&warnings);
    let events = Events::new(move |event| {
        if let Event::Warning { text } = event {
            told.lock().unwrap().push(text);
        }
    });
    let head = start(Token::rooted().unwrap(), listen, events);
    (head, warnings)
}

fn start(token: Token, listen: SocketAddr, events: Events) -> Head {
    let seed = token.head_seed().unwrap().unwrap();
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&sample(), 0).unwrap();
    let name = "thing".parse().unwrap();
    let manifest = plain::describe(&file, name, &Events::ignore()).unwrap();
    let sealed = sign::seal(&manifest, &sign::SigningKey::from_seed(seed));
    let catalog = Catalog::default();
    catalog.insert(Arc::new(Published {
        manifest: Arc::new(manifest),
        sealed: sealed.into(),
        bundle: Arc::new(file),
        torrent: None,
        torrent_v1: None,
        is_hashed: true,
    }));
    let gate = Gate::Only(token.secret);
    let counters = Arc::new(Counters::default());
    let hub = Hub::new(&seed, catalog, gate, Transports::none(), counters, events);
    let hub = Arc::new(hub.unwrap());
    let server = Server::start(listen, &seed, Arc::clone(&hub)).unwrap();
    Head { server, token, hub }
}

fn client(head: &Head, token: &Token) -> Client {
    Client::new(head.server.local(), token).unwrap()
}

fn report(phase: Phase, host: &str) -> Report {
    Report {
        node: "00".repeat(16),
        host: host.to_owned(),
        image: "thing".to_owned(),
        serial: 1,
        phase,
        bytes_done: 5,
        bytes_total: 10,
        shares: Shares::default(),
        loss: 0.25,
        cause: String::new(),
    }
}

#[test]
fn a_node_gets_manifest_ranges_and_status_over_one_connection() {
    let head = head();
    let mut client = client(&head, &head.token);
    let images = client.images().unwrap();
    assert_eq!((images[0].name.as_str(), images[0].serial), ("thing", 1));
    let sealed = client.manifest("thing", None).unwrap();
    let key = sign::PublicKey::from_bytes(client.head_key().unwrap());
    assert_eq!(Fingerprint::of(key.as_bytes()), head.token.head);
    let manifest = sign::open(&sealed, &key).unwrap();
    let last = manifest.geometry.range(PieceIndex::new(0));
    for range in [0..1, 7..200_000, last] {
        let bytes = client.range("thing", Serial(1), range.clone()).unwrap();
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
        assert_eq!(bytes, sample()[start..end]);
    }
    let join = JoinRequest {
        node: "00".repeat(16),
        host: "n1".to_owned(),
        mtu: 1500,
    };
    let reply = client.join("thing", Serial(1), &join).unwrap();
    assert_eq!(reply.session, None);
}

fn swarming(node: u8, port: u16, state: Swarming) -> PeersRequest {
    PeersRequest {
        node: format!("{node:02x}").repeat(16),
        port,
        pieces_done: 0,
        state,
    }
}

#[test]
fn nodes_of_a_swarm_find_each_other_and_hear_when_all_are_complete() {
    let head = head();
    let mut client = client(&head, &head.token);
    let mut say = |node, port, state| {
        let reply = client.peers("thing", Serial(1), &swarming(node, port, state));
        let reply = reply.unwrap();
        let ports: Vec<u16> = reply.peers.iter().map(SocketAddr::port).collect();
        (ports, reply.all_complete)
    };
    assert_eq!(say(1, 1001, Swarming::Complete), (vec![], true));
    assert_eq!(say(2, 1002, Swarming::Leeching), (vec![1001], false));
    assert_eq!(say(1, 1001, Swarming::Complete), (vec![1002], false));
    assert_eq!(say(2, 1002, Swarming::Complete), (vec![1001], true));
    // Who tells of missing bytes by a report only is waited for too.
    head.hub.take_report(report(Phase::Receiving, "n3"));
    assert_eq!(say(1, 1001, Swarming::Complete), (vec![1002], false));
    let mut done = report(Phase::Verifying, "n3");
    done.bytes_done = done.bytes_total;
    head.hub.take_report(done);
    assert_eq!(say(1, 1001, Swarming::Leaving), (vec![], true));
    assert_eq!(say(2, 1002, Swarming::Complete), (vec![], true));
}

#[test]
fn the_secret_of_a_swarm_is_told_to_admitted_nodes_alone() {
    let head = head();
    let mut admitted = client(&head, &head.token);
    let request = swarming(1, 1001, Swarming::Leeching);
    let first = admitted.peers("thing", Serial(1), &request).unwrap();
    let again = admitted.peers("thing", Serial(1), &request).unwrap();
    assert_eq!((first.secret.len(), &first.secret), (64, &again.secret));
    let token = Token {
        secret: Secret::random().unwrap(),
        ..head.token
    };
    let refused = client(&head, &token).peers("thing", Serial(1), &request);
    assert!(matches!(refused, Err(Refusal::BadToken)), "{refused:?}");
    let other = head_again(&head);
    let secret = client(&other, &other.token).peers("thing", Serial(1), &request);
    let secret = secret.unwrap().secret;
    assert_eq!(secret, first.secret, "nodes go on after a new start");
}

#[test]
fn a_swarm_takes_no_node_without_a_port_and_no_address_with_too_many() {
    let head = head();
    let mut client = client(&head, &head.token);
    let mut say = |port| {
        let request = swarming(1, port, Swarming::Leeching);
        client.peers("thing", Serial(1), &request)
    };
    let most = u16::try_from(crate::swarm::tracker::limits::PEERS_PER_ADDRESS_MAX).unwrap();
    for port in 1..=most {
        assert!(say(port).unwrap().peers.len() <= 8);
    }
    for port in [0, most + 1] {
        let refused = say(port);
        assert!(matches!(refused, Err(Refusal::Busy(_))), "{refused:?}");
    }
    say(1).unwrap();
    let unknown = client.peers("other", Serial(1), &swarming(1, 1, Swarming::Leeching));
    assert!(matches!(unknown, Err(Refusal::NotFound(_))), "{unknown:?}");
}

#[test]
fn reports_reach_status_and_metrics_without_control_characters() {
    let head = head();
    let mut client = client(&head, &head.token);
    client
        .report(&report(Phase::Receiving, "n\u{1b}[2J1"))
        .unwrap();
    assert_eq!(head.hub.nodes_done(), 0);
    client.report(&report(Phase::Done, "n\u{1b}[2J1")).unwrap();
    assert_eq!(head.hub.nodes_done(), 1);
    let status = head.hub.status();
    assert_eq!(status["nodes"][0]["host"], "n?[2J1");
    assert!(head.hub.metrics().contains("flashover_nodes_done 1\n"));
}

#[test]
fn a_wrong_secret_is_refused() {
    let head = head();
    let token = Token {
        secret: Secret::random().unwrap(),
        ..head.token
    };
    let refusal = client(&head, &token).images().unwrap_err();
    assert!(matches!(refusal, Refusal::BadToken), "{refusal}");
}

#[test]
fn another_head_is_refused_before_the_secret_is_shown() {
    let head = head();
    let token = Token {
        head: Fingerprint::of(&[9; 32]),
        ..head.token
    };
    let refusal = client(&head, &token).images().unwrap_err();
    assert!(matches!(refusal, Refusal::NotTheHead(_)), "{refusal}");
}

#[test]
fn what_is_not_in_the_table_does_not_exist() {
    let head = head();
    let mut client = client(&head, &head.token);
    for (name, serial) in [
        ("other", None),
        ("thing", Some(Serial(2))),
        ("..%2f..%2fetc%2fpasswd", None),
    ] {
        let refusal = client.manifest(name, serial).unwrap_err();
        assert!(matches!(refusal, Refusal::NotFound(_)), "{name}: {refusal}");
    }
    assert!(client.manifest("thing", Some(Serial(1))).is_ok());
}

#[test]
fn ranges_past_the_end_and_large_bodies_are_refused() {
    let head = head();
    let mut client = client(&head, &head.token);
    let end = BYTES as u64;
    let refusal = client.range("thing", Serial(1), end..end + 1).unwrap_err();
    assert!(refusal.to_string().contains("416"), "{refusal}");
    let join = JoinRequest {
        node: "0".repeat(REQUEST_BYTES_MAX),
        host: String::new(),
        mtu: 1500,
    };
    let refusal = client.join("thing", Serial(1), &join).unwrap_err();
    assert!(refusal.to_string().contains("413"), "{refusal}");
    assert!(client.images().is_ok());
}

#[test]
fn a_head_that_is_gone_is_named_and_one_that_returns_is_used() {
    let first = head();
    let mut client = client(&first, &first.token);
    client.images().unwrap();
    let (address, hub) = (first.server.local(), Arc::clone(&first.hub));
    drop(first.server);
    let refusal = client.images().unwrap_err();
    assert!(refusal.is_passing(), "{refusal}");
    let seed = first.token.head_seed().unwrap().unwrap();
    let _again = Server::start(address, &seed, hub).unwrap();
    client.images().unwrap();
}

#[test]
fn strangers_that_send_nothing_or_nonsense_do_not_stop_others() {
    let head = head();
    let address = head.server.local();
    let silent: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let mut rude = TcpStream::connect(address).unwrap();
    rude.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    rude.write_all(b"GET /v1/images HTTP/1.1\r\nHost: head\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    // The server ends the connection; a TLS alert may come first, never an HTTP answer.
    let _ended = rude.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"));
    client(&head, &head.token).images().unwrap();
    drop(silent);
}

/// Row 21 of the fault matrix: two machines with one id.
#[test]
fn row_21_the_second_machine_with_an_id_is_refused_while_the_first_is_alive() {
    let (head, warnings) = head_with_warnings(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
    let port = head.server.local().port();
    let at = |ip: IpAddr| Client::new(SocketAddr::new(ip, port), &head.token).unwrap();
    let mut first = at(Ipv4Addr::LOCALHOST.into());
    let mut second = at(Ipv6Addr::LOCALHOST.into());
    let join = |host: &str| JoinRequest {
        node: "00".repeat(16),
        host: host.to_owned(),
        mtu: 1500,
    };
    first.join("thing", Serial(1), &join("one")).unwrap();
    for _ in 0..2 {
        let refusal = second.join("thing", Serial(1), &join("two")).unwrap_err();
        assert!(matches!(refusal, Refusal::IdTaken(_)), "{refusal}");
        let text = refusal.to_string();
        assert!(text.contains("the machine at 127.0.0.1 has it"), "{text}");
    }
    // Nor does it speak for the first.
    first.report(&report(Phase::Receiving, "one")).unwrap();
    let refusal = second.report(&report(Phase::Receiving, "two")).unwrap_err();
    assert!(matches!(refusal, Refusal::IdTaken(_)), "{refusal}");
    let status = head.hub.status();
    let node = &status["nodes"][0];
    assert_eq!(node["host"], "one");
    assert_eq!(node["address"], "127.0.0.1");
    assert_eq!(node["rival"], "::1");
    let told: Vec<String> = warnings.lock().unwrap().clone();
    assert_eq!(told.len(), 1, "told once: {told:?}");
    assert!(told[0].contains("two at ::1 has the node id of 127.0.0.1"));
    // Ranges are for whoever has the token.
    assert_eq!(second.range("thing", Serial(1), 0..4).unwrap().len(), 4);
    first.report(&report(Phase::Done, "one")).unwrap();
    second.join("thing", Serial(1), &join("two")).unwrap();
}
