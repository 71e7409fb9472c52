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
            let seconds = cluster.world.now();
            let ledger = cluster.ledger.borrow();
            let sent = ledger.symbols_of_epoch(cluster.session.epoch);
            let reports = ledger.reports_count();
            println!("seed {seed}: {seconds}, {sent} symbols for 47680, {reports} reports");
            println!("{:?}", cluster.world.traffic());
            assert!(sent < 47_680 * 13 / 10, "{sent} symbols were sent");
        },
    );
}
