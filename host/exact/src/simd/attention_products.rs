//! Attention whose two integer products are done elsewhere: recorded, or taken from a transcript.
//!
//! # Why
//!
//! An audit does everything of an operation but its products, and those it checks. So coding, softmax and
//! scaling here are what an audit costs, and are as fast as in the fused operation; only the tiles are
//! gone, since a product is asked for as a whole.
//!
//! # How
//!
//! For each sequence and head, in order, on the calling thread:
//! 1. queries, keys and values are coded;
//! 2. [`AttentionProducts::scores`] gives the dot products of all queries with all keys;
//! 3. row by row they become integer weights, by the kernels of the fused operation;
//! 4. [`AttentionProducts::weighted`] gives the weighted sums of the values, which are scaled.

use super::attention::{Weighed, code, weigh};
use super::executor::{Executor, LinearError};
use super::instantiate::instantiate;
use super::level::{Level, Proven};
use super::product::ProductError;
use super::rows::LANES;
use crate::ragged::Lengths;
use crate::reference::{MAX_HEAD_WIDTH, QUERY_KEY_CODE, VALUE_CODE, expect_len, head_width};

/// Keys whose weighted values fit 32 bits: `32767 * 1023 * 64 < 2^31`.
const SAFE_KEYS: usize = 64;

instantiate! {
    /// A row of scores from a row of dot products.
    fn score_row(totals: &[i32], row_scale: f32, key_scales: &[f32], scores: &mut [f32]) = score_row_body;
    /// A row of results.
    fn finish_row(totals: &[i64], scale: f32, out: &mut [f32]) = finish_row_body;
    /// Dot products of a query with all keys.
    fn dots(query: &[i16], keys: &[i16], totals: &mut [i32]) = dots_body;
    /// Values times weights, added up; `values` are as many rows as there are weights.
    fn weighted_sum(weights: &[i16], values: &[i16], totals: &mut [i64]) = weighted_sum_body;
}

/// Which head a product belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadOf {
    /// The sequence in its batch, from 0.
    pub sequence: usize,
    /// The head, from 0.
    pub head: usize,
}

/// The two integer products of attention, of one head of one sequence of `rows` rows, d columns a head.
///
/// [`Executor::attention_with`] calls from one thread, sequence by sequence, head by head, scores before
/// weighted. An implementation gives the exact sums or an error.
pub trait AttentionProducts: Send + Sync {
    /// `totals[i * rows + j] = sum over c of queries[i * d + c] * keys[j * d + c]`, codes in
    /// [-4095, 4095], d at most 128: a total fits 32 bits.
    ///
    /// # Errors
    /// Slices of another size; whatever keeps the implementation from answering.
    fn scores(
        &self,
        at: HeadOf,
        queries: &[i16],
        keys: &[i16],
        rows: usize,
        d: usize,
        totals: &mut [i32],
    ) -> Result<(), ProductError>;

    /// `totals[i * d + c] = sum over j of weights[i * rows + j] * values[j * d + c]`, weights in
    /// [0, 32767], values in [-1023, 1023].
    ///
    /// # Errors
    /// As [`scores`](Self::scores).
    fn weighted(
        &self,
        at: HeadOf,
        weights: &[i16],
        values: &[i16],
        rows: usize,
        d: usize,
        totals: &mut [i64],
    ) -> Result<(), ProductError>;
}

/// The two products computed here, without fusion: for a recorder.
pub struct PlainAttention {
    level: Proven,
}

impl PlainAttention {
    /// With the instructions of `executor`.
    pub fn new(executor: &Executor) -> Self {
        Self { level: executor.proven() }
    }

    /// Its instructions.
    pub fn level(&self) -> Level {
        self.level.level()
    }
}

impl AttentionProducts for PlainAttention {
    fn scores(
        &self,
        _: HeadOf,
        queries: &[i16],
        keys: &[i16],
        rows: usize,
        d: usize,
        totals: &mut [i32],
    ) -> Result<(), ProductError> {
        expect_len("the queries", queries.len(), rows, d)?;
        expect_len("the keys", keys.len(), rows, d)?;
        expect_len("the scores", totals.len(), rows, rows)?;
        for (query, totals) in queries.chunks_exact(d.max(1)).zip(totals.chunks_exact_mut(rows.max(1))) {
            dots(self.level, query, keys, totals);
        }
        Ok(())
    }

    fn weighted(
        &self,
        _: HeadOf,
        weights: &[i16],
        values: &[i16],
        rows: usize,
        d: usize,
        totals: &mut [i64],
    ) -> Result<(), ProductError> {
        expect_len("the weights", weights.len(), rows, rows)?;
        expect_len("the values", values.len(), rows, d)?;
        expect_len("the weighted values", totals.len(), rows, d)?;
        for (weights, totals) in weights.chunks_exact(rows.max(1)).zip(totals.chunks_exact_mut(d.max(1))) {
            weighted_sum(self.level, weights, values, totals);
        }
        Ok(())
    }
}

/// One part of a head: the codes of its rows and the scale of each.
#[derive(Default)]
struct Coded {
    codes: Vec<i16>,
    scales: Vec<f32>,
}

/// See [`reference::attention`](crate::reference::attention).
pub(super) fn attention_with(
    executor: &Executor,
    qkv: &[f32],
    lengths: &Lengths,
    width: usize,
    heads: usize,
    products: &dyn AttentionProducts,
    out: &mut [f32],
) -> Result<(), LinearError> {
    let d = head_width(width, heads)?;
    let rows = lengths.iter().sum();
    expect_len("qkv", qkv.len(), rows, 3 * width)?;
    expect_len("the output", out.len(), rows, width)?;
    let level = executor.proven();
    let inverse_root = 1.0 / libm::sqrtf(d as f32);

    let mut parts: [Coded; 3] = Default::default();
    let (mut scores, mut totals, mut weights) = (Vec::new(), Vec::new(), Vec::new());
    let (mut row_scales, mut weighted) = (Vec::new(), Vec::new());
    let mut first = 0;
    for (sequence, length) in lengths.iter().enumerate() {
        let rows = qkv.get(first * 3 * width..(first + length) * 3 * width).unwrap_or(&[]);
        let results = out.get_mut(first * width..(first + length) * width).unwrap_or(&mut []);
        first += length;
        let padded = length.next_multiple_of(LANES);
        // Only the first `length` scores of the row are ever written.
        scores.clear();
        scores.resize(padded, f32::MIN);
        totals.resize(length * length, 0i32);
        weights.resize(length * length, 0i16);
        row_scales.resize(length, 0.0f32);
        weighted.resize(length * d, 0i64);
        for head in 0..heads {
            let at = HeadOf { sequence, head };
            for (part, coded) in parts.iter_mut().enumerate() {
                coded.fill(level, rows, width, part, head * d..(head + 1) * d, padded);
            }
            let [queries, keys, values] = &parts;
            products.scores(at, &queries.codes, &keys.codes, length, d, &mut totals)?;

            let all = totals.chunks_exact(length).zip(weights.chunks_exact_mut(length));
            for ((totals, weights), (scale, query_scale)) in all.zip(row_scales.iter_mut().zip(&queries.scales)) {
                score_row(level, totals, query_scale * inverse_root, &keys.scales, &mut scores);
                scores.get_mut(length..).unwrap_or(&mut []).fill(f32::MIN);
                let weighed: Weighed = weigh(level, &mut scores, &values.scales, weights);
                *scale = weighed.scale;
            }

            products.weighted(at, &weights, &values.codes, length, d, &mut weighted)?;
            let results = results.chunks_exact_mut(width).zip(weighted.chunks_exact(d)).zip(&row_scales);
            for ((out, totals), &scale) in results {
                finish_row(level, totals, scale, out.get_mut(head * d..).unwrap_or(&mut []));
            }
        }
    }
    Ok(())
}

impl Coded {
    /// Code the columns of a head in every row of queries (`part` 0), keys (1) or values (2); scales are
    /// filled up to `padded` with 0.
    fn fill(
        &mut self,
        level: Proven,
        rows: &[f32],
        width: usize,
        part: usize,
        columns: core::ops::Range<usize>,
        padded: usize,
    ) {
        let d = columns.len();
        let max_code = if part == 2 { VALUE_CODE } else { QUERY_KEY_CODE };
        self.codes.resize(rows.len() / (3 * width) * d, 0);
        self.scales.clear();
        self.scales.resize(padded, 0.0);
        let columns = part * width + columns.start..part * width + columns.end;
        let rows = rows.chunks_exact(3 * width).zip(self.codes.chunks_exact_mut(d));
        for ((row, codes), scale) in rows.zip(&mut self.scales) {
            *scale = code(level, row.get(columns.clone()).unwrap_or(&[]), max_code, codes);
        }
    }
}

#[inline(always)]
fn score_row_body(totals: &[i32], row_scale: f32, key_scales: &[f32], scores: &mut [f32]) {
    for ((score, &total), &key_scale) in scores.iter_mut().zip(totals).zip(key_scales) {
        *score = total as f32 * (row_scale * key_scale);
    }
}

#[inline(always)]
fn finish_row_body(totals: &[i64], scale: f32, out: &mut [f32]) {
    for (y, &total) in out.iter_mut().zip(totals) {
        *y = total as f32 * scale;
    }
}

#[inline(always)]
fn dots_body(query: &[i16], keys: &[i16], totals: &mut [i32]) {
    for (key, total) in keys.chunks_exact(query.len().max(1)).zip(totals) {
        *total = query.iter().zip(key).fold(0, |sum, (&q, &k)| sum.wrapping_add(i32::from(q) * i32::from(k)));
    }
}

#[inline(always)]
fn weighted_sum_body(weights: &[i16], values: &[i16], totals: &mut [i64]) {
    let d = totals.len().max(1);
    totals.fill(0);
    let mut sums = [0i32; MAX_HEAD_WIDTH];
    for (weights, values) in weights.chunks(SAFE_KEYS).zip(values.chunks(SAFE_KEYS * d)) {
        sums.fill(0);
        for (&weight, values) in weights.iter().zip(values.chunks_exact(d)) {
            for (sum, &value) in sums.iter_mut().zip(values) {
                *sum = sum.wrapping_add(i32::from(weight) * i32::from(value));
            }
        }
        for (total, &sum) in totals.iter_mut().zip(&sums) {
            *total += i64::from(sum);
        }
    }
}
