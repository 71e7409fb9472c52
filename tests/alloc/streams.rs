//! A stream pair over the loopback, by one driver: blocks of shared pieces with a header before
//! each, as a swarm sends them. What is sent and received takes no memory at all, once queues have
//! their size.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};

use bytes::Bytes;
use flashover::base::{Counter, Counters, Time};
use flashover::engine::{Driver, Listener, Setup, mailbox};
use flashover::machine::{Input, Machine, Output, StreamId, StreamInput, StreamOp, Transmit};

use super::{ALLOCATIONS, DEADLINE};

const BLOCK: usize = 16 << 10;
const HEADER: usize = 13;
/// Parts of which at most so many bytes wait.
const WINDOW: usize = 1 << 20;
/// How much more a long run may take than a short one: queues that grow a little later.
const LATER_MAX: u64 = 32;

/// Connects to itself and sends so many blocks.
struct Pair {
    to: SocketAddr,
    piece: Bytes,
    total: usize,
    connects: bool,
    id: Option<StreamId>,
    owes_block: bool,
    given: usize,
    sent: usize,
    received: usize,
}

impl Machine for Pair {
    type Command = ();
    type Event = ();

    fn handle(&mut self, input: Input<'_, ()>, _now: Time) {
        let Input::Stream(input) = input else {
            return;
        };
        match input {
            StreamInput::Connected { id } => self.id = Some(id),
            StreamInput::Received { bytes, .. } => self.received += bytes.len(),
            StreamInput::Sent { count, .. } => self.sent += count,
            StreamInput::Accepted { .. } => {}
            StreamInput::Closed { why, .. } => panic!("{why}"),
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
        if self.received == self.total {
            return Some(Output::Event(()));
        }
        let id = self.id?;
        if self.given == self.total || self.given - self.sent >= WINDOW {
            return None;
        }
        let len = if self.owes_block { BLOCK } else { HEADER };
        self.owes_block = !self.owes_block;
        self.given += len;
        let bytes = self.piece.slice(..len);
        Some(Output::Stream(StreamOp::Send { id, bytes }))
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

#[derive(Clone, Copy, Debug)]
struct Cost {
    allocations: u64,
    sends: u64,
    receives: u64,
}

/// Carries so many blocks.
fn carry(words: &str, blocks: usize) -> Cost {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let counters = Arc::new(Counters::default());
    let mut driver = Driver::new(Setup {
        sockets: Vec::new(),
        listeners: vec![Listener::bind(any).unwrap()],
        files: Vec::new(),
        arena: None,
        ways: words.parse().unwrap(),
        counters: Arc::clone(&counters),
    })
    .unwrap();
    let mut pair = Pair {
        to: driver.listens_on()[0],
        piece: Bytes::from(vec![7; BLOCK]),
        total: blocks * (HEADER + BLOCK),
        connects: false,
        id: None,
        owes_block: false,
        given: 0,
        sent: 0,
        received: 0,
    };
    let (mailbox, commands) = mailbox().unwrap();
    let (over, watched) = channel::<()>();
    let watch = std::thread::spawn(move || {
        if watched.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
            mailbox.stop();
        }
    });
    let before = ALLOCATIONS.get();
    driver
        .run(&mut pair, &commands, |()| ControlFlow::Break(()))
        .unwrap();
    let allocations = ALLOCATIONS.get() - before;
    drop(over);
    watch.join().unwrap();
    assert_eq!(pair.received, pair.total, "it did not end in time");
    Cost {
        allocations,
        sends: counters.get(Counter::StreamSends),
        receives: counters.get(Counter::StreamReceives),
    }
}

/// Tells whether the longer of two runs took no memory for what it sent and received more.
fn is_constant(short: Cost, long: Cost) -> bool {
    long.allocations.saturating_sub(short.allocations) <= LATER_MAX
}

fn blocks_take_no_memory(words: &str) {
    let (short, long) = (carry(words, 512), carry(words, 512 + 8192));
    // Otherwise a piece of memory for each would pass.
    assert!(long.sends - short.sends > LATER_MAX, "{long:?}");
    assert!(long.receives - short.receives > LATER_MAX, "{long:?}");
    assert!(is_constant(short, long), "{words}: {short:?}, {long:?}");
}

macro_rules! ways {
    ($($name:ident: $words:literal;)+) => {$(
        #[test]
        fn $name() {
            blocks_take_no_memory($words);
        }
    )+};
}

ways! {
    ring_zero_copy: "ring,zc";
    ring_gathered: "ring,gso";
    ring_polled: "ring,gso,recv";
    plain: "plain";
}

#[test]
fn memory_for_every_send_would_be_seen() {
    let long = carry("plain", 512 + 8192);
    let short = Cost {
        allocations: 0,
        ..long
    };
    let long = Cost {
        allocations: long.sends,
        ..long
    };
    assert!(!is_constant(short, long));
}
