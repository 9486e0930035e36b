//! Attention: both of its products by the kernel of the linear layers.
//!
//! # How
//!
//! 1. For each sequence and head, keys and values are coded and packed in panels ([`heads`](super::heads)): keys as 16
//!    columns of a product over the head's width, values as 16 columns of a product over the keys.
//! 2. A chunk of a sequence's rows is then worked on by one thread, head by head, a tile of rows at a
//!    time: queries are coded, multiplied with the keys, scores become exponentials, exponentials
//!    become integer weights, and these are multiplied with the values.
//! 3. A sum of weights times values fits 32 bits for 64 keys, and for more where the weights are small
//!    (as they mostly are): `sum p[j] * 1023 < 2^31` is checked. Otherwise 64 keys at a time go to f64,
//!    exactly.
//!
//! The rows of scores are filled up to whole vectors: there the score is the smallest float, its
//! exponential counts 0 in the denominator, and its weight is 0.

use super::coding::{WideTile, ZERO_WIDE, widen};
use super::executor::Executor;
use super::heads::{BLOCK_ROWS, Head, Heads, Packing};
use super::instantiate::instantiate;
use super::level::Proven;
use super::rows::{LANES, fold_larger, largest_cleaned};
use super::tile::{COLUMNS, MAX_TILE_ROWS, Pairs, Step, Tile, ZERO_TILE, tile_rows};
use crate::number::{TINY, clean, exp_negative, larger, round};
use crate::ragged::{Lengths, ShapeError};
use crate::reference::{DENOMINATOR_ONE, QUERY_KEY_CODE, TINY_WEIGHT, VALUE_CODE, WEIGHT_CODE, expect_len, head_width};
use core::hint::black_box;

/// Pairs of keys whose weighted values fit 32 bits: `32767 * 1023 * 64 < 2^31`.
const SAFE_PAIRS: usize = 32;
/// Keys whose parts of the denominator (at most 2^20 each) fit 32 bits.
const BLOCK: usize = 1024;
/// Rows of a chunk: long enough to hide its start, short enough to share well.
const CHUNK_ROWS: usize = 24;

instantiate! {
    /// Code a row of a head: `codes` becomes the integers, the result is the scale.
    fn code(x: &[f32], max_code: f32, codes: &mut [i16]) -> f32 = code_body;
    /// Turn dot products into scores.
    fn score(sums: &Tile, row_scales: &[f32], key_scales: &[f32; COLUMNS], panel: usize, scores: &mut [f32], stride: usize)
        = score_body;
    /// Turn a row of scores into integer weights.
    fn weigh(scores: &mut [f32], value_scales: &[f32], weights: &mut [i16]) -> Weighed = weigh_body;
    /// Likewise for as many rows as `weighed` has, `value_scales.len()` apart.
    fn weigh_tile(scores: &mut [f32], value_scales: &[f32], weights: &mut [i16], weighed: &mut [Weighed])
        = weigh_tile_body;
    /// Results of one row in one panel.
    fn finish(sums: &[f64; COLUMNS], scale: f32, out: &mut [f32]) = finish_body;
    /// Results of one row in one panel, where the sums fit 32 bits.
    fn finish_narrow(sums: &[i32; COLUMNS], scale: f32, out: &mut [f32]) = finish_narrow_body;
}

/// What is left of a row of weights.
#[derive(Clone, Copy, Default)]
pub(super) struct Weighed {
    /// What the integer results are multiplied with; 0 for a row without weight.
    pub(super) scale: f32,
    /// The sum of the integer weights.
    total: i64,
}

/// See [`reference::attention`](crate::reference::attention).
pub(super) fn attention(
    executor: &Executor,
    qkv: &[f32],
    lengths: &Lengths,
    width: usize,
    heads: usize,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    let d = head_width(width, heads)?;
    let rows = lengths.iter().sum();
    expect_len("qkv", qkv.len(), rows, 3 * width)?;
    expect_len("the output", out.len(), rows, width)?;
    let shape = Shape { level: executor.proven(), width, d, inverse_root: 1.0 / libm::sqrtf(d as f32) };

    let mut first = 0;
    let sequences: Vec<Sequence<'_>> = lengths
        .iter()
        .map(|length| {
            let rows = qkv.get(first * 3 * width..(first + length) * 3 * width).unwrap_or(&[]);
            first += length;
            Sequence { rows, length }
        })
        .collect();

    if sequences.len() >= 2 * executor.crew().threads() || executor.crew().threads() == 1 {
        // Enough sequences for all threads: each packs its own heads, one at a time, in its cache.
        let ends: Vec<usize> = ends(sequences.iter().map(|s| s.length * width));
        executor.crew().each_part(out, &ends, |i, out| {
            let Some(sequence) = sequences.get(i) else { return };
            let mut packed = Heads::new(&shape, sequence, 1);
            let mut memory = Memory::new(&shape, sequence);
            for head in 0..heads {
                let packing = packed.packing();
                for block in 0..sequence.length.div_ceil(BLOCK_ROWS) {
                    // SAFETY: nobody else has it.
                    #[allow(unsafe_code)]
                    unsafe {
                        packing.block(&shape, sequence, block, head..head + 1);
                    }
                }
                packed.head(0).attend(&shape, sequence, head, 0, &mut memory, out);
            }
        });
        return Ok(());
    }

    let mut packed: Vec<Heads> = sequences.iter().map(|sequence| Heads::new(&shape, sequence, heads)).collect();
    let blocks: Vec<(usize, usize)> =
        packed.iter().enumerate().flat_map(|(i, packed)| (0..packed.blocks()).map(move |block| (i, block))).collect();
    let packing: Vec<Packing<'_>> = packed.iter_mut().map(Heads::packing).collect();
    executor.crew().each(blocks.len(), &|i| {
        let Some(&(i, block)) = blocks.get(i) else { return };
        if let (Some(packing), Some(sequence)) = (packing.get(i), sequences.get(i)) {
            // SAFETY: each block is listed once.
            #[allow(unsafe_code)]
            unsafe {
                packing.block(&shape, sequence, block, 0..heads);
            }
        }
    });
    let mut chunks = Vec::new();
    for (i, sequence) in sequences.iter().enumerate() {
        let count = sequence.length.div_ceil(CHUNK_ROWS);
        chunks.extend((0..count).map(|c| (i, c * sequence.length / count, (c + 1) * sequence.length / count)));
    }
    let ends = ends(chunks.iter().map(|(_, start, end)| (end - start) * width));
    executor.crew().each_part(out, &ends, |i, out| {
        let Some(&(sequence, start, _)) = chunks.get(i) else { return };
        let (Some(packed), Some(sequence)) = (packed.get(sequence), sequences.get(sequence)) else { return };
        let mut memory = Memory::new(&shape, sequence);
        for head in 0..heads {
            packed.head(head).attend(&shape, sequence, head, start, &mut memory, out);
        }
    });
    Ok(())
}

fn ends(sizes: impl Iterator<Item = usize>) -> Vec<usize> {
    let running = |sum: &mut usize, size: usize| {
        *sum += size;
        Some(*sum)
    };
    sizes.scan(0, running).collect()
}

pub(super) struct Shape {
    pub(super) level: Proven,
    width: usize,
    /// Columns of a head.
    pub(super) d: usize,
    inverse_root: f32,
}

impl Shape {
    /// Steps over the columns of a head.
    pub(super) fn depth(&self) -> usize {
        self.d.div_ceil(Pairs::WIDTH)
    }
}

pub(super) struct Sequence<'a> {
    /// Queries, keys and values, row by row.
    rows: &'a [f32],
    pub(super) length: usize,
}

impl Sequence<'_> {
    /// The columns of a head in row `row` of queries (`part` 0), keys (1) or values (2).
    pub(super) fn columns(&self, shape: &Shape, row: usize, part: usize, head: usize) -> &[f32] {
        let start = (row * 3 + part) * shape.width + head * shape.d;
        self.rows.get(start..start + shape.d).unwrap_or(&[])
    }
}

/// What a tile of a sequence's rows needs, the same for each head.
struct Memory {
    /// Filled up to whole steps with 0.
    queries: Vec<i16>,
    scores: Vec<f32>,
    weights: Vec<i16>,
}

impl Memory {
    fn new(shape: &Shape, sequence: &Sequence<'_>) -> Self {
        let rows = tile_rows(shape.level);
        let keys = rows * sequence.length.next_multiple_of(COLUMNS);
        Self {
            queries: vec![0; rows * shape.depth() * Pairs::WIDTH],
            scores: vec![f32::MIN; keys],
            weights: vec![0; keys],
        }
    }
}

impl Head<'_> {
    /// The results of this head for the rows of `out`, the first of which is row `first`.
    fn attend(
        &self,
        shape: &Shape,
        sequence: &Sequence<'_>,
        head: usize,
        first: usize,
        memory: &mut Memory,
        out: &mut [f32],
    ) {
        let Memory { queries, scores, weights } = memory;
        let level = shape.level;
        let depth = shape.depth();
        let key_stride = depth * Pairs::WIDTH;
        let value_depth = sequence.length.div_ceil(Pairs::WIDTH);
        let stride = self.key_scales.len();
        let rows = out.len() / shape.width;
        let tiles = rows.div_ceil(tile_rows(level));

        let mut sums: Tile = ZERO_TILE;
        for tile in 0..tiles {
            let (start, end) = (tile * rows / tiles, (tile + 1) * rows / tiles);
            let count = end - start;

            let mut row_scales = [0.0f32; MAX_TILE_ROWS];
            for (r, (codes, scale)) in queries.chunks_exact_mut(key_stride).zip(&mut row_scales).take(count).enumerate()
            {
                let columns = sequence.columns(shape, first + start + r, 0, head);
                let codes = codes.get_mut(..shape.d).unwrap_or(&mut []);
                *scale = code(level, columns, QUERY_KEY_CODE, codes) * shape.inverse_root;
            }
            let row_scales = row_scales.get(..count).unwrap_or(&[]);

            let panels = self.keys.chunks_exact(depth).zip(self.key_scales.as_chunks::<COLUMNS>().0);
            for (panel, (steps, key_scales)) in panels.enumerate() {
                Pairs::tile(level, queries, key_stride, count, steps, &mut sums);
                score(level, &sums, row_scales, key_scales, panel, scores, stride);
            }

            for scores in scores.chunks_exact_mut(stride).take(count) {
                scores.get_mut(sequence.length..).unwrap_or(&mut []).fill(f32::MIN);
            }
            let mut weighed = [Weighed::default(); MAX_TILE_ROWS];
            let weighed = weighed.get_mut(..count).unwrap_or(&mut []);
            weigh_tile(level, scores, self.value_scales, weights, weighed);

            let most = weighed.iter().map(|row| row.total).max().unwrap_or(0);
            let narrow = most * VALUE_CODE as i64 <= i64::from(i32::MAX);
            for (panel, steps) in self.values.chunks_exact(value_depth).enumerate() {
                let from = head * shape.d + panel * COLUMNS;
                let to = (from + COLUMNS).min((head + 1) * shape.d);
                let out = out.chunks_exact_mut(shape.width).skip(start).zip(&*weighed);
                let out = out.map(|(out, row)| (out.get_mut(from..to).unwrap_or(&mut []), row.scale));
                if narrow {
                    Pairs::tile(level, weights, stride, count, steps, &mut sums);
                    for ((out, scale), sums) in out.zip(&sums) {
                        finish_narrow(level, sums, scale, out);
                    }
                } else {
                    let mut wide: WideTile = ZERO_WIDE;
                    for (i, steps) in steps.chunks(SAFE_PAIRS).enumerate() {
                        let weights = weights.get(i * SAFE_PAIRS * Pairs::WIDTH..).unwrap_or(&[]);
                        Pairs::tile(level, weights, stride, count, steps, &mut sums);
                        widen(level, &sums, count, &mut wide);
                    }
                    for ((out, scale), sums) in out.zip(&wide) {
                        finish(level, sums, scale, out);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn code_body(x: &[f32], max_code: f32, codes: &mut [i16]) -> f32 {
    let max = largest_cleaned(x);
    if max < TINY {
        codes.fill(0);
        return 0.0;
    }
    let inverse = max_code / max;
    let one = |x: f32| round(clean(x) * inverse) as i16;
    // Vector by vector, which the compiler must not see: of a plain loop it makes one over four vectors at once and
    // slow ends, and a head has but two or four.
    let (vectors, rest) = x.as_chunks::<LANES>();
    let (coded, coded_rest) = codes.as_chunks_mut::<LANES>();
    for (codes, x) in coded.iter_mut().zip(vectors) {
        for (code, &x) in codes.iter_mut().zip(black_box(x)) {
            *code = one(x);
        }
    }
    for (code, &x) in coded_rest.iter_mut().zip(rest) {
        *code = one(x);
    }
    max / max_code
}

#[inline(always)]
fn score_body(
    sums: &Tile,
    row_scales: &[f32],
    key_scales: &[f32; COLUMNS],
    panel: usize,
    scores: &mut [f32],
    stride: usize,
) {
    let rows = sums.iter().zip(row_scales).zip(scores.chunks_exact_mut(stride));
    for ((sums, &row_scale), scores) in rows {
        let Some(scores) = scores.as_chunks_mut::<COLUMNS>().0.get_mut(panel) else { return };
        for ((score, &sum), &key_scale) in scores.iter_mut().zip(sums).zip(key_scales) {
            *score = sum as f32 * (row_scale * key_scale);
        }
    }
}

#[inline(always)]
fn weigh_body(scores: &mut [f32], value_scales: &[f32], weights: &mut [i16]) -> Weighed {
    let max = largest(scores);
    let denominator = exponentials(scores, max, value_scales);
    let top = largest(scores);
    integers(scores, top, denominator, weights)
}

/// Step by step over all rows: what the next row needs is not held up by the end of a step of the one before.
#[inline(always)]
fn weigh_tile_body(scores: &mut [f32], value_scales: &[f32], weights: &mut [i16], weighed: &mut [Weighed]) {
    let stride = value_scales.len();
    let mut tops = [0.0; MAX_TILE_ROWS];
    let mut denominators = [0; MAX_TILE_ROWS];
    for (top, scores) in tops.iter_mut().zip(scores.chunks_exact(stride)).take(weighed.len()) {
        *top = largest(scores);
    }
    let rows = scores.chunks_exact_mut(stride).zip(&tops).zip(&mut denominators).take(weighed.len());
    for ((scores, &max), denominator) in rows {
        *denominator = exponentials(scores, max, value_scales);
    }
    for (top, scores) in tops.iter_mut().zip(scores.chunks_exact(stride)).take(weighed.len()) {
        *top = largest(scores);
    }
    let rows = scores.chunks_exact(stride).zip(weights.chunks_exact_mut(stride)).zip(tops.iter().zip(&denominators));
    for (((scores, weights), (&top, &denominator)), weighed) in rows.zip(weighed) {
        *weighed = integers(scores, top, denominator, weights);
    }
}

/// Scores to exponentials times their values' scales; the result is the sum of the exponentials.
#[inline(always)]
fn exponentials(scores: &mut [f32], max: f32, value_scales: &[f32]) -> i64 {
    let mut denominator = 0i64;
    for (scores, scales) in scores.chunks_mut(BLOCK).zip(value_scales.chunks(BLOCK)) {
        let mut part = 0i32;
        for (s, &scale) in scores.iter_mut().zip(scales) {
            let e = exp_negative(*s - max);
            part += round(e * DENOMINATOR_ONE);
            *s = e * scale;
        }
        denominator += i64::from(part);
    }
    denominator
}

/// A row of floats, of which `top` is the largest, to integer weights.
#[inline(always)]
fn integers(scores: &[f32], top: f32, denominator: i64, weights: &mut [i16]) -> Weighed {
    if top < TINY_WEIGHT {
        weights.fill(0);
        return Weighed::default();
    }
    let inverse = WEIGHT_CODE / top;
    let mut total = 0i64;
    for (scores, weights) in scores.chunks(BLOCK).zip(weights.chunks_mut(BLOCK)) {
        let mut part = 0i32;
        for (&w, weight) in scores.iter().zip(weights) {
            let p = round(w * inverse);
            part += p;
            *weight = p as i16;
        }
        total += i64::from(part);
    }
    Weighed { scale: (top / WEIGHT_CODE) * (DENOMINATOR_ONE / denominator as f32), total }
}

/// The largest of whole vectors of floats.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::MIN; LANES];
    for chunk in row.as_chunks::<LANES>().0 {
        for (lane, &s) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, s);
        }
    }
    fold_larger(&lanes)
}

#[inline(always)]
fn finish_body(sums: &[f64; COLUMNS], scale: f32, out: &mut [f32]) {
    for (y, &sum) in out.iter_mut().zip(sums) {
        *y = sum as f32 * scale;
    }
}

#[inline(always)]
fn finish_narrow_body(sums: &[i32; COLUMNS], scale: f32, out: &mut [f32]) {
    for (y, &sum) in out.iter_mut().zip(sums) {
        *y = sum as f32 * scale;
    }
}
