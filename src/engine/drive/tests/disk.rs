use std::io::Write;
use std::os::fd::AsFd as _;

use super::*;
use crate::base::{Block, Blocks};
use crate::engine::disk::Place;
use crate::engine::ring::cached_pages;
use crate::machine::{DiskError, DiskKind, FileId};

pub(super) fn operation(tag: u64, kind: DiskKind, offset: u64, len: usize, block: Block) -> DiskOp {
    DiskOp {
        tag,
        kind,
        file: FileId(0),
        offset,
        len,
        block,
    }
}

/// Does operations and gives what came of them, by tag.
pub(super) fn moved(stage: &mut Stage, operations: Vec<DiskOp>) -> Vec<DiskDone> {
    let count = operations.len();
    let mut puppet = Puppet {
        operations: operations.into(),
        ..Puppet::default()
    };
    let mut done = Vec::new();
    stage.play(&mut puppet, |event| {
        let Seen::Disk(one) = event else {
            panic!("{event:?}");
        };
        done.push(one);
        if done.len() == count {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    done.sort_by_key(|one| one.tag);
    done
}

#[test]
fn disk_runs_go_out_and_come_back_registered_or_not() {
    const SIZE: usize = 100_000;
    for ways in BOTH {
        let mut registered = Arena::new(SIZE, 100).unwrap();
        let mut unregistered = Arena::new(SIZE, 100).unwrap();
        let mut stage = stage(
            ways,
            vec![],
            vec![tempfile::tempfile().unwrap()],
            Some(&registered),
        );
        // More than the kernel is given at a time, and every second one is shorter.
        let mut operations = |kind| -> Vec<DiskOp> {
            (0..100_u64)
                .map(|tag| {
                    let short = tag % 2 == 1;
                    let arena = if short {
                        &mut unregistered
                    } else {
                        &mut registered
                    };
                    let mut block = arena.take().unwrap();
                    let fill = if kind == DiskKind::Write { tag } else { 255 };
                    block.fill(u8::try_from(fill).unwrap());
                    let len = SIZE - usize::from(short) * 77;
                    operation(tag, kind, tag * SIZE as u64, len, block)
                })
                .collect()
        };
        for done in moved(&mut stage, operations(DiskKind::Write)) {
            assert_eq!((done.result, done.kind), (Ok(()), DiskKind::Write));
        }
        let done = moved(&mut stage, operations(DiskKind::Read));
        for (tag, done) in (0..100_u8).zip(&done) {
            assert_eq!((done.tag, done.result), (tag.into(), Ok(())));
            let len = SIZE - usize::from(tag % 2 == 1) * 77;
            assert!(done.block[..len].iter().all(|&byte| byte == tag));
            assert!(done.block[len..].iter().all(|&byte| byte == 255));
        }
        drop(done);
        assert_eq!(registered.free_count(), 100);
        assert_eq!(unregistered.free_count(), 100);
    }
}

#[test]
fn a_short_file_a_full_device_and_a_wrong_direction_are_told_apart() {
    for ways in BOTH {
        let mut short = tempfile::tempfile().unwrap();
        short.write_all(&[7; 5000]).unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let read_only = File::open("/dev/zero").unwrap();
        let mut arena = Arena::new(4096, 4).unwrap();
        let mut stage = stage(ways, vec![], vec![short, full, read_only], Some(&arena));
        let mut block = || arena.take().unwrap();
        let exact = operation(0, DiskKind::Read, 904, 4096, block());
        let past = operation(1, DiskKind::Read, 905, 4096, block());
        let mut no_room = operation(2, DiskKind::Write, 0, 4096, block());
        no_room.file = FileId(1);
        let mut forbidden = operation(3, DiskKind::Write, 0, 4096, block());
        forbidden.file = FileId(2);
        let done = moved(&mut stage, vec![exact, past, no_room, forbidden]);
        let results: Vec<_> = done.iter().map(|one| one.result).collect();
        let errno = Err(DiskError::Errno(libc::EBADF));
        let expected = [Ok(()), Err(DiskError::Short), Err(DiskError::Full), errno];
        assert_eq!(results, expected);
        assert!(done[0].block.iter().all(|&byte| byte == 7));
    }
}

#[test]
fn all_blocks_come_back_when_a_run_ends_in_the_middle() {
    for ways in BOTH {
        let (_sink, nowhere) = plain_sender();
        let mut arena = Arena::new(256 * 1024, 100).unwrap();
        let file = tempfile::tempfile().unwrap();
        let mut stage = stage(ways, vec![loopback()], vec![file], Some(&arena));
        let operations: VecDeque<_> = (0..100)
            .map(|tag| {
                let block = arena.take().unwrap();
                operation(tag, DiskKind::Write, tag << 18, block.len(), block)
            })
            .collect();
        assert_eq!(arena.free_count(), 0);
        let mut puppet = Puppet {
            operations,
            flood: Some(Send {
                channel: Channel(0),
                to: nowhere,
                bytes: pattern(44 * 1400),
                segment_size: 1400,
            }),
            ..Puppet::default()
        };
        stage.play(&mut puppet, |_| ControlFlow::Break(()));
        drop((stage, puppet));
        assert_eq!(arena.free_count(), 100);
    }
}

#[test]
fn what_is_not_in_the_page_cache_is_read_past_it_and_the_rest_through_it() {
    const SIZE: usize = 256 * 1024;
    const TAIL: usize = 777;
    let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let bytes = pattern(4 * SIZE + TAIL);
    file.write_all(&bytes).unwrap();
    file.sync_all().unwrap();
    let cached = |at: usize, len: usize| cached_pages(file.as_fd(), at as u64, len as u64);
    let evict = || rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    evict();
    // File systems that keep all in memory, and kernels that do not tell, have only one way.
    let tells = cached(0, 4 * SIZE).is_ok_and(|pages| pages == 0);
    let goes_past = tells && Place::new(file.try_clone().unwrap()).is_direct();
    evict();
    let mut arena = Arena::new(SIZE, 8).unwrap();
    let mut stage = stage(
        Ways::BEST,
        vec![],
        vec![file.try_clone().unwrap()],
        Some(&arena),
    );
    let mut read = |tag: u64, at: usize, len: usize| {
        let mut block = arena.take().unwrap();
        block.fill(255);
        operation(tag, DiskKind::Read, at as u64, len, block)
    };
    let operations = vec![
        read(0, 0, SIZE),
        read(1, SIZE, SIZE),
        read(2, 2 * SIZE, SIZE),
        // Behind the rest, so that what is read ahead of it is not looked at.
        read(3, 4 * SIZE, TAIL),
        read(4, 4 * SIZE - 5, 4),
    ];
    for (done, at) in moved(&mut stage, operations).iter().zip(0..) {
        assert_eq!(done.result, Ok(()));
        let (start, len) = match at {
            3 => (4 * SIZE, TAIL),
            4 => (4 * SIZE - 5, 4),
            _ => (at * SIZE, SIZE),
        };
        assert!(done.block[..len] == bytes[start..start + len], "{at}");
    }
    let goes_past = goes_past && stage.driver.backend() == "ring";
    assert_eq!(cached(0, SIZE).is_ok_and(|pages| pages == 0), goes_past);
}
