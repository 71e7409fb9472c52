//! What is answered leads to the roots; what is nonsense is refused.

use proptest::prelude::*;

use super::super::tests::{LENGTH, draft, file, made};
use super::super::{Draft, Forms};
use super::*;

/// A directory of files of these sizes, and the bytes of its pieces.
fn torrent(sizes: &[u64], piece_length: u32, forms: Forms) -> (Metainfo, Vec<Vec<u8>>) {
    let files = sizes.iter().enumerate();
    let files = files.map(|(number, &len)| file(&[&format!("{number:02}")], len));
    made(Draft {
        piece_length,
        ..draft(files.collect(), forms)
    })
}

fn answered(torrent: &Metainfo, pieces: &[Vec<u8>], range: &HashRange) -> Option<Vec<Sha256>> {
    match torrent.answer(range)? {
        Answer::Hashes(hashes) => Some(hashes),
        Answer::Leaves(piece) => torrent.leaf_hashes(range, piece, &pieces[piece.as_usize()]),
    }
}

/// All sound requests of a tree that may be answered.
fn all_ranges(root: Sha256, piece_log2: u32, height: u32) -> Vec<HashRange> {
    let mut ranges = Vec::new();
    for base in [0, piece_log2].into_iter().filter(|&base| base < height) {
        for width_log2 in 1..=height - base {
            if base == 0 && width_log2 > piece_log2 {
                continue;
            }
            let length = 1 << width_log2;
            for index in (0..1 << (height - base)).step_by(length as usize) {
                for proof_layers in 0..height - base {
                    ranges.push(HashRange {
                        root,
                        base,
                        index,
                        length,
                        proof_layers,
                    });
                }
            }
        }
    }
    ranges
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every request that has an answer gets one; it leads to a node of the tree, and with all
    /// layers to the root.
    #[test]
    fn answers_lead_to_the_root(
        len in 1..400_000u64,
        piece_log2 in 0..3u32,
        hybrid: bool,
    ) {
        let forms = if hybrid { Forms::Hybrid } else { Forms::V2 };
        let (torrent, pieces) = torrent(&[70_000, len, 5], 1 << (14 + piece_log2), forms);
        for file in torrent.info().layout().files() {
            let Some(root) = file.root else { continue };
            let height = width_log2(file.len.div_ceil(1 << 14));
            for range in all_ranges(root, piece_log2, height) {
                let first = (range.index << range.base) >> piece_log2;
                let beyond = u64::from(first) << (14 + piece_log2) >= file.len;
                let Some(hashes) = answered(&torrent, &pieces, &range) else {
                    prop_assert!(beyond && range.base < piece_log2, "{range:?}");
                    continue;
                };
                let top = range.top(&hashes).unwrap();
                if range.proof_layers == height - range.base - 1 {
                    prop_assert_eq!((top.layer, top.index, top.hash), (height, 0, root));
                }
                let mut wrong = hashes;
                wrong[0][7] ^= 1;
                prop_assert_ne!(range.top(&wrong).unwrap().hash, top.hash);
            }
        }
    }

    /// What is asked for to have all piece layers gives just these.
    #[test]
    fn layers_are_put_together_from_their_ranges(
        sizes in prop::collection::vec(1..900_000u64, 1..4),
    ) {
        let (torrent, pieces) = torrent(&sizes, 1 << 14, Forms::V2);
        let mut layers: BTreeMap<Sha256, Vec<Sha256>> = BTreeMap::new();
        let lens = torrent.info().layer_lens();
        for range in torrent.info().layer_ranges() {
            let hashes = answered(&torrent, &pieces, &range).unwrap();
            prop_assert_eq!(range.top(&hashes).unwrap().hash, range.root);
            layers.entry(range.root).or_default().extend(&hashes[..range.length as usize]);
        }
        layers.iter_mut().for_each(|(root, layer)| layer.truncate(lens[root] as usize));
        let info = torrent.info().clone();
        let again = Metainfo::with_layers(info.clone(), layers.clone()).unwrap();
        prop_assert_eq!(&again.layers, &torrent.layers);
        if let Some(layer) = layers.values_mut().next() {
            layer[0][0] ^= 1;
            prop_assert_eq!(Metainfo::with_layers(info.clone(), layers.clone()), Err(Error::Layer));
            let short = layers.into_iter().map(|(root, layer)| (root, layer[1..].to_vec()));
            prop_assert_eq!(Metainfo::with_layers(info, short.collect()), Err(Error::Layer));
        }
    }
}

#[test]
fn layers_of_many_pieces_come_in_runs() {
    let (torrent, _) = torrent(&[(600 << 14) + 1, 5], 1 << 14, Forms::V2);
    let of = |range: &HashRange| (range.index, range.length, range.proof_layers);
    let ranges = torrent.info().layer_ranges();
    assert_eq!(
        ranges.iter().map(of).collect::<Vec<_>>(),
        [(0, 512, 9), (512, 128, 9)]
    );
}

#[test]
fn blocks_of_a_piece_are_told_apart_by_its_leaves() {
    for forms in [Forms::V2, Forms::Hybrid] {
        // One piece of a file, one of the next with padding behind it.
        let (torrent, pieces) = torrent(&[100_000, 20_000, 7], 4 * LENGTH, forms);
        for (number, bytes) in pieces.iter().enumerate().take(2) {
            let piece = PieceIndex::new(u32::try_from(number).unwrap());
            let range = torrent.leaf_range(piece).unwrap();
            let hashes = answered(&torrent, &pieces, &range).unwrap();
            let leaves = torrent.proven_leaves(piece, &hashes).unwrap();
            let all = torrent.check_blocks(piece, bytes, &leaves);
            assert!(all.iter().all(|&is_right| is_right), "{number}: {all:?}");
            for at in [0, 16_384, 19_999, 20_001, 33_000] {
                let mut wrong = bytes.clone();
                wrong[at] ^= 1;
                let told = torrent.check_blocks(piece, &wrong, &leaves);
                let bad = told.iter().position(|is_right| !is_right);
                assert_eq!(bad, Some(at / BLOCK_BYTES));
                assert_eq!(told.iter().filter(|is_right| !*is_right).count(), 1);
            }
            let mut lies = hashes;
            lies[1][3] ^= 1;
            assert_eq!(torrent.proven_leaves(piece, &lies), None);
            assert_eq!(torrent.proven_leaves(piece, &lies[1..]), None);
        }
        assert_eq!(
            torrent.leaf_range(PieceIndex::new(2)),
            None,
            "it is one block"
        );
        let sent = [0, 1, 2].map(|piece| torrent.sent_len(PieceIndex::new(piece)));
        match forms {
            Forms::V2 => assert_eq!(sent, [100_000, 20_000, 7]),
            Forms::V1 | Forms::Hybrid => assert_eq!(sent[..2], [4 * LENGTH; 2]),
        }
    }
}

#[test]
fn nonsense_is_refused() {
    let (torrent, _) = torrent(&[200_000], LENGTH, Forms::V2);
    let root = torrent.info().layout().files()[0].root.unwrap();
    // Four layers: 13 leaves, 7 pieces.
    let good = HashRange {
        root,
        base: 1,
        index: 4,
        length: 4,
        proof_layers: 2,
    };
    assert!(torrent.answer(&good).is_some());
    let bare = Metainfo::from_info(torrent.info().clone());
    assert_eq!(bare.answer(&good), None, "the layer is not here");
    for bad in [
        HashRange {
            root: [1; 32],
            ..good
        },
        HashRange {
            base: 4,
            length: 2,
            index: 0,
            ..good
        },
        HashRange {
            base: u32::MAX,
            ..good
        },
        HashRange { index: 8, ..good },
        HashRange { index: 2, ..good },
        HashRange {
            index: u32::MAX - 3,
            ..good
        },
        HashRange { length: 0, ..good },
        HashRange { length: 1, ..good },
        HashRange {
            length: u32::MAX,
            ..good
        },
        HashRange {
            proof_layers: 3,
            ..good
        },
        HashRange {
            proof_layers: u32::MAX,
            ..good
        },
        HashRange {
            base: 0,
            index: 0,
            ..good
        },
        HashRange {
            base: 0,
            index: 14,
            length: 2,
            ..good
        },
    ] {
        assert_eq!(torrent.answer(&bad), None, "{bad:?}");
    }
    let v1 = self::torrent(&[200_000], LENGTH, Forms::V1).0;
    assert_eq!(
        (v1.answer(&good), v1.info().layer_ranges()),
        (None, Vec::new())
    );
    assert_eq!(v1.sent_len(PieceIndex::new(0)), LENGTH);
}
