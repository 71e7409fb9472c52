//! One `Transmit` on its way: as one message where the kernel coalesces, else as one per datagram.

use crate::engine::limits::ZERO_COPY_BYTES_MIN;
use crate::engine::net::sys::OutMessage;
use crate::engine::ways::Way;
use crate::machine::Transmit;

/// A staging slot with datagrams, and how much of it has gone out.
pub(crate) struct Burst {
    message: OutMessage,
    transmit: Transmit,
    /// Bytes sent or given up.
    done: usize,
    /// The fastest way that the kernel has not refused for it.
    way: Way,
    /// The part that the message was aimed at last.
    part: Part,
}

/// What the kernel is given of a burst at a time.
#[derive(Clone, Copy)]
struct Part {
    len: usize,
    way: Way,
}

/// What the kernel says about a part: how many of its messages it took and refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Messages that are on their way.
    pub(crate) taken: usize,
    /// Messages that are not.
    pub(crate) refused: usize,
    /// Why the last of these is not.
    pub(crate) errno: i32,
    /// Whether the kernel was to copy nothing, and had to.
    pub(crate) copied: bool,
}

impl Verdict {
    /// Adds what the kernel says about one message more.
    pub(crate) fn add(&mut self, result: Result<usize, i32>) {
        match result {
            Ok(_) => self.taken += 1,
            Err(errno) => {
                self.refused += 1;
                self.errno = errno;
            }
        }
    }
}

/// How much of a burst a verdict is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    /// Datagrams on their way.
    pub(super) packets: usize,
    /// Their bytes.
    pub(super) bytes: usize,
    /// Datagrams given up.
    pub(super) unsent: usize,
}

impl Burst {
    /// Takes a filled slot.
    pub(crate) fn new(message: OutMessage, transmit: Transmit) -> Self {
        Self {
            message,
            transmit,
            done: 0,
            way: Way::ZeroCopy,
            part: Part {
                len: 0,
                way: Way::Single,
            },
        }
    }

    pub(super) fn transmit(&self) -> &Transmit {
        &self.transmit
    }

    /// The fastest way that was not refused for it.
    pub(super) fn way(&self) -> Way {
        self.way
    }

    pub(super) fn is_done(&self) -> bool {
        self.done == self.transmit.len
    }

    /// Points the message at what goes out next; its socket sends in the given way at most.
    pub(crate) fn aim(&mut self, way: Way) -> &mut OutMessage {
        let rest = self.transmit.len - self.done;
        let size = self.transmit.segment_size;
        let segment_size = u16::try_from(size);
        let (to, at) = (self.transmit.to, self.done);
        self.part = match (self.way.min(way), segment_size) {
            (most @ (Way::Coalesced | Way::ZeroCopy), Ok(segment_size)) if rest > size => {
                self.message.aim_whole(at..at + rest, to, segment_size);
                let is_long = rest >= ZERO_COPY_BYTES_MIN;
                Part {
                    len: rest,
                    way: if is_long { most } else { Way::Coalesced },
                }
            }
            (Way::ZeroCopy | Way::Coalesced | Way::Batched, _) if rest > size => {
                self.message.aim_each(at..at + rest, to, size);
                Part {
                    len: rest,
                    way: Way::Batched,
                }
            }
            _ => {
                let len = rest.min(size);
                self.message.aim_each(at..at + len, to, size);
                Part {
                    len,
                    way: Way::Single,
                }
            }
        };
        &mut self.message
    }

    /// Whether something is left beyond what the message was aimed at.
    pub(super) fn has_more(&self) -> bool {
        self.done + self.part.len < self.transmit.len
    }

    /// Whether the kernel is not to copy what the message was aimed at.
    pub(crate) fn is_zero_copy(&self) -> bool {
        self.part.way == Way::ZeroCopy
    }

    /// The message as it was aimed last.
    pub(crate) fn message(&self) -> &OutMessage {
        &self.message
    }

    /// Whether the way is to blame for a refusal, rather than these datagrams: then all of the part
    /// is sent again, in a slower way.
    pub(crate) fn slow_down(&mut self, verdict: &Verdict) -> bool {
        let coalesced = matches!(
            verdict.errno,
            libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::ENOPROTOOPT
        );
        let to_blame = match self.part.way {
            Way::ZeroCopy => coalesced || matches!(verdict.errno, libc::ENOMEM | libc::EFAULT),
            Way::Coalesced => coalesced,
            Way::Batched => matches!(verdict.errno, libc::ENOSYS | libc::EOPNOTSUPP),
            Way::Single => false,
        };
        let none_went = verdict.taken == 0 && verdict.refused > 0;
        if none_went && to_blame {
            self.way = self.part.way.slower();
        }
        none_went && to_blame
    }

    /// Counts the messages of a verdict as gone.
    pub(super) fn advance(&mut self, verdict: &Verdict) -> Judged {
        let size = self.transmit.segment_size;
        let messages = verdict.taken + verdict.refused;
        let len = match self.part.way {
            Way::ZeroCopy | Way::Coalesced => self.part.len,
            Way::Batched | Way::Single => self.part.len.min(messages * size),
        };
        self.done += len;
        assert!(self.done <= self.transmit.len, "a part is within the burst");
        let packets = len.div_ceil(size);
        let unsent = match self.part.way {
            Way::ZeroCopy | Way::Coalesced if verdict.refused > 0 => packets,
            Way::ZeroCopy | Way::Coalesced => 0,
            Way::Batched | Way::Single => verdict.refused,
        };
        Judged {
            packets: packets - unsent,
            // Which ones were refused is not known; only the last may be short.
            bytes: len - len.min(unsent * size),
            unsent,
        }
    }

    /// Gives the slot back.
    pub(super) fn into_message(self) -> OutMessage {
        self.message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Block;
    use crate::machine::Channel;

    const SIZE: usize = 100;

    fn burst(len: usize) -> Burst {
        let message = OutMessage::new(Block::new(vec![0; 1000]));
        let transmit = Transmit {
            channel: Channel(0),
            to: "127.0.0.1:9".parse().unwrap(),
            len,
            segment_size: SIZE,
        };
        Burst::new(message, transmit)
    }

    fn refused(refused: usize, errno: i32) -> Verdict {
        Verdict {
            taken: 0,
            refused,
            errno,
            copied: false,
        }
    }

    #[test]
    fn ways_give_so_many_messages() {
        for (way, len, messages) in [
            (Way::Coalesced, 450, 1),
            (Way::Batched, 450, 5),
            (Way::Single, 450, 1),
            (Way::Coalesced, 100, 1),
            (Way::Batched, 100, 1),
        ] {
            let mut burst = burst(len);
            assert_eq!(burst.aim(way).headers().len(), messages, "{way:?} {len}");
        }
    }

    #[test]
    fn a_refused_way_is_left_for_a_slower_one_and_nothing_is_lost() {
        let mut burst = burst(450);
        burst.aim(Way::Coalesced);
        assert!(burst.slow_down(&refused(1, libc::EIO)));
        assert_eq!(burst.aim(Way::Coalesced).headers().len(), 5);
        assert!(
            !burst.slow_down(&refused(1, libc::EIO)),
            "no way is to blame"
        );
        assert!(burst.slow_down(&refused(1, libc::ENOSYS)));
        let mut packets = 0;
        while !burst.is_done() {
            assert_eq!(burst.aim(Way::Coalesced).headers().len(), 1);
            assert!(
                !burst.slow_down(&refused(1, libc::ENOSYS)),
                "none is slower"
            );
            let judged = burst.advance(&Verdict {
                taken: 1,
                ..Verdict::default()
            });
            packets += judged.packets;
        }
        assert_eq!((packets, burst.way()), (5, Way::Single));
    }

    #[test]
    fn a_part_that_went_partly_is_counted_so() {
        let mut burst = burst(450);
        burst.aim(Way::Batched);
        let two_of_three = Verdict {
            taken: 2,
            refused: 1,
            errno: libc::EPERM,
            copied: false,
        };
        let judged = Judged {
            packets: 2,
            bytes: 200,
            unsent: 1,
        };
        assert_eq!(burst.advance(&two_of_three), judged);
        assert_eq!(burst.aim(Way::Batched).headers().len(), 2);
    }
}
