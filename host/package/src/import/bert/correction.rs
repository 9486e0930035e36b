//! Weights that also take back what was lost before them.
//!
//! # Why
//!
//! The inputs of a layer carry the rounding of all layers before it. Part of what that does to the
//! outputs can be foretold from the inputs themselves, so a change of the weights takes it back at no
//! cost to those who run the model (what GPTAQ calls asymmetric calibration).
//!
//! # How
//!
//! With X the inputs [rows, K] and E what the outputs lack [rows, N] while the weights are as published,
//! the change that takes most of E back is the ridge regression `E^T X (X^T X + lambda)^-1`. Lambda is
//! large: a few thousand rows would persuade it of much that other texts do not bear out.

use super::matrix::{Matrix, Packed, cholesky};
use rayon::prelude::*;

/// Lambda as a share of the mean diagonal of `X^T X`. Less fits the calibration texts better and
/// others worse.
const LAMBDA: f64 = 5.0;

/// Rows solved together, so that a row of the factor is fetched once for all of them.
const LANES: usize = 16;

/// The change [N, K] of the weights, from the inputs, their `covariance` and what the outputs lack.
pub(super) fn correction(inputs: &Matrix<f32>, covariance: &Matrix<f64>, lacking: &Matrix<f32>) -> Matrix<f64> {
    let k = covariance.rows;
    let mut change = Matrix::zeros(lacking.columns, k);
    let mut ridged = covariance.clone();
    let diagonal = || (0..k).map(|i| i * k + i);
    let trace: f64 = diagonal().filter_map(|i| covariance.data.get(i)).sum();
    for i in diagonal() {
        if let Some(v) = ridged.data.get_mut(i) {
            *v += LAMBDA * trace / k as f64;
        }
    }
    // Inputs that are all zero: nothing can be foretold from them.
    let Some(factor) = cholesky(&ridged) else { return change };
    let together = Packed::new(&inputs.transposed()).product(&lacking.transposed());
    let rows = inputs.rows.max(1) as f64;
    change.data.par_chunks_mut(LANES * k).zip(together.data.par_chunks(LANES * k)).for_each(|(change, together)| {
        let mut lanes = vec![[0.0f64; LANES]; k];
        for (lane, row) in together.chunks_exact(k).enumerate() {
            for (to, &v) in lanes.iter_mut().zip(row) {
                if let Some(to) = to.get_mut(lane) {
                    *to = f64::from(v) / rows;
                }
            }
        }
        solve(&factor, &mut lanes);
        for (lane, row) in change.chunks_exact_mut(k).enumerate() {
            for (v, from) in row.iter_mut().zip(&lanes) {
                *v = from.get(lane).copied().unwrap_or_default();
            }
        }
    });
    change
}

/// `y` becomes the solution of `L L^T . solution = y`, lane by lane.
fn solve(factor: &Matrix<f64>, y: &mut [[f64; LANES]]) {
    for (i, row) in factor.iter_rows().enumerate() {
        let (before, rest) = y.split_at_mut(i);
        if let (Some(y), Some(pivot)) = (rest.first_mut(), row.get(i)) {
            for (before, &l) in before.iter().zip(row) {
                subtract(y, l, before);
            }
            divide(y, *pivot);
        }
    }
    for (i, row) in factor.iter_rows().enumerate().rev() {
        let (before, rest) = y.split_at_mut(i);
        if let (Some(y), Some(pivot)) = (rest.first_mut(), row.get(i)) {
            divide(y, *pivot);
            for (before, &l) in before.iter_mut().zip(row) {
                subtract(before, l, y);
            }
        }
    }
}

fn subtract(from: &mut [f64; LANES], factor: f64, values: &[f64; LANES]) {
    for (y, &v) in from.iter_mut().zip(values) {
        *y -= factor * v;
    }
}

fn divide(y: &mut [f64; LANES], by: f64) {
    for y in y {
        *y /= by;
    }
}

#[cfg(test)]
mod tests {
    use super::{super::matrix::covariance, *};

    /// `change (X^T X / rows + lambda) = E^T X / rows`.
    #[test]
    fn is_the_ridge_regression() {
        let number = |i: usize| ((i * 7_919 + 13) % 101) as f32 / 50.0 - 1.0;
        let (rows, k, n) = (50, 21, 19);
        let inputs = Matrix { rows, columns: k, data: (0..rows * k).map(number).collect() };
        let lacking = Matrix { rows, columns: n, data: (0..rows * n).map(|i| number(i * 3 + 1)).collect() };
        let square = covariance(&inputs);
        let change = correction(&inputs, &square, &lacking);
        let lambda = LAMBDA * (0..k).map(|i| square.row(i)[i]).sum::<f64>() / k as f64;
        for o in 0..n {
            for c in 0..k {
                let got: f64 =
                    (0..k).map(|j| change.row(o)[j] * square.row(j)[c]).sum::<f64>() + lambda * change.row(o)[c];
                let wanted: f64 =
                    (0..rows).map(|r| f64::from(lacking.row(r)[o]) * f64::from(inputs.row(r)[c])).sum::<f64>()
                        / rows as f64;
                assert!((got - wanted).abs() < 1e-5, "output {o}, input {c}: {got} {wanted}");
            }
        }
    }

    #[test]
    fn inputs_of_zeros_change_nothing() {
        let change =
            correction(&Matrix::zeros(4, 3), &Matrix::zeros(3, 3), &Matrix { rows: 4, columns: 2, data: vec![1.0; 8] });
        assert_eq!(change, Matrix::zeros(2, 3));
    }
}
