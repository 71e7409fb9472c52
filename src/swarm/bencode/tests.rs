//! Vectors, properties, and a second opinion: `bendy`, the strictest decoder of the field.

use bendy::decoding::{Decoder, Object};
use proptest::prelude::*;

use super::*;

/// A value that owns what it holds.
#[derive(Clone, Debug)]
enum Tree {
    Int(i64),
    Bytes(Vec<u8>),
    List(Vec<Self>),
    Dict(BTreeMap<Vec<u8>, Self>),
}

impl Tree {
    fn write(&self) -> Vec<u8> {
        match self {
            Self::Int(value) => int(*value),
            Self::Bytes(value) => bytes(value),
            Self::List(values) => {
                let mut list = ListWriter::new();
                for value in values {
                    list.raw(&value.write());
                }
                list.finish()
            }
            Self::Dict(entries) => {
                let mut dict = DictWriter::new();
                for (key, value) in entries.iter().rev() {
                    dict.raw(key, value.write());
                }
                dict.finish()
            }
        }
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Tree::Int),
        (-20i64..20).prop_map(Tree::Int),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(Tree::Bytes),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        let key = prop::collection::vec(any::<u8>(), 0..4);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Tree::List),
            prop::collection::btree_map(key, inner, 0..6).prop_map(Tree::Dict),
        ]
    })
}

/// Writes what was read without its spans.
fn rewrite(value: &Value<'_>) -> Vec<u8> {
    match value.item() {
        Item::Int(value) => int(*value),
        Item::Bytes(value) => bytes(value),
        Item::List(values) => {
            let mut list = ListWriter::new();
            values.iter().for_each(|value| {
                list.raw(&rewrite(value));
            });
            list.finish()
        }
        Item::Dict(dict) => {
            let mut out = DictWriter::new();
            dict.iter().for_each(|(key, value)| {
                out.raw(key, rewrite(value));
            });
            out.finish()
        }
    }
}

/// What bendy says: whether `bytes` start with one sound value whose numbers fit 64 bits, and
/// that value written again.
fn by_bendy(bytes: &[u8]) -> Option<Vec<u8>> {
    fn again(object: Object<'_, '_>) -> Option<Vec<u8>> {
        Some(match object {
            Object::Integer(text) => int(text.parse().ok()?),
            Object::Bytes(value) => super::bytes(value),
            Object::List(mut list) => {
                let mut out = ListWriter::new();
                while let Some(object) = list.next_object().ok()? {
                    out.raw(&again(object)?);
                }
                out.finish()
            }
            Object::Dict(mut dict) => {
                let mut out = DictWriter::new();
                while let Some((key, object)) = dict.next_pair().ok()? {
                    out.raw(key, again(object)?);
                }
                out.finish()
            }
        })
    }
    let mut decoder = Decoder::new(bytes).with_max_depth(DEPTH_MAX);
    again(decoder.next_object().ok()??)
}

fn ours(bytes: &[u8]) -> Option<Vec<u8>> {
    let (value, _) = parse_front(bytes, Form::Canonical).ok()?;
    Some(rewrite(&value))
}

fn kind(bytes: &[u8], form: Form) -> Result<(), ErrorKind> {
    parse(bytes, form).map(drop).map_err(|error| error.kind)
}

#[test]
fn what_is_malformed_is_named() {
    use ErrorKind::{Duplicate, Key, Number, Order, Short, Trailing, Unexpected};
    for (bytes, expected) in [
        (&b""[..], Short),
        (b"i", Short),
        (b"i4", Short),
        (b"ie", Number),
        (b"i-e", Number),
        (b"i-0e", Number),
        (b"i00e", Number),
        (b"i03e", Number),
        (b"i-03e", Number),
        (b"i+1e", Number),
        (b"i 1e", Number),
        (b"i1.0e", Number),
        (b"i9223372036854775808e", Number),
        (b"i-9223372036854775809e", Number),
        (b"i99999999999999999999999e", Number),
        (b"04:abcd", Number),
        (b"4abcd", Number),
        (b"-1:", Unexpected),
        (b"4:abc", Short),
        (b"9223372036854775807:", Short),
        (b"18446744073709551617:a", Number),
        (b"l", Short),
        (b"li1e", Short),
        (b"x", Unexpected),
        (b"e", Unexpected),
        (b"d", Short),
        (b"d1:a", Short),
        (b"d1:ae", Unexpected),
        (b"di1ei2ee", Key),
        (b"dle0:e", Key),
        (b"d1:bi1e1:ai2ee", Order),
        (b"d1:ai1e1:ai2ee", Duplicate),
        (b"i1ei2e", Trailing),
        (b"0:\n", Trailing),
    ] {
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(kind(bytes, Form::Canonical), Err(expected), "{text}");
        let any_order = kind(bytes, Form::AnyOrder);
        let allowed = expected == Order;
        assert_eq!(any_order.is_ok(), allowed, "{text}");
    }
    assert_eq!(
        kind(b"d1:bi1e1:ai2e1:bi3ee", Form::AnyOrder),
        Err(Duplicate)
    );
}

#[test]
fn values_are_found_by_key_in_either_form() {
    let sorted = b"d1:ai-7e2:aal1:xe1:bd1:ci9223372036854775807eee";
    let mixed = b"d1:bd1:ci9223372036854775807ee1:ai-7e2:aal1:xee";
    for (bytes, form) in [
        (&sorted[..], Form::Canonical),
        (&mixed[..], Form::AnyOrder),
        (&sorted[..], Form::AnyOrder),
    ] {
        let value = parse(bytes, form).unwrap();
        assert_eq!(value.span(), bytes);
        let dict = value.dict().unwrap();
        assert_eq!(dict.int(b"a"), Some(-7));
        assert_eq!(dict.list(b"aa").unwrap()[0].text(), Some("x"));
        assert_eq!(dict.dict(b"b").unwrap().int(b"c"), Some(i64::MAX));
        assert_eq!(
            dict.get(b"b").unwrap().span(),
            b"d1:ci9223372036854775807ee"
        );
        assert_eq!(dict.get(b"c"), None);
        assert_eq!(dict.bytes(b"a"), None);
        let keys: Vec<_> = dict.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [&b"a"[..], b"aa", b"b"]);
    }
    let (value, rest) = parse_front(b"de rest", Form::Canonical).unwrap();
    assert!(value.dict().unwrap().is_empty());
    assert_eq!(rest, b" rest");
}

#[test]
fn depth_and_number_of_values_are_bounded() {
    let nested = |depth: usize| [b"l".repeat(depth), b"e".repeat(depth)].concat();
    assert_eq!(kind(&nested(DEPTH_MAX), Form::Canonical), Ok(()));
    assert_eq!(
        kind(&nested(DEPTH_MAX + 1), Form::Canonical),
        Err(ErrorKind::Depth)
    );
    assert_eq!(
        kind(&b"d0:".repeat(1_000_000), Form::Canonical),
        Err(ErrorKind::Depth)
    );
    let wide = |count: usize| [b"l".to_vec(), b"le".repeat(count), b"e".to_vec()].concat();
    assert_eq!(kind(&wide(VALUES_MAX - 1), Form::Canonical), Ok(()));
    assert_eq!(
        kind(&wide(VALUES_MAX), Form::Canonical),
        Err(ErrorKind::Values)
    );
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_written_the_same(tree in tree()) {
        let bytes = tree.write();
        let value = parse(&bytes, Form::Canonical).unwrap();
        prop_assert_eq!(value.span(), &bytes[..]);
        prop_assert_eq!(rewrite(&value), &bytes[..]);
        prop_assert_eq!(parse(&bytes, Form::AnyOrder).unwrap(), value);
        prop_assert_eq!(by_bendy(&bytes), Some(bytes.clone()));
    }

    #[test]
    fn bendy_says_the_same_of_damaged_values(
        tree in tree(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), damage()), 1..4),
    ) {
        let mut bytes = tree.write();
        for (at, damage) in damage {
            let at = at.index(bytes.len());
            match damage {
                Damage::Set(byte) => bytes[at] = byte,
                Damage::Insert(byte) => bytes.insert(at, byte),
                Damage::Remove if bytes.len() > 1 => drop(bytes.remove(at)),
                Damage::Cut if at > 0 => bytes.truncate(at),
                Damage::Remove | Damage::Cut => {}
            }
        }
        prop_assert_eq!(ours(&bytes), by_bendy(&bytes));
    }

    #[test]
    fn bendy_says_the_same_of_texts_of_its_alphabet(text in "[0-3:idle-]{0,14}") {
        prop_assert_eq!(ours(text.as_bytes()), by_bendy(text.as_bytes()));
    }

    #[test]
    fn no_bytes_do_harm(bytes: Vec<u8>) {
        for form in [Form::Canonical, Form::AnyOrder] {
            if let Ok((value, rest)) = parse_front(&bytes, form) {
                prop_assert_eq!(value.span().len() + rest.len(), bytes.len());
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Set(u8),
    Insert(u8),
    Remove,
    Cut,
}

fn damage() -> impl Strategy<Value = Damage> {
    let byte = prop_oneof![
        any::<u8>(),
        prop::sample::select(b"0123456789:idle-".to_vec())
    ];
    prop_oneof![
        byte.clone().prop_map(Damage::Set),
        byte.prop_map(Damage::Insert),
        Just(Damage::Remove),
        Just(Damage::Cut),
    ]
}
