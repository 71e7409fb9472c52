//! Which of the two ways to the same bytes is cheaper.
//!
//! Estimates in picoseconds of one core, fitted to what `cargo bench --bench codec` and a sweep
//! over K (10 to 2048), T (64 to 8192) and counts (1 to 128) took; only their ratio counts.

use super::plan::ROWS_MAX;
use super::{Kernel, Shape};

/// What a kernel takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speed {
    /// To multiply a byte of a source and add it to a sum.
    pub(super) byte_ps: u64,
    /// To eliminate, for each of the d³ steps.
    pub(super) step_ps: u64,
}

/// What a product costs beside its bytes, in sources.
const PRODUCT_SOURCES: u64 = 32;

/// Whether the dense path makes `count` repair symbols faster than the crate.
pub(super) fn encodes_faster(kernel: Kernel, shape: Shape, count: usize) -> bool {
    let (count, sources, width) = measures(count, shape);
    let dense = count * width * (sources + PRODUCT_SOURCES) * kernel.speed().byte_ps;
    let whole = sources * (200_000 + width * 600);
    pays(shape, dense, whole)
}

/// Whether the dense path solves for `count` missing symbols faster than the crate.
pub(super) fn solves_faster(kernel: Kernel, shape: Shape, count: usize) -> bool {
    let (count, sources, width) = measures(count, shape);
    let Speed { byte_ps, step_ps } = kernel.speed();
    let products = count * width * (sources + count + 2 * PRODUCT_SOURCES) * byte_ps;
    let whole = sources * (1_800_000 + width * 590);
    pays(shape, products + count.pow(3) * step_ps, whole)
}

/// By a margin, since processors differ.
fn pays(shape: Shape, dense: u64, whole: u64) -> bool {
    shape.source_symbols() <= ROWS_MAX && dense <= whole / 5 * 4
}

/// The count, K and T. All are below 2¹⁷, so that no estimate overflows.
fn measures(count: usize, shape: Shape) -> (u64, u64, u64) {
    let (sources, width) = (shape.source_symbols(), shape.symbol_size());
    (count.min(1 << 16) as u64, sources.into(), width.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most symbols for which the dense path is taken.
    fn most(is_faster: impl Fn(usize) -> bool) -> usize {
        (0..).take_while(|&count| is_faster(count)).count() - 1
    }

    #[test]
    fn one_percent_of_a_piece_is_solved_and_eight_symbols_made_by_vectors() {
        let shape = Shape::new(1 << 20, 1408).unwrap();
        for kernel in Kernel::all() {
            let solved = most(|count| solves_faster(kernel, shape, count));
            let encoded = most(|count| encodes_faster(kernel, shape, count));
            let (solved_range, encoded_range) = match format!("{kernel:?}").as_str() {
                "Gfni" => (80..=128, 40..=80),
                "Avx2" => (30..=70, 16..=32),
                _ => (8..=30, 4..=16),
            };
            assert!(solved_range.contains(&solved), "{kernel:?}: {solved}");
            assert!(encoded_range.contains(&encoded), "{kernel:?}: {encoded}");
        }
    }

    #[test]
    fn many_symbols_of_few_wide_symbols_and_of_huge_blocks_are_left_to_the_crate() {
        let kernel = Kernel::best();
        let huge = Shape::new(ROWS_MAX as usize + 1, 1).unwrap();
        assert!(!solves_faster(kernel, huge, 1) && !encodes_faster(kernel, huge, 1));
        let most_of = |block_size, symbol_size| {
            let shape = Shape::new(block_size, symbol_size).unwrap();
            most(|count| solves_faster(kernel, shape, count))
        };
        assert!(most_of(100 * 1408, 1408) < most_of(745 * 1408, 1408));
        assert!(most_of(745 * 8192, 8192) < most_of(745 * 1408, 1408));
        let largest = Shape::new(56_403 * 65_535, u16::MAX).unwrap();
        assert!(
            !solves_faster(kernel, largest, usize::MAX),
            "nothing overflows"
        );
    }
}
