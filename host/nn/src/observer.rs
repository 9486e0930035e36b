//! Observers: told of every operation that a block asks of its host.
//!
//! # Why
//!
//! Two nodes that disagree about a block are led to the first operation on which they do, and a referee runs
//! that operation alone. So a node must be able to say which operations a block was made of, and a referee to
//! run one from its description.
//!
//! # How
//!
//! 1. A host may be given an [`Observer`] ([`Host::observed_by`]). After an operation has succeeded it is told
//!    what it was ([`OperationKind`]), its inputs by name and its output. A second handle (`alias`) is no
//!    operation. Without an observer nothing is done.
//! 2. Every kind has one text (`layer blocks.0.attention.qkv`, `attention 12`, `gelu`) and is read back from
//!    exactly that text.
//! 3. [`Host::perform`] runs one operation by its kind, with the checks that a block's own call would meet.

use crate::layers::check_name;
use crate::{Host, Meter, NnError, Tensor};
use std::fmt;
use std::str::FromStr;

/// Is told of operations, on the thread that ran them, in the order in which they were run.
pub trait Observer: Send + Sync {
    /// An operation succeeded.
    fn operation(&self, kind: &OperationKind, inputs: &[(&str, &Tensor)], output: &Tensor);
}

/// What an operation was, apart from its inputs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// The `compute` of wasi-nn with the layer of this name.
    Layer(String),
    /// Attention with this many heads: `qkv`, `lengths`.
    Attention(u32),
    /// Causal attention with this many heads: `qkv`, `lengths`. Run again it has nothing before the rows of `qkv`.
    CausalAttention {
        /// Heads of queries.
        heads: u32,
        /// Heads of keys and of values.
        kv_heads: u32,
    },
    /// `a`, `b`.
    Add,
    /// `x`.
    Gelu,
    /// `x`.
    Swiglu,
    /// `x`, `lengths`.
    MeanPool,
    /// `x`, `lengths`.
    FirstPool,
    /// `x`, `lengths`.
    LastRows,
    /// `x`.
    L2Normalise,
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(name) => write!(f, "layer {name}"),
            Self::Attention(heads) => write!(f, "attention {heads}"),
            Self::CausalAttention { heads, kv_heads } => write!(f, "causal-attention {heads} {kv_heads}"),
            Self::Add => f.write_str("add"),
            Self::Gelu => f.write_str("gelu"),
            Self::Swiglu => f.write_str("swiglu"),
            Self::MeanPool => f.write_str("mean-pool"),
            Self::FirstPool => f.write_str("first-pool"),
            Self::LastRows => f.write_str("last-rows"),
            Self::L2Normalise => f.write_str("l2-normalise"),
        }
    }
}

impl FromStr for OperationKind {
    type Err = NnError;

    fn from_str(text: &str) -> Result<Self, NnError> {
        let kind = match text.split_once(' ') {
            None => [
                Self::Add,
                Self::Gelu,
                Self::Swiglu,
                Self::MeanPool,
                Self::FirstPool,
                Self::LastRows,
                Self::L2Normalise,
            ]
            .into_iter()
            .find(|kind| kind.to_string() == text),
            Some(("layer", name)) => {
                check_name(name)?;
                Some(Self::Layer(name.to_owned()))
            }
            // One text for one number: no sign, no leading zeros.
            Some(("attention", heads)) => {
                heads.parse().ok().map(Self::Attention).filter(|kind| kind.to_string() == text)
            }
            Some(("causal-attention", counts)) => {
                let kind = counts.split_once(' ').and_then(|(heads, kv_heads)| {
                    Some(Self::CausalAttention { heads: heads.parse().ok()?, kv_heads: kv_heads.parse().ok()? })
                });
                kind.filter(|kind| kind.to_string() == text)
            }
            Some(_) => None,
        };
        kind.ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            NnError::InvalidArgument(format!("{shown:?} is no operation that this program knows"))
        })
    }
}

impl Host {
    /// Run one operation by its description, and bring its output to the host.
    ///
    /// # Errors
    /// As the operation itself; inputs that are missing, unknown or given twice.
    pub fn perform(
        &self,
        meter: &Meter,
        kind: &OperationKind,
        inputs: Vec<(String, Tensor)>,
    ) -> Result<Tensor, NnError> {
        let output = self.call(meter, kind, inputs)?;
        output.bring()?;
        Ok(output)
    }

    fn call(&self, meter: &Meter, kind: &OperationKind, inputs: Vec<(String, Tensor)>) -> Result<Tensor, NnError> {
        match kind {
            OperationKind::Layer(name) => {
                let mut outputs = self.compute(meter, &self.graph(name)?, inputs)?;
                let output = outputs.pop().map(|(_, tensor)| tensor);
                output.ok_or_else(|| NnError::Runtime(format!("layer `{name}` gave no output")))
            }
            OperationKind::Attention(heads) => {
                let [qkv, lengths] = exactly(kind, inputs, ["qkv", "lengths"])?;
                self.attention(meter, &qkv, &lengths, *heads)
            }
            OperationKind::CausalAttention { heads, kv_heads } => {
                let [qkv, lengths] = exactly(kind, inputs, ["qkv", "lengths"])?;
                self.causal_attention(meter, None, &qkv, &lengths, *heads, *kv_heads)
            }
            OperationKind::Add => {
                let [a, b] = exactly(kind, inputs, ["a", "b"])?;
                self.add(meter, &a, &b)
            }
            OperationKind::Gelu => {
                let [x] = exactly(kind, inputs, ["x"])?;
                self.gelu(meter, &x)
            }
            OperationKind::Swiglu => {
                let [x] = exactly(kind, inputs, ["x"])?;
                self.swiglu(meter, &x)
            }
            OperationKind::MeanPool => {
                let [x, lengths] = exactly(kind, inputs, ["x", "lengths"])?;
                self.mean_pool(meter, &x, &lengths)
            }
            OperationKind::FirstPool => {
                let [x, lengths] = exactly(kind, inputs, ["x", "lengths"])?;
                self.first_pool(meter, &x, &lengths)
            }
            OperationKind::LastRows => {
                let [x, lengths] = exactly(kind, inputs, ["x", "lengths"])?;
                self.last_rows(meter, &x, &lengths)
            }
            OperationKind::L2Normalise => {
                let [x] = exactly(kind, inputs, ["x"])?;
                self.l2_normalise(meter, &x)
            }
        }
    }
}

/// These inputs and no others, each once, in this order.
fn exactly<const N: usize>(
    kind: &OperationKind,
    inputs: Vec<(String, Tensor)>,
    names: [&str; N],
) -> Result<[Tensor; N], NnError> {
    // In one order only, as in a trace: no two descriptions of the same call.
    let fits = inputs.iter().map(|(name, _)| name.as_str()).eq(names);
    let found: Vec<Tensor> = inputs.into_iter().filter(|_| fits).map(|(_, tensor)| tensor).collect();
    <[Tensor; N]>::try_from(found).map_err(|_| {
        let names = names.map(|name| format!("`{name}`")).join(" and ");
        NnError::InvalidArgument(format!("{kind} takes {names}, in this order and nothing else"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_for_one_operation() {
        for text in [
            "layer blocks.0.attention.qkv",
            "attention 12",
            "attention 0",
            "causal-attention 9 3",
            "swiglu",
            "add",
            "gelu",
            "mean-pool",
            "first-pool",
            "last-rows",
            "l2-normalise",
        ] {
            let kind: OperationKind = text.parse().unwrap();
            assert_eq!(kind.to_string(), text);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            " ",
            "Gelu",
            "gelu ",
            " gelu",
            "attention",
            "attention ",
            "attention 012",
            "attention +1",
            "attention -1",
            "attention 4294967296",
            "attention 12 ",
            "causal-attention 9",
            "causal-attention 9 3 1",
            "causal-attention 09 3",
            "causal-attention 9 +3",
            "layer",
            "layer ",
            "layer ../x",
            "layer a b",
            "layer A",
            "alias",
            "gelu 1",
            &"x".repeat(100_000),
        ] {
            let error = text.parse::<OperationKind>().unwrap_err();
            assert!(error.text().len() < 500, "{text:?}");
        }
        assert!(matches!("layer ../x".parse::<OperationKind>(), Err(NnError::Security(_))));
    }
}
