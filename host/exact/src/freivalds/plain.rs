//! The same checks, written down as they are defined: one integer operation after another, no limits, no
//! speed. The tests hold the fast ones to it.

use super::{Challenge, FIELD, Sides, WIDE_BIAS};

/// Both sides for `totals` [rows, N], claimed for `codes` [rows, K] and `weights` [N, K].
///
/// With a `bound`, the largest magnitude that a total may have, with `2 bound < p`, rows are compared in the
/// field. Without, they are compared as integers, and totals may lie in `1 - 2^43 ..= 2^43`.
///
/// Slices that do not fit give fewer rows.
pub fn check(
    challenge: &Challenge,
    codes: &[i64],
    weights: &[i64],
    inputs: usize,
    totals: &[i64],
    bound: Option<i64>,
) -> Sides {
    let p = i128::from(FIELD);
    let range = bound.map_or(-WIDE_BIAS..=WIDE_BIAS + 1, |bound| -bound..=bound);
    let outputs = challenge.len();
    let mut sides = Sides::default();
    for (codes, totals) in codes.chunks_exact(inputs.max(1)).zip(totals.chunks_exact(outputs.max(1))) {
        let in_range = totals.iter().all(|total| range.contains(total));
        for r in challenge.elements() {
            let left: i128 = totals.iter().zip(r).map(|(&y, &r)| i128::from(y) * i128::from(r)).sum();
            let mut right = 0i128;
            for (weights, &r) in weights.chunks_exact(inputs.max(1)).zip(r) {
                let product: i128 = codes.iter().zip(weights).map(|(&x, &w)| i128::from(x) * i128::from(w)).sum();
                right += product * i128::from(r);
            }
            let (left_residue, right_residue) = (left.rem_euclid(p) as u32, right.rem_euclid(p) as u32);
            let hidden = bound.is_none() && left != right && left_residue == right_residue;
            sides.right.push(right_residue);
            sides.left.push(if hidden || !in_range {
                (i128::from(right_residue) - 1).rem_euclid(p) as u32
            } else {
                left_residue
            });
        }
    }
    sides
}
