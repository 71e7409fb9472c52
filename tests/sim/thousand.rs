//! A thousand nodes and a whole bundle: 64 pieces of 745 symbols, as 64 MiB has them, but the
//! symbols are small.

use std::time::Duration;

use flashover::machine::world::Conditions;

use super::cluster::{Cluster, Plan};
use super::models::Cheap;
use super::seeds;

const PLAN: Plan = Plan {
    nodes: 1000,
    bundle_size: 64 << 16,
    piece_log2: 16,
    symbol_size: 88,
    // What 1 Gbit/s is to symbols of 1408 bytes.
    rate_bytes_per_s_max: Some(11_000_000),
    blocks: 16,
};

/// The source symbols of the bundle.
const SYMBOLS: u64 = 64 * 745;

#[test]
fn thousand_nodes_with_loss_and_crashes() {
    seeds(
        "thousand::thousand_nodes_with_loss_and_crashes",
        1,
        |seed| {
            let mut cluster = Cluster::<Cheap>::new(seed, PLAN);
            cluster.set_links(Conditions {
                loss: 0.05,
                latency: Duration::from_micros(200),
                jitter: Duration::from_micros(100),
                ..Conditions::default()
            });
            cluster.start_all();
            // One in ten crashes at some moment of the run; every other of those comes back.
            let mut crashes: Vec<(u64, usize)> = (0..PLAN.nodes)
                .step_by(10)
                .map(|index| (cluster.world.random().below(600), index))
                .collect();
            crashes.sort_unstable();
            for (at, index) in crashes {
                let until = flashover::machine::world::at_millis(at);
                if until > cluster.world.now() {
                    cluster.world.run_until(until);
                }
                cluster.crash_node(index);
                if index % 20 == 0 {
                    cluster.start_node(index);
                }
            }
            cluster.run_to_completion(Duration::from_secs(60));
            cluster.check();
            assert!(cluster.complete_count() >= 950);
            let sent = cluster.symbols_sent();
            println!(
                "seed {seed}: {}, {sent} symbols for {SYMBOLS}",
                cluster.world.now()
            );
            // Fifty come back; each has lost the four pieces in flight, which are any of the 64:
            // all are sent twice, and not more, however many lack them.
            assert!(sent < SYMBOLS * 23 / 10, "{sent} symbols were sent");
        },
    );
}

/// What is sent grows with the loss, hardly with the group.
#[test]
fn loss_costs_little_more_than_what_is_lost() {
    let losses = [(0.0, 1.0), (0.001, 1.008), (0.01, 1.03), (0.05, 1.09)];
    for nodes in [1, 10, 100] {
        for (loss, bound) in losses {
            let mut cluster = Cluster::<Cheap>::new(7, Plan { nodes, ..PLAN });
            let latency = Duration::from_micros(200);
            cluster.set_links(Conditions {
                loss,
                latency,
                ..Conditions::default()
            });
            cluster.start_all();
            cluster.run_to_completion(Duration::from_secs(10));
            cluster.check();
            #[expect(clippy::cast_precision_loss, reason = "the counts are small")]
            let cost = cluster.symbols_sent() as f64 / SYMBOLS as f64;
            let reports = cluster.ledger.borrow().reports_count();
            let at = cluster.world.now();
            println!("{nodes:4} nodes, loss {loss}: cost {cost:.4}, {reports} reports, {at}");
            assert!(
                cost <= bound,
                "{nodes} nodes, loss {loss}: {cost} > {bound}"
            );
        }
    }
}

/// Who comes back lost the pieces that it was gathering: it gets them after the others are done.
#[test]
fn who_comes_back_does_not_slow_the_others() {
    let test = "thousand::who_comes_back_does_not_slow_the_others";
    seeds(test, 3, |seed| {
        let others_are_done = |is_crashing: bool| {
            let mut cluster = Cluster::<Cheap>::new(seed, Plan { nodes: 200, ..PLAN });
            cluster.set_links(Conditions {
                loss: 0.01,
                latency: Duration::from_micros(200),
                ..Conditions::default()
            });
            cluster.start_all();
            if is_crashing {
                for index in (0..200).step_by(10) {
                    cluster.run_for(Duration::from_millis(25));
                    cluster.crash_node(index);
                    cluster.start_node(index);
                }
            }
            cluster.run_to_completion(Duration::from_secs(30));
            cluster.check();
            let others = (0..200).filter(|index| index % 10 != 0);
            let done = others.map(|index| cluster.nodes[index].journal.borrow().complete);
            let mut done: Vec<_> = done.collect::<Option<_>>().expect("all are complete");
            done.sort_unstable();
            [done[done.len() / 2], done[done.len() - 1]]
        };
        let (without, with) = (others_are_done(false), others_are_done(true));
        println!("seed {seed}: median and last of the others {without:?} without, {with:?} with");
        for (at, percent) in [(0, 108), (1, 125)] {
            let bound = without[at].as_nanos() * percent / 100;
            assert!(with[at].as_nanos() <= bound, "{with:?} against {without:?}");
        }
    });
}
