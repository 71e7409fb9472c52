//! What each thread does: take a frame, read it, unpack it, hand it to the sink.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::plan::Plan;
use super::queue::{Queue, Work};
use super::{BundleSource, Error, Result, Sink};
use crate::image::Manifest;

/// What all threads of a job look at.
pub(super) struct Shared {
    pub(super) manifest: Arc<Manifest>,
    pub(super) plan: Plan,
    pub(super) source: Arc<dyn BundleSource>,
    pub(super) sink: Box<dyn Sink>,
    pub(super) queue: Queue,
    pub(super) bytes_written: AtomicU64,
}

/// Works until there is nothing left, or somebody failed.
pub(super) fn run(shared: &Shared) {
    let mut bench = Bench::default();
    while let Some(work) = shared.queue.next() {
        let done = match work {
            Work::Frame(frame) => bench.unpack(shared, frame),
            Work::Loose(mut steps) => steps.try_for_each(|step| shared.sink.do_loose(step)),
        };
        if let Err(error) = done {
            shared.queue.fail(error);
        }
    }
}

/// A thread's own buffers, used again for every frame.
#[derive(Default)]
struct Bench {
    packed: Vec<u8>,
    content: Vec<u8>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Bench {
    fn unpack(&mut self, shared: &Shared, frame: u32) -> Result {
        let range = shared.plan.frame_range(frame);
        let about = shared.manifest.frames[frame as usize];
        self.packed.resize(about.packed_size as usize, 0);
        shared
            .source
            .read_exact_at(&mut self.packed, range.start)
            .map_err(|source| Error::Source { frame, source })?;
        self.decompress(about.content_size as usize)
            .map_err(|source| Error::Damaged {
                frame,
                pieces: shared.plan.pieces_of(frame),
                source,
            })?;
        shared.sink.write_frame(frame, &self.content)?;
        let written = shared
            .manifest
            .extents_of(frame)
            .iter()
            .map(|extent| u64::from(extent.len));
        shared
            .bytes_written
            .fetch_add(written.sum(), Ordering::Relaxed);
        shared.queue.frame_done();
        Ok(())
    }

    fn decompress(&mut self, content_size: usize) -> std::io::Result<()> {
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            none => none.insert(zstd::bulk::Decompressor::new()?),
        };
        self.content.clear();
        self.content.reserve(content_size);
        let size = zstd.decompress_to_buffer(&self.packed, &mut self.content)?;
        if size == content_size {
            Ok(())
        } else {
            let text = format!("it holds {size} bytes, not {content_size}");
            Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text))
        }
    }
}
