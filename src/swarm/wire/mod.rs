//! The peer wire: the handshake, and messages behind their length.
//!
//! ```text
//!   handshake  19 | "BitTorrent protocol" | reserved 8 | infohash 20 | peer id 20
//!   message    length 4 | id 1 | payload (length - 1);  length 0 keeps a connection alive
//!   block      length 4 | 7 | piece 4 | begin 4 | bytes
//! ```
//!
//! [`framer`] takes a stream apart; blocks it hands on as they come, everything else whole.
//! Source: BEP 3 "peer protocol", BEP 6, BEP 10, BEP 52 "peer messages", "upgrade path".

pub mod extension;
pub mod framer;
pub mod hashes;
pub mod metadata;
pub mod pex;

use hashes::HashRange;

use crate::base::PieceIndex;
use crate::swarm::hash::Sha256;

/// The bytes of a handshake.
pub const HANDSHAKE_BYTES: usize = 68;
/// The most bytes of a block that may be asked for.
pub const BLOCK_BYTES_MAX: u32 = 128 << 10;
/// The longest message other than a block.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// The bytes before those of a block.
pub const BLOCK_HEADER_BYTES: usize = 13;

/// What both sides say first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// Which torrent; 20 bytes of its name.
    pub info_hash: [u8; 20],
    /// Who speaks.
    pub peer_id: [u8; 20],
    /// Whether the sender knows the fast extension (BEP 6).
    pub fast: bool,
    /// Whether the sender knows the extension protocol (BEP 10).
    pub extended: bool,
    /// Whether the sender, that names a hybrid by its v1 name, knows version 2 too: who is called
    /// may answer with the v2 name then (BEP 52).
    pub upgrade: bool,
}

impl Handshake {
    /// Reads a handshake; `None` if it is of another protocol.
    #[must_use]
    pub fn parse(bytes: &[u8; HANDSHAKE_BYTES]) -> Option<Self> {
        let (protocol, rest) = bytes.split_at(PROTOCOL.len());
        let (reserved, rest) = rest.split_at(8);
        let (info_hash, peer_id) = rest.split_at(20);
        (protocol == PROTOCOL).then_some(Self {
            info_hash: info_hash.try_into().ok()?,
            peer_id: peer_id.try_into().ok()?,
            fast: reserved[7] & RESERVED_FAST != 0,
            extended: reserved[5] & RESERVED_EXTENDED != 0,
            upgrade: reserved[7] & RESERVED_UPGRADE != 0,
        })
    }

    /// Gives its bytes.
    #[must_use]
    pub fn emit(&self) -> [u8; HANDSHAKE_BYTES] {
        let mut bytes = [0; HANDSHAKE_BYTES];
        bytes[..20].copy_from_slice(PROTOCOL);
        bytes[25] = if self.extended { RESERVED_EXTENDED } else { 0 };
        bytes[27] = if self.fast { RESERVED_FAST } else { 0 };
        bytes[27] |= if self.upgrade { RESERVED_UPGRADE } else { 0 };
        bytes[28..48].copy_from_slice(&self.info_hash);
        bytes[48..].copy_from_slice(&self.peer_id);
        bytes
    }
}

/// A run of bytes of a piece, as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockRange {
    /// Of which piece.
    pub piece: PieceIndex,
    /// Where in it.
    pub begin: u32,
    /// How many bytes.
    pub len: u32,
}

/// A message other than a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Nothing; the sender lives.
    KeepAlive,
    /// No requests are served any more.
    Choke,
    /// Requests are served.
    Unchoke,
    /// The sender wants something.
    Interested,
    /// The sender wants nothing.
    NotInterested,
    /// The sender has a piece.
    Have(PieceIndex),
    /// Which pieces the sender has: a bit each, the first the highest of the first byte.
    Bitfield(&'a [u8]),
    /// Send this.
    Request(BlockRange),
    /// Do not send this.
    Cancel(BlockRange),
    /// A port of the distributed hash table.
    Port(u16),
    /// A piece that is cheap to send (BEP 6).
    Suggest(PieceIndex),
    /// The sender has all pieces (BEP 6).
    HaveAll,
    /// The sender has no piece (BEP 6).
    HaveNone,
    /// This will not be sent (BEP 6).
    Reject(BlockRange),
    /// A piece that may be asked for while choked (BEP 6).
    AllowedFast(PieceIndex),
    /// A message of an extension, with the number that the receiver gave it (BEP 10).
    Extended(u8, &'a [u8]),
    /// Send these hashes of a tree (BEP 52).
    HashRequest(HashRange),
    /// The hashes, and the uncles that prove them (BEP 52).
    Hashes(HashRange, &'a [Sha256]),
    /// These hashes will not be sent (BEP 52).
    HashReject(HashRange),
    /// Something that this version does not know.
    Unknown(u8),
}

impl<'a> Message<'a> {
    /// Reads what stands behind the length; `None` if its length does not fit its id.
    #[must_use]
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let Some((&id, payload)) = body.split_first() else {
            return Some(Self::KeepAlive);
        };
        let piece = || {
            Some(PieceIndex::new(u32::from_be_bytes(
                payload.try_into().ok()?,
            )))
        };
        let range = || {
            let [a, b, c] = *payload.as_chunks::<4>().0.first_chunk::<3>()?;
            let range = BlockRange {
                piece: PieceIndex::new(u32::from_be_bytes(a)),
                begin: u32::from_be_bytes(b),
                len: u32::from_be_bytes(c),
            };
            (payload.len() == 12).then_some(range)
        };
        let bare = |message| payload.is_empty().then_some(message);
        match id {
            0 => bare(Self::Choke),
            1 => bare(Self::Unchoke),
            2 => bare(Self::Interested),
            3 => bare(Self::NotInterested),
            4 => piece().map(Self::Have),
            5 => Some(Self::Bitfield(payload)),
            6 => range().map(Self::Request),
            8 => range().map(Self::Cancel),
            9 => Some(Self::Port(u16::from_be_bytes(payload.try_into().ok()?))),
            13 => piece().map(Self::Suggest),
            14 => bare(Self::HaveAll),
            15 => bare(Self::HaveNone),
            16 => range().map(Self::Reject),
            17 => piece().map(Self::AllowedFast),
            20 => payload
                .split_first()
                .map(|(&id, rest)| Self::Extended(id, rest)),
            21 => HashRange::parse(payload).map(Self::HashRequest),
            22 => HashRange::parse_with_hashes(payload)
                .map(|(range, hashes)| Self::Hashes(range, hashes)),
            23 => HashRange::parse(payload).map(Self::HashReject),
            other => Some(Self::Unknown(other)),
        }
    }

    /// Appends the message with its length to `out`. What is unknown becomes an id without payload.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let piece = |piece: &PieceIndex| piece.get().to_be_bytes().to_vec();
        let range = |range: &BlockRange| {
            [range.piece.get(), range.begin, range.len]
                .map(u32::to_be_bytes)
                .concat()
        };
        let (id, payload) = match self {
            Self::KeepAlive => return out.extend_from_slice(&[0; 4]),
            Self::Choke => (0, Vec::new()),
            Self::Unchoke => (1, Vec::new()),
            Self::Interested => (2, Vec::new()),
            Self::NotInterested => (3, Vec::new()),
            Self::Have(index) => (4, piece(index)),
            Self::Bitfield(bits) => (5, bits.to_vec()),
            Self::Request(block) => (6, range(block)),
            Self::Cancel(block) => (8, range(block)),
            Self::Port(port) => (9, port.to_be_bytes().to_vec()),
            Self::Suggest(index) => (13, piece(index)),
            Self::HaveAll => (14, Vec::new()),
            Self::HaveNone => (15, Vec::new()),
            Self::Reject(block) => (16, range(block)),
            Self::AllowedFast(index) => (17, piece(index)),
            Self::Extended(id, rest) => (20, [&[*id], *rest].concat()),
            Self::HashRequest(range) => (21, range.emit().to_vec()),
            Self::Hashes(range, hashes) => {
                (22, [&range.emit()[..], hashes.as_flattened()].concat())
            }
            Self::HashReject(range) => (23, range.emit().to_vec()),
            Self::Unknown(id) => (*id, Vec::new()),
        };
        let len = u32::try_from(payload.len() + 1).expect("messages are short");
        out.extend_from_slice(&len.to_be_bytes());
        out.push(id);
        out.extend_from_slice(&payload);
    }
}

/// Gives the bytes that stand before those of a block.
#[must_use]
pub fn block_header(block: BlockRange) -> [u8; BLOCK_HEADER_BYTES] {
    let mut header = [0; BLOCK_HEADER_BYTES];
    header[..4].copy_from_slice(&(block.len + 9).to_be_bytes());
    header[4] = BLOCK_ID;
    header[5..9].copy_from_slice(&block.piece.get().to_be_bytes());
    header[9..].copy_from_slice(&block.begin.to_be_bytes());
    header
}

const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";
const RESERVED_EXTENDED: u8 = 0x10;
const RESERVED_FAST: u8 = 0x04;
const RESERVED_UPGRADE: u8 = 0x10;
const BLOCK_ID: u8 = 7;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_parses_is_emitted_again(body: Vec<u8>) {
            let Some(message) = Message::parse(&body) else { return Ok(()) };
            if matches!(message, Message::Unknown(_)) {
                return Ok(());
            }
            let mut out = Vec::new();
            message.emit(&mut out);
            prop_assert_eq!(&out[4..], &body);
            prop_assert_eq!(out[..4].to_vec(), u32::try_from(body.len()).unwrap().to_be_bytes());
        }

        #[test]
        fn what_is_said_of_hashes_is_emitted_again(
            root: [u8; 32],
            index in 0..64u32,
            length_log2 in 1..6u32,
            proof_layers in 0..20u32,
        ) {
            let length = 1 << length_log2;
            let range = HashRange { root, base: 3, index: index * length, length, proof_layers };
            let hashes = vec![root; range.hash_count()];
            for message in [
                Message::HashRequest(range),
                Message::Hashes(range, &hashes),
                Message::HashReject(range),
            ] {
                let mut out = Vec::new();
                message.emit(&mut out);
                prop_assert_eq!(Message::parse(&out[4..]), Some(message));
                prop_assert_eq!(Message::parse(&out[4..out.len() - 1]), None);
            }
        }

        #[test]
        fn handshakes_round_trip(
            info_hash: [u8; 20],
            peer_id: [u8; 20],
            fast: bool,
            extended: bool,
            upgrade: bool,
        ) {
            let handshake = Handshake { info_hash, peer_id, fast, extended, upgrade };
            prop_assert_eq!(Handshake::parse(&handshake.emit()), Some(handshake));
        }
    }

    #[test]
    fn bytes_are_those_of_the_specification() {
        let mut out = Vec::new();
        Message::Have(PieceIndex::new(0x0102)).emit(&mut out);
        assert_eq!(out, [0, 0, 0, 5, 4, 0, 0, 1, 2]);
        let block = BlockRange {
            piece: PieceIndex::new(1),
            begin: 2,
            len: 16384,
        };
        assert_eq!(
            block_header(block),
            [0, 0, 0x40, 9, 7, 0, 0, 0, 1, 0, 0, 0, 2]
        );
    }
}
