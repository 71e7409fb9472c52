//! TCP streams: both backends, and each of the ways in which the ring uses them.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each machine here cares for one or two of the inputs"
)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::namespace::in_namespace_under;
use super::theatre::{Actor, Theatre, theatre};
use super::*;
use crate::engine::limits::{STREAM_UNSENT_BYTES, STREAM_ZERO_COPIES_MAX};
use crate::machine::{Closed, StreamId};

fn listener() -> Listener {
    Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap()
}

/// A stream to the listener, that does not wait for ever.
fn dial(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn go_on() -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn connect(number: u32, to: SocketAddr) -> StreamOp {
    let id = StreamId::outgoing(number);
    StreamOp::Connect { id, to }
}

fn reset(stream: TcpStream) {
    let stream = socket2::Socket::from(stream);
    stream.set_linger(Some(Duration::ZERO)).unwrap();
}

/// The ways that streams know: the ring's standing orders and polls, with and without copies; and
/// plain calls.
fn stream_ways() -> [Ways; 4] {
    ["ring,zc,gro", "ring,gso,gro", "ring,send,recv", "plain"].map(|words| words.parse().unwrap())
}

#[test]
fn an_echo_gives_every_byte_back_in_order() {
    for ways in stream_ways() {
        let listener = listener();
        let to = listener.local();
        let bytes = pattern(5_000_000);
        let sent = bytes.clone();
        let client = std::thread::spawn(move || {
            let mut stream = dial(to);
            let mut reader = stream.try_clone().unwrap();
            let writer = std::thread::spawn(move || {
                stream.write_all(&sent).unwrap();
                stream
            });
            let mut got = vec![0; 5_000_000];
            reader.read_exact(&mut got).unwrap();
            drop(writer.join().unwrap());
            got
        });
        let mut theatre = theatre(ways, vec![listener], vec![]);
        let mut heard = Vec::new();
        let (mut received, mut sent) = (0, 0);
        theatre.play(&mut Actor::new([], |input, wishes| {
            match input {
                StreamInput::Received { id, bytes } => {
                    received += bytes.len();
                    let bytes = Bytes::copy_from_slice(bytes);
                    wishes.push_back(StreamOp::Send { id, bytes });
                }
                StreamInput::Sent { count, .. } => sent += count,
                StreamInput::Closed { id, why } => {
                    assert_eq!((id, why), (StreamId::incoming(0), Closed::ByPeer));
                    return ControlFlow::Break(());
                }
                other @ (StreamInput::Accepted { .. } | StreamInput::Connected { .. }) => {
                    heard.push(format!("{other:?}"));
                }
            }
            go_on()
        }));
        assert!(client.join().unwrap() == bytes, "{ways}");
        assert_eq!((received, sent), (bytes.len(), bytes.len()));
        assert_eq!(heard.len(), 1);
        assert!(heard[0].starts_with("Accepted"), "{heard:?}");
        let total = bytes.len() as u64;
        assert_eq!(theatre.count(Counter::StreamBytesIn), total);
        assert_eq!(theatre.count(Counter::StreamBytesOut), total);
        assert_eq!(theatre.count(Counter::StreamsOpened), 1);
        assert_eq!(theatre.count(Counter::StreamsClosed), 1);
    }
}

#[test]
fn many_small_parts_leave_in_few_sends() {
    for ways in stream_ways() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let reader = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            got
        });
        let id = StreamId::outgoing(0);
        let parts: Vec<Bytes> = (0..600_u32)
            .map(|number| Bytes::copy_from_slice(&number.to_be_bytes()))
            .collect();
        let mut theatre = theatre(ways, vec![], vec![]);
        let (mut sent, mut wanted) = (0, Vec::new());
        wanted.push(connect(0, to));
        // Before it is open, too.
        for part in &parts {
            let bytes = part.clone();
            wanted.push(StreamOp::Send { id, bytes });
        }
        theatre.play(&mut Actor::new(wanted, |input, wishes| {
            if let StreamInput::Sent { count, .. } = input {
                sent += count;
                if sent == 4 * parts.len() {
                    wishes.push_back(StreamOp::Close { id });
                }
            }
            match input {
                StreamInput::Closed { why, .. } => {
                    assert_eq!(why, Closed::ByUs);
                    ControlFlow::Break(())
                }
                _ => go_on(),
            }
        }));
        assert_eq!(reader.join().unwrap(), parts.concat());
        assert_eq!(theatre.count(Counter::StreamSends), 3, "256 parts in each");
    }
}

/// Sends `total` bytes from one driver to another, in the given ways; gives the sender's theatre.
fn transfer(sender_ways: Ways, receiver_ways: Ways, total: usize) -> Theatre {
    let listener = listener();
    let to = listener.local();
    let receiver = std::thread::spawn(move || {
        let mut theatre = theatre(receiver_ways, vec![listener], vec![]);
        let mut received = 0;
        theatre.play(&mut Actor::new([], |input, _| match input {
            StreamInput::Received { bytes, .. } => {
                for (byte, at) in bytes.iter().zip(received..) {
                    assert_eq!(*byte, u8::try_from(at % 251).unwrap());
                }
                received += bytes.len();
                go_on()
            }
            StreamInput::Closed { .. } => ControlFlow::Break(()),
            _ => go_on(),
        }));
        assert_eq!(received, total);
    });
    let bytes: Bytes = (0..=250).cycle().take(total).collect::<Vec<u8>>().into();
    let id = StreamId::outgoing(0);
    let mut parts = Vec::new();
    parts.push(connect(0, to));
    for start in (0..total).step_by(16 * 1024) {
        let bytes = bytes.slice(start..total.min(start + 16 * 1024));
        parts.push(StreamOp::Send { id, bytes });
    }
    let mut theatre = theatre(sender_ways, vec![], vec![]);
    let mut sent = 0;
    theatre.play(&mut Actor::new(parts, |input, _| {
        if let StreamInput::Sent { count, .. } = input {
            sent += count;
        }
        if sent == total {
            ControlFlow::Break(())
        } else {
            go_on()
        }
    }));
    receiver.join().unwrap();
    theatre
}

#[test]
fn every_way_reaches_every_other() {
    for sender in stream_ways() {
        for receiver in stream_ways() {
            transfer(sender, receiver, 3_000_001);
        }
    }
}

#[test]
fn zero_copy_is_left_within_64_sends_where_the_route_copies() {
    let total = 200 << 20;
    let theatre = transfer(
        Ways {
            backend: Backend::Ring,
            ..Ways::BEST
        },
        Ways::PLAIN,
        total,
    );
    let asked = theatre.count(Counter::StreamZeroCopies);
    assert!(asked >= u64::from(COPIES_MAX), "it is tried: {asked}");
    assert!(asked <= u64::from(COPIES_MAX + STREAM_ZERO_COPIES_MAX) && asked <= 64);
    assert_eq!(theatre.count(Counter::StreamZeroCopiesCopied), asked);
    let sends = theatre.count(Counter::StreamSends);
    assert!(sends > 64, "most of it goes out with copies: {sends}");
    let without = transfer("ring,gso".parse().unwrap(), Ways::PLAIN, 1 << 20);
    assert_eq!(without.count(Counter::StreamZeroCopies), 0);
}

#[test]
fn a_peer_that_does_not_read_holds_up_nobody_and_its_bytes_are_let_go_of() {
    /// Counts the bytes that are still held.
    struct Held(Vec<u8>, Arc<AtomicUsize>);
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Held {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::Relaxed);
        }
    }
    for ways in stream_ways() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let id = StreamId::outgoing(0);
        let held = Arc::new(AtomicUsize::new(64));
        let mut wanted = vec![connect(0, to)];
        for _ in 0..64 {
            let bytes = Bytes::from_owner(Held(vec![7; 1 << 20], Arc::clone(&held)));
            wanted.push(StreamOp::Send { id, bytes });
        }
        let socket = loopback();
        let address = socket.local();
        let mut theatre = theatre(ways, vec![listener()], vec![socket]);
        let to_us = dial(theatre.address());
        let mailbox = theatre.mailbox.clone();
        let closer = std::thread::spawn(move || {
            let (silent, _) = server.accept().unwrap();
            // The stream fills while datagrams and another stream go on.
            let mut other = to_us;
            for _ in 0..50 {
                std::thread::sleep(Duration::from_millis(10));
                other.write_all(&[1]).unwrap();
                other.read_exact(&mut [0]).unwrap();
            }
            mailbox.send(StreamOp::Close { id }).unwrap();
            (silent, other)
        });
        let mut sent = 0;
        let mut actor = Actor::new(wanted, |input, wishes| {
            match input {
                StreamInput::Sent { id: which, count } if which == id => sent += count,
                StreamInput::Received { id, bytes } => {
                    let bytes = Bytes::copy_from_slice(bytes);
                    wishes.push_back(StreamOp::Send { id, bytes });
                }
                StreamInput::Closed { id: which, why } => {
                    assert_eq!((which, why), (id, Closed::ByUs));
                    return ControlFlow::Break(());
                }
                _ => {}
            }
            go_on()
        });
        actor.flood = Some((address, 0));
        theatre.play(&mut actor);
        let (_, datagrams) = actor.flood.unwrap();
        drop(actor);
        assert!(datagrams > 1000, "{ways}: {datagrams} datagrams went on");
        // What the kernel took: the other side's window, and what it may hold unsent here.
        assert!(sent < 16 << 20, "{ways}: {sent}");
        assert!(sent > STREAM_UNSENT_BYTES, "{ways}: {sent}");
        let (silent, _other) = closer.join().unwrap();
        drop(silent);
        drop(theatre);
        assert_eq!(held.load(Ordering::Relaxed), 0, "{ways}");
    }
}

#[test]
fn the_end_of_a_stream_says_why_after_its_last_bytes() {
    for ways in stream_ways() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
        let refused = nobody.local_addr().unwrap();
        drop(nobody);
        let listener = listener();
        let to = listener.local();
        let mut theatre = theatre(ways, vec![listener], vec![]);
        let mut streams = [dial(to), dial(to)];
        for stream in &mut streams {
            stream.write_all(b"last words").unwrap();
        }
        let [ends, breaks] = streams;
        ends.shutdown(Shutdown::Write).unwrap();
        let mut breaks = Some(breaks);
        let mut heard = std::collections::BTreeMap::<StreamId, Vec<String>>::new();
        let mut closed = 0;
        theatre.play(&mut Actor::new([connect(7, refused)], |input, _| {
            let id = input.id();
            if id == StreamId::incoming(1)
                && matches!(input, StreamInput::Received { .. })
                && let Some(stream) = breaks.take()
            {
                reset(stream);
            }
            closed += usize::from(matches!(input, StreamInput::Closed { .. }));
            let text = match input {
                StreamInput::Received { bytes, .. } => String::from_utf8(bytes.to_vec()).unwrap(),
                StreamInput::Closed { why, .. } => why.to_string(),
                _ => "open".to_owned(),
            };
            heard.entry(id).or_default().push(text);
            if closed == 3 {
                ControlFlow::Break(())
            } else {
                go_on()
            }
        }));
        let heard: Vec<_> = heard.into_values().collect();
        let expected = [
            vec!["The connection was refused"],
            vec!["open", "last words", "The other side ended the connection"],
            vec!["open", "last words", "The connection failed (errno 104)"],
        ];
        assert_eq!(heard, expected, "{ways}");
    }
}

#[test]
fn the_death_of_a_peers_process_is_heard() {
    for ways in stream_ways() {
        let listener = listener();
        let port = listener.local().port();
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; exec cat /dev/zero >&3");
        let mut peer = Command::new("bash")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut received = 0;
        let mut theatre = theatre(ways, vec![listener], vec![]);
        theatre.play(&mut Actor::new([], |input, _| match input {
            StreamInput::Received { bytes, .. } => {
                received += bytes.len();
                if received > 1_000_000 {
                    // A second time it is dead already.
                    let _dead = peer.kill();
                }
                go_on()
            }
            StreamInput::Closed { why, .. } => {
                assert_eq!(why, Closed::ByPeer);
                ControlFlow::Break(())
            }
            _ => go_on(),
        }));
        peer.wait().unwrap();
    }
}

#[test]
fn a_stream_that_nobody_answers_times_out() {
    // A listener whose backlog is full answers nobody.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    full.bind(&any.into()).unwrap();
    full.listen(0).unwrap();
    let to = full.local_addr().unwrap().as_socket().unwrap();
    let _first = dial(to);
    std::thread::scope(|scope| {
        for ways in stream_ways() {
            scope.spawn(move || {
                let mut theatre = theatre(ways, vec![], vec![]);
                theatre.play(&mut Actor::new([connect(0, to)], |input, _| match input {
                    StreamInput::Closed { why, .. } => {
                        assert_eq!(why, Closed::TimedOut, "{ways}");
                        ControlFlow::Break(())
                    }
                    other => panic!("{other:?}"),
                }));
            });
        }
    });
}

#[test]
fn a_stream_can_be_closed_while_it_opens() {
    for ways in stream_ways() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let id = StreamId::outgoing(0);
        let wanted = [connect(0, to), StreamOp::Close { id }];
        theatre(ways, vec![], vec![]).play(&mut Actor::new(wanted, |input, _| match input {
            StreamInput::Closed { why, .. } => {
                assert_eq!(why, Closed::ByUs, "{ways}");
                ControlFlow::Break(())
            }
            other => panic!("{other:?}"),
        }));
    }
}

#[test]
fn two_thousand_streams_at_a_time() {
    const COUNT: u32 = 2000;
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let enough = rustix::process::Rlimit {
        current: limits.maximum,
        ..limits
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, enough).unwrap();
    for ways in stream_ways() {
        let listener = listener();
        let to = listener.local();
        let wanted: Vec<_> = (0..COUNT).map(|number| connect(number, to)).collect();
        let (mut open, mut echoed) = (0, 0);
        let mut theatre = theatre(ways, vec![listener], vec![]);
        theatre.play(&mut Actor::new(wanted, |input, wishes| {
            match input {
                StreamInput::Connected { .. } => open += 1,
                StreamInput::Received { id, .. } if !id.is_incoming() => echoed += 1,
                StreamInput::Received { id, bytes } => {
                    let bytes = Bytes::copy_from_slice(bytes);
                    wishes.push_back(StreamOp::Send { id, bytes });
                }
                StreamInput::Closed { id, why } => panic!("{ways}: {id}: {why}"),
                StreamInput::Accepted { .. } | StreamInput::Sent { .. } => {}
            }
            // All at once, when all are open.
            if open == COUNT {
                open = 0;
                wishes.extend((0..COUNT).map(|number| StreamOp::Send {
                    id: StreamId::outgoing(number),
                    bytes: Bytes::from_static(b"hello"),
                }));
            }
            if echoed == COUNT {
                ControlFlow::Break(())
            } else {
                go_on()
            }
        }));
        assert_eq!(theatre.count(Counter::StreamsOpened), 2 * u64::from(COUNT));
        assert_eq!(theatre.count(Counter::StreamsClosed), 2 * u64::from(COUNT));
    }
}

#[test]
fn a_listener_rests_when_descriptors_are_out_and_serves_on() {
    let limit = ["prlimit", "--nofile=64:64"];
    let name = "streams::a_listener_rests_when_descriptors_are_out_and_serves_on";
    if !in_namespace_under(&limit, name, 65_536) {
        return;
    }
    for ways in stream_ways() {
        let listener = listener();
        let to = listener.local();
        let mut theatre = theatre(ways, vec![listener], vec![]);
        // It connects to itself until no descriptor is left to accept with.
        let (mut open, mut refused, mut closed) = (0, 0, 0);
        let wanted: Vec<_> = (0..100).map(|number| connect(number, to)).collect();
        let counters = Arc::clone(&theatre.counters);
        theatre.play(&mut Actor::new(wanted, |input, wishes| {
            match input {
                StreamInput::Connected { .. } => open += 1,
                StreamInput::Closed {
                    why: Closed::TooMany,
                    ..
                } => refused += 1,
                StreamInput::Closed { .. } => closed += 1,
                StreamInput::Accepted { .. } if closed > 0 => return ControlFlow::Break(()),
                _ => {}
            }
            if open + refused == 100 {
                open = 0;
                // Room again: those that wait in the backlog are served now.
                for number in 0..20 {
                    let id = StreamId::outgoing(number);
                    wishes.push_back(StreamOp::Close { id });
                }
            }
            go_on()
        }));
        assert!(refused > 0);
        let in_all = counters.get(Counter::StreamsRefused);
        assert!(in_all > refused, "{ways}: accepting failed, too: {in_all}");
    }
}
