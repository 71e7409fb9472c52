//! `flashover image diff`.

use serde_json::json;

use super::super::error::{CommandError, Kind, Result};
use super::{Output, load};
use crate::capture::diff::{Listing, diff};
use crate::capture::{Change, ImageKind, Store, show};
use crate::image::ImageName;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What it was: an image NAME, or a publication NAME:SERIAL
    before: Side,
    /// What it is
    after: Side,
    #[command(flatten)]
    output: Output,
}

/// An image, or one of its publications.
#[derive(Clone, Debug)]
struct Side {
    name: ImageName,
    serial: Option<u64>,
}

impl std::str::FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, serial) = match text.split_once(':') {
            Some((name, serial)) => (name, Some(serial)),
            None => (text, None),
        };
        let serial = serial.map(|serial| serial.parse().map_err(|_| "a serial is a number"));
        Ok(Self {
            name: name
                .parse()
                .map_err(|error: crate::base::id::BadImageName| error.to_string())?,
            serial: serial.transpose()?,
        })
    }
}

pub(super) fn run(store: &Store, args: &Args) -> Result {
    let (before, after) = (listing(store, &args.before)?, listing(store, &args.after)?);
    if before.is_tree() != after.is_tree() {
        let what = anyhow::anyhow!("A tree and a disk cannot be compared");
        return Err(CommandError::new(Kind::Usage, what));
    }
    let differences =
        diff(&before, &after).map_err(|error| CommandError::new(Kind::Storage, error))?;
    let lines: Vec<String> = differences
        .iter()
        .map(|difference| {
            let path = show(&difference.path);
            if matches!(difference.change, Change::Added) {
                format!("+ {path}")
            } else if matches!(difference.change, Change::Removed) {
                format!("- {path}")
            } else {
                format!("~ {path}: {}", difference.change)
            }
        })
        .collect();
    let values: Vec<_> = differences
        .iter()
        .map(|difference| {
            json!({
                "path": show(&difference.path),
                "change": difference.change.word(),
                "detail": difference.change.to_string(),
            })
        })
        .collect();
    let text = if lines.is_empty() {
        "No difference".to_owned()
    } else {
        lines.join("\n")
    };
    args.output.print(&values.into(), &text);
    Ok(())
}

fn listing(store: &Store, side: &Side) -> Result<Listing> {
    if side.serial.is_some() {
        let (manifest, _) = load(store, &side.name, side.serial)?;
        return Ok(Listing::of_manifest(&manifest));
    }
    let image = store.image(&side.name)?;
    let read = match image.kind {
        ImageKind::Tree => Listing::of_tree(&image.path).map_err(anyhow::Error::new),
        ImageKind::Disk => Listing::of_disk(&image.path).map_err(anyhow::Error::new),
    };
    read.map_err(|error| {
        let what = error.context(format!("Cannot read image {}", side.name));
        CommandError::new(Kind::Storage, what)
    })
}
