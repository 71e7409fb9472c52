//! `flashover serve`.

use std::fmt::Write as _;

use super::Global;
use super::error::Result;
use super::options::{NetArgs, SendArgs};
use super::output::{self, OutputArgs};
use crate::base::units::format_bytes;
use crate::deploy::Interrupt;
use crate::deploy::head::{self, Ended, Ready, Serve};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Serve stock BitTorrent clients too, by a tracker (HTTP and UDP), torrents and web seeds on
    /// this port [default: 6969]: EVERYBODY who reaches it can read ALL published images,
    /// unencrypted
    #[arg(
        long,
        value_name = "PORT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "6969",
        help_heading = "Network"
    )]
    open_swarm: Option<u16>,
    #[command(flatten)]
    send: SendArgs,
    #[command(flatten)]
    net: NetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(global: &Global, args: &Args) -> Result {
    let config = Serve {
        store: global.store.clone(),
        listen: args.send.listen(),
        open_swarm: args.open_swarm,
        net: args.send.to_options(&args.net),
        events: args.output.events(global),
    };
    let interrupt = Interrupt::listen()?;
    let ready = |ready: &Ready| args.output.result("ready", ready, || text(ready));
    match head::serve(&config, &interrupt, ready) {
        Ok(Ended::Stopped(stop)) => output::stopped(stop),
        Ok(Ended::Complete(_)) => Ok(()),
        Err(error) => Err(args.output.failed(error.into())),
    }
}

fn text(ready: &Ready) -> String {
    let mut text = format!("Serving on {}", ready.head);
    for image in &ready.images {
        let size = format_bytes(image.bytes);
        write!(text, "\n  {}@{}  {size}", image.name, image.serial)
            .expect("a string takes all that is written to it");
    }
    if ready.images.is_empty() {
        text.push_str("\nNothing is published yet: flashover image publish NAME");
    }
    let name = ready.images.first().map_or("NAME", |image| &image.name);
    let token = match &ready.token {
        Some(token) => token.to_string(),
        None => "TOKEN".to_owned(),
    };
    write!(
        text,
        "\nOn a node:\n  flashover receive {name} --into DIR --token {token}"
    )
    .expect("a string takes all that is written to it");
    if let Some(open) = ready.open_swarm {
        text.push_str("\nFor stock BitTorrent clients, readable by EVERYBODY:");
        for image in &ready.images {
            let name = format!("{}-{}", image.name, image.serial);
            write!(text, "\n  http://{open}/{name}.torrent")
                .expect("a string takes all that is written to it");
        }
    }
    text
}
