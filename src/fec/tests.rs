use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

pub(super) fn esi(value: u32) -> Esi {
    Esi::new(value).expect("tests stay in 24 bits")
}

pub(super) fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

/// The source symbol `index` of the block, its padding zeros.
pub(super) fn source(shape: Shape, block: &[u8], index: u32) -> Vec<u8> {
    let range = shape.source_range(esi(index)).unwrap();
    let mut symbol = block[range].to_vec();
    symbol.resize(shape.symbol_size().into(), 0);
    symbol
}

fn repair(code: &mut impl Code, shape: Shape, block: &[u8], id: u32) -> Vec<u8> {
    let mut symbol = vec![0xee; shape.symbol_size().into()];
    code.repair(0, shape, block, &[esi(id)], &mut symbol)
        .unwrap();
    symbol
}

/// Sends the block without the `lost` source symbols, then repair symbols from `repair_ids` until
/// it is whole; gives what arrived and how many repair symbols that took.
fn transfer<C: Code>(
    code: &mut C,
    shape: Shape,
    block: &[u8],
    lost: &BTreeSet<u32>,
    repair_ids: impl IntoIterator<Item = u32>,
) -> (Vec<u8>, u32) {
    let mut out = vec![0xaa; shape.block_size() + 5];
    let mut assembly = code.assembly(0, shape);
    for index in (0..shape.source_symbols()).filter(|index| !lost.contains(index)) {
        let symbol = source(shape, block, index);
        assert_eq!(assembly.add(esi(index), &symbol, &mut out), Ok(Added::New));
        assert_eq!(
            assembly.add(esi(index), &symbol, &mut out),
            Ok(Added::Duplicate)
        );
    }
    let mut used = 0;
    let mut ids = repair_ids.into_iter();
    while !assembly.complete(&mut out).unwrap() {
        let before = assembly.deficit();
        assert!(before > 0, "an assembly that is not whole asks for more");
        let id = ids.next().expect("enough repair symbols");
        let symbol = repair(code, shape, block, id);
        assert_eq!(assembly.add(esi(id), &symbol, &mut out), Ok(Added::New));
        assert_eq!(assembly.deficit(), before - 1);
        used += 1;
    }
    assert_eq!(assembly.deficit(), 0);
    assert_eq!(
        out[shape.block_size()..],
        [0xaa; 5],
        "nothing is written beyond the block"
    );
    out.truncate(shape.block_size());
    (out, used)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_erasures_are_repaired_byte_for_byte(
        block_size in 1usize..30_000,
        symbol_size in 1u16..600,
        loss in 0u32..100,
        first in 0u32..ESI_MAX - 60_000,
        stride in 1u32..50,
        seed: u64,
    ) {
        let block_size = block_size.min(usize::from(symbol_size) * 400);
        let shape = Shape::new(block_size, symbol_size).unwrap();
        let block = bytes(block_size, seed);
        let dice = bytes(shape.source_symbols() as usize, !seed);
        let lost: BTreeSet<u32> = (0..shape.source_symbols())
            .filter(|&index| u32::from(dice[index as usize]) * 100 < loss * 256)
            .collect();
        let start = first.max(shape.source_symbols());
        let ids = (0..).map(|n| start + n * stride);
        let (out, used) = transfer(&mut RaptorQ::new(), shape, &block, &lost, ids);
        prop_assert_eq!(out, block);
        prop_assert!(used as usize >= lost.len() && used as usize <= lost.len() + 6);
    }

    #[test]
    fn nothing_from_outside_panics(
        block_size in 1usize..3_000,
        symbol_size in 1u16..100,
        ops in prop::collection::vec((0u32..ESI_MAX, 0usize..120, 0u8..8), 1..300),
    ) {
        let shape = Shape::new(block_size, symbol_size).unwrap();
        let mut assembly = RaptorQ::new().assembly(0, shape);
        let mut out = vec![0; block_size];
        for (id, len, action) in ops {
            let id = if action < 5 { id % (2 * shape.source_symbols()) } else { id };
            let len = if action < 6 { usize::from(symbol_size) } else { len };
            let symbol = bytes(len, id.into());
            let result = assembly.add(esi(id), &symbol, &mut out);
            prop_assert_eq!(len == usize::from(symbol_size), result != Err(Error::SymbolSize {
                expected: symbol_size.into(), actual: len }));
            if assembly.deficit() == 0 {
                prop_assert!(assembly.complete(&mut out).is_ok());
            }
        }
    }
}

#[test]
fn the_smallest_blocks_survive_the_loss_of_everything() {
    for symbol_size in [1, 7, 8, 88, 1408] {
        for count in [1, 2, 3, 4, 9, 10, 11] {
            for cut in [0, 1, usize::from(symbol_size) - 1] {
                let block_size = usize::from(symbol_size) * count - cut;
                let Some(shape) = Shape::new(block_size, symbol_size) else {
                    continue;
                };
                let block = bytes(block_size, 7);
                let all: BTreeSet<u32> = (0..shape.source_symbols()).collect();
                let ids = shape.source_symbols()..;
                let (out, _) = transfer(&mut RaptorQ::new(), shape, &block, &all, ids);
                assert_eq!(out, block, "{shape:?}");
            }
        }
    }
}

#[test]
fn a_piece_of_a_mebibyte_is_repaired() {
    let shape = Shape::new(1 << 20, 1408).unwrap();
    assert_eq!(shape.source_symbols(), 745);
    let block = bytes(1 << 20, 3);
    for lost in [0, 1, 37, 745] {
        let lost: BTreeSet<u32> = (0..lost).map(|n| n * 20 % 745).collect();
        let (out, used) = transfer(&mut RaptorQ::new(), shape, &block, &lost, 745..);
        assert!(out == block);
        assert!(used as usize >= lost.len());
    }
}

#[test]
fn a_block_without_loss_needs_no_decoder() {
    let shape = Shape::new(1000, 100).unwrap();
    let block = bytes(1000, 1);
    let (out, used) = transfer(&mut RaptorQ::new(), shape, &block, &BTreeSet::new(), []);
    assert_eq!((out, used), (block, 0));
}

#[test]
fn shapes_and_ids_out_of_range_are_not_built() {
    assert_eq!(Shape::new(0, 1), None);
    assert_eq!(Shape::new(1, 0), None);
    let most = SOURCE_SYMBOLS_MAX as usize;
    assert_eq!(
        Shape::new(most * 8, 8).unwrap().source_symbols(),
        SOURCE_SYMBOLS_MAX
    );
    assert_eq!(Shape::new(most * 8 + 1, 8), None);
    assert_eq!(Shape::new(usize::MAX, u16::MAX), None);
    assert_eq!(esi(ESI_MAX).get(), ESI_MAX);
    assert_eq!(Esi::new(ESI_MAX + 1), None);
}

#[test]
fn wrong_sizes_and_ids_are_refused_and_change_nothing() {
    let shape = Shape::new(95, 10).unwrap();
    let block = bytes(95, 5);
    let mut code = RaptorQ::new();
    let mut room = [0; 20];
    let mut ask = |block: &[u8], ids: [u32; 2], len: usize| {
        code.repair(0, shape, block, &ids.map(esi), &mut room[..len])
    };
    let short = Error::BlockSize {
        expected: 95,
        actual: 94,
    };
    assert_eq!(ask(&block[1..], [10, 11], 20), Err(short));
    assert_eq!(ask(&block, [10, 9], 20), Err(Error::NotRepair(esi(9))));
    let narrow = Error::SymbolSize {
        expected: 20,
        actual: 19,
    };
    assert_eq!(ask(&block, [10, 11], 19), Err(narrow));
    assert_eq!(ask(&block, [10, 11], 20), Ok(()));

    let size = |actual| Error::SymbolSize {
        expected: 10,
        actual,
    };
    let mut assembly = code.assembly(0, shape);
    let mut out = vec![0; 95];
    for len in [0, 9, 11] {
        assert_eq!(
            assembly.add(esi(0), &vec![1; len], &mut out),
            Err(size(len))
        );
    }
    let small = Error::BlockSize {
        expected: 95,
        actual: 94,
    };
    assert_eq!(assembly.add(esi(0), &[1; 10], &mut out[1..]), Err(small));
    assert_eq!(assembly.complete(&mut out[1..]), Err(small));
    assert_eq!((assembly.deficit(), out), (10, vec![0; 95]));
}

#[test]
fn repair_symbols_take_bounded_memory() {
    let shape = Shape::new(95, 10).unwrap();
    let mut assembly = RaptorQ::new().assembly(0, shape);
    let mut out = vec![0; 95];
    let most = shape.source_symbols() + REPAIR_SURPLUS_MAX;
    for id in 0..most {
        let added = assembly.add(esi(100 + id), &[1; 10], &mut out);
        assert_eq!(added, Ok(Added::New));
    }
    let one_more = assembly.add(esi(99), &[1; 10], &mut out);
    assert_eq!(one_more, Err(Error::Surplus(most)));
    assert_eq!(assembly.add(esi(0), &[1; 10], &mut out), Ok(Added::New));
}

#[test]
fn a_damaged_symbol_gives_wrong_bytes_or_a_refusal_never_a_panic() {
    let shape = Shape::new(5000, 50).unwrap();
    let block = bytes(5000, 11);
    let bundle: Arc<[u8]> = block.clone().into();
    let mut wrong = 0;
    for round in 0..40 {
        wrong += u32::from(damaged(&mut RaptorQ::new(), shape, &block, round));
        let mut model = Counted::new(Arc::clone(&bundle), 5000, round.into());
        assert!(
            damaged(&mut model, shape, &block, round),
            "the model is spoiled too"
        );
    }
    assert!(
        wrong > 30,
        "damage goes through the codec unseen, {wrong} of 40"
    );
}

/// Whether a block that was repaired with one damaged symbol came out wrong.
fn damaged<C: Code>(code: &mut C, shape: Shape, block: &[u8], round: u32) -> bool {
    let mut assembly = code.assembly(0, shape);
    let mut out = vec![0; block.len()];
    for index in 5..shape.source_symbols() {
        let symbol = source(shape, block, index);
        assembly.add(esi(index), &symbol, &mut out).unwrap();
    }
    for id in 100.. {
        if assembly.complete(&mut out).unwrap() {
            break;
        }
        let mut symbol = repair(code, shape, block, id);
        if id == 100 {
            symbol[round as usize % 8] ^= 1 << (round % 8);
        }
        assembly.add(esi(id), &symbol, &mut out).unwrap();
    }
    out != block
}

#[test]
fn the_model_counts_as_the_code_does() {
    let bundle: Arc<[u8]> = bytes(20_500, 9).into();
    let mut code = Counted::new(Arc::clone(&bundle), 10_000, 1);
    for piece in 0..3u32 {
        let start = piece as usize * 10_000;
        let end = (start + 10_000).min(bundle.len());
        let shape = Shape::new(end - start, 100).unwrap();
        let mut assembly = code.assembly(piece, shape);
        let mut out = vec![0; 10_000];
        for id in shape.source_symbols().. {
            if assembly.complete(&mut out).unwrap() {
                break;
            }
            let mut symbol = vec![0; 100];
            let block = &bundle[start..end];
            code.repair(piece, shape, block, &[esi(id)], &mut symbol)
                .unwrap();
            assert_eq!(assembly.add(esi(id), &symbol, &mut out), Ok(Added::New));
        }
        assert_eq!(out[..end - start], bundle[start..end]);
    }
}

#[test]
fn the_model_fails_as_often_as_the_code_does() {
    let bundle: Arc<[u8]> = vec![0; 10].into();
    let shape = Shape::new(10, 1).unwrap();
    let mut failures = [0u32; 3];
    for round in 0..20_000 {
        let mut assembly = Counted::new(Arc::clone(&bundle), 10, round).assembly(0, shape);
        let mut out = vec![0; 10];
        for id in 10..20 {
            let symbol = [mark_of(id)];
            assembly.add(esi(id), &symbol, &mut out).unwrap();
        }
        for (surplus, failed) in failures.iter_mut().enumerate() {
            if assembly.complete(&mut out).unwrap() {
                break;
            }
            *failed += 1;
            let id = 20 + u32::try_from(surplus).unwrap();
            assembly.add(esi(id), &[mark_of(id)], &mut out).unwrap();
        }
    }
    assert!(
        (60..=140).contains(&failures[0]),
        "0.5 % of 20,000: {failures:?}"
    );
    assert!(
        failures[1] <= 3 && failures[2] == 0,
        "256 times less: {failures:?}"
    );
}

fn mark_of(id: u32) -> u8 {
    let bundle: Arc<[u8]> = vec![0; 10].into();
    let shape = Shape::new(10, 1).unwrap();
    let mut code = Counted::new(Arc::clone(&bundle), 10, 0);
    repair(&mut code, shape, &bundle, id)[0]
}

/// Who chooses which symbols arrive cannot keep a block from being decoded: what is singular for
/// one session's repair symbols is not for another's, whose first is drawn at random, and two more
/// symbols are enough. Source: RFC 6330 s5.3.3 leaves K symbols a chance of failure.
#[test]
fn row_37_selective_loss() {
    let shape = Shape::new(20 * 64, 64).unwrap();
    let block = bytes(shape.block_size(), 7);
    let mut code = RaptorQ::new();
    let needed = |code: &mut RaptorQ, lost: &BTreeSet<u32>, start: u32| {
        let (out, used) = transfer(code, shape, &block, lost, start..start + 64);
        assert_eq!(&out[..block.len()], block);
        used
    };
    let mut state = 11_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let mut singular = Vec::new();
    for _ in 0..6000 {
        let lost: BTreeSet<u32> = (0..4).map(|_| random() % 20).collect();
        let used = needed(&mut code, &lost, 1000);
        if used as usize > lost.len() {
            singular.push(lost);
        }
    }
    assert!(
        singular.len() > 3,
        "{} sets of losses are singular",
        singular.len()
    );
    let (mut again, mut most) = (0, 0);
    for lost in &singular {
        for start in 0..20 {
            let used = needed(&mut code, lost, 5000 + 977 * start) as usize - lost.len();
            again += usize::from(used > 0);
            most = most.max(used);
        }
    }
    let tries = singular.len() * 20;
    println!(
        "{} singular; {again} of {tries} elsewhere, {most} more at most",
        singular.len()
    );
    assert!(
        again * 10 < tries,
        "{again} of {tries} sets are singular elsewhere too"
    );
    assert!(most <= 2, "{most} symbols beyond the deficit");
}
