//! Tensors: handles to immutable values that stay with the host.
//!
//! Only [`Tensor::to_f32`] and [`Tensor::to_i32`] bring elements into the component's own memory, and
//! only [`Tensor::from_f32`] and [`Tensor::from_i32`] send some back. Everything else passes handles.

use crate::Failure;
use crate::bindings::ostrakon::plugin::exact;
use crate::bindings::wasi::nn::tensor as nn;
use core::cell::OnceCell;

pub use nn::TensorType as Element;

/// An immutable tensor of the host's.
pub struct Tensor {
    handle: nn::Tensor,
    /// Asked for once: every question is a call of the host.
    dimensions: OnceCell<Vec<u32>>,
}

impl Tensor {
    /// A tensor of 32-bit floats. A shape that does not fit the values stops the component: it would
    /// be a mistake of the block's, not of its input.
    pub fn from_f32(dimensions: &[u32], values: &[f32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::from_handle(nn::Tensor::new(dimensions, Element::Fp32, &bytes))
    }

    /// A tensor of 32-bit integers; a shape that does not fit stops the component.
    pub fn from_i32(dimensions: &[u32], values: &[i32]) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::from_handle(nn::Tensor::new(dimensions, Element::I32, &bytes))
    }

    /// Its shape.
    pub fn dimensions(&self) -> &[u32] {
        self.dimensions.get_or_init(|| self.handle.dimensions())
    }

    /// The type of its elements.
    pub fn element(&self) -> Element {
        self.handle.ty()
    }

    /// A second handle to the same values.
    pub fn alias(&self) -> Self {
        Self::from_handle(exact::alias(&self.handle))
    }

    /// A copy of its 32-bit floats.
    ///
    /// # Errors
    /// Elements of another type.
    pub fn to_f32(&self) -> Result<Vec<f32>, Failure> {
        let data = read(&self.handle, Element::Fp32)?;
        Ok(data.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }

    /// A copy of its 32-bit integers.
    ///
    /// # Errors
    /// Elements of another type.
    pub fn to_i32(&self) -> Result<Vec<i32>, Failure> {
        read_i32(&self.handle)
    }

    /// Say what a block needs its input to be.
    ///
    /// # Errors
    /// [`Failure::BadInput`], naming `what` the input should have been.
    pub fn expect(&self, what: &str, element: Element, rank: usize) -> Result<(), Failure> {
        let (got, dimensions) = (self.element(), self.dimensions());
        if got == element && dimensions.len() == rank {
            return Ok(());
        }
        let (got, wanted) = (name(got), name(element));
        Err(Failure::BadInput(format!("the input is {got} {dimensions:?}: needs {what}, {wanted} of rank {rank}")))
    }

    pub(crate) fn from_handle(handle: nn::Tensor) -> Self {
        Self { handle, dimensions: OnceCell::new() }
    }

    pub(crate) fn into_handle(self) -> nn::Tensor {
        self.handle
    }
}

/// The elements of an I32 tensor that is lent to the component.
pub(crate) fn read_i32(tensor: &nn::Tensor) -> Result<Vec<i32>, Failure> {
    Ok(read(tensor, Element::I32)?.as_chunks::<4>().0.iter().map(|&b| i32::from_le_bytes(b)).collect())
}

fn read(tensor: &nn::Tensor, wanted: Element) -> Result<Vec<u8>, Failure> {
    let got = tensor.ty();
    if got == wanted {
        Ok(tensor.data())
    } else {
        Err(Failure::BadInput(["the elements are ", name(got), ", not ", name(wanted)].concat()))
    }
}

/// The name of an element type in a message.
pub(crate) fn name(element: Element) -> &'static str {
    match element {
        Element::Fp16 => "FP16",
        Element::Fp32 => "FP32",
        Element::Fp64 => "FP64",
        Element::Bf16 => "BF16",
        Element::U8 => "U8",
        Element::I32 => "I32",
        Element::I64 => "I64",
    }
}

/// What an operation is given: `&tensor` where the block still needs it, `tensor` where it is done with
/// it and the host may let go of the values as soon as the operation has run.
pub enum Operand<'a> {
    /// Given up.
    Moved(Tensor),
    /// Kept by the block.
    Kept(&'a Tensor),
}

impl Operand<'_> {
    /// For an operation that takes its tensors: what is kept gets a second handle.
    pub(crate) fn into_handle(self) -> nn::Tensor {
        match self {
            Self::Moved(tensor) => tensor.handle,
            Self::Kept(tensor) => tensor.alias().handle,
        }
    }

    /// For an operation that borrows its tensors.
    pub(crate) fn handle(&self) -> &nn::Tensor {
        match self {
            Self::Moved(tensor) => &tensor.handle,
            Self::Kept(tensor) => &tensor.handle,
        }
    }
}

impl From<Tensor> for Operand<'_> {
    fn from(tensor: Tensor) -> Self {
        Self::Moved(tensor)
    }
}

impl<'a> From<&'a Tensor> for Operand<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self::Kept(tensor)
    }
}
