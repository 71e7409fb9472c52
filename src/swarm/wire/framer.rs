//! Takes the bytes of a stream apart as they come.
//!
//! Invariant: at most [`MESSAGE_BYTES_MAX`] bytes are held back; of a block none is.

use super::{
    BLOCK_BYTES_MAX, BLOCK_ID, BlockRange, HANDSHAKE_BYTES, Handshake, MESSAGE_BYTES_MAX, Message,
};
use crate::base::PieceIndex;

/// See the module.
#[derive(Debug, Default)]
pub struct Framer {
    /// Bytes of what is not whole yet.
    held: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Handshake,
    /// Between messages, or in one that is held until it is whole.
    Message,
    /// In a block: what is left of it.
    Block(BlockRange),
    /// What was given last lies in `held` and is to be dropped.
    Given,
}

/// A part of the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The first.
    Handshake(Handshake),
    /// A message.
    Message(Message<'a>),
    /// The next bytes of a block: where they belong, and they. The block ends with `is_last`.
    Block {
        /// Where they belong, as long as they are.
        range: BlockRange,
        /// The bytes.
        bytes: &'a [u8],
        /// Whether the block is over with them.
        is_last: bool,
    },
}

/// The other side does not speak BitTorrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// The handshake is none.
    #[error("It does not speak BitTorrent")]
    Protocol,
    /// A message is longer than any may be.
    #[error("It sent a message of {0} bytes")]
    TooLong(u32),
    /// A message does not have the length of its kind.
    #[error("It sent a message of a wrong length")]
    Malformed,
}

impl Framer {
    /// Takes the next part off the front of `input`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// If the bytes are no part of the protocol; the stream is of no use any more then.
    pub fn next<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Frame<'s>>, BadFrame> {
        if matches!(self.state, State::Given) {
            self.held.clear();
            self.state = State::Message;
        }
        match self.state {
            State::Handshake => {
                if !self.hold(input, HANDSHAKE_BYTES) {
                    return Ok(None);
                }
                let bytes = self.held.first_chunk().ok_or(BadFrame::Protocol)?;
                let handshake = Handshake::parse(bytes).ok_or(BadFrame::Protocol)?;
                self.state = State::Given;
                Ok(Some(Frame::Handshake(handshake)))
            }
            State::Message | State::Given => self.message(input),
            State::Block(left) => Ok(self.block(left, input)),
        }
    }

    fn message<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Frame<'s>>, BadFrame> {
        if !self.hold(input, 4) {
            return Ok(None);
        }
        let len = u32::from_be_bytes(*self.held.first_chunk().ok_or(BadFrame::Malformed)?);
        if len > 0 && !self.hold(input, 5) {
            return Ok(None);
        }
        if self.held.get(4) == Some(&BLOCK_ID) {
            if !(9..=9 + BLOCK_BYTES_MAX).contains(&len) {
                return Err(BadFrame::TooLong(len));
            }
            if !self.hold(input, super::BLOCK_HEADER_BYTES) {
                return Ok(None);
            }
            let number = |at: usize| {
                self.held[at..]
                    .first_chunk()
                    .map_or(0, |bytes| u32::from_be_bytes(*bytes))
            };
            let range = BlockRange {
                piece: PieceIndex::new(number(5)),
                begin: number(9),
                len: len - 9,
            };
            self.held.clear();
            self.state = State::Block(range);
            return Ok(self.block(range, input));
        }
        let whole = usize::try_from(len).unwrap_or(usize::MAX);
        if whole > MESSAGE_BYTES_MAX {
            return Err(BadFrame::TooLong(len));
        }
        if !self.hold(input, 4 + whole) {
            return Ok(None);
        }
        self.state = State::Given;
        let message = Message::parse(&self.held[4..]).ok_or(BadFrame::Malformed)?;
        Ok(Some(Frame::Message(message)))
    }

    fn block<'i>(&mut self, left: BlockRange, input: &mut &'i [u8]) -> Option<Frame<'i>> {
        let room = usize::try_from(left.len).unwrap_or(usize::MAX);
        let (bytes, rest) = input.split_at(room.min(input.len()));
        if bytes.is_empty() && left.len > 0 {
            return None;
        }
        *input = rest;
        let len = u32::try_from(bytes.len()).unwrap_or(left.len);
        let is_last = len == left.len;
        self.state = if is_last {
            State::Message
        } else {
            State::Block(BlockRange {
                begin: left.begin.saturating_add(len),
                len: left.len - len,
                ..left
            })
        };
        let range = BlockRange { len, ..left };
        Some(Frame::Block {
            range,
            bytes,
            is_last,
        })
    }

    /// Moves bytes from `input` until `count` are held; tells whether they are.
    fn hold(&mut self, input: &mut &[u8], count: usize) -> bool {
        let wanted = count.saturating_sub(self.held.len()).min(input.len());
        let (taken, rest) = input.split_at(wanted);
        self.held.extend_from_slice(taken);
        *input = rest;
        self.held.len() >= count
    }
}

#[cfg(test)]
mod tests {
    use super::super::block_header;
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Handshake {
        Handshake {
            info_hash: [1; 20],
            peer_id: [2; 20],
            fast: true,
            extended: true,
            upgrade: false,
        }
    }

    /// All parts of a stream that comes in pieces of these sizes, blocks put together.
    fn all(stream: &[u8], sizes: &[usize]) -> Result<Vec<String>, BadFrame> {
        let mut framer = Framer::default();
        let (mut seen, mut block) = (Vec::new(), Vec::new());
        let (mut rest, mut sizes) = (stream, sizes.iter().cycle());
        while !rest.is_empty() {
            let size = (*sizes.next().unwrap()).clamp(1, rest.len());
            let (mut part, after) = rest.split_at(size);
            rest = after;
            while let Some(frame) = framer.next(&mut part)? {
                if let Frame::Block {
                    range,
                    bytes,
                    is_last,
                } = &frame
                {
                    block.extend_from_slice(bytes);
                    if *is_last {
                        seen.push(format!("{} {:?}", range.piece, std::mem::take(&mut block)));
                    }
                } else {
                    seen.push(format!("{frame:?}"));
                }
            }
        }
        Ok(seen)
    }

    proptest! {
        #[test]
        fn parts_are_the_same_however_they_come(
            sizes in prop::collection::vec(1_usize..50, 1..5),
            block in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut stream = hello().emit().to_vec();
            Message::Bitfield(&[0xf0, 1]).emit(&mut stream);
            let len = u32::try_from(block.len()).unwrap();
            let range = BlockRange { piece: PieceIndex::new(3), begin: 16384, len };
            stream.extend_from_slice(&block_header(range));
            stream.extend_from_slice(&block);
            Message::KeepAlive.emit(&mut stream);
            Message::Request(range).emit(&mut stream);
            let seen = all(&stream, &sizes).unwrap();
            prop_assert_eq!(seen.len(), 5);
            prop_assert_eq!(&seen, &all(&stream, &[usize::MAX]).unwrap());
            prop_assert_eq!(&seen[2], &format!("piece 3 {block:?}"));
        }

        #[test]
        fn nothing_from_outside_panics(
            mut stream in prop::collection::vec(any::<u8>(), 0..300),
            sizes in prop::collection::vec(1_usize..50, 1..5),
            start: bool,
        ) {
            if start {
                stream.splice(..0, hello().emit());
            }
            let _refused = all(&stream, &sizes);
        }
    }

    #[test]
    fn lengths_are_bounded() {
        for body in [
            [0xff, 0xff, 0xff, 0xff, 5],
            [0, 3, 0, 0, 7],
            [0, 0x20, 0, 0, 20],
        ] {
            let stream = [&hello().emit()[..], &body].concat();
            assert!(
                matches!(all(&stream, &[7]), Err(BadFrame::TooLong(_))),
                "{body:?}"
            );
        }
        assert_eq!(all(&[7; 68], &[68]), Err(BadFrame::Protocol));
    }
}
