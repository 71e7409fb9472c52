//! `flashover image publish`.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{Global, error, torrent};
use crate::base::event::{Event, Events};
use crate::base::units::{format_bytes, format_duration, parse_bytes};
use crate::capture::{self, Options, Published, Store, Survey};
use crate::image::geometry::{PIECE_LOG2_MAX, PIECE_LOG2_MIN};
use crate::image::{EntryKind, ImageName, Kind};

#[derive(Debug, clap::Args)]
pub(crate) struct Publish {
    /// The image's name
    name: ImageName,
    /// How hard zstd works
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    /// What is sent, checked and repaired at a time: a power of two from 64k to 16m
    #[arg(long, value_name = "SIZE", default_value = "1m", value_parser = parse_piece_size)]
    piece_size: u8,
    /// Let peers of the torrent be found in other ways than by its trackers
    #[arg(long)]
    public: bool,
    /// Publish even if nothing changed
    #[arg(long)]
    force: bool,
    /// Say what would be published, and publish nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Publish {
    pub(crate) fn run(&self, global: &Global) -> error::Result {
        let store = Store::open(&global.store);
        if self.dry_run {
            let survey = capture::survey(&store, &self.name)?;
            self.print_survey(&survey);
            return Ok(());
        }
        // A misspelt name shall make no key.
        store.image(&self.name)?;
        if let Err(capture::Error::NoKey(_)) = store.signing_key() {
            let key = store.generate_key(false)?.public_key();
            eprintln!(
                "flashover: made the signing key {} in {}",
                key.fingerprint(),
                store.root().join("keys").display()
            );
        }
        let options = Options {
            level: self.level,
            piece_log2: self.piece_size,
            force: self.force,
            workers: None,
            public: self.public,
        };
        let bar = progress_bar(global);
        let started = Instant::now();
        let result = capture::publish(&store, &self.name, &options, &events_to(&bar));
        bar.finish_and_clear();
        let published = result?;
        self.print(&published, started.elapsed());
        Ok(())
    }

    fn print_survey(&self, survey: &Survey) {
        if self.json {
            let value = serde_json::json!({
                "name": self.name.as_str(),
                "serial": survey.serial.0,
                "kind": kind_word(survey.kind),
                "entries": survey.entries,
                "files": survey.files,
                "bytes": survey.bytes,
            });
            println!("{value}");
            return;
        }
        println!(
            "{} would be published as {}: {} entries, {} files, {}",
            self.name,
            survey.serial,
            survey.entries,
            survey.files,
            format_bytes(survey.bytes)
        );
    }

    fn print(&self, published: &Published, took: Duration) {
        let manifest = &published.manifest;
        let data_size = manifest.data_size();
        let bundle_size = manifest.geometry.bundle_size();
        let is_file = |entry: &&crate::image::Entry| matches!(entry.kind, EntryKind::File { .. });
        let files = manifest.entries.iter().filter(is_file).count();
        if self.json {
            let value = serde_json::json!({
                "name": self.name.as_str(),
                "serial": manifest.serial.0,
                "kind": kind_word(manifest.kind),
                "unchanged": published.unchanged,
                "bundle": published.bundle,
                "torrent": torrent::facts(&published.torrent),
                "root": manifest.root.to_string(),
                "entries": manifest.entries.len(),
                "files": files,
                "data_bytes": data_size,
                "bundle_bytes": bundle_size,
                "manifest_bytes": published.manifest_size,
                "pieces": manifest.geometry.piece_count(),
                "piece_bytes": manifest.geometry.piece_size(),
                "seconds": took.as_secs_f64(),
            });
            println!("{value}");
            return;
        }
        let verb = if published.unchanged {
            "unchanged since"
        } else {
            "published as"
        };
        println!("{} {verb} {}", self.name, manifest.serial);
        println!("  bundle    {}", published.bundle.display());
        println!("  root      {}", manifest.root);
        println!("  magnet    {}", torrent::magnet(&published.torrent));
        println!(
            "  content   {} in {files} files, {} entries",
            format_bytes(data_size),
            manifest.entries.len()
        );
        println!(
            "  size      {} in {} pieces, manifest {}",
            format_bytes(bundle_size),
            manifest.geometry.piece_count(),
            format_bytes(published.manifest_size)
        );
        println!("  took      {}", format_duration(took));
    }
}

pub(super) fn progress_bar(global: &Global) -> ProgressBar {
    if global.quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(
        "{bar:32} {percent:>3} %  {binary_bytes} of {binary_total_bytes}  \
         {binary_bytes_per_sec}  {eta}",
    );
    let bar = ProgressBar::new(0);
    bar.set_style(style.expect("the template is well-formed"));
    bar
}

pub(super) fn events_to(bar: &ProgressBar) -> Events {
    let bar = bar.clone();
    Events::new(move |event| {
        if let Event::Progress {
            bytes_done,
            bytes_total,
        } = event
        {
            bar.set_length(bytes_total);
            bar.set_position(bytes_done);
        }
    })
}

const fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Tree => "tree",
        Kind::Disk => "disk",
        Kind::File => "file",
    }
}

/// Reads a piece size and gives its binary logarithm.
fn parse_piece_size(text: &str) -> Result<u8, String> {
    let size = parse_bytes(text).map_err(|error| error.to_string())?;
    (PIECE_LOG2_MIN..=PIECE_LOG2_MAX)
        .find(|log2| size == 1 << log2)
        .ok_or_else(|| "A piece has a power of two of bytes, from 64k to 16m".to_owned())
}
