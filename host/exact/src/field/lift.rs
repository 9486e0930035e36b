//! From classes modulo p to totals.

use super::Field;
use super::elements::reduce_once;
use crate::ragged::ShapeError;
use crate::reference::expect_len;
use crate::simd::Executor;
use crate::simd::instantiate::instantiate;
use crate::simd::level::Proven;

/// Totals of a part of an operation.
const CHUNK: usize = 16 * 1024;

instantiate! {
    /// Rows of whole totals.
    fn lift_rows(p: u32, elements: &[u32], least: &[i64], outputs: usize, totals: &mut [i64]) = lift_rows_body;
    /// Those of u8 codes.
    fn lift_rows_u8(p: u32, elements: &[u32], least: &[i64], outputs: usize, totals: &mut [i32]) = lift_rows_u8_body;
}

#[inline(always)]
fn lift_rows_body(p: u32, elements: &[u32], least: &[i64], outputs: usize, totals: &mut [i64]) {
    for (elements, totals) in elements.chunks_exact(least.len()).zip(totals.chunks_exact_mut(outputs)) {
        totals.fill(0);
        for (elements, least) in elements.chunks_exact(outputs).zip(least.chunks_exact(outputs)) {
            for ((total, &x), &least) in totals.iter_mut().zip(elements).zip(least) {
                let above = reduce_once(x.wrapping_sub(least as u32), p);
                *total += least + i64::from(above);
            }
        }
    }
}

#[inline(always)]
fn lift_rows_u8_body(p: u32, elements: &[u32], least: &[i64], outputs: usize, totals: &mut [i32]) {
    for (elements, totals) in elements.chunks_exact(least.len()).zip(totals.chunks_exact_mut(outputs)) {
        totals.fill(0);
        for (elements, least) in elements.chunks_exact(outputs).zip(least.chunks_exact(outputs)) {
            for ((total, &x), &least) in totals.iter_mut().zip(elements).zip(least) {
                let above = reduce_once(x.wrapping_sub(least as u32), p);
                *total = total.wrapping_add(least as i32).wrapping_add(above as i32);
            }
        }
    }
}

/// `totals` [R, N], each the sum over the parts of the one integer in `least ..= least + p - 1` that is its element modulo p;
/// `elements` is [R, parts * N], `least` [parts * N] as of [`Parts`](super::Parts), `outputs` N.
///
/// # Errors
/// Slices of another size, a least total that no part has.
pub fn lift(
    executor: &Executor,
    field: Field,
    elements: &[u32],
    least: &[i64],
    outputs: usize,
    totals: &mut [i64],
) -> Result<(), ShapeError> {
    each_row(executor, field, elements, least, outputs, totals, lift_rows)
}

/// [`lift`] to totals of u8 codes, which 32 bits hold. Elements that no such codes have give totals modulo 2^32.
///
/// # Errors
/// As [`lift`].
pub fn lift_u8(
    executor: &Executor,
    field: Field,
    elements: &[u32],
    least: &[i64],
    outputs: usize,
    totals: &mut [i32],
) -> Result<(), ShapeError> {
    each_row(executor, field, elements, least, outputs, totals, lift_rows_u8)
}

fn each_row<T: Send>(
    executor: &Executor,
    field: Field,
    elements: &[u32],
    least: &[i64],
    outputs: usize,
    totals: &mut [T],
    lift_rows: impl Fn(Proven, u32, &[u32], &[i64], usize, &mut [T]) + Sync,
) -> Result<(), ShapeError> {
    let rows = expect_lift(field, elements.len(), least, outputs, totals.len())?;
    if rows == 0 {
        return Ok(());
    }
    let chunk = CHUNK.div_ceil(outputs);
    executor.crew().each_chunk(totals, chunk * outputs, |i, totals| {
        let elements = elements.get(i * chunk * least.len()..).unwrap_or(&[]);
        lift_rows(executor.proven(), field.prime(), elements, least, outputs, totals);
    });
    Ok(())
}

/// How many rows are to be lifted.
pub(super) fn expect_lift(
    field: Field,
    elements: usize,
    least: &[i64],
    outputs: usize,
    totals: usize,
) -> Result<usize, ShapeError> {
    if outputs == 0 || least.is_empty() || !least.len().is_multiple_of(outputs) {
        return Err(ShapeError(format!("{} least totals of {outputs} outputs: as many for each part", least.len())));
    }
    let bound = i64::from(field.prime()) - 1;
    if let Some(least) = least.iter().find(|&least| !(-bound..=0).contains(least)) {
        return Err(ShapeError(format!("{least} is no least total of a part: those lie in -{bound} to 0")));
    }
    let rows = totals / outputs;
    expect_len("the totals", totals, rows, outputs)?;
    expect_len("the elements", elements, rows, least.len())?;
    Ok(rows)
}
