//! `flashover torrent`: torrents of any file or directory.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Global;
use super::error::{CommandError, Kind, Result};
use super::publish::{events_to, progress_bar};
use crate::base::units::{format_bytes, parse_bytes};
use crate::capture::show;
use crate::capture::torrent::{
    self, CreateOptions, FileKind, Forms, InfoHash, Magnet, Metainfo, Proof,
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a torrent of a file or directory
    Create(CreateArgs),
    /// Tell what a torrent says
    Show(ShowArgs),
    /// Compare a file or directory with a torrent
    Verify(VerifyArgs),
    /// Print the magnet link of a torrent
    Magnet(ShowArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// The file or directory
    path: PathBuf,
    /// Where to write the torrent [default: NAME.torrent here]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Its name [default: that of the file or directory]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only BitTorrent version 1 [default: both versions]
    #[arg(long, conflicts_with = "v2")]
    v1: bool,
    /// Only BitTorrent version 2 [default: both versions]
    #[arg(long)]
    v2: bool,
    /// What is checked at a time: a power of two from 16k to 256m [default: by the content's size]
    #[arg(long, value_name = "SIZE", value_parser = parse_piece_size)]
    piece_size: Option<u32>,
    /// A tracker, http or udp; may be given again, each is tried when those before fail
    #[arg(long = "tracker", value_name = "URL")]
    trackers: Vec<String>,
    /// Where the content can be had by HTTP; may be given again
    #[arg(long = "web-seed", value_name = "URL")]
    web_seeds: Vec<String>,
    /// Let peers be found in other ways than by the trackers
    #[arg(long)]
    public: bool,
    /// What to say of it
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// Replace a file that is there
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// The torrent
    torrent: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// The torrent
    torrent: PathBuf,
    /// The file or directory
    path: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(global: &Global, command: Command) -> Result {
    match command {
        Command::Create(args) => create(global, args),
        Command::Show(args) => {
            let torrent = torrent::load(&args.torrent)?;
            print(args.json, &described(&torrent), &text(&torrent));
            Ok(())
        }
        Command::Verify(args) => verify(global, &args),
        Command::Magnet(args) => {
            let torrent = torrent::load(&args.torrent)?;
            print(args.json, &facts(&torrent), &magnet(&torrent));
            Ok(())
        }
    }
}

/// What programs are told of a torrent wherever one is named.
pub(super) fn facts(torrent: &Metainfo) -> Value {
    let names = torrent.info().names();
    json!({
        "infohash_v1": names.v1().map(|hash| InfoHash::V1(hash).to_string()),
        "infohash_v2": names.v2().map(|hash| InfoHash::V2(hash).to_string()),
        "magnet": magnet(torrent),
        "private": torrent.info().is_private(),
    })
}

/// The magnet link of a torrent.
pub(super) fn magnet(torrent: &Metainfo) -> String {
    Magnet::of(torrent).to_string()
}

/// The versions of a torrent, and its names.
pub(super) fn versions(torrent: &Metainfo) -> impl Iterator<Item = (&'static str, InfoHash)> {
    let named = |name: InfoHash| match name {
        InfoHash::V1(_) => ("v1", name),
        InfoHash::V2(_) => ("v2", name),
    };
    let names: Vec<InfoHash> = torrent.info().names().iter().collect();
    names.into_iter().map(named)
}

fn create(global: &Global, args: CreateArgs) -> Result {
    let options = CreateOptions {
        name: args.name,
        piece_length: args.piece_size,
        forms: match (args.v1, args.v2) {
            (true, _) => Forms::V1,
            (false, true) => Forms::V2,
            (false, false) => Forms::Hybrid,
        },
        public: args.public,
        trackers: args.trackers,
        web_seeds: args.web_seeds,
        comment: args.comment,
    };
    let bar = progress_bar(global);
    let made = torrent::create(&args.path, &options, threads(), &events_to(&bar));
    bar.finish_and_clear();
    let made = made?;
    let name = format!("{}.torrent", String::from_utf8_lossy(made.info().name()));
    let output = args.output.unwrap_or_else(|| PathBuf::from(name));
    if output.exists() && !args.force {
        let what = anyhow::anyhow!("{} exists already", output.display());
        return Err(CommandError::new(Kind::Precondition, what)
            .hint("name another file by --output, or replace it with --force"));
    }
    torrent::save(&made, &output)?;
    let mut value = described(&made);
    value["torrent"] = json!(output);
    let text = format!("wrote    {}\n{}", output.display(), text(&made));
    print(args.json, &value, &text);
    Ok(())
}

fn verify(global: &Global, args: &VerifyArgs) -> Result {
    let torrent = torrent::load(&args.torrent)?;
    let bar = progress_bar(global);
    let proof = torrent::verify(&torrent, &args.path, threads(), &events_to(&bar));
    bar.finish_and_clear();
    let proof = proof?;
    let value = json!({
        "ok": proof.is_whole(), "pieces": proof.pieces, "pieces_unknown": proof.unknown,
        "bad_pieces": proof.bad.iter().map(|piece| piece.get()).collect::<Vec<_>>(),
        "wrong": proof.wrong,
    });
    let path = args.path.display();
    if proof.is_whole() {
        let size = format_bytes(torrent.info().layout().content_len());
        let text = format!(
            "{path} is as the torrent says: {} pieces, {size}",
            proof.pieces
        );
        print(args.json, &value, &text);
        return Ok(());
    }
    print(args.json, &value, "");
    let what = anyhow::anyhow!("{path} is not as the torrent says: {}", failures(&proof));
    Err(CommandError::new(Kind::Integrity, what))
}

fn failures(proof: &Proof) -> String {
    let mut parts = Vec::new();
    if !proof.bad.is_empty() {
        parts.push(format!(
            "{} of {} pieces differ",
            proof.bad.len(),
            proof.pieces
        ));
    }
    if proof.unknown > 0 {
        parts.push(format!("{} pieces have no hash in it", proof.unknown));
    }
    if !proof.wrong.is_empty() {
        let some: Vec<&str> = proof
            .wrong
            .iter()
            .take(LISTED_MAX)
            .map(String::as_str)
            .collect();
        let more = if proof.wrong.len() > LISTED_MAX {
            ", ..."
        } else {
            ""
        };
        parts.push(format!("missing or other files: {}{more}", some.join(", ")));
    }
    parts.join("; ")
}

fn text(torrent: &Metainfo) -> String {
    let (info, layout) = (torrent.info(), torrent.info().layout());
    let mut text = format!("name     {}", show(info.name()));
    for (version, name) in versions(torrent) {
        text += &format!("\ninfo {version}  {name}");
    }
    let real = layout.files().iter().filter(|file| !file.is_pad());
    text += &format!(
        "\ncontent  {} in {} files, {} pieces of {}{}",
        format_bytes(layout.content_len()),
        real.count(),
        layout.piece_count(),
        format_bytes(layout.piece_length().into()),
        if info.is_private() { ", private" } else { "" },
    );
    for tier in torrent.trackers() {
        text += &format!("\ntracker  {}", tier.join(" "));
    }
    for url in torrent.web_seeds() {
        text += &format!("\nweb seed {url}");
    }
    if let Some(comment) = torrent.comment() {
        text += &format!("\ncomment  {}", show(comment.as_bytes()));
    }
    text + &format!("\nmagnet   {}", magnet(torrent))
}

fn described(torrent: &Metainfo) -> Value {
    let (info, layout) = (torrent.info(), torrent.info().layout());
    let path = |path: &[Vec<u8>]| String::from_utf8_lossy(&path.join(&b'/')).into_owned();
    let real = layout.files().iter().filter(|file| !file.is_pad());
    let files = real.map(|file| {
        let link = match &file.kind {
            FileKind::Symlink(target) => Some(path(target)),
            FileKind::Regular | FileKind::Pad => None,
        };
        json!({
            "path": path(&file.path), "bytes": file.len, "offset": file.offset,
            "executable": file.executable, "link": link,
        })
    });
    let mut value = facts(torrent);
    value["name"] = json!(String::from_utf8_lossy(info.name()));
    value["files"] = files.collect();
    value["content_bytes"] = json!(layout.content_len());
    value["total_bytes"] = json!(layout.total_len());
    value["piece_bytes"] = json!(layout.piece_length());
    value["pieces"] = json!(layout.piece_count());
    value["trackers"] = json!(torrent.trackers());
    value["web_seeds"] = json!(torrent.web_seeds());
    value["comment"] = json!(torrent.comment());
    value
}

fn print(as_json: bool, value: &Value, text: &str) {
    if as_json {
        println!("{value:#}");
    } else if !text.is_empty() {
        println!("{text}");
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn parse_piece_size(text: &str) -> Result<u32, String> {
    let size = parse_bytes(text).map_err(|error| error.to_string())?;
    let allowed = (14..=28).map(|log2| 1u32 << log2);
    let mut fitting = allowed.filter(|&allowed| u64::from(allowed) == size);
    fitting
        .next()
        .ok_or_else(|| "A piece has a power of two of bytes, from 16k to 256m".to_owned())
}

/// How many paths an error names.
const LISTED_MAX: usize = 10;
