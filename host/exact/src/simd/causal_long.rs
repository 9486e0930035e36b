//! A few rows against long pasts: their keys are shared between the threads.
//!
//! # Why
//!
//! In generation a sequence has one new row and few heads of keys. With a piece of work for each, most threads would
//! have none while some read megabytes.
//!
//! # How
//!
//! All long pieces together go through three steps, each shared by all threads: scores, a run of blocks at a time;
//! weights, a row at a time; weighted values, a panel of columns at a time. Sums of integers do not depend on who adds
//! which, so the bytes are those of a piece that is done by one thread.

use super::causal::{Call, Piece, Queries};
use super::coding::{WideTile, ZERO_WIDE};
use super::crew::Crew;
use super::past::{BLOCK_ROWS, Block};
use super::tile::COLUMNS;
use core::ops::Range;
use std::sync::Arc;

/// Fewer keys than this are not worth sharing.
const LEAST_KEYS: usize = 1024;

/// Whether a piece is worth sharing, where that is the work of all.
pub(super) fn is_long(call: &Call<'_>, piece: &Piece<'_>, work: usize, crew: &Crew) -> bool {
    let keys = piece.position + piece.count;
    let share = piece.work(&call.shape).saturating_mul(2 * crew.threads());
    crew.threads() > 1 && keys >= LEAST_KEYS && share > work && call.is_one_tile(piece)
}

struct Long<'a> {
    blocks: &'a [Arc<Block>],
    piece: &'a Piece<'a>,
    keys: usize,
    queries: Queries<'a>,
}

/// Scores with the keys of a run of blocks.
struct Run<'a> {
    long: &'a Long<'a>,
    blocks: Range<usize>,
    scores: Vec<f32>,
}

/// Weights of one query.
struct Row<'a> {
    runs: &'a [Run<'a>],
    row: usize,
    weights: &'a mut [i16],
    scale: &'a mut f32,
}

/// Weighted values of one panel of columns.
struct Panel<'a> {
    long: &'a Long<'a>,
    weights: &'a [i16],
    panel: usize,
    sums: WideTile,
}

/// The results of pieces that are one tile each, and where they go.
pub(super) fn attend(call: &Call<'_>, crew: &Crew, pieces: Vec<(&Piece<'_>, &mut [f32])>) {
    let mut codes: Vec<Vec<i16>> = pieces.iter().map(|_| Vec::new()).collect();
    let longs: Vec<Long<'_>> = pieces
        .iter()
        .zip(&mut codes)
        .map(|((piece, _), codes)| {
            let blocks = piece.past.blocks(piece.kv_heads.start);
            let keys = piece.position + piece.count;
            let queries = call.code(piece, piece.kv_heads.start, 0..call.shape.group() * piece.count, codes);
            Long { blocks: blocks.get(..keys.div_ceil(BLOCK_ROWS)).unwrap_or(&[]), piece, keys, queries }
        })
        .collect();

    let parts = (4 * crew.threads()).div_ceil(longs.len().max(1));
    let mut runs: Vec<Run<'_>> = longs
        .iter()
        .flat_map(|long| {
            let blocks = long.blocks.len();
            (0..parts).map(move |i| (long, i * blocks / parts..(i + 1) * blocks / parts))
        })
        .map(|(long, blocks)| Run { long, blocks, scores: Vec::new() })
        .collect();
    crew.each_chunk(&mut runs, 1, |_, runs| {
        for run in runs {
            let blocks = run.long.blocks.get(run.blocks.clone()).unwrap_or(&[]);
            if blocks.is_empty() {
                continue;
            }
            run.scores = vec![0.0; run.long.queries.count * blocks.len() * BLOCK_ROWS];
            let keys = (run.long.keys - run.blocks.start * BLOCK_ROWS).min(blocks.len() * BLOCK_ROWS);
            call.score(&run.long.queries, blocks, keys, &mut run.scores);
        }
    });

    let mut weights: Vec<(Vec<i16>, Vec<f32>)> = longs
        .iter()
        .map(|long| (vec![0; long.queries.count * long.blocks.len() * BLOCK_ROWS], vec![0.0; long.queries.count]))
        .collect();
    let mut rows: Vec<Row<'_>> = weights
        .iter_mut()
        .zip(runs.chunks(parts))
        .flat_map(|((weights, scales), runs)| {
            let stride = weights.len() / scales.len().max(1);
            let each = weights.chunks_exact_mut(stride.max(1)).zip(scales).enumerate();
            each.map(move |(row, (weights, scale))| Row { runs, row, weights, scale })
        })
        .collect();
    crew.each_chunk(&mut rows, 1, |_, rows| {
        for row in rows {
            let Some(long) = row.runs.first().map(|run| run.long) else { continue };
            let mut scores = Vec::with_capacity(row.weights.len());
            for run in row.runs {
                let width = run.blocks.len() * BLOCK_ROWS;
                scores.extend_from_slice(run.scores.get(row.row * width..(row.row + 1) * width).unwrap_or(&[]));
            }
            let limit = long.piece.position + row.row / call.shape.group() + 1;
            *row.scale = call.weigh(long.blocks, limit, &mut scores, &mut Vec::new(), row.weights);
        }
    });

    let panels = call.shape.width.div_ceil(COLUMNS);
    let mut sums: Vec<Panel<'_>> = longs
        .iter()
        .zip(&weights)
        .flat_map(|(long, (weights, _))| (0..panels).map(move |panel| (long, weights, panel)))
        .map(|(long, weights, panel)| Panel { long, weights, panel, sums: ZERO_WIDE })
        .collect();
    crew.each_chunk(&mut sums, 1, |_, panels| {
        for at in panels {
            at.sums = call.sum(at.long.blocks, at.long.keys, at.panel, at.weights, at.long.queries.count);
        }
    });
    for (((piece, out), (_, scales)), panels) in pieces.into_iter().zip(&weights).zip(sums.chunks(panels)) {
        for at in panels {
            call.finish(piece, (0, 0), at.panel, &at.sums, scales, out);
        }
    }
}
