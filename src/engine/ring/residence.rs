//! Whether bytes of a file lie in the page cache.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// How many pages of a range the page cache has. Source: cachestat(2), since Linux 6.5.
///
/// # Errors
/// When the kernel cannot tell.
pub(in crate::engine) fn cached_pages(
    fd: BorrowedFd<'_>,
    offset: u64,
    len: u64,
) -> io::Result<u64> {
    let range = [offset, len];
    // Cached, dirty, in write-back, evicted, recently evicted.
    let mut counts = [0_u64; 5];
    // SAFETY: the kernel reads two and writes five values of 64 bits, which both arrays hold.
    let result = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            fd.as_raw_fd(),
            range.as_ptr(),
            counts.as_mut_ptr(),
            0,
        )
    };
    match result {
        0 => Ok(counts[0]),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The same number on every architecture. Source: asm-generic/unistd.h.
const SYS_CACHESTAT: libc::c_long = 451;
