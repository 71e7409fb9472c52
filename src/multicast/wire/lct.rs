//! The header of everything that the sender sends: LCT (RFC 5651) as ALC (RFC 5775) uses it, with
//! FEC Encoding ID 6 (RFC 6330).
//!
//! ```text
//!    0                   1                   2                   3
//!    0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//!   | V=1   |C=0|PSI|1| 1 |0|Res|A|B|  HDR_LEN = 7  |   Codepoint   |
//!   |   CCI: symbols of this piece still to come in this round      |
//!   |   TSI: session                                                |
//!   |   TOI: piece index + 1, or 0 for control                      |
//!   | HET=1 EXT_AUTH|    HEL = 3    |           epoch               |
//!   |                    counter, 8 bytes                           |
//!   |                                                               |
//!   |   SBN = 0     |                     ESI                       |   FEC payload id
//!   |   symbol (T bytes) or control body, encrypted, then tag 16    |
//! ```
//!
//! The header up to the FEC payload id is authenticated with the body, not encrypted.

use crate::base::EpochId;
use crate::base::bytes::{BadBytes, Reader};
use crate::fec::Esi;

/// The length of the header with the FEC payload id, in bytes.
pub const HEADER_SIZE: usize = 32;

/// The header as values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether the sender ends the session (A) with this datagram.
    pub closes_session: bool,
    /// What the body is.
    pub codepoint: Codepoint,
    /// How many datagrams of this piece are still to come in this round.
    pub remaining: u32,
    /// The session.
    pub tsi: u32,
    /// The piece index + 1; 0 for control.
    pub toi: u32,
    /// The sender's start.
    pub epoch: EpochId,
    /// The datagram's number in its epoch.
    pub counter: u64,
    /// The symbol's id; 0 for control.
    pub esi: Esi,
}

/// What the body of a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codepoint {
    /// A symbol of RFC 6330: the FEC Encoding ID, as is the custom.
    RaptorQ,
    /// A control body.
    Control,
}

impl Header {
    /// Reads the header at the front of a datagram, and says nothing about its authenticity.
    ///
    /// # Errors
    /// If the datagram is cut or is not exactly of this profile of LCT.
    pub fn parse(datagram: &[u8]) -> Result<Self, BadBytes> {
        let mut reader = Reader::new(datagram.get(..HEADER_SIZE).ok_or(BadBytes::Short)?);
        let flags = reader.u16()?;
        if flags & !FLAG_CLOSE_SESSION != FLAGS || reader.u8()? != HEADER_WORDS {
            return Err(BadBytes::Value);
        }
        let codepoint = match reader.u8()? {
            CODEPOINT_RAPTORQ => Codepoint::RaptorQ,
            CODEPOINT_CONTROL => Codepoint::Control,
            _ => return Err(BadBytes::Value),
        };
        let (remaining, tsi, toi) = (reader.u32()?, reader.u32()?, reader.u32()?);
        if reader.u8()? != EXT_AUTH || reader.u8()? != EXT_AUTH_WORDS {
            return Err(BadBytes::Value);
        }
        let (epoch, counter) = (EpochId(reader.u16()?), reader.u64()?);
        let esi = Esi::new(reader.u32()?).ok_or(BadBytes::Value)?;
        let control = codepoint == Codepoint::Control;
        if control != (toi == 0) || (control && (esi.get() != 0 || remaining != 0)) {
            return Err(BadBytes::Value);
        }
        Ok(Self {
            closes_session: flags & FLAG_CLOSE_SESSION != 0,
            codepoint,
            remaining,
            tsi,
            toi,
            epoch,
            counter,
            esi,
        })
    }

    /// Gives the header's bytes.
    #[must_use]
    pub fn emit(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let close = if self.closes_session {
            FLAG_CLOSE_SESSION
        } else {
            0
        };
        let codepoint = match self.codepoint {
            Codepoint::RaptorQ => CODEPOINT_RAPTORQ,
            Codepoint::Control => CODEPOINT_CONTROL,
        };
        bytes[..2].copy_from_slice(&(FLAGS | close).to_be_bytes());
        bytes[2] = HEADER_WORDS;
        bytes[3] = codepoint;
        bytes[4..8].copy_from_slice(&self.remaining.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.tsi.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.toi.to_be_bytes());
        bytes[16] = EXT_AUTH;
        bytes[17] = EXT_AUTH_WORDS;
        bytes[18..20].copy_from_slice(&self.epoch.0.to_be_bytes());
        bytes[20..28].copy_from_slice(&self.counter.to_be_bytes());
        bytes[28..32].copy_from_slice(&self.esi.get().to_be_bytes());
        bytes
    }
}

/// Version 1, C = 0, PSI = 0, S = 1 (TSI of 32 bits), O = 1 (TOI of 32 bits), H = 0, A = 0, B = 0.
const FLAGS: u16 = 1 << 12 | 1 << 7 | 1 << 5;
/// The A flag.
const FLAG_CLOSE_SESSION: u16 = 1 << 1;
/// The LCT header without the FEC payload id, in words of 4 bytes.
const HEADER_WORDS: u8 = 7;
/// The type of the authentication extension. Source: RFC 5651 s5.2.
const EXT_AUTH: u8 = 1;
/// Its length, in words of 4 bytes.
const EXT_AUTH_WORDS: u8 = 3;
/// RaptorQ. Source: RFC 6330 s6.
const CODEPOINT_RAPTORQ: u8 = 6;
/// Control: the whole body is one symbol that no code protects. Source: RFC 5445 s3.
const CODEPOINT_CONTROL: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            closes_session: false,
            codepoint: Codepoint::RaptorQ,
            remaining: 3,
            tsi: 0x0102_0304,
            toi: 9,
            epoch: EpochId(0xabcd),
            counter: 0x1122_3344_5566_7788,
            esi: Esi::new(0x00ca_fe00).unwrap(),
        }
    }

    #[test]
    fn the_layout_is_that_of_rfc_5651() {
        let expected = [
            0x10, 0xa0, 7, 6, 0, 0, 0, 3, 1, 2, 3, 4, 0, 0, 0, 9, 1, 3, 0xab, 0xcd, 0x11, 0x22,
            0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0, 0xca, 0xfe, 0,
        ];
        assert_eq!(header().emit(), expected);
        let closing = Header {
            closes_session: true,
            ..header()
        };
        assert_eq!(closing.emit()[..2], [0x10, 0xa2]);
    }

    #[test]
    fn other_profiles_are_refused() {
        let good = header().emit();
        for (at, value) in [
            (0, 0x20),
            (0, 0x14),
            (1, 0xb0),
            (1, 0xa1),
            (2, 8),
            (3, 0),
            (3, 128),
            (16, 2),
            (17, 4),
            (28, 1),
        ] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(
                Header::parse(&bad),
                Err(BadBytes::Value),
                "byte {at} = {value}"
            );
        }
        assert_eq!(Header::parse(&good[..31]), Err(BadBytes::Short));
    }

    proptest! {
        #[test]
        fn what_parses_emits_the_same(mut bytes: [u8; HEADER_SIZE], likely: bool) {
            if likely {
                bytes[..4].copy_from_slice(&header().emit()[..4]);
                bytes[16..18].copy_from_slice(&[1, 3]);
                bytes[28] = 0;
            }
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert_eq!(header.emit(), bytes);
            } else {
                prop_assert!(!likely || bytes[12..16] == [0; 4]);
            }
        }
    }
}
