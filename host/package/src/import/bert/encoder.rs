//! The encoder as it will run: the exact operations on what has been quantised so far.

use super::{
    ImportError,
    config::{Config, Pooling},
    exact::{ExactLinear, refused},
    float::{self, Norm},
    matrix::Matrix,
    rounding::Rounded,
    tokens::Batch,
};
use ostrakon_exact::{
    Activation, Embedding, LayerNorm, Lengths,
    simd::{Executor, Level},
};

/// An encoder block, ready to run.
pub(super) struct ExactBlock {
    pub(super) qkv: ExactLinear,
    pub(super) output: ExactLinear,
    pub(super) attention_norm: LayerNorm,
    pub(super) up: ExactLinear,
    pub(super) down: ExactLinear,
    pub(super) norm: LayerNorm,
}

impl ExactBlock {
    /// Its linear layers in the order in which they run.
    pub(super) fn linears(&mut self) -> [&mut ExactLinear; 4] {
        [&mut self.qkv, &mut self.output, &mut self.up, &mut self.down]
    }
}

/// The embeddings, ready to run.
pub(super) struct ExactEmbeddings {
    pub(super) words: Embedding,
    pub(super) positions: Embedding,
    pub(super) norm: LayerNorm,
}

/// The whole encoder, and what the f32 model answered on the calibration texts.
pub(super) struct ExactModel {
    pub(super) embeddings: ExactEmbeddings,
    pub(super) blocks: Vec<ExactBlock>,
    pub(super) wanted: Vec<Vec<f64>>,
}

/// What it takes to run them.
pub(super) struct Run {
    executor: Executor,
    heads: usize,
    pooling: Pooling,
}

impl Run {
    pub(super) fn new(threads: usize, config: &Config) -> Result<Self, ImportError> {
        let executor = Executor::new(Level::detect(), threads).map_err(refused)?;
        Ok(Self { executor, heads: config.heads, pooling: config.pooling })
    }

    /// A linear layer from its codes.
    pub(super) fn prepare(
        &self,
        weight: Rounded,
        bias: &[f32],
        prescale: &[f32],
        activation: Activation,
    ) -> Result<ExactLinear, ImportError> {
        ExactLinear::new(&self.executor, weight, Some(bias), prescale, activation)
    }

    pub(super) fn linear(&self, linear: &ExactLinear, x: &Matrix<f32>) -> Result<Matrix<f32>, ImportError> {
        linear.run(&self.executor, x)
    }

    pub(super) fn norm(
        &self,
        norm: &LayerNorm,
        x: &Matrix<f32>,
        residual: &Matrix<f32>,
    ) -> Result<Matrix<f32>, ImportError> {
        let mut out = Matrix::zeros(x.rows, x.columns);
        self.executor.layer_norm(norm, &x.data, Some(&residual.data), x.rows, &mut out.data).map_err(refused)?;
        Ok(out)
    }

    pub(super) fn gelu(&self, x: &Matrix<f32>) -> Result<Matrix<f32>, ImportError> {
        let mut out = Matrix::zeros(x.rows, x.columns);
        self.executor.gelu(&x.data, &mut out.data).map_err(refused)?;
        Ok(out)
    }

    pub(super) fn attention(&self, qkv: &Matrix<f32>, batch: &Batch) -> Result<Matrix<f32>, ImportError> {
        let width = qkv.columns / 3;
        let lengths = Lengths::new(&batch.lengths_i32(), qkv.rows).map_err(refused)?;
        let mut out = Matrix::zeros(qkv.rows, width);
        self.executor.attention(&qkv.data, &lengths, width, self.heads, &mut out.data).map_err(refused)?;
        Ok(out)
    }

    pub(super) fn embed(&self, embeddings: &ExactEmbeddings, batch: &Batch) -> Result<Matrix<f32>, ImportError> {
        let rows = batch.ids.len();
        let width = embeddings.words.width;
        let (mut words, mut positions) = (Matrix::zeros(rows, width), Matrix::zeros(rows, width));
        let at: Vec<i32> = batch.lengths_i32().into_iter().flat_map(|length| 0..length).collect();
        self.executor.embedding(&embeddings.words, &batch.ids, &mut words.data).map_err(refused)?;
        self.executor.embedding(&embeddings.positions, &at, &mut positions.data).map_err(refused)?;
        self.norm(&embeddings.norm, &words, &positions)
    }

    pub(super) fn block(&self, block: &ExactBlock, x: &Matrix<f32>, batch: &Batch) -> Result<Matrix<f32>, ImportError> {
        let attention = self.attention(&self.linear(&block.qkv, x)?, batch)?;
        let x = self.norm(&block.attention_norm, &self.linear(&block.output, &attention)?, x)?;
        let inner = self.gelu(&self.linear(&block.up, &x)?)?;
        self.norm(&block.norm, &self.linear(&block.down, &inner)?, &x)
    }

    /// The mean over the texts of one minus the cosine with what the f32 model answered.
    pub(super) fn loss(&self, x: &Matrix<f32>, batch: &Batch, wanted: &[Vec<f64>]) -> f64 {
        let got = float::pool(x, &batch.lengths, self.pooling == Pooling::Mean);
        let losses = got.iter().zip(wanted).map(|(a, b)| 1.0 - float::cosine(a, b));
        losses.sum::<f64>() / wanted.len().max(1) as f64
    }
}

/// A norm as published.
pub(super) fn layer_norm(norm: &Norm) -> LayerNorm {
    LayerNorm { gain: norm.gain.clone(), bias: norm.bias.clone(), epsilon: norm.epsilon }
}
