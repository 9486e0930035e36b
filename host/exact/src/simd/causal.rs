//! Causal attention: new rows of sequences against their past and themselves.
//!
//! # How
//!
//! 1. Keys and values of the new rows are coded and appended to the [`Past`] of their sequence, block by block, on all
//!    threads.
//! 2. Then all rows ask alike, whether their keys are old or new. The queries of the heads that share a head of keys
//!    are the rows of one tile: keys and values are read once for the whole group, and a single row still fills
//!    registers.
//! 3. A piece of work is a few rows of a sequence; a sequence of one new row, as in generation, has a piece for each
//!    head of keys. A piece goes tile by tile: scores, then weights, then weighted values, as in
//!    [`attention`](super::attention). Row by row the scores end where the row does.
//! 4. A piece that alone is a large part of all is shared instead ([`causal_long`](super::causal_long)).

use super::attention::{finish, score, weigh};
use super::causal_long;
use super::coding::{WideTile, ZERO_WIDE, widen};
use super::executor::Executor;
use super::level::Proven;
use super::past::{BLOCK_ROWS, Block, Past, coded};
use super::rows::LANES;
use super::scratch::grown;
use super::tile::{COLUMNS, MAX_TILE_ROWS, Pairs, Step, Tile, ZERO_TILE, tile_rows};
use crate::ragged::{Lengths, ShapeError};
use crate::reference::{Grouped, QUERY_KEY_CODE, expect_context, expect_len};
use core::ops::Range;
use std::sync::Arc;

/// Rows of a piece: the later ones cost more, so pieces are small enough that the last one does not matter.
const PIECE_ROWS: usize = 8;
/// How many blocks ahead of their use memory is asked for keys and values.
const AHEAD: usize = 1;
/// Below this many multiply-adds a second thread comes too late.
const LEAST_WORK: usize = 400_000;

/// See [`reference::causal_attention`](crate::reference::causal_attention).
pub(super) fn attention(
    executor: &Executor,
    qkv: &[f32],
    lengths: &Lengths,
    shape: Grouped,
    pasts: &mut [&mut Past],
    out: &mut [f32],
) -> Result<(), ShapeError> {
    let rows = lengths.iter().sum();
    expect_len("qkv", qkv.len(), rows, shape.columns())?;
    expect_len("the output", out.len(), rows, shape.outputs())?;
    if pasts.len() != lengths.sequences() {
        return Err(ShapeError(format!("{} pasts for {} sequences", pasts.len(), lengths.sequences())));
    }
    for (past, length) in pasts.iter().zip(lengths.iter()) {
        past.expect(shape)?;
        expect_context(past.rows().saturating_add(length))?;
    }
    let call = Call { level: executor.proven(), shape, qkv, inverse_root: 1.0 / libm::sqrtf(shape.width as f32) };
    call.append(executor, lengths, pasts);

    let pieces = call.pieces(lengths, pasts);
    let work = pieces.iter().map(|piece| piece.work(&shape)).fold(0, usize::saturating_add);
    let size = |piece: &Piece<'_>| piece.count * piece.kv_heads.len() * shape.group() * shape.width;
    if work < LEAST_WORK {
        let mut rest = out;
        for piece in &pieces {
            let (part, after) = rest.split_at_mut(size(piece).min(rest.len()));
            call.attend(piece, part);
            rest = after;
        }
        return Ok(());
    }
    let mut end = 0;
    let ends: Vec<usize> = pieces
        .iter()
        .map(|piece| {
            end += size(piece);
            end
        })
        .collect();
    let long: Vec<bool> =
        pieces.iter().map(|piece| causal_long::is_long(&call, piece, work, executor.crew())).collect();
    executor.crew().each_part(out, &ends, |i, out| {
        if let (Some(piece), Some(false)) = (pieces.get(i), long.get(i)) {
            call.attend(piece, out);
        }
    });
    if long.contains(&true) {
        let mut rest = out;
        let mut shared = Vec::new();
        for (piece, long) in pieces.iter().zip(long) {
            let (part, after) = rest.split_at_mut(size(piece).min(rest.len()));
            rest = after;
            if long {
                shared.push((piece, part));
            }
        }
        causal_long::attend(&call, executor.crew(), shared);
    }
    Ok(())
}

/// What all pieces share.
pub(super) struct Call<'a> {
    level: Proven,
    pub(super) shape: Grouped,
    qkv: &'a [f32],
    inverse_root: f32,
}

/// Rows of one sequence and heads of keys: contiguous in the output.
pub(super) struct Piece<'a> {
    pub(super) past: &'a Past,
    /// Its first row, in the call.
    row: usize,
    /// The position of that row in its sequence.
    pub(super) position: usize,
    /// How many rows.
    pub(super) count: usize,
    pub(super) kv_heads: Range<usize>,
}

impl Piece<'_> {
    /// Multiply-adds, about.
    pub(super) fn work(&self, shape: &Grouped) -> usize {
        let pairs = self.count.saturating_mul(self.position + self.count);
        pairs.saturating_mul(2 * self.kv_heads.len() * shape.group() * shape.width)
    }
}

/// What a tile needs beside its inputs: kept from one tile to the next.
#[derive(Default)]
struct Memory {
    queries: Vec<i16>,
    scores: Vec<f32>,
    weights: Vec<i16>,
    value_scales: Vec<f32>,
}

/// The queries of a tile: some of those that share a head of keys, position by position.
pub(super) struct Queries<'a> {
    /// Codes, row by row, filled up to whole steps.
    codes: &'a [i16],
    scales: [f32; MAX_TILE_ROWS],
    pub(super) count: usize,
}

impl Call<'_> {
    /// Columns of a row of the call.
    fn columns(&self, row: usize, first: usize) -> &[f32] {
        let start = row * self.shape.columns() + first;
        self.qkv.get(start..start + self.shape.width).unwrap_or(&[])
    }

    /// Code the new keys and values.
    fn append(&self, executor: &Executor, lengths: &Lengths, pasts: &mut [&mut Past]) {
        let mut vacant = Vec::new();
        let mut first = 0;
        for (past, length) in pasts.iter_mut().zip(lengths.iter()) {
            vacant.append(&mut past.grow(first, length));
            first += length;
        }
        let elements = first * 2 * self.shape.kv_heads * self.shape.width;
        let size = if elements * 16 < LEAST_WORK { vacant.len().max(1) } else { 1 };
        executor.crew().each_chunk(&mut vacant, size, |_, vacant| {
            for vacant in vacant {
                for i in 0..vacant.count {
                    let key = self.columns(vacant.first + i, self.shape.key(vacant.kv_head));
                    let value = self.columns(vacant.first + i, self.shape.value(vacant.kv_head));
                    vacant.block.write(self.level, vacant.at + i, key, value);
                }
            }
        });
    }

    /// The pieces, in the order of the output.
    fn pieces<'a>(&self, lengths: &Lengths, pasts: &'a [&mut Past]) -> Vec<Piece<'a>> {
        let mut pieces = Vec::new();
        let mut row = 0;
        for (past, length) in pasts.iter().zip(lengths.iter()) {
            let before = past.rows() - length;
            let all = 0..self.shape.kv_heads;
            if length == 1 {
                let of =
                    |kv_head: usize| Piece { past, row, position: before, count: 1, kv_heads: kv_head..kv_head + 1 };
                pieces.extend(all.map(of));
            } else {
                let parts = length.div_ceil(PIECE_ROWS);
                pieces.extend((0..parts).map(|i| {
                    let (start, end) = (i * length / parts, (i + 1) * length / parts);
                    let (position, row) = (before + start, row + start);
                    Piece { past, row, position, count: end - start, kv_heads: all.clone() }
                }));
            }
            row += length;
        }
        pieces
    }

    /// The results of a piece.
    fn attend(&self, piece: &Piece<'_>, out: &mut [f32]) {
        let (group, width) = (self.shape.group(), self.shape.width);
        let rows = piece.count * group;
        let tiles = rows.div_ceil(tile_rows(self.level));
        let mut memory = Memory::default();
        let mut sums = vec![ZERO_WIDE; width.div_ceil(COLUMNS)];
        for (n, kv_head) in piece.kv_heads.clone().enumerate() {
            let blocks = piece.past.blocks(kv_head);
            memory.value_scales.clear();
            for tile in 0..tiles {
                let (start, end) = (tile * rows / tiles, (tile + 1) * rows / tiles);
                let keys = piece.position + (end - 1) / group + 1;
                let blocks = blocks.get(..keys.div_ceil(BLOCK_ROWS)).unwrap_or(&[]);
                let stride = blocks.len() * BLOCK_ROWS;
                let queries = self.code(piece, kv_head, start..end, &mut memory.queries);
                let scores = grown(&mut memory.scores, queries.count * stride);
                self.score(&queries, blocks, keys, scores);

                let weights = grown(&mut memory.weights, queries.count * stride);
                let mut scales = [0.0f32; MAX_TILE_ROWS];
                let each = scores.chunks_exact_mut(stride).zip(weights.chunks_exact_mut(stride)).zip(&mut scales);
                for (r, ((scores, weights), scale)) in each.enumerate() {
                    let limit = piece.position + (start + r) / group + 1;
                    *scale = self.weigh(blocks, limit, scores, &mut memory.value_scales, weights);
                }

                let scales = scales.get(..queries.count).unwrap_or(&[]);
                self.sum(blocks, keys, 0..sums.len(), weights, queries.count, &mut sums);
                for (panel, sums) in sums.iter().enumerate() {
                    self.finish(piece, (n, start), panel, sums, scales, out);
                }
            }
        }
    }

    /// Write a tile's results in one panel of columns: of queries from `first` on, of the `n`-th head of keys.
    pub(super) fn finish(
        &self,
        piece: &Piece<'_>,
        (n, first): (usize, usize),
        panel: usize,
        sums: &WideTile,
        scales: &[f32],
        out: &mut [f32],
    ) {
        let (group, width) = (self.shape.group(), self.shape.width);
        let columns = piece.kv_heads.len() * group * width;
        for (query, (sums, &scale)) in (first..).zip(sums.iter().zip(scales)) {
            let (row, head) = (query / group, n * group + query % group);
            let from = row * columns + head * width + panel * COLUMNS;
            let to = (from + COLUMNS).min(row * columns + (head + 1) * width);
            finish(self.level, sums, scale, out.get_mut(from..to).unwrap_or(&mut []));
        }
    }

    /// Whether all queries of a piece are one tile.
    pub(super) fn is_one_tile(&self, piece: &Piece<'_>) -> bool {
        piece.kv_heads.len() == 1 && piece.count * self.shape.group() <= tile_rows(self.level)
    }

    /// Code some of a piece's queries.
    pub(super) fn code<'m>(
        &self,
        piece: &Piece<'_>,
        kv_head: usize,
        range: Range<usize>,
        memory: &'m mut Vec<i16>,
    ) -> Queries<'m> {
        let group = self.shape.group();
        let stride = self.stride();
        let count = range.len();
        // Also clears what fills a row up.
        memory.clear();
        memory.resize(count * stride, 0);
        let mut scales = [0.0; MAX_TILE_ROWS];
        for ((query, codes), scale) in range.zip(memory.chunks_exact_mut(stride)).zip(&mut scales) {
            let columns = self.columns(piece.row + query / group, self.shape.query(kv_head * group + query % group));
            *scale = coded(self.level, columns, QUERY_KEY_CODE, codes) * self.inverse_root;
        }
        Queries { codes: memory, scales, count }
    }

    /// Codes of a query, filled up to whole steps.
    fn stride(&self) -> usize {
        self.shape.width.next_multiple_of(Pairs::WIDTH)
    }

    /// Scores of queries with the first `keys` keys of `blocks`, and rubbish after them up to whole blocks.
    pub(super) fn score(&self, queries: &Queries<'_>, blocks: &[Arc<Block>], keys: usize, scores: &mut [f32]) {
        let mut sums: Tile = ZERO_TILE;
        let panels = blocks.iter().flat_map(|block| block.keys(self.shape.width)).take(keys.div_ceil(COLUMNS));
        let mut later = panels.clone().skip(AHEAD * BLOCK_ROWS / COLUMNS);
        let row_scales = queries.scales.get(..queries.count).unwrap_or(&[]);
        for (panel, (steps, key_scales)) in panels.enumerate() {
            if let Some((steps, _)) = later.next() {
                Pairs::prefetch(steps);
            }
            Pairs::tile(self.level, queries.codes, self.stride(), queries.count, steps, &mut sums);
            score(self.level, &sums, row_scales, key_scales, panel, scores, blocks.len() * BLOCK_ROWS);
        }
    }

    /// Weights of a row that sees the first `limit` keys, from its scores; later ones weigh 0. The result is what
    /// weighted values are multiplied with. `scales` holds the scales of as many values as an earlier row saw.
    pub(super) fn weigh(
        &self,
        blocks: &[Arc<Block>],
        limit: usize,
        scores: &mut [f32],
        scales: &mut Vec<f32>,
        weights: &mut [i16],
    ) -> f32 {
        // Up to whole vectors: the smallest score, and no scale.
        let seen = limit.next_multiple_of(LANES);
        scales.truncate(limit);
        for block in blocks.iter().skip(scales.len() / BLOCK_ROWS) {
            let (from, to) =
                (scales.len() % BLOCK_ROWS, (limit - scales.len() / BLOCK_ROWS * BLOCK_ROWS).min(BLOCK_ROWS));
            scales.extend_from_slice(block.value_scales().get(from..to).unwrap_or(&[]));
        }
        scales.resize(seen, 0.0);
        let scores = scores.get_mut(..seen).unwrap_or(&mut []);
        scores.get_mut(limit..).unwrap_or(&mut []).fill(f32::MIN);
        let (weights, unseen) = weights.split_at_mut(seen.min(weights.len()));
        unseen.fill(0);
        let weighed = weigh(self.level, scores, scales, weights);
        scales.truncate(limit);
        weighed.scale
    }

    /// Add up weighted values of the first `keys` keys in some panels of columns, a block at a time: a block's panels lie
    /// one after another.
    pub(super) fn sum(
        &self,
        blocks: &[Arc<Block>],
        keys: usize,
        panels: Range<usize>,
        weights: &[i16],
        count: usize,
        wide: &mut [WideTile],
    ) {
        let stride = blocks.len() * BLOCK_ROWS;
        let mut sums: Tile = ZERO_TILE;
        wide.fill(ZERO_WIDE);
        for (i, block) in blocks.iter().enumerate() {
            let pairs = (keys - i * BLOCK_ROWS).div_ceil(Pairs::WIDTH);
            let weights = weights.get(i * BLOCK_ROWS..).unwrap_or(&[]);
            for (panel, wide) in panels.clone().zip(&mut *wide) {
                if let Some(later) = blocks.get(i + AHEAD) {
                    Pairs::prefetch(later.values(panel));
                }
                let steps = block.values(panel);
                let steps = steps.get(..pairs.min(steps.len())).unwrap_or(&[]);
                Pairs::tile(self.level, weights, stride, count, steps, &mut sums);
                widen(self.level, &sums, count, wide);
            }
        }
    }
}
