//! `flashover image copy`, `rename` and `remove`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use serde_json::json;

use super::super::error::{CommandError, Kind, Result};
use super::{Output, copy_failed, taken};
use crate::capture::copy::{copy_disk, copy_tree};
use crate::capture::import::existing;
use crate::capture::{Error, ImageKind, ScanOptions, Store};
use crate::image::ImageName;

#[derive(Debug, clap::Args)]
pub(crate) struct CopyArgs {
    /// The image to copy
    from: ImageName,
    /// The name of the copy
    to: ImageName,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RenameArgs {
    /// The image
    from: ImageName,
    /// Its new name
    to: ImageName,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// The image
    name: ImageName,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) fn copy(store: &Store, args: &CopyArgs) -> Result {
    let image = store.image(&args.from)?;
    if !existing(store, &args.to).is_empty() {
        return Err(taken(&args.to));
    }
    let to = store.image_path(&args.to, image.kind);
    if !args.dry_run {
        let all = ScanOptions {
            cross_file_systems: true,
            ..ScanOptions::default()
        };
        match image.kind {
            ImageKind::Tree => copy_tree(&image.path, &to, &all, false),
            ImageKind::Disk => copy_disk(&image.path, &to, false),
        }
        .map_err(copy_failed)?;
    }
    let value =
        json!({ "from": args.from.as_str(), "to": args.to.as_str(), "dry_run": args.dry_run });
    let done = if args.dry_run { "Would copy" } else { "Copied" };
    args.output
        .print(&value, &format!("{done} {} to {}", args.from, args.to));
    Ok(())
}

pub(super) fn rename(store: &Store, args: &RenameArgs) -> Result {
    let image = store.image(&args.from)?;
    if !existing(store, &args.to).is_empty() {
        return Err(taken(&args.to));
    }
    if !args.dry_run {
        let to = store.image_path(&args.to, image.kind);
        std::fs::rename(&image.path, &to).map_err(|error| {
            let what = format!("Cannot rename {}", image.path.display());
            CommandError::new(Kind::Storage, anyhow::Error::new(error).context(what))
        })?;
    }
    // The name is in the signed manifest, so what was published keeps it.
    let kept = store.bundles(&args.from)?.len();
    let done = if args.dry_run {
        "Would rename"
    } else {
        "Renamed"
    };
    let mut text = format!("{done} {} to {}", args.from, args.to);
    if kept > 0 {
        text += &format!("; its {kept} publications keep the old name");
    }
    let value = json!({
        "from": args.from.as_str(), "to": args.to.as_str(), "dry_run": args.dry_run,
        "publications_kept": kept,
    });
    args.output.print(&value, &text);
    Ok(())
}

pub(super) fn remove(store: &Store, args: &RemoveArgs) -> Result {
    let images = existing(store, &args.name);
    let serials = store.bundles(&args.name)?;
    if images.is_empty() && serials.is_empty() {
        return Err(Error::NoImage(args.name.clone()).into());
    }
    let what = match (images.len(), serials.len()) {
        (_, 0) => format!("image {}", args.name),
        (0, count) => format!("{count} publications of {}", args.name),
        (_, count) => format!("image {} and its {count} publications", args.name),
    };
    if !args.dry_run {
        if !args.yes {
            confirm(&what)?;
        }
        let _lock = store.lock()?;
        // The publications go first: what is left when we are stopped can be published again.
        for &serial in &serials {
            store.remove_bundle(&args.name, serial)?;
        }
        for image in &images {
            crate::capture::copy::remove(&image.path).map_err(copy_failed)?;
        }
    }
    let done = if args.dry_run {
        "Would remove"
    } else {
        "Removed"
    };
    let value = json!({
        "name": args.name.as_str(), "images": images.len(), "dry_run": args.dry_run,
        "serials": serials.iter().map(|serial| serial.0).collect::<Vec<_>>(),
    });
    args.output.print(&value, &format!("{done} {what}"));
    Ok(())
}

fn confirm(what: &str) -> Result {
    if !std::io::stdin().is_terminal() {
        let refused = anyhow::anyhow!("Removing {what} must be confirmed");
        return Err(CommandError::new(Kind::Usage, refused).hint("say --yes"));
    }
    eprint!("Remove {what}? [y/N] ");
    // A prompt that is not seen is answered with no.
    drop(std::io::stderr().flush());
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(CommandError::new(
        Kind::Interrupted,
        anyhow::anyhow!("Nothing was removed"),
    ))
}
