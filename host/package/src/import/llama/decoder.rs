//! The decoder as it will run: the exact operations on what has been quantised so far.

use super::{
    ImportError,
    config::Config,
    exact::{ExactLinear, refused},
    matrix::Matrix,
    rounding::Rounded,
};
use ostrakon_exact::{
    Activation, Embedding, Lengths, RmsNorm, Rotary,
    simd::{Executor, Level},
};

/// A decoder block, ready to run.
pub(super) struct ExactBlock {
    pub(super) attention_norm: RmsNorm,
    pub(super) qkv: ExactLinear,
    pub(super) output: ExactLinear,
    pub(super) norm: RmsNorm,
    pub(super) gate_up: ExactLinear,
    pub(super) down: ExactLinear,
}

/// What it takes to run them on sequences of tokens.
pub(super) struct Run {
    executor: Executor,
    heads: usize,
    kv_heads: usize,
    head: usize,
    inner: usize,
    pub(super) rotary: Rotary,
}

impl Run {
    /// For sequences of at most `positions` tokens.
    pub(super) fn new(threads: usize, c: &Config, positions: usize) -> Result<Self, ImportError> {
        let executor = Executor::new(Level::detect(), threads).map_err(refused)?;
        let rotary = Rotary { table: angles(c, positions), positions, width: c.head, heads: c.heads + c.kv_heads };
        Ok(Self { executor, heads: c.heads, kv_heads: c.kv_heads, head: c.head, inner: c.inner, rotary })
    }

    /// A linear layer from its codes.
    pub(super) fn prepare(
        &self,
        weight: Rounded,
        prescale: &[f32],
        activation: Activation,
    ) -> Result<ExactLinear, ImportError> {
        ExactLinear::new(&self.executor, weight, None, prescale, activation)
    }

    pub(super) fn linear(&self, linear: &ExactLinear, x: &Matrix<f32>) -> Result<Matrix<f32>, ImportError> {
        linear.run(&self.executor, x)
    }

    pub(super) fn embed(&self, words: &Embedding, ids: &[i32]) -> Result<Matrix<f32>, ImportError> {
        let mut out = Matrix::zeros(ids.len(), words.width);
        self.executor.embedding(words, ids, &mut out.data).map_err(refused)?;
        Ok(out)
    }

    pub(super) fn norm(&self, norm: &RmsNorm, x: &Matrix<f32>) -> Result<Matrix<f32>, ImportError> {
        let mut out = Matrix::zeros(x.rows, x.columns);
        self.executor.rms_norm(norm, &x.data, x.rows, &mut out.data).map_err(refused)?;
        Ok(out)
    }

    /// Attention from what the layer before it gave: positions are turned first.
    pub(super) fn attention(&self, qkv: &Matrix<f32>, lengths: &[i32]) -> Result<Matrix<f32>, ImportError> {
        let positions: Vec<i32> = lengths.iter().flat_map(|&length| 0..length).collect();
        let mut turned = Matrix::zeros(qkv.rows, qkv.columns);
        self.executor.rotary(&self.rotary, &qkv.data, &positions, qkv.columns, &mut turned.data).map_err(refused)?;
        let lengths = Lengths::new(lengths, qkv.rows).map_err(refused)?;
        let mut out = Matrix::zeros(qkv.rows, self.heads * self.head);
        self.executor
            .causal_attention(&turned.data, &lengths, self.heads, self.kv_heads, self.head, &mut [], &mut out.data)
            .map_err(refused)?;
        Ok(out)
    }

    pub(super) fn swiglu(&self, x: &Matrix<f32>) -> Result<Matrix<f32>, ImportError> {
        let mut out = Matrix::zeros(x.rows, self.inner);
        self.executor.swiglu(&x.data, x.rows, self.inner, &mut out.data).map_err(refused)?;
        Ok(out)
    }

    pub(super) fn add(&self, a: &Matrix<f32>, b: &Matrix<f32>) -> Result<Matrix<f32>, ImportError> {
        let mut out = Matrix::zeros(a.rows, a.columns);
        self.executor.add(&a.data, &b.data, &mut out.data).map_err(refused)?;
        Ok(out)
    }
}

/// Cosine and sine of every pair at every position, in f64 and then rounded.
fn angles(c: &Config, positions: usize) -> Vec<f32> {
    let frequency = |pair: usize| libm::pow(c.base, -((2 * pair) as f64) / c.head as f64);
    let frequencies: Vec<f64> = (0..c.head / 2).map(frequency).collect();
    (0..positions)
        .flat_map(|p| {
            frequencies.iter().flat_map(move |f| {
                let angle = p as f64 * f;
                [libm::cos(angle) as f32, libm::sin(angle) as f32]
            })
        })
        .collect()
}
