//! Devices: backends that keep tensors in memory of their own.
//!
//! # Why
//!
//! A GPU multiplies faster than its bus carries what it multiplies. So results stay where they were computed: a tensor
//! is a handle here as for the guest, and its elements come to the host only when somebody there reads them.
//!
//! # How
//!
//! 1. A [`Backend`](crate::Backend) may offer a [`Device`]. A [`Host`](crate::Host) with such a backend checks and charges every
//!    operation as ever and then has the device compute it, on whatever tensors it is given: those of the host are
//!    brought over first.
//! 2. What an operation makes is a [`Resident`]. Tensors own it and read it at most once ([`Tensor::bring`]): when a block
//!    asks for the bytes, when an observer is told, and when a block hands its output over, because receipts name the
//!    digest of every block's output. The next block starts from the device's copy.
//! 3. Layers with weights are placed once ([`Device::place`]); linear ones are the backend's
//!    [`Product`](ostrakon_exact::simd::Product), which the device knows as its own.
//! 4. Keys and values of earlier rows stay on the device too ([`DevicePast`]).
//!
//! A device gives the bytes of `ostrakon_exact::reference` or an error, as a backend does.

use crate::{NnError, Tensor};
use ostrakon_exact::simd::Product;
use ostrakon_exact::{Layer, Lengths};
use std::any::Any;
use std::fmt::Debug;

/// FP32 elements in a device's memory.
pub trait Resident: Send + Sync {
    /// How many.
    fn elements(&self) -> usize;

    /// A copy of them. Waits until they have been computed.
    ///
    /// # Errors
    /// The device failed, now or in a computation before.
    fn read(&self) -> Result<Vec<f32>, NnError>;

    /// For the device to find its own.
    fn as_any(&self) -> &dyn Any;
}

/// What an operation made.
pub type Made = Result<Box<dyn Resident>, NnError>;

/// A layer with weights that a device holds.
pub trait DeviceLayer: Send + Sync {
    /// Its output for `x` and, where the layer takes one, the second input: residual or positions. Shapes, ids and
    /// positions have been checked against the layer; there is at least one element.
    ///
    /// # Errors
    /// The device fails or has no memory.
    fn run(&self, x: &Tensor, second: Option<&Tensor>) -> Made;
}

/// Keys and values of one sequence's earlier rows. A clone shares memory until one of both grows.
pub trait DevicePast: Send + Sync + Debug {
    /// How many rows it holds.
    fn rows(&self) -> usize;

    /// Bytes that it would take with that many rows.
    fn bytes_of(&self, rows: usize) -> usize;

    /// Forget all rows from this one on.
    fn truncate(&mut self, rows: usize);

    /// Heads of keys and values, and columns of a head.
    fn heads(&self) -> (usize, usize);

    /// A clone.
    fn boxed(&self) -> Box<dyn DevicePast>;

    /// For the device to find its own.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// How rows attend to each other.
#[derive(Debug, Clone, Copy)]
pub struct Attending<'a> {
    /// The rows of each sequence.
    pub lengths: &'a Lengths,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and of values.
    pub kv_heads: usize,
    /// Columns of a head.
    pub width: usize,
    /// Whether a row sees only itself and the rows before it.
    pub causal: bool,
}

/// Computes operations on tensors that it keeps. Everything it is given has been checked, and has at least one element; results
/// have the bytes of the operation of the same name in `ostrakon_exact::reference`.
///
/// # Errors
/// All methods: the device fails or has no memory. That is [`NnError::Runtime`], a fault of the host.
#[allow(clippy::missing_errors_doc, reason = "said once, above")]
pub trait Device: Send + Sync {
    /// Take in a layer that is not linear.
    fn place(&self, layer: &Layer) -> Result<Box<dyn DeviceLayer>, NnError>;

    /// A linear layer by the product that this backend prepared for it.
    fn linear(&self, product: &dyn Product, x: &Tensor) -> Made;

    /// `a + b`.
    fn add(&self, a: &Tensor, b: &Tensor) -> Made;

    /// GELU of each element.
    fn gelu(&self, x: &Tensor) -> Made;

    /// The gated unit of rows of `2 * width` columns.
    fn swiglu(&self, x: &Tensor, width: usize) -> Made;

    /// Rows of `width` columns divided by their lengths.
    fn l2_normalise(&self, x: &Tensor, width: usize) -> Made;

    /// The mean of each sequence's rows.
    fn mean_pool(&self, x: &Tensor, lengths: &Lengths, width: usize) -> Made;

    /// These rows of `x`, cleaned.
    fn gather(&self, x: &Tensor, rows: &[usize], width: usize) -> Made;

    /// Attention inside each sequence, after the rows of `pasts`, to which those of the call are appended: one for each
    /// sequence, or none. After an error they may have grown.
    fn attention(&self, qkv: &Tensor, how: Attending<'_>, pasts: &mut [&mut dyn DevicePast]) -> Made;

    /// A past of no rows.
    fn past(&self, kv_heads: usize, width: usize) -> Box<dyn DevicePast>;
}
