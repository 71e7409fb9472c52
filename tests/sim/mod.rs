//! The real sender and receiver machines in the simulated world, from seeds.
//!
//! `FLASHOVER_SEED=n` runs one seed, `FLASHOVER_SEEDS=n` so many instead of the few of a normal
//! run, both together so many from that one on. `FLASHOVER_NIGHTLY=1` runs each scenario
//! [`NIGHTLY_TIMES`] times as often: more than ten thousand seeds in all.

pub(crate) mod clear;
mod cluster;
mod faults;
mod models;
mod scale;
mod small;
mod swarm;
mod thousand;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// How much more a nightly run does.
const NIGHTLY_TIMES: u64 = 50;

/// Runs a scenario from each of its seeds: `count` of them, unless the environment says otherwise.
/// A seed that fails says how to run it again.
#[expect(clippy::print_stderr, reason = "a failing test speaks to people")]
fn seeds(test: &str, count: u64, mut scenario: impl FnMut(u64)) {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_nightly = std::env::var_os("FLASHOVER_NIGHTLY").is_some();
    let usual = if is_nightly {
        count * NIGHTLY_TIMES
    } else {
        count
    };
    let range = match (number("FLASHOVER_SEED"), number("FLASHOVER_SEEDS")) {
        (Some(seed), count) => seed..seed + count.unwrap_or(1),
        (None, count) => 0..count.unwrap_or(usual),
    };
    for seed in range.clone() {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scenario(seed))) {
            let again = format!("FLASHOVER_SEED={seed} cargo test --test runner sim::{test}");
            eprintln!("\nseed {seed} failed; run it again with\n\n    {again}\n");
            resume_unwind(panic);
        }
    }
    if is_nightly {
        eprintln!("seeds passed: {} of {test}", range.end - range.start);
    }
}
