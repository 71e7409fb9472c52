//! How the tar stream of an image is cut into zstd frames, and the seek table behind them.
//!
//! ```text
//!   bundle:      frame 0 | frame 1 | ... | frame n-1 | seek table
//!   frame:       one zstd frame that unpacks alone: tar headers, padding, and file content
//!   seek table:  skippable frame: 0x184D2A5E | size | (packed size, content size) per frame |
//!                n | flags 0 | 0x8F92EAB1                       all u32 little-endian, flags u8
//! ```
//!
//! The cut follows four rules, so that equal input gives equal frames:
//!
//! - a frame holds at most 1 MiB of file content and at most 2 MiB in all;
//! - a file below 1 MiB is never split;
//! - other files are cut at multiples of 1 MiB of their length, and every such chunk is the first
//!   content of its frame; a full chunk is thus the only content;
//! - headers and padding go wherever the stream is, and may be split.
//!
//! So a node that has all of a frame's content need not fetch the frame, and every chunk of a file
//! is hashed by whoever holds one frame. Source of the table: zstd's `seekable_format`, version
//! 0.1.0.

use std::ops::Range;

use super::hash::CHUNK_BYTES;
use super::manifest::{FRAME_BYTES_MAX, FRAME_CONTENT_BYTES_MAX};
use super::{EntryIndex, Extent, Frame};

/// What one frame holds, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The bytes of all [`Part::Literal`]s, end to end.
    pub literals: Vec<u8>,
    /// The parts, end to end.
    pub parts: Vec<Part>,
    /// Size of all parts, in bytes.
    pub size: u32,
    /// Size of the parts that are file content.
    content_size: u32,
}

/// A run of bytes in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The next `len` of the plan's literal bytes: headers and padding.
    Literal {
        /// Number of bytes, not 0.
        len: u32,
    },
    /// Content of a file.
    Content(Content),
}

/// What a frame holds of one file: a whole small file, or one chunk of a large one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The file.
    pub entry: EntryIndex,
    /// Length of the whole file.
    pub file_size: u64,
    /// The chunk: starts at a multiple of [`CHUNK_BYTES`].
    pub chunk: Range<u64>,
    /// The ranges of the file that are data, inside the chunk; `None`: all of it.
    pub data: Option<Box<[Range<u64>]>>,
}

impl Content {
    /// The ranges of the file that the frame holds, ascending.
    #[must_use]
    pub fn ranges(&self) -> &[Range<u64>] {
        self.data
            .as_deref()
            .unwrap_or(std::slice::from_ref(&self.chunk))
    }
}

impl Plan {
    /// The extents of this plan when it is frame number `frame`.
    pub fn extents(&self, frame: u32) -> impl Iterator<Item = Extent> + '_ {
        let mut frame_offset = 0;
        self.parts.iter().flat_map(move |part| {
            let (ranges, entry) = match part {
                Part::Literal { len } => {
                    frame_offset += len;
                    (&[][..], EntryIndex(0))
                }
                Part::Content(content) => (content.ranges(), content.entry),
            };
            let start = frame_offset;
            frame_offset += total(ranges);
            ranges.iter().scan(start, move |at, range| {
                let len = length(range);
                let extent = Extent {
                    frame,
                    frame_offset: *at,
                    entry,
                    file_offset: range.start,
                    len,
                };
                *at += len;
                Some(extent)
            })
        })
    }
}

/// Cuts the stream into frames, each given to `emit` as soon as it is complete.
#[derive(Debug)]
pub struct Planner<F> {
    plan: Plan,
    emit: F,
}

impl<E, F: FnMut(Plan) -> Result<(), E>> Planner<F> {
    /// Starts an empty stream.
    pub fn new(emit: F) -> Self {
        Self {
            plan: Plan::default(),
            emit,
        }
    }

    /// Appends headers or padding.
    ///
    /// # Errors
    /// What `emit` fails with.
    pub fn literal(&mut self, mut bytes: &[u8]) -> Result<(), E> {
        while !bytes.is_empty() {
            if self.plan.size == FRAME_BYTES_MAX {
                self.cut()?;
            }
            let room = (FRAME_BYTES_MAX - self.plan.size) as usize;
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.plan.literals.extend_from_slice(now);
            #[expect(clippy::cast_possible_truncation, reason = "no more than the room")]
            let len = now.len() as u32;
            if let Some(Part::Literal { len: last }) = self.plan.parts.last_mut() {
                *last += len;
            } else {
                self.plan.parts.push(Part::Literal { len });
            }
            self.plan.size += len;
            bytes = later;
        }
        Ok(())
    }

    /// Appends the content of a file of `size` bytes; `data` are its ranges of data if it has
    /// holes.
    ///
    /// # Errors
    /// What `emit` fails with.
    pub fn file(
        &mut self,
        entry: EntryIndex,
        size: u64,
        data: Option<&[Range<u64>]>,
    ) -> Result<(), E> {
        let Some(mut rest) = data else {
            return (0..size)
                .step_by(CHUNK_STEP)
                .try_for_each(|start| self.chunk(entry, size, chunk_at(start, size), None));
        };
        while let Some(next) = rest.first() {
            let chunk = chunk_at(next.start / CHUNK_BYTES * CHUNK_BYTES, size);
            self.sparse_chunks(entry, size, chunk, &mut rest)?;
        }
        Ok(())
    }

    /// Appends the chunk with its share of `rest`, and every chunk that the last range goes on
    /// into.
    fn sparse_chunks(
        &mut self,
        entry: EntryIndex,
        size: u64,
        mut chunk: Range<u64>,
        rest: &mut &[Range<u64>],
    ) -> Result<(), E> {
        loop {
            let inside = rest.partition_point(|range| range.start < chunk.end);
            let data: Box<[Range<u64>]> = rest[..inside]
                .iter()
                .map(|range| range.start.max(chunk.start)..range.end.min(chunk.end))
                .collect();
            let done = rest.partition_point(|range| range.end <= chunk.end);
            *rest = &rest[done..];
            let next = chunk_at(chunk.end, size);
            self.chunk(entry, size, chunk, Some(data))?;
            if inside == done {
                return Ok(());
            }
            chunk = next;
        }
    }

    fn chunk(
        &mut self,
        entry: EntryIndex,
        file_size: u64,
        chunk: Range<u64>,
        data: Option<Box<[Range<u64>]>>,
    ) -> Result<(), E> {
        let content = Content {
            entry,
            file_size,
            chunk,
            data,
        };
        let len = total(content.ranges());
        let full = self.plan.content_size + len > FRAME_CONTENT_BYTES_MAX
            || self.plan.size + len > FRAME_BYTES_MAX;
        if full || (file_size >= CHUNK_BYTES && self.plan.content_size > 0) {
            self.cut()?;
        }
        self.plan.parts.push(Part::Content(content));
        self.plan.size += len;
        self.plan.content_size += len;
        Ok(())
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// What `emit` fails with.
    pub fn finish(mut self) -> Result<(), E> {
        if self.plan.size > 0 {
            self.cut()?;
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<(), E> {
        (self.emit)(std::mem::take(&mut self.plan))
    }
}

/// Encodes the seek table of `frames`.
///
/// # Panics
/// If there are more frames than [`FRAME_COUNT_MAX`].
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the count is checked first"
)]
pub fn seek_table(frames: &[Frame]) -> Vec<u8> {
    assert!(frames.len() <= FRAME_COUNT_MAX, "frames can be counted");
    let size = seek_table_size(frames.len()) as usize;
    let mut bytes = Vec::with_capacity(size);
    bytes.extend_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
    bytes.extend_from_slice(&(size as u32 - SKIPPABLE_HEADER_BYTES).to_le_bytes());
    for frame in frames {
        bytes.extend_from_slice(&frame.packed_size.to_le_bytes());
        bytes.extend_from_slice(&frame.content_size.to_le_bytes());
    }
    bytes.extend_from_slice(&(frames.len() as u32).to_le_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
    bytes
}

/// Size of the seek table of `count` frames, in bytes.
#[must_use]
pub const fn seek_table_size(count: usize) -> u64 {
    SKIPPABLE_HEADER_BYTES as u64 + 8 * count as u64 + FOOTER_BYTES
}

/// The most bytes that a frame with `content_size` bytes of content takes in the bundle.
#[must_use]
pub const fn packed_size_max(content_size: u32) -> u32 {
    content_size + content_size / 128 + 512
}

/// The most frames that a seek table can list.
pub const FRAME_COUNT_MAX: usize = 0x800_0000;

fn chunk_at(start: u64, file_size: u64) -> Range<u64> {
    start..(start + CHUNK_BYTES).min(file_size)
}

fn total(ranges: &[Range<u64>]) -> u32 {
    ranges.iter().map(length).sum()
}

#[expect(clippy::cast_possible_truncation, reason = "at most one chunk")]
fn length(range: &Range<u64>) -> u32 {
    (range.end - range.start) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "1 MiB fits")]
const CHUNK_STEP: usize = CHUNK_BYTES as usize;
const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const SKIPPABLE_HEADER_BYTES: u32 = 8;
const FOOTER_BYTES: u64 = 9;

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "sizes in tests are small")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn plan(files: &[(u64, Option<&[Range<u64>]>)]) -> Vec<Plan> {
        let mut plans = Vec::new();
        let mut planner = Planner::new(|plan| {
            plans.push(plan);
            Ok::<(), Infallible>(())
        });
        for (index, (size, data)) in (0..).zip(files) {
            planner.literal(&[1; 512]).unwrap();
            planner.file(EntryIndex(index), *size, *data).unwrap();
        }
        planner.finish().unwrap();
        plans
    }

    fn chunks(plans: &[Plan]) -> Vec<Vec<(u32, Range<u64>)>> {
        let of_plan = |(index, plan): (usize, &Plan)| {
            plan.extents(index as u32)
                .map(|e| (e.entry.0, e.file_offset..e.file_offset + u64::from(e.len)))
                .collect()
        };
        plans.iter().enumerate().map(of_plan).collect()
    }

    const M: u64 = CHUNK_BYTES;

    #[test]
    fn large_files_are_cut_at_their_chunks_and_small_ones_are_packed() {
        let plans = plan(&[
            (10, None),
            (2 * M + 5, None),
            (M - 6, None),
            (2, None),
            (M, None),
        ]);
        assert_eq!(
            chunks(&plans),
            [
                vec![(0, 0..10)],
                vec![(1, 0..M)],
                vec![(1, M..2 * M)],
                vec![(1, 2 * M..2 * M + 5), (2, 0..M - 6)],
                vec![(3, 0..2)],
                vec![(4, 0..M)],
            ]
        );
    }

    #[test]
    fn holes_are_in_no_frame() {
        let data = [4096..8192, M - 4096..M + 4096, 5 * M..5 * M + 4096];
        let plans = plan(&[(9 * M, Some(&data)), (8, Some(&[]))]);
        assert_eq!(
            chunks(&plans),
            [
                vec![(0, 4096..8192), (0, M - 4096..M)],
                vec![(0, M..M + 4096)],
                vec![(0, 5 * M..5 * M + 4096)],
            ]
        );
    }

    #[test]
    fn endless_literals_fill_frames_of_their_own() {
        let mut sizes = Vec::new();
        let mut planner = Planner::new(|plan: Plan| {
            sizes.push(plan.size);
            Ok::<(), Infallible>(())
        });
        planner.literal(&vec![0; 5 << 20]).unwrap();
        planner.file(EntryIndex(1), M, None).unwrap();
        planner.file(EntryIndex(2), 1, None).unwrap();
        planner.finish().unwrap();
        assert_eq!(sizes, [2 << 20, 2 << 20, 2 << 20, 1]);
    }

    #[test]
    fn the_seek_table_has_the_layout_of_its_specification() {
        let frames = [Frame {
            packed_size: 0x0102,
            content_size: 0x0304_0506,
        }];
        let expected = [
            0x5e, 0x2a, 0x4d, 0x18, 17, 0, 0, 0, 2, 1, 0, 0, 6, 5, 4, 3, 1, 0, 0, 0, 0, 0xb1, 0xea,
            0x92, 0x8f,
        ];
        assert_eq!(seek_table(&frames), expected);
        assert_eq!(seek_table_size(1), expected.len() as u64);
    }

    proptest! {
        #[test]
        fn every_byte_of_every_file_is_in_one_frame(
            sizes in prop::collection::vec(
                prop_oneof![0..5000u64, 0..4 * M, Just(M), Just(3 * M)],
                0..20,
            ),
        ) {
            let files: Vec<_> = sizes.iter().map(|size| (*size, None)).collect();
            let plans = plan(&files);
            let mut at = vec![0; sizes.len()];
            for (frame, plan) in (0..).zip(&plans) {
                prop_assert!(plan.size <= FRAME_BYTES_MAX);
                prop_assert!(plan.content_size <= FRAME_CONTENT_BYTES_MAX);
                for extent in plan.extents(frame) {
                    let done = &mut at[extent.entry.as_usize()];
                    prop_assert_eq!(extent.file_offset, *done);
                    *done += u64::from(extent.len);
                }
            }
            prop_assert_eq!(at, sizes);
        }
    }
}
