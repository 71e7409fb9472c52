//! Reading and writing bytes of wire and disk formats. All integers are big-endian but where a
//! format says otherwise; lengths are checked before anything is taken.

/// The input ended, or held a value that its format forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBytes {
    /// Fewer bytes than the format needs.
    #[error("The data end too early")]
    Short,
    /// A value outside what the format allows.
    #[error("The data hold a value that the format does not allow")]
    Value,
}

/// Takes values from the front of a byte slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes not yet taken.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes the next `len` bytes.
    ///
    /// # Errors
    /// [`BadBytes::Short`] if there are fewer.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], BadBytes> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(BadBytes::Short)?;
        self.rest = rest;
        Ok(head)
    }

    /// Takes the next `N` bytes as an array.
    ///
    /// # Errors
    /// [`BadBytes::Short`] if there are fewer.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], BadBytes> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(BadBytes::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// [`BadBytes::Short`] at the end.
    pub fn u8(&mut self) -> Result<u8, BadBytes> {
        self.array().map(|[byte]| byte)
    }

    /// Takes a big-endian `u16`.
    ///
    /// # Errors
    /// [`BadBytes::Short`] if there are fewer than 2 bytes.
    pub fn u16(&mut self) -> Result<u16, BadBytes> {
        self.array().map(u16::from_be_bytes)
    }

    /// Takes a big-endian `u32`.
    ///
    /// # Errors
    /// [`BadBytes::Short`] if there are fewer than 4 bytes.
    pub fn u32(&mut self) -> Result<u32, BadBytes> {
        self.array().map(u32::from_be_bytes)
    }

    /// Takes a big-endian `u64`.
    ///
    /// # Errors
    /// [`BadBytes::Short`] if there are fewer than 8 bytes.
    pub fn u64(&mut self) -> Result<u64, BadBytes> {
        self.array().map(u64::from_be_bytes)
    }

    /// Takes a LEB128 number in its shortest form.
    ///
    /// # Errors
    /// [`BadBytes::Short`] at the end, [`BadBytes::Value`] if it is longer than needed or over 64
    /// bits.
    pub fn varint(&mut self) -> Result<u64, BadBytes> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(BadBytes::Value);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let shortest = byte != 0 || shift == 0;
                return if shortest {
                    Ok(value)
                } else {
                    Err(BadBytes::Value)
                };
            }
        }
        Err(BadBytes::Value)
    }

    /// Takes a length-prefixed run of at most `len_max` bytes.
    ///
    /// # Errors
    /// [`BadBytes::Value`] if it claims more than `len_max`, [`BadBytes::Short`] if it is cut.
    pub fn prefixed(&mut self, len_max: usize) -> Result<&'a [u8], BadBytes> {
        let len = usize::try_from(self.varint()?).map_err(|_| BadBytes::Value)?;
        if len > len_max {
            return Err(BadBytes::Value);
        }
        self.take(len)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`BadBytes::Value`] if bytes are left.
    pub fn finish(self) -> Result<(), BadBytes> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(BadBytes::Value)
        }
    }
}

/// Appends values to a byte vector.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Starts empty.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends bytes as they are.
    pub fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.put(&[value])
    }

    /// Appends a big-endian `u16`.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    /// Appends a big-endian `u32`.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    /// Appends a big-endian `u64`.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    /// Appends a LEB128 number in its shortest form.
    pub fn varint(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            self.bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.bytes.push(value.to_le_bytes()[0]);
        self
    }

    /// Appends bytes behind their length.
    pub fn prefixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.varint(bytes.len() as u64).put(bytes)
    }

    /// How many bytes were appended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was appended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Ends the writing and gives the bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_round_trip_and_have_one_form(value: u64, tail: Vec<u8>) {
            let mut writer = Writer::new();
            writer.varint(value).put(&tail);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.rest(), &tail[..]);
        }

        #[test]
        fn whatever_reads_as_varint_writes_back_the_same(
            bytes in prop::collection::vec(any::<u8>(), 0..12),
        ) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.varint() {
                let mut writer = Writer::new();
                writer.varint(value);
                let taken = bytes.len() - reader.rest().len();
                prop_assert_eq!(writer.finish(), &bytes[..taken]);
            }
        }
    }

    #[test]
    fn lengths_are_checked_before_anything_is_taken() {
        let mut reader = Reader::new(&[5, 1, 2]);
        assert_eq!(reader.prefixed(4), Err(BadBytes::Value));
        assert_eq!(Reader::new(&[5, 1, 2]).prefixed(5), Err(BadBytes::Short));
        assert_eq!(Reader::new(&[0x80, 0]).varint(), Err(BadBytes::Value));
        assert_eq!(Reader::new(&[1]).u16(), Err(BadBytes::Short));
    }
}
