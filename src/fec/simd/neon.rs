//! The kernel of 64-bit ARM.

use std::arch::aarch64::{
    uint8x16_t, vandq_u8, vdupq_n_u8, veorq_u8, vld1q_u8, vqtbl1q_u8, vshrq_n_u8, vst1q_u8,
};
use std::arch::is_aarch64_feature_detected;

use super::{Factors, STRIPE, Stripe};
use crate::fec::gf256::NIBBLES;

pub(super) fn has_neon() -> bool {
    is_aarch64_feature_detected!("neon")
}

/// Multiplies by two lookups for each byte. The sums take a quarter of a stripe at a time: two of
/// 32 registers for each.
#[target_feature(enable = "neon")]
pub(super) fn add<const N: usize>(
    sums: &mut [Stripe; N],
    sources: &[&Stripe],
    factors: &[Factors],
) {
    let mask = vdupq_n_u8(15);
    for quarter in 0..STRIPE / 32 {
        let mut totals = [[vdupq_n_u8(0); 2]; N];
        for (source, factors) in sources.iter().zip(factors) {
            let (parts, _) = source.as_chunks();
            let halves = [load(&parts[quarter * 2]), load(&parts[quarter * 2 + 1])];
            let low = halves.map(|half| vandq_u8(half, mask));
            let high = halves.map(|half| vshrq_n_u8::<4>(half));
            for (total, &factor) in totals.iter_mut().zip(factors) {
                let (tables, _) = NIBBLES[usize::from(factor)].0.as_chunks();
                let (of_low, of_high) = (load(&tables[0]), load(&tables[1]));
                for (total, (low, high)) in total.iter_mut().zip(low.into_iter().zip(high)) {
                    let product = veorq_u8(vqtbl1q_u8(of_low, low), vqtbl1q_u8(of_high, high));
                    *total = veorq_u8(*total, product);
                }
            }
        }
        for (sum, total) in sums.iter_mut().zip(totals) {
            let (parts, _) = sum.as_chunks_mut();
            for (part, total) in parts[quarter * 2..].iter_mut().zip(total) {
                store(part, veorq_u8(load(part), total));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: The reference is to as many bytes as are read, from any address.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store(bytes: &mut [u8; 16], value: uint8x16_t) {
    // SAFETY: The reference is to as many bytes as are written, at any address.
    unsafe { vst1q_u8(bytes.as_mut_ptr(), value) };
}
