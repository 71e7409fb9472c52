//! The kernel for every processor: no instruction but shifts and XOR, on as many bytes at once as
//! the compiler finds registers for.
//!
//! A product is the product with the low nibble of the factor, added to the one with the high
//! nibble. So sources are sorted first: each is added, as it is, to the *bucket* of either nibble
//! of its factor. Only then are the few buckets multiplied, by doubling.

use super::{Factors, STRIPE, Stripe};
use crate::fec::gf256::{NIBBLES, double_lanes};

/// A stripe, eight bytes to a lane.
type Lanes = [u64; STRIPE / 8];

const ZERO: Lanes = [0; STRIPE / 8];

/// From how many sources on the buckets pay.
const BUCKETS_MIN: usize = 4;

pub(super) fn add<const N: usize>(
    sums: &mut [Stripe; N],
    sources: &[&Stripe],
    factors: &[Factors],
) {
    for (index, sum) in sums.iter_mut().enumerate() {
        let factors = factors.iter().map(|factors| factors[index]);
        let terms = sources.iter().copied().zip(factors);
        if sources.len() < BUCKETS_MIN {
            terms.for_each(|(source, factor)| add_by_bytes(sum, source, factor));
        } else {
            add_by_buckets(sum, terms);
        }
    }
}

fn add_by_bytes(sum: &mut Stripe, source: &Stripe, factor: u8) {
    let (low, high) = NIBBLES[usize::from(factor)].0.split_at(16);
    for (sum, &byte) in sum.iter_mut().zip(source) {
        *sum ^= low[usize::from(byte & 15)] ^ high[usize::from(byte >> 4)];
    }
}

fn add_by_buckets<'a>(sum: &mut Stripe, terms: impl Iterator<Item = (&'a Stripe, u8)>) {
    let mut low = [ZERO; 16];
    let mut high = [ZERO; 16];
    for (source, factor) in terms {
        let source = lanes(source);
        add_lanes(&mut low[usize::from(factor & 15)], &source);
        add_lanes(&mut high[usize::from(factor >> 4)], &source);
    }
    // Horner's rule over the bits of the factors, the highest first.
    let mut total = ZERO;
    for (buckets, bit) in [(&high, 3), (&high, 2), (&high, 1), (&high, 0)]
        .into_iter()
        .chain([(&low, 3), (&low, 2), (&low, 1), (&low, 0)])
    {
        total = total.map(double_lanes);
        for (nibble, bucket) in buckets.iter().enumerate() {
            if nibble >> bit & 1 != 0 {
                add_lanes(&mut total, bucket);
            }
        }
    }
    for (sum, total) in sum.chunks_exact_mut(8).zip(total) {
        for (sum, total) in sum.iter_mut().zip(total.to_ne_bytes()) {
            *sum ^= total;
        }
    }
}

fn add_lanes(sum: &mut Lanes, source: &Lanes) {
    for (sum, source) in sum.iter_mut().zip(source) {
        *sum ^= source;
    }
}

fn lanes(stripe: &Stripe) -> Lanes {
    let (lanes, _) = stripe.as_chunks::<8>();
    std::array::from_fn(|at| u64::from_ne_bytes(lanes[at]))
}
