//! `flashover seed`.

use std::path::PathBuf;
use std::time::Duration;

use super::Global;
use super::error::Result;
use super::fetch::{SwarmArgs, text};
use super::output::OutputArgs;
use crate::base::units::parse_duration;
use crate::deploy::Interrupt;
use crate::deploy::torrent::{self, Seed};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The torrent
    #[arg(value_name = "FILE.torrent")]
    torrent: PathBuf,
    /// Its content [default: the file or directory of its name beside the torrent]
    #[arg(long, value_name = "PATH")]
    path: Option<PathBuf>,
    /// End after this time [default: when told to]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    seed_time: Option<Duration>,
    #[command(flatten)]
    swarm: SwarmArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result {
    let config = Seed {
        torrent: args.torrent.clone(),
        path: args.path.clone(),
        seed_time: args.seed_time,
        options: args
            .swarm
            .to_options(args.output.events(global), Interrupt::listen()?),
    };
    let report = torrent::seed(&config).map_err(|error| args.output.failed(error.into()))?;
    args.output
        .result("report", &report, || text("seeded", &report));
    Ok(())
}
