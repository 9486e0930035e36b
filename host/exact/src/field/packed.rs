//! Elements as they are sent: as few bytes as they need.
//!
//! A row of W elements is [`Field::bytes`] rows of W bytes: all lowest bytes, then all second ones, and so on. So a
//! processor makes one of the other a vector at a time.

use super::Field;
use super::elements::expect_elements;
use crate::ragged::ShapeError;
use crate::reference::expect_len;
use crate::simd::Executor;
use crate::simd::instantiate::instantiate;
use core::sync::atomic::{AtomicU32, Ordering};

/// Elements of a part of an operation.
const CHUNK: usize = 32 * 1024;

instantiate! {
    fn pack_row(bytes: usize, elements: &[u32], packed: &mut [u8]) = pack_row_body;
    /// And the largest element.
    fn unpack_row(bytes: usize, packed: &[u8], elements: &mut [u32]) -> u32 = unpack_row_body;
}

#[inline(always)]
fn pack_row_body(bytes: usize, elements: &[u32], packed: &mut [u8]) {
    let width = elements.len().max(1);
    for (limb, packed) in packed.chunks_exact_mut(width).take(bytes).enumerate() {
        let shift = 8 * limb as u32;
        packed.iter_mut().zip(elements).for_each(|(byte, &x)| *byte = (x >> shift) as u8);
    }
}

#[inline(always)]
fn unpack_row_body(bytes: usize, packed: &[u8], elements: &mut [u32]) -> u32 {
    let (width, mut largest) = (elements.len(), 0);
    let limb = |limb: usize| packed.get(limb * width..(limb + 1) * width).unwrap_or(&[]);
    let low = limb(0).iter().zip(limb(1)).zip(limb(2));
    let low = low.map(|((&a, &b), &c)| u32::from(a) | u32::from(b) << 8 | u32::from(c) << 16);
    if bytes == Field::P31.bytes() {
        for ((x, low), &d) in elements.iter_mut().zip(low).zip(limb(3)) {
            *x = low | u32::from(d) << 24;
            largest = largest.max(*x);
        }
    } else {
        for (x, low) in elements.iter_mut().zip(low) {
            *x = low;
            largest = largest.max(low);
        }
    }
    largest
}

/// Rows of `width` elements as they are sent: `packed` has [`Field::bytes`] for each.
///
/// # Errors
/// Slices of another size.
pub fn pack(
    executor: &Executor,
    field: Field,
    elements: &[u32],
    width: usize,
    packed: &mut [u8],
) -> Result<(), ShapeError> {
    let rows = expect_rows(field, elements.len(), width, packed.len())?;
    if rows == 0 {
        return Ok(());
    }
    let chunk = CHUNK.div_ceil(width);
    let bytes = field.bytes();
    executor.crew().each_chunk(packed, chunk * width * bytes, |i, packed| {
        let elements = elements.get(i * chunk * width..).unwrap_or(&[]);
        for (elements, packed) in elements.chunks_exact(width).zip(packed.chunks_exact_mut(width * bytes)) {
            pack_row(executor.proven(), bytes, elements, packed);
        }
    });
    Ok(())
}

/// Rows of `width` elements that were sent.
///
/// # Errors
/// Slices of another size, numbers that are not elements.
pub fn unpack(
    executor: &Executor,
    field: Field,
    packed: &[u8],
    width: usize,
    elements: &mut [u32],
) -> Result<(), ShapeError> {
    let rows = expect_rows(field, elements.len(), width, packed.len())?;
    if rows == 0 {
        return Ok(());
    }
    let chunk = CHUNK.div_ceil(width);
    let bytes = field.bytes();
    let most = AtomicU32::new(0);
    executor.crew().each_chunk(elements, chunk * width, |i, elements| {
        let packed = packed.get(i * chunk * width * bytes..).unwrap_or(&[]);
        for (elements, packed) in elements.chunks_exact_mut(width).zip(packed.chunks_exact(width * bytes)) {
            most.fetch_max(unpack_row(executor.proven(), bytes, packed, elements), Ordering::Relaxed);
        }
    });
    if most.into_inner() < field.prime() { Ok(()) } else { expect_elements(field, elements) }
}

/// How many rows there are.
pub(super) fn expect_rows(field: Field, elements: usize, width: usize, packed: usize) -> Result<usize, ShapeError> {
    let rows = elements.checked_div(width).unwrap_or(0);
    expect_len("the elements", elements, rows, width)?;
    expect_len("the packed elements", packed, elements, field.bytes())?;
    Ok(rows)
}
