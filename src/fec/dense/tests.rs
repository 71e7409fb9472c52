//! The dense path against the `raptorq` crate, byte for byte.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::fec::plan::ROWS_MAX;
use crate::fec::symbols::Symbols;
use crate::fec::tests::{bytes, esi, source};
use crate::fec::{Assembly, Code, ESI_MAX, Esi, Kernel, RaptorQ, Shape};

/// Counts of source symbols where something changes: the smallest, those between which the RFC
/// pads, a whole piece, and the most that the dense path takes.
const COUNTS: [u32; 10] = [1, 2, 3, 10, 11, 250, 745, 1000, 1281, ROWS_MAX];

/// A shape of `count` source symbols whose last one lacks `cut` bytes.
fn shape(count: u32, symbol_size: u16, cut: usize) -> Shape {
    let padded = count as usize * usize::from(symbol_size);
    Shape::new(padded - cut % usize::from(symbol_size), symbol_size).unwrap()
}

fn repairs(code: &mut RaptorQ, shape: Shape, block: &[u8], esis: &[Esi]) -> Vec<u8> {
    let mut symbols = vec![0xee; esis.len() * usize::from(shape.symbol_size())];
    code.repair(0, shape, block, esis, &mut symbols).unwrap();
    symbols
}

fn crate_alone() -> RaptorQ {
    RaptorQ::with(None)
}

/// Has the dense path itself solve for `lost`, however many they are, from the repair symbols
/// `esis`; tells whether it could, and gives the block.
fn solve(
    kernel: Kernel,
    shape: Shape,
    block: &[u8],
    lost: &BTreeSet<u32>,
    esis: &[Esi],
) -> (bool, Vec<u8>) {
    let mut symbols = Symbols::new(shape);
    let mut out = vec![0xaa; block.len()];
    for index in (0..shape.source_symbols()).filter(|index| !lost.contains(index)) {
        let symbol = source(shape, block, index);
        symbols.add(esi(index), &symbol, &mut out).unwrap();
    }
    let made = repairs(&mut crate_alone(), shape, block, esis);
    for (&esi, symbol) in esis.iter().zip(made.chunks(shape.symbol_size().into())) {
        symbols.add(esi, symbol, &mut out).unwrap();
    }
    let plan = crate::fec::plan::Plans::default().get(shape);
    let is_solved = super::solve(kernel, &plan, &symbols, &mut out).unwrap();
    (is_solved, out)
}

/// The first of these repair symbols that determine what is lost, by the crate's word.
fn enough(
    shape: Shape,
    block: &[u8],
    lost: &BTreeSet<u32>,
    mut ids: impl Iterator<Item = u32>,
) -> Vec<Esi> {
    let mut code = crate_alone();
    let mut assembly = code.assembly(0, shape);
    let mut out = vec![0; block.len()];
    for index in (0..shape.source_symbols()).filter(|index| !lost.contains(index)) {
        let symbol = source(shape, block, index);
        assembly.add(esi(index), &symbol, &mut out).unwrap();
    }
    let mut esis = Vec::new();
    while !assembly.complete(&mut out).unwrap() {
        let more = assembly.deficit() as usize;
        let fresh: Vec<Esi> = ids.by_ref().take(more).map(esi).collect();
        let made = repairs(&mut code, shape, block, &fresh);
        for (&esi, symbol) in fresh.iter().zip(made.chunks(shape.symbol_size().into())) {
            assembly.add(esi, symbol, &mut out).unwrap();
        }
        esis.extend(fresh);
    }
    esis
}

fn check_solve(shape: Shape, lost: &BTreeSet<u32>, first: u32, stride: u32) {
    let block = bytes(shape.block_size(), u64::from(first));
    let start = first.max(shape.source_symbols());
    let ids = (0..).map(|n| start + n * stride);
    let esis = enough(shape, &block, lost, ids);
    for kernel in Kernel::all() {
        let (is_solved, out) = solve(kernel, shape, &block, lost, &esis);
        assert!(
            is_solved && out == block,
            "{kernel:?}, {shape:?}, lost {lost:?}"
        );
        if esis.len() == lost.len() && !lost.is_empty() {
            let (is_solved, _) = solve(kernel, shape, &block, lost, &esis[1..]);
            assert!(!is_solved, "one too few never will do");
        }
    }
}

fn check_encode(shape: Shape, esis: &[Esi]) {
    let block = bytes(shape.block_size(), 17);
    let expected = repairs(&mut crate_alone(), shape, &block, esis);
    let plan = crate::fec::plan::Plans::default().get(shape);
    for kernel in Kernel::all() {
        let mut symbols = vec![0xee; expected.len()];
        super::encode(kernel, &plan, shape, &block, esis, &mut symbols).unwrap();
        assert!(symbols == expected, "{kernel:?}, {shape:?}, {esis:?}");
    }
}

#[test]
fn repair_symbols_are_those_of_the_crate_for_every_kind_of_count() {
    for (count, symbol_size) in COUNTS
        .into_iter()
        .zip([1, 7, 128, 129, 40, 300, 64, 16, 9, 8])
    {
        let ids = [count, count + 1, count + 77, 1 << 20, ESI_MAX - 1, ESI_MAX];
        check_encode(shape(count, symbol_size, 5), &ids.map(esi));
    }
}

#[test]
fn losses_are_repaired_for_every_kind_of_count() {
    for (count, symbol_size) in COUNTS
        .into_iter()
        .zip([9, 8, 1, 16, 64, 130, 40, 129, 128, 7])
    {
        let all_that = |lost: u32| (0..count).rev().step_by((count / lost).max(1) as usize);
        for lost in [1, 2, 9, 40] {
            let lost = all_that(lost).take(lost as usize).collect();
            check_solve(shape(count, symbol_size, 3), &lost, 1 << 19, 1);
        }
    }
}

#[test]
fn a_piece_of_a_mebibyte_is_repaired_by_the_dense_path_and_by_the_crate() {
    let shape = Shape::new(1 << 20, 1408).unwrap();
    let block = bytes(1 << 20, 5);
    for kernel in Kernel::all() {
        let mut code = RaptorQ::with(Some(kernel));
        for lost in [8, 200] {
            let mut assembly = code.assembly(0, shape);
            let mut out = vec![0; 1 << 20];
            for index in lost..745 {
                let symbol = source(shape, &block, index);
                assembly.add(esi(index), &symbol, &mut out).unwrap();
            }
            let mut next = 745;
            while !assembly.complete(&mut out).unwrap() {
                let count = assembly.deficit();
                let esis: Vec<Esi> = (next..next + count).map(esi).collect();
                let symbols = repairs(&mut code, shape, &block, &esis);
                for (&esi, symbol) in esis.iter().zip(symbols.chunks(1408)) {
                    assembly.add(esi, symbol, &mut out).unwrap();
                }
                next += count;
            }
            assert!(out == block, "{kernel:?}, {lost} lost");
        }
    }
}

/// A chance of 1 in 200 is found by trying: seven lost symbols of ten and seven repair symbols that
/// do not determine them. One more has to be asked for, and then the dependent ones left out.
#[test]
fn symbols_that_do_not_determine_the_block_ask_for_one_more() {
    let shape = shape(10, 20, 1);
    let block = bytes(shape.block_size(), 23);
    let lost: BTreeSet<u32> = (2..9).collect();
    let mut unlucky = 0;
    for first in (10..10_000).step_by(7) {
        let ids: Vec<Esi> = (first..first + 7).map(esi).collect();
        let (is_solved, _) = solve(Kernel::best(), shape, &block, &lost, &ids);
        if is_solved {
            continue;
        }
        unlucky += 1;
        let more = enough(shape, &block, &lost, first..);
        assert!(more.len() > 7, "the crate says so, too");
        for kernel in Kernel::all() {
            for code in [RaptorQ::with(Some(kernel)), crate_alone()] {
                assert_asks_for_more(code, shape, &block, &lost, &more);
            }
        }
    }
    assert!((1..40).contains(&unlucky), "0.5 % of 1427: {unlucky}");
}

/// The block is whole with the last of these repair symbols and not before.
fn assert_asks_for_more(
    mut code: RaptorQ,
    shape: Shape,
    block: &[u8],
    lost: &BTreeSet<u32>,
    esis: &[Esi],
) {
    let mut assembly = code.assembly(0, shape);
    let mut out = vec![0; block.len()];
    for index in (0..shape.source_symbols()).filter(|index| !lost.contains(index)) {
        let symbol = source(shape, block, index);
        assembly.add(esi(index), &symbol, &mut out).unwrap();
    }
    let symbols = repairs(&mut code, shape, block, esis);
    for (at, symbol) in symbols.chunks(shape.symbol_size().into()).enumerate() {
        assembly.add(esis[at], symbol, &mut out).unwrap();
        let is_last = at + 1 == esis.len();
        assert_eq!(assembly.complete(&mut out), Ok(is_last));
        let (had, needed) = (at + 1, lost.len());
        let expected = if is_last {
            0
        } else {
            needed.saturating_sub(had).max(1)
        };
        assert_eq!(assembly.deficit() as usize, expected);
    }
    assert!(out == block);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_repair_symbols_are_those_of_the_crate(
        count in 1..=ROWS_MAX,
        symbol_size in 1u16..300,
        cut in 0usize..300,
        ids in prop::collection::vec(ROWS_MAX..=ESI_MAX, 0..20),
    ) {
        let esis: Vec<Esi> = ids.into_iter().map(esi).collect();
        check_encode(shape(count, symbol_size, cut), &esis);
    }

    #[test]
    fn any_erasures_are_repaired(
        count in 1..=ROWS_MAX,
        symbol_size in 1u16..200,
        cut in 0usize..200,
        lost in prop::collection::vec(any::<prop::sample::Index>(), 1..70),
        first in ROWS_MAX..ESI_MAX / 2,
        stride in 1u32..1000,
    ) {
        let lost = lost.iter().map(|index| {
            u32::try_from(index.index(count as usize)).unwrap()
        }).collect();
        check_solve(shape(count, symbol_size, cut), &lost, first, stride);
    }
}
