//! Multi-head attention with integer products and an integer denominator.

use super::expect_len;
pub use crate::layer::MAX_HEAD_WIDTH;
use crate::number::{TINY, clean, exp_negative, larger, magnitude, round};
use crate::ragged::{Lengths, ShapeError};
use alloc::{format, vec, vec::Vec};

/// Largest code of a query or key: `4095 * 4095 * 128 < 2^31`.
pub const QUERY_KEY_CODE: f32 = 4095.0;
/// Largest code of a value: `32767 * 1023 * 64 < 2^31`, so 64 keys add up in 32 bits.
pub const VALUE_CODE: f32 = 1023.0;
/// Largest weight of a key in the product with the values.
pub(crate) const WEIGHT_CODE: f32 = 32767.0;
/// What an exponential of 1 counts in the denominator.
pub(crate) const DENOMINATOR_ONE: f32 = 1_048_576.0;
/// Below this the weights of a row count as zero.
pub(crate) const TINY_WEIGHT: f32 = 7.888_609e-31;

/// Attention inside each sequence; every row sees every row.
///
/// `qkv` is [rows, 3 * width], queries, keys, values side by side; head h has the columns
/// `h * d .. (h + 1) * d` of each, `d = width / heads`. Per row and head, queries and keys are coded
/// to [-4095, 4095] and values to [-1023, 1023] (`scale = max / C`, `code = round(v * (C / max))`, all
/// zero if `max < 2^-60`). Then for row i, over the keys j of its sequence:
///
/// - `t[j] = sum q[i] * k[j]`, an exact integer
/// - `s[j] = f32(t[j]) * ((q_scale[i] * (1 / sqrt d)) * k_scale[j])`
/// - `e[j] = exp_negative(s[j] - max s)`
/// - `D = sum round(e[j] * 2^20)`, an exact integer
/// - `w[j] = e[j] * v_scale[j]`, `W = max w`; `W < 2^-100` gives a row of zeros
/// - `p[j] = round(w[j] * (32767 / W))`
/// - `y = f32(sum p[j] * v[j]) * ((W / 32767) * (2^20 / f32(D)))`, the sum an exact integer
///
/// # Errors
/// Slices of another size, no heads, a width that is no multiple of the heads, heads over 128 wide.
pub fn attention(
    qkv: &[f32],
    lengths: &Lengths,
    width: usize,
    heads: usize,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    let d = head_width(width, heads)?;
    let rows = lengths.iter().sum();
    expect_len("qkv", qkv.len(), rows, 3 * width)?;
    expect_len("the output", out.len(), rows, width)?;
    let inverse_root = 1.0 / libm::sqrtf(d as f32);
    let mut start = 0;
    for length in lengths.iter() {
        for head in 0..heads {
            let columns = |part: usize, code: f32| -> Vec<Coded> {
                let first = part * width + head * d;
                qkv.chunks_exact(3 * width)
                    .skip(start)
                    .take(length)
                    .map(|row| Coded::new(row.iter().skip(first).take(d), code))
                    .collect()
            };
            let (queries, keys, values) =
                (columns(0, QUERY_KEY_CODE), columns(1, QUERY_KEY_CODE), columns(2, VALUE_CODE));
            let outputs = out.chunks_exact_mut(width).skip(start).take(length);
            for (query, out) in queries.iter().zip(outputs) {
                let out = out.iter_mut().skip(head * d).take(d);
                for (y, result) in out.zip(attend(query, &keys, &values, inverse_root, d)) {
                    *y = result;
                }
            }
        }
        start += length;
    }
    Ok(())
}

/// The width of a head, or why there is none.
pub(crate) fn head_width(width: usize, heads: usize) -> Result<usize, ShapeError> {
    match width.checked_div(heads) {
        Some(d) if d * heads == width && (1..=MAX_HEAD_WIDTH).contains(&d) => Ok(d),
        _ => Err(ShapeError(format!(
            "{heads} heads cannot share {width} columns: equal heads of 1 to {MAX_HEAD_WIDTH} columns"
        ))),
    }
}

pub(super) struct Coded {
    codes: Vec<i32>,
    scale: f32,
}

impl Coded {
    pub(super) fn new<'a>(v: impl Iterator<Item = &'a f32> + Clone, max_code: f32) -> Self {
        let max = v.clone().fold(0.0, |m, &v| larger(m, magnitude(clean(v))));
        if max < TINY {
            return Self { codes: v.map(|_| 0).collect(), scale: 0.0 };
        }
        let inverse = max_code / max;
        Self { codes: v.map(|&v| round(clean(v) * inverse)).collect(), scale: max / max_code }
    }

    fn dot(&self, other: &Self) -> i32 {
        self.codes.iter().zip(&other.codes).map(|(a, b)| a * b).sum()
    }
}

pub(super) fn attend(query: &Coded, keys: &[Coded], values: &[Coded], inverse_root: f32, d: usize) -> Vec<f32> {
    let row_scale = query.scale * inverse_root;
    let scores: Vec<f32> = keys.iter().map(|key| query.dot(key) as f32 * (row_scale * key.scale)).collect();
    let max = scores.iter().fold(f32::MIN, |m, &s| larger(m, s));
    let exps: Vec<f32> = scores.iter().map(|&s| exp_negative(s - max)).collect();
    let denominator: i64 = exps.iter().map(|&e| i64::from(round(e * DENOMINATOR_ONE))).sum();
    let weights: Vec<f32> = exps.iter().zip(values).map(|(&e, v)| e * v.scale).collect();
    let top = weights.iter().fold(0.0, |m, &w| larger(m, w));
    if top < TINY_WEIGHT {
        return vec![0.0; d];
    }
    let inverse = WEIGHT_CODE / top;
    let mut totals = vec![0i64; d];
    for (&w, value) in weights.iter().zip(values) {
        let p = i64::from(round(w * inverse));
        for (total, &v) in totals.iter_mut().zip(&value.codes) {
            *total += p * i64::from(v);
        }
    }
    let scale = (top / WEIGHT_CODE) * (DENOMINATOR_ONE / denominator as f32);
    totals.iter().map(|&t| t as f32 * scale).collect()
}
