//! Operations on each element by itself.

use super::expect_len;
use crate::number::{clean, exp_negative, larger, magnitude, smaller};
use crate::ragged::ShapeError;
use alloc::format;

/// `clean(a) + clean(b)`.
///
/// # Errors
/// Different lengths.
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) -> Result<(), ShapeError> {
    expect_len("b", b.len(), a.len(), 1)?;
    expect_len("the output", out.len(), a.len(), 1)?;
    for ((&a, &b), y) in a.iter().zip(b).zip(out) {
        *y = clean(a) + clean(b);
    }
    Ok(())
}

/// `x * Phi(x)`, see [`gelu_one`].
///
/// # Errors
/// Different lengths.
pub fn gelu(x: &[f32], out: &mut [f32]) -> Result<(), ShapeError> {
    expect_len("the output", out.len(), x.len(), 1)?;
    for (&x, y) in x.iter().zip(out) {
        *y = gelu_one(x);
    }
    Ok(())
}

/// `(x / 2) * (1 + erf(x / sqrt 2))` of the cleaned `x`.
///
/// erf is the rational approximation z P(z^2) / Q(z^2) on [-4, 4] used by Eigen and XLA, its value
/// kept within [-1, 1]. Largest absolute error of erf: 4e-7.
#[inline(always)]
pub fn gelu_one(x: f32) -> f32 {
    let x = clean(x);
    let z = larger(-4.0, smaller(4.0, x * core::f32::consts::FRAC_1_SQRT_2));
    let s = z * z;
    let p = -2.726_142_3e-10;
    let p = p * s + 2.770_681_5e-8;
    let p = p * s + -2.101_024e-6;
    let p = p * s + -5.692_506_5e-5;
    let p = p * s + -7.349_906_3e-4;
    let p = p * s + -2.954_6e-3;
    let p = p * s + -1.609_603_3e-2;
    let q = -1.456_607_2e-5;
    let q = q * s + -2.133_740_6e-4;
    let q = q * s + -1.682_827e-3;
    let q = q * s + -7.373_329e-3;
    let q = q * s + -1.426_474e-2;
    let e = larger(-1.0, smaller(1.0, z * p / q));
    (0.5 * x) * (1.0 + e)
}

/// A gated unit: each row of `x` [rows, 2 * width] is `width` gates, then as many values; see [`swiglu_one`].
///
/// # Errors
/// Slices of another size than [rows, 2 * width] and [rows, width].
pub fn swiglu(x: &[f32], rows: usize, width: usize, out: &mut [f32]) -> Result<(), ShapeError> {
    expect_gated(x.len(), rows, width, out.len())?;
    if out.is_empty() {
        return Ok(());
    }
    for (x, out) in x.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
        let (gates, values) = x.split_at(width);
        for ((y, &gate), &up) in out.iter_mut().zip(gates).zip(values) {
            *y = swiglu_one(gate, up);
        }
    }
    Ok(())
}

/// Slices must fit a gated unit.
pub(crate) fn expect_gated(x: usize, rows: usize, width: usize, out: usize) -> Result<(), ShapeError> {
    let both = width.checked_mul(2).ok_or_else(|| ShapeError(format!("{width} gates are too many")))?;
    expect_len("x", x, rows, both)?;
    expect_len("the output", out, rows, width)
}

/// `gate / (1 + e^-gate) * up` of the cleaned numbers: with `e = exp_negative(-|gate|)`, which is at most 1,
///
/// `(gate * (1 / (1 + e))) * up` for a positive gate, `(gate * (e / (1 + e))) * up` for another.
#[inline(always)]
pub fn swiglu_one(gate: f32, up: f32) -> f32 {
    let (gate, up) = (clean(gate), clean(up));
    let e = exp_negative(-magnitude(gate));
    let share = if gate > 0.0 { 1.0 } else { e } / (1.0 + e);
    (gate * share) * up
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swiglu_is_close() {
        let mut worst = 0.0f64;
        for i in -400_000..400_000 {
            let gate = i as f32 / 5000.0;
            let want = f64::from(gate) / (1.0 + (-f64::from(gate)).exp());
            worst = worst.max((f64::from(swiglu_one(gate, 1.0)) - want).abs() / (want.abs() + 1e-30));
        }
        assert!(worst < 5e-7, "{worst}");
        for (gate, up, want) in [(f32::NAN, 1.0, 0.0), (1.0, f32::NAN, 0.0), (0.0, 3.0, 0.0), (100.0, 2.0, 200.0)] {
            assert_eq!(swiglu_one(gate, up), want, "{gate}, {up}");
        }
        assert!(swiglu_one(f32::NEG_INFINITY, 1.0).abs() < 1e-15);
        assert!(swiglu_one(f32::INFINITY, f32::INFINITY).is_finite());
    }

    #[test]
    fn gelu_is_close() {
        // Phi by numerical integration in f64: an oracle that shares nothing with the formula.
        let mut phi = 0.0f64;
        let step = 1e-4f64;
        let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * core::f64::consts::PI).sqrt();
        let mut t = -9.0f64;
        let mut worst = 0.0f64;
        while t < 9.0 {
            phi += step / 6.0 * (density(t) + 4.0 * density(t + step / 2.0) + density(t + step));
            t += step;
            worst = worst.max((f64::from(gelu_one(t as f32)) - t * phi).abs());
        }
        assert!(worst < 3e-6, "{worst}");
        assert_eq!(gelu_one(f32::NAN), 0.0);
        assert_eq!(gelu_one(0.0), 0.0);
    }
}
