//! The kernels of x86-64.

use std::arch::x86_64::{
    __m256i, __m512i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_loadu_si256, _mm256_set1_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8,
    _mm256_srli_epi64, _mm256_storeu_si256, _mm256_xor_si256, _mm512_gf2p8affine_epi64_epi8,
    _mm512_loadu_si512, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_storeu_si512,
    _mm512_xor_si512,
};

use super::{Factors, STRIPE, Stripe};
use crate::fec::gf256::{MATRICES, NIBBLES};

pub(super) fn has_gfni() -> bool {
    is_x86_feature_detected!("gfni")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
}

pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
}

/// Multiplies by matrices of bits: GFNI's own multiplication has another polynomial.
#[target_feature(enable = "gfni,avx512f,avx512bw")]
pub(super) fn add_gfni<const N: usize>(
    sums: &mut [Stripe; N],
    sources: &[&Stripe],
    factors: &[Factors],
) {
    let mut totals = [[_mm512_setzero_si512(); 2]; N];
    for (source, factors) in sources.iter().zip(factors) {
        let halves = parts::<64>(source);
        let halves = [load_512(&halves[0]), load_512(&halves[1])];
        for (total, &factor) in totals.iter_mut().zip(factors) {
            let matrix = _mm512_set1_epi64(MATRICES[usize::from(factor)].cast_signed());
            for (total, half) in total.iter_mut().zip(halves) {
                let product = _mm512_gf2p8affine_epi64_epi8::<0>(half, matrix);
                *total = _mm512_xor_si512(*total, product);
            }
        }
    }
    for (sum, total) in sums.iter_mut().zip(totals) {
        for (half, total) in parts_mut::<64>(sum).iter_mut().zip(total) {
            store_512(half, _mm512_xor_si512(load_512(half), total));
        }
    }
}

/// Multiplies by two lookups for each byte. The sums take a quarter of a stripe at a time: 16
/// registers hold no more.
#[target_feature(enable = "avx2")]
pub(super) fn add_avx2<const N: usize>(
    sums: &mut [Stripe; N],
    sources: &[&Stripe],
    factors: &[Factors],
) {
    let mask = _mm256_set1_epi8(15);
    for quarter in 0..STRIPE / 32 {
        let mut totals = [_mm256_setzero_si256(); N];
        for (source, factors) in sources.iter().zip(factors) {
            let source = load_256(&parts(source)[quarter]);
            let low = _mm256_and_si256(source, mask);
            let high = _mm256_and_si256(_mm256_srli_epi64::<4>(source), mask);
            for (total, &factor) in totals.iter_mut().zip(factors) {
                let (tables, _) = NIBBLES[usize::from(factor)].0.as_chunks();
                let low = _mm256_shuffle_epi8(load_twice(&tables[0]), low);
                let high = _mm256_shuffle_epi8(load_twice(&tables[1]), high);
                *total = _mm256_xor_si256(*total, _mm256_xor_si256(low, high));
            }
        }
        for (sum, total) in sums.iter_mut().zip(totals) {
            let part = &mut parts_mut(sum)[quarter];
            store_256(part, _mm256_xor_si256(load_256(part), total));
        }
    }
}

fn parts<const N: usize>(stripe: &Stripe) -> &[[u8; N]] {
    stripe.as_chunks().0
}

fn parts_mut<const N: usize>(stripe: &mut Stripe) -> &mut [[u8; N]] {
    stripe.as_chunks_mut().0
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_512(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: The reference is to as many bytes as are read, from any address.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_512(bytes: &mut [u8; 64], value: __m512i) {
    // SAFETY: The reference is to as many bytes as are written, at any address.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), value) };
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_256(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: The reference is to as many bytes as are read, from any address.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_256(bytes: &mut [u8; 32], value: __m256i) {
    // SAFETY: The reference is to as many bytes as are written, at any address.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), value) };
}

/// Loads 16 bytes into either half.
#[inline]
#[target_feature(enable = "avx2")]
fn load_twice(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: The reference is to as many bytes as are read, from any address.
    let half = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    _mm256_broadcastsi128_si256(half)
}
