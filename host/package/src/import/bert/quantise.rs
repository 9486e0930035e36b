//! The f32 model and the exact one side by side, layer by layer, on the calibration texts.

use super::{
    ImportError, Progress,
    checkpoint::{Block, Dense, Encoder},
    config::{Config, Pooling},
    encoder::{self, ExactBlock, ExactEmbeddings, ExactModel, Run},
    exact::{self, ExactLinear},
    float,
    matrix::{Matrix, Packed, covariance},
    rounding::Inputs,
    smooth, tables,
    tokens::Batch,
};
use rayon::ThreadPool;

/// The ridge of the inputs' covariance, as a share of its mean diagonal.
const DAMPING: f64 = 0.05;

/// Rows of both models at the same place.
struct Pair {
    float: Matrix<f32>,
    exact: Matrix<f32>,
}

/// Quantise all weights; activations are 8 bits wide.
pub(super) fn quantise(
    pool: &ThreadPool,
    run: &Run,
    config: &Config,
    encoder: &Encoder,
    batch: &Batch,
    progress: Progress<'_>,
) -> Result<ExactModel, ImportError> {
    let work = Work { pool, run, batch, heads: config.heads };
    let total = 1 + 4 * config.blocks as u64;
    progress("quantise", 0, total);
    let (embeddings, mut at) = work.embeddings(encoder, config)?;
    let mut done = 1;
    let mut blocks = Vec::with_capacity(config.blocks);
    for block in &encoder.blocks {
        let mut step = || {
            done += 1;
            progress("quantise", done - 1, total);
        };
        let (block, next) = work.block(block, &at, &mut step)?;
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

    fn block(&self, block: &Block, x: &Pair, step: &mut dyn FnMut()) -> Result<(ExactBlock, Pair), ImportError> {
        let norm = |norm: &float::Norm, y: &Pair, x: &Pair| {
            let layer = encoder::layer_norm(norm);
            let exact = self.run.norm(&layer, &y.exact, &x.exact)?;
            let float = self.pool.install(|| norm.apply(&y.float, &x.float));
            Ok::<_, ImportError>((layer, Pair { float, exact }))
        };
        step();
        let (qkv, y) = self.linear(&block.qkv, x)?;
        let attention = Pair {
            float: self.pool.install(|| float::attention(&y.float, &self.batch.lengths, self.heads)),
            exact: self.run.attention(&y.exact, self.batch)?,
        };
        step();
        let (output, y) = self.linear(&block.output, &attention)?;
        let (attention_norm, x) = norm(&block.attention_norm, &y, x)?;
        step();
        let (up, y) = self.linear(&block.up, &x)?;
        let inner = Pair { float: self.pool.install(|| float::gelu(&y.float)), exact: self.run.gelu(&y.exact)? };
        step();
        let (down, y) = self.linear(&block.down, &inner)?;
        let (norm, x) = norm(&block.norm, &y, &x)?;
        Ok((ExactBlock { qkv, output, attention_norm, up, down, norm }, x))
    }

    /// Quantise one layer on the inputs that it will have, which carry the rounding of all before it.
    fn linear(&self, dense: &Dense, x: &Pair) -> Result<(ExactLinear, Pair), ImportError> {
        let (prescale, rounded, mut float) = self.pool.install(|| {
            let prescale = smooth::prescale(&x.exact, &dense.weight);
            let inputs = x.exact.map_columns(&prescale);
            let rounded = Inputs::new(&covariance(&inputs), DAMPING).round(&unscaled(&dense.weight, &prescale));
            (prescale, rounded, Packed::new(&dense.weight).product(&x.float))
        });
        for row in float.data.chunks_exact_mut(dense.bias.len()) {
            for (y, &b) in row.iter_mut().zip(&dense.bias) {
                *y += b;
            }
        }
        let layer = self.run.prepare(rounded, &dense.bias, &prescale)?;
        let exact = self.run.linear(&layer, &x.exact)?;
        Ok((layer, Pair { float, exact }))
    }
}

/// The weights for inputs that are multiplied by `prescale`.
fn unscaled(w: &Matrix<f32>, prescale: &[f32]) -> Matrix<f64> {
    let data = w.iter_rows().flat_map(|row| row.iter().zip(prescale).map(|(&w, &p)| f64::from(w) / f64::from(p)));
    Matrix { rows: w.rows, columns: w.columns, data: data.collect() }
}
