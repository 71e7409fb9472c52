//! Bytes of a stream as the kernel wants them for one send: a header that points to many parts.
//!
//! Invariant: every pointer of the header points into memory that the value owns and neither moves
//! nor frees while it is filled; so whoever owns a boxed [`Gather`] keeps its send valid.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use bytes::{Buf, Bytes};

use crate::engine::limits::{STREAM_BATCH_BYTES, STREAM_BATCH_PARTS};

/// Parts of a stream that go out in one send.
pub struct Gather {
    header: libc::msghdr,
    ranges: Vec<libc::iovec>,
    parts: Vec<Bytes>,
    len: usize,
}

impl Gather {
    /// One that is empty.
    #[must_use]
    pub fn new() -> Box<Self> {
        // SAFETY: all-zero bytes are a valid msghdr (null pointers, zero lengths).
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        Box::new(Self {
            header,
            ranges: Vec::new(),
            parts: Vec::new(),
            len: 0,
        })
    }

    /// Takes what goes out next from the front of `queue`, a batch at most, in place of what was
    /// there.
    pub fn fill(&mut self, queue: &mut VecDeque<Bytes>) {
        self.clear();
        while self.parts.len() < STREAM_BATCH_PARTS
            && let Some(mut part) = queue.pop_front()
        {
            let room = STREAM_BATCH_BYTES - self.len;
            if part.len() > room {
                queue.push_front(part.split_off(room));
            }
            self.len += part.len();
            self.parts.push(part);
            if self.len == STREAM_BATCH_BYTES {
                break;
            }
        }
        self.ranges
            .extend(self.parts.iter().map(|part| libc::iovec {
                iov_base: part.as_ptr().cast_mut().cast(),
                iov_len: part.len(),
            }));
        self.header.msg_iov = self.ranges.as_mut_ptr();
        self.header.msg_iovlen = self.ranges.len();
    }

    /// How many bytes it holds.
    #[must_use]
    pub fn byte_count(&self) -> usize {
        self.len
    }

    /// Puts all but the first `sent` bytes back at the front of `queue`.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn put_back(&self, sent: usize, queue: &mut VecDeque<Bytes>) {
        let mut unsent = self.len.checked_sub(sent).expect("no more is sent than is");
        for part in self.parts.iter().rev() {
            if unsent == 0 {
                break;
            }
            let mut part = part.clone();
            part.advance(part.len().saturating_sub(unsent));
            unsent -= part.len();
            queue.push_front(part);
        }
    }

    /// Lets go of the bytes.
    pub fn clear(&mut self) {
        self.parts.clear();
        self.ranges.clear();
        self.len = 0;
    }

    /// The header, valid for as long as `self` lives in its box and is not filled anew.
    #[must_use]
    pub fn header(&self) -> *const libc::msghdr {
        &raw const self.header
    }

    /// Sends without waiting; gives how many bytes the kernel took.
    ///
    /// # Errors
    /// Whatever `sendmsg` says; `WouldBlock` when it takes none at the moment.
    pub fn send(&self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the header's pointers are valid (this module's invariant).
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), self.header(), flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue_of(sizes: &[usize]) -> VecDeque<Bytes> {
        let mut next = 0_u8;
        let part = |&size: &usize| {
            let bytes: Vec<u8> = (0..size).map(|_| next.wrapping_add(0)).collect();
            next += 1;
            Bytes::from(bytes)
        };
        sizes.iter().map(part).collect()
    }

    fn flat(queue: &VecDeque<Bytes>) -> Vec<u8> {
        queue.iter().flatten().copied().collect()
    }

    #[test]
    fn what_is_unsent_comes_back_in_order_wherever_the_cut_is() {
        let sizes = [1, 13, 100, 1, 7];
        let total: usize = sizes.iter().sum();
        let whole = flat(&queue_of(&sizes));
        for sent in 0..=total {
            let mut queue = queue_of(&sizes);
            let last = queue.pop_back().unwrap();
            let mut gather = Gather::new();
            gather.fill(&mut queue);
            assert!(queue.is_empty());
            queue.push_back(last);
            if sent <= gather.byte_count() {
                gather.put_back(sent, &mut queue);
                assert_eq!(flat(&queue), whole[sent..]);
            }
        }
    }

    #[test]
    fn a_batch_ends_at_its_bytes_and_at_its_parts() {
        let mut gather = Gather::new();
        let mut queue = queue_of(&[STREAM_BATCH_BYTES - 5, 20]);
        gather.fill(&mut queue);
        assert_eq!(
            (gather.byte_count(), queue[0].len()),
            (STREAM_BATCH_BYTES, 15)
        );
        let mut queue: VecDeque<Bytes> = (0..STREAM_BATCH_PARTS + 1)
            .map(|_| Bytes::from_static(b"x"))
            .collect();
        gather.fill(&mut queue);
        assert_eq!((gather.byte_count(), queue.len()), (STREAM_BATCH_PARTS, 1));
    }
}
