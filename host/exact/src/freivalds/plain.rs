//! The same checks, written down as they are defined: one integer operation after another, no limits, no
//! speed. The tests hold the fast ones to it.

use super::Challenge;

/// Both sides, row by row, for `totals` [rows, N], claimed for `codes` [rows, K] and `weights` [N, K]: sums as
/// integers, then modulo 2^64. With `range`, the centre of each column and a reach, totals must lie in
/// `centre - reach .. centre + reach`.
///
/// Slices that do not fit give fewer rows.
pub fn check(
    challenge: &Challenge,
    codes: &[i64],
    weights: &[i64],
    inputs: usize,
    totals: &[i64],
    range: Option<(&[i64], i64)>,
) -> [Vec<[u64; 2]>; 2] {
    let modulo = |x: i128| x.rem_euclid(1 << 64) as u64;
    let is_in_range = |totals: &[i64]| {
        range.is_none_or(|(centres, reach)| {
            let reach = i128::from(reach);
            let mut offsets = totals.iter().zip(centres).map(|(&y, &centre)| i128::from(y) - i128::from(centre));
            offsets.all(|offset| (-reach..reach).contains(&offset))
        })
    };
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for (codes, totals) in codes.chunks_exact(inputs.max(1)).zip(totals.chunks_exact(challenge.len().max(1))) {
        let exact = challenge.elements().map(|r| {
            let products = weights.chunks_exact(inputs.max(1)).map(|weights| -> i128 {
                codes.iter().zip(weights).map(|(&x, &w)| i128::from(x) * i128::from(w)).sum()
            });
            modulo(products.zip(r).map(|(y, &r)| y * i128::from(r)).sum())
        });
        let claimed = challenge
            .elements()
            .map(|r| modulo(totals.iter().zip(r).map(|(&y, &r)| i128::from(y) * i128::from(r)).sum()));
        left.push(if is_in_range(totals) { claimed } else { exact.map(|side| side.wrapping_sub(1)) });
        right.push(exact);
    }
    [left, right]
}
