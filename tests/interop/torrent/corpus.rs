//! The corpus: torrents of every kind, and of every kind of malice that is known to us.

use std::collections::BTreeMap;

use flashover::swarm::bencode::{DictWriter, ListWriter, int};
use flashover::swarm::hash::{leaves, root, sha256};

/// How the names of those start that we refuse and libtorrent takes: see `docs/ERRATA.md`.
pub(super) const EXCEPTION: &str = "loose-";

const PIECE: i64 = 16_384;

/// All torrents, by name.
pub(super) fn all() -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    plain(&mut all);
    paths(&mut all);
    numbers(&mut all);
    trees(&mut all);
    layers(&mut all);
    hybrids(&mut all);
    attributes(&mut all);
    bencoding(&mut all);
    all
}

type Corpus = BTreeMap<String, Vec<u8>>;

fn put(all: &mut Corpus, name: &str, bytes: Vec<u8>) {
    assert!(all.insert(name.to_owned(), bytes).is_none(), "{name} twice");
}

fn torrent(info: DictWriter) -> Vec<u8> {
    let mut out = DictWriter::new();
    out.dict(b"info", info);
    out.finish()
}

fn info() -> DictWriter {
    let mut info = DictWriter::new();
    info.bytes(b"name", b"name").int(b"piece length", PIECE);
    info
}

/// A v1 torrent of one file of `len` bytes.
fn single(len: i64) -> DictWriter {
    let mut info = info();
    let pieces = len.max(0).unsigned_abs().div_ceil(16_384).min(100);
    let pieces = usize::try_from(pieces).unwrap();
    info.int(b"length", len)
        .bytes(b"pieces", &vec![7; 20 * pieces]);
    info
}

fn path(elements: &[&[u8]]) -> ListWriter {
    let mut path = ListWriter::new();
    for element in elements {
        path.bytes(element);
    }
    path
}

fn file(elements: &[&[u8]], len: i64) -> DictWriter {
    let mut file = DictWriter::new();
    file.int(b"length", len).list(b"path", path(elements));
    file
}

/// A v1 torrent of these files, with as many pieces as they make.
fn multi(files: Vec<DictWriter>, pieces: usize) -> DictWriter {
    let mut info = info();
    let mut list = ListWriter::new();
    for file in files {
        list.dict(file);
    }
    info.list(b"files", list)
        .bytes(b"pieces", &vec![7; 20 * pieces]);
    info
}

/// The entry of a v2 file; it has a root if it has bytes.
fn leaf(len: i64) -> DictWriter {
    let mut dict = DictWriter::new();
    dict.int(b"length", len);
    if len > 0 {
        dict.bytes(b"pieces root", &[9; 32]);
    }
    within(b"", dict)
}

fn within(name: &[u8], dict: DictWriter) -> DictWriter {
    let mut outer = DictWriter::new();
    outer.dict(name, dict);
    outer
}

fn v2(tree: DictWriter) -> DictWriter {
    let mut info = info();
    info.int(b"meta version", 2).dict(b"file tree", tree);
    info
}

fn plain(all: &mut Corpus) {
    for len in [1, PIECE - 1, PIECE, PIECE + 1, 10 * PIECE] {
        put(all, &format!("v1-single-{len}"), torrent(single(len)));
        put(
            all,
            &format!("v2-single-{len}"),
            torrent(v2(within(b"name", leaf(len)))),
        );
    }
    let files = vec![
        file(&[b"a"], 5),
        file(&[b"d", b"b"], PIECE),
        file(&[b"z"], 0),
    ];
    put(all, "v1-multi", torrent(multi(files, 2)));
    for key in [&b"name"[..], b"piece length", b"pieces", b"length"] {
        let name = String::from_utf8_lossy(key).replace(' ', "-");
        let mut without = DictWriter::new();
        for (other, value) in [
            (&b"name"[..], b"4:name".to_vec()),
            (b"piece length", int(PIECE)),
            (b"pieces", [&b"20:"[..], &[7; 20]].concat()),
            (b"length", int(5)),
        ] {
            if other != key {
                without.raw(other, value);
            }
        }
        put(all, &format!("v1-without-{name}"), torrent(without));
        for (word, value) in [
            ("int", int(-3)),
            ("text", b"3:abc".to_vec()),
            ("list", b"le".to_vec()),
        ] {
            let mut other = single(5);
            other.raw(key, value);
            put(all, &format!("v1-{name}-{word}"), torrent(other));
        }
    }
    for pieces in [0, 19, 21, 40] {
        let mut info = single(5);
        info.bytes(b"pieces", &vec![1; pieces]);
        put(all, &format!("v1-pieces-{pieces}"), torrent(info));
    }
    put(all, "v1-no-files", torrent(multi(Vec::new(), 0)));
    put(
        all,
        "v1-empty-files",
        torrent(multi(vec![file(&[b"a"], 0)], 0)),
    );
    put(all, "no-info", b"d8:announce3:urle".to_vec());
    put(all, "info-list", b"d4:infolee".to_vec());
    put(all, "no-dict", b"l4:infodee".to_vec());
    put(all, "empty", Vec::new());
}

/// Names that lead elsewhere, or are none.
fn paths(all: &mut Corpus) {
    let long = [b'x'; 300];
    let names: [(&str, &[u8]); 14] = [
        ("empty", b""),
        ("dot", b"."),
        ("dots", b".."),
        ("three-dots", b"..."),
        ("slash", b"/"),
        ("absolute", b"/etc/passwd"),
        ("climb", b"../../etc"),
        ("inner", b"a/b"),
        ("trailing", b"a/"),
        ("nul", b"a\0b"),
        ("backslash", b"a\\b"),
        ("latin1", b"\xe9t\xe9"),
        ("control", b"a\x1b[2J"),
        ("long", &long),
    ];
    for (word, name) in names {
        let mut named = single(5);
        named.bytes(b"name", name);
        put(all, &format!("path-v1-name-{word}"), torrent(named));
        let files = vec![file(&[b"d", name], 5), file(&[name, b"b"], 5)];
        put(
            all,
            &format!("path-v1-files-{word}"),
            torrent(multi(files, 1)),
        );
        let mut directory = multi(vec![file(&[b"a"], 5), file(&[b"b"], 5)], 1);
        directory.bytes(b"name", name);
        put(
            all,
            &format!("path-v1-directory-{word}"),
            torrent(directory),
        );
        let mut tree = within(name, leaf(5));
        tree.dict(b"zz", leaf(5));
        put(all, &format!("path-v2-{word}"), torrent(v2(tree)));
    }
    put(
        all,
        "path-number",
        torrent(multi(
            vec![{
                let mut bad = file(&[b"a"], 5);
                bad.raw(b"path", b"li1ee".to_vec());
                bad
            }],
            1,
        )),
    );
    put(all, "path-none", torrent(multi(vec![file(&[], 5)], 1)));
    let same = vec![file(&[b"a"], 5), file(&[b"a"], 5), file(&[b"a", b"b"], 5)];
    put(all, "path-same", torrent(multi(same, 1)));
    for depth in [99, 100, 101] {
        let deep = vec![&b"d"[..]; depth];
        put(
            all,
            &format!("path-deep-{depth}"),
            torrent(multi(vec![file(&deep, 5)], 1)),
        );
    }
    let many = (0..600).map(|_| file(&[b"a"], 1)).collect();
    put(all, "path-same-600", torrent(multi(many, 1)));
}

fn numbers(all: &mut Corpus) {
    let lengths = [-1, 0, 1 << 44, 1 << 48, (1 << 48) - 1, i64::MAX, i64::MIN];
    for len in lengths {
        put(
            all,
            &format!("number-v1-length-{len}"),
            torrent(single(len)),
        );
        put(
            all,
            &format!("number-v2-length-{len}"),
            torrent(v2(within(b"name", leaf(len)))),
        );
    }
    let pieces = [
        -1,
        0,
        1,
        8192,
        16_384,
        16_385,
        24_576,
        32_768,
        1 << 28,
        1 << 29,
        1 << 31,
        i64::MAX,
    ];
    for length in pieces {
        let mut info = single(5);
        info.int(b"piece length", length);
        if length == 1 {
            info.bytes(b"pieces", &[7; 100]);
        }
        put(all, &format!("number-v1-piece-{length}"), torrent(info));
        let mut info = v2(within(b"name", leaf(5)));
        info.int(b"piece length", length);
        put(all, &format!("number-v2-piece-{length}"), torrent(info));
    }
    let sums = vec![file(&[b"a"], i64::MAX / 2), file(&[b"b"], i64::MAX / 2)];
    put(all, "number-v1-sum", torrent(multi(sums, 1)));
    for version in [-1, 0, 1, 3, 4] {
        let mut info = single(5);
        info.int(b"meta version", version);
        put(all, &format!("number-version-{version}"), torrent(info));
    }
}

fn trees(all: &mut Corpus) {
    let with = |key: &[u8], value: Vec<u8>| {
        let mut dict = DictWriter::new();
        dict.int(b"length", 5).bytes(b"pieces root", &[9; 32]);
        dict.raw(key, value);
        torrent(v2(within(b"name", within(b"", dict))))
    };
    put(
        all,
        "tree-root-short",
        with(b"pieces root", b"3:abc".to_vec()),
    );
    put(
        all,
        "tree-root-zero",
        with(b"pieces root", [&b"32:"[..], &[0; 32]].concat()),
    );
    put(all, "tree-root-int", with(b"pieces root", int(1)));
    put(all, "tree-pad", with(b"attr", b"1:p".to_vec()));
    put(all, "tree-executable", with(b"attr", b"1:x".to_vec()));
    put(all, "tree-length-text", with(b"length", b"1:5".to_vec()));
    put(all, "tree-empty", torrent(v2(DictWriter::new())));
    put(
        all,
        "tree-empty-file",
        torrent(v2(within(b"name", leaf(0)))),
    );
    put(
        all,
        "tree-empty-directory",
        torrent(v2(within(b"d", DictWriter::new()))),
    );
    let mut info = v2(DictWriter::new());
    info.raw(b"file tree", b"le".to_vec());
    put(all, "tree-list", torrent(info));
    let mut info = single(5);
    info.dict(b"file tree", within(b"name", leaf(5)));
    put(all, "tree-without-version", torrent(info));
    let mut info = single(5);
    info.int(b"meta version", 2);
    put(all, "tree-missing", torrent(info));
    let mut deep = leaf(5);
    for _ in 0..60 {
        deep = within(b"d", deep);
    }
    put(all, "tree-deep", torrent(v2(deep)));
    let mut deep = leaf(5);
    for _ in 0..200 {
        deep = within(b"d", deep);
    }
    put(all, "tree-too-deep", torrent(v2(deep)));
    let mut raw = DictWriter::new();
    raw.raw(b"name", int(1));
    put(all, "tree-number", torrent(v2(raw)));
}

/// A v2 file of three pieces with its layer; `change` is let at the layers.
fn layered(change: impl FnOnce(&mut DictWriter, [u8; 32], Vec<u8>)) -> Vec<u8> {
    let layer = leaves(&[7; 3 * 16_384]);
    let top = root(&layer, 0, 2);
    let mut dict = DictWriter::new();
    dict.int(b"length", 3 * PIECE).bytes(b"pieces root", &top);
    let mut layers = DictWriter::new();
    change(&mut layers, top, layer.concat());
    let mut out = DictWriter::new();
    out.dict(b"info", v2(within(b"name", within(b"", dict))));
    out.dict(b"piece layers", layers);
    out.finish()
}

fn layers(all: &mut Corpus) {
    put(
        all,
        "layer-good",
        layered(|l, root, layer| {
            l.bytes(&root, &layer);
        }),
    );
    put(all, "layer-missing", layered(|_, _, _| {}));
    put(
        all,
        "layer-wrong",
        layered(|l, root, mut layer| {
            layer[40] ^= 1;
            l.bytes(&root, &layer);
        }),
    );
    put(
        all,
        "layer-short",
        layered(|l, root, layer| {
            l.bytes(&root, &layer[..64]);
        }),
    );
    put(
        all,
        "layer-long",
        layered(|l, root, layer| {
            l.bytes(&root, &[&layer[..], &[0; 32]].concat());
        }),
    );
    put(
        all,
        "layer-odd",
        layered(|l, root, layer| {
            l.bytes(&root, &layer[..95]);
        }),
    );
    put(
        all,
        "layer-number",
        layered(|l, root, _| {
            l.int(&root, 1);
        }),
    );
    put(
        all,
        "layer-of-nothing",
        layered(|l, root, layer| {
            l.bytes(&root, &layer).bytes(&sha256(b"other"), &layer);
        }),
    );
    put(
        all,
        "layer-key-short",
        layered(|l, _, layer| {
            l.bytes(b"key", &layer);
        }),
    );
}

fn pad(len: i64) -> DictWriter {
    let mut pad = file(&[b".pad", len.to_string().as_bytes()], len);
    pad.bytes(b"attr", b"p");
    pad
}

/// Two files, 5 and 7 bytes, said by a v1 list and a v2 tree.
fn hybrid(files: Vec<DictWriter>, pieces: usize) -> Vec<u8> {
    let mut info = multi(files, pieces);
    let mut tree = within(b"a", leaf(5));
    tree.dict(b"b", leaf(7));
    info.int(b"meta version", 2).dict(b"file tree", tree);
    torrent(info)
}

fn hybrids(all: &mut Corpus) {
    let (a, b) = (|| file(&[b"a"], 5), || file(&[b"b"], 7));
    let full = PIECE - 5;
    put(
        all,
        "hybrid-good",
        hybrid(vec![a(), pad(full), b(), pad(PIECE - 7)], 2),
    );
    put(all, "hybrid-no-tail", hybrid(vec![a(), pad(full), b()], 2));
    put(all, "hybrid-no-pad", hybrid(vec![a(), b()], 1));
    put(
        all,
        "hybrid-swapped",
        hybrid(vec![b(), pad(PIECE - 7), a()], 2),
    );
    put(
        all,
        "hybrid-other-name",
        hybrid(vec![a(), pad(full), file(&[b"c"], 7)], 2),
    );
    put(
        all,
        "hybrid-other-size",
        hybrid(vec![a(), pad(full), file(&[b"b"], 8)], 2),
    );
    put(
        all,
        "hybrid-more",
        hybrid(vec![a(), pad(full), b(), file(&[b"c"], 0)], 2),
    );
    put(all, "hybrid-less", hybrid(vec![a()], 1));
    put(
        all,
        "hybrid-few-pieces",
        hybrid(vec![a(), pad(full), b()], 1),
    );
    for (word, len) in [("good", 5), ("mismatch", 6)] {
        let mut info = single(len);
        info.int(b"meta version", 2)
            .dict(b"file tree", within(b"name", leaf(5)));
        put(all, &format!("hybrid-single-{word}"), torrent(info));
    }
    let mut named = single(5);
    named
        .int(b"meta version", 2)
        .dict(b"file tree", within(b"other", leaf(5)));
    put(all, "hybrid-single-other-name", torrent(named));
}

fn attributes(all: &mut Corpus) {
    let link = |target: Vec<u8>| {
        let mut link = file(&[b"l"], 0);
        link.bytes(b"attr", b"l").raw(b"symlink path", target);
        torrent(multi(vec![file(&[b"a"], 5), link], 1))
    };
    put(all, "link-good", link(path(&[b"a"]).finish()));
    put(all, "link-up", link(path(&[b"..", b"..", b"etc"]).finish()));
    put(all, "link-absolute", link(path(&[b"/etc/passwd"]).finish()));
    put(all, "link-self", link(path(&[b"l"]).finish()));
    put(all, "link-nowhere", link(path(&[b"none"]).finish()));
    put(all, "link-empty", link(b"le".to_vec()));
    put(all, "link-number", link(b"li1ee".to_vec()));
    put(all, "link-text", link(b"1:a".to_vec()));
    let mut long = file(&[b"l"], 99);
    long.bytes(b"attr", b"l")
        .list(b"symlink path", path(&[b"a"]));
    put(
        all,
        "link-with-length",
        torrent(multi(vec![file(&[b"a"], 5), long], 1)),
    );
    let mut bare = DictWriter::new();
    bare.int(b"length", 5).bytes(b"attr", b"p");
    put(
        all,
        "pad-without-path",
        torrent(multi(vec![file(&[b"a"], 5), bare], 1)),
    );
    let bitcomet = file(&[b"_____padding_file_0"], 5);
    put(
        all,
        "pad-bitcomet",
        torrent(multi(vec![file(&[b"a"], 5), bitcomet], 1)),
    );
    let mut odd = file(&[b"a"], 5);
    odd.bytes(b"attr", b"xhq?");
    put(all, "attr-unknown", torrent(multi(vec![odd], 1)));
    let mut number = file(&[b"a"], 5);
    number.int(b"attr", 5);
    put(all, "attr-number", torrent(multi(vec![number], 1)));
}

fn bencoding(all: &mut Corpus) {
    let good = torrent(single(5));
    for cut in (1..good.len()).step_by(good.len() / 9) {
        put(all, &format!("cut-{cut:03}"), good[..cut].to_vec());
    }
    put(all, "trailing", [&good[..], b"\n"].concat());
    by_hand(all);
}

/// What no writer of ours writes.
fn by_hand(all: &mut Corpus) {
    let pieces = [&b"6:pieces20:"[..], &[7; 20]].concat();
    let raw = |parts: &[&[u8]]| [b"d4:infod", &parts.concat()[..], b"ee"].concat();
    let (length, name) = (&b"6:lengthi5e"[..], &b"4:name4:name"[..]);
    let piece = &b"12:piece lengthi16384e"[..];
    put(all, "unsorted-v1", raw(&[name, length, &pieces, piece]));
    let leaf = [
        &b"9:file treed4:named0:d6:lengthi5e11:pieces root32:"[..],
        &[9; 32],
        b"eee",
    ];
    let leaf = leaf.concat();
    let version = &b"12:meta versioni2e"[..];
    put(all, "unsorted-v2", raw(&[version, &leaf, name, piece]));
    put(all, "sorted-v2", raw(&[&leaf, version, name, piece]));
    put(
        all,
        "loose-duplicate",
        raw(&[length, length, name, piece, &pieces]),
    );
    put(
        all,
        "loose-zeros",
        raw(&[b"6:lengthi05e", name, piece, &pieces]),
    );
    put(
        all,
        "loose-length-zeros",
        raw(&[length, b"4:name04:name", piece, &pieces]),
    );
    put(
        all,
        "loose-minus-zero",
        raw(&[length, name, piece, &pieces, b"1:zi-0e"]),
    );
    put(
        all,
        "loose-huge",
        raw(&[length, name, piece, &pieces, b"1:zi18446744073709551615e"]),
    );
    put(
        all,
        "bad-plus",
        raw(&[b"6:lengthi+5e", name, piece, &pieces]),
    );
    put(
        all,
        "bad-empty-number",
        raw(&[length, name, piece, &pieces, b"1:zie"]),
    );
    put(
        all,
        "bad-key",
        raw(&[length, name, piece, &pieces, b"i1ei1e"]),
    );
    put(
        all,
        "bad-value",
        raw(&[length, name, piece, &pieces, b"1:z"]),
    );
    let deep = [&b"1:z"[..], &b"l".repeat(300), &b"e".repeat(300)].concat();
    put(all, "bad-deep", raw(&[length, name, piece, &pieces, &deep]));
    put(
        all,
        "bad-length",
        raw(&[length, name, piece, b"6:pieces99999999999999999999:"]),
    );
}
