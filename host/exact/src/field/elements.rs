//! Sums and differences of elements, and whether numbers are elements.

use super::P;
use crate::ragged::ShapeError;
use crate::reference::expect_len;
use crate::simd::instantiate::instantiate;
use crate::simd::level::Proven;
use crate::simd::{Executor, Level};

/// Elements of a part of a sum.
const CHUNK: usize = 64 * 1024;

instantiate! {
    fn add_all(a: &[u32], b: &[u32], out: &mut [u32]) = add_body;
    fn subtract_all(a: &[u32], b: &[u32], out: &mut [u32]) = subtract_body;
    /// The largest number, 0 of none.
    fn largest(all: &[u32]) -> u32 = largest_body;
}

/// `x mod p` of `x < 2p`.
#[inline(always)]
pub(super) fn reduce_once(x: u32) -> u32 {
    x.min(x.wrapping_sub(P))
}

#[inline(always)]
fn add_body(a: &[u32], b: &[u32], out: &mut [u32]) {
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = reduce_once(a.wrapping_add(b));
    }
}

#[inline(always)]
fn subtract_body(a: &[u32], b: &[u32], out: &mut [u32]) {
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        let difference = a.wrapping_sub(b);
        *out = difference.min(difference.wrapping_add(P));
    }
}

#[inline(always)]
fn largest_body(all: &[u32]) -> u32 {
    all.iter().fold(0, |largest, &x| largest.max(x))
}

/// `out = a + b` modulo p. Numbers that are not elements give numbers that mean nothing.
///
/// # Errors
/// Slices of different lengths.
pub fn add(executor: &Executor, a: &[u32], b: &[u32], out: &mut [u32]) -> Result<(), ShapeError> {
    expect_len("b", b.len(), a.len(), 1)?;
    expect_len("the output", out.len(), a.len(), 1)?;
    executor.crew().each_chunk(out, CHUNK, |i, out| {
        let from = i * CHUNK;
        add_all(executor.proven(), a.get(from..).unwrap_or(&[]), b.get(from..).unwrap_or(&[]), out);
    });
    Ok(())
}

/// `out = a - b` modulo p. Numbers that are not elements give numbers that mean nothing.
///
/// # Errors
/// Slices of different lengths.
pub fn subtract(executor: &Executor, a: &[u32], b: &[u32], out: &mut [u32]) -> Result<(), ShapeError> {
    expect_len("b", b.len(), a.len(), 1)?;
    expect_len("the output", out.len(), a.len(), 1)?;
    executor.crew().each_chunk(out, CHUNK, |i, out| {
        let from = i * CHUNK;
        subtract_all(executor.proven(), a.get(from..).unwrap_or(&[]), b.get(from..).unwrap_or(&[]), out);
    });
    Ok(())
}

/// Whether all numbers are elements: below p.
///
/// # Errors
/// The first that is not, and where.
pub fn expect_elements(all: &[u32]) -> Result<(), ShapeError> {
    let largest = match [Level::Avx2, Level::Scalar].into_iter().find_map(Proven::new) {
        Some(level) => largest(level, all),
        None => largest_body(all),
    };
    if largest < P {
        return Ok(());
    }
    let (at, x) = all.iter().enumerate().find(|&(_, &x)| x >= P).unwrap_or((0, &largest));
    Err(ShapeError(format!("number {at} is {x}: elements of the field are below {P}")))
}
