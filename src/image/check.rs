//! The law of manifests: every invariant that [`super::manifest`] states, checked in one place, by
//! decoding and by publishing alike.

use std::ops::Range;

use super::manifest::{
    FRAME_BYTES_MAX, FRAME_CONTENT_BYTES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX,
    REPEATED_XATTR_BYTES_MAX, SYMLINK_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
};
use super::{Entry, EntryKind, Error, Extent, Frame, Kind, Manifest, Xattr, frame, hash};

impl Manifest {
    /// Checks every invariant.
    ///
    /// # Errors
    /// [`Error::Rule`] names the first that is broken.
    pub fn check(&self) -> Result<(), Error> {
        self.check_pieces()?;
        check_entries(&self.entries)?;
        match self.kind {
            Kind::Tree => rule(
                matches!(self.entries[0].kind, EntryKind::Directory),
                "a tree starts with its root directory",
            )?,
            Kind::Disk | Kind::File => rule(
                matches!(
                    self.entries[..],
                    [Entry {
                        kind: EntryKind::File { .. },
                        ..
                    }]
                ),
                "a disk or file is one file",
            )?,
        }
        if self.kind == Kind::File {
            return self.check_plain_file();
        }
        self.check_frames()?;
        self.check_extents()
    }

    fn check_pieces(&self) -> Result<(), Error> {
        rule(
            self.pieces.len() == self.geometry.piece_count() as usize,
            "there is one value per piece",
        )?;
        rule(
            hash::merge(&self.pieces) == self.root,
            "the piece values give the root",
        )
    }

    fn check_plain_file(&self) -> Result<(), Error> {
        let is_bundle = matches!(
            self.entries[0].kind,
            EntryKind::File { size, hash, data: None }
                if size == self.geometry.bundle_size() && hash == self.root
        );
        rule(is_bundle, "a plain file is its own bundle")?;
        rule(
            self.frames.is_empty() && self.extents.is_empty(),
            "a plain file has no frames",
        )
    }

    fn check_frames(&self) -> Result<(), Error> {
        for frame in &self.frames {
            rule(
                (1..=FRAME_BYTES_MAX).contains(&frame.content_size),
                "a frame's content is not empty and not too large",
            )?;
            rule(
                (1..=frame::packed_size_max(frame.content_size)).contains(&frame.packed_size),
                "a frame is packed into no more than its content",
            )?;
        }
        let packed: u64 = self.frames.iter().map(|f| u64::from(f.packed_size)).sum();
        rule(
            packed + frame::seek_table_size(self.frames.len()) == self.geometry.bundle_size(),
            "the bundle is its frames and their seek table",
        )
    }

    fn check_extents(&self) -> Result<(), Error> {
        check_frame_order(&self.frames, &self.extents)?;
        let mut by_file: Vec<&Extent> = self.extents.iter().collect();
        by_file.sort_by_key(|extent| (extent.entry, extent.file_offset));
        let mut rest = by_file.as_slice();
        for (index, entry) in (0u32..).zip(&self.entries) {
            let count = rest.partition_point(|extent| extent.entry.0 <= index);
            let (own, others) = rest.split_at(count);
            rest = others;
            check_coverage(entry, own)?;
        }
        rule(rest.is_empty(), "an extent belongs to an entry")
    }
}

fn check_entries(entries: &[Entry]) -> Result<(), Error> {
    rule(!entries.is_empty(), "there is a first entry")?;
    rule(entries.len() < u32::MAX as usize, "entries can be numbered")?;
    let root = &entries[0];
    rule(
        root.name.is_empty() && root.parent.0 == 0,
        "the root has no name and no other parent",
    )?;
    // The last child seen of each directory, and the length of each entry's path.
    let mut last_child: Vec<u32> = vec![0; entries.len()];
    let mut path_len: Vec<u32> = vec![0; entries.len()];
    let mut repeated_bytes = 0;
    for (index, entry) in entries.iter().enumerate() {
        check_fields(entry)?;
        if let EntryKind::Hardlink { to } = entry.kind {
            check_hardlink(index, entry, entries.get(to.as_usize()))?;
            repeated_bytes += xattr_bytes(&entry.xattrs);
            rule(
                repeated_bytes <= REPEATED_XATTR_BYTES_MAX,
                "hard links repeat few extended attributes",
            )?;
        }
        if index == 0 {
            continue;
        }
        let parent = entry.parent.as_usize();
        rule(
            parent < index && matches!(entries[parent].kind, EntryKind::Directory),
            "a parent is an earlier directory",
        )?;
        check_name(&entry.name)?;
        let sibling = &entries[last_child[parent] as usize];
        rule(
            last_child[parent] == 0 || sibling.name < entry.name,
            "siblings are sorted and unique",
        )?;
        #[expect(clippy::cast_possible_truncation, reason = "counted and bounded above")]
        {
            last_child[parent] = index as u32;
            path_len[index] = path_len[parent] + 1 + entry.name.len() as u32;
        }
        rule(
            path_len[index] as usize <= PATH_BYTES_MAX,
            "a path is not too long",
        )?;
    }
    Ok(())
}

fn check_name(name: &[u8]) -> Result<(), Error> {
    rule(
        (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.iter().any(|c| matches!(c, 0 | b'/')),
        "a name has 1 to 255 bytes without slash and NUL",
    )?;
    rule(name != b"." && name != b"..", "a name stays where it is")
}

fn check_hardlink(index: usize, entry: &Entry, first: Option<&Entry>) -> Result<(), Error> {
    let EntryKind::Hardlink { to } = entry.kind else {
        return Ok(());
    };
    let Some(first) = first.filter(|_| to.as_usize() < index) else {
        return rule(false, "a hard link follows its first name");
    };
    rule(
        !matches!(
            first.kind,
            EntryKind::Directory | EntryKind::Hardlink { .. }
        ),
        "a hard link leads to no directory and no other link",
    )?;
    rule(
        (entry.mode, entry.owner, entry.mtime) == (first.mode, first.owner, first.mtime)
            && entry.xattrs == first.xattrs,
        "a hard link repeats the metadata of its first name",
    )
}

fn check_fields(entry: &Entry) -> Result<(), Error> {
    rule(entry.mode <= 0o7777, "a mode has permission bits only")?;
    rule(
        entry.mtime.nanos < 1_000_000_000,
        "nanoseconds are less than a second",
    )?;
    rule(
        entry
            .xattrs
            .windows(2)
            .all(|pair| pair[0].name < pair[1].name),
        "extended attributes are sorted and unique",
    )?;
    rule(
        entry.xattrs.iter().all(|xattr| {
            (1..=XATTR_NAME_BYTES_MAX).contains(&xattr.name.len())
                && !xattr.name.contains(&0)
                && xattr.value.len() <= XATTR_VALUE_BYTES_MAX
        }),
        "extended attributes are such as Linux can store",
    )?;
    match &entry.kind {
        EntryKind::File { size, hash, data } => {
            rule(*size <= i64::MAX.cast_unsigned(), "a file is not too long")?;
            rule(
                *size > 0 || *hash == hash::merge(&[]),
                "an empty file has the hash of nothing",
            )?;
            data.as_ref().map_or(Ok(()), |data| check_data(data, *size))
        }
        EntryKind::Symlink { target } => rule(
            (1..=SYMLINK_BYTES_MAX).contains(&target.len()) && !target.contains(&0),
            "a link's target has 1 to 4095 bytes without NUL",
        ),
        EntryKind::Directory
        | EntryKind::Hardlink { .. }
        | EntryKind::CharDevice { .. }
        | EntryKind::BlockDevice { .. }
        | EntryKind::Fifo
        | EntryKind::Socket => Ok(()),
    }
}

fn check_data(data: &[Range<u64>], size: u64) -> Result<(), Error> {
    rule(
        data.iter().all(|range| range.start < range.end),
        "a data range is not empty",
    )?;
    rule(
        data.windows(2).all(|pair| pair[0].end < pair[1].start),
        "data ranges ascend and do not touch",
    )?;
    rule(
        data.last().is_none_or(|last| last.end <= size),
        "data ranges lie in their file",
    )?;
    let total: u64 = data.iter().map(|range| range.end - range.start).sum();
    rule(total < size, "a sparse file has a hole")
}

/// Checks that extents are sorted, apart, and inside frames that hold no more content than allowed.
fn check_frame_order(frames: &[Frame], extents: &[Extent]) -> Result<(), Error> {
    for of_frame in extents.chunk_by(|a, b| a.frame == b.frame) {
        let frame = frames.get(of_frame[0].frame as usize);
        let mut end = 0u64;
        let mut content = 0u64;
        for extent in of_frame {
            rule(extent.len > 0, "an extent is not empty")?;
            rule(
                u64::from(extent.frame_offset) >= end,
                "extents are sorted and apart",
            )?;
            end = u64::from(extent.frame_offset) + u64::from(extent.len);
            content += u64::from(extent.len);
        }
        rule(
            frame.is_some_and(|frame| end <= u64::from(frame.content_size)),
            "an extent lies in its frame",
        )?;
        rule(
            content <= u64::from(FRAME_CONTENT_BYTES_MAX),
            "a frame holds no more than 1 MiB of files",
        )?;
    }
    rule(
        extents.is_sorted_by_key(|extent| extent.frame),
        "extents are sorted by frame",
    )
}

/// Checks that the extents of one entry, sorted by file offset, cover its data and nothing else.
fn check_coverage(entry: &Entry, extents: &[&Extent]) -> Result<(), Error> {
    let EntryKind::File { size, data, .. } = &entry.kind else {
        return rule(extents.is_empty(), "only files have extents");
    };
    let whole = std::array::from_fn::<_, 1, _>(|_| 0..*size);
    let data: &[Range<u64>] = match data {
        Some(data) => data,
        None if *size == 0 => &[],
        None => &whole,
    };
    let mut extents = extents.iter();
    for range in data {
        let mut at = range.start;
        while at < range.end {
            let next = extents.next().filter(|extent| extent.file_offset == at);
            let Some(extent) = next else {
                return rule(false, "extents cover every data byte once");
            };
            at += u64::from(extent.len);
        }
        rule(at == range.end, "an extent lies in the data of its file")?;
    }
    rule(extents.next().is_none(), "no extent lies in a hole")
}

/// Bytes of names and values.
pub(super) fn xattr_bytes(xattrs: &[Xattr]) -> usize {
    xattrs
        .iter()
        .map(|xattr| xattr.name.len() + xattr.value.len())
        .sum()
}

fn rule(holds: bool, name: &'static str) -> Result<(), Error> {
    if holds {
        Ok(())
    } else {
        Err(Error::Rule(name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::arbitrary::small_manifest;
    use super::super::{EntryIndex, Hash};
    use super::*;

    fn broken(change: impl FnOnce(&mut Manifest)) -> &'static str {
        let mut manifest = small_manifest();
        assert_eq!(manifest.check(), Ok(()));
        change(&mut manifest);
        match manifest.check() {
            Err(Error::Rule(name)) => name,
            other => panic!("{other:?}"),
        }
    }

    fn file(manifest: &mut Manifest) -> &mut Entry {
        let is_file = |entry: &&mut Entry| matches!(entry.kind, EntryKind::File { .. });
        manifest.entries.iter_mut().find(is_file).unwrap()
    }

    #[test]
    fn every_rule_is_noticed_when_broken() {
        type Change = fn(&mut Manifest);
        let cases: &[(&str, Change)] = &[
            ("the piece values give the root", |m| m.root = Hash([0; 32])),
            ("there is one value per piece", |m| m.pieces.clear()),
            ("there is a first entry", |m| m.entries.clear()),
            ("the root has no name and no other parent", |m| {
                m.entries[0].name = (*b"x").into();
            }),
            ("a tree starts with its root directory", |m| {
                m.entries.truncate(1);
                m.entries[0].kind = EntryKind::Fifo;
            }),
            ("a disk or file is one file", |m| m.kind = Kind::Disk),
            ("a parent is an earlier directory", |m| {
                m.entries[1].parent = EntryIndex(1);
            }),
            ("siblings are sorted and unique", |m| {
                m.entries[3].name = m.entries[2].name.clone();
            }),
            ("a name stays where it is", |m| {
                file(m).name = (*b"..").into();
            }),
            ("a name has 1 to 255 bytes without slash and NUL", |m| {
                file(m).name = (*b"a/b").into();
            }),
            ("a mode has permission bits only", |m| {
                file(m).mode = 0o10000;
            }),
            ("nanoseconds are less than a second", |m| {
                file(m).mtime.nanos = 1_000_000_000;
            }),
            ("extents cover every data byte once", |m| {
                m.extents.pop();
            }),
            ("an extent lies in the data of its file", |m| {
                m.extents.last_mut().unwrap().len += 1;
            }),
            ("an extent is not empty", |m| m.extents[0].len = 0),
            ("an extent belongs to an entry", |m| {
                let last = *m.extents.last().unwrap();
                m.extents.push(Extent {
                    frame_offset: last.frame_offset + last.len,
                    entry: EntryIndex(99),
                    len: 1,
                    ..last
                });
            }),
            ("an extent lies in its frame", |m| m.extents[0].frame = 7),
            ("the bundle is its frames and their seek table", |m| {
                m.frames[0].packed_size -= 1;
            }),
            ("a frame's content is not empty and not too large", |m| {
                m.frames[0].content_size = FRAME_BYTES_MAX + 1;
            }),
        ];
        for (name, change) in cases {
            assert_eq!(broken(change), *name);
        }
    }
}
