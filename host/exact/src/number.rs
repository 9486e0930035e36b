//! Scalars that every operation shares: cleaning, rounding, powers of two, exp.

/// Inputs beyond this magnitude are brought back to it, so that no intermediate overflows.
pub const LIMIT: f32 = (1u64 << 60) as f32;

/// Magnitudes below this count as zero where a scale would be formed from them.
pub const TINY: f32 = 1.0 / LIMIT;

/// `1.5 * 2^23`: adding it to `|x| <= 2^22` leaves the nearest integer, ties to even, in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// NaN becomes +0; magnitudes beyond [`LIMIT`] (infinities too) become [`LIMIT`] with their sign.
#[allow(clippy::eq_op, reason = "x == x is false for NaN alone, and is one vector comparison")]
#[inline(always)]
pub fn clean(x: f32) -> f32 {
    let x = if x > LIMIT { LIMIT } else { x };
    let x = if x < -LIMIT { -LIMIT } else { x };
    if x == x { x } else { 0.0 }
}

/// The nearest integer, ties to even, for `|x| <= 2^22`.
#[inline(always)]
pub fn round(x: f32) -> i32 {
    (x + ROUNDER).to_bits() as i32 - ROUNDER.to_bits() as i32
}

/// The larger, `a` if `b` is not larger. Free of order on cleaned values but for the sign of zero.
#[inline(always)]
pub fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// The smaller, `a` if `b` is not smaller.
#[inline(always)]
pub fn smaller(a: f32, b: f32) -> f32 {
    if b < a { b } else { a }
}

/// `|x|`, by clearing the sign bit.
#[inline(always)]
pub fn magnitude(x: f32) -> f32 {
    f32::from_bits(x.to_bits() & 0x7fff_ffff)
}

/// `2^e` for `-126 <= e <= 127`.
#[inline(always)]
pub fn power_of_two(e: i32) -> f32 {
    f32::from_bits(((e + 127) as u32) << 23)
}

/// The smallest `e` with `m < 2^e`, for a normal `m > 0`.
#[inline(always)]
pub fn exponent_above(m: f32) -> i32 {
    ((m.to_bits() >> 23) & 0xff) as i32 - 126
}

/// e^x for `x <= 0`; below -86 it stays at e^-86, about 4.5e-38.
///
/// Cody-Waite reduction by ln 2 in two pieces and the polynomial of Cephes `expf`; every operation
/// rounded by itself. `exp_negative(0.0)` is exactly 1. Largest relative error 1.2e-7.
#[allow(clippy::excessive_precision, reason = "the published coefficients")]
#[inline(always)]
pub fn exp_negative(x: f32) -> f32 {
    let x = larger(-86.0, x);
    let n = x * core::f32::consts::LOG2_E + ROUNDER;
    let exponent = n.to_bits() as i32 - ROUNDER.to_bits() as i32;
    let n = n - ROUNDER;
    let r = x - n * 0.693_359_4;
    let r = r - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 5.000_000_1e-1;
    let y = p * (r * r) + r + 1.0;
    y * power_of_two(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_to_even() {
        for (x, want) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (4_194_304.0, 4_194_304)] {
            assert_eq!(round(x), want, "{x}");
        }
    }

    #[test]
    fn cleaning_is_total() {
        assert_eq!(clean(f32::NAN).to_bits(), 0);
        assert_eq!(clean(-f32::NAN).to_bits(), 0);
        assert_eq!(clean(f32::INFINITY), LIMIT);
        assert_eq!(clean(f32::NEG_INFINITY), -LIMIT);
        assert_eq!(clean(-0.0).to_bits(), (-0.0f32).to_bits());
    }

    #[test]
    fn exp_is_close_and_exact_at_zero() {
        assert_eq!(exp_negative(0.0), 1.0);
        let mut worst = 0.0f64;
        let mut x = 0.0f32;
        while x > -80.0 {
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp_negative(x)) / want - 1.0).abs());
            x -= 0.000_37;
        }
        assert!(worst < 1.5e-7, "{worst}");
    }

    #[test]
    fn exponents() {
        assert_eq!(exponent_above(1.0), 1);
        assert_eq!(exponent_above(0.999), 0);
        assert_eq!(power_of_two(-3), 0.125);
    }
}
