//! One binary for all integration tests; a test in `tidy` holds this list to the folders.

mod cli;
mod damage;
mod fuzz_replay;
mod golden;
mod interop;
mod nasty;
mod netns;
mod sim;
mod tidy;
