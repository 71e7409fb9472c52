//! Messages as the kernel wants them: headers that point to bytes, addresses and ancillary data.
//!
//! Invariant: every pointer of a header points into memory that its value owns and neither moves
//! nor frees while the kernel may use it; so whoever owns an [`OutMessage`] keeps its sends valid.
#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{
    CONTROL_BYTES, CONTROL_HEADER, CONTROL_STRIDE, Controls, NAME_BYTES, decode_address,
    encode_address,
};
use crate::base::Block;
use crate::engine::limits::RECEIVE_BUFFER_BYTES;

/// A staging slot and the messages that point into it: one for a whole burst, or one per datagram.
pub struct OutMessage {
    headers: Vec<libc::mmsghdr>,
    ranges: Vec<libc::iovec>,
    beside: Box<Beside>,
    slot: Block,
}

/// What all messages of a slot share.
struct Beside {
    name: [u8; NAME_BYTES],
    control: [u8; CONTROL_STRIDE],
}

impl OutMessage {
    /// Wraps a staging slot.
    #[must_use]
    pub fn new(slot: Block) -> Self {
        Self {
            headers: Vec::with_capacity(1),
            ranges: Vec::with_capacity(1),
            beside: Box::new(Beside {
                name: [0; NAME_BYTES],
                control: [0; CONTROL_STRIDE],
            }),
            slot,
        }
    }

    /// The slot's bytes, to be filled.
    pub fn slot_mut(&mut self) -> &mut [u8] {
        &mut self.slot
    }

    /// Points to a range of the slot, as one message which the kernel cuts into datagrams of
    /// `segment_size`.
    pub fn aim_whole(&mut self, range: Range<usize>, to: SocketAddr, segment_size: u16) {
        encode_segment_size(&mut self.beside.control, segment_size);
        let step = range.len();
        self.aim(range, to, step, true);
    }

    /// Points to a range of the slot, as one message per datagram of `size` bytes.
    pub fn aim_each(&mut self, range: Range<usize>, to: SocketAddr, size: usize) {
        self.aim(range, to, size, false);
    }

    fn aim(&mut self, range: Range<usize>, to: SocketAddr, step: usize, with_control: bool) {
        let (name, name_len) = encode_address(to);
        self.beside.name = name;
        self.ranges.clear();
        self.ranges
            .extend(self.slot[range].chunks_mut(step).map(iovec));
        self.headers.clear();
        for range in &mut self.ranges {
            let mut message = empty_header();
            let header = &mut message.msg_hdr;
            header.msg_name = self.beside.name.as_mut_ptr().cast();
            header.msg_namelen = name_len;
            header.msg_iov = &raw mut *range;
            header.msg_iovlen = 1;
            if with_control {
                header.msg_control = self.beside.control.as_mut_ptr().cast();
                header.msg_controllen = CONTROL_STRIDE;
            }
            self.headers.push(message);
        }
    }

    /// The headers of the messages, valid for as long as `self` lives and is not aimed anew.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = *const libc::msghdr> {
        self.headers.iter().map(|one| &raw const one.msg_hdr)
    }

    /// Sends without waiting, and tells how many messages the kernel took, at least one.
    ///
    /// # Errors
    /// Whatever `sendmsg` or `sendmmsg` says about the first message.
    pub fn send(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let fd = fd.as_raw_fd();
        if let [one] = self.headers.as_slice() {
            // SAFETY: the header's pointers are valid (this module's invariant).
            let sent = unsafe { libc::sendmsg(fd, &raw const one.msg_hdr, libc::MSG_DONTWAIT) };
            return usize::try_from(sent)
                .map(|_| 1)
                .map_err(|_| io::Error::last_os_error());
        }
        let count = u32::try_from(self.headers.len()).unwrap_or(u32::MAX);
        let headers = self.headers.as_mut_ptr();
        // SAFETY: there are `count` headers, whose pointers are valid (this module's invariant);
        // the kernel writes the lengths sent into them.
        let sent = unsafe { libc::sendmmsg(fd, headers, count, libc::MSG_DONTWAIT) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

fn encode_segment_size(control: &mut [u8; CONTROL_STRIDE], size: u16) {
    let length = CONTROL_HEADER + size_of::<u16>();
    let at = size_of::<usize>();
    control[..at].copy_from_slice(&length.to_ne_bytes());
    control[at..at + 4].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control[at + 4..at + 8].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    control[CONTROL_HEADER..CONTROL_HEADER + 2].copy_from_slice(&size.to_ne_bytes());
}

/// Room for messages that come in, and what came.
pub struct InMessages {
    headers: Vec<libc::mmsghdr>,
    ranges: Vec<libc::iovec>,
    names: Vec<[u8; NAME_BYTES]>,
    controls: Vec<[u8; CONTROL_BYTES]>,
    /// A buffer of `RECEIVE_BUFFER_BYTES` for each.
    bytes: Vec<u8>,
    /// How many of them hold a message.
    filled: usize,
}

impl InMessages {
    /// Room for `count` messages, at least one, to be received at a time.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self {
            headers: Vec::with_capacity(count),
            ranges: Vec::with_capacity(count),
            names: vec![[0; NAME_BYTES]; count],
            controls: vec![[0; CONTROL_BYTES]; count],
            bytes: vec![0; count * RECEIVE_BUFFER_BYTES],
            filled: 0,
        }
    }

    /// How many messages there is room for.
    #[must_use]
    pub fn room(&self) -> usize {
        self.names.len()
    }

    /// Receives without waiting, in place of what was there; tells how many messages came.
    ///
    /// # Errors
    /// Whatever `recvmsg` or `recvmmsg` says; `WouldBlock` when nothing is there.
    pub fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        self.filled = 0;
        self.aim();
        let fd = fd.as_raw_fd();
        let received = if let [one] = self.headers.as_mut_slice() {
            let header = &raw mut one.msg_hdr;
            // SAFETY: the header's pointers are valid (this module's invariant).
            let len = unsafe { libc::recvmsg(fd, header, libc::MSG_DONTWAIT) };
            one.msg_len = u32::try_from(len).unwrap_or(0);
            if len < 0 { -1 } else { 1 }
        } else {
            let count = u32::try_from(self.headers.len()).unwrap_or(u32::MAX);
            let headers = self.headers.as_mut_ptr();
            let none = std::ptr::null_mut();
            // SAFETY: there are `count` headers, whose pointers are valid (the module's invariant).
            unsafe { libc::recvmmsg(fd, headers, count, libc::MSG_DONTWAIT, none) }
        };
        self.filled = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok(self.filled)
    }

    /// The message at `index`: its datagrams, its sender if that is of the internet, and what the
    /// kernel says beside.
    ///
    /// # Panics
    /// When fewer came.
    pub fn get(&mut self, index: usize) -> (&mut [u8], Option<SocketAddr>, Controls) {
        assert!(index < self.filled, "a message that came");
        let message = &self.headers[index];
        let control = self.controls[index].get(..message.msg_hdr.msg_controllen);
        let from = decode_address(&self.names[index]);
        let start = index * RECEIVE_BUFFER_BYTES;
        let len = usize::try_from(message.msg_len).unwrap_or(usize::MAX);
        let bytes = &mut self.bytes[start..start + len.min(RECEIVE_BUFFER_BYTES)];
        (bytes, from, Controls::parse(control.unwrap_or_default()))
    }

    /// Points the headers to the room; the kernel changes lengths in them.
    fn aim(&mut self) {
        self.ranges.clear();
        let buffers = self.bytes.chunks_mut(RECEIVE_BUFFER_BYTES);
        self.ranges.extend(buffers.map(iovec));
        self.headers.clear();
        let beside = self.names.iter_mut().zip(&mut self.controls);
        for (range, (name, control)) in self.ranges.iter_mut().zip(beside) {
            let mut message = empty_header();
            let header = &mut message.msg_hdr;
            header.msg_name = name.as_mut_ptr().cast();
            header.msg_namelen = u32::try_from(NAME_BYTES).expect("an address is short");
            header.msg_iov = &raw mut *range;
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_BYTES;
            self.headers.push(message);
        }
    }
}

/// Whether this process may call `sendmmsg` and `recvmmsg`.
#[must_use]
pub fn batches(fd: BorrowedFd<'_>) -> (bool, bool) {
    let (fd, none) = (fd.as_raw_fd(), std::ptr::null_mut());
    // SAFETY: with no headers, nothing is read or sent.
    let send = unsafe { libc::sendmmsg(fd, none, 0, libc::MSG_DONTWAIT) };
    let wait = std::ptr::null_mut();
    // SAFETY: with no headers, nothing is written or received.
    let receive = unsafe { libc::recvmmsg(fd, none, 0, libc::MSG_DONTWAIT, wait) };
    (send >= 0, receive >= 0)
}

fn iovec(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    }
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: all-zero bytes are a valid mmsghdr (null pointers, zero lengths).
    unsafe { std::mem::zeroed() }
}
