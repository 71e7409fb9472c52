//! Memory on the path of the data: a cast over the loopback, by the real machines and drivers,
//! takes memory per piece and never per packet or symbol; see [`streams`] for TCP.
//!
//! The code is a model of RaptorQ: the solver's own memory grows with what is lost and not with
//! what is sent, and a slow moment of this machine is a loss. All else is as in the product. The
//! allocator is that of the whole process, so this is a test binary of its own.
#![allow(
    unsafe_code,
    reason = "a global allocator is unsafe; this one only counts"
)]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod streams;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use flashover::base::{Bitmap, Blocks, Counter, Counters, EpochId, NodeId, PieceIndex};
use flashover::engine::{Arena, Commands, Driver, Mailbox, Setup, Socket, Ways, mailbox};
use flashover::fec::Counted;
use flashover::image::Geometry;
use flashover::image::hash::piece_value;
use flashover::machine::Machine;
use flashover::multicast::receiver::{self, Receiver, ReceiverConfig};
use flashover::multicast::sender::{self, Sender, SenderConfig};
use flashover::multicast::{Aes128Gcm, PieceHashes, Secret, Session, limits};

/// Counts what each thread asks for.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is handed to the system's allocator as it came; the count is a plain cell that
// takes no memory and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of the same function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of the same function.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of the same function.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of the same function.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PIECE_LOG2: u8 = 18;
const PIECE_BYTES: usize = 1 << PIECE_LOG2;
/// Small ones, so that there are many packets in a piece.
const SYMBOL_BYTES: u16 = 512;
/// What a piece may cost a machine and its driver: its place in tables, its block, its events.
const PER_PIECE_MAX: u64 = 8;
/// Past this a test has failed.
const DEADLINE: Duration = Duration::from_secs(60);

/// What one side of a cast took.
#[derive(Clone, Copy, Debug)]
struct Cost {
    allocations: u64,
    packets: u64,
}

/// Casts so many pieces from one thread to another; gives what the head and the node took.
fn cast(ways: Ways, pieces: usize) -> [Cost; 2] {
    let geometry = Geometry::new((pieces * PIECE_BYTES) as u64, PIECE_LOG2).unwrap();
    let bytes: Vec<u8> = (0..=250).cycle().take(pieces * PIECE_BYTES).collect();
    let hashes = bytes.chunks(PIECE_BYTES).enumerate();
    let hashes = hashes
        .map(|(at, bytes)| {
            piece_value(geometry, PieceIndex::new(u32::try_from(at).unwrap()), bytes)
        })
        .collect();
    let verify = PieceHashes::new(geometry, hashes).unwrap();
    let hashes = verify.clone();
    let open = || Socket::unicast(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let (head, group, reports) = (open(), open(), open());
    let session = Session {
        tsi: 1,
        epoch: EpochId(1),
        // A group of one, which needs no multicast.
        group: group.local(),
        report_port: head.local().port(),
        geometry,
        symbol_size: SYMBOL_BYTES,
    };
    let to_node = ReceiverConfig {
        session,
        secret: Secret::new([7; 32]),
        reports_to: head.local(),
        node: NodeId([1; 16]),
        host: "node".to_owned(),
        seed: 2,
        receive_buffer_bytes: group.receive_bytes() as u64,
        have: Bitmap::new(pieces),
    };
    let to_head = SenderConfig {
        session,
        secret: Secret::new([7; 32]),
        seed: 1,
        rate_bytes_per_s_max: None,
        window_bytes: limits::WINDOW_BYTES_DEFAULT,
        position: 0,
        awaited: 0,
    };
    let code = Counted::new(Arc::from(bytes.as_slice()), PIECE_BYTES, 3);
    let model = code.clone();
    let source = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(source.path(), &bytes).unwrap();
    let copy = tempfile::tempfile().unwrap();
    copy.set_len(bytes.len() as u64).unwrap();
    std::thread::scope(|scope| {
        let source = source.reopen().unwrap();
        let head = scope.spawn(move || {
            let make =
                |blocks, counters| Sender::new(to_head, code, Aes128Gcm, hashes, blocks, counters);
            let is_over = |event, _: &Mailbox<_>| matches!(event, sender::Event::NodeDone { .. });
            let counter = Counter::PacketsOut;
            run(ways, vec![head], source, make, is_over, counter)
        });
        let node = scope.spawn(move || {
            let make = |blocks, counters| {
                Receiver::new(to_node, model, Aes128Gcm, verify, blocks, counters)
            };
            let is_over = |event, mailbox: &Mailbox<_>| {
                if matches!(event, receiver::Event::Complete) {
                    // The sender hears of it before this machine is gone.
                    mailbox.send(receiver::Command::Stop).unwrap();
                }
                matches!(event, receiver::Event::Stopped)
            };
            let counter = Counter::PacketsIn;
            let sockets = vec![group, reports];
            run(ways, sockets, copy, make, is_over, counter)
        });
        [node, head].map(|side| side.join().unwrap())
    })
}

/// Runs one side until an event ends it.
fn run<M: Machine>(
    ways: Ways,
    sockets: Vec<Socket>,
    file: std::fs::File,
    make: impl FnOnce(Box<dyn Blocks>, Arc<Counters>) -> M,
    is_over: impl Fn(M::Event, &Mailbox<M::Command>) -> bool,
    packets: Counter,
) -> Cost
where
    M::Command: Send + 'static,
{
    let arena = Arena::new(PIECE_BYTES, 64).unwrap();
    let counters = Arc::new(Counters::default());
    let mut driver = Driver::new(Setup {
        sockets,
        listeners: Vec::new(),
        files: vec![file],
        arena: Some(arena.clone()),
        ways,
        counters: Arc::clone(&counters),
    })
    .unwrap();
    let mut machine = make(Box::new(arena), Arc::clone(&counters));
    let (mailbox, commands): (Mailbox<M::Command>, Commands<M::Command>) = mailbox().unwrap();
    let mut ended = false;
    let (over, watched) = std::sync::mpsc::channel::<()>();
    let watchdog = mailbox.clone();
    let watch = std::thread::spawn(move || {
        if watched.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
            watchdog.stop();
        }
    });
    let before = ALLOCATIONS.with(Cell::get);
    driver
        .run(&mut machine, &commands, |event| {
            ended = is_over(event, &mailbox);
            if ended {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap();
    let allocations = ALLOCATIONS.with(Cell::get) - before;
    drop(over);
    watch.join().unwrap();
    assert!(ended, "the cast did not end before its deadline");
    Cost {
        allocations,
        packets: counters.get(packets),
    }
}

/// Tells whether the longer of two casts took more memory for its pieces at the most.
fn is_by_piece(short: Cost, long: Cost, pieces_more: u64) -> bool {
    long.allocations.saturating_sub(short.allocations) <= pieces_more * PER_PIECE_MAX
}

fn memory_is_taken_by_piece(words: &str) {
    let ways: Ways = words.parse().unwrap();
    let (short, long) = (cast(ways, 16), cast(ways, 80));
    for (side, short, long) in [("node", short[0], long[0]), ("head", short[1], long[1])] {
        let symbols = PIECE_BYTES / usize::from(SYMBOL_BYTES);
        assert!(long.packets >= (80 * symbols) as u64);
        assert!(
            is_by_piece(short, long, 64),
            "{words}: {side}: {short:?}, {long:?}"
        );
    }
}

macro_rules! ways {
    ($($name:ident: $words:literal;)+) => {$(
        #[test]
        fn $name() {
            memory_is_taken_by_piece($words);
        }
    )+};
}

ways! {
    ring_zero_copy: "ring,zc";
    ring_coalesced: "ring,gso";
    ring_batched: "ring,sendmmsg,recvmmsg";
    ring_single: "ring,send,recv";
    plain_coalesced: "plain";
    plain_batched: "plain,sendmmsg,recvmmsg";
    plain_single: "plain,send,recv";
}

#[test]
fn memory_for_every_burst_would_be_seen() {
    let short = Cost {
        allocations: 100,
        packets: 16 * 512,
    };
    let long = Cost {
        allocations: 100 + 64 * 512 / 44,
        packets: 80 * 512,
    };
    assert!(!is_by_piece(short, long, 64));
}
