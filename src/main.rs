//! The `flashover` command: parses, starts logging, calls `cli`, gives its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    flashover::cli::main()
}
