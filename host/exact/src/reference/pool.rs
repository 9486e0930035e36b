//! From the rows of a sequence to one row, or to some of them.

use super::{expect_len, fixed_unit};
use crate::number::{clean, larger, magnitude, round};
use crate::ragged::{Lengths, ShapeError};
use alloc::vec;

/// The mean over each sequence's rows.
///
/// With (`to_fixed`, `unit`) from the largest magnitude in the whole sequence
/// ([`fixed_unit`]), column by column: `f32(f64(sum round(v * to_fixed)) / length * unit)`, the sum an
/// exact integer, the rest f64. A sequence of zeros gives zeros.
///
/// # Errors
/// Slices of another size than [rows, width] and [sequences, width].
pub fn mean_pool(x: &[f32], lengths: &Lengths, width: usize, out: &mut [f32]) -> Result<(), ShapeError> {
    expect_len("x", x.len(), lengths.iter().sum(), width)?;
    expect_len("the output", out.len(), lengths.sequences(), width)?;
    if out.is_empty() {
        return Ok(());
    }
    let mut sums = vec![0i64; width];
    let mut rest = x;
    for (length, out) in lengths.iter().zip(out.chunks_exact_mut(width)) {
        let (sequence, after) = rest.split_at(length * width);
        rest = after;
        let max = sequence.iter().fold(0.0, |m, &x| larger(m, magnitude(clean(x))));
        let Some((to_fixed, unit)) = fixed_unit(max) else {
            out.fill(0.0);
            continue;
        };
        sums.fill(0);
        for row in sequence.chunks_exact(width) {
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum += i64::from(round(clean(x) * to_fixed));
            }
        }
        for (y, &sum) in out.iter_mut().zip(&sums) {
            *y = (sum as f64 / length as f64 * f64::from(unit)) as f32;
        }
    }
    Ok(())
}

/// The first row of each sequence, cleaned.
///
/// # Errors
/// As [`mean_pool`].
pub fn first_pool(x: &[f32], lengths: &Lengths, width: usize, out: &mut [f32]) -> Result<(), ShapeError> {
    expect_len("x", x.len(), lengths.iter().sum(), width)?;
    expect_len("the output", out.len(), lengths.sequences(), width)?;
    if out.is_empty() {
        return Ok(());
    }
    let mut rest = x;
    for (length, out) in lengths.iter().zip(out.chunks_exact_mut(width)) {
        let (sequence, after) = rest.split_at(length * width);
        rest = after;
        for (y, &x) in out.iter_mut().zip(sequence) {
            *y = clean(x);
        }
    }
    Ok(())
}

/// The last rows of each sequence, cleaned: of each as many as `wanted` says.
///
/// # Errors
/// `wanted` that is not one number for each sequence, at most its rows; slices of another size than [rows, width] and
/// [rows wanted, width].
pub fn last_rows(
    x: &[f32],
    lengths: &Lengths,
    wanted: &[usize],
    width: usize,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    expect_len("x", x.len(), lengths.iter().sum(), width)?;
    expect_len("the output", out.len(), lengths.wanted(wanted)?, width)?;
    let (mut x, mut out) = (x, out);
    for (length, &wanted) in lengths.iter().zip(wanted) {
        let (sequence, x_after) = x.split_at(length * width);
        let (_, last) = sequence.split_at((length - wanted) * width);
        let (rows, out_after) = out.split_at_mut(wanted * width);
        for (y, &x) in rows.iter_mut().zip(last) {
            *y = clean(x);
        }
        (x, out) = (x_after, out_after);
    }
    Ok(())
}
