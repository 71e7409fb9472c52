//! `flashover image list` and `show`.

use serde_json::{Value, json};

use super::super::error::Result;
use super::super::torrent;
use super::{Output, import};
use crate::base::Serial;
use crate::base::units::format_bytes;
use crate::capture::torrent::Metainfo;
use crate::capture::{Image, Store};
use crate::image::{ImageName, Manifest};

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// The image
    name: ImageName,
    #[command(flatten)]
    output: Output,
}

/// An image, its publications, or both: one may be without the other.
struct Row {
    name: ImageName,
    image: Option<Image>,
    serials: Vec<Serial>,
}

pub(super) fn list(store: &Store, args: &ListArgs) -> Result {
    let rows = rows(store)?;
    let mut text = format!("{:<24} {:<6} {:>7}  {}", "NAME", "KIND", "SERIAL", "BUNDLE");
    let mut values = Vec::new();
    for row in &rows {
        let latest = row.serials.last();
        let size = latest.and_then(|&serial| {
            std::fs::metadata(store.bundle_path(&row.name, serial))
                .ok()
                .map(|about| about.len())
        });
        text += &format!(
            "\n{:<24} {:<6} {:>7}  {}",
            row.name.as_str(),
            row.kind(),
            latest.map_or("-".to_owned(), ToString::to_string),
            size.map_or("-".to_owned(), format_bytes),
        );
        values.push(json!({
            "name": row.name.as_str(), "kind": row.kind(),
            "serial": latest.map(|serial| serial.0), "bundle_bytes": size,
        }));
    }
    if rows.is_empty() {
        "No images".clone_into(&mut text);
    }
    args.output.print(&Value::Array(values), &text);
    Ok(())
}

pub(super) fn show(store: &Store, args: &ShowArgs) -> Result {
    let serials = store.bundles(&args.name)?;
    let image = match store.image(&args.name) {
        Ok(image) => Some(image),
        // Publications outlive their image.
        Err(crate::capture::Error::NoImage(_)) if !serials.is_empty() => None,
        Err(error) => return Err(error.into()),
    };
    let row = Row {
        name: args.name.clone(),
        image,
        serials,
    };
    let path = row
        .image
        .as_ref()
        .map(|image| image.path.to_string_lossy().into_owned());
    let mut text = format!("name    {}\nkind    {}\n", row.name, row.kind());
    text += &format!("path    {}", path.as_deref().unwrap_or("-"));
    let mut values = Vec::new();
    for &serial in &row.serials {
        let (manifest, _) = store.load_manifest(&row.name, serial)?;
        let torrent = match store.load_torrent(&row.name, serial) {
            Ok(torrent) => Some(torrent),
            // It is of a version before torrents.
            Err(crate::capture::Error::NoTorrent(..)) => None,
            Err(error) => return Err(error.into()),
        };
        text += &format!("\n\n{}", describe(&manifest, torrent.as_ref()));
        values.push(value(&manifest, torrent.as_ref()));
    }
    let value = json!({
        "name": row.name.as_str(), "kind": row.kind(), "path": path, "publications": values,
    });
    args.output.print(&value, &text);
    Ok(())
}

impl Row {
    fn kind(&self) -> &'static str {
        self.image
            .as_ref()
            .map_or("gone", |image| import::kind_word(image.kind))
    }
}

fn rows(store: &Store) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = store
        .images()?
        .into_iter()
        .map(|image| Row {
            name: image.name.clone(),
            image: Some(image),
            serials: Vec::new(),
        })
        .collect();
    for (name, serial) in store.published()? {
        match rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.serials.push(serial),
            None => rows.push(Row {
                name,
                image: None,
                serials: vec![serial],
            }),
        }
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}

fn describe(manifest: &Manifest, torrent: Option<&Metainfo>) -> String {
    let mut text = format!(
        "serial  {}\nroot    {}\nbundle  {}, {} pieces, {} frames\ncontent {} entries, {} of data, {} with holes",
        manifest.serial,
        manifest.root,
        format_bytes(manifest.geometry.bundle_size()),
        manifest.geometry.piece_count(),
        manifest.frames.len(),
        manifest.entries.len(),
        format_bytes(manifest.data_size()),
        format_bytes(manifest.logical_size()),
    );
    if let Some(torrent) = torrent {
        for (version, name) in torrent::versions(torrent) {
            text += &format!("\ninfo {version} {name}");
        }
        text += &format!("\nmagnet  {}", torrent::magnet(torrent));
    }
    text
}

fn value(manifest: &Manifest, torrent: Option<&Metainfo>) -> Value {
    json!({
        "serial": manifest.serial.0, "root": manifest.root.to_string(),
        "bundle_bytes": manifest.geometry.bundle_size(),
        "pieces": manifest.geometry.piece_count(), "piece_bytes": manifest.geometry.piece_size(),
        "frames": manifest.frames.len(), "entries": manifest.entries.len(),
        "data_bytes": manifest.data_size(), "logical_bytes": manifest.logical_size(),
        "torrent": torrent.map(torrent::facts),
    })
}
