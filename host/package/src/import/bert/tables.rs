//! Embedding tables as codes.
//!
//! # Why
//!
//! A row has one scale, so one loud column makes the whole row coarse. In published encoders some
//! columns are loud in every row, most of all in the positions, to which the row of token type 0 is
//! added.
//!
//! # How
//!
//! Words and positions are only ever added, so a constant row may move from one table to the other
//! without changing the sum. What the positions have in common is kept there up to a threshold, the
//! rest moves to the words; the threshold is the one with the least rounding error of the two tables
//! together, each column weighted by the gain of the norm behind it.
//!
//! That norm also takes away whatever all columns of a row have in common. So each row is moved by a
//! constant that puts its largest and its smallest value at the same distance from 0, and its scale
//! is lowered while that lowers its error: a loud column with little gain may saturate a little.

use super::{
    matrix::Matrix,
    rounding::{MAX_CODE, Rounded, nearest},
};
use rayon::prelude::*;

/// Thresholds tried, from nothing to all.
const STEPS: usize = 50;
/// Rows by which a threshold is judged.
const SAMPLE: usize = 1024;
/// Scales tried for a row, each this much of its largest value less.
const SHRINK: f64 = 0.04;
const SHRINKS: usize = 8;

/// Words and positions as codes; `used` is how many positions a text can have.
pub(super) fn round(words: &Matrix<f32>, positions: &Matrix<f32>, used: usize, gain: &[f32]) -> (Rounded, Rounded) {
    let weights: Vec<f64> = gain.iter().map(|&g| f64::from(g) * f64::from(g)).collect();
    let mut common = vec![0.0f64; words.columns];
    for row in positions.iter_rows().take(used) {
        for (c, &v) in common.iter_mut().zip(row) {
            *c += f64::from(v);
        }
    }
    for c in &mut common {
        *c /= used.max(1) as f64;
    }
    let largest = common.iter().fold(0.0f64, |m, c| m.max(c.abs()));
    let every = words.rows.div_ceil(SAMPLE).max(1);
    let judged: Vec<(f64, Vec<f64>)> = (0..=STEPS)
        .into_par_iter()
        .map(|step| {
            let threshold = largest * step as f64 / STEPS as f64;
            let moved: Vec<f64> = common.iter().map(|&c| c - c.clamp(-threshold, threshold)).collect();
            let back: Vec<f64> = moved.iter().map(|m| -m).collect();
            let (mut w, mut p) = (0.0, 0.0);
            let sample = words.iter_rows().step_by(every);
            let sampled = sample.len();
            for row in sample {
                w += round_row(row, &moved, &weights, 1).0;
            }
            for row in positions.iter_rows().take(used) {
                p += round_row(row, &back, &weights, 1).0;
            }
            (w / sampled.max(1) as f64 + p / used.max(1) as f64, moved)
        })
        .collect();
    let best = judged.into_iter().reduce(|best, next| if next.0 < best.0 { next } else { best });
    let moved = best.map_or_else(|| vec![0.0; words.columns], |(_, moved)| moved);
    let back: Vec<f64> = moved.iter().map(|m| -m).collect();
    (table(words, &moved, &weights), table(positions, &back, &weights))
}

fn table(rows: &Matrix<f32>, shift: &[f64], weights: &[f64]) -> Rounded {
    let mut codes = vec![0i8; rows.data.len()];
    let mut scale = vec![0.0f32; rows.rows];
    let columns = rows.columns.max(1);
    codes.par_chunks_mut(columns).zip(&mut scale).zip(rows.data.par_chunks(columns)).for_each(
        |((codes, scale), row)| {
            *scale = round_row(row, shift, weights, SHRINKS).1;
            for (code, v) in codes.iter_mut().zip(centred(row, shift)) {
                *code = nearest(v, f64::from(*scale)) as i8;
            }
        },
    );
    Rounded { codes, scale }
}

/// `row + shift`, moved so that it reaches as far up as down.
fn centred(row: &[f32], shift: &[f64]) -> Vec<f64> {
    let mut v: Vec<f64> = row.iter().zip(shift).map(|(&v, &s)| f64::from(v) + s).collect();
    let (lo, hi) = v.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), &v| (lo.min(v), hi.max(v)));
    for v in &mut v {
        *v -= (lo + hi) / 2.0;
    }
    v
}

/// The weighted squared error and the scale of a row, the best of `tries` scales.
fn round_row(row: &[f32], shift: &[f64], weights: &[f64], tries: usize) -> (f64, f32) {
    let row = centred(row, shift);
    let max = row.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let mut best = (f64::INFINITY, 0.0);
    for step in 0..tries {
        let scale = (max * (1.0 - SHRINK * step as f64) / MAX_CODE) as f32;
        let error = row.iter().zip(weights).fold(0.0, |sum, (&v, &w)| {
            let e = v - nearest(v, f64::from(scale)) * f64::from(scale);
            sum + e * e * w
        });
        if error < best.0 {
            best = (error, scale);
        }
    }
    best
}
