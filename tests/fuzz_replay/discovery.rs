//! Seeds of the targets that find peers.

use std::time::Duration;

use flashover::swarm::bencode::{DictWriter, ListWriter};
use flashover::swarm::lsd::{GROUP_V4, Search};
use flashover::swarm::tracker::udp::{Request, RequestBody, Response, ResponseBody};
use flashover::swarm::tracker::{Announce, Event, Reply, Scraped, http};

const TORRENT: [u8; 20] = *b"aaaaaaaaaaaaaaaaaaaa";

pub(super) fn all() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let join = |queries: &[String]| queries.join("\n").into_bytes();
    let say = |event, left| http::query(&announce(event, left), Some(b"id"));
    let verbose = say(Event::None, 5).replace("compact=1", "compact=0");
    let scrape = "info_hash=aaaaaaaaaaaaaaaaaaaa&info_hash=bbbbbbbbbbbbbbbbbbbb";
    let search = Search {
        host: GROUP_V4,
        port: 6881,
        info_hashes: vec![TORRENT, [0xab; 20]],
        cookie: Some("1a2b".to_owned()),
    };
    vec![
        (
            "http_tracker",
            "queries",
            join(&[say(Event::Started, 5), say(Event::Completed, 0), verbose]),
        ),
        ("http_tracker", "scrape", scrape.into()),
        ("http_tracker", "reply", compact()),
        ("http_tracker", "verbose", dictionaries()),
        ("http_tracker", "counts", counts()),
        ("udp_tracker", "requests", requests()),
        ("udp_tracker", "responses", responses()),
        ("lsd", "two", search.emit()),
    ]
}

fn announce(event: Event, left: u64) -> Announce {
    Announce {
        info_hash: TORRENT,
        peer_id: *b"-XX0000-abcdefghijkl",
        port: 6881,
        uploaded: 1,
        downloaded: 2,
        left,
        event,
        peers_wanted: Some(50),
        key: 4,
    }
}

fn compact() -> Vec<u8> {
    let mut reply = DictWriter::new();
    reply
        .int(b"interval", 60)
        .int(b"min interval", 5)
        .int(b"complete", 1)
        .bytes(b"tracker id", b"x")
        .bytes(b"peers", &[10, 0, 0, 1, 26, 225])
        .bytes(b"peers6", &[0xfd; 18]);
    reply.finish()
}

fn dictionaries() -> Vec<u8> {
    let (mut peers, mut peer, mut reply) =
        (ListWriter::new(), DictWriter::new(), DictWriter::new());
    peer.bytes(b"ip", b"10.0.0.1").int(b"port", 6881);
    peers.dict(peer);
    reply
        .int(b"interval", 60)
        .bytes(b"warning message", b"slow")
        .list(b"peers", peers);
    reply.finish()
}

fn counts() -> Vec<u8> {
    let (mut file, mut files, mut reply) =
        (DictWriter::new(), DictWriter::new(), DictWriter::new());
    file.int(b"complete", 1).int(b"incomplete", 2);
    files.dict(&TORRENT, file);
    reply.dict(b"files", files);
    reply.finish()
}

fn run(bytes: &[u8]) -> Vec<u8> {
    let len = u8::try_from(bytes.len()).expect("runs are short");
    [&[len][..], bytes].concat()
}

fn requests() -> Vec<u8> {
    let connection = 5;
    let bodies = [
        RequestBody::Connect,
        RequestBody::Announce {
            connection,
            announce: announce(Event::Started, 5),
        },
        RequestBody::Scrape {
            connection,
            info_hashes: vec![TORRENT; 2],
        },
    ];
    let run_of = |body| {
        run(&Request {
            transaction: 7,
            body,
        }
        .emit())
    };
    [&[0, 0][..], &bodies.map(run_of).concat(), &[0]].concat()
}

fn responses() -> Vec<u8> {
    let reply = Reply {
        interval: Duration::from_secs(60),
        complete: Some(1),
        incomplete: Some(2),
        peers: vec!["10.0.0.1:6881".parse().expect("an address")],
        ..Reply::default()
    };
    let bodies = [
        (7, ResponseBody::Connect(5)),
        (8, ResponseBody::Announce(reply)),
        (8, ResponseBody::Scrape(vec![Scraped::default()])),
        (8, ResponseBody::Error(b"no".to_vec())),
    ];
    let run_of = |(transaction, body)| run(&Response { transaction, body }.emit());
    bodies.map(run_of).concat()
}
