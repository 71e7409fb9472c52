//! The info dictionary of a torrent, in parts, for who has a magnet link alone.
//!
//! ```text
//!   request  d 8:msg_type i0e 5:piece i2e e
//!   data     d 8:msg_type i1e 5:piece i2e 10:total_size i35000e e | the part
//!   reject   d 8:msg_type i2e 5:piece i2e e
//! ```
//!
//! Every part but the last has [`PART_BYTES`]. Who collects them is
//! [`crate::swarm::metadata_fetch`].
//!
//! Source: BEP 9.

use bytes::Bytes;

use super::extension::BadExtension;
use crate::swarm::bencode::{self, DictWriter, Form};

/// The size of all parts but the last.
pub const PART_BYTES: u32 = 16 << 10;
/// The longest info dictionary that is taken from peers: enough for 1.6 million pieces of a single
/// file. libtorrent's is 30 MiB.
pub const METADATA_BYTES_MAX: u32 = 32 << 20;
/// The longest dictionary before a part, in bytes.
const HEADER_BYTES_MAX: usize = 1024;
/// How often a peer gets each part at most, in the mean, on one connection.
const SERVES_PER_PART_MAX: u32 = 2;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataMessage<'a> {
    /// Send this part.
    Request(u32),
    /// Here it is.
    Data {
        /// Which.
        part: u32,
        /// The size of the whole, 1 to [`METADATA_BYTES_MAX`].
        total_size: u32,
        /// The bytes, as many as this part of a whole of this size has.
        bytes: &'a [u8],
    },
    /// This will not be sent.
    Reject(u32),
    /// Something that this version does not know, and that is to be ignored.
    Unknown,
}

impl<'a> MetadataMessage<'a> {
    /// Reads what stands behind the number of `ut_metadata`.
    ///
    /// # Errors
    /// If it is malformed, of a part that no info dictionary has, or has more or fewer bytes than
    /// its part.
    pub fn parse(payload: &'a [u8]) -> Result<Self, BadExtension> {
        // The dictionary is short, so that reading it costs little whatever follows it.
        let head = &payload[..payload.len().min(HEADER_BYTES_MAX)];
        let (value, rest) = bencode::parse_front(head, Form::AnyOrder)?;
        let bytes = &payload[head.len() - rest.len()..];
        let dict = value.dict().ok_or(BadExtension::Malformed)?;
        let number = |key: &[u8]| -> Result<u32, BadExtension> {
            let number = dict.int(key).and_then(|number| u32::try_from(number).ok());
            number.ok_or(BadExtension::Malformed)
        };
        let kind = dict.int(b"msg_type").ok_or(BadExtension::Malformed)?;
        let part = || number(b"piece").and_then(|part| in_range(part, METADATA_BYTES_MAX));
        match kind {
            REQUEST => Ok(Self::Request(part()?)),
            DATA => {
                let total_size = number(b"total_size")?;
                let part = in_range(part()?, total_size.min(METADATA_BYTES_MAX))?;
                let len = part_len(part, total_size) as usize;
                if total_size > METADATA_BYTES_MAX || bytes.len() != len {
                    return Err(BadExtension::Malformed);
                }
                Ok(Self::Data {
                    part,
                    total_size,
                    bytes,
                })
            }
            REJECT => Ok(Self::Reject(part()?)),
            _ => Ok(Self::Unknown),
        }
    }

    /// Writes the message; what is unknown is written as a kind that nobody knows.
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        match *self {
            Self::Request(part) => header(REQUEST, part, None),
            Self::Data {
                part,
                total_size,
                bytes,
            } => [&header(DATA, part, Some(total_size)), bytes].concat(),
            Self::Reject(part) => header(REJECT, part, None),
            Self::Unknown => header(UNKNOWN, 0, None),
        }
    }
}

/// How many parts an info dictionary of this size has.
#[must_use]
pub const fn part_count(total_size: u32) -> u32 {
    total_size.div_ceil(PART_BYTES)
}

/// How long a part of it is, 0 if it has no such part.
#[must_use]
pub const fn part_len(part: u32, total_size: u32) -> u32 {
    let left = total_size.saturating_sub(part.saturating_mul(PART_BYTES));
    if left < PART_BYTES { left } else { PART_BYTES }
}

fn in_range(part: u32, total_size: u32) -> Result<u32, BadExtension> {
    if part < part_count(total_size) {
        return Ok(part);
    }
    Err(BadExtension::Malformed)
}

fn header(kind: i64, part: u32, total_size: Option<u32>) -> Vec<u8> {
    let mut dict = DictWriter::new();
    dict.int(b"msg_type", kind).int(b"piece", part.into());
    if let Some(size) = total_size {
        dict.int(b"total_size", size.into());
    }
    dict.finish()
}

/// What one peer is given of our info dictionary: each part a few times, however often it asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct MetadataServer {
    served: u32,
}

/// What to say to a request: the message, and the bytes that belong right behind it, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the bytes are, or the refusal.
    pub head: Vec<u8>,
    /// A slice of the info dictionary; empty for a refusal.
    pub part: Bytes,
}

impl MetadataServer {
    /// Answers a request for a part of `info`, which is `None` while we lack it ourselves.
    pub fn answer(&mut self, info: Option<&Bytes>, part: u32) -> Answer {
        let refusal = Answer {
            head: MetadataMessage::Reject(part).emit(),
            part: Bytes::new(),
        };
        let Some(info) = info else {
            return refusal;
        };
        let size = u32::try_from(info.len()).unwrap_or(u32::MAX);
        let is_there = size <= METADATA_BYTES_MAX && part < part_count(size);
        if !is_there || self.served >= SERVES_PER_PART_MAX * part_count(size) {
            return refusal;
        }
        self.served += 1;
        let start = (part * PART_BYTES) as usize;
        Answer {
            head: header(DATA, part, Some(size)),
            part: info.slice(start..start + part_len(part, size) as usize),
        }
    }
}

const REQUEST: i64 = 0;
const DATA: i64 = 1;
const REJECT: i64 = 2;
/// A kind that no specification has.
const UNKNOWN: i64 = 255;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(total_size in 1..200_000u32, part: u32) {
            let part = part % part_count(total_size);
            let bytes = vec![b'e'; part_len(part, total_size) as usize];
            for message in [
                MetadataMessage::Request(part),
                MetadataMessage::Data { part, total_size, bytes: &bytes },
                MetadataMessage::Reject(part),
                MetadataMessage::Unknown,
            ] {
                let written = message.emit();
                prop_assert_eq!(MetadataMessage::parse(&written), Ok(message));
            }
        }

        #[test]
        fn what_is_served_is_the_whole(total_size in 1..100_000u32) {
            let byte = |at: u32| at.to_le_bytes()[1];
            let info: Bytes = (0..total_size).map(byte).collect::<Vec<_>>().into();
            let mut server = MetadataServer::default();
            let mut whole = Vec::new();
            for part in 0..part_count(total_size) {
                let answer = server.answer(Some(&info), part);
                let message = [answer.head, answer.part.to_vec()].concat();
                let Ok(MetadataMessage::Data { bytes, .. }) = MetadataMessage::parse(&message)
                else { panic!("part {part} is served") };
                whole.extend_from_slice(bytes);
            }
            prop_assert_eq!(whole, info);
        }

        #[test]
        fn no_bytes_do_harm(bytes: Vec<u8>) {
            let _refused = MetadataMessage::parse(&bytes).is_err();
        }
    }

    #[test]
    fn the_examples_of_the_specification_are_read() {
        let read = |bytes| MetadataMessage::parse(bytes).unwrap();
        assert_eq!(
            read(b"d8:msg_typei0e5:piecei0ee"),
            MetadataMessage::Request(0)
        );
        assert_eq!(
            read(b"d8:msg_typei2e5:piecei0ee"),
            MetadataMessage::Reject(0)
        );
        let data = [
            &b"d8:msg_typei1e5:piecei0e10:total_sizei34256ee"[..],
            &[b'x'; 16_384],
        ]
        .concat();
        assert_eq!(
            read(&data),
            MetadataMessage::Data {
                part: 0,
                total_size: 34_256,
                bytes: &[b'x'; 16_384],
            }
        );
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        for text in [
            "le",
            "d5:piecei0ee",
            "d8:msg_typei0ee",
            "d8:msg_typei0e5:piecei-1ee",
            "d8:msg_typei0e5:piecei2048ee",
            "d8:msg_typei1e5:piecei0ee",
            "d8:msg_typei1e5:piecei0e10:total_sizei0ee",
            "d8:msg_typei1e5:piecei0e10:total_sizei5eexxxx",
            "d8:msg_typei1e5:piecei0e10:total_sizei5eexxxxxx",
            "d8:msg_typei1e5:piecei1e10:total_sizei16384ee",
            "d8:msg_typei1e5:piecei2047e10:total_sizei33554433eex",
        ] {
            assert!(MetadataMessage::parse(text.as_bytes()).is_err(), "{text}");
        }
        let largest = "d8:msg_typei0e5:piecei2047ee";
        assert!(MetadataMessage::parse(largest.as_bytes()).is_ok());
    }

    #[test]
    fn nobody_is_served_without_end() {
        let info = Bytes::from(vec![0; 40_000]);
        let mut server = MetadataServer::default();
        let refused = |answer: Answer, part| answer.head == MetadataMessage::Reject(part).emit();
        assert!(refused(server.answer(None, 0), 0));
        assert!(refused(server.answer(Some(&info), 3), 3));
        for _ in 0..6 {
            assert_eq!(server.answer(Some(&info), 2).part.len(), 40_000 - 32_768);
        }
        assert!(refused(server.answer(Some(&info), 2), 2));
    }
}
