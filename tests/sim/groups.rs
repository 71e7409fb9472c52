//! What befalls a group: the sender starts anew, a node is slow, the network splits, somebody
//! forges.

use std::time::Duration;

use flashover::base::PieceIndex;
use flashover::machine::DiskError;
use flashover::machine::world::{Conditions, World};
use flashover::multicast::receiver::Command;
use flashover::multicast::sender::Event;

use super::cluster::{
    Cluster, GROUP_PORT, Node, Plan, REPORT_PORT, group, head_address, node_address,
};
use super::models::{Cheap, Modelled, Parts, Real};
use super::seeds;

const PLAN: Plan = Plan {
    nodes: 6,
    bundle_size: (30 << 16) + 12_345,
    piece_log2: 16,
    symbol_size: 256,
    rate_bytes_per_s_max: Some(4_000_000),
    blocks: 12,
};

fn lossy(loss: f64) -> Conditions {
    Conditions {
        loss,
        latency: Duration::from_micros(300),
        ..Conditions::default()
    }
}

/// Tells every node the new epoch and secret, as the control channel does.
fn rekey<P: Parts>(cluster: &mut Cluster<P>) {
    for index in 0..cluster.nodes.len() {
        let key = Command::Key {
            epoch: cluster.session.epoch,
            secret: cluster.secret.clone(),
            reports_to: head_address(REPORT_PORT),
        };
        cluster.command(index, key);
    }
}

#[test]
fn a_sender_that_starts_anew_sends_only_what_is_lacking() {
    seeds(
        "groups::a_sender_that_starts_anew_sends_only_what_is_lacking",
        10,
        |seed| {
            let mut cluster = Cluster::<Modelled>::new(seed, PLAN);
            cluster.set_links(lossy(0.01));
            cluster.start_all();
            cluster.run_to("half of the pieces", Duration::from_secs(20), |cluster| {
                cluster
                    .nodes
                    .iter()
                    .all(|node| node.journal.borrow().stored.len() >= 15)
            });
            let first = cluster.session.epoch;
            cluster.world.crash(cluster.head);
            cluster.run_for(Duration::from_millis(500));
            let stored_by_all = |piece: &PieceIndex| {
                let has =
                    |node: &super::cluster::Node| node.journal.borrow().stored.contains(piece);
                cluster.nodes.iter().all(has)
            };
            let safe: Vec<PieceIndex> = cluster
                .session
                .geometry
                .pieces()
                .filter(stored_by_all)
                .collect();
            assert!(safe.len() >= 10);
            cluster.start_head();
            assert_ne!(cluster.session.epoch, first);
            cluster.run_for(Duration::from_millis(100));
            rekey(&mut cluster);
            cluster.run_to_completion(Duration::from_secs(60));
            cluster.check();
            let unknown = cluster
                .nodes
                .iter()
                .filter(|node| node.journal.borrow().unknown_epoch.is_some());
            assert!(
                unknown.count() > 0,
                "nodes see that the sender started anew"
            );
            let ledger = cluster.ledger.borrow();
            for piece in safe {
                let sent = ledger
                    .symbols
                    .get(&(cluster.session.epoch.0, piece.get() + 1));
                assert_eq!(sent, None, "{piece} was stored by all and is sent again");
            }
        },
    );
}

/// A node whose link carries a tenth of the rate is demoted, and served after the others.
#[test]
fn a_straggler_does_not_hold_up_the_others() {
    const LONG: Plan = Plan {
        bundle_size: 1024 << 16,
        symbol_size: 88,
        rate_bytes_per_s_max: Some(11_000_000),
        ..PLAN
    };
    let slow = Conditions {
        rate: 1_100_000,
        queue_bytes_max: 60_000,
        ..lossy(0.001)
    };
    seeds(
        "groups::a_straggler_does_not_hold_up_the_others",
        2,
        |seed| {
            let others_are_done = |has_straggler: bool| {
                let mut cluster = Cluster::<Cheap>::new(seed, LONG);
                cluster.set_links(lossy(0.001));
                if has_straggler {
                    let host = cluster.nodes[2].host;
                    cluster.world.set_down_link(host, slow);
                }
                cluster.start_all();
                cluster.run_to("the others", Duration::from_secs(60), |cluster| {
                    let complete = |node: &Node| node.journal.borrow().complete.is_some();
                    (0..LONG.nodes).all(|index| index == 2 || complete(&cluster.nodes[index]))
                });
                let others_at = cluster.world.now();
                let is_demoted = |event: &Event| matches!(event, Event::Demoted { .. });
                let log = cluster.head_log.borrow();
                let demoted = log.iter().filter(|(_, event)| is_demoted(event)).count();
                assert_eq!(
                    demoted,
                    usize::from(has_straggler),
                    "only the straggler is demoted"
                );
                drop(log);
                cluster.run_to_completion(Duration::from_secs(300));
                cluster.check();
                println!(
                    "seed {seed}: others {others_at}, all {}",
                    cluster.world.now()
                );
                others_at
            };
            let (without, with) = (others_are_done(false), others_are_done(true));
            let bound = without.as_nanos() * 103 / 100;
            assert!(with.as_nanos() <= bound, "{with} against {without}");
        },
    );
}

#[test]
fn a_partition_heals() {
    seeds("groups::a_partition_heals", 10, |seed| {
        let mut cluster = Cluster::<Modelled>::new(seed, PLAN);
        cluster.set_links(lossy(0.01));
        cluster.start_all();
        cluster.run_for(Duration::from_millis(150));
        for index in [1, 4] {
            let host = cluster.nodes[index].host;
            cluster.world.set_side(host, 1);
        }
        cluster.run_to("the near side", Duration::from_secs(30), |cluster| {
            [0, 2, 3, 5]
                .iter()
                .all(|&index| cluster.nodes[index].journal.borrow().complete.is_some())
        });
        cluster.run_for(Duration::from_secs(5));
        assert_eq!(cluster.complete_count(), 4, "nothing crosses a partition");
        assert!(
            cluster.nodes[1].journal.borrow().silent > 0,
            "who is cut off says so"
        );
        for index in [1, 4] {
            let host = cluster.nodes[index].host;
            cluster.world.set_side(host, 0);
        }
        cluster.run_to_completion(Duration::from_secs(30));
        cluster.check();
    });
}

#[test]
fn late_comers_get_everything() {
    seeds("groups::late_comers_get_everything", 10, |seed| {
        let mut cluster = Cluster::<Modelled>::new(seed, PLAN);
        cluster.set_links(lossy(0.02));
        for index in 0..PLAN.nodes {
            cluster.start_node(index);
            cluster.run_for(Duration::from_millis(200 * index as u64));
        }
        cluster.run_to_completion(Duration::from_secs(30));
        cluster.check();
    });
}

#[test]
fn a_node_whose_disk_is_full_says_so_and_holds_up_nobody() {
    let mut cluster = Cluster::<Modelled>::new(1, PLAN);
    cluster.set_links(lossy(0.01));
    let host = cluster.nodes[3].host;
    cluster.world.files(host)[0].disk.capacity = 10 << 16;
    let failing = cluster.nodes[4].host;
    cluster.world.files(failing)[0].disk.error = 0.02;
    cluster.start_all();
    cluster.run_to("the others", Duration::from_secs(30), |cluster| {
        [0, 1, 2, 5]
            .iter()
            .all(|&index| cluster.nodes[index].journal.borrow().complete.is_some())
    });
    cluster.run_for(Duration::from_secs(30));
    cluster.check();
    let full = cluster.nodes[3].journal.borrow();
    assert!(
        full.complete.is_none() && full.stored.len() == 10,
        "{full:?}"
    );
    assert!(!full.abandoned.is_empty() && full.disk_failures > 0);
    let refused = cluster.world.files(host)[0].write(20 << 16, &[1]);
    assert_eq!(refused, Err(DiskError::Full));
}

#[test]
fn forged_and_replayed_datagrams_change_nothing() {
    seeds(
        "groups::forged_and_replayed_datagrams_change_nothing",
        5,
        |seed| {
            let plan = Plan {
                nodes: 4,
                bundle_size: 700_000,
                symbol_size: 1408,
                ..PLAN
            };
            let mut cluster = Cluster::<Real>::new(seed, plan);
            cluster.set_links(lossy(0.02));
            cluster.start_all();
            let mut stale = Vec::new();
            for round in 0..400u64 {
                cluster.run_for(Duration::from_millis(1));
                let (burst, size) = {
                    let ledger = cluster.ledger.borrow();
                    (ledger.last_burst.clone(), ledger.last_segment_size)
                };
                if burst.is_empty() {
                    continue;
                }
                if round == 20 {
                    stale.clone_from(&burst);
                }
                attack(&mut cluster.world, &burst, size, round);
                if !stale.is_empty() {
                    cluster
                        .world
                        .inject(head_address(GROUP_PORT), group(), &stale, stale.len());
                }
            }
            cluster.run_to_completion(Duration::from_secs(30));
            cluster.check();
            for node in &cluster.nodes {
                assert_eq!(
                    node.journal.borrow().poisoned,
                    0,
                    "no forged symbol got through"
                );
            }
        },
    );
}

/// Replays the burst, and sends it again with one wrong bit per datagram; also as reports.
fn attack(world: &mut World, burst: &[u8], size: usize, round: u64) {
    world.inject(head_address(GROUP_PORT), group(), burst, size);
    let mut forged = burst.to_vec();
    for datagram in forged.chunks_mut(size) {
        let bit = usize::try_from(world.random().below(datagram.len() as u64 * 8));
        let bit = bit.expect("a datagram is short");
        datagram[bit / 8] ^= 1 << (bit % 8);
    }
    world.inject(head_address(GROUP_PORT), group(), &forged, size);
    let from = node_address(
        usize::try_from(round % 4).expect("it is small"),
        REPORT_PORT,
    );
    world.inject(from, head_address(REPORT_PORT), &forged, size);
}

#[test]
fn the_world_of_real_machines_is_deterministic() {
    let run = || {
        let mut cluster = Cluster::<Real>::new(
            3,
            Plan {
                bundle_size: 300_000,
                ..PLAN
            },
        );
        cluster.set_links(lossy(0.05));
        cluster.start_all();
        cluster.run_to_completion(Duration::from_secs(30));
        (cluster.world.trace(), cluster.world.traffic())
    };
    assert_eq!(run(), run());
}
