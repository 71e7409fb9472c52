//! The command line: one file per command; the only room that prints, reads the environment and
//! chooses exit codes. Data go to stdout, progress and messages to stderr.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is the room that prints"
)]

mod cast;
mod catch;
mod doctor;
mod error;
mod fetch;
mod image;
mod key;
mod options;
mod output;
mod publish;
mod receive;
mod seed;
mod serve;
mod token;
mod torrent;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Images whole Linux clusters at once: RaptorQ multicast from one head to every node.
#[derive(Debug, Parser)]
#[command(
    name = "flashover",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Clone, Debug, Args)]
struct Global {
    /// Where images, bundles and keys are kept
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "FLASHOVER_STORE",
        default_value = "/var/lib/flashover"
    )]
    store: PathBuf,
    /// Say more: -v decisions, -vv everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make, publish and look after images
    #[command(subcommand)]
    Image(image::Command),
    /// Make and show the signing key
    #[command(subcommand)]
    Key(key::Command),
    /// Make, list and revoke the tokens that let nodes join
    #[command(subcommand)]
    Token(token::Command),
    /// Be the head: announce and serve what is published
    Serve(serve::Args),
    /// Be a node: restore an image from a head, and prove it
    Receive(receive::Args),
    /// Send one plain file to any number of receivers
    Cast(cast::Args),
    /// Receive a plain file
    Catch(catch::Args),
    /// Make, show and prove torrents of any file or directory
    #[command(subcommand)]
    Torrent(torrent::Command),
    /// Seed the content of a torrent to any BitTorrent client
    Seed(seed::Args),
    /// Fetch the content of a torrent from any BitTorrent client, and prove it
    Fetch(fetch::Args),
    /// Look at what this machine has, and what of it is used
    Doctor(doctor::Args),
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(&cli.global);
    let result = match cli.command {
        Command::Image(command) => image::run(&cli.global, command),
        Command::Key(command) => key::run(&cli.global, &command),
        Command::Token(command) => token::run(&cli.global, &command),
        Command::Serve(args) => serve::run(&cli.global, &args),
        Command::Receive(args) => receive::run(&cli.global, &args),
        Command::Cast(args) => cast::run(&cli.global, &args),
        Command::Catch(args) => catch::run(&cli.global, &args),
        Command::Torrent(command) => torrent::run(&cli.global, command),
        Command::Seed(args) => seed::run(&cli.global, &args),
        Command::Fetch(args) => fetch::run(&cli.global, &args),
        Command::Doctor(args) => doctor::run(&cli.global, &args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

fn start_logging(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "flashover=debug,warn",
        (false, _) => "flashover=trace,info",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("FLASHOVER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .init();
}
