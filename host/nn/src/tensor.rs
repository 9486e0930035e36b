//! Tensors: validated once, immutable, kept in host memory or on the device that computed them.
//!
//! Elements of FP32 and I32 are stored as such, so that operations get aligned slices without a copy;
//! every other type is stored as bytes. Seen from outside a tensor is always little-endian, row-major
//! bytes. A clone is a second handle to the same storage.
//!
//! A tensor may carry the [`Charge`] of its bytes: it is given back when the last handle that carries
//! it is dropped. A host that keeps a caller's tensor takes it over with [`Tensor::uncharged`].

use crate::device::{Made, Resident};
use crate::spares::Spares;
use crate::{Charge, Meter, NnError, Resource};
use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// Most dimensions of a tensor.
pub const MAX_RANK: usize = 8;

/// The type of a tensor's elements, as wasi-nn lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorType {
    /// IEEE 754 binary16.
    Fp16,
    /// IEEE 754 binary32.
    Fp32,
    /// IEEE 754 binary64.
    Fp64,
    /// The upper half of a binary32.
    Bf16,
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 32 bits.
    I32,
    /// Signed, 64 bits.
    I64,
}

impl TensorType {
    /// Every type, in wasi-nn's order.
    pub const ALL: [Self; 7] = [Self::Fp16, Self::Fp32, Self::Fp64, Self::Bf16, Self::U8, Self::I32, Self::I64];

    /// The type of this name in wasi-nn.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.name() == name)
    }

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Fp16 | Self::Bf16 => 2,
            Self::Fp32 | Self::I32 => 4,
            Self::Fp64 | Self::I64 => 8,
        }
    }

    /// Its name in wasi-nn.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bf16 => "BF16",
            Self::U8 => "U8",
            Self::I32 => "I32",
            Self::I64 => "I64",
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An immutable tensor. Cloning copies nothing.
#[derive(Clone)]
pub struct Tensor {
    body: Arc<Body>,
    charge: Option<Arc<Charge>>,
}

struct Body {
    dims: Vec<u32>,
    ty: TensorType,
    data: Data,
    /// Where the memory of a result goes when its last handle is dropped.
    spares: Option<Arc<Spares>>,
}

impl Drop for Body {
    fn drop(&mut self) {
        let Some(spares) = &self.spares else { return };
        match &mut self.data {
            Data::F32(values) => spares.floats.put(std::mem::take(values)),
            Data::I32(values) => spares.integers.put(std::mem::take(values)),
            _ => {}
        }
    }
}

enum Data {
    F32(Vec<f32>),
    I32(Vec<i32>),
    Bytes(Vec<u8>),
    /// FP32 on a device; and on the host too once somebody has read it there.
    Resident {
        values: Box<dyn Resident>,
        read: OnceLock<Result<Vec<f32>, NnError>>,
    },
}

impl Tensor {
    /// A tensor of the host's own, uncharged, from little-endian bytes.
    ///
    /// # Errors
    /// As [`byte_size`]; or a number of bytes other than that.
    pub fn new(dims: Vec<u32>, ty: TensorType, bytes: Vec<u8>) -> Result<Self, NnError> {
        expect_bytes(&dims, ty, bytes.len())?;
        let data = match ty {
            TensorType::Fp32 | TensorType::I32 => Data::copied(ty, &bytes)?,
            _ => Data::Bytes(bytes),
        };
        Ok(Self::made(dims, ty, data, None))
    }

    /// A tensor that a caller makes from little-endian bytes: charged, then copied.
    ///
    /// # Errors
    /// As [`Tensor::new`]; or [`NnError::TooLarge`] when the caller's quota does not leave the bytes.
    pub fn charged_copy(meter: &Meter, dims: Vec<u32>, ty: TensorType, bytes: &[u8]) -> Result<Self, NnError> {
        let size = expect_bytes(&dims, ty, bytes.len())?;
        let charge = meter.charge(Resource::Bytes, size)?;
        let data = Data::copied(ty, bytes)?;
        Ok(Self::made(dims, ty, data, Some(charge)))
    }

    /// An FP32 tensor of the host's own, uncharged.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_f32(dims: Vec<u32>, values: Vec<f32>) -> Result<Self, NnError> {
        expect_bytes(&dims, TensorType::Fp32, size_of_val(values.as_slice()))?;
        Ok(Self::made(dims, TensorType::Fp32, Data::F32(values), None))
    }

    /// An I32 tensor of the host's own, uncharged.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_i32(dims: Vec<u32>, values: Vec<i32>) -> Result<Self, NnError> {
        expect_bytes(&dims, TensorType::I32, size_of_val(values.as_slice()))?;
        Ok(Self::made(dims, TensorType::I32, Data::I32(values), None))
    }

    /// An I32 result of which `compute` writes every element: charged first, then allocated.
    ///
    /// # Errors
    /// As [`byte_size`], [`NnError::TooLarge`] when the caller's quota does not leave the bytes, and those of `compute`.
    pub(crate) fn computed_i32(
        meter: &Meter,
        dims: Vec<u32>,
        compute: impl FnOnce(&mut [i32]) -> Result<(), NnError>,
    ) -> Result<Self, NnError> {
        let size = byte_size(&dims, TensorType::I32)?;
        let charge = meter.charge(Resource::Bytes, size)?;
        let elements = usize::try_from(size / 4).map_err(|_| out_of_memory(size))?;
        let (spares, charge) = (meter.spares(), Some(Arc::new(charge)));
        let mut values = spares.integers.take(elements)?;
        compute(&mut values)?;
        let body = Body { dims, ty: TensorType::I32, data: Data::I32(values), spares: Some(spares) };
        Ok(Self { body: Arc::new(body), charge })
    }

    /// An I32 tensor of the host's own, uncharged, of which `write` writes every element, in memory that others have left.
    ///
    /// # Errors
    /// As [`byte_size`], and those of `write`.
    pub(crate) fn written_i32(
        spares: &Arc<Spares>,
        dims: Vec<u32>,
        write: impl FnOnce(&mut [i32]) -> Result<(), NnError>,
    ) -> Result<Self, NnError> {
        let size = byte_size(&dims, TensorType::I32)?;
        let elements = usize::try_from(size / 4).map_err(|_| out_of_memory(size))?;
        let mut values = spares.integers.take(elements)?;
        write(&mut values)?;
        let body = Body { dims, ty: TensorType::I32, data: Data::I32(values), spares: Some(Arc::clone(spares)) };
        Ok(Self { body: Arc::new(body), charge: None })
    }

    /// An FP32 result that a device computes and keeps: charged first, then computed.
    ///
    /// # Errors
    /// As [`byte_size`], [`NnError::TooLarge`] when the caller's quota does not leave the bytes, and those of `compute`.
    pub(crate) fn computed_on_device(
        meter: &Meter,
        dims: Vec<u32>,
        compute: impl FnOnce() -> Made,
    ) -> Result<Self, NnError> {
        let size = byte_size(&dims, TensorType::Fp32)?;
        let charge = meter.charge(Resource::Bytes, size)?;
        let values = compute()?;
        if values.elements() as u64 * 4 != size {
            return Err(NnError::Runtime(format!(
                "the device made {} elements of a tensor of the shape {dims:?}",
                values.elements()
            )));
        }
        Ok(Self::made(dims, TensorType::Fp32, Data::Resident { values, read: OnceLock::new() }, Some(charge)))
    }

    fn made(dims: Vec<u32>, ty: TensorType, data: Data, charge: Option<Charge>) -> Self {
        Self { body: Arc::new(Body { dims, ty, data, spares: None }), charge: charge.map(Arc::new) }
    }

    /// The same tensor, its bytes charged to `meter`, whoever they were charged to before.
    ///
    /// # Errors
    /// [`NnError::TooLarge`] when the quota does not leave the bytes.
    pub fn charged_to(self, meter: &Meter) -> Result<Self, NnError> {
        let charge = meter.charge(Resource::Bytes, self.byte_len() as u64)?;
        Ok(Self { body: self.body, charge: Some(Arc::new(charge)) })
    }

    /// The same tensor, charged to nobody: for a host that takes a result over. Handles that the
    /// caller still holds keep their charge.
    #[must_use]
    pub fn uncharged(self) -> Self {
        Self { body: self.body, charge: None }
    }

    /// Whether its bytes are charged to a caller through this handle.
    pub const fn is_charged(&self) -> bool {
        self.charge.is_some()
    }

    /// The size of each dimension.
    pub fn dims(&self) -> &[u32] {
        &self.body.dims
    }

    /// The type of the elements.
    pub fn ty(&self) -> TensorType {
        self.body.ty
    }

    /// How many bytes [`Tensor::to_bytes`] gives.
    pub fn byte_len(&self) -> usize {
        match &self.body.data {
            Data::F32(values) => size_of_val(values.as_slice()),
            Data::I32(values) => size_of_val(values.as_slice()),
            Data::Bytes(bytes) => bytes.len(),
            Data::Resident { values, .. } => values.elements().saturating_mul(size_of::<f32>()),
        }
    }

    /// Bring the elements to the host if they are on a device alone. Done once; the device keeps its copy.
    ///
    /// # Errors
    /// As [`Resident::read`].
    pub fn bring(&self) -> Result<(), NnError> {
        match &self.body.data {
            Data::Resident { values, read } => {
                read.get_or_init(|| values.read()).as_ref().map(|_| ()).map_err(Clone::clone)
            }
            _ => Ok(()),
        }
    }

    /// The elements, little-endian and row-major; borrowed where the machine is little-endian.
    ///
    /// They are brought from the device that has them. If that fails there are none: [`Tensor::bring`] first tells why.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        let floats: &[f32] = match &self.body.data {
            Data::Bytes(bytes) => return Cow::Borrowed(bytes),
            Data::I32(values) if cfg!(target_endian = "little") => return Cow::Borrowed(bytemuck::cast_slice(values)),
            Data::I32(values) => return Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Data::F32(values) => values,
            Data::Resident { .. } => self.as_f32().unwrap_or_default(),
        };
        if cfg!(target_endian = "little") {
            Cow::Borrowed(bytemuck::cast_slice(floats))
        } else {
            Cow::Owned(floats.iter().flat_map(|v| v.to_le_bytes()).collect())
        }
    }

    /// A copy of the elements, little-endian and row-major, as [`Tensor::bytes`].
    pub fn to_bytes(&self) -> Vec<u8> {
        self.bytes().into_owned()
    }

    /// The elements where a device keeps them.
    pub fn resident(&self) -> Option<&dyn Resident> {
        match &self.body.data {
            Data::Resident { values, .. } => Some(values.as_ref()),
            _ => None,
        }
    }

    /// The elements of an FP32 tensor, brought to the host if they are on a device.
    ///
    /// # Errors
    /// Another type; as [`Resident::read`].
    pub fn as_f32(&self) -> Result<&[f32], NnError> {
        match &self.body.data {
            Data::F32(values) => Ok(values),
            Data::Resident { values, read } => match read.get_or_init(|| values.read()) {
                Ok(values) => Ok(values),
                Err(error) => Err(error.clone()),
            },
            _ => Err(wrong_type(self.ty(), TensorType::Fp32)),
        }
    }

    /// The elements of an I32 tensor.
    ///
    /// # Errors
    /// Another type.
    pub fn as_i32(&self) -> Result<&[i32], NnError> {
        match &self.body.data {
            Data::I32(values) => Ok(values),
            _ => Err(wrong_type(self.ty(), TensorType::I32)),
        }
    }
}

impl fmt::Debug for Tensor {
    /// Shape and type only: the elements may be many, and may be someone's secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?})", self.ty(), self.dims())
    }
}

impl Data {
    /// `bytes` has been checked to be whole elements of `ty`.
    fn copied(ty: TensorType, bytes: &[u8]) -> Result<Self, NnError> {
        let words = bytes.as_chunks::<4>().0.iter();
        Ok(match ty {
            TensorType::Fp32 => {
                let mut values = reserve(words.len())?;
                values.extend(words.map(|&word| f32::from_le_bytes(word)));
                Self::F32(values)
            }
            TensorType::I32 => {
                let mut values = reserve(words.len())?;
                values.extend(words.map(|&word| i32::from_le_bytes(word)));
                Self::I32(values)
            }
            _ => {
                let mut copy = reserve(bytes.len())?;
                copy.extend_from_slice(bytes);
                Self::Bytes(copy)
            }
        })
    }
}

/// An FP32 result that is being computed: charged first, then allocated.
pub(crate) struct Output {
    dims: Vec<u32>,
    values: Vec<f32>,
    charge: Charge,
    spares: Arc<Spares>,
}

impl Output {
    /// Room for a result of this shape. It may hold values of an earlier result of the same host:
    /// the operation writes every element.
    ///
    /// # Errors
    /// As [`byte_size`], or [`NnError::TooLarge`] when the caller's quota does not leave the bytes.
    pub(crate) fn new(meter: &Meter, dims: Vec<u32>) -> Result<Self, NnError> {
        let size = byte_size(&dims, TensorType::Fp32)?;
        let charge = meter.charge(Resource::Bytes, size)?;
        let elements = usize::try_from(size / 4).map_err(|_| out_of_memory(size))?;
        let spares = meter.spares();
        let values = spares.floats.take(elements)?;
        Ok(Self { dims, values, charge, spares })
    }

    /// Where to write the result.
    pub(crate) fn values(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// The result.
    pub(crate) fn finish(self) -> Tensor {
        let body =
            Body { dims: self.dims, ty: TensorType::Fp32, data: Data::F32(self.values), spares: Some(self.spares) };
        Tensor { body: Arc::new(body), charge: Some(Arc::new(self.charge)) }
    }
}

/// How many bytes a tensor of this shape and type has.
///
/// # Errors
/// No dimensions or more than [`MAX_RANK`]; a size that 63 bits do not hold, dimensions of 0 counted as
/// 1 so that the order of the dimensions does not matter.
pub fn byte_size(dims: &[u32], ty: TensorType) -> Result<u64, NnError> {
    if dims.is_empty() || dims.len() > MAX_RANK {
        return Err(NnError::InvalidArgument(format!(
            "a tensor has 1 to {MAX_RANK} dimensions, not {}: a single value has the shape [1]",
            dims.len()
        )));
    }
    let largest = dims.iter().try_fold(ty.size() as u64, |size, &d| size.checked_mul(u64::from(d.max(1))));
    match largest.filter(|&size| i64::try_from(size).is_ok()) {
        Some(_) if dims.contains(&0) => Ok(0),
        Some(size) => Ok(size),
        None => Err(NnError::InvalidArgument(format!("the shape {dims:?} of {ty} is larger than any memory"))),
    }
}

fn expect_bytes(dims: &[u32], ty: TensorType, bytes: usize) -> Result<u64, NnError> {
    let size = byte_size(dims, ty)?;
    if size == bytes as u64 {
        Ok(size)
    } else {
        Err(NnError::InvalidArgument(format!(
            "a tensor of {ty} with the shape {dims:?} has {size} bytes, but {bytes} were given"
        )))
    }
}

fn wrong_type(got: TensorType, wanted: TensorType) -> NnError {
    NnError::InvalidArgument(format!("the tensor is of {got}: {wanted} is needed"))
}

/// An empty vector with room for `elements`.
pub(crate) fn reserve<T>(elements: usize) -> Result<Vec<T>, NnError> {
    let mut values = Vec::new();
    values
        .try_reserve_exact(elements)
        .map_err(|_| out_of_memory((elements as u64).saturating_mul(size_of::<T>() as u64)))?;
    Ok(values)
}

/// The caller's quota allowed it, so this is the host's fault.
fn out_of_memory(bytes: u64) -> NnError {
    NnError::Runtime(format!("the host has no memory for a tensor of {bytes} bytes"))
}
