//! Inner products modulo p: both sides of a check.

use super::P;
use super::elements::{expect_elements, largest_body};
use crate::ragged::ShapeError;
use crate::reference::expect_len;
use crate::simd::Executor;
use crate::simd::instantiate::instantiate;
use core::sync::atomic::{AtomicU32, Ordering};

/// Elements of a part of an operation.
const CHUNK: usize = 16 * 1024;
/// Lanes of sums.
const LANES: usize = 8;
/// Products that are added up in 64 bits before they are cut.
const TERMS: usize = 4;
/// Elements whose sums are put together at once.
const BLOCK: usize = 1 << 20;

/// Elements that are taken at once.
type Turn = [[u32; LANES]; TERMS];

instantiate! {
    /// Both inner products of each row, and the largest number of all rows.
    fn dot_rows(rows: &[u32], vectors: [&[u32]; 2], out: &mut [[u32; 2]]) -> u32 = dot_rows_body;
}

#[inline(always)]
fn dot_rows_body(rows: &[u32], [first, second]: [&[u32]; 2], out: &mut [[u32; 2]]) -> u32 {
    let mut largest = 0;
    for (row, out) in rows.chunks_exact(first.len().max(1)).zip(out) {
        largest = largest_body(row).max(largest);
        *out = [0; 2];
        let blocks = row.chunks(BLOCK).zip(first.chunks(BLOCK)).zip(second.chunks(BLOCK));
        for ((row, first), second) in blocks {
            for (out, sum) in out.iter_mut().zip(block(row, first, second)) {
                *out = super::elements::reduce_once(*out + sum);
            }
        }
    }
    largest
}

/// Halves of sums of products, added up apart.
#[derive(Clone, Copy, Default)]
struct Halves {
    low: [u64; LANES],
    high: [u64; LANES],
}

impl Halves {
    #[inline(always)]
    fn turn(&mut self, x: &Turn, r: &Turn) {
        let mut sums = [0u64; LANES];
        for (x, r) in x.iter().zip(r) {
            for ((sum, &x), &r) in sums.iter_mut().zip(x).zip(r) {
                *sum = sum.wrapping_add(u64::from(x) * u64::from(r));
            }
        }
        for ((low, high), sum) in self.low.iter_mut().zip(&mut self.high).zip(sums) {
            *low += sum & u64::from(u32::MAX);
            *high += sum >> 32;
        }
    }

    #[inline(always)]
    fn together(self) -> u32 {
        let p = u64::from(P);
        // Lanes are below 2^32 times the turns of a block, so eight of them and twice eight fit 64 bits.
        let (low, high) = (self.low.iter().sum::<u64>(), self.high.iter().sum::<u64>());
        ((low + 2 * high) % p) as u32
    }
}

/// Both inner products of at most [`BLOCK`] elements.
#[inline(always)]
fn block(row: &[u32], first: &[u32], second: &[u32]) -> [u32; 2] {
    let mut sums = [Halves::default(); 2];
    let [a, b] = &mut sums;
    let ((x, x_rest), (r, r_rest), (s, s_rest)) = (turns(row), turns(first), turns(second));
    for ((x, r), s) in x.iter().zip(r).zip(s) {
        a.turn(x, r);
        b.turn(x, s);
    }
    if !x_rest.is_empty() {
        let x = padded(x_rest);
        a.turn(&x, &padded(r_rest));
        b.turn(&x, &padded(s_rest));
    }
    sums.map(Halves::together)
}

/// Whole turns, and what is left.
#[inline(always)]
fn turns(all: &[u32]) -> (&[Turn], &[u32]) {
    let (whole, rest) = all.split_at(all.len() - all.len() % (LANES * TERMS));
    (whole.as_chunks::<LANES>().0.as_chunks::<TERMS>().0, rest)
}

/// A last turn, with zeros after it.
#[inline(always)]
fn padded(rest: &[u32]) -> Turn {
    let mut turn = [[0; LANES]; TERMS];
    turn.as_flattened_mut().iter_mut().zip(rest).for_each(|(turn, &x)| *turn = x);
    turn
}

/// `out[r]` is the inner product modulo p of row r with each of the two vectors; `rows` is [R, width].
///
/// # Errors
/// Slices of another size, numbers that are not elements.
pub fn dot(executor: &Executor, rows: &[u32], vectors: [&[u32]; 2], out: &mut [[u32; 2]]) -> Result<(), ShapeError> {
    let [first, second] = vectors;
    let width = first.len();
    expect_len("the second vector", second.len(), width, 1)?;
    expect_len("the rows", rows.len(), out.len(), width)?;
    expect_elements(first)?;
    expect_elements(second)?;
    if rows.is_empty() {
        out.fill([0; 2]);
        return Ok(());
    }
    let chunk = CHUNK.div_ceil(width);
    let largest = AtomicU32::new(0);
    executor.crew().each_chunk(out, chunk, |i, out| {
        let rows = rows.get(i * chunk * width..).unwrap_or(&[]);
        let seen = dot_rows(executor.proven(), rows, vectors, out);
        largest.fetch_max(seen, Ordering::Relaxed);
    });
    // What lay before the first that is no element is no answer either.
    if largest.into_inner() < P { Ok(()) } else { expect_elements(rows) }
}
