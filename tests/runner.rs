//! One binary for all integration tests; a test in `tidy` holds this list to the folders.
#![allow(
    clippy::cast_possible_truncation,
    clippy::needless_pass_by_value,
    let_underscore_drop,
    unreachable_pub,
    clippy::non_octal_unix_permissions,
    clippy::single_range_in_vec_init,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by a panic, and its numbers are its own"
)]

mod cli;
mod damage;
mod fuzz_replay;
mod golden;
mod interop;
mod nasty;
mod netns;
mod sim;
mod tidy;
