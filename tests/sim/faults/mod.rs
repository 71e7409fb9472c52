//! The rows of the fault matrix that the simulator can show, each a test named after its row.
//!
//! | file | what fails |
//! |---|---|
//! | `network` | links, switches, strangers |
//! | `nodes` | receivers and their disks |
//! | `head` | the sender |
//! | `insiders` | who holds the key and means harm |

mod head;
mod insiders;
mod network;
mod nodes;

use std::time::Duration;

use flashover::base::Time;
use flashover::machine::world::Conditions;

use super::cluster::{Cluster, Plan};
use super::models::{Cheap, Parts};

const PLAN: Plan = Plan {
    nodes: 6,
    bundle_size: (30 << 16) + 12_345,
    piece_log2: 16,
    symbol_size: 256,
    rate_bytes_per_s_max: Some(4_000_000),
    blocks: 12,
};

/// Long enough for receivers to be judged: nine seconds at the cap.
const LONG: Plan = Plan {
    bundle_size: 1024 << 16,
    symbol_size: 88,
    rate_bytes_per_s_max: Some(11_000_000),
    ..PLAN
};

fn lossy(loss: f64) -> Conditions {
    Conditions {
        loss,
        latency: Duration::from_micros(300),
        ..Conditions::default()
    }
}

/// A cluster of this plan, all nodes started behind such links.
fn started<P: Parts>(seed: u64, plan: Plan, links: Conditions) -> Cluster<P> {
    let mut cluster = Cluster::new(seed, plan);
    cluster.set_links(links);
    cluster.start_all();
    cluster
}

/// Runs until all nodes but `except` are complete; gives when.
fn others_done<P: Parts>(cluster: &mut Cluster<P>, except: &[usize]) -> Time {
    cluster.run_to("the others", Duration::from_secs(120), |cluster| {
        let complete = |index: usize| cluster.nodes[index].journal.borrow().complete.is_some();
        (0..cluster.nodes.len()).all(|index| except.contains(&index) || complete(index))
    });
    cluster.world.now()
}

/// Symbols sent by those of the bundle.
#[expect(clippy::cast_precision_loss, reason = "the counts are small")]
fn cost<P: Parts>(cluster: &Cluster<P>) -> f64 {
    let symbol_size = u64::from(cluster.plan.symbol_size);
    let geometry = cluster.session.geometry;
    let symbols = |piece| (geometry.len(piece) as u64).div_ceil(symbol_size);
    let source: u64 = geometry.pieces().map(symbols).sum();
    cluster.symbols_sent() as f64 / source as f64
}

/// When nothing is wrong.
fn undisturbed(seed: u64, plan: Plan) -> Time {
    let mut cluster = started::<Cheap>(seed, plan, lossy(0.0));
    others_done(&mut cluster, &[])
}
