//! The decoder in f32, as published: what the exact one is held against.
//!
//! Written from the definition of the architecture, apart from the exact operations; only the readers of
//! files and the plain product of matrices are shared.

use crate::import::llama::config::Config;
use crate::import::llama::weights::Weights;
use crate::import::matrix::{Matrix, Packed};
use rayon::prelude::*;

/// Scores [rows, vocabulary] of whole sequences.
pub(super) fn logits(weights: &Weights, c: &Config, ids: &[i32], lengths: &[i32]) -> Matrix<f32> {
    let words = weights.words(c).unwrap();
    let data = ids.iter().flat_map(|&id| words.row(usize::try_from(id).unwrap()).to_vec()).collect();
    let mut x = Matrix { rows: ids.len(), columns: c.width, data };
    for i in 0..c.blocks {
        let b = weights.block(i, c).unwrap();
        let qkv = Packed::new(&b.qkv).product(&norm(&x, &b.attention_norm, c.epsilon));
        let attention = attention(&rotate(&qkv, lengths, c), lengths, c);
        add(&mut x, &Packed::new(&b.output).product(&attention));
        let gate_up = Packed::new(&b.gate_up).product(&norm(&x, &b.norm, c.epsilon));
        let inner: Vec<f32> = gate_up
            .iter_rows()
            .flat_map(|row| {
                let (gate, up) = row.split_at(c.inner);
                gate.iter().zip(up).map(|(&g, &u)| g / (1.0 + (-g).exp()) * u).collect::<Vec<f32>>()
            })
            .collect();
        let inner = Matrix { rows: x.rows, columns: c.inner, data: inner };
        add(&mut x, &Packed::new(&b.down).product(&inner));
    }
    let x = norm(&x, &weights.norm(c).unwrap(), c.epsilon);
    Packed::new(&weights.head(c).unwrap()).product(&x)
}

fn add(x: &mut Matrix<f32>, y: &Matrix<f32>) {
    for (x, y) in x.data.iter_mut().zip(&y.data) {
        *x += y;
    }
}

fn norm(x: &Matrix<f32>, gain: &[f32], epsilon: f32) -> Matrix<f32> {
    let mut out = x.clone();
    for row in out.data.chunks_exact_mut(x.columns) {
        let mean = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / row.len() as f64;
        let r = (1.0 / (mean + f64::from(epsilon)).sqrt()) as f32;
        for (v, g) in row.iter_mut().zip(gain) {
            *v *= r * g;
        }
    }
    out
}

fn rotate(qkv: &Matrix<f32>, lengths: &[i32], c: &Config) -> Matrix<f32> {
    let mut out = qkv.clone();
    let positions = lengths.iter().flat_map(|&length| 0..length);
    for (row, position) in out.data.chunks_exact_mut(qkv.columns).zip(positions) {
        for head in row.chunks_exact_mut(c.head).take(c.heads + c.kv_heads) {
            for (pair, v) in head.chunks_exact_mut(2).enumerate() {
                let angle = f64::from(position) / c.base.powf((2 * pair) as f64 / c.head as f64);
                let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
                (v[0], v[1]) = (v[0] * cos - v[1] * sin, v[0] * sin + v[1] * cos);
            }
        }
    }
    out
}

fn attention(qkv: &Matrix<f32>, lengths: &[i32], c: &Config) -> Matrix<f32> {
    let (d, width) = (c.head, c.heads * c.head);
    let mut out = Matrix::zeros(qkv.rows, width);
    let mut start = 0;
    for &length in lengths {
        let length = usize::try_from(length).unwrap();
        let rows = &out.data[start * width..(start + length) * width];
        let done: Vec<Vec<f32>> = (0..rows.len() / width)
            .into_par_iter()
            .map(|i| {
                let mut row = Vec::with_capacity(width);
                for head in 0..c.heads {
                    let kv = head / (c.heads / c.kv_heads);
                    let at = |r: usize, first: usize| &qkv.row(start + r)[first * d..(first + 1) * d];
                    let query = at(i, head);
                    let dot = |j| query.iter().zip(at(j, c.heads + kv)).map(|(a, b)| a * b).sum::<f32>();
                    let scores: Vec<f32> = (0..=i).map(|j| dot(j) / (d as f32).sqrt()).collect();
                    let max = scores.iter().copied().fold(f32::MIN, f32::max);
                    let exps: Vec<f32> = scores.iter().map(|s| (s - max).exp()).collect();
                    let total: f32 = exps.iter().sum();
                    let mut y = vec![0.0; d];
                    for (j, e) in exps.iter().enumerate() {
                        for (y, v) in y.iter_mut().zip(at(j, c.heads + c.kv_heads + kv)) {
                            *y += e / total * v;
                        }
                    }
                    row.extend(y);
                }
                row
            })
            .collect();
        out.data[start * width..(start + length) * width].copy_from_slice(&done.concat());
        start += length;
    }
    out
}
