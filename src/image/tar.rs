//! Tar headers, so that stock tools restore a bundle as it was: ustar with pax records.
//!
//! What ustar cannot say goes into records: long names (`path`, `linkpath`), large numbers (`size`,
//! `uid`, `gid`), times (`mtime`, with nanoseconds, also before 1970), extended attributes
//! (`SCHILY.xattr.*`), POSIX ACLs as text with numeric ids (`SCHILY.acl.access`, `.default`), and
//! holes (`GNU.sparse`, version 1.0: the map is the head of the file's data). Sockets are not in
//! tar. The bytes depend on the entry alone. Source: POSIX.1-2017 `pax`, GNU tar manual, appendix
//! D.

use std::io::Write as _;
use std::ops::Range;

use super::{Entry, EntryKind, Mtime, Xattr};

/// Appends what comes before the content of `entry`: header, records, and the map of its holes.
///
/// `path` is its path below the root (empty for the root), `first_path` that of the entry it is a
/// hard link to. Every data range of a sparse file ends at a multiple of 512 or where the file
/// ends. Gives false, and appends nothing, for a socket, which tar cannot
/// carry; the caller leaves out hard links to sockets.
pub fn put_header(to: &mut Vec<u8>, entry: &Entry, path: &[u8], first_path: Option<&[u8]>) -> bool {
    let mut header = Header::new(entry, path);
    let mut map = Vec::new();
    match &entry.kind {
        EntryKind::Directory => header.member(b'5', 0),
        EntryKind::File { size, data, .. } => match data {
            None => header.member(b'0', *size),
            Some(data) => {
                map = sparse_map(*size, data);
                let stored: u64 = data.iter().map(|range| range.end - range.start).sum();
                header.sparse(*size, map.len() as u64 + stored);
            }
        },
        EntryKind::Symlink { target } => {
            header.member(b'2', 0);
            header.link(target);
        }
        EntryKind::Hardlink { .. } => {
            header.member(b'1', 0);
            header.link(first_path.unwrap_or_default());
        }
        EntryKind::CharDevice { major, minor } => {
            header.member(b'3', 0);
            header.device(*major, *minor);
        }
        EntryKind::BlockDevice { major, minor } => {
            header.member(b'4', 0);
            header.device(*major, *minor);
        }
        EntryKind::Fifo => header.member(b'6', 0),
        EntryKind::Socket => return false,
    }
    if !matches!(entry.kind, EntryKind::Hardlink { .. }) {
        header.xattrs(&entry.xattrs);
    }
    header.put(to);
    to.append(&mut map);
    true
}

/// How many zeros follow `len` bytes of content.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "less than a block")]
pub const fn padding(len: u64) -> usize {
    (len.next_multiple_of(BLOCK_BYTES as u64) - len) as usize
}

/// What ends an archive: two blocks of zeros.
pub const END: [u8; 2 * BLOCK_BYTES] = [0; 2 * BLOCK_BYTES];
/// A block of tar, and more zeros than any padding has.
pub const BLOCK_BYTES: usize = 512;

/// A ustar header block in the making, and its pax records.
struct Header {
    block: [u8; BLOCK_BYTES],
    records: Vec<u8>,
    path: Vec<u8>,
}

impl Header {
    fn new(entry: &Entry, path: &[u8]) -> Self {
        let mut path = path.to_vec();
        if path.is_empty() {
            path.push(b'.');
        }
        if matches!(entry.kind, EntryKind::Directory) {
            path.push(b'/');
        }
        let mut header = Self {
            block: [0; BLOCK_BYTES],
            records: Vec::new(),
            path,
        };
        put_number(&mut header.block[MODE], entry.mode.into());
        header.number(UID, b"uid", entry.owner.uid.into());
        header.number(GID, b"gid", entry.owner.gid.into());
        header.mtime(entry.mtime);
        header.block[MAGIC].copy_from_slice(b"ustar\x0000");
        header
    }

    /// Sets type, name and size of an ordinary member.
    fn member(&mut self, code: u8, size: u64) {
        self.block[TYPE] = code;
        self.number(SIZE, b"size", size);
        let path = std::mem::take(&mut self.path);
        self.text(NAME, b"path", &path);
    }

    /// Sets name and sizes of a file with holes, of which `stored` bytes are in the archive.
    fn sparse(&mut self, size: u64, stored: u64) {
        self.block[TYPE] = b'0';
        self.number(SIZE, b"size", stored);
        let path = std::mem::take(&mut self.path);
        self.record(b"GNU.sparse.major", b"1");
        self.record(b"GNU.sparse.minor", b"0");
        self.record(b"GNU.sparse.name", &path);
        self.record(b"GNU.sparse.realsize", size.to_string().as_bytes());
        put_text(&mut self.block[NAME], b"GNUSparseFile.0/sparse");
    }

    fn link(&mut self, target: &[u8]) {
        self.text(LINK, b"linkpath", target);
    }

    fn device(&mut self, major: u32, minor: u32) {
        put_number(&mut self.block[MAJOR], major.into());
        put_number(&mut self.block[MINOR], minor.into());
    }

    fn mtime(&mut self, mtime: Mtime) {
        let whole = u64::try_from(mtime.secs).ok();
        match whole.filter(|&secs| mtime.nanos == 0 && fits(SIZE.len(), secs)) {
            Some(secs) => put_number(&mut self.block[MTIME], secs),
            None => {
                put_number(&mut self.block[MTIME], 0);
                self.record(b"mtime", format_mtime(mtime).as_bytes());
            }
        }
    }

    fn xattrs(&mut self, xattrs: &[Xattr]) {
        for Xattr { name, value } in xattrs {
            let acl = match &**name {
                b"system.posix_acl_access" => Some(&b"SCHILY.acl.access"[..]),
                b"system.posix_acl_default" => Some(&b"SCHILY.acl.default"[..]),
                _ => None,
            };
            match acl.zip(acl_text(value)) {
                Some((keyword, text)) => self.record(keyword, text.as_bytes()),
                None => self.record(&xattr_keyword(name), value),
            }
        }
    }

    /// Sets a text that fits its field, else adds a record.
    fn text(&mut self, field: Range<usize>, keyword: &[u8], text: &[u8]) {
        if text.len() > field.len() {
            self.record(keyword, text);
        }
        put_text(&mut self.block[field], text);
    }

    /// Sets a number that fits its field, else adds a record.
    fn number(&mut self, field: Range<usize>, keyword: &[u8], value: u64) {
        if fits(field.len(), value) {
            put_number(&mut self.block[field], value);
        } else {
            put_number(&mut self.block[field], 0);
            self.record(keyword, value.to_string().as_bytes());
        }
    }

    /// Appends `length keyword=value\n`; the length counts itself.
    fn record(&mut self, keyword: &[u8], value: &[u8]) {
        let rest = keyword.len() + value.len() + 3;
        let mut len = rest + 1;
        while rest + decimal_digits(len) > len {
            len += 1;
        }
        self.records.extend_from_slice(len.to_string().as_bytes());
        self.records.push(b' ');
        self.records.extend_from_slice(keyword);
        self.records.push(b'=');
        self.records.extend_from_slice(value);
        self.records.push(b'\n');
    }

    fn put(self, to: &mut Vec<u8>) {
        if !self.records.is_empty() {
            let mut block = [0; BLOCK_BYTES];
            put_text(&mut block[NAME], b"././@PaxHeader");
            put_number(&mut block[MODE], 0o644);
            put_number(&mut block[UID], 0);
            put_number(&mut block[GID], 0);
            put_number(&mut block[SIZE], self.records.len() as u64);
            put_number(&mut block[MTIME], 0);
            block[MAGIC].copy_from_slice(b"ustar\x0000");
            block[TYPE] = b'x';
            put_block(to, block);
            to.extend_from_slice(&self.records);
            to.resize(to.len() + padding(self.records.len() as u64), 0);
        }
        put_block(to, self.block);
    }
}

/// Appends a header block with its checksum.
fn put_block(to: &mut Vec<u8>, mut block: [u8; BLOCK_BYTES]) {
    block[CHECKSUM].fill(b' ');
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    put_number(&mut block[CHECKSUM.start..CHECKSUM.end - 1], sum);
    to.extend_from_slice(&block);
}

/// The map of a file with holes: count, then offset and length of each run of data, as decimal
/// lines. A run of nothing at the end says where the file ends when it ends with a hole.
fn sparse_map(size: u64, data: &[Range<u64>]) -> Vec<u8> {
    let ends_with_hole = data.last().is_none_or(|last| last.end < size);
    let end = ends_with_hole.then_some(size..size);
    let mut map = Vec::new();
    let mut line = |number: u64| {
        writeln!(map, "{number}").expect("a vector takes all bytes");
    };
    line((data.len() + usize::from(ends_with_hole)) as u64);
    for range in data.iter().chain(&end) {
        assert!(
            range.end == size || range.end.is_multiple_of(BLOCK_BYTES as u64),
            "data of sparse files comes in blocks"
        );
        line(range.start);
        line(range.end - range.start);
    }
    map.resize(map.len() + padding(map.len() as u64), 0);
    map
}

/// Seconds as a decimal fraction; nanoseconds count forward from `secs`, also before 1970.
fn format_mtime(mtime: Mtime) -> String {
    let Mtime { secs, nanos } = mtime;
    match (secs, nanos) {
        (_, 0) => secs.to_string(),
        (0.., _) => format!("{secs}.{nanos:09}"),
        (..0, _) => format!(
            "-{}.{:09}",
            (secs + 1).unsigned_abs(),
            1_000_000_000 - nanos
        ),
    }
}

/// Turns the kernel's form of an ACL (version 2: tag, permissions, id) into text.
fn acl_text(value: &[u8]) -> Option<String> {
    let entries = value.strip_prefix(&ACL_VERSION)?;
    let (entries, rest) = entries.as_chunks::<8>();
    if entries.is_empty() || !rest.is_empty() {
        return None;
    }
    let mut text = String::new();
    for [tag, tag_high, permissions, _, id @ ..] in entries {
        let id = u32::from_le_bytes(*id);
        let who = match u16::from_le_bytes([*tag, *tag_high]) {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        text.push_str(&who);
        text.push(':');
        for (bit, letter) in [(4, 'r'), (2, 'w'), (1, 'x')] {
            text.push(if permissions & bit != 0 { letter } else { '-' });
        }
        text.push('\n');
    }
    Some(text)
}

/// GNU tar escapes the two characters that would end or confuse a keyword.
fn xattr_keyword(name: &[u8]) -> Vec<u8> {
    let mut keyword = b"SCHILY.xattr.".to_vec();
    for &byte in name {
        match byte {
            b'%' => keyword.extend_from_slice(b"%25"),
            b'=' => keyword.extend_from_slice(b"%3D"),
            _ => keyword.push(byte),
        }
    }
    keyword
}

/// Fills a field with as much of the text as it holds.
fn put_text(field: &mut [u8], text: &[u8]) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
}

/// Writes octal digits and a NUL, or GNU's binary form for what has too many digits.
fn put_number(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    if fits(field.len(), value) {
        let text = format!("{value:0digits$o}");
        field[..digits].copy_from_slice(text.as_bytes());
    } else {
        let bytes = value.to_be_bytes();
        let len = bytes.len().min(digits);
        field[0] = 0x80;
        let start = field.len() - len;
        field[start..].copy_from_slice(&bytes[bytes.len() - len..]);
    }
}

/// Whether a number fits a field of `len` bytes as octal digits and a NUL.
const fn fits(len: usize, value: u64) -> bool {
    value >> (3 * (len - 1)) == 0
}

const fn decimal_digits(number: usize) -> usize {
    number.ilog10() as usize + 1
}

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..265;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const ACL_VERSION: [u8; 4] = 2u32.to_le_bytes();

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for len in [0, 1, 90, 91, 92, 93, 94, 980, 987, 988, 989, 990, 991, 9990] {
            let mut header = Header {
                block: [0; BLOCK_BYTES],
                records: Vec::new(),
                path: Vec::new(),
            };
            header.record(b"path", &vec![b'x'; len]);
            let text = String::from_utf8(header.records).unwrap();
            let (said, _) = text.split_once(' ').unwrap();
            assert_eq!(said.parse(), Ok(text.len()));
        }
    }

    #[test]
    fn times_before_1970_are_decimal_fractions() {
        let format = |secs, nanos| format_mtime(Mtime { secs, nanos });
        assert_eq!(format(5, 70), "5.000000070");
        assert_eq!(format(-1, 500_000_000), "-0.500000000");
        assert_eq!(format(-2, 250_000_000), "-1.750000000");
        assert_eq!(format(-3, 0), "-3");
        assert_eq!(format(i64::MIN, 1), "-9223372036854775807.999999999");
    }

    #[test]
    fn acls_become_text_with_numbers() {
        let mut value = ACL_VERSION.to_vec();
        for (tag, permissions, id) in [(1u16, 7u16, u32::MAX), (2, 5, 1000), (4, 4, u32::MAX)] {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&permissions.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        let text = "user::rwx\nuser:1000:r-x\ngroup::r--\n";
        assert_eq!(acl_text(&value).as_deref(), Some(text));
        assert_eq!(acl_text(&value[..value.len() - 1]), None);
        value[4] = 0x40;
        assert_eq!(acl_text(&value), None);
    }

    #[test]
    fn numbers_too_large_for_octal_are_binary() {
        let mut field = [0; 8];
        put_number(&mut field, 0o7_777_777);
        assert_eq!(&field, b"7777777\0");
        put_number(&mut field, 0o10_000_000);
        assert_eq!(field, [0x80, 0, 0, 0, 0, 0x20, 0, 0]);
    }

    #[test]
    fn a_hole_at_the_end_is_in_the_map() {
        let map = sparse_map(10_000, &[512..1024]);
        assert!(map.starts_with(b"2\n512\n512\n10000\n0\n\0"));
        assert_eq!(map.len(), 512);
        assert!(sparse_map(700, &[512..700]).starts_with(b"1\n512\n188\n\0"));
        assert!(sparse_map(700, &[]).starts_with(b"1\n700\n0\n\0"));
    }
}
