//! The server's side of one layer.
//!
//! # How
//!
//! 1. A row of elements becomes two rows of u16 codes, `lo` and `hi`, for each part.
//! 2. A part's [`Product`] multiplies them. One that runs on this machine's CPU works on the thread that calls it, so
//!    rows are cut into chunks and each thread of the executor takes chunks, with memory that it keeps. Any other
//!    gets all rows in one call.
//! 3. Both totals are folded to one element while they are in cache. A processor that multiplies bytes takes four rows
//!    of bytes instead, and folds each tile.
//!
//! A product on the CPU never asks for the executor's threads itself, and a thread that cuts work up takes part in it and
//! waits only for what others have begun. So this may be called from any thread, those of the executor included.

use super::elements::{expect_elements, reduce_once};
use super::{Field, Parts};
use crate::layer::Linear;
use crate::reference::expect_len;
use crate::simd::instantiate::instantiate;
use crate::simd::level::Proven;
use crate::simd::scratch::Kept;
use crate::simd::{Executor, Product, ProductError};
use core::cell::RefCell;
use core::fmt;
use core::ops::Range;
use std::sync::{Arc, OnceLock};

/// Rows of a chunk.
const CHUNK_ROWS: usize = 24;
/// Fewer rows than this are not worth fetching all weights for, unless their totals would take too much memory.
const LEAST_CHUNK_ROWS: usize = 8;
/// Totals of a chunk, where it has more than the least rows: they stay in the second-level cache.
const CHUNK_TOTALS: usize = 1 << 16;
/// Most numbers that a thread keeps memory for; a chunk has more only if one row of a very wide layer does.
const MOST_KEPT: usize = 1 << 20;
instantiate! {
    /// The low and the high 16 bits.
    fn split(elements: &[u32], low: &mut [u16], high: &mut [u16]) = split_body;
    /// `low + 2^16 high` modulo p.
    fn fold(field: Field, low: &[i64], high: &[i64], out: &mut [u32]) = fold_body;
}

#[inline(always)]
fn split_body(elements: &[u32], low: &mut [u16], high: &mut [u16]) {
    for ((&x, low), high) in elements.iter().zip(low).zip(high) {
        *low = x as u16;
        *high = (x >> 16) as u16;
    }
}

#[inline(always)]
fn fold_body(field: Field, low: &[i64], high: &[i64], out: &mut [u32]) {
    // A loop for each field, in which it is a constant.
    match field {
        Field::P24 => fold_in(Field::P24, low, high, out),
        Field::P31 => fold_in(Field::P31, low, high, out),
    }
}

#[inline(always)]
fn fold_in(field: Field, low: &[i64], high: &[i64], out: &mut [u32]) {
    for ((out, &low), &high) in out.iter_mut().zip(low).zip(high) {
        *out = fold_one(field, low.wrapping_add(high << 16));
    }
}

/// A total modulo p; below `p * 2^24` in magnitude for the smaller field, `p * 2^25` for the larger one.
#[inline(always)]
pub(crate) fn fold_one(field: Field, total: i64) -> u32 {
    let p = field.prime();
    match field {
        Field::P24 => {
            let x = total.wrapping_add(i64::from(p) << 24) as u64;
            let x = ((x & 0xff_ffff) + 3 * (x >> 24)) as u32;
            reduce_once((x & 0xff_ffff) + 3 * (x >> 24), p)
        }
        Field::P31 => {
            let x = total.wrapping_add(i64::from(p) << 25) as u64;
            reduce_once(((x & u64::from(p)) + (x >> 31)) as u32, p)
        }
    }
}

/// A layer, packed for a backend, that multiplies rows of elements. See the [module](super).
pub struct ShareProduct {
    executor: Arc<Executor>,
    field: Field,
    inputs: usize,
    outputs: usize,
    parts: Vec<(Range<usize>, Box<dyn Product>)>,
    codes: Kept<u16>,
    totals: Kept<i64>,
}

/// What a thread keeps from one chunk to the next.
#[derive(Default)]
struct Memory {
    codes: Vec<u16>,
    totals: Vec<i64>,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

impl ShareProduct {
    /// The product of `layer`. `prepare` packs a layer for a backend: this one, or each of its parts as a layer of its own.
    ///
    /// # Errors
    /// What `prepare` answers.
    pub fn new<E>(
        executor: Arc<Executor>,
        layer: &Arc<Linear>,
        mut prepare: impl FnMut(&Arc<Linear>) -> Result<Box<dyn Product>, E>,
    ) -> Result<Self, E> {
        let cut = Parts::of(layer);
        let parts = match cut.ranges() {
            [whole] => vec![(whole.clone(), prepare(layer)?)],
            ranges => ranges
                .iter()
                .map(|range| Ok((range.clone(), prepare(&Arc::new(layer.columns(range.clone())))?)))
                .collect::<Result<_, E>>()?,
        };
        Ok(Self {
            executor,
            field: cut.field(),
            inputs: layer.inputs,
            outputs: layer.outputs,
            parts,
            codes: Kept::default(),
            totals: Kept::default(),
        })
    }

    /// The field of shares and products.
    pub fn field(&self) -> Field {
        self.field
    }

    /// Columns K of the shares.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Columns `parts * N` of the product.
    pub fn columns(&self) -> usize {
        self.parts.len() * self.outputs
    }

    /// `out` [rows, parts * N] modulo p, of `shares` [rows, K].
    ///
    /// # Errors
    /// Slices of another size, shares that are not elements, and whatever the backend answers.
    pub fn multiply(&self, shares: &[u32], rows: usize, out: &mut [u32]) -> Result<(), ProductError> {
        expect_len("the share", shares.len(), rows, self.inputs)?;
        expect_len("the output", out.len(), rows, self.columns())?;
        expect_elements(self.field, shares)?;
        if out.is_empty() {
            return Ok(());
        }
        if self.parts.iter().all(|(_, product)| product.as_cpu().is_some()) {
            self.multiply_here(shares, rows, out)
        } else {
            self.multiply_elsewhere(shares, rows, out)
        }
    }

    /// Chunk by chunk, on all threads.
    fn multiply_here(&self, shares: &[u32], rows: usize, out: &mut [u32]) -> Result<(), ProductError> {
        let threads = self.executor.threads();
        let rows_of = |totals: usize| totals / (2 * self.outputs);
        let least = LEAST_CHUNK_ROWS.min(rows_of(MOST_KEPT));
        let most = rows_of(CHUNK_TOTALS).clamp(least.max(1), CHUNK_ROWS);
        let chunks = rows.div_ceil(most);
        let chunks = chunks.next_multiple_of(threads).min(rows.div_ceil(LEAST_CHUNK_ROWS)).max(chunks);
        let bounds = |i: usize| (i * rows / chunks, (i + 1) * rows / chunks);
        let ends: Vec<usize> = (0..chunks).map(|i| bounds(i).1 * self.columns()).collect();
        let failed = OnceLock::new();
        self.executor.crew().each_part(out, &ends, |i, out| {
            let (start, end) = bounds(i);
            let shares = shares.get(start * self.inputs..end * self.inputs).unwrap_or(&[]);
            let mut memory = MEMORY.take();
            if let Err(error) = self.chunk(shares, end - start, &mut memory, out) {
                // The first is as good as any.
                let _ = failed.set(error);
            }
            if memory.codes.len() + memory.totals.len() <= MOST_KEPT {
                MEMORY.set(memory);
            }
        });
        failed.into_inner().map_or(Ok(()), Err)
    }

    fn chunk(&self, shares: &[u32], rows: usize, memory: &mut Memory, out: &mut [u32]) -> Result<(), ProductError> {
        let level = self.executor.proven();
        let Memory { codes, totals } = memory;
        for (part, (range, product)) in self.parts.iter().enumerate() {
            let (start, stride) = (part * self.outputs, self.columns());
            let elements = shares.chunks_exact(self.inputs.max(1)).map(|row| row.get(range.clone()).unwrap_or(&[]));
            if product.as_cpu().is_some_and(|cpu| cpu.multiply_elements(self.field, elements, out, start, stride)) {
                continue;
            }
            let codes = grown(codes, 2 * rows * range.len());
            let totals = grown(totals, 2 * rows * self.outputs);
            self.split(level, shares, range, codes);
            product.product_u16(codes, 2 * rows, totals)?;
            self.fold(level, totals, part, 0, rows, out);
        }
        Ok(())
    }

    /// All rows at once. Only the folding is done on all threads: one that had helped before would linger, on a core that
    /// the product may want.
    fn multiply_elsewhere(&self, shares: &[u32], rows: usize, out: &mut [u32]) -> Result<(), ProductError> {
        let level = self.executor.proven();
        let mut totals = self.totals.take(2 * rows * self.outputs);
        let chunk = CHUNK_TOTALS.div_ceil(2 * self.outputs);
        self.executor.dismiss();
        for (part, (range, product)) in self.parts.iter().enumerate() {
            let mut codes = self.codes.take(2 * rows * range.len());
            self.split(level, shares, range, &mut codes);
            product.product_u16(&codes, 2 * rows, &mut totals)?;
            self.executor.crew().each_chunk(out, chunk * self.columns(), |i, out| {
                self.fold(level, &totals, part, i * chunk, rows, out);
            });
        }
        Ok(())
    }

    /// The codes [2 rows, part] of a part: all low halves, then all high ones.
    fn split(&self, level: Proven, shares: &[u32], range: &Range<usize>, codes: &mut [u16]) {
        let (low, high) = codes.split_at_mut(codes.len() / 2);
        let width = range.len().max(1);
        let codes = low.chunks_exact_mut(width).zip(high.chunks_exact_mut(width));
        for (shares, (low, high)) in shares.chunks_exact(self.inputs.max(1)).zip(codes) {
            split(level, shares.get(range.clone()).unwrap_or(&[]), low, high);
        }
    }

    /// Fold the totals [2 rows, N] of a part into the rows of `out`, of which the first is row `first`.
    fn fold(&self, level: Proven, totals: &[i64], part: usize, first: usize, rows: usize, out: &mut [u32]) {
        let (low, high) = totals.split_at(rows * self.outputs);
        let totals = low.chunks_exact(self.outputs).zip(high.chunks_exact(self.outputs)).skip(first);
        for (out, (low, high)) in out.chunks_exact_mut(self.columns()).zip(totals) {
            let out = out.get_mut(part * self.outputs..(part + 1) * self.outputs).unwrap_or(&mut []);
            fold(level, self.field, low, high, out);
        }
    }
}

impl fmt::Debug for ShareProduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShareProduct({} inputs, {} columns in {} parts)", self.inputs, self.columns(), self.parts.len())
    }
}

/// The first `len` elements, after making there be as many.
fn grown<T: Copy + Default>(memory: &mut Vec<T>, len: usize) -> &mut [T] {
    if memory.len() < len {
        memory.resize(len, T::default());
    }
    memory.get_mut(..len).unwrap_or(&mut [])
}
