//! What reaching many receivers costs, as a table: it changes only when the sender's or the
//! receivers' policy does, and then the change is to be looked at.
//!
//! | column | what it is |
//! |---|---|
//! | sent | symbols sent by the least that can reach one receiver: source symbols / (1 - loss) |
//! | last | when the last receiver is complete, by the time that the least takes at the cap |
//! | median | the same of the receiver in the middle |
//! | reports/s | datagrams that the head gets in the second with the most of them |

use std::fmt::Write as _;
use std::time::Duration;

use flashover::machine::world::{Bursts, Conditions};

use super::cluster::{Cluster, Plan};
use super::models::Cheap;

/// 32 pieces of 745 symbols, as 32 MiB has them, but the symbols are small.
const PLAN: Plan = Plan {
    nodes: 0,
    bundle_size: PIECES << 16,
    piece_log2: 16,
    symbol_size: 88,
    // What 1 Gbit/s is to symbols of 1408 bytes.
    rate_bytes_per_s_max: Some(11_000_000),
    blocks: 16,
};
const PIECES: u64 = 32;
const SYMBOLS_PER_PIECE: f64 = 745.0;
const DATAGRAM_BYTES: f64 = 88.0 + 48.0;
const RATE: f64 = 11e6;

struct Cell {
    sent: f64,
    last: f64,
    median: f64,
    reports_per_s: u64,
}

/// Loss of this share; `bursty` in runs of 46 datagrams, a GSO burst.
fn links(loss: f64, bursty: bool) -> Conditions {
    let bursts = Bursts {
        start: loss / 46.0,
        length_mean: 46.0,
        loss: 1.0,
    };
    Conditions {
        loss: if bursty { 0.0 } else { loss },
        bursts: (bursty && loss > 0.0).then_some(bursts),
        latency: Duration::from_micros(200),
        ..Conditions::default()
    }
}

#[expect(clippy::cast_precision_loss, reason = "the counts are small")]
fn run(plan: Plan, loss: f64, bursty: bool) -> Cell {
    let nodes = plan.nodes;
    let mut cluster = Cluster::<Cheap>::new(11, plan);
    cluster.set_links(links(loss, bursty));
    cluster.start_all();
    let (mut reports, mut reports_per_s) = (0, 0);
    let is_done = |cluster: &Cluster<Cheap>| cluster.complete_count() == nodes;
    for second in 0.. {
        assert!(second < 60, "{nodes} nodes, loss {loss}: {second} s");
        let end = flashover::machine::world::at_millis(1000 * (second + 1));
        while cluster.world.now() < end && !is_done(&cluster) {
            cluster.run_for(Duration::from_millis(5));
        }
        let all = cluster.ledger.borrow().reports_count();
        reports_per_s = reports_per_s.max(all - reports);
        reports = all;
        if is_done(&cluster) {
            break;
        }
    }
    cluster.check();
    let journals = cluster.nodes.iter().map(|node| node.journal.borrow());
    let mut done: Vec<_> = journals.filter_map(|journal| journal.complete).collect();
    done.sort_unstable();
    let pieces = cluster.session.geometry.piece_count();
    let least = SYMBOLS_PER_PIECE * f64::from(pieces) / (1.0 - loss);
    let floor = least * DATAGRAM_BYTES / RATE;
    let relative = |at: flashover::base::Time| at.as_nanos() as f64 / 1e9 / floor;
    Cell {
        sent: cluster.symbols_sent() as f64 / least,
        last: relative(done[done.len() - 1]),
        median: relative(done[done.len() / 2]),
        reports_per_s,
    }
}

fn table(groups: &[usize]) -> String {
    let mut table = String::from("nodes   loss  kind    sent   last   median  reports/s\n");
    for &nodes in groups {
        for loss in [0.0, 0.001, 0.01, 0.05] {
            for bursty in [false, true] {
                if bursty && loss <= 0.0 {
                    continue;
                }
                let cell = run(Plan { nodes, ..PLAN }, loss, bursty);
                let kind = if bursty { "bursts" } else { "random" };
                let line = format!(
                    "{nodes:5}  {:4.1} %  {kind}  {:.4} {:6.3} {:8.3} {:10}",
                    loss * 100.0,
                    cell.sent,
                    cell.last,
                    cell.median,
                    cell.reports_per_s
                );
                writeln!(table, "{line}").expect("a string takes all");
            }
        }
    }
    table
}

#[test]
fn up_to_a_thousand() {
    insta::assert_snapshot!(table(&[1, 10, 100, 1000]));
}

/// What is sent to ten thousand at 1 % is hardly more than to one. The whole table for as many
/// takes minutes: `FLASHOVER_NIGHTLY=1` prints it.
#[test]
fn ten_thousand() {
    let plan = Plan {
        nodes: 10_000,
        bundle_size: 4 << 16,
        ..PLAN
    };
    let cell = run(plan, 0.01, false);
    println!(
        "sent {:.4}, last {:.3}, {} reports/s",
        cell.sent, cell.last, cell.reports_per_s
    );
    assert!(cell.sent <= 1.04, "sent {:.4} of the floor", cell.sent);
    if std::env::var_os("FLASHOVER_NIGHTLY").is_some() {
        println!("{}", table(&[10_000]));
    }
}
