//! The extension protocol: which extensions a peer knows, by which numbers it wants to hear them,
//! and what else it says of itself.
//!
//! ```text
//!   message 20 | 0  | d 1:m d 11:ut_metadata i3e 6:ut_pex i1e e 13:metadata_size i31235e ... e
//!   message 20 | id | what the extension with that number says
//! ```
//!
//! Whoever sends uses the numbers of the receiver. A peer may say its handshake again: what it does
//! not name stays as it was, a number 0 switches an extension off. Unknown keys are passed over,
//! and so are values out of range, as a peer is still of use without them. What a peer says of its
//! own address, or of ours, is for people to read and never believed.
//!
//! Source: BEP 10, 21, 54.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::metadata::METADATA_BYTES_MAX;
use crate::base::PieceIndex;
use crate::swarm::bencode::{self, Dict, DictWriter, Form};

/// The number of the handshake itself.
pub const HANDSHAKE_ID: u8 = 0;
/// The longest extended handshake that is read, in bytes.
pub const EXTENDED_BYTES_MAX: usize = 16 << 10;
/// The longest name of a client that is kept, in bytes.
pub const VERSION_BYTES_MAX: usize = 64;

/// An extension that this version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extension {
    /// The info dictionary, in parts; see [`super::metadata`]. BEP 9.
    Metadata,
    /// Other peers; see [`super::pex`]. BEP 11.
    Pex,
    /// A piece that the sender has no more; see [`parse_dont_have`]. BEP 54.
    DontHave,
    /// Whether the sender wants nothing any more: one byte, 1 or 0. Of libtorrent; the same as the
    /// key of BEP 21, but needs no second handshake.
    UploadOnly,
}

impl Extension {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Metadata, Self::Pex, Self::DontHave, Self::UploadOnly];

    /// The name by which peers know it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metadata => "ut_metadata",
            Self::Pex => "ut_pex",
            Self::DontHave => "lt_donthave",
            Self::UploadOnly => "upload_only",
        }
    }

    /// The number by which we want to hear it, which is never 0.
    #[must_use]
    pub const fn our_id(self) -> u8 {
        self as u8 + 1
    }

    /// Which extension a peer means by one of our numbers.
    #[must_use]
    pub fn of_our_id(id: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|extension| extension.our_id() == id)
    }
}

/// The numbers by which a peer wants to hear of extensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtensionIds {
    /// By extension: `None` if it is not named, 0 if it is switched off.
    said: [Option<u8>; Extension::ALL.len()],
}

impl ExtensionIds {
    /// Our numbers of these extensions.
    #[must_use]
    pub fn ours(extensions: &[Extension]) -> Self {
        let mut ids = Self::default();
        for &extension in extensions {
            ids.set(extension, extension.our_id());
        }
        ids
    }

    /// The number of an extension; `None` if the peer does not want to hear of it.
    #[must_use]
    pub fn get(&self, extension: Extension) -> Option<u8> {
        self.said[extension as usize].filter(|&id| id != 0)
    }

    /// Names a number; 0 switches the extension off.
    pub const fn set(&mut self, extension: Extension, id: u8) {
        self.said[extension as usize] = Some(id);
    }

    /// Takes over what a later handshake names.
    pub fn update(&mut self, later: &Self) {
        for (id, said) in self.said.iter_mut().zip(later.said) {
            *id = said.or(*id);
        }
    }
}

/// What a peer says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtendedHandshake {
    /// How to speak to it of extensions.
    pub ids: ExtensionIds,
    /// How long its info dictionary is: 1 to [`METADATA_BYTES_MAX`]. BEP 9.
    pub metadata_size: Option<u32>,
    /// Whether it wants nothing from anybody, complete or not. BEP 21.
    pub upload_only: bool,
    /// Where it listens, not 0.
    pub listen_port: Option<u16>,
    /// How many requests it keeps before it drops some, at least 1.
    pub request_queue: Option<u32>,
    /// What it is: text to show, without control characters and at most [`VERSION_BYTES_MAX`] long.
    pub version: Option<String>,
    /// The address that it sees the receiver under.
    pub your_ip: Option<IpAddr>,
}

impl ExtendedHandshake {
    /// Reads a handshake, what stands behind the number 0. Bytes behind it are ignored.
    ///
    /// # Errors
    /// If it is no dictionary, or longer than [`EXTENDED_BYTES_MAX`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BadExtension> {
        if bytes.len() > EXTENDED_BYTES_MAX {
            return Err(BadExtension::TooLong);
        }
        let (value, _) = bencode::parse_front(bytes, Form::AnyOrder)?;
        let dict = value.dict().ok_or(BadExtension::Malformed)?;
        let number = |key: &[u8]| dict.int(key).filter(|&number| number > 0);
        let size = number(b"metadata_size").and_then(|size| u32::try_from(size).ok());
        Ok(Self {
            ids: dict.dict(b"m").map(read_ids).unwrap_or_default(),
            metadata_size: size.filter(|&size| size <= METADATA_BYTES_MAX),
            upload_only: number(b"upload_only").is_some(),
            listen_port: number(b"p").and_then(|port| u16::try_from(port).ok()),
            request_queue: number(b"reqq").map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
            version: dict.bytes(b"v").and_then(shown),
            your_ip: dict.bytes(b"yourip").and_then(read_ip),
        })
    }

    /// Writes the handshake, to be sent under [`HANDSHAKE_ID`].
    #[must_use]
    pub fn emit(&self) -> Vec<u8> {
        let (mut dict, mut ids) = (DictWriter::new(), DictWriter::new());
        for (extension, id) in Extension::ALL.into_iter().zip(self.ids.said) {
            if let Some(id) = id {
                ids.int(extension.name().as_bytes(), id.into());
            }
        }
        dict.dict(b"m", ids);
        if let Some(size) = self.metadata_size {
            dict.int(b"metadata_size", size.into());
        }
        if let Some(port) = self.listen_port {
            dict.int(b"p", port.into());
        }
        if let Some(count) = self.request_queue {
            dict.int(b"reqq", count.into());
        }
        if self.upload_only {
            dict.int(b"upload_only", 1);
        }
        if let Some(version) = &self.version {
            dict.bytes(b"v", version.as_bytes());
        }
        match self.your_ip {
            Some(IpAddr::V4(ip)) => drop(dict.bytes(b"yourip", &ip.octets())),
            Some(IpAddr::V6(ip)) => drop(dict.bytes(b"yourip", &ip.octets())),
            None => {}
        }
        dict.finish()
    }
}

/// What a peer says of an extension makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadExtension {
    /// It is longer than any may be.
    #[error("It sent an extension message that is too long")]
    TooLong,
    /// It is not bencoded.
    #[error("It sent an extension message that is not bencoded")]
    Bencode(#[from] bencode::Error),
    /// It lacks something, or something in it has the wrong length or is out of range.
    #[error("It sent a malformed extension message")]
    Malformed,
}

fn read_ids(named: &Dict<'_>) -> ExtensionIds {
    let mut ids = ExtensionIds::default();
    for extension in Extension::ALL {
        let id = named.int(extension.name().as_bytes());
        if let Some(id) = id.and_then(|id| u8::try_from(id).ok()) {
            ids.set(extension, id);
        }
    }
    ids
}

/// A text of a peer, cut and without what a terminal could mistake for a command.
fn shown(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(VERSION_BYTES_MAX)]);
    let mut shown = String::new();
    for c in text.chars().map(|c| if c.is_control() { '?' } else { c }) {
        if shown.len() + c.len_utf8() > VERSION_BYTES_MAX {
            break;
        }
        shown.push(c);
    }
    (!shown.is_empty()).then_some(shown)
}

fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).into());
    let v6 = || <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into());
    v4.or_else(|_| v6()).ok()
}

/// Reads that the sender has a piece no more; what stands behind the number of `lt_donthave`.
///
/// # Errors
/// If it is not 4 bytes long.
pub fn parse_dont_have(payload: &[u8]) -> Result<PieceIndex, BadExtension> {
    let index = <[u8; 4]>::try_from(payload).map_err(|_| BadExtension::Malformed)?;
    Ok(PieceIndex::new(u32::from_be_bytes(index)))
}

/// Writes that we have a piece no more.
#[must_use]
pub const fn emit_dont_have(piece: PieceIndex) -> [u8; 4] {
    piece.get().to_be_bytes()
}

/// Reads whether the sender wants nothing any more; what stands behind the number of `upload_only`.
///
/// # Errors
/// If it is not one byte.
pub fn parse_upload_only(payload: &[u8]) -> Result<bool, BadExtension> {
    match payload {
        [flag] => Ok(*flag != 0),
        _ => Err(BadExtension::Malformed),
    }
}

/// Writes whether we want nothing any more.
#[must_use]
pub const fn emit_upload_only(is_upload_only: bool) -> [u8; 1] {
    [is_upload_only as u8]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn handshakes() -> impl Strategy<Value = ExtendedHandshake> {
        (
            any::<[Option<u8>; 4]>(),
            prop::option::of(1..=METADATA_BYTES_MAX),
            any::<bool>(),
            prop::option::of(1..=u16::MAX),
            prop::option::of(1..=u32::MAX),
            prop::option::of("[ -~]{1,64}"),
            prop::option::of(any::<IpAddr>()),
        )
            .prop_map(
                |(
                    said,
                    metadata_size,
                    upload_only,
                    listen_port,
                    request_queue,
                    version,
                    your_ip,
                )| {
                    ExtendedHandshake {
                        ids: ExtensionIds { said },
                        metadata_size,
                        upload_only,
                        listen_port,
                        request_queue,
                        version,
                        your_ip,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(handshake in handshakes()) {
            let bytes = handshake.emit();
            prop_assert!(bytes.len() <= EXTENDED_BYTES_MAX);
            prop_assert!(bencode::parse(&bytes, Form::Canonical).is_ok());
            prop_assert_eq!(ExtendedHandshake::parse(&bytes), Ok(handshake));
        }

        #[test]
        fn what_is_read_is_in_range(
            m in -300..300i64,
            number: i64,
            text in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let (mut dict, mut ids) = (DictWriter::new(), DictWriter::new());
            ids.int(b"ut_pex", m).bytes(b"ut_metadata", &text);
            dict.dict(b"m", ids).bytes(b"v", &text).bytes(b"yourip", &text);
            for key in [&b"metadata_size"[..], b"p", b"reqq", b"upload_only"] {
                dict.int(key, number);
            }
            let read = ExtendedHandshake::parse(&dict.finish()).unwrap();
            prop_assert_eq!(read.ids.get(Extension::Metadata), None);
            prop_assert_eq!(read.ids.get(Extension::Pex).is_some(), (1..256).contains(&m));
            prop_assert!(read.metadata_size.is_none_or(|n| (1..=METADATA_BYTES_MAX).contains(&n)));
            prop_assert!(read.listen_port != Some(0) && read.request_queue != Some(0));
            prop_assert_eq!(read.upload_only, number > 0);
            let version = read.version.clone().unwrap_or_default();
            prop_assert!(version.len() <= VERSION_BYTES_MAX && !version.contains(char::is_control));
            prop_assert_eq!(ExtendedHandshake::parse(&read.emit()), Ok(read));
        }

        #[test]
        fn no_bytes_do_harm(bytes: Vec<u8>) {
            let _refused = ExtendedHandshake::parse(&bytes).is_err();
        }
    }

    #[test]
    fn the_example_of_the_specification_is_read() {
        let bytes = b"d1:md11:LT_metadatai1e6:\xb5T_PEXi2ee1:pi6881e1:v13:\xc2\xb5Torrent 1.2e";
        let read = ExtendedHandshake::parse(bytes).unwrap();
        assert_eq!(read.listen_port, Some(6881));
        assert_eq!(read.version.as_deref(), Some("µTorrent 1.2"));
        assert_eq!(read.ids, ExtensionIds::default());
    }

    #[test]
    fn a_later_handshake_changes_what_it_names() {
        let read = |bytes: &[u8]| ExtendedHandshake::parse(bytes).unwrap().ids;
        let mut ids = read(b"d1:md11:ut_metadatai3e6:ut_pexi1eee");
        ids.update(&read(b"d1:md6:ut_pexi0e11:lt_donthavei7eee"));
        assert_eq!(ids.get(Extension::Metadata), Some(3));
        assert_eq!(ids.get(Extension::Pex), None);
        assert_eq!(ids.get(Extension::DontHave), Some(7));
        ids.update(&read(b"de"));
        assert_eq!(ids.get(Extension::DontHave), Some(7));
    }

    #[test]
    fn numbers_of_ours_come_back() {
        for extension in Extension::ALL {
            assert_eq!(Extension::of_our_id(extension.our_id()), Some(extension));
            let ids = ExtensionIds::ours(&[extension]);
            assert_eq!(ids.get(extension), Some(extension.our_id()));
        }
        assert_eq!(Extension::of_our_id(HANDSHAKE_ID), None);
        assert_eq!(Extension::of_our_id(200), None);
    }

    #[test]
    fn what_is_no_handshake_is_named() {
        let long = [&b"d1:v20000:"[..], &[b'x'; 20_000], b"e"].concat();
        assert_eq!(ExtendedHandshake::parse(&long), Err(BadExtension::TooLong));
        assert_eq!(
            ExtendedHandshake::parse(b"le"),
            Err(BadExtension::Malformed)
        );
        assert!(matches!(
            ExtendedHandshake::parse(b"d1:m"),
            Err(BadExtension::Bencode(_))
        ));
    }

    #[test]
    fn small_messages_have_one_length() {
        let piece = PieceIndex::new(0x0102_0304);
        assert_eq!(parse_dont_have(&emit_dont_have(piece)), Ok(piece));
        for bad in [&[][..], &[0; 3], &[0; 5]] {
            assert_eq!(parse_dont_have(bad), Err(BadExtension::Malformed));
        }
        assert_eq!(parse_upload_only(&emit_upload_only(true)), Ok(true));
        assert_eq!(parse_upload_only(&emit_upload_only(false)), Ok(false));
        assert_eq!(parse_upload_only(&[]), Err(BadExtension::Malformed));
    }
}
