//! The body of a control datagram: where the sender is and how receivers are to report.
//!
//! ```text
//!   version 1 | flags 1 | position 4 | report interval ms 2 | backoff ms 2 | ack packets 4
//!   | receivers 4 | count 1 | count x first 8 bytes of a demoted node's id
//! ```

use crate::base::NodeId;
use crate::base::bytes::{BadBytes, Reader};

use crate::multicast::limits::DEMOTED_NAMED_MAX;

/// What the sender tells the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Nothing of any piece is on its way: all that is missing is lost.
    pub quiet: bool,
    /// The piece that new data is at.
    pub position: u32,
    /// How often receivers report, in milliseconds.
    pub report_interval_ms: u16,
    /// The longest random wait before a report of deficits, in milliseconds.
    pub backoff_ms: u16,
    /// Receivers report after this many datagrams too; 0 switches that off.
    pub ack_packets: u32,
    /// How many receivers are served.
    pub receivers: u32,
    /// The first bytes of the ids of receivers that are not waited for any more.
    pub demoted: Vec<[u8; 8]>,
}

/// The longest body, in bytes.
pub const CONTROL_BYTES_MAX: usize = FIXED_SIZE + 8 * DEMOTED_NAMED_MAX;

impl Control {
    /// Reads a body.
    ///
    /// # Errors
    /// If it is cut, too long, or of another version.
    pub fn parse(body: &[u8]) -> Result<Self, BadBytes> {
        let mut reader = Reader::new(body);
        let (version, flags) = (reader.u8()?, reader.u8()?);
        if version != VERSION || flags & !FLAG_QUIET != 0 {
            return Err(BadBytes::Value);
        }
        let (position, report_interval_ms) = (reader.u32()?, reader.u16()?);
        let (backoff_ms, ack_packets, receivers) = (reader.u16()?, reader.u32()?, reader.u32()?);
        let count = usize::from(reader.u8()?);
        if count > DEMOTED_NAMED_MAX {
            return Err(BadBytes::Value);
        }
        let demoted = (0..count)
            .map(|_| reader.array())
            .collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self {
            quiet: flags & FLAG_QUIET != 0,
            position,
            report_interval_ms,
            backoff_ms,
            ack_packets,
            receivers,
            demoted,
        })
    }

    /// How many bytes [`Control::emit`] writes.
    #[must_use]
    pub fn buffer_len(&self) -> usize {
        FIXED_SIZE + 8 * self.demoted.len().min(DEMOTED_NAMED_MAX)
    }

    /// Writes the body to the front of `buffer`, which holds at least [`Control::buffer_len`] bytes.
    pub fn emit(&self, buffer: &mut [u8]) {
        let count = self.demoted.len().min(DEMOTED_NAMED_MAX);
        buffer[0] = VERSION;
        buffer[1] = if self.quiet { FLAG_QUIET } else { 0 };
        buffer[2..6].copy_from_slice(&self.position.to_be_bytes());
        buffer[6..8].copy_from_slice(&self.report_interval_ms.to_be_bytes());
        buffer[8..10].copy_from_slice(&self.backoff_ms.to_be_bytes());
        buffer[10..14].copy_from_slice(&self.ack_packets.to_be_bytes());
        buffer[14..18].copy_from_slice(&self.receivers.to_be_bytes());
        buffer[18] = count.to_be_bytes()[7];
        for (slot, id) in buffer[FIXED_SIZE..]
            .chunks_exact_mut(8)
            .zip(&self.demoted[..count])
        {
            slot.copy_from_slice(id);
        }
    }

    /// Whether the sender says that it does not wait for `node` any more.
    #[must_use]
    pub fn names(&self, node: NodeId) -> bool {
        self.demoted.iter().any(|id| node.0.starts_with(id))
    }
}

const VERSION: u8 = 1;
const FLAG_QUIET: u8 = 1;
/// The bytes before the list.
const FIXED_SIZE: usize = 19;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bodies_round_trip(quiet: bool, position: u32, interval: u16, backoff: u16, ack: u32, receivers: u32,
            demoted in prop::collection::vec(any::<[u8; 8]>(), 0..=DEMOTED_NAMED_MAX)) {
            let control = Control { quiet, position, report_interval_ms: interval, backoff_ms: backoff,
                ack_packets: ack, receivers, demoted };
            let mut body = vec![0; control.buffer_len()];
            control.emit(&mut body);
            prop_assert!(body.len() <= CONTROL_BYTES_MAX);
            prop_assert_eq!(Control::parse(&body), Ok(control));
            for len in 0..body.len() {
                prop_assert!(Control::parse(&body[..len]).is_err());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut body: Vec<u8>) {
            if let Some(version) = body.first_mut() {
                *version = VERSION;
            }
            if let Ok(control) = Control::parse(&body) {
                let mut again = vec![0; control.buffer_len()];
                control.emit(&mut again);
                prop_assert_eq!(again, body);
            }
        }
    }
}
