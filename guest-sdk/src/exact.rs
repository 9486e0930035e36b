//! Operations without weights. Each is defined to the bit in `wit/plugin.wit`; each fails only where
//! the host refuses it, for shapes that do not fit or for want of room.

use crate::bindings::ostrakon::plugin::exact as host;
use crate::bindings::wasi::nn::tensor;
use crate::{Failure, Lengths, Operand, Tensor};

/// `a + b`, element by element.
///
/// # Errors
/// The host's refusal.
pub fn add<'a, 'b>(a: impl Into<Operand<'a>>, b: impl Into<Operand<'b>>) -> Result<Tensor, Failure> {
    outcome("add", host::add(a.into().handle(), b.into().handle()))
}

/// `x * Phi(x)`, element by element.
///
/// # Errors
/// The host's refusal.
pub fn gelu<'a>(x: impl Into<Operand<'a>>) -> Result<Tensor, Failure> {
    outcome("gelu", host::gelu(x.into().handle()))
}

/// Multi-head attention inside each sequence, every row seeing every row. `qkv`: queries, keys and
/// values side by side.
///
/// # Errors
/// The host's refusal.
pub fn attention<'a>(qkv: impl Into<Operand<'a>>, lengths: &Lengths<'_>, heads: u32) -> Result<Tensor, Failure> {
    outcome("attention", host::attention(qkv.into().handle(), lengths.handle(), heads))
}

/// `silu(gate) * up`, element by element. `x`: the columns of `gate`, then those of `up`.
///
/// # Errors
/// The host's refusal.
pub fn swiglu<'a>(x: impl Into<Operand<'a>>) -> Result<Tensor, Failure> {
    outcome("swiglu", host::swiglu(x.into().handle()))
}

/// Multi-head attention inside each sequence, every row seeing itself and the rows before it, those of earlier calls
/// too. `qkv`: `heads` heads of queries, `kv_heads` of keys and `kv_heads` of values side by side.
///
/// # Errors
/// The host's refusal.
pub fn causal_attention<'a>(
    qkv: impl Into<Operand<'a>>,
    lengths: &Lengths<'_>,
    heads: u32,
    kv_heads: u32,
) -> Result<Tensor, Failure> {
    outcome("causal-attention", host::causal_attention(qkv.into().handle(), lengths.handle(), heads, kv_heads))
}

/// The mean of each sequence's rows.
///
/// # Errors
/// The host's refusal.
pub fn mean_pool<'a>(x: impl Into<Operand<'a>>, lengths: &Lengths<'_>) -> Result<Tensor, Failure> {
    outcome("mean-pool", host::mean_pool(x.into().handle(), lengths.handle()))
}

/// The first row of each sequence.
///
/// # Errors
/// The host's refusal.
pub fn first_pool<'a>(x: impl Into<Operand<'a>>, lengths: &Lengths<'_>) -> Result<Tensor, Failure> {
    outcome("first-pool", host::first_pool(x.into().handle(), lengths.handle()))
}

/// The last rows of each sequence: those whose output is wanted.
///
/// # Errors
/// The host's refusal.
pub fn last_rows<'a>(x: impl Into<Operand<'a>>, lengths: &Lengths<'_>) -> Result<Tensor, Failure> {
    outcome("last-rows", host::last_rows(x.into().handle(), lengths.handle()))
}

/// Each row divided by its Euclidean length.
///
/// # Errors
/// The host's refusal.
pub fn l2_normalise<'a>(x: impl Into<Operand<'a>>) -> Result<Tensor, Failure> {
    outcome("l2-normalise", host::l2_normalise(x.into().handle()))
}

fn outcome(operation: &str, outcome: Result<tensor::Tensor, host::Refusal>) -> Result<Tensor, Failure> {
    match outcome {
        Ok(tensor) => Ok(Tensor::from_handle(tensor)),
        Err(refusal) => Err(Failure::of_operation(operation, refusal)),
    }
}
