//! Many small worlds, each with its own mixture of harm.

use std::time::Duration;

use flashover::machine::world::{Bursts, Conditions, Random};

use super::cluster::{Cluster, Plan};
use super::models::{Modelled, Parts, Real};
use super::seeds;

#[test]
fn any_small_world_of_models_completes() {
    seeds("small::any_small_world_of_models_completes", 150, |seed| {
        run::<Modelled>(seed, false);
    });
}

#[test]
fn any_small_world_of_real_parts_completes() {
    seeds(
        "small::any_small_world_of_real_parts_completes",
        30,
        |seed| {
            run::<Real>(seed, true);
        },
    );
}

/// A world with harm for a while; then it heals, and everybody gets everything.
fn run<P: Parts>(seed: u64, corrupt: bool) {
    let mut dice = Random::new(!seed);
    let nodes = usize::try_from(3 + dice.below(8)).expect("it is small");
    let plan = Plan {
        nodes,
        bundle_size: 1 + dice.below(1 << 20),
        piece_log2: 16,
        symbol_size: [88, 256, 1408][usize::try_from(dice.below(3)).expect("it is small")],
        rate_bytes_per_s_max: Some(5_000_000 + dice.below(20_000_000)),
        blocks: 6,
    };
    let mut cluster = Cluster::<P>::new(seed, plan);
    for index in 0..nodes {
        let conditions = harm(&mut dice, corrupt);
        let host = cluster.nodes[index].host;
        cluster.world.set_down_link(host, conditions);
    }
    let to_head = harm(&mut dice, corrupt);
    cluster.world.set_down_link(cluster.head, to_head);
    for index in 0..nodes {
        cluster.start_node(index);
        cluster.run_for(Duration::from_millis(dice.below(60)));
    }
    let cut_off = usize::try_from(dice.below(nodes as u64)).expect("it is small");
    let host = cluster.nodes[cut_off].host;
    cluster.world.set_side(host, 1);
    cluster.run_for(Duration::from_millis(dice.below(1500)));
    cluster.world.set_side(host, 0);
    let crashing = usize::try_from(dice.below(nodes as u64)).expect("it is small");
    cluster.crash_node(crashing);
    cluster.run_for(Duration::from_millis(dice.below(500)));
    cluster.start_node(crashing);
    cluster.run_to_completion(Duration::from_secs(120));
    cluster.check();
    assert_eq!(cluster.complete_count(), nodes);
}

fn harm(dice: &mut Random, corrupt: bool) -> Conditions {
    #[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
    let mut share = |most: u64| dice.below(most) as f64 / 1000.0;
    let (loss, reorder, duplicate) = (share(100), share(30), share(30));
    let corrupt = if corrupt { share(20) } else { 0.0 };
    let bursts = Bursts {
        start: share(5),
        length_mean: 30.0,
        loss: 0.9,
    };
    Conditions {
        latency: Duration::from_micros(dice.below(2000)),
        jitter: Duration::from_micros(dice.below(500)),
        loss,
        bursts: dice.chance(0.5).then_some(bursts),
        reorder,
        duplicate,
        corrupt,
        ..Conditions::default()
    }
}

#[test]
fn the_world_of_real_machines_is_deterministic() {
    let run = || {
        let mut cluster = Cluster::<Real>::new(
            3,
            Plan {
                nodes: 6,
                bundle_size: 300_000,
                piece_log2: 16,
                symbol_size: 256,
                rate_bytes_per_s_max: Some(4_000_000),
                blocks: 12,
            },
        );
        cluster.set_links(Conditions {
            loss: 0.05,
            latency: Duration::from_micros(300),
            ..Conditions::default()
        });
        cluster.start_all();
        cluster.run_to_completion(Duration::from_secs(30));
        (cluster.world.trace(), cluster.world.traffic())
    };
    assert_eq!(run(), run());
}
