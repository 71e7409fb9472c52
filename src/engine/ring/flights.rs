//! The table of what is in flight: it holds the memory that the kernel may touch.

use super::buffers::Buffer;
use super::streams::StreamFlight;
use crate::engine::disk::Run;
use crate::engine::drive::burst::{Burst, Verdict};
use crate::machine::Channel;

/// An operation that the kernel has, with the memory that it may touch.
pub(super) enum Flight {
    /// The messages of a burst: how many have not ended, and what the kernel says of the others.
    Send {
        burst: Burst,
        left: usize,
        verdict: Verdict,
        /// What it said about a message that it still reads.
        said: Option<std::result::Result<usize, i32>>,
    },
    /// A read or write.
    Disk(Run),
    /// The order to receive on a socket: a standing one, which is served from the ring's receive
    /// buffers, or one for a message into the named buffer.
    Receive {
        channel: Channel,
        buffer: Option<Buffer>,
    },
    /// An operation on a TCP stream.
    Stream(StreamFlight),
    /// The order to say when the mailbox has something; it touches no memory.
    Wake,
    /// The order to cancel all others; it touches no memory.
    Cancel,
}

/// The table of what is in flight.
#[derive(Default)]
pub(super) struct Flights {
    entries: Vec<Option<Flight>>,
    free: Vec<usize>,
    pub(super) count: usize,
}

impl Flights {
    pub(super) fn insert(&mut self, flight: Flight) -> u64 {
        self.count += 1;
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index] = Some(flight);
                index
            }
            None => {
                self.entries.push(Some(flight));
                self.entries.len() - 1
            }
        };
        index as u64
    }

    pub(super) fn get_mut(&mut self, index: u64) -> &mut Flight {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.entries.get_mut(index))
            .and_then(Option::as_mut)
            .expect("the kernel names what we gave it, and names it last once")
    }

    pub(super) fn remove(&mut self, index: u64) -> Flight {
        let index = usize::try_from(index).expect("an index of ours fits");
        let flight = self.entries[index].take();
        self.free.push(index);
        self.count -= 1;
        flight.expect("the kernel names what we gave it, and names it last once")
    }
}
