//! The bursts that are under way: each is stored once, however many hosts it goes to.

use std::net::SocketAddr;
use std::ops::Range;

use super::host::HostIndex;

/// Datagrams that were sent together.
#[derive(Debug)]
pub(super) struct Burst {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    /// Which host sent it; `None` for one that a test put on the wire.
    pub(super) sender: Option<HostIndex>,
    pub(super) segment_size: usize,
    bytes: Vec<u8>,
    /// How many events still need it; its place is free at 0.
    users: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BurstIndex(usize);

/// Bursts by index; places and their memory are used again.
#[derive(Debug, Default)]
pub(super) struct BurstStore {
    bursts: Vec<Burst>,
    free: Vec<BurstIndex>,
}

impl Burst {
    pub(super) const fn new(
        from: SocketAddr,
        to: SocketAddr,
        sender: Option<HostIndex>,
        segment_size: usize,
    ) -> Self {
        Self {
            from,
            to,
            sender,
            segment_size,
            bytes: Vec::new(),
            users: 1,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of some of the datagrams.
    pub(super) fn segments(&self, range: Range<u16>) -> &[u8] {
        let start = usize::from(range.start) * self.segment_size;
        let end = usize::from(range.end) * self.segment_size;
        &self.bytes[start..end.min(self.bytes.len())]
    }
}

impl BurstStore {
    /// Stores a burst for one user.
    pub(super) fn store(&mut self, mut burst: Burst, bytes: &[u8]) -> BurstIndex {
        let Some(index) = self.free.pop() else {
            burst.bytes.extend_from_slice(bytes);
            self.bursts.push(burst);
            return BurstIndex(self.bursts.len() - 1);
        };
        let place = &mut self.bursts[index.0];
        burst.bytes = std::mem::take(&mut place.bytes);
        burst.bytes.clear();
        burst.bytes.extend_from_slice(bytes);
        *place = burst;
        index
    }

    pub(super) fn get(&self, index: BurstIndex) -> &Burst {
        &self.bursts[index.0]
    }

    /// Adds a user.
    pub(super) fn retain(&mut self, index: BurstIndex) {
        self.bursts[index.0].users += 1;
    }

    /// Takes a user away.
    pub(super) fn release(&mut self, index: BurstIndex) {
        let users = &mut self.bursts[index.0].users;
        *users = users.checked_sub(1).expect("a burst in use has users");
        if *users == 0 {
            self.free.push(index);
        }
    }
}
