//! Sums and differences of elements, and whether numbers are elements.

use super::Field;
use crate::ragged::ShapeError;
use crate::reference::expect_len;
use crate::simd::instantiate::instantiate;
use crate::simd::level::Proven;
use crate::simd::{Executor, Level};
use core::sync::atomic::{AtomicU32, Ordering};

/// Elements of a part of a sum.
const CHUNK: usize = 32 * 1024;

instantiate! {
    /// And the largest number of both.
    fn add_all(p: u32, a: &[u32], b: &[u32], out: &mut [u32]) -> u32 = add_body;
    /// And the largest number of both.
    fn subtract_all(p: u32, a: &[u32], b: &[u32], out: &mut [u32]) -> u32 = subtract_body;
    /// The largest number, 0 of none.
    fn largest(all: &[u32]) -> u32 = largest_body;
}

/// `x mod p` of `x < 2p`.
#[inline(always)]
pub(super) fn reduce_once(x: u32, p: u32) -> u32 {
    x.min(x.wrapping_sub(p))
}

#[inline(always)]
fn add_body(p: u32, a: &[u32], b: &[u32], out: &mut [u32]) -> u32 {
    let mut largest = 0;
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        *out = reduce_once(a.wrapping_add(b), p);
        largest = largest.max(a).max(b);
    }
    largest
}

#[inline(always)]
fn subtract_body(p: u32, a: &[u32], b: &[u32], out: &mut [u32]) -> u32 {
    let mut largest = 0;
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        let difference = a.wrapping_sub(b);
        *out = difference.min(difference.wrapping_add(p));
        largest = largest.max(a).max(b);
    }
    largest
}

#[inline(always)]
fn largest_body(all: &[u32]) -> u32 {
    all.iter().fold(0, |largest, &x| largest.max(x))
}

/// `out = a + b` modulo p.
///
/// # Errors
/// Slices of different lengths, numbers that are not elements.
pub fn add(executor: &Executor, field: Field, a: &[u32], b: &[u32], out: &mut [u32]) -> Result<(), ShapeError> {
    pairwise(executor, field, [a, b], out, add_all)
}

/// `out = a - b` modulo p.
///
/// # Errors
/// Slices of different lengths, numbers that are not elements.
pub fn subtract(executor: &Executor, field: Field, a: &[u32], b: &[u32], out: &mut [u32]) -> Result<(), ShapeError> {
    pairwise(executor, field, [a, b], out, subtract_all)
}

fn pairwise(
    executor: &Executor,
    field: Field,
    [a, b]: [&[u32]; 2],
    out: &mut [u32],
    operation: impl Fn(Proven, u32, &[u32], &[u32], &mut [u32]) -> u32 + Sync,
) -> Result<(), ShapeError> {
    expect_len("b", b.len(), a.len(), 1)?;
    expect_len("the output", out.len(), a.len(), 1)?;
    let most = AtomicU32::new(0);
    executor.crew().each_chunk(out, CHUNK, |i, out| {
        let [a, b] = [a, b].map(|all| all.get(i * CHUNK..).unwrap_or(&[]));
        most.fetch_max(operation(executor.proven(), field.prime(), a, b, out), Ordering::Relaxed);
    });
    if most.into_inner() < field.prime() {
        return Ok(());
    }
    expect_elements(field, a)?;
    expect_elements(field, b)
}

/// Whether all numbers are elements: below p.
///
/// # Errors
/// The first that is not, and where.
pub fn expect_elements(field: Field, all: &[u32]) -> Result<(), ShapeError> {
    let largest = match [Level::Avx2, Level::Scalar].into_iter().find_map(Proven::new) {
        Some(level) => largest(level, all),
        None => largest_body(all),
    };
    let p = field.prime();
    if largest < p {
        return Ok(());
    }
    let (at, x) = all.iter().enumerate().find(|&(_, &x)| x >= p).unwrap_or((0, &largest));
    Err(ShapeError(format!("number {at} is {x}: elements of the field are below {p}")))
}
