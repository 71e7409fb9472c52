//! A simulated file: its content, its capacity, and the faults of its disk.

use std::sync::Arc;
use std::time::Duration;

use super::random::Random;
use crate::machine::DiskError;

/// A file of a simulated host; it outlives crashes.
///
/// A page that equals the *reference* (what a test expects to be stored at last) takes no memory,
/// so a thousand hosts can store the same image.
#[derive(Debug)]
pub struct File {
    /// How its disk behaves; may be changed at any time.
    pub disk: Disk,
    reference: Arc<[u8]>,
    pages: Vec<Page>,
    /// Pages that are no holes.
    pages_used: u64,
    len: u64,
}

/// How a disk behaves.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// An operation takes between this and twice this; so operations overtake each other.
    pub latency: Duration,
    /// The bytes that fit, in pages of [`PAGE_BYTES`].
    pub capacity: u64,
    /// The chance of an operation to fail with `EIO`, 0 to 1.
    pub error: f64,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            latency: Duration::from_micros(500),
            capacity: u64::MAX,
            error: 0.0,
        }
    }
}

/// The unit of storage.
pub const PAGE_BYTES: usize = 4096;

#[derive(Clone, Debug)]
enum Page {
    /// Never written: zeros.
    Hole,
    /// As the reference has it.
    Reference,
    Own(Box<[u8]>),
}

impl File {
    /// Makes an empty file that is expected to become `reference` (which may be empty).
    #[must_use]
    pub fn expecting(reference: Arc<[u8]>) -> Self {
        Self {
            disk: Disk::default(),
            reference,
            pages: Vec::new(),
            pages_used: 0,
            len: 0,
        }
    }

    /// Makes a file that holds `content`.
    #[must_use]
    pub fn holding(content: Arc<[u8]>) -> Self {
        let pages = vec![Page::Reference; content.len().div_ceil(PAGE_BYTES)];
        Self {
            len: content.len() as u64,
            pages_used: pages.len() as u64,
            pages,
            ..Self::expecting(content)
        }
    }

    /// The length: one beyond the last byte ever written.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was ever written.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads without delay or fault.
    ///
    /// # Errors
    /// [`DiskError::Short`] beyond the end.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), DiskError> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(DiskError::Short);
        }
        for (page, within, part) in pages_of(offset, out.len()) {
            let out = &mut out[part];
            match &self.pages[page] {
                Page::Hole => out.fill(0),
                Page::Reference => self.copy_reference(page, within, out),
                Page::Own(bytes) => out.copy_from_slice(&bytes[within..within + out.len()]),
            }
        }
        Ok(())
    }

    /// Writes without delay or fault, but for a full disk.
    ///
    /// # Errors
    /// [`DiskError::Full`]; a part may be written then.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        for (page, within, part) in pages_of(offset, bytes.len()) {
            if page >= self.pages.len() {
                self.pages.resize(page + 1, Page::Hole);
            }
            if matches!(self.pages[page], Page::Hole) {
                if self.pages_used * PAGE_BYTES as u64 >= self.disk.capacity {
                    return Err(DiskError::Full);
                }
                self.pages_used += 1;
            }
            let start = page * PAGE_BYTES;
            let part = &bytes[part];
            let expected = self
                .reference
                .get(start + within..start + within + part.len());
            let whole = within == 0 && (part.len() == PAGE_BYTES || self.ends_in(start, part));
            if expected == Some(part) && (whole || matches!(self.pages[page], Page::Reference)) {
                self.pages[page] = Page::Reference;
            } else {
                self.own(page)[within..within + part.len()].copy_from_slice(part);
            }
            self.len = self.len.max((start + within + part.len()) as u64);
        }
        Ok(())
    }

    /// Whether the whole content is `expected`.
    #[must_use]
    pub fn equals(&self, expected: &[u8]) -> bool {
        let mut page = [0; PAGE_BYTES];
        self.len == expected.len() as u64
            && expected
                .chunks(PAGE_BYTES)
                .enumerate()
                .all(|(index, chunk)| {
                    let out = &mut page[..chunk.len()];
                    self.read((index * PAGE_BYTES) as u64, out).is_ok() && out == chunk
                })
    }

    /// How long the next operation takes.
    pub(super) fn delay(&self, random: &mut Random) -> Duration {
        let nanos = u64::try_from(self.disk.latency.as_nanos()).unwrap_or(u64::MAX >> 1);
        Duration::from_nanos(nanos + random.below(nanos.max(1)))
    }

    /// Whether the next operation fails.
    pub(super) fn fault(&self, random: &mut Random) -> Result<(), DiskError> {
        const EIO: i32 = 5;
        let fails = random.chance(self.disk.error);
        if fails {
            Err(DiskError::Errno(EIO))
        } else {
            Ok(())
        }
    }

    /// Whether `part`, written at `start`, reaches the end of the reference.
    fn ends_in(&self, start: usize, part: &[u8]) -> bool {
        start + part.len() == self.reference.len() && self.len <= self.reference.len() as u64
    }

    /// The page's own bytes, made from what it held.
    fn own(&mut self, page: usize) -> &mut [u8] {
        if !matches!(self.pages[page], Page::Own(_)) {
            let mut bytes = vec![0; PAGE_BYTES].into_boxed_slice();
            if matches!(self.pages[page], Page::Reference) {
                self.copy_reference(page, 0, &mut bytes);
            }
            self.pages[page] = Page::Own(bytes);
        }
        let Page::Own(bytes) = &mut self.pages[page] else {
            unreachable!("it was made one just above");
        };
        bytes
    }

    /// Copies from the reference, zeros beyond its end.
    fn copy_reference(&self, page: usize, within: usize, out: &mut [u8]) {
        let start = page * PAGE_BYTES + within;
        let end = (start + out.len()).min(self.reference.len());
        let bytes = self.reference.get(start..end).unwrap_or_default();
        out[..bytes.len()].copy_from_slice(bytes);
        out[bytes.len()..].fill(0);
    }
}

/// Cuts a run into pages: page index, start in the page, and range of the run.
fn pages_of(
    offset: u64,
    len: usize,
) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let offset = usize::try_from(offset).expect("simulated files fit in memory");
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == len {
            return None;
        }
        let (page, within) = ((offset + at) / PAGE_BYTES, (offset + at) % PAGE_BYTES);
        let part = at..(at + PAGE_BYTES - within).min(len);
        at = part.end;
        Some((page, within, part))
    })
}
