//! The encoder in f32, for calibration: what the exact operations are held against.
//!
//! The same on every machine: see `matrix`; sums run in order in f64, functions come from `libm`.

use super::matrix::Matrix;
use rayon::prelude::*;

/// Layer normalisation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Norm {
    pub(super) gain: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) epsilon: f32,
}

impl Norm {
    /// Of `x + residual`.
    pub(super) fn apply(&self, x: &Matrix<f32>, residual: &Matrix<f32>) -> Matrix<f32> {
        let width = x.columns.max(1);
        let mut out = x.clone();
        out.data.par_chunks_mut(width).zip(residual.data.par_chunks(width)).for_each(|(row, residual)| {
            for (v, &r) in row.iter_mut().zip(residual) {
                *v += r;
            }
            let n = width as f64;
            let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
            let variance = row.iter().map(|&v| (f64::from(v) - mean) * (f64::from(v) - mean)).sum::<f64>() / n;
            let r = 1.0 / libm::sqrt(variance + f64::from(self.epsilon));
            for ((v, &gain), &bias) in row.iter_mut().zip(&self.gain).zip(&self.bias) {
                *v = ((f64::from(*v) - mean) * r * f64::from(gain) + f64::from(bias)) as f32;
            }
        });
        out
    }
}

/// `x * Phi(x)`.
pub(super) fn gelu(x: &Matrix<f32>) -> Matrix<f32> {
    let half = std::f64::consts::FRAC_1_SQRT_2;
    let data = x
        .data
        .par_iter()
        .map(|&v| {
            let v = f64::from(v);
            (0.5 * v * (1.0 + libm::erf(v * half))) as f32
        })
        .collect();
    Matrix { data, ..*x }
}

/// Attention inside each sequence; `qkv` is [rows, 3 * width].
pub(super) fn attention(qkv: &Matrix<f32>, lengths: &[usize], heads: usize) -> Matrix<f32> {
    let width = qkv.columns / 3;
    let mut out = Matrix::zeros(qkv.rows, width);
    let mut sequences = Vec::with_capacity(lengths.len());
    let (mut inputs, mut outputs) = (qkv.data.as_slice(), out.data.as_mut_slice());
    for &length in lengths {
        let (input, more) = inputs.split_at((length * 3 * width).min(inputs.len()));
        let split = (length * width).min(outputs.len());
        let (output, rest) = outputs.split_at_mut(split);
        sequences.push((input, output));
        (inputs, outputs) = (more, rest);
    }
    sequences.into_par_iter().for_each(|(input, output)| attend(input, width, heads, output));
    out
}

fn attend(qkv: &[f32], width: usize, heads: usize, out: &mut [f32]) {
    let d = (width / heads.max(1)).max(1);
    let root = 1.0 / libm::sqrt(d as f64);
    let part = |row, part: usize, head: usize| -> &[f32] {
        let row: &[f32] = row;
        row.get(part * width + head * d..part * width + (head + 1) * d).unwrap_or_default()
    };
    let mut sums = vec![0.0f64; d];
    let mut scores = Vec::new();
    for head in 0..heads {
        for (query, out) in qkv.chunks_exact(3 * width).zip(out.chunks_exact_mut(width)) {
            let query = part(query, 0, head);
            scores.clear();
            scores.extend(qkv.chunks_exact(3 * width).map(|row| {
                let dot = query.iter().zip(part(row, 1, head)).fold(0.0f32, |sum, (&q, &k)| sum + q * k);
                f64::from(dot) * root
            }));
            let max = scores.iter().fold(f64::MIN, |m, &s| m.max(s));
            let mut total = 0.0;
            sums.fill(0.0);
            for (&score, row) in scores.iter().zip(qkv.chunks_exact(3 * width)) {
                let weight = libm::exp(score - max);
                total += weight;
                for (sum, &v) in sums.iter_mut().zip(part(row, 2, head)) {
                    *sum += weight * f64::from(v);
                }
            }
            for (y, &sum) in out.iter_mut().skip(head * d).zip(&sums) {
                *y = (sum / total) as f32;
            }
        }
    }
}

/// One row for each sequence: the mean of its rows, or its first.
pub(super) fn pool(x: &Matrix<f32>, lengths: &[usize], mean: bool) -> Vec<Vec<f64>> {
    let mut rows = x.iter_rows();
    lengths
        .iter()
        .map(|&length| {
            let mut sum = vec![0.0f64; x.columns];
            for (i, row) in rows.by_ref().take(length).enumerate() {
                if mean || i == 0 {
                    for (s, &v) in sum.iter_mut().zip(row) {
                        *s += f64::from(v);
                    }
                }
            }
            sum
        })
        .collect()
}

/// Cosine of the angle between two vectors; 1 if both are zero.
pub(super) fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let lengths = libm::sqrt(dot(a, a) * dot(b, b));
    if lengths > 0.0 { dot(a, b) / lengths } else { 1.0 }
}
