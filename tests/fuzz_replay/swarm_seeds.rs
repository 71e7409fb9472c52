//! Small valid inputs for the targets of the swarm.

use flashover::swarm::metainfo::{Draft, DraftFile, Forms, Metainfo, PieceHashes};

pub(super) fn all() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut seeds = vec![
        ("bencode", "mixed", b"d1:bi-7e1:ali0e3:abcdeee".to_vec()),
        (
            "bencode",
            "sorted",
            b"d1:ad1:xl1:yee1:bi9223372036854775807ee".to_vec(),
        ),
    ];
    for (name, forms) in [
        ("v1", Forms::V1),
        ("v2", Forms::V2),
        ("hybrid", Forms::Hybrid),
    ] {
        seeds.push(("metainfo", name, torrent(forms).emit()));
    }
    let hash = "c12fe1c06bba254a9dc9f519b335aa7c1367a88a";
    let long = "caf1e1c30e81cb361b9ee167c4aa64228a7fa4fa9f6105232b28ad099f3a302e";
    let base32 = "YEX6DQDLXISUVHOJ6UM3GNNKPQJWPKEK";
    let both =
        format!("magnet:?xt=urn:btih:{hash}&xt=urn:btmh:1220{long}&dn=a%20b&tr=http%3A%2F%2Ft%2Fa");
    let short = format!("magnet:?xt.1=urn:btih:{base32}&ws=http://w/&x.pe=[::1]:7&x.pe=h:1");
    seeds.push(("magnet", "both", both.into_bytes()));
    seeds.push(("magnet", "base32", short.into_bytes()));
    seeds
}

/// A directory with one of everything.
fn torrent(forms: Forms) -> Metainfo {
    let file = |path: &[&str], len: u64| DraftFile {
        path: path.iter().map(|name| name.as_bytes().to_vec()).collect(),
        len,
        ..DraftFile::default()
    };
    let mut link = file(&["link"], 0);
    link.link = Some(vec![b"d".to_vec(), b"run".to_vec()]);
    let mut run = file(&["d", "run"], 20_000);
    run.executable = true;
    let draft = Draft {
        name: b"name".to_vec(),
        files: vec![run, link, file(&["empty"], 0), file(&["small"], 5)],
        piece_length: 16_384,
        forms,
        private: true,
        trackers: vec![
            vec!["http://t/announce".to_owned()],
            vec!["udp://u:1".to_owned()],
        ],
        web_seeds: vec!["http://w/".to_owned()],
        comment: Some("comment".to_owned()),
    };
    let plan = draft.plan().expect("it is sane");
    let hashes: Vec<PieceHashes> = plan
        .layout()
        .pieces()
        .map(|piece| {
            let of = plan.piece(piece);
            let bytes = vec![7; of.len as usize];
            PieceHashes::of(&bytes, of.padding, of.width_log2, forms)
        })
        .collect();
    plan.finish(&hashes).expect("it is sane")
}
