//! `flashover image verify`.

use serde_json::json;

use super::super::error::{CommandError, Kind, Result};
use super::{Output, load};
use crate::base::event::Events;
use crate::base::units::format_bytes;
use crate::capture::{Store, torrent, verify};
use crate::image::ImageName;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image
    name: ImageName,
    /// Which publication, the newest if not given
    #[arg(long, value_name = "NUMBER")]
    serial: Option<u64>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(store: &Store, args: &Args) -> Result {
    let (manifest, path) = load(store, &args.name, args.serial)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let bad = verify::bad_pieces(&path, &manifest, threads)?;
    let torrent = match store.load_torrent(&args.name, manifest.serial) {
        Ok(torrent) => Some(torrent::verify(
            &torrent,
            &path,
            threads,
            &Events::ignore(),
        )?),
        // It is of a version before torrents.
        Err(crate::capture::Error::NoTorrent(..)) => None,
        Err(error) => return Err(error.into()),
    };
    let fits = torrent.as_ref().is_none_or(torrent::Proof::is_whole);
    let count = manifest.geometry.piece_count();
    let value = json!({
        "name": args.name.as_str(), "serial": manifest.serial.0, "ok": bad.is_empty() && fits,
        "pieces": count, "bad_pieces": bad.iter().map(|piece| piece.get()).collect::<Vec<_>>(),
        "bundle_bytes": manifest.geometry.bundle_size(),
        "torrent_ok": torrent.as_ref().map(torrent::Proof::is_whole),
    });
    let (name, serial) = (&args.name, manifest.serial);
    if bad.is_empty() && fits {
        let size = format_bytes(manifest.geometry.bundle_size());
        let text = format!("{name} {serial} is as it was signed: {count} pieces, {size}");
        args.output.print(&value, &text);
        return Ok(());
    }
    args.output.print(&value, "");
    if bad.is_empty() {
        let what = anyhow::anyhow!("The torrent of {name} {serial} describes another bundle");
        return Err(CommandError::new(Kind::Integrity, what).hint("publish the image again"));
    }
    let listed: Vec<String> = bad
        .iter()
        .take(LISTED_MAX)
        .map(|piece| piece.get().to_string())
        .collect();
    let more = if bad.len() > LISTED_MAX { ", ..." } else { "" };
    let what = anyhow::anyhow!(
        "{} of {count} pieces of {name} {serial} are damaged: {}{more}",
        bad.len(),
        listed.join(", ")
    );
    Err(CommandError::new(Kind::Integrity, what).hint("publish the image again"))
}

const LISTED_MAX: usize = 20;
