//! Inner products modulo p: both sides of a check.

use super::Field;
use super::elements::{expect_elements, largest, reduce_once};
use crate::ragged::ShapeError;
use crate::reference::expect_len;
use crate::simd::level::Proven;
use crate::simd::{Executor, Level};
use core::sync::atomic::{AtomicU32, Ordering};

/// Elements of a part of an operation.
const CHUNK: usize = 16 * 1024;
/// Lanes of sums.
pub(super) const LANES: usize = 4;
/// Products that are added up in 64 bits before they are cut.
const TERMS: usize = 4;
/// Elements whose sums are put together at once.
const BLOCK: usize = 1 << 20;

/// Halves of sums of products, added up apart.
#[derive(Clone, Copy, Default)]
pub(super) struct Halves {
    pub(super) low: [u64; LANES],
    pub(super) high: [u64; LANES],
}

impl Halves {
    /// Products of the first lane, four at a time.
    fn add(&mut self, row: &[u32], vector: &[u32]) {
        let ([low, ..], [high, ..]) = (&mut self.low, &mut self.high);
        for (row, vector) in row.chunks(TERMS).zip(vector.chunks(TERMS)) {
            let products = row.iter().zip(vector).map(|(&x, &r)| u64::from(x) * u64::from(r));
            let sum = products.fold(0, u64::wrapping_add);
            *low += sum & u64::from(u32::MAX);
            *high += sum >> 32;
        }
    }

    /// A lane is below 2^32 times a quarter of the elements of a block, so the sum of all is below 2^52.
    fn together(self, p: u64) -> u32 {
        let (low, high) = (self.low.iter().sum::<u64>(), self.high.iter().sum::<u64>());
        ((low + (1 << 32) % p * high) % p) as u32
    }
}

/// Both inner products of at most [`BLOCK`] elements.
fn block(level: Proven, p: u32, row: &[u32], [first, second]: [&[u32]; 2]) -> [u32; 2] {
    let ([mut a, mut b], done) = match level.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx512 => super::avx2::front(level, row, first, second),
        _ => ([Halves::default(); 2], 0),
    };
    let rest = |all: &'_ [u32]| done.min(all.len())..;
    let row = row.get(rest(row)).unwrap_or(&[]);
    a.add(row, first.get(rest(first)).unwrap_or(&[]));
    b.add(row, second.get(rest(second)).unwrap_or(&[]));
    [a, b].map(|sums| sums.together(p.into()))
}

/// `out[r]` is the inner product modulo p of row r with each of the two vectors; `rows` is [R, width].
///
/// # Errors
/// Slices of another size, numbers that are not elements.
pub fn dot(
    executor: &Executor,
    field: Field,
    rows: &[u32],
    vectors: [&[u32]; 2],
    out: &mut [[u32; 2]],
) -> Result<(), ShapeError> {
    let [first, second] = vectors;
    let width = first.len();
    expect_len("the second vector", second.len(), width, 1)?;
    expect_len("the rows", rows.len(), out.len(), width)?;
    expect_elements(field, first)?;
    expect_elements(field, second)?;
    let p = field.prime();
    out.fill([0; 2]);
    if rows.is_empty() {
        return Ok(());
    }
    let chunk = CHUNK.div_ceil(width);
    let most = AtomicU32::new(0);
    executor.crew().each_chunk(out, chunk, |i, out| {
        let rows = rows.get(i * chunk * width..).unwrap_or(&[]);
        for (row, out) in rows.chunks_exact(width).zip(out) {
            most.fetch_max(largest(executor.proven(), row), Ordering::Relaxed);
            for ((row, first), second) in row.chunks(BLOCK).zip(first.chunks(BLOCK)).zip(second.chunks(BLOCK)) {
                for (out, sum) in out.iter_mut().zip(block(executor.proven(), p, row, [first, second])) {
                    *out = reduce_once(*out + sum, p);
                }
            }
        }
    });
    // Sums of numbers that are no elements mean nothing.
    if most.into_inner() < p { Ok(()) } else { expect_elements(field, rows) }
}
