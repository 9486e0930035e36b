//! Outlier smoothing: how much of each input channel's size moves into the weights.
//!
//! # Why
//!
//! A row of activations shares one scale, so one loud channel makes all others coarse. Dividing a
//! channel by `s` and multiplying its column of weights by `s` changes nothing but the rounding.
//!
//! # How
//!
//! `s = a^alpha / w^(1 - alpha)`, `a` the channel's largest activation and `w` its column's size, as
//! SmoothQuant does; `alpha` and the measure of size are those with the least expected squared error of
//! the outputs: that of the activations (measured over the calibration rows) plus a share of that of the
//! weights, since their rounding is compensated afterwards (`rounding`).

use super::matrix::Matrix;
use rayon::prelude::*;

/// What is left of the weights' rounding error once it is compensated.
const COMPENSATED: f64 = 0.8;
/// Steps of alpha from 0 to 1.
const STEPS: usize = 20;
/// Neither a channel that is never loud nor a column without weights may get a scale of 0.
const LEAST: f64 = 1e-6;

/// The factor [K] by which activations are multiplied.
pub(super) fn prescale(x: &Matrix<f32>, w: &Matrix<f32>) -> Vec<f32> {
    let mut loudest = vec![0.0f64; x.columns];
    let mut power = vec![0.0f64; x.columns];
    for row in x.iter_rows() {
        for ((m, p), &v) in loudest.iter_mut().zip(&mut power).zip(row) {
            let v = f64::from(v);
            *m = m.max(v.abs());
            *p += v * v;
        }
    }
    let mut largest = vec![0.0f64; w.columns];
    let mut norm = vec![0.0f64; w.columns];
    for row in w.iter_rows() {
        for ((m, n), &v) in largest.iter_mut().zip(&mut norm).zip(row) {
            let v = f64::from(v);
            *m = m.max(v.abs());
            *n += v * v;
        }
    }
    for n in &mut norm {
        *n = libm::sqrt(*n);
    }
    let candidates: Vec<(usize, &[f64])> =
        (0..=STEPS).flat_map(|step| [(step, norm.as_slice()), (step, largest.as_slice())]).collect();
    let costs: Vec<(f64, Vec<f32>)> = candidates
        .into_par_iter()
        .map(|(step, size)| {
            let factors = candidate(&loudest, size, step as f64 / STEPS as f64);
            (cost(x, w, &factors, &norm, &power), factors)
        })
        .collect();
    let best = costs.into_iter().reduce(|best, next| if next.0 < best.0 { next } else { best });
    best.map_or_else(|| vec![1.0; x.columns], |(_, factors)| factors)
}

fn candidate(loudest: &[f64], size: &[f64], alpha: f64) -> Vec<f32> {
    let (top_a, top_w) = (top(loudest), top(size));
    let logs: Vec<f64> = loudest
        .iter()
        .zip(size)
        .map(|(&a, &w)| alpha * libm::log((a / top_a).max(LEAST)) - (1.0 - alpha) * libm::log((w / top_w).max(LEAST)))
        .collect();
    let mean = logs.iter().sum::<f64>() / logs.len().max(1) as f64;
    logs.iter().map(|&l| libm::exp(mean - l) as f32).collect()
}

fn top(values: &[f64]) -> f64 {
    let top = values.iter().fold(0.0f64, |m, &v| m.max(v));
    if top > 0.0 { top } else { 1.0 }
}

/// The expected squared error of the outputs, for steps of 1/255 of a row and 1/127 of a column.
fn cost(x: &Matrix<f32>, w: &Matrix<f32>, factors: &[f32], norm: &[f64], power: &[f64]) -> f64 {
    let mut ranges = 0.0f64;
    for row in x.iter_rows() {
        let (lo, hi) = row.iter().zip(factors).fold((0.0f32, 0.0f32), |(lo, hi), (&v, &f)| {
            let v = v * f;
            (if v < lo { v } else { lo }, if v > hi { v } else { hi })
        });
        let range = f64::from(hi - lo) / 255.0;
        ranges += range * range;
    }
    let gain: f64 = norm.iter().zip(factors).map(|(&n, &f)| (n / f64::from(f)) * (n / f64::from(f))).sum();
    let mut steps = 0.0f64;
    for row in w.iter_rows() {
        let max = row.iter().zip(factors).fold(0.0f32, |m, (&v, &f)| {
            let v = (v / f).abs();
            if v > m { v } else { m }
        });
        let step = f64::from(max) / 127.0;
        steps += step * step;
    }
    let energy: f64 = power.iter().zip(factors).map(|(&p, &f)| p * f64::from(f) * f64::from(f)).sum();
    (ranges * gain + COMPENSATED * steps * energy) / (12 * x.rows.max(1)) as f64
}
