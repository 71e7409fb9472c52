//! The machines together: who joins when, what is lost, forged, poisoned; and what it costs.

mod room;

use std::time::Duration;

use super::keys::{Aes128Gcm, Cipher, TAG_SIZE};
use super::receiver::{Command, Event};
use super::sender;
use super::wire::DATA_OVERHEAD;
use super::wire::lct::{Codepoint, HEADER_SIZE, Header};
use crate::base::{Counter, PieceIndex};
use crate::fec::Esi;
use room::{PIECE_LOG2, Room, head};

const SECOND: Duration = Duration::from_secs(1);
const SIZE: usize = 5_000_001;

#[test]
fn everybody_gets_every_byte_whatever_is_lost() {
    for (seed, loss) in [(1, 0.0), (2, 0.01), (3, 0.05), (4, 0.2)] {
        let mut room = Room::new(SIZE, PIECE_LOG2, seed);
        room.loss = loss;
        for _ in 0..3 {
            room.join(&[], 64);
        }
        room.run_to_end(10 * SECOND);
        room.run_until(5 * SECOND, |room| {
            room.has_sender_event(|event| *event == sender::Event::Idle)
        });
        let done = |event: &&sender::Event| matches!(event, sender::Event::NodeDone { .. });
        assert_eq!(
            room.sender_events.iter().filter(done).count(),
            3,
            "loss {loss}"
        );
    }
}

#[test]
fn nothing_is_repaired_without_loss_and_nothing_sent_twice() {
    let mut room = Room::new(SIZE, PIECE_LOG2, 1);
    room.join(&[], 64);
    room.join(&[], 64);
    room.run_to_end(5 * SECOND);
    assert_eq!(room.sender_counters.get(Counter::SentRepair), 0);
    assert_eq!(
        room.sender_counters.get(Counter::SentSource),
        room.source_symbols()
    );
    for node in &room.nodes {
        assert_eq!(node.counters.get(Counter::PiecesDecoded), 0);
        assert_eq!(node.counters.get(Counter::SymbolsUseless), 0);
    }
}

/// Three that come within a second of each other are cast to once.
#[test]
fn receivers_that_are_awaited_are_served_together() {
    let mut room = Room::new(SIZE, PIECE_LOG2, 1);
    room.await_receivers(3);
    for _ in 0..3 {
        assert_eq!(room.data_sent(), 0);
        room.join(&[], 64);
        room.run_for(Duration::from_millis(300));
    }
    room.run_to_end(SECOND);
    let source_symbols = room.source_symbols();
    assert_eq!(room.data_sent(), source_symbols);
}

/// Who does not come is waited for one second, and no longer.
#[test]
fn the_missing_one_is_not_waited_for_long() {
    let mut room = Room::new(SIZE, PIECE_LOG2, 1);
    room.await_receivers(3);
    room.join(&[], 64);
    room.run_for(SECOND / 2);
    room.join(&[], 64);
    room.run_for(SECOND * 4 / 10);
    assert_eq!(room.data_sent(), 0, "after 0.9 s");
    room.run_to_end(SECOND);
}

#[test]
fn one_percent_of_loss_costs_little_more_than_one_percent() {
    let mut room = Room::new(24 << 20, 20, 7);
    room.loss = 0.01;
    room.join(&[], 64);
    room.run_to_end(10 * SECOND);
    let floor = room.source_symbols() as f64 / 0.99;
    let overhead = room.data_sent() as f64 / floor;
    assert!(overhead <= 1.04, "{overhead} of the floor");
}

#[test]
fn a_late_joiner_gets_only_what_it_lacks() {
    let mut room = Room::new(4 * SIZE, PIECE_LOG2, 2);
    room.loss = 0.01;
    room.join(&[], 64);
    let half = room.session.geometry.piece_count() as usize / 2;
    room.run_until(5 * SECOND, |room| {
        room.nodes[0].machine.have().count() > half
    });
    room.join(&[], 64);
    room.run_to_end(10 * SECOND);
    let cost = room.data_sent() as f64 / room.source_symbols() as f64;
    assert!(
        (1.4..1.8).contains(&cost),
        "{cost}: the second half was sent once"
    );
}

#[test]
fn what_a_node_has_is_not_sent() {
    let mut room = Room::new(SIZE, PIECE_LOG2, 3);
    room.join(&[0, 1, 2, 5, 6, 7, 8], 64);
    room.run_to_end(5 * SECOND);
    let sent: Vec<u32> = room.sent.keys().map(|&(_, piece)| piece).collect();
    let expected: Vec<u32> = [3, 4]
        .into_iter()
        .chain(9..room.session.geometry.piece_count())
        .collect();
    assert_eq!(sent, expected);
}

#[test]
fn a_dead_receiver_is_dropped_and_holds_nobody() {
    let time = |with_dead: bool| {
        let mut room = Room::new(8 * SIZE, PIECE_LOG2, 4);
        room.join(&[], 64);
        room.join(&[], 64);
        if with_dead {
            room.join(&[], 64);
            room.run_for(Duration::from_millis(50));
            room.nodes[2].is_alive = false;
        }
        room.run_to_end(20 * SECOND);
        let end = room.nodes[..2]
            .iter()
            .filter_map(|node| node.complete_at)
            .max()
            .unwrap();
        if with_dead {
            let gone = |event: &sender::Event| {
                matches!(
                    event,
                    sender::Event::NodeGone {
                        cause: sender::Gone::Silent,
                        ..
                    }
                )
            };
            room.run_until(5 * SECOND, |room| room.has_sender_event(gone));
        }
        end.as_nanos() as f64
    };
    let (with, without) = (time(true), time(false));
    assert!(with < without * 1.6, "{with} against {without} ns");
}

#[test]
fn a_lossy_or_slow_node_is_served_last_and_completes() {
    let mut room = Room::new(16 * SIZE, PIECE_LOG2, 5);
    room.cap(10_000_000);
    for _ in 0..3 {
        room.join(&[], 64);
    }
    room.nodes[1].loss = 0.5;
    let slow = room.join(&[], 4);
    room.nodes[slow].disk_delay = Duration::from_millis(800);
    room.run_until(20 * SECOND, |room| {
        room.nodes[0].complete_at.is_some() && room.nodes[2].complete_at.is_some()
    });
    let took = room.now.as_nanos() as f64 / 1e9;
    let ideal = room.bundle.len() as f64 * 1.034 / 10e6;
    assert!(took < ideal * 1.25, "{took} s against {ideal} s");
    for cause in [sender::Lag::Loss, sender::Lag::Pieces] {
        let demoted = |event: &sender::Event| {
            matches!(
                event,
                sender::Event::Demoted { cause: why, .. } if *why == cause
            )
        };
        assert!(room.has_sender_event(demoted), "{cause:?}");
    }
    room.run_to_end(300 * SECOND);
}

#[test]
fn a_slow_disk_takes_whole_pieces_and_bounded_memory() {
    let mut room = Room::new(4 * SIZE, PIECE_LOG2, 6);
    let node = room.join(&[], 6);
    room.nodes[node].disk_delay = Duration::from_millis(30);
    room.run_to_end(30 * SECOND);
    assert!(room.nodes[node].counters.get(Counter::SymbolsWithoutMemory) > 0);
    assert_eq!(room.nodes[node].counters.get(Counter::PiecesDecoded), 0);
    let cost = room.data_sent() as f64 / room.source_symbols() as f64;
    assert!(cost < 2.5, "{cost}: the sender fits its rate to the disk");
}

#[test]
fn forged_and_replayed_datagrams_change_nothing() {
    let mut room = Room::new(SIZE, PIECE_LOG2, 7);
    room.tape = Some(Vec::new());
    let node = room.join(&[], 64);
    room.run_until(SECOND, |room| room.nodes[0].machine.have().count() >= 3);
    let mut tape = room.tape.take().unwrap();
    tape.retain(|datagram| datagram.len() == 1408 + DATA_OVERHEAD);
    for datagram in &tape[..50] {
        room.inject(node, datagram.clone());
        for at in [3, 15, 25, 31, 40, datagram.len() - 1] {
            let mut forged = datagram.clone();
            forged[at] ^= 0x10;
            room.inject(node, forged);
        }
        let mut future = datagram.clone();
        future[20..28].copy_from_slice(&u64::MAX.to_be_bytes());
        room.inject(node, future);
        room.inject_report(datagram.clone());
    }
    room.run_to_end(5 * SECOND);
    let counters = &room.nodes[node].counters;
    assert_eq!(counters.get(Counter::RejectedReplayed), 200);
    // With them those whose tag is not the one that was seen under their counter.
    assert_eq!(counters.get(Counter::RejectedForged), 150);
    assert_eq!(counters.get(Counter::RejectedTwoContents), 0);
    assert_eq!(counters.get(Counter::RejectedMalformed), 50);
    assert_eq!(counters.get(Counter::PiecesPoisoned), 0);
    assert_eq!(room.sender_counters.get(Counter::RejectedMalformed), 50);
    assert_eq!(room.sender_counters.get(Counter::SentRepair), 0);
}

#[test]
fn replayed_reports_raise_nobody_from_the_dead() {
    let mut room = Room::new(SIZE, PIECE_LOG2, 8);
    room.join(&[], 64);
    room.run_for(Duration::from_millis(30));
    room.nodes[0].is_alive = false;
    let gone = |event: &sender::Event| matches!(event, sender::Event::NodeGone { .. });
    room.run_until(5 * SECOND, |room| room.has_sender_event(gone));
    let reports = room.sender_counters.get(Counter::ReportsIn);
    let sent = room.data_sent();
    let replays: Vec<_> = room.reports.clone();
    for report in replays {
        room.inject_report(report);
    }
    room.run_for(SECOND);
    assert_eq!(room.sender_counters.get(Counter::ReportsIn), reports);
    assert!(room.sender_counters.get(Counter::RejectedReplayed) > 0);
    assert_eq!(room.data_sent(), sent);
}

/// A datagram as an insider would make it, who holds the key: garbage for a piece.
fn poison(room: &Room, piece: u32, esi: u32, counter: u64) -> Vec<u8> {
    let session = room.session;
    let key = Aes128Gcm.data_key(&Room::secret(session.epoch), session.epoch, session.tsi);
    let header = Header {
        closes_session: false,
        codepoint: Codepoint::RaptorQ,
        remaining: 9,
        tsi: session.tsi,
        toi: piece + 1,
        epoch: session.epoch,
        counter,
        esi: Esi::new(esi).unwrap(),
    };
    let mut datagram = vec![0x66; usize::from(session.symbol_size) + DATA_OVERHEAD];
    let end = datagram.len() - TAG_SIZE;
    datagram[..HEADER_SIZE].copy_from_slice(&header.emit());
    let tag = super::keys::Key::seal(
        &key,
        counter,
        &header.emit(),
        &mut datagram[HEADER_SIZE..end],
    );
    datagram[end..].copy_from_slice(&tag);
    datagram
}

#[test]
fn a_poisoned_piece_is_discarded_and_fetched_again_but_not_for_ever() {
    let mut room = Room::new(SIZE, PIECE_LOG2, 9);
    let node = room.join(&[], 64);
    room.run_for(Duration::from_millis(7));
    assert!(!room.nodes[node].machine.have().get(15));
    room.inject(node, poison(&room, 15, 3, 7000));
    room.run_to_end(5 * SECOND);
    let poisonings = |room: &Room, abandoned_wanted| {
        let fits = |event: &&Event| {
            matches!(
                event,
                Event::PiecePoisoned { abandoned, .. } if *abandoned == abandoned_wanted
            )
        };
        room.nodes[node].events.iter().filter(fits).count()
    };
    assert_eq!((poisonings(&room, false), poisonings(&room, true)), (1, 0));

    let mut room = Room::new(SIZE, PIECE_LOG2, 9);
    room.join(&[], 64);
    room.run_for(Duration::from_millis(7));
    room.inject(node, poison(&room, 15, 3, 7000));
    let first = |room: &Room| poisonings(room, false) == 1;
    room.run_until(5 * SECOND, first);
    room.inject(node, poison(&room, 15, 4, 7001));
    room.run_until(5 * SECOND, |room| poisonings(room, true) == 1);
    let all_but_one = room.session.geometry.piece_count() as usize - 1;
    room.run_until(5 * SECOND, |room| {
        room.nodes[0].machine.have().count() == all_but_one
    });
    let range = room.session.geometry.range(PieceIndex::new(15));
    let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
    let whole = room.bundle[range.clone()].to_vec();
    room.nodes[0].disk[range].copy_from_slice(&whole);
    room.command(0, Command::Have(PieceIndex::new(15)));
    room.run_to_end(SECOND);
}

#[test]
fn failed_writes_are_repeated_and_then_left_to_the_job() {
    let mut room = Room::new(SIZE, PIECE_LOG2, 10);
    let node = room.join(&[], 64);
    room.nodes[node].failing_writes = 3;
    room.run_to_end(5 * SECOND);
    let failed = |event: &&Event| {
        matches!(
            event,
            Event::DiskFailed {
                abandoned: false,
                ..
            }
        )
    };
    assert_eq!(room.nodes[node].events.iter().filter(failed).count(), 3);
}

#[test]
fn a_restarted_sender_sends_nothing_again_that_is_verified() {
    let mut room = Room::new(4 * SIZE, PIECE_LOG2, 11);
    room.loss = 0.01;
    room.join(&[], 64);
    room.join(&[], 64);
    room.run_until(5 * SECOND, |room| {
        room.nodes
            .iter()
            .all(|node| node.machine.have().count() > 30)
    });
    let verified: Vec<usize> = (0..room.session.geometry.piece_count() as usize)
        .filter(|&piece| room.nodes.iter().all(|node| node.machine.have().get(piece)))
        .collect();
    room.restart_sender();
    let unknown = |event: &Event| matches!(event, Event::UnknownEpoch(_));
    room.run_until(5 * SECOND, |room| {
        room.nodes
            .iter()
            .all(|node| node.events.iter().any(unknown))
    });
    for node in 0..2 {
        let epoch = room.session.epoch;
        let secret = Room::secret(epoch);
        room.command(
            node,
            Command::Key {
                epoch,
                secret,
                reports_to: head(),
            },
        );
    }
    room.run_to_end(10 * SECOND);
    assert!(verified.len() > 20);
    for piece in verified {
        let again = room
            .sent
            .get(&(room.session.epoch.0, u32::try_from(piece).unwrap()));
        assert_eq!(again, None, "piece {piece} was verified everywhere");
    }
}

#[test]
fn silence_and_return_are_told() {
    let mut room = Room::new(4 * SIZE, PIECE_LOG2, 12);
    room.join(&[], 64);
    room.run_for(Duration::from_millis(20));
    room.nodes[0].loss = 1.0;
    let silent = |event: &Event| matches!(event, Event::Silent { .. });
    room.run_until(5 * SECOND, |room| room.nodes[0].events.iter().any(silent));
    room.run_for(3 * SECOND);
    room.nodes[0].loss = 0.0;
    room.run_to_end(10 * SECOND);
    let alive = |event: &&Event| matches!(event, Event::Alive);
    assert_eq!(room.nodes[0].events.iter().filter(alive).count(), 2);
}

#[test]
fn stopping_ends_both_sides() {
    let mut room = Room::new(16 * SIZE, PIECE_LOG2, 13);
    room.join(&[], 64);
    room.join(&[], 64);
    room.run_for(Duration::from_millis(50));
    room.command(1, Command::Stop);
    let stopped = |event: &Event| matches!(event, Event::Stopped);
    room.run_until(SECOND, |room| room.nodes[1].events.iter().any(stopped));
    let left = |event: &sender::Event| {
        matches!(
            event,
            sender::Event::NodeGone {
                cause: sender::Gone::Left,
                ..
            }
        )
    };
    assert!(room.has_sender_event(left));
    room.command_sender(sender::Command::Stop);
    room.run_until(SECOND, |room| {
        room.has_sender_event(|event| *event == sender::Event::Stopped)
    });
    room.run_for(Duration::from_millis(10));
    assert!(
        room.nodes[0]
            .events
            .iter()
            .any(|event| matches!(event, Event::Closed))
    );
}

#[test]
fn the_cap_is_kept_and_used() {
    let mut room = Room::new(4 * SIZE, PIECE_LOG2, 14);
    room.cap(20_000_000);
    room.join(&[], 64);
    let start = room.now;
    room.run_to_end(10 * SECOND);
    let seconds = room.now.since(start).as_secs_f64();
    let rate = room.data_sent() as f64 * 1456.0 / seconds;
    assert!(
        (19e6..20.2e6).contains(&rate),
        "{rate} B/s under a cap of 20e6"
    );
}

#[test]
fn an_idle_sender_is_quiet_but_alive() {
    let mut room = Room::new(SIZE, PIECE_LOG2, 15);
    room.join(&[], 64);
    room.run_to_end(5 * SECOND);
    room.run_for(4 * SECOND);
    let sent = room.data_sent();
    room.tape = Some(Vec::new());
    room.run_for(10 * SECOND);
    assert_eq!(room.data_sent(), sent);
    let beats = room.tape.take().unwrap().len();
    assert!((30..60).contains(&beats), "{beats} heartbeats in 10 s");
    let late = room.join(&[], 64);
    room.run_to_end(5 * SECOND);
    assert!(room.nodes[late].complete_at.is_some());
}
