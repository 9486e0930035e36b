//! The float weights, checked tensor by tensor before they are copied.

use super::{ImportError, config::Config, float::Norm, floats, matrix::Matrix, source};
use safetensors::{SafeTensors, tensor::TensorView};
use std::path::{Path, PathBuf};

/// Largest weights file.
const MAX_FILE: u64 = 8 << 30;

/// A linear layer as published.
pub(super) struct Dense {
    /// [N, K].
    pub(super) weight: Matrix<f32>,
    pub(super) bias: Vec<f32>,
}

/// An encoder block as published, queries, keys and values side by side.
pub(super) struct Block {
    pub(super) qkv: Dense,
    pub(super) output: Dense,
    pub(super) attention_norm: Norm,
    pub(super) up: Dense,
    pub(super) down: Dense,
    pub(super) norm: Norm,
}

/// The whole encoder as published.
pub(super) struct Encoder {
    pub(super) words: Matrix<f32>,
    /// With the row of token type 0 added to each.
    pub(super) positions: Matrix<f32>,
    pub(super) norm: Norm,
    pub(super) blocks: Vec<Block>,
}

pub(super) fn read(directory: &Path, config: &Config) -> Result<Encoder, ImportError> {
    let file = directory.join("model.safetensors");
    let data = source::read(&file, MAX_FILE)?;
    let tensors = SafeTensors::deserialize(&data).map_err(|error| ImportError::Malformed {
        file: file.clone(),
        why: format!("not a safetensors file: {error}"),
    })?;
    let bare = tensors.tensor("embeddings.word_embeddings.weight").is_ok();
    Checkpoint { file, tensors, prefix: if bare { "" } else { "bert." }, epsilon: config.epsilon }.encoder(config)
}

struct Checkpoint<'a> {
    file: PathBuf,
    tensors: SafeTensors<'a>,
    prefix: &'static str,
    epsilon: f32,
}

impl Checkpoint<'_> {
    fn encoder(&self, c: &Config) -> Result<Encoder, ImportError> {
        let table = |name: &str, rows| {
            let data = self.floats(&format!("embeddings.{name}_embeddings.weight"), &[rows, c.width])?;
            Ok(Matrix { rows, columns: c.width, data })
        };
        let words = table("word", c.vocabulary)?;
        let mut positions = table("position", c.positions)?;
        let types = table("token_type", c.types)?;
        for row in positions.data.chunks_exact_mut(c.width) {
            for (v, &t) in row.iter_mut().zip(types.row(0)) {
                *v += t;
            }
        }
        let norm = self.norm("embeddings.LayerNorm", c.width)?;
        let blocks = (0..c.blocks).map(|i| self.block(i, c)).collect::<Result<_, _>>()?;
        Ok(Encoder { words, positions, norm, blocks })
    }

    fn block(&self, i: usize, c: &Config) -> Result<Block, ImportError> {
        let name = |rest: &str| format!("encoder.layer.{i}.{rest}");
        let mut qkv =
            Dense { weight: Matrix { rows: 3 * c.width, columns: c.width, data: Vec::new() }, bias: Vec::new() };
        for part in ["query", "key", "value"] {
            let dense = self.dense(&name(&format!("attention.self.{part}")), c.width, c.width)?;
            qkv.weight.data.extend(dense.weight.data);
            qkv.bias.extend(dense.bias);
        }
        Ok(Block {
            qkv,
            output: self.dense(&name("attention.output.dense"), c.width, c.width)?,
            attention_norm: self.norm(&name("attention.output.LayerNorm"), c.width)?,
            up: self.dense(&name("intermediate.dense"), c.inner, c.width)?,
            down: self.dense(&name("output.dense"), c.width, c.inner)?,
            norm: self.norm(&name("output.LayerNorm"), c.width)?,
        })
    }

    fn dense(&self, name: &str, outputs: usize, inputs: usize) -> Result<Dense, ImportError> {
        let data = self.floats(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = self.floats(&format!("{name}.bias"), &[outputs])?;
        Ok(Dense { weight: Matrix { rows: outputs, columns: inputs, data }, bias })
    }

    /// Checkpoints converted from TensorFlow say gamma and beta.
    fn norm(&self, name: &str, width: usize) -> Result<Norm, ImportError> {
        let old = self.view(&format!("{name}.weight")).is_err() && self.view(&format!("{name}.gamma")).is_ok();
        let (gain, bias) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        Ok(Norm {
            gain: self.floats(&format!("{name}.{gain}"), &[width])?,
            bias: self.floats(&format!("{name}.{bias}"), &[width])?,
            epsilon: self.epsilon,
        })
    }

    fn view(&self, name: &str) -> Result<TensorView<'_>, ImportError> {
        let full = format!("{}{name}", self.prefix);
        self.tensors.tensor(&full).map_err(|_| self.fault(name, "is missing".to_owned()))
    }

    fn fault(&self, name: &str, why: String) -> ImportError {
        ImportError::Tensor { file: self.file.clone(), tensor: format!("{}{name}", self.prefix), why }
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ImportError> {
        let view = self.view(name)?;
        if view.shape() != shape {
            let got = view.shape();
            return Err(self.fault(name, format!("has shape {got:?}, config.json asks for {shape:?}")));
        }
        let Some(values) = floats::decode(view.dtype(), view.data()) else {
            return Err(self.fault(name, format!("is {:?}: needs F32, F16 or BF16", view.dtype())));
        };
        floats::check(&values).map_err(|why| self.fault(name, why))?;
        Ok(values)
    }
}
