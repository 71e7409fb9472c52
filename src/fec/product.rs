//! Matrix times symbols: the one operation that encoding, eliminating and solving are made of.

use std::ops::Range;

use super::simd::{Factors, Kernel, STRIPE, SUMS, Stripe};

/// How many sources are taken at a time: few enough that a stripe of each stays in the first cache
/// while all sums take from it.
const TILE: usize = 256;

/// Adds to each of the `sums` all `sources`, each times its factor in the row of that sum.
///
/// `sums` holds them one after the other, each `width` bytes, as long as every source is; there is
/// a row for each, with a factor for every source.
///
/// # Panics
/// If a length is another.
pub(super) fn add_product(
    kernel: Kernel,
    width: usize,
    sums: &mut [u8],
    sources: &[&[u8]],
    rows: &[&[u8]],
) {
    assert_eq!(rows.len() * width, sums.len(), "a row for each sum");
    for source in sources {
        assert_eq!(source.len(), width, "a source is as long as a sum");
    }
    let factors: Vec<Vec<Factors>> = rows
        .chunks(SUMS)
        .map(|rows| arrange(rows, sources.len()))
        .collect();
    let mut ends = Vec::new();
    for (index, sources) in sources.chunks(TILE).enumerate() {
        for start in (0..width).step_by(STRIPE) {
            let range = start..width.min(start + STRIPE);
            let mut tile = [&[0; STRIPE]; TILE];
            let tile = cut(&range, sources, &mut ends, &mut tile);
            for (group, sums) in sums.chunks_mut(SUMS * width).enumerate() {
                let factors = &factors[group][index * TILE..][..tile.len()];
                let mut part = [[0; STRIPE]; SUMS];
                kernel.add(sums.len() / width, &mut part, tile, factors);
                for (sum, part) in sums.chunks_mut(width).zip(&part) {
                    for (sum, part) in sum[range.clone()].iter_mut().zip(part) {
                        *sum ^= part;
                    }
                }
            }
        }
    }
}

/// The stripes at `range` of the sources; the last one of a source, which may be narrow, is filled
/// up in `ends`.
fn cut<'a, 'b>(
    range: &Range<usize>,
    sources: &[&'a [u8]],
    ends: &'a mut Vec<Stripe>,
    tile: &'b mut [&'a Stripe; TILE],
) -> &'b [&'a Stripe] {
    if range.len() == STRIPE {
        for (stripe, source) in tile.iter_mut().zip(sources) {
            *stripe = source[range.start..]
                .first_chunk()
                .expect("every source is as long as the range");
        }
    } else {
        ends.clear();
        ends.resize(sources.len(), [0; STRIPE]);
        for (end, source) in ends.iter_mut().zip(sources) {
            end[..range.len()].copy_from_slice(&source[range.clone()]);
        }
        for (stripe, end) in tile.iter_mut().zip(&*ends) {
            *stripe = end;
        }
    }
    &tile[..sources.len()]
}

/// The rows of a group of sums as kernels take them, source by source.
fn arrange(rows: &[&[u8]], sources: usize) -> Vec<Factors> {
    let mut factors = vec![[0; SUMS]; sources];
    for (at, row) in rows.iter().enumerate() {
        assert_eq!(row.len(), sources, "a factor for every source");
        for (factors, &factor) in factors.iter_mut().zip(*row) {
            factors[at] = factor;
        }
    }
    factors
}
