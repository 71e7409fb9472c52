use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use super::*;
use crate::base::Blocks;
use crate::engine::disk::Step;
use crate::engine::limits::SEND_SLOTS;
use crate::engine::net::Socket;
use crate::engine::net::sys::OutMessage;
use crate::engine::pool::BLOCKS_MAX;
use crate::engine::ways::Way;
use crate::machine::{DiskOp, FileId, Transmit};

const STANDING: Orders = Orders {
    standing: true,
    sockets: 1,
    zero_copy: true,
};

/// Begins a read that cannot end: nobody writes to the pipe.
fn endless_read(ring: &mut Ring, arena: &mut Arena, pipe: &File) {
    let block = arena.take().unwrap();
    let op = DiskOp {
        tag: 0,
        kind: DiskKind::Read,
        file: FileId(0),
        offset: 0,
        len: block.len(),
        block,
    };
    let Step::Again(run) = Run::start(op) else {
        panic!("there is something to read");
    };
    ring.disk(pipe.as_fd(), run).unwrap();
}

#[test]
fn a_ring_that_is_dropped_gives_back_what_the_kernel_had() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let reader = File::from(OwnedFd::from(reader));
    for submitted in [true, false] {
        let mut arena = Arena::new(4096, 8).unwrap();
        let mut ring = Ring::new(Some(arena.clone()), STANDING).unwrap();
        let socket = Socket::unicast("127.0.0.1:0".parse().unwrap()).unwrap();
        ring.receive(socket.as_fd(), Channel(0)).unwrap();
        for _ in 0..8 {
            endless_read(&mut ring, &mut arena, &reader);
        }
        if submitted {
            ring.enter(Duration::from_millis(1)).unwrap();
        }
        assert_eq!((ring.in_flight(), arena.free_count()), (9, 0));
        drop(ring);
        assert_eq!(arena.free_count(), 8);
    }
}

#[test]
fn an_enter_without_anything_to_do_ends_in_time() {
    let mut ring = Ring::new(None, STANDING).unwrap();
    let begin = Instant::now();
    ring.enter(Duration::from_millis(20)).unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(20));
    assert!(ring.complete().is_none());
}

#[test]
fn more_messages_than_buffers_are_received_after_the_order_is_renewed() {
    let mut ring = Ring::new(None, STANDING).unwrap();
    let socket = Socket::unicast("127.0.0.1:0".parse().unwrap()).unwrap();
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let from = sender.local_addr().unwrap();
    for number in 0..200_u32 {
        let bytes = number.to_ne_bytes();
        sender.send_to(&bytes, socket.local()).unwrap();
    }
    ring.receive(socket.as_fd(), Channel(3)).unwrap();
    let mut numbers = Vec::new();
    let mut renewed = 0;
    let mut held = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while numbers.len() < 200 {
        assert!(Instant::now() < deadline, "{} came", numbers.len());
        ring.enter(Duration::from_millis(50)).unwrap();
        while let Some(completion) = ring.complete() {
            let Completion::Received {
                channel,
                result,
                more,
            } = completion
            else {
                panic!("only receives are in flight");
            };
            assert_eq!(channel, Channel(3));
            match result {
                Ok((buffer, len)) => {
                    let message = ring.message(&buffer, len).unwrap();
                    assert_eq!(message.from, from);
                    numbers.push(u32::from_ne_bytes((&*message.bytes).try_into().unwrap()));
                    // Kept, so that the kernel runs out of buffers.
                    held.push(buffer);
                }
                Err(errno) => assert_eq!(errno, libc::ENOBUFS),
            }
            if !more {
                renewed += 1;
                held.drain(..).for_each(|buffer| ring.recycle(buffer));
                ring.receive(socket.as_fd(), Channel(3)).unwrap();
            }
        }
    }
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    assert!(renewed > 0, "the buffers ran out");
}

#[test]
fn a_cut_off_message_is_none() {
    let mut ring = Ring::new(None, STANDING).unwrap();
    let socket = Socket::unicast("127.0.0.1:0".parse().unwrap()).unwrap();
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(&[1; 10], socket.local()).unwrap();
    ring.receive(socket.as_fd(), Channel(0)).unwrap();
    ring.enter(Duration::from_secs(5)).unwrap();
    let Some(Completion::Received {
        result: Ok((buffer, len)),
        ..
    }) = ring.complete()
    else {
        panic!("a datagram waited");
    };
    assert!(ring.message(&buffer, len).is_some());
    for cut in 0..len {
        assert!(ring.message(&buffer, cut).is_none());
    }
}

fn burst(ring: &Ring, to: SocketAddr) -> Burst {
    let mut slot = ring.staging().clone().take().unwrap();
    slot.fill(7);
    let transmit = Transmit {
        channel: Channel(0),
        to,
        len: 44 * 1400,
        segment_size: 1400,
    };
    Burst::new(OutMessage::new(slot), transmit)
}

fn sent(ring: &mut Ring, socket: &Socket, burst: Burst) -> (Burst, Verdict) {
    ring.send(socket.as_fd(), burst).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        assert!(Instant::now() < deadline, "a send ends");
        ring.enter(Duration::from_millis(50)).unwrap();
        if let Some(Completion::Sent(burst, verdict)) = ring.complete() {
            return (burst, verdict);
        }
    }
}

#[test]
fn a_slot_that_is_sent_from_comes_back_when_it_is_no_longer_read() {
    let socket = Socket::unicast("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut ring = Ring::new(None, STANDING).unwrap();
    assert!(ring.sends_without_copy());
    let mut burst = burst(&ring, socket.local());
    burst.aim(Way::ZeroCopy);
    let (burst, verdict) = sent(&mut ring, &socket, burst);
    // A receiver on the same machine needs a copy.
    assert_eq!((verdict.taken, verdict.refused), (1, 0));
    assert!(verdict.copied);
    assert_eq!(ring.in_flight(), 0);
    drop(burst);
    assert_eq!(ring.staging().free_count(), SEND_SLOTS);
}

#[test]
fn a_send_from_memory_that_is_not_registered_is_sent_as_a_copy() {
    let socket = Socket::unicast("127.0.0.1:0".parse().unwrap()).unwrap();
    // With this many blocks there is no room for the slots.
    let arena = Arena::new(1, BLOCKS_MAX).unwrap();
    let mut ring = Ring::new(Some(arena), STANDING).unwrap();
    assert!(!ring.sends_without_copy());
    assert!(ring.unregistered_because().is_none());
    let mut burst = burst(&ring, socket.local());
    burst.aim(Way::ZeroCopy);
    let (mut burst, verdict) = sent(&mut ring, &socket, burst);
    assert_eq!((verdict.taken, verdict.refused), (0, 1));
    assert!(burst.slow_down(&verdict), "errno {}", verdict.errno);
    burst.aim(Way::ZeroCopy);
    assert!(!burst.is_zero_copy());
    let (_, verdict) = sent(&mut ring, &socket, burst);
    assert_eq!((verdict.taken, verdict.copied), (1, false));
}
