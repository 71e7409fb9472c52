//! What it costs to move bytes. Here: to send and receive datagrams, by ring or plain system calls,
//! coalesced, batched or one by one; see [`streams`], [`http`] and [`disk`] for the
//! rest.
//!
//! One thread sends to itself over the loopback and takes everything back in, so the time per byte
//! is the CPU time of both sides. `plain,send,recv` is what a program pays that sends and receives
//! datagram by datagram.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

mod disk;
mod http;
mod streams;

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flashover::base::{Counters, Time};
use flashover::engine::{Driver, Setup, Socket, mailbox};
use flashover::machine::{Channel, Input, Machine, Output, Transmit};

/// A symbol of 1408 bytes with its headers and tag, at an MTU of 1500.
const DATAGRAM: usize = 1456;
const BURST: usize = 44 * DATAGRAM;
const BURSTS: usize = 128;
/// How much may be on its way, so that nothing is dropped.
const WINDOW: usize = 16 * BURST;

/// Sends bursts from its first socket to its second until so many bytes have come in.
struct Pump {
    to: SocketAddr,
    sent: usize,
    received: usize,
}

impl Machine for Pump {
    type Command = ();
    type Event = ();

    fn handle(&mut self, input: Input<'_, ()>, _now: Time) {
        if let Input::Datagrams(datagrams) = input {
            assert_eq!(datagrams.dropped_total, 0, "the window keeps drops away");
            self.received += datagrams.bytes.len();
        }
    }

    fn poll_transmit(&mut self, _now: Time, buffer: &mut [u8]) -> Option<Transmit> {
        if self.sent == BURSTS * BURST || self.sent - self.received >= WINDOW {
            return None;
        }
        self.sent += BURST;
        // One copy into the slot, as a machine makes of its symbols.
        buffer[..BURST].fill(7);
        Some(Transmit {
            channel: Channel(0),
            to: self.to,
            len: BURST,
            segment_size: DATAGRAM,
        })
    }

    fn poll_output(&mut self) -> Option<Output<()>> {
        (self.received == BURSTS * BURST).then_some(Output::Event(()))
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    group.throughput(Throughput::Bytes((BURSTS * BURST) as u64));
    group.sample_size(20);
    for words in [
        "ring,zc,gro",
        "ring,gso,gro",
        "plain,gso,gro",
        "ring,sendmmsg,recvmmsg",
        "plain,sendmmsg,recvmmsg",
        "ring,send,recv",
        "plain,send,recv",
    ] {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let open = || Socket::unicast(any).expect("the loopback is up");
        let (from, to) = (open(), open());
        let address = to.local();
        let driver = Driver::new(Setup {
            sockets: vec![from, to],
            listeners: Vec::new(),
            files: Vec::new(),
            arena: None,
            ways: words.parse().expect("these are ways"),
            counters: Arc::new(Counters::default()),
        });
        let Ok(mut driver) = driver else {
            continue;
        };
        let (_mailbox, commands) = mailbox().expect("there are descriptors");
        group.bench_function(words, |bencher| {
            bencher.iter(|| {
                let mut pump = Pump {
                    to: address,
                    sent: 0,
                    received: 0,
                };
                driver
                    .run(&mut pump, &commands, |()| ControlFlow::Break(()))
                    .expect("the loopback works");
            });
        });
    }
    group.finish();
}

/// What the process has used of the processors.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(now).expect("a process has used no negative time")
}

criterion_group!(benches, bench, streams::bench, http::bench, disk::bench);
criterion_main!(benches);
