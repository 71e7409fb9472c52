//! Every kernel against a model that multiplies byte by byte.

use proptest::prelude::*;

use super::*;
use crate::fec::gf256::mul;

/// Sums as the definition has them.
fn model(sums: &mut [Stripe; SUMS], count: usize, sources: &[&Stripe], factors: &[Factors]) {
    for (source, factors) in sources.iter().zip(factors) {
        for (sum, &factor) in sums[..count].iter_mut().zip(factors) {
            for (sum, &byte) in sum.iter_mut().zip(source.iter()) {
                *sum ^= mul(byte, factor);
            }
        }
    }
}

fn stripe() -> impl Strategy<Value = Stripe> {
    prop::collection::vec(any::<u8>(), STRIPE)
        .prop_map(|bytes| bytes.try_into().expect("it was made so long"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn all_kernels_give_the_bytes_of_the_model(
        terms in prop::collection::vec((stripe(), any::<Factors>()), 0..40),
        before in prop::array::uniform8(stripe()),
        count in 0..=SUMS,
    ) {
        let (sources, factors): (Vec<Stripe>, Vec<Factors>) = terms.into_iter().unzip();
        let sources: Vec<&Stripe> = sources.iter().collect();
        let mut expected = before;
        model(&mut expected, count, &sources, &factors);
        for kernel in Kernel::all() {
            let mut sums = before;
            kernel.add(count, &mut sums, &sources, &factors);
            prop_assert_eq!(sums, expected, "{:?}", kernel);
        }
    }
}

#[test]
fn every_product_of_two_bytes_is_right_in_every_kernel() {
    let sources =
        [0, 128].map(|first: u8| std::array::from_fn(|at| first + u8::try_from(at).unwrap()));
    for kernel in Kernel::all() {
        for factor in 0..=u8::MAX {
            for source in &sources {
                // Enough sources, all but one without effect, for each way a kernel may go.
                for others in [0, 30] {
                    let mut all = vec![source; 1 + others];
                    all[others / 2] = source;
                    let mut factors = vec![[0; SUMS]; 1 + others];
                    factors[others / 2] = [factor; SUMS];
                    let mut sums = [[0; STRIPE]; SUMS];
                    kernel.add(SUMS, &mut sums, &all, &factors);
                    let expected = source.map(|byte| mul(byte, factor));
                    for sum in sums {
                        assert_eq!(sum, expected, "{kernel:?}, {factor}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_portable_kernel_is_always_there_and_last() {
    let names: Vec<String> = Kernel::all().map(|kernel| format!("{kernel:?}")).collect();
    assert_eq!(names.last().map(String::as_str), Some("Portable"));
    assert_eq!(Kernel::all().next(), Some(Kernel::best()));
}
