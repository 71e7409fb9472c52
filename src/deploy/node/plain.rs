//! `catch`: a plain file arrives as a file that can be resumed, or on a stream in order.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender};

use super::fetch::{Fetched, Work, fetch};
use super::join::{Joined, join};
use super::{Receipt, Received, Sink, Want};
use crate::base::counter::{Counter, Counters};
use crate::base::event::{Events, Phase};
use crate::base::{Bitmap, PieceIndex};
use crate::deploy::control::Client;
use crate::deploy::error::{Error, Kind, OrKind as _, Result};
use crate::deploy::net;
use crate::deploy::store::PieceStore;
use crate::image::hash::piece_value;
use crate::image::{Kind as BundleKind, Manifest};
use crate::tree::begin_write_back;

/// How often what changed on disk is fetched again.
pub(super) const REPAIRS_MAX: u32 = 2;
/// Pieces that wait to be asked to the disk.
const TO_DISK_MAX: usize = 64;
/// How many places are told.
const PLACES_TOLD_MAX: usize = 8;

/// What `catch` needs.
#[derive(Clone, Debug)]
pub struct Catch {
    /// What and from whom.
    pub want: Want,
    /// The file; `-` is standard output.
    pub file: PathBuf,
    /// Where pieces are kept that wait for standard output.
    pub work: PathBuf,
    /// Whether a file of this name is replaced.
    pub replace: bool,
}

/// Receives one plain file.
///
/// # Errors
/// If it cannot be had in time, is not what the head signed, or cannot be written.
pub fn catch(config: &Catch) -> Result<Received> {
    let started = Instant::now();
    let to_stream = config.file == Path::new("-");
    if !to_stream && !config.replace && config.file.exists() {
        let text = format!("{} exists", config.file.display());
        return Err(Error::text(Kind::Precondition, text).hint("replace it by --replace"));
    }
    let mut joined = join(&config.want)?;
    if joined.manifest.kind != BundleKind::File {
        return Err(
            Error::text(Kind::Usage, "This is an image, not a plain file")
                .hint("restore it: flashover receive NAME --into DIR"),
        );
    }
    let counters = Arc::new(Counters::default());
    let geometry = joined.manifest.geometry;
    if to_stream {
        let store = PieceStore::unnamed(&config.work, geometry)?;
        store.check_space(0)?;
        let stream = Stream::start(&joined.manifest, &store)?;
        let have = Bitmap::new(geometry.piece_count() as usize);
        let (fetched, received) = run(config, &joined, &store, have, &counters, stream)?;
        let proof = Proof {
            started,
            received,
            verifying: Duration::ZERO,
        };
        return Ok(finish(
            &mut joined,
            &config.want.events,
            fetched,
            &counters,
            &proof,
        ));
    }
    let store = PieceStore::at(&part_of(&config.file), geometry)?;
    store.check_space(0)?;
    config.want.events.phase(Phase::Resuming);
    let have = store.resume(&joined.manifest.pieces, &config.want.events)?;
    let (fetched, proof) = fetch_and_prove(config, &joined, &store, have, &counters, started)?;
    store.rename(&config.file).or_kind_with(Kind::Storage, || {
        format!("Cannot complete {}", config.file.display())
    })?;
    Ok(finish(
        &mut joined,
        &config.want.events,
        fetched,
        &counters,
        &proof,
    ))
}

/// Completes the store and reads it back, until what is on disk is right.
fn fetch_and_prove(
    config: &Catch,
    joined: &Joined,
    store: &PieceStore,
    have: Bitmap,
    counters: &Arc<Counters>,
    started: Instant,
) -> Result<(Fetched, Proof)> {
    let (mut fetched, mut received) =
        run(config, joined, store, have, counters, ToDisk::start(store)?)?;
    let mut repairs_left = REPAIRS_MAX;
    loop {
        let verifying = Instant::now();
        config.want.events.phase(Phase::Verifying);
        let (have, settled) = store.read_back(&joined.manifest.pieces, &config.want.events)?;
        let what = match (have.is_full(), &settled) {
            (true, Ok(())) => {
                let verifying = verifying.elapsed();
                let proof = Proof {
                    started,
                    received,
                    verifying,
                };
                return Ok((fetched, proof));
            }
            (true, Err(error)) => store.not_taken(error),
            (false, Ok(())) => changed(&joined.manifest, &have),
            (false, Err(error)) => {
                let lost = changed(&joined.manifest, &have);
                format!("{}; {lost}", store.not_taken(error))
            }
        };
        if repairs_left == 0 {
            let kind = settled.map_or(Kind::Storage, |()| Kind::Integrity);
            return Err(Error::text(kind, format!("Again: {what}"))
                .hint("the disk is failing, or somebody writes to the file"));
        }
        repairs_left -= 1;
        // What is here is not what it was seeded for.
        drop(fetched.seeding.take());
        config
            .want
            .events
            .warn(format!("{what}; what is wrong is fetched again"));
        let (again, more) = run(config, joined, store, have, counters, ToDisk::start(store)?)?;
        fetched.follow(again);
        received += more;
    }
}

/// The file beside `file` that holds what has come so far.
fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

fn run(
    config: &Catch,
    joined: &Joined,
    store: &PieceStore,
    have: Bitmap,
    counters: &Arc<Counters>,
    mut sink: impl Sink + Finish,
) -> Result<(Fetched, Duration)> {
    let started = Instant::now();
    let client = || Client::new(joined.head, &config.want.token);
    let work = Work {
        manifest: &joined.manifest,
        store,
        head: joined.head,
        client: &client,
        join: &joined.request,
        net: &config.want.net,
        deadline: config.want.deadline,
        counters,
        events: &config.want.events,
    };
    let fetched = fetch(&work, have, &mut sink)?;
    let received = started.elapsed();
    sink.finish()?;
    Ok((fetched, received))
}

/// Says which pieces are wrong, the first of them by where they lie in the file.
pub(super) fn changed(manifest: &Manifest, have: &Bitmap) -> String {
    let geometry = manifest.geometry;
    let wrong = geometry
        .pieces()
        .filter(|piece| !have.get(piece.as_usize()));
    let places = wrong.take(PLACES_TOLD_MAX).map(|piece| {
        let range = geometry.range(piece);
        format!("{} to {}", range.start, range.end)
    });
    let places: Vec<String> = places.collect();
    let count = have.len() - have.count();
    let more = if count > places.len() {
        " and others"
    } else {
        ""
    };
    let places = places.join(", ");
    format!("{count} pieces changed on disk after they were written (bytes {places}{more})")
}

/// How long what took.
pub(super) struct Proof {
    pub(super) started: Instant,
    pub(super) received: Duration,
    pub(super) verifying: Duration,
}

fn finish(
    joined: &mut Joined,
    events: &Events,
    mut fetched: Fetched,
    counters: &Counters,
    proof: &Proof,
) -> Received {
    joined.tell_done(fetched.shares, fetched.loss());
    events.phase(Phase::Done);
    Received {
        seeding: fetched.seeding.take(),
        receipt: receipt(joined, fetched, counters, proof),
    }
}

/// Writes down what was done and proven.
pub(super) fn receipt(
    joined: &Joined,
    fetched: Fetched,
    counters: &Counters,
    proof: &Proof,
) -> Receipt {
    let manifest = &joined.manifest;
    Receipt {
        v: 1,
        image: manifest.name.to_string(),
        serial: manifest.serial.0,
        root: manifest.root.to_string(),
        bytes: manifest.geometry.bundle_size(),
        bytes_verified: manifest.geometry.bundle_size(),
        seconds: proof.started.elapsed().as_secs_f64(),
        seconds_receiving: proof.received.as_secs_f64(),
        seconds_verifying: proof.verifying.as_secs_f64(),
        shares: fetched.shares,
        loss: fetched.loss(),
        pieces_repaired: counters.get(Counter::PiecesDecoded),
        pieces_poisoned: counters.get(Counter::PiecesPoisoned),
        backend: fetched.backend,
        causes: fetched.causes,
        verified: true,
        node: net::host_name(),
        counters: counters.iter().collect(),
    }
}

/// What a sink does when all pieces are there.
trait Finish {
    fn finish(self) -> Result;
}

/// The store itself is what is wanted: pieces are on their way to the disk while others come.
///
/// A thread asks for it, since a disk that is behind holds up whoever asks.
struct ToDisk {
    pieces: Sender<PieceIndex>,
}

impl ToDisk {
    fn start(store: &PieceStore) -> Result<Self> {
        let (geometry, file) = (store.geometry(), Arc::clone(store.file()));
        let (pieces, come) = crossbeam::channel::bounded::<PieceIndex>(TO_DISK_MAX);
        let work = move || {
            for piece in come {
                begin_write_back(&file, geometry.offset(piece), geometry.len(piece) as u64);
            }
        };
        let thread = std::thread::Builder::new().name("to-disk".to_owned());
        thread.spawn(work).or_kind(Kind::Internal)?;
        Ok(Self { pieces })
    }
}

impl Sink for ToDisk {
    fn ready(&mut self, piece: PieceIndex) -> Result {
        // Where the disk is that far behind it has enough to do.
        let _full = self.pieces.try_send(piece);
        Ok(())
    }

    fn check(&mut self) -> Result {
        Ok(())
    }
}

impl Finish for ToDisk {
    fn finish(self) -> Result {
        Ok(())
    }
}

/// Writes pieces to standard output in order, each verified once more as it goes out.
struct Stream {
    pieces: Option<Sender<PieceIndex>>,
    thread: Option<JoinHandle<Result>>,
}

impl Stream {
    fn start(manifest: &Arc<Manifest>, store: &PieceStore) -> Result<Self> {
        let (manifest, file) = (Arc::clone(manifest), Arc::clone(store.file()));
        // Every piece is told once, so the queue never holds up the job.
        let (sender, pieces) = crossbeam::channel::bounded(manifest.pieces.len());
        let write = move || write_in_order(&manifest, &file, &pieces, std::io::stdout().lock());
        let thread = std::thread::Builder::new()
            .name("stream".to_owned())
            .spawn(write)
            .or_kind(Kind::Internal)?;
        Ok(Self {
            pieces: Some(sender),
            thread: Some(thread),
        })
    }

    fn join(&mut self) -> Result {
        drop(self.pieces.take());
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        thread
            .join()
            .map_err(|_| Error::text(Kind::Internal, "The writing thread panicked"))?
    }
}

impl Sink for Stream {
    fn ready(&mut self, piece: PieceIndex) -> Result {
        let sent = self
            .pieces
            .as_ref()
            .map(|pieces| pieces.send(piece).is_ok());
        if sent == Some(true) {
            Ok(())
        } else {
            self.join()
        }
    }

    fn check(&mut self) -> Result {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            return self.join();
        }
        Ok(())
    }
}

impl Finish for Stream {
    fn finish(mut self) -> Result {
        self.join()
    }
}

fn write_in_order(
    manifest: &Manifest,
    file: &File,
    pieces: &Receiver<PieceIndex>,
    mut out: impl Write,
) -> Result {
    let geometry = manifest.geometry;
    let mut have = Bitmap::new(manifest.pieces.len());
    let mut wanted = geometry.pieces().peekable();
    let mut buffer = vec![0; geometry.piece_size()];
    for piece in pieces {
        have.set(piece.as_usize());
        while let Some(next) = wanted.next_if(|next| have.get(next.as_usize())) {
            let bytes = &mut buffer[..geometry.len(next)];
            file.read_exact_at(bytes, geometry.offset(next))
                .or_kind(Kind::Storage)?;
            if piece_value(geometry, next, bytes) != manifest.pieces[next.as_usize()] {
                let text = format!("{next} changed on disk after it was written");
                return Err(Error::text(Kind::Integrity, text));
            }
            out.write_all(bytes).or_kind_with(Kind::Storage, || {
                "Cannot write to standard output".to_owned()
            })?;
        }
    }
    if wanted.peek().is_some() {
        return Err(Error::text(Kind::Network, "The file is not complete"));
    }
    out.flush().or_kind(Kind::Storage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::plain::describe;

    #[test]
    fn a_stream_comes_out_in_order_whatever_order_it_came_in() {
        let bytes: Vec<u8> = (0..3_500_000u32).map(|at| (at % 251) as u8).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        let manifest = describe(&file, "x".parse().unwrap(), &Events::ignore()).unwrap();
        let run = |order: &[u32]| {
            let (sender, pieces) = crossbeam::channel::unbounded();
            for &index in order {
                sender.send(PieceIndex::new(index)).unwrap();
            }
            drop(sender);
            let mut out = Vec::new();
            write_in_order(&manifest, &file, &pieces, &mut out).map(|()| out)
        };
        assert_eq!(run(&[3, 0, 2, 1]).unwrap(), bytes);
        assert_eq!(run(&[0, 1, 3]).unwrap_err().kind(), Kind::Network);
        file.write_all_at(b"!", 2_000_000).unwrap();
        assert_eq!(run(&[0, 1, 2, 3]).unwrap_err().kind(), Kind::Integrity);
    }

    #[test]
    fn the_part_lies_beside_the_file() {
        assert_eq!(part_of(Path::new("a/b.iso")), Path::new("a/b.iso.part"));
    }
}
