//! The f32 model and the exact one side by side, layer by layer, on the calibration texts.
//!
//! # How
//!
//! 1. `smooth` shares the size of a layer's input channels between activations and weights.
//! 2. `correction` changes the weights so that they take back what the layers before have lost.
//! 3. `rounding` turns them into codes; the layer runs, and what it gives is the next one's input.

use super::{
    ImportError, Progress,
    checkpoint::{Block, Dense, Encoder},
    config::{Config, Pooling},
    correction::correction,
    encoder::{self, ExactBlock, ExactEmbeddings, ExactModel, Run},
    exact::{self, ExactLinear},
    float,
    matrix::{Matrix, Packed, covariance},
    rounding::Inputs,
    smooth, tables,
    tokens::Batch,
};
use ostrakon_exact::Activation;
use rayon::ThreadPool;

/// The ridge of the inputs' covariance, as a share of its mean diagonal.
const DAMPING: f64 = 0.05;

/// Rows of both models at the same place.
struct Pair {
    float: Matrix<f32>,
    exact: Matrix<f32>,
}

/// Texts, and how they are used.
#[derive(Clone, Copy)]
pub(super) struct Calibration<'a> {
    pub(super) batch: &'a Batch,
    /// Of how many rows, the first, the weights may know; the others only run along.
    pub(super) fitted: usize,
}

/// Quantise all weights, with these activations block by block.
pub(super) fn quantise(
    pool: &ThreadPool,
    run: &Run,
    config: &Config,
    encoder: &Encoder,
    calibration: Calibration<'_>,
    activations: &[[Activation; 4]],
    progress: Progress<'_>,
) -> Result<ExactModel, ImportError> {
    let Calibration { batch, fitted } = calibration;
    let work = Work { pool, run, batch, fitted, heads: config.heads };
    let total = 1 + 4 * config.blocks as u64;
    progress("quantise", 0, total);
    let (embeddings, mut at) = work.embeddings(encoder, config)?;
    let mut done = 1;
    let mut blocks = Vec::with_capacity(config.blocks);
    for (block, &activations) in encoder.blocks.iter().zip(activations) {
        let mut step = || {
            done += 1;
            progress("quantise", done - 1, total);
        };
        let (block, next) = work.block(block, activations, &at, &mut step)?;
        blocks.push(block);
        at = next;
    }
    progress("quantise", total, total);
    let wanted = float::pool(&at.float, &batch.lengths, config.pooling == Pooling::Mean);
    Ok(ExactModel { embeddings, blocks, wanted })
}

struct Work<'a> {
    pool: &'a ThreadPool,
    run: &'a Run,
    batch: &'a Batch,
    fitted: usize,
    heads: usize,
}

impl Work<'_> {
    fn embeddings(&self, encoder: &Encoder, config: &Config) -> Result<(ExactEmbeddings, Pair), ImportError> {
        let used = config.max_tokens as usize;
        let (words, positions, float) = self.pool.install(|| {
            let (words, positions) = tables::round(&encoder.words, &encoder.positions, used, &encoder.norm.gain);
            let rows = |table: &Matrix<f32>, ids: &mut dyn Iterator<Item = usize>| {
                let data: Vec<f32> = ids.flat_map(|id| table.row(id).iter().copied()).collect();
                Matrix { rows: data.len() / table.columns.max(1), columns: table.columns, data }
            };
            let ids = self.batch.ids.iter().filter_map(|&id| usize::try_from(id).ok());
            let words_at = rows(&encoder.words, &mut ids.into_iter());
            let positions_at = rows(&encoder.positions, &mut self.batch.lengths.iter().flat_map(|&length| 0..length));
            (words, positions, encoder.norm.apply(&words_at, &positions_at))
        });
        let embeddings = ExactEmbeddings {
            words: exact::embedding(words, config.width)?,
            positions: exact::embedding(positions, config.width)?,
            norm: encoder::layer_norm(&encoder.norm),
        };
        let exact = self.run.embed(&embeddings, self.batch)?;
        Ok((embeddings, Pair { float, exact }))
    }

    fn block(
        &self,
        block: &Block,
        activations: [Activation; 4],
        x: &Pair,
        step: &mut dyn FnMut(),
    ) -> Result<(ExactBlock, Pair), ImportError> {
        let norm = |norm: &float::Norm, y: &Pair, x: &Pair| {
            let layer = encoder::layer_norm(norm);
            let exact = self.run.norm(&layer, &y.exact, &x.exact)?;
            let float = self.pool.install(|| norm.apply(&y.float, &x.float));
            Ok::<_, ImportError>((layer, Pair { float, exact }))
        };
        let [for_qkv, for_output, for_up, for_down] = activations;
        step();
        let (qkv, y) = self.linear(&block.qkv, for_qkv, x, None)?;
        let attention = Pair {
            float: self.pool.install(|| float::attention(&y.float, &self.batch.lengths, self.heads)),
            exact: self.run.attention(&y.exact, self.batch)?,
        };
        step();
        let (output, y) = self.linear(&block.output, for_output, &attention, Some(x))?;
        let (attention_norm, x) = norm(&block.attention_norm, &y, x)?;
        step();
        let (up, y) = self.linear(&block.up, for_up, &x, None)?;
        let inner = Pair { float: self.pool.install(|| float::gelu(&y.float)), exact: self.run.gelu(&y.exact)? };
        step();
        let (down, y) = self.linear(&block.down, for_down, &inner, Some(&x))?;
        let (norm, x) = norm(&block.norm, &y, &x)?;
        Ok((ExactBlock { qkv, output, attention_norm, up, down, norm }, x))
    }

    /// Quantise one layer on the inputs that it will have. `residual` is what its outputs are added to.
    fn linear(
        &self,
        dense: &Dense,
        activation: Activation,
        x: &Pair,
        residual: Option<&Pair>,
    ) -> Result<(ExactLinear, Pair), ImportError> {
        let (prescale, rounded, float) = self.pool.install(|| {
            let published = Packed::new(&dense.weight);
            let seen = x.exact.first_rows(self.fitted);
            let prescale = smooth::prescale(&seen, &dense.weight);
            let inputs = seen.map_columns(&prescale);
            let covariance = covariance(&inputs);
            let float = published.product(&x.float);
            let mut lacking = published.product(&seen);
            for (lacking, &wanted) in lacking.data.iter_mut().zip(&float.data) {
                *lacking = wanted - *lacking;
            }
            if let Some(residual) = residual {
                let pairs = residual.float.data.iter().zip(&residual.exact.data);
                for (lacking, (&wanted, &got)) in lacking.data.iter_mut().zip(pairs) {
                    *lacking += wanted - got;
                }
            }
            let mut weight = unscaled(&dense.weight, &prescale);
            for (w, &change) in weight.data.iter_mut().zip(&correction(&inputs, &covariance, &lacking).data) {
                *w += change;
            }
            (prescale, Inputs::new(&covariance, DAMPING).round(&weight), with_bias(float, &dense.bias))
        });
        let layer = self.run.prepare(rounded, &dense.bias, &prescale, activation)?;
        let exact = self.run.linear(&layer, &x.exact)?;
        Ok((layer, Pair { float, exact }))
    }
}

fn with_bias(mut y: Matrix<f32>, bias: &[f32]) -> Matrix<f32> {
    for row in y.data.chunks_exact_mut(bias.len().max(1)) {
        for (y, &b) in row.iter_mut().zip(bias) {
            *y += b;
        }
    }
    y
}

/// The weights for inputs that are multiplied by `prescale`.
fn unscaled(w: &Matrix<f32>, prescale: &[f32]) -> Matrix<f64> {
    let data = w.iter_rows().flat_map(|row| row.iter().zip(prescale).map(|(&w, &p)| f64::from(w) / f64::from(p)));
    Matrix { rows: w.rows, columns: w.columns, data: data.collect() }
}
