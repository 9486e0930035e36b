//! Positions as angles.

use super::expect_len;
use crate::layer::Rotary;
use crate::number::clean;
use crate::ragged::ShapeError;
use alloc::format;

/// Turn pairs of columns: in row t and in each of the layer's heads, columns `2i` and `2i + 1`, cleaned, as (a, b), and
/// with (c, s) pair i of the table's row `positions[t]`:
///
/// `(a * c - b * s, a * s + b * c)`
///
/// Each operation is rounded by itself. Columns after the heads are cleaned and otherwise unchanged.
///
/// # Errors
/// A position outside the table, fewer columns than the heads have, slices of another size than [positions, columns].
pub fn rotary(layer: &Rotary, x: &[f32], positions: &[i32], columns: usize, out: &mut [f32]) -> Result<(), ShapeError> {
    expect_turned(layer, x.len(), positions.len(), columns, out.len())?;
    let rows = x.chunks_exact(columns).zip(out.chunks_exact_mut(columns));
    for ((x, out), &position) in rows.zip(positions) {
        let angles = layer.angles(position)?;
        for (y, &x) in out.iter_mut().zip(x) {
            *y = clean(x);
        }
        let (turned, _) = out.split_at_mut(layer.turned());
        for head in turned.chunks_exact_mut(layer.width) {
            for ([a, b], &[cosine, sine]) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                (*a, *b) = (*a * cosine - *b * sine, *a * sine + *b * cosine);
            }
        }
    }
    Ok(())
}

/// Slices must fit the layer.
pub(crate) fn expect_turned(
    layer: &Rotary,
    x: usize,
    rows: usize,
    columns: usize,
    out: usize,
) -> Result<(), ShapeError> {
    if columns < layer.turned() {
        let (heads, width) = (layer.heads, layer.width);
        return Err(ShapeError(format!("{heads} heads of {width} columns cannot be turned in rows of {columns}")));
    }
    expect_len("x", x, rows, columns)?;
    expect_len("the output", out, rows, columns)
}
