//! Identifiers: one type each, so that no two integers can be mixed up.

use std::fmt;
use std::str::FromStr;

/// The 0-based position of a piece in its bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(u32);

impl PieceIndex {
    /// Builds the index; whether it lies in a bundle is for that bundle's geometry to say.
    #[must_use]
    pub const fn new(index: u32) -> Self {
        Self(index)
    }

    /// The index as the number on the wire.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The index for use with slices.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "piece {}", self.0)
    }
}

/// The number of a publication of an image: 1, 2, 3, ...
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(pub u64);

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One start of a sender: its keys and counters belong to it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochId(pub u16);

impl fmt::Display for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {:04x}", self.0)
    }
}

/// One incarnation of a receiving process: 16 random bytes drawn when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 16]);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The name of an image: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with a dot or a dash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

impl ImageName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = BadImageName;

    fn from_str(text: &str) -> Result<Self, BadImageName> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let ok = (1..=IMAGE_NAME_BYTES_MAX).contains(&text.len())
            && text.bytes().all(fits)
            && !text.starts_with(['.', '-']);
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadImageName)
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The longest image name, in bytes.
pub const IMAGE_NAME_BYTES_MAX: usize = 64;

/// A text that is no image name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "An image name has 1 to 64 of the characters A-Z a-z 0-9 . _ - and starts with a letter or digit or _"
)]
pub struct BadImageName;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_names_never_leave_their_folder() {
        for good in ["debian", "a", "Rocky-9.4_x86", "_x"] {
            assert_eq!(good.parse::<ImageName>().unwrap().as_str(), good);
        }
        let long = "x".repeat(65);
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            ".hidden",
            "-flag",
            "a\0b",
            "é",
            long.as_str(),
        ] {
            assert_eq!(bad.parse::<ImageName>(), Err(BadImageName), "{bad:?}");
        }
    }
}
