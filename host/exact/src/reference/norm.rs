//! Norms: rows to fixed point, integer sums, the few scalars of a row in f64.

use super::{expect_len, expect_width, fixed_unit};
use crate::layer::{LayerNorm, RmsNorm};
use crate::number::{clean, larger, magnitude, round};
use crate::ragged::ShapeError;
use alloc::vec;

/// Layer normalisation of `clean(x) + clean(residual)` (of `clean(x)` without one), row by row.
///
/// With `v` the row, `n` its length, `max` the largest `|v|`, (`to_fixed`, `unit`) from
/// [`fixed_unit`], `X = round(v * to_fixed)`, and the exact integers `S1 = sum X`, `S2 = sum X^2`:
///
/// - `mean = f32(f64(S1) / n * unit)`
/// - `variance = f64(n * S2 - S1^2) / f64(n^2) * unit * unit`, in f64, the integer in 128 bits
/// - `r = f32(1 / sqrt(variance + epsilon))`, in f64
/// - `y = ((v - mean) * r) * gain + bias`, in f32
///
/// A row whose `max` is below 2^-60 gives `bias`.
///
/// # Errors
/// Slices of another size than [rows, width].
pub fn layer_norm(
    layer: &LayerNorm,
    x: &[f32],
    residual: Option<&[f32]>,
    rows: usize,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    let width = layer.gain.len();
    expect_len("x", x.len(), rows, width)?;
    expect_len("the output", out.len(), rows, width)?;
    if let Some(residual) = residual {
        expect_len("the residual", residual.len(), rows, width)?;
    }
    let mut residuals = residual.map(|r| r.chunks_exact(width));
    let mut v = vec![0.0f32; width];
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        match residuals.as_mut().and_then(Iterator::next) {
            Some(residual) => {
                for ((v, &x), &r) in v.iter_mut().zip(x).zip(residual) {
                    *v = clean(x) + clean(r);
                }
            }
            None => {
                for (v, &x) in v.iter_mut().zip(x) {
                    *v = clean(x);
                }
            }
        }
        let Some(sums) = Sums::of(&v) else {
            out.copy_from_slice(&layer.bias);
            continue;
        };
        let (mean, r) = sums.mean_and_reciprocal(width, layer.epsilon);
        for (((y, &v), &gain), &bias) in out.iter_mut().zip(&v).zip(&layer.gain).zip(&layer.bias) {
            *y = ((v - mean) * r) * gain + bias;
        }
    }
    Ok(())
}

/// Normalisation by the root of the mean square, row by row: with `unit` and S2 as in [`layer_norm`] and `n` the row's
/// length,
///
/// - `r = f32(1 / sqrt(f64(S2) / n * unit * unit + epsilon))`, in f64
/// - `y = (v * r) * gain`, in f32
///
/// A row whose `max` is below 2^-60 gives zeros.
///
/// # Errors
/// Slices of another size than [rows, width].
pub fn rms_norm(layer: &RmsNorm, x: &[f32], rows: usize, out: &mut [f32]) -> Result<(), ShapeError> {
    let width = layer.gain.len();
    expect_len("x", x.len(), rows, width)?;
    expect_len("the output", out.len(), rows, width)?;
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        for (y, &x) in out.iter_mut().zip(x) {
            *y = clean(x);
        }
        let Some(sums) = Sums::of(out) else {
            out.fill(0.0);
            continue;
        };
        let r = sums.reciprocal_root(width, layer.epsilon);
        for (y, &gain) in out.iter_mut().zip(&layer.gain) {
            *y = (*y * r) * gain;
        }
    }
    Ok(())
}

/// Each row times `f32(1 / (sqrt(f64(S2)) * unit))`, with S2 as in [`layer_norm`]. A row whose
/// largest magnitude is below 2^-60 gives zeros. S2 fits 63 bits for every width a layer may have.
///
/// # Errors
/// Slices of another size than [rows, width]; a width over
/// [`MAX_WIDTH`](crate::layer::MAX_WIDTH).
pub fn l2_normalise(x: &[f32], rows: usize, width: usize, out: &mut [f32]) -> Result<(), ShapeError> {
    expect_len("x", x.len(), rows, width)?;
    expect_len("the output", out.len(), rows, width)?;
    expect_width(width)?;
    if x.is_empty() {
        return Ok(());
    }
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        for (y, &x) in out.iter_mut().zip(x) {
            *y = clean(x);
        }
        let Some(sums) = Sums::of(out) else {
            out.fill(0.0);
            continue;
        };
        let r = sums.reciprocal_length();
        for y in out {
            *y *= r;
        }
    }
    Ok(())
}

/// The integer sums of a row and the unit they are in.
pub(crate) struct Sums {
    pub(crate) sum: i64,
    pub(crate) squares: i64,
    pub(crate) unit: f32,
}

impl Sums {
    fn of(v: &[f32]) -> Option<Self> {
        let max = v.iter().fold(0.0, |m, &v| larger(m, magnitude(v)));
        let (to_fixed, unit) = fixed_unit(max)?;
        let (mut sum, mut squares) = (0i64, 0i64);
        for &v in v {
            let fixed = i64::from(round(v * to_fixed));
            sum += fixed;
            squares += fixed * fixed;
        }
        Some(Self { sum, squares, unit })
    }

    /// The row's mean and `1 / sqrt(variance + epsilon)`.
    pub(crate) fn mean_and_reciprocal(&self, width: usize, epsilon: f32) -> (f32, f32) {
        let n = width as f64;
        let unit = f64::from(self.unit);
        let mean = (self.sum as f64 / n * unit) as f32;
        let spread = width as i128 * i128::from(self.squares) - i128::from(self.sum) * i128::from(self.sum);
        let variance = spread as f64 / (n * n) * unit * unit;
        (mean, (1.0 / libm::sqrt(variance + f64::from(epsilon))) as f32)
    }

    /// `1 / sqrt(mean square + epsilon)`.
    pub(crate) fn reciprocal_root(&self, width: usize, epsilon: f32) -> f32 {
        let unit = f64::from(self.unit);
        let mean = self.squares as f64 / width as f64 * unit * unit;
        (1.0 / libm::sqrt(mean + f64::from(epsilon))) as f32
    }

    /// One over the row's Euclidean length.
    pub(crate) fn reciprocal_length(&self) -> f32 {
        (1.0 / (libm::sqrt(self.squares as f64) * f64::from(self.unit))) as f32
    }
}
