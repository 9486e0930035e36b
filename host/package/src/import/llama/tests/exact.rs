//! The imported decoder, run whole from its layers, as the component would run it.

use crate::import::matrix::Matrix;
use ostrakon_exact::simd::{CpuProduct, Executor, Level};
use ostrakon_exact::{Layer, Lengths, Linear, RmsNorm};

/// Layers by their full names.
pub(super) struct Exact<'a> {
    pub(super) layer: Box<dyn Fn(&str) -> Layer + 'a>,
    pub(super) blocks: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
}

impl Exact<'_> {
    fn linear(&self, name: &str) -> Linear {
        let Layer::Linear(layer) = (self.layer)(name) else { panic!("{name}") };
        layer
    }

    fn norm(&self, run: &Executor, name: &str, x: &Matrix<f32>) -> Matrix<f32> {
        let Layer::RmsNorm(layer) = (self.layer)(name) else { panic!("{name}") };
        let layer: RmsNorm = layer;
        let mut out = Matrix::zeros(x.rows, x.columns);
        run.rms_norm(&layer, &x.data, x.rows, &mut out.data).unwrap();
        out
    }

    fn product(&self, run: &Executor, name: &str, x: &Matrix<f32>) -> Matrix<f32> {
        let layer = self.linear(name);
        let mut out = Matrix::zeros(x.rows, layer.outputs);
        run.linear(&layer, &CpuProduct::new(&layer, run), &x.data, x.rows, &mut out.data).unwrap();
        out
    }

    /// Scores [rows, vocabulary] of whole sequences.
    pub(super) fn logits(&self, ids: &[i32], lengths: &[i32]) -> Matrix<f32> {
        let run = &Executor::new(Level::detect(), 2).unwrap();
        let Layer::Embedding(words) = (self.layer)("embeddings.words") else { panic!("words") };
        let mut x = Matrix::zeros(ids.len(), words.width);
        run.embedding(&words, ids, &mut x.data).unwrap();
        let positions: Vec<i32> = lengths.iter().flat_map(|&length| 0..length).collect();
        let sequences = Lengths::new(lengths, ids.len()).unwrap();
        for i in 0..self.blocks {
            let name = |rest: &str| format!("blocks.{i}.{rest}");
            let qkv = self.product(run, &name("attention.qkv"), &self.norm(run, &name("attention.norm"), &x));
            let Layer::Rotary(rotary) = (self.layer)(&name("attention.rotary")) else { panic!("rotary") };
            let mut turned = Matrix::zeros(qkv.rows, qkv.columns);
            run.rotary(&rotary, &qkv.data, &positions, qkv.columns, &mut turned.data).unwrap();
            let mut attention = Matrix::zeros(qkv.rows, self.heads * rotary.width);
            let (heads, kv_heads) = (self.heads, self.kv_heads);
            run.causal_attention(&turned.data, &sequences, heads, kv_heads, rotary.width, &mut [], &mut attention.data)
                .unwrap();
            let x1 = add(run, &x, &self.product(run, &name("attention.output"), &attention));
            let inner =
                self.product(run, &name("feed-forward.gate-up"), &self.norm(run, &name("feed-forward.norm"), &x1));
            let mut gated = Matrix::zeros(inner.rows, inner.columns / 2);
            run.swiglu(&inner.data, inner.rows, inner.columns / 2, &mut gated.data).unwrap();
            x = add(run, &x1, &self.product(run, &name("feed-forward.down"), &gated));
        }
        self.product(run, "head.head", &self.norm(run, "head.norm", &x))
    }
}

fn add(run: &Executor, a: &Matrix<f32>, b: &Matrix<f32>) -> Matrix<f32> {
    let mut out = Matrix::zeros(a.rows, a.columns);
    run.add(&a.data, &b.data, &mut out.data).unwrap();
    out
}
