//! Pieces over real sockets of the loopback interface, from our own web seed and from bad ones.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use tokio::sync::mpsc::channel;

use super::*;
use crate::base::{Bitmap, Time};
use crate::deploy::open::tests::{FILE, Head, head, sample};
use crate::swarm::webseed::WebSeeds;

/// What a test may take; none should come near.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs a test's tasks; what has a thread of its own is made before.
fn block_on(work: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    runtime.block_on(work);
}

struct Client {
    orders: Sender<Order>,
    ended: Receiver<Ended>,
}

fn client() -> Client {
    let (orders, receives) = channel(4);
    let (ends, ended) = channel(4);
    tokio::spawn(run(receives, ends));
    Client { orders, ended }
}

impl Client {
    async fn order(&self, order: Order) {
        self.orders.send(order).await.unwrap();
    }

    async fn ended(&mut self) -> Ended {
        let ended = tokio::time::timeout(DEADLINE, self.ended.recv()).await;
        ended.unwrap().expect("it runs")
    }
}

/// An order for bytes 7 to 11 of a file at this server.
fn fetch(head: &Head, server: SocketAddr) -> Fetch {
    let mut seeds = WebSeeds::new([format!("http://{server}/f")], 1, Time::ZERO);
    let have = Bitmap::new(head.torrent.info().layout().piece_count() as usize);
    let fetch = seeds.poll(head.torrent.info(), &have, Time::ZERO).unwrap();
    Fetch {
        len: 5,
        requests: vec![Request {
            url: format!("http://{server}/f"),
            range: 7..12,
            at: 0,
        }],
        ..fetch
    }
}

/// A server that answers every connection once with the same bytes.
fn server(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut request = [0; 4096];
            drop(stream.read(&mut request));
            // The client may have seen enough already.
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    address
}

#[test]
fn all_pieces_come_from_our_own_web_seed() {
    let head = head();
    block_on(async {
        let info = head.torrent.info();
        let url = format!("http://{}/{FILE}", head.open.local());
        let mut seeds = WebSeeds::new([url], 1, Time::ZERO);
        let mut have = Bitmap::new(info.layout().piece_count() as usize);
        let mut client = client();
        let mut whole = vec![0; sample().len()];
        let mut under_way = 0;
        loop {
            while let Some(fetch) = seeds.poll(info, &have, Time::ZERO) {
                client.order(Order::Fetch(fetch)).await;
                under_way += 1;
            }
            if under_way == 0 {
                break;
            }
            let Ended { seed, piece, bytes } = client.ended().await;
            under_way -= 1;
            let bytes = bytes.unwrap();
            let start = usize::try_from(info.layout().piece_range(piece).start).unwrap();
            whole[start..start + bytes.len()].copy_from_slice(&bytes);
            have.set(piece.get() as usize);
            seeds.ended(seed, piece, Outcome::Verified, Time::ZERO);
        }
        assert!(whole == sample(), "the pieces make the file");
    });
}

#[test]
fn answers_are_judged() {
    let head = head();
    block_on(async {
        for (answer, outcome) in [
            (
                "HTTP/1.1 206 P\r\nContent-Range: bytes 7-11/99\r\nContent-Length: 5\r\n\r\nabcde",
                Ok(b"abcde".to_vec()),
            ),
            (
                "HTTP/1.1 206 P\r\nContent-Range: bytes 6-10/99\r\nContent-Length: 5\r\n\r\nabcde",
                Err(Outcome::Unsuitable),
            ),
            (
                "HTTP/1.1 206 P\r\nContent-Length: 5\r\n\r\nabcde",
                Err(Outcome::Unsuitable),
            ),
            (
                "HTTP/1.1 206 P\r\nContent-Range: bytes 7-11/99\r\nContent-Length: 6\r\n\r\nabcdef",
                Err(Outcome::Unsuitable),
            ),
            (
                "HTTP/1.1 206 P\r\nContent-Range: bytes 7-11/99\r\nContent-Length: 5\r\n\r\nabc",
                Err(Outcome::Unavailable),
            ),
            (
                "HTTP/1.1 206 P\r\nContent-Range: bytes 7-11/99\r\nContent-Length: 3\r\n\r\nabc",
                Err(Outcome::Unavailable),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde",
                Err(Outcome::Unsuitable),
            ),
            (
                "HTTP/1.1 302 F\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
                Err(Outcome::Unsuitable),
            ),
            (
                "HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n",
                Err(Outcome::Unsuitable),
            ),
            (
                "HTTP/1.1 503 B\r\nContent-Length: 0\r\n\r\n",
                Err(Outcome::Unavailable),
            ),
            ("no HTTP\r\n\r\n", Err(Outcome::Unavailable)),
            ("", Err(Outcome::Unavailable)),
        ] {
            let mut client = client();
            client
                .order(Order::Fetch(fetch(&head, server(answer))))
                .await;
            assert_eq!(client.ended().await.bytes, outcome, "{answer}");
        }
    });
}

#[test]
fn a_whole_file_needs_no_server_that_does_ranges() {
    let head = head();
    block_on(async {
        let address = server("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde");
        let mut whole = fetch(&head, address);
        whole.requests[0].range = 0..5;
        let mut client = client();
        // The second time, the connection that was kept turns out dead.
        for _ in 0..2 {
            client.order(Order::Fetch(whole.clone())).await;
            assert_eq!(client.ended().await.bytes, Ok(b"abcde".to_vec()));
        }
    });
}

#[test]
fn a_fetch_that_is_cancelled_ends_once() {
    let head = head();
    block_on(async {
        // It takes connections, by its backlog, and says nothing.
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let silent = fetch(&head, silent.local_addr().unwrap());
        let (seed, piece) = (silent.seed, silent.piece);
        let mut client = client();
        client.order(Order::Fetch(silent)).await;
        client.order(Order::Cancel(seed, piece)).await;
        client.order(Order::Cancel(seed, piece)).await;
        let cancelled = Ended {
            seed,
            piece,
            bytes: Err(Outcome::Cancelled),
        };
        assert_eq!(client.ended().await, cancelled);
        let good = server(
            "HTTP/1.1 206 P\r\nContent-Range: bytes 7-11/99\r\nContent-Length: 5\r\n\r\nabcde",
        );
        client.order(Order::Fetch(fetch(&head, good))).await;
        assert_eq!(client.ended().await.bytes, Ok(b"abcde".to_vec()));
    });
}
