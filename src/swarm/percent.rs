//! Percent-encoding: bytes in queries, links and paths of URLs.
//!
//! Source: RFC 3986 section 2.1, 2.3.

/// Writes bytes as a query's value: all but letters, digits and `-._~` as `%XX`.
pub(super) fn encode(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, &byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("a string takes all that is written to it");
        }
        text
    })
}

/// Reads a query's value; `None` if a `%` is not followed by two hexadecimal digits.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match first {
            b'%' => {
                let (&[high, low], tail) = rest.split_first_chunk()?;
                rest = tail;
                digit(high)? << 4 | digit(low)?
            }
            b'+' => b' ',
            other => other,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_survive(bytes: Vec<u8>) {
            let text = encode(&bytes);
            prop_assert_eq!(decode(text.as_bytes()), Some(bytes));
        }
    }

    #[test]
    fn what_is_cut_or_no_digit_is_refused() {
        assert_eq!(decode(b"a+b%2F"), Some(b"a b/".to_vec()));
        assert_eq!(decode(b"%4"), None);
        assert_eq!(decode(b"%zz"), None);
        assert_eq!(decode(b"%+1"), None);
    }
}
