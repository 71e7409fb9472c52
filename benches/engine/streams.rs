//! What it costs to carry bytes over TCP: streams of the engine, as a swarm uses them, next to
//! loops of `send` and of `sendfile` that do nothing else.
//!
//! One thread is both ends of a connection over the loopback, so the time per byte is the CPU time
//! of both sides. The engine sends blocks of 16 KiB, a header before each, out of shared pieces.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use flashover::base::{Counters, Time};
use flashover::engine::{Driver, Listener, Setup, mailbox};
use flashover::machine::{Input, Machine, Output, StreamId, StreamInput, StreamOp, Transmit};

/// Bytes of content that an iteration carries.
const BYTES: usize = 64 << 20;
const PIECE: usize = 1 << 20;
const BLOCK: usize = 16 << 10;
const HEADER: usize = 13;
/// What waits to be sent at a time.
const WINDOW: usize = 1 << 20;
/// What the loops give the kernel at a time.
const CHUNK: usize = 256 << 10;

/// Connects to itself, and sends until all has come in.
struct Pair {
    to: SocketAddr,
    piece: Bytes,
    header: Bytes,
    id: Option<StreamId>,
    connects: bool,
    /// A header went out, its block did not.
    owes_block: bool,
    given: usize,
    sent: usize,
    received: usize,
}

const TOTAL: usize = BYTES / BLOCK * (BLOCK + HEADER);

impl Machine for Pair {
    type Command = ();
    type Event = ();

    fn handle(&mut self, input: Input<'_, ()>, _now: Time) {
        if let Input::Stream(input) = input {
            match input {
                StreamInput::Connected { id } => self.id = Some(id),
                StreamInput::Received { bytes, .. } => self.received += bytes.len(),
                StreamInput::Sent { count, .. } => self.sent += count,
                StreamInput::Closed { why, .. } => panic!("{why}"),
                StreamInput::Accepted { .. } => {}
            }
        }
    }

    fn poll_transmit(&mut self, _now: Time, _buffer: &mut [u8]) -> Option<Transmit> {
        None
    }

    fn poll_output(&mut self) -> Option<Output<()>> {
        if !self.connects {
            self.connects = true;
            let (id, to) = (StreamId::outgoing(0), self.to);
            return Some(Output::Stream(StreamOp::Connect { id, to }));
        }
        if self.received == TOTAL {
            return Some(Output::Event(()));
        }
        let id = self.id?;
        if self.given == TOTAL || self.given - self.sent >= WINDOW {
            return None;
        }
        let bytes = if self.owes_block {
            let at = self.given / (BLOCK + HEADER) * BLOCK % PIECE;
            self.piece.slice(at..at + BLOCK)
        } else {
            self.header.clone()
        };
        self.owes_block = !self.owes_block;
        self.given += bytes.len();
        Some(Output::Stream(StreamOp::Send { id, bytes }))
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

/// Both ends of a connection that do not wait.
fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback is up");
    let to = listener.local_addr().expect("it is bound");
    let from = TcpStream::connect(to).expect("it listens");
    let (to, _) = listener.accept().expect("somebody connected");
    for end in [&from, &to] {
        end.set_nonblocking(true).expect("a socket takes that");
        end.set_nodelay(true).expect("a socket takes that");
    }
    (from, to)
}

/// Carries an iteration's bytes; `send` gives how many the kernel took.
fn carry(to: &mut TcpStream, scratch: &mut [u8], mut send: impl FnMut(usize) -> usize) {
    let (mut sent, mut received) = (0, 0);
    while received < BYTES {
        if sent < BYTES {
            sent += send(sent);
        }
        loop {
            match to.read(scratch) {
                Ok(count) => received += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("streams");
    group.throughput(Throughput::Bytes(BYTES as u64));
    group.sample_size(20);
    let content = vec![7; PIECE];
    let mut scratch = vec![0; CHUNK];
    let (mut from, mut to) = connection();
    group.bench_function("loop of send", |bencher| {
        bencher.iter(|| {
            carry(&mut to, &mut scratch, |at| {
                let at = at % PIECE;
                from.write(&content[at..PIECE.min(at + CHUNK)]).unwrap_or(0)
            });
        });
    });
    let file = tempfile::tempfile().expect("there is room");
    file.write_all_at(&content, 0).expect("there is room");
    group.bench_function("loop of sendfile", |bencher| {
        bencher.iter(|| {
            carry(&mut to, &mut scratch, |at| {
                sendfile(&from, &file, at % PIECE)
            });
        });
    });
    for words in ["ring,zc,gro", "ring,gso,gro", "ring,gso,recv", "plain"] {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let driver = Driver::new(Setup {
            sockets: Vec::new(),
            listeners: vec![Listener::bind(any).expect("the loopback is up")],
            files: Vec::new(),
            arena: None,
            ways: words.parse().expect("these are ways"),
            counters: Arc::new(Counters::default()),
        });
        let Ok(mut driver) = driver else {
            continue;
        };
        let (_mailbox, commands) = mailbox().expect("there are descriptors");
        let address = driver.listens_on()[0];
        let piece = Bytes::from(content.clone());
        group.bench_function(words, |bencher| {
            bencher.iter(|| {
                let mut pair = Pair {
                    to: address,
                    piece: piece.clone(),
                    header: Bytes::from_static(&[0; HEADER]),
                    id: None,
                    connects: false,
                    owes_block: false,
                    given: 0,
                    sent: 0,
                    received: 0,
                };
                driver
                    .run(&mut pair, &commands, |()| ControlFlow::Break(()))
                    .expect("the loopback works");
            });
        });
    }
    group.finish();
}

fn sendfile(to: &TcpStream, file: &File, at: usize) -> usize {
    let mut offset = at as u64;
    let len = CHUNK.min(PIECE - at);
    rustix::fs::sendfile(to, file, Some(&mut offset), len).unwrap_or(0)
}
