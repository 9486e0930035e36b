//! Operations on elements and rows: loops that the compiler turns into vector instructions.
//!
//! A maximum or a sum over a row is taken in [`LANES`] interleaved parts, which LLVM keeps in vector
//! registers; the operations are free of order (see [`number`](crate::number)), so the parts may be
//! combined afterwards.

use super::instantiate::instantiate;
use crate::layer::{Embedding, LayerNorm, RmsNorm};
use crate::number::{clean, larger, magnitude, round, smaller};
use crate::reference::{Sums, fixed_unit, gelu_one, swiglu_one};
use core::hint::black_box;

/// How many parts a reduction has: two vectors of 8, or one of 16.
pub(super) const LANES: usize = 16;
/// Elements whose fixed-point values (at most 2^22) can be added in 32 bits by [`LANES`] parts.
const FIXED_BLOCK: usize = LANES * 256;

instantiate! {
    /// `out = clean(a) + clean(b)`.
    fn add(a: &[f32], b: &[f32], out: &mut [f32]) = add_body;
    /// `out = gelu(x)`.
    fn gelu(x: &[f32], out: &mut [f32]) = gelu_body;
    /// `out = clean(x)`.
    fn clean_all(x: &[f32], out: &mut [f32]) = clean_body;
    /// Rows of `out` from rows of `x` and `residual`.
    fn layer_norm(layer: &LayerNorm, x: &[f32], residual: Option<&[f32]>, out: &mut [f32]) = layer_norm_body;
    /// Rows of `out` from rows of `x`.
    fn rms_norm(layer: &RmsNorm, x: &[f32], out: &mut [f32]) = rms_norm_body;
    /// One row of `out` from the gates and the values of one row.
    fn swiglu(gates: &[f32], values: &[f32], out: &mut [f32]) = swiglu_body;
    /// Turn pairs of columns of heads; `x` and `out` are the heads of one row.
    fn turn(x: &[f32], angles: &[[f32; 2]], out: &mut [f32]) = turn_body;
    /// Rows of `out` from rows of `x`.
    fn l2_normalise(x: &[f32], width: usize, out: &mut [f32]) = l2_normalise_body;
    /// Rows of `out` for ids that are known to lie in the table.
    fn embedding(layer: &Embedding, ids: &[i32], out: &mut [f32]) = embedding_body;
    /// One row of `out` from the rows of a sequence.
    fn mean_pool(sequence: &[f32], width: usize, out: &mut [f32]) = mean_pool_body;
}

#[inline(always)]
fn add_body(a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((&a, &b), y) in a.iter().zip(b).zip(out) {
        *y = clean(a) + clean(b);
    }
}

#[inline(always)]
fn gelu_body(x: &[f32], out: &mut [f32]) {
    for (&x, y) in x.iter().zip(out) {
        *y = gelu_one(x);
    }
}

#[inline(always)]
fn clean_body(x: &[f32], out: &mut [f32]) {
    for (&x, y) in x.iter().zip(out) {
        *y = clean(x);
    }
}

#[inline(always)]
fn embedding_body(layer: &Embedding, ids: &[i32], out: &mut [f32]) {
    let table = layer.table.as_slice();
    for (&id, out) in ids.iter().zip(out.chunks_exact_mut(layer.width)) {
        let start = id as usize * layer.width;
        let codes = table.get(start..start + layer.width).unwrap_or(&[]);
        let scale = layer.scale.get(id as usize).copied().unwrap_or(0.0);
        for (&code, y) in codes.iter().zip(out) {
            *y = f32::from(code) * scale;
        }
    }
}

#[inline(always)]
fn layer_norm_body(layer: &LayerNorm, x: &[f32], residual: Option<&[f32]>, out: &mut [f32]) {
    let width = layer.gain.len();
    for (i, (x, out)) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
        match residual.and_then(|r| r.get(i * width..(i + 1) * width)) {
            Some(residual) => add_body(x, residual, out),
            None => clean_body(x, out),
        }
        let Some(sums) = sums(out) else {
            out.copy_from_slice(&layer.bias);
            continue;
        };
        let (mean, r) = sums.mean_and_reciprocal(width, layer.epsilon);
        for ((y, &gain), &bias) in out.iter_mut().zip(&layer.gain).zip(&layer.bias) {
            *y = ((*y - mean) * r) * gain + bias;
        }
    }
}

#[inline(always)]
fn rms_norm_body(layer: &RmsNorm, x: &[f32], out: &mut [f32]) {
    let width = layer.gain.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        clean_body(x, out);
        let Some(sums) = sums(out) else {
            out.fill(0.0);
            continue;
        };
        let r = sums.reciprocal_root(width, layer.epsilon);
        for (y, &gain) in out.iter_mut().zip(&layer.gain) {
            *y = (*y * r) * gain;
        }
    }
}

#[inline(always)]
fn swiglu_body(gates: &[f32], values: &[f32], out: &mut [f32]) {
    for ((y, &gate), &up) in out.iter_mut().zip(gates).zip(values) {
        *y = swiglu_one(gate, up);
    }
}

#[inline(always)]
fn turn_body(x: &[f32], angles: &[[f32; 2]], out: &mut [f32]) {
    let width = 2 * angles.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let pairs = out.as_chunks_mut::<2>().0.iter_mut().zip(x.as_chunks::<2>().0);
        for ((turned, &[a, b]), &[cosine, sine]) in pairs.zip(angles) {
            let (a, b) = (clean(a), clean(b));
            *turned = [a * cosine - b * sine, a * sine + b * cosine];
        }
    }
}

#[inline(always)]
fn l2_normalise_body(x: &[f32], width: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        clean_body(x, out);
        let Some(sums) = sums(out) else {
            out.fill(0.0);
            continue;
        };
        let r = sums.reciprocal_length();
        for y in out {
            *y *= r;
        }
    }
}

#[inline(always)]
fn mean_pool_body(sequence: &[f32], width: usize, out: &mut [f32]) {
    let Some((to_fixed, unit)) = fixed_unit(largest_cleaned(sequence)) else {
        out.fill(0.0);
        return;
    };
    let length = sequence.len() / width;
    let mut sums = vec![0i64; width];
    let mut block_sums = vec![0i32; width];
    // 256 values of at most 2^22 fit 32 bits.
    for block in sequence.chunks(256 * width) {
        block_sums.fill(0);
        for row in block.chunks_exact(width) {
            for (sum, &x) in block_sums.iter_mut().zip(row) {
                *sum += round(clean(x) * to_fixed);
            }
        }
        for (sum, &block) in sums.iter_mut().zip(&block_sums) {
            *sum += i64::from(block);
        }
    }
    for (y, &sum) in out.iter_mut().zip(&sums) {
        *y = (sum as f64 / length as f64 * f64::from(unit)) as f32;
    }
}

/// The largest magnitude of values once they are cleaned.
#[inline(always)]
pub(super) fn largest_cleaned(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, magnitude(clean(x)));
        }
    }
    rest.iter().fold(fold_larger(&lanes), |m, &x| larger(m, magnitude(clean(x))))
}

/// The largest magnitude of cleaned values.
#[inline(always)]
pub(super) fn largest_magnitude(v: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = v.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, magnitude(x));
        }
    }
    rest.iter().fold(fold_larger(&lanes), |m, &x| larger(m, magnitude(x)))
}

/// The smallest and largest of 0 and cleaned values.
#[inline(always)]
pub(super) fn range(v: &[f32]) -> (f32, f32) {
    let (mut low, mut high) = ([0.0f32; LANES], [0.0f32; LANES]);
    let (chunks, rest) = v.as_chunks::<LANES>();
    for chunk in chunks {
        for ((low, high), &x) in low.iter_mut().zip(&mut high).zip(chunk) {
            *low = smaller(*low, x);
            *high = larger(*high, x);
        }
    }
    let low = rest.iter().chain(&low).fold(0.0, |m, &x| smaller(m, x));
    let high = rest.iter().chain(&high).fold(0.0, |m, &x| larger(m, x));
    (low, high)
}

/// The largest lane.
#[inline(always)]
pub(super) fn fold_larger(lanes: &[f32; LANES]) -> f32 {
    // By halves: a chain of sixteen would take longer than a short row.
    let mut lanes = *lanes;
    for half in [8, 4, 2, 1] {
        let (low, high) = lanes.split_at_mut(half);
        for (low, &high) in low.iter_mut().zip(&*high) {
            *low = larger(*low, high);
        }
    }
    let [largest, ..] = lanes;
    largest
}

/// The fixed-point sums of a row of cleaned values, as the reference defines them.
#[inline(always)]
fn sums(v: &[f32]) -> Option<Sums> {
    let (to_fixed, unit) = fixed_unit(largest_magnitude(v))?;
    let mut sum = 0i64;
    let mut squares = [0i64; LANES];
    for block in v.chunks(FIXED_BLOCK) {
        let mut block_sum = [0i32; LANES];
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks {
            for ((sum, square), &v) in block_sum.iter_mut().zip(&mut squares).zip(black_box(chunk)) {
                let fixed = round(v * to_fixed);
                *sum += fixed;
                *square += i64::from(fixed) * i64::from(fixed);
            }
        }
        for ((sum, square), &v) in block_sum.iter_mut().zip(&mut squares).zip(rest) {
            let fixed = round(v * to_fixed);
            *sum += fixed;
            *square += i64::from(fixed) * i64::from(fixed);
        }
        sum += block_sum.iter().map(|&s| i64::from(s)).sum::<i64>();
    }
    Some(Sums { sum, squares: squares.iter().sum(), unit })
}
