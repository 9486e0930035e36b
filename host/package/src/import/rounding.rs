//! Weights to 8-bit codes so that the layer's outputs change least.
//!
//! # Why
//!
//! Rounding each weight to its nearest code loses more than half of the accuracy that 8 bits allow:
//! what counts is the change of the output, and inputs are correlated.
//!
//! # How
//!
//! 1. With H the covariance of the inputs, the expected squared change of an output is `e H e^T`, `e`
//!    the row's rounding errors. With `H = L L^T` it is `|e L|^2`.
//! 2. L is triangular: element j of `e L` depends on the errors j, j + 1, ... only. So columns are
//!    rounded from the last to the first, each to the code that makes its element smallest given the
//!    errors already made (the nearest-plane method; GPTQ does the same from the other end).
//! 3. Columns with the loudest inputs are rounded first: what they leave behind the others mend.
//! 4. A share of the mean variance is added to the diagonal, so that a few thousand calibration rows
//!    cannot persuade it of correlations that are not there.

use super::matrix::{Matrix, cholesky};
use rayon::prelude::*;

/// The largest code.
pub(super) const MAX_CODE: f64 = 127.0;

/// Rows rounded together, so that a row of L is fetched once for all of them.
const GROUP: usize = 16;

/// A weight matrix as codes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rounded {
    pub(super) codes: Vec<i8>,
    pub(super) scale: Vec<f32>,
}

/// Inputs of a layer as the rounding sees them.
pub(super) struct Inputs {
    /// `order[i]`: which column comes i-th; quiet ones first, they are rounded last.
    order: Vec<usize>,
    /// L of the reordered covariance, `None` if there is none (all inputs constant zero).
    factor: Option<Matrix<f64>>,
}

impl Inputs {
    /// From the covariance of the inputs, `damping` a share of its mean diagonal.
    pub(super) fn new(covariance: &Matrix<f64>, damping: f64) -> Self {
        let n = covariance.rows;
        let diagonal: Vec<f64> =
            covariance.iter_rows().enumerate().map(|(i, row)| row.get(i).copied().unwrap_or_default()).collect();
        let mut order: Vec<usize> = (0..n).collect();
        let at = |i: usize| diagonal.get(i).copied().unwrap_or_default();
        order.sort_by(|&a, &b| at(a).total_cmp(&at(b)).then(a.cmp(&b)));
        let ridge = damping * diagonal.iter().sum::<f64>() / n.max(1) as f64;
        let mut sorted = Matrix::zeros(n, n);
        for (i, (out, &from)) in sorted.data.chunks_exact_mut(n.max(1)).zip(&order).enumerate() {
            let row = covariance.row(from);
            for (y, &c) in out.iter_mut().zip(&order) {
                *y = row.get(c).copied().unwrap_or_default();
            }
            if let Some(y) = out.get_mut(i) {
                *y += ridge;
            }
        }
        Self { order, factor: cholesky(&sorted) }
    }

    /// Round `w` [N, K].
    pub(super) fn round(&self, w: &Matrix<f64>) -> Rounded {
        let k = w.columns.max(1);
        let mut codes = vec![0i8; w.rows * w.columns];
        let scale: Vec<f32> = w.iter_rows().map(row_scale).collect();
        let groups = codes.par_chunks_mut(GROUP * k).zip(w.data.par_chunks(GROUP * k)).zip(scale.par_chunks(GROUP));
        groups.for_each(|((codes, w), scale)| match &self.factor {
            Some(factor) => self.round_group(factor, w, scale, codes),
            None => {
                for ((codes, w), &scale) in codes.chunks_exact_mut(k).zip(w.chunks_exact(k)).zip(scale) {
                    for (code, &w) in codes.iter_mut().zip(w) {
                        *code = nearest(w, f64::from(scale)) as i8;
                    }
                }
            }
        });
        Rounded { codes, scale }
    }

    fn round_group(&self, factor: &Matrix<f64>, w: &[f64], scale: &[f32], codes: &mut [i8]) {
        let k = factor.rows.max(1);
        // What the errors made so far add to each element of `e L`.
        let mut carried = vec![0.0f64; scale.len() * k];
        for (j, &column) in self.order.iter().enumerate().rev() {
            let row = factor.row(j);
            let pivot = row.get(j).copied().unwrap_or(1.0);
            let rows = carried.chunks_exact_mut(k).zip(w.chunks_exact(k)).zip(scale).zip(codes.chunks_exact_mut(k));
            for (((carried, w), &scale), codes) in rows {
                let (Some(&w), Some(&c), Some(code)) = (w.get(column), carried.get(j), codes.get_mut(column)) else {
                    continue;
                };
                let scale = f64::from(scale);
                let chosen = nearest(w + c / pivot, scale);
                *code = chosen as i8;
                let error = w - chosen * scale;
                for (c, &l) in carried.iter_mut().zip(row).take(j) {
                    *c += error * l;
                }
            }
        }
    }
}

/// The scale that puts the row's largest weight on the largest code.
fn row_scale(row: &[f64]) -> f32 {
    let max = row.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    (max / MAX_CODE) as f32
}

/// The code nearest to `v`, as a float; 0 in a row of zeros.
pub(super) fn nearest(v: f64, scale: f64) -> f64 {
    if scale > 0.0 { libm::rint(v / scale).clamp(-MAX_CODE, MAX_CODE) } else { 0.0 }
}

/// Scales tried for a row of a table, each this much of its largest value less.
const SHRINK: f64 = 0.02;
const SHRINKS: usize = 12;

/// Rows that are looked up, each by itself: the scale with the least squared error.
pub(super) fn round_rows(w: &Matrix<f32>) -> Rounded {
    let columns = w.columns.max(1);
    let mut codes = vec![0i8; w.data.len()];
    let mut scale = vec![0.0f32; w.rows];
    codes.par_chunks_mut(columns).zip(&mut scale).zip(w.data.par_chunks(columns)).for_each(|((codes, scale), row)| {
        let max = row.iter().fold(0.0f64, |m, &v| m.max(f64::from(v).abs()));
        let mut best = f64::INFINITY;
        for step in 0..SHRINKS {
            let tried = (max * (1.0 - SHRINK * step as f64) / MAX_CODE) as f32;
            let error = row.iter().fold(0.0, |sum, &v| {
                let e = f64::from(v) - nearest(v.into(), tried.into()) * f64::from(tried);
                sum + e * e
            });
            if error < best {
                (best, *scale) = (error, tried);
            }
        }
        for (code, &v) in codes.iter_mut().zip(row) {
            *code = nearest(v.into(), f64::from(*scale)) as i8;
        }
    });
    Rounded { codes, scale }
}
