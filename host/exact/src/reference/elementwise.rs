//! Operations on each element by itself.

use super::expect_len;
use crate::number::{clean, larger, smaller};
use crate::ragged::ShapeError;

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

#[cfg(test)]
mod tests {
    use super::*;

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
