//! What it costs to read a file that is not in the page cache: past the cache into registered
//! memory, as a ring's driver does it where the file system can, and through it by `pread`.
//!
//! The figure is CPU time of the process, its share of the kernel included, not wall time: it is
//! what the disk leaves to everything else.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use flashover::base::{Blocks as _, Counters, Time};
use flashover::engine::{Arena, Driver, Setup, mailbox};
use flashover::machine::{DiskKind, DiskOp, FileId, Input, Machine, Output, Transmit};

use super::cpu_time;

const BLOCK: usize = 1 << 20;
const BLOCKS: u64 = 128;
/// Blocks that are read at a time.
const AT_A_TIME: usize = 4;

/// Reads a file from front to back.
struct Reader {
    arena: Arena,
    asked: u64,
    read: u64,
}

impl Machine for Reader {
    type Command = ();
    type Event = ();

    fn handle(&mut self, input: Input<'_, ()>, _now: Time) {
        if let Input::Disk(done) = input {
            done.result.expect("the file is whole");
            self.read += 1;
        }
    }

    fn poll_transmit(&mut self, _now: Time, _buffer: &mut [u8]) -> Option<Transmit> {
        None
    }

    fn poll_output(&mut self) -> Option<Output<()>> {
        if self.read == BLOCKS {
            return Some(Output::Event(()));
        }
        if self.asked == BLOCKS {
            return None;
        }
        let block = self.arena.take()?;
        let tag = self.asked;
        self.asked += 1;
        Some(Output::Disk(DiskOp {
            tag,
            kind: DiskKind::Read,
            file: FileId(0),
            offset: tag * BLOCK as u64,
            len: BLOCK,
            block,
        }))
    }

    fn poll_timeout(&self) -> Option<Time> {
        None
    }
}

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("cold reads, CPU");
    group.throughput(Throughput::Bytes(BLOCKS * BLOCK as u64));
    group.sample_size(10);
    // Where the package is, as `/tmp` may be in memory.
    let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).expect("there is room");
    for at in 0..BLOCKS {
        let content = vec![u8::try_from(at % 251).expect("it is small"); BLOCK];
        let offset = at * BLOCK as u64;
        file.write_all_at(&content, offset).expect("there is room");
    }
    file.sync_all().expect("there is room");
    let mut buffer = vec![0; BLOCK];
    group.bench_function("loop of pread", |bencher| {
        bencher.iter_custom(|rounds| {
            cold(rounds, &file, || {
                for at in 0..BLOCKS {
                    let offset = at * BLOCK as u64;
                    file.read_exact_at(&mut buffer, offset)
                        .expect("it is whole");
                }
            })
        });
    });
    for words in ["ring", "plain"] {
        let arena = Arena::new(BLOCK, AT_A_TIME).expect("there is memory");
        let driver = Driver::new(Setup {
            sockets: Vec::new(),
            listeners: Vec::new(),
            files: vec![file.try_clone().expect("there are descriptors")],
            arena: Some(arena.clone()),
            ways: words.parse().expect("these are ways"),
            counters: Arc::new(Counters::default()),
        });
        let Ok(mut driver) = driver else {
            continue;
        };
        let (_mailbox, commands) = mailbox().expect("there are descriptors");
        group.bench_function(words, |bencher| {
            bencher.iter_custom(|rounds| {
                cold(rounds, &file, || {
                    let mut reader = Reader {
                        arena: arena.clone(),
                        asked: 0,
                        read: 0,
                    };
                    driver
                        .run(&mut reader, &commands, |()| ControlFlow::Break(()))
                        .expect("the engine works here");
                })
            });
        });
    }
    group.finish();
}

/// The CPU time of so many rounds, before each of which the file leaves the cache.
fn cold(rounds: u64, file: &File, mut round: impl FnMut()) -> Duration {
    let mut sum = Duration::ZERO;
    for _ in 0..rounds {
        rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).expect("it is on a disk");
        let before = cpu_time();
        round();
        sum += cpu_time() - before;
    }
    sum
}
