//! Drafts become torrents that say the same; pieces are known by them and by nothing else.
//! Hostile and foreign torrents are judged in `tests/interop/torrent`, next to libtorrent.

use proptest::prelude::*;

use super::*;

pub(in crate::swarm) const LENGTH: u32 = 32 << 10;

pub(in crate::swarm) fn file(path: &[&str], len: u64) -> DraftFile {
    DraftFile {
        path: path.iter().map(|name| name.as_bytes().to_vec()).collect(),
        len,
        ..DraftFile::default()
    }
}

pub(in crate::swarm) fn draft(files: Vec<DraftFile>, forms: Forms) -> Draft {
    Draft {
        name: b"name".to_vec(),
        files,
        piece_length: LENGTH,
        forms,
        private: true,
        trackers: Vec::new(),
        web_seeds: Vec::new(),
        comment: None,
    }
}

/// The byte at a place of a file.
#[expect(
    clippy::cast_possible_truncation,
    reason = "sample bytes are cut to size"
)]
fn sample(file: usize, at: u64) -> u8 {
    (at * 31 + at / 251 + file as u64 * 7) as u8
}

/// Makes the torrent, and the bytes of each of its pieces.
pub(in crate::swarm) fn made(draft: Draft) -> (Metainfo, Vec<Vec<u8>>) {
    let plan = draft.plan().unwrap();
    let mut pieces = Vec::new();
    let mut hashes = Vec::new();
    for piece in plan.layout().pieces() {
        let of = plan.piece(piece);
        let end = of.offset + u64::from(of.len);
        let mut bytes: Vec<u8> = (of.offset..end).map(|at| sample(of.file, at)).collect();
        hashes.push(PieceHashes::of(
            &bytes,
            of.padding,
            of.width_log2,
            plan.forms(),
        ));
        bytes.resize(bytes.len() + of.padding as usize, 0);
        pieces.push(bytes);
    }
    (plan.finish(&hashes).unwrap(), pieces)
}

fn paths(torrent: &Metainfo) -> Vec<(String, u64, u64)> {
    let text = |file: &File| {
        let path = file.path.join(&b'/');
        let path = String::from_utf8(path).unwrap();
        (path, file.offset, file.len)
    };
    torrent.info().layout().files().iter().map(text).collect()
}

#[test]
fn one_file_is_a_torrent_without_padding() {
    for (forms, keys) in [
        (Forms::V1, (true, false)),
        (Forms::V2, (false, true)),
        (Forms::Hybrid, (true, true)),
    ] {
        let (torrent, pieces) = made(draft(vec![file(&[], 100_000)], forms));
        let info = torrent.info();
        assert_eq!(paths(&torrent), [("name".to_owned(), 0, 100_000)]);
        assert!(!info.is_multi() && info.is_private());
        let names = info.names();
        assert_eq!((names.v1().is_some(), names.v2().is_some()), keys);
        assert_eq!(pieces.len(), 4);
        assert_eq!(pieces[3].len(), 100_000 - 3 * LENGTH as usize);
    }
}

#[test]
fn files_of_a_directory_start_at_pieces_in_order_of_their_paths() {
    let mut run = file(&["b", "run"], 40_000);
    run.executable = true;
    let mut link = file(&["a"], 0);
    link.link = Some(vec![b"b".to_vec(), b"run".to_vec()]);
    let files = vec![
        file(&["b.txt"], 5),
        run,
        file(&["b", "empty"], 0),
        link,
        file(&["b", "c", "exact"], LENGTH.into()),
    ];
    for forms in [Forms::V1, Forms::V2, Forms::Hybrid] {
        let (torrent, _) = made(draft(files.clone(), forms));
        let said = paths(&torrent);
        let said: Vec<_> = said
            .iter()
            .map(|(p, at, len)| (&p[..], *at, *len))
            .collect();
        let name = |file: &str| match forms {
            Forms::V2 => file.to_owned(),
            Forms::V1 | Forms::Hybrid => format!("name/{file}"),
        };
        assert_eq!(
            said,
            [
                ("name/a", 0, 0),
                ("name/b/c/exact", 0, 32_768),
                ("name/b/empty", 32_768, 0),
                ("name/b/run", 32_768, 40_000),
                (&name(".pad/25536")[..], 72_768, 25_536),
                ("name/b.txt", 98_304, 5),
                (&name(".pad/32763")[..], 98_309, 32_763),
            ]
        );
        let layout = torrent.info().layout();
        assert_eq!(layout.content_len(), 72_773);
        assert!(layout.files()[3].executable);
        let target = FileKind::Symlink(vec![b"b".to_vec(), b"run".to_vec()]);
        assert_eq!(layout.files()[0].kind, target);
        assert!(torrent.info().is_multi());
    }
}

#[test]
fn a_draft_that_could_not_be_read_again_is_refused() {
    let refused = |files: Vec<DraftFile>| draft(files, Forms::Hybrid).plan().map(drop);
    for name in ["", ".", "..", "a/b", "a\0b", &"x".repeat(241)] {
        assert_eq!(
            refused(vec![file(&[name], 1)]),
            Err(Error::Path),
            "{name:?}"
        );
    }
    assert_eq!(refused(vec![file(&["a"], 0)]), Err(Error::Length));
    assert_eq!(refused(Vec::new()), Err(Error::Length));
    let both = vec![file(&[], 1), file(&["a"], 1)];
    assert_eq!(refused(both), Err(Error::Path));
    let many = u64::from(PIECES_MAX) * u64::from(LENGTH);
    assert_eq!(refused(vec![file(&[], many)]), Ok(()));
    assert_eq!(refused(vec![file(&[], many + 1)]), Err(Error::PieceCount));
    let mut odd = draft(vec![file(&[], 1)], Forms::V1);
    odd.piece_length = 48 << 10;
    assert_eq!(odd.plan().map(drop), Err(Error::PieceLength));
    let same = draft(vec![file(&["a"], 1), file(&["a", "b"], 1)], Forms::V1);
    let plan = same.plan().unwrap();
    assert_eq!(plan.finish(&[]).map(drop), Err(Error::Pieces));
}

#[test]
fn sources_are_told_and_nothing_else_is() {
    let mut with = draft(vec![file(&[], 9)], Forms::Hybrid);
    with.private = false;
    with.trackers = vec![
        vec!["http://a/announce".to_owned(), "udp://b:1".to_owned()],
        vec!["http://c/announce".to_owned()],
    ];
    with.web_seeds = vec!["http://d/name".to_owned()];
    with.comment = Some("Grüße".to_owned());
    let (torrent, _) = made(with.clone());
    assert_eq!(torrent.trackers(), with.trackers);
    assert_eq!(torrent.web_seeds(), with.web_seeds);
    assert_eq!(torrent.comment(), with.comment);
    let (bare, _) = made(draft(vec![file(&[], 9)], Forms::Hybrid));
    assert_eq!(bare.trackers(), Vec::<Vec<String>>::new());
    let bytes = bare.emit();
    let value = bencode::parse(&bytes, Form::Canonical).unwrap();
    let keys: Vec<_> = value.dict().unwrap().iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [&b"info"[..], b"piece layers"]);
}

#[test]
fn unknown_keys_and_order_are_kept_and_tiers_without_trackers_fall_back() {
    let (torrent, _) = made(draft(vec![file(&[], 9)], Forms::V1));
    let info = torrent.info().bytes();
    let bytes = [
        &b"d8:announce4:a://13:announce-listl1:xlee1:zi7e4:info"[..],
        &info[..],
        b"e",
    ];
    let mixed = bytes.concat();
    let read = Metainfo::parse(&mixed).unwrap();
    assert_eq!(read.info(), torrent.info());
    assert_eq!(read.trackers(), [["a://"]]);
    let sorted = read.emit();
    assert!(sorted.ends_with(b"1:zi7ee"));
    assert_eq!(Metainfo::parse(&sorted).unwrap(), read);
}

#[test]
fn without_layers_only_small_files_are_known() {
    let files = vec![file(&["large"], 100_000), file(&["small"], 20_000)];
    let (torrent, pieces) = made(draft(files, Forms::V2));
    let bare = Metainfo::from_info(torrent.info().clone());
    let says: Vec<Verdict> = (0..)
        .zip(&pieces)
        .map(|(at, bytes)| bare.check(PieceIndex::new(at), bytes))
        .collect();
    let unknown = Verdict::Unknown;
    assert_eq!(says, [unknown, unknown, unknown, unknown, Verdict::Good]);
    assert_eq!(torrent.check(PieceIndex::new(0), &pieces[0]), Verdict::Good);
}

#[test]
fn a_piece_layer_that_lies_is_refused() {
    let (torrent, _) = made(draft(vec![file(&[], 100_000)], Forms::Hybrid));
    let bytes = torrent.emit();
    assert_eq!(Metainfo::parse(&bytes).as_ref(), Ok(&torrent));
    for at in bytes.len() - 60..bytes.len() - 3 {
        let mut other = bytes.clone();
        other[at] ^= 1;
        assert_eq!(Metainfo::parse(&other), Err(Error::Layer));
    }
}

fn forms() -> impl Strategy<Value = Forms> {
    prop::sample::select(vec![Forms::V1, Forms::V2, Forms::Hybrid])
}

fn files() -> impl Strategy<Value = Vec<DraftFile>> {
    let name = prop::sample::select(vec!["a", "b", "a.b", "c d", "é", "b\\x2d"]);
    let path = prop::collection::vec(name, 1..4);
    let len = prop_oneof![
        0u64..200_000,
        prop::sample::select(vec![0, 1, 16_384, 32_768, 65_536])
    ];
    let files = prop::collection::btree_map(path, len, 1..8);
    files.prop_map(|files| {
        let mut kept: Vec<DraftFile> = Vec::new();
        for (path, len) in files {
            let path: Path = path.iter().map(|name| name.as_bytes().to_vec()).collect();
            let clash = kept.iter().any(|other| path.starts_with(&other.path));
            if !clash {
                kept.push(DraftFile {
                    path,
                    len: len + u64::from(kept.is_empty()),
                    ..DraftFile::default()
                });
            }
        }
        kept
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn torrents_are_read_as_they_were_made(files in files(), forms in forms(), seed: u64) {
        let (torrent, pieces) = made(draft(files.clone(), forms));
        let bytes = torrent.emit();
        prop_assert_eq!(&Metainfo::parse(&bytes).unwrap(), &torrent);
        prop_assert_eq!(Metainfo::parse(&bytes).unwrap().emit(), bytes);
        let layout = torrent.info().layout();
        let real: Vec<_> = layout.files().iter().filter(|file| !file.is_pad()).collect();
        prop_assert_eq!(real.len(), files.len());
        for (file, wanted) in real.iter().zip(&files) {
            let above = usize::from(torrent.info().is_multi());
            prop_assert_eq!(&file.path[above..], &wanted.path[..]);
            prop_assert_eq!(file.len, wanted.len);
        }
        let (v1, v2) = (known(forms.v1()), known(forms.v2()));
        for (piece, bytes) in layout.pieces().zip(&pieces) {
            prop_assert_eq!(torrent.check_v1(piece, bytes), v1.0);
            prop_assert_eq!(torrent.check_v2(piece, bytes), v2.0);
            let mut bad = bytes.clone();
            let at = usize::try_from(seed % bad.len() as u64).unwrap();
            bad[at] ^= 4;
            prop_assert_eq!(torrent.check_v1(piece, &bad), v1.1);
            prop_assert_eq!(torrent.check_v2(piece, &bad), v2.1);
            prop_assert_eq!(torrent.check(piece, &bytes[1..]), Verdict::Bad);
        }
    }

    #[test]
    fn parts_of_a_range_cover_it_once(files in files(), at in 0u64..300_000, len in 0u64..300_000) {
        let (torrent, _) = made(draft(files, Forms::Hybrid));
        let layout = torrent.info().layout();
        let range = at.min(layout.total_len())..(at + len).min(layout.total_len());
        let mut next = range.start;
        for part in layout.parts(range.clone()) {
            let file = &layout.files()[part.file];
            prop_assert_eq!(file.offset + part.range.start, next);
            prop_assert!(part.range.start < part.range.end && part.range.end <= file.len);
            next = file.offset + part.range.end;
        }
        prop_assert_eq!(next, range.end);
    }

    #[test]
    fn damage_does_no_harm(
        files in files(),
        forms in forms(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (torrent, _) = made(draft(files, forms));
        let mut bytes = torrent.emit();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(read) = Metainfo::parse(&bytes) {
            prop_assert_eq!(&Metainfo::parse(&read.emit()).unwrap(), &read);
        }
    }
}

/// What is said of good and of bad bytes.
fn known(is_known: bool) -> (Verdict, Verdict) {
    if is_known {
        (Verdict::Good, Verdict::Bad)
    } else {
        (Verdict::Unknown, Verdict::Unknown)
    }
}

#[test]
fn sources_are_exchanged_and_names_stay() {
    let texts = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>();
    let (bare, _) = made(draft(vec![file(&[], 70_000)], Forms::Hybrid));
    let tiers = [texts(&["http://h:1/announce", "udp://h:1/announce"])];
    let full = bare.with_sources(&tiers, &texts(&["http://h:1/name"]));
    let read = Metainfo::parse(&full.emit()).unwrap();
    assert_eq!(read, full);
    assert_eq!(read.trackers(), tiers);
    assert_eq!(read.web_seeds(), ["http://h:1/name"]);
    assert_eq!(read.info().names(), bare.info().names());
    let one = full.with_sources(&[texts(&["http://i/announce"])], &[]);
    assert_eq!(one.trackers(), [["http://i/announce"]]);
    assert_eq!(one.web_seeds(), texts(&[]));
    assert_eq!(full.with_sources(&[], &[]), bare);
}

#[test]
fn a_hybrid_has_a_v1_part_that_knows_its_pieces_by_sha1_alone() {
    let (hybrid, pieces) = made(draft(vec![file(&[], 70_000)], Forms::Hybrid));
    let old = Metainfo::parse(&hybrid.v1_alone().unwrap().emit()).unwrap();
    assert_eq!(old.info().names().v2(), None);
    assert_ne!(old.info().names().v1(), hybrid.info().names().v1());
    assert_eq!(old.info().name(), hybrid.info().name());
    assert!(old.info().is_private());
    for (piece, bytes) in old.info().layout().pieces().zip(&pieces) {
        assert_eq!(old.check(piece, bytes), Verdict::Good);
        assert_eq!(old.check_v2(piece, bytes), Verdict::Unknown);
    }
    let (v1, _) = made(draft(vec![file(&[], 70_000)], Forms::V1));
    assert_eq!(old, v1, "as if it had never been a hybrid");
    assert_eq!(v1.v1_alone(), None);
    let (v2, _) = made(draft(vec![file(&[], 70_000)], Forms::V2));
    assert_eq!(v2.v1_alone(), None);
}
