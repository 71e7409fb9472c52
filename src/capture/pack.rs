//! The pipeline that packs an image: one planner, a worker per core, one writer.
//!
//! ```text
//!   planner --- jobs ---> workers: read, hash, compress --- done ---> writer (the caller's thread)
//!      ^                                                                |
//!      |                                ^                               |
//!      |                                +------ pieces to hash ---------+
//!      +------------------------ free buffers --------------------------+
//! ```
//!
//! The planner cuts the tar stream into frames, in order, and gives every frame its output buffer;
//! so the frame that the writer waits for always has one, and the number of buffers bounds the
//! memory. Whoever fails tells the writer; when the writer leaves, every channel closes and all
//! others follow.

use std::ops::Range;

use crossbeam::channel::{Receiver, Sender, bounded, select_biased};

use super::cutter::{PieceDone, PieceJob};
use super::source::Source;
use super::writer::{BundleWriter, ChunkHash, FileHashes, Written};
use super::{Error, Result};
use crate::base::event::{Event, Events};
use crate::image::frame::{Content, Part, Plan, Planner, packed_size_max};
use crate::image::hash::{CHUNK_BYTES, PartHasher};
use crate::image::manifest::{FRAME_BYTES_MAX, path_of};
use crate::image::{Entry, EntryIndex, EntryKind, Extent, Frame, tar};

/// What was packed.
pub(super) struct Packed {
    pub(super) written: Written,
    pub(super) entries: Vec<Entry>,
    pub(super) extents: Vec<Extent>,
}

/// Packs an image into `writer`, with `workers` threads at zstd level `level`.
///
/// `disk_name` is the name that a disk has in the tar stream.
pub(super) fn pack(
    source: &Source,
    disk_name: &[u8],
    mut writer: BundleWriter,
    (workers, level): (usize, i32),
    events: &Events,
) -> Result<Packed> {
    let depth = 2 * workers + 2;
    std::thread::scope(|scope| {
        let (jobs, jobs_in) = bounded::<Job>(depth);
        let (done, done_in) = bounded::<Result<Done>>(depth);
        let (free, free_in) = bounded::<Vec<u8>>(depth);
        for _ in 0..depth {
            let buffer = Vec::with_capacity(packed_size_max(FRAME_BYTES_MAX) as usize);
            free.send(buffer).expect("the channel holds all buffers");
        }
        for _ in 0..workers {
            let (jobs_in, pieces_in) = (jobs_in.clone(), writer.piece_jobs());
            let done = done.clone();
            scope.spawn(move || work(source, level, &jobs_in, &pieces_in, &done));
        }
        drop(jobs_in);
        let planner = scope.spawn(move || {
            let out = PlannerOut {
                jobs,
                free: free_in,
                frame: 0,
                extents: Vec::new(),
            };
            let planned = plan(source, disk_name, out);
            match planned {
                Ok(planned) => Some(planned),
                Err(Stop::Failed(error)) => {
                    // If nobody listens, the writer has failed with an error of its own.
                    drop(done.send(Err(error)));
                    None
                }
                Err(Stop::Abandoned) => None,
            }
        });
        let mut hashes = FileHashes::default();
        let mut bytes_done = 0;
        let bytes_estimate = source.size_estimate();
        for result in done_in {
            let result = result?;
            for (file_size, chunk) in result.hashes {
                hashes.put(file_size, chunk);
            }
            if let Some(piece) = result.piece {
                writer.put_piece(piece);
            }
            if let Some((index, frame, packed)) = result.frame {
                // The planner may have left already.
                writer.put(index, frame, packed, |buffer| drop(free.send(buffer)))?;
            }
            bytes_done += result.content_size;
            events.raise(Event::Progress {
                bytes_done,
                bytes_total: bytes_estimate.max(bytes_done),
            });
        }
        let planned = planner.join().expect("the planner does not panic");
        let (mut entries, extents) = planned.expect("the planner's failure came by `done`");
        hashes.fill(&mut entries);
        Ok(Packed {
            written: writer.finish()?,
            entries,
            extents,
        })
    })
}

/// What a worker does.
enum Job {
    /// Make a frame, in this buffer.
    Frame {
        index: u32,
        plan: Plan,
        packed: Vec<u8>,
    },
    /// Hash chunks that are holes: those of `offsets`, a range of the file.
    Zeros {
        entry: u32,
        file_size: u64,
        offsets: Range<u64>,
    },
    /// Hash a piece of the bundle.
    Piece(PieceJob),
}

/// What a worker did.
#[derive(Default)]
struct Done {
    frame: Option<(u32, Frame, Vec<u8>)>,
    /// Values of chunks, with the sizes of their files.
    hashes: Vec<(u64, ChunkHash)>,
    content_size: u64,
    piece: Option<PieceDone>,
}

/// Why the planner ends early.
enum Stop {
    /// It failed.
    Failed(Error),
    /// The others have left.
    Abandoned,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Where the planner's frames go.
struct PlannerOut {
    jobs: Sender<Job>,
    free: Receiver<Vec<u8>>,
    frame: u32,
    extents: Vec<Extent>,
}

impl PlannerOut {
    fn frame(&mut self, plan: Plan) -> Result<(), Stop> {
        let index = self.frame;
        self.frame += 1;
        self.extents.extend(plan.extents(index));
        let packed = self.free.recv().map_err(|_| Stop::Abandoned)?;
        let job = Job::Frame {
            index,
            plan,
            packed,
        };
        self.jobs.send(job).map_err(|_| Stop::Abandoned)
    }
}

/// Cuts the image into frames; gives its entries, with holes but not hashes, and the extents.
fn plan(
    source: &Source,
    disk_name: &[u8],
    mut out: PlannerOut,
) -> Result<(Vec<Entry>, Vec<Extent>), Stop> {
    let jobs = out.jobs.clone();
    let mut entries = source.entries();
    let mut planner = Planner::new(|plan| out.frame(plan));
    let mut header = Vec::new();
    for index in 0..entries.len() {
        #[expect(clippy::cast_possible_truncation, reason = "a scan is bounded to u32")]
        let index = EntryIndex(index as u32);
        if let EntryKind::File { size, data, .. } = &mut entries[index.as_usize()].kind {
            *data = source.holes_of(index, *size)?;
        }
        let entry = &entries[index.as_usize()];
        header.clear();
        if !put_header(&mut header, &entries, index, disk_name) {
            continue;
        }
        planner.literal(&header)?;
        if let EntryKind::File { size, data, .. } = &entry.kind {
            planner.file(index, *size, data.as_deref())?;
            let stored = entry.kind.data_size();
            planner.literal(&tar::END[..tar::padding(stored)])?;
            if let Some(data) = data {
                hash_holes(&jobs, index, *size, data)?;
            }
        }
    }
    planner.literal(&tar::END)?;
    planner.finish()?;
    Ok((entries, out.extents))
}

fn put_header(
    header: &mut Vec<u8>,
    entries: &[Entry],
    index: EntryIndex,
    disk_name: &[u8],
) -> bool {
    let entry = &entries[index.as_usize()];
    let first = if let EntryKind::Hardlink { to } = entry.kind {
        Some(to)
    } else {
        None
    };
    if first.is_some_and(|first| matches!(entries[first.as_usize()].kind, EntryKind::Socket)) {
        return false;
    }
    let first = first.map(|first| path_of(entries, first));
    let is_disk = index.0 == 0 && matches!(entry.kind, EntryKind::File { .. });
    let path = if is_disk {
        disk_name.to_vec()
    } else {
        path_of(entries, index)
    };
    tar::put_header(header, entry, &path, first.as_deref())
}

/// Has those chunks of a file hashed that are in no frame because they are holes.
fn hash_holes(
    jobs: &Sender<Job>,
    entry: EntryIndex,
    file_size: u64,
    data: &[Range<u64>],
) -> Result<(), Stop> {
    let send = |mut gap: Range<u64>| {
        while gap.start < gap.end {
            let end = gap.end.min(gap.start + ZEROS_PER_JOB);
            let job = Job::Zeros {
                entry: entry.0,
                file_size,
                offsets: gap.start..end,
            };
            jobs.send(job).map_err(|_| Stop::Abandoned)?;
            gap.start = end;
        }
        Ok(())
    };
    let mut at = 0;
    for range in data {
        send(at..range.start / CHUNK_BYTES * CHUNK_BYTES)?;
        at = range.end.next_multiple_of(CHUNK_BYTES);
    }
    send(at..file_size)
}

/// Does jobs until there are no more, or nobody wants them done. Pieces come first: they are what
/// the frames before became.
fn work(
    source: &Source,
    level: i32,
    jobs: &Receiver<Job>,
    pieces: &Receiver<PieceJob>,
    done: &Sender<Result<Done>>,
) {
    let mut worker = match Worker::new(source, level) {
        Ok(worker) => worker,
        Err(error) => return drop(done.send(Err(error))),
    };
    loop {
        let job = select_biased! {
            recv(pieces) -> piece => piece.map(Job::Piece),
            recv(jobs) -> job => job,
        };
        let Ok(job) = job else {
            return;
        };
        let result = match job {
            Job::Frame {
                index,
                plan,
                packed,
            } => worker.frame(index, &plan, packed),
            Job::Zeros {
                entry,
                file_size,
                offsets,
            } => Ok(hash_zeros(entry, file_size, offsets)),
            Job::Piece(piece) => Ok(Done {
                piece: Some(piece.run()),
                ..Done::default()
            }),
        };
        if done.send(result).is_err() {
            return;
        }
    }
}

/// A thread's memory: the unpacked frame and the compressor's state, used again for every frame.
struct Worker<'a> {
    source: &'a Source,
    compressor: zstd::bulk::Compressor<'static>,
    unpacked: Vec<u8>,
}

impl<'a> Worker<'a> {
    fn new(source: &'a Source, level: i32) -> Result<Self> {
        let compressor = zstd::bulk::Compressor::new(level).map_err(Error::Compress)?;
        Ok(Self {
            source,
            compressor,
            unpacked: vec![0; FRAME_BYTES_MAX as usize],
        })
    }

    fn frame(&mut self, index: u32, plan: &Plan, mut packed: Vec<u8>) -> Result<Done> {
        let mut result = Done::default();
        let mut literals = plan.literals.as_slice();
        let mut rest = &mut self.unpacked[..plan.size as usize];
        for part in &plan.parts {
            let len = match part {
                Part::Literal { len } => *len as usize,
                Part::Content(content) => data_len(content),
            };
            let (target, after) = rest.split_at_mut(len);
            rest = after;
            match part {
                Part::Literal { .. } => {
                    let (now, later) = literals.split_at(len);
                    target.copy_from_slice(now);
                    literals = later;
                }
                Part::Content(content) => {
                    self.source.read(content.entry, content.ranges(), target)?;
                    result.content_size += len as u64;
                    let chunk = hash_content(content, target);
                    result.hashes.push((content.file_size, chunk));
                }
            }
        }
        packed.clear();
        let unpacked = &self.unpacked[..plan.size as usize];
        let packed_size = self
            .compressor
            .compress_to_buffer(unpacked, &mut packed)
            .map_err(Error::Compress)?;
        let frame = Frame {
            packed_size: u32::try_from(packed_size).expect("the buffer is smaller than 4 GiB"),
            content_size: plan.size,
        };
        result.frame = Some((index, frame, packed));
        Ok(result)
    }
}

/// Hashes a chunk of which `bytes` are the data; the rest are zeros.
fn hash_content(content: &Content, mut bytes: &[u8]) -> ChunkHash {
    let offset = content.chunk.start;
    let mut hasher = PartHasher::new(content.file_size, CHUNK_BYTES, offset);
    let mut at = offset;
    for range in content.ranges() {
        #[expect(clippy::cast_possible_truncation, reason = "at most a chunk")]
        let (now, later) = bytes.split_at((range.end - range.start) as usize);
        hasher.zeros(range.start - at).update(now);
        at = range.end;
        bytes = later;
    }
    hasher.zeros(content.chunk.end - at);
    ChunkHash {
        entry: content.entry.0,
        offset,
        value: hasher.finish(),
    }
}

fn hash_zeros(entry: u32, file_size: u64, offsets: Range<u64>) -> Done {
    let mut result = Done::default();
    let mut offset = offsets.start;
    while offset < offsets.end {
        let end = file_size.min(offset + CHUNK_BYTES);
        let value = PartHasher::new(file_size, CHUNK_BYTES, offset)
            .zeros(end - offset)
            .finish();
        let chunk = ChunkHash {
            entry,
            offset,
            value,
        };
        result.hashes.push((file_size, chunk));
        offset = end;
    }
    result
}

#[expect(clippy::cast_possible_truncation, reason = "at most a chunk")]
fn data_len(content: &Content) -> usize {
    content
        .ranges()
        .iter()
        .map(|range| (range.end - range.start) as usize)
        .sum()
}

/// How much of a hole one job hashes: a multiple of a chunk.
const ZEROS_PER_JOB: u64 = 64 * CHUNK_BYTES;
