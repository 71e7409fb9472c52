//! `flashover cast`.

use std::path::PathBuf;

use super::Global;
use super::error::Result;
use super::options::{NetArgs, SendArgs, TokenArgs};
use super::output::{self, OutputArgs};
use crate::base::id::ImageName;
use crate::deploy::Interrupt;
use crate::deploy::head::{self, Cast, Ended, Ready};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file, or - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What receivers call it
    #[arg(long, value_name = "NAME", default_value = "file")]
    name: ImageName,
    /// Begin when this many receivers are there, or 1 s after the first, and end when as many are
    /// complete [default: begin with the first, go on until stopped]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    receivers: Option<u32>,
    /// Where standard input is kept meanwhile
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    work: PathBuf,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    send: SendArgs,
    #[command(flatten)]
    net: NetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result {
    let config = Cast {
        file: args.file.clone(),
        work: args.work.clone(),
        name: args.name.clone(),
        token: args.token.get()?,
        receivers: args.receivers.map(|count| count as usize),
        listen: args.send.listen(),
        net: args.send.to_options(&args.net),
        events: args.output.events(global),
    };
    let interrupt = Interrupt::listen()?;
    let ready = |ready: &Ready| args.output.result("ready", ready, || text(args, ready));
    match head::cast(&config, &interrupt, ready) {
        Ok(Ended::Stopped(stop)) => output::stopped(stop),
        Ok(Ended::Complete(complete)) => {
            args.output.line_of("complete", &complete);
            Ok(())
        }
        Err(error) => Err(args.output.failed(error.into())),
    }
}

fn text(args: &Args, ready: &Ready) -> String {
    let name = match args.name.as_str() {
        "file" => String::new(),
        name => format!(" --name {name}"),
    };
    let token = match &ready.token {
        Some(token) => format!(" --token {token}"),
        None => String::new(),
    };
    format!(
        "Casting {} on {}\nOn a receiver:\n  flashover catch FILE{name}{token}",
        args.file.display(),
        ready.head
    )
}
