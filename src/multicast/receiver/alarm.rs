//! What a receiver makes of datagrams that a sound sender would not have sent.

use super::{Event, Receiver};
use crate::base::{Counter, EpochId, Time};
use crate::fec::Code;
use crate::image::verify::Verify;
use crate::multicast::keys::{Cipher, Key as _};
use crate::multicast::limits::{INSIDER_INTERVAL, UNKNOWN_EPOCH_INTERVAL};
use crate::multicast::replay::{Fresh, Tag};
use crate::multicast::wire::lct::{HEADER_SIZE, Header};

/// When the job was told last.
#[derive(Debug)]
pub(super) struct Alarms {
    unknown_epoch_at: Time,
    insider_at: Time,
}

impl Alarms {
    pub(super) const fn new() -> Self {
        Self {
            unknown_epoch_at: Time::ZERO,
            insider_at: Time::ZERO,
        }
    }
}

impl<C: Code, X: Cipher, V: Verify> Receiver<C, X, V> {
    pub(super) fn on_unknown_epoch(&mut self, epoch: EpochId, now: Time) {
        if now >= self.alarms.unknown_epoch_at {
            self.alarms.unknown_epoch_at = now + UNKNOWN_EPOCH_INTERVAL;
            self.raise(Event::UnknownEpoch(epoch));
        }
    }

    /// Judges the counter of a datagram; gives whether it may be opened.
    ///
    /// One counter seals one content. Another that is authentic too was made by somebody who holds
    /// the group's key: that is told. Which of the two was the sender's cannot be known, and need
    /// not: pieces are hashed.
    pub(super) fn is_fresh(&mut self, header: &Header, datagram: &mut [u8], now: Time) -> bool {
        match self.replay.judge(header.counter, Tag::of(datagram)) {
            Fresh::Yes => return true,
            Fresh::No => self.count(Counter::RejectedReplayed),
            Fresh::Other => {
                let (clear, sealed) = datagram.split_at_mut(HEADER_SIZE);
                if self.data_key.open(header.counter, clear, sealed).is_none() {
                    self.count(Counter::RejectedForged);
                    return false;
                }
                self.count(Counter::RejectedTwoContents);
                if now >= self.alarms.insider_at {
                    self.alarms.insider_at = now + INSIDER_INTERVAL;
                    self.raise(Event::Insider);
                }
            }
        }
        false
    }
}
