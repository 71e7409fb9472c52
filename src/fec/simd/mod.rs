//! The one loop that all the work of the dense path is in, for each kind of processor.
//!
//! A *kernel* adds multiples of many source stripes to a few sums, which stay in registers all the
//! while. All kernels give the same bytes; which one runs is chosen by what the processor has.
//!
//! Invariant: a [`Kernel`] exists only on a processor that has its instructions. The functions here
//! take whole stripes by reference, so that nothing is ever read or written beyond one.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;

use super::cost::Speed;

/// The width of a stripe, in bytes.
pub(super) const STRIPE: usize = 128;

/// How many sums a kernel works on at a time.
pub(super) const SUMS: usize = 8;

/// A part of a symbol, aligned to nothing.
pub(super) type Stripe = [u8; STRIPE];

/// What a source stripe is multiplied by for each of the sums.
pub(super) type Factors = [u8; SUMS];

/// A way to multiply and add bytes of GF(256).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kernel(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// GFNI on 64 bytes.
    #[cfg(target_arch = "x86_64")]
    Gfni,
    /// Lookups of nibbles, 32 bytes at a time.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Lookups of nibbles, 16 bytes at a time.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// What every processor can.
    Portable,
}

impl Kernel {
    /// The kernels that this processor can run, the fastest first.
    pub fn all() -> impl Iterator<Item = Self> {
        [
            #[cfg(target_arch = "x86_64")]
            (x86::has_gfni(), Kind::Gfni),
            #[cfg(target_arch = "x86_64")]
            (x86::has_avx2(), Kind::Avx2),
            #[cfg(target_arch = "aarch64")]
            (neon::has_neon(), Kind::Neon),
            (true, Kind::Portable),
        ]
        .into_iter()
        .filter_map(|(is_there, kind)| is_there.then_some(Self(kind)))
    }

    /// The fastest kernel of this processor.
    #[must_use]
    pub fn best() -> Self {
        Self::all().next().unwrap_or(Self(Kind::Portable))
    }

    /// Adds to each of the first `count` sums every source times the factor it has for that sum.
    ///
    /// # Panics
    /// If `count` is beyond [`SUMS`], or there are not as many factors as sources.
    pub(super) fn add(
        self,
        count: usize,
        sums: &mut [Stripe; SUMS],
        sources: &[&Stripe],
        factors: &[Factors],
    ) {
        assert_eq!(sources.len(), factors.len());
        match count {
            0 => {}
            1 => self.add_to(first::<1>(sums), sources, factors),
            2 => self.add_to(first::<2>(sums), sources, factors),
            3 => self.add_to(first::<3>(sums), sources, factors),
            4 => self.add_to(first::<4>(sums), sources, factors),
            5 => self.add_to(first::<5>(sums), sources, factors),
            6 => self.add_to(first::<6>(sums), sources, factors),
            7 => self.add_to(first::<7>(sums), sources, factors),
            SUMS => self.add_to(sums, sources, factors),
            _ => panic!("{count} sums at once"),
        }
    }

    fn add_to<const N: usize>(
        self,
        sums: &mut [Stripe; N],
        sources: &[&Stripe],
        factors: &[Factors],
    ) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: A kernel of this kind is made only where `has_gfni` said yes.
            Kind::Gfni => unsafe { x86::add_gfni(sums, sources, factors) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: A kernel of this kind is made only where `has_avx2` said yes.
            Kind::Avx2 => unsafe { x86::add_avx2(sums, sources, factors) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: A kernel of this kind is made only where `has_neon` said yes.
            Kind::Neon => unsafe { neon::add(sums, sources, factors) },
            Kind::Portable => portable::add(sums, sources, factors),
        }
    }

    /// What the kernel takes, as [`Speed`] has it.
    pub(super) const fn speed(self) -> Speed {
        let (byte_ps, step_ps) = match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Gfni => (8, 400),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => (25, 500),
            // Not measured: a guess on the safe side.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => (60, 1000),
            Kind::Portable => (90, 6000),
        };
        Speed { byte_ps, step_ps }
    }
}

/// Names the kernel as benches and tests show it.
impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn first<const N: usize>(sums: &mut [Stripe; SUMS]) -> &mut [Stripe; N] {
    sums.first_chunk_mut()
        .expect("all counts that are asked for are below SUMS")
}
