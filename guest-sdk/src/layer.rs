//! Layers: operations with weights.
//!
//! A layer is a graph of `wasi:nn` with a name in the package. It is looked up once, when the block is
//! opened; the weights stay with the host. Its inputs and outputs have names (`x`, `residual`, `ids`,
//! `positions`, `y`), which is all the plumbing there is, and it is done here.

use crate::bindings::wasi::nn::graph::load_by_name;
use crate::bindings::wasi::nn::inference::GraphExecutionContext;
use crate::{Failure, Operand, Tensor};

/// A graph that has been found, ready to compute.
struct Graph {
    name: String,
    context: GraphExecutionContext,
}

impl Graph {
    fn load(name: String) -> Result<Self, Failure> {
        let context = load_by_name(&name).and_then(|graph| graph.init_execution_context());
        match context {
            Ok(context) => Ok(Self { name, context }),
            Err(error) => Err(Failure::of_layer(&name, &error)),
        }
    }

    /// Compute the one output, `y`.
    fn compute<const N: usize>(&self, inputs: [(&str, Operand<'_>); N]) -> Result<Tensor, Failure> {
        let inputs = inputs.into_iter().map(|(name, x)| (String::from(name), x.into_handle())).collect();
        let outputs = self.context.compute(inputs).map_err(|error| Failure::of_layer(&self.name, &error))?;
        match outputs.into_iter().find(|(name, _)| name == "y") {
            Some((_, y)) => Ok(Tensor::from_handle(y)),
            None => Err(Failure::Operation([self.name.as_str(), ": gave no output `y`"].concat())),
        }
    }
}

/// `y = x W^T + b`.
pub struct Linear(Graph);

impl Linear {
    /// Find the layer with this full name.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn load(name: impl Into<String>) -> Result<Self, Failure> {
        Graph::load(name.into()).map(Self)
    }

    /// `x`: FP32 [rows, K]. Result: FP32 [rows, N].
    ///
    /// # Errors
    /// The host's refusal.
    pub fn forward<'a>(&self, x: impl Into<Operand<'a>>) -> Result<Tensor, Failure> {
        self.0.compute([("x", x.into())])
    }
}

/// Rows of a table, by id.
pub struct Embedding(Graph);

impl Embedding {
    /// Find the layer with this full name.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn load(name: impl Into<String>) -> Result<Self, Failure> {
        Graph::load(name.into()).map(Self)
    }

    /// `ids`: I32 [rows]. Result: FP32 [rows, width].
    ///
    /// # Errors
    /// The host's refusal.
    pub fn forward<'a>(&self, ids: impl Into<Operand<'a>>) -> Result<Tensor, Failure> {
        self.0.compute([("ids", ids.into())])
    }
}

/// Layer normalisation, alone or of a sum.
pub struct LayerNorm(Graph);

impl LayerNorm {
    /// Find the layer with this full name.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn load(name: impl Into<String>) -> Result<Self, Failure> {
        Graph::load(name.into()).map(Self)
    }

    /// `x`: FP32 [rows, width]. Result: the same shape.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn forward<'a>(&self, x: impl Into<Operand<'a>>) -> Result<Tensor, Failure> {
        self.0.compute([("x", x.into())])
    }

    /// The norm of `x + residual`, in one pass.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn forward_sum<'a, 'b>(
        &self,
        x: impl Into<Operand<'a>>,
        residual: impl Into<Operand<'b>>,
    ) -> Result<Tensor, Failure> {
        self.0.compute([("x", x.into()), ("residual", residual.into())])
    }
}

/// Division by the root of the mean square.
pub struct RmsNorm(Graph);

impl RmsNorm {
    /// Find the layer with this full name.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn load(name: impl Into<String>) -> Result<Self, Failure> {
        Graph::load(name.into()).map(Self)
    }

    /// `x`: FP32 [rows, width]. Result: the same shape.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn forward<'a>(&self, x: impl Into<Operand<'a>>) -> Result<Tensor, Failure> {
        self.0.compute([("x", x.into())])
    }
}

/// Heads turned by their rows' places in the sequence.
pub struct Rotary(Graph);

impl Rotary {
    /// Find the layer with this full name.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn load(name: impl Into<String>) -> Result<Self, Failure> {
        Graph::load(name.into()).map(Self)
    }

    /// `x`: FP32 [rows, columns], `positions`: I32 [rows], as of [`Lengths::positions`](crate::Lengths::positions).
    /// Result: the shape of `x`.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn forward<'a, 'b>(
        &self,
        x: impl Into<Operand<'a>>,
        positions: impl Into<Operand<'b>>,
    ) -> Result<Tensor, Failure> {
        self.0.compute([("x", x.into()), ("positions", positions.into())])
    }
}
