//! `flashover image import`.

use std::path::PathBuf;

use serde_json::json;

use super::super::error::{CommandError, Kind, Result};
use super::{Output, taken};
use crate::base::units::format_bytes;
use crate::capture::copy::Copied;
use crate::capture::import::{Origin, existing, import};
use crate::capture::{ImageKind, ScanOptions, Store, show};
use crate::image::ImageName;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The name of the new image
    name: ImageName,
    #[command(flatten)]
    origin: OriginArgs,
    /// Leave out this path, as seen from the tree's root; may be given again
    #[arg(long, value_name = "PATH", conflicts_with = "disk")]
    exclude: Vec<PathBuf>,
    /// Also enter other file systems that are mounted in the tree
    #[arg(long, conflicts_with = "disk")]
    cross_file_systems: bool,
    /// Replace an image of that name
    #[arg(long)]
    force: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct OriginArgs {
    /// Copy this directory and all beneath it
    #[arg(long, value_name = "DIR")]
    tree: Option<PathBuf>,
    /// Copy this disk, partition or raw image file
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
}

pub(super) fn run(store: &Store, args: &Args) -> Result {
    let origin = origin(args)?;
    let path = store.image_path(&args.name, origin.kind());
    let old = existing(store, &args.name);
    if !old.is_empty() && !args.force {
        return Err(taken(&args.name));
    }
    let copied = if args.dry_run {
        Copied::default()
    } else {
        import(store, &args.name, &origin, args.force)?
    };
    for path in copied.changed.iter().take(WARNINGS_MAX) {
        eprintln!("warning: {} changed while it was copied", show(path));
    }
    for (refused, path) in &copied.refused {
        let why = std::io::Error::from(refused.errno);
        eprintln!(
            "warning: the {} of {} was not copied: {why}",
            refused.aspect,
            show(path)
        );
    }
    let kind = kind_word(origin.kind());
    let text = if args.dry_run {
        format!("Would import {kind} {} to {}", args.name, path.display())
    } else {
        format!(
            "Imported {kind} {}: {} entries, {}",
            args.name,
            copied.entries,
            format_bytes(copied.bytes)
        )
    };
    let value = json!({
        "name": args.name.as_str(), "kind": kind, "path": path.to_string_lossy(),
        "dry_run": args.dry_run, "replaced": !old.is_empty(),
        "entries": copied.entries, "bytes": copied.bytes,
        "changed": copied.changed.iter().map(|path| show(path)).collect::<Vec<_>>(),
        "refused": copied.refused.iter().map(|(what, path)| json!({
            "what": what.aspect.to_string(), "path": show(path),
        })).collect::<Vec<_>>(),
    });
    args.output.print(&value, &text);
    Ok(())
}

pub(super) const fn kind_word(kind: ImageKind) -> &'static str {
    match kind {
        ImageKind::Tree => "tree",
        ImageKind::Disk => "disk",
    }
}

fn origin(args: &Args) -> Result<Origin> {
    let (path, is_tree) = match (&args.origin.tree, &args.origin.disk) {
        (Some(path), _) => (path, true),
        (None, Some(path)) => (path, false),
        (None, None) => unreachable!("clap asks for one of the group"),
    };
    let about = std::fs::metadata(path).map_err(|error| {
        let what = anyhow::Error::new(error).context(format!("Cannot use {}", path.display()));
        CommandError::new(Kind::Storage, what)
    })?;
    if about.is_dir() != is_tree {
        let hint = if is_tree {
            "--tree wants a directory"
        } else {
            "for a directory use --tree"
        };
        let what = anyhow::anyhow!("{} is of the wrong kind", path.display());
        return Err(CommandError::new(Kind::Usage, what).hint(hint));
    }
    if !is_tree {
        return Ok(Origin::Disk { path: path.clone() });
    }
    let relative = |path: &PathBuf| path.components().skip_while(is_root).collect();
    Ok(Origin::Tree {
        path: path.clone(),
        options: ScanOptions {
            cross_file_systems: args.cross_file_systems,
            exclude: args.exclude.iter().map(relative).collect(),
        },
    })
}

fn is_root(component: &std::path::Component<'_>) -> bool {
    matches!(
        component,
        std::path::Component::RootDir | std::path::Component::CurDir
    )
}

const WARNINGS_MAX: usize = 20;
