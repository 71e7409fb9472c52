//! Announcements over real sockets of the loopback interface, to our own trackers and to bad ones.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use super::*;
use crate::deploy::open::tests::{Head, head};

/// What a test may take; none should come near.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs a test's tasks; what has a thread of its own is made before.
fn block_on(work: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().unwrap();
    runtime.block_on(work);
}

struct Client {
    told: Sender<Told>,
    found: Receiver<Vec<SocketAddr>>,
    task: JoinHandle<()>,
}

fn client(head: &Head, port: u16, tiers: &[&[&str]]) -> Client {
    let tier = |urls: &&[&str]| urls.iter().map(|url| url.parse().unwrap()).collect();
    let config = Config {
        identity: Identity {
            info_hash: head.names()[0],
            peer_id: [5; 20],
            port,
            key: 1,
        },
        tiers: tiers.iter().map(tier).collect(),
        seed: port.into(),
    };
    let (told, hears) = channel(4);
    let (finds, found) = channel(4);
    let task = tokio::spawn(run(config, hears, finds));
    Client { told, found, task }
}

impl Client {
    async fn say(&self, left: u64, event: Event) {
        let progress = Progress {
            left,
            ..Progress::default()
        };
        let said = self.told.send(Told { progress, event });
        tokio::time::timeout(DEADLINE, said).await.unwrap().unwrap();
    }

    async fn finds(&mut self) -> Vec<SocketAddr> {
        let found = tokio::time::timeout(DEADLINE, self.found.recv()).await;
        found.unwrap().expect("it runs")
    }

    async fn ends(self) {
        tokio::time::timeout(DEADLINE, self.task)
            .await
            .unwrap()
            .unwrap();
    }
}

/// Waits until the tracker has so many complete and incomplete peers.
async fn counts(head: &Head, complete: u32, incomplete: u32) {
    let published = head.hub.find("thing", None).unwrap();
    let reached = async {
        loop {
            let [_, stock] = head.hub.peers().counts(&published);
            if (stock.complete, stock.incomplete) == (complete, incomplete) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, reached).await.unwrap();
}

/// A server that gives every connection the same answer; tells how many there were.
fn server(answer: String) -> (SocketAddr, std::sync::mpsc::Receiver<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut request = [0; 4096];
            let read = stream.read(&mut request);
            if read.is_err() || asked.send(()).is_err() {
                return;
            }
            // The client may have seen enough already.
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    (address, heard)
}

fn tracker(head: &Head, scheme: &str) -> String {
    format!("{scheme}://{}/announce", head.open.local())
}

#[test]
fn peers_find_each_other_by_http_and_udp_and_say_goodbye() {
    let head = head();
    block_on(async {
        let (by_http, by_udp) = (tracker(&head, "http"), tracker(&head, "udp"));
        let first = client(&head, 1001, &[&[&by_http]]);
        first.say(5, Event::None).await;
        counts(&head, 0, 1).await;
        let mut second = client(&head, 1002, &[&[&by_udp]]);
        second.say(5, Event::Hungry).await;
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 1001));
        assert_eq!(second.finds().await, [here]);
        counts(&head, 0, 2).await;
        second.say(0, Event::Completed).await;
        counts(&head, 1, 1).await;
        first.say(0, Event::Completed).await;
        counts(&head, 2, 0).await;
        second.say(0, Event::Stopped).await;
        second.ends().await;
        counts(&head, 1, 0).await;
        // An owner that is gone wants no more.
        let Client { told, found, task } = first;
        drop((told, found));
        tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap();
        counts(&head, 0, 0).await;
    });
}

#[test]
fn bad_trackers_are_passed_over_and_redirects_not_followed() {
    let head = head();
    block_on(async {
        let (elsewhere, visits) = server("HTTP/1.1 200 OK\r\n\r\nd8:intervali60ee".to_owned());
        let redirect = format!(
            "HTTP/1.1 302 Found\r\nLocation: http://{elsewhere}/\r\nContent-Length: 0\r\n\r\n"
        );
        let huge = format!("HTTP/1.1 200 OK\r\n\r\nd{}", "x".repeat(2 << 20));
        let refusal = "HTTP/1.1 403 No\r\n\r\nd14:failure reason2:noe".to_owned();
        let bad = [redirect, huge, refusal, "no HTTP".to_owned()].map(|answer| server(answer).0);
        let bad = bad.map(|address| format!("http://{address}/announce"));
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let closed = format!("udp://{}/", closed.local_addr().unwrap());
        let mut tiers: Vec<Vec<&str>> = bad.iter().map(|url| vec![url.as_str()]).collect();
        let good = tracker(&head, "http");
        tiers.extend([vec![closed.as_str()], vec![good.as_str()]]);
        let tiers: Vec<&[&str]> = tiers.iter().map(Vec::as_slice).collect();
        let client = client(&head, 1003, &tiers);
        client.say(5, Event::None).await;
        let published = head.hub.find("thing", None).unwrap();
        let known = async {
            while head.hub.peers().counts(&published)[1].incomplete == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, known).await.unwrap();
        assert!(
            visits.try_recv().is_err(),
            "it was sent elsewhere, and went"
        );
        client.say(5, Event::Stopped).await;
        client.ends().await;
    });
}

#[test]
fn a_silent_tracker_does_not_keep_a_client_from_its_end() {
    let head = head();
    block_on(async {
        // It takes connections, by its backlog, and says nothing.
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let silent = format!("http://{}/announce", silent.local_addr().unwrap());
        let client = client(&head, 1004, &[&[&silent]]);
        client.say(5, Event::None).await;
        client.say(5, Event::Stopped).await;
        client.ends().await;
    });
}

#[test]
fn addresses_that_nobody_listens_at_are_left_out() {
    for (peer, fits) in [
        ("10.0.0.1:5", true),
        ("[::1]:5", true),
        ("10.0.0.1:0", false),
        ("0.0.0.0:5", false),
        ("224.0.0.1:5", false),
        ("255.255.255.255:5", false),
        ("[ff02::1]:5", false),
    ] {
        assert_eq!(can_be_peer(&peer.parse().unwrap()), fits, "{peer}");
    }
}

fn ask_of(url: &str) -> Ask {
    let identity = Identity {
        info_hash: [1; 20],
        peer_id: [5; 20],
        port: 1001,
        key: 1,
    };
    let tiers = [vec![url.parse().unwrap()]];
    let mut announcer = Announcer::new(identity, &tiers, 1, Time::ZERO);
    announcer.poll(Progress::default(), Time::ZERO).unwrap()
}

/// A tracker that tells of one peer by HTTP.
fn telling(peer: [u8; 4]) -> SocketAddr {
    let body = [&b"d8:intervali60e5:peers6:"[..], &peer, &[0x1a, 0xe1], b"e"].concat();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut request = [0; 4096];
            drop(stream.read(&mut request));
            drop(stream.write_all(&[head.as_bytes(), &body].concat()));
        }
    });
    address
}

#[test]
fn every_address_of_a_tracker_is_tried() {
    // Nobody listens there any more.
    let here = (Ipv4Addr::LOCALHOST, 0);
    let closed = TcpListener::bind(here).unwrap().local_addr().unwrap();
    let gone = std::net::UdpSocket::bind(here)
        .unwrap()
        .local_addr()
        .unwrap();
    let good = telling([10, 0, 0, 1]);
    let peer = SocketAddr::from(([10, 0, 0, 1], 0x1ae1));
    // Somebody listens, and says nothing.
    let mute = TcpListener::bind((std::net::Ipv6Addr::LOCALHOST, 0)).unwrap();
    let silent = mute.local_addr().unwrap();
    block_on(async {
        let ask = ask_of("http://tracker/announce");
        let answered = at_addresses(&ask, vec![closed, good], 7).await.unwrap();
        assert_eq!(answered.peers, [peer]);
        // One family is not waited for when the other has answered.
        let started = Instant::now();
        let answered = at_addresses(&ask, vec![silent, good], 7).await.unwrap();
        assert_eq!(answered.peers, [peer]);
        assert!(
            started.elapsed() < FAMILY_PATIENCE * 4,
            "{:?}",
            started.elapsed()
        );
        let refused = at_addresses(&ask, vec![closed], 7).await;
        assert_eq!(refused, Err(Error::Silent));
        let ask = ask_of("udp://tracker:1/announce");
        assert_eq!(at_addresses(&ask, vec![gone], 7).await, Err(Error::Silent));
    });
    drop(mute);
}

#[test]
fn what_both_families_say_is_joined() {
    let said = |last: &[u8]| {
        let peers = last
            .iter()
            .map(|&last| SocketAddr::from(([10, 0, 0, last], 1)));
        Ok(Reply {
            peers: peers.collect(),
            ..Reply::default()
        })
    };
    let refused = || Err(Error::Refused("no".to_owned()));
    assert_eq!(joined(said(&[1, 2]), said(&[2, 3])), said(&[1, 2, 3]));
    assert_eq!(joined(said(&[1]), refused()), said(&[1]));
    assert_eq!(joined(Err(Error::Silent), said(&[1])), said(&[1]));
    assert_eq!(joined(Err(Error::Silent), refused()), refused());
    assert_eq!(joined(refused(), Err(Error::Silent)), refused());
}
