//! The dense path: repair symbols as sums over the source symbols.
//!
//! Every repair symbol is the sum of all source symbols, each times its factor in the *row* of the
//! symbol. To make repair symbols is to add up; to find d missing symbols is to take what is there
//! away from d repair symbols and to solve a d × d system for the rest. Both cost d passes over the
//! block, with vector instructions, where RFC 6330's own way costs a solution for all of the block.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::plan::Plan;
use super::product::add_product;
use super::simd::Kernel;
use super::symbols::Symbols;
use super::{Error, Esi, Shape, gf256};

/// Makes the repair symbols `esis` of a whole block, one after the other in `symbols`.
pub(super) fn encode(
    kernel: Kernel,
    plan: &Plan,
    shape: Shape,
    block: &[u8],
    esis: &[Esi],
    symbols: &mut [u8],
) -> Result<(), Error> {
    let rows = plan.rows(esis)?;
    let rows: Vec<&[u8]> = rows.iter().map(|row| &**row).collect();
    let width = usize::from(shape.symbol_size());
    let mut last = vec![0; width];
    let sources = sources(block, width, &mut last);
    symbols.fill(0);
    add_product(kernel, width, symbols, &sources, &rows);
    Ok(())
}

/// Solves for the missing symbols and writes them into `block`; tells whether the symbols at hand
/// determine them. They are at least as many as are missing.
pub(super) fn solve(
    kernel: Kernel,
    plan: &Plan,
    symbols: &Symbols,
    block: &mut [u8],
) -> Result<bool, Error> {
    let width = usize::from(symbols.shape().symbol_size());
    let (esis, repairs): (Vec<Esi>, Vec<&[u8]>) = symbols.repairs().unzip();
    let rows = plan.rows(&esis)?;
    let missing: Vec<usize> = symbols.missing_indices().collect();
    let Some(Solution { chosen, inverse }) = Solution::find(kernel, &rows, &missing) else {
        return Ok(false);
    };

    // What the missing symbols add up to in each of the chosen repair symbols.
    let mut rests = Vec::with_capacity(missing.len() * width);
    for &index in &chosen {
        rests.extend_from_slice(repairs[index]);
    }
    let rows: Vec<&[u8]> = chosen.iter().map(|&index| &*rows[index]).collect();
    let (mut last, zeros) = (vec![0; width], vec![0; width]);
    let mut sources = sources(block, width, &mut last);
    for &index in &missing {
        sources[index] = &zeros;
    }
    add_product(kernel, width, &mut rests, &sources, &rows);

    let rests: Vec<&[u8]> = rests.chunks(width).collect();
    let inverse: Vec<&[u8]> = inverse.iter().map(|row| &**row).collect();
    let mut found = vec![0; missing.len() * width];
    add_product(kernel, width, &mut found, &rests, &inverse);
    for (&index, symbol) in missing.iter().zip(found.chunks(width)) {
        let range = index * width..block.len().min((index + 1) * width);
        let len = range.len();
        block[range].copy_from_slice(&symbol[..len]);
    }
    Ok(true)
}

/// The source symbols of a block; the last one is filled up in `last`, zeros before, if it is cut.
fn sources<'a>(block: &'a [u8], width: usize, last: &'a mut [u8]) -> Vec<&'a [u8]> {
    let (whole, cut) = block.split_at(block.len() / width * width);
    let mut sources: Vec<&[u8]> = whole.chunks(width).collect();
    if !cut.is_empty() {
        last[..cut.len()].copy_from_slice(cut);
        sources.push(last);
    }
    sources
}

/// How the missing symbols come of what they add up to.
struct Solution {
    /// Which of the rows are used: as many as there are missing symbols, and independent.
    chosen: Vec<usize>,
    /// For each missing symbol, its factors for the chosen rows.
    inverse: Vec<Vec<u8>>,
}

impl Solution {
    /// Inverts the columns `missing` of `rows` by Gauss and Jordan's elimination, with the first
    /// row that will do for every pivot. `None` if the rows do not determine the missing symbols.
    fn find(kernel: Kernel, rows: &[Arc<[u8]>], missing: &[usize]) -> Option<Self> {
        // To the right of the columns, what each row has become of: at first, of itself.
        let width = missing.len() + rows.len();
        let mut matrix = Vec::with_capacity(rows.len() * width);
        for (index, row) in rows.iter().enumerate() {
            matrix.extend(missing.iter().map(|&column| row[column]));
            matrix.extend((0..rows.len()).map(|column| u8::from(column == index)));
        }
        let mut chosen = Vec::with_capacity(missing.len());
        let mut is_free = vec![true; rows.len()];
        for column in 0..missing.len() {
            let element = |row: usize| matrix[row * width + column];
            let pivot = (0..rows.len()).find(|&row| is_free[row] && element(row) != 0)?;
            is_free[pivot] = false;
            chosen.push(pivot);
            let scale = gf256::inverse(element(pivot));
            let mut factors: Vec<u8> = (0..rows.len())
                .map(|row| gf256::mul(element(row), scale))
                .collect();
            // Its own row is scaled to 1, not cleared; what is added to it is one less.
            factors[pivot] = scale ^ 1;
            let source = matrix[pivot * width..][..width].to_vec();
            let factors: Vec<&[u8]> = factors.chunks(1).collect();
            add_product(kernel, width, &mut matrix, &[&source], &factors);
        }
        let of_chosen = |row: &[u8]| chosen.iter().map(|&index| row[index]).collect();
        let inverse = chosen
            .iter()
            .map(|&row| of_chosen(&matrix[row * width + missing.len()..][..rows.len()]))
            .collect();
        Some(Self { chosen, inverse })
    }
}
