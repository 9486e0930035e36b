//! The linear layer: quantise rows, exact integer product, dequantise.

use super::expect_len;
use crate::layer::{Activation, Linear};
use crate::number::{TINY, clean, larger, round, smaller};
use crate::ragged::ShapeError;
use alloc::vec;

/// What turns a row's codes back into values: `v = (code - zero) * scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantisedRow {
    /// What one step is worth; 0 for a row that counts as zero.
    pub scale: f32,
    /// The code of 0.
    pub zero: i32,
}

/// Code one row: `v[k] = clean(x[k] * prescale[k])`, then with `lo = min(0, v)`, `hi = max(0, v)`,
/// `range = hi - lo`, `C` the largest code:
///
/// `scale = range / C`, `inverse = C / range`, `zero = min(C, round(-lo * inverse))`,
/// `code[k] = min(C, max(0, round(v[k] * inverse) + zero))`.
///
/// A range below 2^-60 gives scale 0, zero 0, all codes 0.
pub fn quantise_row(x: &[f32], prescale: Option<&[f32]>, activation: Activation, codes: &mut [u16]) -> QuantisedRow {
    let value = |k: usize, x: f32| match prescale.and_then(|p| p.get(k)) {
        Some(&p) => clean(x * p),
        None => clean(x),
    };
    let (mut lo, mut hi) = (0.0, 0.0);
    for (k, &x) in x.iter().enumerate() {
        let v = value(k, x);
        lo = smaller(lo, v);
        hi = larger(hi, v);
    }
    let range = hi - lo;
    if range < TINY {
        codes.fill(0);
        return QuantisedRow { scale: 0.0, zero: 0 };
    }
    let max = activation.max_code();
    let inverse = max as f32 / range;
    let zero = round(-lo * inverse).min(max);
    for ((k, &x), code) in x.iter().enumerate().zip(codes) {
        *code = (round(value(k, x) * inverse) + zero).clamp(0, max) as u16;
    }
    QuantisedRow { scale: range / max as f32, zero }
}

/// The exact sum of `codes[k] * weight[k]`: the integer product that backends compute.
pub fn accumulate(codes: &[u16], weight: &[i8]) -> i64 {
    codes.iter().zip(weight).map(|(&c, &w)| i64::from(c) * i64::from(w)).sum()
}

/// `f32(total - zero * row_sum) * (scale * weight_scale) + bias`: the integer is exact and converted
/// to f32 once, to nearest even.
#[inline(always)]
pub fn dequantise(total: i64, row: QuantisedRow, row_sum: i32, weight_scale: f32, bias: f32) -> f32 {
    (total - i64::from(row.zero) * i64::from(row_sum)) as f32 * (row.scale * weight_scale) + bias
}

/// `x` [rows, K] to `out` [rows, N].
///
/// # Errors
/// Slices of another size.
pub fn linear(layer: &Linear, x: &[f32], rows: usize, out: &mut [f32]) -> Result<(), ShapeError> {
    expect_len("x", x.len(), rows, layer.inputs)?;
    expect_len("the output", out.len(), rows, layer.outputs)?;
    let mut codes = vec![0u16; layer.inputs];
    for (x, out) in x.chunks_exact(layer.inputs).zip(out.chunks_exact_mut(layer.outputs)) {
        let row = quantise_row(x, layer.prescale.as_deref(), layer.activation, &mut codes);
        let weights = layer.weight.as_slice().chunks_exact(layer.inputs);
        let columns = layer.row_sum.iter().zip(&layer.scale).zip(&layer.bias);
        for ((weight, ((&row_sum, &scale), &bias)), y) in weights.zip(columns).zip(out) {
            *y = dequantise(accumulate(&codes, weight), row, row_sum, scale, bias);
        }
    }
    Ok(())
}
