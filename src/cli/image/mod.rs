//! `flashover image`: one file per group of subcommands.

mod change;
mod diff;
mod import;
mod list;
mod unpack;
mod verify;

use std::path::PathBuf;

use super::Global;
use super::error::{CommandError, Kind, Result};
use crate::base::Serial;
use crate::capture::{Store, copy};
use crate::image::{ImageName, Manifest};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make an image from a directory or a disk of this machine
    Import(import::Args),
    /// Make a bundle and its signed manifest of an image
    Publish(super::publish::Publish),
    /// List images
    List(list::ListArgs),
    /// Tell all about an image
    Show(list::ShowArgs),
    /// Copy an image
    Copy(change::CopyArgs),
    /// Give an image another name
    Rename(change::RenameArgs),
    /// Remove an image and all its publications
    Remove(change::RemoveArgs),
    /// Compare a published bundle with its signed manifest
    Verify(verify::Args),
    /// List what changed from one image or publication to another
    Diff(diff::Args),
    /// Restore a published image here, and read it back
    Unpack(unpack::Args),
}

pub(crate) fn run(global: &Global, command: Command) -> Result {
    let store = Store::open(&global.store);
    match command {
        Command::Import(args) => import::run(&store, &args),
        Command::Publish(args) => args.run(global),
        Command::List(args) => list::list(&store, &args),
        Command::Show(args) => list::show(&store, &args),
        Command::Copy(args) => change::copy(&store, &args),
        Command::Rename(args) => change::rename(&store, &args),
        Command::Remove(args) => change::remove(&store, &args),
        Command::Verify(args) => verify::run(&store, &args),
        Command::Diff(args) => diff::run(&store, &args),
        Command::Unpack(args) => unpack::run(&store, &args),
    }
}

/// How results are told.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Output {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Output {
    /// Prints the JSON value, or else the text, unless that is empty.
    fn print(self, json: &serde_json::Value, text: &str) {
        if self.json {
            println!("{json:#}");
        } else if !text.is_empty() {
            println!("{text}");
        }
    }
}

/// Reads the manifest of a publication; the newest if no serial is given.
fn load(store: &Store, name: &ImageName, serial: Option<u64>) -> Result<(Manifest, PathBuf)> {
    let serial = match serial {
        Some(serial) => Serial(serial),
        None => store.latest(name)?.ok_or_else(|| never_published(name))?,
    };
    let (manifest, _) = store.load_manifest(name, serial)?;
    Ok((manifest, store.bundle_path(name, serial)))
}

fn never_published(name: &ImageName) -> CommandError {
    crate::capture::Error::NeverPublished(name.clone()).into()
}

fn copy_failed(error: copy::CopyError) -> CommandError {
    crate::capture::Error::from(error).into()
}

/// The error of a name that is taken.
fn taken(name: &ImageName) -> CommandError {
    CommandError::new(
        Kind::Precondition,
        anyhow::anyhow!("Image {name} exists already"),
    )
    .hint("give another name, or replace it with --force")
}
