//! Freivalds' check: whether a matrix product is right, for far less than the product costs.
//!
//! # Why
//!
//! An auditor who holds X, W and a claimed `Y = X W^T` need not multiply again. With a secret vector r he
//! compares `Y r` with `X (W^T r)`: two products of a matrix and a vector, O(N + K) a row instead of
//! O(N K). `v = W^T r` depends on the weights alone and is computed once.
//!
//! # How
//!
//! 1. A [`Challenge`] is two vectors r of elements of the field F_p, p = [`FIELD`], from a source of
//!    random bytes. A [`Projection`] is `v = W^T r` for both, as exact integers.
//! 2. A check computes for every row both sides, for both vectors: [`Sides`]. Rows are checked one by one,
//!    so a wrong row is found by its number.
//! 3. Equal integers have equal residues, so a right row always passes.
//!
//! # Error bound
//!
//! Let D be the difference of a claimed row and the right one, not all zero. For one vector, fix all of r
//! but an element r\[n\] with `D[n] != 0`: at most one of the p values of r\[n\] makes `D . r` vanish. So a
//! wrong row passes one vector with a probability of at most 1/p, and both with at most 1/p^2, 2^-62.
//!
//! That argument needs `D . r = 0` to be seen where it is asked:
//!
//! - in F_p, `D[n] != 0` must mean that p does not divide D\[n\]. Claimed totals must lie within the bound B of
//!   the operation, and with `2 B < p` no difference is as large as p. That holds for sums of u8 codes
//!   with K up to 33,155 and for scores of heads up to 64 wide.
//! - elsewhere (16-bit codes, weighted values, wider layers and heads) a cheater could add p to a total
//!   and no check in F_p would see it. There both sides are computed as integers, and compared as such.
//!
//! What is reported are residues in both cases. A row that is wrong although its residues are equal, or that
//! holds a total outside its bound, is reported with `left = right - 1`: unequal whatever r was.
//!
//! # Secrecy
//!
//! Who knows r can make a wrong row that passes: any D with `D . r = 0`. A challenge (and v, which with the
//! public weights tells much about r) stays with the auditor, and what he has seen of one audit may
//! not be published with the vectors. A row's left side is a linear equation in r, so sides are as
//! secret as the challenge for as long as the challenge is in use.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod check;
mod kernel;
pub mod plain;
mod vectors;

pub use check::{MAX_SEQUENCE, Sides, check_scores, check_u8, check_u16, check_weighted};
pub use vectors::{Challenge, Projection, Vectors};

/// The modulus p of the field, the Mersenne prime 2^31 - 1.
pub const FIELD: u32 = 0x7fff_ffff;

/// What is added to a wide total to make it unsigned; wide totals lie in `1 - 2^43 ..= 2^43`. Were its low
/// bits zero, a compiler would take the low bits of a total before adding and load each total twice.
const WIDE_BIAS: i64 = (1 << 43) - 1;
/// Bits of a biased total.
const WIDE_BITS: u32 = 44;

/// The residue of an integer below 2^102 in magnitude.
#[inline(always)]
const fn residue(x: i128) -> u32 {
    // A multiple of p makes it positive. 2^62 is 1 in the field, so bits from there on count as the lowest.
    let x = (x + ((FIELD as i128) << 72)) as u128;
    residue_u64((x as u64 & (u64::MAX >> 2)) + (x >> 62) as u64)
}

/// The residue of an unsigned integer.
#[inline(always)]
const fn residue_u64(x: u64) -> u32 {
    let x = fold(fold(x));
    (if x >= FIELD as u64 { x - FIELD as u64 } else { x }) as u32
}

/// A smaller number with the same residue: below 2^34.
#[inline(always)]
const fn fold(x: u64) -> u64 {
    (x & FIELD as u64) + (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residues_are_those_of_division() {
        let p = i128::from(FIELD);
        let mut x = 1i128;
        for i in 0..102 {
            for x in [x, -x, x - 1, 1 - x, x / 3 * 2, p * i, p * i - 1, -p * i, -p * i - 1] {
                assert_eq!(i128::from(residue(x)), x.rem_euclid(p), "{x}");
            }
            x *= 2;
        }
        for x in [0, u64::from(FIELD) - 1, u64::from(FIELD), u64::from(FIELD) * 2, u64::MAX, u64::MAX - 1, 1 << 62] {
            assert_eq!(u64::from(residue_u64(x)), x % u64::from(FIELD), "{x}");
        }
    }
}
