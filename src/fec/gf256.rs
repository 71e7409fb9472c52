//! The field of RaptorQ: bytes, added by XOR, multiplied modulo x⁸ + x⁴ + x³ + x² + 1.
//!
//! Source: RFC 6330 s5.7. The tables are those that vector instructions take; all are computed when
//! the program is compiled.

/// The polynomial without its highest term.
const REDUCTION: u8 = 0x1d;

/// The product of two elements.
pub(super) const fn mul(a: u8, b: u8) -> u8 {
    let (mut product, mut power, mut rest) = (0, a, b);
    while rest != 0 {
        if rest & 1 != 0 {
            product ^= power;
        }
        power = double(power);
        rest >>= 1;
    }
    product
}

/// The element that gives 1 with `a`; 0 for 0.
pub(super) const fn inverse(a: u8) -> u8 {
    // a to the power of 254, since the 255th power of every element but 0 is 1.
    let (mut result, mut square, mut round) = (1, a, 0);
    while round < 7 {
        square = mul(square, square);
        result = mul(result, square);
        round += 1;
    }
    result
}

const fn double(a: u8) -> u8 {
    (a << 1) ^ ((a >> 7) * REDUCTION)
}

/// Eight elements at once, each multiplied by 2.
pub(super) const fn double_lanes(lanes: u64) -> u64 {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let carry = (lanes & HIGH) >> 7;
    ((lanes & !HIGH) << 1) ^ carry ^ (carry << 2) ^ (carry << 3) ^ (carry << 4)
}

/// The products of an element with 0 to 15, then with 0, 16 to 240: two lookups and an XOR multiply
/// any byte.
pub(super) struct Nibbles(pub(super) [u8; 32]);

/// The [`Nibbles`] of every element.
pub(super) static NIBBLES: [Nibbles; 256] = {
    let mut tables = [const { Nibbles([0; 32]) }; 256];
    let mut at = 0;
    while at < 256 * 32 {
        let (element, nibble) = (at / 32, at % 32);
        #[expect(clippy::cast_possible_truncation, reason = "all are below 256")]
        let factor = if nibble < 16 {
            nibble
        } else {
            (nibble - 16) << 4
        } as u8;
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let product = mul(element as u8, factor);
        tables[element].0[nibble] = product;
        at += 1;
    }
    tables
};

/// Multiplication by every element as a matrix of bits over the bits of a byte, laid out as the
/// instruction `gf2p8affineqb` takes it: byte 7 − i selects the bits that add up to bit i.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "of x86 alone")
)]
pub(super) static MATRICES: [u64; 256] = {
    let mut matrices = [0; 256];
    let mut at = 0;
    while at < 256 * 64 {
        let (element, bit, column) = (at / 64, at / 8 % 8, at % 8);
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let product = mul(element as u8, 1 << column);
        matrices[element] |= ((product >> bit & 1) as u64) << ((7 - bit) * 8 + column);
        at += 1;
    }
    matrices
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_field_of_the_rfc() {
        // Source: RFC 6330 s5.7.2: 2 generates the field; 5.7.4: the tables of it.
        assert_eq!((mul(2, 128), mul(0x8e, 2), mul(0, 7)), (0x1d, 1, 0));
        let mut power = 1;
        for exponent in 1..=255 {
            power = mul(power, 2);
            assert_eq!(power == 1, exponent == 255);
        }
        for a in 1..=u8::MAX {
            assert_eq!(mul(a, inverse(a)), 1);
            assert_eq!((mul(a, 1), mul(1, a)), (a, a));
        }
        assert_eq!(inverse(0), 0);
    }

    #[test]
    fn tables_and_lanes_agree_with_multiplication() {
        for a in 0..=u8::MAX {
            let table = &NIBBLES[usize::from(a)].0;
            for b in 0..=u8::MAX {
                let product = table[usize::from(b & 15)] ^ table[16 + usize::from(b >> 4)];
                assert_eq!(product, mul(a, b));
            }
            let lanes = [a, 0, 255, a, 1, 128, !a, 7];
            let doubled = double_lanes(u64::from_ne_bytes(lanes)).to_ne_bytes();
            assert_eq!(doubled, lanes.map(|lane| mul(lane, 2)));
        }
    }
}
