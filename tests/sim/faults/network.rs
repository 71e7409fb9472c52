//! Links, switches, strangers.

use std::time::Duration;

use flashover::base::Counter;
use flashover::machine::world::{Bursts, Conditions, World};

use super::super::cluster::{
    Cluster, GROUP_PORT, Plan, REPORT_PORT, group, head_address, node_address,
};
use super::super::models::{Cheap, Modelled, Real};
use super::super::seeds;
use super::{LONG, PLAN, cost, lossy, others_done, started, undisturbed};
use flashover::multicast::sender::Event;

/// 0.1 to 5 % of random loss cost that much, 2 % more, and one round of repair.
#[test]
fn row_01_random_loss() {
    for loss in [0.001, 0.01, 0.05] {
        let mut cluster = started::<Cheap>(1, LONG, lossy(loss));
        others_done(&mut cluster, &[]);
        cluster.check();
        let cost = cost(&cluster);
        println!("loss {loss}: sent {cost:.4}");
        assert!(cost < (1.0 + 0.02) / (1.0 - loss), "loss {loss}: {cost}");
    }
}

/// Hundreds of datagrams lost in a row cost their repair, and the rate is not lowered for each.
#[test]
fn row_02_burst_loss() {
    seeds("faults::network::row_02_burst_loss", 4, |seed| {
        let bursts = Bursts {
            start: 0.000_05,
            length_mean: 200.0,
            loss: 1.0,
        };
        let links = Conditions {
            bursts: Some(bursts),
            ..lossy(0.0)
        };
        let mut cluster = started::<Cheap>(seed, LONG, links);
        let at = others_done(&mut cluster, &[]);
        cluster.check();
        let (cost, undisturbed) = (cost(&cluster), undisturbed(seed, LONG));
        println!("seed {seed}: sent {cost:.4}, {at} against {undisturbed} without loss");
        assert!(
            cost < 1.1,
            "each of six nodes loses 1 % in bursts of its own: {cost}"
        );
        assert!(
            at.as_nanos() < undisturbed.as_nanos() * 115 / 100,
            "{at} against {undisturbed}"
        );
    });
}

/// A burst that all lose at once lowers the rate once, however many datagrams it took: it is one
/// event, and what lasts is another.
#[test]
fn row_02_one_burst_is_one_event() {
    seeds(
        "faults::network::row_02_one_burst_is_one_event",
        4,
        |seed| {
            let mut cluster = started::<Cheap>(seed, LONG, lossy(0.0));
            cluster.run_for(Duration::from_millis(1500));
            let lowered =
                |cluster: &Cluster<Cheap>| cluster.head_counters.get(Counter::RateLowered);
            assert_eq!(lowered(&cluster), 0);
            // At 81 datagrams in a millisecond, 500 of them and then some.
            cluster.set_links(lossy(1.0));
            cluster.run_for(Duration::from_millis(8));
            cluster.set_links(lossy(0.0));
            cluster.run_for(Duration::from_millis(2000));
            let lost = cluster.nodes[0].counters.get(Counter::PacketsLost);
            assert!(lost > 500, "{lost} were lost");
            println!(
                "seed {seed}: {lost} lost, lowered {} times",
                lowered(&cluster)
            );
            assert!(lowered(&cluster) <= 1, "once, not per datagram");
            // A twin that must count more: loss that stays.
            cluster.set_links(Conditions {
                rate: 1_100_000,
                queue_bytes_max: 60_000,
                ..lossy(0.0)
            });
            cluster.run_for(Duration::from_millis(2000));
            assert!(lowered(&cluster) > 2, "{} times", lowered(&cluster));
            cluster.set_links(lossy(0.0));
            others_done(&mut cluster, &[]);
            cluster.check();
        },
    );
}

/// What a node's own kernel drops is told apart from what the network loses.
#[test]
fn row_05_own_drops_are_no_network_loss() {
    let mut cluster = Cluster::<Cheap>::new(2, LONG);
    cluster.set_links(lossy(0.0));
    let small_buffer = Conditions {
        rate: 9_000_000,
        queue_bytes_max: 30_000,
        ..lossy(0.0)
    };
    let (dropping, losing) = (cluster.nodes[1].host, cluster.nodes[2].host);
    cluster.world.set_down_link(dropping, small_buffer);
    cluster.world.set_down_link(losing, lossy(0.05));
    cluster.start_all();
    cluster.run_for(Duration::from_millis(2500));
    let log = cluster.head_log.borrow();
    let told = log.iter().rev().find_map(|(_, event)| match event {
        Event::Progress(progress) => Some(progress.nodes.clone()),
        _ => None,
    });
    let told = told.expect("the head tells how it goes every second");
    let node = |name: &str| {
        told.iter()
            .find(|node| node.host == name)
            .expect("it is served")
    };
    let (dropping, losing, well) = (node("node1"), node("node2"), node("node3"));
    println!("{dropping:?}\n{losing:?}\n{well:?}");
    assert!(dropping.dropped > 1000, "its own drops are told");
    assert!(
        losing.dropped == 0 && losing.loss > 0.03,
        "the network's are not its own"
    );
    assert!(well.dropped == 0 && well.loss < 0.001);
}

/// Datagrams that overtake a thousand others, and come three times.
#[test]
fn row_06_reordered_and_doubled() {
    let links = Conditions {
        reorder: 0.05,
        duplicate: 0.5,
        ..lossy(0.001)
    };
    let mut cluster = started::<Modelled>(3, PLAN, links);
    others_done(&mut cluster, &[]);
    cluster.check();
    let traffic = cluster.world.traffic();
    assert!(
        traffic.reordered > 100 && traffic.duplicated > 1000,
        "{traffic:?}"
    );
    let cost = cost(&cluster);
    assert!(cost < 1.05, "what comes late is not lost: {cost}");
}

/// Wrong bits that no checksum saw: the cipher does.
#[test]
fn row_07_corruption() {
    let links = Conditions {
        corrupt: 0.02,
        ..lossy(0.01)
    };
    let mut cluster = started::<Real>(4, PLAN, links);
    others_done(&mut cluster, &[]);
    cluster.check();
    assert!(cluster.world.traffic().corrupted > 500);
    for node in &cluster.nodes {
        assert_eq!(
            node.journal.borrow().poisoned,
            0,
            "no wrong bit got through"
        );
    }
}

#[test]
fn row_08_forged_and_replayed() {
    seeds("faults::network::row_08_forged_and_replayed", 5, |seed| {
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
    });
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
fn row_12_partition() {
    seeds("faults::network::row_12_partition", 10, |seed| {
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

/// A node that can hear and not be heard takes what is sent for the others, and holds up nobody.
#[test]
fn row_13_no_upstream() {
    let mut cluster = Cluster::<Cheap>::new(5, LONG);
    cluster.set_links(lossy(0.0));
    let mute = Conditions {
        rate: 1,
        queue_bytes_max: 0,
        ..lossy(0.0)
    };
    let host = cluster.nodes[1].host;
    cluster.world.set_up_link(host, mute);
    cluster.start_all();
    let at = others_done(&mut cluster, &[1]);
    cluster.run_for(Duration::from_secs(1));
    cluster.check();
    let undisturbed = undisturbed(5, LONG);
    assert!(
        at.as_nanos() <= undisturbed.as_nanos() * 102 / 100,
        "{at} against {undisturbed}"
    );
    let journal = cluster.nodes[1].journal.borrow();
    assert!(
        journal.complete.is_some(),
        "{} of 1024 stored",
        journal.stored.len()
    );
}

/// Links stop one by one, and come back in another order: all survivors complete soon after.
#[test]
fn row_14_swizzle_clog() {
    seeds("faults::network::row_14_swizzle_clog", 5, |seed| {
        let plan = Plan { nodes: 20, ..PLAN };
        let mut cluster = started::<Modelled>(seed, plan, lossy(0.01));
        let mut clogged: Vec<usize> = (0..20).collect();
        for at in (1..clogged.len()).rev() {
            let other = cluster.world.random().below(at as u64 + 1);
            clogged.swap(at, usize::try_from(other).expect("it is small"));
        }
        for &index in &clogged[..15] {
            let host = cluster.nodes[index].host;
            cluster.world.set_side(host, 1);
            cluster.run_for(Duration::from_millis(30));
        }
        clogged[..15].sort_unstable();
        for &index in &clogged[..15] {
            let host = cluster.nodes[index].host;
            cluster.world.set_side(host, 0);
            cluster.run_for(Duration::from_millis(60));
        }
        cluster.run_to_completion(Duration::from_secs(20));
        cluster.check();
        assert_eq!(cluster.complete_count(), 20);
    });
}

/// A switch that lets a tenth of the rate through: the sender goes down to that.
#[test]
fn row_16_storm_control() {
    let mut cluster = Cluster::<Cheap>::new(
        6,
        Plan {
            bundle_size: 256 << 16,
            ..LONG
        },
    );
    let capped = Conditions {
        rate: 1_100_000,
        queue_bytes_max: 60_000,
        ..lossy(0.0)
    };
    cluster.set_links(capped);
    cluster.start_all();
    let at = others_done(&mut cluster, &[]);
    cluster.check();
    // 256 pieces of 745 datagrams of 136 bytes.
    let ideal = 256.0 * 745.0 * 136.0 / 1.1e6;
    #[expect(clippy::cast_precision_loss, reason = "seconds need no 53 bits")]
    let took = at.as_nanos() as f64 / 1e9;
    println!(
        "{took:.1} s, ideal {ideal:.1} s, sent {:.3}",
        cost(&cluster)
    );
    assert!(took < ideal * 1.3, "{took} s against {ideal} s");
}

/// Who hears nothing, though it speaks, is sent nothing when the others are done: what it gets from
/// elsewhere comes through the same cables.
#[test]
fn row_15_who_hears_nothing_is_sent_nothing() {
    let mut cluster = Cluster::<Cheap>::new(1, PLAN);
    let host = cluster.nodes[1].host;
    cluster.world.set_down_link(host, lossy(1.0));
    cluster.start_all();
    others_done(&mut cluster, &[1]);
    cluster.run_for(Duration::from_millis(500));
    let sent = cluster.symbols_sent();
    cluster.run_for(Duration::from_secs(2));
    assert_eq!(cluster.symbols_sent(), sent);
    assert!(cluster.nodes[1].journal.borrow().complete.is_none());
}
