//! The canonical bytes of a manifest: one manifest has one encoding, and only that one decodes.
//!
//! Integers are LEB128 varints in their shortest form; differences that may be negative are zigzag.
//!
//! ```text
//!   magic "flashovr" | version 1 | kind | name | serial | bundle size | log2 of the piece size |
//!   root (32) | piece values (32 each, as many as the geometry says) |
//!   frame count   | frames:  packed size, content size
//!   entry count   | entries: index - parent (0: the root), name, type, then
//!                     hard link: index - index of the first name
//!                     others: mode, uid, gid, mtime seconds, nanoseconds, xattr count, xattrs, and
//!                       file: size, hash (32); sparse file: also count and (hole, data) lengths
//!                       symlink: target; device: major, minor
//!   extent count  | extents: frame advance, gap since the last extent of the frame,
//!                     entry difference, file offset, length
//! ```
//!
//! Decoding checks lengths before it allocates, then hands over to [`super::check`].

use std::ops::Range;

use super::check::xattr_bytes;
use super::manifest::{
    ENTRY_BYTES_MIN, EXTENT_BYTES_MIN, FRAME_BYTES_MIN, NAME_BYTES_MAX, REPEATED_XATTR_BYTES_MAX,
    SYMLINK_BYTES_MAX, XATTR_BYTES_MIN, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
};
use super::{
    Entry, EntryIndex, EntryKind, Error, Extent, Frame, Geometry, Hash, Kind, Manifest, Mtime,
    Owner, Xattr,
};
use crate::base::Serial;
use crate::base::bytes::{BadBytes, Reader, Writer};
use crate::base::id::IMAGE_NAME_BYTES_MAX;

impl Manifest {
    /// Encodes the manifest, which must keep the module's invariants.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.put(MAGIC).u8(VERSION).u8(kind_code(self.kind));
        to.prefixed(self.name.as_str().as_bytes());
        to.varint(self.serial.0);
        to.varint(self.geometry.bundle_size());
        to.u8(self.geometry.piece_log2());
        to.put(&self.root.0);
        for piece in &self.pieces {
            to.put(&piece.0);
        }
        to.varint(self.frames.len() as u64);
        for frame in &self.frames {
            to.varint(frame.packed_size.into());
            to.varint(frame.content_size.into());
        }
        to.varint(self.entries.len() as u64);
        for (index, entry) in (0u64..).zip(&self.entries) {
            put_entry(&mut to, index, entry);
        }
        put_extents(&mut to, &self.extents);
        to.finish()
    }

    /// Decodes a manifest and checks every invariant of the module.
    ///
    /// # Errors
    /// If the bytes are not the one encoding of a manifest that keeps them.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut from = Reader::new(bytes);
        if from.take(MAGIC.len()) != Ok(MAGIC) {
            return Err(Error::NoManifest);
        }
        match from.u8()? {
            VERSION => {}
            other => return Err(Error::Version(other)),
        }
        let kind = take_kind(&mut from)?;
        let name = from.prefixed(IMAGE_NAME_BYTES_MAX)?;
        let name = std::str::from_utf8(name).map_err(|_| BadBytes::Value)?;
        let name = name.parse().map_err(|_| BadBytes::Value)?;
        let serial = Serial(from.varint()?);
        let bundle_size = from.varint()?;
        let geometry = Geometry::new(bundle_size, from.u8()?).ok_or(BadBytes::Value)?;
        let root = Hash(from.array()?);
        let pieces = take_pieces(&mut from, geometry)?;
        let frames = take_frames(&mut from)?;
        let entries = take_entries(&mut from)?;
        let extents = take_extents(&mut from)?;
        from.finish()?;
        let manifest = Self {
            name,
            serial,
            kind,
            geometry,
            root,
            pieces,
            frames,
            entries,
            extents,
        };
        manifest.check()?;
        Ok(manifest)
    }
}

fn put_entry(to: &mut Writer, index: u64, entry: &Entry) {
    to.varint(index - u64::from(entry.parent.0));
    to.prefixed(&entry.name);
    to.u8(type_code(&entry.kind));
    if let EntryKind::Hardlink { to: first } = entry.kind {
        to.varint(index - u64::from(first.0));
        return;
    }
    to.varint(entry.mode.into());
    to.varint(entry.owner.uid.into());
    to.varint(entry.owner.gid.into());
    to.varint(zigzag(entry.mtime.secs));
    to.varint(entry.mtime.nanos.into());
    to.varint(entry.xattrs.len() as u64);
    for xattr in &entry.xattrs {
        to.prefixed(&xattr.name).prefixed(&xattr.value);
    }
    match &entry.kind {
        EntryKind::File { size, hash, data } => {
            to.varint(*size).put(&hash.0);
            if let Some(data) = data {
                put_ranges(to, data);
            }
        }
        EntryKind::Symlink { target } => {
            to.prefixed(target);
        }
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
            to.varint((*major).into()).varint((*minor).into());
        }
        EntryKind::Directory | EntryKind::Hardlink { .. } | EntryKind::Fifo | EntryKind::Socket => {
        }
    }
}

fn put_ranges(to: &mut Writer, ranges: &[Range<u64>]) {
    to.varint(ranges.len() as u64);
    let mut at = 0;
    for range in ranges {
        to.varint(range.start - at);
        to.varint(range.end - range.start);
        at = range.end;
    }
}

fn put_extents(to: &mut Writer, extents: &[Extent]) {
    to.varint(extents.len() as u64);
    let mut at = Position::default();
    for extent in extents {
        if extent.frame != at.frame {
            at.frame_offset = 0;
        }
        to.varint((extent.frame - at.frame).into());
        to.varint((extent.frame_offset - at.frame_offset).into());
        to.varint(zigzag(i64::from(extent.entry.0) - i64::from(at.entry)));
        to.varint(extent.file_offset);
        to.varint(extent.len.into());
        at = Position {
            frame: extent.frame,
            frame_offset: extent.frame_offset + extent.len,
            entry: extent.entry.0,
        };
    }
}

/// Where the last extent ended.
#[derive(Default)]
struct Position {
    frame: u32,
    frame_offset: u32,
    entry: u32,
}

fn take_kind(from: &mut Reader<'_>) -> Result<Kind, BadBytes> {
    match from.u8()? {
        0 => Ok(Kind::Tree),
        1 => Ok(Kind::Disk),
        2 => Ok(Kind::File),
        _ => Err(BadBytes::Value),
    }
}

fn take_pieces(from: &mut Reader<'_>, geometry: Geometry) -> Result<Vec<Hash>, BadBytes> {
    let count = geometry.piece_count() as usize;
    let bytes = from.take(count.checked_mul(32).ok_or(BadBytes::Short)?)?;
    let (values, _) = bytes.as_chunks();
    Ok(values.iter().map(|value| Hash(*value)).collect())
}

fn take_frames(from: &mut Reader<'_>) -> Result<Vec<Frame>, BadBytes> {
    let count = take_count(from, FRAME_BYTES_MIN)?;
    let mut frames = Vec::with_capacity(count);
    for _ in 0..count {
        frames.push(Frame {
            packed_size: take_u32(from)?,
            content_size: take_u32(from)?,
        });
    }
    Ok(frames)
}

fn take_entries(from: &mut Reader<'_>) -> Result<Vec<Entry>, Error> {
    let count = take_count(from, ENTRY_BYTES_MIN)?;
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    let mut repeated_bytes = 0;
    for _ in 0..count {
        let entry = take_entry(from, &entries)?;
        if matches!(entry.kind, EntryKind::Hardlink { .. }) {
            repeated_bytes += xattr_bytes(&entry.xattrs);
            if repeated_bytes > REPEATED_XATTR_BYTES_MAX {
                return Err(BadBytes::Value.into());
            }
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn take_entry(from: &mut Reader<'_>, before: &[Entry]) -> Result<Entry, Error> {
    let index = u32::try_from(before.len()).map_err(|_| BadBytes::Value)?;
    let parent = take_back(from, index)?;
    let name = from.prefixed(NAME_BYTES_MAX)?.into();
    let code = from.u8()?;
    if code == TYPE_HARDLINK {
        let to = take_back(from, index)?;
        let first = before.get(to.as_usize()).ok_or(BadBytes::Value)?;
        return Ok(Entry {
            parent,
            name,
            kind: EntryKind::Hardlink { to },
            ..first.clone()
        });
    }
    let mode = u16::try_from(from.varint()?).map_err(|_| BadBytes::Value)?;
    let owner = Owner {
        uid: take_u32(from)?,
        gid: take_u32(from)?,
    };
    let mtime = Mtime {
        secs: unzigzag(from.varint()?),
        nanos: take_u32(from)?,
    };
    let xattrs = take_xattrs(from)?;
    let kind = take_entry_kind(from, code)?;
    Ok(Entry {
        parent,
        name,
        kind,
        mode,
        owner,
        mtime,
        xattrs,
    })
}

fn take_entry_kind(from: &mut Reader<'_>, code: u8) -> Result<EntryKind, BadBytes> {
    Ok(match code {
        TYPE_DIRECTORY => EntryKind::Directory,
        TYPE_FILE | TYPE_SPARSE => EntryKind::File {
            size: from.varint()?,
            hash: Hash(from.array()?),
            data: (code == TYPE_SPARSE)
                .then(|| take_ranges(from))
                .transpose()?,
        },
        TYPE_SYMLINK => EntryKind::Symlink {
            target: from.prefixed(SYMLINK_BYTES_MAX)?.into(),
        },
        TYPE_CHAR => EntryKind::CharDevice {
            major: take_u32(from)?,
            minor: take_u32(from)?,
        },
        TYPE_BLOCK => EntryKind::BlockDevice {
            major: take_u32(from)?,
            minor: take_u32(from)?,
        },
        TYPE_FIFO => EntryKind::Fifo,
        TYPE_SOCKET => EntryKind::Socket,
        _ => return Err(BadBytes::Value),
    })
}

fn take_xattrs(from: &mut Reader<'_>) -> Result<Vec<Xattr>, BadBytes> {
    let count = take_count(from, XATTR_BYTES_MIN)?;
    let mut xattrs = Vec::with_capacity(count);
    for _ in 0..count {
        xattrs.push(Xattr {
            name: from.prefixed(XATTR_NAME_BYTES_MAX)?.into(),
            value: from.prefixed(XATTR_VALUE_BYTES_MAX)?.into(),
        });
    }
    Ok(xattrs)
}

fn take_ranges(from: &mut Reader<'_>) -> Result<Box<[Range<u64>]>, BadBytes> {
    let count = take_count(from, RANGE_BYTES_MIN)?;
    let mut ranges = Vec::with_capacity(count);
    let mut at = 0u64;
    for _ in 0..count {
        let start = at.checked_add(from.varint()?).ok_or(BadBytes::Value)?;
        at = start.checked_add(from.varint()?).ok_or(BadBytes::Value)?;
        ranges.push(start..at);
    }
    Ok(ranges.into())
}

fn take_extents(from: &mut Reader<'_>) -> Result<Vec<Extent>, BadBytes> {
    let count = take_count(from, EXTENT_BYTES_MIN)?;
    let mut extents = Vec::with_capacity(count);
    let mut at = Position::default();
    for _ in 0..count {
        let advance = take_u32(from)?;
        if advance > 0 {
            at.frame = at.frame.checked_add(advance).ok_or(BadBytes::Value)?;
            at.frame_offset = 0;
        }
        let frame_offset = at.frame_offset.checked_add(take_u32(from)?);
        let frame_offset = frame_offset.ok_or(BadBytes::Value)?;
        let entry = i64::from(at.entry).checked_add(unzigzag(from.varint()?));
        at.entry = entry
            .and_then(|entry| u32::try_from(entry).ok())
            .ok_or(BadBytes::Value)?;
        let file_offset = from.varint()?;
        let len = take_u32(from)?;
        at.frame_offset = frame_offset.checked_add(len).ok_or(BadBytes::Value)?;
        extents.push(Extent {
            frame: at.frame,
            frame_offset,
            entry: EntryIndex(at.entry),
            file_offset,
            len,
        });
    }
    Ok(extents)
}

/// Takes a count of things that take at least `bytes_min` bytes each: no more than can follow.
fn take_count(from: &mut Reader<'_>, bytes_min: usize) -> Result<usize, BadBytes> {
    let count = usize::try_from(from.varint()?).map_err(|_| BadBytes::Short)?;
    if count > from.rest().len() / bytes_min {
        return Err(BadBytes::Short);
    }
    Ok(count)
}

/// Takes the distance back from `index` to another entry.
fn take_back(from: &mut Reader<'_>, index: u32) -> Result<EntryIndex, BadBytes> {
    let back = take_u32(from)?;
    index
        .checked_sub(back)
        .map(EntryIndex)
        .ok_or(BadBytes::Value)
}

fn take_u32(from: &mut Reader<'_>) -> Result<u32, BadBytes> {
    u32::try_from(from.varint()?).map_err(|_| BadBytes::Value)
}

const fn kind_code(kind: Kind) -> u8 {
    match kind {
        Kind::Tree => 0,
        Kind::Disk => 1,
        Kind::File => 2,
    }
}

const fn type_code(kind: &EntryKind) -> u8 {
    match kind {
        EntryKind::Directory => TYPE_DIRECTORY,
        EntryKind::File { data: None, .. } => TYPE_FILE,
        EntryKind::File { data: Some(_), .. } => TYPE_SPARSE,
        EntryKind::Symlink { .. } => TYPE_SYMLINK,
        EntryKind::Hardlink { .. } => TYPE_HARDLINK,
        EntryKind::CharDevice { .. } => TYPE_CHAR,
        EntryKind::BlockDevice { .. } => TYPE_BLOCK,
        EntryKind::Fifo => TYPE_FIFO,
        EntryKind::Socket => TYPE_SOCKET,
    }
}

const fn zigzag(value: i64) -> u64 {
    (value << 1).cast_unsigned() ^ (value >> 63).cast_unsigned()
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

const MAGIC: &[u8] = b"flashovr";
const VERSION: u8 = 1;
const TYPE_DIRECTORY: u8 = 0;
const TYPE_FILE: u8 = 1;
const TYPE_SPARSE: u8 = 2;
const TYPE_SYMLINK: u8 = 3;
const TYPE_HARDLINK: u8 = 4;
const TYPE_CHAR: u8 = 5;
const TYPE_BLOCK: u8 = 6;
const TYPE_FIFO: u8 = 7;
const TYPE_SOCKET: u8 = 8;
const RANGE_BYTES_MIN: usize = 2;

#[cfg(test)]
mod tests {
    use super::super::arbitrary::{any_manifest, small_manifest};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_manifest_survives_its_bytes(manifest in any_manifest()) {
            prop_assert_eq!(manifest.check(), Ok(()));
            let bytes = manifest.encode();
            prop_assert_eq!(Manifest::decode(&bytes), Ok(manifest));
        }

        #[test]
        fn what_decodes_has_no_other_bytes(
            manifest in any_manifest(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = manifest.encode();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(decoded) = Manifest::decode(&bytes) {
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }

        #[test]
        fn any_bytes_are_refused_or_read(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = [MAGIC, &[VERSION], &tail].concat();
            if let Ok(decoded) = Manifest::decode(&bytes) {
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }

        #[test]
        fn zigzag_round_trips(value: i64) {
            prop_assert_eq!(unzigzag(zigzag(value)), value);
        }
    }

    #[test]
    fn a_cut_or_lengthened_manifest_is_refused() {
        let bytes = small_manifest().encode();
        for len in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(
            Manifest::decode(&longer),
            Err(Error::Bytes(BadBytes::Value))
        );
    }

    #[test]
    fn another_format_is_named() {
        let mut bytes = small_manifest().encode();
        bytes[8] = 2;
        assert_eq!(Manifest::decode(&bytes), Err(Error::Version(2)));
        bytes[0] = b'x';
        assert_eq!(Manifest::decode(&bytes), Err(Error::NoManifest));
    }

    #[test]
    fn a_count_never_allocates_more_than_the_input_can_hold() {
        let mut to = Writer::new();
        to.varint(u64::MAX >> 1);
        let bytes = to.finish();
        assert_eq!(
            take_count(&mut Reader::new(&bytes), 1),
            Err(BadBytes::Short)
        );
    }
}
