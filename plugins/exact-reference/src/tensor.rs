//! Tensors: validated once, immutable, shared between handles.
//!
//! Floats and 32-bit integers are stored as such; other types, which no operation takes, as bytes.

use crate::Component;
use crate::bindings::exports::wasi::nn::tensor::{self as nn, GuestTensor, TensorType};
use crate::refusal::Refusal;
use std::rc::Rc;

/// Most dimensions of a tensor.
const MAX_RANK: usize = 8;

/// A handle's tensor; a clone is a second handle to the same values.
#[derive(Clone)]
pub(crate) struct Tensor(Rc<Body>);

struct Body {
    dims: Vec<u32>,
    ty: TensorType,
    data: Data,
}

enum Data {
    F32(Vec<f32>),
    I32(Vec<i32>),
    Bytes(Vec<u8>),
}

impl Tensor {
    /// A tensor of these bytes, if they are as many as its shape and type need.
    fn new(dims: Vec<u32>, ty: TensorType, bytes: Vec<u8>) -> Option<Self> {
        if byte_size(&dims, ty)? != bytes.len() as u64 {
            return None;
        }
        let words = bytes.as_chunks::<4>().0.iter();
        let data = match ty {
            TensorType::Fp32 => Data::F32(words.map(|&word| f32::from_le_bytes(word)).collect()),
            TensorType::I32 => Data::I32(words.map(|&word| i32::from_le_bytes(word)).collect()),
            _ => Data::Bytes(bytes),
        };
        Some(Self(Rc::new(Body { dims, ty, data })))
    }

    /// A result. `values` are as many as `dims` say: [`zeros`] made them.
    pub(crate) fn of_floats(dims: Vec<u32>, values: Vec<f32>) -> Self {
        Self(Rc::new(Body { dims, ty: TensorType::Fp32, data: Data::F32(values) }))
    }

    pub(crate) fn dims(&self) -> &[u32] {
        &self.0.dims
    }

    /// The elements of an FP32 tensor; `what` is its name in the refusal of another.
    pub(crate) fn floats(&self, what: &str) -> Result<&[f32], Refusal> {
        match &self.0.data {
            Data::F32(values) => Ok(values),
            _ => Err(self.wrong_type(what, TensorType::Fp32)),
        }
    }

    /// The elements of an I32 tensor of one dimension.
    pub(crate) fn integers(&self, what: &str) -> Result<&[i32], Refusal> {
        match (&self.0.data, self.dims()) {
            (Data::I32(values), [_]) => Ok(values),
            (Data::I32(_), other) => {
                Err(Refusal::invalid(format!("`{what}` has the shape {other:?}: one dimension is needed")))
            }
            _ => Err(self.wrong_type(what, TensorType::I32)),
        }
    }

    /// The elements of an I32 tensor, and its shape.
    pub(crate) fn all_integers(&self, what: &str) -> Result<(&[i32], &[u32]), Refusal> {
        match &self.0.data {
            Data::I32(values) => Ok((values, self.dims())),
            _ => Err(self.wrong_type(what, TensorType::I32)),
        }
    }

    fn wrong_type(&self, what: &str, wanted: TensorType) -> Refusal {
        let (got, wanted) = (name(self.0.ty), name(wanted));
        Refusal::invalid(["`", what, "` is of ", got, ": ", wanted, " is needed"].concat())
    }
}

/// Room for a result of this shape, or the refusal of one that is larger than the memory left.
pub(crate) fn zeros(dims: &[u32]) -> Result<Vec<f32>, Refusal> {
    let too_large = || Refusal::too_large(format!("a result of shape {dims:?} does not fit in memory"));
    let bytes = byte_size(dims, TensorType::Fp32).ok_or_else(too_large)?;
    let elements = usize::try_from(bytes / 4).map_err(|_| too_large())?;
    let mut values = Vec::new();
    values.try_reserve_exact(elements).map_err(|_| too_large())?;
    values.resize(elements, 0.0);
    Ok(values)
}

/// How many bytes a tensor has; `None` for no dimensions or too many, and for a size that 63 bits do
/// not hold, dimensions of 0 counted as 1 so that their order does not matter.
fn byte_size(dims: &[u32], ty: TensorType) -> Option<u64> {
    if dims.is_empty() || dims.len() > MAX_RANK {
        return None;
    }
    let size = dims.iter().try_fold(element_size(ty), |size, &d| size.checked_mul(u64::from(d.max(1))))?;
    i64::try_from(size).ok()?;
    Some(if dims.contains(&0) { 0 } else { size })
}

const fn element_size(ty: TensorType) -> u64 {
    match ty {
        TensorType::U8 => 1,
        TensorType::Fp16 | TensorType::Bf16 => 2,
        TensorType::Fp32 | TensorType::I32 => 4,
        TensorType::Fp64 | TensorType::I64 => 8,
    }
}

const fn name(ty: TensorType) -> &'static str {
    match ty {
        TensorType::Fp16 => "FP16",
        TensorType::Fp32 => "FP32",
        TensorType::Fp64 => "FP64",
        TensorType::Bf16 => "BF16",
        TensorType::U8 => "U8",
        TensorType::I32 => "I32",
        TensorType::I64 => "I64",
    }
}

impl nn::Guest for Component {
    type Tensor = Tensor;
}

impl GuestTensor for Tensor {
    /// `wasi:nn` leaves a constructor no way to fail but to trap.
    fn new(dims: Vec<u32>, ty: TensorType, bytes: Vec<u8>) -> Self {
        match Self::new(dims, ty, bytes) {
            Some(tensor) => tensor,
            None => std::process::abort(),
        }
    }

    fn dimensions(&self) -> Vec<u32> {
        self.0.dims.clone()
    }

    fn ty(&self) -> TensorType {
        self.0.ty
    }

    fn data(&self) -> Vec<u8> {
        match &self.0.data {
            Data::F32(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Data::I32(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Data::Bytes(bytes) => bytes.clone(),
        }
    }
}
