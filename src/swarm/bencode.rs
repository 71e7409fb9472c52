//! Bencoding: what torrents, tracker replies and extension messages are written in.
//!
//! A [`Value`] borrows from the bytes it was read from and keeps its *span*, the very bytes that
//! say it: the hash of a torrent is the hash of a span. What is written is canonical: keys sorted
//! and unique, numbers in their shortest form. What is read has to be canonical too, but for
//! [`Form::AnyOrder`], because torrents and trackers exist that do not sort their keys.
//!
//! ```
//! use flashover::swarm::bencode::{DictWriter, Form, parse};
//! let mut reply = DictWriter::new();
//! reply.int(b"interval", 1800).bytes(b"peers", b"\x7f\0\0\x01\x1a\xe1");
//! let bytes = reply.finish();
//! let value = parse(&bytes, Form::Canonical).unwrap();
//! let dict = value.dict().unwrap();
//! assert_eq!(dict.int(b"interval"), Some(1800));
//! assert_eq!(dict.get(b"peers").unwrap().span(), b"6:\x7f\0\0\x01\x1a\xe1");
//! ```
//!
//! Source: BEP 3 "bencoding".

use std::collections::BTreeMap;

/// How deep lists and dictionaries may lie in each other. libtorrent's bound.
pub const DEPTH_MAX: usize = 100;
/// How many values one text may hold, keys not counted. A value takes at most 100 bytes of memory,
/// so whoever reads something hostile takes at most 200 MB; a torrent of 100,000 files has half.
pub const VALUES_MAX: usize = 2_000_000;

/// Which dictionaries are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Only what a canonical writer writes: keys ascend by their bytes.
    Canonical,
    /// Keys in any order; each still at most once.
    AnyOrder,
}

/// A value and the bytes that say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    span: &'a [u8],
    item: Item<'a>,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A number.
    Int(i64),
    /// A byte string.
    Bytes(&'a [u8]),
    /// Values in order.
    List(Vec<Value<'a>>),
    /// Values by key.
    Dict(Dict<'a>),
}

/// Values by key, in ascending order of the keys' bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dict<'a> {
    entries: Vec<(&'a [u8], Value<'a>)>,
}

/// Why bytes are not bencoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at byte {offset}")]
pub struct Error {
    /// What is wrong.
    pub kind: ErrorKind,
    /// Where, in bytes from the start.
    pub offset: usize,
}

/// What is wrong with bytes that are not bencoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input ends within a value.
    #[error("The data end within a value")]
    Short,
    /// A byte that starts no value, or ends none.
    #[error("An unexpected byte")]
    Unexpected,
    /// A number that is not in its shortest form or exceeds 64 bits.
    #[error("A malformed number")]
    Number,
    /// A key that is no byte string.
    #[error("A key that is no string")]
    Key,
    /// A key that should have come earlier.
    #[error("A key out of order")]
    Order,
    /// A key that was there before.
    #[error("A key that comes twice")]
    Duplicate,
    /// More than [`DEPTH_MAX`] values within each other.
    #[error("Too deep nesting")]
    Depth,
    /// More than [`VALUES_MAX`] values.
    #[error("Too many values")]
    Values,
    /// Bytes behind the value.
    #[error("Trailing bytes")]
    Trailing,
}

/// Reads one value that takes up all of `bytes`.
///
/// # Errors
/// If it is not bencoded, is not of the form, or exceeds a bound.
pub fn parse(bytes: &[u8], form: Form) -> Result<Value<'_>, Error> {
    let (value, rest) = parse_front(bytes, form)?;
    if rest.is_empty() {
        return Ok(value);
    }
    Err(Error {
        kind: ErrorKind::Trailing,
        offset: bytes.len() - rest.len(),
    })
}

/// Reads the value that `bytes` start with; gives the bytes behind it too, as `ut_metadata` needs.
///
/// # Errors
/// If it is not bencoded, is not of the form, or exceeds a bound.
pub fn parse_front(bytes: &[u8], form: Form) -> Result<(Value<'_>, &[u8]), Error> {
    let mut parser = Parser {
        bytes,
        at: 0,
        form,
        values_left: VALUES_MAX,
    };
    let value = parser.value(DEPTH_MAX)?;
    Ok((value, &bytes[parser.at..]))
}

impl<'a> Value<'a> {
    /// The bytes that say this value.
    #[must_use]
    pub const fn span(&self) -> &'a [u8] {
        self.span
    }

    /// What it is.
    #[must_use]
    pub const fn item(&self) -> &Item<'a> {
        &self.item
    }

    /// The number, if it is one.
    #[must_use]
    pub const fn int(&self) -> Option<i64> {
        match self.item {
            Item::Int(int) => Some(int),
            Item::Bytes(_) | Item::List(_) | Item::Dict(_) => None,
        }
    }

    /// The byte string, if it is one.
    #[must_use]
    pub const fn bytes(&self) -> Option<&'a [u8]> {
        match self.item {
            Item::Bytes(bytes) => Some(bytes),
            Item::Int(_) | Item::List(_) | Item::Dict(_) => None,
        }
    }

    /// The byte string as text, if it is one and UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// The values of the list, if it is one.
    #[must_use]
    pub fn list(&self) -> Option<&[Self]> {
        match &self.item {
            Item::List(values) => Some(values),
            Item::Int(_) | Item::Bytes(_) | Item::Dict(_) => None,
        }
    }

    /// The dictionary, if it is one.
    #[must_use]
    pub const fn dict(&self) -> Option<&Dict<'a>> {
        match &self.item {
            Item::Dict(dict) => Some(dict),
            Item::Int(_) | Item::Bytes(_) | Item::List(_) => None,
        }
    }
}

impl<'a> Dict<'a> {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Value<'a>> {
        let found = self.entries.binary_search_by_key(&key, |(key, _)| key);
        found.ok().map(|index| &self.entries[index].1)
    }

    /// The number of a key, if there is one.
    #[must_use]
    pub fn int(&self, key: &[u8]) -> Option<i64> {
        self.get(key)?.int()
    }

    /// The byte string of a key, if there is one.
    #[must_use]
    pub fn bytes(&self, key: &[u8]) -> Option<&'a [u8]> {
        self.get(key)?.bytes()
    }

    /// The text of a key, if there is one.
    #[must_use]
    pub fn text(&self, key: &[u8]) -> Option<&'a str> {
        self.get(key)?.text()
    }

    /// The list of a key, if there is one.
    #[must_use]
    pub fn list(&self, key: &[u8]) -> Option<&[Value<'a>]> {
        self.get(key)?.list()
    }

    /// The dictionary of a key, if there is one.
    #[must_use]
    pub fn dict(&self, key: &[u8]) -> Option<&Self> {
        self.get(key)?.dict()
    }

    /// Keys and values, by ascending keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &Value<'a>)> {
        self.entries.iter().map(|(key, value)| (*key, value))
    }

    /// How many keys there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Writes a dictionary: keys may be put in any order and come out sorted; a key that is put again
/// takes the new value.
#[derive(Clone, Debug, Default)]
pub struct DictWriter {
    /// Written values by key.
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl DictWriter {
    /// Starts empty.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
        }
    }

    /// Puts a number.
    pub fn int(&mut self, key: &[u8], value: i64) -> &mut Self {
        self.raw(key, int(value))
    }

    /// Puts a byte string.
    pub fn bytes(&mut self, key: &[u8], value: &[u8]) -> &mut Self {
        self.raw(key, bytes(value))
    }

    /// Puts a list.
    pub fn list(&mut self, key: &[u8], value: ListWriter) -> &mut Self {
        self.raw(key, value.finish())
    }

    /// Puts a dictionary.
    pub fn dict(&mut self, key: &[u8], value: Self) -> &mut Self {
        self.raw(key, value.finish())
    }

    /// Puts a value that is written already, such as the span of one that was read.
    pub fn raw(&mut self, key: &[u8], value: Vec<u8>) -> &mut Self {
        self.entries.insert(key.to_vec(), value);
        self
    }

    /// Whether nothing was put.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Ends the dictionary and gives its bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let mut out = vec![b'd'];
        for (key, value) in self.entries {
            put_bytes(&mut out, &key);
            out.extend_from_slice(&value);
        }
        out.push(b'e');
        out
    }
}

/// Writes a list.
#[derive(Clone, Debug, Default)]
pub struct ListWriter {
    values: Vec<u8>,
}

impl ListWriter {
    /// Starts empty.
    #[must_use]
    pub const fn new() -> Self {
        Self { values: Vec::new() }
    }

    /// Appends a number.
    pub fn int(&mut self, value: i64) -> &mut Self {
        self.raw(&int(value))
    }

    /// Appends a byte string.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        put_bytes(&mut self.values, value);
        self
    }

    /// Appends a list.
    pub fn list(&mut self, value: Self) -> &mut Self {
        self.raw(&value.finish())
    }

    /// Appends a dictionary.
    pub fn dict(&mut self, value: DictWriter) -> &mut Self {
        self.raw(&value.finish())
    }

    /// Appends a value that is written already.
    pub fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.values.extend_from_slice(value);
        self
    }

    /// Ends the list and gives its bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.values.len() + 2);
        out.push(b'l');
        out.extend_from_slice(&self.values);
        out.push(b'e');
        out
    }
}

/// Writes a number.
#[must_use]
pub fn int(value: i64) -> Vec<u8> {
    format!("i{value}e").into_bytes()
}

/// Writes a byte string.
#[must_use]
pub fn bytes(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 8);
    put_bytes(&mut out, value);
    out
}

fn put_bytes(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(value.len().to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(value);
}

/// A position in what is read.
struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    form: Form,
    values_left: usize,
}

impl<'a> Parser<'a> {
    /// Reads the next value; `depth_left` values may lie in it, within each other.
    fn value(&mut self, depth_left: usize) -> Result<Value<'a>, Error> {
        let start = self.at;
        self.values_left = self
            .values_left
            .checked_sub(1)
            .ok_or_else(|| self.error(ErrorKind::Values))?;
        let first = self.peek()?;
        let item = match first {
            b'i' => {
                self.at += 1;
                Item::Int(self.number(b'e')?)
            }
            b'0'..=b'9' => Item::Bytes(self.string()?),
            b'l' | b'd' => {
                let inside = depth_left
                    .checked_sub(1)
                    .ok_or_else(|| self.error(ErrorKind::Depth))?;
                self.at += 1;
                if first == b'l' {
                    self.list(inside)?
                } else {
                    self.dict(inside)?
                }
            }
            _ => return Err(self.error(ErrorKind::Unexpected)),
        };
        Ok(Value {
            span: &self.bytes[start..self.at],
            item,
        })
    }

    fn list(&mut self, depth_left: usize) -> Result<Item<'a>, Error> {
        let mut values = Vec::new();
        while self.peek()? != b'e' {
            values.push(self.value(depth_left)?);
        }
        self.at += 1;
        Ok(Item::List(values))
    }

    fn dict(&mut self, depth_left: usize) -> Result<Item<'a>, Error> {
        let mut entries: Vec<(&[u8], Value<'_>)> = Vec::new();
        let mut ascends = true;
        while self.peek()? != b'e' {
            if !self.peek()?.is_ascii_digit() {
                return Err(self.error(ErrorKind::Key));
            }
            let key_at = self.at;
            let key = self.string()?;
            if let Some((last, _)) = entries.last()
                && *last >= key
            {
                let kind = if *last == key {
                    ErrorKind::Duplicate
                } else {
                    ErrorKind::Order
                };
                if kind == ErrorKind::Duplicate || self.form == Form::Canonical {
                    return Err(Error {
                        kind,
                        offset: key_at,
                    });
                }
                ascends = false;
            }
            entries.push((key, self.value(depth_left)?));
        }
        if !ascends {
            entries.sort_by_key(|(key, _)| *key);
            if entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
                return Err(self.error(ErrorKind::Duplicate));
            }
        }
        self.at += 1;
        Ok(Item::Dict(Dict { entries }))
    }

    /// Reads a string: its length, a colon, its bytes.
    fn string(&mut self) -> Result<&'a [u8], Error> {
        let len = self.number(b':')?;
        let rest = &self.bytes[self.at..];
        let bytes = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        let bytes = bytes.ok_or_else(|| self.error(ErrorKind::Short))?;
        self.at += bytes.len();
        Ok(bytes)
    }

    /// Reads a number in its shortest form, and the byte that ends it.
    fn number(&mut self, end: u8) -> Result<i64, Error> {
        let bad = |parser: &Self| parser.error(ErrorKind::Number);
        let is_negative = self.peek()? == b'-';
        if is_negative {
            self.at += 1;
        }
        let (first, start) = (self.peek()?, self.at);
        let mut value = 0i64;
        while self.peek()?.is_ascii_digit() {
            let digit = i64::from(self.peek()? - b'0');
            let digit = if is_negative { -digit } else { digit };
            let next = value.checked_mul(10).and_then(|ten| ten.checked_add(digit));
            value = next.ok_or_else(|| bad(self))?;
            self.at += 1;
        }
        let digits = self.at - start;
        let is_shortest = digits > 0 && (first != b'0' || (digits == 1 && !is_negative));
        if !is_shortest || self.peek()? != end {
            return Err(bad(self));
        }
        self.at += 1;
        Ok(value)
    }

    fn peek(&self) -> Result<u8, Error> {
        let byte = self.bytes.get(self.at).copied();
        byte.ok_or_else(|| self.error(ErrorKind::Short))
    }

    const fn error(&self, kind: ErrorKind) -> Error {
        Error {
            kind,
            offset: self.at,
        }
    }
}

#[cfg(test)]
mod tests;
