//! Where a file has data.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Finds the ranges of the first `size` bytes that have data: ascending, not touching, not empty.
/// What lies between is a hole and reads as zeros. Moves the file's position.
///
/// A file system that knows no holes gives one range, a file without data none.
///
/// # Errors
/// If the file cannot be sought in.
pub fn data_ranges(file: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(errno) => return Err(errno.into()),
        };
        if start >= size {
            break;
        }
        let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(size),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => size,
            // Cut while we look at it: the reader of the data will notice.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => ranges.push(start..end),
        }
        at = end;
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn holes_are_found_at_every_place() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(data_ranges(&file, 0).unwrap(), []);
        file.set_len(4 << 20).unwrap();
        assert_eq!(data_ranges(&file, 4 << 20).unwrap(), []);
        file.write_all_at(&[1; 1 << 20], 1 << 20).unwrap();
        assert_eq!(data_ranges(&file, 4 << 20).unwrap(), vec![1 << 20..2 << 20]);
        file.write_all_at(&[1; 1 << 20], 3 << 20).unwrap();
        let both = [1 << 20..2 << 20, 3 << 20..4 << 20];
        assert_eq!(data_ranges(&file, 4 << 20).unwrap(), both);
        assert_eq!(
            data_ranges(&file, (3 << 20) + 5).unwrap()[1],
            3 << 20..(3 << 20) + 5
        );
    }
}
