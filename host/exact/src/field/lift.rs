//! From classes modulo p to totals.

use super::P;
use super::elements::reduce_once;
use crate::ragged::ShapeError;
use crate::reference::expect_len;
use crate::simd::Executor;
use crate::simd::instantiate::instantiate;

/// Totals of a part of an operation.
const CHUNK: usize = 16 * 1024;

instantiate! {
    /// Rows of whole totals.
    fn lift_rows(elements: &[u32], least: &[i64], outputs: usize, totals: &mut [i64]) = lift_rows_body;
}

#[inline(always)]
fn lift_rows_body(elements: &[u32], least: &[i64], outputs: usize, totals: &mut [i64]) {
    for (elements, totals) in elements.chunks_exact(least.len()).zip(totals.chunks_exact_mut(outputs)) {
        totals.fill(0);
        for (elements, least) in elements.chunks_exact(outputs).zip(least.chunks_exact(outputs)) {
            for ((total, &x), &least) in totals.iter_mut().zip(elements).zip(least) {
                let above = reduce_once(x.wrapping_sub(least as u32));
                *total += least + i64::from(above);
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
    elements: &[u32],
    least: &[i64],
    outputs: usize,
    totals: &mut [i64],
) -> Result<(), ShapeError> {
    let rows = expect_lift(elements.len(), least, outputs, totals.len())?;
    if rows == 0 {
        return Ok(());
    }
    let chunk = CHUNK.div_ceil(outputs);
    executor.crew().each_chunk(totals, chunk * outputs, |i, totals| {
        let elements = elements.get(i * chunk * least.len()..).unwrap_or(&[]);
        lift_rows(executor.proven(), elements, least, outputs, totals);
    });
    Ok(())
}

/// How many rows are to be lifted.
pub(super) fn expect_lift(elements: usize, least: &[i64], outputs: usize, totals: usize) -> Result<usize, ShapeError> {
    if outputs == 0 || least.is_empty() || !least.len().is_multiple_of(outputs) {
        return Err(ShapeError(format!("{} least totals of {outputs} outputs: as many for each part", least.len())));
    }
    let bound = i64::from(P) - 1;
    if let Some(least) = least.iter().find(|&least| !(-bound..=0).contains(least)) {
        return Err(ShapeError(format!("{least} is no least total of a part: those lie in -{bound} to 0")));
    }
    let rows = totals / outputs;
    expect_len("the totals", totals, rows, outputs)?;
    expect_len("the elements", elements, rows, least.len())?;
    Ok(rows)
}
