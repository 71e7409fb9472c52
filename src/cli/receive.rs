//! `flashover receive`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::Global;
use super::error::{Kind, OrKind as _, Result};
use super::options::{HeadArgs, NetArgs, TokenArgs};
use super::output::{self, OutputArgs};
use crate::base::Serial;
use crate::base::id::ImageName;
use crate::base::units::{format_bytes, format_duration};
use crate::deploy::node::{self, Deadline, Planned, Receipt, Receive, Target, Want};
use crate::image::PublicKey;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true))]
pub(crate) struct Args {
    /// The image, as NAME or NAME@SERIAL
    #[arg(value_name = "NAME[@SERIAL]")]
    image: ImageArg,
    /// Restore a tree into this directory
    #[arg(long, value_name = "DIR", group = "target")]
    into: Option<PathBuf>,
    /// Restore a disk onto this block device, or into this file
    #[arg(long, value_name = "PATH", group = "target")]
    to_device: Option<PathBuf>,
    /// Empty a directory that holds something else first
    #[arg(long)]
    replace: bool,
    /// Where pieces are kept meanwhile [default: DIR/.flashover, or /var/tmp/flashover for devices]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Keep the bundle as this file after success
    #[arg(long, value_name = "FILE")]
    keep_bundle: Option<PathBuf>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Public key that signed the manifest [default: the head's]
    #[arg(long, value_name = "FILE", help_heading = "Trust")]
    key: Option<PathBuf>,
    #[command(flatten)]
    head: HeadArgs,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    net: NetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// An image's name and, perhaps, its publication.
#[derive(Clone, Debug)]
struct ImageArg {
    name: ImageName,
    serial: Option<Serial>,
}

impl FromStr for ImageArg {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, anyhow::Error> {
        let (name, serial) = match text.split_once('@') {
            Some((name, serial)) => (name, Some(Serial(serial.parse()?))),
            None => (text, None),
        };
        let name = name.parse()?;
        Ok(Self { name, serial })
    }
}

pub(crate) fn run(global: &Global, args: &Args) -> Result {
    let target = match (&args.into, &args.to_device) {
        (Some(path), _) => Target::Directory(path.clone()),
        (None, Some(path)) => Target::Device(path.clone()),
        (None, None) => unreachable!("the group of the two is required"),
    };
    let key = args.key.as_ref().map(read_key).transpose()?;
    let config = Receive {
        want: Want {
            name: args.image.name.clone(),
            serial: args.image.serial,
            token: args.token.need()?,
            head: args.head.head()?,
            key,
            net: args.net.to_options(),
            deadline: Deadline::after(args.head.deadline),
            events: args.output.events(global),
        },
        target,
        work: args.work.clone(),
        keep_bundle: args.keep_bundle.clone(),
        replace: args.replace,
    };
    output::end_on_signal()?;
    let failed = |error: crate::deploy::Error| args.output.failed(error.into());
    if args.dry_run {
        let planned = node::plan(&config).map_err(failed)?;
        args.output.result("plan", &planned, || plan_text(&planned));
    } else {
        let received = node::receive(&config).map_err(failed)?;
        let receipt = &received.receipt;
        args.output.result("receipt", receipt, || text(receipt));
        received.seed_on(args.head.seed_time);
    }
    Ok(())
}

fn read_key(path: &PathBuf) -> Result<PublicKey> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| {
            anyhow::Error::new(error).context(format!("Cannot read the key {}", path.display()))
        })
        .or_kind(Kind::Trust)?;
    text.parse().or_kind(Kind::Trust)
}

fn plan_text(planned: &Planned) -> String {
    format!(
        "Would restore {}@{} ({} entries, {}) into {}\n  \
         from {}: a bundle of {}, root {}\n  keeping pieces in {}",
        planned.image,
        planned.serial,
        planned.entries,
        format_bytes(planned.content_bytes),
        planned.target,
        planned.head,
        format_bytes(planned.bytes),
        planned.root,
        planned.work
    )
}

/// A receipt for people.
pub(super) fn text(receipt: &Receipt) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    let (bytes, share) = (receipt.bytes as f64, |part: u64| {
        100.0 * part as f64 / receipt.bytes as f64
    });
    let shares = receipt.shares;
    let mut text = format!(
        "Received {}@{}: {} in {}, {:.1} MB/s; {} read back and right\n  root {}\n  \
         multicast {:.1} %, swarm {:.1} %, HTTP {:.1} %, resumed {:.1} %; loss {:.2} %, \
         {} pieces repaired",
        receipt.image,
        receipt.serial,
        format_bytes(receipt.bytes),
        format_duration(Duration::from_secs_f64(receipt.seconds)),
        bytes / 1e6 / receipt.seconds.max(1e-3),
        format_bytes(receipt.bytes_verified),
        receipt.root,
        share(shares.multicast),
        share(shares.swarm),
        share(shares.http),
        share(shares.resume),
        100.0 * receipt.loss,
        receipt.pieces_repaired,
    );
    for cause in &receipt.causes {
        text.push_str("\n  not by multicast alone: ");
        text.push_str(cause);
    }
    text
}
