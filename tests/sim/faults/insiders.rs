//! Who holds the group's key and means harm.

use std::time::Duration;

use flashover::base::Counter;
use flashover::fec::Esi;
use flashover::multicast::keys::{Cipher as _, Key as _};
use flashover::multicast::receiver::Command;
use flashover::multicast::wire::lct::{Codepoint, HEADER_SIZE, Header};
use flashover::multicast::{Aes128Gcm, Secret, Session};

use super::super::cluster::{Cluster, GROUP_PORT, Node, Plan, group, head_address};
use super::super::models::{Real, part};
use super::super::seeds;
use super::{PLAN, lossy};

/// A symbol of wrong bytes that only the hash of its piece can tell from a right one.
fn false_symbol(session: &Session, secret: &Secret, toi: u32, esi: u32, counter: u64) -> Vec<u8> {
    let header = Header {
        closes_session: false,
        codepoint: Codepoint::RaptorQ,
        remaining: 0,
        tsi: session.tsi,
        toi,
        epoch: session.epoch,
        counter,
        esi: Esi::new(esi).expect("it is small"),
    };
    let header = header.emit();
    let mut body = vec![0xee; usize::from(session.symbol_size)];
    let key = Aes128Gcm.data_key(secret, session.epoch, session.tsi);
    let tag = key.seal(counter, &header, &mut body);
    let datagram = [&header[..], &body, &tag].concat();
    assert_eq!(datagram.len(), HEADER_SIZE + body.len() + tag.len());
    datagram
}

/// Two contents under one number, both sealed by the group's key: every node that hears both tells
/// of it, and the piece comes out right. A repetition is no alarm.
#[test]
fn row_09_one_number_with_two_contents() {
    seeds(
        "faults::insiders::row_09_one_number_with_two_contents",
        3,
        |seed| {
            let plan = Plan { nodes: 4, ..PLAN };
            let mut cluster = Cluster::<Real>::new(seed, plan);
            cluster.set_links(lossy(0.01));
            cluster.start_all();
            let from = head_address(GROUP_PORT);
            let alarms = |cluster: &Cluster<Real>| {
                let of = |node: &Node| node.journal.borrow().insiders;
                cluster.nodes.iter().map(of).collect::<Vec<_>>()
            };
            for turn in 0..40 {
                cluster.run_for(Duration::from_millis(2));
                let (burst, size) = {
                    let ledger = cluster.ledger.borrow();
                    (ledger.last_burst.clone(), ledger.last_segment_size)
                };
                if size == 0 {
                    continue;
                }
                cluster.world.inject(from, group(), &burst, size);
                cluster.run_for(Duration::from_millis(1));
                if turn == 20 {
                    assert_eq!(alarms(&cluster), [0; 4], "repetitions are no alarm");
                }
                if turn > 20 {
                    let header = Header::parse(&burst).expect("the head sends what parses");
                    let (session, secret) = (cluster.session, cluster.secret.clone());
                    let toi = header.toi.max(1);
                    let other = false_symbol(&session, &secret, toi, 3, header.counter);
                    cluster.world.inject(from, group(), &other, other.len());
                }
            }
            cluster.run_to_completion(Duration::from_secs(30));
            cluster.check();
            assert_eq!(
                alarms(&cluster),
                [1; 4],
                "each tells, and not for each datagram"
            );
            for node in &cluster.nodes {
                let count = node.counters.get(Counter::RejectedTwoContents);
                assert!(count > 5, "{count} were noticed");
                assert_eq!(
                    node.journal.borrow().poisoned,
                    0,
                    "the first content counted"
                );
            }
        },
    );
}

/// A member of the group sends false symbols: that costs time, never a wrong byte. The pieces are
/// discarded and told, and what is poisoned again is left to the control channel.
#[test]
fn row_09_false_symbols_of_an_insider() {
    seeds(
        "faults::insiders::row_09_false_symbols_of_an_insider",
        3,
        |seed| {
            let plan = Plan { nodes: 4, ..PLAN };
            let mut cluster = Cluster::<Real>::new(seed, plan);
            cluster.set_links(lossy(0.01));
            cluster.start_all();
            let count = cluster.session.geometry.piece_count();
            for round in 0..200_u64 {
                cluster.run_for(Duration::from_millis(2));
                let (session, secret) = (cluster.session, cluster.secret.clone());
                let dice = cluster.world.random();
                let at = |dice: u64| u32::try_from(dice).expect("it is small");
                let (toi, esi) = (at(dice.below(u64::from(count))) + 1, at(dice.below(200)));
                // Numbers that the sender reaches only later.
                let counter = 6000 + round * 40 + cluster.symbols_sent();
                let datagram = false_symbol(&session, &secret, toi, esi, counter);
                let from = head_address(GROUP_PORT);
                cluster
                    .world
                    .inject(from, group(), &datagram, datagram.len());
            }
            cluster.run_to(
                "what multicast can bring",
                Duration::from_secs(60),
                |cluster| {
                    cluster.nodes.iter().all(|node| {
                        let journal = node.journal.borrow();
                        journal.stored.len() + journal.abandoned.len() >= count as usize
                    })
                },
            );
            cluster.check();
            let poisoned = |cluster: &Cluster<Real>, index: usize| {
                cluster.nodes[index].journal.borrow().poisoned
            };
            assert!(
                (0..4).all(|index| poisoned(&cluster, index) > 0),
                "every node tells of it"
            );
            // As the job does: over the control channel come the bytes that the manifest knows.
            for index in 0..cluster.nodes.len() {
                let abandoned = cluster.nodes[index].journal.borrow().abandoned.clone();
                let host = cluster.nodes[index].host;
                for piece in abandoned {
                    let geometry = cluster.session.geometry;
                    let bytes = part(&cluster.bundle, geometry, piece).to_vec();
                    let file = &mut cluster.world.files(host)[0];
                    file.write(geometry.offset(piece), &bytes)
                        .expect("there is room");
                    cluster.command(index, Command::Have(piece));
                }
            }
            cluster.run_to_completion(Duration::from_secs(10));
            cluster.check();
            assert_eq!(cluster.complete_count(), 4);
        },
    );
}
