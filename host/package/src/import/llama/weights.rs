//! The float weights, read block by block and checked tensor by tensor.
//!
//! # Why
//!
//! The same model is published in two ways. A GGUF file has the rows of queries and keys in the order
//! in which the pairs that a position turns lie side by side; a safetensors file has the first members
//! of all pairs of a head before the second ones. The exact operation turns neighbours, so rows of the
//! second kind are put into the order of the first. Nothing else differs but the names.

use super::{ImportError, config::Config, floats, gguf::Gguf, matrix::Matrix, source};
use crate::error::quote;
use memmap2::Mmap;
use safetensors::SafeTensors;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Largest weights file.
const MAX_FILE: u64 = 64 << 30;

/// A decoder block as published.
pub(super) struct Block {
    pub(super) attention_norm: Vec<f32>,
    /// Rows of the queries' heads, then the keys', then the values'.
    pub(super) qkv: Matrix<f32>,
    pub(super) output: Matrix<f32>,
    pub(super) norm: Vec<f32>,
    /// Rows of the gate, then of what it gates.
    pub(super) gate_up: Matrix<f32>,
    pub(super) down: Matrix<f32>,
}

/// What a tensor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Words,
    Norm,
    Head,
    AttentionNorm(usize),
    Query(usize),
    Key(usize),
    Value(usize),
    Output(usize),
    InnerNorm(usize),
    Gate(usize),
    Up(usize),
    Down(usize),
}

impl Role {
    fn of_block(i: usize) -> [Self; 9] {
        [
            Self::AttentionNorm(i),
            Self::Query(i),
            Self::Key(i),
            Self::Value(i),
            Self::Output(i),
            Self::InnerNorm(i),
            Self::Gate(i),
            Self::Up(i),
            Self::Down(i),
        ]
    }

    /// The name in a GGUF file.
    fn in_gguf(self) -> String {
        let (i, rest) = match self {
            Self::Words => return "token_embd.weight".to_owned(),
            Self::Norm => return "output_norm.weight".to_owned(),
            Self::Head => return "output.weight".to_owned(),
            Self::AttentionNorm(i) => (i, "attn_norm"),
            Self::Query(i) => (i, "attn_q"),
            Self::Key(i) => (i, "attn_k"),
            Self::Value(i) => (i, "attn_v"),
            Self::Output(i) => (i, "attn_output"),
            Self::InnerNorm(i) => (i, "ffn_norm"),
            Self::Gate(i) => (i, "ffn_gate"),
            Self::Up(i) => (i, "ffn_up"),
            Self::Down(i) => (i, "ffn_down"),
        };
        format!("blk.{i}.{rest}.weight")
    }

    /// The name in a safetensors file.
    fn in_safetensors(self) -> String {
        let (i, rest) = match self {
            Self::Words => return "model.embed_tokens.weight".to_owned(),
            Self::Norm => return "model.norm.weight".to_owned(),
            Self::Head => return "lm_head.weight".to_owned(),
            Self::AttentionNorm(i) => (i, "input_layernorm"),
            Self::Query(i) => (i, "self_attn.q_proj"),
            Self::Key(i) => (i, "self_attn.k_proj"),
            Self::Value(i) => (i, "self_attn.v_proj"),
            Self::Output(i) => (i, "self_attn.o_proj"),
            Self::InnerNorm(i) => (i, "post_attention_layernorm"),
            Self::Gate(i) => (i, "mlp.gate_proj"),
            Self::Up(i) => (i, "mlp.up_proj"),
            Self::Down(i) => (i, "mlp.down_proj"),
        };
        format!("model.layers.{i}.{rest}.weight")
    }
}

/// Where the weights lie.
pub(super) enum Weights {
    /// In a GGUF file.
    Gguf(Gguf),
    /// In a safetensors file.
    Safetensors(Mapped),
}

/// A mapped safetensors file.
pub(super) struct Mapped {
    file: PathBuf,
    map: Mmap,
}

impl Mapped {
    #[allow(unsafe_code)]
    pub(super) fn open(file: PathBuf) -> Result<Self, ImportError> {
        let refused = |source| ImportError::Read { file: file.clone(), source };
        let (open, bytes) = source::open(&file)?;
        if bytes > MAX_FILE {
            return Err(ImportError::TooLarge { file, bytes, limit: MAX_FILE });
        }
        // SAFETY: as for GGUF files: read-only, seen only as bytes, and a file of the user's own.
        let map = unsafe { Mmap::map(&open) }.map_err(refused)?;
        Ok(Self { file, map })
    }

    fn tensors(&self) -> Result<SafeTensors<'_>, ImportError> {
        SafeTensors::deserialize(&self.map).map_err(|error| ImportError::Malformed {
            file: self.file.clone(),
            why: format!("not a safetensors file: {error}"),
        })
    }
}

impl Weights {
    fn file(&self) -> &Path {
        match self {
            Self::Gguf(gguf) => gguf.file(),
            Self::Safetensors(mapped) => &mapped.file,
        }
    }

    fn name(&self, role: Role) -> String {
        match self {
            Self::Gguf(_) => role.in_gguf(),
            Self::Safetensors(_) => role.in_safetensors(),
        }
    }

    /// Nothing in the file may be left over: a tensor that is not used would change the answers.
    pub(super) fn check_names(&self, config: &Config) -> Result<(), ImportError> {
        let roles = (0..config.blocks).flat_map(Role::of_block).chain([Role::Words, Role::Norm, Role::Head]);
        let known: HashSet<String> = roles.map(|role| self.name(role)).collect();
        let names: Vec<String> = match self {
            Self::Gguf(gguf) => gguf.tensors().map(|t| t.name().to_owned()).collect(),
            // Older files keep the frequencies, which follow from the configuration.
            Self::Safetensors(mapped) => {
                let tensors = mapped.tensors()?;
                let names = tensors.names();
                names.into_iter().filter(|n| !n.ends_with(".rotary_emb.inv_freq")).map(ToOwned::to_owned).collect()
            }
        };
        match names.into_iter().filter(|name| !known.contains(name)).min() {
            Some(extra) => Err(ImportError::Unsupported {
                file: self.file().to_owned(),
                why: format!("it has the tensor {}, for which there is no place in a plain llama model", quote(&extra)),
            }),
            None => Ok(()),
        }
    }

    pub(super) fn block(&self, i: usize, c: &Config) -> Result<Block, ImportError> {
        let (queries, keys) = (c.heads * c.head, c.kv_heads * c.head);
        let mut qkv = self.turned(Role::Query(i), queries, c)?;
        qkv.extend(self.turned(Role::Key(i), keys, c)?);
        qkv.extend(self.floats(Role::Value(i), &[keys, c.width])?);
        let mut gate_up = self.floats(Role::Gate(i), &[c.inner, c.width])?;
        gate_up.extend(self.floats(Role::Up(i), &[c.inner, c.width])?);
        Ok(Block {
            attention_norm: self.floats(Role::AttentionNorm(i), &[c.width])?,
            qkv: Matrix { rows: c.columns(), columns: c.width, data: qkv },
            output: self.matrix(Role::Output(i), c.width, queries)?,
            norm: self.floats(Role::InnerNorm(i), &[c.width])?,
            gate_up: Matrix { rows: 2 * c.inner, columns: c.width, data: gate_up },
            down: self.matrix(Role::Down(i), c.width, c.inner)?,
        })
    }

    pub(super) fn words(&self, c: &Config) -> Result<Matrix<f32>, ImportError> {
        self.matrix(Role::Words, c.vocabulary, c.width)
    }

    /// The last norm.
    pub(super) fn norm(&self, c: &Config) -> Result<Vec<f32>, ImportError> {
        self.floats(Role::Norm, &[c.width])
    }

    /// What makes scores of all tokens: a table of its own, or the embedding table again.
    pub(super) fn head(&self, c: &Config) -> Result<Matrix<f32>, ImportError> {
        if self.shape(Role::Head)?.is_none() && c.tied {
            return self.words(c);
        }
        self.matrix(Role::Head, c.vocabulary, c.width)
    }

    fn matrix(&self, role: Role, rows: usize, columns: usize) -> Result<Matrix<f32>, ImportError> {
        Ok(Matrix { rows, columns, data: self.floats(role, &[rows, columns])? })
    }

    /// Rows of queries or keys, in pairs of neighbours.
    fn turned(&self, role: Role, rows: usize, c: &Config) -> Result<Vec<f32>, ImportError> {
        let data = self.floats(role, &[rows, c.width])?;
        Ok(match self {
            Self::Gguf(_) => data,
            Self::Safetensors(_) => interleave(&data, c.head, c.width),
        })
    }

    fn fault(&self, role: Role, why: String) -> ImportError {
        ImportError::Tensor { file: self.file().to_owned(), tensor: self.name(role), why }
    }

    fn shape(&self, role: Role) -> Result<Option<Vec<usize>>, ImportError> {
        let name = self.name(role);
        Ok(match self {
            Self::Gguf(gguf) => gguf.tensor(&name).map(|t| t.shape()),
            Self::Safetensors(mapped) => mapped.tensors()?.tensor(&name).ok().map(|t| t.shape().to_vec()),
        })
    }

    fn floats(&self, role: Role, shape: &[usize]) -> Result<Vec<f32>, ImportError> {
        match self.shape(role)? {
            None => return Err(self.fault(role, "is missing".to_owned())),
            Some(got) if got != shape => {
                return Err(self.fault(role, format!("has shape {got:?}, the model's settings ask for {shape:?}")));
            }
            Some(_) => {}
        }
        let name = self.name(role);
        let missing = || self.fault(role, "is missing".to_owned());
        let values = match self {
            Self::Gguf(gguf) => gguf.tensor(&name).ok_or_else(missing)?.floats(),
            Self::Safetensors(mapped) => {
                let tensors = mapped.tensors()?;
                let view = tensors.tensor(&name).map_err(|_| missing())?;
                floats::decode(view.dtype(), view.data())
                    .ok_or_else(|| self.fault(role, format!("is {:?}: needs F32, F16 or BF16", view.dtype())))?
            }
        };
        floats::check(&values).map_err(|why| self.fault(role, why))?;
        Ok(values)
    }
}

/// Rows `0..d/2` of each head become its even rows, the others its odd ones.
fn interleave(data: &[f32], head: usize, columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(data.len());
    for rows in data.chunks_exact(head * columns) {
        let (first, second) = rows.split_at(rows.len() / 2);
        for (a, b) in first.chunks_exact(columns).zip(second.chunks_exact(columns)) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::interleave;

    #[test]
    fn partners_become_neighbours_head_by_head() {
        // Two heads of four rows of two columns; row r holds r.
        let data: Vec<f32> = (0..8).flat_map(|r| [r as f32; 2]).collect();
        let rows: Vec<f32> = interleave(&data, 4, 2).into_iter().step_by(2).collect();
        assert_eq!(rows, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    }
}
