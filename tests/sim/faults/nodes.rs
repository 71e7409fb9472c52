//! Receivers and their disks.

use std::time::Duration;

use flashover::base::Counter;
use flashover::machine::DiskError;
use flashover::machine::world::Conditions;
use flashover::multicast::keys::{Cipher as _, Key as _};
use flashover::multicast::sender::Event;
use flashover::multicast::wire::report::{Report, ReportHeader};
use flashover::multicast::{Aes128Gcm, Session};

use super::super::cluster::{Cluster, Node, Plan, REPORT_PORT, head_address, node_address};
use super::super::models::{Cheap, Clumsy, Modelled, Real};
use super::super::seeds;
use super::{LONG, PLAN, cost, lossy, others_done, started, undisturbed};

/// A node whose link carries a tenth of the rate is demoted, and served after the others.
#[test]
fn row_03_straggler() {
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
    seeds("faults::nodes::row_03_straggler", 2, |seed| {
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
    });
}

/// A node whose disk takes a tenth of the rate skips whole pieces, and holds up nobody.
#[test]
fn row_04_slow_disk() {
    let mut cluster = Cluster::<Cheap>::new(7, LONG);
    cluster.set_links(lossy(0.001));
    let host = cluster.nodes[4].host;
    // Twelve blocks of memory, each busy for so long: 12 pieces in 1.1 s, where 119 come by.
    cluster.world.files(host)[0].disk.latency = Duration::from_millis(1100);
    cluster.start_all();
    let at = others_done(&mut cluster, &[4]);
    let undisturbed = undisturbed(7, LONG);
    assert!(
        at.as_nanos() <= undisturbed.as_nanos() * 103 / 100,
        "{at} against {undisturbed}"
    );
    // A piece that is skipped is skipped from its first symbol to its last.
    let counted = |counter| cluster.nodes[4].counters.get(counter);
    let (pieces, symbols) = (
        counted(Counter::PiecesSkipped),
        counted(Counter::SymbolsWithoutMemory),
    );
    println!("{pieces} pieces, {symbols} symbols skipped");
    assert!(pieces > 100, "the disk is far too slow: {pieces} skipped");
    assert!(
        symbols * 100 >= pieces * 745 * 95,
        "whole pieces are skipped, not {symbols} symbols of {pieces}"
    );
    cluster.run_to_completion(Duration::from_secs(240));
    cluster.check();
    println!(
        "others {at}, all {}, sent {:.3}",
        cluster.world.now(),
        cost(&cluster)
    );
}

/// A thousand nodes that lose the same datagrams do not drown the head in reports.
#[test]
fn row_18_feedback_implosion() {
    let plan = Plan {
        nodes: 1000,
        bundle_size: 64 << 16,
        ..LONG
    };
    let mut cluster = started::<Cheap>(8, plan, lossy(0.0));
    cluster.run_for(Duration::from_millis(200));
    // For 5 ms nothing comes out of the head's port.
    cluster.set_links(lossy(1.0));
    cluster.run_for(Duration::from_millis(5));
    cluster.set_links(lossy(0.0));
    let before = cluster.ledger.borrow().reports_count();
    cluster.run_for(Duration::from_millis(20));
    let burst = cluster.ledger.borrow().reports_count() - before;
    println!("{burst} reports in the 20 ms after all lost the same");
    others_done(&mut cluster, &[]);
    cluster.check();
    let all = cluster.ledger.borrow().reports_count();
    let seconds = cluster.world.now().as_nanos() / 1_000_000_000 + 1;
    println!("{all} reports in {}", cluster.world.now());
    assert!(burst < 250, "{burst} reports in 20 ms");
    // One when it comes, the last ones, and few per second.
    assert!(all < 1000 * (8 + 6 * seconds), "{all} reports");
}

#[test]
fn row_19_late_joiners() {
    seeds("faults::nodes::row_19_late_joiners", 10, |seed| {
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

/// Who starts again resumes; datagrams for its former self change nothing.
/// Who joins when half is sent has everything as soon as if it had been cast for it alone.
#[test]
fn row_19_joiner_at_half() {
    seeds("faults::nodes::row_19_joiner_at_half", 2, |seed| {
        let mut cluster = Cluster::<Cheap>::new(seed, LONG);
        cluster.set_links(lossy(0.01));
        (1..LONG.nodes).for_each(|index| cluster.start_node(index));
        cluster.run_to("half of the pieces", Duration::from_secs(20), |cluster| {
            cluster.nodes[1].journal.borrow().stored.len() >= 512
        });
        let joined = cluster.world.now();
        cluster.start_node(0);
        cluster.run_to_completion(Duration::from_secs(60));
        cluster.check();
        // 1024 pieces of 745 datagrams of 136 bytes, of which 1 % is lost.
        let least = 1024.0 * 745.0 * 136.0 / 11e6 / 0.99;
        let took = cluster.nodes[0]
            .journal
            .borrow()
            .complete
            .expect("all are complete");
        let took = took.since(joined).as_secs_f64();
        println!("seed {seed}: {took:.2} s after it joined, least {least:.2} s");
        assert!(took <= 1.08 * least, "{took} s against {least} s");
    });
}

/// Two machines with one id: the first goes on, whatever the second says in its name, the second is
/// refused and told of, and nobody else is concerned.
#[test]
fn row_21_two_machines_with_one_id() {
    seeds(
        "faults::nodes::row_21_two_machines_with_one_id",
        5,
        |seed| {
            let mut cluster = Cluster::<Real>::new(seed, PLAN);
            cluster.set_links(lossy(0.02));
            let (first, twin) = (0, PLAN.nodes - 1);
            (0..twin).for_each(|index| cluster.start_node(index));
            cluster.run_for(Duration::from_millis(30));
            cluster.start_copy(twin, first);
            cluster.run_for(Duration::from_millis(30));
            // Its counter is ahead of the first's, and it claims to have everything.
            let done = report_in_the_name_of(&cluster, first, 10_000);
            let (from, to) = (node_address(twin, REPORT_PORT), head_address(REPORT_PORT));
            cluster.world.inject(from, to, &done, done.len());
            cluster.run_for(Duration::from_millis(10));
            let missing = cluster.nodes[first].journal.borrow().complete.is_none();
            assert!(missing, "the first still lacks something");
            others_done(&mut cluster, &[twin]);
            cluster.check();
            let log = cluster.head_log.borrow();
            let told: Vec<_> = log
                .iter()
                .filter_map(|(_, event)| match event {
                    Event::Twin { from, twin, .. } => Some((*from, *twin)),
                    _ => None,
                })
                .collect();
            assert_eq!(
                told,
                [(node_address(first, REPORT_PORT), from)],
                "told once"
            );
            let gone = |event: &Event| matches!(event, Event::NodeGone { .. });
            assert!(!log.iter().any(|(_, event)| gone(event)), "all go on");
            let refused = cluster.head_counters.get(Counter::RejectedTwin);
            assert!(refused > 1, "{refused} reports of the second were refused");
        },
    );
}

/// A report of somebody who has the id of a node, and claims to have every piece.
fn report_in_the_name_of(cluster: &Cluster<Real>, index: usize, counter: u64) -> Vec<u8> {
    let Session { tsi, epoch, .. } = cluster.session;
    let node = cluster.id(index);
    let header = ReportHeader {
        tsi,
        epoch,
        node,
        counter,
    };
    let header = header.emit();
    let report = Report {
        done: true,
        pieces_done: cluster.session.geometry.piece_count(),
        host: format!("node{index}"),
        ..Report::default()
    };
    let mut body = report.emit();
    let key = Aes128Gcm.report_key(&cluster.secret, epoch, tsi, node);
    let tag = key.seal(counter, &header, &mut body);
    [&header[..], &body, &tag].concat()
}

/// Nodes that die are not waited for, and forgotten within three seconds.
#[test]
fn row_20_killed_nodes() {
    let mut cluster = started::<Cheap>(3, LONG, lossy(0.001));
    cluster.run_for(Duration::from_secs(2));
    let killed = cluster.world.now();
    cluster.crash_node(2);
    cluster.crash_node(4);
    let at = others_done(&mut cluster, &[2, 4]);
    cluster.check();
    let log = cluster.head_log.borrow();
    let gone = |event: &Event| matches!(event, Event::NodeGone { .. });
    let gone: Vec<_> = log.iter().filter(|(_, event)| gone(event)).collect();
    assert_eq!(gone.len(), 2, "{gone:?}");
    for (at, _) in gone {
        let after = at.since(killed);
        assert!(after <= Duration::from_millis(3200), "gone after {after:?}");
    }
    let undisturbed = undisturbed(3, LONG);
    println!("others {at}, undisturbed {undisturbed}");
    assert!(
        at.as_nanos() <= undisturbed.as_nanos() * 103 / 100,
        "{at} against {undisturbed}"
    );
}

#[test]
fn row_20_reboot() {
    seeds("faults::nodes::row_20_reboot", 5, |seed| {
        let mut cluster = started::<Modelled>(seed, PLAN, lossy(0.02));
        for turn in 0..12 {
            cluster.run_for(Duration::from_millis(25));
            let index = turn % PLAN.nodes;
            let before = cluster.nodes[index].journal.borrow().stored.len();
            cluster.crash_node(index);
            cluster.start_node(index);
            let after = cluster.nodes[index].journal.borrow().stored.len();
            assert_eq!(before, after, "what was stored is not fetched again");
        }
        cluster.run_to_completion(Duration::from_secs(30));
        cluster.check();
        assert_eq!(cluster.complete_count(), PLAN.nodes);
    });
}

/// A disk that fails one write in fifty: the piece is missing again and written once more; only
/// what fails twice is given up, by name.
#[test]
fn row_27_write_errors() {
    seeds("faults::nodes::row_27_write_errors", 5, |seed| {
        let mut cluster = Cluster::<Modelled>::new(seed, PLAN);
        cluster.set_links(lossy(0.01));
        let host = cluster.nodes[4].host;
        cluster.world.files(host)[0].disk.error = 0.02;
        cluster.start_all();
        let count = cluster.session.geometry.piece_count() as usize;
        cluster.run_to(
            "all that can be written",
            Duration::from_secs(30),
            |cluster| {
                let settled = |node: &Node| {
                    let journal = node.journal.borrow();
                    journal.stored.len() + journal.abandoned.len() == count
                };
                cluster.nodes.iter().all(settled)
            },
        );
        cluster.check();
        let failing = cluster.nodes[4].journal.borrow();
        assert!(
            failing.abandoned.len() * 2 <= failing.disk_failures as usize,
            "{failing:?}"
        );
        assert!(
            cluster.complete_count() >= PLAN.nodes - 1,
            "the others are not concerned"
        );
    });
}

/// A decoder that fails at a block loses that block only, which is fetched again.
#[test]
fn row_36_decoder_failure() {
    let mut cluster = started::<Clumsy>(2, PLAN, lossy(0.02));
    cluster.run_to_completion(Duration::from_secs(30));
    cluster.check();
    assert_eq!(cluster.complete_count(), PLAN.nodes);
    let cost = cost(&cluster);
    println!("sent {cost:.3}");
    assert!(cost > 1.15, "every fifth piece was needed twice: {cost}");
}

#[test]
fn row_28_disk_full_or_failing() {
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
