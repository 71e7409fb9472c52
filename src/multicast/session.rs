//! The description of a session: what a receiver must know besides the manifest and the secret.

use std::net::{IpAddr, SocketAddr};

use crate::base::EpochId;
use crate::base::bytes::{BadBytes, Reader, Writer};
use crate::fec::Shape;
use crate::image::Geometry;

use super::keys::Secret;

/// One sender's cast of one bundle. Control channels ship it, with its [`Secret`], to receivers.
///
/// ```text
///   version 1 | tsi 4 | epoch 2 | family 1 (4, 6) | address 4 or 16 | group port 2 | report port 2
///   | bundle size 8 | piece log2 1 | symbol size 2 | secret 32
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The transport session id of LCT.
    pub tsi: u32,
    /// The start of the sender that this secret belongs to.
    pub epoch: EpochId,
    /// The group and its port.
    pub group: SocketAddr,
    /// The port at the head that takes reports; its address is the one that the receiver knows.
    pub report_port: u16,
    /// The size of the bundle and of its pieces.
    pub geometry: Geometry,
    /// Bytes of payload in one datagram (T).
    pub symbol_size: u16,
}

impl Session {
    /// The shape of the code for a piece, or `None` if the symbol size does not fit the piece size.
    #[must_use]
    pub fn shape(&self, piece: crate::base::PieceIndex) -> Option<Shape> {
        Shape::new(self.geometry.len(piece), self.symbol_size)
    }

    /// Writes the description and the secret.
    #[must_use]
    pub fn encode(&self, secret: &Secret) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(VERSION).u32(self.tsi).u16(self.epoch.0);
        match self.group.ip() {
            IpAddr::V4(ip) => writer.u8(4).put(&ip.octets()),
            IpAddr::V6(ip) => writer.u8(6).put(&ip.octets()),
        };
        writer
            .u16(self.group.port())
            .u16(self.report_port)
            .u64(self.geometry.bundle_size())
            .u8(self.geometry.piece_log2())
            .u16(self.symbol_size)
            .put(secret.bytes());
        writer.finish()
    }

    /// Reads what [`Session::encode`] wrote.
    ///
    /// # Errors
    /// If it is cut, of another version, or describes what cannot be cast.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Secret), BadSession> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(BadSession::Version(version));
        }
        let tsi = reader.u32()?;
        let epoch = EpochId(reader.u16()?);
        let ip = match reader.u8()? {
            4 => IpAddr::from(reader.array::<4>()?),
            6 => IpAddr::from(reader.array::<16>()?),
            _ => return Err(BadBytes::Value.into()),
        };
        let group = SocketAddr::new(ip, reader.u16()?);
        let report_port = reader.u16()?;
        let (size, log2) = (reader.u64()?, reader.u8()?);
        let geometry = Geometry::new(size, log2).ok_or(BadBytes::Value)?;
        let symbol_size = reader.u16()?;
        let secret = Secret::new(reader.array()?);
        reader.finish()?;
        let session = Self {
            tsi,
            epoch,
            group,
            report_port,
            geometry,
            symbol_size,
        };
        if session.all_shapes_fit() {
            Ok((session, secret))
        } else {
            Err(BadBytes::Value.into())
        }
    }

    /// Whether every piece of the bundle has a shape.
    #[must_use]
    pub fn all_shapes_fit(&self) -> bool {
        let last = self.geometry.piece(self.geometry.piece_count() - 1);
        [self.geometry.piece(0), last]
            .into_iter()
            .all(|piece| piece.is_some_and(|piece| self.shape(piece).is_some()))
    }
}

/// Why a description is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSession {
    /// Head and node are of versions that do not know each other's sessions.
    #[error(
        "The session is of format {0}, this version of flashover knows format {known}; run the same \
         version on head and nodes",
        known = VERSION
    )]
    Version(u8),
    /// It does not parse.
    #[error("The session does not parse")]
    Bytes(#[from] BadBytes),
}

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn session(size: u64, v6: bool) -> Session {
        let ip: IpAddr = if v6 { "ff15::1" } else { "239.1.2.3" }.parse().unwrap();
        Session {
            tsi: 7,
            epoch: EpochId(0xbeef),
            group: SocketAddr::new(ip, 9000),
            report_port: 9001,
            geometry: Geometry::new(size, 20).unwrap(),
            symbol_size: 1408,
        }
    }

    proptest! {
        #[test]
        fn descriptions_round_trip(size in 1u64..1 << 40, v6: bool, secret: [u8; 32]) {
            let bytes = session(size, v6).encode(&Secret::new(secret));
            let (back, key) = Session::decode(&bytes).unwrap();
            prop_assert_eq!(back, session(size, v6));
            prop_assert_eq!(key.bytes(), &secret);
            for len in 0..bytes.len() {
                prop_assert!(Session::decode(&bytes[..len]).is_err());
            }
        }

        /// A format of tomorrow is refused by a text that names both.
        #[test]
        fn row_40_other_versions_are_named(version in 2_u8.., tail: Vec<u8>) {
            let bytes = [&[version], tail.as_slice()].concat();
            let refused = Session::decode(&bytes).unwrap_err();
            prop_assert_eq!(refused, BadSession::Version(version));
            let text = refused.to_string();
            let theirs = format!("format {version},");
            let names_both = text.contains(&theirs) && text.contains("format 1;");
            prop_assert!(names_both, "{}", text);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok((session, secret)) = Session::decode(&bytes) {
                prop_assert_eq!(session.encode(&secret), bytes);
            }
        }
    }
}
