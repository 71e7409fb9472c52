//! The real sender and receiver machines in the simulated world, from seeds.
//!
//! `FLASHOVER_SEED=n` runs one seed, `FLASHOVER_SEEDS=n` so many instead of the few of a normal
//! run.

pub(crate) mod clear;
mod cluster;
mod faults;
mod models;
mod scale;
mod small;
mod swarm;
mod thousand;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs a scenario from each of its seeds: `count` of them, unless the environment says otherwise.
/// A seed that fails says how to run it again.
#[expect(clippy::print_stderr, reason = "a failing test speaks to people")]
fn seeds(test: &str, count: u64, mut scenario: impl FnMut(u64)) {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let range = match number("FLASHOVER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FLASHOVER_SEEDS").unwrap_or(count),
    };
    for seed in range {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| scenario(seed))) {
            let again = format!("FLASHOVER_SEED={seed} cargo test --test runner sim::{test}");
            eprintln!("\nseed {seed} failed; run it again with\n\n    {again}\n");
            resume_unwind(panic);
        }
    }
}
