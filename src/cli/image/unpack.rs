//! `flashover image unpack`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::super::error::{CommandError, Kind, Result};
use super::{Output, load};
use crate::base::units::{format_bytes, format_duration};
use crate::capture::Store;
use crate::image::{ImageName, Manifest};
use crate::install::{Options, Restored, Target, Unpacker};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image
    name: ImageName,
    #[command(flatten)]
    target: TargetArgs,
    /// Which publication, the newest if not given
    #[arg(long, value_name = "NUMBER")]
    serial: Option<u64>,
    /// Remove what is in the directory first
    #[arg(long, conflicts_with = "to_device")]
    force: bool,
    /// How many threads unpack, all processors if not given
    #[arg(long, value_name = "COUNT")]
    threads: Option<NonZeroUsize>,
    /// Only warn about metadata that the system refuses to set (as others than root: always)
    #[arg(long)]
    lenient: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct TargetArgs {
    /// Restore a tree into this directory: empty, new, or of an interrupted attempt
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Restore a disk onto this block device, or into this file
    #[arg(long, value_name = "FILE")]
    to_device: Option<PathBuf>,
}

pub(super) fn run(store: &Store, args: &Args) -> Result {
    let (manifest, path) = load(store, &args.name, args.serial)?;
    let target = match (&args.target.into, &args.target.to_device) {
        (Some(path), _) => Target::Directory(path.clone()),
        (None, Some(path)) => Target::Device(path.clone()),
        (None, None) => unreachable!("clap asks for one of the group"),
    };
    if args.dry_run {
        let text = format!("Would unpack {} {}", args.name, manifest.serial);
        args.output.print(
            &json!({ "dry_run": true, "serial": manifest.serial.0 }),
            &text,
        );
        return Ok(());
    }
    let bundle = std::fs::File::open(&path).map_err(|error| {
        let what = anyhow::Error::new(error).context(format!("Cannot open {}", path.display()));
        CommandError::new(Kind::Storage, what)
    })?;
    let mut options = Options {
        replace: args.force,
        ..Options::default()
    };
    options.strict &= !args.lenient;
    options.threads = args.threads.unwrap_or(options.threads);
    let manifest = Arc::new(manifest);
    let unpacker = Unpacker::start(Arc::clone(&manifest), Arc::new(bundle), &target, &options)?;
    manifest
        .geometry
        .pieces()
        .for_each(|piece| unpacker.piece_ready(piece));
    let restored = unpacker.finish()?;
    report(args, &manifest, &restored);
    Ok(())
}

fn report(args: &Args, manifest: &Manifest, restored: &Restored) {
    for refusal in &restored.refusals {
        eprintln!("warning: {refusal}");
    }
    let text = format!(
        "Restored {} {}: {} entries, {} in {}, read back and verified {} in {}",
        args.name,
        manifest.serial,
        restored.entries,
        format_bytes(restored.bytes_written),
        format_duration(restored.unpack_time),
        format_bytes(restored.bytes_verified),
        format_duration(restored.verify_time),
    );
    let value = json!({
        "name": args.name.as_str(), "serial": manifest.serial.0,
        "root": manifest.root.to_string(), "verified": true,
        "entries": restored.entries, "bytes_written": restored.bytes_written,
        "bytes_verified": restored.bytes_verified,
        "unpack_seconds": restored.unpack_time.as_secs_f64(),
        "verify_seconds": restored.verify_time.as_secs_f64(),
        "refused": restored.refusals.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    args.output.print(&value, &text);
}
