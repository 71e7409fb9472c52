//! `flashover catch`.

use std::path::{Path, PathBuf};

use super::error::{CommandError, Kind, Result};
use super::options::{HeadArgs, NetArgs, TokenArgs};
use super::output::{self, OutputArgs};
use super::{Global, receive};
use crate::base::id::ImageName;
use crate::deploy::node::{self, Catch, Deadline, Want};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to write, or - for standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What the sender calls it
    #[arg(long, value_name = "NAME", default_value = "file")]
    name: ImageName,
    /// Replace a file of this name
    #[arg(long)]
    replace: bool,
    /// Where pieces wait for standard output
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    work: PathBuf,
    #[command(flatten)]
    head: HeadArgs,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    net: NetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result {
    let to_stream = args.file == Path::new("-");
    if to_stream && (args.output.is_json()) {
        let cause = anyhow::anyhow!("Standard output cannot take both the file and JSON");
        return Err(CommandError::new(Kind::Usage, cause));
    }
    let config = Catch {
        want: Want {
            name: args.name.clone(),
            serial: None,
            token: args.token.need()?,
            head: args.head.head()?,
            key: None,
            net: args.net.to_options(),
            deadline: Deadline::after(args.head.deadline),
            events: args.output.events(global),
        },
        file: args.file.clone(),
        work: args.work.clone(),
        replace: args.replace,
    };
    output::end_on_signal()?;
    let received = node::catch(&config).map_err(|error| args.output.failed(error.into()))?;
    let receipt = &received.receipt;
    if to_stream {
        if !global.quiet {
            eprintln!("{}", receive::text(receipt));
        }
    } else {
        args.output
            .result("receipt", receipt, || receive::text(receipt));
    }
    if !to_stream {
        // Who reads the stream waits for its end.
        received.seed_on(args.head.seed_time);
    }
    Ok(())
}
