//! What follows from the manifest alone: which frames a piece belongs to, what is where.

use std::ops::Range;

use super::{Error, Result};
use crate::base::PieceIndex;
use crate::image::{Extent, Geometry, Manifest};

/// Where the frames lie. Made once, never changed.
#[derive(Debug)]
pub(super) struct Plan {
    geometry: Geometry,
    /// Where each frame starts in the bundle and, last, where the frames end.
    frame_starts: Vec<u64>,
    /// Bytes of all extents.
    pub(super) data_bytes: u64,
}

impl Plan {
    /// Checks the manifest and finds its frames.
    pub(super) fn new(manifest: &Manifest) -> Result<Self> {
        manifest.check().map_err(Error::Manifest)?;
        Ok(Self {
            geometry: manifest.geometry,
            frame_starts: manifest.frame_offsets(),
            data_bytes: manifest
                .extents
                .iter()
                .map(|extent| u64::from(extent.len))
                .sum(),
        })
    }

    pub(super) fn frame_count(&self) -> usize {
        self.frame_starts.len() - 1
    }

    pub(super) const fn piece_count(&self) -> usize {
        self.geometry.piece_count() as usize
    }

    /// Where a frame lies in the bundle.
    pub(super) fn frame_range(&self, frame: u32) -> Range<u64> {
        self.frame_starts[frame as usize]..self.frame_starts[frame as usize + 1]
    }

    /// The pieces that hold a frame.
    pub(super) fn pieces_of(&self, frame: u32) -> Range<u32> {
        self.geometry.covering(self.frame_range(frame))
    }

    /// The frames that a piece holds a part of; none for the pieces of the seek table.
    pub(super) fn frames_of(&self, piece: PieceIndex) -> Range<usize> {
        let range = self.geometry.range(piece);
        let ends = &self.frame_starts[1..];
        let first = ends.partition_point(|&end| end <= range.start);
        let after = self.frame_starts[..ends.len()].partition_point(|&start| start < range.end);
        first..after.max(first)
    }
}

/// For every frame the position of its first extent and, last, the count of all.
pub(super) fn first_extents(manifest: &Manifest) -> Vec<u32> {
    let mut firsts = Vec::with_capacity(manifest.frames.len() + 1);
    for (at, extent) in (0u32..).zip(&manifest.extents) {
        while firsts.len() <= extent.frame as usize {
            firsts.push(at);
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "counted by u32 above")]
    firsts.resize(manifest.frames.len() + 1, manifest.extents.len() as u32);
    firsts
}

/// The bytes of an extent in its frame's content.
pub(super) fn bytes_of(extent: Extent, content: &[u8]) -> &[u8] {
    &content[extent.frame_offset as usize..][..extent.len as usize]
}
